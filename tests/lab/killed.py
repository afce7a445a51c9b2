"""A process that starts a run again and again, and kills it at random moments: python -m tests.lab.killed FOLDER SEED.

It forks, so that a child starts at once; each child goes on from the checkpoint that the one before left. Prints how
many were killed before they were done. The last child is left alone and writes the record and the network.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from convexnet.lab import models
from convexnet.lab.jobs import Job
from convexnet.lab.runs import run
from tests.lab import small

KILLS = 4


def settings() -> Job:
    """Enough epochs for every child to be killed in the midst of them."""
    return small.job(epochs=60, augment="crop-flip", average=0.9)


def child(folder: Path) -> None:
    """One attempt."""
    torch.set_num_threads(1)
    row = run(settings(), small.place(folder, network=True))
    (folder / "row.json").write_text(json.dumps(row), encoding="utf-8")


def main(folder: Path, seed: int) -> None:
    """Kill, and at last let live."""
    models.HIDDEN = small.HIDDEN
    draw = random.Random(seed)
    killed = 0
    for attempt in range(KILLS + 1):
        pid = os.fork()
        if pid == 0:
            child(folder)
            os._exit(0)
        if attempt < KILLS:
            time.sleep(draw.uniform(0.2, 1.5))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        killed += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            break
    print(killed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
