"""The short list of exceptions, first part: sums, products, powers, and the larger of two."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexnet.curvature.call import Call, Refusal, Result
from convexnet.curvature.composition import Influence, compose
from convexnet.curvature.facts import INF, Fact, as_fact, known, viewed
from convexnet.curvature.fields import Shape, batched, core, elementwise, uniform, where_any
from convexnet.curvature.row import Kind
from convexnet.curvature.rules.linear import bilinear, sum_of_facts
from convexnet.curvature.rules.pairings import Product
from convexnet.curvature.rules.pointwise import apply_profile
from convexnet.curvature.rules.pointwise_with_settings import clamp
from convexnet.curvature.rules.powers import EXP, concavity_of_exp, exponential_fact, power_fact
from convexnet.curvature.rules.products_of_powers import product_of_powers
from convexnet.curvature.rules.reductions import Reduction, may_be_negative

PRODUCT = (
    "it multiplies two quantities that both depend on the input, and such a product is in general not convex in both "
    "together"
)


# --- sums and products -----------------------------------------------------------------------------------------------


def identity(call: Call) -> Fact:
    """Copies, and casts to a floating type: exact in real arithmetic. Of a value that is known the walk makes the copy
    itself, so that it has the type it is given."""
    if not call.floating and not call.x.integral:
        raise Refusal("it rounds to integers", "keep the model in floating point")
    return call.x if call.x.value is None else replace(call.x, value=None)


def dropout(call: Call) -> Fact:
    if call.arg(2, "train"):
        raise Refusal(
            "it drops elements at random: dropout in training mode, even under eval()",
            "use nn.Dropout, or pass training=self.training to the functional form",
        )
    return call.x


def add(call: Call, sign: int = 1) -> Fact:
    """a + alpha b."""
    a, b = as_fact(call.args[0]), as_fact(call.args[1])
    alpha = call.arg(2, "alpha", 1)
    if alpha != 1:
        b = product(b, as_fact(alpha), b.shape)
    return sum_of_facts([(a, 1), (b, sign)], call.shape)


def sub(call: Call) -> Fact:
    return add(call, sign=-1)


def rsub(call: Call) -> Fact:
    swapped = replace(call, args=(as_fact(call.args[1]), call.args[0], *call.args[2:]))
    if call.arg(2, "alpha", 1) != 1:
        raise Refusal("it is rsub with a factor")
    return add(swapped, sign=-1)


def neg(call: Call) -> Fact:
    return sum_of_facts([(call.x, -1)], call.shape)


def product(a: Fact, b: Fact, shape: Shape) -> Fact:
    """a * b, where the one that does not vary is the coefficient."""
    if a is b:
        return power_fact(a, 2.0, torch.square).expanded(shape)
    if b.constant and (b.value is not None or not a.constant or a.value is None):
        return bilinear(a.expanded(shape), b.expanded(shape), Product(shape), shape)
    if a.constant:
        return bilinear(b.expanded(shape), a.expanded(shape), Product(shape), shape)
    result = product_of_powers(a, b, shape)
    if not where_any(result.unknown):
        return result
    remedy = "multiply by a constant or a non-negative parameter, or add the two quantities instead"
    raise Refusal(PRODUCT, remedy)


def mul(call: Call) -> Fact:
    a, b = as_fact(call.args[0]), as_fact(call.args[1])
    try:
        return product(a, b, call.shape)
    except Refusal as refusal:
        raise replace(refusal, result=product_of_powers(a, b, call.shape), by=call) from None


def reciprocal_of(b: Fact) -> Fact:
    if b.value is not None:
        return known(1.0 / b.value.double())
    return power_fact(b, -1.0, torch.reciprocal)


def div(call: Call) -> Fact:
    if call.kwargs.get("rounding_mode") is not None:
        raise Refusal("it rounds the quotient", "divide without rounding_mode")
    a, b = as_fact(call.args[0]), as_fact(call.args[1])
    if b.constant:
        if b.value is None and not b.positive and bool(((core(b.lo) <= 0) & (core(b.hi) >= 0)).any()):
            if a.constant:
                return product(a, power_fact(b, -1.0, torch.reciprocal), call.shape)
            raise Refusal(
                "it divides by a quantity that may be zero or of either sign", "divide by a positive quantity"
            )
        result = product(a, reciprocal_of(b), call.shape)
        divisor = math.nan if b.value is None or b.value.numel() != 1 else float(b.value)
        exact = concavity_of_exp(a) / (divisor or math.nan)
        return result if math.isnan(exact) else replace(result, exponent=exact)
    if a.constant:
        return product(a, power_fact(b, -1.0, torch.reciprocal), call.shape)
    result = product_of_powers(a, power_fact(b, -1.0, torch.reciprocal), call.shape)
    if not where_any(result.unknown):
        return result
    raise Refusal(
        "it divides by a quantity that depends on the input, and so does what is divided",
        "divide by a constant; normalise with BatchNorm in eval mode rather than by statistics of the sample",
        result,
        call,
    )


def addcmul(call: Call) -> Fact:
    a, b, c = (as_fact(arg) for arg in call.args[:3])
    bc = product(b, c, call.shape)
    return sum_of_facts([(a, 1), (product(bc, as_fact(call.arg(3, "value", 1)), call.shape), 1)], call.shape)


def lerp(call: Call) -> Fact:
    """start + weight (end - start), with a weight that does not vary: (1 - weight) start + weight end."""
    start, end, weight = (as_fact(arg) for arg in call.args[:3])
    rest = sum_of_facts([(as_fact(1.0), 1), (weight, -1)], weight.shape)
    if weight.value is not None:
        rest = known(1.0 - weight.value.double())
    return sum_of_facts([(product(start, rest, call.shape), 1), (product(end, weight, call.shape), 1)], call.shape)


# --- powers ----------------------------------------------------------------------------------------------------------


def pow_(call: Call) -> Fact:
    base, exponent = call.args[0], call.args[1]
    if isinstance(exponent, Fact):
        if exponent.value is None or exponent.value.numel() != 1:
            if isinstance(base, Fact) and exponent.constant:
                raise Refusal("its exponent is not one fixed number", "use a constant exponent")
        exponent = float(exponent.value) if exponent.value is not None and exponent.value.numel() == 1 else exponent
    if isinstance(base, Fact) and not isinstance(exponent, Fact):
        return power_fact(base, float(exponent), lambda v: v**exponent)
    if isinstance(exponent, Fact) and not exponent.constant:
        return to_the_power(as_fact(base), exponent, call.shape)
    raise Refusal("its exponent depends on the input", "write a^x as torch.exp(x * log(a))")


def to_the_power(base: Fact, exponent: Fact, shape: Shape) -> Fact:
    """a^u = exp(u log a), for fixed numbers a > 0."""
    if base.value is None or not bool((base.value > 0).all()):
        raise Refusal(
            "its exponent depends on the input, and its base is not known to be a positive number",
            "write a^x as torch.exp(x * log(a))",
        )
    log = base.value.double().log()
    u = product(exponent, known(log), shape)
    room = 8 * torch.finfo(torch.float64).eps  # the logarithm is rounded, and the bounds are of its multiple
    lo = elementwise(lambda v: v - room * v.abs().nan_to_num(posinf=0.0), shape, u.lo)
    hi = elementwise(lambda v: v + room * v.abs().nan_to_num(posinf=0.0), shape, u.hi)
    u = u.bounded(lo, hi)
    return exponential_fact(1.0)(u, apply_profile(EXP, torch.exp, u))


@dataclass(frozen=True)
class Power(Kind):
    """A fixed power."""

    exponent: float

    def __call__(self, call: Call) -> Fact:
        return power_fact(call.x, self.exponent, call.on)


# --- maxima and choices ----------------------------------------------------------------------------------------------


def extremum(a: Fact, b: Fact, shape: Shape, largest: bool) -> Fact:
    """max(a, b) or min(a, b), elementwise with broadcasting."""
    a, b = a.expanded(shape), b.expanded(shape)
    everywhere = uniform(True, shape, torch.bool)
    bends = {"not_concave": everywhere} if largest else {"not_convex": everywhere}
    result = compose([Influence(f, up=lambda m: m, by_row=batched(shape)) for f in (a, b)], shape, **bends)
    pick = torch.maximum if largest else torch.minimum
    lo = elementwise(lambda u, v: pick(u.double(), v.double()), shape, a.lo, b.lo)
    hi = elementwise(lambda u, v: pick(u.double(), v.double()), shape, a.hi, b.hi)
    return result.bounded(lo, hi).with_degree(min(a.power, b.power) if largest else 0.0)


def maximum(call: Call) -> Fact:
    return extremum(as_fact(call.args[0]), as_fact(call.args[1]), call.shape, largest=True)


def minimum(call: Call) -> Fact:
    return extremum(as_fact(call.args[0]), as_fact(call.args[1]), call.shape, largest=False)


LARGEST, SMALLEST = Reduction("convex", exact=True), Reduction("concave", exact=True)


def largest(call: Call) -> Result:
    """torch.max in its three forms: of two tensors, over one dimension (with indices), over everything."""
    return maximum(call) if isinstance(call.arg(1, "other"), Fact) else LARGEST(call)


def smallest(call: Call) -> Result:
    return minimum(call) if isinstance(call.arg(1, "other"), Fact) else SMALLEST(call)


def clamp_below(call: Call) -> Fact:
    low, high = call.arg(1, "min"), call.arg(2, "max")
    if not isinstance(low, Fact) and not isinstance(high, Fact):
        return apply_profile(clamp(low, high), call.on, call.x)
    result = call.x
    if low is not None:
        result = extremum(result, as_fact(low), call.shape, largest=True)
    return result if high is None else extremum(result, as_fact(high), call.shape, largest=False)


def clamp_above(call: Call) -> Fact:
    high = call.arg(1, "max")
    if isinstance(high, Fact):
        return extremum(call.x, high, call.shape, largest=False)
    return apply_profile(clamp(None, high), call.on, call.x)


def prelu(call: Call) -> Fact:
    """max(x, 0) + a min(x, 0) with a slope per channel: convex where a <= 1, non-decreasing where a >= 0."""
    x, slope = call.args[0], call.args[1]
    if not slope.constant:
        raise Refusal(PRODUCT, "let the slope not depend on the input")
    if len(slope.shape) == len(x.shape):
        a = slope.expanded(x.shape)
    elif slope.shape.numel() == 1:
        a = viewed(slope, lambda f: f.reshape([1] * len(x.shape)).expand(x.shape))
    else:
        tail = [1] * (len(x.shape) - 2)
        a = viewed(slope, lambda f: f.reshape(1, -1, *tail).expand(x.shape))
    crosses = elementwise(lambda lo, hi: (lo < 0) & (hi > 0), x.shape, x.lo, x.hi)
    left = may_be_negative(x)
    rises = elementwise(lambda hi, n, ahi: (hi > 0) | (n & (ahi > 0)), x.shape, x.hi, left, a.hi)
    falls = elementwise(lambda n, alo: n & (alo < 0), x.shape, left, a.lo)
    result = compose(
        [
            Influence(
                x,
                up=lambda m: elementwise(torch.logical_and, x.shape, m, rises),
                down=lambda m: elementwise(torch.logical_and, x.shape, m, falls),
                by_row=batched(x.shape),
            ),
            Influence(a, up=lambda m: m),  # constant; but it may come from a row of another input
        ],
        x.shape,
        not_concave=elementwise(lambda c, alo: c & (alo < 1), x.shape, crosses, a.lo),
        not_convex=elementwise(lambda c, ahi: c & (ahi > 1), x.shape, crosses, a.hi),
    )

    def image(lo: Tensor, hi: Tensor, alo: Tensor, ahi: Tensor) -> Tensor:
        ends = [
            v.clamp(min=0) + torch.where(v < 0, v * s, 0.0).nan_to_num(nan=0.0, posinf=INF, neginf=-INF)
            for v in torch.broadcast_tensors(lo.double(), hi.double(), lo.double().clamp(max=0.0))
            for s in (alo.double(), ahi.double())
        ]
        ends = torch.broadcast_tensors(*ends, torch.where((lo < 0) & (hi > 0), 0.0, ends[0]))
        stack = torch.stack(ends)
        low, high = stack.amin(0), stack.amax(0)
        return torch.stack(
            [low - 1e-15 * low.abs().nan_to_num(posinf=0.0), high + 1e-15 * high.abs().nan_to_num(posinf=0.0)]
        )

    both = image(*(core(f) for f in (x.lo, x.hi, a.lo, a.hi)))
    return result.bounded(both[0].expand(x.shape), both[1].expand(x.shape))


def log_softmax(call: Call) -> Fact:
    """x_i - logsumexp(x): concave, rising in x_i and falling in the others; so affine arguments only."""
    x, dim = call.x, int(call.arg(1, "dim"))
    everywhere = uniform(True, call.shape, torch.bool)

    def reach(mask: Tensor) -> Tensor:
        return core(mask).any(dim, keepdim=True).expand(tuple(call.shape))

    result = compose([Influence(x, up=reach, down=reach)], call.shape, not_convex=everywhere)
    return result.bounded(result.lo, uniform(0.0, call.shape, torch.float64))
