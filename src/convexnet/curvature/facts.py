"""What is known about each element of a tensor.

A `Fact` stores, for every element of one tensor in the traced program, what is known about that element *as a
function of the chosen inputs*. The three masks are stored as obstructions, so that the fact of the constant 0 is zero
in every field. That choice does quiet work throughout: an operator that pads with zeros pads its facts rightly, and a
sum of masks is a logical "or".

    nonconvex   not known to be convex
    nonconcave  not known to be concave           affine: neither;  unknown: both
    varies      not known to be constant in the chosen inputs
    rows        bit i is set: the element may depend on row i of the batch (through any input)
    lo, hi      bounds, rounded outwards; zero is exact, so `lo >= 0` is a statement about the sign

Bounds are real numbers whatever the tensor holds: float64, except that a known floating tensor is its own bounds.
Integers and booleans have bounds too (those of their type, if nothing better is known), so that a fact stays true where
they become real numbers; but arithmetic of integers wraps around, so no rule is asked about it.

A fact speaks of the points at which the value is a number. Where a function is undefined (the logarithm of a negative
number, 0/0) the value is NaN, and so is nearly everything computed from it. `undefined` says that there may be such
points, also of a tensor that does not vary. An operator that makes a number of NaN (`sign` makes 0) may rest nothing on
the bounds of such an argument.

An element that does not vary is one number, computed alike at all points. What is constant in exact arithmetic only is
none: (x + 1) - x varies, as an affine function with bounds that hold its rounding, so that no rule may need its sign,
that it is not zero, or on which side of a threshold it lies. Patterns that see more than one operator keep to this too.
One thing may still differ between points, the sign of a zero: 0 x is 0, or -0 for a negative x, and 1/(-0) is not 1/0.
`moved` says that the elements that do not vary were computed from some that do, and what minds the sign of a zero asks.
Where such elements may be undefined, they are NaN at some points and one number at the others (0 log(x)): what makes a
number, an integer or a boolean of NaN asks for these `gaps`.

Every field has the tensor's full shape, but costs only what it says; see `fields`. What an operator makes of the facts
of its arguments is in `composition`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from convexnet.curvature.fields import Shape, core, elementwise, level, uniform, where_any, widened
from convexnet.curvature.value_bounds import REAL, bounds_of, range_of

if TYPE_CHECKING:
    from convexnet.curvature.rules.sorting import Order

INF = math.inf

CONSTANT, AFFINE, CONVEX, CONCAVE, UNKNOWN = "constant", "affine", "convex", "concave", "unknown"


# --- facts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Fact:
    """What is known about each element of one tensor; see the module's docstring for the fields.

    `degree` is a power-convexity degree, for the whole tensor: if every element z is known to be non-negative and
    z^(1/degree) convex in the chosen inputs, the degree says so. Plain convex functions have degree 1, |u|^p has p,
    and exp(u) has infinity (it is log-convex). Non-negative sums and maxima keep the smallest degree (Minkowski,
    Hoelder), so hand-written norms and log-sum-exps are recognised without a pattern matcher.

    `concavity` and `exponent` are the same for concave functions; see `powers`. `positive` says that every element is
    above zero, in real arithmetic, where `lo` may only say that none is below; and that no element is computed as -0.
    `order` says where elements come from that were sorted (see `rules.sorting`); what makes a new fact of one leaves it
    out. `size` is what is known of the absolute value, where that is more than the fact itself says.

    `value` is the tensor itself where it is known, in its own type; `integral` tensors (indices, masks) hold no real
    numbers; `undefined` ones may hold NaN (or an infinity, which the next operator may turn into one). `made` is the
    call that the tensor is the result of, as far as it is of use; see `expressions`.
    """

    nonconvex: Tensor
    nonconcave: Tensor
    varies: Tensor
    rows: Tensor
    lo: Tensor
    hi: Tensor
    degree: float = 1.0
    value: Tensor | None = None
    integral: bool = False
    undefined: bool = False
    moved: bool = False
    concavity: float = math.nan
    exponent: float = math.nan
    positive: bool = False
    made: Any = None
    order: Order | None = None
    size: Fact | None = None

    @property
    def shape(self) -> torch.Size:
        return self.varies.shape

    @property
    def constant(self) -> bool:
        """No element changes with the chosen inputs."""
        return not where_any(self.varies)

    @property
    def unknown(self) -> Tensor:
        """Mask of the elements that are neither convex nor concave as far as is known."""
        for one, other in ((self.nonconvex, self.nonconcave), (self.nonconcave, self.nonconvex)):
            known = level(one)
            if known is not None:
                return other if known else one
        return elementwise(torch.logical_and, self.shape, self.nonconvex, self.nonconcave)

    @property
    def curvature(self) -> str:
        """The join over the elements: constant < affine < convex, concave < unknown."""
        if self.constant:
            return CONSTANT
        bends = where_any(self.nonconvex), where_any(self.nonconcave)
        return {(False, False): AFFINE, (False, True): CONVEX, (True, False): CONCAVE}.get(bends, UNKNOWN)

    @property
    def power(self) -> float:
        """The degree if it may be used: 0 where some element is not known to be convex and non-negative."""
        if self.goes_below_zero or where_any(self.nonconvex):
            return 0.0
        return INF if self.constant else max(1.0, self.degree)

    @property
    def root(self) -> float:
        """The degree of power-concavity if it may be used: NaN where nothing is known, 0 (any) of a constant."""
        if self.goes_below_zero:
            return math.nan
        if self.constant:
            return 0.0
        if not math.isnan(self.concavity):
            return self.concavity
        return math.nan if where_any(self.nonconcave) else 1.0

    @property
    def is_positive(self) -> bool:
        """Whether every element is known to be above zero."""
        if self.positive:
            return True
        lowest = level(self.lo)
        return bool((core(self.lo) > 0).all()) if lowest is None else lowest > 0

    @property
    def goes_below_zero(self) -> bool:
        """Whether some element may be negative."""
        lowest = level(self.lo)
        return bool((core(self.lo) < 0).any()) if lowest is None else lowest < 0

    @property
    def goes_above_zero(self) -> bool:
        """Whether some element may be positive."""
        highest = level(self.hi)
        return bool((core(self.hi) > 0).any()) if highest is None else highest > 0

    def bounded(self, lo: Tensor, hi: Tensor) -> Fact:
        """The same fact with other bounds; a bound that overflowed, or is not a number, says no more than it knows."""
        return replace(self, lo=valid_bound(lo, -1.0), hi=valid_bound(hi, 1.0))

    def with_degree(self, degree: float) -> Fact:
        """The same fact with another degree of power-convexity."""
        return replace(self, degree=degree)

    def expanded(self, shape: Shape) -> Fact:
        """The fact broadcast to a larger shape."""
        if tuple(self.shape) == tuple(shape):
            return self
        value = None if self.value is None else self.value.expand(tuple(shape))
        a, b, c, rows, lo, hi = (widened(field, shape) for field in self.fields())
        fields = dict(zip(FIELDS, (a, b, c, rows, lo, hi), strict=True))
        return replace(self, **fields, value=value, made=None, order=None, size=None)

    def fields(self) -> tuple[Tensor, ...]:
        return self.nonconvex, self.nonconcave, self.varies, self.rows, self.lo, self.hi


def valid_bound(bound: Tensor, sign: float) -> Tensor:
    """A lower (-1) or upper (+1) bound without NaN, and without an infinity that would exclude every number."""
    value = level(bound)
    largest = torch.finfo(torch.float64).max
    if value is not None:
        return bound if value * sign != -INF else uniform(-sign * largest, bound.shape, bound.dtype)
    inner = core(bound)
    if bool(inner.isfinite().all()):
        return bound
    ends = {"posinf": largest, "neginf": -INF} if sign < 0 else {"posinf": INF, "neginf": -largest}
    return inner.double().nan_to_num(nan=sign * INF, **ends).expand(bound.shape)


def known(value: Tensor) -> Fact:
    """The fact of a tensor whose entries are at hand. Bounds of real numbers share its memory; nothing is copied."""
    no, rows = uniform(False, value.shape, torch.bool), uniform(0, value.shape, torch.uint8)
    lo, hi = bounds_of(value.detach())
    return Fact(no, no, no, rows, lo, hi, value=value, integral=not value.dtype.is_floating_point)


def typed(fact: Fact, dtype: torch.dtype | None, undefined: bool = False, moved: bool = False) -> Fact:
    """The fact of a tensor (or, for None, of an integer outside tensors) of a type: what follows from the type is
    added.

    Raises:
        TypeError: the fact is not one of such a tensor: its value has another type, or its bounds are not real.
    """
    if fact.value is not None and fact.value.dtype != dtype:
        raise TypeError(f"a tensor of {dtype} is known as {fact.value.dtype}")
    if fact.lo.dtype not in REAL or fact.hi.dtype not in REAL:
        raise TypeError(f"a tensor of {dtype} has bounds of {fact.lo.dtype}")
    integral = dtype is None or not dtype.is_floating_point
    lo, hi = fact.lo, fact.hi
    if integral and dtype is not None and (level(lo), level(hi)) == (-INF, INF):
        lo, hi = (uniform(end, fact.shape, torch.float64) for end in range_of(dtype))
    undefined, moved = fact.undefined or undefined, fact.moved or moved
    if (integral, undefined, moved) == (fact.integral, fact.undefined, fact.moved) and lo is fact.lo:
        return fact
    return replace(fact, integral=integral, undefined=undefined, moved=moved, lo=lo, hi=hi)


def has_holes(fact: Fact) -> bool:
    """Whether elements of no curvature may be undefined; of sorted ones, and of those with a size, it is what they
    are made of that says so."""
    if fact.constant or not fact.undefined or not where_any(fact.unknown):
        return False
    behind = fact.size if fact.order is None else fact.order.source
    return behind is None or where_any(behind.unknown)


def has_moved(fact: Fact) -> bool:
    """Whether a fact is of what varies, or was computed from what does."""
    return fact.moved or (fact.value is None and not fact.constant)


def has_gaps(fact: Fact) -> bool:
    """Whether elements that do not vary may be NaN at some points of the input, as 0 log(x) is at 0: what makes a
    number of NaN gives another one there."""
    return fact.undefined and fact.moved and fact.constant and fact.value is None


def signed_zeros(fact: Fact) -> Tensor:
    """Mask of the elements that do not vary and may be zeros of either sign, by the input."""
    if not fact.moved or fact.integral or fact.positive or level(fact.varies):
        return uniform(False, fact.shape, torch.bool)
    ends = fact.lo, fact.hi, fact.varies
    return elementwise(lambda lo, hi, varies: (lo <= 0) & (hi >= 0) & ~varies, fact.shape, *ends)


def constant(shape: Shape, rows: Tensor | None = None) -> Fact:
    """The fact of a tensor that does not depend on the chosen inputs and of whose value nothing is known."""
    no = uniform(False, shape, torch.bool)
    line = uniform(-INF, shape, torch.float64), uniform(INF, shape, torch.float64)
    return Fact(no, no, no, uniform(0, shape, torch.uint8) if rows is None else rows, *line)


def unknown(shape: Shape, rows: Tensor | None = None, varies: Tensor | None = None) -> Fact:
    """The fact of a tensor about which nothing is known where it `varies` (everywhere, if not given)."""
    varies = uniform(True, shape, torch.bool) if varies is None else varies
    line = uniform(-INF, shape, torch.float64), uniform(INF, shape, torch.float64)
    return Fact(varies, varies, varies, uniform(3, shape, torch.uint8) if rows is None else rows, *line)


def as_fact(value: Any) -> Fact:
    """A fact for a tensor argument or a Python number."""
    return value if isinstance(value, Fact) else known(torch.tensor(float(value), dtype=torch.float64))


def viewed(fact: Fact, move: Callable[[Tensor], Tensor]) -> Fact:
    """The fact of a view: `move` is applied to every field, and to the value. What moves elements keeps their type."""

    def moved(field: Tensor) -> Tensor:
        value = level(field)
        return move(field) if value is None else uniform(value, move(field).shape, field.dtype)

    a, b, c, rows, lo, hi = (moved(field) for field in fact.fields())
    value = None if fact.value is None else move(fact.value)
    size = None if fact.size is None else viewed(fact.size, move)
    fields_ = dict(zip(FIELDS, (a, b, c, rows, lo, hi), strict=True))
    return replace(fact, **fields_, value=value, made=None, order=None, size=size)


FIELDS = ("nonconvex", "nonconcave", "varies", "rows", "lo", "hi")
