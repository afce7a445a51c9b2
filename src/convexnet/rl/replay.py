"""The ring of transitions that is learnt from, in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Transitions.

    Attributes:
        rows: where they are in the ring, (B,).
        states, actions, rewards: (B, s), (B, m) and (B,).
        after: the states that followed, (B, s).
        terminal: 1 where the environment ended there by itself, (B,); an episode that was cut off is not terminal.
        guess: actions to start the search for the best one in `after` from, (B, m).
    """

    rows: Tensor
    states: Tensor
    actions: Tensor
    rewards: Tensor
    after: Tensor
    terminal: Tensor
    guess: Tensor


class Ring:
    """The last `capacity` transitions.

    Example:
        >>> ring = Ring(2, states=1, actions=1)
        >>> for reward in (1.0, 2.0, 3.0):
        ...     one = torch.tensor([[reward]])
        ...     ring.add(one, one, one[0], one, torch.tensor([False]))
        >>> len(ring), sorted(ring.rewards.tolist())
        (2, [2.0, 3.0])
    """

    def __init__(self, capacity: int, states: int, actions: int) -> None:
        self.capacity, self.size, self.next = capacity, 0, 0
        self.states, self.after = torch.zeros(capacity, states), torch.zeros(capacity, states)
        self.actions, self.guess = torch.zeros(capacity, actions), torch.zeros(capacity, actions)
        self.rewards, self.terminal = torch.zeros(capacity), torch.zeros(capacity)

    def __len__(self) -> int:
        return self.size

    def add(self, states: Tensor, actions: Tensor, rewards: Tensor, after: Tensor, terminal: Tensor) -> None:
        """Add transitions, in place of the oldest where it is full."""
        rows = (self.next + torch.arange(len(states))) % self.capacity
        self.states[rows], self.actions[rows], self.rewards[rows] = states, actions, rewards
        self.after[rows], self.terminal[rows], self.guess[rows] = after, terminal.float(), actions
        self.next = (self.next + len(states)) % self.capacity
        self.size = min(self.capacity, self.size + len(states))

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """Return transitions drawn with equal chances."""
        rows = torch.randint(self.size, (count,), generator=generator)
        return Batch(rows, *(held[rows] for held in (
            self.states, self.actions, self.rewards, self.after, self.terminal, self.guess)))  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return what has been filled."""
        names = ("states", "actions", "rewards", "after", "terminal", "guess")
        filled = {name: getattr(self, name)[: self.size].clone() for name in names}
        return {**filled, "size": self.size, "next": self.next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the transitions of a `state_dict`."""
        self.size, self.next = state["size"], state["next"]
        for name in ("states", "actions", "rewards", "after", "terminal", "guess"):
            getattr(self, name)[: self.size] = state[name]
