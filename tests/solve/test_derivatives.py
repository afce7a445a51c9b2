"""Derivatives of minimum and minimiser against differences of solutions, exact to 1e-12."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from tests.drawing import some

BATCH = 2
STEP = 1e-5


class Valley(nn.Module):
    """Coercive in y, so that kinks and curves hold the minimiser inside of a large box; x moves it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.u, self.a, self.b, self.c = nn.Linear(2, 7), nn.Linear(3, 7), nn.Linear(7, 6), nn.Linear(3, 6)
        self.out, self.p = nn.Linear(6, 1), nn.Linear(3, 6)
        self.q = nn.Parameter(torch.rand(3) + 0.5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z = (self.a(y) + self.u(x)).abs()
        if self.kind == "softplus":
            z = F.softplus(self.a(y) + self.u(x)) + F.softplus(-self.a(y) - self.u(x))
        h = self.b(z) + self.c(y)
        atom = {"leaky": lambda h: F.leaky_relu(h, 0.3), "softplus": F.softplus, "elu": lambda h: F.elu(h, 0.5)}
        value = self.out(atom.get(self.kind, F.relu)(h)) + 0.2 * z.sum(1, keepdim=True)
        if self.kind == "largest":
            value = value + (self.p(y) + x[:, :1]).unflatten(1, (2, 3)).amax(2).sum(1, keepdim=True)
        if self.kind == "bowl":
            value = self.out(F.relu(h)) + ((y * y) * self.q).sum(1, keepdim=True)
        if self.kind == "gates":
            value = value + F.relu(self.p(y * (1 + x[:, :1].abs()))).sum(1, keepdim=True)
        if self.kind == "soft maximum":
            value = value + (self.p(y) + x[:, :1]).logsumexp(1, keepdim=True)
        if self.kind == "norms":  # some of them zero at the minimiser, where they hold it, and some not
            norms = (self.p(y) + x[:, :1]).unflatten(1, (2, 3)).norm(dim=2).sum(1, keepdim=True)
            value = ((y * y) * self.q).sum(1, keepdim=True) + norms + 3 * (y[:, 1:] - x / 9).norm(dim=1, keepdim=True)
        return value


KINDS = ["kinks", "leaky", "largest", "gates", "softplus", "elu", "bowl", "soft maximum", "norms"]


def valley(kind: str, seed: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    model = Valley(kind).double()
    x = torch.randn(BATCH, 2, dtype=torch.float64)
    cx.constrain(model, (x, torch.zeros(BATCH, 3, dtype=torch.float64)), method="absolute", wrt=1)
    return model, x


def agree(a: float, b: float, tol: float) -> bool:
    return abs(a - b) <= tol * (1 + abs(a))


@pytest.mark.parametrize(
    "kind", ["kinks", "gates", "norms", *some([k for k in KINDS if k not in ("kinks", "gates", "norms")], 3, "valleys")]
)
def test_differences(kind: str, seed: int) -> None:
    """Of x, all weights, both bounds and a fixed coordinate, in random directions, for the value and the minimiser."""
    model, x = valley(kind, seed)
    lo, hi = torch.full((3,), -3.0, dtype=torch.float64), torch.full((3,), 3.0, dtype=torch.float64)
    fixed = torch.tensor([[0.1, 0.0, 0.0], [0.4, 0.0, 0.0]], dtype=torch.float64)
    hi[1] = -0.05  # most often this bound holds
    leaves = [x, lo, hi, fixed, *model.parameters()]
    for leaf in leaves:
        leaf.requires_grad_()
    to_x, to_value = torch.randn(BATCH, 3, dtype=torch.float64), torch.randn(BATCH, dtype=torch.float64)

    def solution() -> cx.Solution:
        box = cx.Box(lo, hi).fix(fixed, [True, False, False])
        return cx.minimise(model, box, given=x, tol=1e-12)

    found = solution()
    values = torch.autograd.grad((found.value * to_value).sum(), leaves, retain_graph=True, allow_unused=True)
    points = torch.autograd.grad((found.x * to_x).sum(), leaves, allow_unused=True)
    smooth = kind in ("softplus", "elu", "bowl", "soft maximum", "norms")
    for chosen in ([0], [1, 2], [3], [*range(4, len(leaves))]):
        directions = [torch.randn_like(leaves[i]) for i in chosen]
        ends: list[tuple[float, float]] = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                for i, direction in zip(chosen, directions, strict=True):
                    leaves[i].add_(direction, alpha=sign * STEP)
                there = solution()
                ends.append((float((there.value * to_value).sum()), float((there.x * to_x).sum())))
                for i, direction in zip(chosen, directions, strict=True):
                    leaves[i].sub_(direction, alpha=sign * STEP)
        for k, grads in enumerate((values, points)):
            expected = (ends[0][k] - ends[1][k]) / (2 * STEP)
            pairs = [(grads[i], direction) for i, direction in zip(chosen, directions, strict=True)]
            mine = sum(float((g * d).sum()) for g, d in pairs if g is not None)
            assert agree(expected, mine, 1e-5 if k == 0 else 2e-3 if smooth else 1e-5), (
                chosen,
                "vx"[k],
                expected,
                mine,
            )


def test_on_a_face_the_value_alone_has_a_derivative(seed: int) -> None:
    """max(y_1 + w, −y_1) on a square: any y_2 will do, and the derivative of x is small, not a division by nothing."""
    offset = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))

    class Ridge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = offset

        def forward(self, y: Tensor) -> Tensor:
            return torch.maximum(y[:, 0] + self.offset, -y[:, 0])

    found = cx.minimise(Ridge(), cx.Box(-1, 1, shape=(2,)), tol=1e-10)
    (value,) = torch.autograd.grad(found.value.sum(), offset, retain_graph=True)
    assert float(value) == pytest.approx(0.5, abs=1e-6)
    (point,) = torch.autograd.grad((found.x * torch.tensor([[1.0, 7.0]])).sum(), offset)
    assert float(point) == pytest.approx(-0.5, abs=1e-6)


def test_autograd_at_the_minimiser_is_wrong(seed: int) -> None:
    """The negative control: of the same ridge, the one side that autograd picks gives 0 or 1."""
    offset = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    y = torch.tensor(-0.1, dtype=torch.float64)
    (slope,) = torch.autograd.grad(torch.maximum(y + offset + 1e-9, -y), offset)
    assert float(slope) in (0.0, 1.0)


def test_corners_move_with_the_box_and_with_nothing_else() -> None:
    lo = torch.tensor([-1.0, -2.0], requires_grad=True)
    hi = torch.tensor([1.0, 2.0], requires_grad=True)
    net = nn.Linear(2, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -3.0]]))
    found = cx.minimise(net, cx.Box(lo, hi))
    moved = (found.x * torch.tensor([[5.0, 7.0]])).sum()
    grads = torch.autograd.grad(moved, [lo, hi, net.weight], retain_graph=True, allow_unused=True)
    assert grads[0].tolist() == pytest.approx([5.0, 0.0])
    assert grads[1].tolist() == pytest.approx([0.0, 7.0])
    assert grads[2] is None or grads[2].abs().max().item() == 0.0
    grads = torch.autograd.grad(found.value.sum(), [lo, hi, net.weight, net.bias])
    assert grads[0].tolist() == pytest.approx([1.0, 0.0])
    assert grads[1].tolist() == pytest.approx([0.0, -3.0])
    assert grads[2].tolist() == [pytest.approx([-1.0, 2.0])]
    assert grads[3].tolist() == pytest.approx([1.0])


def test_a_batch_has_the_derivatives_of_its_singles(seed: int) -> None:
    """Also of samples that all sit at the same kink: what counts as one is not judged by the others."""
    model, x = valley("kinks", seed)
    x = torch.cat([x, x[:1]])
    x.requires_grad_()
    box = cx.Box(-3, 3, shape=(3,))
    (together,) = torch.autograd.grad(cx.minimise(model, box, given=x, tol=1e-10).x.sum(), x)
    for i in range(len(x)):
        alone = x[i : i + 1].detach().requires_grad_()
        (single,) = torch.autograd.grad(cx.minimise(model, box, given=alone, tol=1e-10).x.sum(), alone)
        assert torch.allclose(single[0], together[i], rtol=1e-5, atol=1e-6)


def test_what_takes_part(seed: int) -> None:
    """Weights alone; frozen ones get none; float32; no graph without one; shared parameters count twice."""
    model, x = valley("bowl", seed)
    box = cx.Box(-3, 3, shape=(3,))
    model.a.weight.requires_grad_(False)  # pyright: ignore
    found = cx.minimise(model, box, given=x)
    (found.value.sum() + found.x.sum()).backward()
    assert model.a.weight.grad is None  # pyright: ignore
    assert model.b.weight.grad is not None  # pyright: ignore
    assert x.grad is None
    with torch.no_grad():
        assert not cx.minimise(model, box, given=x).value.requires_grad
    model.requires_grad_(False)
    assert not cx.minimise(model, box, given=x).x.requires_grad
    bounds = torch.full((3,), 3.0, requires_grad=True)
    assert cx.minimise(model, cx.Box(-3.0, bounds), given=x).x.requires_grad
    exact = x.clone().requires_grad_()
    (wide,) = torch.autograd.grad(cx.minimise(model, box, given=exact, tol=1e-9).value.sum(), exact)
    model.float()
    single = x.float().requires_grad_()
    found = cx.minimise(model, box, given=single)
    found.value.sum().backward()
    assert single.grad is not None
    assert single.grad.dtype == torch.float32
    assert torch.allclose(single.grad.double(), wide, rtol=1e-3, atol=1e-4)


def test_shared_parameters(seed: int) -> None:
    """|w y + w| has its minimum 0 at −1 whatever w; (w y)² + w has w, with derivative 1."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(1, 1, bias=False).double()
            self.b = nn.Linear(1, 1, bias=False).double()
            self.b.weight = self.a.weight

        def forward(self, y: Tensor) -> Tensor:
            return self.a(y).square() + self.b(torch.ones_like(y))

    model = Shared()
    found = cx.minimise(model, cx.Box(-1, 2, shape=(1,)), tol=1e-10)
    found.value.sum().backward()
    assert model.a.weight.grad is not None
    assert model.a.weight.grad.item() == pytest.approx(1.0, abs=1e-5)


def test_weights_that_have_changed_since_are_refused(seed: int) -> None:
    model, x = valley("kinks", seed)
    found = cx.minimise(model, cx.Box(-3, 3, shape=(3,)), given=x)
    with torch.no_grad():
        model.out.bias.add_(1.0)  # pyright: ignore
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.value.sum().backward()


def test_training_a_minimum(seed: int) -> None:
    """Gradient steps on the value of the minimum and on the place of the minimiser, for a copy and its original."""
    model, x = valley("softplus", seed)
    box = cx.Box(-3, 3, shape=(3,))
    twin = copy.deepcopy(model)
    goal = torch.full((BATCH, 3), 0.3, dtype=torch.float64)
    ends: list[list[float]] = []
    for net in (model, twin):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        cx.constrain(net, (x, goal), method="clip", wrt=1).attach(optimizer)
        losses: list[float] = []
        for _ in range(12):
            loss = (cx.minimise(net, box, given=x).x - goal).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]
        ends.append(losses)
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)
