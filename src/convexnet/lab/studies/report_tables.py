"""What the tables of the report (Singh 2022) have in common: jobs of several networks, lines and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from convexnet.lab.models.registry import MODELS
from convexnet.lab.reports.comparison import Line, comparison
from convexnet.lab.reports.page import Section
from convexnet.lab.reports.papers import REPORT, TITLES
from convexnet.lab.reports.study_pictures import curve_panels
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.study import shortened
from convexnet.lab.training.recipes import Recipe, recipe

SOURCE = "paper-text"
"""The recipe of the report, as far as its text and code have it."""


def as_reported(model: str) -> Recipe:
    """The report's recipe for a network."""
    kind = MODELS[model]
    return recipe(SOURCE, convex=kind.constrained, family=kind.family)


def ours(model: str, epochs: int, **changes: object) -> Recipe:
    """Our recipe for a network, at a length that its name says."""
    kind = MODELS[model]
    how = recipe("ours", convex=kind.constrained, family=kind.family)
    return replace(how, name=f"ours, {epochs} epochs", epochs=epochs, **changes)


def reported_for(model: str, epochs: int) -> Recipe:
    """The report's recipe at a length of our own, which its name says."""
    return replace(as_reported(model), name=f"report, {epochs} epochs", epochs=epochs)


def jobs(
    study: str, recipes: Sequence[tuple[str, Recipe]], dataset: str, seeds: Sequence[int], *, every: int = 1
) -> list[Job]:
    """Networks with their recipes, seed by seed; the report keeps a fifth of CIFAR's training images for validation."""
    return [
        Job(study, model, dataset, how, seed, validation=0.2 if how.name == SOURCE else 0.1, measure_every=every)
        for seed in seeds
        for model, how in recipes
    ]


def few(found: Sequence[Job], epochs: int, images: int | None) -> list[Job]:
    """The same jobs shortened, which they say."""
    return [
        replace(job, recipe=shortened(job.recipe, epochs), full=False, train_samples=images, measure_every=1)
        for job in found
    ]


def section(
    rows: Sequence[Row], networks: Sequence[str], datasets: Sequence[str], title: str, text: str, legend: str
) -> Section:
    """A table of the report with our lines, and the curves of accuracy and loss."""
    wanted = [(dataset, name, SOURCE) for dataset in datasets for name in networks]
    kinds = dict.fromkeys([*wanted, *((row["dataset"], row["model"], row["recipe"]["name"]) for row in rows)])
    lines = [
        Line(
            (TITLES[dataset], MODELS[name].title, how),
            [r for r in rows if (r["dataset"], r["model"], r["recipe"]["name"]) == (dataset, name, how)],
            REPORT.get((dataset, name)) if how == SOURCE else None,
        )
        for dataset, name, how in kinds
    ]
    return Section(
        title,
        text,
        tables=[comparison(title, ("data set", "network", "recipe"), lines)],
        panels=curve_panels(rows, networks, ("accuracy", "loss")),
        legend=legend,
    )


def breaks(rows: Sequence[Row]) -> str:
    """Where the networks of the report's code stop being convex, by their own certificates, as a sentence.

    Example:
        >>> breaks([{"model": "mixer-report", "breaks": ["mixer.blocks.0.norm1", "layer_norm", "no"]}])
        'Not convex by its certificate: the report’s IOC-Mixer (not convex), at mixer.blocks.0.norm1 (layer_norm).'
    """
    found: Mapping[str, str] = {
        MODELS[row["model"]].title: f"{row['breaks'][0]} ({row['breaks'][1]})"
        for row in rows
        if row["model"].endswith("-report") and row.get("breaks")
    }
    said = "; ".join(f"{title}, at {place}" for title, place in found.items())
    return f"Not convex by its certificate: {said}." if said else ""
