"""The iterates of path following, and how they move."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

START = 0.1
"""The first mu, in units of what typically arrives at a kink."""

MARGIN = 0.05
"""How near to a bound one step may come: a share of the distance to it."""

GATE_MARGIN = 0.1
"""The same for gates and for the multipliers of the bounds."""

PATIENCE = 5
"""How many steps a sample may take without a gap that is a tenth smaller, before it is taken back to the path."""

TINY = 1e-14


@dataclass
class Found:
    """The best point of each sample in [-1, 1]^n, its value and the best lower bound, and the steps taken."""

    y: Tensor
    value: Tensor
    bound: Tensor
    steps: Tensor


@dataclass
class State:
    """The iterates of the samples that are still active."""

    y: Tensor
    mu: Tensor  # (B, 1)
    gates: list[Tensor]  # of the relu part of each kink, in (0, 1)
    upper: Tensor  # multipliers of y <= 1 and y >= -1
    lower: Tensor
    best: Tensor  # (B,) the least gap so far, and for how many steps there was no much better one
    waited: Tensor

    def rows(self, keep: Tensor) -> State:
        others = (self.upper, self.lower, self.best, self.waited)
        return State(self.y[keep], self.mu[keep], [gate[keep] for gate in self.gates], *(t[keep] for t in others))


@dataclass
class Smoothed:
    """The smoothed function at a point."""

    gates: list[Tensor]  # derivative of the smoothed relu
    curved: list[Tensor]  # (z - a * gate) / r² with the gate that is an iterate
    arriving: list[Tensor]
    multipliers: dict[int, Tensor]
    gradient: Tensor  # of the function without the barrier


def solved(matrix: Tensor, right: Tensor) -> Tensor:
    """The solution of positive definite systems; where rounding left one indefinite, its diagonal is raised."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    raise_by = 1e-10
    while bool((info > 0).any()) and raise_by < 1:
        diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        diagonal.add_((info > 0)[:, None] * raise_by * diagonal.mean(-1, keepdim=True))
        factor, info = torch.linalg.cholesky_ex(matrix)
        raise_by *= 100
    return torch.cholesky_solve(right.unsqueeze(-1), factor)[..., 0]


def inside(y: Tensor, step: Tensor) -> Tensor:
    """y + step, coordinate by coordinate no nearer to a bound than a share of the distance to it."""
    return torch.minimum(torch.maximum(y + step, MARGIN * (1 + y) - 1), 1 - MARGIN * (1 - y))


def advanced(
    state: State,
    at: Smoothed,
    changes: list[Tensor],
    step: Tensor,
    barrier: Tensor,
    right: Tensor,
    left: Tensor,
    length: Tensor,
) -> State:
    """The next iterates."""
    share = length[:, None]
    gates: list[Tensor] = []
    for old, smooth, change in zip(state.gates, at.gates, changes, strict=True):
        new = torch.lerp(old, smooth + change, share.expand_as(old))
        new = torch.minimum(torch.maximum(new, GATE_MARGIN * old), 1 - GATE_MARGIN * (1 - old))
        gates.append(new.clamp_(TINY, 1 - TINY))
    up, low = state.upper, state.lower
    upper = torch.maximum(up + share * (barrier * right + up * right * step - up), GATE_MARGIN * up)
    lower = torch.maximum(low + share * (barrier * left - low * left * step - low), GATE_MARGIN * low)
    return replace(state, y=inside(state.y, share * step), gates=gates, upper=upper, lower=lower)


def next_mu(mu: Tensor, share: Tensor, decrement: Tensor, length: Tensor, n: int) -> Tensor:
    """mu follows the certified gap (its share of a coordinate): fast after a full step near the path, else slowly."""
    fast = torch.minimum(0.5 * mu, torch.maximum(0.3 * share, 0.01 * mu))
    slow = torch.where(length > 0.9, 0.7 * mu, torch.where(length > 0.5, 0.8 * mu, mu))
    near = (length > 0.9) & (decrement < 5 * n**0.5 + 5)
    return torch.minimum(mu, torch.maximum(torch.where(near, fast, slow), 0.003 * share))
