"""Steps of random programs in which quantities cancel, and in which the sign of a zero is what decides.

What cancels is constant in exact arithmetic, and rounding noise as it is computed; what is multiplied by zero is 0 or
-0. So a function of it that jumps, has a pole, or is not defined everywhere, is neither convex nor concave.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import fx

if TYPE_CHECKING:
    from tests.curvature.fuzz import Builder

A = torch.ops.aten
SHIFTS = (0.0, 1.0, 1e-17, 0.1, 0.3, -0.7, 5.0)


def shifted(b: Builder, x: fx.Node) -> fx.Node:
    """(x + c) - x, perhaps less c: c is a number, or differs between elements."""
    rng = b.rng
    c = rng.choice(SHIFTS) if rng.random() < 0.6 else b.weight(b.shape(x)[1:])
    found = b.emit(A.sub.Tensor, b.emit(A.add.Tensor, x, c), x)
    return b.emit(A.sub.Tensor, found, c) if rng.random() < 0.6 else found


def vanishing(b: Builder, x: fx.Node) -> fx.Node:
    """A quantity that cancels, wholly or nearly so, or is multiplied by zero."""
    rng = b.rng
    kind = rng.randrange(12)
    if kind < 4:
        return shifted(b, x)
    if kind == 4:
        return b.emit(A.sub.Tensor, x, b.emit(A.clone.default, x))
    if kind == 5:
        k = rng.choice((3.0, 0.1, 7.0))
        return b.emit(A.sub.Tensor, b.emit(A.mul.Tensor, x, k), b.emit(A.mul.Tensor, x, k))
    if kind == 6:
        k = rng.choice((3.0, 0.1, 7.0))
        less = b.emit(A.sub.Tensor, b.emit(A.mul.Tensor, x, k), b.emit(A.mul.Tensor, x, k - 1.0))
        return b.emit(A.sub.Tensor, less, x)
    if kind == 7:
        return b.emit(A.mul.Tensor, x, rng.choice((0.0, -0.0)))
    if kind == 8:
        mask = torch.randint(0, 2, b.shape(x)[1:], generator=b.generator()).double()
        return b.emit(A.mul.Tensor, x, b.tensor(mask))
    if kind == 9:  # (x + 1)^2 - x^2 - 2 x - 1
        square = b.emit(A.square.default, b.emit(A.add.Tensor, x, 1.0))
        less = b.emit(A.sub.Tensor, square, b.emit(A.mul.Tensor, x, x))
        less = b.emit(A.sub.Tensor, less, b.emit(A.mul.Tensor, x, 2.0))
        return b.emit(A.sub.Tensor, less, rng.choice((1.0, 0.5)))
    if kind == 10:
        up, down = b.emit(A.exp.default, x), b.emit(A.exp.default, b.emit(A.neg.default, x))
        return b.emit(A.sub.Tensor, b.emit(A.mul.Tensor, up, down), 1.0)
    return b.emit(A.sub.Tensor, b.emit(A.clamp.default, x, -1.0, 1.0), b.emit(A.clamp.default, x, -1.0, 1.5))


def minded(b: Builder, z: fx.Node, x: fx.Node) -> fx.Node:
    """A function that minds the sign, or that its argument is zero, or on which side of a number it lies."""
    rng = b.rng
    kind = rng.randrange(20)
    if kind < 6:
        plain = (A.reciprocal, A.log, A.sqrt, A.rsqrt, A.lgamma, A.digamma, A.special_entr, A.log2, A.sign, A.floor)
        return b.emit(rng.choice(plain).default, z)
    if kind < 9:
        return b.emit(A.pow.Tensor_Scalar, z, rng.choice((-1.0, -2.0, -0.5, 0.5, 0.3, 1.5, 2.5, -3.0)))
    if kind < 11:
        return b.emit(A.div.Tensor, rng.choice((x, b.weight(b.shape(z)[1:]))), z)
    if kind == 11:
        return b.emit(A.log1p.default, b.emit(A.sub.Tensor, z, 1.0))
    if kind == 12:
        return b.emit(A.xlogy.Tensor, *rng.choice(((z, z), (x, z))))
    if kind == 13:
        return b.emit(A.addcdiv.default, x, b.weight(b.shape(z)[1:]), z)
    if kind == 14:
        return b.emit(rng.choice((A.copysign.Tensor, A.atan2.default)), *rng.choice(((x, z), (z, x))))
    if kind == 15:
        signed = b.emit(A.copysign.Tensor, b.emit(A.ones_like.default, x), z)
        return b.emit(A.mul.Tensor, signed, x)
    compare = rng.choice((A.gt, A.ge, A.lt, A.le, A.eq))
    mask = b.emit(compare.Scalar, z, rng.choice((*SHIFTS, 0.0)))
    if kind == 16:
        return b.emit(A.mul.Tensor, x, b.emit(A.to.dtype, mask, torch.float64))
    sides = (x, b.emit(A.neg.default, x)) if kind < 19 else (x, x)
    return b.emit(A.where.self, mask, *sides)


def cancelled(b: Builder, x: fx.Node) -> fx.Node | None:
    """Such a function of what cancels, often made a number again: a logistic function of a pole, say."""
    rng = b.rng
    z = vanishing(b, x)
    if rng.random() < 0.15:
        return z
    if rng.random() < 0.2:
        z = b.emit(rng.choice((A.neg, A.relu, A.abs, A.sqrt)).default, z)
    found = minded(b, z, x)
    kind = rng.randrange(8)
    if kind == 0:
        return b.emit(rng.choice((A.sigmoid, A.relu, A.atan, A.exp)).default, found)
    if kind == 1:
        return b.emit(A.mul.Tensor, found, rng.choice((0.0, -1.0, 2.0)))
    if kind == 2:
        return b.emit(A.mul.Tensor, found, x)
    if kind == 3:
        return b.emit(A.add.Tensor, b.emit(A.square.default, x), found)
    return found


def from_below(b: Builder, x: fx.Node) -> fx.Node | None:
    """A function with a pole at the edge of its range, where the zero may have either sign."""
    rng = b.rng
    end = rng.choice((A.relu, A.abs, A.square))
    found = b.emit(end.default, x) if rng.random() < 0.5 else x
    if rng.random() < 0.5:
        found = b.emit(A.neg.default, found)
    return b.emit(rng.choice((A.relu, A.atan, A.neg)).default, minded(b, found, x))
