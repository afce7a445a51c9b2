"""Drive any learner to its end, and write the record of it.

A learner that is not a classifier gets checkpoints, resuming, logs, bars and a record from `learn`: a study's `run` is
`partial(learn, make)`, where `make` makes the learner from the job.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import nn

import convexnet as cx
from convexnet.lab.runs import records
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.training.checkpoints import CheckpointError
from convexnet.lab.training.driver import Driven, Keeping, drive
from convexnet.learner import Learner, Point

NETWORK = "network.safetensors"
"""The trained network in the folder of a run."""

POINTS = 100
"""At most this many points of a curve are kept in a record; the run's own log has all."""


class Recorded(Learner, Protocol):
    """A learner that says what its record has."""

    def columns(self) -> Mapping[str, Any]:
        """Return what the record has besides the common columns, once the learner is done.

        `task` names what it learns, and `certified` says whether the result is proved convex.
        """
        ...


L = TypeVar("L", bound=Recorded)


def learn(
    make: Callable[[Job], L], job: Job, place: Place, tick: Tick, keep: Callable[[L], nn.Module] | None = None
) -> Row:
    """Drive a learner, from the beginning or from its checkpoint, and record it.

    Args:
        make: the learner of a job, as it is at the beginning.
        job: what decides all that it learns; its recipe is any frozen dataclass with a `name`, and with `epochs` where
            these are known beforehand.
        place: where it is run.
        tick: called with every point.
        keep: the network that is saved with `place.network`, of the learner once it is recorded.

    Raises:
        CheckpointError: a checkpoint does not fit, or something cannot be written.
        Stopped: by Ctrl-C or SIGTERM.
    """
    learner = make(job)
    driven = drive(learner, keeping(job, place), lambda point: tick(job, point))
    row = {**common(job, driven), **learner.columns()}
    if keep is not None and place.network:
        save(keep(learner), place.folder / NETWORK)
    return row


def save(network: nn.Module, path: Path) -> None:
    """Write a network.

    Raises:
        CheckpointError: it cannot be written; the checkpoint has it.
    """
    try:
        cx.save(network, path)
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written ({error.strerror or error}); the checkpoint next to it has the weights: free "
            "some space and resume from it"
        ) from error


def needed(place: Place, key: str) -> nn.Module:
    """The network that a needed job trained, in eval mode: samples as they are -> outputs."""
    return cx.load(place.needs[key] / NETWORK).eval()


def keeping(job: Job, place: Place, **more: Any) -> Keeping:
    """Where and how often the driver of a job writes."""
    return Keeping(
        place.folder,
        job.settings,
        resume=place.resume,
        seconds=place.checkpoint_seconds,
        board=place.board,
        name=job.name,
        say=place.say,
        ready=place.ready,
        **more,
    )


def common(job: Job, driven: Driven) -> Row:
    """What every record has: what was run, how long it took, on what, and what was measured on the way."""
    return {
        "record": records.VERSION,
        "key": job.key,
        "study": job.study,
        "model": job.model,
        "dataset": job.dataset,
        "variant": job.variant,
        "recipe": json.loads(json.dumps(asdict(job.recipe))),  # as it is read again, tuples as lists
        "seed": job.seed,
        "full": job.full,
        **({"continued_from": job.continued_from} if job.continued_from else {}),
        "curve": thinned(driven.curve),
        "seconds": round(driven.seconds, 3),
        "core_seconds": round(driven.core_seconds, 3),
        "resumed_after": driven.resumed,
        **surroundings(),
    }


def surroundings() -> Row:
    """On what and when something was measured, and with which versions."""
    return {
        "hardware": records.hardware(),
        "versions": records.versions(),
        "commit": records.commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def thinned(curve: list[Point]) -> list[Point]:
    """At most `POINTS` of a curve, evenly, the last included, every number to six digits; JSON has no infinite ones."""
    stride = max(1, -(-len(curve) // POINTS))
    chosen = [point for index, point in enumerate(curve, 1) if index % stride == 0 or index == len(curve)]
    return [{name: float(f"{value:.6g}") for name, value in point.items() if math.isfinite(value)} for point in chosen]
