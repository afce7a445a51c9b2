"""How linear operators pair their inputs with their coefficients: elementwise, contracted, convolved.

A `Form` runs the operator on masks, and takes the short cuts that uniform masks allow: a convolution whose masks are
uniform in space needs no convolution, only "does any tap of this filter have that sign".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from convexnet.curvature.composition import Reach
from convexnet.curvature.facts import Fact
from convexnet.curvature.fields import Shape, batched, compact, core, elementwise, extremes, level, uniform, where_any

SLAB = 1 << 17
"""How many weights of a filter bank are looked at at once, so that a walk needs no more memory than a forward pass."""


Part = Callable[[Tensor], Tensor]


def positive_part(coefficients: Tensor) -> Tensor:
    return coefficients.clamp(min=0)


def negative_part(coefficients: Tensor) -> Tensor:
    return coefficients.clamp(max=0)


def slabs(coefficients: Tensor) -> Sequence[Tensor]:
    """The coefficients a few outputs at a time."""
    return coefficients.split(max(1, SLAB * coefficients.shape[0] // max(1, coefficients.numel())))


class Form:
    """How a bilinear operator pairs its input with its coefficients."""

    by_row = False  # dimension 0 is the batch, and each row is treated alone

    def reach(self, mask: Tensor, coefficients: Tensor) -> Tensor:
        """Outputs that a marked input reaches through a marked coefficient."""
        raise NotImplementedError

    def apply(self, values: Tensor, coefficients: Tensor, part: Part) -> Tensor:
        """The operator itself, in float64, on a part of the coefficients (their positive part, say)."""
        raise NotImplementedError

    def terms(self, coefficients: Tensor) -> int:
        """How many products one output sums, at most: the length that rounding errors grow with."""
        raise NotImplementedError


@dataclass(frozen=True)
class Product(Form):
    """Elementwise multiplication of tensors of one shape."""

    shape: Shape

    @property
    def by_row(self) -> bool:
        return batched(self.shape)

    def reach(self, mask: Tensor, coefficients: Tensor) -> Tensor:
        return elementwise(torch.logical_and, self.shape, mask, coefficients)

    def apply(self, values: Tensor, coefficients: Tensor, part: Part) -> Tensor:
        return elementwise(lambda v, c: v.double() * part(c.double()), self.shape, values, coefficients)

    def terms(self, coefficients: Tensor) -> int:
        return 1


@dataclass(frozen=True)
class Contraction(Form):
    """x[..., i] with W[o, i], as in `linear`."""

    shape: Shape

    @property
    def by_row(self) -> bool:
        return len(self.shape) > 1 and batched(self.shape)

    def reach(self, mask: Tensor, coefficients: Tensor) -> Tensor:
        inner = core(mask)
        if inner.shape[-1] == 1:  # every input of a row is marked alike
            return compact(inner & core(coefficients).any(1), self.shape)
        inner = inner.expand(*inner.shape[:-1], mask.shape[-1])
        return compact(inner.float() @ coefficients.float().T > 0.5, self.shape)

    def apply(self, values: Tensor, coefficients: Tensor, part: Part) -> Tensor:
        inner = core(values)
        inner = inner.expand(*inner.shape[:-1], values.shape[-1])
        inner = inner.double()
        return torch.cat([inner @ part(slab.double()).T for slab in slabs(coefficients)], -1).expand(tuple(self.shape))

    def terms(self, coefficients: Tensor) -> int:
        return coefficients.shape[1]


@dataclass(frozen=True)
class Convolution(Form):
    """x[n, i, ...] with W[o, i, ...] slid over it; `run(x, W)` is the operator with its stride, padding and groups."""

    shape: Shape
    run: Callable[[Tensor, Tensor], Tensor]
    groups: int
    transposed: bool
    padded: bool  # some taps fall outside the input and see zeros instead
    seen: Tensor | None = None  # mask of the taps that ever see the input, if there are others
    sums: dict[Part, Tensor] = field(default_factory=dict)
    met: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def by_row(self) -> bool:
        return batched(self.shape)

    def channels(self, values: Tensor, matrix: Tensor) -> Tensor:
        """A convolution of something uniform in space: `matrix` holds the taps of each filter, already summed."""
        n, groups = values.shape[0], self.groups
        matrix = matrix.unflatten(0, (groups, -1))  # (g, O/g, I/g), transposed (g, I/g, O/g)
        if not self.transposed:
            matrix = matrix.transpose(1, 2)
        out = torch.einsum("ngi,gio->ngo", values.reshape(n, groups, -1), matrix)
        return out.reshape(n, -1, *[1] * (len(self.shape) - 2))

    def pairs(self, coefficients: Tensor) -> Tensor:
        """Which channels meet: 1 where any tap that sees the input is marked."""
        found = self.met.get(id(coefficients))
        if found is None:
            used = core(coefficients) if self.seen is None else core(coefficients) & self.seen
            met = used.flatten(2).any(2).float().expand(coefficients.shape[:2])
            found = self.met[id(coefficients)] = coefficients, met  # which keeps the id from being reused
        return found[1]

    def reach(self, mask: Tensor, coefficients: Tensor) -> Tensor:
        inner = core(mask)
        if all(length == 1 for length in inner.shape[2:]):
            marked = inner.reshape(inner.shape[0], -1).expand(-1, mask.shape[1]).float()
            return compact(self.channels(marked, self.pairs(coefficients)) > 0.5, self.shape)
        inner = inner.expand(inner.shape[0], *mask.shape[1:])
        return compact(self.run(inner.float(), coefficients.float()) > 0.5, self.shape)

    def apply(self, values: Tensor, coefficients: Tensor, part: Part) -> Tensor:
        inner = core(values)
        if all(length == 1 for length in inner.shape[2:]):
            if part not in self.sums:
                self.sums[part] = torch.cat([part(slab.double()).flatten(2).sum(2) for slab in slabs(coefficients)])
            flat = inner.reshape(inner.shape[0], -1).expand(-1, values.shape[1]).double()
            return self.channels(flat, self.sums[part]).expand(tuple(self.shape))
        inner = inner.expand(inner.shape[0], *values.shape[1:]).double()
        if self.groups > 1 or self.transposed:
            return self.run(inner, part(coefficients.double())).expand(tuple(self.shape))
        # float64 convolutions unfold their input: a few channels at a time, to stay within memory
        taps = math.prod(coefficients.shape[2:])
        width = max(1, 4 * SLAB // (taps * max(math.prod(self.shape[2:]), coefficients.shape[0])))
        found: Tensor | None = None
        for start in range(0, inner.shape[1], width):
            weights = part(coefficients[:, start : start + width].double())
            out = self.run(inner[:, start : start + width], weights)
            found = out if found is None else found.add_(out)
        assert found is not None
        return found.expand(tuple(self.shape))

    def terms(self, coefficients: Tensor) -> int:
        return coefficients.numel() // coefficients.shape[1 if self.transposed else 0]


@dataclass(frozen=True)
class Pairing(Form):
    """Any other bilinear operator (batched matrix products, einsum), run as it is."""

    run: Callable[[Tensor, Tensor], Tensor]
    length: int

    def reach(self, mask: Tensor, coefficients: Tensor) -> Tensor:
        return compact(self.run(mask.float(), coefficients.float()) > 0.5)

    def apply(self, values: Tensor, coefficients: Tensor, part: Part) -> Tensor:
        return self.run(values.double(), part(coefficients.double()))

    def terms(self, coefficients: Tensor) -> int:
        return self.length


@dataclass(frozen=True)
class Signs:
    """Which coefficients may be positive and which negative; each mask is computed once, and only if asked for."""

    coefficients: Fact
    made: dict[str, Tensor | None] = field(default_factory=dict)
    reached: dict[str, Tensor] = field(default_factory=dict)

    def mask(self, sign: str) -> Tensor | None:
        if sign not in self.made:
            bounds = self.coefficients.hi if sign == "+" else self.coefficients.lo
            low, high = extremes(bounds) if sign == "+" else (-end for end in reversed(extremes(bounds)))
            if low > 0:
                self.made[sign] = uniform(True, bounds.shape, torch.bool)
            elif high <= 0 or not bounds.numel():
                self.made[sign] = None
            else:
                found = core(bounds) > 0 if sign == "+" else core(bounds) < 0
                self.made[sign] = found.expand(bounds.shape) if bool(found.any()) else None
        return self.made[sign]

    def through(self, sign: str, form: Form, x: Shape, shape: Shape) -> Reach | None:
        """The reach of the form through the coefficients of a sign; None if there are none."""
        coefficients = self.mask(sign)
        if coefficients is None:
            return None

        def reach(mask: Tensor, marks: Tensor = coefficients) -> Tensor:
            known = level(mask)
            if known is None:
                return form.reach(mask, marks) if where_any(mask) else uniform(False, shape, torch.bool)
            if not known:
                return uniform(False, shape, torch.bool)
            if sign not in self.reached:
                self.reached[sign] = form.reach(uniform(True, x, torch.bool), marks)
            return self.reached[sign]

        return reach
