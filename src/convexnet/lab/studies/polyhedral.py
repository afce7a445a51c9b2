"""What one convex output can separate: polyhedra, the quadratic, and XOR (Sivaprasad et al. 2021, sections 2 and 3.1).

    convexnet study run polyhedral

A polyhedral classifier gives one class the region max_k (w_k x + b_k) <= 0, an intersection of half-planes. The
paper's quadratic is convex where w1, w2 >= 0 and |w3| <= 2 sqrt(w1 w2); here it is the sum of squares of affine
functions, which are all of these. Both fail where a class is a union of regions that no convex set joins, "e.g. XOR",
as the paper says. That depends on which XOR: of four points (two at opposite corners of a square are one class) a
strip along a diagonal holds one class and spares the other, so that a polyhedron does solve it. Of four quadrants
none does: a strip reaches 5/6 there, at a width where its sides cut the axes at two thirds. Two convex outputs solve
both.


Points are drawn from the seed; each network takes seconds on one core, so the two-core setting is the full one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor, nn

from convexnet.lab.data import Split
from convexnet.lab.data.noise import generator_for
from convexnet.lab.models.convex import drawn_from
from convexnet.lab.models.registry import build
from convexnet.lab.reports import plane_pictures
from convexnet.lab.reports.comparison import shown
from convexnet.lab.reports.page import Panel, Section, Table
from convexnet.lab.reports.pictures import picture
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.metrics import classes_of
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.runs.run import record, train_model
from convexnet.lab.studies.fig2 import MAP, packed, unpacked
from convexnet.lab.studies.plane import two_classes
from convexnet.lab.studies.study import Study
from convexnet.lab.training.epoch import predict
from convexnet.lab.training.recipes import OURS_CONVEX, Recipe

RECIPE = Recipe(name="polyhedral", epochs=120, batch=64, learning_rate=2e-2, schedule="cosine", normalise="none")
COUNT, FRESH = 600, 4000
"""Points to train on, and to test on."""

FACES = 8
"""Half-planes of the polyhedral classifier."""


class Polyhedron(nn.Module):
    """max_k (w_k x + b_k) of K affine functions, (B, n) -> (B, 1): convex for all parameters.

    Example:
        >>> Polyhedron(2, 3)(torch.zeros(5, 2)).shape
        torch.Size([5, 1])
    """

    def __init__(self, inputs: int, faces: int) -> None:
        super().__init__()
        self.faces = nn.Linear(inputs, faces)

    def forward(self, x: Tensor) -> Tensor:
        return self.faces(x).amax(1, keepdim=True)


class ConvexQuadratic(nn.Module):
    """Sum of squares of n affine functions, and an affine one, (B, n) -> (B, 1): every convex quadratic is such a sum.

    Example:
        >>> ConvexQuadratic(2)(torch.zeros(5, 2)).shape
        torch.Size([5, 1])
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.root, self.affine = nn.Linear(inputs, inputs, bias=False), nn.Linear(inputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.root(x).square().sum(1, keepdim=True) + self.affine(x)


class FreeQuadratic(nn.Module):
    """x^T A x, of any A, and an affine function, (B, n) -> (B, 1): nothing keeps it convex.

    Example:
        >>> FreeQuadratic(2)(torch.zeros(5, 2)).shape
        torch.Size([5, 1])
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.form, self.affine = nn.Linear(inputs, inputs, bias=False), nn.Linear(inputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.form(x) * x).sum(1, keepdim=True) + self.affine(x)


def network(name: str, outputs: int) -> Callable[[int], nn.Module]:
    """A small MLP of the laboratory, from a seed."""
    how = replace(RECIPE, hidden=(32, 32), convex=replace(OURS_CONVEX.convex, free_head=outputs > 1))
    return lambda seed: build(name, (2,), outputs, how, seed)


NETWORKS: Mapping[str, tuple[str, bool, Callable[[int], nn.Module]]] = MappingProxyType(
    {
        "polyhedron": (f"polyhedral, {FACES} half-planes", False, lambda seed: Polyhedron(2, FACES)),
        "quadratic-convex": ("quadratic, convex", False, lambda seed: ConvexQuadratic(2)),
        "quadratic": ("quadratic, free", False, lambda seed: FreeQuadratic(2)),
        "ioc-mlp-1": ("convex network, one output", True, network("ioc-mlp", 1)),
        "ioc-mlp-2": ("convex network, two outputs", True, network("ioc-mlp", 2)),
        "mlp-1": ("ordinary network, one output", False, network("mlp-signs", 1)),
    }
)
"""By the name in records: title, whether a constraint keeps it convex, and how it is made."""

TOYS: Mapping[str, str] = MappingProxyType(
    {
        "xor-points": "XOR, four points",
        "xor-quadrants": "XOR, four quadrants",
        "disc": "a disc, inside convex",
        "disc-outside": "a disc, outside convex",
    }
)


def points(toy: str, count: int, seed: int) -> Split:
    """Points in the plane, (count, 2), and their classes; that of a convex output is 0.

    Raises:
        ValueError: there is no such toy.
    """
    generator = generator_for(seed, toy)
    square = 2 * torch.rand(count, 2, generator=generator) - 1
    if toy == "xor-points":
        corners = torch.where(square > 0, 1.0, -1.0)
        labels = (corners[:, 0] * corners[:, 1] < 0).long()
        return Split(corners + 0.12 * torch.randn(count, 2, generator=generator), labels)
    if toy == "xor-quadrants":
        return Split(square, (square[:, 0] * square[:, 1] < 0).long())
    if toy in ("disc", "disc-outside"):
        inside = square.norm(dim=1) < 0.8  # half of the square
        return Split(square, (inside if toy == "disc-outside" else ~inside).long())
    raise ValueError(f"there is no toy {toy!r}; there are {', '.join(TOYS)}")


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """Every network on every toy."""
    how = replace(RECIPE, epochs=4) if size == "smoke" else RECIPE
    toys = ("xor-quadrants",) if size == "smoke" else tuple(TOYS)
    return [
        Job("polyhedral", name, toy, how, seed, full=size != "smoke", measure_every=how.epochs)
        for seed in seeds
        for toy in toys
        for name in NETWORKS
    ]


def run(job: Job, place: Place, tick: Tick) -> Row:
    """Train one network in the plane; the record of the first seed holds its regions."""
    _, convex, make = NETWORKS[job.model]
    with drawn_from(job.seed):
        model = make(job.seed)
    train, fresh = points(job.dataset, COUNT, job.seed), points(job.dataset, FRESH, job.seed + 1_000)
    data = two_classes(job.dataset, train, fresh, "points of our own")
    found = train_model(job, place, tick, model, data, convex=convex)
    drawn: Row = {}
    if not job.seed:
        drawn["regions"] = packed(classes_of(predict(found.network, plane_pictures.grid(MAP))).bool())
    return {**record(found), **drawn}


def sections(rows: Sequence[Row]) -> list[Section]:
    """Test accuracy of every network on every toy, and regions of the first seed."""
    cells: list[list[str]] = []
    for name, (title, _, _) in NETWORKS.items():
        own = [row for row in rows if row["model"] == name]
        values = [shown([row["test_accuracy"] for row in own if row["dataset"] == toy]) for toy in TOYS]
        proved = f"{sum(bool(row['certified']) for row in own)} of {len(own)}"
        run_ = "not run" if not own else "" if all(row["full"] for row in own) else "shortened"
        cells.append(
            [title, *values, proved, str(len({row["seed"] for row in own})), run_ or f"{RECIPE.epochs} epochs"]
        )
    panels: list[Panel] = []
    for row in rows:
        if "regions" in row and row["dataset"].startswith("xor"):
            title = f"{NETWORKS[row['model']][0]}, {TOYS[row['dataset']]}"
            said = f"{100 * row['test_accuracy']:.1f} % on fresh points."
            area = unpacked(row["regions"]).reshape(MAP, MAP)
            drawn = plane_pictures.regions(points(row["dataset"], COUNT, 0), area)
            alt = f"Map of the plane divided into two regions by: {title}. {said}"
            panels.append(Panel(picture(title, alt, drawn, size=(2.6, 2.6)), said))
    return [
        Section(
            "Polyhedra, the quadratic, and XOR",
            "Test accuracy on 4,000 fresh points, in percent. One convex output gives class A a convex region. On four "
            "points XOR has one: a strip along a diagonal. On four quadrants it has none, and the best strip is right "
            "on 5/6 = 83.3 %. Inside a disc either class may be asked to be the convex one; only the disc can be.",
            tables=[Table("One output and two", ("network", *TOYS.values(), "certified", "seeds", "run"), cells)],
            panels=panels,
            legend="classes",
        )
    ]


STUDY = Study(
    name="polyhedral",
    title="Polyhedra, the convex quadratic and XOR in the plane",
    source="Sivaprasad et al. 2021, sections 2 and 3.1",
    systems=("A9",),
    seeds={"smoke": 1, "two-core": 3, "full": 3},
    plan=plan,
    sections=sections,
    run=run,
)
