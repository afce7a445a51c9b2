"""Powers, roots, exponentials and logarithms, and the degrees of power-convexity and power-concavity of their results.

A non-negative function f has a degree d of power-convexity if f^(1/d) is convex, and of power-concavity if f^(1/d) is
concave; f is then F^d with F convex, or concave. In the limit d = infinity f is log-convex, or log-concave.

Power-convexity (`Fact.degree`): f is convex for d >= 1; sums and maxima keep the smallest degree (Minkowski); powers
multiply degrees, so that the root of a sum of squares is found to be a norm. Log-convex functions may be multiplied.

Power-concavity (`Fact.concavity`, of either sign; 0 of a constant, which has any):

    0 < d <= 1   f is concave; so is F^d for each larger degree up to 1, and sums keep the largest (Minkowski's
                 inequality for exponents below one)
    d > 1        f is log-concave, no more
    d < 0        f is convex, and log-convex; sums and maxima keep the lowest (the harmonic mean is concave)
    products     degrees of one sign add up (a geometric mean of concave functions is concave): the product of n
                 positive numbers has degree n, its n-th root degree 1, its reciprocal -n
    ratios       F^p / G^q is convex if F >= 0 is convex, G > 0 concave and p >= q + 1, of power-convexity p - q: the
                 perspective of a power (Boyd & Vandenberghe, Convex Optimization, 3.2.6)

`Fact.exponent` is the degree of power-concavity that exp(u) has: a logarithm has it, sums add it up, and multiples of
either sign multiply it. So exp(mean(log x)) is found to be concave, and exp(-sum(log x)) to be convex.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from convexnet.curvature.facts import INF, Fact, signed_zeros
from convexnet.curvature.fields import either, elementwise, uniform, where_any
from convexnet.curvature.rules.pointwise import LINE, Profile, apply_profile
from convexnet.curvature.rules.pointwise_with_settings import power

EXP = Profile(convex=LINE, rising=LINE, nonneg=LINE, image=(0.0, INF))
ROUNDED = 4e-16
"""A degree this close to 1 is 1: exponents such as 1/49 are not numbers of float64."""


# --- degrees ---------------------------------------------------------------------------------------------------------


def widest_concavity(degrees: Iterable[float]) -> float:
    """The degree of power-concavity that functions of these degrees have all: the one farthest from zero, if the signs
    agree."""
    found = list(degrees)
    if all(d >= 0 for d in found):
        return max(found, default=0.0)
    return min(found) if all(d <= 0 for d in found) else math.nan


def concavity_of_sum(degrees: Iterable[float]) -> float:
    """The degree of power-concavity of a sum with non-negative coefficients."""
    degree = widest_concavity(degrees)
    return degree if degree <= 1 else math.nan


def concavity_of_product(degrees: Iterable[float]) -> float:
    """The degree of power-concavity of a product."""
    found = list(degrees)
    return sum(found) if all(d >= 0 for d in found) or all(d <= 0 for d in found) else math.nan


def concavity_of_exp(u: Fact) -> float:
    """The degree of power-concavity of exp(u)."""
    return 0.0 if u.constant else u.exponent


def concavity_of_multiple(degree: float, low: float, high: float) -> float:
    """The exponent of a multiple by a factor between these."""
    if low < 0 < high or math.isinf(low) or math.isinf(high) or math.isnan(degree):
        return math.nan
    return degree * (high if high > 0 else low)


def with_concavity(result: Fact, degree: float, room: float = ROUNDED) -> Fact:
    """A non-negative result of which the degree of power-concavity is known, and what follows from it."""
    nothing = uniform(False, result.shape, torch.bool)
    if degree < 0:  # a negative power of what is concave
        result = replace(result, nonconvex=nothing, degree=INF)
    elif 0 < degree <= 1 + room:
        result, degree = replace(result, nonconcave=nothing), min(degree, 1.0)
    return replace(result, concavity=math.nan if degree == -INF else degree)


# --- powers ----------------------------------------------------------------------------------------------------------


def power_fact(x: Fact, exponent: float, operator: Callable[[Tensor], Tensor]) -> Fact:
    """x^r. If z >= 0 is a d-th power of something convex, z^r is a (d r)-th power, and convex if d r >= 1."""
    result = apply_profile(power(exponent), operator, x, ("pow", exponent))
    if exponent < 0 and x.value is None:
        # 0 times an input is constant, but its zero has the input's sign, and 1/(-0) is not 1/0
        pole = elementwise(lambda lo, hi, rows: (lo <= 0) & (hi >= 0) & (rows > 0), x.shape, x.lo, x.hi, x.rows)
        zeros = signed_zeros(x)
        pole = either(pole, zeros)
        if not x.positive and where_any(pole):
            bent = (either(field, pole) for field in (result.nonconvex, result.nonconcave, result.varies))
            result = replace(result, **dict(zip(("nonconvex", "nonconcave", "varies"), bent, strict=True)))
            if where_any(zeros):  # of which row is not known
                rows = elementwise(lambda zero, rows: torch.where(zero, 3, rows), x.shape, zeros, result.rows)
                result = replace(result, rows=rows)
    degree = x.power * exponent if exponent > 0 else 0.0
    if degree >= 1 and where_any(result.nonconvex):
        result = replace(result, nonconvex=uniform(False, result.shape, torch.bool))
    if exponent > 0 and exponent % 2 == 0 and not where_any(result.nonconvex):
        degree = max(degree, exponent)
    result = result.with_degree(degree)
    if exponent > 0:
        if not x.constant:
            result = with_concavity(result, x.root * exponent, ROUNDED if x.root > 1 else 0.0)
    elif exponent < 0 and x.is_positive:
        result = result.bounded(elementwise(lambda lo: lo.clamp(min=0.0), result.shape, result.lo), result.hi)
        if not x.constant:
            result = with_concavity(result, INF if x.power == INF else math.nan)
            result = with_concavity(result, x.root * exponent) if not math.isnan(x.root) else result
            if x.power == x.root == INF:  # an exponential of what is affine
                result = replace(result, concavity=INF)
    return replace(result, positive=x.is_positive)


# --- exponentials and logarithms -------------------------------------------------------------------------------------


def exponential_fact(rate: float) -> Callable[[Fact, Fact], Fact]:
    """What is known of exp(rate u), for a positive rate: it is log-convex, and a product of powers after logarithms."""

    def after(u: Fact, result: Fact) -> Fact:
        degree = concavity_of_exp(u) * rate
        result = result.with_degree(INF)
        if not math.isnan(degree) and not u.constant:
            result = with_concavity(result, degree)
        elif not where_any(u.nonconcave):
            result = with_concavity(result, INF)
        return replace(result, positive=True)

    return after


def logarithm_fact(rate: float) -> Callable[[Fact, Fact], Fact]:
    """What is known of rate log(x): it is convex after a sum of exponentials (log-convex functions), and concave of
    log-concave ones."""

    def after(x: Fact, result: Fact) -> Fact:
        degree = x.root
        if x.power == INF:
            result = replace(result, nonconvex=uniform(False, result.shape, torch.bool))
        if degree > 0:
            result = replace(result, nonconcave=uniform(False, result.shape, torch.bool))
        return replace(result, exponent=math.nan if math.isinf(degree) else degree * rate)

    return after


def log1p_fact(x: Fact, result: Fact) -> Fact:
    """What is known of log(1 + x): with x, 1 + x is log-convex."""
    return result if x.power < INF else replace(result, nonconvex=uniform(False, result.shape, torch.bool))


def log_convex_fact(x: Fact, result: Fact) -> Fact:
    """What is known of a positive function whose logarithm is convex, and rises and falls with it."""
    return replace(result.with_degree(INF), positive=True)


def positive_fact(x: Fact, result: Fact) -> Fact:
    """What is known of a function that is never zero, where it is not negative."""
    return replace(result, positive=not result.goes_below_zero)


def log_concave_fact(x: Fact, result: Fact) -> Fact:
    """What is known of a positive, rising function whose logarithm is concave."""
    if x.constant or where_any(x.nonconcave):
        return replace(result, positive=True)
    return replace(with_concavity(result, INF), positive=True)


def falling_log_concave_fact(x: Fact, result: Fact) -> Fact:
    """What is known of a positive, falling function whose logarithm is concave."""
    if x.constant or where_any(x.nonconvex):
        return replace(result, positive=True)
    return replace(with_concavity(result, INF), positive=True)
