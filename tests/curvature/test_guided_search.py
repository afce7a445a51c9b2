"""The guided search finds what random chords do not: rare violations, through every nonlinearity that can be opened."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from benchmarks.workload.rare import ARCHITECTURES, SEEDS, example, networks
from convexnet.curvature.adversary.chords import Chords
from convexnet.curvature.adversary.falsify import guided_chords
from convexnet.curvature.adversary.guided_search import Guided
from convexnet.curvature.adversary.kink_table import OPENINGS
from tests.curvature.test_falsify import confirmed
from tests.modules import Function

LEAST = 35


def test_rare_violations() -> None:
    """Forty-eight networks, each with a known violation, at the default budget."""
    missed: list[tuple[str, int]] = []
    for architecture, seeds in SEEDS.items():
        for seed in seeds:
            _, broken = networks(architecture, seed)
            found = cx.falsify(broken, example(architecture))
            if found is None:
                missed.append((architecture, seed))
            else:
                confirmed(broken, found)
    total = sum(map(len, SEEDS.values()))
    assert total == 48
    assert total - len(missed) >= LEAST, f"no violation found in {missed}"


def test_none_in_convex_networks_of_the_same_architectures() -> None:
    for architecture, seeds in SEEDS.items():
        for seed in seeds:
            convex, _ = networks(architecture, seed)
            assert cx.falsify(convex, example(architecture), budget=3_000) is None, (architecture, seed)
    for architecture in ARCHITECTURES:
        assert cx.certify(networks(architecture, SEEDS[architecture][0])[0], example(architecture)).convex


def triangle(x: Tensor) -> Tensor:
    """.6|x| with three ReLUs, of which two are kinked at once."""
    return 0.6 * (F.relu(x) + F.relu(-x)) + 0.5 * F.relu(x) - 0.5 * F.relu(x)


def negative_but_convex(x: Tensor) -> Tensor:
    """A unit with a negative weight whose result is made up for wherever it is kinked."""
    h = F.relu(x)
    return (3 * h + F.relu(h - 1)).sum(1) - h[:, 0] - 0.5 * F.relu(h[:, 1] - 1)


CONVEX: dict[str, Callable[[Tensor], Tensor]] = {
    "2 relu - relu": lambda x: 2 * F.relu(x) - F.relu(x),
    "three units kinked at once": triangle,
    "negative weights": negative_but_convex,
    "max of max": lambda x: 2 * x.amax(1) - torch.maximum(x[:, 0], x[:, 1:].amax(1)),
    "hardtanh made up for": lambda x: F.hardtanh(x) + F.relu(x - 1) * 1.5,
    "abs from a square root": lambda x: x.square().sqrt(),
    "log-sum-exp by hand": lambda x: (x - x.amax(1, keepdim=True)).exp().sum(1).log() + x.amax(1),
    "softplus less its relu": lambda x: 2 * F.softplus(x) - F.relu(x) + F.relu(x),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=1),
    "large terms that cancel": lambda x: (x.abs() + 1e9) - 1e9,
    "an affine function with large terms": lambda x: (x + 1e10) - 1e10,
    "large products that cancel": lambda x: (1e9 * x + x.square()) - 1e9 * x,
}


@pytest.mark.parametrize("name", CONVEX)
def test_no_false_alarm_where_signs_are_wrong_and_the_function_convex(name: str) -> None:
    assert cx.falsify(Function(CONVEX[name]), torch.zeros(2, 4), budget=12_000) is None


def deep(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Eight convex units whose kinks hide one that is bent the other way, 1e-3 as much."""
    generator = torch.Generator().manual_seed(5)
    directions = torch.randn(12, 6, generator=generator, dtype=torch.float64)

    def function(x: Tensor) -> Tensor:
        s = x.double() @ directions.T
        return F.relu(s[:, :11]).sum(1) - 1e-3 * activation(s[:, 11:]).reshape(len(x), -1).sum(1)

    return function


def pairs(x: Tensor) -> Tensor:
    return torch.stack([x, 0.4 - 0.3 * x], -1)


OPENED: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu_": lambda x: (1 * x).relu_(),
    "relu in place": lambda x: F.relu(1 * x, inplace=True),
    "aten.relu": torch.ops.aten.relu.default,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "rrelu": F.rrelu,
    "prelu": lambda x: F.prelu(x, torch.tensor([0.2], dtype=torch.float64)),
    "abs": torch.abs,
    "elu": F.elu,
    "celu": F.celu,
    "softplus": lambda x: F.softplus(x, beta=3.0),
    "hardtanh": F.hardtanh,
    "clamp": lambda x: x.clamp(min=-0.5),
    "clamp with a tensor": lambda x: torch.clamp(x, min=torch.full((1,), 0.3, dtype=torch.float64)),
    "clamp_min": lambda x: x.clamp_min(0.2),
    "threshold": lambda x: F.threshold(x, 0.1, 0.1),
    "softshrink": lambda x: F.softshrink(x, 0.2),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "maximum": lambda x: torch.maximum(x, 0.3 - x),
    "minimum": lambda x: -torch.minimum(x, 0.3 - x),
    "max": lambda x: pairs(x).max(-1).values,
    "amax": lambda x: pairs(x).amax(-1),
    "amin": lambda x: -pairs(x).amin(-1),
    "max_pool1d": lambda x: F.max_pool1d(pairs(x), 2),
    "max_pool2d": lambda x: F.max_pool2d(pairs(x)[:, None], (1, 2)),
    "max_pool2d with padding": lambda x: F.max_pool2d(pairs(x)[:, None], (1, 2), padding=(0, 1), stride=1),
    "max_pool2d, ceil": lambda x: F.max_pool2d(pairs(x)[:, None].repeat(1, 1, 1, 2)[..., :3], (1, 2), ceil_mode=True),
    "max_pool3d": lambda x: F.max_pool3d(pairs(x)[:, None, None], (1, 1, 2)),
    "adaptive_max_pool1d": lambda x: F.adaptive_max_pool1d(pairs(x), 1),
    "with indices": lambda x: F.max_pool1d(pairs(x), 2, return_indices=True)[0],
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "topk": lambda x: pairs(x).topk(1).values,
    "sort": lambda x: pairs(x).sort().values[..., 1],
    "relu of a transposed batch": lambda x: x.T.relu().T,
}


@pytest.mark.parametrize("name", OPENED)
def test_a_hidden_unit_is_found_through_every_kink(name: str) -> None:
    found = cx.falsify(Function(deep(OPENED[name])), torch.zeros(2, 6), budget=40_000)
    confirmed(Function(deep(OPENED[name])), found)
    guided = guided_chords(deep(OPENED[name]), [torch.zeros(2, 6)], [0], budget=40_000)
    assert guided is not None, "the guided search alone"


SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: getattr(torch, name) for name in (
        "exp", "exp2", "expm1", "square", "cosh", "sigmoid", "tanh", "erf", "atan", "asinh", "sinh", "sin", "cos")},
    **{name: getattr(F, name) for name in ("gelu", "silu", "mish", "softsign", "tanhshrink", "selu")},
    "log": lambda x: -(x.abs() + 1).log(),
    "log1p": lambda x: -x.square().log1p(),
    "logsigmoid": lambda x: -F.logsigmoid(x),
    "sqrt": lambda x: (x.square() + 1).sqrt(),
    "reciprocal": lambda x: (x.square() + 1).reciprocal(),
    "pow": lambda x: x**4,
    "product": lambda x: x * x.sin(),
    "quotient": lambda x: 1 / (1 + x.exp()),
}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_a_hidden_unit_is_found_through_smooth_functions(name: str) -> None:
    function = SMOOTH[name]
    found = guided_chords(deep(lambda x: function(0.3 * x)), [torch.zeros(2, 6)], [0], budget=40_000)
    assert found is not None


@pytest.mark.parametrize("cell", [False, True])
def test_a_recurrent_network_is_opened(cell: bool) -> None:
    torch.manual_seed(0)
    rnn: nn.Module = nn.RNNCell(3, 6, nonlinearity="relu") if cell else nn.RNN(3, 6, nonlinearity="relu")

    def function(x: Tensor) -> Tensor:
        if cell:
            h = x.new_zeros(len(x), 6)
            for step in x.unflatten(1, (4, 3)).unbind(1):
                h = rnn(step, h)
            return h.sum(1) - 1.003 * h[:, 2]
        return rnn(x.unflatten(1, (4, 3)).transpose(0, 1))[0][-1] @ x.new_tensor([1, 1, -3e-3, 1, 1, 1])

    with torch.no_grad():
        for name, weight in rnn.named_parameters():
            if "weight_hh" in name:
                weight.abs_()
    rnn.double()
    chords = Chords(function, [torch.zeros(2, 12)], [0], {}, 40_000, torch.Generator().manual_seed(0))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        Guided(chords).run()
    finally:
        torch.set_default_dtype(before)
    assert chords.best is not None


def test_inside_a_box_in_one_input_for_one_of_many_outputs() -> None:
    def function(u: Tensor, x: Tensor) -> Tensor:
        y = deep(torch.relu)(x)[:, None]
        return torch.cat([F.relu(x).sum(1, keepdim=True).expand(-1, 40), y + u[:, :1].exp()], 1)

    box = cx.Box(-torch.ones(6), torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, -1.0]))
    model = Function(function)
    found = cx.falsify(model, (torch.zeros(2, 1), torch.zeros(2, 6)), wrt=1, domain=box)
    assert found is not None
    assert found.output == 40
    for point in (*found.x, *found.y):
        assert bool(box.contains(point[None]).all())
        assert float(point[5]) == -1.0
    assert len(found.others) == 1


def test_what_cannot_be_opened_is_left_to_the_other_searches() -> None:
    class Closed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clamp(max=1.0)

        @staticmethod
        def backward(ctx: object, *gradients: Tensor) -> Tensor:
            raise RuntimeError("no derivative")

    model = Function(Closed.apply)
    confirmed(model, cx.falsify(model, torch.zeros(2, 2)))

    def branches(x: Tensor) -> Tensor:
        return -x.abs() if float(x.detach().sum()) > -1e9 else x

    confirmed(Function(branches), cx.falsify(Function(branches), torch.zeros(2, 2)))


def test_every_row_of_the_table_is_an_operator() -> None:
    places = (torch, Tensor, F, torch._C._nn, torch.linalg, torch._C._linalg, torch.ops.aten)  # pyright: ignore
    for name in OPENINGS:
        spelled = (name, f"_{name}", f"__{name}__")
        assert any(hasattr(place, spelling) for place in places for spelling in spelled), name
