"""A function of kinks for one sample, as matrices of numpy, and the lower bound that multipliers prove.

The bound. Every W between atoms, and what scales it, is non-negative, so that what arrives at an atom is a sum of
non-negative products, and right up to a share γ of itself. Multipliers that keep away from the ends of their range by
that share are therefore within it in real arithmetic: no error of an argument enters, and what is left is the rounding
of g and b of the affine function g y + b. (Higham, Accuracy and Stability of Numerical Algorithms, 3.1.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

UNIT = 2.0**-53
TINY = 1e-290
"""More than what all products lose that are too small for float64."""


@dataclass
class Bound:
    """A term for one sample.

    Attributes:
        source: as that of `Term`.
        matrix: W, (h, d).
        before, after: d and r; None: ones.
        spread: the Euclidean lengths of the columns of W.
        roundings: of the products that `before` and `after` are.
    """

    source: int
    matrix: Array
    before: Array | None
    after: Array | None
    spread: Array
    roundings: int = 0

    def __call__(self, x: Array) -> Array:
        """(d,) -> (h,), or of columns (d, P)."""
        if self.before is not None:
            x = self.before * x if x.ndim == 1 else self.before[:, None] * x
        out = self.matrix @ x
        if self.after is None:
            return out
        return self.after * out if out.ndim == 1 else self.after[:, None] * out

    def back(self, v: Array) -> Array:
        """(h,) -> (d,)."""
        out = (v if self.after is None else self.after * v) @ self.matrix
        return out if self.before is None else self.before * out

    def rows(self, index: Places) -> Array:
        """The rows with these numbers, (K, d), as one matrix."""
        rows = self.matrix[index]
        if self.before is not None:
            rows = rows * self.before
        return rows if self.after is None else rows * self.after[index, None]

    @property
    def whole(self) -> Array:
        """All rows."""
        rows = self.matrix if self.before is None else self.matrix * self.before
        return rows if self.after is None else rows * self.after[:, None]


@dataclass
class Layer:
    """An affine combination for one sample: its terms, the constants c and what their sizes add up to."""

    terms: list[Bound]
    constant: Array
    size: Array

    def __call__(self, y: Array, results: Sequence[Array]) -> Array:
        """a at y (n,), or of columns (n, P)."""
        total = self.constant if y.ndim == 1 else self.constant[:, None]
        for term in self.terms:
            total = total + term(y if term.source == 0 else results[term.source - 1])
        return total


@dataclass
class Sample:
    """The function of one sample: layers of kinks, and last the output.

    Attributes:
        layers: of every atom.
        output: of one entry.
        slopes: s_k of each kink; least: the least share of what arrives that a multiplier may be.
    """

    size: int
    layers: list[Layer]
    output: Layer
    slopes: list[Array]
    least: list[Array]
    kept: dict[Any, Any] = field(default_factory=dict[Any, Any])

    def arguments(self, y: Array) -> tuple[list[Array], Array]:
        """All a_k at y (n,) or columns (n, P), and the value."""
        found: list[Array] = []
        results: list[Array] = []
        for layer, slope in zip(self.layers, self.slopes, strict=True):
            a = layer(y, results)
            found.append(a)
            results.append(np.maximum((slope if a.ndim == 1 else slope[:, None]) * a, a))
        return found, self.output(y, results)[0]

    def pull(self, choose: Callable[[int, Array], Array]) -> tuple[list[Array], list[Array], Array]:
        """Multipliers of all arguments, by choose(k, what arrives at the results); what arrives; and g."""
        arrives: list[Any] = [None] * len(self.layers)
        g = np.zeros(self.size)
        one = np.ones(1)
        chosen: list[Array] = []

        def send(layer: Layer, multiplier: Array) -> None:
            nonlocal g
            for term in layer.terms:
                part = term.back(multiplier)
                if term.source == 0:
                    g = g + part
                else:
                    before = arrives[term.source - 1]
                    arrives[term.source - 1] = part if before is None else before + part

        send(self.output, one)
        for k in reversed(range(len(self.layers))):
            if arrives[k] is None:
                arrives[k] = np.zeros(len(self.layers[k].constant))
            multiplier = choose(k, arrives[k])
            chosen.insert(0, multiplier)
            send(self.layers[k], multiplier)
        return chosen, arrives, g

    def prove(self, slopes: Sequence[Array], lo: Array, hi: Array) -> tuple[float, float, list[Array], Array]:
        """The lower bound over lo <= y <= hi that slopes in [0, 1] prove, and what rounding took off it; the
        multipliers and g.

        Args:
            slopes: for each kink, of its part above s a: the multiplier is (s + (1 − s) slope) times what arrives.
        """
        gamma = self.gamma

        def choose(k: int, v: Array) -> Array:
            s = self.slopes[k]
            share = slopes[k] if self.plain[k] else s + (1 - s) * slopes[k]
            least = self.least[k]
            low = least + 2 * gamma * np.abs(least)
            return np.minimum(np.maximum(share, low), 1 - 2 * gamma) * v

        chosen, _, g = self.pull(choose)
        level, size = self.output.constant[0], self.output.size[0]
        slack = np.zeros(self.size)
        for layer, multiplier in [*zip(self.layers, chosen, strict=True), (self.output, np.ones(1))]:
            if layer is not self.output:
                level = level + multiplier @ layer.constant
                size = size + np.abs(multiplier) @ layer.size
            for term in layer.terms:
                if term.source == 0:
                    scaled = multiplier if term.after is None else term.after * multiplier
                    part = term.spread * np.sqrt(scaled @ scaled)
                    slack += part if term.before is None else np.abs(term.before) * part
        far = np.maximum(np.abs(lo), np.abs(hi))
        ends = np.minimum(g * lo, g * hi)
        lost = gamma * (size + np.abs(g) @ far + abs(level) + 1.01 * (slack @ far)) + TINY
        lost *= 1 + 1e-6
        bound = float(level + ends.sum())
        return bound - float(lost), float(lost), chosen, g

    def lines(self, shares: Sequence[Array], wanted: Sequence[Places]) -> list[Array]:
        """The arguments with these numbers as affine functions of y, where results are arguments times `shares`: their
        slopes and, last, their constants, (K, n + 1) for each atom."""
        whole: list[Array | None] = []
        found: list[Array] = []
        for k, layer in enumerate(self.layers):
            above = any(term.source == k + 1 for later in self.layers[k + 1 :] for term in later.terms)
            plain = all(term.source == 0 for term in layer.terms)
            rows: Array | None = self.kept.get(("lines", k)) if plain else None
            if rows is None:
                index = None if above or plain else wanted[k]
                rows = np.zeros((len(layer.constant) if index is None else len(index), self.size + 1))
                rows[:, -1] = layer.constant if index is None else layer.constant[index]
                for term in layer.terms:
                    part = term.whole if index is None else term.rows(index)
                    if term.source == 0:
                        rows[:, :-1] += part
                    else:
                        below = whole[term.source - 1]
                        assert below is not None
                        rows += (part * shares[term.source - 1]) @ below
                if plain:
                    self.kept["lines", k] = rows
            whole.append(rows if above else None)
            found.append(rows[wanted[k]] if above or plain else rows)
        return found

    @property
    def gamma(self) -> float:
        """The share of a sum of products that all its roundings may take, whatever order they are made in."""
        if "gamma" not in self.kept:
            terms = [term for layer in [*self.layers, self.output] for term in layer.terms]
            longest = max((max(term.matrix.shape) for term in terms), default=1)
            roundings = max((term.roundings for term in terms), default=0)
            self.kept["gamma"] = 1.01 * UNIT * (longest * max(1, len(terms)) + 4 * (roundings + len(terms)) + 32)
        return self.kept["gamma"]

    @property
    def plain(self) -> list[bool]:
        """Which atoms are ReLUs."""
        if "plain" not in self.kept:
            self.kept["plain"] = [not slope.any() for slope in self.slopes]
        return self.kept["plain"]
