"""What a step of training takes: an optimiser with the constraints attached, and the loss of a minimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.training import cones_of

Optimiser = torch.optim.Optimizer | Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def squared_error(x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean square of x − y of each sample, (B,), over the elements that are not given.

    Example:
        >>> squared_error(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), torch.tensor([[True, False]]))
        tensor([4.])
    """
    squares = (x - y).square().flatten(1)
    if mask is None:
        return squares.mean(1)
    counts = (~mask).flatten(1).to(squares)
    return (squares * counts).sum(1) / counts.sum(1).clamp(min=1)


def optimiser_of(
    f: nn.Module, margin: nn.Module, made: Optimiser | None, learning_rate: float
) -> torch.optim.Optimizer:
    """Return the optimiser of an energy, and of a margin that learns, with the constraints of f attached.

    Raises:
        TypeError: it is not an optimiser, nor a function that makes one.
        ValueError: everything is frozen, or it is an optimiser of something else.

    Example:
        >>> optimiser_of(nn.Linear(1, 1), nn.Identity(), lambda parameters: torch.optim.SGD(parameters, lr=0.1), 1.0)
        SGD (
        ...
    """
    parameters = [p for part in (f, margin) for p in part.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("nothing is left to train: every parameter is frozen")
    if made is None:
        found: Any = torch.optim.Adam(parameters, lr=learning_rate)
    else:
        found = made if isinstance(made, torch.optim.Optimizer) else made(parameters)
    if not isinstance(found, torch.optim.Optimizer):
        raise TypeError(f"optimiser is a torch.optim.Optimizer, or a function of parameters that makes one: {made!r}")
    held = {id(p) for group in found.param_groups for p in group["params"]}
    if not any(id(p) in held for p in parameters):
        raise ValueError("the optimiser holds no parameter of f that trains: make it of f.parameters()")
    for cone in cones_of(f):
        if any(id(p) in held for p in cone.model.parameters()):
            cone.attach(found)
    return found
