"""Predictions of an energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.arrays import as_size
from convexnet.curvature.arguments import unwrap
from convexnet.curvature.certificate import certify
from convexnet.domains import Domain
from convexnet.energy.cutting_planes import least_over_simplex
from convexnet.energy.entropy import PLANES, least_with_entropy
from convexnet.energy.hinge import VERTICES, check_simplex, check_solved
from convexnet.energy.samples import inputs_of, place_of, rows_of
from convexnet.solve import minimise


def predict(f: nn.Module, x: Any, domain: Domain, *, batch: int = 1024, **options: Any) -> Tensor:
    """Return argmin over y of f(x, y) for every sample, (N, *shape), without gradients.

    Args:
        f: certified convex in its last input y.
        x: the other inputs, N rows each: a tensor, an array, or a tuple of them.
        domain: the set that y ranges over.
        batch: samples that are solved at once; it changes nothing but memory.
        options: further arguments of `minimise`; or a solver of `fit` and `structured_hinge` with its `tol`: "vertices"
            for classes on a `Simplex`, "planes" over a `Cube` with entropy. Where descent ends instead, which need not
            be near, says `unrolled`.

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
            parts = rows_of(given, rows, device)
            if not found and options.get("solver") in (VERTICES, PLANES):
                example = domain.centre[None].to(parts[0])
                certify(module, (*(part[:1] for part in parts), example), wrt=len(parts)).require()
            found.append(least(module, parts, domain, options))
    return torch.cat(found)


def least(f: nn.Module, given: Sequence[Tensor], domain: Domain, options: Mapping[str, Any]) -> Tensor:
    """Return argmin over y of f(x, y) for a batch, (B, *shape).

    Raises:
        ValueError: no minimum, or solver="vertices" or "planes" for a domain, or an f, that these are not for.
    """
    if options.get("solver") == PLANES:
        return least_with_entropy(f, given, domain, tol=options.get("tol", 1e-3))[0]
    if options.get("solver") != VERTICES:
        solution = minimise(f, domain, tuple(given) or None, **options)
        check_solved(solution)
        return solution.x
    check_simplex(domain)
    device, dtype = place_of(f)
    centre = domain.centre.to(device, dtype).expand(len(given[0]), -1)
    return least_over_simplex(f, given, torch.zeros_like(centre), centre, options.get("tol", 1e-3)).y.to(dtype)
