"""A learner is anything that advances: one protocol for classifiers, mixtures, boosting, energies and control.

A learner does a few seconds of work at a time and keeps everything it needs to go on in its state, where it is within
an epoch included. Whoever drives it decides about the rest: checkpoints, logs, progress bars, signals. `run` is the
plainest driver; the laboratory's resumes what was killed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch

Point = dict[str, float]
"""What was measured at one moment, by name. One of `COUNTERS`, if it is there, says which moment it was."""

COUNTERS = ("epoch", "iteration", "round", "step")
"""Names under which a point counts, from 1, how far its learner is; the first that is there does."""


def moment_of(point: Point) -> tuple[str, float] | None:
    """Return the counter of a point and its value, or None where it has none.

    Example:
        >>> moment_of({"iteration": 3.0, "inertia": 0.5}), moment_of({"inertia": 0.5})
        (('iteration', 3.0), None)
    """
    return next(((name, point[name]) for name in COUNTERS if name in point), None)


def seed_generators(seed: int) -> None:
    """Seed the global generators of torch as `torch.manual_seed` does, which is slower on a machine without an
    accelerator: it keeps the stack of the caller as text for each kind that is not there, longer than a batch may take.

    Example:
        >>> seed_generators(3)
        >>> first = torch.rand(2)
        >>> _ = torch.manual_seed(3)
        >>> torch.equal(torch.rand(2), first)
        True
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@runtime_checkable
class Learner(Protocol):
    """The protocol of a learner: what a driver calls.

    Between two calls of `advance` a learner may be stopped, and a new one of the same settings that is given its state
    goes on to the same end, bit by bit. So what it draws at random is drawn from its settings and from where it is (or
    its generators are part of the state).
    """

    @property
    def done(self) -> bool:
        """Return whether there is nothing left to do."""
        ...

    def advance(self) -> Point | None:
        """Work for a few seconds, and return what was measured, or None."""
        ...

    def state(self) -> dict[str, Any]:
        """Return all that it needs to continue: tensors, numbers, strings, and dictionaries and lists of them."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state()`."""
        ...


class Attributes:
    """The state of a learner that is all in some of its attributes: a base class that brings `state` and `restore`.

    Attributes named in `kept` are tensors, numbers, strings, and dictionaries and lists of them. Of modules, optimisers
    and whatever else has a `state_dict`, and of `torch.Generator`, the state is kept, and loaded into the object that
    is there.

    Example:
        >>> class Halving(Attributes):
        ...     kept = ("x",)
        ...     x = 1.0
        >>> first, second = Halving(), Halving()
        >>> first.x = 0.5
        >>> second.restore(first.state())
        >>> second.x
        0.5
    """

    kept: tuple[str, ...] = ()

    def state(self) -> dict[str, Any]:
        """Return copies of the attributes that are kept, by name."""
        return {name: copy.deepcopy(state_of(getattr(self, name))) for name in self.kept}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state()`.

        Raises:
            ValueError: it has other attributes than those that are kept.
        """
        if set(state) != set(self.kept):
            raise ValueError(
                f"{type(self).__name__} keeps {', '.join(self.kept) or 'nothing'}, and this state has "
                f"{', '.join(state) or 'nothing'}: it is that of another learner"
            )
        for name in self.kept:
            value, part = copy.deepcopy(state[name]), getattr(self, name)
            if hasattr(part, "load_state_dict"):
                part.load_state_dict(value)
            elif hasattr(part, "set_state"):
                part.set_state(value)
            else:
                setattr(self, name, value)


def state_of(part: Any) -> Any:
    """Return what is kept of an attribute."""
    if hasattr(part, "load_state_dict"):
        return part.state_dict()
    return part.get_state() if hasattr(part, "set_state") else part


def run(learner: Learner, tick: Callable[[Point], object] = lambda point: None) -> list[Point]:
    """Let a learner advance until it is done, and return what it measured.

    Args:
        learner: anything that advances.
        tick: called with every point as soon as it is there.

    Example:
        >>> class Halving(Attributes):
        ...     kept = ("x",)
        ...     x = 1.0
        ...     done = property(lambda self: self.x < 0.2)
        ...
        ...     def advance(self):
        ...         self.x /= 2
        ...         return {"x": self.x}
        >>> run(Halving())
        [{'x': 0.5}, {'x': 0.25}, {'x': 0.125}]
    """
    points: list[Point] = []
    while not learner.done:
        point = learner.advance()
        if point is not None:
            points.append(point)
            tick(point)
    return points
