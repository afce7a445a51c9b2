"""CVXPY's atoms and ours: values and curvatures agree, and docs/atoms.md shows what was found.

CVXPY states the curvature of an atom by its name, and `certify` that of a traced function by its operators. Neither
knows what the other does, so that CVXPY is an oracle for every row of `tests/atoms.py`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import convexnet as cx
from tests.atoms import (
    COMMAND,
    LEFT_OUT,
    PAGE,
    ROWS,
    Row,
    Tilted,
    Total,
    cp,
    found,
    names,
    rewritten,
    values,
    variables,
    written,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:Solution may be inaccurate", "ignore:.*is being approximated", "ignore:.*don't support CPP backend"
)

AS_A_WHOLE = "on its values and tangents alone"


def shown(row: Row) -> str:
    return written()[row][1]


@pytest.mark.parametrize("row", ROWS, ids=shown)
def test_a_row(row: Row) -> None:
    ours, theirs = values(row)
    np.testing.assert_allclose(ours, theirs, rtol=row.near, atol=row.near)
    what = found(row)
    if row.why:
        assert what.curvature == "unknown"
        assert not what.negative
    else:
        assert what.curvature == what.theirs
        assert what.negative == (what.curvature != "convex"), "of f and -f both are certified only where f is affine"


CERTIFIED = [row for row in ROWS if not row.why]
OPTIMA = CERTIFIED[::9]
"""Rows whose optima are compared in every run; the others are slow."""


def check_optimum(row: Row, seed: int) -> None:
    """The least value on a box, of f or of -f, with a slope that makes of most minimisers inner points."""
    lo, hi = row.box or (-1.5, 2.0)
    lo, hi = lo + 0.1, min(hi, 2.0)
    found_by_us = cx.minimise(
        tilted := Tilted(row, found(row).total, seed, (lo, hi)), cx.Box(lo, hi, shape=row.shape), tol=1e-7
    )
    assert bool(found_by_us.converged), found_by_us.message
    symbols = variables(row)
    atom, sign = row.atom(*symbols), 1 if found(row).total == 2 else -1
    flat = cp.hstack([cp.vec(symbol, order="C") if symbol.ndim else symbol for symbol in symbols])
    inside = [bound for symbol in symbols for bound in (symbol >= lo, symbol <= hi)]
    cost = sign * (cp.sum(atom) if atom.ndim else atom) + tilted.slope.flatten().numpy() @ flat
    problem = cp.Problem(cp.Minimize(cost), inside)
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    room = 2e-6 * (1 + abs(problem.value))
    if row.near < 0.01:
        assert float(found_by_us.lower_bound) - room <= problem.value <= float(found_by_us.value) + room
    else:  # an approximation: its minimiser is a point, and no more
        theirs = np.concatenate([np.asarray(symbol.value).ravel() for symbol in symbols]).clip(lo, hi)
        at_theirs = float(tilted(torch.as_tensor(theirs).reshape(1, *row.shape)))
        assert float(found_by_us.lower_bound) <= at_theirs + room
        assert float(found_by_us.value) <= at_theirs + room


@pytest.mark.parametrize("row", OPTIMA, ids=shown)
def test_a_sample_of_optima(row: Row, seed: int) -> None:
    check_optimum(row, seed)


@pytest.mark.slow
@pytest.mark.parametrize("row", CERTIFIED, ids=shown)
def test_optima(row: Row, seed: int) -> None:
    check_optimum(row, seed)


def test_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert rewritten(page) == page, f"docs/atoms.md shows something else than is found: `{COMMAND}` rewrites its rows"


def test_every_atom_has_a_row_or_a_reason() -> None:
    public = {name for name in dir(cp.atoms) if name[0].islower() and callable(getattr(cp, name, None))}
    assert not public - names()
    listed = [name for names in LEFT_OUT.values() for name in names.split()]
    assert not [name for name in listed if not hasattr(cp, name) and not hasattr(cp.atoms, name)]
    assert len(listed) == len(set(listed))


SPOT = ("x.abs()", "x.exp()", "x * (x > 0)", "x.lgamma()", "x.sort(1).values @ w", "x**3")
"""Exports to both and to one, functions on boxes, and one without a cone."""


def asked(row: Row) -> tuple[bool, tuple[str, ...]]:
    """Whether `minimise` opens a function, and who exports it, by the functions that users call."""
    model = Total(row, found(row).total)
    fast = AS_A_WHOLE not in cx.minimise(model, row.bounds, max_steps=1).message
    exports: list[str] = []
    for name, export in (
        ("to_cvxpy", lambda: cx.to_cvxpy(model, cp.Variable(row.shape, bounds=list(row.box or (-np.inf, np.inf))))),
        ("to_lp", lambda: cx.to_lp(model, row.bounds)),
    ):
        try:
            export()
        except cx.NotCertified:
            continue
        exports.append(name)
    return fast, tuple(exports)


@pytest.mark.parametrize("row", [row for row in ROWS if shown(row) in SPOT], ids=shown)
def test_what_users_call_says_the_same(row: Row) -> None:
    assert asked(row) == (found(row).fast, found(row).exports)


@pytest.mark.slow
def test_what_users_call_says_the_same_of_every_row() -> None:
    for row in ROWS:
        if found(row).curvature != "unknown":
            assert asked(row) == (found(row).fast, found(row).exports), shown(row)
