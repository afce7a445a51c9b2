"""The fixed affine first step of a run, and the data behind it."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from torch import nn

from convexnet.lab.data import DataSet, Part, Split, Streamed
from convexnet.lab.data.batches import prepared as scaled_once
from convexnet.lab.data.streamed import sampled
from convexnet.lab.jobs import Job
from convexnet.lab.whiten import normaliser

STATISTICS = 2**28
"""Bytes of streamed images from which means and spreads are taken, at most."""


def normalised(data: DataSet, job: Job) -> tuple[DataSet, nn.Module]:
    """The data behind the recipe's fixed affine first step, and that step, which the training part decides."""
    step = normaliser(statistics_of(data.train, job.recipe.normalise), job.recipe.normalise, job.recipe.epsilon)
    parts = {name: behind(step, getattr(data, name)) for name in ("train", "validation", "test")}
    return replace(data, **parts, extra={name: behind(step, part) for name, part in data.extra.items()}), step


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
