"""What the exporters take as arguments, and what they say of those that are wrong."""

from __future__ import annotations

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

BOX = cx.Box(-1, 1, shape=2)
X = [0.5, -1.0, 2.0]
NET = cx.nn.PICNN(3, 2, (4,), activation="relu")


class Labelled(nn.Module):
    """A network of a label and y."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 3)
        self.net = cx.nn.PICNN(3, 2, (4,), activation="relu")

    def forward(self, label: Tensor, y: Tensor) -> Tensor:
        return self.net(self.table(label), y)


LABELLED = Labelled()
SWAPPED = Function(lambda y, x: NET(x, y))


def optimum(lp: Any) -> float:
    lp.run()
    return float(lp.getInfo().objective_function_value)


# --- what is accepted alike ------------------------------------------------------------------------------------------

VALUES: dict[str, Callable[[list[float]], Any]] = {
    "a list": lambda x: x,
    "a nested list": lambda x: [x],
    "an array backwards": lambda x: np.array(x[::-1])[::-1],
    "a tensor with a batch of one": lambda x: torch.tensor(x)[None],
    "a tensor with gradient": lambda x: torch.tensor(x, requires_grad=True),
    "a tuple of a list": lambda x: (x,),
    "half precision": lambda x: torch.tensor(x).half(),
}


@pytest.mark.parametrize("name", VALUES)
def test_given_is_read_alike(name: str) -> None:
    y = cp.Variable(2)
    expected = NET(torch.tensor(X), torch.tensor([0.3, -0.4])).item()
    cost = cx.to_cvxpy(NET, y, given=VALUES[name](X))
    y.value = np.array([0.3, -0.4])
    assert float(cost.value) == pytest.approx(expected, abs=1e-5)


def test_the_linear_program_and_minimise_take_the_same() -> None:
    expected = float(cx.minimise(NET, BOX, given=torch.tensor([X])).value[0].detach())
    for name in ("a nested list", "an array backwards"):
        value = VALUES[name](X)
        assert optimum(cx.to_lp(NET, BOX, given=value)) == pytest.approx(expected, abs=1e-5)
        rows = np.reshape(np.asarray(value), (1, 3))
        assert float(cx.minimise(NET, BOX, given=rows).value[0].detach()) == pytest.approx(expected, abs=1e-5)


def test_whole_numbers_are_labels_or_numbers_as_the_network_takes_them() -> None:
    y = cp.Variable(2)
    y.value = np.array([0.3, -0.4])
    expected = LABELLED(torch.tensor([2]), torch.tensor([[0.3, -0.4]])).item()
    for label in (2, np.array(2), torch.tensor([2])):
        assert float(cx.to_cvxpy(LABELLED, y, given=label).value) == pytest.approx(expected, abs=1e-5)
    label = cp.Parameter(integer=True, value=2)
    assert float(cx.to_cvxpy(LABELLED, y, given=label).value) == pytest.approx(expected, abs=1e-5)
    numbers = NET(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.3, -0.4])).item()
    for given in ([1, 0, 2], torch.tensor([1, 0, 2], dtype=torch.uint8)):
        assert float(cx.to_cvxpy(NET, y, given=given).value) == pytest.approx(numbers, abs=1e-5)


def test_wrt_names_the_input_that_varies() -> None:
    y, x = cp.Variable(2), cp.Parameter(3)
    first, last = cx.to_cvxpy(SWAPPED, y, given=x, wrt=0), cx.to_cvxpy(NET, y, given=x)
    problem = cp.Problem(cp.Minimize(first), [cp.abs(y) <= 1])
    assert problem.is_dpp()
    for value in (X, [1.0, 1.0, -1.0]):
        x.value = np.array(value)
        problem.solve()
        assert float(first.value) == pytest.approx(float(last.value), abs=1e-9)
        assert problem.solution.opt_val == pytest.approx(optimum(cx.to_lp(NET, BOX, given=value)), abs=1e-6)
        assert optimum(cx.to_lp(SWAPPED, BOX, given=value, wrt=0)) == pytest.approx(problem.solution.opt_val, abs=1e-6)


def test_a_scalar_variable_is_a_vector_of_one() -> None:
    net, y = cx.nn.FICNN(1, (4,)), cp.Variable()
    cost = cx.to_cvxpy(net, y)
    y.value = 0.3
    assert float(cost.value) == pytest.approx(net(torch.tensor([0.3])).item(), abs=1e-6)
    with pytest.raises(cx.NotTraceable, match=r"takes y of shape \(\.\.\., 2\), not \(2, 1\)"):
        cx.to_cvxpy(PLAIN, y)


def test_a_box_with_a_batch_of_one_is_one_sample() -> None:
    box = cx.Box([[-1.0, -1.0]], 1.0, batch=1)
    assert optimum(cx.to_lp(NET, box, given=X)) == pytest.approx(optimum(cx.to_lp(NET, BOX, given=X)))


# --- what is wrong, in words -----------------------------------------------------------------------------------------

Y = cp.Variable(2)
PLAIN = cx.nn.FICNN(2, (4,), activation="relu")
ROWS = Function(lambda a, b, y: a.sum(1) + b[:, 0].square() * y.abs().sum(1))

WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a batch": (
        lambda: cx.to_cvxpy(NET, Y, given=torch.zeros(2, 3)),
        ValueError,
        r"given has shape \(2, 3\), a batch of 2 samples.*one sample at a time.*given\[0\]",
    ),
    "a batch for a linear program": (lambda: cx.to_lp(NET, BOX, given=np.zeros((4, 3))), ValueError, "batch of 4"),
    "a nested list of two": (lambda: cx.to_cvxpy(NET, Y, given=[X, X]), ValueError, "a batch of 2 samples"),
    "a batch of labels": (lambda: cx.to_cvxpy(LABELLED, Y, given=torch.tensor([1, 2])), ValueError, "a batch of 2"),
    "a batch of the second": (
        lambda: cx.to_lp(ROWS, BOX, given=(np.ones(2), np.ones((3, 1)))),
        ValueError,
        r"given\[1\] has shape \(3, 1\), a batch of 3",
    ),
    "bounds of a batch": (
        lambda: cx.to_lp(PLAIN, BOX.fix([[0.1, 0.0], [0.2, 0.0]], [True, False])),
        ValueError,
        r"bounds for 2 samples.*one sample at a time: give Box\(box\.lo\[i\]",
    ),
    "rows of bounds": (
        lambda: cx.to_lp(PLAIN, cx.Box(-np.ones((3, 2)), 1)),
        ValueError,
        r"the domain's shape, \(3, 2\)",
    ),
    "a domain that is a pair": (lambda: cx.to_lp(PLAIN, (-1, 1)), TypeError, "the domain is a Box"),  # pyright: ignore
    "nothing given": (
        lambda: cx.to_lp(NET, BOX),
        cx.NotTraceable,
        r"`given` makes 1 input \(missing.*give every input of the forward but the variable",
    ),
    "too much given": (lambda: cx.to_cvxpy(PLAIN, Y, given=X), cx.NotTraceable, r"`given` makes 2 inputs \(too many"),
    "wrt beyond": (lambda: cx.to_cvxpy(NET, Y, given=X, wrt=2), ValueError, "wrt=2 is not one of the 2 inputs"),
    "wrt a word": (lambda: cx.to_lp(NET, BOX, given=X, wrt="y"), TypeError, "wrt is the number of an input"),  # pyright: ignore
    "keywords": (lambda: cx.to_lp(NET, BOX, given={"x": X}), TypeError, "inputs are positional: give a tuple"),
    "an iterator": (lambda: cx.to_lp(NET, BOX, given=iter([X])), TypeError, "iterator"),
    "rows of different lengths": (
        lambda: cx.to_lp(NET, BOX, given=[[1.0], [1.0, 2.0]]),
        ValueError,
        "different lengths",
    ),
    "words in a list": (
        lambda: cx.to_cvxpy(NET, Y, given=(["a", "b"],)),
        TypeError,
        r"given\[0\] must be .* not list of",
    ),
    "sparse": (lambda: cx.to_cvxpy(NET, Y, given=torch.zeros(3).to_sparse()), TypeError, "to_dense"),
    "a number for the variable": (lambda: cx.to_cvxpy(PLAIN, 2), TypeError, r"cvxpy\.Variable\(n\)"),
    "under vmap": (
        lambda: torch.vmap(lambda x: cx.to_cvxpy(NET, Y, given=x))(torch.zeros(2, 3)),
        TypeError,
        r"torch\.vmap.*whole batch at once",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str) -> None:
    call, kind, words = WRONG[name]
    with pytest.raises(kind, match=words):
        call()


def test_rows_for_rows_are_no_batch() -> None:
    """A matrix of variables goes with a matrix of given values: the network is applied to each row."""
    y = cp.Variable((2, 2))
    costs = cx.to_cvxpy(NET, y, given=[X, X])
    y.value = np.array([[0.3, -0.4], [0.1, 0.2]])
    expected = NET(torch.tensor([X, X]), torch.tensor(y.value).float()).detach().numpy()
    np.testing.assert_allclose(costs.value, expected, atol=1e-5)


# --- lower bounds ----------------------------------------------------------------------------------------------------


def test_a_lower_bound_is_refused_with_the_tangent_plane_as_remedy() -> None:
    y = cp.Variable(2)
    cost = cx.to_cvxpy(cx.nn.FICNN(2, (4,)), y)
    for build in (
        lambda: cost >= 1,
        lambda: np.float64(1) <= cost,
        lambda: cost >= cp.Parameter(),
        lambda: cost >= cp.sum(y),
    ):
        with pytest.raises(cp.error.DCPError, match=r"not a convex constraint.*tangent plane.*cvxpy\.linearize"):
            build()
    assert (cost <= 1).is_dcp()
    assert (cx.to_cvxpy(nn.Linear(2, 1), y) >= 1).is_dcp(), "an affine network may be bounded from below"
    assert (cx.to_cvxpy(cx.nn.FICNN(2, (4,)), cp.Constant([0.0, 1.0])) >= -1e3).is_dcp(), "and so may a number"


@pytest.mark.parametrize("start", [[2.0, 1.0], [-1.0, 0.5]])
def test_the_remedy_is_an_inner_approximation(start: list[float]) -> None:
    """The nearest point to the origin that satisfies the tangent's constraint satisfies that of the network."""
    torch.manual_seed(0)
    x, y = cp.Parameter(3, value=np.array(X)), cp.Variable(2)
    cost = cx.to_cvxpy(cx.nn.PICNN(3, 2, (6,), quadratic=2), y, given=x)
    y.value = np.array(start)
    level = float(cost.value) - 0.1
    problem = cp.Problem(cp.Minimize(cp.sum_squares(y)), [cp.linearize(cost) >= level])
    assert problem.is_dcp()
    problem.solve()
    assert problem.status == "optimal"
    assert float(cost.value) >= level - 1e-6
