"""Run the jobs of a study: one after another, or on a Ray cluster; the same records either way."""

from __future__ import annotations

import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import sleep

from convexnet.lab.checkpoints import CheckpointError
from convexnet.lab.data import DataError
from convexnet.lab.jobs import Job
from convexnet.lab.lock import Taken, claimed
from convexnet.lab.place import Place, Tick
from convexnet.lab.records import RecordError, Row, append_record, read_records
from convexnet.lab.study import Study
from convexnet.lab.train import Diverged

RETRIES = 5
"""How often Ray starts a job again whose worker died; each time it goes on from its checkpoint."""

PATIENCE = 1.0
"""Seconds between two looks at jobs that others are at work on."""


@dataclass
class Outcome:
    """What became of the jobs of a sweep."""

    rows: list[Row] = field(default_factory=list[Row])
    found: int = 0
    failed: list[tuple[Job, str]] = field(default_factory=list[tuple[Job, str]])


def sweep(
    study: Study,
    jobs: Sequence[Job],
    place: Place,
    results: Path,
    *,
    ray: str | None = None,
    threads: int = 1,
    tick: Tick = lambda job, point: None,
    done: Callable[[Job, Outcome], None] = lambda job, outcome: None,
) -> Outcome:
    """Run the jobs that have no record yet, and add each record as soon as it is there.

    A sweep that is stopped, or killed, loses nothing: started again it leaves out what has a record, and goes on with
    the rest from its checkpoint. A job that fails is remembered, and the next one is run.

    Args:
        study: whose jobs they are.
        jobs: what to run.
        place: `folder` is that of all runs; each gets one inside, named by its key.
        results: the file `<study>.jsonl` is in this folder; all files there are searched for records.
        ray: address of a Ray cluster ("local" starts one here); None: one job after another, in this process. Workers
            on other machines need the same `folder`, or they start a dead worker's job from its beginning.
        threads: processor threads of a job on Ray.
        tick: called after every epoch, if the jobs run in this process.
        done: called after every job.

    Raises:
        RecordError: a record cannot be read or added.
    """
    work = [(study, job) for job in jobs]
    if ray is None:
        return sweep_several(work, place, results, tick=tick, done=done)
    outcome, left = begun(work, results)
    return followed(over_ray(study, [job for _, job in left], place, results, ray, threads), outcome, done)


def sweep_several(
    work: Sequence[Work],
    place: Place,
    results: Path,
    *,
    tick: Tick = lambda job, point: None,
    done: Callable[[Job, Outcome], None] = lambda job, outcome: None,
) -> Outcome:
    """Run jobs of several studies in the order in which they are given, one after another, in this process.

    Arguments and errors are those of `sweep`; a record goes into the file of the study that asks for the job first.
    """
    outcome, left = begun(work, results)
    return followed(one_by_one(left, place, results, tick), outcome, done)


def begun(work: Sequence[Work], results: Path) -> tuple[Outcome, list[Work]]:
    """The records that are there, and what is left to run, each job once."""
    known = recorded(results)
    outcome = Outcome([known[job.key] for _, job in work if job.key in known])
    outcome.found = len(outcome.rows)
    left: dict[str, Work] = {}
    for study, job in work:
        if job.key not in known:
            left.setdefault(job.key, (study, job))
    return outcome, list(left.values())


def followed(ran: Iterator[Ran], outcome: Outcome, done: Callable[[Job, Outcome], None]) -> Outcome:
    """Note what becomes of jobs while they are run."""
    for job, answer, new in ran:
        if isinstance(answer, str):
            outcome.failed.append((job, answer))
        else:
            outcome.rows.append(answer)
            outcome.found += not new
        done(job, outcome)
    return outcome


Work = tuple[Study, Job]
"""A job and the study that runs it."""

Ran = tuple[Job, Row | str, bool]
"""A job, its record or what went wrong in words, and whether it was this sweep that ran it."""

FAILURES = (DataError, CheckpointError, Diverged, RecordError, OSError)
"""What ends a job, and no sweep."""


def own(place: Place, job: Job) -> Place:
    """The place of one job of a sweep."""
    return replace(place, folder=place.folder / job.key)


def recorded(results: Path) -> dict[str, Row]:
    """All records in a folder, by their keys."""
    return {row["key"]: row for file in sorted(results.glob("*.jsonl")) for row in read_records(file)}


def one_by_one(work: Sequence[Work], place: Place, results: Path, tick: Tick) -> Iterator[Ran]:
    """Each job with its record, or with what went wrong in words.

    What another sweep is at work on goes to the end of the queue; where nothing else is left, it is waited for: its
    record comes, or its process dies and its folder is free.
    """
    queue = deque(work)
    told: set[str] = set()
    taken = 0  # since anything was run, or waited for
    while queue:
        study, job = queue.popleft()
        try:
            row, new = settled(study, job, own(place, job), results, tick)
            yield job, row, new
        except Taken as error:
            if job.key not in told:
                place.say(f"{job.name}: {error}")
            told.add(job.key)
            queue.append((study, job))
            taken += 1
            if taken == len(queue):
                sleep(PATIENCE)
                taken = 0
            continue
        except FAILURES as error:
            yield job, said(error), True
        taken = 0


def settled(study: Study, job: Job, place: Place, results: Path, tick: Tick) -> tuple[Row, bool]:
    """The record of a job, which is run where there is none, and whether it was.

    Raises:
        Taken: another process is at work on it.
    """
    with claimed(place.folder):
        found = recorded(results).get(job.key)
        new = found is None
        row = found if found is not None else study.run(job, place, tick)
        if new:
            append_record(results / f"{study.name}.jsonl", row)
        # The record is what counts; a checkpoint of every run would soon fill a disk.
        shutil.rmtree(place.folder, ignore_errors=True)
    return row, new


def said(error: Exception) -> str:
    """An error in a sentence.

    Example:
        >>> said(OSError(28, "No space left on device", "runs/a/log.csv"))
        'runs/a/log.csv: No space left on device; what was recorded is whole, and the same command goes on'
    """
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; what was recorded is whole, and the same command goes on"
    return str(error)


# --- Ray -------------------------------------------------------------------------------------------------------------


def perform(name: str, job: Job, place: Place, results: Path, threads: int) -> tuple[Row | str, bool]:
    """What a worker does; the study is named, because functions of this process are not those of another."""
    import torch

    from convexnet.lab.studies import study_named

    torch.set_num_threads(threads)
    whole = replace(place, folder=place.folder.parent, say=print)
    ((_, answer, new),) = one_by_one([(study_named(name), job)], whole, results, lambda job, point: None)
    return answer, new


def over_ray(
    study: Study, jobs: Sequence[Job], place: Place, results: Path, address: str, threads: int
) -> Iterator[Ran]:
    """Each job with its record, in the order in which they finish; a dead worker's job is run again by another.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: there is no cluster at that address.
    """
    try:
        import ray
        from ray.exceptions import RayError
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("--ray needs Ray: pip install 'convexnet[lab,cluster]'", name="ray") from error
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    try:
        task = ray.remote(num_cpus=threads, max_retries=RETRIES)(perform)
        absolute = replace(place, folder=place.folder.absolute(), say=print)
        waiting = {task.remote(study.name, job, own(absolute, job), results.absolute(), threads): job for job in jobs}
        while waiting:
            (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(ready)
            try:
                answer, new = ray.get(ready)
                yield job, answer, new
            except RayError as error:
                yield job, f"its worker died {RETRIES + 1} times or could not start: {error}", True
    finally:
        if started:
            ray.shutdown()
