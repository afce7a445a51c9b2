"""One search: a module that is read, its functions over a box, and what solvers find."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from convexnet.solve.active_start import NAME, follow_trail
from convexnet.solve.arguments import Arguments
from convexnet.solve.compiled import Reading
from convexnet.solve.functions.problem import Problem
from convexnet.solve.solver_functions import problem_of
from convexnet.solve.solvers.choose import choose_solver, rescue_open, run_solver
from convexnet.solve.solvers.incumbents import Incumbents, initial_incumbents, pick_rows


@dataclass
class Search:
    """What was searched, and what was found.

    Attributes:
        arguments: inputs, box, budget.
        reading: the module.
        problem: the functions that solvers saw.
        closed: why the functions are not opened, if they are not.
        found: the best points and bounds.
        used: the solvers that found them.
    """

    arguments: Arguments
    reading: Reading
    problem: Problem
    closed: str
    found: Incumbents
    used: list[str]


def search(reading: Reading, arguments: Arguments, everywhere: bool) -> Search:
    """Solve the batch in parts that fit into memory.

    Args:
        reading: the module, certified.
        arguments: the inputs, the box, the solver, the starting points and the budget.
        everywhere: whether it is convex everywhere, not only on the box.
    """
    problem, closed = problem_of(reading, arguments, everywhere)
    return Search(arguments, reading, problem, closed, *solve(problem, arguments, closed))


def solve(problem: Problem, arguments: Arguments, closed: str) -> tuple[Incumbents, list[str]]:
    """Solve the batch in parts that fit into memory; returns what was found, and which solvers did it.

    Args:
        problem: the functions.
        arguments: the solver, the starting points and the budget.
        closed: why the functions are not opened, if they are not.
    """
    name, size = choose_solver(arguments.solver, problem, closed)
    found = initial_incumbents(problem, arguments.atol)
    if arguments.start is not None:
        y = problem.inside(arguments.start)
        value = problem.f.value(y)
        everyone = torch.arange(problem.batch, device=y.device)
        found.note(everyone, y, value, torch.full_like(value, -torch.inf))
    used = [name]
    if arguments.trail is not None:
        follow_trail(problem, found, arguments.trail, arguments.budget)
        if not bool(found.open(arguments.budget.tol).any()):
            return found, [NAME]
    for first in range(0, problem.batch, size):
        rows = torch.arange(first, min(problem.batch, first + size), device=found.y.device)
        whole = len(rows) == problem.batch
        part = problem if whole else problem.rows(rows)
        piece = found if whole else pick_rows(found, rows)
        run_solver(name, part, piece, arguments.budget)
        if arguments.solver == "auto":
            used += [more for more in rescue_open(part, piece, arguments.budget) if more not in used]
        if not whole:
            found.put(rows, piece)
        if arguments.budget.watch is not None and arguments.budget.watch.stopped:
            break
    return found, used
