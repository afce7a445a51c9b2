"""The report's table 2 with its figures 3 and 4: CycleMLP-B1 on CIFAR-10 (Singh 2022, section 5.3).

    convexnet study run report-table2 --data-dir DATA           # two cores: the hold-out, 2,000 images, 2 epochs
    convexnet study run report-table2 --full --data-dir DATA    # CIFAR-10, 300 epochs; needs a GPU

The recipe is that of CycleMLP's authors as far as the report's code has it (`CYCLEMLP_TEXT` of
`convexnet.lab.training.recipes`): its figures are curves of accuracy and loss, and so are ours. The "IOC-CycleMLP" of
that code keeps LayerNorm and the softmax that weighs its branches, and is **not convex** by its own certificate; the
certified one has BatchNorm and constant weights. An epoch of all images takes three minutes on one core.
"""

from __future__ import annotations

from collections.abc import Sequence

from convexnet.lab.reports.page import Section
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.report_tables import as_reported, breaks, few, jobs, ours, section
from convexnet.lab.studies.study import Study

NETWORKS = ("cyclemlp-b1", "cyclemlp-b1-report", "ioc-cyclemlp-b1")
TEXT = (
    "CycleMLP-B1 on images of 32 × 32 pixels, labels smoothed, images mixed while it trains. The report’s training "
    "loss of 0.51 at 99.7 % is that of smoothed labels; ours is measured without smoothing."
)


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """The three networks in the recipe of the authors; on two cores a short one, too short for warm-up and mixing."""
    if size == "full":
        return jobs("report-table2", [(name, as_reported(name)) for name in NETWORKS], "cifar10", seeds, every=5)
    if size == "two-core":
        return few(
            jobs("report-table2", [(name, ours(name, 2)) for name in NETWORKS], "cifar10-holdout", seeds), 2, 2_000
        )
    return few(jobs("report-table2", [(name, as_reported(name)) for name in NETWORKS], "digits", seeds), 1, 64)


def sections(rows: Sequence[Row]) -> list[Section]:
    """The table, and curves."""
    text = f"{TEXT} {breaks(rows)}".strip()
    return [section(rows, NETWORKS, ("cifar10",), "The report’s table 2: CycleMLP on CIFAR-10", text, "cyclemlps")]


STUDY = Study(
    name="report-table2",
    title="CycleMLP on CIFAR-10: ordinary, the report's, and certified",
    source="Singh 2022, table 2 and figures 3 and 4",
    systems=("B2",),
    seeds={"smoke": 1, "two-core": 1, "full": 3},
    plan=plan,
    sections=sections,
)
