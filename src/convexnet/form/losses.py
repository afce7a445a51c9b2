"""How the losses of PyTorch are written with atoms, entry by entry: what is reduced is reduced over samples too.

Sources: the formulas of PyTorch's documentation. Targets and weights do not depend on the variable, as the rules of the
calculus ask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from convexnet.curvature.call import Refusal
from convexnet.form.atoms import Smooth
from convexnet.form.grouped import LogSumExp
from convexnet.form.rows import Atoms, Row, argument, atom_over_dims
from convexnet.form.smooth import exponential, huber, minus_log, softplus, square


def loss(row: Callable[[Atoms, Sequence[Any], dict[str, Any]], Any], reduction: int = 2) -> Row:
    """The row of a loss whose argument of this number says how it is reduced."""

    def lowered(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if argument(args, kwargs, reduction, "reduction", 1) != 0:
            raise Refusal("it adds up samples", "use reduction='none', and add up each sample")
        return row(z, args, kwargs)

    return lowered


def squared_error(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    return z(args[0] - args[1], Smooth(square()))


def absolute_error(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    return z(args[0] - args[1], -1.0)


def huber_loss(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    delta = float(argument(args, kwargs, 3, "delta", 1.0))
    return delta**2 * z((args[0] - args[1]) * (1 / delta), Smooth(huber()))


def smooth_l1(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    beta = float(argument(args, kwargs, 3, "beta", 1.0))
    if beta == 0:
        return absolute_error(z, args, kwargs)
    return beta * z((args[0] - args[1]) * (1 / beta), Smooth(huber()))


def poisson(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """exp(x) - t x, or x - t log(x + eps), and Stirling's terms for t > 1."""
    x, t = args[:2]
    if args[2]:
        out = z(x, Smooth(exponential())) - x * t
    else:
        out = x + z(x + float(args[4]), Smooth(minus_log())) * t
    if args[3]:
        out = out + torch.where(t > 1, t * t.log() - t + 0.5 * (2 * math.pi * t).log(), 0.0)
    return out


def soft_margin(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """log(1 + exp(-y x))."""
    return z(args[0] * (-1.0 * args[1]), Smooth(softplus(1.0)))


def hinge_embedding(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """x where y is 1, relu(margin - x) where it is -1; the sum of both where it is neither."""
    x, y, margin = args[0], args[1], float(argument(args, kwargs, 2, "margin", 1.0))
    return z(margin - x) * (y != 1).to(y.dtype) + x * (y != -1).to(y.dtype)


def margin_ranking(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """relu(margin - y (a - b))."""
    return z((args[1] - args[0]) * args[2] + float(argument(args, kwargs, 3, "margin", 0.0)))


def binary_cross_entropy(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """w ((1 - t) x + (1 - t + p t) log(1 + exp(-x)))."""
    x, t = args[:2]
    weight, positive = argument(args, kwargs, 2, "weight"), argument(args, kwargs, 3, "pos_weight")
    factor = 1.0 + (0.0 if positive is None else positive - 1) * t
    out = x * (1 - t) + z(-x, Smooth(softplus(1.0))) * factor
    return out if weight is None else out * weight


def cross_entropy(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Σ c log-sum-exp(x) - Σ c x, for the probability of each class times its weight in place of c."""
    x, target, weight = args[0], args[1], argument(args, kwargs, 2, "weight")
    ignored, smoothing = int(argument(args, kwargs, 4, "ignore_index", -100)), argument(args, kwargs, 5, "", 0.0)
    if x.ndim < 2:
        raise Refusal("it is of one sample without a batch", "keep the batch first")
    check_batch(x, target)
    count = x.shape[1]
    smoothing = float(kwargs.get("label_smoothing", smoothing))
    if target.ndim == x.ndim:  # probabilities; labels have no dimension of classes, and may have become float64 here
        share = target
        kept = torch.ones_like(target)
    else:
        share = one_hot(target, count).movedim(-1, 1)
        kept = (target != ignored).to(share).unsqueeze(1)
    share = kept * ((1 - smoothing) * share + smoothing / count)
    if weight is not None:
        share = share * weight.reshape(-1, *[1] * (x.ndim - 2))
    return atom_over_dims(z, LogSumExp, x, [1], keepdim=False) * share.sum(1) - (x * share).sum([1], keepdim=False)


def check_batch(x: Any, target: Tensor) -> None:
    """Refuse to broadcast, as the operators do: a tensor of labels may be one for each sample of a batch."""
    if target.shape[0] != x.shape[0]:
        raise RuntimeError(f"there are {target.shape[0]} targets for {x.shape[0]} samples")


def one_hot(labels: Tensor, count: int) -> Tensor:
    """(..., count); a label that is none of them is nothing."""
    return (labels.unsqueeze(-1) == torch.arange(count, device=labels.device)).double()


def multi_margin(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The average over classes of w relu(margin - x_label + x_j)^p, for p 1 or 2."""
    x, labels = args[:2]
    p, margin = int(argument(args, kwargs, 2, "p", 1)), float(argument(args, kwargs, 3, "margin", 1.0))
    weight = argument(args, kwargs, 4, "weight")
    if x.ndim != 2:
        raise Refusal("it is of one sample without a batch", "keep the batch first")
    check_batch(x, labels)
    right = one_hot(labels, x.shape[1])
    hinge = z(margin + x - (x * right).sum([1], keepdim=True))
    hinge = z(hinge, Smooth(square())) if p == 2 else hinge
    factor = (1 - right) / x.shape[1]
    factor = factor if weight is None else factor * weight[labels.long()][:, None]
    return (hinge * factor).sum([1], keepdim=False)
