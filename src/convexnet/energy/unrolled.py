"""Gradient descent on an energy as a layer: where a number of steps end, differentiable through the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.arrays import as_real, as_size
from convexnet.curvature.arguments import unwrap
from convexnet.curvature.tracing.restored_state import evaluating
from convexnet.domains import Box, Domain
from convexnet.energy.contexts import context_of, value_with
from convexnet.energy.samples import inputs_of, place_of

STEPS, RATE, MOMENTUM = 30, 0.01, 0.9


def unrolled(
    f: nn.Module,
    x: Any,
    domain: Domain,
    *,
    start: Tensor | None = None,
    steps: int = STEPS,
    rate: float = RATE,
    momentum: float = MOMENTUM,
) -> Tensor:
    """Return where gradient descent on f(x, y) over y ends, (B, *shape), differentiable through all steps.

    The steps are v ← momentum · v − rate · ∇f, y ← y + v, cut off at the bounds of the domain. Gradients pass a bound
    where they lead back inside, so that a y which a step has cut off goes on learning. What is returned is no minimum,
    and nothing is proved of it: `minimise` says how far it is from one.

    Args:
        f: an energy; y is its last input.
        x: the other inputs, B rows each: a tensor, an array, or a tuple of them; None where f takes y alone.
        domain: a `Box`.
        start: where to begin, (B, *shape); None: the centre of the domain.
        steps, rate, momentum: of the descent.

    Raises:
        TypeError: a domain that is not a box, or has an entropy.
        ValueError: wrong settings.

    Source: Domke (2012), "Generic methods for optimization-based modeling"; Amos, Xu & Kolter (2017), section 5.

    Example:
        >>> import convexnet as cx
        >>> f = cx.nn.PICNN(2, 1, hidden=(8,))
        >>> y = unrolled(f, torch.randn(5, 2), cx.Cube(1))
        >>> y.shape, y.requires_grad, bool(((y >= 0) & (y <= 1)).all())
        (torch.Size([5, 1]), True, True)
    """
    module = unwrap(f)
    device, _ = place_of(module)
    given = [part.to(device) for part in inputs_of(x, module)]
    return descend(
        module,
        given,
        box_of(domain),
        start,
        steps=as_size(steps, "steps"),
        rate=as_real(rate, "rate"),
        momentum=as_real(momentum, "momentum"),
    )


def box_of(domain: Domain) -> Box:
    """Return a domain that is a box.

    Raises:
        TypeError: it is not, or has an entropy.
    """
    if not isinstance(domain, Box) or not domain.region().is_box:
        raise TypeError(
            f'how="unrolled" is for a Box, without an entropy: steps of descent are cut off at bounds, and this is a '
            f'{type(domain).__name__}. how="argmin" takes every domain'
        )
    return domain


def descend(
    f: nn.Module,
    given: Sequence[Tensor],
    box: Box,
    start: Tensor | None,
    *,
    steps: int = STEPS,
    rate: float = RATE,
    momentum: float = MOMENTUM,
) -> Tensor:
    """`unrolled` with arguments that are checked."""
    device, dtype = place_of(f)
    rows = len(given[0]) if given else box.batch or (1 if start is None else len(start))
    lo, hi, centre = (end.to(device, dtype).expand(rows, *box.shape) for end in (box.lo, box.hi, box.centre))
    keep = torch.is_grad_enabled()
    with torch.enable_grad(), evaluating(f):
        y = centre if start is None else start.to(centre)
        y = y.detach().clamp(lo, hi).requires_grad_()
        speed = torch.zeros_like(y)
        known = context_of(f, given)
        for _ in range(steps):
            total = value_with(f, known, y).sum()
            (slope,) = torch.autograd.grad(total, y, create_graph=keep)
            speed = momentum * speed - rate * slope
            y = cut_off(y + speed, lo, hi)
            y = y if keep else y.detach().requires_grad_()
    return y if keep else y.detach()


def cut_off(y: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """Return y within bounds, with gradients that pass a bound where they lead back inside.

    Example:
        >>> y = torch.tensor([2.0, 2.0], requires_grad=True)
        >>> cut_off(y, torch.zeros(2), torch.ones(2)).backward(torch.tensor([1.0, -1.0]))
        >>> y.grad.tolist()
        [1.0, 0.0]
    """
    if not y.requires_grad:
        return y.clamp(lo, hi)
    above, below = (y > hi).detach(), (y < lo).detach()
    passed = y.clone()
    passed.register_hook(lambda g: torch.where((above & (g < 0)) | (below & (g > 0)), 0.0, g))
    return passed + (y.clamp(lo, hi) - y).detach()
