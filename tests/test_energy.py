"""Learning energies: losses against enumeration and finite differences, each way of learning, completion, resuming."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.energy import EnergyTraining, Joint, exemplar_loss, exemplars, fit, predict, structured_hinge, unrolled
from convexnet.learner import Learner
from tests.drawing import some

BOX = cx.Box(-1, 1, shape=(2,))


class Squares(nn.Module):
    """f(x, y) = ½ ‖y − a x‖²."""

    def __init__(self, a: float = 0.5) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (y - self.a * x).square().sum(1) / 2


class Apart(nn.Module):
    """Δ(y, y') = c Σ |y − y'|, or less its square: convex, and concave, in y'."""

    def __init__(self, square: bool) -> None:
        super().__init__()
        self.square = square

    def forward(self, y: Tensor, other: Tensor) -> Tensor:
        return -(y - other).square().sum(1) if self.square else (y - other).abs().sum(1)


def affine(classes: int, seed: int = 0) -> nn.Module:
    """An energy that is affine in y."""
    torch.manual_seed(seed)
    return cx.nn.PICNN(2, classes, hidden=()).double()


def network(classes: int, seed: int = 0, activation: Any = "softplus") -> nn.Module:
    torch.manual_seed(seed)
    return cx.nn.PICNN(2, classes, hidden=(6,), activation=activation).double()


def differences(f: nn.Module, loss: Callable[[], Tensor], step: float = 1e-5) -> tuple[Tensor, Tensor]:
    """The derivative of a loss along a random direction of the parameters, by autograd and by central differences."""
    parameters = list(f.parameters())
    seeds = [torch.Generator().manual_seed(i) for i in range(len(parameters))]
    directions = [torch.randn(p.shape, generator=seed).to(p) for p, seed in zip(parameters, seeds, strict=True)]
    grads = torch.autograd.grad(loss(), parameters, allow_unused=True, materialize_grads=True)
    own = sum(((g * d).sum() for g, d in zip(grads, directions, strict=True)), torch.zeros(()).double())
    ends: list[Tensor] = []
    with torch.no_grad():
        for sign in (1, -1):
            for p, d in zip(parameters, directions, strict=True):
                p += sign * step * d
            ends.append(loss())
            for p, d in zip(parameters, directions, strict=True):
                p -= sign * step * d
    return own, (ends[0] - ends[1]) / (2 * step)


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [affine, network])
def test_hinge_of_classes_against_the_vertices(make: Callable[[int], nn.Module]) -> None:
    f, x, labels = make(3), torch.randn(6, 2).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    losses = structured_hinge(f, x, labels, cx.Simplex(3), "classes").detach()
    one_hot = torch.eye(3).double()
    with torch.no_grad():
        at = torch.stack([f(x, one_hot[k].expand(6, 3))[:, 0] for k in range(3)], 1)
    margin = 1 - one_hot[labels]
    vertices = (at.gather(1, labels[:, None]) - at + margin).amax(1)
    assert bool((vertices >= 0).all())  # the true class is one of them
    assert bool((losses >= vertices - 1e-5).all())
    if make is affine:
        assert torch.allclose(losses, vertices, atol=1e-5)
    again = structured_hinge(f, x, one_hot[labels], cx.Simplex(3), "classes").detach()
    assert torch.allclose(losses, again, atol=1e-5)


def test_hinge_is_zero_where_the_margin_holds() -> None:
    """f = 10 (1 − y_true) on the simplex: the right label is below all others by 10."""

    class Sure(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return 10 * (1 - (x * y).sum(1))

    labels = torch.tensor([1, 0])
    right = torch.eye(2)[labels]
    held = structured_hinge(Sure(), right, labels, cx.Simplex(2), "classes")
    assert bool((held >= 0).all())
    assert bool((held <= 1e-5).all())
    wrong = structured_hinge(Sure(), right, 1 - labels, cx.Simplex(2), "classes")
    assert torch.allclose(wrong, torch.full((2,), 11.0).double(), atol=1e-5)


def test_hinge_with_a_module_as_margin() -> None:
    """Of ½ ‖y − x/2‖² and Δ = −‖y − y'‖²: the minimum over y' of the sum is at (x/2 + 2 y) / 3."""
    f, x, y = Squares(), torch.tensor([[0.4, -0.8]]).double(), torch.tensor([[0.1, 0.3]]).double()
    other = (x / 2 + 2 * y) / 3
    wanted = f(x, y) - f(x, other) - (y - other).square().sum(1)
    found = structured_hinge(f, x, y, BOX, Apart(square=True))
    assert torch.allclose(found, wanted.detach().clamp(min=0), atol=1e-6)
    with pytest.raises(cx.NotCertified, match="the margin Apart is not proved concave in y'"):
        structured_hinge(f, x, y, BOX, Apart(square=False))


class Bent(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(1).sin()


def test_an_energy_that_is_not_convex_is_named() -> None:
    with pytest.raises(cx.NotCertified, match="sin") as error:
        structured_hinge(Bent(), torch.zeros(1, 2), torch.zeros(1, 2), BOX, Apart(square=True))
    assert "the margin" not in str(error.value).partition("\n")[0]


@pytest.mark.parametrize("activation", ["softplus", "relu"])
def test_gradients_of_the_hinge(activation: str) -> None:
    f, x = network(3, 1, activation), torch.randn(8, 2, generator=torch.Generator().manual_seed(3)).double()
    labels = torch.arange(8) % 3
    own, other = differences(f, lambda: structured_hinge(f, x, labels, cx.Simplex(3), "classes", tol=1e-9).sum(), 1e-4)
    assert torch.isclose(own, other, rtol=1e-3, atol=1e-4), (own, other)


@pytest.mark.parametrize("domain", [cx.Cube(2, entropy=True), cx.Cube(2)], ids=["argmin", "unrolled"])
def test_gradients_through_minimisers(domain: cx.Cube) -> None:
    f, x = network(2, 2), torch.randn(4, 2, generator=torch.Generator().manual_seed(4)).double()
    target = torch.rand(4, 2, generator=torch.Generator().manual_seed(5)).double()
    how: Any = "argmin" if domain.entropy else "unrolled"
    learner = EnergyTraining(f, x, target, domain, how, **({"tol": 1e-10} if domain.entropy else {"steps": 5}))
    own, other = differences(f, lambda: learner.losses([x], target, None)[0].sum(), 1e-5)
    assert torch.isclose(own, other, rtol=1e-3, atol=1e-6), (own, other)


def test_unrolled_descent_comes_to_the_minimum() -> None:
    x = torch.tensor([[0.4, -0.8], [9.0, 0.0]]).double()
    y = unrolled(Squares(), x, BOX, steps=200, rate=0.1)
    assert torch.allclose(y, (x / 2).clamp(-1, 1), atol=1e-4)
    with torch.no_grad():
        assert not unrolled(Squares(), x, BOX).requires_grad
    with pytest.raises(TypeError, match="is for a Box"):
        unrolled(Squares(), x, cx.Ball(2, 1.0))


# --- exemplars -------------------------------------------------------------------------------------------------------


def test_exemplars() -> None:
    torch.manual_seed(0)
    f = Joint(cx.nn.FICNN(2 + 3, hidden=(6,)).double())
    found = exemplars(f, 3, BOX)
    assert found.x.shape == (3, 2)
    assert bool(found.converged.all())
    points = BOX.project(torch.randn(50, 2).double())
    with torch.no_grad():
        for k in range(3):
            label = torch.eye(3).double()[k].expand(50, 3)
            assert bool((f(points, label)[:, 0] >= found.lower_bound[k]).all())
    # With γ = 0 the loss is how far f(x*, y) is above its minimum; in general, the maximum over x of a difference.
    wanted = points[:3]
    values = torch.cat([f(wanted[k : k + 1], torch.eye(3).double()[k : k + 1]) for k in range(3)])[:, 0].detach()
    plain = exemplar_loss(f, wanted, [0, 1, 2], BOX, 0.0, classes=3)
    assert torch.allclose(plain, values - found.value, atol=1e-5)
    losses = exemplar_loss(f, wanted, torch.eye(3), BOX, 0.7).detach()
    for k in range(3):
        label = torch.eye(3).double()[k].expand(50, 3)
        with torch.no_grad():
            below = values[k] + 0.7 * wanted[k].square().sum() - f(points, label)[:, 0] - 0.7 * points @ wanted[k]
        assert bool((losses[k] >= below - 1e-5).all())
    own, other = differences(f, lambda: exemplar_loss(f, wanted, torch.eye(3), BOX, 0.7, tol=1e-9).sum())
    assert torch.isclose(own, other, rtol=1e-3, atol=1e-5)
    with pytest.raises(cx.NotCertified):
        exemplars(network(3), 3, BOX)


# --- learning --------------------------------------------------------------------------------------------------------


def halves(count: int) -> tuple[Tensor, Tensor]:
    """Points on two sides of a line."""
    x = 4 * torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) - 2
    return x, (x.sum(1) > 0).long()


WAYS: dict[str, tuple[Any, cx.Box | cx.Simplex, dict[str, Any]]] = {
    "argmin": ("argmin", cx.Cube(1, entropy=True), {"tol": 1e-4}),
    "smoothed": ("argmin", cx.Cube(1), {"derivative": "smoothed", "tol": 1e-4}),
    "unrolled": ("unrolled", cx.Cube(1), {"steps": 10, "rate": 0.05}),
    "max-margin": ("max-margin", cx.Simplex(2), {"tol": 1e-4}),
}


@pytest.mark.parametrize(
    ("way", "joint"),
    [
        *((way, False) for way in WAYS),
        *some(product(("argmin", "unrolled", "max-margin"), [True]), 1, "joint energies"),
    ],
)
def test_each_way_learns_classes(way: str, joint: bool) -> None:
    how, domain, options = WAYS[way]
    x, labels = halves(30)
    torch.manual_seed(0)
    size = domain.shape[0]
    f = Joint(cx.nn.FICNN(2 + size, hidden=(16,))) if joint else cx.nn.PICNN(2, size, hidden=(16,))
    targets = labels.double() if size == 1 else labels
    history = fit(f, x, targets, domain, how, epochs=5, batch=30, learning_rate=0.1, **options)
    assert [point["epoch"] for point in history.points] == [float(i + 1) for i in range(5)]
    assert history.loss[-1] < 0.9 * history.loss[0]
    assert cx.certify(f, (x, torch.zeros(30, size)), wrt=1).convex


def test_what_is_projected_stays_convex() -> None:
    x, labels = halves(30)
    torch.manual_seed(0)
    f = cx.nn.PICNN(2, 2, hidden=(8, 8), constraint="clip")

    def sgd(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.5, momentum=0.5)

    fit(f, x, labels, cx.Cube(2), "unrolled", epochs=2, batch=15, optimiser=sgd, steps=5)
    assert cx.certify(f, (x, torch.zeros(30, 2)), wrt=1).convex
    free = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    free[2].weight.data.abs_()  # convex as it is, and nothing keeps it so
    with pytest.raises(cx.NotCertified):
        fit(free, None, torch.rand(20, 2), cx.Cube(2), "unrolled", learning_rate=2.0, epochs=3, steps=2)


def test_completion_learns_what_belongs_together() -> None:
    """y = (a, −a): the missing one is minus the other; an energy (y_0 + y_1)² knows, and one of weights learns it."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, -0.2]))

        def forward(self, y: Tensor) -> Tensor:
            return (y @ self.w).square() + 0.01 * y.square().sum(1)

    a = 2 * torch.rand(40, generator=torch.Generator().manual_seed(1)) - 1
    y = torch.stack([a, -a], 1)
    f = Tied()
    history = fit(f, None, y, BOX, missing=0.5, epochs=8, batch=20, learning_rate=0.1, validation=(None, y))
    assert min(history.validation) < 0.5 * history.validation[0]
    filled = cx.impute(f, torch.tensor([[0.5, torch.nan]]), domain=BOX).x.detach()
    assert abs(float(filled[0, 1]) + 0.5) < 0.3
    mask = torch.tensor([True, False])
    only = EnergyTraining(f, None, y, BOX, missing=mask, epochs=1)
    assert torch.equal(only.mask_of(3, 0), mask.expand(3, 2))


def test_a_learner_resumes_bit_by_bit() -> None:
    x, labels = halves(16)

    def make() -> EnergyTraining:
        torch.manual_seed(0)
        f = cx.nn.PICNN(2, 1, hidden=(4,), x_norm=True)
        return EnergyTraining(
            f, x, labels.double(), cx.Cube(1, entropy=True), epochs=2, batch=8, tol=1e-3, learning_rate=0.05,
            warm_start=True, validation=(x[:4], labels[:4].double()), patience=2,
        )  # fmt: skip

    whole, first, second = make(), make(), make()
    assert isinstance(whole, Learner)
    points = [whole.step() for _ in range(4)]
    for _ in range(3):
        first.step()
    second.restore(first.state())
    assert [second.step()] == points[3:]
    assert whole.done
    assert second.done
    for a, b in zip(whole.f.state_dict().values(), second.f.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert int(whole.f.state_dict()["x_layers.0.2.num_batches_tracked"]) > 0


def test_validation_keeps_the_best_and_stops() -> None:
    x, labels = halves(20)
    torch.manual_seed(0)
    f = cx.nn.PICNN(2, 2, hidden=(4,))
    kept: list[dict[str, Tensor]] = []
    marks = iter([3.0, 1.0, 2.0, 4.0, 0.0])

    def measure(predicted: Tensor, y: Tensor) -> float:
        assert predicted.shape == y.shape == (5, 2)
        kept.append({name: value.clone() for name, value in f.state_dict().items()})
        return next(marks)

    targets = torch.eye(2)[labels]
    history = fit(
        f, x, targets, cx.Cube(2), "unrolled", epochs=5, validation=(x[:5], targets[:5]), measure=measure, patience=2,
        steps=3,
    )  # fmt: skip
    assert history.validation == [3.0, 1.0, 2.0, 4.0]
    assert all(torch.equal(value, kept[1][name]) for name, value in f.state_dict().items())
    assert torch.allclose(predict(f, x, cx.Simplex(2), batch=12), predict(f, x, cx.Simplex(2)), atol=1e-3)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "domain", "how", "options", "match"),
    [
        ([0, 3], cx.Simplex(3), "max-margin", {}, "sample 1 is the class 3, and there are 0 to 2"),
        ([0, -1], cx.Simplex(3), "max-margin", {}, "class -1"),
        ([[0.0, 2.0], [0.0, 0.0]], cx.Cube(2), "argmin", {}, "y of sample 0 is outside of the domain, a Cube"),
        ([[0.0, 1.0], [torch.nan, 0.0]], cx.Cube(2), "argmin", {}, "y of sample 1 is NaN"),
        ([[0.0], [1.0]], cx.Cube(2), "argmin", {}, "y has shape"),
        ([0.0], cx.Cube(1), "argmin", {}, "x has 2 samples and y has 1"),
        ([0.0, 1.0], cx.Cube(1), "least", {}, "how is one of"),
        ([0.0, 1.0], cx.Cube(1), "argmin", {"missing": 0.0}, "nothing is missing"),
        ([0.0, 1.0], cx.Cube(1), "argmin", {"missing": [0.5, 0.1]}, "missing is a share"),
        ([0.0, 1.0], cx.Cube(1), "argmin", {"missing": [True]}, "nothing is missing"),
        ([0.0, 1.0], cx.Cube(1, entropy=True), "argmin", {"missing": 0.5}, "no fixed elements"),
        ([0.0, 1.0], cx.Cube(1), "argmin", {"patience": 2}, "validation"),
        ([0, 1], cx.Simplex(2), "max-margin", {"loss": nn.MSELoss()}, "structured hinge"),
        ([0, 1], cx.Simplex(2), "max-margin", {"margin": "class"}, "margin is"),
    ],
)
def test_wrong_arguments(y: Any, domain: cx.Box | cx.Simplex, how: Any, options: dict[str, Any], match: str) -> None:
    f = cx.nn.PICNN(2, domain.shape[0], hidden=(3,))
    with pytest.raises(ValueError, match=match):
        fit(f, torch.zeros(2, 2), y, domain, how, **options)


def test_wrong_types() -> None:
    f, x = cx.nn.PICNN(2, 2, hidden=(3,)), torch.zeros(2, 2)
    with pytest.raises(TypeError, match="margin is"):
        structured_hinge(f, x, [0, 1], cx.Simplex(2), lambda y, other: y)  # type: ignore
    with pytest.raises(TypeError, match="completion needs a Box"):
        fit(f, x, [0, 1], cx.Simplex(2), missing=0.5)
    with pytest.raises(TypeError, match="is for a Box"):
        fit(f, x, [0, 1], cx.Simplex(2), "unrolled")
    with pytest.raises(TypeError, match="takes steps, rate and momentum, and not 'tol'"):
        fit(f, x, torch.zeros(2, 2), cx.Cube(2), "unrolled", tol=1e-3)
    with pytest.raises(ValueError, match="holds no parameter"):
        fit(f, x, [0, 1], cx.Simplex(2), optimiser=torch.optim.SGD(nn.Linear(1, 1).parameters()))
    with pytest.raises(TypeError, match="unknown option 'tool'"):
        structured_hinge(f, x, [0, 1], cx.Simplex(2), "classes", tool=1)
    with pytest.raises(ValueError, match="say how many classes"):
        exemplar_loss(f, x, [0, 1], BOX, 0.1)
    with pytest.raises(ValueError, match="NaN, first in sample 1"):
        predict(f, [[0.0, 0.0], [0.0, torch.nan]], cx.Cube(2))
