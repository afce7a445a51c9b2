"""Environments of Gymnasium as a learner sees them: actions in [-1, 1]^m, states as vectors, faults in words.

An environment cannot be put back where it was: MuJoCo's and many others have no such function. It can be taken there
again: every episode starts from a seed that depends on the run's seed, the copy and the number of the episode, and the
actions since then are kept. Where the same seed and actions lead elsewhere, that is said, and a new episode begins.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convexnet.ensembles.training import derived_seed
from convexnet.errors import ConvexNetError
from convexnet.extras import need

Environment = Any
"""An environment of Gymnasium."""

SAYS = logging.getLogger("convexnet.rl")

HARMLESS = "is deprecated"
"""In what MuJoCo says of the models that Gymnasium brings: nothing that a user can change."""


class EnvironmentFault(ConvexNetError):
    """The error for an environment that raises, or returns what is not a finite number; it names the step.

    Example:
        >>> raise EnvironmentFault("the reward of Pendulum-v1 is nan")
        Traceback (most recent call last):
        ...
        convexnet.rl.environments.EnvironmentFault: the reward of Pendulum-v1 is nan
    """


@dataclass(frozen=True)
class Description:
    """What a learner must know of an environment.

    Attributes:
        name: its id, with its version.
        states, actions: lengths of both vectors.
        low, high: bounds of the actions, (m,), in the environment's own units.
    """

    name: str
    states: int
    actions: int
    low: Tensor
    high: Tensor

    def scaled(self, actions: Tensor) -> Tensor:
        """Return actions (..., m) of the environment for those in [-1, 1]^m.

        Example:
            >>> Description("x-v0", 1, 1, torch.tensor([0.0]), torch.tensor([4.0])).scaled(torch.tensor([[0.5]]))
            tensor([[3.]])
        """
        low, high = self.low.to(actions), self.high.to(actions)
        return torch.minimum(torch.maximum(low + (actions + 1) / 2 * (high - low), low), high)


def make(name: str, bound: float | None = None, **options: Any) -> Environment:
    """Return an environment whose action space is a finite box.

    Args:
        name: its id, such as "Pendulum-v1"; MODULE:ID imports the module that registers it first.
        bound: of the size of actions that the environment does not bound itself.
        options: of `gymnasium.make`.

    Raises:
        ValueError: there is no such environment, or its spaces are not ours; the message says what to do.
        ImportError: Gymnasium or the simulator is missing, with the extra that brings it.

    Example:
        >>> make("CartPole-v1")
        Traceback (most recent call last):
        ValueError: CartPole-v1 takes Discrete(2) actions, and a Q that is minimised over actions needs a Box: ...
    """
    gym = need("gymnasium", "rl")
    quieten()
    try:
        made = gym.make(name, **{"disable_env_checker": True, **options})
    except (gym.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise ImportError(f"{name} needs more than is installed: pip install 'convexnet[rl]' ({error})") from error
    except gym.error.Error as error:
        raise ValueError(f"Gymnasium has no environment {name!r}: {error}") from error
    try:
        check_spaces(name, made, bound)
    except ValueError:
        made.close()
        raise
    if bound is not None:
        space = made.action_space
        low, high = np.maximum(space.low, -bound), np.minimum(space.high, bound)
        made = gym.wrappers.TransformAction(made, lambda action: action, gym.spaces.Box(low, high, dtype=space.dtype))
    return made


def check_spaces(name: str, environment: Environment, bound: float | None = None) -> None:
    """Refuse spaces that are not boxes, and actions without bounds.

    Raises:
        ValueError: see `make`.
    """
    spaces = need("gymnasium", "rl").spaces
    actions, states = environment.action_space, environment.observation_space
    if not isinstance(actions, spaces.Box):
        raise ValueError(
            f"{name} takes {actions} actions, and a Q that is minimised over actions needs a Box: choose an "
            "environment with real actions, such as Pendulum-v1"
        )
    if not isinstance(states, spaces.Box):
        raise ValueError(
            f"{name} shows {type(states).__name__} observations, and this learner reads vectors: register it with "
            "gymnasium.wrappers.FlattenObservation around it"
        )
    if bound is not None and not 0 < bound < math.inf:
        raise ValueError(f"the bound of actions is {bound}; it must be a positive number")
    open_ends = ~(np.isfinite(actions.low) & np.isfinite(actions.high))
    if bound is None and open_ends.any():
        raise ValueError(
            f"{name} takes actions without bounds (element {int(open_ends.reshape(-1).argmax())} of {actions}), and "
            "they are searched in a box: give bound=1.0 (--bound 1), in the environment's units, or wrap it in "
            "gymnasium.wrappers.TransformAction"
        )


def describe(environment: Environment) -> Description:
    """Return what a learner must know of an environment.

    Example:
        >>> made = make("Pendulum-v1")
        >>> found = describe(made)
        >>> found.name, found.states, found.actions, found.low, found.high
        ('Pendulum-v1', 3, 1, tensor([-2.]), tensor([2.]))
    """
    space = environment.action_space
    low, high = (torch.from_numpy(np.array(end, dtype=np.float32).reshape(-1)) for end in (space.low, space.high))
    name = "" if environment.spec is None else environment.spec.id
    return Description(name, math.prod(environment.observation_space.shape), len(low), low, high)


def versions(*more: str) -> dict[str, str]:
    """Return the versions of what simulates, and of more packages, of those that are installed.

    Example:
        >>> sorted(versions())[0]
        'gymnasium'
    """
    found: dict[str, str] = {}
    for package in ("gymnasium", "mujoco", *more):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def quieten() -> None:
    """Let MuJoCo say its warnings to `logging`: otherwise it writes a file into the folder that the user is in."""
    try:
        import mujoco
    except ImportError:
        return
    mujoco.set_mju_user_warning(say)


def say(message: str) -> None:
    """Log a warning of MuJoCo."""
    if HARMLESS not in message:
        SAYS.warning("MuJoCo: %s", message)


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
