"""Sorted elements: the k-th largest is neither convex nor concave, but sums of the k largest are convex.

With x_(1) >= x_(2) >= ... >= x_(n), the sum of w_i x_(i) is convex for weights that do not increase: it is the largest
of the sums of w_i x_p(i) over all permutations p (rearrangement inequality; Boyd & Vandenberghe 3.2.3). It is concave
for weights that do not decrease, and rises with every element for non-negative ones. A fact of sorted elements carries
their places as an `Order`, and what adds them up along their dimension asks it.

Weights are added up as fractions: whether they increase is never a matter of rounding.

Long because the operators that read sorted elements all rest on `Order`, and are read with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor

from convexnet.curvature.call import Call, Result
from convexnet.curvature.composition import Influence, Reach, compose
from convexnet.curvature.facts import Fact, as_fact, unknown, viewed
from convexnet.curvature.fields import Shape, compact, core, level, uniform
from convexnet.curvature.row import Row
from convexnet.curvature.rules import arithmetic, layers
from convexnet.curvature.rules.linear import sum_of_facts
from convexnet.curvature.rules.reductions import Reduction, dims_along
from convexnet.curvature.rules.scans_and_scatters import must_be_finite
from convexnet.curvature.rules.shapes import Moved, as_index

MOST = 1 << 14
"""Weights that are added up as fractions; of more nothing is claimed."""


@dataclass(frozen=True, eq=False)
class Order:
    """What the elements of a tensor are along one dimension: multiples of sorted elements of another tensor.

    Attributes:
        source: what was sorted.
        dim: along which, from the end: -1 is the last; the same in both tensors.
        places: for each element along it, which of the sorted ones it is: 0 the largest.
        weights: by what each is multiplied.
        whole: their order among themselves is not known, so that only equal weights for all of them say something.
    """

    source: Fact
    dim: int
    places: tuple[int, ...]
    weights: tuple[Fraction, ...]
    whole: bool = False

    def combined(self, factors: Sequence[Fraction]) -> tuple[Fraction, ...]:
        """The weights of the sorted elements in a sum of the elements times factors."""
        found = [Fraction(0)] * self.source.shape[self.dim]
        for place, weight, factor in zip(self.places, self.weights, factors, strict=True):
            found[place] += weight * factor
        return tuple(found)

    def straight(self, weights: Sequence[Fraction]) -> tuple[bool, bool]:
        """Whether a sum with these weights is convex, and whether it is concave, in the elements."""
        if self.whole and len({weights[place] for place in self.places}) > 1:
            return False, False
        steps = [b - a for a, b in pairwise(weights)]
        return all(step <= 0 for step in steps), all(step >= 0 for step in steps)


def sorting(call: Call, dim: int, count: int, largest: bool, arranged: bool = True) -> tuple[Fact, ...]:
    """The `count` largest (or smallest) elements along a dimension, in order, and their places."""
    must_be_finite(call)
    x, shape = call.x, call.shape
    if not len(x.shape):
        return tuple(replace(x, value=None) if i == 0 else unknown(s) for i, s in enumerate(call.shapes))
    dim, length = dim % len(x.shape), x.shape[dim]
    places = range(count) if largest else range(length - 1, length - 1 - count, -1)
    order = Order(x, dim - len(x.shape), tuple(places), (Fraction(1),) * count, not arranged and count > 1)

    def marks(straight: Callable[[tuple[bool, bool]], bool]) -> Tensor:
        one = [[Fraction(int(p == q)) for q in range(length)] for p in order.places]
        flags = [not straight(order.straight(weights)) for weights in one]
        line = [count if d == dim else 1 for d in range(len(shape))]
        return torch.tensor(flags, dtype=torch.bool).reshape(line).expand(tuple(shape))

    if length * count > MOST:
        bent = uniform(True, shape, torch.bool), uniform(True, shape, torch.bool)
    else:
        bent = marks(lambda s: s[1]), marks(lambda s: s[0])
    result = compose([Influence(x, up=spread_over_line(x, dim, shape))], shape, *bent)

    def bound(field: Tensor) -> Tensor:
        inner = core(field)
        inner = inner.double().expand([x.shape[d] if d == dim else n for d, n in enumerate(inner.shape)])
        ends = inner.sort(dim, descending=largest).values.narrow(dim, 0, count)
        if not arranged and count:
            ends = ends.amin(dim, keepdim=True) if field is x.lo else ends.amax(dim, keepdim=True)
        return compact(ends.expand(tuple(shape)))

    result = replace(result.bounded(bound(x.lo), bound(x.hi)), order=order)
    return result, *(unknown(other, varies=result.varies, rows=result.rows) for other in call.shapes[1:])


def spread_over_line(x: Fact, dim: int, shape: Shape) -> Reach:
    """From the elements of a line to all results on it."""

    def reach(mask: Tensor) -> Tensor:
        known = level(mask)
        if known is not None:
            return uniform(bool(known), shape, torch.bool)
        return core(mask).any(dim, keepdim=True).expand(tuple(shape))

    return reach


def topk(call: Call) -> Result:
    count, dim = int(call.args[1]), int(call.arg(2, "dim", -1))
    return sorting(call, dim, count, bool(call.arg(3, "largest", True)), bool(call.arg(4, "sorted", True)))


def sort(call: Call) -> Result:
    stable = "stable" in call.kwargs or str(call.operator).endswith("stable")
    dim = call.kwargs.get("dim", -1) if stable and len(call.args) < 2 else call.arg(1, "dim", -1)
    descending = bool(call.arg(2, "descending", False))
    length = call.x.shape[int(dim)] if len(call.x.shape) else 1
    return sorting(call, int(dim), length, descending)


def sorted_first(call: Call) -> Result:
    """msort: along the first dimension."""
    return sorting(call, 0, call.x.shape[0] if len(call.x.shape) else 1, False)[0]


# --- what reads sorted elements --------------------------------------------------------------------------------------


def refine_sorted(call: Call, row: Row) -> Fact | None:
    """The fact of an operator on sorted elements, where it says more than the operator's own rule; None: it does not.

    Sums and averages along the dimension, matrix products with known weights, moves along it, and multiples.
    """
    facts = [fact for fact in call.read() if fact.order is not None]
    if len(facts) != 1:
        return None
    (fact,) = facts
    assert fact.order is not None
    rule = row.rule
    if isinstance(rule, Reduction) and rule.curvature == "affine" and fact is call.args[0]:
        return sum_along(call, rule, fact, fact.order)
    if isinstance(rule, Moved) and fact is call.args[0]:
        return move_along(call, rule, fact, fact.order)
    if row.runs(arithmetic.mul, arithmetic.div, arithmetic.neg):
        return multiply_sorted(call, row, fact, fact.order)
    if row.runs(layers.linear, layers.matmul) and fact is call.args[0]:
        return contract_sorted(call, row, fact, fact.order)
    if row.runs(layers.einsum):
        return einsum_sorted(call, row, fact, fact.order)
    return None


def sums_of_sorted(order: Order, shape: Shape, rows: Sequence[Sequence[Fraction]]) -> Fact:
    """Sums of sorted elements along the last dimension, one for each row of factors: the last dimension of the result.

    Args:
        order: of the elements; another dimension is moved to the end.
        shape: of the result.
        rows: factors of the elements, for each sum.
    """
    x = order.source if order.dim == -1 else viewed(order.source, lambda f: f.movedim(order.dim, -1))
    weights = [order.combined(row) for row in rows]
    flags = [order.straight(w) for w in weights]
    signs = ([any(v > 0 for v in w) for w in weights], [any(v < 0 for v in w) for w in weights])

    def along_lines(marks: Sequence[bool]) -> Tensor:
        return torch.tensor(marks, dtype=torch.bool).expand(tuple(shape))

    def gated(gate: Tensor) -> Reach:
        return lambda mask: core(mask).any(-1, keepdim=True).expand(tuple(shape)) & gate

    return compose(
        [Influence(x, gated(along_lines(signs[0])), gated(along_lines(signs[1])))],
        shape,
        not_concave=along_lines([not concave for _, concave in flags]),
        not_convex=along_lines([not convex for convex, _ in flags]),
    )


def sum_along(call: Call, rule: Reduction, fact: Fact, order: Order) -> Fact | None:
    """A sum or an average along the dimension, and perhaps along others too."""
    dims, rank = dims_along(call, rule.position), len(fact.shape)
    dim = order.dim % rank
    if dim not in dims or len(order.places) * order.source.shape[order.dim] > MOST:
        return None
    shape = [n for d, n in enumerate(fact.shape) if d != dim]
    ones = [Fraction(1)] * len(order.places)
    line = viewed(sums_of_sorted(order, (*shape, 1), [ones]), lambda f: f.movedim(-1, dim))
    rest = [d for d in dims if d != dim]
    if rest:
        kept = tuple(1 if d in dims else n for d, n in enumerate(fact.shape))
        operator = torch.ops.aten.sum.dim_IntList
        whole = rule(replace(call, operator=operator, args=(line, rest, True), kwargs={}, shapes=(kept,)))
        assert isinstance(whole, Fact)
        line = whole
    plain = rule(call)
    assert isinstance(plain, Fact)
    return viewed(line, lambda f: compact(f.reshape(tuple(call.shape)))).bounded(plain.lo, plain.hi)


def contract_sorted(call: Call, row: Row, fact: Fact, order: Order) -> Fact | None:
    """A product with a known matrix, or vector, along the last dimension."""
    weight = call.args[1]
    if order.dim != -1 or weight.value is None or len(weight.shape) not in (1, 2) or len(fact.shape) < 2:
        return None
    matrix = weight.value if row.runs(layers.linear) else weight.value.mT if weight.value.ndim == 2 else weight.value
    matrix = matrix.reshape(-1, fact.shape[-1])
    if matrix.numel() > MOST or len(matrix) * order.source.shape[-1] > MOST or not bool(matrix.isfinite().all()):
        return None
    rows = [[Fraction(v) for v in row] for row in matrix.tolist()]
    result = sums_of_sorted(order, (*fact.shape[:-1], len(matrix)), rows)
    if len(weight.shape) == 1:
        result = viewed(result, lambda f: f.squeeze(-1))
    bias = call.arg(2, "bias") if row.runs(layers.linear) else None
    plain = row.rule(call)
    assert isinstance(plain, Fact)
    result = result if bias is None else sum_of_facts([(result, 1), (bias, 1)], call.shape)
    return result.bounded(plain.lo, plain.hi)


def einsum_sorted(call: Call, row: Row, fact: Fact, order: Order) -> Fact | None:
    """An einsum with a known tensor that adds up along the dimension alone, as a product with a matrix does."""
    names, operands = letters_of(call.args[0]), call.args[1]
    if names is None or len(operands) != 2 or sum(operand is fact for operand in operands) != 1:
        return None
    own, other = names[:2] if operands[0] is fact else names[1::-1]
    weight: Fact = operands[1] if operands[0] is fact else operands[0]
    added = own[order.dim]
    kept, free = own.replace(added, ""), other.replace(added, "")
    summed = set(own) & set(other) == {added} and sorted(names[2]) == sorted(kept + free)
    if weight.value is None or not summed or not bool(weight.value.isfinite().all()):
        return None
    if weight.shape[other.index(added)] != fact.shape[order.dim]:  # one number for all of them
        return None
    matrix = weight.value.permute([other.index(name) for name in free + added]).reshape(-1, fact.shape[order.dim])
    if matrix.numel() > MOST or len(matrix) * order.source.shape[order.dim] > MOST:
        return None
    sizes = dict(zip(own + other, (*fact.shape, *weight.shape), strict=True))
    result = sums_of_sorted(
        order, (*(sizes[name] for name in kept), len(matrix)), [[Fraction(v) for v in row] for row in matrix.tolist()]
    )
    parts, turned = [sizes[name] for name in free] or [1], [(kept + free).index(name) for name in names[2]]
    result = viewed(
        result,
        lambda f: (f.unflatten(-1, parts) if free else f.squeeze(-1)).permute(turned) if turned else f.squeeze(-1),
    )
    plain = row.rule(call)
    assert isinstance(plain, Fact)
    return result.bounded(plain.lo, plain.hi)


def letters_of(equation: str) -> list[str] | None:
    """The letters of two operands and of the result; None where one stands twice in one of them, or for several."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    operands = left.split(",")
    if not arrow:
        right = "".join(sorted(name for name in set(left) - {","} if left.count(name) == 1))
    found = [*operands, right]
    plain = all(part.isalpha() or not part for part in found) and all(len(set(part)) == len(part) for part in found)
    return found if plain and len(operands) == 2 else None


def multiply_sorted(call: Call, row: Row, fact: Fact, order: Order) -> Fact | None:
    """Sorted elements turned around, or times (or over) constants that are the same on every line."""
    factors = [Fraction(-1)] * len(order.places)
    if not row.runs(arithmetic.neg):
        found = constants_along(call, row, fact, order)
        if found is None:
            return None
        factors = found
    result = row.rule(call)
    assert isinstance(result, Fact)
    weights = tuple(weight * factor for weight, factor in zip(order.weights, factors, strict=True))
    return replace(result, order=replace(order, weights=weights))


def constants_along(call: Call, row: Row, fact: Fact, order: Order) -> list[Fraction] | None:
    """What each of the sorted elements is multiplied by, if it is known and the same on every line."""
    over = row.runs(arithmetic.div)
    other = as_fact(call.args[1] if call.args[0] is fact else call.args[0])
    fits = other.value is not None and tuple(call.shape) == tuple(fact.shape) and len(order.places) <= MOST
    if not fits or (over and (call.args[0] is not fact or call.kwargs.get("rounding_mode") is not None)):
        return None
    assert other.value is not None
    rank = len(fact.shape)
    value = other.value.reshape([1] * (rank - other.value.ndim) + list(other.value.shape))
    dim = order.dim % rank
    if any(value.shape[d] != 1 for d in range(rank) if d != dim) or not bool(value.isfinite().all()):
        return None
    numbers = value.expand([n if d == dim else 1 for d, n in enumerate(fact.shape)]).reshape(-1).tolist()
    if over and 0 in numbers:
        return None
    return [1 / Fraction(number) if over else Fraction(number) for number in numbers]


def move_along(call: Call, rule: Moved, fact: Fact, order: Order) -> Fact | None:
    """A move along the dimension: some of the elements, in another order, or again."""
    shape, rank = tuple(call.shape), len(fact.shape)
    dim = order.dim % rank
    others = [other for other in call.facts() if other is not fact]
    same = len(shape) == rank and all(shape[d] == fact.shape[d] for d in range(rank) if d != dim)
    known = all(other.value is not None and not other.value.is_floating_point() for other in others)
    if not same or not known or len(call.shapes) != 1 or rule.fills or not fact.shape.numel():
        return None
    numbers = torch.arange(fact.shape.numel()).reshape(fact.shape)  # where each element of the result comes from
    out = call.run(lambda f: numbers if f is fact else as_index(f))
    step = fact.shape[dim + 1 :].numel()
    places = out // step % fact.shape[dim]
    stays = bool((out - places * step == numbers.narrow(dim, 0, 1)).all())
    lines = places.movedim(dim, 0).reshape(shape[dim], -1)
    if not stays or not lines.numel() or not bool((lines == lines[:, :1]).all()):
        return None
    chosen = lines[:, 0].tolist()
    if order.whole and sorted(chosen) != list(range(len(order.places))):
        return None
    result = rule(call)
    assert isinstance(result, Fact)
    kept = replace(
        order, places=tuple(order.places[p] for p in chosen), weights=tuple(order.weights[p] for p in chosen)
    )
    return replace(result, order=kept)
