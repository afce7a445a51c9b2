"""Generalised EM for mixtures of experts, whose likelihood never falls."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from convexnet.ensembles.learners import Slices
from convexnet.ensembles.outputs import ROWS, device_of, evaluating, joint
from convexnet.ensembles.samples import inputs_of, samples_of
from convexnet.learner import Point
from convexnet.training import (
    batches,
    check_counts,
    check_rate,
    derived_seed,
    descend,
    go_back,
    keeps_statistics,
    optimiser_of,
    penalised,
    snapshot,
    total,
)

if TYPE_CHECKING:
    from convexnet.ensembles.mixture import MixtureOfExperts

EMPTY = 0.5
"""An expert whose responsibilities add up to less than half a sample receives no data."""


class ExpectationMaximisation(Slices):
    """Generalised EM for a `MixtureOfExperts`: a learner.

    An iteration computes the responsibilities r_ij of the experts in eval mode (E), then takes `passes` passes of
    Adam over the samples, in training mode, on Q = Σ_i w_i Σ_j r_ij [log g_j(x_i) + log p_j(y_i | x_i)] (M). After it
    the penalised log-likelihood of all samples is evaluated in eval mode. A step that lowers it, or makes it NaN, is
    undone, the statistics of BatchNorm and the optimiser included, and tried again at half the rate; after `HALVINGS`
    of these the iteration changes nothing. So the likelihood never falls, also under dropout, BatchNorm and
    constraints, where the M-step alone promises nothing; it is evaluated in the type of the mixture, and to its
    rounding. The next iteration begins with twice the rate of a step that was not undone, at most the given one.

    The running statistics of BatchNorm move in training mode at any rate, 0 included, so that no smaller one would
    mend a step that they spoil. The first repetition therefore keeps the rate and holds the statistics as they are;
    the further ones hold them too.

    What is constrained (by `constrain`, `convexify`, or a layer of `convexnet.nn`) is projected after every step.

    Args:
        mixture: trained in place.
        x: inputs (N, ...).
        y: classes (N,), 0 or 1 for experts with one output.
        iterations: of EM, at most.
        passes: over all samples, in each M-step.
        batch: samples in a step of the optimiser.
        learning_rate: of Adam, at the beginning and at most.
        penalty: λ of λ/2 ‖θ‖² over all weights of more than one dimension, taken off the mean log-likelihood.
        sample_weight: (N,), not negative; scaled to a mean of 1.
        patience: stop after this many iterations in a row that changed nothing.
        seed: of the order of the samples, and of dropout.

    Points: `iteration`; `log_likelihood`, the mean over samples in nats, less `penalty`; `penalty`, λ/2 ‖θ‖²; `rate` of
        the step that counts, or that was tried last; `undone` steps; `least_share`, the least expert's share of the
        responsibilities; `experts_used`, how many the gate prefers for some sample; `gate_entropy`, its mean in nats.
        `remarks` names experts that receive no data and a gate that collapses.

    Raises:
        ValueError, TypeError: wrong arguments, more experts than samples, a class without samples, outputs that are
            not finite at the beginning.

    Source: Jordan & Jacobs, Hierarchical Mixtures of Experts and the EM Algorithm (1994); that an M-step need only
        raise the likelihood: Dempster, Laird & Rubin (1977), section 2.

    Example:
        >>> from torch import nn
        >>> from convexnet.ensembles import MixtureOfExperts
        >>> from convexnet.learner import run
        >>> mixture = MixtureOfExperts([nn.Linear(1, 1)], nn.Linear(1, 1))
        >>> learner = ExpectationMaximisation(mixture, torch.tensor([[-1.0], [1.0]]), [0, 1], iterations=2)
        >>> [point["iteration"] for point in run(learner)]
        [1.0, 2.0]
    """

    HALVINGS = 10

    def __init__(
        self,
        mixture: MixtureOfExperts,
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
    ) -> None:
        check_counts(iterations=iterations, passes=passes, batch=batch, patience=patience)
        check_rate(learning_rate)
        check_rate(penalty, "penalty", zero=True)
        self.mixture, self.device = mixture, device_of(mixture)
        inputs = inputs_of(x, mixture)
        count = len(mixture.experts)
        if count > len(inputs):
            raise ValueError(f"there are {count} experts and {len(inputs)} samples: each expert needs one at least")
        with evaluating(mixture):
            classes = mixture.log_parts(inputs[:1].to(self.device))[1].shape[2]
        self.samples = samples_of(inputs, y, sample_weight, classes)
        self.iterations, self.passes, self.batch, self.patience = iterations, passes, batch, patience
        self.top, self.penalty, self.seed = float(learning_rate), float(penalty), seed
        self.optimiser = optimiser_of(mixture, self.top)
        self.moving = any(keeps_statistics(part) for part in mixture.modules())
        self.remarks = []
        # where it is: an iteration, the step that is tried in it, and the batch of that step
        self.iteration, self.attempt, self.position = 0, 0, 0
        self.rate, self.stalled = self.top, 0
        self.kept: dict[str, Any] | None = None
        self.order: tuple[int, list[Tensor]] | None = None
        self.objective, self.cost, self.shares = self.evaluated()
        if not math.isfinite(self.objective):
            raise ValueError(
                "the log-likelihood is not finite at the beginning: the experts or the gate give NaN or inf"
            )

    @property
    def done(self) -> bool:
        """Return whether the iterations are over, or too many in a row changed nothing."""
        return self.iteration >= self.iterations or self.stalled >= self.patience

    def state(self) -> dict[str, Any]:
        """Return all that it needs to continue."""
        return {
            **snapshot(self.mixture, self.optimiser),
            "kept": copy.deepcopy(self.kept),
            "where": [self.iteration, self.attempt, self.position, self.stalled, self.most_used],
            "rate": self.rate,
            "objective": self.objective,
            "cost": self.cost,
            "shares": {name: value.clone() for name, value in self.shares.items()},
            "remarks": list(self.remarks),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state()`."""
        go_back(self.mixture, self.optimiser, state)
        self.kept = copy.deepcopy(state["kept"])
        self.iteration, self.attempt, self.position, self.stalled, self.most_used = state["where"]
        self.rate, self.objective, self.cost = state["rate"], state["objective"], state["cost"]
        self.shares = {name: value.clone() for name, value in state["shares"].items()}
        self.remarks = list(state["remarks"])
        self.order = None

    def unit(self) -> Point | None:
        """Take one step of the optimiser; after the last one of an M-step, judge it."""
        number, per_pass = self.position, len(self.rows_of(0))
        if number < self.passes * per_pass:
            if self.kept is None:
                self.kept = snapshot(self.mixture, self.optimiser)
            self.step(number, self.rows_of(number // per_pass)[number % per_pass])
            self.position += 1
            return None
        return self.judge()

    def rows_of(self, turn: int) -> list[Tensor]:
        """Return the batches of one pass of this iteration; the same for every step that is tried in it."""
        seed = derived_seed(self.seed, "order", self.iteration, turn)
        if self.order is None or self.order[0] != seed:
            self.order = seed, batches(len(self.samples), self.batch, seed)
        return self.order[1]

    def step(self, number: int, rows: Tensor) -> None:
        """Take one step on a batch."""
        x, y = self.samples.x[rows].to(self.device), self.samples.y[rows]
        weights = self.samples.weights[rows].to(self.device)

        def loss_of() -> Tensor:
            log_joint = joint(*self.mixture.log_parts(x), y)
            shares = self.shares["responsibilities"][rows].to(log_joint)
            return -(weights * (shares * log_joint).sum(1)).mean()

        seed = derived_seed(self.seed, "draws", self.iteration, number)
        statistics = self.attempt == 0
        descend(self.mixture, self.optimiser, self.rate, seed, self.device, loss_of, self.penalty, statistics)

    def evaluated(self) -> tuple[float, float, dict[str, Tensor]]:
        """Return the penalised mean log-likelihood, the penalty, and responsibilities and gate of all samples."""
        sums, found, gates = torch.zeros((), dtype=torch.float64), list[Tensor](), list[Tensor]()
        with evaluating(self.mixture):
            for rows in torch.arange(len(self.samples)).split(ROWS):
                log_gates, experts = self.mixture.log_parts(self.samples.x[rows].to(self.device))
                log_joint = joint(log_gates, experts, self.samples.y[rows]).double().cpu()
                sums += (self.samples.weights[rows].double() * log_joint.logsumexp(1)).sum()
                found.append(log_joint.softmax(1).float())
                gates.append(log_gates.exp().float().cpu())
            cost = float(total(p.double().square().sum().cpu() for p in penalised(self.mixture))) * self.penalty / 2
        parts = {"responsibilities": torch.cat(found), "gates": torch.cat(gates)}
        return float(sums) / len(self.samples) - cost, cost, parts

    def judge(self) -> Point | None:
        """Keep the step that was taken, or undo it and halve the rate."""
        objective, cost, shares = self.evaluated()
        assert self.kept is not None
        undone, rate = self.attempt, self.rate
        if objective >= self.objective:  # False for NaN
            self.stalled = 0 if objective > self.objective else self.stalled + 1
            self.objective, self.cost, self.shares = objective, cost, shares
            self.rate = min(self.top, 2 * rate) if undone == 0 or (undone == 1 and self.moving) else rate
        else:
            go_back(self.mixture, self.optimiser, self.kept)
            undone += 1
            self.position, self.rate = 0, rate if undone == 1 and self.moving else rate / 2
            if undone <= self.HALVINGS:
                self.attempt = undone
                return None
            self.stalled += 1
        self.iteration, self.attempt, self.position, self.kept = self.iteration + 1, 0, 0, None
        if self.stalled >= self.patience:
            self.remark(
                "stopped", f"after iteration {self.iteration}: the last {self.stalled} did not raise the likelihood"
            )
        return {**self.measured(), "rate": rate, "undone": float(undone)}

    def measured(self) -> Point:
        """Return the point of the iteration that has ended, and remark on experts and gate."""
        gates, weights = self.shares["gates"].double(), self.samples.weights.double()
        received = (weights[:, None] * self.shares["responsibilities"].double()).sum(0)
        entropy = -(gates * gates.clamp(min=1e-30).log()).sum(1)
        first = f"(first in iteration {self.iteration})"
        for index in (received < EMPTY).nonzero()[:, 0].tolist():
            self.remark(f"expert {index} receives no data", first)
        return {
            "iteration": float(self.iteration),
            "log_likelihood": self.objective,
            "penalty": self.cost,
            "least_share": float(received.min() / received.sum()),
            "experts_used": float(self.count_used(gates[weights > 0], first)),
            "gate_entropy": float((weights * entropy).mean()),
        }
