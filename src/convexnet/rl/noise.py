"""What is added to the best action to explore."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class OrnsteinUhlenbeck:
    """Noise (n, m) that remembers itself: x ← x − θ x + σ ε, ε standard normal, 0 when an episode begins.

    Source: Lillicrap et al., Continuous control with deep reinforcement learning (2016), with the ICNN paper's θ and σ.

    Example:
        >>> noise = OrnsteinUhlenbeck(2, 1, theta=0.15, sigma=0.1)
        >>> noise.draw(torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1])
    """

    def __init__(self, count: int, actions: int, theta: float, sigma: float) -> None:
        self.theta, self.sigma = theta, sigma
        self.value = torch.zeros(count, actions)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return the next noise."""
        fresh = torch.randn(self.value.shape, generator=generator)
        self.value = (1 - self.theta) * self.value + self.sigma * fresh
        return self.value

    def begin(self, ended: Tensor) -> None:
        """Begin anew where episodes have ended, (n,)."""
        self.value = torch.where(ended[:, None], 0.0, self.value)

    def state_dict(self) -> dict[str, Any]:
        """Return the noise as it is."""
        return {"value": self.value.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take that of a `state_dict`."""
        self.value = state["value"].clone()
