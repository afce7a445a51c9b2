"""The rule table: every operator the calculus knows, and its kind. An operator that is not here is unknown.

A row is (operators, rule). Names are those of `torch.ops.aten`, without overload and without the trailing underscore
of in-place variants, which share the rule of their functional form. A name listed twice is an error at import; a test
refuses names that PyTorch does not have. To add an operator, add its row here and its sample to the tests' oracles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from convexnet.curvature import arithmetic, layers, matrices, powers, shapes, specials
from convexnet.curvature.call import Call, Rule
from convexnet.curvature.opaque import Opaque
from convexnet.curvature.pointwise import HALVES, INF, LEFT, LINE, POSITIVE, RIGHT, Pointwise, Profile
from convexnet.curvature.profiles import (
    IDENTITY,
    celu,
    dip,
    elu,
    gelu,
    hardshrink,
    hardtanh,
    leaky_relu,
    relu,
    rrelu,
    softplus,
    softshrink,
    threshold,
)
from convexnet.curvature.reductions import Reduction, Window, prod
from convexnet.curvature.shapes import Moved

S_SHAPED = Profile(
    convex=LEFT, concave=RIGHT, rising=LINE, nonneg=RIGHT, nonpos=LEFT,
    note="it is S-shaped: it bends upwards below zero and downwards above",
)  # fmt: skip
SIGMOID = Profile(convex=LEFT, concave=RIGHT, rising=LINE, nonneg=LINE, image=(0.0, 1.0), note=S_SHAPED.note)
CUBIC = Profile(
    convex=RIGHT, concave=LEFT, rising=LINE, nonneg=RIGHT, nonpos=LEFT, note="it bends downwards below zero"
)
CONCAVE = Profile(concave=LINE, rising=LINE, nonpos=LINE, image=(-INF, 0.0), note="it is concave")
WAVE = Profile(image=(-1.0, 1.0), note="it is periodic")
STEP = Profile(rising=LINE, exact=True, note="it is a step function")
ABS = Profile(
    convex=LINE, concave=HALVES, rising=RIGHT, falling=LEFT, nonneg=LINE, nonpos=((0.0, 0.0),), turns=(0.0,), exact=True
)
EXPM1 = Profile(convex=LINE, rising=LINE, nonneg=RIGHT, nonpos=LEFT, image=(-1.0, INF))
LOG1P = Profile(
    concave=((-1.0 + 1e-15, INF),), rising=((-1.0 + 1e-15, INF),), nonneg=RIGHT, nonpos=((-1.0 + 1e-15, 0.0),),
    note="the logarithm is concave: it is convex only after a sum of exponentials",
)  # fmt: skip
LGAMMA = Profile(
    convex=POSITIVE, falling=((5e-324, 1.46163),), rising=((1.46164, INF),),
    nonneg=((5e-324, 1.0), (2.0, INF)), nonpos=((1.0, 2.0),),
    note="it is convex for positive numbers, and has poles at zero and below",
)  # fmt: skip
DIGAMMA = Profile(
    concave=POSITIVE, rising=POSITIVE, nonneg=((1.4617, INF),), nonpos=((5e-324, 1.4616),),
    note="it is concave for positive numbers, and has poles at zero and below",
)  # fmt: skip
ERFC = Profile(convex=RIGHT, concave=LEFT, falling=LINE, nonneg=LINE, image=(0.0, 2.0), note=S_SHAPED.note)
ERFCX = Profile(convex=LINE, falling=LINE, nonneg=LINE, image=(0.0, INF))
ENTROPY = Profile(
    concave=RIGHT, rising=((0.0, 0.3678),), falling=((0.3679, INF),), nonneg=((0.0, 1.0),), nonpos=((1.0, INF),),
    turns=(0.36787944117144233,), image=(-INF, 0.3678794411714425), note="it is -inf below zero, and concave above",
)  # fmt: skip
COSH = Profile(convex=LINE, rising=RIGHT, falling=LEFT, nonneg=LINE, turns=(0.0,), image=(1.0, INF))
SELU = Profile(
    convex=HALVES, concave=RIGHT, rising=LINE, nonneg=RIGHT, nonpos=LEFT,
    note="its slope drops from 1.76 to 1.05 at zero; use ELU with alpha <= 1, or CELU",
)  # fmt: skip
HARDSIGMOID = Profile(
    convex=((-INF, 3.0),), concave=((-3.0, INF),), rising=LINE, nonneg=LINE, image=(0.0, 1.0), note=S_SHAPED.note
)
HARDSWISH = Profile(
    convex=((-INF, -3.0), (-3.0, 3.0), (3.0, INF)), concave=((-INF, -3.0), (3.0, INF)),
    rising=((-1.5, INF),), falling=((-INF, -1.5),), nonneg=RIGHT, nonpos=LEFT, turns=(-1.5,), image=(-0.3750001, INF),
    note="its slope drops from 1.5 to 1 at three, and it falls below -1.5",
)  # fmt: skip
SILU = dip(-2.399357, 2.399357, -1.278464542, -0.278464543)
MISH = dip(-2.256375, 1.490565, -1.192431207, -0.308843413)

ATTENTION = "attention multiplies quantities that depend on the input, and normalises them by a softmax"


def norm_order(call: Call) -> str:
    """Norms are convex for orders from 1 to infinity."""
    order = call.arg(1, "ord", call.kwargs.get("p"))
    order = 2.0 if order is None else float(order)
    return "" if order >= 1 else f"its order is {order:g}; a norm is convex for orders from 1"


def last(call: Call) -> Sequence[int]:
    """The trailing dimensions a layer norm runs over."""
    return range(-len(call.args[1]), 0)


def one(call: Call) -> Sequence[int]:
    return [int(call.arg(1, "dim", -1))]


def all_but_the_batch(call: Call) -> Sequence[int]:
    return range(1, len(call.x.shape))


LAYER_NORM = "it divides by a standard deviation that depends on the input"
NORM_REMEDY = "use BatchNorm, which is affine in eval mode, or a learned affine map per channel"
ACTIVATION_REMEDY = "use ReLU, LeakyReLU, ELU (alpha <= 1), CELU or Softplus"

ROWS: tuple[tuple[str, Rule], ...] = (
    # --- pointwise -------------------------------------------------------------------------------------------------
    ("relu", Pointwise(relu)),
    ("relu6", Pointwise(lambda: hardtanh(0.0, 6.0))),
    ("leaky_relu", Pointwise(leaky_relu)),
    ("rrelu", Pointwise(rrelu)),
    ("elu", Pointwise(elu)),
    ("celu", Pointwise(celu)),
    ("selu", Pointwise(SELU)),
    ("softplus", Pointwise(softplus, powers.positive)),
    ("hardtanh", Pointwise(hardtanh)),
    ("threshold", Pointwise(threshold)),
    ("softshrink", Pointwise(softshrink)),
    ("hardshrink", Pointwise(hardshrink)),
    ("gelu", Pointwise(gelu)),
    ("silu", Pointwise(SILU)),
    ("mish", Pointwise(MISH)),
    ("hardswish", Pointwise(HARDSWISH)),
    ("hardsigmoid", Pointwise(HARDSIGMOID)),
    *((name, Pointwise(SIGMOID, powers.log_concave)) for name in ("sigmoid", "special_expit")),
    ("tanh", Pointwise(S_SHAPED)),
    *((name, Pointwise(S_SHAPED)) for name in ("erf", "special_erf")),
    ("atan", Pointwise(S_SHAPED)),
    ("asinh", Pointwise(S_SHAPED)),
    ("sinh", Pointwise(CUBIC)),
    ("cosh", Pointwise(COSH, powers.log_convex)),
    ("log_sigmoid", Pointwise(CONCAVE)),
    ("abs", Pointwise(ABS)),
    ("exp", Pointwise(powers.EXP, powers.exponential(1.0))),
    *((name, Pointwise(powers.EXP, powers.exponential(math.log(2.0)))) for name in ("exp2", "special_exp2")),
    *((name, Pointwise(EXPM1)) for name in ("expm1", "special_expm1")),
    ("log", Pointwise(specials.LOG, powers.logarithm(1.0))),
    ("log2", Pointwise(specials.LOG, powers.logarithm(1 / math.log(2.0)))),
    ("log10", Pointwise(specials.LOG, powers.logarithm(1 / math.log(10.0)))),
    *((name, Pointwise(LOG1P, powers.log1p)) for name in ("log1p", "special_log1p")),
    *((name, Pointwise(LGAMMA)) for name in ("lgamma", "special_gammaln")),
    *((name, Pointwise(DIGAMMA)) for name in ("digamma", "special_digamma", "special_psi")),
    *((name, specials.polygamma) for name in ("polygamma", "special_polygamma")),
    *((name, Pointwise(ERFC, powers.falling_log_concave)) for name in ("erfc", "special_erfc")),
    ("special_erfcx", Pointwise(ERFCX, powers.log_convex)),
    ("special_ndtr", Pointwise(SIGMOID, powers.log_concave)),
    ("special_log_ndtr", Pointwise(CONCAVE)),
    ("special_entr", Pointwise(ENTROPY)),
    ("sin", Pointwise(WAVE)),
    ("cos", Pointwise(WAVE)),
    ("sign", Pointwise(Profile(rising=LINE, nonneg=RIGHT, nonpos=LEFT, image=(-1.0, 1.0), exact=True, note=STEP.note))),
    ("floor", Pointwise(STEP)),
    ("ceil", Pointwise(STEP)),
    ("round", Pointwise(STEP)),
    ("clamp_max", arithmetic.clamped_above),
    ("positive", Pointwise(IDENTITY)),
    # --- over dimensions -------------------------------------------------------------------------------------------
    ("sum", Reduction("straight")),
    ("mean", Reduction("straight")),
    ("amax", Reduction("up", exact=True)),
    ("amin", Reduction("down", exact=True)),
    ("logsumexp", Reduction("up", homogeneous=False)),
    ("linalg_vector_norm", Reduction("up", position=2, moves="by size", allows=norm_order)),
    ("norm", Reduction("up", position=2, moves="by size", allows=norm_order)),
    ("var", Reduction("up", moves="both")),
    ("std", Reduction("up", moves="both")),
    # --- over windows ----------------------------------------------------------------------------------------------
    *((name.format(n), Window("up")) for n in (1, 2, 3) for name in (
        "max_pool{}d", "adaptive_max_pool{}d")),
    ("max_pool1d_with_indices", Window("up")),
    ("max_pool2d_with_indices", Window("up")),
    ("max_pool3d_with_indices", Window("up")),
    *((name.format(n), Window()) for n in (1, 2, 3) for name in ("avg_pool{}d", "adaptive_avg_pool{}d")),
    ("_adaptive_avg_pool2d", Window()),
    ("_adaptive_avg_pool3d", Window()),
    *((name, Window()) for name in (
        "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
        "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d",
        "upsample_trilinear3d", "_upsample_bilinear2d_aa")),
    ("upsample_bicubic2d", Window(signed=True)),
    ("_upsample_bicubic2d_aa", Window(signed=True)),
    # --- moved -----------------------------------------------------------------------------------------------------
    *((name, Moved()) for name in (
        "flatten", "unflatten", "permute", "transpose", "t", "numpy_T", "mT",
        "movedim", "swapaxes", "squeeze", "unsqueeze", "expand", "expand_as", "broadcast_to", "slice",
        "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "flip", "roll", "rot90", "repeat", "tile",
        "unfold", "diagonal", "slice_scatter", "select_scatter", "unsafe_chunk", "unsafe_split")),
    *((name, Moved(picks=(1, "indices"))) for name in ("index", "index_put")),
    *((name, Moved(picks=(2, "index"))) for name in ("index_select", "gather")),
    ("take", Moved(picks=(1, "index"))),
    ("repeat_interleave", Moved(picks=(1, "repeats"))),
    ("tensor_split", Moved(picks=(1, "tensor_indices_or_sections"))),
    *((name, shapes.reshaped) for name in ("view", "_unsafe_view", "reshape", "view_as")),
    *((name, Moved(as_float=True)) for name in ("pixel_shuffle", "pixel_unshuffle", "channel_shuffle")),
    *((name, Moved(fills=True)) for name in ("tril", "triu", "diag_embed")),
    ("im2col", Moved(fills=True, as_float=True)),
    # --- sums, products, powers --------------------------------------------------------------------------------------
    *((name, arithmetic.identity) for name in (
        "clone", "contiguous", "alias", "detach", "lift_fresh_copy", "to", "_to_copy", "type_as")),
    *((name, arithmetic.dropout) for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")),
    *((name, shapes.fresh) for name in (
        "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "fill", "zero")),
    ("copy", shapes.copy),
    ("masked_fill", shapes.masked_fill),
    ("where", shapes.where),
    ("add", arithmetic.add),
    ("sub", arithmetic.sub),
    ("rsub", arithmetic.rsub),
    ("neg", arithmetic.neg),
    ("mul", arithmetic.mul),
    ("div", arithmetic.div),
    ("addcmul", arithmetic.addcmul),
    ("lerp", arithmetic.lerp),
    ("square", powers.powers(2.0)),
    ("sqrt", powers.powers(0.5)),
    ("rsqrt", powers.powers(-0.5)),
    ("reciprocal", powers.powers(-1.0)),
    ("pow", arithmetic.pow_),
    ("prod", prod),
    *((name, specials.xlogy) for name in ("xlogy", "special_xlogy")),
    ("maximum", arithmetic.maximum),
    ("minimum", arithmetic.minimum),
    ("clamp", arithmetic.clamped),
    ("clamp_min", arithmetic.clamped),
    ("max", arithmetic.largest),
    ("min", arithmetic.smallest),
    ("prelu", arithmetic.prelu),
    ("_prelu_kernel", arithmetic.prelu),
    ("log_softmax", arithmetic.log_softmax),
    ("_log_softmax", arithmetic.log_softmax),
    # --- weighted linear maps ----------------------------------------------------------------------------------------
    ("linear", layers.linear),
    ("matmul", layers.matmul),
    ("mm", layers.matmul),
    ("bmm", layers.matmul),
    ("mv", layers.matmul),
    ("dot", layers.matmul),
    ("addmm", layers.addmm),
    ("baddbmm", layers.addmm),
    ("einsum", layers.einsum),
    ("outer", layers.outer),
    # --- matrices ----------------------------------------------------------------------------------------------------
    ("linalg_matrix_norm", matrices.matrix_norm),
    ("linalg_norm", matrices.norm),
    ("linalg_svdvals", matrices.svdvals),
    ("linalg_eigvalsh", matrices.eigvalsh),
    ("linalg_eigh", matrices.eigh),
    ("logdet", matrices.logdet),
    ("linalg_slogdet", matrices.slogdet),
    *((name, matrices.det) for name in ("det", "linalg_det")),
    *((name, matrices.inverse) for name in ("linalg_inv", "inverse")),
    ("bilinear", layers.bilinear_form),
    ("linalg_vecdot", layers.vecdot),
    ("conv1d", layers.conv),
    ("conv2d", layers.conv),
    ("conv3d", layers.conv),
    ("conv_transpose1d", layers.conv_transpose),
    ("conv_transpose2d", layers.conv_transpose),
    ("conv_transpose3d", layers.conv_transpose),
    ("convolution", layers.convolution_generic),
    ("batch_norm", layers.batch_norm),
    ("_native_batch_norm_legit_no_training", layers.batch_norm_functional),
    ("embedding", layers.embedding),
    ("cdist", layers.cdist),
    # --- structure ---------------------------------------------------------------------------------------------------
    ("cat", shapes.cat),
    ("stack", shapes.stack),
    ("pad", shapes.pad),
    ("constant_pad_nd", shapes.pad),
    ("rnn_relu", layers.rnn_relu),
    ("rnn_relu_cell", layers.rnn_relu_cell),
    # --- known to break convexity ------------------------------------------------------------------------------------
    *((name, Opaque("it divides exponentials by their sum", "leave it out: certify the logits", one, (0.0, 1.0)))
      for name in ("softmax", "_softmax", "special_softmax")),
    ("layer_norm", Opaque(LAYER_NORM, NORM_REMEDY, last)),
    ("native_layer_norm", Opaque(LAYER_NORM, NORM_REMEDY, last)),
    ("rms_norm", Opaque("it divides by a root mean square that depends on the input", NORM_REMEDY, last)),
    ("_fused_rms_norm", Opaque("it divides by a root mean square that depends on the input", NORM_REMEDY, last)),
    ("group_norm", Opaque(LAYER_NORM, NORM_REMEDY, all_but_the_batch)),
    ("native_group_norm", Opaque(LAYER_NORM, NORM_REMEDY)),
    ("instance_norm", Opaque(LAYER_NORM, NORM_REMEDY, all_but_the_batch)),
    ("glu", Opaque("it multiplies one half of its argument by a sigmoid of the other", ACTIVATION_REMEDY)),
    ("scaled_dot_product_attention", Opaque(ATTENTION, "mix tokens with constant non-negative weights instead")),
    ("_native_multi_head_attention", Opaque(ATTENTION, "mix tokens with constant non-negative weights instead")),
    ("rnn_tanh", Opaque("tanh is neither convex nor concave", "use nn.RNN(nonlinearity='relu')")),
    ("lstm", Opaque("its gates multiply quantities that depend on the input", "use nn.RNN(nonlinearity='relu')")),
    ("gru", Opaque("its gates multiply quantities that depend on the input", "use nn.RNN(nonlinearity='relu')")),
    *((name, Opaque("it compares, and the outcome depends on the input", "write the choice as a maximum"))
      for name in ("gt", "ge", "lt", "le", "eq", "ne", "logical_not", "argmax", "argmin")),
)  # fmt: skip


def build(rows: Sequence[tuple[str, Rule]]) -> dict[str, Rule]:
    """The table by operator name; refuses duplicates, which a dictionary literal would swallow."""
    table: dict[str, Rule] = {}
    for name, rule in rows:
        if name in table:
            raise ValueError(f"the rule table lists aten.{name} twice")
        table[name] = rule
    return table


TABLE = build(ROWS)
