"""What learns many labels besides energies: a feed-forward network, and averages; and how all of them are measured."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convexnet.lab.data.labels import ManyLabels
from convexnet.lab.models.convex import drawn_from
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.learning import needed
from convexnet.lab.runs.many_labels import expected_f1_choice, f1_scores, tuned_threshold
from convexnet.lab.runs.place import Place
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.energies import EnergyRecipe
from convexnet.learner import Attributes, Point
from convexnet.training import batches, derived_seed, drawing

Scores = Callable[[nn.Module, Tensor], Tensor]
"""(a trained network, x (N, d)) -> a score for each label, (N, L)."""


def recipe_of(job: Job) -> EnergyRecipe:
    """The recipe of a job of this study."""
    assert isinstance(job.recipe, EnergyRecipe)
    return job.recipe


def features(data: ManyLabels, how: EnergyRecipe) -> list[Tensor]:
    """The inputs of the three parts: as they are, or weighted by log(N / documents with the word), rows of length √d/6.

    Rows of that length have about the size that the words of an average bookmark have.
    """
    parts = [data.train[0], data.validation[0], data.test[0]]
    if how.normalise == "none":
        return parts
    rarity = torch.log(len(parts[0]) / parts[0].gt(0).sum(0).clamp(min=1))
    return [F.normalize(part * rarity, dim=1) * part.shape[1] ** 0.5 / 6 for part in parts]


def scored(held: Tensor, test: Tensor, data: ManyLabels) -> Row:
    """What is measured of scores: the threshold that is best on validation, and F1 in percent on test."""
    threshold, validation = tuned_threshold(held, data.validation[1])
    example, macro = f1_scores(test > threshold, data.test[1])
    chosen, by_label = f1_scores(expected_f1_choice(test), data.test[1])
    plain = f1_scores(test > 0.5, data.test[1])[0]
    return {
        "threshold": threshold,
        "validation_f1": 100 * validation,
        "validation_f1_chosen": 100 * f1_scores(expected_f1_choice(held), data.validation[1])[0],
        "test_f1": 100 * example,
        "test_macro_f1": 100 * macro,
        "test_f1_at_half": 100 * plain,
        "test_f1_chosen": 100 * chosen,
        "test_macro_f1_chosen": 100 * by_label,
    }


def about(data: ManyLabels) -> Row:
    """What a record says of the data."""
    return {"task": "labels", "data": data.fingerprint, "test_samples": len(data.test[0])}


class Forward(Attributes):
    """The feed-forward network with the widths of the path of x, by cross-entropy, with early stopping. A learner."""

    kept = ("net", "optimiser", "epoch", "position", "total", "best", "best_epoch", "best_weights", "end_weights")

    def __init__(self, job: Job, data: ManyLabels) -> None:
        self.how, self.seed, self.data = recipe_of(job), job.seed, data
        self.train, self.held, self.test = features(data, self.how)
        width = self.how.hidden[0]
        with drawn_from(job.seed):
            self.net = nn.Sequential(
                nn.Linear(self.train.shape[1], width), nn.ReLU(), nn.BatchNorm1d(width), nn.Dropout(self.how.dropout),
                nn.Linear(width, len(data.labels)),
            )  # fmt: skip
        self.optimiser = self.how.optimiser_of(self.net.parameters())
        self.epoch = self.position = self.best_epoch = 0
        self.total, self.best = 0.0, -1.0
        self.best_weights: dict[str, Tensor] | None = None
        self.end_weights: dict[str, Tensor] | None = None

    @property
    def done(self) -> bool:
        """Return whether the epochs are over, or too many in a row were no better."""
        stale = self.how.patience is not None and self.epoch - self.best_epoch >= self.how.patience
        return self.epoch >= self.how.epochs or stale

    def advance(self) -> Point:
        """Work through an epoch."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.how.rate(self.epoch + 1)
        total = 0.0
        self.net.train()
        for number, rows in enumerate(batches(len(self.train), self.how.batch, derived_seed(self.seed, self.epoch))):
            with drawing(derived_seed(self.seed, self.epoch, number), torch.device("cpu")):
                x = F.dropout(self.train[rows], self.how.drop_x)
                loss = F.binary_cross_entropy_with_logits(self.net(x), self.data.train[1][rows], reduction="none")
                whole = loss.sum(1).mean()
                self.optimiser.zero_grad()
                whole.backward()
                self.optimiser.step()
            total += float(whole.detach()) * len(rows)
        self.net.eval()
        self.epoch += 1
        found = tuned_threshold(self.scores(self.held), self.data.validation[1])[1]
        if found > self.best:
            self.best, self.best_epoch, self.best_weights = found, self.epoch, self.weights()
        if self.done and self.best_weights is not None:
            self.end_weights = self.weights()
            self.net.load_state_dict(self.best_weights)
        return {"epoch": float(self.epoch), "loss": total / len(self.train), "validation": -found}

    def weights(self) -> dict[str, Tensor]:
        """Copies of all tensors of the network."""
        return {name: value.clone() for name, value in self.net.state_dict().items()}

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """A probability for each label, (N, L)."""
        return probabilities(self.net, x)

    def columns(self) -> Row:
        """What the record has."""
        row: Row = {
            **about(self.data),
            "epochs": self.epoch,
            "train_samples": len(self.train),
            "validation_samples": len(self.held),
            "parameters": sum(parameter.numel() for parameter in self.net.parameters()),
            "certified": False,
            "peak_epoch": self.best_epoch,
            **scored(self.scores(self.held), self.scores(self.test), self.data),
        }
        best = self.weights()
        self.net.load_state_dict(self.end_weights or best)
        found = scored(self.scores(self.held), self.scores(self.test), self.data)
        self.net.load_state_dict(best)
        return {**row, **{f"{name}_at_end": found[name] for name in ("test_f1", "test_macro_f1")}}


def probabilities(net: nn.Module, x: Tensor) -> Tensor:
    """A probability for each label, (N, L), of a feed-forward network.

    Example:
        >>> probabilities(nn.Linear(2, 3), torch.zeros(4, 2)).shape
        torch.Size([4, 3])
    """
    return net.eval()(x).sigmoid()


class Averages(Attributes):
    """The mean of the scores of networks that other jobs have trained. A learner that advances once for each."""

    kept = ("number", "held", "test")

    def __init__(self, job: Job, place: Place, data: ManyLabels, scores: Scores) -> None:
        self.job, self.place, self.data, self.how, self.scores = job, place, data, recipe_of(job), scores
        _, self.x_held, self.x_test = features(data, self.how)
        self.number = 0
        self.held, self.test = torch.zeros_like(data.validation[1]), torch.zeros_like(data.test[1])

    @property
    def done(self) -> bool:
        """Return whether all networks have been asked."""
        return self.number == len(self.job.needs)

    def advance(self) -> Point:
        """Add the scores of one network."""
        net = needed(self.place, self.job.needs[self.number])
        with torch.no_grad():
            parts = [self.scores(net, x) for x in (self.x_held, self.x_test)]
        self.held, self.test = self.held + parts[0], self.test + parts[1]
        self.number += 1
        return {"step": float(self.number)}

    def columns(self) -> Row:
        """What the record has."""
        count = len(self.job.needs)
        return {
            **about(self.data),
            "epochs": self.how.epochs,
            "members": count,
            "certified": False,
            **scored(self.held / count, self.test / count, self.data),
        }
