"""How well a policy does: the returns of episodes without noise, from seeds of their own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from convexnet.rl.copies import Environments
from convexnet.rl.environments import Environment

Acting = Callable[[Tensor], Tensor]
"""States (B, s) -> actions (B, m) in [-1, 1]^m."""


def returns(act: Acting, makes: Callable[[], Environment], episodes: int, seed: int) -> list[float]:
    """Return what each of some episodes earns, undiscounted; all are played side by side.

    Args:
        act: chooses the actions.
        makes: makes an environment.
        episodes: how many.
        seed: decides where they begin; episodes of learning begin elsewhere.

    Raises:
        EnvironmentFault: see `Environments`.

    Example:
        >>> from convexnet.rl.environments import make
        >>> found = returns(lambda states: 0 * states[:, :1], lambda: make("Pendulum-v1"), 2, seed=0)
        >>> len(found), all(-2000 < earned < 0 for earned in found)
        (2, True)
    """
    copies = Environments(makes, episodes, seed, purpose="evaluation")
    earned = torch.zeros(episodes, dtype=torch.float64)
    playing = torch.ones(episodes, dtype=torch.bool)
    try:
        while bool(playing.any()):
            step = copies.step(act(copies.states))
            earned += torch.where(playing, step.rewards.double(), 0.0)
            playing &= ~step.ended
    finally:
        copies.close()
    return earned.tolist()
