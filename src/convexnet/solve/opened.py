"""From a traced program to its `KinkForm`: the program is cut open at its kinks, and its affine pieces are run on basis
vectors.

What the other inputs change from sample to sample is mostly the constants; a gate (PICNN) scales the columns of a map,
which is found out and checked with random vectors rather than assumed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from convexnet.curvature.arguments import in_float64
from convexnet.curvature.call import Refusal
from convexnet.curvature.graph import base_name, functional
from convexnet.curvature.trace import Program
from convexnet.solve.kink_form import KinkForm, Map
from convexnet.solve.kinks import KINKS

LARGEST = 50_000_000
"""Entries of a map that is stored as a matrix."""

EXACT = 1e-9
"""Relative difference up to which two ways to compute one map count as the same."""


class Opened:
    """A traced program whose kinks can be exchanged."""

    def __init__(self, program: Program, variable: int) -> None:
        self.program = program
        self.variable = variable
        ((_, self.output),) = program.outputs
        self.moving: set[fx.Node] = set()
        for node in program.graph.nodes:
            source = program.sources.get(str(node.target)) if node.op == "placeholder" else None
            chosen = source is not None and source.kind == "input" and source.index == variable
            if chosen or self.moving.intersection(node.all_input_nodes):
                self.moving.add(node)

    def run(self, inputs: Sequence[Tensor], kink: Callable[..., Tensor]) -> Tensor:
        """Execute the program in float64, with `kink(a, slope)` for every kink that sees the variable; returns (B,)."""
        env: dict[fx.Node, Any] = {}

        def lookup(node: fx.Node) -> Any:
            return env[node]

        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                source = self.program.sources[str(node.target)]
                own = None if source.tensor is None else source.tensor.detach()
                env[node] = in_float64(inputs[source.index] if source.kind == "input" else own)
            elif node.op == "get_attr":
                env[node] = in_float64(operator.attrgetter(str(node.target))(self.program.module))
            elif node.op == "call_function":
                args: Any = fx.map_arg(node.args, lookup)
                kwargs: Any = fx.map_arg(node.kwargs, lookup)
                name = base_name(node.target)
                if node.target is operator.getitem:
                    env[node] = args[0][args[1]]
                elif name in KINKS and node in self.moving:
                    env[node] = KINKS[name](kink, args, dict(kwargs))
                else:
                    env[node] = functional(node.target, name)(*args, **without_type(kwargs))
        return env[self.output].reshape(-1)


def without_type(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Everything is computed in float64."""
    return {k: torch.float64 if isinstance(v, torch.dtype) and v.is_floating_point else v for k, v in kwargs.items()}


class Cut:
    """The affine pieces of an opened program: what arrives at each kink, and at the output, for given results."""

    def __init__(self, opened: Opened, inputs: Sequence[Tensor]) -> None:
        self.opened = opened
        self.inputs = list(inputs)
        self.y_shape = inputs[opened.variable].shape[1:]
        self.shapes: list[torch.Size] = []
        self.slopes: list[Tensor] = []

        def record(a: Tensor, slope: float | Tensor = 0.0) -> Tensor:
            self.shapes.append(a.shape[1:])
            steep = torch.as_tensor(slope, dtype=a.dtype).expand(a[:1].shape)[0]
            self.slopes.append(steep.flatten().clone())
            return torch.maximum(steep * a, a)

        with torch.no_grad():
            opened.run(inputs, record)
        self.sizes = [shape.numel() for shape in self.shapes]

    def __call__(self, y: Tensor, results: dict[int, Tensor], rows: Tensor) -> list[Tensor]:
        """What arrives at each kink and, last, at the output: for y (R, n), results of kinks (R, h_k), samples (R,)."""
        inputs = [tensor[rows] for tensor in self.inputs]
        inputs[self.opened.variable] = y.reshape(-1, *self.y_shape)
        arrived: list[Tensor] = []

        def replaced(a: Tensor, slope: float | Tensor = 0.0) -> Tensor:
            k = len(arrived)
            arrived.append(a.flatten(1))
            return results[k].reshape(a.shape) if k in results else torch.zeros_like(a)

        out = self.opened.run(inputs, replaced)
        return [*arrived, out[:, None]]


def kink_form(program: Program, variable: int, inputs: Sequence[Tensor]) -> KinkForm:
    """Read the maps off a program that is certified convex in one input.

    Args:
        program: traced with an open batch size.
        variable: the number of the input to minimise over.
        inputs: the batch, (B, ...) each; the variable's own values do not matter.

    Raises:
        Refusal: a map is too large for a matrix, or the program is not piecewise linear.

    Example:
        >>> from torch import nn
        >>> from convexnet.curvature.trace import trace
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.LeakyReLU(0.1), nn.Linear(3, 1))
        >>> y = torch.randn(4, 2)
        >>> form = kink_form(trace(net, y, any_batch=True), 0, (y,))
        >>> torch.allclose(form.value(y.double()), net.double()(y.double())[:, 0])
        True
    """
    cut = Cut(Opened(program, variable), inputs)
    count = inputs[0].shape[0]
    everyone = torch.arange(count)
    n = cut.y_shape.numel()
    sizes = [n, *cut.sizes]  # of the sources: y, then the kinks
    empty = torch.zeros(count, n, dtype=torch.float64)
    with torch.no_grad():
        base = cut(empty, {}, everyone)
    maps: dict[tuple[int, int], Map] = {}  # (target, source); source 0 is y
    for source, size in enumerate(sizes):
        for target, arrives in enumerate(base):
            if target >= source and size * arrives.shape[1] > LARGEST:
                raise Refusal(f"its map of {size} x {arrives.shape[1]} entries is too large for a matrix")
        maps.update(maps_from(cut, source, size, base, everyone))
    last, one = len(cut.sizes), torch.ones(count, 1, dtype=torch.float64)
    return KinkForm(
        constants=tuple(base[:last]),
        slopes=tuple(cut.slopes),
        from_y=tuple(maps.get((k, 0)) for k in range(last)),
        between={(k, source - 1): m for (k, source), m in maps.items() if source > 0 and k < last},
        constant=base[last][:, 0],
        slope=maps[last, 0].transposed(one) if (last, 0) in maps else empty,
        weights={k: maps[last, k + 1].transposed(one) for k in range(last) if (last, k + 1) in maps},
    )


def maps_from(cut: Cut, source: int, size: int, base: list[Tensor], everyone: Tensor) -> dict[tuple[int, int], Map]:
    """The maps from one source to every later kink and to the output."""
    count = len(everyone)

    def arrives(x: Tensor, rows: Tensor) -> list[Tensor]:
        y = x if source == 0 else torch.zeros(len(rows), cut.y_shape.numel(), dtype=torch.float64)
        results = {} if source == 0 else {source - 1: x}
        return [a - b[rows] for a, b in zip(cut(y, results, rows), base, strict=True)]

    generator = torch.Generator().manual_seed(source)
    probe = torch.randn(count, size, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        seen = arrives(probe, everyone)
        columns = arrives(torch.eye(size, dtype=torch.float64), torch.zeros(size, dtype=torch.int64))
    found: dict[tuple[int, int], Map] = {}
    for target in range(source, len(base)):
        if not bool(seen[target].any()):
            continue
        shared = Map(columns[target].T.contiguous())
        if same(shared(probe), seen[target]):
            found[target, source] = shared
        else:
            found[target, source] = scaled_map(arrives, target, size, probe, seen[target], everyone)
    return found


def scaled_map(
    arrives: Callable[[Tensor, Tensor], list[Tensor]],
    target: int,
    size: int,
    probe: Tensor,
    seen: Tensor,
    everyone: Tensor,
) -> Map:
    """A map whose columns each sample scales; each column is read from the sample in which it is largest."""
    generator = torch.Generator().manual_seed(target)
    x = torch.zeros(len(everyone), size, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        out = arrives(x, everyone)[target]
        across = torch.randn(out.shape[1], generator=generator, dtype=torch.float64)
        (sums,) = torch.autograd.grad((out * across).sum(), x)
    best = sums.abs().argmax(0)
    with torch.no_grad():
        columns = arrives(torch.eye(size, dtype=torch.float64), best)[target]
    top = sums.gather(0, best[None])
    scale = torch.where(top != 0, sums / torch.where(top == 0, 1.0, top), 0.0)
    found = Map(columns.T.contiguous(), scale)
    if same(found(probe), seen):
        return found
    if len(everyone) * size * seen.shape[1] > LARGEST:
        raise Refusal(
            "its maps differ from sample to sample by more than a scale, and are too large to be stored for each"
        )
    with torch.no_grad():
        rows = everyone.repeat_interleave(size)
        basis = torch.eye(size, dtype=torch.float64).repeat(len(everyone), 1)
        each = arrives(basis, rows)[target].unflatten(0, (len(everyone), size)).mT.contiguous()
    found = Map(each)
    if not same(found(probe), seen):
        raise Refusal("it is not piecewise linear")
    return found


def same(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= EXACT * (1 + b.abs().max()))
