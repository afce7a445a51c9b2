"""Predictions of an energy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convexnet.arrays import as_size
from convexnet.curvature.arguments import unwrap
from convexnet.domains import Domain
from convexnet.energy.hinge import check_solved
from convexnet.energy.samples import inputs_of, place_of, rows_of
from convexnet.solve import minimise


def predict(f: nn.Module, x: Any, domain: Domain, *, batch: int = 1024, **options: Any) -> Tensor:
    """Return argmin over y of f(x, y) for every sample, (N, *shape), without gradients.

    Args:
        f: certified convex in its last input y.
        x: the other inputs, N rows each: a tensor, an array, or a tuple of them.
        domain: the set that y ranges over.
        batch: samples that are solved at once; it changes nothing but memory.
        options: further arguments of `minimise`. Where descent ends instead, which need not be near, says `unrolled`.

    Returns:
        Points of the domain. Of classes on a simplex the prediction is `predict(...).argmax(1)`.

    Raises:
        NotCertified: f is not proved convex in y.
        ValueError: no x, or no minimum.

    Example:
        >>> import convexnet as cx
        >>> predict(cx.nn.PICNN(2, 3, hidden=(8,)), torch.randn(5, 2), cx.Cube(3, entropy=True)).shape
        torch.Size([5, 3])
    """
    module = unwrap(f)
    device, _ = place_of(module)
    given, size = inputs_of(x, module), as_size(batch, "batch")
    if not given:
        raise ValueError("there is no x to predict for: cx.minimise(f, domain) minimises an f of y alone")
    found: list[Tensor] = []
    with torch.no_grad():
        for rows in torch.arange(len(given[0])).split(size):
            solution = minimise(module, domain, tuple(rows_of(given, rows, device)), **options)
            check_solved(solution)
            found.append(solution.x)
    return torch.cat(found)
