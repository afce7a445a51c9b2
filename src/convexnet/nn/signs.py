"""An activation that sees both signs of what it is given."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BothSigns(nn.Module):
    """The concatenation of g(a) and g(−a), for an activation g: (B, C, ...) -> (B, 2C, ...), as in concatenated ReLUs.

    Behind a free layer a is affine, so that both halves are convex; the layers that follow may then weigh either side
    of a unit, where weights of one sign alone could only ever add up g(a).

    Args:
        activation: of single elements, convex.

    Source: Shang et al., Understanding and Improving Convolutional Neural Networks via Concatenated Rectified Linear
        Units (2016), equation 2.

    Example:
        >>> BothSigns(nn.ReLU())(torch.tensor([[1.0, -2.0]]))
        tensor([[1., 0., 0., 2.]])
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, inputs: Tensor) -> Tensor:
        opposite = -inputs  # before an activation with inplace=True changes the inputs
        return torch.cat([self.activation(inputs), self.activation(opposite)], dim=1)
