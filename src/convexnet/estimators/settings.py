"""Settings that the estimators share, and weights of samples."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def weights_of(sample_weight: Any, X: Array, name: str = "sample_weight") -> Array:
    """The weight of each sample, (N,) in float64.

    Raises:
        ValueError: a wrong shape, a negative or infinite weight, or no positive one.
    """
    if sample_weight is None:
        return np.ones(len(X))
    weights = np.asarray(sample_weight, np.float64)
    if weights.shape != (len(X),):
        raise ValueError(f"{name} has shape {weights.shape}, and must have one weight for each of {len(X)} rows, 1D")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and (weights > 0).any()):
        raise ValueError(f"{name} must be finite and at least 0, and every weight cannot be zero")
    return weights


def validate_settings(model: Any) -> None:
    """Refuse settings out of range.

    Raises:
        ValueError: names the first.
    """
    rules = {
        "alpha": model.alpha >= 0,
        "max_iter": model.max_iter >= 1,
        "tol": model.tol >= 0,
        "validation_fraction": 0 < model.validation_fraction < 1,
        "n_iter_no_change": model.n_iter_no_change >= 1,
    }
    for name, holds in rules.items():
        if not holds:
            raise ValueError(f"{name}={getattr(model, name)!r} is out of range")
