"""Fig. 3: the argmax of two convex functions, on a line and in the plane (Sivaprasad et al. 2021, section 3.2).

    convexnet study run fig3

On a line: two functions set by hand, whose argmax changes four times, and the same regions learnt by a convex network
with two outputs. In the plane: the two outputs behind the boundary of Fig. 2, whose record serves here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from convexnet.lab.data import DataSet, Split
from convexnet.lab.models.registry import build
from convexnet.lab.reports import plane_pictures
from convexnet.lab.reports.page import Panel, Section, Table
from convexnet.lab.reports.pictures import picture
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.learning import common
from convexnet.lab.runs.metrics import classes_of
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import FIELDS, Row
from convexnet.lab.runs.run import record, train_model
from convexnet.lab.runs.verdict import verdict
from convexnet.lab.studies import fig2
from convexnet.lab.studies.plane import intervals, two_convex_functions
from convexnet.lab.studies.study import Study, shortened
from convexnet.lab.training.driver import Driven
from convexnet.lab.training.epoch import predict
from convexnet.lab.training.recipes import Recipe

RECIPE = Recipe(name="line", epochs=200, batch=128, learning_rate=1e-2, normalise="none", hidden=(64, 64))
LINE, FINER = torch.linspace(-2, 2, 401)[:, None], torch.linspace(-2, 2, 2001)[:, None]
"""What is trained and drawn on, and what the accuracy on points in between is taken of."""


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """The functions set by hand, those learnt from every seed, and Fig. 2's network with two outputs."""
    how = shortened(RECIPE, 5) if size == "smoke" else RECIPE
    plane = [replace(job, study="fig3") for job in fig2.plan(size, seeds) if job.model == "ioc-mlp-2"]
    learnt = [Job("fig3", "ioc-mlp-2", "line", how, seed, full=size != "smoke") for seed in seeds]
    return [Job("fig3", "by-hand", "line", replace(RECIPE, epochs=0), 0), *learnt, *plane]


def run(job: Job, place: Place, tick: Tick) -> Row:
    """Two functions of one variable; those of the plane are Fig. 2's."""
    if job.dataset != "line":
        return fig2.run(job, place, tick)
    if job.model == "by-hand":
        model = two_convex_functions().requires_grad_(False)  # nothing trains it, and so nothing can undo its proof
        row = by_hand(job, model)
    else:
        start = build("ioc-mlp", (1,), 2, job.recipe, job.seed)
        found = train_model(job, place, tick, start, regions(), convex=True)
        model, row = found.network, record(found)
    outputs = predict(model, LINE)
    drawn = [[round(value, 4) for value in pair] for pair in outputs.tolist()]
    return {**row, "intervals": intervals(outputs[:, 1] - outputs[:, 0]), "outputs": drawn}


def regions() -> DataSet:
    """Which of the functions set by hand is larger, on the line and in between."""
    hand = two_convex_functions()
    line, finer = (Split(inputs, classes_of(predict(hand, inputs))) for inputs in (LINE, FINER))
    none = Split(LINE[:0], line.labels[:0])
    return DataSet("line", train=line, validation=none, test=finer, classes=2, classnames=("f", "g"))


def by_hand(job: Job, model: nn.Module) -> Row:
    """The record of functions that nothing was trained for: right by definition."""
    proved = verdict(model, LINE[:2])
    nothing = dict.fromkeys(FIELDS, None)
    return {
        **nothing,
        **common(job, Driven()),
        "tier": proved.tier if proved.certified else None,
        "certified": proved.certified,
        "epochs": 0,
        "train_samples": len(LINE),
        "train_accuracy": 1.0,
        "clean_train_accuracy": 1.0,
        "test_accuracy": 1.0,
    }


def sections(rows: Sequence[Row]) -> list[Section]:
    """The functions on the line as set and as learnt from the first seed, and the surfaces from two sides."""
    cells: list[list[str]] = []
    panels: list[Panel] = []
    for name, title in (("by-hand", "Set by hand"), ("ioc-mlp-2", "Learnt")):
        own = [row for row in rows if (row["model"], row["dataset"]) == (name, "line")]
        if not own:
            cells.append([title, "–", "–", "–", "not run"])
            continue
        counts = ", ".join(str(row["intervals"]) for row in own)
        right = ", ".join(f"{100 * row['train_accuracy']:.1f}" for row in own)
        proved = f"{sum(bool(row['certified']) for row in own)} of {len(own)}"
        ran = "–" if name == "by-hand" else f"{own[0]['epochs']} epochs" + ("" if own[0]["full"] else ", shortened")
        cells.append([title, counts, right, proved, ran])
        caption = f"[−2, 2] falls into {own[0]['intervals']} intervals; the strip shows which function is larger."
        alt = f"Line chart of two functions of one variable, {title.lower()}. {caption}"
        drawn = plane_pictures.larger_of(torch.tensor(own[0]["outputs"]))
        panels.append(Panel(picture(f"{title}, one variable", alt, drawn, size=(4.1, 3.3)), caption))
    plane = next((row for row in rows if "sheets" in row), None)
    if plane is not None:
        proof = "certified convex" if plane["certified"] else "not certified convex"
        for view, elevation, azimuth in (("the side", 6, -65), ("above", 62, -90)):
            title = f"In the plane, from {view}"
            alt = f"Two surfaces, one for each class, {proof}, seen from {view}."
            drawn = plane_pictures.sheets(torch.tensor(plane["sheets"]), elevation, azimuth)
            panels.append(Panel(picture(title, alt, drawn, size=(4.1, 3.3)), f"Both outputs are {proof}."))
    columns = ("functions", "intervals, seed by seed", "points right, %", "certified", "run")
    return [
        Section(
            "Fig. 3: the argmax of two convex functions",
            "The larger of two convex functions changes as often as one likes, because their difference need not be "
            "convex. The functions set by hand divide [−2, 2] into intervals; a convex network with two outputs, "
            "trained on which of them is larger, is to divide it likewise.",
            tables=[Table("Two functions of one variable on 401 points", columns, cells)],
            panels=panels,
            legend="classes",
        )
    ]


STUDY = Study(
    name="fig3",
    title="The argmax of two convex functions",
    source="Sivaprasad et al. 2021, figure 3",
    systems=("A9",),
    seeds={"smoke": 1, "two-core": 3, "full": 3},
    plan=plan,
    sections=sections,
    run=run,
)
