"""One visible training loop, for ordinary and convex networks alike.

`steps` is the loop over batches, `one_epoch` one pass of it, `fit` a loop over epochs for small data in memory (the
demo). The learner of experiments, with devices, early stopping and a state inside an epoch, is `Training` in
`convexnet.lab.experiment`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import convexnet as cx
from convexnet.lab.data import Split
from convexnet.lab.networks import without_scales

Loss = Callable[[Tensor, Tensor], Tensor]


class Batch(NamedTuple):
    """What one process sees of a batch; `share` times its mean loss, averaged over the processes, is the batch's."""

    inputs: Tensor
    labels: Tensor
    share: float = 1.0


class Epoch(NamedTuple):
    """What one pass over the training data saw while it trained."""

    number: int
    running_loss: float
    running_accuracy: float
    samples: int


class Diverged(Exception):
    """The loss is not a number any more. Nothing good was overwritten: the last checkpoint is from before.

    Attributes:
        batch: the number of the batch in its epoch, from 0; None where it is not one batch's loss.
    """

    def __init__(self, message: str, batch: int | None = None) -> None:
        super().__init__(message)
        self.batch = batch


def decide(outputs: Tensor) -> Tensor:
    """Classes (N,) from outputs (N, K): the largest of K >= 2, or the sign of a single one."""
    return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(dim=1)


def sigmoid_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Logistic loss of a one-output network, (N, 1) and labels in {0, 1}."""
    return functional.binary_cross_entropy_with_logits(outputs[:, 0], labels.float())


# --- one epoch -------------------------------------------------------------------------------------------------------


def one_epoch(
    forward: nn.Module,
    optimiser: torch.optim.Optimizer,
    given: Iterable[Batch],
    *,
    number: int,
    loss: Loss,
    backward: Callable[[Tensor], None] = Tensor.backward,
    after: Callable[[], None] = lambda: None,
) -> Epoch:
    """One pass over the batches, in place; `after` is called after every step.

    Raises:
        Diverged: a loss is infinite or NaN; the message names step and epoch.
    """
    seen = Seen(number)
    steps(forward, optimiser, given, seen, loss=loss, backward=backward, after=after)
    return seen.epoch()


def steps(
    forward: nn.Module,
    optimiser: torch.optim.Optimizer,
    given: Iterable[Batch],
    seen: Seen,
    *,
    loss: Loss,
    backward: Callable[[Tensor], None] = Tensor.backward,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Some steps of an epoch, which `seen` adds up.

    Raises:
        Diverged: a loss is infinite or NaN.
    """
    forward.train()
    for inputs, labels, share in given:
        outputs = forward(inputs)
        value = loss(outputs, labels)
        seen.add(value.detach(), outputs.detach(), labels)
        optimiser.zero_grad()
        backward(value * share)
        optimiser.step()
        after()
    seen.check()


class Seen:
    """The running loss and accuracy of an epoch, on the device of the losses: reading them at each step would wait."""

    EVERY = 50
    """Steps between two looks at the losses on an accelerator; on a CPU every one is looked at before its step."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.losses: list[Tensor] = []
        self.checked = 0
        self.loss, self.right, self.count = 0.0, 0, 0

    def state(self) -> dict[str, float]:
        """The sums so far, as numbers."""
        self.check()
        return {
            "number": self.number,
            "checked": self.checked,
            "loss": float(self.loss),
            "right": int(self.right),
            "count": self.count,
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Seen:
        """With the sums that `state()` had."""
        seen = cls(int(state["number"]))
        seen.checked, seen.loss = int(state["checked"]), float(state["loss"])
        seen.right, seen.count = int(state["right"]), int(state["count"])
        return seen

    def add(self, loss: Tensor, outputs: Tensor, labels: Tensor) -> None:
        self.losses.append(loss)
        self.loss = self.loss + loss.double() * len(labels)
        self.right = self.right + (decide(outputs) == labels).sum()
        self.count += len(labels)
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
        return Epoch(self.number, float(self.loss) / self.count, float(self.right) / self.count, self.count)


# --- small data in memory --------------------------------------------------------------------------------------------


def fit(
    model: nn.Module,
    data: Split,
    *,
    convex: bool,
    epochs: int,
    batch: int,
    learning_rate: float,
    seed: int,
    loss: Loss = functional.cross_entropy,
    decay: float = 1.0,
    free_gamma: bool = False,
) -> Iterator[Epoch]:
    """Train in place with Adam and hand control back after every epoch, so that a caller can interleave networks.

    `convex` keeps the network convex by the method that `convexify` recorded on it (on an ordinary network: the paper's
    post-step exponentiation); with `free_gamma` BatchNorm's scales are left out of that, and nothing keeps it convex.
    The learning rate falls by the same factor after every epoch, to `decay` times its start after the last. Data order
    is drawn from `seed` alone, so two networks with one seed see the same batches.
    """
    cone = constrained(model, data.inputs[:2], free_gamma=free_gamma) if convex else None
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    if cone is not None:
        cone.attach(optimiser)
    order = torch.Generator().manual_seed(seed)
    for number in range(1, epochs + 1):
        set_rate(optimiser, learning_rate * decay ** ((number - 1) / epochs))
        rows = torch.randperm(len(data), generator=order).split(batch)
        given = (Batch(data.inputs[part], data.labels[part]) for part in rows if len(part) > 1)
        yield one_epoch(model, optimiser, given, number=number, loss=loss)


def constrained(model: nn.Module, example: Tensor, *, free_gamma: bool) -> cx.Cone:
    """The cone of a network, with BatchNorm's scales or without."""
    cone = cx.constrain(model, example)
    return without_scales(cone) if free_gamma else cone


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
