"""Draws minimise.svg, time against certified accuracy for every solver, from the record of `benchmarks/poster.py`.

    python docs/pictures/minimise.py [RECORD]

Also prints the table of what one accuracy costs. Needs `pip install '.[lab]'`; measures nothing.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

HERE = Path(__file__).resolve().parent
RECORD = HERE.parent.parent / "benchmarks" / "minimise.jsonl"

# One file serves both grounds: a style sheet inside it holds the colours of light pages and of dark ones.
COLOURS = {
    "ink": ("#1d232b", "#e8ebf0"),
    "muted": ("#5b6470", "#a3adba"),
    "line": ("#d5dae1", "#39424e"),
    "newton": ("#0067b0", "#62b5f6"),
    "bundle": ("#00796b", "#3fc9b0"),
    "pdhg": ("#a83279", "#f08cc6"),
    "admm": ("#7a4fb5", "#b795ea"),
    "fista": ("#b58900", "#e0b83f"),
    "adam": ("#bf4a00", "#ff9550"),
    "highs": ("#2b333d", "#dfe4eb"),
    "inexact": ("#8a94a1", "#8a94a2"),
    "cvxpy": ("#c4122f", "#ff6b81"),
}
STYLES: dict[str, tuple[str, str, str, str]] = {  # label, colour, marker, line
    **{f"minimise {name}": (name, name, "o", "-") for name in ("newton", "bundle", "pdhg", "admm", "fista", "adam")},
    "HiGHS simplex": ("HiGHS, simplex", "highs", "s", ""),
    "HiGHS ipm + crossover": ("HiGHS, interior point", "highs", "D", ""),
    "HiGHS ipm, no crossover": ("HiGHS, no crossover", "inexact", "D", ":"),
    "HiGHS hipdlp": ("HiGHS, hipdlp", "inexact", "v", ":"),
    "CVXPY ECOS": ("CVXPY, ECOS", "cvxpy", "^", ""),
    "CVXPY CLARABEL": ("CVXPY, Clarabel", "cvxpy", "P", ""),
}
LEFT, RIGHT = 0.5, 3e-9
"""Gaps at the edges."""

WANTED = 1e-4
"""The gap of the table."""

Row = dict[str, Any]


def table(rows: list[Row]) -> str:
    """Milliseconds a sample until all of the batch are certified to `WANTED`; else, in brackets, how far it came."""
    cells = sorted({(row["n"], row["batch"]) for row in rows})
    lines = [
        "| solver | " + " | ".join(f"n={n}, B={batch}" for n, batch in cells) + " |",
        "|---" * (len(cells) + 1) + "|",
    ]
    for solver, (label, *_) in STYLES.items():
        shown: list[str] = []
        for cell in cells:
            own = [row for row in rows if row["solver"] == solver and (row["n"], row["batch"]) == cell]
            own = [row for row in own if row["gap_largest"] is not None]
            fine = [row for row in own if row["gap_largest"] <= WANTED]
            if fine:
                shown.append(f"{1e3 * min(row['seconds_per_sample'] for row in fine):.3g}")
            else:
                shown.append(f"({min(row['gap_largest'] for row in own):.0e})" if own else "")
        if any(shown):
            lines.append(f"| {label} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def panel(axes: Axes, rows: list[Row]) -> None:
    """The curves of one number of variables and one batch; what was cut off by its time limit is hollow."""
    for solver, (_, colour, marker, line) in STYLES.items():
        own = [row for row in rows if row["solver"] == solver and row["gap_largest"] is not None]
        if not own:
            continue
        gaps = [min(max(row["gap_largest"], RIGHT), LEFT) for row in own]
        seconds = [row["seconds_per_sample"] for row in own]
        whole = sum(row["share"] == 1 for row in own)  # the last may have been cut off
        tone, wide = COLOURS[colour][0], 2.4 if colour == "newton" else 1.4
        axes.plot(gaps[:whole], seconds[:whole], color=tone, linestyle=line or "none", linewidth=wide, zorder=wide)
        for row, gap, spent in zip(own, gaps, seconds, strict=True):
            face = tone if row["share"] == 1 else "none"
            axes.plot(gap, spent, marker, color=tone, markerfacecolor=face, markersize=4.6, zorder=4)


def draw(rows: list[Row]) -> str:
    """The picture as SVG, its colours light."""
    light = {name: pair[0] for name, pair in COLOURS.items()}
    settings = {
        "axes.edgecolor": light["line"],
        "axes.labelcolor": light["muted"],
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.family": "sans-serif",
        "font.size": 9.5,
        "svg.fonttype": "none",
        "svg.hashsalt": "convexnet",
        "text.color": light["ink"],
        "xtick.color": light["muted"],
        "ytick.color": light["muted"],
    }
    sizes = sorted({row["n"] for row in rows})
    batches = sorted({row["batch"] for row in rows})
    with mpl.rc_context(settings):
        figure = Figure(figsize=(2.5 * len(sizes) + 0.4, 2.15 * len(batches) + 1.1), layout="constrained")
        grid = figure.subplots(len(batches), len(sizes), sharex=True, sharey=True, squeeze=False)
        for line, batch in zip(grid, batches, strict=True):
            for axes, n in zip(line, sizes, strict=True):
                cell = [row for row in rows if row["n"] == n and row["batch"] == batch]
                axes.set_title(f"n = {n}, batch {batch}", loc="left", color=light["ink"], fontsize=9.5)
                axes.set_xscale("log")
                axes.set_yscale("log")
                axes.set_xlim(LEFT * 1.6, RIGHT / 1.6)
                axes.set_xticks([1e-2, 1e-4, 1e-6, 1e-8], ["1e-2", "1e-4", "1e-6", "1e-8"])
                axes.minorticks_off()
                axes.grid(visible=True, color=light["line"], linewidth=0.6)
                axes.set_axisbelow(True)
                axes.tick_params(length=0)
                axes.spines[["bottom", "left"]].set_visible(False)
                if cell:
                    panel(axes, cell)
                else:
                    axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=light["muted"])
        seen = {row["solver"] for row in rows}
        handles = [
            Line2D([], [], color=light[colour], marker=marker, linestyle=line or "none", markersize=4.6, label=label)
            for solver, (label, colour, marker, line) in STYLES.items()
            if solver in seen
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, handlelength=2.2)
        figure.supylabel("seconds a sample", fontsize=9.5, color=light["muted"])
        figure.supxlabel("largest certified relative gap (better to the right)", fontsize=9.5, color=light["muted"])
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def both_grounds(svg: str) -> str:
    """Colours become variables of a style sheet that knows the reader's ground."""
    sheets = ["; ".join(f"--{name}: {pair[ground]}" for name, pair in COLOURS.items()) for ground in (0, 1)]
    for name, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{name})")
    style = f"<style>svg {{ {sheets[0]} }} @media (prefers-color-scheme: dark) {{ svg {{ {sheets[1]} }} }}</style>\n"
    start = svg.index(" <defs>")
    return "\n".join(line.rstrip() for line in (svg[:start] + style + svg[start:]).splitlines()) + "\n"


def main() -> None:
    record = Path(sys.argv[1]) if len(sys.argv) > 1 else RECORD
    rows = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    print(table(rows))
    (HERE / "minimise.svg").write_text(both_grounds(draw(rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
