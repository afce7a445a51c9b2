"""A network as affine maps between atoms: the form that solvers work on.

    a_k = c_k + U_k y + sum_{j<k} W_kj z_j,    z_k = φ_k(a_k),    f(y) = c + u y + sum_k w_k z_k

for every sample of a batch, with convex φ_k: kinks max(s a, a) (s = 0 for a ReLU), largest entries, smooth curves.

f is convex, which is certified beforehand, and that says: for multipliers of the arguments chosen from the last atom to
the first, what arrives at each atom is non-negative, so that a tangent below every φ_k turns f into an affine function
below it. With kinks alone this is the dual of the linear program of Amos & Kolter (2016), for any depth. It is the
third walk of the calculus, the minorant, and the lower bound of every solver here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexnet.form.atoms import Atom
from convexnet.form.linear_maps import Map


@dataclass(frozen=True)
class EpigraphForm:
    """A batch of B convex functions of y in R^n; see the module's docstring.

    Attributes:
        constants: c_k, (B, in_k) each.
        atoms: φ_k.
        from_y: U_k, or None where an atom does not see y.
        between: W_kj by (k, j).
        constant, slope: c (B,) and u (B, n).
        weights: w_k (B, out_k) by k.

    Example:
        >>> from convexnet.form.atoms import Kinks
        >>> one = torch.ones(1, 1)
        >>> atom = Kinks(-one[0])
        >>> size = EpigraphForm((0 * one,), (atom,), (Map(one),), {}, torch.zeros(1), 0 * one, {0: one})  # |y|
        >>> size.value(torch.tensor([[-3.0]])).item()
        3.0
        >>> [part.item() for part in size.subgradient(torch.tensor([[-3.0]]))]
        [3.0, -1.0]
        >>> [part.item() for part in size.minorant([torch.full((1, 1), 0.75)], [0 * one])]  # y/2 + 0 lies below it
        [0.5, 0.0]
    """

    constants: tuple[Tensor, ...]
    atoms: tuple[Atom, ...]
    from_y: tuple[Map | None, ...]
    between: Mapping[tuple[int, int], Map]
    constant: Tensor
    linear: Tensor
    weights: Mapping[int, Tensor]
    kept: dict[str, object] | None = None
    """Room for what solvers compute from the maps, if the form comes from where it will be asked for again."""

    @property
    def batch(self) -> int:
        """B."""
        return self.linear.shape[0]

    @property
    def size(self) -> int:
        """n."""
        return self.linear.shape[1]

    @property
    def piecewise_linear(self) -> bool:
        """Whether all atoms are."""
        return all(atom.piecewise_linear for atom in self.atoms)

    def argument(self, k: int, y: Tensor, results: Sequence[Tensor]) -> Tensor:
        """a_k at y (B, n), for the results of the atoms before it."""
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
        for k, atom in enumerate(self.atoms):
            found.append(self.argument(k, y, results))
            results.append(atom.value(found[k]))
        return found

    def value_of(self, y: Tensor, results: Sequence[Tensor]) -> Tensor:
        """f, (B,), for the results of the atoms."""
        total = self.constant + (self.linear * y).sum(1)
        for k, w in self.weights.items():
            total = total + (w * results[k]).sum(1)
        return total

    def value(self, y: Tensor) -> Tensor:
        """f(y), (B,)."""
        return self.value_of(y, [atom.value(a) for atom, a in zip(self.atoms, self.arguments(y), strict=True)])

    def subgradient(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """f(y) (B,) and a subgradient (B, n) there."""
        a = self.arguments(y)
        results = [atom.value(x) for atom, x in zip(self.atoms, a, strict=True)]
        chosen: dict[int, Tensor] = {}
        for k in reversed(range(len(self.atoms))):
            chosen[k] = self.atoms[k].pull(self.atoms[k].slopes(a[k]), self.arriving(k, chosen))
        return self.value_of(y, results), self.gradient(chosen)

    def arriving(self, k: int, chosen: Mapping[int, Tensor]) -> Tensor:
        """The multiplier (B, out_k) that arrives at the results of atom k, given those chosen for later arguments."""
        total = self.weights.get(k)
        for later, multiplier in chosen.items():
            if (later, k) in self.between:
                part = self.between[later, k].transposed(multiplier)
                total = part if total is None else total + part
        if total is None:
            total = self.constants[k].new_zeros(self.batch, self.constants[k].shape[1] // self.atoms[k].group)
        return total.clamp(min=0)  # non-negative but for rounding

    def minorant(self, slopes: Sequence[Tensor], arguments: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """An affine function g y + b below f, (B, n) and (B,).

        Args:
            slopes: for each atom, clipped to its range.
            arguments: where tangents of smooth atoms touch.
        """
        chosen: dict[int, Tensor] = {}
        intercept = self.constant
        for k in reversed(range(len(self.atoms))):
            arriving = self.arriving(k, chosen)
            wanted = self.atoms[k].pull(slopes[k], arriving)
            chosen[k], rest = self.atoms[k].fit(wanted, arguments[k], arriving)
            intercept = intercept + rest
        return self.affine(chosen, intercept)

    def fit(
        self, wanted: Mapping[int, Tensor], arguments: Sequence[Tensor]
    ) -> tuple[dict[int, Tensor], tuple[Tensor, Tensor]]:
        """The multipliers nearest to those wanted that give an affine function g y + b below f, and that function."""
        chosen: dict[int, Tensor] = {}
        intercept = self.constant
        for k in reversed(range(len(self.atoms))):
            chosen[k], rest = self.atoms[k].fit(wanted[k], arguments[k], self.arriving(k, chosen))
            intercept = intercept + rest
        return chosen, self.affine(chosen, intercept)

    def slopes_from(self, chosen: Mapping[int, Tensor]) -> list[Tensor]:
        """The slopes that give these multipliers, with which `pull` makes them again."""
        done: dict[int, Tensor] = {}
        slopes: list[Tensor] = []
        for k in reversed(range(len(self.atoms))):
            slopes.insert(0, self.atoms[k].slopes_of(chosen[k], self.arriving(k, done)))
            done[k] = chosen[k]
        return slopes

    def pull(self, slopes: Sequence[Tensor]) -> tuple[dict[int, Tensor], list[Tensor]]:
        """The multipliers that slopes make, and what arrives at each atom."""
        chosen: dict[int, Tensor] = {}
        arriving: list[Tensor] = []
        for k in reversed(range(len(self.atoms))):
            arriving.insert(0, self.arriving(k, chosen))
            chosen[k] = self.atoms[k].pull(slopes[k], arriving[0])
        return chosen, arriving

    def gradient(self, chosen: Mapping[int, Tensor]) -> Tensor:
        """The slope (B, n) of the affine function of y for multipliers of the arguments."""
        g = self.linear
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

    def change_variable(self, middle: Tensor, radius: Tensor) -> EpigraphForm:
        """The same functions of t, where y = middle + radius t; both are (n,) or (B, n)."""
        constants = list(self.constants)
        for k, first in enumerate(self.from_y):
            if first is not None:
                constants[k] = constants[k] + first(middle.expand(self.batch, self.size))
        return replace(
            self,
            constants=tuple(constants),
            from_y=tuple(None if m is None else m.scaled(radius, None) for m in self.from_y),
            constant=self.constant + (self.linear * middle).sum(1),
            linear=self.linear * radius,
        )

    def in_units(self, units: Sequence[Tensor]) -> EpigraphForm:
        """The same functions with the arguments of atom k in units (in_k,), the same within a group."""
        inverse = [1 / unit for unit in units]
        pairs = [atom.in_units(unit) for atom, unit in zip(self.atoms, units, strict=True)]
        factors = [factor for _, factor in pairs]
        return replace(
            self,
            constants=tuple(c * i for c, i in zip(self.constants, inverse, strict=True)),
            atoms=tuple(atom for atom, _ in pairs),
            from_y=tuple(None if m is None else m.scaled(None, i) for m, i in zip(self.from_y, inverse, strict=True)),
            between={(k, j): m.scaled(factors[j], inverse[k]) for (k, j), m in self.between.items()},
            weights={k: w * factors[k] for k, w in self.weights.items()},
        )

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> EpigraphForm:
        """The same functions with every tensor changed."""
        return EpigraphForm(
            tuple(change(c) for c in self.constants),
            tuple(atom.map_settings(change) for atom in self.atoms),
            tuple(None if m is None else m.mapped(change) for m in self.from_y),
            {key: m.mapped(change) for key, m in self.between.items()},
            change(self.constant),
            change(self.linear),
            {k: change(w) for k, w in self.weights.items()},
        )

    def times(self, factor: Tensor) -> EpigraphForm:
        """The functions times positive factors (B,)."""
        return replace(
            self,
            constant=self.constant * factor,
            linear=self.linear * factor[:, None],
            weights={k: w * factor[:, None] for k, w in self.weights.items()},
        )

    def on(self, device: str | torch.device) -> EpigraphForm:
        """The same functions on another device."""
        return self if self.linear.device == torch.device(device) else self.map_tensors(lambda t: t.to(device))

    def rows(self, index: Tensor) -> EpigraphForm:
        """The functions of some samples."""
        return replace(
            self,
            constants=tuple(c[index] for c in self.constants),
            from_y=tuple(None if m is None else m.rows(index) for m in self.from_y),
            between={key: m.rows(index) for key, m in self.between.items()},
            constant=self.constant[index],
            linear=self.linear[index],
            weights={k: w[index] for k, w in self.weights.items()},
        )
