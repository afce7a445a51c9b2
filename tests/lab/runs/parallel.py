"""What the two processes of a data-parallel run do: `torchrun ... parallel.py FOLDER` (see test_parallel.py)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from convexnet.lab.models import architectures
from convexnet.lab.runs.devices import leave
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.run import run
from tests.lab import small


def settings() -> Job:
    """A network without BatchNorm, whose statistics would be those of a part; batches that do not divide by two.

    Each process sees its share in two parts, and the gradients are averaged once.
    """
    return small.job("ficnn", batch=51, epochs=3, average=0.8, accumulate=2)


def main(folder: str) -> None:
    """Train with the other process."""
    torch.set_num_threads(1)
    architectures.HIDDEN = small.HIDDEN
    row = run(settings(), small.place(Path(folder), devices=2, network=True))
    leave()
    (Path(folder) / f"row{os.environ['RANK']}.json").write_text(json.dumps(row), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
