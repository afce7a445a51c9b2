"""The subcommand `train`: its options, and the job that they make; one network on a data set or on your own images."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from convexnet.lab.cli import options
from convexnet.lab.cli.choices import (
    AUGMENTATIONS,
    DATASETS,
    INITS,
    LOSSES,
    METHODS,
    MODELS,
    NOISES,
    NORMALISATIONS,
    PRECISIONS,
    RECIPES,
)
from convexnet.lab.cli.options import Accelerator, DataDir, Download, Threads, percent
from convexnet.lab.cli.terminal import choice, completing, refuse, stops_cleanly


def train(
    dataset: Annotated[
        str,
        typer.Option(
            metavar="NAME|folder:PATH|npz:PATH",
            callback=options.dataset,
            autocompletion=completing(DATASETS),
            help=f"{', '.join(DATASETS)}.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="|".join((*MODELS, "timm:NAME", "MODULE:FACTORY")),
            callback=options.model,
            autocompletion=completing(MODELS),
            help="Which network is trained. A FACTORY is a module or a function that returns one; it is called with "
            "what it takes of num_classes, in_chans and input_shape.",
        ),
    ] = "mlp",
    convex: Annotated[bool, typer.Option("--convex", help="Train the convex counterpart of the model.")] = False,
    recipe: Annotated[
        str | None,
        choice(
            RECIPES,
            help="How it is trained.  [default: paper-text; ours for timm:NAME and MODULE:FACTORY]",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs.  [default: the recipe's]", show_default=False)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=2, help="Samples in a batch.  [default: the recipe's]", show_default=False)
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            callback=options.rate, help="Learning rate at the start.  [default: the recipe's]", show_default=False
        ),
    ] = None,
    augment: Annotated[
        str | None,
        choice(AUGMENTATIONS, help="How images are varied.  [default: the recipe's]", show_default=False),
    ] = None,
    normalise: Annotated[
        str | None,
        choice(NORMALISATIONS, help="Fixed first step on the inputs.  [default: the recipe's]", show_default=False),
    ] = None,
    method: Annotated[
        str | None,
        choice(METHODS, help="How constrained weights keep their sign.  [default: the recipe's]", show_default=False),
    ] = None,
    init: Annotated[
        str | None,
        choice(
            INITS, help="How constrained weights are drawn at the start.  [default: the recipe's]", show_default=False
        ),
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(
            min=0, help="Epochs in which the learning rate rises.  [default: the recipe's]", show_default=False
        ),
    ] = None,
    mixup: Annotated[
        float | None,
        typer.Option(min=0, help="Mix images in pairs, by a share from Beta(a, a) with this a.", show_default=False),
    ] = None,
    cutmix: Annotated[
        float | None,
        typer.Option(
            min=0, help="Mix windows of images in pairs; with --mixup, one of both a batch.", show_default=False
        ),
    ] = None,
    drop_path: Annotated[
        float | None,
        typer.Option(
            min=0, max=0.99, help="Share of the samples that pass the last residual branch by.", show_default=False
        ),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Parts of a batch that are seen one after the other, before one step: less memory.",
            show_default=False,
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(LOSSES),
            callback=options.loss,
            autocompletion=completing(LOSSES),
            help="What a step makes smaller, in ordinary and convex networks. Numbers other than its paper's follow a "
            "colon: label-smoothing:0.2, gce:0.5, sce:0.1,1 or elr:3,0.7.  [default: cross-entropy]",
            show_default=False,
        ),
    ] = None,
    noise: Annotated[float, typer.Option(callback=percent, help="Wrong training labels, in percent.")] = 0.0,
    noise_kind: Annotated[
        str,
        choice(NOISES, help="How the wrong labels are drawn."),
    ] = "symmetric-including",
    noisy_validation: Annotated[
        bool, typer.Option("--noisy-validation", help="Make the labels of the validation part wrong, too.")
    ] = False,
    validation: Annotated[
        float,
        typer.Option(min=0, max=0.9, help="Share of the training images that is kept to choose the best epoch by."),
    ] = 0.1,
    train_samples: Annotated[int | None, typer.Option(min=2, help="Train on this many images only.")] = None,
    measure_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Epochs between two measurements on training and test data; validation data are measured each epoch.  "
            "[default: 1; of streamed images only after the last epoch]",
            show_default=False,
        ),
    ] = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--in-memory",
            help="Leave the images of folder:PATH in their files, and decode them in every epoch; or keep them in "
            "memory.  [default: by their size]",
            show_default=False,
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Give the images of folder:PATH this size: each is resized, and its middle cut out.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="Processes that decode streamed images.  [default: one a CPU, at most 8]", show_default=False
        ),
    ] = None,
    skip_unreadable: Annotated[
        bool,
        typer.Option(
            "--skip-unreadable",
            help="Leave out images of folder:PATH that cannot be read, and log them; each image is decoded once for "
            "that. Otherwise the first one ends the run.",
        ),
    ] = False,
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
    sharded: Annotated[
        bool,
        typer.Option("--sharded", help="Let each process keep a part of parameters and optimiser (FSDP2), not all."),
    ] = False,
    precision: Annotated[
        str | None,
        choice(PRECISIONS, help="Floating-point precision of the training steps.", show_default=False),
    ] = None,
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

        from convexnet.errors import NotCertified, NotTraceable
        from convexnet.lab.cli.show_runs import train_one
        from convexnet.lab.data import DataError, Pictures, streams
        from convexnet.lab.data.streamed import default_workers
        from convexnet.lab.models.registry import MODELS, model_named
        from convexnet.lab.runs.devices import leave
        from convexnet.lab.runs.jobs import Job
        from convexnet.lab.runs.place import Place
        from convexnet.lab.training.recipes import recipe as recipe_named
        from convexnet.lab.training.robust_losses import settings_of

        torch.set_num_threads(threads)
        name = f"ioc-{model}" if convex and (":" in model or f"ioc-{model}" in MODELS) else model
        try:
            kind = model_named(name)
            given_recipe = how = recipe_named(recipe or kind.recipe, convex=kind.constrained, family=kind.family)
            streamed = streams(dataset, Pictures(image_size, stream, skip=skip_unreadable))
        except (DataError, ValueError) as error:
            raise refuse(str(error)) from None
        if convex and not kind.constrained:
            raise refuse(f"{model} has no convex counterpart here; models: {', '.join(MODELS)}")
        if not kind.constrained and (method or init):
            raise refuse(
                f"--{'method' if method else 'init'} applies to convex networks: add --convex, or leave it out"
            )
        given = {"epochs": epochs, "batch": batch, "learning_rate": learning_rate, "augment": augment}
        given |= {"normalise": normalise, "precision": precision, "compiled": compiled or None, "warmup": warmup}
        given |= {"mixup": mixup, "cutmix": cutmix, "drop_path": drop_path, "accumulate": accumulate}
        try:
            given |= {} if loss is None else settings_of(loss)
        except ValueError as error:
            raise refuse(str(error)) from None
        ways = {"method": method, "init": init}
        how = replace(
            how,
            **{key: value for key, value in given.items() if value is not None},
            convex=replace(how.convex, **{key: value for key, value in ways.items() if value is not None}),
        )
        if streamed and augment is None and how.augment == "none":
            how = replace(how, augment="resized-crop-flip")
        changed = how != given_recipe or train_samples is not None
        job = Job(
            "train",
            name,
            dataset,
            how,
            seed,
            full=not changed,
            train_samples=train_samples,
            validation=validation,
            noise=noise,
            noise_kind=noise_kind,
            noisy_validation=noisy_validation,
            measure_every=measure_every or (how.epochs if streamed else 1),
            streamed=stream,
            image_size=image_size,
            skip_unreadable=skip_unreadable,
        )
        safe = re.sub(r"[^\w.-]+", "-", f"{name}-{dataset}")
        folder = out if out is not None else Path("runs") / f"train-{safe}-{seed}"
        place = Place(
            folder,
            data_dir,
            resume=resume,
            accelerator=accelerator,
            devices=devices,
            sharded=sharded,
            download=download,
            board=True,
            network=True,
            workers=default_workers() if workers is None else workers,
        )
        try:
            train_one(job, place)
            leave()
        except (DataError, ValueError, NotCertified, NotTraceable) as error:
            raise refuse(str(error)) from None
