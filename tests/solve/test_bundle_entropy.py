"""Cutting planes and an entropy: against CVXPY, Newton and exact arithmetic, and where published code fails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cvxpy as cp
import mpmath
import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.domains import Domain
from convexnet.solve.functions.with_entropy import entropy, lowest_point
from convexnet.solve.lower_bounds import Plane
from convexnet.solve.solvers.bundle_entropy import maximise_dual
from convexnet.solve.solvers.choose import WAYS

SOLVER = "bundle-entropy"


class Scaled(nn.Module):
    """A network times a number."""

    def __init__(self, f: nn.Module, factor: float) -> None:
        super().__init__()
        self.f = f
        self.factor = factor

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.factor * self.f(x, y)


class Known(nn.Module):
    """Σ_k |a_k y − b_k|."""

    def __init__(self, a: list[list[float]], b: list[float]) -> None:
        super().__init__()
        self.a, self.b = nn.Buffer(torch.tensor(a).double()), nn.Buffer(torch.tensor(b).double())

    def forward(self, y: Tensor) -> Tensor:
        return (y @ self.a.T - self.b).abs().sum(1)


def network(n: int, activation: Any, seed: int, spread: float | None = None) -> nn.Module:
    """A network whose gradients have this standard deviation."""
    torch.manual_seed(seed)
    f = cx.nn.PICNN(2, n, hidden=(12, 12), activation=activation).double().requires_grad_(False)
    if spread is None:
        return f
    y = torch.rand(64, n, dtype=torch.float64).requires_grad_()
    (g,) = torch.autograd.grad(f(torch.randn(64, 2, dtype=torch.float64), y).sum(), y)
    return Scaled(f, spread / float(g.square().mean().sqrt()))


def given(batch: int, seed: int) -> Tensor:
    return torch.randn(batch, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def least_by_cvxpy(f: nn.Module, n: int, x: Tensor) -> float:
    v = cp.Variable(n)
    total = cp.sum(cx.to_cvxpy(f, v, given=(x[None],))) - cp.sum(cp.entr(v)) - cp.sum(cp.entr(1 - v))
    problem = cp.Problem(cp.Minimize(total))
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    return float(problem.value)  # pyright: ignore


@pytest.mark.parametrize(("n", "activation"), [(1, "relu"), (5, "softplus"), (12, "leaky_relu")])
def test_minima_are_those_of_cvxpy(n: int, activation: str) -> None:
    f, x = network(n, activation, n), given(4, n)
    found = cx.minimise(f, cx.Cube(n, entropy=True), given=x, solver=SOLVER, tol=1e-7)
    assert bool(found.converged.all()), found.message
    assert found.solver == SOLVER
    for i in range(4):
        best = least_by_cvxpy(f, n, x[i])
        assert float(found.value[i]) == pytest.approx(best, abs=1e-6)
        assert float(found.lower_bound[i]) <= best + 1e-7


def compare(n: int, activation: str, seed: int, spread: float, batch: int) -> cx.Solution:
    f, x, cube = network(n, activation, seed, spread), given(batch, seed), cx.Cube(n, entropy=True)
    best = cx.minimise(f, cube, given=x, solver="newton")
    found = cx.minimise(f, cube, given=x, solver=SOLVER)
    assert bool((found.lower_bound <= best.value).all())
    assert bool((best.lower_bound <= found.value).all())
    assert bool(found.converged.all()), found.message
    # F is strongly convex: F(x) − F(x*) >= 2 ‖x − x*‖²
    room = (found.gap + best.gap).sqrt() * 2**0.5
    assert bool(((found.x - best.x).norm(dim=1) <= room + 1e-7).all())
    return found


@pytest.mark.parametrize(("activation", "spread"), [("relu", 80.0), ("softplus", 1.0)])
def test_minima_are_those_of_newton(activation: str, spread: float) -> None:
    """Also with gradients of size 80, where most of the minimiser is 0 or 1 up to rounding."""
    compare(20, activation, 3, spread, 12)


def test_auto_takes_it_and_where_it_does_not_end_newton(monkeypatch: pytest.MonkeyPatch) -> None:
    f, x, cube = network(6, "relu", 4, 30.0), given(4, 4), cx.Cube(6, entropy=True)
    found = cx.minimise(f, cube, given=x)
    assert found.solver == SOLVER
    assert bool(found.converged.all())
    monkeypatch.setitem(WAYS, SOLVER, replace(WAYS[SOLVER], steps=1))
    other = cx.minimise(f, cube, given=x)
    assert other.solver == "newton"
    assert bool(other.converged.all()), other.message
    assert torch.allclose(other.value, found.value, atol=1e-5)
    assert cx.minimise(f, cube, given=x, max_steps=1).solver == SOLVER, "a budget that the caller set ends it"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25))
def test_a_thousand_random_problems(seed: int) -> None:
    activation = ("relu", "softplus", "leaky_relu")[seed % 3]
    n, spread = (1, 2, 5, 15, 40)[seed % 5], (0.1, 1.0, 10.0, 80.0)[seed % 4]
    found = compare(n, activation, seed, spread, 40)
    f, x = network(n, activation, seed, spread), given(40, seed)
    for i in (0, 1):
        best = least_by_cvxpy(f, n, x[i])
        assert float(found.lower_bound[i]) <= best + 1e-6 * max(1.0, spread)
        assert float(found.value[i]) <= best + float(found.gap[i]) + 1e-6 * max(1.0, spread)


KINKS: dict[str, tuple[list[list[float]], list[float], list[float]]] = {
    "one variable": ([[5.0]], [1.5], [0.3]),  # the published code returns 0.0067, from 0.5
    "another kink": ([[40.0]], [36.0], [0.9]),
    "the same kink twice": ([[5.0], [5.0]], [1.5, 1.5], [0.3]),
    "three planes of one variable": ([[3.0], [30.0]], [3.0, 6.0], [0.2]),
    "slopes on a line": ([[6.0, 0.0], [0.0, 0.0]], [1.2, 1.0], [0.2, 0.5]),
    "two variables alike": ([[9.0, 9.0]], [5.4], [0.3, 0.3]),
    "a corner": ([[9.0, 1.0], [1.0, 9.0]], [2.8, 5.2], [0.2875, 0.54583333]),
    "no slope": ([[0.0, 0.0]], [1.0], [0.5, 0.5]),
}


@pytest.mark.parametrize("name", KINKS)
def test_planes_with_dependent_slopes_do_not_end_the_search(name: str) -> None:
    """Where the slopes of the planes are linearly dependent, the published code stops, wherever it is."""
    a, b, at = KINKS[name]
    f, cube = Known(a, b), cx.Cube(len(at), entropy=True)
    for start in (None, [0.5] * len(at), [0.0] * len(at), at):
        begin = None if start is None else torch.tensor(start).double()
        found = cx.minimise(f, cube, start=begin, solver=SOLVER, tol=1e-8)
        assert bool(found.converged.all()), (name, start, found.message)
        if name != "a corner":
            assert found.x[0].tolist() == pytest.approx(at, abs=1e-3)
        least = float(f(torch.tensor([at]).double()) + entropy(torch.tensor([at]).double()))
        assert float(found.lower_bound) <= least + 1e-12
        assert float(found.value) <= least + 2e-5


def test_ten_steps_go_further_from_a_solution_nearby() -> None:
    """The steps that the paper takes, K = 10."""
    n, cube = 30, cx.Cube(30, entropy=True)
    f, x = network(n, "relu", 1, 40.0), given(8, 1)
    before = cx.minimise(f, cube, given=x + 1e-4)
    cold = cx.minimise(f, cube, given=x, solver=SOLVER, max_steps=4, tol=1e-12)
    warm = cx.minimise(f, cube, given=x, solver=SOLVER, max_steps=4, tol=1e-12, start=before)
    ten = cx.minimise(f, cube, given=x, solver=SOLVER, max_steps=10, tol=1e-12)
    assert int(ten.steps.max()) <= 10
    assert bool((ten.gap <= cold.gap + 1e-8).all())
    assert float(warm.gap.median()) <= float(cold.gap.median())
    assert float(warm.value.sub(ten.lower_bound).median()) <= float(cold.value.sub(ten.lower_bound).median())
    for found in (cold, warm, ten):
        assert bool((found.lower_bound <= before.value + 1.0).all())
        assert bool((found.lower_bound <= found.value).all())


def test_derivatives_and_multipliers_are_those_of_the_minimum() -> None:
    f, x, cube = network(4, "relu", 2), given(5, 2).requires_grad_(), cx.Cube(4, entropy=True)
    weights = torch.arange(1.0, 5.0, dtype=torch.float64)
    made = []
    for solver in ("newton", SOLVER):
        found = cx.minimise(f, cube, given=x, solver=solver, tol=1e-9)  # pyright: ignore
        made.append(torch.autograd.grad((found.x * weights).sum() + found.value.sum(), x)[0])
        assert float(torch.cat([found.multipliers["lower"], found.multipliers["upper"]]).max()) < 1e-4
    assert torch.allclose(made[0], made[1], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        quiet = cx.minimise(f, cube, given=x, solver=SOLVER)  # pyright: ignore
    assert float(quiet.multipliers["lower"].max()) < 1e-4


def test_derivatives_of_saturated_minimisers_are_those_of_the_implicit_function_theorem() -> None:
    """Coordinates that are 0 or 1 up to rounding do not move: no bound holds them, and none is tied."""
    n = 12
    f, x = network(n, "softplus", 3, 80.0), given(4, 3).requires_grad_()
    found = cx.minimise(f, cx.Cube(n, entropy=True), given=x, tol=1e-10)
    assert float(found.x.detach().min()) < 1e-12
    weights = torch.arange(1.0, n + 1, dtype=torch.float64)
    (made,) = torch.autograd.grad((found.x * weights).sum(), x)
    eye = torch.eye(n, dtype=torch.float64)
    for i in range(4):
        y, inner = found.x[i].detach(), x[i : i + 1].detach().requires_grad_()
        for step in range(9):  # Newton's method to the minimiser, and last its derivative
            y = y.clamp(1e-200, 1 - 1e-16)
            p, at = (y * (1 - y))[:, None], y[None].clone().requires_grad_()
            (slope,) = torch.autograd.grad(f(inner, at).sum(), at, create_graph=True)
            hessian = torch.stack([torch.autograd.grad(part, at, retain_graph=True)[0][0] for part in slope[0]])
            if step < 8:
                left = slope[0].detach() + torch.logit(y)
                y = torch.sigmoid(torch.logit(y) - torch.linalg.solve(eye + p * hessian, p[:, 0] * left) / p[:, 0])
        mixed = torch.stack([torch.autograd.grad(part, inner, retain_graph=True)[0][0] for part in slope[0]])
        moves = -torch.linalg.solve(eye + p * hessian, p * mixed)
        assert torch.allclose(made[i], weights @ moves, atol=1e-6)


class Odd(nn.Module):
    """A function that reads the size of its batch."""

    def forward(self, y: Tensor) -> Tensor:
        return 3 * (y - 0.2).square().sum(1) if len(y) > 1 else 3 * (y - 0.2).square().sum(1) + 0.0 * y[:, 0]


def test_functions_that_are_not_opened_and_single_precision() -> None:
    for cube in (cx.Cube(3, entropy=True), cx.Product(cx.Cube(1, entropy=True), cx.Cube(2, entropy=True))):
        found = cx.minimise(Odd(), cube, solver=SOLVER)
        assert bool(found.converged.all()), found.message
        assert found.x.dtype == torch.float32
        slope = 6 * (found.x.double() - 0.2) + torch.logit(found.x.double())
        assert float(slope.abs().max()) < 1e-2
        again = cx.Minimiser(Odd(), cube, solver=SOLVER)()
        assert torch.equal(again.x, found.x)


@pytest.mark.parametrize(
    "domain", [cx.Box(0, 1, shape=2), cx.Cube(2), cx.Simplex(2), cx.Product(cx.Cube(1, entropy=True), cx.Cube(1))]
)
def test_other_problems_are_refused(domain: Domain) -> None:
    with pytest.raises(ValueError, match=f"Cube\\(n, entropy=True\\), and this domain is a {type(domain).__name__}"):
        cx.minimise(Known([[1.0, 1.0]], [1.0]), domain, solver=SOLVER)


def test_further_constraints_are_refused() -> None:
    g = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="further constraints"):
        cx.minimise(Known([[1.0, 1.0]], [1.0]), cx.Cube(2, entropy=True), solver=SOLVER, subject_to=[cx.at_most(g, 1)])


def test_the_dual_is_maximised_whatever_the_planes_are(seed: int) -> None:
    """Each value is a lower bound, and the last one is as high as was asked for."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    for spread in (1e-3, 1.0, 80.0):
        for m, n in ((2, 1), (6, 3), (4, 30)):
            G, h = spread * drawn(16, m, n), spread * drawn(16, m)
            G[1], G[2, 1:], G[3, 0] = 0.0, G[2, :1], 0.0
            h[4], G[4] = h[4, :1], G[4, :1]  # all the same
            h[5] = torch.linspace(-1e6, 1e6, m)
            start = torch.zeros(16, m).double().index_fill(1, torch.tensor([0]), 1.0)
            allowed = torch.full((16,), 1e-7 * spread, dtype=torch.float64)
            shares = maximise_dual(G, h, start, allowed)
            assert bool((shares >= 0).all())
            assert torch.allclose(shares.sum(1), torch.ones(16).double())
            g = torch.einsum("bm,bmn->bn", shares, G)
            y = lowest_point(g)
            heights = torch.einsum("bmn,bn->bm", G, y) + h
            size = heights.abs().amax(1)
            assert bool((heights.amax(1) - (shares * heights).sum(1) <= 2 * allowed + 1e-13 * size).all()), (spread, m)
            dual = (shares * h).sum(1) + torch.nn.functional.logsigmoid(g).sum(1)
            for _ in range(20):
                point = torch.rand(16, n, generator=generator, dtype=torch.float64)
                model = (torch.einsum("bmn,bn->bm", G, point) + h).amax(1) + entropy(point)
                assert bool((dual <= model + 1e-12 * (1 + size)).all())


def test_the_bound_of_a_plane_and_the_entropy_holds_in_exact_arithmetic(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mpmath.mp.dps = 60
    for trial in range(60):
        n, spread = 1 + trial % 7, 10.0 ** (trial % 6 - 2)
        slope = spread * torch.randn(1, n, generator=generator, dtype=torch.float64)
        slope[0, 0] = (0.0, -0.0, 745.0, -745.0, 36.7, 1e-300)[trial % 6]
        at = torch.rand(1, n, generator=generator, dtype=torch.float64).round(decimals=trial % 3)
        level = 1e3 * torch.randn(1, generator=generator, dtype=torch.float64)
        slack = 1e-3 * spread * torch.rand(1, n, generator=generator, dtype=torch.float64) * (trial % 2)
        plane = Plane(at, level, slope, 0 * level, slack)
        proved = float(plane.proved_minimum_with_entropy())
        for sign in (-1.0, 0.0, 1.0):
            moved = [
                mpmath.mpf(g) + mpmath.mpf(sign * s) for g, s in zip(slope[0].tolist(), slack[0].tolist(), strict=True)
            ]
            least = mpmath.mpf(float(level))
            for g, t in zip(moved, at[0].tolist(), strict=True):
                least += -g * mpmath.mpf(t) - mpmath.log(1 + mpmath.exp(-g))
            assert mpmath.mpf(proved) <= least, (trial, sign)
            if sign == 0.0 and trial % 2 == 0:
                assert proved >= least - 1e-11 * (1e3 + spread * n + 1e3)


def test_cutting_planes_need_no_level(seed: int) -> None:
    torch.manual_seed(seed)
    f, box = cx.nn.FICNN(2, hidden=(10,), activation="relu").double(), cx.Box(-1, 1, shape=2)
    plain, level = (cx.minimise(f, box, solver=name, tol=1e-8) for name in ("cutting-planes", "bundle"))  # pyright: ignore
    assert (plain.solver, level.solver) == ("cutting-planes", "bundle")
    assert bool(plain.converged.all()), plain.message
    assert float(plain.value.detach()) == pytest.approx(float(level.value.detach()), abs=1e-6)
