"""Fig. 4: a mixture of convex experts partitions a V-shape (Sivaprasad et al. 2021, section 3.3).

    convexnet study run fig4

A gate with one hidden layer and p outputs, and p experts with three hidden layers and one output, trained by
generalised EM. The paper's points are not published; ours lie in a square, and those in a band along a letter V are
class B. Five experts, as the paper's five partitions; beside them one and two, and five ordinary ones as a control.
Each mixture takes seconds to a minute on one core, so the two-core setting is the full one. Experts have 32 units a
layer, the gate 32: the paper states no widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convexnet.ensembles.outputs import classes_of, predict
from convexnet.lab.data import DataSet, Split
from convexnet.lab.reports import expert_pictures, plane_pictures
from convexnet.lab.reports.comparison import shown
from convexnet.lab.reports.page import Panel, Section, Table
from convexnet.lab.reports.pictures import picture
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.fig2 import packed as packed_bits
from convexnet.lab.studies.fig2 import unpacked as unpacked_bits
from convexnet.lab.studies.mixtures import mix, outputs_of_experts, preferred
from convexnet.lab.studies.study import Study, shortened
from convexnet.lab.training.recipes import Recipe

RECIPE = Recipe(name="vee", epochs=150, batch=128, learning_rate=1e-2, normalise="none", hidden=(32, 32, 32))
GATE = 32
MAP = 128
"""Points on a side of the maps that a record of the first seed keeps."""

NETWORKS = {
    "ioc-mixture-5": "Five convex experts and a gate",
    "ioc-mixture-2": "Two convex experts and a gate",
    "ioc-mixture-1": "One convex expert",
    "mixture-5": "Five ordinary experts and a gate",
}


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """The mixtures from every seed."""
    how = shortened(RECIPE, 3) if size == "smoke" else RECIPE
    return [
        Job("fig4", name, "vee", how, seed, full=size != "smoke", variant=title, measure_every=5)
        for seed in seeds
        for name, title in NETWORKS.items()
    ]


def vee(count: int, seed: int) -> Split:
    """Points (count, 2) of a square, of which those in a band along a letter V are class 1."""
    points = (2 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) - 1) * 1.7
    along = points[:, 1] - 1.7 * points[:, 0].abs() + 1.0
    return Split(points, (along.abs() < 0.55).long())


def data_of(seed: int) -> DataSet:
    """1000 points to train on, 250 to choose the best iteration by, and 2000 fresh ones."""
    parts = [vee(count, 3 * seed + index) for index, count in enumerate((1000, 250, 2000))]
    note = "points of our own: those of the paper are not published"
    return DataSet("vee", *parts, classes=2, classnames=("A", "B"), note=note)


def run(job: Job, place: Place, tick: Tick) -> Row:
    """Train one mixture; the record of the first seed holds what is drawn of it."""
    found = mix(job, place, tick, data_of(job.seed), gate=GATE)
    row = {**found.row, "pieces": pieces(preferred(found.mixture, plane_pictures.grid(MAP)).reshape(MAP, MAP))}
    if job.seed:
        return row
    grid = plane_pictures.grid(MAP)
    signs = (outputs_of_experts(found.mixture, grid) > 0).T
    return {
        **row,
        "regions": packed_bits(classes_of(predict(found.mixture, grid)).bool()),
        "partition": expert_pictures.packed(preferred(found.mixture, grid)),
        "boundaries": expert_pictures.packed(signs.long()),
    }


def pieces(chosen: Tensor) -> int:
    """How many connected pieces a map (side, side) of experts has that cover a hundredth of it or more.

    Example:
        >>> pieces(torch.tensor([[0, 1, 0], [0, 1, 0]]))
        3
    """
    labels = torch.arange(chosen.numel()).reshape(chosen.shape)
    while True:
        new = labels.clone()
        for here, there in (
            ((slice(1, None),), (slice(None, -1),)),
            ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
        ):
            for one, other in ((here, there), (there, here)):
                alike = chosen[one] == chosen[other]
                new[one] = torch.where(alike, torch.minimum(new[one], new[other]), new[one])
        if torch.equal(new, labels):
            sizes = labels.flatten().unique(return_counts=True)[1]
            return int((sizes * 100 >= chosen.numel()).sum())
        labels = new


def sections(rows: Sequence[Row]) -> list[Section]:
    """The partitions of the first seed, and what was measured over all seeds."""
    cells: list[list[str]] = []
    panels: list[Panel] = []
    for name, title in NETWORKS.items():
        own = [row for row in rows if row["model"] == name]
        if not own:
            cells.append([title, *["–"] * 7, "not run"])
            continue
        proved = f"{sum(row['experts_certified'] for row in own)} of {sum(row['experts'] for row in own)}"
        run = f"{max(row['epochs'] for row in own)} iterations" + ("" if own[0]["full"] else ", shortened")
        cells.append(
            [
                title,
                shown([row["test_accuracy"] for row in own]),
                shown([row["preferred_alone_accuracy"] for row in own]),
                shown([row["log_likelihood"] for row in own], scale=1.0, digits=3),
                ", ".join(str(row["experts_used"]) for row in own),
                ", ".join(str(row["pieces"]) for row in own),
                proved,
                str(sum(row["falls"] for row in own)),
                run,
            ]
        )
        first = next((row for row in own if "partition" in row), None)
        if first is not None and name.startswith("ioc-"):
            panels += drawn(first, title)
    columns = ("network", "test", "preferred alone", "log-likelihood", "experts used", "pieces")
    caption = (
        "Test accuracy on 2000 fresh points of the mixture, and of the expert that the gate prefers taken alone, in "
        "percent; mean log-likelihood of the training points in nats; seed by seed, experts that the gate prefers "
        "somewhere, and connected pieces of the square that it gives to one of them. “Falls” counts iterations that "
        "lowered the likelihood"
    )
    return [
        Section(
            "Fig. 4: a mixture of convex experts on a V-shape",
            "One convex output leaves one class a convex region, and neither class of a V is one. A gate gives parts "
            "of the plane to experts, each of which is convex; the mixture is not, and nothing certifies it.",
            tables=[Table(caption, (*columns, "experts certified", "falls", "run"), cells)],
            panels=panels,
            legend="classes",
        )
    ]


def drawn(row: Row, title: str) -> list[Panel]:
    """The mixture, the gate's partition, and the boundaries of its experts."""
    data = vee(1000, 3 * row["seed"])
    chosen = expert_pictures.unpacked(row["partition"], (MAP, MAP))
    signs = expert_pictures.unpacked(row["boundaries"], (row["experts"], MAP, MAP))
    test = f"{100 * row['test_accuracy']:.1f} % on fresh points"
    regions = plane_pictures.regions(data, unpacked_bits(row["regions"]).reshape(MAP, MAP))
    panels = [
        Panel(picture(title, f"Map of the two regions of a mixture: {title}. {test}.", regions, (3.4, 3.4)), f"{test}.")
    ]
    if row["experts"] == 1:
        return panels
    said = f"The gate prefers {row['experts_used']} of {row['experts']} experts, in {row['pieces']} pieces."
    where = "Solid where the gate prefers the expert, dotted elsewhere; points of class B in grey."
    return [
        *panels,
        Panel(
            picture(
                f"{title}: the gate",
                f"Map of the plane divided among experts. {said}",
                expert_pictures.partition(chosen, data),
                (3.4, 3.4),
            ),
            f"{said} Points of class B are dark.",
        ),
        Panel(
            picture(
                f"{title}: the experts",
                f"The boundary of each expert. {where}",
                expert_pictures.boundaries(signs, chosen, data),
                (3.4, 3.4),
            ),
            where,
        ),
    ]


STUDY = Study(
    name="fig4",
    title="A mixture of convex experts on a V-shape",
    source="Sivaprasad et al. 2021, figure 4",
    systems=("A7",),
    seeds={"smoke": 1, "two-core": 3, "full": 3},
    plan=plan,
    sections=sections,
    run=run,
)
