"""What `certify` proves, refuses and says: verdicts known from calculus, and the model as it was."""

from __future__ import annotations

import copy
import json
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

import convexnet as cx
from tests.modules import Function

ROW = torch.zeros(2, 4)


def verdict(function: Callable[..., Any] | nn.Module, example: Any = ROW, **keywords: Any) -> str:
    """The curvature, or "refused" beside it where it is not convex."""
    model = function if isinstance(function, nn.Module) else Function(function)
    certificate = cx.certify(model, example, **keywords)
    assert certificate.convex == (
        certificate.curvature in ("constant", "affine", "convex") and not certificate.findings
    )
    assert bool(certificate.findings) != certificate.convex, str(certificate)
    return certificate.curvature


def nonnegative(model: nn.Module, first: str = "0") -> nn.Module:
    """Every weight matrix but those under `first` made non-negative."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and not name.startswith(first):
                parameter.abs_()
    return model


# --- activations -----------------------------------------------------------------------------------------------------

# On an affine argument; on a convex one of either sign (LeakyReLU); on a convex one that is >= 0 (ReLU).
ACTIVATIONS: dict[str, tuple[nn.Module, str, str, str]] = {
    "ReLU": (nn.ReLU(), "convex", "convex", "convex"),
    "ReLU in place": (nn.ReLU(inplace=True), "convex", "convex", "convex"),
    "LeakyReLU": (nn.LeakyReLU(), "convex", "convex", "convex"),
    "LeakyReLU 0": (nn.LeakyReLU(0.0), "convex", "convex", "convex"),
    "LeakyReLU 1": (nn.LeakyReLU(1.0), "affine", "convex", "convex"),
    "LeakyReLU 1.5": (nn.LeakyReLU(1.5), "concave", "unknown", "convex"),
    "LeakyReLU -0.5": (nn.LeakyReLU(-0.5), "convex", "unknown", "convex"),
    "PReLU .25": (nn.PReLU(), "convex", "convex", "convex"),
    "PReLU 1.5": (nn.PReLU(init=1.5), "concave", "unknown", "convex"),
    "PReLU -.5": (nn.PReLU(init=-0.5), "convex", "unknown", "convex"),
    "RReLU": (nn.RReLU(), "convex", "convex", "convex"),
    "ELU": (nn.ELU(), "convex", "convex", "convex"),
    "ELU .3": (nn.ELU(0.3), "convex", "convex", "convex"),
    "ELU 1.5": (nn.ELU(1.5), "unknown", "unknown", "convex"),
    "CELU": (nn.CELU(3.0), "convex", "convex", "convex"),
    "SELU": (nn.SELU(), "unknown", "unknown", "convex"),
    "Softplus": (nn.Softplus(), "convex", "convex", "convex"),
    "Softplus beta": (nn.Softplus(beta=5.0), "convex", "convex", "convex"),
    "Softplus threshold": (nn.Softplus(threshold=1.0), "unknown", "unknown", "unknown"),
    "Threshold max": (nn.Threshold(0.5, 0.5), "convex", "convex", "convex"),
    "Threshold jump": (nn.Threshold(1.0, 0.0), "unknown", "unknown", "unknown"),
    "Identity": (nn.Identity(), "affine", "convex", "convex"),
    "Dropout": (nn.Dropout(), "affine", "convex", "convex"),
    "AlphaDropout": (nn.AlphaDropout(), "affine", "convex", "convex"),
    "GELU": (nn.GELU(), "unknown", "unknown", "unknown"),
    "GELU tanh": (nn.GELU("tanh"), "unknown", "unknown", "unknown"),
    "SiLU": (nn.SiLU(), "unknown", "unknown", "unknown"),
    "Mish": (nn.Mish(), "unknown", "unknown", "unknown"),
    "ReLU6": (nn.ReLU6(), "unknown", "unknown", "unknown"),
    "Hardtanh": (nn.Hardtanh(), "unknown", "unknown", "unknown"),
    "Hardswish": (nn.Hardswish(), "unknown", "unknown", "unknown"),
    "Hardsigmoid": (nn.Hardsigmoid(), "unknown", "unknown", "unknown"),
    "Sigmoid": (nn.Sigmoid(), "unknown", "unknown", "unknown"),
    "Tanh": (nn.Tanh(), "unknown", "unknown", "unknown"),
    "Softsign": (nn.Softsign(), "unknown", "unknown", "unknown"),
    "Tanhshrink": (nn.Tanhshrink(), "unknown", "unknown", "convex"),
    "Softshrink": (nn.Softshrink(), "unknown", "unknown", "convex"),
    "Hardshrink": (nn.Hardshrink(), "unknown", "unknown", "unknown"),
    "LogSigmoid": (nn.LogSigmoid(), "concave", "unknown", "unknown"),
    "LogSoftmax": (nn.LogSoftmax(1), "concave", "unknown", "unknown"),
    "Softmax": (nn.Softmax(1), "unknown", "unknown", "unknown"),
    "Softmin": (nn.Softmin(1), "unknown", "unknown", "unknown"),
    "GLU": (nn.GLU(1), "unknown", "unknown", "unknown"),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_gets_its_true_verdict(name: str) -> None:
    activation, *expected = ACTIVATIONS[name]
    found = [verdict(nn.Sequential(before, activation)) for before in (nn.Identity(), nn.LeakyReLU(), nn.ReLU())]
    assert found == expected


def test_every_activation_of_torch_is_in_the_list() -> None:
    listed = {type(row[0]) for row in ACTIVATIONS.values()}
    others = {nn.MultiheadAttention, nn.Softmax2d}
    modules = {getattr(nn.modules.activation, name) for name in nn.modules.activation.__all__}
    assert modules - others <= listed


# --- functions written by hand ---------------------------------------------------------------------------------------

BY_HAND: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "logsumexp": (lambda x: x.exp().sum(1).log(), "convex"),
    "logsumexp of relu": (lambda x: torch.relu(x).exp().mean(1).log(), "convex"),
    "stable logsumexp": (lambda x: torch.logsumexp(x, 1), "convex"),
    "norm 2": (lambda x: (x * x).sum(1).sqrt(), "convex"),
    "norm 2 with eps": (lambda x: torch.sqrt(x.square().sum(1) + 1e-6), "convex"),
    "norm 3": (lambda x: (x.abs() ** 3).sum(1) ** (1 / 3), "convex"),
    "norm 1": (lambda x: x.abs().sum(1), "convex"),
    "norm inf": (lambda x: x.abs().amax(1), "convex"),
    "norm .5": (lambda x: torch.linalg.vector_norm(x, 0.5, dim=1), "unknown"),
    "norm of norms": (lambda x: torch.stack([x[:, :2].norm(dim=1), x[:, 2:].norm(dim=1)], 1).norm(dim=1), "convex"),
    "root too high": (lambda x: (x * x).sum(1) ** 0.3, "unknown"),
    "range": (lambda x: x.amax(1) - x.amin(1), "convex"),
    "minus the minimum": (lambda x: -torch.minimum(x[:, 0], 2 * x[:, 1]), "convex"),
    "minimum": (lambda x: torch.minimum(x[:, 0], 2 * x[:, 1]), "concave"),
    "distance": (lambda x: torch.cdist(x[:, None], torch.ones(3, 4)[None])[:, 0], "convex"),
    "exp of square": (lambda x: x.square().exp(), "convex"),
    "square of abs": (lambda x: x.abs().square(), "convex"),
    "square of leaky": (lambda x: F.leaky_relu(x).square(), "unknown"),
    "product of exponentials": (lambda x: x.exp() * (2 * x).exp(), "convex"),
    "inverse of an exponential": (lambda x: 1 / x.exp(), "convex"),
    "inverse of convex": (lambda x: 1 / (1 + x.exp()), "unknown"),
    "constant": (lambda x: x * 0 + 3, "constant"),
    "mixed outputs": (lambda x: torch.cat([x.abs(), -x.abs()], 1), "unknown"),
    "sum of concave": (lambda x: -x.abs() - x.square(), "concave"),
    "huber": (lambda x: F.huber_loss(x, torch.zeros(4), reduction="none"), "convex"),
    "Bessel": (torch.i0, "unknown"),
    "softmax cross entropy": (lambda x: torch.logsumexp(x, 1) - x[:, 0], "convex"),
    "variance": (lambda x: x.var(1), "convex"),
    "clamp above zero": (lambda x: x.clamp(min=0.0), "convex"),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_functions_written_by_hand(name: str) -> None:
    function, expected = BY_HAND[name]
    if name == "Bessel":  # no rule: refused, never assumed fine, though it is convex
        assert not cx.certify(Function(function), ROW).convex
        return
    assert verdict(function) == expected


@pytest.mark.parametrize(
    ("function", "low", "high", "expected"),
    [
        (F.silu, -1, 1, "convex"),
        (F.silu, -3, 1, "unknown"),
        (F.silu, 3, 5, "concave"),
        (lambda x: F.silu(torch.relu(x)), -1, 2, "convex"),
        (lambda x: torch.relu(x).square(), -math.inf, math.inf, "convex"),
        (lambda x: (x + 1.5).pow(3), -1, 5, "convex"),
        (lambda x: x.pow(3), -1, 5, "unknown"),
        (torch.log, 1, 2, "concave"),
        (lambda x: -x.log(), 1, 2, "convex"),
        (lambda x: -x.log(), 0.5, math.inf, "convex"),
        (lambda x: -x.log(), -1, 2, "unknown"),
        (torch.reciprocal, 0.5, 2, "convex"),
        (torch.reciprocal, -2, -0.5, "concave"),
        (torch.reciprocal, -1, 1, "unknown"),
        (torch.sigmoid, -5, 0, "convex"),
        (torch.sigmoid, 0, 5, "concave"),
        (F.relu6, -1, 6, "convex"),
        (F.relu6, -1, 6.1, "unknown"),
        (lambda x: x.abs(), 0, 1, "affine"),
        (lambda x: x * x.sum(1, keepdim=True), 0, 1, "unknown"),
        (lambda x: x.log() * x, 1, 2, "convex"),
        (lambda x: x.log() * x, -1, 2, "unknown"),
        (lambda x: torch.relu(x - 3), -1, 2, "constant"),
    ],
)
def test_a_domain_decides(function: Callable[[Tensor], Tensor], low: float, high: float, expected: str) -> None:
    assert verdict(function, domain=cx.Box(low, high, shape=(4,))) == expected


def test_the_domain_is_named_in_the_certificate() -> None:
    certificate = cx.certify(nn.SiLU(), ROW, domain=cx.Box(-1, 1, shape=(4,)))
    assert certificate.domain == "input 0 in [-1, 1]"
    assert certificate.domain in str(certificate)


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        (lambda x: torch.relu(x.reciprocal() - 2), -1.0, 1.0),
        (lambda x: torch.relu(x.pow(-2) - 4), -1.0, 1.0),
        (lambda x: torch.relu(1 / x - 2), -1.0, 1.0),
        (lambda x: torch.relu(x.sin() - 0.5), 0.0, math.pi),
        (lambda x: torch.relu(-0.5 - x.cos()), 0.0, 2 * math.pi),
        (lambda x: torch.relu(1.2 - F.softplus(x, threshold=1.0)), 1.0, 2.0),
    ],
    ids=["reciprocal", "pow -2", "division", "sin", "cos", "softplus threshold"],
)
def test_bounds_of_a_function_that_turns_between_the_ends(
    function: Callable[[Tensor], Tensor], low: float, high: float
) -> None:
    # taken for [f(low), f(high)], the relu would always be off, and the result constant
    assert verdict(function, domain=cx.Box(low, high, shape=(4,))) == "unknown"


# --- scope -----------------------------------------------------------------------------------------------------------


class Parametrised(nn.Module):
    """A convex function of its input for every value of its parameter, if `positive` maps into the non-negative."""

    def __init__(self, positive: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.raw = nn.Parameter(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)))
        self.positive = positive

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.softplus(self.first(x)), self.positive(self.raw))


@pytest.mark.parametrize(
    "positive",
    [F.softplus, torch.exp, torch.square, torch.relu, torch.abs, torch.sigmoid,
     lambda v: v.clamp(min=0.0), lambda v: v * v,
     lambda v: torch.softmax(v, 1)],
    ids=["softplus", "exp", "square", "relu", "abs", "sigmoid", "clamp", "v*v", "softmax"],
)  # fmt: skip
def test_positive_parametrisations_hold_for_all_parameters(positive: Callable[[Tensor], Tensor], request: Any) -> None:
    certificate = cx.certify(Parametrised(positive), ROW)
    # the sign of softmax of an unknown parameter is not derived: sufficient, not necessary
    allowed = (
        {"for all parameters"} if request.node.callspec.id != "softmax" else {"for all parameters", "at these weights"}
    )
    assert certificate.convex
    assert certificate.scope in allowed


@pytest.mark.parametrize(
    "bad", [torch.tanh, lambda v: v, lambda v: -F.softplus(v), lambda v: F.softplus(v) - 1.0, torch.sin]
)
def test_other_parametrisations_are_read_at_their_weights(bad: Callable[[Tensor], Tensor]) -> None:
    certificate = cx.certify(Parametrised(bad), ROW)
    assert (certificate.convex, certificate.scope) == (False, "at these weights")


def test_torch_parametrisations() -> None:
    class Exp(nn.Module):
        def forward(self, raw: Tensor) -> Tensor:
            return raw.exp()

    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    parametrize.register_parametrization(net[2], "weight", Exp())
    assert cx.certify(net, ROW).scope == "for all parameters"
    first = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU())
    assert cx.certify(first, ROW).scope == "for all parameters"
    later = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), parametrizations.weight_norm(nn.Linear(4, 4)))
    assert not cx.certify(later, ROW).convex
    with torch.no_grad():
        later[2].parametrizations.weight.original1.abs_()
    certificate = cx.certify(later, ROW)
    assert (certificate.convex, certificate.scope) == (True, "at these weights")


def test_a_frozen_parameter_is_still_a_parameter_and_a_buffer_is_known() -> None:
    net = nonnegative(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))).requires_grad_(False)
    assert cx.certify(net, ROW).scope == "at these weights"
    norm = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4, affine=False))
    assert cx.certify(norm, ROW).scope == "for all parameters"
    assert cx.certify(nn.ReLU(), ROW).scope == "for all parameters"


# --- architectures ---------------------------------------------------------------------------------------------------


class PICNN(nn.Module):
    """SPEC, section 4: u on x, and z convex in y, with only W^(z) non-negative."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.wu, self.wz_u = nn.Linear(3, width), nn.Linear(width, width)
        self.wy_u = nn.ModuleList([nn.Linear(3, 4), nn.Linear(width, 4)])
        self.wy = nn.ModuleList([nn.Linear(4, width, bias=False), nn.Linear(4, 1, bias=False)])
        self.wu_ = nn.ModuleList([nn.Linear(3, width), nn.Linear(width, 1)])
        self.raw = nn.Parameter(torch.randn(1, width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        u = torch.tanh(self.wu(x))
        z = F.softplus(self.wy[0](y * self.wy_u[0](x)) + self.wu_[0](x))
        gate = torch.relu(self.wz_u(u))
        return F.linear(z * gate, F.softplus(self.raw)) + self.wy[1](y * self.wy_u[1](u)) + self.wu_[1](u)


def test_partial_convexity_holds_for_all_parameters_and_jointly_it_is_refused() -> None:
    model, example = PICNN(), (torch.zeros(2, 3), torch.zeros(2, 4))
    certificate = cx.certify(model, example, wrt=1)
    assert (certificate.convex, certificate.curvature, certificate.scope) == (True, "convex", "for all parameters")
    assert certificate.wrt == (1,)
    assert "input 1" in certificate.headline()
    assert not cx.certify(model, example).convex
    assert not cx.certify(model, example, wrt=0).convex
    assert cx.certify(model, example, wrt=[1]).convex


def test_an_integer_input_is_a_parameter() -> None:
    class Labelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 4)

        def forward(self, label: Tensor, x: Tensor) -> Tensor:
            return torch.relu(x) + self.table(label) * x

    certificate = cx.certify(Labelled(), (torch.zeros(2, dtype=torch.long), ROW))
    assert certificate.wrt == (1,)
    # An embedding has no rule yet: refused or proved, but never by assuming its product with relu(x) is fine
    assert certificate.convex or any("embedding" in f.operator for f in certificate.findings)


class Concatenation(nn.Module):
    """The input beside a hidden layer, as in DenseNet: columns 0-2 of `last` meet convex elements, 3-6 affine ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([torch.relu(self.first(x)), x], 1))


def test_a_concatenation_is_judged_column_by_column() -> None:
    model = Concatenation()
    with torch.no_grad():
        model.last.weight[:, :3].abs_()
        model.last.weight[:, 3:].copy_(-torch.rand(2, 4) - 0.1)
    assert cx.certify(model, ROW).convex
    with torch.no_grad():
        model.last.weight[1, 2] = -0.01
    certificate = cx.certify(model, ROW)
    assert not certificate.convex
    assert "last" in {finding.path for finding in certificate.findings}


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ELU(),
            nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(x + self.body(x))


class Dense(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(channels), nn.Conv2d(channels, 2, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


def pictures(block: Callable[[int], nn.Module], channels: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, channels, 3, stride=2), act=nn.ReLU(inplace=True), block=block(channels),
            pool=nn.MaxPool2d(2), up=nn.Upsample(scale_factor=2, mode="bilinear"), mean=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(), head=nn.Linear(after, 2),
        )
    )  # fmt: skip


@pytest.mark.parametrize(("block", "after"), [(Residual, 4), (Dense, 6)])
def test_small_residual_and_dense_networks(block: Callable[[int], nn.Module], after: int) -> None:
    model = nonnegative(pictures(block, 4, after), first="stem")
    certificate = cx.certify(model, torch.zeros(2, 3, 8, 8))
    assert certificate.convex, str(certificate)
    assert cx.falsify(model, torch.zeros(2, 3, 8, 8), budget=3_000) is None


def test_recurrent_network_and_lp_pooling() -> None:
    class Recurrent(nn.Module):
        def __init__(self, bidirectional: bool) -> None:
            super().__init__()
            self.rnn = nn.RNN(4, 3, num_layers=2, nonlinearity="relu", batch_first=True, bidirectional=bidirectional)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0]

    for bidirectional in (False, True):
        model, example = Recurrent(bidirectional), torch.zeros(2, 3, 4)
        with torch.no_grad():
            for name, parameter in model.rnn.named_parameters():
                if "weight_hh" in name or "weight_ih_l1" in name:
                    parameter.abs_()
        assert cx.certify(model, example).convex
        with torch.no_grad():
            model.rnn.weight_hh_l0[0, 1] = -0.1
        assert not cx.certify(model, example).convex
    assert verdict(nn.LPPool1d(2, 2), torch.zeros(2, 1, 4)) == "convex"
    assert verdict(nn.Sequential(nn.ReLU(), nn.LPPool2d(2, 2)), torch.zeros(2, 1, 4, 4)) == "convex"


def test_shared_modules() -> None:
    shared = nn.Linear(4, 4)
    with torch.no_grad():
        shared.weight.abs_()
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), shared)
    assert cx.certify(model, ROW).convex


# --- outputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: {"a": x.abs(), "b": {"c": x}}, {"output['a']": "convex", "output['b']['c']": "affine"}),
        (lambda x: [x.abs(), x], {"output[0]": "convex", "output[1]": "affine"}),
        (lambda x: (x.abs(), [x * 0, x.argmax(1)]), {"output[0]": "convex", "output[1][0]": "constant"}),
        (lambda x: (x.abs(), None, 3), {"output[0]": "convex"}),
        (lambda x: x.abs(), {"output": "convex"}),
    ],
)
def test_outputs_are_named_as_a_user_would_write_them(
    function: Callable[[Tensor], Any], expected: dict[str, str]
) -> None:
    certificate = cx.certify(Function(function), ROW)
    assert certificate.outputs == expected
    assert certificate.convex


def test_chunks_and_single_pieces() -> None:
    for function in (
        lambda x: x.abs().chunk(1, 1)[0],
        lambda x: x.abs().split(4, 1)[0],
        lambda x: x[:, :1].unbind(1)[0],
    ):
        assert verdict(function) in ("convex", "affine")


def test_one_bad_output_is_enough() -> None:
    certificate = cx.certify(Function(lambda x: (x.abs(), -x.abs(), torch.tanh(x))), ROW)
    assert certificate.outputs == {"output[0]": "convex", "output[1]": "concave", "output[2]": "unknown"}
    assert not certificate.convex
    assert certificate.curvature == "unknown"
    assert {finding.operator for finding in certificate.findings} >= {"aten.tanh"}
    with pytest.raises(cx.NotCertified) as raised:
        certificate.require()
    told = " ".join(str(raised.value).split())  # wrapped
    assert all(finding.reason in told for finding in certificate.findings)


def test_the_certificate_as_text_and_json() -> None:
    model = nn.Sequential(OrderedDict(first=nn.Linear(4, 4), act=nn.SiLU(), last=nn.Linear(4, 1)))
    certificate = cx.certify(model, ROW)
    text = str(certificate)
    (finding,) = certificate.findings
    assert (finding.path, finding.operator, finding.argument) == ("act", "aten.silu", "affine")
    assert "act: aten.silu" in text
    assert " ".join(finding.reason.split()[:6]) in " ".join(text.split())
    assert finding.remedy.split(",")[0] in " ".join(text.split())
    assert text.startswith("NOT CERTIFIED")
    data = json.loads(certificate.to_json())
    assert data["convex"] is False
    assert data["findings"][0]["path"] == "act"
    assert data["outputs"] == {"output": "unknown"}
    fields = {k: v for k, v in data.items() if k != "format"}
    assert fields == json.loads(json.dumps({k: getattr_plain(certificate, k) for k in fields}))
    assert not certificate
    good = cx.certify(nn.Linear(4, 1), ROW)
    assert good
    assert good.require() is good
    assert json.loads(good.to_json())["curvature"] == "affine"


def getattr_plain(certificate: cx.Certificate, name: str) -> Any:
    from dataclasses import asdict

    return asdict(certificate)[name]


def test_the_same_certificate_every_time() -> None:
    model = Concatenation()
    assert cx.certify(model, ROW).to_json() == cx.certify(model, torch.randn(5, 4)).to_json()
    assert cx.certify(model, torch.randn(1, 4)).to_json() == cx.certify(model, ROW).to_json()


# --- the model stays as it was ---------------------------------------------------------------------------------------


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls, self.cache = 0, {}
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x
        return torch.relu(self.norm(x))


def test_the_model_is_left_untouched() -> None:
    model = nn.Sequential(Counting(), nn.Dropout(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[0].eval()
    model[1].train()
    model[2].eval()
    model[0].norm.train()
    model[3].weight.grad = torch.ones_like(model[3].weight)
    flags = {name: module.training for name, module in model.named_modules()}
    state = copy.deepcopy(model.state_dict())
    attributes = {name: set(module.__dict__) for name, module in model.named_modules()}
    parameters = [id(p) for p in model.parameters()]
    example = torch.randn(3, 4, requires_grad=True)
    before = example.detach().clone()
    random_state, grad_mode = torch.get_rng_state(), torch.is_grad_enabled()
    cx.certify(model, example)
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == attributes
    assert [id(p) for p in model.parameters()] == parameters
    assert model[0].calls == 0
    assert not hasattr(model[0], "last")
    assert torch.equal(model[3].weight.grad, torch.ones_like(model[3].weight))
    assert example.grad is None
    assert torch.equal(example.detach(), before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.is_grad_enabled() == grad_mode


def test_flags_are_restored_after_a_failure_too() -> None:
    def fail(x: Tensor) -> Tensor:
        raise KeyError("missing")

    model = nn.Sequential(nn.Dropout(), Function(fail))
    model[0].eval()
    with pytest.raises(cx.NotTraceable, match="missing"):
        cx.certify(model, ROW)
    assert [module.training for module in model] == [False, True]


def test_wrappers_and_hooks() -> None:
    net = nonnegative(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)))
    assert cx.certify(torch.compile(net, backend="eager"), ROW).convex
    assert cx.certify(nn.DataParallel(net), ROW).convex
    net[1].register_forward_hook(lambda module, inputs, output: -output)
    certificate = cx.certify(net, ROW)
    assert certificate.curvature == "concave"
    assert not certificate.convex


def test_grad_modes_and_autocast_regions_are_walked() -> None:
    def quiet(x: Tensor) -> Tensor:
        with torch.no_grad():
            y = torch.relu(x)
        return y + 1

    def half(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return torch.tanh(x)

    assert verdict(quiet) == "convex"
    assert verdict(half) == "unknown"
    with torch.no_grad():
        assert verdict(torch.abs) == "convex"
    with torch.inference_mode():
        assert verdict(nn.Sequential(nn.Linear(4, 2), nn.ReLU())) == "convex"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_any_floating_type(dtype: torch.dtype) -> None:
    net = nonnegative(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))).to(dtype)
    assert cx.certify(net, ROW.to(dtype)).convex
    with torch.no_grad():
        net[3].weight[0, 2] = -net[3].weight[0, 2].abs() - 0.001
    assert not cx.certify(net, ROW.to(dtype)).convex


def test_bounds_at_the_border_of_a_padded_convolution() -> None:
    def border(x: Tensor) -> Tensor:
        return torch.relu(F.conv1d(x[:, None], torch.ones(1, 1, 2), padding=1) + 1.5)

    box = cx.Box([-3.0, -2.0, -1.5], [-1.0, -1.0, -1.0])  # the outer taps reach -1, so the sums are not all below -1.5
    certificate = cx.certify(Function(border), torch.zeros(2, 3), domain=box)
    assert (certificate.convex, certificate.curvature) == (True, "convex")
    assert verdict(lambda x: -border(x), torch.zeros(2, 3), domain=box) == "concave"


def test_functions_of_a_row_by_vmap() -> None:
    layer = nonnegative(nn.Linear(4, 3), first="none")

    def relued(row: Tensor) -> Tensor:
        row = layer(row) * 1
        return row.relu_()

    assert verdict(lambda x: torch.vmap(lambda row: row.norm()[None])(x)) == "convex"
    assert verdict(lambda x: torch.vmap(relued)(x.abs())) == "convex"
    assert verdict(lambda x: torch.vmap(torch.vmap(torch.exp))(x)) == "convex"
    assert verdict(lambda x: torch.vmap(lambda row: row @ torch.eye(4) @ row)(x)) == "convex"
    assert verdict(lambda x: -torch.vmap(lambda row: row.square().sum())(x)) == "concave"
    assert verdict(lambda x: torch.vmap(lambda row: row.relu() * row)(x)) == "unknown"


def test_a_function_that_is_of_no_module() -> None:
    function = eval("lambda x: x.abs()", {"__name__": None})
    assert function.__module__ is None
    assert verdict(function) == "convex"


def test_a_scale_multiplies_the_mean_where_nothing_is_normalised() -> None:
    """Of zeros BatchNorm makes −γ · mean, so that the samples that γ comes from influence each other."""

    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            zeros, ones = torch.zeros(2, 3), torch.ones(3)
            return nn.functional.batch_norm(zeros, ones, ones, x.abs().mean(0), None) + y.abs()

    certificate = cx.certify(Scaled(), (torch.randn(2, 3), torch.randn(2, 3)), wrt=1)
    assert not certificate.convex
    assert "mixes the rows" in certificate.findings[0].reason
