"""The demo's data: scikit-learn's digits split in three, wrong labels, and a two-dimensional toy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Inputs (N, D) float32 and labels (N,) int64 of one part of a data set."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ThreeWay:
    """A data set in its three parts; selection looks at `validation` only."""

    train: Split
    validation: Split
    test: Split


def digits(seed: int) -> ThreeWay:
    """Scikit-learn's 1797 real 8x8 digits as (N, 64), split 1100 / 247 / 450 by `seed`, stratified by class.

    Every pixel is centred and divided by its spread plus 0.1 of the grey range, both taken from the training part:
    some border pixels are nearly always 0, and a plain division would blow up the rest of them.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, classes = cast("tuple[np.ndarray, np.ndarray]", load_digits(return_X_y=True))
    everything = np.arange(len(classes))
    rest, test = train_test_split(everything, test_size=450, stratify=classes, random_state=seed)
    train, validation = train_test_split(rest, test_size=247, stratify=classes[rest], random_state=seed)

    inputs = torch.from_numpy(pixels).float() / 16.0
    labels = torch.from_numpy(classes).long()
    inputs = (inputs - inputs[train].mean(0)) / (inputs[train].std(0) + 0.1)
    return ThreeWay(*(Split(inputs[part], labels[part]) for part in (train, validation, test)))


def wrong_labels(labels: Tensor, fraction: float, classes: int, seed: int) -> Tensor:
    """A copy of `labels` (N,) in which round(fraction * N) entries, drawn from `seed`, carry another class at random.

    The true class is excluded, so exactly 1 - fraction of the labels stay true (up to rounding). The paper's Table 3
    fits resampling that may hit the true class again; there more labels stay true than the name of the level says.
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


def crescents(count: int, seed: int, spread: float = 0.1) -> Split:
    """Two interleaved crescents in the plane, (count, 2); no convex set holds one class and spares the other."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    angle = math.pi * (1.1 * torch.rand(count, generator=generator) - 0.05)
    upper = torch.stack([angle.cos(), angle.sin()], dim=1)
    lower = torch.stack([1.0 - angle.cos(), 0.15 - angle.sin()], dim=1)
    points = torch.where((labels == 0)[:, None], upper, lower) - torch.tensor([0.5, 0.1])
    return Split(points + spread * torch.randn(count, 2, generator=generator), labels)
