"""Minimisers by pivots: against those found to the last digits without them; and none where it is not certain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.curvature.tracing.trace import trace
from convexnet.form.matrices import Pieces
from convexnet.form.program import OpenedProgram
from convexnet.solve.derivatives import vertices
from convexnet.solve.derivatives.vertices import held_at_vertices
from convexnet.solve.functions.problem import Problem
from convexnet.solve.solvers.incumbents import Evidence, initial_incumbents


class Deep(nn.Module):
    """Three layers of kinks in five variables; some minimisers are at bounds."""

    def __init__(self, slope: float, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        shapes = ((40, 5), (30, 40), (30, 5), (20, 30), (20, 5), (40, 3), (5, 3))
        parts = [nn.Parameter(torch.randn(*shape, generator=g).double()) for shape in shapes]
        self.U, self.W, self.V, self.X, self.Y, self.A, self.T = parts
        self.slope = slope

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z = nn.functional.leaky_relu(y @ self.U.T + x @ self.A.T, self.slope)
        z = nn.functional.leaky_relu(z @ self.W.abs().T / 40 + y @ self.V.T - 1, self.slope)
        z = nn.functional.leaky_relu(z @ self.X.abs().T / 30 + y @ self.Y.T - 1, self.slope)
        return z.mean(1) + 0.15 * (x @ self.T.T * y).sum(1)


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_pivots_find_what_the_last_digits_say(slope: float, monkeypatch: pytest.MonkeyPatch) -> None:
    net, box, g = Deep(slope, 0), cx.Box(-1, 1, shape=(5,)), torch.Generator().manual_seed(1)
    x, to_x = torch.randn(12, 3, generator=g).double(), torch.randn(12, 5, generator=g).double()
    sure: list[Tensor] = []

    def gradients(tol: float) -> list[Tensor]:
        wanted = x.clone().requires_grad_()
        solution = cx.minimise(net, box, given=wanted, tol=tol)
        return list(torch.autograd.grad((to_x * solution.x).sum(), [wanted, *net.parameters()]))

    def seen(*arguments: object) -> vertices.Held:
        held = held_at_vertices(*arguments)  # pyright: ignore[reportArgumentType]
        sure.append(held.sure)
        return held

    with monkeypatch.context() as patch:
        patch.setattr(vertices, "is_usable", lambda *_: False)
        exact = gradients(1e-12)
    monkeypatch.setattr("convexnet.solve.derivatives.saved_minimum.held_at_vertices", seen)
    loose = gradients(1e-3)
    assert int(sure[0].sum()) >= 10
    for a, b in zip(exact, loose, strict=True):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-9 * float(a.abs().max()))


@pytest.mark.parametrize("again", [False, True])
def test_a_degenerate_vertex_is_left_alone(again: bool) -> None:
    """|y_0| + |y_1| and a third kink, which is far away, or goes through the vertex of the others."""
    rows = [[1.0, 0.0], [0.0, 1.0], [2.0, 0.0] if again else [0.3, 0.2]]
    shift = torch.tensor([0.0, 0.0, 0.0 if again else 3.0]).double()
    matrix = torch.tensor(rows).double()

    class Ends(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            return (y @ matrix.T + shift).abs().sum(1)

    y = torch.full((2, 2), 0.01).double()
    lo, hi = torch.full_like(y, -1.0), torch.full_like(y, 1.0)
    form = Pieces(OpenedProgram(trace(Ends(), y, any_batch=True), 0)).form([y])
    found = initial_incumbents(Problem(form, lo, hi))
    found.y, found.scale = y.clone(), torch.ones(2).double()
    slopes = torch.tensor([[0.5, 0.6, 0.55 if again else 1.0]]).double().expand(2, 3)
    found.keep(torch.arange(2), Evidence(slopes=[slopes]))
    held = held_at_vertices(form, found, lo, hi, torch.ones_like(y))
    assert bool(held.sure.all()) != again
    assert torch.equal(found.y, y) == again
    if not again:
        assert float(found.y.abs().max()) <= 1e-12
