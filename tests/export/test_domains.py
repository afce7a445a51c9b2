"""Exports of what is convex on a domain only, which `to_lp` is given and `to_cvxpy` takes from its variable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import convexnet as cx
from tests.modules import Function

cp = pytest.importorskip("cvxpy")
pytest.importorskip("highspy")


def cubes(y: Tensor) -> Tensor:
    return (y**3).sum(1) - y.sum(1)


def barrier(y: Tensor) -> Tensor:
    return -y.log().sum(1) + y.sum(1)


def upper_barrier(y: Tensor) -> Tensor:
    return -(1 - y).log().sum(1) - 2 * y.sum(1)


def composed(y: Tensor) -> Tensor:
    return (y + y**3).square().sum(1) - y.sum(1)


KNOWN: dict[str, tuple[Callable[[Tensor], Tensor], dict[str, Any], float]] = {
    "a power": (cubes, {"nonneg": True}, -2 / 3**0.5),
    "a pole at an end": (barrier, {"nonneg": True}, 3.0),
    "positive": (barrier, {"pos": True}, 3.0),
    "a pole at the upper end": (upper_barrier, {"bounds": [-1, 1]}, 3 * (np.log(2) - 1)),
    "a square of what is not negative": (composed, {"bounds": [0, np.array([1.0, 2.0, 3.0])]}, -0.5885226046),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_variable_brings_its_domain(name: str) -> None:
    function, attributes, least = KNOWN[name]
    cost = cx.to_cvxpy(Function(function).double(), cp.Variable(3, **attributes))
    assert cost.curvature == "CONVEX"
    assert cp.Problem(cp.Minimize(cost)).solve(solver="CLARABEL") == pytest.approx(least, abs=1e-6)


def test_an_affine_expression_brings_its_bounds() -> None:
    y = cp.Variable(3, bounds=[-1, 1])
    cost = cx.to_cvxpy(Function(barrier).double(), 2 * y + 2.5)
    assert cp.Problem(cp.Minimize(cost)).solve(solver="CLARABEL") == pytest.approx(3.0, abs=1e-6)


@pytest.mark.parametrize(
    ("function", "attributes"),
    [(cubes, {"bounds": [-1, 1]}), (barrier, {}), (barrier, {"bounds": [-0.1, 1]}), (composed, {"nonpos": True})],
)
def test_what_is_not_convex_there_is_refused(function: Callable[[Tensor], Tensor], attributes: dict[str, Any]) -> None:
    y = cp.Variable(3, **attributes)
    with pytest.raises(cx.NotCertified) as caught:
        cx.to_cvxpy(Function(function).double(), y)
    assert ("nonneg=True" in "".join(getattr(caught.value, "__notes__", []))) == (not attributes)


def test_bounds_that_a_parameter_makes_are_none() -> None:
    y, shift = cp.Variable(3, bounds=[0, 1]), cp.Parameter(value=1.0)
    with pytest.raises(cx.NotCertified):
        cx.to_cvxpy(Function(barrier).double(), y + shift)


def bent(y: Tensor) -> Tensor:
    return (y.relu() + y).abs().sum(1) - 0.5 * y.sum(1)


def test_a_linear_program_has_its_domain() -> None:
    lp = cx.to_lp(Function(bent).double(), cx.Box(torch.tensor([0.1, 0.0, 0.2]), torch.ones(3)))
    lp.run()
    assert lp.getInfo().objective_function_value == pytest.approx(1.5 * 0.3, abs=1e-7)
    with pytest.raises(cx.NotCertified):
        cx.to_lp(Function(bent).double(), cx.Box(-1.0, 1.0, shape=(3,)))


def picked(part: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function at 3, and at y, where nothing reads what it gives."""
    return lambda y: part(torch.cat([3.0 + 0.0 * y[:, :1], y], 1))[:, 0] + (y + 0.5).abs().sum(1)


def never(part: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function behind a mask that is false everywhere."""
    mask = torch.tensor([False, False])
    return lambda y: torch.where(mask, part(y), 0.3).sum(1) + (y + 0.5).abs().sum(1)


@pytest.mark.parametrize(
    "part",
    [torch.reciprocal, torch.rsqrt, lambda y: -y.log(), lambda y: -y.sqrt(), lambda y: y * y.log()],
    ids=["1/y", "1/sqrt(y)", "-log y", "-sqrt(y)", "y log y"],
)
def test_what_nothing_reads_does_not_bound_the_variable(part: Callable[[Tensor], Tensor]) -> None:
    """The conic form of each holds for positive y alone, and the minimum is at -0.5."""
    for function, least in ((picked(part), float(part(torch.tensor(3.0)))), (never(part), 0.6)):
        y = cp.Variable(2)
        cost = cx.to_cvxpy(Function(function).double(), y)
        assert cp.Problem(cp.Minimize(cost)).solve(solver="CLARABEL") == pytest.approx(least, abs=1e-6)
        np.testing.assert_allclose(y.value, -0.5, atol=1e-5)


@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (-np.inf, 1.0), (0.0, np.inf), (-1.0, 1.0)])
def test_what_is_not_convex_is_refused_on_every_box(bounds: tuple[float, float]) -> None:
    """The search for a pole at an end steps inside of the box, and there is no step inside of an infinite end."""
    model, box = Function(lambda y: y.sin().sum(1)).double(), cx.Box(*bounds, shape=2)
    with pytest.raises(cx.NotCertified, match="sin"):
        cx.to_lp(model, box)


def test_a_pole_at_the_finite_end_of_half_a_line() -> None:
    y = cp.Variable(3, nonneg=True)
    cost = cx.to_cvxpy(Function(lambda y: (y.reciprocal() + y).sum(1)).double(), y)
    assert cp.Problem(cp.Minimize(cost)).solve(solver="CLARABEL") == pytest.approx(6.0, abs=1e-6)
