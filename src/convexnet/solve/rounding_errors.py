"""How far rounding may take the operators of a program from real arithmetic: a running error analysis.

Every number carries a bound of its error. An affine operator sends a bound e through the absolute values of its
coefficients, and adds what its own sums of ℓ products may be off by, (ℓ + 1) u Σ |w| |a| (Higham, Accuracy and
Stability of Numerical Algorithms, 3.3 and 3.5). Both are one run of the operator itself, on absolute values:

    |W| e + (ℓ + 1) u (|W| |a| + |b|)  =  κ (|W| (|a| + e / κ) + |b|),    κ = (ℓ + 1) u

What has been cast to a lower precision has the u of that type from there on. An operator without a rule here has an
error without an end, and so makes no bound.

Long because it is a table with its rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from convexnet.curvature.call import Rule
from convexnet.curvature.row import Sum
from convexnet.curvature.rules import arithmetic, layers, shapes
from convexnet.curvature.rules.arithmetic import Power
from convexnet.curvature.rules.losses import Both, Loss
from convexnet.curvature.rules.pointwise import Pointwise
from convexnet.curvature.rules.reductions import Reduction, Window
from convexnet.curvature.rules.shapes import Moving
from convexnet.curvature.table import row_of
from convexnet.form.program import OpenedProgram

UNIT = 2.0**-53
"""The relative error of one operation in float64."""

UNDERFLOW = 1e-300
"""More than what all products of one operator lose where they are too small for their precision."""


@dataclass(eq=False)
class Tracked:
    """Numbers with a bound of their errors, and the relative error of the precision that they are in.

    Example:
        >>> one = Tracked(torch.ones(1), torch.zeros(1))
        >>> float((one + one).error) > 0, float((-one).error)
        (True, 0.0)
    """

    value: Tensor
    error: Tensor
    unit: float = UNIT

    @property
    def shape(self) -> torch.Size:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return self.value.ndim

    @property
    def dtype(self) -> torch.dtype:
        return self.value.dtype

    @property
    def device(self) -> torch.device:
        return self.value.device

    def moved(self, move: Callable[[Tensor], Tensor]) -> Tracked:
        """The same operator, which moves entries only, on values and errors."""
        return Tracked(move(self.value), move(self.error), self.unit)

    def rounded(self, value: Tensor, error: Tensor, *others: Any) -> Tracked:
        """A result with one rounding."""
        unit = max([self.unit, *(other.unit for other in others if isinstance(other, Tracked))])
        return Tracked(value, error + 2 * unit * value.detach().abs(), unit)

    def __add__(self, other: Any) -> Tracked:
        return self.rounded(self.value + number_of(other), self.error + error_of(other), other)

    def __sub__(self, other: Any) -> Tracked:
        return self.rounded(self.value - number_of(other), self.error + error_of(other), other)

    def __rsub__(self, other: Any) -> Tracked:
        return self.rounded(other - self.value, 0.0 + self.error)

    def __mul__(self, other: Any) -> Tracked:
        return self.rounded(self.value * other, self.error * absolute_values(other))

    def __neg__(self) -> Tracked:
        return Tracked(-self.value, self.error, self.unit)

    __radd__, __rmul__ = __add__, __mul__

    def __getitem__(self, index: Any) -> Tracked:
        return self.moved(lambda t: t[index])

    def flatten(self, *dims: int) -> Tracked:
        return self.moved(lambda t: t.flatten(*dims))

    def unflatten(self, dim: int, sizes: Any) -> Tracked:
        return self.moved(lambda t: t.unflatten(dim, sizes))

    def movedim(self, source: Any, target: Any) -> Tracked:
        return self.moved(lambda t: t.movedim(source, target))

    def unsqueeze(self, dim: int) -> Tracked:
        return self.moved(lambda t: t.unsqueeze(dim))

    def squeeze(self, *dims: Any) -> Tracked:
        return self.moved(lambda t: t.squeeze(*dims))

    def narrow(self, dim: int, start: int, length: int) -> Tracked:
        return self.moved(lambda t: t.narrow(dim, start, length))

    def beside(self, *parts: Any) -> Tracked:
        """Tensors, some of them tracked, along a new last dimension."""
        value = torch.stack(torch.broadcast_tensors(*map(number_of, parts)), -1)
        errors = [torch.as_tensor(error_of(part), dtype=value.dtype, device=value.device) for part in parts]
        spread = [error.expand(value.shape[:-1]) for error in errors]
        return Tracked(value, torch.stack(spread, -1), max(getattr(part, "unit", UNIT) for part in parts))

    def sum(self, dims: list[int], keepdim: bool) -> Tracked:
        value, count = self.value.sum(dims, keepdim=keepdim), math.prod(self.value.shape[d] for d in dims)
        size = self.value.detach().abs().sum(dims, keepdim=keepdim)
        return Tracked(value, self.error.sum(dims, keepdim=keepdim) + (count + 2) * self.unit * size, self.unit)

    def reshape(self, *shape: Any) -> Tracked:
        return self.moved(lambda t: t.reshape(*shape))


def number_of(number: Any) -> Any:
    return number.value if isinstance(number, Tracked) else number


def error_of(number: Any) -> Any:
    return number.error if isinstance(number, Tracked) else 0.0


def map_arguments(arguments: Any, change: Callable[[Any], Any]) -> Any:
    """Arguments of an operator with every one changed, within lists too."""
    if isinstance(arguments, (list, tuple)):
        return [map_arguments(part, change) for part in arguments]
    if isinstance(arguments, dict):
        return {key: map_arguments(part, change) for key, part in arguments.items()}
    return change(arguments)


def tracked_arguments(arguments: Any) -> Iterator[Any]:
    if isinstance(arguments, (list, tuple)):
        for part in arguments:
            yield from tracked_arguments(part)
    elif isinstance(arguments, dict):
        yield from tracked_arguments(list(arguments.values()))
    else:
        yield arguments


Sizes = dict[int, tuple[Tensor, Tensor | None]]
"""By the `id` of a tensor itself, so that the `id` stays its own, and its absolute values, once they are known."""


@dataclass
class TrackedCall:
    """An operator on tracked numbers."""

    name: str
    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]
    results: list[Tensor]
    unit: float
    lengths: float = 1.0  # of the sums that it makes, forwards or backwards
    sizes: Sizes = field(default_factory=dict[int, "tuple[Tensor, Tensor | None]"])

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def run(self, change: Callable[[Any], Any]) -> list[Tensor]:
        out = self.function(*map_arguments(self.args, change), **map_arguments(self.kwargs, change))
        return list(out) if isinstance(out, (list, tuple)) else [out]

    def size(self, constant: Tensor) -> Tensor:
        """The absolute values of a tensor that is not a result."""
        held, size = self.sizes.get(id(constant), (None, None))
        if held is not constant or size is None:
            size = constant.detach().abs()
            if held is constant:
                self.sizes[id(constant)] = constant, size
        return size

    def tracked(self) -> list[Tracked]:
        return [part for part in tracked_arguments([list(self.args), self.kwargs]) if isinstance(part, Tracked)]

    def tensors(self) -> list[Tensor]:
        """All floating arguments."""
        parts = (number_of(part) for part in tracked_arguments([list(self.args), self.kwargs]))
        return [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]


Errors = Callable[[TrackedCall], list[Tensor]]


@dataclass
class Rounding:
    """Executes operators on tracked numbers, as `OpenedProgram.run` asks for.

    Attributes:
        lengths: how many roundings a slope that is carried back through all of them may have.
        unit: the largest relative error of one.
        sizes: room for the absolute values of tensors that later runs meet again.
        doubts: flags that rounding may have turned: by the `id` of a tensor of flags, it and a mask of them.
    """

    lengths: float = 8.0
    unit: float = UNIT
    doubts: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict[int, tuple[Tensor, Tensor]])
    sizes: Sizes = field(default_factory=dict[int, "tuple[Tensor, Tensor | None]"])

    def __call__(self, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        parts = [*tracked_arguments(args), *tracked_arguments(kwargs)]
        tracked = [part for part in parts if isinstance(part, Tracked)]
        if any(isinstance(part, torch.dtype) for part in parts):
            cast = cast_unit(name, args, parts)
            args, kwargs = map_arguments(args, as_float64), map_arguments(kwargs, as_float64)
        else:
            cast = cast_unit(name, args, ())
        out = function(*map_arguments(args, number_of), **map_arguments(kwargs, number_of))
        if isinstance(out, Tensor) and out.dtype == torch.bool:
            return self.compared(out, args)
        doubtful: Tensor | None = None
        if self.doubts:
            row = row_of(name)
            if row.runs(shapes.where, shapes.masked_fill):
                doubtful = self.doubt_of(args[0] if row.runs(shapes.where) else args[1])
            else:
                args = [self.as_number(part) for part in args]
                tracked = [part for part in tracked_arguments(args) if isinstance(part, Tracked)] or tracked
        if not tracked:
            return out
        several = isinstance(out, (list, tuple))
        results: list[Any] = list(out) if several else [out]
        # A constant may have been cast as well, and then lifts nothing: the lowest precision counts.
        unit = max(cast, *(part.unit for part in tracked))
        call = TrackedCall(name, function, args, kwargs, results, unit, sizes=self.sizes)
        errors = errors_of(name)(call)
        if doubtful is not None:
            errors = [errors_of_choice(call, doubtful, errors[0])]
        self.lengths += call.lengths + 2
        self.unit = max(self.unit, unit)
        made = [
            Tracked(value, error, unit) if isinstance(value, Tensor) and value.is_floating_point() else value
            for value, error in zip(results, errors, strict=True)
        ]
        return tuple(made) if several else made[0]

    def doubt_of(self, part: Any) -> Tensor | None:
        """Which of some flags are in doubt."""
        found = self.doubts.get(id(part)) if isinstance(part, Tensor) else None
        return None if found is None else found[1]

    def as_number(self, part: Any) -> Any:
        """Flags in doubt as numbers that may be off by one."""
        doubt = self.doubt_of(part)
        return part if doubt is None else Tracked(part.double(), doubt.double())

    def compared(self, out: Tensor, args: Sequence[Any]) -> Tensor:
        """Flags, which are in doubt where two numbers are no further apart than their errors, or others were."""
        doubt = torch.zeros((), dtype=torch.bool, device=out.device)
        for part in args:
            own = self.doubt_of(part)
            doubt = doubt if own is None else doubt | own
        if any(isinstance(part, Tracked) for part in args):
            a, b = (*args[:2], 0.0)[:2]
            error = error_of(a) + error_of(b)
            doubt = doubt | (((number_of(a) - number_of(b)).abs() <= error) & (error > 0))
        if bool(doubt.any()):
            self.doubts[id(out)] = out, doubt.expand(out.shape)
        return out


LARGEST = 4_000_000
"""Entries of a tensor whose absolute values are kept."""


def analysis_of(opened: OpenedProgram) -> Rounding:
    """A running error analysis of a program, in which absolute values of weights are kept from run to run."""
    sizes: Sizes = opened.kept.setdefault("sizes", {})
    for held in opened.fixed.values():
        if isinstance(held, Tensor) and held.is_floating_point() and held.numel() <= LARGEST:
            sizes.setdefault(id(held), (held, None))
    return Rounding(sizes=sizes)


def is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def as_float64(setting: Any) -> Any:
    return torch.float64 if isinstance(setting, torch.dtype) and setting.is_floating_point else setting


def cast_unit(name: str, args: Sequence[Any], parts: Sequence[Any]) -> float:
    """The relative error of a type that is asked for, by one of all `parts` of the arguments."""
    if name == "type_as":
        return args[1].unit if isinstance(args[1], Tracked) else UNIT
    kinds = [part for part in parts if isinstance(part, torch.dtype) and part.is_floating_point]
    return max([torch.finfo(kind).eps / 2 for kind in kinds], default=UNIT)


# --- the rules ------------------------------------------------------------------------------------------------------


def errors_of_move(call: TrackedCall) -> list[Tensor]:
    """Entries are moved; constants among them have no error."""
    zero = call.run(lambda part: torch.zeros_like(number_of(part)) if is_real(number_of(part)) else part)
    out = call.run(lambda part: error_of(part) + 0.0 if isinstance(part, Tracked) else no_error(part))
    fan = [value.numel() for value in call.results if is_real(value)]
    rule = row_of(call.name).rule
    repeats = isinstance(rule, Moving) and rule.repeats
    uses = Counter(map(id, call.tracked()))  # of a tensor that is joined with itself
    call.lengths = max(fan, default=1) / max(1, len(call.results[0])) if repeats else float(max(uses.values()))
    return [
        torch.where((a - b).isnan(), 0.0, (a - b).abs()) if is_real(a) else a for a, b in zip(out, zero, strict=True)
    ]


def no_error(part: Any) -> Any:
    return torch.zeros_like(part) if is_real(part) else part


def errors_of_cast(call: TrackedCall) -> list[Tensor]:
    (x,) = call.tracked()[:1]
    extra = 2 * call.unit * call.results[0].detach().abs() if call.unit > x.unit else 0.0
    return [x.error + extra]


def errors_of_sum(inner: Callable[[TrackedCall], float]) -> Errors:
    """An operator whose results are sums of products of its arguments, with inner(call) terms."""

    def errors(call: TrackedCall) -> list[Tensor]:
        call.lengths = max(1.0, inner(call))
        kappa = (call.lengths + 4) * call.unit

        def size(part: Any) -> Any:
            if isinstance(part, Tracked):
                return torch.add(part.value.detach().abs(), part.error, alpha=1 / kappa)
            return call.size(part) if is_real(part) else part

        kwargs = {k: abs(v) if k in ("alpha", "beta") else v for k, v in call.kwargs.items()}
        least = torch.full((), UNDERFLOW, dtype=torch.float64, device=call.results[0].device)
        return [torch.add(least, value, alpha=kappa) for value in replace(call, kwargs=kwargs).run(size)]

    def counted(call: TrackedCall) -> list[Tensor]:
        found = errors(call)
        sizes = [
            t.numel() / max(1, t.shape[0] if t.ndim else 1) for t in [*call.tensors(), *call.results] if is_real(t)
        ]
        call.lengths = max(call.lengths, min(max(sizes, default=1.0), widest(call)))
        return found

    return counted


def widest(call: TrackedCall) -> float:
    """An upper bound for the terms of a sum that is carried back: a weight's entries by its smaller side."""
    weights = [part for part in tracked_arguments([list(call.args), call.kwargs]) if is_real(part) and part.ndim > 1]
    return float(max((part.numel() / max(1, min(part.shape[:2])) for part in weights), default=math.inf))


def errors_of_addition(call: TrackedCall) -> list[Tensor]:
    """Two terms, one of them times alpha: the second; the first, where it is the one that is subtracted (rsub)."""
    a, b = call.args[:2]
    alpha = abs(float(call.argument(2, "alpha", 1.0)))
    if alpha == 1.0 and call.unit == UNIT:  # one rounding, of the result
        total = 2 * UNIT * call.results[0].detach().abs()
        for part in (a, b):
            total = total + part.error if isinstance(part, Tracked) else total
        return [total]
    rule = row_of(call.name).rule
    a_size, b_size = (alpha, 1.0) if isinstance(rule, Sum) and rule.signs[0] < 0 else (1.0, alpha)
    size = a_size * absolute_values(a) + b_size * absolute_values(b)
    return [a_size * error_of(a) + b_size * error_of(b) + 2 * call.unit * size + 0 * call.results[0].detach()]


def absolute_values(part: Any) -> Any:
    value = number_of(part)
    if isinstance(value, Tensor) and value.dtype == torch.bool:  # flags that are in no doubt
        return value.double()
    return value.detach().abs() if isinstance(value, Tensor) else abs(value)


def errors_of_negation(call: TrackedCall) -> list[Tensor]:
    return [call.args[0].error]


def errors_of_product(call: TrackedCall) -> list[Tensor]:
    a, b = call.args[:2]
    total = error_of(a) * absolute_values(b) + error_of(b) * absolute_values(a) + error_of(a) * error_of(b)
    return [total + 2 * call.unit * call.results[0].detach().abs() + UNDERFLOW]


def errors_of_quotient(call: TrackedCall) -> list[Tensor]:
    a, b = call.args[:2]
    size = absolute_values(b)
    return [error_of(a) / size + 2 * call.unit * call.results[0].detach().abs() + UNDERFLOW]


def errors_of_addcmul(call: TrackedCall) -> list[Tensor]:
    a, b, c = call.args[:3]
    value = abs(float(call.argument(3, "value", 1.0)))
    part = error_of(b) * absolute_values(c) + error_of(c) * absolute_values(b)
    size = absolute_values(a) + value * absolute_values(b) * absolute_values(c)
    return [error_of(a) + value * part + 4 * call.unit * size + UNDERFLOW]


def errors_of_lerp(call: TrackedCall) -> list[Tensor]:
    a, b, share = call.args[:3]
    rest, share = 1 + absolute_values(share), absolute_values(share)
    size = absolute_values(a) * rest + absolute_values(b) * share
    return [error_of(a) * rest + error_of(b) * share + 6 * call.unit * size + UNDERFLOW]


def errors_of_batch_norm(call: TrackedCall) -> list[Tensor]:
    """Batch norm in eval mode: (x − mean) weight / sqrt(var + eps) + bias."""
    kappa = 10 * call.unit
    x, weight, bias, mean, var = call.args[:5]
    size = x.value.detach().abs() + x.error / kappa
    given = [None if part is None else part.detach().abs() for part in (weight, bias)]
    out = call.function(size, *given, -mean.detach().abs(), var, *call.args[5:], **call.kwargs)
    first, *rest = list(out) if isinstance(out, (list, tuple)) else [out]
    return [kappa * first, *[torch.zeros_like(part) for part in rest]]


def errors_of_interpolation(call: TrackedCall) -> list[Tensor]:
    """Bicubic interpolation: coefficients of both signs, whose absolute values add up to less than 2 in each window."""
    (x,) = call.tracked()[:1]
    call.lengths = float(x.shape[-1] * x.shape[-2])
    size = 2 * (x.error + 40 * call.unit * x.value.detach().abs()).flatten(-2).amax(-1)
    return [size[..., None, None].expand(call.results[0].shape) + 0.0]


def errors_of_pointwise(call: TrackedCall) -> list[Tensor]:
    """A function of single entries, by its derivative there, and by what it is where the error ends: a kink in between
    may be as steep as either side. In a^x the entries are those of the exponent."""
    places = [i for i, arg in enumerate(call.args) if isinstance(arg, Tracked)]
    if len(places) != 1:
        return [torch.full_like(call.results[0], math.inf)]
    (place,) = places
    x = call.args[place]
    with torch.enable_grad():

        def at_point(point: Tensor) -> Tensor:
            return call.function(*call.args[:place], point, *call.args[place + 1 :], **call.kwargs)

        at = x.value.detach().expand_as(call.results[0]).clone().requires_grad_()
        out = at_point(at)
        steep = torch.autograd.grad(out, at, torch.ones_like(out))[0] if out.requires_grad else torch.zeros_like(at)
        moved = steep.abs() * x.error
        for end in (x.error, -x.error):  # NaN where the function ends in between
            moved = torch.fmax(moved, (at_point(at + end) - out).abs())
        moved = torch.where(x.error.isinf(), math.inf, moved)
    size = out.detach().abs() + steep.abs() * at.detach().abs()
    short = softplus_short(call) if call.name == "softplus" else 0.0
    return [moved.detach() + 8 * call.unit * size + short + UNDERFLOW]


def softplus_short(call: TrackedCall) -> float:
    beta, limit = float(call.argument(1, "beta", 1.0)), float(call.argument(2, "threshold", 20.0))
    return math.log1p(math.exp(-limit)) / beta


def errors_of_lipschitz(steep: float | Callable[[Tensor], Tensor]) -> Errors:
    """An operator of which no result moves by more than `steep` times what any of its arguments moves."""

    def errors(call: TrackedCall) -> list[Tensor]:
        call.lengths = float(max(t.numel() for t in call.tensors()))
        total: Any = 0.0
        for part in call.tracked():
            slope = steep if isinstance(steep, (int, float)) else steep(part.value.detach())
            own = part.error + 4 * call.unit * part.value.detach().abs()
            rows = slope * own.reshape(len(own), -1).sum(1)
            total = total + rows
        constants = [part for part in call.tensors() if not any(part is one.value for one in call.tracked())]
        room = 8 * call.unit * sum((part.detach().abs().sum() for part in constants), torch.zeros(()).double())
        found: list[Tensor] = []
        for value in call.results:
            if not is_real(value):
                found.append(value)
                continue
            rows = (total + room).reshape(-1, *[1] * (value.ndim - 1)) if value.ndim else (total + room).sum()
            found.append(rows.expand(value.shape) + 8 * call.unit * value.detach().abs())
        return found

    return errors


def errors_of_clamp(call: TrackedCall) -> list[Tensor]:
    """A clamp, whose limits may be tensors."""
    return errors_of_pointwise(call) if len(call.tracked()) == 1 else errors_of_lipschitz(1.0)(call)


def errors_of_prelu(call: TrackedCall) -> list[Tensor]:
    """A PReLU, whose slopes may be of any size."""
    slope = call.args[1]
    if isinstance(slope, Tracked):
        return errors_by_jacobian(call)
    return errors_of_lipschitz(max(1.0, float(slope.detach().abs().max())))(call)


MOST = 512
"""Results of an operator without a rule of its own up to which its derivatives are computed one by one."""


def errors_by_jacobian(call: TrackedCall) -> list[Tensor]:
    """Any other operator, by its derivatives; one with many results has an error without an end."""
    tracked = list({id(part): part for part in call.tracked()}.values())
    if sum(value.numel() for value in call.results if is_real(value)) > MOST:
        return [torch.full_like(value, math.inf) if is_real(value) else value for value in call.results]
    call.lengths = entries(call)
    with torch.enable_grad():
        leaves = {id(part): part.value.detach().clone().requires_grad_() for part in tracked}
        out = call.run(lambda part: leaves[id(part)] if isinstance(part, Tracked) else part)
        found: list[Tensor] = []
        for value in out:
            if not is_real(value):
                found.append(value)
                continue
            errors: list[Tensor] = []
            for entry in value.flatten():
                slopes = (
                    torch.autograd.grad(
                        entry, list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True
                    )
                    if entry.requires_grad
                    else [torch.zeros_like(leaf) for leaf in leaves.values()]
                )
                moved = sum(
                    ((g.abs() * part.error).sum() for g, part in zip(slopes, tracked, strict=True)), 0 * entry.detach()
                )
                size = sum((leaf.detach().abs().sum() for leaf in leaves.values()), entry.detach().abs())
                errors.append(moved + 8 * call.lengths * call.unit * size)
            found.append(torch.stack(errors).reshape(value.shape) if errors else torch.zeros_like(value.detach()))
    return found


def errors_of_choice(call: TrackedCall, doubt: Tensor, error: Tensor) -> Tensor:
    """Where it is in doubt which of two numbers is taken, the error is that of either and what they are apart."""
    one, other = call.args[1:3] if row_of(call.name).runs(shapes.where) else (call.args[2], call.args[0])
    apart = absolute_values(number_of(one) - number_of(other)) + error_of(one) + error_of(other)
    return error + torch.where(doubt, apart, 0.0)


def errors_of_sign(call: TrackedCall) -> list[Tensor]:
    """A sign: off by no more than two where the number may be of the other sign."""
    (x,) = call.tracked()[:1]
    return [torch.where((x.value.detach().abs() <= x.error) & (x.error > 0), 2.0, 0.0) + 0 * x.error]


def errors_of_loss(call: TrackedCall) -> list[Tensor]:
    """A loss, by its derivatives. Its terms may cancel, and are no larger than this makes them of targets and weights;
    at its kinks it is no steeper."""
    found = errors_by_jacobian(call)
    leaves = [part.value.detach().abs() for part in call.tracked()]
    constants = [part.abs() for part in call.tensors() if not any(part is one.value for one in call.tracked())]
    largest = max((float(part.max()) for part in constants if part.numel()), default=1.0)
    factor = max(1.0, largest) ** 2
    size = sum((part.sum() for part in [*leaves, *constants]), torch.ones((), dtype=torch.float64))
    room = 8 * call.lengths * call.unit * factor
    steep = 2 * factor * sum((part.error.sum() for part in call.tracked()), torch.zeros((), dtype=torch.float64))
    return [
        error + room * (size + value.detach().abs()) + steep if is_real(value) else error
        for error, value in zip(found, call.results, strict=True)
    ]


def largest_variance_slope(x: Tensor) -> Tensor:
    """The largest slope of a variance, for each sample."""
    return 2 * x.abs().reshape(len(x), -1).amax(1)


def all_but_first(call: TrackedCall) -> float:
    return float(max(t.numel() // max(1, t.shape[0] if t.ndim else 1) for t in call.tensors()))


def entries(call: TrackedCall) -> float:
    return float(max(t.numel() for t in call.tensors()))


def of_matrix(place: int) -> Callable[[TrackedCall], float]:
    return lambda call: float(number_of(call.args[place]).shape[-1])


def kernel(call: TrackedCall) -> float:
    return float(number_of(call.args[1])[0].numel())


def kernel_transposed(call: TrackedCall) -> float:
    weight = number_of(call.args[1])
    return float(weight.numel() // weight.shape[1])


def kernel_either(call: TrackedCall) -> float:
    return max(kernel(call), kernel_transposed(call))


ERRORS: dict[Rule, Errors] = {
    **dict.fromkeys((arithmetic.identity, arithmetic.dropout), errors_of_cast),
    **dict.fromkeys((arithmetic.add, arithmetic.sub, arithmetic.rsub), errors_of_addition),
    arithmetic.neg: errors_of_negation,
    arithmetic.mul: errors_of_product,
    arithmetic.div: errors_of_quotient,
    arithmetic.addcmul: errors_of_addcmul,
    arithmetic.lerp: errors_of_lerp,
    layers.linear: errors_of_sum(of_matrix(1)),
    layers.matmul: errors_of_sum(of_matrix(0)),
    layers.outer: errors_of_sum(lambda call: 1.0),
    layers.addmm: errors_of_sum(of_matrix(1)),
    **dict.fromkeys((layers.einsum, layers.sum_of_paired_products), errors_of_sum(entries)),
    layers.conv: errors_of_sum(kernel),
    layers.conv_transpose: errors_of_sum(kernel_transposed),
    layers.convolution_generic: errors_of_sum(kernel_either),
    **dict.fromkeys((layers.batch_norm, layers.batch_norm_functional), errors_of_batch_norm),
    # Those that are only met where a function stays closed.
    arithmetic.pow_: errors_of_pointwise,
    **dict.fromkeys((arithmetic.clamp_below, arithmetic.clamp_above), errors_of_clamp),
    arithmetic.prelu: errors_of_prelu,
}
"""How errors go through an operator, by its rule in the table of the calculus, where its kind does not say so."""


def errors_of(name: str) -> Errors:
    """How errors go through an operator."""
    row = row_of(name)
    rule = row.rule
    if row.run in ERRORS:
        return ERRORS[row.run]
    if isinstance(rule, Moving):
        return errors_of_move
    if name == "sign":
        return errors_of_sign
    if isinstance(rule, (Pointwise, Power)):
        return errors_of_cast if rule.is_affine else errors_of_pointwise
    if isinstance(rule, (Reduction, Window)) and rule.is_affine:
        return errors_of_sum(all_but_first) if rule.keeps_signs else errors_of_interpolation
    if isinstance(rule, Loss):
        return errors_of_loss
    if isinstance(rule, Both) and row.steepness == math.inf:  # a variance and a mean
        return errors_of_lipschitz(lambda x: 1 + largest_variance_slope(x))
    if row.steepness < math.inf:
        return errors_of_lipschitz(row.steepness)
    if name.startswith(("empty", "new_empty")):
        return lambda call: [torch.zeros_like(value) for value in call.results]
    return errors_of_lipschitz(largest_variance_slope) if name == "var" else errors_by_jacobian
