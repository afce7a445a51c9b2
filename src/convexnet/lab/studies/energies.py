"""Train energies f(x, y) for studies: a recipe, the learner that measures after every epoch, and what a record says.

A study makes an `EnergyTraining` of its network and data, and calls `learn_energy` with it, with what is measured after
an epoch and with the columns of its own. Checkpoints, resuming and early stopping are those of every learner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from convexnet.choices import ActivationName, ConstraintName
from convexnet.energy import EnergyTraining
from convexnet.energy.training import How
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.learning import Recorded, learn
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.runs.verdict import verdict
from convexnet.lab.training.recipes import Recipe
from convexnet.learner import Point

Measure = Callable[[nn.Module, int], Mapping[str, float]]
"""(the energy, the number of the epoch, from 1) -> what is measured then."""

Columns = Callable[[nn.Module], Mapping[str, Any]]
"""The energy as it was after some epoch -> columns of the record."""


@dataclass(frozen=True)
class EnergyRecipe(Recipe):
    """How an energy is made and trained: a recipe, of which what is about images and classifiers has no meaning.

    Attributes:
        how: a way of learning of `convexnet.energy.fit`.
        x_hidden: widths of the path of x in a PICNN, where they are not those of `hidden`.
        activation: of the convex layers.
        constraint: how weights are kept non-negative.
        tol: of `minimise`.
        solver: of `minimise`; or "vertices", for classes by max-margin.
        descent_steps, descent_rate, descent_momentum: of unrolled descent.
        drop_x: the share of the elements of x that are dropped while training.

    Example:
        >>> EnergyRecipe("mine", epochs=3, how="unrolled").options
        {'steps': 30, 'rate': 0.01, 'momentum': 0.9}
    """

    how: How = "argmin"
    x_hidden: tuple[int, ...] = ()
    activation: ActivationName = "softplus"
    constraint: ConstraintName = "softplus"
    tol: float = 1e-3
    solver: str = "auto"
    descent_steps: int = 30
    descent_rate: float = 0.01
    descent_momentum: float = 0.9
    drop_x: float = 0.0

    @property
    def descent(self) -> dict[str, Any]:
        """The arguments of `convexnet.energy.unrolled`."""
        return {"steps": self.descent_steps, "rate": self.descent_rate, "momentum": self.descent_momentum}

    @property
    def options(self) -> dict[str, Any]:
        """What the way of learning passes on to the solver, or to the descent."""
        return self.descent if self.how == "unrolled" else {"tol": self.tol, "solver": self.solver}

    def optimiser_of(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Adam, with decoupled weight decay on all parameters."""
        return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)

    def dropped(self, given: list[Tensor], y: Tensor) -> tuple[list[Tensor], Tensor]:
        """A batch of which some elements of x are dropped, and the others made larger so that sums stay."""
        return [torch.nn.functional.dropout(part, self.drop_x) for part in given], y

    @property
    def training(self) -> dict[str, Any]:
        """The arguments of `EnergyTraining` that the recipe decides."""
        return {
            "how": self.how,
            "epochs": self.epochs,
            "batch": self.batch,
            "learning_rate": self.rate,
            "optimiser": self.optimiser_of,
            "patience": self.patience,
            "augment": self.dropped if self.drop_x else None,
            **self.options,
        }


class MeasuredEnergy:
    """An energy that learns, with a measurement after each epoch, and its record. A learner.

    The energy that counts is that of the best epoch by validation, where there are validation samples; `columns` is
    asked for it, and for the last one.

    Args:
        training: the learner, at its beginning.
        measure: what is measured after an epoch, besides the points of the training; None: nothing.
        columns: of the record, of the energy that counts.
        at_end: of the record, of the energy after the last epoch.
        about: of the record, what does not depend on the energy.
    """

    def __init__(
        self,
        training: EnergyTraining,
        columns: Columns,
        *,
        measure: Measure | None = None,
        at_end: Columns | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.training, self.own, self.measure, self.at_end = training, columns, measure, at_end
        self.about = dict(about or {})

    @property
    def f(self) -> nn.Module:
        """The energy."""
        return self.training.f

    @property
    def done(self) -> bool:
        """Return whether the training is over."""
        return self.training.done

    def state(self) -> dict[str, Any]:
        """Return all that it needs to continue."""
        return self.training.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state()`."""
        self.training.restore(state)

    def advance(self) -> Point | None:
        """Work for about two seconds, or to the end of an epoch, which is measured."""
        point = self.training.advance()
        if point is not None and self.measure is not None:
            point |= {name: float(value) for name, value in self.measure(self.f, int(point["epoch"])).items()}
        return point

    def columns(self) -> Row:
        """What the record has besides the common columns."""
        training, f = self.training, self.f
        given = [part[:2].to(training.device) for part in training.samples.given]
        example = (*given, training.samples.y[:2].to(training.device))
        proof = verdict(f, example, wrt=len(example) - 1)
        return {
            "task": "energy",
            "epochs": training.epoch,
            "train_samples": len(training.samples),
            "validation_samples": None if training.validation is None else len(training.validation),
            "parameters": sum(parameter.numel() for parameter in f.parameters()),
            "certified": proof.certified,
            "scope": proof.scope,
            "peak_epoch": training.best_epoch or None,
            "share_in_minimise": round(training.share_in_minimise, 4),
            **self.about,
            **self.own(f),
            **self.ended(),
        }

    def ended(self) -> Mapping[str, Any]:
        """The columns of the energy after the last epoch."""
        if self.at_end is None:
            return {}
        last, best = self.training.end_weights, None
        if last is not None:
            best = {name: value.clone() for name, value in self.f.state_dict().items()}
            self.f.load_state_dict(last)
        found = self.at_end(self.f)
        if best is not None:
            self.f.load_state_dict(best)
        return found


class OfEnergy(Recorded, Protocol):
    """A learner that is recorded, of an energy."""

    @property
    def f(self) -> nn.Module:
        """The energy."""
        ...


def learn_energy(make: Callable[[Job], OfEnergy], job: Job, place: Place, tick: Tick) -> Row:
    """Train the energy of a job, from the beginning or from its checkpoint, record it, and keep it where asked for.

    Raises:
        CheckpointError, Stopped: as `convexnet.lab.runs.learning.learn`.
    """
    return learn(make, job, place, tick, keep=lambda learner: learner.f)
