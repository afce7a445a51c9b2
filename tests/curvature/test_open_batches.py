"""Norms of matrices that are written with other operators, so that the size of the batch stays open."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import convexnet as cx
from convexnet.curvature.tracing.open_batches import OpenBatch
from tests.modules import Function

ORDERS = (1, -1, math.inf, -math.inf, 2, "fro", "nuc", None)


def test_the_norms_are_those_of_torch() -> None:
    A = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for order, dim, keep in itertools.product(ORDERS, ((-2, -1), (2, 1), (0, 2), (1, 0)), (False, True)):
        for norm in (torch.linalg.matrix_norm, torch.linalg.norm):
            if order is None and norm is torch.linalg.matrix_norm:
                continue
            plain = norm(A, order, dim, keepdim=keep)
            with OpenBatch():
                mine = norm(A, order, dim, keepdim=keep)
            torch.testing.assert_close(mine, plain, rtol=1e-12, atol=0.0)
    for args in ((A[0], 1), (A[0, 0], 1), (A, 1, 2), (A[0], -1, None, True)):
        with OpenBatch():
            mine = torch.linalg.norm(*args)
        torch.testing.assert_close(mine, torch.linalg.norm(*args))
    with OpenBatch(), pytest.raises(RuntimeError):
        torch.linalg.matrix_norm(A, 1, (1, 1))


@pytest.mark.parametrize(
    "norm",
    [
        lambda X: torch.linalg.matrix_norm(X, 1),
        lambda X: torch.linalg.norm(X, math.inf, (2, 1)),
        lambda X: torch.linalg.matrix_norm(X, ord=math.inf, keepdim=True)[:, 0, 0],
    ],
)
def test_a_sum_of_them_is_opened_for_any_batch(norm: Callable[[Tensor], Tensor]) -> None:
    target = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    f = Function(lambda X: norm(X - target) + (X.abs()).sum((1, 2)) / 8)
    box = cx.Box(torch.full((3, 2, 2), -4.0), torch.full((3, 2, 2), 4.0), batch=3)
    solution = cx.minimise(f, box)
    assert bool(solution.converged.all())
    assert "on its values and tangents" not in solution.message
    assert float(solution.value[0]) == pytest.approx(float(target.abs().sum()) / 8, rel=1e-4)
