"""A step of learning an energy, next to a pass forward and backward through the same network, and to a loop in numpy.

Run: python benchmarks/energy.py [--data-dir DATA] [--rounds 5] [--trained 40] [--smoke]

1. Max-margin over the 10 classes of MNIST by the FICNN of 1,315,395 parameters, batches of 128: the hinge of a batch,
   every minimum proved to a thousandth of its rise, with its gradient, over forward and backward of f alone, as drawn
   and after some steps of learning. With --data-dir on MNIST, otherwise on random images.
2. Bundle entropy for 159 labels by a PICNN of BibTeX's shape: the loop in numpy of `benchmarks/bundle_entropy.py`, one
   sample after the other with 10 planes, over the search with as many planes, with the gaps of both; and a step through
   the argmin (search, derivative, gradient) of a softplus network over forward and backward of f alone.

Processor times, one thread; both sides of a ratio take turns in every round, and medians of the ratios are shown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from bundle_entropy import FEATURES, HIDDEN, LABELS, Scaled, arrays, network, sample_after_sample
from torch import Tensor

import convexnet as cx
from convexnet.energy import EnergyTraining, Joint
from convexnet.energy.entropy import search
from convexnet.energy.hinge import ClassMargin, hinge_over_classes

CLASSES = cx.Simplex(10)


def seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def paired(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each, in every round; a first round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            taken = seconds(work)
            if number:
                found[name].append(taken)
    return found


def ratio(found: dict[str, list[float]], name: str, over: str) -> str:
    ratios = [a / b for a, b in zip(found[name], found[over], strict=True)]
    here, there = (1e3 * statistics.median(found[each]) for each in (name, over))
    return f"{name}: {here:.1f} ms, {over}: {there:.1f} ms, ratio {statistics.median(ratios):.2f}"


def images(data_dir: Path | None, count: int) -> tuple[Tensor, Tensor]:
    if data_dir is None:
        return torch.rand(count, 784), torch.randint(10, (count,))
    from convexnet.lab.data import load

    part = load("mnist", data_dir).train
    return part.images[:count].flatten(1).float() / 255, part.labels[:count]


def classes(options: argparse.Namespace) -> None:
    batch, width = (8, 16) if options.smoke else (128, 600)
    x, labels = images(options.data_dir, 20 * batch)
    for activation in ("softplus", "relu"):
        torch.manual_seed(0)
        f = Joint(cx.nn.FICNN(794, hidden=(width, width), activation=activation, constraint="clip"))
        here, truth = x[:batch], torch.eye(10)[labels[:batch]]
        learner = EnergyTraining(f, x, labels, CLASSES, "max-margin", batch=batch, solver="vertices")

        def alone(f: Joint = f, here: Tensor = here, truth: Tensor = truth) -> None:
            f(here, truth).mean().backward()

        def hinge(f: Joint = f, here: Tensor = here, truth: Tensor = truth) -> Tensor:
            losses, _, converged = hinge_over_classes(f, [here], truth, CLASSES, ClassMargin(), tol=1e-3)
            losses.mean().backward()
            return converged

        for steps in (0, options.trained):
            for _ in range(steps):
                learner.step()
            proved = int(hinge().sum())
            found = paired({"forward and backward": alone, "max-margin": hinge}, options.rounds)
            print(f"{activation}, {steps} steps, {proved} of {batch} proved: {ratio(found, *reversed(list(found)))}")


class InSteps(Scaled):
    """The network of `bundle_entropy.py`, with what depends on x computed once."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, y)

    def context(self, x: Tensor) -> list[Tensor]:
        return self.net.context(x)

    def with_context(self, context: Sequence[Tensor], y: Tensor) -> Tensor:
        return self.factor * self.net.with_context(context, y)


def labels(options: argparse.Namespace) -> None:
    size, batch = (9, 4) if options.smoke else (LABELS, 128)
    made, x = network(*((20, 9, (16, 9)) if options.smoke else (FEATURES, LABELS, HIDDEN)), batch, 10.0)
    f, held, few = InSteps(made.net, made.factor), arrays(made), min(batch, 8)
    works: dict[str, Callable[[], object]] = {
        "numpy": lambda: sample_after_sample(held, x[:few].numpy(), 10, size),
        "search": lambda: search(f, [x], size, 0.0, most=11),
    }
    found = paired(works, options.rounds)
    found["numpy"] = [taken * batch / few for taken in found["numpy"]]
    own = search(f, [x], size, 0.0, most=11)
    values, bounds = sample_after_sample(held, x[:few].numpy(), 10, size)
    gaps = float((own.value - own.lower)[:few].max()), float((values - bounds).max())
    print(f"{size} labels, 10 planes, largest gap {gaps[0]:.2g} and {gaps[1]:.2g}: {ratio(found, 'numpy', 'search')}")

    torch.manual_seed(0)
    smooth = cx.nn.PICNN(x.shape[1], size, hidden=(16, 9) if options.smoke else HIDDEN, constraint="clip")
    given, y = x.float(), (torch.rand(batch, size) < 0.02).float()
    learner = EnergyTraining(
        smooth, given, y, cx.Cube(size, entropy=True), batch=batch, solver="planes", tol=1e-4, learning_rate=1e-3
    )

    def step() -> None:
        learner.losses([given], y, None)[0].mean().backward()

    def alone() -> None:
        smooth(given, y).mean().backward()

    for steps in (0, min(options.trained, 8)):
        for _ in range(steps):
            learner.step()
        pair = paired({"forward and backward": alone, "step through the argmin": step}, options.rounds)
        print(f"{size} labels, {steps} steps of learning: {ratio(pair, *reversed(list(pair)))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trained", type=int, default=40, help="steps of learning before the second measurement")
    parser.add_argument("--smoke", action="store_true", help="seconds; small sizes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.smoke:
        options.rounds, options.trained = 1, 1
    classes(options)
    labels(options)


if __name__ == "__main__":
    main()
