"""The short list of exceptions: operators that are not simply one of the kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from convexnet.curvature.call import Call, Refusal, Result
from convexnet.curvature.facts import (
    INF,
    Fact,
    Influence,
    Shape,
    compact,
    compose,
    constant,
    core,
    elementwise,
    known,
    uniform,
    unknown,
    where_any,
)
from convexnet.curvature.kinds import Opaque, Reduction, below
from convexnet.curvature.linear import (
    Contraction,
    Pairing,
    Product,
    bilinear,
    convolution,
    total,
    with_degree,
)
from convexnet.curvature.pointwise import Profile, apply_profile, clamp, power, relu

PRODUCT = "it multiplies two quantities that both depend on the input, and such a product is convex in neither"


def as_fact(value: Any) -> Fact:
    """A fact for a tensor argument or a Python number."""
    return value if isinstance(value, Fact) else known(torch.tensor(float(value), dtype=torch.float64))


def viewed(fact: Fact, move: Callable[[Tensor], Tensor]) -> Fact:
    """The fact of a view: `move` is applied to every field, and to the value."""
    value = None if fact.value is None else move(fact.value)
    return Fact(*(move(f) for f in fact.fields()), degree=fact.degree, value=value, integral=fact.integral)


# --- sums and products -----------------------------------------------------------------------------------------------


def identity(call: Call) -> Fact:
    """Copies, casts between floating types, dropout in eval mode: exact in real arithmetic."""
    if not call.floating and not call.x.integral:
        raise Refusal("it rounds to whole numbers", "keep the model in floating point")
    return replace(call.x, integral=False) if call.floating and call.x.integral else call.x


def dropout(call: Call) -> Fact:
    if call.arg(2, "train"):
        raise Refusal(
            "it drops elements at random: dropout in training mode, even under eval()",
            "use nn.Dropout, or pass training=self.training to the functional form",
        )
    return call.x


def add(call: Call, sign: int = 1) -> Fact:
    """a + alpha b."""
    a, b = as_fact(call.args[0]), as_fact(call.args[1])
    alpha = call.arg(2, "alpha", 1)
    if alpha != 1:
        b = product(b, as_fact(alpha), b.shape)
    return total([(a, 1), (b, sign)], call.shape)


def sub(call: Call) -> Fact:
    return add(call, sign=-1)


def rsub(call: Call) -> Fact:
    swapped = replace(call, args=(as_fact(call.args[1]), call.args[0], *call.args[2:]))
    if call.arg(2, "alpha", 1) != 1:
        raise Refusal("it is rsub with a factor")
    return add(swapped, sign=-1)


def neg(call: Call) -> Fact:
    return total([(call.x, -1)], call.shape)


def product(a: Fact, b: Fact, shape: Shape) -> Fact:
    """a * b, where the one that does not vary is the coefficient."""
    if a is b:
        return raised(a, 2.0, torch.square)
    if b.constant and (b.value is not None or not a.constant or a.value is None):
        return bilinear(a.expanded(shape), b.expanded(shape), Product(shape), shape)
    if a.constant:
        return bilinear(b.expanded(shape), a.expanded(shape), Product(shape), shape)
    if a.power == b.power == INF:  # log-convex functions are closed under multiplication
        result = total([(a, 1), (b, 1)], shape)
        line = uniform(0.0, shape, torch.float64), uniform(INF, shape, torch.float64)
        return with_degree(result.bounded(*line), INF)
    raise Refusal(PRODUCT, "multiply by a constant or a non-negative parameter, or add the two quantities instead")


def mul(call: Call) -> Fact:
    return product(as_fact(call.args[0]), as_fact(call.args[1]), call.shape)


def reciprocal_of(b: Fact) -> Fact:
    if b.value is not None:
        return known(1.0 / b.value.double())
    return apply_profile(power(-1.0), torch.reciprocal, b)


def div(call: Call) -> Fact:
    if call.kwargs.get("rounding_mode") is not None:
        raise Refusal("it rounds the quotient", "divide without rounding_mode")
    a, b = as_fact(call.args[0]), as_fact(call.args[1])
    if b.constant:
        if b.value is None and bool(((core(b.lo) <= 0) & (core(b.hi) >= 0)).any()):
            if a.constant:
                return Opaque("")(call)  # type: ignore[return-value]
            raise Refusal("it divides by a quantity that may be zero or of either sign", "divide by a positive quantity")
        return product(a, reciprocal_of(b), call.shape)
    if a.constant:
        return product(a, raised(b, -1.0, torch.reciprocal), call.shape)
    raise Refusal(
        "it divides by a quantity that depends on the input, and so does what is divided",
        "divide by a constant; normalise with BatchNorm in eval mode rather than by statistics of the sample",
    )


def addcmul(call: Call) -> Fact:
    a, b, c = (as_fact(arg) for arg in call.args[:3])
    bc = product(b, c, call.shape)
    return total([(a, 1), (product(bc, as_fact(call.arg(3, "value", 1)), call.shape), 1)], call.shape)


def lerp(call: Call) -> Fact:
    """start + weight (end - start), with a weight that does not vary: (1 - weight) start + weight end."""
    start, end, weight = (as_fact(arg) for arg in call.args[:3])
    rest = total([(as_fact(1.0), 1), (weight, -1)], weight.shape)
    if weight.value is not None:
        rest = known(1.0 - weight.value.double())
    return total([(product(start, rest, call.shape), 1), (product(end, weight, call.shape), 1)], call.shape)


# --- powers, exponentials and logarithms -----------------------------------------------------------------------------


def raised(x: Fact, exponent: float, operator: Callable[[Tensor], Tensor]) -> Fact:
    """x^r. If z >= 0 is a d-th power of something convex, z^r is a (d r)-th power, and convex if d r >= 1."""
    result = apply_profile(power(exponent), operator, x)
    degree = x.power * exponent if exponent > 0 else 0.0
    if degree >= 1 and where_any(result.nonconvex):
        result = replace(result, nonconvex=uniform(False, result.shape, torch.bool))
    if exponent > 0 and exponent % 2 == 0 and not where_any(result.nonconvex):
        degree = max(degree, exponent)
    return with_degree(result, degree)


def pow_(call: Call) -> Fact:
    base, exponent = call.args[0], call.args[1]
    if isinstance(exponent, Fact):
        if exponent.value is None or exponent.value.numel() != 1:
            if isinstance(base, Fact) or not exponent.constant:
                raise Refusal("its exponent is not one fixed number", "use a constant exponent")
        exponent = float(exponent.value) if exponent.value is not None else exponent
    if isinstance(base, Fact) and not isinstance(exponent, Fact):
        return raised(base, float(exponent), lambda v: v**exponent)
    raise Refusal("its exponent depends on the input", "write a^x as torch.exp(x * log(a))")


def powers(exponent: float) -> Callable[[Call], Fact]:
    return lambda call: raised(call.x, exponent, call.on)


def log(call: Call) -> Fact:
    """Concave and rising, and convex after a sum of exponentials (log-convex functions)."""
    profile = Profile(
        concave=((5e-324, INF),), rising=((5e-324, INF),), nonneg=((1.0, INF),), nonpos=((0.0, 1.0),),
        note="the logarithm is concave: it is convex only after a sum of exponentials",
    )  # fmt: skip
    result = apply_profile(profile, call.on, call.x)
    if call.x.power == INF:
        return replace(result, nonconvex=uniform(False, result.shape, torch.bool))
    return result


# --- maxima and choices ----------------------------------------------------------------------------------------------


def extremum(a: Fact, b: Fact, shape: Shape, largest: bool) -> Fact:
    """max(a, b) or min(a, b), elementwise with broadcasting."""
    a, b = a.expanded(shape), b.expanded(shape)
    everywhere = uniform(True, shape, torch.bool)
    bends = {"bends_up": everywhere} if largest else {"bends_down": everywhere}
    result = compose([Influence(f, up=lambda m: m) for f in (a, b)], shape, **bends)
    pick = torch.maximum if largest else torch.minimum
    lo = elementwise(lambda u, v: pick(u.double(), v.double()), shape, a.lo, b.lo)
    hi = elementwise(lambda u, v: pick(u.double(), v.double()), shape, a.hi, b.hi)
    return with_degree(result.bounded(lo, hi), min(a.power, b.power) if largest else 0.0)


def maximum(call: Call) -> Fact:
    return extremum(as_fact(call.args[0]), as_fact(call.args[1]), call.shape, largest=True)


def minimum(call: Call) -> Fact:
    return extremum(as_fact(call.args[0]), as_fact(call.args[1]), call.shape, largest=False)


LARGEST, SMALLEST = Reduction("up", exact=True), Reduction("down", exact=True)


def largest(call: Call) -> Result:
    """torch.max in its three forms: of two tensors, over one dimension (with indices), over everything."""
    return maximum(call) if isinstance(call.arg(1, "other"), Fact) else LARGEST(call)


def smallest(call: Call) -> Result:
    return minimum(call) if isinstance(call.arg(1, "other"), Fact) else SMALLEST(call)


def clamped(call: Call) -> Fact:
    low, high = call.arg(1, "min"), call.arg(2, "max")
    if not isinstance(low, Fact) and not isinstance(high, Fact):
        return apply_profile(clamp(low, high), call.on, call.x)
    result = call.x
    if low is not None:
        result = extremum(result, as_fact(low), call.shape, largest=True)
    return result if high is None else extremum(result, as_fact(high), call.shape, largest=False)


def prelu(call: Call) -> Fact:
    """max(x, 0) + a min(x, 0) with a slope per channel: convex where a <= 1, non-decreasing where a >= 0."""
    x, slope = call.args[0], call.args[1]
    if slope.shape.numel() == 1:
        a = viewed(slope, lambda f: f.reshape([1] * len(x.shape)).expand(x.shape))
    else:
        tail = [1] * (len(x.shape) - 2)
        a = viewed(slope, lambda f: f.reshape(1, -1, *tail).expand(x.shape))
    crosses = elementwise(lambda lo, hi: (lo < 0) & (hi > 0), x.shape, x.lo, x.hi)
    left = below(x)
    rises = elementwise(lambda hi, n, ahi: (hi > 0) | (n & (ahi > 0)), x.shape, x.hi, left, a.hi)
    falls = elementwise(lambda n, alo: n & (alo < 0), x.shape, left, a.lo)
    result = compose(
        [
            Influence(
                x,
                up=lambda m: elementwise(torch.logical_and, x.shape, m, rises),
                down=lambda m: elementwise(torch.logical_and, x.shape, m, falls),
            )
        ],
        x.shape,
        bends_up=elementwise(lambda c, alo: c & (alo < 1), x.shape, crosses, a.lo),
        bends_down=elementwise(lambda c, ahi: c & (ahi > 1), x.shape, crosses, a.hi),
    )

    def image(lo: Tensor, hi: Tensor, alo: Tensor, ahi: Tensor) -> Tensor:
        ends = [
            v.clamp(min=0) + torch.where(v < 0, v * s, 0.0).nan_to_num(nan=0.0, posinf=INF, neginf=-INF)
            for v in torch.broadcast_tensors(lo.double(), hi.double(), lo.double().clamp(max=0.0))
            for s in (alo.double(), ahi.double())
        ]
        ends = torch.broadcast_tensors(*ends, torch.where((lo < 0) & (hi > 0), 0.0, ends[0]))
        stack = torch.stack(ends)
        low, high = stack.amin(0), stack.amax(0)
        return torch.stack([low - 1e-15 * low.abs().nan_to_num(posinf=0.0), high + 1e-15 * high.abs().nan_to_num(posinf=0.0)])

    both = image(*(core(f) for f in (x.lo, x.hi, a.lo, a.hi)))
    return result.bounded(both[0].expand(x.shape), both[1].expand(x.shape))


def log_softmax(call: Call) -> Fact:
    """x_i - logsumexp(x): concave, rising in x_i and falling in the others; so affine arguments only."""
    x, dim = call.x, int(call.arg(1, "dim"))
    everywhere = uniform(True, call.shape, torch.bool)

    def reach(mask: Tensor) -> Tensor:
        return core(mask).any(dim, keepdim=True).expand(tuple(call.shape))

    result = compose([Influence(x, up=reach, down=reach)], call.shape, bends_down=everywhere)
    return result.bounded(result.lo, uniform(0.0, call.shape, torch.float64))


# --- weighted linear maps --------------------------------------------------------------------------------------------


def contraction(x: Fact, w: Fact, bias: Fact | None, shape: Shape) -> Fact:
    """x[..., i] W[o, i] + b."""
    if not w.constant:
        raise Refusal(PRODUCT, "let only one of the two factors depend on the input")
    result = bilinear(x, w, Contraction(shape), shape)
    return result if bias is None else total([(result, 1), (bias, 1)], shape)


def linear(call: Call) -> Fact:
    weight = call.args[1]
    if len(weight.shape) == 1:
        raise Refusal("its weight is a vector", "use a weight of shape (out, in)")
    return contraction(call.x, weight, call.fact(2, "bias"), call.shape)


def matrix_product(a: Fact, b: Fact, shape: Shape) -> Fact:
    """a @ b with torch.matmul's broadcasting, for one factor that does not vary."""
    if not a.constant and not b.constant:
        raise Refusal(PRODUCT, "let only one of the two factors depend on the input (attention does not)")
    if len(b.shape) == 1:
        column = matrix_product(a, viewed(b, lambda f: f.unsqueeze(-1)), (*shape, 1))
        return viewed(column, lambda f: f.squeeze(-1))
    if len(a.shape) == 1:
        row = matrix_product(viewed(a, lambda f: f.unsqueeze(0)), b, (*shape[:-1], 1, shape[-1]))
        return viewed(row, lambda f: f.squeeze(-2))
    if b.constant and len(b.shape) == 2:
        return contraction(a, viewed(b, lambda f: f.T), None, shape)
    if a.constant and len(a.shape) == 2:
        flipped = contraction(viewed(b, lambda f: f.mT), a, None, (*shape[:-2], shape[-1], shape[-2]))
        return viewed(flipped, lambda f: f.mT)
    if b.constant:
        return bilinear(a, b, Pairing(torch.matmul, b.shape[-2]), shape)
    return bilinear(b, a, Pairing(lambda v, c: torch.matmul(c, v), a.shape[-1]), shape)


def matmul(call: Call) -> Fact:
    return matrix_product(call.args[0], call.args[1], call.shape)


def addmm(call: Call) -> Fact:
    """beta M + alpha (A @ B)."""
    result = matrix_product(call.args[1], call.args[2], call.shape)
    alpha, beta = call.arg(4, "alpha", 1), call.arg(3, "beta", 1)
    if alpha != 1:
        result = product(result, as_fact(alpha), call.shape)
    bias = call.args[0] if beta == 1 else product(call.args[0], as_fact(beta), call.args[0].shape)
    return total([(result, 1), (bias, 1)], call.shape)


def einsum(call: Call) -> Fact:
    equation, operands = call.args[0], call.args[1]
    if len(operands) == 1:
        raise Refusal("it is an einsum of one operand", "use sum, permute or diagonal")
    moving = [i for i, operand in enumerate(operands) if not operand.constant] or [0]
    if len(operands) != 2 or len(moving) != 1:
        raise Refusal(PRODUCT, "let only one operand of a two-operand einsum depend on the input")
    x, w = operands[moving[0]], operands[1 - moving[0]]

    def run(values: Tensor, coefficients: Tensor) -> Tensor:
        pair = (values, coefficients) if moving[0] == 0 else (coefficients, values)
        return torch.einsum(equation, *pair)

    return bilinear(x, w, Pairing(run, w.shape.numel()), call.shape)


def outer(call: Call) -> Fact:
    a, b = call.args[0], call.args[1]
    return product(viewed(a, lambda f: f.unsqueeze(-1)), viewed(b, lambda f: f.unsqueeze(0)), call.shape)


def per_dimension(value: Any, dims: int) -> Any:
    """A convolution setting, one number per spatial dimension."""
    return list(value) * dims if isinstance(value, (list, tuple)) and len(value) == 1 else value


def conv(call: Call, transposed: bool = False) -> Fact:
    x, w = call.args[0], call.args[1]
    dims = len(w.shape) - 2
    if len(x.shape) != len(w.shape):
        raise Refusal("its input has no batch dimension", "give the convolution a batch")
    if not w.constant:
        raise Refusal(PRODUCT, "let the filter not depend on the input")
    stride = per_dimension(call.arg(3, "stride", [1]), dims)
    padding = per_dimension(call.arg(4, "padding", [0]), dims)
    if transposed:
        out_pad = per_dimension(call.arg(5, "output_padding", [0]), dims)
        groups, dilation = call.arg(6, "groups", 1), per_dimension(call.arg(7, "dilation", [1]), dims)
    else:
        out_pad = [0] * dims
        dilation, groups = per_dimension(call.arg(5, "dilation", [1]), dims), call.arg(6, "groups", 1)
    result = convolution(x, w, stride, padding, dilation, groups, transposed, out_pad, call.shape)
    bias = call.fact(2, "bias")
    return result if bias is None else total([(result, 1), (channelwise(bias, dims), 1)], call.shape)


def conv_transpose(call: Call) -> Fact:
    return conv(call, transposed=True)


def convolution_generic(call: Call) -> Fact:
    """aten.convolution(x, w, b, stride, padding, dilation, transposed, output_padding, groups)."""
    x, w, b, stride, padding, dilation, transposed, out_pad, groups = call.args
    tail = (out_pad, groups, dilation) if transposed else (dilation, groups)
    return conv(replace(call, args=(x, w, b, stride, padding, *tail)), transposed)


def channelwise(fact: Fact, dims: int) -> Fact:
    """A vector over channels, shaped (C, 1, ...) to broadcast over `dims` spatial dimensions."""
    return viewed(fact, lambda f: f.reshape(-1, *[1] * dims))


def batch_norm(call: Call) -> Fact:
    """In eval mode gamma (x - mean)/sqrt(var + eps) + beta: affine, with the signs of gamma."""
    x, gamma, beta, mean, var = call.args[:5]
    functional = len(call.shapes) > 1  # _native_batch_norm_legit_no_training has no flag and the eps elsewhere
    training, eps = (False, call.args[6]) if functional else (call.args[5], call.args[7])
    if training or mean is None or var is None:
        raise Refusal(
            "it normalises with the statistics of the batch, so the samples of a batch influence each other",
            "keep running statistics (track_running_stats=True), and certify in eval mode",
        )
    dims = len(x.shape) - 2
    if var.value is None or mean.value is None:
        return affine_by_sign(x, gamma, call.shape, dims)
    scale = (var.value.double() + eps).rsqrt()
    if not bool((scale > 0).all()):
        raise Refusal("a running variance is negative", "reset the running statistics")
    if gamma is not None and gamma.value is None:
        return affine_by_sign(x, gamma, call.shape, dims)
    if gamma is not None:
        scale = scale * gamma.value.double()
    result = product(x, channelwise(known(scale), dims), call.shape)
    shift = known(-mean.value.double() * scale)
    terms = [(result, 1), (channelwise(shift, dims), 1)]
    return total(terms if beta is None else [*terms, (channelwise(beta, dims), 1)], call.shape)


def affine_by_sign(x: Fact, gamma: Fact | None, shape: Shape, dims: int) -> Fact:
    """A batch norm of whose scale only the sign is known."""
    scale = gamma if gamma is not None else known(torch.ones(x.shape[1]))
    signs = constant(scale.shape).bounded(
        elementwise(lambda v: torch.where(v >= 0, 0.0, -INF).double(), scale.shape, scale.lo),
        elementwise(lambda v: torch.where(v <= 0, 0.0, INF).double(), scale.shape, scale.hi),
    )
    return total([(product(x, channelwise(signs, dims), shape), 1), (constant(shape), 1)], shape)


def batch_norm_functional(call: Call) -> Result:
    normed = batch_norm(call)
    return normed, *(unknown(shape, varies=uniform(False, shape, torch.bool)) for shape in call.shapes[1:])


def cdist(call: Call) -> Fact:
    """Distances to fixed points: norms of x - c, convex where x is affine."""
    x, points = call.args[0], call.args[1]
    p = float(call.arg(2, "p", 2.0))
    if not points.constant or p < 1:
        raise Refusal("it is a distance between two quantities that both depend on the input", "fix the second argument")

    def reach(mask: Tensor) -> Tensor:
        return core(mask).any(-1, keepdim=True).expand(*mask.shape[:-1], call.shape[-1]).expand(tuple(call.shape))

    everywhere = uniform(True, call.shape, torch.bool)
    result = compose([Influence(x, up=reach, down=reach)], call.shape, bends_up=everywhere)
    return result.bounded(uniform(0.0, call.shape, torch.float64), result.hi)


# --- structure -------------------------------------------------------------------------------------------------------


def cat(call: Call) -> Fact:
    """Concatenation, keeping dimensions uniform where all the parts agree to be."""
    parts = [fact for fact in call.args[0] if fact.shape.numel() > 0 or len(fact.shape) == len(call.shape)]
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
    return Fact(*columns, degree=min(part.power for part in parts))


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


# --- the recurrent network that can be convex ------------------------------------------------------------------------

RELU = relu()


def rnn_cell(x: Fact, h: Fact, w: Sequence[Fact]) -> Fact:
    """relu(W_ih x + b_ih + W_hh h + b_hh), for x (B, I) and h (B, H)."""
    biases = w[2:4] if len(w) >= 4 else (None, None)
    shape = (x.shape[0], w[0].shape[0])
    a = total([(contraction(x, w[0], biases[0], shape), 1), (contraction(h, w[1], biases[1], shape), 1)], shape)
    return apply_profile(RELU, F.relu, a)


def rnn_relu_cell(call: Call) -> Fact:
    x, h, *weights = call.args
    return rnn_cell(x, h, [w for w in weights if w is not None])


def rnn_relu(call: Call) -> Result:
    """nn.RNN(nonlinearity='relu'), unrolled over time, layers and directions."""
    if isinstance(call.args[1], (list, tuple)):
        raise Refusal("its input is a packed sequence", "give the RNN padded sequences of one length")
    x, h0, weights, has_biases, layers, dropout, train, bidirectional, batch_first = call.args
    if train and dropout > 0:
        raise Refusal("it drops elements at random between layers", "certify in eval mode")
    if len(x.shape) != 3:
        raise Refusal("its input has no batch dimension", "give the RNN a batch")
    if batch_first:
        x = viewed(x, lambda f: f.transpose(0, 1))
    per_layer, directions = (4 if has_biases else 2), (2 if bidirectional else 1)
    steps = [viewed(x, lambda f, t=t: f[t]) for t in range(x.shape[0])]
    finals: list[Fact] = []
    for layer in range(layers):
        outputs: list[list[Fact]] = []
        for direction in range(directions):
            index = layer * directions + direction
            w = weights[index * per_layer : (index + 1) * per_layer]
            h = viewed(h0, lambda f, i=index: f[i])
            run: list[Fact] = []
            for step in steps if direction == 0 else reversed(steps):
                h = rnn_cell(step, h, w)
                run.append(h)
            finals.append(h)
            outputs.append(run if direction == 0 else run[::-1])
        width = outputs[0][0].shape[1] * directions
        steps = [
            concatenated([out[t] for out in outputs], 1, (outputs[0][t].shape[0], width)) for t in range(len(steps))
        ]
    rows = [viewed(step, lambda f: f.unsqueeze(0)) for step in steps]
    sequence = concatenated(rows, 0, (len(steps), *steps[0].shape))
    if batch_first:
        sequence = viewed(sequence, lambda f: f.transpose(0, 1))
    last = concatenated([viewed(h, lambda f: f.unsqueeze(0)) for h in finals], 0, call.shapes[1])
    return sequence, last


