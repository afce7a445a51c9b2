"""A run that is stopped and resumed ends with the same weights and the same metrics, bit by bit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import convexnet as cx
from convexnet.lab.models import architectures
from convexnet.lab.models import registry as models
from convexnet.lab.models.architectures import Model
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.run import run
from convexnet.lab.training import checkpoints, experiment, signals
from convexnet.lab.training.checkpoints import NAME, CheckpointError, read_checkpoint, write_checkpoint
from convexnet.learner import Point
from tests.lab import small
from tests.lab.training.killed import MOMENTS, settings
from tests.processes import Forge


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "HIDDEN", small.HIDDEN)


STATE = ("learner", "curve", "seconds", "resumed")


class Stopped(Exception):
    """Raised in the midst of a run."""


def stop_after(epoch: int) -> Any:
    def tick(_: Job, point: Point) -> None:
        if point["epoch"] == epoch:
            raise Stopped

    return tick


def network(folder: Path) -> nn.Module:
    return cx.load(folder / "network.safetensors", allow=("convexnet.lab.models.first_step",))


def equal(first: Path, second: Path) -> bool:
    one, other = (network(folder).state_dict() for folder in (first, second))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


LESS_OFTEN = ("wrong labels", "momentum, in steps")
"""What they add is decided before the first step, or is a state of the optimiser like that of the others."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LESS_OFTEN)) for name in small.RESUMED]
)
def test_resumed_is_the_same(name: str, tmp_path: Path) -> None:
    job = small.job(**small.RESUMED[name])
    whole = run(job, small.place(tmp_path / "whole", network=True))
    with pytest.raises(Stopped):
        run(job, small.place(tmp_path / "parts"), stop_after(1))
    torch.manual_seed(12345)  # whatever happened in the process in between plays no part
    resumed = run(job, small.place(tmp_path / "parts", network=True))
    assert small.same(resumed) == small.same(whole)
    assert (whole["resumed_after"], resumed["resumed_after"]) == ([], [1])
    assert equal(tmp_path / "whole", tmp_path / "parts")
    # Negative control: from another seed everything is different.
    other = run(small.job(**small.RESUMED[name] | {"seed": 1}), small.place(tmp_path / "other", network=True))
    assert other["curve"] != whole["curve"]


def test_dropout_is_drawn_again_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dropping(shape: Any, classes: int, recipe: Any) -> nn.Module:
        del shape, recipe
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, classes))

    monkeypatch.setattr(models, "MODELS", {"dropping": Model("Dropping", convex=False, make=dropping)})
    job = small.job("dropping")
    whole = run(job, small.place(tmp_path / "whole", network=True))
    with pytest.raises(Stopped):
        run(job, small.place(tmp_path / "parts"), stop_after(2))
    assert small.same(run(job, small.place(tmp_path / "parts", network=True))) == small.same(whole)
    assert equal(tmp_path / "whole", tmp_path / "parts")


def test_killed_at_the_worst_moments(tmp_path: Path, seed: int, forge: Forge) -> None:
    whole = run(settings(), small.place(tmp_path / "whole", network=True))
    done = forge.run("tests.lab.training.killed:main", str(tmp_path / "parts"), str(seed), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == len(MOMENTS), "a child was done before its moment came"
    resumed = json.loads((tmp_path / "parts" / "row.json").read_text(encoding="utf-8"))
    assert small.same(resumed) == small.same(json.loads(json.dumps(whole)))
    assert equal(tmp_path / "whole", tmp_path / "parts")


def test_stopped_in_the_midst_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any step: the same order, augmentation and dropout, and the same sums of the epoch."""
    job = small.job(augment="crop-flip", epochs=2)
    whole = run(job, small.place(tmp_path / "whole", network=True))
    monkeypatch.setattr(experiment, "SLICE", 0.0)  # an advance is one step
    original, steps = experiment.Training.advance, 0

    def advance(training: experiment.Training) -> Any:
        nonlocal steps
        steps += 1
        if steps in (2, 4, 7):
            raise Stopped
        return original(training)

    monkeypatch.setattr(experiment.Training, "advance", advance)
    stops = 0
    while stops < 9:
        torch.manual_seed(stops)
        try:
            resumed = run(job, small.place(tmp_path / "parts", network=True))
            break
        except Stopped:
            stops += 1
    assert stops == 3
    assert small.same(resumed) == small.same(whole)
    assert equal(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_first(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    job = small.job(augment="crop-flip")
    whole = run(job, small.place(tmp_path / "whole", network=True))
    monkeypatch.setattr(experiment, "SLICE", 0.0)
    original = experiment.Training.after

    def after(training: experiment.Training) -> None:
        if training.steps == 4:  # the second epoch has begun
            os.kill(os.getpid(), number)
        original(training)

    before = signal.signal(number, signal.default_int_handler)  # a shell may have had it ignored
    request.addfinalizer(lambda: signal.signal(number, before))
    handlers = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(experiment.Training, "after", after)
    with pytest.raises(signals.Stopped, match=signal.Signals(number).name):
        run(job, small.place(tmp_path / "parts", checkpoint_seconds=1e9))
    monkeypatch.setattr(experiment.Training, "after", original)
    assert [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)] == handlers
    state = read_checkpoint(tmp_path / "parts" / NAME, job.settings)["learner"]
    assert (state["epoch"], state["batch"]) == (1, 2)
    resumed = run(job, small.place(tmp_path / "parts", network=True))
    assert resumed["resumed_after"] == [1]
    assert small.same(resumed) == small.same(whole)
    assert equal(tmp_path / "whole", tmp_path / "parts")


def test_other_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(small.job(), small.place(tmp_path), stop_after(1))
    before = (tmp_path / NAME).read_bytes()
    with pytest.raises(CheckpointError, match=r"recipe\.batch was 64, is 32; seed was 0, is 1\. Repeat the settings"):
        run(small.job(batch=32, seed=1), small.place(tmp_path, ready=lambda: pytest.fail("a bar is drawn")))
    assert (tmp_path / NAME).read_bytes() == before


def test_other_data_under_the_same_path_are_refused(tmp_path: Path) -> None:
    def put(seed: int) -> None:
        draws = np.random.default_rng(seed)
        labels = np.arange(60) % 3
        np.savez(tmp_path / "set.npz", images=draws.random((60, 5), np.float32), labels=labels)

    put(0)
    job = small.job("mlp", dataset=f"npz:{tmp_path / 'set.npz'}", train_samples=None)
    with pytest.raises(Stopped):
        run(job, small.place(tmp_path / "run"), stop_after(1))
    put(1)
    with pytest.raises(CheckpointError, match=r"data was '\w{16}', is '\w{16}'"):
        run(job, small.place(tmp_path / "run"))
    put(0)
    row = run(job, small.place(tmp_path / "run"))
    put(1)
    other = run(job, small.place(tmp_path / "other"))
    assert row["key"] != other["key"]
    assert row["data"] != other["data"]


def test_an_earlier_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(small.job(), small.place(tmp_path), stop_after(1))
    with pytest.raises(CheckpointError, match="--resume"):
        run(small.job(), small.place(tmp_path, resume=False))


def test_another_number_of_threads_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Stopped):
        run(small.job(), small.place(tmp_path), stop_after(2))
    said: list[str] = []
    content = read_checkpoint(tmp_path / NAME, small.job().settings)
    monkeypatch.setattr(checkpoints, "surroundings", lambda: {**content["surroundings"], "threads": 7})
    write_checkpoint(tmp_path / NAME, small.job().settings, {name: content[name] for name in STATE})
    monkeypatch.undo()
    monkeypatch.setattr(architectures, "HIDDEN", small.HIDDEN)
    run(small.job(), small.place(tmp_path, say=said.append))
    assert "resumed after epoch 2" in said[0]
    assert "threads was 7, is 1" in said[1]


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    state = {"weights": {"a": torch.randn(3)}, "curve": [{"epoch": 1, "loss": 0.1}], "best": (1, {"a": torch.ones(2)})}
    write_checkpoint(tmp_path / "c.pt", {"seed": 1}, state)
    found = read_checkpoint(tmp_path / "c.pt", {"seed": 1})
    assert torch.equal(found["weights"]["a"], state["weights"]["a"])
    assert found["curve"] == state["curve"]
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "damaged or not a checkpoint"),
        (b"PK\x03\x04 not really", "damaged or not a checkpoint"),
        (None, "format None"),
    ],
    ids=["empty", "torn", "another file"],
)
def test_what_is_no_checkpoint_is_refused(content: bytes | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    if content is None:
        torch.save({"weights": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=told):
        read_checkpoint(path, {})


def test_truncated_anywhere_it_is_refused(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "c.pt"
    write_checkpoint(path, {}, {"weights": torch.randn(1000)})
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(seed)
    for size in torch.randint(len(whole), (10,), generator=generator).tolist():
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="Delete it to start this run from the beginning"):
            read_checkpoint(path, {})


def test_a_flipped_byte_is_noticed(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "c.pt"
    write_checkpoint(path, {}, {"weights": torch.randn(1000)})
    whole = path.read_bytes()
    draws = torch.Generator().manual_seed(seed)
    places = torch.randint(len(whole), (40,), generator=draws).tolist()
    for place in [*places, 0, len(whole) // 2, len(whole) - 70, len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged|format"):
            read_checkpoint(path, {})
    path.write_bytes(whole)
    assert read_checkpoint(path, {})["weights"].shape == (1000,)


def test_reading_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"format": "convexnet.checkpoint/1", "settings": Evil()}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "c.pt", {})
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "c.pt"
    write_checkpoint(path, {}, {"weights": torch.ones(10)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # every file is as good as on a full disk then
    try:
        with pytest.raises(CheckpointError, match=r"File too large.*the one written before it is whole"):
            write_checkpoint(path, {}, {"weights": torch.zeros(100_000)})
        with pytest.raises(CheckpointError, match="there is none yet"):
            write_checkpoint(tmp_path / "new.pt", {}, {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.equal(read_checkpoint(path, {})["weights"], torch.ones(10))
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]
