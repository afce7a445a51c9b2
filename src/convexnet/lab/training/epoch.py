"""The training loop over batches, for ordinary and convex networks and for whatever they learn.

`steps` is the loop. The learner that calls it, with devices, early stopping and a state inside an epoch, is `Training`
in `convexnet.lab.training.experiment`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.lab.models.convex import without_scales
from convexnet.lab.training.robust_losses import Memory
from convexnet.lab.training.task import Task
from convexnet.zoo.variants import EXEMPT, report_constraint


class Batch(NamedTuple):
    """What one process sees of a batch; `share` times its mean loss, averaged over the processes, is the batch's.

    `weights` (N,) are those of its samples, 1 on average over the training part; None: each counts alike. `rows` (N,)
    are their numbers in the training part, where something asks for them.
    """

    inputs: Tensor
    labels: Tensor
    share: float = 1.0
    weights: Tensor | None = None
    rows: Tensor | None = None


class Epoch(NamedTuple):
    """What one pass over the training data saw while it trained."""

    number: int
    running_loss: float
    running_score: float
    samples: int


class Diverged(Exception):
    """The loss is not a number any more. Nothing good was overwritten: the last checkpoint is from before.

    Attributes:
        batch: the number of the batch in its epoch, from 0; None where it is not one batch's loss.
    """

    def __init__(self, message: str, batch: int | None = None) -> None:
        super().__init__(message)
        self.batch = batch


def steps(
    forward: nn.Module,
    optimiser: torch.optim.Optimizer,
    given: Iterable[Batch],
    seen: Seen,
    *,
    task: Task,
    memory: Memory | None = None,
    backward: Callable[[Tensor], None] = Tensor.backward,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Some steps of an epoch, which `seen` adds up; `memory` is the task's loss, where that remembers its samples.

    Raises:
        Diverged: a loss is infinite or NaN.
    """
    forward.train()
    for inputs, labels, share, weights, rows in given:
        outputs = forward(inputs)
        if memory is None or rows is None:
            value = task.loss(outputs, labels, weights)
        else:
            value = memory(outputs, labels, rows, weights)
        seen.add(value.detach(), task.score(task.decide(outputs.detach()), labels))
        optimiser.zero_grad()
        backward(value * share)
        optimiser.step()
        after()
    seen.check()


class Seen:
    """The running loss and score of an epoch, on the device of the losses: reading them at each step would wait."""

    EVERY = 50
    """Steps between two looks at the losses on an accelerator; on a CPU every one is looked at before its step."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.losses: list[Tensor] = []
        self.checked = 0
        self.loss, self.score, self.count = 0.0, 0.0, 0

    def state(self) -> dict[str, float]:
        """The sums so far, as numbers."""
        self.check()
        return {
            "number": self.number,
            "checked": self.checked,
            "loss": float(self.loss),
            "right": float(self.score),  # its name in checkpoints, from when a score was always a right answer
            "count": self.count,
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Seen:
        """With the sums that `state()` had."""
        seen = cls(int(state["number"]))
        seen.checked, seen.loss = int(state["checked"]), float(state["loss"])
        seen.score, seen.count = float(state["right"]), int(state["count"])
        return seen

    def add(self, loss: Tensor, scores: Tensor) -> None:
        """Count a batch: its mean loss and the scores (N,) of its samples."""
        self.losses.append(loss)
        self.loss = self.loss + loss.double() * len(scores)
        self.score = self.score + scores.double().sum()
        self.count += len(scores)
        if loss.device.type == "cpu" or len(self.losses) >= self.EVERY:
            self.check()

    def check(self) -> None:
        """Require the losses since the last look to be numbers."""
        if not self.losses:
            return
        fine = torch.stack(self.losses).isfinite()
        if not bool(fine.all()):
            place = int((~fine).nonzero()[0])
            batch = self.checked + place
            value = self.losses[place].item()
            raise Diverged(f"the loss is {value} at step {batch + 1} of epoch {self.number}", batch)
        self.checked += len(self.losses)
        self.losses.clear()

    def epoch(self) -> Epoch:
        self.check()
        if not self.count:
            raise ValueError("there is no batch of two samples or more to train on; BatchNorm needs two")
        return Epoch(self.number, float(self.loss) / self.count, float(self.score) / self.count, self.count)


def constrained(model: nn.Module, example: Tensor, *, free_gamma: bool) -> cx.Cone:
    """The cone of a network, or of its convex part, with BatchNorm's scales or without."""
    cone = cx.constrain(model, example)
    return without_scales(cone) if free_gamma else cone


def constraint_by_names(model: nn.Module) -> cx.Cone | None:
    """The constraint of a network of the report's code, which does not make it convex; None of any other."""
    has_one = any(getattr(module, EXEMPT, None) is not None for module in model.modules())
    return report_constraint(model) if has_one else None


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of an optimiser this learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate


@torch.no_grad()
def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs of `model` in eval mode, without gradients; the mode is put back afterwards."""
    training = model.training
    model.eval()
    outputs: Tensor = model(inputs)
    model.train(training)
    return outputs
