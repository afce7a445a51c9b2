"""The two tasks that come with the laboratory: classification and regression, with their losses and columns.

What a task is, says `convexnet.lab.training.task`; a run is for classes unless its study hands it another task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from convexnet.lab.runs import calibrating, metrics
from convexnet.lab.runs.records import CLASSIFICATION
from convexnet.lab.training import robust_losses
from convexnet.lab.training.task import Measured, Task

# --- classification --------------------------------------------------------------------------------------------------


def cross_entropy(outputs: Tensor, targets: Tensor, weights: Tensor | None = None, *, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats of logits (N, K); of a single one, K = 1, that of its sigmoid and labels in {0, 1}."""
    how = "mean" if weights is None else "none"
    if outputs.shape[1] == 1:
        wanted = targets.to(outputs.dtype) * (1 - smoothing) + smoothing / 2
        losses = functional.binary_cross_entropy_with_logits(outputs[:, 0], wanted, reduction=how)
    else:
        losses = functional.cross_entropy(outputs, targets, label_smoothing=smoothing, reduction=how)
    return losses if weights is None else (losses * weights).mean()


def classification(smoothing: float = 0.0, loss: str = "cross-entropy") -> Task:
    """Classes from logits, by cross-entropy, with the smoothing of labels while it trains, or by a robust loss.

    Whatever is trained with, the loss that is measured is plain cross-entropy, so that networks can be compared.

    Raises:
        ValueError: there is no such loss, or labels are smoothed for another one than cross-entropy.

    Example:
        >>> task = classification()
        >>> task.measure(torch.tensor([[0.0, 0.0], [5.0, 0.0]]), torch.tensor([1, 0]))["accuracy"]
        0.5
    """

    name, numbers = robust_losses.loss_named(loss)
    if smoothing and name != "cross-entropy":
        raise ValueError(f"labels are smoothed for cross-entropy, not for {name}: leave one of them out")
    each: robust_losses.Each | None = None
    memory: Callable[[int], robust_losses.Memory] | None = None
    if name == "gce":
        each = robust_losses.generalised(*numbers)
    elif name == "sce":
        each = robust_losses.symmetric(*numbers)
    elif name == "elr":

        def remembering(samples: int) -> robust_losses.Memory:
            return robust_losses.EarlyLearning(samples, *numbers)

        memory = remembering

    def trained_by(outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        if each is None:
            return cross_entropy(outputs, targets, weights, smoothing=smoothing)
        return robust_losses.averaged(each(robust_losses.two_or_more(outputs), targets), weights)

    return Task(
        name=CLASSIFICATION,
        loss=trained_by,
        plain=cross_entropy,
        memory=memory,
        decide=metrics.classes_of,
        score=torch.eq,
        figure="accuracy",
        larger=True,
        columns=columns_of_a_classifier,
    )


def columns_of_a_classifier(found: Measured) -> dict[str, Any]:
    """Accuracies, what was memorised, calibration; of a network without a test part, None where it needs one."""
    accuracies = metrics.accuracies(
        *(found.train, found.used, found.clean, found.test, found.targets), running=found.end["running_accuracy"]
    )
    columns: dict[str, Any] = {
        **accuracies,
        "validation_accuracy": found.end.get("validation_accuracy"),
        "test_accuracy_at_peak": None if found.peak is None else metrics.accuracy(found.peak, found.targets),
        "train_loss": float(cross_entropy(found.train, found.used)),
        **{f"{name}_accuracy": metrics.accuracy(*part) for name, part in found.extra.items()},
    }
    if found.test is not None:
        columns |= {
            "test_loss": float(cross_entropy(found.test, found.targets)),
            **metrics.calibration(found.test, found.targets),
            "reliability": [list(astuple(bar)) for bar in metrics.reliability(found.test, found.targets)],
            "ece_perfect": calibrating.perfect(found.test),
        }
        if found.validation is not None:
            columns |= calibrating.scaled_columns(found.validation, found.test, found.targets)
    return columns


# --- regression ------------------------------------------------------------------------------------------------------


def squared_errors(decisions: Tensor, targets: Tensor) -> Tensor:
    """The squared distances (N,) of decisions (N, ...) from targets of as many numbers."""
    if decisions.numel() != targets.numel():
        shapes = f"outputs {tuple(decisions.shape)} and targets {tuple(targets.shape)}"
        raise ValueError(f"{shapes} do not have as many numbers: give the network as many outputs as a target has")
    count = len(targets)
    return (decisions.reshape(count, -1) - targets.reshape(count, -1)).square().sum(1)


def squared_loss(outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean squared distance of outputs from targets."""
    errors = squared_errors(outputs, targets)
    return errors.mean() if weights is None else (errors * weights).mean()


def columns_of_a_regression(found: Measured) -> dict[str, Any]:
    """Root mean squared errors, and the share of the variance of the test part that is explained."""
    columns: dict[str, Any] = {
        "train_rmse": float(squared_loss(found.train, found.used)) ** 0.5,
        "clean_train_rmse": float(squared_loss(found.train, found.clean)) ** 0.5,
    }
    if found.test is not None:
        error = float(squared_loss(found.test, found.targets))
        spread = float(squared_loss(found.targets.mean(0, keepdim=True).expand_as(found.targets), found.targets))
        columns |= {"test_rmse": error**0.5, "test_explained": 1 - error / spread if spread else None}
        if found.peak is not None:
            columns["test_rmse_at_peak"] = float(squared_loss(found.peak, found.targets)) ** 0.5
    return columns


REGRESSION = Task(
    name="regression",
    loss=squared_loss,
    decide=lambda outputs: outputs,
    score=squared_errors,
    figure="squared_error",
    larger=False,
    columns=columns_of_a_regression,
)
"""Numbers from outputs of the targets' shape, by squared distance."""
