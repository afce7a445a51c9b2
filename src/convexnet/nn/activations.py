"""The activations that keep convexity: convex and non-decreasing on the whole line."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from convexnet.choices import ActivationName
from convexnet.curvature import certify
from convexnet.errors import meant
from convexnet.initialise.activation_moments import Activation

ACTIVATIONS: Mapping[ActivationName, Callable[[], nn.Module]] = MappingProxyType(
    {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "celu": nn.CELU, "softplus": nn.Softplus}
)


class OfConvex(nn.Module):
    """An activation applied to y₀² + y₁, which is convex and takes every real value."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, y: Tensor) -> Tensor:
        return self.activation(y[:, :1].square() + y[:, 1:])


def activation_of(activation: ActivationName | nn.Module, by_construction: bool = True) -> nn.Module:
    """The activation of an input-convex network, as a module of its own.

    A module is proved convex and non-decreasing, by one certificate: g(y₀² + y₁) is convex exactly where g is both.

    Args:
        activation: relu, leaky_relu, elu, celu, softplus, or a module; a module is copied.
        by_construction: refuse a module that is right at its present parameters only, such as a PReLU, whose slope may
            be trained out of [0, 1].

    Raises:
        ValueError: an unknown name, or a module that is not proved convex and non-decreasing.
        TypeError: neither a name nor a module.

    Source: Amos, Xu & Kolter, Input Convex Neural Networks (ICML 2017), proposition 1.

    Example:
        >>> activation_of("leaky_relu"), activation_of(nn.Softplus(beta=2))
        (LeakyReLU(negative_slope=0.01), Softplus(beta=2, threshold=20.0))
        >>> activation_of(nn.LeakyReLU(1.5))
        Traceback (most recent call last):
        ValueError: LeakyReLU(negative_slope=1.5) is not proved convex and non-decreasing, so ...
    """
    if isinstance(activation, str):
        if activation in ACTIVATIONS:
            return ACTIVATIONS[activation]()
        raise ValueError(
            f"unknown activation {activation!r}{meant(activation, ACTIVATIONS)}: use {', '.join(ACTIVATIONS)}, or "
            "a module that is convex and non-decreasing"
        )
    require_module(activation)
    own = copy.deepcopy(activation)
    parameter = next(own.parameters(), torch.empty(0))
    certificate = certify(OfConvex(own), torch.zeros(2, 2, dtype=parameter.dtype, device=parameter.device))
    if not certificate.convex:
        reasons = "; ".join(dict.fromkeys(finding.reason for finding in certificate.findings))
        raise ValueError(
            f"{own} is not proved convex and non-decreasing, so that no network is convex with it: {reasons}"
        )
    if by_construction and certificate.scope != "for all parameters":
        raise ValueError(
            f"{own} is convex and non-decreasing at its present parameters only, and the network is to be convex for "
            "all of them: use an activation without parameters, or constraint='clip' with cx.constrain(...).attach(...)"
        )
    return own


def free_activation_of(activation: ActivationName | nn.Module) -> nn.Module:
    """The activation of a path that need not be convex: a name as above, or any module, which is copied.

    Example:
        >>> free_activation_of(nn.Tanh())
        Tanh()
    """
    if isinstance(activation, str):
        return activation_of(activation)
    require_module(activation)
    return copy.deepcopy(activation)


def require_module(activation: object) -> None:
    """Refuse what is not a module.

    Raises:
        TypeError: it is a class, a function or something else.
    """
    if isinstance(activation, nn.Module):
        return
    if isinstance(activation, type) and issubclass(activation, nn.Module):
        raise TypeError(
            f"the activation must be a name or an nn.Module, not the class {activation.__name__}: write "
            f"nn.{activation.__name__}()"
        )
    raise TypeError(f"the activation must be a name or an nn.Module, not {type(activation).__name__}")


def function_of(activation: nn.Module) -> Activation:
    """The activation as a function of float64 tensors, for `initialise.activation_moments`.

    Example:
        >>> function_of(nn.PReLU())(torch.ones(1, dtype=torch.float64)).dtype
        torch.float64
    """
    return copy.deepcopy(activation).cpu().double().eval()
