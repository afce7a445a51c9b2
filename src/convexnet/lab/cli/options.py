"""Options that `train` and `study` share, and checks of their values that import nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convexnet.errors import meant
from convexnet.lab.cli.choices import DATASETS, LOSSES, MODELS
from convexnet.lab.cli.terminal import choice

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of the data sets, in torchvision's layout.", file_okay=False)
]
Threads = Annotated[int, typer.Option(min=1, help="Processor threads that torch may use.")]
Accelerator = Annotated[
    str,
    choice(("cpu", "cuda", "auto"), help="Where the networks are trained."),
]
Download = Annotated[bool, typer.Option("--download", help="Let torchvision download what is missing to --data-dir.")]


def percent(value: float) -> float:
    """A check of `--noise`; NaN does not pass."""
    if 0 < value < 1:
        raise typer.BadParameter(f"{value:g} is a share; write {100 * value:g} for {100 * value:g} %.")
    if not 0 <= value <= 100:
        raise typer.BadParameter(f"{value:g} is not from 0 to 100.")
    return value


def rate(value: float | None) -> float | None:
    """A check of `--learning-rate`; NaN does not pass."""
    if value is not None and not 0 < value < float("inf"):
        raise typer.BadParameter(f"{value:g} is not a number above 0.")
    return value


def loss(value: str | None) -> str | None:
    """A check of `--loss`: a name, with numbers after a colon where they are not its paper's."""
    if value is not None and (name := value.partition(":")[0]) not in LOSSES:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(LOSSES)}{meant(name, LOSSES)}.")
    return value


def dataset(value: str) -> str:
    """A check of `--dataset`: the name of a set, or folder:PATH or npz:PATH."""
    kind, colon, path = value.partition(":")
    prefixes = {name.partition(":")[0] for name in DATASETS if ":" in name}
    if kind in prefixes and colon and path:
        return value
    if kind in prefixes:
        raise typer.BadParameter(f"{value!r} names no place; write {kind}:PATH.")
    if value not in DATASETS:
        place = f"; your own images are folder:{value}" if Path(value).is_dir() else ""
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(DATASETS)}{meant(value, DATASETS)}{place}.")
    return value


def model(value: str) -> str:
    """A check of `--model`: a name, or timm:NAME or MODULE:FACTORY, which are looked up later."""
    if ":" not in value and value not in MODELS:
        raise typer.BadParameter(
            f"{value!r} is not one of {', '.join(MODELS)}{meant(value, MODELS)}; models of timm are timm:NAME, your "
            "own MODULE:FACTORY."
        )
    return value
