"""The sum of the k largest of a group of arguments, which sorted elements are written with."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from convexnet.form.atoms import MARGIN, Atom
from convexnet.form.grouped import Grouped, split_into_groups

STEPS = 50
"""Halvings with which a threshold is found."""


@final
class SumLargest(Grouped):
    """The sum of the `count` largest of each group: the least k t + Σ max(a_i − t, 0) over all thresholds t.

    It is smoothed as its ReLUs are (see `Kinks`), with the t at which their slopes add up to k. The slopes are shares
    between 0 and 1 with that sum.

    Source: Ogryczak & Tamir (2003), Minimizing the sum of the k largest functions in linear time, for the threshold.

    Example:
        >>> SumLargest(3, 2).value(torch.tensor([1.0, 5.0, 2.0])).item()
        7.0
    """

    polyhedral = True

    def __init__(self, group: int, count: int) -> None:
        super().__init__(group)
        self.count = count

    def nonneg(self, arguments: Tensor) -> Tensor:
        return arguments.reshape(-1, self.group).sum(1) >= self.count

    def value(self, a: Tensor) -> Tensor:
        return split_into_groups(a, self.group).topk(self.count, -1).values.sum(-1)

    def slopes(self, a: Tensor) -> Tensor:
        parts = split_into_groups(a, self.group)
        return torch.zeros_like(parts).scatter_(-1, parts.topk(self.count, -1).indices, 1.0).flatten(-2)

    def above(self, a: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """How far the arguments lie above the threshold at which their slopes add up to k, and the threshold."""
        parts, mu = split_into_groups(a, self.group), mu[..., None]
        ends = parts.topk(self.count + 1, -1).values[..., -2:]
        reach = (self.group**0.5 + 1) * mu
        high, low = ends[..., :1] + reach, ends[..., 1:] - reach
        for _ in range(STEPS):
            middle = (low + high) / 2
            over = parts - middle
            much = (over / torch.addcmul(4 * mu * mu, over, over).sqrt() + 1).sum(-1, keepdim=True) > 2 * self.count
            low, high = torch.where(much, middle, low), torch.where(much, high, middle)
        return parts - low, low

    def smoothed(self, a: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        over, threshold = self.above(a, mu)
        r = torch.addcmul(4 * mu[..., None] ** 2, over, over).sqrt()
        relu = (over + r) / 2
        return self.count * threshold[..., 0] + relu.sum(-1), self.shares((relu / r).flatten(-2))

    def curved(self, a: Tensor, z: Tensor, slopes: Tensor, mu: Tensor) -> Tensor:
        over, _ = self.above(a, mu)
        square = torch.addcmul(4 * mu[..., None] ** 2, over, over)
        relu = (over + square.sqrt()) / 2
        return (
            (torch.addcmul(relu, over, split_into_groups(slopes, self.group), value=-1) / square)
            .clamp(min=0)
            .flatten(-2)
        )

    def shares(self, multipliers: Tensor) -> Tensor:
        """Shares of what arrives, in [0, 1] and k in sum: scaled down where they are more, else lifted."""
        parts = split_into_groups(multipliers, self.group).clamp(0, 1)
        total = parts.sum(-1, keepdim=True)
        less = parts * (self.count / torch.where(total > self.count, total, self.count))
        room = self.group - total
        more = parts + (1 - parts) * ((self.count - total).clamp(min=0) / torch.where(room > 0, room, 1.0))
        return torch.where(total > self.count, less, more).flatten(-2)

    def slopes_of(self, multipliers: Tensor, arriving: Tensor) -> Tensor:
        share = split_into_groups(multipliers, self.group) / torch.where(arriving > 0, arriving, 1.0)[..., None]
        return self.shares(share.flatten(-2))

    def fit(self, multipliers: Tensor, a: Tensor, arriving: Tensor) -> tuple[Tensor, Tensor]:
        return self.pull(self.slopes_of(multipliers, arriving), arriving), arriving.new_zeros(len(arriving))

    def keep_inside(self, old: Tensor, new: Tensor, least: float) -> Tensor:
        new = torch.minimum(torch.maximum(new, MARGIN * old), 1 - MARGIN * (1 - old))
        return self.shares(new.clamp(least, 1 - least))

    def leader(self, slopes: Tensor) -> Tensor:
        """The one nearest to the threshold."""
        parts = split_into_groups(slopes, self.group)
        return torch.minimum(parts, 1 - parts).argmax(-1)

    def over(self, a: Tensor, slopes: Tensor) -> Tensor:
        """How far each argument lies above the leader of its group."""
        parts = split_into_groups(a, self.group)
        return (parts - parts.gather(-1, self.leader(slopes)[..., None])).flatten(-2)

    def active(self, a: Tensor, slopes: Tensor, unit: Tensor) -> Tensor:
        sure = torch.minimum(slopes, 1 - slopes) - self.over(a, slopes).abs() / unit
        return torch.where(self.leading(slopes), -1.0, sure)

    def tied(self, a: Tensor, slopes: Tensor, close: float) -> Tensor:
        return self.over(a, slopes).abs() <= close

    def loose(self, shares: Tensor, close: float) -> Tensor:
        return (shares <= close) | (shares >= 1 - close)

    def settled(self, slopes: Tensor, holds: Tensor) -> Tensor:
        keep = split_into_groups(holds | self.leading(slopes), self.group)
        parts = split_into_groups(slopes, self.group)
        ends = torch.where(keep, 0.0, (parts > 0.5).to(parts))
        some = torch.where(keep, parts, 0.0)
        total, rest = some.sum(-1, keepdim=True), self.count - ends.sum(-1, keepdim=True)
        return (ends + some * rest / torch.where(total > 0, total, 1.0)).flatten(-2)

    def beside(self, a: Tensor, slopes: Tensor, shares: Tensor, close: float) -> tuple[Tensor, Tensor]:
        over, inside = self.over(a, slopes), (shares >= -close) & (shares <= 1 + close)
        side = torch.where(slopes > 0.5, over >= -close, over <= close)
        return inside & (over.abs() <= close), inside & side

    def in_units(self, unit: Tensor) -> tuple[Atom, Tensor]:
        return self, split_into_groups(unit, self.group)[..., 0]

    def typical(self, sizes: Tensor) -> Tensor:
        mean = split_into_groups(sizes, self.group).mean(-1, keepdim=True)
        return torch.where(mean > 0, mean, 1.0).expand(-1, self.group).flatten()
