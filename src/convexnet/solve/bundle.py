"""A level bundle: for few variables, a model of the function made of planes, and few evaluations of the function.

Every subgradient is a plane below f, and the largest of them is the model. Its least value over the box is the lower
bound, made a true one by multipliers on the simplex, however exact they are; the next point is the one nearest to the
last at which the model is a share of the gap above that value. Both are found, for all samples at once, by an
interior-point method whose linear systems have as many rows as there are variables:

    min t  subject to  G y + h <= t,    and    min |y - last|²/2  subject to  G y + h <= level,    both on -1 <= y <= 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexnet.solve.drive import Found, Offer, Problem

LEVEL = 0.5
"""How far above the model's minimum the next point may be, as a share of the gap."""

RIGHT, LOWER = 0.1, 0.2
"""Where the model errs by less than this share of the gap, the next level is this share of the last."""

SHARP = 0.05
"""How exactly the model's minimum is found, as a share of the gap."""

CLOSE = 6
"""Iterations that bring the next point near to the last one."""

MOST = 40
"""Iterations of the interior-point method in one step."""

INSIDE = 0.9
"""Where it begins, on the cube [-1, 1]^n, at the farthest."""

FAR = 0.99
"""The share of the way to the border of the positive numbers that one iteration may go."""

TINY = 1e-16
"""What rounding may leave of a distance."""

REACH = 10.0
"""How far a first step may go where there is no bound, in units of the variables."""


@dataclass
class State:
    """The planes (B, m, n) and (B, m) in y, the best point, its value, the bound, and where the last point was."""

    slopes: Tensor
    offsets: Tensor
    best: Tensor
    value: Tensor
    bound: Tensor
    y: Tensor
    level: Tensor  # (B, 1) how far above the model's minimum the next point may be, as a share of the gap
    reach: Tensor  # (B, 1)


class Bundle:
    """Level bundle on subgradients; needs nothing else of a function.

    Args:
        level: how far above the model's minimum the next point may be, as a share of the gap.
        keep: how many planes are kept; those with the least multipliers go.

    Source: Lemaréchal, Nemirovskii & Nesterov (1995), New variants of bundle methods, section 2.2, projecting the last
    point; Mehrotra (1992), On the implementation of a primal-dual interior point method, for both problems of a step.

    Example:
        >>> from convexnet.solve.bends import Kinks
        >>> from convexnet.solve.drive import drive, nothing_yet
        >>> from convexnet.solve.kink_form import KinkForm
        >>> from convexnet.solve.maps import Map
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> f = KinkForm((-1.5 * one,), (Kinks(-one[0]),), (Map(5 * one),), {}, 0 * one[0], 0 * one, {0: one})
        >>> problem = Problem(f, -one, one)  # 5 |y - 0.3|
        >>> found = nothing_yet(problem)
        >>> drive(Bundle(), problem, found, 1e-6, 20, float("inf"))
        >>> bool(found.gap < 1e-6), round(found.y.item(), 5)
        (True, 0.3)
    """

    name = "bundle"

    def __init__(self, level: float = LEVEL, keep: int = 200) -> None:
        self.level = level
        self.keep = keep

    def begin(self, problem: Problem, found: Found) -> State:
        y = found.y
        value, g = problem.f.subgradient(y)
        h = value - (g * y).sum(1)
        bound = torch.fmax(found.bound, problem.least(g, h))
        return State(g[:, None], h[:, None], y, value, bound, y, self.level + 0 * y[:, :1], REACH + 0 * y[:, :1])

    def step(self, problem: Problem, state: State) -> Offer:
        lo = torch.where(problem.lo.isfinite(), problem.lo, torch.minimum(problem.hi, state.best) - state.reach)
        hi = torch.where(problem.hi.isfinite(), problem.hi, torch.maximum(problem.lo, state.best) + state.reach)
        state.reach = 2 * state.reach
        y, weights, pulling = low_point(state, lo, hi)
        g = torch.einsum("bm,bmn->bn", weights, state.slopes)
        bound = problem.least(g, (weights * state.offsets).sum(1))
        state.bound = torch.fmax(state.bound, bound)
        state.y = problem.inside(y)
        value, slope = problem.f.subgradient(state.y)
        model = ((state.slopes @ state.y[:, :, None])[..., 0] + state.offsets).amax(1)
        right = (value - model <= RIGHT * (state.value - state.bound))[:, None]
        state.level = torch.where(right, LOWER * state.level, self.level)
        self.add(state, weights + pulling, slope, value - (slope * state.y).sum(1))
        better = value < state.value
        state.value = torch.where(better, value, state.value)
        state.best = torch.where(better[:, None], state.y, state.best)
        state.bound = torch.fmax(state.bound, problem.least(slope, state.offsets[:, -1]))
        return Offer(state.y, value, state.bound)

    def add(self, state: State, counts: Tensor, slope: Tensor, offset: Tensor) -> None:
        """Take another plane into the model; where there are too many, the one that counts least goes."""
        slopes, offsets = state.slopes, state.offsets
        if slopes.shape[1] >= self.keep:
            stay = counts.topk(self.keep - 1, 1).indices.sort(1).values
            slopes = slopes.gather(1, stay[:, :, None].expand(-1, -1, slopes.shape[2]))
            offsets = offsets.gather(1, stay)
        state.slopes = torch.cat([slopes, slope[:, None]], 1)
        state.offsets = torch.cat([offsets, offset[:, None]], 1)


def low_point(state: State, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The point (B, n) nearest to the last one where the model is low, and multipliers (B, m) on the simplex: those
    that give the model's least value, and those that hold the point.

    Args:
        state: the planes.
        lo, hi: finite bounds (B, n).
    """
    middle, radius = lo / 2 + hi / 2, (hi - lo) / 2
    # In units in which the box is [-1, 1]^n, the slopes are of size 1, and the best value is 0.
    slopes = state.slopes * radius[:, None]
    offsets = state.offsets + (state.slopes * middle[:, None]).sum(2) - state.value[:, None]
    size = slopes.abs().sum(2).amax(1, keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    G, h = slopes / size[:, :, None], offsets / size
    gap = torch.where(state.bound.isfinite(), state.value - state.bound, torch.inf)[:, None] / size
    last = ((state.y - middle) / torch.where(radius > 0, radius, 1.0)).clamp(-1, 1)
    path = begun(G, h, last.clamp(-INSIDE, INSIDE))
    weights = path.plane / path.plane.sum(1, keepdim=True)
    bound = torch.full_like(size, -torch.inf)
    going = torch.ones_like(size, dtype=torch.bool)
    whole = gap
    for _ in range(MOST):
        path, ahead = advanced(G, h, path, going)
        share = ahead.clamp(min=0)
        share = share / share.sum(1, keepdim=True)
        slope = torch.einsum("bm,bmn->bn", share, G)
        new = (share * h).sum(1, keepdim=True) - slope.abs().sum(1, keepdim=True)
        better = going & (new > bound)
        weights, bound = torch.where(better, share, weights), torch.where(better, new, bound)
        whole = torch.minimum(gap, -bound).clamp(min=1e-15)
        going = going & (path.t - bound > SHARP * whole)
        if not bool(going.any()):
            break
    target = torch.maximum(bound + state.level * whole, path.t)
    path = towards(G, h, path.y, target, last)
    going = torch.ones_like(going)
    for _ in range(CLOSE):
        path, _ = advanced(G, h, path, going, last)
        if not bool(going.any()):
            break
    return middle + radius * path.y, weights, path.plane / path.plane.sum(1, keepdim=True)


@dataclass
class Path:
    """A strictly feasible point of the linear program and of its dual, on the cube."""

    y: Tensor  # (B, n)
    t: Tensor  # (B, 1)
    plane: Tensor  # multipliers: (B, m), and those of both sides of the cube (B, n)
    low: Tensor
    high: Tensor


def begun(G: Tensor, h: Tensor, y: Tensor) -> Path:
    """Feasible whatever the planes are, and not far from the central path."""
    values = (G @ y[:, :, None])[..., 0] + h
    top = values.amax(1, keepdim=True)
    t = top + 0.1 + 0.1 * (top - values.amin(1, keepdim=True))
    plane = 1 / (t - values)
    mu = 1 / plane.sum(1, keepdim=True)
    plane = plane * mu
    slope = torch.einsum("bm,bmn->bn", plane, G)
    low = slope.clamp(min=0) + mu
    return Path(y, t, plane, low, low - slope)


def towards(G: Tensor, h: Tensor, y: Tensor, level: Tensor, last: Tensor) -> Path:
    """The start of the projection of `last` to where the model is below a level, from a point y where it is."""
    slack = (level - (G @ y[:, :, None])[..., 0] - h).clamp(min=TINY)
    distance = ((y - last) ** 2).sum(1, keepdim=True)
    mu = 0.1 * (distance / slack.shape[1]).clamp(min=1e-15)
    plane = mu / slack
    slope = torch.einsum("bm,bmn->bn", plane, G) + y - last
    low = slope.clamp(min=0) + mu
    return Path(y, level, plane, low, low - slope)


def advanced(G: Tensor, h: Tensor, path: Path, going: Tensor, last: Tensor | None = None) -> tuple[Path, Tensor]:
    """One step of the primal-dual method towards the optimum, with a corrector (Mehrotra 1992), for the samples that
    are going, and the multipliers (B, m) that a whole step would have.

    With `last` the level t stays, and the distance to that point is minimised.
    """
    slack = (path.t - (G @ path.y[:, :, None])[..., 0] - h).clamp(min=TINY)
    up, down = (1 + path.y).clamp(min=TINY), (1 - path.y).clamp(min=TINY)
    count = slack.shape[1] + 2 * up.shape[1]
    mu = ((slack * path.plane).sum(1) + (up * path.low).sum(1) + (down * path.high).sum(1))[:, None] / count
    weight = path.plane / slack
    weighed = G * weight[:, :, None]
    n = up.shape[1]
    system = G.new_empty(len(G), n + 1, n + 1)
    system[:, :n, :n] = G.mT @ weighed
    system[:, :n, n] = system[:, n, :n] = -weighed.sum(1)
    system[:, n, n] = weight.sum(1)
    diagonal = system.diagonal(dim1=1, dim2=2)
    diagonal[:, :n] += path.low / up + path.high / down
    diagonal *= 1 + 1e-13
    if last is not None:
        diagonal[:, :n] += 1
        system[:, :n, n] = system[:, n, :n] = 0.0
    pull = 0.0 if last is None else path.y - last
    factor, _ = torch.linalg.cholesky_ex(system)

    zero = torch.zeros_like(mu)

    def solved(plane: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The changes, for what the products of slacks and multipliers shall become."""
        a, b, c = plane / slack, low / up, high / down
        forward = a.sum(1, keepdim=True) - 1 if last is None else zero
        right = torch.cat([b - c - pull - (G.mT @ a[:, :, None])[..., 0], forward], 1)
        step = torch.cholesky_solve(right[:, :, None], factor)[..., 0]
        dy, dt = step[:, :n], step[:, n:]
        ds = dt - (G @ dy[:, :, None])[..., 0]
        return (
            dy,
            dt,
            ds,
            a - path.plane - weight * ds,
            b - path.low - path.low / up * dy,
            c - path.high + path.high / down * dy,
        )

    dy, _, ds, dplane, dlow, dhigh = solved(zero * slack, zero * up, zero * up)
    pairs = ((slack, ds), (up, dy), (down, -dy), (path.plane, dplane), (path.low, dlow), (path.high, dhigh))
    share = longest(pairs)
    left = ((slack + share * ds) * (path.plane + share * dplane)).sum(1, keepdim=True)
    left = left + ((up + share * dy) * (path.low + share * dlow)).sum(1, keepdim=True)
    left = left + ((down - share * dy) * (path.high + share * dhigh)).sum(1, keepdim=True)
    aim = mu * (left / (count * mu)).clamp(1e-3, 1.0) ** 3
    dy, dt, ds, dplane, dlow, dhigh = solved(aim - ds * dplane, aim - dy * dlow, aim + dy * dhigh)
    pairs = ((slack, ds), (up, dy), (down, -dy), (path.plane, dplane), (path.low, dlow), (path.high, dhigh))
    sound = torch.cat([dy, dt, ds, dplane, dlow, dhigh], 1).isfinite().all(1, keepdim=True)
    going = going & sound
    share = torch.where(going, FAR * longest(pairs), 0.0)
    dy, dt, dplane, dlow, dhigh = (torch.where(going, d, 0.0) for d in (dy, dt, dplane, dlow, dhigh))
    ahead = path.plane + dplane
    moved = Path(
        path.y + share * dy,
        path.t + share * dt,
        path.plane + share * dplane,
        path.low + share * dlow,
        path.high + share * dhigh,
    )
    return moved, ahead


def longest(pairs: tuple[tuple[Tensor, Tensor], ...]) -> Tensor:
    """The largest share of a step, at most 1/FAR, that keeps everything positive, (B, 1)."""
    worst = torch.cat([-change / value for value, change in pairs], 1).amax(1, keepdim=True)
    return 1 / worst.clamp(min=FAR)
