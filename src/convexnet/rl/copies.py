"""Copies of an environment as a learner sees them: actions in [-1, 1]^m, states as vectors, faults in words.

An environment cannot be put back where it was: MuJoCo's and many others have no such function. It can be taken there
again: every episode starts from a seed that depends on the run's seed, the copy and the number of the episode, and the
actions since then are kept. Where the same seed and actions lead elsewhere, that is said, and a new episode begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convexnet.rl.environments import SAYS, Environment, EnvironmentFault, describe
from convexnet.training import derived_seed


@dataclass(frozen=True)
class Step:
    """What several environments answered: states (n, s), rewards (n,), which episodes ended in the environment's own
    terminal state, (n,), and which ended at all, (n,)."""

    states: Tensor
    rewards: Tensor
    terminated: Tensor
    ended: Tensor


class Environments:
    """Several copies of an environment, advanced together; a copy whose episode has ended begins another.

    Args:
        makes: makes one.
        count: copies.
        seed: of all their episodes.
        purpose: sets these episodes apart from others of that seed.

    Example:
        >>> from convexnet.rl import make
        >>> copies = Environments(lambda: make("Pendulum-v1"), 2, seed=0)
        >>> step = copies.step(torch.zeros(2, 1))
        >>> step.states.shape, step.rewards.shape, bool(step.ended.any())
        (torch.Size([2, 3]), torch.Size([2]), False)
    """

    def __init__(self, makes: Callable[[], Environment], count: int, seed: int, purpose: str = "learning") -> None:
        self.copies = [makes() for _ in range(count)]
        self.description = describe(self.copies[0])
        self.seed, self.purpose = seed, purpose
        self.episodes = [0] * count
        self.actions: list[list[Tensor]] = [[] for _ in range(count)]
        self.totals = [0.0] * count
        self.finished: list[float] = []
        """Returns of the episodes that have ended since somebody emptied the list."""
        self.states = torch.zeros(count, self.description.states)
        for index in range(count):
            self.begin(index)

    def begin(self, index: int) -> None:
        """Begin the next episode of a copy."""
        seed = derived_seed(self.seed, self.purpose, index, self.episodes[index]) % 2**31
        with self.fault(index):
            state, _ = self.copies[index].reset(seed=seed)
        self.states[index] = self.vector(state, index)
        self.actions[index], self.totals[index] = [], 0.0

    def step(self, actions: Tensor) -> Step:
        """Take one step with every copy.

        Args:
            actions: (n, m), in [-1, 1].

        Raises:
            EnvironmentFault: an environment raises, or returns what is not a finite number.
        """
        own = self.description.scaled(actions.detach().float())
        count = len(self.copies)
        after, rewards = torch.empty_like(self.states), torch.empty(count)
        terminated, ended = torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)
        for index in range(count):
            after[index], rewards[index], terminated[index], ended[index] = self.advance(index, own[index])
        self.states = after.clone()
        for index in ended.nonzero()[:, 0].tolist():
            self.finished.append(self.totals[index])
            self.episodes[index] += 1
            self.begin(index)
        return Step(after, rewards, terminated, ended)

    def advance(self, index: int, action: Tensor) -> tuple[Tensor, float, bool, bool]:
        """Take one step with one copy, with an action in its own units."""
        copy = self.copies[index]
        given = action.numpy().reshape(copy.action_space.shape).astype(copy.action_space.dtype)
        with self.fault(index):
            state, reward, terminated, truncated, _ = copy.step(given)
        self.actions[index].append(action.clone())
        found = self.vector(state, index)
        if not math.isfinite(float(reward)):
            raise EnvironmentFault(f"the reward of {self.where(index)} is {float(reward)}: {REMEDY}")
        self.totals[index] += float(reward)
        return found, float(reward), bool(terminated), bool(terminated or truncated)

    def vector(self, state: Any, index: int) -> Tensor:
        """An observation as a vector; what is not finite is a fault."""
        found = torch.from_numpy(np.asarray(state, dtype=np.float32).reshape(-1).copy())
        if found.shape != self.states.shape[1:] or not bool(found.isfinite().all()):
            raise EnvironmentFault(f"the observation of {self.where(index)} is {found.tolist()}: {REMEDY}")
        return found

    def where(self, index: int) -> str:
        """The place of a copy, in words."""
        name = self.description.name or type(self.copies[index].unwrapped).__name__
        return f"{name} in step {len(self.actions[index])} of episode {self.episodes[index]} (copy {index})"

    def fault(self, index: int) -> Fault:
        """Turn whatever an environment raises into a fault that says where."""
        return Fault(lambda: self.where(index))

    def close(self) -> None:
        """Close all copies."""
        for copy in self.copies:
            copy.close()

    # --- state and back ---

    def state_dict(self) -> dict[str, Any]:
        """Return where every copy is: its episode, and the actions since that began."""
        empty = torch.zeros(0, self.description.actions)
        return {
            "episodes": list(self.episodes),
            "actions": [torch.stack(taken) if taken else empty for taken in self.actions],
            "states": self.states.clone(),
            "totals": list(self.totals),
            "finished": list(self.finished),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take every copy where it was, by its seed and its actions."""
        self.episodes, self.finished = list(state["episodes"]), list(state["finished"])
        for index, taken in enumerate(state["actions"]):
            self.begin(index)
            here = self.states[index]
            for action in taken:
                here, *_ = self.advance(index, action)
            self.states[index] = here
            if not torch.equal(here, state["states"][index]):
                SAYS.warning(
                    "%s is not where it was: the same seed and actions lead elsewhere, and so a new episode begins; "
                    "what follows differs from a run that was not interrupted",
                    self.where(index),
                )
                self.episodes[index] += 1
                self.begin(index)


REMEDY = "mend the environment, or leave out what leads there; the last checkpoint is whole"


class Fault:
    """A context in which whatever is raised is an `EnvironmentFault` that says where."""

    def __init__(self, where: Callable[[], str]) -> None:
        self.where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception):
            raise EnvironmentFault(f"{self.where()} raises {type(error).__name__}: {error}. {REMEDY}") from error
