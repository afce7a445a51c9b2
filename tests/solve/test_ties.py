"""Derivatives of minimisers at which more kinks and bounds meet than are needed to hold them: right, or refused.

The oracle are minimisers of the function a little changed, to both sides of many directions: where they go back as they
came, and sums of directions are answered by sums, there is a derivative.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from tests.drawing import some

T = torch.float64
STEPS = (1e-5, 2e-6)
WAYS = 8


class Meeting(nn.Module):
    """Kinks of one or two layers and of maxima that meet at a point x, which is a minimiser; some of them are others'
    multiples, and bounds of the box may go through it too. The input moves every argument, or few of them together.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=T)

        def share(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=g, dtype=T)

        def whole(low: int, high: int) -> int:
            return int(torch.randint(low, high, (1,), generator=g))

        n, self.inputs, together = whole(1, 4), whole(1, 6), bool(share(1) < 0.5)
        self.slope = (0.0, 0.0, 0.2, -0.5)[whole(0, 4)]
        self.curve = (0.0, 0.0, 1.0)[whole(0, 3)]
        units, later, maxima = whole(1, 5), whole(-2, 3), whole(-2, 3)
        units, later, maxima = units, max(later, 0), max(maxima, 0)
        x = 0.5 * normal(n).clamp(-1.5, 1.5)

        def rows(count: int) -> tuple[Tensor, Tensor]:
            J = normal(count, n)
            S = F.one_hot(torch.randint(0, self.inputs, (count,), generator=g), self.inputs).to(T)
            S = S if together else normal(count, self.inputs)
            for i in range(1, count):
                if share(1) < 0.35:
                    j, factor = whole(0, i), (1.0, 2.0, -1.0)[whole(0, 3)]
                    J[i] = factor * J[j]
                    S[i] = factor * S[j] if share(1) < 0.6 else S[i]
            return J, S

        def slopes(meet: Tensor, a: Tensor) -> Tensor:
            inside = 0.3 + 0.4 * share(len(a)) if share(1) < 0.5 else share(len(a))
            ends = torch.where(share(len(a)) < 0.1, (inside > 0.5).to(T), inside)
            return torch.where(meet, ends, (a > 0).to(T))

        (J, S), (V, P), (M, Q) = rows(units), rows(later), rows(3 * maxima)
        W = share(later, units) * (share(later, units) < 0.6) * (self.slope >= 0)
        meet = [share(units) < 0.8, share(later) < 0.7, share(maxima, 3) < 0.6]
        a = torch.where(meet[0], 0.0, normal(units))
        z = torch.maximum(self.slope * a, a)
        b, c = torch.where(meet[1], 0.0, normal(later)), torch.where(meet[2], 0.0, -share(maxima, 3) - 0.1)
        weights = [share(count) + 0.1 for count in (units, later, maxima)]
        if share(1) < 0.6:  # a few rows alone hold it
            weights[0][n:] *= 0.04
            weights = [weights[0], 0.04 * weights[1], 0.04 * weights[2]]
        second = slopes(meet[1], b) * weights[1]
        arriving = weights[0] + W.T @ second
        first = (self.slope + (1 - self.slope) * slopes(meet[0], a)) * arriving
        members = share(maxima, 3) * (c >= c.amax(1, keepdim=True)) if maxima else share(0, 3)
        third = (members / members.sum(1, keepdim=True) * weights[2][:, None]).flatten()
        lo, hi, force = torch.full((n,), -4.0, dtype=T), torch.full((n,), 4.0, dtype=T), torch.zeros(n, dtype=T)
        for j in range(n):
            if share(1) < 0.3:
                side = whole(0, 2)
                (lo, hi)[side][j] = x[j]
                force[j] = (2 * side - 1) * whole(0, 2) * share(1)
        self.lo, self.hi = lo, hi
        named = {
            "J": J, "S": S, "V": V, "P": P, "M": M, "Q": Q, "W": W, "x": x,
            "a0": a - J @ x, "b0": b - V @ x - W @ z, "c0": c.flatten() - M @ x,
            "u": weights[0], "v": weights[1], "w": weights[2],
            "s": -(J.T @ first + V.T @ second + M.T @ third) - force,
        }  # fmt: skip
        for name, tensor in named.items():
            self.register_buffer(name, tensor)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        h = dict(self.named_buffers())
        z = F.leaky_relu(y @ h["J"].T + t @ h["S"].T + h["a0"], self.slope)
        value = z @ h["u"] + y @ h["s"]
        if len(h["b0"]):
            value = value + torch.relu(z @ h["W"].T + y @ h["V"].T + t @ h["P"].T + h["b0"]) @ h["v"]
        if len(h["c0"]):
            value = value + (y @ h["M"].T + t @ h["Q"].T + h["c0"]).unflatten(1, (-1, 3)).amax(2) @ h["w"]
        return value + self.curve * (y - h["x"]).square().sum(1) if self.curve else value


def both_sides(f: Meeting, to_x: Tensor, ways: Tensor) -> tuple[Tensor, bool] | None:
    """How fast <to_x, x> changes along ways (K, p + 2n) of the input, and lower and upper bounds; and whether that is
    linear. None where it is not known."""
    rates: list[Tensor] = []
    n, p, count = len(f.lo), f.inputs, len(ways)
    every = torch.cat([ways, -ways, ways[1:] + ways[:-1]])
    moves = torch.cat([step * every for step in STEPS])
    box = cx.Box(f.lo + moves[:, p : p + n], f.hi + moves[:, p + n :], batch=len(moves))
    with torch.no_grad():
        found = cx.minimise(f, box, given=moves[:, :p], tol=1e-11)
    if not bool(found.converged.all()) or float((found.x - f.x).abs().max()) > 0.01:  # pyright: ignore
        return None
    for step, part in zip(STEPS, found.x.split(len(every)), strict=True):
        rates.append((part - f.x) @ to_x / step)  # pyright: ignore
    tol = 1e-3 * (1 + rates[0].abs().max())
    if not bool(((rates[0] - rates[1]).abs() <= tol).all()):
        return None
    up, down, both = rates[0].split([count, count, count - 1])
    return up, bool(((up + down).abs() <= tol).all()) and bool(((both - up[1:] - up[:-1]).abs() <= tol).all())


@pytest.mark.parametrize("number", some(range(16), 9, "ties"))
def test_right_or_refused(number: int, seed: int) -> None:
    f = Meeting(100 * seed + number)
    n, p = len(f.lo), f.inputs
    g = torch.Generator().manual_seed(number)
    ways, to_x = torch.randn(WAYS, p + 2 * n, generator=g, dtype=T), torch.randn(n, generator=g, dtype=T)
    ways[0] = 0
    ways[0, 0] = 1.0
    ways[1::2, p:] = 0
    known = both_sides(f, to_x, ways)
    leaves = [torch.zeros(1, p, dtype=T), f.lo[None].clone(), f.hi[None].clone()]
    for leaf in leaves:
        leaf.requires_grad_()
    found = cx.minimise(f, cx.Box(leaves[1], leaves[2], batch=1), given=leaves[0], tol=1e-9)
    moved = (found.x @ to_x).sum()
    if known is not None and not known[1]:
        with pytest.raises(RuntimeError, match="has no derivative"):
            moved.backward()
        return
    grads = torch.autograd.grad(moved, leaves)
    if known is not None:
        mine = ways @ torch.cat([grad.flatten() for grad in grads])
        assert torch.allclose(mine, known[0], rtol=1e-3, atol=1e-3 * (1 + float(known[0].abs().max())))


class Written(nn.Module):
    """A function of one or two variables, with parameters b."""

    def __init__(self, f: Callable[[Tensor, Tensor], Tensor], *b: float) -> None:
        super().__init__()
        self.f, self.b = f, nn.Parameter(torch.tensor(b, dtype=T))

    def forward(self, y: Tensor) -> Tensor:
        return self.f(y, self.b)


def r(a: Tensor) -> Tensor:
    return torch.relu(a)


CASES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[float, ...], list[float] | None]] = {
    "one of two": (lambda y, b: 0.6 * r(y[:, 0] - b[0]) + 0.05 * r(y[:, 0] - b[1]) - 0.3 * y[:, 0], (0.2, 0.2), [1, 0]),
    "the heaviest of three": (
        lambda y, b: (y[:, 0] - b[0]).abs() + 0.3 * (y[:, 0] - b[1]).abs() + 0.3 * (y[:, 0] - b[2]).abs(),
        (0.2, 0.2, 0.2),
        [1, 0, 0],
    ),
    "a median": (lambda y, b: (y[:, :1] - b).abs().sum(1), (0.2, 0.2, 0.2), None),
    "an edge of a plateau": (lambda y, b: 0.3 * r(y[:, :1] - b).sum(1) - 0.3 * y[:, 0], (0.2, 0.2), None),
    "one twice": (lambda y, b: 0.3 * (2 * r(y[:, 0] - b[0])) + 0.3 * r(y[:, 0] - b[0]) - 0.4 * y[:, 0], (0.2,), [1]),
    "one twice, and another": (
        lambda y, b: 0.3 * r(y[:, 0] - b[0]) + 0.3 * r(y[:, 0] - b[0]) + 0.05 * r(y[:, 0] - b[1]) - 0.3 * y[:, 0],
        (0.2, 0.2),
        [1, 0],
    ),
    "both sides of one": (lambda y, b: r(y[:, 0] - b[0]) + r(b[0] - y[:, 0]), (0.2,), [1]),
    "a bound": (lambda y, b: 0.6 * r(y[:, 0] - b[0]) - 0.3 * y[:, 0], (1.0,), None),
    "a curve and a kink": (lambda y, b: (y[:, 0] - b[0]).square() + r(y[:, 0] - b[1]), (0.2, 0.2), None),
    "a deeper kink": (
        lambda y, b: (y[:, 0] - b[0]).abs() + 0.1 * r(3 * (y[:, 0] - b[0]).abs() + y[:, 0] - b[1]),
        (0.2, 0.2),
        [1, 0],
    ),
    "a deeper kink holds": (
        lambda y, b: 3 * r(0.1 * r(y[:, 0] - b[0]) + y[:, 0] - b[1]) - y[:, 0],
        (0.2, 0.2),
        None,
    ),
    "three of a maximum": (
        lambda y, b: torch.stack([y[:, 0] - b[0], b[1] - y[:, 0], 0.1 * (y[:, 0] - b[2])], 1).amax(1),
        (0.2, 0.2, 0.2),
        None,
    ),
    "a sum of the others": (
        lambda y, b: (y[:, 0] - b[0]).abs() + (y[:, 1] - b[1]).abs() + 5 * (y[:, 0] + y[:, 1] - b[0] - b[1]).abs(),
        (0.2, 0.3),
        [1, 3],
    ),
    "one number in all": (
        lambda y, b: 0.5 * (y[:, 0] - b[0]).abs() + 0.4 * (y[:, 0] - 2 * b[0]).abs() + 0.3 * (y[:, 0] + b[0]).abs(),
        (0.0,),
        [1],
    ),
    "one number to one side": (lambda y, b: r(y[:, 0] - b[0]) + r(y[:, 0] + b[0]) - y[:, 0], (0.0,), None),
}


@pytest.mark.parametrize("name", some(CASES, 8, "written out"))
def test_written_out(name: str) -> None:
    f, b, expected = CASES[name]
    model = Written(f, *b)
    found = cx.minimise(model, cx.Box(-1, 1, shape=(2 if name == "a sum of the others" else 1,)), tol=1e-9)
    moved = found.x[0, 0] if found.x.shape[1] == 1 else found.x[0, 0] + 3 * found.x[0, 1]
    if expected is None:
        with pytest.raises(RuntimeError, match="sample 0 has no derivative"):
            moved.backward()
        found.value.sum().backward()  # one of those between the derivatives to both sides, as for a ReLU at zero
        assert model.b.grad is not None
        return
    moved.backward()
    assert model.b.grad is not None
    assert model.b.grad.tolist() == pytest.approx(expected, abs=1e-6)


def test_what_is_refused_names_the_sample_and_the_line() -> None:
    """Only of the sample that has none, and only where its gradient is wanted."""

    class Medians(nn.Module):
        def forward(self, b: Tensor, y: Tensor) -> Tensor:
            return (y - b).abs().sum(1)

    b = torch.tensor([[0.1, 0.2, 0.3], [0.2, 0.2, 0.2]], dtype=T, requires_grad=True)
    found = cx.minimise(Medians(), cx.Box(-1, 1, shape=(1,)), given=b)
    with pytest.raises(RuntimeError, match=r"sample 1 has no derivative: .*3 of abs \(.*test_ties.py:\d+\)"):
        torch.autograd.grad(found.x.sum(), b, retain_graph=True)
    (grad,) = torch.autograd.grad(found.x[0].sum(), b)
    assert grad[0].tolist() == pytest.approx([0, 1, 0], abs=1e-6)
