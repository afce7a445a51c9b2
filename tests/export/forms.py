"""What a form computes, worked out directly: the oracle of what is told to a solver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from convexnet.form.atoms import Atom
from convexnet.form.sparse import SparseForm


def evaluated(form: SparseForm, y: Any, raised: Callable[[Any], Any] = lambda z: z) -> Any:
    """The output at y (n,), flattened, with every atom at its value, or at what is made of it."""
    values = [np.asarray(y)]
    for k, cut in enumerate(form.cuts):
        a = arriving(form, k, values)
        mask, fixed = form.fixed[k]
        assert isinstance(cut.atom, Atom)
        own = cut.atom.value(torch.as_tensor(a)).numpy()
        values.append(np.where(mask, fixed, raised(own)))
    return arriving(form, len(form.cuts), values)


def arriving(form: SparseForm, target: int, values: list[Any]) -> Any:
    total = form.constants[target].copy()
    for source, matrix in form.incoming(target):
        total += matrix @ values[source]
    return total
