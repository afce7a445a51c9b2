"""The loss of max-margin structured prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from convexnet.curvature.arguments import unwrap
from convexnet.curvature.certificate import certify
from convexnet.curvature.tracing.restored_state import evaluating
from convexnet.domains import Domain, Simplex
from convexnet.energy.contexts import context_of, value_with
from convexnet.energy.cutting_planes import least_over_simplex
from convexnet.energy.entropy import PLANES, check_for_planes, entropy, search
from convexnet.energy.samples import inputs_of, place_of, targets_of
from convexnet.energy.values import value_of
from convexnet.errors import NotCertified
from convexnet.solve import Solution
from convexnet.solve.assemble_solution import with_zero_gradients
from convexnet.solve.at_most import one_number
from convexnet.solve.operations import Negated, minimise_around

Margin = Literal["classes", "labels"] | nn.Module

VERTICES = "vertices"
"""The solver of `cutting_planes`, for classes alone."""


class ClassMargin(nn.Module):
    """Δ(y, y') = y'ᵀ(1 − y): between two classes 1, within one 0, and affine in y' between them.

    Example:
        >>> import torch
        >>> ClassMargin()(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.25, 0.75]]))
        tensor([0.7500])
    """

    def forward(self, y: Tensor, other: Tensor) -> Tensor:
        """(B,), of y and y' (B, *shape)."""
        return (other * (1 - y)).flatten(1).sum(1)


class LabelMargin(nn.Module):
    """Δ(y, y') = Σ y (1 − y') + (1 − y) y': how many labels differ, and affine in y' between.

    Example:
        >>> LabelMargin()(torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[0.0, 1.0, 0.5]]))
        tensor([2.5000])
    """

    def forward(self, y: Tensor, other: Tensor) -> Tensor:
        """(B,), of y and y' (B, *shape)."""
        return (y * (1 - other) + (1 - y) * other).flatten(1).sum(1)


class MarginScaled(nn.Module):
    """f(*given, y') − Δ(y, y'), of the inputs (*given, y, y')."""

    def __init__(self, f: nn.Module, margin: nn.Module) -> None:
        super().__init__()
        self.f, self.margin = f, margin

    def forward(self, *inputs: Tensor) -> Tensor:
        """(B,)."""
        *given, y, other = inputs
        return one_number(self.f(*given, other)) - one_number(self.margin(y, other))


def structured_hinge(
    f: nn.Module, x: Any, y: Any, domain: Domain, margin: Margin = "classes", **options: Any
) -> Tensor:
    """Return the losses max(0, f(x, y) − min over y' of (f(x, y') − Δ(y, y'))) of max-margin learning, (B,).

    A loss is 0 where f(x, y) is below f(x, y') by the margin Δ(y, y') for every y' of the domain, vertices or not.

    Args:
        f: certified convex in its last input y; returns (B,) or (B, 1).
        x: the other inputs, B rows each: a tensor, an array, or a tuple of them; None where f takes y alone.
        y: the right answers, (B, *shape), points of the domain; or class indices (B,) for a domain of shape (K,).
        domain: the set that y ranges over, for classes a `Simplex`.
        margin: "classes", Δ = y'ᵀ(1 − y), for one-hot y on the simplex; "labels", Σ y(1 − y') + (1 − y)y', the number
            of labels that differ, for y on the cube; or a module margin(y, y') -> (B,) that is
            certified concave in y', so that f − Δ is convex.
        options: further arguments of `minimise`, such as `tol` and `start`. solver="vertices", for "classes" on a
            `Simplex` alone, is the fastest by far: cutting planes that start from the right class and the vertices
            (`convexnet.energy.cutting_planes`), whose gap is at most `tol` (1e-3) times the rise of f to the highest
            vertex; the gradient is ∇f(x, y) − ∇f(x, y*) without dual slopes, as in the source's learning.
            solver="planes", for "labels" on a `Cube` with entropy, is bundle entropy (`convexnet.energy.entropy`).
            With an entropy the loss is an upper bound of the hinge, and smooth.

    Returns:
        Losses in float64, computed in eval mode. They are differentiable in the parameters of f and of the margin, and
        in x: the gradient is ∇f(x, y) − ∇f(x, y*), with the dual slopes where y* sits on kinks. A minimum is found up
        to `tol`, from above: but for the rounding of y*, a loss is never larger than the true one.

    Raises:
        NotCertified: f is not proved convex in y, or the margin not concave in y'.
        TypeError: the margin is neither a module nor "classes".
        ValueError: a y outside of the domain, an unknown class, no minimum.

    Source: Amos & Kolter, Input-Convex Deep Networks (2016); Taskar et al. (2005); Tsochantaridis et al. (2005).

    Example:
        >>> import torch, convexnet as cx
        >>> f = cx.nn.PICNN(2, 3, hidden=(8,), activation="relu")
        >>> losses = structured_hinge(f, torch.randn(5, 2), [0, 1, 2, 1, 0], cx.Simplex(3), "classes")
        >>> losses.shape, bool((losses >= 0).all()), losses.requires_grad
        (torch.Size([5]), True, True)
    """
    module = unwrap(f)
    device, _ = place_of(module)
    given = [part.to(device) for part in inputs_of(x, module)]
    truth = targets_of(y, domain, module, len(given[0]) if given else None).to(device)
    if options.get("solver") in (VERTICES, PLANES):
        certify(module, (*given, truth), wrt=len(given)).require()
    return hinge_of(module, given, truth, domain, margin_of(margin), options)[0]


def margin_of(margin: Any) -> nn.Module:
    """Return the module of a margin.

    Raises:
        TypeError, ValueError: it is something else.

    Example:
        >>> margin_of("classes")
        ClassMargin()
    """
    if isinstance(margin, nn.Module):
        return margin
    if isinstance(margin, str):
        if margin in ("classes", "labels"):
            return ClassMargin() if margin == "classes" else LabelMargin()
        raise ValueError(f'margin is "classes", "labels" or a module margin(y, other) -> (B,), not {margin!r}')
    raise TypeError(
        f'margin is "classes", "labels" or a module margin(y, other) -> (B,), not a {type(margin).__name__}'
    )


def hinge_of(
    f: nn.Module, given: Sequence[Tensor], truth: Tensor, domain: Domain, margin: nn.Module, options: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses (B,), the y' that violate the margin most, and which of them have converged."""
    if options.get("solver") == VERTICES:
        return hinge_over_classes(f, given, truth, domain, margin, **options)
    if options.get("solver") == PLANES:
        return hinge_over_labels(f, given, truth, domain, margin, **options)
    try:
        found = minimise_around(MarginScaled(f, margin), f, domain, [*given, truth], -1, options)
    except NotCertified as error:
        own = certify(Negated(margin), (truth[:1], truth[:1]), wrt=1, domain=domain.hull())
        if own.convex:  # then it is f that is not convex
            raise
        raise NotCertified(
            f"the margin {type(margin).__name__} is not proved concave in y', its second input, so that f − margin "
            f"would have more than one minimum:\n{error}",
            error.findings,
        ) from None
    check_solved(found)
    return (value_of(f, [*given, truth]) - found.value).relu(), found.x, found.converged


def hinge_over_classes(
    f: nn.Module,
    given: Sequence[Tensor],
    truth: Tensor,
    domain: Domain,
    margin: nn.Module,
    solver: str = VERTICES,
    tol: float = 1e-3,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`hinge_of` for classes, by cutting planes; f is certified by the caller.

    The search begins at the right class, whose value the loss needs anyway, whatever `start` is. Only the samples whose
    margin is violated have a part in the gradient.

    Raises:
        ValueError: another margin, or another domain than a simplex of total 1.
    """
    del solver, start
    check_simplex(domain)
    if not isinstance(margin, ClassMargin):
        raise ValueError(f'solver="{VERTICES}" is for margin="classes", not for a {type(margin).__name__}')
    found = least_over_simplex(f, given, truth.double() - 1, truth, tol)
    losses = (found.first - found.value).relu()
    y = found.y.to(truth)
    return with_gradient(f, given, truth, y, losses), y, found.converged


def hinge_over_labels(
    f: nn.Module,
    given: Sequence[Tensor],
    truth: Tensor,
    domain: Domain,
    margin: nn.Module,
    solver: str = PLANES,
    tol: float = 1e-3,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`hinge_of` for labels over a cube with entropy, by bundle entropy; f is certified by the caller.

    Raises:
        ValueError: another margin or domain, or an f that the solver is not for.
    """
    del solver, start
    check_for_planes(f, domain)
    if not isinstance(margin, LabelMargin):
        raise ValueError(f'solver="{PLANES}" is for margin="labels", not for a {type(margin).__name__}')
    right = truth.double()
    found = search(f, given, truth.shape[1], tol, 2 * right - 1)
    own = value_of(f, [*given, truth]).detach() - entropy(right)
    losses = (own - (found.value - right.sum(1))).relu()
    y = found.y.to(truth)
    return with_gradient(f, given, truth, y, losses), y, found.converged


def with_gradient(f: nn.Module, given: Sequence[Tensor], truth: Tensor, y: Tensor, losses: Tensor) -> Tensor:
    """Return losses with the gradient ∇f(x, y) − ∇f(x, y*) where they are positive."""
    rows = (losses > 0).nonzero()[:, 0]
    if not torch.is_grad_enabled():
        return losses
    if not len(rows):  # every margin holds: the gradient is zero, and not missing
        return with_zero_gradients(losses, [*given, *f.parameters()])
    some = len(rows) < len(truth)
    parts, right, wrong = ([a[rows] if some else a for a in group] for group in (list(given), [truth], [y]))
    with evaluating(f):
        known = context_of(f, parts)
        moving = value_with(f, known, right[0]) - value_with(f, known, wrong[0])
    return losses.index_add(0, rows, moving - moving.detach())


def check_simplex(domain: Domain) -> None:
    """Raise where a domain is not that of classes.

    Example:
        >>> import convexnet as cx
        >>> check_simplex(cx.Simplex(3, total=2.0))
        Traceback (most recent call last):
        ValueError: solver="vertices" is for a Simplex of one dimension with total=1, not for Simplex(3, total=2)
    """
    if not isinstance(domain, Simplex) or domain.batch is not None or len(domain.shape) != 1 or domain.total != 1:
        raise ValueError(f'solver="{VERTICES}" is for a Simplex of one dimension with total=1, not for {domain}')


def check_solved(found: Solution) -> None:
    """Raise where a sample has no minimum.

    Raises:
        ValueError: it is unbounded or infeasible.

    Example:
        >>> import convexnet as cx
        >>> check_solved(cx.minimise(nn.Linear(1, 1), cx.Box(0, 1, shape=1)))
    """
    for row, status in enumerate(found.status):
        if status in ("unbounded", "infeasible"):
            raise ValueError(f"there is no minimum over y for sample {row}, which is {status}: {found.message}")
