"""Make labels wrong: at random, with or without the true class among the draws, or as people did (CIFAR-10N)."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from convexnet.lab.data.files import CorruptData, MissingData, opened

HUMAN = {
    "cifar10n-aggre": "aggre_label",
    "cifar10n-random1": "random_label1",
    "cifar10n-random2": "random_label2",
    "cifar10n-random3": "random_label3",
    "cifar10n-worse": "worse_label",
}
"""The columns of CIFAR-10N: the majority of three annotators, each of them, and a wrong one where there was any."""

SYMMETRIC = ("symmetric-including", "symmetric-excluding")

KINDS = (*SYMMETRIC, *HUMAN)
"""Kinds of wrong labels. The paper's own numbers (Table 3) fit draws that include the true class."""

HUMAN_FILES = ("cifar10n.npz", "CIFAR-10_human.pt")
"""The labels of CIFAR-10N as plain arrays, and as they are published."""


def generator_for(seed: int, purpose: str) -> torch.Generator:
    """Random numbers of one purpose: the same for every run with this seed, unrelated to those of other purposes.

    Example:
        >>> a, b = (torch.rand(1, generator=generator_for(0, purpose)) for purpose in ("split", "noise"))
        >>> bool(a == b)
        False
    """
    number = int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(number)


def wrong_labels(labels: Tensor, fraction: float, classes: int, seed: int) -> Tensor:
    """A copy of `labels` (N,) in which round(fraction * N) entries, drawn from `seed`, carry another class at random.

    The true class is excluded, so exactly 1 - fraction of the labels stay true (up to rounding). The paper's Table 3
    fits resampling that may hit the true class again (`resampled`); there more labels stay true than the level says.
    Raises ValueError outside 0 <= fraction <= 1 or for fewer than two classes.

    Example:
        >>> labels = torch.zeros(10, dtype=torch.int64)
        >>> int((wrong_labels(labels, 0.4, classes=10, seed=0) != labels).sum())
        4
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = drawn(len(labels), fraction, classes, generator)
    shift = torch.randint(1, classes, (len(chosen),), generator=generator)
    noisy = labels.clone()
    noisy[chosen] = (labels[chosen] + shift) % classes
    return noisy


def resampled(labels: Tensor, fraction: float, classes: int, seed: int) -> Tensor:
    """A copy of `labels` (N,) in which round(fraction * N) entries, drawn from `seed`, are drawn anew from all classes.

    The true class is one of them: of the labels drawn anew, one in `classes` stays true on average.
    Raises ValueError outside 0 <= fraction <= 1 or for fewer than two classes.

    Source: Zhang et al., Understanding deep learning requires rethinking generalization (2017).

    Example:
        >>> labels = torch.zeros(10_000, dtype=torch.int64)
        >>> bool(abs((resampled(labels, 1.0, classes=10, seed=0) == labels).double().mean() - 0.1) < 0.02)
        True
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = drawn(len(labels), fraction, classes, generator)
    noisy = labels.clone()
    noisy[chosen] = torch.randint(classes, (len(chosen),), generator=generator)
    return noisy


def drawn(count: int, fraction: float, classes: int, generator: torch.Generator) -> Tensor:
    """The rows whose labels are drawn anew, round(fraction * count) of them."""
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction of wrong labels must be between 0 and 1, got {fraction}")
    if classes < 2:
        raise ValueError(f"a wrong label needs at least two classes, got {classes}")
    return torch.randperm(count, generator=generator)[: round(fraction * count)]


def human(kind: str, folder: Path, clean: Tensor) -> Tensor:
    """The labels that people gave to the CIFAR-10 training images whose true labels are `clean`, in official order.

    Args:
        kind: one of `HUMAN`.
        folder: where one of `HUMAN_FILES` is.
        clean: (N,), the first N official labels.

    Raises:
        MissingData, CorruptData: there is no such file, or it belongs to other images.

    Source: Wei et al., Learning with Noisy Labels Revisited (2022).
    """
    path = next((folder / name for name in HUMAN_FILES if (folder / name).is_file()), None)
    if path is None:
        raise MissingData(
            f"the labels of CIFAR-10N are not in {folder.absolute()}, neither as {' nor as '.join(HUMAN_FILES)}: put "
            "the second one there, from http://noisylabels.com"
        )
    found = published(path) if path.suffix == ".pt" else opened(path)
    columns: list[Tensor] = []
    for name in ("clean_label", HUMAN[kind]):
        column = torch.as_tensor(found[name]).long() if name in found else torch.empty(0, dtype=torch.int64)
        if column.ndim != 1 or len(column) < len(clean):
            raise CorruptData(f"{path} needs {name!r} with a label for each of {len(clean)} images")
        columns.append(column[: len(clean)])
    if not torch.equal(columns[0], clean.cpu()):
        raise CorruptData(f"{path}: clean_label is not what the images are labelled, so it belongs to other images")
    if int(columns[1].min()) < 0 or int(columns[1].max()) > int(clean.max()):
        raise CorruptData(f"{path}: {HUMAN[kind]!r} has labels from {columns[1].min()} to {columns[1].max()}")
    return columns[1]


def published(path: Path) -> Mapping[str, np.ndarray]:
    """The published file, a pickle of plain arrays: it is read as such and cannot run code."""
    numeric = [type(np.dtype(kind)) for kind in (np.int64, np.int32, np.uint8)]
    rebuild = cast("Callable[..., object]", np.zeros(0).__reduce__()[0])
    old = (rebuild, "numpy.core.multiarray._reconstruct")  # its name before numpy 2
    try:
        with torch.serialization.safe_globals([rebuild, old, np.ndarray, np.dtype, *numeric]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise CorruptData(f"{path} is not the published file, or truncated: {error}") from error
    if not isinstance(found, dict):
        raise CorruptData(f"{path} is not the published file: it holds {type(found).__name__}")
    return cast("Mapping[str, np.ndarray]", found)
