"""What a task is: a loss, what outputs decide, the score that chooses the best epoch, the columns of its record.

A network is trained by one loop, whatever it learns; what differs is a `Task`. Training and the choice of the best
epoch ask the task alone what its outputs mean. `convexnet.lab.runs.tasks` has classification and regression.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from convexnet.lab.training.robust_losses import Memory
from convexnet.learner import Point


class Loss(Protocol):
    """The mean loss of a batch."""

    def __call__(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean over samples of outputs (N, ...) and targets (N, ...), each counted by its weight (N,)."""
        ...


@dataclass(frozen=True)
class Measured:
    """What a task makes its columns of: a trained network's outputs for the parts of its data.

    Attributes:
        end: what was measured after the last epoch.
        train, test: outputs for the training and the test part, in eval mode; `test` is None where there is none.
        used, clean: the targets that were trained on, and the true ones.
        targets: of the test part.
        peak: outputs for the test part in the epoch that the validation part chose; None where there is none.
        extra: outputs and targets of further test parts, by name.
        validation: outputs and targets of the validation part; None where there is none.
    """

    end: Point
    train: Tensor
    used: Tensor
    clean: Tensor
    test: Tensor | None
    targets: Tensor
    peak: Tensor | None
    extra: dict[str, tuple[Tensor, Tensor]]
    validation: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Task:
    """What is learnt.

    Attributes:
        name: in records.
        loss: what a step makes smaller.
        decide: decisions from outputs (N, ...).
        score: of decisions and targets, a number (N,) for each sample.
        figure: what the mean of the scores is called, as in `validation_accuracy`; it chooses the best epoch.
        larger: whether a larger score is better.
        plain: the loss that is measured, where it is not `loss`.
        memory: from the number of training samples, what takes the place of `loss` in a step and remembers something of
            each; None: `loss` itself, which remembers nothing.
        columns: of the record, besides those that every record has.
    """

    name: str
    loss: Loss
    decide: Callable[[Tensor], Tensor]
    score: Callable[[Tensor, Tensor], Tensor]
    figure: str
    larger: bool
    columns: Callable[[Measured], dict[str, Any]]
    plain: Loss | None = None
    memory: Callable[[int], Memory] | None = None

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """The mean loss and the mean score of outputs (N, ...) for targets (N, ...)."""
        loss = (self.plain or self.loss)(outputs, targets)
        return {"loss": float(loss), self.figure: float(self.score(self.decide(outputs), targets).double().mean())}

    def better(self, new: float, old: float) -> bool:
        """Whether one mean score is better than another."""
        return new > old if self.larger else new < old
