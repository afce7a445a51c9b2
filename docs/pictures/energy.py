"""Draws energy.svg: decision regions of one network, learnt in three ways.

    python docs/pictures/energy.py

Two half moons of 120 points with noise of 0.2, a PICNN of 16-16 units, 25 epochs in batches of 60, seed 0. About half a
minute on one core. Needs `pip install '.[lab]'`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

import convexnet as cx

HERE = Path(__file__).resolve().parent
EPOCHS = 25

# One file serves both grounds: grey text and lines are read on light pages and on dark ones.
INK, ONE, OTHER = "#7a8494", "#bf4a00", "#0067b0"

WAYS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "max-margin": ("max-margin", cx.Simplex(2), {"tol": 1e-4}),
    "argmin, with the entropy of the cube": ("argmin", cx.Cube(1, entropy=True), {"tol": 1e-4}),
    "unrolled": ("unrolled", cx.Cube(1), {}),
}


def moons(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (count, 2) of two half moons, and their classes."""
    draws = torch.Generator().manual_seed(0)
    angle, labels = torch.pi * torch.rand(count, generator=draws), torch.arange(count) % 2
    x = torch.stack([labels + (1 - 2 * labels) * angle.cos(), labels / 2 + (1 - 2 * labels) * angle.sin()], 1)
    return x - x.mean(0) + 0.2 * torch.randn(count, 2, generator=draws), labels


def main() -> None:
    torch.set_num_threads(1)
    x, labels = moons(120)
    ticks = torch.linspace(-2.0, 2.0, 41)
    grid = torch.cartesian_prod(ticks, ticks)
    with mpl.rc_context({"svg.hashsalt": "convexnet", "svg.fonttype": "none", "font.size": 10, "text.color": INK}):
        figure = Figure(figsize=(8.4, 3.0), layout="constrained")
        for axes, (title, (how, domain, options)) in zip(figure.subplots(1, 3), WAYS.items(), strict=True):
            torch.manual_seed(0)
            size = domain.shape[0]
            f = cx.nn.PICNN(2, size, hidden=(16, 16))
            y = labels if size == 2 else labels.double()
            cx.energy.fit(f, x, y, domain, how, epochs=EPOCHS, batch=60, learning_rate=0.05, **options)
            if how == "unrolled":
                with torch.no_grad():
                    found = cx.energy.unrolled(f, torch.cat([x, grid]), domain)
            else:
                found = cx.energy.predict(f, torch.cat([x, grid]), domain, tol=1e-4)
            share = found[:, -1]
            right = ((share[: len(x)] > 0.5).long() == labels).double().mean()
            print(f"{title}: {float(right):.3f} of the training points", flush=True)
            heights = share[len(x) :].reshape(len(ticks), len(ticks)).T.numpy()
            side = ticks.numpy()
            axes.contourf(side, side, heights, levels=[-0.01, 0.5, 1.01], colors=[ONE, OTHER], alpha=0.25)
            for k, colour in enumerate((ONE, OTHER)):
                axes.scatter(*x[labels == k].T.numpy(), s=6, color=colour)
            axes.set_title(title, fontsize=10, color=INK)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_aspect("equal")
            for spine in axes.spines.values():
                spine.set_color(INK)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"
    (HERE / "energy.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
