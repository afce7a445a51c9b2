"""First derivatives of a minimum and its minimiser, for a backward pass: the formulas of `attach`."""

from __future__ import annotations

import torch
from torch import Tensor

from convexnet.form.atoms import Bend
from convexnet.form.grouped import Norm
from convexnet.form.program import value_of
from convexnet.solve.derivatives.active_set import Held, gates_at, held_by
from convexnet.solve.derivatives.implicit import derived
from convexnet.solve.derivatives.minimum import Gradients, Minimum, shaped
from convexnet.solve.derivatives.untying import untie
from convexnet.solve.solvers.found import picked


def pulled_back(at: Minimum, tensors: list[Tensor], to_x: Tensor | None, to_value: Tensor | None) -> Gradients:
    """Gradients of the bounds and of the other tensors, for those of x and of the value."""
    form, batch = at.form(), len(at.lo)
    with torch.no_grad():
        if not at.exact:
            at.settle()
        held: Held | None = None
        if to_x is not None:
            held = held_at(at, to_x.reshape(batch, -1).double())
        gates = at.found.gates
        assert gates is not None
        to_lo, to_hi = torch.zeros_like(at.lo), torch.zeros_like(at.lo)
        if to_value is not None:
            smooth = any(bend.smooth for bend in form.bends)
            g = form.gradient(form.pulled(gates_at(form, gates, form.arguments(at.found.y)) if smooth else gates)[0])
            share = to_value.double()[:, None]
            to_lo, to_hi = to_lo + share * g.clamp(min=0), to_hi + share * g.clamp(max=0)
        if held is not None:
            to_lo, to_hi = to_lo + torch.where(held.low, held.to_y, 0.0), to_hi + torch.where(held.high, held.to_y, 0.0)
    others = through_program(at, tensors, to_value, held)
    return (shaped(to_lo, at.box.lo, at.box.shape), shaped(to_hi, at.box.hi, at.box.shape)), others


def held_at(at: Minimum, to_x: Tensor) -> Held:
    """What holds the minimisers; where that is not sure, they are found to the last digits first.

    Raises:
        RuntimeError: a minimiser has no derivative where one is wanted.
    """
    at.form()
    if not at.exact:
        at.settle()
    held = at.vertices(to_x)
    left = (~held.sure).nonzero()[:, 0]
    if len(left):
        at.focus(left)
        held.put(left, held_of(at, left, to_x))
    for quick in (True, False):
        doubtful = (~held.sure).nonzero()[:, 0]
        if len(doubtful):
            at.settle(doubtful, quick)
            held.put(doubtful, held_of(at, doubtful, to_x))
    tied = (held.tied & (to_x != 0).any(1)).nonzero()[:, 0]
    if len(tied):
        at.settle(tied)
        held.put(tied, held_of(at, tied, to_x))
        for sample in tied[held.tied[tied]].tolist():
            untie(at, held, sample, to_x[sample])
    return held


def held_of(at: Minimum, rows: Tensor, to_x: Tensor) -> Held:
    """What holds the minimisers of some samples, by what is known of them."""
    whole = len(rows) == len(at.lo)
    form, part = (at.form(), at.found) if whole else (at.form().rows(rows), picked(at.found, rows))
    assert part.gates is not None
    return held_by(form, part, part.gates, at.lo[rows], at.hi[rows], to_x[rows])


def through_program(at: Minimum, tensors: list[Tensor], to_value: Tensor | None, held: Held | None) -> list[Tensor]:
    """The gradients of the other tensors: one run of the program with dual gates, and autograd."""
    opened, gates = at.reading.opened, at.found.gates
    if not tensors:
        return []
    assert opened is not None
    assert gates is not None
    arguments: list[Tensor] = []

    def gated(a: Tensor, bend: float | Tensor | Bend = 0.0) -> Tensor:
        k = len(arguments)
        arguments.append(a.flatten(1).expand(len(gates[k]), -1))
        if isinstance(bend, Bend) and bend.smooth:
            return value_of(a, bend)
        if isinstance(bend, Norm) and held is not None:
            free = ~held.still[k][:, :: bend.group]
            straight = bend.push(gates[k], arguments[k])
            safe = torch.where(bend.spread(free), arguments[k], 1.0)  # where it is held, its slope has no number
            return torch.where(free, bend.value(safe), straight).reshape(len(gates[k]), *a.shape[1:-1])
        if isinstance(bend, Bend):
            return bend.push(gates[k], arguments[k]).reshape(len(gates[k]), *a.shape[1:-1])
        gate = gates[k].reshape(len(gates[k]), *a.shape[1:])
        return (bend + (1 - bend) * gate) * a

    with torch.enable_grad():
        made, inputs, live = at.aliases(tensors)
        y = (at.found.y if held is None else held.y).clone()
        along = None if held is None or not bool(held.along.any()) else held.along
        if along is not None:
            y.requires_grad_()
        inputs[at.variable] = y.view(len(y), *at.box.shape)
        out = opened.run(inputs, gated, live).expand(len(y))
        heads, weights = [out], [torch.zeros_like(out) if to_value is None else to_value.double()]
        if held is not None:
            heads, weights = [*heads, *arguments], [*weights, *(-force for force in held.forces)]
            if along is not None:
                (slope,) = derived([out], [y], [torch.ones_like(out)])
                heads, weights = [*heads, slope], [*weights, -along]
        return [
            gradient.to(tensor) for gradient, tensor in zip(derived(heads, made, weights, False), tensors, strict=True)
        ]
