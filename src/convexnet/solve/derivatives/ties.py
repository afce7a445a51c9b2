"""Minimisers at which more kinks and bounds meet than are needed to hold them: which of these hold them.

The function is a linear program there (`local_program`) whose multipliers are not unique, and a small change of the
function may choose any of them. A row whose multiplier is
positive in all of them stays an equation whatever changes (complementary slackness, and the multipliers of a nearby
program are near to these). If such rows determine the minimiser, it moves as they say; else it moves otherwise in other
directions, and has no derivative.

Kinks that are one by construction (units with the same weights) count as one, and where all kinks that meet go on
meeting whatever the tensors become that ask for a derivative, they all hold it.

Source: Goldman & Tucker (1956), Theory of linear programming; Robinson (1977), A characterization of stability in
linear programming.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from convexnet.solve.derivatives.local_program import EPS, Array, Local

PIVOTS = 500
"""Pivots of one small linear program."""

ROUNDS = 8
"""Of equilibration."""


@dataclass
class Multipliers:
    """All optimal multipliers, from one that is a vertex: m + Z t ≥ 0 with t ≥ 0.

    Attributes:
        vertex: m (R,), in units of what is typical.
        ways: Z (R, k).
        outside: the rows that t belongs to, which are 0 at the vertex.
    """

    vertex: Array
    ways: Array
    outside: list[int]

    def least(self, row: int) -> float:
        """The least multiplier of a row; 0 where it is not certain that it is positive."""
        m, ways, outside = self.vertex.copy(), self.ways.copy(), list(self.outside)
        for _ in range(PIVOTS):
            if row in outside:
                return 0.0
            falling = [j for j in range(len(outside)) if ways[row, j] < -EPS]
            if not falling:
                return float(m[row])
            column = min(falling, key=lambda j: outside[j])  # Bland's rule
            leaving = first_at_zero(m, ways[:, column], outside)
            if leaving is None or leaving == row:
                return 0.0
            exchange_basis(m, ways, outside, column, leaving)
        return 0.0

    def most(self, objective: Array) -> Array | None:
        """Multipliers that are a vertex and the largest, summed with weights (R,); None where there is no largest."""
        m, ways, outside = self.vertex.copy(), self.ways.copy(), list(self.outside)
        for _ in range(PIVOTS):
            gains = objective @ ways
            rising = [j for j in range(len(outside)) if gains[j] > EPS * max(np.abs(objective).max(), 1e-300)]
            if not rising:
                return m
            column = min(rising, key=lambda j: outside[j])
            leaving = first_at_zero(m, ways[:, column], outside)
            if leaving is None:
                return None
            exchange_basis(m, ways, outside, column, leaving)
        return None


def first_at_zero(m: Array, way: Array, outside: Sequence[int]) -> int | None:
    """The row whose multiplier is 0 first along a way, of the smallest number; None where there is no end."""
    falling = way < -EPS
    falling[list(outside)] = False
    if not falling.any():
        return None
    until = np.where(falling, np.maximum(m, 0.0) / np.where(falling, -way, 1.0), np.inf)
    return int(np.flatnonzero(until <= until.min() + 1e-13)[0])


def exchange_basis(m: Array, ways: Array, outside: list[int], column: int, leaving: int) -> None:
    """Let the multiplier of the row `leaving` take the place of the one that t[column] is."""
    way = ways[:, column].copy()
    m += way * (-m[leaving] / way[leaving])
    m[leaving] = 0.0
    np.maximum(m, 0.0, out=m)
    way /= way[leaving]
    others = ways[leaving].copy()
    others[column] = 0.0
    ways -= np.outer(way, others)
    ways[:, column] = way
    outside[column] = leaving


def multipliers_of(local: Local) -> Multipliers | None:
    """All optimal multipliers; None where those that are known are not near to being some."""
    used = local.rows * local.typical[:, None]  # the unknowns are shares of what is typical
    size = np.abs(local.rows).max(0)
    columns = np.where(size > 0, 1 / np.where(size > 0, size * local.typical.max(), 1.0), 0.0)
    system = (used * columns).T
    right = -local.gradient * columns
    m = local.multipliers / local.typical
    left, values, directions = np.linalg.svd(system, full_matrices=True)
    rank = int((values > EPS * max(values.max(initial=0.0), 1e-300)).sum())
    off = left[:, :rank].T @ (right - system @ m)
    m = m + directions[:rank].T @ (off / values[:rank])
    if not np.isfinite(m).all() or m.min() < -1e-4 or np.abs(right - system @ m).max(initial=0.0) > 1e-6:
        return None
    m = np.maximum(m, 0.0)
    ways, outside = directions[rank:].T.copy(), [-1] * (len(m) - rank)
    for column in range(ways.shape[1]):  # each way is followed to where a multiplier is 0
        found: tuple[float, int, float] | None = None
        for sign in (1.0, -1.0):
            way = sign * ways[:, column]
            row = first_at_zero(m, way, [r for r in outside if r >= 0])
            if row is not None:
                step = m[row] / -way[row]
                if found is None or step < found[0]:
                    found = step, row, sign
        if found is None:
            return None
        ways[:, column] *= found[2]
        exchange_basis(m, ways, outside, column, found[1])
    return Multipliers(m, ways, outside)


# --- what follows ----------------------------------------------------------------------------------------------------


def determined_weights(local: Local, wanted: Array, straight: bool) -> Array | None:
    """Weights (R,) of the rows whose multipliers are positive whatever is chosen, with rows' weights = `wanted`
    (n + m,); None where these rows do not determine it.

    Args:
        local: the linear program.
        wanted: the gradient of y, and zeros.
        straight: whether nothing is smooth, so that what no row sees is where the minimiser is not unique.
    """
    found = multipliers_of(local)
    if found is None:
        return None
    if straight:
        wanted = project_on_rows(local.rows, wanted)
    sure = [row for row in range(len(local.of)) if found.vertex[row] > EPS and found.least(row) > EPS]
    return weights_that_sum_to(local, sure, wanted)


def weights_that_sum_to(local: Local, some: list[int], wanted: Array) -> Array | None:
    """Weights (R,) of some rows with rows' weights = `wanted`; None where there are none."""
    weights = np.zeros(len(local.of))
    if not np.abs(wanted).max(initial=0.0):
        return weights
    if not some:
        return None
    rows = local.rows[some]
    units = np.where(wanted != 0, 1 / np.where(wanted != 0, np.abs(wanted), 1.0), column_units(rows))
    sizes = np.abs(rows * units).max(1)  # each coordinate is asked for in its own unit, however small its share
    sizes = np.where(sizes > 0, sizes, 1.0)
    system = (rows * units / sizes[:, None]).T
    solution = np.linalg.lstsq(system, wanted * units, rcond=1e-12)[0]
    if np.abs(system @ solution - wanted * units).max() > 1e-8:
        return None
    solution = solution / sizes
    weights[some] = solution
    return weights


def one_way_weights(local: Local, wanted: Array, straight: bool, moves: Array) -> Array | None:
    """The weights of `determined_weights` where the arguments that meet can move in one way (T,) only, and back; None
    where the minimiser does not go back as it came."""
    found = multipliers_of(local)
    if found is None:
        return None
    if straight:
        wanted = project_on_rows(local.rows, wanted)
    change = np.array([row.share * moves[local.arguments[row.atom, row.index]] if row.atom >= 0 else 0.0
                       for row in local.of])  # fmt: skip
    sides: list[Array] = []
    for sign in (1.0, -1.0):
        largest = found.most(sign * change * local.typical)
        weights = (
            None
            if largest is None
            else weights_that_sum_to(local, [int(row) for row in (largest > EPS).nonzero()[0]], wanted)
        )
        if weights is None:
            return None
        sides.append(weights)
    ends = [float(weights @ change) for weights in sides]
    size = max(float(np.abs(weights) @ np.abs(change)) for weights in sides)
    return sides[0] if abs(ends[0] - ends[1]) <= 1e-8 * size else None


def project_on_rows(rows: Array, wanted: Array) -> Array:
    """The part of a gradient along which the rows change, whatever the units of the coordinates are."""
    units = column_units(rows)
    system = rows * units
    sizes = np.abs(system).max(1, keepdims=True)
    _, values, directions = np.linalg.svd(system / np.where(sizes > 0, sizes, 1.0), full_matrices=False)
    some = directions[values > EPS * max(values.max(initial=0.0), 1e-300)]
    moved = np.abs(rows).max(0) > 0
    if len(some) == moved.sum():  # all that any row sees
        return np.where(moved, wanted, 0.0)
    return some.T @ (some @ (wanted * units)) / units


def column_units(rows: Array) -> Array:
    """Units of the coordinates in which the largest entries of rows of length 1 are about 1, (n + m,)."""
    units = np.ones(rows.shape[1])
    for _ in range(ROUNDS):
        sizes = np.abs(rows * units).max(1, keepdims=True)
        columns = np.abs(rows * units / np.where(sizes > 0, sizes, 1.0)).max(0)
        units = units / np.sqrt(np.where(columns > 0, columns, 1.0))
    return np.exp2(np.round(np.log2(units)))


def all_hold(local: Local, same: Callable[[Array], bool]) -> bool:
    """Whether all rows go on being equations, and none of them has a multiplier that is always zero.

    Args:
        local: the linear program.
        same: whether a sum of rows, with weights (R,), stays zero whatever the tensors become.
    """
    found = multipliers_of(local)
    if found is None:
        return False
    for each in np.eye(len(local.of)):
        largest = found.most(each)
        if largest is not None and each @ largest <= EPS:
            return False
    generator = np.random.default_rng(0)
    return found.ways.shape[1] == 0 or same(
        local.typical * (found.ways @ generator.uniform(0.5, 1.5, found.ways.shape[1]))
    )


def merge_equal_kinks(local: Local, same: Callable[[Array], bool]) -> Local:
    """The linear program with kinks that are multiples of others by construction put together with them."""
    rows, gradient = local.rows.copy(), local.gradient.copy()
    multipliers, typical = local.multipliers.copy(), local.typical.copy()
    kinks: dict[tuple[int, int], list[int]] = {}
    for number, row in enumerate(local.of):
        if row.atom >= 0:
            kinks.setdefault((row.atom, row.index), []).append(number)
    names, gone = list(kinks), set[int]()
    for later in range(len(names)):
        for earlier in range(later):
            first, second = kinks[names[earlier]], kinks[names[later]]
            if gone.intersection(first + second) or len(first) != len(second):
                continue
            a, b = local.lines[local.arguments[names[earlier]]], local.lines[local.arguments[names[later]]]
            size = float(a @ a)
            ratio = float(a @ b) / size if size > 0 else 0.0
            if ratio == 0 or np.abs(b - ratio * a).max() > EPS * np.abs(b).max():
                continue
            one, two = (local.columns[local.arguments[name]] for name in (names[earlier], names[later]))
            alike = local.of[first[-1]].share == local.of[second[-1]].share
            if (len(first) == 1 and (one != two or abs(ratio - 1) > EPS)) or not alike:
                continue
            weights = np.zeros(len(local.of))
            weights[second[0]], weights[first[0]] = 1.0, -ratio
            if not same(weights):
                continue
            gone.update(second)
            if len(first) == 1:  # members of one maximum
                multipliers[first[0]] += multipliers[second[0]]
                continue
            grown = abs(ratio)
            order = second if ratio > 0 else second[::-1]
            for mine, theirs in zip(first, order, strict=True):
                multipliers[mine] += grown * multipliers[theirs]
                typical[mine] += grown * typical[theirs]
            share = local.of[first[1]].share
            for part in (rows, gradient[None]):
                entered = part[:, two].copy()
                part[:, one] += grown * entered
                part[:, two] = 0.0
                if ratio < 0:  # max(−s a, −a) = max(s a, a) − (1 + s) a
                    part -= grown * (1 + share) * np.outer(entered, a * local.free)
    kept = [number for number in range(len(local.of)) if number not in gone]
    return Local(
        rows[kept], gradient, multipliers[kept], typical[kept], [local.of[number] for number in kept], local.free,
        local.arguments, local.columns, local.lines, local.shares,
    )  # fmt: skip


def forces_on(
    local: Local, weights: Array
) -> tuple[dict[tuple[int, int], float], dict[int, tuple[float, float]], Array]:
    """What weights (R,) of rows are: the forces on arguments, by (atom, index), as their slopes carry them on; the
    weights of the lower and of the upper bounds, by coordinate; and the sum of these arguments' derivatives, (n + m,).
    """
    direct = local.direct(weights)
    ends: dict[int, tuple[float, float]] = {}
    for row, weight in zip(local.of, weights, strict=True):
        if row.atom < 0 and weight:
            low, high = ends.get(row.index, (0.0, 0.0))
            ends[row.index] = (low + weight, high) if row.share < 0 else (low, high + weight)
    along = local.lines.T @ direct
    carried = direct - local.shares * along[local.columns]
    return {name: float(carried[number]) for name, number in local.arguments.items()}, ends, along
