"""Run the jobs of a study: one after another, or on a Ray cluster; the same records either way."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from convexnet.lab.checkpoints import NAME, CheckpointError
from convexnet.lab.data import DataError
from convexnet.lab.jobs import Job
from convexnet.lab.records import Row, append_record, read_records
from convexnet.lab.runs import Place, Tick
from convexnet.lab.study import Study
from convexnet.lab.train import Diverged

RETRIES = 5
"""How often Ray starts a job again whose worker died; each time it goes on from its checkpoint."""


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
    known = recorded(results)
    outcome = Outcome([known[job.key] for job in jobs if job.key in known])
    outcome.found = len(outcome.rows)
    todo = list({job.key: job for job in jobs if job.key not in known}.values())
    ran = one_by_one(study, todo, place, results, tick) if ray is None else over_ray(study, todo, place, ray, threads)
    for job, answer in ran:
        if isinstance(answer, str):
            outcome.failed.append((job, answer))
        elif job.key in (since := recorded(results)):
            outcome.rows.append(since[job.key])
            outcome.found += 1
        else:
            append_record(results / f"{study.name}.jsonl", answer)
            outcome.rows.append(answer)
            # The record is what counts; a checkpoint of every run would soon fill a disk.
            (own(place, job).folder / NAME).unlink(missing_ok=True)
            shutil.rmtree(own(place, job).folder, ignore_errors=True)
        done(job, outcome)
    return outcome


def own(place: Place, job: Job) -> Place:
    """The place of one job of a sweep."""
    return replace(place, folder=place.folder / job.key)


def recorded(results: Path) -> dict[str, Row]:
    """All records in a folder, by their keys."""
    return {row["key"]: row for file in sorted(results.glob("*.jsonl")) for row in read_records(file)}


def one_by_one(
    study: Study, jobs: Sequence[Job], place: Place, results: Path, tick: Tick
) -> Iterator[tuple[Job, Row | str]]:
    """Each job with its record, or with what went wrong in words."""
    for job in jobs:
        # Another sweep may have run it in the meantime: two of them side by side share the work.
        if (row := recorded(results).get(job.key)) is not None:
            yield job, row
            continue
        try:
            yield job, study.run(job, own(place, job), tick)
        except (DataError, CheckpointError, Diverged) as error:
            yield job, str(error)


# --- Ray -------------------------------------------------------------------------------------------------------------


def perform(name: str, job: Job, place: Place, threads: int) -> Row:
    """What a worker does; the study is named, because functions of this process are not those of another."""
    import torch

    from convexnet.lab.studies import study_named

    torch.set_num_threads(threads)
    return study_named(name).run(job, replace(place, say=print), lambda job, point: None)


def over_ray(
    study: Study, jobs: Sequence[Job], place: Place, address: str, threads: int
) -> Iterator[tuple[Job, Row | str]]:
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
        waiting = {task.remote(study.name, job, own(absolute, job), threads): job for job in jobs}
        while waiting:
            (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(ready)
            try:
                yield job, ray.get(ready)
            except (DataError, CheckpointError, Diverged) as error:
                # Ray puts a traceback before the message, and the name of the error before that.
                yield job, str(error).splitlines()[-1].partition(": ")[2]
            except RayError as error:
                yield job, f"its worker died {RETRIES + 1} times or could not start: {error}"
    finally:
        if started:
            ray.shutdown()
