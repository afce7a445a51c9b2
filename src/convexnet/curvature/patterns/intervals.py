"""Interval arithmetic with outward rounding, on tensors of float64: what is computed holds every real value.

Sums and products are rounded outwards unless they are exact, so that 1 - 2 * 0.5 is 0. Functions are evaluated at the
ends, where they are monotone, with a margin for what the library of the machine may be wrong by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

INF = math.inf
MARGIN = 1e-14
"""Relative error granted to elementary functions: some 45 units in the last place."""


@dataclass(frozen=True)
class IntervalValue:
    """All numbers from `lo` to `hi`, for each element; NaN becomes the whole line."""

    lo: Tensor
    hi: Tensor

    def __add__(self, other: IntervalValue | float) -> IntervalValue:
        b = interval(other)
        if self is ZERO or b is ZERO:
            return b if self is ZERO else self
        return IntervalValue(add_intervals(self.lo, b.lo, -INF), add_intervals(self.hi, b.hi, INF))

    def __neg__(self) -> IntervalValue:
        return self if self is ZERO else IntervalValue(-self.hi, -self.lo)

    def __sub__(self, other: IntervalValue | float) -> IntervalValue:
        return self + (-interval(other))

    def __mul__(self, other: IntervalValue | float) -> IntervalValue:
        b = interval(other)
        if self is ZERO or b is ZERO:
            return ZERO
        if self is ONE or b is ONE:
            return b if self is ONE else self
        if self.lo is self.hi and b.lo is b.hi:
            return IntervalValue(*multiply_intervals(self.lo, b.lo))
        alo, ahi, blo, bhi = torch.broadcast_tensors(self.lo, self.hi, b.lo, b.hi)
        low, high = multiply_intervals(torch.stack((alo, alo, ahi, ahi)), torch.stack((blo, bhi, blo, bhi)))
        return IntervalValue(low.amin(0), high.amax(0))

    def reciprocal(self) -> IntervalValue:
        """1/x; the whole line where the interval holds 0."""
        apart = (self.lo > 0) | (self.hi < 0)
        low, high = (torch.where(end == 0, math.nan, 1 / end) for end in (self.hi, self.lo))
        low = torch.where(apart, round_outward(low, -INF, 2 * EPS), -INF)
        return IntervalValue(low, torch.where(apart, round_outward(high, INF, 2 * EPS), INF))

    def square(self) -> IntervalValue:
        low = torch.where((self.lo <= 0) & (self.hi >= 0), 0.0, torch.minimum(self.lo.abs(), self.hi.abs()))
        high = torch.maximum(self.lo.abs(), self.hi.abs())
        return IntervalValue(multiply_intervals(low, low)[0].clamp(min=0.0), multiply_intervals(high, high)[1])

    def rising(self, function: Callable[[Tensor], Tensor], floor: float = -INF, ceiling: float = INF) -> IntervalValue:
        """A non-decreasing function, whose values lie between two numbers."""
        low, high = (round_outward(function(end), side, MARGIN) for end, side in ((self.lo, -INF), (self.hi, INF)))
        return IntervalValue(low.clamp(min=floor, max=ceiling), high.clamp(min=floor, max=ceiling))

    def clipped(self, floor: float, ceiling: float) -> IntervalValue:
        """The part of it in which the numbers are known to lie."""
        return IntervalValue(self.lo.clamp(min=floor, max=ceiling), self.hi.clamp(min=floor, max=ceiling))


EPS = torch.finfo(torch.float64).eps
EXACT = (0.0, 0.5, 1.0)


def round_outward(value: Tensor, side: float, relative: float) -> Tensor:
    """A computed bound with its error; the values that functions take at 0 are exact."""
    sign = -1.0 if side < 0 else 1.0
    exact = torch.stack([value == number for number in EXACT]).any(0)
    wide = value + sign * (relative * value.abs().nan_to_num(posinf=0.0) + 1e-300)
    return torch.where(exact, value, wide).nan_to_num(nan=side, posinf=INF, neginf=-INF)


def interval(value: IntervalValue | float | Tensor) -> IntervalValue:
    if isinstance(value, IntervalValue):
        return value
    if isinstance(value, float) and value in (0.0, 1.0):
        return ONE if value else ZERO
    tensor = torch.as_tensor(value, dtype=torch.float64)
    return IntervalValue(tensor, tensor)


def add_intervals(a: Tensor, b: Tensor, side: float) -> Tensor:
    total = a + b
    back = total - a
    exact = ((a - (total - back)) + (b - back)) == 0  # Knuth's two-sum
    end = torch.tensor(side, dtype=torch.float64)
    return torch.where(exact, total, torch.nextafter(total, end)).nan_to_num(nan=side, posinf=INF, neginf=-INF)


def multiply_intervals(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of products; zero times infinity is zero, as it is for ends of intervals."""
    nothing = (a == 0) | (b == 0)
    value = torch.where(nothing, 0.0, a * b)
    short = (a == a.float()) & (b == b.float()) & (value.abs() > 1e-290) & value.isfinite()
    exact = short | nothing
    low = torch.where(exact, value, torch.nextafter(value, BELOW)).nan_to_num(nan=-INF, posinf=INF, neginf=-INF)
    return low, torch.where(exact, value, torch.nextafter(value, ABOVE)).nan_to_num(nan=INF, posinf=INF, neginf=-INF)


BELOW, ABOVE = (torch.tensor(end, dtype=torch.float64) for end in (-INF, INF))
ZERO, ONE = (IntervalValue(end, end) for end in (torch.tensor(number, dtype=torch.float64) for number in (0.0, 1.0)))
