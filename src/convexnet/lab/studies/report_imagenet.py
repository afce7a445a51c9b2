"""Large networks on folders of images, and what a convex DenseNet starts from (Singh 2022, sections 5.2, 5.4 and 6).

    convexnet study run report-imagenet --data-dir DATA           # two cores: Tiny-ImageNet-20, 1,000 images, 2 epochs
    convexnet study run report-imagenet --full --data-dir DATA    # ImageNet, 30 epochs; needs several GPUs

The data are folders, `DATA/imagenet` and `DATA/tiny-imagenet-20`, each with `train` and `val` and a folder of images
for each class; they stay in their files, and are decoded while a network trains. The second has the classes of
`CLASSES`, 500 images each to train on and 50 to test on, of 64 x 64 pixels. Several processes share a full run under
torchrun: `docs/cluster.md` has the commands.

The report's IOC-DenseNet-121 reached 10 % on ImageNet. Its code draws ordinary signed weights, and after the first step
every negative one becomes exp(w - 5), at most 0.0067: half of the weights of all layers but the first are as good as
gone. `STARTS` compares that with starts that are non-negative from the beginning: same network, same optimiser, same
constraint. Here the signed weights are brought inside before the first step, and not after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from convexnet.choices import InitName
from convexnet.lab.models.registry import MODELS
from convexnet.lab.reports.comparison import Line, comparison
from convexnet.lab.reports.page import Panel, Section
from convexnet.lab.reports.papers import TITLES
from convexnet.lab.reports.pictures import picture
from convexnet.lab.reports.study_pictures import curves
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.report_tables import SOURCE, as_reported, few, ours
from convexnet.lab.studies.study import Study
from convexnet.lab.training.recipes import Recipe

CLASSES = (
    *("n01443537", "n01784675", "n02002724", "n02123045", "n02231487", "n02410509", "n02669723", "n02814533"),
    *("n02909870", "n03026506", "n03255030", "n03584254", "n03770439", "n03937543", "n04070727", "n04259630"),
    *("n04398044", "n04532670", "n07615774", "n07871810"),
)
"""Of Tiny-ImageNet-20, in WordNet's numbers."""

TINY = "tiny-imagenet-20"
PAIRS = (
    ("densenet-121", "ioc-densenet-121"),
    ("resnet-50", "ioc-resnet-50"),
    ("mixer", "ioc-mixer"),
    ("cyclemlp-b1", "ioc-cyclemlp-b1"),
    ("efficientnet-b0", "ioc-efficientnet-b0", "ioc-efficientnet-b0-ungated"),
)
COLOURS = ("nn", "ioc", "second")
"""Of a pair: the ordinary network, its counterpart, and the one without gates."""

LARGE = 90
"""Epochs of our recipe on ImageNet."""

SHORT = 5
"""Epochs of it on Tiny-ImageNet-20 that two cores can finish."""

LENGTH = 12
"""Epochs of the comparison of starts; the rate falls after a third and after two thirds."""

STARTS: Mapping[str, tuple[str, InitName | None]] = MappingProxyType(
    {
        "signed, overwritten": ("first", None),
        "log-normal": ("ioc", "lognormal"),
        "near the identity": ("second", "identity"),
    }
)
"""Of the convex DenseNet: its colour, and what `convexify` draws; None: ordinary weights, brought inside."""


def start(name: str, model: str, epochs: int = LENGTH) -> Recipe:
    """The report's recipe for a start, at a length of our own."""
    how = as_reported("ioc-densenet-121" if MODELS[model].convex else "densenet-121")
    convex = replace(how.convex, init=STARTS[name][1]) if name in STARTS else how.convex
    milestones = (epochs // 3, 2 * epochs // 3)
    called = f"report, {epochs} epochs, {name}"
    batch = how.batch if epochs == how.epochs else 64
    return replace(how, name=called, epochs=epochs, milestones=milestones, batch=batch, convex=convex)


def starts(dataset: str, seeds: Sequence[int], ordinary: str, convex: str) -> list[Job]:
    """The comparison of starts, and the ordinary network beside it."""
    found = [(ordinary, start("ordinary", ordinary)), *((convex, start(name, convex)) for name in STARTS)]
    return [
        Job("report-imagenet", model, dataset, how, seed, measure_every=2) for seed in seeds for model, how in found
    ]


def networks(dataset: str, seeds: Sequence[int], epochs: int, augment: str) -> list[Job]:
    """All networks in our recipe, seed by seed."""
    return [
        Job("report-imagenet", name, dataset, ours(name, epochs, augment=augment), seed)
        for seed in seeds
        for pair in PAIRS
        for name in pair
    ]


def large(seeds: Sequence[int]) -> list[Job]:
    """ImageNet: DenseNet-121 in the report's recipe, with a start that is non-negative, too; all in ours."""
    reported = [(name, as_reported(name)) for name in PAIRS[0]]
    reported.append((PAIRS[0][1], start("log-normal", PAIRS[0][1], 30)))
    found = [Job("report-imagenet", name, "imagenet", how, seed) for seed in seeds for name, how in reported]
    found += networks("imagenet", seeds, LARGE, "resized-crop-flip-randaugment-erase")
    return [replace(job, validation=0.01, measure_every=5) for job in found]


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """ImageNet; on two cores few images of twenty of its classes."""
    if size == "full":
        return large(seeds)
    if size == "two-core":
        return few([*tiny(seeds), *tiny_starts(seeds)], 2, 1_000)
    return few(starts("digits", seeds, "densenet-16", "ioc-densenet-16"), 1, 100)


def tiny(seeds: Sequence[int]) -> list[Job]:
    """All networks on Tiny-ImageNet-20, from its files, for the queue."""
    return [replace(job, streamed=True) for job in networks(TINY, seeds, SHORT, "crop-flip")]


def tiny_starts(seeds: Sequence[int]) -> list[Job]:
    """The comparison of starts on Tiny-ImageNet-20, from its files, for the queue."""
    return [replace(job, streamed=True) for job in starts(TINY, seeds, *PAIRS[0])]


def longer(seeds: Sequence[int]) -> list[Job]:
    """What the queue has."""
    return [*tiny(seeds), *tiny_starts(seeds)]


def of_kind(rows: Sequence[Row], dataset: str, model: str, name: str) -> list[Row]:
    """The records of one line."""
    return [row for row in rows if (row["dataset"], row["model"], row["recipe"]["name"]) == (dataset, model, name)]


def is_start(name: str) -> bool:
    """Whether a recipe, by its name, belongs to the comparison of starts."""
    return name.startswith("report, ")


def drawn(title: str, found: Sequence[tuple[str, str, list[Row]]]) -> list[Panel]:
    """Curves of the first seed of some lines: what they are called, their colours, and their records."""
    some = [(words, colour, min(own, key=lambda row: row["seed"])) for words, colour, own in found if own]
    if not some:
        return []
    rows = [row for _, _, row in some]
    ends = "; ".join(
        f"{words} train {100 * row['train_accuracy']:.1f} %, test {100 * row['test_accuracy']:.1f} %"
        for words, _, row in some
    )
    short = "" if all(row["full"] for row in rows) else " Shortened runs."
    alt = f"Line chart of accuracy over epochs, {title}. At the end: {ends}."
    image = picture(title, alt, curves(rows, colours=[colour for _, colour, _ in some]))
    legend = [(colour, words) for words, colour, _ in some]
    return [Panel(image, f"Seed {rows[0]['seed']}, at the end: {ends}.{short}", legend)]


def sections(rows: Sequence[Row]) -> list[Section]:
    """The networks with their curves, and the starts with theirs."""
    kinds = dict.fromkeys((row["dataset"], row["model"], row["recipe"]["name"]) for row in rows)
    wanted = dict.fromkeys([*(("imagenet", name, SOURCE) for name in PAIRS[0]), *kinds])
    lines = [
        Line((TITLES[dataset], MODELS[model].title, name), of_kind(rows, dataset, model, name))
        for dataset, model, name in wanted
        if not is_start(name)
    ]
    panels: list[Panel] = []
    for dataset, name in dict.fromkeys((dataset, name) for dataset, _, name in kinds if not is_start(name)):
        for pair in PAIRS:
            found = [
                (MODELS[model].title, colour, Line((), of_kind(rows, dataset, model, name)).counted)
                for model, colour in zip(pair, COLOURS, strict=False)
            ]
            panels += drawn(f"{MODELS[pair[0]].title}, {TITLES[dataset]}, {name}", found)
    return [
        Section(
            "Folders of images",
            "The report stopped at ImageNet: its Mixer took four hours an epoch, its IOC-DenseNet reached 10 %, and a "
            "convex EfficientNet was its next aim. The convex EfficientNet adds pooled features where the ordinary one "
            "has gates; without them, nothing stands there.",
            tables=[comparison("Networks on folders", ("data set", "network", "recipe"), lines, paper=False)],
            panels=panels,
            legend="lines",
        ),
        *starting(rows, list(kinds)),
    ]


def starting(rows: Sequence[Row], kinds: Sequence[tuple[str, str, str]]) -> list[Section]:
    """The comparison of starts, where there is something of it."""
    if not any(is_start(name) for _, _, name in kinds):
        return []
    lines: list[Line] = []
    panels: list[Panel] = []
    for dataset in dict.fromkeys(dataset for dataset, _, name in kinds if is_start(name)):
        found: list[tuple[str, str, list[Row]]] = []
        for words, colour in [("ordinary", "nn"), *((name, one) for name, (one, _) in STARTS.items())]:
            for _, model, name in [kind for kind in kinds if kind[0] == dataset and kind[2].endswith(f", {words}")]:
                own = Line((TITLES[dataset], MODELS[model].title, words), of_kind(rows, dataset, model, name))
                lines.append(own)
                found.append((words, colour, own.counted))
        panels += drawn(f"Starts, {TITLES[dataset]}", found)
    return [
        Section(
            "What a convex DenseNet starts from",
            "Same network, same constraint, same optimiser: ordinary signed weights of which the negative ones are "
            "overwritten by exp(w − 5), as in the report’s code, and weights that are drawn non-negative.",
            tables=[comparison("Starts", ("data set", "network", "start"), lines, paper=False)],
            panels=panels,
            legend="lines",
        )
    ]


STUDY = Study(
    name="report-imagenet",
    title="Large networks on folders of images, and what they start from",
    source="Singh 2022, sections 5.2, 5.4 and 6",
    systems=("B3", "B4"),
    seeds={"smoke": 1, "two-core": 1, "full": 1},
    plan=plan,
    sections=sections,
    longer=longer,
)
