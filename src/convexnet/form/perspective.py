"""Perspectives t f(x / t) of convex functions: x² / t, x log(x / t), t exp(x / t), and means of two numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from convexnet.form.atoms import Atom
from convexnet.form.grouped import split_into_groups
from convexnet.form.smooth import INSIDE, Curve


@final
class Perspective(Atom):
    """t f(x / t) of pairs (x, t), for t > 0.

    With r = x / t its slopes are f'(r) and f(r) − r f'(r), and its second derivative is f''(r) / t h h', h = (1, −r).
    `curved` holds f''(r) / t and then h, side by side, for both of a pair. It is positively homogeneous, so that every
    tangent goes through the origin. (Boyd & Vandenberghe, Convex Optimization, 3.2.6.)

    Example:
        >>> from convexnet.form.smooth import square
        >>> Perspective(square()).value(torch.tensor([3.0, 2.0])).item()
        4.5
    """

    group = 2
    smooth = True
    partial = True
    lifts = False

    def __init__(self, curve: Curve, signs: Tensor | None = None) -> None:
        self.curve, self.signs = curve, signs
        self.cones, self.falls = curve.cones, curve.negative

    @property
    def rises(self) -> bool:
        return False

    def nonneg(self, arguments: Tensor) -> Tensor:
        found = torch.zeros_like(arguments.reshape(-1, 2)[:, 0])
        return found if self.curve.nonneg == math.inf else ~found

    def parts(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """x / t and t, where tangents may touch."""
        x, t = split_into_groups(a, 2).unbind(-1)
        t = t.clamp(min=INSIDE)
        return (x / t).clamp(min=self.curve.touch), t

    def outside(self, a: Tensor, room: Tensor) -> Tensor:
        low = torch.tensor([self.curve.low, 0.0], dtype=a.dtype, device=a.device)
        return (split_into_groups(a, 2) < low - split_into_groups(room, 2)).flatten(-2)

    def value(self, a: Tensor) -> Tensor:
        x, t = split_into_groups(a, 2).unbind(-1)
        t = t.clamp(min=INSIDE) if self.curve.negative else t  # a mean with zero is a number
        return t * self.curve.value(x / t)

    def slopes(self, a: Tensor) -> Tensor:
        r, _ = self.parts(a)
        first = self.curve.first(r)
        return torch.stack([first, self.curve.value(r) - r * first], -1).flatten(-2)

    def smoothed(self, a: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        return self.value(a), self.slopes(a)

    def curved(self, a: Tensor, z: Tensor, slopes: Tensor, mu: Tensor) -> Tensor:
        r, t = self.parts(a)
        steep = (self.curve.second(r) / t).repeat_interleave(2, -1)
        return torch.cat([steep, torch.stack([torch.ones_like(r), -r], -1).flatten(-2)], -1)

    def fit(self, multipliers: Tensor, a: Tensor, arriving: Tensor) -> tuple[Tensor, Tensor]:
        r, _ = self.parts(a)
        first, value = self.curve.first(r), self.curve.value(r)
        # t is positive, so that lowering its slope by what it may be rounded by leaves the plane below. Exponents of
        # means are rounded, too, as 1 / 3 is, which counts as often as log(r) says; there x is not negative either.
        room = 2.0**-50 * (1 + r.log().abs()) if self.curve.negative else 2.0**-50
        second = value - r * first - room * (value.abs() + (r * first).abs())
        first = first * (1 + room) if self.curve.negative else first
        slopes = torch.stack([first, second], -1).flatten(-2)
        rest = arriving.new_zeros(len(arriving))
        if self.signs is not None:  # what arrives at other atoms must not be negative
            wrong = ((slopes * self.signs < 0) & (self.pull(torch.ones_like(slopes), arriving) > 0)).any(1)
            rest = torch.where(wrong, -torch.inf, rest)
        return self.pull(slopes, arriving), rest

    def push(self, slopes: Tensor, x: Tensor) -> Tensor:
        return split_into_groups(slopes * x, 2).sum(-1)

    def pull(self, slopes: Tensor, v: Tensor) -> Tensor:
        return (split_into_groups(slopes, 2) * v[..., None]).flatten(-2)

    def along(self, curved: Tensor, x: Tensor) -> Tensor:
        """h' x, for each of a pair."""
        return split_into_groups(curved.chunk(2, -1)[1] * x, 2).sum(-1).repeat_interleave(2, -1)

    def change_of_slopes(self, curved: Tensor, x: Tensor) -> Tensor:
        steep, h = curved.chunk(2, -1)
        return steep * h * self.along(curved, x)

    def curvature_times(self, v: Tensor, change: Tensor) -> Tensor:
        spread = v.repeat_interleave(2, -1)
        return spread * change[..., : spread.shape[-1]]

    def mean(self, curved: Tensor, x: Tensor) -> Tensor:
        """What does not count of x."""
        return x - curved.chunk(2, -1)[1] * self.along(curved, x)

    def centred(self, curved: Tensor, rows: Tensor) -> Tensor:
        first = torch.tensor([1.0, 0.0], dtype=rows.dtype, device=rows.device).repeat(rows.shape[1] // 2)
        return self.along(curved[:, None, :], rows.mT).mT * first[:, None]

    def keep_inside(self, old: Tensor, new: Tensor, least: float) -> Tensor:
        return new

    def slopes_of(self, multipliers: Tensor, arriving: Tensor) -> Tensor:
        return multipliers / torch.where(arriving > 0, arriving, 1.0).repeat_interleave(2, -1)

    def active(self, a: Tensor, slopes: Tensor, unit: Tensor) -> Tensor:
        return torch.full_like(a, -1.0)

    def map_settings(self, change: Callable[[Tensor], Tensor]) -> Perspective:
        return self if self.signs is None else Perspective(self.curve, change(self.signs))

    def with_signs(self, signs: Tensor) -> Perspective:
        return Perspective(self.curve, signs)

    def in_units(self, unit: Tensor) -> tuple[Atom, Tensor]:
        return self, split_into_groups(unit, 2)[..., 0]

    def typical(self, sizes: Tensor) -> Tensor:
        mean = split_into_groups(sizes, 2).mean(-1, keepdim=True)
        return torch.where(mean > 0, mean, 1.0).expand(-1, 2).flatten()
