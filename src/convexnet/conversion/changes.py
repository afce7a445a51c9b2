"""The list of what a conversion did."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from convexnet.curvature.arguments import unwrap
from convexnet.memory import CHANGES, recall


@dataclass(frozen=True)
class Change:
    """One module that `convexify` replaced.

    Attributes:
        path: where, as in `model.named_modules()`.
        before, after: the modules, as they print.
        reason: why the first could not stay.

    Example:
        >>> print(Change("act", "GELU()", "ELU(alpha=1.0)", "GELU is neither convex nor concave"))
        act: GELU() -> ELU(alpha=1.0) (GELU is neither convex nor concave)
    """

    path: str
    before: str
    after: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path or 'the model'}: {self.before} -> {self.after} ({self.reason})"


def changes(model: nn.Module) -> tuple[Change, ...]:
    """Return every replacement that `convexify` made in a model, in the order of its modules.

    Example:
        >>> import torch
        >>> from convexnet import convexify
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.GELU(), nn.Linear(4, 1))
        >>> for change in changes(convexify(net, torch.zeros(1, 2))):
        ...     print(change)
        1: GELU(approximate='none') -> ELU(alpha=1.0) (an IOC network's activation is elu)
        >>> changes(net)
        ()
    """
    found: tuple[Change, ...] | None = recall(unwrap(model), CHANGES)
    return found or ()


def with_module_at(model: nn.Module, path: str, new: nn.Module) -> nn.Module:
    """The model with another module at a path; the other module itself where the path is that of the whole."""
    if not path:
        return new
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent).add_module(name, new)
    return model


def describe_module(module: nn.Module) -> str:
    """A module in one line."""
    text = str(module)
    return text if "\n" not in text else f"{type(module).__name__}(...)"
