"""Baselines of control: DDPG, TD3 and SAC of stable-baselines3 (extra `peers`), as a learner.

They keep no state of their own here: a run that was stopped learns again what it had learnt, from the same seed, which
takes minutes and gives the same numbers on the same machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from convexnet.extras import need
from convexnet.lab.data import DataError
from convexnet.lab.runs.control_course import LAST, SEEDS, Course
from convexnet.lab.runs.jobs import Job
from convexnet.learner import Point
from convexnet.rl import returns, versions
from convexnet.training import derived_seed

PEERS = {"ddpg": "DDPG", "td3": "TD3", "sac": "SAC"}
"""Models, and the classes of stable-baselines3."""

NOISE = 0.1
"""Standard deviation of the exploration noise of DDPG and TD3, as in the benchmarks of stable-baselines3."""


class Peer:
    """One baseline on the environment of a job: widths, batch, discount, warm-up and evaluations are those of the
    job's settings, all else the package's defaults.

    Raises:
        DataError: stable-baselines3 is not installed; the message names the extra.
    """

    def __init__(self, job: Job) -> None:
        try:
            package = need("stable_baselines3", "peers")
        except ImportError as error:
            raise DataError(str(error)) from error
        self.course, self.seed, self.best = Course(job), job.seed, -float("inf")
        own = self.settings = self.course.settings
        self.step = 0
        known = self.course.description
        more: dict[str, Any] = {}
        if job.model != "sac":
            noise = need("stable_baselines3.common.noise", "peers")
            more["action_noise"] = noise.NormalActionNoise(np.zeros(known.actions), NOISE * np.ones(known.actions))
        if job.model == "ddpg" or job.model == "td3":
            more["learning_rate"] = own.rate
        self.agent: Any = getattr(package, PEERS[job.model])(
            "MlpPolicy",
            self.course.make(),
            batch_size=own.batch,
            buffer_size=min(own.replay, own.steps),
            learning_starts=own.warmup,
            gamma=own.gamma,
            train_freq=1,
            gradient_steps=1,
            policy_kwargs={"net_arch": list(own.hidden)},
            seed=derived_seed(job.seed, job.model) % 2**31,
            device="cpu",
            **more,
        )

    @property
    def done(self) -> bool:
        """Return whether all steps have been taken."""
        return self.step >= self.settings.steps

    def advance(self) -> Point:
        """Learn up to the next evaluation, and return what that measured."""
        own = self.settings
        until = min(own.steps, (self.step // own.every + 1) * own.every)
        self.agent.learn(until - self.step, reset_num_timesteps=False, log_interval=None)
        self.step = until
        earned = returns(self.act, self.course.make, own.episodes, self.seed)
        mean = sum(earned) / len(earned)
        self.best = max(self.best, mean)
        return {"step": self.step, "return": mean, "least": min(earned), "most": max(earned)}

    def act(self, states: Tensor) -> Tensor:
        """The actions of the trained network, in [-1, 1]."""
        chosen, _ = self.agent.predict(states.numpy(), deterministic=True)
        low, high = self.course.description.low, self.course.description.high
        return 2 * (torch.as_tensor(chosen).float() - low) / (high - low) - 1

    def state(self) -> dict[str, Any]:
        """Return how far it is."""
        return {"step": self.step}

    def restore(self, state: dict[str, Any]) -> None:
        """Learn again up to where it was."""
        while self.step < state["step"]:
            self.advance()

    def columns(self) -> dict[str, Any]:
        """Return what the record has besides the common columns."""
        earned = returns(self.act, self.course.make, LAST, self.seed + SEEDS)
        return {
            **self.course.columns(),
            "simulators": versions("stable-baselines3"),
            "certified": False,
            "return": sum(earned) / len(earned),
            "returns": earned,
            "best_on_the_way": self.best,
        }
