"""What an activation does to standard normal variables: four numbers, by quadrature.

Signal propagation speaks of pre-activations that are jointly normal, and needs the mean, the power, the variance and
the covariance of what an activation makes of them. They are computed here for any activation, never looked up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from convexnet.choices import ActivationName
from convexnet.errors import meant

Activation = ActivationName | Callable[[Tensor], Tensor]

ACTIVATIONS: dict[ActivationName, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "elu": F.elu, "celu": F.celu, "softplus": F.softplus, "leaky_relu": F.leaky_relu,
}  # fmt: skip

REACH = 12
"""Beyond 12 standard deviations the normal density is below 1e-31, and below 1e-15 times any Hermite polynomial."""

MOST_TERMS = 400


class Moments(NamedTuple):
    """The moments E φ(x), E φ(x)², Var φ(x) and Cov(φ(x), φ(y)) for standard normal x and y of a given correlation."""

    mean: float
    second: float
    variance: float
    covariance: float


def moments(activation: Activation, correlation: float = 0.5) -> Moments:
    """Return the moments of an activation of standard normal variables, by quadrature.

    One-dimensional integrals are composite Gauss-Legendre sums, whose panels break at every multiple of 1/32, so that a
    kink there (at 0 above all) costs no accuracy. The covariance is Mehler's series Σ_k a_k² ρ^k in the coefficients
    a_k = E φ(x) h_k(x) of the normalised Hermite polynomials: a double integral from single ones, kinks or not.

    Args:
        activation: "relu", "elu", "celu", "softplus", "leaky_relu" with PyTorch's defaults, or an elementwise function
            of a float64 tensor.
        correlation: ρ between x and y, in (0, 1).

    Returns:
        mean, second moment, variance, covariance; errors below 1e-9 for the named activations and ρ up to 0.9.

    Raises:
        ValueError: unknown name, ρ outside (0, 1), or values that are not finite or all the same.

    Source: Mehler's formula; Hoedt & Klambauer, Principled Weight Initialisation for Input-Convex Neural Networks
        (NeurIPS 2023), do this in closed form for ReLU.

    Example:
        >>> constants = moments("elu")
        >>> print(*(f"{value:.4f}" for value in constants))
        0.1605 0.6450 0.6192 0.2990
    """
    if not 0 < correlation < 1:
        raise ValueError(
            f"correlation must lie strictly between 0 and 1, not {correlation}: non-negative weights cannot reach 0, "
            "and at 1 all units are the same"
        )
    x, density = nodes()
    y = evaluated(activation, x)
    mean, second = float(density @ y), float(density @ y.square())
    y = y - mean
    variance = float(density @ y.square())
    if not (math.isfinite(second) and variance > 0):
        raise ValueError(f"the activation {activation!r} is constant or not finite on {[-REACH, REACH]}: use another")
    covariance, rest = 0.0, variance
    before, polynomial = torch.zeros_like(x), torch.ones_like(x)  # h_{k-1}, h_k
    for k in range(MOST_TERMS):
        before, polynomial = polynomial, (x * polynomial - math.sqrt(k) * before) / math.sqrt(k + 1)
        square = float((density * polynomial) @ y) ** 2
        covariance += square * correlation ** (k + 1)
        rest -= square  # by Parseval, what the terms still to come can add up to
        if rest * correlation ** (k + 2) <= 1e-13 * variance:
            break
    return Moments(mean, second, variance, covariance)


def nodes() -> tuple[Tensor, Tensor]:
    """Points in [-REACH, REACH] and weights for E f(x), x standard normal: 32 panels a unit, 8 points each."""
    points, weights = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(8))
    left = torch.arange(-REACH * 32, REACH * 32, dtype=torch.float64)[:, None] / 32
    x = (left + (points + 1) / 64).flatten()
    return x, weights.repeat(len(left)) / 64 * torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def evaluated(activation: Activation, x: Tensor) -> Tensor:
    """φ(x) in float64; the activation by its name or itself."""
    if not isinstance(activation, str):
        function = activation
    elif activation in ACTIVATIONS:
        function = ACTIVATIONS[activation]
    else:
        raise ValueError(
            f"unknown activation {activation!r}: the names are {', '.join(ACTIVATIONS)}"
            f"{meant(activation, ACTIVATIONS)}; anything else can be given as a function of a tensor"
        )
    with torch.no_grad():
        y = function(x.clone())
    if y.shape != x.shape:
        raise ValueError(f"the activation returns shape {tuple(y.shape)} for {tuple(x.shape)}: it must be elementwise")
    return y.detach().double()
