"""The classes `DataSet`, `Part` and `Split`: three parts with used and true labels, and remarks about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from convexnet.lab.data.augment import Augmentation, augmented

Rows = slice | Tensor
"""Some rows of a part: a slice, or their numbers (M,), integers."""


class Part(Protocol):
    """One part of a data set, with its images in memory (`Split`) or in their files (`Streamed`).

    What trains and measures reads it with `convexnet.lab.data.batches`, by epoch and position, and asks nothing else of
    it: a run goes on in the middle of an epoch whatever the images are kept in.
    """

    @property
    def labels(self) -> Tensor:
        """The labels to use, (N,) int64."""
        ...

    @property
    def clean(self) -> Tensor:
        """The true labels, (N,) int64; the same tensor as `labels` where none is wrong."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, without the batch."""
        ...

    @property
    def true_fraction(self) -> float:
        """The share of labels that are true; 1 for an empty part."""
        ...

    def __len__(self) -> int: ...

    def rows(self, index: Tensor) -> Part:
        """These rows, in this order; `index` is (M,) of integers."""
        ...

    def relabelled(self, labels: Tensor) -> Part:
        """The same images with other labels to use; the true ones stay."""
        ...

    def to(self, device: torch.device | str) -> Part:
        """The same part, which gives out its batches on another device."""
        ...

    def read(
        self,
        places: Sequence[Rows],
        augment: Sequence[Augmentation] = (),
        seeds: Sequence[int] | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of some batches of rows, one after the other.

        Args:
            places: the rows of each batch.
            augment: random changes of the images, in this order.
            seeds: one number for each batch, which decides its changes. None: nothing is changed.
            share: (k, n): of every batch only the rows k, k + n, k + 2n, ...
        """
        ...


class Split:
    """One part of a data set: images, the labels to use, and the true ones.

    Args:
        images: bytes (N, C, H, W), or floating-point (N, D) or (N, C, H, W).
        labels: (N,) int64, those to train on or to compare with; some may be wrong. Or floating-point targets (N, ...)
            of a regression.
        clean: like `labels`, the true ones; the same tensor as `labels` where none is given.

    Raises:
        ValueError: the lengths differ, labels are neither int64 nor floating-point, or images are neither bytes nor
            floating-point.

    Example:
        >>> part = Split(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2]))
        >>> len(part), part.shape, part.rows(torch.tensor([2])).labels
        (3, (1, 2, 2), tensor([2]))
    """

    __slots__ = ("clean", "images", "labels")

    def __init__(self, images: Tensor, labels: Tensor, clean: Tensor | None = None) -> None:
        self.images = images
        self.labels = labels
        self.clean = labels if clean is None else clean
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise ValueError(f"images must be bytes (uint8) or floating-point numbers, not {images.dtype}")
        for name, values in (("labels", self.labels), ("clean labels", self.clean)):
            classes = values.dtype == torch.int64 and values.shape == images.shape[:1]
            numbers = values.is_floating_point() and values.shape[:1] == images.shape[:1]
            if not classes and not numbers:
                raise ValueError(
                    f"{name} must be int64 of shape ({len(images)},), one for each image, or numbers of a regression, "
                    f"not {values.dtype} of shape {tuple(values.shape)}"
                )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        kind = str(self.images.dtype).removeprefix("torch.")
        wrong = f", {100 * (1 - self.true_fraction):.4g} % wrong labels" if self.labels is not self.clean else ""
        return f"Split({len(self)} x {kind}{list(self.images.shape[1:])}{wrong})"

    @property
    def inputs(self) -> Tensor:
        """The images, where they are vectors that a network takes as they are."""
        return self.images

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, without the batch."""
        return tuple(self.images.shape[1:])

    @property
    def true_fraction(self) -> float:
        """The share of labels that are true; 1 for an empty part."""
        return true_share(self.labels, self.clean)

    def rows(self, index: Tensor) -> Split:
        """These rows, in this order; `index` is (M,) of integers."""
        labels = self.labels.index_select(0, index)
        clean = labels if self.clean is self.labels else self.clean.index_select(0, index)
        return Split(self.images.index_select(0, index), labels, clean)

    def to(self, device: torch.device | str) -> Split:
        """The same part on another device; what is there already is not copied."""
        labels = self.labels.to(device)
        return Split(self.images.to(device), labels, labels if self.clean is self.labels else self.clean.to(device))

    def relabelled(self, labels: Tensor) -> Split:
        """The same images with other labels to use; the true ones stay."""
        return Split(self.images, labels, self.clean)

    def read(
        self,
        places: Sequence[Rows],
        augment: Sequence[Augmentation] = (),
        seeds: Sequence[int] | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of some batches of rows, as `Part` says."""
        first, every = share
        own = torch.Generator()
        for number, rows in enumerate(places):
            images, labels = self.picked(rows)
            if augment and seeds is not None:
                own.manual_seed(seeds[number])
                images = augmented(images, augment, own)
            yield images[first::every], labels[first::every]

    def picked(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Images and labels of some rows. On a CPU `index_select` is many times as fast as an index in brackets."""
        if isinstance(rows, slice):
            return self.images[rows], self.labels[rows]
        return self.images.index_select(0, rows), self.labels.index_select(0, rows)


def true_share(labels: Tensor, clean: Tensor) -> float:
    """The share of labels that are true; 1 where there are none."""
    return float((labels == clean).double().mean()) if len(labels) else 1.0


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set in its parts. Selection looks at `validation` only; labels are wrong in `train` only.

    Attributes:
        name: as given to `load`.
        train, validation, test: the parts; `validation` is carved from the training part.
        extra: further test parts by name, such as the duplicate-free images of ciFAIR.
        classes: how many.
        classnames: one for each class.
        note: what a reader of a result must know about these data; empty where there is nothing.
        noise: what was done to the training labels, such as "symmetric-including 40 %"; empty where nothing was.
        fingerprint: stands for the content of all parts, before any label was made wrong.
        noise_fingerprint: stands for the labels that people gave, where these are used; otherwise empty.
        centred: whether the images are the middle of larger ones (`convexnet.lab.data.folder.centred`).
    """

    name: str
    train: Part
    validation: Part
    test: Part
    classes: int
    classnames: tuple[str, ...]
    extra: Mapping[str, Part] = field(default_factory=dict[str, Part])
    note: str = ""
    noise: str = ""
    fingerprint: str = ""
    noise_fingerprint: str = ""
    centred: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, without the batch."""
        return self.train.shape

    @property
    def true_fraction(self) -> float:
        """The share of training labels that are true."""
        return self.train.true_fraction

    def to(self, device: torch.device | str) -> DataSet:
        """All parts on another device."""
        extra = {name: part.to(device) for name, part in self.extra.items()}
        parts = (part.to(device) for part in (self.train, self.validation, self.test))
        return replace(self, **dict(zip(("train", "validation", "test"), parts, strict=True)), extra=extra)
