"""Is it convexity that resists wrong labels? The MLPs on Fashion-MNIST at 0, 40 and 80 % of labels drawn anew (ours).

    convexnet study run noise --data-dir DATA           # two cores: 10,000 images, 4 epochs, 2 seeds
    convexnet study run noise --full --data-dir DATA    # all images, 20 epochs, 3 seeds: twelve core-hours

Every network has hidden layers of 800, BatchNorm, batches of 128, and 20 epochs in which its rate falls to 0; that of
the paper's text stays as it is, and at matched training accuracy it comes with a falling rate, too. Draws may give the
true class again, as the paper's numbers do (Sivaprasad et al. 2021, table 3). The validation part, which chooses the
peak and nothing else, has labels that are as wrong. The ordinary network sees both signs of its first layer, as `ours`
does, and comes with what regularises it: early stopping (its peak), weight decay, dropout, smoothed labels, and the
losses that resist wrong labels; the convex one has the same losses.

Convex networks are in tiers. T0: any ordinary ReLU network, whose logits are shifted by one convex function (no
restriction: the record of the ordinary network says that the shifted one is certified and decides alike). T1: one free
head; T2: a head that is kept non-negative; T3: one output, where convexity does restrict and class polarity matters.

Three questions are separated at 40 %: does a convex network resist more than an ordinary one *of the same training
accuracy* (each at the end of its own schedule of 3 to 60 epochs)? Does the start resist, at fixed convexity? Does the
start resist without the constraint? The ordinary network of the first question comes with and without weight decay:
ours has a decay of 1 on its free weights, and what decay does must not count as what convexity does.

Long because all networks that are compared, and the tables of every question, stand in one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch

import convexnet as cx
from convexnet.lab.data import DataSet, Split
from convexnet.lab.data.noise import generator_for, resampled
from convexnet.lab.models.registry import build, model_named
from convexnet.lab.reports.comparison import Line
from convexnet.lab.reports.noise_tables import WHAT, level_of, matched, noise_table, of_t0
from convexnet.lab.reports.page import Section, Table
from convexnet.lab.runs import run as runs
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.metrics import classes_of
from convexnet.lab.runs.normalising import in_memory
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.study import Study
from convexnet.lab.training.epoch import predict
from convexnet.lab.training.recipes import OURS, OURS_CONVEX, PAPER_TEXT_CONVEX, Recipe
from convexnet.memory import CONSTRAINT
from convexnet.split import shifted

EPOCHS = 20
"""Of every network, where nothing else is said: each of these networks has learnt what it learns by then."""

LENGTHS = (3, 6, 12, EPOCHS, 60)
"""Epochs at which training accuracies are compared, each at the end of its own schedule."""

LEVELS = (40.0, 80.0, 0.0)
OTHER_LEVELS = (20.0, 60.0, 100.0)

ORDINARY, T1, TEXT = "ordinary", "convex, T1 (ours)", "the paper's text"
DECAYED = "ordinary, weight decay"
ANNEALED = "the paper's text, annealed"
MATCHED = (ORDINARY, T1, TEXT, DECAYED, ANNEALED)
"""Trained for several lengths; one ordinary network has the decay that T1 has."""

PLAIN = replace(OURS, name="ours, no decay", epochs=EPOCHS, weight_decay=0.0)
DECAY = replace(OURS, name="ours, 20 epochs", epochs=EPOCHS)
CONVEX = replace(OURS_CONVEX, name="ours, 20 epochs", epochs=EPOCHS)
PAPER = replace(PAPER_TEXT_CONVEX, name="paper-text, 20 epochs", epochs=EPOCHS, patience=None)
"""With the constant rate of the text."""


def named(how: Recipe, name: str, **changes: object) -> Recipe:
    """A recipe with changes, under a name of its own."""
    return replace(how, name=name, **changes)


NETWORKS: Mapping[str, tuple[str, Recipe]] = MappingProxyType(
    {
        ORDINARY: ("mlp-signs", PLAIN),
        T1: ("ioc-mlp", CONVEX),
        TEXT: ("ioc-mlp", PAPER),
        "ordinary, dropout and weight decay": ("mlp-signs", named(DECAY, "ours, dropout and decay", dropout=0.3)),
        "one hidden layer, unconstrained": ("ioc-shallow", CONVEX),
        "ordinary, GCE": ("mlp-signs", named(DECAY, "ours, GCE", loss="gce")),
        "convex, T1, GCE": ("ioc-mlp", named(CONVEX, "ours, GCE", loss="gce")),
        "convex, T2: head clipped": (
            "ioc-mlp",
            named(CONVEX, "ours, T2", convex=replace(CONVEX.convex, free_head=False)),
        ),
        DECAYED: ("mlp-signs", DECAY),
        "ordinary, dropout": ("mlp-signs", named(PLAIN, "ours, dropout", dropout=0.3)),
        "ordinary, label smoothing": ("mlp-signs", named(DECAY, "ours, smoothed", smoothing=0.1)),
        "convex, T1, label smoothing": ("ioc-mlp", named(CONVEX, "ours, smoothed", smoothing=0.1)),
        "ordinary, ELR": ("mlp-signs", named(DECAY, "ours, ELR", loss="elr")),
        "convex, T1, ELR": ("ioc-mlp", named(CONVEX, "ours, ELR", loss="elr")),
        "ordinary, SCE": ("mlp-signs", named(DECAY, "ours, SCE", loss="sce")),
        "convex, T1, SCE": ("ioc-mlp", named(CONVEX, "ours, SCE", loss="sce")),
    }
)
"""By the variant of a job: the model and its recipe."""

UNCONSTRAINED = "the paper's text, its start alone"

STARTS: Mapping[str, tuple[str, Recipe]] = MappingProxyType(
    {
        f"T1, start {name}": ("ioc-mlp", named(CONVEX, f"ours, start {name}", convex=replace(CONVEX.convex, init=name)))
        for name in ("paper", "lognormal")
    }
    | {UNCONSTRAINED: ("ioc-mlp", named(PAPER, "paper-text, its start alone"))}
)
"""At 40 %: other starts at the same convexity; and a start without convexity. `ours` starts near the identity."""

TOPS = (0, 2, 4, 6)
"""T-shirt, pullover, coat and shirt: the class that one output tells from the rest."""

BINARY = "fashion-mnist-tops"
"""The data set of one output, and with the other polarity its mirror image."""

ONE_OUTPUT: Mapping[str, tuple[str, str, Recipe]] = MappingProxyType(
    {
        "ordinary, one output": ("mlp-signs", BINARY, named(DECAY, "ours, one output")),
        "T3, the tops convex": (
            "ioc-mlp",
            f"{BINARY}-convex",
            named(CONVEX, "ours, one output", convex=replace(CONVEX.convex, free_head=False)),
        ),
        "T3, the rest convex": (
            "ioc-mlp",
            BINARY,
            named(CONVEX, "ours, one output", convex=replace(CONVEX.convex, free_head=False)),
        ),
    }
)
"""By variant: model, data and recipe. The class that is named 0, where the output is not positive, is convex."""


ANNEALED_TEXT = ("ioc-mlp", named(PAPER, "paper-text, annealed, 20 epochs", schedule="cosine"))
"""The network of the paper's text, whose rate falls to 0; at matched training accuracy alone."""


def job_of(variant: str, model: str, how: Recipe, level: float, seed: int, dataset: str = "fashion-mnist") -> Job:
    """One run."""
    return Job(
        "noise",
        model,
        dataset,
        how,
        seed,
        variant=variant,
        noise=level,
        noisy_validation=bool(level),
        measure_every=5,
    )


def table_jobs(levels: Sequence[float], seeds: Sequence[int]) -> list[Job]:
    """All networks at some levels, seed by seed."""
    return [
        job_of(variant, model, how, level, seed)
        for seed in seeds
        for level in levels
        for variant, (model, how) in NETWORKS.items()
    ]


def matched_jobs(seeds: Sequence[int]) -> list[Job]:
    """Five networks at 40 %, at the end of schedules of several lengths; of 20 epochs most are those of the table."""
    networks = {**NETWORKS, ANNEALED: ANNEALED_TEXT}
    return [
        job_of(variant, model, lasting(how, epochs), 40.0, seed)
        for seed in seeds
        for epochs in LENGTHS
        for variant, (model, how) in networks.items()
        if variant in MATCHED
    ]


def start_jobs(seeds: Sequence[int]) -> list[Job]:
    """Other starts, and one output."""
    return [
        *(job_of(name, model, how, 40.0, seed) for seed in seeds for name, (model, how) in STARTS.items()),
        *(
            job_of(name, model, how, level, seed, dataset)
            for seed in seeds
            for level in (40.0, 0.0)
            for name, (model, dataset, how) in ONE_OUTPUT.items()
        ),
    ]


def lasting(how: Recipe, epochs: int) -> Recipe:
    """The same recipe, annealed in so many epochs; its name says how many where they are not the usual number."""
    return how if epochs == EPOCHS else replace(how, epochs=epochs, name=f"{how.name}, {epochs} epochs")


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """What a first look needs first: the tables at 40, 80 and 0 %, the lengths, then starts and one output."""
    if size == "smoke":
        wanted = [job for job in table_jobs((40.0,), seeds) if job.variant in (ORDINARY, T1, "convex, T1, ELR")]
        wanted += [job for job in start_jobs(seeds) if job.variant in (UNCONSTRAINED, "T3, the tops convex")][:2]
        wanted = [replace(job, dataset=job.dataset.replace("fashion-mnist", "digits")) for job in wanted]
        return [shortly(job, 1, hidden=(32, 32, 32)) for job in wanted]
    jobs = [*table_jobs(LEVELS, seeds), *matched_jobs(seeds), *start_jobs(seeds)]
    jobs = list({job.key: job for job in jobs}.values())
    if size == "full":
        return jobs
    return [
        replace(shortly(job, 4), train_samples=10_000, measure_every=2)
        for job in jobs
        if job.recipe.epochs == EPOCHS
        and job.variant != ANNEALED
        and (job.noise != 80 or job.variant in (ORDINARY, T1, TEXT))
    ]


def longer(seeds: Sequence[int]) -> list[Job]:
    """The levels between, for the queue."""
    return table_jobs(OTHER_LEVELS, seeds)


def shortly(job: Job, epochs: int, hidden: tuple[int, ...] = ()) -> Job:
    """A shortened job, which says so."""
    return replace(job, recipe=replace(job.recipe, epochs=epochs, hidden=hidden), full=False)


# --- runs of its own -------------------------------------------------------------------------------------------------


def run(job: Job, place: Place, tick: Tick) -> Row:
    """Train one network; the ordinary one is shifted into a convex one afterwards (T0), one start is let free."""
    if job.dataset.endswith(("-tops", "-tops-convex")):
        return one_output(job, place, tick)
    if job.variant == UNCONSTRAINED:
        raw = runs.loaded(job, place)
        model = build(job.model, raw.shape, raw.classes, job.recipe, job.seed)
        model.__dict__.pop(CONSTRAINT, None)  # nothing keeps it from here on, and its record must not say so
        return runs.record(runs.train_model(job, place, tick, model, raw, convex=False))
    if job.variant != ORDINARY:
        return runs.run(job, place, tick)
    found = runs.trained(job, place, tick)
    return {**runs.record(found), "shifted": tier_0(found)}


def tier_0(found: runs.Trained) -> dict[str, float | bool]:
    """What the ordinary network is as a convex one: whether certified, and on how many test images it decides alike."""
    network = found.training.result.eval()
    inputs = in_memory(found.data.test.rows(torch.arange(min(1000, len(found.data.test)))))
    convex = shifted(network, inputs.images[:2])
    alike = classes_of(predict(network, inputs.images)) == classes_of(predict(convex, inputs.images.double()))
    return {
        "certified": bool(cx.certify(convex, inputs.images[:2].double()).convex),
        "same_decision": float(alike.double().mean()),
    }


def one_output(job: Job, place: Place, tick: Tick) -> Row:
    """Train a network of one output on two classes; the labels are drawn anew from these two."""
    name, _, rest = job.dataset.rpartition("-tops")
    raw = runs.loaded(replace(job, dataset=name, noise=0.0, noisy_validation=False), place)
    data = halved(raw, inside=bool(rest), noise=job.noise, seed=job.seed)
    model = build(job.model, data.shape, 1, job.recipe, job.seed)
    convex = model_named(job.model).convex
    return runs.record(runs.train_model(job, place, tick, model, data, convex=convex))


def halved(raw: DataSet, *, inside: bool, noise: float, seed: int) -> DataSet:
    """The data with two classes, the tops and the rest; `inside`: the tops are class 0, else the rest is.

    Raises:
        ValueError: one of the two has no sample.
    """
    members = torch.tensor(TOPS)

    def two(part: Split, purpose: str = "") -> Split:
        labels = (torch.isin(part.clean, members) ^ inside).long()
        if len(part) and len(labels.unique()) < 2:
            raise ValueError(f"{raw.name}: a part has one of two classes alone, of which nothing can be learnt")
        found = Split(part.images, labels)
        if not purpose or not noise:
            return found
        return found.relabelled(resampled(labels, noise / 100, 2, generator_for(seed, purpose).initial_seed()))

    train, validation, test = (in_memory(part) for part in (raw.train, raw.validation, raw.test))
    names = ("tops", "the rest") if inside else ("the rest", "tops")
    return replace(
        raw,
        name=f"{raw.name}-tops{'-convex' if inside else ''}",
        train=two(train, "noise"),
        validation=two(validation, "noise of validation"),
        test=two(test),
        extra={},
        classes=2,
        classnames=names,
        noise=f"symmetric-including {noise:g} %" if noise else "",
    )


# --- what is shown ---------------------------------------------------------------------------------------------------


def sections(rows: Sequence[Row]) -> list[Section]:
    """The tables of the levels, the comparison at matched training accuracy, starts, and one output."""
    ten = [row for row in rows if "-tops" not in row["dataset"]]
    usual = [row for row in ten if row["recipe"]["epochs"] == EPOCHS or not row["full"]]
    lines: list[Line] = []
    for level in sorted({*LEVELS, *(level_of(row) for row in rows)}):
        for name in NETWORKS:
            own = [row for row in usual if row["variant"] == name and level_of(row) == level]
            lines.append(Line((f"{level:.0f} %", name), own))
    full = [row for row in ten if row["full"] and level_of(row) == 40]
    families = {
        name: {
            epochs: [row for row in full if row["variant"] == name and row["recipe"]["epochs"] == epochs]
            for epochs in LENGTHS
        }
        for name in MATCHED
    }
    caption = "At 40 %, each at the end of its own schedule; of the ordinary network between two of its lengths"
    table, panels = matched(caption, families, ORDINARY)
    alike, _ = matched(
        "The same with the ordinary network that has T1's weight decay",
        {name: families[name] for name in (DECAYED, T1)},
        DECAYED,
    )
    starts = [
        Line((name,), [row for row in usual if row["variant"] == name and level_of(row) == 40])
        for name in (T1, *STARTS, TEXT, ORDINARY)
    ]
    return [
        Section(
            "Wrong labels, the MLPs on Fashion-MNIST",
            f"{WHAT} Labels are drawn anew from all classes: at 40 % 64 % stay true, at 80 % 28 %. {of_t0(rows)}",
            tables=[noise_table("Labels drawn anew, and the network", ("drawn anew", "network"), lines)],
        ),
        Section(
            "Resistance at matched training accuracy",
            "A network that fits less remembers fewer wrong labels, whatever it is. So each is trained for 3 to 60 "
            "epochs, its rate falling to 0 by the last one, and test accuracies are compared where training accuracies "
            "are the same. A curve that is cut in the midst of its schedule would be another thing. T1 has weight "
            "decay; the second table compares it with an ordinary network that has the same. The rate of the paper's "
            "text is constant, as it says; “annealed” is the same network with a rate that falls.",
            tables=[table, alike],
            panels=panels,
        ),
        Section(
            "Convexity, or the start?",
            "At 40 %: starts at the same convexity, and the paper's start in a network that nothing keeps convex. "
            "“Correlation” is the mean correlation of pre-activations in the last hidden layer after training.",
            tables=[noise_table("Starts", ("network",), starts), correlation_table(starts)],
        ),
        Section(
            "One output (T3)",
            "Tops (four classes) against the rest, one output and a sigmoid. The region where a convex output is not "
            "positive is convex: which class lies in it matters.",
            tables=[noise_table("Two classes, one output", ("drawn anew", "network"), binary_lines(rows))],
        ),
    ]


def binary_lines(rows: Sequence[Row]) -> list[Line]:
    """The lines of one output."""
    return [
        Line((f"{level:.0f} %", name), [row for row in rows if row["variant"] == name and level_of(row) == level])
        for level in (0.0, 40.0)
        for name in ONE_OUTPUT
    ]


def correlation_table(lines: Sequence[Line]) -> Table:
    """The correlation in the last hidden layer."""
    cells: list[list[str]] = []
    for line in lines:
        found = [list(row["correlation"].values())[-2] for row in line.counted if row.get("correlation")]
        known = [value for value in found if value is not None]
        cells.append([*line.words, f"{sum(known) / len(known):.3f}" if known else "–", str(len(known))])
    return Table("Collapse", ("network", "correlation", "seeds"), cells)


STUDY = Study(
    name="noise",
    title="Wrong labels: is it convexity, or underfitting, that resists?",
    source="ours; Sivaprasad et al. 2021, table 3 and section 4.1",
    systems=("A4",),
    seeds={"smoke": 1, "two-core": 2, "full": 3},
    plan=plan,
    sections=sections,
    run=run,
    longer=longer,
)
