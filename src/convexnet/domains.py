"""Sets that inputs range over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Bound = float | Sequence[float] | Tensor


@dataclass(frozen=True, eq=False, init=False)
class Box:
    """All points of one sample's shape with `lo <= x <= hi`, element by element.

    Args:
        lo: lower bounds, a number or anything that `torch.as_tensor` takes; `-inf` leaves an element free.
        hi: upper bounds, likewise.
        shape: the shape of one sample, without the batch; needed only when both bounds are numbers.

    After `fix` with a batch of values, `lo` and `hi` are (B, *shape) and `batch` is B; otherwise it is None.

    Raises:
        ValueError: a bound is NaN, some `lo > hi`, or numbers come without a shape.

    Example:
        >>> box = Box(-1, 1, shape=(2,))
        >>> box.shape, box.contains(torch.tensor([[0.5, -1.0], [0.0, 1.5]])).tolist()
        (torch.Size([2]), [True, False])
    """

    lo: Tensor
    hi: Tensor
    batch: int | None = None

    def __init__(self, lo: Bound, hi: Bound, shape: Sequence[int] | None = None) -> None:
        lower = torch.as_tensor(lo, dtype=torch.float64)
        upper = torch.as_tensor(hi, dtype=torch.float64)
        if shape is None and lower.ndim == 0 and upper.ndim == 0:
            raise ValueError("Box(lo, hi) with two numbers needs the sample's shape: Box(-1, 1, shape=(3, 32, 32))")
        try:
            target = torch.Size(shape) if shape is not None else torch.broadcast_shapes(lower.shape, upper.shape)
            lower, upper = lower.expand(target), upper.expand(target)
        except RuntimeError as error:
            raise ValueError(f"the bounds of the Box do not fit its shape: {error}") from None
        if bool(lower.isnan().any()) or bool(upper.isnan().any()):
            raise ValueError("a bound of the Box is NaN")
        if bool((lower > upper).any()):
            where = tuple(int(i) for i in (lower > upper).nonzero()[0])
            raise ValueError(f"the Box is empty: lo = {lower[where]:g} > hi = {upper[where]:g} at element {where}")
        object.__setattr__(self, "lo", lower)
        object.__setattr__(self, "hi", upper)
        object.__setattr__(self, "batch", None)

    @property
    def shape(self) -> torch.Size:
        """The shape of one sample.

        Example:
            >>> Box([0.0, 0.0], [1.0, 2.0]).shape
            torch.Size([2])
        """
        return self.lo.shape if self.batch is None else self.lo.shape[1:]

    def fix(self, values: Bound, mask: bool | Sequence[bool] | Tensor) -> Box:
        """The box with the elements of `mask` fixed to `values`; gradients flow to both bounds and values.

        Args:
            values: of one sample, `shape`, or of a batch, (B, *shape), which makes the box one for each sample. Read
                only where the mask is True.
            mask: True where a value is given, of either shape too.

        Raises:
            ValueError: shapes do not fit, or a given value is NaN or lies outside the box.

        Example:
            >>> half = Box(0, 1, shape=(2,)).fix(torch.tensor([[0.25, 0.0], [0.5, 0.0]]), [True, False])
            >>> half.batch, half.lo.tolist(), half.hi.tolist()
            (2, [[0.25, 0.0], [0.5, 0.0]], [[0.25, 1.0], [0.5, 1.0]])
        """
        given = torch.as_tensor(values, dtype=torch.float64)
        where = torch.as_tensor(mask, dtype=torch.bool)
        sizes = {t.shape[0] for t in (given, where, self.lo) if t.ndim > len(self.shape)} - {1}
        batched = any(t.ndim > len(self.shape) for t in (given, where, self.lo))
        target = (max(sizes, default=1), *self.shape) if batched else tuple(self.shape)
        try:
            given, where = given.expand(target), where.expand(target)
            lo, hi = self.lo.expand(target), self.hi.expand(target)
        except RuntimeError:
            raise ValueError(
                f"fix takes values and a mask of shape {tuple(self.shape)}, or (B, ...) of it, for this box; they have "
                f"{tuple(given.shape)} and {tuple(where.shape)}"
            ) from None
        wrong = where & ~((given >= lo) & (given <= hi))  # NaN is wrong too
        if bool(wrong.any()):
            at = tuple(int(i) for i in wrong.nonzero()[0])
            raise ValueError(
                f"the value {given[at]:g} to fix element {at} to lies outside the box, [{lo[at]:g}, {hi[at]:g}]"
            )
        fixed = object.__new__(Box)
        object.__setattr__(fixed, "lo", torch.where(where, given, lo))
        object.__setattr__(fixed, "hi", torch.where(where, given, hi))
        object.__setattr__(fixed, "batch", target[0] if batched else None)
        return fixed

    def hull(self) -> Box:
        """The smallest box without a batch that holds those of all samples.

        Example:
            >>> Box(0, 1, shape=(1,)).fix([[0.25], [0.5]], True).hull().lo.tolist()
            [0.25]
        """
        return self if self.batch is None else Box(self.lo.amin(0), self.hi.amax(0), self.shape)

    def contains(self, points: Tensor) -> Tensor:
        """Which of a batch of points, (B, *shape), lie in the box: booleans (B,).

        Example:
            >>> Box(0, 1, shape=(1,)).contains(torch.tensor([[0.0], [2.0]])).tolist()
            [True, False]
        """
        inside = (points >= self.lo.to(points.device)) & (points <= self.hi.to(points.device))
        return inside.reshape(len(points), -1).all(1)

    def project(self, points: Tensor) -> Tensor:
        """The nearest points of the box, same shape and dtype as `points` (B, *shape).

        Example:
            >>> Box(0, 1, shape=(1,)).project(torch.tensor([[-3.0], [0.5]])).tolist()
            [[0.0], [0.5]]
        """
        return points.clamp(self.lo.to(points), self.hi.to(points))
