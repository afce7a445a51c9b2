"""Data that need no file: scikit-learn's digits as the demo splits them, and a two-dimensional toy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from convexnet.lab.data.parts import Split


@dataclass(frozen=True)
class ThreeWay:
    """A data set in its three parts; selection looks at `validation` only."""

    train: Split
    validation: Split
    test: Split


def pixels() -> tuple[np.ndarray, np.ndarray]:
    """Scikit-learn's digits: grey levels (1797, 64) from 0 to 16, and classes (1797,)."""
    from sklearn.datasets import load_digits

    return cast("tuple[np.ndarray, np.ndarray]", load_digits(return_X_y=True))


def digits(seed: int) -> ThreeWay:
    """Scikit-learn's 1797 real 8x8 digits as (N, 64), split 1100 / 247 / 450 by `seed`, stratified by class.

    Every pixel is centred and divided by its spread plus 0.1 of the grey range, both taken from the training part:
    some border pixels are nearly always 0, and a plain division would blow up the rest of them.
    """
    from sklearn.model_selection import train_test_split

    grey, classes = pixels()
    everything = np.arange(len(classes))
    rest, test = train_test_split(everything, test_size=450, stratify=classes, random_state=seed)
    train, validation = train_test_split(rest, test_size=247, stratify=classes[rest], random_state=seed)

    inputs = torch.from_numpy(grey).float() / 16.0
    labels = torch.from_numpy(classes).long()
    inputs = (inputs - inputs[train].mean(0)) / (inputs[train].std(0) + 0.1)
    return ThreeWay(*(Split(inputs[part], labels[part]) for part in (train, validation, test)))


def crescents(count: int, seed: int, spread: float = 0.1) -> Split:
    """Two interleaved crescents in the plane, (count, 2); no convex set holds one class and spares the other."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    angle = math.pi * (1.1 * torch.rand(count, generator=generator) - 0.05)
    upper = torch.stack([angle.cos(), angle.sin()], dim=1)
    lower = torch.stack([1.0 - angle.cos(), 0.15 - angle.sin()], dim=1)
    points = torch.where((labels == 0)[:, None], upper, lower) - torch.tensor([0.5, 0.1])
    return Split(points + spread * torch.randn(count, 2, generator=generator), labels)
