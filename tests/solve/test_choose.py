"""Which solver is chosen, that each one asked for by name solves what it can, and what it says where it cannot."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.choices import SOLVERS
from convexnet.curvature.tracing.trace import trace
from convexnet.form.program import OpenedProgram
from convexnet.solve.functions.black_box import WholeProgram
from convexnet.solve.solvers.choose import MATRICES

NAMES = tuple(name for name in SOLVERS if name != "bundle-entropy")  # which is for a cube with entropy


class WithNorm(nn.Module):
    """A norm is no atom, so that the network is minimised as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = cx.nn.FICNN(3, hidden=(6,), activation="relu")

    def forward(self, y: Tensor) -> Tensor:
        return self.inner(y)[:, 0] + y.norm(p=3.5, dim=1)


def test_a_large_image_is_minimised_through_its_layers(seed: int) -> None:
    torch.manual_seed(seed)
    net = cx.nn.ConvFICNN((1, 40, 40), [(4, 5, 2, 2), (4, 3, 2, 1)], hidden=(8,), activation="relu")
    box = cx.Box(0, 1, shape=(1, 40, 40))
    found = cx.minimise(net, box, tol=1e-3)  # with gradients switched on
    with torch.no_grad():
        again = cx.minimise(net, box, tol=1e-3)
    assert found.solver == again.solver == "fista"
    assert bool(found.converged)
    torch.testing.assert_close(found.value.detach(), again.value, rtol=1e-9, atol=0)
    points = torch.rand(200, 1, 40, 40)
    with torch.no_grad():
        assert float(net(points).min()) >= float(found.lower_bound)


def test_what_cannot_be_opened_is_minimised_as_a_whole(seed: int) -> None:
    torch.manual_seed(seed)
    net = WithNorm().double()
    found = cx.minimise(net, cx.Box(-1, 1, shape=(3,)))
    assert found.solver == "bundle"
    assert bool(found.converged)
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 41, dtype=torch.float64)] * 3)
    with torch.no_grad():
        least = float(net(grid).min())
    assert float(found.lower_bound) <= least + 1e-12
    assert float(found.value.detach()) <= least + 1e-6


@pytest.fixture(scope="module")
def gated(common_seed: int) -> tuple[nn.Module, cx.Box, Tensor, cx.Solution]:
    """A network on a box, what is given to it, and its minima: once for all solvers."""
    torch.manual_seed(common_seed)
    net = cx.nn.PICNN(2, 4, hidden=(10, 10), activation="leaky_relu").double()
    x = torch.randn(3, 2, dtype=torch.float64)
    box = cx.Box(-1, 1, shape=(4,))
    return net, box, x, cx.minimise(net, box, given=x, tol=1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "auto"])
def test_every_solver_by_name(name: str, gated: tuple[nn.Module, cx.Box, Tensor, cx.Solution]) -> None:
    if name == "lp":
        pytest.importorskip("highspy")
    net, box, x, best = gated
    found = cx.minimise(net, box, given=x, tol=1e-3, solver=name)
    assert found.solver == name
    assert bool(found.converged.all()), found.message
    size = best.value.detach().abs().clamp(min=1e-3)
    assert bool((found.value >= best.lower_bound - 1e-12).all())
    assert bool((found.lower_bound <= best.value + 1e-12).all())
    assert float(((found.value - best.value).detach() / size).max()) < 1e-2


@pytest.mark.parametrize("name", MATRICES)
def test_a_solver_that_does_not_fit_says_so(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        cx.minimise(WithNorm(), cx.Box(-1, 1, shape=(3,)), solver=name)


def test_a_linear_program_needs_kinks_alone() -> None:
    with pytest.raises(ValueError, match="piecewise linear"):
        cx.minimise(cx.nn.FICNN(3, hidden=(4,)), cx.Box(-1, 1, shape=(3,)), solver="lp")


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_strong_convexity_proves_a_minimum_without_bounds(activation: str, seed: int) -> None:
    """A quadratic term is read off the network; nothing has to be declared."""
    torch.manual_seed(seed)
    net = cx.nn.FICNN(4, hidden=(12, 12), activation=activation, quadratic=2).double()
    free, half = (cx.Box(lo, float("inf"), shape=(4,)) for lo in (-float("inf"), 0.0))
    for box in (free, half):
        found = cx.minimise(net, box, tol=1e-8)
        assert bool(found.converged), found.message
        wide = cx.minimise(net, cx.Box(box.lo.clamp(min=-50), box.hi.clamp(max=50)), tol=1e-8)
        size = float(found.gap + wide.gap) + 1e-12
        assert abs(float(found.value.detach() - wide.value.detach())) <= size
        points = 5 * torch.randn(500, 4, dtype=torch.float64)
        with torch.no_grad():
            assert float(net(box.project(points)).min()) >= float(found.lower_bound)


def test_without_strong_convexity_nothing_is_proved_on_a_free_space(seed: int) -> None:
    torch.manual_seed(seed)
    net = cx.nn.FICNN(3, hidden=(8,), activation="relu")
    found = cx.minimise(net, cx.Box(-float("inf"), float("inf"), shape=(3,)), max_steps=20)
    assert not bool(found.converged)
    assert float(found.lower_bound) == -float("inf")
    assert "finite bounds" in found.message


class BendsDown(nn.Module):
    """Convex for y >= -1 only; at -1 autograd takes the slope of the wrong side."""

    def forward(self, y: Tensor) -> Tensor:
        return (0.1 * y.exp() - torch.relu(y + 1)).sum(1)


@pytest.mark.parametrize("start", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("name", ["bundle", "fista", "adam"])
def test_a_kink_on_the_border_of_the_domain_makes_no_false_bound(name: str, start: float) -> None:
    net = BendsDown().double()
    least = float(net(torch.ones(1, 1, dtype=torch.float64)))
    found = cx.minimise(net, cx.Box(-1, 1, shape=(1,)), start=torch.tensor([start]), solver=name, tol=1e-6)
    assert bool(found.converged)
    assert float(found.lower_bound) <= least + 1e-8  # x is rounded to float32
    border = torch.full((1, 1), -1.0, dtype=torch.float64)
    for centre in (None, torch.zeros(1, 1, dtype=torch.float64)):
        opened = OpenedProgram(trace(net, border, any_batch=True), 0)
        value, slope = WholeProgram(opened, [border], centre=centre).subgradient(border)
        above = float(value + slope[0, 0] * 2) - least
        assert (above > 0.1) == (centre is None)  # the negative control: without care the tangent cuts through f
