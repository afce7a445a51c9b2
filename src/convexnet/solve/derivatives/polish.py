"""Minimisers to the last digits, where derivatives need them: whatever solver found the first ones, and how closely."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from convexnet.form.epigraph import EpigraphForm
from convexnet.solve.functions.hessian import tangents
from convexnet.solve.functions.problem import Problem
from convexnet.solve.solvers.incumbents import Evidence, Incumbents, initial_incumbents
from convexnet.solve.solvers.loop import Budget, run_loop
from convexnet.solve.solvers.newton import Newton

TIGHT = 1e-13
"""The gap to aim at, as `tol`: beyond what float64 allows for most functions, so that the steps end it."""

QUICK = 1e-7
"""The same where it is only to be told which kinks hold the minimiser."""

STEPS = 60
"""Of the path-following method, whose gap falls by more than half in each."""

FEW = 24
"""The same of a small problem, that is one of many ways to the same end."""

ROUNDS = 6
"""Newton steps on a smooth function; each doubles the number of right digits."""

NEAR = 1e-2
"""How near to a bound, as a share of the width, a coordinate may be that is moved there."""


def solve_precisely(
    form: EpigraphForm, found: Incumbents, lo: Tensor, hi: Tensor, quick: bool = False, tol: float | None = None
) -> Incumbents:
    """The minimisers with their slopes, by the path-following method in full precision, from the points found.

    A constant that the function carries is left out, so that it hides nothing.

    Args:
        form: the functions.
        found: what is known.
        lo, hi: the bounds, (B, n).
        quick: take the rough steps that the method takes by default, and stop earlier.
        tol: the gap to aim at, of a small problem that is met by few steps.
    """
    offset, aim = form.value(found.y), QUICK if quick else TIGHT
    problem = Problem(replace(form, constant=form.constant - offset), lo, hi)
    begun = initial_incumbents(problem)
    everyone = torch.arange(problem.batch, device=lo.device)
    way = Newton(rough=True) if quick else Newton(rough=False, drop=0.0)
    run_loop(way, problem, begun, Budget(aim, STEPS) if tol is None else Budget(tol, FEW))
    begun.note(everyone, found.y, torch.zeros_like(offset), torch.full_like(offset, -torch.inf))
    if begun.slopes is None:
        begun.keep(everyone, Evidence(slopes=[torch.zeros_like(c) for c in form.constants]))
    begun.value, begun.bound, begun.centre = begun.value + offset, begun.bound + offset, begun.centre + offset
    return begun


def refine_smooth(problem: Problem, found: Incumbents) -> None:
    """Put the minimisers of smooth functions right to the last digits, where that is not done yet."""
    form = problem.f
    if not isinstance(form, EpigraphForm) or not all(atom.smooth for atom in form.atoms) or not form.atoms:
        return
    y = polish(form, found.y, problem.lo, problem.hi)
    value = form.value(y)
    fine = value <= found.value + 1e-15 * found.value.abs()
    found.looked = found.looked & ~(fine & (y != found.y).any(1))
    found.y = torch.where(fine[:, None], y, found.y)
    found.value = torch.where(fine, value, found.value)


def polish(form: EpigraphForm, y: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """Minimisers (B, n) of smooth functions to the last digits, by Newton's method on the coordinates off the bounds.

    A sample keeps its point where that is not better.

    Source: Bertsekas (1982), Projected Newton methods for optimization problems with simple constraints.
    """
    best, least = y, descent_slack(form, y, lo, hi)
    for _ in range(ROUNDS):
        g, hessian = gradient_and_hessian(form, y)
        steep = hessian.diagonal(dim1=1, dim2=2).clamp(min=1e-300)
        width = (hi - lo).clamp(max=1e12)
        low = (g > 0) & (y - lo <= torch.minimum(g / steep, NEAR * width))
        high = (g < 0) & (hi - y <= torch.minimum(-g / steep, NEAR * width))
        free = (~(low | high)).to(y)
        system = hessian * free[:, :, None] * free[:, None, :]
        size = system.diagonal(dim1=1, dim2=2).amax(1).clamp(min=1e-300)
        held = torch.where(free > 0, 1e-13 * size[:, None], size[:, None])
        factor, _ = torch.linalg.cholesky_ex(system + torch.diag_embed(held))
        shift = torch.where(low, lo - y, torch.where(high, hi - y, 0.0))
        right = -(g + (hessian @ shift[:, :, None])[..., 0]) * free
        step = torch.cholesky_solve(right[:, :, None], factor)[..., 0] * free
        moved = torch.where(low, lo, torch.where(high, hi, torch.minimum(torch.maximum(y + step, lo), hi)))
        moved = torch.where(moved.isfinite(), moved, y)
        now = descent_slack(form, moved, lo, hi)
        better = (now < least)[:, None]
        best, least = torch.where(better, moved, best), torch.minimum(now, least)
        y = moved
        if not bool(better.any()):
            break
    return best


def descent_slack(form: EpigraphForm, y: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """How far y is from where descent along the slope would bring it, (B,): zero at a minimiser only."""
    _, g = form.subgradient(y)
    return (torch.minimum(torch.maximum(y - g, lo), hi) - y).norm(dim=1)


def gradient_and_hessian(form: EpigraphForm, y: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient (B, n) and the second derivative (B, n, n) of a smooth function."""
    arguments = form.arguments(y)
    slopes = [atom.slopes(a) for atom, a in zip(form.atoms, arguments, strict=True)]
    chosen, arriving = form.pull(slopes)
    tiny = torch.full_like(y[:, :1], 1e-12)
    curved = [
        atom.curved(a, atom.value(a), slope, tiny) for atom, a, slope in zip(form.atoms, arguments, slopes, strict=True)
    ]
    return form.gradient(chosen), tangents(form, slopes, curved, arriving, 0.0).hessian()
