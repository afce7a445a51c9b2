"""Kill a run that is no classifier's, let it go on, and compare with one that was not killed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import convexnet as cx
from convexnet.lab.runs.jobs import Job
from convexnet.learner import Point
from tests.lab import small


def killed_and_resumed(
    run: Callable[..., Any],
    job: Job,
    folder: Path,
    slices: tuple[pytest.MonkeyPatch, ModuleType] | None = None,
    kills: int = 1,
    counter: str = "epoch",
    varying: Sequence[str] = (),
) -> Any:
    """The record of a run that was killed after each of its first points; it equals that of one that was not.

    Args:
        run: of a study.
        folder: where `whole` and `killed` are made.
        slices: whose `SLICE` becomes 0 for the run that is killed: a checkpoint after every batch.
        kills: how often.
        counter: what points count by.
        varying: columns that depend on how long something took, besides those of all records.
    """
    whole = run(job, small.place(folder / "whole", network=True), lambda job, point: None)
    if slices is not None:
        slices[0].setattr(slices[1], "SLICE", 0.0)
    told: list[float] = []

    def kill(job: Job, point: Point) -> None:
        told.append(point[counter])
        if len(told) <= kills:
            raise KeyboardInterrupt

    place = small.place(folder / "killed", network=True)
    for _ in range(kills):
        with pytest.raises(KeyboardInterrupt):
            run(job, place, kill)
    found = run(job, place, kill)
    assert found["resumed_after"] == [*range(1, kills + 1)]
    assert small.same({**found, **dict.fromkeys(varying)}) == small.same({**whole, **dict.fromkeys(varying)})
    weights = [cx.load(folder / name / "network.safetensors").state_dict() for name in ("whole", "killed")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    return found
