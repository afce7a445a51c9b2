"""A training whose process that decodes images is killed; in a process of its own.

Once a worker is dead, torch raises a RuntimeError whenever any child of the process ends, in the midst of whatever runs
then: no test may go on in such a process.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import traceback
from pathlib import Path

from convexnet.lab.data import DataError
from convexnet.lab.models import architectures
from convexnet.lab.runs.run import run
from convexnet.lab.training import experiment
from tests.lab import small
from tests.lab.training.killed import streaming


def parent(place: Path) -> str:
    """The number of the process that has started one, by its folder in /proc."""
    try:
        return (place / "stat").read_text().rpartition(")")[2].split()[1]
    except OSError:
        return ""


def main(photographs: str, folder: str) -> None:
    """Train, kill the worker after two steps, and ask for the sentence."""
    architectures.HIDDEN = small.HIDDEN
    original, mine = experiment.Training.after, Path("/proc/self/cmdline").read_bytes()

    def after(training: experiment.Training) -> None:
        original(training)
        if training.steps == 2:
            for place in Path("/proc").iterdir():
                if place.name.isdigit() and parent(place) == str(os.getpid()):
                    with contextlib.suppress(OSError):
                        if (place / "cmdline").read_bytes() == mine:
                            os.kill(int(place.name), signal.SIGKILL)

    experiment.Training.after = after
    try:
        run(streaming(photographs), small.place(Path(folder), workers=1))
    except DataError as error:
        right = re.search(r"a process that decodes images has ended .* try fewer --workers", str(error))
        print(error, flush=True)
        os._exit(0 if right else 3)
    except BaseException:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(4)
    os._exit(5)
