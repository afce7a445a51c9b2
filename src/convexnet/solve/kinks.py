"""Convex operators, written with bends and affine maps.

A ReLU is the kink max(s a, a) with slope s = 0, an absolute value has s = -1, and max(a, b) is b + relu(a - b). The
table is keyed by operator; one without a row is affine or is not known here, which evaluating it tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from convexnet.curvature.call import Refusal
from convexnet.solve.bends import Bend, Smooth
from convexnet.solve.curves import elu as elu_curve
from convexnet.solve.curves import exponential, softplus, square
from convexnet.solve.groups import Largest, LogSumExp

Slope = float | Tensor | Bend
Relu = Callable[..., Tensor]
"""(a, slope) -> max(slope * a, a), for a slope that is 0 unless given, at most 1, and a number or as large as a sample;
(a, bend) -> another bend: elementwise, or, of a group, along the last dimension, which it takes away."""

Kink = Callable[[Relu, Sequence[Any], dict[str, Any]], Any]

SLOPE = "its negative slope is above 1, so that it is not convex"


def argument(args: Sequence[Any], kwargs: dict[str, Any], place: int, name: str, default: Any = None) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def relu(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return z(args[0])


def leaky(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    slope = argument(args, kwargs, 1, "negative_slope", 0.01)
    return sloped(z, args[0], slope)


def sloped(z: Relu, x: Tensor, slope: float | Tensor) -> Tensor:
    if bool((torch.as_tensor(slope) > 1).any()):
        raise Refusal(SLOPE, "use a slope of at most 1")
    return z(x, slope)


def prelu(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    x, slope = args[0], args[1]
    if slope.ndim != x.ndim:
        slope = slope.view(1, -1, *[1] * (x.ndim - 2))
    return sloped(z, x, slope)


def rrelu(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    low, high = argument(args, kwargs, 1, "lower", 1 / 8), argument(args, kwargs, 2, "upper", 1 / 3)
    return sloped(z, args[0], (low + high) / 2)


def absolute(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return z(args[0], -1.0)


def larger(z: Relu, a: Any, b: Any) -> Tensor:
    a, b = torch.broadcast_tensors(torch.as_tensor(a), torch.as_tensor(b))
    return b + z(a - b)


def maximum(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return larger(z, args[0], args[1])


def clamp(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    low, high = argument(args, kwargs, 1, "min"), argument(args, kwargs, 2, "max")
    if high is not None:
        raise Refusal("it is cut off from above, which is not convex", "cut off from below only")
    return args[0] if low is None else low + z(args[0] - low)


def largest_along(z: Relu, x: Tensor, dim: int) -> Tensor:
    """The largest along one dimension, which keeps length 1."""
    size = x.shape[dim]
    if size <= 2:
        return x if size == 1 else larger(z, x.narrow(dim, 0, 1), x.narrow(dim, 1, 1))
    return z(x.movedim(dim, -1), Largest(size)).unsqueeze(dim)


def amax(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    x = args[0]
    dims = argument(args, kwargs, 1, "dim", [])
    dims = [dims] if isinstance(dims, int) else list(dims) or list(range(x.ndim))
    dims = sorted(d % x.ndim for d in dims)
    out = reduce(lambda value, dim: largest_along(z, value, dim), dims, x)
    return out if argument(args, kwargs, 2, "keepdim", False) else out.squeeze(dims)


def largest(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """torch.max of two tensors, over one dimension (the places are not piecewise linear), or over everything."""
    other = argument(args, kwargs, 1, "other")
    if isinstance(other, Tensor):
        return larger(z, args[0], other)
    if len(args) > 1:
        return amax(z, args, kwargs), None
    return amax(z, args, kwargs)


def max_pool(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """The largest of each window, whose entries are gathered."""
    x = args[0]
    dims = x.ndim - 2
    kernel, stride, padding, dilation, ceil = pool_settings(args, kwargs, dims)
    sides = x.shape[2:]
    numbers = torch.arange(sides.numel(), dtype=torch.float64).reshape(1, 1, *sides)
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
    out = pool(numbers, kernel, stride, padding, dilation, ceil).shape[2:]
    places = windows(sides, out, kernel, stride, padding, dilation).to(x.device)
    entries = x.flatten(2)[:, :, places.flatten()].unflatten(2, places.shape)
    return largest_along(z, entries, -1).squeeze(-1).unflatten(2, out)


def pool_settings(args: Sequence[Any], kwargs: dict[str, Any], dims: int) -> tuple[Any, ...]:
    def each(value: Any) -> list[int]:
        listed = list(value) if isinstance(value, (list, tuple)) else [value]
        return listed * dims if len(listed) == 1 else listed

    kernel = each(argument(args, kwargs, 1, "kernel_size"))
    stride = each(argument(args, kwargs, 2, "stride", []) or kernel)
    padding, dilation = each(argument(args, kwargs, 3, "padding", 0)), each(argument(args, kwargs, 4, "dilation", 1))
    return kernel, stride, padding, dilation, bool(argument(args, kwargs, 5, "ceil_mode", False))


def windows(
    sides: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """The flat places (windows, entries) that each window sees; where one reaches over the border, it sees the nearest
    entry of its own again instead."""
    lines: list[Tensor] = []
    for dim in range(len(sides)):
        start = torch.arange(out[dim])[:, None] * stride[dim] - padding[dim]
        at = start + torch.arange(kernel[dim])[None] * dilation[dim]
        valid = (at >= 0) & (at < sides[dim])
        first = torch.where(valid, at, sides[dim]).amin(1, keepdim=True)
        lines.append(torch.where(valid, at, first))
    places = torch.zeros([1] * (2 * len(sides)), dtype=torch.int64)
    for dim, line in enumerate(lines):
        shape = [1] * (2 * len(sides))
        shape[dim], shape[len(sides) + dim] = line.shape
        places = places * sides[dim] + line.reshape(shape)
    return places.reshape(torch.Size(out).numel(), -1)


def minimum(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    a, b = torch.broadcast_tensors(torch.as_tensor(args[0]), torch.as_tensor(args[1]))
    return b - z(b - a)


# --- smooth operators ------------------------------------------------------------------------------------------------


def elu(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    alpha = float(argument(args, kwargs, 1, "alpha", 1.0))
    scale = float(argument(args, kwargs, 2, "scale", 1.0))
    inner = float(argument(args, kwargs, 3, "input_scale", 1.0))
    share = alpha * inner  # the slope left of zero over the one right of it: what is missing to 1 is a ReLU
    curved = scale * share * z(args[0], Smooth(elu_curve(inner)))
    return curved if share == 1 else curved + scale * (1 - share) * z(args[0])


def celu(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return z(args[0], Smooth(elu_curve(1 / float(argument(args, kwargs, 1, "alpha", 1.0)))))


def softened(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return z(args[0], Smooth(softplus(float(argument(args, kwargs, 1, "beta", 1.0)))))


def exp(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return z(args[0], Smooth(exponential()))


def squared(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return z(args[0], Smooth(square()))


def power(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    exponent = args[1]
    if not isinstance(exponent, (int, float)) or exponent not in (1, 2):
        raise Refusal(f"its exponent is {exponent}, and only squares are opened", "use squares")
    return args[0] if exponent == 1 else squared(z, args, kwargs)


def product(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """A tensor times itself is a square; any other product is affine, or was not certified."""
    return squared(z, args, kwargs) if args[0] is args[1] else args[0] * args[1]


def logsumexp(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    x, dims = args[0], argument(args, kwargs, 1, "dim")
    dims = sorted(d % x.ndim for d in ([dims] if isinstance(dims, int) else dims))
    moved = x.movedim(dims, tuple(range(x.ndim - len(dims), x.ndim))).flatten(x.ndim - len(dims))
    out = z(moved, LogSumExp(moved.shape[-1]))
    if argument(args, kwargs, 2, "keepdim", False):
        for dim in dims:
            out = out.unsqueeze(dim)
    return out


KINKS: dict[str, Kink] = {
    "relu": relu,
    "leaky_relu": leaky,
    "prelu": prelu,
    "_prelu_kernel": prelu,
    "rrelu": rrelu,
    "abs": absolute,
    "maximum": maximum,
    "minimum": minimum,
    "max": largest,
    "amax": amax,
    "clamp": clamp,
    "clamp_min": clamp,
    "max_pool1d": max_pool,
    "max_pool2d": max_pool,
    "max_pool3d": max_pool,
    "elu": elu,
    "celu": celu,
    "softplus": softened,
    "exp": exp,
    "square": squared,
    "pow": power,
    "mul": product,
    "logsumexp": logsumexp,
}
