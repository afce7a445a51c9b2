"""Run a job: load, build, train or resume, measure, certify; and the record of it."""

from __future__ import annotations

import copy
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import convexnet as cx
from convexnet.curvature.undisturbed import calling
from convexnet.lab import metrics, records
from convexnet.lab.checkpoints import CheckpointError
from convexnet.lab.data import DataSet, Part, Pictures, Streamed, batches, fingerprint_of, load
from convexnet.lab.data.streamed import is_of_a_worker, worker_ended
from convexnet.lab.driver import Driven, drive
from convexnet.lab.experiment import Course, Training, prepared
from convexnet.lab.jobs import Job
from convexnet.lab.learning import common, keeping
from convexnet.lab.models import build, model_named
from convexnet.lab.normalising import normalised
from convexnet.lab.place import Place, Tick
from convexnet.lab.records import Row
from convexnet.lab.saved import described, require_savable
from convexnet.lab.train import Diverged
from convexnet.lab.verdict import verdict
from convexnet.learner import Point

if TYPE_CHECKING:
    from lightning.fabric import Fabric

EVALUATED = 2000
"""Samples in a batch when nothing is trained, at most."""

ACTIVATIONS = 2**28
"""Bytes that the largest result of a layer may have then."""

SAMPLED = 1000
"""Validation samples for the correlation of pre-activations, if there are so many."""

LOOKED_AT = 50_000
"""Streamed training images on which the training accuracy is measured, at most; all would cost another epoch."""


def run(job: Job, place: Place, tick: Tick = lambda job, point: None) -> Row:
    """Train the network of a job, from the beginning or from its checkpoint, and measure it.

    With several processes every one calls this, and every one returns the record.

    Raises:
        DataError: the data are not there, or damaged.
        CheckpointError: there is a checkpoint that does not fit, or one cannot be written.
        Diverged: the loss is no number any more.
        ValueError: a setting is wrong, or there is no such device.
    """
    job = identified(job)
    fabric = launched(place, job.recipe.precision)
    raw = loaded(job, place)
    data, step = normalised(raw, job)
    # What is augmented stays bytes until it is; everything else passes the first step once, not in every epoch.
    plain = job.recipe.augment == "none"
    given, transform = (data.train, None) if plain else (raw.train, step.to(fabric.device))
    data = data.to(fabric.device)
    kind = model_named(job.model)
    model = build(job.model, data.shape, data.classes, job.recipe, job.seed).to(fabric.device)

    def measure(network: nn.Module, number: int) -> Point:
        wanted = ["validation"]
        if number % job.measure_every == 0 or number == job.recipe.epochs:
            wanted += ["train", "test"]
        return measured(network, data, wanted)

    course = Course(given.to(fabric.device), job.recipe, fabric, transform, job.seed, measure)
    training = prepared(model, torch.zeros(2, *data.shape, device=fabric.device), course, convex=kind.convex)
    how = keeping(job, place, writes=fabric.is_global_zero, agreed=agreement(fabric))
    if place.network:
        require_savable(complete(model, step))
    place.ready()
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
        dead = str(error)
    if dead:  # outside of the handler, whose error would keep the dead worker's loader alive
        training.given = None
        raise worker_ended(dead)
    row: Row = {}
    if fabric.is_global_zero:
        row = record(job, training, driven, data, step, fabric)
        if place.network:
            save(described(complete(training.result, step), data), place.folder / "network.safetensors")
    return fabric.broadcast(row)


def agreement(fabric: Fabric) -> Callable[[bool], bool]:
    """Whether any of the processes says so."""

    def agreed(said: bool) -> bool:
        if fabric.world_size == 1:
            return said
        return bool(fabric.all_reduce(torch.tensor(float(said), device=fabric.device), reduce_op="sum"))

    return agreed


def save(network: nn.Module, path: Path) -> None:
    """Write a network.

    Raises:
        CheckpointError: it cannot be written; the checkpoint has it.
    """
    try:
        cx.save(network, path)
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written ({error.strerror or error}); the checkpoint beside it has the weights: free "
            "some space and resume from it"
        ) from error


# --- before ----------------------------------------------------------------------------------------------------------


def launched(place: Place, precision: str) -> Fabric:
    """Lightning's Fabric for this place; under `torchrun` it joins the processes that are there."""
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    if precision.endswith("-true") and precision != "32-true":
        raise ValueError(f"precision {precision!r} keeps the weights themselves in it: take bf16-mixed or 32-true")
    devices, nodes = processes(place.devices)
    strategy: Any = "ddp" if devices * nodes > 1 else "auto"
    kind: Any = precision
    try:
        fabric = Fabric(
            accelerator=place.accelerator, devices=devices, num_nodes=nodes, strategy=strategy, precision=kind
        )
    except (MisconfigurationException, RuntimeError) as error:
        raise ValueError(f"{place.devices} of {place.accelerator!r} cannot be had here: {error}") from error
    fabric.launch()
    return fabric


def processes(devices: int) -> tuple[int, int]:
    """How many processes a machine has, and how many machines there are: under `torchrun` as it says.

    Raises:
        ValueError: it says something else than what was asked for.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", devices))
    if devices not in (1, here):
        raise ValueError(f"torchrun started {here} processes on this machine, and {devices} devices were asked for")
    return here, max(1, int(os.environ.get("WORLD_SIZE", here)) // here)


def leave() -> None:
    """End the group of processes, once all are here: one that ends alone may abort, as its threads wait for others."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


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
        train_samples=job.train_samples,
        download=place.download,
        pictures=Pictures(job.image_size, job.streamed, place.workers),
    )


def looked_at(part: Part) -> Part:
    """What of a part is measured: all, or evenly taken images of a long one that is streamed."""
    if not isinstance(part, Streamed) or len(part) <= LOOKED_AT:
        return part
    return part.rows(torch.linspace(0, len(part) - 1, LOOKED_AT).round().long().to(part.labels.device))


# --- after -----------------------------------------------------------------------------------------------------------


def outputs(network: nn.Module, part: Part) -> Tensor:
    """The outputs (N, K) for a whole part, in eval mode."""
    was_training = network.training
    network.eval()
    with torch.no_grad():
        size = evaluated_together(network, first_inputs(part, 1))
        found = torch.cat([network(inputs) for inputs, _ in batches(part, size)])
    network.train(was_training)
    return found


def first_inputs(part: Part, count: int) -> Tensor:
    """The first inputs of a part, (count, ...) or as many as there are."""
    first = part.rows(torch.arange(min(count, len(part)), device=part.labels.device))
    return next(batches(first, count))[0]


def few_inputs(network: nn.Module, part: Part) -> Tensor:
    """As many of the first inputs of a part as `SAMPLED` says, and as the largest layer has memory for."""
    with calling(network):
        return first_inputs(part, min(SAMPLED, evaluated_together(network, first_inputs(part, 1))))


def evaluated_together(network: nn.Module, one: Tensor) -> int:
    """How many samples like this one (1, ...) a batch may have, so that no layer makes more than `ACTIVATIONS` bytes.

    Example:
        >>> evaluated_together(nn.Linear(4, 2), torch.zeros(1, 4))
        2000
    """
    largest = one.numel() * one.element_size()

    def note(module: nn.Module, given: object, made: object) -> None:
        nonlocal largest
        if isinstance(made, Tensor):
            largest = max(largest, made.numel() * made.element_size())

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    try:
        network(one)
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, min(EVALUATED, ACTIVATIONS // largest))


def measured(network: nn.Module, data: DataSet, wanted: list[str]) -> Point:
    """Loss (nats) and accuracy on the named parts of the data, on the labels used."""
    point: Point = {}
    for name in wanted:
        part = looked_at(getattr(data, name))
        found = outputs(network, part)
        point[f"{name}_loss"] = float(functional.cross_entropy(found, part.labels))
        point[f"{name}_accuracy"] = metrics.accuracy(found, part.labels)
    return point


def complete(network: nn.Module, step: nn.Module) -> nn.Module:
    """The trained network behind its fixed first step, on the processor, in eval mode: images in [0, 1] -> logits."""
    plain = copy.deepcopy(network).cpu()
    return nn.Sequential(OrderedDict(whiten=copy.deepcopy(step).cpu(), network=plain)).eval()


def record(job: Job, training: Training, driven: Driven, data: DataSet, step: nn.Module, fabric: Fabric) -> Row:
    """All that is to be known about a finished run, in one flat row."""
    end, network = driven.curve[-1], training.result
    assert training.best is not None, "a run of at least one epoch has a best one"
    train = looked_at(data.train)
    train_outputs, test_outputs = outputs(network, train), outputs(network, data.test)
    best = copy.deepcopy(network)
    best.load_state_dict(training.best.weights)
    proved = verdict(complete(network, step), torch.zeros(2, *data.shape))
    four = metrics.accuracies(
        train_outputs,
        train.labels,
        train.clean,
        test_outputs,
        data.test.labels,
        running=end["running_accuracy"],
    )
    return {
        **common(job, driven),
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
        **four,
        "validation_accuracy": end["validation_accuracy"],
        "test_accuracy_at_peak": metrics.accuracy(outputs(best, data.test), data.test.labels),
        "peak_epoch": training.best.epoch,
        "train_loss": float(functional.cross_entropy(train_outputs, train.labels)),
        "test_loss": float(functional.cross_entropy(test_outputs, data.test.labels)),
        **{
            f"{name}_accuracy": metrics.accuracy(outputs(network, part), part.labels)
            for name, part in data.extra.items()
        },
        **metrics.calibration(test_outputs, data.test.labels),
        "reliability": [list(astuple(bar)) for bar in metrics.reliability(test_outputs, data.test.labels)],
        "correlation": metrics.correlations(network, few_inputs(network, data.validation)),
        "certified": proved.certified,
        "convex_at_these_weights": proved.convex,
        "breaks": list(proved.breaks) if proved.breaks else None,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "processes": fabric.world_size,
        "hardware": records.hardware(fabric.device),
    }
