"""Show the queue of long runs on a terminal, or run it with a line in a file for every epoch (`study queue`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from convexnet.lab.cli.bars import Bars, length_of, readings
from convexnet.lab.runs.dependencies import Work
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.place import Place
from convexnet.lab.runs.sweep import Outcome, sweep_several
from convexnet.lab.studies.queue import Entry, JobState, states
from convexnet.learner import Point, moment_of

Lines = Sequence[tuple[Entry, list[Work]]]


def show_queue(lines: Lines, runs: Path, results: Path) -> None:
    """Print the lines of the queue with their hours, and what is at work or next."""
    console = Console(highlight=False)
    table = Table("", "study", "what", title="Queue of long runs, in hours of one core")
    for head in ("done", "running", "took", "left"):
        table.add_column(head, justify="right")
    found = [(entry, states(work, runs, results)) for entry, work in lines]
    for entry, jobs in found:
        finished, running = (sum(job.state == state for job in jobs) for state in ("done", "running"))
        spent = sum(job.hours for job in jobs if job.state == "done")
        table.add_row(
            *(str(entry.rank), entry.study, entry.what),
            *(f"{finished} of {len(jobs)}", str(running)),
            *(f"{spent:.1f} h", f"{left(jobs):.1f} h"),
        )
    console.print(table)
    everything = [job for _, jobs in found for job in jobs]
    console.print(f"{left(everything):.1f} hours are left.")
    shown = [job for job in everything if job.state in ("running", "begun")]
    shown += [job for job in everything if job.state == "waiting"][:3]
    for job in shown:
        console.print(Text(described(job)), soft_wrap=True)


def left(jobs: Sequence[JobState]) -> float:
    """The hours of what is not done; of what has begun, those of the epochs that are missing."""
    return sum(
        job.hours * max(0.0, 1 - job.epoch / (length_of(job.job) or math.inf)) for job in jobs if job.state != "done"
    )


def described(job: JobState) -> str:
    """A job that is not done in a line.

    Example:
        >>> from convexnet.lab.studies import parity
        >>> described(JobState(parity.plan("full", range(1))[0], "waiting", 0.36, "a guess"))
        'waiting: mlp-signs, fashion-mnist, ours, no decay, ordinary, seed 0; about 0.36 hours (a guess)'
    """
    said = f"{job.state}: {job.job.name}"
    if job.epoch:
        epochs = length_of(job.job)
        said += f", {job.epoch} of {epochs} epochs" if epochs else f", {job.epoch} measurements"
    return f"{said}; about {job.hours:g} hours ({job.basis})"


def progress_of(job: Job, point: Point) -> str:
    """How far a job is and what it has measured, in a line.

    Example:
        >>> from convexnet.lab.studies import parity
        >>> progress_of(parity.plan("full", range(1))[0], {"epoch": 2, "running_accuracy": 0.5})
        'epoch 2 of 60, train 0.500'
    """
    moment, epochs = moment_of(point), length_of(job)
    words = "" if moment is None else f"{moment[0]} {moment[1]:.0f}" + (f" of {epochs}" if epochs else "")
    return ", ".join(part for part in (words, readings(point)) if part)


def run_queue(lines: Lines, place: Place, results: Path) -> int:
    """Run the queue in its order; returns how many of its jobs failed.

    On a terminal there are bars; in a file, a line for every epoch.
    """
    console = Console(highlight=False, soft_wrap=True)
    work = [one for _, some in lines for one in some]
    total = len({job.key for _, job in work})

    with Bars(console) as bars:
        bars.begin_all("queue", total)

        def say(text: str) -> None:
            bars.say(f"{datetime.now():%m-%d %H:%M:%S} {text}")

        def tick(job: Job, point: Point) -> None:
            if console.is_terminal:
                bars.tick(job, point)
                return
            say(f"{job.name}: {progress_of(job, point)}")

        def done(job: Job, outcome: Outcome) -> None:
            bars.done(job, outcome)
            if outcome.failed and outcome.failed[-1][0] is job:
                say(f"{job.name}: failed: {outcome.failed[-1][1]}")
                return
            row = outcome.rows[-1]
            accuracy = row.get("test_accuracy")
            measured = "" if accuracy is None else f", test {100 * accuracy:.2f} %"
            say(f"{job.name}: done in {row['seconds'] / 3600:.2f} hours{measured}")

        started = sweep_several(work, replace(place, say=say), results, tick=tick, done=done)
    console.print(f"{len({row['key'] for row in started.rows})} of {total} runs have their record in {results}.")
    return len(started.failed)
