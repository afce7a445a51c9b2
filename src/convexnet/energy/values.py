"""The value of an energy at given inputs, with gradients, as precisely as `minimise` computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from convexnet.curvature.arguments import in_float64
from convexnet.curvature.tracing.restored_state import evaluating
from convexnet.energy.contexts import InTwoSteps, in_two_steps
from convexnet.solve.at_most import one_number


class Joint(nn.Module):
    """The energy f(x, y) = net([x, y]) of a network of one input: convex in x and y jointly, where the network is.

    Args:
        net: a module of inputs (B, n), such as a `convexnet.nn.FICNN` with n the elements of x and y together.

    Shape: (B, *), (B, *) -> what the network returns.

    Source: Amos & Kolter, Input-Convex Deep Networks (2016), the networks over (x, y).

    Example:
        >>> import convexnet as cx
        >>> f = Joint(cx.nn.FICNN(3 + 2, hidden=(8,)))
        >>> print(cx.certify(f, (torch.zeros(1, 3), torch.zeros(1, 2))).headline())
        CONVEX: Joint is convex in inputs 0 and 1 jointly, for all parameters
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """What the network returns for x and y side by side."""
        return self.net(torch.cat([x.flatten(1), y.flatten(1)], 1))

    def context(self, x: Tensor) -> list[Tensor]:
        """What depends on x alone: of a FICNN, what its layers add for x; of another network, x itself."""
        flat, net = x.flatten(1), self.net
        return cast("InTwoSteps", net).context(flat) if in_two_steps(net) else [flat]

    def with_context(self, context: Sequence[Tensor], y: Tensor) -> Tensor:
        """What the network returns, where `context` was computed of x."""
        flat, net = y.flatten(1), self.net
        return cast("InTwoSteps", net).with_context(context, flat) if in_two_steps(net) else self(context[0], flat)


def value_of(f: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """Return f at inputs of B rows, (B,) in float64, in eval mode; differentiable in parameters and inputs.

    A difference of two energies is small next to either, so that both have to be computed in float64, as the values of
    `minimise` are. A module that does not run in float64 is evaluated in its own type.

    Example:
        >>> value_of(nn.Linear(2, 1), [torch.zeros(3, 2)]).dtype
        torch.float64
    """
    state = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in [*f.named_parameters(), *f.named_buffers()]
    }
    with evaluating(f):
        try:
            return one_number(functional_call(f, state, tuple(in_float64(tensor) for tensor in inputs)))
        except (RuntimeError, TypeError):  # types that do not fit together
            return one_number(f(*inputs))
