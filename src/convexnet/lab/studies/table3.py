"""Table 3: AllConv and IOC-AllConv on labels of which 20 to 100 % are drawn anew (Sivaprasad et al. 2021, section 4.1).

    convexnet study run table3 --data-dir DATA           # two cores: a quarter of AllConv, 5,000 images, 3 epochs
    convexnet study run table3 --full --data-dir DATA    # as in the paper: CIFAR-10, up to 2000 epochs; needs a GPU

A run ends where the running loss of an epoch is below 0.001 or after 2000 epochs, as the paper has it. Its peak is the
epoch with the best accuracy on a validation part with labels as wrong as those to train on; the paper does not say
which images chose its own. What two cores can finish is the same table with the MLP and its counterpart on the hold-out
(`convexnet study queue`): the recipe of the text, of at most 150 epochs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from convexnet.lab.models.registry import MODELS
from convexnet.lab.reports.comparison import Line
from convexnet.lab.reports.noise_tables import WHAT, level_of, noise_table
from convexnet.lab.reports.page import Section
from convexnet.lab.reports.papers import TABLE_3, TITLES
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.study import Study
from convexnet.lab.training.recipes import (
    ALLCONV_TEXT,
    ALLCONV_TEXT_CONVEX,
    PAPER_TEXT,
    PAPER_TEXT_CONVEX,
    Recipe,
    recipe,
)

LEVELS = (20.0, 40.0, 60.0, 80.0, 100.0)
CONVERGED = 1e-3
"""The running loss, in nats, at which a network has converged."""

EPOCHS = 2000
MLP_EPOCHS = 150
"""At most: of the paper's networks, and of the MLPs, whose convex one does not converge by then or later."""

ALLCONV = {
    "allconv": replace(ALLCONV_TEXT, name="paper-text, to convergence", epochs=EPOCHS, converged=CONVERGED),
    "ioc-allconv": replace(ALLCONV_TEXT_CONVEX, name="paper-text, to convergence", epochs=EPOCHS, converged=CONVERGED),
}
MLPS = {
    "mlp": replace(
        PAPER_TEXT, name="paper-text, to convergence", epochs=MLP_EPOCHS, patience=None, converged=CONVERGED
    ),
    "ioc-mlp": replace(
        PAPER_TEXT_CONVEX, name="paper-text, to convergence", epochs=MLP_EPOCHS, patience=None, converged=CONVERGED
    ),
}
QUARTERS = {
    name: replace(
        recipe("ours", convex=name.startswith("ioc"), family="quarter"),
        name="ours, to convergence",
        converged=CONVERGED,
    )
    for name in ("allconv-quarter", "ioc-allconv-quarter")
}
"""By model: its recipe."""


def jobs(
    study: str, recipes: Mapping[str, Recipe], dataset: str, levels: Sequence[float], seeds: Sequence[int], every: int
) -> list[Job]:
    """All networks of a family at some levels, seed by seed."""
    return [
        Job(
            study,
            model,
            dataset,
            how,
            seed,
            noise=level,
            noisy_validation=bool(level),
            measure_every=every,
        )
        for seed in seeds
        for level in levels
        for model, how in recipes.items()
    ]


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """The paper's networks; on two cores those of a quarter of the width."""
    if size == "full":
        return jobs("table3", ALLCONV, "cifar10", LEVELS, seeds, every=10)
    if size == "two-core":
        some = jobs("table3", QUARTERS, "cifar10-holdout", (40.0, 100.0), seeds, every=1)
        return [shortly(job, 3, 5_000) for job in some]
    return [shortly(job, 1) for job in jobs("table3", MLPS, "digits", (40.0,), seeds, every=1)]


def longer(seeds: Sequence[int]) -> list[Job]:
    """The MLPs on the hold-out, for the queue."""
    return jobs("table3", MLPS, "cifar10-holdout", LEVELS, seeds, every=5)


def shortly(job: Job, epochs: int, images: int | None = None) -> Job:
    """A shortened job, which says so."""
    hidden = () if images else (48, 48, 48)
    how = replace(job.recipe, epochs=epochs, hidden=hidden)
    return replace(job, recipe=how, full=False, train_samples=images)


def sections(rows: Sequence[Row]) -> list[Section]:
    """One table for each family of networks: the paper's numbers beside ours."""
    heads = ("paper train", "paper test", "paper test at peak")
    kinds = [(pair, dataset) for pair, dataset in PAIRS if any(row["model"] in pair for row in rows)]
    tables = [
        noise_table(
            f"{MODELS[pair[0]].title} and its counterpart on {TITLES[dataset]}",
            ("drawn anew", "network"),
            [
                Line((f"{level:.0f} %", MODELS[name].title), selected(rows, name, dataset, level))
                for level in LEVELS
                for name in pair
            ],
            {
                (f"{level:.0f} %", MODELS[name].title): (f"{end.train:.2f}", f"{end.test:.2f}", f"{peak.test:.2f}")
                for (level, name), (peak, end) in TABLE_3.items()
            },
            heads,
        )
        for pair, dataset in [(tuple(ALLCONV), "cifar10"), *kinds]
    ]
    return [
        Section(
            "Table 3: labels that are drawn anew",
            f"{WHAT} The paper's numbers are those at convergence (a loss below 0.001, or 2000 epochs), and its test "
            "accuracy at the peak. Its training accuracies fit draws that may give the true class again; so are ours.",
            tables=tables,
        )
    ]


PAIRS = (
    (tuple(QUARTERS), "cifar10-holdout"),
    (tuple(MLPS), "cifar10-holdout"),
    (tuple(MLPS), "digits"),
)


def selected(rows: Sequence[Row], model: str, dataset: str, level: float) -> list[Row]:
    """The records of one line."""
    return [row for row in rows if (row["model"], row["dataset"], level_of(row)) == (model, dataset, level)]


STUDY = Study(
    name="table3",
    title="Labels that are drawn anew, at the peak and at convergence",
    source="Sivaprasad et al. 2021, table 3",
    systems=("A4",),
    seeds={"smoke": 1, "two-core": 1, "full": 3},
    plan=plan,
    sections=sections,
    longer=longer,
)
