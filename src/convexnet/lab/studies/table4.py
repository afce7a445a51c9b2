"""Table 4: ordinary MLP, ReLU-constrained MLP, FICNN and IOC-MLP side by side (Sivaprasad et al. 2021, section 4.1).

    convexnet study run table4 --data-dir DATA            # two cores: three sets, 10,000 images, a few epochs, 3 seeds
    convexnet study run table4 --full --data-dir DATA     # CIFAR-10 as in the paper, and the sets of table 1

The MLP and the IOC-MLP are those of table 1, whose records serve here too. The ReLU-constrained MLP has ReLU where the
IOC-MLP has ELU; the FICNN passes the input to every layer, has no BatchNorm, and clips (Amos, Xu & Kolter 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convexnet.lab.models.registry import MODELS
from convexnet.lab.reports.comparison import Line, comparison
from convexnet.lab.reports.page import Section, Table
from convexnet.lab.reports.papers import TABLE_4, TITLES
from convexnet.lab.reports.study_pictures import curve_panels, reliability_panels
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies import table1
from convexnet.lab.studies.study import Study
from convexnet.lab.training.recipes import described

NETWORKS = ("mlp", "relu-mlp", "ficnn", "ioc-mlp")


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """The jobs of table 1 with four networks instead of two."""
    return [replace(job, study="table4") for job in table1.plan(size, seeds, NETWORKS)]


def flattened(seeds: Sequence[int]) -> list[Job]:
    """Those of the queue, with four networks."""
    return [replace(job, study="table4") for job in table1.flattened(seeds, NETWORKS)]


def sections(rows: Sequence[Row]) -> list[Section]:
    """One table for each recipe, curves, and reliability diagrams."""
    return [
        Section(
            "Table 4: four networks side by side",
            "The paper has this comparison on CIFAR-10 only; its numbers stand beside CIFAR-10 and the hold-out set, "
            "whose test images are others. Means, intervals and columns as in table 1.",
            tables=[*(table(rows, name) for name in table1.RECIPES), *table1.official(rows, NETWORKS)],
            panels=curve_panels(rows, NETWORKS),
            legend="networks",
        ),
        Section(
            "How sure they are",
            "Reliability diagrams on the test images, first seed. A bar is the share of images in a bin of confidence "
            "that a network got right, the mark its mean confidence; paler bars hold fewer images.",
            panels=reliability_panels(rows, NETWORKS),
        ),
    ]


def table(rows: Sequence[Row], name: str) -> Table:
    """The table of one recipe."""
    lines: list[Line] = []
    datasets = [*dict.fromkeys(["cifar10", "cifar10-holdout", *table1.HERE, *(row["dataset"] for row in rows)])]
    for dataset in datasets:
        for network in NETWORKS:
            own = [
                row for row in rows if (row["dataset"], row["model"], row["recipe"]["name"]) == (dataset, network, name)
            ]
            paper = TABLE_4[network] if dataset in ("cifar10", "cifar10-holdout") else None
            lines.append(Line((TITLES[dataset], MODELS[network].title), own, paper))
    return comparison(described(name), ("data set", "network"), lines)


STUDY = Study(
    name="table4",
    title="MLP, ReLU-constrained MLP, FICNN and IOC-MLP",
    source="Sivaprasad et al. 2021, table 4",
    systems=("A5",),
    seeds={"smoke": 1, "two-core": 3, "full": 5},
    plan=plan,
    sections=sections,
    longer=flattened,
)
