"""Recurrent networks that are convex in a whole sequence: MNIST, row by row (the paper's future work, and ours).

    convexnet study run recurrent --data-dir DATA           # two cores: 10,000 images, 5 epochs, 3 seeds
    convexnet study run recurrent --full --data-dir DATA    # all images, 20 epochs, 3 seeds: half an hour

A network reads an image of 28 rows in 28 steps and answers after the last. The ordinary one is a ReLU network of 128
states. Its counterpart keeps the weights from state to state, and the head, non-negative; what a row brings in is free.
The ICRNN passes each row and the one before it to every level and to the output (Chen, Shi & Zhang 2019). A certificate
is for all rows together: the logits are convex in the image. As one long vector the same images are the MLP's of
table 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convexnet.lab.models.registry import MODELS, model_named
from convexnet.lab.reports.comparison import Line, comparison
from convexnet.lab.reports.page import Section
from convexnet.lab.reports.papers import TITLES
from convexnet.lab.reports.study_pictures import bars_panel
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.study import Study, shortened
from convexnet.lab.training.recipes import recipe

NETWORKS = ("rnn", "ioc-rnn", "icrnn")


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """Three networks, seed by seed."""
    jobs: list[Job] = []
    for seed in seeds:
        for name in NETWORKS:
            how = recipe("ours", convex=model_named(name).convex, family="recurrent")
            job = Job("recurrent", name, "mnist", how, seed)
            if size == "two-core":
                job = replace(job, recipe=shortened(how, 5), full=False, train_samples=10_000)
            elif size == "smoke":
                job = replace(job, recipe=replace(shortened(how, 2), hidden=(16,)), full=False, dataset="digits")
            jobs.append(job)
    return jobs


def sections(rows: Sequence[Row]) -> list[Section]:
    """One table, and bars."""
    smoke = ("digits",) if any(row["dataset"] == "digits" for row in rows) else ()
    lines = [
        Line((MODELS[name].title, TITLES[dataset]), [r for r in rows if (r["model"], r["dataset"]) == (name, dataset)])
        for dataset in ("mnist", *smoke)
        for name in NETWORKS
    ]
    return [
        Section(
            "Recurrent networks, row by row",
            "An image is read in as many steps as it has rows. A certificate is for the whole sequence.",
            tables=[comparison("MNIST, row by row", ("network", "data set"), lines, paper=False)],
            panels=bars_panel(lines),
        )
    ]


STUDY = Study(
    name="recurrent",
    title="Recurrent networks on MNIST, row by row",
    source="ours; Sivaprasad et al. 2021, section 5",
    systems=("A13",),
    seeds={"smoke": 1, "two-core": 3, "full": 3},
    plan=plan,
    sections=sections,
)
