"""A learner that is not a classifier gets checkpoints, resuming, logs and a record for nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from convexnet import learner
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.learning import learn
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import COMMON, Row, read_records
from convexnet.lab.runs.sweep import sweep
from convexnet.lab.studies import fig2
from convexnet.lab.training.checkpoints import NAME, CheckpointError
from convexnet.lab.training.driver import LOG
from tests.lab import small


@dataclass(frozen=True)
class Recipe:
    """Of k-means."""

    name: str = "k-means"
    clusters: int = 4
    epochs: int = 6


class KMeans:
    """Lloyd's algorithm: an advance is one iteration."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        draws = torch.Generator().manual_seed(seed)
        self.recipe, self.iteration = recipe, 0
        self.points = torch.randn(200, 2, generator=draws, dtype=torch.float64)
        self.centres = self.points[: recipe.clusters].clone()

    @property
    def done(self) -> bool:
        return self.iteration >= self.recipe.epochs

    def advance(self) -> learner.Point:
        nearest: Tensor = torch.cdist(self.points, self.centres).argmin(1)
        for k in range(self.recipe.clusters):
            self.centres[k] = self.points[nearest == k].mean(0)
        self.iteration += 1
        distances: Tensor = torch.cdist(self.points, self.centres).amin(1)
        return {"epoch": self.iteration, "inertia": float(distances.square().sum())}

    def state(self) -> dict[str, Any]:
        return {"iteration": self.iteration, "centres": self.centres}

    def restore(self, state: dict[str, Any]) -> None:
        self.iteration, self.centres = state["iteration"], state["centres"]


def cluster(job: Job, place: Place, tick: Tick) -> Row:
    made = KMeans(job.recipe, job.seed)

    def columns() -> Row:
        return {"task": "clustering", "certified": False, "centres": made.centres.tolist()}

    return learn(job, made, place, columns, tick)


STUDY = replace(fig2.STUDY, name="clusters", run=cluster)
JOBS = [Job("clusters", "k-means", "normal", Recipe(), seed) for seed in range(2)]


class Halted(Exception):
    """In the midst of a run."""


def halt(_: Job, point: learner.Point) -> None:
    if point["epoch"] == 3:
        raise Halted


def test_it_is_a_learner() -> None:
    made = KMeans(Recipe(), 0)
    assert isinstance(made, learner.Learner)
    points = learner.run(made)
    assert [point["epoch"] for point in points] == [1, 2, 3, 4, 5, 6]
    assert points[-1]["inertia"] <= points[0]["inertia"]
    assert not isinstance(object(), learner.Learner)


def test_stopped_and_resumed_it_ends_the_same(tmp_path: Path) -> None:
    whole = cluster(JOBS[0], small.place(tmp_path / "whole"), lambda job, point: None)
    with pytest.raises(Halted):
        cluster(JOBS[0], small.place(tmp_path / "parts"), halt)
    resumed = cluster(JOBS[0], small.place(tmp_path / "parts"), lambda job, point: None)
    assert (whole["resumed_after"], resumed["resumed_after"]) == ([], [3])
    assert small.same(resumed) == small.same(whole)
    logs = [(tmp_path / name / LOG).read_text(encoding="utf-8") for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert len(logs[0].splitlines()) == 1 + 6
    with pytest.raises(CheckpointError, match="seed was 0, is 1"):
        cluster(JOBS[1], small.place(tmp_path / "parts"), lambda job, point: None)


def test_a_sweep_of_it_has_records(tmp_path: Path) -> None:
    outcome = sweep(STUDY, JOBS, small.place(tmp_path / "runs"), tmp_path / "results")
    rows = read_records(tmp_path / "results" / "clusters.jsonl")
    assert rows == json.loads(json.dumps(outcome.rows))
    assert all(set(row) > COMMON for row in rows)
    assert [row["task"] for row in rows] == ["clustering"] * 2
    assert len(rows[0]["curve"]) == 6
    assert not list((tmp_path / "runs").rglob(NAME))
    again = sweep(STUDY, JOBS, small.place(tmp_path / "runs"), tmp_path / "results")
    assert again.found == 2
