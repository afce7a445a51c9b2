"""The level bundle against the exact linear program, and on the functions that trap bundle methods."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from convexnet.solve.functions.problem import Problem
from convexnet.solve.rounding_errors import Rounding, Tracked
from convexnet.solve.solvers.bundle import Bundle, BundleState, low_point
from tests.drawing import some
from tests.solve.networks import NETWORKS
from tests.solve.problems import BATCH, KNOWN, at, both, boxes, forms_of, optima, planes, solved
from tests.solve.test_matrix_free import curved

TOL = 1e-7


@pytest.mark.parametrize("name", some(NETWORKS, 6, "bundles"))
def test_the_optimum_of_the_linear_program(name: str, common_seed: int) -> None:
    pytest.importorskip("highspy")
    form, layers, model, inputs = both(name, common_seed)
    lo, hi = boxes(BATCH, form.size, common_seed)
    for f in (form, layers):
        found = solved(Bundle(), Problem(f, lo, hi), TOL, 100)
        assert bool(((lo <= found.y) & (found.y <= hi)).all())
        assert torch.allclose(at(model, inputs, found.y), found.value, rtol=1e-10, atol=1e-10)
        for sample, optimum in enumerate(optima(name, common_seed)):
            room = 1e-7 * max(abs(optimum), 1.0)  # of the program's own tolerances
            assert float(found.value[sample]) >= optimum - room
            assert float(found.bound[sample]) <= optimum + room
        assert not bool(found.open(TOL).any())


@pytest.mark.parametrize("name", KNOWN)
def test_degenerate_functions(name: str) -> None:
    f, best, least = KNOWN[name]
    one = torch.ones(1, f.size, dtype=torch.float64)
    found = solved(Bundle(), Problem(f, -one, one), 1e-8, 40)
    size = max(abs(least), float(f.value(one)) - least, float(f.value(-one)) - least)
    assert float(found.value) == pytest.approx(least, abs=1e-8 * size)
    assert float(found.bound) == pytest.approx(least, abs=1e-8 * size)
    assert float(found.bound) <= least + 1e-14 * size
    if best is not None:
        assert found.y[0].tolist() == pytest.approx(best, abs=1e-6)


def test_from_the_point_where_published_code_fails() -> None:
    """5 |y − 0.3| on [0, 1] from 0.5, and three planes on a square from a point where one of them is active."""
    f, _, _ = KNOWN["a kink beside the centre"]
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    problem = Problem(f, zero, one)
    assert problem.centre().tolist() == [[0.5]]
    found = solved(Bundle(), problem, 1e-9, 20)
    assert found.y.item() == pytest.approx(0.3, abs=1e-9)
    three = planes([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], [0.0, 0.0, 0.0])
    square = torch.tensor([[-1.0, -0.5]], dtype=torch.float64)
    found = solved(Bundle(), Problem(three, square, square + 2.5), 1e-9, 40)
    assert float(found.value) == pytest.approx(0.0, abs=1e-8)
    assert float(found.bound) == pytest.approx(0.0, abs=1e-8)


def test_few_evaluations(seed: int) -> None:
    """From 1 to 8 variables a few dozen at most, and few with two."""
    generator = torch.Generator().manual_seed(seed)
    for n, most in ((1, 15), (2, 25), (4, 40), (8, 70)):
        slopes = torch.randn(200, n, generator=generator, dtype=torch.float64)
        f = planes((slopes / n**0.5).tolist(), (-(slopes**2).sum(1) / 4).tolist())
        one = torch.ones(1, n, dtype=torch.float64)
        found = solved(Bundle(), Problem(f, -one, one), 1e-6, most)
        assert not bool(found.open(1e-6).any()), (n, found)


def test_dropped_planes_do_not_break_it(common_seed: int) -> None:
    form, _, _, _ = both("depth 3", common_seed)
    lo, hi = boxes(BATCH, form.size, common_seed)
    found = solved(Bundle(keep=8), Problem(form, lo, hi), 1e-6, 100)
    exact = solved(Bundle(), Problem(form, lo, hi), 1e-8, 100)
    assert not bool(found.open(1e-5).any())
    assert bool((found.bound <= exact.value + 1e-12).all())


def test_a_batch_equals_its_singles(common_seed: int) -> None:
    form, _, _, _ = both("gated", common_seed)
    lo, hi = boxes(BATCH, form.size, common_seed)
    whole = solved(Bundle(), Problem(form, lo, hi), 1e-6, 100)
    for sample in range(BATCH):
        one = torch.tensor([sample])
        alone = solved(Bundle(), Problem(form.rows(one), lo[one], hi[one]), 1e-6, 100)
        assert float(alone.value) == pytest.approx(float(whole.value[sample]), rel=1e-9, abs=1e-10)
        assert abs(int(alone.steps) - int(whole.steps[sample])) <= 2  # rounding may end one a step sooner


def test_the_bound_is_true_whatever_the_multipliers_are(seed: int) -> None:
    """The multipliers lie on the simplex at any stage, so that what they make lies below every plane's maximum."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for scale in (1e-6, 1.0, 1e6):
        G, h = scale * drawn(3, 6, 2), scale * drawn(3, 6)
        y = torch.zeros(3, 2, dtype=torch.float64)
        state = BundleState(
            G,
            h,
            y[:, None].expand(-1, 6, -1),
            y,
            h.amax(1),
            torch.full((3,), -torch.inf).double(),
            y,
            *2 * [torch.ones(3, 1).double() / 2],
        )
        point, weights, _ = low_point(state, y - 1, y + 1)
        assert float(point.abs().max()) <= 1
        assert float(weights.min()) >= 0
        assert torch.allclose(weights.sum(1), torch.ones(3).double())
        slope = torch.einsum("bm,bmn->bn", weights, G)
        bound = (weights * h).sum(1) - slope.abs().sum(1)
        grid = torch.cartesian_prod(torch.linspace(-1, 1, 101).double(), torch.linspace(-1, 1, 101).double())
        least = (grid @ G.mT + h[:, None]).amax(2).amin(1)
        assert bool((bound <= least + 1e-12 * scale).all())
        assert bool((bound >= least - 0.2 * scale).all())


def test_bounds_without_an_end_give_no_false_bound(common_seed: int) -> None:
    f, _, _ = KNOWN["a kink beside the centre"]
    line = torch.full((1, 1), torch.inf, dtype=torch.float64)
    found = solved(Bundle(), Problem(f, -line, line), TOL, 30)
    assert float(found.value) == pytest.approx(0.0, abs=1e-5)
    assert float(found.bound) <= 1e-12  # the search's own; rounding is taken off when it is proved
    ends = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    found = solved(Bundle(), Problem(KNOWN["a corner"][0], -torch.inf * ends, ends), TOL, 10)
    assert float(found.bound) == -torch.inf
    assert float(found.value) < -1e3
    form, _, _, _ = both("depth 2", common_seed)
    lo, hi = boxes(BATCH, form.size, common_seed)
    lo[:, 0] = hi[:, 0] = 0.25
    found = solved(Bundle(), Problem(form, lo, hi), TOL, 60)
    assert found.y[:, 0].unique().tolist() == [0.25]
    assert not bool(found.open(TOL).any())


def test_smooth_networks(seed: int) -> None:
    model, inputs = curved(seed)
    form, layers = forms_of(model, inputs)
    lo, hi = boxes(BATCH, form.size, seed)
    first, second = (solved(Bundle(), Problem(f, lo, hi), 1e-5, 100) for f in (form, layers))
    assert not bool(first.open(1e-5).any())
    assert torch.allclose(first.value, second.value, rtol=1e-5, atol=1e-5)
    assert bool((first.bound <= second.value + 1e-12).all())


@pytest.mark.parametrize("name", ["relu", "elu", "abs", "hardtanh"])
def test_the_error_of_a_kink_is_that_of_its_steeper_side(name: str) -> None:
    """Just beside it the slope may be 0 where the number itself, without its rounding, is on the other side."""
    places = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)  # of kinks
    x = (places[:, None] + 1e-9 * torch.linspace(-3, 3, 25, dtype=torch.float64)).flatten()
    function = getattr(torch.nn.functional, name, None) or getattr(torch, name)
    out = Rounding()(name, function, [Tracked(x, torch.full_like(x, 2e-9))], {})
    for shift in torch.linspace(-2e-9, 2e-9, 17, dtype=torch.float64):
        assert bool(((function(x + shift) - out.value).abs() <= out.error).all())
    endless = Rounding()("sin", torch.sin, [Tracked(x, torch.full_like(x, float("inf")))], {})
    assert bool(endless.error.isinf().all())
