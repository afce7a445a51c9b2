"""The fast ways of energies: x computed once, cutting planes over classes, bundle entropy over labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.energy import EnergyTraining, Joint, fit, predict, structured_hinge, unrolled
from convexnet.energy.contexts import context_of, in_two_steps, value_with
from convexnet.energy.cutting_planes import least_over_simplex
from convexnet.energy.entropy import search, zero_with_derivative
from convexnet.energy.hinge import ClassMargin, LabelMargin, hinge_over_classes, hinge_over_labels
from tests.test_energy import differences


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


X = torch.randn(7, 3, generator=drawn()).double()


def picnn(size: int, seed: int = 0, **more: Any) -> nn.Module:
    torch.manual_seed(seed)
    return cx.nn.PICNN(3, size, hidden=(8, 6), **more).double()


def ficnn(size: int, seed: int = 0, **more: Any) -> nn.Module:
    torch.manual_seed(seed)
    return Joint(cx.nn.FICNN(3 + size, hidden=(8, 6), **more).double())


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "picnn": picnn,
    "picnn, quadratic, without pass-through": lambda size: picnn(size, quadratic=2, passthrough=False),
    "picnn, norm, clip": lambda size: picnn(size, x_norm=True, constraint="clip").eval(),
    "ficnn": ficnn,
    "ficnn, relu": lambda size: ficnn(size, activation="relu"),
    "ficnn, quadratic": lambda size: ficnn(size, quadratic=1),
    "joint of another": lambda size: Joint(nn.Linear(3 + size, 1).double()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_two_steps_are_the_forward(name: str) -> None:
    f, y = NETWORKS[name](4), torch.rand(7, 4, generator=drawn(1)).double()
    assert in_two_steps(f)
    assert torch.allclose(value_with(f, context_of(f, [X]), y), f(X, y)[:, 0], atol=1e-12)


def test_a_hook_or_another_forward_is_not_left_out() -> None:
    hooked = picnn(2)
    hooked.register_forward_hook(lambda module, inputs, output: 3 * output)
    y = torch.rand(7, 2, generator=drawn(1)).double()
    assert torch.allclose(value_with(hooked, context_of(hooked, [X]), y), hooked(X, y)[:, 0])

    class Scaled(cx.nn.PICNN):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return 5 * super().forward(x, y)

    other = Scaled(3, 2, hidden=(4,)).double()
    assert torch.allclose(value_with(other, context_of(other, [X]), y), other(X, y)[:, 0])
    assert torch.allclose(unrolled(other, X, cx.Cube(2), steps=1, rate=0.1), one_step(other, y))


def one_step(f: nn.Module, y: Tensor) -> Tensor:
    point = torch.full_like(y, 0.5).requires_grad_()
    (slope,) = torch.autograd.grad(f(X, point).sum(), point)
    return (point - 0.1 * slope).clamp(0, 1).detach()


# --- classes ---------------------------------------------------------------------------------------------------------


class Nearest(nn.Module):
    """c/2 ‖y − x‖²: over the simplex, least at the projection of x."""

    def __init__(self, c: float) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor(c, dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.c / 2 * (y - x).square().sum(1)


class Products(nn.Module):
    """⟨x, y⟩: over the simplex, least at the vertex of the least x."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.scale * x * y).sum(1)


@pytest.mark.parametrize("at", [torch.full((7, 3), 1 / 3), torch.eye(3)[torch.arange(7) % 3]], ids=["middle", "vertex"])
def test_minima_over_the_simplex_that_are_known(at: Tensor) -> None:
    none, start = torch.zeros(7, 3).double(), at.double()
    wanted = cx.Simplex(3).project(X)
    found = least_over_simplex(Nearest(2.0), [X], none, start, 1e-7, 1e-7)
    assert bool(found.converged.all())
    assert torch.allclose(found.y, wanted, atol=1e-3)
    assert bool((found.lower <= (wanted - X).square().sum(1) + 1e-9).all())
    found = least_over_simplex(Products(), [X], none, start, 1e-6)
    assert torch.allclose(found.value, X.amin(1), atol=1e-6)
    assert found.planes <= 3 * len(X)
    assert torch.equal(found.first, (X * start).sum(1))


@pytest.mark.parametrize("name", [pytest.param("picnn", marks=pytest.mark.slow), "ficnn, relu"])
def test_cutting_planes_against_minimise(name: str) -> None:
    f = NETWORKS[name](5)
    for parameter in f.parameters():
        parameter.data *= 2  # minima inside, not at vertices alone
    labels = torch.arange(7) % 5
    wanted = structured_hinge(f, X, labels, cx.Simplex(5), tol=1e-8)
    found = structured_hinge(f, X, labels, cx.Simplex(5), solver="vertices", tol=1e-7)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert bool((found >= 0).all())
    # In a batch as alone.
    start = torch.eye(5)[labels].double()
    alone = [least_over_simplex(f, [X[[i]]], start[[i]] - 1, start[[i]], 1e-7) for i in range(3)]
    assert torch.allclose(torch.cat([one.first - one.value for one in alone]), found[:3], atol=1e-6)
    best = predict(f, X, cx.Simplex(5), tol=1e-8)
    assert torch.allclose(predict(f, X, cx.Simplex(5), solver="vertices", tol=1e-8), best, atol=1e-2)
    bounds = least_over_simplex(f, [X], torch.zeros(7, 5), torch.full((7, 5), 0.2), 1e-6)
    exact = cx.minimise(f, cx.Simplex(5), X, tol=1e-9)
    assert bool((bounds.lower <= exact.value + 1e-9).all())
    assert bool((bounds.value >= exact.lower_bound - 1e-9).all())


def test_a_hinge_is_zero_where_the_margin_holds_and_has_no_gradient() -> None:
    f, sure = Products(), torch.tensor([[-9.0, 0.0, 0.0], [0.0, -9.0, 0.0]]).double()
    losses = structured_hinge(f, sure, [0, 2], cx.Simplex(3), solver="vertices")
    assert torch.allclose(losses, torch.tensor([0.0, 10.0]).double())
    (gradient,) = torch.autograd.grad(losses[0] + 0 * f.scale.sum(), list(f.parameters()), retain_graph=True)
    assert torch.equal(gradient, torch.zeros(3).double())


def test_gradients_of_the_hinge_over_classes() -> None:
    f, labels = picnn(3, 1), torch.arange(7) % 3
    truth = torch.eye(3)[labels].double()
    own, other = differences(
        f, lambda: hinge_over_classes(f, [X], truth, cx.Simplex(3), ClassMargin(), tol=1e-10)[0].sum(), 1e-4
    )
    assert torch.isclose(own, other, rtol=1e-3, atol=1e-4), (own, other)


# --- labels ----------------------------------------------------------------------------------------------------------


def test_a_minimum_with_entropy_that_is_known() -> None:
    """Of an affine f with slopes a it is σ(−a), with the value −Σ softplus(−a)."""
    f = Products()
    found = search(f, [X], 3, 1e-10)
    assert torch.allclose(found.y, torch.sigmoid(-X), atol=1e-6)
    assert torch.allclose(found.value, -nn.functional.softplus(-X).sum(1), atol=1e-8)
    assert bool((found.lower <= found.value + 1e-12).all())


@pytest.mark.parametrize(
    "name", ["picnn, quadratic, without pass-through", pytest.param("ficnn", marks=pytest.mark.slow)]
)
def test_bundle_entropy_against_minimise(name: str) -> None:
    f, cube = NETWORKS[name](6), cx.Cube(6, entropy=True)
    for parameter in f.parameters():
        parameter.data *= 2
    exact = cx.minimise(f, cube, X, tol=1e-9)
    found = search(f, [X], 6, 1e-7)
    assert bool(found.converged.all())
    assert torch.allclose(found.value, exact.value, atol=1e-6)
    assert bool((found.lower <= exact.value + 1e-9).all())
    assert torch.allclose(predict(f, X, cube, solver="planes", tol=1e-9), exact.x, atol=1e-3)


@pytest.mark.parametrize("make", [picnn, pytest.param(ficnn, marks=pytest.mark.slow)])
def test_gradients_through_bundle_entropy(make: Callable[..., nn.Module]) -> None:
    f, target = make(4, 2), torch.rand(7, 4, generator=drawn(5)).double()
    cube = cx.Cube(4, entropy=True)
    learner = EnergyTraining(f, X, target, cube, tol=1e-12, solver="planes")
    own, other = differences(f, lambda: learner.losses([X], target, None)[0].sum(), 1e-5)
    assert torch.isclose(own, other, rtol=1e-3, atol=1e-6), (own, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certain_labels_move_as_little_as_they_should(dtype: torch.dtype) -> None:
    """dy/ds = −y (1 − y) for f = s · y, also nearer to an end than 1e-7; of a log-loss it is about 1."""
    slope = torch.tensor([[25.0, -25.0, 18.0]], dtype=dtype, requires_grad=True)
    exact = torch.sigmoid(-slope.detach().double())
    y = exact.to(dtype)
    moved = y + zero_with_derivative(Products().to(dtype), [slope], y, exact)
    (found,) = torch.autograd.grad(moved.sum(), slope)
    assert torch.allclose(found.double(), -exact * (1 - exact), rtol=1e-3, atol=0.0)


def test_the_hinge_of_labels() -> None:
    f, cube = picnn(4, 3), cx.Cube(4, entropy=True)
    y = (torch.rand(7, 4, generator=drawn(6)) < 0.4).double()
    wanted = structured_hinge(f, X, y, cube, LabelMargin(), tol=1e-8)
    found = structured_hinge(f, X, y, cube, "labels", solver="planes", tol=1e-9)
    assert torch.allclose(found, wanted, atol=1e-5)
    hard = structured_hinge(f, X, y, cx.Cube(4), "labels", tol=1e-8)
    assert bool((found >= hard - 1e-6).all())
    own, other = differences(f, lambda: hinge_over_labels(f, [X], y, cube, LabelMargin(), tol=1e-12)[0].sum(), 1e-5)
    assert torch.isclose(own, other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("how", "options"),
    [
        ("argmin", {"solver": "planes"}),
        pytest.param("max-margin", {"solver": "planes", "margin": "labels"}, marks=pytest.mark.slow),
        ("max-margin", {"solver": "vertices"}),
    ],
)
def test_they_learn_and_stay_convex(how: Any, options: dict[str, Any]) -> None:
    x = torch.randn(40, 3, generator=drawn(7))
    labels = (x[:, :2] > 0).float()
    f = cx.nn.PICNN(3, 2, hidden=(8,), constraint="clip")
    classes = options["solver"] == "vertices"
    domain = cx.Simplex(2) if classes else cx.Cube(2, entropy=True)
    given = labels[:, 0].long() if classes else labels

    def rate(epoch: int) -> float:
        return 0.05 / epoch

    seen: list[Sequence[int]] = []

    def augment(parts: list[Tensor], y: Tensor) -> tuple[list[Tensor], Tensor]:
        seen.append(tuple(parts[0].shape))
        return [part + 0.01 * torch.randn_like(part) for part in parts], y

    made: list[torch.optim.Optimizer] = []

    def adam(parameters: Any) -> torch.optim.Optimizer:
        made.append(torch.optim.Adam(parameters))
        return made[0]

    history = fit(
        f, x, given, domain, how, epochs=8, batch=20, learning_rate=rate, optimiser=adam, augment=augment, **options
    )
    assert history.loss[-1] < 0.8 * history.loss[0]
    assert all(point["converged"] == 1 for point in history.points)
    assert cx.certify(f, (x, torch.zeros(40, 2)), wrt=1).convex
    assert len(seen) == 16
    assert made[0].param_groups[0]["lr"] == rate(8)


class Bent(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(1).sin()


def test_errors_in_words() -> None:
    f, x = picnn(3), X
    with pytest.raises(ValueError, match="is for a Simplex of one dimension"):
        structured_hinge(f, x, torch.zeros(7, 3), cx.Cube(3), solver="vertices")
    with pytest.raises(ValueError, match='is for margin="classes", not for a LabelMargin'):
        structured_hinge(f, x, torch.zeros(7, dtype=torch.int64), cx.Simplex(3), "labels", solver="vertices")
    with pytest.raises(ValueError, match="is for a Cube of one dimension with entropy"):
        predict(f, x, cx.Cube(3), solver="planes")
    with pytest.raises(ValueError, match="with softplus as its activation"):
        predict(picnn(3, activation="relu"), x, cx.Cube(3, entropy=True), solver="planes")
    with pytest.raises(ValueError, match='is for margin="labels", not for a ClassMargin'):
        structured_hinge(f, x, torch.zeros(7, 3), cx.Cube(3, entropy=True), solver="planes")
    with pytest.raises(cx.NotCertified, match="sin"):
        structured_hinge(Bent(), x, [0, 1, 2, 0, 1, 2, 0], cx.Simplex(3), solver="vertices")
    with pytest.raises(cx.NotCertified, match="sin"):
        predict(Bent(), x, cx.Simplex(3), solver="vertices")
    learner = EnergyTraining(Squashed(), x, [0, 1, 2, 0, 1, 2, 0], cx.Simplex(3), "max-margin", solver="vertices")
    with pytest.raises(cx.NotCertified):
        learner.step()


class Squashed(nn.Module):
    """Not convex in y, with something to train."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(()).double())

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.w * (x * y).sum(1).tanh()


class Sure(nn.Module):
    """Energies that leave no doubt: class 0 is better than all others by more than any margin."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([0.0, 10.0, 20.0]))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.weights * y).sum(1) + 0 * x.sum(1)


@pytest.mark.parametrize("solver", ["auto", "vertices"])
def test_where_every_margin_holds_the_gradient_is_zero_and_not_missing(solver: str) -> None:
    f = Sure()
    classes = torch.zeros(4, dtype=torch.long)
    losses = cx.energy.structured_hinge(f, torch.zeros(4, 2), classes, cx.Simplex(3), "classes", solver=solver)
    losses.mean().backward()
    assert losses.tolist() == [0.0] * 4
    assert f.weights.grad is not None
    assert f.weights.grad.tolist() == [0.0] * 3
