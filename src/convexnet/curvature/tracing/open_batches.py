"""Operators of torch whose own code fixes the size of the batch while it is traced, written with others.

torch.linalg.matrix_norm, and norm where it is one, read all sizes of their argument: `torch.export` cannot leave
that of the batch open. The norms by sums of rows and columns are written here as what they are: maxima of 1-norms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

SUMS = {1.0: (0, torch.amax), -1.0: (0, torch.amin), math.inf: (1, torch.amax), -math.inf: (1, torch.amin)}
"""By the order: which of the two dimensions is summed over, and what is taken of the other."""


class OpenBatch(TorchFunctionMode):
    """While it is entered, such norms leave the size of the batch open."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.linalg.matrix_norm:
            found = norm_by_sums(*args, **kwargs)
        elif func is torch.linalg.norm:
            found = norm_of_matrices(*args, **kwargs)
        else:
            found = None
        return func(*args, **kwargs) if found is None else found


def norm_by_sums(A: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, **rest: Any) -> Tensor | None:
    """`torch.linalg.matrix_norm` of order ±1 or ±inf; None of others, and of arguments that it refuses.

    Example:
        >>> A = torch.tensor([[[1.0, -2.0], [3.0, 4.0]]])
        >>> norm_by_sums(A, 1), norm_by_sums(A, torch.inf)
        (tensor([6.]), tensor([7.]))
    """
    sums = SUMS.get(float(ord)) if isinstance(ord, (int, float)) else None
    whole = isinstance(A, Tensor) and isinstance(dim, (tuple, list)) and len(dim) == 2 and not rest
    if sums is None or not whole or not A.is_floating_point() or A.ndim < 2:
        return None
    first, second = (int(d) % A.ndim if -A.ndim <= d < A.ndim else -1 for d in dim)
    if first < 0 or second < 0 or first == second or 0 in (A.shape[first], A.shape[second]):
        return None
    place, extremum = sums
    summed, other = (first, second) if place == 0 else (second, first)
    found = extremum(torch.linalg.vector_norm(A, 1, [summed], keepdim=True), [other], keepdim=True)
    return found if keepdim else found.squeeze(first).squeeze(second - (second > first))


def norm_of_matrices(A: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, **rest: Any) -> Tensor | None:
    """`torch.linalg.norm` where it is such a norm of matrices."""
    if ord is None or (dim is None and getattr(A, "ndim", 0) != 2) or isinstance(dim, int):
        return None
    return norm_by_sums(A, ord, (-2, -1) if dim is None else dim, keepdim, **rest)
