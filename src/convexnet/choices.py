"""The words that public functions choose by: as types for signatures, as tuples for checks. Imports no torch.

A function that takes one of them checks it when it runs, too, and suggests the nearest word. The command line reads the
same tuples for its `--help`.
"""

from __future__ import annotations

from typing import Literal, get_args

MethodName = Literal["exponentiate", "clip", "absolute", "shift", "softplus", "exp"]
"""How a constrained parameter is kept in its interval: `convexnet.constraints.sets`."""

ConstraintName = Literal["softplus", "exp", "square", "exponentiate", "clip", "absolute", "shift"]
"""How a layer of `convexnet.nn` keeps a weight non-negative: computed from a free one, or projected by `constrain`."""

ActivationName = Literal["relu", "elu", "celu", "softplus", "leaky_relu"]
"""Nonlinearities that are convex and non-decreasing with the settings that torch gives them."""

NormName = Literal["batch", "affine"]
"""What `convexify` puts in the place of LayerNorm and its kin."""

HeadName = Literal["nonnegative", "free"]
"""What `convexify` makes of the last linear layer."""

InitName = Literal["paper", "lognormal", "identity"]
"""How constrained weights are drawn: `convexnet.initialise`."""

SolverName = Literal[
    "auto", "newton", "bundle", "cutting-planes", "bundle-entropy", "pdhg", "admm", "fista", "adam", "lp"
]  # fmt: skip
"""Solvers of `minimise`: `convexnet.solve.solvers.choose`."""

DerivativeName = Literal["exact", "smoothed", "unrolled"]
"""Derivatives of a minimiser: `convexnet.solve.derivatives.surrogates`."""

METHODS = get_args(MethodName)
ACTIVATIONS = get_args(ActivationName)
NORMS = get_args(NormName)
HEADS = get_args(HeadName)
INITS = get_args(InitName)
SOLVERS = get_args(SolverName)
DERIVATIVES = get_args(DerivativeName)
