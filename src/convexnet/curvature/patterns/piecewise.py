"""Functions of one number that are given piece by piece, in exact arithmetic: what is written with comparisons.

A piece is a sum of powers of u times exponentials, logarithms and reciprocals of such sums, with rational coefficients:
every float is a rational number. So two pieces meet at a threshold or they do not, and a slope rises there or not; a
tolerance decides nothing. What goes beyond such sums is `Unfit`.

The program computes with rounding. Where it compares numbers whose difference is no larger than their rounding, as
(x + 1) - x with 1, the outcome is `UNSURE`, and a choice by it says something only if both its sides are the same.

Long because sums, functions and what is known of them are one piece of algebra.
"""

from __future__ import annotations

import decimal
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
    if kind == "unsure":
        return dict(UNSURE)
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


# --- rounding --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rounding:
    """By what a computed sum may be wrong: a little of itself (`relative`), which leaves its sign right, and a little
    of larger numbers on the way to it, `floor`, a sum in the absolute value of u."""

    relative: bool = False
    floor: Sum = field(default_factory=dict[Key, Fraction])

    def of(self, a: Sum) -> Sum:
        """What the errors of a sum are relative to."""
        return add_multiple(self.floor, absolute(a)) if self.relative else self.floor

    def plus(self, a: Sum, other: Rounding, b: Sum) -> Rounding:
        """Of a + b."""
        if not a and not self.floor:
            return other
        if not b and not other.floor:
            return self
        return Rounding(True, add_multiple(self.of(a), other.of(b)))

    def times(self, a: Sum, other: Rounding, b: Sum) -> Rounding:
        """Of a b."""
        floor = add_multiple(multiply(absolute(b), self.floor), multiply(absolute(a), other.floor))
        exact = is_power_of_two(a) or is_power_of_two(b)
        return Rounding(self.relative or other.relative or not exact, floor)

    def through(self, kind: str, a: Sum) -> Rounding:
        """Of exp, log or inv of a.

        Raises:
            Unfit: a is known up to the rounding of larger numbers only.
        """
        if any(abs(a.get(key, Fraction(0))) * CLEAR < value for key, value in self.floor.items()):
            raise Unfit
        return Rounding(True, {ONE: Fraction(1)} if kind == "log" else {})


ROUNDED = Fraction(1, 1 << 46)
"""Relative error granted to sums of a few terms in float64."""
NEAR = Fraction(1, 10**7)
"""By how much rounding may move a threshold, relative to 1 and to itself."""
CLEAR = 10**6
"""By how much numbers on the way may be larger than what is left of them."""
UNSURE: Sum = {(0, (("unsure", ()),)): Fraction(1)}
"""A number that is a matter of rounding."""


def absolute(a: Sum) -> Sum:
    return {key: abs(value) for key, value in a.items()}


def is_power_of_two(a: Sum) -> bool:
    """Whether a sum is zero, or a number by which products are exact."""
    if set(a) != {ONE}:
        return not a
    return all(n & (n - 1) == 0 for n in (abs(a[ONE].numerator), a[ONE].denominator))


def is_firm(a: Sum, sign: int, floor: Sum, low: End, high: End, near: Fraction = NEAR) -> bool:
    """Whether a sum keeps its sign over an interval, whatever is lost to rounding, but for what is `near` a zero of it
    at an end."""
    value, error = polynomial(a), polynomial(floor)
    if value is None or error is None:
        return False
    if low is not None and not value_at(a, low):
        low += near * (1 + abs(low))
    if high is not None and not value_at(a, high):
        high -= near * (1 + abs(high))
    for side in (1, -1):  # of zero, where u is its absolute value, or less that
        left = Fraction(0) if side > 0 and (low is None or low < 0) else low
        right = Fraction(0) if side < 0 and (high is None or high > 0) else high
        if left is None or right is None or left <= right:
            signs_ = (1, side, 1)
            rest = [sign * v - ROUNDED * e * turn for v, e, turn in zip(value, error, signs_, strict=True)]
            found = least_value(rest, left, right)
            if found is None or found < 0:
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
        errors: by what the pieces may be wrong, as they are computed.
    """

    breaks: tuple[Fraction, ...]
    pieces: tuple[Sum, ...]
    points: tuple[Sum, ...]
    errors: tuple[Rounding, ...]

    def split(self, breaks: Sequence[Fraction]) -> Piecewise:
        """The same function with more thresholds."""
        joined = sorted({*self.breaks, *breaks})
        if len(joined) > MOST:
            raise Unfit
        own = dict(zip(self.breaks, self.points, strict=True))
        places = [0, *(sum(b <= left for b in self.breaks) for left in joined)]
        points = tuple(own[b] if b in own else value_at(self.piece_at(b), b) for b in joined)
        pieces, errors = tuple(self.pieces[i] for i in places), tuple(self.errors[i] for i in places)
        return Piecewise(tuple(joined), pieces, points, errors)

    def piece_at(self, u: Fraction) -> Sum:
        """The piece right of u, or around it."""
        return self.pieces[sum(b <= u for b in self.breaks)]

    def intervals(self) -> list[tuple[End, End]]:
        ends: list[End] = [None, *self.breaks, None]
        return list(pairwise(ends))

    def __add__(self, other: Piecewise) -> Piecewise:
        return require_defined(self, other, join_pieces(add_multiple, Rounding.plus, self, other))

    def __neg__(self) -> Piecewise:
        return self.mapped(lambda s: add_multiple({}, s, -1), self.errors)

    def __mul__(self, other: Piecewise) -> Piecewise:
        return require_defined(self, other, join_pieces(multiply, Rounding.times, self, other))

    def power(self, exponent: float, of: object = None) -> Piecewise:
        if exponent == -1:
            return self.of_atoms("inv")
        if not exponent.is_integer() or not 0 <= exponent <= 4:
            raise Unfit
        return reduce(operator.mul, [self] * int(exponent), constant_function(1))

    def exp(self) -> Piecewise:
        return self.of_atoms("exp")

    def log(self, of: object = None, shift: float = 0.0) -> Piecewise:
        return self.of_atoms("log")

    def of_atoms(self, kind: str) -> Piecewise:
        errors = tuple(error.through(kind, piece) for error, piece in zip(self.errors, self.pieces, strict=True))
        return self.mapped(lambda s: atom(kind, s), errors)

    def mapped(self, change: Callable[[Sum], Sum], errors: tuple[Rounding, ...] | None = None) -> Piecewise:
        """Each piece changed; without `errors` the results are exact."""
        errors = tuple(Rounding() for _ in self.pieces) if errors is None else errors
        return Piecewise(self.breaks, tuple(map(change, self.pieces)), tuple(map(change, self.points)), errors)


U = Piecewise((), ({(1, ()): Fraction(1)},), (), (Rounding(),))


def constant_function(value: float | Fraction) -> Piecewise:
    return Piecewise((), (number(value),), (), (Rounding(),))


def join_pieces(
    change: Callable[[Sum, Sum], Sum],
    error: Callable[[Rounding, Sum, Rounding, Sum], Rounding],
    f: Piecewise,
    g: Piecewise,
) -> Piecewise:
    f, g = f.split(g.breaks), g.split(f.breaks)
    pieces = tuple(change(a, b) for a, b in zip(f.pieces, g.pieces, strict=True))
    points = tuple(change(a, b) for a, b in zip(f.points, g.points, strict=True))
    errors = tuple(map(error, f.errors, f.pieces, g.errors, g.pieces))
    return Piecewise(f.breaks, pieces, points, errors)


def require_defined(f: Piecewise, g: Piecewise, result: Piecewise) -> Piecewise:
    """The result, where logarithms and reciprocals stay in it: 0 log(u) is undefined where log(u) is."""
    before = (a + b for a, b in zip(*(map(poles_of, h.split(result.breaks).pieces) for h in (f, g)), strict=True))
    if any(set(parts) - set(poles_of(piece)) for parts, piece in zip(before, result.pieces, strict=True)):
        raise Unfit
    return result


def poles_of(a: Sum) -> list[Atom]:
    """The logarithms and reciprocals in a sum."""
    return [part for _, atoms in a for part in atoms if part[0] != "exp"]


def sign_function(f: Piecewise, exact: bool = False) -> Piecewise:
    """-1, 0 or 1: the sign, with thresholds where it changes; `exact`: in exact arithmetic, and never unsure."""
    roots: list[Fraction] = []
    for piece in f.pieces:
        if piece == UNSURE:
            continue
        coefficients = polynomial(piece)
        if coefficients is None:
            raise Unfit
        roots += roots_of(coefficients)
    f = f.split(roots)
    middles = [middle(low, high) for low, high in f.intervals()]
    found = [0 if p == UNSURE else sign_of(value_at(p, u)) for p, u in zip(f.pieces, middles, strict=True)]
    points = tuple(UNSURE if p == UNSURE else number(sign_of(p)) for p in f.points)
    unsure = [p == UNSURE or not (exact or is_sure(f, i, found)) for i, p in enumerate(f.pieces)]
    pieces = tuple(UNSURE if doubt else number(sign) for sign, doubt in zip(found, unsure, strict=True))
    return Piecewise(f.breaks, pieces, points, tuple(Rounding() for _ in pieces))


def is_sure(f: Piecewise, i: int, found: Sequence[int]) -> bool:
    """Whether the sign of a piece is computed right; near a threshold it need not be, if the sign changes there."""
    piece, floor, (low, high) = f.pieces[i], f.errors[i].floor, f.intervals()[i]
    if not floor:
        return True
    for end, beyond in ((low, i - 1), (high, i + 1)):
        if end is not None and not value_at(piece, end) and found[beyond] != -found[i]:
            return False
    return found[i] != 0 and is_firm(piece, found[i], floor, low, high)


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
    return held(sign_function(f + -g), holds)


def held(found: Piecewise, holds: Callable[[int, int], bool]) -> Piecewise:
    return found.mapped(lambda s: s if s == UNSURE else number(int(holds(int(s.get(ONE, Fraction(0))), 0))))


def choose(mask: Piecewise, f: Piecewise, g: Piecewise) -> Piecewise:
    """f where the mask is not zero, else g."""
    breaks = sorted({*mask.breaks, *f.breaks, *g.breaks})
    mask, f, g = mask.split(breaks), f.split(breaks), g.split(breaks)
    sides = (*zip(mask.pieces, f.pieces, g.pieces, strict=True), *zip(mask.points, f.points, g.points, strict=True))
    if any(set(value) - {ONE} and not (value == UNSURE and a == b) for value, a, b in sides):
        raise Unfit
    found = tuple(a if m else b for m, a, b in sides)
    errors = tuple(
        joint(a, b) if m == UNSURE else a if m else b for m, a, b in zip(mask.pieces, f.errors, g.errors, strict=True)
    )
    return Piecewise(f.breaks, found[: len(f.pieces)], found[len(f.pieces) :], errors)


def joint(a: Rounding, b: Rounding) -> Rounding:
    """Of one of two, whichever it is."""
    return Rounding(a.relative or b.relative, add_multiple(a.floor, b.floor))


def extremum(f: Piecewise, g: Piecewise, holds: Callable[[int, int], bool]) -> Piecewise:
    """The one of f and g of which a comparison holds: as exact as they are, also where it is unsure which it is."""
    apart = f + -g
    found = choose(held(sign_function(apart, exact=True), holds), f, g)
    f, g, firm = (part.split(found.breaks) for part in (f, g, sign_function(apart)))
    either = map(joint, f.errors, g.errors)
    errors = (both if s == UNSURE else e for s, both, e in zip(firm.pieces, either, found.errors, strict=True))
    return replace(found, errors=tuple(errors))


def larger(f: Piecewise, g: Piecewise) -> Piecewise:
    return extremum(f, g, lambda a, b: a > b)


def smaller(f: Piecewise, g: Piecewise) -> Piecewise:
    return extremum(f, g, lambda a, b: a < b)


def absolute_value(f: Piecewise) -> Piecewise:
    return extremum(f, -f, lambda a, b: a >= b)


# --- what is known of one --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PieceShape:
    """What a function is over an interval."""

    convex: bool = False
    concave: bool = False
    rising: bool = False
    falling: bool = False
    nonneg: bool = False
    nonpos: bool = False
    blurred: bool = False  # it has a sign, which rounding may change
    noisy: bool = False  # its rounding depends on u


def shape_of(f: Piecewise, low: End, high: End) -> PieceShape:
    """What a function is over [low, high]. Of one that is not continuous nothing is claimed."""
    spans: list[tuple[Sum, End, End]] = []
    floors: list[Sum] = []
    rounded: list[set[Key]] = []  # what the errors are relative to
    for piece, error, (left, right) in zip(f.pieces, f.errors, f.intervals(), strict=True):
        left = low if left is None or (low is not None and left < low) else left
        right = high if right is None or (high is not None and right > high) else right
        if left is None or right is None or left < right:
            spans.append((piece, left, right))
            floors.append(error.floor)
            rounded.append(set(error.floor) | set(piece if error.relative else {}))
    if not spans or not all(is_defined(*span) for span in spans):
        return PieceShape()
    turns: list[int] = []
    for point, b in zip(f.points, f.breaks, strict=True):
        here = [(piece, left == b) for piece, left, right in spans if b in (left, right)]
        if any(add_multiple(value_at(piece, b), point, -1) for piece, _ in here):
            return PieceShape()
        if len(here) == 2:
            before, after = sorted(here, key=lambda item: item[1])
            turns.append(sign_of(add_multiple(value_at(slope(after[0]), b), value_at(slope(before[0]), b), -1)))

    def all_of(change: Callable[[Sum], Sum], sign: int) -> bool:
        return all(is_nonnegative(multiply(change(p), number(sign)), left, right) for p, left, right in spans)

    def kept(sign: int) -> bool:
        """Whether it has a sign also as it is computed."""
        parts = zip(spans, floors, strict=True)
        return all(not floor or is_firm(p, sign, floor, *ends, near=Fraction(0)) for (p, *ends), floor in parts)

    nonneg, nonpos = (all_of(lambda p: p, sign) for sign in (1, -1))
    firm = nonneg and kept(1), nonpos and kept(-1)
    return PieceShape(
        convex=all(turn >= 0 for turn in turns) and all_of(lambda p: slope(slope(p)), 1),
        concave=all(turn <= 0 for turn in turns) and all_of(lambda p: slope(slope(p)), -1),
        rising=all_of(slope, 1),
        falling=all_of(slope, -1),
        nonneg=firm[0],
        nonpos=firm[1],
        blurred=(nonneg or nonpos) and not any(firm),
        noisy=any(keys and (len(spans) > 1 or keys != {ONE}) for keys in rounded),
    )
