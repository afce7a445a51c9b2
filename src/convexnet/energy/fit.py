"""`fit`: train an energy to the end, in one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from convexnet.domains import Domain
from convexnet.energy.hinge import Margin
from convexnet.energy.steps import Optimiser
from convexnet.energy.training import Augment, EnergyTraining, How, Loss
from convexnet.learner import Point, run
from convexnet.training import nothing


@dataclass(frozen=True)
class History:
    """What was measured while an energy learnt.

    Attributes:
        points: one dictionary of numbers for each epoch.

    Example:
        >>> History([{"epoch": 1.0, "loss": 0.5, "validation": 0.6}]).validation
        [0.6]
    """

    points: list[Point]

    @property
    def loss(self) -> list[float]:
        """The mean training loss of each epoch, as it was during the epoch."""
        return [point["loss"] for point in self.points]

    @property
    def validation(self) -> list[float]:
        """What was measured on the validation samples after each epoch; empty without them."""
        return [point["validation"] for point in self.points if "validation" in point]


def fit(
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
    tick: Callable[[Point], object] | None = None,
    **options: Any,
) -> History:
    """Train an energy f(x, y), in place, so that its least y over a domain is the target of each sample.

    Args:
        f: certified convex in its last input y; returns (B,) or (B, 1). What `constrain`, `convexify` or a layer of
            `convexnet.nn` has constrained stays so.
        x: the other inputs, N rows each: a tensor, an array, or a tuple of them; None where f takes y alone.
        y: targets (N, *shape), points of the domain; class indices (N,) for a domain of shape (K,); (N,) for a domain
            of one number.
        domain: the set that y ranges over, the same for all samples.
        how: "argmin": the loss of the minimiser, differentiated through it. Where f is piecewise linear in y,
            minimisers sit on vertices and do not move: take a smooth f, `Cube(entropy=True)` or derivative="smoothed".
            A batch of which some minimiser has no derivative is taken with the smoothed ones, unless a `derivative` is
            asked for. Over a `Cube(entropy=True)` of many elements solver="planes" is the fastest by far: bundle
            entropy for a PICNN, or a `Joint` of a FICNN, with softplus (`convexnet.energy.entropy`); its `tol` is the
            gap in nats for each element.
            "unrolled": the loss of where gradient descent ends, differentiated through its steps (`unrolled`); for a
            `Box`.
            "max-margin": the `structured_hinge`, which needs no derivative of a minimiser.
        epochs: passes over the samples, at most.
        batch: samples that are solved together, and make one step.
        learning_rate: of Adam; a function of the epoch, from 1, sets that of any optimiser.
        optimiser: another one: a `torch.optim.Optimizer`, or a function of the parameters that makes one.
        loss: loss(minimiser, y) -> (B,) or one number; None: the mean square of the difference.
        margin: of "max-margin", see `structured_hinge`.
        missing: for completion, on a `Box`: the share of the elements of y that is missing, a pair of shares between
            which it is drawn for each sample, or a mask (*shape), True where an element is given. Masks are drawn anew
            in every step; the loss is of what is missing.
        penalty: a function without arguments whose scalar is added to the loss of every step, an `exemplar_loss` say.
        validation: (x, y) of samples to watch. At the end, f is as it was after the best epoch.
        measure: measure(predicted, y) on the validation samples, the less the better; None: the loss.
        patience: stop after this many epochs in a row that were no better than the best one.
        warm_start: begin each minimisation at the last minimiser of its sample.
        seed: of the order of the samples, masks and draws.
        augment: augment(inputs, y) -> (inputs, y) changes every batch at random: drops words, say, or shifts images.
        convex: whether f is certified after every epoch; False is for how="unrolled" alone, to compare with an f that
            need not be convex.
        tick: called with the point of each epoch.
        options: further arguments of `minimise`, such as `tol`, `solver`, `derivative` and `max_steps`; or `steps`,
            `rate` and `momentum` of "unrolled".

    Returns:
        What was measured: `loss` and `validation` are lists with one number for each epoch.

    Raises:
        NotCertified: f is not proved convex in y, or was not kept so.
        RuntimeError: derivative="exact" was asked for, and a minimiser has none.
        ValueError, TypeError: wrong arguments, a target outside of the domain, a loss that is not finite.

    Source: Amos & Kolter (2016), for "max-margin"; Amos, Xu & Kolter (2017), section 5, for the others.

    Example:
        >>> import torch, convexnet as cx
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(60, 2)
        >>> labels = (x[:, 0] > 0).long()
        >>> f = cx.nn.PICNN(2, 2, hidden=(8,))
        >>> history = fit(f, x, labels, cx.Simplex(2), "max-margin", epochs=5, learning_rate=0.03)
        >>> history.loss[-1] < history.loss[0]
        True
    """
    learner = EnergyTraining(
        f, x, y, domain, how,
        epochs=epochs, batch=batch, learning_rate=learning_rate, optimiser=optimiser, loss=loss, margin=margin,
        missing=missing, penalty=penalty, validation=validation, measure=measure, patience=patience,
        warm_start=warm_start, seed=seed, augment=augment, convex=convex, **options,
    )  # fmt: skip
    return History(run(learner, tick or nothing))
