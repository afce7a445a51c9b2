"""Linear inequalities and equalities."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convexnet.arrays import as_tensor
from convexnet.domains.box import Bound, Box
from convexnet.domains.domain import (
    ULPS,
    Domain,
    Region,
    Rows,
    batch_text,
    first_index,
    floating_type,
    own_copy,
    precision_of,
)
from convexnet.domains.free import Free
from convexnet.domains.nearest import Array, Empty, Polytope, proved_box
from convexnet.domains.simplex import Simplex


class Polyhedron(Domain):
    """The set of points y with `A y <= b` and `A_eq y = b_eq`, within another set.

    An empty one is no error: `minimise` gives such samples the status "infeasible" and names the rows that conflict.

    Args:
        A: (m, n), or (m, *shape) within a set of another shape than (n,); or None.
        b: (m,), or (B, m) for each sample's own. Gradients flow to all four.
        A_eq, b_eq: likewise, (k, n) and (k,) or (B, k).
        within: a `Box`, `Orthant`, `Free` or `Simplex`; None: `Free`.

    Raises:
        ValueError: shapes do not fit, a number is NaN or infinite, or there is neither A nor A_eq.
        TypeError: `within` is another set.

    Example:
        >>> half = Polyhedron([[1.0, 1.0]], [1.0], within=Box(0, 1, shape=2))
        >>> half.project(torch.tensor([[1.0, 1.0]])).tolist(), half.contains(torch.tensor([[0.9, 0.2]])).tolist()
        ([[0.5, 0.5]], [False])
    """

    def __init__(
        self,
        A: Bound | None = None,
        b: Bound | None = None,
        A_eq: Bound | None = None,
        b_eq: Bound | None = None,
        within: Box | Simplex | None = None,
    ) -> None:
        if A is None and A_eq is None:
            raise ValueError("a Polyhedron needs rows, A and b, or A_eq and b_eq")
        if within is not None and (not isinstance(within, (Box, Simplex)) or within.region().entropy):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("`within` must be a Box, an Orthant, a Free or a Simplex: put other sets into a Product")
        size = None if within is None else within.shape.numel()
        self.below = rows_of(A, b, ("A", "b"), size, "inequality")
        self.equal = rows_of(A_eq, b_eq, ("A_eq", "b_eq"), size, "equality")
        widths = {rows.matrix.shape[1] for rows in (self.below, self.equal) if rows is not None}
        if len(widths) > 1:
            raise ValueError(f"the rows of the Polyhedron have {' and '.join(map(str, sorted(widths)))} columns")
        self.within = Free(widths.pop()) if within is None else within
        right = [rows.right for rows in (self.below, self.equal) if rows is not None]
        counts = {len(t) for t in right if t.ndim == 2}
        counts |= set[int]() if self.within.batch is None else {self.within.batch}
        if len(counts - {1}) > 1:
            raise ValueError(f"the parts of the Polyhedron are for {' and '.join(map(str, sorted(counts)))} samples")
        self.batch = max(counts) if counts else None
        self._found: dict[str, Any] = {}

    def __repr__(self) -> str:
        counts = [0 if rows is None else len(rows.matrix) for rows in (self.below, self.equal)]
        rows = f"{counts[0]} inequalities and {counts[1]} equalities"
        return f"Polyhedron({rows}, within={self.within!r}{batch_text(self.batch)})"

    @property
    def shape(self) -> torch.Size:
        """The shape of one sample.

        Example:
            >>> Polyhedron([[1.0, 1.0]], [1.0]).shape
            torch.Size([2])
        """
        return self.within.shape

    @property
    def centre(self) -> Tensor:
        """The Chebyshev centre, that of a largest ball inside; NaN where no point of the polyhedron was found.

        Found when it is first asked for, and kept. Where rows leave no room (as `y <= 0` and `y >= 0`), the ball has
        radius 0.

        Example:
            >>> Polyhedron([[1.0, 1.0]], [1.0], within=Box(0, 1, shape=2)).centre.round(decimals=3).tolist()
            [0.293, 0.293]
        """
        made = torch.stack([torch.from_numpy(point) for point, _ in self.widest()])
        return made.view((-1, *self.shape)) if self.batch is not None else made[0].view(self.shape)

    def conflicts(self) -> list[list[str]]:
        """For each sample (one without a batch), the names of rows that conflict: it is proved, in exact numbers, that
        no point meets them. None where the polyhedron has points, or where none was found and nothing is proved.

        Example:
            >>> Polyhedron([[1.0], [-1.0]], [0.0, -1.0]).conflicts()
            [['row 0 of A', 'row 1 of A']]
        """
        self.widest()
        return self._found["conflicts"]

    def radius(self) -> Tensor:
        """The radius of the largest ball inside, (B,) with B = 1 without a batch; NaN where there is none.

        Example:
            >>> bool(Polyhedron([[1.0], [-1.0]], [2.0, 2.0]).radius() == 1.0)  # no more than 1 is looked for
            True
        """
        return torch.tensor([radius for _, radius in self.widest()], dtype=torch.float64)

    def widest(self) -> list[tuple[Array, float]]:
        """The largest balls inside, for each sample; looked for once."""
        if "widest" not in self._found:
            found: list[tuple[Array, float]] = []
            conflicts: list[list[str]] = []
            for polytope, names in self.polytopes():
                try:
                    found.append(polytope.widest())
                    conflicts.append([])
                except Empty as empty:
                    found.append((np.full(polytope.size, np.nan), np.nan))
                    conflicts.append([names[i] for i in empty.rows] if empty.proved else [])
            self._found.update(widest=found, conflicts=conflicts)
        return self._found["widest"]

    def polytopes(self) -> list[tuple[Polytope, list[str]]]:
        """The polyhedron of each sample as rows alone, with the names of rows."""
        count = self.batch or 1
        around = self.within.region()

        def sample(right: Tensor, i: int) -> Array:
            own = right.detach().cpu().double()
            return (own[min(i, len(own) - 1)] if own.ndim == 2 else own).numpy()

        def matrix_of(rows: Rows) -> Array:
            return rows.matrix.detach().cpu().numpy()

        made: list[tuple[Polytope, list[str]]] = []
        for i in range(count):
            equal, below = (*around.equal, *own_rows(self.equal)), own_rows(self.below)
            n = self.shape.numel()
            lo, hi = sample(around.lo, i), sample(around.hi, i)
            has_lower, has_upper, eye = np.isfinite(lo), np.isfinite(hi), np.eye(n)
            nothing = np.zeros((0, n))
            polytope = Polytope(
                np.concatenate([nothing, *map(matrix_of, equal)]),
                np.concatenate([nothing[:, 0], *(sample(rows.right, i) for rows in equal)]),
                np.concatenate([nothing, *map(matrix_of, below), eye[has_upper], -eye[has_lower]]),
                np.concatenate([*(sample(rows.right, i) for rows in below), hi[has_upper], -lo[has_lower]]),
            )
            names = ["the total" for rows in equal if rows.kind == "total"]
            names += [f"row {j} of A_eq" for j in range(0 if self.equal is None else len(self.equal.matrix))]
            names += [f"row {j} of A" for j in range(0 if self.below is None else len(self.below.matrix))]
            names += [f"the upper bound of y[{j}]" for j in has_upper.nonzero()[0]]
            names += [f"the lower bound of y[{j}]" for j in has_lower.nonzero()[0]]
            made.append((polytope, names))
        return made

    def contains(self, points: Tensor | Any) -> Tensor:
        """Return which of a batch of points, (B, *shape), lie in the polyhedron: booleans (B,).

        A row may be missed by 8 units in the last place of the points' type, at the row's size, Σ |a_j y_j| + |b|.

        Raises:
            ValueError: points of another shape.

        Example:
            >>> Polyhedron([[1.0, 1.0]], [1.0]).contains(torch.tensor([[0.5, 0.5], [0.6, 0.5]])).tolist()
            [True, False]
        """
        own = self.checked(points)
        y = own.double().reshape(len(own), self.shape.numel())
        unit = precision_of(own.dtype).eps
        inside = self.within.contains(own)
        for rows, equal in ((self.below, False), (self.equal, True)):
            if rows is None:
                continue
            matrix, right = rows.matrix.detach().to(y), rows.right.detach().to(y)
            far = y @ matrix.T - right
            size = y.abs() @ matrix.abs().T + right.abs()
            met = (far.abs() if equal else far) <= ULPS * unit * size.clamp(min=torch.finfo(torch.float64).tiny)
            inside = inside & met.all(1)
        return inside

    def project(self, points: Tensor | Any) -> Tensor:
        """Return the nearest points of the polyhedron, of the shape and dtype of `points` (B, *shape); NaN where it is
        empty. Not differentiable, and one sample after the other.

        Raises:
            ValueError: points of another shape.

        Example:
            >>> Polyhedron(A_eq=[[1.0, 1.0]], b_eq=[0.0]).project(torch.tensor([[1.0, 1.0]])).tolist()
            [[0.0, 0.0]]
        """
        own = self.checked(points)
        flat = own.detach().cpu().double().reshape(len(own), self.shape.numel()).numpy()
        polytopes = self.polytopes()
        made: list[Array] = []
        for i, point in enumerate(flat):
            polytope = polytopes[min(i, len(polytopes) - 1)][0]
            try:
                made.append(polytope.nearest(point)[0])
            except Empty:
                made.append(np.full(polytope.size, np.nan))
        y = torch.from_numpy(np.stack(made) if made else flat).view(own.shape)
        return y.to(own.device, floating_type(own.dtype))

    def hull(self) -> Box:
        """Return a box without a batch that contains the polyhedra of all samples: that of `within`, and where it has
        no end, the polyhedron's own.

        Example:
            >>> box = Polyhedron([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], [1.0, 0.0, 0.0]).hull()
            >>> [round(float(end), 3) for end in (box.lo[0], box.hi[0])]
            [-0.0, 1.0]
        """
        outer = self.within.hull()
        if bool(outer.lo.isfinite().all() and outer.hi.isfinite().all()):
            return outer
        region = self.region()
        lo, hi = (end.detach().reshape(-1, *self.shape) for end in (region.lo, region.hi))
        return Box(lo.amin(0), hi.amax(0))

    def region(self) -> Region:
        """Return the polyhedron as a solver sees it: `within`, with rows.

        Example:
            >>> Polyhedron([[1.0, 1.0]], [1.0], within=Box(0, 1, shape=2)).region().below[0].right.tolist()
            [1.0]
        """
        around = self.within.region()
        lo, hi = around.lo, around.hi
        if not bool(lo.isfinite().all() and hi.isfinite().all()):
            lo, hi = self.bounds(lo, hi)
        return replace(around, lo=lo, hi=hi, below=(*around.below, *own_rows(self.below)),
                       equal=(*around.equal, *own_rows(self.equal)))  # fmt: skip

    def bounds(self, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
        """The bounds of `within` (n,) or (B, n), with the polyhedron's own where these have no end and it has one."""
        if "bounds" not in self._found:
            ends = [
                proved_box(polytope, point if np.isfinite(radius) else None, bool(conflict))
                for (polytope, _), (point, radius), conflict in zip(
                    self.polytopes(), self.widest(), self.conflicts(), strict=True
                )
            ]
            self._found["bounds"] = [torch.from_numpy(np.stack(side)) for side in zip(*ends, strict=True)]
        lower, upper = (end if self.batch is not None else end[0] for end in self._found["bounds"])
        return torch.where(lo.isfinite(), lo, lower.to(lo)), torch.where(hi.isfinite(), hi, upper.to(hi))


def own_rows(rows: Rows | None) -> tuple[Rows, ...]:
    """The rows as a tuple of none or one."""
    return () if rows is None else (rows,)


def rows_of(matrix: Any, right: Any, names: tuple[str, str], size: int | None, kind: str) -> Rows | None:
    """Rows from what the user gave; None where there are none.

    Raises:
        ValueError: one of the two is missing, shapes do not fit, or a number is not finite.
    """
    if matrix is None and right is None:
        return None
    if matrix is None or right is None:
        raise ValueError(f"the Polyhedron has {names[matrix is None]} without {names[right is None]}")
    left = own_copy(as_tensor(matrix, names[0]))
    limit = own_copy(as_tensor(right, names[1]))
    if left.ndim < 2:
        raise ValueError(f"{names[0]} of the Polyhedron must be (rows, n), and has shape {tuple(left.shape)}")
    left = left.flatten(1)
    if size is not None and left.shape[1] != size:
        raise ValueError(f"{names[0]} of the Polyhedron has {left.shape[1]} columns, and `within` {size} elements")
    if limit.ndim == 0:
        limit = limit.expand(len(left))
    if limit.ndim > 2 or limit.shape[-1] != len(left):
        raise ValueError(
            f"{names[1]} of the Polyhedron must be ({len(left)},), one for each row of {names[0]}, or "
            f"(B, {len(left)}), and has shape {tuple(limit.shape)}"
        )
    for name, numbers in zip(names, (left, limit), strict=True):
        if not bool(numbers.isfinite().all()):
            raise ValueError(
                f"{name} of the Polyhedron is NaN or infinite at element {first_index(~numbers.isfinite())}"
            )
    return Rows(left, limit, kind)
