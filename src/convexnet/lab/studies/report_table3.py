"""The report's table 3 with its figures 1 and 2: CycleMLP-B1 on CIFAR-100 (Singh 2022, section 5.3).

    convexnet study run report-table3 --data-dir DATA           # two cores: 2,000 images, 2 epochs
    convexnet study run report-table3 --full --data-dir DATA    # CIFAR-100, 300 epochs; needs a GPU

As `report-table2`, with a hundred classes. What sets the two tables apart is in the report the gap, which its
IOC-CycleMLP does not close here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convexnet.lab.reports.page import Section
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.report_table2 import NETWORKS, TEXT
from convexnet.lab.studies.report_tables import as_reported, breaks, few, jobs, ours, section
from convexnet.lab.studies.study import Study


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """The three networks in the recipe of the authors; on two cores a short one, as `report-table2` has it."""
    if size == "full":
        return jobs("report-table3", [(name, as_reported(name)) for name in NETWORKS], "cifar100", seeds, every=5)
    found = jobs("report-table3", [(name, ours(name, 2)) for name in NETWORKS], "cifar100", seeds)
    if size == "two-core":
        return few(found, 2, 2_000)
    return few([replace(job, dataset="digits") for job in found], 1, 64)[2:]


def sections(rows: Sequence[Row]) -> list[Section]:
    """The table, and curves."""
    text = f"{TEXT} {breaks(rows)}".strip()
    return [section(rows, NETWORKS, ("cifar100",), "The report’s table 3: CycleMLP on CIFAR-100", text, "cyclemlps")]


STUDY = Study(
    name="report-table3",
    title="CycleMLP on CIFAR-100: ordinary, the report's, and certified",
    source="Singh 2022, table 3 and figures 1 and 2",
    systems=("B2",),
    seeds={"smoke": 1, "two-core": 1, "full": 3},
    plan=plan,
    sections=sections,
)
