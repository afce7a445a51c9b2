"""Choices by comparison: ReLU, absolute value, Huber's loss and their kin, written with `where`, masks and signs.

A comparison is neither convex nor concave, and yet where(x > 0, x, 0) is convex. So an operator whose result is not
known to be either is looked at once more, together with what it is computed from, if there is a comparison (or a clamp
at both ends) among it:

- as a function of one number, piece by piece and in exact arithmetic (`piecewise`): it is convex if each piece is, the
  pieces meet, and the slope nowhere drops;
- as the larger or the smaller of two quantities: where(a > b, a, b), for a - b a multiple of what is compared.

Solvers take autograd's derivative for a slope, also where pieces meet. There it must lie between those of the pieces;
relu(x) - relu(-x) is x, but its derivative at zero is 0, and a function written so is not claimed to be anything.

Long because the operators of a choice and what becomes of them are read together.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, fx

from convexnet.curvature.call import Call, Lost
from convexnet.curvature.facts import INF, Fact, as_fact
from convexnet.curvature.fields import Shape, core, elementwise, from_core, level
from convexnet.curvature.patterns import piecewise as pw
from convexnet.curvature.patterns import univariate
from convexnet.curvature.patterns.interpreter import combine, is_arithmetic
from convexnet.curvature.patterns.piecewise import Piecewise, Unfit
from convexnet.curvature.row import Sum
from convexnet.curvature.rules.arithmetic import LARGEST, SMALLEST, extremum, identity
from convexnet.curvature.table import row_of
from convexnet.curvature.tracing.graph import base_name, execute_node, is_call_of, is_mutable, is_random, types_of
from convexnet.curvature.value_bounds import EXACT

MOST = 64
"""Nodes of a choice, and different sets of constants in it."""

UNCLEAR = (Unfit, Lost, RuntimeError, TypeError, ValueError, KeyError, ArithmeticError)
"""What goes wrong with a choice that is not understood: of it nothing is claimed."""


# --- operators -------------------------------------------------------------------------------------------------------


def apply_operator(name: str, call: Call, value: Callable[[Any], Any]) -> Piecewise:
    """A call that is no arithmetic, on functions of one number."""
    function = piecewise_function_of(name)
    if function is None:
        raise Unfit
    args = call.args[:1] if row_of(name).runs(identity) else call.args  # whose other arguments are settings
    named = {key: value(given) for key, given in call.kwargs.items() if key in ("min", "max")}
    return function(*map(value, args), **named)


def clamp(f: Piecewise, low: Piecewise | None = None, high: Piecewise | None = None) -> Piecewise:
    f = f if low is None else pw.larger(f, low)
    return f if high is None else pw.smaller(f, high)


def comparison(name: str) -> Callable[..., Any] | None:
    """Python's comparison of the same name."""
    return getattr(operator, name) if name in ("gt", "ge") or name in ("lt", "le") or name in ("eq", "ne") else None


def leaky(f: Piecewise, slope: Piecewise | None = None) -> Piecewise:
    slope = pw.constant_function(0.01) if slope is None else slope
    return above_zero(f, f, slope * f)


def above_zero(f: Piecewise, above: Piecewise, below: Piecewise) -> Piecewise:
    """One of two functions that meet where f is zero: it does not matter which, where it is unsure."""
    return pw.choose(pw.held(pw.sign_function(f, exact=True), operator.gt), above, below)


def elu(f: Piecewise, alpha: Piecewise | None = None) -> Piecewise:
    below = f.exp() + pw.constant_function(-1)
    below = below if alpha is None else alpha * below
    return above_zero(f, f, below)


def as_flag(f: Piecewise) -> Piecewise:
    return pw.compare(f, pw.constant_function(0), operator.ne)


def piecewise_function_of(name: str) -> Callable[..., Piecewise] | None:
    """What an operator makes of functions of one number; None: it is not part of a choice."""
    holds = comparison(name)
    if holds is not None:
        return lambda f, g: pw.compare(f, g, holds)
    match name:
        case "bitwise_and" | "__and__" | "logical_and":
            return operator.mul
        case "logical_or" | "bitwise_or" | "__or__":
            return lambda f, g: as_flag(as_flag(f) + as_flag(g))
        case "logical_not" | "bitwise_not":
            return lambda f: pw.compare(f, pw.constant_function(0), operator.eq)
        case "abs":
            return pw.absolute_value
        case "relu":
            return lambda f: pw.larger(f, pw.constant_function(0))
        case "leaky_relu":
            return leaky
        case "elu":
            return elu
        case "clamp" | "clamp_min":
            return lambda f, low=None, high=None, min=None, max=None: clamp(f, low or min, high or max)
        case "clamp_max":
            return lambda f, high: clamp(f, None, high)
        case "hardtanh":
            return lambda f, low=None, high=None: clamp(
                f, low or pw.constant_function(-1), high or pw.constant_function(1)
            )
        case "relu6":
            return lambda f: clamp(f, pw.constant_function(0), pw.constant_function(6))
        case "sign" | "sgn":
            return pw.sign_function
        case "maximum":
            return pw.larger
        case "minimum":
            return pw.smaller
        case "where":
            return pw.choose
        case "masked_fill":
            return lambda f, mask, value: pw.choose(mask, value, f)
        case "positive":
            return lambda f: f
        case _:
            return (lambda f: f) if row_of(name).runs(identity) else None


def is_comparison(node: fx.Node) -> bool:
    """Whether a node compares, or is cut off at both ends: what no rule of single operators sees through."""
    name = base_name(node.target)
    if comparison(name) or name in ("sign", "sgn") or name in ("hardtanh", "relu6"):
        return True
    both = len(node.args) > 2 or {"min", "max"} <= set(node.kwargs)
    return name == "clamp" and both


def may_be_in_choice(node: fx.Node) -> bool:
    """Whether a node may be part of a choice: an operator on real numbers or on flags, element by element."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
        return False
    name, (kind, *_) = base_name(node.target), types_of(node)
    if not (is_arithmetic(name) or piecewise_function_of(name)) or kind is None or kind.is_complex:
        return False
    if node.kwargs.get("rounding_mode") is not None:
        return False
    if kind.is_floating_point:
        return True
    before = [types_of(other)[0] for other in node.all_input_nodes]
    if kind == torch.bool:  # where a sum is an "or"
        flagged = all(other == torch.bool for other in before)
        return comparison(name) is not None or (flagged and not isinstance(row_of(name).rule, Sum))
    return kind in (torch.int64, torch.int32) and all(other == torch.bool for other in before)


# --- plans -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Choice:
    """An operator with what it is computed from, back to where that is not part of a choice any more."""

    node: fx.Node
    inner: frozenset[fx.Node]
    leaves: frozenset[fx.Node]
    order: Mapping[fx.Node, int] = field(repr=False)
    same: Mapping[fx.Node, int] = field(repr=False)  # one number for all that compute the same of the same

    def find_fact(self, fact_of: Callable[[fx.Node], Any]) -> tuple[Fact, tuple[Fact, ...]] | None:
        """What is known of the result, and of the quantities that it is a function of; None: nothing more."""
        if not all(isinstance(fact_of(leaf), Fact) for leaf in self.leaves):
            return None
        best: tuple[Fact, tuple[Fact, ...]] | None = None
        for root in self.roots(fact_of):
            try:
                found, blurred = self.as_function_of(root, fact_of) or (None, False)
            except UNCLEAR:
                continue
            if found is not None and best is not None:  # another way to write it knows its sign
                best = best[0].bounded(found.lo, found.hi), best[1]
            elif found is not None:
                best = found, (fact_of(root),)
            if found is not None and not blurred:
                return best
        if best is not None:
            return best
        try:
            return self.as_extremum(fact_of)
        except UNCLEAR:
            return None

    def roots(self, fact_of: Callable[[fx.Node], Any]) -> Iterator[fx.Node]:
        """Quantities of which the result is a function of one number: leaves first, then nearer ones."""
        moving = {leaf for leaf in self.leaves if not fact_of(leaf).constant}
        if len({self.same[leaf] for leaf in moving}) == 1:
            yield next(iter(sorted(moving, key=self.order.__getitem__)))
        for node in sorted(self.inner - {self.node}, key=self.order.__getitem__):
            if types_of(node)[0] in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
                if not any(leaf in moving for leaf in self.leaves_past(node)):
                    yield node

    def leaves_past(self, stop: fx.Node) -> set[fx.Node]:
        """The leaves that the result sees past a node, and those equal to it."""
        found, pending, seen = set[fx.Node](), [self.node], set[fx.Node]()
        while pending:
            node = pending.pop()
            if node in seen or self.same[node] == self.same[stop]:
                continue
            seen.add(node)
            if node in self.inner:
                pending += node.all_input_nodes
            else:
                found.add(node)
        return found

    # --- as a function of one number ---------------------------------------------------------------------------------

    def as_function_of(self, root: fx.Node, fact_of: Callable[[fx.Node], Any]) -> tuple[Fact, bool] | None:
        """What is known of the result as a function of the root; and whether rounding hides a sign that it has."""
        u, shape = fact_of(root), tuple(self.node.meta["val"].shape)
        if u.undefined or u.constant or torch.broadcast_shapes(u.shape, shape) != shape:
            return None
        numbers = self.constants(root, fact_of, shape)
        if numbers is None:
            return None
        names, table, which = numbers
        low, high = interval_of(u)
        shapes: list[pw.PieceShape] = []
        sizes: list[pw.PieceShape] = []
        for row in table:
            given = dict(zip(names, row, strict=True))
            f = self.function(root, given)
            valid, valid_size = self.derivatives(root, given, f, low, high)
            shapes.append(pw.shape_of(f, low, high) if valid else pw.PieceShape())
            sizes.append(shape_of_size(f, low, high) if valid_size else pw.PieceShape())
        result = compose_by_kind(u, shape, shapes, which)
        if all(s.convex for s in sizes):
            result = replace(result, size=compose_by_kind(u, shape, sizes, which))
        known = result.size is not None or not bool((core(result.nonconvex) & core(result.nonconcave)).any())
        return (result, any(s.blurred for s in shapes)) if known else None

    def constants(
        self, root: fx.Node, fact_of: Callable[[fx.Node], Any], shape: Shape
    ) -> tuple[list[fx.Node], list[list[float]], Tensor] | None:
        """The leaves that are constants, the different values they have together, and which element has which."""
        leaves = sorted(self.leaves_past(root), key=self.order.__getitem__)
        facts = [fact_of(leaf) for leaf in leaves]
        if any(not isinstance(f, Fact) or f.value is None or f.undefined or not f.constant for f in facts):
            return None
        values = [core(f.value.double().expand(shape)) for f in facts]
        if any(bool(value.isnan().any()) or bool((value.abs() >= EXACT).any()) for value in values):
            return None
        if not values:
            return [], [[]], torch.zeros([1] * len(shape), dtype=torch.int64).expand(shape)
        wide = torch.stack(torch.broadcast_tensors(*values), -1)
        rows, which = torch.unique(wide.reshape(-1, len(values)), dim=0, return_inverse=True)
        if len(rows) > MOST:
            return None
        return leaves, rows.tolist(), which.reshape(wide.shape[:-1]).expand(shape)

    def function(self, root: fx.Node, given: Mapping[fx.Node, float]) -> Piecewise:
        """The result as a function of the root, for one set of constants."""
        made: dict[fx.Node, Piecewise] = {root: pw.U}

        def of(value: Any) -> Any:
            if isinstance(value, fx.Node):
                if value not in made:
                    same = self.same[value] == self.same[root]
                    made[value] = (
                        pw.U if same else pw.constant_function(given[value]) if value in given else made_by(value)
                    )
                return made[value]
            return pw.constant_function(value) if isinstance(value, (int, float)) else value

        def made_by(node: fx.Node) -> Piecewise:
            if node not in self.inner:
                raise Unfit
            args = [given.get(arg, arg) if isinstance(arg, fx.Node) else arg for arg in node.args]
            run = cast("Callable[..., Any]", node.target)
            return combine(Call(run, base_name(run), tuple(args), node.kwargs, ((),)), of, apply_operator)

        return made_by(self.node)

    def derivatives(
        self, root: fx.Node, given: Mapping[fx.Node, float], f: Piecewise, low: pw.End, high: pw.End
    ) -> tuple[bool, bool]:
        """Whether autograd's derivatives where pieces meet lie between those of the pieces; and of its absolute value,
        where it is not zero."""
        valid = valid_size = True
        for b, point, (left, right) in zip(f.breaks, f.points, pairwise(f.pieces), strict=True):
            if (low is not None and b < low) or (high is not None and b > high) or Fraction(float(b)) != b:
                continue
            slope = self.derivative_at(root, given, float(b))
            ends = [decimal_of(pw.value_at(pw.slope(piece), b)) for piece in (left, right)]
            room = 1e-9 * (1 + max(map(abs, ends)))
            fine = min(ends) - room <= slope <= max(ends) + room
            valid = valid and fine
            valid_size = valid_size and (fine or not point)
        return valid, valid_size

    def derivative_at(self, root: fx.Node, given: Mapping[fx.Node, float], u: float) -> float:
        with torch.enable_grad():
            at = torch.full((1,), u, dtype=torch.float64, requires_grad=True)
            made: dict[fx.Node, Any] = {root: at}

            def of(node: fx.Node) -> Any:
                if node not in made:
                    if self.same[node] == self.same[root]:
                        made[node] = at
                    elif node in given:
                        value = torch.full((1,), given[node], dtype=torch.float64)
                        made[node] = value if is_real(node) else value.to(types_of(node)[0])
                    else:
                        part = execute_node(node, of)
                        made[node] = part.double() if is_real(node) else part
                return made[node]

            out = execute_node(self.node, of)
            if not out.requires_grad:
                return 0.0
            (found,) = torch.autograd.grad(out.sum(), at, allow_unused=True, materialize_grads=True)
        return float(found)

    # --- as one of two quantities ------------------------------------------------------------------------------------

    def as_extremum(self, fact_of: Callable[[fx.Node], Any]) -> tuple[Fact, tuple[Fact, ...]] | None:
        """where(a > b, c, d) with c - d = k (a - b): the larger of c and d for k > 0, the smaller for k < 0."""
        node = self.node
        if not is_call_of(node, "where") or len(node.args) < 3:
            return None
        mask, one, other = node.args[:3]
        if not isinstance(mask, fx.Node) or mask not in self.inner or len(mask.args) < 2:
            return None
        turned = {"g": 1, "l": -1}.get(base_name(mask.target)[:1], 0) if comparison(base_name(mask.target)) else 0
        if not turned:
            return None
        forms = [self.linear_form(part, fact_of) for part in (*mask.args[:2], one, other)]
        below = {key: value * turned for key, value in subtract_forms(forms[0], forms[1]).items()}
        apart = subtract_forms(forms[2], forms[3])
        ratios = {apart.get(key, Fraction(0)) / value for key, value in below.items()}
        if set(apart) - set(below) or len(ratios) != 1:
            return None
        (ratio,) = ratios
        if not self.is_sure(ratio, mask.args[:2], (one, other), fact_of):
            return None
        parts = [fact_of(part) if isinstance(part, fx.Node) else as_fact(part) for part in (one, other)]
        if ratio == 0 or any(part.undefined for part in parts):
            return None
        if any(fact_of(part).undefined for part in mask.args[:2] if isinstance(part, fx.Node)):
            return None
        shape = tuple(node.meta["val"].shape)
        result = extremum(parts[0], parts[1], shape, largest=ratio > 0)
        return result, tuple(parts)

    def is_sure(
        self, ratio: Fraction, compared: Sequence[Any], sides: Sequence[Any], fact_of: Callable[[fx.Node], Any]
    ) -> bool:
        """Whether the rounding of what is compared is no more than that of the two sides, when it decides."""
        error, size = (
            [self.linear_form(part, fact_of, absolute=True) for part in parts] for parts in (compared, sides)
        )
        largest = max([Fraction(1), *(value for form in size for value in form.values())])
        return all(abs(ratio) * value <= pw.CLEAR * largest for form in error for value in form.values())

    def linear_form(self, value: Any, fact_of: Callable[[fx.Node], Any], absolute: bool = False) -> dict[Any, Fraction]:
        """A quantity as a sum of multiples of others, and of a number under the key None; `absolute`: of the absolute
        values of all that is added up."""
        found = self.combination(value, fact_of, absolute)
        return {key: abs(v) for key, v in found.items()} if absolute else found

    def combination(self, value: Any, fact_of: Callable[[fx.Node], Any], absolute: bool) -> dict[Any, Fraction]:
        if not isinstance(value, fx.Node):
            return {None: Fraction(value)} if value else {}
        known = fact_of(value)
        if isinstance(known, Fact) and known.value is not None:
            flat = known.value.double().reshape(-1)
            if not len(flat) or not bool((flat == flat[0]).all()) or not bool(flat.isfinite().all()):
                return {self.same[value]: Fraction(1)}
            return {None: Fraction(float(flat[0]))} if float(flat[0]) else {}
        name, args = base_name(value.target), value.args
        if value in self.inner and not value.kwargs and types_of(value)[0] is not torch.bool:
            if name == "add" or name == "sub":
                a, b = (self.linear_form(arg, fact_of, absolute) for arg in args[:2])
                return subtract_forms(a, {key: -v for key, v in b.items()} if name == "add" or absolute else b)
            if name == "neg":
                return subtract_forms({}, self.linear_form(args[0], fact_of, absolute))
            if name == "mul":
                a, b = (self.linear_form(arg, fact_of, absolute) for arg in args[:2])
                a, b = (a, b) if set(b) <= {None} else (b, a)
                if set(b) <= {None}:
                    return {key: v * b[None] for key, v in a.items()} if b else {}
        return {self.same[value]: Fraction(1)}


def is_real(node: fx.Node) -> bool:
    kind = types_of(node)[0]
    return kind is not None and kind.is_floating_point


def subtract_forms(a: Mapping[Any, Fraction], b: Mapping[Any, Fraction]) -> dict[Any, Fraction]:
    keys = {*a, *b}
    found = {key: a.get(key, Fraction(0)) - b.get(key, Fraction(0)) for key in keys}
    return {key: value for key, value in found.items() if value}


def decimal_of(a: pw.Sum) -> float:
    return float(sum(pw.term(key, value) for key, value in a.items()))


def interval_of(u: Fact) -> tuple[pw.End, pw.End]:
    """The interval in which all elements lie."""
    low, high = level(u.lo), level(u.hi)
    low = float(core(u.lo).min()) if low is None else low
    high = float(core(u.hi).max()) if high is None else high
    return (None if low == -INF else Fraction(low)), (None if high == INF else Fraction(high))


def compose_by_kind(u: Fact, shape: Shape, shapes: Sequence[pw.PieceShape], which: Tensor) -> Fact:
    """The composition theorem for functions of u, one for each kind of element."""

    def marks(name: str) -> Tensor:
        found = torch.tensor([getattr(s, name) for s in shapes], dtype=torch.bool)
        return found[0].expand([1] * len(shape)) if bool((found == found[0]).all()) else found[which]

    moves = univariate.ShapeMasks(*map(marks, ("convex", "concave", "rising", "falling")))
    u = u.expanded(shape)
    result = univariate.compose_univariate([u], moves, shape)
    noisy = from_core(marks("noisy"), shape)  # what cancels is constant in exact arithmetic only
    moving = elementwise(torch.logical_or, shape, result.varies, elementwise(torch.logical_and, shape, noisy, u.varies))
    result = replace(result, varies=moving)
    lo = elementwise(lambda m: torch.where(m, 0.0, -INF).double(), shape, marks("nonneg"))
    hi = elementwise(lambda m: torch.where(m, 0.0, INF).double(), shape, marks("nonpos"))
    return result.bounded(lo, hi)


def shape_of_size(f: Piecewise, low: pw.End, high: pw.End) -> pw.PieceShape:
    try:
        return pw.shape_of(pw.absolute_value(f), low, high)
    except Unfit:
        return pw.PieceShape()


def number_equal_nodes(nodes: Sequence[fx.Node]) -> dict[fx.Node, int]:
    """A number for each node: the same for those that compute the same of the same quantities."""
    found: dict[fx.Node, int] = {}
    known: dict[Any, int] = {}
    for node in nodes:
        key: Any = node
        function = node.op == "call_function" and not is_random(node)
        if function and (is_call_of(node, "detach") or not is_mutable(node.target)):
            args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda part: f"%{found[part]}")
            key = (str(node.target), repr(args), repr(kwargs))
        found[node] = known.setdefault(key, len(known))
    return found


@dataclass(frozen=True, eq=False)
class Pick:
    """gather(x, dim, argmax(x, dim, keepdim=True)): the largest along a dimension; likewise with argmin."""

    node: fx.Node
    index: fx.Node
    leaves: frozenset[fx.Node]

    @property
    def inner(self) -> frozenset[fx.Node]:
        return frozenset({self.node, self.index})

    def find_fact(self, fact_of: Callable[[fx.Node], Any]) -> tuple[Fact, tuple[Fact, ...]] | None:
        (source,) = self.leaves
        x: Fact = fact_of(source)
        dim, shape = int(self.node.args[1]), tuple(self.node.meta["val"].shape)  # pyright: ignore[reportArgumentType]
        largest = is_call_of(self.index, "argmax")
        run = torch.ops.aten.amax.default if largest else torch.ops.aten.amin.default
        call = Call(run, "amax" if largest else "amin", (x, [dim], True), {}, (shape,))
        result = (LARGEST if largest else SMALLEST)(call)
        assert isinstance(result, Fact)
        return replace(result, undefined=x.undefined), (x,)


def find_pick(node: fx.Node, same: Mapping[fx.Node, int]) -> Pick | None:
    """A gather of the largest or the smallest elements along a dimension."""
    if not is_call_of(node, "gather") or len(node.args) < 3:
        return None
    source, dim, index = node.args[:3]
    if not isinstance(index, fx.Node) or not (is_call_of(index, "argmax") or is_call_of(index, "argmin")):
        return None
    other = index.args[0]
    if len(index.args) < 3 or not index.args[2] or not isinstance(source, fx.Node) or not isinstance(other, fx.Node):
        return None
    if same[other] != same[source]:
        return None
    rank, along = len(source.meta["val"].shape), index.args[1]
    if not isinstance(dim, int) or not isinstance(along, int) or not rank or dim % rank != along % rank:
        return None
    return Pick(node, index, frozenset({source}))


def find_choices(nodes: Sequence[fx.Node]) -> dict[fx.Node, Choice | Pick]:
    """The operators of a graph whose results may be known as choices; none where nothing is compared.

    Args:
        nodes: those that are needed, in order.
    """
    steps = [node for node in nodes if node.op == "call_function" and may_be_in_choice(node) and is_comparison(node)]
    if not steps and not any(is_call_of(node, "gather") for node in nodes):
        return {}
    same = number_equal_nodes(nodes)
    found: dict[fx.Node, Choice | Pick] = {node: made for node in nodes if (made := find_pick(node, same)) is not None}
    if not steps:
        return found
    order = {node: i for i, node in enumerate(nodes)}
    inner: dict[fx.Node, frozenset[fx.Node]] = {}
    for node in nodes:
        if may_be_in_choice(node):
            whole = frozenset({node}).union(*(inner[part] for part in node.all_input_nodes if part in inner))
            if len(whole) <= MOST:
                inner[node] = whole
    for node, whole in inner.items():
        if any(is_comparison(part) for part in whole) and is_real(node):
            leaves = frozenset(leaf for part in whole for leaf in part.all_input_nodes if leaf not in whole)
            found[node] = Choice(node, whole, leaves, order, same)
    return found
