"""Q-learning with a Q-function whose negative is convex in the action, on environments of Gymnasium (extra `rl`).

To read in this order: `environments`, `copies`, `replay` and `noise` (what is learnt from), `networks`, `argmin` (the
best action of many states), `limits` and `limited` (actions in a polyhedron), `policy` (the best action with a proof,
and what is saved), `learning` (the learner), `evaluate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convexnet.rl.copies import Environments
from convexnet.rl.environments import Description, EnvironmentFault, describe, make, versions
from convexnet.rl.evaluate import returns
from convexnet.rl.learning import QLearning
from convexnet.rl.limits import power_budget
from convexnet.rl.networks import NAF, negated_q
from convexnet.rl.policy import Actor, Policy
from convexnet.rl.settings import Settings

if TYPE_CHECKING:
    from convexnet.rl.limited import LimitedActions

__all__ = [
    "NAF",
    "Actor",
    "Description",
    "EnvironmentFault",
    "Environments",
    "LimitedActions",
    "Policy",
    "QLearning",
    "Settings",
    "describe",
    "make",
    "negated_q",
    "power_budget",
    "returns",
    "versions",
]


def __getattr__(name: str) -> Any:
    """Return what is imported when it is asked for: a class of Gymnasium's needs Gymnasium."""
    if name == "LimitedActions":
        from convexnet.rl.limited import LimitedActions

        return LimitedActions
    raise AttributeError(f"module 'convexnet.rl' has no attribute {name!r}")
