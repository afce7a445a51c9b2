"""Multipliers: slopes of the value for bounds and right sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from convexnet.domains import Box
from convexnet.solve.derivatives.attach import attach_derivatives
from convexnet.solve.search import Search


def box_multipliers(done: Search) -> dict[str, Tensor]:
    """The multipliers `lower` and `upper`, (B, n), of the bounds of a box."""
    arguments, batch, n = done.arguments, done.arguments.batch, done.arguments.lo.shape[1]
    with torch.enable_grad():
        ends = [
            end.detach().expand(batch, *arguments.box.shape).clone().requires_grad_()
            for end in (arguments.box.lo, arguments.box.hi)
        ]
        box = Box(ends[0], ends[1], arguments.box.shape, batch)
        live = replace(arguments, inputs=[t.detach() for t in arguments.inputs], box=box, derivative="exact")
        y = done.found.y.view(batch, *arguments.box.shape)
        height = attach_derivatives(done.reading, done.problem, live, [], done.found, done.used, y, done.found.value)[1]
        lower, upper = slopes_of(height.sum(), ends)
    return {"lower": lower.reshape(batch, n).clamp(min=0), "upper": (-upper.reshape(batch, n)).clamp(min=0)}


def slopes_of(total: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of a number, zeros where it does not depend on a leaf.

    Example:
        >>> x, other = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
        >>> [slope.tolist() for slope in slopes_of(3 * x.sum(), [x, other])]
        [[3.0], [0.0]]
    """
    if not total.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return list(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))
