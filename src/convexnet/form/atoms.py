"""The atoms, the convex functions between the affine maps of a network: values, smoothing, bounds from below, signs.

An atom takes the arguments a (..., in) of one layer to its results z (..., out). Its *slopes* are what a solver
iterates on; `pull` turns what arrives at the results into multipliers of the arguments, and `push` a change of the
arguments into one of the results. Whatever multipliers a solver comes up with, `fit` makes of them an affine function
below it.

The atoms here have one argument for each result; `grouped` has those with a group of them, side by side.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, final

import torch
from torch import Tensor

from convexnet.form.smooth import Curve

MARGIN: Final = 0.1
"""How near to the end of its range one step may bring a slope: a share of the distance to it."""


class Atom(ABC):
    """A convex function, the same for every unit of a layer but for its settings."""

    group: int = 1
    """Arguments of one result."""
    smooth: bool = False
    """Whether it is differentiable as it is, so that its slopes are not iterates of their own."""
    piecewise_linear: bool = False
    """Whether z >= some linear functions of its arguments are what says that it lies above."""
    polyhedral: bool = False
    """Whether linear inequalities say so that have variables of their own."""
    cones: str = ""
    """What a conic solver must know besides linear inequalities: "exp", "soc", both or neither; "none": there is no
    form."""

    partial: bool = False
    """Whether it is convex, or defined, for some arguments only."""
    falls: bool = False
    """Whether it is non-increasing in every argument."""
    lifts: bool = True
    """Whether it is non-decreasing in every argument where none is negative."""

    @property
    def rises(self) -> bool | Tensor:
        """Whether it is non-decreasing in every argument: for all units, or for each."""
        return True

    def nonneg(self, arguments: Tensor) -> Tensor:
        """Which results (out,) are never negative, given which arguments (in,) are not."""
        return arguments.reshape(-1, self.group).any(1)

    def outside(self, a: Tensor, room: Tensor) -> Tensor | None:
        """Arguments (..., in) that lie further than some room from where it is convex; None: there are none."""
        return None

    @abstractmethod
    def value(self, a: Tensor) -> Tensor:
        """z = φ(a)."""

    @abstractmethod
    def slopes(self, a: Tensor) -> Tensor:
        """Slopes that belong to a subgradient at a."""

    @abstractmethod
    def smoothed(self, a: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """z and slopes of a smooth function above φ by at most a multiple of mu (..., 1)."""

    @abstractmethod
    def curved(self, a: Tensor, z: Tensor, slopes: Tensor, mu: Tensor) -> Tensor:
        """How much a slope changes with its argument, >= 0, given slopes that are iterates."""

    @abstractmethod
    def fit(self, multipliers: Tensor, a: Tensor, arriving: Tensor) -> tuple[Tensor, Tensor]:
        """Multipliers near those given, and an intercept (B,), with arriving·φ(x) >= multipliers·x + intercept for all
        x, where `arriving` >= 0; `a` is where the arguments are expected."""

    @abstractmethod
    def keep_inside(self, old: Tensor, new: Tensor, least: float) -> Tensor:
        """New slopes, no nearer to the ends of their range than a share of the old distance."""

    @abstractmethod
    def slopes_of(self, multipliers: Tensor, arriving: Tensor) -> Tensor:
        """The slopes with pull(slopes, arriving) = multipliers; anything in their range where nothing arrives."""

    @abstractmethod
    def active(self, a: Tensor, slopes: Tensor, unit: Tensor) -> Tensor:
        """How surely arguments (B, in) lie at the atom's kink: positive where the slope is further from the ends of its
        range than the argument, in its unit, from the kink."""

    def push(self, slopes: Tensor, x: Tensor) -> Tensor:
        """The change (..., out) of the results for one (..., in) of the arguments."""
        return slopes * x

    def pull(self, slopes: Tensor, v: Tensor) -> Tensor:
        """The multipliers (..., in) of the arguments for those (..., out) of the results."""
        return v * slopes

    def change_of_slopes(self, curved: Tensor, x: Tensor) -> Tensor:
        """The change of the slopes for one of the arguments, both (..., in)."""
        return curved * x

    def curvature_times(self, v: Tensor, change: Tensor) -> Tensor:
        """What a change of the slopes (or `curved`) adds to the multipliers, where v arrives."""
        return v * change

    def mean(self, curved: Tensor, x: Tensor) -> Tensor:
        """The mean of x in each group, weighed by `curved`, in the place of each of its members."""
        return x

    def centred(self, curved: Tensor, rows: Tensor) -> Tensor:
        """Rows R (B, in, n) with R' diag(weighed(v, curved)) R the second derivative along the rows of J given."""
        return rows

    def map_settings(self, change: Callable[[Tensor], Tensor]) -> Atom:
        """The same atom with its settings changed, as to another precision."""
        return self

    def with_signs(self, signs: Tensor) -> Atom:
        """The same atom where its arguments see results of others: 1 for those (in,) that are convex, whose multipliers
        must not be negative, -1 for those that are concave, whose multipliers must not be positive, and 0."""
        return self

    def in_units(self, unit: Tensor) -> tuple[Atom, Tensor]:
        """(atom, factor) with φ(unit a) = factor atom(a), for units (in,) that are the same within a group."""
        raise NotImplementedError

    def typical(self, sizes: Tensor) -> Tensor:
        """The units of arguments whose typical sizes are (in,)."""
        return torch.where(sizes > 0, sizes, 1.0)


@final
class Kinks(Atom):
    """max(s a, a) with s <= 1, smoothed to s a + (1 - s) (a + r)/2, r = sqrt(a² + 4 mu²).

    The slope is that of the ReLU part, in (0, 1). (Chen & Harker 1993, Kanzow 1996, Smale 1987.)

    Example:
        >>> Kinks(torch.tensor([0.0, -1.0])).value(torch.tensor([-2.0, -2.0])).tolist()
        [-0.0, 2.0]
    """

    piecewise_linear = True

    def __init__(self, slope: Tensor, least: Tensor | None = None, most: Tensor | None = None) -> None:
        self.negative_slope = slope
        self.plain = not bool(slope.any())
        self.free = 1 - slope
        self.least = slope if least is None else least
        self.most = most  # of a multiplier, as `least`, a share of what arrives; None: 1

    @property
    def rises(self) -> Tensor:
        return self.negative_slope >= 0

    def nonneg(self, arguments: Tensor) -> Tensor:
        return arguments | (self.negative_slope <= 0)

    def value(self, a: Tensor) -> Tensor:
        return torch.maximum(self.negative_slope * a, a)

    def slopes(self, a: Tensor) -> Tensor:
        return (a > 0).to(a.dtype)

    def smoothed(self, a: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        r = torch.addcmul(4 * mu * mu, a, a).sqrt_()
        z = (a + r).mul_(0.5)
        slopes = z / r
        return (z if self.plain else torch.addcmul(self.negative_slope * a, self.free, z)), slopes

    def curved(self, a: Tensor, z: Tensor, slopes: Tensor, mu: Tensor) -> Tensor:
        # With the slope as an iterate of its own: this choice, not the derivative of the smoothed slope, is what makes
        # the path-following method converge in few steps.
        relu = z if self.plain else (z - self.negative_slope * a) / torch.where(self.free > 0, self.free, 1.0)
        square = torch.addcmul(4 * mu * mu, a, a)
        return torch.addcmul(relu, a, slopes, value=-1).div_(square).clamp_(min=0)

    def push(self, slopes: Tensor, x: Tensor) -> Tensor:
        return slopes * x if self.plain else (self.negative_slope + self.free * slopes) * x

    def pull(self, slopes: Tensor, v: Tensor) -> Tensor:
        return slopes * v if self.plain else (self.negative_slope + self.free * slopes) * v

    def curvature_times(self, v: Tensor, change: Tensor) -> Tensor:
        return v * change if self.plain else self.free * v * change

    def fit(self, multipliers: Tensor, a: Tensor, arriving: Tensor) -> tuple[Tensor, Tensor]:
        least = torch.zeros_like(arriving) if self.plain else self.least * arriving
        most = arriving if self.most is None else self.most * arriving
        return torch.minimum(torch.maximum(multipliers, least), most), arriving.new_zeros(len(arriving))

    def keep_inside(self, old: Tensor, new: Tensor, least: float) -> Tensor:
        new = torch.minimum(torch.maximum(new, MARGIN * old), 1 - MARGIN * (1 - old))
        return new.clamp_(least, 1 - least)

    def slopes_of(self, multipliers: Tensor, arriving: Tensor) -> Tensor:
        share = multipliers / torch.where(arriving > 0, arriving, 1.0)
        return ((share - self.negative_slope) / torch.where(self.free > 0, self.free, 1.0)).clamp(0, 1)

    def active(self, a: Tensor, slopes: Tensor, unit: Tensor) -> Tensor:
        return torch.minimum(slopes, 1 - slopes) * (self.free > 0) - a.abs() / unit

    def map_settings(self, change: Callable[[Tensor], Tensor]) -> Kinks:
        return Kinks(change(self.negative_slope), change(self.least), None if self.most is None else change(self.most))

    def with_signs(self, signs: Tensor) -> Kinks:
        least = torch.where(signs > 0, self.negative_slope.clamp(min=0), self.negative_slope)
        falls = (signs < 0) & (self.negative_slope < 0)  # max(a, b) as b + max(a - b, 0) may have any sign here
        return Kinks(self.negative_slope, least, torch.where(falls, 0.0, 1.0).to(least) if bool(falls.any()) else None)

    def in_units(self, unit: Tensor) -> tuple[Atom, Tensor]:
        return self, unit  # a kink is positively homogeneous


@final
class Smooth(Atom):
    """φ(unit * a) for a differentiable convex φ of one variable; its slopes are the derivatives.

    Example:
        >>> from convexnet.form.smooth import square
        >>> Smooth(square()).value(torch.tensor([3.0])).item()
        9.0
    """

    smooth = True

    def __init__(self, curve: Curve, unit: Tensor | None = None, signs: Tensor | None = None) -> None:
        self.curve, self.unit, self.signs = curve, unit, signs
        self.cones, self.falls, self.partial = curve.cones, curve.turn == math.inf, curve.low > -math.inf
        self.lifts = curve.turn <= 0

    @property
    def rises(self) -> bool:
        return self.curve.turn == -math.inf

    def nonneg(self, arguments: Tensor) -> Tensor:
        return arguments & (self.curve.nonneg <= 0) | (self.curve.nonneg == -math.inf)

    def outside(self, a: Tensor, room: Tensor) -> Tensor | None:
        return a < self.curve.low - room if self.partial else None

    def inside(self, a: Tensor) -> Tensor:
        """Arguments where tangents may touch."""
        if self.curve.touch == -math.inf:
            return a
        return a.clamp(min=self.curve.touch) if self.unit is None else torch.maximum(a, self.curve.touch / self.unit)

    def value(self, a: Tensor) -> Tensor:
        return self.curve.value(a if self.unit is None else self.unit * a)

    def slopes(self, a: Tensor) -> Tensor:
        a = self.inside(a)
        return self.curve.first(a) if self.unit is None else self.unit * self.curve.first(self.unit * a)

    def smoothed(self, a: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        return self.value(a), self.slopes(a)

    def curved(self, a: Tensor, z: Tensor, slopes: Tensor, mu: Tensor) -> Tensor:
        a = self.inside(a)
        return self.curve.second(a) if self.unit is None else self.unit**2 * self.curve.second(self.unit * a)

    def fit(self, multipliers: Tensor, a: Tensor, arriving: Tensor) -> tuple[Tensor, Tensor]:
        if self.signs is not None and math.isfinite(self.curve.turn):
            turned = torch.where(self.signs > 0, a.clamp(min=self.curve.turn), a.clamp(max=self.curve.turn))
            a = torch.where(self.signs == 0, a, turned)
        a = self.inside(a)
        # The tangent where the arguments are expected: exact there, and needs no conjugate.
        slope = self.slopes(a)
        return arriving * slope, (arriving * (self.value(a) - slope * a)).sum(1)

    def keep_inside(self, old: Tensor, new: Tensor, least: float) -> Tensor:
        return new

    def slopes_of(self, multipliers: Tensor, arriving: Tensor) -> Tensor:
        return multipliers / torch.where(arriving > 0, arriving, 1.0)

    def active(self, a: Tensor, slopes: Tensor, unit: Tensor) -> Tensor:
        return torch.full_like(a, -1.0)

    def map_settings(self, change: Callable[[Tensor], Tensor]) -> Smooth:
        unit, signs = (None if each is None else change(each) for each in (self.unit, self.signs))
        return Smooth(self.curve, unit, signs)

    def with_signs(self, signs: Tensor) -> Smooth:
        return Smooth(self.curve, self.unit, signs)

    def in_units(self, unit: Tensor) -> tuple[Atom, Tensor]:
        return Smooth(self.curve, unit if self.unit is None else unit * self.unit, self.signs), torch.ones_like(unit)

    def typical(self, sizes: Tensor) -> Tensor:
        return torch.ones_like(sizes)  # a curve has a scale of its own
