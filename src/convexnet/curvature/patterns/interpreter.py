"""An expression as arithmetic on values of some kind: what its calls say, read once for all kinds.

A tensor that is a function of one number is followed as a sum of terms (`power_log_exp_sums`), as a jet in intervals
(`univariate`) or piece by piece (`piecewise`), and one of two by its degree of homogeneity
(`one_number_and_perspectives`). Which operator is which sum, product, power, exponential or logarithm is said here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

from convexnet.curvature.call import Call, Lost
from convexnet.curvature.facts import Fact
from convexnet.curvature.row import Sum
from convexnet.curvature.rules.arithmetic import Power
from convexnet.curvature.table import row_of


class Value(Protocol):
    """What is added, multiplied, and put into functions of one number. `of` is the argument that the value is of; the
    value that a logarithm is taken of may be `shift` more than it."""

    def __add__(self, other: Self) -> Self: ...

    def __neg__(self) -> Self: ...

    def __mul__(self, other: Self) -> Self: ...

    def power(self, exponent: float, of: Any) -> Self: ...

    def exp(self) -> Self: ...

    def log(self, of: Any, shift: float = 0.0) -> Self: ...


V = TypeVar("V", bound=Value)


Other = Callable[[str, Call, Callable[[Any], V]], V]


def no_other(name: str, call: Call, value: Callable[[Any], Any]) -> Any:
    """No other operator is known."""
    raise Lost


def combine(call: Call, value: Callable[[Any], V], other: Other[V] = no_other) -> V:
    """The value of a call, from those of its arguments; `other` says that of what is no arithmetic."""
    name, args, rule = call.name.removeprefix("special_"), call.args, row_of(call.name).rule
    first = args[0]
    match name:
        case _ if isinstance(rule, Sum):
            turned = rule.signs[0] < 0
            a, b = (value(arg) for arg in (args[1::-1] if turned else args[:2]))
            alpha = call.arg(2, "alpha", 1)
            b = b if alpha == 1 else value(float(alpha)) * b
            return a + (b if rule.signs[0 if turned else 1] > 0 else -b)
        case "neg":
            return -value(first)
        case "mul":
            return value(first).power(2.0, first) if first is args[1] else value(first) * value(args[1])
        case "div" if call.kwargs.get("rounding_mode") is None:
            return value(first) * value(args[1]).power(-1.0, args[1])
        case "pow":
            exponent = fixed_exponent(args[1])
            if exponent is not None:
                return value(first).power(exponent, first)
            return (value(args[1]) * value(first).log(first)).exp()
        case "exp":
            return value(first).exp()
        case "expm1":
            return value(first).exp() + value(-1.0)
        case "log":
            return value(first).log(first)
        case "log1p":
            return (value(first) + value(1.0)).log(first, 1.0)
        case "xlogy":
            return value(first) * value(args[1]).log(args[1])
        case "entr":
            return -(value(first) * value(first).log(first))
        case _ if isinstance(rule, Power):
            return value(first).power(rule.exponent, first)
        case _:
            return other(name, call, value)


def is_arithmetic(name: str) -> bool:
    """Whether an operator is made of sums, products, whole powers, exponentials and logarithms; x log(x) is a limit of
    such at zero."""
    row = row_of(name)
    whole = not isinstance(row.rule, Power) or row.rule.exponent.is_integer()
    return row.arithmetic and whole and name.removeprefix("special_") not in ("xlogy", "entr")


def fixed_exponent(exponent: Any) -> float | None:
    """An exponent that is one number."""
    if isinstance(exponent, Fact):
        if not exponent.constant or exponent.value is None or exponent.value.numel() != 1:
            return None
        return float(exponent.value)
    return float(exponent) if isinstance(exponent, (int, float)) else None
