"""Networks as torchvision, timm and users write them, through `convexify`: converted, trained and attacked, or refused.

What is asked of every converted network comes from outside the library: chords of a float64 copy, the types of its
modules before and after, and the weights that must not have moved. Every network is then broken on purpose, in the
certificate and in the chords.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

import convexnet as cx
from convexnet import zoo
from convexnet.nn import Affine, FreeHead, PooledSum, removed

pytest.importorskip("torchvision")
pytest.importorskip("timm")

import timm
import torchvision.models as tv
from timm import layers as tl
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from timm.models.mlp_mixer import MlpMixer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import LayerNorm2d as TorchvisionLayerNorm2d
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import SqueezeExcitation

from tests.modules import Function

slow = pytest.mark.slow

# --- the oracles: nothing here asks the library ----------------------------------------------------------------------


def snapshot(model: nn.Module) -> tuple[Any, ...]:
    """All that a module is: values bit by bit, and the identity of everything that its attributes hold."""

    def held(value: Any) -> Any:
        return [(key, id(v)) for key, v in value.items()] if isinstance(value, dict) else id(value)

    state = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = {name: {k: held(v) for k, v in m.__dict__.items()} for name, m in model.named_modules()}
    flags = [(p.requires_grad, p.grad is None, p.dtype) for p in model.parameters()]
    return state, attributes, flags, str(model)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """A module must come out of the block as it went in, submodules in mixed modes included."""
    for i, module in enumerate(model.modules()):
        module.training = i % 3 != 1
    before = snapshot(model)
    yield
    after = snapshot(model)
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert before[1:] == after[1:]


@contextmanager
def double() -> Iterator[None]:
    """Tensors that a forward creates are float64."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@torch.no_grad()
def chords(model: nn.Module, shape: tuple[int, ...], pairs: int = 6) -> tuple[float, float]:
    """Chords and short segments at three scales, in a float64 copy: (the worst violation, the most that f bends).

    The violation f(mid) - (f(a) + f(b))/2 - 1e-8 (1 + |f|) is positive where f is not convex; the bend is the most
    that f(mid) lies below its chord, relative to 1 + |f|: where it is zero, convexity was tested on a plane.
    """
    twin = copy.deepcopy(model).double().eval()
    generator = torch.Generator().manual_seed(0)
    worst, most = -float("inf"), 0.0
    with double():
        for scale in (1.0, 0.1, 4.0):
            a, b, step = (scale * torch.randn(pairs, *shape, generator=generator) for _ in range(3))
            b[::2] = a[::2] + 0.1 * step[::2]
            fa, fb, fm = (torch.cat([y.flatten(1) for y in leaves(twin(x))], 1) for x in (a, b, (a + b) / 2))
            size = 1 + torch.stack([fa, fb, fm]).abs().amax(0)
            gap = fm - (fa + fb) / 2
            assert bool(gap.isfinite().all())
            worst = max(worst, float((gap - 1e-8 * size).max()))
            most = max(most, float((-gap / size).max()))
    return worst, most


@torch.no_grad()
def evaluated(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The outputs in eval mode of a copy, which leaves the modes of the model alone."""
    return leaves(copy.deepcopy(model).eval()(x))


def leaves(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def kind(module: nn.Module) -> type[nn.Module]:
    """The class of a module; of a parametrised one, the class that it was made from."""
    return type(module).__mro__[1] if parametrize.is_parametrized(module) else type(module)


def plain_names(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by the names that they have where nothing is parametrised."""
    names = [re.sub(r"parametrizations\.(\w+)\.original$", r"\1", name) for name, _ in model.named_parameters()]
    return {name: attribute(model, name) for name in names}


def attribute(model: nn.Module, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    value = getattr(model.get_submodule(path), leaf)
    assert isinstance(value, Tensor)
    return value


def exchanged(before: nn.Module, after: nn.Module) -> set[str]:
    """The paths where two module trees differ: another class, or the same class with other settings."""
    old, new = (
        {path: module for path, module in model.named_modules() if "parametrizations" not in path.split(".")}
        for model in (before, after)
    )
    found = {path for path in old.keys() & new.keys() if kind(old[path]) is not kind(new[path])}
    for path in old.keys() & new.keys() - found:
        if not list(old[path].children()) and not list(new[path].children()):
            found |= {path} if str(old[path]) != str(new[path]) else set()
    for path in old.keys() ^ new.keys():  # what came and went did so inside of something that was exchanged
        assert any(is_inside(path, top) for top in found), path
    return found


def is_inside(path: str, top: str) -> bool:
    return not top or path.startswith(f"{top}.")


NORM_NAME = re.compile(r"(Layer|Group|Instance|RMS|Rms|Simple)[A-Za-z]*Norm|(RMS|Rms)Norm")
STAYS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, Affine)  # BatchNormAlong is a BatchNorm1d


def norms_of_the_sample(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if NORM_NAME.match(type(module).__name__)]


def check_changes(net: nn.Module, ioc: nn.Module) -> None:
    """The list of changes is what a comparison of the two module trees finds, and every norm has become one norm."""
    changes = cx.changes(ioc)
    assert len({change.path for change in changes}) == len(changes)
    assert {change.path for change in changes} == exchanged(net, ioc)
    for change in changes:
        assert change.before.startswith(type(net.get_submodule(change.path)).__name__)
        assert change.after.startswith(kind(ioc.get_submodule(change.path)).__name__)
        assert change.reason
    for path in norms_of_the_sample(net):
        inside = [m for m in ioc.get_submodule(path).modules() if isinstance(m, STAYS)]
        assert len(inside) == 1, f"{path} became {ioc.get_submodule(path)}"
    assert not norms_of_the_sample(ioc)


def check_weights(net: nn.Module, ioc: nn.Module, constrained: tuple[str, ...], method: str) -> None:
    """Weights that need no sign are the old ones, bit by bit; of the others, those that had the right sign."""
    old, new = plain_names(net), plain_names(ioc)
    same = [name for name in old if name in new]
    assert len(same) > len(old) / 3
    free = 0
    for name in same:
        if name not in constrained:
            assert torch.equal(new[name], old[name]), name
            free += int((old[name] < 0).any())
        elif method in ("exponentiate", "clip", "absolute"):
            moved = new[name] != old[name]
            assert bool((old[name][moved] < 0).all()), name
            assert bool((new[name][moved] >= 0).all()), name
        elif method in ("softplus", "exp"):
            right = old[name] > 1e-4
            torch.testing.assert_close(new[name][right], old[name][right], rtol=1e-3, atol=1e-5)
    assert free, "no weight is free to be negative: the first layer should be"


@torch.no_grad()
def negate(model: nn.Module, name: str) -> nn.Module:
    """A copy of a model with one weight of the opposite sign, computed or not."""
    twin = copy.deepcopy(model)
    path, _, leaf = name.rpartition(".")
    owner = twin.get_submodule(path)
    if parametrize.is_parametrized(owner, leaf):
        parametrize.register_parametrization(owner, leaf, Function(torch.neg), unsafe=True)
    else:
        getattr(owner, leaf).neg_()
    return twin


def train(
    model: nn.Module, cone: cx.Cone, optimiser: torch.optim.Optimizer, shape: tuple[int, ...], steps: int
) -> None:
    """Steps on random images and labels; after each, the loss is finite and nothing is violated."""
    model.train()
    for _ in range(steps):
        inputs, labels = torch.randn(6, *shape), torch.randint(10, (6,))
        optimiser.zero_grad()
        loss = sum((F.cross_entropy(logits, labels) for logits in leaves(model(inputs))), torch.zeros(()))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # without a norm, positive weights make large outputs
        optimiser.step()
        assert bool(loss.isfinite())
        assert cone.violation() == 0


# --- small networks of our own ---------------------------------------------------------------------------------------


class Tokens(nn.Module):
    """A norm of tokens (B, T, C), on a skip connection."""

    def __init__(self, inner: nn.Module, activation: Callable[[], nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.first, self.inner, self.activation, self.last = nn.Linear(5, 6), inner, activation(), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(h + self.activation(self.inner(h))).mean(1)


def vectors(inner: nn.Module, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 6), inner, activation(), nn.Linear(6, 10))


VECTOR, TOKENS, IMAGE = (5,), (7, 5), (3, 8, 8)


def images(inner: nn.Module, activation: Callable[[], nn.Module] = nn.ReLU, channels: int = 6) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), inner, activation(), nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10),
    )  # fmt: skip


# --- converted, trained, attacked ------------------------------------------------------------------------------------


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3)


@dataclass(frozen=True)
class Case:
    """A network, the shape of one image, and how it is converted and trained."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 32, 32)
    method: str = "exponentiate"
    activation: str | None = "elu"
    norm: str = "batch"
    init: str | None = None
    optimiser: Callable[[nn.Module], torch.optim.Optimizer] = adam
    replace: Mapping[type[nn.Module], Callable[[nn.Module], nn.Module]] = field(default_factory=dict)


def small_resnet(**settings: Any) -> nn.Module:
    return tv.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10, **settings)


def small_convnext() -> nn.Module:
    # scales that start at 0.000001 would leave next to nothing of the blocks to test
    return tv.ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], layer_scale=0.5, num_classes=10)


def small_mixer() -> nn.Module:
    return MlpMixer(num_classes=10, img_size=16, patch_size=4, num_blocks=2, embed_dim=32)


def of_timm(name: str, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=10, **settings)


SMALL = {
    "ResNet with four blocks": Case(small_resnet, method="clip", optimiser=sgd),
    "ConvNeXt with two blocks": Case(small_convnext, activation="celu"),
    "MLP-Mixer with two blocks": Case(small_mixer, (3, 16, 16), "absolute", "softplus", "affine"),
    "small EfficientNet of timm": Case(
        of_timm("test_efficientnet"), method="softplus", activation=None, replace={SqueezeExcite: PooledSum.like}
    ),
}
LARGE = {
    "torchvision resnet18": Case(lambda: tv.resnet18(num_classes=10), init="paper"),
    "torchvision vgg11_bn": Case(lambda: tv.vgg11_bn(num_classes=10), method="clip", activation="celu", optimiser=sgd),
    "torchvision densenet121": Case(lambda: tv.densenet121(num_classes=10), method="shift", activation="leaky_relu"),
    "torchvision mobilenet_v2": Case(lambda: tv.mobilenet_v2(num_classes=10), method="absolute", activation=None),
    "torchvision regnet_x_400mf": Case(lambda: tv.regnet_x_400mf(num_classes=10), method="softplus", optimiser=sgd),
    "torchvision convnext_tiny": Case(
        lambda: tv.convnext_tiny(layer_scale=0.5, num_classes=10), method="clip", activation="softplus", norm="affine"
    ),
    "torchvision shufflenet_v2_x0_5": Case(lambda: tv.shufflenet_v2_x0_5(num_classes=10), method="absolute"),
    "torchvision googlenet": Case(
        lambda: tv.googlenet(weights=None, num_classes=10, init_weights=False, aux_logits=True), method="clip"
    ),
    "torchvision mnasnet0_5": Case(lambda: tv.mnasnet0_5(num_classes=10), init="lognormal"),
    "torchvision squeezenet1_1": Case(
        lambda: tv.squeezenet1_1(num_classes=10), activation="leaky_relu", init="identity", method="shift"
    ),
    "torchvision efficientnet_b0, pooled": Case(
        lambda: tv.efficientnet_b0(num_classes=10), replace={SqueezeExcitation: PooledSum.like}
    ),
    "torchvision efficientnet_b0, without gates": Case(
        lambda: tv.efficientnet_b0(num_classes=10),
        method="clip",
        activation="celu",
        replace={SqueezeExcitation: removed},
    ),
    "timm repvgg_a0": Case(of_timm("repvgg_a0"), method="exp", activation="celu"),
    "timm convnext_atto": Case(of_timm("convnext_atto", ls_init_value=0.5), optimiser=sgd),
    "timm mixer_s32": Case(of_timm("mixer_s32_224", img_size=64), (3, 64, 64), init="identity"),
    "timm resmlp_12": Case(of_timm("resmlp_12_224", img_size=32), method="clip", activation="relu"),
    "timm efficientnet_b0": Case(of_timm("efficientnet_b0"), method="exp", replace={SqueezeExcite: removed}),
    "torchvision inception_v3": Case(
        lambda: tv.inception_v3(weights=None, num_classes=10, init_weights=False, aux_logits=False), (3, 96, 96)
    ),
    "timm dla34": Case(of_timm("dla34"), (3, 64, 64)),
    "timm mobileone_s0": Case(of_timm("mobileone_s0"), (3, 64, 64)),
    "timm convmixer": Case(of_timm("convmixer_768_32"), (3, 56, 56)),
    "torchvision densenet121, exponentiate": Case(lambda: tv.densenet121(num_classes=10), (3, 64, 64)),
    "timm resnetv2_50d_gn": Case(of_timm("resnetv2_50d_gn"), activation="relu", method="clip"),
}
CASES = SMALL | LARGE


def marks(name: str) -> list[pytest.MarkDecorator]:
    return [slow] if name in (*LARGE, "ConvNeXt with two blocks", "MLP-Mixer with two blocks") else []


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in CASES])
def test_converted_trained_and_still_convex(name: str) -> None:
    case = CASES[name]
    net, example = case.build(), torch.randn(2, *case.shape)
    with untouched(net):
        ioc = cx.convexify(
            net, example, method=case.method, activation=case.activation, norm=case.norm, init=case.init,
            replace=case.replace,
        )  # fmt: skip
    modes = {path: module.training for path, module in net.named_modules()}
    inside = {path for path in modes for change in cx.changes(ioc) if is_inside(path, change.path)}
    assert all(modes.get(path, m.training) == m.training for path, m in ioc.named_modules() if path not in inside)
    assert not {id(p) for p in net.parameters()} & {id(p) for p in ioc.parameters()}
    assert cx.certify(ioc, example).convex
    check_changes(net, ioc)
    for outputs in evaluated(ioc, example), evaluated(ioc, 0 * example), evaluated(ioc, torch.randn(8, *case.shape)):
        assert all(bool(output.isfinite().all()) for output in outputs)  # before any training

    optimiser = case.optimiser(ioc)
    cone = cx.constrain(ioc, example).attach(optimiser)
    assert cone.violation() == 0
    if case.init is None:
        check_weights(net, ioc, cone.parameters, case.method)
    train(ioc, cone, optimiser, case.shape, steps=3)
    assert cx.certify(ioc, example).require().curvature == "convex"
    violation, bend = chords(ioc, case.shape)
    assert violation <= 0
    assert bend > 1e-7  # ten times the tolerance

    # the negative control: one weight or scale of the wrong sign is found, by the certificate and by the chords
    for name in cone.parameters[len(cone.parameters) // 2 :]:
        broken = negate(ioc, name)
        certificate = cx.certify(broken, example)
        if not certificate.convex:
            break
        assert chords(broken, case.shape)[0] <= 0  # a unit that is never positive, and stays behind a relu
    assert not certificate.convex
    assert name.rpartition(".")[0] in [finding.path for finding in certificate.findings]
    assert chords(negate(ioc, cone.parameters[-1]), case.shape)[0] > 0


def test_every_setting_is_used_by_some_network() -> None:
    used = list(CASES.values())
    assert {case.method for case in used} == {"exponentiate", "clip", "absolute", "shift", "softplus", "exp"}
    assert {case.activation for case in used} == {"elu", "celu", "softplus", "leaky_relu", "relu", None}
    assert {case.norm for case in used} == {"batch", "affine"}
    assert {case.init for case in used} == {None, "paper", "lognormal", "identity"}
    assert {case.optimiser for case in used} == {sgd, adam}


def test_without_attach_training_loses_convexity() -> None:
    net, example = zoo.MLP(12, 10, hidden=(16, 16)), torch.randn(2, 3, 2, 2)
    ioc = cx.convexify(net, example, method="clip")
    cone = cx.constrain(ioc, example)
    optimiser = torch.optim.SGD(ioc.parameters(), lr=0.1)
    ioc.train()
    F.cross_entropy(ioc(torch.randn(6, 3, 2, 2)), torch.randint(10, (6,))).backward()
    optimiser.step()
    assert cone.violation() > 0
    assert not cx.certify(ioc, example).convex


def test_the_adversary_finds_every_wrong_sign() -> None:
    net, example = images(nn.GroupNorm(2, 6), nn.SiLU), torch.randn(4, *IMAGE)
    ioc = cx.convexify(net, example, method="absolute").eval()
    assert cx.falsify(ioc, example, budget=2_000) is None
    for name in cx.constrain(ioc, example).parameters:
        found = cx.falsify(negate(ioc, name), example, budget=10_000)
        assert found is not None, name
        assert found.violation > 0


def test_the_warning_is_one_and_points_at_the_caller() -> None:
    with pytest.warns(UserWarning, match="accuracy is not preserved") as caught:
        cx.convexify(nn.Sequential(nn.Linear(2, 4), nn.GELU(), nn.Linear(4, 1)), torch.zeros(1, 2))
    assert [warning.filename for warning in caught] == [__file__]


# --- a head with free weights ----------------------------------------------------------------------------------------


def check_free_head(net: nn.Module, path: str, shape: tuple[int, ...]) -> None:
    """Certified for random V, and with the softmax that a plain head of the same V would give."""
    example = torch.randn(4, *shape)
    ioc = cx.convexify(net, example, head="free")
    head = ioc.get_submodule(path)
    assert isinstance(head, FreeHead)
    check_changes(net, ioc)
    assert f"{path}.weight" not in cx.constrain(ioc, example).parameters
    for scale in (1.0, 10.0):
        with torch.no_grad():
            head.weight.copy_(scale * torch.randn_like(head.weight))
        assert cx.certify(ioc, example).convex
        assert chords(ioc, shape)[0] <= 0

    plain = copy.deepcopy(ioc)
    parent, _, name = path.rpartition(".")
    plain.get_submodule(parent).add_module(name, nn.Linear(head.in_features, head.out_features))
    plain.load_state_dict(ioc.state_dict())
    with torch.no_grad():
        logits, others = (copy.deepcopy(model).double().eval()(example.double()) for model in (ioc, plain))
    torch.testing.assert_close(logits.softmax(1), others.softmax(1), rtol=1e-9, atol=1e-12)
    assert torch.equal(logits.argmax(1), others.argmax(1))
    assert not torch.allclose(logits, others)
    assert not cx.certify(plain, example).convex  # the negative control: a plain head of these weights
    assert chords(plain, shape)[0] > 0


def test_a_free_head() -> None:
    check_free_head(images(nn.BatchNorm2d(6)), "7", IMAGE)


@slow
def test_a_free_head_on_resnet18() -> None:
    check_free_head(tv.resnet18(num_classes=10), "fc", (3, 32, 32))


def test_a_free_head_trains() -> None:
    net, example = zoo.MLP(12, 10, hidden=(16,)), torch.randn(2, 12)
    ioc = cx.convexify(net, example, head="free")
    optimiser = torch.optim.SGD(ioc.parameters(), lr=0.1)
    cone = cx.constrain(ioc, example).attach(optimiser)
    before = ioc.get_submodule("layers.head").weight.detach().clone()
    assert bool((before < 0).any()), "a free head keeps weights of any sign"
    train(ioc, cone, optimiser, (12,), steps=5)
    assert not torch.equal(ioc.get_submodule("layers.head").weight, before)
    assert cx.certify(ioc, example).convex
    assert chords(ioc, (12,))[0] <= 0


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        ([nn.Linear(6, 1)], "at least two outputs, not 1"),
        ([nn.Linear(6, 3), nn.Softmax(1)], "the last step is softmax"),
        ([nn.Linear(6, 3), nn.LogSoftmax(1)], "the last step is log_softmax"),
        ([nn.Linear(6, 3), nn.BatchNorm1d(3)], "the last step is batch_norm"),
        ([nn.Linear(6, 3), nn.ReLU()], "the last step is relu"),
    ],
)
def test_a_free_head_needs_two_outputs_and_nothing_behind(tail: list[nn.Module], words: str) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), *tail)
    with untouched(net), pytest.raises(ValueError, match=words):
        cx.convexify(net, torch.zeros(2, 4), head="free")


# --- a wider first layer ---------------------------------------------------------------------------------------------

WIDENED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, int]] = {
    "MLP": (lambda: zoo.MLP(12, 10, hidden=(8, 8)), (3, 2, 2), "layers.linear1", 8),
    "AllConv": (lambda: zoo.AllConv(first=6, norm=True), (3, 12, 12), "layers.conv1", 6),
    "DenseNet": (zoo.densenet_small, (3, 8, 8), "features.first", 8),
    "DenseNet of torchvision": (lambda: tv.DenseNet(4, (2, 2), 8, num_classes=10), (3, 32, 32), "features.conv0", 8),
    "ResNet of bottlenecks": (
        lambda: tv.ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10),
        (3, 32, 32),
        "conv1",
        64,
    ),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "MLP" else slow) for n in WIDENED])
def test_a_wider_first_layer(name: str) -> None:
    build, shape, first, width = WIDENED[name]
    net, example = build(), torch.randn(2, *shape)
    with untouched(net):
        ioc = cx.convexify(net, example, widen_first=2)
    wide = ioc.get_submodule(first)
    assert len(wide.weight) == 2 * width
    assert torch.equal(wide.weight[:width], net.get_submodule(first).weight)
    own = [change for change in cx.changes(ioc) if change.path == first]
    assert [(c.before, c.after, c.reason) for c in own] == [(str(net.get_submodule(first)), str(wide), "widen_first=2")]
    assert cx.certify(ioc, example).convex
    optimiser = sgd(ioc)
    cone = cx.constrain(ioc, example).attach(optimiser)
    assert f"{first}.weight" not in cone.parameters
    train(ioc, cone, optimiser, shape, steps=2)
    assert cx.certify(ioc, example).convex
    violation, bend = chords(ioc, shape)
    assert violation <= 0 < bend
    assert chords(negate(ioc, cone.parameters[-1]), shape)[0] > 0


REFUSED_WIDER: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "a sum with what is not widened": (small_resnet, (3, 32, 32), r"units of conv1 through aten\.add"),
    "a depthwise convolution": (
        lambda: images(nn.Conv2d(6, 6, 3, groups=6)), (3, 8, 8), r"the input of 1 ",
    ),
    "patches": (small_mixer, (3, 16, 16), r"units of stem\.proj through"),
    "one layer": (lambda: nn.Linear(4, 3), (4,), "the first layer is also the last"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_WIDER)
def test_a_first_layer_that_cannot_be_widened(name: str) -> None:
    build, shape, words = REFUSED_WIDER[name]
    net = build()
    with untouched(net), pytest.raises(ValueError, match=words) as caught:
        cx.convexify(net, torch.randn(2, *shape), widen_first=2)
    assert "widen_first" in str(caught.value)


# --- convex in the features alone ------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """A convolutional trunk that is not convex, and a fully connected head with two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 6, 3), nn.GELU(), nn.Flatten())
        self.classifier = nn.Sequential(
            nn.Linear(96, 16),
            nn.SiLU(),
            nn.Dropout(),
            nn.Linear(16, 16),
            nn.LayerNorm(16),
            nn.Tanh(),
            nn.Linear(16, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.trunk(x))


def check_head_only(
    net: nn.Module, only: str, shape: tuple[int, ...], constrained: tuple[str, ...], **settings: Any
) -> None:
    """Convex in what the submodule sees, and everything else as it was, through training too."""
    example = torch.randn(2, *shape)
    with untouched(net):
        ioc = cx.convexify(net, example, only=only, **settings)
    assert {change.path for change in cx.changes(ioc)} == exchanged(net, ioc)
    assert all(is_inside(change.path, only) or change.path == only for change in cx.changes(ioc))
    trunk = {n: v for n, v in net.state_dict().items() if not is_inside(n, only)}
    assert trunk
    assert all(torch.equal(value, ioc.state_dict()[name]) for name, value in trunk.items())

    seen: list[Tensor] = []
    handle = ioc.get_submodule(only).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    ioc.eval()(example)
    handle.remove()
    features = seen[0]
    whole, part = cx.certify(ioc, example), cx.certify(ioc.get_submodule(only), features)
    assert not whole.convex
    assert part.convex
    assert f"convex in the input of {only} alone" in whole.notes[-1]
    assert f"it is {only} of {type(ioc).__name__}, converted alone" in part.notes[-1]
    assert part.notes[-1][:20] in " ".join(str(part).split())

    optimiser = sgd(ioc)
    cone = cx.constrain(ioc, example).attach(optimiser)
    assert cone.parameters == constrained
    train(ioc, cone, optimiser, shape, steps=3)
    assert cx.certify(ioc.get_submodule(only), features).convex
    assert chords(ioc.get_submodule(only), tuple(features.shape[1:]))[0] <= 0
    for name in constrained:
        assert not cx.certify(negate(ioc, name).get_submodule(only), features).convex


def test_convex_in_the_features_only() -> None:
    names = ("classifier.3.weight", "classifier.4.weight", "classifier.6.weight")
    check_head_only(Classifier(), "classifier", (3, 8, 8), names, method="clip")


@slow
def test_convex_in_the_features_of_vgg_only() -> None:
    names = ("classifier.3.weight", "classifier.6.weight")
    check_head_only(tv.vgg11_bn(num_classes=10), "classifier", (3, 32, 32), names)


def test_one_linear_layer_alone_is_convex_in_its_features_already() -> None:
    check_head_only(images(nn.BatchNorm2d(6)), "7", IMAGE, ())


def test_the_note_on_a_part_stays_with_copies_and_goes_with_a_conversion_of_the_whole() -> None:
    net, example = Classifier(), torch.zeros(2, 3, 8, 8)
    ioc = cx.convexify(net, example, only="classifier")
    assert cx.certify(copy.deepcopy(ioc).classifier, torch.zeros(2, 96)).notes
    assert not cx.certify(net, example).notes
    assert not cx.certify(net.classifier, torch.zeros(2, 96)).notes
    full = cx.convexify(ioc, example)
    assert cx.certify(full, example).convex
    assert not cx.certify(full, example).notes
    assert not cx.certify(full.classifier, torch.zeros(2, 96)).notes


def test_only_what_there_is() -> None:
    net = Classifier()
    with untouched(net), pytest.raises(ValueError, match="'head' is not a submodule of Classifier; it has trunk"):
        cx.convexify(net, torch.zeros(2, 3, 8, 8), only="head")


# --- refused ---------------------------------------------------------------------------------------------------------


class Ending(nn.Module):
    """Linear, something, linear: with the something called in a forward that has a line."""

    def __init__(self, inner: nn.Module, width: int = 6) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 6), inner, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(self.first(x))
        return self.last(h[0] if isinstance(h, tuple) else h)


class LogProbabilities(Ending):
    def forward(self, x: Tensor) -> Tensor:
        logits = self.last(self.first(x).relu())
        return self.inner(logits)


class CallsGELU(Ending):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = F.gelu(h)
        return self.last(h)


class CallsSiLU(Ending):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(
            F.silu(
                self.first(x),
            )
        )


class CallsLayerNorm(Ending):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        normed = F.layer_norm(h, (6,))
        return self.last(normed.relu())


class Refused:
    """A network that no rewrite makes convex: where, by which operator, and words of the reason and the remedy."""

    def __init__(
        self,
        build: Callable[[], nn.Module],
        shape: tuple[int, ...],
        path: str,
        operator: str,
        source: str,
        reason: str,
        remedy: str,
    ) -> None:
        self.build, self.shape, self.path, self.operator = build, shape, path, operator
        self.source, self.reason, self.remedy = source, reason, remedy


def vit() -> nn.Module:
    return tv.VisionTransformer(
        image_size=16, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=10
    )


def swin() -> nn.Module:
    return tv.SwinTransformer(
        patch_size=[4, 4], embed_dim=8, depths=[2], num_heads=[2], window_size=[2, 2], num_classes=10
    )


def convnextv2() -> nn.Module:
    return TimmConvNeXt(num_classes=10, depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), use_grn=True, ls_init_value=None)


ATTENTION = "attention multiplies quantities that depend on the input"
GATE = "multiplies two quantities that both depend on the input"
POOLED = (
    r"replace=\{torchvision\.ops\.misc\.SqueezeExcitation: convexnet\.nn\.PooledSum\.like\}.*convexnet\.nn\.removed"
)
HERE = r"test_foreign_networks\.py"
REFUSED = {
    "ViT": Refused(
        vit, (3, 16, 16), "encoder.layers.encoder_layer_0.self_attention", "aten.scaled_dot_product_attention",
        r"torchvision/models/vision_transformer\.py", ATTENTION, r"replace=\{\S+\.MultiheadAttention: factory\}",
    ),
    "Swin": Refused(
        swin, (3, 16, 16), "features.1.0.attn", "aten.matmul", r"torchvision/models/swin_transformer\.py", GATE,
        r"replace=\{\S+\.ShiftedWindowAttention: factory\}",
    ),
    "EfficientNet": Refused(
        lambda: tv.efficientnet_b0(num_classes=10), (3, 32, 32), "features.1.0.block.1", "aten.mul",
        r"torchvision/ops/misc\.py", GATE, POOLED,
    ),
    "MobileNetV3": Refused(
        lambda: tv.mobilenet_v3_small(num_classes=10), (3, 32, 32), "features.1.block.1", "aten.mul",
        r"torchvision/ops/misc\.py", GATE, POOLED,
    ),
    "ConvNeXtV2": Refused(
        convnextv2, (3, 32, 32), "stages.0.blocks.0.mlp.grn", "aten.linalg_vector_norm", r"timm/layers/grn\.py",
        "argument is convex", r"replace=\{timm\.layers\.grn\.GlobalResponseNorm: factory\}",
    ),
    "weights standardised to mean zero": Refused(
        of_timm("test_nfnet"), (3, 64, 64), "stem.conv2", "aten.conv2d", r"timm/layers/std_conv\.py",
        "would have to be non-negative", r"replace=\{timm\.layers\.std_conv\.ScaledStdConv2d: factory\}",
    ),
    "F.gelu": Refused(
        lambda: CallsGELU(nn.Identity()), (4,), "", "aten.gelu", HERE, "neither convex nor concave",
        r"forward of CallsGELU: make it a module \(nn\.GELU\(\)\)",
    ),
    "F.silu": Refused(
        lambda: CallsSiLU(nn.Identity()), (4,), "", "aten.silu", HERE, "neither convex nor concave",
        r"forward of CallsSiLU: make it a module \(nn\.SiLU\(\)\)",
    ),
    "F.layer_norm": Refused(
        lambda: CallsLayerNorm(nn.Identity()), (4,), "", "aten.layer_norm", HERE, "standard deviation",
        r"forward of CallsLayerNorm: make it a module \(nn\.LayerNorm\(\)\)",
    ),
    "LogSoftmax": Refused(
        lambda: LogProbabilities(nn.LogSoftmax(1)), (4,), "inner", "aten.log_softmax", HERE, "log_softmax of convex",
        "return what goes into it",
    ),
    "GLU": Refused(
        lambda: Ending(nn.GLU(), 3), (4,), "inner", "aten.glu", HERE, "multiplies one half of its argument",
        r"replace=\{\S+\.GLU: factory\}",
    ),
    "LSTM": Refused(
        lambda: Ending(nn.LSTM(6, 6, batch_first=True)), (5, 4), "inner", "aten.lstm", HERE, "gates multiply",
        r"nn\.RNN\(nonlinearity='relu'\)",
    ),
    "TransformerEncoderLayer": Refused(
        lambda: Ending(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)), (5, 4), "inner.self_attn",
        "aten.scaled_dot_product_attention", HERE, ATTENTION, "mix tokens with constant non-negative weights",
    ),
}  # fmt: skip
LONG_TO_REFUSE = ("EfficientNet", "MobileNetV3", "Swin", "weights standardised to mean zero")


@pytest.mark.parametrize("name", [pytest.param(n, marks=slow if n in LONG_TO_REFUSE else ()) for n in REFUSED])
def test_refused_by_name_and_line(name: str) -> None:
    case = REFUSED[name]
    net = case.build()
    with untouched(net), pytest.raises(cx.NotCertified, match="cannot be converted") as caught:
        cx.convexify(net, torch.randn(2, *case.shape))
    finding = caught.value.findings[0]
    assert isinstance(finding, cx.Finding)
    assert (finding.path, finding.operator) == (case.path, case.operator)
    assert re.search(rf"{case.source}:\d+$", finding.source)
    assert re.search(case.reason, finding.reason)
    assert re.search(case.remedy, finding.remedy)
    report = " ".join(str(caught.value).split())
    for words in (finding.source, finding.operator, finding.reason, finding.remedy):
        assert words in report


@pytest.mark.parametrize(
    ("module", "call"), [(CallsGELU, "F.gelu"), (CallsSiLU, "F.silu"), (CallsLayerNorm, "F.layer_norm")]
)
def test_the_line_is_that_of_the_call(module: type[Ending], call: str) -> None:
    lines, start = inspect.getsourcelines(module.forward)
    (at,) = [start + i for i, line in enumerate(lines) if f"{call}(" in line]
    with pytest.raises(cx.NotCertified) as caught:
        cx.convexify(module(nn.Identity()), torch.zeros(2, 4))
    (finding,) = caught.value.findings
    assert isinstance(finding, cx.Finding)
    assert finding.source.endswith(f"test_foreign_networks.py:{at}")


def test_the_remedy_for_a_function_works() -> None:
    cures: dict[type[Ending], Callable[[], nn.Module]] = {
        CallsGELU: nn.GELU, CallsSiLU: nn.SiLU, CallsLayerNorm: lambda: nn.Sequential(nn.LayerNorm(6), nn.ReLU()),
    }  # fmt: skip
    for cure in cures.values():
        net = Ending(cure())
        check_changes(net, cx.convexify(net, torch.zeros(2, 4)))


class Gated(nn.Module):
    """Squeeze and excitation as a user writes it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool, self.excite, self.gate = nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.excite(self.pool(x)))


def follow(net: nn.Module, example: Tensor) -> tuple[nn.Module, nn.Module]:
    """What the remedy of a refusal says, done: with pooled features instead of the gate, and without it."""
    with pytest.raises(cx.NotCertified) as caught:
        cx.convexify(net, example)
    found = re.search(r"replace=\{(\S+)\.(\w+): (\S+)\}.*\{\.\.\.: (\S+)\}", " ".join(str(caught.value).split()))
    assert found is not None
    gate = getattr(importlib.import_module(found[1]), found[2])
    factories = [eval(text, {"convexnet": cx}) for text in (found[3], found[4])]
    pooled, without = (cx.convexify(net, example, replace={gate: factory}) for factory in factories)
    return pooled, without


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        pytest.param(lambda: images(nn.Sequential(nn.ReLU(), Gated(6))), (3, 8, 8), id="a user's gate"),
        pytest.param(REFUSED["MobileNetV3"].build, (3, 32, 32), id="MobileNetV3", marks=slow),
    ],
)
def test_the_remedy_for_a_gate_works(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    net, example = build(), torch.randn(2, *shape)
    for ioc in follow(net, example):
        check_changes(net, ioc)
        assert cx.certify(ioc, example).convex
        assert chords(ioc, shape)[0] <= 0


# --- norms, one by one -----------------------------------------------------------------------------------------------


class LayerNorm(nn.Module):
    """A user's own, as the authors of ConvNeXt wrote it, with the channels last or first."""

    def __init__(self, channels: int, data_format: str = "channels_last") -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.data_format = data_format

    def forward(self, x: Tensor) -> Tensor:
        if self.data_format == "channels_last":
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias)
        centred = x - x.mean(1, keepdim=True)
        x = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return self.weight[:, None, None] * x + self.bias[:, None, None]


NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    # the norm, the shape of a sample of the network around it, and the dimensions of its features
    "LayerNorm of (B, C)": (lambda: nn.LayerNorm(6), VECTOR, (1,)),
    "LayerNorm of (B, T, C)": (lambda: nn.LayerNorm(6), TOKENS, (2,)),
    "LayerNorm of (B, T, C) over both": (lambda: nn.LayerNorm((7, 6)), TOKENS, (1, 2)),
    "LayerNorm of (B, C, H, W) over three": (lambda: nn.LayerNorm((6, 8, 8)), IMAGE, (1, 2, 3)),
    "LayerNorm of (B, C, H, W) over two": (lambda: nn.LayerNorm((8, 8)), IMAGE, (2, 3)),
    "LayerNorm without scale": (lambda: nn.LayerNorm(6, elementwise_affine=False), TOKENS, (2,)),
    "LayerNorm without shift": (lambda: nn.LayerNorm(6, bias=False), VECTOR, (1,)),
    "LayerNorm2d of torchvision": (lambda: TorchvisionLayerNorm2d(6), IMAGE, (1,)),
    "LayerNorm2d of timm": (lambda: tl.LayerNorm2d(6), IMAGE, (1,)),
    "RMSNorm of (B, C)": (lambda: nn.RMSNorm(6), VECTOR, (1,)),
    "RMSNorm of (B, T, C)": (lambda: nn.RMSNorm(6), TOKENS, (2,)),
    "RmsNorm of timm": (lambda: tl.RmsNorm(6), TOKENS, (2,)),
    "RmsNorm2d of timm": (lambda: tl.RmsNorm2d(6), IMAGE, (1,)),
    "GroupNorm of images": (lambda: nn.GroupNorm(2, 6), IMAGE, (1,)),
    "GroupNorm of vectors": (lambda: nn.GroupNorm(3, 6), VECTOR, (1,)),
    "GroupNorm of one group": (lambda: nn.GroupNorm(1, 6), IMAGE, (1,)),
    "InstanceNorm": (lambda: nn.InstanceNorm2d(6), IMAGE, (1,)),
    "InstanceNorm with scale": (lambda: nn.InstanceNorm2d(6, affine=True), IMAGE, (1,)),
    "InstanceNorm with statistics": (
        lambda: nn.InstanceNorm2d(6, affine=True, track_running_stats=True), IMAGE, (1,),
    ),
    "BatchNorm2d without statistics": (lambda: nn.BatchNorm2d(6, track_running_stats=False), IMAGE, (1,)),
    "BatchNorm1d without statistics": (lambda: nn.BatchNorm1d(6, track_running_stats=False), VECTOR, (1,)),
    "a user's own, channels first": (lambda: LayerNorm(6, "channels_first"), IMAGE, (1,)),
    "a user's own, channels last": (lambda: LayerNorm(6), TOKENS, (2,)),
    "GroupNorm and SiLU of timm": (lambda: tl.GroupNormAct(6, 2, act_layer=nn.SiLU), IMAGE, (1,)),
    "LayerNorm2d and SiLU of timm": (lambda: tl.LayerNormAct2d(6, act_layer=nn.SiLU), IMAGE, (1,)),
    "LayerNorm and SiLU of timm": (lambda: tl.LayerNormAct(6, act_layer=nn.SiLU), TOKENS, (2,)),
}  # fmt: skip


def around(inner: nn.Module, shape: tuple[int, ...], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """A network with a module behind its first layer, and the path of that module."""
    build = {1: vectors, 2: Tokens, 3: images}[len(shape)]
    return build(inner, activation)


def normalised(z: Tensor, dims: tuple[int, ...], norm: str) -> Tensor:
    """Batch statistics of each feature, by hand: over every dimension that holds no feature."""
    if norm == "affine":
        return z
    over = [d for d in range(z.ndim) if d not in dims]
    return (z - z.mean(over, keepdim=True)) / (z.var(over, unbiased=False, keepdim=True) + 1e-5).sqrt()


AFFINE_TOO = (
    "LayerNorm of (B, T, C)", "LayerNorm of (B, C, H, W) over three", "GroupNorm of images",
    "LayerNorm2d and SiLU of timm",
)  # fmt: skip
LESS_OFTEN = (
    "LayerNorm without shift", "LayerNorm of (B, T, C) over both", "LayerNorm2d of timm", "RMSNorm of (B, C)",
    "GroupNorm of one group", "InstanceNorm with scale", "BatchNorm1d without statistics", "LayerNorm and SiLU of timm",
)  # fmt: skip


def norm_marks(name: str) -> list[pytest.MarkDecorator]:
    return [slow] * (name in LESS_OFTEN)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        *(pytest.param(name, "batch", marks=norm_marks(name)) for name in NORMS),
        *((name, "affine") for name in AFFINE_TOO),
    ],
)
def test_a_norm(name: str, norm: str) -> None:
    build, shape, dims = NORMS[name]
    old = build()
    weight, bias = (getattr(old, leaf, None) for leaf in ("weight", "bias"))
    with torch.no_grad():  # a scale and a shift that can be told apart, feature by feature
        for value in (weight, bias):
            if isinstance(value, Tensor):
                value.copy_(torch.rand_like(value) + 0.5)
    net = around(old, shape)
    example = torch.randn(4, *shape)
    with untouched(net):
        ioc = cx.convexify(net, example, norm=norm)
    check_changes(net, ioc)
    assert cx.certify(ioc, example).convex
    violation, bend = chords(ioc, shape)
    assert violation <= 0 < bend

    (new,) = [
        m
        for path, m in ioc.named_modules()
        if is_inside(f"{path}.", "inner" if len(shape) == 2 else "1") and isinstance(m, STAYS)
    ]
    assert isinstance(new, Affine) == (norm == "affine")
    seen: list[tuple[Tensor, Tensor]] = []
    handle = new.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    ioc.train()(example)
    handle.remove()
    ((z, out),) = seen
    expected = normalised(z, dims, norm)
    lengths = [length if d in dims else 1 for d, length in enumerate(z.shape)]
    expected = expected * (weight.reshape(lengths) if isinstance(weight, Tensor) else 1)
    expected = expected + (bias.reshape(lengths) if isinstance(bias, Tensor) else 0)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_a_fused_batch_norm_keeps_its_statistics() -> None:
    fused = tl.BatchNormAct2d(6, act_layer=nn.SiLU)
    fused.running_mean.normal_()
    net = images(fused, nn.Identity)
    ioc = cx.convexify(net, torch.randn(2, *IMAGE))
    check_changes(net, ioc)
    assert {c.path for c in cx.changes(ioc)} == {"1.act", "4"}
    assert torch.equal(ioc[1].running_mean, fused.running_mean)
    assert cx.certify(ioc, torch.randn(2, *IMAGE)).convex


def test_a_norm_used_at_two_places_is_exchanged_once() -> None:
    class Twice(Ending):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.inner(self.inner(self.first(x)).relu()).relu())

    net = Twice(nn.LayerNorm(6))
    ioc = cx.convexify(net, torch.zeros(2, 4))
    check_changes(net, ioc)
    assert len(cx.changes(ioc)) == 1
    assert cx.certify(ioc, torch.zeros(2, 4)).convex


# --- activations, one by one -----------------------------------------------------------------------------------------


class OwnGELU(nn.GELU):
    """A subclass."""


class QuickGELU(nn.Module):
    """A user's own activation."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class InPlaceSwish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(torch.sigmoid(x))


class Containers(nn.Module):
    """Activations in a list, in a dictionary, and one object at two places."""

    def __init__(self) -> None:
        super().__init__()
        shared = nn.SiLU()
        self.listed = nn.ModuleList([nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6), shared])
        self.named = nn.ModuleDict({"linear": nn.Linear(6, 6), "activation": shared, "head": nn.Linear(6, 10)})

    def forward(self, x: Tensor) -> Tensor:
        for module in (*self.listed, *self.named.values()):
            x = module(x)
        return x


def sequence(*activations: nn.Module) -> nn.Sequential:
    return nn.Sequential(*(layer for each in activations for layer in (nn.Linear(5, 5), each)), nn.Linear(5, 3))


LISTED = [
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.ReLU6, nn.Hardtanh,
    nn.Tanh, nn.Sigmoid, nn.Hardsigmoid, nn.LogSigmoid, nn.Softplus, nn.Softsign, nn.RReLU, nn.Softshrink,
    nn.Hardshrink, nn.Tanhshrink,
]  # fmt: skip
WANTED = {"elu": nn.ELU, "celu": nn.CELU, "softplus": nn.Softplus, "leaky_relu": nn.LeakyReLU, "relu": nn.ReLU}


@pytest.mark.parametrize("activation", WANTED)
def test_every_activation_becomes_the_same(activation: str) -> None:
    listed = LISTED if activation == "elu" else [nn.CELU, nn.GELU, nn.Hardtanh, nn.Softsign]
    net, example = sequence(nn.ELU(0.5), nn.ReLU(inplace=True), *(each() for each in listed)), torch.randn(2, 5)
    with untouched(net):
        ioc = cx.convexify(net, example, activation=activation)
    check_changes(net, ioc)
    wanted = WANTED[activation]
    assert [str(module) for module in ioc[1::2]] == [str(wanted())] * len(ioc[1::2])
    kept = {"elu": nn.ELU, "celu": nn.CELU}.get(activation)  # of the listed ones; the first two never are
    assert len(cx.changes(ioc)) == 2 + len(listed) - (kept in listed)
    assert cx.certify(ioc, example).convex
    assert chords(ioc, (5,), pairs=20)[0] <= 0


@pytest.mark.parametrize(
    ("build", "paths"),
    [
        pytest.param(lambda: vectors(nn.Identity(), OwnGELU), {"2"}, id="a subclass"),
        pytest.param(lambda: vectors(nn.Identity(), QuickGELU), {"2"}, id="a user's own"),
        pytest.param(lambda: vectors(nn.Identity(), InPlaceSwish), {"2"}, id="a user's own, in place"),
        pytest.param(lambda: images(nn.Identity(), QuickGELU), {"2", "4"}, id="a user's own, on images"),
        pytest.param(lambda: images(nn.Identity(), tl.GELUTanh), {"2", "4"}, id="timm's GELUTanh"),
        pytest.param(lambda: images(nn.Identity(), tl.Swish), {"2", "4"}, id="timm's Swish"),
        pytest.param(lambda: images(nn.Identity(), tl.Mish), {"2", "4"}, id="timm's Mish"),
        pytest.param(Containers, {"listed.1", "listed.3"}, id="containers, and one object in two of them"),
    ],
)
def test_activations_are_found(build: Callable[[], nn.Module], paths: set[str]) -> None:
    net = build()
    shape = IMAGE if isinstance(next(net.children()), nn.Conv2d) else VECTOR
    example = torch.randn(2, *shape)
    with untouched(net):
        ioc = cx.convexify(net, example)
    assert {change.path for change in cx.changes(ioc)} == paths
    check_changes(net, ioc)
    assert cx.certify(ioc, example).convex
    assert chords(ioc, shape)[0] <= 0


def test_a_shared_activation_stays_shared() -> None:
    ioc = cx.convexify(Containers(), torch.zeros(2, 5))
    assert ioc.get_submodule("listed.3") is ioc.get_submodule("named.activation")


def test_the_root_is_an_activation() -> None:
    rising = cx.convexify(nn.ReLU(), torch.zeros(2, 5))
    assert cx.certify(rising, torch.zeros(2, 5)).convex
    assert isinstance(cx.convexify(nn.GELU(), torch.zeros(2, 5)), nn.ELU)
    net = nn.Tanh()
    with untouched(net), pytest.raises(cx.NotCertified, match="return what goes into it"):
        cx.convexify(net, torch.zeros(2, 5))


KEPT: list[nn.Module] = [
    nn.ReLU(), nn.LeakyReLU(0.3), nn.ELU(), nn.ELU(0.5), nn.CELU(3.0), nn.Softplus(), nn.RReLU(), nn.PReLU(),
    Function(lambda x: F.softplus(2 * x)),
]  # fmt: skip
NOT_KEPT: list[nn.Module] = [
    nn.GELU(), nn.SiLU(), nn.Tanh(), nn.ELU(2.0), nn.SELU(), nn.LeakyReLU(2.0), nn.LeakyReLU(-0.1), nn.ReLU6(),
    nn.Softplus(threshold=1.0), nn.LogSigmoid(), nn.Hardtanh(), nn.Threshold(1.0, 2.0), Function(lambda x: 1 - x.sin()),
]  # fmt: skip


@torch.no_grad()
def is_convex_and_rising(function: nn.Module) -> bool:
    """Second and first differences on a grid."""
    with double():
        y = copy.deepcopy(function).double().eval()(torch.linspace(-8, 8, 3201)[:, None]).flatten()
    return bool((y.diff() >= -1e-12).all() and (y.diff().diff() >= -1e-12).all())


@pytest.mark.parametrize("inner", [*KEPT, *NOT_KEPT], ids=str)
def test_without_an_activation_the_convex_and_rising_stay(inner: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(3, 6), nn.Softplus(), nn.Linear(6, 6), inner, nn.Linear(6, 2))
    ioc = cx.convexify(net, torch.zeros(2, 3), activation=None)
    assert [change.path for change in cx.changes(ioc)] == ([] if is_convex_and_rising(inner) else ["3"])
    assert is_convex_and_rising(inner) == any(inner is kept for kept in KEPT)
    check_changes(net, ioc)
    assert chords(ioc, (3,), pairs=20)[0] <= 0


def test_converting_twice_is_converting_once() -> None:
    net, example = images(nn.GroupNorm(2, 6), nn.SiLU), torch.randn(2, *IMAGE)
    once = cx.convexify(net, example, method="clip")
    twice = cx.convexify(once, example, method="clip")
    assert cx.changes(twice) == cx.changes(once)
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True))


# --- what was wrong once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [nn.GELU(), nn.LayerNorm(6)], ids=["activation", "norm"])
def test_one_object_twice_in_one_sequence(inner: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(6, 6), inner, nn.Linear(6, 6), inner, nn.Linear(6, 3))
    assert net[1] is net[3]
    ioc = cx.convexify(net, torch.zeros(2, 6))
    assert ioc[1] is ioc[3]
    assert cx.certify(ioc, torch.zeros(2, 6)).convex


class NormAct(nn.LayerNorm):
    """A norm with its activation behind it, as timm fuses them."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.act = nn.SiLU()

    def forward(self, input: Tensor) -> Tensor:
        return self.act(super().forward(input))


def test_many_blocks_with_fused_norms() -> None:
    net = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), NormAct(6)) for _ in range(30)))
    for _ in range(2):
        ioc = cx.convexify(net, torch.zeros(2, 6))
        assert [type(block[1].norm) for block in ioc] == [nn.BatchNorm1d] * 30


class SigmoidGate(nn.Module):
    """x times a function of x, which is no exchangeable activation."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.mix(x))


def test_the_remedy_for_a_gate_with_a_functional_sigmoid() -> None:
    with pytest.raises(cx.NotCertified) as caught:
        cx.convexify(vectors(SigmoidGate()), torch.zeros(2, 5))
    assert "make it a module (nn.Sigmoid())" not in " ".join(str(caught.value).split())


def test_a_layer_norm_whose_scale_starts_at_zero() -> None:
    inner = nn.LayerNorm(6)
    nn.init.zeros_(inner.weight)
    net = Tokens(inner)
    check_changes(net, cx.convexify(net, torch.randn(2, *TOKENS)))


@pytest.mark.parametrize(
    ("net", "shape", "replace"),
    [
        (vectors(nn.LayerNorm(6, elementwise_affine=False)), VECTOR, {}),
        (images(nn.InstanceNorm2d(6)), IMAGE, {}),
        (images(nn.Sequential(nn.ReLU(), Gated(6))), IMAGE, {Gated: PooledSum.like}),
    ],
    ids=["LayerNorm", "InstanceNorm", "gate"],
)
def test_a_network_in_float64_still_runs(net: nn.Module, shape: tuple[int, ...], replace: dict[Any, Any]) -> None:
    example = torch.randn(2, *shape, dtype=torch.float64)
    ioc = cx.convexify(copy.deepcopy(net).double(), example, replace=replace)
    assert ioc(example).dtype == torch.float64


def test_what_is_frozen_stays_frozen() -> None:
    net = vectors(nn.LayerNorm(6))
    net[1].requires_grad_(False)
    ioc = cx.convexify(net, torch.zeros(2, 5))
    assert not any(p.requires_grad for p in ioc[1].parameters())


class Inverted(nn.Module):
    """1 - x, a picture's negative: affine, in front of the first layer."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 - x


def test_an_affine_module_is_no_activation() -> None:
    net = nn.Sequential(Inverted(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    assert [change.path for change in cx.changes(cx.convexify(net, torch.zeros(2, 5)))] == ["2"]


def test_only_the_whole() -> None:
    net, example = vectors(nn.Identity()), torch.zeros(2, 5)
    try:
        ioc = cx.convexify(net, example, only="")
    except ValueError:
        return
    assert cx.constrain(ioc, example).parameters == ("3.weight",)


def test_a_computed_weight_is_refused_in_whole_sentences() -> None:
    head = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3))
    with pytest.raises(cx.NotCertified) as caught:
        cx.convexify(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), head), torch.zeros(2, 5))
    assert "that is ," not in str(caught.value)
