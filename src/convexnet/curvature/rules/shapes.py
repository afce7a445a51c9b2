"""The third kind of operator: elements are moved, copied, dropped, or joined with constants.

Such an operator is its own rule: run on each field of a fact, it puts every element's fact where the element goes.

Long because rules that move elements and what is moved with them are read together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from convexnet.curvature.call import Call, Refusal, Result, Rule, facts_in
from convexnet.curvature.facts import Fact, as_fact, constant, viewed
from convexnet.curvature.fields import Shape, compact, core, elementwise, join_rows, level, put_together, uniform
from convexnet.curvature.row import Kind
from convexnet.curvature.rules.opaque_operators import Opaque
from convexnet.curvature.rules.powers import concavity_of_exp, widest_concavity


@dataclass(frozen=True, kw_only=True)
class Moving(Kind):
    """Elements are moved, copied, dropped, or joined with constants."""

    drops: bool = True  # it may leave elements of an argument out
    repeats: bool = True  # it may use an element many times
    in_order: bool = False  # it keeps all elements, in their order

    @property
    def is_affine(self) -> bool:
        return True

    @property
    def keeps_signs(self) -> bool:
        return True

    @property
    def is_move(self) -> bool:
        return True

    @property
    def is_view(self) -> bool:
        return self.in_order


@dataclass(frozen=True)
class Placed(Moving):
    """Elements are moved by a function of their own."""

    run: Rule
    plain: bool = False  # no setting says what else stands among them, or converts them

    @property
    def adds_nothing(self) -> bool:
        return self.plain

    def __call__(self, call: Call) -> Result:
        return self.run(call)


@dataclass(frozen=True)
class Moved(Moving):
    """Shape operators: every field of the facts goes through the operator itself.

    Where the operator fills with zeros (padding, `tril`), a uniform field is joined with the zero fact instead, so
    that it stays uniform; that claims no more than is true.
    """

    fills: bool = False
    as_float: bool = False  # the operator has no boolean or integer kernel
    picks: tuple[int, str] | None = None  # the argument that says which elements are meant, in tensors of integers
    anywhere: bool = False  # which may be the numbers of another input

    @property
    def adds_nothing(self) -> bool:
        return True

    def __call__(self, call: Call) -> Result:
        if any(isinstance(arg, torch.dtype) for arg in call.args) or call.arg(3, "accumulate") is True:
            raise Refusal("it reinterprets bits, or adds to what is there", "use add, or a cast")
        picks = {id(fact) for fact in facts_in(call.arg(*self.picks))} if self.picks else set[int]()
        facts = [fact for fact in call.read() if id(fact) not in picks]
        if not facts or (self.picks and call.arg(*self.picks) is None):
            return Opaque("it makes indices of integers")(call)
        anywhere = (
            chosen_elsewhere(call)
            if self.picks and any(f.value is None for f in facts_in(call.arg(*self.picks)))
            else None
        )
        if anywhere is not None:
            facts = [alike_along(facts[0], anywhere)]
            call = replace(call, args=(facts[0], *call.args[1:]))
        columns = [
            self.field(call, facts, picks, [fact.fields()[which] for fact in facts], fill)
            for which, fill in enumerate((max, max, max, max, min, max))
        ]
        power = min(fact.power for fact in facts)
        known = degrees_of(facts)
        if self.fills:
            known = {} if known["concavity"] < 0 else {**known, "positive": False}
        moved = tuple(Fact(*(column[i] for column in columns), degree=power, **known) for i in range(len(call.shapes)))
        if anywhere is not None:
            moved = (replace(moved[0], rows=join_rows(moved[0].rows, rows_of_picks(call, self.picks), call.shape)),)
        return moved[0] if len(moved) == 1 else moved

    def field(
        self,
        call: Call,
        facts: Sequence[Fact],
        picks: set[int],
        fields: Sequence[Tensor],
        fill: Callable[[float, float], float],
    ) -> list[Tensor]:
        """One field of the results."""
        dtype = fields[0].dtype if fields[0].dtype in (torch.bool, torch.uint8) else torch.float64
        cores = [core(field) for field in fields]
        if all(inner.numel() == 1 for inner in cores):
            values = {
                float(inner) if value is None else value for inner, value in zip(cores, map(level, fields), strict=True)
            }
            if len(values) == 1:
                value = values.pop()
                return [uniform(fill(value, 0.0) if self.fills else value, shape, dtype) for shape in call.shapes]
        work = torch.float64 if self.as_float else dtype
        table = {id(fact): inner.to(work).expand(fact.shape) for fact, inner in zip(facts, cores, strict=True)}

        def exchange(fact: Fact) -> Tensor:
            if id(fact) in picks:
                return as_index(fact, anywhere=self.anywhere and len(facts) == 1)
            found = table.get(id(fact))
            return call.blank(fact) if found is None else found

        out = call.run(exchange)
        parts: Sequence[Tensor] = out if isinstance(out, (tuple, list)) else (out,)
        return [retype(part, dtype) for part in parts]


def degrees_of(facts: Sequence[Fact]) -> dict[str, Any]:
    """What is known of the elements of several tensors together; see `powers`."""
    return {
        "concavity": widest_concavity(fact.root for fact in facts),
        "exponent": widest_concavity(map(concavity_of_exp, facts)),
        "positive": all(fact.is_positive for fact in facts),
    }


def chosen_elsewhere(call: Call) -> list[int] | None:
    """The dimensions along which elements are picked by another input (a class by its label), where the operator is one
    that picks: the result may then be any of the elements along them."""
    if not all(fact.constant for fact in facts_in(call.args[1:])):
        return None
    if call.name in ("gather", "index_select"):
        return [int(call.args[1]) % len(call.x.shape)]
    if call.name == "index":
        found = [d for d, fact in enumerate(call.args[1]) if isinstance(fact, Fact) and fact.value is None]
        return found if all(fact.hi.numel() == 0 or not is_mask(fact) for fact in facts_in(call.args[1])) else None
    return None


def is_mask(fact: Fact) -> bool:
    return fact.value is not None and fact.value.dtype == torch.bool


def alike_along(x: Fact, dims: Sequence[int]) -> Fact:
    """A fact that holds for each element along some dimensions, whichever it is."""

    def over(field: Tensor, join: Callable[..., Tensor]) -> Tensor:
        inner = core(field)
        for d in dims:
            inner = join(inner, dim=d, keepdim=True)
        return inner.expand(tuple(x.shape))

    def union(inner: Tensor, dim: int, keepdim: bool) -> Tensor:
        return (
            torch.stack([((inner & bit) > 0).any(dim=dim, keepdim=keepdim) * bit for bit in (1, 2)])
            .sum(0)
            .to(inner.dtype)
        )

    a, b, c, rows, lo, hi = x.fields()
    return replace(
        x,
        **{name: over(field, torch.any) for name, field in (("nonconvex", a), ("nonconcave", b), ("varies", c))},
        rows=over(rows, union),
        lo=over(lo, torch.amin),
        hi=over(hi, torch.amax),
        value=None,
        made=None,
    )


def rows_of_picks(call: Call, place: tuple[int, str] | None) -> Tensor:
    """The rows of the batch that the indices come from."""
    assert place is not None
    found = uniform(0, call.shape, torch.uint8)
    for fact in facts_in(call.arg(*place)):
        if tuple(fact.shape) == tuple(call.shape) or level(fact.rows) == 0:
            found = join_rows(
                found, fact.rows if level(fact.rows) != 0 else uniform(0, call.shape, torch.uint8), call.shape
            )
        elif (
            call.name == "index"
            and None not in call.args[1]
            and len(fact.shape) == 1
            and fact.shape[0] == call.shape[0]
        ):
            rows = fact.rows.reshape(-1, *[1] * (len(call.shape) - 1)).expand(tuple(call.shape))
            found = join_rows(found, rows, call.shape)
        else:
            found = uniform(3, call.shape, torch.uint8)
    return found


def as_index(fact: Fact, anywhere: bool = False) -> Tensor:
    """The indices themselves; only constants are accepted as such."""
    if fact.value is None and anywhere and fact.constant:
        return torch.zeros(tuple(fact.shape), dtype=torch.int64)  # the elements are alike
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


def reshaped(call: Call) -> Fact:
    """view and reshape; a view may have to copy here, since facts are not contiguous."""
    if any(isinstance(arg, torch.dtype) for arg in call.args):
        raise Refusal("it reinterprets bits as another type", "use a cast")
    return viewed(call.x, lambda field: compact(field.reshape(tuple(call.shape))))


def fresh(call: Call) -> Fact:
    """zeros_like, new_ones, full_like, fill: the result depends on the shape of the argument only."""
    for filler in (call.arg(1, "value"), call.arg(2, "fill_value")):
        if isinstance(filler, Fact):
            return replace(filler, value=None).expanded(call.shape)
    raise Refusal("what it fills with is not known")


def copy(call: Call) -> Fact:
    """b copied into a, whose type may be another; of a value that is known the walk makes a copy itself."""
    return replace(call.args[1], value=None).expanded(call.shape)


def masked_fill(call: Call) -> Fact:
    """The value where the mask is set, else x."""
    return choice(call.args[1], as_fact(call.args[2]), call.x, call.shape)


def where(call: Call) -> Fact:
    """a where the mask is set, else b; the mask is constant."""
    if len(call.args) < 3:
        raise Refusal("it lists the places where a condition holds", "write the choice as a maximum")
    return choice(call.args[0], as_fact(call.args[1]), as_fact(call.args[2]), call.shape)


def choice(mask: Fact, a: Fact, b: Fact, shape: Shape) -> Fact:
    """Each element from a or from b, as a mask of known value says."""
    marks = as_index(mask).bool().expand(tuple(shape))
    columns: list[Tensor] = []
    for one, other in zip(a.expanded(shape).fields(), b.expanded(shape).fields(), strict=True):
        if one.is_floating_point():  # known values keep their type, and a float32 field is no place for float64 bounds
            one, other = retype(one, torch.float64), retype(other, torch.float64)
        columns.append(elementwise(torch.where, shape, marks, one, other))
    return Fact(*columns, degree=min(a.power, b.power), **degrees_of([a, b]))


def cat(call: Call) -> Fact:
    """Concatenation, keeping dimensions uniform where all the parts agree to be."""
    parts = [fact for fact in call.args[0] if fact.shape.numel() > 0]
    if not parts:
        return constant(call.shape)
    dim = int(call.arg(1, "dim", 0)) % len(call.shape)
    return concatenate(parts, dim, call.shape)


def stack(call: Call) -> Fact:
    dim = int(call.arg(1, "dim", 0)) % len(call.shape)
    return concatenate([viewed(part, lambda f: f.unsqueeze(dim)) for part in call.args[0]], dim, call.shape)


def concatenate(parts: Sequence[Fact], dim: int, shape: Shape) -> Fact:
    columns: list[Tensor] = []
    for which in range(6):
        fields = [part.fields()[which] for part in parts]
        whole = put_together(fields, dim, shape)
        if whole is not None:
            columns.append(whole)
            continue
        inners = [core(field) for field in fields]
        if which >= 4:
            inners = [inner.double() for inner in inners]
        sizes = [max(inner.shape[d] for inner in inners) for d in range(len(shape))]
        wide = [
            inner.expand([part.shape[d] if d == dim else sizes[d] for d in range(len(shape))])
            for inner, part in zip(inners, parts, strict=True)
        ]
        columns.append(compact(torch.cat(wide, dim), shape) if len(wide) > 1 else wide[0].expand(tuple(shape)))
    return Fact(*columns, degree=min(part.power for part in parts), **degrees_of(parts))


def pad(call: Call) -> Fact:
    """Constant padding: the border is a constant. The other modes move elements."""
    x, widths = call.x, call.args[1]
    named = isinstance(call.arg(2, "mode"), str)
    mode = call.arg(2, "mode", "constant") if named else "constant"
    filler = call.arg(3, "value") if named else call.arg(2, "value")
    value = float(filler or 0.0)
    columns: list[Tensor] = []
    for which, field in enumerate(x.fields()):
        fill = value if which >= 4 and mode == "constant" else 0.0
        inner = core(field)
        if inner.numel() == 1:
            number = float(inner)
            joined = number if mode != "constant" else (min(number, fill) if which == 4 else max(number, fill))
            columns.append(uniform(joined, call.shape, torch.float64 if which >= 4 else field.dtype))
        else:
            wide = inner.double().expand(field.shape)
            moved = compact(F.pad(wide, list(widths), mode=mode, **({"value": fill} if mode == "constant" else {})))
            columns.append(core(moved).to(torch.float64 if which >= 4 else field.dtype).expand(tuple(call.shape)))
    return Fact(*columns, degree=x.power if value >= 0 else 0.0)
