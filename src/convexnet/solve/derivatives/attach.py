"""Derivatives of a minimum and of its minimiser.

The value moves with the affine function below f that touches it: its derivative is that of the network with every kink
replaced by its dual slope (an envelope theorem; autograd at the minimiser, which sits on kinks, is wrong). The
minimiser moves so that kinks and bounds that hold it go on holding it: with J the derivatives of the arguments of those
kinks, H the second derivative through smooth atoms, and b, f the coordinates at bounds and the free ones,

    [ H_ff  J_f' ] [ dy_f ]      [ d(grad_f L) + H_fb dy_b ]
    [ J_f    0   ] [ dmu  ]  = - [ d(a)        + J_b  dy_b ]

where L is the network with dual slopes. Without H this is the vertex formula, without J the implicit function theorem.
Everything is computed in the backward pass only, for the values that the network had in the forward pass.

Derivatives of these derivatives are right where no kink holds the minimiser (`implicit`), and an error elsewhere. Of a
smooth f with more variables than matrices allow, the first ones are found by conjugate gradients (`without_matrices`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.curvature.tracing.trace import TRACING
from convexnet.domains import Box
from convexnet.form.program import tensors_of
from convexnet.solve.arguments import Arguments
from convexnet.solve.compiled import Reading
from convexnet.solve.derivatives.backward import pull_back
from convexnet.solve.derivatives.higher_order import pull_back_differentiably, pull_back_many, pull_back_smoothed
from convexnet.solve.derivatives.saved_minimum import SavedMinimum
from convexnet.solve.derivatives.unavailable import check_transforms
from convexnet.solve.functions.matrix_free import MatrixFree
from convexnet.solve.functions.problem import Problem
from convexnet.solve.solvers.incumbents import Incumbents, pick_rows

EXACT = ("newton", "newton in full", "lp", "active set")
"""Solvers whose slopes say which kinks hold the minimiser."""


def sources_of(reading: Reading, module: nn.Module) -> list[Tensor]:
    """The tensors of a module that a solution depends on: its parameters, and what else its forward reads, as buffers,
    attributes and the tensors that took the place of parameters."""
    with TRACING:  # while a module is traced, it holds others
        own = {id(tensor): tensor for tensor in [*module.parameters(), *tensors_of(reading.program)]}
    return list(own.values())


def wants_gradients(own: Sequence[Tensor], inputs: Sequence[Tensor], box: Box) -> bool:
    """Whether anything a solution depends on takes part in autograd."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in [*inputs, box.lo, box.hi, *own])


def attach_derivatives(
    reading: Reading,
    problem: Problem,
    asked: Arguments,
    own: Sequence[Tensor],
    found: Incumbents,
    used: Sequence[str],
    x: Tensor,
    value: Tensor,
) -> tuple[Tensor, Tensor]:
    """x (B, *shape) and value (B,) as functions of the other inputs, the module's tensors and the box.

    Args:
        reading: the module.
        problem: the functions that were minimised.
        asked: the inputs and the box, as they take part in autograd; and which derivatives x shall have.
        own: the module's tensors.
        found: points and slopes.
        used: the solvers that found them.
        x, value: what is returned.
    """
    inputs, variable, box, smoothed = asked.inputs, asked.variable, asked.box, asked.derivative == "smoothed"
    others = [i for i, t in enumerate(inputs) if i != variable and t.requires_grad]
    own = [t for t in own if t.requires_grad]
    copies = [t.detach().clone() for t in inputs]
    lo, hi = asked.lo.detach().clone(), asked.hi.detach().clone()
    gated = found.slopes is not None and bool(found.kept["slopes"].all())
    exact = gated and all(name in EXACT for name in used)
    kept = pick_rows(found, torch.arange(len(lo), device=lo.device))
    at = SavedMinimum(reading, problem.f, copies, variable, kept, lo, hi, box, used[0], others, own, exact, smoothed)
    with torch.enable_grad():
        return Attach.apply(at, x, value, box.lo, box.hi, *(inputs[i] for i in others), *own)


class Attach(torch.autograd.Function):
    """x and value as they are, with their gradients. What is saved is also x itself, so that gradients can move it."""

    @staticmethod
    def forward(ctx: Any, at: SavedMinimum, x: Tensor, value: Tensor, lo: Tensor, hi: Tensor, *tensors: Tensor) -> Any:
        ctx.at = at
        x, value = x.clone(), value.clone()
        ctx.save_for_backward(x, lo, hi, *tensors)  # so that torch notices, too, when they have changed
        ctx.set_materialize_grads(False)
        return x, value

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        to_x, to_value = grads
        at: SavedMinimum = ctx.at
        x, lo, hi, *tensors = ctx.saved_tensors
        check_transforms([t for t in grads if t is not None])
        if isinstance(at.f, MatrixFree) and at.f.smooth and not at.smoothed:
            ends, others = pull_back_many(at, x, lo, hi, tensors, to_x, to_value)
        elif at.smoothed:
            ends, others = pull_back_smoothed(at, x, lo, hi, tensors, to_x, to_value)
        elif torch.is_grad_enabled():
            ends, others = pull_back_differentiably(at, x, lo, hi, tensors, to_x, to_value)
        else:
            ends, others = pull_back(at, tensors, to_x, to_value)
        return None, None, None, *ends, *others
