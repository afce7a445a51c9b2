"""The one loop that every iterative solver runs in, and what a solver is.

A solver has a state for each sample of a batch. In every step it offers a point and a lower bound for each; the loop
keeps the best of both, lets samples leave whose gap is small enough, and stops at a number of steps or a time. Samples
do not see each other: each has its own best point, bound and count of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from time import monotonic
from typing import Any, Protocol

import torch
from torch import Tensor

from convexnet.solve.kink_form import KinkForm

FLAT = 1e-12
"""The least size that a gap is compared with: for functions that are constant."""


class Function(Protocol):
    """A batch of B convex functions of y in R^n, in float64."""

    @property
    def batch(self) -> int: ...

    @property
    def size(self) -> int: ...

    def value(self, y: Tensor) -> Tensor:
        """f(y), (B,)."""
        ...

    def subgradient(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """f(y) (B,) and a subgradient (B, n), which makes an affine function below f."""
        ...

    def rows(self, index: Tensor) -> Function:
        """The functions of some samples."""
        ...


@dataclass(frozen=True)
class Problem:
    """min f(y) for lo <= y <= hi, for each sample; bounds (B, n) may be infinite."""

    f: Any  # a Function; solvers that read more of it say so
    lo: Tensor
    hi: Tensor
    strong: Tensor | None = None
    """c (B, n) with f(y) − ½ Σ c_j y_j² convex too; on a domain without bounds nothing is proved otherwise."""

    @property
    def batch(self) -> int:
        """B."""
        return self.lo.shape[0]

    @property
    def size(self) -> int:
        """n."""
        return self.lo.shape[1]

    @property
    def compact(self) -> bool:
        """Whether all bounds are finite."""
        return bool(self.lo.isfinite().all() and self.hi.isfinite().all())

    def centre(self) -> Tensor:
        """The middle of each interval; of one without an end, its point nearest to 0. (B, n)."""
        finite = self.lo.isfinite() & self.hi.isfinite()
        nearest = torch.zeros_like(self.lo).clamp(self.lo, self.hi)
        return torch.where(finite, torch.where(finite, self.lo, 0) / 2 + torch.where(finite, self.hi, 0) / 2, nearest)

    def inside(self, y: Tensor) -> Tensor:
        """The nearest points within the bounds."""
        return torch.minimum(torch.maximum(y, self.lo), self.hi)

    def inside_rows(self, rows: Tensor, y: Tensor) -> Tensor:
        """`inside`, for points of some samples only."""
        return torch.minimum(torch.maximum(y, self.lo[rows]), self.hi[rows])

    def least(self, g: Tensor, b: Tensor, at: Tensor | None = None) -> Tensor:
        """The least value within the bounds of g y + b, which lies below f: a lower bound, (B,).

        Args:
            at: where the parts of f that curve touch what lies below them, (B, n): so that ½ Σ c_j (y_j − at_j)² may be
                added, if f is known to be strongly convex.
        """
        if at is not None and self.strong is not None:
            steep = self.strong > 0
            lowest = at - g / torch.where(steep, self.strong, 1.0)
            ends = torch.where(steep, self.inside(lowest), torch.where(g > 0, self.lo, self.hi))
            ends = torch.where((g == 0) & ~steep, at, ends)
            bent = torch.where(steep, self.strong * (ends - at) ** 2 / 2, 0.0)
            return b + (torch.where(g == 0, 0.0, g * ends) + bent).sum(1)
        ends = torch.where(g > 0, self.lo, self.hi)
        return b + torch.where(g == 0, 0.0, g * torch.where(g == 0, 0.0, ends)).sum(1)

    def tangent(self, y: Tensor, value: Tensor, g: Tensor) -> Tensor:
        """The bound from a subgradient g at y, (B,)."""
        return self.least(g, value - (g * y).sum(1), y)

    def converted(self, dtype: torch.dtype) -> Problem:
        """The same bounds in another precision; the functions stay as they are."""
        strong = None if self.strong is None else self.strong.to(dtype)
        return Problem(self.f, self.lo.to(dtype), self.hi.to(dtype), strong)

    def rows(self, index: Tensor) -> Problem:
        """The problems of some samples."""
        strong = None if self.strong is None else self.strong[index]
        return Problem(self.f.rows(index), self.lo[index], self.hi[index], strong)


@dataclass
class Found:
    """The best point (B, n) of each sample, its value and the best lower bound (B,) in float64, the steps taken."""

    y: Tensor
    value: Tensor
    bound: Tensor
    steps: Tensor
    centre: Tensor  # the value at the domain's centre
    gates: list[Tensor] | None = None  # that give the bound, where they were asked for

    @property
    def gap(self) -> Tensor:
        """value − bound."""
        return self.value - self.bound

    def allowed(self, tol: float) -> Tensor:
        """The gap at which a sample counts as solved: tol · max(|value|, f(centre) − value, 1e-12)."""
        return tol * torch.maximum(self.value.abs(), self.centre - self.value).clamp(min=FLAT)

    def open(self, tol: float) -> Tensor:
        """Which samples are not solved."""
        return ~(self.gap <= self.allowed(tol))

    def note(
        self, active: Tensor, y: Tensor, value: Tensor, bound: Tensor, gates: Sequence[Tensor] | None = None
    ) -> None:
        """Keep what is better than before, for the samples `active`."""
        better = value < self.value[active]
        self.value[active[better]], self.y[active[better]] = value[better], y[better]
        higher = bound > self.bound[active]
        self.bound[active[higher]] = bound[higher]
        if gates is not None:
            if self.gates is None:
                self.gates = [torch.zeros(len(self.value), gate.shape[1]).to(self.value) for gate in gates]
            for kept, gate in zip(self.gates, gates, strict=True):
                kept[active[higher]] = gate[higher].double()

    def put(self, index: Tensor, part: Found) -> None:
        """What was found for some samples."""
        self.y[index], self.value[index], self.bound[index] = part.y, part.value, part.bound
        self.steps[index] = part.steps
        if part.gates is not None:
            if self.gates is None:
                self.gates = [torch.zeros(len(self.value), gate.shape[1]).to(gate) for gate in part.gates]
            for kept, gate in zip(self.gates, part.gates, strict=True):
                kept[index] = gate


def nothing_yet(problem: Problem) -> Found:
    """The centre as the best point, and no bound."""
    y = problem.centre()
    value = problem.f.value(y)
    bound = torch.full_like(value, -torch.inf)
    steps = torch.zeros(problem.batch, dtype=torch.int64, device=y.device)
    return Found(y, value.clone(), bound, steps, value)


@dataclass
class Offer:
    """What a step offers for each sample: a point within the bounds, its value, a lower bound.

    With `certify`, value and bound are estimates: where they come near, `certify(rows)` computes both in float64.
    """

    y: Tensor
    value: Tensor
    bound: Tensor
    certify: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]] | None = None
    gates: Callable[[], Sequence[Tensor]] | None = None  # that give the bound


class Solver(Protocol):
    """A method: a state from a problem and a starting point, and a step."""

    name: str

    def begin(self, problem: Problem, found: Found) -> Any: ...

    def step(self, problem: Problem, state: Any) -> Offer | None:
        """Change the state; None where no sample can go on."""
        ...


def picked(value: Any, index: Tensor) -> Any:
    """The rows of some samples of everything in a state."""
    if isinstance(value, (KinkForm, Problem)):
        return value.rows(index)
    if isinstance(value, Tensor):
        return value[index] if value.ndim else value
    if isinstance(value, (list, tuple)):
        return type(value)(picked(part, index) for part in value)
    if isinstance(value, dict):
        return {key: picked(part, index) for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: picked(getattr(value, f.name), index) for f in fields(value)})
    return value


def drive(
    solver: Solver,
    problem: Problem,
    found: Found,
    tol: float,
    most: int,
    deadline: float,
    keep: bool = False,
) -> None:
    """Run a solver on all samples that are still open, and keep what it finds in `found`.

    Args:
        solver: the method.
        problem: of the whole batch.
        found: what is known so far; improved in place.
        tol: see `Found.allowed`.
        most: steps for each sample.
        deadline: on the monotonic clock.
        keep: keep the gates of the best bounds too.
    """
    active = found.open(tol).nonzero()[:, 0]
    if not len(active):
        return
    part = problem if len(active) == problem.batch else problem.rows(active)
    state = solver.begin(part, picked(found, active))
    for count in range(most):
        offer = solver.step(part, state)
        if offer is None:
            return
        found.steps[active] += 1
        last = count == most - 1 or monotonic() > deadline
        gates = offer.gates() if keep and offer.gates is not None else None
        if offer.certify is None:
            found.note(active, offer.y, offer.value, offer.bound, gates)
        else:
            near = offer.value - offer.bound
            size = torch.maximum(offer.value.abs(), found.centre[active] - offer.value).clamp(min=FLAT)
            rows = (torch.full_like(near, last, dtype=torch.bool) | (near <= tol * size)).nonzero()[:, 0]
            if len(rows):
                some = None if gates is None else [gate[rows] for gate in gates]
                found.note(active[rows], *offer.certify(rows), some)
        going = found.open(tol)[active]
        if last or not bool(going.any()):
            return
        if not bool(going.all()):
            stay = going.nonzero()[:, 0]
            active, part, state = active[stay], part.rows(stay), picked(state, stay)
