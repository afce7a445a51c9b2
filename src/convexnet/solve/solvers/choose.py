"""Which solver for which problem, in what parts, and what is tried when one does not finish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec

from convexnet.form.epigraph import EpigraphForm
from convexnet.solve.functions.black_box import WholeProgram
from convexnet.solve.functions.matrix_free import MatrixFree
from convexnet.solve.functions.problem import Problem
from convexnet.solve.functions.with_entropy import EntropyProblem
from convexnet.solve.solvers.admm import ADMM
from convexnet.solve.solvers.bundle import Bundle, CuttingPlanes
from convexnet.solve.solvers.bundle_entropy import BundleEntropy
from convexnet.solve.solvers.first_order import Adam, Fista
from convexnet.solve.solvers.highs import solve_exactly
from convexnet.solve.solvers.incumbents import Incumbents
from convexnet.solve.solvers.loop import Budget, Solver, run_loop
from convexnet.solve.solvers.newton import Newton
from convexnet.solve.solvers.pdhg import PDHG

MEMORY = 64 * 2**20
"""Bytes that the iterates of one part of a batch may take: about what a processor's caches hold."""

FEW = 50
"""Variables up to which a bundle is the best way for a function that cannot be opened."""

MANY = 1500
"""Number of variables from which on a Newton system takes too long to build."""

PROGRAM = 4_000_000
"""Entries of the matrix of a linear program that HiGHS is given without being asked."""


@dataclass(frozen=True)
class Way:
    """A solver: how it is made, how many steps it gets by default, and what it needs of the functions."""

    make: Callable[[], Solver]
    steps: int
    needs: tuple[type, ...] = (object,)
    linear: bool = False
    """Whether all atoms must be piecewise linear."""


WAYS: dict[str, Way] = {
    "newton": Way(lambda: Newton(rough=True), 100, (EpigraphForm,)),
    "bundle": Way(Bundle, 200),
    "cutting-planes": Way(CuttingPlanes, 200),
    "bundle-entropy": Way(BundleEntropy, 200),
    "pdhg": Way(PDHG, 500, (EpigraphForm, MatrixFree), linear=True),
    "admm": Way(ADMM, 500, (EpigraphForm,), linear=True),
    "fista": Way(Fista, 500),
    "adam": Way(Adam, 500),
}

MATRICES = ("lp", *(name for name, way in WAYS.items() if way.needs == (EpigraphForm,)))
"""Solvers that cannot do without the function as matrices."""

WITHOUT_MATRICES = ("bundle-entropy", "fista", "adam")
"""Solvers that have no use for them."""

ENTRIES = 200_000
"""Entries of matrices, of all variables and all arguments of atoms, beyond which such a solver is not given any."""


def choose_solver(name: str, problem: Problem, closed: str = "") -> tuple[str, int]:
    """The name of a solver, and how many samples it takes at once.

    Args:
        name: "auto", or the one that was asked for.
        problem: the functions.
        closed: why they are not opened, if they are not.

    Raises:
        ValueError: the solver that was asked for cannot be used on this function.
    """
    reason = f" ({closed})" if closed else ""
    if name == "bundle-entropy" and not isinstance(problem, EntropyProblem):
        raise ValueError("solver='bundle-entropy' is for Cube(n, entropy=True): use solver='auto'")
    if name == "auto":
        name = choose_automatically(problem)
    elif name == "lp" and not (isinstance(problem.f, EpigraphForm) and problem.f.piecewise_linear):
        raise ValueError(
            f"solver='lp' needs a piecewise linear function that fits into a matrix: use solver='auto'{reason}"
        )
    elif name in WAYS and not isinstance(problem.f, WAYS[name].needs):
        raise ValueError(
            f"solver={name!r} needs the function as matrices and atoms, which this one does not allow: use "
            f"solver='auto'{reason}"
        )
    elif name in WAYS and WAYS[name].linear and not problem.f.piecewise_linear:
        raise ValueError(f"solver={name!r} needs a piecewise linear function: use solver='auto'{reason}")
    return name, samples_at_once(problem, name)


def choose_automatically(problem: Problem) -> str:
    if isinstance(
        problem.f, EpigraphForm
    ):  # which is not made for more than MANY variables unless a solver asks for it
        return "newton"
    return "bundle" if isinstance(problem.f, WholeProgram) and problem.size <= FEW else "fista"


def samples_at_once(problem: Problem, name: str = "newton") -> int:
    """How many samples fit into memory at once."""
    n, f = problem.size, problem.f
    if name == "bundle-entropy":  # planes and the points that they touch at
        return max(1, min(problem.batch, MEMORY // (8 * 300 * n)))
    if isinstance(f, EpigraphForm):
        wide = sum(c.shape[1] for c in f.constants)
        each = 8 * (wide * (n + 16) + 3 * n * n)
    else:
        each = 8 * 1000 * n
    return max(1, min(problem.batch, MEMORY // each))


def run_solver(name: str, problem: Problem, found: Incumbents, budget: Budget) -> None:
    """Improve `found` by the solver of this name."""
    if name == "lp":
        solve_exactly(problem, found, budget)
        return
    way = WAYS[name]
    if (
        way.needs == (object,) and problem.exact is not None and not isinstance(problem, EntropyProblem)
    ):  # its tangents are then those of the function itself
        problem = replace(problem, f=problem.exact)
    run_loop(way.make(), problem, found, budget, way.steps)


def rescue_open(problem: Problem, found: Incumbents, budget: Budget) -> list[str]:
    """What is left open: the same method in full precision, then the exact linear program or, for a few variables, a
    bundle. The names of what ran."""
    used: list[str] = []
    f = problem.f
    if budget.max_steps is not None or not isinstance(f, EpigraphForm):
        return used

    def left() -> bool:
        return bool(found.open(budget.tol).any()) and not budget.is_spent

    if left() and problem.size <= MANY:
        run_loop(Newton(rough=False, drop=0.0), problem, found, budget)
        used.append("newton in full")
    if not problem.compact:
        return used
    entries = sum(m.matrix.numel() for m in [*f.between.values(), *f.from_y] if m is not None)
    if left() and f.piecewise_linear and entries <= PROGRAM and find_spec("highspy"):
        solve_exactly(problem, found, budget)
        used.append("lp")
    if left() and problem.size <= FEW:
        run_solver("bundle", problem, found, budget)
        used.append("bundle")
    return used
