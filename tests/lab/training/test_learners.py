"""A learner that is not a classifier gets checkpoints, resuming, bars, logs and a record for nothing."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from convexnet import learner
from convexnet.lab.cli.bars import Bars
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.learning import learn
from convexnet.lab.runs.records import COMMON, RecordError, append_record, read_records
from convexnet.lab.runs.sweep import Outcome, sweep
from convexnet.lab.studies import fig2
from convexnet.lab.training.checkpoints import NAME, CheckpointError
from convexnet.lab.training.driver import LOG, Keeping, drive
from tests.lab import small
from tests.lab.training import kmeans
from tests.lab.training.kmeans import KMeans, Recipe, cluster

STUDY = replace(fig2.STUDY, name="clusters", run=cluster)
JOBS = [Job("clusters", "k-means", "normal", Recipe(), seed) for seed in range(2)]


class Halted(Exception):
    """In the midst of a run."""


def halt(_: Job, point: learner.Point) -> None:
    if point["iteration"] == 3:
        raise Halted


def test_it_is_a_learner() -> None:
    made = KMeans(JOBS[0])
    assert isinstance(made, learner.Learner)
    points = learner.run(made)
    assert [point["iteration"] for point in points] == [1, 2, 3, 4, 5, 6]
    assert points[-1]["inertia"] <= points[0]["inertia"]
    assert not isinstance(object(), learner.Learner)


def test_it_is_written_in_under_forty_lines() -> None:
    lines = [line for line in Path(kmeans.__file__).read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) < 40


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


def test_it_has_a_bar_and_a_log_for_tensorboard(tmp_path: Path) -> None:
    screen = io.StringIO()
    with Bars(Console(file=screen, force_terminal=True, width=100, no_color=True)) as bars:
        bars.begin_all("all", 1)
        row = cluster(JOBS[0], small.place(tmp_path, board=True), bars.tick)
        bars.done(JOBS[0], Outcome([row]))
    text = screen.getvalue()
    assert "k-means, normal, k-means, seed 0" in text
    assert "6/6 inertia" in text
    assert "1/1" in text
    assert list((tmp_path / "tensorboard").iterdir())


@dataclass(frozen=True)
class Bare:
    """A recipe that does not know how long it takes."""

    name: str = "bare"


class Counting(learner.Attributes):
    """Measures in what NumPy computes with, and does not say which point it is."""

    kept = ("net", "optimiser", "draws", "seen")

    def __init__(self, job: Job) -> None:
        torch.manual_seed(job.seed)
        self.net = nn.Linear(1, 1)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=0.1)
        self.draws = torch.Generator().manual_seed(job.seed)
        self.seen: list[float] = []

    @property
    def done(self) -> bool:
        return len(self.seen) == 4

    def advance(self) -> Any:
        loss = (self.net(torch.randn(8, 1, generator=self.draws)) - 1).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.seen.append(float(loss.detach()))
        return {"loss": np.float64(self.seen[-1]), "worst": -np.inf}

    def columns(self) -> dict[str, Any]:
        return {"task": "counting", "certified": False, "weight": self.net.weight.item()}


def test_modules_optimisers_and_generators_are_kept(tmp_path: Path) -> None:
    job = Job("counts", "linear", "normal", Bare(), 0)  # type: ignore[arg-type]
    whole = learn(Counting, job, small.place(tmp_path / "whole"), lambda job, point: None)
    screen = io.StringIO()
    seen: list[learner.Point] = []

    def halt(_: Job, point: learner.Point) -> None:
        seen.append(point)
        if len(seen) == 2:
            raise Halted

    with pytest.raises(Halted):
        learn(Counting, job, small.place(tmp_path / "parts"), halt)
    with Bars(Console(file=screen, force_terminal=True, width=100, no_color=True)) as bars:
        resumed = learn(Counting, job, small.place(tmp_path / "parts"), bars.tick)
    assert resumed["resumed_after"] == [2]
    assert small.same(resumed) == small.same(whole)
    assert "2/?" in screen.getvalue()
    # A record is JSON, which has no infinity; the log has it.
    assert json.loads(json.dumps(resumed, allow_nan=False))["curve"][-1].keys() == {"loss"}
    with (tmp_path / "parts" / LOG).open(encoding="utf-8") as file:
        assert [line["worst"] for line in csv.DictReader(file)] == ["-inf"] * 4


def test_what_could_not_be_read_again_is_refused_when_it_is_written(tmp_path: Path) -> None:
    made = Counting(JOBS[0])
    made.seen = [np.float64(0.5)]
    with pytest.raises(TypeError, match=r"state\['learner'\]\['seen'\]\[0\] is a float64: .* float\(value\)"):
        drive(made, Keeping(tmp_path, {}, seconds=0.0))


def test_the_state_of_another_learner_is_refused() -> None:
    with pytest.raises(ValueError, match="keeps iteration, centres, and this state has net, optimiser, draws, seen"):
        KMeans(JOBS[0]).restore(Counting(JOBS[0]).state())


def test_a_column_that_is_no_json_is_named(tmp_path: Path) -> None:
    for value in (float("nan"), np.zeros(2), {"a": {1, 2}}):
        with pytest.raises(RecordError, match="its column 'found'"):
            append_record(tmp_path / "rows.jsonl", {"task": "counting", "found": value})
    assert not (tmp_path / "rows.jsonl").exists()
