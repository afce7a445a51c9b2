"""Why inequalities are enough: nothing gains by a result that is greater than its atom.

A solver is given v >= φ(a), and the network is v = φ(a). Lowering every v to its atom, from the first cut on,
keeps all inequalities and does not raise the output, if each v is used upwards only: by the output with a coefficient
that is not negative, and by a later atom where that does not fall with it. The certificate proves the network convex;
this is a second proof, of what the exporters need, from the signs of the maps they write down.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from convexnet.curvature.call import Refusal
from convexnet.curvature.table import row_of
from convexnet.curvature.tracing.graph import base_name
from convexnet.domains import Box
from convexnet.extras import need
from convexnet.form.program import Gate
from convexnet.form.refusals import raise_refusals
from convexnet.form.sparse import SparseForm, Vector


def nonneg_results(form: SparseForm, domain: Box | None) -> list[tuple[Vector, Vector]]:
    """For each cut: which of its results, and which elements of its argument, are never negative in any solution of
    the inequalities, as far as signs and the domain tell."""
    found: list[tuple[Vector, Vector]] = []
    for k, cut in enumerate(form.cuts):
        least = form.constants[k].copy()
        rows = np.full(len(least), not form.changes[k])
        for source, matrix in form.incoming(k):
            if source == 0:
                least += least_of(matrix, domain)
                continue
            wrong = (matrix < 0) + (matrix @ need("scipy.sparse").diags((~found[source - 1][0]).astype(float)) != 0)
            rows &= wrong.getnnz(axis=1) == 0
        rows &= least >= 0
        results = np.zeros(cut.results, dtype=bool)
        if not isinstance(cut.atom, Gate):
            results = cut.atom.nonneg(torch.as_tensor(rows)).cpu().numpy()
        found.append((results, rows))
    return found


def least_of(matrix: Any, domain: Box | None) -> Vector:
    """The least that each row of a matrix makes of the variable."""
    ends = (-np.inf, np.inf) if domain is None else (end.cpu().flatten().numpy() for end in (domain.lo, domain.hi))
    lo, hi = (np.broadcast_to(np.asarray(end, np.float64), matrix.shape[1]) for end in ends)
    entries = matrix.tocoo()
    parts = entries.data * np.where(entries.data > 0, lo[entries.col], hi[entries.col])
    return np.bincount(entries.row, np.where(entries.data == 0, 0.0, parts), matrix.shape[0])


def check_tight(form: SparseForm, model: str, domain: Box | None = None) -> tuple[bool, ...]:
    """Show that a solver which may raise the results of atoms gains nothing by it.

    Backwards from the output: a result may be used upwards only, and by what comes next only where that rises with it.

    Args:
        form: what is told to the solver.
        model: its name, for messages.
        domain: bounds of the variable that are told to it too.

    Returns:
        For each cut, whether it is a gate whose factors must not be negative for that.

    Raises:
        NotCertified: a result is used where it must be exact. The network is convex, but for a reason that the
            inequalities do not show.
    """
    count = len(form.cuts)
    signs = nonneg_results(form, domain)
    up = [np.zeros(cut.results, dtype=bool) for cut in form.cuts]
    down = [np.zeros(cut.results, dtype=bool) for cut in form.cuts]
    positive = [False] * count
    exact = [True]  # of the sources: y, and its products with gates
    for k, cut in enumerate(form.cuts):
        exact.append(cut.gate and all(exact[source] for source, _ in form.incoming(k)))

    def used(target: int, rise: Vector, fall: Vector) -> None:
        for source, matrix in form.incoming(target):
            if not exact[source]:
                above, below = (matrix > 0).T, (matrix < 0).T
                up[source - 1] |= ((above @ rise) > 0) | ((below @ fall) > 0)
                down[source - 1] |= ((below @ rise) > 0) | ((above @ fall) > 0)

    outputs = len(form.constants[count])
    used(count, np.ones(outputs), np.zeros(outputs))
    for k in reversed(range(count)):
        cut = form.cuts[k]
        if isinstance(cut.atom, Gate):
            positive[k] = not exact[k + 1]
            used(k, up[k].astype(float), down[k].astype(float))
            continue
        mask, _ = form.fixed[k]
        if (down[k] & ~mask).any():
            instead = row_of(base_name(cut.node.target)).instead
            raise_refusals(model, [(cut.node, Refusal(LOOSE, instead or LOOSE_REMEDY))])
        group = cut.atom.group
        used_up = np.repeat(up[k] & ~mask, group)
        rising = np.broadcast_to(torch.as_tensor(cut.atom.rises).cpu().numpy(), (cut.results,))
        rise = used_up & (not cut.atom.falls)
        fall = used_up & ~(np.repeat(rising, group) | signs[k][1] & cut.atom.lifts)
        used(k, rise.astype(float), fall.astype(float))
    return tuple(positive)


LOOSE = "its value is used where only the exact one will do, and a solver is given an inequality"
LOOSE_REMEDY = (
    "the network is convex because of ranges: write it without (a ReLU of an argument that is never negative is the "
    "argument), or minimise it with cx.minimise"
)
LOWER_BOUND = (
    "is not a convex constraint: the points where a convex function is at least c need not form a convex set. The "
    "tangent plane at a point lies below the network, so that it gives an inner approximation: set the variable's "
    "value and write cvxpy.linearize(expression) >= c, which is stricter. (An upper bound, expression <= c, is convex.)"
)
