"""The class `Place`: where a job runs and what it may use; nothing in it changes what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from convexnet.lab.runs.jobs import Job
from convexnet.learner import Point

Tick = Callable[[Job, Point], None]
"""Called with everything that is measured on the way."""


@dataclass(frozen=True)
class Place:
    """Where a job runs and what it may use.

    Attributes:
        folder: of the run: checkpoint, log, the trained network.
        data_dir: of the data sets.
        resume: go on from a checkpoint in the folder; otherwise one that is there is an error.
        accelerator, devices: Lightning Fabric's: "cpu", "cuda", "auto", and how many processes.
        sharded: whether several processes keep a part of the parameters each (FSDP2), and not all of them.
        download: whether missing data may be downloaded to `data_dir`.
        board: write a log for TensorBoard too.
        network: keep the trained network, as `network.safetensors`.
        needs: the folders of the jobs that the job needs, by key, each with `network.safetensors` and `record.jsonl`.
        checkpoint_seconds: at least so long between two checkpoints.
        workers: processes that decode streamed images.
        say: where remarks go.
        ready: called when data and network are there and checked, before the first step.
    """

    folder: Path
    data_dir: Path | None = None
    resume: bool = True
    accelerator: str = "cpu"
    devices: int = 1
    sharded: bool = False
    download: bool = False
    board: bool = False
    network: bool = False
    needs: Mapping[str, Path] = field(default_factory=dict[str, Path])
    checkpoint_seconds: float = 30.0
    workers: int = 0
    say: Callable[[str], None] = lambda text: None
    ready: Callable[[], None] = lambda: None
