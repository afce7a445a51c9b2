"""A vertex: where as many kinks and bounds meet as there are variables, by one linear system, with its multipliers.

Which kinks and bounds hold a minimiser rarely changes from one sample to one nearby. Where it does not, the vertex of
the same kinks is the minimiser, and the multipliers of the transposed system prove it; where it does, they do not, and
a few exchanges are tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from convexnet.solve.single.sample import Array, Places, Sample

Flags = npt.NDArray[np.bool_]

EXCHANGES = 6
"""How often a kink or bound that holds a vertex is exchanged for another."""


@dataclass(frozen=True)
class Basis:
    """What holds a vertex.

    Attributes:
        kinks: for each atom the numbers of the kinks that hold it.
        rising: for each atom which of the others are on their steep side.
        lower, upper: which coordinates are at a bound, (n,).
    """

    kinks: tuple[Places, ...]
    rising: tuple[Flags, ...]
    lower: Flags
    upper: Flags


@dataclass(frozen=True)
class Vertex:
    """A vertex y (n,), the slopes of all kinks there, in [0, 1] if it is a minimiser, and g."""

    y: Array
    slopes: list[Array]
    gradient: Array


def basis_near(sample: Sample, y: Array, slopes: Sequence[Array], lo: Array, hi: Array, scale: float) -> Basis | None:
    """What seems to hold a minimiser near y (n,) with these slopes: of all kinks and bounds, as many as there are
    variables, those whose multipliers are further from the ends of their range than they are away. None: too few.

    Args:
        scale: what f typically rises by over the box.
    """
    arguments, _ = sample.arguments(y)
    side = hi - lo
    free = [1 - s for s in sample.slopes]
    _, _, g = sample.pull(lambda k, v: (sample.slopes[k] + free[k] * slopes[k]) * v)
    near = np.minimum(y - lo, hi - y) / side
    edge = np.minimum(0.5, np.abs(g) * side / max(scale, 1e-300)) - 2 * near
    inward = np.where(y - lo < hi - y, g, -g)
    edge = np.where(inward > 0, edge, -1.0)
    scores = [
        np.minimum(slope, 1 - slope) - np.abs(a) / max(float(np.abs(a).mean()), 1e-300)
        for a, slope in zip(arguments, slopes, strict=True)
    ]
    flat = np.concatenate([*scores, edge])
    n = sample.size
    chosen = np.argpartition(-flat, n - 1)[:n]
    if flat[chosen].min() <= -0.5:
        return None
    kinks: list[Places] = []
    start = 0
    for a in arguments:
        kinks.append(np.sort(chosen[(chosen >= start) & (chosen < start + len(a))] - start))
        start += len(a)
    held = np.zeros(n, dtype=bool)
    held[chosen[chosen >= start] - start] = True
    below = y - lo < hi - y
    return cleared(Basis(tuple(kinks), tuple(a > 0 for a in arguments), held & below, held & ~below))


def cleared(basis: Basis) -> Basis:
    """With kinks that hold on neither side."""
    rising = [part.copy() for part in basis.rising]
    for part, index in zip(rising, basis.kinks, strict=True):
        part[index] = False
    return replace(basis, rising=tuple(rising))


def solve_vertex(sample: Sample, basis: Basis, lo: Array, hi: Array) -> Vertex | None:
    """The vertex that a basis holds; None: its system is singular.

    Example:
        >>> from convexnet.solve.single.sample import Bound, Layer
        >>> one = np.ones((1, 1))
        >>> layer = Layer([Bound(0, one, None, None, one[0])], np.array([-0.25]), np.ones(1))  # y - 1/4
        >>> output = Layer([Bound(1, one, None, None, one[0])], np.zeros(1), np.zeros(1))
        >>> distance = Sample(1, [layer], output, [np.array([-1.0])], [np.array([-1.0])])
        >>> neither = np.zeros(1, dtype=bool)
        >>> basis = Basis((np.zeros(1, dtype=int),), (neither,), neither, neither)
        >>> found = solve_vertex(distance, basis, -one[0], one[0])
        >>> found.y.tolist(), found.slopes[0].tolist()
        ([0.25], [0.5])
    """
    shares = [
        np.where(rising, 1.0, slope) if not plain else rising.astype(float)
        for slope, rising, plain in zip(sample.slopes, basis.rising, sample.plain, strict=True)
    ]
    for share, index in zip(shares, basis.kinks, strict=True):
        share[index] = 0.0  # the result is zero there, whatever its slope
    lines = np.concatenate(sample.lines(shares, basis.kinks))
    free = ~(basis.lower | basis.upper)
    y = np.where(basis.lower, lo, np.where(basis.upper, hi, 0.0))
    system = lines[:, :-1][:, free]
    if system.shape[0] != system.shape[1]:
        return None
    _, arriving, g = sample.pull(lambda k, v: shares[k] * v)
    try:
        if len(system):
            y[free] = np.linalg.solve(system, -(lines[:, -1] + lines[:, :-1] @ y))
            forces = np.linalg.solve(system.T, -g[free])
        else:
            forces = np.zeros(0)
    except np.linalg.LinAlgError:
        return None
    slopes = [rising.astype(float) for rising in basis.rising]
    pulled: list[Array | None] = [None] * len(arriving)
    start = len(forces)
    for k in reversed(range(len(sample.layers))):
        index = basis.kinks[k]
        force = forces[start - len(index) : start]
        start -= len(index)
        extra = pulled[k]
        v = arriving[k] if extra is None else arriving[k] + extra
        if len(index):
            s, top = sample.slopes[k][index], v[index]
            slopes[k][index] = (force / np.where(top > 0, top, 1.0) - s) / (1 - s)
        inner = any(term.source > 0 for term in sample.layers[k].terms)
        if inner and (len(index) or extra is not None):
            change = np.zeros(len(v)) if extra is None else shares[k] * extra
            change[index] = force
            few = index if extra is None else None
            for term in sample.layers[k].terms:
                if term.source > 0:
                    part = term.back(change) if few is None else change[few] @ term.rows(few)
                    old = pulled[term.source - 1]
                    pulled[term.source - 1] = part if old is None else old + part
    return Vertex(y, slopes, g + lines[:, :-1].T @ forces)


def exchanged(sample: Sample, basis: Basis, found: Vertex) -> Basis | None:
    """A basis nearby: the kink whose slope is furthest out of its range leaves for the one that the vertex is furthest
    beyond. None: there is no such pair."""
    out = [np.maximum(-slope[index], slope[index] - 1) for slope, index in zip(found.slopes, basis.kinks, strict=True)]
    arguments, _ = sample.arguments(found.y)
    beyond = [np.where((a > 0) != rising, np.abs(a), 0.0) for a, rising in zip(arguments, basis.rising, strict=True)]
    for part, index in zip(beyond, basis.kinks, strict=True):
        part[index] = 0.0
    worst = [(float(part.max()) if len(part) else 0.0, k) for k, part in enumerate(beyond)]
    leaving = [(float(part.max()) if len(part) else -1.0, k) for k, part in enumerate(out)]
    enter, leave = max(worst), max(leaving)
    if enter[0] <= 0 or leave[0] <= 0:
        return None
    kinks = [index.copy() for index in basis.kinks]
    rising = [part.copy() for part in basis.rising]
    k, place = leave[1], int(np.argmax(out[leave[1]]))
    gone = kinks[k][place]
    rising[k][gone] = found.slopes[k][gone] > 1
    kinks[k] = np.delete(kinks[k], place)
    j = enter[1]
    kinks[j] = np.sort(np.append(kinks[j], int(np.argmax(beyond[j]))))
    return cleared(replace(basis, kinks=tuple(kinks), rising=tuple(rising)))
