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

MANY = range(1000, 1400)
VERTICES, MANY_VERTICES = (7, 9, 11, 12, 16, 18, 22), range(400)


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


class Kinked(nn.Module):
    """scale (Σ w |R u + b| − c u) + offset for u = y / d."""

    def __init__(self, rows: Tensor, w: Tensor, c: Tensor, d: Tensor, scale: float, offset: float) -> None:
        super().__init__()
        self.scale, self.offset = scale, offset
        self.rows, self.w, self.c, self.d = nn.Buffer(rows), nn.Buffer(w), nn.Buffer(c), nn.Buffer(d)

    def forward(self, b: Tensor, y: Tensor) -> Tensor:
        u = y / self.d
        return self.scale * ((self.w * (u @ self.rows.T + b).abs()).sum(1) - (self.c * u).sum(1)) + self.offset


def draw_vertex(seed: int) -> tuple[Kinked, Tensor, cx.Box, Tensor]:
    """A function, its b (1, m), the domain, whose sides are up to 1e38 long, and the derivatives (n, m) for b."""
    r, g = random.Random(seed), torch.Generator().manual_seed(seed)
    n = r.choice([1, 2, 3, 4])
    m = n + r.choice([0, 1, 4, 8])

    def uniform(low: float, high: float, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.float64).uniform_(low, high, generator=g)

    rows, u = torch.randn(m, n, generator=g).double(), torch.randn(n, generator=g).double()
    u = u * 10 ** r.uniform(0, 6) if r.random() < 0.2 else u
    width = r.choice([0, 3, 8])
    d = 10 ** uniform(-width, width + 1e-9, n)
    at_bound = r.sample(range(n), r.randrange(n))
    free = [j for j in range(n) if j not in at_bound]
    count = len(free)
    rows[:count, free] = rows[:count, free] + 2 * torch.eye(count).double()
    b = torch.randn(m, generator=g).double() * 2
    b[:count] = -(rows[:count] @ u)
    a = rows @ u + b
    b[count:] += torch.where(a[count:] > 0, 0.1, -0.1)
    w, slope = uniform(0.1, 1.1, m), (rows @ u + b).sign()
    slope[:count] = uniform(-0.9, 0.9, count)
    if r.random() < 0.3:
        slope[:count] = 1 - 10 ** uniform(-6, -2, count)
    multipliers, lo, hi = torch.zeros(n).double(), u.clone(), u.clone()
    for j in range(n):
        side = 10.0 ** r.choice([-8, 8, 12, 20, 38]) if r.random() < 0.4 else 10 ** r.uniform(-1, 1)
        size = 10 ** r.uniform(-6, 0)
        if j in at_bound:
            up = r.random() < 0.5
            lo[j], hi[j] = (u[j] - side, u[j]) if up else (u[j], u[j] + side)
            multipliers[j] = -size if up else size
        elif side > 1e10:
            lo[j], hi[j] = u[j] - r.choice([0.3, 1e-3, 1.0, 1e6]), side
        else:
            share = r.uniform(0.1, 0.9)
            lo[j], hi[j] = u[j] - side * share, u[j] + side * (1 - share)
    moves = torch.zeros(n, m).double()
    moves[torch.tensor(free)[:, None], torch.arange(count)] = -torch.linalg.inv(rows[:count, free])
    scale = 10 ** r.uniform(-10, 8) if r.random() < 0.5 else 1.0
    net = Kinked(rows, w, rows.T @ (w * slope) - multipliers, d, scale, r.choice([0.0, 0.0, 1e3]))
    return net, b[None], cx.Box(d * lo, d * hi), d[:, None] * moves


def check(seed: int) -> bool:
    return is_right(*draw(seed), seed)


def check_vertex(seed: int) -> bool:
    return is_right(*draw_vertex(seed), seed)


def is_right(net: Scaled | Kinked, c: Tensor, box: cx.Box, moves: Tensor, seed: int) -> bool:
    """See that the derivative is the one that is known; False where it was refused."""
    c.requires_grad_()
    found = cx.minimise(net, box, given=c)
    weights = torch.randn(len(moves), generator=torch.Generator().manual_seed(seed)).double() / net.d
    try:
        (gradient,) = torch.autograd.grad((found.x * weights).sum(), c)
    except RuntimeError as error:
        if "has no derivative" in str(error) or "cannot be told" in str(error):
            return False
        raise
    size = float((weights.abs() @ moves.abs()).max()) or 1.0
    assert float((gradient[0] - weights @ moves).abs().max()) <= 1e-3 * size, seed
    return True


@pytest.mark.parametrize("seed", [*some(range(8), 4, "units"), 1187])
def test_derivatives_do_not_depend_on_units(seed: int) -> None:
    check(seed)


def test_derivatives_of_vertices_do_not_depend_on_units_or_wide_boxes() -> None:
    assert sum(map(check_vertex, VERTICES)) >= len(VERTICES) - 1, "most of them are found, and not refused"


@pytest.mark.slow
def test_derivatives_of_many_do_not_depend_on_units() -> None:
    for seed in MANY:
        check(seed)


@pytest.mark.slow
def test_derivatives_of_many_vertices_do_not_depend_on_units_or_wide_boxes() -> None:
    for seed in MANY_VERTICES:
        check_vertex(seed)
