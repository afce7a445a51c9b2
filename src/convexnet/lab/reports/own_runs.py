"""Report runs that belong to no study, such as those of `convexnet train`: a table and curves, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from convexnet.lab.models.registry import MODELS
from convexnet.lab.reports.comparison import shown
from convexnet.lab.reports.page import Panel, Section, Table
from convexnet.lab.reports.pictures import picture, plain_axes
from convexnet.lab.reports.theme import Theme
from convexnet.lab.runs.records import CLASSIFICATION, COMMON, Row
from convexnet.learner import COUNTERS, Point, moment_of

COLOURS = ("nn", "ioc", "first", "second")
"""Colours of a theme for the runs of one picture, which shows as many runs as there are colours."""

DASHED = (0, (4, 2))

MEASURES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"accuracy": ("Accuracy", "accuracy"), "loss": ("Loss", "loss")}
)
"""What is drawn of a classifier: the end of the measure's name, the picture's title, and the axis' label."""


def sections(rows: Sequence[Row]) -> list[Section]:
    """Return one section for each task: a line of the table for each run, and the curves of up to four in a picture."""
    found: list[Section] = []
    rows = [row for row in rows if task_of(row) != CLASSIFICATION or row.get("train_accuracy") is not None]
    for task in dict.fromkeys(task_of(row) for row in rows):
        own = [row for row in rows if task_of(row) == task]
        names = labels(own)
        if task == CLASSIFICATION:
            text = (
                "Accuracies are in percent. “Train (used)” counts the labels that the network was given, “train "
                "(true)” the correct ones; the gap is the first minus test accuracy."
            )
            tables, panels = [classifiers(own, names)], classifier_panels(own, names)
            found.append(
                Section("What each run reached", text, panels, legend="lines" if panels else "", tables=tables)
            )
        else:
            heading = f"What each run reached: {task}"
            found.append(Section(heading, "", measure_panels(own, names), tables=[measures(own, names)]))
    return found


def task_of(row: Row) -> str:
    """Return what a record's learner learns; records that do not say so are of classifiers."""
    return str(row.get("task", CLASSIFICATION))


def labels(rows: Sequence[Row]) -> list[str]:
    """Return a name for each run: network, data set, recipe, and what else tells it from the others.

    Example:
        >>> one = {"model": "mlp", "dataset": "digits", "recipe": {"name": "ours", "epochs": 2}, "seed": 0}
        >>> two = {**one, "recipe": {"name": "ours", "epochs": 4}}
        >>> labels([one, two])
        ['MLP, ours, epochs 2', 'MLP, ours, epochs 4']
        >>> labels([one])
        ['MLP, ours']
    """
    settings = [dict(flat(setting(row))) for row in rows]
    names = list(dict.fromkeys(name for one in settings for name in one))
    varied = [name for name in names if len({repr(one.get(name)) for one in settings}) > 1]
    # A convex network's own settings say nothing of an ordinary one, and the recipe's name stands for the rest of it.
    return [
        ", ".join(
            [
                title(row),
                str(row["recipe"].get("name", "")),
                *(
                    words(name, one[name])
                    for name in varied
                    if one.get(name) is not None and telling(name, one, settings)
                ),
            ]
        )
        for row, one in zip(rows, settings, strict=True)
    ]


def setting(row: Row) -> dict[str, Any]:
    """Return what may tell a run from another one of the same network."""
    names = ("dataset", "noise", "variant", "seed", "train_samples", "recipe")
    return {"network": title(row), **{name: row.get(name) for name in names}}


def flat(settings: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Yield the settings and those inside them, each under its last name."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            # The recipe's own name is in each label already.
            yield from flat({f"recipe {key}" if key == "name" else key: inner for key, inner in value.items()})
        else:
            yield name, value


def telling(name: str, one: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a setting tells a run from others of the same network and recipe."""
    if name in ("network", "recipe name"):
        return False
    if name in ("dataset", "noise", "seed"):
        return True
    alike = [other for other in settings if all(other.get(key) == one.get(key) for key in ("network", "recipe name"))]
    return len({repr(other.get(name)) for other in alike}) > 1


def words(name: str, value: object) -> str:
    """Return a setting as a label says it.

    Example:
        >>> words("dataset", "digits"), words("noise", "symmetric 40 %"), words("learning_rate", 0.001)
        ('digits', 'symmetric 40 % wrong labels', 'learning rate 0.001')
    """
    if name in ("dataset", "variant"):
        return str(value)
    if name == "noise":
        return f"{value} wrong labels" if value else "clean labels"
    return f"{name.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}"


def title(row: Row) -> str:
    """Return the network's name in tables."""
    return MODELS[row["model"]].title if row["model"] in MODELS else str(row["model"])


def classifiers(rows: Sequence[Row], names: Sequence[str]) -> Table:
    """Return the table of classifiers."""
    columns = ("run", "data set", "train (used)", "train (true)", "test", "gap", "test at peak", "ECE", "convex")
    cells: list[list[str]] = []
    for row, name in zip(rows, names, strict=True):
        shares = ("train_accuracy", "clean_train_accuracy", "test_accuracy", "gap", "test_accuracy_at_peak")
        noise = f", {row['noise']} wrong labels" if row.get("noise") else ""
        cells.append(
            [
                name,
                f"{row['dataset']}{noise}",
                *(shown([row.get(share)]) for share in shares),
                shown([row.get("ece")], scale=1.0, digits=3),
                "certified" if row["certified"] else "no",
                length(row),
            ]
        )
    return Table("", (*columns, "length"), cells, text=2)


def length(row: Row) -> str:
    """Return how long a network was trained, and on how much.

    Example:
        >>> length({"epochs": 8, "train_samples": 1212})
        '8 epochs, 1,212 images'
    """
    epochs = f"{row['epochs']} epoch{'' if row['epochs'] == 1 else 's'}"
    return f"{epochs}, {row['train_samples']:,} images" if row.get("train_samples") else epochs


def measures(rows: Sequence[Row], names: Sequence[str]) -> Table:
    """Return the table of other learners: the numbers of their records, whatever they are called."""
    known = COMMON | {"task", "epochs", "variant", "date"}
    columns = list(
        dict.fromkeys(key for row in rows for key, value in row.items() if key not in known and number(value))
    )
    cells = [
        [
            name,
            str(row["dataset"]),
            *(f"{row[key]:.6g}".replace("-", "−") if number(row.get(key)) else "–" for key in columns),
            "certified" if row["certified"] else "no",
        ]
        for row, name in zip(rows, names, strict=True)
    ]
    return Table("", ("run", "data set", *(column.replace("_", " ") for column in columns), "convex"), cells, text=2)


def number(value: object) -> bool:
    """Return whether a column of a record is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def classifier_panels(rows: Sequence[Row], names: Sequence[str]) -> list[Panel]:
    """Return accuracy and loss over epochs: a pair of pictures for each data set and each four runs on it."""
    panels: list[Panel] = []
    for place, some in batches(rows, names):
        for kind in MEASURES:
            lines = {f"train_{kind}": "-", f"test_{kind}": DASHED}
            if panel := drawn(f"{kind.capitalize()}, {place}", some, lines, kind, share=kind == "accuracy"):
                panels.append(panel)
    return panels


def measure_panels(rows: Sequence[Row], names: Sequence[str]) -> list[Panel]:
    """Return a picture for each quantity that the points of other learners have, and each four runs."""
    panels: list[Panel] = []
    for place, some in batches(rows, names):
        measured = dict.fromkeys(
            key for row, _ in some for point in row["curve"] for key in point if key not in COUNTERS
        )
        for key in measured:
            name = key.replace("_", " ")
            if panel := drawn(f"{name.capitalize()}, {place}", some, {key: "-"}, name):
                panels.append(panel)
    return panels


def batches(rows: Sequence[Row], names: Sequence[str]) -> Iterable[tuple[str, list[tuple[Row, str]]]]:
    """Yield the runs that share a picture, at most as many as there are colours, and what they have in common."""
    pairs = [(row, name) for row, name in zip(rows, names, strict=True) if row.get("curve")]
    for dataset in dict.fromkeys(row["dataset"] for row, _ in pairs):
        own = [pair for pair in pairs if pair[0]["dataset"] == dataset]
        for first in range(0, len(own), len(COLOURS)):
            some = own[first : first + len(COLOURS)]
            yield f"{dataset}{which_of(first + 1, first + len(some), len(own))}", some


def which_of(first: int, last: int, count: int) -> str:
    """Return which of some runs a picture shows, where it does not show all.

    Example:
        >>> which_of(1, 4, 4), which_of(1, 4, 5), which_of(5, 5, 5)
        ('', ', runs 1 to 4 of 5', ', run 5 of 5')
    """
    if (first, last) == (1, count):
        return ""
    return f", run {first} of {count}" if first == last else f", runs {first} to {last} of {count}"


def drawn(
    heading: str, runs: Sequence[tuple[Row, str]], lines: Mapping[str, Any], axis: str, *, share: bool = False
) -> Panel | None:
    """Return a line chart of some runs, a colour for each; None if no run has measured what it shows."""
    counter = counter_of([point for row, _ in runs for point in row["curve"]])
    found = [
        (name, colour, {key: series(row["curve"], key) for key in lines})
        for (row, name), colour in zip(runs, COLOURS, strict=False)
    ]
    found = [(name, colour, curves) for name, colour, curves in found if any(curves.values())]
    if not found:
        return None

    def draw(figure: Figure, theme: Theme) -> None:
        axes = plain_axes(figure, counter, axis)
        for _, colour, curves in found:
            for key, points in curves.items():
                x, y = [point[0] for point in points], [point[1] for point in points]
                marker = "o" if len(points) < 12 else None
                axes.plot(x, y, color=getattr(theme, colour), linestyle=lines[key], marker=marker, markersize=3)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if share:
            axes.set_ylim(0, 1.02)
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")

    ends = "; ".join(f"{name}: {ending(curves, share)}" for name, _, curves in found)
    alt = f"Line chart over {counter}s. {heading}. At the end: {ends}."
    return Panel(picture(heading, alt, draw), f"At the end: {ends}.", [(colour, name) for name, colour, _ in found])


def counter_of(points: Sequence[Point]) -> str:
    """Return what counts the points of some curves.

    Example:
        >>> counter_of([{"epoch": 1.0}]), counter_of([{"iteration": 1.0}]), counter_of([{"inertia": 1.0}])
        ('epoch', 'iteration', 'measurement')
    """
    return next((moment[0] for point in points if (moment := moment_of(point))), "measurement")


def series(curve: Sequence[Point], key: str) -> list[tuple[float, float]]:
    """Return the epochs or iterations at which a quantity was measured, or the numbers of the points, and its values.

    Example:
        >>> series([{"iteration": 2.0, "inertia": 0.5}, {"iteration": 4.0, "inertia": 0.25}], "inertia")
        [(2.0, 0.5), (4.0, 0.25)]
    """
    found: list[tuple[float, float]] = []
    for index, point in enumerate(curve, 1):
        if key in point:
            _, moment = moment_of(point) or ("", index)
            found.append((moment, point[key]))
    return found


def ending(curves: Mapping[str, Sequence[tuple[float, float]]], share: bool) -> str:
    """Return the last values in words.

    Example:
        >>> ending({"train_accuracy": [(1.0, 0.5)], "test_accuracy": [(1.0, 0.25)]}, share=True)
        'train 50.0 %, test 25.0 %'
        >>> ending({"inertia": [(1.0, 3.14159)]}, share=False)
        '3.142'
    """
    single = len(curves) == 1
    return ", ".join(
        ("" if single else f"{key.partition('_')[0]} ")
        + (f"{100 * points[-1][1]:.1f} %" if share else f"{points[-1][1]:.4g}").replace("-", "−")
        for key, points in curves.items()
        if points
    )
