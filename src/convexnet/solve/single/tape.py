"""A program of kinks as matrices of numpy, for one sample at a time, and the lower bound that multipliers prove.

    a_k = c_k + Σ r (W (d u)),    z_k = max(s_k a_k, a_k),    f(y) = the same for one number more,

where u is y or an earlier z, W a matrix that the module itself holds, c_k, d and r vectors that may depend on the other
inputs. Nothing is multiplied out when a program is read, so that these are the program's own numbers and its functions
in real arithmetic. What else a program does (other atoms, two affine maps in a row, weights that depend on the other
inputs) is `Unfit`, and minimised as ever.

Long because what is read of a program, and what is computed of it for a sample, is one format.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from convexnet.curvature.arguments import in_float64
from convexnet.curvature.call import Refusal
from convexnet.curvature.rules.shapes import Moving
from convexnet.curvature.table import row_of
from convexnet.curvature.tracing.graph import base_name
from convexnet.form.atoms import Kinks
from convexnet.form.execution import REGIONS, execute, way_of, without_casts
from convexnet.form.program import OpenedProgram, atom_of
from convexnet.solve.single.sample import Array, Bound, Layer, Sample


class Unfit(Exception):
    """The program, or this sample of it, is not of this kind."""


@dataclass(frozen=True)
class Number:
    """A vector, or one number for all entries: fixed, or the place of an array among what `Tape.still` returns."""

    place: int
    fixed: Array | None = None


@dataclass(frozen=True)
class Term:
    """x -> after (W (before x)) of one source, which is 0 for y and k + 1 for the results of atom k; no W: the unit."""

    source: int
    matrix: Array | None = None
    before: tuple[Number, ...] = ()
    after: tuple[Number, ...] = ()


@dataclass(frozen=True)
class Affine:
    """What moves with y: `size` entries, their terms, and constants, each times factors."""

    size: int
    terms: tuple[Term, ...]
    constants: tuple[tuple[Number, ...], ...] = ()

    @property
    def numbers(self) -> list[Number]:
        """All that may depend on the sample."""
        scales = [number for term in self.terms for number in (*term.before, *term.after)]
        return scales + [number for parts in self.constants for number in parts]


class Tape:
    """A program that is read for one sample at a time.

    Args:
        opened: the program, with the module's values.

    Raises:
        Unfit: it is not made of kinks and of products with matrices of the module.

    Example:
        >>> from convexnet.curvature.tracing.trace import trace
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)).double()
        >>> _ = net[2].weight.data.abs_()
        >>> y = torch.zeros(1, 2).double()
        >>> tape = Tape(OpenedProgram(trace(net, y, any_batch=True), 0).valued({}))
        >>> sample = tape.sample([y])
        >>> at = np.array([0.5, -0.25])
        >>> bool(abs(sample.arguments(at)[1] - net(torch.tensor(at)[None]).item()) < 1e-12)
        True
        >>> bound = sample.prove([np.full(3, 0.5)], np.full(2, -1.0), np.full(2, 1.0))[0]
        >>> bool(bound <= net(2 * torch.rand(50, 2).double() - 1).min())
        True
    """

    def __init__(self, opened: OpenedProgram) -> None:
        self.opened = opened
        self.kinds = opened.kinds()
        if opened.counts or self.kinds.closed or self.kinds.patterns or not isinstance(opened.output, fx.Node):
            raise Unfit
        self.layers: list[Affine] = []
        self.slopes: list[float] = []
        self.needed: list[fx.Node] = []  # of what does not move, and depends on the other inputs
        self.lengths: dict[int, Array] = {}
        nodes: dict[fx.Node, Affine] = {}
        self.lasting = self.fixed_values()
        for node in opened.nodes:
            if node in self.kinds.needed and node in opened.moving:
                nodes[node] = self.read(node, nodes)
        if opened.output not in nodes or nodes[opened.output].size != 1 or not self.layers:
            raise Unfit
        self.output = nodes[opened.output]
        self.check_signs()
        self.still = self.compiled()
        variable = next(node for node in opened.nodes if opened.varies(node))
        self.variable_size = int(np.prod([int(length) for length in variable.meta["val"].shape[1:]]))
        self.steady: dict[int, Layer] = {}  # layers that no input changes
        slopes = [np.full(affine.size, slope) for affine, slope in zip(self.layers, self.slopes, strict=True)]
        sees = [any(term.source > 0 for term in one.terms) for one in self.layers]
        least = [np.maximum(slope, 0.0) if inner else slope for slope, inner in zip(slopes, sees, strict=True)]
        self.kinks = slopes, least

    def fixed_values(self) -> dict[fx.Node, Any]:
        """What depends on no input."""
        found: dict[fx.Node, Any] = {}
        with torch.no_grad():
            for node in self.opened.nodes:
                if node in self.opened.lasting and node in self.kinds.needed:
                    found[node] = self.opened.computed(node, found, (), None, None)
        return found

    # --- reading -----------------------------------------------------------------------------------------------------

    def number(self, part: Any, size: int) -> Number:
        """A vector of this size, or one number for all its entries, that does not move."""
        if isinstance(part, (int, float)) and not isinstance(part, bool):
            return Number(-1, np.full(1, float(part)))
        if not isinstance(part, fx.Node):
            raise Unfit
        shape = part.meta["val"].shape if isinstance(part.meta.get("val"), Tensor) else None
        if shape is None:
            raise Unfit
        if part in self.lasting:
            value = self.lasting[part]
            if not isinstance(value, Tensor) or value.numel() not in (1, size):
                raise Unfit
            return Number(-1, value.double().reshape(-1).numpy())
        if part not in self.needed:
            self.needed.append(part)
        return Number(self.needed.index(part))

    def matrix(self, part: Any) -> Array:
        """A matrix of the module."""
        value = self.lasting.get(part) if isinstance(part, fx.Node) else None
        if not isinstance(value, Tensor) or value.device.type != "cpu" or not value.is_floating_point():
            raise Unfit
        return value.double().numpy()

    def read(self, node: fx.Node, nodes: dict[fx.Node, Affine]) -> Affine:
        """What a node that moves is."""
        shape = node.meta["val"].shape
        size = int(np.prod([int(length) for length in shape[1:]])) if len(shape) > 1 else 1
        if node.op == "placeholder":
            return Affine(size, (Term(0),))
        if node.op != "call_function":
            raise Unfit
        name = base_name(node.target)
        args: Any = node.args
        if node not in self.kinds.affine:
            return self.kink(node, nodes)
        if isinstance(row_of(name).rule, Moving):
            inner = nodes.get(args[0])
            if inner is None or inner.size != size or not keeps_order(node):
                raise Unfit
            return inner
        if name == "mul" or name in ("add", "sub"):
            return self.arithmetic(name, node, nodes, size)
        if name == "neg":
            return self.times(nodes[args[0]], Number(-1, np.full(1, -1.0)))
        return self.product(name, node, nodes)

    def kink(self, node: fx.Node, nodes: dict[fx.Node, Affine]) -> Affine:
        """max(s a, a) as a new source, where an operator is lowered to that and no more."""
        if len(node.all_input_nodes) != 1 or node.args[0] not in nodes:
            raise Unfit
        inner = node.all_input_nodes[0]
        probe = example_of(inner)
        met: list[tuple[Tensor, Any]] = []

        def record(a: Tensor, atom: Any = 0.0) -> Tensor:
            met.append((a, atom_of(a, atom)))
            return a + 0.5

        try:
            out = self.opened.by_row(node, {inner: probe}, record)
        except (Refusal, KeyError):
            raise Unfit from None
        if len(met) != 1 or not torch.equal(met[0][0], probe) or not torch.equal(out, probe + 0.5):
            raise Unfit
        atom = met[0][1]
        if not isinstance(atom, Kinks) or len(atom.negative_slope.unique()) != 1:
            raise Unfit
        slope = float(atom.negative_slope[0])
        if not slope < 1:
            raise Unfit
        self.layers.append(nodes[inner])
        self.slopes.append(slope)
        return Affine(nodes[inner].size, (Term(len(self.layers)),))

    def times(self, a: Affine, factor: Number) -> Affine:
        terms = tuple(
            Term(t.source, None, (*t.before, factor), t.after)
            if t.matrix is None
            else Term(t.source, t.matrix, t.before, (*t.after, factor))
            for t in a.terms
        )
        return Affine(a.size, terms, tuple((*parts, factor) for parts in a.constants))

    def arithmetic(self, name: str, node: fx.Node, nodes: dict[fx.Node, Affine], size: int) -> Affine:
        if node.kwargs or len(node.args) != 2:
            raise Unfit
        parts: list[Any] = [nodes.get(part, part) if isinstance(part, fx.Node) else part for part in node.args]
        moving = [part for part in parts if isinstance(part, Affine)]
        if any(part.size != size for part in moving):
            raise Unfit
        for part in node.args:  # (B, 1) and (B,) would make (B, B)
            if isinstance(part, fx.Node) and part not in self.lasting and not keeps_batch(part, node):
                raise Unfit
        if name == "mul":
            still = parts[1] if isinstance(parts[0], Affine) else parts[0]
            if len(moving) != 1:
                raise Unfit
            return self.times(moving[0], self.number(still, size))
        minus = Number(-1, np.full(1, -1.0))
        terms: list[Term] = []
        constants: list[tuple[Number, ...]] = []
        for i, part in enumerate(parts):
            negative = name == "sub" and i == 1
            if isinstance(part, Affine):
                part = self.times(part, minus) if negative else part
                terms += part.terms
                constants += part.constants
            else:
                number = self.number(part, size)
                constants.append((number, minus) if negative else (number,))
        return Affine(size, tuple(terms), tuple(constants))

    def product(self, name: str, node: fx.Node, nodes: dict[fx.Node, Affine]) -> Affine:
        """A matrix of the module times what moves."""
        args: Any = node.args
        bias: Any = None
        if name == "linear":
            a, matrix = args[0], self.matrix(args[1])
            bias = args[2] if len(args) > 2 else None
        elif name in ("matmul", "mm") and args[0] in nodes:
            a, matrix = args[0], self.matrix(args[1])
            matrix = matrix[None] if matrix.ndim == 1 else matrix.T
        elif name == "addmm" and not node.kwargs and args[1] in nodes:
            bias, a, matrix = args[0], args[1], self.matrix(args[2]).T
        elif name == "sum" and node.meta["val"].numel() == node.meta["val"].shape[0]:
            a = args[0]
            if a not in nodes or not sums_samples(node):
                raise Unfit
            matrix = np.ones((1, nodes[a].size))
        else:
            raise Unfit
        if node.kwargs or a not in nodes or len(a.meta["val"].shape) != 2:
            raise Unfit
        inner = nodes[a]
        if matrix.ndim != 2 or matrix.shape[1] != inner.size or inner.constants:
            raise Unfit
        if any(term.matrix is not None or term.after for term in inner.terms):
            raise Unfit
        matrix = np.ascontiguousarray(matrix)
        constants = () if bias is None else ((self.number(bias, matrix.shape[0]),),)
        return Affine(matrix.shape[0], tuple(Term(t.source, matrix, t.before) for t in inner.terms), constants)

    def check_signs(self) -> None:
        """Refuse matrices between atoms with negative entries."""
        for layer in [*self.layers, self.output]:
            for term in layer.terms:
                negative = term.matrix is not None and term.source > 0 and bool((term.matrix < 0).any())
                fixed = [n.fixed for n in (*term.before, *term.after) if n.fixed is not None]
                if negative or (term.source > 0 and any(bool((part < 0).any()) for part in fixed)):
                    raise Unfit
                if term.matrix is not None:
                    self.lengths[id(term.matrix)] = np.sqrt(np.square(term.matrix).sum(0))

    # --- what does not move ------------------------------------------------------------------------------------------

    def compiled(self) -> Callable[..., tuple[Tensor, ...]]:
        """The operators on the other inputs alone as one function, (inputs) -> what is needed of them."""
        if not self.needed:
            return lambda inputs: ()
        names: dict[fx.Node, str] = {}
        space: dict[str, Any] = {}
        lines: list[str] = []

        def held(value: Any) -> str:
            name = f"c{len(space)}"
            space[name] = value
            return name

        def written(part: Any) -> str:
            if isinstance(part, fx.Node):
                if part in self.lasting:
                    names.setdefault(part, held(self.lasting[part]))
                return names[part]
            if isinstance(part, (list, tuple)):
                return "[" + ", ".join(map(written, part)) + "]"
            if isinstance(part, slice):
                raise Unfit
            return held(without_casts(part))

        for node in self.opened.nodes:
            if node not in self.opened.other or node not in self.kinds.needed:
                continue
            name = f"v{len(names)}"
            if node.op == "placeholder":
                source = self.opened.program.sources[str(node.target)]
                lines.append(f"    {name} = inputs[{source.index}]")
            elif node.op == "call_function":
                if any(part in self.opened.moving for part in node.all_input_nodes):
                    raise Unfit
                label, function, _ = way_of(node.target)
                if any(region in str(node.target) for region in REGIONS):
                    raise Unfit
                if label == "detach":
                    lines.append(f"    {name} = {written(node.args[0])}")
                else:
                    function = operator.getitem if node.target is operator.getitem else function
                    arguments = [written(part) for part in node.args]
                    arguments += [f"{key}={written(part)}" for key, part in node.kwargs.items()]
                    lines.append(f"    {name} = {held(function)}({', '.join(arguments)})")
            else:
                raise Unfit
            names[node] = name
        text = "\n".join(["def run(inputs):", *lines, f"    return ({', '.join(names[n] for n in self.needed)},)"])
        exec(text, space)  # names and numbers of the program alone
        return space["run"]

    # --- one sample --------------------------------------------------------------------------------------------------

    def sample(self, inputs: Sequence[Tensor]) -> Sample:
        """The function for inputs of one row each.

        Raises:
            Unfit: a factor between atoms is negative, or something is no number.
        """
        with torch.no_grad():
            arrays = [part.double().numpy().reshape(-1) for part in self.still([in_float64(t) for t in inputs])]
        if not all(np.isfinite(part).all() for part in arrays):
            raise Unfit

        positive = [bool((part >= 0).all()) for part in arrays]

        def product(numbers: Sequence[Number], size: int, forced: bool) -> Array | None:
            found: Array | None = None
            for number in numbers:
                part = arrays[number.place] if number.fixed is None else number.fixed
                if len(part) not in (1, size) or (forced and number.fixed is None and not positive[number.place]):
                    raise Unfit
                found = part if found is None else found * part
            return found if found is None or len(found) == size else np.full(size, found[0])

        def bound(term: Term, size: int) -> Bound:
            matrix = np.eye(size) if term.matrix is None else term.matrix
            spread = np.ones(size) if term.matrix is None else self.lengths[id(matrix)]
            inner = product(term.before, matrix.shape[1], term.source > 0)
            outer = product(term.after, matrix.shape[0], term.source > 0)
            return Bound(term.source, matrix, inner, outer, spread, len(term.before) + len(term.after))

        def layer(place: int, affine: Affine) -> Layer:
            if place in self.steady:
                return self.steady[place]
            constant, size = np.zeros(affine.size), np.zeros(affine.size)
            for parts in affine.constants:
                part = product(parts, affine.size, False)
                assert part is not None
                constant = constant + part
                size = size + (len(parts) + 1) * np.abs(part)
            made = Layer([bound(term, affine.size) for term in affine.terms], constant, size)
            if all(number.fixed is not None for number in affine.numbers):
                self.steady[place] = made
            return made

        layers = [layer(place, affine) for place, affine in enumerate(self.layers)]
        return Sample(self.variable_size, layers, layer(-1, self.output), *self.kinks)


def keeps_batch(part: fx.Node, node: fx.Node) -> bool:
    """Whether a tensor and a result both have the samples in their first dimension, or it has no more than one number
    for all."""
    there, here = part.meta["val"].shape, node.meta["val"].shape
    if len(there) == 0:
        return True
    return len(here) > 0 and str(there[0]) == str(here[0]) and (len(there) == len(here) or len(there) > 0)


def sums_samples(node: fx.Node) -> bool:
    """Whether a sum is over all but the first dimension."""
    args: Any = node.args
    dims = args[1] if len(args) > 1 else None
    count = len(args[0].meta["val"].shape)
    return isinstance(dims, (list, tuple)) and sorted(int(d) % count for d in dims) == list(range(1, count))


def example_of(node: fx.Node) -> Tensor:
    """Numbers that are all different, in the shape of a tensor, for two samples."""
    shape = [2, *(int(length) for length in node.meta["val"].shape[1:])]
    return torch.arange(1.0, 1.0 + float(np.prod(shape)), dtype=torch.float64).reshape(shape) - 2.5


def keeps_order(node: fx.Node) -> bool:
    """Whether an operator that moves entries leaves those of every sample in their order."""
    if len(node.all_input_nodes) != 1 or any(isinstance(part, fx.Node) for part in node.args[1:]):
        return False
    probe = example_of(node.all_input_nodes[0])
    try:
        out = execute(node, (probe, *node.args[1:]), dict(node.kwargs), None)
    except (RuntimeError, IndexError):  # written for another number of samples
        return False
    return (
        isinstance(out, Tensor)
        and out.numel() == probe.numel()
        and torch.equal(out.reshape(2, -1) if out.shape[:1] == (2,) else out.new_zeros(2, 0), probe.reshape(2, -1))
    )
