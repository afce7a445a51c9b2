"""Losses that resist wrong labels, by name: for ordinary and convex networks alike, as none asks for convexity.

`loss_named` reads a name with its numbers ("gce:0.7"); `convexnet.lab.runs.tasks.classification` takes what it returns.
Each docstring has the formula, its paper, and the numbers that are taken there for CIFAR-10, which are the defaults.
The formulas are those of the authors' published code where there is some (symmetric cross-entropy, early-learning
regularisation); tests compare each with the same formula written in NumPy. Label smoothing is the recipe's `smoothing`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from convexnet.errors import meant

LOSSES: Mapping[str, tuple[float, ...]] = {
    "cross-entropy": (),
    "gce": (0.7,),
    "sce": (0.1, 1.0),
    "elr": (3.0, 0.7),
}
"""The names, and the numbers of their papers."""

LOG_OF_ZERO = -4.0
"""A of symmetric cross-entropy: what stands for log 0. Another value is another beta, which A multiplies."""

CLIPPED = 1e-4
"""Probabilities of early-learning regularisation stay so far from 0 and 1, as in the authors' code."""


class Memory(Protocol):
    """A loss that remembers something of each training sample, and so has a state."""

    def __call__(self, outputs: Tensor, targets: Tensor, rows: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean loss of outputs (N, K) for labels (N,) of the training samples `rows` (N,)."""
        ...

    def state(self) -> dict[str, Any]:
        """All that it remembers."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Remember what a `state()` has."""
        ...


Each = Callable[[Tensor, Tensor], Tensor]
"""Losses (N,) of logits (N, K), K of 2 or more, for labels (N,)."""


def loss_named(text: str) -> tuple[str, tuple[float, ...]]:
    """The name of a loss and its numbers, which may follow after a colon.

    Raises:
        ValueError: there is no such loss, or its numbers are not those it can have.

    Example:
        >>> loss_named("gce"), loss_named("elr:1,0.9")
        (('gce', (0.7,)), ('elr', (1.0, 0.9)))
    """
    name, colon, written = text.partition(":")
    if name not in LOSSES:
        raise ValueError(f"there is no loss {name!r}{meant(name, LOSSES)}; there are {', '.join(LOSSES)}")
    numbers = LOSSES[name]
    if colon:
        try:
            given = tuple(float(number) for number in written.split(","))
        except ValueError:
            given = ()
        if not numbers or len(given) != len(numbers):
            asked = f"{len(numbers)} number{'' if len(numbers) == 1 else 's'}" if numbers else "no number"
            raise ValueError(f"the loss {name} takes {asked} after its colon, not {written!r}")
        numbers = given
    check(name, numbers)
    return name, numbers


def check(name: str, numbers: tuple[float, ...]) -> None:
    """Refuse numbers outside the range that a loss has; NaN does not pass."""
    if name == "gce" and not 0 < numbers[0] <= 1:
        raise ValueError(f"q of gce is above 0 and at most 1, not {numbers[0]:g}: towards 0 it is cross-entropy")
    if name == "sce" and not (0 <= numbers[0] < float("inf") and 0 <= numbers[1] < float("inf") and any(numbers)):
        raise ValueError(f"alpha and beta of sce are at least 0, and not both 0, not {numbers[0]:g} and {numbers[1]:g}")
    if name == "elr" and not (0 <= numbers[0] < float("inf") and 0 <= numbers[1] < 1):
        raise ValueError(
            f"lambda of elr is at least 0 and beta in [0, 1), not {numbers[0]:g} and {numbers[1]:g}: beta is the share "
            "of its memory that is kept"
        )


SMOOTHED = 0.1
"""Of labels that are smoothed, where no number is given."""


def settings_of(text: str) -> dict[str, Any]:
    """What a recipe says of a loss that is asked for by name, label smoothing among them.

    Raises:
        ValueError: as `loss_named`.

    Labels smoothed by a share e are (1 - e) [k = y] + e / K. Source: Szegedy et al., Rethinking the Inception
    Architecture for Computer Vision (CVPR 2016), on label smoothing; its e is 0.1.

    Example:
        >>> settings_of("label-smoothing"), settings_of("gce:0.5")
        ({'smoothing': 0.1}, {'loss': 'gce:0.5'})
    """
    name, colon, written = text.partition(":")
    if name != "label-smoothing":
        loss_named(text)
        return {"loss": text}
    try:
        share = float(written) if colon else SMOOTHED
    except ValueError:
        share = float("nan")
    if not 0 <= share < 1:
        raise ValueError(f"labels are smoothed by a share in [0, 1), not {written!r}")
    return {"smoothing": share}


def generalised(q: float) -> Each:
    """Generalised cross-entropy: (1 - p_y^q) / q.

    Towards q = 0 it is cross-entropy, and at q = 1 the mean absolute error up to a factor. Source: Zhang & Sabuncu,
    Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels (NeurIPS 2018); its q is 0.7. The
    truncated loss of the same paper, which leaves samples of a large loss out, is not here.

    Example:
        >>> float(generalised(1.0)(torch.zeros(1, 4), torch.tensor([2])))
        0.75
    """

    def losses(logits: Tensor, labels: Tensor) -> Tensor:
        log = picked(logits.log_softmax(1), labels)
        return -torch.expm1(q * log) / q

    return losses


def symmetric(alpha: float, beta: float) -> Each:
    """Symmetric cross-entropy: alpha (-log p_y) + beta (-sum_k p_k log [k = y]), with A in place of log 0.

    The second term is -A (1 - p_y), so that A only scales beta. Source: Wang et al., Symmetric Cross Entropy for Robust
    Learning with Noisy Labels (ICCV 2019); on CIFAR-10 alpha is 0.1 and beta 1. A is -4 here, as in reimplementations
    that name the paper; the authors' code clips the labels at 1e-4, so that its A is log 1e-4 = -9.21, which is
    `sce:0.1,2.3026` here.

    Example:
        >>> float(symmetric(0.0, 1.0)(torch.zeros(1, 4), torch.tensor([2])))
        3.0
    """

    def losses(logits: Tensor, labels: Tensor) -> Tensor:
        log = picked(logits.log_softmax(1), labels)
        return -alpha * log + beta * LOG_OF_ZERO * torch.expm1(log)

    return losses


class EarlyLearning:
    """Early-learning regularisation: -log p_y + lambda log(1 - <p, t>), t being what was predicted before.

    Each training sample has a target t of its own, 0 at first; whenever it is seen, t <- beta t + (1 - beta) p, and
    then the loss is computed, through p alone. Probabilities are clipped to [1e-4, 1 - 1e-4], and those that enter t
    are divided by their sum, as the authors' code does. Source: Liu et al., Early-Learning Regularization Prevents
    Memorization of Noisy Labels (NeurIPS 2020), and its code, whose settings for CIFAR-10 are lambda 3 and beta 0.7.

    Args:
        samples: of the training part.
        strength: lambda.
        kept: beta.

    Example:
        >>> import math
        >>> loss = EarlyLearning(2, strength=1.0, kept=0.5)
        >>> found = loss(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([1]))  # t is (1/4, 1/4) after that
        >>> bool(abs(found - (math.log(2) + math.log(1 - 0.25))) < 1e-6), loss.targets[0].tolist()
        (True, [0.0, 0.0])
    """

    def __init__(self, samples: int, strength: float = 3.0, kept: float = 0.7) -> None:
        self.samples, self.strength, self.kept = samples, strength, kept
        self.targets = torch.zeros(samples, 0)

    def __call__(self, outputs: Tensor, targets: Tensor, rows: Tensor, weights: Tensor | None = None) -> Tensor:
        logits = two_or_more(outputs)
        if self.targets.shape[1] == 0:
            self.targets = logits.new_zeros(self.samples, logits.shape[1], dtype=torch.float32)
        if self.targets.device != logits.device:
            self.targets = self.targets.to(logits.device)
        likely = logits.softmax(1).clamp(CLIPPED, 1 - CLIPPED)
        with torch.no_grad():
            seen = likely / likely.sum(1, keepdim=True)
            self.targets[rows] = self.kept * self.targets[rows] + (1 - self.kept) * seen.float()
        agreed = (self.targets[rows].to(likely.dtype) * likely).sum(1)
        losses = functional.cross_entropy(logits, targets, reduction="none")
        return averaged(losses + self.strength * torch.log1p(-agreed), weights)

    def state(self) -> dict[str, Any]:
        return {"targets": self.targets}

    def restore(self, state: dict[str, Any]) -> None:
        self.targets = state["targets"].clone()


def picked(values: Tensor, labels: Tensor) -> Tensor:
    """The value (N,) of each row of (N, K) at its label."""
    return values.gather(1, labels[:, None])[:, 0]


def two_or_more(outputs: Tensor) -> Tensor:
    """Logits (N, K) with K of 2 or more: a single one f stands for (0, f), whose softmax is its sigmoid."""
    return torch.cat([torch.zeros_like(outputs), outputs], 1) if outputs.shape[1] == 1 else outputs


def averaged(losses: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of losses (N,), each counted by its weight."""
    return losses.mean() if weights is None else (losses * weights).mean()
