"""What several operators make together: functions of one number, and perspectives of such functions.

A rule of the table sees one operator. Where its result is lost, the expression that led to it is looked at again: as a
function of one quantity u (x log x, x sigmoid(x) on a box), or as a function of two that is homogeneous of degree one.
The latter is y phi(x / y), the perspective of phi, and convex for y > 0 where phi is (Boyd & Vandenberghe, 3.2.6): the
relative entropy x log(x / y), y exp(x / y), x y / (x + y).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from convexnet.curvature import terms, univariate
from convexnet.curvature.call import Call
from convexnet.curvature.expressions import SMOOTH, evaluate, made_by
from convexnet.curvature.facts import AFFINE, Fact, Influence, as_fact, compose
from convexnet.curvature.fields import batched, core, elementwise, settled, uniform, where_any
from convexnet.curvature.intervals import ONE, ZERO, Interval, interval
from convexnet.curvature.terms import Rebase, Terms
from convexnet.curvature.univariate import UNIT, Jet, Lost, Shape, Variable

ELEMENTS = 4096
"""For how many elements with bounds of their own a proof is made."""
STEPS, TRIES = 24, 3
"""How often an expression is opened further, and as a function of how many quantities it is looked at."""


def refined(call: Call, result: Fact) -> Fact:
    """The result of a call, where its rule lost it, with what its expression as a whole says."""
    if call.name not in SMOOTH or not where_any(result.unknown) or result.constant:
        return result
    tries = TRIES
    for variables in frontiers(call):
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


def frontiers(call: Call) -> Iterator[list[Fact]]:
    """The sets of one or two quantities that the expression is a function of, the nearest first."""
    found = {id(fact): fact for fact in call.facts() if not fact.constant}
    alone = call.name in univariate.FUNCTIONS or call.name in ("pow", "softplus")  # of which the rule has had its say
    if not (alone and len(found) == 1):
        yield list(found.values())
    for _ in range(STEPS):
        open_ones = [fact for fact in found.values() if made_by(fact, *SMOOTH) is not None]
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
    if bounds is None:
        return result
    jets: dict[int, Callable[[Interval], Jet]] = {id(u): itself}
    for shape in shapes(call, {id(u): terms.VARIABLE}, jets, bounds, u.curvature == AFFINE):
        result = joined(result, composed(call, [u], shape))
        if not where_any(result.unknown):
            break
    return result


def itself(at: Interval) -> Jet:
    return Jet(at, ONE, ZERO)


def shapes(
    call: Call,
    given: Mapping[int, Terms],
    jets: Mapping[int, Callable[[Interval], Jet]],
    bounds: tuple[Tensor, Tensor],
    straight: bool,
) -> Iterator[Shape]:
    """What each proof finds of an expression as a function of one number."""
    with contextlib.suppress(Lost, Rebase, KeyError):
        yield by_terms(call, given, bounds)
    found = univariate.shape_of(call, Variable(jets, *bounds, straight))
    if found is not None:
        yield found


def by_terms(call: Call, given: Mapping[int, Terms], bounds: tuple[Tensor, Tensor]) -> Shape:
    """The proof by terms. Where a logarithm or a power is of an affine expression, that becomes the variable."""
    try:
        return terms.shape_of(terms.terms_of(call, given), *bounds)
    except Rebase as rebase:
        fact, shift = rebase.fact, terms.number(interval(rebase.shift))
    line = (given[id(fact)] if id(fact) in given else terms.terms_of(fact.made.call, given)) + shift
    if not set(line.of) <= {(1.0, 0, 0.0), (0.0, 0, 0.0)}:
        raise Lost
    slope, offset = (line.of.get(key, interval(0.0)) for key in ((1.0, 0, 0.0), (0.0, 0, 0.0)))
    span = Interval(*bounds) * slope + offset
    back = (terms.VARIABLE + -terms.number(offset)) * terms.number(slope.reciprocal())
    moved = {key: back if value is terms.VARIABLE else value for key, value in given.items()}
    found = terms.terms_of(call, {**moved, id(fact): terms.VARIABLE + -shift})
    shape = terms.shape_of(found, *torch.broadcast_tensors(span.lo, span.hi))
    up, down = slope.lo > 0, slope.hi < 0
    rising, falling = (shape.rising & up) | (shape.falling & down), (shape.falling & up) | (shape.rising & down)
    return Shape(shape.convex & (up | down), shape.concave & (up | down), rising, falling)


# --- perspectives ----------------------------------------------------------------------------------------------------


def perspective(call: Call, variables: list[Fact], result: Fact) -> Fact:
    if degree_of(call, variables) != (1.0, 0.0):
        return result
    for over, below in (variables, variables[::-1]):
        ends = bounds_on(call, over), bounds_on(call, below)
        if not below.is_positive or ends[0] is None or ends[1] is None:
            continue
        quotient = Interval(*ends[0]) * Interval(*ends[1]).reciprocal()
        lo, hi = torch.broadcast_tensors(quotient.lo, quotient.hi)
        if lo.numel() > ELEMENTS:
            continue
        jets: dict[int, Callable[[Interval], Jet]] = {id(over): itself, id(below): lambda _: UNIT}
        given = {id(over): terms.VARIABLE, id(below): terms.number(ONE)}
        for shape in shapes(call, given, jets, (lo, hi), True):
            result = joined(result, composed(call, variables, shape))
        if not where_any(result.unknown):
            break
    return result


Degree = tuple[float, float]
"""h and k: f(t x, t y) = t^h f(x, y) + k log t."""


def degree_of(call: Call, variables: list[Fact]) -> Degree | None:
    """The degree of homogeneity of an expression, if it has one."""
    ends = {id(fact) for fact in variables}

    def given(fact: Fact) -> Degree | None:
        return (1.0, 0.0) if id(fact) in ends else ((0.0, 0.0) if fact.constant else None)

    try:
        return homogeneous(call, {id(fact): evaluate(fact, given, homogeneous) for fact in call.facts()})
    except (Lost, KeyError):
        return None


def homogeneous(call: Call, degrees: Mapping[int, Degree]) -> Degree:
    def of(value: object) -> Degree:
        return degrees[id(value)] if isinstance(value, Fact) else (0.0, 0.0)

    args, name = call.args, call.name.removeprefix("special_")
    h, k = of(args[0])
    if name in ("add", "sub", "rsub"):
        g, j = of(args[1])
        if h != g or call.arg(2, "alpha", 1) != 1 or (h != 0 and (k or j)):
            raise Lost
        return h, (k + j if name == "add" else (k - j if name == "sub" else j - k))
    if name == "neg":
        return h, -k
    if name in ("mul", "div"):
        if call.kwargs.get("rounding_mode") is not None:
            raise Lost
        g, j = of(args[1])
        if k or j:
            return 0.0, multiple(name, args, k, j)
        return (h + g if name == "mul" else h - g), 0.0
    if name == "exp" and h == 0:
        return k, 0.0
    if k:
        raise Lost
    if name == "log":
        return 0.0, h
    if name == "xlogy" and of(args[1]) == (0.0, 0.0):
        return h, 0.0
    exponents = {"square": 2.0, "sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0}
    if name in exponents:
        return h * exponents[name], 0.0
    if name == "pow" and not isinstance(args[1], Fact):
        return h * float(args[1]), 0.0
    if any(of(arg) != (0.0, 0.0) for arg in args):
        raise Lost
    return 0.0, 0.0


def multiple(name: str, args: tuple[object, ...], k: float, j: float) -> float:
    """k log t, times or over a number."""
    factor = as_fact(args[1] if k else args[0])
    if (k and j) or factor.value is None or factor.value.numel() != 1 or (j and name == "div"):
        raise Lost
    number = float(factor.value)
    return (k + j) * number if name == "mul" else k / number


# --- the result ------------------------------------------------------------------------------------------------------


def composed(call: Call, variables: list[Fact], shape: Shape) -> Fact:
    """The composition theorem, for a function of these shape."""
    out = tuple(call.shape)
    convex, concave, rising, falling = (
        settled(mask.expand(torch.broadcast_shapes(mask.shape, [1] * len(out))), out)
        for mask in (shape.convex, shape.concave, shape.rising, shape.falling)
    )

    def unless(mask: Tensor) -> Tensor:
        return elementwise(torch.logical_not, out, mask)

    def gate(direction: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda mask: elementwise(torch.logical_and, out, mask.expand(out), direction)

    everywhere = uniform(True, out, torch.bool)
    up, down = (unless(falling), unless(rising)) if len(variables) == 1 else (everywhere, everywhere)
    influences = [
        Influence(fact, gate(up), gate(down), by_row=tuple(fact.shape) == out and batched(out)) for fact in variables
    ]
    return compose(influences, out, bends_up=unless(concave), bends_down=unless(convex))


def joined(result: Fact, found: Fact) -> Fact:
    """What is known of one result in two ways."""
    both = {
        name: elementwise(torch.logical_and, result.shape, getattr(result, name), getattr(found, name))
        for name in ("nonconvex", "nonconcave")
    }
    return replace(result, **both)
