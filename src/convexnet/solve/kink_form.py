"""A network as affine maps between bends: the form that solvers work on.

    a_k = c_k + U_k y + sum_{j<k} W_kj z_j,    z_k = φ_k(a_k),    f(y) = c + u y + sum_k w_k z_k

for every sample of a batch, with convex φ_k: kinks max(s a, a) (s = 0 for a ReLU), largest entries, smooth curves.

f is convex, which is certified beforehand, and that says: for multipliers of the arguments chosen from the last bend to
the first, what arrives at each bend is non-negative, so that a tangent below every φ_k turns f into an affine function
below it. With kinks alone this is the dual of the linear program of Amos & Kolter (2016), for any depth. It is the
third walk of the calculus, the minorant, and the lower bound of every solver here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexnet.solve.bends import Bend


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

    def rows_of(self, index: Tensor) -> Tensor:
        """The rows (B, K, d) with the given numbers (B, K), a set of its own for each sample."""
        if self.matrix.ndim == 3:
            picked = self.matrix.gather(1, index[:, :, None].expand(-1, -1, self.matrix.shape[2]))
        else:
            picked = self.matrix.index_select(0, index.flatten()).view(*index.shape, -1)
        return picked if self.scale is None else picked * self.scale[:, None, :]

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Map:
        """The same map with both tensors changed."""
        return Map(change(self.matrix), None if self.scale is None else change(self.scale))

    def of(self, sample: int) -> Tensor:
        """The matrix (h, d) of one sample."""
        matrix = self.matrix[sample] if self.matrix.ndim == 3 else self.matrix
        return matrix if self.scale is None else matrix * self.scale[sample]


@dataclass(frozen=True)
class KinkForm:
    """A batch of B convex functions of y in R^n; see the module's docstring.

    Attributes:
        constants: c_k, (B, in_k) each.
        bends: φ_k.
        from_y: U_k, or None where a bend does not see y.
        between: W_kj by (k, j).
        constant, slope: c (B,) and u (B, n).
        weights: w_k (B, out_k) by k.

    Example:
        >>> from convexnet.solve.bends import Kinks
        >>> one = torch.ones(1, 1)
        >>> bend = Kinks(-one[0])
        >>> size = KinkForm((0 * one,), (bend,), (Map(one),), {}, torch.zeros(1), 0 * one, {0: one})  # |y|
        >>> size.value(torch.tensor([[-3.0]])).item()
        3.0
        >>> [part.item() for part in size.subgradient(torch.tensor([[-3.0]]))]
        [3.0, -1.0]
        >>> [part.item() for part in size.minorant([torch.full((1, 1), 0.75)], [0 * one])]  # y/2 + 0 lies below it
        [0.5, 0.0]
    """

    constants: tuple[Tensor, ...]
    bends: tuple[Bend, ...]
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

    @property
    def piecewise_linear(self) -> bool:
        """Whether all bends are."""
        return all(bend.piecewise_linear for bend in self.bends)

    def argument(self, k: int, y: Tensor, results: Sequence[Tensor]) -> Tensor:
        """a_k at y (B, n), for the results of the bends before it."""
        first = self.from_y[k]
        a = self.constants[k] if first is None else self.constants[k] + first(y)
        for j in range(k):
            if (k, j) in self.between:
                a = a + self.between[k, j](results[j])
        return a

    def arguments(self, y: Tensor) -> list[Tensor]:
        """a_k at y (B, n)."""
        results: list[Tensor] = []
        found: list[Tensor] = []
        for k, bend in enumerate(self.bends):
            found.append(self.argument(k, y, results))
            results.append(bend.value(found[k]))
        return found

    def value_of(self, y: Tensor, results: Sequence[Tensor]) -> Tensor:
        """f, (B,), for the results of the bends."""
        total = self.constant + (self.slope * y).sum(1)
        for k, w in self.weights.items():
            total = total + (w * results[k]).sum(1)
        return total

    def value(self, y: Tensor) -> Tensor:
        """f(y), (B,)."""
        return self.value_of(y, [bend.value(a) for bend, a in zip(self.bends, self.arguments(y), strict=True)])

    def subgradient(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """f(y) (B,) and a subgradient (B, n) there."""
        a = self.arguments(y)
        results = [bend.value(x) for bend, x in zip(self.bends, a, strict=True)]
        chosen: dict[int, Tensor] = {}
        for k in reversed(range(len(self.bends))):
            chosen[k] = self.bends[k].pull(self.bends[k].gates(a[k]), self.arriving(k, chosen))
        return self.value_of(y, results), self.gradient(chosen)

    def arriving(self, k: int, chosen: Mapping[int, Tensor]) -> Tensor:
        """The multiplier (B, out_k) that arrives at the results of bend k, given those chosen for later arguments."""
        total = self.weights.get(k)
        for later, multiplier in chosen.items():
            if (later, k) in self.between:
                part = self.between[later, k].transposed(multiplier)
                total = part if total is None else total + part
        if total is None:
            total = self.constants[k].new_zeros(self.batch, self.constants[k].shape[1] // self.bends[k].group)
        return total.clamp(min=0)  # non-negative but for rounding

    def minorant(self, gates: Sequence[Tensor], arguments: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """An affine function g y + b below f, (B, n) and (B,).

        Args:
            gates: for each bend, clipped to its range.
            arguments: where tangents of smooth bends touch.
        """
        chosen: dict[int, Tensor] = {}
        intercept = self.constant
        for k in reversed(range(len(self.bends))):
            arriving = self.arriving(k, chosen)
            wanted = self.bends[k].pull(gates[k], arriving)
            chosen[k], rest = self.bends[k].fit(wanted, arguments[k], arriving)
            intercept = intercept + rest
        return self.affine(chosen, intercept)

    def fitted(
        self, wanted: Mapping[int, Tensor], arguments: Sequence[Tensor]
    ) -> tuple[dict[int, Tensor], tuple[Tensor, Tensor]]:
        """The multipliers nearest to those wanted that give an affine function g y + b below f, and that function."""
        chosen: dict[int, Tensor] = {}
        intercept = self.constant
        for k in reversed(range(len(self.bends))):
            chosen[k], rest = self.bends[k].fit(wanted[k], arguments[k], self.arriving(k, chosen))
            intercept = intercept + rest
        return chosen, self.affine(chosen, intercept)

    def gates_of(self, chosen: Mapping[int, Tensor]) -> list[Tensor]:
        """The gates that give these multipliers, with which `pull` makes them again."""
        done: dict[int, Tensor] = {}
        gates: list[Tensor] = []
        for k in reversed(range(len(self.bends))):
            gates.insert(0, self.bends[k].gates_of(chosen[k], self.arriving(k, done)))
            done[k] = chosen[k]
        return gates

    def pulled(self, gates: Sequence[Tensor]) -> tuple[dict[int, Tensor], list[Tensor]]:
        """The multipliers that gates make, and what arrives at each bend."""
        chosen: dict[int, Tensor] = {}
        arriving: list[Tensor] = []
        for k in reversed(range(len(self.bends))):
            arriving.insert(0, self.arriving(k, chosen))
            chosen[k] = self.bends[k].pull(gates[k], arriving[0])
        return chosen, arriving

    def gradient(self, chosen: Mapping[int, Tensor]) -> Tensor:
        """The slope (B, n) of the affine function of y for multipliers of the arguments."""
        g = self.slope
        for k, multiplier in chosen.items():
            first = self.from_y[k]
            if first is not None:
                g = g + first.transposed(multiplier)
        return g

    def affine(self, chosen: Mapping[int, Tensor], intercept: Tensor) -> tuple[Tensor, Tensor]:
        """The affine function of y for multipliers of the arguments, (B, n) and (B,)."""
        b = intercept
        for k, multiplier in chosen.items():
            b = b + (multiplier * self.constants[k]).sum(1)
        return self.gradient(chosen), b

    def moved(self, middle: Tensor, radius: Tensor) -> KinkForm:
        """The same functions of t, where y = middle + radius t; both are (n,) or (B, n)."""
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
        """The same functions with the arguments of bend k in units (in_k,), the same within a group."""
        inverse = [1 / unit for unit in units]
        pairs = [bend.in_units(unit) for bend, unit in zip(self.bends, units, strict=True)]
        factors = [factor for _, factor in pairs]
        return replace(
            self,
            constants=tuple(c * i for c, i in zip(self.constants, inverse, strict=True)),
            bends=tuple(bend for bend, _ in pairs),
            from_y=tuple(None if m is None else m.scaled(None, i) for m, i in zip(self.from_y, inverse, strict=True)),
            between={(k, j): m.scaled(factors[j], inverse[k]) for (k, j), m in self.between.items()},
            weights={k: w * factors[k] for k, w in self.weights.items()},
        )

    def converted(self, dtype: torch.dtype) -> KinkForm:
        """The same functions in another precision."""
        return self.mapped(lambda t: t.to(dtype))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> KinkForm:
        """The same functions with every tensor changed."""
        return KinkForm(
            tuple(change(c) for c in self.constants),
            tuple(bend.mapped(change) for bend in self.bends),
            tuple(None if m is None else m.mapped(change) for m in self.from_y),
            {key: m.mapped(change) for key, m in self.between.items()},
            change(self.constant),
            change(self.slope),
            {k: change(w) for k, w in self.weights.items()},
        )

    def on(self, device: str | torch.device) -> KinkForm:
        """The same functions on another device."""
        return self if self.slope.device == torch.device(device) else self.mapped(lambda t: t.to(device))

    def rows(self, index: Tensor) -> KinkForm:
        """The functions of some samples."""
        return replace(
            self,
            constants=tuple(c[index] for c in self.constants),
            from_y=tuple(None if m is None else m.rows(index) for m in self.from_y),
            between={key: m.rows(index) for key, m in self.between.items()},
            constant=self.constant[index],
            slope=self.slope[index],
            weights={k: w[index] for k, w in self.weights.items()},
        )
