"""Q-learning with a Q-function whose negative is convex in the action, on environments of Gymnasium (extra `rl`).

To read in this order: `environments`, `replay` and `noise` (what is learnt from), `networks`, `argmin` (the best action
of many states), `policy` (the best action with a proof, and what is saved), `learning` (the learner), `evaluate`.
"""

from convexnet.rl.environments import Description, EnvironmentFault, Environments, describe, make, versions
from convexnet.rl.evaluate import returns
from convexnet.rl.learning import QLearning
from convexnet.rl.networks import NAF, negated_q
from convexnet.rl.policy import Actor, Policy
from convexnet.rl.settings import Settings

__all__ = [
    "NAF",
    "Actor",
    "Description",
    "EnvironmentFault",
    "Environments",
    "Policy",
    "QLearning",
    "Settings",
    "describe",
    "make",
    "negated_q",
    "returns",
    "versions",
]
