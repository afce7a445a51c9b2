"""The guided search: chords across the zero sets of the nonlinearities, where convexity breaks if it breaks at all.

Where only unit i is kinked, its distance s_i = 0 and its slope not zero, the slope of the output along s_i jumps by the
jump of the unit times the output's derivative with respect to the unit's result. So a point on the zero set where that
derivative has the wrong sign refutes convexity by a chord along the gradient of s_i, and a ReLU network in general
position without such a point is convex (Gagneux, Massias, Soubies and Gribonval 2025, arXiv 2501.03017). Smooth units
add their curvature times that derivative to the Hessian in the same way, and far away they are as good as kinked.

Random chords practically never meet a rare unit of the wrong sign, because all others are convex at any distance.
Here random points only choose pairs (point, unit) whose derivative has the wrong sign; Newton steps move each point to
the zero set, and short chords are tried where the sign is still wrong. Where no random point has a unit of the wrong
sign, the slopes of the other units are drawn at random: this shows which units could have it at all. For those the
search moves along the zero set to where the sign is wrong. Where several units are kinked at once the sign refutes
nothing, as in 2 relu(x) - relu(x); only the values of the model on a chord ever do.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import torch
from torch import Tensor

from convexnet.curvature.adversary.chords import Chords, column
from convexnet.curvature.adversary.unit_crossings import LENGTHS, NEWTON, Opened, Pairs, Units, square
from convexnet.curvature.adversary.unit_recorder import Site, Slope, SoftenedSlopes, at_random

SCALES = (1.0, 0.1, 10.0, 1000.0, 3.0, 60.0, 0.01)
LOOKS = 4  # at random points, before the other slopes are drawn at random
PASSES = 3  # with random slopes
SHARES = (0.02, 0.08, 0.25, 0.6)  # of slopes as they are to the right of the kinks
STEPS = 10
STRIDES = ((0.5, 0.5), (0.1, 0.15))  # of a step, in units of the scale; and the width of the softened slopes
MOST = 4096  # units of one site that are followed


def guided(chords: Chords, budget: int) -> None:
    """Search until something is found, `budget` samples have been evaluated, or units of the wrong sign do not show.

    Never raises: what cannot be opened is left to other searches.
    """
    try:
        with torch.enable_grad():
            Guided(chords, max(chords.left - budget, 0)).run()
    except Exception:  # operators without a derivative, writes in place, forwards that do not run under a recorder
        return


class Guided:
    def __init__(self, chords: Chords, end: int = 0) -> None:
        self.chords = chords
        self.end = end
        self.units = Units(chords)
        self.size = max(2, 3 * chords.width)
        across = 2 * NEWTON + 3 + 3 * len(LENGTHS)
        self.look_cost = self.size * (2 + across)
        self.descent_cost = self.size * len(STRIDES) * (5 * STEPS + across)

    def run(self) -> None:
        scales = cycle(SCALES)
        for _ in range(LOOKS):
            self.look(next(scales))
        while self.affords(2 * self.size * PASSES):
            pairs, weights = self.suspects()
            if not len(pairs):
                return
            order = torch.multinomial(weights, len(pairs), generator=self.chords.generator).to(pairs.site.device)
            for part in order.split(self.size):
                self.descend(pairs[part.repeat(-(-self.size // len(part)))[: self.size]], next(scales))
                self.look(next(scales))
            if not self.affords(self.look_cost):
                return

    def affords(self, samples: int) -> bool:
        return self.chords.best is None and self.chords.left - self.end >= samples

    def any_output(self, n: int, outputs: Tensor) -> Tensor:
        return torch.randint(outputs.shape[1], (n,), generator=self.chords.generator).to(outputs.device)

    # --- units of the wrong sign at random points ---

    def look(self, scale: float) -> None:
        """Follow the units that have the wrong sign at random points."""
        if not self.affords(self.look_cost):
            return
        opened = self.units.open(self.chords.centres(self.size, scale))
        outputs = self.any_output(self.size, opened.outputs)
        rows, pairs = self.choose(opened.sites, self.units.wrong(opened, outputs), outputs)
        if len(rows):
            points = self.units.newton([p.detach()[rows] for p in opened.points], pairs)
            self.units.across(points, pairs, scale)

    def choose(self, sites: Sequence[Site], wrong: Sequence[Tensor | None], outputs: Tensor) -> tuple[Tensor, Pairs]:
        """Pairs of a row and a unit of the wrong sign, as many of each site as far as it has them."""
        found: list[tuple[Tensor, Tensor, int]] = []
        for number, mask in enumerate(wrong):
            if mask is not None and bool(mask.any()):
                rows, columns = mask.nonzero(as_tuple=True)
                order = torch.randperm(len(rows), generator=self.chords.generator)[: self.size].to(rows.device)
                found.append((rows[order], columns[order], number))
        found.sort(key=lambda item: len(item[0]))
        picked: list[tuple[Tensor, Tensor, Tensor]] = []
        room = self.size
        for left, (rows, columns, number) in zip(range(len(found), 0, -1), found, strict=True):
            take = min(len(rows), -(-room // left))
            picked.append((rows[:take], columns[:take], torch.full_like(rows[:take], number)))
            room -= take
        if not picked:
            return outputs[:0], Pairs(outputs[:0], outputs[:0], outputs[:0])
        rows, columns, numbers = (torch.cat(parts) for parts in zip(*picked, strict=True))
        return rows, Pairs(numbers, columns, outputs[rows])

    # --- units that could have the wrong sign ---

    def suspects(self) -> tuple[Pairs, Tensor]:
        """The units that have the wrong sign for some slopes of the others, and how often, whether or not any point has
        those slopes."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        generator = self.chords.generator
        for scale in SCALES[:PASSES]:
            drawn = torch.randint(len(SHARES), (self.size,), generator=generator)
            share = torch.tensor(SHARES, dtype=torch.float64)[drawn]
            opened = self.units.open(self.chords.centres(self.size, scale), at_random(generator, share))
            outputs = self.any_output(self.size, opened.outputs)
            for number, mask in enumerate(self.units.wrong(opened, outputs)):
                if mask is None:
                    continue
                times, where = mask.sum(0), outputs[mask.byte().argmax(0)]
                if number in found and found[number][0].shape == times.shape:
                    before, there = found[number]
                    times, where = times + before, torch.where(times > 0, where, there)
                found[number] = times, where
        parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for number, (times, where) in found.items():
            columns = times.nonzero()[:, 0]
            columns = columns[times[columns].argsort(descending=True)[:MOST]]
            parts.append((torch.full_like(columns, number), columns, where[columns], times[columns]))
        if not parts:
            none = torch.zeros(0, dtype=torch.long)
            return Pairs(none, none, none), none.double()
        sites, columns, where, times = (torch.cat(part) for part in zip(*parts, strict=True))
        return Pairs(sites, columns, where), times.double().cpu()

    def descend(self, pairs: Pairs, scale: float) -> None:
        """Move along the zero set of each pair's unit to where its sign is wrong."""
        chords = self.chords
        if not self.affords(self.descent_cost):
            return
        points = chords.centres(len(pairs), scale)
        for stride, width in STRIDES:
            for _ in range(STEPS):
                slopes = SoftenedSlopes(width)
                opened = self.units.open(points, slopes)
                if not pairs.fit(opened.sites):
                    return
                points = self.downhill(opened, slopes.gates, pairs, stride * scale)
            self.units.across(self.units.newton(points, pairs), pairs, scale)
            if chords.best is not None:
                return

    def downhill(self, opened: Opened, gates: Sequence[Slope], pairs: Pairs, stride: float) -> list[Tensor]:
        """A step down the loss within the zero sets of the pairs' units, and back onto them."""
        chords = self.chords
        distance, slopes = self.units.slopes(opened, pairs)
        points = [p.detach() for p in opened.points]
        loss = self.loss(opened, gates, pairs)
        if loss is not None and loss.requires_grad:
            chords.left -= len(pairs)
            wrt = [opened.points[i] for i in chords.variables]
            up = torch.autograd.grad(loss, wrt, retain_graph=True, allow_unused=True, materialize_grads=True)
            up = [u.nan_to_num(0.0, 0.0, 0.0) for u in up]
            along = torch.stack([(u * s).flatten(1).sum(1) for u, s in zip(up, slopes, strict=True)]).sum(0)
            share = along / square(slopes).clamp(min=1e-30)
            up = [u - column(share, u) * s for u, s in zip(up, slopes, strict=True)]
            size = square(up).sqrt().clamp(min=1e-30)
            room = sum(u[0].numel() for u in up) ** 0.5
            step = torch.rand(len(size), generator=chords.generator, dtype=torch.float64).to(size.device) * stride
            for i, u in zip(chords.variables, up, strict=True):
                points[i] = points[i] - column(step * room / size, u) * u
        return self.units.moved(points, distance, slopes, opened, pairs)

    def loss(self, opened: Opened, gates: Sequence[Slope], pairs: Pairs) -> Tensor | None:
        """A loss that is small where the pairs' units have the wrong sign; None where that depends on nothing.

        The derivative of the output with respect to a unit's result is a sum over paths, each a product of slopes.
        Slopes on paths of the right sign are to become smaller and slopes on those of the wrong sign larger, each by
        its share of the sum of its kind: a logistic loss in the distances of all other units from their kinks.
        """
        groups = [group for group in pairs.groups() if opened.sites[group[0]].result is not None]
        if not groups or not gates or not opened.outputs.requires_grad:
            return None
        n = len(pairs)
        self.chords.left -= 2 * n
        chosen = opened.outputs.gather(1, pairs.output[:, None]).sum()
        edges = [edge for number, _, _ in groups if (edge := opened.sites[number].result) is not None]
        gradients = torch.autograd.grad(chosen, edges, create_graph=True, allow_unused=True)
        adjoint = opened.outputs.new_zeros(())
        for (number, rows, columns), gradient in zip(groups, gradients, strict=True):
            found = opened.sites[number].adjoint(gradient)
            if found is not None:
                adjoint = adjoint + (found[rows, columns] * opened.sites[number].sign[rows, columns].sign()).sum()
        if not adjoint.requires_grad:
            return None
        gates = [gate for gate in gates if gate.factor.ndim and gate.factor.shape[0] == n]
        leaves = [leaf for gate in gates for leaf in (gate.factor, gate.change)]
        found = torch.autograd.grad(adjoint, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        parts = [part.reshape(n, -1) for part in found[::2]]
        right = torch.stack([part.clamp(min=0).sum(1) for part in parts]).sum(0).clamp(min=1e-300)[:, None]
        wrong = torch.stack([part.clamp(max=0).sum(1) for part in parts]).sum(0).clamp(max=-1e-300)[:, None]
        loss = opened.outputs.new_zeros(())
        for gate, part, change in zip(gates, parts, found[1::2], strict=True):
            weight = torch.where(part > 0, part / right, 2 * part / wrong)
            away = (change.sign() * gate.sign * gate.distance / gate.width).reshape(n, -1)
            loss = loss + (weight * torch.nn.functional.softplus(away)).sum()
        return loss
