"""A gate that is trained over experts which stay as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.ensembles.learners import Epochs
from convexnet.ensembles.outputs import (
    ROWS,
    as_experts,
    as_gate,
    device_of,
    evaluating,
    log_gate,
    log_probabilities,
    mixed,
    predict,
    stacked,
)
from convexnet.ensembles.samples import inputs_of, samples_of
from convexnet.learner import Point
from convexnet.training import (
    check_counts,
    check_rate,
    derived_seed,
    go_back,
    optimiser_of,
    snapshot,
)


class GateTraining(Epochs):
    """Training of a gate over frozen experts: a learner.

    The loss is -Σ_i w_i log Σ_j g_j(x_i) p_j(y_i | x_i). What the experts compute in eval mode is computed once; the
    experts are neither changed nor marked as frozen.

    Args:
        experts: modules (B, ...) -> (B, K) or (B,).
        gate: a module (B, ...) -> (B, experts), trained in place.
        x: inputs (N, ...).
        y: classes (N,).
        epochs: passes over the samples.
        batch: samples in a step of the optimiser.
        learning_rate: of Adam, at the beginning; it falls to 0 along a cosine.
        sample_weight: (N,), not negative; scaled to a mean of 1.
        seed: of the order of the samples, and of dropout.

    Points: `epoch`, `gate_loss` (its mean while the epoch went on), `gate_accuracy` of the mixture on the samples in
        eval mode, `experts_used`. `remarks` names a gate that collapses.

    Raises:
        ValueError, TypeError: wrong arguments.

    Source: Sivaprasad et al. 2021, section 3.3.

    Example:
        >>> from convexnet.learner import run
        >>> learner = GateTraining([nn.Linear(1, 1)], nn.Linear(1, 1), torch.tensor([[-1.0], [1.0]]), [0, 1], epochs=1)
        >>> [point["experts_used"] for point in run(learner)]
        [1.0]
    """

    def __init__(
        self,
        experts: Iterable[nn.Module],
        gate: nn.Module,
        x: Any,
        y: Any,
        *,
        epochs: int = 20,
        batch: int = 128,
        learning_rate: float = 1e-3,
        sample_weight: Any = None,
        seed: int = 0,
    ) -> None:
        check_counts(epochs=epochs, batch=batch)
        check_rate(learning_rate)
        members = as_experts(experts)
        inputs = inputs_of(x, members)
        gate = as_gate(gate)
        found = log_probabilities(stacked([predict(expert, inputs) for expert in members]))
        self.samples = samples_of(inputs, y, sample_weight, found.shape[2])
        self.experts, self.gate, self.device = found, gate, device_of(gate)
        with evaluating(gate):
            log_gate(gate, self.samples.x[:1].to(self.device), len(members))
        self.epochs, self.batch, self.seed, self.top = epochs, batch, seed, float(learning_rate)
        self.optimiser = optimiser_of(gate, self.top)
        self.remarks = []

    @property
    def done(self) -> bool:
        """Return whether the epochs are over."""
        return self.epoch >= self.epochs

    def state(self) -> dict[str, Any]:
        """Return all that it needs to continue."""
        where = [self.epoch, self.position, self.most_used]
        kept = snapshot(self.gate, self.optimiser)
        return {**kept, "where": where, "sum": self.sum, "remarks": list(self.remarks)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state()`."""
        go_back(self.gate, self.optimiser, state)
        self.epoch, self.position, self.most_used = state["where"]
        self.sum, self.remarks = state["sum"], list(state["remarks"])

    @property
    def model(self) -> nn.Module:
        """Return the gate."""
        return self.gate

    @property
    def name(self) -> str:
        """Return what an error calls it."""
        return "the gate"

    def seed_for(self, what: str, *where: int) -> int:
        """Return the seed of what is drawn somewhere."""
        return derived_seed(self.seed, f"gate {what}", *where)

    def loss_of(self, rows: Tensor, device: torch.device) -> Tensor:
        """Return the weighted mean loss of a batch."""
        gates = log_gate(self.gate, self.samples.x[rows].to(device), self.experts.shape[1])
        chosen = self.experts[rows, :, self.samples.y[rows]].to(gates)
        losses = -torch.logsumexp(gates + chosen, 1)
        return (losses * self.samples.weights[rows].to(gates)).mean()

    def ended(self) -> Point:
        """Close an epoch, and measure."""
        parts = self.samples.x.split(ROWS)
        with evaluating(self.gate):
            gates = torch.cat([log_gate(self.gate, x.to(self.device), self.experts.shape[1]).cpu() for x in parts])
        right = mixed(gates, self.experts).argmax(1) == self.samples.y
        loss = self.close_epoch()
        return {
            "epoch": float(self.epoch),
            "gate_loss": loss,
            "gate_accuracy": float(right.double().mean()),
            "experts_used": float(self.count_used(gates, f"(first in epoch {self.epoch})")),
        }
