"""Measure predictions of many labels a sample: F1 averaged over examples and over labels, and what to decide."""

from __future__ import annotations

import torch
from torch import Tensor

THRESHOLDS = 199
"""Thresholds that are tried, evenly between 0 and 1."""


def f1_scores(chosen: Tensor, targets: Tensor) -> tuple[float, float]:
    """F1 averaged over examples, and over labels (macro).

    An example, or label, with nothing chosen and nothing true counts as 0, as in scikit-learn with zero_division=0.

    Args:
        chosen: (N, L), of booleans.
        targets: (N, L), 0 or 1.

    Example:
        >>> f1_scores(torch.tensor([[True, True], [False, False]]), torch.tensor([[1, 0], [0, 1]]))
        (0.3333333333333333, 0.5)
    """
    picked, true = chosen.double(), (targets > 0.5).double()
    both = picked * true
    scores = [2 * both.sum(axis) / (picked.sum(axis) + true.sum(axis)).clamp(min=1e-9) for axis in (1, 0)]
    return float(scores[0].mean()), float(scores[1].mean())


def tuned_threshold(scores: Tensor, targets: Tensor) -> tuple[float, float]:
    """The threshold with the best example-averaged F1, and that F1; of several the middle one.

    Example:
        >>> tuned_threshold(torch.tensor([[0.9, 0.2], [0.3, 0.7]]), torch.eye(2))
        (0.5, 1.0)
    """
    tried = torch.linspace(0, 1, THRESHOLDS + 2)[1:-1].tolist()
    found = [f1_scores(scores > threshold, targets)[0] for threshold in tried]
    best = max(found)
    places = [index for index, value in enumerate(found) if value >= best - 1e-12]
    return round(tried[places[len(places) // 2]], 6), best


def expected_f1_choice(scores: Tensor) -> Tensor:
    """The labels (N, L) with the largest expected F1 of each example, where scores are independent probabilities.

    The k likeliest labels, for the k with the largest 2 Σ p_chosen / (k + Σ p), the ratio of expectations.

    Example:
        >>> expected_f1_choice(torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.19, 0.18]])).tolist()
        [[True, False, False], [True, True, True]]
    """
    ordered, places = scores.double().clamp(0, 1).sort(1, descending=True)
    count = torch.arange(1, scores.shape[1] + 1, device=scores.device)
    ratio = 2 * ordered.cumsum(1) / (count + ordered.sum(1, keepdim=True))
    keep = count <= ratio.argmax(1, keepdim=True) + 1
    return torch.zeros_like(keep).scatter(1, places, keep)
