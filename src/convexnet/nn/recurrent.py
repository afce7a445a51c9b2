"""The input-convex recurrent network: convex in a whole sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from convexnet.arrays import as_size, as_sizes
from convexnet.choices import ActivationName, ConstraintName
from convexnet.errors import meant
from convexnet.initialise.activation_moments import moments
from convexnet.initialise.weights import identity_
from convexnet.nn.activations import activation_of, function_of
from convexnet.nn.layers import POSITIVE
from convexnet.nn.steps import (
    assign,
    check_constraint,
    convex_linear,
    keep_nonnegative,
    start_convex,
    start_free,
    weight_of,
)

ROW_SUM = 0.9
"""What each row of a recurrent weight adds up to at the start: below 1, so that no state grows with the length."""


class RecurrentLevel(nn.Module):
    """One level: h_t = g(W h_{t-1} + V h'_t + U x_t + D x_{t-1} + b) for a whole sequence, h' being the level below.

    Args:
        in_features: of x.
        width: of h.
        below: width of h'; 0 in the first level, which has no V.
        activation: g.
        constraint: how W and V are kept non-negative.
    """

    def __init__(
        self, in_features: int, width: int, below: int, activation: nn.Module, constraint: ConstraintName
    ) -> None:
        super().__init__()
        self.recurrent = convex_linear(width, width, constraint)
        self.below = convex_linear(below, width, constraint) if below else None
        self.input = nn.Linear(in_features, width)
        self.previous = nn.Linear(in_features, width, bias=False)
        self.start(activation)

    @torch.no_grad()
    def start(self, activation: nn.Module) -> None:
        """Initial values.

        W is nearly a multiple of the identity: each state decays, by `ROW_SUM` a step at most, and is hardly mixed
        with others. Log-normal weights, whose rows add up to more than 1, would make a state grow like a power of the
        number of steps. V is log-normal, U and D are normal; the three share evenly what variance W h leaves to 1.
        """
        of = moments(function_of(activation))
        noise = 0.1
        weight = identity_(torch.empty_like(weight_of(self.recurrent)), noise) * (ROW_SUM / (1 + noise))
        assign(self.recurrent, weight)
        left = max(1 - float(weight.square().sum(1).mean()) * of.variance, 0.1)
        terms = 2 if self.below is None else 3
        start_free(self.input, left / terms)
        start_free(self.previous, left / terms)
        if self.below is not None:
            start_convex(self.below, self.input.bias, activation, left / terms)
        self.input.bias.sub_(ROW_SUM * of.mean)

    def forward(self, x: Tensor, previous: Tensor, below: Tensor | None, activation: nn.Module) -> Tensor:
        given = self.input(x) + self.previous(previous)
        if self.below is not None and below is not None:
            given = given + self.below(below)
        state = activation(given[:, 0])
        states = [state]
        for t in range(1, given.shape[1]):
            state = activation(given[:, t] + self.recurrent(state))
            states.append(state)
        return torch.stack(states, dim=1)


class ICRNN(nn.Module):
    """Input-convex recurrent network: every output convex in the whole sequence x_1, ..., x_T.

    With h_0 = 0 and x_0 = 0, and one level,

        h_t = g(W h_{t-1} + U x_t + D x_{t-1} + b)
        o_t = V h_t + V' h_{t-1} + D' x_t + c,

    where W, V, V' >= 0 and the maps of x are free. The source doubles the input to (x, −x) and makes all maps
    non-negative, which for D, U and D' says the same. Further levels read h_t of the level below through a
    non-negative map, and x_t and x_{t-1} beside it. o_t depends on x_1, ..., x_t only. Convexity is by construction or
    by projection, as for `FICNN`.

    Args:
        in_features: n, the length of each x_t.
        hidden: width of each level, or one width for one level.
        out_features: length of each o_t.
        activation, constraint: as for `FICNN`.
        outputs: "all" of o_1, ..., o_T, or the "last".

    Shape: (B, T, in_features) -> (B, T, out_features), or (B, out_features) for "last". A traced program, and so a
    certificate, is for the T of its example.

    Raises:
        ValueError, TypeError: wrong arguments; and, when called, sequences of another shape.

    Source: Chen, Shi & Zhang, Optimal Control Via Neural Networks: A Convex Approach (ICLR 2019), equation 3.

    Example:
        >>> net = ICRNN(3, hidden=(8,), out_features=2)
        >>> net(torch.zeros(5, 4, 3)).shape
        torch.Size([5, 4, 2])
        >>> import convexnet as cx
        >>> print(cx.certify(net, torch.zeros(1, 4, 3)).headline())
        CONVEX: ICRNN is convex in its input, for all parameters
    """

    def __init__(
        self,
        in_features: int,
        hidden: int | Sequence[int] = (64,),
        out_features: int = 1,
        activation: ActivationName | nn.Module = "relu",
        constraint: ConstraintName = "softplus",
        outputs: Literal["all", "last"] = "all",
    ) -> None:
        super().__init__()
        check_constraint(constraint)
        in_features, out_features = as_size(in_features, "in_features"), as_size(out_features, "out_features")
        widths = as_sizes(hidden, "hidden")
        as_size(len(widths), "the number of hidden levels")
        if outputs not in ("all", "last"):
            raise ValueError(f"outputs is 'all' or 'last', not {outputs!r}{meant(outputs, ('all', 'last'))}")
        self.in_features, self.out_features, self.outputs = in_features, out_features, outputs
        self.constraint = constraint
        self.activation = activation_of(activation, by_construction=constraint in POSITIVE)
        self.levels = nn.ModuleList()
        kept: list[nn.Module] = []
        below = 0
        for width in widths:
            level = RecurrentLevel(in_features, width, below, self.activation, constraint)
            self.levels.append(level)
            kept += [level.recurrent] if level.below is None else [level.recurrent, level.below]
            below = width
        self.state = convex_linear(below, out_features, constraint)
        self.before = convex_linear(below, out_features, constraint)
        self.input = nn.Linear(in_features, out_features)
        with torch.no_grad():
            start_free(self.input, 1 / 3)
            start_convex(self.before, self.input.bias, self.activation, 1 / 3)
            centre = self.input.bias.clone()
            start_convex(self.state, self.input.bias, self.activation, 1 / 3)
            self.input.bias.add_(centre)
        example = [torch.zeros(1, 2, in_features)]
        keep_nonnegative(self, constraint, example, [(module, None) for module in [*kept, self.state, self.before]])

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[1] == 0 or x.shape[2] != self.in_features:
            raise ValueError(
                f"this ICRNN takes sequences of shape (B, T, {self.in_features}) with T of at least 1, not "
                f"{tuple(x.shape)}: the batch comes first, then time"
            )
        previous, states = delayed(x), None
        for level in self.levels:
            states = level(x, previous, states, self.activation)
        assert states is not None
        earlier = delayed(states)
        if self.outputs == "last":
            x, states, earlier = x[:, -1], states[:, -1], earlier[:, -1]
        return self.state(states) + self.before(earlier) + self.input(x)


def delayed(sequence: Tensor) -> Tensor:
    """The sequence one step later, with zeros first.

    Example:
        >>> delayed(torch.tensor([[[1.0], [2.0]]])).flatten().tolist()
        [0.0, 1.0]
    """
    return torch.cat([torch.zeros_like(sequence[:, :1]), sequence[:, :-1]], dim=1)
