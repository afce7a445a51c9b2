"""Draws initialisation.svg: how alike the units of each layer are, for five initialisations of one random network.

    python docs/pictures/initialisation.py

Twelve linear layers of width 800 with ELU between them, 1,000 standard normal inputs of dimension 800, five seeds; the
first layer is Glorot's throughout, without bias. About half a minute on one core. Needs `pip install '.[lab]'`.
"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import nn

from convexnet.initialise import correlation, initialise

HERE = Path(__file__).resolve().parent
WIDTH, DEPTH, SAMPLES, SEEDS = 800, 12, 1000, range(5)

# One file serves both grounds: a style sheet inside it holds the colours of light pages and of dark ones.
COLOURS = {
    "ink": ("#1d232b", "#e8ebf0"),
    "muted": ("#5b6470", "#a3adba"),
    "line": ("#d5dae1", "#39424e"),
    "ordinary": ("#6b7480", "#9aa5b3"),
    "paper": ("#bf4a00", "#ff9550"),
    "absolute": ("#a83279", "#f08cc6"),
    "lognormal": ("#0067b0", "#62b5f6"),
    "identity": ("#00796b", "#3fc9b0"),
}


def network(how: str) -> nn.Sequential:
    """The random network; what `initialise` does not offer is written out."""
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        layer = nn.Linear(WIDTH, WIDTH)
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ELU()]
    net = nn.Sequential(*layers[:-1])
    later = [f"{2 * i}.weight" for i in range(1, DEPTH)]
    if how == "absolute":
        for name in later:
            net.get_parameter(name).data.abs_()
    elif how != "ordinary":
        initialise(net, dict.fromkeys(later, torch.tensor(True)), how, "elu")
    return net


def measure(how: str) -> torch.Tensor:
    """Correlations (seeds, layers)."""
    rows: list[list[float]] = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        rows.append(list(correlation(network(how), torch.randn(SAMPLES, WIDTH)).values()))
    return torch.tensor(rows)


def draw(measured: dict[str, torch.Tensor]) -> str:
    """The picture as SVG, its colours light."""
    light = {name: pair[0] for name, pair in COLOURS.items()}
    settings = {
        "axes.edgecolor": light["line"],
        "axes.labelcolor": light["muted"],
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.family": "sans-serif",
        "font.size": 11,
        "lines.linewidth": 2.2,
        "svg.fonttype": "none",
        "svg.hashsalt": "convexnet",
        "text.color": light["ink"],
        "xtick.color": light["muted"],
        "ytick.color": light["muted"],
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(7.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        layers = range(1, DEPTH + 1)
        for how in ("ordinary", "identity", "lognormal", "absolute", "paper"):
            values = measured[how]
            style = (0, (3, 1.6)) if how == "identity" else "-"
            axes.fill_between(layers, values.amin(0), values.amax(0), color=light[how], alpha=0.22, linewidth=0)
            axes.plot(layers, values.mean(0), color=light[how], linestyle=style, marker="o", markersize=3.4)
        labels = {
            "absolute": ("|Glorot|", 1.9, 0.8, "right"),
            "paper": ("paper", 2.16, 0.54, "left"),
            "lognormal": ("log-normal", 4.14, 0.61, "left"),
            "identity": ("identity", DEPTH, 0.045, "right"),
            "ordinary": ("ordinary Glorot, weights of both signs", DEPTH, -0.075, "right"),
        }
        for how, (text, x, y, side) in labels.items():
            axes.text(x, y, text, color=light[how], ha=side, fontweight="bold")
        axes.set_xlim(0.7, DEPTH + 0.15)
        axes.set_ylim(-0.1, 1.04)
        axes.set_xticks(list(layers))
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes.grid(visible=True, axis="y", color=light["line"], linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines[["bottom", "left"]].set_visible(False)
        axes.set_xlabel("layer (the first is unconstrained)")
        axes.set_title("mean correlation between two units of a layer", loc="left", color=light["ink"], fontsize=11)
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
    torch.set_num_threads(1)
    measured = {how: measure(how) for how in ("ordinary", "paper", "absolute", "lognormal", "identity")}
    for how, values in measured.items():
        print(f"{how:10}", " ".join(f"{value:6.3f}" for value in values.mean(0).tolist()))
    (HERE / "initialisation.svg").write_text(both_grounds(draw(measured)), encoding="utf-8")


if __name__ == "__main__":
    main()
