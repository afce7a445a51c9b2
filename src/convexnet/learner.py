"""A learner is anything that advances: one protocol for classifiers, mixtures, boosting, energies and control.

A learner does a few seconds of work at a time and keeps everything it needs to go on in its state, where it is within
an epoch included. Whoever drives it decides about the rest: checkpoints, logs, progress bars, signals. `run` is the
plainest driver; the laboratory's resumes what was killed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

Point = dict[str, float]
"""What was measured at one moment, by name: an epoch, an iteration, an evaluation."""


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


def run(learner: Learner, tick: Callable[[Point], object] = lambda point: None) -> list[Point]:
    """Let a learner advance until it is done, and return what it measured.

    Args:
        learner: anything that advances.
        tick: called with every point as soon as it is there.

    Example:
        >>> class Halving:
        ...     x = 1.0
        ...     done = property(lambda self: self.x < 0.2)
        ...
        ...     def advance(self):
        ...         self.x /= 2
        ...         return {"x": self.x}
        ...
        ...     def state(self):
        ...         return {"x": self.x}
        ...
        ...     def restore(self, state):
        ...         self.x = state["x"]
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
