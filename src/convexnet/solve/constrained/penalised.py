"""A function with its constraints as penalties: what is minimised over a box instead.

    F(y) = f(y) + entropy(y) + Σ w (a·y − b)₊ + Σ w |a·y − b| + Σ w (‖y − c‖² − r²)₊ + Σ w (g(y) − level)₊

with weights w that make all of them comparable: ρ / |a|, ρ / 2r, ρ. F is f where the constraints are met, and not above
it, so that every lower bound of F on the box is one of f on the set; and once ρ is larger than the multipliers, the
minimisers are the same (an exact penalty). Penalties are kinks like those of the network: the Newton system stays
n × n, a constraint that holds the minimiser is a kink that holds it, and derivatives and multipliers come out of the
same formulas.

Source: Han & Mangasarian (1979), "Exact penalty functions in nonlinear programming".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convexnet.solve.at_most import one_number


@dataclass(frozen=True)
class Layout:
    """Which inputs of `Penalised` are what: see there.

    Attributes:
        own: how many inputs f has, y among them.
        variable: the number of y.
        below, equal: whether there are rows of these kinds.
        balls: (start, stop) of the parts of y in a ball.
        entropy: (start, stop) of the parts of y whose entropy is added.
        others: for each further network, the numbers among the inputs of f of those that it takes (y is one), or how
            many inputs of its own it has besides y.
    """

    own: int
    variable: int
    below: bool = False
    equal: bool = False
    balls: tuple[tuple[int, int], ...] = ()
    entropy: tuple[tuple[int, int], ...] = ()
    others: tuple[tuple[int, ...] | int, ...] = ()


class Penalised(nn.Module):
    """f with penalties.

    Inputs, batch first: those of f; the weights (B, p) of all penalties in order; if there are rows, their matrix
    (B, m, n) and right side (B, m), first of `below` and then of `equal`; for each ball its centre (B, k) and radius
    (B, 1); for each further network its level (B, 1) and its own inputs. What is not f's is in float64, whatever type y
    has.

    Args:
        f: the objective, (B,) or (B, 1).
        others: the networks that are to stay below a level.
        layout: which inputs are what.

    Example:
        >>> layout = Layout(own=1, variable=0, equal=True)
        >>> f = Penalised(nn.Linear(2, 1), (), layout)
        >>> one = torch.ones(1, 1, 1, dtype=torch.float64)
        >>> f(torch.zeros(1, 2), 10 * one[0], torch.ones(1, 1, 2).double(), one[0]).shape
        torch.Size([1])
    """

    def __init__(self, f: nn.Module, others: Sequence[nn.Module], layout: Layout) -> None:
        super().__init__()
        self.f = f
        self.others = nn.ModuleList(others)
        self.layout = layout

    def forward(self, *inputs: Tensor) -> Tensor:
        """f and its penalties, (B,) in float64."""
        layout = self.layout
        own, rest = inputs[: layout.own], list(inputs[layout.own :])
        y = own[layout.variable]
        flat = y.flatten(1).double() if y.ndim > 1 else y[:, None].double()
        total = one_number(self.f(*own))
        for start, stop in layout.entropy:
            part = flat[:, start:stop]
            total = total - torch.special.entr(part).sum(1) - torch.special.entr(1 - part).sum(1)
        weights = rest.pop(0).relu()  # which are not negative anyway, and known not to be by this
        outside: list[Tensor] = []
        for there, size in ((layout.below, torch.relu), (layout.equal, torch.abs)):
            if there:
                matrix, right = rest.pop(0), rest.pop(0)
                outside.append(size((matrix @ flat[:, :, None])[:, :, 0] - right))
        for start, stop in layout.balls:
            centre, radius = rest.pop(0), rest.pop(0)
            away = (flat[:, start:stop] - centre).square().sum(1, keepdim=True)
            outside.append(torch.relu(away - radius.square()))
        for network, takes in zip(self.others, layout.others, strict=True):
            level = rest.pop(0)
            if isinstance(takes, int):
                theirs = [*(rest.pop(0) for _ in range(takes)), y]
            else:
                theirs = [own[i] for i in takes]
            outside.append(torch.relu(one_number(network(*theirs))[:, None] - level))
        if outside:
            total = total + (weights * torch.cat(outside, 1)).sum(1)
        return total
