"""Run one job: load, build, train or resume, measure, certify, and make its record."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from convexnet.lab.data import DataSet, Pictures, fingerprint_of, load
from convexnet.lab.data.streamed import is_of_a_worker, silence_reports, worker_ended
from convexnet.lab.models.registry import build, model_named
from convexnet.lab.models.saved import described, require_savable
from convexnet.lab.runs import metrics, records
from convexnet.lab.runs.devices import agreement, launched
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.learning import NETWORK, common, keeping, save
from convexnet.lab.runs.measuring import few_inputs, measure_network, measured_part, outputs
from convexnet.lab.runs.normalising import normalised
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.runs.tasks import classification
from convexnet.lab.runs.verdict import Verdict, part_verdicts, verdict
from convexnet.lab.training.driver import Driven, drive
from convexnet.lab.training.epoch import Diverged
from convexnet.lab.training.experiment import Course, Training, prepared
from convexnet.lab.training.task import Measured, Task
from convexnet.learner import Point

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def run(job: Job, place: Place, tick: Tick = lambda job, point: None) -> Row:
    """Train the network of a job, from the beginning or from its checkpoint, and measure it.

    With several processes every one calls this, and every one returns the record.

    Raises:
        DataError: the data are not there, or damaged.
        CheckpointError: there is a checkpoint that does not fit, or one cannot be written.
        Diverged: the loss is not a number any more.
        ValueError: a setting is wrong, or there is no such device.
    """
    found = trained(job, place, tick)
    row: Row = {}
    if found.fabric.is_global_zero:
        row = record(found)
        if place.network:
            save(described(found.network, found.data), place.folder / NETWORK)
    return found.fabric.broadcast(row)


@dataclass(frozen=True)
class Trained:
    """A network that was trained, and everything that its record is made of.

    Attributes:
        job: what was run.
        training: the learner, done.
        driven: its curve, and how long it took.
        data: on the device it was trained on, behind the fixed first step.
        step: that step.
        fabric: what it was trained with.
    """

    job: Job
    training: Training
    driven: Driven
    data: DataSet
    step: nn.Module
    fabric: Fabric

    @property
    def network(self) -> nn.Module:
        """The trained network behind its fixed first step, on the CPU, in eval mode: samples as they are -> outputs."""
        return complete(self.training.result, self.step)

    @cached_property
    def proved(self) -> Verdict:
        """What is proved of it, computed once: the record has some of it, and a page may show the certificate."""
        return verdict(self.network, torch.zeros(2, *self.data.shape))

    @property
    def task(self) -> Task:
        """What was learnt."""
        return self.training.course.task


def trained(job: Job, place: Place, tick: Tick = lambda job, point: None) -> Trained:
    """Train the network of a job as `run` does, without its record.

    Raises:
        DataError, CheckpointError, Diverged, ValueError: as `run`.
    """
    job = identified(job)
    fabric = launched(place, job.recipe.precision)
    raw = loaded(job, place)
    model = build(job.model, raw.shape, raw.classes, job.recipe, job.seed)
    return train_model(job, place, tick, model, raw, fabric=fabric, convex=model_named(job.model).constrained)


def train_model(
    job: Job,
    place: Place,
    tick: Tick,
    model: nn.Module,
    raw: DataSet,
    *,
    convex: bool,
    task: Task | None = None,
    weights: Tensor | None = None,
    fabric: Fabric | None = None,
) -> Trained:
    """Train any network on any data, from the beginning or from a checkpoint: what a study's own `run` calls.

    Args:
        job: its settings; nothing is loaded or built from them.
        place: where.
        tick: called with every point.
        model: as it is at the beginning.
        raw: the data before the recipe's first step.
        convex: whether the constraint of a convex network is kept.
        task: what is learnt; None: classification with the recipe's loss and smoothing.
        weights: (N,) of the training samples, 1 on average; None: each counts alike.
        fabric: launched; None: it is launched here.

    Raises:
        CheckpointError, Diverged, ValueError: as `run`.
    """
    fabric = launched(place, job.recipe.precision) if fabric is None else fabric
    learnt = classification(job.recipe.smoothing, job.recipe.loss) if task is None else task
    data, step = normalised(raw, job)
    # What is augmented stays bytes until it is; everything else passes the first step once, not in every epoch.
    plain = job.recipe.augment == "none"
    given, transform = (data.train, None) if plain else (raw.train, step.to(fabric.device))
    data = data.to(fabric.device)
    model = model.to(fabric.device)

    def measure(network: nn.Module, number: int) -> Point:
        wanted = ["validation"]
        if number % job.measure_every == 0 or number == job.recipe.epochs:
            wanted += ["train", "test"]
        return measure_network(network, data, wanted, learnt)

    course = Course(given.to(fabric.device), job.recipe, fabric, transform, job.seed, measure, learnt, weights)
    training = prepared(model, torch.zeros(2, *data.shape, device=fabric.device), course, convex=convex)
    how = keeping(job, place, writes=fabric.is_global_zero, agreed=agreement(fabric))
    if place.network:
        require_savable(complete(training.result, step))
    dead = ""
    driven = Driven()
    try:
        driven = drive(training, how, lambda point: tick(job, point))
    except Diverged as error:
        path = how.checkpoint
        last = f"the last good checkpoint is {path}" if path.exists() else "there is no checkpoint yet"
        raise Diverged(f"{job.name}: {error}; {last}. Lower the learning rate, or look at that batch") from error
    except RuntimeError as error:
        if not is_of_a_worker(error):
            raise
        silence_reports()
        dead = str(error)
    finally:
        training.close()
    if dead:  # outside of the handler, whose error would keep the dead worker's loader alive
        raise worker_ended(dead)
    return Trained(job, training, driven, data, step, fabric)


# --- before ----------------------------------------------------------------------------------------------------------


def identified(job: Job) -> Job:
    """The job with what stands for the content of its data, where these are a user's own."""
    return job if job.data else replace(job, data=fingerprint_of(job.dataset))


def loaded(job: Job, place: Place) -> DataSet:
    """The data of a job."""
    return load(
        job.dataset,
        place.data_dir,
        seed=job.seed,
        validation=job.validation,
        noise=job.noise,
        noise_kind=job.noise_kind,
        noisy_validation=job.noisy_validation,
        train_samples=job.train_samples,
        download=place.download,
        pictures=Pictures(job.image_size, job.streamed, place.workers, job.skip_unreadable),
    )


# --- after -----------------------------------------------------------------------------------------------------------


def complete(network: nn.Module, step: nn.Module) -> nn.Module:
    """The trained network behind its fixed first step, on the processor, in eval mode: images in [0, 1] -> logits."""
    plain = copy.deepcopy(network).cpu()
    return nn.Sequential(OrderedDict(whiten=copy.deepcopy(step).cpu(), network=plain)).eval()


def record(found: Trained) -> Row:
    """All that is to be known about a finished run, in one flat row."""
    job, training, data, task = found.job, found.training, found.data, found.task
    network = training.result
    peak = None
    if training.best is not None and len(data.test):
        best = copy.deepcopy(network)
        best.load_state_dict(training.best.weights)
        peak = outputs(best, data.test)
    train = measured_part(data.train)
    proved = found.proved
    parts = part_verdicts(network, few_inputs(network, data.train)[:2])
    columns = task.columns(
        Measured(
            end=found.driven.curve[-1],
            train=outputs(network, train),
            used=train.labels,
            clean=train.clean,
            test=outputs(network, data.test) if len(data.test) else None,
            targets=data.test.labels,
            peak=peak,
            extra={name: (outputs(network, part), part.labels) for name, part in data.extra.items()},
            validation=(outputs(network, data.validation), data.validation.labels) if len(data.validation) else None,
        )
    )
    looked_at = data.validation if len(data.validation) else data.train
    return {
        **common(job, found.driven),
        **({} if task.name == records.CLASSIFICATION else {"task": task.name}),
        "tier": proved.tier if proved.certified else None,
        "epochs": training.epoch,
        "train_samples": len(data.train),
        "validation_samples": len(data.validation),
        "test_samples": len(data.test),
        "noise": data.noise,
        "true_fraction": data.true_fraction,
        "note": data.note if train is data.train else f"{data.note}; training accuracy of {len(train)} images",
        "data": data.fingerprint,
        **({"noise_data": data.noise_fingerprint} if data.noise_fingerprint else {}),
        **columns,
        **({} if job.recipe.converged is None else {"converged": training.converged}),
        "peak_epoch": training.best.epoch if training.best is not None else None,
        "correlation": metrics.correlations(network, few_inputs(network, looked_at)),
        "certified": proved.certified,
        "convex_at_these_weights": proved.convex,
        "breaks": list(proved.breaks) if proved.breaks else None,
        **({"certified_parts": {path: part.certified for path, part in parts.items()}} if parts else {}),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "processes": found.fabric.world_size,
        "hardware": records.hardware(found.fabric.device),
    }
