"""Shares of a total."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convexnet.arrays import as_sizes
from convexnet.domains.box import Box
from convexnet.domains.domain import (
    ULPS,
    Domain,
    Region,
    Rows,
    as_number,
    batch_text,
    floating_type,
    numbers_text,
    precision_of,
    shape_text,
)


class Simplex(Domain):
    """The set of points with `x >= 0` whose elements add up to `total`.

    Args:
        n: the shape of one sample: a tuple, or an int n for (n,).
        total: of the elements of a sample; a number, or one for each sample, (B,). Gradients flow to it.

    Raises:
        ValueError: the total is negative or not finite, or there are no elements.

    Example:
        >>> simplex = Simplex(3)
        >>> simplex.project(torch.tensor([[1.0, 1.0, 0.0], [5.0, 0.0, 0.0]])).tolist()
        [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]
    """

    def __init__(self, n: int | Sequence[int], total: float | Sequence[float] | Tensor = 1.0) -> None:
        self._shape = torch.Size(as_sizes(n, "n", least=1))
        self.total = as_number(total, "total", "Simplex")
        self.batch = len(self.total) if self.total.ndim else None

    def __repr__(self) -> str:
        return f"Simplex({shape_text(self.shape)}, total={numbers_text(self.total)}{batch_text(self.batch)})"

    @property
    def shape(self) -> torch.Size:
        """The shape of one sample.

        Example:
            >>> Simplex((2, 2)).shape
            torch.Size([2, 2])
        """
        return self._shape

    @property
    def centre(self) -> Tensor:
        """Equal shares.

        Example:
            >>> Simplex(4).centre.tolist()
            [0.25, 0.25, 0.25, 0.25]
        """
        share = self.total.detach() / self._shape.numel()
        return share.view((*share.shape, *[1] * len(self._shape))).expand((*share.shape, *self._shape)).clone()

    def contains(self, points: Tensor | Any) -> Tensor:
        """Return which of a batch of points, (B, *shape), lie in the simplex: booleans (B,).

        No element may be below 0, nor the sum differ from the total, by more than 8 units in the last place of the
        points' type, at the size of the sum of all elements.

        Raises:
            ValueError: points of another shape.

        Example:
            >>> Simplex(2).contains(torch.tensor([[0.5, 0.5], [0.5, 0.4]])).tolist()
            [True, False]
        """
        own = self.checked(points)
        y = own.double().reshape(len(own), self._shape.numel())
        kind = precision_of(own.dtype)
        size = torch.maximum(y.abs().sum(1), self.total.detach().to(y))
        allowed = ULPS * kind.eps * size.clamp(min=kind.smallest_normal)
        near = (y.sum(1) - self.total.detach().to(y)).abs() <= allowed
        return near & (y >= -allowed[:, None]).all(1) & y.isfinite().all(1)

    def project(self, points: Tensor | Any) -> Tensor:
        """Return the nearest points of the simplex, of the shape and dtype of `points` (B, *shape).

        Raises:
            ValueError: points of another shape.

        Source: Held, Wolfe & Crowder (1974): y = max(v − θ, 0) with the θ at which the sum is the total.

        Example:
            >>> Simplex(2, total=4.0).project(torch.zeros(1, 2)).tolist()
            [[2.0, 2.0]]
        """
        own = self.checked(points)
        v = own.double().reshape(len(own), self._shape.numel())
        total = self.total.to(v).expand(len(v))[:, None]
        v = v - v.amax(1, keepdim=True)  # which moves nothing, and keeps sums small
        ordered = v.sort(1, descending=True).values
        count = torch.arange(1, v.shape[1] + 1, device=v.device, dtype=v.dtype)
        thresholds = (ordered.cumsum(1) - total) / count
        last = (ordered > thresholds).sum(1, keepdim=True).clamp(min=1) - 1
        y = (v - thresholds.gather(1, last)).clamp(min=0)
        scale = y.sum(1, keepdim=True)
        y = torch.where(scale > 0, y * (total / torch.where(scale > 0, scale, 1.0)), y)
        return y.view(own.shape).to(own.device, floating_type(own.dtype))

    def hull(self) -> Box:
        """Return the box from 0 to the total, the largest of all samples.

        Example:
            >>> Simplex(2, total=[1.0, 3.0]).hull().hi.tolist()
            [3.0, 3.0]
        """
        return Box(0.0, float(self.total.detach().amax()), shape=self._shape)

    def region(self) -> Region:
        """Return the simplex as a solver sees it: bounds, and one row.

        Example:
            >>> Simplex(2).region().equal[0].kind
            'total'
        """
        n = self._shape.numel()
        total = self.total
        lo = torch.zeros(*total.shape, n, dtype=torch.float64, device=total.device)
        # The row and `y >= 0` imply the bounds above: one that is met with them would be one too many to hold a vertex.
        hi = 2 * total.detach()[..., None].expand(*total.shape, n)
        return Region(lo, hi, equal=(Rows(torch.ones(1, n).to(lo), total[..., None], "total"),))
