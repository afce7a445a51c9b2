"""Derivatives of smooth minima with more variables than matrices allow: conjugate gradients give what matrices do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.solve import solver_functions
from convexnet.solve.derivatives.without_matrices import solve_by_products
from tests.drawing import some


def gradients(f: nn.Module, x: Tensor, ends: list[Tensor], domain: cx.Box, **options: Any) -> list[Tensor]:
    found = cx.minimise(f, domain, (x,), tol=1e-12, **options)
    weights = torch.arange(float(found.x.numel()), dtype=torch.float64).cos().view_as(found.x)
    total = (found.x * weights).sum() + found.value.sin().sum()
    sources = [x, *ends, *(p for p in f.parameters() if p.requires_grad)]
    made = torch.autograd.grad(total, sources, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(s) if m is None else m for m, s in zip(made, sources, strict=True)]


@pytest.mark.parametrize("kind", some(["cube", "bundle", "box", "fixed"], 2, "many variables"))
def test_products_give_the_derivatives_of_matrices(kind: str, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    torch.manual_seed(seed)
    f = cx.nn.PICNN(3, 6, hidden=(8, 8), quadratic=2).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    ends: list[Tensor] = []
    options: dict[str, Any] = {"solver": "bundle-entropy"} if kind == "bundle" else {}
    if kind in ("cube", "bundle"):
        domain: cx.Box = cx.Cube(6, entropy=True)
    else:
        ends = [torch.full((6,), end, dtype=torch.float64, requires_grad=True) for end in (-0.5, 0.5)]
        domain = cx.Box(ends[0], ends[1])
        if kind == "fixed":
            values = torch.linspace(-0.4, 0.4, 24, dtype=torch.float64).view(4, 6).requires_grad_()
            domain, ends = domain.fix(values, torch.arange(6) % 2 == 0), [*ends, values]
    with_matrices = gradients(f, x, ends, domain)
    monkeypatch.setattr(solver_functions, "MANY", 1)
    without = gradients(f, x, ends, domain, **options)
    size = max(float(part.abs().max()) for part in with_matrices)
    assert size > 0.01
    for one, other in zip(with_matrices, without, strict=True):
        assert float((one - other).abs().max()) <= 1e-5 * size


class Wide(nn.Module):
    """Σ softplus of differences of neighbours, and a square, of 2,000 variables."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation, self.level = activation, nn.Parameter(torch.tensor(0.3))

    def forward(self, y: Tensor) -> Tensor:
        return self.activation(y[:, 1:] - y[:, :-1]).sum(1) + (
            y - self.level * torch.linspace(-1, 1, 2000)
        ).square().sum(1)


def test_thousands_of_variables_have_a_derivative_and_kinks_among_them_are_named() -> None:
    f = Wide(nn.Softplus())
    box = cx.Box(-1, 1, shape=2000)

    def first(level: float) -> Tensor:
        with torch.no_grad():
            f.level.fill_(level)
        return cx.minimise(f, box, tol=1e-10).x[0].double()

    found = first(0.3)
    found[::100].sum().backward()
    step = 1e-2
    with torch.no_grad():
        slope = (first(0.3 + step)[::100].sum() - first(0.3 - step)[::100].sum()) / (2 * step)
    assert f.level.grad is not None
    assert abs(float(f.level.grad) - float(slope)) <= 1e-3 * abs(float(slope))

    kinked = cx.minimise(Wide(nn.ReLU()), box, tol=1e-3)
    with pytest.raises(RuntimeError, match=r"2000 variables .* and kinks"):
        kinked.x.sum().backward()
    again = cx.minimise(f, box, tol=1e-6)
    (slope,) = torch.autograd.grad(again.x.square().sum(), f.level, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives of this minimum are not available: it has 2000"):
        slope.backward()


def test_a_system_without_curvature_is_refused_and_one_with_nothing_to_solve_is_zero() -> None:
    right = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    with pytest.raises(RuntimeError, match="of sample 1 is not found: f hardly curves"):
        solve_by_products(lambda v: v * torch.tensor([1.0, 0.0]), right, torch.ones(2, 2))
    assert solve_by_products(lambda v: v, torch.zeros(1, 2), torch.ones(1, 2)).tolist() == [[0.0, 0.0]]
