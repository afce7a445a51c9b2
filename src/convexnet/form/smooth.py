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
    """Where it stops falling: at infinity if it never does."""
    low: float = -math.inf
    """Where its domain begins; it is convex from there on, whatever the operator does below."""
    touch: float = -math.inf
    """Tangents touch it from here on: inside of a domain that it is steep or endless at the end of."""
    short: float = 0.0
    """By how much the operator's program may fall below it."""
    steep: float = 1.0
    """b, where it is g(b a) / b for a g of this name."""
    nonneg: float = -math.inf
    """From where on it is not negative; infinity: nothing is known."""
    exponent: float = 1.0
    cones: str = "exp"
    """What a conic solver must know."""
    negative: bool = False
    """Whether it is never positive and never rises, so that t f(x / t) falls in both."""


NO_CONE = "none"
"""That no conic solver knows a form of it."""


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
        nonneg=0.0,
    )


def square() -> Curve:
    """a²."""
    return Curve("squared", torch.square, lambda a: 2 * a, lambda a: torch.full_like(a, 2.0), 0.0, cones="soc")


def exponential() -> Curve:
    """exp(a)."""
    return Curve("exponential", torch.exp, torch.exp, torch.exp)


INSIDE = 1e-12
"""How near to the end of an open domain a tangent may touch."""


def power(p: float) -> Curve:
    """a^p for p > 1: everywhere if p is even, else for a >= 0.

    Its second derivative has no end at 0 for p < 2; there any large number is as good.
    """
    even = p % 2 == 0

    def at(a: Tensor, exponent: float) -> Tensor:
        return a**exponent if p == int(p) else a.clamp(min=0) ** exponent

    return Curve(
        "power",
        lambda a: at(a, p),
        lambda a: p * at(a, p - 1),
        lambda a: (p * (p - 1) * (at(a, p - 2) if p >= 2 else a.clamp(min=1e-8) ** (p - 2))).clamp(min=0),
        turn=0.0,
        low=-math.inf if even else 0.0,
        touch=-math.inf if even else 0.0,
        nonneg=-math.inf if even else 0.0,
        exponent=p,
        cones="soc",
    )


def inverse(p: float) -> Curve:
    """a^p for p < 0 and a > 0."""
    return Curve(
        "negative power",
        lambda a: a**p,
        lambda a: p * a ** (p - 1),
        lambda a: p * (p - 1) * a ** (p - 2),
        turn=math.inf,
        low=0.0,
        touch=INSIDE,
        nonneg=0.0,
        exponent=p,
        cones="soc",
    )


def minus_root(p: float) -> Curve:
    """-a^p for 0 < p < 1 and a >= 0."""
    return Curve(
        "root",
        lambda a: -(a.clamp(min=0) ** p),
        lambda a: -p * a ** (p - 1),
        lambda a: p * (1 - p) * a ** (p - 2),
        turn=math.inf,
        low=0.0,
        touch=INSIDE,
        nonneg=math.inf,
        exponent=p,
        cones="soc",
        negative=True,
    )


def minus_power_sum(p: float) -> Curve:
    """-(1 + a^p)^(1/p) for p < 1 and a >= 0: t f(x / t) is -(x^p + t^p)^(1/p)."""
    return Curve(
        "minus power sum",
        lambda a: -((1 + a**p) ** (1 / p)),
        lambda a: -((1 + a**-p) ** (1 / p - 1)),
        lambda a: (1 - p) * a ** (-1 - p) * (1 + a**-p) ** (1 / p - 2),
        turn=math.inf,
        low=0.0,
        touch=INSIDE,
        nonneg=math.inf,
        exponent=p,
        cones="soc",
        negative=True,
    )


def x_exp() -> Curve:
    """a exp(a) for a >= 0. It is convex from -2 on, but its cones are told of the square of what is not negative."""
    return Curve(
        "x exp",
        lambda a: a * a.exp(),
        lambda a: (1 + a) * a.exp(),
        lambda a: (2 + a).clamp(min=0) * a.exp(),
        turn=-1.0,
        low=0.0,
        touch=0.0,
        nonneg=0.0,
        cones="exp soc",
    )


def minus_log() -> Curve:
    """-log(a) for a > 0."""
    return Curve(
        "minus log",
        lambda a: -a.log(),
        lambda a: -1 / a,
        lambda a: 1 / a**2,
        turn=math.inf,
        low=0.0,
        touch=INSIDE,
        nonneg=math.inf,
    )


def entropy() -> Curve:
    """a log(a) for a >= 0, and infinity below."""
    return Curve(
        "entropy",
        lambda a: -torch.special.entr(a),
        lambda a: 1 + a.log(),
        lambda a: 1 / a,
        turn=math.exp(-1),
        low=0.0,
        touch=INSIDE,
        nonneg=math.inf,
    )


def huber() -> Curve:
    """a² / 2 for |a| <= 1, |a| - 1/2 beyond."""
    return Curve(
        "huber",
        lambda a: torch.where(a.abs() <= 1, a * a / 2, a.abs() - 0.5),
        lambda a: a.clamp(-1, 1),
        lambda a: (a.abs() <= 1).to(a.dtype),
        turn=0.0,
        cones="soc",
    )


def log_gamma() -> Curve:
    """log Γ(a) for a > 0; it has no cone."""
    return Curve(
        "log gamma",
        torch.lgamma,
        torch.digamma,
        lambda a: torch.polygamma(1, a),
        turn=1.4616321449683623,
        low=0.0,
        touch=INSIDE,
        nonneg=math.inf,
        cones=NO_CONE,
    )


def minus_log_normal() -> Curve:
    """-log Φ(a), for the distribution function Φ of the normal distribution; it has no cone."""

    def ratio(a: Tensor) -> Tensor:
        return math.sqrt(2 / math.pi) / torch.special.erfcx(a * -math.sqrt(0.5))

    return Curve(
        "minus log normal",
        lambda a: -torch.special.log_ndtr(a),
        lambda a: -ratio(a),
        lambda a: (ratio(a) * (a + ratio(a))).clamp(min=0),
        turn=math.inf,
        cones=NO_CONE,
    )
