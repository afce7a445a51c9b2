"""Energies f(x, y) of two halves of a picture, x given and y missing: the networks of the study `olivetti`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.memory import CONSTRAINT
from convexnet.nn.grids import Convolution, Convolutions


class Squared(nn.Module):
    """½ ‖y − net(x)‖²: least at net(x), so that an ordinary regression is learnt and used as an energy is.

    Example:
        >>> f = Squared(nn.Flatten())
        >>> f(torch.ones(1, 4), torch.zeros(1, 4))
        tensor([2.])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B,)."""
        return (y - self.net(x)).square().flatten(1).sum(1) / 2


class Linear(nn.Module):
    """A x + b of images, with A and b as buffers: an answer that is known and does not learn.

    Args:
        shape: of x and of the answer.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        size = torch.Size(shape).numel()
        self.shape = tuple(shape)
        self.register_buffer("weight", torch.zeros(size, size))
        self.register_buffer("bias", torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """(B, *shape)."""
        return nn.functional.linear(x.flatten(1), self.weight, self.bias).unflatten(1, self.shape)


class AroundAnswer(nn.Module):
    """½ ‖y − r(x)‖² + g((x, r(x)), y) with g a ConvPICNN that sees the answer r(x) beside x: convex in y for every x.

    What g adds begins small: before it learns, the least y is next to r(x).

    Args:
        shape: (C, H, W) of x and of y.
        convolutions, dense: of g, see `convexnet.nn.ConvPICNN`.
        flip: the side of x that meets y is turned to it, so that what is near in the picture is near for g.
    """

    def __init__(
        self, shape: tuple[int, int, int], convolutions: Convolutions, dense: Sequence[int], flip: int | None
    ) -> None:
        super().__init__()
        channels, high, wide = shape
        self.answer, self.flip = Linear(shape), flip
        self.network = cx.nn.ConvPICNN((2 * channels, high, wide), shape, convolutions, hidden=dense)
        self.share = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B,)."""
        answer = self.answer(x)
        seen = torch.cat([x if self.flip is None else x.flip(self.flip), answer], 1)
        added = self.network(seen, y)[:, 0]
        return (y - answer).square().flatten(1).sum(1) / 2 + nn.functional.softplus(self.share) * added


def encoder_decoder(shape: tuple[int, int, int], convolutions: Convolutions, dense: int) -> nn.Module:
    """An ordinary network from one half to the other: the convolutions of the energy, then dense layers.

    Example:
        >>> encoder_decoder((1, 16, 8), [(4, 4, 2)], 8)(torch.zeros(3, 1, 16, 8)).shape
        torch.Size([3, 1, 16, 8])
    """
    layers: list[nn.Module] = []
    channels = shape[0]
    for item in convolutions:
        layer = Convolution(*item)
        conv = nn.Conv2d(channels, layer.channels, *layer.geometry())
        layers += [conv, nn.BatchNorm2d(layer.channels), nn.ReLU()]
        channels = layer.channels
    body = nn.Sequential(*layers)
    with torch.no_grad():
        inside = body(torch.zeros(2, *shape)).flatten(1).shape[1]
    head = [nn.Linear(inside, dense), nn.BatchNorm1d(dense), nn.ReLU()]
    last = [nn.Linear(dense, torch.Size(shape).numel()), nn.Sigmoid(), nn.Unflatten(1, shape)]
    return nn.Sequential(*layers, nn.Flatten(), *head, *last)


def free_twin(shape: tuple[int, int, int], convolutions: Convolutions, dense: Sequence[int]) -> nn.Module:
    """The ConvPICNN of the same sizes with weights of any sign: nothing keeps it convex in y."""
    made = cx.nn.ConvPICNN(shape, shape, convolutions, hidden=dense, x_norm=True, constraint="clip")
    return Unconstrained(made)


class Unconstrained(nn.Module):
    """A network whose constraint is not kept: its layers alone, by which an optimiser is not bound.

    Example:
        >>> from convexnet.training import cones_of
        >>> len(cones_of(Unconstrained(cx.nn.PICNN(2, 2, hidden=(4,), constraint="clip"))))
        0
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        net.__dict__.pop(CONSTRAINT, None)
        self.net = net

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the network returns."""
        return self.net(*inputs)
