"""Make the fixed affine first step of a run from its training part, and put the data behind it.

`models/first_step.py` has the steps; a whitening that takes long is kept for the next run.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from torch import nn

from convexnet.lab.data import DataSet, Part, Split, Streamed
from convexnet.lab.data.batches import prepared as scaled_once
from convexnet.lab.data.cache import kept_module
from convexnet.lab.data.streamed import sampled
from convexnet.lab.models.first_step import normaliser
from convexnet.lab.runs.jobs import Job
from convexnet.lab.training.settings import digest

STATISTICS = 2**28
"""Bytes of streamed images from which means and spreads are taken, at most."""

LARGE = 1000
"""Directions of a whitening beyond which it is kept: its time grows with their third power."""

VERSION = 1
"""Of how a whitening is computed."""


def normalised(data: DataSet, job: Job) -> tuple[DataSet, nn.Module]:
    """The data behind the recipe's fixed affine first step, and that step, which the training part decides."""
    step = step_for(data, job)
    parts = {name: behind(step, getattr(data, name)) for name in ("train", "validation", "test")}
    return replace(data, **parts, extra={name: behind(step, part) for name, part in data.extra.items()}), step


def step_for(data: DataSet, job: Job) -> nn.Module:
    """The recipe's first step; one that takes long is kept for the next run on the same training images."""
    how, epsilon = job.recipe.normalise, job.recipe.epsilon
    images = statistics_of(data.train, how)
    if how != "zca" or not data.fingerprint or min(len(images), prod(images.shape)) < LARGE:
        return normaliser(images, how, epsilon)
    settings = {"data": data.fingerprint, "seed": job.seed, "validation": job.validation, "rows": len(images)}
    key = digest({"step": how, "epsilon": epsilon, "version": VERSION, **settings})
    return kept_module(f"zca-{key}", lambda: normaliser(images, how, epsilon))


def behind(step: nn.Module, part: Part) -> Part:
    """The part behind a fixed step: once and for all in memory, and whenever they are read for streamed images."""
    return part.through(step) if isinstance(part, Streamed) else scaled_once(in_memory(part), step)


def statistics_of(part: Part, how: str) -> Split:
    """The images from which a normalisation is made: all, or enough of those in files.

    Raises:
        ValueError: whitening would need all of them.
    """
    if not isinstance(part, Streamed):
        return in_memory(part)
    if how == "zca":
        raise ValueError(
            "whitening (zca) takes the whole training part in memory, and these images stay in their files: choose "
            "--normalise mean-std, or keep them in memory (--in-memory, with a smaller --image-size)"
        )
    return sampled(part, max(2, STATISTICS // prod(part.shape)) if how != "none" else 2)


def in_memory(part: Part) -> Split:
    """The part as what it is."""
    assert isinstance(part, Split), "a part is in memory or streamed"
    return part
