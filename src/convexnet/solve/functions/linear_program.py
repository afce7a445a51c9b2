"""A network as rows of a linear program, known by products with its maps alone.

    min out(y, z)   subject to   a_k(y, z) - z_k <= 0,   s_k a_k(y, z) - z_k <= 0,   lo <= y <= hi,

in y and in the results z_k of its bends, with a_k and out affine. For a largest entry each of its arguments is at most
z; a ReLU's second row is z >= 0, a bound and no row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from convexnet.curvature.call import Refusal
from convexnet.form.atoms import Bend, Kinks
from convexnet.form.epigraph import KinkForm
from convexnet.form.grouped import Largest, grouped
from convexnet.solve.functions.matrix_free import Layers

HUGE = 1e30
"""Larger than any multiplier."""

Parts = list[Tensor]
"""One tensor (B, ...) for y and for each z_k, or for the rows of each bend and then the second rows."""


def kinked(f: KinkForm | Layers, solver: str) -> None:
    """Raise `Refusal` where a bend is neither a kink nor a largest entry."""
    for bend in f.bends:
        if not isinstance(bend, (Kinks, Largest)):
            raise Refusal(
                f"it has {type(bend).__name__} atoms, which are not piecewise linear, and solver {solver!r} needs that",
                "use solver='newton' or solver='fista'",
            )


class Program:
    """The linear program of a batch, by products.

    Args:
        f: with kinks and largest entries only.
    """

    def __init__(self, f: KinkForm | Layers) -> None:
        self.f = f
        self.tilted = [k for k, bend in enumerate(f.bends) if isinstance(bend, Kinks) and bool(bend.least.any())]

    def lowest(self, k: int) -> float:
        """The least value of every z_k."""
        return 0.0 if isinstance(self.f.bends[k], Kinks) and k not in self.tilted else -torch.inf

    def multipliers(self, dual: Parts) -> Parts:
        """Of the arguments, from those of the rows."""
        total = list(dual[: len(self.f.bends)])
        for k, more in zip(self.tilted, dual[len(self.f.bends) :], strict=True):
            total[k] = total[k] + slope_of(self.f.bends[k]) * more
        return total

    def begun(self, arguments: Parts) -> Parts:
        """Multipliers of the rows that belong to a subgradient where the arguments are these."""
        chosen, _ = self.f.fitted(subgradient_of(self.f, arguments), arguments)
        rows = [chosen[k].clamp(min=0) for k in range(len(arguments))]
        for k in self.tilted:
            least, below = slope_of(self.f.bends[k]), arguments[k] <= 0
            share = chosen[k] / torch.where(least != 0, least, 1.0)
            rows.append(torch.where(below & (least != 0), share, 0.0))
            rows[k] = torch.where(below, 0.0, rows[k])
        return rows

    def products(self, primal: Parts) -> tuple[Parts, Callable[[Parts], Parts]]:
        """The rows' values, and from multipliers of the rows the slopes of the Lagrangian in y and every z."""
        arrived, transposed = products(self.f, primal[0], primal[1:])
        bends = self.f.bends
        rows = [a - spread(bend, z) for bend, a, z in zip(bends, arrived, primal[1:], strict=True)]
        rows += [slope_of(bends[k]) * arrived[k] - primal[k + 1] for k in self.tilted]

        def back(dual: Parts) -> Parts:
            slopes = transposed(self.multipliers(dual))
            for k, bend in enumerate(bends):
                own = dual[k] if bend.group == 1 else grouped(dual[k], bend.group).sum(-1)
                slopes[k + 1] = slopes[k + 1] - own
            for k, more in zip(self.tilted, dual[len(bends) :], strict=True):
                slopes[k + 1] = slopes[k + 1] - more
            return slopes

        return rows, back


def subgradient_of(f: KinkForm | Layers, arguments: Parts) -> dict[int, Tensor]:
    """What, fitted, becomes the multipliers of a subgradient where the arguments are these."""
    wanted: dict[int, Tensor] = {}
    for k, (bend, a) in enumerate(zip(f.bends, arguments, strict=True)):
        gates = bend.gates(a)
        wanted[k] = gates if isinstance(bend, Largest) else HUGE * (gates - 0.5)  # clipped to what arrives
    return wanted


def slope_of(bend: Bend) -> Tensor:
    assert isinstance(bend, Kinks)
    return bend.least


def spread(bend: Bend, z: Tensor) -> Tensor:
    """The result beside each of its arguments."""
    return z if bend.group == 1 else z.repeat_interleave(bend.group, -1)


def products(f: KinkForm | Layers, y: Tensor, results: Sequence[Tensor]) -> tuple[Parts, Callable[[Parts], Parts]]:
    """See `Layers.products`."""
    if isinstance(f, Layers):
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

    return [f.argument(k, y, results) for k in range(len(f.bends))], transposed


def times(parts: Parts, sizes: Parts) -> Parts:
    return [part * size for part, size in zip(parts, sizes, strict=True)]


def over(parts: Parts, sizes: Parts) -> Parts:
    return [part / size for part, size in zip(parts, sizes, strict=True)]


def zeros(parts: Parts) -> Parts:
    return [torch.zeros_like(part) for part in parts]


def chosen(where: Tensor, first: Parts, second: Parts) -> Parts:
    return [torch.where(where, a, b) for a, b in zip(first, second, strict=True)]


def distance(first: Parts, second: Parts) -> Tensor:
    """(B, 1); of nothing, a number."""
    if not first:
        return torch.zeros((), dtype=torch.float64)
    squares = [((a - b) ** 2).sum(1, keepdim=True) for a, b in zip(first, second, strict=True)]
    return torch.stack(squares).sum(0).sqrt()
