"""Sums of terms c x^a log(x)^b exp(k x): functions of one number whose second derivative is of the same kind.

So x log x, whose second derivative is 1/x, is proved convex down to zero, and x exp(x) from -2 to infinity, where
intervals say nothing. Coefficients are intervals, since constants are rounded and may differ between elements.

What cancels in a sum of terms leaves its rounding behind: (x + 1) - x is 1, and computed at 1e16 it is 0. In a sum this
is as small as rounding is. But no function is taken of it and nothing that varies is multiplied by it, for its sign and
its being zero are a matter of rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from convexnet.curvature.call import Call, Lost
from convexnet.curvature.facts import INF, Fact
from convexnet.curvature.patterns.expressions import evaluate
from convexnet.curvature.patterns.interpreter import combine
from convexnet.curvature.patterns.intervals import IntervalValue, interval
from convexnet.curvature.patterns.univariate import ShapeMasks, constant_interval

Key = tuple[float, int, float]
MOST = 12
"""Terms of a sum."""
KEPT = 1e-3
"""What a difference has to leave of its parts, so that it is as exact as they are."""


@dataclass(frozen=True)
class Terms:
    """The coefficient of each x^a log(x)^b exp(k x), by (a, b, k)."""

    of: Mapping[Key, IntervalValue]
    pole: bool = False  # it was divided by x somewhere, or a logarithm taken: at zero it is undefined
    half: bool = False  # a root or a logarithm was taken: below zero it is undefined, also where the terms are not
    cancelled: bool = False  # terms of the two signs met: what is computed of it is known up to their rounding only

    def __add__(self, other: Terms) -> Terms:
        found, cancelled = dict(self.of), self.cancelled or other.cancelled
        alone = self.of.keys() == other.of.keys() and len(self.of) == 1
        for key, c in other.of.items():
            if key in found:
                cancelled = cancelled or cancels(found[key], c, alone)
            found[key] = found[key] + c if key in found else c
        return without_zeros(found, self.pole or other.pole, self.half or other.half, cancelled)

    def __neg__(self) -> Terms:
        return Terms({key: -c for key, c in self.of.items()}, self.pole, self.half, self.cancelled)

    def __mul__(self, other: Terms) -> Terms:
        cancelled = self.cancelled or other.cancelled
        if cancelled and not (self.is_number or other.is_number):
            raise Lost
        for zero, factor in ((self, other), (other, self)):
            if not zero.of and any(b or a < 0 or not a.is_integer() for a, b, _ in factor.of):
                raise Lost  # zero times what is not defined everywhere, and the terms would not say where
        found: dict[Key, IntervalValue] = {}
        for (a, b, k), c in self.of.items():
            for (a2, b2, k2), c2 in other.of.items():
                key = add_exponents(a, a2), b + b2, add_exponents(k, k2)
                found[key] = found[key] + c * c2 if key in found else c * c2
        return without_zeros(found, self.pole or other.pole, self.half or other.half, cancelled)

    @property
    def is_number(self) -> bool:
        """Whether it is a number, as exact as the numbers that it was made of."""
        return not self.cancelled and self.of.keys() <= {(0.0, 0, 0.0)}

    def exact(self) -> Terms:
        """The same, for a function that is taken of it.

        Raises:
            Lost: it is known up to the rounding of larger numbers only.
        """
        if self.cancelled:
            raise Lost
        return self

    def derivative(self) -> Terms:
        found = Terms({})
        for (a, b, k), c in self.of.items():
            for key, factor in (((a - 1, b, k), a), ((a - 1, b - 1, k), b), ((a, b, k), k)):
                if factor:
                    found = found + Terms({key: c * float(factor)})
        return found

    @property
    def single(self) -> tuple[Key, IntervalValue]:
        """The only term."""
        if len(self.of) != 1:
            raise Lost
        (item,) = self.of.items()
        return item

    def exp(self) -> Terms:
        """Of k x + c, and of logarithms with a number in front."""
        result = Terms(number(interval(1.0)).of, self.pole, self.half)
        for (a, b, k), c in self.exact().of.items():
            exact = c.lo.numel() > 0 and bool((c.lo == c.hi).all()) and bool((c.lo == c.lo.flatten()[0]).all())
            if (a, b, k) == (0.0, 0, 0.0):
                result = result * number(c.rising(torch.exp, floor=0.0))
            elif (a, b, k) == (1.0, 0, 0.0) and exact:
                result = result * Terms({(0.0, 0, float(c.lo.flatten()[0])): interval(1.0)})
            else:
                raise Lost
        return result

    def positive(self, of: object, shift: float = 0.0) -> tuple[float, float, IntervalValue]:
        """a, k and c of the only term c x^a exp(k x), with c > 0.

        Raises:
            Rebase: there are two, and they are affine in the variable.
            Lost: it is none.
        """
        self.exact()
        if isinstance(of, Fact) and set(self.of) == {(1.0, 0, 0.0), (0.0, 0, 0.0)}:
            raise Rebase(of, shift)
        (a, b, k), c = self.single
        if b != 0 or not bool((c.lo > 0).all()):
            raise Lost
        return a, k, c

    def log(self, of: object, shift: float = 0.0) -> Terms:
        """Of one positive term."""
        a, k, c = self.positive(of, shift)
        found = Terms(number(c.rising(torch.log)).of, self.pole, self.half or not is_even(a))
        if a:
            found = found + Terms({(0.0, 1, 0.0): interval(a)}, pole=True)
        return found + Terms({(1.0, 0, 0.0): interval(k)}) if k else found

    def power(self, exponent: float, of: object) -> Terms:
        r = exponent
        if r not in (0.0, 1.0):
            self.exact()
        if r == -1 and set(self.of) <= {(0.0, 0, 0.0)}:
            return Terms(number(self.single[1].reciprocal()).of, self.pole, self.half)
        if r.is_integer() and 0 <= r <= 6:
            result = self if r else Terms(number(interval(1.0)).of, self.pole, self.half)
            for _ in range(int(r) - 1):
                result = result * self
            return result
        a, k, c = self.positive(of)
        if not r.is_integer() and is_even(a) and a != 0:
            raise Lost  # the root of x^2 is |x|
        factor = c if r == 1 else (c.rising(torch.log) * r).rising(torch.exp, floor=0.0)
        if Fraction(a) * Fraction(r) != Fraction(a * r) or Fraction(k) * Fraction(r) != Fraction(k * r):
            raise Lost
        factor = factor if bool((c.lo != 1).any()) or bool((c.hi != 1).any()) else c
        return Terms(
            {(a * r, 0, k * r): factor}, self.pole or a * r < 0, self.half or not (r.is_integer() or is_even(a))
        )


def is_even(a: float) -> bool:
    return a % 2 == 0


def add_exponents(a: float, b: float) -> float:
    """A sum of exponents that float64 holds; x^0.7 x^0.3 is not quite x."""
    if Fraction(a) + Fraction(b) != Fraction(a + b):
        raise Lost
    return a + b


def cancels(a: IntervalValue, b: IntervalValue, alone: bool) -> bool:
    """Whether a sum of two coefficients of one term is smaller than its parts; `alone`: there is no other term, and a
    difference that leaves enough is as exact as its parts."""
    alike = ((a.lo >= 0) & (b.lo >= 0)) | ((a.hi <= 0) & (b.hi <= 0))
    if bool(alike.all()):
        return False
    left, parts = a + b, (torch.maximum(end.lo.abs(), end.hi.abs()) for end in (a, b))
    least = torch.where((left.lo > 0) | (left.hi < 0), torch.minimum(left.lo.abs(), left.hi.abs()), 0.0)
    return not alone or not bool((alike | (least >= KEPT * sum(parts))).all())


def without_zeros(
    found: Mapping[Key, IntervalValue], pole: bool = False, half: bool = False, cancelled: bool = False
) -> Terms:
    kept = {key: c for key, c in found.items() if bool((c.lo != 0).any()) or bool((c.hi != 0).any())}
    if len(kept) > MOST:
        raise Lost
    return Terms(kept, pole, half, cancelled)


def number(value: IntervalValue) -> Terms:
    return without_zeros({(0.0, 0, 0.0): value})


VARIABLE = Terms({(1.0, 0, 0.0): interval(1.0)})


class Rebase(Exception):
    """A logarithm or a power of an affine expression: start again with that as the variable."""

    def __init__(self, fact: Fact, shift: float = 0.0) -> None:
        self.fact, self.shift = fact, shift


def terms_of(call: Call, given_terms: Mapping[int, Terms]) -> Terms:
    """An expression as a sum of terms, in a variable of which some facts are given."""
    rank = len(call.shape)

    def plain(part: object) -> Terms:
        return number(constant_interval(part, rank))

    def given(fact: Fact) -> Terms | None:
        found = given_terms.get(id(fact))
        return found if found is not None or not fact.constant else plain(fact)

    def apply(inner: Call, values: Mapping[int, Terms]) -> Terms:
        return combine(inner, lambda part: values[id(part)] if isinstance(part, Fact) else plain(part))

    return apply(call, {id(fact): evaluate(fact, given, apply) for fact in call.facts()})


# --- signs -----------------------------------------------------------------------------------------------------------


def shape_of(terms: Terms, lo: Tensor, hi: Tensor) -> ShapeMasks:
    """What the signs of the derivatives say, for x between two bounds."""
    first = terms.derivative()
    second = first.derivative()
    rising, falling = is_nonnegative(first, lo, hi), is_nonnegative(-first, lo, hi)
    convex, concave = is_nonnegative(second, lo, hi), is_nonnegative(-second, lo, hi)
    if terms.pole or any(a < 0 or b > 0 for a, b, _ in terms.of):
        logarithm = any(b > 0 for _, b, _ in terms.of) and not any(a < 0 for a, _, _ in terms.of)
        strict = lo >= 0 if logarithm else (lo > 0) | (hi < 0)  # what is computed at zero has the zero's sign
        rising, falling, convex, concave = (mask & strict for mask in (rising, falling, convex, concave))
    if terms.half:
        rising, falling, convex, concave = (mask & (lo >= 0) for mask in (rising, falling, convex, concave))
    return ShapeMasks(convex, concave, rising, falling)


def is_nonnegative(terms: Terms, lo: Tensor, hi: Tensor) -> Tensor:
    """Mask of the elements at which the sum is proved non-negative throughout."""
    if not terms.of:
        return torch.ones(torch.broadcast_shapes(lo.shape, hi.shape), dtype=torch.bool)
    whole = all(a.is_integer() and a >= 0 and b == 0 for a, b, _ in terms.of)
    inside = (lo >= 0) | torch.tensor(whole)
    least = min(a for a, _, _ in terms.of) if not whole else 0.0
    keys = {(a - least, b, k): c for (a, b, k), c in terms.of.items()}
    alike = len({k for _, _, k in keys}) == 1
    each = torch.ones((), dtype=torch.bool)
    for (a, b, _), c in keys.items():
        each = each & sign_of(a, b, c, lo, hi)
    found = each
    if alike and len(keys) <= 2 and all(b == 0 for _, b, _ in keys):
        found = found | is_nonnegative_at_both_ends({a: c for (a, _, _), c in keys.items()}, lo, hi)
    return (found & inside).expand(torch.broadcast_shapes(found.shape, lo.shape, hi.shape))


def sign_of(a: float, b: int, c: IntervalValue, lo: Tensor, hi: Tensor) -> Tensor:
    """Where c x^a log(x)^b is non-negative throughout."""
    one_sign = (lo >= 0) | torch.tensor(a.is_integer() and a % 2 == 0)
    up = one_sign & (c.lo >= 0)
    down = one_sign & (c.hi <= 0)
    if a.is_integer() and a % 2 == 1:
        up, down = up | ((hi <= 0) & (c.hi <= 0)), down | ((hi <= 0) & (c.lo >= 0))
    if b % 2 == 0:
        return up
    return (up & (lo >= 1)) | (down & (hi <= 1) & (lo >= 0))


def is_nonnegative_at_both_ends(found: Mapping[float, IntervalValue], lo: Tensor, hi: Tensor) -> Tensor:
    """c0 + c1 x^p with p > 0, monotone where x >= 0 or p is 1: non-negative if it is at both ends."""
    exponents = sorted(found)
    if exponents[0] != 0.0 or len(exponents) != 2:
        return torch.zeros((), dtype=torch.bool)
    (_, c0), (p, c1) = ((e, found[e]) for e in exponents)
    if p not in (1.0, 2.0):
        return torch.zeros((), dtype=torch.bool)
    ends: list[Tensor] = []
    for end in (lo, hi):
        x = IntervalValue(end, end) if p == 1.0 else IntervalValue(end, end).square()
        value = torch.where(end.isinf(), torch.where(end * c1.lo >= 0, INF, -INF), (c0 + c1 * x).lo)
        flat = (c1.lo == 0) & (c1.hi == 0)
        ends.append(torch.where(flat, c0.lo, value) >= 0)
    known_sign = (c1.lo >= 0) | (c1.hi <= 0)
    return ends[0] & ends[1] & known_sign & ((lo >= 0) | torch.tensor(p == 1.0))
