"""Bounds of known tensors, whatever they hold: real numbers, integers, truth values."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from convexnet.curvature.fields import uniform

INF = math.inf
REAL = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types whose numbers are their own bounds, and with which PyTorch computes."""


def bounds_of(value: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of known entries; complex and quantised ones have none."""
    if value.dtype in REAL:
        return value, value
    if value.is_complex() or value.is_quantized:
        return uniform(-INF, value.shape, torch.float64), uniform(INF, value.shape, torch.float64)
    bound = value.to(torch.float64)
    if value.dtype not in (torch.int64, torch.uint64) or not bool((bound.abs() >= EXACT).any()):
        return bound, bound
    rounded = bound.abs() >= EXACT
    below, above = (torch.nextafter(bound, torch.tensor(end, dtype=torch.float64)) for end in (-INF, INF))
    return torch.where(rounded, below, bound), torch.where(rounded, above, bound)


def is_finite(tensor: Tensor) -> bool:
    """Whether no entry is infinite or NaN; a finite sum tells without a mask as large as the tensor."""
    if not tensor.is_floating_point():
        return True
    tensor = tensor if tensor.dtype in REAL else tensor.to(torch.float64)
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


EXACT = 2.0**53
"""Below it every integer is a float64."""


def range_of(dtype: torch.dtype) -> tuple[float, float]:
    """Between which numbers the entries of a type lie."""
    if dtype == torch.bool:
        return 0.0, 1.0
    if dtype.is_floating_point or dtype.is_complex:
        return -INF, INF
    try:
        limits = torch.iinfo(dtype)
    except TypeError:  # a quantised type
        return -INF, INF
    return float(limits.min), float(limits.max)
