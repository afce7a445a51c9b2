"""Evaluate a network on the parts of its data, in batches of as many samples as memory allows, at the end of a run.

`metrics.py` makes figures of the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convexnet.curvature.tracing.restored_state import calling
from convexnet.lab.data import DataSet, Part, Streamed, batches
from convexnet.lab.training.task import Task
from convexnet.learner import Point

EVALUATED = 2000
"""Samples in a batch when nothing is trained, at most."""

ACTIVATIONS = 2**28
"""Bytes that the largest result of a layer may have then."""

SAMPLED = 1000
"""Validation samples for the correlation of pre-activations, if there are so many."""

LOOKED_AT = 50_000
"""Streamed training images on which the training accuracy is measured, at most; all would cost another epoch."""


def measured_part(part: Part) -> Part:
    """What of a part is measured: all, or evenly taken images of a long one that is streamed."""
    if not isinstance(part, Streamed) or len(part) <= LOOKED_AT:
        return part
    return part.rows(torch.linspace(0, len(part) - 1, LOOKED_AT).round().long().to(part.labels.device))


def outputs(network: nn.Module, part: Part) -> Tensor:
    """The outputs (N, K) for a whole part, in eval mode."""
    was_training = network.training
    network.eval()
    with torch.no_grad():
        size = evaluated_together(network, first_inputs(part, 1))
        found = torch.cat([network(inputs) for inputs, _ in batches(part, size)])
    network.train(was_training)
    return found


def first_inputs(part: Part, count: int) -> Tensor:
    """The first inputs of a part, (count, ...) or as many as there are."""
    first = part.rows(torch.arange(min(count, len(part)), device=part.labels.device))
    return next(batches(first, count))[0]


def few_inputs(network: nn.Module, part: Part) -> Tensor:
    """As many of the first inputs of a part as `SAMPLED` says, and as the largest layer has memory for."""
    with calling(network):
        return first_inputs(part, min(SAMPLED, evaluated_together(network, first_inputs(part, 1))))


def evaluated_together(network: nn.Module, one: Tensor) -> int:
    """How many samples like this one (1, ...) a batch may have, so that no layer makes more than `ACTIVATIONS` bytes.

    Example:
        >>> evaluated_together(nn.Linear(4, 2), torch.zeros(1, 4))
        2000
    """
    largest = one.numel() * one.element_size()

    def note(module: nn.Module, given: object, made: object) -> None:
        nonlocal largest
        if isinstance(made, Tensor):
            largest = max(largest, made.numel() * made.element_size())

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    try:
        network(one)
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, min(EVALUATED, ACTIVATIONS // largest))


def measure_network(network: nn.Module, data: DataSet, wanted: Sequence[str], task: Task) -> Point:
    """The loss and the task's figure on the named parts of the data, on the targets used; nothing of an empty part."""
    point: Point = {}
    for name in wanted:
        part = measured_part(getattr(data, name))
        if len(part):
            found = task.measure(outputs(network, part), part.labels)
            point |= {f"{name}_{what}": value for what, value in found.items()}
    return point
