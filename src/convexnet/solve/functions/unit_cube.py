"""A box as the cube [-1, 1]^n and arguments in units of their own, so that every number is of the size of 1.

What all samples share, the scaled maps in both precisions, is kept with the form and used again by the next part of the
batch and by the next call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexnet.form.atoms import Atom
from convexnet.form.epigraph import EpigraphForm
from convexnet.form.linear_maps import Map


@dataclass(frozen=True)
class Shared:
    """What does not depend on the sample."""

    atoms: tuple[Atom, ...]
    from_y: tuple[Map | None, ...]
    between: Mapping[tuple[int, int], Map]

    def converted(self, dtype: torch.dtype) -> Shared:
        return Shared(
            tuple(atom.map_settings(lambda t: t.to(dtype)) for atom in self.atoms),
            tuple(None if m is None else m.mapped(lambda t: t.to(dtype)) for m in self.from_y),
            {key: m.mapped(lambda t: t.to(dtype)) for key, m in self.between.items()},
        )


@dataclass(frozen=True)
class Scales:
    """The scales of a form on boxes of one radius.

    Attributes:
        radius: of the box, (n,) or (B, n).
        inverse: 1 / unit of the arguments of each atom.
        factors: the unit of its results.
        double, single: the maps in float64 and float32.
    """

    radius: Tensor
    inverse: tuple[Tensor, ...]
    factors: tuple[Tensor, ...]
    double: Shared
    single: Shared

    def applied(self, form: EpigraphForm, middle: Tensor) -> EpigraphForm:
        """The functions of t in float64, where y = middle + radius t."""
        constants = list(form.constants)
        for k, first in enumerate(form.from_y):
            if first is not None:
                constants[k] = constants[k] + first(middle)
        return replace(
            form,
            constants=tuple(c * i for c, i in zip(constants, self.inverse, strict=True)),
            atoms=self.double.atoms,
            from_y=self.double.from_y,
            between=self.double.between,
            constant=form.constant + (form.linear * middle).sum(1),
            linear=form.linear * self.radius,
            weights={k: w * self.factors[k] for k, w in form.weights.items()},
        )

    def rough(self, exact: EpigraphForm) -> EpigraphForm:
        """The same functions in float32."""
        single = torch.float32
        return replace(
            exact,
            constants=tuple(c.to(single) for c in exact.constants),
            atoms=self.single.atoms,
            from_y=self.single.from_y,
            between=self.single.between,
            constant=exact.constant.to(single),
            linear=exact.linear.to(single),
            weights={k: w.to(single) for k, w in exact.weights.items()},
        )


def scales_of(form: EpigraphForm, middle: Tensor, radius: Tensor, below: Tensor, above: Tensor) -> Scales:
    """The scales of a form on a box, new or kept.

    Args:
        form: the functions of y.
        middle, radius: of the box, (B, n).
        below, above: its bounds in the cube.
    """
    shared = all(m is None or m.shared for m in [*form.from_y, *form.between.values()])
    same = len(radius) == 1 or bool((radius == radius[:1]).all())
    old = form.kept.get("scales") if form.kept is not None else None
    if shared and same and isinstance(old, Scales) and torch.equal(old.radius, radius[0]):
        return old
    width = radius[0] if same else radius
    moved = form.change_variable(middle, width)
    units = units_of(moved, below, above)
    scaled = moved.in_units(units)
    double = Shared(scaled.atoms, scaled.from_y, scaled.between)
    factors = tuple(atom.in_units(unit)[1] for atom, unit in zip(form.atoms, units, strict=True))
    scales = Scales(width, tuple(1 / unit for unit in units), factors, double, double.converted(torch.float32))
    if shared and same and form.kept is not None:
        form.kept["scales"] = scales
    return scales


def units_of(form: EpigraphForm, below: Tensor, above: Tensor, samples: int = 4, points: int = 8) -> list[Tensor]:
    """What typically arrives at each argument of each atom: the mean of |a| over random points and a few samples."""
    few = form.rows(torch.arange(min(samples, form.batch), device=form.linear.device))
    low, high = below[: few.batch].clamp(min=-1), above[: few.batch].clamp(max=1)
    generator = torch.Generator().manual_seed(0)
    total = [torch.zeros_like(c[0]) for c in form.constants]
    for _ in range(points):
        share = torch.rand(few.batch, form.size, generator=generator, dtype=torch.float64).to(form.linear.device)
        for sum_, a in zip(total, few.arguments(torch.lerp(low, high, share)), strict=True):
            sum_.add_(a.abs().mean(0) / points)
    return [atom.typical(size) for atom, size in zip(form.atoms, total, strict=True)]
