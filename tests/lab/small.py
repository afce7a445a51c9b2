"""A run that takes a second: the embedded digits, few images, few epochs. Shared by the tests of the laboratory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from convexnet import learner
from convexnet.lab.data import Split
from convexnet.lab.models.convex import Convex
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.place import Place
from convexnet.lab.runs.tasks import classification
from convexnet.lab.training.experiment import Course, Training, prepared
from convexnet.lab.training.recipes import Recipe

HIDDEN = (48, 48, 48)
"""Instead of the paper's 800: what the tests look at does not depend on it."""

RECIPE = Recipe(name="small", epochs=3, batch=64, learning_rate=1e-3)


def job(model: str = "ioc-mlp", **changes: Any) -> Job:
    """Settings of the recipe and of the job alike."""
    fields = Recipe.__dataclass_fields__
    how = replace(RECIPE, **{name: value for name, value in changes.items() if name in fields})
    rest = {name: value for name, value in changes.items() if name not in fields}
    given = {"dataset": "digits", "seed": 0, "full": False, "train_samples": 192} | rest
    return Job("small", model, recipe=how, **given)


def place(folder: Path, **changes: Any) -> Place:
    """A folder, and a checkpoint after every epoch."""
    return Place(folder, **({"checkpoint_seconds": 0.0} | changes))


RESUMED = {
    "plain": {},
    "augmented, averaged, decaying": {
        "augment": "crop-flip",
        "average": 0.9,
        "decay": 0.1,
        "weight_decay": 0.1,
        "smoothing": 0.1,
    },
    "mixed, by a policy, in parts": {
        "model": "mlp",
        "augment": "crop-flip-randaugment",
        "mixup": 0.8,
        "cutmix": 1.0,
        "accumulate": 2,
        "warmup": 2,
    },
    "computed weights": {"convex": Convex(method="softplus")},
    "wrong labels": {"noise": 40.0, "batch": 50},
    "a loss that remembers, and convergence": {"loss": "elr", "noise": 40.0, "converged": 1e-3},
    "momentum, in steps": {"optimiser": "sgd", "schedule": "steps", "milestones": (1,), "decay": 0.1},
}
"""Settings under which a resumed run must equal one that was not stopped."""


def fitted(
    model: nn.Module, part: Split, *, convex: bool, seed: int = 0, weights: Tensor | None = None, **changes: Any
) -> Training:
    """Train in place on a part in memory, by the one loop, without a folder and without measuring anything."""
    from lightning.fabric import Fabric

    how = Recipe("fit", **({"epochs": 1, "batch": 64, "learning_rate": 1e-2} | changes))
    course = Course(
        part,
        how,
        Fabric(accelerator="cpu", devices=1),
        None,
        seed,
        lambda network, number: {},
        classification(),
        weights=weights,
    )
    training = prepared(model, part.images[:2], course, convex=convex)
    learner.run(training)
    return training


VARYING = ("seconds", "core_seconds", "commit", "date", "resumed_after", "share_in_minimise")
"""What may differ between two records of the same run."""


def same(row: dict[str, Any]) -> dict[str, Any]:
    """A record without what may differ."""
    return {name: value for name, value in row.items() if name not in VARYING}
