"""What `minimise` takes as inputs, starting points and numbers, and what it says of those that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import convexnet as cx
from tests.modules import Function

MINIMISE: Any = cx.minimise  # for arguments of other types than the declared ones
BOX = cx.Box(-1, 1, shape=2)
ROWS = [[0.5, -1.0, 2.0], [1.0, 0.0, -1.0]]
NET = cx.nn.PICNN(3, 2, (6,), activation="relu")
PLAIN = cx.nn.FICNN(2, (6,), activation="relu")


class Labelled(nn.Module):
    """A network of a label, numbers, a mask and y."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.scaled = nn.Embedding(4, 2), nn.Linear(1, 1)
        self.net = cx.nn.PICNN(3, 2, (6,), activation="relu")

    def forward(self, label: Tensor, x: Tensor, mask: Tensor, y: Tensor) -> Tensor:
        return self.net(torch.cat([self.table(label) * mask, self.scaled(x)], 1), y)


class Twice(nn.Module):
    """A network of two inputs and y."""

    def __init__(self) -> None:
        super().__init__()
        self.net = NET

    def forward(self, a: Tensor, b: Tensor, y: Tensor) -> Tensor:
        return self.net(a, y) + self.net(b, y)


LABELLED = Labelled()


@pytest.fixture(scope="module")
def expected() -> Tensor:
    return cx.minimise(NET, BOX, given=torch.tensor(ROWS)).value.detach()


# --- what is accepted alike ------------------------------------------------------------------------------------------

ALIKE: dict[str, Callable[[list[list[float]]], Any]] = {
    "a nested list": lambda x: x,
    "a tuple of a nested list": lambda x: (x,),
    "an array": np.array,
    "an array of float32": lambda x: np.array(x, dtype=np.float32),
    "an array of whole numbers": lambda x: np.array(x) * 2 // 1,
    "an array backwards": lambda x: np.array(x[::-1])[::-1],
    "a list of an array": lambda x: [np.array(x)],
    "a list of tensors": lambda x: [torch.tensor(x)],
    "double precision": lambda x: torch.tensor(x).double(),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ALIKE)
def test_given_is_read_alike(name: str, expected: Tensor) -> None:
    if name == "an array of whole numbers":
        rows = (np.array(ROWS) * 2).astype(np.int64)
        found = cx.minimise(NET, BOX, given=rows)
        expected = cx.minimise(NET, BOX, given=torch.tensor(rows).float()).value.detach()
    else:
        found = cx.minimise(NET, BOX, given=ALIKE[name](ROWS))
    assert bool(found.converged.all())
    torch.testing.assert_close(found.value.detach(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.int32, torch.bool])
def test_whole_numbers_become_floating_where_they_must(dtype: torch.dtype) -> None:
    rows = torch.tensor([[1, 0, 1], [0, 1, 1]], dtype=dtype)
    found = cx.minimise(NET, BOX, given=rows)
    torch.testing.assert_close(found.value, cx.minimise(NET, BOX, given=rows.float()).value, atol=1e-6, rtol=1e-6)
    assert found.x.dtype == torch.float32


def test_labels_and_masks_stay_what_they_are() -> None:
    """Of three inputs only the one that the forward takes as floating is changed, also beside float64."""
    label, mask = torch.tensor([3, 1]), torch.tensor([[True, False], [True, True]])
    same = [torch.tensor([[2.0], [1.0]]), torch.tensor([[2], [1]]), np.array([[2], [1]], dtype=np.uint8)]
    values = [cx.minimise(LABELLED, BOX, given=(label, x, mask)).value.detach() for x in same]
    values.append(cx.minimise(LABELLED, BOX, given=(label.numpy(), [[2.0], [1.0]], mask.tolist())).value.detach())
    for value in values[1:]:
        torch.testing.assert_close(value, values[0], atol=1e-5, rtol=1e-5)


def test_the_model_is_left_as_it_was() -> None:
    """Whatever was tried to find out which inputs are floating, and when the call was refused."""
    net = nn.ModuleList([nn.BatchNorm1d(2), PLAIN, nn.Linear(3, 1)]).train()
    model = Function(lambda x, y: net[1](net[0](y)) + net[2](x))
    model.net = net
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    cx.minimise(model, BOX, given=torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="its first dimension is the batch"):
        cx.minimise(NET.train(), BOX, given=torch.ones(3))
    assert net.training
    assert all(module.training for module in NET.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    "settings",
    [
        {"tol": np.float32(1e-6)},
        {"tol": torch.tensor(1e-6)},
        {"tol": np.array(1e-6)},
        {"max_steps": np.int64(50)},
        {"max_steps": torch.tensor(50)},
        {"time_limit": np.float32(60)},
        {"time_limit": np.int64(60)},
        {"wrt": np.int64(0)},
        {"start": np.zeros(2)},
        {"start": [0.0, 0.0]},
        {"start": [[0.0, 0.0]]},
        {"start": torch.zeros(2, dtype=torch.int64)},
    ],
    ids=str,
)
def test_numbers_and_starts_are_read_alike(settings: dict[str, Any]) -> None:
    found = cx.minimise(PLAIN, BOX, **settings)
    assert bool(found.converged.all())
    torch.testing.assert_close(found.value, cx.minimise(PLAIN, BOX).value, atol=1e-5, rtol=1e-5)


def test_an_earlier_solution_is_a_start(expected: Tensor) -> None:
    first = cx.minimise(NET, BOX, given=ROWS)
    for again in (cx.minimise(NET, BOX, ROWS, start=first), cx.minimise(NET, BOX, ROWS, start=first.detach())):
        torch.testing.assert_close(again.value.detach(), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"start has shape \(2, 2\); it must be \(2,\) or \(3, 2\)"):
        cx.minimise(NET, BOX, given=[*ROWS, ROWS[0]], start=first)


def test_bounds_of_each_sample() -> None:
    lo = torch.tensor([[-1.0, 0.5], [0.25, -1.0]])
    found = cx.minimise(NET, cx.Box(lo, 1, batch=2), given=ROWS)
    for i in range(2):
        alone = cx.minimise(NET, cx.Box(lo[i], 1, shape=2), given=[ROWS[i]])
        torch.testing.assert_close(found.value[i], alone.value[0], atol=1e-5, rtol=1e-5)
    assert cx.minimise(PLAIN, cx.Box(lo, 1, batch=2)).x.shape == (2, 2)


def test_arrays_of_a_solution() -> None:
    solution = cx.minimise(NET, BOX, given=ROWS)
    assert solution.x.requires_grad, "the parameters of the network do"
    assert solution.detach().x.numpy().shape == (2, 2)
    with torch.no_grad():
        assert cx.minimise(NET, BOX, given=ROWS).x.numpy().shape == (2, 2)


# --- what is wrong, in words -----------------------------------------------------------------------------------------


def under_vmap(x: Tensor) -> Tensor:
    return torch.vmap(lambda row: cx.minimise(NET, BOX, given=row[None]).value)(x)


def under_grad(x: Tensor) -> Tensor:
    return torch.func.grad(lambda rows: cx.minimise(NET, BOX, given=rows).value.sum())(x)


def of_dual_numbers(x: Tensor) -> cx.Solution:
    with forward_ad.dual_level():
        return cx.minimise(NET, BOX, given=forward_ad.make_dual(x, torch.ones_like(x)))


def of_parameters() -> Any:
    named = {name: parameter.detach() for name, parameter in NET.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        class Called(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = parameters["layers.0.y.weight"]

            def forward(self, y: Tensor) -> Tensor:
                return (y @ self.weight.T).abs().sum(1)

        module = Called()
        module.register_buffer("held", module.weight)
        return cx.minimise(module, BOX).value.sum()

    return torch.func.grad(loss)(named)


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a vector": (
        lambda: cx.minimise(NET, BOX, given=torch.zeros(3)),
        ValueError,
        r"given has shape \(3,\): its first dimension is the batch.* takes \(B, 3\): .* given\[None\], of shape \(1, 3",
    ),
    "a list of numbers": (lambda: cx.minimise(NET, BOX, given=[0.0, 1.0, 2.0]), ValueError, r"given\[None\]"),
    "whole numbers in a vector": (lambda: cx.minimise(NET, BOX, given=np.arange(3)), ValueError, r"given\[None\]"),
    "vectors": (
        lambda: cx.minimise(Twice(), BOX, (ROWS[0], ROWS[0])),
        ValueError,
        r"given\[0\] has shape \(3,\).*given\[0\]\[None\]",
    ),
    "rows of bounds": (
        lambda: cx.minimise(NET, cx.Box(-torch.ones(2, 2), 1), given=ROWS),
        ValueError,
        r"the domain has shape \(2, 2\), which is taken for that of one sample .* write Box\(lo, hi, batch=2\)",
    ),
    "rows of bounds alone": (lambda: cx.minimise(PLAIN, cx.Box(-torch.ones(4, 2), 1)), ValueError, r"hi, batch=4\)"),
    "nothing given": (
        lambda: cx.minimise(NET, BOX),
        cx.NotTraceable,
        r"`given` makes 1 input \(missing.*but y, in order",
    ),
    "text": (
        lambda: cx.minimise(NET, BOX, given="x.npy"),
        TypeError,
        r"given\[0\] must be a tensor, an array .*, not str",
    ),
    "keywords": (
        lambda: cx.minimise(NET, BOX, given={"x": ROWS}),
        TypeError,
        "given is a dict, and inputs are positional",
    ),
    "a generator": (lambda: cx.minimise(NET, BOX, given=(x for x in ROWS)), TypeError, r"an iterator: give a tuple"),
    "rows of two lengths": (lambda: cx.minimise(NET, BOX, given=[[1.0], [1.0, 2.0]]), ValueError, "different lengths"),
    "no number": (
        lambda: cx.minimise(NET, BOX, given=[[1.0, None, 2.0]]),
        TypeError,
        r"given\[0\] must be .* not list",
    ),
    "complex": (lambda: cx.minimise(NET, BOX, given=np.zeros((1, 3), dtype=complex)), TypeError, "is complex"),
    "sparse": (lambda: cx.minimise(NET, BOX, given=torch.zeros(1, 3).to_sparse()), TypeError, "to_dense"),
    "NaN in an array": (lambda: cx.minimise(NET, BOX, given=np.full((2, 3), np.nan)), ValueError, "first in row 0"),
    "a scalar": (lambda: cx.minimise(NET, BOX, given=1.0), ValueError, "needs a batch dimension"),
    "a mistyped solver": (lambda: cx.minimise(PLAIN, BOX, solver="newtn"), ValueError, r"did you mean 'newton'\?"),
    "a solver that is none": (
        lambda: MINIMISE(PLAIN, BOX, solver=None),
        ValueError,
        "unknown solver None; it is one of auto",
    ),
    "a mistyped derivative": (
        lambda: cx.minimise(PLAIN, BOX, derivative="exakt"),
        ValueError,
        r"did you mean 'exact'\?",
    ),
    "a tolerance in words": (
        lambda: MINIMISE(PLAIN, BOX, tol="1e-6"),
        ValueError,
        "tol is a relative gap .* not '1e-6'",
    ),
    "tolerances": (lambda: MINIMISE(PLAIN, BOX, tol=np.ones(2)), ValueError, "tol is a relative gap"),
    "steps in halves": (
        lambda: MINIMISE(PLAIN, BOX, max_steps=np.float64(10)),
        ValueError,
        "max_steps must be an",
    ),
    "no time": (lambda: MINIMISE(PLAIN, BOX, time_limit="1s"), ValueError, "time_limit is in seconds .* not '1s'"),
    "a start in words": (
        lambda: cx.minimise(PLAIN, BOX, start="centre"),
        TypeError,
        "start must be a tensor, an array",
    ),
    "wrt in words": (lambda: MINIMISE(PLAIN, BOX, wrt="y"), TypeError, "wrt is the number of an input"),
    "vmap": (lambda: under_vmap(torch.tensor(ROWS)), TypeError, r"torch\.vmap or torch\.func.*a whole batch at once"),
    "torch.func": (lambda: under_grad(torch.tensor(ROWS)), TypeError, r"gradients come from backward\(\)"),
    "dual numbers": (
        lambda: of_dual_numbers(torch.tensor(ROWS)),
        TypeError,
        r"given\[0\] is a tensor of .* or a dual one",
    ),
    "parameters of torch.func": (
        of_parameters,
        TypeError,
        r"a parameter of f is a tensor of torch\.vmap or torch\.func",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own forward-mode derivatives
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str) -> None:
    call, kind, words = WRONG[name]
    with pytest.raises(kind, match=words):
        call()


def test_no_bound_without_strong_convexity_is_said_truly() -> None:
    """The sum of squares is strongly convex; what is not found is not denied."""
    squares = Function(lambda y: (y @ torch.tensor([[1.0, 1.0], [1.0, -1.0]])).square().sum(1))
    found = cx.minimise(squares, cx.Box(-torch.inf, torch.inf, shape=2))
    assert bool(found.converged.all()) or "none was found" in found.message
