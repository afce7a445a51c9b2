"""Derivatives of a minimum and of its minimiser.

The value moves with the affine function below f that touches it: its derivative is that of the network with every kink
replaced by its dual gate (an envelope theorem; autograd at the minimiser, which sits on kinks, is wrong). The minimiser
moves so that kinks and bounds that hold it go on holding it: with J the derivatives of the arguments of those kinks, H
the second derivative through smooth bends, and b, f the coordinates at bounds and the free ones,

    [ H_ff  J_f' ] [ dy_f ]      [ d(grad_f L) + H_fb dy_b ]
    [ J_f    0   ] [ dmu  ]  = - [ d(a)        + J_b  dy_b ]

where L is the network with dual gates. Without H this is the vertex formula, without J the implicit function theorem.
Everything is computed in the backward pass only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from convexnet.domains import Box
from convexnet.solve.bends import Bend
from convexnet.solve.drive import Found
from convexnet.solve.holding import Held, held_by
from convexnet.solve.opened import Opened, value_of
from convexnet.solve.reading import Reading


def wants_gradients(module: nn.Module, inputs: Sequence[Tensor], box: Box) -> bool:
    """Whether anything a solution depends on takes part in autograd."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in [*inputs, box.lo, box.hi, *module.parameters()])


def attached(
    reading: Reading,
    module: nn.Module,
    inputs: Sequence[Tensor],
    variable: int,
    box: Box,
    found: Found,
    x: Tensor,
    value: Tensor,
) -> tuple[Tensor, Tensor]:
    """x (B, *shape) and value (B,) as functions of the other inputs, the module's parameters and the box."""
    others = [t for i, t in enumerate(inputs) if i != variable and t.is_floating_point()]
    tensors = [t for t in [*others, *module.parameters()] if t.requires_grad]
    at = Minimum(reading, list(inputs), variable, found, tensors, box, list(module.parameters()))
    with torch.enable_grad():
        return Attach.apply(at, x, value, box.lo, box.hi, *tensors)


@dataclass
class Minimum:
    """What the backward pass needs."""

    reading: Reading
    inputs: list[Tensor]
    variable: int
    found: Found
    tensors: list[Tensor]
    box: Box
    parameters: list[Tensor]


class Attach(torch.autograd.Function):
    """x and value as they are; their gradients by `pulled_back`."""

    @staticmethod
    def forward(ctx: Any, at: Minimum, x: Tensor, value: Tensor, lo: Tensor, hi: Tensor, *tensors: Tensor) -> Any:
        ctx.at = at
        ctx.save_for_backward(lo, hi, *at.inputs, *at.parameters)  # so that torch notices when they have changed
        ctx.set_materialize_grads(False)
        return x.clone(), value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        to_x, to_value = grads
        _ = ctx.saved_tensors
        lo, hi, others = pulled_back(ctx.at, to_x, to_value)
        return None, None, None, lo, hi, *others


def pulled_back(
    at: Minimum, to_x: Tensor | None, to_value: Tensor | None
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Gradients of the bounds and of the other tensors, for those of x and of the value."""
    found, opened, pieces = at.found, at.reading.opened, at.reading.pieces
    if opened is None or pieces is None or found.gates is None:
        raise RuntimeError(
            "derivatives of this minimum are not available: the network was minimised as a whole, without being opened "
            "at its bends (its forward reads the size of its batch, or it is convex on the domain only, or too large)"
        )
    y, gates = found.y, found.gates
    batch = len(y)
    with torch.no_grad():
        form = pieces.form([t.detach() for t in at.inputs])
        chosen, arriving = form.pulled(gates)
        g = form.gradient(chosen)
        lo, hi = (end.detach().to(y).expand(batch, *at.box.shape).reshape(y.shape) for end in (at.box.lo, at.box.hi))
        to_lo, to_hi = torch.zeros_like(y), torch.zeros_like(y)
        held: Held | None = None
        if to_value is not None:
            share = to_value.double()[:, None]
            to_lo, to_hi = to_lo + share * g.clamp(min=0), to_hi + share * g.clamp(max=0)
        if to_x is not None:
            held = held_by(form, found, gates, arriving, g, lo, hi, to_x.reshape(y.shape).double())
            to_lo, to_hi = to_lo + torch.where(held.low, held.to_y, 0.0), to_hi + torch.where(held.high, held.to_y, 0.0)
    tensors = through_program(opened, at, to_value, held)
    return shaped(to_lo, at.box.lo, at.box.shape), shaped(to_hi, at.box.hi, at.box.shape), tensors


def shaped(gradient: Tensor, bound: Tensor, shape: torch.Size) -> Tensor:
    """The gradient (B, n) as one of a bound, which has a batch of its own or not."""
    whole = gradient.view(-1, *shape)
    return whole.sum_to_size(bound.shape).to(bound)


# --- through the program ---------------------------------------------------------------------------------------------


def through_program(opened: Opened, at: Minimum, to_value: Tensor | None, held: Held | None) -> list[Tensor | None]:
    """The gradients of the other tensors: one run of the program with dual gates, and autograd."""
    if not at.tensors:
        return []
    gates = at.found.gates
    assert gates is not None
    arguments: list[Tensor] = []

    def gated(a: Tensor, bend: float | Tensor | Bend = 0.0) -> Tensor:
        k = len(arguments)
        arguments.append(a.flatten(1).expand(len(gates[k]), -1))
        if isinstance(bend, Bend) and bend.smooth:
            return value_of(a, bend)
        if isinstance(bend, Bend):
            return bend.push(gates[k], arguments[k]).reshape(len(gates[k]), *a.shape[1:-1])
        gate = gates[k].reshape(len(gates[k]), *a.shape[1:])
        return (bend + (1 - bend) * gate) * a

    with torch.enable_grad():
        y = at.found.y.clone()
        along = None if held is None or not bool(held.along.any()) else held.along
        if along is not None:
            y.requires_grad_()
        inputs = list(at.inputs)
        inputs[at.variable] = y.view(len(y), *at.box.shape)
        out = opened.run(inputs, gated, live={})
        total = out.new_zeros(())
        if to_value is not None:
            total = total + (to_value * out).sum()
        if held is not None:
            for force, a in zip(held.forces, arguments, strict=True):
                total = total - (force * a).sum()
            if along is not None:
                (slope,) = torch.autograd.grad(out.sum(), y, create_graph=True)
                total = total - (slope * along).sum()
        if not total.requires_grad:
            return [None] * len(at.tensors)
        return list(torch.autograd.grad(total, at.tensors, allow_unused=True))
