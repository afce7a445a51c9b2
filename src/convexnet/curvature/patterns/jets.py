"""Jets: a function of one number with its first two derivatives, each enclosed in an interval.

`interpreter` adds and multiplies them. The functions here are those that are no sums, products, powers, exponentials or
logarithms; the row of an operator names its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from convexnet.curvature.call import Call, Lost
from convexnet.curvature.facts import INF
from convexnet.curvature.patterns.intervals import IntervalValue, interval


@dataclass(frozen=True)
class Jet:
    """Value, first and second derivative. `fixed`: of a constant, and of nothing that moves and cancels."""

    f: IntervalValue
    d: IntervalValue
    dd: IntervalValue
    fixed: bool = False

    def through(self, g: IntervalValue, gd: IntervalValue, gdd: IntervalValue, defined: Tensor | None = None) -> Jet:
        """The chain rule. Where the function is not `defined` throughout, nothing is known, unless it is of a constant:
        x - x has no derivative either, but the sign of what is computed of it changes."""
        d, dd = gd * self.d, gdd * self.d.square() + gd * self.dd
        if defined is None or self.fixed or bool(defined.all()):
            return Jet(g, d, dd, self.fixed)
        return Jet(whole_line_unless(g, defined), whole_line_unless(d, defined), whole_line_unless(dd, defined))

    def __add__(self, other: Jet) -> Jet:
        return Jet(self.f + other.f, self.d + other.d, self.dd + other.dd, self.fixed and other.fixed)

    def __neg__(self) -> Jet:
        return Jet(-self.f, -self.d, -self.dd, self.fixed)

    def __mul__(self, other: Jet) -> Jet:
        cross = self.d * other.d
        parts = (
            self.f * other.f,
            self.f * other.d + self.d * other.f,
            self.f * other.dd + cross + cross + self.dd * other.f,
        )
        whole = ~(self.is_lost | other.is_lost)  # of which a product with zero would know everything
        fixed = self.fixed and other.fixed
        return (
            Jet(*parts, fixed=fixed)
            if bool(whole.all())
            else Jet(*(whole_line_unless(part, whole) for part in parts), fixed=fixed)
        )

    @property
    def is_lost(self) -> Tensor:
        """Where nothing is known, as of a function that is not defined throughout."""
        parts = torch.broadcast_tensors(*(end for part in (self.d, self.dd) for end in (part.lo, part.hi)))
        return torch.stack(parts).isinf().all(0)

    def exp(self, rate: float = 1.0) -> Jet:
        x = self if rate == 1.0 else self * constant_jet(enclose_number(rate))
        g = x.f.rising(torch.exp, floor=0.0)
        return x.through(g, g, g)

    def log(self, of: object = None, shift: float = 0.0) -> Jet:
        straight = (self.dd.lo == 0) & (self.dd.hi == 0)  # and then it is zero at an end of the range, if at all
        return self.logarithm((self.f.lo > 0) | ((self.f.lo == 0) & straight))

    def logarithm(self, defined: Tensor) -> Jet:
        slope = self.f.reciprocal()
        parts = (whole_line_unless(part, defined) for part in (self.f.rising(torch.log), slope, -slope.square()))
        return self.through(*parts, defined=defined)

    def inverse(self) -> Jet:
        g = self.f.reciprocal()
        defined = (self.f.lo > 0) | (self.f.hi < 0)
        parts = (whole_line_unless(part, defined) for part in (g, -g.square(), g * g.square() * 2.0))
        return self.through(*parts, defined=defined)

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
        # at zero it is zero; or infinite, of the sign that this zero has
        return (self.logarithm(self.f.lo >= 0 if r > 0 else self.f.lo > 0) * constant_jet(interval(float(r)))).exp()


def constant_jet(value: IntervalValue) -> Jet:
    zero = interval(0.0)
    return Jet(value, zero, zero, fixed=True)


# --- functions and their derivatives ---------------------------------------------------------------------------------


def whole_line_unless(part: IntervalValue, defined: Tensor) -> IntervalValue:
    """An interval, and the whole line where the function is not defined throughout."""
    return IntervalValue(torch.where(defined, part.lo, -INF), torch.where(defined, part.hi, INF))


def sigmoid_of(x: IntervalValue) -> tuple[IntervalValue, IntervalValue]:
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
    slope = (-x.f.square()).rising(torch.exp, floor=0.0) * enclose_number(2 / math.sqrt(math.pi))
    return x.through(g, slope, -(x.f * slope * 2.0))


def hyperbolic(x: Jet, odd: bool) -> Jet:
    half = constant_jet(interval(0.5))
    up, down = x.exp(), (-x).exp()
    return (up + (-down if odd else down)) * half


def enclose_number(value: float) -> IntervalValue:
    """A number that float64 holds nearly."""
    return IntervalValue(*(torch.tensor(value * (1 + sign * 1e-15), dtype=torch.float64) for sign in (-1.0, 1.0)))


UNIT = constant_jet(interval(1.0))


def exp2(x: Jet) -> Jet:
    return x.exp(math.log(2.0))


def log_of_base(base: float) -> Callable[[Jet], Jet]:
    return lambda x: x.log() * constant_jet(enclose_number(1 / math.log(base)))


def silu(x: Jet) -> Jet:
    return x * sigmoid(x)


def erfc(x: Jet) -> Jet:
    return UNIT + -erf(x)


def log_sigmoid(x: Jet) -> Jet:
    return -softplus(-x)


def sinh(x: Jet) -> Jet:
    return hyperbolic(x, odd=True)


def cosh(x: Jet) -> Jet:
    return hyperbolic(x, odd=False)


def softplus_of_call(x: Jet, call: Call) -> Jet:
    """softplus, with its settings."""
    return softplus(x, call.arg(1, "beta", 1.0), call.arg(2, "threshold", 20.0))
