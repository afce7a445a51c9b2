"""Run the jobs of a sweep on a Ray cluster, for `study run --ray`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convexnet.lab.runs.dependencies import Study, Unmet, Waits, needed_by
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.runs.serial import Ran, error_in_words, own_place, remove_folders, run_serially

RETRIES = 5
"""How often Ray starts a job again whose worker died; each time it goes on from its checkpoint."""


@dataclass(frozen=True)
class Sent:
    """What a worker gets of a study: its name, and the function that runs its jobs."""

    name: str
    run: Callable[[Job, Place, Tick], Row]


def perform(study: Sent, job: Job, place: Place, results: Path, threads: int, keep: bool) -> tuple[Row | str, bool]:
    """What a worker does."""
    import torch

    torch.set_num_threads(threads)
    whole = replace(place, folder=place.folder.parent, say=print)
    kept = frozenset([job.key] if keep else [])
    ((_, answer, new),) = run_serially([(study, job)], whole, results, lambda job, point: None, kept)
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
        gpus = int(place.accelerator == "cuda")  # otherwise Ray shows its workers none
        task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=RETRIES)(perform)
        absolute = replace(place, folder=place.folder.absolute(), say=print)
        work = [(study, job) for job in jobs]
        waits, kept, later = Waits(work, results), needed_by(work), list(jobs)
        waiting: dict[Any, Job] = {}
        while later or waiting:
            for job in list(later):
                try:
                    if not waits.ready(job):
                        continue
                except Unmet as error:
                    waits.failed.add(job.key)
                    yield job, error_in_words(error), True
                else:
                    wanted = (
                        Sent(study.name, study.run),
                        job,
                        own_place(absolute, job),
                        results.absolute(),
                        threads,
                        job.key in kept,
                    )
                    waiting[task.remote(*wanted)] = job
                later.remove(job)
            if not waiting:
                continue
            (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(ready)
            try:
                answer, new = ray.get(ready)
            except RayError as error:
                answer, new = f"its worker died {RETRIES + 1} times or could not start: {error}", True
            (waits.failed if isinstance(answer, str) else waits.done).add(job.key)
            yield job, answer, new
        remove_folders(work, place, results)
    finally:
        if started:
            ray.shutdown()
