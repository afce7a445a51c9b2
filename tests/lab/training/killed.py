"""A run that is started again and again, and killed at chosen moments: `main(FOLDER, SEED)` in a process of its own.

Each child goes on from the checkpoint that the one before left, until it comes to its moment and kills itself, as
`kill -9` would. The moments are those at which something is half done; which step or epoch it is, is drawn. Prints how
many were killed. The last child is left alone and writes the record and the network.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from convexnet.lab.models import architectures
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.run import identified, run
from convexnet.lab.training import experiment
from convexnet.lab.training.checkpoints import NAME, read_checkpoint
from tests.lab import small
from tests.processes import ended, fork

EPOCHS = 8
Moment = Callable[[int], None]


def settings() -> Job:
    """Three steps an epoch, and epochs enough for every child to be killed in the midst of them."""
    return small.job(epochs=EPOCHS, augment="crop-flip", average=0.9)


def streaming(folder: str) -> Job:
    """The same on images that stay in the files of a folder, and are decoded by a worker."""
    job = small.job("mlp", epochs=EPOCHS, batch=20, augment="resized-crop-flip", train_samples=None)
    return replace(job, dataset=f"folder:{folder}", streamed=True, image_size=8)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, count: int, wanted: Callable[..., bool] = lambda *_: True) -> None:
    """Die when a function is called for the `count`-th time with arguments that are `wanted`."""
    original, seen = getattr(owner, name), 0

    def guarded(*arguments: Any, **keywords: Any) -> Any:
        nonlocal seen
        seen += wanted(*arguments)
        if seen == count:
            die()
        return original(*arguments, **keywords)

    setattr(owner, name, guarded)


def in_an_epoch(count: int) -> None:
    """Between two steps of the optimiser."""
    before(torch.optim.Adam, "step", 3 + count)


def while_a_checkpoint_is_written(count: int) -> None:
    """With half of its bytes in the file."""
    original, seen = torch.save, 0

    def half(content: Any, file: Any, *arguments: Any, **keywords: Any) -> None:
        nonlocal seen
        seen += 1
        if seen < count:
            original(content, file, *arguments, **keywords)
            return
        whole = BytesIO()
        original(content, whole)
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        die()

    torch.save = half


def is_checkpoint(source: Path, target: Any) -> bool:
    del source
    return Path(target).name == NAME


def before_a_checkpoint_takes_its_place(count: int) -> None:
    """Written whole, and under its temporary name."""
    before(Path, "replace", count, is_checkpoint)


def after_a_checkpoint_took_its_place(count: int) -> None:
    """Before anything else is done."""
    original, seen = Path.replace, 0

    def guarded(self: Path, target: Any) -> Path:
        nonlocal seen
        done = original(self, target)
        seen += is_checkpoint(self, target)
        if seen == count:
            die()
        return done

    Path.replace = guarded


def before_the_network_is_written(count: int) -> None:
    """Trained to the end, and measured."""
    import safetensors.torch

    del count
    before(safetensors.torch, "save_file", 1)


MOMENTS: tuple[Moment, ...] = (
    in_an_epoch,
    while_a_checkpoint_is_written,
    before_a_checkpoint_takes_its_place,
    after_a_checkpoint_took_its_place,
    before_the_network_is_written,
)


def child(folder: Path, moment: Callable[[], None], job: Job | None = None) -> int:
    """One attempt."""
    torch.set_num_threads(1)
    moment()
    row = run(job or settings(), small.place(folder, network=True, workers=1))
    (folder / "row.json").write_text(json.dumps(row), encoding="utf-8")
    return 0


def main(folder: str, seed: str) -> None:
    """Kill, and at last let live."""
    architectures.HIDDEN = small.HIDDEN
    draw = random.Random(int(seed))
    killed = 0
    for moment in MOMENTS:
        count = draw.choice((1, 2))
        status = ended(fork(lambda m=moment, n=count: child(Path(folder), lambda: m(n))))
        assert status in (0, -signal.SIGKILL), f"{moment.__name__}: {status}"
        killed += status != 0
    assert ended(fork(lambda: child(Path(folder), lambda: None))) == 0
    print(killed)


def stream(folder: str, data: str, seed: str) -> None:
    """The same with streamed images: killed in the midst of an epoch, and while a checkpoint is written.

    An advance is one step, after which there is a checkpoint, so that each time the rest of an epoch is read again.
    """
    architectures.HIDDEN = small.HIDDEN
    experiment.SLICE = 0.0
    draw = random.Random(int(seed))
    # The first child ends before the second or third of three steps of its second epoch, the next one up to two later.
    for moment, counts in ((in_an_epoch, (2, 3)), (while_a_checkpoint_is_written, (1, 2))):
        count = draw.choice(counts)
        status = ended(fork(lambda m=moment, n=count: child(Path(folder), lambda: m(n), streaming(data))))
        assert status == -signal.SIGKILL, f"{moment.__name__}: {status}"
        state = read_checkpoint(Path(folder) / NAME, identified(streaming(data)).settings)["learner"]
        print(state["epoch"], state["batch"])
    assert ended(fork(lambda: child(Path(folder), lambda: None, streaming(data)))) == 0


def stream_at_any_time(folder: str, data: str, seed: str, kills: str) -> None:
    """Killed or told to end so many times, each time after a random while; an advance is one step."""
    architectures.HIDDEN = small.HIDDEN
    experiment.SLICE = 0.0
    draw = random.Random(int(seed))
    job = streaming(data)
    job = replace(job, recipe=replace(job.recipe, epochs=60))
    for number in range(int(kills)):
        pid = fork(lambda: child(Path(folder), lambda: None, job))
        time.sleep(draw.uniform(0.1, 1.5))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if number % 2 else signal.SIGTERM)
        if ended(pid) == 0:
            break
    assert ended(fork(lambda: child(Path(folder), lambda: None, job))) == 0
    print(number + 1)
