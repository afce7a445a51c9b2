"""Run `train`, `study run` and the queue on a terminal: bars while they run, tables when they are done."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

import convexnet as cx
from convexnet.lab.atomic import write_whole
from convexnet.lab.cli.bars import Bars
from convexnet.lab.cli.terminal import refuse
from convexnet.lab.reports import page
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.lock import Taken, claimed
from convexnet.lab.runs.place import Place
from convexnet.lab.runs.records import RecordError, Row, read_records
from convexnet.lab.runs.run import identified, run
from convexnet.lab.runs.serial import RECORD
from convexnet.lab.runs.sweep import sweep
from convexnet.lab.studies.study import Study
from convexnet.lab.training.checkpoints import NAME, CheckpointError, read_checkpoint, write_checkpoint
from convexnet.lab.training.epoch import Diverged


def train_one(job: Job, place: Place) -> None:
    """Train the network of a job, write its record and print what was found."""
    first = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"  # of several processes
    console = Console(highlight=False, quiet=not first)
    try:
        with claimed(place.folder) if first else contextlib.nullcontext():
            job, earlier = begin_run(identified(job), place, console)
            if earlier is not None and job.key == earlier["key"]:
                console.print(f"{place.folder} holds a finished run, of {earlier['epochs']} epochs: nothing to do.")
                return
            row = shown_run(job, place, console)
            if first:
                finish(row, place.folder)
    except (Diverged, CheckpointError, Taken, RecordError) as error:
        raise refuse(str(error)) from None
    if first:
        tell(job, row, place, console)


def begin_run(job: Job, place: Place, console: Console) -> tuple[Job, Row | None]:
    """The job, and the record that is in its folder already, with which it goes on if it asks for more epochs.

    A run that goes on beyond its epochs is not the one that would have had this many from the beginning, as its rate
    has fallen already: it never counts as full.
    """
    record, checkpoint = place.folder / RECORD, place.folder / NAME
    if not record.exists():
        if place.resume and not checkpoint.exists():
            console.print(f"No checkpoint in {place.folder}: from the beginning.")
        return job, None
    if not place.resume:
        raise CheckpointError(
            f"{place.folder} holds the record of a finished run: choose another folder with --out, or train it longer "
            "with --resume and more --epochs"
        )
    (row,) = read_records(record)
    epochs = int(row["recipe"]["epochs"])
    how = replace(job.recipe, epochs=epochs)
    before = replace(job, recipe=how, continued_from=row.get("continued_from", ""))
    if before.key != row["key"]:
        if checkpoint.exists():
            read_checkpoint(checkpoint, before.settings)  # names what differs
        raise CheckpointError(f"{place.folder} holds a finished run with other settings: choose another folder")
    if job.recipe.epochs <= epochs:
        return before, row
    longer = replace(job, full=False, continued_from=before.key)
    if not checkpoint.exists():
        raise CheckpointError(f"{checkpoint} is gone, from which this run would go on: choose another folder")
    prolong(checkpoint, before, longer)
    return longer, row


def prolong(path: Path, before: Job, job: Job) -> None:
    """Make the checkpoint of a finished run that of a longer one, if it is not so already."""
    with contextlib.suppress(CheckpointError):
        read_checkpoint(path, job.settings)
        return
    content = read_checkpoint(path, before.settings)
    about = ("format", "settings", "surroundings")
    write_checkpoint(path, job.settings, {name: value for name, value in content.items() if name not in about})


def shown_run(job: Job, place: Place, console: Console) -> Row:
    """Run a job, with a bar once everything is checked."""
    bars = Bars(console)
    bars.begin(job)
    shown = contextlib.ExitStack()

    def ready() -> None:
        shown.enter_context(bars)

    with shown:
        return run(job, replace(place, say=bars.say, ready=ready), bars.tick)


def finish(row: Row, folder: Path) -> None:
    """Write the record; the checkpoint stays, for more epochs."""
    try:
        write_whole(folder / RECORD, json.dumps(row, allow_nan=False) + "\n")
    except OSError as error:
        raise CheckpointError(
            f"{folder / RECORD} could not be written ({error.strerror or error}): free some space, and repeat the "
            "command with --resume, which trains nothing again"
        ) from error


def tell(job: Job, row: Row, place: Place, console: Console) -> None:
    """What was found, in a table and two lines."""
    shown = Table(title=job.name)
    for column in ("train (used)", "train (true)", "test", "gap", "test at peak", "ECE", "epochs"):
        shown.add_column(column, justify="right")
    names = ("train_accuracy", "clean_train_accuracy", "test_accuracy", "gap", "test_accuracy_at_peak")
    shares = [f"{100 * row[name]:.2f} %" for name in names]
    shown.add_row(*shares, f"{row['ece']:.3f}", str(row["epochs"]))
    console.print(shown)
    if row["certified"]:
        console.print(Text(f"Certified convex in its input (tier {row['tier']}).", style="bold green"))
    elif row["breaks"]:
        path, operator, reason = row["breaks"]
        console.print(Text(f"Not certified convex: {path}: {operator}: {reason}."))
    for path, proved in row.get("certified_parts", {}).items():
        words = (
            f"Certified convex in its features alone: {path}." if proved else f"{path} is not certified convex either."
        )
        console.print(Text(words, style="bold green" if proved else ""))
    if row["note"]:
        console.print(Text(f"Note: {row['note']}."), soft_wrap=True)
    network = place.folder / "network.safetensors"
    console.print(Text(f"Record, log and network are in {place.folder}. The network takes images in [0, 1]:"))
    package = package_of(job.model) if network.exists() and not loads(network) else ""
    for use in (
        "certify {}",
        "predict {} IMAGES",
        *(("minimise {} --box 0,1 --output 0",) if row["certified"] else ()),
    ):
        allow = f" --allow {package}" if package else ""
        console.print(Text(f"  convexnet {use.format(network)}{allow}"), soft_wrap=True)
    allow = f", allow=[{package!r}]" if package else ""
    console.print(Text(f"  convexnet.load({str(network)!r}{allow})"), soft_wrap=True)


def loads(file: Path) -> bool:
    """Whether a network consists of classes that are trusted anyway, whoever's function has built it."""
    try:
        cx.load(file)
    except ValueError:
        return False
    return True


def package_of(model: str) -> str:
    """The package of one's own that a saved network needs to be loaded; empty for what is trusted anyway.

    Example:
        >>> package_of("ioc-mine.models:build"), package_of("timm:resnet18"), package_of("mlp")
        ('mine', '', '')
    """
    module, colon, _ = model.removeprefix("ioc-").partition(":")
    top = module.partition(".")[0]
    return top if colon and top not in ("timm", "torch", "torchvision", "convexnet") else ""


def run_sweep(
    study: Study,
    size: str,
    seeds: int | None,
    place: Place,
    results: Path,
    *,
    only: str = "",
    ray: str | None = None,
    threads: int = 1,
) -> int:
    """Run those jobs of a study whose name contains `only`, and print its tables; returns how many failed."""
    console = Console(highlight=False)
    jobs = [job for job in study.jobs(size, seeds) if only in job.name]
    if not jobs:
        names = sorted({job.name for job in study.jobs(size, seeds)})
        raise ValueError(f"no run of {study.name} has {only!r} in its name; they are called like {names[0]!r}")
    with Bars(console) as bars:
        bars.begin_all(f"{study.name}, {size}", len({job.key for job in jobs}))
        outcome = sweep(study, jobs, place, results, ray=ray, threads=threads, tick=bars.tick, done=bars.done)
        bars.finish()
    if outcome.found:
        console.print(f"{outcome.found} of {len(jobs)} runs had their record already.")
    for section in study.sections(study.rows(outcome.rows)):
        for table in section.tables:
            console.print(on_terminal(table))
    for line in failures_in_words(outcome.failed):
        console.print(Text(line, style="bold red"), soft_wrap=True)
    if (results / f"{study.name}.jsonl").exists():
        console.print(Text(f"Records: {results / f'{study.name}.jsonl'}"), soft_wrap=True)
    return len(outcome.failed)


def failures_in_words(failed: Sequence[tuple[Job, str]]) -> list[str]:
    """A line for each different reason: of what failed for the same one, the first job and how many more."""
    by: dict[str, list[Job]] = {}
    for job, error in failed:
        by.setdefault(error, []).append(job)
    return [
        f"{jobs[0].name}{f', and {len(jobs) - 1} more' if len(jobs) > 1 else ''}: {error}" for error, jobs in by.items()
    ]


LEFT_OUT = ("paper train", "paper gap", "paper single", "paper oracle", "gate’s gap", "test at peak", "ECE", "seeds")
"""Columns that a terminal has no room for; records and reports have them."""


def on_terminal(table: page.Table) -> Table:
    """A table for the terminal, without the lines of what was not run."""
    made = Table(title=table.caption)
    kept = [index for index, column in enumerate(table.columns) if column not in LEFT_OUT]
    for index in kept:
        made.add_column(table.columns[index], justify="left" if index < table.text else "right")
    for row in table.rows:
        if row[-1] != "not run":
            made.add_row(*(row[index] for index in kept))
    return made
