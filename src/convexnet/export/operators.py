"""How each operator of a traced program is written with affine maps and the functions of `bends`: a literal table.

An operator is bent (`BENT`), affine (`AFFINE`), or refused by name. Affine ones are executed as they are. The table is
keyed by the names of `torch.ops.aten`, like the rule table of the calculus; a name listed twice is an error at import.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from convexnet.export.rules import (
    Rule,
    adaptive_max_pool,
    amax,
    amin,
    celu,
    clamp,
    cosh,
    elu,
    first_of_two,
    kink,
    largest,
    log_softmax,
    logsumexp,
    max_pool,
    norm,
    pair,
    power,
    prelu,
    product,
    rrelu,
    smallest,
    softplus,
    threshold,
)

BENT_ROWS: tuple[tuple[str, Rule], ...] = (
    ("relu", lambda cut, use: cut("kink", use.x)),
    ("leaky_relu", lambda cut, use: kink(cut, use.x, use.arg(1, "negative_slope", 0.01))),
    ("prelu", prelu),
    ("_prelu_kernel", prelu),
    ("rrelu", rrelu),
    ("abs", lambda cut, use: cut("kink", use.x, -1.0)),
    *((name, clamp) for name in ("clamp", "clamp_min")),
    ("threshold", threshold),
    ("clamp_max", lambda cut, use: use.args[1] - cut("kink", use.args[1] - use.x)),
    ("elu", elu),
    ("celu", celu),
    ("softplus", softplus),
    ("log_sigmoid", lambda cut, use: -cut("softplus", -use.x)),
    ("exp", lambda cut, use: cut("exp", use.x)),
    ("exp2", lambda cut, use: cut("exp", math.log(2) * use.x)),
    ("expm1", lambda cut, use: cut("exp", use.x) - 1),
    ("cosh", cosh),
    ("square", lambda cut, use: cut("square", use.x)),
    ("pow", power),
    ("mul", product),
    ("maximum", lambda cut, use: pair(cut, use.args[0], use.args[1])),
    ("minimum", lambda cut, use: -pair(cut, -use.args[0], -use.args[1])),
    ("max", largest),
    ("min", smallest),
    ("amax", amax),
    ("amin", amin),
    ("logsumexp", logsumexp),
    *((name, log_softmax) for name in ("log_softmax", "_log_softmax")),
    *((name, norm) for name in ("linalg_vector_norm", "norm")),
    *((f"max_pool{n}d", max_pool(n)) for n in (1, 2, 3)),
    *((f"max_pool{n}d_with_indices", first_of_two(max_pool(n))) for n in (1, 2, 3)),
    *((f"adaptive_max_pool{n}d", adaptive_max_pool(n)) for n in (1, 2, 3)),
    # affine ones that PyTorch does not differentiate
    ("detach", lambda cut, use: use.x),
    ("copy", lambda cut, use: use.args[1].expand(use.x.shape)),
)

FACTORS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "outer", "linear", "mul"), (0, 1)),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), (0, 1)),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), (0, 1)),
    **dict.fromkeys(("addmm", "baddbmm", "addcmul"), (1, 2)),
    "div": (0, 1),
    "einsum": (1,),
}
"""Where the factors of a product stand: only one of them may see the variable."""

AFFINE: frozenset[str] = frozenset((
    *FACTORS, "batch_norm", "_native_batch_norm_legit_no_training", "add", "sub", "rsub", "neg", "positive", "sum",
    "mean",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
    "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_trilinear3d", "_upsample_bilinear2d_aa", "upsample_bicubic2d",
    "_upsample_bicubic2d_aa", "flatten", "unflatten", "permute", "transpose", "t", "numpy_T", "mT", "movedim",
    "swapaxes", "squeeze", "unsqueeze", "expand", "expand_as", "broadcast_to", "slice", "select", "narrow", "split",
    "split_with_sizes", "chunk", "unbind", "index_select", "index", "gather", "take", "flip", "roll", "rot90",
    "repeat", "tile", "repeat_interleave", "unfold", "diagonal", "slice_scatter", "select_scatter", "index_put",
    "tensor_split", "unsafe_chunk", "unsafe_split", "view", "_unsafe_view", "reshape", "view_as", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "tril", "triu", "diag_embed", "im2col", "clone", "contiguous", "alias",
    "lift_fresh_copy", "to", "_to_copy", "type_as", "dropout", "feature_dropout", "alpha_dropout",
    "feature_alpha_dropout", "masked_fill", "where", "cat", "stack", "pad", "constant_pad_nd", "getitem",
))  # fmt: skip
"""Operators that are executed as they are: affine in what the calculus lets them be applied to."""

INSTEAD = {
    "sqrt": "if it is a norm, write it as one: torch.linalg.vector_norm",
    "log": "if it is the logarithm of a sum of exponentials, write it as one: torch.logsumexp",
    "var": "write it out: a mean of squares of differences from the mean",
    "std": "write it out: a norm of differences from the mean",
    "rnn_relu": "write the steps out, as cx.nn.ICRNN does",
}
"""How to say what some operators compute with others that have a form."""


def build(rows: Sequence[tuple[str, Rule]]) -> dict[str, Rule]:
    """The table by operator; refuses duplicates, which a dictionary literal would swallow."""
    table = dict(rows)
    if len(table) != len(rows):
        raise ValueError("the table of bent operators lists an operator twice")
    return table


BENT = build(BENT_ROWS)
