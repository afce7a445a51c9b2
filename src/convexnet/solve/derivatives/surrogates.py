"""Other derivatives of a minimiser, for those who ask for them by name.

The exact ones (`attach`) are what a minimiser that sits on kinks really does: often nothing at all when one input
changes, and a jump when another does. Learning through it sometimes goes better with derivatives that see more:

- *smoothed*: those of the minimiser of the function with its atoms smoothed and a barrier at the bounds, by the
  implicit function theorem, taken at the exact minimiser. They are not the derivatives of what is returned. Those of
  the value stay exact; its second derivatives, and those of x, are of the smoothed function.
- *unrolled*: those of gradient descent with momentum, which is then also what is returned as x; its value is larger
  than the minimum, and its gap says by how much (Domke 2012; Amos, Xu & Kolter 2017, section 5, for the settings).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from convexnet.form.atoms import Atom
from convexnet.form.program import OpenedProgram, atom_of
from convexnet.solve.derivatives.implicit import vector_jacobian
from convexnet.solve.functions.matrix_free import keep_unchanged
from convexnet.solve.functions.problem import Problem
from convexnet.solve.functions.smoothing import smooth_results

SMOOTHING = 1e-2
"""How much atoms are smoothed, in units of what typically arrives at them, and the box of half width 1 too."""

STEPS, RATE, MOMENTUM = 30, 0.01, 0.9
"""Of unrolled descent, for a box of width 1: in one of another width, the rate is multiplied by its square."""


def smoothed_values(opened: OpenedProgram, units: Sequence[Tensor]) -> Callable[..., Tensor]:
    """The smoothed functions: (inputs, tensors in the place of the model's) -> values (B,).

    Args:
        opened: the program.
        units: what one unit of smoothing is at each atom, (B, 1).
    """

    def run(inputs: Sequence[Tensor], live: Mapping[int, Tensor]) -> Tensor:
        count = 0

        def bent(a: Tensor, atom: float | Tensor | Atom = 0.0) -> Tensor:
            nonlocal count
            mu = SMOOTHING * units[count]
            count += 1
            atom = atom_of(a, atom)
            z, _ = smooth_results(atom, a.flatten(1), mu)
            return z.reshape(len(z), *(a.shape[1:] if atom.group == 1 else a.shape[1:-1]))

        return opened.run(inputs, bent, live)

    return run


def barrier_hessian(y: Tensor, lo: Tensor, hi: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The second derivatives (B, n) of barriers at the bounds; the size (B, 1) is how much the functions rise."""
    width = (hi - lo).clamp(max=1e12)
    found: list[Tensor] = []
    for distance in (y - lo, hi - y):
        near = torch.maximum(distance, 1e-3 * width)
        counts = near.isfinite() & (near > 0)
        found.append(torch.where(counts, SMOOTHING * size / torch.where(counts, near, 1.0) ** 2, 0.0))
    return found[0], found[1]


def unroll_descent(
    opened: OpenedProgram, inputs: Sequence[Tensor], live: Mapping[int, Tensor], problem: Problem, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Where descent with momentum comes to, (B, n), and the value there; gradients go through all steps.

    Args:
        opened: the program.
        inputs: as they take part in autograd.
        live: the model's tensors as they take part, by the `id` of each.
        problem: the same functions, with bounds as they take part.
        start: (B, n), from which the steps go; the domain's centre where it is None.
    """
    with torch.enable_grad():
        width = problem.hi - problem.lo
        rate = RATE * torch.where(width.isfinite(), width, 1.0) ** 2
        y = problem.centre() if start is None else problem.inside(start)
        y = y if y.requires_grad else y.detach().requires_grad_()
        speed = torch.zeros_like(y)
        for _ in range(STEPS):
            value = opened.run(inputs_with(inputs, opened, y), keep_unchanged, live).expand(len(y))
            (g,) = vector_jacobian([value], [y], [torch.ones_like(value)])
            speed = MOMENTUM * speed - rate * g
            y = problem.inside(y + speed)
        return y, opened.run(inputs_with(inputs, opened, y), keep_unchanged, live).expand(len(y))


def inputs_with(inputs: Sequence[Tensor], opened: OpenedProgram, y: Tensor) -> list[Tensor]:
    """The inputs with y (B, n) in its place."""
    found = list(inputs)
    found[opened.variable] = y.view(inputs[opened.variable].shape)
    return found
