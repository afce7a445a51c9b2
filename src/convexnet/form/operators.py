"""Convex operators, written with bends and affine maps.

A ReLU is the kink max(s a, a) with slope s = 0, an absolute value has s = -1, and max(a, b) is b + relu(a - b). The
table is keyed by operator; one without a row is affine, as its rule in the table of the calculus says, or stays closed.
Arguments may be tensors or what stands for them (`rounding.Tracked`): a row uses sums, products with
numbers, and moves.

Long because it is a table with its rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from convexnet.curvature.call import Refusal
from convexnet.form.atoms import Bend, Smooth
from convexnet.form.grouped import Largest, LogSumExp
from convexnet.form.smooth import elu as elu_curve
from convexnet.form.smooth import exponential, softplus, square

Slope = float | Tensor | Bend
Relu = Callable[..., Tensor]
"""(a, slope) -> max(slope * a, a), for a slope that is 0 unless given, at most 1, and a number or as large as a sample;
(a, bend) -> another bend: elementwise, or, of a group, along the last dimension, which it takes away."""

Kink = Callable[[Relu, Sequence[Any], dict[str, Any]], Any]

SLOPE = "its negative slope is above 1, so that it is not convex"


def is_array(value: Any) -> bool:
    """A tensor, or what stands for one."""
    return hasattr(value, "movedim")


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
    return b + z(a - b)  # the difference has the shape of both together


def smaller(z: Relu, a: Any, b: Any) -> Tensor:
    return b - z(b - a)


def maximum(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return larger(z, args[0], args[1])


def clamp(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    low, high = argument(args, kwargs, 1, "min"), argument(args, kwargs, 2, "max")
    if low is not None and high is not None:
        raise Refusal("it is cut off at both ends, which is neither convex nor concave", "cut off at one end only")
    if high is not None:
        return smaller(z, args[0], high)
    return args[0] if low is None else larger(z, args[0], low)


def clamp_max(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return smaller(z, args[0], argument(args, kwargs, 1, "max"))


def threshold(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    level, value = argument(args, kwargs, 1, "threshold"), argument(args, kwargs, 2, "value")
    if level != value:
        raise Refusal("it jumps at its threshold", "give the threshold as its value")
    return larger(z, args[0], level)


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


def amin(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return -amax(z, [-args[0], *args[1:]], kwargs)


def smallest(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """torch.min in its three forms."""
    other = argument(args, kwargs, 1, "other")
    if is_array(other):
        return smaller(z, args[0], other)
    if argument(args, kwargs, 1, "dim") is not None:
        return amin(z, args, kwargs), None
    return amin(z, args, kwargs)


def largest(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """torch.max of two tensors, over one dimension (the places are not piecewise linear), or over everything."""
    other = argument(args, kwargs, 1, "other")
    if is_array(other):
        return larger(z, args[0], other)
    if argument(args, kwargs, 1, "dim") is not None:
        return amax(z, args, kwargs), None
    return amax(z, args, kwargs)


def max_pool(z: Relu, args: Sequence[Any], kwargs: dict[str, Any], dims: int) -> Tensor:
    """The largest of each window, whose entries are gathered; with or without channels before the last dimensions."""
    x = args[0]
    kernel, stride, padding, dilation, ceil = pool_settings(args, kwargs, dims)
    sides = x.shape[x.ndim - dims :]
    numbers = torch.arange(sides.numel(), dtype=torch.float64).reshape(1, 1, *sides)
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
    out = pool(numbers, kernel, stride, padding, dilation, ceil).shape[2:]
    return largest_of(z, x, windows(sides, out, kernel, stride, padding, dilation), out)


def adaptive_max_pool(z: Relu, args: Sequence[Any], kwargs: dict[str, Any], dims: int) -> tuple[Tensor, None]:
    """Windows from floor(i n / m) to ceil((i + 1) n / m), for m of them over n entries; the places are not convex."""
    x, asked = args[0], argument(args, kwargs, 1, "output_size")
    sides = x.shape[x.ndim - dims :]
    out = list(asked) if isinstance(asked, (list, tuple)) else [asked] * dims
    out = torch.Size(side if size is None else size for side, size in zip(sides, out, strict=True))
    lines: list[Tensor] = []
    for side, size in zip(sides, out, strict=True):
        first = torch.arange(size) * side // size
        last = -(-(torch.arange(size) + 1) * side // size) - 1
        reach = int((last - first).max()) + 1
        lines.append(torch.minimum(first[:, None] + torch.arange(reach)[None], last[:, None]))
    return largest_of(z, x, places_of(lines, sides), out), None


def largest_of(z: Relu, x: Tensor, places: Tensor, out: Sequence[int]) -> Tensor:
    """The largest of the entries at flat places (windows, entries) of the last dimensions, which become `out`."""
    rank = x.ndim - len(out)
    entries = x.flatten(rank)[..., places.to(x.device).flatten()].unflatten(rank, tuple(places.shape))
    return largest_along(z, entries, -1).squeeze(-1).unflatten(rank, tuple(out))


def pooled(dims: int) -> Kink:
    return lambda z, args, kwargs: max_pool(z, args, kwargs, dims)


def pooled_with_places(dims: int) -> Kink:
    return lambda z, args, kwargs: (max_pool(z, args, kwargs, dims), None)


def pooled_adaptively(dims: int) -> Kink:
    return lambda z, args, kwargs: adaptive_max_pool(z, args, kwargs, dims)


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
    return places_of(lines, sides)


def places_of(lines: Sequence[Tensor], sides: Sequence[int]) -> Tensor:
    """The flat places (windows, entries) of windows that are given along each dimension, (windows, entries) too."""
    places = torch.zeros([1] * (2 * len(sides)), dtype=torch.int64)
    for dim, line in enumerate(lines):
        shape = [1] * (2 * len(sides))
        shape[dim], shape[len(sides) + dim] = line.shape
        places = places * sides[dim] + line.reshape(shape)
    return places.reshape(torch.Size([len(line) for line in lines]).numel(), -1)


def minimum(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return smaller(z, args[0], args[1])


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
    beta, limit = float(argument(args, kwargs, 1, "beta", 1.0)), float(argument(args, kwargs, 2, "threshold", 20.0))
    return z(args[0], Smooth(softplus(beta, limit)))


def log_sigmoid(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return -z(-args[0], Smooth(softplus(1.0)))


def exp(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return z(args[0], Smooth(exponential()))


def exp2(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return z(math.log(2.0) * args[0], Smooth(exponential()))


def expm1(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return z(args[0], Smooth(exponential())) - 1.0


def cosh(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return 0.5 * z(args[0], Smooth(exponential())) + 0.5 * z(-args[0], Smooth(exponential()))


def squared(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return z(args[0], Smooth(square()))


def power(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    exponent = args[1]
    if not isinstance(exponent, (int, float)) or exponent not in (1, 2):
        raise Refusal(f"its exponent is {exponent}, and only squares are opened", "use squares")
    return args[0] if exponent == 1 else squared(z, args, kwargs)


def product(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """A tensor times itself is a square; a product with what does not move is affine."""
    if args[0] is not args[1]:
        raise Refusal("it multiplies two different quantities that depend on the variable", "use squares")
    return squared(z, args, kwargs)


def logsumexp(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    x, dims = args[0], argument(args, kwargs, 1, "dim")
    dims = sorted(d % x.ndim for d in ([dims] if isinstance(dims, int) else dims))
    out = soft_largest(z, x, dims)
    if argument(args, kwargs, 2, "keepdim", False):
        for dim in dims:
            out = out.unsqueeze(dim)
    return out


def soft_largest(z: Relu, x: Tensor, dims: Sequence[int]) -> Tensor:
    moved = x.movedim(tuple(dims), tuple(range(x.ndim - len(dims), x.ndim))).flatten(x.ndim - len(dims))
    return z(moved, LogSumExp(moved.shape[-1]))


def log_softmax(z: Relu, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    x, dim = args[0], argument(args, kwargs, 1, "dim") % args[0].ndim
    return x - soft_largest(z, x, [dim]).unsqueeze(dim)


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
    "min": smallest,
    "amax": amax,
    "amin": amin,
    "clamp": clamp,
    "clamp_min": clamp,
    "clamp_max": clamp_max,
    "threshold": threshold,
    **{f"max_pool{d}d": pooled(d) for d in (1, 2, 3)},
    **{f"max_pool{d}d_with_indices": pooled_with_places(d) for d in (1, 2, 3)},
    **{f"adaptive_max_pool{d}d": pooled_adaptively(d) for d in (1, 2, 3)},
    "elu": elu,
    "celu": celu,
    "softplus": softened,
    "log_sigmoid": log_sigmoid,
    "exp": exp,
    "exp2": exp2,
    "expm1": expm1,
    "cosh": cosh,
    "square": squared,
    "pow": power,
    "mul": product,
    "logsumexp": logsumexp,
    "log_softmax": log_softmax,
    "_log_softmax": log_softmax,
}
