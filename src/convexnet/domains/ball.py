"""Balls in the Euclidean norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convexnet.arrays import as_sizes, as_tensor
from convexnet.domains.box import Bound, Box
from convexnet.domains.domain import (
    ULPS,
    BallPart,
    Domain,
    Region,
    as_number,
    batch_text,
    floating_type,
    numbers_text,
    own_copy,
    precision_of,
    shape_text,
)


class Ball(Domain):
    """The set of points whose Euclidean distance from `centre` is at most `radius`.

    Args:
        n: the shape of one sample: a tuple, or an int n for (n,).
        radius: a number, or one for each sample, (B,). Gradients flow to it and to the centre.
        centre: a number, or a point of one sample's shape, or of each sample's, (B, *shape).

    Raises:
        ValueError: the radius is negative, or a number is not finite, or shapes do not fit.

    Example:
        >>> Ball(2, 1.0).project(torch.tensor([[3.0, 4.0], [0.1, 0.2]]))
        tensor([[0.6000, 0.8000],
                [0.1000, 0.2000]])
    """

    def __init__(self, n: int | Sequence[int], radius: float | Sequence[float] | Tensor, centre: Bound = 0.0) -> None:
        self._shape = torch.Size(as_sizes(n, "n", least=1))
        self.radius = as_number(radius, "radius", "Ball")
        given = own_copy(as_tensor(centre, "centre of the Ball"))
        if not bool(given.isfinite().all()):
            raise ValueError("centre of the Ball holds NaN or infinity")
        batched = given.ndim > len(self._shape)
        target = (given.shape[0], *self._shape) if batched else self._shape
        try:
            self._centre = given.expand(target)
        except RuntimeError:
            raise ValueError(
                f"centre of the Ball must be a number, or of shape {tuple(self._shape)} or (B, ...) of it, and has "
                f"{tuple(given.shape)}"
            ) from None
        counts = {len(t) for t, has in ((self.radius, self.radius.ndim), (given, batched)) if has} - {1}
        if len(counts) > 1:
            raise ValueError(f"radius and centre of the Ball are for {' and '.join(map(str, sorted(counts)))} samples")
        batches = [len(t) for t, has in ((self.radius, self.radius.ndim), (given, batched)) if has]
        self.batch = max(batches) if batches else None

    def __repr__(self) -> str:
        shape, batch = shape_text(self.shape), batch_text(self.batch)
        return f"Ball({shape}, {numbers_text(self.radius)}, centre={numbers_text(self._centre)}{batch})"

    @property
    def shape(self) -> torch.Size:
        """The shape of one sample.

        Example:
            >>> Ball((2, 2), 1.0).shape
            torch.Size([2, 2])
        """
        return self._shape

    @property
    def centre(self) -> Tensor:
        """The centre, (*shape), or (B, *shape) with a batch.

        Example:
            >>> Ball(2, 1.0, centre=3.0).centre.tolist()
            [3.0, 3.0]
        """
        own = self._centre.detach()
        return own if self.batch is None else own.expand((self.batch, *self._shape))

    def contains(self, points: Tensor | Any) -> Tensor:
        """Return which of a batch of points, (B, *shape), lie in the ball: booleans (B,).

        A point may lie outside by 8 units in the last place of its type, at the size of its elements and the radius.

        Raises:
            ValueError: points of another shape.

        Example:
            >>> Ball(2, 1.0).contains(torch.tensor([[1.0, 0.0], [1.0, 0.1]])).tolist()
            [True, False]
        """
        own = self.checked(points)
        y = own.double().reshape(len(own), self._shape.numel())
        middle = self.centre.to(y.device).reshape(-1, self._shape.numel())
        radius = self.radius.detach().to(y)
        kind = precision_of(own.dtype)
        size = torch.linalg.vector_norm(y.abs() + middle.abs(), dim=1) + radius
        away = torch.linalg.vector_norm(y - middle, dim=1)
        return (away <= radius + ULPS * kind.eps * size.clamp(min=kind.smallest_normal)) & y.isfinite().all(1)

    def project(self, points: Tensor | Any) -> Tensor:
        """Return the nearest points of the ball, of the shape and dtype of `points` (B, *shape).

        Raises:
            ValueError: points of another shape.

        Example:
            >>> Ball(1, 2.0, centre=1.0).project(torch.tensor([[9.0]])).tolist()
            [[3.0]]
        """
        own = self.checked(points)
        y = own.double().reshape(len(own), self._shape.numel())
        middle = self._centre.to(y.device).reshape(-1, self._shape.numel())
        away = torch.linalg.vector_norm(y - middle, dim=1, keepdim=True)
        radius = self.radius.to(y).reshape(-1, 1)
        moved = middle + (y - middle) * (radius / torch.where(away > 0, away, 1.0))
        y = torch.where(away > radius, moved, y)
        return y.view(own.shape).to(own.device, floating_type(own.dtype))

    def hull(self) -> Box:
        """Return the smallest box, up to rounding, that contains the balls of all samples.

        Example:
            >>> Ball(1, [1.0, 2.0]).hull().lo.round(decimals=9).tolist()
            [-2.0]
        """
        middle, reach = self.region().balls[0].centre.detach(), self.radius.detach()[..., None]
        lo, hi = (end.reshape(-1, *self._shape) for end in outwards(middle - reach, middle + reach))
        return Box(lo.amin(0), hi.amax(0))

    def region(self) -> Region:
        """Return the ball as a solver sees it: its box and itself.

        Example:
            >>> Ball(3, 1.0).region().balls[0].stop
            3
        """
        n = self._shape.numel()
        batched = self._centre.ndim > len(self._shape)
        middle = self._centre.reshape(-1, n) if batched else self._centre.reshape(n)
        radius = self.radius
        if radius.ndim and not batched:
            middle = middle.expand(len(radius), n)
        # The ball implies its box: bounds that are met with it would be more than are needed to hold a point.
        reach = 1.5 * radius.detach()[..., None]
        lo, hi = outwards(middle.detach() - reach, middle.detach() + reach)
        return Region(lo, hi, balls=(BallPart(0, n, middle, radius),))


def outwards(lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds that were computed, with what rounding may have done to them.

    Example:
        >>> lo, hi = outwards(torch.ones(1), torch.ones(1))
        >>> bool(lo < 1), bool(hi > 1)
        (True, True)
    """
    infinity = torch.full_like(lo, torch.inf)
    return torch.nextafter(lo, -infinity), torch.nextafter(hi, infinity)
