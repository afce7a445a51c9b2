"""The demo from start to end on a terminal: training, the table, and the page."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from convexnet.lab.atomic import write_whole
from convexnet.lab.cli.bars import readings
from convexnet.lab.cli.terminal import print_certificate
from convexnet.lab.demo import contest as demo
from convexnet.lab.demo import descriptions, narrative
from convexnet.lab.demo import page as report
from convexnet.lab.demo.contest import Run
from convexnet.lab.runs import records
from convexnet.lab.runs.lock import claimed
from convexnet.lab.runs.place import Place
from convexnet.lab.studies import plane
from convexnet.lab.training.recipes import Recipe

QUICK = 6
"""Epochs of a shortened demo."""


def run_demo(folder: Path, *, seed: int, quick: bool, recipe: Recipe = demo.RECIPE) -> None:
    """Train, certify, print, and write report.html and metrics.json into `folder`; `quick` overrules the epochs.

    Checkpoints are in its folder `runs` on the way: the same command with the same folder goes on where it was stopped.
    """
    start = perf_counter()
    console = Console(highlight=False)
    recipe = replace(recipe, epochs=QUICK) if quick else recipe
    toy_epochs = 10 if quick else plane.RECIPE.epochs
    contests = [demo.contestants(wrong, recipe, seed, full=not quick) for wrong in (0.0, demo.WRONG)]
    console.print(
        "scikit-learn digits. NN is the ordinary network of the paper, IOC its convex counterpart; ours is the convex "
        "network in our recipe, beside the ordinary one in the same and one hidden layer."
    )
    console.print(descriptions.options(recipe, demo.slower(recipe)))

    runs: list[Run] = []
    place = Place(folder / "runs", checkpoint_seconds=10.0)
    with claimed(place.folder):
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=console,
        ) as progress:
            for contest in contests:
                bars: dict[str, TaskID] = {}

                def tick(run: Run, bars: dict[str, TaskID] = bars) -> None:
                    if run.name not in bars:
                        name = f"{run.name}, {report.labelled(run)}"
                        bars[run.name] = progress.add_task(name, total=run.recipe.epochs, state="")
                    progress.update(bars[run.name], completed=run.end["epoch"], state=readings(run.end))

                runs += demo.compete(contest, place, tick)
            bar = progress.add_task("decision boundaries", total=3 * toy_epochs, state="")
            boundaries = plane.explore_plane(
                seed, place, epochs=toy_epochs, full=not quick, tick=lambda job, point: progress.advance(bar)
            )

        console.print(table(runs))
        for role in ("ordinary", "paper", "ours"):
            run = narrative.pick(runs, role, wrong=True)
            console.print(Text(f"\n{descriptions.title(run)}, trained on {report.labelled(run)}", style="bold"))
            if freed := narrative.scales(run):
                console.print(Text(freed, style="bold red"))
            print_certificate(run.certificate, run.certified, console)
        console.print()
        for name, text in narrative.lead(runs, runs[0].row["test_samples"]):
            console.print(Text.assemble((f"{name}. ", "bold"), text))

        measured = provenance(runs, boundaries, seed)
        measured["Time"] = f"{perf_counter() - start:.0f} seconds for training, evaluation and certificates, all runs"
        rows = [run.row for run in runs] + [result.row for result in boundaries.boundaries]
        records.write_records(folder / "metrics.json", rows)
        command = descriptions.command(recipe, seed, not quick)
        page = report.build(runs, boundaries, seed=seed, full=not quick, measured=measured, command=command)
        write_whole(folder / "report.html", page)
    shutil.rmtree(place.folder, ignore_errors=True)
    took = perf_counter() - start
    console.print(
        Text(f"\nTrained, certified and drawn in {took:.0f} s. Report: {folder / 'report.html'}"), soft_wrap=True
    )


def table(runs: list[Run]) -> Table:
    """The terminal's table of all runs on the digits."""
    made = Table(caption="gap: train on labels used minus test, in points; at peak: best validation epoch")
    for index, column in enumerate(report.COLUMNS):
        made.add_column(column, justify="left" if index < 2 else "right")
    rows = report.rows(runs)
    for index, (run, cells) in enumerate(zip(runs, rows, strict=True), 1):
        made.add_row(*cells, end_section=index < len(runs) and runs[index].wrong != run.wrong)
    return made


def provenance(runs: list[Run], boundaries: plane.Plane, seed: int) -> dict[str, str]:
    """What a reader needs to judge or to repeat the measurement, in words."""
    noisy, ours = (narrative.pick(runs, role, wrong=True) for role in ("paper", "ours"))
    recipe, row = noisy.recipe, noisy.row
    total = row["train_samples"]
    true = round(row["true_fraction"] * total)
    hardware, versions = row["hardware"], row["versions"]
    return {
        "Data": f"scikit-learn digits, 1797 real images of 8×8 pixels in ten classes: {total} to train, "
        f"{row['validation_samples']} to validate, {row['test_samples']} to test; centred and divided by their spread, "
        "one mean and one spread for all pixels",
        "Wrong labels": f"{total - true} of the {total} training labels were replaced by one of the nine other classes "
        f"at random; {true} ({narrative.percent(row['true_fraction'])}) are true. Validation and test labels are "
        "untouched",
        "Networks": descriptions.layers(noisy),
        "Training": f"{recipe.epochs} epochs for the paper’s networks, Adam, batches of {recipe.batch}, "
        f"{descriptions.rates(runs)}; {descriptions.rule(noisy)}",
        "Our recipe": f"{ours.recipe.epochs} epochs, AdamW, learning rate {ours.recipe.learning_rate:g} falling along "
        f"a cosine to 0, weight decay "
        f"{ours.recipe.weight_decay:g} on free weights alone. The convex network’s first activation sees both signs of "
        f"a free first layer, ReLU stays, {descriptions.rule(ours)}, and they start close to the identity; the "
        "ordinary network has the same first layer, and one hidden layer has nothing else",
        "Selection": "none on the test set; “at peak” is the epoch with the best validation accuracy",
        "Sampling error": "two standard errors of the difference of two accuracies, taken as independent",
        "Plane": f"{len(boundaries.data)} points, 2000 fresh ones for the accuracy, {boundaries.epochs} epochs, Adam, "
        f"learning rate {plane.RECIPE.learning_rate:g}; its convex networks are made as the demo’s are without options",
        "Seed": f"{seed} decides validation part, wrong labels, start and data order; the test images are always the "
        "same. One seed shows no spread: try others",
        "Hardware": f"{hardware['processor']}, {hardware['cores']} cores, threads used: {hardware['threads']}, "
        f"{hardware['system']}",
        "Versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "Commit": str(row["commit"] or "not known: the package does not lie in its own repository"),
        "Date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
