"""Draw a picture as SVG twice (light and dark), with a transparent ground, for reports, studies and the demo.

Every panel is a picture of its own, narrow enough to be read on a telephone; the page puts them side by side.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from convexnet.lab.reports.theme import DARK, LIGHT, Theme
from convexnet.lab.runs.metrics import Reliability

Draw = Callable[[Figure, Theme], None]


@dataclass(frozen=True)
class Picture:
    """A drawn panel: two data addresses, what it is called, and what it shows in words for those who cannot see it."""

    title: str
    alt: str
    light: str
    dark: str
    width: int
    height: int


def picture(title: str, alt: str, draw: Draw, size: tuple[float, float] = (4.1, 2.9)) -> Picture:
    """Draw one panel for both grounds; `size` in inches, 96 page pixels each."""
    return Picture(
        title=title,
        alt=alt,
        light=_render(draw, LIGHT, size),
        dark=_render(draw, DARK, size),
        width=round(size[0] * 96),
        height=round(size[1] * 96),
    )


def _render(draw: Draw, theme: Theme, size: tuple[float, float]) -> str:
    settings: dict[str, Any] = {
        "axes.edgecolor": theme.line,
        "axes.labelcolor": theme.muted,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.size": 10,
        "grid.color": theme.line,
        "grid.linewidth": 0.7,
        "lines.linewidth": 1.9,
        "svg.fonttype": "none",
        "svg.hashsalt": "convexnet",
        "text.color": theme.ink,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
    }
    # `rc_context` is typed by the literal names of all settings; the keys above are such names.
    with mpl.rc_context(cast(Any, settings)):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure, theme)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, dpi=140, metadata={"Date": None, "Creator": None})
    # The words stay text, set in the reader's own typeface like the page around them.
    words = stream.getvalue().replace("'DejaVu Sans'", "system-ui, 'Segoe UI', Roboto, Arial")
    return "data:image/svg+xml;base64," + base64.b64encode(words.encode()).decode()


def plain_axes(figure: Figure, x: str, y: str) -> Axes:
    """Axes with a quiet grid and names."""
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.tick_params(length=0)
    axes.grid(visible=True)
    axes.set_axisbelow(True)
    return axes


def reliability_diagram(bars: Sequence[Reliability], convex: bool) -> Draw:
    """Accuracy in each bin of confidence (bars, paler with fewer images) and the bin's mean confidence (marks)."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = plain_axes(figure, "confidence", "accuracy")
        colour = theme.ioc if convex else theme.nn
        width = 1 / len(bars)
        fullest = max(bar.count for bar in bars)
        for index, bar in enumerate(bars):
            if bar.count:
                middle = (index + 0.5) * width
                shade = 0.25 + 0.65 * (bar.count / fullest) ** 0.5
                axes.bar(middle, bar.accuracy, width=0.86 * width, color=colour, alpha=shade)
                axes.hlines(
                    bar.confidence, middle - 0.43 * width, middle + 0.43 * width, color=theme.ink, linewidth=1.8
                )
        axes.plot([0, 1], [0, 1], color=theme.muted, linewidth=1, linestyle=(0, (1, 2)))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xticks([0, 0.5, 1])
        axes.set_yticks([0, 0.5, 1])

    return draw
