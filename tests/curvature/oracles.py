"""Sample calls of every operator in the rule table; `test_table` turns each into an oracle of what its rule claims.

A sample is a concrete small call in which some tensors stand for quantities: `X(2, 3)` varies with the chosen inputs,
`C(4, 3)` does not. The same `X` object twice is the same tensor twice. What they hold is drawn anew in each trial,
with bounds from `within`, or with the signs asked for. An operator without a sample here fails a test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

INF = math.inf
Range = tuple[float, float]

EVERY: tuple[Range, ...] = (
    (-INF, INF), (0.0, INF), (-INF, 0.0), (-1.0, 2.0), (0.5, 3.0), (-3.0, -0.5), (0.0, 0.3), (-0.25, 0.0),
)  # fmt: skip
POSITIVE: tuple[Range, ...] = ((0.1, INF), (0.5, 3.0), (2.0, 2.5))
AWAY: tuple[Range, ...] = (*POSITIVE, (-INF, -0.1), (-3.0, -0.5))


@dataclass(frozen=True, eq=False)
class Moving:
    """A tensor that varies with the chosen inputs, its elements within one of these ranges."""

    shape: tuple[int, ...]
    within: tuple[Range, ...] = EVERY


@dataclass(frozen=True, eq=False)
class Fixed:
    """A tensor that does not vary: a parameter, a buffer, or another input."""

    shape: tuple[int, ...]
    sign: str = "any"  # any, nonneg, positive
    known: bool = False  # always at hand, never only its bounds


@dataclass(frozen=True)
class Sample:
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __repr__(self) -> str:
        named = [f"{key}={shown(value)}" for key, value in self.kwargs.items()]
        return f"({', '.join([*map(shown, self.args), *named])})"


def shown(value: Any) -> str:
    if isinstance(value, Moving):
        return f"X{value.shape}"
    if isinstance(value, Fixed):
        return f"C{value.shape}"
    if isinstance(value, Tensor):
        return str(value.tolist())
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(shown, value))}]"
    return repr(value)


def X(*shape: int, within: tuple[Range, ...] = EVERY) -> Moving:
    return Moving(shape, within)


def C(*shape: int, sign: str = "any", known: bool = False) -> Fixed:
    return Fixed(shape, sign, known)


def s(*args: Any, **kwargs: Any) -> Sample:
    return Sample(args, kwargs)


def index(*values: Any) -> Tensor:
    return torch.tensor(values)


def recurrent(inputs: int, hidden: int, layers: int, directions: int, biases: bool, gates: int = 1) -> list[Fixed]:
    """The flat list of weights of a recurrent network."""
    found: list[Fixed] = []
    for layer in range(layers):
        for _ in range(directions):
            width = inputs if layer == 0 else hidden * directions
            found += [C(gates * hidden, width), C(gates * hidden, hidden)]
            found += [C(gates * hidden), C(gates * hidden)] if biases else []
    return found


YES, NO = True, False
MASK = torch.tensor([[YES, NO, NO], [NO, YES, NO]])
SQUARE, TWICE, LOGCONVEX = X(2, 3), X(2, 3), X(2, 3, within=((0.0, INF), (0.5, 3.0)))

ANY_POINTWISE = [s(X(2, 3)), s(X(3))]
POOL = {
    1: [s(X(2, 2, 5), [2]), s(X(2, 2, 5), [3], [1], [1]), s(X(2, 6), [2], [2]), s(X(2, 5), [3], [1], [1])],
    2: [
        s(X(2, 2, 4, 4), [2, 2]),
        s(X(2, 2, 4, 3), [3, 3], [1, 1], [1, 1]),
        s(X(2, 1, 5, 5), [2, 2], [2, 2], [1, 1]),
        s(X(2, 4, 4), [2, 2]),
        s(X(2, 4, 3), [3, 3], [1, 1], [1, 1]),
    ],
    3: [
        s(X(2, 1, 2, 4, 3), [2, 2, 2]),
        s(X(2, 1, 3, 3, 3), [3, 3, 3], [1, 1, 1], [1, 1, 1]),
        s(X(2, 3, 3, 2), [3, 3, 1], [1, 1, 1], [1, 1, 0]),
    ],
}
DILATED = {
    1: [
        s(X(2, 2, 5), [2], [1], [0], [2]),
        s(X(2, 1, 6), [3], [2], [1], [1], True),
        s(X(2, 1, 6), [3], [2], [1], [1], False),
    ],
    2: [s(X(2, 1, 5, 5), [2, 2], [2, 2], [0, 0], [1, 1], True), s(X(2, 1, 5, 5), [2, 2], [1, 1], [1, 1], [2, 2])],
    3: [s(X(2, 1, 3, 3, 3), [2, 2, 2], [2, 2, 2], [0, 0, 0], [1, 1, 1], True)],
}
AVERAGED = {
    1: [
        s(X(2, 1, 5), [2], [2], [0], True),
        s(X(2, 1, 5), [3], [2], [1], False, False),
        s(X(2, 1, 5), [3], [2], [1], True, True),
    ],
    2: [
        s(X(2, 1, 5, 5), [2, 2], [2, 2], [0, 0], True),
        s(X(2, 1, 4, 4), [3, 3], [2, 2], [1, 1], False, False),
        s(X(2, 1, 4, 4), [2, 2], [2, 2], [0, 0], False, True, 3),
        s(X(2, 1, 4, 4), [2, 2], divisor_override=-2),
        s(X(2, 1, 4, 4), [3, 3], [1, 1], padding=[1, 1], count_include_pad=False),
    ],
    3: [s(X(2, 1, 3, 3, 3), [2, 2, 2], [2, 2, 2], [1, 1, 1], True, False)],
}
ADAPTIVE = {
    1: [s(X(2, 2, 5), [2]), s(X(2, 2, 3), [1]), s(X(2, 5), [2]), s(X(2, 2), [2])],
    2: [s(X(2, 2, 4, 3), [2, 2]), s(X(2, 2, 3, 3), [1, 1]), s(X(2, 4, 3), [2, 1]), s(X(2, 4, 3), [4, 1])],
    3: [s(X(2, 1, 3, 2, 4), [2, 1, 2]), s(X(2, 1, 2, 2, 2), [1, 1, 1]), s(X(2, 3, 2, 2), [1, 1, 1])],
}
SMALL = {1: X(2, 2, 3), 2: X(2, 2, 3, 2), 3: X(2, 1, 2, 3, 2)}
SIZES = {1: [5], 2: [5, 3], 3: [3, 4, 2]}
FEWER = {1: [2], 2: [2, 2], 3: [1, 2, 2]}
CONV = {
    1: [
        s(X(2, 2, 5), C(3, 2, 3)),
        s(X(2, 2, 5), C(3, 2, 3), C(3), [1], [1]),
        s(X(2, 2, 5), C(3, 2, 3), C(3), [2], [1], [2]),
        s(X(2, 4, 5), C(4, 2, 3), None, [1], [0], [1], 2),
        s(X(2, 2, 5), C(2, 2, 3), C(2), [1], "same"),
        s(X(2, 2, 5), C(2, 2, 3), C(2), [1], "valid"),
        s(X(2, 2, 5), C(2, 2, 3), X(2)),
        s(C(2, 2, 5), X(2, 2, 3), C(2)),
        s(X(2, 5), C(3, 2, 3)),
        s(X(2, 2, 5), C(3, 2, 3, sign="nonneg"), C(3, sign="nonneg"), padding=[1]),
    ],
    2: [
        s(X(2, 2, 3, 4), C(2, 2, 2, 2)),
        s(X(2, 2, 3, 4), C(2, 2, 3, 3), C(2), [1, 1], [1, 1]),
        s(X(2, 2, 3, 4), C(2, 1, 2, 2), C(2), [1, 2], [0, 1], [1, 1], 2),
        s(X(2, 1, 3, 4), C(2, 1, 3, 3), None, [1], [1]),
        s(X(2, 1, 3, 4), C(2, 1, 3, 3), None, [1, 1], "same"),
        s(X(2, 1, 3, 4), C(2, 1, 2, 2), None, [1, 1], "same"),
        s(X(2, 2, 3, 4), C(1, 2, 1, 1), C(1)),
    ],
    3: [
        s(X(2, 1, 2, 3, 3), C(2, 1, 2, 2, 2)),
        s(X(2, 2, 2, 3, 2), C(2, 1, 2, 2, 1), C(2), [1, 2, 1], [1, 0, 0], [1, 1, 1], 2),
    ],
}
TRANSPOSED = {
    1: [
        s(X(2, 2, 3), C(2, 3, 3)),
        s(X(2, 2, 3), C(2, 3, 2), C(3), [2], [1], [1]),
        s(X(2, 4, 3), C(4, 2, 2), C(4), [3], [0], [2], 2, [1]),
        s(X(2, 2, 3), C(2, 1, 2), None, [1], [0], [0], 1, [2]),
    ],
    2: [
        s(X(2, 2, 2, 3), C(2, 1, 2, 2), C(1), [2, 2], [0, 0], [1, 0]),
        s(X(2, 2, 2, 3), C(2, 1, 3, 3), None, [1, 1], [1, 1], [0, 0], 2, [1, 1]),
        s(X(2, 2, 2, 2), C(2, 2, 2, 2), C(2), [2]),
    ],
    3: [s(X(2, 2, 2, 2, 2), C(2, 1, 2, 1, 2), C(1), [2, 1, 2], [0, 0, 0], [1, 0, 0])],
}
CAST = [s(X(2, 3))]
GAMMA = [*ANY_POINTWISE, s(X(2, 3, within=((0.2, 1.4), (1.0, 2.0), (1.5, INF), *POSITIVE)))]
XLOGY = [
    s(X(2, 3), C(3, sign="positive")),
    s(C(2, 3), X(2, 3, within=POSITIVE)),
    s(X(2, 3), X(2, 3)),
    s(X(2, 3), X(2, 3, within=POSITIVE)),
    s(2.0, X(2, 3, within=POSITIVE)),
    s(X(2, 3), 0.5),
]
POLYGAMMA = ("polygamma", "special_polygamma")


def pooled(name: str, samples: dict[int, list[Sample]], also: dict[int, list[Sample]] | None = None) -> dict[str, Any]:
    return {name.format(n): [*samples[n], *((also or {}).get(n, []))] for n in samples}


def resized(name: str, dims: tuple[int, ...], *corners: bool) -> dict[str, list[Sample]]:
    """Interpolation to larger and smaller sizes, with and without aligned corners where there is the choice."""
    flags: list[list[Any]] = [[c] for c in corners] or [[]]
    return {
        name.format(n): [s(x, size, *flag) for x in (SMALL[n],) for size in (SIZES[n], FEWER[n]) for flag in flags]
        + [s(SMALL[n], None, *flag, [2.0] * n) for flag in flags]
        for n in dims
    }


SAMPLES: dict[str, list[Sample]] = {
    # --- pointwise ---------------------------------------------------------------------------------------------------
    "relu": ANY_POINTWISE,
    "relu6": ANY_POINTWISE,
    "leaky_relu": [s(X(2, 3)), *(s(X(2, 3), slope) for slope in (-1.0, -0.2, 0.0, 0.01, 1.0, 1.5))],
    "rrelu": [s(X(2, 3)), s(X(2, 3), 0.5, 1.5), s(X(2, 3), 1.0, 2.0), s(X(2, 3), -1.0, 0.5)],
    "elu": [
        s(X(2, 3)),
        *(s(X(2, 3), alpha) for alpha in (0.0, 0.5, 1.0, 1.5, -1.0)),
        *(s(X(2, 3), *setting) for setting in ((1.0, 2.0, 0.5), (2.0, 1.0, 0.4), (1.5, 0.5, 1.0), (-1.0, 1.0, 2.0))),
        s(X(2, 3), 1.0, -1.0),
        s(X(2, 3), 1.0, 1.0, -1.0),
    ],
    "celu": [s(X(2, 3)), *(s(X(2, 3), alpha) for alpha in (0.5, 1.0, 3.0, -1.0))],
    "selu": ANY_POINTWISE,
    "softplus": [
        s(X(2, 3)),
        *(s(X(2, 3), *v) for v in ((2.0,), (1.0, 30.0), (5.0, 20.0), (1.0, 1.0), (0.5, 3.0), (-1.0,))),
    ],
    "hardtanh": [s(X(2, 3)), *(s(X(2, 3), *v) for v in ((0.0, 1.0), (-3.0, -1.0), (0.5, 2.0), (1.0, 1.0)))],
    "threshold": [
        s(X(2, 3), *v) for v in ((0.0, 0.0), (1.0, 1.0), (-1.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.5), (0.5, 0.7))
    ],
    "softshrink": [s(X(2, 3)), s(X(2, 3), 0.0), s(X(2, 3), 1.5)],
    "hardshrink": [s(X(2, 3)), s(X(2, 3), 0.0), s(X(2, 3), 1.5)],
    "gelu": [s(X(2, 3)), s(X(2, 3), approximate="tanh"), s(X(2, 3), approximate="none")],
    "silu": ANY_POINTWISE,
    "mish": ANY_POINTWISE,
    "hardswish": ANY_POINTWISE,
    "hardsigmoid": ANY_POINTWISE,
    "sigmoid": ANY_POINTWISE,
    "tanh": ANY_POINTWISE,
    "erf": ANY_POINTWISE,
    "atan": ANY_POINTWISE,
    "asinh": ANY_POINTWISE,
    "sinh": ANY_POINTWISE,
    "cosh": ANY_POINTWISE,
    "log_sigmoid": ANY_POINTWISE,
    "abs": ANY_POINTWISE,
    "exp": ANY_POINTWISE,
    "exp2": ANY_POINTWISE,
    "expm1": ANY_POINTWISE,
    "log1p": [s(X(2, 3)), s(X(3, within=((-0.9, INF), (-0.5, 0.0))))],
    **dict.fromkeys(("special_exp2", "special_expm1", "special_expit", "special_erf", "special_ndtr"), ANY_POINTWISE),
    **dict.fromkeys(("erfc", "special_erfc", "special_erfcx", "special_log_ndtr"), ANY_POINTWISE),
    **{key: [*ANY_POINTWISE, s(X(2, 3, within=((0.0, INF), (0.2, 0.8), *POSITIVE)))] for key in ("log2", "log10")},
    "special_log1p": [s(X(2, 3)), s(X(3, within=((-0.9, INF), (-0.5, 0.0))))],
    **dict.fromkeys(("lgamma", "special_gammaln", "digamma", "special_digamma", "special_psi"), GAMMA),
    **{name: [s(n, x) for n in (0, 1, 2, 3) for x in (X(2, 3), X(3, within=POSITIVE))] for name in POLYGAMMA},
    "special_entr": [*ANY_POINTWISE, s(X(2, 3, within=((0.0, INF), (0.2, 0.8), (0.0, 0.3))))],
    "sin": ANY_POINTWISE,
    "cos": ANY_POINTWISE,
    "sign": ANY_POINTWISE,
    "floor": ANY_POINTWISE,
    "ceil": ANY_POINTWISE,
    "round": [*ANY_POINTWISE, s(X(2, 3), decimals=1)],
    "clamp_max": [s(X(2, 3), 1.0), s(X(2, 3), 0.0), s(X(2, 3), -0.5), s(X(2, 3), C(3)), s(X(2, 3), X(3))],
    "positive": ANY_POINTWISE,
    # --- over dimensions ---------------------------------------------------------------------------------------------
    "sum": [
        s(X(2, 3)),
        s(X(2, 3), [1]),
        s(X(2, 3, 2), [-1, 1], True),
        s(X(2, 3), [0]),
        s(X(2, 3), []),
        s(X(2, 3), [1], dtype=torch.float64),
        s(X()),
    ],
    "mean": [s(X(2, 3)), s(X(2, 3), [1]), s(X(2, 3, 2), [2, 0], True), s(X(2, 3), [-1], dtype=torch.float64)],
    "amax": [s(X(2, 3)), s(X(2, 3), [1]), s(X(2, 3, 2), [-1, 1], True), s(X(2, 3), [], True)],
    "amin": [s(X(2, 3)), s(X(2, 3), [1]), s(X(2, 3, 2), [-1, 1], True)],
    "logsumexp": [s(X(2, 3), [1]), s(X(2, 3, 2), [0, 2], True), s(X(2, 3), [-1]), s(X(2, 1), [1])],
    "linalg_vector_norm": [
        s(X(2, 3)),
        *(s(X(2, 3), order) for order in (1, 2, 3.0, INF, 1.5)),
        *(s(X(2, 3), order) for order in (0.5, 0, -1, -INF)),
        s(X(2, 3), 2, [1]),
        s(X(2, 3, 2), 3, [-1, 0], True),
        s(X(2, 3), INF, [1]),
        s(X(2, 3), dim=[1]),
        s(X(2, 3), ord=1, dim=[1], keepdim=True),
    ],
    "norm": [
        s(X(2, 3)),
        s(X(2, 3), 2),
        s(X(2, 3), 1, [1]),
        s(X(2, 3), 3.0, [1], True),
        s(X(2, 3), INF, [-1]),
        s(X(2, 3), 0.5, [1]),
        s(X(2, 3), None, [1]),
        s(X(2, 3), p=0.5, dim=[1]),
    ],
    "var": [
        s(X(2, 3)),
        s(X(2, 3), False),
        s(X(2, 3), [1]),
        s(X(2, 3), [1], False),
        s(X(2, 3, 2), [1], correction=0, keepdim=True),
    ],
    "std": [
        s(X(2, 3)),
        s(X(2, 3), True),
        s(X(2, 3), [1]),
        s(X(2, 3), [-1], True, True),
        s(X(2, 3, 2), [1, 2], correction=0),
    ],
    # --- over windows ------------------------------------------------------------------------------------------------
    **pooled("max_pool{}d", POOL, DILATED),
    **pooled("max_pool{}d_with_indices", POOL, DILATED),
    **pooled("avg_pool{}d", POOL, AVERAGED),
    **pooled("adaptive_max_pool{}d", ADAPTIVE),
    **pooled("adaptive_avg_pool{}d", ADAPTIVE),
    "_adaptive_avg_pool2d": ADAPTIVE[2],
    "_adaptive_avg_pool3d": ADAPTIVE[3],
    **resized("upsample_nearest{}d", (1, 2, 3)),
    **resized("_upsample_nearest_exact{}d", (1, 2, 3)),
    **resized("upsample_linear{}d", (1,), True, False),
    **resized("upsample_bilinear{}d", (2,), True, False),
    **resized("upsample_trilinear{}d", (3,), True, False),
    **resized("_upsample_bilinear{}d_aa", (2,), True, False),
    **resized("upsample_bicubic{}d", (2,), True, False),
    **resized("_upsample_bicubic{}d_aa", (2,), True, False),
    # --- moved -------------------------------------------------------------------------------------------------------
    "view": [s(X(2, 3), [3, 2]), s(X(2, 3), [-1]), s(X(2, 3, 2), [2, -1]), s(X(2, 4), torch.float32)],
    "_unsafe_view": [s(X(2, 3), [3, 2])],
    "reshape": [s(X(2, 3), [3, 2]), s(X(2, 3, 2), [2, -1])],
    "flatten": [s(X(2, 3, 2), 1), s(X(2, 3)), s(X(2, 3, 2), 0, 1)],
    "unflatten": [s(X(2, 4), 1, [2, 2])],
    "ravel": [s(X(2, 3))],
    "permute": [s(X(2, 3, 2), [2, 0, 1]), s(X(2, 3), [1, 0])],
    "transpose": [s(X(2, 3, 2), 0, 2), s(X(2, 3), -1, -2)],
    "t": [s(X(2, 3)), s(X(3))],
    "numpy_T": [s(X(2, 3))],
    "mT": [s(X(2, 3, 2))],
    "mH": [s(X(2, 3))],
    "adjoint": [s(X(2, 3, 2))],
    "movedim": [s(X(2, 3, 2), 0, 2), s(X(2, 3, 2), [0, 1], [1, 2])],
    "swapaxes": [s(X(2, 3), 0, 1)],
    "atleast_1d": [s(X()), s(X(2, 3))],
    "atleast_2d": [s(X(3)), s(X(2, 3))],
    "atleast_3d": [s(X(2, 3)), s([X(2, 3), C(2)])],
    "real": [s(X(2, 3))],
    "resolve_conj": [s(X(2, 3))],
    "resolve_neg": [s(X(2, 3))],
    "squeeze": [s(X(2, 1, 3)), s(X(2, 1, 3), 1), s(X(2, 1, 3, 1), [1, 3])],
    "unsqueeze": [s(X(2, 3), 1), s(X(2, 3), -1)],
    "expand": [s(X(2, 1), [2, 3]), s(X(1, 3), [2, -1]), s(X(3), [2, 3])],
    "expand_as": [s(X(2, 1), C(2, 3)), s(C(2, 1), X(2, 3)), s(X(3), X(2, 3))],
    "broadcast_to": [s(X(3), [2, 3])],
    "view_as": [s(X(2, 3), C(3, 2)), s(X(2, 3), X(3, 2)), s(C(2, 3), X(3, 2))],
    "reshape_as": [s(X(2, 3), C(3, 2)), s(X(2, 3), X(3, 2)), s(C(2, 3), X(3, 2))],
    "slice": [s(X(2, 5), 1, 1, 4), s(X(2, 5), 1, 0, 5, 2), s(X(3, 2), 0, -2), s(X(3, 2), 0, 0, 9223372036854775807)],
    "select": [s(X(2, 3), 0, 1), s(X(2, 3), 1, -1)],
    "narrow": [s(X(2, 5), 1, 1, 3)],
    "narrow_copy": [s(X(2, 5), 1, 1, 3)],
    "hsplit": [s(X(2, 4), 2), s(X(2, 5), [2])],
    "vsplit": [s(X(4, 2), 2), s(X(4, 2), [1, 2])],
    "dsplit": [s(X(2, 2, 4), 2)],
    "split": [s(X(2, 5), 2, 1), s(X(4, 2), 2), s(X(2, 5), [2, 3], 1)],
    "split_with_sizes": [s(X(2, 5), [1, 4], 1)],
    "chunk": [s(X(2, 5), 2, 1), s(X(4, 2), 2)],
    "unbind": [s(X(2, 3)), s(X(2, 3), 1)],
    "index_select": [s(X(2, 3), 1, index(2, 0, 0)), s(X(2, 3), 0, index(1))],
    "index": [
        s(X(2, 3), [index(1, 0, 1)]),
        s(X(2, 3), [None, index(2, 0)]),
        s(X(2, 3), [index(0, 1), index(2, 2)]),
        s(X(2, 3), [MASK]),
    ],
    "gather": [s(X(2, 3), 1, index([0, 2], [1, 1])), s(X(2, 3), 0, index([0, 1, 1]))],
    "take": [s(X(2, 3), index(5, 0, 3))],
    "take_along_dim": [s(X(2, 3), index([0, 2], [1, 1]), 1)],
    "fliplr": [s(X(2, 3))],
    "flipud": [s(X(2, 3))],
    "flip": [s(X(2, 3), [1]), s(X(2, 3), [0, 1])],
    "roll": [s(X(2, 3), [1], [1]), s(X(2, 3), [2])],
    "rot90": [s(X(2, 3)), s(X(2, 3, 2), 1, [1, 2])],
    "repeat": [s(X(2, 3), [1, 2]), s(X(3), [2, 1])],
    "tile": [s(X(2, 3), [2])],
    "repeat_interleave": [s(X(2, 3), 2, 1), s(X(2, 3), index(1, 0, 2), 1), s(X(2, 3), 2)],
    "unfold": [s(X(2, 5), 1, 3, 1), s(X(2, 5), 1, 2, 2)],
    "linalg_diagonal": [s(X(3, 3)), s(X(2, 3, 3), offset=1)],
    "diagonal": [s(X(3, 3)), s(X(2, 3, 3), 1, 1, 2)],
    "where": [
        s(MASK, X(2, 3), X(2, 3)),
        s(MASK, X(2, 3), C(2, 3)),
        s(MASK, C(), X(2, 3)),
        s(MASK[:1], X(2, 1), X(3)),
        s(MASK, X(2, 3), -5.0),
        s(MASK, 7.5, X(2, 3)),
    ],
    "slice_scatter": [s(X(2, 5), X(2, 2), 1, 1, 3), s(X(2, 5), C(2, 2), 1, 0, 4, 2), s(C(2, 5), X(2, 2), 1, 3)],
    "select_scatter": [s(X(2, 3), X(2), 1, 0), s(C(2, 3), X(3), 0, 1), s(X(2, 3), C(3), 0, -1)],
    "index_put": [
        s(X(2, 3), [index(1)], X(1, 3)),
        s(X(2, 3), [None, index(0, 2)], C(2, 2)),
        s(C(2, 3), [MASK], X(2)),
        s(X(2, 3), [index(0, 1), index(2, 0)], X(2), True),
        s(X(2, 3), [index(0, 0), index(2, 2)], C(2), True),
        s(X(2, 3), [MASK], C()),
    ],
    "tensor_split": [s(X(2, 5), 2, 1), s(X(2, 5), [1, 3], 1)],
    "unsafe_chunk": [s(X(2, 5), 2, 1)],
    "unsafe_split": [s(X(2, 5), 2, 1)],
    "pixel_shuffle": [s(X(2, 4, 2, 3), 2), s(X(4, 2, 2), 2)],
    "pixel_unshuffle": [s(X(2, 1, 4, 2), 2)],
    "channel_shuffle": [s(X(2, 4, 2, 2), 2)],
    "diag": [s(X(3)), s(X(3, 3)), s(X(2), 1), s(X(2, 3), -1)],
    "tril": [s(X(3, 3)), s(X(2, 3, 3), -1)],
    "triu": [s(X(3, 3)), s(X(2, 3, 3), 1)],
    "diag_embed": [s(X(2, 3)), s(X(2, 3), 1)],
    "im2col": [s(X(2, 2, 3, 4), [2, 2], [1, 1], [0, 0], [1, 1]), s(X(2, 1, 3, 4), [2, 3], [2, 1], [1, 1], [1, 2])],
    # --- sums, products, powers --------------------------------------------------------------------------------------
    "clone": CAST,
    "contiguous": CAST,
    "alias": CAST,
    "detach": CAST,
    "lift_fresh_copy": CAST,
    "to": [s(X(2, 3), torch.float64), s(X(2, 3), torch.int64)],
    "_to_copy": [s(X(2, 3)), s(X(2, 3), dtype=torch.float64), s(X(2, 3), dtype=torch.int32)],
    "type_as": [s(X(2, 3), C(1)), s(C(2, 3), X(1)), s(X(2, 3), index(1))],
    "dropout": [s(X(2, 3), 0.5, False), s(X(2, 3), 0.5, True)],
    "feature_dropout": [s(X(2, 3), 0.5, False)],
    "alpha_dropout": [s(X(2, 3), 0.5, False)],
    "feature_alpha_dropout": [s(X(2, 3), 0.5, False)],
    "zeros_like": CAST,
    "ones_like": CAST,
    "full_like": [s(X(2, 3), -2.5)],
    "new_zeros": [s(X(2, 3), [3])],
    "new_ones": [s(X(2, 3), [3, 2])],
    "new_full": [s(X(2, 3), [3], -2.5)],
    "fill": [s(X(2, 3), -2.5), s(X(2, 3), X()), s(C(2, 3), X()), s(X(2, 3), C())],
    "zero": CAST,
    "copy": [s(X(2, 3), C(2, 3)), s(C(2, 3), X(3)), s(X(2, 3), X(2, 1))],
    "masked_fill": [
        s(X(2, 3), MASK, -4.0),
        s(X(2, 3), MASK[1:], C()),
        s(C(2, 3), MASK, X()),
        s(X(2, 3), MASK, X()),
        s(X(2, 3), MASK, -INF),
        s(X(2, 3), MASK, 3),
    ],
    "add": [
        s(X(2, 3), X(2, 3)),
        s(X(2, 3), C(3)),
        s(C(2, 1), X(3)),
        s(X(2, 3), 2.5),
        s(X(2, 3), -1),
        s(X(2, 3), X(2, 1), alpha=-2),
        s(X(2, 3), C(2, 3), alpha=0.5),
        s(X(2, 3), 1.5, 2),
        s(TWICE, TWICE),
        s(X(2, 3), index(1, -2, 3)),
    ],
    "sub": [
        s(X(2, 3), X(2, 3)),
        s(X(2, 3), C(3)),
        s(C(2, 3), X(3)),
        s(X(2, 3), 2.5),
        s(X(2, 3), X(2, 3), alpha=3),
        s(X(2, 3), X(2, 3), alpha=-3),
        s(TWICE, TWICE),
    ],
    "rsub": [s(X(2, 3), 1.0), s(X(2, 3), X(3)), s(X(2, 3), C(3)), s(X(2, 3), 1.0, 2)],
    "neg": ANY_POINTWISE,
    "mul": [
        s(X(2, 3), C(3)),
        s(C(2, 3), X(2, 1)),
        s(X(2, 3), C()),
        s(X(2, 3), 2.5),
        s(X(2, 3), -2),
        s(X(2, 3), 0.0),
        s(SQUARE, SQUARE),
        s(LOGCONVEX, X(3, within=((0.0, INF), (0.5, 3.0)))),
        s(LOGCONVEX, X(2, 3, within=POSITIVE)),
        s(X(2, 3), X(2, 3)),
        s(X(2, 3), C(2, 3, sign="nonneg")),
        s(X(2, 3), index(2, 0, -1)),
    ],
    "div": [
        s(X(2, 3), C(3, sign="positive")),
        s(X(2, 3), -4.0),
        s(X(2, 3), 3),
        s(C(3), X(2, 3, within=AWAY)),
        s(C(3), X(2, 3)),
        s(X(2, 3), X(2, 3, within=POSITIVE)),
        s(X(2, 3, within=((0.0, INF), (0.5, 3.0))), X(2, 3, within=POSITIVE)),
        s(X(2, 3), 2.0, rounding_mode="floor"),
        s(X(2, 3), C(3, sign="positive"), rounding_mode="trunc"),
        s(C(2, 3), C(3, sign="positive")),
    ],
    "addcmul": [
        s(X(2, 3), C(2, 3), X(2, 3)),
        s(X(2, 3), X(3), C(2, 1), value=-2),
        s(C(2, 3), SQUARE, SQUARE),
        s(SQUARE, SQUARE, C(3), value=0.5),
        s(C(2, 3), SQUARE, SQUARE, value=-1),
    ],
    "lerp": [
        *(s(X(2, 3), X(2, 3), weight) for weight in (0.0, 0.3, 1.0, 1.5, -0.5)),
        s(X(2, 3), C(3), C(3)),
        s(C(2, 3), X(2, 3), C(2, 3, sign="nonneg")),
        s(C(2, 3), C(2, 3), X(2, 3)),
        s(X(2, 3), X(2, 3), X(3)),
    ],
    "square": ANY_POINTWISE,
    "sqrt": [*ANY_POINTWISE, s(X(2, 3, within=((0.0, INF), *POSITIVE)))],
    "rsqrt": [*ANY_POINTWISE, s(X(2, 3, within=POSITIVE))],
    "reciprocal": [*ANY_POINTWISE, s(X(2, 3, within=AWAY))],
    "pow": [
        *(s(X(2, 3), r) for r in (0, 1, 2, 3, 4, 0.5, 1.5, 2.5, 1 / 3, -1, -2, -3, -0.5, 2.0)),
        *(s(X(2, 3, within=AWAY), r) for r in (3, 0.5, 1.5, -1, -2, -3, -0.5)),
        s(X(2, 3), C(known=True)),
        s(X(2, 3), torch.tensor(2.0)),
        s(X(2, 3), torch.tensor(3)),
        s(X(2, 3, within=POSITIVE), C(3)),
        *(s(base, X(2, 3)) for base in (2.0, 0.5, 1.0, 0.0, -2.0)),
        s(C(3, sign="positive", known=True), X(2, 3)),
        s(C(3, sign="positive"), X(2, 3)),
        s(X(2, 3, within=POSITIVE), X(3)),
    ],
    "prod": [
        s(X(2, 3), 1),
        s(X(2, 3, within=POSITIVE), 1, True),
        s(X(2, 3, 2, within=((0.0, INF), (0.5, 3.0))), -1),
        s(X(2, 1), 1),
        s(X(2, 3, within=((0.0, 2.0),))),
    ],
    "xlogy": XLOGY,
    "special_xlogy": XLOGY,
    "log": [*ANY_POINTWISE, s(X(2, 3, within=((0.0, INF), (0.2, 0.8), (1.0, 4.0), *POSITIVE)))],
    "maximum": [s(X(2, 3), X(2, 3)), s(X(2, 3), C(3)), s(C(2, 1), X(3)), s(TWICE, TWICE)],
    "minimum": [s(X(2, 3), X(2, 3)), s(X(2, 3), C(3)), s(C(2, 1), X(3))],
    "clamp": [
        s(X(2, 3), 0.0),
        s(X(2, 3), -1.0, 1.0),
        s(X(2, 3), None, 2.0),
        s(X(2, 3), min=0.5),
        s(X(2, 3), max=-0.5),
        s(X(2, 3), 0.0, 6.0),
        s(X(2, 3), 1.0, -1.0),
        s(X(2, 3), -3.0, -1.0),
        s(X(2, 3), 1.0, 1.0),
        s(X(2, 3), C(3)),
        s(X(2, 3), C(3), C(2, 3)),
        s(X(2, 3), None, C(3)),
        s(X(2, 3), X(3)),
        s(C(2, 3), X(3), C(3)),
    ],
    "clamp_min": [s(X(2, 3), 0.0), s(X(2, 3), -1.5), s(X(2, 3), C(3)), s(X(2, 3), X(3))],
    "max": [s(X(2, 3)), s(X(2, 3), 1), s(X(2, 3, 2), -2, True), s(X(2, 3), X(3)), s(X(2, 3), C(3)), s(X())],
    "min": [s(X(2, 3)), s(X(2, 3), 1), s(X(2, 3, 2), -2, True), s(X(2, 3), X(3)), s(X(2, 3), C(3))],
    "prelu": [
        s(X(2, 3), C(3)),
        s(X(2, 3), C(1)),
        s(X(2, 3, 2), C(3, sign="nonneg")),
        s(X(2, 2, 2, 2), C(2)),
        s(X(3), C(1)),
        s(X(2, 3), torch.tensor([0.0, 1.0, 1.5])),
        s(X(2, 3), torch.tensor([-1.0, 0.25, -0.5])),
        s(C(2, 3), X(3)),
    ],
    "_prelu_kernel": [
        s(X(2, 3), C(1, 3)),
        s(X(2, 3, 2), C(1, 3, 1)),
        s(X(2, 3), C(1, 1)),
        s(C(2, 3), X(1, 3)),
        s(X(2, 3), C(2, 3)),
    ],
    "log_softmax": [s(X(2, 3), 1), s(X(2, 3), -1), s(X(2, 3), 0), s(X(2, 3, 2), 1)],
    "_log_softmax": [s(X(2, 3), 1, False)],
    # --- weighted linear maps ----------------------------------------------------------------------------------------
    "linear": [
        s(X(2, 3), C(4, 3)),
        s(X(2, 3), C(4, 3), C(4)),
        s(X(2, 2, 3), C(4, 3), X(4)),
        s(X(3), C(4, 3)),
        s(X(2, 3), C(1, 3, sign="nonneg"), C(1)),
        s(C(2, 3), X(4, 3)),
        s(X(2, 3), C(3)),
        s(X(2, 1), C(2, 1)),
    ],
    "matmul": [
        s(X(3), C(3)),
        s(C(3), X(3)),
        s(X(2, 3), C(3)),
        s(C(2, 3), X(3)),
        s(X(3), C(3, 2)),
        s(C(3), X(3, 2)),
        s(X(2, 3), C(3, 4)),
        s(C(2, 3), X(3, 4)),
        s(X(2, 2, 3), C(3, 4)),
        s(C(2, 2, 3), X(3, 4)),
        s(X(2, 3), C(2, 3, 2)),
        s(C(4, 3), X(2, 3, 2)),
        s(X(2, 2, 3), C(2, 3, 2)),
        s(C(2, 2, 3), X(2, 3, 2)),
        s(X(2, 2, 3), C(3)),
        s(C(2, 2, 3), X(3)),
        s(X(3), C(2, 3, 2)),
        s(C(3), X(2, 3, 2)),
        s(X(2, 1, 2, 3), C(2, 3, 2)),
        s(X(2, 3), X(3, 2)),
        s(X(2, 3), C(3, 4, sign="nonneg")),
    ],
    "mm": [s(X(2, 3), C(3, 4)), s(C(4, 3), X(3, 2))],
    "bmm": [s(X(2, 2, 3), C(2, 3, 2)), s(C(2, 2, 3), X(2, 3, 2))],
    "mv": [s(X(2, 3), C(3)), s(C(2, 3), X(3))],
    "dot": [s(X(3), C(3)), s(C(3), X(3))],
    "addmm": [
        s(C(4), X(2, 3), C(3, 4)),
        s(X(2, 4), C(2, 3), X(3, 4)),
        s(X(4), X(2, 3), C(3, 4), beta=-2, alpha=0.5),
        s(C(2, 4), X(2, 3), C(3, 4), beta=0),
    ],
    "baddbmm": [s(C(2, 2, 2), X(2, 2, 3), C(2, 3, 2)), s(X(2, 2, 2), C(2, 2, 3), X(2, 3, 2), beta=2, alpha=-1)],
    "einsum": [
        s("bi,oi->bo", [X(2, 3), C(4, 3)]),
        s("oi,bi->bo", [C(4, 3), X(2, 3)]),
        s("bij,jk->bik", [X(2, 2, 3), C(3, 2)]),
        s("bi,i->b", [X(2, 3), C(3)]),
        s("bii->b", [X(2, 3, 3)]),
        s("bii->bi", [X(2, 3, 3)]),
        s("bij->bj", [X(2, 3, 2)]),
        s("bi,bi->bi", [X(2, 3), C(2, 3)]),
        s("bi,j->bij", [X(2, 2), C(3)]),
        s("ii,i->i", [X(3, 3), C(3)]),
        s("...i,oi->...o", [X(2, 2, 3), C(4, 3)]),
        s("ij->ji", [X(2, 3)]),
        s("bi,bi->b", [X(2, 3), X(2, 3)]),
        s("bi,ij,jk->bk", [X(2, 3), C(3, 2), C(2, 2)]),
        s("bi,j->b", [X(2, 3), C(4)]),
    ],
    # --- matrices ----------------------------------------------------------------------------------------------------
    "linalg_matrix_norm": [
        *(s(X(2, 2, 3), order, [-2, -1]) for order in (2, 1, INF, -2, "fro", "nuc")),
        s(X(2, 3, 2), "fro", [0, 2], True),
        s(X(2, 3)),
    ],
    "linalg_norm": [
        s(X(2, 3)),
        s(X(2, 3), None, [1]),
        s(X(2, 3), 3, [1], True),
        s(X(2, 3), 0.5, [1]),
        *(s(X(2, 2, 3), order, [1, 2]) for order in ("nuc", 2, None, 1)),
    ],
    "linalg_svdvals": [s(X(2, 2, 3)), s(X(2, 3, 3)), s(X(3, 2))],
    "linalg_eigvalsh": [s(X(2, 3, 3)), s(X(2, 2, 2), "U"), s(X(3, 3))],
    "linalg_eigh": [s(X(2, 2, 2))],
    "logdet": [s(X(2, 2, 2)), s(X(2, 1, 1, within=POSITIVE))],
    "linalg_slogdet": [s(X(2, 2, 2)), s(X(2, 1, 1, within=POSITIVE))],
    "det": [s(X(2, 2, 2)), s(X(2, 1, 1, within=POSITIVE))],
    "linalg_det": [s(X(2, 1, 1, within=POSITIVE))],
    "linalg_inv": [s(X(2, 2, 2)), s(X(2, 1, 1, within=POSITIVE))],
    "inverse": [s(X(2, 1, 1, within=POSITIVE))],
    "bilinear": [s(SQUARE, SQUARE, C(2, 3, 3), None), s(X(2, 3), C(2, 2), C(1, 3, 2), C(1))],
    "addmv": [s(C(2), X(2, 3), C(3)), s(X(2), C(2, 3), X(3), beta=-1, alpha=2), s(C(), X(2, 3), C(3))],
    "inner": [s(X(2, 3), C(4, 3)), s(C(4, 3), X(2, 3)), s(X(2, 3), C(3)), s(X(2, 3), X(3)), s(X(2, 2, 3), C(2, 3))],
    "vdot": [s(X(3), C(3)), s(C(3), X(3))],
    "linalg_vecdot": [s(X(2, 3), C(3)), s(C(2, 3), X(2, 3), dim=0), s(SQUARE, SQUARE)],
    "tensordot": [
        s(X(2, 3, 2), C(2, 3, 4), [1, 2], [1, 0]),
        s(C(4, 3), X(2, 3), [1], [1]),
        s(X(2, 3), X(3, 2), [1], [0]),
    ],
    "outer": [s(X(3), C(2)), s(C(3), X(2)), s(X(3), X(2))],
    **pooled("conv{}d", CONV),
    **pooled("conv_transpose{}d", TRANSPOSED),
    "convolution": [
        s(X(2, 2, 5), C(3, 2, 3), C(3), [1], [1], [1], False, [0], 1),
        s(X(2, 4, 3, 3), C(2, 2, 2, 2), None, [2, 1], [1, 0], [1, 1], False, [0, 0], 2),
        s(X(2, 2, 3), C(2, 3, 2), C(3), [2], [1], [1], True, [1], 1),
        s(X(2, 2, 2, 3), C(2, 1, 2, 2), None, [2, 2], [0, 0], [1, 1], True, [1, 1], 1),
    ],
    "batch_norm": [
        s(X(2, 3), C(3), C(3), C(3), C(3, sign="nonneg"), False, 0.1, 1e-5, True),
        s(X(2, 3, 2), None, None, C(3), C(3, sign="positive"), False, 0.1, 1e-3, True),
        s(X(2, 3, 2, 2), C(3, sign="nonneg"), None, C(3), C(3, sign="positive"), False, 0.1, 1e-5, True),
        s(X(2, 3), C(3), X(3), C(3), C(3, sign="positive"), False, 0.1, 1e-5, True),
        s(C(2, 3), X(3), C(3), C(3), C(3, sign="positive"), False, 0.1, 1e-5, True),
        s(C(2, 3), C(3), C(3), X(3), C(3, sign="positive"), False, 0.1, 1e-5, True),
        s(C(2, 3), C(3), C(3), C(3), X(3, within=POSITIVE), False, 0.1, 1e-5, True),
        s(X(2, 3), C(3), C(3), C(3), C(3, sign="positive"), True, 0.1, 1e-5, True),
        s(X(2, 3), C(3), C(3), None, None, True, 0.1, 1e-5, True),
    ],
    "_native_batch_norm_legit_no_training": [
        s(X(2, 3), C(3), C(3), C(3), C(3, sign="positive"), 0.1, 1e-5),
        s(X(2, 3, 2, 2), None, None, C(3), C(3, sign="positive"), 0.1, 1e-3),
    ],
    "embedding": [s(C(4, 3), index(2, 0)), s(C(4, 3), index(1, 3), -1)],
    "cdist": [
        *(s(X(2, 3), C(4, 3), p) for p in (1.0, 2.0, 3.0, INF)),
        s(X(2, 3), C(4, 3), 0.5),
        s(X(2, 2, 3), C(4, 3)),
        s(X(2, 3), C(2, 4, 3)),
        s(X(2, 3), C(4, 3), 2.0, 2),
        s(C(2, 3), X(4, 3)),
    ],
    # --- structure ---------------------------------------------------------------------------------------------------
    "cat": [
        s([X(2, 3), X(2, 1)], 1),
        s([X(2, 3), C(2, 2)], -1),
        s([C(1, 3), X(2, 3), C(1, 3)]),
        s([X(2, 3), X(2, 3), X(2, 3)], 1),
        s([TWICE, TWICE], 1),
        s([X(2, 3)], 1),
        s([X(2, 3), C(2, 0)], 1),
        s([torch.zeros(0), X(2, 3)], 1),
        s([X(2, 2), torch.ones(2, 1, dtype=torch.int64)], 1),
    ],
    "hstack": [s([X(2, 3), C(2, 2)]), s([X(3), X(2)])],
    "vstack": [s([X(2, 3), C(3)])],
    "dstack": [s([X(2, 3), X(2, 3), C(2, 3)])],
    "column_stack": [s([X(2, 3), C(2)]), s([X(2), X(2)])],
    "block_diag": [s([X(2, 3), C(1, 2), X(2)])],
    "stack": [s([X(2, 3), X(2, 3)]), s([X(2, 3), C(2, 3)], 1), s([X(2, 3), C(2, 3)], -1)],
    "pad": [
        s(X(2, 3), [1, 2]),
        s(X(2, 3), [1, 2], "constant", -2.5),
        s(X(2, 3), [1, 0, 0, 1], "constant", 3.0),
        s(X(2, 3), [1, 2], value=4.0),
        s(X(2, 3), [-1, 1], "constant", 0.5),
        s(X(2, 3), [1, 1], mode="constant", value=-1.0),
        s(X(2, 2, 3), [2, 1], "reflect"),
        s(X(2, 2, 3), [2, 1], "replicate"),
        s(X(2, 2, 3), [2, 1], "circular"),
        s(X(2, 1, 3, 3), [1, 1, 2, 0], "reflect"),
        s(X(2, 3), [1, 1], mode="replicate"),
        s(X(2, 3), [0, 0]),
    ],
    "constant_pad_nd": [
        s(X(2, 3), [1, 1]),
        s(X(2, 3), [1, 1, 1, 0], -2.5),
        s(X(2, 3), [0, 1], value=2.0),
        s(X(2, 3), [-1, 1], 2),
    ],
    "rnn_relu": [
        s(X(3, 2, 2), C(1, 2, 2), recurrent(2, 2, 1, 1, True), True, 1, 0.0, False, False, False),
        s(X(2, 3, 2), C(1, 2, 2), recurrent(2, 2, 1, 1, False), False, 1, 0.0, False, False, True),
        s(X(2, 3, 2), X(4, 2, 2), recurrent(2, 2, 2, 2, True), True, 2, 0.0, False, True, True),
        s(X(3, 2, 2), C(2, 2, 3), recurrent(2, 3, 2, 1, True), True, 2, 0.5, False, False, False),
        s(C(3, 2, 2), X(1, 2, 2), recurrent(2, 2, 1, 1, True), True, 1, 0.0, False, False, False),
    ],
    "rnn_relu_cell": [
        s(X(2, 3), C(2, 4), C(4, 3), C(4, 4), C(4), C(4)),
        s(X(2, 3), X(2, 4), C(4, 3), C(4, 4)),
        s(C(2, 3), X(2, 2), C(2, 3), C(2, 2), C(2), C(2)),
    ],
    # --- at known places, sorted, losses ------------------------------------------------------------------------------
    "broadcast_tensors": [s([X(2, 1), X(3)]), s([X(2, 3), C(3)]), s([C(2, 1), X(1, 3), X()])],
    "cumsum": [s(X(2, 3), 1), s(X(2, 3), 0), s(X(2, 3, 2), -1), s(X(2, 3), 1, dtype=torch.float64), s(X(), 0)],
    "cummax": [s(X(2, 3), 1), s(X(2, 3), 0), s(X(2, 3, 2), -2)],
    "cummin": [s(X(2, 3), 1), s(X(2, 3, 2), -1)],
    "logcumsumexp": [s(X(2, 3), 1), s(X(2, 3), 0), s(X(2, 3, 2), -1)],
    "diff": [
        s(X(2, 3)),
        s(X(2, 4), 2, 1),
        s(X(2, 3), 1, 0),
        s(X(2, 3), 1, -1, C(2, 1), X(2, 2)),
        s(X(2, 3), 0),
        s(X(2, 2), 3),
        s(C(2, 3), 1, 1, X(2, 1)),
    ],
    "index_add": [
        s(X(2, 3), 1, index(0, 2, 0), X(2, 3)),
        s(C(2, 3), 1, index(1, 1), X(2, 2)),
        s(X(2, 3), 0, index(1), C(1, 3), alpha=-2),
        s(X(2, 2), 1, index(0, 1), X(2, 2), alpha=0.5),
        s(TWICE, 1, index(2, 0, 0), TWICE),
    ],
    "scatter_add": [
        s(X(2, 3), 1, index([0, 0, 2], [1, 1, 1]), X(2, 3)),
        s(C(2, 3), 0, index([0, 1, 1]), X(1, 3)),
        s(X(2, 3), 1, index([2], [0]), C(2, 3)),
    ],
    "scatter": [
        s(X(2, 3), 1, index([0, 2], [1, 0]), X(2, 3)),
        s(C(2, 4), 1, index([3, 0, 1], [0, 1, 2]), X(2, 3)),
        s(X(2, 3), 1, index([0, 0], [1, 2]), X(2, 3)),
        s(X(2, 3), 0, index([1, 0, 1]), -2.5),
        s(X(2, 3), 1, index([1], [2]), 3.0, reduce="add"),
    ],
    "scatter_reduce": [
        s(X(2, 3), 1, index([0, 0, 2], [1, 1, 1]), X(2, 3), how, include_self=own)
        for how in ("sum", "mean", "amax", "amin", "prod")
        for own in (True, False)
    ],
    "col2im": [
        s(X(2, 4, 6), [3, 4], [2, 2], [1, 1], [0, 0], [1, 1]),
        s(X(2, 4, 4), [3, 3], [2, 2], [1, 1], [1, 1], [2, 2]),
        s(X(4, 2), [2, 3], [2, 2], [1, 1], [0, 0], [1, 1]),
    ],
    **dict.fromkeys(
        ("grid_sampler", "grid_sampler_2d"),
        [
            s(X(2, 2, 2, 3), C(2, 3, 1, 2, known=True), mode, padding, corners)
            for mode in (0, 1, 2)
            for padding, corners in ((0, False), (1, True), (2, False))
        ]
        + [s(X(2, 1, 2, 2), C(2, 2, 2, 2), 0, 0, True), s(C(2, 1, 2, 2), X(2, 2, 2, 2), 0, 0, True)],
    ),
    "grid_sampler_3d": [s(X(2, 1, 2, 2, 2), C(2, 1, 2, 1, 3, known=True), 0, 0, False)],
    "topk": [
        *(s(X(2, 4), k, 1, largest, True) for k in (1, 2, 4) for largest in (True, False)),
        s(X(2, 4), 2, -1, True, False),
        s(X(2, 3, 2), 2, 1),
        s(X(3, 2), 2, 0),
    ],
    "sort": [
        s(X(2, 3)),
        s(X(2, 3), 1, True),
        s(X(2, 3, 2), 1),
        s(X(2, 3), 0),
        s(X(2, 3), stable=True, descending=True),
    ],
    "msort": [s(X(2, 3))],
    "kthvalue": [s(X(2, 3), 2), s(X(2, 3), 1, 1, True)],
    "median": [s(X(2, 3), 1), s(X(2, 3))],
    "nanmedian": [s(X(2, 3), 1)],
    "mode": [s(X(2, 3), 1)],
    "quantile": [s(X(2, 3), 0.4, 1)],
    "nanquantile": [s(X(2, 3), 0.4, 1)],
    "fmax": [s(X(2, 3), X(2, 3)), s(X(2, 3), C(3)), s(TWICE, TWICE)],
    "fmin": [s(X(2, 3), X(2, 3)), s(C(2, 1), X(3))],
    "nan_to_num": [s(X(2, 3)), s(X(2, 3), 1.0, 2.0, 3.0)],
    "addcdiv": [
        s(X(2, 3), X(3), C(3, sign="positive")),
        s(X(2, 3), C(3), X(2, 3, within=POSITIVE), value=-2),
        s(C(2, 3), X(2, 3), C(3), value=0.5),
        s(X(2, 3), X(2, 3), X(2, 3, within=POSITIVE)),
    ],
    "logaddexp": [s(X(2, 3), X(2, 3)), s(X(2, 3), C(3)), s(TWICE, TWICE)],
    "logaddexp2": [s(X(2, 3), X(3)), s(C(2, 3), X(2, 1))],
    "hypot": [s(X(2, 3), X(2, 3)), s(X(2, 3), C(3)), s(TWICE, TWICE), s(X(2, 1), X(3))],
    "pairwise_distance": [
        *(s(X(2, 3), X(2, 3), p) for p in (1.0, 2.0, 3.0, INF, 0.5)),
        s(X(2, 3), C(2, 3)),
        s(X(2, 3), C(3), 2.0, 0.0, True),
        s(X(2, 3), C(2, 3), 1.0, -0.5),
    ],
    "var_mean": [s(X(2, 3), [1]), s(X(2, 3)), s(X(2, 3), False), s(X(2, 3, 2), [1], correction=0, keepdim=True)],
    "std_mean": [s(X(2, 3), [1]), s(X(2, 3, 2), [1, 2], correction=0), s(X(2, 3), [-1], True, True)],
    "aminmax": [s(X(2, 3)), s(X(2, 3), dim=1), s(X(2, 3, 2), dim=-1, keepdim=True)],
    **{
        name: [s(X(2, 3), C(2, 3), how) for how in (0, 1, 2)] + [s(X(2, 3), X(3), 0), s(C(2, 3), X(2, 3), 0)]
        for name in ("mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "soft_margin_loss")
    },
    "poisson_nll_loss": [
        s(X(2, 3), C(2, 3, sign="positive"), True, False, 1e-8, 0),
        s(X(2, 3), C(2, 3, sign="positive"), True, True, 1e-8, 1),
        s(X(2, 3), C(2, 3), True, False, 1e-8, 2),
        s(X(2, 3, within=POSITIVE), C(2, 3), False, False, 1e-3, 0),
        s(X(2, 3, within=POSITIVE), C(2, 3, sign="nonneg"), False, False, 1e-3, 0),
    ],
    "kl_div": [
        s(X(2, 3), C(2, 3, sign="nonneg"), 0),
        s(X(2, 3), C(2, 3, sign="positive"), 1),
        s(X(2, 3), C(2, 3), 2, log_target=True),
        s(X(2, 3), X(2, 3, within=POSITIVE), 0),
        s(C(2, 3), X(2, 3, within=POSITIVE), 0),
    ],
    "hinge_embedding_loss": [
        s(X(2, 3), torch.tensor([1.0, -1.0, 1.0]), 1.0, 0),
        s(X(2, 3), torch.tensor([[1.0, -1.0, 0.5], [-1.0, 1.0, 1.0]]), 0.5, 1),
        s(X(2, 3), C(2, 3), 1.0, 0),
    ],
    "margin_ranking_loss": [
        s(X(3), X(3), C(3), 0.5, 0),
        s(X(2, 3), C(2, 3), C(2, 3), 0.0, 2),
        s(TWICE, TWICE, C(2, 3), 0.5, 0),
        s(C(2, 3), C(2, 3), X(2, 3), 0.0, 0),
    ],
    "binary_cross_entropy_with_logits": [
        s(X(2, 3), torch.tensor([[0.0, 1.0, 0.3], [1.0, 0.0, 0.5]]), None, None, 0),
        s(X(2, 3), torch.tensor([[0.0, 1.0, 0.3]] * 2), C(3, sign="nonneg"), C(3, sign="nonneg"), 1),
        s(X(2, 3), torch.tensor([[0.0, 1.0, 0.3]] * 2), None, C(3), 2),
        s(X(2, 3), C(2, 3), C(2, 3), None, 0),
        s(C(2, 3), X(2, 3), None, None, 0),
    ],
    "cross_entropy_loss": [
        s(X(2, 3), index(0, 2), None, 0),
        s(X(2, 3), index(0, 2), C(3, sign="nonneg"), 0, -100, 0.2),
        s(X(2, 3), index(0, 2), C(3, sign="positive"), 1),
        s(X(2, 3), index(0, 2), C(3), 0),
        s(X(2, 3), index(1, 1), None, 0, 1),
        s(X(3), index(1), None, 0),
        s(X(2, 3, 2), index([0, 2], [1, 1]), None, 0),
        s(X(2, 3), C(2, 3, sign="nonneg"), None, 0),
        s(X(2, 3), C(2, 3, sign="nonneg"), C(3, sign="nonneg"), 2, -100, 0.1),
        s(X(2, 3), C(2, 3), None, 0),
        s(C(2, 3), X(2, 3), None, 0),
    ],
    "nll_loss_nd": [
        s(X(2, 3), index(0, 2), None, 0),
        s(X(2, 3), index(0, 2), C(3), 0),
        s(X(2, 3), index(0, 2), C(3, sign="positive"), 1),
        s(X(2, 3), index(1, 0), None, 2, 1),
        s(X(3), index(1), None, 0),
        s(X(2, 3, 2), index([0, 2], [1, 1]), None, 0),
    ],
    "multi_margin_loss": [
        s(X(2, 3), index(0, 2), 1, 1.0, None, 0),
        s(X(2, 3), index(0, 2), 2, 0.5, C(3, sign="nonneg"), 0),
        s(X(2, 3), index(0, 2), 1, -1.0, C(3), 1),
        s(X(3), torch.tensor(1), 1, 1.0, None, 0),
    ],
    "triplet_margin_loss": [
        s(X(2, 3), C(2, 3), C(2, 3)),
        s(C(2, 3), X(2, 3), C(2, 3), 1.0, 2.0, 1e-6, False, 0),
        s(C(2, 3), X(2, 3), C(2, 3), 0.5, 1.0, 1e-3, True, 2),
        s(C(2, 3), C(2, 3), X(2, 3), 1.0, 2.0, 1e-6, False, 0),
    ],
    # --- known to break convexity ------------------------------------------------------------------------------------
    "softmax": [s(X(2, 3), 1), s(X(2, 3), -1), s(X(2, 3, 2), 0), s(C(2, 3), 1)],
    "special_softmax": [s(X(2, 3), 1), s(C(2, 3), 1)],
    "_softmax": [s(X(2, 3), 1, False)],
    "layer_norm": [s(X(2, 3), [3]), s(X(2, 3), [3], C(3), C(3)), s(X(2, 2, 3), [2, 3]), s(C(2, 3), [3], X(3), C(3))],
    "native_layer_norm": [s(X(2, 3), [3], C(3), C(3), 1e-5)],
    "rms_norm": [s(X(2, 3), [3]), s(X(2, 3), [3], C(3))],
    "_fused_rms_norm": [s(X(2, 3), [3], C(3), 1e-5)],
    "group_norm": [s(X(2, 4, 3), 2), s(X(2, 4), 2, C(4), C(4))],
    "native_group_norm": [s(X(2, 4, 3), C(4), C(4), 2, 4, 3, 2, 1e-5)],
    "instance_norm": [
        s(X(2, 3, 4), None, None, None, None, True, 0.1, 1e-5, True),
        s(X(2, 3, 4), C(3), C(3), C(3), C(3, sign="positive"), False, 0.1, 1e-5, True),
    ],
    "glu": [s(X(2, 4)), s(X(2, 4), 1), s(X(4, 2), 0)],
    "scaled_dot_product_attention": [
        s(X(2, 1, 3, 2), X(2, 1, 3, 2), X(2, 1, 3, 2)),
        s(C(2, 1, 3, 2), C(2, 1, 3, 2), X(2, 1, 3, 2)),
    ],
    "_native_multi_head_attention": [
        s(SQUARE_TOKENS := X(2, 3, 2), SQUARE_TOKENS, SQUARE_TOKENS, 2, 1, C(6, 2), C(6), C(2, 2), C(2), None, False)
    ],
    "rnn_tanh": [s(X(3, 2, 2), C(1, 2, 2), recurrent(2, 2, 1, 1, True), True, 1, 0.0, False, False, False)],
    "lstm": [
        s(X(3, 2, 2), [C(1, 2, 2), C(1, 2, 2)], recurrent(2, 2, 1, 1, True, 4), True, 1, 0.0, False, False, False)
    ],
    "gru": [s(X(3, 2, 2), C(1, 2, 2), recurrent(2, 2, 1, 1, True, 3), True, 1, 0.0, False, False, False)],
    **{name: [s(X(2, 3), 0.5), s(X(2, 3), X(3)), s(C(2, 3), X(3))] for name in ("gt", "ge", "lt", "le", "eq", "ne")},
    "logical_not": CAST,
    "argmax": [s(X(2, 3)), s(X(2, 3), 1)],
    "argmin": [s(X(2, 3)), s(X(2, 3), 1, True)],
}
