"""Fig. 5a: animals against the rest, by one to ten convex experts and a gate (Sivaprasad et al. 2021, section 4).

    convexnet study run fig5 --data-dir DATA           # two cores: the hold-out set, 10,000 images, 8 iterations
    convexnet study run fig5 --full --data-dir DATA    # experts of 3 x 800, all images, 60 iterations; a GPU's work

CIFAR-10 in two classes: bird, cat, deer, dog, frog and horse against the rest. Experts have three hidden layers and one
output, the gate is a linear layer on the image, and its weights average the sigmoids. Two controls: the ordinary
network with one output, trained by the one loop for as many epochs, as a flat line; and a gated mixture of ordinary
networks. Convex experts are made as in our recipe (both signs of a free first layer, ReLU, clip, a start near the
identity) and not as in the paper's text, so that what limits one of them is convexity and not its training; ordinary
ones have the same first layer. The queue has experts of 3 x 128 on all images of the hold-out set for 30 iterations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from matplotlib.figure import Figure

from convexnet.lab.data import DataSet
from convexnet.lab.models.convex import Convex
from convexnet.lab.models.registry import build
from convexnet.lab.reports import expert_pictures
from convexnet.lab.reports.comparison import interval, shown
from convexnet.lab.reports.page import Panel, Section, Table
from convexnet.lab.reports.papers import TITLES
from convexnet.lab.reports.pictures import Draw, picture, plain_axes
from convexnet.lab.reports.theme import Theme
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.normalising import in_memory
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.runs.run import loaded, record, train_model
from convexnet.lab.studies.mixtures import CONVEX, ORDINARY, Mixed, binary, experts_of, is_mixture, mix
from convexnet.lab.studies.study import Study
from convexnet.lab.training.recipes import Recipe

RECIPE = Recipe(
    name="experts",
    epochs=60,
    batch=128,
    learning_rate=1e-3,
    convex=Convex(method="clip", widen_first="signs", init="identity", activation="relu"),
)
NARROW = replace(RECIPE, name="experts, narrow", epochs=30, hidden=(128, 128, 128))

PLAIN = "mlp-signs"
MOST = 10
"""Experts."""

PAPER = 89.63
"""The paper's ordinary network, test accuracy in percent."""

SETS: Mapping[str, tuple[str, tuple[int, ...], tuple[str, str]]] = MappingProxyType(
    {
        "cifar10-animals": ("cifar10", (2, 3, 4, 5, 6, 7), ("rest", "animal")),
        "cifar10-holdout-animals": ("cifar10-holdout", (2, 3, 4, 5, 6, 7), ("rest", "animal")),
        "digits-odd": ("digits", (1, 3, 5, 7, 9), ("even", "odd")),
    }
)
"""By the name in records: the data set, the classes that are class 1, and what the two are called."""

SHOWN = 1
"""The class of the mean images: automobile."""


def names(convex: Sequence[int], ordinary: Sequence[int]) -> list[str]:
    """The models of a plan: the plain network, then the mixtures."""
    return [PLAIN, *(f"{CONVEX}{count}" for count in convex), *(f"{ORDINARY}{count}" for count in ordinary)]


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """The plain network and the mixtures, seed by seed."""
    every = range(1, MOST + 1)
    jobs: list[Job] = []
    for seed in seeds:
        if size == "smoke":
            how = replace(NARROW, epochs=2, hidden=(16, 16, 16))
            jobs += [Job("fig5", name, "digits-odd", how, seed, full=False) for name in names((1, MOST), (2,))]
        elif size == "two-core":
            jobs += [
                Job(
                    *("fig5", name, "cifar10-holdout-animals", replace(NARROW, epochs=8), seed),
                    full=False,
                    train_samples=10_000,
                    validation=0.05,
                    measure_every=4,
                )
                for name in names(every, (1, 2, 5, MOST))
            ]
        else:
            sets = ("cifar10-animals", "cifar10-holdout-animals")
            jobs += [
                Job("fig5", name, dataset, RECIPE, seed, measure_every=5)
                for dataset in sets
                for name in names(every, every)
            ]
    return jobs


def narrow(seeds: Sequence[int]) -> list[Job]:
    """The jobs of the queue: narrow experts on all images of the hold-out set."""
    return [
        Job("fig5", name, "cifar10-holdout-animals", NARROW, seed, full=False, measure_every=5)
        for seed in seeds
        for name in names(range(1, MOST + 1), (1, 2, 5, MOST))
    ]


def run(job: Job, place: Place, tick: Tick) -> Row:
    """Train the plain network or a mixture; the record of the largest one holds the mean images of appendix E."""
    base, positive, classnames = SETS[job.dataset]
    raw = loaded(replace(job, dataset=base), place)
    two = binary(raw, positive, job.dataset, classnames)
    if not is_mixture(job.model):
        start = build(job.model, two.shape, 1, job.recipe, job.seed)
        return record(train_model(job, place, tick, start, two, convex=False))
    found = mix(job, place, tick, two, expert=PLAIN)
    return {**found.row, **seen(found, raw)} if experts_of(job.model) == (True, MOST) else found.row


def seen(found: Mixed, raw: DataSet) -> Row:
    """The mean image of each expert's share of one class of the test part, as bytes, and how many images it has."""
    test = in_memory(raw.test)
    here = test.labels == SHOWN
    images, chosen = test.images[here].double(), found.preferred[here]
    counts = [int((chosen == index).sum()) for index in range(MOST)]
    means = [images[chosen == index].mean(0) if counts[index] else torch.zeros(raw.shape) for index in range(MOST)]
    packed = expert_pictures.packed(torch.stack([mean.double() for mean in means]).round().long())
    return {
        "mean_images": packed,
        "mean_shape": [MOST, *raw.shape],
        "mean_counts": counts,
        "mean_class": raw.classnames[SHOWN],
    }


# --- the report ------------------------------------------------------------------------------------------------------

Kind = tuple[str, str, int, int]
"""What runs that belong into one picture have in common: data set, recipe, its epochs, images to train on."""


def kind_of(row: Row) -> Kind:
    """The kind of a record."""
    return row["dataset"], row["recipe"]["name"], row["recipe"]["epochs"], row["train_samples"]


def extent(kind: Kind, rows: Sequence[Row]) -> str:
    """The length of some runs of one kind, and whether it is shortened."""
    hidden = rows[0]["recipe"].get("hidden") or [800] * 3
    said = f"experts of {len(hidden)} × {hidden[0]}, {kind[2]} iterations, {kind[3]:,} images"
    return said if all(row["full"] for row in rows) else f"shortened: {said}"


def sections(rows: Sequence[Row]) -> list[Section]:
    """A table and a picture for each kind of run, the largest first."""
    kinds = sorted({kind_of(row) for row in rows}, key=lambda kind: (kind[0] == "digits-odd", -kind[3], -kind[2]))
    return [section(kind, [row for row in rows if kind_of(row) == kind]) for kind in kinds]


def title_of(model: str) -> str:
    """What a table calls a network."""
    if not is_mixture(model):
        return "ordinary network, no gate"
    convex, count = experts_of(model)
    return f"{count} {'convex' if convex else 'ordinary'} expert{'' if count == 1 else 's'}"


def section(kind: Kind, rows: Sequence[Row]) -> Section:
    """One kind of run."""
    cells: list[list[str]] = []
    remarks: list[list[str]] = []
    every = range(1, MOST + 1)
    for name in names(every, every):
        own = [row for row in rows if row["model"] == name]
        if not own:
            continue
        mixed = [row for row in own if "experts" in row]
        cells.append(
            [
                title_of(name),
                *(shown([row[key] for row in own]) for key in ("train_accuracy", "test_accuracy", "gap")),
                shown([row["test_accuracy_at_peak"] for row in own]),
                shown([row["oracle_accuracy"] for row in mixed]),
                ", ".join(str(row["experts_used"]) for row in mixed) or "–",
                f"{sum(r['experts_certified'] for r in mixed)} of {sum(r['experts'] for r in mixed)}" if mixed else "–",
                str(sum(row["falls"] for row in mixed)) if mixed else "–",
                str(len(own)),
            ]
        )
        remarks += [[title_of(name), str(row["seed"]), text] for row in mixed for text in row["remarks"]]
    columns = ("network", "train", "test", "gap", "test at peak", "oracle", "experts used", "certified", "falls")
    where = TITLES[kind[0]]
    caption = (
        f"{where}; {extent(kind, rows)}. Accuracies in percent. The oracle takes the expert that is right, if there is "
        "one; “experts used” are those that the gate prefers for some test image, seed by seed; “certified” counts "
        "experts proved convex, “falls” iterations of EM that lowered the likelihood"
    )
    tables = [Table(caption, (*columns, "seeds"), cells)]
    if remarks:
        tables.append(Table("What the records name", ("network", "seed", "remark"), remarks, text=3))
    return Section(
        f"Fig. 5a: {where}, {extent(kind, rows)}",
        "Each expert has one convex output, which gives class 0 (the rest) a convex region; the gate is linear, and "
        f"the mixture is not convex. The paper’s ordinary network has {PAPER} % on the official test images.",
        tables=tables,
        panels=line_panels(rows),
    )


def line_panels(rows: Sequence[Row]) -> list[Panel]:
    """Test accuracy by the number of experts, of convex and ordinary ones, and the plain network as a flat line."""
    series: list[tuple[str, str, dict[int, tuple[float, float | None]]]] = []
    for convex, colour, what in ((True, "ioc", "convex experts"), (False, "nn", "ordinary experts")):
        found: dict[int, tuple[float, float | None]] = {}
        for count in range(1, MOST + 1):
            name = f"{CONVEX if convex else ORDINARY}{count}"
            if own := [100 * row["test_accuracy"] for row in rows if row["model"] == name]:
                found[count] = interval(own)
        if found:
            series.append((what, colour, found))
    flat = [100 * row["test_accuracy"] for row in rows if row["model"] == PLAIN]
    if not series:
        return []
    short = "" if all(row["full"] for row in rows) else " Shortened runs."
    values = [(what, ", ".join(f"{n}: {mean:.1f}" for n, (mean, _) in found.items())) for what, _, found in series]
    alt = f"Test accuracy in percent by experts. {'; '.join(f'{what}: {numbers}' for what, numbers in values)}."
    dotted = " Dotted: the ordinary network without a gate." if flat else ""
    caption = f"Mean over seeds; bars are 95 % intervals.{dotted}{short}"
    legend = [(colour, what) for what, colour, _ in series]
    drawn = lines(series, flat)
    return [Panel(picture("Test accuracy by experts", alt, drawn, (4.6, 3.2)), caption, legend)]


def lines(series: Sequence[tuple[str, str, dict[int, tuple[float, float | None]]]], flat: Sequence[float]) -> Draw:
    """Means with intervals over the number of experts."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = plain_axes(figure, "experts", "test accuracy, %")
        if flat:
            axes.axhline(sum(flat) / len(flat), color=theme.ink, linewidth=1.4, linestyle="dotted")
        for _, colour, found in series:
            x, y = list(found), [mean for mean, _ in found.values()]
            axes.plot(x, y, color=getattr(theme, colour), marker="o", markersize=4)
            for count, (mean, half) in found.items():
                if half:
                    axes.vlines(count, mean - half, mean + half, color=getattr(theme, colour), linewidth=1.2)
        axes.set_xticks(range(1, MOST + 1))

    return draw


STUDY = Study(
    name="fig5",
    title="Animals against the rest by one to ten convex experts",
    source="Sivaprasad et al. 2021, figure 5a",
    systems=("A7",),
    seeds={"smoke": 1, "two-core": 1, "full": 3},
    plan=plan,
    sections=sections,
    run=run,
    longer=narrow,
)
