"""One layer of an input-convex network before its activation, dense or convolutional, and its initial values.

A network is a list of such layers, an activation, and a forward that reads like the equation. What must be
non-negative, the matrices W^(z) that meet what is already convex, is non-negative by construction or a plain weight
that `keep_nonnegative` records, so that `cx.constrain` keeps it.

Initial values keep every pre-activation at mean 0 and variance 1 for whitened inputs, in expectation over draws. Each
of the k terms of a layer contributes 1/k of the variance: W^(z) z by log-normal weights and a bias (Hoedt & Klambauer
2023), which make its units correlated by 1/2, the pass-through and the path of x by normal weights (LeCun), which do
not correlate them. So units have correlation 1/(2k) rather than 1/2, which the log-normal moments are taken at; where
the log-normal part alone drifts to correlation 1 over the layers, a network with pass-through keeps to 1/k at worst.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from convexnet.choices import ConstraintName
from convexnet.constraints.constrain import remember_constraint
from convexnet.constraints.sets import METHODS, Interval, method_of
from convexnet.errors import meant
from convexnet.initialise.activation_moments import moments
from convexnet.initialise.weights import fill_lognormal
from convexnet.memory import remember_example
from convexnet.nn.activations import function_of
from convexnet.nn.layers import POSITIVE, ConvexConv2d, ConvexLinear

GATE = 0.1
"""Standard deviation of a gate at the start, around 1."""


class FullStep(nn.Module):
    """W^(z) z + W^(y) y + b: one layer of a fully input-convex network before its activation.

    Args:
        z: the non-negative map of the layer before; None in the first layer.
        y: the free map of the input; None without pass-through.
    """

    def __init__(self, z: nn.Module | None, y: nn.Module | None) -> None:
        super().__init__()
        self.z, self.y = z, y

    def forward(self, y: Tensor, z: Tensor | None = None) -> Tensor:
        if self.z is None or z is None:
            assert self.y is not None
            return self.y(y)
        return self.z(z) if self.y is None else self.z(z) + self.y(y)


class PartialStep(nn.Module):
    """W^(z)(z ∘ [W^(zu) u + b^(z)]_+) + W^(y)(y ∘ (W^(yu) u + b^(y))) + W^(u) u + b: one partially convex layer.

    Args:
        z, z_gate: W^(z) >= 0, and W^(zu) with its bias; None in the first layer.
        y, y_gate: W^(y), and W^(yu) with its bias; None without pass-through.
        u: W^(u), with the bias b.
    """

    def __init__(
        self,
        z: nn.Module | None,
        z_gate: nn.Module | None,
        y: nn.Module | None,
        y_gate: nn.Module | None,
        u: nn.Module,
    ) -> None:
        super().__init__()
        self.z, self.z_gate, self.y, self.y_gate, self.u = z, z_gate, y, y_gate, u

    def forward(self, u: Tensor, y: Tensor, z: Tensor | None = None) -> Tensor:
        affine = self.u(u)
        if self.y is not None and self.y_gate is not None:
            affine = self.y(y * self.y_gate(u)) + affine
        if self.z is None or self.z_gate is None or z is None:
            return affine
        return self.z(z * self.z_gate(u).relu()) + affine


# --- the constrained maps --------------------------------------------------------------------------------------------


def check_constraint(constraint: ConstraintName) -> None:
    """Refuse what neither computes a weight nor projects it.

    Example:
        >>> check_constraint("positive")
        Traceback (most recent call last):
        ValueError: unknown constraint 'positive': softplus, exp, square compute non-negative weights, so ...
    """
    known = dict.fromkeys([*POSITIVE, *METHODS])
    if not isinstance(constraint, str) or constraint not in known:  # pyright: ignore[reportUnnecessaryIsInstance]
        projected = ", ".join(name for name in METHODS if name not in POSITIVE)
        raise ValueError(
            f"unknown constraint {constraint!r}{meant(constraint, known)}: {', '.join(POSITIVE)} compute non-negative "
            f"weights, so that the network is convex for all parameters; {projected} keep plain weights non-negative "
            "by cx.constrain(model, example).attach(optimizer)"
        )


def convex_linear(
    in_features: int,
    out_features: int,
    constraint: ConstraintName,
    bias: bool = False,
    columns: Sequence[int] | None = None,
) -> ConvexLinear | nn.Linear:
    """A linear map that is non-negative by construction, or a plain one that is to be kept so.

    Example:
        >>> convex_linear(2, 3, "clip")
        Linear(in_features=2, out_features=3, bias=False)
    """
    if constraint in POSITIVE:
        return ConvexLinear(in_features, out_features, bias, constraint, columns)
    return nn.Linear(in_features, out_features, bias)


def keep_nonnegative(
    model: nn.Module,
    constraint: ConstraintName,
    example: Sequence[Tensor],
    weights: Iterable[tuple[nn.Module, Tensor | None]],
) -> None:
    """Make a network remember its example and, where its weights are plain ones, which must be kept non-negative.

    Args:
        model: the network.
        constraint: its constraint.
        example: a batch of each input.
        weights: the modules that hold constrained weights, each with a mask of its input columns (None: all).
    """
    remember_example(model, example)
    if constraint in POSITIVE:
        return
    assert constraint in METHODS
    names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    intervals = {
        names[id(module)]: Interval.above(0.0, torch.ones([1] * weight_of(module).ndim, dtype=torch.bool))
        if mask is None
        else Interval.above(0.0, mask.view(1, -1))
        for module, mask in weights
    }
    remember_constraint(model, intervals, method_of(constraint, 5.0), example)


def constrained(layers: nn.ModuleList) -> list[tuple[nn.Module, None]]:
    """The modules that hold the W^(z) of the layers, as `keep_nonnegative` takes them."""
    steps = [step for step in layers if isinstance(step, FullStep | PartialStep)]
    return [(innermost(step.z), None) for step in steps if step.z is not None]


def weight_of(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def innermost(module: nn.Module) -> nn.Module:
    """The layer with the weights: the last of a sequence that flattens first."""
    return module[-1] if isinstance(module, nn.Sequential) else module


# --- initial values --------------------------------------------------------------------------------------------------


@torch.no_grad()
def start_convex(module: nn.Module, bias: Tensor | None, activation: nn.Module, share: float) -> None:
    """Log-normal values for W^(z), and for the bias what centres W^(z) z.

    Args:
        module: holds W^(z).
        bias: (out,), of the whole layer.
        activation: what z comes from.
        share: of the layer's variance.
    """
    layer = innermost(module)
    weight = torch.empty_like(weight_of(layer))
    fill_lognormal(weight, bias, moments(function_of(activation), share / 2), 0.5, None, None)
    weight *= share**0.5
    if bias is not None:
        bias *= share**0.5
    assign(layer, weight)


@torch.no_grad()
def start_free(module: nn.Module, share: float, power: float = 1.0, mean: float = 0.0) -> None:
    """Normal values for a free map, and a constant bias.

    Args:
        module: holds the weight (out, in, ...) and perhaps a bias.
        share: variance of the result.
        power: mean square of what comes in.
        mean: of the result, the bias.
    """
    layer = innermost(module)
    weight = weight_of(layer)
    assign(layer, torch.randn_like(weight) * (share / (weight[0].numel() * power)) ** 0.5)
    bias = layer.bias
    if isinstance(bias, Tensor):
        bias.fill_(mean)


@torch.no_grad()
def assign(layer: nn.Module, weight: Tensor) -> None:
    """Give a layer a weight; in columns that must be non-negative, its absolute value."""
    if isinstance(layer, ConvexLinear | ConvexConv2d):
        layer.weight = weight if layer.columns is None else torch.where(layer.columns, weight.abs(), weight)
    else:
        weight_of(layer).copy_(weight)


@torch.no_grad()
def start_full(step: FullStep, activation: nn.Module) -> None:
    """Initial values of a layer of a fully input-convex network."""
    terms = (step.z is not None) + (step.y is not None)
    if step.y is not None:
        start_free(step.y, 1 / terms)
    if step.z is not None:
        bias = innermost(step.z if step.y is None else step.y).bias
        start_convex(step.z, bias if isinstance(bias, Tensor) else None, activation, 1 / terms)


@torch.no_grad()
def start_partial(step: PartialStep, activation: nn.Module, power: float) -> None:
    """Initial values of a partially convex layer: gates near 1, so that it starts as W^(z) z + W^(y) y + W^(u) u + b.

    Args:
        step: the layer.
        activation: what z comes from.
        power: mean square of u.
    """
    share = 1 / ((step.z is not None) + (step.y is not None) + 1)
    start_free(step.u, share, power)
    if step.y is not None and step.y_gate is not None:
        start_free(step.y, share)
        start_free(step.y_gate, GATE**2, power, mean=1.0)
    if step.z is not None and step.z_gate is not None:
        start_free(step.z_gate, GATE**2, power, mean=1.0)
        bias = innermost(step.u).bias
        start_convex(step.z, bias if isinstance(bias, Tensor) else None, activation, share)
