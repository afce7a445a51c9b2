"""A search that begins where an earlier one ended: what held its minimisers may hold those of functions nearby.

Kinks, bounds and slopes of the earlier minimum say which linear system to solve. Where all kinks are piecewise linear,
it is that of a vertex, and a few pivots take care of kinks that have changed; elsewhere it is the system of `attach`,
solved a few times, since curvature changes. The multipliers that come of it are clipped to those that make an affine
function below f, so that the bound holds whatever has changed. Where it does not say enough, the point is still one to
begin from, and other solvers go on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convexnet.form.epigraph import EpigraphForm
from convexnet.solve.derivatives.active_set import argument_units, find_sets, hold_at
from convexnet.solve.derivatives.vertices import is_usable, vertices_nearby
from convexnet.solve.functions.problem import Problem
from convexnet.solve.solution import Trail
from convexnet.solve.solvers.incumbents import Evidence, Incumbents
from convexnet.solve.solvers.loop import Budget

NAME = "active set"

ROUNDS = 4
"""Systems that are solved, where curvature changes or other bounds hold."""

LARGEST = 4_000_000
"""Slopes that a solution carries at most."""


def fits(trail: Trail, form: EpigraphForm) -> bool:
    """Whether it is of functions like these, with as many samples, or of one sample for all."""
    return (
        len(trail.y) in (1, form.batch)
        and trail.y.shape[1] == form.size
        and [slope.shape[1] for slope in trail.slopes] == [c.shape[1] for c in form.constants]
        and trail.y.device == form.linear.device
    )


def trail_of(found: Incumbents) -> Trail | None:
    """What is to be kept of a search."""
    slopes = found.slopes
    if not slopes or not bool(found.kept["slopes"].all()) or sum(s.numel() for s in slopes) > LARGEST:
        return None
    return Trail(found.y, tuple(slopes))


def follow_trail(problem: Problem, found: Incumbents, trail: Trail, budget: Budget) -> None:
    """Improve `found` by what held the minimisers of an earlier search."""
    form = problem.f
    if not isinstance(form, EpigraphForm) or not fits(trail, form) or budget.is_spent:
        return
    batch, everyone = form.batch, torch.arange(form.batch, device=form.linear.device)
    y = problem.inside(trail.y.expand(batch, -1))
    slopes = [slope.expand(batch, -1) for slope in trail.slopes]
    found.steps += 1
    if found.scale.isnan().any():
        found.look(problem)
    if is_usable(form, problem.lo, problem.hi):
        made = vertices_nearby(form, y, slopes, found.scale, problem.lo, problem.hi)
        if made is not None:
            rows, there, whole = made
            offer(problem if len(rows) == batch else problem.rows(rows), found, rows, there, whole)
    else:
        follow_curves(problem, found, y, slopes, budget)
    left = found.open(budget.tol)
    if bool(left.any()) and not bool(found.looked.all()):
        rows = (left & ~found.looked & (found.bound > -torch.inf)).nonzero()[:, 0]
        if len(rows):
            found.measure(problem if len(rows) == batch else problem.rows(rows), everyone[rows], budget.tol)


def offer(problem: Problem, found: Incumbents, rows: Tensor, y: Tensor, slopes: list[Tensor]) -> None:
    """Note points (R, n) of some samples, and the bounds that slopes prove there; `problem` is that of these rows."""
    form: EpigraphForm = problem.f
    y = problem.inside(y)
    arguments = form.arguments(y)
    value = form.value_of(y, [atom.value(a) for atom, a in zip(form.atoms, arguments, strict=True)])
    bound = problem.proved_minimum(*form.minorant(slopes, arguments), y)

    def evidence(index: Tensor) -> Evidence:
        return Evidence(touch=y[index], slopes=[slope[index] for slope in slopes])

    found.note(rows, y, value, bound, evidence)


def follow_curves(problem: Problem, found: Incumbents, y: Tensor, slopes: list[Tensor], budget: Budget) -> None:
    """Solve the system of `attach` a few times, for functions that curve."""
    form: EpigraphForm = problem.f
    lo, hi = problem.lo, problem.hi
    everyone = torch.arange(form.batch, device=y.device)
    units, steep = argument_units(form, y, lo, hi)
    nothing = torch.zeros_like(y)
    arguments = form.arguments(y)
    sets = find_sets(form, y, slopes, lo, hi, steep, arguments)
    for _ in range(ROUNDS):
        _, better = hold_at(form, y, slopes, lo, hi, nothing, sets, units, arguments)
        y, sets = better.y, (better.low, better.high)
        arguments = form.arguments(y)
        chosen, _ = form.fit(better.multipliers, arguments)
        slopes = form.slopes_from(chosen)
        offer(problem, found, everyone, y, slopes)
        if not bool(found.open(budget.tol).any()) or not bool(y.isfinite().all()):
            return
