"""Convolutional input-convex networks: the equations against numpy, and convexity by certificate and by attack."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.nn import Convolution
from tests.chords import ACTIVATIONS, TOLERANCE, array, conv2d, randomise, weight_in, worst_chord
from tests.drawing import some

ConvFICNN, ConvPICNN = cx.nn.ConvFICNN, cx.nn.ConvPICNN
LAYERS = [(3, (4, 3), (2, 1)), Convolution(4, 3, 2, padding=0)]
GEOMETRY = [((2, 1), (1, 1)), ((2, 2), (0, 0))]
"""Strides and paddings of these layers, by hand: (4 − 2) / 2 = 1 and (3 − 1) / 2 = 1."""
SHAPE = (2, 8, 6)


class OfY(nn.Module):
    """A network of x and y as a function of y, for a fixed x."""

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.network, self.x = network, x

    def forward(self, y: Tensor) -> Tensor:
        return self.network(self.x.expand(len(y), *self.x.shape[1:]), y)


def full(constraint: str = "softplus", **keywords: Any) -> nn.Module:
    return ConvFICNN(SHAPE, LAYERS, **{"hidden": (5, 4), "out_features": 2, "constraint": constraint, **keywords})


def partial(constraint: str = "softplus", **keywords: Any) -> nn.Module:
    settings = {"hidden": (5, 4), "out_features": 2, "constraint": constraint, **keywords}
    return ConvPICNN((1, 8, 6), SHAPE, LAYERS, **settings)


NETWORKS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    "full": (full, {}),
    "full, no passthrough": (full, {"activation": "relu", "passthrough": False}),
    "full, convolutions only": (full, {"activation": "elu", "hidden": ()}),
    "partial": (partial, {}),
    "partial, norm": (partial, {"activation": "relu", "x_norm": True, "x_activation": nn.Tanh()}),
    "partial, no passthrough": (partial, {"activation": "relu", "passthrough": False}),
    "partial, convolutions only": (partial, {"activation": "celu", "hidden": ()}),
}
FAST = ["full", "partial"]
CASES = [*((name, "softplus") for name in NETWORKS), ("full", "exp"), ("full", "clip"), ("partial", "square")]


def built(name: str, constraint: str = "softplus") -> tuple[nn.Module, tuple[Tensor, ...], int]:
    """A network of the table, an example, and the input that it is convex in."""
    build, keywords = NETWORKS[name]
    y = torch.randn(3, *SHAPE)
    inputs = (y,) if build is full else (torch.randn(3, 1, 8, 6), y)
    return build(constraint, **keywords), inputs, len(inputs) - 1


def in_y(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """The network as a function of the image that it is convex in, x being random."""
    if isinstance(network, ConvPICNN):
        return OfY(network, torch.randn(1, *network.x_image, generator=generator, dtype=torch.float64))
    return network


# --- the equations ---------------------------------------------------------------------------------------------------


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def mapped(state: dict[str, Tensor], name: str, x: np.ndarray, level: int, constraint: str | None = None) -> np.ndarray:
    """The map of this name: a convolution with the geometry of a level, or a dense map of what is flattened."""
    dense = level >= len(GEOMETRY)
    name = f"{name}.1" if f"{name}.1.weight" in state or f"{name}.1.raw" in state else name
    weight = weight_in(state, name, constraint) if constraint else array(state[f"{name}.weight"])
    bias = array(state[f"{name}.bias"]) if f"{name}.bias" in state else None
    if not dense:
        return conv2d(x, weight, bias, *GEOMETRY[level])
    return flat(x) @ weight.T + (0 if bias is None else bias)


def ficnn_in_numpy(net: Any, y: np.ndarray, activation: str) -> np.ndarray:
    state, z, last = dict(net.state_dict()), None, len(net.layers) - 1
    for i in range(last + 1):
        total = 0.0
        if f"layers.{i}.y.weight" in state or f"layers.{i}.y.1.weight" in state:
            total = mapped(state, f"layers.{i}.y", y, i)
        if z is not None:
            total = total + mapped(state, f"layers.{i}.z", z, i, net.constraint)
        z = ACTIVATIONS[activation](np.asarray(total)) if i < last else np.asarray(total)
        if f"reductions.{i}.weight" in state:
            y = mapped(state, f"reductions.{i}", y, i)
    assert z is not None
    return z


def gated(state: dict[str, Tensor], name: str, u: np.ndarray, level: int) -> np.ndarray:
    """W u + b: a 3×3 convolution on grids, dense after the first dense layer."""
    weight, bias = array(state[f"{name}.weight"]), array(state[f"{name}.bias"])
    return conv2d(u, weight, bias, (1, 1), (1, 1)) if level <= len(GEOMETRY) else u @ weight.T + bias


def picnn_in_numpy(net: Any, x: np.ndarray, y: np.ndarray, activation: str) -> np.ndarray:
    state, u, z, last = dict(net.state_dict()), x, None, len(net.layers) - 1
    for i in range(last + 1):
        name = f"layers.{i}"
        total = mapped(state, f"{name}.u", u, i)
        if f"{name}.y_gate.weight" in state:
            total = total + mapped(state, f"{name}.y", y * gated(state, f"{name}.y_gate", u, i), i)
        if z is not None:
            gates = np.maximum(gated(state, f"{name}.z_gate", u, i), 0)
            total = total + mapped(state, f"{name}.z", z * gates, i, net.constraint)
        z = ACTIVATIONS[activation](total) if i < last else total
        if i < last:
            path = {key.removeprefix(f"x_layers.{i}."): value for key, value in state.items()}
            u = np.maximum(mapped({f"map.{k.removeprefix('0.')}": v for k, v in path.items()}, "map", u, i), 0)
            if "2.weight" in path:
                scale = array(path["2.weight"]) / np.sqrt(array(path["2.running_var"]) + 1e-5)
                shift = array(path["2.bias"]) - array(path["2.running_mean"]) * scale
                tail = (-1, *[1] * (u.ndim - 2))
                u = u * scale.reshape(tail) + shift.reshape(tail)
            y = mapped(state, f"reductions.{i}", y, i) if f"reductions.{i}.weight" in state else flat(y)
    assert z is not None
    return z


@pytest.mark.parametrize("constraint", ["softplus", "exp", "square", "clip"])
def test_conv_ficnn_is_the_equation(constraint: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64)
    for activation, settings in (("relu", {}), ("softplus", {"passthrough": False}), ("elu", {"hidden": ()})):
        net = randomise(full(constraint, activation=activation, **settings), 0.4, generator)
        np.testing.assert_allclose(array(net(y)), ficnn_in_numpy(net, array(y), activation), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("constraint", ["softplus", "exp", "square", "clip"])
def test_conv_picnn_is_the_equation(constraint: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(3, n, 8, 6, generator=generator, dtype=torch.float64) for n in (1, 2))
    for activation, settings in (
        ("relu", {}),
        ("softplus", {"x_norm": True}),
        ("elu", {"hidden": ()}),
        ("relu", {"passthrough": False}),
    ):
        net = randomise(partial(constraint, activation=activation, **settings), 0.4, generator)
        np.testing.assert_allclose(
            array(net(x, y)), picnn_in_numpy(net, array(x), array(y), activation), rtol=1e-10, atol=1e-10
        )


def test_numpy_convolution() -> None:
    """The oracle's oracle."""
    x, weight, bias = torch.randn(2, 3, 7, 6), torch.randn(4, 3, 3, 2), torch.randn(4)
    expected = nn.functional.conv2d(x, weight, bias, (2, 1), (1, 0))
    np.testing.assert_allclose(conv2d(array(x), array(weight), array(bias), (2, 1), (1, 0)), expected, atol=1e-5)


def olivetti(**keywords: Any) -> nn.Module:
    layers = [(32, 8, (4, 2)), (64, 4, 2), (64, 3)]
    return ConvPICNN((1, 64, 32), (1, 64, 32), layers, hidden=(512,), x_norm=True, activation="relu", **keywords)


def test_the_network_for_face_completion() -> None:
    net: Any = olivetti()
    sizes: list[tuple[int, ...]] = []
    for layer in net.layers:
        layer.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
    x, y = torch.rand(2, 1, 64, 32), torch.rand(2, 1, 64, 32)
    assert net(x, y).shape == (2, 1)
    assert sizes == [(32, 16, 16), (64, 8, 8), (64, 8, 8), (512,), (1,)]
    # by hand: weights of W^(z), W^(y), W^(u) for each layer; b; gates of z and y; R; the path of x with its norm
    taps, cells = [64, 16, 9], 8 * 8
    maps = [1, 32, 64], [32, 64, 64]
    expected = sum(t * o * ((u if u > 1 else 0) + 1 + u) + o for t, u, o in zip(taps, *maps, strict=True))
    expected += sum(9 * u * (u + 1) + u + 1 for u in maps[0][1:]) + 9 * 1 * 1 + 1
    expected += sum(t * 1 * 1 + 1 for t in taps)
    expected += sum(t * u * o + 3 * o for t, u, o in zip(taps, *maps, strict=True))
    expected += (
        2 * 64 * cells * 512 + cells * 512 + 512 + 9 * 64 * 65 + 65
    )  # the first dense layer, gates by convolution
    expected += 64 * cells * 512 + 3 * 512
    expected += 512 + cells + 512 + 1 + (512 * 512 + 512) + (512 * cells + cells)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected
    certificate = cx.certify(net, (x, y), wrt=1)
    assert (certificate.convex, certificate.scope) == (True, "for all parameters")


# --- convexity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "constraint"), some(CASES, 5, "attacked"))
def test_certified_and_attacked(name: str, constraint: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    net, inputs, convex_in = built(name, constraint)
    certificate = cx.certify(net, inputs, wrt=convex_in)
    scope = "at these weights" if constraint == "clip" else "for all parameters"
    assert (certificate.convex, certificate.scope) == (True, scope)
    if name == "partial":
        assert not cx.certify(net, inputs).convex
    for scale in (0.1, 1.0):
        function = in_y(randomise(net, scale, generator), generator)
        if constraint == "clip":
            cone = cx.constrain(net, tuple(tensor.double() for tensor in inputs), wrt=convex_in)
            assert cone.violation() == 0.0
            assert len(cone.parameters) == len(list(net.layers)) - 1  # pyright: ignore
        assert worst_chord(function, SHAPE, generator, chords=100) <= TOLERANCE


@pytest.mark.parametrize("name", FAST)
def test_by_construction_nothing_is_constrained(name: str) -> None:
    net, inputs, convex_in = built(name)
    assert cx.constrain(net, inputs, wrt=convex_in).parameters == ()


@pytest.mark.parametrize("name", ["full, no passthrough", "full, convolutions only", "partial"])
def test_a_flipped_sign_is_found(name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    net, inputs, convex_in = built(name, "clip")
    cone = cx.constrain(net, inputs, wrt=convex_in)
    assert str(cone.method) == "Clip()", "the constraint of the network is found again"
    for _ in range(10):
        randomise(net, 0.5, generator)
        cone.project()
        function = in_y(net, generator)
        assert worst_chord(function, SHAPE, generator, chords=100) <= TOLERANCE
        net.get_parameter(cone.parameters[-1]).data[0, :2] = -10.0
        if worst_chord(function, SHAPE, generator, chords=1000) > 1e-6:
            break
    else:
        pytest.fail("no chord showed the wrong sign")
    assert cone.violation() == 10.0
    assert not cx.certify(net, tuple(tensor.double() for tensor in inputs), wrt=convex_in).convex
    cone.project()
    assert worst_chord(function, SHAPE, generator, chords=100) <= TOLERANCE


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


@pytest.mark.parametrize("name", FAST)
def test_state_copies_autocast_and_export(name: str) -> None:
    net, inputs, _ = built(name)
    expected = net(*inputs).detach()
    other = built(name)[0]
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(*inputs), expected)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        next(net.parameters()).add_(1.0)
    assert torch.equal(twin(*inputs), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = twin(*inputs).detach()
    assert low.dtype == torch.bfloat16
    assert float((low - expected).abs().max()) < 0.05 * (1 + float(expected.abs().max()))
    batch = torch.export.Dim("batch")
    program = torch.export.export(twin, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    more = tuple(torch.randn(7, *tensor.shape[1:]) for tensor in inputs)
    torch.testing.assert_close(program.module()(*more), twin(*more))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_compile() -> None:
    net, inputs, _ = built("partial")
    torch.testing.assert_close(torch.compile(net)(*inputs), net(*inputs), rtol=1e-4, atol=1e-5)


# --- the start -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_initial_signal() -> None:
    net: Any = ConvFICNN((8, 16, 16), [(32, 3), (32, 3), (32, 3), (32, 3)], hidden=(64, 64), activation="relu")
    spreads: list[float] = []
    for layer in net.layers:
        layer.register_forward_hook(lambda _, __, out: spreads.append(float(out.std(0).mean())))
    coarse = torch.randn(64, 8, 4, 4)  # neighbouring pixels of an image are alike
    net(nn.functional.interpolate(coarse, (16, 16), mode="bilinear") * 1.6)
    assert min(spreads) > 0.2
    assert max(spreads) < 1.6
    image = torch.randn(2, 8, 16, 16)
    inner = net.reductions[0](image)[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inner, nn.functional.avg_pool2d(image, 3, 1))


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ConvFICNN((1, 4, 4), []), "at least one convolution"),
        (lambda: ConvFICNN((4, 4), [(2, 3)]), r"the image is \(channels, height, width\)"),  # pyright: ignore
        (lambda: ConvFICNN((1, 4, 4), [(2, 3), Convolution(2, 9, 1, 0)]), r"convolutions\[1\] leaves no pixel"),
        (lambda: ConvFICNN((1, 4, 4), [(0, 3)]), r"convolutions\[0\].channels must be an integer of at least 1, not 0"),
        (lambda: ConvFICNN((1, 4, 4), [(2, 3)], constraint="none"), "unknown constraint 'none'"),
        (
            lambda: ConvFICNN((1, 4, 4), [(2, 3)])(torch.zeros(2, 1, 4, 5)),
            r"of shape \(B, 1, 4, 4\), not \(2, 1, 4, 5\)",
        ),
        (lambda: ConvPICNN((1, 4, 4), (1, 4, 5), [(2, 3)]), "resize or pad x"),
        (lambda: ConvPICNN((1, 4, 4), (2, 4, 4), [(2, 3)])(*torch.zeros(2, 3, 1, 4, 4)), "takes y of shape"),
    ],
)
def test_errors(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
