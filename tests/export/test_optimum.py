"""The optimum of an export is that of the network: CVXPY, HiGHS, a linear program made in another way, brute force."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from tests.drawing import some
from tests.modules import Function
from tests.solve.networks import NETWORKS, shared

cp = pytest.importorskip("cvxpy")
pytest.importorskip("highspy")


def value_at(model: nn.Module, given: tuple[Tensor, ...], y: Tensor, shape: tuple[int, ...]) -> Tensor:
    """f at points (R, n), in float64."""
    with torch.no_grad():
        rows = y.reshape(-1, *shape)
        return model(*(x.expand(len(rows), *x.shape[1:]) for x in given), rows).reshape(-1)


def assert_minimum(f: Callable[[Tensor], Tensor], y: Any, optimum: float, lo: Tensor, hi: Tensor, tol: float) -> None:
    """f(y) is the optimum, and no point of the box is lower: not at random, and not near y."""
    best = torch.as_tensor(y, dtype=torch.float64).flatten().clamp(lo, hi)
    size = tol * (1 + abs(optimum))
    assert abs(float(f(best[None])) - optimum) <= size, "the solver's optimum is not the network's value there"
    for scale in (3.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4):
        points = (best + scale * torch.randn(2000, len(best), dtype=torch.float64)).clamp(lo, hi)
        assert float(f(points).min()) >= optimum - size, "a point of the box is lower"


def assert_enclosed(found: Any, optimum: float) -> None:
    """What `minimise` found, and its bound, lie on either side, as far apart as it says."""
    value, bound = (float(side[0].detach()) for side in (found.value, found.lower_bound))
    room = 1e-6 * (1 + abs(optimum))
    assert bound - room <= optimum <= value + room
    assert bool(found.converged[0])


def box_of(n: int, generator: torch.Generator, kind: str) -> tuple[Tensor, Tensor]:
    lo = -2 * torch.rand(n, generator=generator, dtype=torch.float64)
    hi = torch.rand(n, generator=generator, dtype=torch.float64)
    if kind == "fixed":
        lo[0] = hi[0] = 0.3
    if kind == "far":
        lo, hi = lo + 5, hi + 5
    return lo, hi


def solved(lp: Any) -> tuple[Any, float]:
    lp.run()
    assert lp.modelStatusToString(lp.getModelStatus()) == "Optimal"
    return np.array(lp.getSolution().col_value), float(lp.getInfo().objective_function_value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *some(product(NETWORKS, ["plain"]), 8, "linear programs"),
        ("leaky", "fixed"),
        ("maxima", "far"),
        ("gated", "fixed"),
    ],
)
def test_piecewise_linear_networks(name: str, kind: str, seed: int, common_seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model, shapes = shared(name, common_seed)
    inputs = tuple(torch.randn(1, *shape, generator=generator, dtype=torch.float64) for shape in shapes)
    given, shape = inputs[:-1], shapes[-1]
    n = inputs[-1].numel()
    lo, hi = box_of(n, generator, kind)

    def f(y: Tensor) -> Tensor:
        return value_at(model, given, y, shape)

    one = given[0][0] if given else None
    columns, optimum = solved(cx.to_lp(model, cx.Box(lo.reshape(shape), hi.reshape(shape)), given=one))
    assert_minimum(f, columns[:n], optimum, lo, hi, 1e-7)

    assert_enclosed(cx.minimise(model, cx.Box(lo.reshape(shape), hi.reshape(shape)), given=given or None), optimum)

    y = cp.Variable(n)
    placed = cp.reshape(y, shape, order="C") if len(shape) < 3 else y
    cost = cx.to_cvxpy(model if len(shape) < 3 else Flat(model, shape), placed, given=one)
    problem = cp.Problem(cp.Minimize(cost), [y >= lo.numpy(), y <= hi.numpy()])
    problem.solve(solver="CLARABEL")
    assert problem.solution.opt_val == pytest.approx(optimum, rel=1e-6, abs=1e-6)
    assert_minimum(f, y.value, float(cost.value), lo, hi, 2e-6)


class Flat(nn.Module):
    """A network of images, as a function of flat ones: CVXPY warns of variables with three dimensions."""

    def __init__(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.shape = model, shape

    def forward(self, y: Tensor) -> Tensor:
        return self.model(y.unflatten(1, self.shape))


A = torch.randn(5, 3, generator=torch.Generator().manual_seed(5)).double()
B = torch.randn(4, 3, generator=torch.Generator().manual_seed(6)).double()

SMOOTH: dict[str, Callable[[], nn.Module]] = {
    "softplus": lambda: cx.nn.FICNN(3, (6, 5)),
    "softplus, beta": lambda: cx.nn.FICNN(3, (6, 5), activation=nn.Softplus(beta=3)),
    "elu": lambda: cx.nn.FICNN(3, (6, 5), activation="elu"),
    "elu, alpha": lambda: cx.nn.FICNN(3, (6, 5), activation=nn.ELU(0.4)),
    "celu, alpha": lambda: cx.nn.FICNN(3, (6, 5), activation=nn.CELU(0.5)),
    "quadratic": lambda: cx.nn.FICNN(3, (6, 5), activation="relu", quadratic=2),
    "both cones": lambda: cx.nn.FICNN(3, (6, 5), activation="elu", quadratic=1),
    "recurrent": lambda: nn.Sequential(
        nn.Unflatten(1, (3, 1)), cx.nn.ICRNN(1, (4,), activation="softplus", outputs="last")
    ),
    "convolutional": lambda: nn.Sequential(
        nn.Linear(3, 36), nn.Unflatten(1, (1, 6, 6)), cx.nn.ConvFICNN((1, 6, 6), [(2, 3)], hidden=(4,))
    ),
    "log-sum-exp": lambda: Function(lambda y: (y @ A.T).logsumexp(1)),
    "exp": lambda: Function(lambda y: (y @ A.T).exp().mean(1) + torch.expm1(y[:, 0]) + torch.exp2(-y[:, 1])),
    "cosh": lambda: Function(lambda y: torch.cosh(y @ A.T - 0.3).sum(1)),
    "powers": lambda: Function(lambda y: ((y @ A.T - 0.3) ** 4).sum(1) + (y * y).mean(1)),
    "squares of what is not negative": lambda: Function(lambda y: (y @ A.T + 1).relu().square().sum(1)),
    "norms": lambda: Function(lambda y: (y @ A.T - 1).norm(dim=1) + (y @ B.T).norm(p=1, dim=1)),
    "norm of what is not negative": lambda: Function(lambda y: (y @ A.T + 1).abs().norm(dim=1) + y[:, 0]),
    "cross-entropy": lambda: Function(lambda y: -(y @ A.T).log_softmax(1)[:, 0] + 0.1 * y.square().sum(1)),
    "log-sigmoid": lambda: Function(lambda y: -F.logsigmoid(y @ A.T).sum(1)),
    "minus a minimum": lambda: Function(
        lambda y: y.square().sum(1) - torch.minimum(y[:, 0], y[:, 1]) - (y @ A.T).amin(1)
    ),
    "convex features and the input": lambda: Function(
        lambda y: torch.cat([y, F.softplus(y @ A.T), y[:, :1].square()], 1).logsumexp(1)
    ),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_networks(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = SMOOTH[name]().double().eval()
    lo, hi = box_of(3, generator, "plain")
    y = cp.Variable(3)
    cost = cx.to_cvxpy(model, y)
    problem = cp.Problem(cp.Minimize(cost), [y >= lo.numpy(), y <= hi.numpy()])
    problem.solve()
    assert problem.status == "optimal"
    assert problem.solution.opt_val == pytest.approx(float(cost.value), rel=1e-6, abs=1e-6), "not tight"
    assert_minimum(lambda rows: value_at(model, (), rows, (3,)), y.value, float(cost.value), lo, hi, 1e-6)
    if isinstance(model, cx.nn.FICNN):
        assert_enclosed(cx.minimise(model, cx.Box(lo, hi)), problem.solution.opt_val)
    assert cost.value == pytest.approx(float(model(torch.tensor(y.value)[None]).detach()), rel=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("at", [-4.0, -0.4, 0.0, 0.3, 5.0])
def test_elu_is_exact_for_every_alpha(alpha: float, at: float) -> None:
    """For alpha < 1 the slope jumps at zero, where the textbook form for alpha = 1 is too small."""
    y = cp.Variable(1)
    cost = cx.to_cvxpy(Function(lambda y: F.elu(2 * y + 0.1, alpha).sum(1)), y)
    problem = cp.Problem(cp.Minimize(cost), [y == (at - 0.1) / 2])
    problem.solve()
    assert problem.solution.opt_val == pytest.approx(at if at > 0 else alpha * np.expm1(at), abs=1e-6)


PLANES: dict[str, tuple[list[list[float]], list[float], list[float] | None, float]] = {
    "a kink beside the centre": ([[5.0], [-5.0]], [-1.5, 1.5], [0.3], 0.0),
    "three planes": ([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], [0.0, 0.0, 0.0], [0.0, 0.0], 0.0),
    "flat": ([[0.0], [1.0]], [2.0, -1.0], None, 2.0),
    "a corner": ([[1.0, 2.0]], [0.5], [-1.0, -1.0], -2.5),
    "duplicate planes": ([[1.0], [1.0], [-2.0], [-2.0]], [0.0] * 4, [0.0], 0.0),
    "constant": ([[0.0]], [3.0], None, 3.0),
    "large": ([[5e6], [-5e6]], [-1.5e6, 1.5e6], [0.3], 0.0),
}


@pytest.mark.parametrize("name", PLANES)
def test_degenerate_functions(name: str) -> None:
    """Among them those for which published bundle code stops at other points."""
    slopes, offsets, best, least = PLANES[name]
    a, b = torch.tensor(slopes).double(), torch.tensor(offsets).double()
    model = Function(lambda y: (y @ a.T + b).amax(1))
    n, size = a.shape[1], 1e-6 * max(1.0, float(a.abs().max()))
    columns, optimum = solved(cx.to_lp(model, cx.Box(-1, 1, shape=(n,))))
    y = cp.Variable(n)
    problem = cp.Problem(cp.Minimize(cx.to_cvxpy(model, y)), [cp.abs(y) <= 1])
    problem.solve()
    assert [optimum, problem.solution.opt_val] == pytest.approx([least] * 2, abs=size)
    if best is not None:
        assert columns[:n].tolist() == pytest.approx(best, abs=1e-6)
        assert y.value.tolist() == pytest.approx(best, abs=1e-5)


def test_without_bounds() -> None:
    """Infinite bounds leave an element free: a cone has its minimum at its tip, and a slope has none."""
    tip = torch.tensor([0.7, -1.3], dtype=torch.float64)
    bowl = Function(lambda y: (y - tip).abs().sum(1) + 2.5)
    columns, optimum = solved(cx.to_lp(bowl, cx.Box(-np.inf, np.inf, shape=(2,))))
    assert columns[:2].tolist() == pytest.approx(tip.tolist())
    assert optimum == pytest.approx(2.5)
    slope = Function(lambda y: y.relu().sum(1) - y[:, 0])
    lp = cx.to_lp(slope, cx.Box([-np.inf, 0.0], [np.inf, 1.0]))
    assert solved(lp)[1] == pytest.approx(0.0)
    lp = cx.to_lp(Function(lambda y: y.relu().sum(1) + y[:, 0]), cx.Box([-np.inf, 0.0], [np.inf, 1.0]))
    lp.run()
    assert lp.modelStatusToString(lp.getModelStatus()) in ("Unbounded", "Primal infeasible or unbounded")


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # to 1e-8; the assertions say how far it is
def test_converted_networks(seed: int) -> None:
    """A network as people have them: BatchNorm with statistics, a skip, pooling, then made convex."""
    torch.manual_seed(seed)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.second, self.act, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Linear(4, 3)

        def forward(self, y: Tensor) -> Tensor:
            z = self.act(self.norm(self.first(y)))
            z = F.max_pool2d(z + self.act(self.second(z)), 2)
            return self.head(F.adaptive_avg_pool2d(z, 1).flatten(1))

    net = Net()
    net(torch.randn(32, 1, 6, 6))
    convex = cx.convexify(net, torch.zeros(1, 1, 6, 6), activation="elu", method="clip").eval()
    y = cp.Variable(36)
    logits = cx.to_cvxpy(convex, y)
    assert logits.shape == (3,)
    assert logits.curvature == "CONVEX"
    with torch.no_grad():
        tried = convex(torch.rand(2000, 1, 6, 6) * 2 - 1)
    limit = float(tried[:, 0].quantile(0.2))
    problem = cp.Problem(cp.Minimize(logits[1] + 0.5 * cp.max(logits)), [cp.abs(y) <= 1, logits[0] <= limit])
    problem.solve()
    found = convex(torch.tensor(y.value).float().reshape(1, 1, 6, 6))[0].detach()
    assert problem.solution.opt_val == pytest.approx(float(found[1] + 0.5 * found.max()), abs=1e-5)
    assert float(found[0]) <= limit + 1e-5
    goals = tried[:, 1] + 0.5 * tried.amax(1)
    assert float(goals[tried[:, 0] <= limit].min()) >= problem.solution.opt_val - 1e-4


def test_a_network_used_twice_and_of_affine_expressions(seed: int) -> None:
    """Each stage of a plan has its own copy of the inequalities, whatever is put in."""
    torch.manual_seed(seed)
    net = cx.nn.FICNN(2, (8,), activation="relu").double()
    x = cp.Variable(3)
    stages = [cx.to_cvxpy(net, cp.hstack([x[t], 0.5 * x[t + 1] - 0.1])) for t in range(2)]
    problem = cp.Problem(cp.Minimize(stages[0] + 2 * stages[1] + stages[0]), [cp.abs(x) <= 1])
    problem.solve()

    def f(rows: Tensor) -> Tensor:
        first, second = (net(torch.stack([rows[:, t], 0.5 * rows[:, t + 1] - 0.1], 1))[:, 0].detach() for t in range(2))
        return 2 * first + 2 * second

    one = torch.ones(3, dtype=torch.float64)
    assert_minimum(f, x.value, problem.solution.opt_val, -one, one, 1e-6)
