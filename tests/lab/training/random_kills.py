"""Runs of every kind of learner, stopped at moments drawn at random: `main(FOLDER, KIND, SEED, COUNT)` in a process.

A moment is a number of calls of Python functions, builtin ones included, so that it is the same on a busy machine as on
a quiet one, and may be anywhere: while data are read, within a step, while a checkpoint is written, after the last one.
Half of the stops are `kill -9`, half SIGTERM. Whenever a run comes to its end its record is compared with that of a run
that was left alone, and the next run begins. Prints how many were stopped.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from convexnet.ensembles import learners
from convexnet.lab.models import architectures
from convexnet.lab.runs import run as runs
from convexnet.lab.runs.records import Row
from convexnet.lab.runs.verdict import Verdict
from convexnet.lab.studies import fig4
from convexnet.lab.training import experiment
from convexnet.lab.training.checkpoints import NAME
from convexnet.lab.training.signals import Stopped
from tests.lab import small
from tests.lab.data import test_streamed
from tests.lab.runs import test_tasks
from tests.lab.training import killed, kmeans, test_learners
from tests.processes import ended, fork

Made = Callable[[Path], Row]


def classifier(folder: Path) -> Row:
    """Two epochs of three steps, each of them an advance."""
    return runs.run(small.job(epochs=2, augment="crop-flip", average=0.9), small.place(folder))


def regression(folder: Path) -> Row:
    """A network with another task, by the same loop."""
    return test_tasks.regress(test_tasks.JOB, small.place(folder), lambda job, point: None)


def clustering(folder: Path) -> Row:
    """A learner that is no network."""
    return kmeans.cluster(test_learners.JOBS[0], small.place(folder), lambda job, point: None)


def streamed(folder: Path) -> Row:
    """Photographs that stay in their files, and that a worker decodes ahead of the steps."""
    job = killed.streaming(str(folder.parent / PHOTOGRAPHS))
    return runs.run(replace(job, recipe=replace(job.recipe, epochs=2)), small.place(folder, workers=1))


def mixture(folder: Path) -> Row:
    """Experts and a gate by EM: several modules behind one optimiser; an advance is one batch."""
    learners.SLICE = 0.0
    (job, *_) = [job for job in fig4.STUDY.jobs("smoke") if job.model == "ioc-mixture-2"]
    how = replace(job.recipe, epochs=2, hidden=(4, 4))
    return fig4.STUDY.run(replace(job, recipe=how), small.place(folder), lambda job, point: None)


PHOTOGRAPHS = "photographs"

KINDS: Mapping[str, Made] = {
    "classifier": classifier,
    "regression": regression,
    "clustering": clustering,
    "streamed": streamed,
    "mixture": mixture,
}
"""Every kind of learner and of data there is; a new one is a line here."""


class Moment:
    """Stops the process at a number of calls, and counts them."""

    def __init__(self, number: int = 0, sign: signal.Signals = signal.SIGKILL) -> None:
        self.seen, self.number, self.sign, self.process = 0, number, sign, 0

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        self.process = self.process or os.getpid()
        if event in ("call", "c_call") and os.getpid() == self.process:  # a worker that it forks inherits this
            self.seen += 1
            if self.seen == self.number:
                os.kill(os.getpid(), self.sign)


def child(made: Made, folder: Path, moment: Moment) -> int:
    """One attempt: its record, or the status of a process that was stopped."""
    torch.set_num_threads(1)
    experiment.SLICE = 0.0  # an advance is a step
    runs.verdict = lambda model, example: Verdict(False, False, None, "", "", None)  # no checkpoint while it is proved
    sys.setprofile(moment)
    try:
        row = made(folder)
    except Stopped:
        return 128 + signal.SIGTERM
    finally:
        sys.setprofile(None)
    (folder / "calls").write_text(str(moment.seen), encoding="utf-8")
    state = torch.load(folder / NAME, weights_only=True)["learner"]  # every bit of what was learnt
    found = {"bits": sha256(repr(bits_of(state)).encode()).hexdigest(), **small.same(row)}
    (folder / "row.json").write_text(json.dumps(found), encoding="utf-8")
    return 0


def bits_of(state: Any) -> Any:
    """A state with the bytes of each tensor in its place."""
    if isinstance(state, torch.Tensor):
        return state.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(state, dict):
        return {name: bits_of(value) for name, value in state.items()}
    return [bits_of(value) for value in state] if isinstance(state, list | tuple) else state


def main(folder: str, kind: str, seed: str, count: str) -> None:
    """Stop, go on, and compare."""
    architectures.HIDDEN = small.HIDDEN
    made, draw, finished = KINDS[kind], random.Random(f"{kind} {seed}"), 0
    if kind == "streamed":
        test_streamed.draw(Path(folder) / PHOTOGRAPHS, 20, vary=True)
    whole = Path(folder) / "whole"
    assert ended(fork(lambda: child(made, whole, Moment()))) == 0
    expected, calls = json.loads((whole / "row.json").read_text()), int((whole / "calls").read_text())
    stopped = {signal.SIGKILL: 0, signal.SIGTERM: 0}
    parts = Path(folder) / f"parts{finished}"
    while True:
        over = sum(stopped.values()) >= int(count)
        sign = min(stopped, key=lambda one: stopped[one])
        moment = Moment(0 if over else draw.randint(1, calls), sign)
        status = ended(fork(lambda m=moment, p=parts: child(made, p, m)))
        if status == 0:
            found = json.loads((parts / "row.json").read_text())
            assert found == expected, f"{kind}, seed {seed}, {stopped}: {found} is not {expected}"
            if over:
                break
            finished += 1
            parts = Path(folder) / f"parts{finished}"
            continue
        assert status in (-sign, 128 + sign), f"{kind}, call {moment.number} of {calls}, {sign.name}: {status}"
        stopped[sign] += 1
    print(sum(stopped.values()))
