"""The rule table: every operator the calculus knows, with all that is known of it. One that is not here is unknown.

A row is (operator, rule), or (operator, `Row`) where more is to be said than follows from the kind of its rule. Names
are those of `torch.ops.aten`, without overload and without the trailing underscore of in-place variants, which share
the row of their functional form. A name listed twice is an error at import; a test refuses names that PyTorch does not
have. To add an operator, add its row here and its sample to the tests' oracles.

No other table in the library lists operators for what they are: it asks `row_of`.

Long because it is the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from convexnet.curvature.call import Call, Result, Rule
from convexnet.curvature.patterns import jets
from convexnet.curvature.row import Extremum, Joint, Linear, Row, Sum
from convexnet.curvature.rules import (
    arithmetic,
    layers,
    losses,
    matrices,
    powers,
    scans_and_scatters,
    shapes,
    sorting,
    special_functions,
    undefined,
)
from convexnet.curvature.rules.arithmetic import Power
from convexnet.curvature.rules.opaque_operators import Opaque, refuse_unruled
from convexnet.curvature.rules.pointwise import HALVES, INF, LEFT, LINE, NEGATIVE, POSITIVE, RIGHT, Pointwise, Profile
from convexnet.curvature.rules.pointwise_with_settings import (
    IDENTITY,
    celu,
    dip,
    elu,
    gelu,
    hardshrink,
    hardtanh,
    leaky_relu,
    relu,
    relu6,
    rrelu,
    softplus,
    softshrink,
    threshold,
)
from convexnet.curvature.rules.reductions import Reduction, Window, no_freedom, norm_order, prod
from convexnet.curvature.rules.shapes import Moved, Placed
from convexnet.curvature.rules.undefined import Beyond

S_SHAPED = Profile(
    convex=LEFT, concave=RIGHT, rising=LINE, nonneg=RIGHT, nonpos=LEFT,
    note="it is S-shaped: convex below zero and concave above",
)  # fmt: skip
SIGMOID = Profile(convex=LEFT, concave=RIGHT, rising=LINE, nonneg=LINE, image=(0.0, 1.0), note=S_SHAPED.note)
CUBIC = Profile(convex=RIGHT, concave=LEFT, rising=LINE, nonneg=RIGHT, nonpos=LEFT, note="it is concave below zero")
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

SIGN = Profile(rising=LINE, nonneg=RIGHT, nonpos=LEFT, image=(-1.0, 1.0), exact=True, note=STEP.note)
ABOVE_MINUS_ONE = ((math.nextafter(-1.0, 0.0), INF),)

NORM = Reduction("convex", position=2, moves="by size", allows=norm_order)
RESHAPED = Placed(shapes.reshaped, plain=True, drops=False, repeats=False, in_order=True)
COPIED = Placed(arithmetic.identity, drops=False, repeats=False)
OWN_AND_OTHERS = "non-decreasing in one element and non-increasing in the others"
NEITHER_WAY = "neither non-decreasing nor non-increasing"
SPREAD = Reduction("convex", moves="both", allows=no_freedom)
ATTENTION = "attention multiplies quantities that depend on the input, and normalises them by a softmax"


def of_one(function: Callable[[jets.Jet], jets.Jet]) -> Callable[[jets.Jet, Call], jets.Jet]:
    """The jet of a function without settings."""
    return lambda x, call: function(x)


def last(call: Call) -> Sequence[int]:
    """The trailing dimensions a layer norm runs over."""
    return range(-len(call.args[1]), 0)


def one(call: Call) -> Sequence[int]:
    return [int(call.arg(1, "dim", -1))]


def all_but_the_batch(call: Call) -> Sequence[int]:
    return range(1, len(call.x.shape))


LAYER_NORM = "it divides by a standard deviation that depends on the input"
NORM_REMEDY = "use BatchNorm, which is affine in eval mode, or a learned affine map per channel"
VECTOR_NORM = "if it is a norm, write it as one: torch.linalg.vector_norm"
LOG_SUM_EXP = "if it is the logarithm of a sum of exponentials, write it as one: torch.logsumexp"
MEAN_OF_SQUARES = "write it out: a mean of squares of differences from the mean"
NORM_OF_DIFFERENCES = "write it out: a norm of differences from the mean"
STEPS = "write the steps out, as cx.nn.ICRNN does"
ACTIVATION_REMEDY = "use ReLU, LeakyReLU, ELU (alpha <= 1), CELU or Softplus"

ROWS: tuple[tuple[str, Rule | Row], ...] = (
    # --- pointwise -------------------------------------------------------------------------------------------------
    ("relu", Pointwise(relu)),
    ("relu6", Pointwise(relu6)),
    ("leaky_relu", Pointwise(leaky_relu)),
    ("rrelu", Row(Pointwise(rrelu), draws=3)),
    ("elu", Pointwise(elu)),
    ("celu", Pointwise(celu)),
    ("selu", Pointwise(SELU)),
    ("softplus", Row(Pointwise(softplus, powers.positive_fact), jet=jets.softplus_of_call)),
    ("hardtanh", Row(Pointwise(hardtanh), takes_infinity=True)),
    ("threshold", Pointwise(threshold)),
    ("softshrink", Pointwise(softshrink)),
    ("hardshrink", Pointwise(hardshrink)),
    ("gelu", Pointwise(gelu)),
    ("silu", Row(Pointwise(SILU), jet=of_one(jets.silu))),
    ("mish", Pointwise(MISH)),
    ("hardswish", Pointwise(HARDSWISH)),
    ("hardsigmoid", Pointwise(HARDSIGMOID)),
    *((name, Row(Pointwise(SIGMOID, powers.log_concave_fact), jet=of_one(jets.sigmoid))) for name in (
        "sigmoid", "special_expit")),
    ("tanh", Row(Pointwise(S_SHAPED), jet=of_one(jets.tanh))),
    *((name, Row(Pointwise(S_SHAPED), jet=of_one(jets.erf))) for name in ("erf", "special_erf")),
    ("atan", Pointwise(S_SHAPED)),
    ("asinh", Pointwise(S_SHAPED)),
    ("sinh", Row(Pointwise(CUBIC), jet=of_one(jets.sinh))),
    ("cosh", Row(Pointwise(COSH, powers.log_convex_fact), jet=of_one(jets.cosh))),
    ("log_sigmoid", Row(Pointwise(CONCAVE), jet=of_one(jets.log_sigmoid))),
    ("abs", Pointwise(ABS)),
    ("exp", Row(Pointwise(powers.EXP, powers.exponential_fact(1.0)), arithmetic=True)),
    *((name, Row(Pointwise(powers.EXP, powers.exponential_fact(math.log(2.0))), jet=of_one(jets.exp2))) for name in (
        "exp2", "special_exp2")),
    *((name, Row(Pointwise(EXPM1), arithmetic=True)) for name in ("expm1", "special_expm1")),
    ("log", Row(Pointwise(special_functions.LOG, powers.logarithm_fact(1.0)), undefined=Beyond(POSITIVE),
        arithmetic=True, instead=LOG_SUM_EXP)),
    *((name, Row(
        Pointwise(special_functions.LOG, powers.logarithm_fact(1 / math.log(base))), undefined=Beyond(POSITIVE),
        jet=of_one(jets.log_of_base(base))))
      for name, base in (("log2", 2.0), ("log10", 10.0))),
    *((name, Row(Pointwise(LOG1P, powers.log1p_fact), undefined=Beyond(ABOVE_MINUS_ONE), arithmetic=True)) for name in (
        "log1p", "special_log1p")),
    *((name, Row(Pointwise(LGAMMA), undefined=Beyond(POSITIVE))) for name in ("lgamma", "special_gammaln")),
    *((name, Row(Pointwise(DIGAMMA), undefined=Beyond(POSITIVE), minds_zero=True)) for name in (
        "digamma", "special_digamma", "special_psi")),
    *((name, Row(special_functions.polygamma, undefined=special_functions.no_positive_number, minds_zero=True))
      for name in ("polygamma", "special_polygamma")),
    *((name, Row(Pointwise(ERFC, powers.falling_log_concave_fact), jet=of_one(jets.erfc))) for name in (
        "erfc", "special_erfc")),
    ("special_erfcx", Pointwise(ERFCX, powers.log_convex_fact)),
    ("special_ndtr", Pointwise(SIGMOID, powers.log_concave_fact)),
    ("special_log_ndtr", Pointwise(CONCAVE)),
    ("special_entr", Row(Pointwise(ENTROPY), undefined=Beyond(RIGHT), arithmetic=True)),
    ("sin", Pointwise(WAVE)),
    ("cos", Pointwise(WAVE)),
    ("sign", Row(Pointwise(SIGN), forgives=True)),
    ("floor", Pointwise(STEP)),
    ("ceil", Pointwise(STEP)),
    ("round", Pointwise(STEP)),
    # --- over dimensions -------------------------------------------------------------------------------------------
    ("sum", Reduction("affine")),
    ("mean", Reduction("affine")),
    ("amax", Row(Reduction("convex", exact=True), recoverable=True)),
    ("amin", Row(Reduction("concave", exact=True), recoverable=True)),
    ("logsumexp", Row(Reduction("convex", homogeneous=False), steepest=1.0)),
    ("linalg_vector_norm", Row(NORM, takes_infinity=True, undefined=undefined.has_no_order, steepest=1.0)),
    ("norm", Row(NORM, takes_infinity=True, undefined=undefined.has_no_order, steepest=1.0)),
    ("var", Row(SPREAD, undefined=undefined.of_few, instead=MEAN_OF_SQUARES)),
    ("std", Row(SPREAD, undefined=undefined.of_few, steepest=1.0,
        instead=NORM_OF_DIFFERENCES)),
    # --- over windows ----------------------------------------------------------------------------------------------
    *((name.format(n), Window("convex")) for n in (1, 2, 3) for name in (
        "max_pool{}d", "adaptive_max_pool{}d")),
    ("max_pool1d_with_indices", Window("convex")),
    ("max_pool2d_with_indices", Window("convex")),
    ("max_pool3d_with_indices", Window("convex")),
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
    *((name, Moved(drops=False, repeats=False, in_order=True)) for name in (
        "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "atleast_1d", "atleast_2d", "real", "resolve_conj",
        "resolve_neg")),
    *((name, Moved(drops=False, repeats=False)) for name in (
        "permute", "transpose", "t", "numpy_T", "mT", "mH", "adjoint", "movedim", "swapaxes", "atleast_3d", "flip",
        "fliplr", "flipud", "roll", "rot90", "hstack", "vstack", "dstack", "column_stack")),
    *((name, Moved(drops=False)) for name in ("expand", "broadcast_to", "broadcast_tensors", "repeat", "tile")),
    ("expand_as", Row(Moved(drops=False), shape_only=(1,))),
    *((name, Moved(repeats=False)) for name in (
        "slice", "select", "narrow", "narrow_copy", "split", "split_with_sizes", "hsplit", "vsplit", "dsplit", "chunk",
        "unbind", "diagonal", "linalg_diagonal", "slice_scatter", "select_scatter", "unsafe_chunk", "unsafe_split")),
    ("unfold", Moved()),
    ("index", Moved(picks=(1, "indices"), anywhere=True)),
    ("index_put", Moved(picks=(1, "indices"))),
    ("index_select", Moved(picks=(2, "index"), anywhere=True)),
    ("gather", scans_and_scatters.Picked(picks=(2, "index"), anywhere=True)),
    ("take", Moved(picks=(1, "index"))),
    ("take_along_dim", Moved(picks=(1, "indices"))),
    ("repeat_interleave", Moved(picks=(1, "repeats"))),
    ("tensor_split", Moved(repeats=False, picks=(1, "tensor_indices_or_sections"))),
    *((name, RESHAPED) for name in ("view", "_unsafe_view", "reshape")),
    *((name, Row(RESHAPED, shape_only=(1,))) for name in ("view_as", "reshape_as")),
    *((name, Moved(drops=False, repeats=False, as_float=True)) for name in (
        "pixel_shuffle", "pixel_unshuffle", "channel_shuffle")),
    *((name, Moved(repeats=False, fills=True)) for name in ("tril", "triu", "diag")),
    *((name, Moved(drops=False, repeats=False, fills=True)) for name in ("diag_embed", "block_diag")),
    ("im2col", Moved(fills=True, as_float=True)),
    # --- moved, by a function of their own ---------------------------------------------------------------------------
    *((name, COPIED) for name in ("clone", "contiguous", "alias", "detach", "lift_fresh_copy", "_to_copy")),
    *((name, Row(COPIED, shape_only=(1,))) for name in ("to", "type_as")),
    ("positive", Pointwise(IDENTITY)),
    *((name, Row(Placed(arithmetic.dropout, drops=False, repeats=False), draws=2)) for name in (
        "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")),
    *((name, Row(Placed(shapes.fresh), shape_only=(0,))) for name in (
        "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "zero")),
    ("fill", Row(Placed(shapes.fresh), shape_only=(0,), takes_numbers=True)),
    ("copy", Row(Placed(shapes.copy), shape_only=(0,))),
    ("masked_fill", Row(Placed(shapes.masked_fill), takes_numbers=True)),
    ("where", Row(Placed(shapes.where), takes_numbers=True)),
    ("cat", Placed(shapes.cat, plain=True, drops=False, repeats=False)),
    ("stack", Placed(shapes.stack, plain=True, drops=False, repeats=False)),
    ("pad", Placed(shapes.pad)),
    ("constant_pad_nd", Placed(shapes.pad)),
    # --- sums, products, powers --------------------------------------------------------------------------------------
    ("add", Row(Sum(arithmetic.add), takes_numbers=True, takes_infinity=True, arithmetic=True)),
    ("sub", Row(Sum(arithmetic.sub, (1, -1)), takes_numbers=True, takes_infinity=True, arithmetic=True)),
    ("rsub", Row(Sum(arithmetic.rsub, (-1, 1)), takes_numbers=True, takes_infinity=True, arithmetic=True)),
    ("neg", Row(Linear(arithmetic.neg), arithmetic=True)),
    ("mul", Row(Linear(arithmetic.mul), weights=(0, 1), takes_numbers=True, arithmetic=True)),
    ("div", Row(
        Linear(arithmetic.div), divisor=1, takes_numbers=True, arithmetic=True, undefined=undefined.divides_by_zero)),
    ("addcmul", Row(Linear(arithmetic.addcmul), weights=(1, 2), added=0, takes_numbers=True)),
    ("lerp", Row(Linear(arithmetic.lerp), weights=(2,), requires="share", takes_numbers=True)),
    ("square", Row(Power(2.0), arithmetic=True)),
    ("sqrt", Row(Power(0.5), undefined=Beyond(RIGHT), arithmetic=True, instead=VECTOR_NORM)),
    ("rsqrt", Row(Power(-0.5), undefined=Beyond(POSITIVE), arithmetic=True)),
    ("reciprocal", Row(Power(-1.0), undefined=Beyond(POSITIVE + NEGATIVE), arithmetic=True)),
    ("pow", Row(arithmetic.pow_, undefined=undefined.power_undefined, arithmetic=True)),
    ("prod", Row(prod, recoverable=True)),
    *((name, Row(special_functions.xlogy, undefined=special_functions.no_positive_number, arithmetic=True))
      for name in ("xlogy", "special_xlogy")),
    # --- maxima and choices ------------------------------------------------------------------------------------------
    ("maximum", Extremum(arithmetic.maximum, "convex")),
    ("minimum", Extremum(arithmetic.minimum, "concave")),
    ("max", Extremum(arithmetic.largest, "convex")),
    ("min", Extremum(arithmetic.smallest, "concave")),
    ("clamp", Row(Extremum(arithmetic.clamp_below, "convex"), takes_numbers=True, takes_infinity=True)),
    ("clamp_min", Row(Extremum(arithmetic.clamp_below, "convex"), takes_numbers=True, takes_infinity=True)),
    ("clamp_max", Row(Extremum(arithmetic.clamp_above, "concave"), takes_numbers=True, takes_infinity=True)),
    *((name, Row(arithmetic.prelu, weights=(1,), requires="slope")) for name in ("prelu", "_prelu_kernel")),
    *((name, Row(Joint(arithmetic.log_softmax, "concave", OWN_AND_OTHERS), steepest=2.0)) for name in (
        "log_softmax", "_log_softmax")),
    ("cdist", Row(Joint(layers.cdist, "convex", NEITHER_WAY), takes_infinity=True, steepest=1.0)),
    # --- weighted linear maps ----------------------------------------------------------------------------------------
    ("linear", Row(Linear(layers.linear), weights=(1,), added=2)),
    *((name, Row(Linear(layers.matmul), weights=(0, 1))) for name in ("matmul", "mm", "bmm", "mv", "dot")),
    *((name, Row(Linear(layers.addmm), weights=(1, 2), added=0)) for name in ("addmm", "baddbmm", "addmv")),
    ("einsum", Row(Linear(layers.einsum), weights=(1,))),
    ("outer", Row(Linear(layers.outer), weights=(0, 1))),
    *((name, Row(Linear(layers.sum_of_paired_products), weights=(0, 1))) for name in (
        "inner", "vdot", "linalg_vecdot", "tensordot")),
    ("bilinear", Row(layers.bilinear_form, added=3)),
    # --- matrices ----------------------------------------------------------------------------------------------------
    ("linalg_matrix_norm", Row(matrices.matrix_norm, takes_infinity=True)),
    ("linalg_norm", Row(matrices.norm, takes_infinity=True)),
    ("linalg_svdvals", Row(matrices.svdvals, recoverable=True)),
    ("linalg_eigvalsh", Row(matrices.eigvalsh, recoverable=True)),
    ("linalg_eigh", matrices.eigh),
    ("logdet", matrices.logdet),
    ("linalg_slogdet", matrices.slogdet),
    *((name, Row(matrices.det, recoverable=True)) for name in ("det", "linalg_det")),
    *((name, Row(matrices.inverse, recoverable=True)) for name in ("linalg_inv", "inverse")),
    # --- convolutions and batch normalisation ------------------------------------------------------------------------
    *((f"conv{n}d", Row(Linear(layers.conv), weights=(1,), added=2)) for n in (1, 2, 3)),
    *((f"conv_transpose{n}d", Row(Linear(layers.conv_transpose), weights=(1,), added=2)) for n in (1, 2, 3)),
    ("convolution", Row(Linear(layers.convolution_generic), weights=(1,), added=2)),
    ("batch_norm", Row(Linear(layers.batch_norm), weights=(1,))),
    ("_native_batch_norm_legit_no_training", Row(Linear(layers.batch_norm_functional), weights=(1,))),
    ("embedding", layers.embedding),
    # --- recurrent ---------------------------------------------------------------------------------------------------
    ("rnn_relu", Row(layers.rnn_relu, weights=(2,), requires="recurrent signs", instead=STEPS)),
    ("rnn_relu_cell", Row(layers.rnn_relu_cell, weights=(2, 3), requires="recurrent signs")),
    # --- of two or three tensors, element by element -----------------------------------------------------------------
    ("fmax", Row(Extremum(arithmetic.maximum, "convex"), forgives=True)),
    ("fmin", Row(Extremum(arithmetic.minimum, "concave"), forgives=True)),
    ("nan_to_num", Row(losses.nan_to_num, forgives=True)),
    ("addcdiv", Row(losses.addcdiv, denominator=2, undefined=undefined.adds_quotient)),
    *((name, Row(Joint(losses.log_add_exp, "convex"), steepest=1.0)) for name in ("logaddexp", "logaddexp2")),
    ("hypot", Row(Joint(losses.hypot, "convex", "increasing in the absolute values of its arguments"), steepest=1.0)),
    ("pairwise_distance", Row(Joint(losses.pairwise_distance, "convex", NEITHER_WAY), steepest=1.0)),
    # --- two reductions at once --------------------------------------------------------------------------------------
    ("var_mean", Row(losses.Both((SPREAD, "var"), (Reduction("affine"), "mean")), undefined=undefined.of_few)),
    ("std_mean", Row(
        losses.Both((SPREAD, "std"), (Reduction("affine"), "mean")), undefined=undefined.of_few, steepest=1.0)),
    ("aminmax", Row(
        losses.Both((Reduction("concave", exact=True), "amin"), (Reduction("convex", exact=True), "amax")),
        steepest=1.0)),
    # --- at known places ---------------------------------------------------------------------------------------------
    ("cumsum", scans_and_scatters.Running()),
    ("cummax", Row(scans_and_scatters.Running("convex"), steepest=1.0)),
    ("cummin", Row(scans_and_scatters.Running("concave"), steepest=1.0)),
    ("logcumsumexp", Row(scans_and_scatters.Running("convex", homogeneous=False), steepest=1.0)),
    ("diff", scans_and_scatters.diff),
    ("index_add", scans_and_scatters.index_add),
    ("scatter", scans_and_scatters.scatter),
    ("scatter_add", scans_and_scatters.scatter_add),
    ("scatter_reduce", Row(scans_and_scatters.scatter_reduce, steepest=1.0)),
    ("col2im", scans_and_scatters.col2im),
    *((name, scans_and_scatters.grid_sampler) for name in ("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")),
    # --- sorted ------------------------------------------------------------------------------------------------------
    ("topk", Row(sorting.topk, steepest=1.0, forgives=True)),  # NaN is the largest, and the others remain
    ("sort", Row(sorting.sort, steepest=1.0, forgives=True)),
    ("msort", Row(sorting.sorted_first, steepest=1.0, forgives=True)),
    *((name, Opaque("it picks an element from the middle, and only sums of the largest ones are convex",
                    "use torch.amax, or topk(k) and the sum of its values"))
      for name in ("kthvalue", "median", "nanmedian", "mode", "quantile", "nanquantile")),
    # --- losses ------------------------------------------------------------------------------------------------------
    ("mse_loss", losses.Loss(losses.squared_error, 2)),
    ("l1_loss", losses.Loss(losses.absolute_error, 2)),
    ("huber_loss", losses.Loss(losses.huber, 2)),
    ("smooth_l1_loss", losses.Loss(losses.smooth_l1, 2)),
    ("poisson_nll_loss", losses.Loss(losses.poisson, 5)),
    ("kl_div", Row(losses.Loss(losses.kl_divergence, 2), undefined=undefined.has_negative_target)),
    ("soft_margin_loss", losses.Loss(losses.soft_margin, 2)),
    ("hinge_embedding_loss", losses.Loss(losses.hinge_embedding, 3)),
    ("margin_ranking_loss", losses.Loss(losses.margin_ranking, 4)),
    ("binary_cross_entropy_with_logits", losses.Loss(losses.binary_cross_entropy, 4)),
    ("cross_entropy_loss", Row(losses.Loss(losses.cross_entropy, 3), undefined=undefined.of_few)),
    ("nll_loss_nd", Row(losses.Loss(losses.negative_log_likelihood, 3), undefined=undefined.of_few)),
    ("multi_margin_loss", Row(losses.Loss(losses.multi_margin, 5), forgives=True)),
    ("triplet_margin_loss", losses.Loss(losses.triplet_margin, 7)),
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


ALIASES = {
    "absolute": "abs", "arctan": "atan", "arcsinh": "asinh", "clip": "clamp", "concat": "cat", "concatenate": "cat",
    "divide": "div", "ger": "outer", "linalg_matmul": "matmul", "moveaxis": "movedim", "multiply": "mul",
    "negative": "neg", "row_stack": "vstack", "subtract": "sub", "swapdims": "transpose", "true_divide": "div",
}  # fmt: skip
"""Names that PyTorch has for operators with another one, of the same arguments."""


def build(rows: Sequence[tuple[str, Rule | Row]]) -> dict[str, Row]:
    """The table by operator name; refuses duplicates, which a dictionary literal would swallow."""
    table: dict[str, Row] = {}
    for name, row in rows:
        if name in table:
            raise ValueError(f"the rule table lists aten.{name} twice")
        table[name] = row if isinstance(row, Row) else Row(row)
    return table


TABLE = build(ROWS)


def refuse_unlisted(call: Call) -> Result:
    """The rule of an operator that is not in the table: nothing is known, and nothing assumed."""
    raise refuse_unruled(call.name)


UNLISTED = Row(refuse_unlisted, minds_zero=True)


def row_of(name: str) -> Row:
    """What is known of an operator: its row, or one that claims nothing where the table has none.

    Example:
        >>> row_of("permute").is_affine, row_of("linear").weights, row_of("relu").is_affine, row_of("sort").is_affine
        (True, (1,), False, False)
    """
    return TABLE.get(name, UNLISTED)


def is_batch_norm(name: str) -> bool:
    """Whether an operator normalises with running statistics."""
    return row_of(name).runs(layers.batch_norm, layers.batch_norm_functional)


def shape_only(name: str) -> tuple[int, ...]:
    """The places of an operator's arguments of which it takes the shape or the type, and no element. Sizes, and tensors
    of which the memory is left as it is, are made by operators that have no row."""
    if name not in TABLE and name.startswith(("sym_", "empty_like", "new_empty")):
        return (0,)
    return row_of(name).shape_only
