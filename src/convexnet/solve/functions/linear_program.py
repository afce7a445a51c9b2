"""A network as rows of a linear program, known by products with its maps alone.

    min out(y, z)   subject to   a_k(y, z) - z_k <= 0,   s_k a_k(y, z) - z_k <= 0,   lo <= y <= hi,

in y and in the results z_k of its atoms, with a_k and out affine. For a largest entry each of its arguments is at most
z; a ReLU's second row is z >= 0, a bound and no row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from convexnet.curvature.call import Refusal
from convexnet.form.atoms import Atom, Kinks
from convexnet.form.epigraph import EpigraphForm
from convexnet.form.grouped import Largest, split_into_groups
from convexnet.solve.functions.matrix_free import MatrixFree

HUGE = 1e30
"""Larger than any multiplier."""

Parts = list[Tensor]
"""One tensor (B, ...) for y and for each z_k, or for the rows of each atom and then the second rows."""


def check_kinks(f: EpigraphForm | MatrixFree, solver: str) -> None:
    """Raise `Refusal` where an atom is neither a kink nor a largest entry."""
    for atom in f.atoms:
        if not isinstance(atom, (Kinks, Largest)):
            raise Refusal(
                f"it has {type(atom).__name__} atoms, which are not piecewise linear, and solver {solver!r} needs that",
                "use solver='newton' or solver='fista'",
            )


class LinearProgram:
    """The linear program of a batch, by products.

    Args:
        f: with kinks and largest entries only.
    """

    def __init__(self, f: EpigraphForm | MatrixFree) -> None:
        self.f = f
        self.tilted = [k for k, atom in enumerate(f.atoms) if isinstance(atom, Kinks) and bool(atom.least.any())]

    def lowest(self, k: int) -> float:
        """The least value of every z_k."""
        return 0.0 if isinstance(self.f.atoms[k], Kinks) and k not in self.tilted else -torch.inf

    def multipliers(self, dual: Parts) -> Parts:
        """Of the arguments, from those of the rows."""
        total = list(dual[: len(self.f.atoms)])
        for k, more in zip(self.tilted, dual[len(self.f.atoms) :], strict=True):
            total[k] = total[k] + slope_of(self.f.atoms[k]) * more
        return total

    def initial_dual(self, arguments: Parts) -> Parts:
        """Multipliers of the rows that belong to a subgradient where the arguments are these."""
        chosen, _ = self.f.fit(subgradient_of(self.f, arguments), arguments)
        rows = [chosen[k].clamp(min=0) for k in range(len(arguments))]
        for k in self.tilted:
            least, below = slope_of(self.f.atoms[k]), arguments[k] <= 0
            share = chosen[k] / torch.where(least != 0, least, 1.0)
            rows.append(torch.where(below & (least != 0), share, 0.0))
            rows[k] = torch.where(below, 0.0, rows[k])
        return rows

    def products(self, primal: Parts) -> tuple[Parts, Callable[[Parts], Parts]]:
        """The rows' values, and from multipliers of the rows the slopes of the Lagrangian in y and every z."""
        arrived, transposed = products(self.f, primal[0], primal[1:])
        atoms = self.f.atoms
        rows = [a - repeat_for_members(atom, z) for atom, a, z in zip(atoms, arrived, primal[1:], strict=True)]
        rows += [slope_of(atoms[k]) * arrived[k] - primal[k + 1] for k in self.tilted]

        def back(dual: Parts) -> Parts:
            slopes = transposed(self.multipliers(dual))
            for k, atom in enumerate(atoms):
                own = dual[k] if atom.group == 1 else split_into_groups(dual[k], atom.group).sum(-1)
                slopes[k + 1] = slopes[k + 1] - own
            for k, more in zip(self.tilted, dual[len(atoms) :], strict=True):
                slopes[k + 1] = slopes[k + 1] - more
            return slopes

        return rows, back


def subgradient_of(f: EpigraphForm | MatrixFree, arguments: Parts) -> dict[int, Tensor]:
    """What, fitted, becomes the multipliers of a subgradient where the arguments are these."""
    wanted: dict[int, Tensor] = {}
    for k, (atom, a) in enumerate(zip(f.atoms, arguments, strict=True)):
        slopes = atom.slopes(a)
        wanted[k] = slopes if isinstance(atom, Largest) else HUGE * (slopes - 0.5)  # clipped to what arrives
    return wanted


def slope_of(atom: Atom) -> Tensor:
    assert isinstance(atom, Kinks)
    return atom.least


def repeat_for_members(atom: Atom, z: Tensor) -> Tensor:
    """The result beside each of its arguments."""
    return z if atom.group == 1 else z.repeat_interleave(atom.group, -1)


def products(
    f: EpigraphForm | MatrixFree, y: Tensor, results: Sequence[Tensor]
) -> tuple[Parts, Callable[[Parts], Parts]]:
    """See `Layers.products`."""
    if isinstance(f, MatrixFree):
        return f.products(y, results)

    def transposed(multipliers: Parts) -> Parts:
        chosen = dict(enumerate(multipliers))
        slopes = [f.gradient(chosen)]
        for k, z in enumerate(results):
            total = f.weights.get(k, torch.zeros_like(z))
            for later, multiplier in chosen.items():
                if (later, k) in f.between:
                    total = total + f.between[later, k].transposed(multiplier)
            slopes.append(total)
        return slopes

    return [f.argument(k, y, results) for k in range(len(f.atoms))], transposed


def matrix_times(parts: Parts, sizes: Parts) -> Parts:
    return [part * size for part, size in zip(parts, sizes, strict=True)]


def divide_columns(parts: Parts, sizes: Parts) -> Parts:
    return [part / size for part, size in zip(parts, sizes, strict=True)]


def zeros(parts: Parts) -> Parts:
    return [torch.zeros_like(part) for part in parts]


def choose_slopes(where: Tensor, first: Parts, second: Parts) -> Parts:
    return [torch.where(where, a, b) for a, b in zip(first, second, strict=True)]


def dual_distance(first: Parts, second: Parts) -> Tensor:
    """(B, 1); of nothing, a number."""
    if not first:
        return torch.zeros((), dtype=torch.float64)
    squares = [((a - b) ** 2).sum(1, keepdim=True) for a, b in zip(first, second, strict=True)]
    return torch.stack(squares).sum(0).sqrt()
