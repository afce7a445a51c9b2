"""An environment that insists on a polyhedron of actions: a class of Gymnasium, which importing this file needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from convexnet.domains import Polyhedron
from convexnet.extras import need
from convexnet.rl.environments import Environment, describe

if TYPE_CHECKING:
    import gymnasium as gym

    Wrapper = gym.Wrapper[Any, Any, Any, Any]
else:
    Wrapper = need("gymnasium", "rl").Wrapper

ROUNDING = 1e-5
"""A distance from the polyhedron that float32 may leave."""


class LimitedActions(Wrapper):
    """An environment that takes the nearest action of a polyhedron in the place of one that lies outside.

    What stands in `info` says so: `violation` is how far the action was moved, in units in which actions are [-1, 1].

    Args:
        env: an environment with a finite Box of actions.
        domain: a part of [-1, 1]^m, such as `power_budget`'s.

    Attributes:
        asked, moved: how many actions there were, and how many lay outside.

    Example:
        >>> from convexnet.rl import make, power_budget
        >>> plain = make("Pendulum-v1")
        >>> limited = LimitedActions(plain, power_budget(describe(plain), 1.0))
        >>> _ = limited.reset(seed=0)
        >>> _, _, _, _, info = limited.step(plain.action_space.high)
        >>> info["violation"], limited.moved
        (0.5, 1)
    """

    def __init__(self, env: Environment, domain: Polyhedron) -> None:
        super().__init__(env)
        self.description, self.domain = describe(env), domain
        self.asked = self.moved = 0

    def step(self, action: Any) -> Any:
        """Take a step with the nearest action that is allowed."""
        known = self.description
        low, high = known.low.double(), known.high.double()
        given = torch.as_tensor(action, dtype=torch.float64).reshape(1, -1)
        unit = 2 * (given - low) / (high - low) - 1
        self.asked += 1
        violation = 0.0
        # a float32 action of a point on the border is off by its rounding
        if not bool(self.domain.contains(unit.float()).all()):
            nearest = self.domain.project(unit)
            violation = float((nearest - unit).norm())
            if violation > ROUNDING:
                self.moved += 1
                action = known.scaled(nearest)[0].float().numpy().reshape(self.env.action_space.shape)
        state, reward, terminated, truncated, info = self.env.step(action)
        return state, reward, terminated, truncated, {**info, "violation": violation if violation > ROUNDING else 0.0}
