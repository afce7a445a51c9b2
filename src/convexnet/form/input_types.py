"""Inputs in the types that a module's forward takes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.curvature.arguments import two_rows
from convexnet.curvature.tracing.restored_state import calling


def with_floats(module: nn.Module, inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The inputs with whole numbers as floating ones, where the forward takes them only so.

    Labels and indices stay what they are: integers are tried first, and then as few floating ones as possible.
    """
    whole = [i for i, tensor in enumerate(inputs) if not tensor.is_floating_point()]
    if not whole or output_of(module, inputs, dtype) is not None:
        return inputs
    for count in range(1, len(whole) + 1):
        for chosen in itertools.combinations(whole, count):
            tried = [t.to(dtype) if i in chosen else t for i, t in enumerate(inputs)]
            if output_of(module, tried, dtype) is not None:
                return tried
    return inputs


def output_of(module: nn.Module, inputs: Sequence[Tensor], dtype: torch.dtype) -> Any:
    """What the forward returns for two rows of the inputs, floating ones in the module's type; None where it fails."""
    rows = [two_rows(tensor) for tensor in inputs]
    try:
        with calling(module):
            return module(*(row.to(dtype) if row.is_floating_point() else row for row in rows))
    except Exception:  # whatever a user's forward raises
        return None
