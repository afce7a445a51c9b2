"""What solvers have found: the best point and lower bound of each sample, the scale of its gap, and the evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from convexnet.form.epigraph import EpigraphForm
from convexnet.solve.functions.problem import Problem

PATTERNS = 1
"""Random patterns of signs, beside the two of one sign and the two that alternate, along which f is looked at; and
their opposites."""

TOGETHER = 64
"""How many evaluations are made at once, so that a few samples do not cost many calls."""

HARDLY = 0.05
"""Rises that are smaller than this share of a solver's first gap are not typical of f."""

DIGITS = 4e-15
"""What the search may leave of a gap, as a share of the value: rounding."""


def rises(problem: Problem, y: Tensor, value: Tensor, ways: Tensor) -> Tensor:
    """The rises of f from y, whose largest is the scale S (B,) that a gap is compared with, (P, B).

    With |d_j| = min(side_j, max(1, |y_j|)), cut off at the bounds, and r = max(1, |y_1|, …, |y_n|),

        S = max over the signs of d of r · (f(y + d / r) − f(y)):

    the rise to y + d where f is as steep there as it is nearer by, and no more where it grows faster (an exponential,
    far from its minimum, rises by any amount). It has the units of f, does not see what is added to it, and stays what
    it is on a wider box.

    Args:
        problem: the functions.
        y: (B, n).
        value: f(y), (B,).
        ways: patterns of signs for all samples, (P, 1, n), or for each, (P, B, n).

    Returns:
        None is below 0, nor infinite.

    Example:
        >>> class Size:
        ...     batch, size = 1, 2
        ...
        ...     def value(self, y):
        ...         return 3 * y.abs().sum(1) + 7
        ...
        ...     def rows(self, index):
        ...         return self
        >>> zero = torch.zeros(1, 2)
        >>> problem = Problem(Size(), zero - 1e6, zero + 1e6)
        >>> float(rises(problem, zero, torch.tensor([7.0]), sign_patterns(2, zero)[:, None]).amax())
        6.0
    """
    f = problem.f
    length = y.abs().clamp(min=1.0)
    reach = torch.minimum(problem.hi - problem.lo, length)
    far = length.amax(1, keepdim=True)
    everyone = torch.arange(len(y), device=y.device)
    found: list[Tensor] = []
    for some in ways.split(max(1, TOGETHER // len(y))):
        moved = problem.inside(y + some * reach) - y
        points = problem.inside(y + moved / far).flatten(0, 1)
        many = f if len(some) == 1 else f.rows(everyone.repeat(len(some)))
        rise = far[:, 0] * (many.value(points).view(len(some), -1) - value)
        found.append(torch.where(rise.isfinite(), rise, 0.0).clamp(min=0))
    return torch.cat(found)


def sign_patterns(n: int, like: Tensor) -> Tensor:
    """Patterns of signs (P, n): each with its opposite."""
    generator = torch.Generator().manual_seed(0)
    random = 2.0 * torch.randint(0, 2, (PATTERNS, n), generator=generator) - 1.0
    turning = 1.0 - 2.0 * (torch.arange(n) % 2)
    half = torch.cat([torch.ones(1, n), turning[None], random])
    if n <= PATTERNS:  # fewer patterns than that are different
        half = half * half[:, :1]
    return torch.unique(torch.cat([half, -half]), dim=0).to(like)


@dataclass
class Evidence:
    """What a lower bound was made of, so that it can be proved: whatever a solver has of this, in float64.

    Attributes:
        touch: where the affine function touches smooth atoms, (B, n).
        slopes: of each atom, (B, in_k).
        multipliers, touching: of the arguments of each atom, and where its tangents touch, (B, in_k).
        points, shares: the points of tangents, (B, m, n), and the weights of their average, (B, m).
    """

    touch: Tensor | None = None
    slopes: list[Tensor] | None = None
    multipliers: list[Tensor] | None = None
    touching: list[Tensor] | None = None
    points: Tensor | None = None
    shares: Tensor | None = None

    @property
    def kind(self) -> str:
        """What it consists of."""
        return "slopes" if self.slopes is not None else "averages" if self.multipliers is not None else "tangents"

    def put(self, index: Tensor, part: Evidence) -> None:
        """That of some samples."""
        for name in ("touch", "points", "shares"):
            mine, theirs = getattr(self, name), getattr(part, name)
            if mine is None or theirs is None:
                continue
            if name != "touch" and mine.shape[1] < theirs.shape[1]:
                mine = torch.cat([mine, mine.new_zeros(len(mine), theirs.shape[1] - mine.shape[1], *mine.shape[2:])], 1)
                setattr(self, name, mine)
            if name == "shares":
                mine[index] = 0.0
            if name == "touch":
                mine[index] = theirs.to(mine)
            else:
                mine[index, : theirs.shape[1]] = theirs.to(mine)
        for name in ("slopes", "multipliers", "touching"):
            mine, theirs = getattr(self, name), getattr(part, name)
            if mine is not None and theirs is not None:
                for kept, new in zip(mine, theirs, strict=True):
                    kept[index] = new.to(kept)

    def empty(self, batch: int) -> Evidence:
        """Room for the same of a batch."""

        def room(part: Tensor) -> Tensor:
            return torch.zeros(batch, *part.shape[1:], dtype=torch.float64, device=part.device)

        made: dict[str, Any] = {}
        for each in fields(self):
            part = getattr(self, each.name)
            made[each.name] = (
                [room(t) for t in part] if isinstance(part, list) else None if part is None else room(part)
            )
        return Evidence(**made)


@dataclass
class Incumbents:
    """The best point (B, n) of each sample, its value and the best lower bound (B,) in float64, the steps taken."""

    y: Tensor
    value: Tensor
    bound: Tensor
    steps: Tensor
    centre: Tensor  # the value at the domain's centre
    scale: Tensor  # (B,) what gaps are compared with, S or less, as it was last looked at; NaN before that
    way: Tensor  # (B,) the pattern of signs that made it
    atol: Tensor  # (B,)
    evidence: dict[str, Evidence]  # of the best bounds of each kind
    kept: dict[str, Tensor]  # for which samples (B,) there is some
    looked: Tensor  # (B,) whether the scale is that of the best point; less than S only if that says enough

    @property
    def gap(self) -> Tensor:
        """value − bound."""
        return self.value - self.bound

    @property
    def slopes(self) -> list[Tensor] | None:
        """The slopes that give the bounds, if these come from slopes."""
        return self.evidence["slopes"].slopes if "slopes" in self.evidence else None

    def allowed(self, tol: float) -> Tensor:
        """The gap at which a sample counts as solved: atol + tol · scale, and what rounding leaves."""
        size = torch.where(self.value.isfinite(), self.value.abs(), 0.0)
        return self.atol + tol * self.scale + DIGITS * size

    def open(self, tol: float) -> Tensor:
        """Which samples are not solved."""
        return ~(self.gap <= self.allowed(tol))

    def look(self, problem: Problem) -> None:
        """Look at the scale for the first time, along one pattern and its opposite."""
        ways = sign_patterns(problem.size, self.y)
        self.scale, chosen = rises(problem, self.y, self.value, ways[[0, -1], None]).max(0)
        self.way = torch.where(chosen > 0, len(ways) - 1, 0)

    def look_again(self, problem: Problem, active: Tensor, gap: Tensor) -> None:
        """Look along all patterns where f hardly rises along the first ones, next to a solver's first gap (R,).

        Args:
            problem: of the samples that are active.
            active: their numbers, (R,).
            gap: an estimate.
        """
        few = (self.scale[active] < HARDLY * gap).nonzero()[:, 0]
        if len(few):
            rows, part = active[few], problem if len(few) == problem.batch else problem.rows(few)
            ways = sign_patterns(problem.size, self.y)[:, None]
            self.scale[rows], self.way[rows] = rises(part, self.y[rows], self.value[rows], ways).max(0)

    def measure(self, problem: Problem, rows: Tensor, tol: float) -> None:
        """Look at the scale again of some samples, where the best points are now; `problem` is that of these rows.

        S is the largest of several rises, and any of them is enough to tell that a sample is solved: the one that was
        largest before is looked at first.
        """
        self.looked[rows] = True
        ways = sign_patterns(problem.size, self.y)
        if len(rows) * len(ways) > TOGETHER:
            self.scale[rows] = rises(problem, self.y[rows], self.value[rows], ways[self.way[rows]][None])[0]
            left = self.open(tol)[rows].nonzero()[:, 0]
            if len(left) < len(rows):
                rows, problem = rows[left], problem.rows(left)
        if len(rows):
            rise = rises(problem, self.y[rows], self.value[rows], ways[:, None])
            self.scale[rows], self.way[rows] = rise.max(0)

    def note(
        self,
        active: Tensor,
        y: Tensor,
        value: Tensor,
        bound: Tensor,
        evidence: Callable[[Tensor], Evidence] | None = None,
    ) -> None:
        """Keep what is better than before, for the samples `active`; `evidence` says what some of the bounds are made
        of."""
        better = value < self.value[active]
        self.value[active[better]], self.y[active[better]] = value[better], y[better]
        self.looked[active[better]] = False
        higher = (bound > self.bound[active]).nonzero()[:, 0]
        self.bound[active[higher]] = bound[higher]
        if evidence is not None and len(higher):
            self.keep(active[higher], evidence(higher))

    def keep(self, index: Tensor, part: Evidence) -> None:
        """Keep what bounds of some samples are made of."""
        kind = part.kind
        if kind not in self.evidence:
            self.evidence[kind] = part.empty(len(self.value))
            self.kept[kind] = torch.zeros_like(self.steps, dtype=torch.bool)
        self.evidence[kind].put(index, part)
        self.kept[kind][index] = True

    def put(self, index: Tensor, part: Incumbents) -> None:
        """What was found for some samples."""
        self.y[index], self.value[index], self.bound[index] = part.y, part.value, part.bound
        self.steps[index], self.scale[index], self.looked[index] = part.steps, part.scale, part.looked
        self.way[index] = part.way
        for kind, evidence in part.evidence.items():
            some = part.kept[kind].nonzero()[:, 0]
            if len(some):
                self.keep(index[some], pick_rows(evidence, some))


def initial_incumbents(problem: Problem, atol: float | Tensor = 0.0) -> Incumbents:
    """The centre as the best point, and no bound."""
    y = problem.centre()
    value = problem.f.value(y)
    value = torch.where(value.isnan(), torch.inf, value)
    bound = torch.full_like(value, -torch.inf)
    steps = torch.zeros(problem.batch, dtype=torch.int64, device=y.device)
    atol = torch.as_tensor(atol, dtype=torch.float64, device=y.device).expand(problem.batch).clone()
    unseen = torch.full_like(value, torch.nan)
    return Incumbents(y, value.clone(), bound, steps, value, unseen, steps.clone(), atol, {}, {}, steps > 0)


def pick_rows(value: Any, index: Tensor) -> Any:
    """The rows of some samples of everything in a state."""
    if isinstance(value, (EpigraphForm, Problem)):
        return value.rows(index)
    if isinstance(value, Tensor):
        return value[index] if value.ndim else value
    if isinstance(value, (list, tuple)):
        return type(value)(pick_rows(part, index) for part in value)
    if isinstance(value, dict):
        return {key: pick_rows(part, index) for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: pick_rows(getattr(value, f.name), index) for f in fields(value)})
    return value
