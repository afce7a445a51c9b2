"""Sweeps: nothing is run twice, nothing is lost, and a failure stops nothing else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convexnet.lab.data import MissingData
from convexnet.lab.models import architectures
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import RecordError, append_record, read_records
from convexnet.lab.runs.run import run
from convexnet.lab.runs.sweep import sweep
from convexnet.lab.studies import study_named, table1
from convexnet.lab.studies.study import Study
from convexnet.lab.training.epoch import Diverged
from convexnet.learner import Point
from tests.lab import small
from tests.lab.runs import cluster
from tests.processes import HANGING

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "HIDDEN", small.HIDDEN)


def counting(ran: list[str], fail: dict[int, Exception] | None = None) -> Study:
    """A study that notes what it runs, and fails for some seeds."""

    def noted(job: Job, place: Place, tick: Tick) -> dict[str, Any]:
        ran.append(job.key)
        if fail and job.seed in fail:
            raise fail[job.seed]
        return run(job, place, tick)

    return replace(table1.STUDY, run=noted)


def test_what_has_a_record_is_not_run_again(tmp_path: Path) -> None:
    jobs = [small.job("mlp", epochs=1, seed=seed) for seed in range(2)]
    ran: list[str] = []
    first = sweep(counting(ran), jobs[:1], small.place(tmp_path / "runs"), tmp_path / "results")
    assert (len(first.rows), first.found) == (1, 0)
    # Another study's job with the same settings is the same run; a job that is asked for twice is run once.
    asked = [replace(jobs[0], study="another"), jobs[1], jobs[1]]
    second = sweep(counting(ran), asked, small.place(tmp_path / "runs"), tmp_path / "results")
    assert (len(second.rows), second.found) == (2, 1)
    assert ran == [jobs[0].key, jobs[1].key]
    rows = read_records(tmp_path / "results" / "table1.jsonl")
    assert [row["key"] for row in rows] == ran
    assert not list((tmp_path / "runs").iterdir()), "checkpoints of finished runs are not kept"


def test_a_stopped_sweep_goes_on(tmp_path: Path) -> None:
    jobs = [small.job("mlp", epochs=4, seed=seed) for seed in range(2)]
    alone = [run(job, small.place(tmp_path / f"alone{job.seed}")) for job in jobs]

    def stop(job: Job, point: Point) -> None:
        if job.seed == 1 and point["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(table1.STUDY, jobs, small.place(tmp_path / "runs"), tmp_path / "results", tick=stop)
    assert len(read_records(tmp_path / "results" / "table1.jsonl")) == 1
    outcome = sweep(table1.STUDY, jobs, small.place(tmp_path / "runs"), tmp_path / "results")
    assert outcome.rows[1]["resumed_after"] == [2]
    assert [small.same(row) for row in outcome.rows] == [small.same(row) for row in alone]


def test_two_sweeps_share_the_work(tmp_path: Path) -> None:
    jobs = [small.job("mlp", epochs=1, seed=seed) for seed in range(2)]
    ran: list[str] = []

    def other(job: Job, point: Point) -> None:
        """While the first job runs, another sweep runs the second."""
        if job.seed == 0:
            sweep(counting(ran), jobs[1:], small.place(tmp_path / "elsewhere"), tmp_path / "results")

    outcome = sweep(counting(ran), jobs, small.place(tmp_path / "runs"), tmp_path / "results", tick=other)
    assert ran == [job.key for job in jobs]
    assert [row["seed"] for row in outcome.rows] == [0, 1]
    assert len(read_records(tmp_path / "results" / "table1.jsonl")) == 2


def test_a_failure_stops_nothing_else(tmp_path: Path) -> None:
    jobs = [small.job("mlp", epochs=1, seed=seed) for seed in range(5)]
    fail: dict[int, Exception] = {
        0: Diverged("the loss is nan"),
        1: MissingData("no folder"),
        2: ValueError("a part has one of two classes alone"),
        3: RuntimeError("out of memory"),
    }
    ran: list[str] = []
    outcome = sweep(counting(ran, fail), jobs, small.place(tmp_path / "runs"), tmp_path / "results")
    assert [(job.seed, error) for job, error in outcome.failed] == [(seed, str(fail[seed])) for seed in range(4)]
    assert [row["seed"] for row in outcome.rows] == [4]
    # They have no record, so that the next sweep tries again.
    again = sweep(table1.STUDY, jobs[3:], small.place(tmp_path / "runs"), tmp_path / "results")
    assert (len(again.rows), again.found) == (2, 1)
    # What is a fault of the program is not taken for one of a job.
    with pytest.raises(TypeError, match="a fault"):
        sweep(counting([], {0: TypeError("a fault")}), jobs[:1], small.place(tmp_path / "runs"), tmp_path / "results")


def test_records_of_another_version_stop_it_before_anything_runs(tmp_path: Path) -> None:
    append_record(tmp_path / "results" / "old.jsonl", {"record": 0, "key": "x"})
    ran: list[str] = []
    with pytest.raises(RecordError, match="version 0"):
        sweep(counting(ran), [small.job("mlp")], small.place(tmp_path / "runs"), tmp_path / "results")
    assert not ran


def test_an_unknown_study_is_named_with_the_closest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'table4'"):
        study_named("tabel4")


@pytest.mark.slow
def test_a_killed_node_of_a_ray_cluster(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.lab.runs.cluster", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGING, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[-1] == "1", "one of the two nodes is dead"
    rows = sorted(read_records(tmp_path / "results" / "table1.jsonl"), key=lambda row: row["seed"])
    assert any(row["resumed_after"] for row in rows), "the dead node's run went on from its checkpoint"
    # Full width here: the workers know nothing of the narrow networks above.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "HIDDEN", (800, 800, 800))
        alone = [run(job, small.place(tmp_path / f"alone{job.seed}")) for job in cluster.jobs()]
    assert [small.same(row) for row in rows] == [small.same(row) for row in alone]
