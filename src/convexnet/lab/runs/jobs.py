"""The class `Job`: everything that decides one run, as plain data, and the key under which its record is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convexnet.lab.training.recipes import Recipe
from convexnet.lab.training.settings import chosen, digest


@dataclass(frozen=True)
class Job:
    """One network to train on one data set from one seed.

    Two jobs with the same settings are the same run, whichever study asks for it: it is trained once, and its record
    serves both.

    Attributes:
        study: the study that asks for it; the only field that is not a setting.
        model: a name in `convexnet.lab.models.registry.MODELS`.
        dataset: a name that `convexnet.lab.data.load` knows, or one of the study's own.
        recipe: how it is made and trained.
        seed: decides the start, the validation part, the order of the data, augmentation, wrong labels.
        full: False for a run that was shortened in any way.
        variant: what sets it apart within its study, in words.
        train_samples: of the training part, drawn from the seed; None: all.
        validation: the share of the training part that is kept for validation.
        noise, noise_kind: wrong training labels, in percent.
        noisy_validation: whether the validation part has wrong labels too, as where nobody knows the true ones.
        measure_every: epochs between two measurements on the training and test data.
        data: stands for the content of a user's own data, which a path does not.
        needs: the keys of the jobs that must be done before this one starts, such as the experts that a gate chooses
            among; what they trained decides what this one learns, and so it is a setting.
        continued_from: the key of a finished run that this one goes on from, with more epochs.
        streamed, image_size, skip_unreadable: how the images of a folder are read (`convexnet.lab.data.Pictures`).

    Example:
        >>> from convexnet.lab.training.recipes import recipe
        >>> job = Job("table1", "mlp", "mnist", recipe("paper-text", convex=False), seed=0)
        >>> job.key == Job("table4", "mlp", "mnist", recipe("paper-text", convex=False), seed=0).key
        True
    """

    study: str
    model: str
    dataset: str
    recipe: Recipe
    seed: int
    full: bool = True
    variant: str = ""
    train_samples: int | None = None
    validation: float = 0.1
    noise: float = 0.0
    noise_kind: str = "symmetric-including"
    measure_every: int = 1
    data: str = ""
    continued_from: str = ""
    streamed: bool | None = None
    image_size: int | None = None
    needs: tuple[str, ...] = ()
    noisy_validation: bool = False
    skip_unreadable: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the run, ready for JSON, without what stands at its default.

        So a setting that is added later, with a default that changes nothing, changes no key of an earlier record.
        """
        found = chosen(self)
        return {name: value for name, value in found.items() if name not in ("study", "full", "variant")}

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that stand for the settings."""
        return digest(self.settings)

    @property
    def name(self) -> str:
        """For people: model, data set, recipe, variant and seed."""
        words = [self.model, self.dataset, self.recipe.name, self.variant, f"seed {self.seed}"]
        return ", ".join(word for word in words if word)
