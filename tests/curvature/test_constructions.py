"""What people write: losses, choices, sorted sums, running sums. What is convex is certified, its neighbours are not.

A row is a function of rows (B, 4), the box that it is looked at on (None: everywhere), and whether it is convex. What
is certified is attacked by chords in float64, at random points, near zero, and with ties.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from convexnet.solve.rounding_errors import Rounding, Tracked
from tests.modules import Function

K = {"dim": 1, "keepdim": True}
C = torch.tensor([0.25, -1.0, 0.5, 2.0])
PROBABLE = torch.tensor([0.125, 0.25, 0.125, 0.5])
SIGNS = torch.tensor([1.0, -1.0, 1.0, -1.0])
UP = torch.tensor([-1.0, 0.5, 0.5, 3.0])
PAIRS = torch.tensor([0, 0, 1, 1])
ABOVE_ONE = math.nextafter(1.0, 2.0)
Row = tuple[Callable[[Tensor], Tensor], tuple[float, float] | None, bool]


def labels(x: Tensor, label: int = 1) -> Tensor:
    return torch.full(x.shape[:1], label, dtype=torch.int64)


def like(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x).expand(x.shape)


def huber(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1, 0.5 * x * x, x.abs() - 0.5)


def cut(x: Tensor) -> Tensor:
    y = x.clone()
    return y.masked_fill(y < -1, -1.0)


def pooled(x: Tensor, how: str, own: bool = True) -> Tensor:
    base = torch.ones(x.shape[0], 2, dtype=x.dtype)
    return base.scatter_reduce(1, PAIRS.expand(x.shape[0], 4), x.abs(), how, include_self=own)


LOSSES: dict[str, Row] = {
    "mse": (lambda x: F.mse_loss(x, like(C, x), reduction="none"), None, True),
    "mse of convex": (lambda x: F.mse_loss(x.abs(), like(C, x), reduction="none"), None, False),
    "mse of relu below zero": (lambda x: F.mse_loss(x.relu(), -like(C, x).abs(), reduction="none"), None, True),
    "mse over the batch": (lambda x: F.mse_loss(x, like(C, x)), None, False),
    "l1": (lambda x: F.l1_loss(x, like(C, x), reduction="none"), None, True),
    "l1 of two": (lambda x: F.l1_loss(x[:, :2], x[:, 2:], reduction="none"), None, True),
    "huber": (lambda x: F.huber_loss(x, like(C, x), reduction="none", delta=0.5), None, True),
    "minus huber": (lambda x: -F.huber_loss(x, like(C, x), reduction="none"), None, False),
    "smooth l1": (lambda x: F.smooth_l1_loss(x, like(C, x), reduction="none", beta=2.0), None, True),
    "smooth l1, no beta": (lambda x: F.smooth_l1_loss(x, like(C, x), reduction="none", beta=0.0), None, True),
    "cross entropy": (lambda x: F.cross_entropy(x, labels(x), reduction="none"), None, True),
    "cross entropy, smoothed": (
        lambda x: F.cross_entropy(x, labels(x), reduction="none", label_smoothing=0.25), None, True),
    "cross entropy, weighted": (
        lambda x: F.cross_entropy(x, labels(x), reduction="none", weight=PROBABLE.to(x)), None, True),
    "cross entropy, a negative weight": (
        lambda x: F.cross_entropy(x, labels(x), reduction="none", weight=C.to(x)), None, False),
    "cross entropy, ignored": (
        lambda x: F.cross_entropy(x, labels(x), reduction="none", ignore_index=0), None, True),
    "cross entropy of probabilities": (
        lambda x: F.cross_entropy(x, like(PROBABLE, x), reduction="none"), None, True),
    "cross entropy of signs": (lambda x: F.cross_entropy(x, like(SIGNS, x), reduction="none"), None, False),
    "cross entropy of convex logits": (lambda x: F.cross_entropy(x.abs(), labels(x), reduction="none"), None, False),
    "cross entropy of an affine label": (
        lambda x: F.cross_entropy(torch.cat([x[:, :2].abs(), x[:, 2:]], 1), labels(x, 2), reduction="none"),
        None, True),
    "nll of log_softmax": (lambda x: F.nll_loss(x.log_softmax(1), labels(x), reduction="none"), None, True),
    "nll of logits": (lambda x: F.nll_loss(x, labels(x), reduction="none"), None, True),
    "bce": (
        lambda x: F.binary_cross_entropy_with_logits(
            x, like(PROBABLE, x), reduction="none", pos_weight=2 * PROBABLE.to(x)), None, True),
    "bce of ones, falling": (
        lambda x: F.binary_cross_entropy_with_logits(-x.abs(), torch.ones_like(x), reduction="none"), None, True),
    "bce of a target above one": (
        lambda x: F.binary_cross_entropy_with_logits(x, like(C, x), reduction="none"), None, False),
    "soft margin": (lambda x: F.soft_margin_loss(x, like(SIGNS, x), reduction="none"), None, True),
    "multi margin": (lambda x: F.multi_margin_loss(x, labels(x), p=2, reduction="none"), None, True),
    "multi margin of convex": (lambda x: F.multi_margin_loss(x.abs(), labels(x), reduction="none"), None, False),
    "hinge embedding": (lambda x: F.hinge_embedding_loss(x, like(SIGNS, x), reduction="none"), None, True),
    "hinge embedding of convex": (
        lambda x: F.hinge_embedding_loss(x.abs(), like(SIGNS, x), reduction="none"), None, False),
    "kl": (lambda x: F.kl_div(x.log_softmax(1), like(PROBABLE, x), reduction="none"), None, True),
    "kl of convex": (lambda x: F.kl_div(x.abs(), like(PROBABLE, x), reduction="none"), None, False),
    "poisson": (lambda x: F.poisson_nll_loss(x, like(C, x), reduction="none"), None, True),
    "poisson of rates": (
        lambda x: F.poisson_nll_loss(x, like(C.abs(), x), log_input=False, reduction="none"), (0.5, 3.0), True),
    "margin ranking": (
        lambda x: F.margin_ranking_loss(x[:, 0], x[:, 1], torch.ones(x.shape[0], dtype=x.dtype), 0.5, reduction="none"),
        None, True),
    "triplet, near": (
        lambda x: F.triplet_margin_loss(like(C, x), x, like(SIGNS, x), reduction="none"), None, True),
    "triplet, far": (
        lambda x: F.triplet_margin_loss(like(C, x), like(SIGNS, x), x, reduction="none"), None, False),
    "cross entropy by hand": (lambda x: x.logsumexp(1) - x[:, 1], None, True),
    "quantile loss": (lambda x: torch.maximum(0.75 * (x - 1), -0.25 * (x - 1)), None, True),
}  # fmt: skip
CHOICES: dict[str, Row] = {
    "relu by where": (lambda x: torch.where(x > 0, x, torch.zeros_like(x)), None, True),
    "relu by where, at a level": (lambda x: torch.where(x >= 0.1, x - 0.1, 0.0), None, True),
    "relu by where, an ulp off": (lambda x: torch.where(x > ABOVE_ONE, x - 1, torch.zeros_like(x)), None, False),
    "a jump up by where": (lambda x: torch.where(x > 0, x, 1 - x), None, False),
    "a jump at one point": (lambda x: torch.where(x == 0, 1.0, x.abs()), None, False),
    "a step": (lambda x: (x > 0).to(x), None, False),
    "relu by a mask": (lambda x: x * (x > 0), None, True),
    "minus relu by a mask": (lambda x: -(x * (x > 0)), None, False),
    "relu by a number": (lambda x: (x - 1) * (x > 1).to(x), None, True),
    "relu by masked_fill": (lambda x: x.masked_fill(x < 0, 0.0), None, True),
    "cut by masked_fill": (cut, None, True),
    "abs by where": (lambda x: torch.where(x > 0, x, -x), None, True),
    "abs by sign": (lambda x: (x - 1) * (x - 1).sign(), None, True),
    "leaky": (lambda x: torch.where(x > 0, x, 0.125 * x), None, True),
    "leaky, too steep": (lambda x: torch.where(x > 0, x, 1.125 * x), None, False),
    "leaky, a slope for each": (lambda x: torch.where(x > 0, x, x * like(PROBABLE, x)), None, True),
    "leaky of convex": (lambda x: torch.where(x.abs() > 1, x.abs(), 0.5 * x.abs() + 0.5), None, True),
    "huber": (huber, None, True),
    "huber, a tenth wide": (
        lambda x: torch.where(x.abs() <= 0.1, 0.5 * x * x, 0.1 * (x.abs() - 0.05)), None, True),
    "huber, too low": (lambda x: torch.where(x.abs() < 1, 0.5 * x * x, x.abs() - 0.4), None, False),
    "huber, one side": (lambda x: torch.where(x > 0, huber(x), torch.zeros_like(x)), None, True),
    "huber of a norm": (lambda x: huber(x.norm(**K)), None, True),
    "elu": (lambda x: torch.where(x > 0, x, x.exp() - 1), None, True),
    "elu by expm1, half": (lambda x: torch.where(x > 0, x, 0.5 * torch.expm1(x)), None, True),
    "elu, too steep": (lambda x: torch.where(x > 0, x, 1.5 * torch.expm1(x)), None, False),
    "squared hinge": (lambda x: torch.where(x < 1, (1 - x) ** 2, torch.zeros_like(x)), None, True),
    "cube": (lambda x: torch.where(x > 0, x**3, torch.zeros_like(x)), None, True),
    "cube, the wrong side": (lambda x: torch.where(x < 0, x**3, torch.zeros_like(x)), None, False),
    "two thresholds": (
        lambda x: torch.where(x > 1, 2 * x - 1, torch.where(x > -1, x, 0.5 * x - 0.5)), None, True),
    "and": (lambda x: torch.where((x > -1) & (x < 1), 0.0, x.abs() - 1), None, True),
    "or": (lambda x: torch.where((x < -1) | (x > 1), x.abs() - 1, torch.zeros_like(x)), None, True),
    "and, the wrong way": (lambda x: torch.where((x > 0) & (x < 1), x, torch.zeros_like(x)), None, False),
    "max by where": (lambda x: torch.where(x[:, :2] > x[:, 2:], x[:, :2], x[:, 2:]), None, True),
    "min by where": (lambda x: torch.where(x[:, :2] > x[:, 2:], x[:, 2:], x[:, :2]), None, False),
    "max of convex by where": (
        lambda x: torch.where(x.square() > x.abs() + 1, x.square(), x.abs() + 1), None, True),
    "max across the batch": (lambda x: torch.where(x > x.flip(0), x, x.flip(0)), None, False),
    "clamp": (lambda x: x.clamp(-1, 1), None, False),
    "less its clamp": (lambda x: x - x.clamp(-1, 1), None, False),
    "distance to a box": (lambda x: (x - x.clamp(-1, 1)).norm(**K), None, True),
    "distance to a box, squared": (lambda x: (x - x.clamp(-1, 1)).square().sum(1), None, True),
    "distance to a box, the sum": (lambda x: (x - x.clamp(-1, 1)).abs().sum(1), None, True),
    "distance to half a box": (lambda x: (x - 0.5 * x.clamp(-1, 1) - 1).norm(**K), None, False),
    "a constant written with relus": (lambda x: x.relu() - (-x).relu() + x.clamp(-1, 1) - x.clamp(-1, 1), None, False),
    "largest by argmax": (lambda x: x.gather(1, x.argmax(1, keepdim=True)), None, True),
    "smallest by argmin": (lambda x: x.gather(1, x.argmin(1, keepdim=True)), None, False),
    "another by argmax": (lambda x: x.gather(1, x.abs().argmax(1, keepdim=True)), None, False),
    "x + relu of a choice": (lambda x: torch.where(x > 0, x, 0.0).relu() + x, None, True),
}  # fmt: skip
SORTED: dict[str, Row] = {
    "topk(1)": (lambda x: x.topk(1, 1).values, None, True),
    "topk(2), the sum": (lambda x: x.topk(2, 1).values.sum(1), None, True),
    "topk(2), unsorted": (lambda x: x.topk(2, 1, sorted=False).values.mean(1), None, True),
    "topk(2), the second": (lambda x: x.topk(2, 1).values[:, 1:], None, False),
    "topk(3), falling weights": (lambda x: (x.topk(3, 1).values * torch.tensor([3.0, 1.0, 1.0]).to(x)).sum(1), None,
                                 True),
    "topk(2), a negative weight": (lambda x: x.topk(2, 1).values @ torch.tensor([1.0, -1e-30]).to(x), None, False),
    "topk(2), rising by an ulp": (lambda x: x.topk(2, 1).values @ torch.tensor([1.0, ABOVE_ONE]).double().to(x)
                                  if x.dtype == torch.float64 else x.topk(2, 1).values @ torch.tensor([1.0, 1.0000002]),
                                  None, False),
    "topk(3) of convex": (lambda x: x.abs().topk(3, 1).values.sum(1), None, True),
    "smallest two": (lambda x: -x.topk(2, 1, largest=False).values.sum(1), None, True),
    "smallest two, convex": (lambda x: x.topk(2, 1, largest=False).values.sum(1), None, False),
    "topk over the batch": (lambda x: x.topk(1, 0).values.sum(0), None, False),
    "sort, the last": (lambda x: x.sort(1).values[:, -1:], None, True),
    "sort, the last two": (lambda x: x.sort(1).values[:, -2:].sum(1), None, True),
    "sort, rising weights": (lambda x: x.sort(1).values @ UP.to(x), None, True),
    "sort, falling weights": (lambda x: x.sort(1).values @ UP.flip(0).to(x), None, False),
    "sort descending": (lambda x: x.sort(1, descending=True).values @ UP.flip(0).to(x), None, True),
    "sort of convex, rising weights below zero": (lambda x: x.abs().sort(1).values @ UP.to(x), None, False),
    "sort of convex": (lambda x: x.abs().sort(1).values @ UP.abs().sort().values.to(x), None, True),
    "sort by linear": (lambda x: F.linear(x.sort(1).values, torch.stack([UP, UP + 1]).to(x)), None, True),
    "a median": (lambda x: x.median(1).values, None, False),
    "the third": (lambda x: x.kthvalue(3, 1).values, None, False),
    "range": (lambda x: x.sort(1).values @ torch.tensor([-1.0, 0.0, 0.0, 1.0]).to(x), None, True),
}  # fmt: skip
OTHERS: dict[str, Row] = {
    "cumsum": (lambda x: x.abs().cumsum(1), None, True),
    "cummax": (lambda x: x.cummax(1).values, None, True),
    "cummin": (lambda x: x.cummin(1).values, None, False),
    "logcumsumexp": (lambda x: x.logcumsumexp(1), None, True),
    "diff": (lambda x: x.diff(dim=1).abs(), None, True),
    "diff of convex": (lambda x: x.abs().diff(dim=1), None, False),
    "logaddexp": (lambda x: torch.logaddexp(x[:, :2], x[:, 2:].abs()), None, True),
    "logaddexp2": (lambda x: torch.logaddexp2(x, torch.zeros_like(x)), None, True),
    "hypot": (lambda x: torch.hypot(x, torch.ones_like(x)), None, True),
    "hypot of convex": (lambda x: torch.hypot(x.abs() - 1, x), None, False),
    "var_mean": (lambda x: torch.var_mean(x, 1)[0], None, True),
    "std_mean": (lambda x: torch.std_mean(x, 1, keepdim=True)[0], None, True),
    "aminmax": (lambda x: torch.aminmax(x, dim=1)[1], None, True),
    "index_add": (lambda x: torch.zeros(x.shape[0], 2, dtype=x.dtype).index_add(1, PAIRS, x.abs()), None, True),
    "index_add, turned": (
        lambda x: torch.zeros(x.shape[0], 2, dtype=x.dtype).index_add(1, PAIRS, x.abs(), alpha=-1), None, False),
    "scatter_add": (lambda x: x.scatter_add(1, PAIRS.expand(x.shape[0], 4), x.abs()), None, True),
    "scatter": (lambda x: x.abs().scatter(1, PAIRS[1:3].expand(x.shape[0], 2), x[:, :2]), None, True),
    "scatter_reduce, largest": (lambda x: pooled(x, "amax", own=False), None, True),
    "scatter_reduce, average": (lambda x: pooled(x, "mean"), None, True),
    "scatter_reduce, smallest": (lambda x: pooled(x, "amin"), None, False),
    "fold": (lambda x: F.fold(F.unfold(x.abs().view(-1, 1, 2, 2), 2, padding=1), (2, 2), 2, padding=1), None, True),
    "nan_to_num": (lambda x: x.abs().nan_to_num(), None, True),
    "nan_to_num of a root": (lambda x: -x.sqrt().nan_to_num(), None, False),
    "fmax": (lambda x: torch.fmax(x, -x), None, True),
    "pairwise distance": (lambda x: F.pairwise_distance(x, like(C, x)), None, True),
    "addcdiv": (lambda x: torch.addcdiv(x, x.abs(), like(PROBABLE, x), value=0.5), None, True),
    "addcdiv, turned": (lambda x: torch.addcdiv(x, x.abs(), like(PROBABLE, x), value=-0.5), None, False),
    "grid": (lambda x: F.grid_sample(x.abs().view(-1, 1, 2, 2), torch.full((x.shape[0], 1, 2, 2), 0.3, dtype=x.dtype),
                                     align_corners=True), None, True),
    "grid, cubic": (
        lambda x: F.grid_sample(x.abs().view(-1, 1, 2, 2), torch.full((x.shape[0], 1, 2, 2), 0.3, dtype=x.dtype),
                                mode="bicubic", align_corners=True), None, False),
}  # fmt: skip
ROWS = {
    f"{group}: {name}": row
    for group, rows in (("loss", LOSSES), ("choice", CHOICES), ("sorted", SORTED), ("other", OTHERS))
    for name, row in rows.items()
}


def points(low: float, high: float, seed: int) -> Tensor:
    """Pairs of points (2, N, 4): anywhere, near zero, on a lattice where there are ties."""
    generator = torch.Generator().manual_seed(seed)
    wide = low + (high - low) * torch.rand(2, 600, 4, generator=generator, dtype=torch.float64)
    lattice = (4 * wide).round() / 4
    mixed = torch.where(torch.rand(2, 600, 4, generator=generator) < 0.5, lattice, wide)
    near = (wide * 1e-3).clamp(low, high)
    return torch.cat([wide, lattice, mixed, near], 1)


@pytest.mark.parametrize("name", ROWS)
def test_what_is_convex_is_certified_and_nothing_else(name: str, seed: int) -> None:
    function, box, convex = ROWS[name]
    module = Function(function)
    low, high = box or (-3.0, 3.0)
    domain = None if box is None else cx.Box(low, high, shape=(4,))
    certificate = cx.certify(module, torch.full((2, 4), (low + high) / 2), domain=domain)
    assert certificate.convex == convex, str(certificate)
    if not convex:
        assert certificate.findings
        return
    a, b = points(low, high, seed)
    with torch.no_grad():
        here, there, between = (module(x) for x in (a, b, (a + b) / 2))
    above = between - (here + there) / 2
    assert float((above / (1 + here.abs() + there.abs())).max()) < 1e-12


class Labelled(nn.Module):
    """A loss of logits whose labels are another input."""

    def __init__(self, how: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.how(x, y)


@pytest.mark.parametrize(
    ("how", "convex"),
    [
        (lambda x, y: F.cross_entropy(x, y, reduction="none"), True),
        (lambda x, y: F.cross_entropy(x.abs(), y, reduction="none"), False),
        (lambda x, y: x.logsumexp(1) - x.gather(1, y[:, None])[:, 0], True),
        (lambda x, y: x.abs().gather(1, y[:, None]), True),
        (lambda x, y: -x.abs().gather(1, y[:, None]), False),
        (lambda x, y: F.nll_loss(x.log_softmax(1), y, reduction="none"), True),
        (lambda x, y: F.multi_margin_loss(x, y, reduction="none"), True),
    ],
)
def test_labels_may_be_another_input(how: Callable[[Tensor, Tensor], Tensor], convex: bool) -> None:
    example = (torch.zeros(2, 4), torch.tensor([0, 3]))
    certificate = cx.certify(Labelled(how), example, wrt=0)
    assert certificate.convex == convex, str(certificate)


TARGET = torch.tensor([0.25, -0.5, 0.5, 2.0])
MINIMA: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "lt": (lambda x: huber(x - TARGET.to(x)).sum(1), 0.5),
    "sign": (lambda x: ((x - TARGET.to(x)) * (x - TARGET.to(x)).sign()).sum(1), 1.0),
    "topk": (lambda x: (x - TARGET.to(x)).abs().topk(2, 1).values.sum(1), 1.0),
    "cummax": (lambda x: (x - TARGET.to(x)).abs().cummax(1).values.sum(1), 1.0),
    "smooth_l1_loss": (lambda x: F.smooth_l1_loss(x, like(TARGET, x), reduction="none").sum(1), 0.5),
    "clamp": (lambda x: (x + 2 - (x + 2).clamp(-1, 1)).norm(dim=1), 0.0),
}


PIECES = ("sign", "topk", "cummax")
"""Those that are maxima of affine functions, which a linear program holds."""


@pytest.mark.parametrize("name", MINIMA)
def test_what_is_written_by_hand_is_minimised_as_a_whole(name: str) -> None:
    function, least = MINIMA[name]
    module, box = Function(function), cx.Box(-1.0, 1.0, shape=(4,))
    found = cx.minimise(module, box)
    assert float(found.lower_bound) <= least <= float(found.value)
    assert float(found.gap) < 1e-4
    if name not in PIECES:
        with pytest.raises(cx.NotCertified, match=f"aten.({name}|where)"):
            cx.to_lp(module, box)
        return
    pytest.importorskip("highspy")
    lp = cx.to_lp(module, box)
    lp.run()
    assert float(lp.getInfo().objective_function_value) == pytest.approx(least, abs=1e-6)


def test_flags_that_rounding_may_have_turned_count_in_errors() -> None:
    rounding, A = Rounding(), torch.ops.aten
    u = Tracked(torch.tensor([[-1e-17, 1.0]]).double(), torch.full((1, 2), 1e-16).double())
    flags = rounding("gt", A.gt.Scalar, (u, 0.0), {})
    chosen = rounding("where", A.where.ScalarOther, (flags, u, 0.0), {})
    assert float(chosen.error[0, 0]) >= 1e-16  # it is 0, and may be as large as 9e-17
    assert float(rounding("mul", A.mul.Tensor, (u, flags), {}).error[0, 0]) >= 1e-17
    assert float(rounding("sign", A.sign.default, (u,), {}).error[0, 0]) == 2.0
    assert float(rounding("sign", A.sign.default, (u,), {}).error[0, 1]) < 1e-12
