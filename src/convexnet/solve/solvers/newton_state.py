"""The iterates of path following: their scales, their precision, and how far they move."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from convexnet.form.epigraph import EpigraphForm

START = 0.1
"""The first mu, in units of what typically arrives at an atom."""

MARGIN = 0.05
"""How near to a bound one step may come: a share of the distance to it."""

MULTIPLIER_MARGIN = 0.1
"""The same for the multipliers of the bounds."""

PATIENCE = 5
"""How many steps a sample may take without a gap that is a tenth smaller, before it is taken back to the best point."""

ASTRAY = 30.0
"""It is taken back at once after two such steps if the present gap is so many times the best."""

CLOSE, CAREFUL = 5.0, 0.6
"""How near to the path a sample that was taken back must be before mu falls; by how much less it falls each time."""

BACK = 4.0
"""The factor by which mu is larger each time a sample is taken back."""

FINE = 3e-5
"""The relative gap up to which float32 is of use."""

LONG = 20
"""Steps in float32 before float64 takes over anyway."""

NEAR = 2.0
"""Up to this decrement a full step is taken without a search."""

TRUST = 30.0
"""Multipliers of the bounds stay within this factor of what they are on the path."""


@dataclass
class NewtonState:
    """The iterates of the samples that are still active, on the cube [-1, 1]^n; a side without an end is infinite."""

    exact: EpigraphForm  # in float64
    form: EpigraphForm  # in the precision at work
    middle: Tensor
    radius: Tensor
    strong: Tensor | None
    weight: Tensor  # (B, 1) of one unit in f
    size: Tensor  # (B,) by which f was divided
    below: Tensor
    above: Tensor
    centre: Tensor
    y: Tensor
    mu: Tensor  # (B, 1)
    slopes: list[Tensor]
    upper: Tensor  # multipliers of the bounds
    lower: Tensor
    point: Tensor  # the best so far, its value, and the best bound, in the precision at work
    value: Tensor
    bound: Tensor
    best: Tensor  # the least gap, and for how many steps there was no much smaller one
    waited: Tensor
    lost: Tensor  # how often it was taken back to the best point
    ahead: Ahead | None = None
    steps: int = 0


@dataclass
class Smoothed:
    """The smoothed function at a point."""

    value: Tensor
    arguments: list[Tensor]
    slopes: list[Tensor]
    curved: list[Tensor]
    arriving: list[Tensor]
    multipliers: dict[int, Tensor]
    gradient: Tensor  # of the function without the barrier


@dataclass
class Ahead:
    """A step that is computed and not yet taken."""

    at: Smoothed
    step: Tensor
    changes: list[Tensor]
    gradient: Tensor
    decrement: Tensor
    gap: Tensor  # that the step offered


# --- scales and steps ------------------------------------------------------------------------------------------------


def smoothing_weight(form: EpigraphForm) -> Tensor:
    """What one unit of an atom weighs in f, (B, 1): the mean of what arrives at the atoms for slopes of one half."""
    chosen: dict[int, Tensor] = {}
    sizes: list[Tensor] = []
    for k in reversed(range(len(form.atoms))):
        arriving = form.arriving(k, chosen)
        sizes.append(arriving.mean(1, keepdim=True))
        chosen[k] = form.atoms[k].pull(torch.full_like(form.constants[k], 0.5 / form.atoms[k].group), arriving)
    weight = torch.stack(sizes).mean(0) if sizes else torch.zeros_like(form.linear[:, :1])
    slope = form.linear.abs().mean(1, keepdim=True)
    return torch.where(weight > 0, weight, torch.where(slope > 0, slope, 1.0))


def step_inside(y: Tensor, step: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """y + step, coordinate by coordinate no nearer to a bound than a share of the distance to it."""
    far = 1 - MARGIN
    return torch.minimum(torch.maximum(y + step, y + far * (below - y)), y + far * (above - y))


def is_near(multiplier: Tensor, on_path: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(multiplier, on_path / TRUST), on_path * TRUST)


def next_mu(mu: Tensor, share: Tensor, decrement: Tensor, length: Tensor, lost: Tensor, n: int) -> Tensor:
    """mu follows the certified gap (its share of a coordinate): fast after a full step near the path, else slowly.

    A sample that got lost before goes more carefully each time: nearer to the path, and in smaller steps of mu.
    """
    fast = torch.minimum(0.5 * mu, torch.maximum(0.3 * share, 0.01 * mu))
    slow = torch.where(length > 0.9, 0.7 * mu, torch.where(length > 0.5, 0.8 * mu, mu))
    close = (length > 0.9) & (decrement < torch.where(lost > 0, CLOSE, 5 * n**0.5 + 5))
    careful = (1 - CAREFUL ** lost.to(mu)) * mu
    slow = torch.where(lost > 0, mu, slow)
    return torch.minimum(mu, torch.maximum(torch.where(close, torch.maximum(fast, careful), slow), 0.003 * share))


# --- precision -------------------------------------------------------------------------------------------------------


def float32_is_spent(state: NewtonState) -> bool:
    """Whether float32 has given what it can: half of the gaps are small, or many steps did not help."""
    if not math.isfinite(float(state.best.max())):
        return state.steps >= LONG
    size = torch.maximum(state.value.abs(), state.centre - state.value)
    small = (state.value - state.bound) <= FINE * size
    return state.steps >= LONG or 2 * int(small.sum()) >= len(small)


def to_float64(state: NewtonState) -> None:
    """Go on in float64."""
    for field in fields(state):
        value = getattr(state, field.name)
        if isinstance(value, Tensor) and value.is_floating_point():
            setattr(state, field.name, value.double())
    state.slopes = [slope.double() for slope in state.slopes]
    state.form = state.exact
    state.ahead = None
    state.value = torch.full_like(state.value, torch.inf)
    state.bound = -state.value


def least_distance(y: Tensor) -> float:
    """How near to the ends of its range a slope may come."""
    return 1e-7 if y.dtype == torch.float32 else 1e-14


def noise(value: Tensor) -> Tensor:
    """What the value of a function is uncertain by."""
    return 1e-14 + (1e-6 if value.dtype == torch.float32 else 0.0) * value.abs()
