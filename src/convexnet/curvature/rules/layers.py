"""The short list of exceptions, second part: layers with weights, batch normalisation, and the ReLU RNN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from convexnet.curvature.call import Call, Refusal, Result
from convexnet.curvature.composition import Influence, compose
from convexnet.curvature.facts import Fact, constant, known, unknown, viewed
from convexnet.curvature.fields import Shape, core, uniform, where_any, widened
from convexnet.curvature.rules.arithmetic import PRODUCT, as_fact, product
from convexnet.curvature.rules.linear import bilinear, convolution, sum_of_facts
from convexnet.curvature.rules.pairings import Contraction, Pairing
from convexnet.curvature.rules.pointwise import apply_profile
from convexnet.curvature.rules.pointwise_with_settings import relu
from convexnet.curvature.rules.shapes import concatenate

# --- weighted linear maps --------------------------------------------------------------------------------------------


def contraction(x: Fact, w: Fact, bias: Fact | None, shape: Shape) -> Fact:
    """x[..., i] W[o, i] + b."""
    if not w.constant:
        raise Refusal(PRODUCT, "let only one of the two factors depend on the input")
    result = bilinear(x, w, Contraction(shape), shape)
    return result if bias is None else sum_of_facts([(result, 1), (bias, 1)], shape)


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
    return sum_of_facts([(result, 1), (bias, 1)], call.shape)


def einsum(call: Call) -> Fact:
    equation, operands = call.args[0], call.args[1]
    if len(operands) == 1:
        x = operands[0]
        traced = Pairing(lambda values, one: torch.einsum(equation, values) * one, x.shape.numel())
        return bilinear(x, known(torch.ones((), dtype=torch.float64)), traced, call.shape)
    moving = [i for i, operand in enumerate(operands) if not operand.constant] or [0]
    if len(operands) != 2 or len(moving) != 1:
        raise Refusal(PRODUCT, "let only one operand of a two-operand einsum depend on the input")
    x, w = operands[moving[0]], operands[1 - moving[0]]

    def run(values: Tensor, coefficients: Tensor) -> Tensor:
        pair = (values, coefficients) if moving[0] == 0 else (coefficients, values)
        return torch.einsum(equation, *pair)

    return bilinear(x, w, Pairing(run, w.shape.numel()), call.shape)


def sum_of_paired_products(call: Call) -> Fact:
    """Any sum of products of the elements of two tensors; the operator says itself which of them meet."""
    a, b = call.args[:2]
    if not a.constant and not b.constant:
        raise Refusal(PRODUCT, "let only one of the two factors depend on the input")
    x, w = (a, b) if b.constant else (b, a)

    def run(values: Tensor, coefficients: Tensor) -> Tensor:
        pair = (values, coefficients) if x is a else (coefficients, values)
        return call.operator(*pair, *call.args[2:], **call.kwargs)

    return bilinear(x, w, Pairing(run, w.shape.numel()), call.shape)


def outer(call: Call) -> Fact:
    a, b = call.args[0], call.args[1]
    return product(viewed(a, lambda f: f.unsqueeze(-1)), viewed(b, lambda f: f.unsqueeze(0)), call.shape)


def bilinear_form(call: Call) -> Fact:
    raise Refusal(PRODUCT, "give it one input twice, and weights that are positive semidefinite for each output")


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
    return result if bias is None else sum_of_facts([(result, 1), (channelwise(bias, dims), 1)], call.shape)


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
    if var.value is None or not mean.constant or (mean.value is None and where_any(mean.rows)):
        raise Refusal("its statistics are not fixed numbers", "normalise with running statistics, which are buffers")
    if not all(fact is None or fact.constant for fact in (gamma, beta)):
        raise Refusal(PRODUCT, "let the scale and shift not depend on the input")
    dims = len(x.shape) - 2
    root = (var.value.double() + eps).rsqrt()
    if not bool((root > 0).all()):
        raise Refusal("a running variance is negative", "reset the running statistics")
    if gamma is None or gamma.value is not None:
        factor = root if gamma is None or gamma.value is None else root * gamma.value.double()
        scale = known(factor)
        shift = constant(scale.shape) if mean.value is None else known(-mean.value.double() * factor)
    else:  # positive multiples of a scale of which only the sign is known
        scale = product(gamma, known(root), gamma.shape)
        shift = constant(scale.shape, scale.rows)  # where x is zero, the scale multiplies the mean alone
    result = product(x, channelwise(scale, dims), call.shape)
    terms = [(result, 1), (channelwise(shift, dims), 1)]
    return sum_of_facts(terms if beta is None else [*terms, (channelwise(beta, dims), 1)], call.shape)


def batch_norm_functional(call: Call) -> Result:
    normed = batch_norm(call)
    return normed, *(unknown(shape, varies=uniform(False, shape, torch.bool)) for shape in call.shapes[1:])


def embedding(call: Call) -> Fact:
    """Rows of a table, picked by integers that are constants or another input."""
    table, picks = call.args[0], call.args[1]
    if not table.constant or not picks.constant:
        raise Refusal("its table or its indices depend on the input", "embed only inputs that wrt does not name")
    rows = widened(picks.rows.unsqueeze(-1), call.shape)
    if where_any(table.rows):
        rows = uniform(3, call.shape, torch.uint8)
    lo, hi = float(core(table.lo).min()), float(core(table.hi).max())
    bounds = uniform(lo, call.shape, torch.float64), uniform(hi, call.shape, torch.float64)
    return constant(call.shape, rows).bounded(*bounds)


def cdist(call: Call) -> Fact:
    """Distances to fixed points: norms of x - c, convex where x is affine."""
    x, points = call.args[0], call.args[1]
    p = float(call.arg(2, "p", 2.0))
    if p < 1:
        raise Refusal(f"its order is {p:g}; a norm is convex for orders from 1", "use an order from 1")
    if not points.constant:
        raise Refusal("it is a distance to points that depend on the input", "fix the second argument")
    if p == math.inf and any(fact.undefined for fact in (x, points)):
        raise Refusal(
            "its largest difference leaves out those that are NaN, and its argument may be undefined at some points",
            "write it out: the norm of differences, torch.linalg.vector_norm(x - c, torch.inf)",
        )
    if where_any(points.rows):
        raise Refusal("it is a distance to points that differ between samples", "fix the second argument")

    def reach(mask: Tensor) -> Tensor:
        return core(mask).any(-1, keepdim=True).expand(*mask.shape[:-1], call.shape[-1]).expand(tuple(call.shape))

    everywhere = uniform(True, call.shape, torch.bool)
    result = compose([Influence(x, up=reach, down=reach)], call.shape, not_concave=everywhere)
    return result.bounded(uniform(0.0, call.shape, torch.float64), result.hi)


# --- the recurrent network that can be convex ------------------------------------------------------------------------

RELU = relu()


def rnn_cell(x: Fact, h: Fact, w: Sequence[Fact]) -> Fact:
    """relu(W_ih x + b_ih + W_hh h + b_hh), for x (B, I) and h (B, H)."""
    biases = w[2:4] if len(w) >= 4 else (None, None)
    shape = (x.shape[0], w[0].shape[0])
    a = sum_of_facts([(contraction(x, w[0], biases[0], shape), 1), (contraction(h, w[1], biases[1], shape), 1)], shape)
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
            concatenate([out[t] for out in outputs], 1, (outputs[0][t].shape[0], width)) for t in range(len(steps))
        ]
    rows = [viewed(step, lambda f: f.unsqueeze(0)) for step in steps]
    sequence = concatenate(rows, 0, (len(steps), *steps[0].shape))
    if batch_first:
        sequence = viewed(sequence, lambda f: f.transpose(0, 1))
    last = concatenate([viewed(h, lambda f: f.unsqueeze(0)) for h in finals], 0, call.shapes[1])
    return sequence, last
