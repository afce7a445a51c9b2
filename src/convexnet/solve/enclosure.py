"""A finite box around all minimisers on a domain without ends, where f certainly rises in all directions.

Affine functions below f with slopes near to ±c e_j, one for each side without an end, say how far from a point t
anything may lie that is no higher than t: with the slope s c e_j + r of one of them and its value m at t, and y − t = d
no longer than D at such sides,

    f(t) >= f(y) >= m + s c d_j + r d    so that    c D <= f(t) − m + loss(r) + gain(r) D

for the side at which D is reached. Where gain(r) < c for all of them, D is bounded, and the minimum over the domain is
that over this box. All numbers are proved as lower bounds are: the affine functions by the traced program with its
rounding errors (`lower_bounds`), f(t) by the same. The slopes come of tilted problems, f(y) − s c y_j.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from convexnet.form.epigraph import EpigraphForm
from convexnet.solve.functions.black_box import WholeProgram
from convexnet.solve.functions.matrix_free import MatrixFree
from convexnet.solve.functions.problem import Problem
from convexnet.solve.lower_bounds import PART, count_cells, planes_of_evidence
from convexnet.solve.solvers.choose import samples_at_once
from convexnet.solve.solvers.incumbents import Incumbents, initial_incumbents, pick_rows
from convexnet.solve.solvers.loop import Budget, run_loop
from convexnet.solve.solvers.newton import Newton

REACHES = (64.0, 4096.0, 2.0**18, 2.0**24)
"""How far from the nearest point to 0 a minimiser is looked for."""

ROUGH = 1e-3
"""The gap of the problems that only say where to look, as `tol`."""

TRIES = ((0.1, 16.0, ROUGH), (0.01, 256.0, 1e-5), (1e-4, 4096.0, 1e-7), (1e-6, 2.0**16, 1e-9))
"""Slopes c that are tried, as shares of a typical slope of f; how far from a typical point minimisers of the tilted
problems are looked for, in units of max(1, |y_1|, …); and the gap to aim at there. Where f is steep across a direction
in which it hardly rises, c is small and they are far."""

MOST = 20_000
"""Tilted problems that are solved at most."""

ROUNDING = 2.0**-50
"""What sums of a few numbers may be off by, as a share of their sizes, for each."""


def enclosed(problem: Problem, budget: Budget) -> Problem:
    """The problem with finite bounds where all minimisers of a sample are certainly within them; others stay."""
    f = problem.f
    if problem.compact or not isinstance(f, EpigraphForm) or not isinstance(problem.exact, MatrixFree):
        return problem
    strong = problem.strong
    endless = problem.lo.isinf() | problem.hi.isinf()
    open_ = endless if strong is None else endless & ~(strong > 0)
    rows = open_.any(1).nonzero()[:, 0]
    if not len(rows) or len(rows) * 2 * problem.size > MOST or problem.size > MOST // 20:
        return problem
    part = replace(problem.rows(rows), strong=None)
    point, size, inner = typical_points(part, budget)
    if not bool(inner.any()):
        return problem
    rows, part, point, size = rows[inner], part.rows(inner.nonzero()[:, 0]), point[inner], size[inner]
    lo, hi = problem.lo.clone(), problem.hi.clone()
    for share, around, tol in TRIES:
        reach = reach_of_level(part, point, share * size / problem.size, around, tol, budget)
        known = reach.isfinite()
        wide = torch.maximum(1.01 * reach, 4 * point.abs().amax(1).clamp(min=1.0))[:, None]
        done = rows[known]
        lo[done] = torch.maximum(lo[done], (point - wide)[known])
        hi[done] = torch.minimum(hi[done], (point + wide)[known])
        left = (~known).nonzero()[:, 0]
        if not len(left) or budget.is_spent:
            break
        rows, part, point, size = rows[left], part.rows(left), point[left], size[left]
    return replace(problem, lo=lo, hi=hi)


def typical_points(problem: Problem, budget: Budget) -> tuple[Tensor, Tensor, Tensor]:
    """Points (B, n) near minimisers, the scale of f there (B,), and whether they are not at an end of where they were
    looked for, (B,)."""
    centre = problem.interior()
    found: Incumbents | None = None
    inner = torch.zeros(problem.batch, dtype=torch.bool, device=centre.device)
    for reach in REACHES:
        rows = (~inner).nonzero()[:, 0]
        if not len(rows) or budget.is_spent:
            break
        part = problem.rows(rows)
        part = replace(
            part, lo=torch.maximum(part.lo, centre[rows] - reach), hi=torch.minimum(part.hi, centre[rows] + reach)
        )
        some = solved_roughly(part, ROUGH, budget)
        if found is None:
            found = some
        else:
            found.put(rows, some)
        away = (some.y - centre[rows]).abs() < 0.5 * reach
        inner[rows] = (away | (problem.lo.isfinite() & problem.hi.isfinite())[rows]).all(1)
    if found is None:
        return centre, torch.zeros_like(centre[:, 0]), inner
    return found.y, found.scale, inner & found.value.isfinite() & (found.scale > 0)


def solved_roughly(problem: Problem, tol: float, budget: Budget) -> Incumbents:
    """What the path-following method finds on a finite box, of as many samples at a time as fit."""
    found = initial_incumbents(problem)
    size = samples_at_once(problem)
    limit = Budget(tol, None, budget.deadline)
    for rows in torch.arange(problem.batch, device=problem.lo.device).split(size):
        part = pick_rows(found, rows)
        run_loop(Newton(rough=False), problem.rows(rows), part, limit, 60)
        found.put(rows, part)
    return found


def reach_of_level(problem: Problem, point: Tensor, slope: Tensor, around: float, tol: float, budget: Budget) -> Tensor:
    """How far from a point (B, n) along sides without an end anything may lie that is no higher; inf: not known. (B,).

    Args:
        problem: the problems.
        point: within the bounds.
        slope: c, (B,).
        around, tol: how far minimisers of the tilted problems are looked for, in units of the point, and how exactly.
    """
    n, batch = problem.size, problem.batch
    cells = 48 * n * count_cells(problem.exact.opened)
    if batch > 1 and batch * cells > PART:
        return torch.cat(
            [
                reach_of_level(problem.rows(rows), point[rows], slope[rows], around, tol, budget)
                for rows in torch.arange(batch, device=point.device).split(max(1, min(PART // cells, batch // 2)))
            ]
        )
    sides = torch.stack([problem.hi.isinf(), problem.lo.isinf()], 1)  # upwards, downwards: (B, 2, n)
    owner, down, column = sides.nonzero(as_tuple=True)
    sign = 1.0 - 2.0 * down.to(point)
    tilt = torch.zeros(len(owner), n, dtype=point.dtype, device=point.device)
    tilt[torch.arange(len(owner), device=point.device), column] = sign * slope[owner]
    many = problem.rows(owner)
    room = around * point.abs().amax(1).clamp(min=1.0)[owner, None]
    tilted = replace(
        many,
        f=replace(many.f, linear=many.f.linear - tilt),
        lo=torch.maximum(many.lo, point[owner] - room),
        hi=torch.minimum(many.hi, point[owner] + room),
    )
    found = solved_roughly(tilted, tol, budget)
    unknown = torch.full_like(slope, torch.inf)
    if found.slopes is None or not bool(found.kept["slopes"].all()):
        return unknown
    plane, _ = planes_of_evidence(many, found.evidence["slopes"], found.y)
    start = WholeProgram(problem.exact.opened, problem.exact.inputs).judged(point)
    top = start.value + start.error
    # The values of the affine functions at the points, and what rounding may have made of them.
    moved = point[owner] - plane.at
    parts = plane.slope * moved
    sizes = plane.level.abs() + parts.abs().sum(1) + top.abs()[owner]
    off = plane.error + (plane.slack * moved.abs()).sum(1) + (n + 8) * ROUNDING * sizes
    apart = (top[owner] - (plane.level + parts.sum(1)) + off).clamp(min=0)
    rest = plane.slope - tilt
    slack = plane.slack + ROUNDING * (plane.slope.abs() + tilt.abs())
    falls, rises = (slack - rest).clamp(min=0), (slack + rest).clamp(min=0)  # what it may lose upwards, downwards
    up, low = (problem.hi - point)[owner], (point - problem.lo)[owner]
    gain = torch.maximum(torch.where(up.isinf(), falls, 0.0), torch.where(low.isinf(), rises, 0.0)).sum(1)
    loss = torch.maximum(
        torch.where(up.isinf(), 0.0, falls * torch.where(up.isinf(), 0.0, up)),
        torch.where(low.isinf(), 0.0, rises * torch.where(low.isinf(), 0.0, low)),
    ).sum(1)
    left = (1 - 1e-9) * slope[owner] - (1 + 1e-9) * gain
    far = torch.where(left > 1e-3 * slope[owner], (1 + 1e-9) * (apart + loss) / left, torch.inf)
    far = torch.where(far.isnan(), torch.inf, far)
    reach = torch.zeros_like(slope).scatter_reduce(0, owner, far, "amax")
    return torch.where(reach < 1e12, reach, torch.inf)
