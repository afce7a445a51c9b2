"""Convex functions that several operators make together, as people write them: entropies, ratios, means and others.

Each is certified on its box, and its certificate attacked by chords in float64. Beside them stand their neighbours that
are not convex: these are refused, and a chord that lies below the function shows that they have to be.
"""

from __future__ import annotations

import math
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
WIDE = torch.diag(torch.tensor([-0.9, 1.0]))


def square(x: Tensor) -> Tensor:
    return x.reshape(-1, 2, 2)


def shifted(x: Tensor, m: Tensor) -> Tensor:
    return m + (x - m).exp().sum(1, keepdim=True).log()


def shifted_across(x: Tensor) -> Tensor:
    m = x.amax(-1, keepdim=True)
    return (x - m).logsumexp(-1, keepdim=True) + m.reshape(-1, 1, 2)


def log_softmax(x: Tensor, m: Tensor) -> Tensor:
    return x - m - (x - m).exp().sum(1, keepdim=True).log()


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

MATRICES: dict[str, Case] = {
    "Frobenius": (lambda x: torch.linalg.matrix_norm(square(x)), -INF, INF),
    "spectral": (lambda x: torch.linalg.matrix_norm(square(x), 2), -INF, INF),
    "nuclear": (lambda x: torch.linalg.matrix_norm(square(x), "nuc"), -INF, INF),
    "largest row sum": (lambda x: torch.linalg.norm(square(x), INF, dim=(1, 2)), -INF, INF),
    "p-norm of vectors": (lambda x: torch.linalg.norm(x, 3, dim=1), -INF, INF),
    "largest singular value": (lambda x: torch.linalg.svdvals(square(x))[:, 0], -INF, INF),
    "sum of singular values": (lambda x: torch.linalg.svdvals(square(x)).sum(1), -INF, INF),
    "largest eigenvalue": (lambda x: torch.linalg.eigvalsh(square(x) + square(x).mT)[:, -1], -INF, INF),
    "largest eigenvalue of a triangle": (lambda x: torch.linalg.eigvalsh(square(x))[:, -1:], -INF, INF),
    "least eigenvalue": (lambda x: -torch.linalg.eigh(square(x))[0][:, 0], -INF, INF),
    "two largest": (lambda x: torch.linalg.eigvalsh(torch.diag_embed(x) + SKEW.mT)[:, -2:].sum(1), -INF, INF),
    "two least": (lambda x: -torch.linalg.eigvalsh(torch.diag_embed(x))[:, :2].sum(1), -INF, INF),
    "-log det": (lambda x: -torch.logdet(torch.diag_embed(x) + 0.01), 0.5, 5.0),
    "-log det of a sum": (lambda x: -torch.linalg.slogdet(torch.diag_embed(x) + 3 * torch.ones(4, 4))[1], 0.5, 5.0),
    "-log det, full": (lambda x: -torch.logdet(square(x) + square(x).mT + 20 * torch.eye(2)), -2.0, 2.0),
    "root of det": (lambda x: -(torch.det(torch.diag_embed(x)) ** 0.25), 0.5, 5.0),
    "trace of the inverse": (
        lambda x: torch.linalg.inv(torch.diag_embed(x) + 0.01).diagonal(dim1=1, dim2=2).sum(1), 0.5, 5.0),
    "diagonal of the inverse": (lambda x: (torch.diag_embed(x) + 0.1).inverse()[:, 1, 1], 0.5, 5.0),
    "trace": (lambda x: torch.einsum("bii->b", square(x).relu()), -INF, INF),
    "shifted log-sum-exp": (lambda x: shifted(x, x.amax(1, keepdim=True).detach()), -INF, INF),
    "shifted, without the dimension": (
        lambda x: x.amax(1) + (x - x.amax(1)[:, None]).exp().sum(1).log(), -INF, INF),
    "shifted by the mean": (
        lambda x: (x - x.mean(1, keepdim=True)).logsumexp(1, keepdim=True) + x.mean(1, keepdim=True), -INF, INF),
    "-log softmax": (lambda x: -log_softmax(x, x.amax(1, keepdim=True)), -INF, INF),
}  # fmt: skip
CONVEX.update(MATRICES)

REFUSED: dict[str, Case] = {
    "second singular value": (lambda x: torch.linalg.svdvals(square(x))[:, 1], -3.0, 3.0),
    "inner eigenvalues": (lambda x: torch.linalg.eigvalsh(torch.diag_embed(x))[:, 1:3].sum(1), -3.0, 3.0),
    "least eigenvalue, not negated": (lambda x: torch.linalg.eigvalsh(square(x))[:, 0], -3.0, 3.0),
    "order -2": (lambda x: torch.linalg.matrix_norm(square(x), -2), -3.0, 3.0),
    "spectral norm of convex": (lambda x: -torch.linalg.matrix_norm(square(x.abs()), 2), -3.0, 3.0),
    "log det of what is indefinite": (lambda x: -torch.logdet(torch.diag_embed(x) - 0.6), 0.5, 5.0),
    "log det of what is not symmetric": (lambda x: -torch.logdet(torch.eye(2) * 3 + square(x)), -1.0, 1.0),
    "off the diagonal of an inverse": (lambda x: torch.linalg.inv(torch.diag_embed(x) + 0.1)[:, 0, 1], 0.5, 5.0),
    "shifted, and not back": (lambda x: (x - x.amax(1, keepdim=True)).exp().sum(1, keepdim=True).log(), -3.0, 3.0),
    "shifted back twice": (lambda x: shifted(x, x.amin(1, keepdim=True)) + x.amin(1, keepdim=True), -3.0, 3.0),
    "shifted back along another dimension": (lambda x: shifted_across(square(x)), -3.0, 3.0),
    "inverse of a matrix with a number for each sample added": (
        lambda x: torch.linalg.inv(torch.diag_embed(x[:, :1]) + WIDE).diagonal(dim1=1, dim2=2), 1.0, 2.0),
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
    "x |x| by a root": (lambda x: x * x.square().sqrt(), -3.0, 3.0),
    "x |x|^3 by a power": (lambda x: x * x.square() ** 1.5, -3.0, 3.0),
    "x / |x| by a root": (lambda x: x * (x**-2).sqrt() + x, -3.0, 3.0),
    "x log x^2": (lambda x: x * x.square().log(), -3.0, 3.0),
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
    if name not in ("(-2)^x", "lgamma of anything", "P is indefinite by 1e-12", "log det of what is indefinite"):
        with in_float64():
            assert violation(Function(function), lo, hi) > 1e-9


# --- factors and indices from other inputs ---------------------------------------------------------------------------

FACTORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "softmax": lambda x, c: (c.softmax(1) * x.relu()).sum(1),
    "ELU + 1": lambda x, c: (F.elu(c) + 1) * x.relu(),
    "CELU + alpha": lambda x, c: (F.celu(c, 2.0) + 2) * x.relu(),
    "1 / exp": lambda x, c: x.relu() / c.exp(),
    "normalised": lambda x, c: (c.exp() / c.exp().sum(1, keepdim=True) * x.relu()).sum(1),
    "square": lambda x, c: c**2 * x.relu(),
    "1 / sigmoid": lambda x, c: x.square() / c.sigmoid(),
    "1 / softplus": lambda x, c: x.square() / F.softplus(c),
    "-log softmax": lambda x, c: -c.log_softmax(1) * x.relu(),
}
SIGNED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "itself": lambda x, c: c * x.relu(),
    "ELU + .9": lambda x, c: (F.elu(c) + 0.9) * x.relu(),
    "tanh": lambda x, c: c.tanh() * x.relu(),
    "softmax - 1/2": lambda x, c: (c.softmax(1) - 0.5) * x.relu(),
}


@pytest.mark.parametrize("name", [*FACTORS, *SIGNED])
def test_factors_from_another_input(name: str) -> None:
    function = {**FACTORS, **SIGNED}[name]
    inputs = torch.zeros(2, 4), torch.zeros(2, 4)
    assert cx.certify(Function(function), inputs, wrt=0).convex == (name in FACTORS)


def test_elements_picked_by_the_label_of_another_input() -> None:
    inputs = torch.zeros(2, 4), torch.tensor([0, 2])

    def certifies(function: Callable[[Tensor, Tensor], Tensor]) -> bool:
        return cx.certify(Function(function), inputs, wrt=0).convex

    assert certifies(lambda x, y: x.relu().gather(1, y[:, None]))
    assert certifies(lambda x, y: x.logsumexp(1) - x.gather(1, y[:, None])[:, 0])
    assert certifies(lambda x, y: x.relu()[torch.arange(x.shape[0]), y])
    assert certifies(lambda x, y: (F.one_hot(y, 4).float() * x.relu()).sum(1))
    assert not certifies(lambda x, y: torch.cat([-x.relu(), x], 1).gather(1, y[:, None]))
    assert not certifies(lambda x, y: x.relu()[y])  # another sample's


# --- CVXPY as an oracle ----------------------------------------------------------------------------------------------


def test_cvxpy_says_the_same() -> None:
    cvxpy = pytest.importorskip("cvxpy")
    x = cvxpy.Variable(4, pos=True)
    atoms = {
        "geometric mean": -cvxpy.geo_mean(x),
        "harmonic mean": -cvxpy.harmonic_mean(x) / 4,
        "1 / product": cvxpy.inv_prod(x),
        "quad over lin": cvxpy.quad_over_lin(x[:3], x[3]),
        "x P x": cvxpy.quad_form(x, P.double().numpy()),
        "root of det": -cvxpy.geo_mean(x),
        "x log x": -cvxpy.entr(x),
        "relative entropy": cvxpy.kl_div(x[:2], x[2:]),
        "x exp x": cvxpy.xexp(x),
        "lgamma": cvxpy.loggamma(x),
    }
    point = torch.tensor([[0.7, 1.3, 2.1, 0.4]], dtype=torch.float64)
    x.value = point[0].numpy()
    for name, atom in atoms.items():
        assert atom.is_convex(), name
        with in_float64():
            ours = CONVEX[name][0](point)
        if name not in APPROXIMATED:
            assert torch.allclose(ours.flatten(), torch.tensor(atom.value).flatten().double(), atol=1e-6), name


APPROXIMATED = ("lgamma",)
"""CVXPY's is a piecewise approximation."""


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_small_weight_is_not_lost_in_a_sum(sign: float) -> None:
    """x + w x - x is w x, in numbers; in float64 it is 0."""
    model = Function(lambda x: sign * ((x * 1e-17 + x - x) * x).sum(1, keepdim=True))
    assert cx.certify(model, torch.zeros(2, 4)).curvature not in ("constant", "affine")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: -(x**0.7) * x**0.3,  # these are floats, and their sum is not 1
        lambda x: (x * 0.1).exp() * (x * 0.2).exp() - (x * 0.30000000000000004).exp(),
        lambda x: -(x ** (1 + 2.3e-16)),
    ],
)
def test_exponents_are_not_rounded(function: Callable[[Tensor], Tensor]) -> None:
    certificate = cx.certify(Function(function), torch.ones(2, 4), domain=cx.Box(0.1, 5.0, shape=(4,)))
    assert certificate.curvature != "affine"
    assert not certificate.convex


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.square() / x,
        lambda x: x * x.pow(-2) * x.square(),
        lambda x: x.reciprocal() - x.reciprocal(),
        lambda x: -(x.square() / x + 2.0).log(),
        lambda x: -torch.log1p(x.square() / x + 0.5),
        lambda x: (x.square() / x + 2.0).rsqrt(),
        lambda x: torch.where(x > 1, x - 1, 0 * (x + 0.5).log()),
        lambda x: torch.where(x > 1, x - 1, (x + 0.5).reciprocal() - (x + 0.5).reciprocal()),
    ],
)
def test_what_is_undefined_inside_the_domain_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    """A pole that cancels stays one."""
    box = cx.Box(-1.0, 5.0, shape=(4,))
    assert not cx.certify(Function(function), torch.ones(2, 4), domain=box).convex
    inside = cx.Box(0.5, 5.0, shape=(4,))
    assert cx.certify(Function(lambda x: x.square() / x), torch.ones(2, 4), domain=inside).convex


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.square() + 0 * (x * x).log(),
        lambda x: 0 * (x.exp() - 1).square().log(),
        lambda x: 0 * (1 - (1 - x * x)).log2(),
        lambda x: 0 * (x * x).rsqrt(),
        lambda x: 0 * torch.log1p(x * x - 1),
        lambda x: (x * x - 0.25).sqrt().square(),
        lambda x: (x * x - 0.25) ** 0.25 * (x * x - 0.25) ** 0.75,
        lambda x: torch.zeros(4, dtype=x.dtype) / (x * x),
        lambda x: torch.addcdiv(x, torch.zeros(4, dtype=x.dtype), x.abs()),
        lambda x: x.tan().sort(1)[0] @ torch.zeros(4, 4, dtype=x.dtype),
        lambda x: x.index_add(1, torch.tensor([0, 1, 2, 3]), 1 / x, alpha=0),
    ],
)
@pytest.mark.parametrize("box", [None, cx.Box(-1.0, 1.0, shape=(4,))])
def test_a_hole_in_the_midst_is_not_hidden_by_what_is_flat_there(
    function: Callable[[Tensor], Tensor], box: cx.Box | None
) -> None:
    """Zero is reached in the midst of the domain by a convex quantity that is never negative."""
    assert cx.certify(Function(function), torch.ones(2, 4), domain=box).curvature == "unknown"


@pytest.mark.parametrize("function", [lambda x: x * x.log(), lambda x: (1 - x) * (1 - x).log()])
def test_a_hole_at_the_edge_of_the_domain_is_none(function: Callable[[Tensor], Tensor]) -> None:
    assert cx.certify(Function(function), torch.ones(2, 4), domain=cx.Box(0.0, 1.0, shape=(4,))).convex


# --- minima, and what is not exported --------------------------------------------------------------------------------

MINIMA: dict[str, tuple[Callable[[Tensor], Tensor], float, float, float]] = {
    "x log x": (lambda x: (x * x.log()).sum(1), 0.1, 5.0, -4 / math.e),
    "quadratic form": (lambda x: ((x - 1) @ P.to(x) * (x - 1)).sum(1), -3.0, 3.0, 0.0),
    "relative entropy": (
        lambda x: (x[:, :2] * (x[:, :2] / x[:, 2:]).log() - x[:, :2] + x[:, 2:]).sum(1), 0.1, 5.0, 0.0),
    "trace of the inverse": (
        lambda x: (torch.diag_embed(x) + 0.1).inverse().diagonal(dim1=1, dim2=2).sum(1), 0.5, 2.0,
        4 / 2 - 4 * 0.1 / (4 * (1 + 4 * 0.1 / 2))),
}  # fmt: skip


@pytest.mark.parametrize("name", MINIMA)
def test_minima_are_found_and_exporters_refuse(name: str) -> None:
    function, lo, hi, least = MINIMA[name]
    model, box = Function(function), cx.Box(lo, hi, shape=(4,))
    solution = cx.minimise(model, box)
    assert float(solution.lower_bound) <= least + 1e-9
    assert float(solution.value) == pytest.approx(least, abs=1e-4)
    with pytest.raises(cx.NotCertified, match=r"aten\."):
        cx.to_lp(model, box)
