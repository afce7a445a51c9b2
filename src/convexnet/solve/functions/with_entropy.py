"""A convex function plus the entropy of its coordinates, over the unit cube.

    F(y) = f(y) + Σ y log y + (1 − y) log(1 − y),    0 <= y <= 1.

The least value of an affine function plus the entropy is known in closed form: of g y + b it is b − Σ log(1 + exp(−g)),
at y = 1 / (1 + exp(g)). So whatever lies below f makes a lower bound of F, and only f is ever replaced by planes.

Source: Amos, Xu & Kolter (2017), section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convexnet.solve.functions.problem import Problem


def entropy(y: Tensor) -> Tensor:
    """Σ y log y + (1 − y) log(1 − y) of points (B, n) of the unit cube, (B,).

    Example:
        >>> entropy(torch.tensor([[0.0, 1.0], [0.5, 0.5]])).tolist()
        [-0.0, -1.3862943649291992]
    """
    return -(torch.special.entr(y) + torch.special.entr(1 - y)).sum(1)


def lowest_point(g: Tensor) -> Tensor:
    """Where g y plus the entropy is least, (B, n).

    Example:
        >>> lowest_point(torch.tensor([[0.0, 1000.0, -1000.0]])).tolist()
        [[0.5, 0.0, 1.0]]
    """
    return torch.sigmoid(-g)


class WithEntropy:
    """F for each sample of a batch; `plain` is f, whose tangents are asked for.

    Args:
        plain: the functions without the entropy, as solvers see them.
    """

    piecewise_linear = False

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    @property
    def batch(self) -> int:
        """B."""
        return self.plain.batch

    @property
    def size(self) -> int:
        """n."""
        return self.plain.size

    def value(self, y: Tensor) -> Tensor:
        """F(y), (B,), at points of the cube (B, n)."""
        return self.plain.value(y) + entropy(y)

    def rows(self, index: Tensor) -> WithEntropy:
        """The functions of some samples."""
        return WithEntropy(self.plain.rows(index))


@dataclass(frozen=True)
class EntropyProblem(Problem):
    """min F(y) over the unit cube: f is a `WithEntropy`, and `exact` the function without the entropy."""

    def proved_minimum(self, g: Tensor, b: Tensor, at: Tensor | None = None) -> Tensor:
        """The least value of g y + b plus the entropy, where g y + b lies below the function without it, (B,).

        Args:
            at: not used: nothing is known of curvature but that of the entropy.

        Example:
            >>> zero = torch.zeros(1, 2)
            >>> EntropyProblem(None, zero, zero + 1).proved_minimum(zero, zero[:, 0]).tolist()
            [-1.3862943649291992]
        """
        return b + torch.nn.functional.logsigmoid(g).sum(1)
