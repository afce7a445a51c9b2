"""Data that need no download: scikit-learn's digits, and two crescents in the plane."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch

from convexnet.lab.data.data_set import Split


def pixels() -> tuple[np.ndarray, np.ndarray]:
    """Scikit-learn's digits: grey levels (1797, 64) from 0 to 16, and classes (1797,)."""
    from sklearn.datasets import load_digits

    return cast("tuple[np.ndarray, np.ndarray]", load_digits(return_X_y=True))


def crescents(count: int, seed: int, spread: float = 0.1) -> Split:
    """Two interleaved crescents in the plane, (count, 2); no convex set holds one class and spares the other."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    angle = math.pi * (1.1 * torch.rand(count, generator=generator) - 0.05)
    upper = torch.stack([angle.cos(), angle.sin()], dim=1)
    lower = torch.stack([1.0 - angle.cos(), 0.15 - angle.sin()], dim=1)
    points = torch.where((labels == 0)[:, None], upper, lower) - torch.tensor([0.5, 0.1])
    return Split(points + spread * torch.randn(count, 2, generator=generator), labels)
