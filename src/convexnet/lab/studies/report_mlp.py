"""The report's own MLP: 3x800 and its convex counterpart at Adam 1e-5 on CIFAR-10 (Singh 2022, section 5.1).

    convexnet study run report-mlp --data-dir DATA           # two cores: the hold-out, 10,000 images, 5 epochs
    convexnet study run report-mlp --full --data-dir DATA    # 30 epochs on CIFAR-10 and on the hold-out

The report re-implements the paper's MLP "as a POC", gives its rate alone, "did not run this for many epochs", and
prints no number. Thirty epochs, batches of 128, mean and spread of the images are ours. ReLU becomes ELU, and after
each step every weight behind the first layer, scales of BatchNorm included, that is negative becomes exp(w - 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convexnet.lab.models.registry import MODELS
from convexnet.lab.reports.comparison import Line, comparison
from convexnet.lab.reports.page import Section
from convexnet.lab.reports.papers import TITLES
from convexnet.lab.reports.study_pictures import curve_panels
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.study import Study, shortened
from convexnet.lab.training.recipes import Recipe

NETWORKS = ("mlp", "ioc-mlp")
RECIPE = Recipe(name="report", epochs=30, batch=128, learning_rate=1e-5)


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """Both networks, seed by seed."""
    sets = {"smoke": ("digits",), "two-core": ("cifar10-holdout",), "full": ("cifar10", "cifar10-holdout")}[size]
    found = [Job("report-mlp", name, dataset, RECIPE, seed) for seed in seeds for dataset in sets for name in NETWORKS]
    if size == "full":
        return found
    if size == "two-core":
        return [replace(job, recipe=shortened(RECIPE, 5), full=False, train_samples=10_000) for job in found]
    return [replace(job, recipe=replace(shortened(RECIPE, 1), hidden=(32, 32, 32)), full=False) for job in found]


def sections(rows: Sequence[Row]) -> list[Section]:
    """One table, and curves."""
    sets = dict.fromkeys(["cifar10", "cifar10-holdout", *(row["dataset"] for row in rows)])
    lines = [
        Line((TITLES[one], MODELS[name].title), [r for r in rows if (r["dataset"], r["model"]) == (one, name)])
        for one in sets
        for name in NETWORKS
    ]
    return [
        Section(
            "The report's MLP",
            "Adam at 1e-5. The report has pictures of this run on a page that is gone, and no number.",
            tables=[comparison("MLP and IOC-MLP at 1e-5", ("data set", "network"), lines, paper=False)],
            panels=curve_panels(rows, NETWORKS),
            legend="curves",
        )
    ]


STUDY = Study(
    name="report-mlp",
    title="The report's own MLP and its counterpart, Adam at 1e-5",
    source="Singh 2022, section 5.1",
    systems=("A2",),
    seeds={"smoke": 1, "two-core": 2, "full": 3},
    plan=plan,
    sections=sections,
)
