"""Derivatives of minimisers whose coordinates, slopes and sides differ by many orders of magnitude.

Point, multipliers and sides are drawn, and the linear term that makes them right follows: so the derivative is known
without a solver. What cannot be told is to be an error in words, and never another number.
"""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from tests.drawing import some

FEW, MANY = 8, 400


class Scaled(nn.Module):
    """scale (Σ φ(R u + b) − c u) for u = y / d."""

    def __init__(self, kind: str, rows: Tensor, b: Tensor, d: Tensor, scale: float) -> None:
        super().__init__()
        self.kind, self.scale = kind, scale
        self.rows, self.b, self.d = nn.Buffer(rows), nn.Buffer(b), nn.Buffer(d)

    def forward(self, c: Tensor, y: Tensor) -> Tensor:
        u = y / self.d
        a = u @ self.rows.T + self.b
        if self.kind == "square":
            energy = a.square().sum(1) / 2
        elif self.kind == "softplus":
            energy = F.softplus(a, threshold=1e9).sum(1)
        else:
            energy = (F.softplus(2 * a, threshold=1e9) - a).sum(1)
        return self.scale * (energy - (c * u).sum(1))


def draw(seed: int) -> tuple[Scaled, Tensor, cx.Box, Tensor]:
    """A function, its c (1, n), the domain, and the derivatives (n, n) of the minimiser for c."""
    r, g = random.Random(seed), torch.Generator().manual_seed(seed)
    n, kind = r.choice([1, 2, 3, 4]), r.choice(["square", "softplus", "log cosh"])
    rows = torch.randn(n + r.choice([0, 1, 3]), n, generator=g).double()
    b, u = torch.randn(len(rows), generator=g).double(), torch.randn(n, generator=g).double()
    width = r.choice([0, 3, 8])
    d = 10 ** torch.empty(n).uniform_(-width, width + 1e-9, generator=g).double()
    scale = 10 ** r.uniform(-8, 8) if r.random() < 0.5 else 1.0
    multipliers, lo, hi, free = torch.zeros(n).double(), u.clone(), u.clone(), list[int]()
    for j in range(n):
        side = 10 ** r.uniform(-8, 8) if r.random() < 0.5 else 10 ** r.uniform(-1, 1)
        multiplier = 10 ** r.uniform(-10, 0) if r.random() < 0.5 else r.uniform(0.1, 1)
        where = r.choice(["low", "high", "free", "free"])
        if where == "free":
            share = min(10 ** r.uniform(-8, 0), 0.9) if r.random() < 0.4 else r.uniform(0.1, 0.9)
            free.append(j)
            lo[j], hi[j] = u[j] - side * share, u[j] + side * (1 - share)
        elif where == "low":
            hi[j], multipliers[j] = u[j] + side, multiplier
        else:
            lo[j], multipliers[j] = u[j] - side, -multiplier
    a = rows @ u + b
    s = a.sigmoid() if kind == "softplus" else (2 * a).sigmoid()
    slope = {"square": a, "softplus": s, "log cosh": 2 * s - 1}[kind]
    bend = {"square": torch.ones_like(a), "softplus": s * (1 - s), "log cosh": 4 * s * (1 - s)}[kind]
    hessian, moves = rows.T @ (bend[:, None] * rows), torch.zeros(n, n).double()
    if free:
        moves[torch.tensor(free)[:, None], free] = torch.linalg.inv(hessian[free][:, free])
    c = (rows.T @ slope - multipliers)[None]
    return Scaled(kind, rows, b, d, scale), c, cx.Box(d * lo, d * hi), d[:, None] * moves


def check(seed: int) -> None:
    net, c, box, moves = draw(seed)
    c.requires_grad_()
    found = cx.minimise(net, box, given=c)
    weights = torch.randn(len(moves), generator=torch.Generator().manual_seed(seed)).double() / net.d
    try:
        (gradient,) = torch.autograd.grad((found.x * weights).sum(), c)
    except RuntimeError as error:
        if "has no derivative" in str(error) or "cannot be told" in str(error):
            return
        raise
    size = float((weights.abs() @ moves.abs()).max()) or 1.0
    assert float((gradient[0] - weights @ moves).abs().max()) <= 1e-3 * size, seed


@pytest.mark.parametrize("seed", some(range(FEW), 4, "units"))
def test_derivatives_do_not_depend_on_units(seed: int) -> None:
    check(seed)


@pytest.mark.slow
def test_derivatives_of_many_do_not_depend_on_units() -> None:
    for seed in range(1000, 1000 + MANY):
        check(seed)
