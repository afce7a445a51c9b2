"""CVXPY's atoms and ours: values and curvatures agree, and docs/atoms.md shows what was found.

CVXPY states the curvature of an atom by its name, and `certify` that of a traced function by its operators. Neither
knows what the other does, so that CVXPY is an oracle for every row of `tests/atoms.py`.
"""

from __future__ import annotations

import numpy as np
import pytest

import convexnet as cx
from tests.atoms import COMMAND, LEFT_OUT, PAGE, ROWS, Row, Total, cp, found, names, rewritten, values, written

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
