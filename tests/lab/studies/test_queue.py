"""The queue of long runs: ranked, shared, resumed, and honest about what it takes."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from convexnet.lab.cli import main
from convexnet.lab.cli.app import app
from convexnet.lab.models import architectures
from convexnet.lab.models import registry as models
from convexnet.lab.runs.lock import claimed
from convexnet.lab.runs.records import read_records
from convexnet.lab.studies import control, fig5, parity, study_named, table1
from convexnet.lab.studies import queue as study_queue
from convexnet.lab.studies.queue import QUEUE, Entry, Pace, states, work_of
from tests.lab import small
from tests.processes import Forge


def test_every_run_is_in_one_line_and_in_its_study() -> None:
    lines = work_of()
    keys = [job.key for _, work in lines for _, job in work]
    assert len(keys) == len(set(keys))
    assert [entry.rank for entry, _ in lines] == sorted(entry.rank for entry in QUEUE)
    for entry, work in lines:
        assert work
        shown = {row["key"] for row in work[0][0].rows([{"key": job.key, "seed": job.seed} for _, job in work])}
        for study, job in work:
            assert study.name == entry.study
            assert job.key in shown, f"{entry.what}: no report would show {job.name}"
            short = job.recipe.name in ("paper-code", fig5.NARROW.name, control.SHORTER)
            short |= job.train_samples is not None
            assert job.full != short, "what is shortened says so, and nothing else does"
    with pytest.raises(ValueError, match="there is no rank 99; there are 1, 2"):
        work_of(99)
    with pytest.raises(ValueError, match="no run of the queue has 'seed 77'"):
        work_of(1, "seed 77")


def test_parity_comes_first_and_seed_by_seed() -> None:
    jobs = [job for _, job in work_of(1)[0][1]]
    assert [(job.dataset, job.seed) for job in jobs[::6]] == [
        *(("fashion-mnist", seed) for seed in range(3)),
        *(("cifar10-holdout", seed) for seed in range(3)),
    ]
    assert {job.recipe.epochs for job in jobs} == {60}
    assert [job.variant for job in jobs[:6]] == list(parity.NETWORKS)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    """A queue of two lines that takes seconds."""
    jobs = [small.job("mlp", epochs=2, seed=seed) for seed in range(3)]
    lines = [
        Entry(1, "table1", "two seeds", lambda: jobs[:2]),
        Entry(2, "table4", "the same, and one more", lambda: jobs),
    ]
    monkeypatch.setattr(study_queue, "QUEUE", tuple(lines))
    monkeypatch.setattr(architectures, "HIDDEN", small.HIDDEN)
    return lines


def test_it_runs_what_has_no_record(tiny: list[Entry], tmp_path: Path) -> None:
    words = ["study", "queue", "--out", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    first = CliRunner().invoke(app, [*words, "--rank", "1"])
    assert first.exit_code == 0, first.output
    assert "epoch 2 of 2" in first.output
    listed = CliRunner().invoke(app, [*words, "--list"])
    assert re.findall(r"(\d) of (\d)", listed.output)[:2] == [("2", "2"), ("0", "1")]
    assert "waiting: mlp, digits, small, seed 2" in listed.output
    second = CliRunner().invoke(app, words)
    assert second.exit_code == 0, second.output
    assert "3 of 3 runs have their record" in second.output
    rows = [read_records(tmp_path / "results" / f"{entry.study}.jsonl") for entry in tiny]
    assert [[row["seed"] for row in some] for some in rows] == [[0, 1], [2]]


def test_a_job_is_running_while_its_folder_is_held(tiny: list[Entry], tmp_path: Path) -> None:
    work = work_of(1)[0][1]
    with claimed(tmp_path / work[0][1].key):
        assert [job.state for job in states(work, tmp_path, tmp_path)] == ["running", "waiting"]
    assert [job.state for job in states(work, tmp_path, tmp_path)] == ["waiting", "waiting"]


def test_hours_are_those_of_the_nearest_records() -> None:
    job = table1.plan("full", [0])[0]
    other = {"model": "mlp", "dataset": job.dataset, "train_samples": 10_000, "epochs": 1, "seconds": 10.0}
    far, near = {**other, "recipe": {"name": "else"}}, {**other, "seconds": 1.0, "recipe": {"name": job.recipe.name}}
    hours = Pace([near]).hours(job)[0]
    assert hours == pytest.approx(150 * 5.4 / 3600, abs=0.006)
    assert Pace([far, near]).hours(job)[0] == hours
    assert Pace([far]).hours(job)[0] == pytest.approx(10 * hours, abs=0.06)
    assert Pace([]).hours(job)[1] == "a guess"
    # Other seeds of the same run tell it exactly, by what they kept a core busy, and whatever they do not name.
    how = json.loads(json.dumps(asdict(job.recipe)))
    early = {name: value for name, value in how.items() if name not in ("hidden", "dropout")}
    seed = {**other, "train_samples": 54_000, "epochs": 70, "seconds": 9e9, "core_seconds": 7200.0, "recipe": early}
    assert Pace([near, seed]).hours(job) == (2.0, "other seeds: 1")
    assert Pace([near, {**seed, "recipe": {**early, "batch": 1}}]).hours(job)[1].startswith("records of")


def stopped(number: str) -> None:
    """In a process of its own: a queue of one long run, which is sent a signal in its second epoch."""
    jobs = [small.job("mlp", epochs=2000)]
    architectures.HIDDEN = small.HIDDEN
    study_queue.QUEUE = (Entry(1, "table1", "long", lambda: jobs),)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell has it ignored
    write = sys.stdout.write

    def told(text: str) -> int:
        if "epoch 2 of" in text:
            os.kill(os.getpid(), int(number))
        return write(text)

    sys.stdout.write = told
    main()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_a_checkpoint(number: signal.Signals, tmp_path: Path, forge: Forge) -> None:
    words = ["study", "queue", "--out", "results", "--runs", "runs"]
    ended = forge.run(
        "tests.lab.studies.test_queue:stopped", str(int(number)), folder=tmp_path, argv=["convexnet", *words]
    )
    assert ended.returncode == 128 + number, ended.stderr
    assert "epoch 2 of" in ended.stdout
    assert "epoch 2000 of" not in ended.stdout
    assert "Stopped after a checkpoint" in ended.stderr
    assert "the same command goes on" in ended.stderr
    assert list((tmp_path / "runs").rglob("checkpoint.pt"))
    assert not (tmp_path / "results").exists()


def test_one_hidden_layer_has_nothing_to_constrain() -> None:
    import torch

    import convexnet as cx

    model, how = parity.NETWORKS["one hidden layer, unconstrained"]
    network = models.build(model, (1, 8, 8), 10, how, 0)
    assert not cx.constrain(network, torch.zeros(2, 1, 8, 8)).parameters
    assert cx.certify(network, torch.zeros(2, 1, 8, 8)).scope == "for all parameters"
    assert study_named("parity").seeds["full"] == 3
