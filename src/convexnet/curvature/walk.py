"""The forward walk: facts from the inputs to the outputs, and the blame where convexity is lost.

Long because what is known of a step, and who is blamed for what is not, are read together.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from convexnet.curvature.call import Call, Refusal, Result
from convexnet.curvature.constant_folding import (
    fact_of_attribute,
    fact_without_rule,
    fold,
    is_in_real_arithmetic,
    tensor_fact,
)
from convexnet.curvature.facts import (
    CONSTANT,
    UNKNOWN,
    Fact,
    constant,
    has_gaps,
    has_moved,
    signed_zeros,
    typed,
    unknown,
)
from convexnet.curvature.fields import core, elementwise, is_aligned, level, uniform, where_any
from convexnet.curvature.nonfinite import NAN, forget_over_holes, mark_nonfinite, mark_unknown, with_infinities
from convexnet.curvature.patterns.comparisons import Choice, Pick, find_choices
from convexnet.curvature.patterns.expressions import duplicates, with_call
from convexnet.curvature.patterns.one_number_and_perspectives import refine
from convexnet.curvature.patterns.quadratic_forms import quadratic_fact
from convexnet.curvature.patterns.shifted_logsumexp import cancel_shift
from convexnet.curvature.row import Row
from convexnet.curvature.rules.matrices import sum_of_spectrum
from convexnet.curvature.rules.opaque_operators import UNRULED, Opaque, explain_not_real
from convexnet.curvature.rules.sorting import refine_sorted
from convexnet.curvature.table import TABLE, row_of
from convexnet.curvature.tracing.graph import ancestors, call_of_node, draws, types_of
from convexnet.curvature.tracing.trace import Program
from convexnet.curvature.value_bounds import is_finite


@dataclass(frozen=True)
class Blame:
    """A step that lost something: which, why, and what to do."""

    node: fx.Node
    reason: str
    remedy: str
    argument: str
    final: bool = False  # nothing that reads the result can make up for it


@dataclass
class Walk:
    """What a forward walk found: the facts of the outputs, a line for each step, and where things broke."""

    facts: dict[str, Fact] = field(default_factory=dict)
    steps: list[tuple[fx.Node, str]] = field(default_factory=list)
    blames: list[Blame] = field(default_factory=list)
    turns: list[Blame] = field(default_factory=list)  # where convex elements became concave
    drawn: set[fx.Node] = field(default_factory=set[fx.Node])  # random numbers
    casts: list[fx.Node] = field(default_factory=list)  # of what varies, to a type of lower precision
    errors: list[Exception] = field(default_factory=list)  # of rules that failed: bugs, for the tests
    stopped: bool = False


class Words(Protocol):
    """Puts into words why a call loses convexity, and where it turned."""

    def explain(self, call: Call) -> Refusal: ...

    def explain_turn(self, call: Call) -> Refusal: ...


class _Stop(Exception):
    """The caller wanted to know no more than that something broke."""


def walk(
    program: Program,
    given: Callable[[str], Fact],
    words: Words,
    fast: bool = False,
    before: Callable[[Call, fx.Node], Call] | None = None,
) -> Walk:
    """Carry facts through a program.

    Args:
        program: the traced model.
        given: the fact of each placeholder.
        words: how to put a loss into words.
        fast: stop at the first step that breaks.
        before: sees each call first and may change the facts it works on.

    Returns:
        The walk; `stopped` if it was cut short.
    """
    found = Walk()
    constants = frozenset(name for name, source in program.sources.items() if source.kind == "constant")
    runner = _Runner(words, found, fast, before, constants)
    try:
        outputs = runner.graph(program.graph, program.module, given)
    except _Stop:
        found.stopped = True
        return found
    for path, leaf in program.outputs:
        fact = outputs(leaf)
        if isinstance(fact, Fact):
            found.facts[path] = fact
    return found


@dataclass
class _Runner:
    words: Words
    found: Walk
    fast: bool
    before: Callable[[Call, fx.Node], Call] | None
    constants: frozenset[str]  # placeholders of tensors that the forward makes or holds
    refined: set[fx.Node] = field(default_factory=set[fx.Node])  # that make something known of what was not
    plans: dict[fx.Node, Choice | Pick] = field(default_factory=dict[fx.Node, Choice | Pick])
    parts: set[fx.Node] = field(default_factory=set[fx.Node])  # of choices

    def graph(self, graph: fx.Graph, module: torch.nn.Module, given: Callable[[str], Any]) -> Callable[[Any], Any]:
        """Walk one graph; returns a function that looks up the values of its outputs."""
        (output,) = (node for node in graph.nodes if node.op == "output")
        same = duplicates(graph)
        last = last_uses(graph, output, same)
        plans = find_choices(list(last))
        self.plans |= plans
        self.parts.update(*(plan.inner for plan in plans.values()))
        last = values_kept(plans, last)
        env: dict[fx.Node, Any] = {}

        def lookup(value: Any) -> Any:
            return env[value] if isinstance(value, fx.Node) else value

        for node in graph.nodes:
            if node not in last:
                continue
            if node.op == "placeholder":
                env[node] = self.placed(given(str(node.target)), node)
            elif node.op == "get_attr":
                env[node] = fact_of_attribute(module, str(node.target))
            elif node.op == "call_function":
                env[node] = (
                    self.repeated_result(node, env[same[node]]) if same.get(node) in env else self.step(node, lookup)
                )
            for done in last[node]:
                env.pop(done, None)
        self.take_back(last)
        return lookup

    def repeated_result(self, node: fx.Node, result: Any) -> Any:
        """The result of a call that was made before."""
        if isinstance(result, Fact) and result.curvature != CONSTANT:
            self.found.steps.append((node, describe(result)))
        return result

    def take_back(self, needed: Mapping[fx.Node, Any]) -> None:
        """Take back the blame of nodes whose losses all their readers have settled: more than one operator can see is
        seen by those that follow (`patterns`, `rules.sorting`). It is the one way in which blame goes."""
        cleared: dict[fx.Node, bool] = {}
        for node in reversed(list(needed)):
            users = [user for user in node.users if user in needed or user.op == "output"]
            cleared[node] = node in self.refined or (bool(users) and all(cleared.get(user, False) for user in users))
        self.found.blames[:] = [b for b in self.found.blames if b.final or not cleared.get(b.node, False)]

    def may_be_refined(self, node: fx.Node, call: Call) -> bool:
        """Whether those that read a result, or the operator itself as a choice, may make up for what it loses."""
        return row_of(call.name).may_be_refined or node in self.parts

    def step(self, node: fx.Node, lookup: Callable[[Any], Any]) -> Any:
        args: Any = fx.map_arg(node.args, lookup)
        kwargs: Any = fx.map_arg(node.kwargs, lookup)
        if node.target is operator.getitem:
            return args[0][args[1]]
        inlined = self.inline(node, args)
        if inlined is not None:
            return inlined
        listed = isinstance(node.meta.get("val"), (list, tuple))
        call, _ = call_of_node(node, args, kwargs)
        result: Any = self.apply(self.before(call, node) if self.before else call, node)
        if not isinstance(result, (Fact, tuple)):
            return result  # a number that is known
        results = self.checked(result, call, node)
        if node in self.plans and where_any(results[0].unknown):
            results = self.chosen(node, call, lookup) or results
        if results and results[0].curvature != CONSTANT:
            if is_cast(node):
                self.found.casts.append(node)
            self.found.steps.append((node, describe(results[0])))
        return results if listed else results[0]

    def chosen(self, node: fx.Node, call: Call, lookup: Callable[[Any], Any]) -> tuple[Fact, ...] | None:
        """The result of a choice by comparison, if more is known of it as such (see `comparisons`)."""
        found = self.plans[node].find_fact(lookup)
        if found is None:
            return None
        fact, origins = replace(found[0], moved=True), found[1]
        if not where_any(fact.unknown):
            self.refined.add(node)
        if mixes(fact) and not any(mixes(origin) for origin in origins):
            self.blame(node, call, MIXING, always=True)
        return (fact,)

    def checked(self, result: Result, call: Call, node: fx.Node) -> tuple[Fact, ...]:
        """The results, if each is a fact of a tensor of its node's shape and type; else a rule is at fault."""
        results = result if isinstance(result, tuple) else (result,)
        row = row_of(call.name)
        undefined = isinstance(row.rule, Opaque) or any(fact.undefined for fact in call.read())
        undefined = undefined or (row.undefined is not None and row.undefined(call))
        moved = any(has_moved(fact) for fact in call.read())
        try:
            if any(tuple(r.shape) != tuple(shape) for r, shape in zip(results, call.shapes, strict=True)):
                raise TypeError("the shapes differ")
            told = tuple(
                typed(r, dtype, undefined, moved and r.value is None)
                for r, dtype in zip(results, call.dtypes, strict=True)
            )
            return with_call(call, row, told)
        except (TypeError, ValueError) as error:
            self.found.errors.append(error)
            lost = self.blame(node, call, Refusal(f"its rule does not cover this call ({error})", UNRULED))
        return tuple(
            typed(r, dtype, True)
            for r, dtype in zip(lost if isinstance(lost, tuple) else (lost,), call.dtypes, strict=True)
        )

    def placed(self, value: Any, node: fx.Node) -> Any:
        """The fact of a placeholder, which is the tensor of the program that it is for."""
        like = node.meta.get("val")
        if not isinstance(value, Fact) or not isinstance(like, Tensor):
            return value
        if value.value is None:
            return typed(value, like.dtype)
        if str(node.target) in self.constants and not is_finite(value.value):  # parameters and buffers have a finding
            return tensor_fact(value.value)
        return value

    def inline(self, node: fx.Node, args: Sequence[Any]) -> Any:
        """Regions of no_grad or autocast compute the same real function: walk what is inside."""
        name = str(node.target)
        skip = {"wrap_with_set_grad_enabled": 2, "wrap_with_autocast": 5}.get(name)
        if skip is None:
            return None
        inner = args[skip - 1]
        names = [str(n.target) for n in inner.graph.nodes if n.op == "placeholder"]
        given = dict(zip(names, args[skip:], strict=True))
        lookup = self.graph(inner.graph, inner, given.__getitem__)
        (output,) = (n for n in inner.graph.nodes if n.op == "output")
        return tuple(lookup(value) for value in output.args[0])

    def apply(self, call: Call, node: fx.Node) -> Result:
        """One operator: computed where everything is known, else by its rule; blamed where it breaks something."""
        facts = call.read()
        if self.fast and not self.may_be_refined(node, call):
            if any(where_any(fact.unknown) and fact.order is None and fact.size is None for fact in facts):
                raise _Stop
        if draws(node):
            self.found.drawn.add(node)
            return self.blame(node, call, RANDOM, always=True)
        if call.name.startswith(("empty", "new_empty")):  # whatever the memory holds
            return constant(call.shape)
        moving = any(not fact.constant for fact in facts)
        at_hand = all(fact.value is not None for fact in facts)
        row = row_of(call.name)
        if row.minds_zero and any(where_any(signed_zeros(fact)) for fact in facts):
            return self.blame(node, call, ZERO)
        gaps = [fact for fact in facts if has_gaps(fact)]
        if gaps and (row.forgives or isinstance(row.rule, Opaque) or any(fact.integral for fact in gaps)):
            return self.blame(node, call, GAP)
        if not moving and not at_hand and not is_in_real_arithmetic(call, node):
            return fact_without_rule(call)
        if moving and not call.floating and call.name in TABLE and not isinstance(row.rule, Opaque):
            return self.blame(node, call, explain_not_real(node.meta.get("val")))
        try:
            if at_hand:
                return fold(call)
            if call.unread:
                raise UNREAD
            if row.forgives and any(fact.undefined for fact in facts):
                raise GAP
            sums = refine_sorted(call, row) if any(fact.order is not None for fact in facts) else None
            result = forget_over_holes(call, row.rule(call) if sums is None else sums)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:  # never let a gap in a rule pass, or crash
            self.found.errors.append(error)
            cause = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            return self.blame(node, call, Refusal(f"its rule does not cover this call ({cause})", UNRULED))
        except Refusal as refusal:
            if not moving and not gaps and not any(where_any(signed_zeros(fact)) for fact in facts):
                return fact_without_rule(call)
            known_here = refusal.known_of(call)
            result = None if known_here is None else refine(call, row, known_here)
            result = refine_by_patterns(call, row, result) if moving else result
            if result is None or where_any(result.unknown):
                lost = self.blame(node, call, refusal)
                if isinstance(lost, Fact) and row.is_affine:  # sums and products are defined where their terms are
                    lost = replace(lost, undefined=False)
                return lost if result is None else result
        spoil = mark_nonfinite(call) if moving else None
        fine = not any(where_any(f.unknown) for f in facts if not f.constant)
        if spoil is not None:
            if fine:
                self.blame(node, call, spoil[0], always=True)
            return mark_unknown(result, spoil[1])
        result = with_infinities(call, result) if moving else result
        if moving and isinstance(result, Fact):
            result = refine_by_patterns(call, row, refine(call, row, result)) or result
        results = result if isinstance(result, tuple) else (result,)
        promise = results[0].order is not None or results[0].size is not None
        lost = any(where_any(r.unknown) for r in results[:1])
        if (promise or not lost) and mixes(results[0]) and not any(mixes(f) for f in facts):
            self.blame(node, call, MIXING, always=True)
        if not lost:
            if not fine:
                self.refined.add(node)
            if has_concave(results[0]) and not any(has_concave(f) for f in facts) and not self.fast:
                if any(where_any(f.nonconcave) for f in facts):
                    self.found.turns.append(make_blame(node, call, self.words.explain_turn(call)))
            return result
        if not any(where_any(f.unknown) for f in facts):
            self.blame(node, call, self.words.explain(call), promise=promise)
        elif fine:
            self.blame(node, call, NAN, always=True)
        return result

    def blame(self, node: fx.Node, call: Call, refusal: Refusal, always: bool = False, promise: bool = False) -> Result:
        """Note a loss, unless an argument was lost before; the result is unknown.

        `always`: it is noted in any case, and stands; `promise`: the result says what those that read it may use.
        """
        if self.fast and (always or not (promise or self.may_be_refined(node, call))):
            raise _Stop
        facts = call.facts()
        if always or not any(where_any(f.unknown) for f in facts):
            self.found.blames.append(replace(make_blame(node, call, refusal), final=always))
        rows = 3 if any(f.moved or where_any(f.rows) for f in facts) else 0
        results = tuple(
            replace(unknown(shape, uniform(rows, shape, torch.uint8)), undefined=True) for shape in call.shapes
        )
        return results[0] if len(results) == 1 else results


def refine_by_patterns(call: Call, row: Row, result: Fact | None) -> Fact | None:
    """The result of a call that its rule lost, if the expression behind it is of a known kind."""
    if result is not None and not where_any(result.unknown):
        return result
    for found in (quadratic_fact(call, row), sum_of_spectrum(call, row.rule)):
        if found is not None:
            return found
    return None if result is None else cancel_shift(call, result)


RANDOM = Refusal("it draws random numbers", "make the forward deterministic in eval mode")
UNREAD = Refusal(
    "it takes a number (an index, a size, a setting) that is read from a tensor whose value is not known: from an "
    "input, or from a parameter",
    "read it from a buffer, or give a Python number",
)
GAP = Refusal(
    "it makes a number (or an integer, or a boolean) of NaN, and its argument may be undefined at some points",
    "keep the arguments of powers, logarithms and quotients where these are defined",
)
ZERO = Refusal(
    "it makes different numbers of 0 and -0, and its argument may be either, with the sign of the input",
    "keep its argument away from zero: add a small positive number",
)
MIXING = Refusal(
    "it mixes the rows of the batch: the samples influence each other, and the output is not a function of one sample",
    "reduce over the dimensions of a sample only (dim 1 and up)",
)


def is_cast(node: fx.Node) -> bool:
    """Whether an operator rounds real numbers to a type of lower precision."""
    kinds = [types_of(other)[0] for other in (node, *node.all_input_nodes[:1])]
    if len(kinds) < 2 or not all(kind is not None and kind.is_floating_point for kind in kinds):
        return False
    after, before = (torch.finfo(kind).eps for kind in kinds if kind is not None)
    return after > before


def make_blame(node: fx.Node, call: Call, refusal: Refusal) -> Blame:
    argument = "; ".join(describe(f) for f in call.facts() if f.curvature != CONSTANT) or "nothing that varies"
    return Blame(node, refusal.reason, refusal.remedy, argument)


def has_concave(fact: Fact) -> bool:
    """Whether some element is concave and not convex."""
    bent = elementwise(torch.logical_not, fact.shape, fact.nonconcave)
    return where_any(elementwise(torch.logical_and, fact.shape, fact.nonconvex, bent))


def mixes(fact: Fact) -> bool:
    return not is_aligned(fact.rows) and level(fact.rows) != 0 and bool((core(fact.rows) == 3).any())


def values_kept(
    plans: Mapping[fx.Node, Choice | Pick], last: dict[fx.Node, list[fx.Node]]
) -> dict[fx.Node, list[fx.Node]]:
    """The values that can be dropped after each node, where choices need what they are computed from."""
    if not plans:
        return last
    order = {node: i for i, node in enumerate(last)}
    until = {done: node for node, drops in last.items() for done in drops}
    for node, plan in plans.items():
        for part in plan.leaves | plan.inner:
            if part in until and order[until[part]] < order[node]:
                until[part] = node
    drops: dict[fx.Node, list[fx.Node]] = {node: [] for node in last}
    for done, node in until.items():
        drops[node].append(done)
    return drops


def last_uses(
    graph: fx.Graph, output: fx.Node, same: Mapping[fx.Node, fx.Node] | None = None
) -> dict[fx.Node, list[fx.Node]]:
    """The nodes that the outputs need, each with the values that can be dropped after it; what a node has the `same`
    value as stays until then."""
    copies: dict[fx.Node, list[fx.Node]] = {}
    for copy, first in (same or {}).items():
        copies.setdefault(first, []).append(copy)
    needed = ancestors(output)
    kept = set(output.all_input_nodes)
    order = {node: i for i, node in enumerate(graph.nodes)}
    drops: dict[fx.Node, list[fx.Node]] = {node: [] for node in graph.nodes if node in needed}
    for node in drops:
        users = [user for user in (*node.users, *copies.get(node, ())) if user in drops]
        if node not in kept and users:
            drops[max(users, key=order.__getitem__)].append(node)
    return drops


def describe(fact: Fact) -> str:
    """A fact in words: curvature and sign."""
    curvature = fact.curvature
    if curvature == UNKNOWN and not where_any(fact.unknown):
        down = elementwise(torch.logical_and, fact.shape, fact.nonconvex, fact.varies)
        row = down[0] if down.ndim > 1 else down
        curvature = f"mixed (concave in {int(row.sum()):,} of {row.numel():,} elements, convex in the others)"
    sign = ", >= 0" if not fact.goes_below_zero else (", <= 0" if not fact.goes_above_zero else "")
    return curvature + sign
