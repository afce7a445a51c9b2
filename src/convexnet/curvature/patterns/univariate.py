"""Functions of one number that several operators make together: is x log x convex, on which range?

Two proofs, each by the sign of the second derivative. `power_log_exp_sums` writes the function as a sum of c x^a
log(x)^b exp(k x), which may reach to infinity or to a pole. `jets` encloses value and derivatives in intervals, on as
many pieces of a bounded range as it takes. Neither looks at samples of the function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convexnet.curvature.call import Call, Lost, Refusal
from convexnet.curvature.composition import Influence, compose
from convexnet.curvature.facts import INF, Fact, as_fact
from convexnet.curvature.fields import batched, core, elementwise, from_core, uniform
from convexnet.curvature.patterns.expressions import evaluate
from convexnet.curvature.patterns.interpreter import combine
from convexnet.curvature.patterns.intervals import IntervalValue
from convexnet.curvature.patterns.jets import Jet, constant_jet
from convexnet.curvature.table import row_of

PIECES = (1, 8, 64, 512)
LARGEST = 1 << 15
"""How many pieces of all elements together are looked at."""


def jet_of_function(name: str, call: Call, value: Callable[[object], Jet]) -> Jet:
    """A call that is no arithmetic."""
    jet = row_of(call.name).jet
    if jet is None:
        raise Lost
    return jet(value(call.args[0]), call)


# --- proofs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variable:
    """What an expression is a function of: facts that stand for it, with the jets of each as a function of u."""

    jets: Mapping[int, Callable[[IntervalValue], Jet]]
    lo: Tensor
    hi: Tensor
    straight: bool  # it is affine, and which way the function goes does not matter


def constant_interval(fact: object, rank: int) -> IntervalValue:
    """A constant of the expression: its value, or its bounds."""
    constant = as_fact(fact)
    ends = [core(bound).double() for bound in (constant.lo, constant.hi)]
    return IntervalValue(*(end.reshape([1] * (rank - end.ndim) + list(end.shape)) for end in ends))


def jet_of(call: Call, variable: Variable, u: IntervalValue) -> Jet:
    """The jet of an expression where its variable lies in an interval; dimension 0 of the interval counts pieces."""
    rank = len(call.shape) + 1

    def plain(part: object) -> Jet:
        return constant_jet(constant_interval(part, rank))

    def given(fact: Fact) -> Jet | None:
        if id(fact) in variable.jets:
            return variable.jets[id(fact)](u)
        return plain(fact) if fact.constant else None

    def apply(inner: Call, values: Mapping[int, Jet]) -> Jet:
        return combine(inner, lambda part: values[id(part)] if isinstance(part, Fact) else plain(part), jet_of_function)

    parts = {id(fact): evaluate(fact, given, apply) for fact in call.facts()}
    return apply(call, parts)


@dataclass(frozen=True)
class ShapeMasks:
    """Masks of elements: where the function is proved convex, concave, non-decreasing and non-increasing."""

    convex: Tensor
    concave: Tensor
    rising: Tensor
    falling: Tensor


def compose_univariate(variables: Sequence[Fact], shape: ShapeMasks, out: Sequence[int]) -> Fact:
    """The composition theorem for a function of some quantities; of one it is known which way the function goes."""
    out = tuple(out)
    convex, concave, rising, falling = (
        from_core(mask.expand(torch.broadcast_shapes(mask.shape, [1] * len(out))), out)
        for mask in (shape.convex, shape.concave, shape.rising, shape.falling)
    )

    def unless(mask: Tensor) -> Tensor:
        return elementwise(torch.logical_not, out, mask)

    def gate(direction: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda mask: elementwise(torch.logical_and, out, mask.expand(out), direction)

    everywhere = uniform(True, out, torch.bool)
    up, down = (unless(falling), unless(rising)) if len(variables) == 1 else (everywhere, everywhere)
    influences = [
        Influence(fact, gate(up), gate(down), by_row=tuple(fact.shape) == out and batched(out)) for fact in variables
    ]
    return compose(influences, out, not_concave=unless(concave), not_convex=unless(convex))


def shape_of(call: Call, variable: Variable) -> ShapeMasks | None:
    """What is proved of an expression as a function of its variable, by jets on pieces of its range."""
    lo, hi = variable.lo, variable.hi
    proofs: list[Tensor] = []
    try:
        jet = jet_of(call, variable, sample_points(lo, hi))
    except (Lost, KeyError, Refusal):
        return None
    hopeless = ((jet.dd.hi < 0).any(0) & (jet.dd.lo > 0).any(0)) | (jet.dd.lo.isneginf() & jet.dd.hi.isposinf()).all(0)
    if bool(hopeless.all()):
        return None
    for pieces in PIECES:
        if pieces > 1 and (pieces * lo.numel() > LARGEST or not bool((lo.isfinite() & hi.isfinite()).any())):
            break
        jet = jet_of(call, variable, divide_range(lo, hi, pieces))
        tests = (jet.dd.lo >= 0, jet.dd.hi <= 0, jet.d.lo >= 0, jet.d.hi <= 0)
        shape = torch.broadcast_shapes(lo.shape, *(test.shape[1:] for test in tests))
        found = [test.all(0).expand(shape) for test in tests]
        proofs = found if not proofs else [old | new for old, new in zip(proofs, found, strict=True)]
        if bool((proofs[0] | proofs[1] | hopeless).all()):
            break
    if not proofs:
        return None
    return ShapeMasks(*proofs) if variable.straight else with_monotonicity(call, variable, ShapeMasks(*proofs))


def with_monotonicity(call: Call, variable: Variable, shape: ShapeMasks) -> ShapeMasks:
    """A convex function rises where it does so at the lower end of its range, and falls where it does at the upper."""
    low, high = (jet_of(call, variable, IntervalValue(end[None], end[None])).d for end in (variable.lo, variable.hi))
    (a, b), (c, d) = ((slope.lo.amin(0), slope.hi.amax(0)) for slope in (low, high))
    free, bounded = variable.lo.isinf(), variable.hi.isfinite()  # at infinity products are not what limits are
    a, b = torch.where(free, -INF, a), torch.where(free, INF, b)
    c, d = torch.where(bounded, c, -INF), torch.where(bounded, d, INF)
    rising = shape.rising | (shape.convex & (a >= 0)) | (shape.concave & (c >= 0))
    return ShapeMasks(
        shape.convex, shape.concave, rising, shape.falling | (shape.convex & (d <= 0)) | (shape.concave & (b <= 0))
    )


def sample_points(lo: Tensor, hi: Tensor) -> IntervalValue:
    """A few numbers of the range: a function that bends both ways at these needs no proof."""
    low, high = lo.clamp(min=-30.0), hi.clamp(max=30.0)
    t = torch.tensor([0.0, 0.07, 0.3, 0.55, 0.8, 1.0], dtype=torch.float64).reshape(-1, *[1] * lo.ndim)
    points = torch.minimum(torch.maximum(low + (high - low) * t, lo), hi)
    return IntervalValue(points, points)


def divide_range(lo: Tensor, hi: Tensor, pieces: int) -> IntervalValue:
    """Intervals that cover the range, in a new dimension 0: of equal lengths, or of equal ratios above zero."""
    if pieces == 1:
        return IntervalValue(lo[None], hi[None])
    t = torch.linspace(0.0, 1.0, pieces + 1, dtype=torch.float64).reshape(-1, *[1] * lo.ndim)
    straight = lo + (hi - lo) * t
    ratio = lo.clamp(min=1e-300) * (hi.clamp(min=1e-300) / lo.clamp(min=1e-300)) ** t
    ends = torch.where(lo > 0, ratio, straight)
    ends = torch.minimum(torch.maximum(ends, lo), hi)
    ends = torch.where(ends.isnan(), hi, ends)
    ends[0], ends[-1] = lo, hi
    ends = ends.cummax(0).values
    return IntervalValue(ends[:-1], ends[1:])
