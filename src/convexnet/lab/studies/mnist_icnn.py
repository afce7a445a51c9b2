"""MNIST by one energy f(x, y): a FICNN over image and label, learnt by max-margin (Amos & Kolter 2016).

    convexnet study run mnist-icnn --data-dir DATA           # two cores: 10,000 images, 8 epochs
    convexnet study run mnist-icnn --full --data-dir DATA    # all images, early stopping

The poster's network: two hidden layers of 600 units over 784 + 10 inputs, with pass-through to every layer, which has
1,315,395 parameters. It is convex in image and label together. Its class is the largest share of the y on the simplex
with the least f(x, y); it is learnt by the structured hinge with Δ = y'ᵀ(1 − y), every minimum proved to a thousandth
of its rise. Beside it an ordinary network of the same size, two hidden layers of 816 units, by cross-entropy. The
poster shows errors by epochs as a picture; no number of it survives. Its activation is not stated; softplus is ours, as
are Adam and its rate. W^(z) is projected after each step, as in the poster's learning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

import convexnet as cx
from convexnet.energy import EnergyTraining, Joint, predict
from convexnet.lab.data import DataSet
from convexnet.lab.models.convex import drawn_from
from convexnet.lab.reports.comparison import shown
from convexnet.lab.reports.page import Panel, Section, Table
from convexnet.lab.reports.pictures import Draw, picture, plain_axes
from convexnet.lab.reports.theme import Theme
from convexnet.lab.runs import run as runs
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.normalising import in_memory, normalised
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.energies import EnergyRecipe, MeasuredEnergy, learn_energy
from convexnet.lab.studies.study import Study
from convexnet.lab.training.recipes import Recipe

ENERGY = EnergyRecipe(
    "max-margin", epochs=60, how="max-margin", batch=128, learning_rate=1e-3, schedule="cosine", patience=10,
    hidden=(600, 600), constraint="clip", tol=1e-3, solver="vertices",
)  # fmt: skip
PLAIN = Recipe(
    "cross-entropy", epochs=60, batch=128, learning_rate=1e-3, schedule="cosine", patience=10, hidden=(816, 816)
)
TITLES: Mapping[str, str] = MappingProxyType(
    {"energy-ficnn": "FICNN over image and label, max-margin", "mlp": "ordinary network of the same size"}
)
PREDICT = 1e-3
"""Tolerance of the minimum that decides the class of a test image."""


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """The energy and the ordinary network from every seed."""
    jobs: list[Job] = []
    for seed in seeds:
        for model, how in (("energy-ficnn", ENERGY), ("mlp", PLAIN)):
            if size == "smoke":
                small = replace(how, epochs=2, hidden=(32, 32), learning_rate=5e-3)
                jobs.append(Job("mnist-icnn", model, "digits", small, seed, full=False, train_samples=256))
            elif size == "two-core":
                short = replace(how, epochs=8)
                jobs.append(Job("mnist-icnn", model, "mnist", short, seed, full=False, train_samples=10_000))
            else:
                jobs.append(Job("mnist-icnn", model, "mnist", how, seed))
    return jobs


def run(job: Job, place: Place, tick: Tick) -> Row:
    """Train the energy by its own learner, or the ordinary network by the one loop.

    Raises:
        DataError: the files of the data are not there.
        CheckpointError, Diverged, Stopped: as for every run.
    """
    if job.model == "mlp":
        return runs.run(job, place, tick)
    data, _ = normalised(runs.loaded(job, place), job)
    return learn_energy(partial(make, data), job, place, tick)


def make(data: DataSet, job: Job) -> MeasuredEnergy:
    """The learner of the energy."""
    how = job.recipe
    assert isinstance(how, EnergyRecipe)
    train, held, test = (in_memory(part) for part in (data.train, data.validation, data.test))
    domain = cx.Simplex(data.classes)
    with drawn_from(job.seed):
        width = train.images[0].numel() + data.classes
        f = Joint(cx.nn.FICNN(width, hidden=how.hidden, activation=how.activation, constraint=how.constraint))

    def wrong(predicted: Tensor, y: Tensor) -> float:
        return 100 * float((predicted.argmax(1) != y.argmax(1)).double().mean())

    def error(f: nn.Module) -> float:
        found = predict(f, test.images, domain, solver=how.solver, tol=PREDICT).argmax(1)
        return 100 * float((found != test.labels).double().mean())

    def measure(f: nn.Module, number: int) -> dict[str, float]:
        return {"test_error": error(f)} if number % job.measure_every == 0 else {}

    learner = EnergyTraining(
        f, train.images, train.labels, domain, validation=(held.images, held.labels), measure=wrong, seed=job.seed,
        **how.training,
    )  # fmt: skip

    def columns(f: nn.Module) -> Row:
        used = predict(f, train.images, domain, solver=how.solver, tol=PREDICT).argmax(1)
        return {
            "train_error_at_peak": 100 * float((used != train.labels).double().mean()),
            "validation_error": learner.best,
            "test_error_at_peak": error(f),
        }

    about: dict[str, Any] = {"test_samples": len(test), "data": data.fingerprint, "note": data.note}
    return MeasuredEnergy(learner, columns, measure=measure, at_end=lambda f: {"test_error": error(f)}, about=about)


# --- the report ------------------------------------------------------------------------------------------------------


def errors_of(row: Row) -> tuple[float | None, float | None]:
    """The test error of a record in percent, at the peak by validation and at the end."""
    if row["model"] == "mlp":
        peak = row["test_accuracy_at_peak"]
        return None if peak is None else 100 * (1 - peak), 100 * (1 - row["test_accuracy"])
    return row["test_error_at_peak"], row["test_error"]


def sections(rows: Sequence[Row]) -> list[Section]:
    """Test errors next to those of the ordinary network, and errors by epochs."""
    return [section(name, own) for name in ("mnist", "digits") if (own := [r for r in rows if r["dataset"] == name])]


def section(dataset: str, rows: Sequence[Row]) -> Section:
    """The rows of one set of data."""
    cells: list[list[str]] = []
    for model, title in TITLES.items():
        own = [row for row in rows if row["model"] == model]
        own = [row for row in own if row["full"]] or own
        if not own:
            cells.append([title, *["–"] * 6, "not run"])
            continue
        found = [errors_of(row) for row in own]
        peaks, ends = ([value for value in column if value is not None] for column in zip(*found, strict=True))
        share = [row["share_in_minimise"] for row in own if "share_in_minimise" in row]
        length = f"{max(row['epochs'] for row in own)} epochs, {own[0]['train_samples']:,} images"
        cells.append(
            [
                title,
                f"{own[0]['parameters']:,}",
                shown(peaks, scale=1.0),
                shown(ends, scale=1.0),
                shown(share) if share else "–",
                f"{sum(bool(row['certified']) for row in own)} of {len(own)}",
                str(len(own)),
                length if own[0]["full"] else f"shortened: {length}",
            ]
        )
    caption = (
        "Test error in percent at the epoch that is best by validation, and at the end; the share of a step’s time "
        "that is spent on minimising, in percent"
    )
    columns = (
        "network",
        "parameters",
        "error at peak",
        "error at end",
        "time in minimise",
        "certified",
        "seeds",
        "run",
    )
    curves = {
        TITLES[row["model"]]: [(p["epoch"], error) for p in row["curve"] if (error := error_of(p)) is not None]
        for row in rows
        if row["seed"] == 0
    }
    said = "; ".join(f"{title}: {line[-1][1]:.2f} %" for title, line in curves.items() if line)
    alt = f"Test error by epochs. At the end: {said}."
    panels = [Panel(picture("Test error by epochs", alt, drawn(curves), (4.6, 3.2)), "The first seed.")] if said else []
    where = "MNIST" if dataset == "mnist" else "scikit-learn’s digits"
    return Section(
        f"{where} by an energy over image and label",
        "The class is the y with the least f(x, y), where f is convex in image and label together.",
        tables=[Table(caption, columns, cells)],
        panels=panels,
    )


def error_of(point: Mapping[str, float]) -> float | None:
    """The test error of a point of a curve, in percent."""
    if "test_accuracy" in point:
        return 100 * (1 - point["test_accuracy"])
    return point.get("test_error")


def drawn(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Draw:
    """Errors over epochs."""

    def draw(figure: Any, theme: Theme) -> None:
        axes = plain_axes(figure, "epoch", "test error, %")
        for (title, line), colour, style in zip(curves.items(), ("ioc", "nn"), ("solid", "dashed"), strict=False):
            x, y = [x for x, _ in line], [y for _, y in line]
            axes.plot(x, y, color=getattr(theme, colour), linestyle=style, label=title)
        axes.set_yscale("log")
        axes.legend(frameon=False, fontsize=8)

    return draw


STUDY = Study(
    name="mnist-icnn",
    title="MNIST by an energy over image and label",
    source="Amos & Kolter 2016",
    systems=("C2", "C7"),
    seeds={"smoke": 1, "two-core": 1, "full": 3},
    plan=plan,
    sections=sections,
    run=run,
)
