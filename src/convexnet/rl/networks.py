"""Negated Q-functions f(s, a) = −Q(s, a) that are convex in the action, and what is fixed once the states are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from convexnet.nn import PICNN
from convexnet.nn.steps import PartialStep
from convexnet.rl.argmin import Function


def negated_q(states: int, actions: int, hidden: Sequence[int] = (200, 200)) -> PICNN:
    """Return the partially input-convex network of the ICNN paper's control experiments, with leaky ReLU throughout.

    Its non-negative weights are plain ones: `cx.constrain(net, example, wrt=1).attach(optimizer)` keeps them so.

    Source: Amos, Xu & Kolter, Input Convex Neural Networks (ICML 2017), section 6.3 and appendix.

    Example:
        >>> negated_q(3, 1)(torch.zeros(5, 3), torch.zeros(5, 1)).shape
        torch.Size([5, 1])
    """
    return PICNN(states, actions, hidden, activation="leaky_relu", x_activation="leaky_relu", constraint="clip")


class NAF(nn.Module):
    """The quadratic Q of normalised advantage functions: f(s, a) = −V(s) + ½ ‖L(s)ᵀ (a − μ(s))‖².

    Its best action is μ(s), in [-1, 1]^m by a tanh, and its value V(s): nothing is minimised.

    Args:
        states, actions: lengths of s and a.
        hidden: widths of the layers that V, μ and L share.

    Shape: (B, states), (B, actions) -> (B, 1).

    Source: Gu, Lillicrap, Sutskever & Levine, Continuous deep Q-learning with model-based acceleration (ICML 2016).

    Example:
        >>> net, s = NAF(3, 2), torch.randn(5, 3)
        >>> actions, values = net.best(s)
        >>> bool((net(s, actions)[:, 0] == values).all()), bool((net(s, actions + 0.1)[:, 0] > values).all())
        (True, True)
    """

    def __init__(self, states: int, actions: int, hidden: Sequence[int] = (200, 200)) -> None:
        super().__init__()
        widths = [states, *hidden]
        layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.LeakyReLU())]
        self.trunk = nn.Sequential(*layers)
        self.value, self.mean = nn.Linear(widths[-1], 1), nn.Linear(widths[-1], actions)
        self.factor = nn.Linear(widths[-1], actions * actions)
        self.actions = actions

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        u = self.trunk(states)
        factor = self.factor(u).unflatten(-1, (self.actions, self.actions))
        diagonal = torch.diag_embed(factor.diagonal(dim1=-2, dim2=-1).clamp(-5, 5).exp())
        lower = factor.tril(-1) + diagonal
        away = (lower.mT @ (actions - self.mean(u).tanh()).unsqueeze(-1)).squeeze(-1)
        return 0.5 * (away**2).sum(-1, keepdim=True) - self.value(u)

    def best(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best actions (B, m), and f there (B,)."""
        u = self.trunk(states)
        return self.mean(u).tanh(), -self.value(u)[:, 0]


def function_at(f: nn.Module, states: Tensor) -> Function:
    """Return f as a function of actions alone, (B, m) -> (B,); what depends on the states is computed once.

    Example:
        >>> net, s, a = negated_q(3, 1, (8, 8)), torch.randn(5, 3), torch.randn(5, 1)
        >>> bool(torch.allclose(function_at(net, s)(a), net(s, a)[:, 0], atol=1e-5))
        True
    """
    if not isinstance(f, PICNN) or f.quadratic is not None:
        return lambda actions: f(states, actions)[:, 0]
    net, layers = f, [cast(PartialStep, layer) for layer in f.layers]
    made: list[tuple[Tensor | None, Tensor | None, Tensor]] = []
    with torch.no_grad():
        u = states
        for layer, path in zip(layers, [*net.x_layers, nn.Identity()], strict=True):
            z_gate = None if layer.z_gate is None else layer.z_gate(u).relu()
            y_gate = None if layer.y_gate is None else layer.y_gate(u)
            made.append((z_gate, y_gate, layer.u(u)))
            u = path(u)

    def value(actions: Tensor) -> Tensor:
        z = None
        for layer, (z_gate, y_gate, affine) in zip(layers, made, strict=True):
            if layer.y is not None and y_gate is not None:
                affine = layer.y(actions * y_gate) + affine
            if layer.z is not None and z is not None:
                affine = layer.z(net.activation(z) * z_gate) + affine
            z = affine
        assert z is not None
        return z[:, 0]

    return value
