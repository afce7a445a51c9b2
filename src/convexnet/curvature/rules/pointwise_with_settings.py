"""Profiles of the functions whose shape depends on their settings: slopes, thresholds, exponents."""

from __future__ import annotations

import math
from typing import Any

from convexnet.curvature.facts import INF
from convexnet.curvature.rules.pointwise import HALVES, LEFT, LINE, NEGATIVE, POSITIVE, RIGHT, Profile

IDENTITY = Profile(convex=LINE, concave=LINE, rising=LINE, nonneg=RIGHT, nonpos=LEFT, exact=True)


def relu() -> Profile:
    return leaky_relu(0.0)


def leaky_relu(negative_slope: float = 0.01, *_: Any) -> Profile:
    """Convex for slopes up to 1, non-decreasing for slopes from 0: both are needed after the first layer."""
    s = float(negative_slope)
    return Profile(
        convex=LINE if s <= 1 else HALVES,
        concave=LINE if s >= 1 else HALVES,
        rising=LINE if s >= 0 else RIGHT,
        falling=LEFT if s <= 0 else (),
        nonneg=LINE if s <= 0 else RIGHT,
        nonpos=LEFT if s >= 0 else ((0.0, 0.0),),
        turns=(0.0,),
        exact=s in (0.0, 1.0, -1.0),
        note="" if 0 <= s <= 1 else f"its slope on the negative side is {s:g}; convex and non-decreasing needs [0, 1]",
    )


def relu6() -> Profile:
    return hardtanh(0.0, 6.0)


def rrelu(lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *_: Any) -> Profile:
    if training:
        return Profile(note="it draws random slopes: this is rrelu in training mode")
    return leaky_relu((lower + upper) / 2)


def elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Profile:
    """scale * (x if x > 0 else alpha (e^(input_scale x) - 1)): convex iff its slope does not drop at zero."""
    a, s, k = float(alpha), float(scale), float(input_scale)
    if s <= 0 or k <= 0:
        return Profile(note=f"scale {s:g} and input scale {k:g} must be positive")
    joined = a * k  # the slope on the left of zero, over the slope on the right
    return Profile(
        convex=LINE if 0 <= joined <= 1 else (HALVES if a >= 0 else RIGHT),
        concave=RIGHT if a > 0 else (HALVES if a < 0 else LEFT + RIGHT),
        rising=LINE if a >= 0 else RIGHT,
        falling=LEFT if a <= 0 else (),
        nonneg=RIGHT if a > 0 else LINE,
        nonpos=LEFT if a >= 0 else ((0.0, 0.0),),
        turns=(0.0,),
        image=(-a if s == 1 else math.nextafter(-a * s, -INF), INF) if a >= 0 else (-INF, INF),
        note=""
        if 0 <= joined <= 1
        else f"its slope drops from {joined:g} to 1 at zero; ELU is convex for 0 <= alpha <= 1",
    )


def celu(alpha: float = 1.0) -> Profile:
    """max(0, x) + min(0, alpha (e^(x/alpha) - 1)): the slope is 1 on both sides of zero, whatever alpha > 0."""
    if alpha > 0:
        return Profile(convex=LINE, concave=RIGHT, rising=LINE, nonneg=RIGHT, nonpos=LEFT, image=(-float(alpha), INF))
    return Profile(note=f"alpha is {alpha:g}; CELU is convex for alpha > 0")


def softplus(beta: float = 1.0, threshold: float = 20.0) -> Profile:
    """log(1 + e^(beta x))/beta in real arithmetic. PyTorch replaces it by x where beta x > threshold, which is a
    downward step of log(1 + e^-threshold)/beta: 2e-9 at the default of 20, below float32 resolution; but a visible
    break of convexity for small thresholds, so those are refused."""
    if beta <= 0:
        return Profile(note=f"beta is {beta:g}; softplus is convex for beta > 0")
    drop = math.log1p(math.exp(-threshold)) / beta
    if threshold < 20 or drop > 1e-8:
        return Profile(
            image=(0.0, INF),
            nonneg=LINE,
            note=f"with threshold={threshold:g} PyTorch's softplus jumps down by {drop:.2g} at {threshold / beta:g}; "
            "leave the threshold at 20 or more (and beta at 0.25 or more)",
        )
    return Profile(convex=LINE, rising=LINE, nonneg=LINE, image=(0.0, INF))


def clamp(min: float | None = None, max: float | None = None) -> Profile:
    """min(max(x, low), high): convex below the upper limit, concave above the lower one, as clamp(6) for ReLU6."""
    low = -INF if min is None else float(min)
    high = INF if max is None else float(max)
    if low > high:
        return Profile(convex=LINE, concave=LINE, rising=LINE, falling=LINE, image=(high, high), exact=True)
    return Profile(
        convex=((-INF, high), (high, INF)),
        concave=((low, INF), (-INF, low)),
        rising=LINE,
        falling=((-INF, low), (high, INF)),
        nonneg=LINE if low >= 0 else (RIGHT if high >= 0 else ()),
        nonpos=LINE if high <= 0 else (LEFT if low <= 0 else ()),
        image=(low, high),
        exact=True,
        note="" if high == INF else f"it is flat above {high:g}, and flattening out is concave",
    )


def hardtanh(min_val: float = -1.0, max_val: float = 1.0) -> Profile:
    return clamp(min_val, max_val)


def threshold(threshold: float, value: float) -> Profile:
    """x above the threshold, else a fixed value: a maximum if the two agree, else a jump."""
    if threshold == value:
        return clamp(threshold, None)
    above = math.nextafter(threshold, INF)
    parts = ((-INF, threshold), (above, INF))
    return Profile(
        convex=parts,
        concave=parts,
        rising=LINE if value < threshold else parts,
        falling=((-INF, threshold),),
        turns=(threshold, above),
        exact=True,
        note=f"it jumps at {threshold:g} from {value:g}; a threshold is convex only when it fills with itself",
    )


def softshrink(lambd: float = 0.5) -> Profile:
    c = float(lambd)
    return Profile(
        convex=((-c, INF), (-INF, -c)), concave=((-INF, c), (c, INF)), rising=LINE, nonneg=RIGHT, nonpos=LEFT,
        falling=((-c, c),),
    )  # fmt: skip


def hardshrink(lambd: float = 0.5) -> Profile:
    c = float(lambd)
    above, below = math.nextafter(c, INF), math.nextafter(-c, -INF)
    parts = ((-INF, below), (-c, c), (above, INF))
    return Profile(
        convex=parts, concave=parts, rising=LINE, falling=((-c, c),), nonneg=RIGHT, nonpos=LEFT, exact=True,
        note=f"it jumps at {-c:g} and {c:g}",
    )  # fmt: skip


def power(exponent: float) -> Profile:
    """x^r for a number r. Odd and fractional powers are convex on x >= 0 only; negative ones have a pole at 0."""
    r = float(exponent)
    if r == 0:
        return Profile(convex=LINE, concave=LINE, rising=LINE, falling=LINE, nonneg=LINE, image=(1.0, 1.0), exact=True)
    if r == 1:
        return IDENTITY
    even, odd = r % 2 == 0, r % 2 == 1
    if r > 0 and even:
        return Profile(
            convex=LINE, rising=RIGHT, falling=LEFT, nonneg=LINE, nonpos=((0.0, 0.0),), turns=(0.0,), image=(0.0, INF)
        )
    if r > 0:
        return Profile(
            convex=RIGHT if r > 1 else (),
            concave=(LEFT if odd else ()) if r > 1 else RIGHT,
            rising=LINE if odd else RIGHT,
            nonneg=RIGHT,
            nonpos=LEFT if odd else (),
            note="" if odd or r < 1 else "fractional powers need a non-negative argument",
        )
    return Profile(
        convex=POSITIVE + (NEGATIVE if even else ()),
        concave=NEGATIVE if odd else (),
        rising=NEGATIVE if even else (),
        falling=POSITIVE + (NEGATIVE if odd else ()),
        nonneg=POSITIVE + (NEGATIVE if even else ()),
        nonpos=NEGATIVE if odd else (),
        note="it has a pole at zero; bound the argument away from it with a domain or an added constant",
    )


def gelu(*_: Any, approximate: str = "none") -> Profile:
    """x Phi(x): its second derivative phi(x)(2 - x^2) changes sign at +-sqrt 2; the tanh form a little elsewhere."""
    if approximate == "none":
        return dip(-math.sqrt(2.0), math.sqrt(2.0), -0.751791525, -0.169971208)
    return dip(-1.418506, 1.418506, -0.752461421, -0.170040751)


def dip(left: float, right: float, low: float, least: float) -> Profile:
    """The shape of GELU, SiLU and Mish: it falls to a minimum, then rises, and is convex between two inflections."""
    room = 1e-4  # the inflections above are rounded; claim a little less than is true
    return Profile(
        convex=((left + room, right - room),),
        concave=((-INF, left - room), (right + room, INF)),
        rising=((low + room, INF),),
        falling=((-INF, low - room),),
        nonneg=RIGHT,
        nonpos=LEFT,
        turns=(low,),
        image=(least - 1e-8, INF),
        note=f"it is convex only between {left:.2f} and {right:.2f}, and decreases below {low:.2f}",
    )
