"""The alternating direction method of multipliers on the layers: one linear system for all of them, factored once.

The variables are w = (y, z), and a copy of everything that a constraint speaks of:

    min out(w)   subject to   (y, a_k(w), z_k) = copy,   copy of y within the bounds,   copy of (a_k, z_k) above φ_k.

Given the copies, w solves a linear system whose matrix does not depend on the step length; given w, the copies are
projections, unit by unit, in closed form. The multipliers of a_k are fitted to be a true lower bound.

A step of the driver is `EVERY` iterations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexnet.curvature.call import Refusal
from convexnet.form.atoms import Atom, Kinks
from convexnet.form.epigraph import EpigraphForm
from convexnet.form.grouped import Largest, split_into_groups
from convexnet.solve.functions.linear_program import check_kinks, subgradient_of
from convexnet.solve.functions.problem import Problem
from convexnet.solve.solvers.incumbents import Evidence, Incumbents, pick_rows
from convexnet.solve.solvers.loop import Offer

EVERY = 10
"""Iterations in a step."""

ENOUGH, LONG = 0.5, 0.4
"""Restart where the gap is this share of what it was at the last restart, or after this share of all iterations."""

LARGEST = 50_000_000
"""Entries of the factored matrices."""


class Shared:
    """A matrix (h, d) that all samples have in common, so that it stays when some of them leave."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix


@dataclass
class AdmmState:
    """The iterates of each sample, around the centre and in units of columns and rows.

    Copies and multipliers are side by side: those of y (B, n), of all arguments (B, r), of all results (B, h).
    """

    form: EpigraphForm
    middle: Tensor
    unit: Tensor
    below: Tensor
    above: Tensor
    matrix: Tensor | Shared  # of all arguments in w, (r, n + h) or (B, r, n + h)
    inverse: Tensor | Shared  # of I + matrix' matrix
    cost: Tensor  # (B, n + h)
    point: Tensor  # (B, n + r + h) copies plus multipliers / rho: its projection are the copies
    then: Tensor  # the point at the last restart
    rho: Tensor  # (B, 1)
    gap: Tensor  # (B,) at the last restart
    since: Tensor  # (B, 1) iterations since then
    count: Tensor  # (B, 1) iterations


class ADMM:
    """ADMM with relaxation 2 (Peaceman & Rachford), drawn towards its last restart (Halpern), for moderate sizes.

    Restarts go by the certified gap.

    Source: Amos & Kolter (2016) propose ADMM for the linear program; Boyd et al. (2011), Distributed optimization and
    statistical learning via ADMM, section 3.1.1; Chen et al. (2024), HPR-LP: an implementation of an HPR method for
    solving linear programming, for the reflection, the restarts and the step length.

    Example:
        >>> from convexnet.solve.solvers.incumbents import initial_incumbents
        >>> from convexnet.solve.solvers.loop import Budget, run_loop
        >>> from convexnet.form.linear_maps import Map
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> f = EpigraphForm(
        ...     (-0.3 * one,), (Kinks(-one[0]),), (Map(one),), {}, 0 * one[0], 0 * one, {0: one}
        ... )  # |y - 0.3|
        >>> problem = Problem(f, -one, one)
        >>> found = initial_incumbents(problem)
        >>> run_loop(ADMM(), problem, found, Budget(1e-6, max_steps=40))
        >>> bool(found.gap < 1e-6), round(found.y.item(), 5)
        (True, 0.3)
    """

    name = "admm"

    def begin(self, problem: Problem, found: Incumbents) -> AdmmState:
        check_kinks(problem.f, self.name)
        middle = problem.centre()
        unit = column_units(problem.f)
        form = in_row_units(problem.f.change_variable(middle, unit))
        y, below, above = ((part - middle) / unit for part in (found.y, problem.lo, problem.hi))
        matrix = stacked_matrix(form)
        square = matrix.mT @ matrix
        square.diagonal(dim1=-2, dim2=-1).add_(1.0)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(square))
        arguments = form.arguments(y)
        results = [atom.value(a) for atom, a in zip(form.atoms, arguments, strict=True)]
        cost = [form.weights.get(k, torch.zeros_like(z)) for k, z in enumerate(results)]
        copy = torch.cat([y, *arguments, *results], 1)
        cost = torch.cat([form.linear, *cost], 1)
        chosen, (g, _) = form.fit(subgradient_of(form, arguments), arguments)
        arriving = [form.arriving(k, chosen) for k in range(len(form.atoms))]
        multipliers = torch.cat([-g, *[chosen[k] for k in range(len(form.atoms))], *[-v for v in arriving]], 1)
        size, wide = norm(multipliers), norm(copy)
        rho = torch.where((size > 0) & (wide > 0), size / torch.where(wide > 0, wide, 1.0), 1.0)
        point, none = copy + multipliers / rho, torch.zeros_like(rho)
        return AdmmState(
            form, middle, unit + 0 * y, below, above, pick_samples(matrix), pick_samples(inverse), cost, point, point,
            rho, none[:, 0] + torch.inf, none, none,
        )  # fmt: skip

    def step(self, problem: Problem, state: AdmmState) -> Offer:
        form, n, r = state.form, state.form.size, rows_of(state)
        for _ in range(EVERY):
            self.iterate(state)
        copy = project_copies(state, state.point)
        y = problem.inside(state.middle + state.unit * copy[:, :n])
        scaled = state.rho * (state.point - copy)
        parts = scaled[:, n : n + r].split([c.shape[1] for c in form.constants], 1)
        multipliers, (g, b) = form.fit(dict(enumerate(parts)), list(parts))
        value, bound = problem.f.value(y), Problem(form, state.below, state.above).proved_minimum(g, b)
        self.restart(state, copy, value - bound)

        def evidence(rows: Tensor) -> Evidence:
            slopes = form.rows(rows).slopes_from(pick_rows(multipliers, rows))
            return Evidence(touch=y[rows], slopes=slopes)

        return Offer(y, value, bound, evidence=evidence)

    def iterate(self, state: AdmmState) -> None:
        """One round: project, solve for w from what is reflected, and move twice as far as the two differ."""
        n, r = state.form.size, rows_of(state)
        copy = project_copies(state, state.point)
        goal = 2 * copy - state.point
        constants = torch.cat([state.cost[:, :0], *state.form.constants], 1)
        right = torch.cat([goal[:, :n], goal[:, n + r :]], 1) - state.cost / state.rho
        right = right + transposed(state.matrix, goal[:, n : n + r] - constants)
        w = product(state.inverse, right)
        moved = torch.cat([w[:, :n], product(state.matrix, w) + constants, w[:, n:]], 1)
        share = (state.since + 1) / (state.since + 2)
        state.point = torch.lerp(state.then, state.point + 2 * (moved - copy), share.expand_as(copy))
        state.since, state.count = state.since + 1, state.count + 1

    def restart(self, state: AdmmState, copy: Tensor, gap: Tensor) -> None:
        """Begin again from here where the gap has fallen enough, or for too long not; with another step length."""
        again = (gap <= ENOUGH * state.gap)[:, None] | (state.since >= LONG * state.count)
        before = project_copies(state, state.then)
        moved, turned = norm(copy - before), state.rho * norm(state.point - copy - state.then + before)
        usual = again & (moved > 0) & (turned > 0)
        rho = torch.where(usual, (state.rho * turned / torch.where(usual, moved, 1.0)).sqrt(), state.rho)
        state.point = torch.where(again, copy + (state.rho / rho) * (state.point - copy), state.point)
        state.then = torch.where(again, state.point, state.then)
        state.rho = rho
        state.gap = torch.where(again[:, 0], gap, state.gap)
        state.since = torch.where(again, 0.0, state.since)


def rows_of(state: AdmmState) -> int:
    return sum(c.shape[1] for c in state.form.constants)


def pick_samples(matrix: Tensor) -> Tensor | Shared:
    return Shared(matrix) if matrix.ndim == 2 else matrix


def norm(x: Tensor) -> Tensor:
    return x.norm(dim=1, keepdim=True)


def product(matrix: Tensor | Shared, x: Tensor) -> Tensor:
    """A shared (h, d) or each sample's own (B, h, d) matrix times (B, d)."""
    return x @ matrix.matrix.mT if isinstance(matrix, Shared) else (matrix @ x[:, :, None])[..., 0]


def transposed(matrix: Tensor | Shared, x: Tensor) -> Tensor:
    """Its transpose times (B, h)."""
    return x @ matrix.matrix if isinstance(matrix, Shared) else (matrix.mT @ x[:, :, None])[..., 0]


def project_copies(state: AdmmState, point: Tensor) -> Tensor:
    """The nearest copies that satisfy their constraints."""
    form, n = state.form, state.form.size
    inside = [c.shape[1] for c in form.constants]
    outside = [size // atom.group for size, atom in zip(inside, form.atoms, strict=True)]
    y, *rest = point.split([n, *inside, *outside], 1)
    pairs = [
        project_on_epigraph(atom, a, z)
        for atom, a, z in zip(form.atoms, rest[: len(inside)], rest[len(inside) :], strict=True)
    ]
    y = torch.minimum(torch.maximum(y, state.below), state.above)
    return torch.cat([y, *[a for a, _ in pairs], *[z for _, z in pairs]], 1)


def project_on_epigraph(atom: Atom, a: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest (a, z) with z >= φ(a).

    Example:
        >>> project_on_epigraph(Kinks(torch.zeros(1)), torch.tensor([[2.0]]), torch.tensor([[0.0]]))
        (tensor([[1.]]), tensor([[1.]]))
    """
    if isinstance(atom, Largest):
        parts = split_into_groups(a, atom.group)
        top = torch.cat([z[..., None], parts.sort(-1, descending=True).values], -1).cumsum(-1)
        level = (top / torch.arange(1, atom.group + 2, device=a.device)).amax(-1)  # z, lifted by those above it
        return torch.minimum(parts, level[..., None]).flatten(-2), level
    assert isinstance(atom, Kinks)
    s = atom.least
    right = ((a + z) / 2).clamp(min=0)  # on the ray (1, 1)
    left = ((a + s * z) / (1 + s * s)).clamp(max=0)  # on the ray -(1, s)
    nearer = (right - a) ** 2 + (right - z) ** 2 <= (left - a) ** 2 + (s * left - z) ** 2
    fine = z >= torch.maximum(a, s * a)
    return (
        torch.where(fine, a, torch.where(nearer, right, left)),
        torch.where(fine, z, torch.where(nearer, right, s * left)),
    )


def column_units(form: EpigraphForm) -> Tensor:
    """Units (n,) of y in which its columns are of about length 1, as far as all samples share them."""
    total = torch.zeros_like(form.linear[0])
    for first in form.from_y:
        if first is not None and first.matrix.ndim == 2:
            total = total + (first.matrix**2).sum(0)
    return torch.where(total > 0, total, 1.0).rsqrt()


def in_row_units(form: EpigraphForm) -> EpigraphForm:
    """The same functions with the rows of every argument of about length 1, as far as all samples share them."""
    factors: list[Tensor] = []
    units: list[Tensor] = []
    for k, atom in enumerate(form.atoms):
        maps = [(form.from_y[k], None), *[(form.between.get((k, j)), factors[j]) for j in range(k)]]
        total = torch.zeros_like(form.constants[k][0])
        for piece, factor in maps:
            if piece is not None and piece.matrix.ndim == 2:
                total = total + ((piece.matrix if factor is None else piece.matrix * factor) ** 2).sum(1)
        size = split_into_groups(total, atom.group).mean(-1, keepdim=True).expand(-1, atom.group).flatten().sqrt()
        units.append(torch.where(size > 0, size, 1.0))
        factors.append(atom.in_units(units[k])[1])
    return form.in_units(units)


def stacked_matrix(form: EpigraphForm) -> Tensor:
    """All arguments as one matrix in (y, z_1, z_2, ...): (r, n + h), or (B, r, n + h) where the samples differ.

    Raises:
        Refusal: it would be too large.
    """
    inside = [c.shape[1] for c in form.constants]
    outside = [size // atom.group for size, atom in zip(inside, form.atoms, strict=True)]
    maps = [m for m in (*form.from_y, *form.between.values()) if m is not None]
    shared = all(m.scale is None and m.matrix.ndim == 2 for m in maps)
    count = 1 if shared else form.batch
    wide = form.size + sum(outside)
    if count * wide * max(wide, sum(inside)) > LARGEST:
        raise Refusal(
            f"its layers make {count} matrices of {wide} x {wide} entries, too large for solver 'admm'",
            "use solver='pdhg', which needs products only",
        )
    rows: list[Tensor] = []
    for k, height in enumerate(inside):
        pieces = [form.from_y[k], *[form.between.get((k, j)) for j in range(len(outside))]]
        blocks: list[Tensor] = []
        for piece, width in zip(pieces, [form.size, *outside], strict=True):
            if piece is None:
                blocks.append(form.linear.new_zeros(count, height, width))
            else:
                blocks.append(piece.matrix[None] if shared else piece.columns(form.batch))
        rows.append(torch.cat(blocks, 2))
    whole = torch.cat(rows, 1) if rows else form.linear.new_zeros(count, 0, wide)
    return whole[0] if shared else whole
