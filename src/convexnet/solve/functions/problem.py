"""What a solver gets: a batch of convex functions over a box."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor


class Function(Protocol):
    """A batch of B convex functions of y in R^n, in float64."""

    @property
    def batch(self) -> int: ...

    @property
    def size(self) -> int: ...

    def value(self, y: Tensor) -> Tensor:
        """f(y), (B,)."""
        ...

    def subgradient(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """f(y) (B,) and a subgradient (B, n), which makes an affine function below f."""
        ...

    def rows(self, index: Tensor) -> Function:
        """The functions of some samples."""
        ...


@dataclass(frozen=True)
class Problem:
    """min f(y) for lo <= y <= hi, for each sample; bounds (B, n) may be infinite."""

    f: Any  # a Function; solvers that read more of it say so
    lo: Tensor
    hi: Tensor
    strong: Tensor | None = None
    """c (B, n) with f(y) − ½ Σ c_j y_j² convex too; on a domain without bounds nothing is proved otherwise."""
    exact: Any = None
    """The same functions as they are written: what bounds are proved with, and what is searched where f is a map."""

    @property
    def batch(self) -> int:
        """B."""
        return self.lo.shape[0]

    @property
    def size(self) -> int:
        """n."""
        return self.lo.shape[1]

    @property
    def compact(self) -> bool:
        """Whether all bounds are finite."""
        return bool(self.lo.isfinite().all() and self.hi.isfinite().all())

    def centre(self) -> Tensor:
        """The middle of each interval; of one without an end, its point nearest to 0. (B, n)."""
        finite = self.lo.isfinite() & self.hi.isfinite()
        nearest = torch.zeros_like(self.lo).clamp(self.lo, self.hi)
        return torch.where(finite, torch.where(finite, self.lo, 0) / 2 + torch.where(finite, self.hi, 0) / 2, nearest)

    def interior(self) -> Tensor:
        """The centre, at a distance of 1 from a bound that is the only one, (B, n)."""
        low, high = self.lo.isfinite(), self.hi.isfinite()
        return self.centre() + torch.where(low & high, 0.0, low.to(self.lo) - high.to(self.lo))

    def inside(self, y: Tensor) -> Tensor:
        """The nearest points within the bounds."""
        return torch.minimum(torch.maximum(y, self.lo), self.hi)

    def inside_rows(self, rows: Tensor, y: Tensor) -> Tensor:
        """`inside`, for points of some samples only."""
        return torch.minimum(torch.maximum(y, self.lo[rows]), self.hi[rows])

    def proved_minimum(self, g: Tensor, b: Tensor, at: Tensor | None = None) -> Tensor:
        """The least value within the bounds of g y + b, which lies below f: a lower bound, (B,).

        Args:
            at: where the parts of f that curve touch what lies below them, (B, n): so that ½ Σ c_j (y_j − at_j)² may be
                added, if f is known to be strongly convex.
        """
        if at is not None and self.strong is not None:
            steep = self.strong > 0
            lowest = at - g / torch.where(steep, self.strong, 1.0)
            ends = torch.where(steep, self.inside(lowest), torch.where(g > 0, self.lo, self.hi))
            ends = torch.where((g == 0) & ~steep, at, ends)
            bent = torch.where(steep, self.strong * (ends - at) ** 2 / 2, 0.0)
            return b + (torch.where(g == 0, 0.0, g * ends) + bent).sum(1)
        ends = torch.where(g > 0, self.lo, self.hi)
        return b + torch.where(g == 0, 0.0, g * torch.where(g == 0, 0.0, ends)).sum(1)

    def tangent(self, y: Tensor, value: Tensor, g: Tensor) -> Tensor:
        """The bound from a subgradient g at y, (B,)."""
        return self.proved_minimum(g, value - (g * y).sum(1), y)

    def converted(self, dtype: torch.dtype) -> Problem:
        """The same bounds in another precision; the functions stay as they are."""
        strong = None if self.strong is None else self.strong.to(dtype)
        return replace(self, lo=self.lo.to(dtype), hi=self.hi.to(dtype), strong=strong)

    def rows(self, index: Tensor) -> Problem:
        """The problems of some samples."""
        strong = None if self.strong is None else self.strong[index]
        exact = None if self.exact is None else self.exact.rows(index)
        f = exact if self.f is self.exact and exact is not None else self.f.rows(index)
        return replace(self, f=f, lo=self.lo[index], hi=self.hi[index], strong=strong, exact=exact)
