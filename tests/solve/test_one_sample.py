"""One problem after another in numpy: the solutions of `minimise`, bounds that are bounds, and what is left to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.curvature.tracing.trace import trace
from convexnet.form.program import OpenedProgram
from convexnet.solve.single import quick
from convexnet.solve.single.tape import Tape, Unfit


class Distances(nn.Module):
    """max over nothing, but everything else: |A y − b| + 2 relu(3 y_0 − x) − x · y, of vectors and numbers."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.a = nn.Parameter(torch.randn(5, 3, generator=generator, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(5, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        far = (y @ self.a.T - self.b).abs().sum(1)
        return far + 2 * ((3 * y - x).relu()).sum(1) - (y * x).sum(1) + x.square().sum(1)


def network(name: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(2)
    made: dict[str, Any] = {
        "picnn": lambda: cx.nn.PICNN(3, 3, hidden=(12, 12), activation="relu"),
        "leaky": lambda: cx.nn.PICNN(3, 3, hidden=(8, 8, 8), activation="leaky_relu"),
        "distances": Distances,
    }
    return made[name]().to(dtype).requires_grad_(False)


BOX = cx.Box([-1.0, -0.5, -2.0], [1.0, 0.75, 0.5])


def optimum(f: nn.Module, x: Tensor) -> float:
    lp = cx.to_lp(f, BOX, given=x)
    lp.run()
    return float(lp.getInfo().objective_function_value)


@pytest.mark.parametrize(
    ("name", "dtype", "drift"),
    [
        ("picnn", torch.float64, 1e-3),
        ("leaky", torch.float64, 0.3),
        ("distances", torch.float64, 0.3),
        pytest.param("picnn", torch.float32, 0.1, marks=pytest.mark.slow),
    ],
)
def test_solutions_are_those_of_minimise(name: str, dtype: torch.dtype, drift: float, seed: int) -> None:
    f, generator = network(name, dtype), torch.Generator().manual_seed(seed)
    tol = 1e-6 if dtype == torch.float64 else 1e-4
    solver = cx.Minimiser(f, BOX, tol=tol)
    x = torch.randn(1, 3, generator=generator, dtype=dtype)
    last = solver(x)
    assert solver.quick is not None
    assert last.trail is not None
    for _ in range(5):
        x = x + drift * torch.randn(1, 3, generator=generator, dtype=dtype)
        cold, warm, best = solver(x), solver(x, start=last), optimum(f, x)
        for found in (cold, warm):
            assert bool(found.converged), found.message
            assert found.status == ("converged",)
            assert bool(BOX.contains(found.x).all())
            assert found.x.dtype == dtype
            own = f.double()(x.double(), found.x.double()).reshape(-1)
            f.to(dtype)
            assert float(found.value) == pytest.approx(float(own), rel=1e-12, abs=1e-12)
            assert float(found.lower_bound) <= best + 1e-6
            assert float(found.value) >= best - 1e-6
            assert float(found.gap) >= 0
            assert float(found.value) == pytest.approx(best, abs=5e-5)
        last = warm


def test_a_vertex_is_solved_by_one_system_and_another_is_found() -> None:
    f = network("picnn", torch.float64)
    solver, x = cx.Minimiser(f, BOX, tol=1e-7), torch.tensor([[0.3, -0.2, 0.8]]).double()
    first = solver(x, start=solver(x))
    near = solver(x + 1e-7, start=first)
    assert near.solver == "active set"
    assert int(near.steps) == 1
    far = solver(-20 * x, start=near)
    assert bool(far.converged)
    assert float(far.value) == pytest.approx(float(cx.minimise(f, BOX, -20 * x, tol=1e-7).value), abs=1e-5)


def test_multipliers_are_those_of_minimise() -> None:
    f, x = network("picnn", torch.float64), torch.tensor([[0.3, -0.2, 0.8]]).double()
    solver = cx.Minimiser(f, BOX, tol=1e-8)
    solver(x)
    found, other = solver(x), cx.minimise(f, BOX, x, tol=1e-8)
    for kind in ("lower", "upper"):
        assert torch.allclose(found.multipliers[kind], other.multipliers[kind], atol=1e-6)


def test_multipliers_are_of_the_call_whatever_is_written_afterwards() -> None:
    f, x = network("picnn", torch.float64), torch.tensor([[0.3, -0.2, 0.8]]).double()
    solver = cx.Minimiser(f, BOX, tol=1e-8)
    solver(x)
    wanted = solver(x).multipliers
    given = x.clone()
    found, refreshed = solver(given), solver(given)
    given.mul_(-5)  # as a control loop does with its state
    for p in f.parameters():
        p.mul_(3)
    assert all(torch.allclose(found.multipliers[kind], wanted[kind], atol=1e-6) for kind in ("lower", "upper"))
    solver.refresh()
    assert all(torch.allclose(refreshed.multipliers[kind], wanted[kind], atol=1e-6) for kind in ("lower", "upper"))


def test_what_it_is_not_for_is_left_to_minimise(monkeypatch: pytest.MonkeyPatch) -> None:
    f, x = network("picnn", torch.float64), torch.zeros(1, 3).double()
    solver = cx.Minimiser(f, BOX)
    solver(x)
    assert solver.quick is not None
    moving = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(solver(moving).value.sum(), moving)
    assert slope.shape == x.shape
    assert len(solver(torch.zeros(2, 3).double()).value) == 2
    assert solver(x, domain=cx.Box(-1, 1, shape=3)).x.shape == (1, 3)
    with pytest.raises(ValueError, match="NaN or infinity"):
        solver(torch.full((1, 3), torch.nan).double())
    for options in ({"solver": "bundle"}, {"max_steps": 3}, {"time_limit": 9.0}, {"callback": lambda _: None}):
        other = cx.Minimiser(f, BOX, **options)
        other(x)
        assert other.quick is None
    smooth = cx.Minimiser(cx.nn.FICNN(3, hidden=(4,)).double().requires_grad_(False), BOX)
    smooth()
    assert smooth.quick is None
    monkeypatch.setattr(quick, "follow_path", lambda *_: None)  # as where path following gets lost
    found = solver(x)
    assert bool(found.converged)
    assert found.solver == "newton"


def test_a_minimiser_of_single_samples_keeps_its_network_until_it_is_refreshed() -> None:
    f, x = network("picnn", torch.float64), torch.zeros(1, 3).double()
    solver = cx.Minimiser(f, BOX)
    solver(x)
    before = solver(x).value.item()
    for p in f.parameters():
        p.mul_(1.5)
    assert solver(x).value.item() == before
    solver.refresh()
    fresh = cx.minimise(f, BOX, x).value.item()
    assert solver(x).value.item() == pytest.approx(fresh, abs=1e-5)
    assert solver(x).value.item() == pytest.approx(fresh, abs=1e-5)


def tape_of(f: nn.Module, *inputs: Tensor) -> Tape:
    program = trace(f, tuple(inputs), any_batch=True)
    return Tape(OpenedProgram(program, len(inputs) - 1).valued({}))


@pytest.mark.parametrize("name", ["picnn", "leaky", "distances"])
def test_whatever_slopes_prove_lies_below(name: str, seed: int) -> None:
    """Also for slopes that belong to no point."""
    f, generator = network(name, torch.float64), np.random.default_rng(seed)
    x = torch.from_numpy(generator.normal(size=(1, 3)))
    sample = tape_of(f, x, torch.zeros(1, 3).double()).sample([x, torch.zeros(1, 3).double()])
    for scale in (1e-3, 1.0, 1e5):
        middle = generator.normal(size=3)
        lo, hi = middle - scale, middle + scale
        points = generator.uniform(lo, hi, size=(200, 3))
        values = f(x.expand(200, -1), torch.from_numpy(points)).reshape(-1).numpy()
        for _ in range(10):
            at = sample.arguments(points[0])[0]
            slopes = [np.clip((a > 0) + generator.normal(size=len(a)) * 0.3, 0, 1) for a in at]
            bound, lost, _, _ = sample.prove(slopes, lo, hi)
            assert bound <= values.min() + 1e-13 * np.abs(values).max()
            assert 0 < lost < 1e-9 * (1 + np.abs(values).max())


class Twice(nn.Module):
    """Two affine maps in a row, which would have to be multiplied out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()

    def forward(self, y: Tensor) -> Tensor:
        return self.second(self.first(y)).relu().sum(1)


class Falling(nn.Module):
    """A kink that is used downwards, on a part of y that its bounds make affine."""

    def forward(self, y: Tensor) -> Tensor:
        return y.relu().sum(1) - 0.5 * (y + 9).relu().sum(1)


@pytest.mark.parametrize("f", [Twice(), Falling(), cx.nn.FICNN(3, hidden=(4,)).double()])
def test_programs_of_another_kind_are_refused(f: nn.Module) -> None:
    with pytest.raises(Unfit):
        tape_of(f, torch.zeros(1, 3).double())
