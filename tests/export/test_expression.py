"""The expression obeys CVXPY's rules: convex, compiled once for all values of `given`, and refused where it must be."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from tests.modules import Function

cp = pytest.importorskip("cvxpy")
pytest.importorskip("highspy")


def minimised(cost: Any, constraints: list[Any]) -> float:
    problem = cp.Problem(cp.Minimize(cost), constraints)
    problem.solve()
    assert problem.status == "optimal"
    return float(problem.solution.opt_val)


# --- what CVXPY must refuse ------------------------------------------------------------------------------------------

MISUSES: dict[str, Callable[[Any, Any], Any]] = {
    "maximised": lambda cost, y: cp.Problem(cp.Maximize(cost)),
    "set equal": lambda cost, y: cp.Problem(cp.Minimize(0), [cost == 1]),
    "bounded from below, negated": lambda cost, y: cp.Problem(cp.Minimize(0), [-cost <= -1]),
    "bounded from below in a sum": lambda cost, y: cp.Problem(cp.Minimize(0), [cost + cp.sum(y) >= 1]),
    "bounded from below by an expression": lambda cost, y: cp.Problem(cp.Minimize(0), [cp.sum(y) <= cost]),
    "negated": lambda cost, y: cp.Problem(cp.Minimize(-cost)),
    "in a difference": lambda cost, y: cp.Problem(cp.Minimize(cp.sum_squares(y) - 0.1 * cost)),
    "in what may fall": lambda cost, y: cp.Problem(cp.Minimize(cp.square(cost))),
    "in a concave bound": lambda cost, y: cp.Problem(cp.Maximize(cp.sqrt(cost))),
    "multiplied by a variable": lambda cost, y: cp.Problem(cp.Minimize(cp.multiply(y[0], cost))),
    "multiplied by a free parameter": lambda cost, y: cp.Problem(cp.Minimize(cp.Parameter(value=-1.0) * cost)),
}


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_is_refused(name: str) -> None:
    """Under every rule set of CVXPY, so that the inequalities inside are never used where they are loose."""
    y = cp.Variable(2)
    net = cx.nn.FICNN(2, (4,), activation="elu", quadratic=1)
    problem = MISUSES[name](cx.to_cvxpy(net, y), y)
    errors = cp.error.DCPError, cp.error.DQCPError, cp.error.DGPError, cp.error.SolverError, ValueError
    assert not problem.is_dcp()
    for rules in ({}, {"gp": True}, {"qcp": True}):
        with pytest.raises(errors):
            problem.solve(**rules)
    if hasattr(problem, "is_dnlp"):
        assert not problem.is_dnlp()


def test_uses_that_are_right(seed: int) -> None:
    """The positive control: objective, upper bound, sum, maximum, non-negative multiples."""
    torch.manual_seed(seed)
    y = cp.Variable(2)
    f, g = (cx.to_cvxpy(cx.nn.FICNN(2, (5,)), y) for _ in range(2))
    weight = cp.Parameter(nonneg=True, value=0.5)
    problem = cp.Problem(
        cp.Minimize(cp.maximum(f, 2 * g) + weight * f + cp.exp(g) + cp.pos(f)), [f <= 3, f + g <= 4, cp.abs(y) <= 1]
    )
    assert problem.is_dcp()
    problem.solve()
    assert problem.solution.opt_val == pytest.approx(float(problem.objective.value), rel=1e-5, abs=1e-5)


def test_nothing_but_affine_goes_in() -> None:
    net, y = cx.nn.FICNN(2, (4,)), cp.Variable(2)
    with pytest.raises(ValueError, match=r"must be affine, and .* is convex"):
        cx.to_cvxpy(net, cp.square(y))
    for wrong in (torch.zeros(2), np.zeros(2), "y", None, cp.Variable(2, complex=True)):
        with pytest.raises(TypeError, match=r"a real cvxpy\.Variable"):
            cx.to_cvxpy(net, wrong)


# --- what it is ------------------------------------------------------------------------------------------------------


def test_value_and_gradient_are_the_network(seed: int) -> None:
    torch.manual_seed(seed)
    net = cx.nn.FICNN(3, (6, 5), activation="elu").double()
    y = cp.Variable(3)
    cost = cx.to_cvxpy(net, y)
    assert cost.value is None
    assert cost.shape == ()
    point = torch.randn(3, dtype=torch.float64)
    y.value = point.numpy()
    at = point.clone().requires_grad_()
    expected = net(at)[0]
    expected.backward()
    assert float(cost.value) == pytest.approx(float(expected.detach()), rel=1e-12)
    np.testing.assert_allclose(cost.grad[y].toarray()[:, 0], at.grad, rtol=1e-12)


def test_several_outputs_are_a_vector(seed: int) -> None:
    torch.manual_seed(seed)
    net = cx.nn.FICNN(2, (5,), out_features=3, activation="relu").double()
    y = cp.Variable(2)
    outputs = cx.to_cvxpy(net, y)
    assert (outputs.shape, outputs.curvature) == ((3,), "CONVEX")
    for k in range(3):
        one = cx.to_cvxpy(Function(lambda y, k=k: net(y)[:, k]), y)
        assert minimised(outputs[k], [cp.abs(y) <= 1]) == pytest.approx(minimised(one, [cp.abs(y) <= 1]), abs=1e-6)
    y.value = np.array([0.3, -0.2])
    np.testing.assert_allclose(outputs.value, net(torch.tensor(y.value)).detach(), rtol=1e-12)


def test_a_matrix_of_rows(seed: int) -> None:
    """A network that takes (..., n) is applied to each row, as the stages of a plan need it."""
    torch.manual_seed(seed)
    net, y = cx.nn.FICNN(2, (5,), activation="relu"), cp.Variable((4, 2))
    costs = cx.to_cvxpy(net, y)
    assert costs.shape == (4, 1)
    single = cp.Variable(2)
    one = minimised(cx.to_cvxpy(net, single), [cp.abs(single) <= 1])
    assert minimised(cp.sum(costs), [cp.abs(y) <= 1]) == pytest.approx(4 * one, abs=1e-5)


def test_an_affine_network_is_affine(seed: int) -> None:
    """CVXPY then allows everything, and rightly."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 1)).double().eval()
    y = cp.Variable(2)
    cost = cx.to_cvxpy(net, y)
    assert cost.curvature == "AFFINE"
    problem = cp.Problem(cp.Maximize(cost), [cp.abs(y) <= 1])
    problem.solve()
    corners = net(torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 2)).detach()
    assert problem.value == pytest.approx(float(corners.max()), abs=1e-6)


def test_later_training_does_not_change_it() -> None:
    net, y = cx.nn.FICNN(2, (4,), activation="relu"), cp.Variable(2)
    cost = cx.to_cvxpy(net, y)
    before = minimised(cost, [cp.abs(y) <= 1])
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    assert minimised(cost, [cp.abs(y) <= 1]) == pytest.approx(before, abs=1e-6)
    assert float(cost.value) == pytest.approx(before, abs=1e-5), "inequalities and value are of one network"


def test_the_model_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), cx.nn.ConvexLinear(4, 1)).train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    cx.to_cvxpy(net, cp.Variable(2))
    assert net.training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("solver", ["CLARABEL", "HIGHS", "OSQP"])
def test_solvers_for_linear_programs_take_piecewise_linear_networks(solver: str, seed: int) -> None:
    """They are told apart by the cones they need, so that none is offered what it cannot solve."""
    if solver not in cp.installed_solvers():
        pytest.skip(f"CVXPY has no {solver} here")
    torch.manual_seed(seed)
    y = cp.Variable(2)
    net = cx.nn.FICNN(2, (8,), activation="relu").double()
    problem = cp.Problem(cp.Minimize(cx.to_cvxpy(net, y)), [cp.abs(y) <= 1])
    problem.solve(solver=solver)
    lp = cx.to_lp(net, cx.Box(-1, 1, shape=(2,)))
    lp.run()
    assert float(problem.solution.opt_val) == pytest.approx(lp.getInfo().objective_function_value, abs=1e-4)
    for activation in ("elu", "softplus"):
        smooth = cp.Problem(cp.Minimize(cx.to_cvxpy(cx.nn.FICNN(2, (4,), activation=activation), y)), [cp.abs(y) <= 1])
        if solver != "CLARABEL":
            with pytest.raises(cp.error.SolverError):
                smooth.solve(solver=solver)


def test_whole_numbers(seed: int) -> None:
    torch.manual_seed(seed)
    y = cp.Variable(2, integer=True)
    net = cx.nn.FICNN(2, (8, 8), activation="relu").double()
    problem = cp.Problem(cp.Minimize(cx.to_cvxpy(net, y) + 0.3 * y[0]), [cp.abs(y) <= 3])
    problem.solve(solver="HIGHS")
    grid = torch.cartesian_prod(*[torch.arange(-3.0, 4.0).double()] * 2)
    with torch.no_grad():
        assert problem.value == pytest.approx(float((net(grid)[:, 0] + 0.3 * grid[:, 0]).min()), abs=1e-6)


# --- given -----------------------------------------------------------------------------------------------------------


def partial(activation: str) -> nn.Module:
    return cx.nn.PICNN(3, 2, (6, 5), activation=activation).double()


@pytest.mark.parametrize("activation", ["relu", "softplus", pytest.param("elu", marks=pytest.mark.slow)])
def test_compiled_once_for_every_value_of_a_parameter(activation: str, seed: int) -> None:
    torch.manual_seed(seed)
    net, box = partial(activation), cx.Box(-1, 1, shape=(2,))
    x, y = cp.Parameter(3, name="x"), cp.Variable(2)
    cost = cx.to_cvxpy(net, y, given=x)
    problem = cp.Problem(cp.Minimize(cost), [cp.abs(y) <= 1])
    assert problem.is_dpp()
    with pytest.raises(cp.error.ParameterError, match="x"):
        problem.solve()
    compiled: list[int] = []
    for _ in range(2):
        x.value = 2 * np.random.default_rng(seed + len(compiled)).standard_normal(3)
        problem.solve()
        compiled.append(id(problem._cache.param_prog))
        optimum = problem.solution.opt_val
        if activation == "relu":
            lp = cx.to_lp(net, box, given=torch.tensor(x.value))
            lp.run()
            assert optimum == pytest.approx(lp.getInfo().objective_function_value, rel=1e-6, abs=1e-6)
        else:
            fresh = minimised(cx.to_cvxpy(net, y, given=x.value), [cp.abs(y) <= 1])
            assert optimum == pytest.approx(fresh, rel=1e-6, abs=1e-6)
        found = cx.minimise(net, box, given=torch.tensor(x.value)[None])
        room = 1e-6 * (1 + abs(optimum))
        assert float(found.lower_bound[0]) - room <= optimum <= float(found.value[0].detach()) + room
    assert len(set(compiled)) == 1, "the problem was compiled again"
    before = problem.solution.opt_val
    problem.solve(ignore_dpp=True)
    assert problem.solution.opt_val == pytest.approx(before, rel=1e-6, abs=1e-6)


def test_gates_change_with_the_parameter() -> None:
    """The negative control of the test above: with the gates of the first value, the second is wrong."""
    net = Function(lambda x, y: ((y * x.square()).relu() * (1 + x.abs())).sum(1) - y.sum(1))
    x, y = cp.Parameter(2), cp.Variable(2)
    cost = cx.to_cvxpy(net, y, given=x)
    problem = cp.Problem(cp.Minimize(cost), [cp.abs(y) <= 1])
    found: list[float] = []
    for value in ([0.1, 0.1], [2.0, 2.0]):
        x.value = np.array(value)
        problem.solve()
        found.append(problem.solution.opt_val)
    assert found == pytest.approx([-2 * (1 - 0.01 * 1.1), 0.0], abs=1e-6)


def test_convolutional_gates(seed: int) -> None:
    torch.manual_seed(seed)
    net = cx.nn.ConvPICNN((1, 6, 6), (1, 6, 6), [(2, 3, 2)], hidden=(4,), activation="relu").double()
    x, y = cp.Parameter((1, 6, 6)), cp.Variable(36)
    cost = cx.to_cvxpy(net, y, given=x)  # the network remembers the shape of its images
    problem = cp.Problem(cp.Minimize(cost), [cp.abs(y) <= 1])
    assert problem.is_dpp()
    for _ in range(2):
        image = torch.randn(1, 6, 6, dtype=torch.float64)
        x.value = image.numpy()
        problem.solve()
        lp = cx.to_lp(net, cx.Box(-1, 1, shape=(1, 6, 6)), given=image)
        lp.run()
        assert problem.solution.opt_val == pytest.approx(lp.getInfo().objective_function_value, abs=1e-6)


class Two(nn.Module):
    """f(a, b, y), with b a class."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.kinds = cx.nn.PICNN(4, 2, (5,), activation="relu"), nn.Embedding(3, 2)

    def forward(self, a: Tensor, b: Tensor, y: Tensor) -> Tensor:
        return self.net(torch.cat([a, self.kinds(b)], 1), y)


def test_several_given_some_of_them_parameters(seed: int) -> None:
    torch.manual_seed(seed)
    net = Two().double()
    a, y = cp.Parameter(2), cp.Variable(2)
    cost = cx.to_cvxpy(net, y, given=(2 * a[::-1], torch.tensor(1)))
    problem = cp.Problem(cp.Minimize(cost), [cp.abs(y) <= 1])
    a.value = np.array([0.5, -0.25])
    problem.solve()
    one = torch.tensor([-0.5, 1.0]), torch.tensor(1)
    lp = cx.to_lp(net, cx.Box(-1, 1, shape=(2,)), given=one)
    lp.run()
    assert problem.solution.opt_val == pytest.approx(lp.getInfo().objective_function_value, abs=1e-6)


@pytest.mark.parametrize("shape", [(3,), (1, 3)])
def test_given_with_and_without_a_batch_dimension(shape: tuple[int, ...], seed: int) -> None:
    torch.manual_seed(seed)
    net, y = partial("relu"), cp.Variable(2)
    x = torch.randn(3, dtype=torch.float64)
    value = x.reshape(shape)
    costs = [cx.to_cvxpy(net, y, given=value), cx.to_cvxpy(net, y, given=value.numpy())]
    y.value = np.array([0.4, -0.7])
    expected = float(net(x, torch.tensor(y.value)).detach())
    assert [float(cost.value) for cost in costs] == pytest.approx([expected] * 2, rel=1e-12)


def test_a_parameter_inside_what_is_put_in(seed: int) -> None:
    """y depends on a parameter, and meets gates: products of parameters, which CVXPY could not keep open."""
    torch.manual_seed(seed)
    net = partial("relu")
    x, p, u = cp.Parameter(3), cp.Parameter(2), cp.Variable(2)
    cost = cx.to_cvxpy(net, u + p, given=x)
    problem = cp.Problem(cp.Minimize(cost), [cp.abs(u) <= 1])
    assert problem.is_dpp()
    x.value, p.value = np.ones(3), np.array([0.2, -0.3])
    problem.solve()
    lo = torch.tensor(p.value) - 1
    lp = cx.to_lp(net, cx.Box(lo, lo + 2), given=torch.ones(3))
    lp.run()
    assert problem.solution.opt_val == pytest.approx(lp.getInfo().objective_function_value, abs=1e-6)


# --- refusals and nonsense -------------------------------------------------------------------------------------------

Y = cp.Variable(2)
NOT_CONVEX = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "not convex": (lambda: cx.to_cvxpy(NOT_CONVEX, Y), r"NOT CERTIFIED(.|\n)*aten\.tanh"),
    "no form": (
        lambda: cx.to_cvxpy(Function(lambda y: torch.special.erfcx(y).sum(1)), Y),
        r"aten\.special_erfcx .*\.py:\d+(.|\n)*simpler operators",
    ),
    "a log-sum-exp that is not called one": (
        lambda: cx.to_cvxpy(Function(lambda y: (1 + y.exp().sum(1)).log()), Y),
        r"aten\.log(.|\n)*torch\.logsumexp",
    ),
    "another norm": (lambda: cx.to_cvxpy(Function(lambda y: y.norm(p=3, dim=1)), Y), r"the norm of order 3"),
    "two outputs": (lambda: cx.to_cvxpy(Function(lambda y: (y.sum(1), y.relu().sum(1))), Y), "returns 2 outputs"),
    "rows mixed": (lambda: cx.to_cvxpy(Function(lambda y: (y - y.mean(0)).abs().sum(1)), Y), "mixes the rows"),
    "a matrix of parameters": (
        lambda: cx.to_cvxpy(Function(lambda x, y: (x @ y[:, :, None]).abs().sum((1, 2))), Y, cp.Parameter((2, 2))),
        r"aten\.(matmul|bmm)(.|\n)*depend on a parameter(.|\n)*as arrays",
    ),
    "range only": (
        lambda: cx.to_cvxpy(Function(lambda y: y.square().sum(1) - (-y.square()).relu().sum(1)), Y),
        r"aten\.relu(.|\n)*only the exact one",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_cause(name: str) -> None:
    call, words = REFUSED[name]
    with pytest.raises((cx.NotCertified, ValueError), match=words):
        call()


def test_what_is_refused_with_parameters_is_not_with_arrays(seed: int) -> None:
    torch.manual_seed(seed)
    x, y = torch.randn(2, 2, dtype=torch.float64), cp.Variable(2)
    cost = cx.to_cvxpy(Function(lambda x, y: (x @ y[:, :, None]).abs().sum((1, 2)) + y[:, 0] / 9), y, given=x)
    y.value = np.array([0.3, 0.4])
    assert float(cost.value) == pytest.approx(float((x @ torch.tensor(y.value)).abs().sum()) + 0.3 / 9)


NONSENSE: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "wrong length": (lambda: cx.to_cvxpy(cx.nn.FICNN(3, (4,)), Y), cx.NotTraceable, r"\(\.\.\., 3\), not \(2, 2\)"),
    "not a module": (lambda: cx.to_cvxpy(torch.relu, Y), TypeError, r"torch\.nn\.Module"),
    "nothing given": (lambda: cx.to_cvxpy(cx.nn.PICNN(3, 2), Y), cx.NotTraceable, "missing a required argument"),
    "a batch of x": (
        lambda: cx.to_cvxpy(cx.nn.PICNN(3, 2, (4,)), Y, given=torch.zeros(5, 3)),
        ValueError,
        r"given has shape \(5, 3\), a batch of 5 samples, and an export is for one .* given\[0\]",
    ),
    "NaN": (lambda: cx.to_cvxpy(cx.nn.PICNN(1, 2), Y, given=[np.array([np.nan])]), ValueError, r"given\[0\] holds NaN"),
    "words": (lambda: cx.to_cvxpy(cx.nn.PICNN(1, 2), Y, given="x"), TypeError, r"given\[0\] must be .*, not str"),
    "a variable as given": (
        lambda: cx.to_cvxpy(cx.nn.PICNN(2, 2), Y, given=cp.Variable(2)),
        TypeError,
        r"given\[0\] depends on a variable",
    ),
    "complex": (lambda: cx.to_cvxpy(cx.nn.PICNN(1, 2), Y, given=np.array([1j])), TypeError, "complex"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_named(name: str) -> None:
    call, kind, words = NONSENSE[name]
    with pytest.raises(kind, match=words):
        call()


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = importlib.import_module

    def without(name: str, package: str | None = None) -> Any:
        if name.partition(".")[0] in ("cvxpy", "highspy"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return whole(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ImportError, match=r"needs cvxpy: pip install 'convexnet\[solve\]'"):
        cx.to_cvxpy(cx.nn.FICNN(2), Y)
    with pytest.raises(ImportError, match=r"needs highspy: pip install 'convexnet\[solve\]'"):
        cx.to_lp(cx.nn.FICNN(2, activation="relu"), cx.Box(0, 1, shape=(2,)))
