"""Masks for completion: which elements of y are given, and which are filled in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convexnet.arrays import as_tensor, is_real
from convexnet.domains import Box, Domain


class Missing:
    """Draws masks: True where an element is given.

    Args:
        missing: the share of elements that is missing; two numbers, between which each sample's share is drawn; or a
            mask of one sample, True where an element is given, the same for all.
        domain: the `Box` that samples lie in.

    Raises:
        TypeError, ValueError: something else, or a domain whose elements cannot be fixed.

    Example:
        >>> masks = Missing(0.5, Box(0, 1, shape=(8,)))
        >>> mask = masks.draw(100, torch.Generator().manual_seed(0))
        >>> mask.shape, bool((mask.double().mean() - 0.5).abs() < 0.1)
        (torch.Size([100, 8]), True)
    """

    def __init__(self, missing: Any, domain: Domain) -> None:
        if not isinstance(domain, Box):
            raise TypeError(f"completion needs a Box, not a {type(domain).__name__}: given elements are fixed in it")
        domain.fix(domain.centre, False)  # a Cube with an entropy refuses
        self.shape = domain.shape
        self.mask: Tensor | None = None
        self.shares = (0.0, 0.0)
        if is_real(missing):
            self.shares = (float(missing), float(missing))
        elif isinstance(missing, Sequence) and len(missing) == 2 and all(is_real(part) for part in missing):
            self.shares = (float(missing[0]), float(missing[1]))
        else:
            mask = as_tensor(missing, "missing")
            if mask.shape != self.shape or not bool(((mask == 0) | (mask == 1)).all()):
                raise ValueError(
                    f"missing is a share, a pair of shares, or a mask {tuple(self.shape)} of booleans, True where an "
                    f"element is given; this has shape {tuple(mask.shape)} and type {mask.dtype}"
                )
            self.mask = mask.bool()
        if self.mask is None and not 0 <= self.shares[0] <= self.shares[1] <= 1:
            raise ValueError(f"missing is a share between 0 and 1, or a pair of them in order, not {missing!r}")
        if (self.mask is not None and bool(self.mask.all())) or (self.mask is None and self.shares[1] == 0):
            raise ValueError("nothing is missing, so that there is nothing to learn")

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        """Return masks (rows, *shape)."""
        if self.mask is not None:
            return self.mask.cpu().expand(rows, *self.shape)
        least, most = self.shares
        share = least + (most - least) * torch.rand(rows, *[1] * len(self.shape), generator=generator)
        return torch.rand(rows, *self.shape, generator=generator) >= share
