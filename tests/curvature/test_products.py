"""Convex functions that several operators make together, as people write them: entropies, ratios, means and others.

Each is certified on its box, and its certificate attacked by chords in float64. Beside them stand their neighbours that
are not convex: these are refused, and a chord that lies below the function shows that they have to be.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from tests.modules import Function

INF = float("inf")
Case = tuple[Callable[..., Tensor], float, float]


class Double(nn.Module):
    """A function whose constants are buffers, so that `double` reaches them."""

    def __init__(self, function: Callable[..., Tensor], **constants: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in constants.items():
            self.register_buffer(name, value)
        self.names = list(constants)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs, *(getattr(self, name) for name in self.names))


def violation(model: nn.Module, lo: float, hi: float, width: int = 4, count: int = 4000) -> float:
    """How far a midpoint lies above its chord, over the size of the values."""
    generator = torch.Generator().manual_seed(5)
    lo, hi = max(lo, -6.0), min(hi, 6.0)
    ends = lo + (hi - lo) * torch.rand(2, count, width, generator=generator, dtype=torch.float64)
    near = torch.rand(count, 1, generator=generator, dtype=torch.float64) ** 4
    x, y = ends[0], torch.where(torch.arange(count)[:, None] % 2 == 0, ends[1], ends[0] + near * (ends[1] - ends[0]))
    with torch.no_grad():
        a, b, middle = (model.double()(point) for point in (x, y, (x + y) / 2))
    size = 1 + torch.maximum(a.abs(), b.abs())
    return float(((middle - (a + b) / 2) / size).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).max())


def halves(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x[:, :2], x[:, 2:])


def row(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x)[:, None]


P = torch.tensor([[2.0, 0.5, 0, 0], [0.5, 1.0, 0, 0], [0, 0, 1.0, 0.3], [0, 0, 0.3, 2.0]])
SKEW = torch.tensor([[0.0, 1, 0, 0], [-1, 0, 2, 0], [0, -2, 0, 0], [0, 0, 0, 0]])
NEARLY = torch.ones(4, 4, dtype=torch.float64)
NEARLY[0, 0] -= 1e-12


def kept(x: Tensor, y: Tensor) -> Tensor:
    return y * (x / y).exp()


CONVEX: dict[str, Case] = {
    # entropies
    "x log x": (lambda x: x * x.log(), 0.1, 5.0),
    "x log x from zero": (lambda x: x * x.log(), 0.0, 1.0),
    "x log x without end": (lambda x: x.log() * x, 0.0, INF),
    "xlogy": (lambda x: torch.xlogy(x, x), 0.0, INF),
    "entr": (lambda x: -torch.special.entr(x), 0.0, 5.0),
    "x log x, scaled": (lambda x: x * (x / 3).log(), 0.0, 5.0),
    "x log x, by constants": (lambda x: x * (x / torch.tensor([0.3, 1.0, 2.0, 7.0])).log(), 0.1, 5.0),
    "x log2 x": (lambda x: x * x.log2(), 0.1, 5.0),
    "shifted": (lambda x: (x + 1) * (x + 1).log(), -1.0, 4.0),
    "x log1p x": (lambda x: x * x.log1p(), 0.0, 9.0),
    "binary": (lambda x: x * x.log() + (1 - x) * (1 - x).log(), 0.0, 1.0),
    "binary, by xlogy": (lambda x: torch.xlogy(x, x) + torch.xlogy(1 - x, 1 - x), 0.0, 1.0),
    "with an epsilon": (lambda x: x * (x + 1e-3).log(), 0.0, 3.0),
    "relative entropy": (halves(lambda x, y: x * (x / y).log() - x + y), 0.1, 5.0),
    "relative entropy, difference of logarithms": (halves(lambda x, y: x * (x.log() - y.log())), 0.1, 5.0),
    "relative entropy, xlogy": (halves(lambda x, y: torch.xlogy(x, x / y)), 0.1, 5.0),
    "relative entropy, the other": (halves(lambda x, y: -x * (y / x).log()), 0.1, 5.0),
    "Jeffreys": (halves(lambda x, y: (x - y) * (x.log() - y.log())), 0.1, 5.0),
    # ratios and perspectives
    "quad over lin": (lambda x: x[:, :3].square().sum(1, keepdim=True) / x[:, 3:], 0.1, 5.0),
    "y^2 / x": (halves(lambda x, y: y**2 / x), 0.1, 5.0),
    "|y|^3 / x^2": (halves(lambda x, y: (y - 1).abs() ** 3 / x**2), 0.1, 5.0),
    "y^2 / sqrt(x)": (halves(lambda x, y: (y - 2).square() / x.sqrt()), 0.1, 5.0),
    "y^2 / geometric mean": (lambda x: (x[:, :1] - 1) ** 2 / (x[:, 1:2] * x[:, 2:3]).sqrt(), 0.1, 5.0),
    "exp(y) / x": (halves(lambda x, y: y.exp() / x), 0.1, 5.0),
    "perspective of exp": (halves(kept), 0.5, 5.0),
    "perspective of softplus": (halves(lambda x, y: y * F.softplus((x - 1) / y)), 0.5, 5.0),
    "perspective of the root": (halves(lambda x, y: (x.square() + y.square()).sqrt()), 0.1, 5.0),
    "harmonic, two": (halves(lambda x, y: -(x * y) / (x + y)), 0.1, 5.0),
    "x^2 / (1 + x)": (lambda x: x.square() / (1 + x), 0.0, INF),
    "-x / (1 + x)": (lambda x: -x / (1 + x), 0.0, INF),
    "1 / sigmoid": (lambda x: 1 / x.sigmoid(), -INF, INF),
    "exp(x) + 1 over exp(x)": (lambda x: 1 / x.exp(), -INF, INF),
    # means and products
    "geometric mean": (lambda x: -(x.prod(1, keepdim=True) ** 0.25), 0.1, 5.0),
    "geometric mean of two": (halves(lambda x, y: -(x * y).sqrt()), 0.0, 5.0),
    "geometric mean by logarithms": (lambda x: -x.log().mean(1, keepdim=True).exp(), 0.1, 5.0),
    "geometric mean by a sum": (lambda x: -(x.log().sum(1, keepdim=True) / 4).exp(), 0.1, 5.0),
    "weighted": (halves(lambda x, y: -(x**0.3) * y**0.7), 0.1, 5.0),
    "weighted by logarithms": (halves(lambda x, y: -(0.25 * x.log() + 0.5 * y.log()).exp()), 0.1, 5.0),
    "harmonic mean": (lambda x: -1 / (1 / x).sum(1, keepdim=True), 0.1, 5.0),
    "p-norm, p < 1": (lambda x: -(x.sqrt().sum(1, keepdim=True) ** 2), 0.0, 5.0),
    "p-norm, p < 0": (lambda x: -((x**-2).sum(1, keepdim=True) ** -0.5), 0.1, 5.0),
    "1 / product": (lambda x: 1 / x.prod(1, keepdim=True), 0.1, 5.0),
    "1 / (x y)": (halves(lambda x, y: 1 / (x * y)), 0.1, 5.0),
    "1 / product by logarithms": (lambda x: (-x.log().sum(1, keepdim=True)).exp(), 0.1, 5.0),
    "log of a product": (lambda x: -x.prod(1, keepdim=True).log(), 0.1, 5.0),
    "product of exponentials": (lambda x: x.exp().prod(1, keepdim=True), -2.0, 2.0),
    # quadratic forms
    "x P x": (lambda x: ((x @ P) * x).sum(1, keepdim=True), -INF, INF),
    "x P x, the other way": (lambda x: 0.5 * (x * F.linear(x, P)).sum(1), -INF, INF),
    "with a linear term": (lambda x: (x * (F.linear(x, P) + torch.arange(4.0))).sum(1, keepdim=True), -INF, INF),
    "around a point": (lambda x: ((x - 1) @ P * (x - 1)).sum(1), -INF, INF),
    "singular": (lambda x: ((x @ torch.ones(4, 4)) * x).sum(1), -INF, INF),
    "skew part": (lambda x: ((x @ (P + 3 * SKEW)) * x).sum(1), -INF, INF),
    "bilinear": (lambda x: F.bilinear(x, x, torch.stack([P, torch.ones(4, 4)])), -INF, INF),
    "einsum, three": (lambda x: torch.einsum("bi,ij,bj->b", x, P, x), -INF, INF),
    "einsum, two": (lambda x: torch.einsum("bi,bi->b", x, x), -INF, INF),
    "einsum, product first": (lambda x: torch.einsum("bi,bi->b", x @ P, x), -INF, INF),
    "matrix products": (lambda x: (x[:, None] @ P @ x[:, :, None]).squeeze(2), -INF, INF),
    "vecdot": (lambda x: torch.linalg.vecdot(x, x), -INF, INF),
    "root of a form": (lambda x: ((x @ P) * x).sum(1, keepdim=True).sqrt(), -INF, INF),
    "form over a number": (lambda x: ((x[:, :3] @ P[:3, :3]) * x[:, :3]).sum(1) / x[:, 3], 0.1, 5.0),
    "differences": (lambda x: ((x[:, 1:] - x[:, :-1]) @ P[:3, :3] * (x[:, 1:] - x[:, :-1])).sum(1), -INF, INF),
    "negative definite": (lambda x: -((x @ -P) * x).sum(1), -INF, INF),
    # functions of one number
    "x exp x": (lambda x: x * x.exp(), 0.0, 3.0),
    "x exp x from -2": (lambda x: x * x.exp(), -2.0, INF),
    "x^2 exp x": (lambda x: x * x * x.exp(), 0.0, INF),
    "x sqrt x": (lambda x: x * x.sqrt(), 0.0, INF),
    "SiLU by hand": (lambda x: x * x.sigmoid(), -2.3, 2.3),
    "GELU by hand": (lambda x: 0.5 * x * (1 + (x / 2**0.5).erf()), -1.4, 1.4),
    "x tanh x": (lambda x: x * x.tanh(), -1.1, 1.1),
    "cubic on a box": (lambda x: x**3 - x**2 + 2 * x, 0.4, 3.0),
    "quartic": (lambda x: x**4 - 0.5 * x**3 + x.square(), -2.0, 2.0),
    "2^x": (lambda x: 2**x, -INF, INF),
    "constants to the x": (lambda x: torch.tensor([2.0, 0.5, 1.0, 3.0]) ** x, -INF, INF),
    "log1p of exp": (lambda x: x.exp().log1p(), -INF, INF),
    "log cosh": (lambda x: x.cosh().log(), -INF, INF),
    "log cosh, stable": (lambda x: x + F.softplus(-2 * x) - 0.6931, -INF, INF),
    "log cosh of a size": (lambda x: x.abs() + F.softplus(-2 * x.abs()) - 0.6931, -INF, INF),
    "lgamma": (torch.lgamma, 0.1, 5.0),
    "log Beta, one side": (lambda x: torch.lgamma(x) - x.log(), 0.1, 5.0),
    "digamma": (lambda x: -torch.digamma(x), 0.1, 5.0),
    "trigamma": (lambda x: torch.polygamma(1, x), 0.1, 5.0),
    "erfc": (torch.erfc, 0.0, 5.0),
    "erfcx": (torch.special.erfcx, -2.0, 5.0),
    "log_ndtr": (lambda x: -torch.special.log_ndtr(x), -INF, INF),
    "-log sigmoid": (lambda x: -x.sigmoid().log(), -INF, INF),
    "-log erfc": (lambda x: -x.erfc().log(), -3.0, 3.0),
    "sinh": (torch.sinh, 0.0, 3.0),
    "gelu": (F.gelu, -1.4, 1.4),
}

REFUSED: dict[str, Case] = {
    "P is indefinite": (lambda x: ((x @ (P - 3 * torch.eye(4))) * x).sum(1), -3.0, 3.0),
    "P is indefinite by 1e-12": (lambda x: ((x.double() @ NEARLY) * x.double()).sum(1), -3.0, 3.0),
    "two forms in different inputs": (halves(lambda x, y: (x @ P[:2, :2] * y).sum(1)), -3.0, 3.0),
    "x P x of convex x": (lambda x: ((x.abs() @ P) * x.abs()).sum(1).neg(), -3.0, 3.0),
    "the form has another order": (lambda x: ((x @ P) * x.flip(1)).sum(1), -3.0, 3.0),
    "x log y": (halves(lambda x, y: x * y.log()), 0.1, 5.0),
    "y / x": (halves(lambda x, y: y / x), 0.1, 5.0),
    "y^2 / x, x of either sign": (halves(lambda x, y: y**2 / x), -1.0, 2.0),
    "y / x^2": (halves(lambda x, y: y / x.square()), 0.1, 5.0),
    "|y|^1.5 / x": (halves(lambda x, y: y.abs() ** 1.5 / x), 0.1, 5.0),
    "y^2 / x^2": (halves(lambda x, y: y**2 / x**2), 0.1, 5.0),
    "y^2 / convex": (halves(lambda x, y: y**2 / (1 + x**2)), 0.1, 5.0),
    "product": (lambda x: x.prod(1, keepdim=True), 0.1, 5.0),
    "product to 1/3 of four": (lambda x: -(x.prod(1, keepdim=True) ** (1 / 3)), 0.1, 5.0),
    "root of a product of any sign": (lambda x: -((x.prod(1, keepdim=True) + 1e4) ** 0.25), -5.0, 5.0),
    "1 / product of any sign": (lambda x: 1 / (x.prod(1, keepdim=True) + 700), -5.0, 5.0),
    "exp(sum log x)": (lambda x: -x.log().sum(1, keepdim=True).exp(), 0.1, 5.0),
    "p-norm, p < 1, wrong root": (lambda x: -(x.sqrt().sum(1, keepdim=True) ** 3), 0.1, 5.0),
    "x exp x on [-3, 0]": (lambda x: x * x.exp(), -3.0, 0.0),
    "gelu, box too wide": (F.gelu, -1.6, 1.6),
    "SiLU by hand, box too wide": (lambda x: x * x.sigmoid(), -2.5, 2.5),
    "log1p of a square": (lambda x: x.square().log1p(), -3.0, 3.0),
    "log1p of softplus": (lambda x: F.softplus(x).log1p(), -3.0, 3.0),
    "relative entropy, twisted": (halves(lambda x, y: x * (y / x).log()), 0.1, 5.0),
    "perspective with the wrong factor": (halves(lambda x, y: y.sqrt() * (-x / y).exp()), 0.5, 5.0),
    "perspective, another denominator": (halves(lambda x, y: y * (x / (y + 1)).exp()), 0.1, 5.0),
    "log of a sum of squares": (lambda x: x.square().sum(1, keepdim=True).add(1).log(), -3.0, 3.0),
    "(-2)^x": (lambda x: (-2.0) ** x, -INF, INF),
    "lgamma of anything": (torch.lgamma, -0.9, -0.1),
    "erfc on both sides": (torch.erfc, -1.0, 1.0),
    "-digamma of convex": (lambda x: -torch.digamma(x.square() + 0.1), -1.0, 1.0),
    "1 / (1 + exp(-x))": (lambda x: 1 / (1 + (-x).exp()), -3.0, 3.0),
    "cubic, box too wide": (lambda x: x**3 - x**2 + 2 * x, 0.2, 3.0),
    "log cosh of something else": (lambda x: x.abs() + (-2 * (x - 1).abs()).exp().log1p(), -3.0, 3.0),
}  # fmt: skip


@contextmanager
def in_float64() -> Generator[None]:
    """What the functions make is of float64, as are their constants."""
    global P, SKEW
    torch.set_default_dtype(torch.float64)
    P, SKEW = P.double(), SKEW.double()
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        P, SKEW = P.float(), SKEW.float()


def certified(model: nn.Module, lo: float, hi: float, example: Tensor | None = None) -> cx.Certificate:
    width = 4 if example is None else example.shape[1]
    free = lo == -INF and hi == INF
    return cx.certify(model, torch.full((2, width), 0.5), domain=None if free else cx.Box(lo, hi, shape=(width,)))


@pytest.mark.parametrize("name", CONVEX)
def test_what_people_write_is_certified(name: str) -> None:
    function, lo, hi = CONVEX[name]
    certificate = certified(Function(function), lo, hi)
    assert certificate.convex, str(certificate)
    with in_float64():
        assert violation(Function(function), lo, hi) < 1e-9


@pytest.mark.parametrize("name", REFUSED)
def test_neighbours_are_refused(name: str) -> None:
    function, lo, hi = REFUSED[name]
    certificate = certified(Function(function), lo, hi)
    assert not certificate.convex
    assert certificate.findings
    if name not in ("(-2)^x", "lgamma of anything", "P is indefinite by 1e-12"):
        with in_float64():
            assert violation(Function(function), lo, hi) > 1e-9
