"""Functions of mathematical physics and statistics that take more than one argument."""

from __future__ import annotations

from dataclasses import replace

import torch

from convexnet.curvature.call import Call, Refusal
from convexnet.curvature.facts import INF, Fact, as_fact
from convexnet.curvature.fields import where_any
from convexnet.curvature.rules.arithmetic import product
from convexnet.curvature.rules.pointwise import POSITIVE, Profile, apply_profile, is_outside
from convexnet.curvature.rules.powers import logarithm_fact
from convexnet.curvature.rules.products_of_powers import product_of_powers

LOG = Profile(
    concave=POSITIVE, rising=POSITIVE, nonneg=((1.0, INF),), nonpos=((0.0, 1.0),),
    note="the logarithm is concave: it is convex only after a sum of exponentials",
)  # fmt: skip
ODD = Profile(convex=POSITIVE, falling=POSITIVE, nonneg=POSITIVE, note="it is convex for positive numbers only")
EVEN = Profile(concave=POSITIVE, rising=POSITIVE, nonpos=POSITIVE, note="it is concave for positive numbers only")


def polygamma(call: Call) -> Fact:
    """The n-th derivative of the digamma function: (-1)^(n+1) times a completely monotone function of x > 0."""
    order, x = call.args[:2]
    if isinstance(order, Fact) or order < 1:
        raise Refusal("its order is not a positive number", "write the order as a number from 1, or use digamma")
    profile = ODD if order % 2 else EVEN
    return apply_profile(profile, lambda v: call.run(lambda _: v), x, ("polygamma", order))


def xlogy(call: Call) -> Fact:
    """x log(y), and 0 where x is 0: also where the logarithm is not defined, so that y must not be negative."""
    x, y = (as_fact(arg) for arg in call.args[:2])
    if y.goes_below_zero:
        raise Refusal("it is 0 where its first argument is 0, even where the second is negative", "keep y positive")
    log = logarithm_fact(1.0)(y, apply_profile(LOG, torch.log, y))
    try:
        return product(x, log, call.shape)
    except Refusal as refusal:
        raise replace(refusal, result=product_of_powers(x, log, call.shape), by=call) from None


def no_positive_number(call: Call) -> bool:
    """Whether the second argument may not be a positive number."""
    return where_any(is_outside(as_fact(call.args[1]), POSITIVE))
