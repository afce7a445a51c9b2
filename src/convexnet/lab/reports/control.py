"""Report control: learning curves over seeds, inter-quartile means and bootstrap intervals, next to the baselines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from convexnet.lab.reports.page import Panel, Section, Table
from convexnet.lab.reports.pictures import Draw, picture, plain_axes
from convexnet.lab.reports.theme import Theme
from convexnet.lab.runs.records import Row

MODELS = {
    "icnn-q": ("Q convex in the action (ours)", "ioc"),
    "naf": ("NAF", "nn"),
    "ddpg": ("DDPG", "first"),
    "td3": ("TD3", "second"),
    "sac": ("SAC", "muted"),
}
"""Titles, and colours of a theme."""

LEVELS = {
    "Pendulum-v1": "−160 (aimed at; DDPG and TD3 −152)",
    "InvertedPendulum-v5": "1000",
    "InvertedDoublePendulum-v5": "9340",
    "Reacher-v5": "−4 (paper, other version: −5.08)",
    "HalfCheetah-v5": "10,000 at 1M steps (paper, other version: 3823)",
}
"""What is aimed at, where actions have no limit of their own."""

DRAWS = 2000
"""Samples of a bootstrap."""


def quartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half, as `scipy.stats.trim_mean` with a quarter cut at both ends.

    Source: Agarwal et al., Deep reinforcement learning at the edge of the statistical precipice (NeurIPS 2021).

    Example:
        >>> quartile_mean([0.0, 1.0, 2.0, 300.0]), quartile_mean([5.0])
        (1.5, 5.0)
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def bootstrap(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """The percentile bootstrap interval of the inter-quartile mean; None for fewer than two values.

    Example:
        >>> bootstrap([1.0]) is None, bootstrap([2.0, 2.0, 2.0])
        (True, (2.0, 2.0))
    """
    if len(values) < 2:
        return None
    drawn = np.random.default_rng(0).choice(np.asarray(values, dtype=float), (DRAWS, len(values)))
    found = np.sort(drawn, axis=1)
    cut = len(values) // 4
    means = found[:, cut : len(values) - cut].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def shown(values: Sequence[float], digits: int = 1) -> str:
    """The inter-quartile mean and its interval.

    Example:
        >>> shown([-150.0]), shown([1.0, 1.0])
        ('−150.0', '1.0 [1.0, 1.0]')
    """
    said = f"{quartile_mean(values):.{digits}f}"
    if (ends := bootstrap(values)) is not None:
        said += f" [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"
    return said.replace("-", "−")


def title_of(row: Row) -> str:
    """The environment of a record, with its limit."""
    budget = row["recipe"].get("budget")
    return f"{row['dataset']}, Σ|a| ≤ {budget:g}" if budget else str(row["dataset"])


def sections(rows: Sequence[Row]) -> list[Section]:
    """A table and a learning curve for each environment, all of it one section."""
    found = [row for row in rows if row.get("task") == "control"]
    cells: list[list[str]] = []
    panels: list[Panel] = []
    for title in dict.fromkeys(title_of(row) for row in found):
        here = [row for row in found if title_of(row) == title]
        for model in dict.fromkeys([*(name for name in MODELS if any(row["model"] == name for row in here))]):
            own = [row for row in here if row["model"] == model]
            lengths = dict.fromkeys((bool(row["full"]), row["steps"]) for row in own)
            cells += [line_of(title, [row for row in own if (row["full"], row["steps"]) == one]) for one in lengths]
        panels.append(panel_of(title, here))
    caption = (
        "Returns without discount and without noise: mean of 20 episodes from seeds of their own after the last step, "
        "then the inter-quartile mean over seeds of learning with its 95 % bootstrap interval. “Proved” is the share "
        "of these actions whose gap to the best one is proved; “outside” the share of actions, exploration included, "
        "that the environment had to move into the polyhedron"
    )
    columns = ("environment", "method", "return", "best on the way", "certified", "proved", "outside", "seeds", "steps")
    text = (
        "Q-learning with a Q whose negative is convex in the action, so that the best action is found by convex "
        "minimisation; baselines have the same steps, widths, batch and discount, and else the defaults of their "
        "package. What is aimed at: " + "; ".join(f"{name} {level}" for name, level in LEVELS.items()) + "."
    )
    if not found:
        return [Section("Control", text + " Not run.")]
    return [Section("Control", text, tables=[Table(caption, (*columns, "versions"), cells, text=2)], panels=panels)]


def line_of(title: str, rows: Sequence[Row]) -> list[str]:
    """The cells of some seeds of one method."""
    first = rows[0]
    proved = [row["proved_actions"] for row in rows if "proved_actions" in row]
    packages = {f"{name} {number}" for row in rows for name, number in row["simulators"].items()}
    return [
        title,
        MODELS[first["model"]][0],
        shown([row["return"] for row in rows]),
        shown([row["best_on_the_way"] for row in rows]),
        f"{sum(bool(row['certified']) for row in rows)} of {len(rows)}",
        f"{100 * sum(proved) / len(proved):.1f} %" if proved else "–",
        f"{100 * sum(row['actions_outside'] for row in rows) / len(rows):.1f} %",
        str(len({row["seed"] for row in rows})),
        f"{first['steps']:,}" + ("" if first["full"] else ", shortened"),
        ", ".join(sorted(packages)),
    ]


def panel_of(title: str, rows: Sequence[Row]) -> Panel:
    """The learning curves of one environment."""
    names = [name for name in MODELS if any(row["model"] == name for row in rows)]
    ends = "; ".join(
        f"{MODELS[name][0]} {shown([row['curve'][-1]['return'] for row in rows if row['model'] == name])}"
        for name in names
    )
    said = f"At the end: {ends}."
    alt = f"Line chart of the return over the steps of learning, {title}. {said}"
    legend = [(MODELS[name][1], MODELS[name][0]) for name in names]
    return Panel(picture(title, alt, curves(rows, names)), said, legend)


def curves(rows: Sequence[Row], names: Sequence[str]) -> Draw:
    """Inter-quartile means over seeds, and their bootstrap intervals."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = plain_axes(figure, "steps", "return")
        for name in names:
            own = [row for row in rows if row["model"] == name]
            at: dict[float, list[float]] = {}
            for row in own:
                for point in row["curve"]:
                    at.setdefault(point["step"], []).append(point["return"])
            steps = sorted(step for step, values in at.items() if len(values) == len(own))
            colour = getattr(theme, MODELS[name][1])
            axes.plot(steps, [quartile_mean(at[step]) for step in steps], color=colour)
            if len(own) > 1:
                ends = [bootstrap(at[step]) or (0.0, 0.0) for step in steps]
                axes.fill_between(steps, [low for low, _ in ends], [high for _, high in ends], color=colour, alpha=0.2)
        axes.set_xlim(left=0)

    return draw
