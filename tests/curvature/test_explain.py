"""The reason of a finding is true of the call at hand: programs, and what must be said (and not said) about each."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from tests.modules import Function

X, C = torch.zeros(2, 4), torch.zeros(2, 4)
MASK = torch.tensor([[True, False, True, True]])
relu, leaky = torch.relu, F.leaky_relu


def mixed(x: Tensor) -> Tensor:
    return torch.cat([relu(x), -relu(x)], 1)


# of an input x that convexity is asked in, and another input c
REASONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "order 1/2": (lambda x, c: torch.linalg.vector_norm(x, 0.5, dim=1), "^its order is 0.5; .* from 1$"),
    "norm of convex": (lambda x, c: leaky(x).norm(dim=1), "norm is convex and increases with the abs.*may be negative"),
    "distance of order 1/2": (lambda x, c: torch.cdist(x[:, None], torch.zeros(1, 4), 0.5)[:, 0], "order is 0.5"),
    "distance to c": (lambda x, c: torch.cdist(x[:, None], c[:, None])[:, 0], "points that differ between samples"),
    "a truth value": (lambda x, c: leaky(x) * (c > 0).long(), "a boolean or an integer .* depends on another input"),
    "a coefficient": (lambda x, c: relu(x) * c, "^a coefficient of unknown sign, which depends on another input"),
    "1/c": (lambda x, c: relu(x) * c.reciprocal(), "^its argument does not depend on the input, but may be 0"),
    "c^-2": (lambda x, c: relu(x) * c**-2, "may be 0"),
    "c^-3": (lambda x, c: relu(x) * c**-3, "may be 0"),
    "complex": (lambda x, c: (x * torch.tensor(1j)).real, "^its result is complex"),
    "a complex cast": (lambda x, c: x.to(torch.complex64).abs(), "^its result is complex"),
    "fourier": (lambda x, c: torch.fft.rfft(x).abs(), "complex"),
    "vmap": (lambda x, c: torch.vmap(lambda row: relu(row).sin())(x), "^sin is neither convex nor concave"),
    "vmap over features": (lambda x, c: torch.vmap(lambda column: column.abs().sum(), 1)(x), "mixes the rows"),
    "rounding": (lambda x, c: x.long().float(), "integer or a boolean"),
    "sum": (lambda x, c: mixed(x).sum(1), "^sum adds elements that are partly convex and partly concave"),
    "mean": (lambda x, c: mixed(x).mean(1), "^mean adds"),
    "average": (lambda x, c: F.avg_pool1d(mixed(x)[:, None], 8)[:, 0], "^avg_pool1d adds"),
    "a divisor": (lambda x, c: F.avg_pool2d(relu(x)[:, None, None], (1, 2), divisor_override=3), "its divisor"),
    "bicubic": (
        lambda x, c: F.interpolate(relu(x).view(2, 1, 2, 2), scale_factor=2, mode="bicubic"), "coefficients of either",
    ),
    "amax": (lambda x, c: (-relu(x)).amax(1), "amax is convex and non-decreasing.* is concave"),
    "amin": (lambda x, c: relu(x).amin(1), "amin is concave and non-decreasing.* is convex"),
    "maximum": (lambda x, c: torch.maximum(-relu(x), x), "^maximum of concave .* is convex and non-decreasing"),
    "minimum": (lambda x, c: torch.minimum(relu(x), x), "^minimum of convex .* is concave and non-decreasing"),
    "variance": (lambda x, c: relu(x).var(1), "var is convex and may increase and decrease"),
    "clamp": (lambda x, c: x.clamp(0, 1), "clamp is neither convex nor concave: it is flat above 1"),
    "clamp above": (lambda x, c: leaky(x).clamp(max=0.5), "clamp is concave and non-decreasing, but .* convex"),
    "log": (lambda x, c: x.log(), "^log is a real number above 0 only, and nothing keeps"),
    "log of convex": (lambda x, c: (relu(x) + 1).log(), r"^log is concave and non-decreasing on \[1, inf\], but"),
    "log1p": (lambda x, c: x.log1p(), "above -1 only"),
    "sqrt": (lambda x, c: x.sqrt(), "^sqrt is a real number above 0 only"),
    "sqrt of convex": (lambda x, c: relu(x).sqrt(), "^sqrt is concave and non-decreasing on"),
    "square of convex": (lambda x, c: leaky(x).square(), "^square is convex and not non-decreasing, but"),
    "a product with itself": (lambda x, c: (lambda y: y * y)(leaky(x)), r"^x \* x is convex and not non-decreasing"),
    "1 over convex": (lambda x, c: 1 / (relu(x) + 1), "is convex and not non-decreasing on"),
    "a^x": (lambda x, c: c**x, "^its exponent depends on the input"),
    "x^c": (lambda x, c: x**c, "^its exponent is not one fixed number"),
    "a product": (lambda x, c: x * relu(x), "^it multiplies two quantities that both depend on the input"),
    "lerp": (lambda x, c: torch.lerp(relu(x), x, c), r"^its weight is not known to lie in \[0, 1\]"),
    "prelu": (lambda x, c: F.prelu(leaky(x), torch.tensor([-0.25])), r"^a slope lies outside \[0, 1\]"),
    "prelu of mixed": (lambda x, c: F.prelu(-leaky(x), torch.tensor([0.25])), "^PReLU is convex and non-decr"),
    "mixed sums": (lambda x, c: F.linear(mixed(x), torch.ones(2, 8)), "^it adds quantities that are partly convex"),
    "norm by c": (lambda x, c: F.layer_norm(c, (4,), relu(x)[0]), "a rule only where no argument but the first "),
    "batch elsewhere": (lambda x, c: relu(x)[None], r"^its shape is \(1, 2, 4\) for two samples"),
    "rows exchanged": (lambda x, c: relu(x).flip(0), "^its row i depends on other rows"),
    "training": (lambda x, c: F.dropout(x, 0.5, True), "it draws random numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", REASONS)
def test_the_reason_is_true_of_the_call(name: str) -> None:
    function, words = REASONS[name]
    findings = cx.certify(Function(function), (X, C), wrt=0).findings
    assert any(re.search(words, finding.reason) for finding in findings), [f.reason for f in findings]
    assert all(finding.reason and "  " not in finding.reason for finding in findings)


@pytest.mark.parametrize("power", [-9, -5, -4, -3, -2, -1, 2, 3, 4, 9, 10, 11, 12])
def test_a_power_has_the_sign_of_its_base_or_none(power: int) -> None:
    """Odd powers are negative where their base is, and negative ones have a pole."""
    certificate = cx.certify(Function(lambda x, c: relu(x) * c**power), (X, C), wrt=0)
    assert certificate.convex == (power > 0 and power % 2 == 0)


CONVEX: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a mask like x": lambda x, c: relu(x) * MASK.expand_as(x),
    "a mask in the shape of x": lambda x, c: relu(x) * torch.ones(8, dtype=torch.bool).view_as(x),
    "filled where masked": lambda x, c: relu(x).masked_fill(MASK.expand_as(x), 0.0),
    "ones of a type": lambda x, c: relu(x) * torch.ones_like(x, dtype=torch.bool),
    "integers": lambda x, c: relu(x) * x.new_full((4,), 2, dtype=torch.int32),
    "indices": lambda x, c: relu(x).gather(1, torch.zeros_like(x, dtype=torch.long)),
}


@pytest.mark.parametrize("name", CONVEX)
def test_only_the_shape_of_a_template_is_read(name: str) -> None:
    assert cx.certify(Function(CONVEX[name]), (X, C), wrt=0).require().curvature == "convex"
    negative = Function(lambda x, c: -CONVEX[name](x, c))
    assert cx.certify(negative, (X, C), wrt=0).curvature == "concave"


class Recurrent(nn.Module):
    def __init__(self, before: Callable[[Tensor], Tensor] = lambda x: x, **settings: Any) -> None:
        super().__init__()
        self.rnn = nn.RNN(4, 4, nonlinearity="relu", batch_first=True, **settings)
        self.before = before

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(self.before(x)[:, None].expand(-1, 2, -1))[0]


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        (Recurrent(), ["weight_hh_l0"]),
        (Recurrent(num_layers=2), ["weight_ih_l1"]),
        (Recurrent(bidirectional=True), ["weight_hh_l0_reverse"]),
        (Recurrent(bidirectional=True, num_layers=2), ["weight_ih_l1_reverse", "weight_hh_l0"]),
        (Recurrent(before=relu), ["weight_ih_l0"]),
    ],
)
def test_the_weights_of_a_recurrent_network_are_named(model: Recurrent, wrong: list[str]) -> None:
    with torch.no_grad():
        for name, parameter in model.rnn.named_parameters():
            parameter.fill_(-1.0 if name in wrong else 1.0)
    (finding,) = cx.certify(model, X).findings
    named = [part.split(" ")[0] for part in finding.reason.split("entries of ")[1:]]
    assert sorted(named) == sorted(wrong)
    with pytest.raises(cx.NotCertified, match="whole recurrent network"):
        cx.split(model, X)


def test_a_box_for_each_sample_is_the_box_of_them_all() -> None:
    ends = torch.tensor([[0.0], [10.0]])
    each = cx.Box(0, 10, shape=(1,)).fix(ends, True)
    function = Function(lambda x: x.clamp(max=5))
    certificate = cx.certify(function, torch.zeros(2, 1), domain=each)
    assert (certificate.curvature, certificate.domain) == ("concave", "input 0 in [0, 10]")
    assert cx.falsify(function, torch.zeros(2, 1), domain=each) is not None


def test_a_domain_is_printed_as_it_is() -> None:
    def shown(box: cx.Box) -> str:
        return cx.certify(nn.ReLU(), torch.zeros(2, *box.shape), domain=box).domain

    assert shown(cx.Box([0.0, -5.0], [1.0, 5.0])) == "input 0 in [0, 1] x [-5, 5]"
    assert shown(cx.Box(-1.23456789, 0.5, shape=(9,))) == "input 0 in [-1.23456789, 0.5]"
    assert "differ between elements" in shown(cx.Box(list(range(9)), 9.0))
