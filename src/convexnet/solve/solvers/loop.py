"""The one loop that every iterative solver runs in, and what a solver is.

A solver has a state for each sample of a batch. In every step it offers a point and a lower bound for each; the loop
keeps the best of both, lets samples leave whose gap is small enough, and stops at a number of steps or a time. Samples
do not see each other: each has its own best point, bound and count of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

import torch
from torch import Tensor

from convexnet.solve.functions.problem import Problem
from convexnet.solve.solvers.incumbents import DIGITS, Evidence, Incumbents, pick_rows

NEARLY = 3.0
"""A sample looks nearly done where its gap is this many times what is allowed with its last scale."""


@dataclass
class Offer:
    """What a step offers for each sample: a point within the bounds, its value, a lower bound.

    With `certify`, value and bound are estimates: where they come near, `certify(rows)` computes both in float64.
    `evidence(rows)` says what the bounds of some samples are made of.
    """

    y: Tensor
    value: Tensor
    bound: Tensor
    certify: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]] | None = None
    evidence: Callable[[Tensor], Evidence] | None = None


@dataclass(frozen=True)
class Progress:
    """The progress of a minimisation, which `minimise(callback=...)` gets after every step.

    Attributes:
        step: steps taken so far, by all solvers together.
        open: how many samples have not converged yet, of those that are worked on together.
        gap: (B,) of these samples: value − bound, as the solver has them.
        solver: which one is at work.
    """

    step: int
    open: int
    gap: Tensor
    solver: str


@dataclass
class Watch:
    """The callback of every step, which may end the minimisation."""

    callback: Callable[[Progress], object] | None = None
    verbose: bool = False
    step: int = 0
    stopped: bool = False

    def notify(self, found: Incumbents, tol: float, solver: str) -> bool:
        """Tell of a step; whether to stop."""
        self.step += 1
        if self.verbose or self.callback is not None:
            progress = Progress(self.step, int(found.open(tol).sum()), found.gap.clone(), solver)
            if self.verbose:
                worst = float(progress.gap.max())
                print(
                    f"step {self.step}: {solver}, {progress.open} of {len(progress.gap)} open, largest gap {worst:.3g}"
                )
            if self.callback is not None:
                self.stopped = self.stopped or self.callback(progress) is True
        return self.stopped


@dataclass(frozen=True)
class Budget:
    """When a search ends.

    Attributes:
        tol: the gap at which a sample counts as solved, as a share of its scale: see `Incumbents.allowed`.
        max_steps: for each sample; None: as many as the solver takes by default.
        deadline: on the monotonic clock.
        watch: the callback of every step.
    """

    tol: float
    max_steps: int | None = None
    deadline: float = math.inf
    watch: Watch | None = None

    @property
    def is_spent(self) -> bool:
        """Whether the time is over, or whoever watches has ended it."""
        return monotonic() >= self.deadline or (self.watch is not None and self.watch.stopped)


class Solver(Protocol):
    """A method: a state from a problem and a starting point, and a step."""

    name: str

    def begin(self, problem: Problem, found: Incumbents) -> Any: ...

    def step(self, problem: Problem, state: Any) -> Offer | None:
        """Change the state; None where no sample can go on."""
        ...


def run_loop(solver: Solver, problem: Problem, found: Incumbents, budget: Budget, steps: int = 100) -> None:
    """Run a solver on all samples that are still open, and keep what it finds in `found`.

    Args:
        solver: the method.
        problem: of the whole batch.
        found: what is known so far; improved in place.
        budget: when to stop.
        steps: for each sample, where the budget does not say how many.
    """
    tol, most, watch = budget.tol, budget.max_steps or steps, budget.watch
    if bool(found.scale.isnan().any()):
        found.look(problem)
    active = found.open(tol).nonzero()[:, 0]
    if not len(active):
        return
    part = problem if len(active) == problem.batch else problem.rows(active)
    state = solver.begin(part, pick_rows(found, active))
    for count in range(most):
        offer = solver.step(part, state)
        if offer is None:
            return
        found.steps[active] += 1
        last = count == most - 1 or monotonic() > budget.deadline
        if count == 0:
            found.look_again(part, active, offer.value - offer.bound)
        noted = True
        if offer.certify is None:
            found.note(active, offer.y, offer.value, offer.bound, offer.evidence)
        else:
            near = offer.value - offer.bound
            allowed = found.atol[active] + tol * found.scale[active]
            rows = (torch.full_like(near, last, dtype=torch.bool) | (near <= allowed)).nonzero()[:, 0]
            noted = len(rows) > 0
            if noted:
                shown = offer.evidence

                def some(
                    index: Tensor,
                    rows: Tensor = rows,
                    shown: Callable[[Tensor], Evidence] | None = shown,
                ) -> Evidence:
                    assert shown is not None
                    return shown(rows[index])

                found.note(active[rows], *offer.certify(rows), None if shown is None else some)
        if noted:
            remeasure_scales(part, found, active, tol)
        last = (watch is not None and watch.notify(found, tol, solver.name)) or last
        if last:
            return
        if not noted:
            continue
        going = found.open(tol)[active]
        if not bool(going.any()):
            return
        if not bool(going.all()):
            stay = going.nonzero()[:, 0]
            active, part, state = active[stay], part.rows(stay), pick_rows(state, stay)


def remeasure_scales(part: Problem, found: Incumbents, active: Tensor, tol: float) -> None:
    """Look at the scale again of the samples that look nearly done: it costs a few evaluations."""
    gap, atol, value = found.gap[active], found.atol[active], DIGITS * found.value[active].abs()
    near = (gap <= atol + NEARLY * tol * found.scale[active] + value) & ~(gap <= atol + value)
    rows = (near & ~found.looked[active]).nonzero()[:, 0]
    if len(rows):
        found.measure(part if len(rows) == part.batch else part.rows(rows), active[rows], tol)
