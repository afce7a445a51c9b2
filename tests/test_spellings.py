"""Other spellings of what people write: CVXPY is an oracle for their values, curvatures and optima.

Methods and functions, keywords and places, negative and kept dimensions, broadcast constants, other operators for the
same function. What is convex is certified, and `minimise` finds the optimum that CVXPY finds; what is near and not
convex is not certified.

Long because it is a list.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import convexnet as cx
from tests.modules import Function

cp = pytest.importorskip("cvxpy")
pytestmark = pytest.mark.filterwarnings("ignore:Solution may be inaccurate", "ignore:.*is being approximated")

K: dict[str, Any] = {"dim": -1, "keepdim": True}
inf = math.inf
EVERYWHERE, POSITIVE, ABOVE_ONE = (-1.5, 2.0), (0.2, 2.5), (1.1, 3.0)
A = torch.tensor([[1.0, -2.0, 0.5, 0.25], [0.0, 3.0, -1.0, 1.5], [0.5, 0.5, 1.0, -2.0]], dtype=torch.float64)
P = torch.tensor([[2, 0.5, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0.25], [0, 0, 0.25, 2]], dtype=torch.float64)
a = torch.tensor([0.5, -1.0, 2.0, 0.25], dtype=torch.float64)
p = torch.tensor([0.125, 0.25, 0.125, 0.5], dtype=torch.float64)
up = torch.tensor([0.0, 0.5, 0.5, 3.0], dtype=torch.float64)
SIGNS = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
S = 0.25 * torch.eye(4, dtype=torch.float64) + 0.1
Z, C, Q, W = A.numpy(), a.numpy(), P.numpy(), p.numpy()


def one(x: Tensor) -> Tensor:
    return torch.ones_like(x)


def square(x: Tensor) -> Tensor:
    return x.view(-1, 2, 2)


def matrix(x: Any) -> Any:
    return cp.reshape(x, (2, 2), order="C")


def both(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :2], x[:, 2:]


Spelling = tuple[Callable[[Tensor], Tensor], Callable[[Any], Any], tuple[float, float]]
# fmt: off
SPELLINGS: dict[str, Spelling] = {
    # --- element by element
    "abs by abs()": (lambda x: torch.absolute(input=x), lambda x: cp.abs(x), EVERYWHERE),
    "abs by maximum": (lambda x: torch.maximum(x, x.neg()), lambda x: cp.abs(x), EVERYWHERE),
    "abs by relus": (lambda x: F.relu(x) + F.relu(x.negative()), lambda x: cp.abs(x), EVERYWHERE),
    "abs by where": (lambda x: torch.where(x.ge(0), x, -x), lambda x: cp.abs(x), EVERYWHERE),
    "abs by sign": (lambda x: x.sign().mul(x), lambda x: cp.abs(x), EVERYWHERE),
    "abs by root": (lambda x: x.pow(2).sqrt(), lambda x: cp.abs(x), EVERYWHERE),
    "abs by pow 0.5": (lambda x: (x * x) ** 0.5, lambda x: cp.abs(x), EVERYWHERE),
    "relu by clamp": (lambda x: x.clamp(min=0), lambda x: cp.pos(x), EVERYWHERE),
    "relu by clip": (lambda x: torch.clip(x, min=0.0), lambda x: cp.pos(x), EVERYWHERE),
    "relu by clamp_min": (lambda x: x.clamp_min(0), lambda x: cp.pos(x), EVERYWHERE),
    "relu by where": (lambda x: x.where(x > 0, 0.0), lambda x: cp.pos(x), EVERYWHERE),
    "relu by masked_fill": (lambda x: x.masked_fill(x <= 0, 0), lambda x: cp.pos(x), EVERYWHERE),
    "relu by a mask": (lambda x: (x > 0).double() * x, lambda x: cp.pos(x), EVERYWHERE),
    "relu by threshold": (lambda x: F.threshold(x, threshold=0.0, value=0.0), lambda x: cp.pos(x), EVERYWHERE),
    "relu in place": (lambda x: F.relu_(x.clone()), lambda x: cp.pos(x), EVERYWHERE),
    "leaky relu": (lambda x: F.leaky_relu(x, negative_slope=0.25), lambda x: cp.maximum(x, 0.25 * x), EVERYWHERE),
    "prelu": (lambda x: F.prelu(x, weight=one(x)[0, 0, None] / 8), lambda x: cp.maximum(x, x / 8), EVERYWHERE),
    "square by pow": (lambda x: torch.pow(input=x, exponent=2), lambda x: cp.square(x), EVERYWHERE),
    "square by float_power": (lambda x: x * x, lambda x: cp.square(x), EVERYWHERE),
    "square by abs": (lambda x: x.abs() ** 2, lambda x: cp.square(x), EVERYWHERE),
    "square, shifted": (lambda x: torch.square(x.sub(a, alpha=2)), lambda x: cp.square(x - 2 * C), EVERYWHERE),
    "square from rsub": (lambda x: (1 - x).pow(2), lambda x: cp.square(1 - x), EVERYWHERE),
    "power 1.5 of abs": (lambda x: x.abs().pow(1.5), lambda x: cp.power(cp.abs(x), 1.5), EVERYWHERE),
    "cube of relu": (lambda x: x.relu().pow(3), lambda x: cp.power(cp.pos(x), 3), EVERYWHERE),
    "squared hinge": (lambda x: F.relu(1 - x).square(), lambda x: cp.square(cp.pos(1 - x)), EVERYWHERE),
    "exp2": (lambda x: torch.exp2(x), lambda x: cp.exp(math.log(2) * x), EVERYWHERE),
    "2 to the x": (lambda x: 2.0**x, lambda x: cp.exp(math.log(2) * x), EVERYWHERE),
    "expm1": (lambda x: x.expm1().add(1), lambda x: cp.exp(x), EVERYWHERE),
    "cosh": (lambda x: 2 * x.cosh(), lambda x: cp.exp(x) + cp.exp(-x), EVERYWHERE),
    "exp of a square": (lambda x: x.square().exp(), lambda x: cp.exp(cp.square(x)), (-1.0, 1.0)),
    "softplus": (lambda x: F.softplus(x, beta=2.0), lambda x: cp.logistic(2 * x) / 2, EVERYWHERE),
    "softplus by log1p": (lambda x: torch.log1p(torch.exp(x)), lambda x: cp.logistic(x), EVERYWHERE),
    "softplus by logsigmoid": (lambda x: -F.logsigmoid(-x), lambda x: cp.logistic(x), EVERYWHERE),
    "softplus by logaddexp": (
        lambda x: torch.logaddexp(x, torch.zeros((), dtype=x.dtype)), lambda x: cp.logistic(x), EVERYWHERE),
    "log cosh": (lambda x: x + F.softplus(-2 * x), lambda x: x + cp.logistic(-2 * x), EVERYWHERE),
    "pseudo huber": (lambda x: (1 + x**2).sqrt(), lambda x: cp.norm(cp.vstack([x, np.ones(4)]), axis=0), EVERYWHERE),
    "pseudo huber by hypot": (
        lambda x: torch.hypot(x, one(x)), lambda x: cp.norm(cp.vstack([x, np.ones(4)]), axis=0), EVERYWHERE),
    "huber": (lambda x: F.huber_loss(input=x, target=0 * one(x), reduction="none", delta=0.5),
              lambda x: cp.huber(x, 0.5) / 2, EVERYWHERE),
    "huber by smooth l1": (lambda x: 0.5 * F.smooth_l1_loss(x, 0 * one(x), reduction="none", beta=0.5),
                           lambda x: cp.huber(x, 0.5) / 2, EVERYWHERE),
    "huber by where": (lambda x: torch.where(x.abs() <= 0.5, x.square() / 2, 0.5 * x.abs() - 0.125),
                       lambda x: cp.huber(x, 0.5) / 2, EVERYWHERE),
    "minus log by log2": (lambda x: -math.log(2) * x.log2(), lambda x: -cp.log(x), POSITIVE),
    "minus log of a reciprocal": (lambda x: x.reciprocal().log(), lambda x: -cp.log(x), POSITIVE),
    "minus log1p": (lambda x: x.add(1).log().neg(), lambda x: -cp.log1p(x), POSITIVE),
    "minus root": (lambda x: torch.pow(x, 0.5).neg(), lambda x: -cp.sqrt(x), POSITIVE),
    "inverse by div": (lambda x: torch.div(1.0, x), lambda x: cp.inv_pos(x), POSITIVE),
    "inverse by pow": (lambda x: x**-1, lambda x: cp.inv_pos(x), POSITIVE),
    "inverse root": (lambda x: x.rsqrt(), lambda x: cp.power(x, -0.5), POSITIVE),
    "inverse square": (lambda x: 1 / x.square(), lambda x: cp.power(x, -2), POSITIVE),
    "x log x": (lambda x: x.log().mul(x), lambda x: -cp.entr(x), POSITIVE),
    "x log x by xlogy": (lambda x: torch.special.xlogy(x, x), lambda x: -cp.entr(x), POSITIVE),
    "x log x by entr": (lambda x: torch.special.entr(x).neg(), lambda x: -cp.entr(x), POSITIVE),
    "x exp x": (lambda x: x.exp() * x, lambda x: cp.xexp(x), POSITIVE),
    "kl": (lambda x: torch.special.xlogy(x, x) - x * a.abs().log() - x + a.abs(),
           lambda x: cp.kl_div(x, np.abs(C)), POSITIVE),
    "relative entropy of two": (lambda x: both(x)[0] * (both(x)[0].div(both(x)[1])).log(),
                                lambda x: cp.rel_entr(x[:2], x[2:]), POSITIVE),
    "quantile": (lambda x: torch.max(0.75 * (x - 1), -0.25 * (x - 1)),
                 lambda x: cp.maximum(0.75 * (x - 1), -0.25 * (x - 1)), EVERYWHERE),
    "quantile by relus": (lambda x: 0.75 * (x - 1).relu() + 0.25 * (1 - x).relu(),
                          lambda x: cp.maximum(0.75 * (x - 1), -0.25 * (x - 1)), EVERYWHERE),
    "epsilon-insensitive": (lambda x: (x.abs() - 0.5).clamp(min=0.0), lambda x: cp.pos(cp.abs(x) - 0.5), EVERYWHERE),
    # --- of vectors
    "max by amax": (lambda x: torch.amax(x, dim=(-1,)), lambda x: cp.max(x), EVERYWHERE),
    "max by max": (lambda x: torch.max(x, dim=-1, keepdim=True).values, lambda x: cp.max(x), EVERYWHERE),
    "max by topk": (lambda x: x.topk(1, dim=-1)[0], lambda x: cp.max(x), EVERYWHERE),
    "max by sort": (lambda x: torch.sort(x, dim=-1, descending=True)[0][..., :1], lambda x: cp.max(x), EVERYWHERE),
    "max by msort": (lambda x: torch.aminmax(x, dim=-1).max, lambda x: cp.max(x), EVERYWHERE),
    "max by argmax": (lambda x: x.gather(-1, x.argmax(-1, keepdim=True)), lambda x: cp.max(x), EVERYWHERE),
    "max by norm": (lambda x: x.norm(p=inf, dim=-1), lambda x: cp.norm_inf(x), EVERYWHERE),
    "minus min": (lambda x: x.amin(**K).neg(), lambda x: -cp.min(x), EVERYWHERE),
    "maximum of halves": (lambda x: torch.fmax(*both(x)), lambda x: cp.maximum(x[:2], x[2:]), EVERYWHERE),
    "maximum by where": (lambda x: torch.where(both(x)[0] < both(x)[1], both(x)[1], both(x)[0]),
                         lambda x: cp.maximum(x[:2], x[2:]), EVERYWHERE),
    "maximum by relu": (lambda x: both(x)[0] + (both(x)[1] - both(x)[0]).relu(),
                        lambda x: cp.maximum(x[:2], x[2:]), EVERYWHERE),
    "range": (lambda x: x.max(1).values - x.min(1).values, lambda x: cp.ptp(x), EVERYWHERE),
    "range by aminmax": (lambda x: (m := torch.aminmax(x, dim=1, keepdim=True)).max - m.min,
                         lambda x: cp.ptp(x), EVERYWHERE),
    "two largest": (lambda x: torch.topk(input=x, k=2, dim=-1, sorted=False).values.sum(-1),
                    lambda x: cp.sum_largest(x, 2), EVERYWHERE),
    "two largest by sort": (lambda x: x.sort(dim=-1).values[..., 2:].sum(-1, keepdim=True),
                            lambda x: cp.sum_largest(x, 2), EVERYWHERE),
    "two smallest": (lambda x: x.sort(-1, descending=True)[0][:, 2:].sum(1).neg(),
                     lambda x: -cp.sum_smallest(x, 2), EVERYWHERE),
    "ordered weights": (lambda x: (x.sort(-1)[0] * up).sum(-1), lambda x: cp.dotsort(x, up.numpy()), EVERYWHERE),
    "ordered weights by einsum": (lambda x: torch.einsum("bi,i->b", x.sort(1)[0], up),
                                  lambda x: cp.dotsort(x, up.numpy()), EVERYWHERE),
    "value at risk": (lambda x: x[:, :1] + (x[:, 1:] - x[:, :1]).clamp(min=0).mean(1, keepdim=True) / 0.25,
                      lambda x: x[0] + cp.sum(cp.pos(x[1:] - x[0])) / 0.75, EVERYWHERE),
    "running maximum": (lambda x: torch.cummax(x, dim=-1)[0], lambda x: cp.cummax(x), EVERYWHERE),
    "total variation": (lambda x: (x[..., 1:] - x[..., :-1]).abs().sum(-1), lambda x: cp.tv(x), EVERYWHERE),
    "norm 1": (lambda x: torch.norm(x, 1, -1), lambda x: cp.norm1(x), EVERYWHERE),
    "norm 1 by hand": (lambda x: x.abs().mean(-1) * 4, lambda x: cp.norm1(x), EVERYWHERE),
    "norm 2": (lambda x: torch.linalg.norm(x, ord=2, dim=-1, keepdim=True), lambda x: cp.norm2(x), EVERYWHERE),
    "norm 2 by hand": (lambda x: x.pow(2).sum(-1).pow(0.5), lambda x: cp.norm2(x), EVERYWHERE),
    "norm 2 by dist": (lambda x: (x - a).norm(p=2, dim=-1), lambda x: cp.norm2(x - C), EVERYWHERE),
    "norm 2 by pairwise_distance": (lambda x: F.pairwise_distance(x, a.expand_as(x), eps=0.0),
                                    lambda x: cp.norm2(x - C), EVERYWHERE),
    "norm 2 by cdist": (lambda x: torch.cdist(x[:, None], A)[:, 0],
                        lambda x: cp.hstack([cp.norm2(x - row) for row in Z]), EVERYWHERE),
    "norm 2 by vmap": (lambda x: torch.vmap(lambda row: row.norm())(x), lambda x: cp.norm2(x), EVERYWHERE),
    "norm 3": (lambda x: torch.linalg.vector_norm(x, ord=3, dim=-1), lambda x: cp.pnorm(x, 3), EVERYWHERE),
    "norm 3 by hand": (lambda x: x.abs().pow(3).sum(-1).pow(1 / 3), lambda x: cp.pnorm(x, 3), EVERYWHERE),
    "norm 1.5": (lambda x: x.norm(p=1.5, dim=1), lambda x: cp.pnorm(x, 1.5), EVERYWHERE),
    "norms of groups": (lambda x: x.unflatten(-1, (2, 2)).norm(dim=-1).sum(-1),
                        lambda x: cp.mixed_norm(matrix(x), 2, 1), EVERYWHERE),
    "distance to a box": (lambda x: (x - x.clamp(-0.5, 0.5)).norm(dim=-1),
                          lambda x: cp.norm2(cp.pos(cp.abs(x) - 0.5)), EVERYWHERE),
    "distance to a ball": (lambda x: F.relu(x.norm(dim=-1) - 1), lambda x: cp.pos(cp.norm2(x) - 1), EVERYWHERE),
    "log-sum-exp": (lambda x: torch.logsumexp(x, dim=[-1]), lambda x: cp.log_sum_exp(x), EVERYWHERE),
    "log-sum-exp by hand": (lambda x: x.exp().sum(dim=-1, keepdim=True).log(), lambda x: cp.log_sum_exp(x), EVERYWHERE),
    "log-sum-exp, shifted": (
        lambda x: (m := x.amax(1, keepdim=True)) + (x - m).exp().sum(1, keepdim=True).log(),
        lambda x: cp.log_sum_exp(x), EVERYWHERE),
    "log-sum-exp of log_softmax": (lambda x: -F.log_softmax(x, dim=-1)[:, 1],
                                   lambda x: cp.log_sum_exp(x) - x[1], EVERYWHERE),
    "cross entropy": (
        lambda x: F.cross_entropy(x, torch.ones(x.shape[0], dtype=torch.int64), reduction="none"),
        lambda x: cp.log_sum_exp(x) - x[1], EVERYWHERE),
    "cross entropy of probabilities": (lambda x: F.cross_entropy(x, p.expand(x.shape[0], 4), reduction="none"),
                                       lambda x: cp.log_sum_exp(x) - W @ x, EVERYWHERE),
    "logits": (lambda x: F.binary_cross_entropy_with_logits(x, p.expand_as(x), reduction="none"),
               lambda x: cp.logistic(x) - cp.multiply(W, x), EVERYWHERE),
    "multi-class hinge": (
        lambda x: F.multi_margin_loss(x, torch.zeros(x.shape[0], dtype=torch.int64), reduction="none"),
        lambda x: cp.sum(cp.pos(1 + x[1:] - x[0])) / 4, EVERYWHERE),
    "sum of squares by einsum": (lambda x: torch.einsum("bi,bi->b", x, x), lambda x: cp.sum_squares(x), EVERYWHERE),
    "sum of squares by matmul": (lambda x: (x[:, None] @ x[:, :, None])[:, 0, 0],
                                 lambda x: cp.sum_squares(x), EVERYWHERE),
    "mean square": (lambda x: F.mse_loss(x, a.expand_as(x), reduction="none").mean(-1),
                    lambda x: cp.sum_squares(x - C) / 4, EVERYWHERE),
    "quadratic form": (lambda x: torch.einsum("bi,ij,bj->b", x, P, x), lambda x: cp.quad_form(x, Q), EVERYWHERE),
    "quadratic form by matmul": (lambda x: (x * (x @ P)).sum(-1), lambda x: cp.quad_form(x, Q), EVERYWHERE),
    "quadratic form by bilinear": (lambda x: F.bilinear(x, x, P[None]), lambda x: cp.quad_form(x, Q), EVERYWHERE),
    "quadratic form by its root": (lambda x: F.linear(x, torch.linalg.cholesky(P).T).square().sum(-1),
                                   lambda x: cp.quad_form(x, Q), EVERYWHERE),
    "square over linear": (lambda x: torch.div(x[:, :3].square().sum(-1), x[:, 3]),
                           lambda x: cp.quad_over_lin(x[:3], x[3]), POSITIVE),
    "squares over linear": (lambda x: both(x)[0] ** 2 / both(x)[1],
                            lambda x: cp.hstack([cp.quad_over_lin(x[i], x[i + 2]) for i in range(2)]), POSITIVE),
    "variance": (lambda x: torch.var(x, dim=-1, correction=0), lambda x: cp.var(x), EVERYWHERE),
    "variance by hand": (lambda x: (x - x.mean(-1, keepdim=True)).square().mean(-1), lambda x: cp.var(x), EVERYWHERE),
    "deviation": (lambda x: torch.std_mean(x, dim=-1, unbiased=False)[0], lambda x: cp.std(x), EVERYWHERE),
    "geometric mean": (lambda x: -x.prod(-1).pow(0.25), lambda x: -cp.geo_mean(x), POSITIVE),
    "geometric mean by logs": (lambda x: -torch.exp(torch.log(x).mean(-1)), lambda x: -cp.geo_mean(x), POSITIVE),
    "harmonic mean": (lambda x: -4 / x.reciprocal().sum(-1), lambda x: -cp.harmonic_mean(x), POSITIVE),
    "inverse product": (lambda x: x.prod(-1, keepdim=True).reciprocal(), lambda x: cp.inv_prod(x), POSITIVE),
    "norm 0.5": (lambda x: -x.sqrt().sum(-1) ** 2, lambda x: -cp.pnorm(x, 0.5), POSITIVE),
    # --- of matrices
    "frobenius": (lambda x: torch.linalg.matrix_norm(square(x), ord="fro"), lambda x: cp.norm(matrix(x), "fro"),
                  EVERYWHERE),
    "norm of columns": (lambda x: torch.linalg.norm(square(x), 1, (-2, -1)), lambda x: cp.norm(matrix(x), 1),
                        EVERYWHERE),
    "norm of rows": (lambda x: torch.linalg.matrix_norm(square(x), ord=inf), lambda x: cp.norm(matrix(x), inf),
                     EVERYWHERE),
    "largest singular value": (lambda x: torch.linalg.svdvals(square(x))[:, 0], lambda x: cp.sigma_max(matrix(x)),
                               EVERYWHERE),
    "spectral norm": (lambda x: torch.linalg.norm(square(x), ord=2, dim=(1, 2)), lambda x: cp.sigma_max(matrix(x)),
                      EVERYWHERE),
    "nuclear norm": (lambda x: torch.linalg.svdvals(square(x)).sum(-1), lambda x: cp.normNuc(matrix(x)), EVERYWHERE),
    "largest eigenvalue": (lambda x: torch.linalg.eigvalsh(square(x) + square(x).transpose(-1, -2))[..., -1],
                           lambda x: cp.lambda_max(matrix(x) + matrix(x).T), EVERYWHERE),
    "minus logdet": (lambda x: -torch.linalg.slogdet(torch.diag_embed(x) + S)[1],
                     lambda x: -cp.log_det(cp.diag(x) + S.numpy()), POSITIVE),
    "trace of the inverse": (
        lambda x: torch.einsum("bii->b", torch.inverse(torch.diag_embed(x) + S)),
        lambda x: cp.tr_inv(cp.diag(x) + S.numpy()), POSITIVE),
    # --- chains of broadcasts, layers
    "differences of all pairs": (lambda x: (x[:, :, None] - x[:, None, :]).abs().sum((1, 2)),
                                 lambda x: sum(cp.norm1(x - x[i]) for i in range(4)), EVERYWHERE),
    "maxima of affine maps": (lambda x: (x @ A.mT + A[:, 0]).amax(-1), lambda x: cp.max(Z @ x + Z[:, 0]), EVERYWHERE),
    "baddbmm": (lambda x: torch.addmm(A[:, 1], x, A.T).relu(), lambda x: cp.pos(Z @ x + Z[:, 1]), EVERYWHERE),
    "addcmul": (lambda x: torch.addcmul(x, one(x), a.expand_as(x), value=2).abs(), lambda x: cp.abs(x + 2 * C),
                EVERYWHERE),
    "lerp": (lambda x: torch.lerp(x, a.expand_as(x), 0.25).abs(), lambda x: cp.abs(0.75 * x + 0.25 * C), EVERYWHERE),
    "pool": (lambda x: F.max_pool1d(x[:, None], kernel_size=2, stride=1)[:, 0],
             lambda x: cp.maximum(x[1:], x[:-1]), EVERYWHERE),
    "scatter": (lambda x: torch.zeros(x.shape[0], 2, dtype=x.dtype).index_add(1, torch.tensor([0, 0, 1, 1]), x.abs()),
                lambda x: cp.sum(cp.abs(matrix(x)), axis=1), EVERYWHERE),
}

MISSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "softplus, stable": (lambda x: x.clamp(min=0) + (-x.abs()).exp().log1p(), "write F.softplus"),
}
"""Convex spellings that the calculus does not see through, and what to write instead.

That of softplus shall stay here: each of its terms has a kink at 0, and the kinks cancel in the function and not in the
derivatives that torch computes, so that its tangent at 0, with which `minimise` would prove bounds, is none of it.
"""

NEAR: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, float]]] = {
    "relu by where, a jump": (lambda x: x.where(x > 0.25, 0.0), EVERYWHERE),
    "relu by a mask of another": (lambda x: x * (x.roll(1, -1) > 0), EVERYWHERE),
    "relu by threshold, a jump": (lambda x: F.threshold(x, 0.5, 0.0), EVERYWHERE),
    "abs by sign of another": (lambda x: x * (x - 0.5).sign(), EVERYWHERE),
    "leaky relu, too steep": (lambda x: F.leaky_relu(x, negative_slope=1.25), EVERYWHERE),
    "clamp at both ends": (lambda x: x.clip(-0.5, 0.5), EVERYWHERE),
    "huber, its slope drops": (lambda x: torch.where(x.abs() <= 1, x * x, x.abs()), EVERYWHERE),
    "softplus, a low threshold": (lambda x: F.softplus(x, threshold=0.5), EVERYWHERE),
    "relu6": (lambda x: F.relu6(4 * x), EVERYWHERE),
    "celu, turned": (lambda x: -F.celu(x), EVERYWHERE),
    "silu": (lambda x: F.silu(x), (-6.0, 6.0)),
    "softmax": (lambda x: x.softmax(-1)[:, 0], EVERYWHERE),
    "cube": (lambda x: x**3, EVERYWHERE),
    "root of abs": (lambda x: x.abs().sqrt(), EVERYWHERE),
    "square of what is below zero and convex": (lambda x: (x.square() - 1).square(), EVERYWHERE),
    "product": (lambda x: both(x)[0] * both(x)[1], EVERYWHERE),
    "x log y": (lambda x: both(x)[0] * both(x)[1].log(), POSITIVE),
    "x exp x, left": (lambda x: x * x.exp(), (-4.0, 1.0)),
    "x log x, turned": (lambda x: -x * x.log(), POSITIVE),
    "quotient": (lambda x: both(x)[0] / both(x)[1], POSITIVE),
    "square over linear, not scaled": (lambda x: x[:, 0] ** 2 / x[:, 1] ** 3 - x[:, 0] ** 2, POSITIVE),
    "indefinite form": (lambda x: torch.einsum("bi,ij,bj->b", x, P - 1.5 * torch.eye(4).double(), x), EVERYWHERE),
    "second largest": (lambda x: x.topk(2, -1).values[..., 1], EVERYWHERE),
    "ordered weights, falling": (lambda x: (x.sort(-1).values * up.flip(0)).sum(-1), EVERYWHERE),
    "ordered weights by einsum, one column falling": (
        lambda x: torch.einsum("ij,bi->jb", torch.stack([up, up.flip(0)], 1), x.sort(1)[0]).T[:, 1], EVERYWHERE),
    "two smallest, not turned": (lambda x: x.topk(2, dim=-1, largest=False).values.sum(-1), EVERYWHERE),
    "median": (lambda x: x.median(-1).values, EVERYWHERE),
    "norm less a norm": (lambda x: x.norm(dim=-1) - 0.9 * x[:, :2].norm(dim=-1), EVERYWHERE),
    "log of a norm": (lambda x: x.norm(dim=-1).add(0.1).log(), EVERYWHERE),
    "cross entropy of signs": (lambda x: F.cross_entropy(x, -p.expand(x.shape[0], 4), reduction="none"), EVERYWHERE),
    "log-sum-exp, half shifted": (
        lambda x: 0.5 * x.amax(1) + (x - x.amax(1, keepdim=True)).exp().sum(1).log(), EVERYWHERE),
    "geometric mean, not turned": (lambda x: x.prod(-1) ** 0.25, POSITIVE),
    "product of all": (lambda x: x.prod(-1), POSITIVE),
    "middle eigenvalue": (
        lambda x: torch.linalg.eigvalsh(torch.diag_embed(x) + S)[:, 1], POSITIVE),
    "smallest singular value": (lambda x: torch.linalg.svdvals(square(x))[:, 1], EVERYWHERE),
    "logdet": (lambda x: torch.logdet(torch.diag_embed(x) + S), POSITIVE),
}
# fmt: on


def summed(out: Tensor) -> tuple[Tensor, Tensor]:
    """The elements of each sample with different positive weights, and these."""
    flat = out.flatten(1) if out.ndim > 1 else out[:, None]
    weights = torch.linspace(1.0, 1.5, flat.shape[1], dtype=torch.float64)
    return (flat * weights).sum(1), weights


def drawn(box: tuple[float, float], count: int, seed: int) -> Tensor:
    share = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return box[0] + (box[1] - box[0]) * share


def check_values_and_curvature(name: str, seed: int) -> None:
    ours, theirs, box = SPELLINGS[name]
    points, x = drawn(box, 4, seed), cp.Variable(4, nonneg=box[0] >= 0)
    expression = theirs(x)
    assert expression.is_convex(), "the oracle"
    found: list[Any] = []
    for point in points:
        x.value = point.numpy()
        found.append(np.asarray(expression.value).ravel())
    np.testing.assert_allclose(ours(points).reshape(4, -1).numpy(), np.stack(found), rtol=1e-7, atol=1e-7)
    domain = None if box == EVERYWHERE else cx.Box(*box, shape=(4,))
    certificate = cx.certify(Function(ours), points[:2].double(), domain=domain)
    assert certificate.convex, str(certificate)
    assert (certificate.curvature == "affine") == expression.is_affine()


def check_optimum(name: str, seed: int) -> None:
    """With a slope that makes of most optima one inside of the box."""
    ours, theirs, box = SPELLINGS[name]
    here = drawn(box, 1, seed).requires_grad_()
    (slope,) = torch.autograd.grad(summed(ours(here))[0].sum(), here)
    tilt = -0.9 * slope[0].detach().nan_to_num()
    lo, hi = (torch.full((4,), end, dtype=torch.float64) for end in box)
    found = cx.minimise(Function(lambda y: summed(ours(y.double()))[0] + y.double() @ tilt), cx.Box(lo, hi), tol=1e-7)
    whole = "alone" in found.message
    assert bool(found.converged) or (whole and float(found.gap) < 1e-2), found.message
    x = cp.Variable(4, nonneg=box[0] >= 0)
    expression, weights = theirs(x), summed(ours(here))[1].numpy()
    flat = cp.reshape(expression, (max(1, expression.size),), order="C")
    problem = cp.Problem(cp.Minimize(weights @ flat + tilt.numpy() @ x), [x >= box[0], x <= box[1]])
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    room = 2e-6 * (1 + abs(problem.value))
    assert float(found.lower_bound) - room <= problem.value <= float(found.value) + room


SAMPLE = sorted(SPELLINGS)[::23]
"""Those whose optima are compared in every run; the others are slow."""


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_optima(name: str, seed: int) -> None:
    check_values_and_curvature(name, seed)
    check_optimum(name, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPELLINGS)
def test_values_curvatures_and_optima(name: str, seed: int) -> None:
    check_values_and_curvature(name, seed)
    check_optimum(name, seed)


def test_what_is_missed_is_refused(seed: int) -> None:
    """Whoever mends one moves it to the others."""
    for function, _ in MISSED.values():
        assert not cx.certify(Function(function), drawn(EVERYWHERE, 2, seed)).convex


LINES = torch.linspace(1.0, 2.0, 4).double()
COLUMNS = torch.tensor([[1.0, 4.0], [2.0, 3.0], [3.0, 2.0], [4.0, 1.0]]).double()
EINSUMS: dict[str, tuple[str, bool, tuple[int, ...], Tensor, tuple[str, ...]]] = {
    "a vector": ("bi,i->b", True, (2, 4), LINES, ("convex",)),
    "a vector, turned": ("bi,i->b", True, (2, 4), LINES.flip(0), ("concave",)),
    "a vector first": ("i,bi->b", False, (2, 4), LINES, ("convex",)),
    "without a result": ("bi,i", True, (2, 4), LINES, ("convex",)),
    "a matrix": ("bi,ij->bj", True, (2, 4), COLUMNS, ("convex", "concave")),
    "a matrix, in another order": ("ji,bi->bj", False, (2, 4), COLUMNS.T, ("convex", "concave")),
    "the middle of three": ("bij,ik->bkj", True, (2, 4, 3), COLUMNS, ("convex", "concave")),
    "one weight for all": ("bi,i->b", True, (2, 4), LINES[:1], ("unknown",)),
    "another dimension": ("bij,j->bi", True, (2, 4, 3), LINES[:3], ("unknown",)),
    "two dimensions": ("bij,ij->b", True, (2, 4, 3), LINES[:, None].expand(4, 3), ("unknown",)),
    "none": ("bi,i->bi", True, (2, 4), LINES, ("unknown",)),
}
"""The equation, whether the sorted elements come first, their shape, the other operand, and the curvature of the result
along dimension 1, where it differs."""


@pytest.mark.parametrize("name", EINSUMS)
def test_sums_of_sorted_elements_by_einsum(name: str, seed: int) -> None:
    equation, first, shape, weights, curvatures = EINSUMS[name]
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()

    def function(x: Tensor) -> Tensor:
        return torch.einsum(equation, *((x.sort(1)[0], weights) if first else (weights, x.sort(1)[0])))

    for number, curvature in enumerate(curvatures):

        def part(x: Tensor, number: int = number) -> Tensor:
            return function(x) if len(curvatures) == 1 else function(x)[:, number]

        assert cx.certify(Function(part), x).curvature == curvature
        ends, others = (10 * torch.randn(500, *shape[1:]).double() for _ in range(2))
        above = part((ends + others) / 2) - (part(ends) + part(others)) / 2
        assert curvature != "convex" or float(above.max()) <= 1e-9
        assert curvature != "concave" or float(above.min()) >= -1e-9


def test_the_derivative_of_the_stable_softplus_at_its_kink_is_no_slope_of_it() -> None:
    """The reason why it is not certified; were it gone, it could be."""
    x = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    function, _ = MISSED["softplus, stable"]
    (slope,) = torch.autograd.grad(function(x).sum(), x)
    torch.testing.assert_close(function(x).detach(), F.softplus(x).detach())
    assert float((slope - 0.5).abs().min()) > 0.4


@pytest.mark.parametrize("name", NEAR)
def test_what_is_near_is_not_certified(name: str, seed: int) -> None:
    """And is not convex: a chord in float64 lies below it."""
    function, box = NEAR[name]
    domain = None if box == EVERYWHERE else cx.Box(*box, shape=(4,))
    ends, others = drawn(box, 4000, seed), drawn(box, 4000, seed + 1)
    if domain is None:
        ends, others = 2 * ends, 2 * others
    above = function((ends + others) / 2) - (function(ends) + function(others)) / 2
    assert float(above.max()) > 1e-3, "it is convex"
    assert not cx.certify(Function(function), ends[:2], domain=domain).convex
