"""Fig. 3: the argmax of two convex functions, on a line and in the plane (Sivaprasad et al. 2021, section 3.2).

    convexnet study run fig3

On a line: two functions set by hand, whose argmax changes four times, and the same regions learnt by a convex network
with two outputs. In the plane: the two outputs behind the boundary of Fig. 2, whose record serves here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from time import perf_counter

import torch
from torch import nn
from torch.nn import functional

import convexnet as cx
from convexnet.lab import figures, records
from convexnet.lab.data import Split
from convexnet.lab.jobs import Job
from convexnet.lab.networks import convex_mlp, intervals, two_convex_functions
from convexnet.lab.page import Panel, Section, Table
from convexnet.lab.place import Place, Tick
from convexnet.lab.recipes import Recipe
from convexnet.lab.records import Row
from convexnet.lab.studies import fig2
from convexnet.lab.study import Study, shortened
from convexnet.lab.train import fit, predict

RECIPE = Recipe(name="line", epochs=200, batch=128, learning_rate=1e-2)
LINE = torch.linspace(-2, 2, 401)[:, None]


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
    start = perf_counter()
    model = two_convex_functions()
    wanted = predict(model, LINE).argmax(1)
    if job.model != "by-hand":
        model = learnt(job, tick)
    outputs = predict(model, LINE)
    certificate = cx.certify(model, LINE[:2])
    right = float((outputs.argmax(1) == wanted).double().mean())
    return {
        "record": records.VERSION,
        "key": job.key,
        "study": job.study,
        "model": job.model,
        "dataset": job.dataset,
        "variant": "",
        "tier": "T2" if certificate.convex else None,
        "recipe": asdict(job.recipe),
        "seed": job.seed,
        "epochs": job.recipe.epochs,
        "full": job.full,
        "train_samples": len(LINE),
        "train_accuracy": right,
        "clean_train_accuracy": right,
        "running_accuracy": None,
        "test_accuracy": None,
        "test_accuracy_at_peak": None,
        "intervals": intervals(outputs[:, 1] - outputs[:, 0]),
        "outputs": [[round(value, 4) for value in pair] for pair in outputs.tolist()],
        "certified": certificate.convex,
        "seconds": round(perf_counter() - start, 3),
        "hardware": records.hardware(),
        "versions": records.versions(),
        "commit": records.commit(),
    }


def learnt(job: Job, tick: Tick) -> nn.Module:
    """A convex network with two outputs, trained on the regions of the functions set by hand."""
    labels = predict(two_convex_functions(), LINE).argmax(1)
    model = convex_mlp(LINE, 2, width=64, depth=2, seed=job.seed)
    for epoch in fit(
        model,
        Split(LINE, labels),
        convex=True,
        epochs=job.recipe.epochs,
        batch=job.recipe.batch,
        learning_rate=job.recipe.learning_rate,
        seed=job.seed,
        loss=functional.cross_entropy,
    ):
        tick(job, {"epoch": epoch.number, "running_accuracy": epoch.running_accuracy})
    return model


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
        drawn = figures.larger_of(torch.tensor(own[0]["outputs"]))
        panels.append(Panel(figures.picture(f"{title}, one variable", alt, drawn, size=(4.1, 3.3)), caption))
    plane = next((row for row in rows if "sheets" in row), None)
    if plane is not None:
        proof = "certified convex" if plane["certified"] else "not certified convex"
        for view, elevation, azimuth in (("the side", 6, -65), ("above", 62, -90)):
            title = f"In the plane, from {view}"
            alt = f"Two surfaces, one for each class, {proof}, seen from {view}."
            drawn = figures.sheets(torch.tensor(plane["sheets"]), elevation, azimuth)
            panels.append(Panel(figures.picture(title, alt, drawn, size=(4.1, 3.3)), f"Both outputs are {proof}."))
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
