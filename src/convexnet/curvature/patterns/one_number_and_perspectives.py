"""What several operators make together: functions of one number, and perspectives of such functions.

A rule of the table sees one operator. Where its result is lost, the expression that led to it is looked at again: as a
function of one quantity u (x log x, x sigmoid(x) on a box), or as a function of two that is homogeneous of degree one.
The latter is y phi(x / y), the perspective of phi, and convex for y > 0 where phi is (Boyd & Vandenberghe, 3.2.6): the
relative entropy x log(x / y), y exp(x / y), x y / (x + y).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from convexnet.curvature.call import Call, Lost
from convexnet.curvature.facts import AFFINE, Fact, as_fact, has_holes
from convexnet.curvature.fields import core, elementwise, where_any
from convexnet.curvature.patterns import power_log_exp_sums as terms
from convexnet.curvature.patterns import univariate
from convexnet.curvature.patterns.expressions import evaluate, is_smooth, made_as
from convexnet.curvature.patterns.interpreter import combine
from convexnet.curvature.patterns.intervals import ONE, ZERO, IntervalValue, interval
from convexnet.curvature.patterns.jets import UNIT, Jet
from convexnet.curvature.patterns.power_log_exp_sums import Rebase, Terms
from convexnet.curvature.patterns.univariate import ShapeMasks, Variable
from convexnet.curvature.row import Row

ELEMENTS = 4096
"""For how many elements with bounds of their own a proof is made."""
STEPS, TRIES = 24, 3
"""How often an expression is opened further, and as a function of how many quantities it is looked at."""


def refine(call: Call, row: Row, result: Fact) -> Fact:
    """The result of a call, where its rule lost it, with what its expression as a whole says."""
    if not row.is_smooth or not where_any(result.unknown) or result.constant:
        return result
    tries = TRIES
    for variables in variable_sets(call):
        tries -= len(variables) == 1
        if tries < 0:
            break
        if len(variables) == 1:
            result = function_of_one(call, variables[0], result)
        elif len(variables) == 2 and all(fact.curvature == AFFINE for fact in variables):
            result = perspective(call, variables, result)
        if not where_any(result.unknown):
            break
    return result


def variable_sets(call: Call) -> Iterator[list[Fact]]:
    """The sets of one or two quantities that the expression is a function of, the nearest first."""
    found = {id(fact): fact for fact in call.facts() if not fact.constant}
    alone = len(call.args) == 1 or call.name in ("pow", "softplus")  # of which the rule has had its say
    if not (alone and len(found) == 1):
        yield list(found.values())
    for _ in range(STEPS):
        open_ones = [fact for fact in found.values() if made_as(fact, is_smooth) is not None]
        if not open_ones:
            return
        deepest = max(open_ones, key=lambda fact: fact.made.depth)
        del found[id(deepest)]
        found.update({id(fact): fact for fact in deepest.made.call.facts() if not fact.constant})
        yield list(found.values())


def bounds_on(call: Call, fact: Fact) -> tuple[Tensor, Tensor] | None:
    """The bounds of a quantity, for the elements of the result."""
    if len(fact.shape) > len(call.shape):
        return None
    shape = tuple(call.shape)
    try:
        lo, hi = torch.broadcast_tensors(*(core(end.expand(shape)).double() for end in (fact.lo, fact.hi)))
    except RuntimeError:
        return None
    return (lo, hi) if lo.numel() <= ELEMENTS else None


# --- functions of one quantity ---------------------------------------------------------------------------------------


def function_of_one(call: Call, u: Fact, result: Fact) -> Fact:
    bounds = bounds_on(call, u)
    if bounds is None or (u.undefined and where_any(u.unknown)):  # then there may be gaps between its points
        return result
    if any(has_holes(fact) for fact in call.read()):
        bounds = widen_bounds(u, call.shape, *bounds)
    jets: dict[int, Callable[[IntervalValue], Jet]] = {id(u): identity_jet}
    for shape in shapes_by_proof(call, {id(u): terms.VARIABLE}, jets, bounds, u.curvature == AFFINE):
        result = join_knowledge(result, univariate.compose_univariate([u], shape, call.shape))
        if not where_any(result.unknown):
            break
    return result


def widen_bounds(u: Fact, shape: Sequence[int], lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds with a number to spare where they may be reached in the midst of the domain: there a function that is not
    defined at a bound has a hole. A concave quantity is least, and a convex one largest, at the domain's edge only."""
    inside = (core(mask.expand(tuple(shape))) for mask in (u.nonconcave, u.nonconvex))
    ends = ((lo, -torch.inf), (hi, torch.inf))
    lo, hi = (
        torch.where(mask, end.nextafter(torch.full_like(end, line)), end)
        for mask, (end, line) in zip(inside, ends, strict=True)
    )
    return lo, hi


def identity_jet(at: IntervalValue) -> Jet:
    return Jet(at, ONE, ZERO)


def shapes_by_proof(
    call: Call,
    given: Mapping[int, Terms],
    jets: Mapping[int, Callable[[IntervalValue], Jet]],
    bounds: tuple[Tensor, Tensor],
    straight: bool,
) -> Iterator[ShapeMasks]:
    """What each proof finds of an expression as a function of one number."""
    with contextlib.suppress(Lost, Rebase, KeyError):
        yield shape_by_terms(call, given, bounds)
    found = univariate.shape_of(call, Variable(jets, *bounds, straight))
    if found is not None:
        yield found


def shape_by_terms(call: Call, given: Mapping[int, Terms], bounds: tuple[Tensor, Tensor]) -> ShapeMasks:
    """The proof by terms. Where a logarithm or a power is of an affine expression, that becomes the variable."""
    try:
        return terms.shape_of(terms.terms_of(call, given), *bounds)
    except Rebase as rebase:
        fact, shift = rebase.fact, terms.number(interval(rebase.shift))
    line = (given[id(fact)] if id(fact) in given else terms.terms_of(fact.made.call, given)) + shift
    if line.pole or not set(line.exact().of) <= {
        (1.0, 0, 0.0),
        (0.0, 0, 0.0),
    }:  # a pole is elsewhere in the new variable
        raise Lost
    slope, offset = (line.of.get(key, interval(0.0)) for key in ((1.0, 0, 0.0), (0.0, 0, 0.0)))
    span = IntervalValue(*bounds) * slope + offset
    back = (terms.VARIABLE + -terms.number(offset)) * terms.number(slope.reciprocal())
    moved = {key: back if value is terms.VARIABLE else value for key, value in given.items()}
    found = terms.terms_of(call, {**moved, id(fact): terms.VARIABLE + -shift})
    shape = terms.shape_of(found, *torch.broadcast_tensors(span.lo, span.hi))
    up, down = slope.lo > 0, slope.hi < 0
    rising, falling = (shape.rising & up) | (shape.falling & down), (shape.falling & up) | (shape.rising & down)
    return ShapeMasks(shape.convex & (up | down), shape.concave & (up | down), rising, falling)


# --- perspectives ----------------------------------------------------------------------------------------------------


def perspective(call: Call, variables: list[Fact], result: Fact) -> Fact:
    degree = degree_of(call, variables)
    if degree is None or (degree.h, degree.k) != (1.0, 0.0):
        return result
    for over, below in (variables, variables[::-1]):
        ends = bounds_on(call, over), bounds_on(call, below)
        if not below.is_positive or ends[0] is None or ends[1] is None:
            continue
        quotient = IntervalValue(*ends[0]) * IntervalValue(*ends[1]).reciprocal()
        lo, hi = torch.broadcast_tensors(quotient.lo, quotient.hi)
        if lo.numel() > ELEMENTS:
            continue
        jets: dict[int, Callable[[IntervalValue], Jet]] = {id(over): identity_jet, id(below): lambda _: UNIT}
        given = {id(over): terms.VARIABLE, id(below): terms.number(ONE)}
        for shape in shapes_by_proof(call, given, jets, (lo, hi), True):
            result = join_knowledge(result, univariate.compose_univariate(variables, shape, call.shape))
        if not where_any(result.unknown):
            break
    return result


@dataclass(frozen=True)
class Degree:
    """h and k: f(t x, t y) = t^h f(x, y) + k log t; and the value of what is one known number."""

    h: float = 0.0
    k: Fraction = Fraction(0)
    value: Fraction | None = None

    def __add__(self, other: Degree) -> Degree:
        if self.h != other.h or (self.h != 0 and (self.k or other.k)):
            raise Lost
        return Degree(self.h, self.k + other.k)

    def __neg__(self) -> Degree:
        return Degree(self.h, -self.k, None if self.value is None else -self.value)

    def __mul__(self, other: Degree) -> Degree:
        for log, factor in ((self, other), (other, self)):
            if log.k:  # k log t, times a number
                if factor.value is None:
                    raise Lost
                return Degree(0.0, log.k * factor.value)
        return Degree(self.h + other.h)

    def power(self, exponent: float, of: object) -> Degree:
        if self.k:
            raise Lost
        return Degree(self.h * exponent, value=1 / self.value if self.value and exponent == -1 else None)

    def exp(self) -> Degree:
        if self.h or Fraction(float(self.k)) != self.k:
            raise Lost
        return Degree(float(self.k))

    def log(self, of: object, shift: float = 0.0) -> Degree:
        if self.k:
            raise Lost
        return Degree(0.0, Fraction(self.h))


def degree_of_other(name: str, call: Call, value: Callable[[object], Degree]) -> Degree:
    """A call that is no arithmetic: of what does not change with t."""
    if any(value(fact).h or value(fact).k for fact in call.facts()):
        raise Lost
    return Degree()


def degree_of(call: Call, variables: list[Fact]) -> Degree | None:
    """The degree of homogeneity of an expression, if it has one."""
    ends = {id(fact) for fact in variables}

    def plain(part: object) -> Degree:
        known = as_fact(part).value
        one = known is not None and known.numel() == 1 and bool(known.isfinite())
        return Degree(value=Fraction(float(known)) if known is not None and one else None)

    def given(fact: Fact) -> Degree | None:
        return Degree(1.0) if id(fact) in ends else (plain(fact) if fact.constant else None)

    def apply(inner: Call, values: Mapping[int, Degree]) -> Degree:
        return combine(inner, lambda part: values[id(part)] if isinstance(part, Fact) else plain(part), degree_of_other)

    try:
        return apply(call, {id(fact): evaluate(fact, given, apply) for fact in call.facts()})
    except (Lost, KeyError):
        return None


# --- the result ------------------------------------------------------------------------------------------------------


def join_knowledge(result: Fact, found: Fact) -> Fact:
    """What is known of one result in two ways."""
    both = {
        name: elementwise(torch.logical_and, result.shape, getattr(result, name), getattr(found, name))
        for name in ("nonconvex", "nonconcave")
    }
    return replace(result, **both)
