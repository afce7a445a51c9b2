"""First derivatives of a minimum and its minimiser, for a backward pass: the formulas of `attach`."""

from __future__ import annotations

import torch
from torch import Tensor

from convexnet.form.atoms import Atom
from convexnet.form.grouped import Norm
from convexnet.form.program import apply_atom
from convexnet.solve.derivatives.active_set import Held, slopes_at
from convexnet.solve.derivatives.implicit import vector_jacobian
from convexnet.solve.derivatives.resolve_ties import untie
from convexnet.solve.derivatives.saved_minimum import Gradients, SavedMinimum, bound_gradient
from convexnet.solve.derivatives.unavailable import explain_uncertain


def pull_back(at: SavedMinimum, tensors: list[Tensor], to_x: Tensor | None, to_value: Tensor | None) -> Gradients:
    """Gradients of the bounds and of the other tensors, for those of x and of the value."""
    form, batch = at.form(), len(at.lo)
    with torch.no_grad():
        if not at.exact:
            at.settle()
        held: Held | None = None
        if to_x is not None:
            held = find_held_precisely(at, to_x.reshape(batch, -1).double())
        slopes = at.found.slopes
        assert slopes is not None
        to_lo, to_hi = torch.zeros_like(at.lo), torch.zeros_like(at.lo)
        if to_value is not None:
            g = None if held is None else held.slope
            if g is None:
                smooth = any(atom.smooth for atom in form.atoms)
                own = slopes_at(form, slopes, form.arguments(at.found.y)) if smooth else slopes
                g = form.gradient(form.pull(own)[0])
            share = to_value.double()[:, None]
            to_lo, to_hi = to_lo + share * g.clamp(min=0), to_hi + share * g.clamp(max=0)
        if held is not None:
            to_lo, to_hi = to_lo + torch.where(held.low, held.to_y, 0.0), to_hi + torch.where(held.high, held.to_y, 0.0)
    others = gradients_through_program(at, tensors, to_value, held)
    return (bound_gradient(to_lo, at.box.lo, at.box.shape), bound_gradient(to_hi, at.box.hi, at.box.shape)), others


def find_held_precisely(at: SavedMinimum, to_x: Tensor) -> Held:
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
        held.put(left, at.holding(left, to_x))
    for quick in (True, False):
        doubtful = (~held.sure).nonzero()[:, 0]
        if len(doubtful):
            at.settle(doubtful, quick)
            held.put(doubtful, at.holding(doubtful, to_x))
    tied = (held.tied & (to_x != 0).any(1)).nonzero()[:, 0]
    if len(tied):
        at.settle(tied)
        held.put(tied, at.holding(tied, to_x))
        for sample in tied[held.tied[tied]].tolist():
            untie(at, held, sample, to_x[sample])
    unsure = (~held.sure & ~held.tied & (to_x != 0).any(1)).nonzero()[:, 0]
    if len(unsure):
        raise RuntimeError(explain_uncertain(int(unsure[0])))
    return held


def gradients_through_program(
    at: SavedMinimum, tensors: list[Tensor], to_value: Tensor | None, held: Held | None
) -> list[Tensor]:
    """The gradients of the other tensors: one run of the program with dual slopes, and autograd."""
    opened, slopes = at.reading.opened, at.found.slopes
    if not tensors:
        return []
    assert opened is not None
    assert slopes is not None
    arguments: list[Tensor] = []

    def gated(a: Tensor, atom: float | Tensor | Atom = 0.0) -> Tensor:
        k = len(arguments)
        arguments.append(a.flatten(1).expand(len(slopes[k]), -1))
        if isinstance(atom, Atom) and atom.smooth:
            return apply_atom(a, atom)
        if isinstance(atom, Norm) and held is not None:
            free = ~held.still[k][:, :: atom.group]
            straight = atom.push(slopes[k], arguments[k])
            safe = torch.where(atom.spread(free), arguments[k], 1.0)  # where it is held, its slope is not a number
            return torch.where(free, atom.value(safe), straight).reshape(len(slopes[k]), *a.shape[1:-1])
        if isinstance(atom, Atom):
            return atom.push(slopes[k], arguments[k]).reshape(len(slopes[k]), *a.shape[1:-1])
        slope = slopes[k].reshape(len(slopes[k]), *a.shape[1:])
        return (atom + (1 - atom) * slope) * a

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
                (gradient,) = vector_jacobian([out], [y], [torch.ones_like(out)])
                heads, weights = [*heads, gradient], [*weights, -along]
        return [
            gradient.to(tensor)
            for gradient, tensor in zip(vector_jacobian(heads, made, weights, False), tensors, strict=True)
        ]
