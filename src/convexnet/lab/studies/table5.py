"""Table 5: is the test accuracy that of images seen before? Networks on ciFAIR (Sivaprasad et al. 2021, section 4.1).

    convexnet study run table5 --data-dir DATA           # two cores: MLPs on the hold-out, 2 epochs, 1 seed
    convexnet study run table5 --full --data-dir DATA    # the paper's networks on ciFAIR-10 and ciFAIR-100; needs a GPU

Some test images of CIFAR are in the training part too: 3.3 % and 10 %, as Barz & Denzler (2020) found. In their ciFAIR
these are replaced by other images, and the training part stays. So a network that remembers loses accuracy from one
test part to the other. In full this is the paper's table, and the same on ciFAIR-100 (ours): the files of ciFAIR and of
CIFAR stand side by side in DATA, and one run measures both.

Without these files the same question can be asked of what is here. A run on `cifar10-holdout` measures its test images
with and without those that have a near-duplicate among the images trained on, as `convexnet.lab.data.near_duplicates`
finds them; and, of the first 1,017 official test images, those with and without the 35 that Barz & Denzler list. The
second set is small: one image is 0.1 points, and 35 tell little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from convexnet.lab.data import DataSet
from convexnet.lab.data.near_duplicates import LISTED, SAME, duplicated
from convexnet.lab.models.registry import MODELS, build, model_named
from convexnet.lab.reports.comparison import NOT_RUN, Line, extent, interval, shown
from convexnet.lab.reports.page import Panel, Section, Table
from convexnet.lab.reports.papers import TABLE_5, TITLES
from convexnet.lab.reports.pictures import picture, plain_axes
from convexnet.lab.reports.theme import Theme
from convexnet.lab.runs import run as runs
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.measuring import outputs
from convexnet.lab.runs.metrics import classes_of
from convexnet.lab.runs.normalising import in_memory
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.studies import parity, table2
from convexnet.lab.studies.study import Study
from convexnet.lab.training.recipes import Recipe

PAPER = ("mlp", "ioc-mlp", "allconv", "ioc-allconv", "densenet", "ioc-densenet")
TWINS = {"cifair10": "cifar10-test", "cifair100": "cifar100-test"}
"""By data set, the other test part that comes with it."""

CHOSEN = ("ordinary", "ordinary, dropout and weight decay", "convex, T1 (ours)", "the paper's text")
NETWORKS: dict[str, tuple[str, Recipe]] = {
    name: (model, replace(how, name=f"{how.name}, duplicates counted"))
    for name, (model, how) in parity.NETWORKS.items()
    if name in CHOSEN
}
"""Of `parity`, under recipes of other names: records of that study do not have these figures."""

HOLDOUT, OFFICIAL = "cifar10-holdout", "official-1017"


def jobs(dataset: str, seeds: Sequence[int]) -> list[Job]:
    """The MLPs on the hold-out, or on a set of its kind."""
    return [
        Job("table5", model, dataset, how, seed, variant=variant, measure_every=10)
        for seed in seeds
        for variant, (model, how) in NETWORKS.items()
    ]


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """The paper's networks on ciFAIR; on two cores and in the smoke test the MLPs, shortened."""
    if size == "full":
        return [
            Job("table5", name, dataset, table2.text(name), seed, measure_every=10)
            for seed in seeds
            for dataset in TWINS
            for name in PAPER
        ]
    if size == "two-core":
        short = [replace(job.recipe, epochs=2) for job in longer(seeds)]
        return [replace(job, recipe=how, full=False) for job, how in zip(longer(seeds), short, strict=True)]
    some = [job for job in jobs("digits", seeds) if job.variant in ("ordinary", "convex, T1 (ours)")]
    return [replace(job, recipe=replace(job.recipe, epochs=1, hidden=(32, 32, 32)), full=False) for job in some]


def longer(seeds: Sequence[int]) -> list[Job]:
    """The MLPs on the hold-out at full length, for the queue."""
    return jobs(HOLDOUT, seeds)


# --- runs of its own -------------------------------------------------------------------------------------------------


def run(job: Job, place: Place, tick: Tick) -> Row:
    """Train one network, and count what it gets right among images that it has seen and has not."""
    raw = runs.loaded(job, place)
    model = build(job.model, raw.shape, raw.classes, job.recipe, job.seed)
    found = runs.train_model(job, place, tick, model, raw, convex=model_named(job.model).constrained)
    right: dict[str, Tensor] = {}
    for name in ("test", *raw.extra):
        part = found.data.extra[name] if name in raw.extra else found.data.test
        right[name] = (classes_of(outputs(found.training.result, part)) == part.labels).cpu()
    return {**runs.record(found), "duplicates": counted(raw, right), "duplicates_above": SAME}


def counted(raw: DataSet, right: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Of each way to tell the duplicates of a test part: how many there are, and what is right with and without them.

    Args:
        raw: the data before any first step.
        right: for "test" and each further test part, which of its images (N,) were named right.

    Returns:
        By "test", the names of `raw.extra`, and "official-1017, listed": `images`, `duplicates`, `accuracy`,
        `unique_accuracy` and `duplicate_accuracy`; None where there are no such images.
    """
    train = in_memory(raw.train)
    tests = {"test": in_memory(raw.test)} | {name: in_memory(part) for name, part in raw.extra.items()}
    seen = {name: duplicated(part, train) for name, part in tests.items()}
    found = {name: with_and_without(right[name], where) for name, where in seen.items()}
    if OFFICIAL in tests:
        listed = torch.zeros(len(tests[OFFICIAL]), dtype=torch.bool)
        listed[[number for number in LISTED if number < len(listed)]] = True
        found[f"{OFFICIAL}, listed"] = with_and_without(right[OFFICIAL], listed)
    return found


def with_and_without(right: Tensor, seen: Tensor) -> dict[str, Any]:
    """Accuracies of all images, and of those that were (not) seen.

    Example:
        >>> with_and_without(torch.tensor([True, False, True]), torch.tensor([True, False, False]))["unique_accuracy"]
        0.5
    """

    def share(some: Tensor) -> float | None:
        return int(some.sum()) / len(some) if len(some) else None

    return {
        "images": len(right),
        "duplicates": int(seen.sum()),
        "accuracy": share(right),
        "unique_accuracy": share(right[~seen]),
        "duplicate_accuracy": share(right[seen]),
    }


# --- what is shown ---------------------------------------------------------------------------------------------------


def sections(rows: Sequence[Row]) -> list[Section]:
    """The paper's table, and what the hold-out says."""
    here = [row for row in rows if row["dataset"] not in TWINS]
    sets = dict.fromkeys([HOLDOUT, *(row["dataset"] for row in here)])
    lines = {
        (TITLES[one], name): Line((), [r for r in here if (r["dataset"], r["variant"]) == (one, name)])
        for one in sets
        for name in NETWORKS
    }
    return [
        Section(
            "Table 5: ciFAIR",
            "Test accuracies in percent, on CIFAR's test part and on ciFAIR's, in which images that are in the "
            "training part too are replaced by others. The gap is the first minus the second; the paper prints 0.66 "
            "for AllConv, where its two numbers are 1.66 apart.",
            tables=[on_cifair(rows)],
        ),
        Section(
            "Near-duplicates of the hold-out",
            "A test image counts as a near-duplicate where the correlation of its details with those of an image that "
            f"was trained on is above {SAME:g}. “Gap” is the accuracy of all images minus that of those without a "
            "near-duplicate, in points. Such images may also be easy ones: a network that has hardly learnt anything "
            "yet is better on them, too. So a gap alone says nothing; the difference of two networks does. The last "
            "columns are the first 1,017 official test images, and the 35 of them that Barz & Denzler list.",
            tables=[on_the_holdout(lines)],
            panels=seen_panel({" ".join(words): line.counted for words, line in lines.items()}),
        ),
    ]


def on_cifair(rows: Sequence[Row]) -> Table:
    """Our numbers beside the paper's."""
    cells: list[list[str]] = []
    for dataset, twin in TWINS.items():
        for name in PAPER:
            own = Line((), [r for r in rows if (r["dataset"], r["model"]) == (dataset, name)]).counted
            both = [(row["duplicates"].get(twin, {}).get("accuracy"), row["test_accuracy"]) for row in own]
            known = [(plain, fair) for plain, fair in both if plain is not None]
            theirs = TABLE_5.get((dataset, name))
            cells.append(
                [
                    *(TITLES[dataset], MODELS[name].title),
                    *([f"{theirs[0]:.2f}", f"{theirs[1]:.2f}"] if theirs else ["–", "–"]),
                    shown([plain for plain, _ in known]),
                    shown([fair for _, fair in both]),
                    shown([plain - fair for plain, fair in known]),
                    *ends(own),
                ]
            )
    heads = ("data set", "network", "paper, CIFAR", "paper, ciFAIR", "CIFAR", "ciFAIR", "gap", *ENDS)
    return Table("Accuracy on CIFAR and on ciFAIR", heads, cells, text=2)


ENDS = ("certified", "seeds", "run")


def ends(rows: Sequence[Row]) -> list[str]:
    """The last cells of a line."""
    if not rows:
        return ["–", "–", NOT_RUN]
    proved = f"{sum(bool(row['certified']) for row in rows)} of {len(rows)}"
    return [proved, str(len({row["seed"] for row in rows})), extent(rows)]


def on_the_holdout(lines: dict[tuple[str, str], Line]) -> Table:
    """All images, those without a near-duplicate, and those with one."""
    listed = f"{OFFICIAL}, listed"
    cells: list[list[str]] = []
    for words, line in lines.items():
        own = line.counted
        tests = [row["duplicates"]["test"] for row in own]
        theirs = [row["duplicates"][listed] for row in own if listed in row["duplicates"]]
        counts = sorted({found["duplicates"] for found in tests})
        cells.append(
            [
                *words,
                "–" if not counts else str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}",
                *(shown([found[kind] for found in tests]) for kind in KINDS),
                shown(gaps(tests)),
                *(shown([found[kind] for found in theirs]) for kind in KINDS[:2]),
                shown(gaps(theirs)),
                *ends(own),
            ]
        )
    heads = (
        *("data set", "network", "duplicates", "all", "without them", "they alone", "gap"),
        *("official 1,017", "without the 35", "gap there", *ENDS),
    )
    return Table("With and without near-duplicates", heads, cells, text=2)


KINDS = ("accuracy", "unique_accuracy", "duplicate_accuracy")


def gaps(found: Sequence[dict[str, Any]]) -> list[float]:
    """All images minus those without a duplicate, of every seed that has both."""
    return [one["accuracy"] - one["unique_accuracy"] for one in found if one["unique_accuracy"] is not None]


def seen_panel(lines: dict[str, list[Row]]) -> list[Panel]:
    """The accuracy of images with a near-duplicate against that of those without, a point for each network."""
    drawn: dict[str, tuple[float, float]] = {}
    for words, own in lines.items():
        tests = [row["duplicates"]["test"] for row in own]
        both = [(one["unique_accuracy"], one["duplicate_accuracy"]) for one in tests if one["duplicates"]]
        if both:
            unique, seen = (interval([100 * pair[place] for pair in both])[0] for place in (0, 1))
            drawn[words] = (unique, seen)
    if not drawn:
        return []
    colours = dict(zip(drawn, ("nn", "second", "ioc", "first") * len(drawn), strict=False))

    def draw(figure: Figure, theme: Theme) -> None:
        axes = plain_axes(figure, "without a near-duplicate, %", "with one, %")
        for words, (unique, seen) in drawn.items():
            axes.plot([unique], [seen], "o", color=getattr(theme, colours[words]), markersize=7)
        low = min(min(pair) for pair in drawn.values()) - 3
        axes.plot([low, 100], [low, 100], color=theme.muted, linewidth=1, linestyle=(0, (1, 2)))
        axes.set_xlim(low, 100)
        axes.set_ylim(low, 100)

    said = "; ".join(f"{words}: {unique:.1f} → {seen:.1f}" for words, (unique, seen) in drawn.items())
    short = "" if all(row["full"] for own in lines.values() for row in own) else " Shortened runs."
    caption = f"Test accuracy; on the dotted line what was seen would make no difference.{short}"
    alt = f"Scatter plot of test accuracy without and with a near-duplicate in the training part. {said}."
    legend = [(colours[words], words) for words in drawn]
    return [Panel(picture("Seen and unseen", alt, draw, size=(4.6, 4.0)), caption, legend)]


STUDY = Study(
    name="table5",
    title="Test images that are in the training part too: ciFAIR, and the hold-out",
    source="Sivaprasad et al. 2021, table 5; Barz & Denzler 2020",
    systems=("A6",),
    seeds={"smoke": 1, "two-core": 1, "full": 3},
    plan=plan,
    sections=sections,
    run=run,
    longer=longer,
)
