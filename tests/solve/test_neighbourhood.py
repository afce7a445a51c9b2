"""What is read once and used again, and what is solved nearby: against the functions as they are written."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.curvature.tracing.trace import trace
from convexnet.form.matrices import Pieces, rescale_maps
from convexnet.form.program import OpenedProgram
from convexnet.solve.derivatives.saved_minimum import SavedMinimum
from convexnet.solve.functions.black_box import PrivateCopy
from convexnet.solve.functions.matrix_free import MatrixFree
from convexnet.solve.functions.strong_convexity import strong_convexity


class Gated(nn.Module):
    """|(A + c B) y| + relu(c y), where c scales columns only if B is A; rows of very different sizes."""

    def __init__(self, alike: bool) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        rows = torch.tensor([1.0, 1e-9, 1e6])[:, None].double()
        self.A = nn.Parameter(rows * torch.randn(3, 4, generator=g).double())
        self.B = self.A if alike else nn.Parameter(rows * torch.randn(3, 4, generator=g).double())

    def forward(self, c: Tensor, y: Tensor) -> Tensor:
        return (y @ self.A.T + (c[:, :1] * y) @ self.B.T).abs().sum(1) + (c[:, 1:] * y).relu().sum(1)


@pytest.mark.parametrize("alike", [True, False])
def test_maps_of_other_samples_are_read_again_as_they_are(alike: bool) -> None:
    net = Gated(alike)
    g = torch.Generator().manual_seed(1)
    batches = [torch.randn(size, 5, generator=g).double() for size in (1, 3, 1, 4)]
    batches += [torch.zeros(2, 5).double(), torch.randn(2, 5, generator=g).double()]
    opened = OpenedProgram(trace(net, (batches[1], torch.zeros(3, 4).double()), any_batch=True), 1)
    pieces = Pieces(opened)
    for c in batches:
        inputs, y = [c, torch.zeros(len(c), 4).double()], torch.randn(len(c), 4, generator=g).double()
        form, written = pieces.form(inputs), MatrixFree(opened, inputs)
        assert torch.allclose(form.value(y), net(c, y), rtol=1e-9)
        for a, b in zip(form.arguments(y), written.arguments(y), strict=True):
            assert torch.allclose(a, b, rtol=1e-8, atol=0.0)
    assert pieces.last is not None
    other = [torch.randn(2, 5, generator=g).double(), torch.zeros(2, 4).double()]
    assert (rescale_maps(opened, other, pieces.last) is None) != alike


class Wide(nn.Module):
    """Two layers of kinks, with a minimiser that many of them are near to."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(2)
        draw = [
            torch.randn(*s, generator=g).double() for s in ((120, 4), (60, 120), (60, 4), (120, 3), (60, 3), (4, 3))
        ]
        self.U, self.W, self.V, self.A, self.B, self.T = (nn.Parameter(part) for part in draw)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z = (y @ self.U.T + x @ self.A.T).relu()
        z = (z @ self.W.abs().T / 120 + y @ self.V.T + x @ self.B.T - 1).relu()
        return z.mean(1) + 0.05 * (x @ self.T.T * y).sum(1)


def test_kinks_nearby_tell_the_derivatives_of_a_loose_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    net, box = Wide(), cx.Box(-1, 1, shape=(4,))
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(3)).double()
    g = torch.randn(8, 4, generator=torch.Generator().manual_seed(4)).double()

    def gradients(tol: float) -> list[Tensor]:
        wanted = x.clone().requires_grad_()
        solution = cx.minimise(net, box, given=wanted, tol=tol)
        return list(torch.autograd.grad((g * solution.x).sum(), [wanted, net.U, net.W, net.T]))

    exact = gradients(1e-12)
    settled: list[int] = []

    def settle(self: SavedMinimum, rows: Tensor | None = None, quick: bool = False) -> None:
        settled.append(len(x) if rows is None else len(rows))

    monkeypatch.setattr(SavedMinimum, "settle", settle)
    loose = gradients(1e-4)
    assert sum(settled) == 0
    for a, b in zip(exact, loose, strict=True):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-7 * float(a.abs().max()))


class Squares(nn.Module):
    """(c_0 y_0 + c_1 y_1)² + (3 y_1)²."""

    def forward(self, c: Tensor, y: Tensor) -> Tensor:
        return (c * y).sum(1).square() + (3 * y[:, 1]).square()


def test_only_the_square_of_one_coordinate_is_strongly_convex() -> None:
    c = torch.tensor([[1.0, 0.0], [1.0, 1e-10], [2.0, 0.0], [0.0, 1e-10]]).double()
    inputs = [c, torch.zeros(4, 2).double()]
    opened = OpenedProgram(trace(Squares(), tuple(inputs), any_batch=True), 1)
    found = strong_convexity(opened, inputs, Pieces(opened).form(inputs))
    assert found is not None
    right = torch.tensor([[2.0, 18.0], [0.0, 18.0], [8.0, 18.0], [0.0, 18.0]]).double()
    assert torch.allclose(found, right, rtol=1e-5, atol=1e-15)
    assert bool((found[right > 1] < right[right > 1]).all())


class Far(nn.Module):
    """(1e-9 y + 1e8)²: the constant hides the slope from differences."""

    def forward(self, y: Tensor) -> Tensor:
        return (1e-9 * y + 1e8).square().sum(1)


def test_a_large_constant_does_not_make_a_square_steeper() -> None:
    y = torch.zeros(2, 1).double()
    opened = OpenedProgram(trace(Far(), y, any_batch=True), 0)
    found = strong_convexity(opened, [y], Pieces(opened).form([y]))
    assert found is not None
    assert torch.allclose(found, torch.full_like(found, 2e-18), rtol=1e-5, atol=0.0)
    solution = cx.minimise(Far(), cx.Box(-float("inf"), float("inf"), shape=(1,)))
    assert float(solution.lower_bound) <= 0


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, y: Tensor) -> Tensor:
        self.get_buffer("calls").add_(1)
        return y.sum(1) + self.get_buffer("calls")


def test_a_copy_that_its_forward_writes_into_is_not_used_again() -> None:
    net, y = Counting(), torch.zeros(2, 3).double()
    once = PrivateCopy(net)
    assert once.value([y]) is not None
    assert once.worn
    assert float(net.get_buffer("calls")) == 0
    still = PrivateCopy(nn.Linear(3, 1))
    assert still.value([y]) is not None
    assert not still.worn
