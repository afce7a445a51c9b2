"""Train the networks of the demo on real digits, with clean and with wrong labels.

The paper's ordinary network and its convex counterpart, ours in a recipe that works, and what ours has to be compared
with: the ordinary network in the same recipe, and one hidden layer, convex unconstrained. Each is a job as
`convexnet train` has it: the same recipes, loop, measurements and records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from convexnet.lab.models.convex import Convex, scales
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.place import Place
from convexnet.lab.runs.records import Row
from convexnet.lab.runs.run import record, trained
from convexnet.lab.training.recipes import OURS, OURS_CONVEX, Recipe
from convexnet.learner import Point

PICTURED = ("ordinary", "paper", "ours")
"""The roles whose curves are drawn; the others are measured less often."""

WRONG = 40.0
"""Percentage of the training labels that are made wrong in the second half of the demo."""

# The paper's text: three times linear -> BatchNorm -> ReLU or ELU, Adam with learning rate 1e-4. Width 256 instead of
# 800 keeps the demo short. The convex network starts collapsed: its units of the third layer are correlated by 0.997,
# because all weights after the first layer have one sign. BatchNorm lets this rate undo that without a special start.
RECIPE = Recipe(name="demo", epochs=120, batch=128, learning_rate=1e-4, hidden=(256, 256, 256))


def asked(how: Convex, decay: float = 1.0) -> Recipe:
    """The ordinary network's recipe, with what was asked for the convex one.

    `decay` is what is left of the learning rate at the end; of the convex network's its square root, half as fast ("a
    slower schedule", says the paper).
    """
    return replace(RECIPE, decay=decay, convex=how)


def slower(recipe: Recipe) -> Recipe:
    """The convex network's recipe for the ordinary one's: its rate falls half as fast, its inputs may be whitened."""
    how = recipe.convex
    return replace(
        recipe,
        decay=recipe.decay**0.5,
        normalise=how.whiten or recipe.normalise,
        convex=replace(how, whiten=None),
    )


@dataclass
class Run:
    """One network trained on one set of labels, and its record.

    Attributes:
        name: in tables.
        role: "ordinary" and "paper", the paper's pair; "control", its convex one at ten times the rate; "ours", and
            with it "same" (the ordinary network in our recipe) and "shallow" (one hidden layer).
        job: what was run.
        curve: one point an epoch, losses in nats; all but `running_...` is computed in eval mode.
        row: the record, once it is trained.
        model: the trained network behind its first step, which takes images (B, 1, 8, 8).
        certificate: its text.
        scales: of BatchNorm that were left free and ought not to be negative: negative ones, all.
    """

    name: str
    role: str
    job: Job
    curve: list[Point] = field(default_factory=list[Point])
    row: Row = field(default_factory=dict[str, Any])
    model: nn.Module = field(default_factory=nn.Identity)
    certificate: str = ""
    scales: tuple[int, int] = 0, 0

    @property
    def recipe(self) -> Recipe:
        """How it is made and trained."""
        return self.job.recipe

    @property
    def wrong(self) -> float:
        """The share of the labels it is trained on that was made wrong."""
        return self.job.noise / 100

    @property
    def convex(self) -> bool:
        """Whether it is meant to be convex."""
        return self.role not in ("ordinary", "same")

    @property
    def kind(self) -> str:
        """What to call it: nothing keeps a network convex whose BatchNorm scales are free."""
        if not self.convex:
            return "ordinary"
        return "constrained" if self.recipe.convex.free_gamma else "convex"

    @property
    def certified(self) -> bool:
        """Whether it was proved convex, and not merely left convex by a training that might have ended otherwise."""
        return bool(self.row["certified"])

    @property
    def proved(self) -> bool:
        """Whether it is proved convex at the weights it has."""
        return bool(self.row["convex_at_these_weights"])

    @property
    def memorised(self) -> float | None:
        """The share of the wrong labels that it gives back."""
        return self.row["memorised_wrong_labels"]

    @property
    def end(self) -> Point:
        """The last epoch."""
        return self.curve[-1]

    @property
    def peak(self) -> Point:
        """The first epoch with the best validation accuracy; the test set plays no part in choosing it."""
        return max(self.curve, key=lambda point: point["validation_accuracy"])

    @property
    def gap(self) -> float:
        """Train accuracy on the labels used minus test accuracy, at the end."""
        return self.end["train_accuracy"] - self.end["test_accuracy"]


def contestants(wrong: float, recipe: Recipe, seed: int, *, full: bool = True) -> list[Run]:
    """The networks that are compared on labels of which `wrong` percent are wrong, none of them trained yet."""
    slow = slower(recipe)
    free = slow.convex.free_gamma
    name = "IOC, free γ" if free else "IOC"
    short = {"epochs": min(OURS.epochs, recipe.epochs), "hidden": recipe.hidden}
    ours, same = replace(OURS_CONVEX, **short), replace(OURS, **short)
    made = [
        ("NN", "ordinary", "mlp", recipe),
        (name, "paper", "ioc-mlp", slow),
        ("NN, our recipe", "same", "mlp-signs", same),
        ("ours", "ours", "ioc-mlp", ours),
        ("one layer", "shallow", "ioc-shallow", ours),
    ]
    if wrong:
        made.append((f"{name}, 10x rate", "control", "ioc-mlp", replace(slow, learning_rate=10 * slow.learning_rate)))
    return [
        Run(
            said,
            role,
            Job(
                "demo",
                model,
                "digits",
                replace(how, convex=Convex()) if role == "ordinary" else how,
                seed,
                full=full,
                variant=said,
                measure_every=1 if role in PICTURED else 10,
                noise=wrong,
                noise_kind="symmetric-excluding" if wrong else "symmetric-including",
            ),
        )
        for said, role, model, how in made
    ]


def compete(runs: list[Run], place: Place, tick: Callable[[Run], None] = lambda run: None) -> list[Run]:
    """Train the contestants one after another, measure and certify them; `tick` is called after every epoch.

    Raises:
        CheckpointError, Diverged, Stopped: as `convexnet.lab.runs.run.trained`.
    """
    for run in runs:

        def note(job: Job, point: Point, run: Run = run) -> None:
            del job
            run.curve.append(point)
            tick(run)

        found = trained(run.job, replace(place, folder=place.folder / run.job.key), note)
        run.curve = list(found.driven.curve)
        run.row, run.model = record(found), found.network
        run.certificate = found.proved.certificate
        if run.kind == "constrained":
            freed = scales(run.model, torch.zeros(2, *found.data.shape))
            run.scales = int((freed < 0).sum()), len(freed)
    return runs
