"""Means of positive numbers that are concave: geometric means, and sums of powers below 1, such as harmonic means.

Both are homogeneous, and made of such means of pairs: of x and t they are t f(x / t). So they are trees of
perspectives, whose depth is the logarithm of how many numbers there are. The calculus certifies them by the degrees of
their powers (`curvature.rules.powers`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from torch import fx

from convexnet.curvature.rules.arithmetic import Power
from convexnet.curvature.table import row_of
from convexnet.curvature.tracing.graph import base_name, is_call_of
from convexnet.form.atoms import Smooth
from convexnet.form.perspective import Perspective
from convexnet.form.rows import Atoms, Row, dims_of, stack_last
from convexnet.form.smooth import Curve, minus_power_sum, minus_root

MOST = 64
"""Numbers up to which a mean is written with pairs."""

CLOSE = Fraction(1, 2**40)
"""How near below 1 the exponent of a geometric mean is that was meant to be 1, as that of `x.prod(1) ** (1 / 3)` is."""


def mean_of(node: fx.Node) -> tuple[Row, fx.Node] | None:
    """The row of a mean, and the node that it is of."""
    if is_call_of(node, "exp"):
        inner = first_of(node)
        logs = first_of(inner) if is_call_of(inner, "mean") else None
        found = reduced_by(inner) if is_call_of(logs, "log") else None
        return None if found is None else (geometric(1.0, *found[:2]), first_of(logs))
    inner, outer = power_of(node)
    found = (
        reduced_by(inner)
        if is_call_of(inner, "prod") or is_call_of(inner, "sum") or is_call_of(inner, "mean")
        else None
    )
    if found is None:
        return None
    dims, keepdim, count = found
    if is_call_of(inner, "prod"):
        exponent = Fraction(outer) * count  # exactly: what is left out grows with the logarithm of the mean
        short = 1 - exponent if 0 <= 1 - exponent <= CLOSE else Fraction(0)
        if not 0 < exponent <= 1 or not (short or Fraction(float(exponent)) == exponent):
            return None
        return geometric(1.0 if short else float(exponent), dims, keepdim, float(short)), inner.args[0]
    x, exponent = power_of(inner.args[0])
    if exponent >= 1 or Fraction(exponent) * Fraction(outer) != 1:
        return None
    return power_sums(exponent, dims, keepdim, 1 / count if is_call_of(inner, "mean") else 1.0), x


def reduced_by(node: fx.Node) -> tuple[list[int], bool, int] | None:
    """The dimensions that an operator reduces, whether they are kept, and how many entries they have; None: it reduces
    the samples too, or too many entries."""
    source = first_of(node)
    if not isinstance(source, fx.Node) or node.kwargs or len(node.args) < 2 or node.args[1] is None:
        return None
    value = source.meta["val"]
    dims = dims_of(value, node.args[1])
    sizes = [value.shape[dim] for dim in dims]
    if 0 in dims or not all(isinstance(size, int) for size in sizes) or not 2 <= math.prod(sizes) <= MOST:
        return None
    return dims, len(node.args) > 2 and bool(node.args[2]), math.prod(sizes)


def first_of(node: Any) -> Any:
    """The first argument of a call that has any."""
    return node.args[0] if isinstance(node, fx.Node) and node.args else None


def power_of(node: Any) -> tuple[Any, float]:
    """x and p, if this is x^p; None and 0 otherwise. A product with 1, as in `1 / x`, is passed over."""
    if is_call_of(node, "mul") and len(node.args) == 2 and isinstance(node.args[1], (int, float)) and node.args[1] == 1:
        node = node.args[0]
    if not isinstance(node, fx.Node) or node.op != "call_function" or node.kwargs:
        return None, 0.0
    rule = row_of(base_name(node.target)).rule
    if isinstance(rule, Power):
        return node.args[0], rule.exponent
    exponent = node.args[1] if is_call_of(node, "pow") and len(node.args) == 2 else None
    return (node.args[0], float(exponent)) if isinstance(exponent, (int, float)) else (None, 0.0)


# --- rows ------------------------------------------------------------------------------------------------------------


def geometric(exponent: float, dims: Sequence[int], keepdim: bool, short: float = 0.0) -> Row:
    """The geometric mean g along dimensions, to a power of at most 1; g^(1 - short) is greater by at most short / e."""

    def lowered(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        parts = entries(args[0], dims)

        def curve(a: int, b: int) -> Curve:
            return replace(minus_root(a / (a + b)), short=short if a + b == len(parts) else 0.0)

        out = tree(z, parts, curve)
        return kept(out if exponent == 1 else -z(out, Smooth(minus_root(exponent))), dims, keepdim)

    return lowered


def power_sums(p: float, dims: Sequence[int], keepdim: bool, weight: float) -> Row:
    """(w Σ x^p)^(1 / p) along dimensions, for p < 1."""

    def lowered(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        out = tree(z, entries(args[0], dims), lambda a, b: minus_power_sum(p))
        return kept(out if weight == 1 else out * weight ** (1 / p), dims, keepdim)

    return lowered


def entries(x: Any, dims: Sequence[int]) -> list[Any]:
    """The entries along dimensions, one by one."""
    rank = x.ndim - len(dims)
    flat = x.movedim(tuple(dims), tuple(range(rank, x.ndim))).flatten(rank)
    return [flat.narrow(-1, i, 1).squeeze(-1) for i in range(flat.shape[-1])]


def kept(x: Any, dims: Sequence[int], keepdim: bool) -> Any:
    for dim in dims if keepdim else ():
        x = x.unsqueeze(dim)
    return x


def tree(z: Atoms, parts: Sequence[Any], curve: Callable[[int, int], Curve]) -> Any:
    """The mean of all parts, from means of pairs: t f(x / t) for x and t that are means of given numbers of parts. All
    pairs of a level with the same numbers are one atom."""
    level = [(part, 1) for part in parts]
    while len(level) > 1:
        pairs = list(zip(level[::2], level[1::2], strict=False))
        following: dict[int, tuple[Any, int]] = {}
        for kind in dict.fromkeys((a, b) for (_, a), (_, b) in pairs):
            which = [i for i, ((_, a), (_, b)) in enumerate(pairs) if (a, b) == kind]
            both = stack_last(
                stack_last(*(pairs[i][0][0] for i in which)), stack_last(*(pairs[i][1][0] for i in which))
            )
            means = -z(both, Perspective(curve(*kind)))
            for place, i in enumerate(which):
                following[i] = means.narrow(-1, place, 1).squeeze(-1), sum(kind)
        level = [following[i] for i in range(len(pairs))] + level[2 * len(pairs) :]
    return level[0][0]
