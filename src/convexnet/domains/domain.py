"""What every set of inputs has, and how a solver sees it: a box, rows, balls and an entropy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from convexnet.arrays import as_tensor

if TYPE_CHECKING:
    from convexnet.domains.box import Box

ULPS = 8
"""Units in the last place by which a point may lie outside a bound and still count as inside: what rounding leaves."""


class Domain(ABC):
    """A closed convex set of points of one sample's shape, the same for all samples or one for each of a batch.

    Example:
        >>> import convexnet as cx
        >>> isinstance(cx.Simplex(3), Domain), isinstance(cx.Box(0, 1, shape=3), Domain)
        (True, True)
    """

    batch: int | None = None
    """B, where each sample has a set of its own; otherwise None."""

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """The shape of one sample, without the batch."""

    @property
    @abstractmethod
    def centre(self) -> Tensor:
        """A point well inside, float64, (*shape), or (B, *shape) with a batch."""

    @abstractmethod
    def contains(self, points: Tensor | Any) -> Tensor:
        """Return which of a batch of points, (B, *shape), lie in the set, up to rounding: booleans (B,)."""

    @abstractmethod
    def project(self, points: Tensor | Any) -> Tensor:
        """Return the nearest points of the set, of the shape and dtype of `points` (B, *shape)."""

    @abstractmethod
    def hull(self) -> Box:
        """Return a box without a batch that contains the sets of all samples."""

    @abstractmethod
    def region(self) -> Region:
        """Return the set as a solver sees it."""

    def conflicts(self) -> list[list[str]]:
        """For each sample (one without a batch), the names of rows that are proved to conflict; none where the set has
        points, as all sets but polyhedra have.

        Example:
            >>> import convexnet as cx
            >>> cx.Simplex(3, [1.0, 2.0]).conflicts()
            [[], []]
        """
        return [[] for _ in range(self.batch or 1)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shape_text(self.shape)}{batch_text(self.batch)})"

    def checked(self, points: Tensor | Any) -> Tensor:
        """Return a batch of points as a tensor, (B, *shape), one for each sample if the set has a batch.

        Raises:
            ValueError: points of another shape.
        """
        own = as_tensor(points, "points")
        rows = own.shape[0] if own.ndim else 0
        if own.ndim != len(self.shape) + 1 or own.shape[1:] != self.shape or self.batch not in (None, 1, rows):
            count = "B" if self.batch in (None, 1) else str(self.batch)
            wanted = f"({', '.join([count, *map(str, self.shape)])}{',' if not self.shape else ''})"
            one = ": a single point x is x[None]" if own.shape == self.shape else ""
            kind = type(self).__name__.lower()
            raise ValueError(f"points of this {kind} have shape {wanted}, and these have {tuple(own.shape)}{one}")
        return own


@dataclass(frozen=True)
class Rows:
    """Linear rows `matrix @ y` and what they are compared with.

    Attributes:
        matrix: (m, n), float64.
        right: (m,), or (B, m).
        kind: what a multiplier of these rows is called: "inequality", "equality" or "total".
    """

    matrix: Tensor
    right: Tensor
    kind: str

    def padded(self, before: int, after: int) -> Rows:
        """The same rows of a longer y, with columns of zeros on both sides.

        Example:
            >>> Rows(torch.ones(1, 2), torch.ones(1), "total").padded(1, 1).matrix.tolist()
            [[0.0, 1.0, 1.0, 0.0]]
        """
        left, right = (self.matrix.new_zeros(len(self.matrix), count) for count in (before, after))
        return Rows(torch.cat([left, self.matrix, right], 1), self.right, self.kind)


@dataclass(frozen=True)
class BallPart:
    """‖y[start:stop] − centre‖₂ ≤ radius.

    Attributes:
        centre: (k,), or (B, k).
        radius: (), or (B,).
    """

    start: int
    stop: int
    centre: Tensor
    radius: Tensor


@dataclass(frozen=True)
class Region:
    """A set of flat points y (n,) as an intersection; all tensors are float64 and may carry gradients.

    Attributes:
        lo, hi: bounds (n,), or (B, n).
        below: rows with `matrix @ y <= right`.
        equal: rows with `matrix @ y == right`.
        balls: parts of y in a ball.
        entropy: (start, stop) of the parts of y whose entropy is added to what is minimised.
    """

    lo: Tensor
    hi: Tensor
    below: tuple[Rows, ...] = ()
    equal: tuple[Rows, ...] = ()
    balls: tuple[BallPart, ...] = ()
    entropy: tuple[tuple[int, int], ...] = ()

    @property
    def is_box(self) -> bool:
        """Whether there is nothing but bounds."""
        return not (self.below or self.equal or self.balls or self.entropy)


def flat_bound(bound: Tensor, shape: torch.Size) -> Tensor:
    """A bound (*shape) or (B, *shape) with a flat sample, (n,) or (B, n)."""
    return bound.reshape(*bound.shape[: bound.ndim - len(shape)], shape.numel())


def precision_of(dtype: torch.dtype) -> torch.finfo:
    """The precision of a type; whole numbers are as exact as double precision.

    Example:
        >>> precision_of(torch.int64).eps == precision_of(torch.float64).eps < precision_of(torch.float32).eps
        True
    """
    return torch.finfo(dtype if dtype.is_floating_point else torch.float64)


def floating_type(dtype: torch.dtype) -> torch.dtype:
    """The type of what is computed from points of a type: its own, or the default one of whole numbers."""
    return dtype if dtype.is_floating_point else torch.get_default_dtype()


def bound_tolerance(x: Tensor, bound: Tensor, dtype: torch.dtype) -> Tensor:
    """By how much a number (float64) may lie beyond a bound: 8 units in the last place of its type, at their size.

    At least the smallest numbers of the type: the number beside 0 is one unit in the last place away.
    """
    kind = precision_of(dtype)
    size = torch.maximum(x.detach().abs(), bound.detach().abs())
    size = torch.where(size.isfinite(), size, 0.0)  # nothing is near an infinite bound
    return ULPS * kind.eps * size.clamp(min=kind.smallest_normal)


def shape_text(shape: torch.Size) -> str:
    """A shape as users write it: 3 for (3,).

    Example:
        >>> shape_text(torch.Size([3])), shape_text(torch.Size([2, 2])), shape_text(torch.Size([]))
        ('3', '(2, 2)', '()')
    """
    return str(shape[0]) if len(shape) == 1 else str(tuple(shape))


def batch_text(batch: int | None) -> str:
    """What a text says of a batch, if there is one."""
    return "" if batch is None else f", batch={batch}"


def numbers_text(numbers: Tensor) -> str:
    """Numbers as one, where they are all the same, and otherwise by their smallest and largest.

    Example:
        >>> numbers_text(torch.zeros(3)), numbers_text(torch.tensor([0.0, 2.5]))
        ('0', '[0 to 2.5]')
    """
    if not numbers.numel():
        return "[]"
    least, most = float(numbers.detach().amin()), float(numbers.detach().amax())
    return f"{least:g}" if least == most else f"[{least:g} to {most:g}]"


def own_copy(numbers: Tensor) -> Tensor:
    """Numbers in float64, in memory that nothing else writes to."""
    made = numbers.double()
    return made.clone() if made is numbers else made


def first_index(mask: Tensor) -> tuple[int, ...]:
    """The place of the first element that is True."""
    return tuple(int(i) for i in mask.nonzero()[0])


def as_number(value: Any, name: str, batch_of: str) -> Tensor:
    """A positive or zero number, or one for each sample, in float64: () or (B,).

    Args:
        value: what the user gave.
        name: of the argument.
        batch_of: of the set, for the error.

    Raises:
        ValueError: negative, infinite or NaN, or of another shape.

    Example:
        >>> as_number(2, "total", "Simplex")
        tensor(2., dtype=torch.float64)
    """
    number = own_copy(as_tensor(value, f"{name} of the {batch_of}"))
    if number.ndim > 1 or not bool((number >= 0).all()) or not bool(number.isfinite().all()):
        raise ValueError(
            f"{name} of the {batch_of} must be a finite number >= 0, or one for each sample, not {value!r}"
        )
    return number
