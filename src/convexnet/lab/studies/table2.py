"""Table 2: AllConv and DenseNet with their convex counterparts on CIFAR-10 and CIFAR-100 (Sivaprasad et al. 2021).

    convexnet study run table2 --data-dir DATA           # two cores: small ones on the hold-out, 5,000 images
    convexnet study run table2 --full --data-dir DATA    # as in the paper, in its text's recipe; needs a GPU

On two cores an epoch of All-CNN-C takes nine minutes. What they can finish (`convexnet study queue`) is a quarter of
its width, and a DenseNet of depth 16, each with its counterpart on the hold-out; the runs are those of Fig. 1 and
Fig. 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convexnet.lab.models.registry import MODELS, model_named
from convexnet.lab.reports.comparison import Line, comparison
from convexnet.lab.reports.page import Section
from convexnet.lab.reports.papers import TABLE_2, TITLES
from convexnet.lab.reports.study_pictures import curve_panels
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies import fig6, table3
from convexnet.lab.studies.study import Study
from convexnet.lab.training.recipes import recipe

NETWORKS = ("allconv", "ioc-allconv", "densenet", "ioc-densenet")
SMALL = (*table3.QUARTERS, *fig6.DENSENETS)


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """The paper's four networks on its two sets; on two cores four small ones."""
    if size == "full":
        return [
            Job("table2", name, dataset, text(name), seed)
            for seed in seeds
            for dataset in ("cifar10", "cifar100")
            for name in NETWORKS
        ]
    if size == "two-core":
        return [table3.shortly(job, 3, 5_000) for job in longer(seeds)]
    some = [job for job in longer(seeds) if "densenet" in job.model]
    return [table3.shortly(replace(job, dataset="digits"), 1, 100) for job in some]


def text(name: str) -> table3.Recipe:
    """The recipe of the paper's text for a network."""
    kind = model_named(name)
    return recipe("paper-text", convex=kind.convex, family=kind.family)


def longer(seeds: Sequence[int]) -> list[Job]:
    """The small ones on the hold-out, for the queue."""
    return [
        *table3.jobs("table2", table3.QUARTERS, "cifar10-holdout", (0.0,), seeds, 2),
        *table3.jobs("table2", fig6.DENSENETS, "cifar10-holdout", (0.0,), seeds, 5),
    ]


def sections(rows: Sequence[Row]) -> list[Section]:
    """One table, and curves."""
    kinds = dict.fromkeys((row["dataset"], row["model"]) for row in rows)
    wanted = [("cifar10", name) for name in NETWORKS] + [("cifar100", name) for name in NETWORKS]
    lines = [
        Line(
            (TITLES[dataset], MODELS[name].title),
            [row for row in rows if (row["dataset"], row["model"]) == (dataset, name)],
            TABLE_2.get((dataset, name)),
        )
        for dataset, name in dict.fromkeys([*wanted, *kinds])
    ]
    return [
        Section(
            "Table 2: convolution",
            "The paper's networks, and small ones that two processor cores can train: a quarter of AllConv with "
            "BatchNorm and without dropout, and a DenseNet of three blocks of four layers.",
            tables=[comparison("Convolutional networks", ("data set", "network"), lines)],
            panels=curve_panels(rows, tuple(name for name in SMALL if any(row["model"] == name for row in rows))),
            legend="lines",
        )
    ]


STUDY = Study(
    name="table2",
    title="AllConv and DenseNet with their counterparts",
    source="Sivaprasad et al. 2021, table 2",
    systems=("A3",),
    seeds={"smoke": 1, "two-core": 1, "full": 3},
    plan=plan,
    sections=sections,
    longer=longer,
)
