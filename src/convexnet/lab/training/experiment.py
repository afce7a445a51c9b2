"""`Training`, the learner of a network: on any device through Lightning Fabric, with early stopping and averages.

It advances by a few seconds of steps, and its state says where in an epoch it is. Whoever drives it
(`convexnet.lab.training.driver`) writes checkpoints, logs and bars; `convexnet.lab.runs.run` makes it from a job.

Long because what advances a network, what it has to remember, and what puts it back are one state.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from convexnet.lab.data import Part, augmentation, batches
from convexnet.lab.data.augment import mixed
from convexnet.lab.training.checkpoints import CheckpointError, epoch_seed
from convexnet.lab.training.epoch import Batch, Diverged, Seen, constrained, constraint_by_names, set_rate, steps
from convexnet.lab.training.parameters import groups, update
from convexnet.lab.training.recipes import Recipe
from convexnet.lab.training.robust_losses import Memory
from convexnet.lab.training.sharded import BY_NAME, Sharded, is_sharding, restore_by_name
from convexnet.lab.training.task import Task
from convexnet.learner import Point, seed_generators

if TYPE_CHECKING:
    from lightning.fabric import Fabric

SLICE = 2.0
"""Seconds that one advance takes, about; one step at least."""


@dataclass(frozen=True)
class Course:
    """What a network is trained on, and how.

    Attributes:
        data: the training part, which gives out its batches on the device of `fabric`.
        recipe: how.
        fabric: Lightning's, launched; with several processes, each sees its part of every batch.
        transform: of the inputs, after augmentation.
        seed: with the numbers of epoch and batch it decides the order of the data, augmentation and dropout.
        measure: of the network after an epoch, in the first process; what the task calls its figure, on the validation
            part, chooses the best epoch. Where it is not measured there is none.
        task: what is learnt.
        weights: (N,) of the training samples, 1 on average; None: each counts alike.
    """

    data: Part
    recipe: Recipe
    fabric: Fabric
    transform: Callable[[Tensor], Tensor] | None
    seed: int
    measure: Callable[[nn.Module, int], Point]
    task: Task
    weights: Tensor | None = None

    @property
    def count(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.data) // self.recipe.batch)

    def order(self, epoch: int) -> int:
        """The seed of the order of an epoch, and of its augmentation."""
        return epoch_seed(self.seed, epoch, "order")

    def given(self, epoch: int, first: int) -> Generator[Batch]:
        """The batches of an epoch from number `first` on, as this process sees them.

        Each is given out with the random state of its own number, so that an epoch may begin in its midst.
        """
        recipe, fabric = self.recipe, self.fabric
        order = torch.Generator().manual_seed(self.order(epoch))
        processes, rank = fabric.world_size, fabric.global_rank
        made = batches(
            self.data,
            recipe.batch,
            generator=order,
            augment=augmentation(recipe.augment),
            transform=self.transform,
            start=first,
            share=(rank, processes),
        )
        for number, (inputs, labels) in enumerate(made, first):
            whole = min(recipe.batch, len(self.data) - number * recipe.batch)
            if whole >= 2 * processes:  # BatchNorm makes nothing of a single row
                rows, weights = None, None
                if self.weights is not None or self.task.memory is not None:
                    numbers = rows_of(len(self.data), recipe.batch, self.order(epoch), number)
                    rows = torch.tensor(numbers[rank::processes], device=labels.device)
                if self.weights is not None and rows is not None:
                    weights = self.weights[rows.to(self.weights.device)]
                others, kept = None, 1.0
                if recipe.mixup or recipe.cutmix:  # within what this process sees of a batch
                    drawn = epoch_seed(self.seed, epoch, f"mixing {number}", rank)
                    found = mixed(inputs, recipe.mixup, recipe.cutmix, drawn)
                    inputs, others, kept = found.inputs, found.others, found.kept
                seed_generators(epoch_seed(self.seed, epoch, f"dropout {number}", fabric.global_rank))
                yield Batch(inputs, labels, processes * len(labels) / whole, weights, rows, others, kept)


@dataclass(frozen=True)
class Best:
    """The first epoch with the best figure of the validation part, under its old name, and the weights then."""

    epoch: int
    accuracy: float
    weights: dict[str, Tensor]


@dataclass
class Training:
    """A network while it is trained, until the epochs are over or the patience is spent: a learner.

    Attributes:
        model: the network, on the course's device; whatever wraps it has the same tensors.
        optimiser: of its parameters; what keeps it convex is attached to it.
        course: what it is trained on.
        average: a copy with averaged weights, where the recipe asks for one; then it is what counts.
        epoch: how many are done.
        steps: how many are done, over all epochs.
        batch: how many batches are done of the epoch that has begun.
        seen: what these saw.
        best: None before the end of the first epoch, and without a validation part.
        loss: the running loss of the last epoch; None before there is one.
        memory: the loss, where it remembers something of each sample.
        sharded: the network in shards, where several processes share it.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    course: Course
    average: nn.Module | None = None
    epoch: int = 0
    steps: int = 0
    batch: int = 0
    seen: Seen | None = None
    best: Best | None = None
    loss: float | None = None
    memory: Memory | None = None
    sharded: Sharded | None = None
    pace: int = field(default=1, repr=False)  # steps of an advance
    given: Generator[Batch] | None = field(default=None, repr=False)  # the rest of the epoch that has begun

    @property
    def result(self) -> nn.Module:
        """The network that counts; of one in shards, as it was after the last epoch."""
        if self.sharded is not None:
            return self.sharded.whole
        return self.model if self.average is None else self.average

    def state(self) -> dict[str, Any]:
        """All that it needs to go on; of a network in shards, every process has to ask for it."""
        sharded, optimiser = self.sharded, self.optimiser
        return {
            "model": self.model.state_dict() if sharded is None else sharded.gather(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": optimiser.state_dict() if sharded is None else sharded.optimiser_state(optimiser),
            "epoch": self.epoch,
            "steps": self.steps,
            "batch": self.batch,
            "seen": None if self.seen is None else self.seen.state(),
            "best": None if self.best is None else dict(vars(self.best)),
            "loss": self.loss,
            "memory": None if self.memory is None else self.memory.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state()`."""
        self.close()
        if self.sharded is None:
            self.model.load_state_dict(state["model"])
        else:
            self.sharded.restore(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if BY_NAME in state["optimiser"]:
            restore_by_name(self.model, self.optimiser, state["optimiser"])
        elif self.sharded is None:
            self.optimiser.load_state_dict(state["optimiser"])
        else:
            raise CheckpointError("this checkpoint is of a run without --sharded: go on without it")
        self.epoch, self.steps, self.batch = state["epoch"], state["steps"], state["batch"]
        self.seen = None if state["seen"] is None else Seen.restored(state["seen"])
        self.best = None if state["best"] is None else Best(**state["best"])
        self.loss = state.get("loss")  # a checkpoint of before has neither
        if self.memory is not None:
            self.memory.restore(state["memory"])

    def close(self) -> None:
        """Let go of the rest of an epoch, with the processes that decode it."""
        if self.given is not None:
            self.given.close()
            self.given = None

    @property
    def spent(self) -> bool:
        """Whether the validation part has not got better for as many epochs as the recipe has patience."""
        patience = self.course.recipe.patience
        return patience is not None and self.best is not None and self.epoch - self.best.epoch >= patience

    @property
    def converged(self) -> bool:
        """Whether the running loss of the last epoch was below what the recipe calls converged."""
        least = self.course.recipe.converged
        return least is not None and self.loss is not None and self.loss < least

    @property
    def done(self) -> bool:
        """Whether the epochs are over, the patience is spent or the loss has converged."""
        return self.epoch >= self.course.recipe.epochs or self.spent or self.converged

    @cached_property
    def wrapped(self) -> tuple[Any, Any]:
        """The network and the optimiser as Fabric has them, compiled where the recipe asks for it."""
        if self.sharded is not None:
            return self.sharded.wrapped, self.course.fabric.setup_optimizers(self.optimiser)
        # torch.compile is typed for functions; it returns a module for a module.
        network = cast("nn.Module", torch.compile(self.model)) if self.course.recipe.compiled else self.model
        return self.course.fabric.setup(network, self.optimiser, move_to_device=False)

    def advance(self) -> Point | None:
        """Some steps; the measurements of an epoch, where they end it.

        Raises:
            Diverged: a loss is infinite or NaN.
        """
        course, fabric, recipe = self.course, self.course.fabric, self.course.recipe
        forward, optimiser = self.wrapped
        number = self.epoch + 1
        set_rate(self.optimiser, recipe.rate(number))
        seen = self.seen = self.seen or Seen(number)
        count = int(fabric.broadcast(self.pace)) if fabric.world_size > 1 else self.pace
        last = min(self.batch + count, course.count)
        started = perf_counter()
        cuda = [fabric.device] if fabric.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=cuda):
                # One iterator for the whole epoch: images that are decoded ahead must not be thrown away.
                self.given = self.given or course.given(number, self.batch)
                some = islice(self.given, last - self.batch)
                steps(
                    *(forward, optimiser, some, seen),
                    task=course.task,
                    memory=self.memory,
                    backward=fabric.backward,
                    after=self.after,
                    accumulate=recipe.accumulate,
                    unshared=lambda: fabric.no_backward_sync(forward),
                )
        except Diverged as error:
            rows = rows_of(len(course.data), recipe.batch, course.order(number), error.batch or 0)
            first = ", ".join(str(row) for row in rows[:8])
            raise Diverged(f"{error}; its batch has rows {first}, ... of the training part", error.batch) from None
        self.pace = paced(last - self.batch, perf_counter() - started)
        self.batch = last
        if last < course.count:
            return None
        self.given = None
        return self.ended(number, seen)

    def after(self) -> None:
        """A step is done."""
        self.steps += 1
        kept = self.course.recipe.average
        if self.average is not None and kept is not None:
            update(self.average, self.model, min(kept, self.steps / (self.steps + 9)))

    def ended(self, number: int, seen: Seen) -> Point:
        """Close an epoch, and measure."""
        fabric = self.course.fabric
        epoch = seen.epoch()
        # Parts of a batch differ by a sample, so that processes do not count alike.
        sums = torch.tensor([epoch.running_loss, epoch.running_score, 1.0], dtype=torch.float64, device=fabric.device)
        loss, score, count = cast("Tensor", fabric.all_reduce(sums * epoch.samples, reduce_op="sum")).tolist()
        task = self.course.task
        if self.sharded is not None:
            self.sharded.gather()
        point: Point = {"epoch": number, "running_loss": loss / count, f"running_{task.figure}": score / count}
        if fabric.is_global_zero:
            point |= self.course.measure(self.result, number)
        point = fabric.broadcast(point)
        if not torch.tensor(list(point.values())).isfinite().all():
            raise Diverged(f"the network gives infinite or undefined outputs after epoch {number}")
        found = point.get(f"validation_{task.figure}")
        if found is not None and (self.best is None or task.better(found, self.best.accuracy)):
            weights = {name: value.clone() for name, value in self.result.state_dict().items()}
            self.best = Best(number, found, weights)
        self.epoch, self.batch, self.seen, self.loss = number, 0, None, loss / count
        return point


def prepared(model: nn.Module, example: Tensor, course: Course, *, convex: bool) -> Training:
    """A network with its optimiser, and its constraint attached.

    Raises:
        ValueError: the recipe does not fit the data or the task.
    """
    recipe = course.recipe
    if recipe.mixup or recipe.cutmix:
        require_mixable(course)
    free = recipe.convex.free_gamma
    cone = constrained(model, example, free_gamma=free) if convex else constraint_by_names(model)
    sharded = None
    if is_sharding(course.fabric):
        if recipe.average is not None or recipe.compiled:
            raise ValueError("a network in shards (--sharded) has no averaged weights, and is not compiled")
        sharded = Sharded.of(model, course.fabric)  # before its optimiser is made, which holds the shards
    parts, decay = groups(model, recipe, cone), recipe.weight_decay
    optimiser: torch.optim.Optimizer
    if recipe.optimiser in ("sgd", "momentum"):
        nesterov = recipe.optimiser == "sgd"
        optimiser = torch.optim.SGD(
            parts, lr=recipe.learning_rate, momentum=0.9, nesterov=nesterov, weight_decay=decay, fused=True
        )
    else:
        optimiser = torch.optim.AdamW(parts, lr=recipe.learning_rate, weight_decay=decay, fused=True)
    if cone is not None:
        cone.attach(optimiser)
    memory = None
    if course.task.memory is not None:
        if course.fabric.world_size > 1:
            raise ValueError(
                f"the loss {recipe.loss} remembers each sample, and several processes would each remember their own: "
                "train on one device"
            )
        memory = course.task.memory(len(course.data))
    average = None if recipe.average is None else copy.deepcopy(model)
    return Training(model, optimiser, course, average, memory=memory, sharded=sharded)


def require_mixable(course: Course) -> None:
    """Refuse to mix what are not images, or where the loss remembers single samples."""
    if len(course.data.shape) != 3:
        raise ValueError(f"mixup and CutMix take images (C, H, W), and a sample is of shape {tuple(course.data.shape)}")
    if course.task.memory is not None:
        raise ValueError(
            f"the loss {course.recipe.loss} remembers each sample, and mixup and CutMix make one of two: leave one out"
        )


def paced(done: int, seconds: float) -> int:
    """How many steps the next advance may have, after one of `done` steps in so many seconds.

    Example:
        >>> paced(10, 1.0), paced(1, 10.0), paced(1, 0.0)
        (20, 1, 8)
    """
    wanted = int(done * SLICE / seconds) if seconds > 0 else 8 * done
    return max(1, min(wanted, 8 * done))


def rows_of(count: int, size: int, order: int, batch: int) -> list[int]:
    """The rows of one batch of an epoch, of which `batches` draws the order from the seed `order`.

    Example:
        >>> from convexnet.lab.data import Split, batches
        >>> part = Split(torch.arange(6.0)[:, None], torch.arange(6))
        >>> second = list(batches(part, 4, generator=torch.Generator().manual_seed(5)))[1]
        >>> second[1].tolist() == rows_of(6, 4, 5, 1)
        True
    """
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(order))
    return drawn[batch * size : (batch + 1) * size].tolist()
