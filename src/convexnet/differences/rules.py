"""How a difference of convex functions passes through each operator: the rules, and which operator has which.

What keeps signs, by the rule table of the calculus, is applied to p and to q. What has weights of any sign, or is a
maximum, has a rule here, by its rule there. An operator without either, and a call that a rule does not cover, is
refused and named, never assumed fine.

Long because it is a table with its rules.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from convexnet.curvature.call import Refusal
from convexnet.curvature.row import Row
from convexnet.curvature.rules import arithmetic, layers, pointwise_with_settings, shapes
from convexnet.curvature.rules.arithmetic import LARGEST, PRODUCT, SMALLEST
from convexnet.curvature.rules.pointwise import Pointwise
from convexnet.curvature.rules.reductions import Window
from convexnet.curvature.rules.shapes import Moved
from convexnet.curvature.table import ABS, HARDSIGMOID
from convexnet.curvature.table import TABLE as KNOWN
from convexnet.differences.arithmetic import (
    Difference,
    Operation,
    Value,
    add_parts,
    as_difference,
    between,
    bilinear,
    items_of,
    larger,
    largest,
    leaky,
    multiply,
    negate,
    parts_of,
    plus,
    smaller,
)

Rule = Callable[[Operation], Any]


def move(call: Operation, indexed: bool = False) -> Any:
    """Operators that are linear in all their tensors, with non-negative coefficients: once on p and once on q. Where
    elements are picked by index (`indexed`), tensors of whole numbers are indices and go to both."""
    given = [v for v in items_of((call.args, tuple(call.kwargs.values()))) if isinstance(v, Difference)]
    straight = all(v.affine for v in given)

    def upper(value: Any) -> Any:
        return value.p if isinstance(value, Difference) else value

    def lower(value: Any) -> Any:
        if indexed and isinstance(value, Tensor) and not value.is_floating_point():
            return value
        p, q, _ = parts_of(value)
        return q if q is not None else torch.zeros_like(p)

    p = call.run(upper)
    q = None if all(v.q is None for v in given) else call.run(lower)
    if isinstance(p, Tensor):
        return Difference(p, q, straight)
    return tuple(Difference(*pair, straight) for pair in zip(p, [None] * len(p) if q is None else q, strict=True))


def gather(call: Operation) -> Any:
    return move(call, indexed=True)


def average(call: Operation) -> Any:
    if call.name.startswith("avg_pool") and (call.arg(6, "divisor_override") or 1) < 0:
        raise Refusal("its divisor is negative", "leave out divisor_override")
    return move(call)


def reshape(call: Operation) -> Difference:
    """Views; p and q need not lie in memory as the model's own value does."""
    shape = call.args[1].p.shape if isinstance(call.args[1], Difference) else call.args[1]
    shape = shape.shape if isinstance(shape, Tensor) else shape
    return call.x.moved(lambda part: part.reshape(shape))


def identity(call: Operation) -> Difference:
    return call.x


def dropout(call: Operation) -> Difference:
    if call.arg(2, "train"):
        raise Refusal("it drops elements at random even under eval()", "pass training=self.training to dropout")
    return call.x


def fresh(call: Operation) -> Value:
    """zeros_like and its kin look at the shape of their argument only."""
    if isinstance(call.arg(1, "value"), Difference):
        return call.args[1].moved(lambda part: part.expand(call.x.p.shape))
    return call.run(lambda value: value.p if isinstance(value, Difference) else value)


def copy(call: Operation) -> Difference:
    return as_difference(call.args[1]).moved(lambda part: part.expand(call.x.p.shape))


def where(call: Operation, order: tuple[int, int, int] = (0, 1, 2)) -> Difference:
    """a where the mask is set, else b. The mask is constant: a comparison with the input is refused."""
    mask, a, b = (call.args[i] for i in order)
    (p1, q1, straight1), (p2, q2, straight2) = parts_of(a), parts_of(b)
    p = torch.where(mask, p1, p2)
    q = None if q1 is None and q2 is None else torch.where(mask, add_parts(q1, 0.0), add_parts(q2, 0.0)).expand_as(p)
    return Difference(p, q, straight1 and straight2)


def pad(call: Operation) -> Difference:
    mode = call.arg(2, "mode", "constant") if call.name == "pad" else "constant"
    q = None if call.x.q is None else F.pad(call.x.q, list(call.args[1]), mode=mode)  # a border of zeros
    return Difference(call.operator(call.x.p, *call.args[1:], **call.kwargs), q, call.x.affine)


def add(call: Operation, sign: float = 1.0) -> Difference:
    a, b = call.args[:2]
    factor = sign * call.arg(2, "alpha", 1)
    return plus(a, multiply(b, factor) if isinstance(b, Difference) else b * factor)


def rsub(call: Operation) -> Difference:
    """aten.rsub(x, other): other − x."""
    return plus(call.args[1], multiply(call.x, -float(call.arg(2, "alpha", 1))))


def product(call: Operation, at: int = 0) -> Difference:
    """mul, matmul and the like, of a difference and a constant."""
    a, b = call.args[at : at + 2]
    if isinstance(a, Difference) and isinstance(b, Difference):
        raise Refusal(PRODUCT, "let only one of the two factors depend on the input: no gate, no attention")
    if not isinstance(a, Difference):
        return (
            multiply(b, float(a)) if isinstance(a, (int, float)) else bilinear(b, a, lambda v, c: call.operator(c, v))
        )
    return multiply(a, float(b)) if isinstance(b, (int, float)) else bilinear(a, b, call.operator)


def quotient(call: Operation) -> Difference:
    a, b = call.args[:2]
    if isinstance(b, Difference) or call.kwargs.get("rounding_mode") is not None:
        raise Refusal("it rounds, or divides by a quantity that depends on the input", "divide by a constant")
    return multiply(a, 1.0 / b)


def sum_of_products(call: Operation) -> Difference:
    """addmm, baddbmm, addmv: beta M + alpha (A @ B)."""
    if any(isinstance(value, Difference) for value in call.args[1:3]):
        result: Value = multiply(product(replace(call, operator=torch.matmul), at=1), call.arg(4, "alpha", 1))
    else:
        result = torch.matmul(*call.args[1:3]) * call.arg(4, "alpha", 1)
    return plus(result, multiply(as_difference(call.args[0]), call.arg(3, "beta", 1)))


def addcmul(call: Operation) -> Value:
    """addcmul: a + value b c."""
    a, b, c = call.args[:3]
    if not isinstance(b, Difference) and not isinstance(c, Difference):
        return plus(a, b * c * call.arg(3, "value", 1))
    return plus(a, multiply(product(replace(call, operator=torch.mul), at=1), call.arg(3, "value", 1)))


def lerp(call: Operation) -> Difference:
    """lerp: (1 - w) start + w end."""
    start, end, share = call.args[:3]
    if isinstance(share, Difference):
        raise Refusal(PRODUCT, "let the weight not depend on the input")
    return plus(multiply(as_difference(start), 1.0 - share), multiply(as_difference(end), share))


def contraction(call: Operation) -> Difference:
    """einsum of two operands."""
    operands = call.args[1]
    if len(operands) != 2:
        raise Refusal("it is an einsum of one operand, or of more than two", "use sum, permute or two einsums")
    pair = replace(call, args=tuple(operands), operator=lambda a, b: call.operator(call.args[0], [a, b]))
    return product(pair)


def contract_pairs(call: Operation) -> Difference:
    """tensordot and the like: two tensors, and settings."""
    return product(replace(call, operator=lambda a, b: call.operator(a, b, *call.args[2:], **call.kwargs)))


def apply_layer(call: Operation) -> Difference:
    """linear and convolutions: arguments x, weight, bias, settings."""
    x, w, bias = call.args[0], call.args[1], call.arg(2, "bias")
    if isinstance(w, Difference) or isinstance(bias, Difference):
        raise Refusal(PRODUCT, "let the weights of a layer not depend on the input")
    kwargs = {key: value for key, value in call.kwargs.items() if key != "bias"}
    result = bilinear(x, w, lambda v, c: call.operator(v, c, None, *call.args[3:], **kwargs))
    return result if bias is None else plus(result, bias.reshape(-1, *[1] * (w.ndim - 2)))


def batch_norm(call: Operation) -> Difference:
    """In eval mode γ (x − mean)/√(var + eps) + β."""
    x, gamma, beta, mean, var = call.args[:5]
    training, eps = (False, call.args[6]) if call.name.startswith("_native") else (call.args[5], call.args[7])
    if training or mean is None or any(isinstance(value, Difference) for value in call.args[1:5]):
        raise Refusal("it normalises with the statistics of the batch", "keep running statistics (BatchNorm's default)")
    scale = torch.rsqrt(var + eps) if gamma is None else gamma * torch.rsqrt(var + eps)
    shift = -mean * scale if beta is None else beta - mean * scale
    tail = [1] * (x.p.ndim - 2)
    return plus(multiply(x, scale.reshape(-1, *tail)), shift.reshape(-1, *tail))


def prelu(call: Operation) -> Difference:
    x, slope = call.args[:2]
    if isinstance(slope, Difference):
        raise Refusal(PRODUCT, "let the slope not depend on the input")
    return leaky(x, slope if slope.ndim == x.p.ndim else slope.reshape(-1, *[1] * max(0, x.p.ndim - 2)))


def threshold(call: Operation) -> Difference:
    if call.args[1] != call.args[2]:
        raise Refusal("it jumps at its threshold", "let it fill with the threshold itself")
    return larger(call.x, float(call.args[1]))


def extremum(call: Operation, sign: int) -> Difference:
    """max and min of two, over dimensions, or over everything."""
    other = call.arg(1, "other")
    if isinstance(other, (Difference, Tensor)):
        return larger(call.args[0], other) if sign > 0 else smaller(call.x, other)
    dims = call.arg(1, "dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(call.x.p.ndim))
    keepdim = bool(call.arg(2, "keepdim", False))
    return largest(call.x, dims, keepdim) if sign > 0 else negate(largest(negate(call.x), dims, keepdim))


def max_pool(call: Operation) -> Difference:
    """Maxima over windows, which are cut out by slices, one for each place in the window."""
    out = call.operator(call.x.p, *call.args[1:], **call.kwargs)
    out = out if isinstance(out, Tensor) else out[0]
    x = call.x
    if x.q is None:
        return Difference(out)
    dims = next(int(character) for character in call.name if character in "123")
    if call.name.startswith("adaptive"):
        sizes = list(zip(x.p.shape[-dims:], out.shape[-dims:], strict=True))
        if any(size % count for size, count in sizes):
            raise Refusal("its windows have different sizes", "choose an output size that divides the input's")
        kernel = [size // count for size, count in sizes]
        stride, padding, dilation = kernel, [0] * dims, [1] * dims
    else:
        kernel, stride, padding, dilation = (
            list(setting) * dims if len(setting) == 1 else list(setting)
            for setting in (
                call.args[1],
                call.arg(2, "stride") or call.args[1],
                call.arg(3, "padding", [0]),
                call.arg(4, "dilation", [1]),
            )
        )
    spans = [
        [slice(k * d, k * d + (n - 1) * s + 1, s) for k in range(size)]
        for size, s, d, n in zip(kernel, stride, dilation, out.shape[-dims:], strict=True)
    ]
    needed = [span[-1].stop for span in spans]
    border = [
        width
        for before, length, need in reversed(list(zip(padding, x.p.shape[-dims:], needed, strict=True)))
        for width in (before, max(0, need - before - length))
    ]
    p, q = F.pad(x.p, border, value=-torch.inf), F.pad(x.q, border)
    return reduce(larger, (Difference(p[..., *at], q[..., *at]) for at in itertools.product(*spans)))


WITHOUT_ROW: tuple[tuple[str, Rule], ...] = (
    ("sym_size", lambda call: call.x.p.shape[call.args[1]]),
    ("sym_numel", lambda call: call.x.p.numel()),
)
"""By operator: those that the calculus has no row for."""

COUNTERPARTS: dict[Any, Rule] = {
    # --- linear, with weights of any sign ----------------------------------------------------------------------------
    **dict.fromkeys((layers.linear, layers.conv, layers.conv_transpose, layers.convolution_generic), apply_layer),
    **dict.fromkeys((arithmetic.mul, layers.matmul, layers.outer), product),
    layers.addmm: sum_of_products,
    arithmetic.addcmul: addcmul,
    arithmetic.lerp: lerp,
    layers.einsum: contraction,
    layers.sum_of_paired_products: contract_pairs,
    arithmetic.div: quotient,
    **dict.fromkeys((layers.batch_norm, layers.batch_norm_functional), batch_norm),
    arithmetic.add: add,
    arithmetic.sub: lambda call: add(call, -1.0),
    arithmetic.rsub: rsub,
    arithmetic.neg: lambda call: negate(call.x),
    # --- piecewise linear --------------------------------------------------------------------------------------------
    pointwise_with_settings.relu: lambda call: larger(call.x, 0.0),
    pointwise_with_settings.relu6: lambda call: between(call.x, 0.0, 6.0),
    ABS: lambda call: larger(call.x, negate(call.x)),
    pointwise_with_settings.leaky_relu: lambda call: leaky(call.x, float(call.arg(1, "negative_slope", 0.01))),
    pointwise_with_settings.threshold: threshold,
    pointwise_with_settings.hardtanh: lambda call: between(
        call.x, call.arg(1, "min_val", -1.0), call.arg(2, "max_val", 1.0)
    ),
    HARDSIGMOID: lambda call: multiply(between(plus(call.x, 3.0), 0.0, 6.0), 1 / 6),
    arithmetic.clamp_below: lambda call: between(call.x, call.arg(1, "min"), call.arg(2, "max")),
    arithmetic.clamp_above: lambda call: between(call.x, None, call.arg(1, "max")),
    LARGEST: lambda call: extremum(call, 1),
    SMALLEST: lambda call: extremum(call, -1),
    arithmetic.prelu: prelu,
    arithmetic.maximum: lambda call: larger(call.args[0], call.args[1]),
    arithmetic.minimum: lambda call: extremum(call, -1),
    arithmetic.largest: lambda call: extremum(call, 1),
    arithmetic.smallest: lambda call: extremum(call, -1),
    # --- elements moved by a function of their own -------------------------------------------------------------------
    shapes.reshaped: reshape,
    arithmetic.identity: identity,
    arithmetic.dropout: dropout,
    shapes.fresh: fresh,
    shapes.copy: copy,
    shapes.where: where,
    shapes.masked_fill: lambda call: where(call, (1, 2, 0)),
    shapes.pad: pad,
}
"""By the rule of the calculus, or by what it says of a function of one number."""


def rule_of(row: Row) -> Rule | None:
    """How a difference passes through an operator that is known by its row; None: in no way that is known."""
    own = COUNTERPARTS.get(row.rule.profile if isinstance(row.rule, Pointwise) else row.run)
    if own is not None or not row.keeps_signs:
        return max_pool if isinstance(row.rule, Window) and row.rule.curvature == "convex" else own
    if isinstance(row.rule, Window):
        return average
    return gather if isinstance(row.rule, Moved) and row.rule.picks else move


def build(rows: Sequence[tuple[str, Rule]]) -> dict[str, Rule]:
    """The table by operator name; refuses duplicates, which a dictionary literal would swallow."""
    table = dict(rows)
    if len(table) != len(rows):
        raise ValueError("the table of differences lists an operator twice")
    return table


TABLE = {name: rule for name, row in KNOWN.items() if (rule := rule_of(row))} | build(WITHOUT_ROW)
