"""The loop that trains an energy: a learner."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from convexnet.arrays import as_real
from convexnet.curvature.arguments import unwrap
from convexnet.curvature.certificate import certify
from convexnet.domains import Box, Domain
from convexnet.energy.entropy import PLANES, least_with_entropy
from convexnet.energy.hinge import Margin, check_solved, hinge_of, margin_of
from convexnet.energy.missing import Missing
from convexnet.energy.predict import least
from convexnet.energy.samples import inputs_of, place_of, rows_of, targets_of
from convexnet.energy.steps import Optimiser, optimiser_of, squared_error
from convexnet.energy.unrolled import box_of, descend
from convexnet.learner import Attributes, Point
from convexnet.solve import minimise
from convexnet.training import (
    batches,
    check_counts,
    check_rate,
    derived_seed,
    drawing,
    keeps_statistics,
)

How = Literal["argmin", "unrolled", "max-margin"]
HOWS = ("argmin", "unrolled", "max-margin")
SLICE = 2.0
"""Seconds of work in one advance, about; one batch at least. It changes nothing of what is learnt."""

Loss = Callable[[Tensor, Tensor], Tensor]

Augment = Callable[[list[Tensor], Tensor], tuple[list[Tensor], Tensor]]
"""(the inputs of a batch, its targets) -> the same, changed at random: torch draws from the seed of the step."""


@dataclass(frozen=True)
class Samples:
    """Inputs and targets of the same rows."""

    given: list[Tensor]
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


class EnergyTraining(Attributes):
    """The training of an energy f(x, y), step by step: a learner. `fit` runs it to its end.

    A step solves the minimisation of a whole batch at once, and takes its loss down by one step of the optimiser; the
    constraints of f are projected after it. f is certified after every epoch: one that has left its cone is an error.
    What is solved is f in eval mode: dropout is off, and BatchNorm uses its running statistics, which a pass of
    (x, y) in training mode refreshes before every step. The arguments are those of `fit`.

    Points: `epoch`; `loss`, the mean of the epoch; `converged`, the share of minimisations that reached `tol`;
        `smoothed`, the share of steps with smoothed derivatives, where a minimiser had no others; `validation`, where
        there are validation samples.

    Raises:
        NotCertified: f is not proved convex in y.
        ValueError, TypeError: wrong arguments; when it runs, a loss that is not finite.

    Source: Amos & Kolter (2016); Amos, Xu & Kolter (2017), section 5.

    Example:
        >>> import convexnet as cx
        >>> from convexnet.learner import run
        >>> x = torch.randn(20, 2)
        >>> learner = EnergyTraining(cx.nn.PICNN(2, 1, hidden=(8,)), x, x[:, :1].sigmoid(), cx.Cube(1), epochs=2)
        >>> [point["epoch"] for point in run(learner)]
        [1.0, 2.0]
    """

    kept = (
        *("f", "margin", "optimiser", "epoch", "position", "sums", "last"),
        *("best", "best_epoch", "best_weights", "end_weights", "spent"),
    )

    def __init__(
        self,
        f: nn.Module,
        x: Any,
        y: Any,
        domain: Domain,
        how: How = "argmin",
        *,
        epochs: int = 20,
        batch: int = 128,
        learning_rate: float | Callable[[int], float] = 1e-3,
        optimiser: Optimiser | None = None,
        loss: Loss | None = None,
        margin: Margin = "classes",
        missing: Any = None,
        penalty: Callable[[], Tensor] | None = None,
        validation: tuple[Any, Any] | None = None,
        measure: Callable[[Tensor, Tensor], Any] | None = None,
        patience: int | None = None,
        warm_start: bool = False,
        seed: int = 0,
        augment: Augment | None = None,
        convex: bool = True,
        **options: Any,
    ) -> None:
        check_counts(epochs=epochs, batch=batch, **({} if patience is None else {"patience": patience}))
        self.rate = learning_rate if callable(learning_rate) else None
        check_rate(first := learning_rate(1) if callable(learning_rate) else learning_rate)
        if how not in HOWS:
            raise ValueError(f"how is one of {', '.join(HOWS)}, not {how!r}")
        if domain.batch is not None:
            raise ValueError("the domain is the same for all samples: give one without a batch")
        if validation is None and (measure is not None or patience is not None):
            raise ValueError("measure and patience are about validation samples: give validation=(x, y)")
        if how == "max-margin" and loss is not None:
            raise ValueError('the loss of how="max-margin" is the structured hinge: give a margin, and no loss')
        if not convex and how != "unrolled":
            raise ValueError(f'how={how!r} needs minima, so that f must be convex: convex=False is for how="unrolled"')
        if how == "unrolled":
            box_of(domain)
            if wrong := sorted({*options} - {"steps", "rate", "momentum"}):
                raise TypeError(f'how="unrolled" takes steps, rate and momentum, and not {wrong[0]!r}')
        self.f, self.domain, self.how = unwrap(f), domain, how
        self.device, self.dtype = place_of(self.f)
        self.samples = self.samples_of(x, y)
        self.validation = None if validation is None else self.samples_of(*validation)
        self.epochs, self.batch, self.patience, self.seed = epochs, batch, patience, seed
        self.loss, self.margin, self.measure, self.penalty = loss, margin_of(margin), measure, penalty
        self.missing = None if missing is None else Missing(missing, domain)
        self.options = options
        self.augment, self.convex = augment, convex
        self.optimiser = optimiser_of(self.f, self.margin, optimiser, first)
        self.moving = any(keeps_statistics(part) for part in self.f.modules())
        self.warm = warm_start and how != "unrolled"  # from elsewhere, unrolled descent ends elsewhere
        self.epoch = self.position = 0
        self.sums = [0.0, 0.0, 0.0]
        self.last = domain.centre.to(self.samples.y).expand_as(self.samples.y).clone() if self.warm else None
        self.best, self.best_epoch = math.inf, 0
        self.best_weights: dict[str, Tensor] | None = None
        self.end_weights: dict[str, Tensor] | None = None
        self.spent = [0.0, 0.0]

    @property
    def share_in_minimise(self) -> float:
        """The share of the processor time of all steps that was spent on minimising, or unrolled descent."""
        return self.spent[0] / self.spent[1] if self.spent[1] else math.nan

    def samples_of(self, x: Any, y: Any) -> Samples:
        """Return checked samples."""
        given = inputs_of(x, self.f)
        return Samples(given, targets_of(y, self.domain, self.f, len(given[0]) if given else None))

    @property
    def done(self) -> bool:
        """Return whether the epochs are over, or too many in a row were no better on the validation samples."""
        stale = self.patience is not None and self.epoch - self.best_epoch >= self.patience
        return self.epoch >= self.epochs or stale

    def advance(self) -> Point | None:
        """Work for about two seconds, or to the end of an epoch, whose point is returned."""
        until = time.monotonic() + SLICE
        while not self.done:
            point = self.step()
            if point is not None or time.monotonic() >= until:
                return point
        return None

    def step(self) -> Point | None:
        """Take one step; at the end of an epoch, return its point."""
        begun = time.process_time()
        if not self.position and not self.epoch and self.convex:
            self.certify()
        parts = batches(len(self.samples), self.batch, derived_seed(self.seed, "order", self.epoch))
        rows = parts[self.position]
        seed = derived_seed(self.seed, "draws", self.epoch, self.position)
        given, y = rows_of(self.samples.given, rows, self.device), self.samples.y[rows].to(self.device)
        mask = self.mask_of(len(rows), seed)
        if self.rate is not None and not self.position:
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate(self.epoch + 1)
        if self.augment is not None:
            with torch.no_grad(), drawing(derived_seed(seed, "augment"), self.device):
                given, y = self.augment(given, y)
        if self.moving:
            self.refresh_statistics(given, y, seed)
        start = None if self.last is None else self.last[rows]
        shares: list[float] = []

        def take(**options: Any) -> float:
            losses, x, converged = self.losses(given, y, mask, start, **options)
            whole = losses.mean() if self.penalty is None else losses.mean() + self.penalty()
            self.optimiser.zero_grad()
            whole.backward()
            if not shares:
                shares.extend([float(losses.detach().sum()), converged, float(bool(options))])
                if self.last is not None:
                    self.last[rows] = x.detach().to(self.last)
            return float(whole.detach())

        def closure() -> float:
            try:
                return take()
            except RuntimeError:
                if self.how != "argmin" or "derivative" in self.options:
                    raise
                return take(derivative="smoothed")

        with torch.enable_grad(), drawing(seed, self.device):
            self.optimiser.step(closure)
        if not math.isfinite(shares[0]):
            raise ValueError(f"the loss is {shares[0]} in epoch {self.epoch + 1}: try a smaller learning_rate")
        self.sums = [total + share for total, share in zip(self.sums, shares, strict=True)]
        self.position += 1
        self.spent[1] += time.process_time() - begun
        return self.ended() if self.position == len(parts) else None

    def mask_of(self, rows: int, seed: int) -> Tensor | None:
        """Return which elements of y are given, for completion."""
        if self.missing is None:
            return None
        return self.missing.draw(rows, torch.Generator().manual_seed(seed)).to(self.device)

    def refresh_statistics(self, given: list[Tensor], y: Tensor, seed: int) -> None:
        """Let BatchNorm see a batch, in training mode."""
        modes = [(part, part.training) for part in self.f.modules()]
        try:
            self.f.train()
            with torch.no_grad(), drawing(seed, self.device):
                self.f(*given, y)
        finally:
            for part, mode in modes:
                part.training = mode

    def losses(
        self, given: list[Tensor], y: Tensor, mask: Tensor | None, start: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Tensor, float]:
        """Return the losses (B,) of a batch, the minimisers, and how many of them have converged."""
        domain = cast(Box, self.domain).fix(y, mask) if mask is not None else self.domain
        settings: dict[str, Any] = {**self.options, **({} if start is None else {"start": start}), **options}
        begun = time.process_time()
        if self.how == "max-margin":
            losses, x, converged = hinge_of(self.f, given, y, domain, self.margin, settings)
            self.spent[0] += time.process_time() - begun
            return losses, x, float(converged.sum())
        if self.how == "unrolled":
            begin = None if given else self.domain.centre.expand_as(y)
            x, converged = descend(self.f, given, cast(Box, domain), begin, **settings), math.nan
        elif settings.get("solver") == PLANES:
            x, proved = least_with_entropy(self.f, given, domain, **settings)
            converged = float(proved.sum())
        else:
            found = minimise(self.f, domain, tuple(given) or None, **settings)
            check_solved(found)
            x, converged = found.x, float(found.converged.sum())
        self.spent[0] += time.process_time() - begun
        if self.loss is None:
            return squared_error(x, y, mask), x, converged
        losses = self.loss(x, y)
        if losses.ndim == 0:
            losses = losses.expand(len(y))
        if losses.shape != (len(y),):
            raise ValueError(f"loss(minimiser, y) returns (B,) or one number, not {tuple(losses.shape)}")
        return losses, x, converged

    def ended(self) -> Point:
        """Close an epoch, and measure."""
        if self.convex:
            self.certify()
        count = len(self.samples)
        point: Point = {"epoch": float(self.epoch + 1), "loss": self.sums[0] / count}
        if self.how != "unrolled":
            point["converged"] = self.sums[1] / count
        if self.how == "argmin":
            point["smoothed"] = self.sums[2] / self.position
        self.epoch, self.position, self.sums = self.epoch + 1, 0, [0.0, 0.0, 0.0]
        if self.validation is not None:
            point["validation"] = self.validate(self.validation)
            if point["validation"] < self.best:
                self.best, self.best_epoch = point["validation"], self.epoch
                self.best_weights = copy.deepcopy(self.f.state_dict())
            if self.done and self.best_weights is not None:
                self.end_weights = copy.deepcopy(self.f.state_dict())
                self.f.load_state_dict(self.best_weights)
        return point

    def certify(self) -> None:
        """Raise where f is not proved convex in y, as it is now."""
        example = [*rows_of(self.samples.given, torch.arange(1), self.device), self.samples.y[:1].to(self.device)]
        certify(self.f, tuple(example), wrt=len(example) - 1, domain=self.domain.hull()).require()

    def validate(self, samples: Samples) -> float:
        """Return the mean loss of the validation samples, or what `measure` says; the less the better."""
        losses, found, targets = list[Tensor](), list[Tensor](), list[Tensor]()
        spent = list(self.spent)
        with torch.no_grad():
            for number, rows in enumerate(torch.arange(len(samples)).split(self.batch)):
                seed = derived_seed(self.seed, "validation", number)  # in every epoch the same masks
                given, y = rows_of(samples.given, rows, self.device), samples.y[rows].to(self.device)
                loss, x, _ = self.losses(given, y, self.mask_of(len(rows), seed))
                if self.measure is not None and self.how == "max-margin" and self.missing is None:
                    x = least(self.f, given, self.domain, self.options)  # without the margin
                losses.append(loss.double())
                found.append(x)
                targets.append(y)
        self.spent = spent  # of steps alone
        if self.measure is None:
            return float(torch.cat(losses).mean())
        return as_real(self.measure(torch.cat(found), torch.cat(targets)), "measure(predicted, y)", -math.inf)
