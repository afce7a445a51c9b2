"""Minima over simplices, balls, polyhedra and products, and below other networks: against CVXPY, and to first order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.domains import Domain

N = 4
ROWS = 3


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(activation: Any) -> nn.Module:
    torch.manual_seed(5)
    return cx.nn.PICNN(2, N, hidden=(12, 12), activation=activation).double()


NETWORKS = {name: network(name) for name in ("relu", "softplus")}
GIVEN = drawn(ROWS, 2, seed=1)
A, B, E = drawn(6, N, seed=2), drawn(ROWS, 6, seed=3).abs(), drawn(1, N, seed=4)
BOUNDED = torch.cat([torch.eye(N), -torch.eye(N)]).double()

DOMAINS: dict[str, tuple[Callable[[], Domain], Callable[[cp.Variable, int], list[Any]]]] = {
    "simplex": (lambda: cx.Simplex(N, 2.0), lambda v, i: [cp.sum(v) == 2, v >= 0]),
    "simplices": (
        lambda: cx.Simplex(N, [1.0, 2.0, 0.0]),
        lambda v, i: [cp.sum(v) == [1.0, 2.0, 0.0][i], v >= 0],
    ),
    "ball": (lambda: cx.Ball(N, 0.7, centre=0.2), lambda v, i: [cp.norm(v - 0.2) <= 0.7]),
    "balls": (lambda: cx.Ball(N, [0.7, 0.1, 3.0]), lambda v, i: [cp.norm(v) <= [0.7, 0.1, 3.0][i]]),
    "polyhedron": (
        lambda: cx.Polyhedron(A, B, within=cx.Box(-1, 1, shape=N)),
        lambda v, i: [A.numpy() @ v <= B[i].numpy(), v <= 1, v >= -1],
    ),
    "free polyhedron": (
        lambda: cx.Polyhedron(torch.cat([BOUNDED, A]), torch.cat([torch.ones(ROWS, 2 * N).double(), B], 1)),
        lambda v, i: [A.numpy() @ v <= B[i].numpy(), v <= 1, v >= -1],
    ),
    "equalities": (
        lambda: cx.Polyhedron(A, B + 1, E, [0.3], within=cx.Box(-2, 2, shape=N)),
        lambda v, i: [A.numpy() @ v <= B[i].numpy() + 1, E.numpy() @ v == 0.3, v <= 2, v >= -2],
    ),
    "within a simplex": (
        lambda: cx.Polyhedron([[1.0, -1.0, 0.0, 0.0]], [0.1], within=cx.Simplex(N)),
        lambda v, i: [v[0] - v[1] <= 0.1, cp.sum(v) == 1, v >= 0],
    ),
    "no inside": (
        lambda: cx.Polyhedron([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]], [0.25, -0.25], within=cx.Box(-1, 1, shape=N)),
        lambda v, i: [v[0] == 0.25, v <= 1, v >= -1],
    ),
    "product": (
        lambda: cx.Product(cx.Simplex(2), cx.Ball(2, 1.0)),
        lambda v, i: [v[:2] >= 0, cp.sum(v[:2]) == 1, cp.norm(v[2:]) <= 1],
    ),
    "entropy": (lambda: cx.Cube(N, entropy=True), lambda v, i: []),
}


def optimum(name: str, activation: str, i: int) -> float:
    v = cp.Variable(N)
    f = cp.sum(cx.to_cvxpy(NETWORKS[activation], v, given=(GIVEN[i : i + 1],)))
    if name == "entropy":
        f = f - cp.sum(cp.entr(v)) - cp.sum(cp.entr(1 - v))
    problem = cp.Problem(cp.Minimize(f), DOMAINS[name][1](v, i))
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-8, tol_gap_rel=1e-8, tol_feas=1e-8)
    return float(problem.value)


CASES = [
    pytest.param(name, activation, marks=[] if (i + j) % 2 == 0 else [pytest.mark.slow], id=f"{name}-{activation}")
    for i, name in enumerate(DOMAINS)
    for j, activation in enumerate(NETWORKS)
]


@pytest.mark.parametrize(("name", "activation"), CASES)
def test_minima_are_those_of_cvxpy(name: str, activation: str) -> None:
    domain = DOMAINS[name][0]()
    with torch.no_grad():
        found = cx.minimise(NETWORKS[activation], domain, given=GIVEN)
        assert found.status == ("converged",) * ROWS, found.message
        assert bool(domain.contains(found.x).all())
        own = NETWORKS[activation](GIVEN, found.x)[:, 0]
    if name != "entropy":
        assert torch.equal(own, found.value) or bool(torch.isclose(own, found.value, rtol=1e-12, atol=1e-12).all())
    for i in range(ROWS):
        best = optimum(name, activation, i)
        assert float(found.lower_bound[i]) <= best + 1e-7
        assert float(found.value[i]) == pytest.approx(best, abs=2e-6)


@pytest.mark.parametrize("name", ["ball", "equalities", "product"])
def test_float32_points_are_in_the_set(name: str) -> None:
    domain = DOMAINS[name][0]()
    torch.manual_seed(5)
    f = cx.nn.PICNN(2, N, hidden=(12, 12), activation="relu")
    with torch.no_grad():
        found = cx.minimise(f, domain, given=GIVEN.float(), tol=1e-5)
    assert found.x.dtype == torch.float32
    assert bool(domain.contains(found.x).all())
    assert bool(found.converged.all()), found.message


def polyhedron(right: Tensor, matrix: Tensor = A) -> Domain:
    return cx.Polyhedron(matrix, right, within=cx.Box(-1, 1, shape=N))


SOURCES: dict[str, tuple[Callable[[Tensor], cx.Solution], Tensor]] = {
    "total": (lambda t: cx.minimise(NETWORKS["softplus"], cx.Simplex(N, t), GIVEN, 1e-10), torch.tensor(1.0).double()),
    "radius": (lambda t: cx.minimise(NETWORKS["softplus"], cx.Ball(N, t), GIVEN, 1e-10), torch.tensor(0.7).double()),
    "b": (lambda t: cx.minimise(NETWORKS["relu"], polyhedron(t), GIVEN, 1e-10), B[0]),
    "A": (lambda t: cx.minimise(NETWORKS["softplus"], polyhedron(B[0], torch.cat([t, A[1:]])), GIVEN, 1e-10), A[:1]),
    "given": (lambda t: cx.minimise(NETWORKS["softplus"], polyhedron(B[0]), t, 1e-10), GIVEN),
}


@pytest.mark.parametrize("name", SOURCES)
def test_derivatives_are_those_of_differences(name: str) -> None:
    make, at = SOURCES[name]
    weights = drawn(ROWS, N, seed=9)
    theta = at.clone().requires_grad_()
    found = make(theta)
    (of_x,) = torch.autograd.grad((found.x * weights).sum(), theta, retain_graph=True)
    (of_value,) = torch.autograd.grad(found.value.sum(), theta)
    way = drawn(*at.shape, seed=8) if at.ndim else torch.ones(()).double()
    step = 1e-5
    with torch.no_grad():
        up, down = make(at + step * way), make(at - step * way)
    x = float(((up.x - down.x) * weights).sum() / (2 * step))
    value = float((up.value - down.value).sum() / (2 * step))
    assert float((of_x * way).sum()) == pytest.approx(x, abs=2e-4)
    assert float((of_value * way).sum()) == pytest.approx(value, abs=2e-5)


class Raised(nn.Module):
    """A network plus a constant."""

    def __init__(self, net: nn.Module, constant: float) -> None:
        super().__init__()
        self.net, self.constant = net, constant

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.net(x, y) + self.constant


def test_a_constant_changes_nothing_but_the_value() -> None:
    """A solver does not see it, and what says whether penalties are large enough must: here the first are not."""
    torch.manual_seed(0)
    net, given = cx.nn.PICNN(4, 10, hidden=(32, 32), activation="relu").double(), drawn(6, 4, seed=6)
    value = None
    for constant in (9.0, -9.0):
        found = cx.minimise(Raised(net, constant), cx.Simplex(10), given=given, tol=1e-5).detach()
        assert found.converged.all(), found.message
        assert value is None or torch.allclose(found.value - constant, value, atol=1e-5)
        value = found.value - constant


def test_multipliers_are_those_of_cvxpy() -> None:
    f = NETWORKS["softplus"]
    domain = cx.Polyhedron(A, B, E, [0.1], within=cx.Box(-1, 1, shape=N))
    found = cx.minimise(f, domain, GIVEN, 1e-10).multipliers
    for i in range(ROWS):
        v = cp.Variable(N)
        rows = {
            "inequality": A.numpy() @ v <= B[i].numpy(),
            "equality": E.numpy() @ v == 0.1,
            "upper": v <= 1,
            "lower": -v <= 1,
        }
        problem = cp.Problem(cp.Minimize(cp.sum(cx.to_cvxpy(f, v, given=(GIVEN[i : i + 1],)))), [*rows.values()])
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-8, tol_gap_rel=1e-8, tol_feas=1e-8)
        for kind, row in rows.items():
            np.testing.assert_allclose(
                found[kind][i].numpy(), np.atleast_1d(np.asarray(row.dual_value, dtype=float)), atol=2e-4
            )


def test_an_empty_sample_is_named_with_the_rows_that_conflict() -> None:
    right = torch.tensor([[0.0, -1.0], [1.0, -0.5], [2.0, 2.0]]).double()
    domain = cx.Polyhedron([[1.0, 1.0, 0, 0], [-1.0, -1.0, 0, 0]], right, within=cx.Box(-1, 1, shape=N))
    with torch.no_grad():
        found = cx.minimise(NETWORKS["relu"], domain, given=GIVEN)
    assert found.status == ("infeasible", "converged", "converged")
    assert "Sample 0 is infeasible" in found.message
    assert "row 0 of A and row 1 of A" in found.message
    assert bool(found.x[0].isnan().all())
    assert float(found.lower_bound[0]) == float(found.value[0]) == float("inf")
    assert domain.contains(found.x).tolist() == [False, True, True]
    with torch.no_grad():  # a loop goes on after such a sample
        after = cx.minimise(NETWORKS["relu"], cx.Box(-1, 1, shape=N), given=GIVEN, start=found)
    assert bool(after.converged.all())


class Bowl(nn.Module):
    """‖y − 1‖²."""

    def forward(self, y: Tensor) -> Tensor:
        return (y - 1).square().sum(1)


def test_other_networks_stay_below_their_levels() -> None:
    f, bowl = NETWORKS["relu"], Bowl()
    box = cx.Box(-3, 3, shape=N)
    free = cx.minimise(f, box, GIVEN).detach()
    assert bool((bowl(free.x) > 0.5).all()), "the constraint is to matter"
    level = torch.tensor([0.5, 0.3, 0.4]).double().requires_grad_()
    found = cx.minimise(f, box, GIVEN, subject_to=[cx.at_most(bowl, level)])
    assert found.status == ("converged",) * ROWS, found.message
    assert bool((bowl(found.x) <= level + 1e-12).all())
    (slope,) = torch.autograd.grad(found.value.sum(), level)
    for i in range(ROWS):
        v = cp.Variable(N)
        row = cp.sum_squares(v - 1) <= float(level[i].detach())
        problem = cp.Problem(cp.Minimize(cp.sum(cx.to_cvxpy(f, v, given=(GIVEN[i : i + 1],)))), [row, v <= 3, v >= -3])
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-8, tol_gap_rel=1e-8, tol_feas=1e-8)
        assert found.value[i].item() == pytest.approx(problem.value, abs=3e-6)
        assert -float(slope[i]) == pytest.approx(np.asarray(row.dual_value, dtype=float).item(), rel=2e-3)
    assert bool(torch.isclose(found.multipliers["subject_to"][:, 0], -slope, rtol=1e-6).all())
    none = cx.minimise(f, box, GIVEN, subject_to=[cx.at_most(bowl, -1.0)])
    assert none.status == ("infeasible",) * ROWS
    with pytest.raises(cx.NotCertified, match=r"subject_to\[0\]: .* not proved convex"):
        cx.minimise(f, box, GIVEN, subject_to=[cx.at_most(nn.Sequential(nn.Linear(N, 1).double(), nn.Tanh()), 0.0)])


def test_conjugates_keep_fenchels_inequality_and_prox_its_optimality() -> None:
    f = cx.nn.FICNN(2, hidden=(8, 8), activation="softplus").double()
    box = cx.Box(-2, 2, shape=2)
    slopes, points = drawn(5, 2, seed=20), 2 * torch.rand(5, 2, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        upper = cx.conjugate(f, slopes, box)
        lower = f(points)[:, 0] + upper.value - (slopes * points).sum(1)
        assert bool((lower >= -1e-9).all())
        assert bool((upper.upper_bound >= upper.value).all())
        at = (slopes * upper.x).sum(1) - f(upper.x)[:, 0]
        assert bool(torch.isclose(at, upper.value, atol=1e-9).all())
        near = cx.prox(f, points, torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0]), tol=1e-11)
        steps = torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0]).double()
    y = near.x.clone().requires_grad_()
    (g,) = torch.autograd.grad(f(y).sum(), y)
    assert bool(torch.isclose(g, (points - near.x) / steps[:, None], atol=2e-3).all())


def test_a_gradient_penalty_on_a_conjugate_trains() -> None:
    torch.manual_seed(1)
    f = cx.nn.FICNN(2, hidden=(6,), activation="softplus", quadratic=2).double()
    slopes = drawn(3, 2, seed=30).requires_grad_()
    found = cx.conjugate(f, slopes, tol=1e-10)
    (g,) = torch.autograd.grad(found.value.sum(), slopes, create_graph=True)
    assert bool(torch.isclose(g.detach(), found.x.detach(), atol=1e-6).all())
    penalty = g.square().sum()
    of_f = torch.autograd.grad(penalty, [p for p in f.parameters() if p.requires_grad], allow_unused=True)
    assert any(part is not None and bool(part.abs().max() > 1e-4) for part in of_f)


def test_a_minimiser_keeps_the_network_it_was_built_with() -> None:
    torch.manual_seed(2)
    f = cx.nn.PICNN(2, N, hidden=(8,), activation="relu").double()
    solver = cx.Minimiser(f, cx.Simplex(N))
    before = cx.minimise(f, cx.Simplex(N), given=GIVEN).detach()
    with torch.no_grad():
        for parameter in f.parameters():
            parameter.mul_(0.5)
    held = [p.detach().clone() for p in f.parameters()]
    old = solver(GIVEN)
    assert bool(torch.isclose(old.value, before.value, atol=1e-9).all())
    assert all(torch.equal(p, kept) for p, kept in zip(f.parameters(), held, strict=True))
    solver.refresh()
    new = solver(GIVEN, start=old)
    assert bool(torch.isclose(new.value, cx.minimise(f, cx.Simplex(N), given=GIVEN).value, atol=1e-9).all())
    assert not bool(torch.isclose(new.value, old.value, atol=1e-3).any())


class Around(nn.Module):
    """‖y − centre‖²."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.ones(N).double())

    def forward(self, y: Tensor) -> Tensor:
        return (y - self.centre).square().sum(1)


def test_a_minimiser_keeps_the_networks_of_its_constraints() -> None:
    near = Around()
    with torch.no_grad():
        solver = cx.Minimiser(NETWORKS["relu"], cx.Box(-3, 3, shape=N), subject_to=[cx.at_most(near, 0.3)])
        before = solver(GIVEN)
        near.centre.fill_(-1.0)
        again = solver(GIVEN)
        solver.refresh()
        after = solver(GIVEN)
    assert before.status == again.status == after.status == ("converged",) * ROWS
    assert bool(torch.isclose(again.value, before.value, atol=1e-9).all())
    assert bool(((before.x - 1).square().sum(1) <= 0.3 + 1e-12).all())
    assert bool(((after.x + 1).square().sum(1) <= 0.3 + 1e-12).all())


def test_what_is_not_concave_is_not_maximised() -> None:
    with pytest.raises(cx.NotCertified, match=r"cannot maximise: Bowl is not proved concave\."):
        cx.maximise(Bowl(), cx.Box(0, 1, shape=N))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cx.Simplex(3, -1.0), "total of the Simplex"),
        (lambda: cx.Ball(3, float("nan")), "radius of the Ball"),
        (lambda: cx.Polyhedron(), "needs rows"),
        (lambda: cx.Polyhedron([[1.0, 2.0]]), "A without b"),
        (lambda: cx.Polyhedron([[1.0, 2.0]], [1.0, 2.0]), "one for each row"),
        (lambda: cx.Polyhedron([[1.0, 2.0]], [float("inf")]), "infinite"),
        (lambda: cx.Polyhedron([[1.0]], [1.0], within=cx.Box(0, 1, shape=2)), "1 columns"),
        (lambda: cx.Product(), "at least one set"),
        (lambda: cx.Cube(2, entropy=True).fix(0.5, True), "no fixed elements"),
        (lambda: cx.minimise(NETWORKS["relu"], cx.Simplex(N), GIVEN, derivative="unrolled"), "for boxes"),
        (lambda: cx.rollout(nn.Identity(), nn.Identity(), 0), "horizon"),
        (lambda: cx.prox(Bowl(), torch.zeros(2, 3), 0.0), "positive number"),
        (lambda: cx.minimise(NETWORKS["relu"], cx.Simplex(N, [1.0, 1.0]), GIVEN), "2 samples"),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
