"""`minimise` attacked: against the exact linear program of the exporter and SciPy, bounds hammered with random points,
degenerate functions and boxes, batches and their singles, and arguments that are wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from convexnet.choices import SOLVERS
from convexnet.solve.solvers.incumbents import sign_patterns
from tests.drawing import some
from tests.solve.networks import CURVED, FAMILIES, LIBRARY, MIXED, NETWORKS, built, shared

NAMES = tuple(name for name in SOLVERS if name != "bundle-entropy")  # which is for a cube with entropy

BATCH = 3
EVERY = [*FAMILIES]
LINEAR = [*NETWORKS, *LIBRARY]


def problem(name: str, seed: int) -> tuple[nn.Module, tuple[Tensor, ...], cx.Box]:
    """A network, what is given to it, and a box that differs from sample to sample: one side of width zero, and in
    every sample other coordinates fixed."""
    model, shapes = shared(name, seed)
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    given = tuple(2 * uniform(BATCH, *shape) - 1 for shape in shapes[:-1])
    lo, hi = -2 * uniform(*shapes[-1]), uniform(*shapes[-1])
    if lo.numel() > 1:
        hi.view(-1)[0] = lo.view(-1)[0]
    inside = torch.lerp(lo.expand(BATCH, *lo.shape), hi.expand(BATCH, *hi.shape), uniform(BATCH, *lo.shape))
    box = cx.Box(lo, hi).fix(inside, uniform(BATCH, *lo.shape) < 0.25)
    return model, given, box


def at(model: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> Tensor:
    """The network's values, (B,)."""
    with torch.no_grad():
        return model(*given, y).reshape(-1)


@torch.no_grad()
def minimised(*arguments: Any, **keywords: Any) -> cx.Solution:
    """`minimise` without derivatives."""
    return cx.minimise(*arguments, **keywords)


def sizes(model: nn.Module, given: tuple[Tensor, ...], box: cx.Box, x: Tensor) -> Tensor:
    """What gaps are compared with: the largest rise around x, as `minimise` describes it."""
    x = x.double()
    far = x.abs().clamp(min=1.0)
    lo, hi = box.lo.expand_as(x), box.hi.expand_as(x)
    length = far.flatten(1).amax(1).reshape(-1, *[1] * (x.ndim - 1))
    here = at(model, given, x)
    best = torch.zeros_like(here)
    for sign in sign_patterns(box.shape.numel(), x.flatten(1)):
        moved = (x + sign.view(box.shape) * torch.minimum(hi - lo, far)).clamp(lo, hi) - x
        best = torch.maximum(best, length.flatten() * (at(model, given, x + moved / length) - here))
    return best


def sample(box: cx.Box, index: int) -> cx.Box:
    return cx.Box(box.lo[index], box.hi[index])


def hammered(
    model: nn.Module, given: tuple[Tensor, ...], box: cx.Box, solution: cx.Solution, points: int = 200
) -> None:
    """Points and corners of the box, and points near x, lie above the lower bound; x lies in the box."""
    x = solution.x.double()
    assert bool(box.contains(solution.x.detach()).all())
    lo, hi = box.lo.clamp(min=-1e3).expand_as(x), box.hi.clamp(max=1e3).expand_as(x)
    room = 1e-9 * solution.lower_bound.abs().clamp(min=1e-9)
    for trial in range(points):
        share = torch.rand_like(x)
        share = share.round() if trial % 3 == 0 else share
        y = torch.lerp(lo, hi, share)
        y = torch.lerp(x, y, 10.0 ** -(trial % 9)) if trial % 3 == 1 else y
        assert bool((at(model, given, y) >= solution.lower_bound - room).all())


@pytest.mark.parametrize("name", [*some(LINEAR, 4, "families"), *(name for name in EVERY if name not in LINEAR)])
def test_every_family(name: str, common_seed: int) -> None:
    """Converged, the value is the network's at x, no point of the box lies below the bound."""
    model, given, box = problem(name, common_seed)
    solution = minimised(model, box, given=given, tol=1e-7)
    size = sizes(model, given, box, solution.x)
    assert solution.converged.tolist() == [True] * BATCH, solution.message
    short = 1e-7 if name in ("softplus", "PICNN", "soft maxima") else 1e-11  # torch's softplus falls below itself
    assert bool((solution.gap <= 1e-7 * size + short * (1 + solution.value.abs())).all())
    assert torch.equal(solution.gap, solution.value - solution.lower_bound)
    assert torch.allclose(solution.value, at(model, given, solution.x), rtol=1e-10, atol=1e-10)
    hammered(model, given, box, solution)


@pytest.mark.parametrize("name", some(LINEAR, 4, "linear programs"))
def test_between_value_and_bound_lies_the_optimum_of_the_exported_program(name: str, common_seed: int) -> None:
    pytest.importorskip("highspy")
    model, given, box = problem(name, common_seed)
    solution, exact = (minimised(model, box, given=given, solver=solver) for solver in ("auto", "lp"))
    for index in (0, BATCH - 1):  # each is exported anew
        lp = cx.to_lp(model, sample(box, index), tuple(part[index] for part in given) or None)
        lp.run()
        optimum = lp.getInfo().objective_function_value
        room = 1e-7 * max(abs(optimum), 1.0)  # of HiGHS' own tolerances
        for found in (solution, exact):
            assert float(found.value[index]) >= optimum - room
            assert float(found.lower_bound[index]) <= optimum + room


@pytest.mark.parametrize("name", [*CURVED, *MIXED])
def test_scipy_finds_nothing_better(name: str, common_seed: int) -> None:
    """L-BFGS-B from several points; on smooth functions it also gets as far."""
    optimise = pytest.importorskip("scipy.optimize")
    model, given, box = problem(name, common_seed)
    solution = minimised(model, box, given=given, tol=1e-8)
    for index in range(BATCH):
        some = tuple(part[index : index + 1] for part in given)
        lo, hi = box.lo[index].flatten(), box.hi[index].flatten()

        def f(y: Any, some: tuple[Tensor, ...] = some) -> tuple[float, Any]:
            point = torch.tensor(y).reshape(1, *box.shape).requires_grad_()
            value = model(*some, point).sum()
            (slope,) = torch.autograd.grad(value, point)
            return value.item(), slope.numpy().ravel()

        starts = [torch.lerp(lo, hi, torch.full_like(lo, share)).numpy() for share in (0.3, 0.6)]
        options = {"ftol": 1e-16, "gtol": 1e-12, "maxiter": 1000}
        bounds = list(zip(lo.tolist(), hi.tolist(), strict=True))
        ends = [optimise.minimize(f, s, jac=True, method="L-BFGS-B", bounds=bounds, options=options) for s in starts]
        best = min(float(end.fun) for end in ends)
        value, bound = float(solution.value[index]), float(solution.lower_bound[index])
        assert best >= bound - 1e-12 * max(1.0, abs(bound))
        assert value <= best + 2e-8 * max(1.0, abs(best))
        if name in CURVED:
            assert value >= best - 1e-7 * max(1.0, abs(best))


# --- bounds are never false ------------------------------------------------------------------------------------------


class OnTheDomain(nn.Module):
    """Convex where relu(y + 3) is y + 3: on the domain, and only there."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -2.0, 0.5]]))

    def forward(self, y: Tensor) -> Tensor:
        return (F.linear((y + 3).relu(), self.weight) - 0.4).abs() + (y - 0.3).abs().sum(1, keepdim=True)


class ReadsTheBatch(nn.Module):
    """Its forward depends on the size of the batch, though its rows do not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(3, 8), nn.Linear(8, 1)

    def forward(self, y: Tensor) -> Tensor:
        return torch.cat([self.out(self.a(y[i : i + 1]).relu()) for i in range(len(y))])


def whole(kind: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    if kind == "convex on the domain":
        return OnTheDomain().double()
    model = ReadsTheBatch().double()
    cx.constrain(model, torch.zeros(2, 3, dtype=torch.float64), method="absolute")
    return model


@pytest.mark.parametrize(
    "name",
    [
        *("depth 3", "gated", "FICNN with a quadratic term"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("maxima", "soft maxima")),
    ],
)
def test_bounds_hold_whatever_the_solver_and_its_budget(name: str, common_seed: int) -> None:
    pytest.importorskip("highspy")
    model, given, box = problem(name, common_seed)
    start = torch.full(box.shape, 50.0)  # outside
    budgets: list[dict[str, Any]] = [{"max_steps": 1}, {"max_steps": 2, "start": start}, {"time_limit": 0.0}]
    for solver in NAMES:
        if solver in ("lp", "pdhg", "admm") and name not in LINEAR:
            continue
        for budget in [*budgets, {"max_steps": 30, "tol": 1e-3}]:
            solution = minimised(model, box, given=given, solver=solver, **budget)
            size = sizes(model, given, box, solution.x)
            allowed = budget.get("tol", 1e-6) * size
            assert bool((solution.converged | (solution.gap > allowed)).all())
            assert bool((~solution.converged | (solution.gap <= allowed + 1e-9 * (1 + solution.value.abs()))).all())
            assert torch.allclose(solution.value, at(model, given, solution.x), rtol=1e-10, atol=1e-10)
            hammered(model, given, box, solution, 30)
            if not bool(solution.converged.all()):
                assert "time_limit" in solution.message


@pytest.mark.parametrize("kind", ["convex on the domain", "reads the batch"])
def test_functions_that_are_not_opened(kind: str, seed: int) -> None:
    model = whole(kind, seed)
    box = cx.Box(-1, 1, shape=(3,))
    for solver in NAMES:
        if solver in ("auto", "bundle", "cutting-planes", "fista", "adam"):
            # kinks that nobody can smooth are slow going for the two that need it; their bounds hold all the same
            most = 40 if solver in ("fista", "adam") else None
            solution = minimised(model, box, solver=solver, tol=1e-4, max_steps=most)
            hammered(model, (), box, solution)
            assert bool(solution.converged.all()) or solver in ("fista", "adam"), solution.message
        else:
            with pytest.raises(ValueError, match="solver='auto'"):
                minimised(model, box, solver=solver)
    with pytest.raises(RuntimeError, match="not available"):
        cx.minimise(model, box, max_steps=2).value.backward()


def test_in_float32(seed: int) -> None:
    """x comes in the type of what is given, inside the box all the same; value and bound are of that x."""
    for name in ("gated", "PICNN"):
        model, given, box = problem(name, seed)
        model, given = model.float(), tuple(part.float() for part in given)
        odd = cx.Box([-0.1, 0.1, 0.3], [0.1, 0.7, 0.3000001])
        for domain in (box, odd):
            solution = minimised(model, domain, given=given)
            assert solution.x.dtype == torch.float32
            assert {solution.value.dtype, solution.lower_bound.dtype, solution.gap.dtype} == {torch.float64}
            exact = tuple(part.double() for part in given)
            values = at(model.double(), exact, solution.x.double())
            assert torch.allclose(values, solution.value, rtol=1e-10, atol=1e-10)
            if domain is odd:
                hammered(model, exact, domain, solution)
            model.float()


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gated", "PICNN", "ConvPICNN"])
def test_a_batch_equals_its_singles_in_any_order(name: str, common_seed: int) -> None:
    model, given, box = problem(name, common_seed)
    together = minimised(model, box, given=given, tol=1e-6)
    size = sizes(model, given, box, together.x)
    order = torch.randperm(BATCH)
    mixed = object.__new__(cx.Box)
    for key, value in (("lo", box.lo[order]), ("hi", box.hi[order]), ("batch", BATCH)):
        object.__setattr__(mixed, key, value)
    permuted = minimised(model, mixed, given=tuple(part[order] for part in given), tol=1e-6)
    assert torch.equal(permuted.converged, together.converged[order])
    assert bool(((permuted.value - together.value[order]).abs() <= 1e-6 * size[order]).all())
    for index in range(BATCH):
        some = tuple(part[index : index + 1] for part in given)
        alone = minimised(model, sample(box, index), given=some, tol=1e-6)
        assert alone.converged.tolist() == together.converged[index : index + 1].tolist()
        assert abs(float(alone.value - together.value[index])) <= 1e-6 * float(size[index])


class Copied(nn.Module):
    """Small integers that are copied into real numbers, where twice as many have room."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.full((1, 2), number, dtype=torch.int8))

    def forward(self, y: Tensor) -> Tensor:
        room = torch.empty_like(y)
        room.copy_(self.numbers)
        return ((y - 0.25).abs() + torch.nn.functional.elu(2 * room)).sum(1)


@pytest.mark.parametrize("number", [100, -100])
def test_integers_that_are_copied_are_real_numbers(number: int) -> None:
    solution = minimised(Copied(number), cx.Box(-1, 1, shape=(2,)), tol=1e-9)
    expected = 2 * (2.0 * number if number > 0 else -1.0)
    assert solution.converged.tolist() == [True]
    assert abs(float(solution.lower_bound) - expected) < 1e-6


class Placed(nn.Module):
    """Each of two samples of a batch has its own weights: not one function of a sample."""

    def __init__(self, size: float, offset: float) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([[True, False], [False, True]]))
        self.size, self.offset = size, offset

    def forward(self, y: Tensor) -> Tensor:
        return self.size * torch.where(self.mask, 7.5, y.square()).sum(1) + self.offset


@pytest.mark.parametrize(("size", "offset"), [(1.0, 0.0), (1.0, 1e9), (1e-10, -1e3), (1e-10, 0.0)])
def test_samples_that_are_not_treated_alike_are_refused(size: float, offset: float) -> None:
    """However small the difference is beside the values, as long as rounding does not swallow it."""
    with pytest.raises(ValueError, match="does not treat the samples of a batch alike"):
        cx.minimise(Placed(size, offset), cx.Box(-1, 1, shape=(2,), batch=2))


def test_which_argument_and_how_many(common_seed: int) -> None:
    """The first argument of f(y, x); one box for all samples, and one for each without `given`."""
    model, given, _ = problem("gated", common_seed)

    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, y: Tensor, x: Tensor) -> Tensor:
            return self.inner(x, y)

    box = cx.Box(-1, 1, shape=(3,))
    there = minimised(model, box, given=given)
    here = minimised(Swapped(), box, given=given, wrt=0)
    assert torch.allclose(here.value, there.value, rtol=1e-5)
    with pytest.raises(cx.NotCertified, match="input 0"):
        minimised(model, cx.Box(-1, 1, shape=(2,)), given=torch.ones(BATCH, 3, dtype=torch.float64), wrt=0)
    values = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None].repeat(1, 3)
    each = minimised(Distance(), box.fix(values, [True, False, True]))
    assert torch.allclose(each.value, 10 * (values[:, 0] - 0.3).abs(), atol=1e-5)
    assert torch.equal(each.x[:, [0, 2]], values[:, [0, 2]])


# --- degenerate functions and boxes ----------------------------------------------------------------------------------


class Distance(nn.Module):
    """scale · 5 ‖y − 0.3‖₁, as (B,)."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, y: Tensor) -> Tensor:
        return self.scale * 5 * (y - 0.3).abs().flatten(1).sum(1)


class Planes(nn.Module):
    """max_i (a_i y + b_i), as (B, 1)."""

    def __init__(self, slopes: list[list[float]], offsets: list[float]) -> None:
        super().__init__()
        self.register_buffer("a", torch.tensor(slopes, dtype=torch.float64))
        self.register_buffer("b", torch.tensor(offsets, dtype=torch.float64))

    def forward(self, y: Tensor) -> Tensor:
        return F.linear(y, self.a, self.b).amax(1, keepdim=True)  # pyright: ignore[reportArgumentType]


KNOWN: dict[str, tuple[Callable[[], nn.Module], list[float] | None, float]] = {
    "three planes": (lambda: Planes([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], [0.0, 0.0, 0.0]), [0.0, 0.0], 0.0),
    "flat": (lambda: Planes([[0.0], [1.0]], [2.0, -1.0]), None, 2.0),
    "a corner": (lambda: Planes([[1.0, 2.0], [1.0, 2.0]], [0.5, 0.5]), [-1.0, -1.0], -2.5),
    "duplicate rows": (lambda: Planes([[1.0], [1.0], [-2.0], [-2.0]], [0.0, 0.0, 0.0, 0.0]), [0.0], 0.0),
    "zero weights": (lambda: Planes([[0.0, 0.0], [0.0, 0.0]], [3.0, -3.0]), None, 3.0),
    "affine": (lambda: Planes([[1.0, -2.0]], [0.25]), [-1.0, 1.0], -2.75),
    "constant": (lambda: Planes([[0.0]], [3.0]), None, 3.0),
    "one variable": (Distance, [0.3], 0.0),
    "tiny": (lambda: Distance(1e-6), [0.3], 0.0),
    "huge": (lambda: Distance(1e6), [0.3], 0.0),
}


@pytest.mark.parametrize("solver", ["auto", "bundle"])
@pytest.mark.parametrize("name", KNOWN)
def test_functions_whose_minimum_is_known(name: str, solver: str) -> None:
    make, best, least = KNOWN[name]
    model = make()
    n = model.a.shape[1] if isinstance(model, Planes) else 1  # pyright: ignore
    start = torch.full((n,), 0.5, dtype=torch.float64)
    solution = minimised(model, cx.Box(-1, 1, shape=(n,)), start=start, solver=solver)
    size = float(sizes(model, (), cx.Box(-1, 1, shape=(n,)), solution.x))
    assert bool(solution.converged.all()), solution.message
    assert abs(float(solution.value) - least) <= 2e-6 * size + 1e-12 * abs(least)
    assert float(solution.lower_bound) <= least + 1e-12 * size
    if best is not None:
        assert solution.x[0].tolist() == pytest.approx(best, abs=1e-5)


def test_a_start_on_a_kink_or_anywhere_changes_the_way_and_not_the_result() -> None:
    box = cx.Box(-1, 1, shape=(2,))
    for start in ([0.3, 0.3], [-1.0, 1.0], [1e6, -1e6], [0, 1]):
        solution = minimised(Distance(), box, start=torch.tensor(start))
        assert bool(solution.converged)
        assert solution.x[0].tolist() == pytest.approx([0.3, 0.3], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        case
        for name in ("depth 2", "maxima", "softplus", "kinks and a bowl")
        for case in some(product([name], [1e-6, 1e-2, 1e3, 1e6]), 2, f"boxes, {name}")
    ],
)
def test_boxes_of_all_sizes(name: str, size: float, common_seed: int) -> None:
    model, shapes = shared(name, common_seed)
    box = cx.Box(-size, 0.7 * size, shape=shapes[-1])
    solution = minimised(model, box, tol=1e-5)
    if name != "softplus" or size < 1e2:  # there it is as good as a kink, and not treated as one
        assert bool(solution.converged.all()), solution.message
    hammered(model, (), box, solution)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        case
        for name in ("depth 3", "leaky", "elu")
        for case in some(product([name], [1e-6, 1e6]), 1, f"functions, {name}")
    ],
)
def test_functions_of_all_sizes(name: str, size: float, seed: int) -> None:
    model, _, box = problem(name, seed)
    plain = minimised(model, box)
    with torch.no_grad():
        for part in (model.out, model.tilt):
            for parameter in part.parameters():  # pyright: ignore
                parameter.mul_(size)
    scaled = minimised(model, box)
    assert bool(scaled.converged.all()), scaled.message
    assert torch.allclose(scaled.value, size * plain.value, rtol=3e-6, atol=3e-6 * size)
    hammered(model, (), box, scaled)


def test_a_box_that_is_one_point(seed: int) -> None:
    model, _, _ = problem("depth 3", seed)
    point = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    solution = minimised(model, cx.Box(point, point))
    assert torch.equal(solution.x[0], point)
    assert bool(solution.converged.all())
    assert float(solution.value) == pytest.approx(float(at(model, (), point[None])), abs=1e-12)


def test_sides_without_an_end() -> None:
    """A bound where there is one, minus infinity where there is none, and never one that is false."""
    inf = float("inf")
    solution = minimised(nn.Linear(1, 1), cx.Box([-inf], [inf]), max_steps=5)
    assert (float(solution.lower_bound), bool(solution.converged)) == (-inf, False)
    assert "finite bounds" in solution.message
    half = minimised(Planes([[1.0, 1.0]], [0.0]), cx.Box([0.0, 1.0], [inf, inf]))
    assert bool(half.converged)
    assert float(half.value) == pytest.approx(1.0, abs=1e-5)
    for model in (Distance(), Planes([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], [0.0, 0.0, 0.0])):
        line = minimised(model, cx.Box(-inf, inf, shape=(2,)), max_steps=30)
        assert float(line.lower_bound) <= 1e-12  # rounding
        assert float(line.value) >= -1e-12


@pytest.mark.parametrize("name", ["FICNN with a quadratic term", "kinks and a bowl", "soft maxima"])
def test_strongly_convex_functions_on_the_whole_space(name: str, common_seed: int) -> None:
    """They have a bound there too: the one of a large box, in the middle of which the minimiser lies."""
    model, shapes = shared(name, common_seed)
    inf = float("inf")
    free = minimised(model, cx.Box(-inf, inf, shape=shapes[-1]), tol=1e-5)
    bounded = minimised(model, cx.Box(-30, 30, shape=shapes[-1]), tol=1e-8)
    assert bool((bounded.x.abs() < 29).all())
    hammered(model, (), cx.Box(-inf, inf, shape=shapes[-1]), free)
    room = 1e-12 * (1 + abs(float(bounded.value)))  # of rounding
    assert float(free.lower_bound) <= float(bounded.value) + room
    assert float(free.value) >= float(bounded.lower_bound) - room
    if bool(free.converged):
        assert float(free.value) == pytest.approx(float(bounded.value), rel=1e-4, abs=1e-4)
    else:
        assert "strong convexity" in free.message


# --- the shape of things ---------------------------------------------------------------------------------------------


class Scalar(nn.Module):
    """(B,) -> (B,): a sample is one number without a dimension."""

    def forward(self, y: Tensor) -> Tensor:
        return 5 * (y - 0.3).abs()


class Cast(nn.Module):
    """Computes in float32 whatever comes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1))

    def forward(self, y: Tensor) -> Tensor:
        return self.inner(y.float())


class Nearest(nn.Module):
    """‖y − e_i‖₁ for the row i of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)

    def forward(self, i: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"energy": (y - self.table(i)).abs().sum(1)}


def test_odd_shapes_and_types(seed: int) -> None:
    torch.manual_seed(seed)
    line = minimised(Scalar(), cx.Box(0, 1, shape=()))
    assert line.x.shape == (1,)
    assert float(line.x) == pytest.approx(0.3, abs=1e-5)
    model = Cast()
    cx.constrain(model, torch.zeros(2, 3), method="absolute")
    box = cx.Box(-1, 1, shape=(3,))
    values = [float(minimised(part, box, tol=1e-5).value) for part in (model, model.inner)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    nearest = Nearest()
    index = torch.tensor([0, 3, 3])
    solution = minimised(nearest, cx.Box(-5, 5, shape=(3,)), given=index)
    assert solution.x.dtype == torch.float32
    assert torch.allclose(solution.x, nearest.table(index).detach(), atol=1e-4)
    half = minimised(nearest.to(torch.bfloat16), cx.Box(-5, 5, shape=(3,)), given=index)
    assert half.x.dtype == torch.bfloat16
    rounded = minimised(Distance(), cx.Box(-1, 1, shape=(1,)), tol=1e-9)
    assert not bool(rounded.converged)
    assert "rounded to float32" in rounded.message


def test_nothing_is_changed_and_any_mode_will_do(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 1))
    cx.constrain(model, torch.zeros(2, 3), method="absolute")
    model.train()
    model[1].eval()
    modes = [part.training for part in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002 # pyright: ignore
    box = cx.Box(-1, 1, shape=(3,))
    first = cx.minimise(model, box)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert bool((np.random.get_state()[1] == states[2]).all())  # noqa: NPY002 # pyright: ignore
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        second = cx.minimise(model, box)
        assert not torch.is_grad_enabled()
    gated = cx.nn.PICNN(2, 3, hidden=(4,), activation="relu")
    with torch.inference_mode():
        third = cx.minimise(model, box)
        inside = cx.minimise(gated, box, given=torch.ones(2, 2))
        assert torch.is_inference_mode_enabled()
    assert bool(inside.converged.all())
    for other in (second, third):
        assert not other.value.requires_grad
        assert not other.x.requires_grad
        assert torch.allclose(other.value, first.value, rtol=1e-5)
    assert first.value.requires_grad


# --- wrong arguments, and what is not convex --------------------------------------------------------------------------

NET = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
SQUARE = cx.Box(-1, 1, shape=(3,))
WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a tuple for a box": ({"domain": (-1, 1)}, TypeError, "must be a convexnet domain"),
    "tol zero": ({"tol": 0}, ValueError, "positive number"),
    "tol NaN": ({"tol": float("nan")}, ValueError, "positive number"),
    "tol text": ({"tol": "small"}, ValueError, "positive number"),
    "unknown solver": ({"solver": "sgd"}, ValueError, "newton"),
    "no steps": ({"max_steps": 0}, ValueError, "at least 1"),
    "half a step": ({"max_steps": 2.5}, ValueError, "must be an integer"),
    "steps true": ({"max_steps": True}, ValueError, "must be an integer"),
    "negative time": ({"time_limit": -1.0}, ValueError, "not be negative"),
    "time NaN": ({"time_limit": float("nan")}, ValueError, "not be negative"),
    "start a word": ({"start": "centre"}, TypeError, "start must be a tensor, an array or a list of numbers"),
    "start of two": ({"start": torch.zeros(2, 3)}, ValueError, r"\(3,\) or \(1, 3\)"),
    "start NaN": ({"start": torch.full((3,), float("nan"))}, ValueError, "NaN"),
    "start infinite": ({"start": torch.full((3,), float("inf"))}, ValueError, "infinity"),
    "wrt": ({"wrt": 1}, ValueError, "not one of the 1 inputs"),
    "wrt no number": ({"wrt": 0.0}, TypeError, "number of an input"),
    "given a word": ({"given": "x"}, TypeError, r"given\[0\] must be a tensor, an array or a list of numbers"),
    "given nothing": ({"given": torch.zeros(0, 3)}, ValueError, "at least 1"),
    "given a scalar": ({"given": torch.zeros(())}, ValueError, "batch dimension"),
    "given of two sizes": ({"given": (torch.zeros(2, 3), torch.zeros(3, 3))}, ValueError, "2 rows"),
    "given NaN": ({"given": torch.tensor([[0.0], [float("nan")]])}, ValueError, "first in row 1"),
    "given infinite": ({"given": torch.tensor([[float("inf")]])}, ValueError, "infinity"),
    "given complex": ({"given": torch.zeros(1, 3, dtype=torch.complex64)}, TypeError, "complex"),
    "an input too many": ({"given": torch.zeros(2, 3)}, cx.NotTraceable, r"too many positional.*as given="),
    "another batch": (
        {"given": torch.zeros(3, 1), "domain": SQUARE.fix(torch.zeros(2, 3), True)}, ValueError, "2 samples and given",
    ),
    "another shape": ({"domain": cx.Box(0, 1, shape=(4,))}, cx.NotTraceable, r"\(2, 4\)"),
    "no coordinates": ({"domain": cx.Box(0, 1, shape=(0,))}, ValueError, "nothing to minimise"),
    "a class": ({"f": nn.Linear}, TypeError, "instance"),
    "a function": ({"f": torch.sin}, TypeError, "Module"),
    "two outputs": ({"f": nn.Linear(3, 2)}, ValueError, r"\(B, 2\)"),
    "not convex": ({"f": nn.Sequential(nn.Linear(3, 1, bias=False), nn.Sigmoid())}, cx.NotCertified, "sigmoid"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name: str) -> None:
    arguments, error, text = WRONG[name]
    with pytest.raises(error, match=text):
        minimised(**{"f": NET, "domain": SQUARE, **arguments})


class Mixed(nn.Module):
    def forward(self, y: Tensor) -> Tensor:
        return (y - y.mean(0)).abs().sum(1)


class Several(nn.Module):
    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return y.abs().sum(1), y.sum(1)


class Number(nn.Module):
    def forward(self, y: Tensor) -> float:
        return 3.0


def test_what_is_no_convex_function_of_a_sample() -> None:
    with pytest.raises(cx.NotCertified, match="mixes the rows"):
        minimised(Mixed(), SQUARE)
    with pytest.raises(ValueError, match="2 outputs"):
        minimised(Several(), SQUARE)
    with pytest.raises(ValueError, match="float"):
        minimised(Number(), SQUARE)
    with pytest.raises(cx.NotCertified, match="coefficient"):
        minimised(nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 1)), SQUARE)
    model, _ = built("softplus", 0)
    with pytest.raises(ValueError, match="piecewise linear"):
        minimised(model, SQUARE, solver="lp")


def test_a_budget_that_ends_first(common_seed: int) -> None:
    """The best point, its true gap, and what to try."""
    model, given, box = problem("depth 6", common_seed)
    free = cx.Box(-1, 1, shape=box.shape)
    early = minimised(model, free, given=given, max_steps=1, tol=1e-9)
    late = minimised(model, free, given=given, tol=1e-9)
    assert not bool(early.converged.any())
    assert early.steps.tolist() == [1]
    assert early.message.startswith("0 of 1 converged")
    for word in ("tol", "max_steps", "time_limit"):
        assert word in early.message
    assert float(early.lower_bound) - 1e-9 <= float(late.value) <= float(early.value) + 1e-9
    stopped = minimised(model, free, given=given, time_limit=0.0, tol=1e-12)
    assert bool((stopped.steps <= 1).all())
    assert float(stopped.lower_bound) <= float(late.value) + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_many_networks_of_every_family(name: str, seed: int) -> None:
    for trial in range(10):
        model, given, box = problem(name, seed + trial)
        solution = minimised(model, box, given=given, tol=1e-7)
        assert bool(solution.converged.all()), (trial, solution.message)
        hammered(model, given, box, solution, 1000)
