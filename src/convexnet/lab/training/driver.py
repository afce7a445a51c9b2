"""Drive any learner: let it advance, and write checkpoints, logs and bars on the way.

What a learner is, `convexnet.learner` says. The driver knows nothing of networks, epochs or data. A run that is killed
at any moment goes on from its last checkpoint; Ctrl-C and SIGTERM write one first.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convexnet.lab.training.checkpoints import NAME, CheckpointError, elsewhere, read_checkpoint, write_checkpoint
from convexnet.lab.training.logs import Board, write_csv
from convexnet.lab.training.signals import Stopped, stopping
from convexnet.learner import Learner, Point, moment_of

LOG = "log.csv"


@dataclass(frozen=True)
class Keeping:
    """Where and how often a driver writes; nothing here changes what is learnt.

    Attributes:
        folder: gets `checkpoint.pt` and `log.csv`, and `tensorboard/` with `board`.
        settings: all that decides what is learnt; a checkpoint of other settings is refused.
        resume: go on from a checkpoint in the folder; otherwise one that is there is an error.
        seconds: at least so long between two checkpoints.
        board: write a log for TensorBoard too.
        writes: False in all but the first of several processes.
        agreed: with several processes, whether any of them has what is passed; asked after every advance.
        name: what remarks call the run.
        say: where they go.
        ready: called once the checkpoint that is there fits, before the first advance.
    """

    folder: Path
    settings: Mapping[str, Any]
    resume: bool = True
    seconds: float = 30.0
    board: bool = False
    writes: bool = True
    agreed: Callable[[bool], bool] = bool
    name: str = "run"
    say: Callable[[str], None] = lambda text: None
    ready: Callable[[], None] = lambda: None

    @property
    def checkpoint(self) -> Path:
        return self.folder / NAME


@dataclass
class Driven:
    """What a driver knows of a run.

    Attributes:
        curve: everything that was measured, in order.
        seconds: spent in advances.
        resumed: how many points there were each time it went on from a checkpoint.
        core_seconds: of processor cores in advances; on a busy machine much less than `seconds`.
    """

    curve: list[Point] = field(default_factory=list[Point])
    seconds: float = 0.0
    resumed: list[int] = field(default_factory=list[int])
    core_seconds: float = 0.0


def drive(learner: Learner, keeping: Keeping, tick: Callable[[Point], object] = lambda point: None) -> Driven:
    """Let a learner advance until it is done, from the beginning or from its checkpoint.

    Args:
        learner: as it is made from its settings; put where its checkpoint is, if there is one.
        keeping: where to write, and how often.
        tick: called with every point, after all is written.

    Raises:
        CheckpointError: a checkpoint does not fit, or something cannot be written.
        Stopped: by Ctrl-C or SIGTERM; the same call goes on.
    """
    found = restore_learner(learner, keeping)
    keeping.ready()
    with stopping() as asked, logging(keeping, len(found.curve)) as log:
        written = time.monotonic()
        while not learner.done:
            started, used = time.perf_counter(), time.process_time()
            point = learner.advance()
            found.seconds += time.perf_counter() - started
            found.core_seconds += time.process_time() - used
            if point is not None:
                point = plain(point)
                found.curve.append(point)
                log(found.curve)
            stop = keeping.agreed(asked() is not None)
            # Clocks differ, and a state may have to be gathered from all processes: they write together.
            if stop or learner.done or keeping.agreed(time.monotonic() - written >= keeping.seconds):
                keep(learner, keeping, found)
                written = time.monotonic()
            if point is not None and keeping.writes:
                tick(point)
            if stop:
                raise Stopped(asked() or signal.SIGTERM, keeping.checkpoint)
    return found


def restore_learner(learner: Learner, keeping: Keeping) -> Driven:
    """Put a learner where its checkpoint is, if there is one."""
    path = keeping.checkpoint
    if not path.exists():
        return Driven()
    if not keeping.resume:
        raise CheckpointError(
            f"{path} is the checkpoint of an earlier run: resume it with --resume, choose another folder with --out, "
            "or delete it"
        )
    content = read_checkpoint(path, keeping.settings)
    learner.restore(content["learner"])
    # A checkpoint of before has no count of core-seconds.
    found = Driven(content["curve"], content["seconds"], content["resumed"], content.get("core_seconds", 0.0))
    found.resumed.append(len(found.curve))
    keeping.say(f"{keeping.name}: resumed after {described(found.curve)}")
    if remark := elsewhere(content):
        keeping.say(f"{keeping.name}: {remark}")
    return found


def described(curve: list[Point]) -> str:
    """Where a run is, in words.

    Example:
        >>> described([{"epoch": 1.0}, {"epoch": 2.0}]), described([{"inertia": 3.0}]), described([])
        ('epoch 2', 'measurement 1', 'its beginning')
    """
    if not curve:
        return "its beginning"
    name, number = moment_of(curve[-1]) or ("measurement", len(curve))
    return f"{name} {number:.0f}"


def plain(point: Mapping[str, Any]) -> Point:
    """A point in Python's own numbers: a checkpoint and a record hold no others.

    Example:
        >>> import torch
        >>> plain({"epoch": 1, "loss": torch.tensor(0.5)})
        {'epoch': 1, 'loss': 0.5}
    """
    return {name: value if type(value) in (int, float) else float(value) for name, value in point.items()}


def keep(learner: Learner, keeping: Keeping, found: Driven) -> None:
    """Write a checkpoint; every process is asked for its state, of which the first one's has all."""
    state = learner.state()
    if keeping.writes:
        write_checkpoint(keeping.checkpoint, keeping.settings, {"learner": state, **vars(found)})


@contextlib.contextmanager
def logging(keeping: Keeping, done: int) -> Generator[Callable[[list[Point]], None], None, None]:
    """What to do with a curve that has grown."""
    board: Board | None = None

    def log(curve: list[Point]) -> None:
        nonlocal board
        if not keeping.writes:
            return
        try:
            write_csv(keeping.folder / LOG, curve)
            if keeping.board:
                board = board or Board(keeping.folder / "tensorboard", done)
                board.add(curve[-1])
        except OSError as error:
            raise CheckpointError(
                f"the log in {keeping.folder} could not be written ({error.strerror or error}): free some space or "
                "choose another folder, and go on from the last checkpoint"
            ) from error

    try:
        yield log
    finally:
        if board is not None:
            with contextlib.suppress(OSError):
                board.close()
