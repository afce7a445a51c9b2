"""A function at a minimiser as a linear program: what meets there, in rows, with its multipliers.

Written with its nonlinearities at such a point as variables z, a function is one there: its rows are a − z ≤ 0 and
s a − z ≤ 0 for a kink max(s a, a), a_i − z ≤ 0 for the members of a maximum, and the bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convexnet.form.atoms import Kinks
from convexnet.form.epigraph import EpigraphForm
from convexnet.form.grouped import Largest, Norm

MEETS = 1e-8
"""How far an argument may be from its kink, in its unit, to be at it, where others are."""

EPS = 1e-9
"""Multipliers below this share of what is typical are zero, and so are parts of rows."""

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class Row:
    """One inequality: `share` times the argument `index` of the atom `atom`, less a variable z; a bound if `atom` < 0,
    whose coordinate is `index` and whose `share` is −1 for the lower one."""

    atom: int
    index: int
    share: float


@dataclass
class Local:
    """The linear program at the minimiser of one sample: minimise gradient · d subject to rows d ≤ 0, for d = (y, z).

    Attributes:
        rows: (R, n + m).
        gradient: (n + m,).
        multipliers: some that are optimal, (R,), with rows' multipliers = − gradient.
        typical: their sizes, (R,).
        of: what each row is.
        free: which of the n + m may move: a coordinate that is fixed may not.
        arguments: the number of each argument that meets, by (atom, index).
        columns: the column of z for each of them.
        lines: derivatives of these arguments for (y, z), (T, n + m).
        shares: dz/da of each, as the slopes say, (T,).
    """

    rows: Array
    gradient: Array
    multipliers: Array
    typical: Array
    of: list[Row]
    free: Array
    arguments: dict[tuple[int, int], int]
    columns: np.ndarray[Any, np.dtype[np.int64]]
    lines: Array
    shares: Array

    def direct(self, weights: Array) -> Array:
        """The weights (T,) of arguments in a sum of rows with weights (R,)."""
        found = np.zeros(len(self.columns))
        for row, weight in zip(self.of, weights, strict=True):
            if row.atom >= 0:
                found[self.arguments[row.atom, row.index]] += row.share * weight
        return found


def local_program(
    form: EpigraphForm, slopes: list[Tensor], y: Tensor, lo: Tensor, hi: Tensor, units: list[Tensor], scale: Tensor
) -> Local | None:
    """The linear program at y (1, n), the minimiser of one sample; None where a norm is among what meets.

    Args:
        form, slopes: of this sample.
        y, lo, hi: (1, n).
        units: of the arguments, (1, in_k).
        scale: of the coordinates, (1, n).
    """
    n = form.size
    arguments = form.arguments(y)
    _, arriving = form.pull(slopes)
    meet: list[list[int]] = []
    columns: dict[tuple[int, int], int] = {}
    for k, (atom, a, v) in enumerate(zip(form.atoms, arguments, arriving, strict=True)):
        counts = v[0] > EPS * max(float(v[0].amax()), 1e-300)
        if isinstance(atom, Norm):
            if bool((atom.value(a)[0] <= MEETS * units[k][0, :: atom.group]).any()):
                return None
            meet.append([])
        elif isinstance(atom, Kinks):
            at = (a[0].abs() <= MEETS * units[k][0]) & counts & (atom.negative_slope.expand_as(a)[0] < 1)
            meet.append(at.nonzero()[:, 0].tolist())
            columns |= {(k, j): n + len(columns) + i for i, j in enumerate(meet[-1])}
        elif isinstance(atom, Largest):
            parts, unit = a[0].view(-1, atom.group), units[k][0].view(-1, atom.group)
            at = (parts.amax(1, keepdim=True) - parts <= MEETS * unit) & counts[:, None]
            at &= at.sum(1, keepdim=True) > 1
            meet.append(at.flatten().nonzero()[:, 0].tolist())
            groups = at.any(1).nonzero()[:, 0].tolist()
            places = {g: n + len(columns) + i for i, g in enumerate(groups)}
            columns |= {(k, -1 - g): place for g, place in places.items()}
        else:
            meet.append([])
    width = n + len(columns)
    moves = torch.eye(width, dtype=y.dtype, device=y.device)
    lines, gradient = derivatives_along(form, slopes, arguments, columns, moves)
    of: list[Row] = []
    rows: list[Tensor] = []
    multipliers: list[float] = []
    typical: list[float] = []
    numbers: dict[tuple[int, int], int] = {}
    place: list[int] = []
    shares: list[float] = []
    own: list[Tensor] = []
    for k, atom in enumerate(form.atoms):
        for j in meet[k]:
            row = lines[k][:, j]
            kink = isinstance(atom, Kinks)
            column = columns[k, j if kink else -1 - j // atom.group]
            least = float(atom.negative_slope.expand_as(arguments[k])[0, j]) if isinstance(atom, Kinks) else 0.0
            slope, v = float(slopes[k][0, j]), float(arriving[k][0, j if kink else j // atom.group])
            numbers[k, j] = len(own)
            own.append(row)
            place.append(column)
            shares.append(least + (1 - least) * slope)
            for share, part in ((1.0, slope), (least, 1 - slope))[: 2 if kink else 1]:
                rows.append(share * row - moves[column])
                multipliers.append(part * v)
                typical.append(v)
                of.append(Row(k, j, share))
    g = form.gradient(form.pull(slopes)[0])[0]
    free = (hi > lo)[0]
    size = float((g.abs() * scale[0]).amax().clamp(min=1e-300))
    for j in range(n):
        for share, end in ((-1.0, lo), (1.0, hi)):
            if bool(free[j]) and abs(float(end[0, j] - y[0, j])) <= MEETS * float(scale[0, j]):
                rows.append(share * moves[j])
                multipliers.append(max(-share * float(g[j]), 0.0))
                typical.append(size / float(scale[0, j]))
                of.append(Row(-1, j, share))
    if not rows:
        return None
    kept = torch.cat([free, torch.ones(width - n, dtype=torch.bool, device=y.device)])
    ruled = torch.where(kept, torch.stack(rows), 0.0)
    return Local(
        ruled.cpu().numpy(), torch.where(kept, gradient, 0.0).cpu().numpy(), np.array(multipliers), np.array(typical),
        of, kept.cpu().numpy(), numbers, np.array(place, dtype=np.int64),
        torch.stack(own).cpu().numpy() if own else np.zeros((0, width)), np.array(shares),
    )  # fmt: skip


def derivatives_along(
    form: EpigraphForm,
    slopes: list[Tensor],
    arguments: list[Tensor],
    columns: dict[tuple[int, int], int],
    moves: Tensor,
) -> tuple[list[Tensor], Tensor]:
    """What arguments (M, in_k) and the value (M,) change by along moves (M, n + m) of y and z, with lines for what does
    not meet."""
    n = form.size
    changes: list[Tensor] = []
    results: list[Tensor] = []
    value = moves[:, :n] @ form.linear[0]
    for k, atom in enumerate(form.atoms):
        first = form.from_y[k]
        change = moves.new_zeros(len(moves), form.constants[k].shape[1])
        if first is not None:
            change = change + first(moves[:, :n])
        for j, result in enumerate(results):
            if (k, j) in form.between:
                change = change + form.between[k, j](result)
        straight = atom.slopes(arguments[k])
        if isinstance(atom, Kinks):
            straight = (arguments[k] > 0).to(moves)
        result = atom.push(straight.expand_as(change), change)
        for (bend_number, index), column in columns.items():
            if bend_number == k:
                result[:, index if index >= 0 else -1 - index] = moves[:, column]
        changes.append(change)
        results.append(result)
        if k in form.weights:
            value = value + result @ form.weights[k][0]
    return changes, value
