"""Draw rows of small grey pictures: completed faces, filled digits, exemplars."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from convexnet.lab.reports.expert_pictures import packed, unpacked
from convexnet.lab.reports.page import Panel
from convexnet.lab.reports.pictures import Draw, picture
from convexnet.lab.reports.theme import Theme
from convexnet.lab.runs.records import Row


def packed_faces(pictures: Tensor) -> str:
    """Pictures (N, 1, H, W) from 0 to 1 as text; `unpacked` reads them as bytes."""
    return packed((pictures.clamp(0, 1) * 255).round().to(torch.uint8))


def grid_of(rows: Sequence[tuple[str, Tensor]]) -> Draw:
    """Rows of pictures (N, H, W), bytes, each with its title above."""

    def draw(figure: Figure, theme: Theme) -> None:
        for index, (title, row) in enumerate(rows):
            axes = figure.add_subplot(len(rows), 1, index + 1)
            axes.imshow(torch.cat(list(row), 1).numpy(), cmap="gray", vmin=0, vmax=255, aspect="equal")
            axes.set_axis_off()
            axes.set_title(title, fontsize=8, color=theme.muted, pad=2)

    return draw


def completed(title: str, side: str, rows: Sequence[tuple[str, Row]]) -> Panel:
    """True pictures on top, and below a row for each model with what it made of them, and its error."""
    shape = rows[0][1]["picture"]
    lines = [("true", unpacked(rows[0][1]["faces"], shape).to(torch.uint8))]
    said: list[str] = []
    for name, row in rows:
        lines.append((f"{name}: {row['test_mse']:.0f}", unpacked(row["completions"], row["picture"]).to(torch.uint8)))
        said.append(f"{name} {row['test_mse']:.0f}")
    size = (4.6, 0.95 * len(lines) * 4.6 / max(4, 1.05 * len(lines[0][1])))
    alt = f"Rows of faces, the true ones and those completed by each model. Mean squared errors: {'; '.join(said)}."
    return Panel(
        picture(title, alt, grid_of(lines), size), f"The {side} half is made by the model; beside it, its error."
    )
