"""The fully input-convex network: convex in its whole input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convexnet.arrays import as_size, as_sizes, is_whole
from convexnet.choices import ActivationName, ConstraintName
from convexnet.nn.activations import activation_of
from convexnet.nn.layers import POSITIVE, mask_of
from convexnet.nn.steps import (
    FullStep,
    assign,
    check_constraint,
    convex_linear,
    keep_nonnegative,
    start_full,
    weight_of,
)


class Quadratic(nn.Module):
    """½‖A_k y‖² + ½ Σ_j softplus(d_kj) y_j² for each output k: convex, and strongly so, for all its parameters.

    At the start, each of the two sums is about ½ for whitened y.

    Args:
        in_features: n, the length of y.
        out_features: how many outputs.
        rank: rows of each A_k; 0 leaves the diagonal alone.

    Shape: (..., n) -> (..., out_features).

    Example:
        >>> bool((Quadratic(3, 2, rank=1)(torch.randn(5, 3)) >= 0).all())
        True
    """

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        if not is_whole(rank) or int(rank) < 0:
            raise ValueError(
                f"quadratic is the rank of A, an integer of at least 0 (0: diagonal only), not {rank!r}: it says how "
                "many rows A has, not how strong the term is, which is learnt"
            )
        rank = int(rank)
        self.rank, self.out_features = rank, out_features
        self.factor = nn.Parameter(torch.randn(out_features, rank, in_features) / max(rank * in_features, 1) ** 0.5)
        start = torch.tensor(1 / in_features).expm1().log()  # softplus of it is 1 / n
        self.raw = nn.Parameter(start.expand(out_features, in_features).clone())

    def extra_repr(self) -> str:
        return f"{self.raw.shape[1]}, {self.out_features}, rank={self.rank}"

    def forward(self, y: Tensor) -> Tensor:
        value = F.linear(y.square(), F.softplus(self.raw)) / 2
        if self.rank == 0:
            return value
        products = F.linear(y, self.factor.flatten(0, 1)).unflatten(-1, (self.out_features, self.rank))
        return value + products.square().sum(-1) / 2

    def strong_convexity(self) -> Tensor:
        """min_j softplus(d_kj) for each output, (out_features,)."""
        return F.softplus(self.raw).amin(1)


class FICNN(nn.Module):
    """Fully input-convex network: z_{i+1} = g(W_i^(z) z_i + W_i^(y) y + b_i), z_0 = 0, W^(z) >= 0.

    The last layer is linear. Convex in y: with a constraint that computes the weights ("softplus", "exp", "square") for
    *all* parameters; with one that projects plain weights ("clip", "exponentiate", "absolute", "shift") as long as they
    are projected after each step: `cx.constrain(net, y).attach(optimizer)`, which finds the method recorded here.
    **Training such a network without it loses convexity.**

    Args:
        in_features: n, the length of y.
        hidden: width of each hidden layer, or one width for one layer; () is an affine function.
        out_features: outputs, each convex.
        activation: g, the same in every layer: relu, leaky_relu, elu, celu, softplus, or a module that is proved convex
            and non-decreasing.
        passthrough: W^(y) in every layer, the output included. Without it, in the first layer only.
        constraint: how W^(z) is kept non-negative, see above.
        quadratic: add ½‖A_k y‖² + ½ Σ_j softplus(d_kj) y_j² to output k, with this number of rows in A_k; then the
            network is strongly convex for all parameters (`strong_convexity`). None: no such term.
        monotone: inputs in which every output is non-decreasing, as indices or a boolean mask (n,): their columns of
            every W^(y) are kept non-negative like W^(z). What is convex and goes in there stays convex. Not together
            with `quadratic`, which decreases on one side.

    Shape: (..., in_features) -> (..., out_features).

    Initial values: see `convexnet.nn.steps`; inputs are taken to be whitened.

    Raises:
        ValueError, TypeError: wrong arguments; and, when called, inputs of another length.

    Source: Amos, Xu & Kolter, Input Convex Neural Networks (ICML 2017), equation 2 and proposition 1. The last layer is
        linear: an activation there would bound the output from below.

    Example:
        >>> net = FICNN(2, hidden=(16, 16), activation="relu")
        >>> net(torch.zeros(5, 2)).shape
        torch.Size([5, 1])
        >>> import convexnet as cx
        >>> print(cx.certify(net, torch.zeros(1, 2)).headline())
        CONVEX: FICNN is convex in its input, for all parameters
    """

    def __init__(
        self,
        in_features: int,
        hidden: int | Sequence[int] = (200, 200),
        out_features: int = 1,
        activation: ActivationName | nn.Module = "softplus",
        passthrough: bool = True,
        constraint: ConstraintName = "softplus",
        quadratic: int | None = None,
        monotone: int | Sequence[int] | Tensor | None = None,
    ) -> None:
        super().__init__()
        check_constraint(constraint)
        in_features, out_features = as_size(in_features, "in_features"), as_size(out_features, "out_features")
        widths = as_sizes(hidden, "hidden")
        if monotone is not None and quadratic is not None:
            raise ValueError("monotone and quadratic exclude each other: y² decreases where y < 0")
        self.in_features, self.out_features, self.constraint = in_features, out_features, constraint
        columns = None if monotone is None else mask_of(monotone, in_features, "monotone")
        columns = columns if columns is not None and bool(columns.any()) else None
        rising = None if columns is None else columns.nonzero().flatten().tolist()
        self.activation = activation_of(activation, by_construction=constraint in POSITIVE)
        self.layers = nn.ModuleList()
        kept: list[tuple[nn.Module, Tensor | None]] = []
        width = 0
        for index, size in enumerate([*widths, out_features]):
            through = passthrough or index == 0
            step = FullStep(
                z=convex_linear(width, size, constraint, bias=not through) if index else None,
                y=input_map(in_features, size, constraint, rising) if through else None,
            )
            start_full(step, self.activation)
            if columns is not None and step.y is not None:
                weight = weight_of(step.y).detach()
                assign(step.y, torch.where(columns, weight.abs(), weight))
            self.layers.append(step)
            kept += [(step.z, None)] if step.z is not None else []
            kept += [(step.y, columns)] if step.y is not None and columns is not None else []
            width = size
        self.quadratic = None if quadratic is None else Quadratic(in_features, out_features, quadratic)
        keep_nonnegative(self, constraint, [torch.zeros(1, in_features)], kept)

    def forward(self, y: Tensor) -> Tensor:
        if y.shape[-1:] != (self.in_features,):
            raise ValueError(
                f"this FICNN takes y of shape (..., {self.in_features}), not {tuple(y.shape)}: flatten each sample, or "
                "build the network with another in_features"
            )
        z = None
        for layer in self.layers[:-1]:
            z = self.activation(layer(y, z))
        value = self.layers[-1](y, z)
        return value if self.quadratic is None else value + self.quadratic(y)

    def context(self, first: Tensor) -> list[Tensor]:
        """Return what each layer adds for the first inputs, (B, width) each; without pass-through, these themselves.

        For many values of the last inputs, `with_context(context(first), last)` gives what `forward` gives for both
        side by side.

        Example:
            >>> net = FICNN(5, hidden=(4, 4))
            >>> first, last = torch.randn(6, 3), torch.randn(6, 2)
            >>> whole = net(torch.cat([first, last], 1))
            >>> torch.allclose(net.with_context(net.context(first), last), whole, atol=1e-6)
            True
        """
        maps, size = self.input_maps(), first.shape[1]
        return [F.linear(first, each.weight[:, :size], each.bias) for each in maps] or [first]

    def with_context(self, context: Sequence[Tensor], last: Tensor) -> Tensor:
        """Return the outputs for the last inputs, where `context` was computed of the first ones."""
        maps = self.input_maps()
        if not maps:
            return self(torch.cat([context[0], last], 1))
        z: Tensor | None = None
        for index, (layer, known, own) in enumerate(zip(self.layers, context, maps, strict=True)):
            a = known + F.linear(last, own.weight[:, -last.shape[1] :])
            inner = cast(FullStep, layer).z
            a = a if z is None or inner is None else a + inner(z)
            z = a if index == len(maps) - 1 else self.activation(a)
        assert z is not None
        return z

    def input_maps(self) -> list[nn.Linear]:
        """Return W^(y) of every layer; none, where a layer has no such map, or there is more than layers."""
        maps = [cast(FullStep, layer).y for layer in self.layers]
        plain = [each for each in maps if isinstance(each, nn.Linear)]
        return plain if len(plain) == len(maps) and self.quadratic is None else []

    def strong_convexity(self) -> Tensor:
        """Return a modulus μ for each output: f_k(y) − ½ μ_k ‖y‖² is convex; 0 without a quadratic term.

        Returns:
            (out_features,): the least entry of the diagonal, which the rows of A only add to.

        Example:
            >>> bool((FICNN(3, quadratic=2).strong_convexity() > 0).all())
            True
        """
        if self.quadratic is None:
            return next(self.parameters()).new_zeros(self.out_features)
        return self.quadratic.strong_convexity()


def input_map(
    in_features: int, out_features: int, constraint: ConstraintName, rising: Sequence[int] | None
) -> nn.Module:
    """W^(y) y + b, its columns of the named inputs non-negative."""
    if rising is None:
        return nn.Linear(in_features, out_features)
    return convex_linear(in_features, out_features, constraint, bias=True, columns=rising)
