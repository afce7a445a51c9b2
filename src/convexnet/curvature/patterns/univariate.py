"""Functions of one number that several operators make together: is x log x convex, on which range?

Two proofs, each by the sign of the second derivative. `power_log_exp_sums` writes the function as a sum of c x^a
log(x)^b exp(k x), which may reach to infinity or to a pole. `jets` encloses value and derivatives in intervals, on as
many pieces of a bounded range as it takes. Neither looks at samples of the function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convexnet.curvature.call import Call, Refusal
from convexnet.curvature.facts import INF, Fact, Influence, as_fact, compose
from convexnet.curvature.fields import batched, core, elementwise, settled, uniform
from convexnet.curvature.patterns.expressions import evaluate
from convexnet.curvature.patterns.interpreter import Lost, combined
from convexnet.curvature.patterns.intervals import Interval, interval

PIECES = (1, 8, 64, 512)
LARGEST = 1 << 15
"""How many pieces of all elements together are looked at."""


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
        parts = (
            self.f * other.f,
            self.f * other.d + self.d * other.f,
            self.f * other.dd + cross + cross + self.dd * other.f,
        )
        whole = ~(self.is_lost | other.is_lost)  # of which a product with zero would know everything
        return Jet(*parts) if bool(whole.all()) else Jet(*(told(part, whole) for part in parts))

    @property
    def is_lost(self) -> Tensor:
        """Where nothing is known, as of a function that is not defined throughout."""
        parts = torch.broadcast_tensors(*(end for part in (self.d, self.dd) for end in (part.lo, part.hi)))
        return torch.stack(parts).isinf().all(0)

    def exp(self, rate: float = 1.0) -> Jet:
        x = self if rate == 1.0 else self * constant_jet(about(rate))
        g = x.f.rising(torch.exp, floor=0.0)
        return x.through(g, g, g)

    def log(self, of: object = None, shift: float = 0.0) -> Jet:
        slope = self.f.reciprocal()
        defined = self.f.lo >= 0
        return self.through(*(told(part, defined) for part in (self.f.rising(torch.log), slope, -slope.square())))

    def inverse(self) -> Jet:
        g = self.f.reciprocal()
        defined = (self.f.lo > 0) | (self.f.hi < 0)
        return self.through(*(told(part, defined) for part in (g, -g.square(), g * g.square() * 2.0)))

    def power(self, exponent: float, of: object = None) -> Jet:
        r = exponent
        if r in (0, 1):
            return self if r else UNIT
        if r == 2:
            return self.through(self.f.square(), self.f + self.f, interval(2.0))
        if float(r).is_integer():  # which are defined, and may be negative, on both sides of zero
            if r < 0:
                return self.power(-r).inverse()
            if r > 64:
                raise Lost
            return self * self.power(r - 1) if r <= 8 else self.power(r // 2).power(2) * self.power(r % 2)
        return (self.log() * constant_jet(interval(float(r)))).exp()


def constant_jet(value: Interval) -> Jet:
    zero = interval(0.0)
    return Jet(value, zero, zero)


# --- functions and their derivatives ---------------------------------------------------------------------------------


def told(part: Interval, defined: Tensor) -> Interval:
    """An interval, and the whole line where the function is not defined throughout."""
    return Interval(torch.where(defined, part.lo, -INF), torch.where(defined, part.hi, INF))


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
    up, down = x.exp(), (-x).exp()
    return (up + (-down if odd else down)) * half


def about(value: float) -> Interval:
    """A number that float64 holds nearly."""
    return Interval(*(torch.tensor(value * (1 + sign * 1e-15), dtype=torch.float64) for sign in (-1.0, 1.0)))


UNIT = constant_jet(interval(1.0))
FUNCTIONS: Mapping[str, Callable[[Jet], Jet]] = {
    "exp2": lambda x: x.exp(math.log(2.0)),
    "log2": lambda x: x.log() * constant_jet(about(1 / math.log(2.0))),
    "log10": lambda x: x.log() * constant_jet(about(1 / math.log(10.0))),
    "sigmoid": sigmoid,
    "expit": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "tanh": tanh,
    "erf": erf,
    "erfc": lambda x: UNIT + -erf(x),
    "log_sigmoid": lambda x: -softplus(-x),
    "sinh": lambda x: hyperbolic(x, odd=True),
    "cosh": lambda x: hyperbolic(x, odd=False),
}


def function(name: str, call: Call, value: Callable[[object], Jet]) -> Jet:
    """A call that is no arithmetic."""
    if name == "softplus":
        return softplus(value(call.args[0]), call.arg(1, "beta", 1.0), call.arg(2, "threshold", 20.0))
    if name not in FUNCTIONS:
        raise Lost
    return FUNCTIONS[name](value(call.args[0]))


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
        return combined(inner, lambda part: values[id(part)] if isinstance(part, Fact) else plain(part), function)

    parts = {id(fact): evaluate(fact, given, apply) for fact in call.facts()}
    return apply(call, parts)


@dataclass(frozen=True)
class Shape:
    """Masks of elements: where the function is proved convex, concave, non-decreasing and non-increasing."""

    convex: Tensor
    concave: Tensor
    rising: Tensor
    falling: Tensor


def composed(variables: Sequence[Fact], shape: Shape, out: Sequence[int]) -> Fact:
    """The composition theorem for a function of some quantities; of one it is known which way the function goes."""
    out = tuple(out)
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
    return compose(influences, out, not_concave=unless(concave), not_convex=unless(convex))


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
