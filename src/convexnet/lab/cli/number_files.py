"""Arrays of numbers from .npy, .npz and .csv files, for the options of `minimise` and `impute` that take a file."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from convexnet.arrays import REAL
from convexnet.lab.data.files import arrays_in
from convexnet.lab.errors import UsageError

ENDINGS = (".csv", ".npy", ".npz")


def arrays_of(path: Path, option: str, *, gaps: bool = False) -> list[Any]:
    """Read the arrays of a file: one of a .csv (rows, columns) or a .npy, those of a .npz in the order of their names.

    Args:
        path: the file.
        option: what error messages call it.
        gaps: whether an empty cell of a .csv is a number that is missing, NaN.

    Raises:
        UsageError: it cannot be read, or does not hold numbers.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{option} is a .npy, .npz or .csv file, not {path.name}")
    try:
        if path.suffix.lower() == ".csv":
            return [rows_of(path, gaps)]
        found = arrays_in(path)
        named = (
            {path.name: found}
            if isinstance(found, np.ndarray)
            else {f"{path.name}, array {name!r}": found[name] for name in sorted(found)}
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as numbers: {error}") from None
    if not named:
        raise UsageError(f"{path} holds no arrays")
    for name, array in named.items():
        if array.dtype.kind not in REAL:
            raise UsageError(f"{name} holds entries of type {array.dtype}, not real numbers")
    return list(named.values())


def rows_of(path: Path, gaps: bool = False) -> Any:
    """Read the numbers of a .csv file, (rows, columns); a first line without numbers is a header, and is skipped.

    Raises:
        UsageError: a cell is not a number, or rows differ in length; with line and column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path} cannot be read as numbers: it is not a text file in UTF-8") from None
    lines = [(number, cells) for number, cells in enumerate(csv.reader(text.splitlines()), 1) if not is_empty(cells)]
    if len(lines) > 1 and not any(is_number(cell) for cell in lines[0][1]) and any(map(is_number, lines[1][1])):
        number, names = lines.pop(0)
        shown = ", ".join(name.strip() for name in names[:6]) + (", ..." if len(names) > 6 else "")
        print(f"convexnet: {path}: line {number} is taken for a header ({shown}) and skipped", file=sys.stderr)
    if not lines:
        raise UsageError(f"{path} cannot be read as numbers: it holds no rows")
    rows: list[list[float]] = []
    for number, cells in lines:
        if len(cells) != len(lines[0][1]):
            raise UsageError(
                f"{path}, line {number} has {len(cells)} columns, and line {lines[0][0]} has {len(lines[0][1])}: every "
                "row is one sample"
            )
        rows.append(
            [
                math.nan if gaps and not cell.strip() else number_in(cell, f"{path}, line {number}, column {i}")
                for i, cell in enumerate(cells, 1)
            ]
        )
    return np.array(rows)


def is_empty(cells: list[str]) -> bool:
    """Whether a line holds nothing, or a comment."""
    return not any(cell.strip() for cell in cells) or cells[0].lstrip().startswith("#")


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def number_in(cell: str, where: str) -> float:
    """The number of a cell.

    Raises:
        UsageError: there is none.
    """
    if is_number(cell):
        return float(cell)
    if not cell.strip():
        raise UsageError(f"{where} is empty: every sample needs every number")
    other = next((name for sign, name in ((";", "semicolons"), ("\t", "tabs")) if sign in cell), None)
    if other is not None:
        raise UsageError(
            f"{where} cannot be read as a number: {cell!r}; columns seem to be separated by {other}: use commas"
        )
    raise UsageError(f"{where} cannot be read as a number: {cell!r}")
