"""Environments of Gymnasium: which ones can be learnt, and what must be known of them."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
    take: Any = vars(mujoco)["set_mju_user_warning"]
    take(say)


def say(message: str) -> None:
    """Log a warning of MuJoCo."""
    if HARMLESS not in message:
        SAYS.warning("MuJoCo: %s", message)
