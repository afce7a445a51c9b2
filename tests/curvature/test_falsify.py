"""The adversary finds rare violations, reports none where there are none, and keeps to its budget."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from tests.modules import Function


def confirmed(model: nn.Module, found: cx.Counterexample | None, wrt: int = 0) -> cx.Counterexample:
    """The counterexample, after its claim has been computed anew in float64."""
    assert found is not None
    twin = copy.deepcopy(model).double().eval()
    t = found.t
    others = list(found.others)

    def value(point: tuple[Tensor, ...]) -> float:
        inputs = [*others[:wrt], *point, *others[wrt:]]
        with torch.no_grad():
            return float(twin(*(p[None] for p in inputs)).flatten()[found.output])

    middle = tuple(t * a + (1 - t) * b for a, b in zip(found.x, found.y, strict=True))
    fx, fy, fm = value(found.x), value(found.y), value(middle)
    assert fm - t * fx - (1 - t) * fy == pytest.approx(found.violation, rel=1e-6, abs=1e-12)
    assert found.violation > 1e-8 * (1 + max(abs(fx), abs(fy), abs(fm)))
    assert 0 < t < 1
    assert all(p.dtype == torch.float64 for p in (*found.x, *found.y))
    return found


def conv_net(activation: Callable[[], nn.Module] = nn.ReLU, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), activation(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1),
    )  # fmt: skip
    with torch.no_grad():
        for i in (3, 8):
            net[i].weight.abs_()
    return net


PICTURES = torch.randn(4, 1, 7, 7, generator=torch.Generator().manual_seed(1))


def test_one_negative_gamma_in_a_convolutional_network() -> None:
    net = conv_net()
    assert cx.certify(net, PICTURES).convex
    with torch.no_grad():
        net[4].weight[2] = -1.0
        net[4].bias[2] = 1.0
        net[8].weight.fill_(0.05)  # or the other channels, which bend upwards, make up for it
        net[8].weight[0, 2] = 1.0
    confirmed(net, cx.falsify(net, PICTURES))


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.Tanh, lambda: nn.Softplus(threshold=1.0)])
def test_an_activation_deep_in_a_convolutional_network(activation: Callable[[], nn.Module]) -> None:
    net = conv_net(activation)
    confirmed(net, cx.falsify(net, PICTURES))


def test_one_negative_weight_in_four_layers() -> None:
    torch.manual_seed(3)
    layers: list[nn.Module] = [nn.Linear(3, 8), nn.ReLU()]
    for _ in range(2):
        layers += [nn.Linear(8, 8), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(8, 1))
    with torch.no_grad():
        for i in (2, 4, 6):
            net[i].weight.abs_()
        net[4].weight[0, 0] = -0.5
        net[4].bias[0] = 1.0
        net[6].weight[0, 0] = 1.0
    assert not cx.certify(net, torch.zeros(2, 3)).convex
    confirmed(net, cx.falsify(net, torch.randn(6, 3)))


@pytest.mark.parametrize("where", [0.0, 5.0, -20.0])
def test_a_concave_kink_far_from_zero(where: float) -> None:
    model = Function(lambda x: x.square().sum(1) * 1e-3 - 0.3 * F.relu(x[:, 0] - where))
    confirmed(model, cx.falsify(model, torch.zeros(4, 2)))


def test_a_violation_only_inside_the_box_and_only_outside_it() -> None:
    # convex for |x| <= 1, concave between 1 and 2
    model = Function(lambda x: torch.where(x.abs() <= 1, x.square(), 2 * x.abs() - 1) - F.relu(x - 1.5))
    inside = cx.Box([-1.0], [1.4])
    assert cx.falsify(model, torch.zeros(2, 1), domain=inside, budget=20_000) is None
    found = confirmed(model, cx.falsify(model, torch.zeros(2, 1), domain=cx.Box([1.2], [2.0])))
    for point in (*found.x, *found.y):
        assert 1.2 <= float(point) <= 2.0


def test_points_stay_in_half_open_boxes() -> None:
    seen: list[Tensor] = []
    model = Function(torch.abs)
    model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach().clone()))
    box = cx.Box([0.0, -float("inf")], [float("inf"), 3.0])
    assert cx.falsify(model, torch.zeros(2, 2), domain=box, budget=5_000) is None
    points = torch.cat(seen)
    assert bool(points.isfinite().all())
    assert bool((points[:, 0] >= -1e-12).all())
    assert bool((points[:, 1] <= 3 + 1e-12).all())
    assert float(points[:, 1].std()) > 0.1


def test_partial_convexity() -> None:
    model = Function(lambda u, y: torch.tanh(u).sum(1) + (u.square() * y.square()).sum(1))
    example = (torch.randn(4, 2), torch.randn(4, 2))
    assert cx.falsify(model, example, wrt=1, budget=20_000) is None
    found = confirmed(model, cx.falsify(model, example, wrt=0), wrt=0)
    assert len(found.x) == len(found.others) == 1
    assert cx.falsify(model, example) is not None
    worse = Function(lambda u, y: (u * y).sin().sum(1))
    confirmed(worse, cx.falsify(worse, example, wrt=1), wrt=1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.RNN(2, 4, nonlinearity="relu", batch_first=True), nn.Linear(4, 1)
        with torch.no_grad():
            self.rnn.weight_hh_l0.abs_()
            self.head.weight.abs_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def rectified(activation: nn.Module) -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 8), activation, nn.Linear(8, 8), activation, nn.Linear(8, 1))
    with torch.no_grad():
        net[2].weight.abs_()
        net[4].weight.abs_()
    return net


CERTIFIED: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "softplus, over its step at 20": (lambda: rectified(nn.Softplus()), 10 * torch.randn(4, 3)),
    "softplus itself": (nn.Softplus, torch.full((2, 2), 20.0)),
    "sharp softplus": (lambda: rectified(nn.Softplus(beta=20.0)), torch.randn(4, 3)),
    "elu": (lambda: rectified(nn.ELU()), torch.randn(4, 3)),
    "celu": (lambda: rectified(nn.CELU(0.5)), torch.randn(4, 3)),
    "relu": (lambda: rectified(nn.ReLU()), torch.randn(4, 3)),
    "rnn": (Recurrent, torch.randn(4, 3, 2)),
    "convolution": (conv_net, PICTURES),
    "logsumexp": (lambda: Function(lambda x: x.exp().sum(1).log()), torch.randn(4, 3)),
    "norm": (lambda: Function(lambda x: x.square().sum(1).sqrt()), torch.randn(4, 3)),
    "affine": (lambda: nn.Linear(3, 2), torch.randn(4, 3)),
    "constant": (lambda: Function(lambda x: x * 0 + 1), torch.randn(4, 3)),
    "exponential": (lambda: Function(lambda x: x.exp()), torch.randn(4, 3)),
}


@pytest.mark.parametrize("name", CERTIFIED)
def test_no_false_alarm_on_what_is_certified(name: str) -> None:
    build, example = CERTIFIED[name]
    model = build()
    assert cx.certify(model, example).convex
    assert cx.falsify(model, example, budget=15_000) is None


@pytest.mark.parametrize("budget", [1, 2, 3, 10, 100, 1_000, 5_000])
def test_the_budget_is_kept(budget: int) -> None:
    model, rows = nn.Sequential(nn.Linear(3, 2), nn.ReLU()), 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal rows
        del module, output
        rows += inputs[0].shape[0]

    model[0].register_forward_hook(count)
    assert cx.falsify(model, torch.zeros(2, 3), budget=budget) is None
    assert rows <= budget
    if budget >= 1_000:  # and used: backward passes are counted as forward ones
        assert rows >= budget // 3


def test_the_same_seed_finds_the_same_point() -> None:
    net = conv_net(nn.GELU)
    a, b = (cx.falsify(net, PICTURES, seed=5) for _ in range(2))
    other = cx.falsify(net, PICTURES, seed=6)
    assert a is not None
    assert b is not None
    assert other is not None
    assert torch.equal(a.x[0], b.x[0])
    assert torch.equal(a.y[0], b.y[0])
    assert (a.t, a.violation) == (b.t, b.violation)
    assert not torch.equal(a.x[0], other.x[0])


def test_the_model_and_the_generators_are_left_untouched() -> None:
    net = conv_net(nn.GELU).train()
    net[4].eval()
    flags = [module.training for module in net.modules()]
    state, random_state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    cx.falsify(net, PICTURES, budget=2_000)
    assert [module.training for module in net.modules()] == flags
    assert all(torch.equal(a, b) for a, b in zip(state.values(), net.state_dict().values(), strict=True))
    assert all(p.requires_grad and p.grad is None and p.dtype == torch.float32 for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_every_output_is_searched() -> None:
    model = Function(lambda x: {"good": x.abs(), "more": [x.square(), -x[:, :1].abs()], "label": x.argmax(1)})
    found = cx.falsify(model, torch.randn(4, 3))
    assert found is not None
    assert found.output == 6


def test_works_under_no_grad_and_with_operators_in_place() -> None:
    net = conv_net(nn.GELU)
    with torch.no_grad():
        assert cx.falsify(net, PICTURES) is not None

    def in_place(x: Tensor) -> Tensor:
        y = torch.exp(0.1 * x)
        y.add_(1.0)  # exp's gradient needs what is overwritten: fine in eval, not in a backward pass
        return y

    assert cx.falsify(Function(in_place), torch.zeros(2, 3), budget=3_000) is None


def test_models_without_a_gradient() -> None:
    def step(x: Tensor) -> Tensor:
        return torch.floor(x)

    assert cx.falsify(Function(step), torch.zeros(2, 3)) is not None
    assert cx.falsify(Function(lambda x: torch.relu(x).detach()), torch.zeros(2, 3), budget=2_000) is None


def test_a_counterexample_as_a_sentence() -> None:
    model = Function(lambda u, x: torch.stack([x.square().sum(1), -x.square().sum(1) + u[:, 0]], 1))
    found = cx.falsify(model, (torch.zeros(2, 1), torch.zeros(2, 3)), wrt=1)
    assert found is not None
    text = str(found)
    assert text.startswith(f"Not convex: at {found.t:.4g} x + ")
    assert f"element 1 of the outputs lies {found.violation:.4g} above its chord" in text
    for value in (found.x[0][2], found.y[0][0], found.others[0][0]):
        assert f"{float(value):.6g}" in text
    picture = cx.falsify(Function(lambda x: -x.square().flatten(1).sum(1)), torch.zeros(2, 3, 4))
    assert "...] of shape (3, 4)" in str(picture)
    assert len(str(picture)) < 500


@pytest.mark.parametrize("shapes", [[(2, 4)], [(2, 2, 2)], [(2, 3), (2, 3)]])
def test_an_example_that_the_model_cannot_take_is_an_error_in_words(shapes: list[tuple[int, ...]]) -> None:
    text = "Linear cannot be evaluated on inputs of shape " + ", ".join(map(str, shapes))
    with pytest.raises(ValueError, match=re.escape(text)):
        cx.falsify(nn.Linear(3, 1), tuple(torch.zeros(shape) for shape in shapes))


def test_models_that_take_one_size_of_batch() -> None:
    for good, bad in (
        (lambda x: x.reshape(2, 3).abs(), lambda x: x.reshape(2, 3).abs() - 2.5 * x.relu()),
        (lambda x: x.abs() + torch.arange(2.0)[:, None], lambda x: torch.arange(2.0)[:, None] - x.abs()),
    ):
        assert cx.falsify(Function(good), torch.zeros(2, 3), budget=2_000) is None
        assert cx.falsify(Function(bad), torch.zeros(2, 3), budget=2_000) is not None


def test_a_box_for_each_sample_is_taken_as_their_hull() -> None:
    box = cx.Box(-1, 1, shape=(2,)).fix(torch.tensor([[0.5, 0.0], [0.7, 0.0], [0.1, 0.0]]), [True, False])
    model = Function(
        lambda x: x[:, 1].square() + torch.where((x[:, 0] >= 0.1) & (x[:, 0] <= 0.7), 0.0, -9.0 * x[:, 1] ** 2)
    )
    assert cx.falsify(model, torch.zeros(2, 2), domain=box, budget=2_000) is None
    assert cx.falsify(model, torch.zeros(2, 2), budget=2_000) is not None


def test_errors() -> None:
    for budget in (0, -1, "5", None, math.nan, math.inf, 1.5, True):
        with pytest.raises(ValueError, match=r"^budget must be an integer of at least 1, not "):
            cx.falsify(nn.ReLU(), torch.zeros(1, 2), budget=budget)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="budget"):
        cx.falsify(nn.ReLU(), torch.zeros(2, 3), budget=0)
    with pytest.raises(ValueError, match="batch dimension"):
        cx.falsify(Function(lambda x: x.sum()), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="floating"):
        cx.falsify(Function(lambda x: x.argmax(1)), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="shape"):
        cx.falsify(nn.ReLU(), torch.zeros(2, 3), domain=cx.Box(0, 1, shape=(2,)))
    with pytest.raises(ValueError, match="names input 2"):
        cx.falsify(nn.ReLU(), torch.zeros(2, 3), wrt=2)
    with pytest.raises(TypeError, match="Module"):
        cx.falsify(torch.relu, torch.zeros(2, 3))  # type: ignore[arg-type]
