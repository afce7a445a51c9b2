"""What the families share: activations by name, checks of arguments and images, the settings of the Keras code.

"The published code" is, in this package, a third party's upload of what looks like the Keras code of Sivaprasad et al.
2021; that it is theirs is not proved. It differs from the paper's text, so its networks have constructors of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn

from convexnet.arrays import is_whole
from convexnet.choices import ActivationName
from convexnet.errors import meant

ACTIVATIONS: Mapping[ActivationName, type[nn.Module]] = MappingProxyType(
    {"relu": nn.ReLU, "elu": nn.ELU, "celu": nn.CELU, "softplus": nn.Softplus, "leaky_relu": nn.LeakyReLU}
)
"""The activations of the networks. With PyTorch's default settings each is convex and non-decreasing."""


def activation_named(name: ActivationName) -> nn.Module:
    """A new activation module, not in place.

    Args:
        name: relu, elu, celu, softplus or leaky_relu.

    Raises:
        ValueError: another name.

    Example:
        >>> activation_named("leaky_relu")
        LeakyReLU(negative_slope=0.01)
    """
    if not isinstance(name, str) or name not in ACTIVATIONS:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"unknown activation {name!r}; use one of {', '.join(ACTIVATIONS)}{meant(name, ACTIVATIONS)}: each is "
            "convex and non-decreasing, as the activations of a convex counterpart must be"
        )
    return ACTIVATIONS[name]()


def require_positive(**sizes: object) -> None:
    """Refuse sizes that are not positive integers.

    Raises:
        TypeError, ValueError: with the name of the argument.

    Example:
        >>> require_positive(classes=0)
        Traceback (most recent call last):
        ...
        ValueError: classes must be at least 1, not 0
    """
    for name, size in sizes.items():
        if not is_whole(size):
            raise TypeError(f"{name} must be an integer, not {size!r}")
        if int(cast("int", size)) < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")


def as_widths(sizes: object, name: str) -> tuple[int, ...]:
    """One size or a sequence of them as a tuple of ints, each at least 1.

    Raises:
        TypeError, ValueError: with the name of the argument.

    Example:
        >>> as_widths(16, "hidden"), as_widths([8, 4], "hidden")
        ((16,), (8, 4))
    """
    if isinstance(sizes, (str, bytes)) or not (is_whole(sizes) or isinstance(sizes, Iterable)):
        raise TypeError(f"{name} must be an integer or a sequence of integers, as (16, 16), not {sizes!r}")
    listed: list[object] = list(sizes) if isinstance(sizes, Iterable) and not is_whole(sizes) else [sizes]
    require_positive(**{f"{name}[{index}]": size for index, size in enumerate(listed)})
    return tuple(int(cast("int", size)) for size in listed)


class DropPath(nn.Module):
    """Leave out a residual branch for a share of the samples of a batch, and scale it up for the others; in training.

    In eval mode it is the identity, so that convexity, a statement about eval mode, does not know it.

    Args:
        share: of the samples, from 0 to below 1.

    Raises:
        ValueError: a share outside [0, 1).

    Source: Huang et al. 2016 (arXiv 1603.09382), stochastic depth, section 3.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> DropPath(0.5)(torch.ones(4, 1)).flatten().tolist()
        [0.0, 2.0, 0.0, 0.0]
        >>> DropPath(0.5).eval()(torch.ones(2, 1)).flatten().tolist()
        [1.0, 1.0]
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = require_share(share, "drop_path")

    def extra_repr(self) -> str:
        return f"{self.share:g}"

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or not self.share:
            return branch
        kept = torch.rand(len(branch), *[1] * (branch.ndim - 1), device=branch.device, dtype=branch.dtype) >= self.share
        return branch * kept / (1 - self.share)


def require_share(share: object, name: str) -> float:
    """Return a share in [0, 1) as a float.

    Raises:
        TypeError, ValueError: with the name of the argument.

    Example:
        >>> require_share(1, "drop_path")
        Traceback (most recent call last):
        ValueError: drop_path must be in [0, 1), not 1
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)):
        raise TypeError(f"{name} must be a number in [0, 1), not {share!r}")
    if not 0 <= share < 1:
        raise ValueError(f"{name} must be in [0, 1), not {share!r}")
    return float(share)


def require_images(images: Tensor, *, channels: int, least: int, network: str) -> None:
    """Refuse a batch that a network for images cannot take, before a layer deep inside fails on it.

    Args:
        images: what should be (B, channels, height, width).
        channels: the colours the network was built for.
        least: the smallest height and width, in pixels, that leaves a pixel in every layer.
        network: the name of its class.

    Raises:
        ValueError: with the shape.

    Example:
        >>> import torch
        >>> require_images(torch.zeros(2, 3, 8, 8), channels=3, least=9, network="AllConv")
        Traceback (most recent call last):
        ...
        ValueError: AllConv needs images of at least 9 x 9 pixels, not 8 x 8: a layer would have no pixel left
    """
    shape = tuple(images.shape)
    if len(shape) != 4:
        raise ValueError(f"{network} takes a batch of images (B, {channels}, height, width), not shape {shape}")
    if shape[1] != channels:
        raise ValueError(
            f"{network} was built for images of {channels} channels, these have {shape[1]} (shape {shape}): "
            f"build it with in_channels={shape[1]}"
        )
    if min(shape[2:]) < least:
        raise ValueError(
            f"{network} needs images of at least {least} x {least} pixels, not {shape[2]} x {shape[3]}: "
            "a layer would have no pixel left"
        )


def with_keras_defaults(model: nn.Module) -> None:
    """Give a network, in place, what Keras chooses where the published code chooses nothing.

    Weights of linear and convolutional layers are Glorot uniform, their biases zero; BatchNorm has ε = 0.001 and keeps
    0.99 of its running statistics (PyTorch's default: 0.00001 and 0.9).

    Source: Keras's `glorot_uniform`, `zeros`, and `BatchNormalization(momentum=0.99, epsilon=0.001)`.

    Example:
        >>> layer = nn.Linear(2, 4)
        >>> with_keras_defaults(layer)
        >>> bool(layer.weight.abs().max() <= 1.0), layer.bias.tolist()
        (True, [0.0, 0.0, 0.0, 0.0])
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.eps = 1e-3
            module.momentum = 0.01
