"""Learn to control an environment, ours or a baseline, and record it: learning curves, versions, what is proved."""

from __future__ import annotations

from typing import Any

import torch

import convexnet as cx
from convexnet.lab.runs.control_course import LAST, SEEDS, Course
from convexnet.lab.runs.control_peers import Peer
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.learning import learn
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.rl import Actor, QLearning, returns

OURS = ("icnn-q", "naf")
"""Models that `QLearning` learns; the others are those of `control_peers`."""


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


def final(learner: Learnt) -> tuple[Actor, list[float]]:
    """Return who acted, and the returns of the last evaluation."""
    actor = learner.actor_of(learner.network)
    return actor, returns(actor, learner.makes, LAST, learner.seed + SEEDS)


def run(job: Job, place: Place, tick: Tick) -> Row:
    """Learn what a job asks for, and record it; with `place.network` the policy is kept, as `network.safetensors`.

    Raises:
        EnvironmentFault: the environment raises, or returns what is not a number.
        DataError: see `Course`.
    """
    if job.model not in OURS:
        return learn(Peer, job, place, tick)
    return learn(Learnt, job, place, tick, keep=lambda learner: learner.policy)
