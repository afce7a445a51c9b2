"""Learn to control an environment, ours or a baseline, and record it: learning curves, versions, what is proved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

import convexnet as cx
from convexnet.domains import Polyhedron
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.learning import NETWORK, learn
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.rl import Actor, QLearning, Settings, describe, make, power_budget, returns, versions
from convexnet.rl.environments import Environment

TASK = "control"

OURS = ("icnn-q", "naf")
"""Models that `QLearning` learns; the others are those of `control_peers`."""


@dataclass(frozen=True)
class Control:
    """How something is learnt in an environment: the recipe of its job.

    Attributes:
        name: of the recipe.
        settings: of `QLearning`; a baseline has their steps, evaluations, discount, batch and widths, and else its own.
        budget: the largest Σ |a| that is allowed, in the environment's units; 0: no limit.
        bound: of actions that the environment does not bound; 0: it does.
        length: after so many steps an episode is cut off; 0: as the environment has it.
        hours: how long it takes on one core, about.
    """

    name: str = "icnn"
    settings: Settings = field(default_factory=Settings)
    budget: float = 0.0
    bound: float = 0.0
    length: int = 0
    hours: float = 0.3

    @property
    def epochs(self) -> int:
        """How far the bar of the job goes: it counts steps."""
        return self.settings.steps


class Course:
    """The environment of a job: how it is made, and which actions it allows.

    Raises:
        ValueError: there is no such environment, or it does not fit; the message says what to do.
        ImportError: something is not installed; the message names the extra.
    """

    def __init__(self, job: Job) -> None:
        how: Control = job.recipe  # type: ignore[assignment]
        self.name, self.bound, self.settings = job.dataset, how.bound or None, how.settings
        self.options = {"max_episode_steps": how.length} if how.length else {}
        plain = make(self.name, self.bound, **self.options)
        self.description = describe(plain)
        plain.close()
        self.domain: Polyhedron | None = power_budget(self.description, how.budget) if how.budget else None
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


class Learnt(QLearning):
    """`QLearning` of a job, with the columns of its record."""

    def __init__(self, job: Job) -> None:
        self.course = Course(job)
        super().__init__(self.course.make, self.course.settings, job.seed, self.course.domain)

    def columns(self) -> dict[str, Any]:
        """Return what the record has besides the common columns: the last evaluation, of more episodes than those on
        the way and from other seeds, and what was proved."""
        actor, earned = final(self)
        states, actions = (torch.zeros(2, n) for n in (self.policy.states, len(self.policy.get_buffer("low"))))
        proof = cx.certify(self.policy, (states, actions), wrt=1)
        total = sum(self.seconds.values()) or 1.0
        return {
            **self.course.columns(),
            "certified": proof.convex,
            "scope": proof.scope,
            "return": sum(earned) / len(earned),
            "returns": earned,
            "best_on_the_way": self.best,
            "proved_actions": actor.proved / max(1, actor.asked),
            "shares": {name: round(value / total, 4) for name, value in self.seconds.items()},
            "reward_scale": self.scale,
        }


LAST = 20
"""Episodes of the evaluation that a record's return is the mean of."""


def final(learner: Learnt) -> tuple[Actor, list[float]]:
    """Return who acted, and the returns of the last evaluation."""
    actor = Actor(learner.policy)
    return actor, returns(actor, learner.makes, LAST, learner.seed + SEEDS)


SEEDS = 1_000_000
"""What the seeds of the last evaluation are moved by."""


def run(job: Job, place: Place, tick: Tick) -> Row:
    """Learn what a job asks for, and record it; with `place.network` the policy is kept, as `network.safetensors`.

    Raises:
        EnvironmentFault: the environment raises, or returns what is not a number.
        ValueError, ImportError: see `Course`.
    """
    if job.model not in OURS:
        from convexnet.lab.runs.control_peers import Peer

        return learn(Peer, job, place, tick)
    made: list[Learnt] = []

    def begin(job: Job) -> Learnt:
        made.append(Learnt(job))
        return made[-1]

    row = learn(begin, job, place, tick)
    if place.network:
        cx.save(made[-1].policy, place.folder / NETWORK)
    return row
