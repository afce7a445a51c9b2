"""The fourth kind of operator: sums, averages, maxima and norms, over dimensions or over sliding windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from convexnet.curvature.call import Call, Refusal, Result
from convexnet.curvature.composition import Influence, Reach, compose
from convexnet.curvature.facts import INF, Fact, has_gaps, unknown
from convexnet.curvature.fields import batched, compact, core, elementwise, from_core, level, uniform, where_any
from convexnet.curvature.row import Kind
from convexnet.curvature.rules.linear import EPS, TINY, clip_sign
from convexnet.curvature.rules.opaque_operators import Opaque
from convexnet.curvature.rules.pointwise import LEFT, RIGHT, is_outside
from convexnet.curvature.rules.powers import concavity_of_exp, concavity_of_product, concavity_of_sum, with_concavity

ReductionCurvature = Literal["affine", "convex", "concave"]


def dims_along(call: Call, position: int) -> list[int]:
    """The dimensions a reduction runs over: its `dim` argument, normalised; all of them where it has none."""
    rank = len(call.x.shape)
    dim = call.arg(position, "dim")
    if not isinstance(dim, (int, list, tuple)) or isinstance(dim, bool) or (not isinstance(dim, int) and not dim):
        return list(range(rank))
    dims = [dim] if isinstance(dim, int) else list(dim)
    return [int(d) % rank for d in dims]


def norm_order(call: Call) -> str:
    """Why a norm is not one: it is convex for orders from 1 to infinity."""
    order = call.arg(1, "ord", call.kwargs.get("p"))
    order = 2.0 if order is None else float(order)
    return "" if order >= 1 else f"its order is {order:g}; a norm is convex for orders from 1"


def no_freedom(call: Call) -> str:
    """Why a variance (or its root) is not one: it is divided by zero, and then infinite, or NaN where all are equal."""
    flags = [value for value in call.args[1:3] if isinstance(value, bool)]
    correction = call.kwargs.get("correction")
    if correction is None:
        correction = int(call.kwargs.get("unbiased", [*flags, True][0]))
    count = math.prod(call.x.shape[d] for d in dims_along(call, 1))
    return "" if count > correction else f"it is of {count} elements, and divided by their number less {correction:g}"


@dataclass(frozen=True)
class Reduction(Kind):
    """Over dimensions: rises with every element (or with their absolute values, as norms do; or both ways)."""

    curvature: ReductionCurvature
    position: int = 1  # of the argument `dim`
    moves: Literal["up", "by size", "both"] = "up"
    exact: bool = False
    homogeneous: bool = True  # of degree one, like sums, maxima and norms: keeps the power-convexity degree
    allows: Callable[[Call], str] = lambda call: ""  # why not, for settings without the property

    @property
    def is_affine(self) -> bool:
        return self.curvature == "affine"

    @property
    def keeps_signs(self) -> bool:
        return self.is_affine

    @property
    def steepness(self) -> float:
        return 1.0 if self.exact else INF

    def __call__(self, call: Call) -> Result:
        reason = self.allows(call)
        if reason and has_gaps(call.x):  # the number of elements that are not zero counts NaN
            raise Refusal(reason, "keep its argument where it is defined")
        if reason:
            return Opaque(reason)(call)
        x, shape = call.x, call.shape
        if self.moves == "by size" and x.size is not None:
            return self(replace(call, args=(x.size, *call.args[1:])))
        dims = dims_along(call, self.position)

        def reach(mask: Tensor) -> Tensor:
            known = level(mask)
            if known is not None:
                return uniform(bool(known) and 0 not in x.shape, shape, torch.bool)
            inner = core(mask)
            found = inner.any(dim=tuple(dims), keepdim=True) if dims else inner
            if len(shape) != len(x.shape):
                found = found.reshape([n for d, n in enumerate(found.shape) if d not in dims])
            return found.expand(tuple(shape))

        up, down = reach, None
        if self.moves == "both":
            down = reach
        elif self.moves == "by size":
            up = narrow_reach(reach, is_outside(x, LEFT))
            down = narrow_reach(reach, is_outside(x, RIGHT))
        influence = Influence(x, up, down, by_row=0 not in dims and len(shape) > 0 and batched(x.shape))
        everywhere = uniform(True, shape, torch.bool)
        result = compose(
            [influence],
            shape,
            not_concave=everywhere if self.curvature == "convex" else None,
            not_convex=everywhere if self.curvature == "concave" else None,
        )
        result = result.bounded(*self.interval(call, dims, influence))
        result = result.with_degree(
            x.power if self.homogeneous and self.curvature != "concave" and self.moves == "up" else 0.0
        )
        if self.moves == "up" and self.homogeneous:
            result = self.with_degrees(result, x, call.name, math.prod(x.shape[d] for d in dims))
        if len(call.shapes) == 1:
            return result
        return result, *(unknown(other, varies=result.varies, rows=result.rows) for other in call.shapes[1:])

    def with_degrees(self, result: Fact, x: Fact, name: str, terms: int) -> Fact:
        """What is known of a sum or an extremum of powers of concave functions; see `powers`."""
        if terms == 0:
            return result
        root, exponent = x.root, concavity_of_exp(x)
        if self.curvature == "affine":
            root = concavity_of_sum([root])
            exponent = exponent * terms if name == "sum" else exponent
        elif self.curvature == "convex":  # the largest of negative powers is one of the smallest
            root, exponent = (degree if degree <= 0 else math.nan for degree in (root, exponent))
        else:
            root, exponent = (degree if degree >= 0 else math.nan for degree in (root, exponent))
        return replace(result, concavity=root, exponent=exponent, positive=x.is_positive)

    def interval(self, call: Call, dims: Sequence[int], influence: Influence) -> tuple[Tensor, Tensor]:
        x, shape = call.x, call.shape
        terms = math.prod(x.shape[d] for d in dims)

        def run(bound: Tensor) -> Tensor:
            inner = core(bound)
            inner = inner.expand([x.shape[d] if d in dims else n for d, n in enumerate(inner.shape)]).double()
            out = call.on(inner)
            return out[0] if isinstance(out, tuple) else out

        low, high = x.lo, x.hi
        if self.moves == "both":
            return uniform(0.0, shape, torch.float64), uniform(INF, shape, torch.float64)
        if self.moves == "by size":
            low = elementwise(lambda a, b: torch.where(a > 0, a, torch.where(b < 0, -b, 0.0)), x.shape, x.lo, x.hi)
            high = elementwise(lambda a, b: torch.maximum(a.abs(), b.abs()), x.shape, x.lo, x.hi)
        room = 0.0 if self.exact else 2 * (terms + 8) * EPS
        size = (
            run(elementwise(lambda a, b: torch.maximum(a.abs(), b.abs()), x.shape, x.lo, x.hi)).abs() if room else None
        )

        def widen(value: Tensor, sign: float) -> Tensor:
            if size is not None:
                error = torch.where(size.isfinite(), size, torch.where(value.isfinite(), value.abs(), 0.0))
                value = value + sign * (room * (error + 1.0 * (not self.homogeneous)) + TINY)
            return torch.where(value.isnan(), sign * INF, value).expand(tuple(shape))

        lower, upper = widen(run(low), -1.0), widen(run(high), 1.0)
        if self.moves == "by size":
            return elementwise(lambda v: v.clamp(min=0.0), shape, lower), upper
        if not self.homogeneous:
            return lower, upper
        negative = influence.reach(may_be_negative(x), may_be_negative(x), shape)
        positive = influence.reach(may_be_positive(x), may_be_positive(x), shape)
        return clip_sign(lower, negative, above=True), clip_sign(upper, positive, above=False)


SUM, BOTH = Reduction("affine"), Reduction("convex", moves="both")


def prod(call: Call) -> Fact:
    """Of non-negative quantities: degrees of power-concavity add up, and log-convex ones may be multiplied."""
    x, shape = call.x, call.shape
    dims = dims_along(call, 1)
    terms = math.prod(x.shape[d] for d in dims)
    result = (SUM if terms == 1 else BOTH)(call)
    assert isinstance(result, Fact)
    if terms == 1:
        return result
    result = replace(result, nonconvex=result.varies, nonconcave=result.varies, positive=x.is_positive)
    if x.goes_below_zero:
        line = (uniform(end, shape, torch.float64) for end in (-INF, INF))
        raise Refusal("it multiplies quantities of which some may be negative", PRODUCTS, result.bounded(*line), call)

    def run(bound: Tensor, sign: float) -> Tensor:
        inner = core(bound).double()
        value = call.on(inner.expand([x.shape[d] if d in dims else n for d, n in enumerate(inner.shape)]))
        value = torch.where(value.isnan(), 0.0 if sign < 0 else INF, value)  # zero times infinity
        room = (2 * (terms + 2) * EPS * value + TINY).nan_to_num(posinf=0.0)
        return torch.where(value == 0, 0.0, (value + sign * room).clamp(min=0.0)).expand(tuple(shape))

    result = with_concavity(result.bounded(run(x.lo, -1.0), run(x.hi, 1.0)), concavity_of_product([x.root] * terms))
    if x.power == INF:
        result = replace(result, nonconvex=uniform(False, shape, torch.bool), degree=INF)
    if where_any(result.unknown):
        raise Refusal("it multiplies quantities that depend on the input", PRODUCTS, result, call)
    return result


PRODUCTS = "keep what is multiplied positive, and take the root of the product: a geometric mean is concave"


def may_be_negative(x: Fact) -> Tensor:
    """Mask of the elements that may be negative."""
    lowest = level(x.lo)
    return elementwise(lambda v: v < 0, x.shape, x.lo) if lowest is None else uniform(lowest < 0, x.shape, torch.bool)


def may_be_positive(x: Fact) -> Tensor:
    """Mask of the elements that may be positive."""
    highest = level(x.hi)
    return elementwise(lambda v: v > 0, x.shape, x.hi) if highest is None else uniform(highest > 0, x.shape, torch.bool)


def narrow_reach(reach: Reach, gate: Tensor) -> Reach:
    """A reach that only starts from the elements the gate marks."""

    def run(mask: Tensor) -> Tensor:
        return reach(elementwise(torch.logical_and, mask.shape, mask, gate))

    return run


@dataclass(frozen=True)
class Window(Kind):
    """Over sliding windows of the trailing dimensions, as many as the operator's name says: pooling and interpolation.

    Averages and (bi-, tri-)linear interpolation have non-negative coefficients; bicubic has not, so it is only
    `signed`: affine where its argument is affine.
    """

    curvature: ReductionCurvature = "affine"
    signed: bool = False

    @property
    def is_affine(self) -> bool:
        return self.curvature == "affine"

    @property
    def keeps_signs(self) -> bool:
        return self.is_affine and not self.signed

    @property
    def steepness(self) -> float:
        return 1.0 if self.curvature == "convex" else INF

    def __call__(self, call: Call) -> Result:
        x, shape = call.x, call.shape
        average = call.name.startswith("avg_pool")
        if average and call.arg(6, "divisor_override") is not None:
            return Opaque("its divisor is not the size of the window", "leave out divisor_override")(call)
        pads = average and (any(call.arg(3, "padding", [0])) or bool(call.arg(4, "ceil_mode", False)))
        rank = len(x.shape)
        spatial = range(rank - next(int(c) for c in call.name if c in "123"), rank)

        def run(values: Tensor) -> Tensor:
            out = call.on(values)
            return out[0] if isinstance(out, tuple) else out

        def reach(mask: Tensor) -> Tensor:
            known = level(mask)
            if known is not None:
                return uniform(bool(known), shape, torch.bool)
            inner = core(mask)
            if all(inner.shape[d] == 1 for d in spatial):
                return inner.expand(tuple(shape))
            if self.signed:
                return inner.any(dim=tuple(spatial), keepdim=True).expand(tuple(shape))
            inner = inner.expand([x.shape[d] if d in spatial else n for d, n in enumerate(inner.shape)])
            return compact(run(inner.float()) > 0, shape)

        influence = Influence(x, reach, reach if self.signed else None, by_row=0 not in spatial and batched(x.shape))
        everywhere = uniform(True, shape, torch.bool)
        result = compose([influence], shape, not_concave=everywhere if self.curvature == "convex" else None)
        if not self.signed:
            result = result.bounded(*self.interval(x, spatial, run, reach, shape, pads)).with_degree(x.power)
        if len(call.shapes) == 1:
            return result
        return result, *(unknown(other, varies=result.varies, rows=result.rows) for other in call.shapes[1:])

    def interval(
        self, x: Fact, spatial: range, run: Reach, reach: Reach, shape: Sequence[int], pads: bool
    ) -> tuple[Tensor, Tensor]:
        def bound(side: Tensor, endless: Callable[[Tensor], Tensor], sign: float) -> Tensor:
            inner = core(side)
            if all(
                inner.shape[d] == 1 for d in spatial
            ):  # a window over equal bounds: those, or an average with padding
                value = inner.double()
                if self.curvature == "affine":
                    value = torch.where(value.isfinite(), value + sign * 1e-12 * value.abs(), value)
                if pads:
                    value = value.clamp(max=0.0) if sign < 0 else value.clamp(min=0.0)
                return from_core(value, shape)
            lost = reach(endless(inner).expand(side.shape))
            kept = torch.where(inner.isfinite(), inner.double(), 0.0)
            if not bool(kept.any()):
                value = torch.zeros([1] * len(shape), dtype=torch.float64)
            else:
                full = kept.expand([n if d in spatial else kept.shape[d] for d, n in enumerate(side.shape)])
                value = run(full)
                if self.curvature == "affine":  # an average of at most a few thousand terms, within its own maximum
                    value = value + sign * 1e-12 * run(full.abs())
            return compact(elementwise(lambda v, m: torch.where(m, sign * INF, v), shape, value, lost))

        lower = bound(x.lo, torch.isneginf, -1.0)
        upper = bound(x.hi, torch.isposinf, 1.0)
        return clip_sign(lower, reach(may_be_negative(x)), above=True), clip_sign(
            upper, reach(may_be_positive(x)), above=False
        )
