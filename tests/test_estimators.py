"""The estimators: scikit-learn's own checks, units, weights, monotonicity, and a map between clouds."""

from __future__ import annotations

import importlib
import pickle
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import estimator_checks_generator

import convexnet as cx
from convexnet.estimators.regressor import Rising, merge_repeated
from tests.drawing import some

Array = np.ndarray[Any, Any]


def small(**options: Any) -> cx.estimators.ConvexRegressor:
    return cx.estimators.ConvexRegressor(**{"hidden": (8,), "max_iter": 60, "random_state": 0, **options})


# Fewer iterations than a user would take: the checks ask of a fit only that it is better than half.
UNREAD = {"check_array_api_input", "check_sample_weights_pandas_series", "check_regressor_data_not_an_array"}
"""Checks that are skipped without pandas or a setting of scipy."""
CHECKS = [
    check
    for _, check in estimator_checks_generator(small(hidden=(4,), max_iter=30))
    if check.func.__name__ not in UNREAD
]


def named(check: Any) -> str:
    return check.func.__name__


def samples(count: int = 200, seed: int = 0) -> tuple[Array, Array]:
    """A convex function of three inputs, rising in the first, falling in the second."""
    x = np.random.default_rng(seed).normal(size=(count, 3))
    return x, np.exp(x[:, 0] / 2) + np.logaddexp(0, -2 * x[:, 1]) + x[:, 2] ** 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", some(CHECKS, 12, "regressor"), ids=named)
def test_checks_of_scikit_learn(check: Any) -> None:
    check(small(hidden=(4,), max_iter=30))


def test_fit_and_certificate() -> None:
    x, y = samples()
    model = small(max_iter=150).fit(x, y)
    assert model.score(*samples(seed=1)) > 0.99
    assert cx.certify(model.network, torch.zeros(1, 3, dtype=torch.float64)).convex
    assert model.n_iter_ == len(model.loss_curve_) > 1
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    np.testing.assert_allclose(model.network(torch.tensor(x))[:, 0].numpy(), model.predict(x))
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    np.testing.assert_array_equal(clone(model).fit(x, y).predict(x), model.predict(x))


def test_units_do_not_matter() -> None:
    """Raw units of a plant, 0-40 and millions, and the targets in thousands."""
    x, y = samples()
    scale, shift = np.array([40.0, 3e6, 1e-5]), np.array([20.0, -4e6, 7.0])
    plain, raw = small().fit(x, y), small().fit(x * scale + shift, 2400 * y + 1e5)
    np.testing.assert_allclose((raw.predict(x * scale + shift) - 1e5) / 2400, plain.predict(x), rtol=1e-3, atol=2e-2)
    assert raw.score(x * scale + shift, 2400 * y + 1e5) > 0.98


@pytest.mark.parametrize("monotone", [1, -1, (1, -1, 0)])
def test_monotone(monotone: Any) -> None:
    x, y = samples(80)
    model = small(monotone=monotone, max_iter=20).fit(x, -y)  # against what the data say
    signs = np.broadcast_to(monotone, 3)
    lines = np.repeat(np.random.default_rng(1).normal(size=(20, 1, 3)) * 3, 21, axis=1)
    for column, sign in enumerate(signs):
        moved = lines.copy()
        moved[:, :, column] = np.linspace(-9, 9, 21)
        change = np.diff(model.predict(moved.reshape(-1, 3)).reshape(20, 21), axis=1)
        assert sign == 0 or bool((sign * change >= -1e-12).all())
    # The certificate behind it tells the signs apart: it does not hold for the opposite ones.
    example = torch.zeros(2, 3, dtype=torch.float64)
    assert cx.certify(Rising(model.network, torch.tensor(signs.copy())), example).convex
    assert not cx.certify(Rising(model.network, torch.tensor(-signs)), example).convex


def test_a_free_network_is_not_certified_monotone() -> None:
    x, y = samples(50)
    free = small(max_iter=3).fit(x, y).network
    assert not cx.certify(Rising(free, torch.tensor([1, 0, 0])), torch.zeros(2, 3, dtype=torch.float64)).convex


def test_weights_count_samples() -> None:
    x, y = samples(60)
    weights = np.random.default_rng(2).integers(0, 4, size=60)
    once = small(max_iter=20).fit(x, y, sample_weight=weights)
    often = small(max_iter=20).fit(np.repeat(x, weights, axis=0), np.repeat(y, weights))
    np.testing.assert_allclose(once.predict(x), often.predict(x), rtol=1e-9)


def test_merged_samples() -> None:
    x = np.array([[1.0], [0.0], [1.0], [2.0]])
    rows, targets, weights = merge_repeated(x, np.array([1.0, 5.0, 4.0, 9.0]), np.array([2.0, 1.0, 1.0, 0.0]))
    assert (rows[:, 0].tolist(), targets.tolist(), weights.tolist()) == ([0, 1], [5, 2], [1, 3])


def test_early_stopping() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    model = small(early_stopping=True, n_iter_no_change=5, max_iter=200).fit(x, rng.normal(size=40))
    assert model.n_iter_ < 200
    curve = model.validation_curve_
    assert len(curve) - 1 - int(np.argmin(curve)) in (4, 5)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"monotone": 2}, "monotone"),
        ({"monotone": True}, "monotone"),
        ({"monotone": (1, 0)}, "3 features"),
        ({"monotone": 1, "quadratic": 0}, "exclude"),
        ({"alpha": -1.0}, "alpha"),
        ({"max_iter": 0}, "max_iter"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"activation": "rleu"}, "relu"),
    ],
)
def test_wrong_settings(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        small(**options).fit(*samples(10))


def test_wrong_data() -> None:
    x, y = samples(10)
    for wrong in (-np.ones(10), np.full(10, np.nan), np.zeros(10), np.ones(9)):
        with pytest.raises(ValueError, match="weight"):
            small().fit(x, y, sample_weight=wrong)
    with pytest.raises(ValueError, match="too large"):
        small().fit(x * 1e200, y)
    with pytest.raises(ValueError, match="held out"):
        small(early_stopping=True).fit(x[:1], y[:1])
    with pytest.raises(NotFittedError):
        _ = small().network


def test_a_single_sample_and_constant_columns() -> None:
    model = small(max_iter=5).fit([[3.0, 1.0]], [7.0])
    assert abs(model.predict([[3.0, 1.0]])[0] - 7) < 2
    x, y = samples(50)
    x[:, 1] = 0.1
    assert np.isfinite(small(max_iter=5).fit(x, y).predict(x)).all()


def test_missing_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("convexnet.estimators")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"convexnet\[lab\]"):
        importlib.import_module("convexnet.estimators")
