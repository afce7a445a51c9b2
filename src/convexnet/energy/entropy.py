"""The least f(x, y) + Σ y log y + (1 − y) log(1 − y) over a cube by bundle entropy, with derivatives: for many labels.

Planes b_i + ⟨g_i, y⟩ below f and weights λ of them on the simplex prove the lower bound Σ λ_i b_i − Σ_j softplus(−a_j),
a = Σ λ_i g_i, which its minimiser y = σ(−a) gives; the best λ are found by a primal-dual interior point method, and the
next plane is taken at that y (Amos, Xu & Kolter 2017, section 4.3). The entropy is 4-strongly convex, so that a handful
of planes does where f bends little.

The minimiser y solves ∇f(x, y) + log(y / (1 − y)) = 0 and depends on the parameters as the implicit function theorem
says, with (∇²f + diag(1/y + 1/(1 − y)))⁻¹, which conjugate gradients apply. x is computed once for all of it
(`contexts`); the search is in float64, the derivative in the type of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convexnet.curvature.tracing.restored_state import evaluating
from convexnet.domains import Cube, Domain
from convexnet.energy.contexts import Doubled, context_of, in_two_steps, value_with
from convexnet.energy.cutting_planes import Least, room

PLANES = "planes"
"""The solver of this file: for a smooth f in two steps, over a `Cube` with entropy."""

MOST = 30
"""Planes of a sample, at most."""

NEAR = 0.03
"""How far from the best weights is near enough, as a share of the gap."""

INNER = 12
"""Steps of the interior point method, at most."""

EDGE = 1e-12
"""How far the search stays from the faces of the cube."""


def check_for_planes(f: nn.Module, domain: Domain) -> None:
    """Raise where `PLANES` does not solve, or not differentiate, the problem.

    Raises:
        ValueError: another domain, or an f that may have kinks.

    Example:
        >>> import convexnet as cx
        >>> check_for_planes(cx.nn.PICNN(1, 2, hidden=(4,)), cx.Cube(2, entropy=True))
        >>> check_for_planes(cx.nn.PICNN(1, 2, hidden=(4,), activation="relu"), cx.Cube(2, entropy=True))
        Traceback (most recent call last):
        ValueError: solver="planes" is for a PICNN, or a Joint of a FICNN, with softplus as its activation, ...
    """
    if not isinstance(domain, Cube) or not domain.entropy or len(domain.shape) != 1:
        raise ValueError(f'solver="{PLANES}" is for a Cube of one dimension with entropy=True, not for {domain}')
    smooth = getattr(getattr(f, "net", f), "activation", None)
    if not in_two_steps(f) or not isinstance(smooth, nn.Softplus):
        raise ValueError(
            f'solver="{PLANES}" is for a PICNN, or a Joint of a FICNN, with softplus as its activation, whose '
            'minimisers have derivatives by the implicit function theorem; solver="auto" takes every energy'
        )


def least_with_entropy(
    f: nn.Module,
    given: Sequence[Tensor],
    domain: Domain,
    tol: float = 1e-3,
    start: Tensor | None = None,
    solver: str = PLANES,
) -> tuple[Tensor, Tensor]:
    """Return the minimisers (B, n), differentiable in the parameters of f, and which of them have converged.

    The gap is at most `tol` times the number of elements, in the units of the entropy (nats): `tol` a label.

    Args:
        f: certified by the caller.
        given: the other inputs, B rows each.
        domain: a `Cube` with entropy.
        tol: of the gap.
        start, solver: not needed: the search begins in the middle, and there is one solver.

    Raises:
        ValueError: another domain, or an f that may have kinks.

    Example:
        >>> import convexnet as cx
        >>> f = cx.nn.PICNN(2, 3, hidden=(8,))
        >>> y, converged = least_with_entropy(f, [torch.randn(5, 2)], cx.Cube(3, entropy=True))
        >>> y.requires_grad, bool(converged.all())
        (True, True)
    """
    del start, solver
    check_for_planes(f, domain)
    found = search(f, given, domain.shape.numel(), tol)
    y = found.y.to(given[0].dtype)
    if not torch.is_grad_enabled():
        return y, found.converged
    with evaluating(f):
        known = context_of(f, given)
        moved = y + zero_with_derivative(f, known, y, found.y)
    return moved, found.converged


def search(
    f: nn.Module, given: Sequence[Tensor], size: int, tol: float, cost: Tensor | None = None, most: int = MOST
) -> Least:
    """Return the minimum of each sample, of f(x, y) + ⟨cost, y⟩ where there is a cost (B, n); `lower` is proved up to
    the rounding of float64."""
    rows = len(given[0])
    with torch.no_grad(), evaluating(f):
        doubled = Doubled(f)
        context = doubled.context(given)
        here = torch.arange(rows, device=given[0].device)
        y = torch.full((rows, size), 0.5, dtype=torch.float64, device=here.device)
        best, value = y.clone(), y.new_full((rows,), torch.inf)
        lower, first = -value, value
        slopes, levels, weights = y.new_zeros(rows, 0, size), y.new_zeros(rows, 0), y.new_zeros(rows, 0)
        planes = 0
        for number in range(most):
            parts = context if len(here) == rows else [part[here] for part in context]
            at, slope = doubled.value_and_slope(parts, y)
            at, slope, planes = at.double(), slope.double(), planes + len(here)
            if cost is not None:
                at, slope = at + (cost[here] * y).sum(1), slope + cost[here]
            whole = at - entropy(y)
            first = whole if not number else first
            better = whole < value[here]
            value[here] = torch.where(better, whole, value[here])
            best[here] = torch.where(better[:, None], y, best[here])
            slopes = torch.cat([slopes, slope[:, None]], 1)
            levels = torch.cat([levels, (at - (slope * y).sum(1))[:, None]], 1)
            weights = torch.cat([weights, torch.ones_like(levels[:, :1])], 1)
            weights = solve_dual(slopes, levels, weights, NEAR * (value[here] - lower[here]))
            a = (weights[:, None] @ slopes)[:, 0]
            bound = (weights * levels).sum(1) - F.softplus(-a).sum(1)
            lower[here] = torch.maximum(lower[here], bound)
            y = torch.sigmoid(-a).clamp(EDGE, 1 - EDGE)
            open_ = value[here] - lower[here] > tol * size
            if not bool(open_.any()):
                break
            here, y, slopes, levels, weights = (part[open_] for part in (here, y, slopes, levels, weights))
    # Where planes agree, the last y is nearer to the minimiser than the best that was evaluated; but it has no value.
    return Least(best, value, lower, value - lower <= tol * size, first, planes)


def entropy(y: Tensor) -> Tensor:
    """−Σ y log y + (1 − y) log(1 − y), (B,).

    Example:
        >>> entropy(torch.tensor([[0.5, 1.0]]))
        tensor([0.6931])
    """
    return -(torch.xlogy(y, y) + torch.xlogy(1 - y, 1 - y)).sum(1)


def solve_dual(slopes: Tensor, levels: Tensor, begin: Tensor, allowed: Tensor) -> Tensor:
    """Return λ, (B, m), that nearly maximise Σ λ_i b_i − Σ_j softplus(−a_j) on the simplex, a = Σ λ_i g_i.

    Args:
        slopes: g, (B, m, n).
        levels: b, (B, m).
        begin: weights to begin near, those of before; not negative.
        allowed: how far from the maximum is near enough, about, (B,).

    Example:
        >>> slopes, levels = torch.tensor([[[-5.0], [5.0]]]).double(), torch.tensor([[1.5, -1.5]]).double()
        >>> weights = solve_dual(slopes, levels, torch.ones_like(levels), torch.zeros(1))  # of 5 |y − 0.3|
        >>> round(float(torch.sigmoid(-(weights[:, None] @ slopes)).item()), 4)
        0.3
    """
    rows, count = levels.shape
    if count == 1:
        return torch.ones_like(levels)
    λ = 0.8 * begin / begin.sum(1, keepdim=True).clamp(min=1e-12) + 0.2 / count
    λ = λ / λ.sum(1, keepdim=True)
    scale = (levels.amax(1) - levels.amin(1) + 1)[:, None]
    s = 0.1 * scale / count / λ
    last = torch.maximum(1e-9 * scale, allowed.nan_to_num(posinf=0.0)[:, None] / count)
    matrix = levels.new_zeros(rows, count + 1, count + 1)
    matrix[:, :count, count] = matrix[:, count, :count] = 1
    right = levels.new_zeros(rows, count + 1)
    for _ in range(INNER):
        mean = (λ * s).sum(1, keepdim=True) / count
        if bool((mean <= last).all()):
            break
        μ = 0.1 * mean
        y = torch.sigmoid(-(λ[:, None] @ slopes)[:, 0])
        gradient = levels + (slopes @ y[:, :, None])[:, :, 0]
        bent = slopes * (y * (1 - y))[:, None]
        matrix[:, :count, :count] = bent @ slopes.transpose(1, 2) + torch.diag_embed(s / λ)
        right[:, :count] = gradient + μ / λ
        step, failed = torch.linalg.solve_ex(matrix, right)
        if bool(failed.any()) or not bool(step.isfinite().all()):
            break
        dλ = step[:, :count]
        ds = μ / λ - s - s / λ * dλ
        length = torch.minimum(room(λ, dλ), room(s, ds)).clamp(max=1)[:, None]
        λ, s = λ + length * dλ, s + length * ds
    λ = λ.clamp(min=0)
    return λ / λ.sum(1, keepdim=True)


# --- derivatives -----------------------------------------------------------------------------------------------------


class Solved(torch.autograd.Function):
    """r -> 0, and backwards v -> solve(v)."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.solve = solve
        return torch.zeros_like(r)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return ctx.solve(grads[0]), None


def zero_with_derivative(f: nn.Module, known: Sequence[Tensor], y: Tensor, exact: Tensor) -> Tensor:
    """Return 0 with the derivative of the minimiser y: that of −(∇²f + diag(1/y + 1/(1 − y)))⁻¹ ∇f(x, y).

    Args:
        exact: y in float64. A certain label is nearer to its end than float32 can tell, and moves as much less, so that
            what a loss as 1/y makes of it stays finite.
    """
    with torch.enable_grad():
        point = y.detach().requires_grad_()
        (slope,) = torch.autograd.grad(value_with(f, known, point).sum(), point, create_graph=True)
        fixed = [part.detach() for part in known]
        again = y.detach().requires_grad_()
        (own,) = torch.autograd.grad(value_with(f, fixed, again).sum(), again, create_graph=True)
    inside = exact.clamp(EDGE, 1 - EDGE)
    curvature = (1 / inside + 1 / (1 - inside)).to(y.dtype)

    def product(v: Tensor) -> Tensor:
        if not own.requires_grad:  # f is affine in y
            return curvature * v
        (bent,) = torch.autograd.grad(own, again, v, retain_graph=True, allow_unused=True, materialize_grads=True)
        return curvature * v + bent

    def solve(v: Tensor) -> Tensor:
        return -conjugate_gradients(product, v, curvature)

    return cast(Tensor, Solved.apply(slope, solve))


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, diagonal: Tensor, steps: int = 50, tol: float = 1e-5
) -> Tensor:
    """Solve a positive definite system for each row, preconditioned by a diagonal.

    Example:
        >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
        >>> conjugate_gradients(lambda v: v @ matrix, torch.tensor([[3.0, 4.0]]), torch.ones(1, 2)).round(decimals=4)
        tensor([[1., 1.]])
    """
    x = torch.zeros_like(right)
    left = right
    z = left / diagonal
    ahead, rho = z, (left * z).sum(1, keepdim=True)
    goal = tol**2 * rho.clamp(min=1e-30)
    for _ in range(steps):
        if bool((rho <= goal).all()):
            break
        moved = product(ahead)
        step = rho / (ahead * moved).sum(1, keepdim=True).clamp(min=1e-30)
        x, left = x + step * ahead, left - step * moved
        z = left / diagonal
        new = (left * z).sum(1, keepdim=True)
        ahead, rho = z + new / rho.clamp(min=1e-30) * ahead, new
    return x
