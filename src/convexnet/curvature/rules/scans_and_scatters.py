"""Sums and extrema whose terms are at known places: running sums and maxima, scattered and folded elements.

A sum over the same places says which element of a result an element of an argument reaches: run on a 0/1 mask, it
leaves a positive number there. No coefficient is negative, so that the result rises with each element.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexnet.curvature.call import Call, Refusal, Result
from convexnet.curvature.composition import Influence, Reach, compose
from convexnet.curvature.facts import INF, Fact, as_fact, unknown, viewed
from convexnet.curvature.fields import compact, core, elementwise, from_core, level, uniform, where_any
from convexnet.curvature.rules.arithmetic import product
from convexnet.curvature.rules.linear import EPS, TINY, clip_sign, sum_of_facts
from convexnet.curvature.rules.reductions import ReductionCurvature, may_be_negative, may_be_positive
from convexnet.curvature.rules.shapes import Moved, as_index, concatenate

ENDLESS = Refusal(
    "a number in it may be infinite or NaN, and what it makes of that may be NaN", "use finite numbers, large or small"
)
LARGEST = torch.finfo(torch.float64).max
Run = Callable[[Mapping[int, Tensor]], Tensor]
"""An operator on tensors in place of its facts, which are named by their `id`."""


def must_be_finite(call: Call) -> None:
    """Refuse arguments some of whose elements are infinite or NaN, as far as is known.

    Raises:
        Refusal: some are.
    """
    for fact in call.read():
        value = fact.value
        bad = value is not None and value.is_floating_point() and not bool(value.isfinite().all())
        ends = level(fact.hi), level(fact.lo)
        highest = ends[0] if ends[0] is not None else float(core(fact.hi).min()) if fact.shape.numel() else 0.0
        lowest = ends[1] if ends[1] is not None else float(core(fact.lo).max()) if fact.shape.numel() else 0.0
        if bad or highest <= -LARGEST or lowest >= LARGEST:
            raise ENDLESS


def known_index(call: Call, position: int, name: str) -> Fact:
    """The tensor of indices of a call, whose values are known.

    Raises:
        Refusal: they are not.
    """
    index = call.arg(position, name)
    assert isinstance(index, Fact)
    as_index(index)
    return index


def runner(call: Call, *picks: Fact) -> Run:
    """The operator of a call, with its tensors of indices kept."""
    kept = {id(pick): as_index(pick) for pick in picks}

    def run(values: Mapping[int, Tensor]) -> Tensor:
        out = call.run(lambda fact: kept[id(fact)] if id(fact) in kept else values[id(fact)])
        return out[0] if isinstance(out, (tuple, list)) else out

    return run


def fact_of_placed_terms(
    call: Call,
    run: Run,
    spread: Run | None = None,
    picks: tuple[Fact, ...] = (),
    curvature: ReductionCurvature = "affine",
    homogeneous: bool = True,
) -> Fact:
    """The fact of an operator that rises with all elements of its arguments.

    Args:
        call: the operator.
        run: the operator on other tensors.
        spread: the sum over the same places; None: the operator is that sum.
        picks: its tensors of indices.
        curvature: in the elements together.
        homogeneous: of degree one in all elements together, as sums and maxima are.
    """
    must_be_finite(call)
    shape = call.shape
    spread = run if spread is None else spread
    parts = {id(fact): fact for fact in call.read() if all(fact is not pick for pick in picks)}
    blank = {key: torch.zeros(fact.shape, dtype=torch.float64) for key, fact in parts.items()}

    def reach_of(key: int) -> Reach:
        def reach(mask: Tensor) -> Tensor:
            if level(mask) == 0:
                return uniform(False, shape, torch.bool)
            return compact(spread(blank | {key: mask.double()}) > 0)

        return reach

    everywhere = uniform(True, shape, torch.bool)
    influences = [Influence(fact, up=reach_of(key)) for key, fact in parts.items()]
    result = compose(
        influences,
        shape,
        not_concave=everywhere if curvature == "convex" else None,
        not_convex=everywhere if curvature == "concave" else None,
    )

    def touched(mask: Callable[[Fact], Tensor]) -> Tensor:
        found = uniform(False, shape, torch.bool)
        for influence in influences:
            found = elementwise(torch.logical_or, shape, found, influence.touches(mask(influence.fact), shape))
        return found

    def side(which: int, sign: float) -> Tensor:
        ends = {key: (fact.lo, fact.hi)[which].double() for key, fact in parts.items()}
        finite = {key: torch.where(end.isfinite(), end, 0.0) for key, end in ends.items()}
        lost = touched(lambda fact: (fact.lo, fact.hi)[which] == sign * INF)
        value = run(finite if curvature == "affine" else ends)
        if curvature == "affine" or not homogeneous:
            terms = sum(fact.shape.numel() for fact in parts.values())
            size = spread({key: end.abs() for key, end in finite.items()}) + 1.0 * (not homogeneous)
            value = value + sign * (2 * (terms + 8) * EPS * size + TINY)
        if curvature == "affine":
            value = torch.where(lost, sign * INF, value)
        return from_core(core(compact(torch.where(value.isnan(), sign * INF, value))), shape)

    lower, upper = side(0, -1.0), side(1, 1.0)
    if homogeneous:
        lower = clip_sign(lower, touched(may_be_negative), above=True)
        upper = clip_sign(upper, touched(may_be_positive), above=False)
    keeps = homogeneous and curvature != "concave"
    return result.bounded(lower, upper).with_degree(min(fact.power for fact in parts.values()) if keeps else 0.0)


# --- along a dimension -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Running:
    """Of the elements up to each one, along a dimension: their sum, or their largest, smallest or log-sum-exp."""

    curvature: ReductionCurvature = "affine"
    homogeneous: bool = True

    def __call__(self, call: Call) -> Result:
        dim = int(call.arg(1, "dim"))
        first = id(call.x)
        result = fact_of_placed_terms(
            call,
            runner(call),
            lambda values: values[first].cumsum(dim) if values[first].ndim else values[first],
            curvature=self.curvature,
            homogeneous=self.homogeneous,
        )
        if len(call.shapes) == 1:
            return result
        return result, *(unknown(other, varies=result.varies, rows=result.rows) for other in call.shapes[1:])


def diff(call: Call) -> Fact:
    """Differences of neighbours, of the n-th order."""
    must_be_finite(call)
    x, times = call.x, int(call.arg(1, "n", 1))
    dim = int(call.arg(2, "dim", -1)) % max(1, len(x.shape))
    ends = call.fact(3, "prepend"), call.fact(4, "append")
    parts = [part for part in (ends[0], x, ends[1]) if part is not None]
    if len(parts) > 1:
        length = sum(part.shape[dim] for part in parts)
        x = concatenate(parts, dim, [length if d == dim else n for d, n in enumerate(x.shape)])
    for _ in range(times):
        if x.shape[dim] == 0:
            break
        later, earlier = (viewed(x, lambda f, s=start: f.narrow(dim, s, f.shape[dim] - 1)) for start in (1, 0))
        x = sum_of_facts([(later, 1), (earlier, -1)], later.shape)
    return replace(x, value=None) if x is call.x else x


# --- at indices ------------------------------------------------------------------------------------------------------


def index_add(call: Call) -> Fact:
    """self, with alpha times each element of `source` added at its index."""
    index = known_index(call, 2, "index")
    own, source, alpha = call.x, call.args[3], call.arg(4, "alpha", 1)
    hidden = alpha == 0 and source.undefined and where_any(source.unknown)  # zero times what may be NaN
    if alpha != 1 and not hidden:
        source = product(source, as_fact(alpha), source.shape)
    plain = replace(call, args=(own, call.args[1], index, source), kwargs={})
    return fact_of_placed_terms(plain, runner(plain, index), picks=(index,))


def scatter_add(call: Call) -> Fact:
    index = known_index(call, 2, "index")
    return fact_of_placed_terms(call, runner(call, index), picks=(index,))


def scatter(call: Call) -> Fact:
    """self, with elements of `src` (or one number) written at indices, which must all differ along the dimension."""
    must_be_finite(call)
    index, source = known_index(call, 2, "index"), call.arg(3, "src", call.kwargs.get("value"))
    if call.kwargs.get("reduce") is not None or call.arg(4, "reduce") is not None:
        raise Refusal("it combines what it writes with what is there", "use scatter_add or scatter_reduce")
    if not isinstance(source, Fact):
        source = as_fact(source)
    source = source.expanded(index.shape) if len(source.shape) < len(index.shape) else source
    places = as_index(index)
    counts = torch.zeros(call.x.shape, dtype=torch.int64)
    counts.scatter_add_(int(call.args[1]), places, torch.ones_like(places))
    if bool((counts > 1).any()):
        reason = "it writes several elements to one place, and does not say which of them stays"
        raise Refusal(reason, "use scatter_add")
    plain = replace(call, operator=torch.ops.aten.scatter.src, args=(call.x, call.args[1], index, source), kwargs={})
    result = Moved(picks=(2, "index"))(plain)
    assert isinstance(result, Fact)
    return result


def scatter_reduce(call: Call) -> Fact:
    """self, joined at indices with elements of `src`: by a sum, an average, the largest or the smallest."""
    index, how = known_index(call, 2, "index"), call.arg(4, "reduce")
    curvatures: dict[str, ReductionCurvature] = {"amax": "convex", "amin": "concave"}
    if how not in curvatures and how not in ("sum", "mean"):
        raise Refusal(f"it joins elements by {how!r}", "join them by a sum, an average or a maximum")
    others = {key: value for key, value in call.kwargs.items() if key != "reduce"}
    summed = replace(call, args=(*call.args[:4], "sum", *call.args[5:]), kwargs=others)
    spread = runner(summed, index)
    curvature = curvatures.get(how, "affine")
    return fact_of_placed_terms(call, runner(call, index), spread, picks=(index,), curvature=curvature)


def col2im(call: Call) -> Fact:
    """Windows that are added where they overlap: torch.nn.Fold."""
    return fact_of_placed_terms(call, runner(call))


def grid_sampler(call: Call) -> Fact:
    """Values between pixels, at places that do not depend on the input: averages over neighbours.

    Which neighbours count may be a matter of rounding, so that every pixel of a channel is taken for one.
    """
    must_be_finite(call)
    x, grid = call.args[0], call.args[1]
    if not isinstance(grid, Fact) or not grid.constant:
        raise Refusal("where it looks depends on the input", "give it a grid that does not depend on the input")
    if grid.value is None:
        raise Refusal("where it looks is not known", "give it a grid that is a buffer or made in the forward")
    cubic, shape = int(call.arg(2, "interpolation_mode", 0)) == 2, call.shape
    spatial = tuple(range(2, len(x.shape)))

    def reach(mask: Tensor) -> Tensor:
        return core(mask).any(dim=spatial, keepdim=True).expand(tuple(shape))

    result = compose([Influence(x, reach, reach if cubic else None)], shape)
    if cubic:
        return result
    low = elementwise(lambda v: v.double().clamp(max=0.0), x.shape, x.lo)
    high = elementwise(lambda v: v.double().clamp(min=0.0), x.shape, x.hi)
    low, high = core(low).amin(dim=spatial, keepdim=True), core(high).amax(dim=spatial, keepdim=True)
    result = result.bounded(
        from_core(core((low * (1 + 1e-12)).expand(tuple(shape))), shape),
        from_core(core((high * (1 + 1e-12)).expand(tuple(shape))), shape),
    )
    return result.with_degree(x.power)


@dataclass(frozen=True)
class Picked(Moved):
    """gather: elements at indices. Where these come from another input, each result may be any element of its line."""

    def __call__(self, call: Call) -> Result:
        index = call.arg(2, "index")
        if not isinstance(index, Fact) or index.value is not None or not index.constant or not call.x.shape.numel():
            return super().__call__(call)
        x, shape = call.x, call.shape
        dim = int(call.args[1]) % max(1, len(x.shape))

        def across(field: Tensor, join: Callable[[Tensor], Tensor]) -> Tensor:
            if not field.ndim:
                return field
            inner = join(core(field)).expand([1 if d == dim else n for d, n in enumerate(x.shape)])
            for d, n in enumerate(shape):
                if d != dim:
                    inner = inner.narrow(d, 0, n)
            return compact(inner.expand(tuple(shape)))

        def some(mask: Tensor) -> Tensor:
            return across(mask, lambda inner: inner.any(dim, keepdim=True))

        result = compose([Influence(x, up=some), Influence(index, up=lambda mask: mask)], shape)
        lo = across(x.lo, lambda inner: inner.double().amin(dim, keepdim=True))
        hi = across(x.hi, lambda inner: inner.double().amax(dim, keepdim=True))
        return result.bounded(lo, hi).with_degree(x.power)
