"""The units of a forward at many points at once: their signs, the way to their zero sets, and chords across those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convexnet.curvature.adversary.chords import Chords, column
from convexnet.curvature.adversary.unit_recorder import Recorder, Site, Slopes

NEWTON = 4
LENGTHS = (3.0, 0.5, 0.1, 0.02, 4e-3, 5e-4)
"""Of chords across a zero set, in units of the scale of the points."""


@dataclass(frozen=True)
class Opened:
    """A forward on n points with its units: outputs (n, m) and sites."""

    points: list[Tensor]
    outputs: Tensor
    sites: list[Site]


@dataclass(frozen=True)
class Pairs:
    """For each of k points, the unit it is moved to: number of the site, column, and the output that is watched; all
    (k,)."""

    site: Tensor
    column: Tensor
    output: Tensor

    def __getitem__(self, rows: Tensor) -> Pairs:
        return Pairs(self.site[rows], self.column[rows], self.output[rows])

    def __len__(self) -> int:
        return len(self.site)

    def groups(self) -> list[tuple[int, Tensor, Tensor]]:
        """Each site with its rows and their columns."""
        found: list[tuple[int, Tensor, Tensor]] = []
        for number in self.site.unique().tolist():
            rows = (self.site == number).nonzero()[:, 0]
            found.append((number, rows, self.column[rows]))
        return found

    def fit(self, sites: Sequence[Site]) -> bool:
        """Whether a forward has these units: one that branches on values may open others at other points."""
        return all(
            number < len(sites) and int(columns.max()) < sites[number].distance.shape[1]
            for number, _, columns in self.groups()
        )


class Units:
    """Opens the forward of some chords, at the cost of their budget: a backward pass counts as a forward pass."""

    def __init__(self, chords: Chords) -> None:
        self.chords = chords

    def open(self, points: Sequence[Tensor], slopes: Slopes | None = None) -> Opened:
        """Evaluate the model, recording its units, perhaps with other slopes than its own."""
        chords = self.chords
        points = [p.detach().requires_grad_(i in chords.variables) for i, p in enumerate(points)]
        recorder = Recorder(points[0].shape[0], slopes)
        chords.left -= points[0].shape[0]
        with recorder:
            outputs = chords.values(points)
        return Opened(points, outputs, recorder.sites)

    def wrong(self, opened: Opened, outputs: Tensor) -> list[Tensor | None]:
        """For each site which units, (n, m), would break the convexity of a row's chosen output if the point were on
        their zero set: the derivative of the output with respect to their result has the wrong sign."""
        edges = [site.result for site in opened.sites if site.result is not None]
        gradients = iter(())
        if edges and opened.outputs.requires_grad:
            self.chords.left -= len(outputs)
            chosen = opened.outputs.gather(1, outputs[:, None]).sum()
            gradients = iter(torch.autograd.grad(chosen, edges, retain_graph=True, allow_unused=True))
        masks: list[Tensor | None] = []
        for site in opened.sites:
            usable = site.distance.detach().isfinite()
            if site.result is None:
                masks.append(usable)
                continue
            adjoint = site.adjoint(next(gradients, None))
            if adjoint is None:
                masks.append(None)
            else:
                open_sign = (site.sign == 0) & (adjoint != 0) & site.kink
                rounding = 1e-14 * adjoint.abs().amax(1, keepdim=True)
                masks.append(usable & ((adjoint * site.sign.sign() < -rounding) | open_sign))
        return masks

    def slopes(self, opened: Opened, pairs: Pairs) -> tuple[Tensor, list[Tensor]]:
        """Each row's distance from its unit's kink, (k,), and its gradient with respect to the chosen inputs."""
        distance = opened.outputs.new_zeros(len(pairs))
        for number, rows, columns in pairs.groups():
            distance = distance.index_put((rows,), opened.sites[number].distance[rows, columns])
        self.chords.left -= len(pairs)
        wrt = [opened.points[i] for i in self.chords.variables]
        found = torch.autograd.grad(distance.sum(), wrt, retain_graph=True, allow_unused=True, materialize_grads=True)
        return distance.detach(), [gradient.nan_to_num(0.0, 0.0, 0.0) for gradient in found]

    def moved(
        self, points: list[Tensor], distance: Tensor, slopes: list[Tensor], opened: Opened, pairs: Pairs
    ) -> list[Tensor]:
        """A Newton step of each point towards its unit's kink, within the domain."""
        kinks = torch.tensor([site.kink for site in opened.sites], device=distance.device)[pairs.site]
        size = square(slopes)
        step = torch.where(kinks & (size > 0), distance / size.clamp(min=1e-30), 0.0).nan_to_num(0.0, 0.0, 0.0)
        result = list(points)
        for i, slope in zip(self.chords.variables, slopes, strict=True):
            result[i] = self.chords.keep_in(i, points[i] - column(step, slope) * slope)
        return result

    def newton(self, points: list[Tensor], pairs: Pairs) -> list[Tensor]:
        """Points on the zero sets of their units, if Newton's method gets there."""
        for _ in range(NEWTON):
            opened = self.open(points)
            if not pairs.fit(opened.sites):
                break
            distance, slopes = self.slopes(opened, pairs)
            points = self.moved([p.detach() for p in opened.points], distance, slopes, opened, pairs)
        return points

    def across(self, points: list[Tensor], pairs: Pairs, scale: float) -> None:
        """Try chords along the gradient of each point's unit, of several lengths, where the sign is wrong."""
        chords = self.chords
        opened = self.open(points)
        if not pairs.fit(opened.sites):
            return
        wrong = self.wrong(opened, pairs.output)
        still = torch.zeros(len(pairs), dtype=torch.bool, device=pairs.site.device)
        for number, rows, columns in pairs.groups():
            mask = wrong[number]
            if mask is not None:
                still[rows] = mask[rows, columns]
        _, slopes = self.slopes(opened, pairs)
        directions, length = self.room(points, slopes)
        still &= length > 0
        if not bool(still.any()):
            return
        spread = scale * torch.tensor(LENGTHS, dtype=torch.float64, device=length.device)
        sizes = torch.minimum(spread[None, :], length[still, None]).flatten()
        x, y = list(points), list(points)
        for i, p in enumerate(points):
            x[i] = y[i] = p = p.detach()[still].repeat_interleave(len(LENGTHS), 0)
            if i in chords.variables:
                move = directions[chords.variables.index(i)][still].repeat_interleave(len(LENGTHS), 0)
                move = column(sizes, move) * move
                x[i], y[i] = chords.keep_in(i, p + move), chords.keep_in(i, p - move)
        half = torch.full_like(sizes, 0.5)
        chords.left -= 3 * len(half)
        with torch.no_grad():
            chords.record(x, y, half, *chords.chord(x, y, half))

    def room(self, points: list[Tensor], slopes: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Unit directions along the slopes, without the coordinates that are at a bound, and how far they may go."""
        directions: list[Tensor] = []
        limits: list[Tensor] = []
        for i, slope in zip(self.chords.variables, slopes, strict=True):
            if i in self.chords.boxes:
                box = self.chords.boxes[i]
                free = torch.minimum(points[i] - box.lo.to(slope.device), box.hi.to(slope.device) - points[i])
                slope = torch.where(free > 1e-6 * (1 + points[i].abs()), slope, 0.0)
                limits.append(torch.where(slope == 0, torch.inf, free / slope.abs()).flatten(1).amin(1))
            directions.append(slope)
        size = square(directions).sqrt()
        length = torch.full_like(size, torch.inf)
        for limit in limits:
            length = torch.minimum(length, limit * size)
        return [d / column(size.clamp(min=1e-30), d) for d in directions], torch.where(size > 0, length, 0.0)


def square(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of squares of each row over several tensors."""
    return torch.stack([t.square().flatten(1).sum(1) for t in tensors]).sum(0)
