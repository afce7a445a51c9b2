"""What a data set is: three parts with used and true labels, and what has to be said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


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
        >>> len(part), part.rows(torch.tensor([2])).labels
        (3, tensor([2]))
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
    def true_fraction(self) -> float:
        """The share of labels that are true; 1 for an empty part."""
        return float((self.labels == self.clean).double().mean()) if len(self) else 1.0

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
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    classnames: tuple[str, ...]
    extra: Mapping[str, Split] = field(default_factory=dict[str, Split])
    note: str = ""
    noise: str = ""
    fingerprint: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, without the batch."""
        return tuple(self.train.images.shape[1:])

    @property
    def true_fraction(self) -> float:
        """The share of training labels that are true."""
        return self.train.true_fraction

    def to(self, device: torch.device | str) -> DataSet:
        """All parts on another device."""
        extra = {name: part.to(device) for name, part in self.extra.items()}
        parts = (part.to(device) for part in (self.train, self.validation, self.test))
        return replace(self, **dict(zip(("train", "validation", "test"), parts, strict=True)), extra=extra)
