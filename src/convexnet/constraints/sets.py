"""The sets that parameters are kept in, and the methods that bring them there.

A parameter is constrained entry by entry to an `Interval`: [0, inf) for a weight that meets something convex, the whole
line for a column that meets something affine, [0, 1] for the slope of a PReLU. A method says where an entry goes that
lies outside: onto the bound, or beyond it by some function of how far outside it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeGuard

import numpy as np
import torch
from torch import Tensor

from convexnet.arrays import as_real
from convexnet.choices import MethodName
from convexnet.errors import meant

INF = math.inf


# --- intervals -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Interval:
    """An interval [lo, hi] for every entry of a parameter.

    Attributes:
        lo, hi: float64 bounds that broadcast to the parameter (size 1 along dimensions where they do not differ);
            infinite where there is none.

    Example:
        >>> columns = Interval.above(0.0, torch.tensor([[True, False]]))
        >>> columns.contains(torch.tensor([[1.0, -1.0], [0.0, 5.0]])), columns.contains(-torch.ones(2, 2))
        (True, False)
    """

    lo: Tensor
    hi: Tensor

    @staticmethod
    def above(bound: float, where: Tensor) -> Interval:
        """[bound, inf) where the mask is set, the whole line elsewhere.

        Example:
            >>> Interval.above(0.0, torch.tensor([True, False])).lo
            tensor([0., -inf], dtype=torch.float64)
        """
        lo = torch.where(where, bound, -INF).double()
        return Interval(lo, torch.full([1] * lo.ndim, INF, dtype=torch.float64))

    @cached_property
    def nonnegative(self) -> bool:
        """Whether every entry is kept in [0, inf) and nothing else."""
        return bool((self.lo == 0).all() and (self.hi == INF).all())

    @cached_property
    def ends(self) -> tuple[bool, bool]:
        """Whether some entry has a lower bound, and whether some entry has an upper one."""
        return bool((self.lo > -INF).any()), bool((self.hi < INF).any())

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The bounds in the type and on the device of a weight; remembered, for they are asked for after every step."""
        key = like.device, like.dtype
        if key not in self._moved:
            rounded = round_inward(self.lo, like.dtype, INF), round_inward(self.hi, like.dtype, -INF)
            self._moved[key] = tuple(bound.to(like.device) for bound in rounded)
        return self._moved[key]

    @cached_property
    def _moved(self) -> dict[Any, Any]:
        return {}

    @property
    def where(self) -> Tensor:
        """Mask of the entries that are constrained at all; it broadcasts to the parameter."""
        return (self.lo > -INF) | (self.hi < INF)

    def meet(self, other: Interval) -> Interval:
        """The intersection.

        Example:
            >>> unit = Interval(torch.zeros(1).double(), torch.ones(1).double())
            >>> unit.meet(Interval.above(0.5, torch.ones(1, dtype=torch.bool))).lo
            tensor([0.5000], dtype=torch.float64)
        """
        return Interval(torch.maximum(self.lo, other.lo), torch.minimum(self.hi, other.hi))

    @property
    def conflict(self) -> bool:
        """Whether some entry is left with one value or none: two uses of it ask for opposite things."""
        return bool((self.lo >= self.hi).any())

    def excess(self, weight: Tensor) -> Tensor:
        """How far outside the entry that lies farthest outside is: a float64 scalar, 0 inside, NaN if one is NaN."""
        if not weight.numel():
            return torch.zeros((), dtype=torch.float64)
        value = weight.detach()
        if self.nonnegative:
            return (-value.min()).double().clamp(min=0.0).cpu()
        lo, hi = self.bounds(value)
        return torch.maximum(lo - value, value - hi).max().double().clamp(min=0.0).cpu()

    def contains(self, weight: Tensor) -> bool:
        """Whether every entry lies inside.

        Example:
            >>> Interval.above(0.0, torch.tensor(True)).contains(torch.tensor([0.0, -1e-12]))
            False
        """
        return bool(self.excess(weight) == 0)


def round_inward(bound: Tensor, dtype: torch.dtype, towards: float) -> Tensor:
    """A float64 bound in another type, rounded to the side that is inside."""
    near = bound.to(dtype)
    outside = near.double() < bound if towards > 0 else near.double() > bound
    if not bool(outside.any()):
        return near
    return torch.where(outside, torch.nextafter(near, torch.full_like(near, towards)), near)


# --- methods ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exponentiate:
    """w < 0 becomes e^(w - epsilon), after the update (Sivaprasad et al. 2021, section 3 and appendix B).

    An overwrite, not a reparametrisation: it is not continuous at zero (-1e-6 becomes e^-epsilon, 0.0067 for 5).
    """

    epsilon: float = 5.0
    elementwise: ClassVar[bool] = True

    def inside(self, gap: Tensor) -> Tensor:
        """The new distance from the bound for entries at the (negative) distance `gap` from it."""
        return torch.exp(gap - self.epsilon)


@dataclass(frozen=True)
class Clip:
    """w < 0 becomes 0: the Euclidean projection."""

    elementwise: ClassVar[bool] = True

    def inside(self, gap: Tensor) -> Tensor:
        """Onto the bound."""
        return torch.zeros_like(gap)


@dataclass(frozen=True)
class Absolute:
    """w < 0 becomes -w (Sivaprasad et al. 2021, appendix B)."""

    elementwise: ClassVar[bool] = True

    def inside(self, gap: Tensor) -> Tensor:
        """As far inside as it was outside."""
        return -gap


@dataclass(frozen=True)
class Shift:
    """Every constrained entry of a tensor moves by the depth of the lowest one (Sivaprasad et al. 2021, appendix B).

    w - min(0, min w), the minimum over the constrained entries of the tensor; the others stay.
    """

    elementwise: ClassVar[bool] = False


@dataclass(frozen=True)
class Softplus:
    """w = log(1 + e^v) with a free v: w cannot leave (0, inf), and nothing needs to be projected."""

    elementwise: ClassVar[bool] = False


@dataclass(frozen=True)
class Exp:
    """w = e^v with a free v."""

    elementwise: ClassVar[bool] = False


Method = Exponentiate | Clip | Absolute | Shift | Softplus | Exp


def is_computed(method: Method) -> TypeGuard[Softplus | Exp]:
    """Whether weights are computed from free parameters, so that nothing needs to be projected."""
    return isinstance(method, (Softplus, Exp))


METHODS: dict[MethodName, type[Method]] = {
    "exponentiate": Exponentiate, "clip": Clip, "absolute": Absolute, "shift": Shift, "softplus": Softplus, "exp": Exp,
}  # fmt: skip


def method_of(name: MethodName | None, epsilon: float, recorded: Method | None = None) -> Method:
    """The method by its name; None: the recorded one (with another epsilon, if one is given), else exponentiate.

    Example:
        >>> method_of("clip", 5.0), method_of(None, 5.0, Absolute()), method_of(None, 4.0)
        (Clip(), Absolute(), Exponentiate(epsilon=4.0))
    """
    epsilon = as_real(epsilon, "epsilon")  # so that e^(w - epsilon) is at most 1
    if name is None:
        if recorded is None or (isinstance(recorded, Exponentiate) and epsilon != Exponentiate.epsilon):
            return Exponentiate(epsilon)
        return recorded
    if not isinstance(name, str) or name not in METHODS:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"unknown method {name!r}{meant(name, METHODS)}; the methods are {', '.join(map(repr, METHODS))}"
        )
    return Exponentiate(epsilon) if name == "exponentiate" else METHODS[name]()


def project(weight: Tensor, interval: Interval, method: Method, look: bool = True) -> None:
    """Bring a weight into its interval, in place; entries inside are not touched (except by `Shift`).

    Where nothing is outside nothing is written, so that autograd's version of the weight stays what it was: a backward
    that still needs the weight goes through. To look costs a read of the weight, and on an accelerator a wait for it:
    `look=False` leaves that out and writes the entries that are inside again, as they are.
    """
    if not weight.numel() or (look and not is_outside(weight, interval)):
        return
    if isinstance(method, (Softplus, Exp)):  # is_computed, said so that types follow
        method = Exponentiate()  # the start of a parametrised weight: inside, and not on the bound
    if interval.nonnegative:
        lift(weight, None, method)
        return
    (lo, hi), (from_below, from_above) = interval.bounds(weight), interval.ends
    if isinstance(method, Shift):
        shift(weight, lo, hi)
    else:
        if from_below:
            lift(weight, lo, method)
        if from_above:
            mirrored = weight.neg()
            lift(mirrored, hi.neg(), method)
            weight.copy_(mirrored.neg_())
    if from_above:  # a short interval may have been crossed
        weight.copy_(torch.minimum(torch.maximum(weight, lo), hi))


def is_outside(weight: Tensor, interval: Interval) -> bool:
    """Whether an entry of a weight lies outside its interval; a NaN may count as one.

    Example:
        >>> columns = Interval.above(0.0, torch.tensor([[True, False]]))
        >>> [is_outside(torch.tensor([row]), columns) for row in ([0.0, -1.0], [-1.0, 0.0])]
        [False, True]
    """
    (from_below, from_above), value = interval.ends, weight.detach()
    lo, hi = interval.bounds(value)
    if value.device.type == "cpu" and value.dtype in PLAIN:  # numpy's comparisons are several times faster
        array = value.numpy()
        if interval.nonnegative:
            return not array.min() >= 0
        return bool((from_below and (array < lo.numpy()).any()) or (from_above and (array > hi.numpy()).any()))
    if interval.nonnegative:
        return not bool(value.min() >= 0)
    return bool((from_below and (value < lo).any()) or (from_above and (value > hi).any()))


def lift(weight: Tensor, lo: Tensor | None, method: Exponentiate | Clip | Absolute | Shift) -> None:
    """Bring the entries below `lo` (None: 0 throughout) inside."""
    if isinstance(method, Shift):
        weight.sub_(weight.min().clamp(max=0.0))
    elif isinstance(method, Clip):
        torch.clamp_(weight, min=0.0) if lo is None else torch.maximum(weight, lo, out=weight)
    elif isinstance(method, Absolute) and lo is None:
        weight.abs_()
    elif lo is None and weight.device.type == "cpu" and weight.is_contiguous() and weight.dtype in PLAIN:
        # after the first projection few entries are outside, and numpy finds them fastest
        flat = weight.detach().view(-1)
        places = torch.from_numpy(np.flatnonzero(flat.numpy() < 0))
        if places.numel():
            flat.index_copy_(0, places, method.inside(flat.index_select(0, places)))
    else:
        gap = (weight if lo is None else weight - lo).clamp(max=0.0)
        inside = method.inside(gap)
        torch.where(gap < 0, inside if lo is None else torch.maximum(lo + inside, lo), weight, out=weight)


PLAIN = (torch.float32, torch.float64)


def shift(weight: Tensor, lo: Tensor, hi: Tensor) -> None:
    """`Shift` for intervals that differ from entry to entry: up by the deepest gap, down by the highest."""
    for bound, sign in ((lo, 1.0), (hi, -1.0)):
        held = bound.isfinite().expand_as(weight)
        if bool(held.any()):
            depth = (sign * (weight - bound))[held].min().clamp(max=0.0)
            weight.copy_(torch.where(held, weight - sign * depth, weight))
    weight.copy_(torch.minimum(torch.maximum(weight, lo), hi))
