"""Functions of matrices: norms, singular values, eigenvalues, determinants and inverses.

Curvature of a spectral function is curvature in the whole matrix, so the matrix has to be affine in the inputs. What
needs a positive definite matrix (-log det, the diagonal of the inverse) needs it proved: that the matrix is symmetric,
by the way it was made, and that its eigenvalues are positive, by its bounds (Gershgorin) and by those of its terms.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from convexnet.curvature.call import Call, Refusal, Result, Rule
from convexnet.curvature.composition import Influence, compose
from convexnet.curvature.facts import INF, Fact, as_fact, unknown
from convexnet.curvature.fields import Shape, batched, core, elementwise, uniform
from convexnet.curvature.patterns.expressions import made_by
from convexnet.curvature.patterns.semidefinite import is_semidefinite
from convexnet.curvature.rules.linear import EPS
from convexnet.curvature.rules.reductions import Reduction

SIZES, BOTH = Reduction("convex", position=2, moves="by size"), Reduction("convex", position=2, moves="both")
AFFINE_ONLY = "let the matrix be an affine function of the input"


# --- norms -----------------------------------------------------------------------------------------------------------


def matrix_norm(call: Call) -> Result:
    """The Frobenius, nuclear and spectral norms, and the largest sum of a row or column."""
    dims = call.arg(2, "dim", [-2, -1])
    return norm_over(call, call.arg(1, "ord", "fro"), [int(d) for d in dims], bool(call.arg(3, "keepdim", False)))


def norm(call: Call) -> Result:
    """`torch.linalg.norm`: of vectors, of matrices, or of all elements."""
    order, dims, rank = call.arg(1, "ord"), call.arg(2, "dim"), len(call.x.shape)
    keep = bool(call.arg(3, "keepdim", False))
    dims = (
        list(range(rank)) if dims is None else [int(d) for d in (dims if isinstance(dims, (list, tuple)) else [dims])]
    )
    if order is None or (len(dims) == 1 and order == 2):
        vectors = torch.ops.aten.linalg_vector_norm.default
        return SIZES(replace(call, operator=vectors, args=(call.x, 2.0, dims, keep), kwargs={}))
    if len(dims) == 1 and not isinstance(order, str) and order >= 1:
        vectors = torch.ops.aten.linalg_vector_norm.default
        return SIZES(replace(call, operator=vectors, args=(call.x, float(order), dims, keep), kwargs={}))
    return norm_over(call, order, dims, keep)


def norm_over(call: Call, order: object, dims: list[int], keep: bool) -> Result:
    if len(dims) != 2 or order not in ("fro", "nuc", 1, 2, INF):
        raise Refusal(f"its order is {order}, which is not a norm of matrices", "use the orders fro, nuc, 2, 1 or inf")
    packet = torch.ops.aten.linalg_matrix_norm
    operator = packet.str_ord if isinstance(order, str) else packet.default
    explicit = replace(call, operator=operator, args=(call.x, order, dims, keep), kwargs={})
    return (SIZES if order in ("fro", 1, INF) else BOTH)(explicit)


# --- spectra ---------------------------------------------------------------------------------------------------------


def spectrum(call: Call, shape: Shape) -> Fact:
    """Numbers each of which depends on a whole matrix, of no known curvature."""
    x = call.x

    def reach(mask: Tensor) -> Tensor:
        found = core(mask).any(-1).any(-1)
        return found.reshape(*found.shape, *[1] * (len(shape) - found.ndim)).expand(tuple(shape))

    everywhere = uniform(True, shape, torch.bool)
    by_row = len(x.shape) > 2 and batched(x.shape)
    return compose([Influence(x, reach, reach, by_row)], shape, not_concave=everywhere, not_convex=everywhere)


def with_curvature(fact: Fact, source: Fact, convex: int | None = None, concave: int | None = None) -> Fact:
    """With one element along the last dimension convex, or concave, where the matrix is affine."""
    straight = ~(source.nonconvex | source.nonconcave).any()
    marks = [field.clone() for field in (fact.nonconvex, fact.nonconcave)]
    for mask, place in zip(marks, (convex, concave), strict=True):
        if place is not None and bool(straight):
            mask[..., place] = False
    return replace(fact, nonconvex=marks[0], nonconcave=marks[1])


def svdvals(call: Call) -> Fact:
    """Singular values, the largest first: that one is a norm."""
    result = with_curvature(spectrum(call, call.shape), call.x, convex=0)
    return result.bounded(uniform(0.0, call.shape, torch.float64), result.hi)


def eigvalsh(call: Call) -> Fact:
    """Eigenvalues of the symmetric matrix that one triangle gives: the least is concave, the largest convex."""
    return with_curvature(spectrum(call, call.shape), call.x, convex=-1, concave=0)


def eigh(call: Call) -> Result:
    values = eigvalsh(call)
    return values, unknown(call.shapes[1], varies=uniform(not call.x.constant, call.shapes[1], torch.bool))


def sum_of_spectrum(call: Call, rule: Rule) -> Fact | None:
    """Sums of the largest singular values or eigenvalues, and extrema of all (Overton & Womersley 1993)."""
    if not isinstance(rule, Reduction) or not (rule.is_affine or rule.exact) or not isinstance(call.args[0], Fact):
        return None
    x, first, last = call.x, 0, call.x.shape[-1] if call.x.shape else 0
    part = made_by(x, "slice")
    if part is not None:
        inner = part.x
        step = part.arg(4, "step", 1)
        if int(part.arg(1, "dim", 0)) % len(inner.shape) != len(inner.shape) - 1 or step != 1:
            return None
        n = inner.shape[-1]
        first, last, _ = slice(part.arg(2, "start"), part.arg(3, "end")).indices(n)
        x = inner
    values = made_by(x, "linalg_svdvals", "linalg_eigvalsh")
    dims = call.arg(1, "dim")
    dims = [dims] if isinstance(dims, int) else dims
    rank = len(call.x.shape)
    if values is None or dims is None or [int(d) % rank for d in dims] != [rank - 1] or last <= first:
        return None
    source = values.x
    if bool((source.nonconvex | source.nonconcave).any()):
        return None
    n, ascending, extremum = x.shape[-1], values.name == "linalg_eigvalsh", rule.exact
    largest = (last == n if ascending else first == 0) and rule.curvature != "concave"
    smallest = ascending and first == 0 and rule.curvature != "convex"
    if not (largest or smallest) or (extremum and not ascending and not largest):
        return None
    result = Reduction("convex", moves="both")(call)
    assert isinstance(result, Fact)
    free = uniform(-INF if ascending else 0.0, call.shape, torch.float64)
    no = uniform(False, call.shape, torch.bool)
    result = replace(result.bounded(free, result.hi), nonconvex=result.varies, nonconcave=result.varies)
    if largest:
        result = replace(result, nonconvex=no)
    return replace(result, nonconcave=no) if smallest else result


# --- positive definite matrices --------------------------------------------------------------------------------------


def is_symmetric(fact: Fact) -> bool:
    """Whether a matrix is its own transpose, for all inputs."""
    if len(fact.shape) < 2 or fact.shape.numel() == 1:
        return True
    if fact.value is not None:
        value = fact.value
        return value.shape[-1] == value.shape[-2] and bool((value == value.mT).all())
    call = made_by(fact, "diag_embed", "add", "sub", "mul", "div", "neg")
    if call is None:
        return False
    if call.name == "diag_embed":
        rank = len(call.shape)
        dims = sorted(int(call.arg(i, name, default)) % rank for i, name, default in ((2, "dim1", -2), (3, "dim2", -1)))
        return call.arg(1, "offset", 0) == 0 and dims == [rank - 2, rank - 1]
    parts = [as_fact(arg) for arg in call.args[: 1 if call.name == "neg" else 2]]
    if call.name == "add" and call.arg(2, "alpha", 1) == 1 and any(
        is_transpose(a, b) for a, b in (parts, parts[::-1])
    ):  # fmt: skip
        return True
    return all(is_symmetric(part) and (is_symmetric_by_broadcast(part, fact)) for part in parts)


def is_symmetric_by_broadcast(part: Fact, whole: Fact) -> bool:
    """Whether broadcasting leaves a matrix symmetric: a number, or a matrix, but no row."""
    return part.shape.numel() == 1 or tuple(part.shape[-2:]) in (tuple(whole.shape[-2:]), (1, 1))


def is_transpose(a: Fact, b: Fact) -> bool:
    call = made_by(a, "mT", "transpose")
    if call is None or call.x is not b:
        return False
    rank = len(b.shape)
    return call.name == "mT" or {int(call.args[1]) % rank, int(call.args[2]) % rank} == {rank - 2, rank - 1}


def least_eigenvalue(fact: Fact) -> float:
    """A lower bound of the eigenvalues of a symmetric matrix, for all inputs."""
    lo, hi = (bound.expand(tuple(fact.shape)).double() for bound in (fact.lo, fact.hi))
    if len(fact.shape) < 2 or fact.shape[-1] != fact.shape[-2]:
        return -INF
    n = fact.shape[-1]
    size = torch.maximum(lo.abs(), hi.abs())
    others = size.sum(-1) - size.diagonal(dim1=-2, dim2=-1)
    discs = lo.diagonal(dim1=-2, dim2=-1) - others - 4 * (n + 2) * EPS * size.sum(-1)
    found = float(discs.min().nan_to_num(nan=-INF)) if discs.numel() else -INF
    if fact.value is not None:
        return max(found, least_eigenvalue_of_matrices(fact.value.double().reshape(-1, n, n)))
    call = made_by(fact, "diag_embed", "add", "mul")
    if call is None:
        return found
    if call.name == "diag_embed":
        return max(found, float(core(call.x.lo).min()))
    a, b = (as_fact(arg) for arg in call.args[:2])
    if call.name == "add":
        if call.arg(2, "alpha", 1) != 1:
            return found
        total = sum(
            least_eigenvalue(part) if part.shape[-2:] == (n, n) else least_eigenvalue_of_number(part, n)
            for part in (a, b)
        )
        return max(found, total - 1e-12 * abs(total)) if math.isfinite(total) else found
    for matrix, factor in ((a, b), (b, a)):
        if factor.value is not None and factor.value.numel() == 1 and float(factor.value) > 0:
            scaled = float(factor.value) * least_eigenvalue(matrix)
            return max(found, scaled - 1e-12 * abs(scaled)) if math.isfinite(scaled) else found
    return found


def least_eigenvalue_of_number(fact: Fact, n: int) -> float:
    """The least eigenvalue of n x n matrices all of whose entries are one number, each of these matrices its own."""
    return min(0.0, n * float(fact.lo.min()))


def least_eigenvalue_of_matrices(values: Tensor) -> float:
    guess = float(torch.linalg.eigvalsh(values).min())
    zero = torch.zeros_like(values[0])
    for bound in (guess - 1e-9 * abs(guess), 0.0, guess - 1e-6 * float(values.abs().max())):
        shift = bound * torch.eye(values.shape[-1], dtype=torch.float64)
        error = zero + 2 * EPS * (values.abs().amax(0) + abs(bound)) if bound else zero
        if bound <= max(guess, 0.0) and all(is_semidefinite(value - shift, error) for value in values):
            return bound
    return -INF


def require_definite(call: Call) -> Fact:
    """The matrix of a call, which is affine, symmetric and positive definite."""
    x = call.x
    if bool((x.nonconvex | x.nonconcave).any()):
        raise Refusal("its matrix is not an affine function of the input", AFFINE_ONLY)
    if not is_symmetric(x):
        raise Refusal("its matrix is not known to be symmetric", "build it as diag_embed(x) + C, or as A + A.mT")
    if not least_eigenvalue(x) > 0:
        raise Refusal(
            "its matrix is not known to be positive definite", "give a domain on which its diagonal is dominant"
        )
    return x


def logdet(call: Call) -> Fact:
    """Concave on positive definite matrices (Boyd & Vandenberghe, 3.1.5)."""
    x = require_definite(call)
    result = spectrum(call, call.shape)
    return replace(result, nonconcave=uniform(False, call.shape, torch.bool)) if x.varies.any() else result


def slogdet(call: Call) -> Result:
    size = logdet(replace(call, shapes=call.shapes[1:]))
    return unknown(call.shapes[0], size.rows, uniform(True, call.shapes[0], torch.bool)), size


def det(call: Call) -> Fact:
    """The n-th power of a concave function of positive definite matrices."""
    x = require_definite(call)
    zero = uniform(0.0, call.shape, torch.float64)
    result = spectrum(call, call.shape).bounded(zero, uniform(INF, call.shape, torch.float64))
    result = replace(result, concavity=float(x.shape[-1]), positive=True)
    raise Refusal("a determinant is a product of eigenvalues", "take its logarithm, or its n-th root", result, call)


def inverse(call: Call) -> Fact:
    """Its diagonal is convex on positive definite matrices: e X^-1 e is a matrix fractional function."""
    require_definite(call)
    result = spectrum(call, call.shape)
    diagonal = torch.eye(call.shape[-1], dtype=torch.bool)
    kept = elementwise(torch.logical_and, call.shape, result.nonconvex, (~diagonal).expand(tuple(call.shape)))
    lo = torch.where(diagonal, 0.0, -INF).double().expand(tuple(call.shape))
    result = replace(result.bounded(lo, result.hi), nonconvex=kept)
    raise Refusal("off its diagonal an inverse has no curvature", "use its diagonal, or its trace", result, call)
