"""Primal-dual path following for the minimum of a piecewise linear convex function over a box.

Each kink max(s a, a) is smoothed to s a + (1 - s) (a + r)/2 with r = sqrt(a² + 4 mu²) (Chen & Harker 1993, Kanzow
1996, Smale 1987), the box has a logarithmic barrier, and mu goes to zero. The results of the kinks are eliminated, so
that the Newton system has the size n of y alone. What makes it converge in few steps is that the gates are iterates of
their own: the linearised equations keep them independent of a, and the multipliers they predict make the gradient
exactly zero, so that the affine function below f is lost to clipping only. Every sample has its own mu and leaves when
it is done.
"""

from __future__ import annotations

from time import monotonic

import torch
from torch import Tensor

from convexnet.solve.kink_form import KinkForm
from convexnet.solve.path import PATIENCE, START, TINY, Found, Smoothed, State, advanced, inside, next_mu, solved


def units_of(form: KinkForm, points: int = 8) -> list[Tensor]:
    """What typically arrives at each unit of each kink: the mean of |a| over random points of the cube and samples."""
    generator = torch.Generator().manual_seed(0)
    total = [torch.zeros_like(slope) for slope in form.slopes]
    for _ in range(points):
        y = torch.rand(form.batch, form.size, generator=generator, dtype=torch.float64) * 2 - 1
        for sum_, a in zip(total, form.arguments(y.to(form.slope)), strict=True):
            sum_.add_(a.abs().mean(0) / points)
    return [torch.where(size > 0, size, 1.0) for size in total]


class Newton:
    """One batch on the cube [-1, 1]^n."""

    def __init__(self, form: KinkForm) -> None:
        self.form = form.in_units(units_of(form))
        self.kinks = len(form.constants)
        self.free = [1 - slope for slope in self.form.slopes]
        halves = [torch.full_like(c, 0.5) for c in self.form.constants]
        sizes = [w.abs().mean(1, keepdim=True) for w in self.totals(self.form, halves)]
        weight = torch.stack(sizes).mean(0) if sizes else torch.ones(form.batch, 1, dtype=torch.float64)
        slope = self.form.slope.abs().mean(1, keepdim=True)
        self.weight = torch.where(weight > 0, weight, torch.where(slope > 0, slope, 1.0))  # of one unit in f

    def totals(self, form: KinkForm, gates: list[Tensor]) -> list[Tensor]:
        """What arrives at each kink for gates of the relu part."""
        chosen: dict[int, Tensor] = {}
        found: list[Tensor] = []
        for k in reversed(range(self.kinks)):
            found.insert(0, form.arriving(k, chosen))
            chosen[k] = (form.slopes[k] + self.free[k] * gates[k]) * found[0]
        return found

    def smooth(self, form: KinkForm, state: State) -> Smoothed:
        """Values and derivatives of the smoothed kinks, forwards, and the multipliers, backwards."""
        floor = 4 * state.mu * state.mu
        results: list[Tensor] = []
        gates: list[Tensor] = []
        curved: list[Tensor] = []
        for k in range(self.kinks):
            a = form.argument(k, state.y, results)
            r = torch.addcmul(floor, a, a).sqrt_()
            z = (a + r).mul_(0.5)
            gates.append(z / r)
            curved.append(torch.addcmul(z, a, state.gates[k] if state.gates else gates[k], value=-1).div_(r * r))
            results.append(form.slopes[k] * a + self.free[k] * z)
        chosen: dict[int, Tensor] = {}
        arriving: list[Tensor] = []
        for k in reversed(range(self.kinks)):
            arriving.insert(0, form.arriving(k, chosen).clamp(min=0))
            chosen[k] = (form.slopes[k] + self.free[k] * gates[k]) * arriving[0]
        return Smoothed(gates, curved, arriving, chosen, form.affine(chosen)[0])

    def hessian(self, form: KinkForm, state: State, at: Smoothed) -> Tensor:
        """Sum of J' D J over the kinks, (B, n, n), with J_k = da_k/dy through the gates that are iterates."""
        batch = form.batch
        total = torch.zeros(batch, form.size, form.size, dtype=form.slope.dtype)
        through: list[Tensor] = []
        for k in range(self.kinks):
            first = form.from_y[k]
            jacobian = torch.zeros(batch, len(form.slopes[k]), form.size, dtype=form.slope.dtype)
            if first is not None:
                jacobian = first.columns(batch)
            for j in range(k):
                if (k, j) in form.between:
                    jacobian = jacobian + form.between[k, j].on_columns(through[j])
            weight = (at.arriving[k] * self.free[k] * at.curved[k]).clamp(min=0).sqrt()
            rooted = jacobian * weight[:, :, None]
            total.baddbmm_(rooted.mT, rooted)
            if any((later, k) in form.between for later in range(k + 1, self.kinks)):
                through.append(jacobian * (form.slopes[k] + self.free[k] * state.gates[k])[:, :, None])
            else:
                through.append(jacobian)
        return total

    def predicted(self, form: KinkForm, state: State, at: Smoothed, step: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The change of each gate for a step in y, and the multipliers that go with it."""
        moved: list[Tensor] = []
        changes: list[Tensor] = []
        for k in range(self.kinks):
            first = form.from_y[k]
            da = torch.zeros_like(form.constants[k]) if first is None else first(step)
            for j in range(k):
                if (k, j) in form.between:
                    da = da + form.between[k, j](moved[j])
            changes.append(at.curved[k] * da)
            moved.append((form.slopes[k] + self.free[k] * state.gates[k]) * da)
        multipliers: list[Tensor] = []
        added: dict[int, Tensor] = {}
        for k in reversed(range(self.kinks)):
            extra = at.arriving[k] * self.free[k] * changes[k]
            for later, more in added.items():
                if (later, k) in form.between:
                    back = form.between[later, k].transposed(more)
                    extra = extra + (form.slopes[k] + self.free[k] * state.gates[k]) * back
            added[k] = extra
            multipliers.insert(0, at.multipliers[k] + extra)
        return changes, multipliers

    def barrier_value(self, form: KinkForm, state: State, weight: Tensor, y: Tensor) -> Tensor:
        """The smoothed function with the barrier, (B,)."""
        results: list[Tensor] = []
        value = form.constant + (form.slope * y).sum(1) - (weight * state.mu)[:, 0] * torch.log1p(-y * y).sum(1)
        for k in range(self.kinks):
            a = form.argument(k, y, results)
            z = (a + torch.addcmul(4 * state.mu * state.mu, a, a).sqrt_()).mul_(0.5)
            results.append(form.slopes[k] * a + self.free[k] * z)
            if k in form.weights:
                value = value + (form.weights[k] * results[k]).sum(1)
        return value

    def run(
        self, tolerance: float, most: int = 100, deadline: float = float("inf"), start: Tensor | None = None
    ) -> Found:
        """Follow the path until every sample's gap is within the tolerance, relative to max(|f|, f(0) - f)."""
        whole, n = self.form, self.form.size
        y = torch.zeros_like(whole.slope) if start is None else start.clamp(-0.999, 0.999)
        centre = whole.value(torch.zeros_like(y))
        found = Found(torch.zeros_like(y), centre.clone(), torch.full_like(centre, -torch.inf), torch.zeros(len(y)))
        none = torch.zeros(len(y), dtype=torch.int64)
        state = State(
            y, torch.full((len(y), 1), START, dtype=y.dtype), [], y, y, torch.full_like(centre, torch.inf), none
        )
        form, weight, active = whole, self.weight, torch.arange(len(y))
        for _ in range(most):
            barrier = state.mu * weight
            at = self.smooth(form, state)
            right, left = 1 / (1 - state.y), 1 / (1 + state.y)
            if not state.gates:
                state.gates = [gate.clone() for gate in at.gates]
                state.upper, state.lower = barrier * right, barrier * left
            state.upper = torch.minimum(torch.maximum(state.upper, barrier * right / 30), barrier * right * 30)
            state.lower = torch.minimum(torch.maximum(state.lower, barrier * left / 30), barrier * left * 30)
            gradient = at.gradient + barrier * (right - left)
            hessian = self.hessian(form, state, at)
            diagonal = hessian.diagonal(dim1=-2, dim2=-1)
            diagonal.add_(state.upper * right + state.lower * left).mul_(1 + 1e-12)
            step = -solved(hessian, gradient)
            changes, multipliers = self.predicted(form, state, at, step)
            self.note(found, form, active, (state.y + step).clamp(-1, 1), multipliers)
            found.steps[active] += 1
            gap = found.value - found.bound
            open_ = ~(gap <= tolerance * torch.maximum(torch.maximum(found.value.abs(), centre - found.value), FLAT))
            keep = open_[active]
            if not bool(keep.any()) or monotonic() > deadline:
                break
            decrement = -(gradient * step).sum(1) / barrier[:, 0]
            length = self.searched(form, state, weight, gradient, step, decrement)
            state = advanced(state, at, changes, step, barrier, right, left, length)
            share = (gap[active] / weight[:, 0])[:, None] / max(n, 8)
            state.mu = next_mu(state.mu, share, decrement[:, None], length[:, None], n)
            better = gap[active] < 0.9 * state.best
            state.best = torch.where(better, gap[active], state.best)
            state.waited = torch.where(better, 0, state.waited + 1)
            self.recentre(form, state, share, weight, state.waited >= PATIENCE)
            if not bool(keep.all()):
                state, active = state.rows(keep), active[keep]
                form, weight = form.rows(keep), weight[keep]
        return found

    def recentre(self, form: KinkForm, state: State, share: Tensor, weight: Tensor, lost: Tensor) -> None:
        """Back to where the path is easier to find, for samples whose gap has not moved: mu as large as the gap allows,
        and gates and multipliers as they are on the path."""
        if not bool(lost.any()):
            return
        lost = lost[:, None]
        state.mu = torch.where(lost, torch.maximum(3 * state.mu, 0.3 * share), state.mu)
        state.waited = torch.where(lost[:, 0], 0, state.waited)
        smooth = self.smooth(form, state).gates
        state.gates = [torch.where(lost, new, old) for new, old in zip(smooth, state.gates, strict=True)]
        barrier = state.mu * weight
        state.upper = torch.where(lost, barrier / (1 - state.y), state.upper)
        state.lower = torch.where(lost, barrier / (1 + state.y), state.lower)

    def note(self, found: Found, form: KinkForm, active: Tensor, y: Tensor, multipliers: list[Tensor]) -> None:
        """Keep what is better than before: the point, and the bound from the multipliers."""
        value = form.value(y)
        better = value < found.value[active]
        found.value[active[better]], found.y[active[better]] = value[better], y[better]
        bound = bound_on_cube(form, multipliers)
        found.bound[active] = torch.maximum(found.bound[active], bound)

    def searched(
        self, form: KinkForm, state: State, weight: Tensor, gradient: Tensor, step: Tensor, decrement: Tensor
    ) -> Tensor:
        """How much of the step to take: all of it near the path, else until the smoothed function falls enough."""
        length = torch.ones(len(step), dtype=step.dtype)
        todo = (decrement > 2.0).nonzero()[:, 0]
        if not len(todo):
            return length
        before = self.barrier_value(form, state, weight, state.y)
        for _ in range(6):
            part, some = form.rows(todo), state.rows(todo)
            y = inside(some.y, length[todo, None] * step[todo])
            value = self.barrier_value(part, some, weight[todo], y)
            slope = (gradient[todo] * (y - some.y)).sum(1).clamp(max=0)
            todo = todo[~(value <= before[todo] + 1e-4 * slope + TINY)]
            if not len(todo):
                break
            length[todo] *= 0.5
        return length


FLAT = torch.tensor(1e-12, dtype=torch.float64)


def bound_on_cube(form: KinkForm, multipliers: list[Tensor]) -> Tensor:
    """The least value on [-1, 1]^n of the affine function below f that clipped multipliers give, (B,)."""
    g, b = form.affine(form.clipped(multipliers))
    return b - g.abs().sum(1)
