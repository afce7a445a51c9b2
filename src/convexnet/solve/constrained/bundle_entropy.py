"""`minimise(solver="bundle-entropy")`: the network itself is read, and the entropy is added in closed form.

Points, values, what has converged and the messages are those of any other region (`regions.Work`). Derivatives and
multipliers are too: they are those of the minimum, and the function with its entropy as atoms is read for them when
they are asked for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from convexnet.form.epigraph import EpigraphForm
from convexnet.solve.arguments import Arguments
from convexnet.solve.constrained.regions import Work, minimise_over_region, read, tableau_of
from convexnet.solve.derivatives.attach import sources_of, wants_gradients
from convexnet.solve.derivatives.polish import refine_smooth
from convexnet.solve.derivatives.unavailable import check_derivatives, check_transforms
from convexnet.solve.functions.black_box import OwnForward
from convexnet.solve.functions.with_entropy import EntropyProblem, WithEntropy, entropy
from convexnet.solve.lower_bounds import LEAST, prove_bounds
from convexnet.solve.search import Search, solve
from convexnet.solve.solution import Multipliers, Solution
from convexnet.solve.solver_functions import check_certified, own_forward, problem_of, read_module
from convexnet.solve.solvers.incumbents import Evidence, Incumbents, pick_rows, rises, sign_patterns

NAME = "bundle-entropy"


def is_for_entropy(arguments: Arguments) -> bool:
    """Whether a problem is a function plus the entropy of all its variables, and nothing else constrains it."""
    region = arguments.region
    covered = sum(stop - start for start, stop in region.entropy) == arguments.lo.shape[1]
    return covered and not (arguments.subject_to or region.below or region.equal or region.balls)


def check_entropy(arguments: Arguments) -> None:
    """Refuse a problem that is not a function plus the entropy of all its variables.

    Raises:
        ValueError: the domain has variables without an entropy, or further constraints.
    """
    if not is_for_entropy(arguments):
        what = (
            "this problem has further constraints (subject_to)"
            if arguments.subject_to
            else f"this domain is a {type(arguments.domain).__name__}"
        )
        raise ValueError(
            f"solver={NAME!r} minimises a function plus the entropy of all its variables, over Cube(n, entropy=True), "
            f"and {what}: use solver='auto'"
        )


def minimise_with_entropy(arguments: Arguments) -> Solution:
    """`minimise` over a cube with an entropy, by the bundle entropy method.

    For solver="auto" it takes fewer steps than Newton's method, and its steps cost less, whatever n, the tolerance and
    the slopes are; where it does not end, Newton's method goes on from its points.
    """
    check_entropy(arguments)
    if arguments.derivative == "unrolled":
        raise ValueError('derivative="unrolled" is for boxes without further constraints: use "exact" or "smoothed"')
    reading = read_module(arguments)
    everywhere = check_certified(reading, arguments)
    own = sources_of(reading, arguments.module)
    check_transforms(own)
    keep = wants_gradients(own, arguments.inputs, arguments.box)
    work = EntropyWork(arguments, tableau_of(arguments), reading, everywhere)
    with torch.no_grad():
        work.run(check=False)
        if arguments.solver == "auto" and not work.is_finished():
            return minimise_over_region(replace(arguments, start=work.x.double()))
        if keep:
            work.read_with_atoms(check=arguments.derivative == "exact")
        solution = work.solution()
    if keep:
        x, value = work.attached(own, solution)
        solution = replace(solution, x=x, value=value, upper_bound=value)
    return solution


class EntropyForward(OwnForward):
    """The values of a module's own forward plus the entropy; see `OwnForward`."""

    def value(self, y: Tensor) -> Tensor:
        """F(y), (B,), at points of the cube (B, n)."""
        return super().value(y) + entropy(y)


class EntropyWork(Work):
    """One run of the bundle entropy method. `reading` is that of f without the entropy."""

    found: Incumbents | None = None
    problem: EntropyProblem | None = None

    def run(self, check: bool) -> None:
        """Solve the batch.

        Args:
            check: not used.
        """
        arguments = self.arguments
        everyone = torch.arange(arguments.batch, device=self.value.device)
        own = self.forward()
        plain, closed = problem_of(self.reading, arguments, self.everywhere)
        problem = EntropyProblem(WithEntropy(plain.f), plain.lo, plain.hi, None, plain.exact)
        found, self.used = solve(problem, replace(arguments, solver=NAME), closed)
        self.steps += found.steps
        self.found, self.problem = found, problem
        average_multipliers(plain.f, found)
        proof, lost = prove_bounds(problem, found)
        done = Search(arguments, self.reading, problem, closed, found, self.used)
        self.note(own, everyone, done, proof, lost)

    def is_finished(self) -> bool:
        """Whether all samples have converged, or nothing more is to be tried."""
        if self.arguments.budget.is_spent or self.arguments.budget.max_steps is not None:
            return True
        return bool(self.converged(torch.arange(self.arguments.batch, device=self.value.device)).all())

    def forward(self) -> OwnForward:
        """The objective with its entropy, by the module's own forward."""
        return own_forward(self.reading, self.arguments, EntropyForward)

    def rise(self, own: OwnForward, rows: Tensor, x: Tensor, value: Tensor) -> Tensor:
        """S for points x (R, n) of the cube, as `incumbents.rises`, (R,); of the function as the solver sees it."""
        assert self.problem is not None
        part = self.problem if len(rows) == self.problem.batch else self.problem.rows(rows)
        ways = sign_patterns(x.shape[1], x)[:, None]
        return rises(part, x, part.f.value(x), ways).amax(0)

    def read_with_atoms(self, check: bool) -> None:
        """Read the function with its entropy as atoms, for derivatives.

        Args:
            check: refuse what has no derivatives.
        """
        assert self.found is not None
        arguments, tableau = self.arguments, self.tableau
        reading, everywhere = read(arguments, tableau)
        inner = tableau.weighted(torch.zeros_like(self.value))
        problem, closed = problem_of(reading, replace(inner, solver=NAME), everywhere)
        if check:
            check_derivatives(reading, problem.f, "auto", tableau.arguments.inputs, arguments.box)
        found = replace(self.found, evidence={}, kept={})  # which is of the function without the entropy
        if check:
            refine_smooth(problem, found)
        rows = torch.arange(arguments.batch, device=self.value.device)
        self.pieces = [(rows, Search(inner, reading, problem, closed, found, self.used))]
        self.reading = reading

    def solution(self) -> Solution:
        """What has become of the samples, without gradients."""
        made = super().solution()
        return replace(made, found=Multipliers(self.multipliers_read))

    def multipliers_read(self) -> dict[str, Tensor]:
        """The multipliers, for which the function is read first."""
        if not self.pieces:
            with torch.no_grad():
                self.read_with_atoms(check=False)
        return self.multipliers()


def average_multipliers(f: Any, found: Incumbents) -> None:
    """Put averages of multipliers in the place of averages of tangents, where the function is piecewise linear.

    They give the same plane, and proving it then takes the program once for a sample, not once for each tangent.

    Args:
        f: the functions without the entropy.
        found: with the evidence of the bundle entropy method.
    """
    tangents = found.evidence.get("tangents")
    if not isinstance(f, EpigraphForm) or not f.piecewise_linear or not f.atoms or tangents is None:
        return
    assert tangents.points is not None
    assert tangents.shares is not None
    owner, which = (tangents.shares > LEAST).nonzero(as_tuple=True)
    weight = tangents.shares[owner, which][:, None]
    averages = [torch.zeros_like(c) for c in f.constants]
    for some in torch.arange(len(owner), device=owner.device).split(PLANES):
        part = f.rows(owner[some])
        a = part.arguments(tangents.points[owner[some], which[some]])
        chosen, _ = part.pull([atom.slopes(here) for atom, here in zip(part.atoms, a, strict=True)])
        for k, average in enumerate(averages):
            average.index_add_(0, owner[some], weight[some] * chosen[k])
    kept = found.kept.pop("tangents")
    del found.evidence["tangents"]
    rows = kept.nonzero()[:, 0]
    touching = [torch.zeros_like(c) for c in averages]
    found.keep(rows, pick_rows(Evidence(touch=found.y, multipliers=averages, touching=touching), rows))


PLANES = 2048
"""Tangents whose multipliers are computed at once."""
