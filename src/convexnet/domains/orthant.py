"""Points without a negative element."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from convexnet.arrays import as_sizes
from convexnet.domains.box import Box
from convexnet.domains.domain import shape_text


class Orthant(Box):
    """The set of points of one sample's shape with `x >= 0`, element by element: a `Box` without upper bounds.

    Args:
        n: the shape of one sample: a tuple, or an int n for (n,).

    Example:
        >>> Orthant(2).contains(torch.tensor([[0.0, 3.0], [-1.0, 0.0]])).tolist()
        [True, False]
    """

    def __init__(self, n: int | Sequence[int]) -> None:
        super().__init__(0.0, torch.inf, shape=as_sizes(n, "n", least=0))

    def __repr__(self) -> str:
        return f"Orthant({shape_text(self.shape)})"
