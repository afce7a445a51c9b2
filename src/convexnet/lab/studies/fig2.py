"""Fig. 2: what one and two convex outputs can separate in the plane (Sivaprasad et al. 2021, section 3.2).

    convexnet study run fig2

The paper's points are not published; ours are two interleaved crescents, drawn from the seed, of which neither class
fits into a convex set that spares the other. Each network takes seconds on one core, so the two-core setting is the
full one.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import torch
from torch import Tensor

from convexnet.lab.reports import plane_pictures
from convexnet.lab.reports.comparison import shown
from convexnet.lab.reports.page import Panel, Section, Table
from convexnet.lab.reports.pictures import picture
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.metrics import classes_of
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.studies import plane
from convexnet.lab.studies.study import Study
from convexnet.lab.training.epoch import predict

MAP, SHEET = 128, 28
"""Points on a side of the regions and of the surfaces that a record of the first seed keeps, to be drawn."""


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """The three networks from every seed."""
    full = size != "smoke"
    epochs = plane.RECIPE.epochs if full else 5
    return [plane.job_of("fig2", name, seed, epochs=epochs, full=full) for seed in seeds for name in plane.NETWORKS]


def run(job: Job, place: Place, tick: Tick) -> Row:
    """Train one network in the plane; the record of the first seed holds what is drawn of it."""
    result = plane.explore(job, place, tick)
    if job.seed:
        return result.row
    drawn: Row = {"regions": packed(classes_of(predict(result.model, plane_pictures.grid(MAP))).bool())}
    if result.outputs == 2:
        sheets = predict(result.model, plane_pictures.grid(SHEET)).tolist()
        drawn["sheets"] = [[round(value, 4) for value in pair] for pair in sheets]
    return {**result.row, **drawn}


def packed(bits: Tensor) -> str:
    """Booleans (N,) as base64, eight to a byte.

    Example:
        >>> packed(torch.tensor([True] + 7 * [False])), unpacked("gA==").tolist()
        ('gA==', [1, 0, 0, 0, 0, 0, 0, 0])
    """
    powers = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1])
    return base64.b64encode(bytes((bits.reshape(-1, 8) * powers).sum(1).tolist())).decode()


def unpacked(text: str) -> Tensor:
    """The numbers 0 and 1 that `packed` wrote, (N,)."""
    found = torch.tensor(list(base64.b64decode(text)))
    return (found[:, None] >> torch.arange(7, -1, -1) & 1).flatten()


def sections(rows: Sequence[Row]) -> list[Section]:
    """Regions of the first seed, and how far from convex they are over all seeds."""
    cells: list[list[str]] = []
    panels: list[Panel] = []
    for name, (title, _, _) in plane.NETWORKS.items():
        own = [row for row in rows if row["model"] == name]
        if not own:
            cells.append([title, *["–"] * 5, "not run"])
            continue
        left = [max(row["midpoints_left"][0], row["midpoints_left"][1]) for row in own]
        least = [min(row["midpoints_left"][0], row["midpoints_left"][1]) for row in own]
        proved = f"{sum(bool(row['certified']) for row in own)} of {len(own)}"
        accuracy = shown([row["test_accuracy"] for row in own])
        seeds = str(len({row["seed"] for row in own}))
        run = f"{own[0]['epochs']} epochs" + ("" if all(row["full"] for row in own) else ", shortened")
        cells.append([title, accuracy, shown(least), shown(left), proved, seeds, run])
        first = next((row for row in own if "regions" in row), None)
        if first is not None:
            said = f"{100 * first['test_accuracy']:.1f} % on fresh points."
            drawn = plane_pictures.regions(plane.points(0)[0], unpacked(first["regions"]).reshape(MAP, MAP))
            alt = f"Map of the plane divided into two regions by: {title}. {said}"
            panels.append(Panel(picture(title, alt, drawn, size=(3.4, 3.4)), said))
    columns = ("network", "test", "left, one class", "left, the other", "certified", "seeds", "run")
    caption = (
        "Test accuracy on 2000 fresh points, and the share of pairs of points of one region whose midpoint lies "
        "outside it, for the class whose region is left less and for the other, in percent; 0 for a convex region"
    )
    return [
        Section(
            "Fig. 2: decision boundaries in the plane",
            "One convex output with a threshold gives one class a convex region. Two convex outputs, of which the "
            "larger wins, can give both classes regions that are not convex.",
            tables=[Table(caption, columns, cells)],
            panels=panels,
            legend="classes",
        )
    ]


STUDY = Study(
    name="fig2",
    title="Decision boundaries in the plane",
    source="Sivaprasad et al. 2021, figure 2",
    systems=("A9",),
    seeds={"smoke": 1, "two-core": 3, "full": 3},
    plan=plan,
    sections=sections,
    run=run,
)
