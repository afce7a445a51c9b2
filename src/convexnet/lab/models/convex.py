"""How a recipe makes a network convex: `Convex`, the arguments of `convexify`, and what leaves BatchNorm's scales free.

Recipes hold a `Convex`; `architectures.py` and `foreign.py` follow it; the training loop asks for `without_scales`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.choices import ActivationName, InitName, MethodName
from convexnet.constraints.constrain import Kept
from convexnet.constraints.parametrised import owner_of, unparametrise
from convexnet.constraints.required_signs import derive_intervals
from convexnet.learner import seed_generators
from convexnet.memory import CONSTRAINT

EPSILON = 5.0
"""Of the method "exponentiate", in all experiments of the paper."""


@dataclass(frozen=True)
class Convex:
    """How the ordinary network becomes the convex one: the arguments of `convexify`, and two of the paper's own.

    `free_gamma` leaves BatchNorm's scales γ out of the constraint. The paper reports that its networks keep "all
    desirable properties" then; convexity is not among them, so nothing may call such a network convex. `whiten` is the
    demo's alone: the fixed first step of its convex network. `activation` takes the place of ReLU.
    """

    method: MethodName = "exponentiate"
    widen_first: float | Literal["signs"] | None = None
    init: InitName | None = None
    free_head: bool = False
    free_gamma: bool = False
    whiten: str | None = None
    activation: ActivationName = "elu"


class Design(Protocol):
    """What of a recipe decides how a network is made (`Recipe` has it)."""

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers of an MLP; empty: the model's own."""
        ...

    @property
    def dropout(self) -> float:
        """The share of the results of every hidden activation that is dropped."""
        ...

    @property
    def drop_path(self) -> float | None:
        """The share of the samples for which the last residual branch is left out; None: the model's own."""
        ...

    @property
    def published(self) -> bool:
        """Whether weights are drawn as in the published code."""
        ...

    @property
    def convex(self) -> Convex:
        """How the convex counterpart is made."""
        ...


@contextlib.contextmanager
def drawn_from(seed: int) -> Generator[None, None, None]:
    """Random numbers from `seed`; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        seed_generators(seed)
        yield


def as_new(network: nn.Module) -> nn.Module:
    """Let BatchNorm's statistics start as the papers' do, from mean 0 and variance 1, not from what `convexify` saw."""
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.reset_running_stats()
    return network


def is_scale(model: nn.Module, name: str) -> bool:
    """Whether a parameter is the γ of a BatchNorm."""
    return isinstance(owner_of(model, name)[0], nn.BatchNorm1d)


def scales(model: nn.Module, example: Tensor) -> Tensor:
    """All the γ of BatchNorm that would have to be non-negative for the model to be convex, in one vector."""
    found = [getattr(*owner_of(model, name)) for name in derive_intervals(model, example) if is_scale(model, name)]
    return torch.cat([scale.detach().flatten() for scale in found]) if found else torch.empty(0)


def without_scales(cone: cx.Cone) -> cx.Cone:
    """The same constraint without BatchNorm's γ, which the model forgets too: it need not stay convex any more."""
    model = cone.model
    freed = {name: interval for name, interval in cone.intervals.items() if is_scale(model, name)}
    unparametrise(model, freed)
    kept = {name: interval for name, interval in cone.intervals.items() if name not in freed}
    model.__dict__[CONSTRAINT] = Kept(kept, cone.method)
    return cx.Cone(model, kept, cone.method)
