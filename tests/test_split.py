"""Networks as differences of convex functions: the split against the float64 model, the rules against their operators.

The oracles know nothing of the certificate: p − q against the model itself, chords of p and of q, and, for each row of
the table, that its p and q rise with every p and q they are made of and are convex in them. Rules that are wrong on
purpose, and the models themselves, which are not convex, show that the oracles fail.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import convexnet as cx
from convexnet.curvature.adversary.falsify import default_double
from convexnet.curvature.call import Refusal
from convexnet.differences.arithmetic import Difference, Operation, as_difference, items_of, parts_of
from convexnet.differences.rules import TABLE, WITHOUT_ROW, Rule, build, move
from convexnet.memory import example_of, remember_example
from convexnet.split import LIMIT, Split, shifted, split
from tests.curvature.oracles import SAMPLES, Fixed, Moving, Sample
from tests.drawing import some
from tests.modules import Function

# --- networks --------------------------------------------------------------------------------------------------------


class Skips(nn.Module):
    """Convolutions, BatchNorm with scales of either sign, overlapping max pools, a skip and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.body, self.body_norm = nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6, affine=False)
        self.act, self.pool, self.head = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1), nn.Linear(12, 3)
        nn.init.normal_(self.norm.weight)
        for norm in (self.norm, self.body_norm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(self.act(self.norm(self.stem(x))))
        g = h + self.body_norm(self.body(h))
        return self.head(torch.cat([F.avg_pool2d(self.act(g), 3, 1), F.max_pool2d(g - h, 2, 2)], 1).flatten(2).amax(2))


class Bends(nn.Module):
    """Every pointwise operator that is piecewise linear, on arguments that bend both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.slopes = nn.PReLU(6)
        nn.init.normal_(self.slopes.weight, std=2.0)

    def forward(self, x: Tensor) -> Tensor:
        first, second, third, last = self.layers
        h = F.leaky_relu(second(F.leaky_relu(first(x), -0.5)), 1.7).abs() - F.hardtanh(second(x.abs()), -0.3, 0.4)
        g = self.slopes(third(h)) + F.relu6(3 - 2 * h)
        return F.leaky_relu(last(g).clamp(-0.2, 0.6) + g.clamp(max=0.1) + F.threshold(g, 0.2, 0.2), 0.1)


class Maxima(nn.Module):
    """Maxout: maxima and minima of two, over one dimension, over several."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 15), nn.Linear(3, 14), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).unflatten(1, (3, 5))
        h = torch.cat([h.amax(2), h.amin(2)], 1)[:, ::2]
        g = self.second(h).unflatten(1, (7, 2))
        low = g.min(2).values - g.max(2)[0].minimum(torch.tensor(0.25))
        return self.third(torch.maximum(low, g.sum(2))) + low.view(-1, 7, 1).amax((1, 2), keepdim=True)[..., 0]


class Writes(nn.Module):
    """Writes in place, slices, chunks, and tensors made from the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.token = nn.Linear(4, 6), nn.Linear(6, 6), nn.Parameter(torch.randn(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu_()
        g = self.second(h)
        g[:, 1:3] += h[:, 3:5]
        g[:, 0] = 0.5
        a, b = g.chunk(2, 1)
        made = torch.zeros(x.shape[0], 6)
        made[:, 2:5] = torch.where(torch.tensor([True, False, True]), b, -2.0 * a)
        tokens = torch.stack([self.token.expand(x.size(0), -1), made, g], 1)
        return self.second(tokens.reshape(x.shape[0] * 3, 6)).relu().view(len(x), 3, 6).mean(1)


class Constants(nn.Module):
    """Weights computed from parameters, products with constants on either side, padding with a value."""

    def __init__(self) -> None:
        super().__init__()
        self.raw, self.mix = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(5, 5))
        self.normed, self.drop = parametrizations.weight_norm(nn.Linear(5, 5)), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        h = (x @ F.softplus(self.raw).T - 1).relu() * torch.tanh(self.mix[0])
        g = F.pad(self.drop(self.normed(h)), (1, 1), value=-0.7)[:, 1:6]
        g = torch.einsum("oi,bi->bo", self.mix, g.abs()) + torch.addmm(h, g, self.mix, beta=-2.0, alpha=0.5)
        return torch.matmul(self.mix, g.relu().unsqueeze(-1)).squeeze(-1) / -3.0


class Upwards(nn.Module):
    """Transposed convolutions and interpolation, in one and two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 3, 2, stride=2, bias=False), nn.ConvTranspose2d(3, 2, 3, 2, 1, 1)
        self.line, self.head = nn.Conv1d(2, 3, 3, dilation=2), nn.Conv1d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.interpolate(self.up(self.down(x).relu()).relu(), scale_factor=0.5, mode="bilinear")
        g = F.max_pool2d(h, 2, 2, 1, ceil_mode=True).flatten(2)
        return self.head(F.adaptive_max_pool1d(self.line(F.interpolate(g, 8)), 2).abs()).flatten(1)


class Several(nn.Module):
    """Two real inputs and one of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.one, self.two = nn.Embedding(5, 6), nn.Linear(3, 6), nn.Linear(2, 6)

    def forward(self, x: Tensor, y: Tensor, which: Tensor) -> Tensor:
        return torch.maximum(self.one(x).relu() - self.two(y).abs(), self.table(which)).sum(1, keepdim=True)


def dense(*widths: int) -> nn.Sequential:
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "mlp": (lambda: dense(5, 12, 12, 12, 3), ((5,),)),
    "skips": (Skips, ((2, 8, 8),)),
    "bends": (Bends, ((6,),)),
    "maxima": (Maxima, ((4,),)),
    "writes": (Writes, ((4,),)),
    "constants": (Constants, ((4,),)),
    "upwards": (Upwards, ((1, 6, 6),)),
    "several": (Several, ((3,), (2,), ())),
    "affine": (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), ((3,),)),
    "convex already": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Flatten()), ((3,),)),
}


def draw(name: str, size: int, scale: float = 1.0) -> tuple[Tensor, ...]:
    shapes = NETWORKS[name][1]
    return tuple(torch.randn(size, *s).double() * scale if s else torch.randint(5, (size,)) for s in shapes)


@functools.cache
def network(name: str) -> nn.Module:
    torch.manual_seed(len(name) + 7)
    model = NETWORKS[name][0]()
    for tensor in model.parameters():
        if tensor.ndim > 1:
            nn.init.kaiming_normal_(tensor)
    return model


@functools.cache
def parted(name: str) -> Split:
    return split(network(name), draw(name, 2))


def double(model: nn.Module) -> Callable[..., Tensor]:
    """The model in float64, including the tensors that its forward makes."""
    twin = copy.deepcopy(model).double().eval().requires_grad_(False)

    def run(*inputs: Tensor) -> Tensor:
        with default_double():
            return twin(*inputs)

    return run


def relative(f: Tensor, g: Tensor) -> float:
    return float(((f - g).abs() / (1 + f.abs())).max())


@torch.no_grad()
def sag(f: Callable[..., Tensor], name: str, tries: int = 400) -> float:
    """How far f rises above its chords, relative to its size there: not at all, if it is convex."""
    x, y, t = draw(name, tries, 2.0), draw(name, tries, 2.0), torch.rand(tries, 1).double()

    def mixed(a: Tensor, b: Tensor) -> Tensor:
        weight = t.reshape(-1, *[1] * (a.ndim - 1))
        return weight * a + (1 - weight) * b if a.is_floating_point() else a

    y = tuple(b if b.is_floating_point() else a for a, b in zip(x, y, strict=True))  # the same whole numbers
    middle = tuple(map(mixed, x, y))
    fx, fy, fm = (f(*points).reshape(tries, -1) for points in (x, y, middle))
    return float(((fm - t * fx - (1 - t) * fy) / (1 + fx.abs() + fy.abs())).max())


# --- the split of a network ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", some(NETWORKS, 5, "split networks"))
def test_difference_is_the_model_at_any_batch_size(name: str) -> None:
    model, (p, q) = double(network(name)), parted(name)
    for size in (1, 2, 7, 64):
        for scale in (0.0, 1.0, 30.0):
            inputs = draw(name, size, scale)
            f = model(*inputs)
            assert f.shape == p(*inputs).shape
            assert relative(f, p(*inputs) - q(*inputs)) < 1e-9
    assert parted(name).error < 1e-9


@pytest.mark.parametrize("name", some(NETWORKS, 5, "split networks"))
def test_both_parts_are_convex(name: str) -> None:
    for part in parted(name):
        assert sag(part, name) < 1e-12


@pytest.mark.parametrize("name", ["maxima", "several"])
def test_both_parts_are_certified(name: str) -> None:
    """By `split` itself too, which refuses what is not: see "mixed rows" below."""
    for part in parted(name):
        assert cx.certify(part, draw(name, 2)).convex


@pytest.mark.parametrize(
    "name", some(["mlp", "skips", "bends", "maxima", "writes", "constants", "upwards", "several"], 4, "not convex")
)
def test_the_models_themselves_are_not_convex(name: str) -> None:
    """Negative control of the chords and of the certificate; and q is needed."""
    assert sag(double(network(name)), name) > 1e-3
    assert not cx.certify(network(name).double() if name == "several" else network(name), singles(name)).convex
    assert float(parted(name).q(*draw(name, 7)).abs().max()) > 1e-3


def singles(name: str) -> tuple[Tensor, ...]:
    dtype = torch.float64 if name == "several" else torch.float32
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in draw(name, 2))


@pytest.mark.parametrize("name", ["affine", "convex already"])
def test_q_is_zero_where_it_can_be(name: str) -> None:
    assert not parted(name).q(*draw(name, 5)).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_is_the_models(name: str) -> None:
    def gradients(f: Callable[..., Tensor]) -> list[Tensor]:
        free = [x.clone().requires_grad_() for x in inputs if x.is_floating_point()]
        rest = [x for x in inputs if not x.is_floating_point()]
        value = f(*free, *rest)
        return list(torch.autograd.grad((value * weights).sum(), free))

    inputs = draw(name, 7)
    model, (p, q) = double(network(name)), parted(name)
    weights = torch.randn_like(model(*inputs))
    for mine, models in zip(gradients(lambda *x: p(*x) - q(*x)), gradients(model), strict=True):
        assert models.abs().max() > 1e-3
        assert torch.allclose(mine, models, atol=1e-9, rtol=1e-9)


def test_the_model_is_untouched_and_the_parts_stand_alone() -> None:
    model = Skips().train()
    before = copy.deepcopy(model.state_dict())
    p, q = split(model, torch.randn(1, 2, 8, 8))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(a.dtype == b.dtype for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    x = torch.randn(3, 2, 8, 8)
    value = p(x), q(x)
    twin = copy.deepcopy(p)
    with torch.no_grad():
        for tensor in (*model.parameters(), *twin.parameters()):
            tensor.mul_(-1.5)
    assert torch.equal(p(x), value[0])
    assert torch.equal(q(x), value[1])
    assert relative(p(x), twin(x)) > 1e-3  # the copy has weights of its own
    assert p(x).dtype == torch.float64  # whatever the input
    assert not any(tensor.requires_grad for part in (p, q) for tensor in part.parameters())
    assert sum(tensor.numel() for tensor in p.parameters()) == sum(tensor.numel() for tensor in model.parameters())


def test_a_deep_copy_of_the_pair_is_the_pair() -> None:
    pair, x = parted("bends"), draw("bends", 3)
    other = copy.deepcopy(pair)
    assert isinstance(other, Split)
    assert other.error == pair.error
    assert torch.equal(other.p(*x) - other.q(*x), pair.p(*x) - pair.q(*x))
    assert cx.certify(other.q, x).convex


def test_the_example_is_remembered() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
    remember_example(model, torch.zeros(1, 3, 4))
    p, q = split(model)
    assert [tuple(x.shape) for x in example_of(q)] == [(2, 3, 4)]
    x = torch.randn(5, 3, 4)
    assert torch.allclose(p(x) - q(x), model.double()(x.double()), atol=1e-12)


# --- depth -----------------------------------------------------------------------------------------------------------


def test_the_error_grows_with_depth_until_it_is_refused() -> None:
    def deep(depth: int) -> nn.Sequential:
        model = dense(16, *[64] * depth, 4)
        for layer in model[::2]:
            nn.init.kaiming_normal_(layer.weight)
        return model

    found: list[float] = []
    for depth in (2, 5, 8):
        model = deep(depth)
        pair, x = split(model), torch.randn(50, 16).double()
        found.append(pair.error)
        again = relative(double(model)(x), pair.p(x) - pair.q(x))
        assert again / 30 < max(pair.error, 1e-16) < again * 30 + 1e-15  # what it reports is what there is
    assert found[0] < 1e-14
    assert 100 * found[0] < found[1] < found[2] / 100 < LIMIT
    with pytest.raises(cx.NotCertified, match=r"differ by \S+ of 1 \+ \|f\|.*exponentially with depth") as caught:
        split(deep(12))
    figure = re.search(r"differ by (\S+) of", str(caught.value))
    assert figure is not None
    assert LIMIT < float(figure[1]) < 1e6


def test_overflow_is_refused() -> None:
    model = dense(4, 8, 8, 2).double()
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight.mul_(1e150)
    with pytest.raises(cx.NotCertified, match=r"differ by (nan|inf)"):
        split(model)


# --- the convex classifier -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "bends"])
def test_shifted_logits_are_convex_and_classify_alike(name: str) -> None:
    model, convex = double(network(name)), shifted(network(name), draw(name, 2))
    x = draw(name, 200)
    f, logits = model(*x), convex(*x)
    assert torch.equal(f.argmax(1), logits.argmax(1))
    assert len(f.argmax(1).unique()) > 1
    assert torch.allclose(f.softmax(1), logits.softmax(1), atol=1e-9)
    assert cx.certify(convex, draw(name, 2)).convex
    assert sag(convex, name) < 1e-12
    q = parted(name).q(*x)
    assert torch.allclose(logits, f + q.sum(1, keepdim=True))
    # Negative control: without q of the class itself the shift is not common.
    wrong = f + q.sum(1, keepdim=True) - q
    assert (wrong.softmax(1) - f.softmax(1)).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(1,), (2, 3)])
def test_a_shift_needs_two_classes(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, math.prod(shape)), nn.Unflatten(1, shape))
    with pytest.raises(ValueError, match="two or more classes"):
        shifted(model, torch.zeros(1, 3))


# --- refusals --------------------------------------------------------------------------------------------------------


def gated(x: Tensor) -> Tensor:
    return x.relu() * x.sum(1, keepdim=True)


def attention(x: Tensor) -> Tensor:
    scores = (x.relu() @ x.mT).softmax(-1)
    return scores @ x


def without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x.abs()
    return x.relu() + y


REFUSED: dict[str, tuple[nn.Module, tuple[int, ...], str]] = {
    "gelu": (
        nn.Sequential(nn.Linear(3, 4), nn.GELU()),
        (3,),
        r"(?s)layer 1: aten.gelu.*neither linear nor a max.*ReLU",
    ),
    "gate": (Function(gated), (3,), r"(?s)aten.mul   \S+.py:\d+.*multiplies two quantities.*no gate"),
    "sigmoid": (nn.Sequential(nn.Linear(3, 4), nn.Sigmoid()), (3,), r"layer 1: aten.sigmoid"),
    "attention": (Function(attention), (4, 3), r"(?s)aten.matmul.*multiplies two quantities"),
    "softmax": (nn.Sequential(nn.Linear(3, 4), nn.Softmax(1)), (3,), r"(?s)aten.softmax.*certify the logits|_softmax"),
    "layer norm": (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), (3,), r"(?s)layer 1.*_norm.*BatchNorm"),
    "batch statistics": (nn.BatchNorm1d(3, track_running_stats=False), (3,), r"(?s)statistics of the batch|no rule"),
    "division": (Function(lambda x: 1 / (1 + x.abs())), (3,), "reciprocal|divides by a quantity"),
    "square": (Function(lambda x: x**2), (3,), "aten.pow"),
    "places": (Function(lambda x: x.max(1).indices * 1.0), (3,), "places of maxima"),
    "comparison": (Function(lambda x: torch.where(x > 0, x, 0 * x)), (3,), "(?s)aten.gt.*maximum"),
    "jump": (Function(lambda x: F.threshold(x, 0.0, 1.0)), (3,), "jumps at its threshold"),
    "noise": (Function(lambda x: x + torch.rand(3)), (3,), "random numbers"),
    "dropout": (Function(lambda x: F.dropout(x, 0.5, training=True)), (3,), "random"),
    "mixed rows": (Function(lambda x: (x - x.mean(0)).abs()), (3,), "(?s)not proved convex.*mixes the rows"),
    "bicubic": (nn.Upsample(scale_factor=2, mode="bicubic"), (1, 4, 4), "neither linear|no rule|not .* written"),
    "region": (Function(without_gradient), (3,), "region of the program"),
    "NaN": (Function(lambda x: x + torch.tensor(float("nan"))), (3,), "differ by nan"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(name: str) -> None:
    model, shape, message = REFUSED[name]
    with pytest.raises(cx.NotCertified, match=message):
        split(model, torch.randn(2, *shape))


def test_every_refusal_is_reported_at_once() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 4))
    both = Function(lambda x: model(x) + x.tanh().sum(1, keepdim=True))
    with pytest.raises(cx.NotCertified) as caught:
        split(both, torch.zeros(1, 3))
    assert [finding.operator for finding in caught.value.findings] == ["aten.gelu", "aten.tanh"]


def test_other_errors() -> None:
    for size in (1, 2):
        with pytest.raises(cx.NotTraceable, match=r"reads the size of its batch|a batch of another size"):
            split(Function(lambda x, n=size: x.relu() if x.shape[0] == n else -x), torch.zeros(1, 3))
    with pytest.raises(cx.NotTraceable, match="fails on a batch of 1"):
        split(Function(lambda x: x.reshape(2, -1).relu()), torch.zeros(1, 3))
    with pytest.raises(cx.NotTraceable, match="branches on the values"):
        split(Function(lambda x: x if x.sum() > 0 else -x), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="one real tensor"):
        split(Function(lambda x: (x, x)), torch.zeros(1, 3))
    with pytest.raises(TypeError, match=r"nn\.Module"):
        split(torch.relu, torch.zeros(1, 3))  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="floating"):
        split(nn.Embedding(3, 2), torch.zeros(1, dtype=torch.long))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
def test_deep_vision_networks_exceed_float64(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=10)
    if name == "vgg11":
        model = nn.Sequential(model.features, nn.Flatten(), nn.Linear(512, 10))
    with pytest.raises(cx.NotCertified, match="exponentially with depth"):
        split(model, torch.randn(2, 3, 32, 32))


# --- the table -------------------------------------------------------------------------------------------------------

SIZES = {"sym_size", "sym_numel"}  # numbers, not tensors: every network above uses them


def made(sample: Sample, guise: str, draws: dict[Any, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a sample: what varies as a difference of a guise (general, convex or affine), drawn once."""

    def value(item: Any) -> Any:
        if isinstance(item, (list, tuple)):
            return [value(part) for part in item]
        if isinstance(item, (Moving, Fixed)) and item not in draws:
            tensor = torch.randn(item.shape, dtype=torch.float64)
            if isinstance(item, Fixed):
                draws[item] = tensor.abs() + 0.5 if item.sign == "positive" else tensor
            else:
                draws[item] = Difference(
                    tensor, torch.randn_like(tensor) if guise == "general" else None, guise == "affine"
                )
        if isinstance(item, Tensor) and item.is_floating_point():
            return item.double()
        return draws[item] if isinstance(item, (Moving, Fixed)) else item

    return value(sample.args), {key: value(item) for key, item in sample.kwargs.items()}


def exchanged(draws: dict[Any, Any], change: Callable[[Difference], Difference]) -> dict[Any, Any]:
    return {key: change(item) if isinstance(item, Difference) else item for key, item in draws.items()}


def results(rule: Rule, name: str, sample: Sample, guise: str, draws: dict[Any, Any]) -> list[tuple[Tensor, Tensor]]:
    """p and q of every real result of a rule."""
    args, kwargs = made(sample, guise, draws)
    out = rule(Operation(getattr(torch.ops.aten, name), name, tuple(args), kwargs))
    listed = out if isinstance(out, tuple) else (out,)
    found = [parts_of(item)[:2] for item in listed]
    return [(p, torch.zeros_like(p) if q is None else q) for p, q in found]


def attack(rule: Rule, name: str, sample: Sample, guise: str) -> str:
    """What is wrong with a rule on a sample; nothing, as far as chords and values tell."""
    draws: dict[Any, Any] = {}
    args, kwargs = made(sample, guise, draws)

    def net(item: Any) -> Any:
        if isinstance(item, list):
            return [net(part) for part in item]
        return item.p - total_of(item) if isinstance(item, Difference) else item

    def total_of(item: Difference) -> Tensor:
        return torch.zeros_like(item.p) if item.q is None else item.q

    truth = getattr(torch.ops.aten, name)(*net(args), **{key: net(item) for key, item in kwargs.items()})
    truth = [item for item in (truth if isinstance(truth, (list, tuple)) else [truth]) if item.is_floating_point()]
    here = results(rule, name, sample, guise, draws)
    for (p, q), value in zip(here, truth, strict=False):
        if (
            p.shape != value.shape
            or q.shape != value.shape
            or not torch.allclose(p - q, value, atol=1e-9, equal_nan=True)
        ):
            return "value"

    def other(item: Difference) -> Difference:
        return Difference(torch.randn_like(item.p), None if item.q is None else torch.randn_like(item.q), item.affine)

    def higher(item: Difference) -> Difference:
        up = item.p + torch.rand_like(item.p)
        return Difference(up, None if item.q is None else item.q + torch.rand_like(item.q), item.affine)

    there_draws = exchanged(draws, other)
    middle = {
        key: Difference((a.p + b.p) / 2, None if a.q is None else (a.q + b.q) / 2, a.affine)
        if isinstance(a, Difference)
        else a
        for (key, a), b in zip(draws.items(), there_draws.values(), strict=True)
    }
    there, between = (results(rule, name, sample, guise, d) for d in (there_draws, middle))
    for one, two, half in zip(here, there, between, strict=True):
        if any(bool((m > (a + b) / 2 + 1e-9).any()) for a, b, m in zip(one, two, half, strict=True)):
            return "convexity"
    if guise != "affine":  # what is affine may fall as well
        above = results(rule, name, sample, guise, exchanged(draws, higher))
        for one, two in zip(here, above, strict=True):
            if any(bool((b < a - 1e-9).any()) for a, b in zip(one, two, strict=True)):
                return "monotonicity"
    return ""


def real(sample: Sample) -> bool:
    """Whether something in a sample varies."""
    return any(isinstance(item, Moving) for item in items_of((sample.args, tuple(sample.kwargs.values()))))


@pytest.mark.parametrize("name", [name for name in TABLE if name not in SIZES])
def test_a_row_keeps_value_and_convexity(name: str) -> None:
    passed = 0
    for sample in filter(real, SAMPLES[name]):
        if any(isinstance(item, torch.dtype) and item != torch.float64 for item in items_of(sample.args)):
            continue  # casts to whole numbers and views of bits: the program's own types show them
        if sample.kwargs.get("dtype", torch.float64) != torch.float64:
            continue
        for guise in ("general", "convex", "affine"):
            for _ in range(3):
                try:
                    wrong = attack(TABLE[name], name, sample, guise)
                except Refusal:
                    continue
                assert not wrong, f"aten.{name}{sample}, {guise}: wrong {wrong}"
                passed += guise == "general"
    assert passed > 0, f"no sample of aten.{name} is covered"


WRONG: dict[str, tuple[str, Rule, str]] = {
    "a maximum that forgets q": ("relu", lambda call: Difference(torch.maximum(call.x.p, total_q(call))), "value"),
    "weights that are not parted": (
        "mul",
        lambda call: as_difference(call.args[0]).moved(lambda part: part * call.args[1]),
        "monotonicity",
    ),
    "a difference left to cancel": ("abs", lambda call: Difference((call.x.p - total_q(call)).abs()), "monotonicity"),
    "a minimum of p": (
        "minimum",
        lambda call: Difference(
            torch.minimum(call.args[0].p + total_q(call, 1), call.args[1].p + total_q(call)),
            total_q(call) + total_q(call, 1),
        ),
        "convexity",
    ),
    "a border in p and q": ("constant_pad_nd", move, "value"),
}


def total_q(call: Operation, index: int = 0) -> Tensor:
    q = call.args[index].q
    return torch.zeros_like(call.args[index].p) if q is None else q


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_row_is_found(what: str) -> None:
    name, rule, kind = WRONG[what]
    found = {
        attack(rule, name, sample, "general") for sample in SAMPLES[name] if applies(name, sample) for _ in range(9)
    }
    assert kind in found


def applies(name: str, sample: Sample) -> bool:
    wanted = {"minimum": (Moving, Moving), "mul": (Moving, Fixed)}.get(name, (Moving,))
    return all(isinstance(item, kind) for item, kind in zip(sample.args, wanted, strict=False))


def test_the_table_refuses_duplicates() -> None:
    with pytest.raises(ValueError, match="twice"):
        build((*WITHOUT_ROW, WITHOUT_ROW[0]))
