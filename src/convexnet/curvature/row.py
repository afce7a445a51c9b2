"""A row of the rule table: all that is known of one operator, and what follows from the kind of its rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from convexnet.curvature.call import Call, Result, Rule

Requirement = Literal["sign", "slope", "share", "recurrent signs"]


class Kind:
    """A rule whose kind says more of its operator. Of a rule that is a plain function, nothing follows."""

    @property
    def is_affine(self) -> bool:
        """Whether results are affine in what varies, where only one factor of a product does, and no divisor."""
        return False

    @property
    def keeps_signs(self) -> bool:
        """Whether it is affine, with coefficients that are never negative."""
        return False

    @property
    def is_move(self) -> bool:
        """Whether each element of a result is an element of an argument, or a constant."""
        return False

    @property
    def is_view(self) -> bool:
        """Whether the result has the elements of the argument, in their order."""
        return False

    @property
    def adds_nothing(self) -> bool:
        """Whether it moves elements, and no setting says what else stands among them: of zeros it makes zeros."""
        return False

    @property
    def steepness(self) -> float:
        """By how much a result changes at most, where all elements of the arguments together change by one."""
        return math.inf


@dataclass(frozen=True)
class Linear(Kind):
    """Sums, products and multiples, by a function of their own, with coefficients of any sign."""

    run: Rule

    def __call__(self, call: Call) -> Result:
        return self.run(call)

    @property
    def is_affine(self) -> bool:
        return True


@dataclass(frozen=True)
class Sum(Linear):
    """Two terms with their signs; `alpha` multiplies the second one that is written down (of rsub: the first)."""

    signs: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Joint(Kind):
    """A function of several numbers that is not affine: in words, its curvature, and how it moves with each of them."""

    run: Rule
    curvature: Literal["convex", "concave"]
    moves: str = "non-decreasing in every argument"

    def __call__(self, call: Call) -> Result:
        return self.run(call)


@dataclass(frozen=True)
class Extremum(Joint):
    """The larger, or the smaller, of several numbers."""

    @property
    def steepness(self) -> float:
        return 1.0


@dataclass(frozen=True)
class Row:
    """What is known of an operator. `Row(rule)` is an ordinary one.

    Attributes:
        rule: how facts pass through it.
        weights: where the weights stand that multiply what varies: places among the arguments. A list of tensors
            counts as one place.
        asked: what convexity requires of the weights: a sign; to be a slope, or a share, in [0, 1]; or the signs of a
            recurrent network.
        divisor: the place of the argument that it divides by.
        denominator: the place of the argument that only one of its terms is divided by.
        added: the place of the argument that is added to its products.
        jet: what it makes of a value with two derivatives (`jets`), by the value and the call, where it is a function
            of one number and no arithmetic.
        arithmetic: it is a sum, product, power, exponential or logarithm; `interpreter` says which.
        recoverable: what its rule loses, those that read the result may make up for. That is also so of what is
            affine, of reductions, and of functions of one number with derivatives.
        shape_only: places of arguments of which it takes the shape or the type, and no element. The result has the
            type of such an argument, or does not depend on it.
        draws: the place of the flag that makes it draw random numbers.
        takes_numbers: its rule takes a number as it takes a tensor, as a quantity of which perhaps only the sign is
            known. Other numbers are settings.
        takes_infinity: a setting may be infinite. What only moves elements may fill with anything.
        undefined: whether a call may meet a point where the operator is not defined, so that its value is NaN, or an
            infinity that soon makes one. None: it is defined everywhere.
        forgives: it makes a number of NaN, so that no claim may rest on the bounds of an argument that may be
            undefined.
        minds_zero: it makes different numbers of 0 and -0, at any place. Of poles the rules of quotients and powers see
            to that.
        steepest: by how much a result changes at most, where all elements of the arguments together change by one;
            of maxima that follows from their kind.
        instead: what to write in its place, where only affine maps and convex atoms are understood.
    """

    rule: Rule
    weights: tuple[int, ...] = ()
    requires: Requirement = "sign"
    divisor: int | None = None
    denominator: int | None = None
    added: int | None = None
    jet: Callable[[Any, Call], Any] | None = None
    arithmetic: bool = False
    recoverable: bool = False
    shape_only: tuple[int, ...] = ()
    draws: int | None = None
    takes_numbers: bool = False
    takes_infinity: bool = False
    undefined: Callable[[Call], bool] | None = None
    forgives: bool = False
    minds_zero: bool = False
    steepest: float = math.inf
    instead: str = ""

    @property
    def kind(self) -> Kind:
        """The rule as one whose kind is asked for more; of a plain function nothing follows."""
        return self.rule if isinstance(self.rule, Kind) else Kind()

    @property
    def is_affine(self) -> bool:
        """Whether results are affine in what varies, where only one of the `factors` does, and no divisor."""
        return self.kind.is_affine

    @property
    def keeps_signs(self) -> bool:
        """Whether it is affine, with coefficients that are never negative."""
        return self.kind.keeps_signs

    @property
    def is_move(self) -> bool:
        """Whether each element of a result is an element of an argument, or a constant."""
        return self.kind.is_move

    @property
    def steepness(self) -> float:
        """By how much a result changes at most, where all elements of the arguments together change by one."""
        return min(self.steepest, self.kind.steepness)

    @property
    def factors(self) -> tuple[int, ...]:
        """Where the factors of its products stand, a quotient's among them: two that vary are not affine together.

        Example:
            >>> from convexnet.curvature.table import row_of
            >>> row_of("mul").factors, row_of("linear").factors, row_of("addmm").factors, row_of("add").factors
            ((0, 1), (0, 1), (1, 2), ())
        """
        if self.divisor is not None:
            return (0, self.divisor)
        return tuple(range(self.weights[0] + 1)) if len(self.weights) == 1 else self.weights

    @property
    def pole(self) -> int | None:
        """The place of the argument at whose zeros it is not defined."""
        return self.divisor if self.denominator is None else self.denominator

    @property
    def multiplies(self) -> bool:
        """Whether its result is proportional to its weights."""
        return self.is_affine and bool(self.weights) and self.requires == "sign"

    @property
    def is_view(self) -> bool:
        """Whether the result has the elements of the argument, in their order."""
        return self.kind.is_view

    @property
    def adds_nothing(self) -> bool:
        """Whether it moves elements, and no setting says what else stands among them: of zeros it makes zeros."""
        return self.kind.adds_nothing

    @property
    def is_smooth(self) -> bool:
        """Whether it is a function of one number with derivatives, or the arithmetic that combines such."""
        return self.arithmetic or self.jet is not None

    @property
    def may_be_refined(self) -> bool:
        """Whether those that read a result may make up for what its rule loses."""
        return self.recoverable or self.is_smooth or self.is_affine

    @property
    def run(self) -> Rule:
        """The function that its rule is, or that its rule puts a kind on."""
        return getattr(self.rule, "run", self.rule)

    def runs(self, *functions: Rule) -> bool:
        """Whether its rule is one of some functions."""
        return self.run in functions
