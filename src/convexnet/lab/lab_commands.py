"""The subcommands of experiments: `train`, `report`, and those of `study`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from convexnet.lab.choices import (
    AUGMENTATIONS,
    DATASETS,
    INITS,
    METHODS,
    MODELS,
    NOISES,
    NORMALISATIONS,
    RECIPES,
)
from convexnet.lab.options import Accelerator, DataDir, Download, Threads
from convexnet.lab.study_commands import study_app
from convexnet.lab.terminal import completing, one_of, refuse, stops_cleanly


def percent(value: float) -> float:
    """A check of `--noise`; NaN does not pass."""
    if 0 < value < 1:
        raise typer.BadParameter(f"{value:g} is a share; write {100 * value:g} for {100 * value:g} %.")
    if not 0 <= value <= 100:
        raise typer.BadParameter(f"{value:g} is not from 0 to 100.")
    return value


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(train)
    app.add_typer(study_app, name="study")
    app.command()(report)


def train(
    dataset: Annotated[str, typer.Option(autocompletion=completing(DATASETS), help=f"{', '.join(DATASETS)}.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="|".join(MODELS),
            callback=one_of(MODELS),
            autocompletion=completing(MODELS),
            help="Which network is trained.",
        ),
    ] = "mlp",
    convex: Annotated[bool, typer.Option("--convex", help="Train the convex counterpart of the model.")] = False,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="|".join(RECIPES),
            callback=one_of(RECIPES),
            autocompletion=completing(RECIPES),
            help="How it is trained.",
        ),
    ] = "paper-text",
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.", show_default=False)] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Instead of the recipe's.", show_default=False)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Instead of the recipe's.", show_default=False)] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(AUGMENTATIONS),
            callback=one_of(AUGMENTATIONS),
            autocompletion=completing(AUGMENTATIONS),
            help="Instead of the recipe's.",
            show_default=False,
        ),
    ] = None,
    normalise: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(NORMALISATIONS),
            callback=one_of(NORMALISATIONS),
            autocompletion=completing(NORMALISATIONS),
            help="Instead of the recipe's.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(METHODS),
            callback=one_of(METHODS),
            autocompletion=completing(METHODS),
            help="Instead of the recipe's.",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(INITS),
            callback=one_of(INITS),
            autocompletion=completing(INITS),
            help="Instead of the recipe's.",
        ),
    ] = None,
    noise: Annotated[float, typer.Option(callback=percent, help="Wrong training labels, in percent.")] = 0.0,
    noise_kind: Annotated[
        str,
        typer.Option(
            metavar="|".join(NOISES),
            callback=one_of(NOISES),
            autocompletion=completing(NOISES),
            help="How the wrong labels are drawn.",
        ),
    ] = "symmetric-including",
    train_samples: Annotated[int | None, typer.Option(min=2, help="Train on this many images only.")] = None,
    measure_every: Annotated[
        int,
        typer.Option(
            min=1,
            help="Epochs between two measurements on training and test data; validation data are measured each epoch.",
        ),
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of everything that is random.")] = 0,
    data_dir: DataDir = None,
    download: Download = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run.  [default: runs/train-MODEL-DATASET-SEED]", file_okay=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in the folder.")] = False,
    accelerator: Accelerator = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Processes, each with a device of its own.")] = 1,
    precision: Annotated[str | None, typer.Option(metavar="32-true|bf16-mixed|16-mixed", help="Of the steps.")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network with torch.compile.")] = False,
    threads: Threads = 1,
) -> None:
    """Train one network, certify it, and record what was measured.

    The folder gets log.csv, a TensorBoard log, record.jsonl, network.safetensors and, on the way, checkpoint.pt, from
    which --resume continues to the same weights and metrics after any stop.

    Example: convexnet train --dataset digits --model mlp --convex --epochs 20
    """
    with stops_cleanly("go on with the same command and --resume."):
        import torch

        from convexnet.lab.data import DataError
        from convexnet.lab.devices import leave
        from convexnet.lab.jobs import Job
        from convexnet.lab.models import MODELS, model_named
        from convexnet.lab.place import Place
        from convexnet.lab.present_runs import train_one
        from convexnet.lab.recipes import recipe as recipe_named

        torch.set_num_threads(threads)
        name = f"ioc-{model}" if convex and f"ioc-{model}" in MODELS else model
        try:
            kind = model_named(name)
            given_recipe = how = recipe_named(recipe, convex=kind.convex, family=kind.family)
        except ValueError as error:
            raise refuse(str(error)) from None
        if convex and not model_named(name).convex:
            raise refuse(f"{model} has no convex counterpart here; models: {', '.join(MODELS)}")
        if not model_named(name).convex and (method or init):
            raise refuse(
                f"--{'method' if method else 'init'} applies to convex networks: add --convex, or leave it out"
            )
        given = {"epochs": epochs, "batch": batch, "learning_rate": learning_rate, "augment": augment}
        given |= {"normalise": normalise, "precision": precision, "compiled": compiled or None}
        ways = {"method": method, "init": init}
        how = replace(
            how,
            **{key: value for key, value in given.items() if value is not None},
            convex=replace(how.convex, **{key: value for key, value in ways.items() if value is not None}),
        )
        changed = how != given_recipe or train_samples is not None
        job = Job(
            "train",
            name,
            dataset,
            how,
            seed,
            full=not changed,
            train_samples=train_samples,
            noise=noise,
            noise_kind=noise_kind,
            measure_every=measure_every,
        )
        safe = dataset.replace(":", "-").replace("/", "-")
        folder = out if out is not None else Path("runs") / f"train-{name}-{safe}-{seed}"
        place = Place(
            folder,
            data_dir,
            resume=resume,
            accelerator=accelerator,
            devices=devices,
            download=download,
            board=True,
            network=True,
        )
        try:
            train_one(job, place)
            leave()
        except (DataError, ValueError) as error:
            raise refuse(str(error)) from None


def report(
    records: Annotated[
        list[Path], typer.Argument(metavar="RUNS...", help="Files of records, or folders of them.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.", dir_okay=False)] = Path("report.html"),
) -> None:
    """Make a page of tables and figures from records: our numbers next to the paper's.

    Writes one self-contained HTML file and, next to it, the same as Markdown with its pictures in a folder.
    """
    with stops_cleanly("no report was written."):
        from convexnet.lab.records import RecordError
        from convexnet.lab.study_report import write_report

        try:
            written = write_report(records, out)
        except (RecordError, OSError) as error:
            raise refuse(str(error)) from None
        for path in written:
            print(path)
