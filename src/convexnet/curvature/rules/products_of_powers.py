"""Products of two quantities that both vary: what their degrees of power-convexity and power-concavity say of them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from convexnet.curvature.facts import INF, Fact
from convexnet.curvature.fields import Shape, core, uniform
from convexnet.curvature.rules.linear import sum_of_facts
from convexnet.curvature.rules.powers import concavity_of_product, with_concavity


def product_of_powers(a: Fact, b: Fact, shape: Shape) -> Fact:
    """What the degrees of two quantities that both vary say of their product; see `powers`."""
    result = sum_of_facts([(a, 1), (b, 1)], shape)
    result = replace(result, nonconvex=result.varies, nonconcave=result.varies, degree=0.0, exponent=math.nan)
    result = result.bounded(*product_bounds(a, b, shape))
    if a.goes_below_zero or b.goes_below_zero:
        return result
    result = with_concavity(result, concavity_of_product((a.root, b.root)))
    degree = a.power if a.power == b.power == INF else 0.0
    for up, down in ((a.power, b.root), (b.power, a.root)):
        if 0 < up < INF and -INF < down < 0:  # what is convex, over what is concave
            degree = max(degree, up + down)
    if degree >= 1:
        result = replace(result, nonconvex=uniform(False, shape, torch.bool), degree=degree)
    return replace(result, positive=a.is_positive and b.is_positive)


def product_bounds(a: Fact, b: Fact, shape: Shape) -> tuple[Tensor, Tensor]:
    """Bounds of the product of two quantities that both vary: the least and the largest of four, rounded outwards."""

    def ends(*bounds: Tensor) -> Tensor:
        alo, ahi, blo, bhi = (bound.double() for bound in bounds)
        corners = torch.stack(torch.broadcast_tensors(*(
            torch.where((x == 0) | (y == 0), 0.0, x * y) for x in (alo, ahi) for y in (blo, bhi)
        )))  # fmt: skip
        low, high = corners.amin(0), corners.amax(0)
        room = 4 * torch.finfo(torch.float64).eps
        low = torch.where(low == 0, 0.0, low - room * low.abs().nan_to_num(posinf=0.0) - 1e-300)
        high = torch.where(high == 0, 0.0, high + room * high.abs().nan_to_num(posinf=0.0) + 1e-300)
        nonneg = ((alo >= 0) & (blo >= 0)) | ((ahi <= 0) & (bhi <= 0))
        nonpos = ((alo >= 0) & (bhi <= 0)) | ((ahi <= 0) & (blo >= 0))
        return torch.stack(
            [torch.where(nonneg, low.clamp(min=0.0), low), torch.where(nonpos, high.clamp(max=0.0), high)]
        )

    both = ends(*(core(f.expand(tuple(shape))) for f in (a.lo, a.hi, b.lo, b.hi)))
    return both[0].expand(tuple(shape)), both[1].expand(tuple(shape))
