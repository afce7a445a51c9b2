"""Draw the pictures of the demo's page, each twice (light and dark), as SVG with a transparent ground.

Every panel is a picture of its own, narrow enough to be read on a telephone; the page puts them side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import nn

from convexnet.lab.data import Split
from convexnet.lab.demo.contest import Run
from convexnet.lab.reports.pictures import Draw, plain_axes
from convexnet.lab.reports.plane_pictures import grid, larger_of, regions, sheets
from convexnet.lab.reports.theme import Theme
from convexnet.lab.runs.metrics import classes_of
from convexnet.lab.training.epoch import predict


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


def boundary(data: Split, model: nn.Module | None, side: int = 220) -> Draw:
    """The points of both classes and, if a model is given, the regions it gives to them."""
    return regions(data, None if model is None else classes_of(predict(model, grid(side))).reshape(side, side))


def surfaces(model: nn.Module, elevation: float, azimuth: float, side: int = 40) -> Draw:
    """The two outputs of `model` over the plane, one surface for each class, from one viewpoint."""
    return sheets(predict(model, grid(side)), elevation, azimuth)


def argmax_on_a_line(model: nn.Module) -> Draw:
    """Two convex functions of one variable on [-2, 2] and, below them, which of the two is larger."""
    return larger_of(predict(model, torch.linspace(-2, 2, 801)[:, None]))
