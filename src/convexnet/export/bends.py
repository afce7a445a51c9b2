"""The functions that bend: what a network is made of besides affine maps, as far as a solver can be told.

Each is convex, and a row of `BENDS`. Operators are written with them in `operators`; what a bend is to CVXPY stands in
`atom`, and to a linear program in `linear_program`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Setting = float | Tensor


@dataclass(frozen=True)
class Bend:
    """A convex function of each element, or of each group of elements.

    Attributes:
        value: (a, setting) -> the function, over the last dimension of a (..., m, g); results are (..., m).
        rising: whether it is non-decreasing in every element, at this setting: a boolean for each result, or one.
            Where it is not, it is so for elements that are not negative.
        nonneg: whether it is never negative, likewise.
        cones: what a conic solver must know besides linear inequalities: "exp", "soc" or neither.
    """

    value: Callable[[Tensor, Setting], Tensor]
    rising: Callable[[Setting], bool | Tensor]
    nonneg: Callable[[Setting], bool | Tensor]
    cones: str = ""

    @property
    def piecewise_linear(self) -> bool:
        """Whether a linear program can hold it."""
        return not self.cones


def always(answer: bool) -> Callable[[Setting], bool]:
    return lambda _: answer


def kink(a: Tensor, slope: Setting) -> Tensor:
    return torch.maximum(slope * a[..., 0], a[..., 0])


def elu(a: Tensor, alpha: Setting) -> Tensor:
    return torch.where(a[..., 0] > 0, a[..., 0], alpha * a[..., 0].clamp(max=0).expm1())


BENDS: dict[str, Bend] = {
    # max(s a, a) for a slope s <= 1
    "kink": Bend(kink, lambda slope: torch.as_tensor(slope) >= 0, lambda slope: torch.as_tensor(slope) <= 0),
    "largest": Bend(lambda a, _: a.amax(-1), always(True), always(False)),
    "exp": Bend(lambda a, _: a[..., 0].exp(), always(True), always(True), "exp"),
    # log(1 + exp a), in real arithmetic: without PyTorch's threshold, above which it is a
    "softplus": Bend(lambda a, _: F.softplus(a[..., 0], threshold=1000.0), always(True), always(True), "exp"),
    # a for a > 0 and alpha (exp(a) - 1) elsewhere, 0 <= alpha <= 1
    "elu": Bend(elu, always(True), always(False), "exp"),
    "logsumexp": Bend(lambda a, _: a.logsumexp(-1), always(True), always(False), "exp"),
    "square": Bend(lambda a, _: a[..., 0].square(), always(False), always(True), "soc"),
    "norm": Bend(lambda a, _: a.norm(dim=-1), always(False), always(True), "soc"),
}
"""By name: the functions, and what holds for them."""
