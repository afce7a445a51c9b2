"""A module as a batch of convex functions, by autograd alone: for forwards that cannot be opened."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convexnet.curvature.arguments import copied, in_float64
from convexnet.curvature.undisturbed import in_eval_mode

INSIDE = 1e-9
"""How far towards the centre, as a share of the way, a function that is convex on a box only is differentiated."""


class Plain:
    """f(y) for each sample of a batch: a float64 copy of a module, called as it is.

    What autograd returns at a kink is a subgradient, because the module is composed as the calculus asks. A module that
    is convex on a box only may have a kink that bends downwards on its border, where autograd may choose the slope of
    the other side. So it is differentiated a little inside, and the tangent there is what `subgradient` describes.

    Args:
        module: the module; copied, unless it is such a copy.
        inputs: a batch of each.
        variable: the number of the input that y stands for.
        centre: of the box (B, n), where f is convex on a box only.

    Example:
        >>> f = Plain(nn.ReLU(), [torch.zeros(2, 1)], 0)
        >>> [part.tolist() for part in f.subgradient(torch.tensor([[1.0], [-1.0]]).double())]
        [[1.0, 0.0], [[1.0], [0.0]]]
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Sequence[Tensor],
        variable: int,
        centre: Tensor | None = None,
        copy: bool = True,
    ) -> None:
        self.module = copied(module).double().requires_grad_(False) if copy else module
        self.inputs = [in_float64(tensor.detach()) for tensor in inputs]
        self.variable = variable
        self.centre = centre
        self.batch = inputs[0].shape[0]
        self.size = inputs[variable][0].numel()

    def called(self, y: Tensor) -> Tensor:
        inputs = list(self.inputs)
        inputs[self.variable] = y.view(inputs[self.variable].shape)
        with in_eval_mode(self.module):
            return self.module(*inputs).reshape(self.batch)

    def value(self, y: Tensor) -> Tensor:
        """f(y), (B,)."""
        with torch.no_grad():
            return self.called(y)

    def subgradient(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """A slope (B, n) and the value (B,) at y of an affine function below f that touches it at y, or beside it."""
        with torch.enable_grad():
            point = y.detach() if self.centre is None else torch.lerp(y.detach(), self.centre, INSIDE)
            point = point.clone().requires_grad_()
            value = self.called(point)
            (g,) = torch.autograd.grad(value, point, torch.ones_like(value))
        return value.detach() + (g * (y - point.detach())).sum(1), g

    def rows(self, index: Tensor) -> Plain:
        """The functions of some samples."""
        centre = None if self.centre is None else self.centre[index]
        return Plain(self.module, [tensor[index] for tensor in self.inputs], self.variable, centre, copy=False)
