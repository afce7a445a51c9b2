"""Steps of random programs that people write by hand: choices by comparison, sorted and running sums, losses.

A choice is drawn so that its pieces often meet at the threshold and its slopes often rise there, and often not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import fx

if TYPE_CHECKING:
    from tests.curvature.fuzz import Builder

A = torch.ops.aten
SLOPES = (-1.0, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0)
LEVELS = (0.0, 0.0, 0.5, -1.0, 0.1)


def line(b: Builder, x: fx.Node, at: float) -> fx.Node:
    """A line, or a parabola, through 0 at a point; now and then through another number."""
    apart = b.emit(A.sub.Tensor, x, at) if at or b.rng.random() < 0.3 else x
    kind = b.rng.randrange(8)
    if kind == 0:
        return b.emit(A.square.default, apart)
    if kind == 1:
        return b.emit(A.mul.Tensor, b.emit(A.mul.Tensor, apart, b.rng.choice(SLOPES)), apart)
    if kind == 2:
        return b.emit(A.zeros_like.default, x)
    if kind == 3:
        return b.emit(A.sub.Tensor, b.emit(A.exp.default, apart), 1.0)
    if kind == 4:
        return b.emit(A.abs.default, apart)
    found = b.emit(A.mul.Tensor, apart, b.rng.choice(SLOPES))
    return b.emit(A.add.Tensor, found, b.rng.choice((1e-12, 1.0))) if b.rng.random() < 0.06 else found


def flags(b: Builder, x: fx.Node, at: float) -> fx.Node:
    compare = b.rng.choice((A.gt, A.ge, A.lt, A.le, A.gt, A.gt))
    if b.rng.random() < 0.15:
        return b.emit(b.rng.choice((A.lt, A.ge)).Scalar, b.emit(A.abs.default, x), abs(at) or 1.0)
    mask = b.emit(compare.Scalar, x, at)
    if b.rng.random() < 0.1:
        other = b.emit(b.rng.choice((A.gt, A.lt)).Scalar, x, b.rng.choice(LEVELS))
        return b.emit(b.rng.choice((A.logical_and, A.logical_or)).default, mask, other)
    return b.emit(A.logical_not.default, mask) if b.rng.random() < 0.1 else mask


def choice(b: Builder, x: fx.Node, partner: Callable[[Builder, fx.Node], fx.Node | None]) -> fx.Node | None:
    """A function of one number by pieces, or the larger of two."""
    rng, at = b.rng, b.rng.choice(LEVELS)
    kind = rng.randrange(12)
    if kind < 4:
        found = b.emit(A.where.self, flags(b, x, at), line(b, x, at), line(b, x, at))
        if rng.random() < 0.3:
            found = b.emit(A.where.self, flags(b, x, rng.choice(LEVELS)), found, line(b, x, at))
        return found
    if kind == 4:
        mask = flags(b, x, at)
        mask = b.emit(A.to.dtype, mask, torch.float64) if rng.random() < 0.5 else mask
        return b.emit(A.mul.Tensor, line(b, x, at), mask)
    if kind == 5:
        return b.emit(A.masked_fill.Scalar, x, flags(b, x, at), at if rng.random() < 0.8 else 0.25)
    if kind == 6:
        return b.emit(A.mul.Tensor, line(b, x, at), b.emit(A.sign.default, b.emit(A.sub.Tensor, x, at)))
    if kind == 7:
        less = b.emit(A.sub.Tensor, x, b.emit(A.clamp.default, x, -1.0, rng.choice((0.5, 1.0))))
        how = rng.randrange(4)
        if how == 0:
            return b.emit(A.abs.default, less)
        if how == 1:
            return b.emit(A.square.default, less)
        return b.emit(A.linalg_vector_norm.default, less, rng.choice((1, 2, 3)), [1], True) if how == 2 else less
    if kind == 8 and len(b.shape(x)) > 1:
        dim = rng.randrange(1, len(b.shape(x)))
        index = b.emit(rng.choice((A.argmax, A.argmax, A.argmin)).default, x, dim, True)
        return b.emit(A.gather.default, x, dim, index)
    if kind == 9:
        slope = b.tensor(torch.rand(b.shape(x)[1:], generator=b.generator(), dtype=torch.float64).mul(4).round() / 3)
        return b.emit(A.where.self, flags(b, x, 0.0), x, b.emit(A.mul.Tensor, x, slope))
    other = partner(b, x)
    if other is None or b.shape(other) != b.shape(x):
        return None
    mask = b.emit(rng.choice((A.gt, A.lt)).Tensor, x, other)
    return b.emit(A.where.self, mask, *((x, other) if rng.random() < 0.6 else (other, x)))


def ordered(b: Builder, x: fx.Node) -> fx.Node | None:
    """Sorted elements, and what is often made of them."""
    rng, shape = b.rng, b.shape(x)
    if len(shape) < 2:
        return None
    dim = rng.randrange(1, len(shape))
    n = shape[dim]
    if rng.random() < 0.5:
        k = rng.randint(1, n)
        values = b.item(b.emit(A.topk.default, x, k, dim, rng.random() < 0.6, rng.random() < 0.8), 0)
    else:
        k = n
        values = b.item(b.emit(A.sort.default, x, dim, rng.random() < 0.5), 0)
    if rng.random() < 0.3:
        values = b.emit(A.flip.default, values, [rng.randrange(1, len(shape))])
    if rng.random() < 0.3 and k > 1:
        start = rng.randrange(k)
        values = b.emit(A.slice.Tensor, values, dim, start, rng.randint(start + 1, k))
        k = b.shape(values)[dim]
    weights = torch.rand(k, generator=b.generator(), dtype=torch.float64).mul(3).round()
    weights = weights - rng.choice((0.0, 0.0, 1.0))
    weights = weights.sort(descending=rng.random() < 0.5).values if rng.random() < 0.8 else weights
    how = rng.randrange(5)
    if how < 2:
        return b.emit(rng.choice((A.sum.dim_IntList, A.mean.dim)), values, [dim], True)
    if how == 2 and dim == len(shape) - 1:
        return b.emit(A.matmul.default, values, b.tensor(weights.unsqueeze(-1)))
    if how == 3:
        line = weights.reshape([-1 if d == dim else 1 for d in range(1, len(shape))])
        return b.emit(A.sum.dim_IntList, b.emit(A.mul.Tensor, values, b.tensor(line)), [dim], True)
    return values


def running(b: Builder, x: fx.Node, partner: Callable[[Builder, fx.Node], fx.Node | None]) -> fx.Node | None:
    """Running sums and maxima, elements added at indices, losses and functions of two."""
    rng, shape = b.rng, b.shape(x)
    if len(shape) < 2:
        return None
    dim = rng.randrange(1, len(shape))
    kind = rng.randrange(14)
    if kind == 0:
        return b.emit(A.cumsum.default, x, dim)
    if kind == 1:
        return b.item(b.emit(rng.choice((A.cummax, A.cummin)).default, x, dim), 0)
    if kind == 2:
        return b.emit(A.logcumsumexp.default, x, dim)
    if kind == 3 and shape[dim] > 1:
        return b.emit(A.diff.default, x, 1, dim)
    if kind == 4:
        index = b.tensor(torch.randint(0, shape[dim], (shape[dim],), generator=b.generator()))
        return b.emit(A.index_add.default, x, dim, index, x, alpha=rng.choice((1, 0.5, -1)))
    if kind == 5:
        return b.emit(A.nan_to_num.default, x)
    if kind == 6:
        return b.item(b.emit(rng.choice((A.var_mean, A.std_mean)).correction, x, [dim], correction=0, keepdim=True),
                      rng.randrange(2))  # fmt: skip
    if kind == 7:
        return b.item(b.emit(A.aminmax.default, x, dim=dim, keepdim=True), rng.randrange(2))
    other = partner(b, x) if rng.random() < 0.5 else b.weight(shape[1:], "any")
    if other is None:
        return None
    if kind == 8:
        return b.emit(rng.choice((A.fmax, A.fmin)).default, x, other)
    if kind == 9:
        return b.emit(rng.choice((A.logaddexp, A.logaddexp2)).default, x, other)
    if kind == 10:
        return b.emit(A.hypot.default, x, other)
    if kind == 11:
        if rng.random() < 0.3:  # which has no derivative with respect to its target
            return b.emit(A.soft_margin_loss.default, x, b.weight(shape[1:], "any"), 0)
        loss = rng.choice((A.mse_loss, A.l1_loss))
        return b.emit(loss.default, *((x, other) if rng.random() < 0.8 else (other, x)), 0)
    if kind == 12:
        return b.emit(rng.choice((A.huber_loss, A.smooth_l1_loss)).default, x, other, 0, rng.choice((0.5, 1.0, 2.0)))
    return b.emit(A.addcdiv.default, x, other, b.weight(shape[1:], "+"), value=rng.choice((1, 0.5, -1)))
