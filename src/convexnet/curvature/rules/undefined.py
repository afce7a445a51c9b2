"""Where operators are not defined, for the table: there their value is NaN, or an infinity that soon makes one.

A fact speaks of the points at which the value is a number. Nearly every operator hands NaN on, so that what it claims
is never seen to be false; a row says of those that do not that they are forgiving (`forgives`), and these rest nothing
on an argument that may be undefined.
"""

from __future__ import annotations

from dataclasses import dataclass

from convexnet.curvature.call import Call
from convexnet.curvature.facts import Fact, as_fact
from convexnet.curvature.fields import where_any
from convexnet.curvature.rules.pointwise import NEGATIVE, POSITIVE, Ranges, is_outside
from convexnet.curvature.rules.reductions import norm_order


@dataclass(frozen=True)
class Beyond:
    """Whether some element of the first argument may lie outside the ranges in which a function is defined."""

    ranges: Ranges

    def __call__(self, call: Call) -> bool:
        return where_any(is_outside(call.x, self.ranges))

    @property
    def start(self) -> float:
        """From where on the function is a real number; a range that begins just above a number begins there."""
        return round(min(low for low, _ in self.ranges), 12)


def divides_by_zero(call: Call) -> bool:
    return where_any(is_outside(as_fact(call.args[1]), POSITIVE + NEGATIVE))


def power_undefined(call: Call) -> bool:
    base, exponent = call.args[:2]
    if isinstance(exponent, Fact):
        exponent = None if exponent.value is None or exponent.value.numel() != 1 else float(exponent.value)
    if exponent is None or not isinstance(base, Fact):
        return True
    whole = float(exponent).is_integer()
    if exponent >= 0:
        return not whole and base.goes_below_zero
    return where_any(is_outside(base, POSITIVE + NEGATIVE if whole else POSITIVE))


def has_no_order(call: Call) -> bool:
    return bool(norm_order(call))


def of_few(call: Call) -> bool:
    """A variance of one element, or of as many as are subtracted from their number; an average of none."""
    return True


def adds_quotient(call: Call) -> bool:
    return where_any(is_outside(as_fact(call.args[2]), POSITIVE + NEGATIVE))


def has_negative_target(call: Call) -> bool:
    """A divergence from what is not a probability, which has no logarithm."""
    return call.args[1].goes_below_zero
