"""Fig. 1: loss and accuracy while training on true, random and half random labels (Sivaprasad et al. 2021).

    convexnet study run fig1 --data-dir DATA           # two cores: a quarter of AllConv, the MLPs; 5,000 images
    convexnet study run fig1 --full --data-dir DATA    # as in the paper: CIFAR-10, up to 2000 epochs; needs a GPU

(a) AllConv and its counterpart on true labels; (b) MLP and IOC-MLP on labels that are all drawn anew; (c) IOC-AllConv
and (d) AllConv on labels half of which are. Networks, recipes and the criterion of convergence are those of table 3.
What two cores can finish is a quarter of AllConv's width on the hold-out, with BatchNorm and no dropout, for 60 epochs,
and (b) on the hold-out (`convexnet study queue`).
"""

from __future__ import annotations

from collections.abc import Sequence

from convexnet.lab.models.registry import MODELS
from convexnet.lab.reports.comparison import Line
from convexnet.lab.reports.noise_tables import WHAT, loss_and_accuracy, noise_table
from convexnet.lab.reports.page import Panel, Section
from convexnet.lab.reports.papers import TITLES
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.study import Study
from convexnet.lab.studies.table3 import ALLCONV, MLPS, QUARTERS, jobs, selected, shortly

PANELS = (
    ("a", "true labels", ("allconv", "ioc-allconv"), 0.0),
    ("b", "random labels", ("mlp", "ioc-mlp"), 100.0),
    ("c", "half of the labels random", ("ioc-allconv",), 50.0),
    ("d", "half of the labels random", ("allconv",), 50.0),
)
"""Letter, labels, networks, and the percentage of labels that are drawn anew."""

LENGTH = QUARTERS["allconv-quarter"].epochs
"""Epochs of a quarter of AllConv, at most."""


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """The runs of all four pictures."""
    if size == "full":
        return [
            *jobs("fig1", ALLCONV, "cifar10", (0.0, 50.0), seeds, 10),
            *jobs("fig1", MLPS, "cifar10", (100.0,), seeds, 5),
        ]
    if size == "two-core":
        return [shortly(job, 3 if "quarter" in job.model else 10, 5_000) for job in longer(seeds)]
    return [shortly(job, 2) for job in jobs("fig1", MLPS, "digits", (0.0, 100.0), seeds, 1)]


def longer(seeds: Sequence[int]) -> list[Job]:
    """The quarters and the MLPs on the hold-out, for the queue."""
    return [
        *jobs("fig1", QUARTERS, "cifar10-holdout", (0.0, 50.0), seeds, 2),
        *jobs("fig1", MLPS, "cifar10-holdout", (100.0,), seeds, 5),
    ]


def sections(rows: Sequence[Row]) -> list[Section]:
    """Curves of the first seed, and a table of all."""
    lines: list[Line] = []
    panels: list[Panel] = []
    kinds = dict.fromkeys((row["dataset"], row["model"]) for row in rows)
    for letter, labels, names, level in PANELS:
        for name in names:
            nearest = [kind for kind in kinds if kind[1] in (name, f"{name}-quarter")]
            for dataset, model in nearest or [("cifar10", name)]:
                found = selected(rows, model, dataset, level)
                lines.append(Line((letter, labels, MODELS[model].title, TITLES[dataset]), found))
                if first := sorted(found, key=lambda row: (not row["full"], row["seed"]))[:1]:
                    panels += loss_and_accuracy(f"{letter}, {MODELS[model].title}", first[0])
    return [
        Section(
            "Fig. 1: learning from true and from random labels",
            f"{WHAT} A run ends where its running loss falls below 0.001 nats, or after its last epoch.",
            tables=[noise_table("At the end", ("picture", "labels", "network", "data set"), lines)],
            panels=panels,
            legend="lines",
        )
    ]


STUDY = Study(
    name="fig1",
    title="Loss and accuracy on true, random and half random labels",
    source="Sivaprasad et al. 2021, figure 1",
    systems=("A4", "A11"),
    seeds={"smoke": 1, "two-core": 1, "full": 1},
    plan=plan,
    sections=sections,
    longer=longer,
)
