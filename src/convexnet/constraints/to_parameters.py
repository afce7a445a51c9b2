"""From a coefficient back to the parameters it is computed from.

A weight may be a slice, a transpose, a product of two parameters, or `1 + gamma`. A bound on the result becomes bounds
on the parameters that are sufficient for it: exact for what moves elements, adds constants or multiplies by them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from convexnet.constraints.sets import INF, Interval
from convexnet.curvature.call import Rule
from convexnet.curvature.facts import Fact
from convexnet.curvature.rules import arithmetic, layers
from convexnet.curvature.rules.shapes import Moved, cat, reshaped, stack
from convexnet.curvature.table import row_of
from convexnet.curvature.tracing.graph import base_name, execute_node, is_real, parents, results_of
from convexnet.curvature.tracing.trace import Program, Source

ParameterIntervals = dict[str, tuple[Source, Interval]]
NUMBER = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)
"""What a program has for a number that it reads from a tensor."""


class Unreachable(Exception):
    """A bound on a computed coefficient cannot be turned into bounds on parameters."""


def push_back(program: Program, facts: Callable[[str], Fact], node: fx.Node, interval: Interval) -> ParameterIntervals:
    """The intervals of the parameters that keep a coefficient in its own.

    Args:
        program: the traced model.
        facts: of its placeholders; a value that is known is one that training does not change.
        node: the coefficient.
        interval: where it must lie.

    Returns:
        For each placeholder of a parameter: where it comes from, and its interval.

    Raises:
        Unreachable: the coefficient is computed in a way that no rule here inverts, or depends on an input.
    """
    found: ParameterIntervals = {}
    push_back_through(program, Known(facts), node, interval, found)
    return found


def push_back_through(
    program: Program, known: Known, node: fx.Node, interval: Interval, found: ParameterIntervals
) -> None:
    if node.op == "placeholder":
        source = program.sources[str(node.target)]
        if source.kind != "parameter" or source.tensor is None:
            value = known(node)
            if value is None and source.tensor is not None:
                raise Unreachable(f"it is computed from {source.name}, a buffer in the memory of a parameter")
            if value is None or not interval.contains(value):
                raise Unreachable(f"it is computed from {source.name}, which is not a parameter")
            return
        before = found.get(str(node.target))
        found[str(node.target)] = source, interval if before is None else interval.meet(before[1])
        return
    if node.op != "call_function":
        raise Unreachable("it is computed from a constant")
    value = known(node)
    if value is not None:
        if not interval.contains(value):
            raise Unreachable("it is computed from numbers that training does not change, and has the wrong sign")
        return
    name = base_name(node.target)
    row = row_of(name)
    if (
        row.runs(arithmetic.identity) and is_real(node) and is_real(node.all_input_nodes[0])
    ):  # casts round, and keep signs
        push_back_through(program, known, node.all_input_nodes[0], interval, found)
        return
    if isinstance(row.rule, Moved) or row.runs(reshaped, cat, stack):
        for argument in parents(node):
            if is_real(argument):
                push_back_through(program, known, argument, origins(known, node, argument, interval), found)
        return
    step = STEPS.get(row.run)
    if step is None:
        raise Unreachable(f"it is computed by aten.{name}")
    for argument, asked in step(known, node, interval):
        shape = tuple(results_of(argument)[0][0])
        bounds = Interval(unbroadcast_bound(asked.lo, shape, max), unbroadcast_bound(asked.hi, shape, min))
        push_back_through(program, known, argument, bounds, found)


def origins(known: Known, node: fx.Node, argument: fx.Node, interval: Interval) -> Interval:
    """The bounds of an argument's elements: the shape operator is run on their numbers to see where each one goes."""
    shape = argument.meta["val"].shape
    numbers = torch.arange(1, shape.numel() + 1, dtype=torch.float64).reshape(shape)

    def exchange(value: Any) -> Any:
        if not isinstance(value, fx.Node):
            return value
        if value is argument:
            return numbers
        if is_real(value):
            return torch.zeros(results_of(value)[0][0], dtype=torch.float64)
        picks = known.exactly(value)
        if picks is None:
            raise Unreachable("its elements are picked by another tensor")
        return picks

    try:
        where = execute_node(node, exchange)
    except (RuntimeError, TypeError, IndexError) as error:
        raise Unreachable(f"it is computed by aten.{base_name(node.target)}") from error
    if not isinstance(where, Tensor):
        raise Unreachable("it is one of several results")
    picks = where.flatten().long()
    kept = picks > 0
    bounds: list[Tensor] = []
    for bound, free, keep in ((interval.lo, -INF, "amax"), (interval.hi, INF, "amin")):
        values = bound.expand(where.shape).flatten()
        out = torch.full((shape.numel(),), free, dtype=torch.float64)
        bounds.append(out.scatter_reduce(0, picks[kept] - 1, values[kept], keep).reshape(shape))
    return Interval(*bounds)


def unbroadcast_bound(bound: Tensor, shape: tuple[int, ...], keep: Callable[[float, float], float]) -> Tensor:
    """A bound on a broadcast result, as a bound on the argument that was broadcast."""
    while bound.ndim > len(shape):
        bound = bound.amax(0) if keep is max else bound.amin(0)
    for dim, length in enumerate(shape[len(shape) - bound.ndim :]):
        if length == 1 and bound.shape[dim] > 1:
            bound = bound.amax(dim, keepdim=True) if keep is max else bound.amin(dim, keepdim=True)
    return bound


def constant_value(facts: Callable[[str], Fact], value: Any, seen: dict[fx.Node, Any] | None = None) -> Any:
    """The value of an argument that does not depend on anything that moves, as the model computes it: integers stay
    integers, which wrap around and divide in their own way. None of an argument that does. `seen` are values found
    before, to look at each operator once."""
    if not isinstance(value, fx.Node):
        return value if isinstance(value, (int, float)) else None
    seen = {} if seen is None else seen
    if value not in seen:
        seen[value] = compute_node(facts, value, seen)
    return seen[value]


def compute_node(facts: Callable[[str], Fact], value: fx.Node, seen: dict[fx.Node, Any]) -> Any:
    """The value of a node, from those of the elements that it reads."""
    if value.op == "placeholder":
        return facts(str(value.target)).value
    if value.op != "call_function" or torch.Tag.nondeterministic_seeded in getattr(value.target, "tags", ()):
        return None
    if base_name(value.target).startswith(("empty", "new_empty")):
        return None
    parts: dict[fx.Node, Any] = {}
    for part in parents(value):
        parts[part] = constant_value(facts, part, seen)
        if parts[part] is None:
            return None
    for other in value.all_input_nodes:
        if other not in parts:  # no element of it is read
            like = other.meta.get("val")
            if not isinstance(like, Tensor):
                return None
            parts[other] = torch.zeros((), dtype=like.dtype).expand(tuple(like.shape))
    try:
        return execute_node(value, parts.__getitem__)
    except (RuntimeError, TypeError, IndexError, ValueError):
        return None


@dataclass(frozen=True)
class Known:
    """The values of arguments that training does not change."""

    facts: Callable[[str], Fact]
    seen: dict[fx.Node, Any] = field(default_factory=dict[fx.Node, Any])

    def exactly(self, value: Any) -> Any:
        """The value in its own type; None of an argument that training changes, or that depends on an input."""
        return constant_value(self.facts, value, self.seen)

    def __call__(self, value: Any) -> Tensor | None:
        """The value as real numbers."""
        found = self.exactly(value)
        if isinstance(found, (int, float)):
            return torch.tensor(float(found), dtype=torch.float64)
        return found.double() if isinstance(found, Tensor) else None


def through_negation(known: Known, node: fx.Node, interval: Interval) -> list[tuple[fx.Node, Interval]]:
    (argument,) = node.all_input_nodes
    return [(argument, Interval(-interval.hi, -interval.lo))]


def through_sum(known: Known, node: fx.Node, interval: Interval, sign: int = 1) -> list[tuple[fx.Node, Interval]]:
    """c + w >= b for w >= b - c; v + w >= 0 for v, w >= 0."""
    a, b = node.args[:2]
    if node.kwargs.get("alpha", 1) != 1 or len(node.args) > 2:
        raise Unreachable("it is a sum with a factor")
    for one, other, turn in ((a, b, sign), (b, a, 1)):
        value = known(one)
        if value is not None and isinstance(other, fx.Node):
            check_signs(interval, "a sum of a sum")  # whose parts would be rounded one after the other
            value = value if one is a else sign * value
            moved = Interval(interval.lo - value, interval.hi - value)
            return [(other, moved if turn > 0 else Interval(-moved.hi, -moved.lo))]
    check_signs(interval)
    turned = interval if sign > 0 else Interval(-interval.hi, -interval.lo)
    return [(part, asked) for part, asked in ((a, interval), (b, turned)) if isinstance(part, fx.Node)]


def through_difference(known: Known, node: fx.Node, interval: Interval) -> list[tuple[fx.Node, Interval]]:
    return through_sum(known, node, interval, sign=-1)


def through_reverse_difference(known: Known, node: fx.Node, interval: Interval) -> list[tuple[fx.Node, Interval]]:
    """rsub(a, b) is b - a."""
    return through_sum(known, node, Interval(-interval.hi, -interval.lo), sign=-1)


def through_product(known: Known, node: fx.Node, interval: Interval) -> list[tuple[fx.Node, Interval]]:
    """c w >= b for w >= b/c; v w >= 0 for v, w >= 0."""
    a, b = node.args[:2]
    for one, other in ((a, b), (b, a)):
        value = known(one)
        if value is not None and isinstance(other, fx.Node):
            return [(other, divide_interval(interval, value))]
    check_signs(interval)
    size = Interval.above(0.0, interval.where)
    return [(part, asked) for part, asked in ((a, size), (b, interval)) if isinstance(part, fx.Node)]


def through_quotient(known: Known, node: fx.Node, interval: Interval) -> list[tuple[fx.Node, Interval]]:
    value = known(node.args[1])
    if value is None or not isinstance(node.args[0], fx.Node):
        raise Unreachable("it is a quotient of parameters")
    return [(node.args[0], divide_interval(interval, 1.0 / value))]


def divide_interval(interval: Interval, value: Tensor) -> Interval:
    """The interval of w for which value * w lies in the given one; free where the value is zero."""
    check_signs(interval, "a multiple of a parameter")  # other bounds would be rounded
    lo, hi = interval.lo / value, interval.hi / value
    lo, hi = torch.where(value > 0, lo, hi), torch.where(value > 0, hi, lo)
    free = value == 0
    return Interval(lo.masked_fill(free, -INF), hi.masked_fill(free, INF))


def through_matrix_product(known: Known, node: fx.Node, interval: Interval) -> list[tuple[fx.Node, Interval]]:
    """A B >= 0 for A, B >= 0: all of both, whichever entries of the product are asked for."""
    check_signs(interval)
    a, b = (part for part in node.args[:2])
    assert isinstance(a, fx.Node)
    assert isinstance(b, fx.Node)
    one = torch.tensor(True)
    below = bool((interval.hi == 0).any())
    if below and bool((interval.lo == 0).any()):
        raise Unreachable("some entries of a matrix product must be >= 0 and others <= 0")
    second = Interval.above(0.0, one)
    return [(a, Interval.above(0.0, one)), (b, Interval(-second.hi, -second.lo) if below else second)]


def check_signs(interval: Interval, what: str = "two parameters") -> None:
    """Of two unknown factors or terms only the signs can be constrained."""
    for bound in (interval.lo, interval.hi):
        if bool(((bound != 0) & bound.isfinite()).any()):
            raise Unreachable(f"it is computed from {what}, and must keep a bound that is not zero")


Step = Callable[[Known, fx.Node, Interval], list[tuple[fx.Node, Interval]]]
"""The arguments of an operator, and where each must lie for the result to lie in an interval."""

STEPS: Mapping[Rule, Step] = {
    arithmetic.neg: through_negation,
    arithmetic.add: through_sum,
    arithmetic.sub: through_difference,
    arithmetic.rsub: through_reverse_difference,
    arithmetic.mul: through_product,
    arithmetic.div: through_quotient,
    layers.matmul: through_matrix_product,
}
"""By the rule of an operator."""
