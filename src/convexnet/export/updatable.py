"""A linear program of HiGHS whose numbers change in place with the network's other inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from convexnet.extras import need


@cache
def updatable_class() -> type[Any]:
    """`highspy.Highs` with `update(given)`; made when HiGHS is needed."""

    class UpdatableHighs(need("highspy").Highs):
        """A linear program that holds a network for one `given`; see `to_lp`."""

        def hold(self, lp: Any, read: Callable[[Any], Any]) -> None:
            """Hold a program, and how another one is made for another `given`."""
            self.own, self.read = lp, read
            self.passModel(lp)

        def update(self, given: Any) -> None:
            """Put in the numbers for another `given`, in place.

            Only what the network's own columns, rows and costs have other numbers for is changed: what was added to
            the program, or changed elsewhere, stays, and so does the basis, from which the next `run()` goes on.

            Args:
                given: as for `to_lp`, of the same shapes. The network is as it was when the program was made.

            Raises:
                ValueError, TypeError: another shape; or the network's rows are others for this `given` (a unit whose
                    weights are all zero has none): then make a new program.
            """
            new, old = self.read(given), self.own
            if new.row_names_ != old.row_names_ or new.col_names_ != old.col_names_:
                raise ValueError(
                    "for this given the network has other rows than the program, as where weights become exactly "
                    "zero: make a new one with to_lp"
                )
            change_numbers(self, old, new)
            self.own = new

    return UpdatableHighs


def change_numbers(highs: Any, old: Any, new: Any) -> None:
    """Change the numbers of a program that holds `old` to those of `new`, where they differ."""
    sparse = need("scipy.sparse")
    before, after = (
        sparse.csc_matrix(
            (np.array(lp.a_matrix_.value_), np.array(lp.a_matrix_.index_), np.array(lp.a_matrix_.start_)),
            shape=(lp.num_row_, lp.num_col_),
        )
        for lp in (old, new)
    )
    differs = (before != after).tocoo()
    if differs.nnz:
        values = np.asarray(after[differs.row, differs.col]).ravel()
        for row, column, value in zip(differs.row.tolist(), differs.col.tolist(), values.tolist(), strict=True):
            highs.changeCoeff(row, column, value)
    for names, change in (
        (("col_cost_",), highs.changeColCost),
        (("col_lower_", "col_upper_"), highs.changeColBounds),
        (("row_lower_", "row_upper_"), highs.changeRowBounds),
    ):
        was, now = (np.stack([np.array(getattr(lp, name)) for name in names]) for lp in (old, new))
        for i in np.flatnonzero((was != now).any(0)).tolist():
            change(i, *now[:, i].tolist())
    offset = highs.getLp().offset_
    highs.changeObjectiveOffset(new.offset_ if offset == old.offset_ else offset + (new.offset_ - old.offset_))
