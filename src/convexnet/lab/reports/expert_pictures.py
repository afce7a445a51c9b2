"""Draw which expert a gate prefers where, what each expert separates, and the mean image of each one's share."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from convexnet.lab.data import Split
from convexnet.lab.reports.pictures import Draw
from convexnet.lab.reports.plane_pictures import EXTENT, frame_plane
from convexnet.lab.reports.theme import Theme

COLOURS = (
    *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee"),
    *("#aa3377", "#999933", "#bb5500", "#7755bb", "#808080"),
)
"""Of the experts, by number, on either ground; the numbers stand in the picture too, as ten colours are too many."""


def packed(values: Tensor) -> str:
    """Numbers from 0 to 255, (...), as compressed bytes in base64.

    Example:
        >>> unpacked(packed(torch.tensor([[0, 7], [255, 1]])), (2, 2)).tolist()
        [[0, 7], [255, 1]]
    """
    return base64.b64encode(zlib.compress(bytes(values.flatten().tolist()), 9)).decode()


def unpacked(text: str, shape: Sequence[int]) -> Tensor:
    """The numbers that `packed` wrote, in this shape."""
    return torch.tensor(list(zlib.decompress(base64.b64decode(text)))).reshape(tuple(shape))


def colour(index: int) -> str:
    """The colour of an expert."""
    return COLOURS[index % len(COLOURS)]


def axis_of(side: int) -> list[float]:
    """The coordinates of a grid of the plane."""
    return torch.linspace(-EXTENT, EXTENT, side).tolist()


def partition(chosen: Tensor, data: Split | None = None) -> Draw:
    """Which expert (side, side) is preferred at every point of `plane_pictures.grid`, with its number."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        axis = axis_of(len(chosen))
        for index in chosen.unique().tolist():
            here = chosen == index
            axes.contourf(axis, axis, here.double().numpy(), levels=[0.5, 1.5], colors=[colour(index)], alpha=0.45)
            row, column = middle(here)
            axes.text(axis[column], axis[row], str(index + 1), color=theme.ink, ha="center", va="center", fontsize=13)
        if data is not None:
            inside = data.inputs[data.labels == 1][:300].numpy()
            axes.scatter(inside[:, 0], inside[:, 1], s=5, color=theme.ink, linewidths=0, rasterized=True)
        frame_plane(axes)

    return draw


def boundaries(signs: Tensor, chosen: Tensor, data: Split) -> Draw:
    """What each expert (experts, side, side; 0 or 1) separates, drawn strong where the gate prefers it."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        axis = axis_of(chosen.shape[0])
        inside = data.inputs[data.labels == 1][:300].numpy()
        axes.scatter(inside[:, 0], inside[:, 1], s=5, color=theme.muted, linewidths=0, rasterized=True)
        for index in chosen.unique().tolist():
            sheet = signs[index].double()
            if sheet.min() == sheet.max():
                continue  # it gives one class to everything here
            axes.contour(
                axis, axis, sheet.numpy(), levels=[0.5], colors=[colour(index)], linewidths=0.9, linestyles="dotted"
            )
            # Blurred by half a cell the line would leave its partition; outside of it nothing is drawn.
            shown = sheet.masked_fill(chosen != index, torch.nan)
            axes.contour(axis, axis, shown.numpy(), levels=[0.5], colors=[colour(index)], linewidths=2.4)
        frame_plane(axes)

    return draw


def middle(here: Tensor) -> tuple[int, int]:
    """A place (row, column) deep inside a region (side, side): the last one left as its border is taken off."""
    left = here.clone()
    while True:
        inner = left.clone()
        inner[0], inner[-1], inner[:, 0], inner[:, -1] = False, False, False, False
        inner[1:] &= left[:-1]
        inner[:-1] &= left[1:]
        inner[:, 1:] &= left[:, :-1]
        inner[:, :-1] &= left[:, 1:]
        if not bool(inner.any()) or bool((inner == left).all()):
            places = left.nonzero()
            row, column = places[len(places) // 2].tolist()
            return row, column
        left = inner


def mean_images(images: Tensor, counts: Sequence[int]) -> Draw:
    """Images (experts, channels, height, width) of bytes, with the number of each expert and of its samples."""

    def draw(figure: Figure, theme: Theme) -> None:
        across = min(5, len(images))
        down = -(-len(images) // across)
        for index, (image, count) in enumerate(zip(images, counts, strict=True)):
            axes = figure.add_subplot(down, across, index + 1)
            axes.set_xticks([])
            axes.set_yticks([])
            if count:
                shown = image.permute(1, 2, 0).to(torch.uint8).numpy()
                axes.imshow(shown[..., 0] if shown.shape[2] == 1 else shown, cmap="gray", vmin=0, vmax=255)
            axes.set_title(f"{index + 1}: {count}", fontsize=8, color=theme.muted)

    return draw
