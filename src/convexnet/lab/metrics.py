"""Accuracy, memorised labels and calibration, all from outputs computed in eval mode."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_calibration_error

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """One bin of a reliability diagram; `confidence` and `accuracy` are means over its `count` samples."""

    count: int
    confidence: float
    accuracy: float


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Share of rows of `outputs` (N, K) whose largest entry is at `labels` (N,).

    Example:
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        0.5
    """
    return float((outputs.argmax(dim=1) == labels).float().mean())


def memorised(outputs: Tensor, used: Tensor, true: Tensor) -> float | None:
    """Share of the wrong training labels that the network gives back; None where no label is wrong."""
    wrong = used != true
    return accuracy(outputs[wrong], used[wrong]) if bool(wrong.any()) else None


def reliability(outputs: Tensor, labels: Tensor, bins: int = BINS) -> list[Reliability]:
    """Confidence and accuracy of the top label in `bins` equal-width bins of confidence; empty bins hold zeros."""
    confidence, chosen = outputs.double().softmax(dim=1).max(dim=1)
    right = (chosen == labels).double()
    place = (confidence * bins).long().clamp(max=bins - 1)
    found: list[Reliability] = []
    for index in range(bins):
        here = place == index
        count = int(here.sum())
        means = (float(confidence[here].mean()), float(right[here].mean())) if count else (0.0, 0.0)
        found.append(Reliability(count, *means))
    return found


def adaptive_calibration_error(outputs: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Calibration error over `bins` bins of equal size instead of equal width (top label)."""
    confidence, chosen = outputs.double().softmax(dim=1).max(dim=1)
    right = (chosen == labels).double()
    order = confidence.argsort()
    parts = [part for part in order.tensor_split(bins) if len(part)]
    return sum(len(part) * float((confidence[part] - right[part]).mean().abs()) for part in parts) / len(labels)


def calibration(outputs: Tensor, labels: Tensor, bins: int = BINS) -> dict[str, float]:
    """Calibration of outputs (N, K): `ece` (top label, equal-width bins, weighted), `ece_bar_sum` (the same bars added
    without weights, as the paper words it), `ece_adaptive`, `nll` in nats, `brier` (summed over classes).
    """
    probabilities = outputs.double().softmax(dim=1)
    wanted = functional.one_hot(labels, outputs.shape[1])
    expected = multiclass_calibration_error(probabilities, labels, outputs.shape[1], n_bins=bins, norm="l1")
    bars = reliability(outputs, labels, bins)
    return {
        "ece": float(expected),
        "ece_bar_sum": sum(abs(bar.accuracy - bar.confidence) for bar in bars),
        "ece_adaptive": adaptive_calibration_error(outputs, labels, bins),
        "nll": float(functional.cross_entropy(outputs.double(), labels)),
        "brier": float((probabilities - wanted).square().sum(dim=1).mean()),
    }


def standard_error(share_a: float, share_b: float, count: int) -> float:
    """Standard error of the difference of two accuracies, each measured on `count` samples, taken as independent."""
    variance = (share_a * (1 - share_a) + share_b * (1 - share_b)) / max(count, 1)
    return float(torch.tensor(variance).clamp(min=0).sqrt())
