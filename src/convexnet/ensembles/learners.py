"""Learners that work a batch at a time, and those whose epochs go over the samples: the loops that this room shares."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor, nn

from convexnet.ensembles.outputs import device_of
from convexnet.ensembles.samples import Samples
from convexnet.learner import Point
from convexnet.training import batches, cosine, descend

SLICE = 2.0
"""Seconds of work in one advance, about; one batch at least. It changes nothing of what is learnt."""


class Slices:
    """A learner that works in units of one batch, or one evaluation, for about `SLICE` seconds at a time."""

    remarks: list[str]
    most_used: int = 1

    @property
    def done(self) -> bool:
        """Return whether there is nothing left to do."""
        raise NotImplementedError

    def unit(self) -> Point | None:
        """Do one unit of work."""
        raise NotImplementedError

    def advance(self) -> Point | None:
        """Work for about two seconds, or to the next measurement, which is returned."""
        until = time.monotonic() + SLICE
        while not self.done:
            point = self.unit()
            if point is not None or time.monotonic() >= until:
                return point
        return None

    def remark(self, subject: str, text: str) -> None:
        """Keep a sentence, the first one that begins so."""
        if not any(known.startswith(f"{subject} ") for known in self.remarks):
            self.remarks.append(f"{subject} {text}")

    def count_used(self, gates: Tensor, first: str) -> int:
        """Return how many experts a gate (N, experts) prefers for some sample, and remark on one that collapses."""
        used = sorted(set(gates.argmax(1).tolist()))
        # A gate may begin so and learn: it has collapsed if it has known better, or ends so.
        self.most_used = max(self.most_used, len(used))
        if gates.shape[1] > 1 and len(used) == 1 and (self.most_used > 1 or self.done):
            self.remark("the gate collapses:", f"it prefers expert {used[0]} for all samples {first}")
        return len(used)


class Epochs(Slices):
    """A learner whose epochs go over the samples in batches, at a rate that falls to 0 along a cosine."""

    samples: Samples
    optimiser: torch.optim.Optimizer
    epochs: int
    batch: int
    top: float
    penalty: float = 0.0
    epoch: int = 0
    position: int = 0
    sum: float = 0.0

    @property
    def model(self) -> nn.Module:
        """Return what is being trained."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Return what an error calls it."""
        raise NotImplementedError

    def seed_for(self, what: str, *where: int) -> int:
        """Return the seed of what is drawn somewhere."""
        raise NotImplementedError

    def loss_of(self, rows: Tensor, device: torch.device) -> Tensor:
        """Return the weighted mean loss of a batch."""
        raise NotImplementedError

    def ended(self) -> Point:
        """Close an epoch, and measure."""
        raise NotImplementedError

    def unit(self) -> Point | None:
        """Take one step; the measurements of an epoch, where it ends one."""
        parts = batches(len(self.samples), self.batch, self.seed_for("order", self.epoch))
        rows, device = parts[self.position], device_of(self.model)
        loss = descend(
            self.model,
            self.optimiser,
            cosine(self.top, (self.epoch + self.position / len(parts)) / self.epochs),
            self.seed_for("draws", self.epoch, self.position),
            device,
            lambda: self.loss_of(rows, device),
            self.penalty,
        )
        self.sum += loss * len(rows)
        self.position += 1
        return self.ended() if self.position == len(parts) else None

    def close_epoch(self) -> float:
        """Go on to the next epoch, and return the mean loss of the one that ends.

        Raises:
            ValueError: it is not finite.
        """
        loss = self.sum / len(self.samples)
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss of {self.name} is {loss} in epoch {self.epoch + 1}: try a smaller learning_rate"
            )
        self.epoch, self.position, self.sum = self.epoch + 1, 0, 0.0
        return loss
