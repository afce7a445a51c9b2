"""Vertices that are minimisers of piecewise linear functions over a box, and their derivatives.

A solver that stopped early has most of the kinks and bounds right that hold a minimiser, so that few pivots are enough.
They see the kinks near the point alone (`neighbourhood`). What they find is looked up in the function itself, and
counts only where it is beyond doubt; degenerate vertices are left to `active_set`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convexnet.form.atoms import Kinks
from convexnet.form.epigraph import EpigraphForm
from convexnet.form.linear_maps import Map
from convexnet.solve.derivatives.active_set import Held
from convexnet.solve.derivatives.neighbourhood import nearest_kinks, reduce_form
from convexnet.solve.derivatives.pivots import (
    EDGE,
    Tableau,
    pivot_to_minimum,
    pull_multipliers,
    push_derivatives,
    smaller_slopes,
    split_by_atom,
)
from convexnet.solve.functions.problem import Problem
from convexnet.solve.solvers.incumbents import Evidence, Incumbents

MANY = 2
"""Kinks that may turn, for each variable."""

TOGETHER = 32
"""Samples whose kinks are read off the functions at once."""

LARGE = 150
"""Variables up to which pivots are worth their systems."""


def starting_rows(
    form: EpigraphForm, slopes: Tensor, far: Tensor, y: Tensor, size: Tensor, lo: Tensor, hi: Tensor
) -> Tableau:
    """The rows that seem to hold the minimisers.

    Args:
        form: the kinks that may turn, as functions of t, the distance from y.
        slopes: of these, (B, M).
        far: how far they seem to be from holding, (B, M); negative where they do.
        y: the points, (B, n).
        size: the scale of f, (B,).
        lo, hi: the bounds of y, (B, n).
    """
    least, width = smaller_slopes(form), hi - lo
    scale = torch.where(width > 0, width, 1.0)
    _, lines = pull_multipliers(form, least + (1 - least) * slopes, torch.zeros_like(slopes))
    rise = form.gradient(dict(enumerate(split_by_atom(form, lines)))) * width / size.clamp(min=1e-300)[:, None]
    low, high = rise - (y - lo) / scale, -rise - (hi - y) / scale
    bounds = torch.maximum(low, high)
    bounds = torch.where(width == 0, torch.inf, torch.where(bounds > 0, 1 + bounds, bounds))
    sure = torch.cat([torch.where(least < 1, -far, -torch.inf), bounds], 1)
    first = sure.topk(form.size, 1, sorted=False).indices
    active = torch.zeros_like(sure, dtype=torch.bool).scatter_(1, first, True)
    return Tableau(form, (slopes > 0.5).to(y), active, first, (lo - y, hi - y), high > low)


def held_at_vertices(form: EpigraphForm, found: Incumbents, lo: Tensor, hi: Tensor, to_x: Tensor) -> Held:
    """The vertices that are minimisers, put into `found` with their slopes, and their derivatives for a gradient (B, n)
    of x; `sure` says for which samples."""
    slopes, batch = found.slopes, len(lo)
    nothing = torch.zeros_like(lo)
    nowhere = torch.zeros(batch, dtype=torch.bool, device=lo.device)
    none = [torch.zeros_like(c) for c in form.constants]
    kinks = {k: nowhere.clone() for k, atom in enumerate(form.atoms) if not atom.smooth}
    flags = torch.zeros_like(lo, dtype=torch.bool)
    held = Held(flags, flags.clone(), nothing, nothing.clone(), none, nowhere, kinks, found.y.clone(), nowhere.clone())
    if slopes is None or not is_usable(form, lo, hi):
        return held
    arguments, width = form.arguments(found.y), hi - lo
    table, chosen = tableau_nearby(form, arguments, found.y, slopes, found.scale, lo, hi)
    small = table.form
    t, there, done = pivot_to_minimum(table, width)
    rows = done.nonzero()[:, 0]
    if not len(rows):
        return held
    form, small, table = form.rows(rows), small.rows(rows), table.rows(rows)
    there, chosen, width = there[rows], [index[rows] for index in chosen], width[rows]
    count = there.shape[1]
    free, bound = table.active[:, :count], table.active[:, count:]
    low, high = bound & ~table.upper, bound & table.upper
    y = torch.where(low, lo[rows], torch.where(high, hi[rows], found.y[rows] + t[rows]))
    whole = [
        (a[rows] > 0).to(y).scatter(1, index, slope)
        for a, index, slope in zip(arguments, chosen, split_by_atom(small, there), strict=True)
    ]
    holds = [
        torch.zeros_like(slope).scatter(1, index, some.to(y)) > 0
        for slope, index, some in zip(whole, chosen, split_by_atom(small, free), strict=True)
    ]
    gradient = found.scale[rows, None] / torch.where(width > 0, width, 1.0)
    least = smaller_slopes(small)
    lines, _ = push_derivatives(small, least + (1 - least) * there)
    reach = (lines.abs() @ width[:, :, None])[..., 0]  # a layer's arguments may all be zero here, and no units
    units = [part.mean(1, keepdim=True) for part in split_by_atom(small, reach)]
    multipliers, arriving = form.pull(whole)
    slope = form.gradient(multipliers)
    sure = are_minimisers(form, y, whole, holds, arriving, slope / gradient, low, high, units)
    inside = (y > lo[rows] + EDGE * width) & (y < hi[rows] - EDGE * width)
    sure &= (bound | inside).all(1)
    identity = torch.eye(form.size, dtype=y.dtype, device=y.device).expand(len(y), -1, -1)
    system = torch.cat([lines, identity], 1).gather(1, table.index[:, :, None].expand(-1, -1, form.size))
    solution, failed = torch.linalg.solve_ex(system.mT, to_x[rows])
    sure &= (failed == 0) & solution.isfinite().all(1)
    forces = torch.zeros_like(table.active, dtype=y.dtype).scatter_(1, table.index, solution)
    held.put(
        rows,
        Held(
            low, high, forces[:, count:], torch.zeros_like(y),
            [
                torch.zeros_like(slope).scatter(1, i, force)
                for slope, i, force in zip(whole, chosen, split_by_atom(small, forces[:, :count]), strict=True)
            ],
            sure, {k: some.any(1) for k, some in enumerate(holds)}, y, torch.zeros_like(sure),
        ),
    )  # fmt: skip
    right = sure.nonzero()[:, 0]
    if len(right):
        found.y[rows[right]] = y[right]
        found.looked[rows[right]] = False
        found.keep(rows[right], Evidence(slopes=[slope[right] for slope in whole]))
    if len(right) == batch:
        held.slope = slope
    return held


def tableau_nearby(
    form: EpigraphForm,
    arguments: list[Tensor],
    y: Tensor,
    slopes: list[Tensor],
    size: Tensor,
    lo: Tensor,
    hi: Tensor,
) -> tuple[Tableau, list[Tensor]]:
    """The kinks near points (B, n), those that seem to hold a minimiser there active; and their numbers (B, m_k)."""
    chosen = nearest_kinks(arguments, slopes, MANY * form.size)
    small = reduce_in_parts(form, arguments, y, chosen)
    near = torch.cat([slope.gather(1, index) for slope, index in zip(slopes, chosen, strict=True)], 1)
    sizes = [a.abs().mean(1, keepdim=True) for a in arguments]
    away = [a.gather(1, i).abs() / s.clamp(min=1e-300) for a, i, s in zip(arguments, chosen, sizes, strict=True)]
    far = torch.cat(away, 1) - torch.minimum(near, 1 - near)
    return starting_rows(small, near.clamp(0, 1), far, y, size, lo, hi), chosen


def vertices_nearby(
    form: EpigraphForm, y: Tensor, slopes: list[Tensor], size: Tensor, lo: Tensor, hi: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]] | None:
    """Vertices that are minimisers as far as the kinks near points (B, n) tell: for which samples, where, all slopes.

    Nothing is looked up in the function itself: what these slopes prove says how good they are.
    """
    arguments = form.arguments(y)
    table, chosen = tableau_nearby(form, arguments, y, slopes, size, lo, hi)
    t, there, done = pivot_to_minimum(table, hi - lo)
    rows = done.nonzero()[:, 0]
    if not len(rows):
        return None
    bound = table.active[:, there.shape[1] :]
    end = torch.where(table.upper, hi, lo)
    y = torch.where(bound, end, y + t)
    whole = [
        (a > 0).to(y).scatter(1, index, slope)
        for a, index, slope in zip(arguments, chosen, split_by_atom(table.form, there), strict=True)
    ]
    if len(rows) == len(y):
        return rows, y, whole
    return rows, y[rows], [slope[rows] for slope in whole]


def reduce_in_parts(form: EpigraphForm, arguments: list[Tensor], y: Tensor, chosen: list[Tensor]) -> EpigraphForm:
    """`reduce_form`, of as many samples at once as caches hold."""
    if len(y) <= TOGETHER:
        return reduce_form(form, arguments, y, chosen)
    made = [
        reduce_form(form.rows(part), [a[part] for a in arguments], y[part], [index[part] for index in chosen])
        for part in torch.arange(len(y), device=y.device).split(TOGETHER)
    ]
    first = made[0]

    def whole(maps: list[Map | None]) -> Map | None:
        return None if None in maps else Map(torch.cat([m.matrix for m in maps if m is not None]))

    between = {key: whole([form.between[key] for form in made]) for key in first.between}
    return EpigraphForm(
        tuple(torch.cat(parts) for parts in zip(*(form.constants for form in made), strict=True)),
        first.atoms,
        tuple(whole(list(parts)) for parts in zip(*(form.from_y for form in made), strict=True)),
        {key: m for key, m in between.items() if m is not None},
        torch.cat([form.constant for form in made]),
        torch.cat([form.linear for form in made]),
        {k: torch.cat([form.weights[k] for form in made]) for k in first.weights},
    )


def is_usable(form: EpigraphForm, lo: Tensor, hi: Tensor) -> bool:
    """Whether all atoms are kinks, the same ones for every sample, in a box of few variables."""
    atoms = [atom for atom in form.atoms if isinstance(atom, Kinks)]
    if not atoms or len(atoms) < len(form.atoms) or form.size > LARGE or not Problem(form, lo, hi).compact:
        return False
    return not any(bool((part != part[:1]).any()) for atom in atoms for part in (atom.negative_slope, atom.least))


def are_minimisers(
    form: EpigraphForm,
    y: Tensor,
    slopes: list[Tensor],
    holds: list[Tensor],
    arriving: list[Tensor],
    g: Tensor,
    low: Tensor,
    high: Tensor,
    units: list[Tensor],
) -> Tensor:
    """Whether points (B, n) are certainly minimisers, and no others are, by the functions themselves, (B,).

    Args:
        form: the functions, with kinks only.
        y: the points.
        slopes: of all kinks.
        holds: which of them hold the points.
        arriving: what arrives at the atoms with these slopes.
        g: the slope of the affine function that they make, in units of a typical one of f, (B, n).
        low, high: which coordinates are held by a bound.
        units: of the arguments, (B, 1) each.
    """
    sure = y.isfinite().all(1)
    sure &= torch.where(low | high, torch.where(low, g, -g) > EDGE, g.abs() <= EDGE).all(1)
    for atom, a, slope, v, some, unit in zip(
        form.atoms, form.arguments(y), slopes, arriving, holds, units, strict=True
    ):
        assert isinstance(atom, Kinks)
        near = a / torch.maximum(a.abs().mean(1, keepdim=True), unit).clamp(min=1e-300)
        at_kink = (near.abs() <= EDGE) & (slope > EDGE) & (slope < 1 - EDGE) & (v > 0)
        beside = torch.where(slope > 0.5, near > EDGE, near < -EDGE) | (v == 0) | (atom.negative_slope >= 1)
        sure &= torch.where(some, at_kink, beside).all(1)
    return sure
