"""Is a convex network as good as an ordinary one? Six networks of one budget, with the baselines that decide (ours).

    convexnet study run parity --data-dir DATA           # two cores: 10,000 images, 6 epochs, 3 seeds
    convexnet study run parity --full --data-dir DATA    # all training images, 60 epochs, 3 seeds: ten core-hours

Every network has three hidden layers of 800, BatchNorm, AdamW, batches of 128 and 60 epochs. `ours` sees both signs of
its first layer, and so do both ordinary networks here: what they differ in is the constraint. The network with one
hidden layer is convex unconstrained, as a shift that all logits share makes any head non-negative; only what is better
than it shows that convex *depth* helps. The paper's network is that of its text at the length of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from convexnet.lab.reports.comparison import Line, comparison
from convexnet.lab.reports.page import Section
from convexnet.lab.reports.papers import TITLES
from convexnet.lab.reports.study_pictures import bars_panel
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.study import Study, shortened
from convexnet.lab.training.recipes import OURS, OURS_CONVEX, PAPER_TEXT_CONVEX, Recipe

DROPOUT = 0.3
"""Of the regularised ordinary network, behind each hidden activation."""

NETWORKS: Mapping[str, tuple[str, Recipe]] = MappingProxyType(
    {
        "ordinary": ("mlp-signs", replace(OURS, name="ours, no decay", weight_decay=0.0)),
        "ordinary, dropout and weight decay": ("mlp-signs", replace(OURS, name="ours, dropout", dropout=DROPOUT)),
        "convex, T1 (ours)": ("ioc-mlp", OURS_CONVEX),
        "convex, T2: head clipped": (
            "ioc-mlp",
            replace(OURS_CONVEX, name="ours, T2", convex=replace(OURS_CONVEX.convex, free_head=False)),
        ),
        "one hidden layer, unconstrained": ("ioc-shallow", OURS_CONVEX),
        "the paper's text": (
            "ioc-mlp",
            replace(PAPER_TEXT_CONVEX, name="paper-text, 60 epochs", epochs=OURS.epochs, patience=None),
        ),
    }
)
"""By the variant of a job: the model and its recipe."""

DATASETS = ("fashion-mnist", "cifar10-holdout")


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """All networks on the first data set, seed by seed, then on the second."""
    jobs: list[Job] = []
    for dataset in ("digits",) if size == "smoke" else DATASETS:
        for seed in seeds:
            for variant, (model, how) in NETWORKS.items():
                job = Job("parity", model, dataset, how, seed, variant=variant, measure_every=5)
                if size == "two-core":
                    job = replace(job, recipe=shortened(how, 6), full=False, train_samples=10_000, validation=0.05)
                elif size == "smoke":
                    job = replace(job, recipe=shortened(how, 1), full=False)
                jobs.append(job)
    return jobs


def sections(rows: Sequence[Row]) -> list[Section]:
    """A table and bars for each data set."""
    asked = {job.key: job.variant for size in ("smoke", "two-core", "full") for job in plan(size, seeds_of(rows))}
    found: list[Section] = []
    smoke = ("digits",) if any(row["dataset"] == "digits" for row in rows) else ()
    for dataset in (*DATASETS, *smoke):
        own = [row for row in rows if row["dataset"] == dataset]
        lines = [Line((name,), [row for row in own if asked.get(row["key"]) == name]) for name in NETWORKS]
        found.append(
            Section(
                f"Parity on {TITLES[dataset]}",
                "Six networks of the same width, length and batches. Both ordinary ones see both signs of their first "
                "layer, as ours does. One hidden layer is convex without a constraint; only what is better than it "
                "shows that convex depth helps.",
                tables=[comparison(f"Six networks on {TITLES[dataset]}", ("network",), lines, paper=False)],
                panels=bars_panel(lines),
            )
        )
    return found


def seeds_of(rows: Sequence[Row]) -> range:
    """The seeds that some records have."""
    return range(1 + max((row["seed"] for row in rows), default=0))


STUDY = Study(
    name="parity",
    title="Six networks of one budget: ordinary, regularised, convex, and one hidden layer",
    source="ours; Sivaprasad et al. 2021, section 4.1",
    systems=("A2",),
    seeds={"smoke": 1, "two-core": 3, "full": 3},
    plan=plan,
    sections=sections,
)
