"""Steps of random programs that use any operator of the rule table, at the settings of its oracle.

What an oracle leaves open is filled with the quantities of a program, brought to the shape and the range that the
operator asks for, so that every row of the table is met behind and before any other, with the batch moved, reduced or
left alone, with dimensions of one element or none, and with constants that broadcast over the batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from convexnet.curvature.table import TABLE
from convexnet.curvature.tracing.trace import Source
from tests.curvature.oracles import SAMPLES, Fixed, Moving, Sample

if TYPE_CHECKING:
    from tests.curvature.fuzz import Builder

A = torch.ops.aten
NAMES = sorted(SAMPLES)
BATCH = 2


def filled(value: Any, change: Callable[[Any], Any]) -> Any:
    """The arguments of a sample with every tensor, open or written out, replaced."""
    if isinstance(value, (list, tuple)):
        return [filled(part, change) for part in value]
    if isinstance(value, dict):
        return {key: filled(part, change) for key, part in value.items()}
    return change(value) if isinstance(value, (Moving, Fixed, Tensor)) else value


def opened(value: Any) -> Iterator[Moving | Fixed]:
    found: list[Moving | Fixed] = []
    filled(value, lambda spec: found.append(spec) if not isinstance(spec, Tensor) else None)
    return iter(found)


@functools.cache
def overload(name: str, place: int) -> Any:
    """The overload that takes a sample's arguments, the first that does; None for a sample that draws numbers."""
    sample = SAMPLES[name][place]
    flag = TABLE[name].draws
    if flag is not None and len(sample.args) > flag and sample.args[flag]:
        return None
    made: dict[int, Tensor] = {}

    def tensor(spec: Any) -> Tensor:
        if isinstance(spec, Tensor):
            return spec
        low, high = spec.within[0] if isinstance(spec, Moving) else (0.1, 0.9)
        low, high = finite(low, high)
        generator = torch.Generator().manual_seed(len(made))
        drawn = torch.rand(spec.shape, generator=generator, dtype=torch.float64)
        return made.setdefault(id(spec), low + drawn * (high - low))

    args, kwargs = filled(sample.args, tensor), filled(sample.kwargs, tensor)
    packet = getattr(A, name)
    for each in packet.overloads():
        if each.endswith("out"):
            continue
        try:
            getattr(packet, each)(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
            continue
        return getattr(packet, each)
    return None


def finite(low: float, high: float) -> tuple[float, float]:
    if math.isinf(low):
        return (-2.0, 2.0) if math.isinf(high) else (high - 3.0, high)
    return (low, low + 3.0) if math.isinf(high) else (low, high)


def ranged(b: Builder, node: fx.Node, within: tuple[float, float]) -> fx.Node:
    """A quantity brought into a range, in one of the ways in which people do it."""
    low, high = within
    rng = b.rng
    if math.isinf(low) and math.isinf(high):
        return node
    if math.isinf(high):
        kind = rng.randrange(5)
        if kind == 0:
            return b.emit(A.add.Tensor, b.emit(A.relu.default, node), low)
        if kind == 1:
            return b.emit(A.add.Tensor, b.emit(A.softplus.default, node), low)
        if kind == 2:
            return b.emit(A.add.Tensor, b.emit(A.square.default, node), low)
        if kind == 3:
            return b.emit(A.add.Tensor, b.emit(A.abs.default, node), low)
        return b.emit(A.clamp_min.default, node, low)
    if math.isinf(low):
        kind = rng.randrange(3)
        if kind == 0:
            return b.emit(A.rsub.Scalar, b.emit(A.relu.default, node), high)
        if kind == 1:
            return b.emit(A.add.Tensor, b.emit(A.log_sigmoid.default, node), high)
        return b.emit(A.clamp_max.default, node, high)
    if rng.random() < 0.5:
        return b.emit(A.clamp.default, node, low, high)
    return b.emit(A.add.Tensor, b.emit(A.mul.Tensor, b.emit(A.sigmoid.default, node), high - low), low)


def shaped(b: Builder, x: fx.Node, shape: tuple[int, ...]) -> fx.Node | None:
    """A quantity of a shape: its elements mixed with weights, or picked, and the batch first, if there is one."""
    rng = b.rng
    has_batch = bool(shape) and shape[0] == BATCH
    size = math.prod(shape[1:] if has_batch else shape)
    flat = x if len(b.shape(x)) == 2 else b.emit(A.flatten.using_ints, x, 1, -1)
    width = b.shape(flat)[1]
    if not width or not size:
        return None
    if width != size or rng.random() < 0.3:
        if rng.random() < 0.5:
            index = torch.randint(width, (size,), generator=b.generator())
            flat = b.emit(A.index_select.default, flat, 1, b.tensor(index))
        else:
            bias = [b.weight((size,), "any")] if rng.random() < 0.5 else []
            flat = b.emit(A.linear.default, flat, b.weight((size, width), rng.choice(("", "any"))), *bias)
    if has_batch:
        return flat if len(shape) == 2 else b.emit(A.reshape.default, flat, list(shape))
    row = b.emit(A.select.int, flat, 0, rng.randrange(BATCH))
    return b.emit(A.reshape.default, row, list(shape))


def constant(b: Builder, spec: Fixed) -> fx.Node:
    """A tensor that does not vary; what must be at hand is a buffer, the rest a parameter as often."""
    value = b.numbers(spec.shape, {"any": "any", "nonneg": "+", "positive": "+"}[spec.sign])
    value = value + 0.1 if spec.sign == "positive" else value
    if spec.known:
        return b.placeholder(value, lambda name: Source("buffer", f"layer.{name}", tensor=value))
    return b.tensor(value)


def real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def any_operator(b: Builder, x: fx.Node, partner: Callable[[Builder, fx.Node], fx.Node | None]) -> fx.Node | None:
    """Any operator of the table, at any setting that its oracle has."""
    rng = b.rng
    name = rng.choice(NAMES)
    place = rng.randrange(len(SAMPLES[name]))
    target = overload(name, place)
    if target is None:
        return None
    sample: Sample = SAMPLES[name][place]
    nodes: dict[int, fx.Node | None] = {}
    b.mixes = True  # samples name the size of the batch, and some move it
    for spec in opened([sample.args, sample.kwargs]):
        if id(spec) in nodes:
            continue
        if isinstance(spec, Fixed):
            nodes[id(spec)] = constant(b, spec)
            continue
        source = x if not any(nodes.values()) or rng.random() < 0.5 else partner(b, x) or x
        node = shaped(b, source, spec.shape)
        if node is not None and rng.random() < 0.8:
            node = ranged(b, node, rng.choice(spec.within))
        nodes[id(spec)] = node
    if any(node is None for node in nodes.values()):
        return None

    def node_of(spec: Any) -> fx.Node:
        found = b.tensor(spec) if isinstance(spec, Tensor) else nodes[id(spec)]
        assert found is not None
        return found

    out = b.emit(target, *filled(sample.args, node_of), **filled(sample.kwargs, node_of))
    value = b.values[out]
    if isinstance(value, (tuple, list)):
        places = [i for i, part in enumerate(value) if real(part)]
        if not places:
            return None
        out = b.item(out, rng.choice(places))
        value = b.values[out]
    return batched(b, out) if real(value) else None


def batched(b: Builder, node: fx.Node) -> fx.Node | None:
    """A result with the batch first, where it has lost it, and of at most four dimensions."""
    shape = b.shape(node)
    if not math.prod(shape):
        return None
    if len(shape) == 1 and shape[0] == BATCH:
        return b.emit(A.unsqueeze.default, node, 1)
    if len(shape) >= 2 and shape[0] == BATCH:
        return node if len(shape) <= 4 else b.emit(A.flatten.using_ints, node, 1, -1)
    line = b.emit(A.reshape.default, node, [1, -1])
    return b.emit(A.expand.default, line, [BATCH, -1])


def emptied(b: Builder, x: fx.Node) -> fx.Node | None:
    """Dimensions without elements, which are joined to others, summed or padded."""
    rng, shape = b.rng, b.shape(x)
    if len(shape) < 2:
        return None
    dim = rng.randrange(1, len(shape))
    start = rng.randrange(shape[dim] + 1)
    none = b.emit(A.slice.Tensor, x, dim, start, start)
    if rng.random() < 0.5:
        bend = rng.choice((A.relu, A.exp, A.square, A.neg, A.log, A.tanh))
        none = b.emit(bend.default, none)
    kind = rng.randrange(8)
    if kind == 0:
        return b.emit(A.cat.default, [none, x] if rng.random() < 0.5 else [x, none], dim)
    if kind == 1:
        return b.emit(A.sum.dim_IntList, none, [dim], True)
    if kind == 2:
        widths = [0, 0] * (len(shape) - 1 - dim) + [rng.randint(0, 1), 1]
        return b.emit(A.constant_pad_nd.default, none, widths, rng.choice((0.0, -0.5, 1.0)))
    if kind == 3:
        return b.emit(A.prod.dim_int, none, dim, True)
    if kind == 4 and dim == len(shape) - 1:
        return b.emit(A.linear.default, none, b.weight((rng.randint(1, 3), 0)))
    if kind == 5:
        return b.emit(A.slice_scatter.default, x, none, dim, start, start)
    if kind == 6:
        return b.emit(A.linalg_vector_norm.default, none, rng.choice((1, 2)), [dim], True)
    return b.emit(A.logsumexp.default, none, [dim], True)


def spread(b: Builder, x: fx.Node) -> fx.Node | None:
    """Constants with a row for each sample, or one for all, or fewer dimensions; and quantities that broadcast."""
    rng, shape = b.rng, b.shape(x)
    kind = rng.randrange(6)
    rows = (rng.choice((1, BATCH)), *(n if rng.random() < 0.7 else 1 for n in shape[1:]))
    b.mixes = b.mixes or rows[0] == BATCH
    other = b.weight(rows)
    if kind == 0:
        return b.emit(rng.choice((A.mul, A.add, A.sub, A.div)).Tensor, x, other)
    if kind == 1:
        return b.emit(rng.choice((A.maximum, A.minimum)).default, x, other)
    if kind == 2 and len(shape) < 4:  # against another axis: (B, n, 1) with (B, 1, n)
        left, right = b.emit(A.unsqueeze.default, x, -1), b.emit(A.unsqueeze.default, x, len(shape) - 1)
        return b.emit(rng.choice((A.add.Tensor, A.sub.Tensor, A.mul.Tensor, A.maximum.default)), left, right)
    if kind == 3:
        mask = torch.rand(rows, generator=b.generator()) < 0.5
        return b.emit(A.where.self, b.tensor(mask), x, other)
    if kind == 4 and len(shape) == 2:
        b.mixes = True
        square = b.weight((BATCH, BATCH))
        return b.emit(A.matmul.default, square, x)
    return b.emit(A.addcmul.default, x, other, x if rng.random() < 0.5 else other)


def looked_up(b: Builder, x: fx.Node) -> fx.Node | None:
    """Tables read at indices: embeddings of a buffer, of another input, and of what varies."""
    rng, shape = b.rng, b.shape(x)
    flat = x if len(shape) == 2 else b.emit(A.flatten.using_ints, x, 1, -1)
    width, count = b.shape(flat)[1], rng.randint(1, 4)
    table = b.weight((count, width), rng.choice(("+", "+", "any")))
    inputs = [n for n in b.whole if len(b.shape(n)) == 2 and b.values[n].dtype != torch.bool]
    if inputs and rng.random() < 0.7:
        place = b.emit(A.remainder.Scalar, b.emit(A.to.dtype, rng.choice(inputs), torch.int64), count)
        place = b.emit(A.select.int, place, 1, 0)
    else:
        rows = rng.choice((1, 1, BATCH))
        b.mixes = b.mixes or rows == BATCH
        place = b.tensor(torch.randint(count, (rows,), generator=b.generator()))
    padding = rng.choice((-1, 0, count - 1))
    found = b.emit(A.embedding.default, table, place, padding)
    if rng.random() < 0.3:
        found = b.emit(rng.choice((A.relu, A.abs, A.exp)).default, found)
    return b.emit(rng.choice((A.mul, A.mul, A.add, A.div)).Tensor, flat, found)
