"""The second kind of operator: maps that are linear in what varies, with coefficients of known or unknown sign.

An output element rises with an input element where their coefficient may be positive, and falls where it may be
negative. So the composition theorem needs one thing of a linear operator: which outputs does a marked set of inputs
reach through the coefficients that may be positive (or negative)? The operator answers that itself, run on 0/1 masks
in place of its input and of its coefficients. Real coefficients are never multiplied: their products can underflow.

A `Form` says how the operator pairs inputs with coefficients, and takes the short cut that uniform masks allow: a
convolution whose masks are uniform in space needs no convolution, only "does any tap of this filter have that sign".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from convexnet.curvature.facts import (
    INF,
    Fact,
    Influence,
    Reach,
    Shape,
    compact,
    compose,
    core,
    elementwise,
    spread_rows,
    uniform,
    where_any,
)

EPS = torch.finfo(torch.float64).eps


class Form:
    """How a bilinear operator pairs its input with its coefficients."""

    def reach(self, mask: Tensor, coefficients: Tensor) -> Tensor:
        """Outputs that a marked input reaches through a marked coefficient."""
        raise NotImplementedError

    def apply(self, values: Tensor, coefficients: Tensor) -> Tensor:
        """The operator itself, in float64."""
        raise NotImplementedError

    def terms(self, coefficients: Tensor) -> int:
        """How many products one output sums, at most: the length that rounding errors grow with."""
        raise NotImplementedError


@dataclass(frozen=True)
class Product(Form):
    """Elementwise multiplication, with broadcasting."""

    shape: Shape

    def reach(self, mask: Tensor, coefficients: Tensor) -> Tensor:
        return elementwise(torch.logical_and, self.shape, mask, coefficients)

    def apply(self, values: Tensor, coefficients: Tensor) -> Tensor:
        return elementwise(lambda v, c: v.double() * c.double(), self.shape, values, coefficients)

    def terms(self, coefficients: Tensor) -> int:
        return 1


@dataclass(frozen=True)
class Contraction(Form):
    """x[..., i] with W[o, i], as in `linear`."""

    shape: Shape

    def reach(self, mask: Tensor, coefficients: Tensor) -> Tensor:
        inner = core(mask)
        if inner.shape[-1] == 1:  # every input of a row is marked alike
            return compact(inner & core(coefficients).any(1), self.shape)
        inner = inner.expand(*inner.shape[:-1], mask.shape[-1])
        return compact(inner.float() @ coefficients.float().T > 0.5, self.shape)

    def apply(self, values: Tensor, coefficients: Tensor) -> Tensor:
        inner = core(values)
        inner = inner.expand(*inner.shape[:-1], values.shape[-1])
        return (inner.double() @ coefficients.double().T).expand(tuple(self.shape))

    def terms(self, coefficients: Tensor) -> int:
        return coefficients.shape[1]


@dataclass(frozen=True)
class Convolution(Form):
    """x[n, i, ...] with W[o, i, ...] slid over it; `run(x, W)` is the operator with its stride, padding and groups."""

    shape: Shape
    run: Callable[[Tensor, Tensor], Tensor]
    groups: int
    transposed: bool
    padded: bool  # some taps fall outside the input and see zeros instead

    def channels(self, values: Tensor, matrix: Tensor) -> Tensor:
        """A convolution of something uniform in space: `matrix` holds the taps of each filter, already summed."""
        n, groups = values.shape[0], self.groups
        matrix = matrix.unflatten(0, (groups, -1))  # (g, O/g, I/g), transposed (g, I/g, O/g)
        if not self.transposed:
            matrix = matrix.transpose(1, 2)
        out = torch.einsum("ngi,gio->ngo", values.reshape(n, groups, -1), matrix)
        return out.reshape(n, -1, *[1] * (len(self.shape) - 2))

    def reach(self, mask: Tensor, coefficients: Tensor) -> Tensor:
        inner = core(mask)
        if all(length == 1 for length in inner.shape[2:]):
            marked = inner.reshape(inner.shape[0], -1).expand(-1, mask.shape[1]).float()
            return compact(self.channels(marked, coefficients.flatten(2).any(2).float()) > 0.5, self.shape)
        inner = inner.expand(inner.shape[0], *mask.shape[1:])
        return compact(self.run(inner.float(), coefficients.float()) > 0.5, self.shape)

    def apply(self, values: Tensor, coefficients: Tensor) -> Tensor:
        inner = core(values)
        if all(length == 1 for length in inner.shape[2:]):
            flat = inner.reshape(inner.shape[0], -1).expand(-1, values.shape[1]).double()
            return self.channels(flat, coefficients.flatten(2).sum(2, dtype=torch.float64)).expand(tuple(self.shape))
        inner = inner.expand(inner.shape[0], *values.shape[1:])
        return self.run(inner.double(), coefficients.double()).expand(tuple(self.shape))

    def terms(self, coefficients: Tensor) -> int:
        return coefficients.numel() // coefficients.shape[1 if self.transposed else 0]


@dataclass(frozen=True)
class Pairing(Form):
    """Any other bilinear operator (batched matrix products, einsum), run as it is."""

    run: Callable[[Tensor, Tensor], Tensor]
    length: int

    def reach(self, mask: Tensor, coefficients: Tensor) -> Tensor:
        return compact(self.run(mask.float(), coefficients.float()) > 0.5)

    def apply(self, values: Tensor, coefficients: Tensor) -> Tensor:
        return self.run(values.double(), coefficients.double())

    def terms(self, coefficients: Tensor) -> int:
        return self.length


@dataclass(frozen=True)
class Signs:
    """Which coefficients may be positive and which negative; each mask is computed once, and only if asked for."""

    coefficients: Fact
    made: dict[str, Tensor | None] = field(default_factory=dict)

    def mask(self, sign: str) -> Tensor | None:
        if sign not in self.made:
            bounds = self.coefficients.hi if sign == "+" else self.coefficients.lo
            found = core(bounds) > 0 if sign == "+" else core(bounds) < 0
            self.made[sign] = found.expand(bounds.shape) if bool(found.any()) else None
        return self.made[sign]


def bilinear(x: Fact, w: Fact, form: Form, shape: Shape) -> Fact:
    """The fact of a bilinear operator whose coefficients `w` do not vary with the chosen inputs."""
    signs = Signs(w)

    def through(sign: str) -> Reach | None:
        coefficients = signs.mask(sign)
        if coefficients is None:
            return None
        marks = coefficients
        return lambda mask: form.reach(mask, marks) if where_any(mask) else uniform(False, shape, torch.bool)

    influence = Influence(x, up=through("+"), down=through("-"))
    result = compose([influence], shape)
    if where_any(w.rows):
        result = with_rows_of(result, w, form, x, shape)
    result = result.bounded(*interval(x, w, form, influence, shape))
    nonneg = signs.mask("-") is None
    return result.with_degree(x.power if nonneg else 0.0)


def with_rows_of(result: Fact, w: Fact, form: Form, x: Fact, shape: Shape) -> Fact:
    """Add the rows of the batch that the coefficients come from (they may depend on the other inputs)."""
    everywhere = uniform(True, x.shape, torch.bool)
    rows = spread_rows(w.rows, lambda mask: form.reach(everywhere, mask))
    merged = elementwise(torch.bitwise_or, shape, result.rows, rows)
    return Fact(result.nonconvex, result.nonconcave, result.varies, merged, result.lo, result.hi)


def interval(x: Fact, w: Fact, form: Form, influence: Influence, shape: Shape) -> tuple[Tensor, Tensor]:
    """Bounds of the result: exact coefficients meet the bounds of x by sign; others give their sign only."""
    lo, hi = x.lo, x.hi
    if isinstance(form, Convolution) and form.padded:  # a tap may see a zero instead: then uniform stays uniform
        lo = elementwise(lambda v: v.clamp(max=0.0), lo.shape, lo)
        hi = elementwise(lambda v: v.clamp(min=0.0), hi.shape, hi)

    def marked(test: Callable[[Tensor], Tensor], bound: Tensor) -> Tensor:
        return elementwise(test, bound.shape, bound)

    def finite(bound: Tensor) -> Tensor:
        return marked(lambda v: torch.where(v.isfinite(), v.double(), 0.0), bound)

    endless_low = influence.reach(marked(torch.isneginf, lo), marked(torch.isposinf, hi), shape)
    endless_high = influence.reach(marked(torch.isposinf, hi), marked(torch.isneginf, lo), shape)
    low, high = finite(lo), finite(hi)
    zero = uniform(0.0, shape, torch.float64)
    if not bool(core(low).any()) and not bool(core(high).any()):
        lower, upper = zero, zero
    elif w.value is not None:
        above = elementwise(lambda v: v.clamp(min=0), w.shape, w.value)
        below = elementwise(lambda v: v.clamp(max=0), w.shape, w.value)
        room = 2 * (form.terms(w.value) + 2) * EPS
        magnitude = marked(
            torch.abs, elementwise(torch.maximum, x.shape, marked(torch.abs, low), marked(torch.abs, high))
        )
        error = marked(lambda v: v * room, form.apply(magnitude, elementwise(torch.abs, w.shape, w.value)))
        lower = elementwise(lambda a, b, e: a + b - e, shape, form.apply(low, above), form.apply(high, below), error)
        upper = elementwise(lambda a, b, e: a + b + e, shape, form.apply(high, above), form.apply(low, below), error)
    else:
        lower, upper = uniform(-INF, shape, torch.float64), uniform(INF, shape, torch.float64)
    lower = elementwise(lambda v, m: torch.where(m, -INF, v), shape, lower, endless_low)
    upper = elementwise(lambda v, m: torch.where(m, INF, v), shape, upper, endless_high)
    negative, positive = marked(lambda v: v < 0, x.lo), marked(lambda v: v > 0, x.hi)
    lower = clip_sign(lower, influence.reach(negative, positive, shape), above=True)
    upper = clip_sign(upper, influence.reach(positive, negative, shape), above=False)
    return lower, upper


def clip_sign(bound: Tensor, contradicted: Tensor, above: bool) -> Tensor:
    """Where no term contradicts the sign, the rounded bound is cut at an exact zero."""
    cut: Callable[[Tensor, Tensor], Tensor] = (
        (lambda b, c: torch.where(c, b, b.clamp(min=0.0)))
        if above
        else (lambda b, c: torch.where(c, b, b.clamp(max=0.0)))
    )
    return elementwise(cut, bound.shape, bound, contradicted)


def total(terms: Sequence[tuple[Fact, int]], shape: Shape) -> Fact:
    """The fact of a sum of facts, each added (+1) or subtracted (-1), with broadcasting."""
    influences: list[Influence] = []
    for fact, sign in terms:
        move: Reach = lambda mask: mask.expand(tuple(shape))  # noqa: E731
        influences.append(Influence(fact, up=move if sign > 0 else None, down=move if sign < 0 else None))
    result = compose(influences, shape)
    lows = [(f.lo if s > 0 else negated(f.hi)).expand(tuple(shape)) for f, s in terms]
    highs = [(f.hi if s > 0 else negated(f.lo)).expand(tuple(shape)) for f, s in terms]
    lower, upper = added(lows, shape, down=True), added(highs, shape, down=False)
    powers = [fact.power if sign > 0 else 0.0 for fact, sign in terms]
    return result.bounded(lower, upper).with_degree(min(powers))


def negated(bound: Tensor) -> Tensor:
    return elementwise(torch.neg, bound.shape, bound)


def added(bounds: Sequence[Tensor], shape: Shape, down: bool) -> Tensor:
    """Sum of bounds, rounded outwards, with an exact zero where every term agrees on the sign."""

    def run(*parts: Tensor) -> Tensor:
        wide = [part.double() for part in parts]
        size = sum((part.abs() for part in wide), start=torch.zeros(()))
        room = torch.where(size.isfinite(), size * (len(wide) * EPS), 0.0)
        value = sum(wide, start=torch.zeros(()))
        if down:
            agreed = torch.stack(torch.broadcast_tensors(*[part >= 0 for part in wide])).all(0)
            value = torch.where(value.isnan(), -INF, value - room)
            return torch.where(agreed, value.clamp(min=0.0), value)
        agreed = torch.stack(torch.broadcast_tensors(*[part <= 0 for part in wide])).all(0)
        value = torch.where(value.isnan(), INF, value + room)
        return torch.where(agreed, value.clamp(max=0.0), value)

    return elementwise(run, shape, *bounds)


def convolution(
    x: Fact,
    w: Fact,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
    transposed: bool,
    output_padding: Sequence[int],
    shape: Shape,
) -> Fact:
    """conv1d ... conv3d and their transposes, without the bias."""
    dims = len(shape) - 2
    if transposed:
        operator = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]

        def run(values: Tensor, weight: Tensor) -> Tensor:
            return operator(values, weight, None, stride, padding, output_padding, groups, dilation)  # pyright: ignore
    else:
        plain = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]

        def run(values: Tensor, weight: Tensor) -> Tensor:
            return plain(values, weight, None, stride, padding, dilation, groups)

    # a transposed convolution with a stride leaves outputs that some taps never reach, so it counts as padded
    padded = transposed or padding == "same" or (not isinstance(padding, str) and any(padding))
    form = Convolution(shape, run, groups, transposed, padded)
    return bilinear(x, w, form, shape)
