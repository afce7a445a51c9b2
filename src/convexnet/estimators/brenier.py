"""`BrenierMap`: the optimal transport map between two clouds of points, as the gradient of a convex network."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from convexnet.choices import ActivationName
from convexnet.curvature import certify
from convexnet.estimators.quasi_newton import fit_by_lbfgs, sum_of_squares
from convexnet.estimators.settings import validate_settings, weights_of
from convexnet.nn import FICNN
from convexnet.solve import Solution, conjugate

Array = np.ndarray[Any, Any]

RIDGE = 1e-6
"""What is added to a covariance, as a share of its mean eigenvalue: a cloud may lie in a plane."""

ACCURACY = 1e-8
"""Of the conjugates while training: their maximisers make the gradient, with about the root of it."""

EXACT = 1e-12
"""Of the conjugates of `inverse_transform`: a maximiser is about as accurate as the root of its value."""


class Potential(nn.Module):
    """s² g(A (x − p) / s) + ⟨q, x − p⟩: a convex g of whitened coordinates, in the units of the clouds.

    Its gradient s A ∇g + q maps x to y where ∇g maps x̃ = A (x − p) / s to ỹ = A⁻¹ (y − q) / s, for a symmetric A.

    Shape: (..., n) -> (..., 1).
    """

    matrix: Tensor
    source_centre: Tensor
    target_centre: Tensor

    def __init__(self, net: nn.Module, matrix: Tensor, scale: float, source: Tensor, target: Tensor) -> None:
        super().__init__()
        self.net, self.scale = net, scale
        self.register_buffer("matrix", matrix)
        self.register_buffer("source_centre", source)
        self.register_buffer("target_centre", target)

    def forward(self, x: Tensor) -> Tensor:
        away = x - self.source_centre
        value = self.net(away @ self.matrix / self.scale) * self.scale**2
        return value + (away * self.target_centre).sum(-1, keepdim=True)

    def whitened_source(self, x: Tensor) -> Tensor:
        return (x - self.source_centre) @ self.matrix / self.scale

    def whitened_target(self, y: Tensor) -> Tensor:
        return torch.linalg.solve(self.matrix, (y - self.target_centre).T).T / self.scale

    def raw_source(self, x: Tensor) -> Tensor:
        return torch.linalg.solve(self.matrix, x.T).T * self.scale + self.source_centre

    def raw_target(self, y: Tensor) -> Tensor:
        return y @ self.matrix * self.scale + self.target_centre


class BrenierMap(TransformerMixin, BaseEstimator):
    """The map that transports one cloud of points to another at the least mean squared distance.

    Brenier's theorem: it is the gradient of a convex function f, and the way back that of the conjugate f*. f is a
    strongly convex network, trained by the dual problem min over f of E f(x) + E f*(y), with x of the source and y of
    the target. The conjugates are computed by `cx.conjugate` in every iteration, to 1e-8, so that no second network has
    to follow the first. Both clouds are first brought to coordinates in which the optimal map between normal
    distributions of their means and covariances is the identity; the network learns the rest.

    Args:
        hidden: width of each hidden layer.
        activation: of the network, see `convexnet.nn.FICNN`; smooth, for a continuous map.
        alpha: penalty on the squares of all weights.
        max_iter: iterations of L-BFGS at most.
        tol: stop where an iteration lowers the loss by less than this share of it.
        early_stopping: hold out points of both clouds, stop when their loss stops falling, and keep the best weights:
            for few points in many dimensions, which a network can tell apart.
        validation_fraction: the share of points to hold out.
        n_iter_no_change: iterations without a better loss on them after which to stop.
        random_state: of the initial weights and of what is held out.

    Attributes:
        network, network_: f, certified, (B, n) -> (B, 1) in the units of the clouds and in float64.
        n_iter_: iterations.
        loss_curve_: the loss after each of them, in whitened units.
        validation_curve_: that of what was held out, with early stopping.
        n_features_in_: n.

    Source: Brenier (1991), "Polar factorization and monotone rearrangement"; Makkuva, Taghvaei, Oh & Lee (2020),
        "Optimal transport mapping via input convex neural networks", for the dual problem; Gelbrich (1990) for the map
        between normal distributions.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> source, target = rng.normal(size=(100, 2)), 3 * rng.normal(size=(100, 2)) + 5
        >>> model = BrenierMap(hidden=(8,), max_iter=5, random_state=0).fit(source, target)
        >>> moved = model.transform(source)
        >>> bool(np.abs(moved.mean(0) - target.mean(0)).max() < 0.2)
        True
        >>> bool(np.abs(model.inverse_transform(moved) - source).max() < 1e-3)
        True
    """

    def __init__(
        self,
        hidden: int | Sequence[int] = (32, 32),
        activation: ActivationName | nn.Module = "softplus",
        *,
        alpha: float = 1e-5,
        max_iter: int = 100,
        tol: float = 1e-10,
        early_stopping: bool = False,
        validation_fraction: float = 0.2,
        n_iter_no_change: int = 20,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden = hidden
        self.activation: ActivationName | nn.Module = activation
        self.alpha = alpha
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state

    def fit(self, X: Any, y: Any, source_weight: Any = None, target_weight: Any = None) -> BrenierMap:
        """Fit the map.

        Args:
            X: the source, (N, n), finite.
            y: the target, (M, n): points, which belong to no particular points of the source.
            source_weight, target_weight: (N,) and (M,), at least 0; None: equal ones.

        Raises:
            ValueError: clouds that are not finite, have fewer than two points or another number of coordinates.
        """
        options: dict[str, Any] = {"dtype": np.float64, "ensure_min_samples": 2}
        validate_settings(self)
        points: Any = validate_data(self, X, **options)
        if y is None:
            raise ValueError("BrenierMap needs y, the points of the target")
        goals: Any = check_array(y, input_name="y", **options)
        if points.shape[1] != goals.shape[1]:
            raise ValueError(f"the source has {points.shape[1]} coordinates, and the target {goals.shape[1]}")
        draw = check_random_state(self.random_state)
        source, target = torch.tensor(points), torch.tensor(goals)
        p = torch.tensor(weights_of(source_weight, points, "source_weight"))
        q = torch.tensor(weights_of(target_weight, goals, "target_weight"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(draw.randint(2**31 - 1)))
            net = near_identity(points.shape[1], self.hidden, deepcopy(self.activation))
        network = coordinates(net, source, target, p, q)
        x, s = network.whitened_source(source), network.whitened_target(target)
        (known, watched), (goal_known, goal_watched) = (self.parts(len(values), draw) for values in (points, goals))
        training = Dual(net, x[known], s[goal_known], p[known], q[goal_known])
        checking = Dual(net, x[watched], s[goal_watched], p[watched], q[goal_watched])

        self.loss_curve_, curve = fit_by_lbfgs(
            net,
            lambda: training.loss() + self.alpha * sum_of_squares(net) / 2,
            self.max_iter,
            self.tol,
            (lambda: checking.loss().item()) if self.early_stopping else None,
            self.n_iter_no_change,
        )
        if self.early_stopping:
            self.validation_curve_ = curve
        self.n_iter_ = max(1, len(self.loss_curve_))
        self.network_ = network.eval().requires_grad_(False)
        certify(self.network_, torch.zeros(2, points.shape[1], dtype=torch.float64)).require()
        return self

    def parts(self, count: int, draw: Any) -> tuple[Array, Array]:
        """The numbers of the points to train with, and of those to hold out."""
        if not self.early_stopping:
            return np.arange(count), np.arange(0)
        order = draw.permutation(count)
        held = int(np.ceil(self.validation_fraction * count))
        if not 0 < held < count - 1:
            raise ValueError(f"of {count} points {held} cannot be held out: set early_stopping=False")
        return np.sort(order[held:]), np.sort(order[:held])

    @property
    def network(self) -> Potential:
        """The certified potential, (B, n) -> (B, 1), whose gradient is the map."""
        check_is_fitted(self)
        return self.network_

    def transform(self, X: Any) -> Array:
        """Return the images (N, n) of points (N, n) of the source: the gradient of f."""
        check_is_fitted(self)
        points: Any = validate_data(self, X, reset=False, dtype=np.float64)
        with torch.enable_grad():
            x = self.network_.whitened_source(torch.tensor(points)).requires_grad_()
            (slope,) = torch.autograd.grad(self.network_.net(x).sum(), x)
        return self.network_.raw_target(slope).numpy()

    def inverse_transform(self, Y: Any) -> Array:
        """Return the points (N, n) that are mapped to points (N, n): the gradient of the conjugate of f."""
        check_is_fitted(self)
        points: Any = validate_data(self, Y, reset=False, dtype=np.float64)
        slopes = self.network_.whitened_target(torch.tensor(points))
        with torch.no_grad():
            found = conjugate(self.network_.net, slopes, tol=EXACT)
        return self.network_.raw_source(found.x).numpy()


class Dual:
    """E g(x) + E g*(y) on two clouds, with exact conjugates.

    By Danskin's theorem its gradient for the parameters is that of E g(x) − E g(x*(y)), x*(y) held fixed. Each call
    starts from the maximisers of the one before.
    """

    def __init__(self, net: FICNN, x: Tensor, slopes: Tensor, p: Tensor, q: Tensor) -> None:
        self.net, self.x, self.slopes = net, x, slopes
        self.p, self.q = p / p.sum(), q / q.sum()
        self.found: Solution | None = None

    def loss(self) -> Tensor:
        """The value, with its gradient for the parameters of g."""
        with torch.no_grad():
            self.found = conjugate(self.net, self.slopes, tol=ACCURACY, start=self.found)
        best = self.found.x
        conjugates = (best * self.slopes).sum(1) - self.net(best)[:, 0]
        return self.p @ self.net(self.x)[:, 0] + self.q @ conjugates


@torch.no_grad()
def near_identity(count: int, hidden: int | Sequence[int], activation: ActivationName | nn.Module) -> FICNN:
    """A network that is nearly ½‖x‖² at the start, so that its gradient is nearly the identity."""
    net = FICNN(count, hidden, 1, activation, quadratic=0).double()
    assert net.quadratic is not None
    net.quadratic.raw.fill_(float(np.log(np.expm1(1.0))))
    last: Any = net.layers[-1]
    if last.z is not None:
        last.z.weight = last.z.weight / 10
    last.y.weight.zero_()
    return net


def coordinates(net: nn.Module, source: Tensor, target: Tensor, p: Tensor, q: Tensor) -> Potential:
    """The change of coordinates after which both clouds have mean 0 and the same covariance.

    The map between normal distributions with covariances S and T is M = S^(-1/2) (S^(1/2) T S^(1/2))^(1/2) S^(-1/2).
    With A = M^(1/2), A S A and A⁻¹ T A⁻¹ are equal, and maps that are gradients of convex functions remain so.
    """
    source_centre, S = mean_and_covariance(source, p)
    target_centre, T = mean_and_covariance(target, q)
    root = power(S, 0.5)
    inverse = power(S, -0.5)
    matrix = power(inverse @ power(root @ T @ root, 0.5) @ inverse, 0.5)
    scale = float((matrix @ S @ matrix).trace() / len(S)) ** 0.5
    return Potential(net, matrix, scale, source_centre, target_centre)


def mean_and_covariance(points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted mean and covariance, the latter made definite.

    Raises:
        ValueError: all points are the same, or so far apart that their squares are not finite.
    """
    share = weights / weights.sum()
    mean = points[0] + share @ (points - points[0])
    away = points - mean
    covariance = (away * share[:, None]).T @ away
    size = float(covariance.trace() / len(covariance))
    if not np.isfinite(size) or size == 0:
        raise ValueError("all points of a cloud are the same, or their distances are not finite: there is no scale")
    return mean, covariance + RIDGE * size * torch.eye(len(covariance), dtype=points.dtype)


def power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of a positive definite matrix."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * values.clamp(min=float(values.max()) * 1e-15) ** exponent) @ vectors.T
