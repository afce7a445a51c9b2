"""What energies learn from: inputs x and targets y in a domain, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convexnet.arrays import as_tensor, listed_inputs
from convexnet.domains import Domain


def place_of(f: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and the floating type of a module.

    Example:
        >>> place_of(nn.Linear(1, 1))
        (device(type='cpu'), torch.float32)
    """
    held = [*f.parameters(), *f.buffers()]
    home = next((tensor for tensor in held if tensor.is_floating_point()), None)
    return (torch.device("cpu"), torch.get_default_dtype()) if home is None else (home.device, home.dtype)


def inputs_of(x: Any, f: nn.Module) -> list[Tensor]:
    """Return x, a tensor, an array, a tuple of them or None, as a list of tensors; floating ones in the type of f.

    Raises:
        TypeError, ValueError: they are not numbers, are not finite, or have different numbers of rows.

    Example:
        >>> [part.dtype for part in inputs_of(([[0.5]], [[1]]), nn.Linear(1, 1))]
        [torch.float32, torch.int64]
    """
    _, dtype = place_of(f)
    parts = [as_tensor(part, name) for name, part in zip(names_of(x), listed_inputs(x), strict=True)]
    for name, part in zip(names_of(x), parts, strict=True):
        if part.ndim == 0 or len(part) == 0:
            raise ValueError(f"{name} has shape {tuple(part.shape)}, and must have samples as its rows: (N, ...)")
        if len(part) != len(parts[0]):
            raise ValueError(f"{name} has {len(part)} rows and {names_of(x)[0]} has {len(parts[0])}")
        if part.is_floating_point() and not bool(part.isfinite().all()):
            raise ValueError(f"{name} is infinite or NaN, first in sample {first_row(~part.isfinite())}")
    return [part.to(dtype) if part.is_floating_point() else part for part in parts]


def names_of(x: Any) -> list[str]:
    """Return what errors call the parts of x."""
    count = len(listed_inputs(x))
    return ["x"] if count == 1 else [f"x[{i}]" for i in range(count)]


def first_row(wrong: Tensor) -> int:
    """Return the first row in which something is True.

    Example:
        >>> first_row(torch.tensor([[False, False], [False, True]]))
        1
    """
    return int(wrong.reshape(len(wrong), -1).any(1).nonzero()[0])


def targets_of(
    y: Any, domain: Domain, f: nn.Module, rows: int | None = None, name: str = "y", labels: bool = True
) -> Tensor:
    """Return targets (N, *shape) in a domain, floating.

    Args:
        y: (N, *shape); or, for a domain of shape (K,) with K > 1, class indices (N,) or (N, 1) of an integer type, made
            one-hot; or (N,) for a domain of one number.
        domain: the set that y lies in.
        f: in whose type they are returned.
        rows: N, where it is known.
        name: what errors call it.
        labels: whether class indices are understood.

    Raises:
        ValueError: another shape, a class that is not there, a target that is NaN or outside of the domain.

    Example:
        >>> import convexnet as cx
        >>> targets_of([2, 0], cx.Simplex(3), nn.Linear(1, 1)).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
        >>> targets_of([0.5, 2.0], cx.Cube(1), nn.Linear(1, 1))
        Traceback (most recent call last):
        ValueError: y of sample 1 is outside of the domain, a Cube: the energy is not minimised ...
    """
    _, dtype = place_of(f)
    found, shape = as_tensor(y, name).detach(), tuple(domain.shape)
    labels = labels and not found.is_floating_point() and len(shape) == 1 and shape[0] > 1
    if labels and found.ndim and found.shape[1:] in ((), (1,)):
        found = one_hot(found.reshape(-1), shape[0], name)
    elif found.ndim == 1 and shape == (1,):
        found = found[:, None]
    if found.ndim == 0 or tuple(found.shape[1:]) != shape or len(found) == 0:
        classes = f", or class indices (N,) of an integer type, 0 to {shape[0] - 1}" if labels else ""
        raise ValueError(
            f"{name} has shape {tuple(found.shape)}, and must be (N, {', '.join(map(str, shape))}), points of the "
            f"domain{classes}"
        )
    if rows is not None and len(found) != rows:
        raise ValueError(f"x has {rows} samples and {name} has {len(found)}")
    if bool(found.isnan().any()):
        raise ValueError(f"{name} of sample {first_row(found.isnan())} is NaN: leave such samples out")
    made = found.to(dtype)
    outside = ~domain.contains(made)
    if bool(outside.any()):
        raise ValueError(
            f"{name} of sample {first_row(outside)} is outside of the domain, a {type(domain).__name__}: the energy is "
            "not minimised there, and no loss can make it the minimiser"
        )
    return made


def one_hot(labels: Tensor, classes: int, name: str) -> Tensor:
    """Return class indices (N,) as one-hot rows (N, classes) of integers.

    Raises:
        ValueError: a class that is not there.

    Example:
        >>> one_hot(torch.tensor([0, 3]), 3, "y")
        Traceback (most recent call last):
        ValueError: y of sample 1 is the class 3, and there are 0 to 2
    """
    wrong = (labels < 0) | (labels >= classes)
    if bool(wrong.any()):
        row = first_row(wrong)
        raise ValueError(f"{name} of sample {row} is the class {int(labels[row])}, and there are 0 to {classes - 1}")
    return F.one_hot(labels.long(), classes)


def rows_of(parts: Sequence[Tensor], rows: Tensor, device: torch.device) -> list[Tensor]:
    """Return some rows of each tensor, on a device.

    Example:
        >>> rows_of([torch.arange(3)], torch.tensor([2]), torch.device("cpu"))
        [tensor([2])]
    """
    return [part[rows].to(device) for part in parts]
