"""A module as a batch of convex functions, by autograd alone: for forwards that cannot be opened."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convexnet.curvature.arguments import copied, in_float64
from convexnet.curvature.trace import evaluating


class Plain:
    """f(y) for each sample of a batch: a float64 copy of a module, called as it is.

    What autograd returns at a kink is a subgradient, because the module is composed as the calculus asks.

    Example:
        >>> f = Plain(nn.ReLU(), [torch.zeros(2, 1)], 0)
        >>> [part.tolist() for part in f.subgradient(torch.tensor([[1.0], [-1.0]]).double())]
        [[1.0, 0.0], [[1.0], [0.0]]]
    """

    def __init__(self, module: nn.Module, inputs: Sequence[Tensor], variable: int, copy: bool = True) -> None:
        self.module = copied(module).double().requires_grad_(False) if copy else module
        self.inputs = [in_float64(tensor.detach()) for tensor in inputs]
        self.variable = variable
        self.batch = inputs[0].shape[0]
        self.size = inputs[variable][0].numel()

    def called(self, y: Tensor) -> Tensor:
        inputs = list(self.inputs)
        inputs[self.variable] = y.view(inputs[self.variable].shape)
        with evaluating(self.module):
            return self.module(*inputs).reshape(self.batch)

    def value(self, y: Tensor) -> Tensor:
        """f(y), (B,)."""
        with torch.no_grad():
            return self.called(y)

    def subgradient(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """f(y) (B,) and a subgradient (B, n)."""
        with torch.enable_grad():
            point = y.detach().clone().requires_grad_()
            value = self.called(point)
            (g,) = torch.autograd.grad(value.sum(), point)
        return value.detach(), g

    def rows(self, index: Tensor) -> Plain:
        """The functions of some samples."""
        return Plain(self.module, [tensor[index] for tensor in self.inputs], self.variable, copy=False)
