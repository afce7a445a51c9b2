"""The training loop over batches, for ordinary and convex networks and for whatever they learn.

`steps` is the loop. The learner that calls it, with devices, early stopping and a state inside an epoch, is `Training`
in `convexnet.lab.training.experiment`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
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
    are their numbers in the training part, where something asks for them. `others` (N,) are the rows of the batch that
    its images were mixed with, `kept` the share of its own that each has.
    """

    inputs: Tensor
    labels: Tensor
    share: float = 1.0
    weights: Tensor | None = None
    rows: Tensor | None = None
    others: Tensor | None = None
    kept: float = 1.0


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
    accumulate: int = 1,
    unshared: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """Some steps of an epoch, which `seen` adds up; `memory` is the task's loss, where that remembers its samples.

    Args:
        forward, optimiser, given, seen: the network, and what is done with it.
        task: what is learnt.
        memory: as above.
        backward: of a loss.
        after: called after every step.
        accumulate: parts of a batch that are seen one after the other, before one step.
        unshared: within it, gradients are not yet averaged over processes: all parts of a batch but its last.

    Raises:
        Diverged: a loss is infinite or NaN.
    """
    forward.train()
    for batch in given:
        optimiser.zero_grad()
        parts = divided(len(batch.labels), accumulate)
        loss, scores = torch.zeros((), device=batch.labels.device), list[Tensor]()
        for number, part in enumerate(parts, 1):
            with nullcontext() if number == len(parts) else unshared():
                outputs = forward(batch.inputs[part])
                value, scored = judged(outputs, batch, part, task, memory)
                share = len(outputs) / len(batch.labels)
                backward(value * (batch.share * share))
            loss = loss + share * value.detach()
            scores.append(scored)
        seen.add(loss, torch.cat(scores))  # which on a CPU looks at the loss before the step
        optimiser.step()
        after()
    seen.check()


def divided(count: int, parts: int) -> list[slice]:
    """The rows of the parts of a batch; BatchNorm makes nothing of a single row, so that there may be fewer of them.

    Example:
        >>> divided(7, 3), divided(3, 3)
        ([slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)], [slice(0, 3, None)])
    """
    wanted = max(1, min(parts, count // 2))
    ends = [-(-count * k // wanted) for k in range(wanted + 1)]
    return [slice(first, last) for first, last in pairwise(ends)]


def judged(outputs: Tensor, batch: Batch, part: slice, task: Task, memory: Memory | None) -> tuple[Tensor, Tensor]:
    """The mean loss of a part of a batch, and its scores (N,); of mixed images by the labels of both."""
    labels, weights = batch.labels[part], None if batch.weights is None else batch.weights[part]
    decided = task.decide(outputs.detach())
    if memory is not None and batch.rows is not None:
        return memory(outputs, labels, batch.rows[part], weights), task.score(decided, labels)
    value, scores = task.loss(outputs, labels, weights), task.score(decided, labels)
    if batch.others is None:
        return value, scores
    others = batch.others[part]
    second = batch.labels[others], None if batch.weights is None else batch.weights[others]
    other, kept = task.loss(outputs, *second), batch.kept
    return kept * value + (1 - kept) * other, kept * scores.double() + (1 - kept) * task.score(decided, second[0])


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
