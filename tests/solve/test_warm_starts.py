"""Searches that begin where an earlier one ended: the same answers, and bounds that hold, whatever has changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import convexnet as cx

DRIFTS = 5
"""Of each family; as many as make thirty."""


class MaxOfLines(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lines = nn.Linear(3, 12).double()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.lines(y) + x).view(-1, 3, 4).amax(2).sum(1) + y.square().sum(1) / 8


def picnn(activation: str, n: int = 4, hidden: tuple[int, ...] = (12, 12)) -> nn.Module:
    return cx.nn.PICNN(2, n, hidden=hidden, activation=activation).double()


FAMILIES = {
    "relu": (lambda: picnn("relu"), 2, 4),
    "relu, wide": (lambda: picnn("relu", 6, (40, 40)), 2, 6),
    "leaky relu": (lambda: picnn("leaky_relu"), 2, 4),
    "softplus": (lambda: picnn("softplus"), 2, 4),
    "elu": (lambda: picnn("elu"), 2, 4),
    "maxima and squares": (MaxOfLines, 12, 3),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_warm_start_gives_what_a_cold_one_does(family: str) -> None:
    make, width, n = FAMILIES[family]
    torch.manual_seed(0)
    f, x, drift = make(), torch.randn(2, width).double(), torch.randn(DRIFTS, 2, width).double()
    solver = cx.Minimiser(f, cx.Box(-1, 1, shape=n))
    warm, quick = solver(x), 0
    for step in drift:
        x = x + 0.02 * step
        warm, cold = solver(x, start=warm), solver(x)
        room = cold.gap + warm.gap + 1e-12
        assert bool((warm.converged & cold.converged).all())
        assert bool((warm.lower_bound <= cold.value + 1e-13).all())
        assert bool(((warm.value - cold.value).abs() <= room).all())
        quick += warm.solver == "active set"
    assert quick >= DRIFTS - 1


def test_a_warm_start_proves_nothing_that_is_not_so() -> None:
    """Whatever the earlier solution was of: another place, other weights, another network of the same shape."""
    torch.manual_seed(1)
    for activation in ("relu", "softplus"):
        solvers = [cx.Minimiser(picnn(activation), cx.Box(-1, 1, shape=4)) for _ in range(2)]
        x = torch.randn(3, 2).double()
        other = solvers[1](-3 * x)
        warm, cold = solvers[0](x, start=other), solvers[0](x)
        assert bool(warm.converged.all())
        assert bool((warm.lower_bound <= cold.value + 1e-13).all())
        assert bool((cold.lower_bound <= warm.value + 1e-13).all())
        far = cx.minimise(solvers[0].f, cx.Box(2, 3, shape=4), x, start=other)
        assert bool(far.converged.all())


def test_one_solution_starts_a_batch() -> None:
    torch.manual_seed(2)
    f, x = picnn("relu"), torch.randn(1, 2).double()
    one = cx.minimise(f, cx.Box(-1, 1, shape=4), x)
    many = x + 1e-3 * torch.randn(4, 2).double()
    warm, cold = (cx.minimise(f, cx.Box(-1, 1, shape=4), many, start=start) for start in (one, None))
    assert warm.solver == "active set"
    assert bool(((warm.value - cold.value).abs() <= warm.gap + cold.gap + 1e-12).all())


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_derivatives_of_a_warm_solution_are_those_of_a_cold_one(activation: str) -> None:
    torch.manual_seed(3)
    f, x = picnn(activation), torch.randn(2, 2).double()
    box = cx.Box(-1, 1, shape=4)
    before = cx.minimise(f, box, x)
    moved = (x + 0.01).requires_grad_()
    solutions = [cx.minimise(f, box, moved, start=start, tol=1e-9) for start in (before, None)]
    assert solutions[0].solver == "active set"
    pattern = torch.randn(2, 4).double()
    tensors = [moved, *f.parameters()]
    for heads in (lambda s: (s.x * pattern).sum(), lambda s: s.value.sum()):
        warm, cold = (torch.autograd.grad(heads(s), tensors, retain_graph=True) for s in solutions)
        assert any(bool((g != 0).any()) for g in cold)
        for one, other in zip(warm, cold, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_what_a_solution_carries_outlives_it() -> None:
    """Also of one without gradients, and of a call under `no_grad`; another number of variables only costs the time."""
    torch.manual_seed(4)
    f, x = picnn("relu"), torch.randn(1, 2).double()
    box = cx.Box(-1, 1, shape=4)
    with torch.no_grad():
        first = cx.minimise(f, box, x)
    for start in (first, first.detach()):
        assert cx.minimise(f, box, x, start=start).solver == "active set"
    wider = picnn("relu", hidden=(9, 9))
    assert bool(cx.minimise(wider, box, x, start=first).converged.all())
