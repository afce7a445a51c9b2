"""The least value of an energy over a simplex by cutting planes: what max-margin over classes solves in every step.

A plane below f is known by its values at the K vertices, p_k = f(y_i) + ⟨g_i, e_k − y_i⟩, so that the least value of
all planes is that of a matrix game: min over y of max_i ⟨p_i, y⟩. Weights λ of the planes prove the lower bound
min_k Σ λ_i p_ik. The first plane is at the start, the second at the vertex that the first one likes best: where f holds
its least value at the start, or at a vertex, this is all. From there on, the game is solved by a primal-dual interior
point method that stops early, well inside: its point is where the next plane is taken, and cuts deeper than that of the
exact solution would (Gondzio, Gonzalez-Brevis & Munari 2013). Samples that are proved leave the batch.

x is computed once for all of it (`contexts`), in float64 like every value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convexnet.curvature.tracing.restored_state import evaluating
from convexnet.energy.contexts import Doubled

MOST = 60
"""Planes of a sample, at most."""

CENTRAL = 0.1
"""How far inside the game is left: this part of the gap, shared by its complementarities."""

NEARNESS = 3.0
"""Weight of the distance from the best point, in units of the gap: less than it keeps two points apart."""

INNER = 15
"""Steps of the interior point method, at most."""


@dataclass(frozen=True)
class Least:
    """What was found for each sample.

    Attributes:
        y: the best point, (B, K).
        value: f(y) + ⟨cost, y⟩ there, (B,).
        lower: below the least value, up to the rounding of float64, (B,).
        converged: whether the gap is at most the tolerance, (B,).
        first: the value at the start, (B,).
        planes: how many were taken, all samples together.
    """

    y: Tensor
    value: Tensor
    lower: Tensor
    converged: Tensor
    first: Tensor
    planes: int


def least_over_simplex(
    f: nn.Module, given: Sequence[Tensor], cost: Tensor, start: Tensor, tol: float, atol: float = 0.0, most: int = MOST
) -> Least:
    """Return the least f(x, y) + ⟨cost, y⟩ over the simplex y >= 0, Σ y = 1, of each sample.

    Args:
        f: convex in its last input y; that it is, is the caller's to know.
        given: the other inputs, B rows each.
        cost: (B, K), float64.
        start: where the first plane is taken, (B, K).
        tol: of the gap, relative to the rise from y to the highest vertex of the planes: never more than f rises.
        atol: of the gap, absolute.
        most: planes of a sample.

    Example:
        >>> import convexnet as cx
        >>> f = cx.nn.PICNN(2, 3, hidden=(8,))
        >>> start = torch.full((5, 3), 1 / 3).double()
        >>> found = least_over_simplex(f, [torch.randn(5, 2)], torch.zeros(5, 3), start, 1e-4)
        >>> bool(found.converged.all()), bool((found.lower <= found.value).all())
        (True, True)
    """
    with torch.no_grad(), evaluating(f):
        doubled = Doubled(f)
        context = doubled.context(given)
        search = Search(cost.double(), start.double(), tol, atol)
        while len(search.open):
            rows = search.open
            parts = context if len(rows) == len(start) else [part[rows] for part in context]
            value, slope = doubled.value_and_slope(parts, search.y)
            search.add(value, slope)
            search.close(most)
            search.move()
    return Least(search.best, search.value, search.lower, search.converged, search.first, search.planes)


class Search:
    """The open samples of a batch, their planes, and what is known of all samples."""

    def __init__(self, cost: Tensor, start: Tensor, tol: float, atol: float) -> None:
        rows, size = start.shape
        self.tol, self.atol = tol, atol
        self.best = start.clone()
        self.value = torch.full((rows,), torch.inf, dtype=torch.float64, device=start.device)
        self.lower = -self.value
        self.first = self.value.clone()
        self.converged = torch.zeros(rows, dtype=torch.bool, device=start.device)
        self.planes = self.rounds = 0
        self.open = torch.arange(rows, device=start.device)
        # of the open samples
        self.cost, self.y = cost, start
        self.cuts = start.new_zeros(rows, 0, size)

    def add(self, value: Tensor, slope: Tensor) -> None:
        """Take the plane at y, of f without the cost."""
        slope = slope.double() + self.cost
        value = value.double() + (self.cost * self.y).sum(1)
        plane = value[:, None] + slope - (slope * self.y).sum(1, keepdim=True)
        here = self.open
        better = value < self.value[here]
        self.value[here] = torch.where(better, value, self.value[here])
        self.best[here] = torch.where(better[:, None], self.y, self.best[here])
        self.cuts = torch.cat([self.cuts, plane[:, None]], 1)
        self.raise_bound(plane.amin(1))
        if not self.rounds:
            self.first = value
        self.rounds += 1
        self.planes += len(here)

    def raise_bound(self, bound: Tensor) -> None:
        """Take a lower bound of the open samples."""
        self.lower[self.open] = torch.maximum(self.lower[self.open], bound)

    @property
    def gap(self) -> Tensor:
        """Of the open samples."""
        return self.value[self.open] - self.lower[self.open]

    def close(self, most: int) -> None:
        """Let samples go that are proved, or have as many planes as they may have."""
        rise = (self.cuts.amax((1, 2)) - self.value[self.open]).clamp(min=0)
        done = self.gap <= self.atol + self.tol * rise
        self.converged[self.open[done]] = True
        going = torch.zeros_like(done) if self.rounds >= most or not bool(self.gap.isfinite().all()) else ~done
        self.open, self.cost, self.y, self.cuts = (part[going] for part in (self.open, self.cost, self.y, self.cuts))

    def move(self) -> None:
        """Choose where the next planes are taken, and raise the bounds."""
        if not len(self.open):
            return
        if self.rounds == 1:
            vertices = torch.eye(self.y.shape[1], dtype=torch.float64, device=self.y.device)
            self.y = vertices[self.cuts[:, 0].argmin(1)]
            return
        gap = self.gap
        self.y, weights = solve_game(self.cuts, self.best[self.open], NEARNESS * gap, CENTRAL * gap)
        self.raise_bound((weights[:, :, None] * self.cuts).sum(1).amin(1))


def solve_game(cuts: Tensor, centre: Tensor, nearness: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return y and λ near those of min over y of max_i ⟨p_i, y⟩ + nearness/2 ‖y − centre‖², both in a simplex.

    Newton's method on the optimality conditions with complementarities μ, which falls to a share of `inside`.

    Args:
        cuts: p, (B, m, K).
        centre: (B, K).
        nearness, inside: (B,), in units of p.

    Example:
        >>> cuts = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]).double()
        >>> none = torch.zeros(1).double()
        >>> y, weights = solve_game(cuts, torch.tensor([[1.0, 0.0]]).double(), none, none)
        >>> y.round(decimals=3).tolist(), weights.round(decimals=3).tolist()
        ([[0.5, 0.5]], [[0.5, 0.5]])
    """
    rows, count, size = cuts.shape
    least = cuts.amin((1, 2))
    scale = (cuts.amax((1, 2)) - least).clamp(min=1e-300)
    p = (cuts - least[:, None, None]) / scale[:, None, None]
    near = (nearness / scale)[:, None]
    last = (inside / scale / (count + size)).clamp(min=1e-12)
    y = 0.9 * centre + 0.1 / size
    w = (p @ y[:, :, None])[:, :, 0]
    w = w.amax(1, keepdim=True) + 0.1 - w  # the value of the game less each plane
    λ = (1 / w) / (1 / w).sum(1, keepdim=True)
    q = 0.03 / y  # multipliers of y >= 0
    matrix = cuts.new_zeros(rows, size + 2, size + 2)
    matrix[:, :size, size + 1] = matrix[:, size + 1, :size] = -1
    right = cuts.new_zeros(rows, size + 2)
    for _ in range(INNER):
        mean = ((λ * w).sum(1) + (q * y).sum(1)) / (count + size)
        if bool((mean <= 1.01 * last).all()):
            break
        μ = torch.maximum(0.15 * mean, last)[:, None]
        ratio = λ / w
        weighted = p * ratio[:, :, None]
        matrix[:, :size, :size] = p.transpose(1, 2) @ weighted + torch.diag_embed(q / y + near)
        matrix[:, :size, size] = matrix[:, size, :size] = -weighted.sum(1)
        matrix[:, size, size] = ratio.sum(1)
        right[:, :size] = μ / y - ((μ / w)[:, None] @ p)[:, 0] - near * (y - centre)
        right[:, size] = (μ / w).sum(1) - 1
        step, failed = torch.linalg.solve_ex(matrix, right)
        if bool(failed.any()) or not bool(step.isfinite().all()):
            break
        dy = step[:, :size]
        dw = step[:, size : size + 1] - (p @ dy[:, :, None])[:, :, 0]
        dλ, dq = μ / w - λ - ratio * dw, μ / y - q - q / y * dy
        length = torch.stack([room(a, d) for a, d in ((y, dy), (w, dw), (λ, dλ), (q, dq))]).amin(0)[:, None]
        y, w, λ, q = y + length * dy, w + length * dw, λ + length * dλ, q + length * dq
    λ, y = λ.clamp(min=0), y.clamp(min=0)
    return y / y.sum(1, keepdim=True), λ / λ.sum(1, keepdim=True)


def room(at: Tensor, step: Tensor) -> Tensor:
    """Return the share of a step, (B,), at most 1, after which all stay positive.

    Example:
        >>> room(torch.ones(1, 2), torch.tensor([[1.0, -4.0]]))
        tensor([0.2375])
    """
    return 0.95 * torch.where(step < 0, -at / step, 1 / 0.95).amin(1).clamp(max=1 / 0.95)
