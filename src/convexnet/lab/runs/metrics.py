"""Accuracy, memorised labels, calibration and correlation, all from what a network returns in eval mode.

Outputs are logits (N, K). A single one, K = 1, stands for two classes: the second where it is positive, with the
probability that its sigmoid gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from convexnet.initialise import correlation

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """One bin of a reliability diagram; `confidence` and `accuracy` are means over its `count` samples."""

    count: int
    confidence: float
    accuracy: float


# --- accuracy --------------------------------------------------------------------------------------------------------


def classes_of(outputs: Tensor) -> Tensor:
    """The class (N,) that each row of outputs (N, K) names: the place of its largest entry, or its only one's sign.

    Example:
        >>> classes_of(torch.tensor([[-1.0], [2.0]])), classes_of(torch.tensor([[-1.0, 2.0, 0.0]]))
        (tensor([0, 1]), tensor([1]))
    """
    return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(dim=1)


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Share of rows of `outputs` (N, K) that name the class in `labels` (N,).

    Raises:
        ValueError: there are no rows, or as many labels as rows are not given.

    Example:
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        0.5
    """
    paired(outputs, labels)
    # Counted in integers: a float32 mean of ten thousand shares is off in the seventh place.
    return int((classes_of(outputs) == labels).sum()) / len(labels)


def memorised(outputs: Tensor, used: Tensor, true: Tensor) -> float | None:
    """Share of the wrong training labels that the network gives back; None where no label is wrong."""
    wrong = used != true
    return accuracy(outputs[wrong], used[wrong]) if bool(wrong.any()) else None


def accuracies(
    train: Tensor, used: Tensor, clean: Tensor, test: Tensor | None, test_labels: Tensor, *, running: float
) -> dict[str, float | None]:
    """The four accuracies that every record has, the gap, and what was memorised.

    The paper compares accuracies that are not the same thing: on noisy labels with clean ones, and probably on
    augmented images with plain ones. So each is recorded under a name of its own.

    Args:
        train: outputs (N, K) for the training images, in eval mode and without augmentation.
        used, clean: the labels (N,) that were trained on, and the true ones.
        test, test_labels: outputs and labels of the test part; without outputs there is no test accuracy and no gap.
        running: accuracy during the last epoch, on augmented batches and in training mode.

    Returns:
        `train_accuracy` (labels used), `clean_train_accuracy`, `running_accuracy`, `test_accuracy`, `gap` (the first
        minus the last), `memorised_wrong_labels` (None where none is wrong).

    Example:
        >>> outputs, used, clean = torch.eye(2), torch.tensor([0, 1]), torch.tensor([0, 0])
        >>> accuracies(outputs, used, clean, outputs, clean, running=0.9)["gap"]
        0.5
    """
    on_used, on_test = accuracy(train, used), None if test is None else accuracy(test, test_labels)
    return {
        "train_accuracy": on_used,
        "clean_train_accuracy": accuracy(train, clean),
        "running_accuracy": running,
        "test_accuracy": on_test,
        "gap": None if on_test is None else on_used - on_test,
        "memorised_wrong_labels": memorised(train, used, clean),
    }


def standard_error(share_a: float, share_b: float, count: int) -> float:
    """Standard error of the difference of two accuracies, each measured on `count` samples, taken as independent."""
    variance = (share_a * (1 - share_a) + share_b * (1 - share_b)) / max(count, 1)
    return float(torch.tensor(variance).clamp(min=0).sqrt())


# --- calibration -----------------------------------------------------------------------------------------------------


def reliability(outputs: Tensor, labels: Tensor, bins: int = BINS) -> list[Reliability]:
    """Confidence and accuracy of the top label in `bins` equal-width bins of confidence, the last one closed above.

    Empty bins hold zeros.
    """
    confidence, right = top_label(outputs, labels)
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
    confidence, right = top_label(outputs, labels)
    order = confidence.argsort()
    parts = [part for part in order.tensor_split(bins) if len(part)]
    return sum(len(part) * float((confidence[part] - right[part]).mean().abs()) for part in parts) / len(labels)


def calibration(outputs: Tensor, labels: Tensor, bins: int = BINS) -> dict[str, float]:
    """Calibration of outputs (N, K): `ece` (top label, equal-width bins, weighted), `ece_bar_sum` (the same bars added
    without weights, as the paper words it), `ece_adaptive`, `nll` in nats, `brier` (summed over classes).

    Raises:
        ValueError: no rows, or outputs that are not finite.

    Source: Guo et al., On Calibration of Modern Neural Networks (2017); Sivaprasad et al. 2021, section 4.1.
    """
    paired(outputs, labels)
    logits = two_or_more(outputs)
    if not bool(logits.isfinite().all()):
        bad = int((~logits.isfinite()).any(dim=1).sum())
        raise ValueError(f"{bad} of {len(logits)} rows of outputs are not finite: they have no confidence to calibrate")
    probabilities = logits.softmax(dim=1)
    wanted = functional.one_hot(labels, logits.shape[1])
    bars = reliability(outputs, labels, bins)
    return {
        "ece": sum(bar.count * abs(bar.accuracy - bar.confidence) for bar in bars) / len(labels),
        "ece_bar_sum": sum(abs(bar.accuracy - bar.confidence) for bar in bars),
        "ece_adaptive": adaptive_calibration_error(outputs, labels, bins),
        "nll": float(functional.cross_entropy(logits, labels)),
        "brier": float((probabilities - wanted).square().sum(dim=1).mean()),
    }


def top_label(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The probability of the most probable class, and whether (1.0) or not (0.0) that class is right; float64 (N,)."""
    confidence, chosen = two_or_more(outputs).softmax(dim=1).max(dim=1)
    return confidence, (chosen == labels).double()


def two_or_more(outputs: Tensor) -> Tensor:
    """Logits in float64, (N, K) with K of 2 or more: a single one f stands for (0, f), whose softmax is its sigmoid."""
    exact = outputs.double()
    return torch.cat([torch.zeros_like(exact), exact], dim=1) if exact.shape[1] == 1 else exact


def paired(outputs: Tensor, labels: Tensor) -> None:
    """Refuse outputs and labels that do not belong together, and none at all."""
    if outputs.ndim != 2 or labels.shape != outputs.shape[:1] or not len(labels):
        raise ValueError(
            f"outputs (N, K) and labels (N,) with N of 1 or more are needed, not {tuple(outputs.shape)} and "
            f"{tuple(labels.shape)}"
        )


# --- health ----------------------------------------------------------------------------------------------------------


def correlations(model: nn.Module, inputs: Tensor | Sequence[Tensor]) -> dict[str, float | None]:
    """The mean correlation between the pre-activations of each layer's units (`convexnet.initialise.correlation`).

    Near 1 a layer has collapsed to one unit. None where fewer than two units vary: a record cannot hold NaN.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 3))
        >>> found = correlations(net, torch.randn(100, 4))
        >>> found["0"] is None, abs(found["2"]) <= 1
        (True, True)
    """
    return {path: None if math.isnan(value) else value for path, value in correlation(model, inputs).items()}
