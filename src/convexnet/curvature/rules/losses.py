"""Losses in a forward, each written with the rules of its parts; and functions of two or more whole tensors.

Sources: the formulas of PyTorch's documentation. A loss of logits is convex in them where its weights are non-negative:
cross-entropy and its kin are log-sum-exps less affine functions. Labels that are not known (another input) may be any.

Long because it is a list with its rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from convexnet.curvature.call import Call, Refusal, Result
from convexnet.curvature.composition import Influence, compose
from convexnet.curvature.facts import INF, Fact, as_fact, constant, viewed
from convexnet.curvature.fields import Shape, batched, core, elementwise, uniform, where_any
from convexnet.curvature.rules.arithmetic import div, extremum, product
from convexnet.curvature.rules.linear import EPS, sum_of_facts
from convexnet.curvature.rules.opaque_operators import Opaque
from convexnet.curvature.rules.pointwise import (
    LEFT,
    LINE,
    NEGATIVE,
    POSITIVE,
    RIGHT,
    Profile,
    apply_profile,
    is_outside,
)
from convexnet.curvature.rules.pointwise_with_settings import clamp, softplus
from convexnet.curvature.rules.powers import power_fact
from convexnet.curvature.rules.reductions import Reduction, dims_along
from convexnet.curvature.rules.scans_and_scatters import must_be_finite
from convexnet.curvature.rules.shapes import as_index, choice, concatenate

EVEN = Profile(
    convex=LINE, rising=RIGHT, falling=LEFT, nonneg=LINE, nonpos=((0.0, 0.0),), turns=(0.0,), image=(0.0, INF)
)
EXP = Profile(convex=LINE, rising=LINE, nonneg=LINE, image=(0.0, INF))
RELU = clamp(0.0, None)
SIGNED = Refusal(
    "its weights or target probabilities are not known to be non-negative",
    "keep them non-negative whatever they come from (softmax, softplus, one-hot)",
)
MOVING = Refusal(
    "its target depends on the input too, and it is not convex in both together",
    "let only one of the two depend on the input",
)
NONE, MEAN, SUM = 0, 1, 2


def sub_call(call: Call, operator: Callable[..., Any], name: str, shape: Shape, *args: Any, **kwargs: Any) -> Call:
    """A call of another operator, whose one result is a real tensor."""
    dtype = call.dtypes[0] if call.dtypes else None
    types = (dtype,) if dtype is not None else ()
    return replace(call, operator=operator, name=name, args=args, kwargs=kwargs, shapes=(tuple(shape),), dtypes=types)


def reduce_loss(call: Call, fact: Fact, how: int) -> Fact:
    """The elements themselves, their average, or their sum: over everything, the batch with it."""
    if how == NONE:
        return fact
    operator = torch.ops.aten.mean.default if how == MEAN else torch.ops.aten.sum.default
    result = Reduction("affine")(sub_call(call, operator, "mean" if how == MEAN else "sum", (), fact))
    assert isinstance(result, Fact)
    return result


def require_constant(call: Call, name: str, fact: Fact | None) -> None:
    """Refuse an argument that depends on the input, where the loss is convex without it only."""
    if fact is not None and not fact.constant:
        raise MOVING if name == "target" else Refusal(f"its {name} depends on the input", "let it not depend on it")


@dataclass(frozen=True)
class Loss:
    """A loss: `of(call)` is the fact of its elements, and argument number `reduction` says what is made of them."""

    of: Callable[[Call], Fact]
    reduction: int

    def __call__(self, call: Call) -> Result:
        must_be_finite(call)
        how = int(call.arg(self.reduction, "reduction", MEAN))
        return reduce_loss(call, self.of(call), how)


def broadcast_shape_of(*facts: Fact) -> tuple[int, ...]:
    return tuple(torch.broadcast_shapes(*(fact.shape for fact in facts)))


def difference(call: Call) -> Fact:
    a, b = call.args[0], call.args[1]
    return sum_of_facts([(a, 1), (b, -1)], broadcast_shape_of(a, b))


# --- of real targets -------------------------------------------------------------------------------------------------


def squared_error(call: Call) -> Fact:
    return power_fact(difference(call), 2.0, torch.square)


def absolute_error(call: Call) -> Fact:
    return apply_profile(replace(EVEN, exact=True), torch.abs, difference(call))


def huber(call: Call) -> Fact:
    delta = float(call.arg(3, "delta", 1.0))
    operator = torch.ops.aten.huber_loss.default
    return apply_profile(EVEN, lambda d: operator(d, torch.zeros_like(d), NONE, delta), difference(call))


def smooth_l1(call: Call) -> Fact:
    beta = float(call.arg(3, "beta", 1.0))
    operator = torch.ops.aten.smooth_l1_loss.default
    return apply_profile(EVEN, lambda d: operator(d, torch.zeros_like(d), NONE, beta), difference(call))


def poisson(call: Call) -> Fact:
    """exp(x) - t x, or x - t log(x + eps); Stirling's terms are constants."""
    x, t = call.args[:2]
    require_constant(call, "target", t)
    shape = broadcast_shape_of(x, t)
    if call.arg(2, "log_input"):
        terms = [(apply_profile(EXP, torch.exp, x), 1), (product(t, x, shape), -1)]
    else:
        if t.goes_below_zero:
            raise Refusal("its counts are not known to be non-negative", "use counts that are at least zero")
        inside = sum_of_facts([(x, 1), (as_fact(float(call.arg(4, "eps"))), 1)], x.shape)
        if inside.goes_below_zero or where_any(elementwise(lambda v: v <= 0, inside.shape, inside.lo)):
            raise Refusal("its argument may be negative, where it has no logarithm", "give it a positive rate")
        log = Profile(concave=LINE, rising=LINE)
        terms = [(x, 1), (product(t, apply_profile(log, torch.log, inside), shape), -1)]
    rest = constant(shape, t.rows.expand(shape)) if call.arg(3, "full") else None
    return sum_of_facts([*terms, *([(rest, 1)] if rest is not None else [])], shape)


def kl_divergence(call: Call) -> Fact:
    """t (log t - x), or e^t (t - x): affine in the logarithms x."""
    x, t = call.args[:2]
    require_constant(call, "target", t)
    shape = broadcast_shape_of(x, t)
    factor = apply_profile(EXP, torch.exp, t) if call.arg(3, "log_target", False) else t
    return sum_of_facts([(constant(shape, t.rows.expand(shape)), 1), (product(x, factor, shape), -1)], shape)


# --- of targets that are signs ---------------------------------------------------------------------------------------


def soft_margin(call: Call) -> Fact:
    """log(1 + exp(-y x))."""
    x, y = call.args[:2]
    require_constant(call, "target", y)  # PyTorch has no derivative with respect to it
    shape = broadcast_shape_of(x, y)
    turned = sum_of_facts([(product(x, y, shape), -1)], shape)
    return apply_profile(softplus(), torch.nn.functional.softplus, turned)


def hinge_embedding(call: Call) -> Fact:
    """x where y is 1, relu(margin - x) where it is -1; the sum of both where it is neither."""
    x, y, margin = call.args[0], call.args[1], float(call.arg(2, "margin", 1.0))
    shape = broadcast_shape_of(x, y)
    marks = [replace(y, value=mask(as_index(y))) for mask in (lambda v: v != 1, lambda v: v != -1)]
    x = x.expanded(shape)
    hinge = apply_profile(RELU, torch.relu, sum_of_facts([(as_fact(margin), 1), (x, -1)], shape))
    nothing = as_fact(0.0)
    return sum_of_facts(
        [(choice(mark, part, nothing, shape), 1) for mark, part in zip(marks, (hinge, x), strict=True)], shape
    )


def margin_ranking(call: Call) -> Fact:
    """relu(margin - y (a - b))."""
    a, b, y = call.args[:3]
    shape = broadcast_shape_of(a, b, y)
    require_constant(call, "target", y)
    apart = product(sum_of_facts([(a, 1), (b, -1)], broadcast_shape_of(a, b)), y, shape)
    return apply_profile(
        RELU, torch.relu, sum_of_facts([(as_fact(float(call.arg(3, "margin", 0.0))), 1), (apart, -1)], shape)
    )


def binary_cross_entropy(call: Call) -> Fact:
    """w ((1 - t) x + (1 - t + p t) log(1 + exp(-x))): convex for weights and targets within [0, 1].

    Its slope lies between -p t and 1 - t.
    """
    x, t = call.args[:2]
    weight, positive = call.fact(2, "weight"), call.fact(3, "pos_weight")
    for name, fact in (("target", t), ("weight", weight), ("pos_weight", positive)):
        require_constant(call, name, fact)
    scales = [fact for fact in (weight, positive) if fact is not None]
    shape = broadcast_shape_of(x, t, *scales)
    inside = not t.goes_below_zero and not bool((core(t.hi) > 1).any())
    if not inside or any(fact.goes_below_zero for fact in scales):
        raise Refusal(
            "its targets are not known to lie in [0, 1], or its weights may be negative",
            "use probabilities as targets, and non-negative weights",
        )
    rises = elementwise(lambda hi: hi > 0, t.shape, t.hi)
    falls = elementwise(lambda lo: lo < 1, t.shape, t.lo)

    def gate(mask: Tensor) -> Callable[[Tensor], Tensor]:
        open_ = mask.expand(shape)
        return lambda m: elementwise(torch.logical_and, shape, m, open_)

    parts = [Influence(x.expanded(shape), gate(falls), gate(rises), by_row=batched(shape))]
    parts += [Influence(fact.expanded(shape), up=lambda m: m) for fact in (t, *scales)]
    result = compose(parts, shape, not_concave=uniform(True, shape, torch.bool))
    return result.bounded(uniform(0.0, shape, torch.float64), result.hi)


# --- of labels -------------------------------------------------------------------------------------------------------


def classes_of(x: Fact) -> int:
    return 1 if len(x.shape) > 1 else 0


def spread_over_classes(x: Fact, shape: Shape, dim: int) -> Callable[[Tensor], Tensor]:
    """From logits to the losses of their samples: any class reaches its own."""

    def reach(mask: Tensor) -> Tensor:
        inner = core(mask)
        inner = inner.any(dim) if inner.ndim else inner
        return inner.expand(tuple(shape))

    return reach


def logits_of_labels(x: Fact, labels: Fact, dim: int) -> Tensor | None:
    """Mask of the logits of the right classes; None where labels are not known."""
    if labels.value is None:
        return None
    others = [n for d, n in enumerate(x.shape) if d != dim]
    wanted = labels.value.reshape(others).unsqueeze(dim)  # of one sample, it may have a dimension more
    classes = torch.arange(x.shape[dim]).reshape([-1 if d == dim else 1 for d in range(len(x.shape))])
    return (wanted == classes).expand(x.shape)


def gate_influence(reach: Callable[[Tensor], Tensor], gate: Tensor | None) -> Callable[[Tensor], Tensor]:
    if gate is None:
        return reach
    return lambda mask: reach(elementwise(torch.logical_and, mask.shape, mask, gate))


def compose_by_label(call: Call, x: Fact, labels: Fact, weight: Fact | None, smoothing: float = 0.0) -> Fact:
    """Losses, one for each sample, that rise with the logits of wrong classes and fall with that of the right one.

    They are convex and non-negative.
    """
    require_constant(call, "target", labels)
    require_constant(call, "weight", weight)
    if weight is not None and weight.goes_below_zero:
        raise SIGNED
    dim = classes_of(x)
    shape = tuple(n for d, n in enumerate(x.shape) if d != dim)
    right = logits_of_labels(x, labels, dim) if smoothing == 0 else None
    reach = spread_over_classes(x, shape, dim)
    influences = [
        Influence(
            x, gate_influence(reach, None if right is None else ~right), gate_influence(reach, right), by_row=dim == 1
        ),
        Influence(labels, up=lambda mask: mask if tuple(mask.shape) == shape else uniform(True, shape, torch.bool)),
    ]
    return not_negative(influences, weight, shape)


def not_negative(influences: list[Influence], weight: Fact | None, shape: Shape) -> Fact:
    """A convex loss that is never negative, times the weight of its class."""
    if weight is not None:
        influences.append(Influence(weight, up=lambda mask: uniform(bool(mask.any()), shape, torch.bool)))
    result = compose(influences, shape, not_concave=uniform(True, shape, torch.bool))
    return result.bounded(uniform(0.0, shape, torch.float64), result.hi)


def cross_entropy(call: Call) -> Fact:
    """log-sum-exp of the logits less the logit of the label; or averages of that over classes."""
    x, target, weight = call.args[0], call.args[1], call.fact(2, "weight")
    smoothing = float(call.arg(5, "label_smoothing", 0.0))
    if target.integral:
        return compose_by_label(call, x, target, weight, smoothing)
    require_constant(call, "target", target)
    require_constant(call, "weight", weight)
    if target.goes_below_zero or (weight is not None and weight.goes_below_zero):
        raise SIGNED
    dim = classes_of(x)
    shape = tuple(n for d, n in enumerate(x.shape) if d != dim)
    reach = spread_over_classes(x, shape, dim)
    influences = [Influence(x, reach, reach, by_row=dim == 1), Influence(target, reach, by_row=dim == 1)]
    return not_negative(influences, weight, shape)


def negative_log_likelihood(call: Call) -> Fact:
    """Less the entry at the label, times the weight of its class."""
    x, labels, weight = call.args[0], call.args[1], call.fact(2, "weight")
    require_constant(call, "target", labels)
    require_constant(call, "weight", weight)
    dim = classes_of(x)
    shape = tuple(n for d, n in enumerate(x.shape) if d != dim)
    right = logits_of_labels(x, labels, dim)
    reach = gate_influence(spread_over_classes(x, shape, dim), right)
    signed = weight is not None and weight.goes_below_zero
    influences = [
        Influence(x, reach if signed else None, reach, by_row=dim == 1),
        Influence(labels, up=lambda mask: mask if tuple(mask.shape) == shape else uniform(True, shape, torch.bool)),
    ]
    if weight is not None:
        influences.append(Influence(weight, up=lambda mask: uniform(bool(mask.any()), shape, torch.bool)))
    return compose(influences, shape)


def multi_margin(call: Call) -> Fact:
    """The average over classes of relu(margin - x_label + x_j)^p, for p 1 or 2."""
    return compose_by_label(call, call.args[0], call.args[1], call.fact(4, "weight"))


# --- of two or three tensors -----------------------------------------------------------------------------------------


def norm_of(call: Call, x: Fact, order: float, keepdim: bool = False) -> Fact:
    """The norm along the last dimension."""
    if not order >= 1:
        raise Refusal(f"its order is {order:g}; a norm is convex for orders from 1", "use an order of at least 1")
    shape = (*x.shape[:-1], 1) if keepdim else tuple(x.shape[:-1])
    operator = torch.ops.aten.linalg_vector_norm.default
    rule = Reduction("convex", position=2, moves="by size")
    result = rule(sub_call(call, operator, "linalg_vector_norm", shape, x, order, [-1], keepdim))
    assert isinstance(result, Fact)
    return result


def distance(call: Call, a: Fact, b: Fact, order: float, eps: float, keepdim: bool = False) -> Fact:
    """The norm of a - b + eps."""
    apart = sum_of_facts([(a, 1), (b, -1)], broadcast_shape_of(a, b))
    return norm_of(call, sum_of_facts([(apart, 1), (as_fact(eps), 1)], apart.shape), order, keepdim)


def pairwise_distance(call: Call) -> Fact:
    must_be_finite(call)
    order, eps = float(call.arg(2, "p", 2.0)), float(call.arg(3, "eps", 1e-6))
    return distance(call, call.args[0], call.args[1], order, eps, bool(call.arg(4, "keepdim", False)))


def triplet_margin(call: Call) -> Fact:
    """relu(d(anchor, positive) - d(anchor, negative) + margin): convex where the second distance is constant."""
    anchor, positive, negative = call.args[:3]
    order, eps = float(call.arg(4, "p", 2.0)), float(call.arg(5, "eps", 1e-6))
    near = distance(call, anchor, positive, order, eps)
    far = distance(call, anchor, negative, order, eps)
    if bool(call.arg(6, "swap", False)):
        far = extremum(far, distance(call, positive, negative, order, eps), far.shape, largest=False)
    margin = as_fact(float(call.arg(3, "margin", 1.0)))
    return apply_profile(RELU, torch.relu, sum_of_facts([(near, 1), (far, -1), (margin, 1)], near.shape))


def hypot(call: Call) -> Fact:
    """The length of (a, b)."""
    must_be_finite(call)
    shape = tuple(call.shape)
    pair = [viewed(part.expanded(shape), lambda f: f.unsqueeze(-1)) for part in call.args[:2]]
    return norm_of(call, concatenate(pair, len(shape), (*shape, 2)), 2.0)


def log_add_exp(call: Call) -> Fact:
    """log(e^a + e^b), or the same with base 2: convex and rising."""
    must_be_finite(call)
    shape = tuple(call.shape)
    a, b = (part.expanded(shape) for part in call.args[:2])
    everywhere = uniform(True, shape, torch.bool)
    result = compose(
        [Influence(f, up=lambda m: m, by_row=batched(shape)) for f in (a, b)], shape, not_concave=everywhere
    )

    def end(sign: float) -> Callable[..., Tensor]:
        def run(u: Tensor, v: Tensor) -> Tensor:
            value = call.operator(u.double(), v.double())
            room = 16 * EPS * (1 + value.abs().nan_to_num(posinf=0.0))
            return torch.where(value.isfinite(), value + sign * room, value).nan_to_num(nan=sign * INF, posinf=INF)

        return run

    return result.bounded(elementwise(end(-1.0), shape, a.lo, b.lo), elementwise(end(1.0), shape, a.hi, b.hi))


def addcdiv(call: Call) -> Fact:
    """a + value b / c."""
    must_be_finite(call)
    a, b, c = (as_fact(arg) for arg in call.args[:3])
    shape = broadcast_shape_of(b, c)
    if c.constant and where_any(is_outside(c, POSITIVE + NEGATIVE)):
        raise Refusal("it divides by a quantity that may be zero", "keep it away from zero")
    ratio = div(sub_call(call, torch.ops.aten.div.Tensor, "div", shape, b, c))
    scaled = product(ratio, as_fact(call.arg(3, "value", 1)), shape)
    return sum_of_facts([(a, 1), (scaled, 1)], call.shape)


def nan_to_num(call: Call) -> Fact:
    """nan_to_num: the identity on numbers. What may be NaN the walk keeps away from it."""
    must_be_finite(call)
    return replace(call.x, value=None)


def anything(call: Call) -> str:
    return ""


@dataclass(frozen=True)
class Both:
    """Two reductions of one argument at once, with the names of their operators."""

    first: tuple[Reduction, str]
    second: tuple[Reduction, str]

    def __call__(self, call: Call) -> Result:
        reason = self.first[0].allows(call)
        if reason:
            return Opaque(reason)(call)
        x, dims = call.x, dims_along(call, 1)
        keep = len(x.shape) > 0 and len(call.shape) == len(x.shape)
        found: list[Fact] = []
        for (reduction, name), shape in zip((self.first, self.second), call.shapes, strict=True):
            operator = getattr(torch.ops.aten, name)
            result = replace(reduction, allows=anything)(sub_call(call, operator, name, shape, x, dims, keepdim=keep))
            assert isinstance(result, Fact)
            found.append(result)
        return tuple(found)
