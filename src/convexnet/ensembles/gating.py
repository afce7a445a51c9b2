"""A gate that is trained over experts which stay as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.ensembles.outputs import (
    ROWS,
    as_experts,
    device_of,
    evaluating,
    log_gate,
    log_probabilities,
    predict,
)
from convexnet.ensembles.samples import inputs_of, samples_of
from convexnet.ensembles.training import (
    Slices,
    batches,
    check_counts,
    check_rate,
    cosine,
    derived_seed,
    drawing,
    go_back,
    optimiser_of,
    snapshot,
    train_mode,
)
from convexnet.learner import Point


class GateTraining(Slices):
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
        if not isinstance(gate, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"the gate must be an nn.Module, not {type(gate).__name__}")
        logits = [predict(expert, inputs) for expert in members]
        widths = sorted({each.shape[1] for each in logits})
        if len(widths) > 1:
            raise ValueError(f"the experts have {widths} outputs: an ensemble needs the same number")
        found = log_probabilities(torch.stack(logits, 1))
        self.samples = samples_of(inputs, y, sample_weight, found.shape[2])
        self.experts, self.gate, self.device = found, gate, device_of(gate)
        with evaluating(gate):
            log_gate(gate, self.samples.x[:1].to(self.device), len(members))
        self.epochs, self.batch, self.seed, self.top = epochs, batch, seed, float(learning_rate)
        self.optimiser = optimiser_of(gate, self.top)
        self.remarks = []
        self.epoch, self.position, self.sum, self.most_used = 0, 0, 0.0, 1

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

    def unit(self) -> Point | None:
        """Take one step; the measurements of an epoch, where it ends one."""
        parts = batches(len(self.samples), self.batch, derived_seed(self.seed, "gate order", self.epoch))
        rows = parts[self.position]
        done = self.epoch + self.position / len(parts)
        for group in self.optimiser.param_groups:
            group["lr"] = cosine(self.top, done / self.epochs)
        train_mode(self.gate)
        with drawing(derived_seed(self.seed, "gate draws", self.epoch, self.position), self.device):
            gates = log_gate(self.gate, self.samples.x[rows].to(self.device), self.experts.shape[1])
            chosen = self.experts[rows, :, self.samples.y[rows]].to(gates)
            losses = -torch.logsumexp(gates + chosen, 1)
            loss = (losses * self.samples.weights[rows].to(gates)).mean()
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
        self.sum += float(loss.detach()) * len(rows)
        self.position += 1
        return self.measured() if self.position == len(parts) else None

    def measured(self) -> Point:
        """Close an epoch, and measure."""
        with evaluating(self.gate):
            gates = torch.cat(
                [log_gate(self.gate, part.to(self.device), self.experts.shape[1]).cpu() for part in self.x_parts()]
            )
        right = torch.logsumexp(gates[:, :, None] + self.experts, 1).argmax(1) == self.samples.y
        used = sorted(set(gates.argmax(1).tolist()))
        loss = self.sum / len(self.samples)
        if loss != loss or loss == float("inf"):
            raise ValueError(f"the loss of the gate is {loss} in epoch {self.epoch + 1}: try a smaller learning_rate")
        self.epoch, self.position, self.sum = self.epoch + 1, 0, 0.0
        # A gate may begin so and learn: it has collapsed if it has known better, or ends so.
        self.most_used = max(self.most_used, len(used))
        if gates.shape[1] > 1 and len(used) == 1 and (self.most_used > 1 or self.done):
            self.remark(
                "the gate collapses:", f"it prefers expert {used[0]} for all samples (first in epoch {self.epoch})"
            )
        return {
            "epoch": float(self.epoch),
            "gate_loss": loss,
            "gate_accuracy": float(right.double().mean()),
            "experts_used": float(len(used)),
        }

    def x_parts(self) -> tuple[Tensor, ...]:
        """Return the inputs, some rows at a time."""
        return self.samples.x.split(ROWS)
