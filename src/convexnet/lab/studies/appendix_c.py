"""Appendix C and Fig. 5b: five seeds with confidence intervals, and gain against gap (Sivaprasad et al. 2021).

    convexnet study run appendix-c --data-dir DATA            # two cores: 10,000 images, a few epochs, 5 seeds
    convexnet study run appendix-c --full --data-dir DATA     # as in the paper

The MLP and its counterpart on CIFAR-10 from five seeds; for Fig. 5b those of table 1 too, whose records serve here.
AllConv and DenseNet stand in the table as "not run" until the study of table 2 trains them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convexnet.lab.reports.comparison import Line, comparison
from convexnet.lab.reports.page import Section
from convexnet.lab.reports.papers import APPENDIX_C
from convexnet.lab.reports.study_pictures import gain_panel
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies import table1
from convexnet.lab.studies.study import Study

NETWORKS = {
    "mlp": "MLP",
    "ioc-mlp": "IOC-MLP",
    "allconv": "AllConv",
    "ioc-allconv": "IOC-AllConv",
    "densenet": "DenseNet",
    "ioc-densenet": "IOC-DenseNet",
}


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """CIFAR-10 in the recipe of the paper's text from every seed, and table 1 from its own."""
    wanted = {"smoke": ("digits",), "two-core": ("cifar10-holdout",), "full": ("cifar10", "cifar10-holdout")}[size]
    cifar = [job for job in table1.plan(size, seeds) if job.dataset in wanted and job.recipe.name == "paper-text"]
    others = table1.plan(size, list(seeds)[: table1.STUDY.seeds[size]])
    return [replace(job, study="appendix-c") for job in [*cifar, *others]]


def sections(rows: Sequence[Row]) -> list[Section]:
    """The table, and one point of Fig. 5b for each data set."""
    lines: list[Line] = []
    for model, title in NETWORKS.items():
        own = [
            row
            for row in rows
            if row["model"] == model and row["dataset"].startswith("cifar10") and row["recipe"]["name"] == "paper-text"
        ]
        exact = [row for row in own if row["dataset"] == "cifar10"]
        where = "CIFAR-10" if exact or not own else "CIFAR-10, hold-out"
        lines.append(Line((title, where), exact or own, APPENDIX_C[model]))
    return [
        Section(
            "Appendix C: confidence intervals over five seeds",
            "Recipe paper-text. The paper gives ± without saying of what; ours is half of the 95 % interval of the "
            "mean (Student's t).",
            tables=[comparison("CIFAR-10, five seeds", ("network", "data set"), lines)],
        ),
        Section(
            "Fig. 5b: what convexity gains where the gap is wide",
            "One point for each data set: the ordinary network's generalisation gap, and by how much the convex "
            "network's test accuracy is higher. Circles are our means, crosses the paper's.",
            panels=gain_panel(rows),
        ),
    ]


STUDY = Study(
    name="appendix-c",
    title="Confidence intervals over five seeds; gain against gap",
    source="Sivaprasad et al. 2021, appendix C and figure 5b",
    systems=("A11",),
    seeds={"smoke": 1, "two-core": 5, "full": 5},
    plan=plan,
    sections=sections,
)
