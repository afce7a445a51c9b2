"""A minimum as the backward pass needs it: everything as it was in the forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from convexnet.domains import Box
from convexnet.form.epigraph import EpigraphForm
from convexnet.solve.compiled import Reading
from convexnet.solve.derivatives.active_set import Held, find_held
from convexnet.solve.derivatives.implicit import as_it_was
from convexnet.solve.derivatives.neighbourhood import refine_nearby
from convexnet.solve.derivatives.polish import solve_precisely
from convexnet.solve.derivatives.unavailable import explain_missing
from convexnet.solve.derivatives.vertices import held_at_vertices
from convexnet.solve.functions.problem import Function, Problem
from convexnet.solve.solvers.choose import samples_at_once
from convexnet.solve.solvers.incumbents import Incumbents, pick_rows

Gradients = tuple[tuple[Tensor, Tensor], list[Tensor]]
"""Those of both bounds, and those of the tensors."""

ONCE = 4
"""How many times the samples that a solver takes together are looked at at once, where nothing goes through many steps.
"""

AROUND = 1e3
"""How far from a minimiser, in units of max(1, |y_j|), bounds count that are farther away still: tolerances are shares
of a box, and one that is as wide as numbers are would make them as large as that."""

BESIDE = 1e-6
"""A minimiser that is looked for within that distance and comes this near to it, as a share, lies beyond."""


@dataclass
class SavedMinimum:
    """What the backward pass needs: all of it as it was in the forward pass.

    Attributes:
        reading: the module.
        f: the functions that were minimised.
        inputs: copies of the inputs.
        variable: the number of the one minimised over.
        found: minimisers and slopes.
        lo, hi: copies of the bounds, (B, n).
        box: the domain.
        name: the solver.
        others: the numbers of the inputs that gradients go to.
        own: the module's tensors that they go to.
        exact: whether the slopes say which kinks hold the minimiser.
        smoothed: whether x has the derivatives of the smoothed function.
    """

    reading: Reading
    f: Function
    inputs: list[Tensor]
    variable: int
    found: Incumbents
    lo: Tensor
    hi: Tensor
    box: Box
    name: str
    others: list[int]
    own: list[Tensor]
    exact: bool
    smoothed: bool

    def aliases(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], dict[int, Tensor]]:
        """Stand-ins for the tensors that gradients go to, inputs and own ones, with the values of the forward pass;
        all inputs with them; the module's by `id`."""
        values = self.reading.values
        inputs = list(self.inputs)
        count = len(self.others)
        made: list[Tensor] = []
        for index, tensor in zip(self.others, tensors[:count], strict=True):
            inputs[index] = as_it_was(tensor, self.inputs[index])
            made.append(inputs[index])
        live: dict[int, Tensor] = {}
        for own, tensor in zip(self.own, tensors[count:], strict=True):
            live[id(own)] = as_it_was(tensor, values.get(id(own), own))
            made.append(live[id(own)])
        return made, inputs, live

    def form(self) -> EpigraphForm:
        """The functions as matrices.

        Raises:
            RuntimeError: they are not known that way.
        """
        if isinstance(self.f, EpigraphForm):
            return self.f
        raise RuntimeError(explain_missing(self.f, self.reading, self.name))

    def around(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The bounds (R, n) near the points of some samples: f is convex, and its minimiser there is one of the box."""
        y, lo, hi = self.found.y[rows], self.lo[rows], self.hi[rows]
        room = AROUND * y.abs().clamp(min=1.0)
        return torch.maximum(lo, y - room), torch.minimum(hi, y + room)

    def settle(self, rows: Tensor | None = None, quick: bool = False) -> None:
        """Find the minimisers and their slopes to the last digits, of all samples or some, in parts that fit."""
        form = self.form()
        rows = torch.arange(len(self.lo), device=self.lo.device) if rows is None else rows
        for part in rows.split(samples_at_once(Problem(form, self.lo, self.hi))):
            lo, hi = self.around(part)
            few = solve_precisely(form.rows(part), pick_rows(self.found, part), lo, hi, quick)
            near = BESIDE * (hi - lo)
            beyond = (few.y <= lo + near) & (lo > self.lo[part]) | (few.y >= hi - near) & (hi < self.hi[part])
            self.found.put(part, few)
            far = part[beyond.any(1)]
            if len(far):
                self.found.put(
                    far, solve_precisely(form.rows(far), pick_rows(self.found, far), self.lo[far], self.hi[far], quick)
                )
        self.exact |= len(rows) == len(self.lo)

    def focus(self, rows: Tensor) -> None:
        """Find those of some samples so, in parts that fit, where the kinks near the points that were found are enough
        for that."""
        form = self.form()
        for part in rows.split(samples_at_once(Problem(form, self.lo, self.hi))):
            few = pick_rows(self.found, part)
            refine_nearby(form.rows(part), few, *self.around(part))
            self.found.put(part, few)

    def vertices(self, to_x: Tensor) -> Held:
        """Find those that are vertices so, by pivots, in parts that fit, with their derivatives for a gradient of x."""
        form, size = self.form(), ONCE * samples_at_once(Problem(self.form(), self.lo, self.hi))
        parts: list[Held] = []
        for part in torch.arange(len(self.lo), device=self.lo.device).split(size):
            few = pick_rows(self.found, part)
            some = form if len(part) == len(self.lo) else form.rows(part)
            lo, hi = self.around(part)
            held = held_at_vertices(some, few, lo, hi, to_x[part])
            self.found.put(part, few)
            parts.append(self.without_ends(part, held, lo, hi))
        return parts[0] if len(parts) == 1 else join_held(parts)

    def holding(self, rows: Tensor, to_x: Tensor) -> Held:
        """What holds the minimisers of some samples, by what is known of them, for a gradient of x."""
        whole = len(rows) == len(self.lo)
        form, part = (self.form(), self.found) if whole else (self.form().rows(rows), pick_rows(self.found, rows))
        assert part.slopes is not None
        lo, hi = self.around(rows)
        return self.without_ends(rows, find_held(form, part, part.slopes, lo, hi, to_x[rows]), lo, hi)

    def without_ends(self, rows: Tensor, held: Held, lo: Tensor, hi: Tensor) -> Held:
        """The same, not sure where the end of what is near seems to hold a minimiser."""
        beyond = (held.low & (lo > self.lo[rows]) | held.high & (hi < self.hi[rows])).any(1)
        if bool(beyond.any()):
            held.sure, held.slope = held.sure & ~beyond, None
        return held


def join_held(parts: Sequence[Held]) -> Held:
    """The solutions of the parts of a batch as one."""
    made: dict[str, Any] = {}
    for each in fields(Held):
        held = [getattr(part, each.name) for part in parts]
        if isinstance(held[0], Tensor):
            made[each.name] = None if any(part is None for part in held) else torch.cat(held)
        elif held[0] is None:
            made[each.name] = None
        elif isinstance(held[0], list):
            made[each.name] = [torch.cat(some) for some in zip(*held, strict=True)]
        else:
            made[each.name] = {key: torch.cat([one[key] for one in held]) for key in held[0]}
    return Held(**made)


def bound_gradient(gradient: Tensor, bound: Tensor, shape: torch.Size) -> Tensor:
    """The gradient (B, n) as one of a bound, which has a batch of its own or not."""
    whole = gradient.view(-1, *shape)
    return whole.sum_to_size(bound.shape).to(bound)


def flat_bound(bound: Tensor, shape: torch.Size, batch: int) -> Tensor:
    """A bound as one of all samples, (B, n)."""
    return bound.expand(batch, *shape).reshape(batch, -1)
