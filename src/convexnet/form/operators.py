"""The one lowering table: how operators that are not affine are written with atoms and affine maps.

A ReLU is the kink max(s a, a) with slope s = 0, an absolute value has s = -1, and max(a, b) is b + relu(a - b). The
table is keyed by operator; one without a row is affine, as its rule in the table of the calculus says, or refused by
name. Solvers and exporters read the same rows: a solver puts smoothed functions in the place of the atoms, an exporter
cones and inequalities. To add an operator, add its row, and its oracle to the tests if it has none.

Arguments may be tensors or what stands for them (numbers with their errors): a row uses sums, products with numbers,
and moves. A row speaks for every argument that the calculus lets through, so it refuses settings with which the
operator is convex on a part of the line only, or is written with an atom that is the operator there.

Long because it is a table with its rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from convexnet.curvature.call import Refusal
from convexnet.form import losses, smooth
from convexnet.form.atoms import Atom, Smooth
from convexnet.form.grouped import Largest, LogSumExp, Norm
from convexnet.form.losses import loss
from convexnet.form.rows import (
    SIMPLER,
    Atoms,
    Row,
    along_last,
    argument,
    atom_over_dims,
    dims_of,
    is_array,
    larger,
    smaller,
    stack_last,
)
from convexnet.form.smooth import (
    Curve,
    entropy,
    exponential,
    inverse,
    log_gamma,
    minus_log,
    minus_log_normal,
    minus_root,
    softplus,
    square,
)
from convexnet.form.smooth import elu as elu_curve
from convexnet.form.sum_of_largest import SumLargest

# --- kinks -----------------------------------------------------------------------------------------------------------


def relu(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return z(args[0])


def leaky(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return sloped(z, args[0], argument(args, kwargs, 1, "negative_slope", 0.01))


def sloped(z: Atoms, x: Tensor, slope: float | Tensor) -> Tensor:
    if bool((torch.as_tensor(slope) > 1).any()):
        raise Refusal("its negative slope is above 1, so that it is not convex", "use a slope of at most 1")
    return z(x, slope)


def prelu(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    x, slope = args[0], args[1]
    if slope.ndim != x.ndim:
        slope = slope.view(1, -1, *[1] * (x.ndim - 2))
    return sloped(z, x, slope)


def rrelu(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    low, high = argument(args, kwargs, 1, "lower", 1 / 8), argument(args, kwargs, 2, "upper", 1 / 3)
    return sloped(z, args[0], (low + high) / 2)


def absolute(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return z(args[0], -1.0)


def maximum(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return larger(z, args[0], args[1])


def minimum(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return smaller(z, args[0], args[1])


def clamp(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    low, high = argument(args, kwargs, 1, "min"), argument(args, kwargs, 2, "max")
    if low is not None and high is not None:
        raise Refusal("it is cut off at both ends, which is neither convex nor concave", "cut off at one end only")
    if high is not None:
        return smaller(z, args[0], high)
    return args[0] if low is None else larger(z, args[0], low)


def clamp_max(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return smaller(z, args[0], argument(args, kwargs, 1, "max"))


def threshold(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    level, value = argument(args, kwargs, 1, "threshold"), argument(args, kwargs, 2, "value")
    if level != value:
        raise Refusal("it jumps at its threshold", "give the threshold as its value")
    return larger(z, args[0], level)


# --- over dimensions and windows -------------------------------------------------------------------------------------


def amax(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    dims = dims_of(args[0], argument(args, kwargs, 1, "dim"))
    return atom_over_dims(z, Largest, args[0], dims, bool(argument(args, kwargs, 2, "keepdim", False)))


def amin(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return -amax(z, [-args[0], *args[1:]], kwargs)


def largest(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """torch.max of two tensors, over one dimension (the places are not piecewise linear), or over everything."""
    other = argument(args, kwargs, 1, "other")
    if is_array(other):
        return larger(z, args[0], other)
    return (amax(z, args, kwargs), None) if argument(args, kwargs, 1, "dim") is not None else amax(z, args, kwargs)


def smallest(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """torch.min in its three forms."""
    other = argument(args, kwargs, 1, "other")
    if is_array(other):
        return smaller(z, args[0], other)
    return (amin(z, args, kwargs), None) if argument(args, kwargs, 1, "dim") is not None else amin(z, args, kwargs)


def logsumexp(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    dims = dims_of(args[0], argument(args, kwargs, 1, "dim"))
    return atom_over_dims(z, LogSumExp, args[0], dims, bool(argument(args, kwargs, 2, "keepdim", False)))


def log_softmax(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    dims = dims_of(args[0], argument(args, kwargs, 1, "dim"))
    return args[0] - atom_over_dims(z, LogSumExp, args[0], dims, keepdim=True)


def norm(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """Norms of whole tensors or along dimensions."""
    x, order = args[0], argument(args, kwargs, 1, "ord", kwargs.get("p"))
    dims = dims_of(x, argument(args, kwargs, 2, "dim"))
    return vector_norm(z, x, order, dims, bool(argument(args, kwargs, 3, "keepdim", False)))


def vector_norm(z: Atoms, x: Any, order: Any, dims: Sequence[int], keepdim: bool = False) -> Any:
    """The norm of order 1, 2 or infinity."""
    order = 2.0 if order is None else float(order)
    if order == 2:
        return atom_over_dims(z, Norm, x, dims, keepdim)
    if order == math.inf:
        return atom_over_dims(z, Largest, z(x, -1.0), dims, keepdim)
    if order == 1:
        return z(x, -1.0).sum(dims, keepdim=keepdim)
    raise Refusal(
        f"the norm of order {order:g} is not one of those that have an atom here", "use order 1, 2 or infinity"
    )


def matrix_norm(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """Norms of matrices that are made of sums: not of singular values."""
    x, order = args[0], argument(args, kwargs, 1, "ord", "fro")
    rows, columns = (int(d) % x.ndim for d in argument(args, kwargs, 2, "dim", (-2, -1)))
    keepdim = bool(argument(args, kwargs, 3, "keepdim", False))
    if order in ("fro", None):
        return vector_norm(z, x, 2.0, sorted((rows, columns)), keepdim)
    if order not in (1, math.inf):
        what = f"the norm of order {order} is one of singular values, which is written with semidefinite cones only"
        raise Refusal(f"{what}: no form here has them", "use 'fro'")
    added, left = (rows, columns) if order == 1 else (columns, rows)
    out = atom_over_dims(z, Largest, z(x, -1.0).sum([added], keepdim=True), [left], keepdim=True)
    for dim in () if keepdim else sorted((rows, columns), reverse=True):
        out = out.squeeze(dim)
    return out


def any_norm(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """torch.linalg.norm: of vectors, of matrices, or of all entries."""
    x, order, dim = args[0], argument(args, kwargs, 1, "ord"), argument(args, kwargs, 2, "dim")
    dims = dims_of(x, dim)
    if len(dims) == 2 and order is not None:
        return matrix_norm(z, [x, order, dim or dims, bool(argument(args, kwargs, 3, "keepdim", False))], {})
    return norm(z, args, kwargs)


def distance(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """The norms of differences of rows."""
    apart = args[0] - args[1] + float(argument(args, kwargs, 3, "eps", 1e-6))
    keepdim = bool(argument(args, kwargs, 4, "keepdim", False))
    return vector_norm(z, apart, argument(args, kwargs, 2, "p", 2.0), [apart.ndim - 1], keepdim)


def distances(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """The norms of the differences of all rows of one matrix from all rows of another."""
    apart = args[0].unsqueeze(-2) - args[1].unsqueeze(-3)
    return vector_norm(z, apart, argument(args, kwargs, 2, "p", 2.0), [apart.ndim - 1])


def running(sign: float) -> Row:
    """cummax and cummin: each entry sees those up to its own place, and the first again in place of later ones."""

    def lowered(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, None]:
        x, dim = args[0], int(argument(args, kwargs, 1, "dim")) % max(1, args[0].ndim)
        line = torch.arange(x.shape[dim])
        seen = torch.minimum(line[None], line[:, None])
        out = largest_of(z, sign * x.movedim(dim, -1), seen, [len(line)]).movedim(-1, dim)
        return sign * out, None

    return lowered


def running_logsumexp(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """The log-sum-exp of two, again and again."""
    x, dim = args[0], int(argument(args, kwargs, 1, "dim")) % max(1, args[0].ndim)
    x = x.movedim(dim, -1)
    parts = [along_last(z, LogSumExp, x.narrow(-1, 0, count + 1)) for count in range(x.shape[-1])]
    return stack_last(*parts).movedim(-1, dim)


def max_pool(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any], dims: int) -> Tensor:
    """The largest of each window, whose entries are gathered; with or without channels before the last dimensions."""
    x = args[0]
    kernel, stride, padding, dilation, ceil = pool_settings(args, kwargs, dims)
    sides = x.shape[x.ndim - dims :]
    numbers = torch.arange(sides.numel(), dtype=torch.float64).reshape(1, 1, *sides)
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
    out = pool(numbers, kernel, stride, padding, dilation, ceil).shape[2:]
    return largest_of(z, x, windows(sides, out, kernel, stride, padding, dilation), out)


def adaptive_max_pool(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any], dims: int) -> tuple[Tensor, None]:
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


def largest_of(z: Atoms, x: Tensor, places: Tensor, out: Sequence[int]) -> Tensor:
    """The largest of the entries at flat places (windows, entries) of the last dimensions, which become `out`."""
    rank = x.ndim - len(out)
    entries = x.flatten(rank)[..., places.to(x.device).flatten()].unflatten(rank, tuple(places.shape))
    return along_last(z, Largest, entries).unflatten(rank, tuple(out))


def pooled(dims: int) -> Row:
    return lambda z, args, kwargs: max_pool(z, args, kwargs, dims)


def pooled_with_places(dims: int) -> Row:
    return lambda z, args, kwargs: (max_pool(z, args, kwargs, dims), None)


def pooled_adaptively(dims: int) -> Row:
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


def sorted_elements(z: Atoms, x: Any, dim: int, places: Sequence[int]) -> Any:
    """Elements in descending order at places along a dimension: each is the difference of two sums of the largest.

    By Abel's summation, a sum of them whose weights do not increase is one of these sums with weights that are not
    negative.
    """
    if not x.ndim:
        raise Refusal("it sorts a single number", "leave it out")
    x = x.movedim(dim % x.ndim, -1)
    sums: dict[int, Any] = {}
    for count in sorted({count for place in places for count in (place, place + 1)}):
        sums[count] = sum_of_largest(z, x, count)
    parts = [sums[place + 1] - sums[place] if place else sums[1] for place in places]
    return stack_last(*parts).movedim(-1, dim % x.ndim)


def sum_of_largest(z: Atoms, x: Any, count: int) -> Any:
    if count in (0, x.shape[-1]):
        return x.sum([x.ndim - 1], keepdim=False) if count else None
    return along_last(z, Largest, x) if count == 1 else z(x, SumLargest(x.shape[-1], count))


def topk(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, None]:
    x, count, dim = args[0], int(argument(args, kwargs, 1, "k")), int(argument(args, kwargs, 2, "dim", -1))
    length = x.shape[dim] if x.ndim else 1
    places = range(count) if argument(args, kwargs, 3, "largest", True) else range(length - 1, length - 1 - count, -1)
    return sorted_elements(z, x, dim, places), None


def sort(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, None]:
    x, dim = args[0], int(kwargs.get("dim", argument(args, {}, 1, "", -1)))
    places = range(x.shape[dim] if x.ndim else 1)
    down = kwargs.get("descending", argument(args, {}, 2, "", False))
    return sorted_elements(z, x, dim, places if down else places[::-1]), None


def log_add_exp2(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    base = math.log(2.0)
    return 1 / base * z(stack_last(base * args[0], base * args[1]), LogSumExp(2))


def pairwise(atom: Callable[[int], Atom]) -> Row:
    """An atom of two tensors."""
    return lambda z, args, kwargs: z(stack_last(args[0], args[1]), atom(2))


def deviations(x: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, list[int], bool, float]:
    """Differences from the mean along dimensions, these, whether they are kept, and what squares are divided by."""
    dim, unbiased = argument(args, kwargs, 1, "dim"), argument(args, kwargs, 2, "unbiased", True)
    correction = kwargs.get("correction", 1.0 if unbiased else 0.0)
    if isinstance(dim, bool):
        raise Refusal("it is over all samples", "give the dimensions")
    dims = dims_of(x, dim)
    count = math.prod(x.shape[d] for d in dims)
    divisor = count - (1.0 if correction is None else float(correction))
    if divisor <= 0:
        raise Refusal("it is of too few entries", "leave the correction out")
    keepdim = bool(argument(args, kwargs, 3, "keepdim", False))
    return x - x.sum(dims, keepdim=True) * (1 / count), dims, keepdim, divisor


def variance(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    off, dims, keepdim, divisor = deviations(args[0], args, kwargs)
    return z(off, Smooth(square())).sum(dims, keepdim=keepdim) * (1 / divisor)


def with_mean(row: Row) -> Row:
    def lowered(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        dims = dims_of(args[0], argument(args, kwargs, 1, "dim"))
        mean = args[0].sum(dims, keepdim=bool(argument(args, kwargs, 3, "keepdim", False)))
        return row(z, args, kwargs), mean * (1 / math.prod(args[0].shape[d] for d in dims))

    return lowered


def both_ends(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    x, keepdim = args[0], bool(kwargs.get("keepdim", False))
    return tuple(row(z, [x, kwargs.get("dim"), keepdim], {}) for row in (amin, amax))  # pyright: ignore[reportReturnType]


def deviation(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    off, dims, keepdim, divisor = deviations(args[0], args, kwargs)
    return atom_over_dims(z, Norm, off, dims, keepdim) * divisor**-0.5


# --- smooth operators ------------------------------------------------------------------------------------------------


def curved(curve: Curve) -> Row:
    return lambda z, args, kwargs: z(args[0], Smooth(curve))


def elu(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    alpha = float(argument(args, kwargs, 1, "alpha", 1.0))
    scale = float(argument(args, kwargs, 2, "scale", 1.0))
    inner = float(argument(args, kwargs, 3, "input_scale", 1.0))
    share = alpha * inner  # the slope left of zero over the one right of it: what is missing to 1 is a ReLU
    if not (0 <= share <= 1 and inner > 0 and scale > 0):
        raise Refusal(f"with alpha {alpha:g} its slope drops at zero, so that it is not convex", "use alpha <= 1")
    if share == 0:
        return scale * z(args[0])
    part = scale * share * z(args[0], Smooth(elu_curve(inner)))
    return part if share == 1 else part + scale * (1 - share) * z(args[0])


def celu(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    alpha = float(argument(args, kwargs, 1, "alpha", 1.0))
    if alpha <= 0:
        raise Refusal(f"with alpha {alpha:g} it is not convex", "use a positive alpha")
    return z(args[0], Smooth(elu_curve(1 / alpha)))


def softened(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    beta, limit = float(argument(args, kwargs, 1, "beta", 1.0)), float(argument(args, kwargs, 2, "threshold", 20.0))
    if beta <= 0 or limit < 20:
        raise Refusal("it becomes the identity where it is not yet close to it", "use a threshold of at least 20")
    return z(args[0], Smooth(softplus(beta, limit)))


def log_sigmoid(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return -z(-args[0], Smooth(softplus(1.0)))


def exp2(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return z(math.log(2.0) * args[0], Smooth(exponential()))


def expm1(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return z(args[0], Smooth(exponential())) - 1.0


def cosh(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return 0.5 * z(args[0], Smooth(exponential())) + 0.5 * z(-args[0], Smooth(exponential()))


def power(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    base, exponent = args[:2]
    exponent = exponent.item() if isinstance(exponent, Tensor) and exponent.numel() == 1 else exponent
    if not is_array(base) or is_array(exponent):
        raise Refusal("powers of a number, and different powers, have no form here", "write exp(log(a) * y)")
    return raised(z, base, float(exponent))


def raised(z: Atoms, a: Any, p: float) -> Any:
    """a^p where that is defined; it is convex for p > 1 or p < 0 on the positive numbers, and concave between."""
    if p in (0, 1):
        return a if p == 1 else 0 * a + 1
    if p == 2:
        return z(a, Smooth(square()))
    if 0 < p < 1:
        return -z(a, Smooth(minus_root(p)))
    return z(a, Smooth(smooth.power(p) if p > 1 else inverse(p)))


def powers(p: float) -> Row:
    return lambda z, args, kwargs: raised(z, args[0], p)


def log(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return -z(args[0], Smooth(minus_log()))


def log_to(base: float) -> Row:
    return lambda z, args, kwargs: -1 / math.log(base) * z(args[0], Smooth(minus_log()))


def minus(curve: Curve) -> Row:
    return lambda z, args, kwargs: -z(args[0], Smooth(curve))


def log1p(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    return -z(1.0 + args[0], Smooth(minus_log()))


def quotient(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """What does not move over what does."""
    if z.moves(0):
        raise Refusal("it divides two quantities that depend on the variable", SIMPLER)
    if kwargs.get("rounding_mode") is not None:
        raise Refusal("it rounds the quotient", "divide without rounding_mode")
    if not is_array(args[1]):
        raise Refusal("it divides by a number", "divide by one that is not zero")
    return z(args[1], Smooth(inverse(-1.0))) * args[0]


def x_log_y(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """y log(y), or a logarithm times what does not move."""
    if args[0] is args[1]:
        return z(args[0], Smooth(entropy()))
    if z.moves(0):
        raise Refusal("it multiplies two quantities that depend on the variable", SIMPLER)
    return z(args[1], Smooth(minus_log())) * (-1.0 * args[0])


def product(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """A tensor times itself; a product with what does not move is affine."""
    if args[0] is not args[1]:
        raise Refusal(
            "it multiplies two quantities that depend on the variable",
            "the square of one tensor has a form: write y.square() or y * y",
        )
    return z(args[0], Smooth(square()))


ROWS: tuple[tuple[str, Row], ...] = (
    ("relu", relu),
    ("leaky_relu", leaky),
    ("prelu", prelu),
    ("_prelu_kernel", prelu),
    ("rrelu", rrelu),
    ("abs", absolute),
    ("maximum", maximum),
    ("minimum", minimum),
    ("max", largest),
    ("min", smallest),
    ("amax", amax),
    ("amin", amin),
    ("clamp", clamp),
    ("clamp_min", clamp),
    ("clamp_max", clamp_max),
    ("threshold", threshold),
    *((f"max_pool{d}d", pooled(d)) for d in (1, 2, 3)),
    *((f"max_pool{d}d_with_indices", pooled_with_places(d)) for d in (1, 2, 3)),
    *((f"adaptive_max_pool{d}d", pooled_adaptively(d)) for d in (1, 2, 3)),
    ("elu", elu),
    ("celu", celu),
    ("softplus", softened),
    ("log_sigmoid", log_sigmoid),
    ("exp", curved(exponential())),
    ("exp2", exp2),
    ("expm1", expm1),
    ("cosh", cosh),
    ("square", curved(square())),
    ("pow", power),
    ("sqrt", powers(0.5)),
    ("rsqrt", powers(-0.5)),
    ("reciprocal", powers(-1.0)),
    ("div", quotient),
    ("log", log),
    ("log1p", log1p),
    ("mul", product),
    ("logsumexp", logsumexp),
    ("log_softmax", log_softmax),
    ("_log_softmax", log_softmax),
    ("linalg_vector_norm", norm),
    ("norm", norm),
    ("fmax", maximum),
    ("fmin", minimum),
    ("hypot", pairwise(Norm)),
    ("logaddexp", pairwise(LogSumExp)),
    ("logaddexp2", log_add_exp2),
    ("var", variance),
    ("std", deviation),
    ("var_mean", with_mean(variance)),
    ("std_mean", with_mean(deviation)),
    ("aminmax", both_ends),
    ("linalg_matrix_norm", matrix_norm),
    ("linalg_norm", any_norm),
    ("pairwise_distance", distance),
    ("cdist", distances),
    ("cummax", running(1.0)),
    ("cummin", running(-1.0)),
    ("logcumsumexp", running_logsumexp),
    ("topk", topk),
    ("sort", sort),
    ("log2", log_to(2.0)),
    ("log10", log_to(10.0)),
    ("special_exp2", exp2),
    ("special_expm1", expm1),
    ("special_log1p", log1p),
    ("special_entr", minus(entropy())),
    ("special_log_ndtr", minus(minus_log_normal())),
    *((name, curved(log_gamma())) for name in ("lgamma", "special_gammaln")),
    *((name, x_log_y) for name in ("xlogy", "special_xlogy")),
    ("mse_loss", loss(losses.squared_error)),
    ("l1_loss", loss(losses.absolute_error)),
    ("huber_loss", loss(losses.huber_loss)),
    ("smooth_l1_loss", loss(losses.smooth_l1)),
    ("poisson_nll_loss", loss(losses.poisson, 5)),
    ("soft_margin_loss", loss(losses.soft_margin)),
    ("hinge_embedding_loss", loss(losses.hinge_embedding, 3)),
    ("margin_ranking_loss", loss(losses.margin_ranking, 4)),
    ("binary_cross_entropy_with_logits", loss(losses.binary_cross_entropy, 4)),
    ("cross_entropy_loss", loss(losses.cross_entropy, 3)),
    ("multi_margin_loss", loss(losses.multi_margin, 5)),
)

OFFSETS = frozenset((
    "maximum", "minimum", "max", "min", "clamp", "clamp_min", "clamp_max", "fmax", "fmin", "hypot", "logaddexp",
    "logaddexp2", "mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "pairwise_distance", "cdist",
))  # fmt: skip
"""Operators of the table that other inputs enter as something that is added."""


def build(rows: Sequence[tuple[str, Row]]) -> dict[str, Row]:
    """The table by operator; refuses duplicates, which a dictionary literal would swallow."""
    table = dict(rows)
    if len(table) != len(rows):
        raise ValueError("the lowering table lists an operator twice")
    return table


LOWERED = build(ROWS)
