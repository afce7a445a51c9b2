"""Train networks in the plane for Figs 2 and 3 and the demo: ordinary, and convex with one or two outputs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.lab.data import DataSet, Split, crescents
from convexnet.lab.models.registry import build
from convexnet.lab.reports.plane_pictures import EXTENT
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.metrics import classes_of
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.runs.run import record, train_model
from convexnet.lab.training.epoch import predict
from convexnet.lab.training.recipes import Recipe

# The convex networks start with strongly correlated units (all weights after the first layer have one sign). With
# BatchNorm and this learning rate, 200 epochs are enough for two outputs to separate the crescents.
RECIPE = Recipe(name="plane", epochs=200, batch=128, learning_rate=1e-2, normalise="none", hidden=(64, 64, 64))


@dataclass(frozen=True)
class Boundary:
    """One trained network in the plane, what was measured of it, and its record.

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
    row: Row = field(default_factory=Row)


@dataclass(frozen=True)
class Plane:
    """The toy data, the networks trained on it, and the two hand-set functions of one variable."""

    data: Split
    epochs: int
    boundaries: list[Boundary]
    line: nn.Module
    line_certificate: str
    line_certified: bool


def leaving(model: nn.Module, seed: int, pairs: int = 20_000) -> tuple[float, float]:
    """For either class, the share of random pairs of points of its region whose midpoint lies outside it."""
    generator = torch.Generator().manual_seed(seed)
    points = (2.0 * torch.rand(pairs, 2, generator=generator) - 1.0) * EXTENT
    classes = classes_of(predict(model, points))
    shares: list[float] = []
    for label in (0, 1):
        region = points[classes == label]
        if len(region) < 2:
            shares.append(0.0)
            continue
        first, second = torch.randint(len(region), (2, pairs), generator=generator)
        middle = classes_of(predict(model, (region[first] + region[second]) / 2))
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


def two_classes(name: str, train: Split, test: Split, note: str) -> DataSet:
    """Points of two classes as a data set, of which none are kept for validation."""
    nothing = Split(train.images[:0], train.labels[:0])
    return DataSet(name=name, train=train, validation=nothing, test=test, classes=2, classnames=("A", "B"), note=note)


def job_of(study: str, name: str, seed: int, *, epochs: int = RECIPE.epochs, full: bool = True) -> Job:
    """The job of training one of `NETWORKS`."""
    return Job(study, name, "crescents", replace(RECIPE, epochs=epochs), seed, full=full, variant=NETWORKS[name][0])


def explore(job: Job, place: Place, tick: Tick = lambda job, point: None) -> Boundary:
    """Train and certify one of `NETWORKS`; `row` is its record.

    Raises:
        CheckpointError, Diverged, Stopped: as `convexnet.lab.runs.run.train_model`.
    """
    title, outputs, convex = NETWORKS[job.model]
    data, fresh = points(job.seed)
    whole = two_classes(job.dataset, data, fresh, "points of our own: those of the paper are not published")
    model = build("ioc-mlp" if convex else "mlp", whole.shape, outputs, job.recipe, job.seed)
    found = train_model(job, place, tick, model, whole, convex=convex)
    row = record(found)
    left = leaving(found.network, job.seed)
    return Boundary(
        name=title,
        outputs=outputs,
        convex=convex,
        model=found.network,
        certificate=found.proved.certificate,
        certified=row["certified"],
        train_accuracy=row["train_accuracy"],
        test_accuracy=row["test_accuracy"],
        left=left,
        seconds=row["seconds"],
        row={**row, "midpoints_left": list(left)},
    )


def explore_plane(
    seed: int, place: Place, *, epochs: int = RECIPE.epochs, full: bool = True, tick: Tick = lambda job, point: None
) -> Plane:
    """Train and certify the three networks on 600 points; accuracies are on those and on 2000 fresh points."""
    boundaries: list[Boundary] = []
    for name in NETWORKS:
        job = job_of("demo-plane", name, seed, epochs=epochs, full=full)
        boundaries.append(explore(job, replace(place, folder=place.folder / job.key), tick))
    line = two_convex_functions()
    certificate = cx.certify(line, torch.zeros(2, 1))
    return Plane(points(seed)[0], epochs, boundaries, line, str(certificate), certificate.convex)


def two_convex_functions() -> nn.Sequential:
    """Two hand-set convex functions of one variable, (B, 1) -> (B, 2), whose argmax changes four times (Fig. 3a).

    The first output is 0.5 + 2 max(|x| - 1, 0), the second |x|. All weights after the ReLU are non-negative.
    """
    network = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 2))
    parameters = {
        "0.weight": torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]),
        "0.bias": torch.tensor([0.0, 0.0, -1.0, -1.0]),
        "2.weight": torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 0.0, 0.0]]),
        "2.bias": torch.tensor([0.5, 0.0]),
    }
    network.load_state_dict(parameters)
    return network


def intervals(difference: Tensor) -> int:
    """How many runs of equal sign a sampled function (N,) has; N points in order.

    Example:
        >>> intervals(torch.tensor([-1.0, -2.0, 3.0, 1.0, -1.0]))
        3
    """
    positive = difference > 0
    return int((positive[1:] != positive[:-1]).sum()) + 1
