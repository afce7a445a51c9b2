"""The nearest point of a polyhedron, its widest ball and its box, for one sample, in numpy.

The quadratic program min ½ ‖y − v‖² over rows is solved by its dual: rows that are violated most come in one after the
other, rows whose multiplier would turn negative leave, and the point is at every step the nearest one of those that
meet the rows inside. It ends at the solution, or at rows that no point meets. Linear programs over the same rows are a
few such projections: with c the direction to go in, y ← nearest point to y + t c stays where it is exactly at an
optimum, which it reaches after finitely many steps.

Source: Goldfarb & Idnani (1983), "A numerically stable dual method for solving strictly convex quadratic programs", for
    the first; Ferris (1991), "Finite termination of the proximal point algorithm", for the second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EXACT = 1e-13
"""A row counts as met up to this share of its size: of its coefficients times the point, and of its right side."""

DEPENDENT = 1e-9
"""A row whose normal is a combination of others up to this share of its length adds nothing to them."""

FAR = 1e12
"""A linear program whose point has gone this many times the size of the rows away has no end."""


LOOSE = 1e-6
"""By which share of their size the sides of the box of a polytope are moved outwards: see there."""


class Empty(Exception):
    """No point meets the rows.

    Attributes:
        rows: the numbers of those that conflict; equal ones are counted first.
    """

    def __init__(self, rows: list[int]) -> None:
        super().__init__(f"no point meets rows {rows}")
        self.rows = rows


@dataclass(frozen=True)
class Polytope:
    """Points with `equal @ y == e` and `below @ y <= b`, for one sample.

    Attributes:
        equal, e: (k, n) and (k,).
        below, b: (m, n) and (m,), all finite.
    """

    equal: Array
    e: Array
    below: Array
    b: Array

    @property
    def size(self) -> int:
        """n."""
        return self.below.shape[1]

    def excess(self, y: Array) -> tuple[Array, Array]:
        """How far each row is from being met, in lengths (equal rows with a sign), and what rounding makes of that.

        Example:
            >>> ones = np.ones((1, 2))
            >>> Polytope(np.zeros((0, 2)), np.zeros(0), ones, np.ones(1)).excess(np.ones(2))[0].round(3).tolist()
            [0.707]
        """
        rows, right = np.concatenate([self.equal, self.below]), np.concatenate([self.e, self.b])
        length = np.linalg.norm(rows, axis=1)
        length[length == 0] = 1.0
        size = np.abs(rows) @ np.abs(y) + np.abs(right)
        return (rows @ y - right) / length, EXACT * size / length

    def nearest(self, v: Array) -> tuple[Array, Array]:
        """The nearest point (n,) to v, and the multipliers (k + m,) of the rows: y = v − rowsᵀ multipliers.

        Raises:
            Empty: no point meets the rows.

        Example:
            >>> box = Polytope(np.zeros((0, 2)), np.zeros(0), np.eye(2), np.ones(2))
            >>> y, u = box.nearest(np.array([3.0, 0.0]))
            >>> y.tolist(), u.tolist()
            ([1.0, 0.0], [2.0, 0.0])
        """
        rows = np.concatenate([self.equal, self.below])
        lengths = np.linalg.norm(rows, axis=1)
        unit = rows / np.where(lengths == 0, 1.0, lengths)[:, None]
        count = len(self.equal)
        y = v.astype(np.float64).copy()
        active: list[int] = []  # the rows that hold the point, with their signs and multipliers
        signs: list[float] = []
        duals: list[float] = []
        given_up: set[int] = set()  # equal rows that others imply
        for _ in range(20 * (len(rows) + self.size) + 50):
            far, rounding = self.excess(y)
            wrong = np.where(np.arange(len(rows)) < count, np.abs(far), far) - rounding
            wrong[[*active, *given_up]] = -np.inf
            wrong[:count] = np.where(wrong[:count] > 0, np.inf, wrong[:count])  # equal ones first
            if not len(wrong) or wrong.max() <= 0:
                break
            new = int(wrong.argmax())
            sign = 1.0 if far[new] > 0 else -1.0
            if lengths[new] == 0:
                raise Empty([new])
            multiplier, left = 0.0, abs(float(far[new]))
            while True:
                normals = (unit[active] * np.array(signs)[:, None]) if active else np.zeros((0, self.size))
                normal = sign * unit[new]
                share = np.linalg.lstsq(normals.T, normal, rcond=None)[0] if active else np.zeros(0)
                way = normal - normals.T @ share
                if np.linalg.norm(way) > DEPENDENT:
                    way -= normals.T @ (np.linalg.lstsq(normals.T, way, rcond=None)[0] if active else np.zeros(0))
                curve = float(way @ way)
                leaving = [
                    (duals[i] / share[i], i) for i in range(len(active)) if active[i] >= count and share[i] > 1e-14
                ]
                step, out = min(leaving, default=(np.inf, -1))
                if curve <= DEPENDENT**2:
                    if out < 0:
                        if new < count and left <= 1e-9 * (1 + abs(float(self.e[new])) / lengths[new]):
                            given_up.add(new)
                            break
                        raise Empty(sorted({new, *(active[i] for i in range(len(active)) if abs(share[i]) > 1e-9)}))
                    full = np.inf
                else:
                    full = left / curve
                    y = y - min(step, full) * way
                    left -= min(step, full) * curve
                taken = min(step, full)
                duals = [d - taken * s for d, s in zip(duals, share, strict=True)]
                multiplier += taken
                if full <= step:
                    active, signs, duals = [*active, new], [*signs, sign], [*duals, multiplier]
                    break
                for held in (active, signs, duals):
                    held.pop(out)
        multipliers = np.zeros(len(rows))
        if active:  # once more, with all that hold the point at once
            normals = unit[active]
            right = np.concatenate([self.e, self.b])[active] / lengths[active]
            held = np.linalg.lstsq(normals @ normals.T, normals @ v - right, rcond=None)[0]
            y = v - normals.T @ held
            y = y - normals.T @ np.linalg.lstsq(normals @ normals.T, normals @ y - right, rcond=None)[0]
            multipliers[active] = held / lengths[active]
        return y, multipliers

    def furthest(self, way: Array, start: Array) -> tuple[Array, Array] | None:
        """A point at which `way @ y` is largest, and multipliers with rowsᵀ multipliers = way; None if there is no end.

        Args:
            way: (n,).
            start: a point that meets the rows.

        Example:
            >>> box = Polytope(np.zeros((0, 2)), np.zeros(0), np.eye(2), np.ones(2))
            >>> box.furthest(np.array([1.0, 1.0]), np.zeros(2))[0].tolist()
            [1.0, 1.0]
            >>> box.furthest(np.array([-1.0, 0.0]), np.zeros(2)) is None
            True
        """
        size = float(np.linalg.norm(way))
        if size == 0:
            return start, np.zeros(len(self.e) + len(self.b))
        y, length = start, 1.0 + float(np.abs(start).max(initial=0.0))
        most = FAR * (1.0 + float(np.abs(self.b).max(initial=0.0)) + float(np.abs(start).max(initial=0.0)))
        for _ in range(200):
            goal = y + length / size * way
            found, held = self.nearest(goal)
            gone = float(np.linalg.norm(found - y))
            if gone <= 1e-11 * (1.0 + float(np.abs(found).max(initial=0.0))):
                return found, held * size / length
            y = found
            if float(np.abs(y).max()) > most:
                return None
            length *= 2
        return None

    def widest(self, most: float = 1.0) -> tuple[Array, float]:
        """The centre (n,) and the radius of a largest ball inside, within the space of the equal rows: the Chebyshev
        centre. The radius is at most `most`, and 0 where some row is always met with equality.

        Raises:
            Empty: no point meets the rows.

        Example:
            >>> square = Polytope(np.zeros((0, 2)), np.zeros(0), np.vstack([np.eye(2), -np.eye(2)]), np.ones(4))
            >>> centre, radius = square.widest()
            >>> bool(np.abs(centre).max() < 1e-9), round(radius, 9)
            (True, 1.0)
        """
        start, _ = self.nearest(np.zeros(self.size))
        inside = self.below
        if len(self.equal):
            across = np.linalg.svd(self.equal, full_matrices=False)
            basis = across[2][across[1] > DEPENDENT * max(1e-300, across[1].max(initial=0.0))]
            inside = self.below - self.below @ basis.T @ basis
        lengths = np.linalg.norm(inside, axis=1)
        lengths[lengths <= DEPENDENT * np.linalg.norm(self.below, axis=1)] = 0.0
        last = np.zeros((1, self.size + 1))
        last[0, -1] = 1.0
        lifted = Polytope(
            np.hstack([self.equal, np.zeros((len(self.equal), 1))]),
            self.e,
            np.vstack([np.hstack([self.below, lengths[:, None]]), last]),
            np.append(self.b, most),
        )
        found = lifted.furthest(last[0], np.append(start, 0.0))
        assert found is not None  # the radius has an end
        return found[0][:-1], max(0.0, float(found[0][-1]))


def proved_box(polytope: Polytope, inside: Array | None) -> tuple[Array, Array]:
    """A box (n,), (n,) that contains the polytope; infinite where it has no end.

    Each side is the optimum of a linear program, moved outwards, and held to be right because of its multipliers u:
    for a point y of the polytope, y_j = (rowsᵀ u) y + δ y <= u · right + |δ|₁ |y|, with a residual δ of rounding. On
    the way from `inside`, which is in the box, to a point outside there would be one on its border, where |y| is at
    most the size of the box, and for which this says that it is not that far out.

    Args:
        inside: a point of it; None: it has none, and the box is a point.
    """
    n = polytope.size
    if inside is None:
        return np.zeros(n), np.zeros(n)
    rows = np.concatenate([polytope.equal, polytope.below])
    right = np.concatenate([polytope.e, polytope.b])
    ends = np.full((2, n), np.inf)
    found: list[tuple[int, int, Array, float]] = []
    for side, sign in ((0, -1.0), (1, 1.0)):
        for j in range(n):
            way = np.zeros(n)
            way[j] = sign
            most = polytope.furthest(way, inside)
            if most is None:
                continue
            u = most[1].copy()
            u[len(polytope.e) :] = np.maximum(u[len(polytope.e) :], 0.0)
            residual = way - rows.T @ u
            ends[side, j] = float(u @ right)
            found.append((side, j, residual, float(np.abs(u) @ np.abs(right))))
    finite = ends[np.isfinite(ends)]
    size = 1.0 + float(np.abs(finite).max(initial=0.0)) + float(np.abs(inside).max(initial=0.0))
    for side, j, residual, sizes in found:
        unsure = float(np.abs(residual[np.isfinite(ends).all(0)]).sum()) * size + 1e-14 * n * sizes
        endless = bool((np.abs(residual[~np.isfinite(ends).all(0)]) > 0).any())
        if endless or unsure > LOOSE * size:
            ends[side, j] = np.inf
        else:
            ends[side, j] += LOOSE * size
    return -ends[0], ends[1]
