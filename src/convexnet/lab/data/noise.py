"""Wrong labels: drawn at random, with or without the true class among the draws, or given by people (CIFAR-10N)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from convexnet.lab.data.files import CorruptData, MissingData
from convexnet.lab.data.sources import opened

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

HUMAN_FILE = "cifar10n.npz"


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
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction of wrong labels must be between 0 and 1, got {fraction}")
    if classes < 2:
        raise ValueError(f"a wrong label needs at least two classes, got {classes}")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[: round(fraction * len(labels))]
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
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction of wrong labels must be between 0 and 1, got {fraction}")
    if classes < 2:
        raise ValueError(f"a wrong label needs at least two classes, got {classes}")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[: round(fraction * len(labels))]
    noisy = labels.clone()
    noisy[chosen] = torch.randint(classes, (len(chosen),), generator=generator)
    return noisy


def human(kind: str, folder: Path, clean: Tensor) -> Tensor:
    """The labels that people gave to the CIFAR-10 training images whose true labels are `clean`, in official order.

    Args:
        kind: one of `HUMAN`.
        folder: where `cifar10n.npz` is.
        clean: (N,), the first N official labels.

    Raises:
        MissingData, CorruptData: the file is not there, or it belongs to other images.

    Source: Wei et al., Learning with Noisy Labels Revisited (2022).
    """
    path = folder / HUMAN_FILE
    if not path.is_file():
        raise MissingData(
            f"the labels of CIFAR-10N are not in {path.absolute()}. Get them from http://noisylabels.com and store "
            f"the arrays clean_label, {', '.join(HUMAN.values())} there with numpy.savez"
        )
    found = opened(path)
    for name in ("clean_label", HUMAN[kind]):
        if name not in found or found[name].ndim != 1 or len(found[name]) < len(clean):
            raise CorruptData(f"{path} needs an array {name!r} with a label for each of {len(clean)} images")
    if not torch.equal(torch.from_numpy(found["clean_label"][: len(clean)]).long(), clean):
        raise CorruptData(f"{path}: clean_label is not what the images are labelled, so it belongs to other images")
    return torch.from_numpy(found[HUMAN[kind]][: len(clean)]).long()
