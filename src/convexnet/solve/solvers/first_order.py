"""Adam and accelerated gradients on smoothed atoms, with certificates: for many variables and large layers.

Both follow the function smoothed by an amount mu of its atoms and lower mu as they go. What they know at a point v is
one pass forwards and one back: the smoothed value, its gradient g, and b with g y + b below the network itself. So the
gap at v splits into what smoothing costs, f_mu(v) − (g v + b), and what is missing to a minimum, the rest down to the
least value of g y + b within the bounds; mu falls when the second is no longer the larger. Averages of such affine
functions lie below as well, and are the better bounds where the iterates swing.

A step of the driver is `EVERY` iterations, and one evaluation of the function itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from convexnet.solve.functions.matrix_free import Sweep
from convexnet.solve.functions.problem import Problem
from convexnet.solve.functions.smoothing import smooth_function, smoothed_value_alone, smoothing_units
from convexnet.solve.solvers.incumbents import Evidence, Incumbents
from convexnet.solve.solvers.loop import Offer

EVERY = 10
"""Iterations in a step."""

PATIENCE = 5
"""Steps without a gap that is a tenth smaller before Adam takes smaller ones."""

REMEMBERED = 2_000_000
"""Numbers that the points of averaged tangents may have; the oldest go."""

START = 0.3
"""The first mu, in units of what typically arrives at an atom."""


@dataclass
class Descent:
    """What both methods keep of each sample."""

    scale: Tensor  # (B, n) half the width of the box: steps are measured in it
    unit: list[Tensor]
    mu: Tensor  # (B, 1)
    y: Tensor  # (B, n)
    g: Tensor  # the average minorant, (B, n) and (B, 1), and the weight in it (B, 1)
    b: Tensor
    total: Tensor
    multipliers: list[Tensor]  # the averages of those of the arguments, and of the arguments: what it is made of
    touching: list[Tensor]
    points: list[Tensor]  # where the tangents of a function that is not opened touch, and their weights
    weights: list[Tensor]

    def smoothing(self) -> list[Tensor]:
        """The amount at each atom, (B, 1)."""
        return [self.mu * unit for unit in self.unit]

    def average(self, at: Sweep, weight: Tensor, point: Tensor) -> None:
        """Take another minorant into the average."""
        if not at.multipliers:
            if bool((self.total == 0).any()):
                self.weights = [torch.where(self.total == 0, 0.0, w) for w in self.weights]
            self.points, self.weights = [*self.points, point], [*self.weights, weight]
            most = max(1, REMEMBERED // max(1, point.numel()))
            self.points, self.weights = self.points[-most:], self.weights[-most:]
        self.total = self.total + weight
        share = weight / self.total
        self.g = torch.lerp(self.g, at.g, share.expand_as(at.g))
        self.b = torch.lerp(self.b, at.b[:, None], share)
        old = self.multipliers or at.multipliers
        self.multipliers = [
            torch.lerp(m, new, share.expand_as(new)) for m, new in zip(old, at.multipliers, strict=True)
        ]
        old = self.touching or at.arguments
        self.touching = [torch.lerp(a, new, share.expand_as(new)) for a, new in zip(old, at.arguments, strict=True)]

    def bound(self, problem: Problem, at: Sweep) -> Tensor:
        """The better of the bounds from the average and from the last minorant."""
        return torch.fmax(problem.proved_minimum(self.g, self.b[:, 0]), problem.proved_minimum(at.g, at.b))

    def evidence(self, problem: Problem, at: Sweep, point: Tensor) -> Callable[[Tensor], Evidence]:
        """What the better bound is made of."""
        last = (problem.proved_minimum(at.g, at.b) > problem.proved_minimum(self.g, self.b[:, 0]))[:, None]
        multipliers, touching = self.multipliers or at.multipliers, self.touching or at.arguments
        points, weights = self.points, self.weights

        def some(rows: Tensor) -> Evidence:
            if not at.multipliers:
                single = last[rows]
                shares = torch.cat([w[rows] for w in weights], 1)
                shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-300)
                shares = torch.cat([torch.where(single, 0.0, shares), single.to(shares)], 1)
                return Evidence(points=torch.stack([p[rows] for p in [*points, point]], 1), shares=shares)
            pairs = zip(multipliers, at.multipliers, strict=True), zip(touching, at.arguments, strict=True)
            chosen = [[torch.where(last, new, mean)[rows] for mean, new in pair] for pair in pairs]
            return Evidence(touch=point[rows], multipliers=chosen[0], touching=chosen[1])

        return some


def gap_parts(problem: Problem, at: Sweep, y: Tensor) -> tuple[Tensor, Tensor]:
    """What smoothing costs at y, and what is missing to a minimum, (B, 1) each."""
    touching = at.b + (at.g * y).sum(1)
    return (at.value - touching)[:, None], (touching - problem.proved_minimum(at.g, at.b))[:, None]


def starting_state(problem: Problem, found: Incumbents) -> Descent:
    finite = problem.lo.isfinite() & problem.hi.isfinite()
    scale = torch.where(finite, (problem.hi - problem.lo) / 2, 1.0)
    one = torch.ones_like(scale[:, :1])
    unit = smoothing_units(problem.f, problem.lo, problem.hi)
    return Descent(scale, unit, START * one, found.y.clone(), torch.zeros_like(scale), 0 * one, 0 * one, [], [], [], [])


# --- accelerated gradients --------------------------------------------------------------------------------------------


@dataclass
class Accelerated:
    """The state of `Fista`."""

    descent: Descent
    ahead: Tensor  # the extrapolated point (B, n), and what is known there
    at: Sweep
    momentum: Tensor  # (B, 1)
    steep: Tensor  # the estimated Lipschitz constant of the gradient in the scaled variables, (B, 1)


class Fista:
    """Accelerated projected gradient on the smoothed function, with backtracking, restarts and falling smoothing.

    Source: Beck & Teboulle (2009), A fast iterative shrinkage-thresholding algorithm, section 4 (with backtracking);
    Nesterov (2005), Smooth minimization of non-smooth functions, for the smoothing; O'Donoghue & Candès (2015),
    Adaptive restart for accelerated gradient schemes (the gradient scheme), for the restarts.

    Example:
        >>> from convexnet.form.atoms import Kinks
        >>> from convexnet.solve.solvers.incumbents import initial_incumbents
        >>> from convexnet.solve.solvers.loop import Budget, run_loop
        >>> from convexnet.form.epigraph import EpigraphForm
        >>> from convexnet.form.linear_maps import Map
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> f = EpigraphForm(
        ...     (-0.3 * one,), (Kinks(-one[0]),), (Map(one),), {}, 0 * one[0], 0 * one, {0: one}
        ... )  # |y - 0.3|
        >>> problem = Problem(f, -one, one)
        >>> found = initial_incumbents(problem)
        >>> run_loop(Fista(), problem, found, Budget(1e-6))
        >>> bool(found.gap < 1e-6), round(found.y.item(), 5)
        (True, 0.3)
    """

    name = "fista"

    def __init__(self, shrink: float = 0.5) -> None:
        self.shrink = shrink

    def begin(self, problem: Problem, found: Incumbents) -> Accelerated:
        descent = starting_state(problem, found)
        at = smooth_function(problem.f, descent.y, descent.smoothing())
        steep = (descent.scale * at.g).norm(dim=1, keepdim=True).clamp(min=1e-300)
        return Accelerated(descent, descent.y, at, torch.ones_like(descent.mu), steep)

    def step(self, problem: Problem, state: Accelerated) -> Offer:
        descent = state.descent
        for _ in range(EVERY):
            self.iterate(problem, state)
        value = problem.f.value(descent.y)
        evidence = descent.evidence(problem, state.at, state.ahead)
        return Offer(descent.y, value, descent.bound(problem, state.at), evidence=evidence)

    def iterate(self, problem: Problem, state: Accelerated) -> None:
        descent, at = state.descent, state.at
        y = problem.inside(state.ahead - descent.scale**2 * at.g / state.steep)
        moved = y - state.ahead
        slope = (at.g * moved).sum(1)
        atom = 0.5 * ((moved / torch.where(descent.scale > 0, descent.scale, 1.0)) ** 2).sum(1)
        value = smoothed_value_alone(problem.f, y, descent.smoothing())
        noise = 1e-13 * at.value.abs()
        fine = (value <= at.value + slope + state.steep[:, 0] * atom + noise)[:, None]
        momentum = (1 + (1 + 4 * state.momentum**2).sqrt()) / 2
        forth = y - descent.y
        turned = ((state.ahead - y) * forth / torch.where(descent.scale > 0, descent.scale, 1.0) ** 2).sum(1) > 0
        restart = turned[:, None]
        share = torch.where(restart, 0.0, (state.momentum - 1) / momentum)
        ahead = problem.inside(y + share * forth)
        state.momentum = torch.where(fine, torch.where(restart, 1.0, momentum), state.momentum)
        state.steep = torch.where(fine, 0.95 * state.steep, 2 * state.steep)
        descent.y = torch.where(fine, y, descent.y)
        state.ahead = torch.where(fine, ahead, state.ahead)
        state.at = smooth_function(problem.f, state.ahead, descent.smoothing())
        descent.average(state.at, torch.where(fine, state.momentum, 0.0).clamp(min=1e-300), state.ahead)
        self.sharpen(problem, state)

    def sharpen(self, problem: Problem, state: Accelerated) -> None:
        """Less smoothing, and a new start from here, where smoothing is what is missing."""
        descent = state.descent
        smoothing, missing = gap_parts(problem, state.at, state.ahead)
        ready = smoothing > missing
        if not bool(ready.any()):
            return
        descent.mu = torch.where(ready, self.shrink * descent.mu, descent.mu)
        state.steep = torch.where(ready, state.steep / self.shrink, state.steep)
        state.momentum = torch.where(ready, 1.0, state.momentum)
        state.ahead = torch.where(ready, descent.y, state.ahead)
        descent.total = torch.where(ready, 0.0, descent.total)
        state.at = smooth_function(problem.f, state.ahead, descent.smoothing())


# --- Adam -------------------------------------------------------------------------------------------------------------


@dataclass
class Moments:
    """The state of `Adam`."""

    descent: Descent
    first: Tensor  # (B, n)
    second: Tensor
    count: Tensor  # (B, 1) iterations since the moments began
    rate: Tensor  # (B, 1), in the scaled variables
    best: Tensor  # (B,) the least value so far, the best bound, the last gap that was a tenth smaller, steps since then
    bound: Tensor
    gap: Tensor
    waited: Tensor


class Adam:
    """Projected Adam on the smoothed function; steps and smoothing halve when values stop falling.

    Quick to a good point, and slower than `Fista` to a proof.

    Source: Kingma & Ba (2015), Adam, algorithm 1.

    Example:
        >>> from convexnet.form.atoms import Kinks
        >>> from convexnet.solve.solvers.incumbents import initial_incumbents
        >>> from convexnet.solve.solvers.loop import Budget, run_loop
        >>> from convexnet.form.epigraph import EpigraphForm
        >>> from convexnet.form.linear_maps import Map
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> f = EpigraphForm(
        ...     (-0.3 * one,), (Kinks(-one[0]),), (Map(one),), {}, 0 * one[0], 0 * one, {0: one}
        ... )  # |y - 0.3|
        >>> problem = Problem(f, -one, one)
        >>> found = initial_incumbents(problem)
        >>> run_loop(Adam(), problem, found, Budget(1e-3))
        >>> bool(found.gap < 1e-3), bool(found.bound <= 0)
        (True, True)
    """

    name = "adam"

    def __init__(self, rate: float = 0.1, shrink: float = 0.5) -> None:
        self.rate = rate
        self.shrink = shrink

    def begin(self, problem: Problem, found: Incumbents) -> Moments:
        descent = starting_state(problem, found)
        none = torch.zeros_like(descent.y)
        more = (found.bound.clone(), torch.full_like(found.value, torch.inf), torch.zeros_like(found.value))
        return Moments(descent, none, none, 0 * descent.mu, self.rate + 0 * descent.mu, found.value.clone(), *more)

    def step(self, problem: Problem, state: Moments) -> Offer:
        descent = state.descent
        middle = torch.zeros_like(descent.y)
        at, before = None, descent.y
        for _ in range(EVERY):
            before = descent.y
            at = smooth_function(problem.f, descent.y, descent.smoothing())
            descent.average(at, torch.ones_like(descent.mu), before)
            self.iterate(problem, state, at)
            middle = middle + descent.y / EVERY
        assert at is not None
        bound = descent.bound(problem, at)
        middle = problem.inside(middle)
        last, mean = problem.f.value(descent.y), problem.f.value(middle)
        value = torch.minimum(last, mean)
        y = torch.where((mean < last)[:, None], middle, descent.y)
        evidence = descent.evidence(problem, at, before)
        self.slow(problem, state, at, before, value, bound)
        return Offer(y, value, bound, evidence=evidence)

    def iterate(self, problem: Problem, state: Moments, at: Sweep) -> None:
        descent = state.descent
        g = descent.scale * at.g
        state.count = state.count + 1
        state.first = torch.lerp(state.first, g, 0.1)
        state.second = torch.lerp(state.second, g * g, 0.01)
        first = state.first / (1 - 0.9**state.count)
        second = state.second / (1 - 0.99**state.count)
        step = state.rate * first / (second.sqrt() + 1e-300)
        descent.y = problem.inside(descent.y - descent.scale * step)

    def slow(self, problem: Problem, state: Moments, at: Sweep, y: Tensor, value: Tensor, bound: Tensor) -> None:
        """Less smoothing where that is what is missing; where the gap does not fall otherwise, smaller steps."""
        descent = state.descent
        state.bound = torch.fmax(state.bound, bound)
        state.best = torch.minimum(state.best, value)
        gap = state.best - state.bound
        better = gap < 0.9 * state.gap
        state.gap = torch.where(better, gap, state.gap)
        state.waited = torch.where(better, 0.0, state.waited + 1)
        stuck = (state.waited >= PATIENCE)[:, None]
        state.waited = torch.where(stuck[:, 0], 0.0, state.waited)
        smoothing, missing = gap_parts(problem, at, y)
        fine = smoothing > missing
        state.rate = torch.where(stuck & ~fine, self.shrink * state.rate, state.rate)
        descent.mu = torch.where(fine, self.shrink * descent.mu, descent.mu)
        descent.total = torch.where(stuck | fine, 0.0, descent.total)
