"""Options that several subcommands of experiments have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convexnet.lab.terminal import completing, one_of

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of the data sets, in torchvision's layout.", file_okay=False)
]
Threads = Annotated[int, typer.Option(min=1, help="Processor threads that torch may use.")]
Accelerator = Annotated[
    str,
    typer.Option(
        metavar="cpu|cuda|auto",
        callback=one_of(("cpu", "cuda", "auto")),
        autocompletion=completing(("cpu", "cuda", "auto")),
        help="Where the networks are trained.",
    ),
]
Download = Annotated[bool, typer.Option("--download", help="Let torchvision download what is missing to --data-dir.")]
