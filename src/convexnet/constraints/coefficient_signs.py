"""The signs that one operator requires of its coefficients so that it stays convex.

An operator that is linear in its argument and in a coefficient meets the composition theorem entry by entry: a
coefficient that multiplies something convex must be >= 0 for the product to be convex, one that multiplies something
concave must be <= 0. Which coefficients meet a marked element, the operator tells itself: the gradient of its summed
result with respect to its coefficients, with 0/1 marks for its argument, is positive exactly there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convexnet.curvature.call import Call
from convexnet.curvature.facts import Fact
from convexnet.curvature.fields import compact, core, where_any
from convexnet.curvature.rules.layers import conv, per_dimension
from convexnet.curvature.rules.linear import seen_taps
from convexnet.curvature.table import is_batch_norm, row_of

INF = float("inf")


@dataclass(frozen=True)
class RequiredBounds:
    """Bounds that a coefficient must keep, each broadcasting to its shape; infinite where nothing is asked."""

    place: tuple[int, ...]  # among the call's arguments: (1,), or (2, 5) for the sixth tensor of a list
    coefficient: Fact
    lo: Tensor
    hi: Tensor


def required_bounds(call: Call, wanted: int, read: Tensor | None = None) -> Iterator[RequiredBounds]:
    """Yield the signs an operator requires of its coefficients, except where the sign is right for all parameters.

    Args:
        call: the operator, with its facts.
        wanted: +1 if what reads the result needs it convex, -1 if concave, 0 if nothing is known of that.
        read: mask of the elements of the result that matter; None: all do.
    """
    row = row_of(call.name)
    if row.requires == "recurrent signs":
        yield from recurrent_weight_bounds(call)
        return
    for place, coefficient, moving in coefficients_with_arguments(call):
        if row.requires == "slope":
            asked = prelu_slope_bounds(moving, coefficient, wanted, read)
        elif row.requires == "share":
            asked = lerp_weight_bounds(call, coefficient, read)
        else:
            asked = sign_bounds(call, coefficient, moving, wanted, read)
        if asked is not None:
            yield RequiredBounds(place, coefficient, *asked)


def coefficients_with_arguments(call: Call) -> Iterator[tuple[tuple[int, ...], Fact, Fact]]:
    """Each coefficient of a call with its place, and the argument that it multiplies."""
    for position in row_of(call.name).weights:
        found = call.args[position] if position < len(call.args) else None
        listed = isinstance(found, (list, tuple))
        for index, fact in enumerate(found if listed else [found]):
            if not isinstance(fact, Fact) or not fact.constant or fact.integral:
                continue
            partner = multiplied_argument(call, position, index)
            if partner is not None and not partner.constant:
                yield ((position, index) if listed else (position,)), fact, partner


def multiplied_argument(call: Call, position: int, index: int) -> Fact | None:
    """The argument that a coefficient multiplies."""
    if isinstance(call.args[position], (list, tuple)):
        operands: Sequence[Any] = call.args[position]
        return operands[1 - index] if len(operands) == 2 else None
    row = row_of(call.name)
    partner = call.args[sum(row.weights) - position] if len(row.weights) == 2 else call.args[0]
    if row.requires == "share":
        partner = next((arg for arg in call.args[:2] if isinstance(arg, Fact) and not arg.constant), None)
    return partner if isinstance(partner, Fact) else None


# --- signs -----------------------------------------------------------------------------------------------------------


def sign_bounds(
    call: Call, coefficient: Fact, x: Fact, wanted: int, read: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """>= 0 where the coefficient meets what must keep its curvature, <= 0 where it meets what must turn it.

    What is convex in some elements and concave in others is brought to the wanted curvature, convex if none is
    known. A coefficient that would have to be both is left alone: the walk blames the operator.
    """
    nonconcave, nonconvex = where_any(x.nonconcave), where_any(x.nonconvex)
    if not nonconcave and not nonconvex:
        return None
    nothing = torch.zeros([1] * len(coefficient.shape), dtype=torch.bool)
    up = coefficients_that_meet(call, coefficient, x, x.nonconcave, read) if nonconcave else nothing
    down = coefficients_that_meet(call, coefficient, x, x.nonconvex, read) if nonconvex else nothing
    if coefficient.value is None:  # what is zero for all parameters is asked nothing
        may_differ = (core(coefficient.lo) < 0) | (core(coefficient.hi) > 0)
        up, down = up & may_differ, down & may_differ
    turn = wanted < 0 if nonconcave else wanted > 0
    rise, fall = (up, down) if nonconcave else (down, nothing)
    if turn:
        rise, fall = fall, rise
    wrong = rise & (core(coefficient.lo) < 0), fall & (core(coefficient.hi) > 0)
    known_right = coefficient.value is None and not any(bool(mask.any()) for mask in wrong)
    if known_right or bool((rise & fall).any()) or not bool((rise | fall).any()):
        return None
    return torch.where(rise, 0.0, -INF).double(), torch.where(fall, 0.0, INF).double()


def coefficients_that_meet(call: Call, coefficient: Fact, x: Fact, mask: Tensor, read: Tensor | None) -> Tensor:
    """Mask of the coefficients that multiply a marked element of `x` for a result that is read.

    It broadcasts to their shape.
    """
    inner = core(mask)
    if call.name == "linear":
        if read is None:
            return inner.reshape(-1, inner.shape[-1]).any(0, keepdim=True)
        rows, columns = read.reshape(-1, read.shape[-1]), mask.reshape(-1, mask.shape[-1])
        return rows.double().T @ columns.double() > 0
    if is_batch_norm(call.name):
        both = inner if read is None else core(compact(mask & read))
        return both.movedim(1, 0).flatten(1).any(1)
    if read is None and row_of(call.name).runs(conv) and all(length == 1 for length in inner.shape[2:]):
        return taps_that_meet(call, coefficient, inner.expand(-1, x.shape[1], *inner.shape[2:]).flatten(1).any(0))
    with torch.enable_grad():
        variable = torch.zeros(coefficient.shape, requires_grad=True)

        def exchange(fact: Fact) -> Tensor:
            if fact is coefficient:
                return variable
            return mask.float() if fact is x else torch.zeros(fact.shape)

        out = call.recorded(exchange)
        total = out.sum() if read is None else (out * read).sum()
        (met,) = torch.autograd.grad(total, variable, allow_unused=True, materialize_grads=True)
    return met != 0


def unbroadcast(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """Mask of the elements of a broadcast argument that go into a marked element of the result."""
    while mask.ndim > len(shape):
        mask = mask.any(0)
    for dim, length in enumerate(shape[len(shape) - mask.ndim :]):
        if length == 1 and mask.shape[dim] > 1:
            mask = mask.any(dim, keepdim=True)
    return mask.expand(tuple(shape))


def taps_that_meet(call: Call, coefficient: Fact, marked: Tensor) -> Tensor:
    """The taps of a convolution that meet marked channels: those of each group, at the offsets that ever see data."""
    out, width, *kernel = coefficient.shape
    groups = call.x.shape[1] // width
    dims = len(kernel)
    settings = (call.arg(3, "stride", [1]), call.arg(4, "padding", [0]), call.arg(5, "dilation", [1]))
    stride, padding, dilation = (per_dimension(value, dims) for value in settings)
    used = seen_taps(call.x.shape, coefficient.shape, stride, padding, dilation, call.shape)
    if used is None:
        used = torch.ones([1] * len(coefficient.shape), dtype=torch.bool)
    if bool(marked.all()):
        return used
    by_group = marked.reshape(groups, width)
    if groups == 1:
        return by_group.reshape(1, width, *[1] * dims) & used
    return by_group.repeat_interleave(out // groups, 0).reshape(out, width, *[1] * dims) & used


# --- slopes, blends, recurrent weights -------------------------------------------------------------------------------


def prelu_slope_bounds(x: Fact, slope: Fact, wanted: int, read: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """PReLU is convex for slopes up to 1 (concave from 1 on), and non-decreasing for slopes from 0 on."""
    falls = core(x.lo) < 0  # elsewhere the slope is never used
    bent = core(x.nonconcave) | core(x.nonconvex)
    if read is not None:
        falls, bent = core(compact(falls & read)), core(compact(bent & read))
    needs, bent = prelu_slopes_that_meet(falls, x, slope), prelu_slopes_that_meet(bent, x, slope)
    rises = needs & bent
    concave = wanted < 0 or (wanted == 0 and where_any(x.nonconvex) and not where_any(x.nonconcave))
    low = torch.where(needs, 1.0, -INF) if concave else torch.where(rises, 0.0, -INF)
    high = torch.full_like(low, INF) if concave else torch.where(needs, 1.0, INF)
    if not bool(needs.any()) or (
        slope.value is None and bool((core(slope.lo) >= low).all() and (core(slope.hi) <= high).all())
    ):
        return None
    return low.double(), high.double()


def prelu_slopes_that_meet(mask: Tensor, x: Fact, slope: Fact) -> Tensor:
    """Mask of the slopes of a PReLU that meet a marked element; it broadcasts to their shape."""
    if slope.shape.numel() == 1:
        return mask.any().reshape([1] * len(slope.shape))
    if len(slope.shape) == len(x.shape):
        return unbroadcast(mask.expand(tuple(x.shape)), slope.shape)
    return mask.expand(-1, x.shape[1], *mask.shape[2:]).movedim(1, 0).flatten(1).any(1)


def lerp_weight_bounds(call: Call, weight: Fact, read: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """start + w (end - start): w in [0, 1] where both ends are convex."""
    start, end = call.args[:2]
    if not isinstance(start, Fact) or not isinstance(end, Fact):
        return None
    bends = where_any(start.nonconcave), where_any(end.nonconcave)
    if where_any(start.nonconvex) or where_any(end.nonconvex) or not any(bends):
        return None
    asked = torch.ones([1] * len(weight.shape), dtype=torch.bool) if read is None else unbroadcast(read, weight.shape)
    if not bool(asked.any()):
        return None
    lo, hi = (0.0 if bends[1] else -INF), (1.0 if bends[0] else INF)
    return torch.where(asked, lo, -INF).double(), torch.where(asked, hi, INF).double()


def recurrent_weight_bounds(call: Call) -> Iterator[RequiredBounds]:
    """A ReLU RNN: recurrent weights, and the input weights of every layer that sees a layer below, are >= 0."""
    x = call.args[0]
    if not isinstance(x, Fact) or where_any(x.nonconvex):
        return
    first = core(x.nonconcave).reshape(-1, core(x.nonconcave).shape[-1]).any(0, keepdim=True)
    if call.name == "rnn_relu_cell":
        h = call.args[1]
        before = core(h.nonconcave).reshape(-1, core(h.nonconcave).shape[-1]).any(0, keepdim=True)
        asked = [((2,), call.args[2], first), ((3,), call.args[3], before)]
    else:
        _, h, weights, has_biases, layers, _, _, both_ways, batch_first = call.args
        if len(x.shape) != 3 or not isinstance(h, Fact):
            return
        every = torch.ones(1, 1, dtype=torch.bool)
        repeats = x.shape[1 if batch_first else 0] > 1 or where_any(h.nonconcave)
        size, ways = (4 if has_biases else 2), (2 if both_ways else 1)
        asked: list[tuple[tuple[int, ...], Any, Tensor]] = []
        for index in range(layers * ways):
            place = index * size
            asked.append(((2, place), weights[place], first if index < ways else every))
            asked.append(((2, place + 1), weights[place + 1], every & repeats))
    for place, weight, mask in asked:
        if bool((mask & (core(weight.lo) < 0)).any()):
            lo = torch.where(mask, 0.0, -INF).double()
            yield RequiredBounds(place, weight, lo, torch.full_like(lo, INF))
