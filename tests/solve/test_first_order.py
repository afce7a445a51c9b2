"""First-order methods against the exact linear program: bounds that hold, gaps that shrink, samples that do not mix."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from convexnet.curvature.call import Refusal
from convexnet.curvature.tracing.trace import trace
from convexnet.form.atoms import Kinks
from convexnet.form.grouped import Largest
from convexnet.form.program import OpenedProgram
from convexnet.solve.functions.black_box import WholeProgram
from convexnet.solve.functions.problem import Problem
from convexnet.solve.solvers.admm import ADMM, project_on_epigraph
from convexnet.solve.solvers.first_order import Adam, Fista
from convexnet.solve.solvers.loop import Solver
from convexnet.solve.solvers.pdhg import PDHG
from tests.drawing import some
from tests.solve.networks import NETWORKS
from tests.solve.problems import BATCH, KNOWN, at, both, boxes, forms_of, optima, solved
from tests.solve.test_matrix_free import curved

SOLVERS: dict[str, tuple[Callable[[], Solver], float, int]] = {
    "fista": (Fista, 1e-3, 100),
    "adam": (Adam, 1e-2, 100),
    "pdhg": (PDHG, 1e-3, 100),
    "admm": (ADMM, 1e-3, 150),
}
"""A solver, the relative gap that it must reach on every network here, and in how many steps."""

MATRICES = ("admm",)
"""These need the layers as matrices."""

HARD = {"pictures": 20.0}
"""Where smoothing costs more: the gap may be so many times larger after the same steps."""


CASES = [
    (solver, name, kind)
    for solver in SOLVERS
    for kind, names in (("matrices", [*NETWORKS]), ("layers", ["pictures", "gated", "maxima"]))
    for name in names
    if kind == "matrices" or solver not in MATRICES
]


@pytest.mark.parametrize(
    ("solver", "name", "kind"),
    [case for solver in SOLVERS for case in some([case for case in CASES if case[0] == solver], 5, f"lp, {solver}")],
)
def test_between_them_lies_the_optimum_of_the_linear_program(
    solver: str, name: str, kind: str, common_seed: int
) -> None:
    pytest.importorskip("highspy")
    make, tol, most = SOLVERS[solver]
    tol *= HARD.get(name, 1.0)
    form, layers, model, inputs = both(name, common_seed)
    lo, hi = boxes(BATCH, form.size, common_seed)
    found = solved(make(), Problem(form if kind == "matrices" else layers, lo, hi), tol, most)
    assert bool(((lo <= found.y) & (found.y <= hi)).all())
    assert torch.allclose(at(model, inputs, found.y), found.value, rtol=1e-10, atol=1e-10)
    for sample, optimum in enumerate(optima(name, common_seed)):
        room = 1e-7 * max(abs(optimum), 1.0)  # of the program's own tolerances
        assert float(found.value[sample]) >= optimum - room
        assert float(found.bound[sample]) <= optimum + room
    assert not bool(found.open(tol).any())


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("solver", SOLVERS)
def test_degenerate_functions(solver: str, name: str) -> None:
    make, tol, most = SOLVERS[solver]
    f, best, least = KNOWN[name]
    one = torch.ones(1, f.size, dtype=torch.float64)
    found = solved(make(), Problem(f, -one, one), tol, most)
    size = max(abs(least), float(f.value(one)) - least, float(f.value(-one)) - least)
    assert float(found.value) <= least + tol * size
    assert float(found.bound) <= least + 1e-12 * size
    assert float(found.bound) >= least - tol * size
    if best is not None:
        assert found.y[0].tolist() == pytest.approx(best, abs=10 * tol)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_batch_equals_its_singles(solver: str, common_seed: int) -> None:
    make, _, _ = SOLVERS[solver]
    form, _, _, _ = both("gated", common_seed)
    lo, hi = boxes(BATCH, form.size, common_seed)
    whole = solved(make(), Problem(form, lo, hi), 1e-12, 5)
    for sample in range(BATCH):
        one = torch.tensor([sample])
        alone = solved(make(), Problem(form.rows(one), lo[one], hi[one]), 1e-12, 5)
        assert float(alone.value) == pytest.approx(float(whole.value[sample]), rel=1e-7, abs=1e-9)
        assert float(alone.bound) == pytest.approx(float(whole.bound[sample]), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_bounds_without_an_end_give_no_false_bound(solver: str, common_seed: int) -> None:
    """3 y has no minimum on y <= 1, |y - 0.3| has one on the line; fixed coordinates stay where they are."""
    make, tol, most = SOLVERS[solver]
    f, _, _ = KNOWN["a kink beside the centre"]
    line = torch.full((1, 1), torch.inf, dtype=torch.float64)
    found = solved(make(), Problem(f, -line, line), tol, most)
    assert float(found.bound) <= 1e-12  # the minimum is 0; sums are rounded in an order of their own
    assert float(found.value) <= 0.1
    falling = KNOWN["a corner"][0]
    ends = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    found = solved(make(), Problem(falling, -torch.inf * ends, ends), tol, 3)
    assert float(found.bound) == -torch.inf
    form, _, _, _ = both("depth 2", common_seed)
    lo, hi = boxes(BATCH, form.size, common_seed)
    lo[:, 0] = hi[:, 0] = 0.25
    found = solved(make(), Problem(form, lo, hi), tol, most)
    assert found.y[:, 0].unique().tolist() == [0.25]
    assert not bool(found.open(tol).any())


@pytest.mark.parametrize("solver", ["fista", "adam"])
def test_smooth_networks(solver: str, seed: int) -> None:
    """As matrices, as layers, and by autograd alone, of which none knows more than the others about the minimum."""
    make, tol, most = SOLVERS[solver]
    model, inputs = curved(seed)
    form, layers = forms_of(model, inputs)
    lo, hi = boxes(BATCH, form.size, seed)
    plain = WholeProgram(OpenedProgram(trace(model, tuple(inputs), any_batch=True), 0), inputs)
    all_found = [solved(make(), Problem(f, lo, hi), tol, most) for f in (form, layers, plain)]
    for found in all_found:
        assert not bool(found.open(tol).any())
        assert torch.allclose(at(model, inputs, found.y), found.value, rtol=1e-10, atol=1e-10)
        for other in all_found:
            assert bool((found.bound <= other.value + 1e-10).all())
    grid = torch.rand(2000, form.size, dtype=torch.float64)
    for sample in range(BATCH):
        y = torch.lerp(lo[sample], hi[sample], grid)
        values = model(y).reshape(-1).detach()
        assert float(all_found[0].bound[sample]) <= float(values.min())


class Plane(nn.Module):
    """An affine function: no atoms at all."""

    def forward(self, y: Tensor) -> Tensor:
        return y @ torch.tensor([1.0, -2.0], dtype=y.dtype) + 0.5


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_affine_function(solver: str) -> None:
    make, tol, most = SOLVERS[solver]
    y = torch.zeros(1, 2, dtype=torch.float64)
    one = torch.ones(1, 2, dtype=torch.float64)
    for f in forms_of(Plane(), [y])[: 1 if solver in MATRICES else 2]:
        found = solved(make(), Problem(f, -one, one), tol, most)
        assert float(found.value) == pytest.approx(-2.5)
        assert float(found.bound) == pytest.approx(-2.5)


@pytest.mark.parametrize("solver", ["pdhg", "admm"])
def test_what_is_not_piecewise_linear_is_refused(solver: str, seed: int) -> None:
    model, inputs = curved(seed)
    form, _ = forms_of(model, inputs)
    lo, hi = boxes(BATCH, form.size, seed)
    with pytest.raises(Refusal, match="Smooth"):
        solved(SOLVERS[solver][0](), Problem(form, lo, hi), 1e-3, 1)


@pytest.mark.parametrize("atom", [Kinks(torch.tensor([0.0, 0.3, -1.0, 1.0]).double()), Largest(4), Largest(2)])
def test_projections_above_an_atom(atom: Kinks | Largest, seed: int) -> None:
    """Nothing above the atom is nearer, and what is above already stays."""
    generator = torch.Generator().manual_seed(seed)
    a = 2 * torch.randn(50, 4, generator=generator, dtype=torch.float64)
    z = 2 * torch.randn(50, 4 // atom.group, generator=generator, dtype=torch.float64)
    near_a, near_z = project_on_epigraph(atom, a, z)
    assert bool((near_z >= atom.value(near_a) - 1e-12).all())
    for _ in range(200):  # the angle to any other point above is not acute
        other = near_a + torch.randn(a.shape, generator=generator, dtype=torch.float64)
        high = atom.value(other) + torch.rand(z.shape, generator=generator, dtype=torch.float64)
        pairs = ((a - near_a) * (other - near_a), (z - near_z) * (high - near_z))
        assert float((pairs[0].sum(1) + pairs[1].sum(1)).max()) <= 1e-9
    same_a, same_z = project_on_epigraph(atom, near_a, near_z)
    assert torch.allclose(same_a, near_a)
    assert torch.allclose(same_z, near_z)


@pytest.mark.parametrize("solver", ["pdhg", "admm"])
def test_gates_that_make_the_bound(solver: str, common_seed: int) -> None:
    form, _, _, _ = both("maxima", common_seed)
    lo, hi = boxes(BATCH, form.size, common_seed)
    problem = Problem(form, lo, hi)
    state_of = SOLVERS[solver][0]()
    state = state_of.begin(problem, solved(state_of, problem, 1e-9, 1))
    offer = state_of.step(problem, state)
    assert offer is not None
    assert offer.evidence is not None
    slopes = offer.evidence(torch.arange(form.batch)).slopes
    assert slopes is not None
    g, b = form.minorant(slopes, form.arguments(offer.y))
    assert torch.allclose(problem.proved_minimum(g, b), offer.bound, rtol=1e-9, atol=1e-9)
