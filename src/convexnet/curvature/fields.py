"""Tensors that say one thing about many elements, at the price of one.

A field has the shape of the tensor it describes. Along dimensions where it is uniform it has stride zero
(`Tensor.expand`), so that its `core`, what it really stores, is small, and shape operators act on it as on any tensor.
A field that is uniform throughout is taken from a table of such tensors, so that its single value, its `level`, is
known without looking: most facts of most layers are of that kind, and cost no arithmetic at all.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

Shape = Sequence[int]
BATCH = 2
"""Programs are traced with two rows: enough to tell whether rows influence each other."""

_uniform: dict[tuple[Any, ...], Tensor] = {}  # (value, dtype, shape) -> the field
_levels: dict[
    int, tuple[Tensor, float]
] = {}  # id of such a field -> (itself, value); it keeps the id from being reused
_scalars: dict[tuple[Any, ...], Tensor] = {}  # (value, dtype) -> a tensor of shape ()
_aligned: dict[tuple[int, ...], Tensor] = {}
_results: dict[tuple[Any, ...], tuple[float, torch.dtype]] = {}  # elementwise operators of torch on uniform fields
_extremes: MutableMapping[Tensor, tuple[float, float]] = WeakIdKeyDictionary()
ENTRIES = 20_000
"""How many uniform fields are remembered before all are forgotten; forgetting costs time, never correctness."""


def scalar(value: float, dtype: torch.dtype) -> Tensor:
    """A remembered tensor of shape ()."""
    key = value, dtype
    found = _scalars.get(key)
    if found is None:
        found = _scalars[key] = torch.full((), value, dtype=dtype)
    return found


def uniform(value: float, shape: Shape, dtype: torch.dtype) -> Tensor:
    """The field of the given shape that holds one value throughout."""
    key = value, dtype, tuple(shape)
    found = _uniform.get(key)
    if found is None:
        if len(_uniform) >= ENTRIES:
            for table in (_uniform, _levels, _scalars, _results):
                table.clear()
        found = _uniform[key] = scalar(value, dtype).expand(key[2])
        _levels[id(found)] = found, value
    return found


def level(field: Tensor) -> float | None:
    """The value of a field that is known to be uniform; None says nothing."""
    found = _levels.get(id(field))
    return None if found is None else found[1]


def core(field: Tensor) -> Tensor:
    """The field with its uniform dimensions cut to size 1: everything it really stores."""
    steps = field.stride()
    if 0 not in steps:
        return field
    return field.as_strided([1 if step == 0 else n for n, step in zip(field.shape, steps, strict=True)], steps)


def spread(inner: Tensor, shape: Shape) -> Tensor:
    """A core in its full shape."""
    shape = tuple(shape)
    return inner if inner.shape == shape else inner.expand(shape)


def from_core(inner: Tensor, shape: Shape) -> Tensor:
    """A core as a field; one number becomes a uniform field."""
    if inner.numel() == 1 and inner.dtype in (torch.bool, torch.uint8, torch.float64):
        return uniform(inner.item(), shape, inner.dtype)
    return spread(inner, shape)


def compact(field: Tensor, shape: Shape | None = None) -> Tensor:
    """The same field (expanded to `shape`), with every dimension along which it turns out uniform at stride zero."""
    shape = tuple(field.shape if shape is None else shape)
    inner = core(field)
    for dim, length in enumerate(inner.shape):
        if length > 1 and bool((inner == inner.narrow(dim, 0, 1)).all()):
            inner = inner.narrow(dim, 0, 1)
    return from_core(inner.clone() if inner.numel() < field.numel() else inner, shape)


def elementwise(function: Callable[..., Tensor], shape: Shape, *fields: Tensor) -> Tensor:
    """Apply an elementwise function to fields that broadcast to `shape`, working only on what they store."""
    values = [level(field) for field in fields]
    key: tuple[Any, ...] | None = None
    if isinstance(function, BuiltinFunctionType) and None not in values:
        key = (function, *values, *(field.dtype for field in fields))
        if key in _results:
            value, dtype = _results[key]
            return uniform(value, shape, dtype)
    inners = [
        core(spread(field, shape)) if value is None else scalar(value, field.dtype)
        for field, value in zip(fields, values, strict=True)
    ]
    result = function(*inners)
    if key is not None and result.dtype in (torch.bool, torch.uint8, torch.float64):
        _results[key] = result.item(), result.dtype
    return from_core(result, shape)


def either(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise "or" of two masks of one shape."""
    for one, other in ((a, b), (b, a)):
        known = level(one)
        if known is not None:
            return one if known else other
    return elementwise(torch.logical_or, a.shape, a, b)


def extremes(field: Tensor) -> tuple[float, float]:
    """The least and the largest number in a field; NaN if one of them is. They are found in one pass, and once for each
    field: a field is never written to."""
    value = level(field)
    if value is not None:
        return value, value
    found: tuple[float, float] | None = _extremes.get(field)
    if found is None:
        low, high = core(field).aminmax() if field.numel() else (scalar(0.0, field.dtype),) * 2
        found = _extremes[field] = low.item(), high.item()
    return found


def where_any(mask: Tensor) -> bool:
    """Whether the mask is true anywhere; a field without elements, uniform or not, is true nowhere."""
    if not mask.numel():
        return False
    known = level(mask)
    return bool(core(mask).any()) if known is None else known != 0


def batched(shape: Shape) -> bool:
    """Whether dimension 0 of a tensor may be the batch."""
    return len(shape) > 0 and shape[0] == BATCH


def aligned_rows(shape: Shape) -> Tensor:
    """The rows field of a tensor whose dimension 0 is the batch of two: row i depends on row i alone."""
    key = tuple(shape)
    found = _aligned.get(key)
    if found is None:
        if len(_aligned) >= ENTRIES:
            _aligned.clear()
        bits = torch.tensor([1, 2], dtype=torch.uint8).reshape(BATCH, *[1] * (len(key) - 1))
        found = _aligned[key] = bits.expand(key)
    return found


def is_aligned(rows: Tensor) -> bool:
    """Whether a rows field is the one of `aligned_rows`; False says nothing."""
    return _aligned.get(tuple(rows.shape)) is rows


def join_rows(a: Tensor, b: Tensor, shape: Shape) -> Tensor:
    """Union of two row sets that broadcast to `shape`."""
    a, b = (field if tuple(field.shape) == tuple(shape) else widened(field, shape) for field in (a, b))
    if a is b or level(b) == 0:
        return a
    if level(a) == 0:
        return b
    return elementwise(torch.bitwise_or, shape, a, b)


def put_together(fields: Sequence[Tensor], dim: int, shape: Shape) -> Tensor | None:
    """Fields joined along a dimension, where their elements need not be looked at: they hold one value, or the rows of
    the batch one by one."""
    value = level(fields[0])
    if value is not None and all(level(field) == value for field in fields):
        kind = fields[0].dtype
        return uniform(value, shape, kind if kind in (torch.bool, torch.uint8) else torch.float64)
    return aligned_rows(shape) if dim > 0 and all(map(is_aligned, fields)) else None


def widened(field: Tensor, shape: Shape) -> Tensor:
    """A field broadcast to a larger shape; uniform fields stay known as such."""
    value = level(field)
    return field.expand(tuple(shape)) if value is None else uniform(value, shape, field.dtype)
