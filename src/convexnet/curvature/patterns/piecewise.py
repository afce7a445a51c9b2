"""Functions of one number that are given piece by piece, in exact arithmetic: what is written with comparisons.

A piece is a sum of powers of u times exponentials, logarithms and reciprocals of such sums, with rational coefficients:
every float is a rational number. So two pieces meet at a threshold or they do not, and a slope rises there or not; a
tolerance decides nothing. What goes beyond such sums is `Unfit`.

Long because sums, functions and what is known of them are one piece of algebra.
"""

from __future__ import annotations

import decimal
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from itertools import pairwise
from math import isqrt

Atom = tuple[str, tuple[tuple["Key", Fraction], ...]]
Key = tuple[int, tuple[Atom, ...]]
Sum = dict[Key, Fraction]
"""Coefficients of u^n times atoms: {(n, atoms): coefficient}, none of them zero."""

ONE: Key = (0, ())
MOST = 48
"""Terms of a sum, and thresholds of a function, of which no more are followed."""


class Unfit(Exception):
    """A function that cannot be written in this way, or whose pieces cannot be ordered."""


# --- sums ------------------------------------------------------------------------------------------------------------


def number(value: float | Fraction) -> Sum:
    try:
        value = Fraction(value)
    except (ValueError, OverflowError):
        raise Unfit from None
    return {ONE: value} if value else {}


def add_multiple(a: Sum, b: Sum, factor: int = 1) -> Sum:
    found = dict(a)
    for key, value in b.items():
        new = found.pop(key, Fraction(0)) + factor * value
        if new:
            found[key] = new
    return found


def multiply(a: Sum, b: Sum) -> Sum:
    found: Sum = {}
    if len(a) * len(b) > MOST:
        raise Unfit
    for (n, atoms), value in a.items():
        for (m, others), other in b.items():
            found = add_multiple(found, {(n + m, tuple(sorted((*atoms, *others)))): value * other})
    return found


def as_key(inner: Sum) -> tuple[tuple[Key, Fraction], ...]:
    return tuple(sorted(inner.items()))


def atom(kind: str, inner: Sum) -> Sum:
    """exp, log or inv (the reciprocal) of a sum."""
    if set(inner) <= {ONE}:
        value = inner.get(ONE, Fraction(0))
        if kind == "exp" and value == 0:
            return number(1)
        if kind == "log" and value == 1:
            return {}
        if kind == "inv" and value != 0:
            return number(1 / value)
        if kind != "exp" and value <= 0:
            raise Unfit
    return {(0, ((kind, as_key(inner)),)): Fraction(1)}


def value_at(a: Sum, u: Fraction) -> Sum:
    """The value at a point: a sum without u."""
    found: Sum = {}
    for (n, atoms), value in a.items():
        part = number(value * u**n)
        for kind, inner in atoms:
            part = multiply(part, atom(kind, value_at(dict(inner), u)))
        found = add_multiple(found, part)
    return found


def slope(a: Sum) -> Sum:
    """The derivative."""
    found: Sum = {}
    for (n, atoms), value in a.items():
        if n:
            found = add_multiple(found, {(n - 1, atoms): value * n})
        for i, (kind, inner) in enumerate(atoms):
            own = slope(dict(inner))
            if kind == "log":
                own = multiply(own, atom("inv", dict(inner)))
            elif kind == "exp":
                own = multiply(own, atom("exp", dict(inner)))
            else:
                own = multiply(multiply(own, number(-1)), multiply(atom("inv", dict(inner)), atom("inv", dict(inner))))
            found = add_multiple(found, multiply({(n, (*atoms[:i], *atoms[i + 1 :])): value}, own))
    return found


def sign_of(a: Sum) -> int:
    """The sign of a number; one that 60 digits do not distinguish from zero, and is not zero in form, is Unfit."""
    if not a:
        return 0
    if set(a) == {ONE}:
        return 1 if a[ONE] > 0 else -1
    with decimal.localcontext() as context:
        context.prec = 60
        terms = [term(key, value) for key, value in a.items()]
        total, size = sum(terms, decimal.Decimal(0)), sum(map(abs, terms), decimal.Decimal(0))
        if abs(total) <= size * decimal.Decimal("1e-40"):
            raise Unfit
        return 1 if total > 0 else -1


def term(key: Key, value: Fraction) -> decimal.Decimal:
    found = decimal.Decimal(value.numerator) / decimal.Decimal(value.denominator)
    for kind, inner in key[1]:
        argument = sum((term(k, v) for k, v in inner), decimal.Decimal(0))
        if abs(argument) > 10_000 or (kind != "exp" and argument <= 0):
            raise Unfit
        found *= argument.exp() if kind == "exp" else argument.ln() if kind == "log" else 1 / argument
    return found


# --- signs over intervals --------------------------------------------------------------------------------------------

End = Fraction | None
"""An end of an interval; None: it has none."""


def polynomial(a: Sum) -> list[Fraction] | None:
    """The coefficients, from the constant one on, of a sum without atoms and at most quadratic."""
    if any(atoms or n > 2 for n, atoms in a):
        return None
    return [a.get((n, ()), Fraction(0)) for n in range(3)]


def least_value(coefficients: Sequence[Fraction], low: End, high: End) -> Fraction | None:
    """The least value of a quadratic polynomial over an interval; None: it has none."""
    c, b, a = coefficients
    points = [end for end in (low, high) if end is not None]
    if a > 0:
        lowest = -b / (2 * a)
        inside = (low is None or low < lowest) and (high is None or lowest < high)
        points = [lowest] if inside else points
    elif a < 0 and (low is None or high is None):
        return None
    elif a == 0 and ((low is None and b > 0) or (high is None and b < 0)):
        return None
    elif a == 0 and not points:
        return c
    return min(c + b * p + a * p * p for p in points)


def is_nonnegative(a: Sum, low: End, high: End) -> bool:
    """Whether a sum is known not to be negative over an interval."""
    coefficients = polynomial(a)
    if coefficients is not None:
        found = least_value(coefficients, low, high)
        return found is not None and found >= 0
    return all(value * term_sign(n, atoms, low, high) > 0 for (n, atoms), value in a.items())


def term_sign(n: int, atoms: Sequence[Atom], low: End, high: End) -> int:
    """The sign of u^n times atoms over an interval; 0: not known."""
    found = 1
    if n % 2:
        found = 1 if low is not None and low >= 0 else -1 if high is not None and high <= 0 else 0
    for kind, inner in atoms:
        if kind == "inv" and not is_positive(dict(inner), low, high):
            found = 0
        if kind == "log":
            found = 0
    return found


def is_positive(a: Sum, low: End, high: End) -> bool:
    """Whether a sum is known to be positive over a closed interval."""
    coefficients = polynomial(a)
    found = None if coefficients is None else least_value(coefficients, low, high)
    return found is not None and found > 0


def is_defined(a: Sum, low: End, high: End) -> bool:
    """Whether logarithms and reciprocals in it are of positive numbers, over a closed interval."""
    for _, atoms in a:
        for kind, inner in atoms:
            if (kind != "exp" and not is_positive(dict(inner), low, high)) or not is_defined(dict(inner), low, high):
                return False
    return True


# --- functions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piecewise:
    """A function of u.

    Attributes:
        breaks: thresholds, in order.
        pieces: between them; one more than there are thresholds.
        points: the values at the thresholds.
    """

    breaks: tuple[Fraction, ...]
    pieces: tuple[Sum, ...]
    points: tuple[Sum, ...]

    def split(self, breaks: Sequence[Fraction]) -> Piecewise:
        """The same function with more thresholds."""
        joined = sorted({*self.breaks, *breaks})
        if len(joined) > MOST:
            raise Unfit
        own = dict(zip(self.breaks, self.points, strict=True))
        pieces = [self.pieces[sum(b <= left for b in self.breaks)] for left in joined]
        points = tuple(own[b] if b in own else value_at(self.piece_at(b), b) for b in joined)
        return Piecewise(tuple(joined), (self.pieces[0], *pieces), points)

    def piece_at(self, u: Fraction) -> Sum:
        """The piece right of u, or around it."""
        return self.pieces[sum(b <= u for b in self.breaks)]

    def intervals(self) -> list[tuple[End, End]]:
        ends: list[End] = [None, *self.breaks, None]
        return list(pairwise(ends))

    def __add__(self, other: Piecewise) -> Piecewise:
        return require_defined(self, other, join_pieces(add_multiple, self, other))

    def __neg__(self) -> Piecewise:
        return self.mapped(lambda s: add_multiple({}, s, -1))

    def __mul__(self, other: Piecewise) -> Piecewise:
        return require_defined(self, other, join_pieces(multiply, self, other))

    def power(self, exponent: float, of: object = None) -> Piecewise:
        if exponent == -1:
            return self.mapped(lambda s: atom("inv", s))
        if not exponent.is_integer() or not 0 <= exponent <= 4:
            raise Unfit
        return reduce(operator.mul, [self] * int(exponent), constant_function(1))

    def exp(self) -> Piecewise:
        return self.mapped(lambda s: atom("exp", s))

    def log(self, of: object = None, shift: float = 0.0) -> Piecewise:
        return self.mapped(lambda s: atom("log", s))

    def mapped(self, change: Callable[[Sum], Sum]) -> Piecewise:
        return Piecewise(self.breaks, tuple(map(change, self.pieces)), tuple(map(change, self.points)))


U = Piecewise((), ({(1, ()): Fraction(1)},), ())


def constant_function(value: float | Fraction) -> Piecewise:
    return Piecewise((), (number(value),), ())


def join_pieces(change: Callable[[Sum, Sum], Sum], f: Piecewise, g: Piecewise) -> Piecewise:
    f, g = f.split(g.breaks), g.split(f.breaks)
    pieces = tuple(change(a, b) for a, b in zip(f.pieces, g.pieces, strict=True))
    return Piecewise(f.breaks, pieces, tuple(change(a, b) for a, b in zip(f.points, g.points, strict=True)))


def require_defined(f: Piecewise, g: Piecewise, result: Piecewise) -> Piecewise:
    """The result, where logarithms and reciprocals stay in it: 0 log(u) is undefined where log(u) is."""
    before = (a + b for a, b in zip(*(map(poles_of, h.split(result.breaks).pieces) for h in (f, g)), strict=True))
    if any(set(parts) - set(poles_of(piece)) for parts, piece in zip(before, result.pieces, strict=True)):
        raise Unfit
    return result


def poles_of(a: Sum) -> list[Atom]:
    """The logarithms and reciprocals in a sum."""
    return [part for _, atoms in a for part in atoms if part[0] != "exp"]


def sign_function(f: Piecewise) -> Piecewise:
    """-1, 0 or 1: the sign, with thresholds where it changes."""
    roots: list[Fraction] = []
    for piece in f.pieces:
        coefficients = polynomial(piece)
        if coefficients is None:
            raise Unfit
        roots += roots_of(coefficients)
    f = f.split(roots)
    middles = [middle(low, high) for low, high in f.intervals()]
    pieces = tuple(number(sign_of(value_at(piece, u))) for piece, u in zip(f.pieces, middles, strict=True))
    return Piecewise(f.breaks, pieces, tuple(number(sign_of(point)) for point in f.points))


def roots_of(coefficients: Sequence[Fraction]) -> list[Fraction]:
    """The real zeros of a polynomial; those that are not rational are Unfit."""
    c, b, a = coefficients
    if a == 0:
        return [-c / b] if b else []
    square = b * b - 4 * a * c
    if square < 0:
        return []
    n, d = square.numerator, square.denominator
    if isqrt(n) ** 2 != n or isqrt(d) ** 2 != d:
        raise Unfit
    root = Fraction(isqrt(n), isqrt(d))
    return [(-b - root) / (2 * a), (-b + root) / (2 * a)]


def middle(low: End, high: End) -> Fraction:
    if low is None or high is None:
        return Fraction(0) if low is None and high is None else high - 1 if low is None else low + 1  # pyright: ignore[reportOptionalOperand]
    return (low + high) / 2


def compare(f: Piecewise, g: Piecewise, holds: Callable[[int, int], bool]) -> Piecewise:
    """1 where a comparison of f and g holds, else 0."""
    return sign_function(f + -g).mapped(lambda s: number(int(holds(int(s.get(ONE, Fraction(0))), 0))))


def choose(mask: Piecewise, f: Piecewise, g: Piecewise) -> Piecewise:
    """f where the mask is not zero, else g."""
    breaks = sorted({*mask.breaks, *f.breaks, *g.breaks})
    mask, f, g = mask.split(breaks), f.split(breaks), g.split(breaks)
    if any(set(value) - {ONE} for value in (*mask.pieces, *mask.points)):
        raise Unfit
    pieces = tuple(a if m else b for m, a, b in zip(mask.pieces, f.pieces, g.pieces, strict=True))
    return Piecewise(
        f.breaks, pieces, tuple(a if m else b for m, a, b in zip(mask.points, f.points, g.points, strict=True))
    )


def larger(f: Piecewise, g: Piecewise) -> Piecewise:
    return choose(compare(f, g, lambda a, b: a > b), f, g)


def smaller(f: Piecewise, g: Piecewise) -> Piecewise:
    return choose(compare(f, g, lambda a, b: a < b), f, g)


def absolute_value(f: Piecewise) -> Piecewise:
    return choose(compare(f, constant_function(0), lambda a, b: a >= b), f, -f)


# --- what is known of one --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """What a function is over an interval."""

    convex: bool = False
    concave: bool = False
    rising: bool = False
    falling: bool = False
    nonneg: bool = False
    nonpos: bool = False


def shape_of(f: Piecewise, low: End, high: End) -> Shape:
    """What a function is over [low, high]. Of one that is not continuous nothing is claimed."""
    spans: list[tuple[Sum, End, End]] = []
    for piece, (left, right) in zip(f.pieces, f.intervals(), strict=True):
        left = low if left is None or (low is not None and left < low) else left
        right = high if right is None or (high is not None and right > high) else right
        if left is None or right is None or left < right:
            spans.append((piece, left, right))
    if not spans or not all(is_defined(*span) for span in spans):
        return Shape()
    turns: list[int] = []
    for point, b in zip(f.points, f.breaks, strict=True):
        here = [(piece, left == b) for piece, left, right in spans if b in (left, right)]
        if any(add_multiple(value_at(piece, b), point, -1) for piece, _ in here):
            return Shape()
        if len(here) == 2:
            before, after = sorted(here, key=lambda item: item[1])
            turns.append(sign_of(add_multiple(value_at(slope(after[0]), b), value_at(slope(before[0]), b), -1)))

    def all_of(change: Callable[[Sum], Sum], sign: int) -> bool:
        return all(is_nonnegative(multiply(change(p), number(sign)), left, right) for p, left, right in spans)

    return Shape(
        convex=all(turn >= 0 for turn in turns) and all_of(lambda p: slope(slope(p)), 1),
        concave=all(turn <= 0 for turn in turns) and all_of(lambda p: slope(slope(p)), -1),
        rising=all_of(slope, 1),
        falling=all_of(slope, -1),
        nonneg=all_of(lambda p: p, 1),
        nonpos=all_of(lambda p: p, -1),
    )
