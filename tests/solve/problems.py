"""Functions of the random networks, as matrices and as layers, and small functions whose minimum is known."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from convexnet.curvature.tracing.trace import trace
from convexnet.form.epigraph import EpigraphForm
from convexnet.form.matrices import Pieces
from convexnet.form.program import OpenedProgram
from convexnet.solve.functions.matrix_free import MatrixFree
from convexnet.solve.functions.problem import Problem
from convexnet.solve.solvers.highs import solve_lp
from convexnet.solve.solvers.incumbents import Incumbents, initial_incumbents
from convexnet.solve.solvers.loop import Budget, Solver, run_loop
from tests.solve.networks import shared

BATCH = 4


@functools.cache
def both(name: str, seed: int) -> tuple[EpigraphForm, MatrixFree, nn.Module, list[Tensor]]:
    """The same batch of functions in both forms, the network, and its inputs: made once, and changed by nobody."""
    model, shapes = shared(name, seed)
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(BATCH, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return *forms_of(model, inputs), model, inputs


def forms_of(model: nn.Module, inputs: list[Tensor]) -> tuple[EpigraphForm, MatrixFree]:
    """Both forms of a network that is convex in its last input."""
    opened = OpenedProgram(trace(model, tuple(inputs), any_batch=True), len(inputs) - 1)
    return Pieces(opened).form(inputs), MatrixFree(opened, inputs)


def at(model: nn.Module, inputs: list[Tensor], y: Tensor) -> Tensor:
    """The network's values at y (B, n)."""
    with torch.no_grad():
        return model(*inputs[:-1], y.reshape(inputs[-1].shape)).reshape(-1)


def boxes(count: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """A random box around 0 for each sample."""
    generator = torch.Generator().manual_seed(seed + 1)
    lo = -2 * torch.rand(count, n, generator=generator, dtype=torch.float64)
    return lo, torch.rand(count, n, generator=generator, dtype=torch.float64)


@functools.cache
def optima(name: str, seed: int) -> tuple[float, ...]:
    """The minima of `both` on `boxes`, by the exact linear program."""
    form = both(name, seed)[0]
    lo, hi = boxes(BATCH, form.size, seed)
    return tuple(solve_lp(form, sample, lo[sample], hi[sample])[1] for sample in range(BATCH))


def solved(solver: Solver, problem: Problem, tol: float, most: int) -> Incumbents:
    """What a solver finds in a number of steps."""
    found = initial_incumbents(problem)
    run_loop(solver, problem, found, Budget(tol, most))
    return found


def planes(slopes: list[list[float]], offsets: list[float]) -> EpigraphForm:
    """max_i (a_i y + b_i), as the functions of one sample."""
    from convexnet.form.atoms import Atom
    from convexnet.form.grouped import Largest
    from convexnet.form.linear_maps import Map

    a, b = torch.tensor(slopes, dtype=torch.float64), torch.tensor(offsets, dtype=torch.float64)
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    atoms: tuple[Atom, ...] = (Largest(len(b)),)
    return EpigraphForm((b[None],), atoms, (Map(a),), {}, zero, 0 * a[:1], {0: one})


KNOWN = {
    "a kink beside the centre": (planes([[5.0], [-5.0]], [-1.5, 1.5]), [0.3], 0.0),  # 5 |y - 0.3|
    "three planes": (planes([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], [0.0, 0.0, 0.0]), [0.0, 0.0], 0.0),
    "flat": (planes([[0.0], [1.0]], [2.0, -1.0]), None, 2.0),
    "a corner": (planes([[1.0, 2.0], [1.0, 2.0]], [0.5, 0.5]), [-1.0, -1.0], -2.5),
    "duplicate planes": (planes([[1.0], [1.0], [-2.0], [-2.0]], [0.0, 0.0, 0.0, 0.0]), [0.0], 0.0),
    "large": (planes([[5e6], [-5e6]], [-1.5e6, 1.5e6]), [0.3], 0.0),
    "small": (planes([[5e-6], [-5e-6]], [-1.5e-6, 1.5e-6]), [0.3], 0.0),
    "constant": (planes([[0.0], [0.0]], [3.0, 3.0]), None, 3.0),
}
"""One sample on [-1, 1]^n: the function, its minimiser where there is one only, and its minimum."""
