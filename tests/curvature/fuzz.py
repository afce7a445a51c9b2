"""Random programs against the calculus: whatever it certifies must survive float64 chords, element by element.

Seven generators build a `torch.fx` graph of aten operators directly, which is a hundred times faster than exporting a
module, and two write forwards, which only `torch.export` can judge:

    anything      a random graph over most of the rule table, with weights that are mostly non-negative
    integers      the same, with integers, booleans and numbers read from tensors nearly everywhere
    written       the same, with choices by comparison, sorted and running sums, and losses nearly everywhere
    products      the same, with products, powers and logarithms nearly everywhere
    table         the same, with any operator of the table at any setting that its oracle has, with dimensions without
                  elements, with constants that broadcast over the batch, and with embeddings
    cancelled     the same, with quantities that cancel, or are zeros of either sign, before functions that mind it
    convex        only steps that disciplined convex programming allows: every such program must be certified
    holes         a forward with functions that are not defined everywhere, and what hides where they are not
    modules       a random `forward` with writes through views, traced by `cx.certify`

A program is determined by its seed. `python -m tests.curvature.fuzz --seconds 60` runs until the time is up, and ends
with status 1 and a reproduction at the first violation.
"""

from __future__ import annotations

import argparse
import math
import operator
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

import convexnet as cx
from convexnet.curvature import Program, certify_program, explain, trace
from convexnet.curvature.adversary.falsify import guided_chords
from convexnet.curvature.arguments import chosen_inputs
from convexnet.curvature.facts import Fact
from convexnet.curvature.premises import boxes_of, placeholder_facts
from convexnet.curvature.tracing.trace import Source
from convexnet.curvature.walk import walk
from tests.curvature import fuzz_cancelled, fuzz_holes, fuzz_table, fuzz_written

A = torch.ops.aten
INF = math.inf
CHORDS = 24
SCALES = (0.3, 1.0, 3.0, 12.0)
ROOM = 1e-7
"""Tolerance, relative to the largest number on the way to a value: cancellation costs that much, never more."""


class Violation(AssertionError):
    """A claim of the calculus that numbers contradict."""


# --- a program under construction ------------------------------------------------------------------------------------


@dataclass
class Built:
    """A program and what is needed to evaluate it: `nodes` are all its operators, in order."""

    seed: int
    kind: str
    program: Program
    nodes: list[fx.Node]
    wrt: int | None
    domain: tuple[cx.Box | None, ...] | None
    mixes: bool

    def describe(self) -> str:
        lines = [f"seed {self.seed} of {self.kind!r}, wrt={self.wrt}, domain={self.boxes()}"]
        lines += [f"  {node.name} = {node.target}{node.args} {node.kwargs or ''}" for node in self.nodes]
        for name, source in self.program.sources.items():
            if source.tensor is not None:
                lines.append(f"  {name} [{source.kind}] {tuple(source.tensor.shape)} = {source.tensor.tolist()}"[:300])
        return "\n".join([*lines, f"  outputs {[str(node) for _, node in self.program.outputs]}"])

    def boxes(self) -> str:
        if self.domain is None:
            return "None"
        return str([None if box is None else (box.lo.tolist(), box.hi.tolist()) for box in self.domain])

    @property
    def variables(self) -> tuple[int, ...]:
        return chosen_inputs(self.program.inputs, self.wrt)


@dataclass
class Builder:
    """Adds one operator after another; `values` holds every node's tensor at batch 2, in float64."""

    rng: random.Random
    negative: float = 0.1  # the share of weight tensors that hold negative entries
    graph: fx.Graph = field(default_factory=fx.Graph)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    inputs: list[Tensor] = field(default_factory=list)
    whole: list[fx.Node] = field(default_factory=list)  # inputs of integers
    nodes: list[fx.Node] = field(default_factory=list)
    placeholders: int = 0
    mixes: bool = False

    def placeholder(self, value: Tensor, source: Callable[[str], Source]) -> fx.Node:
        first = next(iter(self.graph.nodes), None)
        name = f"p{self.placeholders}"
        self.placeholders += 1
        if first is None or self.placeholders == 1:
            node = self.graph.placeholder(name)
        else:
            with self.graph.inserting_before(first):
                node = self.graph.placeholder(name)
        node.meta["val"] = value
        self.values[node] = value
        self.sources[str(node.target)] = source(name)
        return node

    def input(self, shape: Sequence[int]) -> fx.Node:
        index = len(self.inputs)
        value = torch.randn((2, *shape), generator=self.generator(), dtype=torch.float64)
        self.inputs.append(value)
        return self.placeholder(value, lambda _: Source("input", f"input {index}", index))

    def labels(self, shape: Sequence[int], dtype: torch.dtype) -> fx.Node:
        """An input of integers, which no certificate is about: class labels, an image of bytes, a mask."""
        index = len(self.inputs)
        self.inputs.append(integers((2, *shape), dtype, self.generator()))
        self.whole.append(self.placeholder(self.inputs[-1], lambda _: Source("input", f"input {index}", index)))
        return self.whole[-1]

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.rng.getrandbits(40))

    def tensor(self, value: Tensor) -> fx.Node:
        kind = self.rng.choice(("parameter", "buffer")) if value.is_floating_point() else "buffer"
        return self.placeholder(value, lambda name: Source(kind, f"layer.{name}", tensor=value))

    def numbers(self, shape: Sequence[int], sign: str = "") -> Tensor:
        """Entries of one sign ('+', '-'), of both ('any'), or ('') drawn at random: mostly non-negative."""
        rng = self.rng
        if not sign:
            sign = rng.choice(("any", "any", "one", "-")) if rng.random() < self.negative else "+"
        value = torch.rand(tuple(shape), generator=self.generator(), dtype=torch.float64) * 1.2
        if rng.random() < 0.4:
            value = value * (torch.rand(tuple(shape), generator=self.generator()) < 0.6)
        if sign == "any":
            value = value * torch.randint(0, 2, tuple(shape), generator=self.generator()).mul(2).sub(1)
        elif sign == "one" and value.numel():
            value.view(-1)[rng.randrange(value.numel())] = -rng.choice((0.5, 1e-3, 1.0))
        elif sign == "-":
            value = -value
        return value + 0.0

    def weight(self, shape: Sequence[int], sign: str = "") -> fx.Node:
        return self.tensor(self.numbers(shape, sign))

    def emit(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Run the operator and add it; whatever it raises leaves the graph as it was."""

        def get(value: Any) -> Any:
            return fx.map_arg(value, lambda node: self.values[node])

        value = target(*get(args), **get(kwargs))
        node = self.graph.call_function(target, args, kwargs)
        node.meta["val"] = value
        self.values[node] = value
        self.nodes.append(node)
        return node

    def item(self, node: fx.Node, index: int) -> fx.Node:
        return self.emit(operator.getitem, node, index)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        return tuple(self.values[node].shape)

    def finish(self, outputs: Sequence[fx.Node], seed: int, kind: str, wrt: int | None, domain: Any) -> Built:
        self.graph.output(tuple(outputs))
        program = Program(
            graph=self.graph,
            sources=self.sources,
            outputs=tuple((f"output[{i}]", node) for i, node in enumerate(outputs)),
            inputs=tuple(self.inputs),
            model="Fuzzed",
            module=nn.Module(),
        )
        return Built(seed, kind, program, self.nodes, wrt, domain, self.mixes)


# --- steps: each takes a builder and a node, and returns a node or None where it does not apply ----------------------

Step = Callable[[Builder, fx.Node], fx.Node | None]


def settings(rng: random.Random, spread: Sequence[float]) -> float:
    return rng.choice(tuple(spread))


def activation(b: Builder, x: fx.Node) -> fx.Node:
    """Every pointwise function of the table, at common and uncommon settings."""
    rng = b.rng
    plain = (
        A.relu, A.silu, A.gelu, A.mish, A.sigmoid, A.tanh, A.selu, A.hardswish, A.hardsigmoid, A.softplus, A.elu,
        A.celu, A.abs, A.exp, A.square, A.exp2, A.expm1, A.erf, A.atan, A.asinh, A.sinh, A.cosh, A.log_sigmoid,
        A.sin, A.cos, A.sqrt, A.log, A.log1p, A.reciprocal, A.rsqrt, A.softshrink, A.hardshrink, A.leaky_relu, A.neg,
        A.relu6, A.sign, A.positive, A.log2, A.lgamma, A.digamma, A.erfc, A.special_erfcx, A.special_entr,
        A.special_log_ndtr, A.special_ndtr,
    )  # fmt: skip
    kind = rng.randrange(16)
    if kind < 4:
        return b.emit(rng.choice((A.relu, A.softplus, A.elu, A.celu, A.leaky_relu)).default, x)
    if kind == 4:
        return b.emit(A.leaky_relu.default, x, settings(rng, (-0.5, 0.0, 0.2, 1.0, 1.5, -1.0)))
    if kind == 5:
        return b.emit(A.elu.default, x, settings(rng, (0.3, 1.0, 1.5, 0.0, -0.5)), settings(rng, (1.0, 0.5)), 1.0)
    if kind == 6:
        return b.emit(A.softplus.default, x, settings(rng, (1.0, 4.0, 0.2)), settings(rng, (20, 40, 2.0)))
    if kind == 7:
        low, high = sorted((rng.uniform(-2, 2), rng.uniform(-2, 3)))
        return b.emit(A.hardtanh.default, x, low, high)
    if kind == 8:
        low = rng.choice((None, 0.0, -0.5, 0.7))
        high = rng.choice((None, None, 0.0, 1.5)) if low is not None else rng.uniform(-1, 2)
        return b.emit(A.clamp.default, x, low, high)
    if kind == 9:
        level = settings(rng, (0.0, 0.5, -1.0))
        return b.emit(A.threshold.default, x, level, rng.choice((level, level, 0.0, 2.0)))
    if kind == 10:
        return b.emit(A.pow.Tensor_Scalar, x, settings(rng, (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, -1.0, -2.0, 2.5, 0.25)))
    if kind == 11:
        return b.emit(A.rrelu.default, x, settings(rng, (0.1, -0.2)), settings(rng, (0.3, 1.8)), False)
    if kind == 12:
        count = rng.choice((1, b.shape(x)[1])) if len(b.shape(x)) > 1 else 1
        return b.emit(A.prelu.default, x, b.tensor(b.numbers((count,), rng.choice(("+", "+", "any"))) * 1.2))
    if kind == 13:
        return (
            b.emit(A.clamp_max.default, x, rng.uniform(-1, 2))
            if rng.random() < 0.3
            else b.emit(A.clamp_min.default, x, rng.uniform(-1, 1))
        )
    if kind == 14:
        return b.emit(A.gelu.default, x, approximate=rng.choice(("none", "tanh")))
    return b.emit(rng.choice(plain).default, x)


def linear(b: Builder, x: fx.Node, sign: str = "") -> fx.Node | None:
    shape = b.shape(x)
    if len(shape) < 2:
        return None
    rng, width = b.rng, b.rng.randint(1, 5)
    kind = rng.randrange(6)
    if kind == 0:
        return b.emit(A.matmul.default, x, b.weight((shape[-1], width), sign))
    if kind == 1 and len(shape) == 3:
        return b.emit(A.matmul.default, b.weight((width, shape[1]), sign), x)
    if kind == 2:
        letters = "bcdef"[: len(shape)]
        return b.emit(
            A.einsum.default, f"{letters},{letters[-1]}z->{letters[:-1]}z", [x, b.weight((shape[-1], width), sign)]
        )
    if kind == 3 and len(shape) == 2:
        bias, w = b.weight((width,), "any"), b.weight((shape[-1], width), sign)
        return b.emit(
            A.addmm.default, bias, x, w, beta=rng.choice((1, -0.5)), alpha=1 if sign else rng.choice((1, 0.5, -1))
        )
    if kind == 4 and len(shape) == 3:
        return (
            b.emit(A.bmm.default, x, b.emit(A.expand.default, b.weight((1, shape[2], width), sign), [2, -1, -1]))
            if (b.mixes)
            else b.emit(A.matmul.default, x, b.weight((shape[2],), sign))
        )
    bias = b.weight((width,), "any") if rng.random() < 0.6 else None
    return b.emit(A.linear.default, x, b.weight((width, shape[-1]), sign), *([bias] if bias is not None else []))


def convolution(b: Builder, x: fx.Node, sign: str = "") -> fx.Node | None:
    shape = b.shape(x)
    dims = len(shape) - 2
    if dims not in (1, 2):
        return None
    rng = b.rng
    groups = rng.choice([g for g in (1, 1, 2, shape[1]) if shape[1] % g == 0])
    out = groups * rng.randint(1, 2)
    kernel = [rng.randint(1, 3) for _ in range(dims)]
    stride, padding = [rng.choice((1, 1, 2)) for _ in range(dims)], [rng.choice((0, 1, 1)) for _ in range(dims)]
    dilation = [rng.choice((1, 1, 2)) for _ in range(dims)]
    if rng.random() < 0.2:
        weight = b.weight((shape[1], out // groups, *kernel), sign)
        target = (A.conv_transpose1d.default, A.conv_transpose2d.input)[dims - 1]
        return b.emit(target, x, weight, b.weight((out,), "any"), stride, padding, [0] * dims, groups, dilation)
    weight = b.weight((out, shape[1] // groups, *kernel), sign)
    bias = b.weight((out,), "any") if rng.random() < 0.5 else None
    packet = (A.conv1d, A.conv2d)[dims - 1]
    if rng.random() < 0.15:
        return b.emit(packet.padding, x, weight, bias, [1] * dims, rng.choice(("same", "valid")), dilation, groups)
    return b.emit(packet.default, x, weight, bias, stride, padding, dilation, groups)


def batch_norm(b: Builder, x: fx.Node, sign: str = "") -> fx.Node | None:
    shape = b.shape(x)
    if len(shape) < 2:
        return None
    c = shape[1]
    gamma = b.weight((c,), sign) if b.rng.random() < 0.8 else None
    beta, mean = (b.weight((c,), "any") if b.rng.random() < 0.8 else None), b.tensor(b.numbers((c,), "any"))
    var = b.tensor(b.numbers((c,), "+") + 0.1)
    for node in (mean, var):
        name = str(node.target)
        b.sources[name] = Source("buffer", f"norm.{name}", tensor=b.values[node])
    return b.emit(A.batch_norm.default, x, gamma, beta, mean, var, False, 0.1, 1e-5, False)


def reduction(b: Builder, x: fx.Node) -> fx.Node | None:
    shape = b.shape(x)
    if len(shape) < 2:
        return None
    rng = b.rng
    dims = sorted(rng.sample(range(1, len(shape)), rng.randint(1, len(shape) - 1)))
    dims = [d - len(shape) if rng.random() < 0.3 else d for d in dims]
    keep = rng.random() < 0.6 or len(dims) == len(shape) - 1
    kind = rng.randrange(9)
    if kind == 0:
        return b.emit(A.sum.dim_IntList, x, dims, keep)
    if kind == 1:
        return b.emit(A.mean.dim, x, dims, keep)
    if kind == 2:
        return b.emit(A.amax.default, x, dims, keep)
    if kind == 3:
        return b.emit(A.amin.default, x, dims, keep)
    if kind == 4:
        return b.emit(A.logsumexp.default, x, dims, keep)
    if kind == 5:
        return b.emit(A.linalg_vector_norm.default, x, rng.choice((1, 2, 3, 1.5, INF, 0.5, 2)), dims, keep)
    if kind == 6:
        less = rng.choice((0, 0, 1)) if math.prod(shape[d] for d in dims) > 1 else 0
        return b.emit(rng.choice((A.var, A.std)).correction, x, dims, correction=less, keepdim=keep)
    if kind == 7:
        return b.item(b.emit(rng.choice((A.max, A.min)).dim, x, dims[0], True), 0)
    return b.emit(A.norm.ScalarOpt_dim, x, rng.choice((1, 2, 4)), dims, keep)


def pooling(b: Builder, x: fx.Node) -> fx.Node | None:
    shape = b.shape(x)
    rng, rank = b.rng, len(shape)
    if rank < 3:
        return None
    dims = rank - 2 if rng.random() < 0.85 else rank - 1  # one more: the batch plays the part of the channels
    if dims not in (1, 2):
        return None
    kernel = [rng.randint(1, min(3, n)) for n in shape[-dims:]]
    stride = [rng.choice((1, 2)) for _ in range(dims)]
    padding = [rng.choice((0, k // 2)) for k in kernel]
    kind = rng.randrange(8)
    if kind < 3:
        target = (A.max_pool1d.default, A.max_pool2d.default)[dims - 1]
        return b.emit(target, x, kernel, stride, padding, [1] * dims, rng.random() < 0.3)
    if kind < 5:
        target = (A.avg_pool1d.default, A.avg_pool2d.default)[dims - 1]
        return b.emit(target, x, kernel, stride, padding, rng.random() < 0.3, rng.random() < 0.5)
    size = [rng.randint(1, n + 1) for n in shape[-dims:]]
    if kind == 5:
        return b.emit((A.adaptive_avg_pool1d.default, A.adaptive_avg_pool2d.default)[dims - 1], x, size)
    if kind == 6:
        return b.item(b.emit((A.adaptive_max_pool1d.default, A.adaptive_max_pool2d.default)[dims - 1], x, size), 0)
    if dims == rank - 2 == 1:
        return b.emit(A.upsample_linear1d.default, x, [shape[2] + rng.randint(0, 3)], rng.random() < 0.5)
    if dims == rank - 2:
        size = [n + rng.randint(0, 2) for n in shape[2:]]
        which = rng.randrange(4)
        if which == 0:
            return b.emit(A.upsample_nearest2d.default, x, size)
        return b.emit((A.upsample_bilinear2d, A.upsample_bicubic2d)[which == 3].default, x, size, rng.random() < 0.5)
    return None


def moved(b: Builder, x: fx.Node) -> fx.Node | None:
    shape = b.shape(x)
    rng, rank = b.rng, len(shape)
    if rank < 2:
        return None
    dim = rng.randrange(1, rank)
    n = shape[dim]
    kind = rng.randrange(19)
    if kind == 0:
        return b.emit(
            A.view.default,
            b.emit(A.clone.default, x, memory_format=torch.contiguous_format),
            [-1, math.prod(shape[1:])],
        )
    if kind == 1 and rank == 2 and n % 2 == 0:
        return b.emit(A.reshape.default, x, rng.choice(([-1, 2, n // 2], [-1, n // 2, 2, 1], [-1, 1, n])))
    if kind == 2 and rank > 2:
        order = list(range(1, rank))
        rng.shuffle(order)
        return b.emit(A.permute.default, x, [0, *order])
    if kind == 3:
        return b.emit(A.flip.default, x, [dim])
    if kind == 4:
        return b.emit(A.roll.default, x, [rng.randint(-2, 2)], [dim])
    if kind == 5 and n > 1:
        start = rng.randrange(n)
        return b.emit(A.slice.Tensor, x, dim, start, rng.randint(start + 1, n), rng.choice((1, 1, 2)))
    if kind == 6 and rank > 2:
        return b.emit(A.select.int, x, dim, rng.randrange(-n, n))
    if kind == 7:
        index = torch.randint(0, n, (rng.randint(1, n + 1),), generator=b.generator())
        return b.emit(A.index_select.default, x, dim, b.tensor(index))
    if kind == 8:
        index = b.tensor(torch.randint(0, n, (rng.randint(1, 4),), generator=b.generator()))
        return b.emit(A.index.Tensor, x, [*[None] * dim, index])
    if kind == 9:
        return (
            b.emit(A.unsqueeze.default, x, rng.randint(1, rank))
            if rank < 4
            else b.emit(A.transpose.int, x, 1, rank - 1)
        )
    if kind == 10 and n > 1:
        parts = b.emit(A.split.Tensor, x, rng.randint(1, n - 1), dim)
        return b.item(parts, rng.randrange(len(b.values[parts])))
    if kind == 11 and n > 1:
        parts = b.emit(A.split_with_sizes.default, x, [1, n - 1], dim)
        return b.emit(A.add.Tensor, b.item(parts, 0), b.item(parts, 1))
    if kind == 12 and n < 4:
        return b.emit(A.repeat.default, x, [1, *(rng.choice((1, 2)) if d == dim else 1 for d in range(1, rank))])
    if kind == 13:
        widths = [rng.randint(0, 2) for _ in range(2)]
        return b.emit(A.constant_pad_nd.default, x, widths, rng.choice((0.0, 0.0, 0.5, -1.0)))
    if kind == 14 and rank in (3, 4):
        pads = [rng.randint(0, min(1, shape[-1] - 1)) for _ in range(2)] + [0, 0] * (rank - 3)
        return b.emit(A.pad.default, x, pads, rng.choice(("reflect", "replicate", "circular")))
    if kind == 15 and rank > 2:
        return b.emit(rng.choice((A.tril, A.triu)).default, x, rng.randint(-1, 1))
    if kind == 16:
        mask = torch.rand(shape[1:], generator=b.generator()) < 0.5
        if rng.random() < 0.5:
            return b.emit(A.masked_fill.Scalar, x, b.tensor(mask), rng.choice((0.0, 0.4, -0.4, -2.0)))
        other = b.weight(shape[1:], "any") if rng.random() < 0.5 else partner(b, x)
        return b.emit(A.where.self, b.tensor(mask), x, other) if other is not None else None
    if kind == 17:
        mask = b.tensor(torch.rand(shape[1:], generator=b.generator()) < 0.5)
        return b.emit(A.where.ScalarOther, mask, x, rng.choice((0.0, 0.3, -0.3, -2.0)))
    if kind == 18 and rank == 3:
        return b.emit(A.unfold.default, x, 2, min(2, shape[2]), 1)
    return b.emit(A.flatten.using_ints, x, 1, -1)


def partner(b: Builder, x: fx.Node) -> fx.Node | None:
    """Another node of the same shape, or that broadcasts to it."""
    shape = b.shape(x)
    found: list[fx.Node] = []
    for node in [*b.graph.nodes]:
        value = b.values.get(node)
        if (
            not isinstance(value, Tensor)
            or not value.is_floating_point()
            or value.ndim != len(shape)
            or value.shape[0] != 2
        ):
            continue
        if node.op == "placeholder" and b.sources[str(node.target)].kind != "input":
            continue
        if node.target is A.empty_like.default:  # whatever the memory holds
            continue
        if all(n in (1, m) for n, m in zip(value.shape, shape, strict=True)):
            found.append(node)
    return b.rng.choice(found) if found else None


def arithmetic(b: Builder, x: fx.Node) -> fx.Node | None:
    rng, shape = b.rng, b.shape(x)
    kind = rng.randrange(20)
    other = partner(b, x)
    number = rng.choice((0.5, 2.0, 1.0, 0.25, -0.5, 0.0)) if rng.random() < 0.5 + b.negative else 0.7
    if kind == 0:
        return b.emit(A.add.Tensor, x, number)
    if kind == 1:
        return b.emit(A.mul.Tensor, x, number)
    if kind == 2:
        return b.emit(A.mul.Tensor, x, b.weight(shape[1:]))
    if kind == 3:
        return b.emit(A.div.Tensor, x, rng.choice((2.0, 0.5, 3.0, -2.0)))
    if kind == 4:
        return b.emit(A.sub.Tensor, x, b.weight(shape[1:], "any"))
    if kind == 5:
        return b.emit(A.rsub.Scalar, x, number)
    if kind == 6:
        return b.emit(A.square.default, x)
    if kind == 7:
        return b.emit(A.mul.Tensor, x, x)
    if kind == 8:
        return b.emit(A.add.Tensor, x, b.weight(shape[1:], "any"), alpha=rng.choice((1, 2, -1)))
    if kind == 9:
        return b.emit(A.div.Tensor, b.weight(shape[1:]), x)
    if kind == 10:
        return b.emit(A.rdiv.Scalar, x, 1.0) if hasattr(A, "rdiv") else b.emit(A.reciprocal.default, x)
    if kind == 11 and len(shape) > 1:
        return b.emit(rng.choice((A.softmax, A.log_softmax, A.log_softmax)).int, x, rng.randrange(1, len(shape)))
    if kind == 12:
        limit = b.weight(shape[1:], "any")
        return b.emit(rng.choice((A.maximum, A.minimum, A.maximum)).default, x, limit)
    if other is None:
        return None
    if kind in (13, 14):
        return b.emit(A.add.Tensor, x, other, **({"alpha": rng.choice((1, 2, -1))} if rng.random() < 0.2 else {}))
    if kind == 15:
        return b.emit(rng.choice((A.maximum, A.maximum, A.minimum)).default, x, other)
    if kind == 16:
        return b.emit(A.sub.Tensor, x, other)
    if kind == 17:
        return b.emit(rng.choice((A.mul, A.mul, A.div)).Tensor, x, other)
    if kind == 18:
        weight = b.tensor(torch.rand(shape[1:], generator=b.generator(), dtype=torch.float64))
        return b.emit(A.lerp.Tensor, x, other, weight)
    return b.emit(A.addcmul.default, x, other, b.weight(shape[1:]), value=rng.choice((1, 0.5, -1)))


def join(b: Builder, x: fx.Node) -> fx.Node | None:
    """cat and stack with itself, constants or others."""
    rng, shape = b.rng, b.shape(x)
    if len(shape) < 2:
        return None
    dim = rng.randrange(1, len(shape))
    parts = [x, *(p for p in (partner(b, x), partner(b, x)) if p is not None and b.shape(p) == shape)]
    rng.shuffle(parts)
    if rng.random() < 0.3 and len(shape) < 4:
        return b.emit(A.stack.default, parts, rng.randint(1, len(shape)))
    return b.emit(A.cat.default, parts, dim - len(shape) if rng.random() < 0.3 else dim)


def products(b: Builder, x: fx.Node) -> fx.Node | None:
    """Powers, products, ratios and logarithms of what is positive: geometric and harmonic means, y^2/x and the like."""
    rng = b.rng

    def lifted(node: fx.Node) -> fx.Node:
        kind = rng.randrange(6)
        if kind == 0:
            return b.emit(A.clamp_min.default, node, rng.choice((0.1, 0.5)))
        if kind == 1:
            return b.emit(A.exp.default, node)
        if kind == 2:
            return b.emit(A.add.Tensor, b.emit(A.abs.default, node), 0.2)
        if kind == 3:
            return b.emit(A.sigmoid.default, node)
        return node if kind == 4 else b.emit(A.clamp_max.default, b.emit(A.clamp_min.default, node, 0.1), 3.0)

    y = x if rng.random() < 0.5 else lifted(x)
    for _ in range(rng.randint(1, 4)):
        kind, dim = rng.randrange(14), len(b.shape(y)) - 1
        other = partner(b, y)
        if kind == 0:
            y = b.emit(A.log.default, y)
        elif kind == 1:
            y = b.emit(A.pow.Tensor_Scalar, y, rng.choice((0.5, 0.25, 1 / 3, 2.0, -1.0, -0.5, 1.5, -2.0)))
        elif kind == 2 and dim > 0:
            y = b.emit(A.prod.dim_int, y, dim, True)
        elif kind == 3 and other is not None:
            y = b.emit(A.mul.Tensor, y, lifted(other))
        elif kind == 4 and other is not None:
            y = b.emit(A.div.Tensor, y, lifted(other))
        elif kind == 5 and other is not None:
            y = b.emit(A.div.Tensor, b.emit(A.square.default, other), y)
        elif kind == 6:
            y = b.emit(A.exp.default, y)
        elif kind == 7 and dim > 0:
            y = b.emit(rng.choice((A.sum.dim_IntList, A.mean.dim)), y, [dim], True)
        elif kind in (9, 10):  # functions of one number
            bend = rng.choice((A.exp, A.log, A.sigmoid, A.tanh, A.sqrt, A.log1p, A.softplus, A.erf, A.reciprocal))
            inner = y if rng.random() < 0.6 else b.emit(A.add.Tensor, b.emit(A.mul.Tensor, y, rng.choice((1, -2))), 1.0)
            y = b.emit(rng.choice((A.mul, A.mul, A.add, A.sub)).Tensor, y, b.emit(bend.default, inner))
        elif kind in (11, 12) and other is not None:  # perspectives
            below = b.emit(A.clamp_min.default, other, 0.2) if rng.random() < 0.3 else other
            bend = rng.choice((A.exp, A.log, A.softplus, A.square, A.sqrt, A.log1p))
            over = b.emit(bend.default, b.emit(A.div.Tensor, y, below))
            y = b.emit(A.mul.Tensor, rng.choice((below, y)), over)
        elif kind == 8:
            y = b.emit(A.mul.Tensor, y, rng.choice((0.5, -1.0, 2.0, 1 / 3)))
        else:
            y = b.emit(rng.choice((A.reciprocal, A.sqrt, A.square, A.neg, A.log1p)).default, y)
    return y


def batch_mixing(b: Builder, x: fx.Node) -> fx.Node | None:
    if len(b.shape(x)) < 2 or b.rng.random() < 0.7:
        return None
    b.mixes = True
    kind = b.rng.randrange(6)
    if kind == 0:
        return b.emit(A.flip.default, x, [0])
    if kind == 1:
        return b.emit(A.sub.Tensor, x, b.emit(A.mean.dim, x, [0], True))
    if kind == 2:
        return b.emit(A.roll.default, b.emit(A.roll.default, x, [1], [0]), [1], [0])
    if kind == 3:
        return b.emit(A.amax.default, x, [0, 1], True) if b.rng.random() < 0.5 else b.emit(A.cumsum.default, x, 0)
    if kind == 4:
        return b.emit(A.flip.default, b.emit(A.flip.default, x, [0]), [0])
    return b.emit(A.expand.default, b.emit(A.slice.Tensor, x, 0, 0, 1), [2, *[-1] * (len(b.shape(x)) - 1)])


def recurrent(b: Builder, x: fx.Node) -> fx.Node | None:
    shape = b.shape(x)
    if len(shape) != 3 or b.rng.random() < 0.6:
        return None
    hidden = b.rng.randint(1, 3)
    weights = [
        b.weight((hidden, shape[2]), "any"),
        b.weight((hidden, hidden)),
        b.weight((hidden,), "any"),
        b.weight((hidden,)),
    ]
    b.mixes = True  # evaluated at batch 2, which the initial state fixes
    start = b.emit(A.new_zeros.default, x, [1, 2, hidden])
    result = b.emit(A.rnn_relu.input, x, start, weights, True, 1, 0.0, False, False, True)
    return b.item(result, 0)


# --- integers and booleans -------------------------------------------------------------------------------------------

INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def integers(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator, far: bool = False) -> Tensor:
    """Small numbers of either sign as far as the type has them, or numbers at the type's limits."""
    if dtype == torch.bool:
        return torch.rand(tuple(shape), generator=generator) < 0.5
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    small_ = torch.randint(max(low, -2), 4, tuple(shape), generator=generator)
    if not far:
        return small_.to(dtype)
    ends = torch.tensor([low, high, low + 1, high - 1, 0, 1])
    return torch.where(
        torch.rand(tuple(shape), generator=generator) < 0.5,
        small_,
        ends[torch.randint(6, tuple(shape), generator=generator)],
    ).to(dtype)


def narrower(b: Builder, shape: Sequence[int]) -> tuple[int, ...]:
    """A shape that broadcasts to the given one."""
    kept = tuple(n if b.rng.random() < 0.7 else 1 for n in shape)
    return kept if b.rng.random() < 0.8 else kept[1:]


def whole(b: Builder, shape: Sequence[int]) -> fx.Node:
    """Integers or booleans that broadcast to `shape`: a buffer, an input, a comparison; or computed."""
    rng, dtype = b.rng, b.rng.choice(INTEGERS)
    given_ = [n for n in b.whole if b.values[n].shape[1:] == tuple(shape)[1:]]
    kind = rng.randrange(8)
    if given_ and kind < 4:
        node = rng.choice(given_)
    elif kind == 4:
        node = b.emit(rng.choice((A.gt, A.le, A.eq)).Scalar, b.weight(narrower(b, shape[1:]), "any"), 0.3)
    else:
        far = dtype not in (torch.bool, torch.int32, torch.int64) and rng.random() < 0.3
        node = b.tensor(integers(narrower(b, shape[1:]), dtype, b.generator(), far or rng.random() < 0.03))
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        node = counted(b, node)
    return node


def counted(b: Builder, node: fx.Node) -> fx.Node:
    """Arithmetic of integers: it wraps around, rounds and shifts."""
    rng, value = b.rng, b.values[node]
    other = b.tensor(integers(value.shape[-1:], rng.choice(INTEGERS), b.generator(), rng.random() < 0.2))
    kind = rng.randrange(16)
    if kind == 0:
        return b.emit(rng.choice((A.add, A.mul)).Tensor, node, rng.choice((1, 2, 3, True)))
    if kind == 1:
        return b.emit(rng.choice((A.add, A.mul, A.bitwise_xor, A.bitwise_and, A.bitwise_or)).Tensor, node, other)
    if kind == 2:
        return b.emit(A.sub.Tensor, node, other)
    if kind == 3:
        return b.emit(rng.choice((A.neg, A.abs, A.square, A.bitwise_not, A.sign)).default, node)
    if kind == 4:
        return b.emit(rng.choice((A.bitwise_left_shift, A.bitwise_right_shift)).Tensor_Scalar, node, rng.choice((1, 3)))
    if kind == 5:
        return b.emit(A.remainder.Scalar, node, rng.choice((2, 3, -2)))
    if kind == 6:
        return b.emit(A.div.Tensor_mode, node, rng.choice((2, -2)), rounding_mode=rng.choice(("floor", "trunc")))
    if kind == 7:
        return b.emit(rng.choice((A.clamp_min, A.clamp_max)).default, node, rng.choice((0, 1)))
    if kind == 8:
        return b.emit(A.to.dtype, node, rng.choice(INTEGERS))
    if kind == 9:
        return b.emit(rng.choice((A.gt, A.ne, A.ge)).Scalar, node, rng.choice((0, 1)))
    if kind == 10:
        return b.emit(rng.choice((A.maximum, A.minimum)).default, node, other)
    if kind == 11 and value.ndim:
        return b.emit(A.cumsum.default, node, -1) if rng.random() < 0.5 else b.emit(A.flip.default, node, [-1])
    if kind == 12:
        return b.emit(A.logical_not.default, node)
    if kind == 13:
        return b.emit(A.where.self, b.emit(A.gt.Scalar, other, 0), node, other)
    if kind == 14:
        return b.emit(A.rsub.Scalar, node, rng.choice((0, 1)))
    return b.emit(A.to.dtype, b.emit(A.mul.Tensor, b.emit(A.to.dtype, node, torch.float64), 1.5), rng.choice(INTEGERS))


def as_real(b: Builder, node: fx.Node, x: fx.Node) -> fx.Node:
    """Integers that become real numbers."""
    kind = b.rng.randrange(7)
    if kind < 3:
        return b.emit(A.type_as.default, node, x)
    if kind == 3:
        return b.emit(A.to.dtype, node, torch.float64)
    if kind == 4:
        return b.emit(A._to_copy.default, node, dtype=torch.float64)
    if kind == 5:
        fresh = b.emit(b.rng.choice((A.empty_like, A.zeros_like)).default, x)
        return b.emit(A.copy.default, fresh, node)
    return b.emit(A.mul.Tensor, node, b.rng.choice((1.0, 0.5, -1.0)))


def typed(b: Builder, x: fx.Node) -> fx.Node | None:
    """Integers and booleans meet real numbers, in each of the ways in which a tensor may change its type."""
    rng, shape = b.rng, b.shape(x)
    if len(shape) < 2:
        return None
    kind = rng.randrange(12)
    if kind == 0:  # masks
        mask = as_real(b, whole(b, shape), x)
        mask = b.emit(A.rsub.Scalar, mask, rng.choice((1, 1, 1.5, 0))) if rng.random() < 0.6 else mask
        return b.emit(A.mul.Tensor, x, mask)
    if kind == 1:
        real = as_real(b, whole(b, shape), x)
        real = b.emit(A.neg.default, real) if rng.random() < 0.4 else real
        real = b.emit(A.add.Tensor, real, real) if rng.random() < 0.3 else real
        real = b.emit(A.sub.Tensor, real, rng.choice((1, 1, 2, 0.5))) if rng.random() < 0.5 else real
        return b.emit(rng.choice((A.add, A.sub, A.mul, A.div)).Tensor, x, real)
    if kind == 2:  # types are promoted
        return b.emit(rng.choice((A.add, A.sub, A.mul, A.mul, A.div)).Tensor, x, whole(b, shape))
    if kind == 3:
        return b.emit(rng.choice((A.sub, A.mul)).Tensor, whole(b, shape), x)
    if kind == 4:
        return b.emit(rng.choice((A.maximum, A.minimum)).default, x, whole(b, shape))
    if kind == 5:
        return written(b, x)
    if kind in (6, 7):
        return numbered(b, x)
    if kind == 8:
        mask = b.emit(A.to.dtype, whole(b, shape), torch.bool)
        if rng.random() < 0.5:
            return b.emit(A.masked_fill.Scalar, x, mask, rng.choice((0, 1, -1, -2.0, False)))
        return b.emit(A.where.self, mask, *rng.sample((x, whole(b, shape)), 2))
    if kind == 9:
        full = b.emit(A.add.Tensor, b.emit(A.zeros_like.default, x, dtype=rng.choice(INTEGERS)), whole(b, shape))
        parts = rng.sample((x, full, b.emit(A.mul.Tensor, x, 0.5)), rng.choice((2, 3)))
        return b.emit(rng.choice((A.cat, A.stack)).default, parts, rng.randrange(1, len(shape)))
    if kind == 10:
        limits = [rng.choice((None, whole(b, shape))), whole(b, shape)]
        return b.emit(A.clamp.Tensor, x, *rng.sample(limits, 2))
    return b.emit(A.addcmul.default, x, as_real(b, whole(b, shape), x), rng.choice((x, partner(b, x) or x)))


def written(b: Builder, x: fx.Node) -> fx.Node:
    """What `y = torch.empty_like(x); y[:] = b; y[:, i:j] = x[:, i:j]` becomes, and its kin."""
    rng, shape = b.rng, b.shape(x)
    dim = rng.randrange(1, len(shape))
    kind = rng.randrange(5)
    if kind == 0:
        base = b.emit(A.fill.Tensor, x, b.tensor(integers((), rng.choice(INTEGERS), b.generator(), rng.random() < 0.2)))
    elif kind == 1:
        base = b.emit(A.full_like.default, x, rng.choice((1, True, -1, 2.5)))
    else:
        base = b.emit(A.copy.default, b.emit(A.empty_like.default, x), whole(b, shape))
    start = rng.randrange(shape[dim])
    length = rng.randint(1, shape[dim] - start)
    if rng.random() < 0.3:
        index = b.tensor(torch.tensor(sorted(rng.sample(range(shape[dim]), length))))
        part = b.emit(A.index_select.default, x, dim, index)
        return b.emit(A.index_put.default, base, [*[None] * dim, index], part)
    if rng.random() < 0.3:
        return b.emit(A.select_scatter.default, base, b.emit(A.select.int, x, dim, start), dim, start)
    part = b.emit(A.slice.Tensor, x, dim, start, start + length)
    if rng.random() < 0.3:  # integers into real numbers
        part = b.emit(A.copy.default, part, whole(b, b.shape(part)))
        base = x
    return b.emit(A.slice_scatter.default, base, part, dim, start, start + length)


def number(b: Builder, value: Tensor) -> fx.Node:
    """A number read from a tensor of the model, with arithmetic of Python's own now and then."""
    node = b.emit(A.item.default, b.tensor(value))
    if b.rng.random() < 0.3 and not isinstance(b.values[node], bool):
        node = b.emit(operator.sub, b.emit(operator.mul, node, 2), b.values[node])
    return node


def numbered(b: Builder, x: fx.Node) -> fx.Node | None:
    """An index, or a factor, that `.item()` reads from a tensor."""
    rng, shape = b.rng, b.shape(x)
    dim = rng.randrange(1, len(shape))
    n = shape[dim]
    at = torch.tensor(rng.randrange(-n, n), dtype=rng.choice((torch.int64, torch.int32, torch.int8)))
    k = number(b, at)
    kind = rng.randrange(10)
    if kind in (0, 1):
        # so that the elements have different curvatures
        both = b.emit(A.stack.default, [x, b.emit(A.abs.default, x)], 1)
        one = b.emit(A.select.int, both, 1, number(b, torch.tensor(rng.randrange(2))))
        return b.emit(A.neg.default, one) if rng.random() < 0.5 else one
    if kind == 2:
        return b.emit(A.slice.Tensor, x, dim, number(b, torch.tensor(rng.randrange(n))), n)
    if kind == 3:
        return b.emit(A.roll.default, x, [k], [dim])
    if kind == 4 and len(shape) > 2:
        return b.emit(rng.choice((A.tril, A.triu)).default, x, k)
    if kind == 5 and len(shape) > 2:
        return b.emit(A.select.int, x, dim, k)
    if kind == 6:
        return b.emit(A.narrow.default, x, dim, number(b, torch.tensor(rng.randrange(n))), 1)
    if kind == 7:
        factor = number(b, b.numbers((), "any") if rng.random() < 0.5 else at)
        return b.emit(rng.choice((A.mul, A.add, A.sub)).Tensor, x, factor)
    if kind == 8:
        return b.emit(A.full_like.default, x, number(b, rng.choice((at, torch.tensor(True), torch.tensor(0.5)))))
    index = b.emit(A.remainder.Scalar, b.tensor(integers((rng.randint(1, 3),), torch.int64, b.generator())), n)
    return b.emit(A.index.Tensor, x, [*[None] * dim, index])


FAMILIES: tuple[tuple[Step, float], ...] = (
    (activation, 6), (linear, 3), (convolution, 4), (batch_norm, 1.5), (reduction, 3), (pooling, 2.5), (moved, 4),
    (arithmetic, 5), (join, 1.5), (batch_mixing, 0.5), (recurrent, 0.3), (typed, 4), (products, 1.5),
)  # fmt: skip
SHAPES = ((2,), (4,), (3,), (6,), (2, 4), (3, 3), (1, 5), (2, 3, 3), (1, 4, 4), (4, 2, 3))


def random_box(b: Builder, shape: Sequence[int]) -> cx.Box | None:
    if b.rng.random() < 0.4:
        return None
    centre, width = b.rng.choice((0.0, 0.0, 1.0, -2.0, 2.5)), b.rng.choice((0.5, 1.0, 1.0, 3.0))
    lo = torch.full(tuple(shape), centre - width) + 0.2 * torch.rand(tuple(shape), generator=b.generator())
    hi = torch.full(tuple(shape), centre + width)
    if b.rng.random() < 0.3:
        lo = torch.zeros(tuple(shape))
        hi = torch.full(tuple(shape), INF if b.rng.random() < 0.5 else width)
    return cx.Box(lo, hi)


def begin(seed: int, salt: str) -> tuple[Builder, list[fx.Node], int | None, tuple[cx.Box | None, ...] | None]:
    rng = random.Random(f"{salt} {seed}")
    b = Builder(rng, negative=rng.choice((0.0, 0.0, 0.1, 0.3)))
    shape = rng.choice(SHAPES)
    nodes = [b.input(shape)]
    wrt = None
    if rng.random() < 0.2:
        nodes.append(b.input(shape if rng.random() < 0.7 else rng.choice(SHAPES)))
        wrt = rng.choice((None, 0, 1, 1))
    variables = list(range(len(nodes))) if wrt is None else [wrt]
    if rng.random() < 0.15:
        b.labels(shape, rng.choice(INTEGERS))
    domain = None
    if rng.random() < 0.35:
        domain = tuple(random_box(b, b.inputs[i].shape[1:]) for i in variables)
    return b, nodes, wrt, domain


def small(b: Builder, node: fx.Node) -> bool:
    value = b.values[node]
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() == 0 or value.numel() > 400:
        return False
    return value.ndim >= 2 and value.shape[0] == 2 and value.ndim <= 4


def anything(seed: int, kind: str = "anything", families: Sequence[tuple[Step, float]] = FAMILIES) -> Built:
    """A random graph of 3 to 14 operators."""
    b, pool, wrt, domain = begin(seed, kind)
    rng = b.rng
    steps, odds = zip(*families, strict=True)
    length = rng.randint(3, 14)
    for _ in range(4 * length):
        if len(b.nodes) >= length:
            break
        x = pool[-1] if rng.random() < 0.7 else rng.choice(pool)
        before = len(b.nodes)
        try:
            node = rng.choices(steps, odds)[0](b, x)
        except (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError):
            node = None
        if node is not None and small(b, node):
            pool.append(node)
        elif len(b.nodes) == before:
            continue
    results = [node for node in pool if node.op == "call_function"]
    if not results:
        results = [b.emit(A.relu.default, pool[0])]
    count = 1 if rng.random() < 0.8 else 2
    outputs = [results[-1], *rng.sample(results, min(count - 1, len(results)))]
    return b.finish(outputs, seed, kind, wrt, domain)


def mostly_typed(seed: int) -> Built:
    """A short random graph in which integers and booleans meet real numbers nearly everywhere."""
    return anything(seed, "integers", ((activation, 2), (arithmetic, 2), (moved, 1), (typed, 8)))


def mostly_products(seed: int) -> Built:
    """A short random graph of products, powers and logarithms."""
    return anything(seed, "products", ((activation, 1), (arithmetic, 2), (linear, 1), (reduction, 1), (products, 6)))


def by_hand(b: Builder, x: fx.Node) -> fx.Node | None:
    kind = b.rng.randrange(4)
    if kind < 2:
        return fuzz_written.choice(b, x, partner)
    return fuzz_written.ordered(b, x) if kind == 2 else fuzz_written.running(b, x, partner)


def written_by_hand(seed: int) -> Built:
    """A short random graph of what people write by hand."""
    return anything(
        seed, "written", ((by_hand, 8), (activation, 1), (arithmetic, 2), (moved, 1), (linear, 1), (reduction, 1))
    )


def mostly_cancelled(seed: int) -> Built:
    """A short random graph of what cancels."""
    steps = (fuzz_cancelled.cancelled, 8), (fuzz_cancelled.from_below, 2)
    return anything(seed, "cancelled", (*steps, (activation, 2), (arithmetic, 2), (moved, 1), (reduction, 1)))


def of_the_table(b: Builder, x: fx.Node) -> fx.Node | None:
    kind = b.rng.randrange(8)
    if kind < 5:
        return fuzz_table.any_operator(b, x, partner)
    return (fuzz_table.emptied, fuzz_table.spread, fuzz_table.looked_up)[kind - 5](b, x)


def any_operator(seed: int) -> Built:
    """A short random graph of all operators of the table."""
    return anything(
        seed, "table", ((of_the_table, 8), (activation, 2), (arithmetic, 2), (linear, 1), (reduction, 1), (typed, 1))
    )


# --- convex by construction ------------------------------------------------------------------------------------------


def rectifier(b: Builder, x: fx.Node) -> fx.Node:
    """Convex and non-decreasing everywhere."""
    rng = b.rng
    kind = rng.randrange(8)
    if kind == 0:
        return b.emit(A.leaky_relu.default, x, rng.choice((0.0, 0.1, 0.9, 1.0)))
    if kind == 1:
        return b.emit(A.elu.default, x, rng.choice((0.2, 1.0, 0.0)))
    if kind == 2:
        return b.emit(A.celu.default, x, rng.choice((0.5, 1.0, 2.0)))
    if kind == 3:
        return b.emit(A.softplus.default, x, rng.choice((1.0, 3.0)), 20)
    if kind == 4:
        return b.emit(A.clamp_min.default, x, rng.uniform(-1, 1))
    if kind == 5:
        return b.emit(A.prelu.default, x, b.tensor(torch.rand(1, generator=b.generator(), dtype=torch.float64)))
    if kind == 6:
        return b.emit(A.maximum.default, x, b.weight(b.shape(x)[1:], "any"))
    return b.emit(A.relu.default, x)


def convex(seed: int) -> Built:
    """Steps of disciplined convex programming only: affine maps, convex functions, what keeps convexity."""
    b, pool, wrt, _ = begin(seed, "convex")
    rng = b.rng
    straight = list(pool) if wrt is None else [pool[wrt]]
    x = rng.choice(straight)
    for _ in range(rng.randint(0, 3)):
        node = attempt(b, rng.choice((linear, convolution, batch_norm, arrange)), x, "any")
        if node is not None:
            x = node
            straight.append(node)
    bend = rng.randrange(8)
    if bend == 0:
        x = b.emit(A.square.default, x)
    elif bend == 1:
        x = b.emit(A.abs.default, x)
    elif bend == 2:
        x = b.emit(A.linalg_vector_norm.default, x, rng.choice((1, 2, 3, INF)), [-1], True)
    elif bend == 3:
        x = b.emit(A.logsumexp.default, x, [-1], True)
    elif bend == 4:
        x = b.emit(
            A.sqrt.default,
            b.emit(A.add.Tensor, b.emit(A.sum.dim_IntList, b.emit(A.square.default, x), [-1], True), 1e-3),
        )
    elif bend == 5:
        x = b.emit(A.log.default, b.emit(A.sum.dim_IntList, b.emit(A.exp.default, x), [-1], True))
    else:
        x = rectifier(b, x)
    for _ in range(rng.randint(1, 8)):
        node = attempt(b, rng.choice((linear, convolution, batch_norm, arrange, keep, keep, combine)), x, "+")
        if node is not None and rng.random() < 0.1:  # down and up again: -min(-a, -b)
            down = b.emit(A.neg.default, node)
            other = b.emit(A.mul.Tensor, down, 0.5)
            node = b.emit(A.neg.default, b.emit(A.minimum.default, down, other))
        if node is not None:
            x = node
            skips = [s for s in straight if b.shape(s) == b.shape(x)]
            if skips and rng.random() < 0.5:
                x = b.emit(A.add.Tensor, x, rng.choice(skips), alpha=rng.choice((1, -1, 2)))
            if rng.random() < 0.3:
                x = rectifier(b, x)
    if x.op != "call_function":
        x = rectifier(b, x)
    return b.finish([x], seed, "convex", wrt, None)


def attempt(b: Builder, step: Callable[..., fx.Node | None], x: fx.Node, sign: str) -> fx.Node | None:
    try:
        node = step(b, x, sign)
    except (RuntimeError, IndexError, TypeError, ValueError):
        return None
    return node if node is not None and small(b, node) else None


def arrange(b: Builder, x: fx.Node, sign: str) -> fx.Node | None:
    """Shape operators, without those that bring a partner."""
    del sign
    shape, rng = b.shape(x), b.rng
    kind = rng.randrange(4)
    if kind == 0:
        return b.emit(A.flip.default, x, [len(shape) - 1])
    if kind == 1:
        return b.emit(A.cat.default, [x, x], 1)
    if kind == 2 and len(shape) > 2:
        return b.emit(A.transpose.int, x, 1, 2)
    return b.emit(A.constant_pad_nd.default, x, [1, 0], rng.choice((0.0, 0.3)))


def keep(b: Builder, x: fx.Node, sign: str) -> fx.Node | None:
    del sign
    rng, rank = b.rng, len(b.shape(x))
    kind = rng.randrange(12)
    if kind in (7, 8):
        return masked(b, x)
    if kind == 9:  # an offset of integers, and a factor that is read from a tensor
        y = b.emit(A.sub.Tensor, x, b.tensor(integers(narrower(b, b.shape(x)[1:]), rng.choice(REAL), b.generator())))
        return b.emit(A.mul.Tensor, y, b.emit(A.item.default, b.tensor(torch.tensor(rng.choice((0, 1, 2, True, 0.5))))))
    if kind == 10:
        dim = rng.randrange(1, rank)
        at = b.emit(A.item.default, b.tensor(torch.tensor(rng.randrange(-b.shape(x)[dim], b.shape(x)[dim]))))
        one = b.emit(A.select.int, x, dim, at) if rank > 2 else b.emit(A.roll.default, x, [at], [dim])
        return b.emit(A.add.Tensor, one, at)
    if kind == 11:
        index = b.tensor(torch.randint(b.shape(x)[1], (rng.randint(1, 4),), generator=b.generator()))
        return b.emit(A.index_select.default, x, 1, b.emit(A.remainder.Scalar, index, 2)) if b.shape(x)[1] > 1 else x
    if kind == 0:
        return rectifier(b, x)
    if kind == 1:
        return b.emit(A.amax.default, x, [rank - 1], True)
    if kind == 2:
        return b.emit(A.mean.dim, x, [rank - 1], True)
    if kind == 3:
        return b.emit(A.logsumexp.default, x, [rank - 1], True)
    if kind == 4:
        return b.emit(A.square.default, b.emit(A.relu.default, x)) if b.values[x].abs().max() < 20 else None
    if kind == 5 and rank in (3, 4):
        return pooling_up(b, x)
    return b.emit(A.mul.Tensor, x, b.weight(b.shape(x)[1:], "+"))


REAL = INTEGERS[1:]
"""Integers that can be subtracted from real numbers."""


def masked(b: Builder, x: fx.Node) -> fx.Node:
    """Non-negative multiples and choices by a mask: a buffer, or another input of bytes or truth values."""
    rng, shape = b.rng, b.shape(x)
    inputs = [n for n in b.whole if b.shape(n) == shape and b.values[n].dtype in (torch.bool, torch.uint8)]
    if inputs and rng.random() < 0.5:
        return b.emit(A.mul.Tensor, x, b.emit(A.type_as.default, rng.choice(inputs), x))
    mask = b.tensor(integers(narrower(b, shape[1:]), torch.bool, b.generator()))
    kind = rng.randrange(6)
    if kind == 0:
        return b.emit(A.mul.Tensor, x, b.emit(A.rsub.Scalar, b.emit(A.type_as.default, mask, x), 1))
    if kind == 1:
        return b.emit(A.mul.Tensor, x, b.emit(A.bitwise_not.default, mask))
    if kind == 2:
        return b.emit(A.masked_fill.Scalar, x, mask, rng.choice((-1, 0, 2.5)))
    if kind == 3:
        levels = b.tensor(integers(narrower(b, shape[1:]), rng.choice(REAL), b.generator()))
        return b.emit(A.maximum.default, x, b.emit(A.where.self, mask, levels, levels))
    if kind == 4:
        return b.emit(A.mul.Tensor, x, b.emit(A.expand_as.default, mask, x))
    base = b.emit(A.copy.default, b.emit(A.empty_like.default, x), mask)
    return b.emit(A.slice_scatter.default, base, b.emit(A.slice.Tensor, x, 1, 0, 1), 1, 0, 1)


def pooling_up(b: Builder, x: fx.Node) -> fx.Node:
    dims = len(b.shape(x)) - 2
    target = b.rng.choice(
        ((A.max_pool1d.default, A.avg_pool1d.default), (A.max_pool2d.default, A.avg_pool2d.default))[dims - 1]
    )
    return b.emit(target, x, [2] * dims, [1] * dims)


def combine(b: Builder, x: fx.Node, sign: str) -> fx.Node:
    del sign
    y = b.emit(A.add.Tensor, b.emit(A.mul.Tensor, x, 0.5), b.rng.uniform(-1, 1))
    y = rectifier(b, y)
    kind = b.rng.randrange(3)
    if kind == 0:
        return b.emit(A.add.Tensor, x, y)
    if kind == 1:
        return b.emit(A.maximum.default, x, y)
    return b.emit(A.cat.default, [x, y], 1)


# --- the check -------------------------------------------------------------------------------------------------------


class Runner:
    """Evaluates every node of a program on stacked points: (points, rows, ...) for each, with the size of the numbers
    on the way to it."""

    def __init__(self, built: Built) -> None:
        self.built = built
        graph = fx.Graph()
        copied: dict[fx.Node, fx.Node] = {}
        graph.graph_copy(built.program.graph, copied)
        graph.output([copied[node] for node in built.nodes])
        self.module = fx.GraphModule(nn.Module(), graph)
        self.placeholders = [str(n.target) for n in built.program.graph.nodes if n.op == "placeholder"]
        self.depends: set[fx.Node] = set()
        for node in built.program.graph.nodes:
            if node.op == "placeholder":
                if built.program.sources[str(node.target)].kind == "input":
                    self.depends.add(node)
            else:  # of the second argument of type_as nothing but the type is read
                parents = node.all_input_nodes[:1] if node.target is A.type_as.default else node.all_input_nodes
                if self.depends.intersection(parents):
                    self.depends.add(node)

    def once(self, points: Sequence[Tensor], tensors: dict[str, Tensor]) -> list[Any]:
        sources = self.built.program.sources
        given_ = [points[sources[p].index] if sources[p].kind == "input" else tensors[p] for p in self.placeholders]
        with torch.no_grad():
            try:
                return list(self.module(*given_))
            except torch.linalg.LinAlgError:  # a matrix that has no inverse, or no eigenvalues for its entries
                return [self.undefined(node.meta["val"]) for node in self.built.nodes]

    def undefined(self, value: Any) -> Any:
        """What a program gives where one of its operators refuses."""
        if isinstance(value, (tuple, list)):
            return [self.undefined(part) for part in value]
        real = isinstance(value, Tensor) and value.is_floating_point()
        return torch.full_like(value, torch.nan) if real else value

    def all(self, points: Sequence[Tensor], tensors: dict[str, Tensor]) -> dict[fx.Node, Tensor]:
        """points: (n, 2, ...) for each input. Results (n, rows, ...): one row where the batch may be widened."""
        n = points[0].shape[0]
        nodes = self.built.nodes
        if self.built.mixes:
            runs = [self.once([p[i] for p in points], tensors) for i in range(n)]
            return {
                node: torch.stack([run[i] for run in runs])
                for i, node in enumerate(nodes)
                if isinstance(runs[0][i], Tensor) and node.target is not A.empty_like.default
            }
        values = self.once([p[:, 0] for p in points], tensors)
        found: dict[fx.Node, Tensor] = {}
        for node, value in zip(nodes, values, strict=True):
            if isinstance(value, Tensor) and node.target is not A.empty_like.default:  # whatever the memory holds
                found[node] = value.unsqueeze(1) if node in self.depends else value.expand(n, *value.shape)
        return found

    def sizes(self, points: Sequence[Tensor], values: dict[fx.Node, Tensor]) -> dict[fx.Node, Tensor]:
        """The largest finite magnitude on the way to each node, for each point."""
        found: dict[fx.Node, Tensor] = {}
        start = torch.stack([p.double().abs().flatten(1).amax(1) for p in points]).amax(0)
        for node in self.built.program.graph.nodes:
            if node.op not in ("placeholder", "call_function"):
                continue
            size = start.clone()
            for parent in node.all_input_nodes:
                size = torch.maximum(size, found[parent])
            if node in values:
                own = values[node].double().abs().nan_to_num(0.0, 0.0, 0.0).reshape(len(size), -1)
                size = torch.maximum(size, own.amax(1)) if own.shape[1] else size
            found[node] = size
        return found


def facts_of(built: Built, known_here: Callable[[Source], bool]) -> tuple[dict[fx.Node, Fact], list[Exception]]:
    """The fact of every node that the walk visited."""
    found: dict[fx.Node, Fact] = {}

    def note(node: Any, fact: Any) -> None:
        if isinstance(node, fx.Node) and isinstance(fact, Fact):
            found[node] = fact
        elif isinstance(node, (list, tuple)):
            for inner, known in zip(node, fact, strict=True):
                note(inner, known)

    def before(call: Any, node: fx.Node) -> Any:
        note(tuple(node.args), tuple(call.args))
        return call

    boxes = boxes_of(built.program.inputs, built.variables, built.domain)
    walked = walk(
        built.program, placeholder_facts(built.program, built.variables, boxes, known_here), explain, before=before
    )
    for path, leaf in built.program.outputs:
        if path in walked.facts:
            found[leaf] = walked.facts[path]
    return found, walked.errors


def draw(built: Built, generator: torch.Generator, n: int) -> list[Tensor]:
    """n points of every input, (n, 2, ...), in the domain; at several scales without one."""
    boxes = boxes_of(built.program.inputs, built.variables, built.domain)
    scales = torch.tensor(SCALES, dtype=torch.float64)[torch.randint(0, len(SCALES), (n,), generator=generator)]
    points: list[Tensor] = []
    for i, like in enumerate(built.program.inputs):
        if not like.is_floating_point():
            points.append(integers((n, *like.shape), like.dtype, generator))
            continue
        free = torch.randn((n, *like.shape), generator=generator, dtype=torch.float64)
        value = free * scales.reshape(-1, *[1] * like.ndim)
        if i in boxes:
            lo, hi = boxes[i].lo, boxes[i].hi
            share = torch.rand((n, *like.shape), generator=generator, dtype=torch.float64)
            inside = torch.where(lo.isfinite() & hi.isfinite(), lo + share * (hi - lo).nan_to_num(0.0, 0.0, 0.0), value)
            value = torch.maximum(torch.minimum(inside, hi), lo)
        points.append(value)
    return points


def chord_points(built: Built, generator: torch.Generator, n: int) -> tuple[list[Tensor], Tensor]:
    """x, y and t x + (1 - t) y, stacked: (3n, 2, ...) for every input; inputs not chosen stay fixed on a chord."""
    x, far = draw(built, generator, n), draw(built, generator, n)
    t = torch.rand(n, generator=generator, dtype=torch.float64).clamp(0.05, 0.95)
    near = torch.rand(n, generator=generator, dtype=torch.float64) < 0.4
    stacked: list[Tensor] = []
    for i, (a, b) in enumerate(zip(x, far, strict=True)):
        shape = (-1, *[1] * (a.ndim - 1))
        if i not in built.variables:
            stacked.append(torch.cat([a, a, a]))
            continue
        end = torch.where(near.reshape(shape), a + 0.15 * (b - a), b)
        stacked.append(torch.cat([a, end, t.reshape(shape) * a + (1 - t.reshape(shape)) * end]))
    return stacked, t


def excess(values: Tensor, t: Tensor) -> Tensor:
    """f(middle) - t f(x) - (1 - t) f(y); nan where something is not finite."""
    n = t.shape[0]
    x, y, middle = values[:n].double(), values[n : 2 * n].double(), values[2 * n :].double()
    tt = t.reshape(-1, *[1] * (values.ndim - 1))
    gap = middle - tt * x - (1 - tt) * y
    return torch.where(x.isfinite() & y.isfinite() & middle.isfinite(), gap, torch.nan)


def complain(built: Built, what: str, node: fx.Node | str, amount: float) -> None:
    raise Violation(f"{what} is contradicted at {node} by {amount:.3g}\n{built.describe()}")


def check_fact(built: Built, node: fx.Node, fact: Fact, values: Tensor, t: Tensor, size: Tensor, label: str) -> None:
    """Every claim of one fact against the values at chords, (3n, rows, ...)."""
    n = t.shape[0]
    rows = values.shape[1] if values.ndim > 1 else 1
    if values.ndim > 1 and tuple(values.shape[1:]) != tuple(fact.shape) and rows == 1:
        fact = Fact(*(f.narrow(0, 0, 1) for f in fact.fields()), degree=fact.degree, integral=fact.integral)
    if tuple(values.shape[1:]) != tuple(fact.shape):
        raise Violation(
            f"{label}: the fact of {node} has shape {tuple(fact.shape)}, not {tuple(values.shape[1:])}\n"
            f"{built.describe()}"
        )
    if fact.value is not None:
        if fact.value.dtype != values.dtype:
            raise Violation(f"{label}: {node} is known as {fact.value.dtype}, not {values.dtype}\n{built.describe()}")
        off = (values.double() - fact.value.double()).abs() > 1e-12 * fact.value.double().abs()
        if bool(off.any()):
            complain(built, f"{label}: the value", node, float(off.sum()))
    if fact.integral == values.is_floating_point():
        raise Violation(f"{label}: {node} counts as integral={fact.integral}, not {values.dtype}\n{built.describe()}")
    values = values.double()
    at = size.reshape(-1, *[1] * (values.ndim - 1))
    room = ROOM * (1 + torch.stack([at[:n], at[n : 2 * n], at[2 * n :]]).amax(0))
    gap = excess(values, t)

    def worst(amount: Tensor, mask: Tensor) -> float:
        found = torch.where(mask, amount, -INF).nan_to_num(-INF, -INF, -INF)
        return float(found.max()) if found.numel() else -INF

    finite = values[:n].isfinite() & values[n : 2 * n].isfinite()
    hole = finite & values[2 * n :].isnan() & ~(fact.nonconvex & fact.nonconcave)
    if bool(hole.any()):
        complain(built, f"{label}: a chord without a hole", node, float(hole.sum()))
    for what, amount, mask in (
        ("convex", gap - room, ~fact.nonconvex),
        ("concave", -gap - room, ~fact.nonconcave),
        ("constant", (values[:n] - values[2 * n :]).abs() - room, ~fact.varies),
        ("lower bound", fact.lo.double() - values - ROOM * (1 + at), torch.ones((), dtype=torch.bool)),
        ("upper bound", values - fact.hi.double() - ROOM * (1 + at), torch.ones((), dtype=torch.bool)),
        ("non-negative", -values - 1e-12 * (1 + at), fact.lo >= 0),
        ("non-positive", values - 1e-12 * (1 + at), fact.hi <= 0),
    ):
        amount = torch.where(values[:n].isfinite() if amount.shape[0] == n else values.isfinite(), amount, -INF)
        over = worst(amount, mask)
        if over > 0:
            complain(built, f"{label}: {what}", node, over)
    if fact.power > 1 and not fact.constant:
        small_ = values < 1e-5 * (1 + at)
        root = torch.log(values) if fact.power == INF else values ** (1 / fact.power)
        over = worst(
            excess(torch.where(small_, torch.nan, root), t) - 1e-2 * ROOM**0.5 - room, torch.ones((), dtype=torch.bool)
        )
        if over > 0:
            complain(built, f"{label}: power-convexity of degree {fact.power:g}", node, over)
    for what, degree, positive in (("concavity", fact.root, values), ("exponent", fact.exponent, values.exp())):
        if not (degree < 0 or degree > 0) or fact.constant:
            continue
        usable = (positive > 1e-5 * (1 + at)) & (positive < 1e12)
        root = torch.log(positive) if degree == INF else positive ** (1 / degree)
        scale = torch.where(usable, root.abs(), 0.0)
        scale = torch.stack([scale[:n], scale[n : 2 * n], scale[2 * n :]]).amax(0)
        over = worst(-excess(torch.where(usable, root, torch.nan), t) - 1e-4 * (1 + scale) - room, fact.varies)
        if over > 0:
            complain(built, f"{label}: power-{what} of degree {degree:g}", node, over)
    if fact.positive and bool((values < 0).any()):
        complain(built, f"{label}: positive", node, float(-values.min()))


def check_rows(
    built: Built, runner: Runner, facts: dict[fx.Node, Fact], tensors: dict[str, Tensor], generator: torch.Generator
) -> None:
    """An element whose fact does not name row 1 stays what it is when row 1 of every input is replaced."""
    points = [p[:2].clone() for p in draw(built, generator, 2)]
    for p in points:
        p[1, 0] = p[0, 0]
        if p.is_floating_point():
            p[1, 1] = p[0, 1] + 0.7 * (p[1, 1] - p[0, 1])
    first, second = (runner.once([p[i] for p in points], tensors) for i in range(2))
    for node, a, b in zip(built.nodes, first, second, strict=True):
        fact = facts.get(node)
        if fact is None or not isinstance(a, Tensor) or node.target is A.empty_like.default:
            continue
        a, b = a.double(), b.double()
        changed = (a - b).abs() > 1e-9 * (1 + a.abs())
        wrong = changed & ((fact.rows & 2) == 0) & a.isfinite() & b.isfinite()
        if bool(wrong.any()):
            complain(built, "independence of row 1", node, float((a - b).abs()[wrong].max()))


def check(built: Built, thorough: bool = False) -> str:
    """Certify a program and contradict the certificate and every fact behind it; returns the verdict in a word."""
    certificate = certify_program(built.program, built.wrt, built.domain)
    generator = torch.Generator().manual_seed(built.seed % 2**31)
    runner = Runner(built)
    tensors = {n: s.tensor for n, s in built.program.sources.items() if s.tensor is not None}
    stacked, t = chord_points(built, generator, 4 * CHORDS if thorough else CHORDS)
    for label, known_here in (("at these weights", None), ("for all parameters", "parameter")):
        if known_here is not None and not any(s.kind == "parameter" for s in built.program.sources.values()):
            continue
        facts, errors = facts_of(built, lambda s, k=known_here: s.kind != k)
        if errors:
            raise Violation(f"a rule failed: {errors[0]!r}\n{built.describe()}") from errors[0]
        values_of = dict(tensors)
        if known_here is not None:
            for name, source in built.program.sources.items():
                if source.kind == "parameter" and source.tensor is not None and source.tensor.is_floating_point():
                    values_of[name] = torch.randn(source.tensor.shape, generator=generator, dtype=torch.float64)
        values = runner.all(stacked, values_of)
        sizes = runner.sizes(stacked, values)
        for node, fact in facts.items():
            if node in values:
                check_fact(built, node, fact, values[node], t, sizes[node], label)
        check_rows(built, runner, facts, values_of, generator)
        if certificate.convex and (known_here is None or certificate.scope == "for all parameters"):
            for path, leaf in built.program.outputs:
                if leaf not in values:
                    continue
                claims = certificate.outputs[path]
                n = t.shape[0]
                at = sizes[leaf].reshape(3, n).amax(0).reshape(-1, *[1] * (values[leaf].ndim - 1))
                gap = excess(values[leaf], t)
                over = (gap.abs() if claims in ("affine", "constant") else gap) - ROOM * (1 + at)
                if claims not in ("constant", "affine", "convex"):
                    complain(built, f"convex=True beside {claims}", leaf, 0.0)
                if bool((over > 0).any()):
                    complain(
                        built,
                        f"the certificate ({claims}, {certificate.scope})",
                        leaf,
                        float(over.nan_to_num(0.0).max()),
                    )
    if certificate.convex and thorough:
        ascend(built, runner, tensors, generator)
        cross(built, runner, tensors)
    if built.kind == "convex" and not certificate.convex:
        raise Violation(f"convex by construction, but refused:\n{certificate}\n{built.describe()}")
    return "certified" if certificate.convex else "refused"


def ascend(
    built: Built, runner: Runner, tensors: dict[str, Tensor], generator: torch.Generator, steps: int = 30
) -> None:
    """A short climb of the midpoint violation of the outputs over both ends of the chords."""
    boxes = boxes_of(built.program.inputs, built.variables, built.domain)
    n = 8
    x, y = draw(built, generator, n), draw(built, generator, n)
    leaves = [built.nodes.index(leaf) for _, leaf in built.program.outputs if leaf in runner.depends]
    if built.mixes or not leaves or any(node.target is A.copy.default for node in built.nodes):
        return  # aten.copy, which only a traced program holds, has no derivative
    a, b = ([p[:, 0].clone().requires_grad_(p.is_floating_point()) for p in ends] for ends in (x, y))
    optimizer = torch.optim.Adam([p for p in (*a, *b) if p.requires_grad], lr=0.2)
    for _ in range(steps):
        ends = []
        for i, (p, q) in enumerate(zip(a, b, strict=True)):
            q = q if i in built.variables else p
            ends.append([boxes[i].project(v) if i in boxes else v for v in (p, q)])
        points = [torch.cat([p, q, 0.5 * (p + q) if p.is_floating_point() else p]) for p, q in ends]
        sources = built.program.sources
        values = runner.module(
            *(points[sources[p].index] if sources[p].kind == "input" else tensors[p] for p in runner.placeholders)
        )
        loss = torch.zeros((), dtype=torch.float64)
        with torch.no_grad():
            size = torch.zeros(3 * n, dtype=torch.float64)
            for node, v in zip(built.nodes, values, strict=True):
                if isinstance(v, Tensor) and v.is_floating_point() and v.numel() and node in runner.depends:
                    if v.ndim > 1 and v.shape[0] == 3 * n:
                        size = torch.maximum(size, v.abs().nan_to_num(0.0, 0.0, 0.0).flatten(1).amax(1))
            size = size.reshape(3, n).amax(0)
        for leaf in leaves:
            if values[leaf].shape[0] != 3 * n:
                return
            gap = excess(values[leaf], torch.full((n,), 0.5, dtype=torch.float64)).flatten(1)
            over = gap.detach() - ROOM * (1 + size[:, None])
            if bool((over > 0).any()):
                complain(
                    built, "the certificate, after an ascent,", built.nodes[leaf], float(over.nan_to_num(0.0).max())
                )
            if gap.requires_grad:
                loss = loss - (gap / gap.detach().abs().amax().clamp(min=1e-12)).nan_to_num(0.0).sum()
        if not loss.requires_grad:
            return
        optimizer.zero_grad()
        loss.backward()
        for p in (*a, *b):
            if p.grad is not None:
                p.grad.nan_to_num_(0.0, 0.0, 0.0)
        optimizer.step()


def cross(built: Built, runner: Runner, tensors: dict[str, Tensor]) -> None:
    """Chords of the outputs across the zero sets of the program's nonlinearities."""
    leaves = [
        built.nodes.index(leaf)
        for _, leaf in built.program.outputs
        if leaf in runner.depends and leaf.meta["val"].is_floating_point()
    ]
    if built.mixes or not leaves:
        return
    sources = built.program.sources

    def run(*points: Tensor) -> list[Any]:
        given_ = [points[sources[p].index] if sources[p].kind == "input" else tensors[p] for p in runner.placeholders]
        return list(runner.module(*given_))

    boxes = boxes_of(built.program.inputs, built.variables, built.domain)
    found = guided_chords(
        lambda *points: [values[i] for values in [run(*points)] for i in leaves],
        [p[:1] for p in built.program.inputs],
        built.variables,
        boxes,
        budget=8_000,
        seed=built.seed % 2**31,
    )
    if found is None:
        return
    size = 0.0
    for end in (found.x, found.y):
        parts = {"chosen": iter(end), "other": iter(found.others)}
        point = [
            next(parts["chosen" if i in built.variables else "other"])[None] for i in range(len(built.program.inputs))
        ]
        with torch.no_grad():
            reals = [v for v in run(*point) if isinstance(v, Tensor) and v.is_floating_point() and v.numel()]
        size = max([size, *(float(v.abs().nan_to_num(0.0, 0.0, 0.0).max()) for v in reals)])
    if found.violation > ROOM * (1 + size):
        complain(built, "the certificate, across a kink,", built.nodes[leaves[0]], found.violation)


# --- whole modules, with writes through views ------------------------------------------------------------------------


class Scribbler(nn.Module):
    """A forward that writes in place, through views, and reads old names again; its steps are drawn from a seed."""

    bytes: Tensor
    small: Tensor
    mask: Tensor
    pick: Tensor
    place: Tensor
    scale: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(f"module {seed}")
        self.width = 4
        self.first = nn.Linear(self.width, self.width)
        self.second = nn.Linear(self.width, self.width)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.first.weight.copy_(torch.randn(self.width, self.width, generator=generator))
            self.second.weight.copy_(torch.randn(self.width, self.width, generator=generator).abs())
        self.register_buffer("bytes", integers((self.width,), torch.uint8, generator))
        self.register_buffer("small", integers((self.width,), torch.int8, generator, far=True))
        self.register_buffer("mask", integers((self.width,), torch.bool, generator))
        self.register_buffer("pick", torch.randint(self.width, (self.width,), generator=generator))
        self.register_buffer("place", torch.randint(self.width, (), generator=generator))
        self.register_buffer("scale", torch.randn((), generator=generator))
        self.plan = [
            (rng.randrange(40), rng.randrange(8), rng.randrange(8), rng.randrange(4), rng.random() < 0.12)
            for _ in range(rng.randint(3, 8))
        ]

    def forward(self, x: Tensor) -> Tensor:
        live = [x.clone(), self.first(x)]
        live.append(torch.relu(live[1]))
        for kind, i, j, k, quiet in self.plan:
            with torch.no_grad() if quiet else torch.enable_grad():
                made = self.act(kind, live[i % len(live)], live[j % len(live)], k)
            if made is not None:
                live.append(made)
        return live[-1]

    def act(self, kind: int, a: Tensor, b: Tensor, k: int) -> Tensor | None:
        match kind:
            case 0:
                a[:, k].neg_()
            case 1:
                a[:, k : k + 2] = b[:, :1]
            case 2:
                a += b
            case 3:
                return a.relu_()
            case 4:
                a.mul_(0.5 if k else -0.5)
            case 5:
                return a.view(-1, 2, 2).transpose(1, 2).flatten(1)
            case 6:
                a.view(-1, 2, 2)[:, 0] *= 2.0
            case 7:
                return torch.relu(a)
            case 8:
                return self.second(a)
            case 9:
                return a.chunk(2, 1)[k % 2].repeat(1, 2)
            case 10:
                return torch.maximum(a, b)
            case 11:
                a.copy_(b)
            case 12:
                return nn.functional.dropout(a, 0.5, training=False)
            case 13:
                return a.flip(1).abs_() if k else a.flip(1)
            case 14:
                a[:, k] = 0.0
            case 15:
                return a + b
            case 16:
                return nn.functional.softplus(a)
            case 17:
                for part in a.split(2, 1):
                    part.neg_() if k == 0 else part.clamp_(min=0)
            case 18:
                return a.detach()
            case 19:
                return a.unsqueeze(1).squeeze(1)
            case 20 | 21:
                fresh = torch.empty_like(a)
                fresh[:] = (self.bytes, self.small, self.mask)[k % 3]
                fresh[:, :1] = b[:, :1]
                return fresh
            case 22:
                return a * (self.mask.type_as(a) - 1) if k else a * (1 - self.mask.type_as(a))
            case 23:
                a[:, k] = self.bytes[k]
            case 24:
                a.sub_(self.bytes)
            case 25:
                a.mul_(self.small if k else self.mask)
            case 26:
                return a[:, int(self.place.item())].unsqueeze(1).expand(-1, self.width) + b
            case 27:
                return torch.stack([a, a.abs()], 1)[:, int(self.mask[0].long().item())]
            case 28:
                a[:, self.pick[:2]] = b[:, :2]
            case 29:
                return a[:, self.pick]
            case 30:
                a *= self.scale.item()
            case 31:
                return torch.full_like(a, self.bytes[k].item()) - a
            case 32:
                a.copy_(self.small)
            case 33:
                a.masked_fill_(self.mask, self.place.item())
            case 34:
                return torch.where(self.mask, a, self.bytes) if k else a.where(self.mask, b)
            case 35:
                return (self.bytes + self.bytes - 2).to(a.dtype) * a
            case 36:
                a.fill_(self.place).neg_()
            case 37:
                return a.roll(int(self.place.item()), 1)
            case 38:
                return a * (self.bytes == self.place) + b * torch.nn.functional.one_hot(self.place, self.width)
            case _:
                return a.expand_as(b) if k else a.contiguous()
        return None


def check_module(seed: int) -> str:
    """Trace and certify a scribbling module, and compare it on chords with the module itself, in float64."""
    model = Scribbler(seed).double()
    example = torch.zeros(2, model.width, dtype=torch.float64)
    try:
        program = trace(model, example)
    except cx.NotTraceable:
        return "not traceable"
    certificate = certify_program(program)
    errors = walk(program, placeholder_facts(program, (0,), {}, lambda _: True), explain).errors
    if errors:
        raise Violation(f"a rule failed on Scribbler({seed}): {errors[0]!r}\n{model.plan}") from errors[0]
    if not certificate.convex:
        return "refused"
    generator = torch.Generator().manual_seed(seed)
    n = 600
    x = torch.randn(n, model.width, generator=generator, dtype=torch.float64) * 2
    y = torch.randn(n, model.width, generator=generator, dtype=torch.float64) * 2
    t = torch.rand(n, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        values = model(torch.cat([x, y, t[:, None] * x + (1 - t[:, None]) * y]))
    gap = excess(values, t)
    if bool((gap > 1e-9 * (1 + values.abs().max())).any()):
        raise Violation(
            f"Scribbler({seed}) is certified {certificate.curvature}, but not convex by {float(gap.max()):.3g}:\n"
            f"{model.plan}"
        )
    return "certified"


# --- runs ------------------------------------------------------------------------------------------------------------

GENERATORS: dict[str, Callable[[int], Built]] = {
    "anything": anything,
    "integers": mostly_typed,
    "written": written_by_hand,
    "convex": convex,
    "products": mostly_products,
    "table": any_operator,
    "cancelled": mostly_cancelled,
}


def check_holes(seed: int) -> str:
    """A forward with holes; see `fuzz_holes`."""
    found = fuzz_holes.look(seed)
    if found.wrong:
        raise Violation(found.wrong)
    return found.verdict


FORWARDS: dict[str, Callable[[int], str]] = {"modules": check_module, "holes": check_holes}
"""Generators of forwards; a trace takes as long as many of the programs above."""


def run_one(kind: str, seed: int, thorough: bool = False) -> str:
    """One program of a generator, checked."""
    if kind in FORWARDS:
        return FORWARDS[kind](seed)
    return check(GENERATORS[kind](seed), thorough)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Random programs against the calculus.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="the first seed; the following ones are used in turn")
    parser.add_argument("--keep-going", action="store_true", help="print violations and go on")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    start = shown = time.monotonic()
    seed, failures = options.seed, 0
    while time.monotonic() - start < options.seconds:
        rare = {25: "modules", 5: "holes"}
        for kind in (*GENERATORS, *(kind for every, kind in rare.items() if seed % every == 0)):
            number = 4 * seed + counts["programs"] % 4
            try:
                verdict = run_one(kind, number, thorough=seed % 10 == 0)
            except Exception as violation:
                failures += 1
                if not isinstance(violation, Violation):
                    traceback.print_exc()
                thorough = ", thorough=True" if seed % 10 == 0 else ""
                print(
                    f"\nVIOLATION: {violation}\nAgain: python -c "
                    f'"from tests.curvature.fuzz import run_one; run_one({kind!r}, {number}{thorough})"'
                )
                if not options.keep_going:
                    return 1
                verdict = "violated"
            counts["programs"] += 1
            counts[verdict] += 1
            counts["by construction convex"] += kind == "convex"
        seed += 1
        if time.monotonic() - shown > 5:
            shown = time.monotonic()
            print(f"{shown - start:5.0f} s  {dict(counts)}", flush=True)
    print(f"seeds {options.seed} to {seed - 1}: ", end="")
    print(", ".join(f"{counts[k]} {k}" for k in ("programs", "certified", "refused", "by construction convex")))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
