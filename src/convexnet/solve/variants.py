"""Other derivatives of a minimiser, for those who ask for them by name.

The exact ones (`derivatives`) are what a minimiser that sits on kinks really does: often nothing at all when one input
changes, and a jump when another does. Learning through it sometimes goes better with derivatives that see more:

- *smoothed*: those of the minimiser of the function with its bends smoothed and a barrier at the bounds, by the
  implicit function theorem, taken at the exact minimiser. They are not the derivatives of what is returned.
- *unrolled*: those of gradient descent with momentum, which is then also what is returned as x; its value is larger
  than the minimum, and its gap says by how much (Domke 2012; Amos, Xu & Kolter 2017, section 5, for the settings).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convexnet.solve.bends import Bend
from convexnet.solve.drive import Problem
from convexnet.solve.layers import unchanged
from convexnet.solve.opened import Opened, bend_of
from convexnet.solve.softened import soft

DERIVATIVES = ("exact", "smoothed", "unrolled")

SMOOTHING = 1e-2
"""How much bends are smoothed, in units of what typically arrives at them, and the box of half width 1 too."""

STEPS, RATE, MOMENTUM = 30, 0.01, 0.9
"""Of unrolled descent, for a box of width 1: in one of another width, the rate is multiplied by its square."""


def smoothed(opened: Opened, inputs: Sequence[Tensor], problem: Problem, y: Tensor, units: Sequence[Tensor]) -> Tensor:
    """y (B, n) with the derivatives of the minimiser of the smoothed function.

    Args:
        opened: the program.
        inputs: as they take part in autograd.
        problem: the same functions with their bounds.
        y: the exact minimisers.
        units: what one unit of smoothing is at each bend, (B, 1).

    Source: the implicit function theorem, dy = −(∇² F)⁻¹ d(∇F) with F the smoothed function and the barrier.
    """
    at = y.detach().clone().requires_grad_()
    count = 0

    def bent(a: Tensor, bend: float | Tensor | Bend = 0.0) -> Tensor:
        nonlocal count
        mu = SMOOTHING * units[count]
        count += 1
        bend = bend_of(a, bend)
        z, _ = soft(bend, a.flatten(1), mu)
        return z.reshape(a.shape if bend.group == 1 else a.shape[:-1])

    with torch.enable_grad():
        value = opened.run(shown(inputs, opened, at), bent, live={})
        (g,) = torch.autograd.grad(value, at, torch.ones_like(value), create_graph=True)
        rows = [torch.autograd.grad(g[:, j].sum(), at, retain_graph=True)[0] for j in range(at.shape[1])]
        hessian = torch.stack(rows, 1).detach()
        width = (problem.hi - problem.lo).clamp(max=1e12)
        scale = value.detach().abs().clamp(min=1e-12)[:, None]
        for distance in (problem.hi - at.detach(), at.detach() - problem.lo):
            near = distance.clamp(min=1e-3 * width)
            hessian = hessian + torch.diag_embed(torch.where(near.isfinite(), SMOOTHING * scale / near**2, 0.0))
        moves = torch.linalg.solve(hessian, (g - g.detach())[:, :, None])[..., 0]
        free = (problem.hi > problem.lo).to(y)
        return y.detach() - free * moves


def unrolled(opened: Opened, inputs: Sequence[Tensor], problem: Problem, start: Tensor) -> tuple[Tensor, Tensor]:
    """Where descent with momentum comes to from `start` (B, n), and the value there; gradients go through all steps."""
    width = (problem.hi - problem.lo).where((problem.hi - problem.lo).isfinite(), torch.ones_like(problem.lo))
    rate = RATE * width**2
    with torch.enable_grad():
        y = start.detach().clone().requires_grad_()
        speed = torch.zeros_like(y)
        for _ in range(STEPS):
            value = opened.run(shown(inputs, opened, y), unchanged, live={})
            (g,) = torch.autograd.grad(value, y, torch.ones_like(value), create_graph=True)
            speed = MOMENTUM * speed - rate * g
            y = problem.inside(y + speed)
        return y, opened.run(shown(inputs, opened, y), unchanged, live={})


def shown(inputs: Sequence[Tensor], opened: Opened, y: Tensor) -> list[Tensor]:
    """The inputs with y (B, n) in its place."""
    found = list(inputs)
    found[opened.variable] = y.view(inputs[opened.variable].shape)
    return found
