"""Parts of convolutional input-convex networks: the list of their layers, maps between grids, and the grid of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convexnet.arrays import as_size, as_sizes
from convexnet.choices import ConstraintName
from convexnet.nn.layers import POSITIVE, ConvexConv2d, pair


class Convolution(NamedTuple):
    """One convolutional layer: channels, kernel, stride, and padding with zeros.

    Kernel, stride and padding are for height and width alike, or a pair. Padding None is (kernel − stride) / 2, rounded
    up: a side that the stride divides is then divided by it exactly, where kernel − stride is even.

    Example:
        >>> Convolution(32, 8, (4, 2)).geometry()
        ((8, 8), (4, 2), (2, 3))
        >>> Convolution(32, 8, (4, 2)).grid((64, 32))
        (16, 16)
    """

    channels: int
    kernel: int | tuple[int, int]
    stride: int | tuple[int, int] = 1
    padding: int | tuple[int, int] | None = None

    def geometry(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Return kernel, stride and padding, each for height and width."""
        kernel, stride = pair(self.kernel), pair(self.stride)
        if self.padding is not None:
            return kernel, stride, pair(self.padding, "padding", least=0)
        high, wide = (max(k - s + 1, 0) // 2 for k, s in zip(kernel, stride, strict=True))
        return kernel, stride, (high, wide)

    def grid(self, sides: tuple[int, int]) -> tuple[int, int]:
        """Return height and width after the layer."""
        high, wide = ((side + 2 * p - k) // s + 1 for side, k, s, p in zip(sides, *self.geometry(), strict=True))
        return high, wide


Convolutions = Sequence[tuple[Any, ...]]


def image_of(image: Sequence[int], name: str = "image") -> tuple[int, int, int]:
    """Return (channels, height, width) of one sample, checked.

    Example:
        >>> image_of([1, 8, 8])
        (1, 8, 8)
    """
    sizes = as_sizes(image, name)
    if len(sizes) != 3:
        called = "the image" if name == "image" else name
        raise ValueError(f"{called} is (channels, height, width) of one sample, not {image!r}")
    return sizes[0], sizes[1], sizes[2]


def planned(image: tuple[int, int, int], convolutions: Convolutions) -> list[tuple[Convolution, tuple[int, int]]]:
    """Return the convolutional layers and the grid after each, checked.

    Example:
        >>> [grid for _, grid in planned((1, 64, 32), [(32, 8, (4, 2)), (64, 4, 2), (64, 3)])]
        [(16, 16), (8, 8), (8, 8)]
    """
    if isinstance(convolutions, (str, bytes)) or not isinstance(convolutions, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"convolutions is a list with {EACH} for each layer, not {convolutions!r}")
    listed = list(convolutions)
    if not listed:
        raise ValueError("there must be at least one convolution; without any, flatten the image: FICNN or PICNN")
    plan: list[tuple[Convolution, tuple[int, int]]] = []
    sides = image[1], image[2]
    for index, item in enumerate(listed):
        name = f"convolutions[{index}]"
        if not isinstance(item, (tuple, list)) or not 2 <= len(item) <= 4:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"{name} is {EACH}, not {item!r}")
        layer = checked_convolution(Convolution(*item), name)
        kernel = pair(layer.kernel)
        after = layer.grid(sides)
        if min(after) < 1:
            raise ValueError(
                f"convolutions[{index}] leaves no pixel: its kernel is {kernel}, and the image is {sides[0]} x "
                f"{sides[1]} there; use a smaller kernel or more padding"
            )
        plan.append((layer, after))
        sides = after
    return plan


EACH = "a Convolution or a tuple (channels, kernel[, stride[, padding]])"


def checked_convolution(layer: Convolution, name: str) -> Convolution:
    """Return a convolutional layer with sizes that are ints, or raise an error that names the wrong one."""
    return Convolution(
        as_size(layer.channels, f"{name}.channels"),
        pair(layer.kernel, f"{name}.kernel"),
        pair(layer.stride, f"{name}.stride"),
        None if layer.padding is None else pair(layer.padding, f"{name}.padding", least=0),
    )


def convex_conv(channels: int, layer: Convolution, constraint: ConstraintName, bias: bool) -> ConvexConv2d | nn.Conv2d:
    """W^(z): non-negative by construction, or a plain convolution that is to be kept so.

    Example:
        >>> convex_conv(2, Convolution(4, 3), "clip", bias=False)
        Conv2d(2, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    """
    kernel, stride, padding = layer.geometry()
    if constraint in POSITIVE:
        return ConvexConv2d(channels, layer.channels, kernel, stride, padding, bias=bias, constraint=constraint)
    return nn.Conv2d(channels, layer.channels, kernel, stride, padding, bias=bias)


def plain_conv(channels: int, layer: Convolution, bias: bool = True) -> nn.Conv2d:
    """A free map to the grid after a layer."""
    kernel, stride, padding = layer.geometry()
    return nn.Conv2d(channels, layer.channels, kernel, stride, padding, bias=bias)


def gate(channels: int, gated: int) -> nn.Conv2d:
    """A gate for each channel and pixel, from the pixels around it."""
    return nn.Conv2d(channels, gated, 3, padding=1)


def reduction(channels: int, layer: Convolution) -> nn.Conv2d:
    """R_i: as many channels, on the grid after a layer; it starts as the average over the window of each channel.

    Example:
        >>> reduction(2, Convolution(8, 2, 2))(torch.ones(1, 2, 4, 4)).unique().tolist()
        [1.0]
    """
    kernel, stride, padding = layer.geometry()
    conv = nn.Conv2d(channels, channels, kernel, stride, padding)
    with torch.no_grad():
        nn.init.zeros_(conv.weight)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        conv.weight[range(channels), range(channels)] = 1 / (kernel[0] * kernel[1])
    return conv


def flattened(layer: nn.Module) -> nn.Module:
    """A dense layer that takes images or vectors."""
    return nn.Sequential(nn.Flatten(), layer)


def require_image(value: Tensor, image: tuple[int, int, int], name: str, network: str) -> None:
    """Refuse a batch of images of another shape.

    Example:
        >>> require_image(torch.zeros(2, 1, 4, 8), (1, 8, 8), "y", "ConvFICNN")
        Traceback (most recent call last):
        ValueError: this ConvFICNN takes y of shape (B, 1, 8, 8), not (2, 1, 4, 8)
    """
    if value.ndim != 4 or value.shape[1:] != image:
        raise ValueError(
            f"this {network} takes {name} of shape (B, {', '.join(map(str, image))}), not {tuple(value.shape)}"
        )
