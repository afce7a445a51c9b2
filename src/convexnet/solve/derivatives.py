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
from convexnet.solve.groups import Grouped
from convexnet.solve.kink_form import KinkForm
from convexnet.solve.opened import Opened, value_of
from convexnet.solve.reading import Reading
from convexnet.solve.tangents import rows_of


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


# --- what holds the minimiser ----------------------------------------------------------------------------------------


@dataclass
class Held:
    """The solution of the system of the module's docstring, for a gradient of x.

    Attributes:
        low, high: coordinates (B, n) at a bound.
        to_y: the gradient (B, n) of these bounds.
        along: w (B, n), zero at bounds and where nothing is smooth.
        forces: the part of the solution that belongs to each argument (B, in_k).
    """

    low: Tensor
    high: Tensor
    to_y: Tensor
    along: Tensor
    forces: list[Tensor]


def held_by(
    form: KinkForm,
    found: Found,
    gates: list[Tensor],
    arriving: list[Tensor],
    g: Tensor,
    lo: Tensor,
    hi: Tensor,
    to_x: Tensor,
) -> Held:
    """Find the kinks and bounds that hold the minimiser, and solve for the gradient of x."""
    y = found.y
    size = torch.maximum(found.value.abs(), found.centre - found.value).clamp(min=1e-12)[:, None]
    width = (hi - lo).clamp(max=1e12)
    scale = torch.where(width > 0, width, 1.0)
    low = ((y - lo) / scale < g * width / size) | (width == 0)
    high = ((hi - y) / scale < -g * width / size) & ~low
    free = (~(low | high)).to(y)
    arguments = form.arguments(y)
    picked: list[Tensor | None] = []
    masks: list[Tensor | None] = []
    for bend, a, gate, v in zip(form.bends, arguments, gates, arriving, strict=True):
        if bend.smooth:
            picked.append(None)
            masks.append(None)
            continue
        unit = bend.typical(a.abs().mean(0))
        sure = torch.where(bend.pull(torch.ones_like(gate), v) > 0, bend.active(a, gate, unit), -1.0)
        count = max(1, int((sure > 0).sum(1).max()))
        top = sure.topk(count, 1)
        picked.append(top.indices)
        masks.append((top.values > 0).to(y))
    rows = rows_of(form, gates, picked)
    n = form.size
    hessian = y.new_zeros(len(y), n, n)
    holding: list[Tensor] = []
    for k, (bend, row) in enumerate(zip(form.bends, rows, strict=True)):
        mask = masks[k]
        if mask is None:
            full = row if isinstance(row, Tensor) else row.columns(len(y))
            curved = bend.curved(arguments[k], bend.value(arguments[k]), gates[k], y.new_full((len(y), 1), 1e-12))
            rooted = bend.centred(curved, full) * bend.weighed(arriving[k], curved).clamp(min=0).sqrt()[:, :, None]
            hessian = torch.baddbmm(hessian, rooted.mT, rooted)
        else:
            assert isinstance(row, Tensor)
            if isinstance(bend, Grouped):
                row = row - rows_of_leaders(form, k, gates, picked, bend)
            holding.append(row * mask[:, :, None])
    jacobian = torch.cat(holding, 1) if holding else y.new_zeros(len(y), 0, n)
    along, forces = saddle(hessian, jacobian, free, to_x * free)
    smooth = any(bend.smooth for bend in form.bends)
    pulled = (jacobian.mT @ forces[:, :, None])[..., 0]
    if smooth:
        pulled = pulled + (hessian @ along[:, :, None])[..., 0]
    to_y = (to_x - pulled) * (1 - free)
    return Held(low, high, to_y, along, spread(form, forces, picked, masks, gates))


def saddle(hessian: Tensor, jacobian: Tensor, free: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Solve [[H_ff, J_f'], [J_f, 0]] [w; nu] = [right; 0]; of several solutions about the shortest."""
    n, m = hessian.shape[1], jacobian.shape[1]
    rows = jacobian * free[:, None, :]
    size = rows.norm(dim=2, keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    rows = rows / size
    top = hessian * free[:, :, None] * free[:, None, :]
    scale = top.diagonal(dim1=1, dim2=2).amax(1).clamp(min=1e-30)
    scale = torch.where(scale > 1e-20, scale, 1.0)
    top = top / scale[:, None, None]
    tiny = 1e-10
    top = top + torch.diag_embed(torch.where(free > 0, tiny, 1.0))
    system = torch.cat([torch.cat([top, rows.mT], 2), torch.cat([rows, -tiny * batched_eye(rows, m)], 2)], 1)
    used = rows.abs().amax(2) > 0  # rows that are padding get a multiplier of zero
    system[:, n:, n:] -= torch.diag_embed((~used).to(right))
    solution = torch.linalg.solve(system, torch.cat([right, right.new_zeros(len(right), m)], 1)[:, :, None])[..., 0]
    return solution[:, :n] * free / scale[:, None], solution[:, n:] * used / size[..., 0]


def batched_eye(like: Tensor, m: int) -> Tensor:
    return torch.eye(m, dtype=like.dtype, device=like.device).expand(len(like), m, m)


def rows_of_leaders(form: KinkForm, k: int, gates: list[Tensor], picked: list[Tensor | None], bend: Grouped) -> Tensor:
    """For rows picked in groups, the rows of the members they are compared with."""
    index = picked[k]
    assert index is not None
    return rows_of(form, gates, [leaders(gates[k], index, bend) if j == k else p for j, p in enumerate(picked)])[k]  # pyright: ignore[reportReturnType]


def leaders(gates: Tensor, index: Tensor, bend: Grouped) -> Tensor:
    """The member with the largest gate in the group of each picked one, (B, K)."""
    first = gates.unflatten(1, (-1, bend.group)).argmax(-1)
    group = index // bend.group
    return group * bend.group + first.gather(1, group)


def spread(
    form: KinkForm, forces: Tensor, picked: list[Tensor | None], masks: list[Tensor | None], gates: list[Tensor]
) -> list[Tensor]:
    """The forces on each layer's arguments (B, in_k)."""
    found: list[Tensor] = []
    start = 0
    for bend, index, mask, gate in zip(form.bends, picked, masks, gates, strict=True):
        whole = torch.zeros_like(gate)
        if index is not None and mask is not None:
            part = forces[:, start : start + index.shape[1]] * mask
            start += index.shape[1]
            whole.scatter_add_(1, index, part)
            if isinstance(bend, Grouped):
                whole.scatter_add_(1, leaders(gate, index, bend), -part)
        found.append(whole)
    return found


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
        out = opened.run(inputs, gated, live=True)
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
