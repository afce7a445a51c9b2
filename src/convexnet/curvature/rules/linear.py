"""The second kind of operator: maps that are linear in what varies, with coefficients of known or unknown sign.

An output element rises with an input element where their coefficient may be positive, and falls where it may be
negative. So the composition theorem needs one thing of a linear operator: which outputs does a marked set of inputs
reach through the coefficients that may be positive (or negative)? The operator answers that itself, run on 0/1 masks
in place of its input and of its coefficients. Real coefficients are never multiplied: their products can underflow.

How an operator pairs inputs with coefficients is a `Form`; see `pairings`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from convexnet.curvature.composition import Influence, Reach, compose, spread_rows
from convexnet.curvature.facts import INF, Fact
from convexnet.curvature.fields import Shape, batched, core, elementwise, join_rows, level, uniform, where_any, widened
from convexnet.curvature.rules.pairings import Convolution, Form, Product, Signs, negative_part, positive_part
from convexnet.curvature.rules.powers import concavity_of_multiple, concavity_of_product, concavity_of_sum

EPS = torch.finfo(torch.float64).eps
SMALL = 1 << 16
"""Entries of bounds for which it is worth finding out whether a sum was rounded: parameters, not whole layers."""

TINY = 1e-300
"""Added outwards where products may underflow; exact zeros come from the signs alone."""


def bilinear(x: Fact, w: Fact, form: Form, shape: Shape) -> Fact:
    """The fact of a bilinear operator whose coefficients `w` do not vary with the chosen inputs."""
    signs = Signs(w)
    up, down = (signs.through(sign, form, x.shape, shape) for sign in "+-")
    influence = Influence(x, up, down, by_row=form.by_row)
    result = compose([influence], shape)
    if where_any(w.rows):
        result = with_rows_of(result, w, form, x, shape)
    result = result.bounded(*product_bounds(x, w, form, influence, shape))
    nonneg = signs.mask("-") is None
    return replace(
        result.with_degree(x.power if nonneg else 0.0),
        concavity=(x.root if isinstance(form, Product) else concavity_of_sum([x.root])) if nonneg else math.nan,
        exponent=exponent_of_multiple(x.exponent, w) if isinstance(form, Product) else math.nan,
        positive=isinstance(form, Product) and x.is_positive and w.is_positive,
    )


def exponent_of_multiple(exponent: float, w: Fact) -> float:
    """The exponent (see `powers`) of multiples by the coefficients."""
    if math.isnan(exponent) or w.shape.numel() == 0:
        return math.nan
    return concavity_of_multiple(exponent, float(core(w.lo).min()), float(core(w.hi).max()))


def with_rows_of(result: Fact, w: Fact, form: Form, x: Fact, shape: Shape) -> Fact:
    """Add the rows of the batch that the coefficients come from (they may depend on the other inputs)."""
    everywhere = uniform(True, x.shape, torch.bool)
    rows = spread_rows(w.rows, lambda mask: form.reach(everywhere, mask))
    merged = join_rows(result.rows, rows, shape)
    return Fact(result.nonconvex, result.nonconcave, result.varies, merged, result.lo, result.hi)


def product_bounds(x: Fact, w: Fact, form: Form, influence: Influence, shape: Shape) -> tuple[Tensor, Tensor]:
    """Bounds of the result: exact coefficients meet the bounds of x by sign; others give their sign only."""
    lo, hi = x.lo, x.hi
    ends = level(lo), level(hi)
    if ends in ((-INF, INF), (0.0, INF), (-INF, 0.0)):  # only signs matter
        low_end = -INF if (influence.up and ends[0]) or (influence.down and ends[1]) else 0.0
        high_end = INF if (influence.up and ends[1]) or (influence.down and ends[0]) else 0.0
        return uniform(low_end, shape, torch.float64), uniform(high_end, shape, torch.float64)
    if isinstance(form, Convolution) and form.padded:
        # a tap may see a zero instead: with the zero among the bounds, a flat bound may be taken as flat
        lo = elementwise(lambda v: v.clamp(max=0.0), lo.shape, lo) if is_uniform_in_space(lo) else lo
        hi = elementwise(lambda v: v.clamp(min=0.0), hi.shape, hi) if is_uniform_in_space(hi) else hi

    def marked(test: Callable[[Tensor], Tensor], bound: Tensor) -> Tensor:
        return elementwise(test, bound.shape, bound)

    endless_low = influence.reach(marked(torch.isneginf, lo), marked(torch.isposinf, hi), shape)
    endless_high = influence.reach(marked(torch.isposinf, hi), marked(torch.isneginf, lo), shape)
    lower, upper = finite_interval(finite(lo), finite(hi), w, form, shape)
    if where_any(endless_low):
        lower = elementwise(lambda v, m: torch.where(m, -INF, v), shape, lower, endless_low)
    if where_any(endless_high):
        upper = elementwise(lambda v, m: torch.where(m, INF, v), shape, upper, endless_high)
    negative, positive = marked(lambda v: v < 0, x.lo), marked(lambda v: v > 0, x.hi)
    lower = clip_sign(lower, influence.reach(negative, positive, shape), above=True)
    upper = clip_sign(upper, influence.reach(positive, negative, shape), above=False)
    return lower, upper


def is_uniform_in_space(field: Tensor) -> bool:
    """Whether a field is uniform over the spatial dimensions."""
    return all(length == 1 for length in core(field).shape[2:])


def finite(bound: Tensor) -> Tensor:
    """A bound with zeros in place of infinities."""
    inner = core(bound)
    if bound.dtype == torch.float64 and bool(inner.isfinite().all()):
        return bound
    return elementwise(lambda v: v.double().masked_fill(~v.isfinite(), 0.0), bound.shape, bound)


def finite_interval(low: Tensor, high: Tensor, w: Fact, form: Form, shape: Shape) -> tuple[Tensor, Tensor]:
    """Bounds of sum_i w_i x_i for finite bounds of x: each end meets the coefficients of either sign."""
    if not bool(core(low).any()) and not bool(core(high).any()):
        return uniform(0.0, shape, torch.float64), uniform(0.0, shape, torch.float64)
    if w.value is None:
        return uniform(-INF, shape, torch.float64), uniform(INF, shape, torch.float64)
    room = 2 * (form.terms(w.value) + 2) * EPS  # of rounding, relative to the sum of absolute values
    error: Tensor | None = None  # of one product: relative to the product itself
    if form.terms(w.value) > 1:
        size = elementwise(lambda a, b: torch.maximum(a.abs(), b.abs()), low.shape, low, high)
        error = form.apply(size, w.value, torch.abs)
        del size

    def combined(rising: Tensor, falling: Tensor, sign: float) -> Tensor:
        assert w.value is not None
        rise = form.apply(rising, w.value, positive_part)
        value = elementwise(torch.add, shape, rise, form.apply(falling, w.value, negative_part))
        del rise
        size = value if error is None else error
        return elementwise(lambda v, e: (v + e.abs() * (sign * room)).add_(sign * TINY), shape, value, size)

    return combined(low, high, -1.0), combined(high, low, 1.0)


def clip_sign(bound: Tensor, contradicted: Tensor, above: bool) -> Tensor:
    """Where no term contradicts the sign, the rounded bound is cut at an exact zero."""
    if level(contradicted):
        return bound

    def cut(values: Tensor, kept: Tensor) -> Tensor:
        return torch.where(kept | (values >= 0 if above else values <= 0), values, 0.0)

    return elementwise(cut, bound.shape, bound, contradicted)


def sum_of_facts(terms: Sequence[tuple[Fact, int]], shape: Shape) -> Fact:
    """The fact of a sum of facts, each added (+1) or subtracted (-1), with broadcasting."""
    influences: list[Influence] = []
    for fact, sign in terms:
        move: Reach = lambda mask: widened(mask, shape)  # noqa: E731
        by_row = tuple(fact.shape) == tuple(shape) and batched(shape)
        influences.append(Influence(fact, move if sign > 0 else None, move if sign < 0 else None, by_row))
    result = compose(influences, shape)
    lows = [f.lo if s > 0 else negate(f.hi) for f, s in terms]
    highs = [f.hi if s > 0 else negate(f.lo) for f, s in terms]
    lower, upper = add_bounds(lows, shape, down=True), add_bounds(highs, shape, down=False)
    powers = [fact.power if sign > 0 else 0.0 for fact, sign in terms]
    result = result.bounded(lower, upper).with_degree(min(powers))
    exponents = [0.0 if fact.constant else sign * fact.exponent for fact, sign in terms]
    added_up = all(sign > 0 for _, sign in terms) and not any(fact.goes_below_zero for fact, _ in terms)
    return replace(
        result,
        concavity=concavity_of_sum(fact.root for fact, _ in terms) if added_up else math.nan,
        exponent=concavity_of_product(exponents),
        positive=added_up and any(fact.is_positive for fact, _ in terms),
    )


def negate(bound: Tensor) -> Tensor:
    return elementwise(torch.neg, bound.shape, bound)


def add_bounds(bounds: Sequence[Tensor], shape: Shape, down: bool) -> Tensor:
    """Sum of bounds, rounded outwards, with an exact zero where every term agrees on the sign."""

    if (-INF if down else INF) in map(level, bounds):
        return uniform(-INF if down else INF, shape, torch.float64)

    sign = -1.0 if down else 1.0

    def run(first: Tensor, *others: Tensor) -> Tensor:  # in place where it can be: bounds may be as large as a layer
        alike = all(part.shape == first.shape for part in others)
        shape = first.shape if alike else torch.broadcast_shapes(first.shape, *(part.shape for part in others))
        value = first.double().expand(shape).clone()
        size = first.abs().double().expand(shape)
        size = size if size.is_contiguous() else size.clone()
        agreed = first >= 0 if down else first <= 0
        exact = is_exact_sum(value, others[0].double()) if len(others) == 1 and value.numel() <= SMALL else None
        for part in others:
            value.add_(part)
            size.add_(part.abs())
            agreed = agreed & (part >= 0 if down else part <= 0)
        if exact is not None:
            size.masked_fill_(exact, 0.0)
        value.add_(size.mul_((1 + len(others)) * EPS).nan_to_num_(posinf=0.0), alpha=sign)
        del size
        value.nan_to_num_(nan=sign * INF, posinf=INF, neginf=-INF)
        return value.masked_fill_(agreed & (value < 0 if down else value > 0), 0.0)

    return elementwise(run, shape, *sorted(bounds, key=lambda bound: -core(bound).numel()))


def is_exact_sum(a: Tensor, b: Tensor) -> Tensor:
    """Where a + b is a float64 itself (Knuth's two-sum), so that 1 - 1 is 0 and stays so."""
    total = a + b
    back = total - a
    return (a - (total - back)) + (b - back) == 0


def convolution(
    x: Fact,
    w: Fact,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
    transposed: bool,
    output_padding: Sequence[int],
    shape: Shape,
) -> Fact:
    """conv1d ... conv3d and their transposes, without the bias."""
    dims = len(shape) - 2
    if transposed:
        operator = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]

        def run(values: Tensor, weight: Tensor) -> Tensor:
            return operator(values, weight, None, stride, padding, output_padding, groups, dilation)  # pyright: ignore
    else:
        plain = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]

        def run(values: Tensor, weight: Tensor) -> Tensor:
            return plain(values, weight, None, stride, padding, dilation, groups)

    # a transposed convolution with a stride leaves outputs that some taps never reach, so it counts as padded
    padded = transposed or padding == "same" or (not isinstance(padding, str) and any(padding))
    seen = None if transposed or not padded else seen_taps(x.shape, w.shape, stride, padding, dilation, shape)
    return bilinear(x, w, Convolution(shape, run, groups, transposed, padded, seen), shape)


def seen_taps(
    x: Shape, w: Shape, stride: Sequence[int], padding: Sequence[int] | str, dilation: Sequence[int], out: Shape
) -> Tensor | None:
    """Mask (1, 1, ...) of the taps of a filter that ever see the input; None if all do. Around a small input there are
    taps that only ever see the padding."""
    rows: list[Tensor] = []
    for dim, (length, taps, results) in enumerate(zip(x[2:], w[2:], out[2:], strict=True)):
        step, apart = stride[dim], dilation[dim]
        before = padding[dim] if not isinstance(padding, str) else (apart * (taps - 1) // 2 if padding == "same" else 0)
        at = torch.arange(results)[:, None] * step + torch.arange(taps)[None] * apart - before
        rows.append(((at >= 0) & (at < length)).any(0))
    if all(bool(row.all()) for row in rows):
        return None
    mask = torch.ones([1] * len(w), dtype=torch.bool)
    for dim, row in enumerate(rows):
        mask = mask & row.reshape(1, 1, *[-1 if d == dim else 1 for d in range(len(rows))])
    return mask
