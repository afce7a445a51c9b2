"""One visible training loop, for ordinary and convex networks alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import convexnet as cx
from convexnet.lab.data import Split
from convexnet.lab.networks import without_scales

Loss = Callable[[Tensor, Tensor], Tensor]


class Epoch(NamedTuple):
    """What one pass over the training data saw while it trained."""

    number: int
    running_loss: float
    running_accuracy: float


def decide(outputs: Tensor) -> Tensor:
    """Classes (N,) from outputs (N, K): the largest of K >= 2, or the sign of a single one."""
    return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(dim=1)


def sigmoid_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Logistic loss of a one-output network, (N, 1) and labels in {0, 1}."""
    return functional.binary_cross_entropy_with_logits(outputs[:, 0], labels.float())


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
    cone = cx.constrain(model, data.inputs[:2]) if convex else None
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    if cone is not None:
        (without_scales(cone) if free_gamma else cone).attach(optimiser)
    order = torch.Generator().manual_seed(seed)
    for number in range(1, epochs + 1):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * decay ** ((number - 1) / epochs)
        model.train()
        total, right, seen = 0.0, 0, 0
        for rows in torch.randperm(len(data), generator=order).split(batch):
            if len(rows) < 2:  # BatchNorm cannot estimate a spread from one row
                continue
            outputs = model(data.inputs[rows])
            value = loss(outputs, data.labels[rows])
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            total += value.item() * len(rows)
            right += int((decide(outputs) == data.labels[rows]).sum())
            seen += len(rows)
        yield Epoch(number, total / seen, right / seen)


@torch.no_grad()
def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs of `model` in eval mode, without gradients; the mode is put back afterwards."""
    training = model.training
    model.eval()
    outputs: Tensor = model(inputs)
    model.train(training)
    return outputs
