"""Functions of mathematical physics and statistics that take more than one argument."""

from __future__ import annotations

from convexnet.curvature.call import Call, Refusal
from convexnet.curvature.facts import Fact
from convexnet.curvature.pointwise import POSITIVE, Profile, apply_profile

ODD = Profile(convex=POSITIVE, falling=POSITIVE, nonneg=POSITIVE, note="it is convex for positive numbers only")
EVEN = Profile(concave=POSITIVE, rising=POSITIVE, nonpos=POSITIVE, note="it is concave for positive numbers only")


def polygamma(call: Call) -> Fact:
    """The n-th derivative of the digamma function: (-1)^(n+1) times a completely monotone function of x > 0."""
    order, x = call.args[:2]
    if isinstance(order, Fact) or order < 1:
        raise Refusal("its order is not a positive number", "write the order as a number from 1, or use digamma")
    profile = ODD if order % 2 else EVEN
    return apply_profile(profile, lambda v: call.run(lambda _: v), x, ("polygamma", order))
