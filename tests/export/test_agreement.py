"""Solvers and exporters read one form: what `minimise` finds of every lowered operator is its exports' optimum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import convexnet as cx
from convexnet.form.operators import LOWERED
from tests.modules import Function

cp = pytest.importorskip("cvxpy")
pytest.importorskip("highspy")

A = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).double()
SLOPES = torch.tensor([0.2, -0.4, 0.0, 1.0]).double()
SIGNS = torch.tensor([1.0, -1.0, 1.0, -1.0]).double()
ROWS = torch.randn(2, 4, generator=torch.Generator().manual_seed(2)).double()
inf = float("inf")
aten = torch.ops.aten


def picture(a: Tensor) -> Tensor:
    return a.repeat(1, 4).view(-1, 1, 4, 4)


LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda a: a.relu(),
    "leaky_relu": lambda a: F.leaky_relu(a, 0.3),
    "prelu": lambda a: F.prelu(a, SLOPES),
    "_prelu_kernel": lambda a: aten._prelu_kernel(a, SLOPES.view(1, 4)),
    "rrelu": lambda a: F.rrelu(a, 0.1, 0.3),
    "abs": lambda a: a.abs(),
    "maximum": lambda a: torch.maximum(a[:, :2].abs(), a[:, 2:]),
    "minimum": lambda a: -torch.minimum(a[:, :2], -a[:, 2:].relu()),
    "max": lambda a: a.max(1, keepdim=True)[0] + torch.max(a, a.flip(1).abs()),
    "min": lambda a: -a.min(1)[0],
    "amax": lambda a: a.abs().view(-1, 2, 2).amax((1, 2)),
    "amin": lambda a: -a.view(-1, 2, 2).amin(2),
    "fmax": lambda a: torch.fmax(a[:, :2].abs(), a[:, 2:]),
    "fmin": lambda a: -torch.fmin(a[:, :2], a[:, 2:]),
    "l1_loss": lambda a: F.l1_loss(a, SLOPES.expand_as(a), reduction="none"),
    "clamp": lambda a: a.abs().clamp(min=0.5) - a.clamp(max=0.2),
    "clamp_min": lambda a: aten.clamp_min(a, 0.1),
    "clamp_max": lambda a: -aten.clamp_max(a, 0.1),
    "threshold": lambda a: F.threshold(a, 0.3, 0.3),
    "max_pool1d": lambda a: F.max_pool1d(a[:, None], 2, 1, 1),
    "max_pool2d": lambda a: F.max_pool2d(picture(a), 2),
    "max_pool3d": lambda a: F.max_pool3d(picture(a)[:, None], (1, 2, 2)),
    **{
        f"max_pool{d}d_with_indices": lambda a, d=d: getattr(aten, f"max_pool{d}d_with_indices")(
            {1: a[:, None], 2: picture(a), 3: picture(a)[:, None]}[d], [1] * (d - 1) + [2]
        )[0]
        for d in (1, 2, 3)
    },
    "adaptive_max_pool1d": lambda a: F.adaptive_max_pool1d(a[:, None], 3),
    "adaptive_max_pool2d": lambda a: F.adaptive_max_pool2d(picture(a), (2, 3)),
    "adaptive_max_pool3d": lambda a: F.adaptive_max_pool3d(picture(a)[:, None], (1, 2, 3)),
    "aminmax": lambda a: torch.aminmax(a.abs(), dim=1)[1] - torch.aminmax(a, dim=1)[0],
    "cummax": lambda a: a.cummax(1)[0],
    "cummin": lambda a: -a.view(-1, 2, 2).cummin(-1)[0],
    "cdist": lambda a: torch.cdist(a[:, None], ROWS, p=1.0)[:, 0] + torch.cdist(a[:, None], ROWS, p=inf)[:, 0],
    "topk": lambda a: (
        (a.abs().topk(3, 1)[0] @ a.new_tensor([0.5, 0.3, 0.3]))[:, None] - a.topk(2, 1, False)[0].sum(1, True)
    ),
    "sort": lambda a: (a.sort(1)[0] @ SLOPES.sort()[0])[:, None] + a.view(-1, 2, 2).sort(2, True)[0][..., 0],
    "pairwise_distance": lambda a: F.pairwise_distance(a, SLOPES.expand_as(a), p=1.0),
    "hinge_embedding_loss": lambda a: F.hinge_embedding_loss(a, SIGNS.expand_as(a), 0.3, reduction="none"),
    "margin_ranking_loss": lambda a: F.margin_ranking_loss(a, a.flip(1) / 2, SIGNS.expand_as(a), 0.2, reduction="none"),
}
"""Convex functions of affine ones (B, 4), each with its operator."""

CURVED: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": lambda a: F.elu(a, 0.6),
    "celu": lambda a: F.celu(a, 0.5),
    "softplus": lambda a: F.softplus(a, beta=2.0),
    "log_sigmoid": lambda a: -F.logsigmoid(a),
    "exp": lambda a: a.exp(),
    "exp2": lambda a: a.exp2(),
    "expm1": lambda a: a.expm1(),
    "cosh": lambda a: a.cosh(),
    "square": lambda a: a.square(),
    "pow": lambda a: a**4 + a.abs() ** 3 + 0.3 * a.relu() ** 1.5,
    "mul": lambda a: (b := a - 0.2) * b,
    "logsumexp": lambda a: torch.cat([a, a[:, :1].abs()], 1).logsumexp(1),
    "log_softmax": lambda a: -a.log_softmax(1)[:, 1],
    "_log_softmax": lambda a: -aten._log_softmax(a, 1, False)[:, 0],
    "linalg_vector_norm": lambda a: sum(torch.linalg.vector_norm(a - 0.3, p, 1) for p in (1, 2, float("inf"))),
    "hypot": lambda a: torch.hypot(a[:, :2], a[:, 2:].abs()),
    "logaddexp": lambda a: torch.logaddexp(a[:, :2], a[:, 2:].abs()),
    "mse_loss": lambda a: F.mse_loss(a, SLOPES.expand_as(a), reduction="none"),
    "var": lambda a: a.var(1, keepdim=True) + a.view(-1, 2, 2).var((1, 2), correction=0)[:, None],
    "std": lambda a: a.std(1, correction=0),
    "var_mean": lambda a: sum(torch.var_mean(a, 1)),
    "std_mean": lambda a: sum(torch.std_mean(a, 1, keepdim=True)),
    "logaddexp2": lambda a: torch.logaddexp2(a[:, :2], a[:, 2:].abs()),
    "logcumsumexp": lambda a: a.logcumsumexp(1),
    "special_exp2": lambda a: torch.special.exp2(a),
    "special_expm1": lambda a: torch.special.expm1(a),
    "huber_loss": lambda a: F.huber_loss(a, SLOPES.expand_as(a), reduction="none", delta=0.4),
    "smooth_l1_loss": lambda a: F.smooth_l1_loss(a, SLOPES.expand_as(a), reduction="none", beta=0.3),
    "soft_margin_loss": lambda a: F.soft_margin_loss(a, SIGNS.expand_as(a), reduction="none"),
    "poisson_nll_loss": lambda a: F.poisson_nll_loss(a, SLOPES.abs().expand_as(a), reduction="none"),
    "binary_cross_entropy_with_logits": lambda a: F.binary_cross_entropy_with_logits(
        a, SLOPES.abs().expand_as(a), SLOPES.abs(), pos_weight=SLOPES.abs(), reduction="none"
    ),
    "norm": lambda a: aten.norm.ScalarOpt_dim(a.abs() + 0.1, 2, [1]),
}


POSITIVE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Any], Any]]] = {
    "sqrt": (lambda a: -a.sqrt(), lambda a: -cp.sqrt(a)),
    "rsqrt": (lambda a: a.rsqrt(), lambda a: cp.power(a, -0.5)),
    "reciprocal": (lambda a: a.reciprocal(), cp.inv_pos),
    "div": (lambda a: SLOPES.abs() / a, lambda a: cp.multiply(SLOPES.abs().numpy(), cp.inv_pos(a))),
    "log": (lambda a: -a.log(), lambda a: -cp.log(a)),
    "log1p": (lambda a: -a.log1p(), lambda a: -cp.log1p(a)),
    "special_log1p": (lambda a: -torch.special.log1p(a), lambda a: -cp.log1p(a)),
    "log2": (lambda a: -a.log2(), lambda a: -cp.log(a) / np.log(2)),
    "log10": (lambda a: -a.log10(), lambda a: -cp.log(a) / np.log(10)),
    "special_entr": (lambda a: -torch.special.entr(a), lambda a: -cp.entr(a)),
    "xlogy": (lambda a: torch.xlogy(a, a), lambda a: -cp.entr(a)),
    "special_xlogy": (lambda a: -torch.special.xlogy(SLOPES.abs(), a), lambda a: -SLOPES.abs().numpy() @ cp.log(a)),
    "pow": (lambda a: a**3 + a**1.5 - a**0.5 + a**-2, lambda a: a**3 + a**1.5 - a**0.5 + a**-2),
}
"""Convex for positive arguments only: in PyTorch, and in CVXPY itself."""


CLOSED: dict[str, Callable[[Tensor], Tensor]] = {
    "linalg_matrix_norm": lambda a: (
        torch.linalg.matrix_norm(a.view(-1, 2, 2), 1) + torch.linalg.matrix_norm(a.view(-1, 2, 2) + 0.2, inf)
    ),
    "linalg_norm": lambda a: torch.linalg.norm(a - 0.2, 1, 1) + torch.linalg.norm(a.view(-1, 2, 2), inf, (1, 2)),
    "multi_margin_loss": lambda a: F.multi_margin_loss(a, a.new_ones(len(a), dtype=torch.int64), reduction="none"),
    "cross_entropy_loss": lambda a: F.cross_entropy(a, SLOPES.abs().expand_as(a), reduction="none"),
}
"""Operators that torch.export records for one size of the batch only: minimise takes them as a whole."""


CONELESS: dict[str, Callable[[Tensor], Tensor]] = {
    "lgamma": lambda a: a.lgamma(),
    "special_gammaln": lambda a: torch.special.gammaln(a),
    "special_log_ndtr": lambda a: -torch.special.log_ndtr(a),
}
"""Smooth functions that no conic solver knows a form of."""


def test_every_lowered_operator_is_met() -> None:
    assert {*LINEAR, *CURVED, *POSITIVE, *CONELESS, *CLOSED} == {*LOWERED}


def test_functions_without_a_cone_are_opened_by_minimise_and_refused_by_exports() -> None:
    matrix = A.abs() + 0.1

    def f(y: Tensor) -> Tensor:
        return sum(function(y @ matrix.T + 0.1).sum(1) for function in CONELESS.values()) + y[:, 0]

    found = cx.minimise(Function(f), cx.Box(torch.full((3,), 0.2).double(), torch.full((3,), 2.0).double()), tol=1e-8)
    assert bool(found.converged), found.message
    assert found.solver == "newton"
    low = torch.tensor([0.2, 0.2, 0.2]).double()
    for step in torch.eye(3).double() * 1e-4:  # no neighbour is lower
        for way in (step, -step):
            assert float(f((found.x + way).clamp(low, torch.tensor(2.0).double()))) >= float(found.lower_bound)
    with pytest.raises(cx.NotCertified, match="no cone"):
        cx.to_cvxpy(Function(lambda y: CONELESS["special_log_ndtr"](y @ A.T).sum(1)), cp.Variable(3))


@pytest.mark.parametrize("name", POSITIVE)
def test_functions_of_positive_numbers_have_the_minima_of_cvxpy(name: str) -> None:
    ours, theirs = POSITIVE[name]
    tilt = torch.tensor([0.3, -0.4, 0.9]).double()
    matrix = A.abs() + 0.1

    def f(y: Tensor) -> Tensor:
        return ours(y @ matrix.T + 0.1).sum(1) + (y @ tilt)

    model = Function(f)
    model.register_buffer("matrix", matrix)
    found = cx.minimise(model, cx.Box(torch.full((3,), 0.2).double(), torch.full((3,), 2.0).double()), tol=1e-8)
    assert bool(found.converged), found.message
    assert found.solver == "newton"
    y = cp.Variable(3)
    cost = cp.sum(theirs(matrix.numpy() @ y + 0.1)) + tilt.numpy() @ y
    problem = cp.Problem(cp.Minimize(cost), [y >= 0.2, y <= 2])
    problem.solve(solver="CLARABEL")
    room = 2e-6 * (1 + abs(problem.value))
    assert float(found.lower_bound) - room <= problem.value <= float(found.value) + room
    bounded = cp.Variable(3, bounds=[0.2, 2])
    exported = cp.Problem(cp.Minimize(cx.to_cvxpy(model, bounded)))
    exported.solve(solver="CLARABEL")
    assert abs(exported.value - problem.value) <= room


class Summed(Function):
    """Different weights, so that what one operator lacks is not what another has too much."""

    def __init__(self, functions: dict[str, Callable[[Tensor], Tensor]], names: list[str]) -> None:
        super().__init__(self.total)
        self.functions, self.names = functions, names
        self.register_buffer("matrix", A)

    def total(self, y: Tensor) -> Tensor:
        a, out = y @ A.T + 0.1, 0.3 * y.sum(1)
        for i, name in enumerate(self.names):
            part = self.functions[name](a).unsqueeze(-1).flatten(1)
            out = out + (part * torch.linspace(1, 1.2 + 0.1 * i, part.shape[1], dtype=torch.float64)).sum(1)
        return out


GROUPS = [(group, part) for group in (LINEAR, CURVED) for part in range(3)] + [(CLOSED, 0)]


@pytest.mark.parametrize(("group", "part"), GROUPS, ids=lambda value: str(value)[:12] if isinstance(value, int) else "")
def test_minimise_and_the_exporters_agree(group: dict[str, Callable[[Tensor], Tensor]], part: int) -> None:
    model = Summed(group, sorted(group)[part :: 1 if group is CLOSED else 3])
    lo, hi = torch.tensor([-1.0, -0.5, 0.2]).double(), torch.tensor([1.0, 0.7, 0.9]).double()
    found = cx.minimise(model, cx.Box(lo, hi), tol=1e-8)
    value, bound = float(found.value), float(found.lower_bound)
    assert bool(found.converged), found.message
    assert ("alone" in found.message) == (group is CLOSED), "it was not opened"
    y = cp.Variable(3)
    problem = cp.Problem(cp.Minimize(cx.to_cvxpy(model, y)), [y >= lo.numpy(), y <= hi.numpy()])
    problem.solve(solver="CLARABEL")
    optima = [float(problem.solution.opt_val)]
    if group is LINEAR:
        lp = cx.to_lp(model, cx.Box(lo, hi))
        lp.run()
        optima.append(float(lp.getInfo().objective_function_value))
    for optimum in optima:
        room = 2e-6 * (1 + abs(optimum))
        assert bound - room <= optimum <= value + room
