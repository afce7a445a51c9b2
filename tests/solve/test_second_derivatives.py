"""Derivatives of derivatives: against formulas, differences (gradgradcheck), and an error in words at kinks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import convexnet as cx

WIDE = cx.Box(-10, 10, shape=(1,))


class Cubic(nn.Module):
    """(y − x³)² + x²: the minimiser is x³ and the minimum x²."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return ((y - x**3) ** 2 + x**2).sum(1)


class Kinked(nn.Module):
    """|y − x| + y²/20: the minimiser is x, on the kink, for |x| < 10."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return ((y - x).abs() + 0.05 * y**2).sum(1)


def minimum(x: Tensor) -> cx.Solution:
    return cx.minimise(Cubic(), WIDE, given=x, tol=1e-10)


def test_a_slope_in_a_loss() -> None:
    """Of v + (dv/dx)² with v = x², at 1.5: 2x + 8x = 15."""
    x = torch.tensor([[1.5]], dtype=torch.float64, requires_grad=True)
    value = minimum(x).value
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (gradient,) = torch.autograd.grad(value.sum() + slope.square().sum(), x)
    assert gradient.item() == pytest.approx(15.0, rel=1e-8)


def test_three_derivatives_of_a_minimiser() -> None:
    """Of x³ at 1.5: 6.75, 9, 6 and 0."""
    x = torch.tensor([[1.5], [-0.5]], dtype=torch.float64, requires_grad=True)
    now, found = minimum(x).x, []
    for _ in range(4):
        (now,) = torch.autograd.grad(now.sum(), x, create_graph=True)
        found.append(now)
    expected = torch.tensor([[6.75, 0.75], [9.0, -3.0], [6.0, 6.0], [0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(torch.stack(found)[:, :, 0].detach(), expected, rtol=1e-8, atol=1e-8)


def test_torch_hessian() -> None:
    hessian = torch.autograd.functional.hessian(lambda x: minimum(x).value.sum(), torch.ones(2, 1).double())
    assert isinstance(hessian, Tensor)
    assert torch.allclose(hessian.view(2, 2), 2 * torch.eye(2, dtype=torch.float64), atol=1e-8)


@pytest.mark.parametrize("coordinates", ["given", "weights", pytest.param("fixed", marks=pytest.mark.slow)])
def test_against_differences(coordinates: str) -> None:
    """A softplus network with a quadratic term; some coordinates at their bounds, in some samples."""
    torch.manual_seed(3)
    net = cx.nn.PICNN(2, 3, hidden=(3,), activation="softplus", quadratic=1).double()
    x = torch.randn(2, 2, dtype=torch.float64)
    lo, hi = (torch.full((3,), end, dtype=torch.float64) for end in (-0.3, 0.1))

    def minimised(x: Tensor, box: cx.Box) -> tuple[Tensor, Tensor]:
        found = cx.minimise(net, box, given=x, tol=1e-12)
        return found.x, found.value

    if coordinates == "weights":
        tensors = list(net.parameters())[:3]  # gradcheck changes them in place

        def solved(*tensors: Tensor) -> tuple[Tensor, Tensor]:
            return minimised(x, cx.Box(lo, hi))
    elif coordinates == "given":
        tensors = [tensor.requires_grad_() for tensor in (x, lo, hi)]

        def solved(*tensors: Tensor) -> tuple[Tensor, Tensor]:
            return minimised(tensors[0], cx.Box(tensors[1], tensors[2]))
    else:
        tensors = [torch.tensor([[0.05, 0.0, 0.0], [-0.1, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)]

        def solved(*tensors: Tensor) -> tuple[Tensor, Tensor]:
            return minimised(x, cx.Box(lo, hi).fix(tensors[0], [True, False, False]))

    found = solved(*tensors)[0].detach()
    inner = (found > lo.detach() + 1e-3) & (found < hi.detach() - 1e-3)
    assert set(inner.flatten().tolist()) == {True, False}  # of both kinds
    assert torch.autograd.gradcheck(solved, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(solved, tensors, fast_mode=True)


def test_a_kink_has_first_derivatives_only() -> None:
    x = torch.tensor([[0.5]], dtype=torch.float64, requires_grad=True)
    found = cx.minimise(Kinked(), WIDE, given=x, tol=1e-10)
    (slope,) = torch.autograd.grad(found.x.sum(), x, create_graph=True)
    assert slope.item() == pytest.approx(1.0)
    with pytest.raises(RuntimeError, match=r'kink of abs \(.*test_second_derivatives.py:\d+\).*derivative="smoothed"'):
        torch.autograd.grad(slope.sum(), x)
    with pytest.raises(RuntimeError, match="second derivatives of this minimum"):
        torch.autograd.functional.hessian(
            lambda x: cx.minimise(Kinked(), WIDE, given=x, tol=1e-10).value.sum(), x.detach()
        )


def test_beside_a_kink_and_at_a_corner_there_are_all() -> None:
    """(|y − x| + y²/20)·x on [2, 3]: x(2.2 − x) for 0 < x < 2, with 2.2 − 2x and −2; x²·y on [1, 2] has 2x and 2."""

    class Beside(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (((y - x).abs() + 0.05 * y**2) * x.relu()).sum(1)

    class Scaled(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (x**2 * y).sum(1)

    for f, box, slope, second in (
        (Beside(), cx.Box(2, 3, shape=(1,)), 1.2, -2.0),
        (Scaled(), cx.Box(1, 2, shape=(1,)), 1.0, 2.0),
    ):
        x = torch.tensor([[0.5]], dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(cx.minimise(f, box, given=x).value.sum(), x, create_graph=True)
        (again,) = torch.autograd.grad(first.sum(), x)
        assert (first.item(), again.item()) == pytest.approx((slope, second), abs=1e-9)


def test_smoothed_kinks_have_second_derivatives() -> None:
    """Of x they are the derivatives of what the first ones are; those of the value are exact and then smoothed."""
    x = torch.tensor([[0.5], [-0.3]], dtype=torch.float64, requires_grad=True)
    found = cx.minimise(Kinked(), WIDE, given=x, tol=1e-10, derivative="smoothed")
    (slope,) = torch.autograd.grad(found.x.sum(), x, create_graph=True, retain_graph=True)
    assert torch.allclose(slope, torch.ones_like(slope), atol=0.1)
    (rate,) = torch.autograd.grad(slope.sum(), x, retain_graph=True)
    assert bool(rate.isfinite().all())
    (first,) = torch.autograd.grad(found.value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert torch.allclose(first, 0.1 * x, atol=1e-6)
    assert torch.allclose(second, torch.full_like(x, 0.1), atol=0.05)
