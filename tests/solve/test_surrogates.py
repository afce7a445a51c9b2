"""Derivatives by name: what they are the derivatives of, and that nobody gets them unasked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import convexnet as cx


class Distance(nn.Module):
    """sum |y - x|, whose minimiser is x."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (y - x).abs().sum(1)


def network(activation: str, seed: int) -> tuple[nn.Module, Tensor, cx.Box]:
    torch.manual_seed(seed)
    net = cx.nn.PICNN(2, 3, hidden=(8, 8), activation=activation, quadratic=1).double()
    return net, torch.randn(4, 2, dtype=torch.float64), cx.Box(-1, 1, shape=(3,))


def test_smoothed_derivatives_of_a_smooth_function_are_the_exact_ones(seed: int) -> None:
    net, x, _ = network("softplus", seed)
    box = cx.Box(-50, 50, shape=(3,))  # so that the barrier hardly counts
    grads: list[Tensor] = []
    for name in ("exact", "smoothed"):
        given = x.clone().requires_grad_()
        solution = cx.minimise(net, box, given=given, tol=1e-10, derivative=name)
        weight = torch.arange(12.0, dtype=torch.float64).view(4, 3)
        (grad,) = torch.autograd.grad((solution.x * weight).sum(), given)
        grads.append(grad)
    assert torch.allclose(grads[0], grads[1], rtol=2e-2, atol=1e-3 * float(grads[0].abs().max()))
    assert not torch.equal(grads[0], grads[1])


def test_smoothed_derivatives_follow_a_kink() -> None:
    x = torch.tensor([[0.2, -0.4]], dtype=torch.float64, requires_grad=True)
    solution = cx.minimise(Distance(), cx.Box(-1, 1, shape=(2,)), given=x, derivative="smoothed")
    assert torch.allclose(solution.x, x, atol=1e-5)
    rows = [torch.autograd.grad(solution.x[0, i], x, retain_graph=True)[0][0] for i in range(2)]
    assert torch.allclose(torch.stack(rows), torch.eye(2, dtype=torch.float64), atol=0.05)


@pytest.mark.parametrize("activation", ["softplus", "relu"])
def test_unrolled_is_descent_and_its_gradient_goes_through_the_steps(activation: str, seed: int) -> None:
    net, x, box = network(activation, seed)

    def loss(given: Tensor) -> Tensor:
        solution = cx.minimise(net, box, given=given, tol=1e-8, derivative="unrolled")
        return (solution.x * torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)).sum()

    given = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(given), given)
    direction, step = torch.randn_like(x), 1e-6
    difference = float((loss(x + step * direction) - loss(x - step * direction)).detach()) / (2 * step)
    assert float((grad * direction).sum()) == pytest.approx(difference, rel=1e-4, abs=1e-7)


def test_unrolled_tells_how_far_it_is_from_the_minimum(seed: int) -> None:
    net, x, box = network("relu", seed)
    exact = cx.minimise(net, box, given=x, tol=1e-8)
    near = cx.minimise(net, box, given=x, tol=1e-8, derivative="unrolled")
    assert bool((near.value >= exact.lower_bound).all())
    assert bool((near.lower_bound <= exact.value + 1e-12).all())
    assert torch.allclose(near.gap, near.value - near.lower_bound)
    with torch.no_grad():
        assert torch.allclose(near.value, net(x, near.x)[:, 0])
    assert not bool(near.converged.all())


def test_only_by_name() -> None:
    with pytest.raises(ValueError, match="exact, smoothed, unrolled"):
        cx.minimise(Distance(), cx.Box(-1, 1, shape=(2,)), given=torch.zeros(1, 2), derivative="soft")
