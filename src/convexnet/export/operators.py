"""How each operator of a traced program is written with affine maps and the functions of `bends`: a literal table.

An operator is bent (`BENT`), affine by its row in the rule table of the calculus, or refused by name. Affine ones are
executed as they are. The table is keyed by the names of `torch.ops.aten`, like the rule table; a name listed twice is
an error at import.
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


def build(rows: Sequence[tuple[str, Rule]]) -> dict[str, Rule]:
    """The table by operator; refuses duplicates, which a dictionary literal would swallow."""
    table = dict(rows)
    if len(table) != len(rows):
        raise ValueError("the table of bent operators lists an operator twice")
    return table


BENT = build(BENT_ROWS)
