"""Initialisers against closed forms and sampling, and what they do to the signal in a wide random network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from convexnet.initialise import correlation, identity_, initialise, lognormal_, moments, paper_
from tests.drawing import some

NORMAL = NormalDist()
NAMED: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "elu": lambda x: torch.where(x > 0, x, torch.expm1(x)),
    "celu": lambda x: torch.where(x > 0, x, torch.expm1(x)),
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
}
TRUE = torch.tensor(True)


def everywhere(*names: str) -> dict[str, Tensor]:
    return dict.fromkeys(names, TRUE)


# --- the constants of an activation ----------------------------------------------------------------------------------


def relu_covariance(rho: float) -> float:
    """The arc-cosine kernel of order one (Cho and Saul), less the squared mean."""
    return (math.sqrt(1 - rho**2) + rho * (math.pi - math.acos(rho)) - 1) / (2 * math.pi)


@pytest.mark.parametrize("rho", [0.05, 0.3, 0.5, 0.75, 0.9])
def test_relu_in_closed_form(rho: float) -> None:
    found = moments("relu", rho)
    assert found.mean == pytest.approx(1 / math.sqrt(2 * math.pi), abs=1e-12)
    assert found.second == pytest.approx(0.5, abs=1e-12)
    assert found.variance == pytest.approx(0.5 - 0.5 / math.pi, abs=1e-12)
    assert found.covariance == pytest.approx(relu_covariance(rho), abs=1e-12)
    assert found.covariance != pytest.approx(relu_covariance(rho + 1e-6), abs=1e-9)  # the comparison has teeth


def test_elu_in_closed_form() -> None:
    found = moments("elu")
    half, one = math.exp(0.5) * NORMAL.cdf(-1), math.exp(2) * NORMAL.cdf(-2)
    assert found.mean == pytest.approx(1 / math.sqrt(2 * math.pi) + half - 0.5, abs=1e-12)
    assert found.second == pytest.approx(1 + one - 2 * half, abs=1e-12)
    assert found == pytest.approx((0.1605, 0.6450, 0.6192, 0.2990), abs=1e-4)


@pytest.mark.parametrize("kink", [-1.0, 0.013, 0.77])
def test_a_kink_off_the_panels(kink: float) -> None:
    found = moments(lambda x: torch.relu(x - kink))
    tail, density = NORMAL.cdf(-kink), NORMAL.pdf(kink)
    assert found.mean == pytest.approx(density - kink * tail, abs=1e-5)
    assert found.second == pytest.approx((1 + kink**2) * tail - kink * density, abs=1e-5)


@pytest.mark.parametrize("rho", [0.2, 0.5, 0.95])
def test_polynomials(rho: float) -> None:
    assert moments(lambda x: x, rho) == pytest.approx((0, 1, 1, rho), abs=1e-12)
    assert moments(torch.square, rho) == pytest.approx((1, 3, 2, 2 * rho**2), abs=1e-12)
    assert moments(lambda x: x**3, rho) == pytest.approx((0, 15, 15, 9 * rho + 6 * rho**3), abs=1e-11)


@pytest.mark.parametrize("name", NAMED)
def test_named_activations_by_sampling(name: str, seed: int) -> None:
    rho, count = 0.5, 400_000
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, count, dtype=torch.float64, generator=generator)
    a, b = NAMED[name](x), NAMED[name](rho * x + math.sqrt(1 - rho**2) * noise)
    found = moments(name, rho)
    product = (a - found.mean) * (b - found.mean)
    sampled = (a, a.square(), (a - found.mean).square(), product)
    for value, draws in zip(found, sampled, strict=True):
        assert value == pytest.approx(draws.mean().item(), abs=5 * draws.std().item() / math.sqrt(count))
    error = 5 * product.std().item() / math.sqrt(count)
    assert moments(name, rho + 0.05).covariance != pytest.approx(product.mean().item(), abs=error)


def test_what_has_no_moments() -> None:
    with pytest.raises(ValueError, match=r"unknown activation 'gelu': the names are relu, elu"):
        moments("gelu")
    for rho in (0.0, 1.0, -0.5, math.nan):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            moments("relu", rho)
    with pytest.raises(ValueError, match="constant or not finite"):
        moments(torch.zeros_like)
    with pytest.raises(ValueError, match="constant or not finite"):
        moments(torch.log)
    with pytest.raises(ValueError, match="must be elementwise"):
        moments(lambda x: x.sum())


# --- log-normal weights ----------------------------------------------------------------------------------------------


def relu_formulas(n: int) -> tuple[float, float, float]:
    """Squared mean, variance and bias for ReLU and correlation 1/2, as published."""
    square = 6 * math.pi / (n * (6 * (math.pi - 1) + (n - 1) * (3 * math.sqrt(3) + 2 * math.pi - 6)))
    return square, 1 / n, -n * math.sqrt(square / (2 * math.pi))


def agrees_with_logs(weight: Tensor, n: int) -> bool:
    """Whether ln w has the mean and the variance of the formulas, within five standard errors."""
    square, variance, _ = relu_formulas(n)
    spread = math.log(square + variance) - math.log(square)
    mean = math.log(square) - 0.5 * math.log(square + variance)
    logs = weight.double().log()
    count = logs.numel()
    close = abs(logs.mean().item() - mean) < 5 * math.sqrt(spread / count)
    return close and abs(logs.var().item() - spread) < 5 * spread * math.sqrt(2 / count)


@pytest.mark.parametrize(
    ("shape", "fan_in"),
    [((2000, 50), 50), ((600, 8, 5), 40), ((400, 6, 3, 4), 72), ((400, 1, 7, 7), 49)],
    ids=["linear", "conv1d", "conv2d", "depthwise"],
)
def test_distribution_of_lognormal_weights(shape: tuple[int, ...], fan_in: int, seed: int) -> None:
    weight, bias = torch.empty(shape), torch.empty(shape[0])
    generator = torch.Generator().manual_seed(seed)
    assert lognormal_(weight, bias, generator=generator) is weight
    assert agrees_with_logs(weight, fan_in)
    assert not agrees_with_logs(weight, fan_in + 10)
    assert not agrees_with_logs(lognormal_(torch.empty(shape), correlation=0.7, generator=generator), fan_in)
    assert bias.tolist() == pytest.approx([relu_formulas(fan_in)[2]] * shape[0], rel=1e-6)


def test_moments_of_lognormal_weights(seed: int) -> None:
    """The moments themselves, at a fan-in whose tails are light enough to sample."""
    weight = lognormal_(torch.empty(400_000, 3), generator=torch.Generator().manual_seed(seed)).double()
    square, variance, _ = relu_formulas(3)
    assert weight.mean().item() == pytest.approx(math.sqrt(square), rel=0.01)
    assert weight.square().mean().item() == pytest.approx(square + variance, rel=0.03)


def propagated(weight: Tensor, bias: Tensor, activation: Callable[[Tensor], Tensor], seed: int) -> list[float]:
    """Mean, variance and correlation, over draws and samples, after a layer that stationary pre-activations enter."""
    generator = torch.Generator().manual_seed(seed)
    samples, fan_in = 1500, weight.shape[1]
    shared = torch.randn(samples, 1, generator=generator)
    own = torch.randn(samples, fan_in, generator=generator)
    out = activation((shared + own) / math.sqrt(2)) @ weight.T + bias
    mean, variance = out.mean().item(), out.square().mean().item()
    return [mean, variance, out.mean(1).square().mean().item() / variance]


@pytest.mark.parametrize("name", some(NAMED, 2, "stationary"))
def test_a_stationary_signal_stays(name: str, seed: int) -> None:
    weight, bias = torch.empty(20_000, 6), torch.empty(20_000)
    lognormal_(weight, bias, name, generator=torch.Generator().manual_seed(seed))
    kept = propagated(weight, bias, NAMED[name], seed + 1)
    assert kept == pytest.approx([0.0, 1.0, 0.5], abs=0.12)
    assert propagated(weight, 0 * bias, NAMED[name], seed + 1) != pytest.approx([0.0, 1.0, 0.5], abs=0.12)
    paper_(weight)
    assert propagated(weight, bias, NAMED[name], seed + 1) != pytest.approx([0.0, 1.0, 0.5], abs=0.12)


def test_what_is_common_stays_at_width_800(seed: int) -> None:
    """Mean and covariance rest on the mean weight, which a wide layer averages well."""
    weight, bias = torch.empty(800, 800), torch.empty(800)
    lognormal_(weight, bias, "elu", generator=torch.Generator().manual_seed(seed))
    mean, variance, alike = propagated(weight, bias, F.elu, seed + 1)
    assert mean == pytest.approx(0.0, abs=0.1)
    assert alike * variance == pytest.approx(0.5, abs=0.1)
    assert variance < 1.2  # rests on rare large weights: what a single draw of the layer falls short by is not bounded


# --- the other two ---------------------------------------------------------------------------------------------------


def test_paper_weights(seed: int) -> None:
    weight = torch.empty(300, 500)
    assert paper_(weight, generator=torch.Generator().manual_seed(seed)) is weight
    bound = math.sqrt(6 / 800)
    moved = weight < math.exp(-5)  # most of the positive half lies above
    assert bool((weight > 0).all())
    assert weight.max().item() == pytest.approx(bound, rel=1e-3)
    small = weight[moved & (weight > math.exp(-5 - bound))]
    assert small.numel() / weight.numel() == pytest.approx(0.5, abs=0.01)
    kept = weight[~moved]
    assert kept.mean().item() == pytest.approx((bound + math.exp(-5)) / 2, rel=0.01)  # uniform above e^-5
    wide = paper_(torch.empty(300, 500), epsilon=2.0, generator=torch.Generator().manual_seed(seed))
    assert wide.max().item() == pytest.approx(math.exp(-2), rel=1e-3)


def test_identity_passes_its_input_on(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(5, 4, 6, 7, generator=generator)
    kernel = identity_(torch.empty(4, 4, 3, 3), noise=0.0)
    torch.testing.assert_close(F.conv2d(x, kernel, padding=1), x)
    grouped = identity_(torch.empty(4, 2, 3, 3), noise=0.0, groups=2)
    torch.testing.assert_close(F.conv2d(x, grouped, padding=1, groups=2), x)
    depthwise = identity_(torch.empty(4, 1, 5, 5), noise=0.0, groups=4)
    torch.testing.assert_close(F.conv2d(x, depthwise, padding=2, groups=4), x)
    assert not torch.equal(F.conv2d(x, kernel.roll(1, -1), padding=1), x)


def test_identity_of_other_shapes() -> None:
    wider = identity_(torch.empty(7, 3), noise=0.0)
    assert wider.argmax(1).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert wider.sum().item() == 7
    narrower = identity_(torch.empty(3, 7), noise=0.0)
    assert [row.nonzero().flatten().tolist() for row in narrower] == [[0, 3, 6], [1, 4], [2, 5]]
    assert narrower.square().sum(1).tolist() == pytest.approx([1, 1, 1])  # uncorrelated inputs keep their variance
    halves = identity_(torch.empty(4, 4), noise=0.0, groups=2)  # 8 inputs, 4 outputs: every input is used in each group
    assert [row.nonzero().flatten().tolist() for row in halves] == [[0, 2], [1, 3]] * 2


def test_noise_of_the_identity(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = identity_(torch.empty(200, 400, 3), noise=0.2, generator=generator)
    noise = weight - identity_(torch.empty(200, 400, 3), noise=0.0)
    assert weight.min().item() > 0  # what softplus and exp can represent
    assert noise.max().item() <= 2 * 0.2 / 1200 * 1.001  # the subtraction rounds
    assert noise.sum((1, 2)).mean().item() == pytest.approx(0.2, rel=0.02)
    with pytest.raises(ValueError, match="noise must be non-negative"):
        identity_(torch.empty(2, 2), noise=-0.1)
    with pytest.raises(ValueError, match="3 groups do not divide the 4 outputs"):
        identity_(torch.empty(4, 2), groups=3)


# --- masks, generators, types ----------------------------------------------------------------------------------------

INITIALISERS: list[Callable[..., Tensor]] = [paper_, lognormal_, identity_]


@pytest.mark.parametrize("draw", INITIALISERS)
def test_only_masked_entries_are_drawn(draw: Callable[..., Tensor], seed: int) -> None:
    weight = torch.full((30, 20, 3), -7.0)
    columns = torch.zeros(1, 20, 1, dtype=torch.bool)
    columns[0, 4:16] = True
    draw(weight, where=columns, generator=torch.Generator().manual_seed(seed))
    assert bool((weight[:, 4:16] > 0).all())
    assert bool((weight[:, :4] == -7).all())
    assert bool((weight[:, 16:] == -7).all())


def test_fans_are_counted_over_the_mask(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    columns = torch.arange(90) < 40
    weight = torch.zeros(2000, 90)
    lognormal_(weight, where=columns, generator=generator)
    assert agrees_with_logs(weight[:, :40], 40)
    assert not agrees_with_logs(weight[:, :40], 90)

    paper_(weight, where=columns, generator=generator)
    assert weight.max().item() == pytest.approx(math.sqrt(6 / 2040), rel=1e-3)

    weight.zero_()
    identity_(weight[:40], 0.0, where=torch.arange(90) >= 50)
    torch.testing.assert_close(weight[:40, 50:], torch.eye(40))


def test_each_row_has_its_own_fan_in(seed: int) -> None:
    mask = torch.ones(3, 60, dtype=torch.bool)
    mask[1, 20:] = False
    mask[2] = False
    weight, bias = torch.full((3, 60), -1.0), torch.full((3,), 9.0)
    lognormal_(weight, bias, where=mask, generator=torch.Generator().manual_seed(seed))
    assert bias.tolist() == pytest.approx([relu_formulas(60)[2], relu_formulas(20)[2], 9.0], rel=1e-6)
    assert bool((weight[2] == -1).all())
    triangle = torch.ones(4, 4, dtype=torch.bool).tril()
    lower = identity_(torch.zeros(4, 4), 0.0, where=triangle)
    assert bool((lower[~triangle] == 0).all())
    assert lower.square().sum(1).tolist() == pytest.approx([1, 1, 1, 1])


@pytest.mark.parametrize("draw", INITIALISERS)
def test_generators_and_gradients(draw: Callable[..., Tensor], seed: int) -> None:
    weight = nn.Parameter(torch.zeros(6, 5))
    state = torch.get_rng_state()
    first = draw(weight, generator=torch.Generator().manual_seed(seed)).detach().clone()
    again = draw(weight, generator=torch.Generator().manual_seed(seed))
    other = draw(torch.zeros(6, 5), generator=torch.Generator().manual_seed(seed + 1))
    assert again is weight
    assert weight.is_leaf
    assert weight.requires_grad
    assert torch.equal(first, weight)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("draw", INITIALISERS)
def test_types(draw: Callable[..., Tensor], dtype: torch.dtype) -> None:
    weight = draw(torch.full((64, 64), math.nan, dtype=dtype))
    assert weight.dtype == dtype
    assert bool((weight >= 0).all())
    assert bool(weight.isfinite().all())


@pytest.mark.parametrize("draw", INITIALISERS)
def test_wrong_masks(draw: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"shape \(5,\) has no fan-in"):
        draw(torch.zeros(5))
    with pytest.raises(TypeError, match=r"boolean, not torch\.float32"):
        draw(torch.zeros(5, 2), where=torch.ones(5, 2))
    with pytest.raises(ValueError, match=r"\(5,\) does not broadcast to the weight's \(5, 2\)"):
        draw(torch.zeros(5, 2), where=torch.ones(5, dtype=torch.bool))


# --- correlation -----------------------------------------------------------------------------------------------------


def oracle(samples: Tensor) -> float:
    """The mean off-diagonal entry of numpy's matrix."""
    matrix = np.corrcoef(samples.double().numpy(), rowvar=False)
    return float(matrix[~np.eye(len(matrix), dtype=bool)].mean())


class Skipping(nn.Module):
    """Convolution, a head over positions, and a layer that is used twice; evaluated in another order than declared."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 4)
        self.twice = nn.Linear(5, 5)
        self.stem = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.Dropout(0.5))
        self.idle = nn.Linear(3, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image).relu().flatten(2).transpose(1, 2)
        return self.head(self.twice(self.twice(x)))


def test_correlation_agrees_with_numpy(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    net = Skipping()
    image = torch.randn(6, 2, 4, 5, generator=generator)
    found = correlation(net, image)
    assert list(found) == ["stem.0", "twice", "head"]
    net.eval()
    stem = net.stem[0](image)
    x = net.stem[1](stem).relu().movedim(1, -1).reshape(-1, 5)
    once, twice = net.twice(x), net.twice(net.twice(x))
    stem, once, twice, head = (t.detach() for t in (stem, once, twice, net.head(twice)))
    by_position = stem.movedim(1, -1).reshape(-1, 5)
    assert found["stem.0"] == pytest.approx(oracle(by_position), abs=1e-6)
    assert found["twice"] == pytest.approx((oracle(once) + oracle(twice)) / 2, abs=1e-6)
    assert found["head"] == pytest.approx(oracle(head), abs=1e-6)
    assert found["stem.0"] != pytest.approx(oracle(stem.reshape(-1, 5)), abs=1e-3)  # units are channels


def test_correlation_leaves_the_model_as_it_was() -> None:
    net = Skipping().train()
    net.stem[2].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first = correlation(net, torch.randn(64, 2, 4, 5))
    assert [module.training for module in (net, net.stem[1], net.stem[2])] == [True, True, False]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
    assert set(first) == {"stem.0", "twice", "head"}
    with pytest.raises(RuntimeError):
        correlation(net, torch.randn(3, 7))
    assert not any(module._forward_hooks for module in net.modules())
    assert net.training


def test_units_that_do_not_vary() -> None:
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 3))
    x = torch.randn(200, 3)
    with torch.no_grad():
        net[0].weight[2:4] = 0.0
        net[0].bias[2:4] = torch.tensor([1e4, 0.1])
        net[2].weight[1:] = 0.0
        samples = net[0](x)
    found = correlation(net, x)
    assert found["0"] == pytest.approx(oracle(samples[:, [0, 1, 4, 5]]), abs=1e-6)
    assert math.isnan(found["2"])  # one unit is left, and no pair
    assert math.isnan(correlation(net, x[:1])["0"])


def test_wrong_arguments_of_correlation() -> None:
    assert correlation(nn.ReLU(), torch.zeros(2, 3)) == {}
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        correlation(torch.relu, torch.zeros(2, 3))  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="must be a tensor"):
        correlation(nn.Linear(3, 2), [1.0])  # pyright: ignore[reportArgumentType]


# --- a whole model ---------------------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ELU(),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.BatchNorm2d(8),
        nn.ELU(),
        nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2),
        nn.ELU(),
        nn.Flatten(),
        nn.Linear(4 * 64, 3),
    )


CONSTRAINED = ("1.weight", "3.weight", "4.weight", "6.weight", "9.weight")


@pytest.mark.parametrize("how", ["paper", "lognormal", "identity"])
def test_initialised_models_are_certified(how: str) -> None:
    net = network()
    with torch.no_grad():
        net[1].weight.fill_(-1.0)  # free: the layer before it is affine
        net[4].weight.fill_(-1.0)
    example = torch.randn(2, 3, 8, 8)
    before = copy.deepcopy(net.state_dict())
    initialise(net, everywhere(*CONSTRAINED[1:]), how)
    assert cx.certify(net, example).convex
    assert net[1].weight.tolist() == [-1.0] * 8
    assert net[4].weight.tolist() == [1.0] * 8
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    biases = {"3.bias", "6.bias", "9.bias"} if how == "lognormal" else set()
    assert changed == {*CONSTRAINED[1:], *biases}

    partly = network()
    initialise(partly, everywhere("3.weight", "4.weight", "9.weight"), how)
    assert not cx.certify(partly, example).convex


def test_layers_are_drawn_as_alone(seed: int) -> None:
    """Groups, transposed convolutions and biases reach the initialisers as they should."""
    net = network()
    initialise(net, everywhere(*CONSTRAINED), "identity")
    wide = identity_(torch.empty(8, 4, 3, 3), 0.0, groups=2)
    assert bool((net[3].weight[wide == 1] > 1).all())
    # group 0 of the transposed convolution has inputs 0 to 3 and outputs 0 and 1
    centre = net[6].weight[:4, :, 1, 1].detach()
    half = math.sqrt(0.5)
    torch.testing.assert_close(centre.T, torch.tensor([[half, 0, half, 0], [0, half, 0, half]]), atol=0.02, rtol=0)

    initialise(net, everywhere(*CONSTRAINED), "lognormal", "relu", generator=torch.Generator().manual_seed(seed))
    for layer, fan_in in ((3, 4 * 9), (6, 4 * 4), (9, 256)):
        assert net[layer].bias[0].item() == pytest.approx(relu_formulas(fan_in)[2], rel=1e-5)
    assert net[0].bias[0].item() != pytest.approx(relu_formulas(27)[2], rel=1e-5)


def test_columns_of_a_model() -> None:
    layer = nn.Linear(12, 6)
    before = layer.weight.detach().clone()
    mask = torch.arange(12) < 8
    initialise(layer, {"weight": mask}, "lognormal")
    assert torch.equal(layer.weight[:, 8:], before[:, 8:])
    assert bool((layer.weight[:, :8] > 0).all())
    constants = moments("elu")
    mean = math.sqrt(0.5 / (8 * constants.variance + 56 * constants.covariance))
    assert layer.bias.tolist() == pytest.approx([-8 * mean * constants.mean] * 6, rel=1e-5)
    drawn = layer.weight.detach().clone()
    initialise(layer, {"weight": torch.tensor(False)}, "paper")
    assert torch.equal(layer.weight, drawn)


class Raw(nn.Module):
    """A parameter without a layer, and a layer whose `bias` is a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.mixing = nn.Parameter(torch.full((5, 4), -1.0))
        self.weight = nn.Parameter(torch.full((5, 4), -1.0))
        self.bias = True
        self.scale = nn.Parameter(torch.tensor(-2.0))


def test_parameters_without_a_layer() -> None:
    raw = Raw()
    initialise(raw, everywhere("mixing", "weight", "scale"), "lognormal")
    assert bool((raw.mixing > 0).all())
    assert bool((raw.weight > 0).all())
    assert raw.scale.item() == 1.0


def test_wrong_arguments_change_nothing() -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    good = everywhere("3.weight")
    with pytest.raises(ValueError, match=r"unknown initialisation 'glorot'.*'paper', 'lognormal', 'identity'"):
        initialise(net, good, "glorot")
    with pytest.raises(ValueError, match=r"Sequential has no parameter '3\.gamma'"):
        initialise(net, {**good, "3.gamma": TRUE}, "paper")
    with pytest.raises(ValueError, match="unknown activation 'gelu'"):
        initialise(net, good, "lognormal", "gelu")
    with pytest.raises(TypeError, match=r"9\.weight: .*boolean"):
        initialise(net, {**good, "9.weight": torch.ones(3, 256)}, "identity")
    with pytest.raises(ValueError, match=r"9\.weight: .*does not broadcast"):
        initialise(net, {**good, "9.weight": torch.ones(2, 2, dtype=torch.bool)}, "identity")
    nn.utils.parametrizations.weight_norm(net[9])
    with pytest.raises(ValueError, match="initialise first, parametrise afterwards"):
        initialise(net, {**good, "9.parametrizations.weight.original1": TRUE}, "paper")
    assert torch.equal(net[3].weight, before["3.weight"])


# --- what it is for --------------------------------------------------------------------------------------------------


def deep(how: str, depth: int, width: int = 800) -> nn.Sequential:
    """A random network of one width: Glorot's first layer, the others as asked."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layer = nn.Linear(width, width)
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ELU()]
    net = nn.Sequential(*layers[:-1])
    later = [f"{2 * i}.weight" for i in range(1, depth)]
    if how == "absolute":
        for name in later:
            net.get_parameter(name).data.abs_()
    elif how != "ordinary":
        initialise(net, everywhere(*later), how)
    return net


@pytest.mark.parametrize("how", ["ordinary", "paper", "absolute", "lognormal", "identity"])
def test_width_800(how: str) -> None:
    """How soon all units say the same, in layers of 800 ELU units (numbered from 1, the free one)."""
    net = deep(how, 8)
    x = torch.randn(500, 800)
    _, second, third, *later = correlation(net, x).values()
    with torch.no_grad():
        spread = net[:5](x).std(0).mean().item()  # of the third layer
    if how == "ordinary":
        assert max(map(abs, (second, third, *later))) < 0.01
    elif how == "identity":
        assert max(second, third, *later) < 0.03
        assert 0.5 < spread < 1.0
    elif how == "lognormal":
        assert second < 0.1
        assert 0.05 < third < 0.6
        assert later[-1] > 0.9  # delayed, not prevented
        assert spread < 1.0
    else:
        assert third >= 0.99
        assert min(later) >= 0.99
        assert spread > 4.0
