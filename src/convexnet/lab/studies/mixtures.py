"""Train mixtures of experts by generalised EM for figures 4 and 5 and appendix E, and make their records."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.ensembles import ExpectationMaximisation, MixtureOfExperts
from convexnet.ensembles.outputs import classes_of, evaluating, predict
from convexnet.lab.data import DataError, DataSet, Split
from convexnet.lab.models.convex import drawn_from
from convexnet.lab.models.registry import build
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.learning import NETWORK, common, keeping, save
from convexnet.lab.runs.measuring import measure_network, outputs
from convexnet.lab.runs.normalising import in_memory, normalised
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.runs.run import complete
from convexnet.lab.runs.tasks import classification
from convexnet.lab.runs.verdict import Verdict, verdict
from convexnet.lab.training.checkpoints import epoch_seed
from convexnet.lab.training.driver import drive
from convexnet.lab.training.experiment import Best
from convexnet.lab.training.task import Measured
from convexnet.learner import Point
from convexnet.training import keeps_statistics

CONVEX, ORDINARY = "ioc-mixture-", "mixture-"
"""What the name of a mixture begins with, before the number of its experts."""

PATIENCE = 10
"""Iterations in a row that change nothing, after which EM stops."""


def experts_of(name: str) -> tuple[bool, int]:
    """Whether the experts of a mixture are kept convex, and how many there are.

    Example:
        >>> experts_of("ioc-mixture-5"), experts_of("mixture-10")
        ((True, 5), (False, 10))
    """
    convex = name.startswith(CONVEX)
    return convex, int(name.removeprefix(CONVEX if convex else ORDINARY))


def is_mixture(name: str) -> bool:
    """Whether a job's model is a mixture."""
    return name.startswith((CONVEX, ORDINARY))


def mixture_of(job: Job, shape: tuple[int, ...], expert: str, gate: int) -> MixtureOfExperts:
    """The mixture of a job as it is at the beginning, every expert drawn from a seed of its own.

    Args:
        job: its model, recipe and seed.
        shape: of a sample.
        expert: the name of an ordinary network, whose counterpart the convex experts are.
        gate: units of the gate's hidden layer; 0: it has none.
    """
    convex, count = experts_of(job.model)
    name = f"ioc-{expert.removesuffix('-signs')}" if convex else expert
    seeds = [epoch_seed(job.seed, index, "expert") for index in range(count)]
    experts = [build(name, shape, 1, job.recipe, seed) for seed in seeds]
    size = math.prod(shape)
    with drawn_from(epoch_seed(job.seed, 0, "gate")):
        layers: list[nn.Module] = [nn.Flatten()]
        layers += [nn.Linear(size, gate), nn.ReLU(), nn.Linear(gate, count)] if gate else [nn.Linear(size, count)]
    return MixtureOfExperts(experts, nn.Sequential(*layers))


@torch.no_grad()
def settle(model: nn.Module, inputs: Tensor, rows: int = 1024) -> None:
    """Give every BatchNorm the mean and variance of what comes to it, before the first likelihood is measured.

    With those of a new network, 0 and 1, the first steps of EM would be measured by a function that they do not train.
    """
    layers: list[Any] = [part for part in model.modules() if keeps_statistics(part)]
    momenta = [part.momentum for part in layers]
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    for part in layers:
        part.reset_running_stats()
        part.momentum = None  # an even average over the batches
        part.train()
    for chunk in inputs.split(rows):
        if len(chunk) > 1:
            model(chunk)
    for part, momentum in zip(layers, momenta, strict=True):
        part.momentum = momentum
    for part, training in modes:
        part.training = training


@contextlib.contextmanager
def failing(job: Job, kind: Callable[[str], Exception]) -> Generator[None]:
    """Name the job where its samples or its loss make no sense, and let a sweep go on with the next one."""
    try:
        yield
    except ValueError as error:
        raise kind(f"{job.name}: {error}") from error


class Mixing:
    """EM with a measurement after each iteration, and the weights of the best one by validation. A learner."""

    def __init__(self, em: ExpectationMaximisation, data: DataSet, every: int) -> None:
        self.em, self.data, self.every = em, data, every
        self.best: Best | None = None

    @property
    def done(self) -> bool:
        """Return whether EM is over."""
        return self.em.done

    def state(self) -> dict[str, Any]:
        """Return all that it needs to continue."""
        return {"em": self.em.state(), "best": None if self.best is None else dict(vars(self.best))}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state()`."""
        self.em.restore(state["em"])
        self.best = None if state["best"] is None else Best(**state["best"])

    def advance(self) -> Point | None:
        """Work for about two seconds, or to the end of an iteration, which is measured."""
        found = self.em.advance()
        if found is None:
            return None
        number = int(found["iteration"])
        wanted = ["validation"]
        if number % self.every == 0 or self.done:
            wanted += ["train", "test"]
        point = {
            "epoch": float(number),
            **found,
            **measure_network(self.em.mixture, self.data, wanted, classification()),
        }
        right = point.get("validation_accuracy")
        if right is not None and (self.best is None or right > self.best.accuracy):
            weights = {name: value.clone() for name, value in self.em.mixture.state_dict().items()}
            self.best = Best(number, right, weights)
        return point


@dataclass(frozen=True)
class Mixed:
    """A mixture that was trained, the step in front of it, its data behind that step, and its record."""

    mixture: MixtureOfExperts
    step: nn.Module
    data: DataSet
    row: Row

    @property
    def preferred(self) -> Tensor:
        """The expert (N,) that the gate prefers for each sample of the test part."""
        return preferred(self.mixture, in_memory(self.data.test).images)


def preferred(mixture: MixtureOfExperts, inputs: Tensor) -> Tensor:
    """The expert (N,) that the gate prefers for each input (N, ...)."""
    return predict(mixture.gate, inputs).argmax(1)


def mix(job: Job, place: Place, tick: Tick, raw: DataSet, *, expert: str = "mlp", gate: int = 0) -> Mixed:
    """Train the mixture of a job on two classes, from the beginning or from its checkpoint, and record it.

    The recipe's epochs are iterations of EM, its weight decay the penalty.

    Raises:
        CheckpointError, Stopped: as `convexnet.lab.runs.learning.learn`.
        DataError: fewer samples than experts, a class without samples, or experts that give NaN from the beginning.
    """
    data, step = normalised(raw, job)
    train, how = in_memory(data.train), job.recipe
    mixture = mixture_of(job, data.shape, expert, gate)
    settle(mixture, train.images)
    with failing(job, DataError):
        em = ExpectationMaximisation(
            mixture,
            train.images,
            train.labels,
            iterations=how.epochs,
            batch=how.batch,
            learning_rate=how.learning_rate,
            penalty=how.weight_decay,
            patience=how.patience or PATIENCE,
            seed=job.seed,
        )
    learner = Mixing(em, data, job.measure_every)
    driven = drive(learner, keeping(job, place), lambda point: tick(job, point))
    mixture.eval()
    row = {**common(job, driven), **columns(learner, driven.curve, job)}
    if place.network:
        save(complete(mixture, step), place.folder / NETWORK)
    return Mixed(mixture, step, data, row)


def columns(learner: Mixing, curve: list[Point], job: Job) -> Row:
    """What the record of a mixture says besides what every record has."""
    mixture, data, em = learner.em.mixture, learner.data, learner.em
    train, test = in_memory(data.train), in_memory(data.test)
    answers = outputs(mixture, test)
    peak = None
    if learner.best is not None:
        last = {name: value.clone() for name, value in mixture.state_dict().items()}
        mixture.load_state_dict(learner.best.weights)
        peak = outputs(mixture, test)
        mixture.load_state_dict(last)
    figures = classification().columns(
        Measured(
            # No pass of EM scores its batches as it goes.
            end={**curve[-1], "running_accuracy": math.nan},
            train=outputs(mixture, train),
            used=train.labels,
            clean=train.clean,
            test=answers,
            targets=test.labels,
            peak=peak,
            extra={name: (outputs(mixture, part), part.labels) for name, part in data.extra.items()},
        )
    )
    whole = verdict(mixture, torch.zeros(2, *data.shape))
    return {
        **figures,
        "running_accuracy": None,
        "tier": None,
        "epochs": em.iteration,
        "train_samples": len(train),
        "validation_samples": len(data.validation),
        "test_samples": len(test),
        "note": data.note,
        "data": data.fingerprint,
        "peak_epoch": None if learner.best is None else learner.best.epoch,
        "certified": whole.certified,
        "parameters": sum(parameter.numel() for parameter in mixture.parameters()),
        "log_likelihood": em.objective,
        # An expert's set {f <= 0} is convex, and class 0 is what it gives to it: which class that is, matters.
        "convex_class": data.classnames[0],
        "falls": sum(after["log_likelihood"] < before["log_likelihood"] for before, after in pairwise(curve)),
        "remarks": list(em.remarks),
        **of_experts(mixture, test, data.shape),
    }


def of_experts(mixture: MixtureOfExperts, test: Split, shape: tuple[int, ...]) -> Row:
    """What every expert is and does: its proof, its share of the test part, and how often it is right there."""
    proofs: list[Verdict] = [verdict(expert, torch.zeros(2, *shape)) for expert in mixture.experts]
    chosen = preferred(mixture, test.images)
    right = torch.stack([classes_of(predict(expert, test.images)) == test.labels for expert in mixture.experts])
    within = [right[index][chosen == index] for index in range(len(right))]
    return {
        "experts": len(mixture.experts),
        "experts_certified": sum(proof.certified for proof in proofs),
        "experts_tier": sorted({proof.tier or "none" for proof in proofs if proof.certified}),
        "ensemble": mixture.certificates(torch.zeros(2, *shape)).ensemble,
        "experts_used": int((torch.bincount(chosen, minlength=len(right)) > 0).sum()),
        "shares": [round(float((chosen == index).double().mean()), 6) for index in range(len(right))],
        "expert_accuracy": [float(one.double().mean()) for one in right],
        "accuracy_where_preferred": [float(one.double().mean()) if len(one) else None for one in within],
        "preferred_alone_accuracy": float(right.gather(0, chosen[None])[0].double().mean()),
        "oracle_accuracy": float(right.any(0).double().mean()),
    }


def binary(raw: DataSet, positive: tuple[int, ...], name: str, classnames: tuple[str, str]) -> DataSet:
    """The same data with two classes: 1 for the classes in `positive`, 0 for the rest."""

    def two(part: Split) -> Split:
        wanted = torch.tensor(positive)
        labels = torch.isin(part.labels, wanted).long()
        same = part.clean is part.labels
        return Split(part.images, labels, labels if same else torch.isin(part.clean, wanted).long())

    return DataSet(
        name=name,
        train=two(in_memory(raw.train)),
        validation=two(in_memory(raw.validation)),
        test=two(in_memory(raw.test)),
        classes=2,
        classnames=classnames,
        extra={what: two(in_memory(part)) for what, part in raw.extra.items()},
        note=raw.note,
        fingerprint=raw.fingerprint,
    )


@torch.no_grad()
def outputs_of_experts(mixture: MixtureOfExperts, inputs: Tensor) -> Tensor:
    """The output (N, experts) of every expert with one output, in eval mode."""
    with evaluating(mixture):
        return torch.cat([predict(expert, inputs) for expert in mixture.experts], 1)
