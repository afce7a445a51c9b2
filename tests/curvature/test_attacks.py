"""Negative controls: models that are not convex, though almost, must be refused, and bad input must be named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from tests.modules import Function

ROW = torch.zeros(2, 4)
MASK = torch.tensor([True, False, True, False])


def refused(model: nn.Module | Callable[..., Any], example: Any = ROW, **keywords: Any) -> cx.Certificate:
    """The certificate of a model that must not get one."""
    module = model if isinstance(model, nn.Module) else Function(model)
    certificate = cx.certify(module, example, **keywords)
    assert not certificate.convex, str(certificate)
    assert certificate.findings
    with pytest.raises(cx.NotCertified):
        certificate.require()
    return certificate


def mlp() -> nn.Sequential:
    net = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)
    )
    with torch.no_grad():
        net[3].weight.abs_()
        net[6].weight.abs_()
        net[4].bias.fill_(1.0)  # no unit is dead whatever the sign of its scale: a constant 0 would hide the attack
    return net


# --- one number wrong ------------------------------------------------------------------------------------------------


def test_the_control_itself_is_certified() -> None:
    assert cx.certify(mlp(), ROW).convex


@pytest.mark.parametrize("path", ["3", "4", "6"])
@pytest.mark.parametrize("value", [-1.0, -1e-12, -1e-45])
def test_one_negative_number_is_enough(path: str, value: float) -> None:
    net = mlp()
    with torch.no_grad():
        net.get_submodule(path).weight.view(-1)[3] = value
    assert float(net.get_submodule(path).weight.detach().min()) < 0  # a denormal is kept, not flushed
    certificate = refused(net)
    assert path in {finding.path for finding in certificate.findings}
    assert certificate.scope == "at these weights"
    if value == -1.0:
        with torch.no_grad():  # or other units, which bend upwards, may make up for it
            net[6].weight[:, 0].mul_(0.1)
            net[6].weight[:, 3 if path == "4" else 0].add_(5.0 if path != "6" else 0.0)
        assert cx.falsify(net, torch.randn(8, 4), budget=60_000) is not None


def test_a_free_first_layer_is_no_attack() -> None:
    net = mlp()
    with torch.no_grad():
        net[0].weight.neg_()
        net[1].weight.neg_()
    assert cx.certify(net, ROW).convex


def test_one_negative_tap_of_a_convolution() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 1)
    )
    with torch.no_grad():
        for i in (2, 5):
            net[i].weight.abs_()
    example = torch.zeros(2, 2, 8, 8)
    assert cx.certify(net, example).convex
    with torch.no_grad():
        net[2].weight[3, 1, 2, 0] = -1e-12
    assert refused(net, example).findings[0].path == "2"


# --- operators that break it -----------------------------------------------------------------------------------------

INSERTED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "LayerNorm": (lambda: nn.LayerNorm(6), "layer_norm"),
    "RMSNorm": (lambda: nn.RMSNorm(6), "rms_norm"),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), "group_norm"),
    "SiLU": (nn.SiLU, "silu"),
    "GELU": (nn.GELU, "gelu"),
    "Tanh": (nn.Tanh, "tanh"),
    "Softmax": (lambda: nn.Softmax(1), "softmax"),
    "Softplus threshold": (lambda: nn.Softplus(threshold=1.0), "softplus"),
    "ReLU6": (nn.ReLU6, "relu6"),
    "decreasing": (lambda: Function(lambda x: F.softplus(-x)), "softplus"),
    "square": (lambda: Function(lambda x: (x - 1).square()), ""),
    "abs": (lambda: Function(lambda x: (x - 1).abs()), "abs"),
    "minimum": (lambda: Function(lambda x: x.amin(1, keepdim=True).expand(-1, 6)), "amin"),
    "gate": (lambda: Function(lambda x: x * torch.sigmoid(x)), ""),
    "root": (lambda: Function(lambda x: torch.sqrt(x + 1)), "sqrt"),
    "x - relu(x)": (lambda: Function(lambda x: x - 2 * torch.relu(x - 1)), "sub"),
}


@pytest.mark.parametrize("name", INSERTED)
def test_a_layer_inserted_after_the_first_nonlinearity(name: str) -> None:
    build, operator = INSERTED[name]
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), build(), nn.Linear(6, 2, bias=False))
    with torch.no_grad():
        net[3].weight.abs_().add_(0.1)
    certificate = refused(net)
    found = [finding for finding in certificate.findings if operator in finding.operator.replace("hardtanh", "relu6")]
    assert found, str(certificate)
    assert any(finding.path.startswith("2") for finding in found)
    if operator:
        assert cx.falsify(net, torch.randn(8, 4), budget=60_000) is not None


VIOLATED: dict[str, Callable[[Tensor], Any]] = {
    "concave": lambda x: -x.abs(),
    "x - 2|x|": lambda x: x - 2 * x.abs(),
    "product": lambda x: x[:, :1] * x[:, 1:],
    "quotient": lambda x: x[:, :1] / (1 + x[:, 1:].square()),
    "where(x > 0)": lambda x: torch.where(x > 0, -x, x),
    "where(x > 0), two slopes": lambda x: torch.where(x > 0, x, 2 * x),
    "index by x > 0": lambda x: x.masked_fill(x > 0, 0.0),
    "times (x > 0)": lambda x: -(x * (x > 0)),
    "gather argmin": lambda x: x.gather(1, x.argmin(1, keepdim=True)),
    "sort": lambda x: x.sort(1).values,
    "round": torch.round,
    "fmod": lambda x: x % 2,
    "where, constant mask": lambda x: torch.where(MASK, torch.relu(x), -0.5).sum(1, keepdim=True).square(),
    "masked_fill": lambda x: torch.relu(x).masked_fill(MASK, -0.5).sum(1, keepdim=True).square(),
    "pad with -1": lambda x: F.pad(torch.relu(x), (1, 0), value=-1.0).sum(1, keepdim=True).square(),
    "cast to int": lambda x: x.to(torch.int32).float(),
    "cast of a comparison": lambda x: -(x > 0.5).float(),
    "floor division": lambda x: torch.div(x, 2, rounding_mode="floor"),
    "sub of convex": lambda x: torch.relu(x) - F.softplus(x),
    "ln of convex": lambda x: (torch.relu(x) + 1).log(),
    "exp of concave": lambda x: (-x.abs()).exp(),
    "where, a jump": lambda x: torch.where(x > 0, x, 1 - x),
    "where, a leak too steep": lambda x: torch.where(x > 0, x, 1.125 * x),
    "a mask of a convex function": lambda x: x * (x > 0) - 2 * (x - 1) * (x > 1),
    "the second of topk": lambda x: x.topk(2, 1).values[:, 1:],
    "sort, falling weights": lambda x: x.sort(1).values @ torch.tensor([3.0, 2.0, 1.0, 0.0]).to(x),
    "cummin": lambda x: x.cummin(1).values,
    "diff of convex": lambda x: x.abs().diff(dim=1),
    "cross entropy of convex logits": lambda x: F.cross_entropy(
        x.abs(), torch.zeros(len(x), dtype=torch.int64), reduction="none"
    ),
    "huber of convex": lambda x: F.huber_loss(x.abs(), torch.ones_like(x), reduction="none"),
    "pool over an extra dimension": lambda x: pooled(x, F.max_pool2d),
    "mean over an extra dimension": lambda x: pooled(x, F.avg_pool2d),
}


def pooled(x: Tensor, pool: Callable[..., Tensor]) -> Tensor:
    """A 3-d tensor is a picture without batch: the pool runs over dim 1 too, where the second row is concave."""
    x = torch.cat([x[:, None], -torch.relu(x[:, None] + 0.5)], 1)
    return pool(x, (3, 1), stride=1, padding=(1, 0))[:, :1]


@pytest.mark.parametrize("name", VIOLATED)
def test_violations_are_refused_and_found(name: str) -> None:
    function = VIOLATED[name]
    refused(function)
    found = cx.falsify(Function(function), torch.randn(8, 4), budget=60_000)
    assert found is not None
    assert found.violation > 1e-8


@pytest.mark.parametrize("dtype", [torch.float16, torch.int32])
def test_bits_read_as_another_type(dtype: torch.dtype) -> None:
    refused(lambda x: x.view(dtype).float())


# --- in place --------------------------------------------------------------------------------------------------------


def through_a_view(x: Tensor) -> Tensor:
    y = x.relu()
    y[:, 0].neg_()
    return y


def read_later(x: Tensor) -> Tensor:
    y = x.relu()
    z = y.mul_(-1.0)
    return y + 0 * z


def through_a_piece(x: Tensor) -> Tensor:
    y = x.relu()
    first, _ = y.split(2, 1)
    first.neg_()
    return y


def overwritten_input(x: Tensor) -> Tensor:
    y = x.clone()
    z = torch.relu(y)
    y.copy_(-z)
    return y


def through_einsum(x: Tensor) -> Tensor:
    y = x.relu()
    torch.einsum("ij->ij", y).neg_()
    return y


def through_dropout(x: Tensor) -> Tensor:
    y = x.relu()
    F.dropout(y, 0.5, training=False).neg_()
    return y


def view_in_no_grad(x: Tensor) -> Tensor:
    y = x.relu()
    with torch.no_grad():
        y[:, 0].neg_()
    return y


def through_out(x: Tensor) -> Tensor:
    y = x.relu()
    torch.neg(y, out=y)
    return y


def through_strides(x: Tensor) -> Tensor:
    y = x.relu()
    y.as_strided((y.shape[0], 2), (4, 1)).neg_()
    return y


def through_expand(x: Tensor) -> Tensor:
    y = x.relu()
    y.unsqueeze(1).squeeze(1).T.neg_()
    return y


WRITES = [
    through_a_view, read_later, through_a_piece, overwritten_input, through_einsum, through_dropout, view_in_no_grad,
    through_out, through_strides, through_expand,
]  # fmt: skip


UNSEEN = [through_einsum, view_in_no_grad]


@pytest.mark.parametrize("function", WRITES, ids=lambda f: f.__name__)
def test_writes_in_place_are_seen(function: Callable[[Tensor], Tensor]) -> None:
    values = function(torch.tensor([[1.0, 1.0, 1.0, 1.0]]))
    assert float(values.detach().min()) == -1.0  # what PyTorch really does
    if function in UNSEEN:  # the traced program does not show what the write reaches
        with pytest.raises(cx.NotTraceable, match="writes in place"):
            cx.certify(Function(function), ROW)
    else:
        refused(function)


def test_harmless_writes_stay_certified() -> None:
    def harmless(x: Tensor) -> Tensor:
        y = x.abs()
        y[:, 0] = 0.0
        y[:, 1:3].mul_(2.0)
        y += torch.relu(x)
        return y.relu_()

    assert cx.certify(Function(harmless), ROW).convex


# --- the batch -------------------------------------------------------------------------------------------------------

MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: x + x.sum(0, keepdim=True),
    "sum over all": lambda x: torch.relu(x).sum(),
    "mean": lambda x: (x - x.mean(0)).abs(),
    "flip": lambda x: x.flip(0),
    "roll": lambda x: torch.relu(x).roll(1, 0),
    "first row": lambda x: x[:1].expand(2, 4) + x,
    "transpose": lambda x: x.T,
    "view": lambda x: torch.relu(x).view(4, 2),
    "max": lambda x: x - x.amax(0),
    "gram": lambda x: torch.relu(x) @ torch.ones(4, 2) @ torch.ones(2, 2) + x.sum(),
    "softmax over rows": lambda x: torch.softmax(x, 0),
    "batch statistics": lambda x: F.batch_norm(x, None, None, training=True),
}


@pytest.mark.parametrize("name", MIXING)
def test_samples_that_influence_each_other(name: str) -> None:
    refused(MIXING[name])


def test_the_finding_says_that_rows_are_mixed() -> None:
    (finding, *_) = refused(lambda x: (x - x.mean(0)).abs()).findings
    assert finding.operator == "aten.mean"
    assert "rows" in finding.reason


def test_batch_norm_without_running_statistics() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.ReLU())
    (finding, *_) = refused(net).findings
    assert finding.path == "1"
    assert "statistics of the batch" in finding.reason


# --- randomness ------------------------------------------------------------------------------------------------------

RANDOM: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.5, training=True),
    "feature dropout": lambda x: F.dropout1d(x[:, None], 0.5, training=True),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.5, training=True),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "rand": lambda x: torch.relu(x) + torch.rand(4),
    "rand_like": lambda x: torch.relu(x) * torch.rand_like(x),
    "normal": lambda x: x + torch.normal(0.0, 1.0, (4,)),
    "uniform_": lambda x: x * torch.empty(4).uniform_(),
    "bernoulli_": lambda x: torch.relu(x) * torch.zeros(4).bernoulli_(0.5),
    "randperm": lambda x: x[:, torch.randperm(4)],
    "randint": lambda x: x[:, torch.randint(0, 4, (3,))],
    "multinomial": lambda x: x[:, torch.multinomial(torch.ones(4), 2)],
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers(name: str) -> None:
    certificate = refused(RANDOM[name])
    assert any("random" in finding.reason for finding in certificate.findings)


# --- bad models and bad arguments ------------------------------------------------------------------------------------


def branch(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def test_forwards_that_no_program_can_express() -> None:
    with pytest.raises(cx.NotTraceable, match="branches on the values"):
        cx.certify(Function(branch), ROW)
    with pytest.raises(cx.NotTraceable, match="could not be traced"):
        cx.certify(nn.Linear(5, 1), ROW)
    with pytest.raises(cx.NotTraceable):
        cx.certify(Function(lambda x: torch.from_numpy(x.numpy() + 1)), ROW)
    try:  # a number read from the input: either no program, or a product of two
        refused(lambda x: x * x.sum().item())
    except cx.NotTraceable as error:
        assert "traced" in str(error)  # noqa: PT017


def test_lazy_modules_need_a_batch_first() -> None:
    net = nn.Sequential(nn.LazyLinear(3), nn.ReLU())
    with pytest.raises(cx.NotTraceable, match="lazy"):
        cx.certify(net, ROW)
    net(ROW)
    assert cx.certify(net, ROW).convex


BAD: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "complex": (torch.zeros(2, 4, dtype=torch.complex64), {}, TypeError, "complex"),
    "integer": (torch.zeros(2, 4, dtype=torch.long), {}, TypeError, "floating"),
    "bool": (torch.zeros(2, 4, dtype=torch.bool), {}, TypeError, "floating"),
    "empty batch": (torch.zeros(0, 4), {}, ValueError, "empty batch"),
    "no batch": (torch.zeros(()), {}, ValueError, "no batch dimension"),
    "mapping": ({"x": ROW}, {}, TypeError, "positional"),
    "no tensor": ("x", {}, TypeError, "tensor"),
    "empty tuple": ((), {}, ValueError, "empty"),
    "a number inside": ((ROW, 3), {}, TypeError, r"example\[1\]"),
    "unequal batches": ((ROW, torch.zeros(3, 4)), {}, ValueError, "batch comes first"),
    "sparse": (ROW.to_sparse(), {}, TypeError, "dense"),
    "wrt too large": (ROW, {"wrt": 1}, ValueError, "names input 1"),
    "wrt negative": (ROW, {"wrt": -1}, ValueError, "names input -1"),
    "wrt empty": (ROW, {"wrt": ()}, ValueError, "empty"),
    "wrt a name": (ROW, {"wrt": "x"}, TypeError, "input numbers"),
    "wrt an integer input": ((ROW, torch.zeros(2, 4, dtype=torch.long)), {"wrt": 1}, TypeError, "real inputs"),
    "box of another shape": (ROW, {"domain": cx.Box(0, 1, shape=(3,))}, ValueError, "shape"),
    "two boxes": (ROW, {"domain": [cx.Box(0, 1, shape=(4,))] * 2}, ValueError, "domain"),
    "no box": (ROW, {"domain": (0, 1)}, (TypeError, ValueError), "domain"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("search", [cx.certify, cx.falsify], ids=["certify", "falsify"])
def test_bad_arguments_are_named(name: str, search: Callable[..., Any]) -> None:
    example, keywords, error, words = BAD[name]
    with pytest.raises(error, match=words):
        search(Function(lambda *inputs: inputs[0] * 1), example, **keywords)


def test_a_function_is_no_module() -> None:
    with pytest.raises(TypeError, match="Module"):
        cx.certify(torch.relu, ROW)  # type: ignore[arg-type]


def test_boxes_are_checked() -> None:
    for arguments, words in (
        ((0, 1), "shape"),
        ((1, 0, (2,)), "empty"),
        ((float("nan"), 1, (2,)), "NaN"),
        (([0.0, 0.0], [1.0] * 3), "fit"),
    ):
        with pytest.raises(ValueError, match=words):
            cx.Box(*arguments)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(value: float) -> None:
    net = mlp()
    with torch.no_grad():
        net[3].weight[0, 0] = value
    certificate = refused(net)
    assert any(finding.path == "3" and "3.weight" in finding.reason for finding in certificate.findings)
    net = mlp()
    net[4].running_var[1] = value
    assert any("running_var" in finding.reason for finding in refused(net).findings)


def test_outputs_without_real_numbers() -> None:
    assert any("floating" in finding.reason for finding in refused(lambda x: x.argmax(1)).findings)
    assert any("floating" in finding.reason for finding in refused(lambda x: ()).findings)


@dataclass
class Answer:
    logits: Tensor


def test_a_dataclass_as_output() -> None:
    try:
        certificate = cx.certify(Function(lambda x: Answer(torch.tanh(x))), ROW)
    except cx.NotTraceable as error:
        assert "return tensors" in str(error) or "type" in str(error)  # noqa: PT017
    else:
        assert not certificate.convex


def test_an_operator_without_a_rule_is_named_and_refused() -> None:
    (finding, *_) = refused(lambda x: torch.special.i0(x)).findings
    assert "has no rule" in finding.reason
    assert "i0" in finding.operator


ZERO_TIMES_HOLE: dict[str, Callable[[Tensor], Tensor]] = {
    "a number": lambda x: 0 * (1 / x),
    "beside a square": lambda x: x**2 + 0 * torch.tan(x),
    "a tensor": lambda x: torch.zeros(4) * (1 / x),
    "a layer": lambda x: F.linear(1 / x, torch.zeros(1, 4)),
    "a quotient": lambda x: torch.zeros(4) / x,
    "a sum": lambda x: torch.add(x, 1 / x, alpha=0),
    "a product and a sum": lambda x: torch.addcmul(x, torch.zeros(4), 1 / x),
    "a quotient and a sum": lambda x: torch.addcdiv(x, torch.zeros(4), x, value=0),
    "a blend": lambda x: torch.lerp(x, 1 / x, 0.0),
    "what is flat": lambda x: F.relu(-(x.sin().sqrt())),
    "a root": lambda x: 0 * x.sqrt(),
    "a mask": lambda x: torch.where(torch.ones(4) > 0, 0 * (1 / x), x),
}


@pytest.mark.parametrize("name", ZERO_TIMES_HOLE)
def test_zero_times_what_is_not_defined(name: str) -> None:
    """The forward gives NaN in the midst of numbers: zero times infinity."""
    refused(ZERO_TIMES_HOLE[name])
