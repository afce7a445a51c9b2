"""Actions that must lie in a polyhedron: which one a budget of power is."""

from __future__ import annotations

import itertools
import math

import torch

from convexnet.domains import Box, Polyhedron
from convexnet.rl.environments import Description

MOST = 10
"""Actions of which a budget can be a polyhedron: it has a row for every pattern of signs."""


def power_budget(description: Description, limit: float) -> Polyhedron:
    """Return the actions of [-1, 1]^m with Σ |a_j| <= limit, a in the environment's own units.

    Raises:
        ValueError: a limit that is not positive, or too many actions.

    Example:
        >>> known = Description("x-v0", 1, 2, torch.tensor([-2.0, -2.0]), torch.tensor([2.0, 2.0]))
        >>> power_budget(known, 1.0).contains(torch.tensor([[0.5, 0.0], [0.5, 0.1]])).tolist()
        [True, False]
    """
    if not 0 < limit < math.inf:
        raise ValueError(f"the budget of power is {limit}; it must be a positive number")
    if description.actions > MOST:
        raise ValueError(
            f"a budget for {description.actions} actions has 2^{description.actions} rows; {MOST} actions are the most"
        )
    low, high = description.low.double(), description.high.double()
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=description.actions)), dtype=torch.float64)
    right = limit - signs @ ((low + high) / 2)
    found = Polyhedron(signs * (high - low) / 2, right, within=Box(-1.0, 1.0, shape=description.actions))
    if not bool((found.radius() > 0).all()):
        raise ValueError(f"no action of {description.name} has Σ |a| below {limit:g}, within its bounds")
    return found
