"""The rule table: every operator the calculus knows, and its kind. An operator that is not here is unknown.

A row is (operators, rule). Names are those of `torch.ops.aten`, without overload and without the trailing underscore
of in-place variants, which share the rule of their functional form. A name listed twice is an error at import; a test
refuses names that PyTorch does not have. To add an operator, add its row here and its sample to the tests' oracles.
"""

from __future__ import annotations

from collections.abc import Sequence

from convexnet.curvature import accumulated, arithmetic, layers, losses, ordered, shapes
from convexnet.curvature.call import Call, Rule
from convexnet.curvature.opaque import Opaque
from convexnet.curvature.pointwise import HALVES, INF, LEFT, LINE, RIGHT, Pointwise, Profile
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
from convexnet.curvature.reductions import Reduction, Window
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
EXP = Profile(convex=LINE, rising=LINE, nonneg=LINE, image=(0.0, INF))
EXPM1 = Profile(convex=LINE, rising=LINE, nonneg=RIGHT, nonpos=LEFT, image=(-1.0, INF))
LOG1P = Profile(
    concave=((-1.0 + 1e-15, INF),), rising=((-1.0 + 1e-15, INF),), nonneg=RIGHT, nonpos=((-1.0 + 1e-15, 0.0),),
    note="the logarithm is concave",
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
    ("softplus", Pointwise(softplus)),
    ("hardtanh", Pointwise(hardtanh)),
    ("threshold", Pointwise(threshold)),
    ("softshrink", Pointwise(softshrink)),
    ("hardshrink", Pointwise(hardshrink)),
    ("gelu", Pointwise(gelu)),
    ("silu", Pointwise(SILU)),
    ("mish", Pointwise(MISH)),
    ("hardswish", Pointwise(HARDSWISH)),
    ("hardsigmoid", Pointwise(HARDSIGMOID)),
    ("sigmoid", Pointwise(SIGMOID)),
    ("tanh", Pointwise(S_SHAPED)),
    ("erf", Pointwise(S_SHAPED)),
    ("atan", Pointwise(S_SHAPED)),
    ("asinh", Pointwise(S_SHAPED)),
    ("sinh", Pointwise(CUBIC)),
    ("cosh", Pointwise(COSH)),
    ("log_sigmoid", Pointwise(CONCAVE)),
    ("abs", Pointwise(ABS)),
    ("exp", Pointwise(EXP, degree=lambda x: INF)),
    ("exp2", Pointwise(EXP, degree=lambda x: INF)),
    ("expm1", Pointwise(EXPM1)),
    ("log1p", Pointwise(LOG1P)),
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
        "unfold", "diagonal", "slice_scatter", "select_scatter", "unsafe_chunk", "unsafe_split", "broadcast_tensors")),
    *((name, Moved(picks=(1, "indices"))) for name in ("index", "index_put")),
    ("index_select", Moved(picks=(2, "index"))),
    ("gather", accumulated.Picked(picks=(2, "index"))),
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
    ("square", arithmetic.powers(2.0)),
    ("sqrt", arithmetic.powers(0.5)),
    ("rsqrt", arithmetic.powers(-0.5)),
    ("reciprocal", arithmetic.powers(-1.0)),
    ("pow", arithmetic.pow_),
    ("log", arithmetic.log),
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
    ("fmax", arithmetic.maximum),
    ("fmin", arithmetic.minimum),
    ("nan_to_num", losses.finite_alone),
    ("addcdiv", losses.addcdiv),
    ("logaddexp", losses.log_add_exp),
    ("logaddexp2", losses.log_add_exp),
    ("hypot", losses.hypot),
    ("pairwise_distance", losses.pairwise_distance),
    ("var_mean", losses.both(Reduction("up", moves="both"), "var", Reduction("straight"), "mean")),
    ("std_mean", losses.both(Reduction("up", moves="both"), "std", Reduction("straight"), "mean")),
    ("aminmax", losses.both(Reduction("down", exact=True), "amin", Reduction("up", exact=True), "amax")),
    # --- at known places ---------------------------------------------------------------------------------------------
    ("cumsum", accumulated.Running()),
    ("cummax", accumulated.Running("up")),
    ("cummin", accumulated.Running("down")),
    ("logcumsumexp", accumulated.Running("up", homogeneous=False)),
    ("diff", accumulated.diff),
    ("index_add", accumulated.index_add),
    ("scatter", accumulated.scatter),
    ("scatter_add", accumulated.scatter_add),
    ("scatter_reduce", accumulated.scatter_reduce),
    ("col2im", accumulated.col2im),
    ("grid_sampler", accumulated.grid_sampler),
    ("grid_sampler_2d", accumulated.grid_sampler),
    ("grid_sampler_3d", accumulated.grid_sampler),
    # --- sorted ------------------------------------------------------------------------------------------------------
    ("topk", ordered.topk),
    ("sort", ordered.sort),
    ("msort", ordered.sorted_first),
    *((name, Opaque("it picks an element from the middle, and only sums of the largest ones are convex",
                    "use torch.amax, or topk(k) and the sum of its values"))
      for name in ("kthvalue", "median", "nanmedian", "mode", "quantile", "nanquantile")),
    # --- losses ------------------------------------------------------------------------------------------------------
    ("mse_loss", losses.Loss(losses.squared_error, 2)),
    ("l1_loss", losses.Loss(losses.absolute_error, 2)),
    ("huber_loss", losses.Loss(losses.huber, 2)),
    ("smooth_l1_loss", losses.Loss(losses.smooth_l1, 2)),
    ("poisson_nll_loss", losses.Loss(losses.poisson, 5)),
    ("kl_div", losses.Loss(losses.kl_divergence, 2)),
    ("soft_margin_loss", losses.Loss(losses.soft_margin, 2)),
    ("hinge_embedding_loss", losses.Loss(losses.hinge_embedding, 3)),
    ("margin_ranking_loss", losses.Loss(losses.margin_ranking, 4)),
    ("binary_cross_entropy_with_logits", losses.Loss(losses.binary_cross_entropy, 4)),
    ("cross_entropy_loss", losses.Loss(losses.cross_entropy, 3)),
    ("nll_loss_nd", losses.Loss(losses.negative_log_likelihood, 3)),
    ("multi_margin_loss", losses.Loss(losses.multi_margin, 5)),
    ("triplet_margin_loss", losses.Loss(losses.triplet_margin, 7)),
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
    ("softmax", Opaque("it divides exponentials by their sum", "leave the softmax out: certify the logits", one)),
    ("_softmax", Opaque("it divides exponentials by their sum", "leave the softmax out: certify the logits", one)),
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
