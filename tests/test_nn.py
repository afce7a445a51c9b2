"""Input-convex networks: the equations against numpy, convexity by certificate and by attack, and all that keeps it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.initialise.model import mean_correlation
from convexnet.nn.activations import activation_of
from convexnet.nn.layers import POSITIVE
from tests.chords import ACTIVATIONS, TOLERANCE, array, randomise, weight_in, worst_chord
from tests.drawing import some
from tests.modules import Function

FICNN, ICRNN, PICNN = cx.nn.FICNN, cx.nn.ICRNN, cx.nn.PICNN


class OfY(nn.Module):
    """A network of x and y as a function of y, for a fixed x."""

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.network, self.x = network, x

    def forward(self, y: Tensor) -> Tensor:
        return self.network(self.x.expand(len(y), *self.x.shape[1:]), y)


def dense(constraint: str = "softplus", **keywords: Any) -> nn.Module:
    return FICNN(4, hidden=(7, 6), out_features=2, constraint=constraint, **keywords)


def partial(constraint: str = "softplus", **keywords: Any) -> nn.Module:
    settings: dict[str, Any] = {"hidden": (7, 6), "out_features": 2, "x_hidden": (5, 4), **keywords}
    return PICNN(3, 4, constraint=constraint, **settings)


def recurrent(constraint: str = "softplus", **keywords: Any) -> nn.Module:
    return ICRNN(2, hidden=(5, 4), out_features=2, constraint=constraint, **keywords)


Build = Callable[..., nn.Module]
NETWORKS: dict[str, tuple[Build, dict[str, Any]]] = {
    "plain": (dense, {}),
    "relu": (dense, {"activation": "relu"}),
    "no passthrough": (dense, {"activation": "leaky_relu", "passthrough": False}),
    "quadratic": (dense, {"activation": "elu", "quadratic": 2}),
    "monotone": (dense, {"activation": "celu", "monotone": [0, 3]}),
    "own activation": (dense, {"activation": nn.Softplus(beta=3)}),
    "partial": (partial, {}),
    "partial, norm": (partial, {"x_norm": True, "activation": "elu", "x_activation": nn.Tanh()}),
    "partial, no passthrough": (partial, {"activation": "leaky_relu", "passthrough": False}),
    "partial, quadratic": (partial, {"activation": "relu", "quadratic": 0}),
    "recurrent": (recurrent, {}),
    "recurrent, last": (recurrent, {"outputs": "last", "activation": "softplus"}),
}
SHAPES = {dense: (4,), partial: (4,), recurrent: (3, 2)}
FAST = ["plain", "monotone", "partial", "recurrent"]
CASES = [*((name, "softplus") for name in NETWORKS), *((name, how) for name in FAST for how in ("exp", "square"))]
PROJECTED = [(name, how) for name in FAST for how in ("clip", "exponentiate")]


def built(name: str, constraint: str = "softplus") -> tuple[nn.Module, tuple[Tensor, ...], int]:
    """A network of the table, an example, and the input that it is convex in."""
    build, keywords = NETWORKS[name]
    y = torch.randn(3, *SHAPES[build])
    inputs = (torch.randn(3, 3), y) if build is partial else (y,)
    return build(constraint, **keywords), inputs, len(inputs) - 1


def in_y(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """The network as a function of the input that it is convex in, x being random."""
    if isinstance(network, PICNN):
        return OfY(network, torch.randn(1, network.x_features, generator=generator, dtype=torch.float64))
    return network


# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constraint", POSITIVE)
def test_computed_weights(constraint: str) -> None:
    layer = cx.nn.ConvexLinear(5, 4, constraint=constraint, columns=[0, -1]).double()
    with torch.no_grad():
        layer.raw.copy_(torch.linspace(-600, 600, 20).view(4, 5))
    assert bool((layer.weight[:, [0, 4]] >= 0).all())
    assert torch.equal(layer.weight[:, 1:4], layer.raw[:, 1:4]), "the other columns are free"
    wanted = torch.randn(4, 5, dtype=torch.float64)
    wanted[:, [0, 4]] = wanted[:, [0, 4]].abs()
    layer.weight = wanted
    torch.testing.assert_close(layer.weight.detach(), wanted, rtol=1e-9, atol=2e-6)
    x = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias)
    layer(x).square().sum().backward()
    assert layer.raw.grad is not None
    assert bool((layer.raw.grad != 0).all())
    for wrong in (wanted.clone().fill_(-1e-9), wanted.clone().fill_(float("nan")), wanted.clone().fill_(float("inf"))):
        before = layer.raw.clone()
        with pytest.raises(ValueError, match="finite and non-negative"):
            layer.weight = wrong
        assert torch.equal(layer.raw, before)


def test_a_zero_weight_can_still_learn() -> None:
    for constraint in POSITIVE:
        layer = cx.nn.ConvexLinear(2, 1, constraint=constraint)
        layer.weight = torch.zeros(1, 2)
        assert bool((layer.weight < 2e-6).all())
        layer(torch.ones(1, 2)).sum().backward()
        assert layer.raw.grad is not None
        assert bool((layer.raw.grad > 0).all())


def test_layers_on_convex_features_beside_the_input() -> None:
    """Columns: convex features go through non-negative ones, the raw input through free ones."""

    class Skip(nn.Module):
        def __init__(self, columns: range | None) -> None:
            super().__init__()
            self.first = nn.Linear(3, 6)
            self.second = cx.nn.ConvexLinear(9, 2, columns=columns)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.cat([self.first(x).relu(), x], 1))

    certificate = cx.certify(Skip(range(6)), torch.zeros(2, 3))
    assert (certificate.convex, certificate.scope) == (True, "for all parameters")
    assert cx.certify(Skip(range(5)), torch.zeros(2, 3)).scope == "at these weights"


def test_convolution_layer_against_torch() -> None:
    layer = cx.nn.ConvexConv2d(4, 6, (3, 2), stride=(2, 1), padding=1, dilation=2, groups=2, constraint="exp")
    x = torch.randn(2, 4, 9, 8)
    expected = nn.functional.conv2d(x, layer.raw.exp(), layer.bias, (2, 1), 1, 2, 2)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.plain()(x), expected)
    stack = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), layer)
    assert cx.certify(stack, torch.zeros(1, 2, 9, 9)).scope == "for all parameters"


def test_layer_errors() -> None:
    with pytest.raises(ValueError, match=r"cx\.constrain"):
        cx.nn.ConvexLinear(2, 2, constraint="clip")
    with pytest.raises(ValueError, match="out_features must be an integer of at least 1, not 0"):
        cx.nn.ConvexLinear(2, 0)
    with pytest.raises(ValueError, match="columns names input 2, and there are 2"):
        cx.nn.ConvexLinear(2, 1, columns=[2])
    with pytest.raises(ValueError, match="groups must divide"):
        cx.nn.ConvexConv2d(3, 4, 3, groups=2)


# --- activations -----------------------------------------------------------------------------------------------------

RIGHT = [*ACTIVATIONS, nn.Softplus(beta=2), nn.LeakyReLU(0.3), nn.LeakyReLU(1.0), nn.Identity(), nn.ELU(0.5)]
WRONG = [
    *(nn.GELU(), nn.SiLU(), nn.Tanh(), nn.ReLU6(), nn.SELU(), nn.LayerNorm(1), nn.Softplus(threshold=1)),
    *(nn.LeakyReLU(1.5), nn.LeakyReLU(-0.1), nn.ELU(2.0), Function(torch.abs), Function(torch.square)),
]


@pytest.mark.parametrize("activation", RIGHT, ids=str)
def test_accepted_activations_are_convex_and_non_decreasing(activation: str | nn.Module) -> None:
    grid = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    values = activation_of(activation)(grid[:, None])[:, 0]
    assert float(values.diff().min()) >= 0
    assert float(values.diff().diff().min()) >= -1e-8  # PyTorch's softplus steps down by 2e-9 at its threshold


@pytest.mark.parametrize("activation", WRONG, ids=str)
def test_refused_activations(activation: nn.Module) -> None:
    with pytest.raises(ValueError, match="not proved convex and non-decreasing"):
        FICNN(2, activation=activation)


def test_an_activation_that_training_can_spoil() -> None:
    with pytest.raises(ValueError, match="at its present parameters only"):
        FICNN(2, activation=nn.PReLU())
    net, y = FICNN(2, hidden=(4, 4), activation=nn.PReLU(), constraint="clip"), torch.randn(3, 2)
    assert "activation.weight" in cx.constrain(net, y).parameters
    assert cx.certify(net, y).convex
    with pytest.raises(ValueError, match="unknown activation 'gelu'"):
        FICNN(2, activation="gelu")
    with pytest.raises(TypeError, match="must be a name or"):
        FICNN(2, activation=torch.relu)  # pyright: ignore[reportArgumentType]


# --- the equations ---------------------------------------------------------------------------------------------------


def quadratic_of(state: dict[str, Tensor], y: np.ndarray) -> np.ndarray:
    """½‖A_k y‖² + ½ Σ_j softplus(d_kj) y_j², for each output."""
    rows = np.einsum("krn,bn->bkr", array(state["quadratic.factor"]), y)
    return (rows**2).sum(2) / 2 + y**2 @ np.logaddexp(0, array(state["quadratic.raw"])).T / 2


def ficnn_in_numpy(net: Any, y: np.ndarray, activation: str, monotone: list[int]) -> np.ndarray:
    state, z = dict(net.state_dict()), None
    for i in range(len(net.layers)):
        total = np.zeros(1)
        for part in ("z", "y"):
            name = f"layers.{i}.{part}"
            if f"{name}.bias" in state:
                total = total + array(state[f"{name}.bias"])
            if f"{name}.weight" not in state and f"{name}.raw" not in state:
                continue
            weight = weight_in(state, name, net.constraint)
            if part == "y" and f"{name}.raw" in state:  # only some columns are computed
                free = array(state[f"{name}.raw"]).copy()
                free[:, monotone] = weight[:, monotone]
                weight = free
            total = total + (z if part == "z" else y) @ weight.T
        z = ACTIVATIONS[activation](total) if i < len(net.layers) - 1 else total
    assert z is not None
    return z + quadratic_of(state, y) if "quadratic.raw" in state else z


@pytest.mark.parametrize("constraint", ["softplus", "exp", "square", "clip"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_ficnn_is_the_equation(activation: str, constraint: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    for settings in ({}, {"passthrough": False}, {"quadratic": 3}, {"monotone": [0, 2]}, {"hidden": ()}):
        keywords: dict[str, Any] = {"hidden": (7, 6, 5), "out_features": 2, **settings}
        net = randomise(FICNN(4, activation=activation, constraint=constraint, **keywords), 0.7, generator)
        expected = ficnn_in_numpy(net, array(y), activation, keywords.get("monotone", []))
        np.testing.assert_allclose(array(net(y)), expected, rtol=1e-10, atol=1e-10)


def picnn_in_numpy(net: Any, x: np.ndarray, y: np.ndarray, activation: str) -> np.ndarray:
    state, u, z = dict(net.state_dict()), x, None
    last = len(net.layers) - 1
    for i in range(last + 1):

        def affine(name: str, value: np.ndarray, i: int = i) -> np.ndarray:
            bias = state.get(f"layers.{i}.{name}.bias", torch.zeros(1))
            return value @ array(state[f"layers.{i}.{name}.weight"]).T + array(bias)

        total = affine("u", u)
        if f"layers.{i}.y.weight" in state:
            total = total + affine("y", y * affine("y_gate", u))
        if z is not None:
            weight = weight_in(state, f"layers.{i}.z", net.constraint)
            total = total + (z * np.maximum(affine("z_gate", u), 0)) @ weight.T
        z = ACTIVATIONS[activation](total) if i < last else total
        if i < last:
            name = f"x_layers.{i}"
            u = np.maximum(u @ array(state[f"{name}.0.weight"]).T + array(state[f"{name}.0.bias"]), 0)
            if f"{name}.2.weight" in state:
                scale = array(state[f"{name}.2.weight"]) / np.sqrt(array(state[f"{name}.2.running_var"]) + 1e-5)
                u = (u - array(state[f"{name}.2.running_mean"])) * scale + array(state[f"{name}.2.bias"])
    assert z is not None
    return z + quadratic_of(state, y) if "quadratic.raw" in state else z


@pytest.mark.parametrize("constraint", ["softplus", "exp", "square", "clip"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_picnn_is_the_equation(activation: str, constraint: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(6, n, generator=generator, dtype=torch.float64) for n in (3, 4))
    for settings in ({}, {"x_norm": True}, {"quadratic": 1}, {"hidden": (), "x_hidden": ()}, {"passthrough": False}):
        net = randomise(partial(constraint, activation=activation, **settings), 0.7, generator)
        np.testing.assert_allclose(
            array(net(x, y)), picnn_in_numpy(net, array(x), array(y), activation), rtol=1e-10, atol=1e-10
        )


def icrnn_in_numpy(net: Any, x: np.ndarray, activation: str) -> np.ndarray:
    """Time step by time step, with the state of every level carried along."""
    state = {name: array(value) for name, value in net.state_dict().items()}
    g, batch = ACTIVATIONS[activation], len(x)

    def weight(name: str) -> np.ndarray:
        return weight_in(net.state_dict(), name, net.constraint)

    levels = range(len(net.levels))
    h = [np.zeros((batch, net.levels[i].input.out_features)) for i in levels]
    before, outputs = np.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        old, h = h, []
        for i in levels:
            total = old[i] @ weight(f"levels.{i}.recurrent").T + state[f"levels.{i}.input.bias"]
            total = total + x[:, t] @ state[f"levels.{i}.input.weight"].T
            total = total + before @ state[f"levels.{i}.previous.weight"].T
            h.append(g(total + h[i - 1] @ weight(f"levels.{i}.below").T if i else total))
        out = h[-1] @ weight("state").T + old[-1] @ weight("before").T
        outputs.append(out + x[:, t] @ state["input.weight"].T + state["input.bias"])
        before = x[:, t]
    return np.stack(outputs, 1)


@pytest.mark.parametrize("constraint", ["softplus", "exp", "square", "clip"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_icrnn_is_the_equation(activation: str, constraint: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 5, 2, generator=generator, dtype=torch.float64)
    net = randomise(recurrent(constraint, activation=activation), 0.4, generator)
    expected = icrnn_in_numpy(net, array(x), activation)
    np.testing.assert_allclose(array(net(x)), expected, rtol=1e-10, atol=1e-10)
    net.outputs = "last"
    np.testing.assert_allclose(array(net(x)), expected[:, -1], rtol=1e-10, atol=1e-10)


def test_icrnn_is_the_source_with_doubled_inputs(seed: int) -> None:
    """Chen et al. pass (x, −x) through non-negative maps: the positive and the negative part of ours."""
    generator = torch.Generator().manual_seed(seed)
    net: Any = randomise(ICRNN(2, hidden=(5,), out_features=3), 0.5, generator)
    x = torch.randn(4, 6, 2, generator=generator, dtype=torch.float64)
    doubled = torch.cat([x, -x], 2)

    def parts(weight: Tensor) -> Tensor:
        return torch.cat([weight.relu(), (-weight).relu()], 1)

    level, z, before, outputs = net.levels[0], torch.zeros(4, 5).double(), torch.zeros(4, 4).double(), []
    for t in range(6):
        now = doubled[:, t]
        carried = z @ level.recurrent.weight.T
        new = now @ parts(level.input.weight).T + level.input.bias + carried + before @ parts(level.previous.weight).T
        new = new.relu()
        outputs.append(new @ net.state.weight.T + z @ net.before.weight.T + now @ parts(net.input.weight).T)
        z, before = new, now
    torch.testing.assert_close(net(x), torch.stack(outputs, 1) + net.input.bias)


def test_icrnn_looks_back_only(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    net = randomise(recurrent(), 0.5, generator)
    x = torch.randn(2, 6, 2, generator=generator, dtype=torch.float64)
    other = x.clone()
    other[:, 3:] += 1
    changed = (net(x) != net(other)).any(2).any(0)
    assert changed.tolist() == [False, False, False, True, True, True]


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameter_counts() -> None:
    # Table 4's FICNN: biases, the first layer, then for each later one the layer before and the input
    widths, inputs = [800, 800, 800, 10], 3072
    expected = sum(widths) + sum(inputs * width for width in widths) + 800 * 800 * 2 + 800 * 10
    assert count(FICNN(inputs, (800, 800, 800), 10)) == expected == 8_693_930
    # the poster's network over digit and label
    expected = 600 + 600 + 1 + 794 * (600 + 600 + 1) + 600 * 600 + 600
    assert count(FICNN(784 + 10, (600, 600), 1, constraint="clip")) == expected == 1_315_395
    # without pass-through: a multilayer perceptron
    assert count(FICNN(5, (7, 6), 2, passthrough=False)) == 5 * 7 + 7 + 7 * 6 + 6 + 6 * 2 + 2
    # the source's network for 159 labels of 1836 features: each layer has W^(y), W^(u), b, W^(z), and two gates
    us, zs = [1836, 600, 159], [0, 600, 159, 1]
    expected = sum(u * v + v for u, v in pairwise(us)) + 2 * (600 + 159)
    for i, u in enumerate(us):
        expected += 159 * zs[i + 1] + (u * 159 + 159) + u * zs[i + 1] + zs[i + 1]
        expected += zs[i] * zs[i + 1] + (u * zs[i] + zs[i])
    assert count(PICNN(1836, 159, (600, 159), x_norm=True)) == expected


# --- convexity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "constraint"), some([*CASES, *PROJECTED], 16, "certified"))
def test_certified(name: str, constraint: str) -> None:
    net, inputs, convex_in = built(name, constraint)
    certificate = cx.certify(net, inputs, wrt=convex_in)
    scope = "for all parameters" if constraint in POSITIVE else "at these weights"
    assert (certificate.convex, certificate.curvature, certificate.scope) == (True, "convex", scope)


def test_partial_networks_are_convex_in_y_only(seed: int) -> None:
    net, (x, y), _ = built("partial")
    assert not cx.certify(net, (x, y)).convex
    assert not cx.certify(net, (x, y), wrt=0).convex
    net = randomise(net, 1.0, torch.Generator().manual_seed(seed))
    assert cx.falsify(net, (x, y), wrt=0, budget=5_000) is not None
    assert cx.falsify(net, (x, y), wrt=1, budget=5_000) is None


@pytest.mark.parametrize(("name", "constraint"), CASES)
def test_chords_for_random_parameters(name: str, constraint: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    build, keywords = NETWORKS[name]
    net = build(constraint, **keywords)
    for scale in (0.1, 1.0, 4.0):
        function = in_y(randomise(net, scale, generator), generator)
        assert worst_chord(function, SHAPES[build], generator) <= TOLERANCE


@pytest.mark.parametrize("name", ["plain", "relu", "no passthrough", "monotone", "partial, norm", "recurrent, last"])
def test_a_flipped_sign_is_found(name: str, seed: int) -> None:
    """The attack of the test above and the certificate both see one wrong entry; projecting mends it."""
    generator = torch.Generator().manual_seed(seed)
    net, inputs, convex_in = built(name, "clip")
    cone = cx.constrain(net, inputs, wrt=convex_in)
    shape = SHAPES[NETWORKS[name][0]]
    *_, last = [key for key in cone.parameters if ".y." not in key]
    for _ in range(10):
        randomise(net, 1.0, generator)
        cone.project()
        function = in_y(net, generator)
        assert worst_chord(function, shape, generator) <= TOLERANCE
        net.get_parameter(last).data[0, 0] = -3.0
        if worst_chord(function, shape, generator, chords=2048) > 1e-6:
            break
    else:
        pytest.fail("no chord showed the wrong sign")
    assert cone.violation() == 3.0
    assert not cx.certify(net, tuple(tensor.double() for tensor in inputs), wrt=convex_in).convex


def test_a_flipped_sign_of_a_monotone_column_is_found(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    net = randomise(dense("clip", monotone=[1]), 1.0, generator)
    cx.constrain(net, torch.zeros(1, 4).double()).project()
    assert rises(net, 1, generator)
    net.get_parameter("layers.2.y.weight").data[:, 1] -= 50.0
    assert not rises(net, 1, generator)


# --- monotone directions, strong convexity ---------------------------------------------------------------------------


@torch.no_grad()
def rises(net: nn.Module, index: int, generator: torch.Generator) -> bool:
    """Whether no output ever falls when one input grows."""
    y = 3 * torch.randn(300, 4, generator=generator, dtype=torch.float64)
    step = torch.zeros(4, dtype=torch.float64)
    step[index] = 1.0
    grown = net(y + step * torch.rand(300, 1, generator=generator, dtype=torch.float64))
    return bool((grown - net(y) >= -1e-12 * (1 + grown.abs())).all())


@pytest.mark.parametrize("constraint", POSITIVE)
@pytest.mark.parametrize("passthrough", [True, False])
def test_monotone(constraint: str, passthrough: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    net = dense(constraint, monotone=torch.tensor([True, False, True, False]), passthrough=passthrough)
    falls = set[int]()
    for scale in (0.3, 1.0, 3.0):
        randomise(net, scale, generator)
        assert rises(net, 0, generator)
        assert rises(net, 2, generator)
        falls |= {index for index in (1, 3) if not rises(net, index, generator)}
    assert falls == {1, 3}, "the other inputs are free"


def test_monotone_inputs_take_convex_features() -> None:
    def features(y: Tensor) -> Tensor:
        return torch.cat([y[:, :1].square(), y[:, 1:3], y[:, 3:].abs()], 1)

    for net, convex in ((dense(monotone=[0, 3]), True), (dense(monotone=[0]), False)):
        certificate = cx.certify(nn.Sequential(Function(features), net), torch.zeros(2, 4))
        assert (certificate.convex and certificate.scope == "for all parameters") is convex


def without(net: nn.Module, modulus: Tensor) -> Callable[[Tensor], Tensor]:
    """f_k(y) − ½ μ_k ‖y‖²."""
    return lambda y: net(y) - modulus / 2 * y.square().sum(1, keepdim=True)


def test_strong_convexity(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for settings in ({"quadratic": 2}, {"quadratic": 0, "activation": "relu"}, {"quadratic": 0, "hidden": ()}):
        keywords: dict[str, Any] = {"hidden": (6,), "out_features": 2, **settings}
        net: Any = FICNN(4, **keywords)
        for scale in (0.1, 1.0, 3.0):
            randomise(net, scale, generator)
            modulus = net.strong_convexity()
            assert bool((modulus > 0).all())
            assert worst_chord(without(net, modulus), (4,), generator) < 1e-9
            if not keywords["hidden"]:  # nothing else is curved, and no greater modulus holds
                axes = torch.eye(4, dtype=torch.float64)[net.quadratic.raw.argmin(1)]
                curved = (net(axes) + net(-axes) - 2 * net(0 * axes)).diagonal()
                torch.testing.assert_close(curved, modulus)
    assert FICNN(4).strong_convexity().tolist() == [0.0]
    partially: Any = randomise(partial(quadratic=1), 1.0, generator)
    assert worst_chord(without(in_y(partially, generator), partially.strong_convexity()), (4,), generator) < 1e-9


# --- keeping it ------------------------------------------------------------------------------------------------------


def trained(net: nn.Module, inputs: tuple[Tensor, ...], optimizer: torch.optim.Optimizer, steps: int = 20) -> None:
    """Push the outputs down, for which weights that multiply positive numbers should be negative."""
    for _ in range(steps):
        optimizer.zero_grad()
        net(*inputs).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", FAST)
def test_projection_keeps_convexity_in_training(name: str) -> None:
    net, inputs, convex_in = built(name, "clip")
    cone = cx.constrain(net, inputs, wrt=convex_in)
    assert str(cone.method) == "Clip()", "the constraint of the network is found again"
    trained(net, inputs, torch.optim.Adam(net.parameters(), lr=0.05))
    assert cone.violation() > 0, "without attach, training leaves the cone"
    assert not cx.certify(net, inputs, wrt=convex_in).convex or name == "monotone"
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    cone.project()
    cone.attach(optimizer)
    trained(net, inputs, optimizer)
    assert cone.violation() == 0.0
    cx.certify(net, inputs, wrt=convex_in).require()


@pytest.mark.parametrize("name", FAST)
def test_by_construction_nothing_is_constrained(name: str) -> None:
    net, inputs, convex_in = built(name)
    assert cx.constrain(net, inputs, wrt=convex_in).parameters == ()
    trained(net, inputs, torch.optim.Adam(net.parameters(), lr=0.5))
    cx.certify(net, inputs, wrt=convex_in).require()


def test_monotone_columns_are_kept_by_projection() -> None:
    net, y = dense("clip", monotone=[1]), torch.randn(3, 4)
    kept = cx.constrain(net, y).intervals
    assert [name for name in kept if ".y." in name] == [f"layers.{i}.y.weight" for i in range(3)]
    assert kept["layers.1.y.weight"].where.flatten().tolist() == [False, True, False, False]
    assert [name for name in cx.constrain(dense("clip"), y).parameters if ".y." in name] == []
    weight = net.get_parameter("layers.1.y.weight")
    assert bool((weight[:, 1] > 0).all()), "the start is inside, not on the bound"
    assert bool((weight[:, [0, 2, 3]] < 0).any())


def test_loading_projects_and_copies_keep_the_constraint() -> None:
    net, y = dense("clip", monotone=[1]), torch.randn(3, 4)
    bad = {name: -torch.ones_like(value) for name, value in net.state_dict().items()}
    for model in (net, copy.deepcopy(net)):
        model.load_state_dict(bad)
        assert cx.constrain(model, y).violation() == 0.0
        assert bool((model.get_parameter("layers.1.z.weight") == 0).all())
        assert model.get_parameter("layers.1.y.weight")[0].tolist() == [-1.0, 0.0, -1.0, -1.0]
        cx.certify(model, y).require()


@pytest.mark.parametrize("name", FAST)
def test_state_and_copies(name: str) -> None:
    net, inputs, _ = built(name)
    other, twin = built(name)[0], copy.deepcopy(net)
    assert not torch.equal(other(*inputs), net(*inputs))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(*inputs), net(*inputs))
    with torch.no_grad():
        next(net.parameters()).add_(1.0)
    assert torch.equal(twin(*inputs), other(*inputs)), "a copy has parameters of its own"
    assert not torch.equal(net(*inputs), other(*inputs))


# --- batches, precision, compilers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_samples_do_not_see_each_other(name: str) -> None:
    net, inputs, convex_in = built(name)
    net = net.double().eval()
    inputs = tuple(tensor.double().requires_grad_() for tensor in inputs)
    together = net(*inputs)
    (gradient,) = torch.autograd.grad(together.sum(), inputs[convex_in])
    for i in range(3):
        single = tuple(tensor[i : i + 1].detach().requires_grad_() for tensor in inputs)
        alone = net(*single)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-12, atol=1e-12)
        (own,) = torch.autograd.grad(alone.sum(), single[convex_in])
        torch.testing.assert_close(own[0], gradient[i], rtol=1e-12, atol=1e-12)


def test_more_dimensions() -> None:
    """Many y for each x, and per-sample gradients by vmap."""
    net, x, y = partial(), torch.randn(3, 1, 3), torch.randn(3, 5, 4)
    many = net(x, y)
    for i in range(3):
        torch.testing.assert_close(many[i], net(x[i].expand(5, 3), y[i]))
    full: Any = dense()
    values = y[:, 0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(full(values)[:, 0].sum(), values)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(lambda one: full(one)[0]))(y[:, 0]), expected)


@pytest.mark.parametrize("name", FAST)
def test_autocast(name: str) -> None:
    net, inputs, convex_in = built(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = net(*inputs)
    full = net(*inputs)
    assert low.dtype == torch.bfloat16
    assert float((low - full).detach().abs().max()) < 0.05 * (1 + float(full.detach().abs().max()))
    low.float().sum().backward()
    grads = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert grads
    assert all(bool(grad.isfinite().all()) for grad in grads)
    cx.certify(net, inputs, wrt=convex_in).require()


@pytest.mark.parametrize("name", FAST)
def test_export_with_any_batch(name: str) -> None:
    net, inputs, _ = built(name)
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    more = tuple(torch.randn(7, *tensor.shape[1:]) for tensor in inputs)
    torch.testing.assert_close(program.module()(*more), net(*more))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
@pytest.mark.parametrize("name", ["monotone", "partial"])
def test_compile(name: str) -> None:
    net, inputs, _ = built(name)
    compiled = torch.compile(net)
    torch.testing.assert_close(compiled(*inputs), net(*inputs), rtol=1e-4, atol=1e-5)
    compiled(*inputs).sum().backward()
    first = next(net.parameters()).grad
    assert first is not None
    assert bool(first.isfinite().all())


# --- the start -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def pre_activations(net: Any, y: Tensor) -> list[Tensor]:
    z, found = None, list[Tensor]()
    for layer in net.layers[:-1]:
        found.append(layer(y, z))
        z = net.activation(found[-1])
    return found


@pytest.mark.parametrize("activation", ["relu", "softplus", "elu"])
def test_initial_signal_in_deep_networks(activation: str) -> None:
    y = torch.randn(500, 60)
    for before in pre_activations(FICNN(60, (300,) * 8, activation=activation), y):
        assert 0.5 < float(before.std(0).mean()) < 1.3
        assert abs(float(before.mean())) < 1.0
        assert mean_correlation(before) < 0.25
    # the same weights without what the pass-through adds: the units become one
    *_, last = pre_activations(FICNN(60, (300,) * 8, activation=activation, passthrough=False), y)
    assert float(last.std(0).mean()) < 0.3 or mean_correlation(last) > 0.8


def test_initial_gates_and_path_of_x() -> None:
    net: Any = PICNN(40, 30, (200, 200, 200))
    u, gates = torch.randn(500, 40), list[Tensor]()
    with torch.no_grad():
        for path, layer in zip(net.x_layers, net.layers, strict=False):
            gates += [layer.y_gate(u)] + ([layer.z_gate(u)] if layer.z_gate is not None else [])
            assert 0.8 < float(path[0](u).square().mean()) < 1.25
            u = path(u)
    for gate in gates:
        assert abs(float(gate.mean()) - 1) < 0.05
        assert 0.05 < float(gate.std(0).mean()) < 0.15


def test_states_neither_vanish_nor_explode() -> None:
    for activation in ("relu", "softplus", "elu"):
        net: Any = ICRNN(4, (64, 64), activation=activation)
        with torch.no_grad():
            spread = net(torch.randn(64, 300, 4)).std(0).mean(1)
        assert float(spread.min()) > 0.1
        assert float(spread.max()) < 10.0


def test_learns_a_convex_function_and_no_other(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(256, 2, generator=generator) * 2 - 1
    target = torch.stack([y.sum(1).abs(), y[:, 0] - 1, -2 * y[:, 1]]).amax(0)
    errors: list[float] = []
    for goal in (target, -target):
        net, goal = FICNN(2, (32, 32), activation="relu"), (goal - goal.mean()) / goal.std()
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-2)
        for _ in range(150):
            optimizer.zero_grad()
            loss = (net(y)[:, 0] - goal).square().mean()
            loss.backward()
            optimizer.step()
        errors.append(float((net(y)[:, 0] - goal).square().mean().detach()))
    assert errors[0] < 0.02
    assert errors[1] > 0.3


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: FICNN(0), "in_features must be an integer of at least 1, not 0"),
        (lambda: FICNN(2, (3, -1)), r"hidden\[1\]"),
        (lambda: FICNN(2, constraint="positive"), "unknown constraint 'positive'"),
        (lambda: FICNN(2, quadratic=-1), "quadratic is the rank"),
        (lambda: FICNN(2, quadratic=1, monotone=[0]), "exclude each other"),
        (lambda: FICNN(2, monotone=[5]), "monotone names input 5, and there are 2"),
        (lambda: FICNN(2, monotone=torch.ones(3, dtype=torch.bool)), r"must have shape \(2,\)"),
        (lambda: FICNN(2)(torch.zeros(3, 4)), r"takes y of shape \(..., 2\), not \(3, 4\)"),
        (lambda: PICNN(2, 3, (4,), x_hidden=(4, 4)), "hidden has 1 layers and x_hidden 2"),
        (lambda: PICNN(2, 3)(torch.zeros(1, 3), torch.zeros(1, 2)), "takes x of shape .* called as net"),
        (lambda: ICRNN(2, ()), "levels must be an integer of at least 1"),
        (lambda: ICRNN(2, outputs="first"), "outputs is 'all' or 'last'"),
        (lambda: ICRNN(2)(torch.zeros(3, 2)), r"sequences of shape \(B, T, 2\)"),
    ],
)
def test_errors(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
