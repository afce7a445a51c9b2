"""Every row of the lowering table, in energies that are drawn: `minimise` and the exporters find one optimum.

The rows come from the table and the energies from the samples of their oracles, so that a new row joins by itself; one
that nothing could be compared of fails.
"""

from __future__ import annotations

from typing import Any

import pytest

import convexnet as cx
from convexnet.form.operators import LOWERED
from tests.solve.energies import Drawn, drawn

cp = pytest.importorskip("cvxpy")
pytest.importorskip("highspy")
pytestmark = pytest.mark.filterwarnings(
    "ignore:The problem has an expression with dimension", "ignore:Solution may be inaccurate"
)

TRIES = 40
"""Energies that are drawn of an operator, most of which are not convex with either sign."""

CONELESS = ("lgamma", "special_gammaln", "special_log_ndtr")
OTHERWISE = ("sort",)
"""Sums of what it makes are convex for weights in order only, as `test_agreement` has them."""


def optima_of(energy: Drawn) -> list[float] | None:
    """What the exporters find for the first sample of an energy; None: there is no form, or the operator is not there.

    Sizes are those of the operator: what a large scale costs a conic solver is no difference of the forms.
    """
    model, given, box = energy.model, tuple(part[:1] for part in energy.given), energy.box
    n = box.lo.numel()
    y = cp.Variable(n, bounds=[box.lo.numpy(), box.hi.numpy()])
    try:
        problem = cp.Problem(cp.Minimize(cx.to_cvxpy(model, y, given or None)))
    except cx.NotCertified:
        return None
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    found = [float(problem.solution.opt_val)]
    try:
        lp = cx.to_lp(model, box, given or None)
    except cx.NotCertified:
        return found
    lp.run()
    return [*found, float(lp.getInfo().objective_function_value)]


def compare(name: str, count: int) -> int:
    """Compare energies of an operator, so many as are wanted; how many there were."""
    met = refused = 0
    for seed in range(TRIES):
        energy = drawn(seed, name)
        if energy is None:
            continue
        model: Any = energy.model.double()
        model.scale, model.offset = 1.0, 0.0
        energy = Drawn(
            name, energy.sample, model, tuple(part.double() for part in energy.given),
            cx.Box(energy.box.lo.double(), energy.box.hi.double()), energy.about,
        )  # fmt: skip
        try:
            optima = optima_of(energy)
            given = tuple(part[:1] for part in energy.given)
            solution = cx.minimise(model, energy.box, given=given or None, tol=1e-7)
        except cx.NotTraceable:  # an oracle's constant has a row for each of two samples
            continue
        if optima is None:
            refused += 1
            if refused > 3 and not met:
                return -1
            continue
        assert bool(solution.converged), energy.about
        for optimum in optima:
            room = 5e-6 * (1 + abs(optimum))
            assert float(solution.lower_bound) - room <= optimum <= float(solution.value) + room, energy.about
        met += 1
        if met == count:
            break
    return met


@pytest.mark.parametrize("name", sorted(LOWERED)[::24])
def test_a_sample_of_optima_agrees(name: str) -> None:
    assert compare(name, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LOWERED))
def test_optima_agree(name: str) -> None:
    met = compare(name, 2)
    assert (met <= 0) == (name in CONELESS + OTHERWISE)
