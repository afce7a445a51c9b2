"""BatchNorm's statistics behind a conversion: converted networks can be evaluated at once, and say what they need."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import convexnet as cx
from convexnet.conversion.batchnorm_statistics import inputs_of_norms, probe_of
from convexnet.nn.norms import BatchNormAlong


def deep(depth: int = 12, width: int = 16, norm: bool = True) -> nn.Sequential:
    """Convolutions as in ConvMixer: each behind an activation, and its BatchNorm behind that."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.GELU()]
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.GELU()]
        layers += [nn.BatchNorm2d(width)] if norm else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))


IMAGE = torch.zeros(1, 3, 8, 8)
EXAMPLES: dict[str, Callable[[], Tensor]] = {
    "one row of zeros": lambda: IMAGE,
    "two rows": lambda: torch.randn(2, 3, 8, 8),
    "forty equal rows": lambda: torch.ones(40, 3, 8, 8),
    "data": lambda: 3 + torch.randn(40, 3, 8, 8),
}


def stale(model: nn.Module) -> nn.Module:
    """The statistics of an ordinary network that is not trained: mean 0, variance 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return model


@torch.no_grad()
def sizes(model: nn.Module, *inputs: Tensor) -> list[float]:
    """The largest output on each batch, in eval mode."""
    return [float(model.eval()(x).abs().max()) for x in inputs]


@pytest.mark.parametrize(
    ("init", "example"), [*((None, name) for name in EXAMPLES), ("identity", "two rows"), ("paper", "one row of zeros")]
)
def test_a_converted_network_can_be_evaluated_at_once(init: str | None, example: str) -> None:
    torch.manual_seed(0)
    given = EXAMPLES[example]()
    ioc = cx.convexify(deep(), given, init=init)
    probes = [given, IMAGE, torch.randn(16, 3, 8, 8), torch.randn(16, 3, 1, 1).expand(-1, -1, 8, 8)]
    assert max(sizes(ioc, *probes)) < 1e5
    if init != "identity":
        fresh = max(sizes(ioc, *probes))
        assert max(sizes(stale(ioc), *probes)) > 1e4 * fresh, "nothing was tested"


def test_on_data_they_are_those_of_the_data() -> None:
    torch.manual_seed(1)
    data = 2 + torch.randn(64, 3, 8, 8)
    ioc = cx.convexify(deep(4), data)
    found = {name: buffer.clone() for name, buffer in ioc.named_buffers()}
    update_bn([data], ioc.train())
    for name, buffer in ioc.named_buffers():
        torch.testing.assert_close(found[name], buffer, rtol=1e-3, atol=1e-4)


class Branches(nn.Module):
    """Two branches of the image: a free one, and one whose second layer is constrained. Each with a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.first, self.second = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 6)
        self.free_norm, self.first_norm, self.second_norm = (nn.BatchNorm1d(6) for _ in range(3))
        self.act, self.head = nn.ReLU(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        one = self.free_norm(self.free(x))
        other = self.second_norm(self.second(self.act(self.first_norm(self.first(x)))))
        return self.head(self.act(one) + other)


def trained() -> Branches:
    """Statistics and counts as of a training."""
    torch.manual_seed(2)
    model = Branches()
    for name, norm in model.named_modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.running_mean.normal_()  # type: ignore[union-attr]
            norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
            norm.num_batches_tracked.fill_(1000)  # type: ignore[union-attr]
            norm.momentum = 0.05 if name == "second_norm" else 0.1
    return model


@pytest.mark.parametrize("example", [torch.zeros(1, 4), torch.randn(30, 4)], ids=["zeros", "data"])
def test_only_what_sees_something_else_gets_new_ones(example: Tensor) -> None:
    model = trained()
    ioc = cx.convexify(model, example, activation="relu")
    for name in ("free_norm", "first_norm", "second_norm"):
        old, new = (dict(m.get_submodule(name).named_buffers()) for m in (model, ioc))
        kept = all(torch.equal(old[key], new[key]) for key in old)
        assert kept == (name != "second_norm"), name
    second = ioc.get_submodule("second_norm")
    assert isinstance(second, nn.BatchNorm1d)
    assert second.momentum == 0.05
    assert second.training
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), trained().buffers(), strict=True))


def test_nothing_changed_means_nothing_new() -> None:
    once = cx.convexify(trained(), torch.zeros(1, 4), method="clip")
    again = cx.convexify(once, torch.randn(50, 4), method="clip")
    assert all(torch.equal(a, b) for a, b in zip(once.buffers(), again.buffers(), strict=True))


def test_a_conversion_draws_no_random_numbers_of_the_callers() -> None:
    state = torch.get_rng_state()
    first = cx.convexify(trained(), torch.zeros(1, 4))
    again = torch.random.get_rng_state()
    torch.set_rng_state(state)
    trained()
    assert torch.equal(torch.get_rng_state(), again)
    second = cx.convexify(trained(), torch.zeros(1, 4))
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))


def test_norms_that_are_new_have_statistics_too() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
    tokens = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
    for model, example in ((net, torch.zeros(1, 4)), (tokens, torch.zeros(1, 5, 4))):
        norm = cx.convexify(model, example)[1]
        assert isinstance(norm, (nn.BatchNorm1d, BatchNormAlong))
        assert not bool((norm.running_var == 1).any())
    part = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), net)
    norm = cx.convexify(part, torch.zeros(1, 4), only="2").get_submodule("2.1")
    assert not bool((norm.running_var == 1).any())


class Whole(nn.Module):
    """Whole numbers in: there is no noise of their kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.net = nn.Embedding(5, 4), nn.Linear(4, 4), Branches()

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        return self.net(self.first(x) + self.embed(words).mean(1))


class TwoRowsOnly(Branches):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) != 2:
            raise AssertionError("written for two rows")
        return super().forward(x)


def test_inputs_that_are_no_real_numbers_and_forwards_that_fail() -> None:
    ioc = cx.convexify(Whole(), (torch.zeros(1, 4), torch.zeros(1, 3, dtype=torch.int64)), wrt=0)
    assert cx.certify(ioc, (torch.zeros(1, 4), torch.zeros(1, 3, dtype=torch.int64)), wrt=0).convex
    assert not bool((ioc.get_submodule("net.second_norm").running_var == 1).any())  # type: ignore[union-attr]
    kept = cx.convexify(TwoRowsOnly(), torch.zeros(2, 4))
    assert bool((kept.get_submodule("second_norm").running_var == 1).all())  # type: ignore[union-attr]


# --- what is said ----------------------------------------------------------------------------------------------------


@pytest.fixture
def said() -> Callable[..., list[str]]:
    """What converting a model warns of."""

    def convert(model: nn.Module, example: Tensor, **settings: object) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cx.convexify(model, example, **settings)  # type: ignore[arg-type]
        assert all(each.filename == __file__ for each in caught)
        return [str(each.message) for each in caught if issubclass(each.category, UserWarning)]

    return convert


def test_the_warning_says_whose_statistics_and_what_to_call(said: Callable[..., list[str]]) -> None:
    (noise,) = said(trained(), torch.zeros(1, 4))
    assert "1 BatchNorm behind them has the statistics of random inputs" in noise
    assert "torch.optim.swa_utils.update_bn(loader, model)" in noise
    (data,) = said(deep(3), EXAMPLES["data"]())
    assert "3 BatchNorms behind them have the statistics of the example" in data
    (plain,) = said(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 4))
    assert "BatchNorm" not in plain


def test_a_network_that_overflows_is_named_with_a_remedy_that_helps(said: Callable[..., list[str]]) -> None:
    torch.manual_seed(0)
    net = deep(30, 32, norm=False)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(8.0)
    lines = said(net, IMAGE, method="absolute")
    assert len(lines) == 2
    assert "overflows, first in " in lines[1]
    first = lines[1].split("first in ")[1].split(":")[0]
    ioc = cx_quietly(net, method="absolute")
    results: list[tuple[str, bool]] = []
    for name, module in ioc.named_children():
        module.register_forward_hook(lambda _, __, y, name=name: results.append((name, bool(y.isfinite().all()))))
    with torch.no_grad():
        ioc.eval()(probe_of((IMAGE,)).inputs[0][:8])
    assert next(name for name, fine in results if not fine) == first
    for init in ("identity", "lognormal"):
        assert init in lines[1]
        assert len(said(net, IMAGE, method="clip", init=init)) == 1


def cx_quietly(net: nn.Module, **settings: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cx.convexify(net, IMAGE, **settings)  # type: ignore[arg-type]


# --- why averages lag ------------------------------------------------------------------------------------------------


@torch.no_grad()
def response(model: nn.Module, x: Tensor) -> tuple[float, float]:
    """How far the input of the last norm moves, in its deviations, if every output of the first moves by a tenth.

    The mean over units of the size, and the size of the mean: equal where all move the same way.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    update_bn([x], model.train())
    means: list[Tensor] = []
    hook = norms[-1].register_forward_pre_hook(lambda _, args: means.append(args[0].mean((0, 2, 3))))
    model.eval()(x)
    norms[0].bias.add_(0.1)
    model(x)
    hook.remove()
    variance = norms[-1].running_var
    assert variance is not None
    moved = (means[1] - means[0]) / variance.sqrt()
    return float(moved.abs().mean()), float(moved.mean().abs())


def test_weights_of_one_sign_add_up_what_is_off() -> None:
    """A small error of one norm's mean grows in a convex network, and not in an ordinary one of the same layers."""
    torch.manual_seed(4)
    x = torch.randn(64, 3, 8, 8)
    ordinary, _ = response(deep(10), x)
    size, common = response(cx_quietly(deep(10), method="clip", init="identity"), x)
    assert size == pytest.approx(common)  # all the same way
    assert size > 5 * ordinary


def test_the_probe_is_the_same_every_time_and_summaries_tell_inputs_apart() -> None:
    one, other = probe_of((IMAGE,)), probe_of((IMAGE,))
    assert torch.equal(one.inputs[0], other.inputs[0])
    assert abs(float(one.inputs[0].mean())) < 0.1
    assert float(one.inputs[0].var()) == pytest.approx(1.0, rel=0.2)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    probe = probe_of((torch.zeros(1, 4),))
    before = inputs_of_norms(net, probe)
    with torch.no_grad():
        net[0].weight[[0, 1]] = net[0].weight[[1, 0]]  # two units change places: sums alone would not tell
        net[0].bias[[0, 1]] = net[0].bias[[1, 0]]
    assert inputs_of_norms(net, probe) != before
