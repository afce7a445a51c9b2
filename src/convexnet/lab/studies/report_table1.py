"""The report's table 1: MLP-Mixer on CIFAR-10, beside its "IOC-Mixer" and a convex one (Singh 2022, section 5.2).

    convexnet study run report-table1 --data-dir DATA           # two cores: the hold-out, 5,000 images, 3 epochs
    convexnet study run report-table1 --full --data-dir DATA    # CIFAR-10, 100 epochs, as the report's code has it

Four layers of width 128 over 9 x 9 patches of images that are resized to 72 x 72; Adam at 0.001, batches of 512, flips.
A fifth of the training images is kept for validation, as in the report's code, whose printed accuracy is that of this
part in its best epoch; ours is that of the test part, at the end and in that epoch. The "IOC-Mixer" of that code keeps
its LayerNorms, and its certificate says that it is **not convex**. Ours is certified, in the same recipe, and in our
own (`ours`). What two cores can finish are all images of the hold-out for forty epochs (`convexnet study queue`).
"""

from __future__ import annotations

from collections.abc import Sequence

from convexnet.lab.reports.page import Section
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.report_tables import as_reported, breaks, few, jobs, ours, reported_for, section
from convexnet.lab.studies.study import Study

NETWORKS = ("mixer", "mixer-report", "ioc-mixer")
LENGTH = 40
"""Epochs that two cores can finish."""

TEXT = (
    "What LayerNorm buys is the difference between the report’s network, which keeps it, and the certified one, which "
    "has BatchNorm instead. The recipe “ours” clips weights that start near the identity, and has a free head."
)


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """The three networks in the report's recipe; on two cores those of the queue, shortened."""
    if size == "full":
        return jobs("report-table1", [(name, as_reported(name)) for name in NETWORKS], "cifar10", seeds)
    if size == "two-core":
        return few(longer(seeds), 3, 5_000)
    smoke = [(name, as_reported(name)) for name in NETWORKS]
    return few(jobs("report-table1", smoke, "digits", seeds), 1, 100)


def longer(seeds: Sequence[int]) -> list[Job]:
    """All images of the hold-out, in the report's recipe and in ours, for the queue."""
    both = [(name, reported_for(name, LENGTH)) for name in NETWORKS]
    both += [(name, ours(name, LENGTH)) for name in ("mixer", "ioc-mixer")]
    return jobs("report-table1", both, "cifar10-holdout", seeds, every=2)


def sections(rows: Sequence[Row]) -> list[Section]:
    """The table, and curves."""
    text = f"{TEXT} {breaks(rows)}".strip()
    return [section(rows, NETWORKS, ("cifar10",), "The report’s table 1: MLP-Mixer", text, "mixers")]


STUDY = Study(
    name="report-table1",
    title="MLP-Mixer: ordinary, the report's, and certified",
    source="Singh 2022, table 1",
    systems=("B1",),
    seeds={"smoke": 1, "two-core": 1, "full": 3},
    plan=plan,
    sections=sections,
    longer=longer,
)
