"""Atoms with several arguments for each result: the largest entry, the logarithm of a sum of exponentials, the norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from convexnet.form.atoms import MARGIN, Atom


def split_into_groups(x: Tensor, group: int) -> Tensor:
    """(..., out * group) -> (..., out, group)."""
    return x.unflatten(-1, (-1, group))


class Grouped(Atom):
    """One result for each group of neighbouring arguments; slopes are shares that add up to 1 in a group."""

    def __init__(self, group: int) -> None:
        self.group = group

    def push(self, slopes: Tensor, x: Tensor) -> Tensor:
        return split_into_groups(slopes * x, self.group).sum(-1)

    def pull(self, slopes: Tensor, v: Tensor) -> Tensor:
        return (split_into_groups(slopes, self.group) * v[..., None]).flatten(-2)

    def curvature_times(self, v: Tensor, change: Tensor) -> Tensor:
        return (split_into_groups(change, self.group) * v[..., None]).flatten(-2)

    def change_of_slopes(self, curved: Tensor, x: Tensor) -> Tensor:
        return curved * (x - self.mean(curved, x))

    def mean(self, curved: Tensor, x: Tensor) -> Tensor:
        """The mean of x in each group, weighed by `curved`, in the place of each of its members."""
        weight = split_into_groups(curved, self.group)
        total = weight.sum(-1, keepdim=True)
        mean = (weight * split_into_groups(x, self.group)).sum(-1, keepdim=True) / torch.where(total > 0, total, 1.0)
        return mean.expand(*mean.shape[:-1], self.group).flatten(-2)

    def centred(self, curved: Tensor, rows: Tensor) -> Tensor:
        return rows - self.mean(curved[:, None, :], rows.mT).mT

    def slopes_of(self, multipliers: Tensor, arriving: Tensor) -> Tensor:
        return self.shares(multipliers)

    def leader(self, slopes: Tensor) -> Tensor:
        """The member of each group that the others are compared with, (..., out): the one with the largest slope."""
        return split_into_groups(slopes, self.group).argmax(-1)

    def leading(self, slopes: Tensor) -> Tensor:
        """Which members lead their groups, (..., in)."""
        parts = split_into_groups(slopes, self.group)
        return torch.zeros_like(parts, dtype=torch.bool).scatter_(-1, self.leader(slopes)[..., None], True).flatten(-2)

    def settled(self, slopes: Tensor, holds: Tensor) -> Tensor:
        """Slopes with those that do not hold the minimiser, and do not lead, at the ends of their range."""
        share = split_into_groups(torch.where(holds | self.leading(slopes), slopes, 0.0), self.group)
        return (share / share.sum(-1, keepdim=True)).flatten(-2)

    def tied(self, a: Tensor, slopes: Tensor, close: float) -> Tensor:
        """Which arguments, in their units, are as large as the one that counts in their group."""
        parts = split_into_groups(a, self.group)
        return ((parts.amax(-1, keepdim=True) - parts) <= close).flatten(-2)

    def loose(self, shares: Tensor, close: float) -> Tensor:
        """Which shares are at an end of their range."""
        return shares <= close

    def beside(self, a: Tensor, slopes: Tensor, shares: Tensor, close: float) -> tuple[Tensor, Tensor]:
        """Of arguments, in their units: which may hold the minimiser, and which may be where they are held by nothing,
        for shares of what arrives."""
        holds = (shares >= -close) & self.tied(a, slopes, close)
        return holds, (shares <= close) | holds  # the leader is one of them

    def shares(self, multipliers: Tensor) -> Tensor:
        """The multipliers as shares of what arrives, at least 0 and 1 in sum; equal ones where nothing is given."""
        parts = split_into_groups(multipliers, self.group).clamp(min=0)
        total = parts.sum(-1, keepdim=True)
        parts = torch.where(total > 0, parts / torch.where(total > 0, total, 1.0), 1 / self.group)
        return parts.flatten(-2)


@final
class Largest(Grouped):
    """The largest of each group, smoothed to the z with sum_i mu / (z - a_i) = 1: the central path of the epigraph.

    Example:
        >>> Largest(3).value(torch.tensor([1.0, 5.0, 2.0])).item()
        5.0
    """

    piecewise_linear = True

    def value(self, a: Tensor) -> Tensor:
        return split_into_groups(a, self.group).amax(-1)

    def slopes(self, a: Tensor) -> Tensor:
        parts = split_into_groups(a, self.group)
        return F.one_hot(parts.argmax(-1), self.group).to(a.dtype).flatten(-2)

    def smoothed(self, a: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        parts = split_into_groups(a, self.group)
        below = parts - parts.amax(-1, keepdim=True)  # <= 0
        mu = mu[..., None]
        above = mu.expand(*below.shape[:-1], 1)  # z - max: between mu and group * mu; Newton's method from below
        for _ in range(6):
            inverse = 1 / (above - below)
            total = inverse.sum(-1, keepdim=True)
            above = above + (mu * total - 1).clamp(min=0) / (mu * (inverse * inverse).sum(-1, keepdim=True))
        # The multipliers of the epigraph, not the derivative of this z: path following takes fewer steps with them.
        share = 1 / (above - below)
        share = share / share.sum(-1, keepdim=True)
        return (above + parts.amax(-1, keepdim=True)).squeeze(-1), share.flatten(-2)

    def curved(self, a: Tensor, z: Tensor, slopes: Tensor, mu: Tensor) -> Tensor:
        slack = (z[..., None] - split_into_groups(a, self.group)).clamp(min=1e-3 * mu[..., None])
        return (split_into_groups(slopes, self.group) / slack).flatten(-2)

    def fit(self, multipliers: Tensor, a: Tensor, arriving: Tensor) -> tuple[Tensor, Tensor]:
        return self.pull(self.shares(multipliers), arriving), arriving.new_zeros(len(arriving))

    def keep_inside(self, old: Tensor, new: Tensor, least: float) -> Tensor:
        new = torch.maximum(new, MARGIN * old).clamp_(min=least)
        return (split_into_groups(new, self.group) / split_into_groups(new, self.group).sum(-1, keepdim=True)).flatten(
            -2
        )

    def active(self, a: Tensor, slopes: Tensor, unit: Tensor) -> Tensor:
        # The member with the largest share stands for the group's value; the others are compared with it.
        parts, share = split_into_groups(a, self.group), split_into_groups(slopes, self.group)
        sure = share - (parts.amax(-1, keepdim=True) - parts) / split_into_groups(unit, self.group)
        first = F.one_hot(share.argmax(-1), self.group).bool()
        return torch.where(first, -1.0, sure).flatten(-2)

    def in_units(self, unit: Tensor) -> tuple[Atom, Tensor]:
        return self, split_into_groups(unit, self.group)[..., 0]

    def typical(self, sizes: Tensor) -> Tensor:
        mean = split_into_groups(sizes, self.group).mean(-1, keepdim=True)
        return torch.where(mean > 0, mean, 1.0).expand(-1, self.group).flatten()


@final
class LogSumExp(Grouped):
    """log sum_i exp(a_i) of each group; its slopes are the softmax.

    Example:
        >>> LogSumExp(2).value(torch.zeros(2)).item()
        0.69314...
    """

    smooth = True
    cones = "exp"

    def value(self, a: Tensor) -> Tensor:
        return split_into_groups(a, self.group).logsumexp(-1)

    def slopes(self, a: Tensor) -> Tensor:
        return split_into_groups(a, self.group).softmax(-1).flatten(-2)

    def smoothed(self, a: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        return self.value(a), self.slopes(a)

    def curved(self, a: Tensor, z: Tensor, slopes: Tensor, mu: Tensor) -> Tensor:
        return self.slopes(a)

    def fit(self, multipliers: Tensor, a: Tensor, arriving: Tensor) -> tuple[Tensor, Tensor]:
        share = self.slopes(a)
        rest = self.value(a) - split_into_groups(share * a, self.group).sum(-1)
        return self.pull(share, arriving), (arriving * rest).sum(1)

    def active(self, a: Tensor, slopes: Tensor, unit: Tensor) -> Tensor:
        return torch.full_like(a, -1.0)

    def keep_inside(self, old: Tensor, new: Tensor, least: float) -> Tensor:
        return new

    def in_units(self, unit: Tensor) -> tuple[Atom, Tensor]:
        return self, torch.ones_like(split_into_groups(unit, self.group)[..., 0])

    def typical(self, sizes: Tensor) -> Tensor:
        return torch.ones_like(sizes)


@final
class Norm(Atom):
    """The Euclidean norm of each group, smoothed to r = sqrt(|a|² + mu²); its slopes g lie in the unit ball.

    The linearised equations of r g = a have a matrix that is not symmetric; with h = (g + a / r) / 2, which on the
    central path is both, (1 − h h') / r takes its place. `curved` holds 1 / r and then h, side by side.

    Source: Andersen, Christiansen, Conn & Overton (2000), An efficient primal-dual interior-point method for minimizing
    a sum of Euclidean norms, for slopes as iterates of their own.

    Example:
        >>> Norm(2).value(torch.tensor([3.0, 4.0])).item()
        5.0
    """

    cones = "soc"

    def __init__(self, group: int, signs: Tensor | None = None) -> None:
        self.group = group
        self.signs = signs

    @property
    def rises(self) -> bool:
        return False

    def nonneg(self, arguments: Tensor) -> Tensor:
        return torch.ones_like(arguments.reshape(-1, self.group)[:, 0])

    def spread(self, x: Tensor) -> Tensor:
        """One value for each group as one for each of its arguments."""
        return x[..., None].expand(*x.shape, self.group).flatten(-2)

    def sums(self, x: Tensor) -> Tensor:
        """The sum over each group, for each of its arguments."""
        return self.spread(split_into_groups(x, self.group).sum(-1))

    def value(self, a: Tensor) -> Tensor:
        return torch.linalg.vector_norm(split_into_groups(a, self.group), dim=-1)

    def slopes(self, a: Tensor) -> Tensor:
        size = self.spread(self.value(a))
        return a / torch.where(size > 0, size, 1.0)

    def smoothed(self, a: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        r = torch.addcmul(mu * mu, self.value(a), self.value(a)).sqrt()
        return r, a / self.spread(r)

    def curved(self, a: Tensor, z: Tensor, slopes: Tensor, mu: Tensor) -> Tensor:
        inverse = 1 / self.spread(z.clamp(min=1e-300 if z.dtype == torch.float64 else 1e-30))
        return torch.cat([inverse, (slopes + inverse * a) / 2], -1)

    def push(self, slopes: Tensor, x: Tensor) -> Tensor:
        return split_into_groups(slopes * x, self.group).sum(-1)

    def pull(self, slopes: Tensor, v: Tensor) -> Tensor:
        return (split_into_groups(slopes, self.group) * v[..., None]).flatten(-2)

    def change_of_slopes(self, curved: Tensor, x: Tensor) -> Tensor:
        return curved.chunk(2, -1)[0] * (x - self.mean(curved, x))

    def curvature_times(self, v: Tensor, change: Tensor) -> Tensor:
        spread = self.spread(v)
        return spread * change[..., : spread.shape[-1]]

    def mean(self, curved: Tensor, x: Tensor) -> Tensor:
        """h h' x: what does not count of x."""
        along = curved.chunk(2, -1)[1]
        return along * self.sums(along * x)

    def centred(self, curved: Tensor, rows: Tensor) -> Tensor:
        along = curved.chunk(2, -1)[1][:, None, :]
        part = self.sums(along * along)
        share = (1 - (1 - part).clamp(min=0).sqrt()) / torch.where(part > 0, part, 1.0)  # 1 - h h' is a square
        return rows - (share * along * self.sums(along * rows.mT)).mT

    def fit(self, multipliers: Tensor, a: Tensor, arriving: Tensor) -> tuple[Tensor, Tensor]:
        if self.signs is not None:
            multipliers = torch.where(multipliers * self.signs < 0, 0.0, multipliers)
        return self.inside(multipliers, arriving), arriving.new_zeros(len(arriving))

    def inside(self, x: Tensor, radius: Tensor) -> Tensor:
        """x, or where a group is longer than its radius, the nearest one that is not, with some room for rounding."""
        size = self.value(x)
        room = radius * (1 - (self.group + 8) * torch.finfo(x.dtype).eps)
        return x * self.spread(torch.where(size > room, room / torch.where(size > 0, size, 1.0), 1.0))

    def keep_inside(self, old: Tensor, new: Tensor, least: float) -> Tensor:
        return self.inside(new, (1 - MARGIN * (1 - self.value(old))).clamp(max=1 - least))

    def slopes_of(self, multipliers: Tensor, arriving: Tensor) -> Tensor:
        share = multipliers / self.spread(torch.where(arriving > 0, arriving, 1.0))
        return self.inside(share, torch.ones_like(arriving))

    def active(self, a: Tensor, slopes: Tensor, unit: Tensor) -> Tensor:
        return self.spread(1 - self.value(slopes) - self.value(a) / split_into_groups(unit, self.group)[..., 0])

    def map_settings(self, change: Callable[[Tensor], Tensor]) -> Norm:
        return self if self.signs is None else Norm(self.group, change(self.signs))

    def with_signs(self, signs: Tensor) -> Norm:
        return Norm(self.group, signs)

    def in_units(self, unit: Tensor) -> tuple[Atom, Tensor]:
        return self, split_into_groups(unit, self.group)[..., 0]

    def typical(self, sizes: Tensor) -> Tensor:
        mean = split_into_groups(sizes, self.group).mean(-1, keepdim=True)
        return torch.where(mean > 0, mean, 1.0).expand(-1, self.group).flatten()
