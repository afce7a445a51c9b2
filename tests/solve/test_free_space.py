"""Minima over domains without ends: certified where f rises in all directions, and nothing proved where it does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from tests.modules import Function

Body = Callable[[Tensor], Tensor]


def matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


A, C = matrix(8, 4), matrix(9, 3, 1)
SKEW = torch.tensor([[1.0, -30.0], [0.0, 1.0]]).double()

COERCIVE: dict[str, tuple[Body, int]] = {
    "a sum of sizes": (lambda y: (y - 3).abs().sum(1), 4),
    "log-sum-exp and sizes": (lambda y: torch.logsumexp(y @ C.T, 1) + y.abs().sum(1), 3),
    "log-sum-exp, symmetric": (lambda y: torch.logsumexp(torch.cat([y @ C.T, 1 - y @ C.T], 1), 1), 3),
    "least squares": (lambda y: (y @ A.T - 1).square().sum(1), 4),
    "least squares far away": (lambda y: (y @ A.T - 300).square().sum(1), 4),
    "lines": (lambda y: (y @ A.T + 1).abs().sum(1), 4),
    "skewed": (lambda y: (y @ SKEW.T - 2).abs().sum(1), 2),
    "softplus to both sides": (lambda y: F.softplus(y @ A.T).sum(1) + F.softplus(-y @ A.T).sum(1), 4),
    "flat at its minimum": (lambda y: torch.relu(y.abs() - 2).sum(1), 3),
    "an offset": (lambda y: y.abs().sum(1) + 1e3, 2),
}


@pytest.mark.parametrize("name", COERCIVE)
def test_what_rises_in_all_directions_is_certified(name: str) -> None:
    body, n = COERCIVE[name]
    free = cx.minimise(Function(body), cx.Free(n))
    near = cx.minimise(Function(body), cx.Box(-2e3, 2e3, shape=n), tol=1e-8)
    assert free.status == ("converged",)
    assert float(free.lower_bound) <= float(near.value)
    assert float(near.lower_bound) <= float(free.value)


ENDLESS: dict[str, tuple[Body, int]] = {
    "an infimum that is not met": (lambda y: y.exp().sum(1), 2),
    "falls": (lambda y: F.softplus(y).sum(1) - 2 * y.sum(1), 2),
    "falls along one line": (lambda y: (y[:, 0] - y[:, 1]).abs() - 1e-3 * y[:, 0], 2),
    "falls slowly": (lambda y: y.abs().sum(1) - (1 + 1e-7) * y[:, 0], 2),
    "rank deficient": (lambda y: (y[:, 0] - y[:, 1]).square() + 1e-4 * y[:, 1], 2),
    "a plane": (lambda y: y.sum(1), 3),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_nothing_is_proved_of_what_falls_without_end(name: str) -> None:
    body, n = ENDLESS[name]
    found = cx.minimise(Function(body), cx.Free(n))
    assert not bool(found.converged.any())
    assert float(found.lower_bound) == -torch.inf or name == "an infimum that is not met"
    assert float(found.lower_bound) <= 0


def test_bounds_hold_where_f_hardly_rises() -> None:
    for share in (1e-3, 1e-6, 1e-9, 1e-13):
        body = lambda y, share=share: (y[:, 0] + y[:, 1]).abs() + share * (y - 7).abs().sum(1)  # noqa: E731
        found = cx.minimise(Function(body), cx.Free(2))
        assert float(found.lower_bound) <= 14 * share * (1 + 1e-12)


def test_domains_with_ends_to_one_side() -> None:
    f = Function(lambda y: torch.relu(y @ A[:, :3].T + 1).sum(1) + y.sum(1) / 8)
    for domain in (cx.Orthant(3), cx.Box([-1.0, -torch.inf, 0.0], [torch.inf, 2.0, 1.0], shape=3)):
        found = cx.minimise(f, domain)
        lo, hi = domain.lo.clamp(min=-500), domain.hi.clamp(max=500)
        near = cx.minimise(f, cx.Box(lo, hi, shape=3), tol=1e-8)
        assert float(found.lower_bound) <= float(near.value)
        if bool(found.converged):
            assert float(near.lower_bound) <= float(found.value) + 1e-12


class Slanted(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y.abs().sum(1) + torch.logsumexp(torch.cat([y, -y], 1), 1) - (x * y).sum(1)


def test_samples_of_a_batch_are_told_apart() -> None:
    x = torch.tensor([[0.5, 0.0], [5.0, 0.0], [-0.25, 1.2]], dtype=torch.float64, requires_grad=True)
    found = cx.minimise(Slanted(), cx.Free(2), x)
    assert found.converged.tolist() == [True, False, True]
    assert float(found.lower_bound[1]) == -torch.inf
    single = cx.minimise(Slanted(), cx.Free(2), x[:1])
    assert abs(float(found.value[0].detach()) - float(single.value.detach())) <= 2e-6
    (gradient,) = torch.autograd.grad(found.value[[0, 2]].sum(), x)
    torch.testing.assert_close(gradient[[0, 2]], -found.x.detach()[[0, 2]], rtol=0, atol=1e-3)


def test_conjugates_over_all_points() -> None:
    """f = |y| + lse(y, -y) has slopes of size at most 2 in one coordinate."""
    zero = Slanted()
    body = Function(lambda y: zero(torch.zeros_like(y), y))
    slopes = torch.tensor([[0.3, 0.2], [1.5, 0.0], [3.0, 0.0]]).double()
    found = cx.conjugate(body, slopes)
    assert found.converged.tolist() == [True, True, False]
    assert float(found.upper_bound[2]) == torch.inf
    box = cx.conjugate(body, slopes[:2], cx.Box(-100, 100, shape=2))
    assert bool(((found.value[:2] - box.value).abs() <= found.gap[:2] + box.gap).all())
    assert bool((found.upper_bound[:2] >= box.value - 1e-12).all())
