"""Boosting by SAMME."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convexnet.ensembles.boosted import Boosted
from convexnet.ensembles.learners import Epochs
from convexnet.ensembles.outputs import classes_of, device_of, evaluating, log_probabilities, logits_of, predict
from convexnet.ensembles.samples import inputs_of, samples_of
from convexnet.learner import Point, run
from convexnet.training import (
    History,
    check_counts,
    check_rate,
    derived_seed,
    drawing,
    go_back,
    nothing,
    optimiser_of,
    snapshot,
)

ROUNDING = 1e-9
"""An expert is no better than chance unless its error is below chance by more than this. A second copy of an expert has
exactly the error of chance on the weights that the first one leaves, and sums of weights are rounded."""


class Boosting(Epochs):
    """SAMME: experts one after another, each on samples weighted by what those before it got wrong. A learner.

    An expert of weighted error e among K classes has the weight α = log((1 - e) / e) + log(K - 1); the weights of the
    samples it gets wrong are multiplied by e^α. If e >= 1 - 1/K, the expert is no better than chance: it is dropped and
    boosting stops (the first one is kept, alone). If e = 0, its α would be infinite: it is the whole ensemble.

    What is constrained (by `constrain`, `convexify`, or a layer of `convexnet.nn`) is projected after every step.

    Args:
        make: called without arguments, it returns a new expert (B, ...) -> (B, K), or (B, 1) or (B,) for two classes.
            What it draws comes from `seed` and the number of the round.
        x: inputs (N, ...).
        y: classes (N,).
        rounds: experts, at most.
        epochs: passes over the samples, for each expert.
        batch: samples in a step of the optimiser.
        learning_rate: of Adam, at the beginning of a round; it falls to 0 along a cosine.
        penalty: λ of λ/2 ‖θ‖² over all weights of more than one dimension, added to the weighted mean cross-entropy.
        sample_weight: (N,), not negative, at the beginning; scaled to a mean of 1.
        seed: of the experts, the order of the samples, and dropout.

    Points: `epoch` over all rounds, `round`, `loss` (its weighted mean while the epoch went on); the last of a round
        also has the weighted `error` and the `weight` of its expert. `stopped` is a sentence, or empty.

    Raises:
        ValueError, TypeError: wrong arguments, more experts than samples, a class without samples, outputs that do not
            fit, a loss that is not finite.

    Source: Zhu, Zou, Rosset & Hastie, Multi-class AdaBoost (2009), algorithm 2.

    Example:
        >>> learner = Boosting(lambda: nn.Linear(1, 1), torch.tensor([[-1.0], [1.0]]), [0, 1], rounds=2, epochs=2)
        >>> run(learner)[0]["round"], len(learner.experts) >= 1
        (1.0, True)
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        x: Any,
        y: Any,
        rounds: int = 3,
        *,
        epochs: int = 20,
        batch: int = 128,
        learning_rate: float = 1e-3,
        penalty: float = 0.0,
        sample_weight: Any = None,
        seed: int = 0,
    ) -> None:
        check_counts(rounds=rounds, epochs=epochs, batch=batch)
        check_rate(learning_rate)
        check_rate(penalty, "penalty", zero=True)
        self.make, self.rounds, self.epochs, self.batch, self.seed = make, rounds, epochs, batch, seed
        self.top, self.penalty = float(learning_rate), float(penalty)
        self.experts: list[nn.Module] = []
        self.alphas: list[float] = []
        self.stopped, self.remarks = "", []
        self.expert, self.optimiser = self.made(0)
        inputs = inputs_of(x, self.expert)
        if rounds > len(inputs):
            raise ValueError(f"there are {rounds} rounds and {len(inputs)} samples: each expert needs one at least")
        with evaluating(self.expert):
            width = logits_of(self.expert, inputs[:1].to(device_of(self.expert)), "the expert").shape[1]
        self.classes = max(2, width)
        self.samples = samples_of(inputs, y, sample_weight, self.classes)
        self.weights = self.samples.weights.double()

    def made(self, number: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return the expert of a round as it is at the beginning, and its optimiser."""
        with drawing(derived_seed(self.seed, "expert", number), torch.device("cpu")):
            expert = self.make()
        if not isinstance(expert, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"make must return a new nn.Module for each expert, not {type(expert).__name__}")
        if any(expert is other for other in self.experts):
            raise ValueError("make returned the same module twice: it must make a new expert for each round")
        return expert, optimiser_of(expert, self.top)

    @property
    def done(self) -> bool:
        """Return whether all rounds are over, or boosting has stopped."""
        return bool(self.stopped) or len(self.experts) >= self.rounds

    def boosted(self) -> Boosted:
        """Return the ensemble of the experts so far, in eval mode.

        Raises:
            ValueError: no expert is trained yet.
        """
        if not self.experts:
            raise ValueError("no expert is trained yet")
        return Boosted(self.experts, self.alphas).eval()

    def state(self) -> dict[str, Any]:
        """Return all that it needs to continue."""
        finished = [{k: v.detach().clone() for k, v in expert.state_dict().items()} for expert in self.experts]
        return {
            "finished": finished,
            "alphas": list(self.alphas),
            "current": None if self.done else snapshot(self.expert, self.optimiser),
            "weights": self.weights.clone(),
            "where": [self.epoch, self.position],
            "sum": self.sum,
            "stopped": self.stopped,
            "remarks": list(self.remarks),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state()`."""
        self.experts = []
        for number, weights in enumerate(state["finished"]):
            expert, _ = self.made(number)
            expert.load_state_dict(weights)
            self.experts.append(expert.eval())
        self.alphas, self.weights = list(state["alphas"]), state["weights"].clone()
        self.epoch, self.position = state["where"]
        self.sum, self.stopped, self.remarks = state["sum"], state["stopped"], list(state["remarks"])
        if state["current"] is not None:
            self.expert, self.optimiser = self.made(len(self.experts))
            go_back(self.expert, self.optimiser, state["current"])

    @property
    def model(self) -> nn.Module:
        """Return the expert of this round."""
        return self.expert

    @property
    def name(self) -> str:
        """Return what an error calls it."""
        return f"expert {len(self.experts)}"

    def seed_for(self, what: str, *where: int) -> int:
        """Return the seed of what is drawn somewhere in this round."""
        return derived_seed(self.seed, what, len(self.experts), *where)

    def loss_of(self, rows: Tensor, device: torch.device) -> Tensor:
        """Return the weighted mean loss of a batch."""
        logits = logits_of(self.expert, self.samples.x[rows].to(device), "the expert")
        losses = F.nll_loss(log_probabilities(logits), self.samples.y[rows].to(device), reduction="none")
        return (losses * self.weights[rows].to(losses)).mean()

    def ended(self) -> Point:
        """Close an epoch, and after the last one the round."""
        loss, number = self.close_epoch(), len(self.experts)
        point: Point = {"epoch": float(number * self.epochs + self.epoch), "round": number + 1.0, "loss": loss}
        return {**point, **self.judged()} if self.epoch == self.epochs else point

    def judged(self) -> Point:
        """Weigh the expert of a round and the samples for the next one."""
        number = len(self.experts)
        wrong = classes_of(predict(self.expert, self.samples.x)) != self.samples.y
        error = float(self.weights[wrong].sum() / self.weights.sum())
        self.expert.eval()
        alpha = 1.0
        if not bool(wrong[self.weights > 0].any()):
            self.experts, self.alphas = [self.expert], [alpha]
            self.stopped = f"expert {number} makes no error on the samples: it is the whole ensemble"
        elif error >= 1 - 1 / self.classes - ROUNDING:
            chance = f"expert {number} has the weighted error {error:.4f}, no better than chance"
            if number:
                self.stopped, alpha = f"{chance}: it is dropped", 0.0
            else:
                self.experts, self.alphas = [self.expert], [alpha]
                self.stopped = f"{chance}: it is kept, for it is the only one"
        else:
            alpha = math.log((1 - error) / error) + math.log(self.classes - 1)
            self.experts, self.alphas = [*self.experts, self.expert], [*self.alphas, alpha]
            self.weights = torch.where(wrong, self.weights * math.exp(alpha), self.weights)
            self.weights = self.weights / self.weights.mean()
        if self.stopped:
            self.remarks.append(self.stopped)
        self.epoch = 0
        if not self.done:
            self.expert, self.optimiser = self.made(len(self.experts))
        return {"error": error, "weight": alpha}


def boost(
    make: Callable[[], nn.Module],
    x: Any,
    y: Any,
    rounds: int = 3,
    *,
    gate: nn.Module | None = None,
    epochs: int = 20,
    gate_epochs: int | None = None,
    batch: int = 128,
    learning_rate: float = 1e-3,
    penalty: float = 0.0,
    sample_weight: Any = None,
    seed: int = 0,
    tick: Callable[[Point], object] | None = None,
) -> Boosted:
    """Boost experts by SAMME, and train a gate over them where one is given.

    Constrain the experts in `make` (or build them of `convexnet.nn`) and they stay convex; the ensemble itself is not.
    `Boosting` and `GateTraining`, which have the same arguments, are the learners that a driver with checkpoints runs.

    Args:
        make: called without arguments, it returns a new expert (B, ...) -> (B, K), or (B, 1) or (B,) for two classes.
        x: inputs (N, ...).
        y: classes (N,).
        rounds: experts, at most; fewer where boosting stops (`Boosting` says when), which `history.remarks` names.
        gate: a module (B, ...) -> (B, rounds) that is trained over the frozen experts and then decides. Where boosting
            stopped with fewer experts, it stays out, and a remark says so.
        epochs: passes over the samples, for each expert.
        gate_epochs: for the gate; None: as many.
        batch: samples in a step of the optimiser.
        learning_rate: of Adam, at the beginning of a round; it falls to 0 along a cosine.
        penalty: λ of λ/2 ‖θ‖² over the weights of an expert.
        sample_weight: (N,), not negative, at the beginning.
        seed: of all that is drawn.
        tick: called with every point.

    Raises:
        ValueError, TypeError: wrong arguments, more experts than samples, a class without samples, outputs that do not
            fit, a loss that is not finite.

    Warns:
        UserWarning: no expert is better than chance.

    Source: Zhu, Zou, Rosset & Hastie (2009), algorithm 2; the gate: Sivaprasad et al. 2021, section 3.3 and table 6.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> x = torch.linspace(-1, 1, 60)[:, None]
        >>> y = ((x[:, 0] < -0.7) | (x[:, 0] > 0.3)).long()
        >>> boosted = boost(lambda: nn.Linear(1, 1), x, y, rounds=2, epochs=30, learning_rate=0.3)
        >>> boosted.oracle_accuracy(x, y) > 0.6
        True
    """
    settings: dict[str, Any] = {"batch": batch, "learning_rate": learning_rate, "sample_weight": sample_weight}
    learner = Boosting(make, x, y, rounds, epochs=epochs, penalty=penalty, seed=seed, **settings)
    points, remarks = run(learner, tick or nothing), list(learner.remarks)
    boosted = learner.boosted()
    if "no better than chance: it is kept" in learner.stopped:
        warnings.warn(f"boosting: {learner.stopped}", stacklevel=2)
    if gate is not None and len(boosted.experts) == rounds:
        gated = boosted.fit_gate(gate, x, y, epochs=gate_epochs or epochs, seed=seed, tick=tick, **settings)
        points, remarks = points + gated.points, remarks + list(gated.remarks)
    elif gate is not None:
        remarks.append(
            f"the gate is left out: it has outputs for {rounds} experts, and there are {len(boosted.experts)}"
        )
    boosted.history = History(points, tuple(remarks))
    return boosted
