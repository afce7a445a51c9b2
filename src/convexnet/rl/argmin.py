"""The best action of many states at once, by a few tangents of the negated Q: what learning needs thousands of times.

`Minimiser` proves a gap in float64 for every state, and takes some hundred times as long as the network itself. The
targets of learning need no proof: five tangents are enough (Amos, Xu & Kolter 2017, section 6). Two models of tangents
are minimised here, with the interior-point methods of the solvers of the same names:

- over the cube [-1, 1]^m, the tangents plus a weight times the entropy of y = (a + 1) / 2 ("bundle-entropy");
- over a polyhedron, the tangents alone, up to where the method is still inside of it ("cutting-planes").

Both return the best of the points that they looked at, with its value, and a lower bound of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from convexnet.solve.functions.with_entropy import entropy, lowest_point
from convexnet.solve.solvers.bundle import Path, advance
from convexnet.solve.solvers.bundle_entropy import maximise_dual

Function = Callable[[Tensor], Tensor]
"""f of actions (B, m) -> (B,), for B states that do not change."""

SHARP = 0.3
"""How exactly a model is minimised, as a share of the gap between the best value and the model's bound."""

INSIDE = 12
"""Iterations of the interior-point method for one model over a polyhedron, at most."""


@dataclass(frozen=True)
class Best:
    """Actions (B, m), the values of f there (B,), and numbers that f does not fall below, up to rounding (B,).

    The bounds of the bundle entropy method are those of f plus its entropy.
    """

    actions: Tensor
    values: Tensor
    bounds: Tensor


def tangent(f: Function, actions: Tensor, like: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return f and a subgradient, in float64, evaluated in the type of the network."""
    at = actions.detach().to(like).requires_grad_()  # detached: in float64 `to` is the same tensor
    with torch.enable_grad():
        value = f(at)
        (slope,) = torch.autograd.grad(value.sum(), at)
    return value.detach().double(), slope.double()


def bundle_entropy(
    f: Function, start: Tensor, cuts: int = 5, weight: float = 1.0, like: torch.dtype = torch.float32
) -> Best:
    """Minimise f(a) + weight · Σ H(y), y = (a + 1) / 2, over the cube [-1, 1]^m by a few tangents of f.

    H(y) = y log y + (1 − y) log(1 − y), which pulls towards the middle; the smaller its weight, the nearer the result
    is to the least point of f.

    Args:
        f: convex, for B states.
        start: actions (B, m) to begin at.
        cuts: tangents.
        weight: of the entropy, in the units of f.
        like: the type that f is evaluated in.

    Source: Amos, Xu & Kolter, Input Convex Neural Networks (ICML 2017), section 5 and algorithm 1.

    Example:
        >>> found = bundle_entropy(lambda a: ((a - 0.3) ** 2).sum(1), torch.zeros(1, 1), cuts=20, weight=1e-3)
        >>> round(found.actions.item(), 2)
        0.3
    """
    y = ((start.double() + 1) / 2).clamp(1e-4, 1 - 1e-4)
    if y.shape[1] == 1:
        ends = torch.zeros_like(y), torch.ones_like(y)
        found = on_a_line(lambda y: f(2 * y - 1), y, ends, cuts, weight, like)
        return Best(2 * found.actions - 1, found.values, found.bounds)
    slopes = offsets = shares = None
    best = y
    least = torch.full_like(y[:, 0], torch.inf)
    values, bound = least, -least
    for cut in range(cuts + 1):
        value, slope = tangent(f, 2 * y - 1, like)
        total = value + weight * entropy(y)
        better = total < least
        least, values = torch.where(better, total, least), torch.where(better, value, values)
        best = torch.where(better[:, None], y, best)
        if cut == cuts:
            break
        g = (2 / weight) * slope[:, None]
        h = value[:, None] / weight - (g[:, 0] * y).sum(1, keepdim=True)
        slopes = g if slopes is None else torch.cat([slopes, g], 1)
        offsets = h if offsets is None else torch.cat([offsets, h], 1)
        new = torch.ones_like(h) if shares is None else torch.zeros_like(h)
        shares = new if shares is None else torch.cat([shares, new], 1)
        shares = maximise_dual(slopes, offsets, shares, SHARP * (least - bound) / weight)
        pull = torch.einsum("bm,bmn->bn", shares, slopes)
        dual = (shares * offsets).sum(1) + torch.nn.functional.logsigmoid(pull).sum(1)
        bound = torch.fmax(bound, weight * dual)
        y = lowest_point(pull)
    return Best(2 * best - 1, values, bound)


def cutting_planes(
    f: Function,
    start: Tensor,
    rows: tuple[Tensor, Tensor],
    centre: Tensor,
    cuts: int = 5,
    like: torch.dtype = torch.float32,
) -> Best:
    """Minimise f(a) over the part of the cube [-1, 1]^m where A a <= b, by a few tangents of f.

    The next point is where a primal-dual interior-point method comes to that minimises the largest tangent, and stops
    at a share of the gap: inside of the set, so that points do not jump between its corners.

    Args:
        f: convex, for B states.
        start: actions (B, m) to begin at; pulled inside where they are not.
        rows: A (k, m) and b (k,), in float64.
        centre: a point (m,) with A a < b inside of the cube.
        cuts: tangents.
        like: the type that f is evaluated in.

    Example:
        >>> rows = torch.tensor([[1.0, 1.0]]).double(), torch.tensor([1.0]).double()
        >>> f = lambda a: ((a - 1) ** 2).sum(1)
        >>> found = cutting_planes(f, torch.zeros(1, 2), rows, torch.zeros(2), cuts=12)
        >>> found.actions.round(decimals=1).tolist(), bool(found.bounds < 0.5)
        ([[0.5, 0.5]], True)
    """
    A, b = rows
    count, m = start.shape
    eye = torch.eye(m, dtype=torch.float64)
    fence = torch.cat([-A, eye, -eye])  # fence a + room > 0 inside
    room = torch.cat([b, torch.ones(2 * m, dtype=torch.float64)])
    a = inside(start.double(), centre.double(), fence, room)
    if m == 1:
        steep = fence[:, 0]
        low = (-room / steep)[steep > 0].max().expand_as(a)
        high = (-room / steep)[steep < 0].min().expand_as(a)
        return on_a_line(f, a, (low, high), cuts, 0.0, like)
    best, values, bound = a, torch.full_like(a[:, 0], torch.inf), torch.full_like(a[:, 0], -torch.inf)
    slopes, offsets = a.new_zeros(count, 0, m), a.new_zeros(count, 0)
    for cut in range(cuts + 1):
        value, slope = tangent(f, a, like)
        better = value < values
        values, best = torch.where(better, value, values), torch.where(better[:, None], a, best)
        if cut == cuts:
            break
        slopes = torch.cat([slopes, slope[:, None]], 1)
        offsets = torch.cat([offsets, value[:, None] - (slope * a).sum(1, keepdim=True)], 1)
        a, low = lowest_inside(slopes, offsets - values[:, None], a, fence, room, values - bound)
        bound = torch.fmax(bound, low + values)
    return Best(best, values, bound)


def on_a_line(
    f: Function, start: Tensor, ends: tuple[Tensor, Tensor], cuts: int, weight: float, like: torch.dtype
) -> Best:
    """Minimise f(y) + weight · H(y) of one variable between two ends, by a few tangents of f.

    Two tangents hold the model's minimum, the nearest on each side, and it is known in closed form: where they meet, or
    where one of them and the entropy are least. An end is where no tangent is.

    Args:
        f: of y (B, 1).
        start: (B, 1).
        ends: (B, 1) each; 0 and 1 with an entropy.
        cuts, weight, like: as for `bundle_entropy`; the weight may be 0.

    Example:
        >>> ends = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
        >>> on_a_line(lambda y: (y - 0.3).abs()[:, 0], ends[1], ends, 2, 0.0, torch.float64).actions.item()
        0.3
    """
    (low, high), y = ends, start
    g_low, h_low = torch.full_like(y, -torch.inf), torch.full_like(y, torch.inf)
    g_high, h_high = torch.full_like(y, torch.inf), torch.full_like(y, torch.inf)
    best, least = y, torch.full_like(y, torch.inf)
    values, bound = least, -least
    for cut in range(cuts + 1):
        value, slope = tangent(f, y, like)
        value = value[:, None]
        pull = weight * (y / (1 - y)).log() if weight else 0.0
        total = value + weight * entropy(y)[:, None] if weight else value
        better = total < least
        least, values, best = (torch.where(better, *pair) for pair in ((total, least), (value, values), (y, best)))
        if cut == cuts:
            break
        h = value - slope * y
        falls, rises = slope + pull <= 0, slope + pull >= 0
        g_low, h_low = torch.where(falls, slope, g_low), torch.where(falls, h, h_low)
        g_high, h_high = torch.where(rises, slope, g_high), torch.where(rises, h, h_high)
        low, high = torch.where(falls, y, low), torch.where(rises, y, high)
        only_low, only_high = g_high.isinf(), g_low.isinf()
        meet = (h_low - h_high) / (g_high - g_low)
        meet = torch.where(only_low, high, torch.where(only_high, low, meet))
        meet = torch.where(meet.isfinite(), meet, y)  # where both tangents are flat
        if weight:
            down, up = torch.sigmoid(-g_low / weight), torch.sigmoid(-g_high / weight)
            meet = torch.where(down < meet, down, torch.where(up > meet, up, meet))
        y = torch.minimum(torch.maximum(meet, low), high)
        left = torch.where(only_high, -torch.inf, g_low * y + h_low)
        right = torch.where(only_low, -torch.inf, g_high * y + h_high)
        model = torch.maximum(left, right) + (weight * entropy(y)[:, None] if weight else 0.0)
        bound = torch.fmax(bound, model)
        if weight:  # the slope of the entropy is infinite at the ends; the model is least nearer to them
            y = y.clamp(1e-9, 1 - 1e-9)
    return Best(best, values[:, 0], bound[:, 0])


def inside(point: Tensor, centre: Tensor, fence: Tensor, room: Tensor, share: float = 0.95) -> Tensor:
    """Points (B, m) pulled towards a centre, this share of the way from it to the border at most."""
    toward = point - centre
    outward = -(toward @ fence.T)
    left = fence @ centre + room
    length = (outward / left).amax(1, keepdim=True).clamp(min=share)
    return centre + toward * (share / length)


def lowest_inside(
    slopes: Tensor, offsets: Tensor, start: Tensor, fence: Tensor, room: Tensor, gap: Tensor
) -> tuple[Tensor, Tensor]:
    """Where the largest of some planes is low, strictly inside of a set, (B, m), and a bound of it, (B,).

    Args:
        slopes, offsets: the planes, (B, p, m) and (B, p); the best value is 0.
        start: a point inside, (B, m).
        fence, room: the set is fence a + room > 0.
        gap: how far the bound is from the best value, (B,), or infinite.
    """
    count, planes, m = slopes.shape
    size = slopes.abs().sum(2).amax(1).clamp(min=1e-12)[:, None]
    G, h = slopes / size[:, :, None], offsets / size
    gap = gap[:, None] / size
    C = torch.cat([torch.cat([-G, torch.ones_like(G[..., :1])], 2), widened(fence, count)], 1)
    k = torch.cat([-h, room.expand(count, -1)], 1)
    heights = (G @ start[:, :, None])[..., 0] + h
    top = heights.amax(1, keepdim=True)
    x = torch.cat([start, top + 0.1 + 0.1 * (top - heights.amin(1, keepdim=True))], 1)
    slack = (C @ x[:, :, None])[..., 0] + k
    path = Path(x, 0.1 / slack)
    bound = torch.full_like(top, -torch.inf)
    going = torch.ones_like(top, dtype=torch.bool)
    for _ in range(INSIDE):
        path, ahead = advance(C, k, path, going)
        share = ahead[:, :planes].clamp(min=1e-12)
        total = share.sum(1, keepdim=True)
        share, held = share / total, ahead[:, planes:].clamp(min=0) / total
        held = held[:, : len(fence) - 2 * m]  # of A; those of the cube are best for any slope
        left = torch.einsum("bp,bpm->bm", share, G) - held @ fence[: len(fence) - 2 * m]
        new = (share * h).sum(1, keepdim=True) - held @ room[: len(fence) - 2 * m, None] - left.abs().sum(1, True)
        bound = torch.fmax(bound, new)
        going = going & (path.x[:, m:] - bound > SHARP * torch.minimum(gap, -bound).clamp(min=1e-12))
        if not bool(going.any()):
            break
    return path.x[:, :m], (size * bound)[:, 0]


def widened(fence: Tensor, count: int) -> Tensor:
    """Rows that do not see the height t, for every sample."""
    return torch.cat([fence, torch.zeros_like(fence[:, :1])], 1).expand(count, -1, -1)
