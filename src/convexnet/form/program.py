"""A traced program, cut at its atoms: it is executed with other functions in their place.

Whether an operator is affine in what moves with the variable is never assumed. Its own rule in the table of the
calculus says so, for arguments that are affine and otherwise unknown; what its rule does not call affine is lowered by
a row of `operators`, and where there is none, the program stays closed and the operator is named. The same rule, asked
whether the operator is affine in the other inputs too, says where these multiply what moves.

Long because running a program and what is found out about its operators are read together.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from convexnet.curvature.arguments import as_real, in_float64
from convexnet.curvature.call import Refusal
from convexnet.curvature.tracing.graph import ancestors, base_name, module_path, parents, source_line
from convexnet.curvature.tracing.trace import Program
from convexnet.form.affinity import fact_of, is_affine
from convexnet.form.atoms import Atom, Kinks
from convexnet.form.execution import Applied, execute, own_tensor
from convexnet.form.operators import LOWERED, OFFSETS
from convexnet.form.patterns import Pattern, find_patterns
from convexnet.form.quadratic import Degrees
from convexnet.form.refusals import without_row
from convexnet.form.rows import Atoms


@dataclass(frozen=True)
class Gate:
    """A product with what other inputs make, where these take their values later: no atom, but a place for a cut.

    Attributes:
        factor: of each entry.
    """

    factor: Tensor

    group = 1


AtCut = float | Tensor | Atom | Gate
"""What is met at a cut: the slope of a kink, another atom, or a gate."""


@dataclass(frozen=True)
class Kinds:
    """What the operators on what moves are, for the values of the model's tensors.

    Attributes:
        affine: those whose own rule calls them affine in what moves.
        gates: those that other inputs enter otherwise than by being added.
        closed: those that are neither affine nor lowered, each with the reason.
        joined: those that are lowered with operators before them as one.
        needed: all nodes that are then left.
        cells: how many numbers the program makes of a batch of two.
    """

    affine: frozenset[fx.Node]
    gates: frozenset[fx.Node]
    closed: tuple[tuple[fx.Node, Refusal], ...]
    patterns: Mapping[fx.Node, Pattern]
    needed: Collection[fx.Node]
    cells: int


class OpenedProgram:
    """A traced program whose atoms can be exchanged.

    Several threads may run one: what it finds out about itself does not depend on the inputs, and is stored as a whole.

    Args:
        program: of one output.
        variable: the number of the input that varies.
        parameters: the numbers of inputs that take their values later; then the products with what depends on them are
            cut out too. None: there are none, and products stay.
        paired: write the larger of two tensors as an atom of both, and not as a + max(b - a, 0).

    Attributes:
        values: the values of the model's tensors, by the `id` of each; of one that is missing, its present value.
    """

    def __init__(
        self, program: Program, variable: int, parameters: Collection[int] | None = None, paired: bool = False
    ) -> None:
        self.program = program
        self.variable = variable
        self.parameters = parameters
        self.paired = paired
        ((_, self.output),) = program.outputs
        self.moving: set[fx.Node] = set()
        self.other: set[fx.Node] = set()
        self.counts: set[fx.Node] = set()  # sizes of the batch, and what is computed from them
        self.touched: set[fx.Node] = set()  # what depends on inputs that take their values later
        needed = ancestors(self.output) if isinstance(self.output, fx.Node) else set[fx.Node]()
        self.nodes = [node for node in program.graph.nodes if node in needed]
        for node in self.nodes:
            source = program.sources.get(str(node.target)) if node.op == "placeholder" else None
            given = source is not None and source.kind == "input"
            chosen = source is not None and given and source.index == variable
            read = parents(node)
            later = given and not chosen and (parameters is None or (source is not None and source.index in parameters))
            if is_count(node, self.counts):
                self.counts.add(node)
            elif chosen or self.moving.intersection(read):
                self.moving.add(node)
            elif given or (self.other | self.counts | self.moving).intersection(node.all_input_nodes):
                self.other.add(node)
            if later or self.touched.intersection(read):
                self.touched.add(node)
        self.lasting = set(self.nodes) - self.moving - self.other - self.counts
        self.values: Mapping[int, Tensor] = {}
        self.fixed: dict[fx.Node, Any] = {}
        self.found: Kinds | None = None
        self.kept: dict[str, Any] = {}  # room for what is computed from what is fixed

    def valued(self, values: Mapping[int, Tensor]) -> OpenedProgram:
        """The same program for given values of the model's tensors, by the `id` of each."""
        made = copy.copy(self)
        made.values, made.fixed, made.found, made.kept = values, {}, None, {}
        return made

    @property
    def gated(self) -> bool:
        """Whether other inputs do more than being added to what moves."""
        return bool(self.kinds().gates)

    def run(
        self,
        inputs: Sequence[Any],
        atom: Callable[..., Any] | None,
        live: Mapping[int, Tensor] | None = None,
        apply: Applied | None = None,
        still: dict[fx.Node, Any] | None = None,
    ) -> Any:
        """The output of `results`, (B,)."""
        return self.results(inputs, atom, live, apply, still=still).reshape(-1)

    def results(
        self,
        inputs: Sequence[Any],
        atom: Callable[..., Any] | None,
        live: Mapping[int, Tensor] | None = None,
        apply: Applied | None = None,
        meet: Callable[[fx.Node], object] | None = None,
        still: dict[fx.Node, Any] | None = None,
    ) -> Any:
        """Execute the program in float64 with `atom(a, slope or Atom or Gate)` for every atom that sees the variable.

        Args:
            inputs: a batch of each.
            atom: what to compute instead; None: every operator as it is, atoms too.
            live: tensors to take in the place of those of the model with these `id`s, so that gradients flow to them.
            apply: how to execute an operator on what moves: (name, operator, arguments, keyword arguments) -> results.
            meet: told of every operator that is cut, before it is.
            still: what does not move with the variable, kept from one run to the next with the same other inputs and as
                many rows; filled in. Not with `live` tensors.

        Returns:
            The output, (B, ...).

        Raises:
            Refusal: an operator is neither affine in what moves nor lowered.
        """
        kinds = None if atom is None else self.kinds()
        if kinds is not None and kinds.closed:
            node, refusal = kinds.closed[0]
            raise Refusal(f"{place_of(node)} cannot be opened: {refusal.reason}", refusal.remedy)
        fixed = self.fixed
        env: dict[fx.Node, Any] = dict(fixed) if live is None else {}
        env |= still or {}
        fresh: dict[fx.Node, Any] = {}
        for node in self.nodes:
            if node not in env and (kinds is None or node in kinds.needed):
                if kinds is None or node not in self.moving or node.op != "call_function" or node in kinds.affine:
                    env[node] = self.computed(node, env, inputs, live, apply if node in self.moving else None)
                else:
                    if meet is not None:
                        meet(node)
                    env[node] = self.lowered(node, env, atom or apply_atom, kinds)
                if live is None and node in self.lasting:
                    fresh[node] = env[node]
                elif still is not None and node not in self.moving:
                    still[node] = env[node]
        if fresh:
            self.fixed = fixed | fresh  # never changed in place: other threads may be copying it
        if isinstance(self.output, fx.Node):
            return env[self.output]
        return torch.tensor([float(self.output)], dtype=torch.float64)

    def lowered(self, node: fx.Node, env: Mapping[fx.Node, Any], atom: Callable[..., Any], kinds: Kinds) -> Any:
        """The result of an operator on what moves that is not affine, or a gate."""
        if node in kinds.patterns:
            return self.whole(node, kinds.patterns[node], env, atom)
        if self.cuts(node):
            args: Any = fx.map_arg(node.args, env.__getitem__)
            return is_gate(self.atoms(node, atom), base_name(node.target), node.args[0] in self.moving, args)
        try:
            return self.by_row(node, env, atom)
        except Refusal as refusal:
            raise Refusal(f"{place_of(node)} cannot be opened: {refusal.reason}", refusal.remedy) from None

    def by_row(self, node: fx.Node, env: Mapping[fx.Node, Any], atom: Callable[..., Any]) -> Any:
        """The result of an operator as its row writes it."""
        args: Any = fx.map_arg(node.args, env.__getitem__)
        kwargs: Any = fx.map_arg(node.kwargs, env.__getitem__)
        row = LOWERED[base_name(node.target)]
        return row(
            self.atoms(node, atom), tuple(map(as_real, args)), {key: as_real(part) for key, part in kwargs.items()}
        )

    def whole(self, node: fx.Node, joined: Pattern, env: Mapping[fx.Node, Any], atom: Callable[..., Any]) -> Any:
        """The result of several operators that are lowered as one."""
        args: Any = fx.map_arg(joined.args, env.__getitem__)
        return joined.row(self.atoms(node, atom), tuple(map(as_real, args)), {})

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
            return own_tensor(own)
        if node.op == "get_attr":
            held = operator.attrgetter(str(node.target))(self.program.module)
            return own_tensor(held.clone() if isinstance(held, Tensor) else held)
        args: Any = fx.map_arg(node.args, env.__getitem__)
        kwargs: Any = fx.map_arg(node.kwargs, env.__getitem__)
        if node.target is operator.getitem:
            return args[0][args[1]]
        return execute(node, args, kwargs, apply)

    def origins(self, inputs: Sequence[Any]) -> list[fx.Node]:
        """The operator that each atom belongs to."""
        met: list[fx.Node] = []
        found: list[fx.Node] = []

        def noted(a: Tensor, atom: AtCut = 0.0) -> Tensor:
            found.append(met[-1])
            return apply_atom(a, atom)

        with torch.no_grad():
            self.results(inputs, noted, meet=met.append)
        return found

    def written_for_two(self, inputs: Sequence[Tensor]) -> str:
        """The first operator that fails with a batch of these inputs, or makes two rows of what has another number of
        them; empty where there is none."""
        rows = len(inputs[self.variable])
        env: dict[fx.Node, Any] = {}
        with torch.no_grad():
            for node in self.nodes:
                try:
                    env[node] = self.computed(node, env, inputs, None, None)
                except (RuntimeError, IndexError):
                    return place_of(node)
                if node in self.moving and rows != 2 and isinstance(env[node], Tensor) and env[node].shape[:1] == (2,):
                    if any(getattr(env[each], "shape", ())[:1] == (rows,) for each in node.all_input_nodes):
                        return place_of(node)
        return ""

    def kinds(self) -> Kinds:
        """What the operators on what moves are; found when it is first asked for."""
        if self.found is None:
            with torch.no_grad():
                self.found = self.classify()
        return self.found

    def classify(self) -> Kinds:
        """Run the program on the example, for the shapes, and ask the rule of each operator on what moves."""
        env: dict[fx.Node, Any] = {}
        facts: dict[fx.Node, Any] = {}
        wider: dict[fx.Node, Any] = {}  # the same, where what takes its value later moves too
        affine: set[fx.Node] = set()
        gates: set[fx.Node] = set()
        closed: list[tuple[fx.Node, Refusal]] = []
        elsewhere: list[fx.Node] = []
        cells = 0
        for node in self.nodes:
            try:
                env[node] = self.computed(node, env, self.program.inputs, None, None)
            except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
                # the example need not lie in the domain; an inverse has the shape of its argument
                env[node] = torch.zeros_like(env[node.all_input_nodes[0]])
            parts = env[node] if isinstance(env[node], (list, tuple)) else [env[node]]
            moves = node in self.moving
            if moves or node in self.other:
                cells += sum(part.numel() for part in parts if isinstance(part, Tensor))
            sized = node.op == "call_function" and not parents(node) and not base_name(node.target).startswith(EMPTY)
            facts[node] = fact_of(env[node], moves, node in self.other and not sized)  # zeros_like is known
            later = node in self.touched
            wider[node] = fact_of(env[node], True, False) if later and not moves else facts[node]
        (root,) = (node for node in self.nodes if self.varies(node)) if self.moving else (None,)

        def straight(node: fx.Node) -> bool:
            return is_affine(node, fx.map_arg((node.args, node.kwargs), facts.__getitem__), env[node])

        degrees = Degrees(self.nodes, self.moving, root, straight, env, self.lasting)
        joined, needed = find_patterns(self.output, self.nodes, self.moving, facts.__getitem__, degrees)
        for node in self.nodes:
            if node not in needed or node not in self.moving:
                continue
            if node.op != "call_function" or node.target is operator.getitem:
                affine.add(node)
                continue
            if node in joined:
                if any(arg in self.touched and arg not in self.moving for arg in joined[node].args):
                    gates.add(node)
                    closed += [(node, Refusal(WHAT, ARRAY))] if self.parameters is not None else []
                elsewhere += [node] if self.turned(node) else []
                continue
            affine_here = straight(node)
            affine |= {node} if affine_here else set()
            if any(each in self.touched and each not in self.moving for each in parents(node)):
                if affine_here:
                    apart = not is_affine(node, fx.map_arg((node.args, node.kwargs), wider.__getitem__), env[node])
                else:
                    apart = base_name(node.target) not in OFFSETS
                gates |= {node} if apart else set()
            refusal = self.refusal(node, env, affine_here, node in gates)
            if refusal is not None:
                closed.append((node, refusal))
            else:
                affine -= gates if self.parameters is not None else set()
                elsewhere += [node] if node not in affine and self.turned(node) else []
        if elsewhere and not closed:
            closed += self.displaced(elsewhere[0], Kinds(frozenset(affine), frozenset(gates), (), joined, needed, 0))
        return Kinds(frozenset(affine), frozenset(gates), tuple(closed), joined, needed, cells)

    def varies(self, node: fx.Node) -> bool:
        """Whether a node is the variable."""
        source = self.program.sources.get(str(node.target)) if node.op == "placeholder" else None
        return source is not None and source.kind == "input" and source.index == self.variable

    def refusal(self, node: fx.Node, env: Mapping[fx.Node, Any], straight: bool, gate: bool) -> Refusal | None:
        """What speaks against cutting the program at an operator."""
        if gate and self.parameters is not None and not (straight and self.cuts(node)):
            return Refusal(WEIGHTS if straight else WHAT, ARRAY)
        if straight:
            return None
        name = base_name(node.target)
        if name not in LOWERED:
            return without_row(name)
        try:
            self.by_row(node, env, apply_atom)
        except Refusal as refusal:
            return refusal
        return None

    def atoms(self, node: fx.Node, atom: Callable[..., Any]) -> Atoms:
        """What the row of an operator is written with."""
        return Atoms(atom, self.paired, [arg in self.moving for arg in node.args])

    def turned(self, node: fx.Node) -> bool:
        """Whether an argument or result of an operator may hold the samples elsewhere than in its first dimension."""
        first = {
            batch_size_of(each.meta.get("val"))
            for each in self.nodes
            if each.op == "placeholder" and self.program.sources[str(each.target)].kind == "input"
        }
        for each in [part for part in parents(node) if part in self.moving] + [node]:
            value = each.meta.get("val")
            for part in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(part, Tensor) and has_counts(part) and batch_size_of(part) not in first:
                    return True
        return False

    def displaced(self, node: fx.Node, kinds: Kinds) -> list[tuple[fx.Node, Refusal]]:
        """What speaks against opening a program that turns its tensors: whether atoms have their samples first is seen
        where there are two of them, and three."""
        trial = copy.copy(self)
        trial.found, trial.fixed, trial.kept = kinds, {}, {}
        for rows in (2, 3):

            def first(a: Tensor, atom: AtCut = 0.0, rows: int = rows) -> Tensor:
                if a.shape[0] != rows:
                    raise Refusal(ELSEWHERE, "keep the samples in the first dimension")
                return apply_atom(a, atom)

            try:
                trial.results([each[torch.arange(rows) % len(each)] for each in self.program.inputs], first)
            except Refusal as refusal:
                return [(node, Refusal(ELSEWHERE, refusal.remedy))]
        return []

    def cuts(self, node: fx.Node) -> bool:
        """Whether a node is a product with what takes its value later, and is cut."""
        if self.parameters is None or base_name(node.target) not in ("mul", "div"):
            return False
        return any(each in self.touched and each not in self.moving for each in parents(node))


EMPTY = ("empty", "new_empty")
WEIGHTS = "its weights depend on a parameter"
WHAT = "what it does depends on a parameter"
ELSEWHERE = "its samples are not in the first dimension of what it is applied to"
ARRAY = "give `given` as arrays instead of parameters, and export again for each of their values"


def is_gate(z: Atoms, name: str, first: bool, args: Sequence[Any]) -> Tensor:
    """A product of what moves with a factor that takes its value later, or a quotient."""
    a, factor = (args[0], args[1]) if first else (args[1], args[0])
    a, factor = torch.broadcast_tensors(a, factor if name == "mul" else 1 / factor)
    return z(a, Gate(factor))


def tensors_of(program: Program) -> list[Tensor]:
    """The module's own tensors that a program reads."""
    return [source.tensor for source in program.sources.values() if source.tensor is not None]


def values_of(program: Program) -> dict[int, Tensor]:
    """Copies of these tensors, by the `id` of each."""
    return {id(tensor): tensor.detach().clone() for tensor in tensors_of(program)}


def is_count(node: fx.Node, counts: set[fx.Node]) -> bool:
    """Whether a node is a size, or computed from sizes alone."""
    if node.op != "call_function" or isinstance(node.meta.get("val"), (Tensor, list, tuple)):
        return False
    if base_name(node.target).startswith("sym_"):
        return True
    return bool(node.all_input_nodes) and counts.issuperset(node.all_input_nodes)


def has_counts(tensor: Tensor) -> bool:
    """Whether a size of what a graph notes is open."""
    return any(isinstance(length, torch.SymInt) for length in tensor.shape)


def batch_size_of(value: Any) -> str | None:
    """The open size of the first dimension of what a graph notes of a value."""
    length = value.shape[0] if isinstance(value, Tensor) and value.ndim else None
    return str(length.node.expr) if isinstance(length, torch.SymInt) else None


def place_of(node: fx.Node) -> str:
    """An operator with its module and its source line, for messages."""
    path, line = module_path(node), source_line(node)
    where = ", ".join(part for part in (path and f"in {path}", line) if part)
    return f"{base_name(node.target)} ({where})" if where else base_name(node.target)


def atom_of(a: Tensor, atom: AtCut) -> Atom:
    """The atom of an argument (B, ...): a slope is that of a kink, for each entry of a sample."""
    if isinstance(atom, Atom):
        return atom
    assert not isinstance(atom, Gate)
    return Kinks(torch.as_tensor(atom, dtype=a.dtype, device=a.device).expand(a[:1].shape)[0].flatten().clone())


def apply_atom(a: Tensor, atom: AtCut = 0.0) -> Tensor:
    """The atom itself, as an argument of `OpenedProgram.run`."""
    if isinstance(atom, Gate):
        return a * atom.factor
    if isinstance(atom, Atom):
        flat = a.flatten(1)
        return atom.value(flat).reshape(a.shape if atom.group == 1 else a.shape[:-1])
    return torch.maximum(atom * a, a)
