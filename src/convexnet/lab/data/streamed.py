"""A part of a data set whose images stay in their files, and are decoded while a network trains.

Worker processes (PyTorch's DataLoader) decode, crop and augment whole batches; the main process moves them to the
device. What an image becomes is decided by a number of its own, drawn from the seed of its batch, so that neither the
number of workers nor where in an epoch a run goes on changes a bit. Memory does not grow with the number of images: of
each there are its name, in one block of bytes for all, and its label.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from convexnet.lab.data.augment import Augmentation, ResizedCrop, augmented
from convexnet.lab.data.batches import scaled
from convexnet.lab.data.data_set import Rows, Split, true_share
from convexnet.lab.data.files import DataError
from convexnet.lab.data.folder import centred, pixels_of

AHEAD = 2
"""Batches that each worker may have ready before they are asked for."""


MOST_WORKERS = 8
"""Processes that decode, where nobody says how many."""


def default_workers() -> int:
    """As many processes as there are CPUs for this one, at most `MOST_WORKERS`."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, here)


class Paths:
    """Many paths in one block of bytes.

    A list of strings would be copied into every worker, page by page, as their counts of references change.

    Example:
        >>> names = Paths(["a/0.png", "b/1.png"])
        >>> len(names), names[1]
        (2, PosixPath('b/1.png'))
    """

    def __init__(self, names: Sequence[str]) -> None:
        coded = [os.fsencode(name) for name in names]
        self.ends = torch.tensor([len(name) for name in coded], dtype=torch.int64).cumsum(0)
        self.bytes = torch.frombuffer(bytearray(b"".join(coded)), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> Path:
        begin = int(self.ends[number - 1]) if number else 0
        return Path(os.fsdecode(bytes(self.bytes[begin : int(self.ends[number])].numpy())))


Item = tuple[Tensor, int | None, tuple[int, int]]
"""The files of a batch, by number, the seed of its changes, and which share of it is wanted."""


@dataclass(frozen=True, eq=False)
class Reading(Dataset["Tensor | DataError"]):
    """What a worker does: a batch of images as bytes (M, 3, H, W), channels last; or what is wrong with a file."""

    paths: Paths
    size: tuple[int, int]
    augment: tuple[Augmentation, ...]

    def __getitem__(self, item: Item) -> Tensor | DataError:
        files, seed, (first, every) = item
        seeds = None
        if seed is not None:
            seeds = torch.randint(2**62, (len(files),), generator=torch.Generator().manual_seed(seed))[first::every]
        mine = files[first::every].tolist()
        batch = torch.empty((len(mine), 3, *self.size), dtype=torch.uint8, memory_format=torch.channels_last)
        try:
            for place, number in enumerate(mine):
                batch[place] = self.image(number, None if seeds is None else int(seeds[place]))
        except DataError as error:  # returned, as the loader would wrap it in its own traceback
            return error
        return batch

    def image(self, number: int, seed: int | None) -> Tensor:
        """One image (3, H, W), changed as the seed says."""
        pixels = torch.from_numpy(pixels_of(self.paths[number])).permute(2, 0, 1)
        if seed is None or not self.augment:
            return centred(pixels, self.size)
        draws = torch.Generator().manual_seed(seed)
        crop, rest = self.augment[0], self.augment[1:]
        if not isinstance(crop, ResizedCrop):
            return augmented(centred(pixels, self.size)[None], self.augment, draws)[0]
        return augmented(crop.cut(pixels, self.size, draws)[None], rest, draws)[0]


@dataclass(frozen=True, eq=False)
class Streamed:
    """One part of a data set whose images stay in their files; a `Part` as `Split` is.

    Attributes:
        paths: of the files.
        files: (N,) int64, the number of each image's file in `paths`.
        labels, clean: (N,) int64, the labels to use, and the true ones.
        size: height and width to which every image is brought: resized and its middle cut out, or what an augmentation
            cuts out.
        workers: processes that decode; 0: this one does.
        step: applied to the images in [0, 1] last, such as a normalisation.
    """

    paths: Paths
    files: Tensor
    labels: Tensor
    clean: Tensor
    size: tuple[int, int]
    workers: int = 0
    step: nn.Module | None = None

    @staticmethod
    def of(samples: Sequence[tuple[str, int]], size: tuple[int, int], workers: int = 0) -> Streamed:
        """The part with these files and labels, in this order."""
        labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
        return Streamed(Paths([name for name, _ in samples]), torch.arange(len(samples)), labels, labels, size, workers)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Streamed({len(self)} x uint8{list(self.shape)})"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, without the batch."""
        return (3, *self.size)

    @property
    def true_fraction(self) -> float:
        """The share of labels that are true; 1 for an empty part."""
        return true_share(self.labels, self.clean)

    def rows(self, index: Tensor) -> Streamed:
        """These rows, in this order; `index` is (M,) of integers."""
        labels = self.labels.index_select(0, index)
        clean = labels if self.clean is self.labels else self.clean.index_select(0, index)
        return replace(self, files=self.files.index_select(0, index.cpu()), labels=labels, clean=clean)

    def relabelled(self, labels: Tensor) -> Streamed:
        """The same images with other labels to use; the true ones stay."""
        return replace(self, labels=labels)

    def to(self, device: torch.device | str) -> Streamed:
        """The same part, which gives out its batches on another device."""
        labels = self.labels.to(device)
        clean = labels if self.clean is self.labels else self.clean.to(device)
        return replace(self, labels=labels, clean=clean, step=None if self.step is None else self.step.to(device))

    def through(self, step: nn.Module) -> Streamed:
        """The same part behind a fixed step, which its images in [0, 1] pass as they are read."""
        return replace(self, step=step if self.step is None else nn.Sequential(self.step, step))

    def read(
        self,
        places: Sequence[Rows],
        augment: Sequence[Augmentation] = (),
        seeds: Sequence[int] | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of some batches of rows, as `Part` says.

        Raises:
            DataError: an image cannot be read, or a worker has died; the first one ends it, and is named.
        """
        files = [self.files[rows if isinstance(rows, slice) else rows.cpu()] for rows in places]
        items: list[Item] = [(part, None if seeds is None else seeds[k], share) for k, part in enumerate(files)]
        workers = min(self.workers, len(items)) if len(items) > 1 else 0
        device = self.labels.device
        loader = DataLoader(
            Reading(self.paths, self.size, tuple(augment)),
            batch_size=None,  # an item is a batch
            sampler=items,
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            collate_fn=as_it_is,
            worker_init_fn=begin_work,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # otherwise it draws from the global one
        )
        for rows, images in zip(places, given_by(loader), strict=True):
            there = images.to(device, non_blocking=True)
            if self.step is not None:
                with torch.no_grad():
                    there = self.step(scaled(there))
            yield there, self.labels[rows][share[0] :: share[1]]


def given_by(loader: DataLoader[Any]) -> Iterator[Tensor]:
    """The batches of a loader.

    Raises:
        DataError: a file is wrong, or a worker has died.
    """
    made, ended = iter(loader), ""
    while not ended:
        try:
            found = cast("Tensor | DataError | None", next(made, None))
        except RuntimeError as error:
            if not is_of_a_worker(error):
                raise
            silence_reports()
            ended = str(error)
            continue
        except (OSError, EOFError):  # of the pipe to a worker that died with a batch in it: files are read over there
            if loader.num_workers == 0:
                raise
            silence_reports()
            ended = "it does not answer any more"
            continue
        if found is None:
            return
        if isinstance(found, DataError):
            raise found
        yield found
    del made  # torch would report the dead worker again and again
    raise worker_ended(ended)


def is_of_a_worker(error: RuntimeError) -> bool:
    """Whether torch says that a worker has died; it does so in the midst of anything, when the signal comes."""
    return "DataLoader worker" in str(error)


def silence_reports() -> None:
    """Let torch say no more that a worker has died: it would, in the midst of what cleans up after it.

    Loaders that come later find a dead worker when they next wait for it.
    """
    with contextlib.suppress(ValueError):  # outside of the main thread there are no signals
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def worker_ended(said: str) -> DataError:
    """The error for that."""
    first = said.splitlines()[0].rstrip(".")
    return DataError(
        f"a process that decodes images has ended ({first}); it may have been killed for the memory that it took: try "
        "fewer --workers, and go on with --resume"
    )


def as_it_is(batch: object) -> object:
    """A batch, which is one already."""
    return batch


def begin_work(number: int) -> None:
    """Prepare a worker: Ctrl-C and SIGTERM are the main process's, and with it the worker ends, even by kill -9.

    Otherwise a worker that outlives a killed run for some seconds would hold the lock of its folder.
    """
    del number
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def sampled(part: Streamed, count: int) -> Split:
    """So many images of a part, evenly taken, in memory; all, where it has no more."""
    rows = torch.linspace(0, len(part) - 1, min(count, len(part))).round().long().to(part.labels.device)
    chosen = part.rows(rows)
    images = [images for images, _ in chosen.read([slice(k, k + 64) for k in range(0, len(chosen), 64)])]
    return Split(torch.cat(images), chosen.labels, chosen.clean)
