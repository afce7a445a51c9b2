"""The unit cube, with or without the entropy of its coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from convexnet.arrays import as_sizes
from convexnet.domains.box import Bound, Box
from convexnet.domains.domain import Region, shape_text


class Cube(Box):
    """The set of points with `0 <= x <= 1`, element by element.

    Args:
        n: the shape of one sample: a tuple, or an int n for (n,).
        entropy: add Σ y log y + (1 − y) log(1 − y) to what is minimised over the set, so that minimisers are inside,
            unique, and smooth in everything they depend on. `Solution.value` and its bounds contain the term.

    Source: Amos, Xu & Kolter (2017), section 5, where the entropy is a barrier for inference.

    Example:
        >>> import torch, convexnet as cx
        >>> f = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(f.weight, 2.0)
        >>> solution = cx.minimise(f, Cube(1, entropy=True))
        >>> bool((solution.x - torch.sigmoid(torch.tensor(-2.0))).abs() < 1e-3)
        True
    """

    entropy: bool

    def __init__(self, n: int | Sequence[int], entropy: bool = False) -> None:
        super().__init__(0.0, 1.0, shape=as_sizes(n, "n", least=0))
        object.__setattr__(self, "entropy", bool(entropy))

    def __repr__(self) -> str:
        return f"Cube({shape_text(self.shape)}{', entropy=True' if self.entropy else ''})"

    def fix(self, values: Bound, mask: bool | Sequence[bool] | Tensor | Any) -> Box:
        """Return the cube with some elements fixed, as `Box.fix`.

        Raises:
            ValueError: as `Box.fix`; or the cube has an entropy, which a box has not: add the term to the function.
        """
        if self.entropy:
            raise ValueError(
                "a Cube with entropy has no fixed elements: fix them in Box(0, 1, shape=...) and add the entropy, "
                "-torch.special.entr(y) - torch.special.entr(1 - y), to the function"
            )
        return super().fix(values, mask)

    def region(self) -> Region:
        """Return the cube as a solver sees it.

        Example:
            >>> Cube(3, entropy=True).region().entropy
            ((0, 3),)
        """
        plain = super().region()
        return replace(plain, entropy=((0, self.shape.numel()),)) if self.entropy else plain
