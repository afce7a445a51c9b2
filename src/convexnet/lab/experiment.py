"""Training as an experiment: on any device through Lightning Fabric, with early stopping, averages and checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from convexnet.lab.checkpoints import epoch_seed
from convexnet.lab.data import Split, augmentation, batches
from convexnet.lab.recipes import Recipe
from convexnet.lab.train import Batch, Diverged, constrained, one_epoch, set_rate

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Point = dict[str, float]
"""One epoch's measurements by name: `epoch`, `running_loss`, `running_accuracy`, `validation_accuracy`, ..."""


HELD = ("epoch", "steps", "curve", "best", "seconds", "resumed")
"""What a checkpoint holds of a `Training` beside its tensors."""


@dataclass
class Training:
    """A network while it is trained: all that a checkpoint holds.

    Attributes:
        model: the network; whatever wraps it has the same tensors.
        average: a copy with averaged weights, where the recipe asks for one; then it is what counts.
        epoch: how many are done.
        steps: how many are done, over all epochs.
        curve: one point for each epoch.
        best: the first epoch with the best validation accuracy, and the weights then.
        seconds: spent in training and measuring.
        resumed: after which epochs it went on from a checkpoint.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    average: nn.Module | None = None
    epoch: int = 0
    steps: int = 0
    curve: list[Point] = field(default_factory=list[Point])
    best: tuple[int, dict[str, Tensor]] | None = None
    seconds: float = 0.0
    resumed: list[int] = field(default_factory=list[int])

    @property
    def result(self) -> nn.Module:
        """The network that counts."""
        return self.model if self.average is None else self.average

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            **{name: getattr(self, name) for name in HELD},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what the checkpoint holds."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        for name in HELD:
            setattr(self, name, state[name])
        self.resumed = [*self.resumed, self.epoch]

    @property
    def best_accuracy(self) -> float:
        """The best validation accuracy so far."""
        assert self.best is not None, "there is none before the first epoch"
        return self.curve[self.best[0] - 1]["validation_accuracy"]

    def spent(self, patience: int | None) -> bool:
        """Whether the validation accuracy has not got better for `patience` epochs."""
        return patience is not None and self.best is not None and self.epoch - self.best[0] >= patience


def prepared(model: nn.Module, example: Tensor, recipe: Recipe, *, convex: bool) -> Training:
    """A network with its optimiser, and its constraint attached."""
    cone = constrained(model, example, free_gamma=recipe.convex.free_gamma) if convex else None
    optimiser: torch.optim.Optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    if cone is not None:
        cone.attach(optimiser)
    return Training(model, optimiser, None if recipe.average is None else copy.deepcopy(model))


def train(
    training: Training,
    data: Split,
    recipe: Recipe,
    fabric: Fabric,
    *,
    transform: Callable[[Tensor], Tensor] | None,
    seed: int,
    measure: Callable[[nn.Module, int], Point],
    keep: Callable[[Training], None],
    tick: Callable[[Point], None] = lambda point: None,
) -> None:
    """Train until the epochs are over or the patience is spent, from wherever `training` stands.

    Args:
        training: of a network on the device of `fabric`.
        data: the training part, on that device too.
        recipe: how.
        fabric: Lightning's, launched; with several processes, each sees its part of every batch.
        transform: of the inputs, after augmentation.
        seed: with the number of the epoch it decides the order of the data, augmentation and dropout.
        measure: of the network after an epoch, in the first process; needs `validation_accuracy`.
        keep: called after every epoch in the first process, once all is known to be finite.
        tick: called after that, for a progress bar.

    Raises:
        Diverged: a loss is infinite or NaN.
    """
    # torch.compile is typed for functions; it returns a module for a module.
    network = cast("nn.Module", torch.compile(training.model)) if recipe.compiled else training.model
    forward, optimiser = fabric.setup(network, training.optimiser, move_to_device=False)
    smoothed = nn.CrossEntropyLoss(label_smoothing=recipe.smoothing)
    augment = augmentation(recipe.augment)
    device = fabric.device

    def after() -> None:
        training.steps += 1
        if training.average is not None and recipe.average is not None:
            update(training.average, training.model, min(recipe.average, training.steps / (training.steps + 9)))

    while training.epoch < recipe.epochs and not training.spent(recipe.patience):
        started = perf_counter()
        number = training.epoch + 1
        set_rate(training.optimiser, recipe.learning_rate * recipe.decay ** ((number - 1) / recipe.epochs))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(epoch_seed(seed, number, "dropout", fabric.global_rank))
            order = torch.Generator().manual_seed(epoch_seed(seed, number, "order"))
            given = batches(data, recipe.batch, generator=order, augment=augment, transform=transform)
            mine = parts(given, fabric.global_rank, fabric.world_size)
            try:
                epoch = one_epoch(
                    forward, optimiser, mine, number=number, loss=smoothed, backward=fabric.backward, after=after
                )
            except Diverged as error:
                rows = rows_of(len(data), recipe.batch, epoch_seed(seed, number, "order"), error.batch or 0)
                first = ", ".join(str(row) for row in rows[:8])
                raise Diverged(f"{error}; its batch has rows {first}, ... of the training part", error.batch) from None
        training.epoch = number
        # Parts of a batch differ by a sample, so that processes do not count alike.
        sums = torch.tensor([epoch.running_loss, epoch.running_accuracy, 1.0], dtype=torch.float64, device=device)
        loss, right, count = cast("Tensor", fabric.all_reduce(sums * epoch.samples, reduce_op="sum")).tolist()
        point: Point = {"epoch": number, "running_loss": loss / count, "running_accuracy": right / count}
        if fabric.is_global_zero:
            point |= measure(training.result, number)
        point = fabric.broadcast(point)
        if not torch.tensor(list(point.values())).isfinite().all():
            raise Diverged(f"the network gives infinite or undefined outputs after epoch {number}")
        training.curve.append(point)
        if training.best is None or point["validation_accuracy"] > training.best_accuracy:
            training.best = number, {name: value.clone() for name, value in training.result.state_dict().items()}
        training.seconds += perf_counter() - started
        if fabric.is_global_zero:
            keep(training)
            tick(point)


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


def parts(given: Iterable[tuple[Tensor, Tensor]], process: int, processes: int) -> Iterator[Batch]:
    """This process's part of every batch; all of it for a single one. Batches too small for BatchNorm are left out.

    Example:
        >>> whole = [(torch.arange(5.0), torch.arange(5))]
        >>> [(part.labels.tolist(), part.share) for rank in (0, 1) for part in parts(whole, rank, 2)]
        [([0, 2, 4], 1.2), ([1, 3], 0.8)]
    """
    for inputs, labels in given:
        if len(labels) < 2 * processes:
            continue
        mine = labels[process::processes]
        yield Batch(inputs[process::processes], mine, processes * len(mine) / len(labels))


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, kept: float) -> None:
    """Move averaged weights towards the present ones; an average of admissible weights is admissible.

    Example:
        >>> old, new = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> _ = old.weight.data.fill_(0.0), new.weight.data.fill_(1.0)
        >>> update(old, new, 0.75)
        >>> old.weight.item()
        0.25
    """
    for mean, now in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(now, 1.0 - kept)
    for mean, now in zip(average.buffers(), model.buffers(), strict=True):
        mean.copy_(now)
