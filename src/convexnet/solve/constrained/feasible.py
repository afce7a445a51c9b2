"""A region's points: how far one is outside, and the way back to the region from any."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexnet.domains import Region

INSIDE = 1e-15
"""By which share of the way a point that was pulled to the border stays on its inner side."""


@dataclass(frozen=True)
class Rowed:
    """Linear rows of a batch, each of length 1.

    Attributes:
        matrix: (m, n).
        right: (B, m).
        length: (m,), of the rows as they were given.
    """

    matrix: Tensor
    right: Tensor
    length: Tensor


@dataclass(frozen=True)
class Feasible:
    """A region for a batch of B samples; what it holds has no gradients.

    Attributes:
        lo, hi: (B, n).
        below, equal: rows.
        balls: (start, stop, centre (B, k), radius (B,)).
        inner: a point of the region that meets no inequality with equality, where there is one, (B, n).
    """

    lo: Tensor
    hi: Tensor
    below: Rowed
    equal: Rowed
    balls: tuple[tuple[int, int, Tensor, Tensor], ...]
    inner: Tensor

    def excess(self, y: Tensor) -> Tensor:
        """The distance (B,) by which the row, ball or bound that y (B, n) is furthest outside of is missed.

        Example:
            >>> import convexnet as cx
            >>> region = cx.Simplex(2)
            >>> made = feasible_of(region.region(), 1, region.centre)
            >>> made.excess(torch.tensor([[1.0, 0.5]]).double()).round(decimals=3).tolist()
            [0.354]
        """
        parts = [(self.lo - y), (y - self.hi), y @ self.below.matrix.T - self.below.right]
        parts.append((y @ self.equal.matrix.T - self.equal.right).abs())
        for start, stop, centre, radius in self.balls:
            parts.append((torch.linalg.vector_norm(y[:, start:stop] - centre, dim=1) - radius)[:, None])
        return torch.cat(parts, 1).amax(1).clamp(min=0)

    def pull(self, y: Tensor) -> Tensor:
        """The points of the region nearest to y (B, n) on the way from there to its inside; feasible up to rounding.

        Example:
            >>> import convexnet as cx
            >>> ball = cx.Ball(2, 1.0)
            >>> feasible_of(ball.region(), 1, ball.centre).pull(torch.tensor([[3.0, 4.0]]).double()).tolist()
            [[0.6, 0.8]]
        """
        c = self.inner
        y = self.meet(y)
        way = y - c
        share = torch.ones_like(y[:, 0])
        limits = [(self.hi - c, way), (c - self.lo, -way)]
        limits.append((self.below.right - c @ self.below.matrix.T, way @ self.below.matrix.T))
        for left, taken in limits:
            left = left.clamp(min=0)
            allowed = torch.where(taken > left, left / torch.where(taken > left, taken, 1.0), 1.0)
            share = torch.minimum(share, allowed.amin(1)) if allowed.shape[1] else share
        for start, stop, centre, radius in self.balls:
            share = torch.minimum(share, share_to_sphere(c[:, start:stop] - centre, way[:, start:stop], radius))
        share = torch.where(share < 1, share * (1 - INSIDE), share)
        pulled = self.meet(c + share[:, None] * way)
        return torch.minimum(torch.maximum(pulled, self.lo), self.hi)

    def meet(self, y: Tensor) -> Tensor:
        """The nearest points to y (B, n) that meet the equal rows."""
        rows = self.equal.matrix
        if not len(rows):
            return y
        back = torch.linalg.pinv(rows)
        for _ in range(2):  # once more for what rounding left
            y = y - (y @ rows.T - self.equal.right) @ back.T
        return y

    def rows(self, index: Tensor) -> Feasible:
        """The regions of some samples."""
        below, equal = (Rowed(r.matrix, r.right[index], r.length) for r in (self.below, self.equal))
        balls = tuple((start, stop, centre[index], radius[index]) for start, stop, centre, radius in self.balls)
        return Feasible(self.lo[index], self.hi[index], below, equal, balls, self.inner[index])


def share_to_sphere(start: Tensor, way: Tensor, radius: Tensor) -> Tensor:
    """The largest t <= 1 (B,) with ‖start + t way‖ <= radius, for a start inside: (B, k), (B, k) and (B,)."""
    a, b = way.square().sum(1), (start * way).sum(1)
    c = start.square().sum(1) - radius.square()
    root = (b.square() - a * c).clamp(min=0).sqrt()
    t = torch.where(a > 0, (root - b) / torch.where(a > 0, a, 1.0), 1.0)
    return t.clamp(0, 1)


def feasible_of(region: Region, batch: int, inner: Tensor) -> Feasible:
    """A region for a batch.

    Args:
        region: with tensors that have a batch or not.
        batch: B.
        inner: a point well inside, of one sample's shape, or (B, …).
    """
    n = region.lo.shape[-1]

    def wide(tensor: Tensor) -> Tensor:
        return tensor.detach().expand(batch, tensor.shape[-1])

    def rowed(all_rows: tuple[object, ...]) -> Rowed:
        matrices, rights = [], []
        for rows in all_rows:
            matrices.append(rows.matrix.detach())  # pyright: ignore
            rights.append(wide(rows.right))  # pyright: ignore
        empty = region.lo.new_zeros(0, n)
        matrix = torch.cat([empty, *matrices])
        right = torch.cat([region.lo.new_zeros(batch, 0), *rights], 1)
        length = torch.linalg.vector_norm(matrix, dim=1)
        length = torch.where(length > 0, length, 1.0)
        return Rowed(matrix / length[:, None], right / length, length)

    balls = tuple((b.start, b.stop, wide(b.centre), b.radius.detach().expand(batch)) for b in region.balls)
    return Feasible(
        wide(region.lo), wide(region.hi), rowed(region.below), rowed(region.equal), balls,
        inner.detach().double().reshape(-1, n).expand(batch, n),
    )  # fmt: skip
