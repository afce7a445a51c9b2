"""Table 1: the 3x800 MLP and its convex counterpart on six image sets (Sivaprasad et al. 2021, section 4.1).

    convexnet study run table1 --data-dir DATA            # two cores: three sets, 10,000 images, a few epochs, 3 seeds
    convexnet study run table1 --full --data-dir DATA     # as in the paper, in both recipes; days without a GPU

The partial CIFAR-10 (`cifar10-holdout`: train on 40,000, test on 10,000 training images) stands beside the paper's
CIFAR-10; the test images are others, so the two may differ by more than the runs do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convexnet.lab.models.registry import MODELS, model_named
from convexnet.lab.reports.comparison import Line, comparison, extent, shown
from convexnet.lab.reports.page import Section, Table
from convexnet.lab.reports.papers import TABLE_1, TITLES
from convexnet.lab.reports.study_pictures import curve_panels
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.study import Study, shortened
from convexnet.lab.training.recipes import described, recipe

NETWORKS = ("mlp", "ioc-mlp")
RECIPES = ("paper-text", "paper-code")
DATASETS = ("mnist", "fashion-mnist", "stl10", "svhn", "cifar10", "cifar10-holdout", "cifar100")

# On two cores: as many steps in either recipe, whose batches hold 128 and 64 images.
HERE = ("mnist", "fashion-mnist", "cifar10-holdout")
EPOCHS = {"paper-text": 15, "paper-code": 6}
IMAGES = 10_000

FLAT = 150
"""Epochs of `paper-code` in the queue of long runs: at its constant rate the curves are flat by then, and the 1300 of
the code are a week of one core for every network. Such a row is marked as shortened."""

OFFICIAL = "official-1017"
"""The part of the hold-out's data with official test images, as records name it."""


def plan(size: str, seeds: Sequence[int], networks: Sequence[str] = NETWORKS) -> list[Job]:
    """Every network on every data set in both recipes, seed by seed."""
    jobs: list[Job] = []
    for seed in seeds:
        for dataset in {"smoke": ("digits",), "two-core": HERE, "full": DATASETS}[size]:
            for name in RECIPES:
                for network in networks:
                    how = recipe(name, convex=model_named(network).convex)
                    if size == "full":
                        jobs.append(Job("table1", network, dataset, how, seed))
                    elif size == "smoke":
                        jobs.append(Job("table1", network, dataset, shortened(how, 1), seed, full=False))
                    else:
                        jobs.append(
                            Job(
                                "table1",
                                network,
                                dataset,
                                shortened(how, EPOCHS[name]),
                                seed,
                                full=False,
                                train_samples=IMAGES,
                                validation=0.05,
                                measure_every=3,
                            )
                        )
    return jobs


def flattened(seeds: Sequence[int], networks: Sequence[str] = NETWORKS) -> list[Job]:
    """The recipe of the published code on all images of the sets that are here, for `FLAT` epochs."""
    return [
        replace(job, recipe=shortened(job.recipe, FLAT), full=False, measure_every=10)
        for job in plan("full", seeds, networks)
        if job.recipe.name == "paper-code" and job.dataset in HERE
    ]


def sections(rows: Sequence[Row]) -> list[Section]:
    """One table for each recipe, and the curves of the first seed."""
    return [
        Section(
            "Table 1: MLP and IOC-MLP on six image sets",
            "Accuracies in percent, mean ± half of the 95 % confidence interval over seeds (Student's t). Training "
            "accuracy is measured in eval mode on the unchanged training images; the paper's was probably measured on "
            "augmented ones. “Test at peak” is the test accuracy of the epoch with the best validation accuracy.",
            tables=[*(table(rows, name, NETWORKS) for name in RECIPES), *official(rows, NETWORKS)],
            panels=curve_panels(rows, NETWORKS),
            legend="curves",
        )
    ]


def table(rows: Sequence[Row], name: str, networks: Sequence[str]) -> Table:
    """The table of one recipe, with a line for every network and data set, run or not."""
    lines: list[Line] = []
    smoke = ("digits",) if any(row["dataset"] == "digits" for row in rows) else ()
    for dataset in (*DATASETS, *smoke):
        for network in networks:
            own = [
                row for row in rows if (row["dataset"], row["model"], row["recipe"]["name"]) == (dataset, network, name)
            ]
            paper = TABLE_1.get(("cifar10" if dataset == "cifar10-holdout" else dataset, network))
            lines.append(Line((TITLES[dataset], MODELS[network].title), own, paper))
    return comparison(described(name), ("data set", "network"), lines)


def official(rows: Sequence[Row], networks: Sequence[str]) -> list[Table]:
    """The hold-out's networks on the first 1,017 images of CIFAR-10's own test half, where there are such records."""
    kind = f"{OFFICIAL}_accuracy"
    cells: list[list[str]] = []
    for name in RECIPES:
        for network in networks:
            own = [row for row in rows if row["model"] == network and row["recipe"]["name"] == name and kind in row]
            own = Line((), own).counted
            if own:
                share = [row[kind] for row in own]
                seeds = str(len({row["seed"] for row in own}))
                cells.append([MODELS[network].title, name, shown(share), seeds, extent(own)])
    caption = (
        "The networks of “CIFAR-10, hold-out” on the first 1,017 official test images, which chose nothing either. "
        "So few images alone leave an accuracy uncertain by three points either way"
    )
    columns = ("network", "recipe", "official test", "seeds", "run")
    return [Table(caption, columns, cells, text=2)] if cells else []


STUDY = Study(
    name="table1",
    title="MLP and IOC-MLP on six image sets",
    source="Sivaprasad et al. 2021, table 1",
    systems=("A2",),
    seeds={"smoke": 1, "two-core": 3, "full": 5},
    plan=plan,
    sections=sections,
    longer=flattened,
)
