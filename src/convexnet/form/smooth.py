"""Smooth convex functions of one variable, with their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Curve:
    """A smooth convex function of one variable and its first two derivatives (of the second, any bounded choice where
    it jumps).

    Example:
        >>> curve = softplus(1.0)
        >>> curve.value(torch.zeros(1)).item()
        0.69314...
    """

    name: str
    value: Callable[[Tensor], Tensor]
    first: Callable[[Tensor], Tensor]
    second: Callable[[Tensor], Tensor]
    turn: float = -math.inf
    """Where it stops falling."""
    short: float = 0.0
    """By how much the operator's program may fall below it."""
    steep: float = 1.0
    """b, where it is g(b a) / b for a g of this name."""
    nonneg: bool = True
    """Whether it is never negative; if not, it is not where its argument is not."""
    cones: str = "exp"
    """What a conic solver must know."""


def softplus(beta: float, limit: float = math.inf) -> Curve:
    """log(1 + exp(beta a)) / beta, which torch replaces by a where beta a is beyond a limit."""
    return Curve(
        "softplus",
        lambda a: torch.logaddexp(beta * a, torch.zeros_like(a)) / beta,
        lambda a: torch.sigmoid(beta * a),
        lambda a: beta * torch.sigmoid(beta * a) * torch.sigmoid(-beta * a),
        short=math.log1p(math.exp(-limit)) / beta,
        steep=beta,
    )


def elu(steep: float) -> Curve:
    """a for a > 0, else (exp(steep a) - 1) / steep: ELU with alpha = 1 for steep = 1, CELU with alpha = 1 / steep."""
    return Curve(
        "elu",
        lambda a: torch.where(a > 0, a, torch.expm1(steep * a.clamp(max=0)) / steep),
        lambda a: torch.exp(steep * a.clamp(max=0)),
        lambda a: torch.where(a > 0, 0.0, steep * torch.exp(steep * a.clamp(max=0))),
        steep=steep,
        nonneg=False,
    )


def square() -> Curve:
    """a²."""
    return Curve("square", torch.square, lambda a: 2 * a, lambda a: torch.full_like(a, 2.0), 0.0, cones="soc")


def exponential() -> Curve:
    """exp(a)."""
    return Curve("exp", torch.exp, torch.exp, torch.exp)
