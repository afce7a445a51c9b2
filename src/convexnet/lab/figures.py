"""The demo's pictures, each drawn twice (light and dark) as SVG with a transparent ground.

Every panel is a picture of its own, narrow enough to be read on a telephone; the page puts them side by side.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from torch import Tensor, nn

from convexnet.lab.data import Split
from convexnet.lab.demo import Run
from convexnet.lab.metrics import Reliability, classes_of
from convexnet.lab.plane import EXTENT, grid
from convexnet.lab.theme import DARK, LIGHT, Theme
from convexnet.lab.train import predict

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


def curves(runs: Sequence[Run], quantity: str, y: str, reference: float | None = None) -> Draw:
    """Train (solid) and test (dashed) curves of `train_<quantity>` and `test_<quantity>` over epochs."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = plain_axes(figure, "epoch", y)
        if reference is not None:
            axes.axhline(reference, color=theme.muted, linewidth=1, linestyle=(0, (1, 2)))
        for run in runs:
            colour = theme.first if run.role == "ours" else theme.ioc if run.convex else theme.nn
            epochs = [point["epoch"] for point in run.curve]
            for part, style in (("train", "-"), ("test", (0, (4, 2)))):
                values = [point[f"{part}_{quantity}"] for point in run.curve]
                axes.plot(epochs, values, color=colour, linestyle=style)
        axes.set_xlim(1, max(2, runs[0].curve[-1]["epoch"]))
        if quantity == "accuracy":
            axes.set_ylim(0, 1.02)
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        else:
            axes.set_ylim(bottom=0)

    return draw


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


def boundary(data: Split, model: nn.Module | None, side: int = 220) -> Draw:
    """The points of both classes and, if a model is given, the regions it gives to them."""
    return regions(data, None if model is None else classes_of(predict(model, grid(side))).reshape(side, side))


def regions(data: Split, classes: Tensor | None) -> Draw:
    """The points of both classes and, if given, the class (side, side) of every point of `plane.grid`."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        if classes is not None:
            axis = torch.linspace(-EXTENT, EXTENT, len(classes)).numpy()
            fill = [theme.first, theme.second]
            axes.contourf(axis, axis, classes.numpy(), levels=[-0.5, 0.5, 1.5], colors=fill, alpha=0.22)
            axes.contour(axis, axis, classes.numpy(), levels=[0.5], colors=[theme.ink], linewidths=1.4)
        for label, colour, marker in ((0, theme.first, "o"), (1, theme.second, "^")):
            points = data.inputs[data.labels == label][:150].numpy()
            axes.scatter(points[:, 0], points[:, 1], s=11, color=colour, marker=marker, linewidths=0, rasterized=True)
        axes.set_xlim(-EXTENT, EXTENT)
        axes.set_ylim(-EXTENT, EXTENT)
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(True)

    return draw


def surfaces(model: nn.Module, elevation: float, azimuth: float, side: int = 40) -> Draw:
    """The two outputs of `model` over the plane, one surface for each class, from one viewpoint."""
    return sheets(predict(model, grid(side)), elevation, azimuth)


def sheets(outputs: Tensor, elevation: float, azimuth: float) -> Draw:
    """Two outputs (side * side, 2) over `plane.grid`, one surface for each class, from one viewpoint."""

    def draw(figure: Figure, theme: Theme) -> None:
        # mplot3d's axes are untyped.
        axes = cast(Any, figure.add_subplot(projection="3d"))
        side = round(len(outputs) ** 0.5)
        points = grid(side)
        faces: list[Tensor] = []
        colours: list[str] = []
        for label, colour in ((0, theme.first), (1, theme.second)):
            corners = torch.cat([points, outputs[:, label : label + 1]], dim=1).reshape(side, side, 3)
            around = (corners[:-1, :-1], corners[1:, :-1], corners[1:, 1:], corners[:-1, 1:])
            faces.append(torch.stack(around, dim=2).reshape(-1, 4, 3))
            colours += [colour] * (side - 1) ** 2
        # One collection for both: within it faces are ordered by depth, so the surfaces hide each other correctly.
        together = Poly3DCollection(
            torch.cat(faces).numpy(), facecolors=colours, shade=True, alpha=0.93, linewidths=0, rasterized=True
        )
        axes.add_collection3d(together)
        axes.set_xlim(-EXTENT, EXTENT)
        axes.set_ylim(-EXTENT, EXTENT)
        axes.set_zlim(float(outputs.min()), float(outputs.max()))
        axes.view_init(elev=elevation, azim=azimuth)
        axes.set_box_aspect((1, 1, 0.75), zoom=1.18)
        axes.set_xticks([-1, 0, 1])
        axes.set_yticks([-1, 0, 1])
        axes.locator_params(axis="z", nbins=5)
        for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
            axis.set_pane_color((0, 0, 0, 0))
            axis.line.set_color(theme.line)

    return draw


def argmax_on_a_line(model: nn.Module) -> Draw:
    """Two convex functions of one variable on [-2, 2] and, below them, which of the two is larger."""
    return larger_of(predict(model, torch.linspace(-2, 2, 801)[:, None]))


def larger_of(outputs: Tensor) -> Draw:
    """Two functions (N, 2) on an even grid of [-2, 2] and, below them, which of the two is larger."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = plain_axes(figure, "x", "output")
        x = torch.linspace(-2, 2, len(outputs))
        second = (outputs[:, 1] > outputs[:, 0]).numpy()
        names = ("f (class A)", "g (class B)")
        styles = ("-", (0, (4, 2)))
        for label, colour in ((0, theme.first), (1, theme.second)):
            axes.plot(x.numpy(), outputs[:, label].numpy(), color=colour, label=names[label], linestyle=styles[label])
        span = float(outputs.max() - outputs.min())
        floor = float(outputs.min()) - 0.112 * span
        for mask, colour in ((~second, theme.first), (second, theme.second)):
            axes.fill_between(x.numpy(), floor, floor + 0.056 * span, where=list(mask), color=colour, linewidth=0)
        axes.set_xlim(-2, 2)
        axes.set_ylim(bottom=floor)
        axes.set_xticks([-2, -1, 0, 1, 2])
        axes.legend(frameon=False, loc="upper center")

    return draw
