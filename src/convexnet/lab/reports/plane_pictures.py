"""Draw networks in the plane and on a line, from their outputs alone, for figures 2 and 3 and the demo."""

from __future__ import annotations

from typing import Any, cast

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from torch import Tensor

from convexnet.lab.data import Split
from convexnet.lab.reports.pictures import Draw, plain_axes
from convexnet.lab.reports.theme import Theme

EXTENT = 1.9
"""Half the side of the square that the pictures show; the crescents lie well inside it."""


def grid(side: int) -> Tensor:
    """The square of the pictures as (side * side, 2) points, rows of constant second coordinate first."""
    axis = torch.linspace(-EXTENT, EXTENT, side)
    second, first = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([first.flatten(), second.flatten()], dim=1)


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
        frame_plane(axes)

    return draw


def frame_plane(axes: Axes) -> None:
    """Make of axes the square of the plane, without numbers."""
    axes.set_xlim(-EXTENT, EXTENT)
    axes.set_ylim(-EXTENT, EXTENT)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)


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
