"""`ConvexRegressor`: least squares with a certified convex network, by the conventions of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from torch.nn import functional as F

from convexnet.choices import ActivationName
from convexnet.curvature import certify
from convexnet.estimators.quasi_newton import fit_by_lbfgs, sum_of_squares
from convexnet.estimators.settings import validate_settings, weights_of
from convexnet.nn import FICNN, Standardised

Array = np.ndarray[Any, Any]


class ConvexRegressor(RegressorMixin, BaseEstimator):
    """Regression by a function that is convex, and monotone where that is asked for, whatever the data say.

    Inputs and targets are standardised inside, so that their units do not matter; `network` takes and returns the
    units of the data and is certified. Training is by L-BFGS on all samples, in float64.

    Args:
        hidden: width of each hidden layer.
        activation: of the network, see `convexnet.nn.FICNN`.
        monotone: +1, the prediction never falls as an input grows; −1, it never rises; 0 or None, it may do both. One
            number, or one for each input.
        quadratic: rows of the matrix of a learnt convex quadratic term, see `convexnet.nn.FICNN`; None: no such term.
        alpha: penalty on the squares of all weights, in standardised units, as a share of their mean loss.
        max_iter: iterations of L-BFGS at most.
        tol: stop where an iteration lowers the loss by less than this share of it.
        early_stopping: hold out samples, stop when their error stops falling, and keep the best weights.
        validation_fraction: the share of samples to hold out.
        n_iter_no_change: iterations without a better error on them after which to stop.
        random_state: of the initial weights and of what is held out.

    Attributes:
        network, network_: the certified module, (B, n) -> (B, 1), in the units of the data and in float64: for
            `cx.minimise`, `cx.to_cvxpy`, `cx.save` and all else.
        n_iter_: iterations; `max_iter` where that ended them.
        loss_curve_: the loss after each iteration, half the mean squared error in standardised units and the penalty.
        validation_curve_: the mean squared error of what was held out, in standardised units; with early stopping.
        n_features_in_, feature_names_in_: as in scikit-learn.

    Source: Amos, Xu & Kolter (2017), "Input Convex Neural Networks", for the network.

    Example:
        >>> import numpy as np, convexnet as cx
        >>> X = np.random.default_rng(0).uniform(0, 40, (200, 2))
        >>> y = 60 * X[:, 0] + X[:, 1] ** 2
        >>> model = ConvexRegressor(hidden=(16,), random_state=0, max_iter=100).fit(X, y)
        >>> bool(model.score(X, y) > 0.999)
        True
        >>> solution = cx.minimise(model.network, cx.Box(0, 40, shape=2))
        >>> bool(solution.converged)
        True
    """

    def __init__(
        self,
        hidden: int | Sequence[int] = (64, 64),
        activation: ActivationName | nn.Module = "softplus",
        monotone: int | Sequence[int] | None = None,
        *,
        quadratic: int | None = None,
        alpha: float = 1e-5,
        max_iter: int = 300,
        tol: float = 1e-7,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 20,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden = hidden
        self.activation: ActivationName | nn.Module = activation
        self.monotone = monotone
        self.quadratic = quadratic
        self.alpha = alpha
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> ConvexRegressor:
        """Fit the network.

        Args:
            X: (N, n), finite.
            y: (N,), finite.
            sample_weight: (N,), at least 0: a weight of 2 counts as the sample twice, 0 as not at all.

        Raises:
            ValueError: data that are not finite or do not fit together, or settings out of range.
        """
        checked: Any = validate_data(self, X, y, y_numeric=True, dtype=np.float64)
        points, values = np.asarray(checked[0]), np.asarray(checked[1], np.float64)
        signs = signs_of(self.monotone, points.shape[1])
        validate_settings(self)
        inputs, targets, weights = merge_repeated(points, values, weights_of(sample_weight, points))
        draw = check_random_state(self.random_state)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(draw.randint(2**31 - 1)))
            rising = np.flatnonzero(signs).tolist() or None
            net = FICNN(
                points.shape[1], self.hidden, 1, deepcopy(self.activation), quadratic=self.quadratic, monotone=rising
            ).double()
        centre, scale = moments(inputs, weights)
        out_centre, out_scale = moments(targets[:, None], weights)
        network = Standardised(net, centre, scale * torch.where(signs < 0, -1.0, 1.0), out_centre, out_scale)

        known, watched = np.arange(len(inputs)), np.arange(0)
        if self.early_stopping:
            order = draw.permutation(len(inputs))
            count = int(np.ceil(self.validation_fraction * len(inputs)))
            if not 0 < count < len(inputs):
                raise ValueError(f"of {len(inputs)} different samples none can be held out: set early_stopping=False")
            known, watched = np.sort(order[count:]), np.sort(order[:count])
        x = (inputs - centre) / network.scale
        z = (targets - out_centre) / out_scale

        def error(rows: Array) -> Tensor:
            share = weights[rows] / weights[rows].sum()
            return share @ (net(x[rows])[:, 0] - z[rows]).square()

        def loss() -> Tensor:
            return error(known) / 2 + self.alpha * sum_of_squares(net) / 2

        self.loss_curve_, curve = fit_by_lbfgs(
            net,
            loss,
            self.max_iter,
            self.tol,
            (lambda: error(watched).item()) if self.early_stopping else None,
            self.n_iter_no_change,
        )
        if self.early_stopping:
            self.validation_curve_ = curve
        self.n_iter_ = max(1, len(self.loss_curve_))
        self.network_ = network.eval().requires_grad_(False)
        require_shape(self.network_, signs)
        return self

    @property
    def network(self) -> Standardised:
        """The certified module, (B, n) -> (B, 1), in the units of the data."""
        check_is_fitted(self)
        return self.network_

    def predict(self, X: Any) -> Array:
        """Return the predictions, (N,), of inputs (N, n)."""
        check_is_fitted(self)
        points: Any = validate_data(self, X, reset=False, dtype=np.float64)
        with torch.no_grad():
            return self.network_(torch.tensor(points))[:, 0].numpy()


def signs_of(monotone: int | Sequence[int] | None, count: int) -> Tensor:
    """The sign that is asked of the slope for each input, (n,): +1, −1 or 0.

    Raises:
        ValueError: another number, or of another length.

    Example:
        >>> signs_of(-1, 2).tolist(), signs_of((1, 0), 2).tolist()
        ([-1, -1], [1, 0])
    """
    given = np.asarray(0 if monotone is None else monotone)
    if given.dtype.kind not in "iuf" or given.ndim > 1 or not np.isin(given, (-1, 0, 1)).all():
        raise ValueError(f"monotone must be +1, −1, 0 or None, or a sequence of them, not {monotone!r}")
    if given.ndim == 1 and len(given) != count:
        raise ValueError(f"monotone has {len(given)} entries, and X has {count} features")
    return torch.tensor(np.broadcast_to(given, (count,)).astype(np.int64))


def merge_repeated(X: Array, y: Array, weights: Array) -> tuple[Tensor, Tensor, Tensor]:
    """The different rows of X in one order, with the weighted mean of their targets and the sum of their weights.

    The mean squared error changes by a constant only. So a sample of weight 2 is the same as the sample twice, to the
    last bit nearly: a trained network would show the rounding of another order of summation.
    """
    counted = weights > 0
    y, weights = y[counted], weights[counted]
    rows, first, group = np.unique(X[counted], axis=0, return_index=True, return_inverse=True)
    group = group.reshape(-1)
    total = np.bincount(group, weights, len(rows))
    # Around the target of the first row, so that equal targets have that very mean.
    away = np.bincount(group, weights * (y - y[first][group]), len(rows))
    return torch.tensor(rows), torch.tensor(y[first] + away / total), torch.tensor(total)


def moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of each column, 1 where it is constant."""
    share = weights / weights.sum()
    # Around one of the rows: numbers that are large and close together keep their digits.
    centre = values[0] + share @ (values - values[0])
    scale = (share @ (values - centre).square()).sqrt()
    constant = (values == values[0]).all(0) | (scale == 0)
    scale = torch.where(constant, 1.0, scale)
    if not bool((centre.isfinite() & scale.isfinite()).all()):
        raise ValueError("the data are too large: the squares of their distances from the mean are not finite")
    return centre, scale


class Rising(nn.Module):
    """A network behind functions of single inputs: convex if and only if it is convex and monotone, to the calculus.

    An input with sign +1 passes a convex function onto all numbers, with sign −1 a concave one: what the calculus
    proves convex afterwards is non-decreasing in the first and non-increasing in the second.
    """

    def __init__(self, network: nn.Module, signs: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("signs", signs.double())

    def forward(self, x: Tensor) -> Tensor:
        signs = self.signs
        assert isinstance(signs, Tensor)
        return self.network(torch.where(signs == 0, x, signs * F.leaky_relu(x, 0.5)))


def require_shape(network: nn.Module, signs: Tensor) -> None:
    """Certify that a network is convex, and monotone in the inputs with a sign.

    Raises:
        NotCertified: it is not proved.
    """
    example = torch.zeros(2, len(signs), dtype=torch.float64)
    certify(network, example).require()
    if bool(signs.any()):
        certify(Rising(network, signs), example).require()
