"""`update` of a linear program: the numbers of a fresh one, in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import convexnet as cx

pytest.importorskip("highspy")
pytest.importorskip("scipy.sparse")

BOX = cx.Box(-1, 1, shape=(3,))


class Mixed(nn.Module):
    """Two other inputs, one before y and one after it, a gate that can be zero, and maxima."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.free = nn.Linear(3, 8), nn.Linear(2, 8)

    def forward(self, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        a = self.first(y * (1 + scale)) + self.free(x)
        z = torch.nn.functional.leaky_relu(a, 0.2) * x[:, :1].relu()
        return z.sum(1) + torch.relu(self.free(x)).sum(1) + a.view(-1, 2, 4).amax(2).sum(1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return cx.nn.PICNN(2, 3, hidden=(6, 6), activation="relu")


def numbers(lp: Any) -> tuple[np.ndarray, ...]:
    held = lp.getLp()
    matrix = np.zeros((held.num_row_, held.num_col_))
    starts, index, value = (np.array(getattr(held.a_matrix_, name)) for name in ("start_", "index_", "value_"))
    for column in range(held.num_col_):
        span = slice(starts[column], starts[column + 1])
        matrix[index[span], column] = value[span]
    ends = (held.col_lower_, held.col_upper_, held.row_lower_, held.row_upper_, held.col_cost_)
    return (matrix, *map(np.array, ends), np.array(held.offset_))


@pytest.mark.parametrize("kind", ["picnn", "mixed"])
def test_updates_are_fresh_programs(kind: str) -> None:
    torch.manual_seed(1)
    f, wrt = (network(), -1) if kind == "picnn" else (Mixed(), 1)
    for _ in range(3):
        first, second = torch.randn(2, 2), torch.rand(2, 3)
        first[:, 0] = first[:, 0].abs()
        givens: list[Any] = list(first) if kind == "picnn" else list(zip(first, second, strict=True))
        lp, fresh = (cx.to_lp(f, BOX, given, wrt=wrt) for given in givens)
        lp.run()
        lp.update(givens[1])
        for one, other in zip(numbers(lp), numbers(fresh), strict=True):
            assert np.array_equal(one, other)
        for each in (lp, fresh):
            each.run()
        found = [each.getInfo().objective_function_value for each in (lp, fresh)]
        assert found[0] == pytest.approx(found[1], rel=1e-6, abs=1e-6)


def test_what_was_added_and_the_basis_stay() -> None:
    f = network()
    lp = cx.to_lp(f, BOX, [0.1, 0.2])
    lp.run()
    lp.addRow(-10.0, 0.25, 3, np.arange(3, dtype=np.int32), np.ones(3))
    lp.changeColBounds(0, -0.5, 0.5)
    lp.run()
    with torch.no_grad():
        for parameter in f.parameters():  # the program is of the network as it was
            parameter.mul_(3.0)
    lp.update([0.11, 0.2])
    assert lp.getBasis().valid
    lp.run()
    y = np.array(lp.getSolution().col_value[:3])
    assert y.sum() <= 0.25 + 1e-6
    assert abs(y[0]) <= 0.5 + 1e-6
    within = cx.Polyhedron(torch.ones(1, 3), torch.tensor([0.25]), within=cx.Box([-0.5, -1, -1], [0.5, 1, 1]))
    best = cx.minimise(network(), within, torch.tensor([[0.11, 0.2]]))
    assert lp.getInfo().objective_function_value == pytest.approx(best.value.item(), abs=2e-5)


def test_wrong_updates_are_refused() -> None:
    lp = cx.to_lp(network(), BOX, [0.1, 0.2])
    with pytest.raises(ValueError, match="given must be 1 inputs"):
        lp.update(([0.1, 0.2], [0.3, 0.4]))
    with pytest.raises((ValueError, cx.NotTraceable), match=r"shape|input 0 is"):
        lp.update([0.1, 0.2, 0.3])
    lp = cx.to_lp(Mixed(), BOX, ([1.0, 0.2], [0.0, 0.0, 0.0]), wrt=1)
    with pytest.raises(ValueError, match="make a new one with to_lp"):
        lp.update(([-1.0, 0.2], [0.0, 0.0, 0.0]))  # what gates a layer is now zero
