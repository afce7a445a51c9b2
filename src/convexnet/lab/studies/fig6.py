"""Fig. 6: is a convex network sure where it is right? Calibration of three architectures (Sivaprasad et al. 2021).

    convexnet study run fig6 --data-dir DATA           # two cores: 5,000 images, 3 epochs, 1 seed
    convexnet study run fig6 --full --data-dir DATA    # CIFAR-10: MLP, AllConv, DenseNet and their counterparts

The calibration error (ECE) is that of the top label in 15 bins of equal width. It is above 0 for any finite number of
test images, and so the error that perfect calibration would show on as many stands beside it. Temperature scaling
divides the logits by a number that the validation part chooses: it keeps every decision and, being a positive factor,
convexity. What two cores can finish (`convexnet study queue`) are the MLPs of the study `parity`, a quarter of AllConv,
and a DenseNet of depth 16, on the hold-out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convexnet.lab.models.registry import MODELS
from convexnet.lab.reports.comparison import NOT_RUN, Line, extent, shown
from convexnet.lab.reports.page import Panel, Section, Table
from convexnet.lab.reports.papers import TITLES
from convexnet.lab.reports.pictures import picture, reliability_diagram
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.metrics import Reliability
from convexnet.lab.runs.records import Row
from convexnet.lab.studies import parity, table3
from convexnet.lab.studies.study import Study
from convexnet.lab.training.recipes import recipe

PAPER = ("mlp", "ioc-mlp", "allconv", "ioc-allconv", "densenet", "ioc-densenet")
MLPS = ("ordinary, dropout and weight decay", "convex, T1 (ours)", "the paper's text")
DENSENETS = {
    name: replace(recipe("ours", convex=name.startswith("ioc"), family="other"), name="ours, 30 epochs", epochs=30)
    for name in ("densenet-16", "ioc-densenet-16")
}


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """The paper's six networks; on two cores six that can be trained there."""
    if size == "full":
        return [
            Job(
                "fig6",
                name,
                "cifar10",
                recipe("paper-text", convex=MODELS[name].convex, family=MODELS[name].family),
                seed,
            )
            for seed in seeds
            for name in PAPER
        ]
    if size == "two-core":
        return [table3.shortly(job, 3, 5_000) for job in longer(seeds)]
    return [table3.shortly(replace(job, dataset="digits"), 2) for job in longer(seeds) if "mlp" in job.model][1:]


def longer(seeds: Sequence[int]) -> list[Job]:
    """Three architectures on the hold-out, for the queue."""
    mlps = [job for job in parity.plan("full", seeds) if job.dataset == "cifar10-holdout" and job.variant in MLPS]
    return [
        *(replace(job, study="fig6") for job in mlps),
        *table3.jobs("fig6", table3.QUARTERS, "cifar10-holdout", (0.0,), seeds, 2),
        *table3.jobs("fig6", DENSENETS, "cifar10-holdout", (0.0,), seeds, 5),
    ]


COLUMNS = (
    "test",
    "ECE",
    "if perfect",
    "sum of bars",
    "NLL",
    "Brier",
    "temperature",
    "ECE, scaled",
    "if perfect, scaled",
)
KEYS = ("ece", "ece_perfect", "ece_bar_sum", "nll", "brier")
SCALED = ("temperature", "ece_scaled", "ece_perfect_scaled")


def sections(rows: Sequence[Row]) -> list[Section]:
    """A table, and reliability diagrams of the first seed, before and after scaling."""
    cells: list[list[str]] = []
    panels: list[Panel] = []
    kinds = [(row["dataset"], row["model"], row["recipe"]["name"]) for row in rows]
    for dataset, model, name in dict.fromkeys([*kinds, *(("cifar10", one, "paper-text") for one in PAPER)]):
        kind = (dataset, model, name)
        own = Line((), [row for row, other in zip(rows, kinds, strict=True) if other == kind]).counted
        words = [MODELS[model].title, TITLES[dataset], name]
        if not own:
            cells.append([*words, *["–"] * (len(COLUMNS) + 1), NOT_RUN])
            continue
        numbers = [shown([row["test_accuracy"] for row in own])]
        numbers += [shown([row.get(key) for row in own], scale=1.0, digits=3) for key in (*KEYS, *SCALED)]
        cells.append([*words, *numbers, str(len({row["seed"] for row in own})), extent(own)])
        panels += diagrams(min(own, key=lambda row: row["seed"]))
    return [
        Section(
            "Fig. 6: how sure they are",
            "ECE of the top label, 15 bins of equal width. “If perfect” is the mean ECE of a network that says "
            "the same and is perfectly calibrated, on as many test images. “Sum of bars” is the unweighted sum "
            "that the paper words. The temperature minimises the negative log-likelihood of the validation part. "
            "A dash: the record is from before this was measured.",
            tables=[
                Table(
                    "Calibration on the test images",
                    ("network", "data set", "recipe", *COLUMNS, "seeds", "run"),
                    cells,
                    text=3,
                )
            ],
            panels=panels,
        )
    ]


def diagrams(row: Row) -> list[Panel]:
    """Reliability before and after scaling, of one run."""
    found: list[Panel] = []
    for key, words, error in (("reliability", "", "ece"), ("reliability_scaled", ", scaled", "ece_scaled")):
        if not row.get(key):
            continue
        bars = [Reliability(int(count), confidence, right) for count, confidence, right in row[key]]
        title = f"{MODELS[row['model']].title}, {row['recipe']['name']}{words}"
        caption = f"{TITLES[row['dataset']]}, ECE {row[error]:.3f}." + ("" if row["full"] else " Shortened run.")
        drawn = reliability_diagram(bars, MODELS[row["model"]].convex)
        found.append(
            Panel(picture(title, f"Reliability diagram of {title} on {caption}", drawn, size=(2.9, 2.7)), caption)
        )
    return found


STUDY = Study(
    name="fig6",
    title="Calibration of three architectures, before and after temperature scaling",
    source="Sivaprasad et al. 2021, figure 6",
    systems=("A10",),
    seeds={"smoke": 1, "two-core": 1, "full": 3},
    plan=plan,
    sections=sections,
    longer=longer,
)
