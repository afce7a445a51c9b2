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
from convexnet.estimators.brenier import Dual, near_identity
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


# --- the map ---------------------------------------------------------------------------------------------------------


def unexplained(model: cx.estimators.BrenierMap, x: Array, y: Array) -> float:
    """Mean squared distance of the images from where they belong, as a share of the target's variance (L2-UVP)."""
    return float(((model.transform(x) - y) ** 2).sum(1).mean() / y.var(0).sum())


@pytest.fixture(scope="module")
def mixture() -> dict[str, Any]:
    """Three hills, pushed by the gradient of a fixed network; the target's points belong to other samples."""
    rng = np.random.default_rng(0)
    means = 2 * rng.normal(size=(3, 2))
    torch.manual_seed(1)
    truth = cx.nn.FICNN(2, hidden=(16, 16)).double()

    def draw(count: int) -> Array:
        return means[rng.integers(3, size=count)] + 0.7 * rng.normal(size=(count, 2))

    def pushed(points: Array) -> Array:
        x = torch.tensor(points, requires_grad=True)
        value = truth(3 * x) / 3 + 0.05 * x.square().sum(1, keepdim=True)
        return torch.autograd.grad(value.sum(), x)[0].numpy()

    source, target, fresh = draw(300), pushed(draw(300)), draw(500)
    model = cx.estimators.BrenierMap(hidden=(8, 8), max_iter=40, random_state=0)
    return {
        "model": model.fit(source, target), "fresh": fresh, "images": pushed(fresh), "source": source, "target": target,
    }  # fmt: skip


def test_map_of_a_mixture(mixture: dict[str, Any]) -> None:
    model = mixture["model"]
    linear = cx.estimators.BrenierMap(hidden=(4,), max_iter=1, random_state=0).fit(mixture["source"], mixture["target"])
    error = unexplained(model, mixture["fresh"], mixture["images"])
    assert error < 0.05
    assert error < 0.75 * unexplained(linear, mixture["fresh"], mixture["images"])


def test_map_is_the_gradient_of_a_certified_network(mixture: dict[str, Any]) -> None:
    model, x = mixture["model"], torch.tensor(mixture["fresh"], requires_grad=True)
    assert cx.certify(model.network, x[:2].detach()).convex
    (slope,) = torch.autograd.grad(model.network(x).sum(), x)
    np.testing.assert_allclose(slope.numpy(), model.transform(mixture["fresh"]), rtol=1e-9, atol=1e-9)


def test_way_back(mixture: dict[str, Any]) -> None:
    model, points = mixture["model"], mixture["fresh"][:100]
    np.testing.assert_allclose(model.inverse_transform(model.transform(points)), points, atol=1e-4)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.transform(points), model.transform(points))


def test_dual_and_its_gradient(mixture: dict[str, Any]) -> None:
    """Against differences of the value, whose conjugates are solved anew, and f(x) + f*(y) >= <x, y>."""
    torch.manual_seed(0)
    net = near_identity(2, (4,), "softplus")
    x, slopes = torch.randn(20, 2).double(), torch.randn(15, 2).double()
    dual = Dual(net, x, slopes, torch.rand(20).double(), torch.rand(15).double())
    (gradient,) = torch.autograd.grad(dual.loss(), net.layers[0].y.weight)
    weight = net.layers[0].y.weight
    step = 1e-4
    with torch.no_grad():
        weight[1, 0] += step
        above = float(dual.loss())
        weight[1, 0] -= 2 * step
        below = float(dual.loss())
    assert float(gradient[1, 0]) == pytest.approx((above - below) / (2 * step), abs=1e-6)
    assert dual.found is not None
    with torch.no_grad():
        pairs = net(x) + dual.found.upper_bound - x @ slopes.T
    assert float(pairs.min()) >= -1e-9


def test_map_between_normal_clouds_in_raw_units() -> None:
    """The linear map is known; shifts and units of each cloud, up to the correlation of their coordinates."""
    rng = np.random.default_rng(3)
    for count in (1, 3):
        mixing = rng.normal(size=(count, count)) + 2 * np.eye(count)
        linear = mixing @ mixing.T
        source, other = (1e4 * rng.normal(size=(1000, count)) + 3e5 for _ in range(2))
        target = 1e-6 * (other @ linear) - 2
        model = cx.estimators.BrenierMap(hidden=(4,), max_iter=3, random_state=0).fit(source, target)
        assert unexplained(model, source, 1e-6 * (source @ linear) - 2) < 0.015


def test_weights_of_the_clouds() -> None:
    """Points of weight 0 do not count, and a cloud of which most lies elsewhere is mapped by its weights."""
    rng = np.random.default_rng(4)
    source, target = rng.normal(size=(60, 2)), rng.normal(size=(50, 2)) + 4
    p, q = (np.arange(60) < 30).astype(float), rng.integers(1, 3, size=50)
    options: dict[str, Any] = {"hidden": (4,), "max_iter": 3, "random_state": 0}
    weighted = cx.estimators.BrenierMap(**options).fit(source, target, p, q)
    plain = cx.estimators.BrenierMap(**options).fit(source[:30], np.repeat(target, q, axis=0))
    np.testing.assert_allclose(weighted.transform(source), plain.transform(source), atol=1e-4)


def test_map_with_points_held_out() -> None:
    rng = np.random.default_rng(5)
    model = cx.estimators.BrenierMap(hidden=(16,), early_stopping=True, n_iter_no_change=2, random_state=0)
    model.fit(rng.normal(size=(30, 4)), rng.normal(size=(30, 4)))
    assert model.n_iter_ == len(model.validation_curve_) < 100


def test_cloud_in_a_plane() -> None:
    rng = np.random.default_rng(6)
    flat = rng.normal(size=(50, 3))
    flat[:, 2] = flat[:, 0]
    model = cx.estimators.BrenierMap(hidden=(4,), max_iter=2, random_state=0).fit(flat, rng.normal(size=(40, 3)))
    assert np.isfinite(model.transform(flat)).all()


CLOUD = np.random.default_rng(7).normal(size=(9, 2))


@pytest.mark.parametrize(
    ("source", "target", "word"),
    [
        (np.where(CLOUD > 1, np.nan, CLOUD), CLOUD, "X contains NaN"),
        (CLOUD, np.where(CLOUD > 1, np.inf, CLOUD), "y contains infinity"),
        (CLOUD, np.ones((9, 3)), "2 coordinates, and the target 3"),
        (CLOUD[:1], CLOUD, "minimum of 2"),
        (CLOUD, CLOUD[:1], "minimum of 2"),
        (CLOUD, np.ones((5, 2)), "the same"),
        (CLOUD[:, 0], CLOUD, "1D array"),
        (CLOUD, None, "needs y"),
    ],
)
def test_wrong_clouds(source: Any, target: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        cx.estimators.BrenierMap(hidden=(4,), max_iter=1).fit(source, target)


def test_wrong_settings_of_the_map() -> None:
    with pytest.raises(ValueError, match="alpha"):
        cx.estimators.BrenierMap(alpha=-1).fit(CLOUD, CLOUD)
    with pytest.raises(ValueError, match="held out"):
        cx.estimators.BrenierMap(early_stopping=True).fit(CLOUD[:2], CLOUD)
    with pytest.raises(ValueError, match="target_weight"):
        cx.estimators.BrenierMap().fit(CLOUD, CLOUD, None, np.ones(8))
    with pytest.raises(NotFittedError):
        cx.estimators.BrenierMap().transform(CLOUD)
    model = clone(cx.estimators.BrenierMap(hidden=(4,), max_iter=1)).fit(CLOUD, CLOUD)
    with pytest.raises(ValueError, match="3 features"):
        model.inverse_transform(np.ones((1, 3)))


def test_missing_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("convexnet.estimators")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"convexnet\[lab\]"):
        importlib.import_module("convexnet.estimators")
