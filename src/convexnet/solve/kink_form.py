"""A network as affine maps between kinks: the form that solvers work on.

    a_k = c_k + U_k y + sum_{j<k} W_kj z_j,    z_k = max(s_k a_k, a_k),    f(y) = c + u y + sum_k w_k z_k

for every sample of a batch, with slopes s_k <= 1 (0 for a ReLU).

f is convex, which is certified beforehand, and that says: for gates between s_k and 1 chosen from the last kink to the
first, the total multiplier that arrives at each kink is non-negative, so that z >= gate * a turns f into an affine
function below it. This is the dual of the linear program of Amos & Kolter (2016), for any depth, and the lower bound of
every solver here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Map:
    """x -> W (r * x) for each sample: one matrix (h, d), and for each sample a scale (B, d) of its columns, or none.

    Where even that does not describe the samples, the matrix is (B, h, d).

    Example:
        >>> double = Map(torch.eye(2), torch.full((3, 2), 2.0))
        >>> double(torch.ones(3, 2)).unique().item()
        2.0
    """

    matrix: Tensor
    scale: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(B, d) -> (B, h)."""
        scaled = x if self.scale is None else x * self.scale
        return torch.einsum("bhd,bd->bh", self.matrix, scaled) if self.matrix.ndim == 3 else scaled @ self.matrix.T

    def transposed(self, v: Tensor) -> Tensor:
        """(B, h) -> (B, d)."""
        back = torch.einsum("bhd,bh->bd", self.matrix, v) if self.matrix.ndim == 3 else v @ self.matrix
        return back if self.scale is None else back * self.scale

    def rows(self, index: Tensor) -> Map:
        """The map of some samples."""
        matrix = self.matrix[index] if self.matrix.ndim == 3 else self.matrix
        return Map(matrix, None if self.scale is None else self.scale[index])

    def on_columns(self, x: Tensor) -> Tensor:
        """(B, d, n) -> (B, h, n): the map of every column, as one product of matrices."""
        scaled = x if self.scale is None else x * self.scale[:, :, None]
        if self.matrix.ndim == 3:
            return self.matrix @ scaled
        batch, d, n = scaled.shape
        flat = scaled.transpose(0, 1).reshape(d, batch * n)
        return (self.matrix @ flat).view(-1, batch, n).transpose(0, 1)

    def columns(self, batch: int) -> Tensor:
        """The matrices (B, h, d), not copied where all samples share one."""
        matrix = self.matrix if self.matrix.ndim == 3 else self.matrix.expand(batch, *self.matrix.shape)
        return matrix if self.scale is None else matrix * self.scale[:, None, :]

    def scaled(self, before: Tensor | None, after: Tensor | None) -> Map:
        """x -> after * W (before * x): `before` (B, d) or (d,) for each input, `after` (h,) for each result."""
        matrix, scale = self.matrix, self.scale
        if after is not None:
            matrix = matrix * after[:, None]
        if before is not None:
            if before.ndim == 1:
                matrix = matrix * before
            else:
                scale = before if scale is None else scale * before
        return Map(matrix, scale)

    def of(self, sample: int) -> Tensor:
        """The matrix (h, d) of one sample."""
        matrix = self.matrix[sample] if self.matrix.ndim == 3 else self.matrix
        return matrix if self.scale is None else matrix * self.scale[sample]


@dataclass(frozen=True)
class KinkForm:
    """A batch of B convex functions of y in R^n; see the module's docstring.

    Attributes:
        constants: c_k, (B, h_k) each.
        slopes: s_k, (h_k,) each.
        from_y: U_k, or None where a kink does not see y.
        between: W_kj by (k, j).
        constant, slope: c (B,) and u (B, n).
        weights: w_k (B, h_k) by k.

    Example:
        >>> one = torch.ones(1, 1)
        >>> size = KinkForm((0 * one,), (-one[0],), (Map(one),), {}, torch.zeros(1), 0 * one, {0: one})  # |y|
        >>> size.value(torch.tensor([[-3.0]])).item()
        3.0
        >>> [part.item() for part in size.minorant([torch.full((1, 1), 0.5)])]  # 0.5 y + 0 lies below it
        [0.5, 0.0]
    """

    constants: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]
    from_y: tuple[Map | None, ...]
    between: Mapping[tuple[int, int], Map]
    constant: Tensor
    slope: Tensor
    weights: Mapping[int, Tensor]

    @property
    def batch(self) -> int:
        """B."""
        return self.slope.shape[0]

    @property
    def size(self) -> int:
        """n."""
        return self.slope.shape[1]

    def bent(self, k: int, a: Tensor) -> Tensor:
        """z_k for the arguments of kink k."""
        return torch.maximum(self.slopes[k] * a, a)

    def arguments(self, y: Tensor) -> list[Tensor]:
        """a_k at y (B, n)."""
        results: list[Tensor] = []
        found: list[Tensor] = []
        for k in range(len(self.constants)):
            found.append(self.argument(k, y, results))
            results.append(self.bent(k, found[k]))
        return found

    def argument(self, k: int, y: Tensor, results: Sequence[Tensor]) -> Tensor:
        """a_k at y (B, n), for the results of the kinks before it."""
        first = self.from_y[k]
        a = self.constants[k] if first is None else self.constants[k] + first(y)
        for j in range(k):
            if (k, j) in self.between:
                a = a + self.between[k, j](results[j])
        return a

    def value(self, y: Tensor) -> Tensor:
        """f(y), (B,)."""
        total = self.constant + (self.slope * y).sum(1)
        if self.weights:
            a = self.arguments(y)
            for k, w in self.weights.items():
                total = total + (w * self.bent(k, a[k])).sum(1)
        return total

    def arriving(self, k: int, chosen: Mapping[int, Tensor]) -> Tensor:
        """The multiplier (B, h_k) that arrives at the result of kink k, given those chosen for later arguments."""
        total = self.weights[k] if k in self.weights else torch.zeros_like(self.constants[k])
        for later, multiplier in chosen.items():
            if (later, k) in self.between:
                total = total + self.between[later, k].transposed(multiplier)
        return total

    def minorant(self, gates: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """An affine function g y + b below f, (B, n) and (B,), for any gates (clipped to between s_k and 1)."""
        chosen: dict[int, Tensor] = {}
        for k in reversed(range(len(self.constants))):
            total = self.arriving(k, chosen).clamp(min=0)  # non-negative but for rounding
            chosen[k] = torch.maximum(gates[k].clamp(max=1), self.slopes[k]) * total
        return self.affine(chosen)

    def clipped(self, multipliers: Sequence[Tensor]) -> dict[int, Tensor]:
        """The nearest multipliers of arguments that gates can give."""
        chosen: dict[int, Tensor] = {}
        for k in reversed(range(len(self.constants))):
            total = self.arriving(k, chosen).clamp(min=0)
            chosen[k] = torch.minimum(torch.maximum(multipliers[k], self.slopes[k] * total), total)
        return chosen

    def affine(self, chosen: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
        """The affine function of y for multipliers of the kinks' arguments."""
        g, b = self.slope, self.constant
        for k, multiplier in chosen.items():
            first = self.from_y[k]
            if first is not None:
                g = g + first.transposed(multiplier)
            b = b + (multiplier * self.constants[k]).sum(1)
        return g, b

    def on_cube(self, lo: Tensor, hi: Tensor) -> KinkForm:
        """The same functions of t in [-1, 1]^n, where y = (lo + hi)/2 + (hi - lo)/2 t; lo, hi are (n,) or (B, n)."""
        middle, radius = (lo + hi) / 2, (hi - lo) / 2
        constants = list(self.constants)
        for k, first in enumerate(self.from_y):
            if first is not None:
                constants[k] = constants[k] + first(middle.expand(self.batch, self.size))
        return replace(
            self,
            constants=tuple(constants),
            from_y=tuple(None if m is None else m.scaled(radius, None) for m in self.from_y),
            constant=self.constant + (self.slope * middle).sum(1),
            slope=self.slope * radius,
        )

    def in_units(self, units: Sequence[Tensor]) -> KinkForm:
        """The same functions with the arguments of kink k in units (h_k,): a kink is positively homogeneous."""
        inverse = [1 / unit for unit in units]
        return replace(
            self,
            constants=tuple(c * i for c, i in zip(self.constants, inverse, strict=True)),
            from_y=tuple(None if m is None else m.scaled(None, i) for m, i in zip(self.from_y, inverse, strict=True)),
            between={(k, j): m.scaled(units[j], inverse[k]) for (k, j), m in self.between.items()},
            weights={k: w * units[k] for k, w in self.weights.items()},
        )

    def rows(self, index: Tensor) -> KinkForm:
        """The functions of some samples."""
        return KinkForm(
            tuple(c[index] for c in self.constants),
            self.slopes,
            tuple(None if m is None else m.rows(index) for m in self.from_y),
            {key: m.rows(index) for key, m in self.between.items()},
            self.constant[index],
            self.slope[index],
            {k: w[index] for k, w in self.weights.items()},
        )
