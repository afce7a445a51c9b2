"""First derivatives of a minimum and its minimiser as functions that can be differentiated again, to any order.

At a minimiser x of a smooth f, with the free coordinates F and those at bounds B,

    d value = f_theta d theta + g_B dy_B,        H_FF dy_F = - d_theta g_F - H_FB dy_B,

where g and H are the first and second derivatives of f at x. They are computed here by automatic differentiation of the
program, at the x that was returned: what they change when x moves comes back to the same formulas. So are those of the
function with its kinks smoothed, for who asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

SINGULAR = 1e-11
"""Curvatures below this share of the largest count as none: there the minimiser is not unique."""


class AsItWas(torch.autograd.Function):
    """(tensor, value) -> the value, with the gradient of the tensor: as it was, whatever was written to it since."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, value: Tensor) -> Tensor:
        return value.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


def as_it_was(tensor: Tensor, value: Tensor) -> Tensor:
    """`AsItWas`, with types."""
    return AsItWas.apply(tensor, value)


class DifferentiableOnce(torch.autograd.Function):
    """(why, count, results, everything they depend on) -> the results, whose derivatives are an error that says why."""

    @staticmethod
    def forward(ctx: Any, why: Callable[[], str], count: int, *tensors: Tensor) -> Any:
        ctx.why = why
        return tuple(tensor.detach() for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(ctx.why())


def differentiable_once(why: Callable[[], str], results: Sequence[Tensor], sources: Sequence[Tensor]) -> list[Tensor]:
    """Results that can be used as they are and not differentiated again.

    Args:
        why: gives the error's text.
        results: without gradients.
        sources: what they depend on.
    """
    return list(DifferentiableOnce.apply(why, len(results), *results, *sources))


def vector_jacobian(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], weights: Sequence[Tensor], again: bool = True
) -> list[Tensor]:
    """The gradients of Σ weights · outputs for the inputs: zeros where nothing depends on them.

    Args:
        outputs, inputs: of one graph, which is kept.
        weights: one for each output.
        again: whether the gradients are to be differentiated too.
    """
    pairs = [(o, w) for o, w in zip(outputs, weights, strict=True) if o.requires_grad]
    if not pairs or not inputs:
        return [torch.zeros_like(tensor) for tensor in inputs]
    heads, shares = zip(*pairs, strict=True)
    return list(
        torch.autograd.grad(
            heads, inputs, shares, retain_graph=True, create_graph=again, allow_unused=True, materialize_grads=True
        )
    )


def jacobian_rows(g: Tensor, y: Tensor, again: bool = True) -> Tensor:
    """The derivatives (B, n, n) of g (B, n) for y (B, n), where samples do not see each other."""
    return torch.stack(
        [vector_jacobian([g[:, j].sum()], [y], [g.new_ones(())], again)[0] for j in range(g.shape[1])], 1
    )


def solve_least(system: Tensor, right: Tensor) -> Tensor:
    """The shortest w (B, n) with system w = right, (B, n, n) and (B, n), but for what no curvature holds."""
    values, vectors = torch.linalg.eigh(system.detach())
    top = values.abs().amax(1, keepdim=True)
    flat = (values <= SINGULAR * top).to(system)
    nothing = (vectors * flat[:, None, :]) @ vectors.mT
    scale = torch.where(top > 0, top, 1.0)[:, :, None]
    inside = right - (nothing @ right[:, :, None])[..., 0]
    return torch.linalg.solve(system + scale * nothing, inside[:, :, None])[..., 0]


def implicit_gradients(
    f: Callable[[Tensor], Tensor],
    y: Tensor,
    tensors: Sequence[Tensor],
    low: Tensor,
    high: Tensor,
    to_x: Tensor | None,
    to_value: Tensor | None,
    barriers: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The gradients of lower and upper bounds, (B, n), and of the tensors, for those of x (B, n) and of the value (B,).

    Args:
        f: the functions of y, (B, n) -> (B,), that also depend on the tensors.
        y: the minimisers; what is derived here depends on them.
        tensors: aliases of the tensors, as f sees them.
        low, high: coordinates (B, n) at a bound.
        to_x, to_value: the gradients that arrive.
        barriers: the second derivatives (B, n) of what keeps y off its lower and its upper bounds.
    """
    at = y.view_as(y) if y.requires_grad else y.detach().requires_grad_()
    held = low | high
    free = (~held).to(y)
    out = f(at)
    (g,) = vector_jacobian([out], [at], [torch.ones_like(out)])
    to_lo, to_hi = torch.zeros_like(y), torch.zeros_like(y)
    weights = [torch.zeros_like(out), torch.zeros_like(g)]
    if to_value is not None:
        share = to_value[:, None] * g
        to_lo, to_hi = share * (held & (g >= 0)), share * (held & (g < 0))
        weights[0] = to_value
    if to_x is not None:
        hessian = jacobian_rows(g, at)
        if barriers is not None:
            hessian = hessian + torch.diag_embed(barriers[0] + barriers[1])
        system = hessian * free[:, :, None] * free[:, None, :]
        size = system.detach().diagonal(dim1=1, dim2=2).amax(1, keepdim=True)
        size = torch.where(size > 0, size, 1.0)
        along = solve_least(system + torch.diag_embed((1 - free) * size), to_x * free) * free
        to_y = to_x - (hessian @ along[:, :, None])[..., 0]
        to_lo, to_hi = to_lo + to_y * low, to_hi + to_y * high
        if barriers is not None:
            to_lo, to_hi = to_lo + barriers[0] * along, to_hi + barriers[1] * along
        weights[1] = -along
    return to_lo, to_hi, vector_jacobian([out, g], tensors, weights)
