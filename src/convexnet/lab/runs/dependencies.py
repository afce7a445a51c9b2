"""Let jobs wait for the jobs that they need: which jobs of a sweep may start, for sweeps here and on Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row, read_records


class Study(Protocol):
    """What a sweep has to know of a study (`convexnet.lab.studies.study.Study`)."""

    @property
    def name(self) -> str:
        """Of the file of its records."""
        ...

    @property
    def run(self) -> Callable[[Job, Place, Tick], Row]:
        """How a job becomes a record."""
        ...


Work = tuple[Study, Job]
"""A job and the study that runs it."""


def recorded(results: Path) -> dict[str, Row]:
    """All records in a folder, by their keys."""
    return {row["key"]: row for file in sorted(results.glob("*.jsonl")) for row in read_records(file)}


def needed_by(work: Sequence[Work]) -> frozenset[str]:
    """The keys of the jobs that some jobs need."""
    return frozenset(key for _, job in work for key in job.needs)


class Early(Exception):
    """A job was looked at before those that it needs."""


class Unmet(Exception):
    """What a job needs failed, or is nowhere; the message names it."""


class Waits:
    """Which jobs of a sweep may start: those whose needs are done."""

    def __init__(self, work: Sequence[Work], results: Path) -> None:
        self.names = {job.key: job.name for _, job in work}
        self.results = results
        self.done: set[str] = set()
        self.failed: set[str] = set()

    def ready(self, job: Job) -> bool:
        """Whether all that a job needs is done.

        Raises:
            Unmet: something that it needs failed, or is neither recorded nor a job of this sweep.
        """
        if broken := [key for key in job.needs if key in self.failed]:
            raise Unmet(f"skipped, as it needs a run that failed: {self.names[broken[0]]}")
        missing = [key for key in job.needs if key not in self.done]
        elsewhere = [key for key in missing if key not in self.names]
        if elsewhere:
            known = recorded(self.results)
            if nowhere := [key for key in elsewhere if key not in known]:
                raise Unmet(f"skipped, as it needs the run {nowhere[0]}, which has no record and is not asked for here")
            self.done |= set(elsewhere)
        return all(key in self.done for key in job.needs)
