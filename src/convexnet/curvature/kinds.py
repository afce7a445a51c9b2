"""The kinds of operator, as rules: a row of the table is an operator and one of these.

    Pointwise   a function of one number, by its profile
    Moved       shape operators: elements are moved, copied or filled with zeros
    Reduction   sums, averages, maxima, norms over dimensions
    Window      the same over sliding windows: pooling and interpolation
    Opaque      no claim about what varies; says why, and over which dimensions it mixes

Weighted linear maps are the remaining kind, in `linear`; what fits none of them is in `special`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from convexnet.curvature.call import Call, Refusal, Result
from convexnet.curvature.facts import (
    INF,
    Fact,
    Influence,
    Reach,
    compact,
    compose,
    constant,
    core,
    elementwise,
    spread_rows,
    uniform,
    unknown,
    where_any,
)
from convexnet.curvature.linear import EPS, clip_sign, with_degree
from convexnet.curvature.pointwise import LEFT, RIGHT, Profile, apply_profile, inside, outside

Bends = Literal["straight", "up", "down"]


@dataclass(frozen=True)
class Pointwise:
    """A function of one number. `degree(x)` is the power-convexity degree of its result (see `Fact`)."""

    profile: Profile | Callable[..., Profile]
    degree: Callable[[Fact], float] | None = None

    def __call__(self, call: Call) -> Fact:
        result = apply_profile(self.of(call), call.on, call.x)
        return with_degree(result, self.degree(call.x)) if self.degree else result

    def of(self, call: Call) -> Profile:
        """The profile under the call's settings."""
        if isinstance(self.profile, Profile):
            return self.profile
        return self.profile(*call.args[1:], **call.kwargs)


@dataclass(frozen=True)
class Moved:
    """Shape operators: every field of the facts goes through the operator itself.

    Where the operator fills with zeros (padding, `tril`), a uniform field is joined with the zero fact instead, so
    that it stays uniform; that claims no more than is true.
    """

    fills: bool = False
    as_float: bool = False  # the operator has no boolean or integer kernel

    def __call__(self, call: Call) -> Result:
        facts = [fact for fact in call.facts() if not addresses(fact)]
        if not facts:
            return Opaque("it only moves integers")(call)
        columns = [
            self.field(call, facts, [fact.fields()[which] for fact in facts], fill)
            for which, fill in enumerate((max, max, max, max, min, max))
        ]
        power = min(fact.power for fact in facts)
        moved = tuple(Fact(*(column[i] for column in columns), degree=power) for i in range(len(call.shapes)))
        return moved[0] if len(moved) == 1 else moved

    def field(
        self, call: Call, facts: Sequence[Fact], fields: Sequence[Tensor], fill: Callable[[float, float], float]
    ) -> list[Tensor]:
        """One field of the results."""
        dtype = fields[0].dtype if fields[0].dtype in (torch.bool, torch.uint8) else torch.float64
        cores = [core(field) for field in fields]
        if all(inner.numel() == 1 for inner in cores):
            values = {float(inner) for inner in cores}
            if len(values) == 1:
                value = values.pop()
                return [uniform(fill(value, 0.0) if self.fills else value, shape, dtype) for shape in call.shapes]
        work = torch.float64 if self.as_float else dtype
        table = {id(fact): inner.to(work).expand(fact.shape) for fact, inner in zip(facts, cores, strict=True)}
        out = call.run(lambda fact: address(fact) if addresses(fact) else table[id(fact)])
        parts: Sequence[Tensor] = out if isinstance(out, (tuple, list)) else (out,)
        return [retype(part, dtype) for part in parts]


def addresses(fact: Fact) -> bool:
    """Whether a tensor holds indices or a mask rather than quantities."""
    return fact.integral


def address(fact: Fact) -> Tensor:
    """The indices themselves; only constants are accepted as such."""
    if fact.value is None:
        raise Refusal(
            "the elements it picks are chosen by a tensor whose values are not known: by the input, or by a parameter",
            "index with constants, or use a maximum (torch.amax, nn.MaxPool2d) where the choice is the larger element",
        )
    return fact.value


def retype(field: Tensor, dtype: torch.dtype) -> Tensor:
    """A compact field in another dtype, still compact."""
    small = compact(field)
    return core(small).to(dtype).expand(field.shape)


def along(call: Call, position: int) -> list[int]:
    """The dimensions a reduction runs over: its `dim` argument, normalised; all of them where it has none."""
    rank = len(call.x.shape)
    dim = call.arg(position, "dim")
    if not isinstance(dim, (int, list, tuple)) or isinstance(dim, bool) or (not isinstance(dim, int) and not dim):
        return list(range(rank))
    dims = [dim] if isinstance(dim, int) else list(dim)
    return [int(d) % rank for d in dims]


@dataclass(frozen=True)
class Reduction:
    """Over dimensions: rises with every element (or with their absolute values, as norms do; or both ways)."""

    bends: Bends
    position: int = 1  # of the argument `dim`
    moves: Literal["up", "by size", "both"] = "up"
    exact: bool = False
    homogeneous: bool = True  # of degree one, like sums, maxima and norms: keeps the power-convexity degree
    allows: Callable[[Call], str] = lambda call: ""  # why not, for settings without the property

    def __call__(self, call: Call) -> Result:
        reason = self.allows(call)
        if reason:
            return Opaque(reason)(call)
        x, shape = call.x, call.shape
        dims = along(call, self.position)

        def reach(mask: Tensor) -> Tensor:
            inner = core(mask)
            found = inner.any(dim=tuple(dims), keepdim=True) if dims else inner
            if len(shape) != len(x.shape):
                found = found.reshape([n for d, n in enumerate(found.shape) if d not in dims])
            return found.expand(tuple(shape))

        up, down = reach, None
        if self.moves == "both":
            down = reach
        elif self.moves == "by size":
            up = narrowed(reach, outside(x, LEFT))
            down = narrowed(reach, outside(x, RIGHT))
        influence = Influence(x, up=up, down=down)
        everywhere = uniform(True, shape, torch.bool)
        result = compose(
            [influence],
            shape,
            bends_up=everywhere if self.bends == "up" else None,
            bends_down=everywhere if self.bends == "down" else None,
        )
        result = result.bounded(*self.interval(call, dims, influence))
        result = with_degree(result, x.power if self.homogeneous and self.bends != "down" and self.moves == "up" else 0.0)
        if len(call.shapes) == 1:
            return result
        return result, *(unknown(other, varies=result.varies, rows=result.rows) for other in call.shapes[1:])

    def interval(self, call: Call, dims: Sequence[int], influence: Influence) -> tuple[Tensor, Tensor]:
        x, shape = call.x, call.shape
        terms = math.prod(x.shape[d] for d in dims)

        def run(bound: Tensor) -> Tensor:
            inner = core(bound)
            inner = inner.expand([x.shape[d] if d in dims else n for d, n in enumerate(inner.shape)]).double()
            out = call.on(inner)
            return out[0] if isinstance(out, tuple) else out

        low, high = x.lo, x.hi
        if self.moves == "both":
            return uniform(0.0, shape, torch.float64), uniform(INF, shape, torch.float64)
        if self.moves == "by size":
            low = elementwise(lambda a, b: torch.where(a > 0, a, torch.where(b < 0, -b, 0.0)), x.shape, x.lo, x.hi)
            high = elementwise(lambda a, b: torch.maximum(a.abs(), b.abs()), x.shape, x.lo, x.hi)
        room = 0.0 if self.exact else 2 * (terms + 8) * EPS
        size = run(elementwise(lambda a, b: torch.maximum(a.abs(), b.abs()), x.shape, x.lo, x.hi)).abs() if room else None

        def widen(value: Tensor, sign: float) -> Tensor:
            if size is not None:
                error = torch.where(size.isfinite(), size, torch.where(value.isfinite(), value.abs(), 0.0))
                value = value + sign * room * (error + 1.0 * (not self.homogeneous))
            return torch.where(value.isnan(), sign * INF, value).expand(tuple(shape))

        lower, upper = widen(run(low), -1.0), widen(run(high), 1.0)
        if self.moves == "by size":
            return elementwise(lambda v: v.clamp(min=0.0), shape, lower), upper
        if not self.homogeneous:
            return lower, upper
        negative = influence.reach(below(x), below(x), shape)
        positive = influence.reach(above(x), above(x), shape)
        return clip_sign(lower, negative, above=True), clip_sign(upper, positive, above=False)


def below(x: Fact) -> Tensor:
    return elementwise(lambda v: v < 0, x.shape, x.lo)


def above(x: Fact) -> Tensor:
    return elementwise(lambda v: v > 0, x.shape, x.hi)


def narrowed(reach: Reach, gate: Tensor) -> Reach:
    """A reach that only starts from the elements the gate marks."""

    def run(mask: Tensor) -> Tensor:
        return reach(elementwise(torch.logical_and, mask.shape, mask, gate))

    return run


@dataclass(frozen=True)
class Window:
    """Over sliding windows of the trailing dimensions (all but the first two): pooling and interpolation.

    Averages and (bi-, tri-)linear interpolation have non-negative coefficients; bicubic has not, so it is only
    `signed`: affine where its argument is affine.
    """

    bends: Bends = "straight"
    signed: bool = False

    def __call__(self, call: Call) -> Result:
        x, shape = call.x, call.shape
        average = call.name.startswith("avg_pool")
        if average and call.arg(6, "divisor_override") is not None:
            return Opaque("its divisor is not the size of the window", "leave out divisor_override")(call)
        pads = average and (any(call.arg(3, "padding", [0])) or bool(call.arg(4, "ceil_mode", False)))
        spatial = range(2, len(x.shape)) if len(x.shape) > 2 else range(len(x.shape))

        def run(values: Tensor) -> Tensor:
            out = call.on(values)
            return out[0] if isinstance(out, tuple) else out

        def reach(mask: Tensor) -> Tensor:
            inner = core(mask)
            if all(inner.shape[d] == 1 for d in spatial):
                return inner.expand(tuple(shape))
            if self.signed:
                return inner.flatten(2).any(2).reshape(*inner.shape[:2], *[1] * len(spatial)).expand(tuple(shape))
            inner = inner.expand([x.shape[d] if d in spatial else n for d, n in enumerate(inner.shape)])
            return compact(run(inner.float()) > 0, shape)

        influence = Influence(x, up=reach, down=reach if self.signed else None)
        everywhere = uniform(True, shape, torch.bool)
        result = compose([influence], shape, bends_up=everywhere if self.bends == "up" else None)
        if not self.signed:
            result = with_degree(result.bounded(*self.interval(x, run, reach, shape, pads)), x.power)
        if len(call.shapes) == 1:
            return result
        return result, *(unknown(other, varies=result.varies, rows=result.rows) for other in call.shapes[1:])

    def interval(
        self, x: Fact, run: Reach, reach: Reach, shape: Sequence[int], pads: bool
    ) -> tuple[Tensor, Tensor]:
        def bound(side: Tensor, endless: Callable[[Tensor], Tensor], sign: float) -> Tensor:
            inner = core(side)
            if all(n == 1 for n in inner.shape[2:]):  # a window over equal bounds: those, or an average with padding
                level = inner.double() if self.bends == "up" else inner.double() * (1 + sign * inner.sign() * 1e-12)
                if pads:
                    level = level.clamp(max=0.0) if sign < 0 else level.clamp(min=0.0)
                return level.expand(tuple(shape))
            lost = reach(endless(inner).expand(side.shape))
            kept = torch.where(inner.isfinite(), inner.double(), 0.0)
            if not bool(kept.any()):
                value = torch.zeros([1] * len(shape), dtype=torch.float64)
            else:
                full = kept.expand([n if d > 1 else kept.shape[d] for d, n in enumerate(side.shape)])
                value = run(full)
                if self.bends == "straight":  # an average of at most a few thousand terms, within its own maximum
                    value = value + sign * 1e-12 * run(full.abs())
            return compact(elementwise(lambda v, m: torch.where(m, sign * INF, v), shape, value, lost))

        lower = bound(x.lo, torch.isneginf, -1.0)
        upper = bound(x.hi, torch.isposinf, 1.0)
        return clip_sign(lower, reach(below(x)), above=True), clip_sign(upper, reach(above(x)), above=False)


@dataclass(frozen=True)
class Opaque:
    """Nothing is claimed about what varies. `over(call)` lists the dimensions it mixes; None: possibly all."""

    reason: str
    remedy: str = ""
    over: Callable[[Call], Sequence[int]] | None = None

    def __call__(self, call: Call) -> Result:
        facts = call.facts()
        results: list[Fact] = []
        for shape in call.shapes:
            varies = uniform(any(not fact.constant for fact in facts), shape, torch.bool)
            rows = self.rows(call, shape)
            results.append(constant(shape, rows) if not where_any(varies) else unknown(shape, rows))
        return results[0] if len(results) == 1 else tuple(results)

    def rows(self, call: Call, shape: Sequence[int]) -> Tensor:
        """Rows spread over the mixed dimensions only, if the result has the first argument's shape."""
        x = call.facts()[0] if call.facts() else None
        alone = not any(where_any(fact.rows) for fact in call.facts()[1:])
        if x is not None and alone and self.over is not None and tuple(x.shape) == tuple(shape):
            dims = [d % len(shape) for d in self.over(call)]
            return spread_rows(x.rows, lambda m: core(m).any(dim=tuple(dims), keepdim=True).expand(tuple(shape)))
        touched = any(where_any(fact.rows) for fact in call.facts())
        return uniform(3 if touched else 0, shape, torch.uint8)


__all__ = ["Moved", "Opaque", "Pointwise", "Reduction", "Window", "inside"]
