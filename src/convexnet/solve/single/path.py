"""Path following for one sample in numpy: the method of `convexnet.solve.solvers.newton`, one Newton system a step.

Kinks are smoothed by mu, the box has a logarithmic barrier, the results of the kinks are eliminated, and the slopes are
iterates of their own; see there. What differs is what a step costs: some sixty calls of BLAS, and no batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from convexnet.solve.single.sample import Array, Bound, Layer, Sample

START = 0.3
"""The first mu, in units of typical arguments."""

STEPS = 50
"""Steps after which the sample is left to other solvers."""

DROP, LONG = 0.05, 25
"""Rows of the Hessian that weigh less than this share of the n-th heaviest are left out, in so many steps."""

MARGIN = 0.05
"""How near to a bound one step may come, as a share of the distance to it."""

QUICK = 0.1
"""The same for slopes and multipliers of bounds."""

TRUST = 30.0
"""Multipliers of bounds stay within this factor of what they are on the path."""

LEAST = 1e-14
"""How near to 0 and 1 a slope may come."""


@dataclass
class Path:
    """What path following found: y (n,) on the cube, its value, the bound, slopes in [0, 1] that give it, the steps."""

    y: Array
    value: float
    bound: float
    slopes: list[Array]
    steps: int


def on_cube(sample: Sample, middle: Array, radius: Array) -> Sample:
    """The same function of t, y = middle + radius t."""

    def moved(layer: Layer) -> Layer:
        terms: list[Bound] = []
        constant = layer.constant
        for term in layer.terms:
            if term.source == 0:
                constant = constant + term(middle)
                before = radius if term.before is None else term.before * radius
                terms.append(Bound(0, term.matrix, before, term.after, term.spread))
            else:
                terms.append(term)
        return Layer(terms, constant, layer.size)

    return Sample(
        sample.size, [moved(layer) for layer in sample.layers], moved(sample.output), sample.slopes, sample.least
    )


def typical_arguments(cube: Sample, points: int = 8) -> list[Array]:
    """The mean sizes of all arguments at a few points of the cube: the units that they are smoothed in."""
    y = np.random.default_rng(0).uniform(-1, 1, (cube.size, points))
    found = [np.abs(a).mean(1) for a in cube.arguments(y)[0]]
    return [np.where(unit > 0, unit, 1.0) for unit in found]


def follow_path(
    cube: Sample, units: list[Array], y: Array, mu: float, enough: Callable[[Array, float, float], bool]
) -> Path | None:
    """Follow the path from y, until `enough(best point, value, bound)`; None: it got lost.

    Example:
        >>> one = np.ones((1, 1))
        >>> layer = Layer([Bound(0, one, None, None, one[0])], np.array([-0.25]), np.ones(1))  # t - 1/4
        >>> output = Layer([Bound(1, one, None, None, one[0])], np.zeros(1), np.zeros(1))
        >>> distance = Sample(1, [layer], output, [np.array([-1.0])], [np.array([-1.0])])
        >>> found = follow_path(distance, [one[0]], np.zeros(1), 0.3, lambda y, value, bound: value - bound < 1e-6)
        >>> bool(abs(found.y[0] - 0.25) < 1e-6), bool(found.bound <= 0 <= found.value)
        (True, True)
    """
    n, layers = cube.size, cube.layers
    count = len(layers)
    lo, hi = -np.ones(n), np.ones(n)
    free = [1 - slope for slope in cube.slopes]
    half = cube.pull(lambda k, v: (cube.slopes[k] + 0.5 * free[k]) * v)
    weight = float(np.mean([np.mean(v * unit) for v, unit in zip(half[1], units, strict=True)]))
    weight = weight if weight > 0 else float(np.abs(half[2]).mean()) or 1.0
    slopes: list[Array] = []
    upper = lower = np.zeros(n)
    best, value, bound, kept = y, np.inf, -np.inf, [np.full(len(u), 0.5) for u in units]
    length = 1.0
    for step in range(1, STEPS + 1):
        tau = mu * weight
        a, z, r2, fresh = smoothed(cube, units, y, mu)
        multipliers, arriving, g = cube.pull(lambda k, v: (cube.slopes[k] + free[k] * fresh[k]) * v)  # noqa: B023
        right, left = 1 / (1 - y), 1 / (1 + y)
        g = g + tau * (right - left)
        if not slopes:
            slopes, upper, lower = fresh, tau * right, tau * left
        upper = between(upper, tau * right / TRUST, tau * right * TRUST)
        lower = between(lower, tau * left / TRUST, tau * left * TRUST)
        curved = [np.maximum(zk - ak * sk, 0) / rk for zk, ak, sk, rk in zip(z, a, slopes, r2, strict=True)]
        heavy = [vk * fk * dk for vk, fk, dk in zip(arriving, free, curved, strict=True)]
        flat = np.concatenate(heavy)
        few = min(max(n, 8), len(flat) - 1)
        least = DROP * np.partition(flat, -few)[-few] if step < LONG and few > 0 else 0.0
        picked = [np.flatnonzero(part > least) for part in heavy]
        shares = [s + f * each for s, f, each in zip(cube.slopes, free, slopes, strict=True)]
        hessian = np.zeros((n, n))
        for lines, index, part in zip(cube.lines(shares, picked), picked, heavy, strict=True):
            rows = lines[:, :-1]
            hessian += (rows.T * part[index]) @ rows
        diagonal = np.arange(n)
        hessian[diagonal, diagonal] += upper * right + lower * left
        hessian[diagonal, diagonal] *= 1 + 1e-12
        try:
            move = np.asarray(-np.linalg.solve(hessian, g), np.float64)
        except np.linalg.LinAlgError:
            return None
        if not np.isfinite(move).all():
            return None
        # what the multipliers are after the step, clipped to what makes an affine function below f
        change: list[Array] = []
        along: list[Array] = []
        for k, layer in enumerate(layers):
            total = np.zeros(len(layer.constant))
            for term in layer.terms:
                total += term(move if term.source == 0 else along[term.source - 1])
            along.append(shares[k] * total)
            part = np.zeros_like(total)
            part[picked[k]] = curved[k][picked[k]] * total[picked[k]]
            change.append(part)

        def predicted(k: int, v: Array) -> Array:
            wanted = multipliers[k] + free[k] * arriving[k] * change[k] + shares[k] * (v - arriving[k])  # noqa: B023
            return np.minimum(np.maximum(wanted, cube.least[k] * v), v)

        chosen, there, steep = cube.pull(predicted)
        here = float(cube.output.constant[0] - np.abs(steep).sum())
        here += sum(float(multiplier @ layer.constant) for multiplier, layer in zip(chosen, layers, strict=True))
        if here > bound:
            bound = here
            kept = [
                (m / np.where(v > 0, v, 1.0) - s) / f
                for m, v, s, f in zip(chosen, there, cube.slopes, free, strict=True)
            ]
        point = between(y + move, lo, hi)
        now = float(cube.arguments(point)[1])
        if now < value:
            value, best = now, point
        if enough(best, value, bound):
            return Path(best, value, bound, kept, step)
        decrement, length = -float(g @ move) / tau, 1.0
        if decrement > 2:
            before = barrier_value(cube, units, y, mu, tau)
            for _ in range(6):
                trial = stepped(y, length * move)
                after = barrier_value(cube, units, trial, mu, tau)
                if after <= before + 1e-4 * min(0.0, float(g @ (trial - y))) + 1e-14 * (1 + abs(before)):
                    break
                length *= 0.5
        slopes = [
            between(between(old + length * (new + part - old), QUICK * old, 1 - QUICK * (1 - old)), LEAST, 1 - LEAST)
            for old, new, part in zip(slopes, fresh, change, strict=True)
        ]
        upper = np.maximum(upper + length * (tau * right + upper * right * move - upper), QUICK * upper)
        lower = np.maximum(lower + length * (tau * left - lower * left * move - lower), QUICK * lower)
        y = stepped(y, length * move)
        part = (value - bound) / (weight * max(n, 8))
        fast = min(0.5 * mu, max(0.3 * part, 0.01 * mu))
        close = length > 0.9 and decrement < 5 * n**0.5 + 5
        slow = fast if close else 0.7 * mu if length > 0.9 else 0.8 * mu if length > 0.5 else mu
        mu = min(mu, max(slow, 0.003 * part))
    return None if count else Path(best, value, bound, kept, STEPS)


def between(x: Array, low: Array | float, high: Array | float) -> Array:
    """x within bounds; `np.clip` takes five times as long for few numbers."""
    return np.minimum(np.maximum(x, low), high)


def stepped(y: Array, move: Array) -> Array:
    """y + move, coordinate by coordinate no nearer to a bound than a share of the distance to it."""
    return between(y + move, -1 + MARGIN * (1 + y), 1 - MARGIN * (1 - y))


def smoothed(
    cube: Sample, units: list[Array], y: Array, mu: float
) -> tuple[list[Array], list[Array], list[Array], list[Array]]:
    """Arguments, results of the smoothed ReLU parts, a² + 4 mu², and their slopes."""
    arguments: list[Array] = []
    parts: list[Array] = []
    squares: list[Array] = []
    slopes: list[Array] = []
    results: list[Array] = []
    for k, layer in enumerate(cube.layers):
        a = layer(y, results)
        square = a * a + (4 * mu * mu) * units[k] ** 2
        root = np.sqrt(square)
        z = 0.5 * (a + root)
        arguments.append(a)
        parts.append(z)
        squares.append(square)
        slopes.append(z / root)
        results.append(z if cube.plain[k] else cube.slopes[k] * a + (1 - cube.slopes[k]) * z)
    return arguments, parts, squares, slopes


def barrier_value(cube: Sample, units: list[Array], y: Array, mu: float, tau: float) -> float:
    """The smoothed function with its barrier."""
    a, z, _, _ = smoothed(cube, units, y, mu)
    results = [
        zk if plain else s * ak + (1 - s) * zk for ak, zk, s, plain in zip(a, z, cube.slopes, cube.plain, strict=True)
    ]
    return float(cube.output(y, results)[0] - tau * np.log1p(-y * y).sum())
