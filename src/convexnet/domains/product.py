"""Several sets side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from convexnet.domains.box import Box
from convexnet.domains.domain import BallPart, Domain, Region, Rows


class Product(Domain):
    """The set of points (n₁ + n₂ + …,) whose parts, one after the other, each lie in a set of their own.

    Args:
        parts: the sets. A part of another shape than (n,) is flattened.

    Raises:
        ValueError: no parts, or parts for different numbers of samples.
        TypeError: a part is not a domain.

    Example:
        >>> import convexnet as cx
        >>> both = Product(cx.Simplex(2), cx.Box(-1, 1, shape=1))
        >>> both.shape, both.project(torch.tensor([[1.0, 1.0, 9.0]])).tolist()
        (torch.Size([3]), [[0.5, 0.5, 1.0]])
    """

    def __init__(self, *parts: Domain) -> None:
        if not parts:
            raise ValueError("a Product needs at least one set, as Product(Simplex(3), Box(-1, 1, shape=2))")
        for i, part in enumerate(parts):
            if not isinstance(part, Domain):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"part {i} of the Product is a {type(part).__name__}, not a convexnet domain")
        counts = {part.batch for part in parts if part.batch is not None}
        if len(counts - {1}) > 1:
            raise ValueError(f"the parts of the Product are for {' and '.join(map(str, sorted(counts)))} samples")
        self.parts = parts
        self.batch = max(counts) if counts else None
        self.sizes = [part.shape.numel() for part in parts]

    def __repr__(self) -> str:
        return f"Product({', '.join(map(repr, self.parts))})"

    def conflicts(self) -> list[list[str]]:
        """For each sample (one without a batch), the names of rows of one part that conflict.

        Example:
            >>> import convexnet as cx
            >>> Product(cx.Simplex(2), cx.Polyhedron([[1.0], [-1.0]], [0.0, -1.0])).conflicts()
            [['row 0 of A of part 1', 'row 1 of A of part 1']]
        """
        made: list[list[str]] = [[] for _ in range(self.batch or 1)]
        for number, part in enumerate(self.parts):
            known = part.conflicts()
            for i, names in enumerate(made):
                own = known[min(i, len(known) - 1)]
                made[i] = names or [f"{name} of part {number}" for name in own]
        return made

    @property
    def shape(self) -> torch.Size:
        """(n₁ + n₂ + …,).

        Example:
            >>> Product(Box(0, 1, shape=(2, 2)), Box(0, 1, shape=3)).shape
            torch.Size([7])
        """
        return torch.Size([sum(self.sizes)])

    @property
    def centre(self) -> Tensor:
        """The centres of the parts.

        Example:
            >>> Product(Box(0, 1, shape=1), Box(0, 4, shape=1)).centre.tolist()
            [0.5, 2.0]
        """
        flat = [
            part.centre.reshape(*([] if part.batch is None else [part.batch]), size)
            for part, size in zip(self.parts, self.sizes, strict=True)
        ]
        lead = () if self.batch is None else (self.batch,)
        return torch.cat([t.expand(*lead, t.shape[-1]) for t in flat], -1)

    def contains(self, points: Tensor | Any) -> Tensor:
        """Return which of a batch of points, (B, n₁ + n₂ + …), have all their parts in the sets: booleans (B,).

        Raises:
            ValueError: points of another shape.

        Example:
            >>> Product(Box(0, 1, shape=1), Box(0, 4, shape=1)).contains(torch.tensor([[2.0, 2.0]])).tolist()
            [False]
        """
        made = self.each(points, lambda part, own: part.contains(own))
        return torch.stack(made).all(0)

    def project(self, points: Tensor | Any) -> Tensor:
        """Return the nearest points of the product, of the shape and dtype of `points` (B, n₁ + n₂ + …).

        Raises:
            ValueError: points of another shape.

        Example:
            >>> Product(Box(0, 1, shape=1), Box(0, 4, shape=1)).project(torch.tensor([[9.0, 9.0]])).tolist()
            [[1.0, 4.0]]
        """
        return torch.cat(self.each(points, lambda part, own: part.project(own).flatten(1)), 1)

    def each(self, points: Tensor | Any, use: Callable[[Domain, Tensor], Tensor]) -> list[Tensor]:
        """What a function of a part and of its points returns, for all parts."""
        own = self.checked(points)
        split = own.split(self.sizes, 1)
        return [use(part, p.reshape(len(own), *part.shape)) for part, p in zip(self.parts, split, strict=True)]

    def hull(self) -> Box:
        """Return the boxes of the parts as one.

        Example:
            >>> Product(Box(0, 1, shape=1), Box(0, 4, shape=1)).hull().hi.tolist()
            [1.0, 4.0]
        """
        boxes = [part.hull() for part in self.parts]
        return Box(torch.cat([box.lo.flatten() for box in boxes]), torch.cat([box.hi.flatten() for box in boxes]))

    def region(self) -> Region:
        """Return the product as a solver sees it.

        Example:
            >>> import convexnet as cx
            >>> Product(Box(0, 1, shape=1), cx.Simplex(2)).region().equal[0].matrix.tolist()
            [[0.0, 1.0, 1.0]]
        """
        regions = [part.region() for part in self.parts]
        lead = () if self.batch is None else (self.batch,)
        lo, hi = (
            torch.cat([end.expand(*lead, end.shape[-1]) for end in ends], -1)
            for ends in ([r.lo for r in regions], [r.hi for r in regions])
        )
        below: list[Rows] = []
        equal: list[Rows] = []
        balls: list[BallPart] = []
        entropy: list[tuple[int, int]] = []
        start, total = 0, sum(self.sizes)
        for region, size in zip(regions, self.sizes, strict=True):
            after = total - start - size
            below += [rows.padded(start, after) for rows in region.below]
            equal += [rows.padded(start, after) for rows in region.equal]
            balls += [BallPart(b.start + start, b.stop + start, b.centre, b.radius) for b in region.balls]
            entropy += [(s + start, e + start) for s, e in region.entropy]
            start += size
        return Region(lo, hi, tuple(below), tuple(equal), tuple(balls), tuple(entropy))
