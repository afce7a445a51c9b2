"""What ensembles learn from: checked inputs, classes and weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.arrays import as_tensor


@dataclass(frozen=True)
class Samples:
    """Checked samples: x (N, ...), classes y (N,) as integers, weights (N,) of mean 1."""

    x: Tensor
    y: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.y)


def inputs_of(x: Any, model: nn.Module) -> Tensor:
    """Return inputs (N, ...) as a tensor; floating ones in the type of a model's parameters.

    Raises:
        TypeError, ValueError: they are not numbers, or there are none.

    Example:
        >>> inputs_of([[0.0], [1.0]], nn.Linear(1, 1)).dtype
        torch.float32
    """
    found = as_tensor(x, "x").detach()
    if found.ndim < 1 or len(found) == 0:
        raise ValueError("there are no samples: x is empty")
    kinds = [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()]
    return found.to(kinds[0]) if kinds and found.is_floating_point() else found


def samples_of(x: Any, y: Any, weights: Any, classes: int) -> Samples:
    """Return checked samples.

    Args:
        x: inputs (N, ...), a tensor or an array.
        y: classes 0 ... classes - 1, (N,) or (N, 1), of an integer or boolean type or whole floats.
        weights: (N,), not negative; None: all alike.
        classes: how many there are.

    Raises:
        TypeError, ValueError: wrong types or shapes, numbers that are not finite, a class without samples.

    Example:
        >>> samples_of([[0.0], [1.0]], [0, 1], [1.0, 3.0], 2).weights
        tensor([0.5000, 1.5000])
        >>> samples_of([[0.0], [1.0]], [0, 0], None, 2)
        Traceback (most recent call last):
        ValueError: class 1 has no samples: an ensemble of 2 classes needs some of each (y holds the classes 0)
    """
    inputs, found = as_tensor(x, "x").detach(), as_tensor(y, "y").detach().cpu()
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if inputs.ndim < 1 or found.ndim != 1 or len(inputs) != len(found):
        raise ValueError(
            f"x has the shape {tuple(inputs.shape)} and y {tuple(found.shape)}: give inputs (N, ...) and one class "
            "(N,) for each"
        )
    if len(found) == 0:
        raise ValueError("there are no samples: x and y are empty")
    if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
        row = int((~inputs.isfinite()).flatten(1).any(1).nonzero()[0]) if inputs.ndim > 1 else 0
        raise ValueError(f"x is infinite or NaN, first in sample {row}")
    if found.is_floating_point() and not bool((found == found.round()).all()):
        raise ValueError("y must hold classes, and has numbers that are not whole")
    labels = found.long()
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise ValueError(f"y holds the class {wrong}, and the experts know 0 to {classes - 1}")
    counted = weights_of(weights, len(labels))
    present = set(labels[counted > 0].tolist())
    if missing := [k for k in range(classes) if k not in present]:
        raise ValueError(
            f"class {missing[0]} has no samples: an ensemble of {classes} classes needs some of each (y holds the "
            f"classes {', '.join(map(str, sorted(present)))})"
        )
    return Samples(inputs, labels, counted)


def is_weighting(found: Tensor) -> bool:
    """Whether weights are finite and not negative, and one of them positive.

    Example:
        >>> is_weighting(torch.tensor([0.0, 1.0])), is_weighting(torch.zeros(2))
        (True, False)
    """
    return bool(found.isfinite().all()) and not bool((found < 0).any()) and bool((found > 0).any())


def weights_of(weights: Any, count: int) -> Tensor:
    """Return sample weights (N,) in float32 with a mean of 1.

    Raises:
        ValueError: another shape, a negative, infinite or undefined weight, or none that is positive.

    Example:
        >>> weights_of(None, 2)
        tensor([1., 1.])
    """
    if weights is None:
        return torch.ones(count)
    found = as_tensor(weights, "sample_weight").detach().cpu().double()
    if found.shape != (count,):
        raise ValueError(f"sample_weight has the shape {tuple(found.shape)}, and there are {count} samples")
    if not is_weighting(found):
        raise ValueError("sample_weight must be finite and not negative, and positive for some samples")
    return (found / found.mean()).float()
