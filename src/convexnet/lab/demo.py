"""The demo: an ordinary network and its convex counterpart on real digits, with clean and with wrong labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional

import convexnet as cx
from convexnet.lab import metrics, whiten
from convexnet.lab.data import Split, ThreeWay, wrong_labels
from convexnet.lab.networks import EPSILON, Convex, convex_mlp, ordinary_mlp, scales
from convexnet.lab.train import Epoch, fit, predict

WRONG = 0.4
"""Share of the training labels that are made wrong in the second half of the demo."""


@dataclass(frozen=True)
class Recipe:
    """How every network of the demo is made and trained.

    `learning_rate` is ten times as high for the control run. It falls to `decay` times its start for the ordinary
    network, and half as fast, to the square root of that, for the convex ones ("a slower schedule", says the paper).

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
    decay: float = 1.0
    convex: Convex = field(default_factory=Convex)


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
    """One network trained on one set of labels.

    `proved` says whether the final network was proved convex, `breaks` is the path, operator and reason of the first
    finding. `scales` counts those of BatchNorm that were left free and ought not to be negative: negative ones, all.
    """

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
    proved: bool = False
    scales: tuple[int, int] = 0, 0

    @property
    def kind(self) -> str:
        """What to call it: nothing keeps a network convex whose BatchNorm scales are free."""
        if not self.convex:
            return "ordinary"
        return "constrained" if self.recipe.convex.free_gamma else "convex"

    @property
    def certified(self) -> bool:
        """Whether it was proved convex, and not merely left convex by a training that might have ended otherwise."""
        return self.proved and self.kind == "convex"

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


def slower(recipe: Recipe) -> Recipe:
    """The convex networks' recipe for the ordinary one's: the learning rate falls half as fast."""
    return replace(recipe, decay=recipe.decay**0.5)


def contestants(wrong: float, recipe: Recipe, inputs: Tensor, classes: int, seed: int) -> list[Run]:
    """The ordinary network and the convex one; with wrong labels also the convex one at ten times the learning rate."""

    def convex(name: str, recipe: Recipe, control: bool = False) -> Run:
        model = convex_mlp(inputs, classes, width=recipe.width, depth=recipe.depth, seed=seed, how=recipe.convex)
        return Run(name, convex=True, wrong=wrong, recipe=recipe, model=model, control=control)

    name = "IOC, free γ" if recipe.convex.free_gamma else "IOC"
    model = ordinary_mlp(inputs, classes, width=recipe.width, depth=recipe.depth, seed=seed)
    runs = [Run("NN", convex=False, wrong=wrong, recipe=recipe, model=model), convex(name, slower(recipe))]
    if wrong:
        faster = replace(slower(recipe), learning_rate=10 * recipe.learning_rate)
        runs.append(convex(f"{name}, 10x rate", faster, control=True))
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
    runs = contestants(wrong, recipe, data.train.inputs, classes, seed)
    loops = [
        fit(
            run.model,
            used,
            convex=run.convex,
            epochs=run.recipe.epochs,
            batch=run.recipe.batch,
            learning_rate=run.recipe.learning_rate,
            seed=seed,
            decay=run.recipe.decay,
            free_gamma=run.recipe.convex.free_gamma,
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
        run.certificate, run.proved = str(certificate), certificate.convex
        if certificate.findings:
            first = certificate.findings[0]
            run.breaks = first.path, first.operator, first.reason
        if run.kind == "constrained":
            freed = scales(run.model, data.test.inputs[:2])
            run.scales = int((freed < 0).sum()), len(freed)
    return runs


def tier(run: Run) -> str | None:
    """How much the constraint asks for: T2, all layers after the first nonlinearity; T1, all but the head."""
    if run.kind != "convex":
        return None
    return "T1" if run.recipe.convex.free_head else "T2"


def made(run: Run) -> dict[str, object] | None:
    """How a convex network was made, for its record; None for an ordinary one."""
    if not run.convex:
        return None
    how = run.recipe.convex
    return {
        **asdict(how),
        "epsilon": EPSILON if how.method == "exponentiate" else None,
        "whiten_epsilon": whiten.EPSILON if how.whiten else None,
    }


def record(run: Run, seed: int, full: bool, surroundings: dict[str, object]) -> dict[str, object]:
    """The row of one run for `metrics.json`; `full` is False for a shortened demo."""
    return {
        "study": "demo",
        "model": "ioc-mlp" if run.convex else "mlp",
        "dataset": "digits",
        "tier": tier(run),
        "recipe": {**asdict(run.recipe), "optimiser": "adam", "control": run.control, "convex": made(run)},
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
        "convex_at_these_weights": run.proved,
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "seconds": round(run.seconds, 3),
        **surroundings,
    }
