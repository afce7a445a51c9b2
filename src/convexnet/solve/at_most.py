"""Constraints on networks: g(y) <= level."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from convexnet.arrays import as_tensor, listed_inputs
from convexnet.curvature.arguments import unwrap
from convexnet.form.input_types import with_floats


@dataclass(frozen=True, eq=False)
class AtMost:
    """g(*given, y) <= level, for `minimise(subject_to=...)`; made by `at_most`."""

    g: nn.Module
    level: float | Tensor | Any
    given: tuple[Any, ...] | None


def at_most(
    g: nn.Module, level: float | Sequence[float] | Tensor, given: Tensor | Sequence[Any] | Any = None
) -> AtMost:
    """Constrain minimisers to g(*given, y) <= level.

    Args:
        g: returns (B,) or (B, 1), and is certified convex in y, which is its last input.
        level: a number, or one for each sample, (B,). Gradients flow to it, to `given` and to the parameters of g.
        given: the other inputs of g. None: where g takes as many inputs as the objective, `minimise` passes its own
            `given`, and y in the same place; where it takes y alone, nothing.

    Raises:
        TypeError: g is no module.

    Example:
        >>> import torch
        >>> import convexnet as cx
        >>> f, g = torch.nn.Linear(2, 1), cx.nn.FICNN(2, hidden=(4,), activation="softplus")
        >>> with torch.no_grad():
        ...     level = g(torch.zeros(1, 2)).item() + 0.1
        >>> solution = cx.minimise(f, cx.Box(-3, 3, shape=2), subject_to=[at_most(g, level)])
        >>> solution.status, bool(g(solution.x) <= level + 1e-5)
        (('converged',), True)
    """
    if not isinstance(g, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"at_most takes a module that is convex in y, not {type(g).__name__}")
    return AtMost(g, level, None if given is None else tuple(listed_inputs(given)))


@dataclass(frozen=True, eq=False)
class Constraint:
    """A constraint for a batch.

    Attributes:
        module: g.
        level: (B, 1), float64.
        takes: the numbers of the objective's inputs that it takes; or how many inputs of its own it has besides y.
        given: these.
    """

    module: nn.Module
    level: Tensor
    takes: tuple[int, ...] | int
    given: tuple[Tensor, ...] = ()


def constraint_of(item: Any, index: int, others: Sequence[Tensor], y: Tensor) -> Constraint:
    """A constraint for the batch of y (B, *shape).

    Args:
        item: an `AtMost`.
        index: its number, for errors.
        others: the inputs of the objective without y.

    Raises:
        TypeError: it is something else.
        ValueError: shapes do not fit.
    """
    name = f"subject_to[{index}]"
    if not isinstance(item, AtMost):
        raise TypeError(f"{name} must be made by convexnet.at_most(g, level), and is a {type(item).__name__}")
    module, batch = unwrap(item.g), len(y)
    level = as_tensor(item.level, f"level of {name}").to(y.device).double()
    if level.ndim > 1 or (level.ndim == 1 and len(level) not in (1, batch)) or not bool(level.isfinite().all()):
        raise ValueError(f"the level of {name} must be a finite number, or one for each of {batch} samples")
    level = level.reshape(-1, 1).expand(batch, 1)
    if item.given is None:
        count = positional(module)
        if count == 1 or not others:
            return Constraint(module, level, 0)
        if count in (None, len(others) + 1):
            return Constraint(module, level, tuple(range(len(others) + 1)))
        raise ValueError(
            f"{name} takes {count} inputs, and the objective {len(others) + 1}: give at_most(..., given=...)"
        )
    theirs = [as_tensor(part, f"given[{i}] of {name}") for i, part in enumerate(item.given)]
    for i, part in enumerate(theirs):
        if part.ndim == 0 or len(part) != batch:
            raise ValueError(f"given[{i}] of {name} has shape {tuple(part.shape)}, and the batch is {batch}")
    theirs = with_floats(module, [*theirs, y], y.dtype)[:-1]
    return Constraint(module, level, len(theirs), tuple(theirs))


def positional(module: nn.Module) -> int | None:
    """How many inputs a forward takes; None where that cannot be told."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return sum(1 for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty)


def one_number(output: Tensor) -> Tensor:
    """An output (B,) or (B, 1) as (B,), in float64.

    Raises:
        ValueError: another shape.
    """
    if output.ndim == 2 and output.shape[1] == 1:
        output = output[:, 0]
    if output.ndim != 1:
        raise ValueError(f"one number for each sample is needed, (B,) or (B, 1), not {tuple(output.shape)}")
    return output.double()
