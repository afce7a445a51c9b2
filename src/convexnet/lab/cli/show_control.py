"""Run `convexnet rl` and `rl play` on a terminal."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

import convexnet as cx
from convexnet.lab.atomic import write_whole
from convexnet.lab.cli.bars import Bars
from convexnet.lab.cli.show_runs import finish
from convexnet.lab.cli.terminal import refuse
from convexnet.lab.errors import UsageError
from convexnet.lab.reports.control import MODELS, shown
from convexnet.lab.runs.control import run
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.learning import NETWORK
from convexnet.lab.runs.lock import Taken, claimed
from convexnet.lab.runs.place import Place
from convexnet.lab.runs.records import RecordError, Row, read_records
from convexnet.lab.runs.serial import RECORD
from convexnet.lab.training.checkpoints import CheckpointError
from convexnet.rl import Actor, Environments, LimitedActions, Policy, make
from convexnet.rl.environments import Environment


def learn_all(jobs: Sequence[Job], folder: Path) -> None:
    """Learn from every seed, in a folder of its own, and print what they earn; what is finished is not learnt again."""
    console = Console(highlight=False)
    rows: list[Row] = []
    try:
        with Bars(console) as bars:
            bars.begin_all(jobs[0].dataset, len(jobs))
            for job in jobs:
                own = folder / str(job.seed)
                with claimed(own):
                    rows.append(record_of(job, Place(own, network=True, board=True, say=bars.say), bars))
                assert bars.whole is not None
                bars.progress.update(bars.whole, completed=len(rows))
    except (CheckpointError, Taken, RecordError, OSError) as error:
        raise refuse(str(error)) from None
    tell(rows, folder, console)


def record_of(job: Job, place: Place, bars: Bars) -> Row:
    """The record of a job, which is learnt where there is none.

    Raises:
        CheckpointError: the folder holds a run with other settings.
    """
    if (place.folder / RECORD).exists():
        (row,) = read_records(place.folder / RECORD)
        if row["key"] != job.key:
            raise CheckpointError(f"{place.folder} holds a finished run with other settings: choose another --out")
        return row
    row = run(job, place, bars.tick)
    finish(row, place.folder)
    return row


def tell(rows: Sequence[Row], folder: Path, console: Console) -> None:
    """Print the returns, and what can be done with the policy."""
    table = Table("seed", "return", "best on the way", "certified", title=f"{MODELS[rows[0]['model']][0]}")
    for row in rows:
        table.add_row(
            str(row["seed"]),
            f"{row['return']:.1f}",
            f"{row['best_on_the_way']:.1f}",
            "yes" if row["certified"] else "no",
        )
    console.print(table)
    console.print(f"Inter-quartile mean: {shown([row['return'] for row in rows])}")
    network = folder / str(rows[0]["seed"]) / NETWORK
    uses = [f"convexnet report {folder} -o report.html"]
    if network.exists():
        uses = [f"convexnet rl play {network} --gif play.gif", f"convexnet certify {network} --wrt 1", *uses]
    for use in uses:
        console.print(Text(f"  {use}"), soft_wrap=True)


def play_policy(file: Path, episodes: int, seed: int, gif: Path | None, length: int | None) -> None:
    """Act by a saved policy, and print what is earned.

    Raises:
        UsageError: the file holds no policy, or its environment is not there.
    """
    policy = cx.load(file)
    if not isinstance(policy, Policy):
        raise UsageError(f"{file} holds a {type(policy).__name__}, not the policy of `convexnet rl`")
    if gif is not None and sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    options: dict[str, Any] = {} if length is None else {"max_episode_steps": length}
    if gif is not None:
        options["render_mode"] = "rgb_array"
    size = float(policy.get_buffer("high").abs().max())

    def one() -> Environment:
        # The bound was a choice of the run where the environment has none of its own.
        plain = make(policy.environment, None if bounded(policy.environment) else size, **options)
        return plain if isinstance(policy.domain, cx.Box) else LimitedActions(plain, policy.domain)

    actor, frames = Actor(policy.eval()), list[Any]()
    copies = Environments(one, 1, seed, purpose="play")
    console = Console(highlight=False)
    try:
        for episode in range(episodes):
            while len(copies.finished) == episode:
                if gif is not None and episode == 0:
                    frames.append(np.asarray(copies.copies[0].render()))
                copies.step(actor(copies.states))
            console.print(f"episode {episode}: return {copies.finished[-1]:.1f}")
    finally:
        copies.close()
    console.print(f"{actor.proved} of {actor.asked} actions were proved to be best, to a gap of 1e-4 of the rise of Q.")
    if gif is not None:
        write_gif(frames, gif, fps=float(copies.copies[0].metadata.get("render_fps", 30)))
        console.print(f"{gif}: {len(frames)} frames")


def bounded(name: str) -> bool:
    """Whether an environment bounds its actions itself."""
    try:
        make(name).close()
    except ValueError:
        return False
    return True


WIDE = 320
"""Pixels that a moving picture is at most wide."""


def write_gif(frames: Sequence[Any], path: Path, fps: float) -> None:
    """Write frames (height, width, 3) as a moving picture, at most `WIDE` pixels wide."""
    from PIL import Image

    stride = max(1, round(fps / 25))  # the format counts hundredths of a second
    images = [Image.fromarray(frame) for frame in frames[::stride]]
    if not images or images[0].width == 0:
        raise UsageError("the environment drew nothing")
    factor = min(1.0, WIDE / images[0].width)
    size = round(images[0].width * factor), round(images[0].height * factor)
    small = [image.resize(size) for image in images]
    stream = io.BytesIO()
    small[0].save(stream, "gif", save_all=True, append_images=small[1:], duration=round(1000 * stride / fps), loop=0)
    write_whole(path, stream.getvalue())
