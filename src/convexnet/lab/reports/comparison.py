"""Make the tables of studies: our numbers beside the paper's, as means over seeds with confidence intervals.

A line says what sets its runs apart from the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convexnet.lab.reports.page import Table
from convexnet.lab.reports.papers import Numbers
from convexnet.lab.runs.records import Row

NOT_RUN = "not run"
SHORTENED = "shortened"

COLUMNS = (
    *("paper train", "paper test", "paper gap", "train", "test", "gap", "test at peak", "ECE", "certified", "seeds"),
    "run",
)


@dataclass(frozen=True)
class Line:
    """One line of a comparison: what it is called, the records of all seeds, and the paper's numbers."""

    words: Sequence[str]
    rows: Sequence[Row]
    paper: Numbers | None = None

    @property
    def counted(self) -> list[Row]:
        """The full runs; where there are none, the shortened ones of the most common kind, the longest of several."""
        full = [row for row in self.rows if row["full"]]
        if full or not self.rows:
            return full
        kinds = [(row["epochs"], row["train_samples"]) for row in self.rows]
        kind = max(kinds, key=lambda kind: (kinds.count(kind), kind))
        return [row for row in self.rows if (row["epochs"], row["train_samples"]) == kind]


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half of its 95 % confidence interval by Student's t; None for fewer than two values.

    Example:
        >>> mean, half = interval([1.0, 2.0, 3.0])
        >>> mean, round(half, 3)
        (2.0, 2.484)
    """
    from scipy import stats

    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return mean, None
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, float(stats.t.ppf(0.975, count - 1)) * (variance / count) ** 0.5


def shown(values: Sequence[float | None], scale: float = 100.0, digits: int = 2) -> str:
    """Mean ± half of the interval, of shares in percent; a dash where nothing was measured.

    Example:
        >>> shown([0.5, 0.52]), shown([0.5]), shown([])
        ('51.00 ± 12.71', '50.00', '–')
    """
    known = [value * scale for value in values if value is not None]
    if not known:
        return "–"
    mean, half = interval(known)
    said = f"{mean:.{digits}f}" if half is None else f"{mean:.{digits}f} ± {half:.{digits}f}"
    return said.replace("-", "−")


def signed(points: Sequence[float]) -> str:
    """The mean of differences with its sign, ± half of the interval; a dash where there are none.

    Example:
        >>> signed([1.0, 2.0, 3.0]), signed([-0.5]), signed([])
        ('+2.00 ± 2.48', '−0.50', '–')
    """
    if not points:
        return "–"
    mean, half = interval(points)
    return (f"{mean:+.2f}" if half is None else f"{mean:+.2f} ± {half:.2f}").replace("-", "−")


def comparison(caption: str, heads: Sequence[str], lines: Sequence[Line], *, paper: bool = True) -> Table:
    """A table of lines; one without records says "not run". Without `paper`, its columns are left out."""
    columns = [*heads, *(COLUMNS if paper else COLUMNS[3:])]
    rows = [[*line.words, *(theirs(line.paper) if paper else []), *ours(line.counted)] for line in lines]
    return Table(caption, columns, rows, text=len(heads))


def theirs(numbers: Numbers | None) -> list[str]:
    """The paper's cells."""
    if numbers is None:
        return ["–"] * 3
    spreads = [f" ± {half:.2f}" if half else "" for half in numbers.spread or (0.0, 0.0)]
    values = [f"{numbers.train:.2f}{spreads[0]}", f"{numbers.test:.2f}{spreads[1]}", f"{numbers.gap:.2f}"]
    return [value.replace("-", "−") for value in values]


def ours(rows: Sequence[Row]) -> list[str]:
    """Our cells."""
    if not rows:
        return ["–"] * 7 + [NOT_RUN]
    proved = sum(bool(row["certified"]) for row in rows)
    names = ("train_accuracy", "test_accuracy", "gap", "test_accuracy_at_peak")
    return [
        *(shown([row[name] for row in rows]) for name in names),
        shown([row["ece"] for row in rows], scale=1.0, digits=3),
        f"{proved} of {len(rows)}",
        str(len({row["seed"] for row in rows})),
        extent(rows),
    ]


def extent(rows: Sequence[Row]) -> str:
    """How long and on how many images, and whether that is shortened.

    Example:
        >>> extent([{"epochs": 15, "train_samples": 10000, "full": False}])
        'shortened: 15 epochs, 10,000 images'
    """
    epochs = sorted({int(row["epochs"]) for row in rows})
    span = str(epochs[0]) if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
    said = f"{span} epoch{'' if span == '1' else 's'}, {max(int(row['train_samples']) for row in rows):,} images"
    return said if all(row["full"] for row in rows) else f"{SHORTENED}: {said}"
