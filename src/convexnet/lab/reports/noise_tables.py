"""Make the tables and pictures of studies with wrong labels: what was learnt, and what was memorised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from convexnet.lab.models.registry import MODELS
from convexnet.lab.reports.comparison import NOT_RUN, Line, extent, interval, shown, signed
from convexnet.lab.reports.page import Panel, Table
from convexnet.lab.reports.papers import TITLES
from convexnet.lab.reports.pictures import Draw, picture, plain_axes
from convexnet.lab.reports.theme import Theme
from convexnet.lab.runs.records import Row

MEASURED = (
    ("train", "train_accuracy"),
    ("train, true labels", "clean_train_accuracy"),
    ("wrong ones given back", "memorised_wrong_labels"),
    ("test", "test_accuracy"),
    ("test at peak", "test_accuracy_at_peak"),
)
"""Columns, and what records call them."""

WHAT = (
    "Accuracies in percent, mean ± half of the 95 % confidence interval over seeds (Student's t). “Train” is on the "
    "labels that were trained on, wrong ones included, in eval mode; “wrong ones given back” is the share of wrong "
    "labels that the network repeats. “Test at peak” is the test accuracy of the epoch with the best accuracy on a "
    "validation part whose labels are as wrong as those to train on: nobody who has wrong labels has others to choose "
    "by."
)
"""What the columns are, for the text of a section."""


def noise_table(
    caption: str,
    heads: Sequence[str],
    lines: Sequence[Line],
    paper: Mapping[Sequence[str], Sequence[str]] | None = None,
    paper_heads: Sequence[str] = (),
) -> Table:
    """A table of lines; `paper` has the source's cells by the words of a line. One without records says "not run"."""
    columns = [*heads, *paper_heads, *(name for name, _ in MEASURED), "certified", "seeds", "run"]
    rows: list[list[str]] = []
    for line in lines:
        theirs = list((paper or {}).get(tuple(line.words), ["–"] * len(paper_heads)))
        rows.append([*line.words, *theirs, *cells(line.counted)])
    return Table(caption, columns, rows, text=len(heads))


def cells(rows: Sequence[Row]) -> list[str]:
    """Our cells of a line."""
    if not rows:
        return ["–"] * (len(MEASURED) + 2) + [NOT_RUN]
    proved = f"{sum(bool(row['certified']) for row in rows)} of {len(rows)}"
    seeds = str(len({row["seed"] for row in rows}))
    return [*(shown([row.get(kind) for row in rows]) for _, kind in MEASURED), proved, seeds, extent(rows)]


def level_of(row: Row) -> float:
    """The percentage of labels that were drawn anew; 0 for people's labels and true ones.

    Example:
        >>> level_of({"noise": "symmetric-including 40 %"}), level_of({"noise": ""})
        (40.0, 0.0)
    """
    words = str(row.get("noise") or "").split()
    return float(words[1]) if len(words) == 3 else 0.0


def of_t0(rows: Sequence[Row]) -> str:
    """What the records of the ordinary network say of tier T0."""
    found = [row["shifted"] for row in rows if row.get("shifted")]
    if not found:
        return "No ordinary network was shifted into a convex one (T0)."
    alike = min(one["same_decision"] for one in found)
    return (
        f"T0: of {len(found)} ordinary networks {sum(one['certified'] for one in found)} are certified convex once "
        f"their logits are shifted alike, and decide as before on at least {100 * alike:.1f} % of 1,000 test images."
    )


# --- curves ----------------------------------------------------------------------------------------------------------


def loss_and_accuracy(title: str, row: Row) -> list[Panel]:
    """Accuracy and loss over epochs of one run, on the labels used and on the test part."""
    colour = MODELS[row["model"]].colour or ("ioc" if MODELS[row["model"]].convex else "nn")
    short = "" if row["full"] else " Shortened run."
    ends = f"train {100 * row['train_accuracy']:.1f} %, test {100 * row['test_accuracy']:.1f} %"
    where = f"{MODELS[row['model']].title}, {TITLES[row['dataset']]}"
    panels: list[Panel] = []
    for kind in ("accuracy", "loss"):
        alt = f"Line chart of {kind} over epochs, {title}: {where}. At the end: {ends}."
        name = f"{title}, {kind}"
        panels.append(
            Panel(
                picture(name, alt, curve(row, kind, colour)), f"{where}; seed {row['seed']}, at the end: {ends}.{short}"
            )
        )
    return panels


def curve(row: Row, kind: str, colour: str) -> Draw:
    """Train (solid) and test (dashed) values of one run."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = plain_axes(figure, "epoch", kind if kind == "accuracy" else "loss, nats")
        for part, style in (("train", "-"), ("test", (0, (4, 2)))):
            measured = [point for point in row["curve"] if f"{part}_{kind}" in point]
            values = [point[f"{part}_{kind}"] for point in measured]
            marker = "o" if len(values) < 12 else None
            epochs = [point["epoch"] for point in measured]
            axes.plot(epochs, values, color=getattr(theme, colour), linestyle=style, marker=marker, markersize=3)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_ylim(0, 1.02) if kind == "accuracy" else axes.set_ylim(bottom=0)

    return draw


# --- at matched training accuracy ------------------------------------------------------------------------------------


def at(train: float, runs: Sequence[tuple[float, float]]) -> float | None:
    """The test accuracy of a family of runs (train, test) at a training accuracy, between the two that are nearest.

    None outside of what the family reaches: nothing is extrapolated.

    Example:
        >>> at(0.6, [(0.5, 0.8), (0.7, 0.9)]), at(0.9, [(0.5, 0.8), (0.7, 0.9)])
        (0.85, None)
    """
    known = sorted(runs)
    for (x0, y0), (x1, y1) in pairwise(known):
        if x0 <= train <= x1:
            return y0 if x1 == x0 else round(y0 + (y1 - y0) * (train - x0) / (x1 - x0), 12)
    return None


def matched(
    caption: str, families: Mapping[str, Mapping[int, Sequence[Row]]], reference: str
) -> tuple[Table, list[Panel]]:
    """Each family at each of its lengths, and what the reference family reaches at the same training accuracy.

    Args:
        caption: of the table.
        families: by name, and by epochs, the records of all seeds; each is at the end of its own schedule.
        reference: the family that the others are compared with.
    """
    rows: list[list[str]] = []
    points: dict[str, list[tuple[float, float]]] = {}
    for name, lengths in families.items():
        for epochs, some in lengths.items():
            if not some:
                rows.append([name, str(epochs), *["–"] * 6, NOT_RUN])
                continue
            train, test = mean_of(some, "train_accuracy"), mean_of(some, "test_accuracy")
            points.setdefault(name, []).append((100 * train, 100 * test))
            there = [] if name == reference else reached(some, families[reference])
            rows.append(
                [
                    name,
                    str(epochs),
                    *(shown([row[kind] for row in some]) for kind in ("train_accuracy", "test_accuracy")),
                    shown([row["test_accuracy_at_peak"] for row in some]),
                    shown([other for _, other in there]),
                    signed([100 * (float(row["test_accuracy"]) - other) for row, other in there]),
                    str(len({row["seed"] for row in some})),
                    extent(some),
                ]
            )
    columns = ("network", "epochs", "train", "test", "test at peak", f"{reference} there", "difference", "seeds", "run")
    return Table(caption, columns, rows), family_panel(points, reference)


def reached(rows: Sequence[Row], reference: Mapping[int, Sequence[Row]]) -> list[tuple[Row, float]]:
    """The records for whose training accuracy the reference of the same seed has a test accuracy, each with it."""
    found: list[tuple[Row, float]] = []
    for row in rows:
        own = [r for some in reference.values() for r in some if r["seed"] == row["seed"]]
        ends = [(float(r["train_accuracy"]), float(r["test_accuracy"])) for r in own]
        other = at(float(row["train_accuracy"]), ends)
        if other is not None:
            found.append((row, other))
    return found


def mean_of(rows: Sequence[Row], kind: str) -> float:
    """The mean over seeds."""
    return interval([float(row[kind]) for row in rows])[0]


def family_panel(points: Mapping[str, Sequence[tuple[float, float]]], reference: str) -> list[Panel]:
    """Test against training accuracy of every family, a line for each."""
    if not points:
        return []
    names = list(points)
    colours = {reference: "nn"} | dict(
        zip([n for n in names if n != reference], ("ioc", "first", "second", "muted"), strict=False)
    )

    def draw(figure: Figure, theme: Theme) -> None:
        axes = plain_axes(figure, "train accuracy on the labels used, %", "test accuracy, %")
        for name in names:
            line = sorted(points[name])
            colour = getattr(theme, colours[name])
            axes.plot([x for x, _ in line], [y for _, y in line], color=colour, marker="o", markersize=4)

    said = "; ".join(f"{name}: " + ", ".join(f"{x:.1f} → {y:.1f}" for x, y in sorted(points[name])) for name in names)
    legend = [(colours[name], name) for name in names]
    caption = "Each point is the end of a schedule of its own; longer schedules lie further to the right."
    drawn = picture("Test against train accuracy", f"Line chart. Train → test: {said}.", draw, size=(6.0, 4.0))
    return [Panel(drawn, caption, legend)]
