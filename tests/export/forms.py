"""What a form computes, worked out directly: the oracle of what is told to a solver."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from convexnet.export.bends import BENDS
from convexnet.export.form import Form
from convexnet.export.reading import GATE


def evaluated(form: Form, y: Any, gates: list[Any] | None = None) -> Any:
    """The output at y (n,), flattened, with every bend at its value."""
    values = [np.asarray(y)]
    factors = iter(gates or [])
    for k, cut in enumerate(form.cuts):
        a = arriving(form, k, values)
        if cut.bend == GATE:
            values.append(a * next(factors))
            continue
        mask, fixed = form.fixed[k]
        own = BENDS[cut.bend].value(torch.as_tensor(a).reshape(cut.size, cut.group), cut.setting).numpy()
        values.append(np.where(mask, fixed, own))
    return arriving(form, len(form.cuts), values)


def arriving(form: Form, target: int, values: list[Any]) -> Any:
    total = form.constants[target].copy()
    for source, matrix in form.incoming(target):
        total += matrix @ values[source]
    return total
