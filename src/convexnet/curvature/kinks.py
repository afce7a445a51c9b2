"""Where the nonlinearities of a forward change their slope: the sites that a search for violations looks at.

While a forward runs under `Recorder`, each call of a listed operator leaves one `Site` or more: its distance from a kink
(or from a point of strong curvature) for every element, still connected to the inputs, and a handle on the derivative of
the outputs with respect to its result. Nothing needs to be exported, so that a forward with branches, or one that the
calculus cannot read, is opened as well.

The table is the adversary's own. It shares nothing with the rules of the calculus, which it is meant to contradict, and
a wrong row costs chords and never a wrong answer: every violation is confirmed by the values of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

Bend = tuple[Tensor, Tensor | float, bool]
"""Distance s of each element from a kink, and by how much the slope of the result along s jumps at s = 0 (0: not known);
or, where the last is False, curvature that is there already, and its sign."""
Opening = Callable[["Applied"], Iterator[Bend]]


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


@dataclass(frozen=True)
class Site:
    """The elements of one operator, by row of the batch: distances and signs are (n, m)."""

    distance: Tensor
    sign: Tensor  # 1 convex, -1 concave, 0 not known
    kink: bool  # it has to be reached
    result: GradientEdge | None  # None: the derivative with respect to it says nothing
    batch: int  # the dimension of the result that is the batch

    def adjoint(self, gradient: Tensor | None) -> Tensor | None:
        """The derivative with respect to the result, (n, m); None if there is none."""
        if gradient is None or gradient.numel() != self.distance.numel():
            return None
        return gradient.movedim(self.batch, 0).reshape(self.distance.shape)


# --- openings --------------------------------------------------------------------------------------------------------


def at(*points: tuple[float, float]) -> Opening:
    """Kinks, or strongest curvature, of a pointwise function at fixed points: (where, sign)."""

    def opening(call: Applied) -> Iterator[Bend]:
        for where, sign in points:
            yield call.x - where if where else call.x, sign, True

    return opening


def leaky(call: Applied) -> Iterator[Bend]:
    slope = call.get(1, "negative_slope", 0.01)
    yield call.x, 1.0 - slope, True


def rrelu(call: Applied) -> Iterator[Bend]:
    lower, upper = call.get(1, "lower", 1 / 8), call.get(2, "upper", 1 / 3)
    yield call.x, 1.0 - (lower + upper) / 2, True


def prelu(call: Applied) -> Iterator[Bend]:
    weight: Tensor = call.get(1, "weight").detach()
    if weight.numel() > 1 and weight.ndim == 1 and call.x.ndim > 1:
        weight = weight.reshape(-1, *[1] * (call.x.ndim - 2))
    yield call.x, 1.0 - weight, True


def softplus(call: Applied) -> Iterator[Bend]:
    yield call.x, 1.0, True
    if float(call.get(2, "threshold", 20.0)) < 20:  # a step, and small
        yield call.x - call.get(2, "threshold", 20.0) / call.get(1, "beta", 1.0), 0.0, True
    yield from curved(call)


def elu(call: Applied) -> Iterator[Bend]:
    steep = call.get(1, "alpha", 1.0) * call.get(3, "input_scale", 1.0)
    yield call.x, 1.0 if steep <= 1 else 1.0 - steep, True
    yield from curved(call)


def limits(low: str = "min", high: str = "max", defaults: tuple[Any, Any] = (None, None)) -> Opening:
    """A convex kink at a lower limit and a concave one at an upper limit, which may be tensors."""

    def opening(call: Applied) -> Iterator[Bend]:
        for index, name, sign in ((1, low, 1.0), (2, high, -1.0)):
            limit = call.get(index, name, defaults[index - 1])
            if limit is not None:
                yield call.x - limit, sign, True

    return opening


def limit(name: str, sign: float) -> Opening:
    """One limit, which may be a tensor: clamp_min, clamp_max."""

    def opening(call: Applied) -> Iterator[Bend]:
        yield call.x - call.get(1, name), sign, True

    return opening


def threshold(call: Applied) -> Iterator[Bend]:
    place, value = call.get(1, "threshold"), call.get(2, "value")
    yield call.x - place, 1.0 if place == value else 0.0, True


def shrink(convex: float, concave: float) -> Opening:
    def opening(call: Applied) -> Iterator[Bend]:
        place = call.get(1, "lambd", 0.5)
        yield call.x - place, convex, True
        yield call.x + place, concave, True

    return opening


def step(offset: float) -> Opening:
    """The nearest jump of a function that jumps at every whole number (plus an offset)."""

    def opening(call: Applied) -> Iterator[Bend]:
        x = call.x
        yield x - (x.detach() - offset).round() - offset, 0.0, True

    return opening


def curved(call: Applied) -> Iterator[Bend]:
    """A smooth function of one number: its curvature where the element is, by a second difference."""
    x = call.x.detach()
    with torch.no_grad():
        h = 1e-3 * (1 + x.abs())
        right, middle, left = call.on(x + h), call.on(x), call.on(x - h)
        second = right + left - 2 * middle
        second = torch.where(second.abs() > 1e-14 * (right.abs() + left.abs() + 1e-300), second, 0.0)
    yield call.x, second.nan_to_num(0.0, 0.0, 0.0), False


def bent(*points: tuple[float, float]) -> Opening:
    """A smooth function whose curvature is strongest at the given points."""
    places = at(*points)

    def opening(call: Applied) -> Iterator[Bend]:
        yield from places(call)
        yield from curved(call)

    return opening


def between(sign: float) -> Opening:
    """A function of two tensors with a kink where they are equal."""

    def opening(call: Applied) -> Iterator[Bend]:
        other = call.get(1, "other")
        if isinstance(other, (Tensor, int, float)):
            yield call.x - other, sign, True

    return opening


def product(call: Applied) -> Iterator[Bend]:
    """4ab = (a + b)^2 - (a - b)^2."""
    a, b = call.x, call.get(1, "other")
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.requires_grad and b.requires_grad:
        yield a + b, 1.0, False
        yield a - b, -1.0, False


def quotient(call: Applied) -> Iterator[Bend]:
    """a/b is convex in b where a/b > 0."""
    a, b = call.x, call.get(1, "other")
    if isinstance(b, Tensor) and b.requires_grad:
        yield b + torch.zeros_like(b / a), torch.sign(a.detach() / b.detach() if isinstance(a, Tensor) else a / b), False


def largest(sign: float) -> Opening:
    """A maximum (or minimum, sign -1) over dimensions, or of two tensors."""

    def opening(call: Applied) -> Iterator[Bend]:
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


def sort(call: Applied) -> Iterator[Bend]:
    """Sorted values change their slope where two neighbours are equal; which sign that has depends on what follows."""
    values = torch.sort(call.x, dim=call.kwargs.get("dim", -1)).values
    yield torch.diff(values, dim=call.kwargs.get("dim", -1)), 0.0, True


def vector_norm(call: Applied) -> Iterator[Bend]:
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

    def opening(call: Applied) -> Iterator[Bend]:
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


S_SHAPED = bent((-0.7, 1.0), (0.7, -1.0))
DIP = bent((0.0, 1.0), (-2.5, -1.0), (2.5, -1.0))

POINTWISE: tuple[tuple[str, Opening], ...] = (
    ("relu", at((0.0, 1.0))),
    ("relu6", at((0.0, 1.0), (6.0, -1.0))),
    ("leaky_relu", leaky),
    ("rrelu", rrelu),
    ("prelu", prelu),
    ("prelu_kernel", prelu),
    ("abs", at((0.0, 2.0))),
    ("absolute", at((0.0, 2.0))),
    ("elu", elu),
    ("celu", bent((0.0, 1.0))),
    ("selu", bent((0.0, -1.0), (-0.5, 1.0))),
    ("softplus", softplus),
    ("hardtanh", limits("min_val", "max_val", (-1.0, 1.0))),
    ("clamp", limits()),
    ("clip", limits()),
    ("clamp_min", limit("min", 1.0)),
    ("clamp_max", limit("max", -1.0)),
    ("threshold", threshold),
    ("softshrink", shrink(1.0, -1.0)),
    ("hardshrink", shrink(0.0, 0.0)),
    ("hardswish", bent((-3.0, -1.0), (0.0, 1.0), (3.0, -1.0))),
    ("hardsigmoid", at((-3.0, 1.0), (3.0, -1.0))),
    ("gelu", DIP),
    ("silu", DIP),
    ("mish", DIP),
    ("sigmoid", bent((-1.5, 1.0), (1.5, -1.0))),
    *((name, S_SHAPED) for name in ("tanh", "erf", "atan", "arctan", "asinh", "arcsinh", "softsign")),
    ("tanhshrink", bent((-0.7, -1.0), (0.7, 1.0))),
    ("log_sigmoid", bent((0.0, -1.0))),
    ("logsigmoid", bent((0.0, -1.0))),
    *((name, curved) for name in (
        "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "square", "sqrt", "rsqrt", "reciprocal", "pow",
        "sin", "cos", "tan", "sinh", "cosh", "acosh", "erfc", "lgamma", "erfinv", "logit", "sinc", "float_power")),
    *((name, step(0.0)) for name in ("floor", "ceil", "trunc", "frac")),
    ("round", step(0.5)),
    ("sign", at((0.0, 0.0))),
    ("heaviside", at((0.0, 0.0))),
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


# --- recording -------------------------------------------------------------------------------------------------------


Slopes = Callable[[Tensor, Sequence[Bend], Applied], Tensor]
"""Gives a result other derivatives, and leaves its values."""


class Recorder(TorchFunctionMode):
    """Collects the sites of a forward on n rows, in the order of its calls; `slopes` may exchange their derivatives."""

    def __init__(self, n: int, slopes: Slopes | None = None) -> None:
        super().__init__()
        self.n = n
        self.slopes = slopes
        self.sites: list[Site] = []

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = base(func)
        replay = RECURRENT.get(name)
        if replay is not None and torch.is_grad_enabled():
            with self:  # its steps are recorded
                found = replay(*args, **kwargs)
            if found is not None:
                return found
        opening = OPENINGS.get(name)
        if opening is None or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        call = Applied(func, self.kept(func, args, kwargs), without_place(kwargs))
        bends = self.bends(opening, call)
        if not bends:
            return func(*args, **kwargs)
        if self.slopes is None:
            result = func(*args, **kwargs)
        elif call.args is args:
            result = exchanged(self.slopes, func(*args, **kwargs), bends, call)
        else:  # in place: a result that was changed after it was saved could not be differentiated
            result = args[0].copy_(exchanged(self.slopes, call.on(call.x.clone()), bends, call))
        self.note(bends, result)
        return result

    def kept(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        """The arguments, the first as it is now where the call may overwrite it."""
        name: str = getattr(function, "__name__", "")
        in_place = (name.partition(".")[0].endswith("_") and not name.endswith("__")) or kwargs.get("inplace", False)
        in_place = in_place or (len(args) > 1 and args[-1] is True)
        if in_place and args and isinstance(args[0], Tensor):
            return (args[0].clone(), *(a for a in args[1:] if a is not True))
        return args

    def bends(self, opening: Opening, call: Applied) -> list[Bend]:
        x = call.get(0, "input")
        tensors = [t for t in (x, *call.args[1:], *call.kwargs.values()) if isinstance(t, Tensor)]
        if not isinstance(x, Tensor) or not any(t.requires_grad for t in tensors):
            return []
        try:
            return list(opening(call))
        except Exception:  # settings that the row does not know: the search goes on without this call
            return []

    def note(self, bends: list[Bend], result: Any) -> None:
        value = result[0] if isinstance(result, (tuple, list)) else result
        for distance, sign, kink in bends:
            if not distance.requires_grad or not distance.numel():
                continue
            batch = self.batch(distance)
            if batch is None:
                continue
            flat = distance.movedim(batch, 0).reshape(self.n, -1)
            signs = torch.as_tensor(sign, dtype=torch.float64, device=distance.device).expand(distance.shape)
            signs = signs.movedim(batch, 0).reshape(self.n, -1)
            matched = isinstance(value, Tensor) and value.requires_grad and value.numel() == distance.numel()
            self.sites.append(Site(flat, signs, kink, get_gradient_edge(value) if matched else None, batch))

    def batch(self, distance: Tensor) -> int | None:
        """The dimension of the batch: the first that has n rows, or n times as many; else whichever has n."""
        if distance.ndim and distance.shape[0] % self.n == 0:
            return 0
        return next((d for d in range(1, distance.ndim) if distance.shape[d] == self.n), None)


def exchanged(slopes: Slopes, result: Any, bends: Sequence[Bend], call: Applied) -> Any:
    """The result with other derivatives; of several results (values and indices), the first."""
    if isinstance(result, Tensor):
        return slopes(result, bends, call) if result.requires_grad else result
    if isinstance(result, tuple) and hasattr(result, "values") and hasattr(result, "indices"):
        return type(result)([slopes(result[0], bends, call), *result[1:]])  # torch.return_types
    return result


@dataclass(frozen=True)
class Gate:
    """The slopes of one elementwise operator, opened for differentiation: `factor` is 1 and multiplies them, `change` is 0
    and is added to them. `distance` is what moves them, in the direction of `sign`, over a width."""

    factor: Tensor
    change: Tensor
    distance: Tensor
    sign: Tensor
    width: float


class Softened:
    """Slopes that pass from one side of a kink to the other gradually, over a share of the usual distance from it. The
    gates of a forward say how a derivative of the outputs depends on each slope."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.gates: list[Gate] = []

    def __call__(self, result: Tensor, bends: Sequence[Bend], call: Applied) -> Tensor:
        first: tuple[Tensor, Tensor | float, Tensor] | None = None
        for distance, jump, kink in bends:
            if not kink or distance.shape != result.shape:
                continue
            near = torch.where(distance.isfinite(), distance, 0.0)
            width = self.share * near.detach().abs().mean().clamp(min=1e-30)
            if base(call.function) not in SMOOTH:
                rise = width * torch.nn.functional.softplus(near / width) - near.clamp(min=0.0)
                result = result + jump * (rise - rise.detach())
            first = first or (near, jump, width)
        if first is None or base(call.function) not in ELEMENTWISE:
            return result
        near, jump, width = first
        factor, change = (torch.full_like(result.detach(), v, requires_grad=True) for v in (1.0, 0.0))
        sign = torch.as_tensor(jump, device=near.device).sign().expand(near.shape)
        self.gates.append(Gate(factor, change, near, sign, float(width)))
        x = call.x - call.x.detach()
        return result.detach() + factor * (result - result.detach()) + change * x


def at_random(generator: torch.Generator, share: Tensor) -> Slopes:
    """Slopes as they are far to the right of the kinks or far to the left, at random: in row r a share[r] of them is on
    the right."""

    def right(like: Tensor) -> Tensor:
        drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like.device)
        batch = next((d for d in range(like.ndim) if like.shape[d] == len(share)), None)
        limit = 0.3 if batch is None else share.to(like.device).reshape(-1, *[1] * (like.ndim - 1 - batch))
        return drawn < limit

    def slopes(result: Tensor, bends: Sequence[Bend], call: Applied) -> Tensor:
        if base(call.function) in ELEMENTWISE:
            x = call.x
            far = 10.0 + 3.0 * float(x.detach().abs().nan_to_num(0.0, 0.0, 0.0).max())
            with torch.no_grad():
                ends = [call.on(torch.full_like(x, sign * far + side)) for sign in (-1, 1) for side in (0.0, 1.0)]
                left, high = ends[1] - ends[0], ends[3] - ends[2]
            slope = torch.where(right(x), high, left)
            if not bool((slope.abs() <= 10).all()):  # it grows without bound, as exp does
                return result
            return result.detach() + slope * (x - x.detach())
        for distance, jump, kink in bends:
            if kink and distance.shape == result.shape:
                near = torch.where(distance.isfinite(), distance, 0.0)
                change = jump * (right(near).double() - (near.detach() > 0).double()) * near
                result = result + torch.where(distance.isfinite(), change - change.detach(), 0.0)
        return result

    return slopes


def without_place(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in ("inplace", "out")}


def recurrent(activation: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """nn.RNN, one step after the other."""

    def replay(
        x: Tensor, state: Any, parameters: Any, biases: bool, layers: int, dropout: float, train: bool,
        both: bool, batch_first: bool,
    ) -> Any:  # fmt: skip
        del dropout
        if train or not isinstance(parameters, (list, tuple)):  # packed sequences have other arguments
            return None
        steps = list(x.unbind(1 if batch_first else 0))
        per, last = (4 if biases else 2), []
        for layer in range(layers):
            found: list[list[Tensor]] = []
            for way in range(2 if both else 1):
                k = layer * (2 if both else 1) + way
                wi, wh, *b = parameters[k * per : (k + 1) * per]
                h, outputs = state[k], []
                for item in reversed(steps) if way else steps:
                    a = torch.nn.functional.linear(item, wi, b[0] if b else None)
                    h = activation(a + torch.nn.functional.linear(h, wh, b[1] if b else None))
                    outputs.append(h)
                last.append(h)
                found.append(outputs[::-1] if way else outputs)
            steps = [torch.cat(parts, -1) for parts in zip(*found, strict=True)]
        return torch.stack(steps, 1 if batch_first else 0), torch.stack(last)

    return replay


def cell(activation: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """nn.RNNCell."""

    def replay(x: Tensor, h: Tensor, wi: Tensor, wh: Tensor, bi: Tensor | None = None, bh: Tensor | None = None) -> Any:
        return activation(torch.nn.functional.linear(x, wi, bi) + torch.nn.functional.linear(h, wh, bh))

    return replay


RECURRENT: dict[str, Callable[..., Any]] = {
    "rnn_relu": recurrent(torch.relu),
    "rnn_tanh": recurrent(torch.tanh),
    "rnn_relu_cell": cell(torch.relu),
    "rnn_tanh_cell": cell(torch.tanh),
}
