"""The subcommands of `convexnet study`: `list`, `run` and `queue`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convexnet.lab.cli.choices import STUDIES
from convexnet.lab.cli.options import Accelerator, DataDir, Download, Threads
from convexnet.lab.cli.terminal import completing, one_of, refuse, stops_cleanly

study_app = typer.Typer(help="Run the studies behind the tables and figures.", no_args_is_help=True)


@study_app.command("list")
def list_studies() -> None:
    """List the studies."""
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "what", "source", "systems")
    for row in STUDIES:
        table.add_row(*row)
    Console(highlight=False).print(table)


@study_app.command("run")
def run_study(
    name: Annotated[
        str,
        typer.Argument(
            callback=one_of(row[0] for row in STUDIES),
            autocompletion=completing(row[0] for row in STUDIES),
            help=f"{', '.join(row[0] for row in STUDIES)}.",
            show_default=False,
        ),
    ],
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds.  [default: the study's]")] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Takes seconds and checks that everything runs; proves nothing.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="As long as in the source: hours or days.")] = False,
    only: Annotated[str, typer.Option(metavar="TEXT", help="Only runs with this in their name, as 'seed 2'.")] = "",
    data_dir: DataDir = None,
    download: Download = False,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on a Ray cluster; 'local' starts one here.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Folder of the records.  [default: results; runs/smoke with --smoke]", file_okay=False),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of logs and checkpoints on the way.", file_okay=False)] = Path(
        "runs/studies"
    ),
    accelerator: Accelerator = "cpu",
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode streamed images, for each run.")] = 0,
    threads: Threads = 1,
) -> None:
    """Run a study: shortened to minutes on two processor cores, unless --smoke or --full says otherwise.

    Each record is added to results/NAME.jsonl as soon as it is there. Stopped or killed, the same command goes on:
    runs with a record are not repeated, the others continue from their checkpoints. Exit status 1 if a run failed.
    """
    if smoke and full:
        raise refuse("--smoke and --full exclude each other.")
    with stops_cleanly("the same command goes on where it stopped."):
        import torch

        from convexnet.lab.cli.show_runs import run_sweep
        from convexnet.lab.runs.place import Place
        from convexnet.lab.runs.records import RecordError
        from convexnet.lab.studies import study_named

        torch.set_num_threads(threads)
        size = "smoke" if smoke else "full" if full else "two-core"
        kept = results if results is not None else Path("runs/smoke" if smoke else "results")
        place = Place(runs, data_dir, accelerator=accelerator, download=download, workers=workers)
        try:
            study = study_named(name)
            failed = run_sweep(study, size, seeds, place, kept, only=only, ray=ray, threads=threads)
        except (ValueError, RecordError, ConnectionError) as error:
            raise refuse(str(error)) from None
    raise typer.Exit(1 if failed else 0)


@study_app.command("queue")
def queue_of_studies(
    listed: Annotated[
        bool, typer.Option("--list", help="Show what is done, running and waiting; run nothing.")
    ] = False,
    rank: Annotated[int | None, typer.Option(help="Only this line of the queue.", show_default=False)] = None,
    only: Annotated[str, typer.Option(metavar="TEXT", help="Only runs with this in their name, as 'seed 2'.")] = "",
    data_dir: DataDir = None,
    out: Annotated[Path, typer.Option(help="Folder of the records.", file_okay=False)] = Path("results"),
    runs: Annotated[Path, typer.Option(help="Folder of logs and checkpoints on the way.", file_okay=False)] = Path(
        "runs/studies"
    ),
) -> None:
    """Run the long studies, one network after another, on one processor thread: hours and days.

    The lines of the queue are ranked, and go on where they were stopped: what has a record is not run again, what
    another process is at work on is left to it, so that two such commands share the work. Ctrl-C and SIGTERM leave a
    checkpoint. Exit status 1 if a run failed.

    Example: convexnet study queue --list
    """
    with stops_cleanly("the same command goes on where it stopped."):
        import torch

        from convexnet.lab.cli.show_queue import run_queue, show_queue
        from convexnet.lab.runs.place import Place
        from convexnet.lab.runs.records import RecordError
        from convexnet.lab.studies.queue import work_of

        torch.set_num_threads(1)
        try:
            lines = work_of(rank, only)
            if listed:
                show_queue(lines, runs, out)
                return
            failed = run_queue(lines, Place(runs, data_dir), out)
        except (ValueError, RecordError) as error:
            raise refuse(str(error)) from None
    raise typer.Exit(1 if failed else 0)
