"""What the two processes of a data-parallel run do: `torchrun ... parallel.py FOLDER` (see test_parallel.py)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from convexnet.lab import cli
from convexnet.lab.models import architectures
from convexnet.lab.runs.devices import leave
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.run import run
from convexnet.lab.training import experiment
from convexnet.lab.training.signals import Stopped
from convexnet.learner import Point
from tests.lab import small


def settings() -> Job:
    """A network without BatchNorm, whose statistics would be those of a part; batches that do not divide by two.

    Each process sees its share in two parts, and the gradients are averaged once.
    """
    return small.job("ficnn", batch=51, epochs=3, average=0.8, accumulate=2)


def in_shards() -> Job:
    """The same without averaged weights, which a network in shards has not."""
    return replace(settings(), recipe=replace(settings().recipe, average=None))


def told_to_end(job: Job, point: Point) -> None:
    """Ask the run to end after an epoch, as SIGTERM in one of the processes does."""
    if point["epoch"] == 1:
        os.kill(os.getpid(), signal.SIGTERM)


def killed(folder: str) -> None:
    """Train with the other process, of which the second is killed in the midst of the second epoch, the first time."""
    torch.set_num_threads(1)
    architectures.HIDDEN = small.HIDDEN
    mark, original = Path(folder) / "killed", experiment.Training.after
    experiment.SLICE = 0.0  # a checkpoint after every step

    def after(training: experiment.Training) -> None:
        if training.steps == 6 and os.environ["RANK"] == "1" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        original(training)

    experiment.Training.after = after
    row = run(settings(), small.place(Path(folder), devices=2))
    leave()
    (Path(folder) / f"row{os.environ['RANK']}.json").write_text(json.dumps(row), encoding="utf-8")


def command(folder: str) -> None:
    """Run the command whose words are in a file of the folder."""
    torch.set_num_threads(1)
    architectures.HIDDEN = small.HIDDEN
    sys.argv = ["convexnet", *json.loads((Path(folder) / "words.json").read_text(encoding="utf-8"))]
    try:
        cli.main()
    except SystemExit as ended:
        if ended.code:
            raise


def main(folder: str) -> None:
    """Train with the other process, and again with a shard of the network each."""
    torch.set_num_threads(1)
    architectures.HIDDEN = small.HIDDEN
    row = run(settings(), small.place(Path(folder), devices=2, network=True))
    shards = Path(folder) / "shards"
    with contextlib.suppress(Stopped):
        run(in_shards(), small.place(shards, devices=2, sharded=True), told_to_end)
    again = run(in_shards(), small.place(shards, devices=2, sharded=True, network=True))
    leave()
    (Path(folder) / f"shards{os.environ['RANK']}.json").write_text(json.dumps(again), encoding="utf-8")
    (Path(folder) / f"row{os.environ['RANK']}.json").write_text(json.dumps(row), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
