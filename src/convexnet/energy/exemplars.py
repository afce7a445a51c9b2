"""Exemplars: what x a network finds most like a label, and the loss that teaches it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convexnet.arrays import as_real, as_size, as_tensor
from convexnet.curvature.arguments import unwrap
from convexnet.domains import Domain
from convexnet.energy.hinge import check_solved
from convexnet.energy.samples import one_hot, place_of, targets_of
from convexnet.energy.values import value_of
from convexnet.solve import Solution, conjugate, minimise


def exemplars(f: nn.Module, classes: int, domain: Domain, **options: Any) -> Solution:
    """Return the x that f(x, y) likes best for each label: argmin over x of f(x, e_k), k = 0 ... classes − 1.

    Args:
        f: f(x, y) certified convex in x, with y one-hot (B, classes); a `Joint` of a FICNN, for instance.
        classes: how many labels there are.
        domain: the set that x ranges over; without bounds the minimum of a piecewise linear f may be −inf.
        options: further arguments of `minimise`.

    Returns:
        A `Solution` whose x is (classes, *shape): row k is the exemplar of label k.

    Raises:
        NotCertified: f is not proved convex in x.

    Source: Amos & Kolter, Input-Convex Deep Networks (2016), exemplars in learning.

    Example:
        >>> import convexnet as cx
        >>> f = cx.energy.Joint(cx.nn.FICNN(4 + 3, hidden=(8,)))
        >>> found = exemplars(f, 3, cx.Box(-1, 1, shape=(2, 2)))
        >>> found.x.shape, bool(found.converged.all())
        (torch.Size([3, 2, 2]), True)
    """
    device, dtype = place_of(f)
    labels = torch.eye(as_size(classes, "classes"), device=device, dtype=dtype)
    return minimise(f, domain, labels, wrt=0, **options)


def exemplar_loss(
    f: nn.Module, x_true: Any, y: Any, domain: Domain, gamma: float, *, classes: int | None = None, **options: Any
) -> Tensor:
    """Return f(x*, y) + γ‖x*‖² − min over x of (f(x, y) + γ x*ᵀx), how far x* is from being the exemplar of y, (B,).

    It is the max-margin loss of f(x, y) + γ/2 ‖x‖² with the margin γ/2 ‖x − x*‖², which the quadratic makes convex and
    then cancels. It is 0 only if f(x, y) >= f(x*, y) + γ x*ᵀ(x* − x) for every x of the domain: for x* = 0, if x* is
    the minimiser.

    Args:
        f: certified convex in its first input x; returns (B,) or (B, 1).
        x_true: the wanted exemplars x*, (B, *shape), points of the domain: class means, say.
        y: their labels as f takes them, (B, ...); or class indices (B,), with `classes` given.
        domain: the set that x ranges over.
        gamma: γ, not negative.
        classes: how many classes there are, to make indices one-hot.
        options: further arguments of `minimise`.

    Returns:
        Losses in float64, not negative up to rounding; differentiable in the parameters of f.

    Raises:
        NotCertified: f is not proved convex in x.
        ValueError: an x* outside of the domain, an unknown class, no minimum.

    Source: Amos & Kolter, Input-Convex Deep Networks (2016), exemplar learning.

    Example:
        >>> import convexnet as cx
        >>> f = cx.energy.Joint(cx.nn.FICNN(2 + 3, hidden=(8,)))
        >>> losses = exemplar_loss(f, torch.zeros(3, 2), [0, 1, 2], cx.Box(-1, 1, shape=2), 0.1, classes=3)
        >>> losses.shape, bool((losses >= 0).all())
        (torch.Size([3]), True)
    """
    module, strength = unwrap(f), as_real(gamma, "gamma")
    device, dtype = place_of(module)
    wanted = targets_of(x_true, domain, module, name="x_true", labels=False).to(device)
    labels = labels_of(y, classes).to(device)
    labels = labels.to(dtype) if labels.is_floating_point() else labels
    if len(labels) != len(wanted):
        raise ValueError(f"x_true has {len(wanted)} samples and y has {len(labels)}")
    least = conjugate(module, -strength * wanted, domain, labels, wrt=0, **options)
    check_solved(least)
    norms = wanted.double().flatten(1).square().sum(1)
    return (value_of(module, [wanted, labels]) + strength * norms + least.value).relu()


def labels_of(y: Any, classes: int | None) -> Tensor:
    """Return labels as an energy takes them.

    Raises:
        ValueError: indices without, or beyond, the number of classes.

    Example:
        >>> labels_of([1, 0], 2).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    found = as_tensor(y, "y")
    if found.is_floating_point() or found.ndim > 1:
        return found if found.is_floating_point() else found.to(torch.get_default_dtype())
    if classes is None:
        raise ValueError("y holds class indices: say how many classes there are, classes=..., or give y one-hot")
    return one_hot(found, as_size(classes, "classes"), "y").to(torch.get_default_dtype())
