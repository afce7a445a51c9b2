"""Run jobs one by one in this process: claim each, run it where it has no record, record it, remove its folder."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import sleep

from convexnet.errors import ConvexNetError
from convexnet.lab.atomic import write_whole
from convexnet.lab.data import DataError
from convexnet.lab.runs.dependencies import Early, Study, Unmet, Waits, Work, needed_by, recorded
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.lock import Taken, claimed
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import NotRecorded, RecordError, Row, append_record
from convexnet.lab.training.checkpoints import NAME, CheckpointError
from convexnet.lab.training.epoch import Diverged

RECORD = "record.jsonl"
"""In the folder of a run that is kept, as `convexnet train` writes it too."""


PATIENCE = 1.0
"""Seconds between two looks at jobs that others are at work on."""


Ran = tuple[Job, Row | str, bool]
"""A job, its record or what went wrong in words, and whether it was this sweep that ran it."""


FAILURES = (
    *(DataError, CheckpointError, Diverged, RecordError, OSError, ConvexNetError),
    *(ImportError, ValueError, RuntimeError),
)
"""What ends a job, and no sweep: a queue of days goes on. A TypeError, say, is a fault of the program, and is shown."""


def own_place(place: Place, job: Job) -> Place:
    """The place of one job of a sweep."""
    return replace(place, folder=place.folder / job.key, needs={key: place.folder / key for key in job.needs})


def run_serially(
    work: Sequence[Work], place: Place, results: Path, tick: Tick, kept: frozenset[str] | None = None
) -> Iterator[Ran]:
    """Each job with its record, or with what went wrong in words.

    What another sweep is at work on goes to the end of the queue, as does a job before those that it needs. Where
    nothing else is left, it is waited for: its record comes, or its process dies and its folder is free.

    Args:
        work: the jobs, in order.
        place: of all runs.
        results: the folder of the records.
        tick: called with every point.
        kept: the keys of jobs whose folder stays, with the network in it; None: of those that others here need, until
            these are done.
    """
    queue = deque(work)
    waits = Waits(work, results)
    keeps = needed_by(work) if kept is None else kept
    told: set[str] = set()
    put_off = 0  # since anything was run, or waited for
    while queue:
        study, job = queue.popleft()
        try:
            if not waits.ready(job):
                raise Early
            row, new = record_of(study, job, own_place(place, job), results, tick, keep=job.key in keeps)
            waits.done.add(job.key)
            yield job, row, new
        except (Taken, Early) as error:
            if isinstance(error, Taken) and job.key not in told:
                place.say(f"{job.name}: {error}")
                told.add(job.key)
            queue.append((study, job))
            put_off += 1
            if put_off == len(queue):
                sleep(PATIENCE)
                put_off = 0
            continue
        except (*FAILURES, Unmet) as error:
            waits.failed.add(job.key)
            yield job, error_in_words(error), True
        put_off = 0
    if kept is None:
        remove_folders(work, place, results)


def record_of(
    study: Study, job: Job, place: Place, results: Path, tick: Tick, *, keep: bool = False
) -> tuple[Row, bool]:
    """The record of a job, which is run where there is none, and whether it was.

    Where `keep` says so the folder stays, with network and record, and a job whose folder is gone is run once more.

    Raises:
        Taken: another process is at work on it.
    """
    with claimed(place.folder):
        found = recorded(results).get(job.key)
        if found is not None and (not keep or (place.folder / RECORD).exists()):
            row = found
        else:
            row = study.run(job, replace(place, network=True) if keep else place, tick)
        if found is None:
            append_record(results / f"{study.name}.jsonl", row)
        if keep:
            write_whole(place.folder / RECORD, json.dumps(row, allow_nan=False) + "\n")
            (place.folder / NAME).unlink(missing_ok=True)
        else:
            # The record is what counts; a checkpoint of every run would soon fill a disk.
            shutil.rmtree(place.folder, ignore_errors=True)
    return row, found is None


def remove_folders(work: Sequence[Work], place: Place, results: Path) -> None:
    """Remove the folders of the jobs that nothing here needs any more."""
    known = recorded(results)
    wanted = needed_by([(study, job) for study, job in work if job.key not in known])
    for key in needed_by(work) - wanted:
        with contextlib.suppress(Taken, CheckpointError), claimed(place.folder / key):
            shutil.rmtree(place.folder / key, ignore_errors=True)


def error_in_words(error: Exception) -> str:
    """An error in a sentence.

    Example:
        >>> error_in_words(OSError(28, "No space left on device", "runs/a/log.csv"))
        'runs/a/log.csv: No space left on device; what was recorded is whole, and the same command goes on'
    """
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; what was recorded is whole, and the same command goes on"
    return error.short if isinstance(error, NotRecorded) else str(error)
