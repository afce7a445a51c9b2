"""The third kind of operator: elements are moved, copied, dropped, or joined with constants.

Such an operator is its own rule: run on each field of a fact, it puts every element's fact where the element goes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from convexnet.curvature.call import Call, Refusal, Result, facts_in
from convexnet.curvature.facts import Fact, as_fact, constant, viewed
from convexnet.curvature.fields import Shape, compact, core, elementwise, level, uniform
from convexnet.curvature.opaque import Opaque
from convexnet.curvature.powers import exponent_of, widest


@dataclass(frozen=True)
class Moved:
    """Shape operators: every field of the facts goes through the operator itself.

    Where the operator fills with zeros (padding, `tril`), a uniform field is joined with the zero fact instead, so
    that it stays uniform; that claims no more than is true.
    """

    fills: bool = False
    as_float: bool = False  # the operator has no boolean or integer kernel
    picks: tuple[int, str] | None = None  # the argument that says which elements are meant, in tensors of integers

    def __call__(self, call: Call) -> Result:
        if any(isinstance(arg, torch.dtype) for arg in call.args) or call.arg(3, "accumulate") is True:
            raise Refusal("it reinterprets bits, or adds to what is there", "use add, or a cast")
        picks = {id(fact) for fact in facts_in(call.arg(*self.picks))} if self.picks else set[int]()
        facts = [fact for fact in call.read() if id(fact) not in picks]
        if not facts or (self.picks and call.arg(*self.picks) is None):
            return Opaque("it makes indices of integers")(call)
        columns = [
            self.field(call, facts, picks, [fact.fields()[which] for fact in facts], fill)
            for which, fill in enumerate((max, max, max, max, min, max))
        ]
        power = min(fact.power for fact in facts)
        known = degrees_of(facts)
        if self.fills:
            known = {} if known["concavity"] < 0 else {**known, "positive": False}
        moved = tuple(Fact(*(column[i] for column in columns), degree=power, **known) for i in range(len(call.shapes)))
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
                return address(fact)
            found = table.get(id(fact))
            return call.blank(fact) if found is None else found

        out = call.run(exchange)
        parts: Sequence[Tensor] = out if isinstance(out, (tuple, list)) else (out,)
        return [retype(part, dtype) for part in parts]


def degrees_of(facts: Sequence[Fact]) -> dict[str, Any]:
    """What is known of the elements of several tensors together; see `powers`."""
    return {
        "concavity": widest(fact.root for fact in facts),
        "exponent": widest(map(exponent_of, facts)),
        "positive": all(fact.is_positive for fact in facts),
    }


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
    marks = address(mask).bool().expand(tuple(shape))
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
    return concatenated(parts, dim, call.shape)


def stack(call: Call) -> Fact:
    dim = int(call.arg(1, "dim", 0)) % len(call.shape)
    return concatenated([viewed(part, lambda f: f.unsqueeze(dim)) for part in call.args[0]], dim, call.shape)


def concatenated(parts: Sequence[Fact], dim: int, shape: Shape) -> Fact:
    columns: list[Tensor] = []
    for which in range(6):
        inners = [core(part.fields()[which]) for part in parts]
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
