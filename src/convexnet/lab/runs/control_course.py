"""The recipe of control, and the environment that a job asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from convexnet.domains import Polyhedron
from convexnet.lab.data import DataError
from convexnet.lab.runs.jobs import Job
from convexnet.rl import Settings, describe, make, power_budget, versions
from convexnet.rl.environments import Environment

TASK = "control"

PACE = 0.06
"""Seconds of one core for a step, about: of two actions more, of a baseline less."""

LAST = 20
"""Episodes of the evaluation that a record's return is the mean of."""


SEEDS = 1_000_000
"""What the seeds of the last evaluation are moved by."""


@dataclass(frozen=True)
class Control:
    """How something is learnt in an environment: the recipe of its job.

    Attributes:
        name: of the recipe.
        settings: of `QLearning`; a baseline has their steps, evaluations, discount, batch and widths, and else its own.
        budget: the largest Σ |a| that is allowed, in the environment's units; 0: no limit.
        bound: of actions that the environment does not bound; 0: it does.
        length: after so many steps an episode is cut off; 0: as the environment has it.
    """

    name: str = "icnn"
    settings: Settings = field(default_factory=Settings)
    budget: float = 0.0
    bound: float = 0.0
    length: int = 0

    @property
    def epochs(self) -> int:
        """How far the bar of the job goes: it counts steps."""
        return self.settings.steps

    @property
    def hours(self) -> float:
        """About how long it takes on one core, evaluations included."""
        return self.settings.steps * PACE / 3600


class Course:
    """The environment of a job: how it is made, and which actions it allows.

    Raises:
        DataError: there is no such environment, it does not fit, or something is not installed; the message says what
            to do.
    """

    def __init__(self, job: Job) -> None:
        how = cast(Control, job.recipe)
        self.name, self.bound, self.settings = job.dataset, how.bound or None, how.settings
        self.options = {"max_episode_steps": how.length} if how.length else {}
        try:
            plain = make(self.name, self.bound, **self.options)
            self.description = describe(plain)
            plain.close()
            self.domain: Polyhedron | None = power_budget(self.description, how.budget) if how.budget else None
        except (ValueError, ImportError) as error:  # which end a job of a sweep, and no sweep
            raise DataError(str(error)) from error
        self.made: list[Any] = []
        """The environments that insist on the polyhedron, which count what they move."""

    def make(self) -> Environment:
        """Make one environment."""
        plain = make(self.name, self.bound, **self.options)
        if self.domain is None:
            return plain
        from convexnet.rl import LimitedActions

        self.made.append(LimitedActions(plain, self.domain))
        return self.made[-1]

    def columns(self) -> dict[str, Any]:
        """Return what a record says of the environment and of what was asked of it."""
        asked, moved = (sum(getattr(one, name) for one in self.made) for name in ("asked", "moved"))
        return {
            "task": TASK,
            "environment": self.description.name,
            "simulators": versions(),
            "steps": self.settings.steps,
            "actions_outside": moved / asked if asked else 0.0,
        }
