"""All points."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from convexnet.arrays import as_sizes
from convexnet.domains.box import Box
from convexnet.domains.domain import shape_text


class Free(Box):
    """All points of one sample's shape: a `Box` without bounds.

    A minimum is proved there only where the function is strongly convex, or rises in all directions.

    Args:
        n: the shape of one sample: a tuple, or an int n for (n,).

    Example:
        >>> Free((2, 3)).shape, Free(2).contains(torch.tensor([[-1e9, 1e9]])).tolist()
        (torch.Size([2, 3]), [True])
    """

    def __init__(self, n: int | Sequence[int]) -> None:
        super().__init__(-torch.inf, torch.inf, shape=as_sizes(n, "n", least=0))

    def __repr__(self) -> str:
        return f"Free({shape_text(self.shape)})"
