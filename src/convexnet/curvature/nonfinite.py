"""NaN and infinities among the numbers of a program: in settings, in tensors that the forward makes, from a quotient.

What is computed from them is NaN at some points or at all, and curvature says nothing of NaN. An infinity is fine as
the start of a maximum, as what a mask fills with, as a bound that is not there, as the order of a norm, and as a term;
and elements that are not used later do no harm. So each element that such a number enters is marked as unknown, and
what is left out again by a mask or an index takes its mark with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from convexnet.curvature.call import Call, Refusal, Result
from convexnet.curvature.facts import Fact, as_fact, has_holes
from convexnet.curvature.fields import core, either, elementwise, extremes, from_core, level, uniform, where_any
from convexnet.curvature.row import Sum
from convexnet.curvature.rules.opaque_operators import elementwise_operator
from convexnet.curvature.rules.reductions import Reduction, dims_along
from convexnet.curvature.table import row_of

NAN = Refusal(
    "a number in it is NaN, and so is what it makes of some elements",
    "look for where the number comes from: a root or logarithm of a negative number, 0/0, infinity minus infinity",
)
INFINITE = Refusal(
    "a number in it is infinite (or a divisor zero), and what it makes of zeros is NaN",
    "use finite numbers; an infinity is fine in a maximum, in clamp, as the filling of a mask, and as the order of a "
    "norm",
)

CLASH = Refusal(
    "some of its arguments are infinite, and what it makes of them is NaN: infinity minus infinity, or zero times "
    "infinity",
    "use a large number in the place of infinity, or leave these elements out",
)


def mark_nonfinite(call: Call) -> tuple[Refusal, Tensor] | None:
    """Which elements of the result of an operator on what varies are made of a number that is none, and why."""
    everything = uniform(True, call.shape, torch.bool)
    row, numbers = row_of(call.name), list(real_settings(call))
    if any(math.isnan(number) for number in numbers):
        return NAN, everything
    if any(math.isinf(number) for number in numbers) and (
        not (row.takes_infinity or row.is_move) or excludes_all_numbers(call)
    ):
        return INFINITE, everything
    if row.divisor is not None and 0.0 in numbers:
        return INFINITE, everything
    if isinstance(row.rule, Sum) and call.kwargs.get("alpha") in (math.inf, -math.inf):
        return INFINITE, everything
    if row.is_move:  # marks go where the elements go
        return None
    mask, reason = uniform(False, call.shape, torch.bool), NAN
    for place, fact in enumerate(call.read()):
        if not fact.constant:
            continue
        bad = fact.unknown
        if fact.value is not None and fact.value.is_floating_point():
            zero = place == row.divisor
            if (row.weights or zero) and may_be_no_factor(fact, zero):
                no_factor = (fact.value == 0) if zero else fact.value.isinf()
                if bool(no_factor.any()):
                    bad, reason = either(bad, no_factor), INFINITE
        if where_any(bad):
            mask = either(mask, bad.expand(tuple(call.shape)) if elementwise_operator(call) else everything)
    if where_any(mask):
        return reason, mask
    clash = infinity_clashes(call)
    return (CLASH, clash) if where_any(clash) else None


def forget_over_holes(call: Call, result: Result) -> Result:
    """A result without what its rule says of elements made of some that are not defined in the midst of others.

    An argument of no curvature that may be undefined has such holes, as 1/x has one: of a zero in its place, or of
    what is flat there, NaN is made all the same. A rule that sees from its bounds that such an argument moves nothing
    (a norm of what is 0 where it is defined) speaks of where it is defined. Where curvature is known, what is defined
    is a convex set (log x).
    """
    row = row_of(call.name)
    if row.is_move:
        return result
    mask = uniform(False, call.shape, torch.bool)
    if row.pole is not None and not (divisor := as_fact(call.args[row.pole])).constant:
        if not divisor.is_positive:
            mask = may_cross_zero(divisor).expand(tuple(call.shape))  # a numerator of zero hides the pole
    for fact in call.read():
        if has_holes(fact):
            mask = either(mask, reached_by(call, fact.unknown))
    return mark_unknown(result, mask) if where_any(mask) else result


def reached_by(call: Call, mask: Tensor) -> Tensor:
    """Which elements of the result may be made of elements of an argument that a mask marks."""
    shape, rule = call.shape, row_of(call.name).rule
    if elementwise_operator(call):
        return mask.expand(tuple(shape))
    if not isinstance(rule, Reduction) or level(mask) is not None:
        return uniform(True, shape, torch.bool)
    dims = dims_along(call, rule.position)
    found = core(mask).any(dim=tuple(dims), keepdim=True) if dims else core(mask)
    if len(shape) != len(mask.shape):
        found = found.reshape([n for d, n in enumerate(found.shape) if d not in dims])
    return found.expand(tuple(shape))


def may_cross_zero(fact: Fact) -> Tensor:
    """Mask of the elements that may be zero in the midst of the domain: a concave one that is never negative is zero
    at its edge only, and a convex one that is never positive."""
    ends = fact.lo, fact.hi, fact.nonconcave, fact.nonconvex
    return elementwise(
        lambda lo, hi, up, down: ((lo < 0) | ((lo == 0) & up)) & ((hi > 0) | ((hi == 0) & down)), fact.shape, *ends
    )


def may_be_no_factor(fact: Fact, divisor: bool) -> bool:
    """Whether the range of a known tensor does not rule out infinities, or zeros in a divisor."""
    low, high = extremes(fact.lo)[0], extremes(fact.hi)[1]
    return not (low > 0 or high < 0) if divisor else not (-math.inf < low and high < math.inf)


def infinity_clashes(call: Call) -> Tensor:
    """Elements that are zero times an infinity, or an infinity minus another."""
    shape = tuple(call.shape)
    nothing, everything = uniform(False, shape, torch.bool), uniform(True, shape, torch.bool)
    ends = [(below(fact), above(fact)) for fact in map(as_fact, numbers_of(call))]
    if not any(where_any(end) for pair in ends for end in pair):
        return nothing
    row = row_of(call.name)
    if isinstance(row.rule, Sum) and len(ends) >= 2:
        (a, b), (c, d) = ([end.expand(shape) for end in pair] for pair in ends[:2])
        one, other = (d, c) if row.rule.signs[0] == row.rule.signs[1] else (c, d)
        return either(elementwise(torch.logical_and, shape, a, one), elementwise(torch.logical_and, shape, b, other))
    if call.name == "mul" and len(ends) == 2:
        facts = [as_fact(number) for number in numbers_of(call)]
        found = nothing
        for (low, high), other in zip(ends, reversed(facts), strict=True):
            zero = elementwise(lambda lo, hi: (lo <= 0) & (hi >= 0), other.shape, other.lo, other.hi).expand(shape)
            found = either(found, elementwise(torch.logical_and, shape, either(low, high).expand(shape), zero))
        return found
    if row.weights or (isinstance(row.rule, Reduction) and row.rule.moves == "both"):
        return everything
    if isinstance(row.rule, Reduction) and row.rule.is_affine and where_any(ends[0][0]) and where_any(ends[0][1]):
        return everything
    return nothing


def numbers_of(call: Call) -> list[Any]:
    """The tensors and numbers that an operator computes with."""
    whole = isinstance(row_of(call.name).rule, Sum) or call.name == "mul"
    return [a for a in call.args if isinstance(a, (Fact, float)) or (isinstance(a, int) and whole)]


def below(fact: Fact) -> Tensor:
    """Mask of the elements that are minus infinity."""
    if extremes(fact.hi)[0] > -LARGEST:
        return uniform(False, fact.shape, torch.bool)
    return elementwise(lambda hi: hi <= -LARGEST, fact.shape, fact.hi)


def above(fact: Fact) -> Tensor:
    """Mask of the elements that are infinity."""
    if extremes(fact.lo)[1] < LARGEST:
        return uniform(False, fact.shape, torch.bool)
    return elementwise(lambda lo: lo >= LARGEST, fact.shape, fact.lo)


def with_infinities(call: Call, result: Result) -> Result:
    """A sum in which infinite terms stay infinite, which the bounds of an unbounded term do not say."""
    rule = row_of(call.name).rule
    if not isinstance(rule, Sum) or isinstance(result, tuple):
        return result
    lo, hi = result.lo, result.hi
    for place, fact in enumerate(map(as_fact, numbers_of(call)[:2])):
        low, high = (below(fact), above(fact)) if rule.signs[place] > 0 else (above(fact), below(fact))
        if where_any(low):
            hi = elementwise(lambda mask, end: torch.where(mask, -LARGEST, end), call.shape, low.expand(call.shape), hi)
        if where_any(high):
            lo = elementwise(lambda mask, end: torch.where(mask, LARGEST, end), call.shape, high.expand(call.shape), lo)
    return result if lo is result.lo and hi is result.hi else replace(result, lo=lo, hi=hi)


NOTHING = {"degree": 1.0, "concavity": math.nan, "exponent": math.nan, "positive": False, "made": None, "order": None,
           "size": None}  # fmt: skip
LARGEST = torch.finfo(torch.float64).max


def excludes_all_numbers(call: Call) -> bool:
    """Whether a range that is given holds no number."""
    if not call.name.startswith(("clamp", "hardtanh")):
        return False
    low, high = call.arg(1, "min"), call.arg(2, "max")
    if call.name == "clamp_max":
        low, high = None, call.arg(1, "max")
    return low == math.inf or high == -math.inf


def real_settings(call: Call) -> Iterator[float]:
    """The real numbers among the arguments."""
    for value in (*call.args, *call.kwargs.values()):
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, float):
                yield item
            elif isinstance(item, int) and not isinstance(item, bool) and row_of(call.name).divisor is not None:
                yield float(item)


def mark_unknown(result: Result, mask: Tensor) -> Result:
    """A result some of whose elements nothing is known of: a product with zero does not say of which row its NaN is."""
    first, *others = result if isinstance(result, tuple) else (result,)
    bent = (either(field, mask) for field in (first.nonconvex, first.nonconcave, first.varies))
    line = (from_core(torch.tensor(end, dtype=torch.float64), first.shape) for end in (-math.inf, math.inf))
    names = ("nonconvex", "nonconcave", "varies", "lo", "hi")
    rows = elementwise(lambda lost, rows: torch.where(lost & (rows == 0), 3, rows), first.shape, mask, first.rows)
    first = replace(first, **dict(zip(names, (*bent, *line), strict=True)), rows=rows, undefined=True, **NOTHING)
    return (first, *others) if isinstance(result, tuple) else first
