"""What several operators make together is lowered as one: its minima are CVXPY's, and those of its exports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import convexnet as cx
from convexnet.curvature.tracing.trace import trace
from convexnet.form.program import OpenedProgram, apply_atom, values_of
from tests.modules import Function

cp = pytest.importorskip("cvxpy")
pytestmark = pytest.mark.filterwarnings("ignore:geo_mean is being approximated", "ignore:pnorm is being approximated")

TIGHT = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}

TILT = torch.tensor([0.3, -0.2, 0.5, 0.1, 0.7, -0.4]).double()


def halves(y: Tensor) -> tuple[Tensor, Tensor]:
    return y[:, :3], y[:, 3:]


def quotient(y: Tensor) -> Tensor:
    x, t = halves(y)
    return x * (x / t).log()


PAIRS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Any], Any]]] = {
    "x log x": (lambda y: y * y.log(), lambda y: -cp.sum(cp.entr(y))),
    "minus an entropy": (lambda y: -(-y * y.log()), lambda y: -cp.sum(cp.entr(y))),
    "softplus": (
        lambda y: (1 + y.exp()).log() + (y.exp() + 1).log() + y.exp().log1p(),
        lambda y: 3 * cp.sum(cp.logistic(y)),
    ),
    "relative entropy": (quotient, lambda y: cp.sum(cp.rel_entr(y[:3], y[3:]))),
    "of slices made twice": (
        lambda y: y[:, :3] * (y[:, :3] / y[:, 3:]).log() - y[:, :3] + y[:, 3:],
        lambda y: cp.sum(cp.kl_div(y[:3], y[3:])),
    ),
    "squares over a number": (lambda y: y[:, :5].square().sum(1) / y[:, 5], lambda y: cp.quad_over_lin(y[:5], y[5])),
    "squares over each": (
        lambda y: y[:, :3] ** 2 / y[:, 3:],
        lambda y: sum(cp.quad_over_lin(y[i], y[i + 3]) for i in range(3)),
    ),
    "a perspective of exp": (
        lambda y: y[:, 5:] * (y[:, :5] / y[:, 5:]).exp(),
        lambda y: None,
    ),
    "negative powers of products": (
        lambda y: 1 / y[:, :3].prod(1) + y[:, 3:].prod(-1) ** -2.0,
        lambda y: cp.inv_prod(y[:3]) + cp.square(cp.inv_prod(y[3:])),
    ),
    "x exp x": (lambda y: y * y.exp() + (y - 0.05).exp().mul(y - 0.05), lambda y: None),
    "geometric means": (
        lambda y: -(y.prod(1) ** (1 / 6)) - y[:, :5].log().mean(1).exp() - y[:, 1:3].prod(-1, True).sqrt()[:, 0],
        lambda y: -cp.geo_mean(y) - cp.geo_mean(y[:5]) - cp.geo_mean(y[1:3]),
    ),
    "a root of a product": (lambda y: -(y[:, :3].prod(1) ** 0.25), lambda y: -cp.power(cp.geo_mean(y[:3]), 0.75)),
    "harmonic means": (
        lambda y: -6 / (1 / y).sum(1) - (y[:, :5] ** -1).mean(1) ** -1,
        lambda y: -cp.harmonic_mean(y) - cp.harmonic_mean(y[:5]),
    ),
    "sums of powers below one": (
        lambda y: -0.1 * y.sqrt().sum(1).square() - (y[:, :3] ** -2.0).sum(-1) ** -0.5,
        lambda y: -0.1 * cp.pnorm(y, 0.5) - cp.pnorm(y[:3], -2),
    ),
    "a mean of what is concave": (
        lambda y: -(y.view(-1, 3, 2).log1p().log().mean(-1).exp()),
        lambda y: -sum(cp.geo_mean(cp.log1p(y[i : i + 2])) for i in (0, 2, 4)),
    ),
}
OF_THEIR_OWN = ("a perspective of exp", "x exp x")
"""Whose forms in CVXPY are other ones, which take long, or ask for what is not negative by its attribute."""


def test_what_is_near_a_mean_is_refused() -> None:
    for function in (
        lambda y: -(y.prod(1) ** (1 / 5)),  # of six numbers
        lambda y: -y.log().sum(1).exp(),
        lambda y: -(y.sqrt().sum(1) ** 3),
        lambda y: -y.log().mean(0).exp(),  # over samples
    ):
        assert not cx.certify(Function(function), torch.ones(2, 6).double(), domain=cx.Box(0.1, 2.0, shape=(6,))).convex


def total(function: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    out = function(y)
    return (out.flatten(1).sum(1) if out.ndim > 1 else out) - y @ TILT


def exported(model: Function, y: Any) -> float:
    problem = cp.Problem(cp.Minimize(cx.to_cvxpy(model, y)))
    problem.solve(solver="CLARABEL", **TIGHT)
    return float(problem.solution.opt_val)


@pytest.mark.parametrize("name", PAIRS)
def test_perspectives_have_the_minima_of_cvxpy(name: str) -> None:
    ours, theirs = PAIRS[name]
    model = Function(lambda y: total(ours, y)).double()
    found = cx.minimise(model, cx.Box(torch.full((6,), 0.1).double(), torch.full((6,), 2.0).double()), tol=1e-8)
    assert found.solver == "newton", found.message
    y = cp.Variable(6, bounds=[0.1, 2])
    optima = [exported(model, y)]
    if name not in OF_THEIR_OWN:
        optima.append(cp.Problem(cp.Minimize(theirs(y) - TILT.numpy() @ y)).solve(solver="CLARABEL", **TIGHT))
    for optimum in optima:
        assert float(found.lower_bound) - 1e-6 <= optimum <= float(found.value) + 1e-6


ROOT = torch.tensor([[1.0, -0.5, 0.2], [0.0, 0.7, -0.3], [0.4, 0.0, 1.1]]).double()
P = ROOT.T @ ROOT
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "a product": lambda y: ((y @ P) * y).sum(1),
    "off its centre": lambda y: ((y - 0.3) @ P * (y - 0.3)).sum(1),
    "einsum": lambda y: torch.einsum("bi,ij,bj->b", y, P, y),
    "matrices": lambda y: (y[:, None, :] @ P @ y[:, :, None])[:, 0, 0],
    "of a root that is wide": lambda y: (y @ ROOT.T[:, :2] * (y @ ROOT.T[:, :2] + 0.0)).sum(1),
    "two results": lambda y: torch.stack([((y @ P) * y).sum(1), 2 * (y * (y @ P)).sum(1) + y[:, 0]], 1).sum(1),
}


def test_quadratic_forms_are_minimised_and_exported() -> None:
    def f(y: Tensor) -> Tensor:
        y = y.double()
        parts = [function(y) * (1 + 0.1 * i) for i, function in enumerate(FORMS.values())]
        return sum(part for part in parts) + 2 * (((y @ P) * y).sum(1) - 0.2).relu() - y @ TILT[:3]

    model = Function(f)
    model.register_buffer("held", P)
    found = cx.minimise(model, cx.Box(torch.full((3,), -2.0).double(), torch.full((3,), 2.0).double()), tol=1e-8)
    assert found.solver == "newton", found.message
    assert bool(found.converged.all()), found.message
    optimum = exported(model, cp.Variable(3, bounds=[-2, 2]))
    assert float(found.lower_bound) - 1e-6 <= optimum <= float(found.value) + 1e-6


@pytest.mark.parametrize(
    "function",
    [
        lambda y: ((y @ (P - 2 * torch.eye(3).double())) * y).sum(1),  # of no sign
        lambda y: ((y @ P) * y.relu()).sum(1),
        lambda y: ((y @ P) * y * y).sum(1),
    ],
)
def test_other_products_are_no_quadratic_forms(function: Callable[[Tensor], Tensor]) -> None:
    program = trace(Function(function), (torch.ones(2, 3).double(),), any_batch=True)
    assert not OpenedProgram(program, 0).valued(values_of(program)).kinds().patterns


CHOICES: dict[str, Callable[[Tensor], Tensor]] = {
    "a ReLU by a mask": lambda y: (y - 0.2) * ((y - 0.2) > 0),
    "a leaky ReLU": lambda y: torch.where(y - 0.1 > 0, y - 0.1, 0.2 * (y - 0.1)),
    "Huber": lambda y: torch.where((y - 0.3).abs() < 1, (y - 0.3) ** 2, 2 * (y - 0.3).abs() - 1),
    "a squared hinge": lambda y: torch.where(y < 0.1, (y - 0.1) ** 2, torch.zeros_like(y)),
    "another": lambda y: torch.where(y > 0.1, 3 * (y - 0.1) ** 2 + y, y),
    "of three pieces": lambda y: torch.where(y > 1, 3 * y - 1.5, torch.where(y < -1, -y - 1.5, y**2 / 2 + y)),
    "a maximum by comparison": lambda y: torch.where(y > 2 * y - 0.5, y, 2 * y - 0.5),
}


def test_choices_are_the_same_function_when_they_are_lowered(seed: int) -> None:
    """Values far out, at breaks and beside them; and the program is opened."""
    generator = torch.Generator().manual_seed(seed)
    y = 3 * torch.randn(500, 4, generator=generator, dtype=torch.float64)
    y[:100] = torch.tensor([0.1, 0.2, 0.3, -0.7, 1.3, 1.0, -1.0, 0.5, 0.0, -0.0])[
        torch.randint(10, (100, 4), generator=generator)
    ]
    for name, function in CHOICES.items():
        program = trace(Function(function), (y[:2],), any_batch=True)
        opened = OpenedProgram(program, 0).valued(values_of(program))
        assert not opened.kinds().closed, name
        assert opened.kinds().patterns, name
        torch.testing.assert_close(opened.results([y], apply_atom), function(y), rtol=1e-13, atol=1e-13)


def test_choices_are_minimised_and_exported() -> None:
    def f(y: Tensor) -> Tensor:
        parts = [function(y) * (1 + 0.1 * i) for i, function in enumerate(CHOICES.values())]
        return sum(part.sum(1) for part in parts) - y @ TILT[:4]

    model = Function(f).double()
    found = cx.minimise(model, cx.Box(torch.full((4,), -2.0).double(), torch.full((4,), 2.0).double()), tol=1e-8)
    assert found.solver == "newton", found.message
    optimum = exported(model, cp.Variable(4, bounds=[-2, 2]))
    assert float(found.lower_bound) - 1e-6 <= optimum <= float(found.value) + 1e-6


@pytest.mark.parametrize(
    "function",
    [
        lambda y: torch.where(y > 0, y + 1, torch.zeros_like(y)),  # a jump
        lambda y: torch.where(y > 0, y * 0.5, y),  # concave
        lambda y: torch.where(y > 0, y**2, -(y**2)),
        lambda y: torch.where(y > y.mean(1, keepdim=True), y, y * 0.5),  # of two quantities
    ],
)
def test_other_choices_are_not_lowered(function: Callable[[Tensor], Tensor]) -> None:
    program = trace(Function(function), (torch.zeros(2, 3).double(),), any_batch=True)
    assert not OpenedProgram(program, 0).valued(values_of(program)).kinds().patterns


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y[:, :3] * (y[:, 3:] / y[:, :3]).log(),  # concave
        lambda y: y[:, :3] * y[:, 3:].log(),
        lambda y: y[:, :3] * (y[:, 3:] / y[:, :3]).exp().square(),
        lambda y: y[:, :3] ** 3 / y[:, 3:],
        lambda y: y.prod(1) ** 2,
        lambda y: y.prod(1).sqrt(),
    ],
)
def test_other_products_are_no_perspectives(function: Callable[[Tensor], Tensor]) -> None:
    program = trace(Function(function), (torch.ones(2, 6).double(),), any_batch=True)
    assert not OpenedProgram(program, 0).valued(values_of(program)).kinds().patterns


def test_thresholds_that_are_given_stay_what_they_are() -> None:
    def f(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(y > x, y - x, 0.3 * (y - x)).sum(1) + y.square().sum(1)

    x = torch.tensor([[0.5], [-0.5]]).double()
    found = cx.minimise(Function(f), cx.Box(torch.full((2,), -1.0).double(), torch.ones(2).double()), given=x)
    for i in range(2):
        grid = torch.linspace(-1, 1, 2001, dtype=torch.float64)[:, None]
        least = 2 * float(f(x[i : i + 1].expand(2001, 1), grid).min())
        assert float(found.lower_bound[i]) <= least + 1e-9
        assert abs(float(found.value[i]) - least) <= 1e-5


def test_derivatives_are_those_of_differences() -> None:
    """Of the value and of x, with respect to what is given."""

    def f(x: Tensor, y: Tensor) -> Tensor:
        s, t = y[:, :2], y[:, 2:]
        out = (s * (s / t).log()).sum(1) + (y[:, :2] ** 2).sum(1) / y[:, 2] - 2 * x[:, 0] * y[:, 0]
        return out + torch.where((y - x).abs() < 1, (y - x) ** 2, 2 * (y - x).abs() - 1).sum(1)

    lo, hi = torch.full((3,), 0.1).double(), torch.full((3,), 2.0).double()
    weights = torch.tensor([1.0, -0.5, 0.3]).double()

    model = Function(f)

    def solved(x: Tensor) -> tuple[Tensor, Tensor]:
        found = cx.minimise(model, cx.Box(lo, hi), given=x, tol=1e-10)
        return found.value.sum(), (found.x * weights).sum()

    x = torch.tensor([[0.4]]).double().requires_grad_()
    for which in (0, 1):
        (slope,) = torch.autograd.grad(solved(x)[which], x)
        above, below = (solved(x.detach() + step)[which] for step in (1e-4, -1e-4))
        assert float(slope) == pytest.approx(float((above - below) / 2e-4), rel=2e-3, abs=1e-4)
