"""The parameters of a network in training: groups for an optimiser, and averages over the steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from convexnet.constraints import Cone
from convexnet.lab.training.recipes import Recipe


def groups(model: nn.Module, recipe: Recipe, cone: Cone | None) -> list[dict[str, Any]]:
    """The parameters for an optimiser, apart where weight decay does not act on them."""
    if recipe.decays == "all":
        return [{"params": list(model.parameters())}]
    kept = set() if cone is None else set(cone.parameters)
    named = dict(model.named_parameters())
    free = [name for name, parameter in named.items() if parameter.ndim > 1 and name not in kept]
    rest = [parameter for name, parameter in named.items() if name not in free]
    return [{"params": [named[name] for name in free]}, {"params": rest, "weight_decay": 0.0}]


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, kept: float) -> None:
    """Move averaged weights towards the present ones; an average of admissible weights is admissible.

    Example:
        >>> old, new = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> _ = old.weight.data.fill_(0.0), new.weight.data.fill_(1.0)
        >>> update(old, new, 0.75)
        >>> old.weight.item()
        0.25
    """
    for mean, now in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(now, 1.0 - kept)
    for mean, now in zip(average.buffers(), model.buffers(), strict=True):
        mean.copy_(now)
