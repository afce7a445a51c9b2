"""The demo: an ordinary network and its convex counterpart on real digits, with clean and with wrong labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional

import convexnet as cx
from convexnet.lab import metrics
from convexnet.lab.data import Split, ThreeWay, wrong_labels
from convexnet.lab.networks import mlp
from convexnet.lab.train import Epoch, fit, predict

WRONG = 0.4
"""Share of the training labels that are made wrong in the second half of the demo."""


@dataclass(frozen=True)
class Recipe:
    """How every network of the demo is trained; only `learning_rate` differs for the control run.

    The paper's text: three times linear -> BatchNorm -> ReLU or ELU, Adam with learning rate 1e-4. Width 256 instead
    of 800 keeps the demo short. The convex network starts collapsed: its units of the third layer are correlated by
    0.997, because all weights after the first layer have one sign. BatchNorm lets this rate undo that without a special
    start (0.27 after 60 epochs with it, 0.86 without, test accuracy 0.95 and 0.92; clean labels, seed 0).
    """

    epochs: int = 120
    batch: int = 128
    learning_rate: float = 1e-4
    width: int = 256
    depth: int = 3


@dataclass(frozen=True)
class Point:
    """One epoch of one run. Losses in nats; everything but `running_accuracy` is computed in eval mode."""

    epoch: int
    running_accuracy: float
    train_loss: float
    test_loss: float
    train_accuracy: float
    clean_train_accuracy: float
    validation_accuracy: float
    test_accuracy: float


@dataclass
class Run:
    """One network trained on one set of labels; `breaks` is the path, operator and reason of the first finding."""

    name: str
    convex: bool
    wrong: float
    recipe: Recipe
    model: nn.Module
    control: bool = False
    curve: list[Point] = field(default_factory=list[Point])
    seconds: float = 0.0
    test_outputs: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    test_labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    memorised: float | None = None
    calibration: dict[str, float] = field(default_factory=dict[str, float])
    certificate: str = ""
    breaks: tuple[str, str, str] | None = None
    certified: bool = False

    @property
    def end(self) -> Point:
        """The last epoch."""
        return self.curve[-1]

    @property
    def peak(self) -> Point:
        """The first epoch with the best validation accuracy; the test set plays no part in choosing it."""
        return max(self.curve, key=lambda point: point.validation_accuracy)

    @property
    def gap(self) -> float:
        """Train accuracy on the labels used minus test accuracy, at the end."""
        return self.end.train_accuracy - self.end.test_accuracy


def contestants(wrong: float, recipe: Recipe, features: int, classes: int, seed: int) -> list[Run]:
    """The ordinary network and the convex one; with wrong labels also the convex one at ten times the learning rate."""

    def network(activation: Callable[[], nn.Module]) -> nn.Module:
        return mlp(features, classes, width=recipe.width, depth=recipe.depth, activation=activation, seed=seed)

    runs = [
        Run("NN", convex=False, wrong=wrong, recipe=recipe, model=network(nn.ReLU)),
        Run("IOC", convex=True, wrong=wrong, recipe=recipe, model=network(nn.ELU)),
    ]
    if wrong:
        fast = Recipe(recipe.epochs, recipe.batch, 10 * recipe.learning_rate, recipe.width, recipe.depth)
        runs.append(Run("IOC, 10x rate", convex=True, wrong=wrong, recipe=fast, model=network(nn.ELU), control=True))
    return runs


def measure(run: Run, epoch: Epoch, used: Split, data: ThreeWay) -> Point:
    """Evaluate one network after one epoch on every part of the data."""
    train, validation, test = (predict(run.model, part.inputs) for part in (data.train, data.validation, data.test))
    return Point(
        epoch=epoch.number,
        running_accuracy=epoch.running_accuracy,
        train_loss=float(functional.cross_entropy(train, used.labels)),
        test_loss=float(functional.cross_entropy(test, data.test.labels)),
        train_accuracy=metrics.accuracy(train, used.labels),
        clean_train_accuracy=metrics.accuracy(train, data.train.labels),
        validation_accuracy=metrics.accuracy(validation, data.validation.labels),
        test_accuracy=metrics.accuracy(test, data.test.labels),
    )


def compete(
    data: ThreeWay, wrong: float, recipe: Recipe, seed: int, tick: Callable[[Run], None] = lambda run: None
) -> list[Run]:
    """Train the contestants side by side, epoch by epoch, on labels of which the share `wrong` is wrong; certify them.

    `tick` is called after every epoch of every run.
    """
    classes = int(data.train.labels.max()) + 1
    used = Split(data.train.inputs, wrong_labels(data.train.labels, wrong, classes, seed))
    runs = contestants(wrong, recipe, data.train.inputs.shape[1], classes, seed)
    loops = [
        fit(
            run.model,
            used,
            convex=run.convex,
            epochs=run.recipe.epochs,
            batch=run.recipe.batch,
            learning_rate=run.recipe.learning_rate,
            seed=seed,
        )
        for run in runs
    ]
    for _ in range(recipe.epochs):
        for run, loop in zip(runs, loops, strict=True):
            start = perf_counter()
            epoch = next(loop)
            run.curve.append(measure(run, epoch, used, data))
            run.seconds += perf_counter() - start
            tick(run)
    for run in runs:
        run.test_outputs, run.test_labels = predict(run.model, data.test.inputs), data.test.labels
        run.memorised = metrics.memorised(predict(run.model, data.train.inputs), used.labels, data.train.labels)
        run.calibration = metrics.calibration(run.test_outputs, data.test.labels)
        certificate = cx.certify(run.model, data.test.inputs[:2])
        run.certificate, run.certified = str(certificate), certificate.convex
        if certificate.findings:
            first = certificate.findings[0]
            run.breaks = first.path, first.operator, first.reason
    return runs


def record(run: Run, seed: int, full: bool, surroundings: dict[str, object]) -> dict[str, object]:
    """The row of one run for `metrics.json`; `full` is False for a shortened demo."""
    return {
        "study": "demo",
        "model": "ioc-mlp" if run.convex else "mlp",
        "dataset": "digits",
        "tier": "T2" if run.convex else None,
        "recipe": {**vars(run.recipe), "optimiser": "adam", "control": run.control},
        "seed": seed,
        "epochs": run.recipe.epochs,
        "full": full,
        "wrong_labels": run.wrong,
        "train_accuracy": run.end.train_accuracy,
        "clean_train_accuracy": run.end.clean_train_accuracy,
        "running_accuracy": run.end.running_accuracy,
        "validation_accuracy": run.end.validation_accuracy,
        "test_accuracy": run.end.test_accuracy,
        "test_accuracy_at_peak": run.peak.test_accuracy,
        "peak_epoch": run.peak.epoch,
        "gap": run.gap,
        "memorised_wrong_labels": run.memorised,
        **run.calibration,
        "certified": run.certified,
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "seconds": round(run.seconds, 3),
        **surroundings,
    }
