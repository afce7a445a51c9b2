"""Toys in the plane by energies f(x, y): FICNN and PICNN of 200-200, learnt in three ways (Amos & Kolter 2016).

    convexnet study run synthetic-icnn

The class of a point x is the y with the least energy: a number y in [0, 1], learnt by unrolled descent as the ICNN
paper's code has it (30 steps, rate 0.01, momentum 0.9, from 0.5, squared error; Adam, at 1e-2 and not 1e-3), and
exactly, through the argmin with the entropy; or the shares of two classes, by max-margin. A FICNN is convex in x and y
together, and what it can separate is restricted; a PICNN is convex in y alone. Moons have noise 0.3, circles noise 0.2
and factor 0.5, as in the source; its linear points are not described, ours lie on both sides of a line, blurred by
noise. Each network takes a minute or two on one core, so the two-core setting is the full one.
The source names no number; it has pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.energy import EnergyTraining, Joint, predict, unrolled
from convexnet.lab.data import Split
from convexnet.lab.data.noise import generator_for
from convexnet.lab.models.convex import drawn_from
from convexnet.lab.reports import plane_pictures
from convexnet.lab.reports.comparison import shown
from convexnet.lab.reports.page import Panel, Section, Table
from convexnet.lab.reports.pictures import picture
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.energies import EnergyRecipe, MeasuredEnergy, learn_energy
from convexnet.lab.studies.fig2 import packed, unpacked
from convexnet.lab.studies.study import Study

UNROLLED = EnergyRecipe(
    "unrolled", epochs=50, how="unrolled", batch=40, learning_rate=1e-2, hidden=(200, 200), constraint="clip"
)
WAYS: Mapping[str, EnergyRecipe] = MappingProxyType(
    {
        "unrolled": UNROLLED,
        "argmin": replace(UNROLLED, name="argmin", how="argmin"),
        "max-margin": replace(UNROLLED, name="max-margin", how="max-margin", solver="vertices"),
    }
)
MODELS: Mapping[str, str] = MappingProxyType({"ficnn": "FICNN", "picnn": "PICNN"})
TOYS: Mapping[str, str] = MappingProxyType({"linear": "a line", "moons": "two moons", "circles": "two circles"})

SCALE = 6.0
"""Networks see the points times this. A FICNN whose y answers to x bends more in x than in y, since it is convex in
both together, and with the points as they are, it learns nothing in as many epochs."""

COUNT, FRESH = 400, 2000
"""Points to train on, and to test on."""

MAP = 64
"""Points on a side of the maps that a record of the first seed keeps."""


def points(toy: str, count: int, seed: int) -> Split:
    """Points in the plane, (count, 2), around 0, and their classes.

    Raises:
        ValueError: there is no such toy.

    Example:
        >>> points("moons", 4, 0).images.shape
        torch.Size([4, 2])
    """
    generator = generator_for(seed, toy)
    labels = torch.arange(count) % 2
    noise = torch.randn(count, 2, generator=generator)
    if toy == "linear":
        along, away = 3 * torch.rand(2, count, generator=generator) - torch.tensor([[1.5], [0.0]])
        turned = torch.stack([along + away * (2 * labels - 1) / 2, along - away * (2 * labels - 1) / 2], 1)
        return Split(turned / 1.5 + 0.1 * noise, labels)
    half = torch.pi if toy == "moons" else 2 * torch.pi
    angle = half * torch.rand(count, generator=generator)
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    if toy == "moons":
        other = torch.tensor([1.0, 0.5]) - ring
        return Split(torch.where(labels[:, None] == 0, ring, other) - torch.tensor([0.5, 0.25]) + 0.3 * noise, labels)
    if toy == "circles":
        return Split(torch.where(labels[:, None] == 0, ring, 0.5 * ring) + 0.2 * noise, labels)
    raise ValueError(f"there is no toy {toy!r}; there are {', '.join(TOYS)}")


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """Both networks on every toy, in every way."""
    full = size != "smoke"
    toys = tuple(TOYS) if full else ("moons",)
    return [
        Job("synthetic-icnn", model, toy, how if full else replace(how, epochs=2, hidden=(16, 16)), seed, full=full)
        for seed in seeds
        for toy in toys
        for model in MODELS
        for how in WAYS.values()
    ]


def domain_of(how: EnergyRecipe) -> cx.Cube | cx.Simplex:
    """What y ranges over."""
    return cx.Simplex(2) if how.how == "max-margin" else cx.Cube(1, entropy=how.how == "argmin")


def classes_of(f: nn.Module, x: Tensor, how: EnergyRecipe, exact: bool) -> Tensor:
    """The class of each point: where descent of so many steps ends, or the proved minimum."""
    domain, x = domain_of(how), SCALE * x
    if how.how == "max-margin":
        return predict(f, x, domain, solver="vertices", tol=how.tol).argmax(1)
    if how.how == "unrolled" and not exact:
        return (unrolled(f, x, domain, **how.descent).detach() > 0.5).long()[:, 0]
    return (predict(f, x, domain, tol=how.tol) > 0.5).long()[:, 0]


def make(job: Job) -> MeasuredEnergy:
    """The learner of a job."""
    how = job.recipe
    assert isinstance(how, EnergyRecipe)
    train, fresh = points(job.dataset, COUNT, job.seed), points(job.dataset, FRESH, job.seed + 1_000)
    domain = domain_of(how)
    (size,) = domain.shape
    with drawn_from(job.seed):
        layers: dict[str, Any] = {"hidden": how.hidden, "activation": how.activation, "constraint": how.constraint}
        picnn = job.model == "picnn"
        f = cx.nn.PICNN(2, size, **layers) if picnn else Joint(cx.nn.FICNN(2 + size, **layers))
    targets = train.labels if size > 1 else train.labels.float()[:, None]
    learner = EnergyTraining(f, SCALE * train.images, targets, domain, seed=job.seed, **how.training)

    def columns(f: nn.Module) -> Row:
        used, proved = classes_of(f, fresh.images, how, False), classes_of(f, fresh.images, how, True)
        row: Row = {
            "train_accuracy": share(classes_of(f, train.images, how, False), train.labels),
            "test_accuracy": share(used, fresh.labels),
            "test_accuracy_of_minimum": share(proved, fresh.labels),
            "test_samples": len(fresh),
            "note": "points of our own, in the source's manner",
        }
        if not job.seed:
            row["regions"] = packed(classes_of(f, plane_pictures.grid(MAP), how, False).bool())
        return row

    return MeasuredEnergy(learner, columns)


def share(classes: Tensor, labels: Tensor) -> float:
    """The share of points whose class is right."""
    return float((classes == labels).double().mean())


def run(job: Job, place: Place, tick: Tick) -> Row:
    """Train one network; the record of the first seed holds its regions."""
    return learn_energy(make, job, place, tick)


def sections(rows: Sequence[Row]) -> list[Section]:
    """Accuracies of each network and way on each toy, and the regions of the first seed."""
    cells: list[list[str]] = []
    panels: list[Panel] = []
    for model, title in MODELS.items():
        for way in WAYS:
            own = [row for row in rows if row["model"] == model and row["recipe"]["name"] == way]
            if not own:
                cells.append([f"{title}, {way}", *["–"] * (len(TOYS) + 4), "not run"])
                continue
            values = [shown([row["test_accuracy"] for row in own if row["dataset"] == toy]) for toy in TOYS]
            proved = f"{sum(bool(row['certified']) for row in own)} of {len(own)}"
            length = f"{own[0]['epochs']} epochs" + ("" if all(row["full"] for row in own) else ", shortened")
            differ = [abs(row["test_accuracy"] - row["test_accuracy_of_minimum"]) for row in own]
            time = [row["share_in_minimise"] for row in own]
            more = [shown(differ), shown(time), proved, str(len({row["seed"] for row in own})), length]
            cells.append([f"{title}, {way}", *values, *more])
            panels += [panel(row, f"{title}, {way}, {TOYS[row['dataset']]}") for row in own if "regions" in row]
    caption = (
        f"Test accuracy on {FRESH:,} fresh points, in percent; how far the accuracy of the proved minimum is from that "
        "of what was learnt to be used (of unrolled descent: where its steps end); the share of a step's time that is "
        "spent on minimising"
    )
    columns = ("network and way", *TOYS.values(), "minimum differs", "time in minimise", "certified", "seeds", "run")
    return [
        Section(
            "Energies in the plane",
            "The class of a point is the y with the least f(x, y). A FICNN is convex in x and y together; a PICNN in y "
            "alone, so that its regions in x need not be convex. The source has pictures, and no numbers.",
            tables=[Table(caption, columns, cells)],
            panels=panels,
            legend="classes",
        )
    ]


def panel(row: Row, title: str) -> Panel:
    """The regions of one network."""
    said = f"{100 * row['test_accuracy']:.1f} % on fresh points."
    drawn = plane_pictures.regions(points(row["dataset"], COUNT, 0), unpacked(row["regions"]).reshape(MAP, MAP))
    alt = f"Map of the plane divided into two regions by: {title}. {said}"
    return Panel(picture(title, alt, drawn, size=(2.6, 2.6)), said)


STUDY = Study(
    name="synthetic-icnn",
    title="Energies in the plane: FICNN and PICNN in three ways",
    source="Amos & Kolter 2016; Amos, Xu & Kolter 2017, section 6.1",
    systems=("C2", "C7"),
    seeds={"smoke": 1, "two-core": 3, "full": 3},
    plan=plan,
    sections=sections,
    run=run,
)
