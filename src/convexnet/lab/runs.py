"""Run a job: load, build, train or resume, measure, certify; and the record of it."""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import convexnet as cx
from convexnet.lab import metrics, records
from convexnet.lab.checkpoints import NAME, CheckpointError, elsewhere, read_checkpoint, write_checkpoint
from convexnet.lab.data import DataSet, Split, batches, load
from convexnet.lab.data.batches import prepared as scaled_once
from convexnet.lab.experiment import Point, Training, prepared, train
from convexnet.lab.jobs import Job
from convexnet.lab.logs import Board, write_csv
from convexnet.lab.models import build, model_named
from convexnet.lab.records import Row
from convexnet.lab.train import Diverged
from convexnet.lab.verdict import verdict
from convexnet.lab.whiten import normaliser

if TYPE_CHECKING:
    from lightning.fabric import Fabric

EVALUATED = 2000
"""Samples in a batch when nothing is trained."""

POINTS = 100
"""At most so many epochs of a curve are kept in a record; the run's own log has all."""

SAMPLED = 1000
"""Validation samples for the correlation of pre-activations, if there are so many."""

Tick = Callable[[Job, Point], None]


@dataclass(frozen=True)
class Place:
    """Where a job runs and what it may use; nothing here changes what is measured.

    Attributes:
        folder: of the run: checkpoint, log, the trained network.
        data_dir: of the data sets.
        resume: go on from a checkpoint in the folder; otherwise one that is there is an error.
        accelerator, devices: Lightning Fabric's: "cpu", "cuda", "auto", and how many processes.
        download: whether missing data may be downloaded to `data_dir`.
        board: write a log for TensorBoard too.
        network: keep the trained network, as `network.safetensors`.
        checkpoint_seconds: at least so long between two checkpoints.
        say: where remarks go.
    """

    folder: Path
    data_dir: Path | None = None
    resume: bool = True
    accelerator: str = "cpu"
    devices: int = 1
    download: bool = False
    board: bool = False
    network: bool = False
    checkpoint_seconds: float = 30.0
    say: Callable[[str], None] = lambda text: None


def run(job: Job, place: Place, tick: Tick = lambda job, point: None) -> Row:
    """Train the network of a job, from the beginning or from its checkpoint, and measure it.

    With several processes every one calls this, and every one returns the record.

    Raises:
        DataError: the data are not there, or damaged.
        CheckpointError: there is a checkpoint that does not fit, or one cannot be written.
        Diverged: the loss is no number any more.
        ValueError: a setting is wrong, or there is no such device.
    """
    fabric = launched(place, job.recipe.precision)
    raw = loaded(job, place)
    data, step = normalised(raw, job)
    # What is augmented stays bytes until it is; everything else passes the first step once, not in every epoch.
    plain = job.recipe.augment == "none"
    given, transform = (data.train, None) if plain else (raw.train.to(fabric.device), step.to(fabric.device))
    data = data.to(fabric.device)
    kind = model_named(job.model)
    model = build(job.model, data.shape, data.classes, job.recipe, job.seed).to(fabric.device)
    training = prepared(model, torch.zeros(2, *data.shape, device=fabric.device), job.recipe, convex=kind.convex)
    path = place.folder / NAME
    resume(training, path, job, place)
    # Only the first process writes.
    place = place if fabric.is_global_zero else replace(place, board=False)
    keep, close = keeper(path, job, place, training.epoch)

    def measure(network: nn.Module, number: int) -> Point:
        wanted = ["validation"]
        if number % job.measure_every == 0 or number == job.recipe.epochs:
            wanted += ["train", "test"]
        return measured(network, data, wanted)

    try:
        train(
            training,
            given.to(fabric.device),
            job.recipe,
            fabric,
            transform=transform,
            seed=job.seed,
            measure=measure,
            keep=keep,
            tick=lambda point: tick(job, point),
        )
    except Diverged as error:
        last = f"the last good checkpoint is {path}" if path.exists() else "there is no checkpoint yet"
        raise Diverged(f"{job.name}: {error}; {last}. Lower the learning rate, or look at that batch") from error
    finally:
        close()
    row: Row = {}
    if fabric.is_global_zero:
        row = record(job, training, data, step, fabric)
        if place.network:
            cx.save(complete(training.result, step), place.folder / "network.safetensors")
    return fabric.broadcast(row)


# --- before ----------------------------------------------------------------------------------------------------------


def launched(place: Place, precision: str) -> Fabric:
    """Lightning's Fabric for this place; under `torchrun` it joins the processes that are there."""
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    if precision.endswith("-true") and precision != "32-true":
        raise ValueError(f"precision {precision!r} keeps the weights themselves in it: take bf16-mixed or 32-true")
    strategy: Any = "ddp" if place.devices > 1 else "auto"
    try:
        fabric = Fabric(accelerator=place.accelerator, devices=place.devices, strategy=strategy, precision=precision)  # pyright: ignore[reportArgumentType]
    except (MisconfigurationException, RuntimeError) as error:
        raise ValueError(f"{place.devices} of {place.accelerator!r} cannot be had here: {error}") from error
    fabric.launch()
    return fabric


def leave() -> None:
    """End the group of processes, once all are here: one that ends alone may abort, as its threads wait for others."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


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
    )


def normalised(data: DataSet, job: Job) -> tuple[DataSet, nn.Module]:
    """The data behind the recipe's fixed affine first step, and that step, which the training part decides."""
    step = normaliser(data.train, job.recipe.normalise, job.recipe.epsilon)
    parts = {name: scaled_once(getattr(data, name), step) for name in ("train", "validation", "test")}
    return replace(data, **parts, extra={name: scaled_once(part, step) for name, part in data.extra.items()}), step


def resume(training: Training, path: Path, job: Job, place: Place) -> None:
    """Put a training where its checkpoint is, if there is one."""
    if not path.exists():
        return
    if not place.resume:
        raise CheckpointError(
            f"{path} is the checkpoint of an earlier run: resume it with --resume, choose another folder with --out, "
            "or delete it"
        )
    state = read_checkpoint(path, job.settings)
    training.restore(state)
    place.say(f"{job.name}: resumed after epoch {training.epoch}")
    if remark := elsewhere(state):
        place.say(f"{job.name}: {remark}")


def keeper(path: Path, job: Job, place: Place, done: int) -> tuple[Callable[[Training], None], Callable[[], None]]:
    """What to do after every epoch, log and checkpoint, and what at the end."""
    board = Board(place.folder / "tensorboard", done) if place.board else None
    written = time.monotonic()

    def keep(training: Training) -> None:
        nonlocal written
        write_csv(place.folder / "log.csv", training.curve)
        if board is not None:
            board.add(training.curve[-1])
        if time.monotonic() - written >= place.checkpoint_seconds or training.epoch == job.recipe.epochs:
            write_checkpoint(path, job.settings, training.state())
            written = time.monotonic()

    return keep, (board.close if board is not None else lambda: None)


# --- after -----------------------------------------------------------------------------------------------------------


def outputs(network: nn.Module, part: Split) -> Tensor:
    """The outputs (N, K) for a whole part, in eval mode."""
    was_training = network.training
    network.eval()
    with torch.no_grad():
        found = torch.cat([network(inputs) for inputs, _ in batches(part, EVALUATED)])
    network.train(was_training)
    return found


def measured(network: nn.Module, data: DataSet, wanted: list[str]) -> Point:
    """Loss (nats) and accuracy on the named parts of the data, on the labels used."""
    point: Point = {}
    for name in wanted:
        part: Split = getattr(data, name)
        found = outputs(network, part)
        point[f"{name}_loss"] = float(functional.cross_entropy(found, part.labels))
        point[f"{name}_accuracy"] = metrics.accuracy(found, part.labels)
    return point


def complete(network: nn.Module, step: nn.Module) -> nn.Module:
    """The trained network behind its fixed first step, on the processor, in eval mode: images in [0, 1] -> logits."""
    plain = copy.deepcopy(network).cpu()
    return nn.Sequential(OrderedDict(whiten=copy.deepcopy(step).cpu(), network=plain)).eval()


def record(job: Job, training: Training, data: DataSet, step: nn.Module, fabric: Fabric) -> Row:
    """All that is to be known about a finished run, in one flat row."""
    end, network = training.curve[-1], training.result
    assert training.best is not None, "a run of at least one epoch has a best one"
    train_outputs, test_outputs = outputs(network, data.train), outputs(network, data.test)
    best = copy.deepcopy(network)
    best.load_state_dict(training.best[1])
    proved = verdict(complete(network, step), torch.zeros(2, *data.shape))
    four = metrics.accuracies(
        train_outputs,
        data.train.labels,
        data.train.clean,
        test_outputs,
        data.test.labels,
        running=end["running_accuracy"],
    )
    return {
        "record": records.VERSION,
        "key": job.key,
        "study": job.study,
        "model": job.model,
        "dataset": job.dataset,
        "variant": job.variant,
        "tier": proved.tier if proved.certified else None,
        "recipe": asdict(job.recipe),
        "seed": job.seed,
        "epochs": training.epoch,
        "full": job.full,
        "train_samples": len(data.train),
        "validation_samples": len(data.validation),
        "test_samples": len(data.test),
        "noise": data.noise,
        "true_fraction": data.true_fraction,
        "note": data.note,
        **four,
        "validation_accuracy": end["validation_accuracy"],
        "test_accuracy_at_peak": metrics.accuracy(outputs(best, data.test), data.test.labels),
        "peak_epoch": training.best[0],
        "train_loss": float(functional.cross_entropy(train_outputs, data.train.labels)),
        "test_loss": float(functional.cross_entropy(test_outputs, data.test.labels)),
        **{
            f"{name}_accuracy": metrics.accuracy(outputs(network, part), part.labels)
            for name, part in data.extra.items()
        },
        **metrics.calibration(test_outputs, data.test.labels),
        "reliability": [list(astuple(bar)) for bar in metrics.reliability(test_outputs, data.test.labels)],
        "correlation": metrics.correlations(network, data.validation.images[:SAMPLED]),
        "certified": proved.certified,
        "convex_at_these_weights": proved.convex,
        "breaks": list(proved.breaks) if proved.breaks else None,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "curve": thinned(training.curve),
        "seconds": round(training.seconds, 3),
        "resumed_after": training.resumed,
        "processes": fabric.world_size,
        "hardware": records.hardware(fabric.device),
        "versions": records.versions(),
        "commit": records.commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def thinned(curve: list[Point]) -> list[Point]:
    """At most `POINTS` of a curve, evenly, the last included, every number to six digits."""
    stride = max(1, -(-len(curve) // POINTS))
    chosen = [point for index, point in enumerate(curve, 1) if index % stride == 0 or index == len(curve)]
    return [{name: float(f"{value:.6g}") for name, value in point.items()} for point in chosen]
