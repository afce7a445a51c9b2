"""Minima at the edges: of forms of one variable, where a function is flat, and where its forward gives no number."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import convexnet as cx
from tests.modules import Function


def form(y: Tensor) -> Tensor:
    return (y @ torch.full((1, 1), 3.0, dtype=y.dtype) * y).sum(1)


ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "alone": form,
    "beside kinks": lambda y: F.relu(y - 0.2).sum(1) + form(y),
    "beside a sum of logarithms": lambda y: torch.logsumexp(y, 1) + form(y),
    "of a row and a column": lambda y: F.softplus(y).sum(1) + (y.unsqueeze(1) @ y.unsqueeze(2)).flatten(),
    "within a kink": lambda y: F.relu(form(y) - 1 + y.sum(1)) - 0.3 * y.sum(1),
    "for each element": lambda y: F.relu(y).sum(1) + torch.stack([form(y), 2 * form(y - 1)], 1).amax(1),
}


@pytest.mark.parametrize("name", ONE)
def test_quadratic_forms_of_one_variable(name: str) -> None:
    """Samples keep apart, Newton's method alone finds the minimum, and it moves with what tilts it."""
    f = Function(lambda x, y: ONE[name](y) + (x * y).sum(1))
    tilt = torch.tensor([[0.5], [-1.5], [2.5]], dtype=torch.float64, requires_grad=True)
    box = cx.Box(-1, 2, shape=(1,))
    found = cx.minimise(f, box, given=tilt, tol=1e-10)
    assert found.converged.all(), found.message
    assert found.solver == "newton"
    line = torch.linspace(-1, 2, 30001, dtype=torch.float64)[:, None]
    for place, row in enumerate(tilt.detach()):
        least = f(row.expand_as(line), line).min()
        assert found.lower_bound[place] <= least + 1e-12
        assert found.value[place] <= least + 1e-8
        alone = cx.minimise(f, box, given=row[None], tol=1e-10)
        assert alone.converged.all()
        assert torch.allclose(alone.value, found.value[place], atol=1e-8)
    (slope,) = torch.autograd.grad(found.value.sum(), tilt, retain_graph=True)
    assert torch.allclose(slope, found.x.detach(), atol=1e-5)
    (turned,) = torch.autograd.grad(found.x.sum(), tilt)
    step = 1e-4
    up, down = (cx.minimise(f, box, given=tilt.detach() + s, tol=1e-12).x for s in (step, -step))
    assert torch.allclose(turned, (up - down) / (2 * step), atol=1e-3)


FLAT: dict[str, Callable[[Tensor], Tensor]] = {
    "a form": lambda y: F.relu((y @ torch.ones(2, 2, dtype=y.dtype) * y).sum(1) - 3 * y.sum(1) - 5),
    "a tie": lambda y: torch.stack(
        [F.bilinear(y, y - 900, torch.zeros(1, 2, 2, dtype=y.dtype)).squeeze(1), 0 * y[:, 0]], 1
    ).amax(1),
    "what cancels": lambda y: ((y + 1e3) - 1e3 - y).sum(1),
}


@pytest.mark.parametrize("name", FLAT)
def test_flat_minima(name: str) -> None:
    """Nothing but rounding counts as small where f does not rise: the tangent there has no slope."""
    lo = torch.tensor([[0.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
    hi = torch.tensor([[1.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    f = Function(FLAT[name])
    together = cx.minimise(f, cx.Box(lo, hi, batch=2))
    assert together.converged.all(), together.message
    assert (together.value == 0).all()
    assert (together.lower_bound <= 0).all()
    for low, high in zip(lo, hi, strict=True):
        assert cx.minimise(f, cx.Box(low, high)).converged.all()


@pytest.mark.parametrize("large", [1e3, 1e18])
@pytest.mark.parametrize("slope", [1e-16, 1.0])
def test_what_rounding_hides_is_not_taken_for_flat(large: float, slope: float) -> None:
    """A multiple of what is rounded away: its values do not move, but its tangent does."""
    f = Function(lambda y: ((y + large) - large).mul(slope).sum(1) - 0 * y.sum(1))
    found = cx.minimise(f, cx.Box(torch.tensor([-0.01, -0.03]).double(), torch.tensor([0.02, 0.02]).double()))
    least = torch.tensor([-0.01, -0.03]).double().sum().item() * slope
    assert found.lower_bound.item() <= least * (1 - 1e-9)
    assert not found.converged.all() or (found.x.sum() * slope).item() <= least + 1e-5 * slope


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_number_at_an_end(dtype: torch.dtype) -> None:
    """y log(y) gives no number at 0, where the minimum is as far as numbers tell: the point lies beside it."""
    one = torch.ones(1, 1, dtype=dtype)
    f = Function(lambda x, y: (y * y.log()).sum(1) + 1e4 * (x * y).sum(1))
    found = cx.minimise(f, cx.Box(0, 1, shape=(3,)), given=one)
    assert found.converged.all(), found.message
    assert (found.value - f(one.double(), found.x.double())).abs().max() <= 1e-12
    held = cx.minimise(f, cx.Box(torch.zeros(3), torch.tensor([0.0, 1.0, 1.0])), given=one)
    assert not held.converged.any()
    assert not held.lower_bound.isnan().any()
    assert (held.lower_bound <= 0).all()


def test_results_without_elements() -> None:
    """The differences of one element are none: there is nothing that rounding could have moved."""
    f = Function(lambda y: (y - 0.3).abs().sum(1) + torch.diff(y, dim=1).abs().sum(1))
    found = cx.minimise(f, cx.Box(-1, 1, shape=(1,)))
    assert found.converged.all(), found.message
    assert found.value.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("side", [1e30, 1e38, 1e300])
def test_a_side_that_no_number_resolves_is_named(side: float) -> None:
    f = Function(lambda y: (y - 0.3).abs().sum(1))
    found = cx.minimise(f, cx.Box(0, side, shape=(1,)))
    assert (found.lower_bound <= 1e-12).all()
    assert found.converged.all() or "A side of the domain is" in found.message, found.message
