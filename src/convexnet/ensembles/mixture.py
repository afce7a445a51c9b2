"""A mixture of experts with a gate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from convexnet.ensembles.certificates import GATED, Certificates, certificates_of
from convexnet.ensembles.em import ExpectationMaximisation
from convexnet.ensembles.outputs import (
    as_experts,
    as_gate,
    evaluating,
    gated,
    joint,
    log_gate,
    log_probabilities,
    logits_of_all,
    oracle_accuracy,
)
from convexnet.learner import Point, run
from convexnet.training import History, nothing


class MixtureOfExperts(nn.Module):
    """p(k | x) = Σ_j g_j(x) p_j(k | x): experts whose probabilities a gate averages, with weights that depend on x.

    **The mixture is not convex in x**, whatever its experts are: it is a convex combination with weights that depend on
    the input. What can be certified are the experts, `certificates` does it, and one convex function made of them is
    `fuse`. Experts with one output are binary classifiers, p_j(1 | x) = sigmoid(f_j(x)); if f_j is convex, the samples
    it gives to class 0 form a convex set. Experts with K outputs have p_j = softmax(f_j(x)).

    Args:
        experts: modules (B, ...) -> (B, 1) or (B,), or all (B, K). They are held, not copied.
        gate: a module (B, ...) -> (B, experts); its softmax is g. It need not be convex.

    Shape: (B, ...) -> the logit (B, 1) of class 1, or log-probabilities (B, K).

    Raises:
        TypeError, ValueError: no experts, one module twice, or, when called, outputs that do not fit together.

    Source: Jacobs, Jordan, Nowlan & Hinton, Adaptive Mixtures of Local Experts (1991); with convex experts:
        Sivaprasad et al. 2021, section 3.3.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> x = torch.linspace(-1, 1, 40)[:, None]
        >>> y = (x[:, 0].abs() > 0.5).long()
        >>> mixture = MixtureOfExperts([nn.Linear(1, 1), nn.Linear(1, 1)], nn.Linear(1, 2))
        >>> history = mixture.fit_em(x, y, iterations=30, learning_rate=0.3)
        >>> history.log_likelihood == sorted(history.log_likelihood)
        True
        >>> bool(((mixture(x)[:, 0] > 0) == y.bool()).float().mean() > 0.9)  # no single line does that
        True
    """

    def __init__(self, experts: Iterable[nn.Module], gate: nn.Module) -> None:
        super().__init__()
        self.experts = as_experts(experts)
        self.gate = as_gate(gate)

    def log_parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log g (B, experts) and log p (B, experts, classes)."""
        return log_gate(self.gate, x, len(self.experts)), log_probabilities(logits_of_all(self.experts, x))

    def forward(self, x: Tensor) -> Tensor:
        return gated(self.experts, self.gate, x)

    def gates(self, x: Tensor) -> Tensor:
        """Return g(x), (B, experts), in eval mode and without gradients.

        Example:
            >>> import torch
            >>> MixtureOfExperts([nn.Linear(1, 1)], nn.Linear(1, 1)).gates(torch.zeros(2, 1))
            tensor([[1.],
                    [1.]])
        """
        with evaluating(self.gate):
            return log_gate(self.gate, x, len(self.experts)).exp()

    def responsibilities(self, x: Tensor, y: Tensor) -> Tensor:
        """Return p(j | x, y) = g_j(x) p_j(y | x) / Σ_i g_i(x) p_i(y | x), (B, experts), in eval mode.

        Example:
            >>> import torch
            >>> pair = MixtureOfExperts([nn.Linear(1, 1), nn.Linear(1, 1)], nn.Linear(1, 2))
            >>> pair.responsibilities(torch.zeros(3, 1), torch.tensor([0, 1, 1])).sum(1).allclose(torch.ones(3))
            True
        """
        with evaluating(self):
            return joint(*self.log_parts(x), y).softmax(1)

    def certificates(self, example: Tensor) -> Certificates:
        """Certify each expert, and say what the mixture itself is.

        Args:
            example: inputs (B, ...), of which only shape and type matter.
        """
        return certificates_of(self.experts, example, GATED)

    def oracle_accuracy(self, x: Tensor, y: Tensor) -> float:
        """Return the share of samples (N, ...) with classes (N,) that at least one expert classifies correctly."""
        return oracle_accuracy(self.experts, x, y)

    def fit_em(
        self,
        x: Any,
        y: Any,
        *,
        iterations: int = 50,
        passes: int = 1,
        batch: int = 128,
        learning_rate: float = 1e-3,
        penalty: float = 0.0,
        sample_weight: Any = None,
        patience: int = 3,
        seed: int = 0,
        tick: Callable[[Point], object] | None = None,
    ) -> History:
        """Train experts and gate by generalised EM, in place; the model is in eval mode afterwards.

        The arguments are those of `ExpectationMaximisation`, which a driver with checkpoints runs in pieces.

        Returns:
            A history with `log_likelihood`, one value an iteration, that never falls.
        """
        learner = ExpectationMaximisation(
            self,
            x,
            y,
            iterations=iterations,
            passes=passes,
            batch=batch,
            learning_rate=learning_rate,
            penalty=penalty,
            sample_weight=sample_weight,
            patience=patience,
            seed=seed,
        )
        points = run(learner, tick or nothing)
        self.eval()
        return History(points, tuple(learner.remarks))
