"""Where the operators of the table are not defined: there their value is NaN, or an infinity that soon makes one.

A fact speaks of the points at which the value is a number. Nearly every operator hands NaN on, so that what it claims
is never seen to be false; those that do not are listed here, and rest nothing on an argument that may be undefined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from convexnet.curvature.call import Call
from convexnet.curvature.facts import INF, Fact, as_fact
from convexnet.curvature.fields import where_any
from convexnet.curvature.pointwise import NEGATIVE, POSITIVE, RIGHT, outside
from convexnet.curvature.table import norm_order

FORGIVING = frozenset(("sign",))
"""Operators that make a number of NaN: no claim rests on the bounds of an argument that may be undefined."""


def may_leave(*ranges: tuple[float, float]) -> Callable[[Call], bool]:
    """Whether some element of the first argument may lie outside the ranges in which a function is defined."""
    return lambda call: where_any(outside(call.x, ranges))


def power_undefined(call: Call) -> bool:
    base, exponent = call.args[:2]
    if isinstance(exponent, Fact):
        exponent = None if exponent.value is None or exponent.value.numel() != 1 else float(exponent.value)
    if exponent is None or not isinstance(base, Fact):
        return True
    whole = float(exponent).is_integer()
    if exponent >= 0:
        return not whole and base.goes_below_zero
    return where_any(outside(base, POSITIVE + NEGATIVE if whole else POSITIVE))


PARTIAL: Mapping[str, Callable[[Call], bool]] = {
    "sqrt": may_leave(*RIGHT),
    "rsqrt": may_leave(*POSITIVE),
    **dict.fromkeys(("log", "log2", "log10"), may_leave(*POSITIVE)),
    **dict.fromkeys(("log1p", "special_log1p"), may_leave((math.nextafter(-1.0, 0.0), INF))),
    **dict.fromkeys(("lgamma", "special_gammaln", "digamma", "special_digamma", "special_psi"), may_leave(*POSITIVE)),
    **dict.fromkeys(("polygamma", "special_polygamma"), lambda call: where_any(outside(call.args[1], POSITIVE))),
    "special_entr": may_leave(*RIGHT),
    "reciprocal": may_leave(*POSITIVE, *NEGATIVE),
    "div": lambda call: where_any(outside(as_fact(call.args[1]), POSITIVE + NEGATIVE)),
    "pow": power_undefined,
    "var": lambda call: True,  # of one element, or of as many as are subtracted from their number
    "std": lambda call: True,
    "norm": lambda call: bool(norm_order(call)),
    "linalg_vector_norm": lambda call: bool(norm_order(call)),
}
"""Operators of the table that are not defined everywhere, and whether a call may meet such a point."""
