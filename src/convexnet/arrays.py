"""What users pass as arrays, numbers, sizes and lists of inputs, as the package computes with it, or an error in words.

Tensors, numpy arrays and nested lists of numbers are accepted alike, and so are the numbers of Python, numpy and torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

REAL = "biuf"
"""The kinds of numpy's types that hold real numbers."""


def as_tensor(value: Any, name: str) -> Tensor:
    """Return a tensor, an array or a nested list of numbers as a dense real tensor.

    A tensor is returned as it is, with its gradient. An array keeps its type, and its memory is copied.

    Args:
        value: what the user gave.
        name: what error messages call it.

    Raises:
        TypeError: it does not hold real numbers, is sparse or quantised, or is a tensor of `torch.func`.
        ValueError: a nested list whose rows differ in length.

    Example:
        >>> as_tensor([[1.0, 2.0]], "lo").shape
        torch.Size([1, 2])
        >>> as_tensor("1, 2", "lo")
        Traceback (most recent call last):
        TypeError: lo must be a tensor, an array or a list of numbers, not str
    """
    if isinstance(value, Tensor):
        refuse_transformed(value, name)
        if value.is_complex():
            raise TypeError(f"{name} is complex, and only real numbers have an order: give real and imaginary parts")
        if value.is_meta:
            raise TypeError(f"{name} is a tensor of the device 'meta', which holds no numbers")
        if value.layout != torch.strided or value.is_quantized:
            raise TypeError(f"{name} is sparse or quantised: give a dense tensor, as {name}.to_dense()")
        return value
    if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
        try:
            return torch.stack([as_tensor(item, f"{name}[{i}]") for i, item in enumerate(value)])
        except RuntimeError as error:
            raise ValueError(f"the tensors of {name} do not fit together: {error}") from None
    try:
        array = np.asarray(value)
        if array.dtype.kind == "O" and is_nested(value):  # integers beyond 64 bits, fractions
            array = np.asarray(value, dtype=np.float64)
    except ValueError:
        raise ValueError(f"{name} is a list whose rows have different lengths: give an array or a tensor") from None
    except (TypeError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{name} cannot be read as an array: {error}") from None
    if array.dtype.kind == "c":
        raise TypeError(f"{name} is complex, and only real numbers have an order: give real and imaginary parts")
    if array.dtype.kind not in REAL:
        held = "" if isinstance(value, str) or array.ndim == 0 else f" of {array.dtype} entries"
        raise TypeError(f"{name} must be a tensor, an array or a list of numbers, not {type(value).__name__}{held}")
    wanted = np.float64 if array.dtype.kind == "f" and array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, dtype=wanted, order="C"))


def listed_inputs(given: Any) -> list[Any]:
    """Return `given` as a list with one item for each input: of one array, or of a tuple or list of arrays.

    A (nested) list of numbers is one array; a tuple of such lists is several.

    Raises:
        TypeError: a mapping, or an iterator.

    Example:
        >>> len(listed_inputs([[1.0, 2.0]])), len(listed_inputs(([1.0], [2.0]))), listed_inputs(None)
        (1, 2, [])
    """
    if given is None:
        return []
    if isinstance(given, tuple):
        return list(given)
    if isinstance(given, list):
        return [given] if given and is_nested(given) else list(given)
    if isinstance(given, Mapping):
        raise TypeError(
            f"given is a {type(given).__name__}, and inputs are positional: give a tuple of them, in their order"
        )
    if hasattr(given, "__next__"):
        raise TypeError("given is an iterator: give a tuple of the inputs, as tuple(...)")
    return [given]


def is_nested(value: Any) -> bool:
    """Return whether a value is a number, or a list of such values."""
    if isinstance(value, (list, tuple)):
        return all(is_nested(item) for item in value)
    return isinstance(value, Real)


def refuse_transformed(tensor: Tensor, name: str) -> None:
    """Refuse a tensor that stands for others inside `torch.vmap`, `torch.func.grad` and forward-mode derivatives.

    Raises:
        TypeError: it does.
    """
    inside = torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    if inside or forward_ad.unpack_dual(tensor).tangent is not None:
        raise TypeError(
            f"{name} is a tensor of torch.vmap or torch.func, or a dual one, which cannot be looked into: call the "
            "function outside. It takes a whole batch at once (the batch comes first), and gradients come from "
            "backward() or torch.autograd.grad"
        )


# --- numbers ---------------------------------------------------------------------------------------------------------


def is_real(value: Any) -> bool:
    """Return whether a value is a real number, of Python, numpy or torch; booleans are not.

    Example:
        >>> is_real(np.float32(0.5)), is_real(torch.tensor(2)), is_real(True), is_real("1")
        (True, True, False, False)
    """
    return isinstance(plain_number(value), (int, float))


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer, of Python, numpy or torch; booleans are not.

    Example:
        >>> is_whole(np.int64(3)), is_whole(3.0), is_whole(True)
        (True, False, False)
    """
    return isinstance(plain_number(value), int)


def plain_number(value: Any) -> int | float | None:
    """Return the int or float that a number of Python, numpy or torch is; None for anything else.

    Example:
        >>> plain_number(np.int64(3)), plain_number(torch.tensor(0.5)), plain_number(True)
        (3, 0.5, None)
    """
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex() and value.layout == torch.strided:
        refuse_transformed(value, "a number")
        value = value.item()
    elif isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, (bool, np.bool_)):
        return None
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else None


def as_size(value: Any, name: str, least: int = 1) -> int:
    """Return a size as an int.

    Raises:
        ValueError: it is not an integer, or smaller than `least`.

    Example:
        >>> as_size(np.int64(3), "out_features")
        3
        >>> as_size(0, "out_features")
        Traceback (most recent call last):
        ValueError: out_features must be an integer of at least 1, not 0
    """
    number = plain_number(value)
    if not isinstance(number, int) or number < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}{whole(number)}")
    return number


def whole(number: int | float | None) -> str:
    """Return the hint for a float that is an integer."""
    return f": write {number:.0f}" if isinstance(number, float) and number.is_integer() else ""


def as_real(value: Any, name: str, least: float = 0.0) -> float:
    """Return a setting as a float.

    Raises:
        TypeError: it is not a number.
        ValueError: it is NaN, infinite, or smaller than `least`.

    Example:
        >>> as_real(np.float32(2), "epsilon")
        2.0
        >>> as_real("5", "epsilon")
        Traceback (most recent call last):
        TypeError: epsilon must be a number, not '5'
    """
    number = plain_number(value)
    if number is None:
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not (math.isfinite(number) and number >= least):
        raise ValueError(f"{name} must be a finite number of at least {least:g}, not {value!r}")
    return float(number)


def as_sizes(value: Any, name: str, least: int = 1) -> tuple[int, ...]:
    """Return one size, or a sequence of them, as a tuple of ints.

    Raises:
        TypeError: neither.
        ValueError: an item is not an integer, or smaller than `least`.

    Example:
        >>> as_sizes(16, "hidden"), as_sizes([16, np.int64(8)], "hidden"), as_sizes((), "hidden")
        ((16,), (16, 8), ())
        >>> as_sizes((16, -1), "hidden")
        Traceback (most recent call last):
        ValueError: hidden[1] must be an integer of at least 1, not -1
    """
    if plain_number(value) is not None:
        return (as_size(value, name, least),)
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be an integer or a sequence of integers, as (16, 16), not {value!r}")
    return tuple(as_size(item, f"{name}[{i}]", least) for i, item in enumerate(value))
