"""Several sweeps and trains at once, one of each killed: `main(FOLDER, COUNT, SEED)` in a process of its own.

The sweeps have the same jobs, of two kinds of learner, in the same folders, and start together, so that they meet at
every job. Then as many commands `train` into one folder. One process of each is killed at a call of a Python function,
which is drawn as in `tests.lab.training.random_kills`. What must hold is asserted here.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import typer

from convexnet.lab.cli import show_runs
from convexnet.lab.models import architectures
from convexnet.lab.runs import run as runs
from convexnet.lab.runs import serial
from convexnet.lab.runs import sweep as sweeping
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row, read_records
from convexnet.lab.runs.verdict import Verdict
from convexnet.lab.studies import fig2
from convexnet.lab.studies.study import Study
from tests.lab import small
from tests.lab.training import kmeans, test_learners
from tests.lab.training.random_kills import Moment
from tests.processes import ended, fork

JOBS = [
    job
    for seed in range(3)
    for job in (small.job("mlp", epochs=2, seed=seed), replace(test_learners.JOBS[0], study="small", seed=seed))
]


def noting(file: Path) -> Study:
    """A study of both kinds, which notes in a file what it begins and what it ends."""

    def note(word: str, job: Job) -> None:
        with file.open("a", encoding="utf-8") as notes:
            notes.write(f"{word} {job.key}\n")

    def run(job: Job, place: Place, tick: Tick) -> Row:
        note("began", job)
        row = (kmeans.cluster if job.model == "k-means" else runs.run)(job, place, tick)
        note("ended", job)
        return row

    return replace(fig2.STUDY, name="small", run=run)


def sweep(folder: Path) -> int:
    """One sweep; the status is how many jobs failed."""
    outcome = sweeping.sweep(noting(folder / "notes"), JOBS, small.place(folder / "runs"), folder / "results")
    for job, error in outcome.failed:
        print(f"{job.name}: {error}", file=sys.stderr)
    return len(outcome.failed)


def train(folder: Path, *, resume: bool = False) -> int:
    """One command `train`; 2 where it is refused."""
    try:
        show_runs.train_one(small.job("mlp"), small.place(folder / "train", resume=resume))
    except typer.Exit as refused:
        return refused.exit_code
    return 0


def together(act: Callable[[], int], moments: list[Moment]) -> list[int]:
    """The statuses of processes that do the same at once, each stopped at its moment."""

    def acted(moment: Moment) -> int:
        torch.set_num_threads(1)
        runs.verdict = lambda model, example: Verdict(False, False, None, "", "", None)
        serial.PATIENCE = 0.05
        sys.setprofile(moment)
        try:
            return act()
        finally:
            sys.setprofile(None)

    return [ended(pid) for pid in [fork(lambda m=moment: acted(m)) for moment in moments]]


def calls_of(act: Callable[[], int], folder: Path) -> int:
    """How many calls it makes where it is alone."""
    moment, file = Moment(), folder / "calls"

    def counted() -> int:
        status = act()
        file.write_text(str(moment.seen), encoding="utf-8")
        return status

    assert together(counted, [moment]) == [0]
    return int(file.read_text(encoding="utf-8"))


def rows_of(file: Path) -> list[Row]:
    """Records without what may differ, in the order of their keys."""
    return sorted((small.same(row) for row in read_records(file)), key=lambda row: row["key"])


def main(folder: str, count: str, seed: str) -> None:
    """Sweep and train, alone and together."""
    architectures.HIDDEN = small.HIDDEN
    draw, number = random.Random(int(seed)), int(count)
    alone, here = Path(folder) / "alone", Path(folder) / "together"
    alone.mkdir()
    here.mkdir()

    def moments(calls: int) -> list[Moment]:
        return [Moment(draw.randint(1, calls)), *(Moment() for _ in range(number - 1))]

    calls = calls_of(lambda: sweep(alone), alone)
    statuses = together(lambda: sweep(here), moments(calls // number))
    assert statuses[1:] == [0] * (number - 1), statuses
    assert rows_of(here / "results" / "small.jsonl") == rows_of(alone / "results" / "small.jsonl")
    words = [line.split() for line in (here / "notes").read_text(encoding="utf-8").splitlines()]
    began, over = (sorted(key for word, key in words if word == kind) for kind in ("began", "ended"))
    twice = len(began) - len(JOBS)
    assert sorted(set(began)) == sorted(job.key for job in JOBS) == sorted(set(over)), words
    assert twice <= (statuses[0] == -signal.SIGKILL), words
    # A job that had ended when its process was killed may have had no record yet.
    assert len(over) <= len(JOBS) + twice, words
    left = [path.name for path in (here / "runs").iterdir()]
    assert not left, left

    calls = calls_of(lambda: train(alone), alone)
    begun = together(lambda: train(here), moments(calls))
    assert sorted(begun) in (
        [0] + [2] * (number - 1),
        [-signal.SIGKILL] + [2] * (number - 1),
        sorted([-signal.SIGKILL, 0] + [2] * (number - 2)),
    ), begun
    again = together(lambda: train(here, resume=True), [Moment() for _ in range(number)])
    assert 0 in again, again
    assert set(again) <= {0, 2}, again
    assert rows_of(here / "train" / serial.RECORD) == rows_of(alone / "train" / serial.RECORD)
    print(json.dumps([statuses, begun, again]))
