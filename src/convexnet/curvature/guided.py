"""The guided search: chords across the zero sets of the nonlinearities, where convexity breaks if it breaks at all.

Where only unit i is kinked, its distance s_i = 0 and its slope not zero, the slope of the output along s_i jumps by the
jump of the unit times the output's derivative with respect to the unit's result. So a point on the zero set where that
derivative has the wrong sign refutes convexity by a chord along the gradient of s_i, and if no such point exists the
network is convex there (Gagneux, Massias, Soubies and Gribonval 2025, arXiv 2501.03017, for ReLU networks in general
position). Smooth units add their curvature times that derivative to the Hessian in the same way.

Random chords practically never meet a rare unit of the wrong sign, because all others bend upwards at any distance. Here
random points only choose pairs (point, unit) whose derivative has the wrong sign; Newton steps move each point to the
zero set, and short chords are tried where the sign is still wrong. Where several units are kinked at once the sign
refutes nothing, as in 2 relu(x) - relu(x): only the values of the model on the chord do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convexnet.curvature.chords import Chords, column
from convexnet.curvature.kinks import Gate, Recorder, Site, Slopes, Softened, at_random

NEWTON = 4
LENGTHS = (3.0, 0.5, 0.1, 0.02, 4e-3, 5e-4)
SCANS = 3  # points that are only looked at, for each pair that is followed
LOOKS = 4
SCALED = (1.0, 0.1, 10.0)
SHARES = (0.02, 0.08, 0.25, 0.6)
STEPS = 8
STRIDES = ((0.5, 0.5), (0.2, 0.2), (0.05, 0.1))


@dataclass(frozen=True)
class Opened:
    """A forward with its units: outputs (n, m), sites, and the derivatives with respect to the units' results."""

    points: list[Tensor]
    outputs: Tensor
    sites: list[Site]


@dataclass(frozen=True)
class Pairs:
    """For each of k points, the unit it is moved to: number of the site, column, and the output that is watched."""

    site: Tensor
    column: Tensor
    output: Tensor

    def __getitem__(self, mask: Tensor) -> Pairs:
        return Pairs(self.site[mask], self.column[mask], self.output[mask])


def guided(chords: Chords, budget: int, scales: Sequence[float]) -> None:
    """Search until something is found, `budget` samples have been evaluated, or units of the wrong sign do not show.

    Never raises: what cannot be opened is left to the other searches.
    """
    search = _Guided(chords, max(chords.left - budget, 0))
    try:
        with torch.enable_grad():
            search.run(scales)
    except ZeroDivisionError:  # operators without a derivative, in-place writes, forwards that do not run under a recorder
        return


class _Guided:
    def __init__(self, chords: Chords, end: int = 0) -> None:
        self.chords = chords
        self.end = end
        self.pairs = max(2, chords.width)
        self.scan = SCANS * self.pairs

    def run(self, scales: Sequence[float]) -> None:
        chords = self.chords
        at = iter(scale for _ in iter(int, 1) for scale in scales)
        for scale, _ in zip(at, range(LOOKS), strict=False):
            if chords.best is None and self.affords(self.across_cost):
                self.look(scale)
        while chords.best is None and self.affords(self.suspect_cost):
            pairs = self.suspects(scales)
            if not len(pairs.site):
                return
            order = torch.randperm(len(pairs.site), generator=chords.generator).to(pairs.site.device)
            for part in order.split(self.pairs):
                part = part.repeat(-(-self.pairs // len(part)))[: self.pairs]
                scale = next(at)
                if chords.best is None and self.affords(self.descent_cost):
                    self.descend(pairs[part], scale)
                if chords.best is None and self.affords(self.across_cost):
                    self.look(next(at))

    def affords(self, samples: int) -> bool:
        return self.chords.left - self.end >= samples

    @property
    def across_cost(self) -> int:
        return 2 * self.scan + self.pairs * (2 * NEWTON + 3 + 3 * len(LENGTHS))

    @property
    def suspect_cost(self) -> int:
        return 2 * self.scan * len(SCALED)

    @property
    def descent_cost(self) -> int:
        return self.pairs * (len(STRIDES) * (5 * STEPS + 2 * NEWTON + 3 + 3 * len(LENGTHS)))

    def look(self, scale: float) -> None:
        """Follow the units that have the wrong sign at random points."""
        opened = self.open(self.chords.centres(self.scan, scale))
        if not opened.sites:
            return
        outputs = self.any_output(opened)
        rows, pairs = self.choose(opened.sites, self.wrong(opened, outputs), outputs)
        if len(rows):
            self.across(self.newton([p.detach()[rows] for p in opened.points], pairs), pairs, scale)

    def any_output(self, opened: Opened) -> Tensor:
        n, count = opened.outputs.shape
        return torch.randint(count, (n,), generator=self.chords.generator).to(opened.outputs.device)

    def suspects(self, scales: Sequence[float]) -> Pairs:
        """The units that have the wrong sign for some slopes of the others, whether or not any point has those."""
        found: dict[tuple[int, int], int] = {}
        generator = self.chords.generator
        for scale in scales[: len(SCALED)]:
            share = torch.tensor(SHARES, dtype=torch.float64)[torch.randint(len(SHARES), (self.scan,), generator=generator)]
            opened = self.open(self.chords.centres(self.scan, scale), at_random(generator, share))
            if not opened.sites:
                break
            outputs = self.any_output(opened)
            for number, mask in enumerate(self.wrong(opened, outputs)):
                if mask is not None:
                    rows, columns = mask.nonzero(as_tuple=True)
                    for row, column_ in zip(rows.tolist(), columns.tolist(), strict=True):
                        found[number, column_] = int(outputs[row])
        device = self.chords.inputs[0].device
        sites, columns = torch.tensor([*found] or [[0, 0]], device=device)[: len(found)].T
        return Pairs(sites, columns, torch.tensor(list(found.values()), dtype=torch.long, device=device))

    def descend(self, pairs: Pairs, scale: float) -> None:
        """Move along the zero set of each pair's unit to where its sign is wrong, down the derivative of the output with
        respect to its result, in which the slopes of the other units change gradually."""
        chords = self.chords
        points = chords.centres(len(pairs.site), scale)
        for stride, width in STRIDES:
            for _ in range(STEPS):
                slopes = Softened(width)
                opened = self.open(points, slopes)
                if not fits(opened.sites, pairs):
                    return
                points = self.downhill(opened, slopes.gates, pairs, stride * scale)
            self.across(self.newton(points, pairs), pairs, scale)
            if chords.best is not None:
                return

    def downhill(self, opened: Opened, gates: Sequence[Gate], pairs: Pairs, stride: float) -> list[Tensor]:
        """One step along the zero sets of the pairs' units, and back onto them.

        The derivative of the output with respect to a unit's result is a sum over paths, each a product of slopes. Slopes
        on paths of the right sign are to become smaller and slopes on those of the wrong sign larger, each by its share
        of the sum of its kind: a logistic loss in the distances of all other units from their kinks.
        """
        chords = self.chords
        distance, slopes = self.slopes(opened, pairs)
        points = [p.detach() for p in opened.points]
        loss = self.loss(opened, gates, pairs)
        if loss is not None and loss.requires_grad:
            chords.left -= len(pairs.site)
            wrt = [opened.points[i] for i in chords.variables]
            up = torch.autograd.grad(loss, wrt, retain_graph=True, allow_unused=True, materialize_grads=True)
            up = [u.nan_to_num(0.0, 0.0, 0.0) for u in up]
            along = torch.stack([(u * s).flatten(1).sum(1) for u, s in zip(up, slopes, strict=True)]).sum(0)
            share = along / square(slopes).clamp(min=1e-30)
            up = [u - column(share, u) * s for u, s in zip(up, slopes, strict=True)]
            size = square(up).sqrt().clamp(min=1e-30)
            step = stride * torch.rand(len(size), generator=chords.generator, dtype=torch.float64).to(size.device)
            for i, u in zip(chords.variables, up, strict=True):
                points[i] = points[i] - column(step * root(u) / size, u) * u
        return self.moved(points, distance, slopes, opened.sites, pairs)

    def loss(self, opened: Opened, gates: Sequence[Gate], pairs: Pairs) -> Tensor | None:
        numbers = [n for n in pairs.site.unique().tolist() if opened.sites[n].result is not None]
        if not numbers or not gates or not opened.outputs.requires_grad:
            return None
        self.chords.left -= 2 * len(pairs.site)
        chosen = opened.outputs.gather(1, pairs.output[:, None]).sum()
        edges = [opened.sites[n].result for n in numbers]
        gradients = torch.autograd.grad(chosen, edges, create_graph=True, allow_unused=True)
        adjoint = opened.outputs.new_zeros(())
        for number, gradient in zip(numbers, gradients, strict=True):
            site = opened.sites[number]
            found = site.adjoint(gradient)
            if found is not None:
                rows = (pairs.site == number).nonzero()[:, 0]
                columns = pairs.column[rows]
                adjoint = adjoint + (found[rows, columns] * site.sign[rows, columns].sign()).sum()
        if not adjoint.requires_grad:
            return None
        leaves = [leaf for gate in gates for leaf in (gate.factor, gate.change)]
        parts = torch.autograd.grad(adjoint, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        n = len(pairs.site)
        used = [(g, c.reshape(n, -1), b.reshape(n, -1)) for g, c, b in zip(gates, parts[::2], parts[1::2], strict=True)
                if g.factor.numel() and g.factor.shape[0] == n]
        right = sum((c.clamp(min=0).sum(1, keepdim=True) for _, c, _ in used), torch.zeros(())).clamp(min=1e-300)
        wrong = sum((c.clamp(max=0).sum(1, keepdim=True) for _, c, _ in used), torch.zeros(())).clamp(max=-1e-300)
        loss = opened.outputs.new_zeros(())
        for gate, c, b in used:
            weight = torch.where(c > 0, c / right, 2 * c / wrong)
            away = b.sign() * gate.sign.reshape(n, -1) * gate.distance.reshape(n, -1) / gate.width
            loss = loss + (weight * torch.nn.functional.softplus(away)).sum()
        return loss

    def newton(self, points: list[Tensor], pairs: Pairs) -> list[Tensor]:
        for _ in range(NEWTON):
            opened = self.open(points)
            if not fits(opened.sites, pairs):
                break
            distance, slopes = self.slopes(opened, pairs)
            points = self.moved([p.detach() for p in opened.points], distance, slopes, opened.sites, pairs)
        return points

    # --- what a forward says ---

    def open(self, points: Sequence[Tensor], slopes: Slopes | None = None) -> Opened:
        """Evaluate the model, recording its units, perhaps with other slopes than its own."""
        chords = self.chords
        points = [p.detach().requires_grad_(i in chords.variables) for i, p in enumerate(points)]
        recorder = Recorder(points[0].shape[0], slopes)
        chords.left -= points[0].shape[0]
        with recorder:
            outputs = chords.values(points)
        return Opened(points, outputs, recorder.sites)

    def adjoints(self, opened: Opened, outputs: Tensor) -> list[Tensor | None]:
        """For each site the derivative of every row's chosen output with respect to the results of its units."""
        edges = [site.result for site in opened.sites if site.result is not None]
        if not edges or not opened.outputs.requires_grad:
            return [None] * len(opened.sites)
        self.chords.left -= len(outputs)
        chosen = opened.outputs.gather(1, outputs[:, None]).sum()
        found = iter(torch.autograd.grad(chosen, edges, retain_graph=True, allow_unused=True))
        return [site.adjoint(next(found)) if site.result is not None else None for site in opened.sites]

    def wrong(self, opened: Opened, outputs: Tensor) -> list[Tensor | None]:
        """For each site which units, (n, m), would break convexity if the point were on their zero set."""
        masks: list[Tensor | None] = []
        for site, adjoint in zip(opened.sites, self.adjoints(opened, outputs), strict=True):
            usable = site.distance.detach().isfinite()
            if site.result is None:
                masks.append(usable)
            elif adjoint is None:
                masks.append(None)
            else:
                masks.append(usable & ((adjoint * site.sign < 0) | ((site.sign == 0) & (adjoint != 0) & site.kink)))
        return masks

    def choose(
        self, sites: Sequence[Site], wrong: Sequence[Tensor | None], outputs: Tensor
    ) -> tuple[Tensor, Pairs]:
        """Pairs of a row and a unit of the wrong sign: as many of each site, as far as it has them."""
        generator = self.chords.generator
        found: list[tuple[Tensor, Tensor, int]] = []
        for number, mask in enumerate(wrong):
            if mask is not None and bool(mask.any()):
                rows, columns = mask.nonzero(as_tuple=True)
                order = torch.randperm(len(rows), generator=generator)[: self.pairs].to(rows.device)
                found.append((rows[order], columns[order], number))
        picked: list[tuple[Tensor, Tensor, int]] = []
        room = self.pairs
        found.sort(key=lambda item: len(item[0]))
        for left, (rows, columns, number) in zip(range(len(found), 0, -1), found, strict=True):
            take = min(len(rows), -(-room // left))
            if take:
                picked.append((rows[:take], columns[:take], number))
                room -= take
        if not picked:
            none = outputs[:0]
            return none, Pairs(none, none, none)
        rows = torch.cat([rows for rows, _, _ in picked])
        columns = torch.cat([columns for _, columns, _ in picked])
        numbers = torch.cat([torch.full_like(rows, number) for rows, _, number in picked])
        return rows, Pairs(numbers, columns, outputs[rows])

    def slopes(self, opened: Opened, pairs: Pairs) -> tuple[Tensor, list[Tensor]]:
        """Each row's distance from its unit's kink, (k,), and the gradient of that with respect to the chosen inputs."""
        distance = opened.outputs.new_zeros(len(pairs.site))
        for number in pairs.site.unique().tolist():
            rows = (pairs.site == number).nonzero()[:, 0]
            distance = distance.index_put((rows,), opened.sites[number].distance[rows, pairs.column[rows]])
        self.chords.left -= len(pairs.site)
        wrt = [opened.points[i] for i in self.chords.variables]
        found = torch.autograd.grad(distance.sum(), wrt, retain_graph=True, allow_unused=True, materialize_grads=True)
        return distance.detach(), [gradient.nan_to_num(0.0, 0.0, 0.0) for gradient in found]

    def moved(
        self, points: list[Tensor], distance: Tensor, slopes: list[Tensor], sites: Sequence[Site], pairs: Pairs
    ) -> list[Tensor]:
        """A Newton step of each point towards its unit's kink, within the domain."""
        reached = torch.tensor([not site.kink for site in sites], device=distance.device)[pairs.site]
        size = square(slopes)
        step = torch.where(reached | (size == 0), 0.0, distance / size.clamp(min=1e-30)).nan_to_num(0.0, 0.0, 0.0)
        result = list(points)
        for i, slope in zip(self.chords.variables, slopes, strict=True):
            result[i] = self.chords.keep_in(i, points[i] - column(step, slope) * slope)
        return result

    # --- the chords ---

    def across(self, points: list[Tensor], pairs: Pairs, scale: float) -> None:
        """Chords along the gradient of each point's unit, of several lengths, where the sign is still wrong."""
        chords = self.chords
        opened = self.open(points)
        if not fits(opened.sites, pairs):
            return
        wrong = self.wrong(opened, pairs.output)
        still = torch.zeros(len(pairs.site), dtype=torch.bool, device=pairs.site.device)
        for number in pairs.site.unique().tolist():
            mask = wrong[number]
            rows = (pairs.site == number).nonzero()[:, 0]
            if mask is not None:
                still[rows] = mask[rows, pairs.column[rows]]
        _, slopes = self.slopes(opened, pairs)
        directions, length = self.room(points, slopes)
        still &= (length > 0) & (square(slopes) > 0)
        if not bool(still.any()):
            return
        k = int(still.sum())
        spread = scale * torch.tensor(LENGTHS, dtype=torch.float64, device=length.device)
        sizes = torch.minimum(spread[None, :], length[still, None]).flatten()  # (k, lengths)
        x, y = list(points), list(points)
        for i, p in enumerate(points):
            p = p.detach()[still].repeat_interleave(len(LENGTHS), 0)
            x[i] = y[i] = p
            if i in chords.variables:
                move = directions[chords.variables.index(i)][still].repeat_interleave(len(LENGTHS), 0)
                move = column(sizes, move) * move
                x[i], y[i] = chords.keep_in(i, p + move), chords.keep_in(i, p - move)
        half = torch.full((k * len(LENGTHS),), 0.5, dtype=torch.float64, device=length.device)
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
        directions = [d / column(size.clamp(min=1e-30), d) for d in directions]
        length = torch.full_like(size, torch.inf)
        for limit in limits:
            length = torch.minimum(length, limit * size)
        return directions, torch.where(size > 0, length, 0.0)


def fits(sites: Sequence[Site], pairs: Pairs) -> bool:
    """Whether a forward opened the same units as the one that the pairs were chosen in (it may branch on values)."""
    if len(sites) <= int(pairs.site.max()):
        return False
    return all(
        sites[number].distance.shape[1] > int(pairs.column[pairs.site == number].max())
        for number in pairs.site.unique().tolist()
    )


def square(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of squares of each row over several tensors."""
    return torch.stack([t.square().flatten(1).sum(1) for t in tensors]).sum(0)


def root(tensor: Tensor) -> float:
    """The length of a point whose entries are 1."""
    return float(tensor[0].numel()) ** 0.5
