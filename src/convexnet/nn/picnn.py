"""The partially input-convex network: convex in y, and anything in x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from convexnet.arrays import as_size, as_sizes
from convexnet.choices import ActivationName, ConstraintName
from convexnet.initialise.activation_moments import moments
from convexnet.nn.activations import activation_of, free_activation_of, function_of
from convexnet.nn.ficnn import Quadratic
from convexnet.nn.layers import POSITIVE
from convexnet.nn.norms import BatchNormAlong
from convexnet.nn.steps import (
    PartialStep,
    check_constraint,
    constrained,
    convex_linear,
    keep_nonnegative,
    start_free,
    start_partial,
)


class PICNN(nn.Module):
    """Partially input-convex network f(x, y): convex in y for every x.

    With u_0 = x and z_0 = 0,

        u_{i+1} = g̃(W̃_i u_i + b̃_i)
        z_{i+1} = g(W^(z)(z_i ∘ [W^(zu) u_i + b^(z)]_+) + W^(y)(y ∘ (W^(yu) u_i + b^(y))) + W^(u) u_i + b),

    the last z linear. Only W^(z) is kept non-negative: by construction, so that f is convex in y for *all* parameters,
    or by projection, as for `FICNN`: `cx.constrain(net, (x, y), wrt=1).attach(optimizer)`.

    Args:
        x_features, y_features: lengths of x and y.
        hidden: width, or widths, of the hidden layers z_1, z_2, ...
        out_features: outputs, each convex in y.
        x_hidden: width of u_1, u_2, ...: as many as `hidden`, or None: the same.
        activation: g, convex and non-decreasing; as for `FICNN`.
        x_activation: g̃: a name, or any module.
        x_norm: a BatchNorm after each g̃. In training its statistics couple the samples of a batch, through x only.
        constraint: how W^(z) is kept non-negative, as for `FICNN`.
        quadratic: add ½‖A_k y‖² + ½ Σ_j softplus(d_kj) y_j² to output k, as for `FICNN`.
        passthrough: W^(y) and its gate in every layer; without it, in the first layer only.

    Shape: (..., x_features), (..., y_features) -> (..., out_features); a batch of one x goes with any number of y.

    Initial values: see `convexnet.nn.steps`; gates start near 1, so that the network starts as if x were only added.

    Raises:
        ValueError, TypeError: wrong arguments; and, when called, inputs of another length.

    Source: Amos, Xu & Kolter, Input Convex Neural Networks (ICML 2017), equation 3 and proposition 2.

    Example:
        >>> net = PICNN(3, 2, hidden=(16, 16))
        >>> x, y = torch.randn(5, 3), torch.randn(5, 2)
        >>> net(x, y).shape
        torch.Size([5, 1])
        >>> import convexnet as cx
        >>> print(cx.certify(net, (x, y), wrt=1).headline())
        CONVEX: PICNN is convex in input 1, for all parameters
        >>> cx.certify(net, (x, y)).convex
        False
    """

    def __init__(
        self,
        x_features: int,
        y_features: int,
        hidden: int | Sequence[int] = (200, 200),
        out_features: int = 1,
        x_hidden: int | Sequence[int] | None = None,
        activation: ActivationName | nn.Module = "softplus",
        x_activation: ActivationName | nn.Module = "relu",
        x_norm: bool = False,
        constraint: ConstraintName = "softplus",
        quadratic: int | None = None,
        passthrough: bool = True,
    ) -> None:
        super().__init__()
        check_constraint(constraint)
        widths = as_sizes(hidden, "hidden")
        x_widths = widths if x_hidden is None else as_sizes(x_hidden, "x_hidden")
        if len(widths) != len(x_widths):
            raise ValueError(
                f"hidden has {len(widths)} layers and x_hidden {len(x_widths)}: layer i of z reads layer i of u"
            )
        x_features, y_features = as_size(x_features, "x_features"), as_size(y_features, "y_features")
        out_features = as_size(out_features, "out_features")
        self.x_features, self.y_features, self.out_features = x_features, y_features, out_features
        self.constraint = constraint
        self.activation = activation_of(activation, by_construction=constraint in POSITIVE)
        free = free_activation_of(x_activation)
        after = 1.0 if x_norm else power_after(free)
        self.x_layers, self.layers = nn.ModuleList(), nn.ModuleList()
        width, x_width, power = 0, x_features, 1.0
        for index, size in enumerate([*widths, out_features]):
            through = passthrough or index == 0
            step = PartialStep(
                z=convex_linear(width, size, constraint) if index else None,
                z_gate=nn.Linear(x_width, width) if index else None,
                y=nn.Linear(y_features, size, bias=False) if through else None,
                y_gate=nn.Linear(x_width, y_features) if through else None,
                u=nn.Linear(x_width, size),
            )
            start_partial(step, self.activation, power)
            self.layers.append(step)
            if index < len(widths):
                linear = nn.Linear(x_width, x_widths[index])
                start_free(linear, 1.0, power)
                x_width, power, width = x_widths[index], after, size
                norm = [BatchNormAlong(x_width)] if x_norm else []
                self.x_layers.append(nn.Sequential(linear, free_activation_of(x_activation), *norm))
        self.quadratic = None if quadratic is None else Quadratic(y_features, out_features, quadratic)
        example = [torch.zeros(1, x_features), torch.zeros(1, y_features)]
        keep_nonnegative(self, constraint, example, constrained(self.layers))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        for name, value, features in (("x", x, self.x_features), ("y", y, self.y_features)):
            if value.shape[-1:] != (features,):
                raise ValueError(
                    f"this PICNN takes {name} of shape (..., {features}), not {tuple(value.shape)}: it is called as "
                    f"net(x, y), with x of {self.x_features} and y of {self.y_features} features"
                )
        u, z = x, None
        for path, layer in zip(self.x_layers, self.layers[:-1], strict=True):
            z = self.activation(layer(u, y, z))
            u = path(u)
        value = self.layers[-1](u, y, z)
        return value if self.quadratic is None else value + self.quadratic(y)

    def context(self, x: Tensor) -> list[Tensor]:
        """Return what depends on x alone, tensors of its rows: gates, and what each layer adds.

        For many y and one x, `with_context(context(x), y)` gives what `forward(x, y)` gives, without the path of x.

        Example:
            >>> net = PICNN(3, 2, hidden=(4, 4))
            >>> x, y = torch.randn(5, 3), torch.randn(5, 2)
            >>> torch.allclose(net.with_context(net.context(x), y), net(x, y), atol=1e-6)
            True
        """
        found: list[Tensor] = []
        u = x
        for index, layer in enumerate(self.layers):
            step = cast(PartialStep, layer)
            found += [] if step.z_gate is None else [step.z_gate(u).relu()]
            found += [] if step.y_gate is None else [step.y_gate(u)]
            found.append(step.u(u))
            u = self.x_layers[index](u) if index < len(self.x_layers) else u
        return found

    def with_context(self, context: Sequence[Tensor], y: Tensor) -> Tensor:
        """Return the outputs at y, where `context` was computed of x."""
        known = iter(context)
        z: Tensor | None = None
        for index, layer in enumerate(self.layers):
            step = cast(PartialStep, layer)
            affine = y.new_zeros(())
            if step.z is not None and step.z_gate is not None and z is not None:
                affine = affine + step.z(z * next(known))
            if step.y is not None and step.y_gate is not None:
                affine = affine + step.y(y * next(known))
            affine = affine + next(known)
            z = self.activation(affine) if index < len(self.layers) - 1 else affine
        assert z is not None
        return z if self.quadratic is None else z + self.quadratic(y)

    def strong_convexity(self) -> Tensor:
        """Return a modulus μ for each output: f_k(x, y) − ½ μ_k ‖y‖² is convex in y; 0 without `quadratic`.

        Example:
            >>> PICNN(2, 3).strong_convexity()
            tensor([0.])
        """
        if self.quadratic is None:
            return next(self.parameters()).new_zeros(self.out_features)
        return self.quadratic.strong_convexity()


def power_after(activation: nn.Module) -> float:
    """E g̃(a)² for a standard normal a.

    Example:
        >>> round(power_after(nn.ReLU()), 6)
        0.5
    """
    return moments(function_of(activation)).second
