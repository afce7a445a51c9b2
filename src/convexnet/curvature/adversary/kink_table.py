"""Where nonlinearities change their slope: a table of kinks and of points of strong curvature, operator by operator.

The table is the adversary's own. It shares nothing with the rules of the calculus, which it is meant to contradict, and
a wrong row costs chords and never a wrong answer: every violation is confirmed by the values of the model.

Long because it is one table with its openings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Unit = tuple[Tensor, Tensor | float, bool]
"""Distance s of each element from a kink, and by how much the slope of the result along s jumps at s = 0 (0: unknown).
Where the last is False: curvature that is there already, and its sign."""
Opening = Callable[["Applied"], Iterator[Unit]]


@dataclass(frozen=True)
class Applied:
    """A call of an operator, before its result is computed: its arguments, and the function itself."""

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    @property
    def x(self) -> Tensor:
        return self.get(0, "input")

    def get(self, index: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name."""
        if len(self.args) > index:
            return self.args[index]
        return self.kwargs.get(name, self.kwargs.get("self", default) if index == 0 else default)

    def on(self, x: Tensor) -> Tensor:
        """The function at another first argument."""
        return self.function(x, *self.args[1:], **self.kwargs)


# --- openings --------------------------------------------------------------------------------------------------------


def kinks_at(*points: tuple[float, float]) -> Opening:
    """Kinks, or strongest curvature, of a pointwise function at fixed points: (where, sign)."""

    def opening(call: Applied) -> Iterator[Unit]:
        for where, sign in points:
            yield call.x - where if where else call.x, sign, True

    return opening


def leaky(call: Applied) -> Iterator[Unit]:
    slope = call.get(1, "negative_slope", 0.01)
    yield call.x, 1.0 - slope, True


def rrelu(call: Applied) -> Iterator[Unit]:
    lower, upper = call.get(1, "lower", 1 / 8), call.get(2, "upper", 1 / 3)
    yield call.x, 1.0 - (lower + upper) / 2, True


def prelu(call: Applied) -> Iterator[Unit]:
    weight: Tensor = call.get(1, "weight").detach()
    if weight.numel() > 1 and weight.ndim == 1 and call.x.ndim > 1:
        weight = weight.reshape(-1, *[1] * (call.x.ndim - 2))
    yield call.x, 1.0 - weight, True


def softplus(call: Applied) -> Iterator[Unit]:
    yield call.x, 1.0, True
    if float(call.get(2, "threshold", 20.0)) < 20:  # a step, and small
        yield call.x - call.get(2, "threshold", 20.0) / call.get(1, "beta", 1.0), 0.0, True
    yield from curved(call)


def elu(call: Applied) -> Iterator[Unit]:
    steep = call.get(1, "alpha", 1.0) * call.get(3, "input_scale", 1.0)
    yield call.x, 1.0 if steep <= 1 else 1.0 - steep, True
    yield from curved(call)


def limits(low: str = "min", high: str = "max", defaults: tuple[Any, Any] = (None, None)) -> Opening:
    """A convex kink at a lower limit and a concave one at an upper limit, which may be tensors."""

    def opening(call: Applied) -> Iterator[Unit]:
        for index, name, sign in ((1, low, 1.0), (2, high, -1.0)):
            limit = call.get(index, name, defaults[index - 1])
            if limit is not None:
                yield call.x - limit, sign, True

    return opening


def limit(name: str, sign: float) -> Opening:
    """One limit, which may be a tensor: clamp_min, clamp_max."""

    def opening(call: Applied) -> Iterator[Unit]:
        yield call.x - call.get(1, name), sign, True

    return opening


def threshold(call: Applied) -> Iterator[Unit]:
    place, value = call.get(1, "threshold"), call.get(2, "value")
    yield call.x - place, 1.0 if place == value else 0.0, True


def shrink(convex: float, concave: float) -> Opening:
    def opening(call: Applied) -> Iterator[Unit]:
        place = call.get(1, "lambd", 0.5)
        yield call.x - place, convex, True
        yield call.x + place, concave, True

    return opening


def step(offset: float) -> Opening:
    """The nearest jump of a function that jumps at every whole number (plus an offset)."""

    def opening(call: Applied) -> Iterator[Unit]:
        x = call.x
        yield x - (x.detach() - offset).round() - offset, 0.0, True

    return opening


def curved(call: Applied) -> Iterator[Unit]:
    """A smooth function of one number: its curvature where the element is, by a second difference."""
    x = call.x.detach()
    with torch.no_grad():
        h = 1e-3 * (1 + x.abs())
        right, middle, left = call.on(x + h), call.on(x), call.on(x - h)
        second = right + left - 2 * middle
        second = torch.where(second.abs() > 2.5e-9 * (1 + middle.abs()), second, 0.0)  # above the step of softplus
    yield call.x, second.nan_to_num(0.0, 0.0, 0.0), False


def curvature_at(*points: tuple[float, float]) -> Opening:
    """A smooth function whose curvature is strongest at the given points."""
    places = kinks_at(*points)

    def opening(call: Applied) -> Iterator[Unit]:
        yield from places(call)
        yield from curved(call)

    return opening


def between(sign: float) -> Opening:
    """A function of two tensors with a kink where they are equal."""

    def opening(call: Applied) -> Iterator[Unit]:
        other = call.get(1, "other")
        if isinstance(other, (Tensor, int, float)):
            yield call.x - other, sign, True

    return opening


def product(call: Applied) -> Iterator[Unit]:
    """4ab = (a + b)^2 - (a - b)^2."""
    a, b = call.x, call.get(1, "other")
    if isinstance(b, Tensor) and a.requires_grad and b.requires_grad:
        yield a + b, 1.0, False
        yield a - b, -1.0, False


def quotient(call: Applied) -> Iterator[Unit]:
    """a/b is convex in b where a/b > 0."""
    a, b = call.x, call.get(1, "other")
    if isinstance(b, Tensor) and b.requires_grad:
        ratio = (a / b).detach()
        yield b.expand_as(ratio), ratio.sign(), False


def largest(sign: float) -> Opening:
    """A maximum (or minimum, sign -1) over dimensions, or of two tensors."""

    def opening(call: Applied) -> Iterator[Unit]:
        dims = call.get(1, "dim")
        if isinstance(dims, Tensor) or "other" in call.kwargs:
            yield from between(sign)(call)
            return
        x = call.x
        dims = range(x.ndim) if dims is None or dims == () else [dims] if isinstance(dims, int) else dims
        dims = sorted(d % x.ndim for d in dims)
        rest = [d for d in range(x.ndim) if d not in dims]
        yield _lead(x.permute(*rest, *dims).flatten(len(rest)), sign), sign, True

    return opening


def sort(call: Applied) -> Iterator[Unit]:
    """Sorted values change their slope where two neighbours are equal; which sign that has depends on what follows."""
    values = torch.sort(call.x, dim=call.kwargs.get("dim", -1)).values
    yield torch.diff(values, dim=call.kwargs.get("dim", -1)), 0.0, True


def vector_norm(call: Applied) -> Iterator[Unit]:
    """A norm is curved across its argument: along a direction that is orthogonal to it."""
    dims = call.get(2, "dim", None)
    x = call.x
    side = torch.cos(torch.arange(x.numel(), dtype=x.dtype, device=x.device) * 2.4).reshape(x.shape)
    dims = tuple(range(x.ndim)) if dims is None else dims
    base = x.detach()
    part = (side * base).sum(dims, keepdim=True) / base.square().sum(dims, keepdim=True)
    yield (x * (side - part * base)).sum(dims, keepdim=bool(call.get(3, "keepdim", False))), 1.0, False


def windows(adaptive: bool = False) -> Opening:
    """A maximum over windows: the largest entry against the second."""

    def opening(call: Applied) -> Iterator[Unit]:
        x = call.x
        out = call.on(x.detach())
        size = (out[0] if isinstance(out, tuple) else out).shape
        spatial = next(int(character) for character in base(call.function) if character.isdigit())
        first = x.ndim - spatial
        for i in range(spatial):
            dim, length, count = first + i, x.shape[first + i], size[first + i]
            if adaptive:
                if length % count:
                    return  # windows of several sizes
                kernel = stride = length // count
                padding, dilation = 0, 1
            else:
                kernel = _entry(call.get(1, "kernel_size"), i)
                stride = _entry(call.get(2, "stride") or kernel, i)
                padding = _entry(call.get(3, "padding", 0), i)
                dilation = _entry(call.get(4, "dilation", 1), i)
            span = dilation * (kernel - 1) + 1
            after = max(0, (count - 1) * stride + span - length - padding)
            ends = [0, 0] * (x.ndim - 1 - dim) + [padding, after]
            x = torch.nn.functional.pad(x, ends, value=-torch.inf)
            x = x.unfold(dim, span, stride).narrow(dim, 0, count)[..., ::dilation]
        yield _lead(x.flatten(call.x.ndim), 1.0), 1.0, True

    return opening


def _entry(value: Any, i: int) -> int:
    if isinstance(value, int):
        return value
    return int(value[i] if len(value) > 1 else value[0])


def _lead(x: Tensor, sign: float) -> Tensor:
    """How far the first entry of the last dimension is ahead of the second."""
    if x.shape[-1] < 2:
        return x.new_full(x.shape[:-1], torch.inf)
    top = torch.topk(x, 2, dim=-1, largest=sign > 0).values
    return top[..., 0] - top[..., 1]


S_SHAPED = curvature_at((-0.7, 1.0), (0.7, -1.0))
DIP = curvature_at((0.0, 1.0), (-2.5, -1.0), (2.5, -1.0))

POINTWISE: tuple[tuple[str, Opening], ...] = (
    ("relu", kinks_at((0.0, 1.0))),
    ("relu6", kinks_at((0.0, 1.0), (6.0, -1.0))),
    ("leaky_relu", leaky),
    ("rrelu", rrelu),
    ("prelu", prelu),
    ("prelu_kernel", prelu),
    ("abs", kinks_at((0.0, 2.0))),
    ("absolute", kinks_at((0.0, 2.0))),
    ("elu", elu),
    ("celu", curvature_at((0.0, 1.0))),
    ("selu", curvature_at((0.0, -1.0), (-0.5, 1.0))),
    ("softplus", softplus),
    ("hardtanh", limits("min_val", "max_val", (-1.0, 1.0))),
    ("clamp", limits()),
    ("clip", limits()),
    ("clamp_min", limit("min", 1.0)),
    ("clamp_max", limit("max", -1.0)),
    ("threshold", threshold),
    ("softshrink", shrink(1.0, -1.0)),
    ("hardshrink", shrink(0.0, 0.0)),
    ("hardswish", curvature_at((-3.0, -1.0), (0.0, 1.0), (3.0, -1.0))),
    ("hardsigmoid", kinks_at((-3.0, 1.0), (3.0, -1.0))),
    ("gelu", DIP),
    ("silu", DIP),
    ("mish", DIP),
    ("sigmoid", curvature_at((-1.5, 1.0), (1.5, -1.0))),
    *((name, S_SHAPED) for name in ("tanh", "erf", "atan", "arctan", "asinh", "arcsinh", "softsign")),
    ("tanhshrink", curvature_at((-0.7, -1.0), (0.7, 1.0))),
    ("log_sigmoid", curvature_at((0.0, -1.0))),
    ("logsigmoid", curvature_at((0.0, -1.0))),
    *((name, curved) for name in (
        "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "square", "sqrt", "rsqrt", "reciprocal", "pow",
        "sin", "cos", "tan", "rdiv", "rtruediv", "rpow", "sinh", "cosh", "acosh", "erfc", "lgamma", "erfinv", "logit",
        "sinc", "float_power")),
    *((name, step(0.0)) for name in ("floor", "ceil", "trunc", "frac")),
    ("round", step(0.5)),
    ("sign", kinks_at((0.0, 0.0))),
    ("heaviside", kinks_at((0.0, 0.0))),
)  # fmt: skip
"""Functions of each element."""

ROWS: tuple[tuple[str, Opening], ...] = (
    *POINTWISE,
    *((name, between(0.0)) for name in (
        "gt", "ge", "lt", "le", "greater", "less", "greater_equal", "less_equal")),
    ("maximum", between(1.0)),
    ("fmax", between(1.0)),
    ("logaddexp", between(1.0)),
    ("minimum", between(-1.0)),
    ("fmin", between(-1.0)),
    ("l1_loss", between(0.0)),
    ("mul", product),
    ("multiply", product),
    ("div", quotient),
    ("true_divide", quotient),
    ("amax", largest(1.0)),
    ("max", largest(1.0)),
    ("logsumexp", largest(1.0)),
    ("amin", largest(-1.0)),
    ("min", largest(-1.0)),
    *((name, sort) for name in ("sort", "topk", "msort", "kthvalue", "median", "cummax", "cummin")),
    ("linalg_vector_norm", vector_norm),
    *((name.format(n), windows()) for n in (1, 2, 3) for name in ("max_pool{}d", "max_pool{}d_with_indices")),
    *((f"adaptive_max_pool{n}d", windows(adaptive=True)) for n in (1, 2, 3)),
)  # fmt: skip

OPENINGS: dict[str, Opening] = dict(ROWS)
ELEMENTWISE = frozenset(name for name, _ in POINTWISE)
SMOOTH = frozenset(("elu", "celu", "softplus", "gelu", "silu", "mish", "sigmoid", "tanh", "log_sigmoid", "logsigmoid"))
"""Operators whose slope changes gradually by itself."""
assert len(OPENINGS) == len(ROWS), "an operator is listed twice"


def base(function: Any) -> str:
    """The table's name of a function: `relu` for torch.relu, Tensor.relu_, torch.nn.functional.relu, aten.relu."""
    name: str = getattr(function, "__name__", "")
    return name.partition(".")[0].strip("_")
