"""Draw the pictures of studies from their records alone: curves, calibration, gain against gap, bars."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from convexnet.lab.models.registry import MODELS
from convexnet.lab.reports.comparison import Line, interval
from convexnet.lab.reports.page import Panel
from convexnet.lab.reports.papers import TABLE_1, TITLES
from convexnet.lab.reports.pictures import Draw, picture, plain_axes, reliability_diagram
from convexnet.lab.reports.theme import Theme
from convexnet.lab.runs.metrics import Reliability
from convexnet.lab.runs.records import Row


def curve_panels(rows: Sequence[Row], networks: Sequence[str], kinds: Sequence[str] = ("accuracy",)) -> list[Panel]:
    """Accuracy over epochs, one picture for each data set and recipe, of the first seed of every network.

    With "loss" among the `kinds`, its loss beside that.
    """
    panels: list[Panel] = []
    for dataset, recipe in dict.fromkeys((row["dataset"], row["recipe"]["name"]) for row in rows if row.get("curve")):
        drawn: list[Row] = []
        for network in networks:
            own = [r for r in rows if (r["dataset"], r["recipe"]["name"], r["model"]) == (dataset, recipe, network)]
            drawn += sorted(own, key=lambda row: (not row["full"], row["seed"]))[:1]
        if not drawn:
            continue
        ends = "; ".join(
            f"{MODELS[row['model']].title} train {100 * row['train_accuracy']:.1f} %, "
            f"test {100 * row['test_accuracy']:.1f} %"
            for row in drawn
        )
        short = "" if all(row["full"] for row in drawn) else " Shortened runs."
        title = f"{TITLES[dataset]}, {recipe}"
        for kind in kinds:
            alt = f"Line chart of {kind} over epochs, {title}. At the end: {ends}."
            name = title if kind == "accuracy" else f"{title}, {kind}"
            panels.append(
                Panel(picture(name, alt, curves(drawn, kind)), f"Seed {drawn[0]['seed']}, at the end: {ends}.{short}")
            )
    return panels


def curves(rows: Sequence[Row], kind: str = "accuracy", colours: Sequence[str] = ()) -> Draw:
    """Train (solid) and test (dashed) accuracy, or loss, of some runs, in the colours of their networks or in these."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = plain_axes(figure, "epoch", kind if kind == "accuracy" else "loss, nats")
        names = colours or [MODELS[row["model"]].colour for row in rows]
        for row, name in zip(rows, names, strict=True):
            for part, style in (("train", "-"), ("test", (0, (4, 2)))):
                measured = [point for point in row["curve"] if f"{part}_{kind}" in point]
                epochs = [point["epoch"] for point in measured]
                values = [point[f"{part}_{kind}"] for point in measured]
                marker = "o" if len(values) < 12 else None
                axes.plot(epochs, values, color=getattr(theme, name), linestyle=style, marker=marker, markersize=3)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if kind != "accuracy":
            axes.set_ylim(bottom=0)
            return
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")

    return draw


def reliability_panels(rows: Sequence[Row], networks: Sequence[str]) -> list[Panel]:
    """Reliability diagrams of the first seed, on the data set nearest to the paper's that there are records of."""
    found = [row for row in rows if row.get("reliability") and row["recipe"]["name"] == "paper-text"]
    order = ("cifar10", "cifar10-holdout", "fashion-mnist", "mnist", "digits")
    dataset = next((name for name in order if any(row["dataset"] == name for row in found)), None)
    panels: list[Panel] = []
    for network in networks:
        own = [row for row in found if (row["dataset"], row["model"]) == (dataset, network)]
        if not own or dataset is None:
            continue
        row = min(own, key=lambda row: (not row["full"], row["seed"]))
        bars = [Reliability(int(count), confidence, right) for count, confidence, right in row["reliability"]]
        caption = f"{TITLES[dataset]}, ECE {row['ece']:.3f}." + ("" if row["full"] else " Shortened run.")
        title = MODELS[network].title
        panels.append(
            Panel(
                picture(
                    title,
                    f"Reliability diagram of {title} on {caption}",
                    reliability_diagram(bars, network != "mlp"),
                    size=(2.9, 2.7),
                ),
                caption,
            )
        )
    return panels


def gain_panel(rows: Sequence[Row]) -> list[Panel]:
    """Fig. 5b: the ordinary network's gap against the convex one's gain, both in points, ours and the paper's."""
    ours: list[tuple[str, float, float]] = []
    short = False
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        means: dict[str, tuple[float, float]] = {}
        for network in ("mlp", "ioc-mlp"):
            own = [
                row
                for row in rows
                if (row["dataset"], row["model"], row["recipe"]["name"]) == (dataset, network, "paper-text")
            ]
            if own:
                short |= not all(row["full"] for row in own)
                tests, gaps = [row["test_accuracy"] for row in own], [row["gap"] for row in own]
                means[network] = 100 * sum(gaps) / len(gaps), 100 * sum(tests) / len(tests)
        if len(means) == 2:
            ours.append((dataset, means["mlp"][0], means["ioc-mlp"][1] - means["mlp"][1]))
    if not ours:
        return []
    paper = [
        (dataset, TABLE_1[dataset, "mlp"].gap, TABLE_1[dataset, "ioc-mlp"].test - TABLE_1[dataset, "mlp"].test)
        for dataset in dict.fromkeys(dataset for dataset, _ in TABLE_1)
    ]

    def draw(figure: Figure, theme: Theme) -> None:
        axes = plain_axes(figure, "gap of the ordinary network, points", "gain of the convex one, points")
        axes.axhline(0, color=theme.muted, linewidth=1)
        for found, colour, marker in ((paper, theme.muted, "x"), (ours, theme.ioc, "o")):
            axes.scatter([x for _, x, _ in found], [y for _, _, y in found], color=colour, marker=marker, s=28)
            for dataset, x, y in found:
                axes.annotate(
                    TITLES[dataset], (x, y), (4, 4), textcoords="offset points", fontsize=8, color=theme.muted
                )
        axes.margins(0.2)

    said = "; ".join(f"{TITLES[name]}: gap {x:.1f}, gain {y:+.1f}".replace("-", "−") for name, x, y in ours)
    caption = f"Ours, recipe paper-text{', shortened runs' if short else ''}: {said}."
    return [Panel(picture("Gain against gap", f"Scatter plot. {caption}", draw, size=(6.0, 4.0)), caption)]


def bars_panel(lines: Sequence[Line]) -> list[Panel]:
    """Test accuracy of every line that was run, as horizontal bars with confidence intervals."""
    drawn = [line for line in lines if line.counted]
    if not drawn:
        return []
    values = [interval([100 * row["test_accuracy"] for row in line.counted]) for line in drawn]

    def draw(figure: Figure, theme: Theme) -> None:
        axes = plain_axes(figure, "test accuracy, %", "")
        places = list(range(len(drawn)))[::-1]
        colours = [theme.ioc if MODELS[line.counted[0]["model"]].convex else theme.nn for line in drawn]
        axes.barh(places, [mean for mean, _ in values], color=colours, height=0.62)
        for place, (mean, half) in zip(places, values, strict=True):
            axes.hlines(place, mean - (half or 0), mean + (half or 0), color=theme.ink, linewidth=1.6)
        axes.set_yticks(places, [" ".join(word for word in line.words if word) for line in drawn])
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 100)

    short = "" if all(row["full"] for line in drawn for row in line.counted) else " Shortened runs."
    caption = f"Mean over seeds; the marks are 95 % confidence intervals.{short}"
    alt = "Bar chart of test accuracy: " + ", ".join(
        f"{' '.join(line.words)} {mean:.1f} %" for line, (mean, _) in zip(drawn, values, strict=True)
    )
    return [Panel(picture("Test accuracy by choice", alt, draw, size=(6.4, 0.4 + 0.27 * len(drawn))), caption)]
