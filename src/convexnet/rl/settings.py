"""All that decides what a Q-learner learns, besides its environment and its seed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from convexnet.errors import meant
from convexnet.training import check_counts, check_rate

METHODS = ("icnn", "naf")
TARGETS = ("bundle-entropy", "cutting-planes", "exact")
ACTING = ("exact", *TARGETS[:2])


@dataclass(frozen=True)
class Settings:
    """The settings of `QLearning`; those that the ICNN paper states are its own.

    Attributes:
        steps: of the environment, over all copies.
        method: "icnn", a Q that is minimised over actions; or "naf", a quadratic one.
        targets: how the best action of the next state is found: "bundle-entropy" (a few tangents and the entropy),
            "cutting-planes" (a few tangents; over a polyhedron too), or "exact" (`Minimiser`, with a proof).
        acting: how the best action of the present state is found while learning; evaluation is always exact.
        cuts: tangents of the first two.
        weight: of the entropy, in units of scaled rewards; the paper has 1, with rewards as they are.
        double: choose the next action by the network that learns, and value it by the target network (van Hasselt et
            al. 2016).
        refresh: updates after which exact acting looks at the network again.
        hidden: widths of the hidden layers.
        copies: of the environment, side by side.
        warmup: steps with random actions before the first update.
        updates: of the network for each step of the environment.
        batch, replay: transitions in an update, and those that are remembered.
        gamma: discount.
        tau: the share of the network that the target network takes over at an update.
        rate: of Adam.
        l2: the penalty on the squares of all parameters, as Adam's `weight_decay`.
        theta, sigma: of the exploration noise, in units in which actions are [-1, 1].
        scale: what rewards are divided by; 0: the root of their mean square in the warm-up.
        every: steps between evaluations.
        episodes: of one evaluation.
    """

    steps: int = 20_000
    method: Literal["icnn", "naf"] = "icnn"
    targets: Literal["bundle-entropy", "cutting-planes", "exact"] = "bundle-entropy"
    acting: Literal["exact", "bundle-entropy", "cutting-planes"] = "cutting-planes"
    cuts: int = 5
    weight: float = 0.1
    double: bool = False
    refresh: int = 10
    hidden: tuple[int, ...] = (200, 200)
    copies: int = 1
    warmup: int = 1000
    updates: int = 1
    batch: int = 256
    replay: int = 500_000
    gamma: float = 0.99
    tau: float = 0.01
    rate: float = 1e-3
    l2: float = 1e-4
    theta: float = 0.15
    sigma: float = 0.1
    scale: float = 0.0
    every: int = 1000
    episodes: int = 10

    def __post_init__(self) -> None:
        counts = ("steps", "cuts", "refresh", "copies", "warmup", "updates", "batch", "replay", "every", "episodes")
        check_counts(**{name: getattr(self, name) for name in counts})
        for name, known in (("method", METHODS), ("targets", TARGETS), ("acting", ACTING)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, not {value!r}{meant(value, known)}")
        check_rate(self.rate, "rate")
        check_rate(self.weight, "weight")
        for name in ("l2", "theta", "sigma", "scale"):
            check_rate(getattr(self, name), name, zero=True)
        for name in ("gamma", "tau"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {value!r}")
        if not self.hidden or any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden must be positive widths, not {self.hidden!r}")
        for name in ("steps", "warmup", "every"):
            if getattr(self, name) % self.copies:
                raise ValueError(f"{name} must be a multiple of the {self.copies} copies, not {getattr(self, name)}")


NAMES = tuple(field.name for field in fields(Settings))
"""The names of all settings."""
