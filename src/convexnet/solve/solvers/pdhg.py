"""Primal-dual hybrid gradient on the layers: one product with the network's maps and one back in each iteration.

The network is the linear program of `convexnet.solve.functions.linear_program`. The method knows it by products alone,
so that the layers may be convolutions of any size. What its multipliers of the rows add up to are multipliers of the
arguments, which are fitted to be a true lower bound; its y has the value of the network itself, whatever z is. Restarts
watch the gap between the two.

A step of the driver is `EVERY` iterations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexnet.form.epigraph import EpigraphForm
from convexnet.solve.functions.linear_program import (
    LinearProgram,
    Parts,
    check_kinks,
    choose_slopes,
    divide_columns,
    dual_distance,
    matrix_times,
    zeros,
)
from convexnet.solve.functions.problem import Problem
from convexnet.solve.solvers.incumbents import Evidence, Incumbents, pick_rows
from convexnet.solve.solvers.loop import Offer

EVERY = 25
"""Iterations in a step."""

PROBES, ROUNDS, POWERS = 4, 3, 12
"""Random vectors for the sizes of rows and columns, rounds of scaling, and iterations for the norm."""

ENOUGH, LONG = 0.2, 0.2
"""Restart where the gap is this share of what it was at the last restart, or after this share of all iterations."""

SHORT = 0.9
"""Step lengths: their product with the norm, which is estimated from below."""


@dataclass
class PdhgState:
    """The iterates of each sample, in the scaled variables x / column and multiplier / row."""

    columns: Parts
    rows: Parts
    norm: Tensor  # (B, 1) of the scaled matrix
    primal: Parts
    dual: Parts
    slopes: Parts  # of the Lagrangian, scaled
    weight: Tensor  # (B, 1): dual steps are so much longer than primal ones
    ahead: tuple[Parts, Parts]  # where the last plain step went
    then: tuple[Parts, Parts]  # where the last restart was
    gap: Tensor  # (B,) then
    since: Tensor  # (B, 1) iterations since then
    count: Tensor  # (B, 1) iterations


class PDHG:
    """Primal-dual hybrid gradient, reflected and drawn towards its last restart (Halpern), with a primal weight.

    Source: Chambolle & Pock (2011), A first-order primal-dual algorithm for convex problems, algorithm 1, for the step;
    Lu & Yang (2024), Restarted Halpern PDHG for linear programming, for what is made of it; Applegate et
    al. (2021), Practical large-scale linear programming using primal-dual hybrid gradient, for the primal weight.
    Restarts go by the certified gap here, which a network gives for two more evaluations.

    Example:
        >>> from convexnet.solve.solvers.incumbents import initial_incumbents
        >>> from convexnet.solve.solvers.loop import Budget, run_loop
        >>> from convexnet.form.atoms import Kinks
        >>> from convexnet.form.linear_maps import Map
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> f = EpigraphForm(
        ...     (-0.3 * one,), (Kinks(-one[0]),), (Map(one),), {}, 0 * one[0], 0 * one, {0: one}
        ... )  # |y - 0.3|
        >>> problem = Problem(f, -one, one)
        >>> found = initial_incumbents(problem)
        >>> run_loop(PDHG(), problem, found, Budget(1e-6, max_steps=40))
        >>> bool(found.gap < 1e-6), round(found.y.item(), 5)
        (True, 0.3)
    """

    name = "pdhg"

    def begin(self, problem: Problem, found: Incumbents) -> PdhgState:
        check_kinks(problem.f, self.name)
        program = LinearProgram(problem.f)
        arguments = problem.f.arguments(found.y)
        primal = [found.y, *[atom.value(a) for atom, a in zip(problem.f.atoms, arguments, strict=True)]]
        finite = problem.lo.isfinite() & problem.hi.isfinite() & (problem.hi > problem.lo)
        columns, rows, norm = scaling_of(program, primal, torch.where(finite, (problem.hi - problem.lo) / 2, 1.0))
        primal, dual = divide_columns(primal, columns), divide_columns(program.initial_dual(arguments), rows)
        large, wide = dual_distance(dual, zeros(dual)), dual_distance(primal, zeros(primal))
        weight = torch.where((large > 0) & (wide > 0), large / torch.where(wide > 0, wide, 1.0), 1.0)
        none, start = torch.zeros_like(norm), (primal, dual)
        state = PdhgState(
            columns, rows, norm, primal, dual, [], weight, start, start, none[:, 0] + torch.inf, none, none
        )
        self.turn(program, state)
        return state

    def turn(self, program: LinearProgram, state: PdhgState) -> None:
        """The slopes for new multipliers."""
        _, back = program.products(matrix_times(state.primal, state.columns))
        state.slopes = matrix_times(back(matrix_times(state.dual, state.rows)), state.columns)

    def step(self, problem: Problem, state: PdhgState) -> Offer:
        program = LinearProgram(problem.f)
        for _ in range(EVERY):
            self.iterate(problem, program, state)
        primal, dual = state.ahead
        y = problem.inside(primal[0] * state.columns[0])
        wanted = dict(enumerate(program.multipliers(matrix_times(dual, state.rows))))
        multipliers, (g, b) = program.f.fit(wanted, list(wanted.values()))
        value, bound = problem.f.value(y), problem.proved_minimum(g, b)
        self.restart(program, state, value - bound)
        f = problem.f

        def evidence(rows: Tensor) -> Evidence:
            some = pick_rows(multipliers, rows)
            if isinstance(f, EpigraphForm):
                return Evidence(touch=y[rows], slopes=f.rows(rows).slopes_from(some))
            listed = [some[k] for k in range(len(f.atoms))]
            return Evidence(touch=y[rows], multipliers=listed, touching=listed)

        return Offer(y, value, bound, evidence=evidence)

    def iterate(self, problem: Problem, program: LinearProgram, state: PdhgState) -> None:
        short = SHORT / state.norm
        primal = [x - short / state.weight * slope for x, slope in zip(state.primal, state.slopes, strict=True)]
        primal[0] = problem.inside(primal[0] * state.columns[0]) / state.columns[0]
        for k in range(len(program.f.atoms)):
            primal[k + 1] = primal[k + 1].clamp(min=program.lowest(k))
        further = [2 * x - old for x, old in zip(primal, state.primal, strict=True)]
        values, back = program.products(matrix_times(further, state.columns))
        dual = [
            (m + short * state.weight * row * value).clamp(min=0)
            for m, row, value in zip(state.dual, state.rows, values, strict=True)
        ]
        share = (state.since + 1) / (state.since + 2)

        def drawn(new: Parts, old: Parts, then: Parts) -> Parts:
            return [torch.lerp(t, 2 * x - o, share.expand_as(x)) for x, o, t in zip(new, old, then, strict=True)]

        state.ahead = primal, dual
        state.primal = drawn(primal, state.primal, state.then[0])
        state.dual = drawn(dual, state.dual, state.then[1])
        state.slopes = matrix_times(back(matrix_times(state.dual, state.rows)), state.columns)
        state.since, state.count = state.since + 1, state.count + 1

    def restart(self, program: LinearProgram, state: PdhgState, gap: Tensor) -> None:
        """Begin again from here where the gap has fallen enough, or for too long not."""
        again = (gap <= ENOUGH * state.gap)[:, None] | (state.since >= LONG * state.count)
        if not bool(again.any()):
            return
        primal, dual = state.ahead
        moved, turned = dual_distance(primal, state.then[0]), dual_distance(dual, state.then[1])
        usual = (moved > 0) & (turned > 0)
        ratio = torch.where(usual, turned / torch.where(usual, moved, 1.0), state.weight)
        state.weight = torch.where(again, (state.weight * ratio).sqrt(), state.weight)
        state.primal, state.dual = choose_slopes(again, primal, state.primal), choose_slopes(again, dual, state.dual)
        state.then = choose_slopes(again, primal, state.then[0]), choose_slopes(again, dual, state.then[1])
        state.gap = torch.where(again[:, 0], gap, state.gap)
        state.since = torch.where(again, 0.0, state.since)
        self.turn(program, state)


def scaling_of(program: LinearProgram, primal: Parts, radius: Tensor) -> tuple[Parts, Parts, Tensor]:
    """Sizes for columns and rows that bring both of the scaled matrix to about 1, and its norm (B, 1).

    Rows and columns are measured with random signs, because only products are known; any sizes would do.
    """
    generator = torch.Generator().manual_seed(0)
    base, back = program.products(zeros(primal))
    cost = back(zeros(base))

    def forwards(x: Parts) -> Parts:
        return [row - origin for row, origin in zip(program.products(x)[0], base, strict=True)]

    def backwards(m: Parts) -> Parts:
        return [slope - own for slope, own in zip(back(m), cost, strict=True)]

    def signs(parts: Parts) -> Parts:
        return [
            (2 * torch.randint(0, 2, (1, part.shape[1]), generator=generator, dtype=torch.float64) - 1)
            .to(part.device)
            .expand_as(part)
            for part in parts
        ]

    def sizes(parts: list[Parts]) -> Parts:
        means = [torch.stack([part[i] ** 2 for part in parts]).mean(0).sqrt() for i in range(len(parts[0]))]
        return [torch.where(mean > 1e-12, mean, 1.0) for mean in means]

    columns = [radius, *[torch.ones_like(z) for z in primal[1:]]]
    rows = [torch.ones_like(row) for row in base]
    for _ in range(ROUNDS):
        seen = sizes([matrix_times(forwards(matrix_times(signs(columns), columns)), rows) for _ in range(PROBES)])
        rows = divide_columns(rows, [size.sqrt() for size in seen])
        seen = sizes([matrix_times(backwards(matrix_times(signs(rows), rows)), columns) for _ in range(PROBES)])
        columns = divide_columns(columns, [size.sqrt() for size in seen])
    x = signs(columns)
    norm = torch.ones_like(radius[:, :1])
    for _ in range(POWERS):
        length = dual_distance(x, zeros(x)).clamp(min=1e-300)
        m = matrix_times(forwards(matrix_times([part / length for part in x], columns)), rows)
        x = matrix_times(backwards(matrix_times(m, rows)), columns)
        norm = dual_distance(m, zeros(m))
    return columns, rows, torch.where(norm > 0, norm, 1.0).expand_as(radius[:, :1])
