"""Which constrained parameters an optimiser holds, found without looking through the model at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.constraints.sets import Interval


def tensors_held(optimizers: Iterable[torch.optim.Optimizer]) -> list[Tensor]:
    """Return what optimisers hold now, in all their groups.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> [tuple(p.shape) for p in tensors_held([torch.optim.SGD([layer.weight]), torch.optim.SGD([layer.bias])])]
        [(1, 2), (1,)]
    """
    return [p for each in optimizers for group in each.param_groups for p in group["params"]]


@dataclass
class Constrained:
    """One tensor that an optimiser holds: where the model keeps it, and where its entries must lie."""

    tensor: Tensor
    interval: Interval
    module: nn.Module
    leaf: str
    version: int | None = None  # autograd's, after the last projection

    @property
    def is_current(self) -> bool:
        """Whether the model still keeps the tensor there."""
        return getattr(self.module, self.leaf, None) is self.tensor


@dataclass
class Holding:
    """The constrained parameters that one optimiser holds.

    Groups may be added, and a model may exchange its parameters (weights are tied, or loaded with `assign=True`): both
    are noticed at the next step. A tensor that the model gave up stays in its interval while the optimiser holds it.
    """

    constrained: list[Constrained] = field(default_factory=list[Constrained])
    seen: list[Tensor] = field(default_factory=list[Tensor])

    @property
    def is_exchanged(self) -> bool:
        """Whether the model keeps another tensor where one of these was."""
        return not all(each.is_current for each in self.constrained)

    def is_current(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the optimiser holds the tensors that it held at the last look, and the model still has its part."""
        held = tensors_held([optimizer])
        same = len(held) == len(self.seen) and all(a is b for a, b in zip(held, self.seen, strict=True))
        return same and not self.is_exchanged

    def update(
        self,
        optimizer: torch.optim.Optimizer,
        intervals: Mapping[str, Interval],
        owner: Callable[[str], tuple[nn.Module, str]],
    ) -> None:
        """Find what the optimiser holds of the parameters that have these names now."""
        self.seen = tensors_held([optimizer])
        held, found = {id(p) for p in self.seen}, list[Constrained]()
        for name, interval in intervals.items():
            module, leaf = owner(name)
            tensor: Any = getattr(module, leaf)
            if id(tensor) in held:
                found.append(Constrained(tensor, interval, module, leaf))
        now = {id(each.tensor) for each in found}
        self.constrained = found + [
            each for each in self.constrained if id(each.tensor) in held and id(each.tensor) not in now
        ]
