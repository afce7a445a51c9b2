"""Norms that are affine in eval mode, in place of LayerNorm and its kin, whose divisor depends on the sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.arrays import as_size, is_whole


def dims_of(dims: int | Sequence[int]) -> tuple[int, ...]:
    """One dimension or several as a tuple of ints.

    Raises:
        TypeError: neither; ValueError: the batch is among them, or none is.
    """
    listed: list[Any] = []
    if is_whole(dims):
        listed = [dims]
    elif isinstance(dims, Sequence) and not isinstance(dims, str):
        listed = list(dims)
    if not listed or not all(is_whole(dim) for dim in listed):
        raise TypeError(f"dims must be a dimension or a sequence of them, as (1,), not {dims!r}")
    found = tuple(int(dim) for dim in listed)
    if 0 in found:
        raise ValueError(f"dims must not name dimension 0, the batch: {dims!r}")
    return found


def features_first(x: Tensor, dims: Sequence[int]) -> tuple[Tensor, torch.Size]:
    """The named dimensions flattened into one and moved to place 1, and the shape to undo that with."""
    moved = x.movedim(tuple(dims), tuple(range(1, 1 + len(dims))))
    return moved.flatten(1, len(dims)), moved.shape


def features_back(y: Tensor, shape: torch.Size, dims: Sequence[int]) -> Tensor:
    """The inverse of `features_first`."""
    whole = y.unflatten(1, shape[1 : 1 + len(dims)])
    return whole.movedim(tuple(range(1, 1 + len(dims))), tuple(dims))


class BatchNormAlong(nn.BatchNorm1d):
    """BatchNorm whose features lie along other dimensions than 1: the last one of (B, T, C), or all of (B, C, H, W).

    In eval mode an affine map for each feature; in training the statistics run over the batch and all other
    dimensions. Parameters and buffers are those of `nn.BatchNorm1d`.

    Args:
        features: how many there are: the product of the lengths of `dims`.
        dims: the dimensions that hold them; 0 is the batch.

    Example:
        >>> tokens = torch.randn(8, 5, 3)
        >>> norm = BatchNormAlong(3, dims=(-1,))
        >>> bool(norm(tokens).mean((0, 1)).abs().max() < 1e-5)
        True
    """

    def __init__(self, features: int, dims: int | Sequence[int] = (-1,), eps: float = 1e-5) -> None:
        super().__init__(as_size(features, "features"), eps=eps)
        self.dims = dims_of(dims)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dims={self.dims}"

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        if self.dims == (1,):
            return super().forward(input)
        values, shape = features_first(input, self.dims)
        return features_back(super().forward(values), shape, self.dims)


class Affine(nn.Module):
    """x * weight + bias for each feature: a normalisation without statistics (ResMLP, Touvron et al. 2021, section 2).

    Args:
        features: how many there are: the product of the lengths of `dims`.
        dims: the dimensions that hold them; 0 is the batch.

    Example:
        >>> Affine(3, dims=(1,))(torch.ones(2, 3, 4, 4)).shape
        torch.Size([2, 3, 4, 4])
    """

    def __init__(self, features: int, dims: int | Sequence[int] = (1,)) -> None:
        super().__init__()
        features, self.dims = as_size(features, "features"), dims_of(dims)
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, dims={self.dims}"

    def forward(self, x: Tensor) -> Tensor:
        if self.dims == (1,):
            tail = [1] * (x.ndim - 2)
            return x * self.weight.view(-1, *tail) + self.bias.view(-1, *tail)
        values, shape = features_first(x, self.dims)
        tail = [1] * (values.ndim - 2)
        return features_back(values * self.weight.view(-1, *tail) + self.bias.view(-1, *tail), shape, self.dims)
