"""A level bundle: for few variables, a model of the function made of planes, and few evaluations of the function. And
cutting planes without a level.

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

from convexnet.solve.functions.problem import Problem
from convexnet.solve.solvers.incumbents import Evidence, Incumbents
from convexnet.solve.solvers.loop import Offer

LEVEL = 0.5
"""How far above the model's minimum the next point may be, as a share of the gap."""

RIGHT, LOWER = 0.1, 0.2
"""Where the model errs by less than this share of the gap, the next level is this share of the last."""

SHARP = 0.05
"""How exactly the model's minimum is found, as a share of the gap."""

VERTEX = 1e-3
"""The same where the next point is that minimum."""

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
class BundleState:
    """The planes (B, m, n) and (B, m) in y, the points (B, m, n) that they touch at, the best point, its value, the
    bound, and where the last point was."""

    slopes: Tensor
    offsets: Tensor
    points: Tensor
    best: Tensor
    value: Tensor
    bound: Tensor
    y: Tensor
    level: Tensor  # (B, 1) how far above the model's minimum the next point may be, as a share of the gap
    reach: Tensor  # (B, 1)


class Bundle:
    """Level bundle on subgradients; needs nothing else of a function.

    Args:
        level: how far above the model's minimum the next point may be, as a share of the gap; 0: the next point is that
            minimum (see `CuttingPlanes`).
        keep: how many planes are kept; those with the least multipliers go.

    Source: Lemaréchal, Nemirovskii & Nesterov (1995), New variants of bundle methods (the level method), projecting
    the last point; Mehrotra (1992), On the implementation of a primal-dual interior point method, for both problems.

    Example:
        >>> from convexnet.form.atoms import Kinks
        >>> from convexnet.solve.solvers.incumbents import initial_incumbents
        >>> from convexnet.solve.solvers.loop import Budget, run_loop
        >>> from convexnet.form.epigraph import EpigraphForm
        >>> from convexnet.form.linear_maps import Map
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> f = EpigraphForm((-1.5 * one,), (Kinks(-one[0]),), (Map(5 * one),), {}, 0 * one[0], 0 * one, {0: one})
        >>> problem = Problem(f, -one, one)  # 5 |y - 0.3|
        >>> found = initial_incumbents(problem)
        >>> run_loop(Bundle(), problem, found, Budget(1e-6, max_steps=20))
        >>> bool(found.gap < 1e-5), round(found.y.item(), 5)
        (True, 0.3)
    """

    name = "bundle"

    def __init__(self, level: float = LEVEL, keep: int = 200) -> None:
        self.level = level
        self.keep = keep

    def begin(self, problem: Problem, found: Incumbents) -> BundleState:
        y = found.y
        value, g = problem.f.subgradient(y)
        h = value - (g * y).sum(1)
        bound = torch.fmax(found.bound, problem.proved_minimum(g, h))
        return BundleState(
            g[:, None], h[:, None], y[:, None], y, value, bound, y, self.level + 0 * y[:, :1], REACH + 0 * y[:, :1]
        )

    def step(self, problem: Problem, state: BundleState) -> Offer:
        lo = torch.where(problem.lo.isfinite(), problem.lo, torch.minimum(problem.hi, state.best) - state.reach)
        hi = torch.where(problem.hi.isfinite(), problem.hi, torch.maximum(problem.lo, state.best) + state.reach)
        state.reach = 2 * state.reach
        y, weights, pulling = low_point(state, lo, hi, project=self.level > 0)
        g = torch.einsum("bm,bmn->bn", weights, state.slopes)
        bound = problem.proved_minimum(g, (weights * state.offsets).sum(1))
        shares, touched = weights, state.points
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
        alone = problem.proved_minimum(slope, state.offsets[:, -1])
        state.bound = torch.fmax(state.bound, alone)
        here = state.y

        def evidence(rows: Tensor) -> Evidence:
            single = (alone > bound)[rows]
            points = torch.cat([touched[rows], here[rows, None]], 1)
            last = torch.zeros_like(points[:, :, 0])
            last[:, -1] = 1.0
            average = torch.cat([shares[rows], last[:, :1] * 0.0], 1)
            return Evidence(points=points, shares=torch.where(single[:, None], last, average))

        return Offer(here, value, torch.fmax(alone, bound), evidence=evidence)

    def add(self, state: BundleState, counts: Tensor, slope: Tensor, offset: Tensor) -> None:
        """Take another plane into the model; where there are too many, the one that counts least goes."""
        slopes, offsets, points = state.slopes, state.offsets, state.points
        if slopes.shape[1] >= self.keep:
            stay = counts.topk(self.keep - 1, 1).indices.sort(1).values
            slopes = slopes.gather(1, stay[:, :, None].expand(-1, -1, slopes.shape[2]))
            offsets = offsets.gather(1, stay)
            points = points.gather(1, stay[:, :, None].expand(-1, -1, points.shape[2]))
        state.slopes = torch.cat([slopes, slope[:, None]], 1)
        state.offsets = torch.cat([offsets, offset[:, None]], 1)
        state.points = torch.cat([points, state.y[:, None]], 1)


class CuttingPlanes(Bundle):
    """Cutting planes without a level: the next point is where the model is least.

    What the level method improves on: with several variables the points jump from one end of the box to another. It is
    here to be compared with, and takes what comes close to a vertex of the model, by the same interior-point method.

    Args:
        keep: how many planes are kept; those with the least multipliers go.

    Source: Kelley (1960), The cutting-plane method for solving convex programs.
    """

    name = "cutting-planes"

    def __init__(self, keep: int = 200) -> None:
        super().__init__(level=0.0, keep=keep)


def low_point(state: BundleState, lo: Tensor, hi: Tensor, project: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """The point (B, n) nearest to the last one where the model is low, and multipliers (B, m) on the simplex: those
    that give the model's least value, and those that hold the point.

    Args:
        state: the planes.
        lo, hi: finite bounds (B, n).
        project: whether the point is to be near the last one; else it is the model's minimum.
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
    m, n = G.shape[1:]
    eye = torch.eye(n, dtype=G.dtype, device=G.device).expand(len(G), n, n)
    above = torch.cat([torch.ones_like(G[..., :1]), torch.zeros_like(G[:, :1, :1]).expand(-1, 2 * n, 1)], 1)
    C = torch.cat([torch.cat([-G, eye, -eye], 1), above], 2)
    k = torch.cat([-h, torch.ones_like(h[:, :1]).expand(-1, 2 * n)], 1)
    path = starting_path(G, h, last.clamp(-INSIDE, INSIDE))
    weights = path.z[:, :m] / path.z[:, :m].sum(1, keepdim=True)
    bound = torch.full_like(size, -torch.inf)
    going = torch.ones_like(size, dtype=torch.bool)
    whole = gap
    for _ in range(MOST):
        path, ahead = advance(C, k, path, going)
        share = ahead[:, :m].clamp(min=0)
        share = share / share.sum(1, keepdim=True)
        slope = torch.einsum("bm,bmn->bn", share, G)
        new = (share * h).sum(1, keepdim=True) - slope.abs().sum(1, keepdim=True)
        better = going & (new > bound)
        weights, bound = torch.where(better, share, weights), torch.where(better, new, bound)
        whole = torch.minimum(gap, -bound).clamp(min=1e-15)
        going = going & (path.x[:, n:] - bound > (SHARP if project else VERTEX) * whole)
        if not bool(going.any()):
            break
    if not project:
        return middle + radius * path.x[:, :n], weights, weights
    target = torch.maximum(bound + state.level * whole, path.x[:, n:])
    path = projection_path(C, k, path.x[:, :n], target, last)
    fixed = torch.cat([C[:, :, :n], torch.zeros_like(C[:, :, n:])], 2)  # the level stays
    k = torch.cat([k[:, :m] + target, k[:, m:]], 1)
    going = torch.ones_like(going)
    for _ in range(CLOSE):
        path, _ = advance(fixed, k, path, going, torch.cat([last, target], 1))
    pulling = path.z[:, :m] / path.z[:, :m].sum(1, keepdim=True)
    return middle + radius * path.x[:, :n], weights, pulling


@dataclass
class Path:
    """A strictly feasible x = (y, t), (B, n + 1), where C x + k > 0, and its multipliers (B, m + 2n): of the planes,
    and of both sides of the cube."""

    x: Tensor
    z: Tensor


def starting_path(G: Tensor, h: Tensor, y: Tensor) -> Path:
    """Feasible for the dual too, whatever the planes are, and not far from the central path."""
    values = (G @ y[:, :, None])[..., 0] + h
    top = values.amax(1, keepdim=True)
    t = top + 0.1 + 0.1 * (top - values.amin(1, keepdim=True))
    plane = 1 / (t - values)
    mu = 1 / plane.sum(1, keepdim=True)
    plane = plane * mu
    slope = torch.einsum("bm,bmn->bn", plane, G)
    low = slope.clamp(min=0) + mu
    return Path(torch.cat([y, t], 1), torch.cat([plane, low, low - slope], 1))


def projection_path(C: Tensor, k: Tensor, y: Tensor, level: Tensor, last: Tensor) -> Path:
    """The start of the projection of `last` to where the model is below a level, from a point y where it is."""
    n = y.shape[1]
    m = k.shape[1] - 2 * n
    x = torch.cat([y, level], 1)
    slack = ((C @ x[:, :, None])[..., 0] + k)[:, :m].clamp(min=TINY)
    mu = 0.1 * (((y - last) ** 2).sum(1, keepdim=True) / m).clamp(min=1e-15)
    plane = mu / slack
    slope = y - last - torch.einsum("bm,bmn->bn", plane, C[:, :m, :n])
    low = slope.clamp(min=0) + mu
    return Path(x, torch.cat([plane, low, low - slope], 1))


def advance(C: Tensor, k: Tensor, path: Path, going: Tensor, last: Tensor | None = None) -> tuple[Path, Tensor]:
    """One step of the primal-dual method towards the least t, with a corrector (Mehrotra 1992), for the samples that
    are going, and the multipliers that a whole step would have.

    With `last`, the distance of x to that point is minimised instead.
    """
    slack = ((C @ path.x[:, :, None])[..., 0] + k).clamp(min=TINY)
    mu = (slack * path.z).mean(1, keepdim=True)
    weight = path.z / slack
    system = C.mT @ (C * weight[:, :, None])
    diagonal = system.diagonal(dim1=1, dim2=2)
    diagonal *= 1 + 1e-13
    if last is None:
        gradient = torch.zeros_like(path.x)
        gradient[:, -1] = 1
    else:
        diagonal += 1
        gradient = path.x - last
    factor, _ = torch.linalg.cholesky_ex(system)

    def solved(aim: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The changes of x, slacks and multipliers, for what the products of the two shall become."""
        aim = aim / slack
        right = (C.mT @ aim[:, :, None])[..., 0] - gradient
        dx = torch.cholesky_solve(right[:, :, None], factor)[..., 0]
        ds = (C @ dx[:, :, None])[..., 0]
        return dx, ds, aim - path.z - weight * ds

    _, ds, dz = solved(torch.zeros_like(slack))
    share = longest_step(slack, ds, path.z, dz)
    left = ((slack + share * ds) * (path.z + share * dz)).mean(1, keepdim=True)
    dx, ds, dz = solved(mu * (left / mu).clamp(1e-3, 1.0) ** 3 - ds * dz)
    sound = torch.cat([dx, dz], 1).isfinite().all(1, keepdim=True)
    going = going & sound
    share = FAR * longest_step(slack, ds, path.z, dz)
    moved = Path(torch.where(going, path.x + share * dx, path.x), torch.where(going, path.z + share * dz, path.z))
    return moved, path.z + dz


def longest_step(slack: Tensor, ds: Tensor, z: Tensor, dz: Tensor) -> Tensor:
    """The largest share of a step, at most 1/FAR, that keeps everything positive, (B, 1)."""
    worst = torch.maximum((-ds / slack).amax(1, keepdim=True), (-dz / z).amax(1, keepdim=True))
    return 1 / worst.clamp(min=FAR)
