"""Run the jobs of a study, one after another or on a Ray cluster; the records are the same either way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from convexnet.lab.runs.dependencies import Study, Work, needed_by, recorded
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.on_ray import over_ray
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.runs.serial import RECORD, Ran, run_serially


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
    the rest from its checkpoint. A job that fails is remembered, and the next one is run. A job starts when those that
    it needs (`Job.needs`) are done; it is skipped, with a sentence, where one of them failed.

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
    outcome, left = begin(work, place, results)
    return follow(over_ray(study, [job for _, job in left], place, results, ray, threads), outcome, done)


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
    outcome, left = begin(work, place, results)
    return follow(run_serially(left, place, results, tick), outcome, done)


def begin(work: Sequence[Work], place: Place, results: Path) -> tuple[Outcome, list[Work]]:
    """The records that are there, and what is left to run, each job once.

    A job that another one needs is left to run though it has a record, where its network was not kept.
    """
    known = recorded(results)
    asked = needed_by([(study, job) for study, job in work if job.key not in known])
    gone = {key for key in asked if not (place.folder / key / RECORD).exists()}
    outcome = Outcome([known[job.key] for _, job in work if job.key in known and job.key not in gone])
    outcome.found = len(outcome.rows)
    left: dict[str, Work] = {}
    for study, job in work:
        if job.key not in known or job.key in gone:
            left.setdefault(job.key, (study, job))
    return outcome, list(left.values())


def follow(ran: Iterator[Ran], outcome: Outcome, done: Callable[[Job, Outcome], None]) -> Outcome:
    """Note what becomes of jobs while they are run."""
    for job, answer, new in ran:
        if isinstance(answer, str):
            outcome.failed.append((job, answer))
        else:
            outcome.rows.append(answer)
            outcome.found += not new
        done(job, outcome)
    return outcome
