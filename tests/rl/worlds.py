"""Small environments whose best actions, ends and faults are known."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

Answer = tuple[Any, float, bool, bool, dict[str, Any]]


class World(gym.Env[Any, Any]):
    """A state in the plane that stays where it is, actions in [-2, 2], a reward of 1, and no end."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space: Any = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)

    def __init__(self) -> None:
        self.state, self.steps = np.zeros(2), 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.steps = self.np_random.uniform(-1, 1, 2), 0
        return self.state.copy(), {}

    def step(self, action: Any) -> Answer:
        self.steps += 1
        return self.state.copy(), 1.0, False, False, {}


class Ending(World):
    """Every episode has one step, after which it ends by itself, or is cut off."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def step(self, action: Any) -> Answer:
        state, reward, *_ = super().step(action)
        return state, reward, self.terminal, not self.terminal, {}


class Quadratic(World):
    """Linear dynamics s ← 0.9 s + 0.2 (a, −a) and the cost |s|² + 0.3 a²: the best action is linear in s (Riccati).

    Episodes are cut off after ten steps.
    """

    A = 0.9 * np.eye(2)
    B = np.array([[0.2], [-0.2]])
    R = 0.3

    def step(self, action: Any) -> Answer:
        a = np.asarray(action, dtype=float)
        cost = float(self.state @ self.state + self.R * a @ a)
        self.state = self.A @ self.state + self.B @ a
        self.steps += 1
        return self.state.copy(), -cost, False, self.steps >= 10, {}

    def gain(self, gamma: float) -> np.ndarray:
        """K of the best action a = −K s, by value iteration."""
        P = np.eye(2)
        for _ in range(500):
            K = np.linalg.solve(self.R + gamma * self.B.T @ P @ self.B, gamma * self.B.T @ P @ self.A)
            P = np.eye(2) + gamma * self.A.T @ P @ self.A - gamma * self.A.T @ P @ self.B @ K
        return K


class Faulty(World):
    """What goes wrong in the third step."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def step(self, action: Any) -> Answer:
        state, reward, *_ = super().step(action)
        if self.steps == 3:
            if self.what == "raises":
                raise RuntimeError("the arm fell off")
            if self.what == "observation":
                state[1] = np.nan
            if self.what == "shape":
                state = state[:1]
            if self.what == "reward":
                reward = float("inf")
        return state, reward, False, False, {}


class Forgetful(World):
    """Draws from no seed, so that nothing leads there again."""

    def step(self, action: Any) -> Answer:
        self.state = np.random.default_rng().uniform(-1, 1, 2)
        return super().step(action)


class Endless(World):
    """Actions without bounds."""

    action_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
