"""Boxes: lower and upper bounds, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convexnet.arrays import as_size, as_sizes, as_tensor
from convexnet.domains.domain import (
    Domain,
    Region,
    batch_text,
    bound_tolerance,
    first_index,
    flat_bound,
    numbers_text,
    own_copy,
    shape_text,
)

Bound = float | Sequence[Any] | Tensor | Any
"""A number, a (nested) list of numbers, an array or a tensor."""


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Box(Domain):
    """The set of points of one sample's shape with `lo <= x <= hi`, element by element.

    Args:
        lo: lower bounds, a number, a list, an array or a tensor; `-inf` leaves an element free.
        hi: upper bounds, likewise.
        shape: the shape of one sample, without the batch: a tuple, or an int n for (n,). Needed only when both bounds
            are numbers.
        batch: B, for bounds of each sample's own: they are then (B, *shape), or broadcast to it. None: the same bounds
            for all samples.

    Attributes:
        lo, hi: the bounds in float64, (*shape), or (B, *shape) with a batch. Gradients flow to what was given.
        batch: B, or None. `fix` with a batch of values sets it too.

    Raises:
        ValueError: a bound is NaN, some `lo > hi`, shapes do not fit, or numbers come without a shape.
        TypeError: a bound does not hold real numbers, or the shape is not one.

    Example:
        >>> box = Box(-1, 1, shape=2)
        >>> box.shape, box.contains(torch.tensor([[0.5, -1.0], [0.0, 1.5]])).tolist()
        (torch.Size([2]), [True, False])
        >>> Box([[0.0, 0.0], [1.0, 1.0]], 2.0, batch=2).shape
        torch.Size([2])
    """

    lo: Tensor
    hi: Tensor
    batch: int | None = None

    def __init__(
        self, lo: Bound, hi: Bound, shape: int | Sequence[int] | None = None, batch: int | None = None
    ) -> None:
        lower, upper = (own_copy(as_tensor(end, f"{name} of the Box")) for name, end in (("lo", lo), ("hi", hi)))
        rows = None if batch is None else as_size(batch, "batch, the number of samples,")
        sample = None if shape is None else as_sizes(shape, "shape", least=0)
        target = bounds_shape(lower.shape, upper.shape, sample, rows)
        lower, upper = lower.expand(target), upper.expand(target)
        for name, end in (("lo", lower), ("hi", upper)):
            if bool(end.isnan().any()):
                raise ValueError(f"{name} of the Box is NaN at element {first_index(end.isnan())}")
        if bool((lower > upper).any()):
            where = first_index(lower > upper)
            low, high = distinct_texts(float(lower[where]), float(upper[where]))
            raise ValueError(f"the Box is empty: lo = {low} > hi = {high} at element {where}")
        endless = (lower == torch.inf) | (upper == -torch.inf)
        if bool(endless.any()):
            where = first_index(endless)
            raise ValueError(
                f"the Box is empty: lo = {float(lower[where])} and hi = {float(upper[where])} at element {where}, and "
                "no number lies there; -inf below and inf above leave an element free"
            )
        object.__setattr__(self, "lo", lower)
        object.__setattr__(self, "hi", upper)
        object.__setattr__(self, "batch", rows)

    @property
    def shape(self) -> torch.Size:
        """The shape of one sample.

        Example:
            >>> Box([0.0, 0.0], [1.0, 2.0]).shape
            torch.Size([2])
        """
        return self.lo.shape if self.batch is None else self.lo.shape[1:]

    @property
    def centre(self) -> Tensor:
        """The middle of each interval; of one without an end, its point nearest to 0.

        Example:
            >>> Box([0.0, 1.0], [1.0, torch.inf]).centre.tolist()
            [0.5, 1.0]
        """
        lo, hi = self.lo.detach(), self.hi.detach()
        finite = lo.isfinite() & hi.isfinite()
        nearest = torch.zeros_like(lo).clamp(lo, hi)
        return torch.where(finite, torch.where(finite, lo, 0) / 2 + torch.where(finite, hi, 0) / 2, nearest)

    def __repr__(self) -> str:
        shape, batch = shape_text(self.shape), batch_text(self.batch)
        return f"Box({numbers_text(self.lo)}, {numbers_text(self.hi)}, shape={shape}{batch})"

    def region(self) -> Region:
        """Return the box as a solver sees it: its bounds, flat.

        Example:
            >>> Box(0, 1, shape=(2, 2)).region().lo.shape
            torch.Size([4])
        """
        return Region(flat_bound(self.lo, self.shape), flat_bound(self.hi, self.shape))

    def fix(self, values: Bound, mask: bool | Sequence[bool] | Tensor | Any) -> Box:
        """Return the box with the elements of `mask` fixed to `values`; gradients flow to bounds and values.

        A value that lies outside by no more than 8 units in the last place of its own type is taken for the bound: a
        float32 number that was meant to be it.

        Args:
            values: of one sample, `shape`, or of a batch, (B, *shape), which makes the box one for each sample. Read
                only where the mask is True.
            mask: True where a value is given, of either shape too.

        Raises:
            ValueError: shapes do not fit, or a given value is NaN or lies outside the box.
            TypeError: what is given does not hold real numbers.

        Example:
            >>> half = Box(0, 1, shape=(2,)).fix(torch.tensor([[0.25, 0.0], [0.5, 0.0]]), [True, False])
            >>> half.batch, half.lo.tolist(), half.hi.tolist()
            (2, [[0.25, 0.0], [0.5, 0.0]], [[0.25, 1.0], [0.5, 1.0]])
        """
        own = as_tensor(values, "values")
        given = own.double()
        where = as_tensor(mask, "mask")
        if not bool(((where == 0) | (where == 1)).all()):
            raise ValueError("mask says which elements are fixed, and must hold booleans (or 0 and 1)")
        where = where.bool()
        ends = [self.lo.to(given.device), self.hi.to(given.device)]
        where = where.to(given.device)
        sizes = {t.shape[0] for t in (given, where, self.lo) if t.ndim > len(self.shape)} - {1}
        batched = any(t.ndim > len(self.shape) for t in (given, where, self.lo))
        target = (max(sizes, default=1), *self.shape) if batched else tuple(self.shape)
        try:
            given, where = given.expand(target), where.expand(target)
            lo, hi = (end.expand(target) for end in ends)
        except RuntimeError:
            count = "" if self.batch is None else f" of {self.batch} samples"
            raise ValueError(
                f"fix takes values and a mask of shape {tuple(self.shape)}, or (B, ...) of it, for this box{count}; "
                f"they have {tuple(given.shape)} and {tuple(where.shape)}"
            ) from None
        room_below, room_above = (bound_tolerance(given, end, own.dtype) for end in (lo, hi))
        within = (given >= lo - room_below) & (given <= hi + room_above)  # of NaN neither holds
        wrong = where & ~(within & given.isfinite())
        if bool(wrong.any()):
            at = first_index(wrong)
            value, low, high = distinct_texts(float(given[at]), float(lo[at]), float(hi[at]))
            raise ValueError(f"the value {value} to fix element {at} to lies outside the box, [{low}, {high}]")
        nearest = torch.minimum(torch.maximum(given, lo), hi).detach()
        given = torch.where((given == nearest) | ~where, given, given + (nearest - given.detach()))
        fixed = object.__new__(Box)
        object.__setattr__(fixed, "lo", torch.where(where, given, lo))
        object.__setattr__(fixed, "hi", torch.where(where, given, hi))
        object.__setattr__(fixed, "batch", target[0] if batched else None)
        return fixed

    def hull(self) -> Box:
        """Return the smallest box without a batch that contains those of all samples.

        Example:
            >>> Box(0, 1, shape=(1,)).fix([[0.25], [0.5]], True).hull().lo.tolist()
            [0.25]
        """
        return self if self.batch is None else Box(self.lo.amin(0), self.hi.amax(0), self.shape)

    def contains(self, points: Tensor | Any) -> Tensor:
        """Return which of a batch of points, (B, *shape), lie in the box: booleans (B,).

        A point may lie outside a bound by 8 units in the last place of its type, at the size of the two: what rounding
        leaves of a point on the bound. NaN lies nowhere.

        Raises:
            ValueError: points of another shape.

        Example:
            >>> Box(0, 1, shape=(1,)).contains(torch.tensor([[0.0], [2.0]])).tolist()
            [True, False]
        """
        own = self.checked(points)
        x = own.double()
        lo, hi = self.lo.detach().to(x.device), self.hi.detach().to(x.device)
        inside = (x >= lo - bound_tolerance(x, lo, own.dtype)) & (x <= hi + bound_tolerance(x, hi, own.dtype))
        return (inside & x.isfinite()).reshape(len(x), self.shape.numel()).all(1)

    def project(self, points: Tensor | Any) -> Tensor:
        """Return the nearest points of the box, of the shape and dtype of `points` (B, *shape).

        Raises:
            ValueError: points of another shape.

        Example:
            >>> Box(0, 1, shape=(1,)).project(torch.tensor([[-3.0], [0.5]])).tolist()
            [[0.0], [0.5]]
        """
        own = self.checked(points)
        return own.clamp(self.lo.to(own), self.hi.to(own))


def bounds_shape(lower: torch.Size, upper: torch.Size, sample: tuple[int, ...] | None, rows: int | None) -> torch.Size:
    """The shape of the bounds of a box, (*shape) or (B, *shape).

    Raises:
        ValueError: they do not fit, or numbers come without a shape.
    """
    theirs = f"lo has shape {tuple(lower)} and hi {tuple(upper)}"
    if sample is None and not lower and not upper:
        how = "Box(-1, 1, shape=(3, 32, 32))" if rows is None else f"Box(-1, 1, shape=(3,), batch={rows})"
        raise ValueError(f"Box(lo, hi) with two numbers needs the sample's shape: {how}")
    try:
        both = torch.broadcast_shapes(lower, upper)
    except RuntimeError:
        raise ValueError(f"the bounds of the Box do not fit together: {theirs}") from None
    lead = () if rows is None else (rows,)
    if sample is None:
        if rows is not None and both[0] not in (1, rows):
            raise ValueError(
                f"with batch={rows} the bounds are ({rows}, *shape), one row for each sample, and {theirs}: for the "
                f"same bounds in all samples say shape={tuple(both)}"
            )
        return torch.Size((*lead, *(both if rows is None else both[1:])))
    target = torch.Size((*lead, *sample))
    if fits(both, target):
        return target
    batched = rows is None and len(both) == len(sample) + 1 and fits(both[1:], torch.Size(sample))
    hint = f"; for bounds of each sample's own say batch={both[0]}" if batched else ""
    whole = "its shape" if rows is None else "its batch and shape, together"
    raise ValueError(f"the bounds of the Box do not fit {whole} {tuple(target)}: {theirs}{hint}")


def fits(shape: torch.Size, target: torch.Size) -> bool:
    """Whether a tensor of this shape expands to another."""
    return len(shape) <= len(target) and all(
        own in (1, wanted) for own, wanted in zip(reversed(shape), reversed(target), strict=False)
    )


def distinct_texts(*numbers: float) -> list[str]:
    """Numbers in few digits, or in all of them where the few are the same."""
    short = [f"{number:g}" for number in numbers]
    differ = len(set(short)) == len({*numbers})
    return short if differ else [repr(number) for number in numbers]
