"""Whether a function falls without end on a region."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convexnet.domains import Region
from convexnet.domains.nearest import Array, Empty, Polytope
from convexnet.form.epigraph import EpigraphForm
from convexnet.solve.solvers.incumbents import sign_patterns

INWARDS = 1e-7
"""How far a direction is moved into the cone of those without an end, so that rounding leaves it in there."""


def recedes(f: Any, region: Region, lo: Tensor, hi: Tensor, slope: Tensor) -> Tensor:
    """For which samples (R,) it is proved that f has no least value: f is piecewise linear, and its recession function
    (f without its constants) is negative in a direction in which the region has no end.

    Args:
        f: the functions of the samples.
        region: its rows and balls; the rows' right sides do not matter.
        lo, hi: bounds (R, n).
        slope: of f at some point of each sample, (R, n): what falls along −slope is looked at first.
    """
    endless = torch.zeros(len(lo), dtype=torch.bool, device=lo.device)
    if not isinstance(f, EpigraphForm) or not f.piecewise_linear:
        return endless
    far = replace(f, constants=tuple(torch.zeros_like(c) for c in f.constants), constant=torch.zeros_like(f.constant))
    size = sum((m.abs().sum(1) for m in [f.linear, *f.weights.values()]), torch.zeros_like(f.constant))
    wishes = [-slope, *sign_patterns(lo.shape[1], slope)[:, None].expand(-1, len(lo), -1)]
    ways = [torch.zeros_like(lo) for _ in wishes]
    for i in range(len(lo)):
        cone = cone_of(region, lo[i], hi[i])
        try:
            middle, _ = cone.widest()
            for way, wish in zip(ways, wishes, strict=True):
                goal = wish[i].cpu().numpy()
                way[i] = torch.from_numpy(direction(cone, goal, middle)).to(way)
        except Empty:
            continue
    for way in ways:
        endless |= far.value(way) < -1e-9 * size * way.abs().amax(1)
    return endless


def cone_of(region: Region, lo: Tensor, hi: Tensor) -> Polytope:
    """The directions in which a region has no end, as rows."""
    n = len(lo)
    held = (lo.isfinite() & hi.isfinite()).cpu().numpy()
    for ball in region.balls:
        held[ball.start : ball.stop] = True
    down, up = lo.isfinite().cpu().numpy() & ~held, hi.isfinite().cpu().numpy() & ~held
    eye, nothing = np.eye(n), np.zeros((0, n))
    equal = np.concatenate([nothing, *(rows.matrix.detach().cpu().numpy() for rows in region.equal), eye[held]])
    below = np.concatenate(
        [nothing, *(rows.matrix.detach().cpu().numpy() for rows in region.below), eye[up], -eye[down]]
    )
    return Polytope(equal, np.zeros(len(equal)), below, np.zeros(len(below)))


def direction(cone: Polytope, wish: Array, middle: Array) -> Array:
    """A direction near to a wish that is in the cone, checked in exact numbers; zeros where there is none."""
    way, _ = cone.nearest(wish / max(1e-300, float(np.abs(wish).max(initial=0.0))))
    for share in (0.0, INWARDS):
        near = way + share * middle
        near[np.abs(near) <= 1e-13 * float(np.abs(near).max(initial=0.0))] = 0.0
        if is_in(cone, near):
            return near
    return np.zeros_like(way)


def is_in(cone: Polytope, way: Array) -> bool:
    """Whether a direction meets the rows of a cone, in exact numbers.

    Example:
        >>> half = Polytope(np.zeros((0, 2)), np.zeros(0), np.array([[0.1, -0.3]]), np.zeros(1))
        >>> is_in(half, np.array([3.0, 1.0])), is_in(half, np.array([2.9, 1.0]))
        (False, True)
    """
    exact = [Fraction(float(part)) for part in way]

    def along(row: Array) -> Fraction:
        return sum((Fraction(float(a)) * part for a, part in zip(row, exact, strict=True) if a and part), Fraction(0))

    return all(along(row) == 0 for row in cone.equal) and all(along(row) <= 0 for row in cone.below)
