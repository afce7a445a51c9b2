"""`bake`: plain layers that compute the same, whatever stands between a norm and the layer it is folded into."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations, parametrize

import convexnet as cx
from convexnet.nn import Affine, BatchNormAlong, FreeHead

ROW, PICTURE, TOKENS = torch.zeros(2, 4), torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, 4)

module_of_bake = importlib.import_module("convexnet.conversion.bake")  # the package names the function so


def moved(model: nn.Module, seed: int) -> nn.Module:
    """The model with statistics, scales and shifts that are not those of a fresh BatchNorm."""
    generator = torch.Generator().manual_seed(seed)
    for part in model.modules():
        if isinstance(part, _BatchNorm):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.copy_(torch.randn(part.num_features, generator=generator))
            part.running_var.copy_(0.5 + torch.rand(part.num_features, generator=generator))
            if part.affine:
                part.weight.data.copy_(0.5 + torch.rand(part.num_features, generator=generator))
                part.bias.data.copy_(torch.randn(part.num_features, generator=generator))
    return model


class PreActivation(nn.Module):
    """A norm that two layers read, and one before a padded convolution: neither can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.left, self.right = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.norm2, self.last = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x)
        return self.last(self.norm2(F.relu(self.left(z)) + self.right(z))).mean((2, 3))


class TokenMixing(nn.Module):
    """The norm's features are the last dimension, but the layer after it mixes the other one."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.tokens = BatchNormAlong(4, (-1,)), nn.Linear(5, 5)
        self.norm2, self.channels = BatchNormAlong(4, (-1,)), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return self.channels(self.norm2(F.relu(z)))


class ReadTwice(nn.Module):
    """The layer before the norm is read by another step too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        return self.last(F.relu(self.norm(z)) + F.softplus(z))


class Tied(nn.Module):
    """One layer is used twice, with a norm behind one of the uses."""

    def __init__(self) -> None:
        super().__init__()
        self.same, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.same(F.relu(self.norm(self.same(x))))


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor, int]] = {  # with the number of affine maps that remain
    "after linear": (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ELU(), nn.Linear(6, 2)), ROW, 0),
    "without bias": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()), PICTURE, 0),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, padding=1), nn.BatchNorm2d(6)), PICTURE, 0),
    "before linear": (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False)), ROW, 0),
    "before a convolution": (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU()), PICTURE, 0),
    "without scale": (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU()), ROW, 0),
    "pre-activation": (PreActivation, PICTURE, 2),
    "token mixing": (TokenMixing, TOKENS, 1),
    "read twice": (ReadTwice, ROW, 1),
    "tied": (Tied, ROW, 1),
    "last": (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4)), ROW, 1),
    "the model is a norm": (lambda: nn.BatchNorm1d(4), ROW, 1),
}


def agree(a: nn.Module, b: nn.Module, example: Tensor, seed: int) -> None:
    x = 3 * torch.randn(7, *example.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        one, other = (copy.deepcopy(net).eval().double()(x) for net in (a, b))
    assert float((one - other).abs().max()) <= 1e-6 * (1 + float(one.abs().max()))


@pytest.mark.parametrize("name", MODELS)
def test_the_baked_model_computes_the_same_without_batch_norm(name: str, seed: int) -> None:
    build, example, left = MODELS[name]
    model = moved(build(), seed).train()
    before = copy.deepcopy(model.state_dict())
    plain = cx.bake(model, example)
    agree(model, plain, example, seed)
    assert not any(isinstance(part, _BatchNorm) for part in plain.modules())
    assert sum(isinstance(part, Affine) for part in plain.modules()) == left
    assert not any(part.training for part in plain.modules())
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize("method", ["clip", "softplus", "exp"])
def test_a_baked_convex_model_is_plain_and_still_certified(method: str, seed: int) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 6), nn.PReLU(), nn.Linear(6, 3))
    ioc = moved(cx.convexify(net, ROW, method=method), seed)
    plain = cx.bake(ioc)
    agree(ioc, plain, ROW, seed)
    assert not any(parametrize.is_parametrized(part) for part in plain.modules())
    assert {type(part) for part in plain} == {nn.Linear, nn.Identity, nn.ELU, nn.PReLU}
    assert cx.certify(plain, ROW).convex
    plain.load_state_dict({k: -v for k, v in plain.state_dict().items()})  # it is no longer constrained
    assert float(plain[3].weight.detach().min()) < 0
    assert cx.certify(ioc, ROW).convex


def test_a_free_head_becomes_a_linear_layer_with_the_same_softmax(seed: int) -> None:
    torch.manual_seed(seed)
    ioc = cx.convexify(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), ROW, head="free")
    assert isinstance(ioc[2], FreeHead)
    plain = cx.bake(ioc)
    assert type(plain[2]) is nn.Linear
    assert float(plain[2].weight.detach().amin(0).abs().max()) == 0.0
    x = torch.randn(64, 4)
    hidden = ioc[:2](x)
    free = F.linear(hidden, ioc[2].weight, ioc[2].bias)
    assert torch.allclose(plain(x).softmax(1), free.softmax(1), atol=1e-5)
    assert not torch.allclose(plain(x), free, atol=1e-2)


def test_baking_a_copy_leaves_the_parametrised_original_alone() -> None:
    layer = parametrizations.weight_norm(nn.Linear(4, 2))
    twin = copy.deepcopy(layer)
    plain = cx.bake(nn.Sequential(layer), ROW)
    assert torch.equal(plain[0].weight, layer.weight)
    assert torch.equal(twin.weight, layer.weight)
    assert parametrize.is_parametrized(layer)
    assert type(plain[0]) is nn.Linear


def test_networks_that_are_convex_by_construction_become_plain(seed: int) -> None:
    torch.manual_seed(seed)
    net = cx.nn.FICNN(4, (6, 5), activation="softplus")
    plain = cx.bake(net, ROW)
    agree(net, plain, ROW, seed)
    assert not any(isinstance(part, cx.nn.ConvexLinear) for part in plain.modules())
    assert any(isinstance(part, cx.nn.ConvexLinear) for part in net.modules())
    assert cx.certify(plain, ROW).convex


def test_a_wrong_fold_is_noticed(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    def wrong(layer: nn.Module, scale: Tensor, shift: Tensor) -> None:
        module_of_bake.set_bias(layer, shift, layer.get_parameter("weight"))

    monkeypatch.setattr(module_of_bake, "fold_back", wrong)
    with pytest.raises(cx.ConvexNetError, match="differs by"):
        cx.bake(moved(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), seed), ROW)


def test_without_an_example_the_recorded_or_the_guessed_one_is_used() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.BatchNorm1d(3))
    assert isinstance(cx.bake(model)[2], nn.Identity)
    cx.constrain(model, torch.zeros(1, 2, 3))
    assert isinstance(cx.bake(model)[2], nn.Identity)
    with pytest.raises(ValueError, match="give one"):
        cx.bake(nn.Sequential(nn.ReLU()))
