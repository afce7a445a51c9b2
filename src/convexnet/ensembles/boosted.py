"""Boosted experts: their weighted vote, or a gate over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convexnet.ensembles.certificates import GATED, VOTING, Certificates, certificates_of
from convexnet.ensembles.gating import GateTraining
from convexnet.ensembles.outputs import as_experts, gated, logits_of_all, oracle_accuracy
from convexnet.ensembles.samples import is_weighting
from convexnet.learner import Point, run
from convexnet.training import History, nothing


class Boosted(nn.Module):
    """Experts that were boosted: the weighted vote of SAMME, or, with a gate, a mixture of their probabilities.

    **Neither is convex in x**: votes jump, and a gate's weights depend on the input. `certificates` certifies the
    experts; `fuse(boosted.experts, weights=boosted.weights)` is a convex ensemble of them.

    Args:
        experts: modules (B, ...) -> (B, K), or (B, 1) or (B,) for two classes. They are held, not copied.
        weights: (experts,), the α of SAMME, not negative.
        gate: a module (B, ...) -> (B, experts), or None for the vote.

    Shape: (B, ...) -> with a gate log-probabilities (B, K), or the logit (B, 1) of experts with one output. Without
        one, the share of the votes of each class (B, K), or of class 1 less class 0 (B, 1). The class is the largest,
        or the sign.

    Attributes:
        history: of `boost`, with what it remarked; None otherwise.

    Example:
        >>> up, down = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> _ = up.weight.data.fill_(1.0), down.weight.data.fill_(-1.0), up.bias.data.zero_(), down.bias.data.zero_()
        >>> Boosted([up, down], [3.0, 1.0])(torch.tensor([[2.0], [-2.0]]))
        tensor([[ 0.5000],
                [-0.5000]])
    """

    weights: Tensor

    def __init__(
        self, experts: Iterable[nn.Module], weights: Sequence[float] | Tensor, gate: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.experts = as_experts(experts)
        found = torch.as_tensor(weights, dtype=torch.float32).detach().clone()
        if found.shape != (len(self.experts),):
            raise ValueError(f"weights have the shape {tuple(found.shape)}, and there are {len(self.experts)} experts")
        if not is_weighting(found):
            raise ValueError("weights must be finite and not negative, and one of them positive")
        if gate is not None and not isinstance(gate, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"the gate must be an nn.Module or None, not {type(gate).__name__}")
        self.register_buffer("weights", found)
        self.gate = gate
        self.history: History | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is not None:
            return gated(self.experts, self.gate, x)
        logits = logits_of_all(self.experts, x)
        shares = (self.weights / self.weights.sum()).to(logits)[:, None]
        if logits.shape[2] == 1:
            return ((2 * (logits > 0).to(logits) - 1) * shares).sum(1)
        return (F.one_hot(logits.argmax(2), logits.shape[2]).to(logits) * shares).sum(1)

    def fit_gate(
        self,
        gate: nn.Module,
        x: Any,
        y: Any,
        *,
        epochs: int = 20,
        batch: int = 128,
        learning_rate: float = 1e-3,
        sample_weight: Any = None,
        seed: int = 0,
        tick: Callable[[Point], object] | None = None,
    ) -> History:
        """Train a gate over the experts, which stay as they are, and decide by it from then on.

        The arguments are those of `GateTraining`, which a driver with checkpoints runs in pieces.
        """
        settings: dict[str, Any] = {"epochs": epochs, "batch": batch, "learning_rate": learning_rate}
        learner = GateTraining(self.experts, gate, x, y, sample_weight=sample_weight, seed=seed, **settings)
        points = run(learner, tick or nothing)
        self.gate = gate.eval()
        return History(points, tuple(learner.remarks))

    def certificates(self, example: Tensor) -> Certificates:
        """Certify each expert, and say what the ensemble itself is.

        Args:
            example: inputs (B, ...), of which only shape and type matter.
        """
        return certificates_of(self.experts, example, VOTING if self.gate is None else GATED)

    def oracle_accuracy(self, x: Tensor, y: Tensor) -> float:
        """Return the share of samples (N, ...) with classes (N,) that at least one expert classifies correctly."""
        return oracle_accuracy(self.experts, x, y)
