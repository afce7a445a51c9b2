"""A piecewise linear function near a point: the kinks that may turn there, and all others as the lines they are on.

With every other kink replaced by its line at the point, what is left is a small function in kink form that lies below
the function and is equal to it as long as none of the others turns. It is minimised to the last digits at a small share
of the price, and where its minimiser turns no other kink, it is that of the whole function, slopes and all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convexnet.form.atoms import Kinks
from convexnet.form.epigraph import EpigraphForm
from convexnet.form.linear_maps import Map
from convexnet.solve.derivatives.polish import solve_precisely
from convexnet.solve.functions.problem import Problem
from convexnet.solve.solvers.incumbents import Evidence, Incumbents, pick_rows

MANY = 4
"""Kinks that may turn, for each variable."""

NEAR = 0.02
"""How far from where it was found, as a share of the box, a minimiser is looked for."""

AIM = 1e-7
"""The gap to aim at, as a share of what the function rises by nearby."""

LOOSE = 1e-9
"""A gap, as a share of the scale, from which on the kinks that hold a minimiser are not known yet."""


def refine_nearby(form: EpigraphForm, found: Incumbents, lo: Tensor, hi: Tensor) -> None:
    """Put the minimisers that were found right to the last digits, with their slopes, where that is possible nearby.

    What is not found stays; nothing here is proved, and what comes of it is looked up by `active_set`.
    """
    slopes = found.slopes
    atoms = [atom for atom in form.atoms if isinstance(atom, Kinks)]
    if slopes is None or len(atoms) < len(form.atoms) or not Problem(form, lo, hi).compact:
        return
    if any(bool((part != part[:1]).any()) for atom in atoms for part in (atom.negative_slope, atom.least)):
        return  # each sample has kinks of its own, and a form those of all
    if any(atom.most is not None for atom in atoms):
        return
    rows = (found.gap > LOOSE * found.scale).nonzero()[:, 0]
    wide = sum(c.shape[1] for c in form.constants)
    if not len(rows) or wide <= 2 * MANY * form.size:
        return
    few, part, low, high = form.rows(rows), pick_rows(found, rows), lo[rows], hi[rows]
    assert part.slopes is not None
    arguments = few.arguments(part.y)
    chosen = nearest_kinks(arguments, part.slopes, MANY * form.size)
    near = reduce_form(few, arguments, part.y, chosen)
    middle = part.y
    start = pick_rows(part, torch.arange(len(rows), device=rows.device))
    start.y = torch.zeros_like(middle)
    around = NEAR * (high - low)
    small = solve_precisely(
        near, start, torch.maximum(low - middle, -around), torch.minimum(high - middle, around), tol=AIM
    )
    assert small.slopes is not None
    y = torch.minimum(torch.maximum(middle + small.y, low), high)
    there = few.arguments(y)
    made = [(a > 0).to(y) for a in there]
    for k, index in enumerate(chosen):
        made[k].scatter_(1, index, small.slopes[k])
    value = few.value(y)
    fine = value <= part.value + LOOSE * part.scale
    better = rows[fine]
    found.y[better], found.value[better] = y[fine], value[fine]
    found.looked[better] = False
    if len(better):
        found.keep(better, Evidence(slopes=[slope[fine] for slope in made]))


def nearest_kinks(arguments: list[Tensor], slopes: list[Tensor], count: int) -> list[Tensor]:
    """The numbers (B, m_k) of the kinks of each atom that are nearest to turning: `count` of each sample in all, and as
    many of each atom as the sample that has most there."""
    sizes = [a.abs().mean(1, keepdim=True) for a in arguments]
    far = [
        a.abs() / torch.where(size > 0, size, 1.0) - torch.minimum(slope, 1 - slope)
        for a, slope, size in zip(arguments, slopes, sizes, strict=True)
    ]
    whole = torch.cat(far, 1)
    limit = whole.topk(min(count, whole.shape[1]), 1, largest=False).values.amax(1, keepdim=True)
    return [distance.topk(max(1, int((distance <= limit).sum(1).max())), 1, largest=False).indices for distance in far]


def reduce_form(form: EpigraphForm, arguments: list[Tensor], y: Tensor, chosen: list[Tensor]) -> EpigraphForm:
    """The functions of t = (the variables) − y with the chosen kinks alone.

    Args:
        form: with kinks only.
        arguments: at y.
        y: (B, n).
        chosen: the numbers (B, m_k) of the kinks that stay.
    """
    lines: list[Tensor] = []  # the slopes of all others; zero of those that stay
    results: list[Tensor] = []  # of those that stay
    atoms: list[Kinks] = []
    for atom, a, index in zip(form.atoms, arguments, chosen, strict=True):
        assert isinstance(atom, Kinks)
        lines.append(torch.where(a > 0, 1.0, atom.negative_slope.expand_as(a)).scatter(1, index, 0.0))
        results.append(atom.value(a).gather(1, index))
        atoms.append(atom)
    multipliers: dict[int, Tensor] = {}
    weights: dict[int, Tensor] = {}
    for k in reversed(range(len(atoms))):
        arriving = form.arriving(k, multipliers)
        multipliers[k] = lines[k] * arriving
        weights[k] = arriving.gather(1, chosen[k])
    constants: list[Tensor] = []
    from_y: list[Map | None] = []
    between: dict[tuple[int, int], Map] = {}
    for k, index in enumerate(chosen):
        first = form.from_y[k]
        rows = y.new_zeros(*index.shape, form.size) if first is None else first.rows_of(index)
        constant = arguments[k].gather(1, index)
        arrived: dict[int, Tensor] = {}  # derivatives (B, m_k, in_j) for the arguments of atom j, along the lines
        for j in reversed(range(k)):
            total = form.between[k, j].rows_of(index) if (k, j) in form.between else None
            for i, part in arrived.items():
                if (i, j) in form.between:
                    more = rows_times_map(part, form.between[i, j])
                    total = more if total is None else total + more
            if total is None:
                continue
            own = total.gather(2, chosen[j][:, None, :].expand(-1, index.shape[1], -1))
            between[k, j] = Map(own)
            constant = constant - (own @ results[j][:, :, None])[..., 0]
            below = form.from_y[j]
            arrived[j] = total.mul_(lines[j][:, None, :])  # they are as large as the layers: memory traffic is the cost
            if below is not None:
                rows = rows + rows_times_map(total, below)
        constants.append(constant)
        from_y.append(Map(rows))
    return EpigraphForm(
        tuple(constants),
        tuple(kinks_of(atom, index) for atom, index in zip(atoms, chosen, strict=True)),
        tuple(from_y),
        between,
        torch.zeros_like(form.constant),
        form.gradient(multipliers),
        weights,
    )


def rows_times_map(rows: Tensor, m: Map) -> Tensor:
    """Rows (B, m, h) times a map's matrices (B, h, d)."""
    if m.matrix.ndim == 3:
        part = rows @ m.matrix
    else:
        part = (rows.flatten(0, 1) @ m.matrix).view(*rows.shape[:2], -1)
    return part if m.scale is None else part * m.scale[:, None, :]


def kinks_of(atom: Kinks, index: Tensor) -> Kinks:
    """The kinks of some arguments, where all have the same slope."""
    return Kinks(atom.negative_slope[:1].expand(index.shape[1]), atom.least[:1].expand(index.shape[1]))
