"""The first kind of operator: pointwise functions, with their sign, curvature and monotonicity by range.

A `Profile` lists the ranges of the argument on which a function is convex, concave, rising (non-decreasing), falling
(non-increasing), non-negative and non-positive. A claim holds at an element when the argument's bounds lie inside one
of the ranges listed. Profiles that depend on settings (ELU's alpha, softplus's threshold) are functions of those
settings, in `pointwise_with_settings`. Each profile is checked against a dense float64 grid by the tests.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from convexnet.curvature.call import Call
from convexnet.curvature.composition import Influence, compose
from convexnet.curvature.facts import INF, Fact, constant
from convexnet.curvature.fields import batched, core, either, elementwise, from_core, level, uniform
from convexnet.curvature.row import Kind

Range = tuple[float, float]
Ranges = tuple[Range, ...]

EPS = torch.finfo(torch.float64).eps
LINE: Ranges = ((-INF, INF),)
LEFT: Ranges = ((-INF, 0.0),)
RIGHT: Ranges = ((0.0, INF),)
HALVES: Ranges = LEFT + RIGHT
POSITIVE: Ranges = ((5e-324, INF),)  # from the smallest number above zero: the function has a pole at zero
NEGATIVE: Ranges = ((-INF, -5e-324),)


@dataclass(frozen=True, slots=True)
class Profile:
    """Where a function of one number has which property; `turns` are all its local extrema (none listed: not known),
    `image` its range."""

    convex: Ranges = ()
    concave: Ranges = ()
    rising: Ranges = ()
    falling: Ranges = ()
    nonneg: Ranges = ()
    nonpos: Ranges = ()
    turns: tuple[float, ...] = ()
    image: Range = (-INF, INF)
    exact: bool = False  # no rounding: the bounds of the result need no widening
    note: str = ""  # why nothing better is known, for the finding


def is_inside(fact: Fact, ranges: Ranges) -> Tensor:
    """Mask of the elements whose bounds lie within one of the ranges."""
    low, high = level(fact.lo), level(fact.hi)
    if low is not None and high is not None:
        return uniform(any(low >= a and high <= b for a, b in ranges), fact.shape, torch.bool)

    if not ranges:
        return uniform(False, fact.shape, torch.bool)

    def test(lo: Tensor, hi: Tensor) -> Tensor:
        lo, hi = lo.double(), hi.double()  # in another type the smallest number above zero is zero
        parts = [(lo >= left) & (hi <= right) for left, right in ranges]
        return functools.reduce(torch.logical_or, parts)

    return elementwise(test, fact.shape, fact.lo, fact.hi)


def is_outside(fact: Fact, ranges: Ranges) -> Tensor:
    """Mask of the elements whose bounds lie within none of the ranges."""
    return elementwise(torch.logical_not, fact.shape, is_inside(fact, ranges))


def apply_profile(profile: Profile, function: Callable[[Tensor], Tensor], x: Fact, name: Hashable = None) -> Fact:
    """The fact of `function(x)` by the composition theorem. A `name` for the function lets its bounds be remembered."""
    rises = is_outside(x, profile.falling)
    falls = is_outside(x, profile.rising)

    def gate(direction: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda mask: elementwise(torch.logical_and, x.shape, mask, direction)

    result = compose(
        [Influence(x, gate(rises), gate(falls), by_row=batched(x.shape))],
        x.shape,
        not_concave=is_outside(x, profile.concave),
        not_convex=is_outside(x, profile.convex),
    )
    lowest, highest = level(x.lo), level(x.hi)
    key = profile, name, lowest, highest
    if name is None or lowest is None or highest is None:
        return result.bounded(*image(profile, function, x))
    if key not in _images:
        if len(_images) > 1000:
            _images.clear()
        one = constant((1,)).bounded(uniform(lowest, (1,), torch.float64), uniform(highest, (1,), torch.float64))
        low, high = image(profile, function, one)
        _images[key] = low.item(), high.item()
    lo, hi = _images[key]
    return result.bounded(uniform(lo, x.shape, torch.float64), uniform(hi, x.shape, torch.float64))


_images: dict[tuple[Hashable, ...], tuple[float, float]] = {}


def image(profile: Profile, function: Callable[[Tensor], Tensor], x: Fact) -> tuple[Tensor, Tensor]:
    """Bounds of `function(x)`, rounded outwards: its values at the ends, where it is monotone in between or its turns
    are listed; elsewhere its whole image."""

    def rounded(point: Tensor, sign: float) -> Tensor:
        value = function(point)
        if not profile.exact:
            room = point.abs().nan_to_num_(posinf=0.0).add_(value.abs()).mul_(4 * EPS).add_(1e-300)
            value = value.add(room.nan_to_num_(posinf=0.0), alpha=sign)
        return value.nan_to_num(nan=sign * INF, posinf=INF, neginf=-INF)

    def end(which: int, cut: Tensor, sign: float) -> Tensor:
        lo, hi = (core(bound).double() for bound in (x.lo, x.hi))
        if profile.rising == LINE:
            value = rounded((lo, hi)[which], sign)
        else:
            pick = torch.minimum if sign < 0 else torch.maximum
            value = pick(rounded(lo, sign), rounded(hi, sign))
            for turn in profile.turns:
                value = pick(value, rounded(lo.clamp(min=turn).minimum(hi), sign))
        if profile.rising != LINE and not profile.turns:
            value = torch.where(core(monotone), value, profile.image[which])
        value = value.clamp(*profile.image)
        return torch.where(core(cut), value.clamp(min=0.0) if sign < 0 else value.clamp(max=0.0), value)

    above, below = is_inside(x, profile.nonneg), is_inside(x, profile.nonpos)
    monotone = either(is_inside(x, profile.rising), is_inside(x, profile.falling))
    return from_core(end(0, above, -1.0), x.shape), from_core(end(1, below, 1.0), x.shape)


@dataclass(frozen=True)
class Pointwise(Kind):
    """A function of one number. `after(x, result)` adds what else is known of the result: degrees (see `powers`)."""

    profile: Profile | Callable[..., Profile]
    after: Callable[[Fact, Fact], Fact] | None = None

    @property
    def is_affine(self) -> bool:
        return isinstance(self.profile, Profile) and self.profile.convex == self.profile.concave == LINE

    @property
    def keeps_signs(self) -> bool:
        return isinstance(self.profile, Profile) and self.is_affine and self.profile.rising == LINE

    def __call__(self, call: Call) -> Fact:
        result = apply_profile(self.of(call), call.on, call.x, call.name_of_settings())
        return self.after(call.x, result) if self.after else result

    def of(self, call: Call) -> Profile:
        """The profile under the call's settings."""
        if isinstance(self.profile, Profile):
            return self.profile
        return self.profile(*call.args[1:], **call.kwargs)
