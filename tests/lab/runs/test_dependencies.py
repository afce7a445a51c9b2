"""Jobs that depend on jobs: a gate over frozen experts starts when these are trained, and not where one failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from convexnet.lab.data import load, scaled
from convexnet.lab.models import architectures
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.learning import common, needed
from convexnet.lab.runs.metrics import accuracy
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row, read_records
from convexnet.lab.runs.run import run
from convexnet.lab.runs.serial import RECORD
from convexnet.lab.runs.sweep import sweep
from convexnet.lab.studies import table1
from convexnet.lab.training.driver import Driven
from convexnet.lab.training.epoch import Diverged
from tests.lab import small

EXPERTS = [small.job("mlp", epochs=2, seed=seed) for seed in range(2)]
GATE = replace(small.job("gate", seed=0), needs=tuple(job.key for job in EXPERTS))


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "HIDDEN", small.HIDDEN)


class Mixture:
    """A study whose gate takes the mean of its experts; notes what it runs, and fails for some seeds of experts."""

    def __init__(self, fails: tuple[int, ...] = ()) -> None:
        self.ran: list[str] = []
        self.fails = fails

    def __call__(self, job: Job, place: Place, tick: Tick) -> Row:
        self.ran.append(job.name)
        if job.model != "gate":
            if job.seed in self.fails:
                raise Diverged("the loss is nan")
            return run(job, place, tick)
        test = load("digits").test
        with torch.no_grad():
            outputs = [needed(place, key)(scaled(test.images)) for key in job.needs]
        mean = sum(output.softmax(1) for output in outputs)
        assert isinstance(mean, torch.Tensor)
        own = {"task": "mixture", "certified": False, "test_accuracy": accuracy(mean, test.labels)}
        return {**common(job, Driven()), **own}


def test_a_gate_waits_for_its_experts(tmp_path: Path) -> None:
    mixture = Mixture()
    study = replace(table1.STUDY, run=mixture)
    places = small.place(tmp_path / "runs"), tmp_path / "results"
    outcome = sweep(study, [GATE, *EXPERTS], *places)  # the gate is asked for first
    assert not outcome.failed
    assert mixture.ran == [EXPERTS[0].name, EXPERTS[1].name, GATE.name]
    rows = {row["key"]: row for row in read_records(tmp_path / "results" / "table1.jsonl")}
    assert len(rows) == 3
    # What the gate was given are the networks that are trained alone.
    alone = {job.key: tmp_path / f"alone{job.seed}" for job in EXPERTS}
    for job in EXPERTS:
        run(job, small.place(alone[job.key], network=True))
    expected = mixture(GATE, small.place(tmp_path, needs=alone), lambda job, point: None)
    assert rows[GATE.key]["test_accuracy"] == expected["test_accuracy"]
    mixture.ran.pop()
    assert not list((tmp_path / "runs").iterdir()), "nothing needs the experts' networks any more"
    again = sweep(study, [GATE, *EXPERTS], *places)
    assert (again.found, len(mixture.ran)) == (3, 3)


def test_a_failed_expert_is_a_sentence_and_the_gate_is_skipped(tmp_path: Path) -> None:
    mixture = Mixture(fails=(1,))
    other = small.job("mlp", epochs=1, seed=5)
    places = small.place(tmp_path / "runs"), tmp_path / "results"
    outcome = sweep(replace(table1.STUDY, run=mixture), [GATE, *EXPERTS, other], *places)
    told = {job.name: error for job, error in outcome.failed}
    assert told == {
        EXPERTS[1].name: "the loss is nan",
        GATE.name: f"skipped, as it needs a run that failed: {EXPERTS[1].name}",
    }
    assert mixture.ran == [EXPERTS[0].name, EXPERTS[1].name, other.name]
    # What was trained is kept for the gate, and used once the other expert is there.
    assert (tmp_path / "runs" / EXPERTS[0].key / RECORD).exists()
    mended = Mixture()
    assert not sweep(replace(table1.STUDY, run=mended), [GATE, *EXPERTS, other], *places).failed
    assert mended.ran == [EXPERTS[1].name, GATE.name]


def test_an_expert_whose_network_is_gone_is_trained_once_more(tmp_path: Path) -> None:
    mixture = Mixture()
    study, places = replace(table1.STUDY, run=mixture), (small.place(tmp_path / "runs"), tmp_path / "results")
    sweep(study, EXPERTS, *places)
    assert len(mixture.ran) == 2
    outcome = sweep(study, [GATE, *EXPERTS], *places)
    assert mixture.ran[2:] == [EXPERTS[0].name, EXPERTS[1].name, GATE.name]
    assert (outcome.found, len(outcome.rows)) == (2, 3)
    assert len(read_records(tmp_path / "results" / "table1.jsonl")) == 3, "its record is there once"


def test_a_need_that_nobody_runs_is_a_sentence(tmp_path: Path) -> None:
    mixture = Mixture()
    places = small.place(tmp_path / "runs"), tmp_path / "results"
    outcome = sweep(replace(table1.STUDY, run=mixture), [GATE], *places)
    ((job, error),) = outcome.failed
    assert job == GATE
    assert "has no record and is not asked for here" in error
    assert not mixture.ran


def test_what_a_job_needs_is_a_setting() -> None:
    alone = replace(GATE, needs=())
    assert alone.key != GATE.key != replace(GATE, needs=GATE.needs[:1]).key
    assert "needs" not in alone.settings
