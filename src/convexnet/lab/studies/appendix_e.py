"""Appendix E: the mean image of each expert's share of one class (Sivaprasad et al. 2021, appendix E).

    convexnet study run appendix-e --data-dir DATA           # two cores: the mixture of ten experts of fig5
    convexnet study run appendix-e --full --data-dir DATA

The mixture is the one of figure 5a with ten convex experts, whose record serves here too. The gate gives every test
image of the class 'automobile' to the expert that it prefers; the mean of each share is shown as it is, unscaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convexnet.lab.reports import expert_pictures
from convexnet.lab.reports.page import Panel, Section, Table
from convexnet.lab.reports.papers import TITLES
from convexnet.lab.reports.pictures import picture
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies import fig5
from convexnet.lab.studies.study import Study

MODEL = f"{fig5.CONVEX}{fig5.MOST}"


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """The mixtures of ten convex experts."""
    return mine(fig5.plan(size, seeds))


def narrow(seeds: Sequence[int]) -> list[Job]:
    """Those of the queue."""
    return mine(fig5.narrow(seeds))


def mine(jobs: Sequence[Job]) -> list[Job]:
    """Those of figure 5a's jobs that are this study's too."""
    return [replace(job, study="appendix-e") for job in jobs if job.model == MODEL]


def sections(rows: Sequence[Row]) -> list[Section]:
    """The mean images of the first seed of each kind, and how even the shares are over all seeds."""
    kinds = dict.fromkeys(fig5.kind_of(row) for row in rows)
    cells: list[list[str]] = []
    panels: list[Panel] = []
    for kind in kinds:
        own = sorted((row for row in rows if fig5.kind_of(row) == kind), key=lambda row: row["seed"])
        for row in own:
            counts = row["mean_counts"]
            words = [TITLES[kind[0]], fig5.extent(kind, own), str(row["seed"]), str(sum(count > 0 for count in counts))]
            cells.append([*words, ", ".join(str(count) for count in counts)])
        first = own[0]
        images = expert_pictures.unpacked(first["mean_images"], first["mean_shape"])
        counts = first["mean_counts"]
        title = f"Mean images of the class {first['mean_class']}"
        text = f"{TITLES[kind[0]]}, {fig5.extent(kind, own)}, seed {first['seed']}. Above each: expert, images."
        alt = f"{title}, one for each expert. {text} Images: {', '.join(map(str, counts))}."
        panels.append(Panel(picture(title, alt, expert_pictures.mean_images(images, counts), (5.6, 2.9)), text))
    columns = ("data", "run", "seed", "experts with images", "images by expert")
    return [
        Section(
            "Appendix E: what each expert sees",
            "The gate of figure 5a divides the test images of one class among ten experts. A mean image shows what "
            "those of one share have in common; it proves nothing about why the gate chose.",
            tables=[Table("Test images of the class, by the expert that the gate prefers", columns, cells, text=2)],
            panels=panels,
        )
    ]


STUDY = Study(
    name="appendix-e",
    title="Mean images of what each of ten experts sees",
    source="Sivaprasad et al. 2021, appendix E",
    systems=("A12",),
    seeds=fig5.STUDY.seeds,
    plan=plan,
    sections=sections,
    run=fig5.run,
    longer=narrow,
)
