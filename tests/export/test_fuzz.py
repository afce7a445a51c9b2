"""Random programs that are certified: their forms compute them, and nothing gains by raising a result in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import convexnet as cx
from convexnet.curvature import certify_program
from convexnet.curvature.fields import BATCH
from convexnet.form.program import OpenedProgram
from convexnet.form.sparse import Sample, SparseForm, sparse_form
from convexnet.form.tightness import check_tight
from tests.curvature.fuzz import Built, anything, convex
from tests.export.forms import evaluated

cp = pytest.importorskip("cvxpy")
pytestmark = pytest.mark.filterwarnings(
    "ignore:The problem has an expression with dimension", "ignore:Solution may be inaccurate"
)


def exportable(built: Built) -> tuple[Sample, SparseForm] | None:
    """The form of a program of one output that is convex in one input everywhere, if it has one."""
    program = built.program
    real = [i for i, tensor in enumerate(program.inputs) if tensor.is_floating_point()]
    variable = built.wrt if built.wrt is not None else real[0]
    others = built.wrt is None and len(real) > 1
    if others or len(program.outputs) != 1 or any(box is not None for box in built.domain or ()):
        return None
    if not certify_program(program, variable).convex:
        return None
    sender = Sample(OpenedProgram(program, variable, (), paired=True), [x[:1] for x in program.inputs], BATCH)
    return sender, sparse_form(sender)


def assert_right(built: Built, seed: int, solve: bool) -> str:
    """What became of a program: fine, skipped, or refused."""
    try:
        found = exportable(built)
        if found is None:
            return "skipped"
        sender, form = found
        positive = check_tight(form, "Fuzzed")
    except cx.NotCertified:
        return "refused"
    random = np.random.default_rng(seed)
    for scale in (0.3, 1.0, 3.0):
        y = scale * random.standard_normal(form.size)
        expected = sender.value(sender.inputs, torch.tensor(y)).detach().reshape(-1).numpy()
        size = 1e-7 * (1 + np.abs(expected).max())
        if not size < 1:
            continue
        np.testing.assert_allclose(evaluated(form, y), expected, rtol=1e-7, atol=size)

        def raised(z: Any) -> Any:
            return z + np.abs(random.standard_normal(z.shape)) * (random.random(z.shape) < 0.5)

        with np.errstate(over="ignore", invalid="ignore"):  # exponentials of what was raised
            lower = evaluated(form, y, raised) < expected - size
        assert not lower.any(), "a greater result lowers the output"
        if solve and scale < 3 and form.cuts:
            from convexnet.export.cvxpy_atom import Given, network

            variable = cp.Variable(form.size)
            cost = network(variable, Given(sender, form, sender.inputs, [], positive))
            problem = cp.Problem(cp.Minimize(cp.sum(cost)), [variable == y])
            problem.solve(solver="CLARABEL")
            assert problem.solution.opt_val == pytest.approx(expected.sum(), rel=1e-5, abs=1e-5)
    return "fine"


@pytest.mark.parametrize("build", [convex, anything])
def test_random_programs(build: Callable[[int], Built], seed: int) -> None:
    first = seed % 1_000_000
    counts = Counter(assert_right(build(number), number, solve=number % 5 == 0) for number in range(first, first + 40))
    assert counts["fine"] >= 5, f"most programs should have a form: {counts}"


@pytest.mark.slow
@pytest.mark.parametrize("build", [convex, anything])
def test_many_random_programs(build: Callable[[int], Built], seed: int) -> None:
    first = seed % 1_000_000
    counts = Counter(assert_right(build(number), number, solve=True) for number in range(first, first + 600))
    assert counts["fine"] >= 100, f"most programs should have a form: {counts}"


def test_a_wrong_form_is_found() -> None:
    """The negative control: one entry of one map is changed, then one sign."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)).double()
    with torch.no_grad():
        model[2].weight.abs_()
    from convexnet.export.arguments import read_form

    form, sender = read_form(model, (torch.zeros(1, 2, dtype=torch.float64),), ())
    y = np.array([0.4, -0.7])
    expected = sender.value(sender.inputs, torch.tensor(y)).detach().numpy()
    np.testing.assert_allclose(evaluated(form, y), expected, rtol=1e-12)
    assert (evaluated(form, y, lambda z: z + 1) >= expected).all()
    form.maps[1, 1] = -form.maps[1, 1]
    assert not np.allclose(evaluated(form, y), expected)
    assert not (evaluated(form, y, lambda z: z + 1) >= evaluated(form, y)).all()
