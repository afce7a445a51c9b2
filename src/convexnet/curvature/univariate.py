"""Functions of one number that several operators make together: is x log x convex, on which range?

Two proofs, each by the sign of the second derivative. `terms` writes the function as a sum of c x^a log(x)^b exp(k x),
which may reach to infinity or to a pole. `jets` encloses value and derivatives in intervals, on as many pieces of a
bounded range as it takes. Neither looks at samples of the function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from convexnet.curvature.call import Call, Refusal
from convexnet.curvature.expressions import evaluate
from convexnet.curvature.facts import INF, Fact, as_fact
from convexnet.curvature.fields import core
from convexnet.curvature.intervals import Interval, interval

PIECES = (1, 8, 64, 512)
LARGEST = 1 << 15
"""How many pieces of all elements together are looked at."""


class Lost(Exception):
    """The expression is none that this proof covers."""


@dataclass(frozen=True)
class Jet:
    """Value, first and second derivative."""

    f: Interval
    d: Interval
    dd: Interval

    def through(self, g: Interval, gd: Interval, gdd: Interval) -> Jet:
        """The chain rule."""
        return Jet(g, gd * self.d, gdd * self.d.square() + gd * self.dd)

    def __add__(self, other: Jet) -> Jet:
        return Jet(self.f + other.f, self.d + other.d, self.dd + other.dd)

    def __neg__(self) -> Jet:
        return Jet(-self.f, -self.d, -self.dd)

    def __mul__(self, other: Jet) -> Jet:
        cross = self.d * other.d
        return Jet(
            self.f * other.f,
            self.f * other.d + self.d * other.f,
            self.f * other.dd + cross + cross + self.dd * other.f,
        )


def constant_jet(value: Interval) -> Jet:
    zero = interval(0.0)
    return Jet(value, zero, zero)


# --- functions and their derivatives ---------------------------------------------------------------------------------


def exp(x: Jet, rate: float = 1.0) -> Jet:
    if rate != 1.0:
        x = x * constant_jet(about(rate))
    g = x.f.rising(torch.exp, floor=0.0)
    return x.through(g, g, g)


def log(x: Jet) -> Jet:
    slope = x.f.reciprocal()
    defined = x.f.lo >= 0
    return x.through(*(told(part, defined) for part in (x.f.rising(torch.log), slope, -slope.square())))


def inverse(x: Jet) -> Jet:
    g = x.f.reciprocal()
    defined = (x.f.lo > 0) | (x.f.hi < 0)
    return x.through(*(told(part, defined) for part in (g, -g.square(), g * g.square() * 2.0)))


def told(part: Interval, defined: Tensor) -> Interval:
    """An interval, and the whole line where the function is not defined throughout."""
    return Interval(torch.where(defined, part.lo, -INF), torch.where(defined, part.hi, INF))


def power(x: Jet, r: float) -> Jet:
    if r in (0, 1):
        return x if r else UNIT
    if r == 2:
        return x.through(x.f.square(), x.f + x.f, interval(2.0))
    if float(r).is_integer():  # which are defined, and may be negative, on both sides of zero
        if r < 0:
            return inverse(power(x, -r))
        if r > 64:
            raise Lost
        return x * power(x, r - 1) if r <= 8 else power(power(x, r // 2), 2) * power(x, r % 2)
    return exp(log(x) * constant_jet(interval(float(r))))


def sigmoid_of(x: Interval) -> tuple[Interval, Interval]:
    """The logistic function at x and at -x."""
    return x.rising(torch.sigmoid, 0.0, 1.0), (-x).rising(torch.sigmoid, 0.0, 1.0)


def sigmoid(x: Jet) -> Jet:
    s, t = sigmoid_of(x.f)
    return x.through(s, s * t, s * t * (t - s))


def softplus(x: Jet, beta: float = 1.0, threshold: float = 20.0) -> Jet:
    if beta <= 0 or threshold < 20:
        raise Lost
    y = x * constant_jet(interval(float(beta)))
    s, t = sigmoid_of(y.f)
    g = y.f.rising(lambda v: torch.where(v > 40, v, v.exp().log1p()), floor=0.0)
    return y.through(g, s, s * t) * constant_jet(interval(float(beta)).reciprocal())


def tanh(x: Jet) -> Jet:
    t = x.f.rising(torch.tanh, -1.0, 1.0)
    slope = (interval(1.0) - t.square()).clipped(0.0, 1.0)
    return x.through(t, slope, -(t * slope * 2.0))


def erf(x: Jet) -> Jet:
    g = x.f.rising(torch.erf, -1.0, 1.0)
    slope = (-x.f.square()).rising(torch.exp, floor=0.0) * about(2 / math.sqrt(math.pi))
    return x.through(g, slope, -(x.f * slope * 2.0))


def hyperbolic(x: Jet, odd: bool) -> Jet:
    half = constant_jet(interval(0.5))
    up, down = exp(x), exp(-x)
    return (up + (-down if odd else down)) * half


def about(value: float) -> Interval:
    """A number that float64 holds nearly."""
    return Interval(*(torch.tensor(value * (1 + sign * 1e-15), dtype=torch.float64) for sign in (-1.0, 1.0)))


UNIT = constant_jet(interval(1.0))
FUNCTIONS: Mapping[str, Callable[[Jet], Jet]] = {
    "exp": exp,
    "exp2": lambda x: exp(x, math.log(2.0)),
    "expm1": lambda x: exp(x) + -UNIT,
    "log": log,
    "log2": lambda x: log(x) * constant_jet(about(1 / math.log(2.0))),
    "log10": lambda x: log(x) * constant_jet(about(1 / math.log(10.0))),
    "log1p": lambda x: log(UNIT + x),
    "special_log1p": lambda x: log(UNIT + x),
    "reciprocal": lambda x: power(x, -1),
    "square": lambda x: power(x, 2),
    "sqrt": lambda x: power(x, 0.5),
    "rsqrt": lambda x: power(x, -0.5),
    "neg": lambda x: -x,
    "sigmoid": sigmoid,
    "special_expit": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "tanh": tanh,
    "erf": erf,
    "special_erf": erf,
    "erfc": lambda x: UNIT + -erf(x),
    "log_sigmoid": lambda x: -softplus(-x),
    "sinh": lambda x: hyperbolic(x, odd=True),
    "cosh": lambda x: hyperbolic(x, odd=False),
    "special_entr": lambda x: -(x * log(x)),
}


def combined(call: Call, value: Callable[[object], Jet]) -> Jet:
    """A call of arithmetic, or of a function, on jets."""
    args = call.args
    if call.name in FUNCTIONS:
        return FUNCTIONS[call.name](value(args[0]))
    if call.name in ("add", "sub", "rsub"):
        a, b = value(args[0]), value(args[1])
        alpha = call.arg(2, "alpha", 1)
        if alpha != 1:
            a, b = (value(float(alpha)) * a, b) if call.name == "rsub" else (a, value(float(alpha)) * b)
        return a + b if call.name == "add" else (a + -b if call.name == "sub" else b + -a)
    if call.name == "mul":
        a, b = value(args[0]), value(args[1])
        return power(a, 2) if args[0] is args[1] else a * b
    if call.name == "div" and call.kwargs.get("rounding_mode") is None:
        return value(args[0]) * power(value(args[1]), -1)
    if call.name in ("xlogy", "special_xlogy"):
        return value(args[0]) * log(value(args[1]))
    if call.name == "softplus":
        return softplus(value(args[0]), call.arg(1, "beta", 1.0), call.arg(2, "threshold", 20.0))
    if call.name == "pow":
        return raised(call, value)
    raise Lost


def raised(call: Call, value: Callable[[object], Jet]) -> Jet:
    base, exponent = call.args[:2]
    if isinstance(exponent, Fact) and exponent.constant:
        if exponent.value is None or exponent.value.numel() != 1:
            raise Lost
        exponent = float(exponent.value)
    if isinstance(base, Fact) and not isinstance(exponent, Fact):
        return power(value(base), float(exponent))
    return exp(value(exponent) * log(value(base)))


# --- proofs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variable:
    """What an expression is a function of: facts that stand for it, with the jets of each as a function of u."""

    jets: Mapping[int, Callable[[Interval], Jet]]
    lo: Tensor
    hi: Tensor
    straight: bool  # it is affine, and which way the function goes does not matter


def at_number(fact: object, rank: int) -> Interval:
    """A constant of the expression: its value, or its bounds."""
    constant = as_fact(fact)
    ends = [core(bound).double() for bound in (constant.lo, constant.hi)]
    return Interval(*(end.reshape([1] * (rank - end.ndim) + list(end.shape)) for end in ends))


def jet_of(call: Call, variable: Variable, u: Interval) -> Jet:
    """The jet of an expression where its variable lies in an interval; dimension 0 of the interval counts pieces."""
    rank = len(call.shape) + 1

    def plain(part: object) -> Jet:
        return constant_jet(at_number(part, rank))

    def given(fact: Fact) -> Jet | None:
        if id(fact) in variable.jets:
            return variable.jets[id(fact)](u)
        return plain(fact) if fact.constant else None

    def apply(inner: Call, values: Mapping[int, Jet]) -> Jet:
        return combined(inner, lambda part: values[id(part)] if isinstance(part, Fact) else plain(part))

    parts = {id(fact): evaluate(fact, given, apply) for fact in call.facts()}
    return apply(call, parts)


@dataclass(frozen=True)
class Shape:
    """Masks of elements: where the function is proved convex, concave, non-decreasing and non-increasing."""

    convex: Tensor
    concave: Tensor
    rising: Tensor
    falling: Tensor


def shape_of(call: Call, variable: Variable) -> Shape | None:
    """What is proved of an expression as a function of its variable, by jets on pieces of its range."""
    lo, hi = variable.lo, variable.hi
    proofs: list[Tensor] = []
    try:
        jet = jet_of(call, variable, some_points(lo, hi))
    except (Lost, KeyError, Refusal):
        return None
    hopeless = ((jet.dd.hi < 0).any(0) & (jet.dd.lo > 0).any(0)) | (jet.dd.lo.isneginf() & jet.dd.hi.isposinf()).all(0)
    if bool(hopeless.all()):
        return None
    for pieces in PIECES:
        if pieces > 1 and (pieces * lo.numel() > LARGEST or not bool((lo.isfinite() & hi.isfinite()).any())):
            break
        jet = jet_of(call, variable, divided(lo, hi, pieces))
        tests = (jet.dd.lo >= 0, jet.dd.hi <= 0, jet.d.lo >= 0, jet.d.hi <= 0)
        shape = torch.broadcast_shapes(lo.shape, *(test.shape[1:] for test in tests))
        found = [test.all(0).expand(shape) for test in tests]
        proofs = found if not proofs else [old | new for old, new in zip(proofs, found, strict=True)]
        if bool((proofs[0] | proofs[1] | hopeless).all()):
            break
    if not proofs:
        return None
    return Shape(*proofs) if variable.straight else monotone(call, variable, Shape(*proofs))


def monotone(call: Call, variable: Variable, shape: Shape) -> Shape:
    """A convex function rises where it does so at the lower end of its range, and falls where it does at the upper."""
    low, high = (jet_of(call, variable, Interval(end[None], end[None])).d for end in (variable.lo, variable.hi))
    (a, b), (c, d) = ((slope.lo.amin(0), slope.hi.amax(0)) for slope in (low, high))
    free, bounded = variable.lo.isinf(), variable.hi.isfinite()  # at infinity products are not what limits are
    a, b = torch.where(free, -INF, a), torch.where(free, INF, b)
    c, d = torch.where(bounded, c, -INF), torch.where(bounded, d, INF)
    rising = shape.rising | (shape.convex & (a >= 0)) | (shape.concave & (c >= 0))
    return Shape(
        shape.convex, shape.concave, rising, shape.falling | (shape.convex & (d <= 0)) | (shape.concave & (b <= 0))
    )


def some_points(lo: Tensor, hi: Tensor) -> Interval:
    """A few numbers of the range: a function that bends both ways at these needs no proof."""
    low, high = lo.clamp(min=-30.0), hi.clamp(max=30.0)
    t = torch.tensor([0.0, 0.07, 0.3, 0.55, 0.8, 1.0], dtype=torch.float64).reshape(-1, *[1] * lo.ndim)
    points = torch.minimum(torch.maximum(low + (high - low) * t, lo), hi)
    return Interval(points, points)


def divided(lo: Tensor, hi: Tensor, pieces: int) -> Interval:
    """Intervals that cover the range, in a new dimension 0: of equal lengths, or of equal ratios above zero."""
    if pieces == 1:
        return Interval(lo[None], hi[None])
    t = torch.linspace(0.0, 1.0, pieces + 1, dtype=torch.float64).reshape(-1, *[1] * lo.ndim)
    straight = lo + (hi - lo) * t
    ratio = lo.clamp(min=1e-300) * (hi.clamp(min=1e-300) / lo.clamp(min=1e-300)) ** t
    ends = torch.where(lo > 0, ratio, straight)
    ends = torch.minimum(torch.maximum(ends, lo), hi)
    ends = torch.where(ends.isnan(), hi, ends)
    ends[0], ends[-1] = lo, hi
    ends = ends.cummax(0).values
    return Interval(ends[:-1], ends[1:])
