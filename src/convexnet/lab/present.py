"""The demo from start to end on a terminal."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from convexnet.lab import demo, descriptions, narrative, plane, records, report
from convexnet.lab.data import ThreeWay, digits
from convexnet.lab.demo import Recipe, Run
from convexnet.lab.terminal import print_certificate

QUICK = 6
"""Epochs of a shortened demo."""


def run_demo(folder: Path, *, seed: int, quick: bool, recipe: Recipe | None = None) -> None:
    """Train, certify, print, and write report.html and metrics.json into `folder`; `quick` overrules the epochs."""
    start = perf_counter()
    console = Console(highlight=False)
    recipe = recipe or Recipe()
    recipe = replace(recipe, epochs=QUICK) if quick else recipe
    toy_epochs = 10 if quick else 200
    data = digits(seed)
    console.print(
        f"scikit-learn digits: {len(data.train)} images to train on, {len(data.validation)} to validate, "
        f"{len(data.test)} to test. NN is the ordinary network, IOC its convex counterpart."
    )
    console.print(descriptions.options(recipe, demo.slower(recipe)))

    runs: list[Run] = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        for wrong in (0.0, demo.WRONG):
            bars: dict[str, TaskID] = {}

            def tick(run: Run, bars: dict[str, TaskID] = bars) -> None:
                if run.name not in bars:
                    name = f"{run.name}, {report.labelled(run)}"
                    bars[run.name] = progress.add_task(name, total=run.recipe.epochs, state="")
                state = f"train {run.end.train_accuracy:.3f}  test {run.end.test_accuracy:.3f}"
                progress.update(bars[run.name], advance=1, state=state)

            runs += demo.compete(data, wrong, recipe, seed, tick)
        plane_bar = progress.add_task("decision boundaries", total=3 * toy_epochs, state="")
        boundaries = plane.explore_plane(seed, epochs=toy_epochs, tick=lambda: progress.advance(plane_bar))

    console.print(table(runs))
    for convex in (False, True):
        run = narrative.pick(runs, convex=convex, wrong=True)
        console.print(Text(f"\nThe {run.kind} network, trained on {report.labelled(run)}", style="bold"))
        if freed := narrative.scales(run):
            console.print(Text(freed, style="bold red"))
        print_certificate(run.certificate, run.certified, console)
    console.print()
    for name, text in narrative.lead(runs, len(data.test)):
        console.print(Text.assemble((f"{name}. ", "bold"), text))

    surroundings: dict[str, object] = {
        "hardware": records.hardware(),
        "versions": records.versions(),
        "commit": records.commit(),
    }
    measured = provenance(runs, boundaries, data, seed, surroundings)
    training = perf_counter() - start
    measured["Time"] = f"{training:.0f} seconds for training, evaluation and certificates, all runs together"
    rows = [demo.record(run, seed, not quick, surroundings) for run in runs]
    rows += [plane.record(result, boundaries.epochs, seed, not quick, surroundings) for result in boundaries.boundaries]
    records.write_records(folder / "metrics.json", rows)
    page = report.build(runs, boundaries, data, seed=seed, full=not quick, measured=measured)
    records.write_whole(folder / "report.html", page)
    took = perf_counter() - start
    console.print(
        Text(f"\nTrained, certified and drawn in {took:.0f} s. Report: {folder / 'report.html'}"), soft_wrap=True
    )


def table(runs: list[Run]) -> Table:
    """The terminal's table of all runs on the digits."""
    made = Table(caption="gap: train on labels used minus test, in points; at peak: best validation epoch")
    for index, column in enumerate(report.COLUMNS):
        made.add_column(column, justify="left" if index < 2 else "right")
    for run, cells in zip(runs, report.rows(runs), strict=True):
        made.add_row(*cells, end_section=run.convex and not run.wrong)
    return made


def provenance(
    runs: list[Run], boundaries: plane.Plane, data: ThreeWay, seed: int, surroundings: dict[str, object]
) -> dict[str, str]:
    """What a reader needs to judge or to repeat the measurement, in words."""
    noisy = narrative.pick(runs, convex=True, wrong=True)
    recipe = noisy.recipe
    total = len(data.train)
    changed = round(noisy.wrong * total)
    hardware, versions = surroundings["hardware"], surroundings["versions"]
    assert isinstance(hardware, dict)
    assert isinstance(versions, dict)
    return {
        "Data": f"scikit-learn digits, 1797 real images of 8×8 pixels in ten classes: {total} to train, "
        f"{len(data.validation)} to validate, {len(data.test)} to test, stratified by class; every pixel centred and "
        "divided by its spread plus a tenth of the grey range, for all networks",
        "Wrong labels": f"{changed} of the {total} training labels were replaced by one of the nine other classes at "
        f"random; {total - changed} ({narrative.percent((total - changed) / total)}) are true. Validation and test "
        "labels are untouched",
        "Networks": descriptions.layers(noisy),
        "Training": f"{recipe.epochs} epochs for every network, Adam, batches of {recipe.batch}, "
        f"{descriptions.rates(runs)}; {descriptions.rule(noisy)}",
        "Selection": "none on the test set; “at peak” is the epoch with the best validation accuracy",
        "Sampling error": "two standard errors of the difference of two accuracies, taken as independent",
        "Plane": f"{len(boundaries.data)} points, 2000 fresh ones for the accuracy, {boundaries.epochs} epochs, Adam, "
        f"learning rate {plane.LEARNING_RATE:g}; its convex networks are made as the demo’s are without options",
        "Seed": f"{seed} decides split, wrong labels, start and data order. One seed shows no spread: try others",
        "Hardware": f"{hardware['processor']}, {hardware['cores']} cores, threads used: {hardware['threads']}, "
        f"{hardware['system']}",
        "Versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "Commit": str(surroundings["commit"] or "not known: the package does not lie in its own repository"),
        "Date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
