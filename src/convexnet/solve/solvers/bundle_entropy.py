"""The bundle entropy method: cutting planes of f, and the entropy as it is.

Every subgradient of f is a plane below f, and the largest of them plus the entropy is a model of F = f + entropy. The
model's least value over the cube is found in its dual, over multipliers λ on the simplex, for planes G y + h:

    max over λ  of  D(λ) = hᵀλ − Σ_j log(1 + exp(−(Gᵀλ)_j)),    y(λ) = 1 / (1 + exp(Gᵀλ)).

Every value of D is a lower bound of F, however exact λ is. The next point is y(λ). The slope of D is the height
v = h + G y(λ) of the planes there, so that max v − λᵀv says how far D is from its largest value.

D is maximised by a primal-dual Newton method on the simplex, with one unknown for each plane, for all samples at once:
with slacks s of the planes below their maximum t, λ_i s_i = μ, and

    (G Y Gᵀ + diag(s/λ)) dλ = v + μ/λ − t,    Σ dλ = 0,    Y = diag(y (1 − y)),

which has a solution whatever planes there are, also dependent ones. A step is shortened until D + μ Σ log λ rises:
along a step Gᵀλ is linear, so that this costs no products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from convexnet.solve.functions.problem import Problem
from convexnet.solve.functions.with_entropy import entropy, lowest_point
from convexnet.solve.solvers.incumbents import Evidence, Incumbents
from convexnet.solve.solvers.loop import Offer

SHARP = 0.2
"""How exactly the model's minimum is found, as a share of the gap."""

SHARPER = 0.01
"""The factor of that share where the last plane added nothing to the model."""

MOST = 60
"""Newton steps for one model."""

HALVINGS = 30
"""How often a step is halved at most."""

FRESH = 0.1
"""The share of the multipliers that is spread over all planes when a new one has come."""

CENTRE = 0.03
"""The next μ, as a share of what the gap of the model makes it."""

FAR = 0.99
"""The share of the way to the border of the simplex that one step may go."""

APART = 1e4
"""How far λ s may be from μ, as a factor."""

LEAST = 1e-12
"""Multipliers below this are left out of the average of tangents."""

NEW = 1e-14
"""A plane that is not higher at its point than the model by this share of their size adds nothing to the model."""


@dataclass
class EntropyState:
    """The planes (B, m, n) and (B, m), the points (B, m, n) that they touch at, their multipliers (B, m), the best
    value (B,) and bound, how exactly the model is minimised, as a share of the gap, (B,), and which samples' last plane
    added nothing to a model that was minimised as exactly as rounding allows."""

    slopes: Tensor
    offsets: Tensor
    points: Tensor
    shares: Tensor
    value: Tensor
    bound: Tensor
    sharp: Tensor
    stuck: Tensor


class BundleEntropy:
    """Cutting planes of a function whose entropy is added, over the unit cube.

    The published code stops where the slopes of its planes are linearly dependent, which says nothing in fewer
    dimensions than planes, and is not optimal then. Here a sample ends where its gap is small enough, or where its new
    plane adds nothing to the model, which is so where the plane is a convex combination of others at that point.

    Args:
        keep: how many planes are kept; those with the least multipliers go. Fewer than n + 1 hold a minimum.

    Source: Amos, Xu & Kolter (2017), Input Convex Neural Networks, section 5 and algorithm 1; for the primal-dual
    steps Wächter & Biegler (2006).
    """

    name = "bundle-entropy"

    def __init__(self, keep: int = 120) -> None:
        self.keep = keep

    def begin(self, problem: Problem, found: Incumbents) -> EntropyState:
        y = found.y
        value, g = problem.f.plain.subgradient(y)
        h = value - (g * y).sum(1)
        one = torch.ones_like(value)[:, None]
        sharp = torch.full_like(value, SHARP)
        nowhere = torch.zeros_like(found.looked)
        return EntropyState(g[:, None], h[:, None], y[:, None], one, value + entropy(y), found.bound, sharp, nowhere)

    def step(self, problem: Problem, state: EntropyState) -> Offer | None:
        if bool(state.stuck.all()):
            return None
        gap = torch.where(state.bound.isfinite(), state.value - state.bound, torch.inf)
        shares = maximise_dual(state.slopes, state.offsets, state.shares, state.sharp * gap)
        shares = torch.where(shares > LEAST, shares, 0.0)
        shares = shares / shares.sum(1, keepdim=True)
        g = torch.einsum("bm,bmn->bn", shares, state.slopes)
        bound = problem.proved_minimum(g, (shares * state.offsets).sum(1))
        y = lowest_point(g)
        plain, slope = problem.f.plain.subgradient(y)
        value = plain + entropy(y)
        heights = (state.slopes @ y[:, :, None])[..., 0] + state.offsets
        size = plain.abs() + (state.slopes * y[:, None]).abs().sum(2).amax(1)
        old = plain - heights.amax(1) <= NEW * size
        state.stuck = old & (state.sharp * gap <= NEW * size)
        state.sharp = torch.where(old, SHARPER * state.sharp, SHARP)
        touched = state.points
        state.value, state.bound = torch.fmin(state.value, value), torch.fmax(state.bound, bound)
        self.add(state, shares, y, slope, plain - (slope * y).sum(1))

        def evidence(rows: Tensor) -> Evidence:
            return Evidence(points=touched[rows], shares=shares[rows])

        return Offer(y, value, bound, evidence=evidence)

    def add(self, state: EntropyState, shares: Tensor, y: Tensor, slope: Tensor, offset: Tensor) -> None:
        """Take another plane into the model; where there are too many, the one that counts least goes."""
        slopes, offsets, points = state.slopes, state.offsets, state.points
        if slopes.shape[1] >= self.keep:
            stay = shares.topk(self.keep - 1, 1).indices.sort(1).values
            wide = stay[:, :, None].expand(-1, -1, slopes.shape[2])
            slopes, points = slopes.gather(1, wide), points.gather(1, wide)
            offsets, shares = offsets.gather(1, stay), shares.gather(1, stay)
        state.slopes = torch.cat([slopes, slope[:, None]], 1)
        state.offsets = torch.cat([offsets, offset[:, None]], 1)
        state.points = torch.cat([points, y[:, None]], 1)
        state.shares = torch.cat([shares, torch.zeros_like(offset[:, None])], 1)


def maximise_dual(G: Tensor, h: Tensor, start: Tensor, allowed: Tensor) -> Tensor:
    """The multipliers λ (B, m) on the simplex that maximise D(λ), up to `allowed` of its value, (B,).

    Args:
        G, h: the planes G y + h, (B, m, n) and (B, m).
        start: multipliers to begin with, non-negative, of any positive sum.
        allowed: may be infinite: then a small share of what the planes differ by is.

    Example:
        >>> G, h = torch.tensor([[[5.0], [-5.0]]]).double(), torch.tensor([[-1.5, 1.5]]).double()  # 5 |y − 0.3|
        >>> shares = maximise_dual(G, h, torch.ones(1, 2).double(), torch.tensor([1e-12]).double())
        >>> round(float(lowest_point((shares[:, :, None] * G).sum(1))), 6)
        0.3
    """
    m = h.shape[1]
    shares = start / start.sum(1, keepdim=True)
    if m == 1:
        return shares
    shares = (1 - FRESH) * shares + FRESH / m
    slack = torch.zeros_like(shares)
    mu = shares.new_full((len(shares), 1), torch.inf)
    best, highest = shares, torch.full_like(allowed, -torch.inf)
    steep = torch.einsum("bm,bmn->bn", shares, G)
    going = torch.ones_like(allowed, dtype=torch.bool)
    for count in range(MOST):
        y = lowest_point(steep)
        heights = (G @ y[:, :, None])[..., 0] + h
        top = heights.amax(1, keepdim=True)
        low = (shares * heights).sum(1, keepdim=True)
        left = (top - low).clamp(min=0)[:, 0]
        dual = (shares * h).sum(1) + logsigmoid(steep).sum(1)
        better = dual > highest
        best = torch.where(better[:, None], shares, best)
        highest = torch.where(better, dual, highest)
        if not count:
            allowed = torch.where(allowed.isfinite(), allowed, SHARP * left)
        going = going & (left > allowed) & (left > 1e-15 * heights.abs().amax(1))
        if not bool(going.any()):
            break
        mu = torch.minimum(mu, CENTRE * left[:, None] / m).clamp(min=1e-300)
        centred = mu / shares
        if not count:
            slack = torch.maximum(top - heights, centred)
        slack = torch.minimum(torch.maximum(slack, centred / APART), centred * APART)
        weight = slack / shares
        system = (G * (y * (1 - y))[:, None]) @ G.mT
        system.diagonal(dim1=1, dim2=2).add_(weight)
        factor, _ = torch.linalg.cholesky_ex(system)
        right = torch.stack([heights - top + centred, torch.ones_like(heights)], 2)
        solved = torch.cholesky_solve(right, factor)
        step = solved[..., 0] - solved[..., 1] * (solved[..., 0].sum(1) / solved[..., 1].sum(1))[:, None]
        step = step - shares * step.sum(1, keepdim=True)  # in a system that is nearly singular it may leave Σ dλ = 0
        sound = step.isfinite().all(1)
        going = going & sound
        step = torch.where(going[:, None], step, 0.0)
        change = centred - slack - weight * step
        far = 1 / (-step / shares).amax(1).clamp(min=FAR) * FAR
        far_slack = 1 / (-change / slack).amax(1, keepdim=True).clamp(min=FAR) * FAR
        turn = torch.einsum("bm,bmn->bn", step, G)
        length = search_line(h, shares, steep, step, turn, mu, far.clamp(max=1))
        shares = shares + length[:, None] * step
        shares = shares / shares.sum(1, keepdim=True)
        steep = torch.einsum("bm,bmn->bn", shares, G)
        slack = torch.where(going[:, None], slack + far_slack.clamp(max=1) * change, slack)
    return best


def search_line(
    h: Tensor, shares: Tensor, steep: Tensor, step: Tensor, turn: Tensor, mu: Tensor, length: Tensor
) -> Tensor:
    """How much of a step to take, (B,): `length`, or half of it so often that D + μ Σ log λ does not fall.

    Args:
        h: the offsets of the planes, (B, m).
        shares, steep: λ (B, m) and Gᵀλ (B, n).
        step, turn: their changes.
        mu: (B, 1).
        length: the longest, (B,).
    """
    rise = (step * h).sum(1)

    def merit(length: Tensor) -> Tensor:
        at = length[:, None]
        return length * rise + logsigmoid(steep + at * turn).sum(1) + (mu * (shares + at * step).log()).sum(1)

    before = merit(torch.zeros_like(length))
    room = 1e-14 * (before.abs() + rise.abs())
    for _ in range(HALVINGS):
        falls = ~(merit(length) >= before - room)
        if not bool(falls.any()):
            break
        length = torch.where(falls, 0.5 * length, length)
    return length
