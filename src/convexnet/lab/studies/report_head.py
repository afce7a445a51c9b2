"""Convexity for the head of a CNN alone, for all of it, and for none (Singh 2022, section 6, the last paragraph).

    convexnet study run report-head --data-dir DATA           # two cores: the hold-out, 5,000 images, 4 epochs
    convexnet study run report-head --full --data-dir DATA    # CIFAR-10 and the hold-out, 40 epochs, 3 seeds

The report's idea: convolutions map an image to features freely, and the dense head is convex *in these features*. Then
the network is not convex in the image, and its record says so; its head is, and "certified_parts" says that. The CNN
has three convolutions with BatchNorm, a global average, and a head of one hidden layer, whose last weights are kept
non-negative: read relative to its least weight, as `ours` has it elsewhere, a head of one hidden layer would be convex
without any constraint, and train as the ordinary network does, to the last bit. All are trained by the recipe `ours`,
without augmentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from convexnet.lab.reports.comparison import NOT_RUN, Line, extent, shown
from convexnet.lab.reports.page import Section, Table
from convexnet.lab.reports.papers import TITLES
from convexnet.lab.reports.study_pictures import curve_panels
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.report_tables import few, ours
from convexnet.lab.studies.study import Study
from convexnet.lab.training.recipes import Recipe

EPOCHS = 40
HEAD = "head"


def non_negative(model: str) -> Recipe:
    """Our recipe with a head whose weights are non-negative."""
    how = ours(model, EPOCHS)
    return replace(how, name=f"{how.name}, head clipped", convex=replace(how.convex, free_head=False))


NETWORKS: Mapping[str, tuple[str, Recipe]] = MappingProxyType(
    {
        "ordinary": ("cnn", ours("cnn", EPOCHS)),
        "head alone, non-negative": ("cnn-head", non_negative("cnn-head")),
        "all of it, non-negative head": ("ioc-cnn", non_negative("ioc-cnn")),
        "all of it, free last layer": ("ioc-cnn", ours("ioc-cnn", EPOCHS)),
    }
)
"""By the variant of a job: the model and its recipe."""


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """All of them, seed by seed."""
    sets = {"smoke": ("digits",), "two-core": ("cifar10-holdout",), "full": ("cifar10", "cifar10-holdout")}[size]
    found = [
        Job("report-head", model, dataset, how, seed, variant=variant, measure_every=5)
        for dataset in sets
        for seed in seeds
        for variant, (model, how) in NETWORKS.items()
    ]
    if size == "full":
        return found
    return few(found, 4, 5_000) if size == "two-core" else few(found, 1, 200)


COLUMNS = ("train", "test", "gap", "test at peak", "ECE", "convex in the image", "head convex in its features", "seeds")
KEYS = ("train_accuracy", "test_accuracy", "gap", "test_accuracy_at_peak")


def cells(own: Sequence[Row]) -> list[str]:
    """What a table says of the runs of one network."""
    if not own:
        return [*["–"] * len(COLUMNS), NOT_RUN]
    parts = [(row.get("certified_parts") or {}).get(HEAD) for row in own]
    heads = f"{sum(map(bool, parts))} of {len(own)}" if any(part is not None for part in parts) else "–"
    return [
        *(shown([row[key] for row in own]) for key in KEYS),
        shown([row["ece"] for row in own], scale=1.0, digits=3),
        f"{sum(bool(row['certified']) for row in own)} of {len(own)}",
        heads,
        str(len({row["seed"] for row in own})),
        extent(own),
    ]


def sections(rows: Sequence[Row]) -> list[Section]:
    """A table for each data set, and curves."""
    tables: list[Table] = []
    for dataset in dict.fromkeys(["cifar10-holdout", *(row["dataset"] for row in rows)]):
        lines: list[list[str]] = []
        for variant, (model, how) in NETWORKS.items():
            kind = (dataset, model, how.name)
            own = [row for row in rows if (row["dataset"], row["model"], row["recipe"]["name"]) == kind]
            lines.append([variant, *cells(Line((), own).counted)])
        tables.append(Table(f"Where a CNN is convex, {TITLES[dataset]}", ("network", *COLUMNS, "run"), lines))
    return [
        Section(
            "Convexity for the head alone",
            "Does convexity in the head alone keep the accuracy, and shrink the gap between training and test?",
            tables=tables,
            panels=curve_panels(rows, ("cnn", "ioc-cnn", "cnn-head")),
            legend="heads",
        )
    ]


STUDY = Study(
    name="report-head",
    title="Convexity for the head alone, for all of a CNN, and for none of it",
    source="Singh 2022, section 6",
    systems=("B5",),
    seeds={"smoke": 1, "two-core": 2, "full": 3},
    plan=plan,
    sections=sections,
)
