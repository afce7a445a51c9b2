"""A traced program, cut open at its bends: it is executed with other functions in their place.

Whether an operator is affine in what moves with the variable is never assumed. Its own rule in the table of the
calculus says so, for arguments that are affine and otherwise unknown; what its rule does not call affine is lowered by
a row of `kinks`, and where there is none, the program stays closed.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from convexnet.curvature.arguments import in_float64, real
from convexnet.curvature.call import Call, Refusal
from convexnet.curvature.facts import AFFINE, CONSTANT, constant, known
from convexnet.curvature.fields import uniform
from convexnet.curvature.graph import ancestors, base_name, functional, module_path, parents, source_line
from convexnet.curvature.table import row_of, shape_only
from convexnet.curvature.trace import Program
from convexnet.solve.bends import Bend, Kinks
from convexnet.solve.execution import Applied, executed, usable
from convexnet.solve.kinks import KINKS
from convexnet.solve.rounding import Rounding, Sizes

ADDITIVE = ("add", "sub", "rsub", "cat", "stack", "maximum", "max", "minimum", "clamp", "clamp_min")
"""Operators that add other inputs to what moves, and do not multiply the two."""


LARGEST = 4_000_000
"""Entries of a tensor whose absolute values are kept."""


class Opened:
    """A traced program whose bends can be exchanged.

    Several threads may run one; only `fixed`, what does not depend on the inputs, is filled as it runs, and always with
    the same tensors.

    Attributes:
        gated: other inputs may multiply what moves with the variable.
        values: the values of the model's tensors, by the `id` of each; of one that is missing, its present value.
    """

    def __init__(self, program: Program, variable: int) -> None:
        self.program = program
        self.variable = variable
        ((_, self.output),) = program.outputs
        self.moving: set[fx.Node] = set()
        self.other: set[fx.Node] = set()
        self.counts: set[fx.Node] = set()  # sizes of the batch, and what is computed from them
        self.gated = False
        needed = ancestors(self.output) if isinstance(self.output, fx.Node) else set[fx.Node]()
        self.nodes = [node for node in program.graph.nodes if node in needed]
        for node in self.nodes:
            source = program.sources.get(str(node.target)) if node.op == "placeholder" else None
            given = source is not None and source.kind == "input"
            chosen = source is not None and given and source.index == variable
            read = parents(node)
            if is_count(node, self.counts):
                self.counts.add(node)
            elif chosen or self.moving.intersection(read):
                self.moving.add(node)
                mixed = self.other.intersection(read)
                self.gated |= bool(mixed) and base_name(node.target) not in ADDITIVE
            elif given or (self.other | self.counts | self.moving).intersection(node.all_input_nodes):
                self.other.add(node)
        self.lasting = set(self.nodes) - self.moving - self.other - self.counts
        self.values: Mapping[int, Tensor] = {}
        self.fixed: dict[fx.Node, Any] = {}
        self.sizes: Sizes = {}
        self.affine: frozenset[fx.Node] | None = None  # those of `moving`; found when it is first asked for
        self.cells = 0  # how many numbers it makes of a batch of two

    def valued(self, values: Mapping[int, Tensor]) -> Opened:
        """The same program for given values of the model's tensors, by the `id` of each."""
        made = copy.copy(self)
        made.values, made.fixed, made.affine, made.sizes = values, {}, None, {}
        return made

    def rounding(self) -> Rounding:
        """A running error analysis, in which absolute values of weights are kept from run to run."""
        for held in self.fixed.values():
            if isinstance(held, Tensor) and held.is_floating_point() and held.numel() <= LARGEST:
                self.sizes.setdefault(id(held), (held, None))
        return Rounding(sizes=self.sizes)

    def run(
        self,
        inputs: Sequence[Any],
        bend: Callable[..., Any] | None,
        live: Mapping[int, Tensor] | None = None,
        apply: Applied | None = None,
    ) -> Any:
        """Execute the program in float64 with `bend(a, slope or Bend)` for every bend that sees the variable.

        Args:
            inputs: a batch of each.
            bend: what to compute instead; None: every operator as it is, bends too.
            live: tensors to take in the place of those of the model with these `id`s, so that gradients flow to them.
            apply: how to execute an operator on what moves: (name, operator, arguments, keyword arguments) -> results.

        Returns:
            The output, (B,).

        Raises:
            Refusal: an operator is not affine in what moves, and has no row in `KINKS`.
        """
        affine = None if bend is None else self.affinities()
        fixed = self.fixed
        env: dict[fx.Node, Any] = dict(fixed) if live is None else {}
        fresh: dict[fx.Node, Any] = {}
        for node in self.nodes:
            if node not in env:
                if node in self.moving and bend is not None and node.op == "call_function":
                    env[node] = self.moved(node, env, bend, apply, affine or frozenset())
                else:
                    env[node] = self.computed(node, env, inputs, live, apply if node in self.moving else None)
                if live is None and node in self.lasting:
                    fresh[node] = env[node]
        if fresh:
            self.fixed = fixed | fresh  # never changed in place: other threads may be copying it
        return env[self.output].reshape(-1) if isinstance(self.output, fx.Node) else torch.tensor([float(self.output)])

    def moved(
        self,
        node: fx.Node,
        env: dict[fx.Node, Any],
        bend: Callable[..., Any],
        apply: Applied | None,
        affine: frozenset[fx.Node],
    ) -> Any:
        """The result of an operator on what moves."""
        args: Any = fx.map_arg(node.args, env.__getitem__)
        kwargs: Any = fx.map_arg(node.kwargs, env.__getitem__)
        if node.target is operator.getitem:
            return args[0][args[1]]
        if node in affine:
            return executed(node, args, kwargs, apply)
        name = base_name(node.target)
        try:
            if name not in KINKS:
                raise Refusal("it is neither affine nor known to the solvers")
            return KINKS[name](with_columns(bend), tuple(map(real, args)), {k: real(v) for k, v in kwargs.items()})
        except Refusal as refusal:
            raise Refusal(f"{place_of(node)} cannot be opened: {refusal.reason}", refusal.remedy) from None

    def computed(
        self,
        node: fx.Node,
        env: dict[fx.Node, Any],
        inputs: Sequence[Any],
        live: Mapping[int, Tensor] | None,
        apply: Applied | None,
    ) -> Any:
        """The result of a node that is executed as it is."""
        if node.op == "placeholder":
            source = self.program.sources[str(node.target)]
            if source.kind == "input":
                return in_float64(inputs[source.index])
            own = source.tensor
            if own is not None:
                own = self.values.get(id(own), own).detach() if live is None or id(own) not in live else live[id(own)]
            return usable(own)
        if node.op == "get_attr":
            return usable(operator.attrgetter(str(node.target))(self.program.module))
        args: Any = fx.map_arg(node.args, env.__getitem__)
        kwargs: Any = fx.map_arg(node.kwargs, env.__getitem__)
        if node.target is operator.getitem:
            return args[0][args[1]]
        return executed(node, args, kwargs, apply)

    def affinities(self) -> frozenset[fx.Node]:
        """The operators on what moves whose own rule calls them affine in it."""
        if self.affine is None:
            with torch.no_grad():
                self.affine = frozenset(self.found_affine())
        return self.affine

    def found_affine(self) -> Iterator[fx.Node]:
        """Run the program on the example, for the shapes, and ask the rule of each operator on what moves."""
        env: dict[fx.Node, Any] = {}
        facts: dict[fx.Node, Any] = {}
        self.cells = 0
        for node in self.nodes:
            env[node] = self.computed(node, env, self.program.inputs, None, None)
            parts = env[node] if isinstance(env[node], (list, tuple)) else [env[node]]
            if node in self.moving or node in self.other:
                self.cells += sum(part.numel() for part in parts if isinstance(part, Tensor))
            if node.op == "call_function" and node in self.moving and node.target is not operator.getitem:
                if is_affine(node, fx.map_arg((node.args, node.kwargs), facts.__getitem__), env[node]):
                    yield node
            facts[node] = fact_of(env[node], node in self.moving, node in self.other)


def is_count(node: fx.Node, counts: set[fx.Node]) -> bool:
    """Whether a node is a size, or computed from sizes alone."""
    if node.op != "call_function" or isinstance(node.meta.get("val"), (Tensor, list, tuple)):
        return False
    if base_name(node.target).startswith("sym_"):
        return True
    return bool(node.all_input_nodes) and counts.issuperset(node.all_input_nodes)


def fact_of(value: Any, moves: bool, given: bool) -> Any:
    """What is assumed of a value: affine where it moves, any constant where other inputs make it, else as it is."""
    if isinstance(value, (list, tuple)):
        return tuple(fact_of(part, moves, given) for part in value)
    if not isinstance(value, Tensor):
        return value
    integral = not value.dtype.is_floating_point
    if moves:
        return replace(constant(value.shape), varies=uniform(True, value.shape, torch.bool), integral=integral)
    return replace(constant(value.shape), integral=integral) if given else known(value)


def is_affine(node: fx.Node, arguments: tuple[Any, Any], result: Any) -> bool:
    """Whether the rule of an operator gives affine results."""
    name = base_name(node.target)
    if name.startswith(("empty", "new_empty")):  # whatever the memory holds does not depend on anything
        return True
    results = [value for value in (result if isinstance(result, (list, tuple)) else [result]) if value is not None]
    if not results or not all(isinstance(value, Tensor) for value in results):
        return False
    floating = [value.dtype.is_floating_point for value in results]
    shapes = tuple(tuple(value.shape) for value in results)
    types = tuple(value.dtype for value in results)
    call = Call(
        functional(node.target, name),
        name,
        arguments[0],
        dict(arguments[1]),
        shapes,
        floating[0],
        types,
        shape_only=shape_only(name),
    )
    if not floating[0]:
        return False
    try:
        facts = row_of(name).rule(call)
    except (Refusal, RuntimeError, TypeError, ValueError, IndexError):  # a rule that does not cover the call
        return False
    listed = facts if isinstance(facts, tuple) else (facts,)
    return len(listed) == len(shapes) and all(
        fact.curvature in (CONSTANT, AFFINE) and tuple(fact.shape) == shape
        for fact, shape, real in zip(listed, shapes, floating, strict=True)
        if real
    )


def place_of(node: fx.Node) -> str:
    """An operator with its module and its source line, for messages."""
    path, line = module_path(node), source_line(node)
    where = ", ".join(part for part in (path and f"in {path}", line) if part)
    return f"{base_name(node.target)} ({where})" if where else base_name(node.target)


def with_columns(bend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The bend for (B,) too, as one column."""

    def bent(a: Tensor, *rest: Any) -> Tensor:
        return bend(a[:, None], *rest)[:, 0] if a.ndim == 1 else bend(a, *rest)

    return bent


def bend_of(a: Tensor, bend: float | Tensor | Bend) -> Bend:
    """The bend of an argument (B, ...): a slope is that of a kink, for each entry of a sample."""
    if isinstance(bend, Bend):
        return bend
    return Kinks(torch.as_tensor(bend, dtype=a.dtype, device=a.device).expand(a[:1].shape)[0].flatten().clone())


def value_of(a: Tensor, bend: float | Tensor | Bend) -> Tensor:
    """The bend itself, as an argument of `Opened.run`."""
    if isinstance(bend, Bend):
        flat = a.flatten(1)
        return bend.value(flat).reshape(a.shape if bend.group == 1 else a.shape[:-1])
    return torch.maximum(bend * a, a)
