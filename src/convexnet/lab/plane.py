"""Decision boundaries in the plane: an ordinary network, one convex output, two convex outputs (Figs 2 and 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional

import convexnet as cx
from convexnet.lab.data import Split, crescents
from convexnet.lab.networks import convex_mlp, ordinary_mlp, two_convex_functions
from convexnet.lab.train import decide, fit, predict, sigmoid_loss

EXTENT = 1.9
"""Half the side of the square that the pictures show; the crescents lie well inside it."""

# The convex networks start with strongly correlated units (all weights after the first layer have one sign). With
# BatchNorm and this learning rate, 200 epochs are enough for two outputs to separate the crescents.
WIDTH, DEPTH, BATCH, LEARNING_RATE = 64, 3, 128, 1e-2


@dataclass(frozen=True)
class Boundary:
    """One trained network in the plane and what was measured of it.

    `left` holds, for class 0 and 1, the share of pairs of points given to that class whose midpoint is given to the
    other one: 0 for a convex region.
    """

    name: str
    outputs: int
    convex: bool
    model: nn.Module
    certificate: str
    certified: bool
    train_accuracy: float
    test_accuracy: float
    left: tuple[float, float]
    seconds: float


@dataclass(frozen=True)
class Plane:
    """The toy data, the networks trained on it, and the two hand-set functions of one variable."""

    data: Split
    epochs: int
    boundaries: list[Boundary]
    line: nn.Module
    line_certificate: str
    line_certified: bool


def grid(side: int) -> Tensor:
    """The square of the pictures as (side * side, 2) points, rows of constant second coordinate first."""
    axis = torch.linspace(-EXTENT, EXTENT, side)
    second, first = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([first.flatten(), second.flatten()], dim=1)


def leaving(model: nn.Module, seed: int, pairs: int = 20_000) -> tuple[float, float]:
    """For either class, the share of random pairs of points of its region whose midpoint lies outside it."""
    generator = torch.Generator().manual_seed(seed)
    points = (2.0 * torch.rand(pairs, 2, generator=generator) - 1.0) * EXTENT
    classes = decide(predict(model, points))
    shares: list[float] = []
    for label in (0, 1):
        region = points[classes == label]
        if len(region) < 2:
            shares.append(0.0)
            continue
        first, second = torch.randint(len(region), (2, pairs), generator=generator)
        middle = decide(predict(model, (region[first] + region[second]) / 2))
        shares.append(float((middle != label).float().mean()))
    return shares[0], shares[1]


NETWORKS = {
    "mlp-1": ("Ordinary network, one output", 1, False),
    "ioc-mlp-1": ("Convex network, one output", 1, True),
    "ioc-mlp-2": ("Convex network, two outputs", 2, True),
}
"""By the name in records: what it is called, how many outputs it has, and whether it is kept convex."""


def points(seed: int) -> tuple[Split, Split]:
    """600 points to train on and 2000 fresh ones."""
    return crescents(600, seed), crescents(2000, seed + 1)


def explore(name: str, seed: int, *, epochs: int, tick: Callable[[], None] = lambda: None) -> Boundary:
    """Train and certify one of `NETWORKS`."""
    data, fresh = points(seed)
    title, outputs, convex = NETWORKS[name]
    start = perf_counter()
    make = convex_mlp if convex else ordinary_mlp
    model = make(data.inputs, outputs, width=WIDTH, depth=DEPTH, seed=seed)
    loss = sigmoid_loss if outputs == 1 else functional.cross_entropy
    for _ in fit(
        model, data, convex=convex, epochs=epochs, batch=BATCH, learning_rate=LEARNING_RATE, seed=seed, loss=loss
    ):
        tick()
    certificate = cx.certify(model, data.inputs[:2])
    right = [float((decide(predict(model, part.inputs)) == part.labels).float().mean()) for part in (data, fresh)]
    return Boundary(
        name=title,
        outputs=outputs,
        convex=convex,
        model=model,
        certificate=str(certificate),
        certified=certificate.convex,
        train_accuracy=right[0],
        test_accuracy=right[1],
        left=leaving(model, seed),
        seconds=perf_counter() - start,
    )


def explore_plane(seed: int, *, epochs: int, tick: Callable[[], None] = lambda: None) -> Plane:
    """Train and certify the three networks on 600 points; accuracies are on those and on 2000 fresh points."""
    boundaries = [explore(name, seed, epochs=epochs, tick=tick) for name in NETWORKS]
    line = two_convex_functions()
    certificate = cx.certify(line, torch.zeros(2, 1))
    return Plane(points(seed)[0], epochs, boundaries, line, str(certificate), certificate.convex)


def record(result: Boundary, epochs: int, seed: int, full: bool, surroundings: dict[str, object]) -> dict[str, object]:
    """The row of one network in the plane for `metrics.json`."""
    return {
        "study": "demo-plane",
        "model": next(name for name, about in NETWORKS.items() if about[0] == result.name),
        "dataset": "crescents",
        "tier": ("T3" if result.outputs == 1 else "T2") if result.convex else None,
        "recipe": {"optimiser": "adam", "learning_rate": LEARNING_RATE, "batch": BATCH, "width": WIDTH, "depth": DEPTH},
        "seed": seed,
        "epochs": epochs,
        "full": full,
        "train_accuracy": result.train_accuracy,
        "test_accuracy": result.test_accuracy,
        "midpoints_left": list(result.left),
        "certified": result.certified,
        "seconds": round(result.seconds, 3),
        **surroundings,
    }
