"""Linear and convolutional layers whose weights are non-negative by construction, for every value of their parameters.

The weight is computed in `forward` from a free parameter `raw`, in the open: a traced program shows softplus(raw), from
which its sign follows whatever the optimiser, a checkpoint or a cast has done to `raw`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convexnet.arrays import as_size, as_sizes, as_tensor, is_whole
from convexnet.choices import ConstraintName
from convexnet.errors import meant
from convexnet.initialise.activation_moments import Activation
from convexnet.initialise.weights import lognormal_

POSITIVE: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"softplus": F.softplus, "exp": torch.exp, "square": torch.square}
)
"""The constraints that compute a weight: non-negative for every argument."""

INVERSE: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"softplus": lambda w: w + torch.log(-torch.expm1(-w)), "exp": torch.log, "square": torch.sqrt}
)

LEAST = 1e-6
"""What an assigned weight is raised to: at zero the gradient of `raw` would be zero, or `raw` infinite."""


class NonnegativeWeight(nn.Module):
    """What the layers of this file share: the weight, its free parameter and its initial values.

    Attributes:
        raw: the free parameter, of the weight's shape.
        bias: (out,), or None.
        constraint: how the weight is computed from `raw`.
        columns: mask of the inputs whose column is non-negative; None: all of them.
    """

    raw: nn.Parameter
    bias: nn.Parameter | None
    columns: Tensor | None

    def __init__(
        self, shape: Sequence[int], bias: bool, constraint: ConstraintName, columns: Tensor | None = None
    ) -> None:
        super().__init__()
        if not isinstance(constraint, str) or constraint not in POSITIVE:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"unknown constraint {constraint!r}{meant(constraint, POSITIVE)} for a weight that is non-negative by "
                f"construction: use one of {', '.join(map(repr, POSITIVE))}. The others act after the step of an "
                "optimiser: use nn.Linear or nn.Conv2d and cx.constrain(model, example).attach(optimizer)"
            )
        self.constraint = constraint
        self.raw = nn.Parameter(torch.empty(*shape))
        self.register_parameter("bias", nn.Parameter(torch.zeros(shape[0])) if bias else None)
        self.register_buffer("columns", columns, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The weight that the layer computes with, which is >= 0; a tensor that is >= 0 may be assigned."""
        positive = POSITIVE[self.constraint](self.raw)
        return positive if self.columns is None else torch.where(self.columns, positive, self.raw)

    @weight.setter
    def weight(self, value: Tensor) -> None:
        with torch.no_grad():
            self.raw.copy_(self.raw_of(value))

    def raw_of(self, weight: Tensor) -> Tensor:
        """The free parameter of a weight; constrained entries below 1e-6 count as 1e-6.

        Raises:
            ValueError: a constrained entry is negative, an entry is not finite, or the shape is another.

        Example:
            >>> layer = ConvexLinear(2, 1)
            >>> layer.weight = torch.tensor([[0.5, 3.0]])
            >>> layer.weight.detach()
            tensor([[0.5000, 3.0000]])
        """
        given = as_tensor(weight, "the weight").detach()
        if given.shape != self.raw.shape:
            raise ValueError(
                f"the weight of this {type(self).__name__} has shape {tuple(self.raw.shape)}, not {tuple(given.shape)}"
            )
        weight = given.to(self.raw)
        kept = weight if self.columns is None else weight.masked_fill(~self.columns, 0.0)
        if not bool((kept >= 0).all() & weight.isfinite().all()):
            raise ValueError(
                f"the weight of a {type(self).__name__} must be finite and non-negative, and its least entry is "
                f"{kept.min().item():.3g}: clamp it first"
            )
        free = INVERSE[self.constraint](kept.clamp(min=LEAST))
        return free if self.columns is None else torch.where(self.columns, free, weight)

    @torch.no_grad()
    def reset_parameters(self, activation: Activation = "relu") -> None:
        """Log-normal initial values, for a layer that comes after an activation; free columns are normal (LeCun).

        Example:
            >>> layer = ConvexLinear(2, 1)
            >>> layer.reset_parameters("elu")
        """
        weight = torch.empty_like(self.raw)
        if self.columns is not None:
            nn.init.normal_(weight, std=max(int((~self.columns).sum()), 1) ** -0.5)
        self.weight = lognormal_(weight, self.bias, activation, where=self.columns)


class ConvexLinear(NonnegativeWeight):
    """W x + b with W >= 0 for every value of its parameters: convex in every input in which x is convex.

    Args:
        in_features, out_features: as in `nn.Linear`.
        bias: free, of any sign.
        constraint: how W is computed from the free parameter `raw`: "softplus", "exp" or "square".
        columns: the inputs whose column of W is kept non-negative, the others are free; None: all of them. For inputs
            of which only some are convex features, and the others affine.

    Shape: (..., in_features) -> (..., out_features).

    The weight starts log-normal, and the bias at what centres the result, for an x that comes from a ReLU
    (`reset_parameters` takes another activation); see docs/initialisation.md.

    Raises:
        ValueError: sizes that are not positive, an unknown constraint, columns that do not exist.

    Source: Amos, Xu & Kolter, Input Convex Neural Networks (ICML 2017), proposition 1, asks for W >= 0; log-normal
        values: Hoedt & Klambauer (NeurIPS 2023).

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), ConvexLinear(8, 1))
        >>> bool((net[2].weight >= 0).all())
        True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        constraint: ConstraintName = "softplus",
        columns: int | Sequence[int] | Tensor | None = None,
    ) -> None:
        in_features, out_features = as_size(in_features, "in_features"), as_size(out_features, "out_features")
        mask = None if columns is None else mask_of(columns, in_features, "columns")
        super().__init__((out_features, in_features), bias, constraint, mask)
        self.in_features, self.out_features = in_features, out_features
        self.reset_parameters()

    def extra_repr(self) -> str:
        free = "" if self.columns is None else f", columns={self.columns.nonzero().flatten().tolist()}"
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{sizes}, constraint={self.constraint!r}{free}"

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    @torch.no_grad()
    def plain(self) -> nn.Linear:
        """Return a linear layer with the present weights, for inference.

        Example:
            >>> layer, x = ConvexLinear(3, 2), torch.rand(4, 3)
            >>> torch.equal(layer.plain()(x), layer(x))
            True
        """
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        return filled(layer, self)


class ConvexConv2d(NonnegativeWeight):
    """A two-dimensional convolution whose kernel is non-negative for every value of its parameters.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as in `nn.Conv2d`; padding is
            with zeros.
        constraint: how the kernel is computed from the free parameter `raw`: "softplus", "exp" or "square".

    Shape: (B, in_channels, H, W) -> (B, out_channels, H', W'), H' and W' as for `nn.Conv2d`.

    Initial values are those of `ConvexLinear`, with the kernel's taps counted as inputs.

    Raises:
        ValueError: sizes that are not positive, groups that do not divide the channels, an unknown constraint.

    Source: as for `ConvexLinear`; a convolution is a linear map.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), ConvexConv2d(8, 4, 3, stride=2))
        >>> net(torch.zeros(2, 3, 9, 9)).shape
        torch.Size([2, 4, 3, 3])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        constraint: ConstraintName = "softplus",
    ) -> None:
        kernel = pair(kernel_size, "kernel_size")
        in_channels, out_channels = as_size(in_channels, "in_channels"), as_size(out_channels, "out_channels")
        groups = as_size(groups, "groups")
        if isinstance(padding, str) and padding not in PADDINGS:
            raise ValueError(
                f"unknown padding {padding!r}{meant(padding, PADDINGS)}: use a number of pixels, or one of "
                f"{', '.join(map(repr, PADDINGS))}"
            )
        stride, dilation = pair(stride, "stride"), pair(dilation, "dilation")
        if not isinstance(padding, str):
            padding = as_size(padding, "padding", 0) if is_whole(padding) else pair(padding, "padding", 0)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{groups} groups must divide the {in_channels} channels that come and {out_channels} made"
            )
        super().__init__((out_channels, in_channels // groups, *kernel), bias, constraint)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.groups = groups
        self.reset_parameters()

    def extra_repr(self) -> str:
        sizes = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        return f"{sizes}, padding={self.padding}, bias={self.bias is not None}, constraint={self.constraint!r}"

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    @torch.no_grad()
    def plain(self) -> nn.Conv2d:
        """Return a convolution with the present weights, for inference.

        Example:
            >>> layer, x = ConvexConv2d(3, 2, 3), torch.rand(4, 3, 5, 5)
            >>> torch.equal(layer.plain()(x), layer(x))
            True
        """
        layer = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.bias is not None,
        )
        return filled(layer, self)


Plain = TypeVar("Plain", nn.Linear, nn.Conv2d)


def filled(plain: Plain, layer: NonnegativeWeight) -> Plain:
    """A plain layer with the weight and the bias of another, on its device and of its type."""
    plain.to(layer.raw.device, layer.raw.dtype)
    plain.weight.copy_(layer.weight)
    if layer.bias is not None and plain.bias is not None:
        plain.bias.copy_(layer.bias)
    return plain.train(layer.training)


# --- arguments -------------------------------------------------------------------------------------------------------


PADDINGS = ("valid", "same")
"""Paddings of a convolution by name."""


def pair(size: int | Sequence[int], name: str = "size", least: int = 1) -> tuple[int, int]:
    """Return a size for height and width, from one number or two.

    Example:
        >>> pair(3), pair((4, 2))
        ((3, 3), (4, 2))
    """
    sizes = as_sizes(size, name, least)
    if len(sizes) not in (1, 2):
        raise ValueError(f"{name} is one size for height and width, or a pair of them, not {size!r}")
    return sizes[0], sizes[-1]


def mask_of(indices: int | Sequence[int] | Tensor, size: int, name: str) -> Tensor:
    """Return a boolean mask of this size, from an index, a list of indices or a mask.

    Raises:
        TypeError: neither indices nor booleans.
        ValueError: an index that does not exist, or a mask of another length.

    Example:
        >>> mask_of([0, -1], 3, "columns"), mask_of([True, False, True], 3, "columns")
        (tensor([ True, False,  True]), tensor([ True, False,  True]))
    """
    given = as_tensor(indices, name).detach().cpu()
    if given.dtype == torch.bool:
        if given.shape != (size,):
            raise ValueError(f"the mask {name} must have shape ({size},), not {tuple(given.shape)}")
        return given.clone()
    if given.is_floating_point() and given.numel():
        raise TypeError(f"{name} must hold indices of inputs or be a boolean mask, not {indices!r}")
    listed = [int(index) for index in given.flatten().tolist()]
    wrong = [index for index in listed if not -size <= index < size]
    if wrong:
        raise ValueError(f"{name} names input {wrong[0]}, and there are {size} of them")
    mask = torch.zeros(size, dtype=torch.bool)
    mask[listed] = True
    return mask
