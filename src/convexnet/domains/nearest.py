"""The nearest point of a polyhedron, its widest ball and its box, for one sample, in numpy.

The quadratic program min ½ ‖y − v‖² over rows is solved by its dual: rows that are violated most come in one after the
other, rows whose multiplier would turn negative leave, and the point is at every step the nearest one of those that
meet the rows inside. It ends at the solution, or at rows that no point meets. Linear programs over the same rows are a
few such projections: with c the direction to go in, y ← nearest point to y + t c stays where it is exactly at an
optimum, which it reaches after finitely many steps.

Source: Goldfarb & Idnani (1983), "A numerically stable dual method for solving strictly convex quadratic programs", for
    the first; Ferris (1991), "Finite termination of the proximal point algorithm", for the second.

Long because linear programs, boxes and proofs of emptiness stand on one active-set loop and its tolerances.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

# Small functions with types of their own stand for the arithmetic within the loops of `nearest`: inferring through
# loops what every overload of an array's operators returns took pyright a tenth of its time.
Array = NDArray[np.float64]

EXACT = 1e-13
"""A row counts as met up to this share of its size: of its coefficients times the point, and of its right side."""

INSIDE = 2.0**-51
"""The same share for what is returned, where rounding allows it: what `contains` allows is four times as much."""

DEPENDENT = 1e-12
"""A row whose normal is a combination of others up to this share of its length adds nothing to them."""

UNSURE = 1e-9
"""The share of its size by which a row that others imply may be missed by rounding, unless a conflict is proved."""

MOST = 40
"""Rows up to which a conflict is looked at in exact numbers."""

FAR = 1e12
"""A linear program whose point has gone this many times the size of the rows away has no end."""


LOOSE = 1e-6
"""By which share of their size the sides of the box of a polytope are moved outwards: see there."""


class Empty(Exception):
    """No point was found that meets the rows.

    Attributes:
        rows: the numbers of those that conflict; equal ones are counted first.
        proved: whether it is proved in exact numbers that no point meets them. Where it is not, as of rows that are
            parallel up to rounding, points may be far away.
    """

    def __init__(self, rows: list[int], proved: bool) -> None:
        super().__init__(f"no point {'meets' if proved else 'was found that meets'} rows {rows}")
        self.rows = rows
        self.proved = proved


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
            Empty: no point was found that meets the rows.

        Example:
            >>> box = Polytope(np.zeros((0, 2)), np.zeros(0), np.eye(2), np.ones(2))
            >>> y, u = box.nearest(np.array([3.0, 0.0]))
            >>> y.tolist(), u.tolist()
            ([1.0, 0.0], [2.0, 0.0])
        """
        rows = np.concatenate([self.equal, self.below])
        lengths = np.linalg.norm(rows, axis=1)
        unit = rows / np.where(lengths == 0, 1.0, lengths)[:, None]
        right = np.concatenate([self.e, self.b]) / np.where(lengths == 0, 1.0, lengths)
        count = len(self.equal)
        y = v.astype(np.float64).copy()
        noise = EXACT * np.abs(unit) @ np.abs(y)  # which steps from there leave, where the end is near 0
        active: list[int] = []  # the rows that hold the point, with their signs and multipliers
        signs: list[float] = []
        duals: list[float] = []
        given_up: set[int] = set()  # equal rows that others imply
        for _ in range(20 * (len(rows) + self.size) + 50):
            far, rounding = self.excess(y)
            wrong = np.where(np.arange(len(rows)) < count, np.abs(far), far) - rounding - noise
            wrong[[*active, *given_up]] = -np.inf
            wrong[:count] = np.where(wrong[:count] > 0, np.inf, wrong[:count])  # equal ones first
            if not len(wrong) or wrong.max() <= 0:
                break
            new = int(wrong.argmax())
            sign = 1.0 if far[new] > 0 else -1.0
            if lengths[new] == 0:
                raise Empty([new], proved=True)
            multiplier, left = 0.0, abs(float(far[new]))
            while True:
                share, way = components(signed_rows(unit, active, signs), signed_rows(unit, [new], [sign])[0])
                curve = float(way @ way)
                step, out = first_to_leave(duals, share, [place >= count for place in active])
                if curve <= DEPENDENT**2:
                    if out < 0:
                        u = np.zeros(len(rows))
                        u[new] = sign / lengths[new]
                        for i, place in enumerate(active):
                            u[place] = -share[i] * signs[i] / lengths[place] if abs(share[i]) > 1e-9 else 0.0
                        if conflict_is_proved(self, u):
                            raise Empty(u.nonzero()[0].tolist(), proved=True)
                        if left > UNSURE * (abs(far[new]) + (rounding[new] + noise[new]) / EXACT):
                            raise Empty(u.nonzero()[0].tolist(), proved=False)
                        given_up.add(new)  # others imply it, and it is missed by what rounding left
                        break
                    full = np.inf
                else:
                    full = left / curve
                    y = moved(y, way, -min(step, full))
                    left -= min(step, full) * curve
                taken = min(step, full)
                duals = lowered(duals, taken, share)
                multiplier += taken
                if full <= step:
                    active, signs, duals = [*active, new], [*signs, sign], [*duals, multiplier]
                    y = on_rows(y, unit[active], right[active])
                    break
                active.pop(out)
                signs.pop(out)
                duals.pop(out)
        else:
            raise Empty(sorted({*active}), proved=False)
        y, held = self.finished(v, y, active, unit, right)
        multipliers = np.zeros(len(rows))
        multipliers[active] = held / lengths[active]
        return y, multipliers

    def finished(self, v: Array, y: Array, active: list[int], unit: Array, right: Array) -> tuple[Array, Array]:
        """The point at which all `active` rows are met with equality, and others to a few units in the last place.

        Args:
            v: what it is to be nearest to.
            y: the point so far.
            active: the rows that hold it.
            unit, right: all rows, of length 1.
        """
        count, used = len(self.equal), list(active)

        def missed(point: Array) -> Array:
            far, rounding = self.excess(point)
            far[:count] = np.abs(far[:count])
            return far - rounding * (INSIDE / EXACT)

        best, least = y, float(missed(y).max(initial=0.0))
        start = v
        for _ in range(4):
            if used:
                normals, y = unit[used], start
                corner, _, rank, _ = np.linalg.lstsq(normals, right[used], rcond=1e-14)
                y = corner.astype(np.float64) if int(rank) == self.size else start
                for _ in range(2):  # once more for what rounding left
                    y = on_rows(y, normals, right[used], 1e-14)
            left = missed(y)
            if float(left.max(initial=0.0)) < least:
                best, least = y, float(left.max(initial=0.0))
            more = [i for i in (left > 0).nonzero()[0].tolist() if i not in used]
            if least <= 0 or not more:
                break
            used, start = [*used, *more], best
        held = np.zeros(len(active))
        if active:
            held[:] = np.linalg.lstsq(unit[active].T, v - best, rcond=1e-14)[0]
        return best, held

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
            try:
                found, held = self.nearest(goal)
            except Empty:  # by rounding, this far away
                return None
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
            Empty: no point was found that meets the rows.

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
        if found is None:  # the radius has an end, which rounding hides
            return start, 0.0
        return found[0][:-1], max(0.0, float(found[0][-1]))


def signed_rows(unit: Array, places: list[int], signs: list[float]) -> Array:
    """The rows at some places, each times its sign."""
    return unit[places] * np.array(signs, dtype=np.float64)[:, None]


def first_to_leave(duals: list[float], share: Array, may: list[bool]) -> tuple[float, int]:
    """How far to go until the first multiplier of those that may leave is 0, and which it is; -1 if none will be."""
    ends = [(d / float(s), i) for i, (d, s) in enumerate(zip(duals, share, strict=True)) if may[i] and s > 1e-14]
    return min(ends, default=(np.inf, -1))


def lowered(duals: list[float], taken: float, share: Array) -> list[float]:
    """The multipliers after a step."""
    return [d - taken * float(s) for d, s in zip(duals, share, strict=True)]


def moved(y: Array, way: Array, length: float) -> Array:
    """The point that lies some way from y."""
    return y + length * way


def on_rows(y: Array, rows: Array, right: Array, rcond: float | None = None) -> Array:
    """The point nearest to y at which rows are met with equality, as far as rounding allows."""
    return y - np.linalg.lstsq(rows, rows @ y - right, rcond=rcond)[0].astype(np.float64)


def components(normals: Array, normal: Array) -> tuple[Array, Array]:
    """The combination of normals (k, n) nearest to another (n,), and what is left of it, across them."""
    if not len(normals):
        return np.zeros(0), normal
    share, way = np.zeros(len(normals)), normal
    for _ in range(3):  # more than once for what rounding left
        more: Array = np.linalg.lstsq(normals.T, way, rcond=None)[0].astype(np.float64)
        share, way = share + more, way - normals.T @ more
    return share, way


def conflict_is_proved(polytope: Polytope, u: Array) -> bool:
    """Whether multipliers prove, in exact numbers, that no point meets the rows: uᵀ rows = 0 and u · right < 0, with
    u >= 0 of the rows that are no equations.

    What uᵀ rows is off by rounding is taken off by rows for single coordinates, as far as there are any; otherwise the
    multipliers are computed once more, as fractions.

    Source: Farkas' lemma.

    Example:
        >>> apart = Polytope(np.zeros((0, 1)), np.zeros(0), np.array([[1.0], [-1.0]]), np.array([0.0, -1.0]))
        >>> conflict_is_proved(apart, np.ones(2))
        True
    """
    rows, right = np.concatenate([polytope.equal, polytope.below]), np.concatenate([polytope.e, polytope.b])
    count = len(polytope.equal)
    u = u.copy()
    u[count:] = np.maximum(u[count:], 0.0)
    if not bool(np.isfinite(u).all()):
        return False
    support = u.nonzero()[0].tolist()
    exact = {i: Fraction(float(u[i])) for i in support}
    for j in range(polytope.size):
        off = sum((exact[i] * Fraction(float(rows[i, j])) for i in support), Fraction(0))
        if off == 0:
            continue
        single = (rows[:, j] * (1.0 if off > 0 else -1.0) < 0) & ((rows != 0).sum(1) == 1)
        single[:count] = (rows[:count, j] != 0) & ((rows[:count] != 0).sum(1) == 1)
        if not single.any():
            return is_proved_by_fractions(rows, right, count, support)
        place = int(single.nonzero()[0][0])
        exact[place] = exact.get(place, Fraction(0)) - off / Fraction(float(rows[place, j]))
    return sum((weight * Fraction(float(right[i])) for i, weight in exact.items()), Fraction(0)) < 0


def is_proved_by_fractions(rows: Array, right: Array, count: int, support: list[int]) -> bool:
    """Whether one combination of a few rows, the only one that vanishes, proves that no point meets them."""
    if len(support) > MOST:
        return False
    table = [[Fraction(float(rows[i, j])) for i in support] for j in range(rows.shape[1])]
    pivots: list[int] = []
    for column in range(len(support)):
        top = len(pivots)
        found = next((r for r in range(top, len(table)) if table[r][column] != 0), None)
        if found is None:
            continue
        table[top], table[found] = table[found], table[top]
        table[top] = [entry / table[top][column] for entry in table[top]]
        for r in range(len(table)):
            if r != top and table[r][column] != 0:
                table[r] = [x - table[r][column] * p for x, p in zip(table[r], table[top], strict=True)]
        pivots.append(column)
    free = [column for column in range(len(support)) if column not in pivots]
    if len(free) != 1:
        return False
    weights = [Fraction(0)] * len(support)
    weights[free[0]] = Fraction(1)
    for r, column in enumerate(pivots):
        weights[column] = -table[r][free[0]]
    total = sum((w * Fraction(float(right[i])) for w, i in zip(weights, support, strict=True)), Fraction(0))
    if total > 0:  # an equation may be turned
        weights, total = [-w for w in weights], -total
    return total < 0 and all(w >= 0 or i < count for w, i in zip(weights, support, strict=True))


def proved_box(polytope: Polytope, inside: Array | None, empty: bool = False) -> tuple[Array, Array]:
    """A box (n,), (n,) that contains the polytope; infinite where it has no end.

    Each side is the optimum of a linear program, moved outwards, and held to be right because of its multipliers u:
    for a point y of the polytope, y_j = (rowsᵀ u) y + δ y <= u · right + |δ|₁ |y|, with a residual δ of rounding. On
    the way from `inside`, which is in the box, to a point outside there would be one on its border, where |y| is at
    most the size of the box, and for which this says that it is not that far out.

    Args:
        inside: a point of it; None: none was found, and the box has no end.
        empty: it is proved to have none, and the box is a point.

    Example:
        >>> lo, hi = proved_box(Polytope(np.zeros((0, 1)), np.zeros(0), np.ones((1, 1)), np.ones(1)), np.zeros(1))
        >>> bool(lo[0] == -np.inf), bool(1 <= hi[0] < 1.001)
        (True, True)
    """
    n = polytope.size
    if inside is None:
        return (np.zeros(n), np.zeros(n)) if empty else (np.full(n, -np.inf), np.full(n, np.inf))
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
    known = np.isfinite(ends)
    while True:  # a side that is not sure takes those with it that were held to be right because of it
        closed = known.all(0)
        sure = known.copy()
        for side, j, residual, sizes in found:
            unsure = float(np.abs(residual[closed]).sum()) * size + 1e-12 * n * sizes
            if bool((residual[~closed] != 0).any()) or unsure > LOOSE * size:
                sure[side, j] = False
        if bool((sure == known).all()):
            break
        known = sure
    ends = np.where(known, ends + LOOSE * size, np.inf)
    return -ends[0], ends[1]
