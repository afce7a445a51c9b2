"""How a tensor was made from others, as far as rules look back: expressions of few operators on small facts.

The composition theorem looks at one operator at a time. What several make together (x log x, a quadratic form, a
log-sum-exp with its maximum taken out first) is recognised from the calls that made a tensor. A `Fact` keeps its call
while the expression is short and its fields are small, so that a walk stays as cheap as it was. Equal calls give one
and the same fact (see `walk`), so that facts are compared by identity, never by value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from convexnet.curvature.call import Call
from convexnet.curvature.facts import Fact
from convexnet.curvature.fields import core

DEPTH = 16
"""The longest chain of calls that is looked back on."""
SMALL = 1 << 14
"""How many numbers the fields of a fact may store for its call to be kept."""

VIEWS = frozenset(("unsqueeze", "squeeze", "view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as"))
MOVES = frozenset(
    ("permute", "transpose", "t", "mT", "numpy_T", "movedim", "swapaxes", "expand", "expand_as", "broadcast_to",
     "slice", "select", "narrow", "flip", "roll", "diagonal", "diag_embed", "cat", "stack", "tril", "triu", "repeat",
     "tile", "index_select", "index")
)  # fmt: skip
LINEAR = frozenset(
    ("mul", "div", "add", "sub", "rsub", "neg", "linear", "matmul", "mm", "bmm", "mv", "dot", "addmm", "einsum", "sum",
     "mean", "conv1d", "conv2d")
)  # fmt: skip
"""Operators that are affine in what varies, where only one factor does."""
SMOOTH = frozenset(
    ("mul", "div", "add", "sub", "rsub", "neg", "reciprocal", "square", "sqrt", "rsqrt", "pow", "exp", "exp2", "expm1",
     "log", "log2", "log10", "log1p", "sigmoid", "tanh", "erf", "erfc", "softplus", "log_sigmoid", "xlogy", "sinh",
     "cosh", "atan", "special_entr", "special_xlogy", "special_expit", "special_erf", "special_log1p", "silu")
)  # fmt: skip
"""Functions of one number, and the arithmetic that combines them."""
WHOLE = frozenset(("prod", "amax", "amin", "logsumexp", "linalg_svdvals", "linalg_eigvalsh", "max", "min", "bilinear",
                   "linalg_vecdot"))  # fmt: skip
KEPT = VIEWS | MOVES | LINEAR | SMOOTH | WHOLE
THROUGH = SMOOTH | VIEWS | MOVES | frozenset(
    ("sum", "mean", "prod", "amax", "amin", "linalg_svdvals", "linalg_eigvalsh", "det", "linalg_det", "linalg_inv",
     "inverse", "matmul", "bmm", "linear", "einsum")
)  # fmt: skip
"""Operators after which something lost may be found again."""


@dataclass(frozen=True, eq=False)
class Made:
    """The call that made a tensor, and the length of the longest chain of calls behind it."""

    call: Call
    depth: int


def recorded(call: Call, results: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """The results of a call, with the call."""
    if len(results) != 1 or call.name not in KEPT or results[0].constant or results[0].made is not None:
        return results
    (result,) = results
    if any(result is fact for fact in call.facts()):
        return results
    if sum(core(field).numel() for field in result.fields()) > SMALL:
        return results
    depth = 1 + max((fact.made.depth for fact in call.facts() if fact.made is not None), default=0)
    return results if depth > DEPTH else (replace(result, made=Made(call, depth)),)


def made_by(fact: Any, *names: str) -> Call | None:
    """The call that made a fact, if it is one of these operators."""
    if not isinstance(fact, Fact) or fact.made is None:
        return None
    call: Call = fact.made.call
    return call if call.name in names else None


def leaves(facts: Sequence[Fact], through: frozenset[str]) -> list[Fact]:
    """The varying tensors that these are made of by operators of a kind."""
    found: dict[int, Fact] = {}
    seen: set[int] = set()
    pending = list(facts)
    while pending:
        fact = pending.pop()
        if id(fact) in seen or fact.constant:
            continue
        seen.add(id(fact))
        call = made_by(fact, *through)
        if call is None:
            found[id(fact)] = fact
        else:
            pending += call.facts()
    return list(found.values())


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
    while (call := made_by(fact, *VIEWS)) is not None:
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
