"""Recurrent networks that read an image row by row, one row a step: an ordinary one, and two that are convex.

Their input is the whole image; a certificate is for all of its rows together.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.lab.models.architectures import converted
from convexnet.lab.models.convex import Design

WIDTH = 128
"""Of the state."""

KEPT = 0.9
"""What a state that nothing is added to keeps in a step, at the start: below 1, so that none grows with the rows."""


class Rows(nn.Module):
    """Images (B, C, H, W) as sequences of their rows, (B, H, C W).

    Example:
        >>> Rows()(torch.arange(4.0).reshape(1, 1, 2, 2)).tolist()
        [[[0.0, 1.0], [2.0, 3.0]]]
    """

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4:
            raise ValueError(f"rows are those of images (B, C, H, W), not of {tuple(images.shape)}")
        return images.transpose(1, 2).flatten(2)


class LastState(nn.Module):
    """The last state (B, width) of a recurrent network h_t = relu(W h_{t-1} + U x_t + b), from (B, T, n).

    W starts as 0.9 times the identity (after Le, Jaitly & Hinton 2015), with a little noise that is not negative.

    Example:
        >>> LastState(3, 5)(torch.zeros(2, 4, 3)).shape
        torch.Size([2, 5])
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.rnn = nn.RNN(inputs, width, nonlinearity="relu", batch_first=True)
        with torch.no_grad():
            weight = self.rnn.get_parameter("weight_hh_l0")
            weight.copy_(KEPT * torch.eye(width) + 0.1 * torch.rand(width, width) / width)

    def forward(self, sequence: Tensor) -> Tensor:
        states, _ = self.rnn(sequence)
        return states[:, -1]


def rnn(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """The ordinary network: ReLU, one level, a linear head on the last state."""
    inputs, width = row_of(shape), (recipe.hidden or (WIDTH,))[0]
    return nn.Sequential(OrderedDict(rows=Rows(), state=LastState(inputs, width), head=nn.Linear(width, classes)))


def ioc_rnn(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """Its convex counterpart: the weights from state to state are kept non-negative, those of the rows are free."""
    return converted(rnn(shape, classes, recipe), shape, recipe.convex, "relu", start=False)


def icrnn(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """The input-convex recurrent network with pass-through of each row and the one before (Chen, Shi & Zhang 2019)."""
    network = cx.nn.ICRNN(row_of(shape), recipe.hidden or (WIDTH,), classes, constraint="clip", outputs="last")
    return nn.Sequential(OrderedDict(rows=Rows(), icrnn=network))


def row_of(shape: Sequence[int]) -> int:
    """How many numbers a row has.

    Raises:
        ValueError: samples are not images.
    """
    if len(shape) != 3:
        raise ValueError(f"rows are those of images (C, H, W); these samples have shape {tuple(shape)}")
    return shape[0] * shape[2]
