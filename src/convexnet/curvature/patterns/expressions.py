"""How a tensor was made from others, as far as rules look back: expressions of few operators on small facts.

The composition theorem looks at one operator at a time. What several make together (x log x, a quadratic form, a
log-sum-exp with its maximum taken out first) is recognised from the calls that made a tensor. A `Fact` keeps its call
while the expression is short and its fields are small, so that a walk stays as cheap as it was. Equal calls give one
and the same fact (see `walk`), so that facts are compared by identity, never by value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from convexnet.curvature.call import Call
from convexnet.curvature.facts import Fact
from convexnet.curvature.fields import core
from convexnet.curvature.row import Row

DEPTH = 16
"""The longest chain of calls that is looked back on."""
SMALL = 1 << 14
"""How many numbers the fields of a fact may store for its call to be kept."""


@dataclass(frozen=True, eq=False)
class Made:
    """The call that made a tensor, the row of its operator, and the length of the longest chain of calls behind it."""

    call: Call
    row: Row
    depth: int


def with_call(call: Call, row: Row, results: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """The results of a call, with the call."""
    if len(results) != 1 or results[0].constant or results[0].made is not None:
        return results
    (result,) = results
    if any(result is fact for fact in call.facts()):
        return results
    if sum(core(field).numel() for field in result.fields()) > SMALL:
        return results
    depth = 1 + max((fact.made.depth for fact in call.facts() if fact.made is not None), default=0)
    return results if depth > DEPTH else (replace(result, made=Made(call, row, depth)),)


def made_by(fact: Any, *names: str) -> Call | None:
    """The call that made a fact, if it is one of these operators."""
    return made_as(fact, lambda made: made.call.name in names)


def made_as(fact: Any, kind: Callable[[Made], bool]) -> Call | None:
    """The call that made a fact, if it is of a kind."""
    made: Made | None = fact.made if isinstance(fact, Fact) else None
    return made.call if made is not None and kind(made) else None


def is_view(made: Made) -> bool:
    return made.row.is_view


def is_smooth(made: Made) -> bool:
    return made.row.is_smooth


def evaluate(fact: Fact, given: Callable[[Fact], Any], apply: Callable[[Call, Mapping[int, Any]], Any]) -> Any:
    """The value of an expression: `given` says those of the facts where it ends (None: look behind it), and `apply`
    computes a call from the values of its facts, by their ids."""
    done: dict[int, Any] = {}

    def value(fact: Fact) -> Any:
        if id(fact) not in done:
            end = given(fact)
            if end is None:
                call: Call = fact.made.call
                end = apply(call, {id(part): value(part) for part in call.facts()})
            done[id(fact)] = end
        return done[id(fact)]

    return value(fact)


def views_of(fact: Fact) -> Fact:
    """The tensor that this one is a view of, with its elements in the same order."""
    while (call := made_as(fact, is_view)) is not None:
        fact = call.x
    return fact


def is_varying(fact: Any) -> bool:
    return isinstance(fact, Fact) and not fact.constant


def duplicates(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Nodes that compute what an earlier one computes: the same operator, on the same arguments."""
    first: dict[Any, fx.Node] = {}
    same: dict[fx.Node, fx.Node] = {}

    def key(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return same.get(value, value)
        if isinstance(value, (list, tuple)):
            return tuple(map(key, value))
        return type(value), repr(value)

    for node in graph.nodes:
        if not is_function(node):
            continue
        place = node.target, key(node.args), tuple((name, key(value)) for name, value in sorted(node.kwargs.items()))
        if first.setdefault(place, node) is not node:
            same[node] = first[place]
    return same


def is_function(node: fx.Node) -> bool:
    """Whether a node's results follow from its arguments, and nothing else does."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):  # pyright: ignore[reportPrivateUsage]
        return False
    if torch.Tag.nondeterministic_seeded in node.target.tags or "empty" in str(node.target):
        return False
    return not node.target._schema.is_mutable  # pyright: ignore[reportPrivateUsage]
