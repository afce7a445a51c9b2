"""Table 6: three boosted convex experts, a gate over them, and the oracle (Sivaprasad et al. 2021, sections 3.3 and 4).

    convexnet study run table6 --data-dir DATA           # two cores: MLP, the hold-out set, 10,000 images, 3 x 4 epochs
    convexnet study run table6 --full --data-dir DATA    # MLP, All-CNN-C and DenseNet, CIFAR-10 and the hold-out set

SAMME trains three experts one after another; then a gate is trained over them, which stay as they are: one hidden layer
for MLPs, four convolutions for All-CNN-C, two dense blocks for DenseNet (depth 40, growth 12). A gate's run needs that
of its experts. The paper re-weights as a tutorial on AdaBoost has it and states no lengths; SAMME's weights, 60 epochs
for each expert and 20 for the gate, Adam along a cosine, and our way of making experts convex are ours. Images are not
augmented, which the paper's convolutions have. Beside the vote and the gate stands the mean of the experts' logits with
SAMME's weights, which is convex and certified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.ensembles import Boosted, Boosting, GateTraining, fuse, oracle_accuracy
from convexnet.ensembles.outputs import classes_of, predict
from convexnet.lab.data import DataError, DataSet, Split
from convexnet.lab.models.architectures import converted, perceptron
from convexnet.lab.models.convex import Convex, drawn_from
from convexnet.lab.models.registry import build
from convexnet.lab.reports.comparison import shown
from convexnet.lab.reports.page import Section, Table
from convexnet.lab.reports.papers import TITLES
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.learning import NETWORK, common, keeping, needed, save
from convexnet.lab.runs.metrics import accuracies, calibration
from convexnet.lab.runs.normalising import behind, in_memory, normalised
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.runs.run import complete, loaded
from convexnet.lab.runs.verdict import verdict
from convexnet.lab.studies.mixtures import failing
from convexnet.lab.studies.study import Study
from convexnet.lab.training.checkpoints import epoch_seed
from convexnet.lab.training.driver import drive
from convexnet.lab.training.epoch import Diverged
from convexnet.lab.training.recipes import OURS_CONVEX, Recipe
from convexnet.zoo import DenseNet, densenet40

ROUNDS, EPOCHS, GATED = 3, 60, 20
"""Experts, epochs for each of them, and of a gate."""

RECIPE = Recipe(
    "boosting", epochs=ROUNDS * EPOCHS, batch=128, learning_rate=1e-3, schedule="cosine", convex=OURS_CONVEX.convex
)
GATE = replace(RECIPE, name="gate", epochs=GATED, convex=Convex())

PAPER: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {"mlp": (69.89, 71.8, 85.47), "allconv": (90.6, 92.83, 96.3), "densenet": (91.12, 93.25, 97.19)}
)
"""Test accuracy of a single expert, with the gate, and with the oracle, in percent."""

KINDS: Mapping[str, str] = MappingProxyType({"mlp": "MLP", "allconv": "AllConv", "densenet": "DenseNet"})
BOOSTED, OVER = "boosted-", "gate-"


# --- jobs ------------------------------------------------------------------------------------------------------------


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """Experts and gate of each architecture, seed by seed."""
    sets = {"smoke": ("digits",), "two-core": ("cifar10-holdout",), "full": ("cifar10", "cifar10-holdout")}[size]
    kinds = tuple(KINDS) if size == "full" else ("mlp",)
    return [job for dataset in sets for kind in kinds for seed in seeds for job in pair(kind, dataset, seed, size)]


def pair(kind: str, dataset: str, seed: int, size: str = "full") -> list[Job]:
    """The experts, and the gate that needs them."""
    epochs, gated = {"smoke": (1, 1), "two-core": (4, 4), "full": (EPOCHS, GATED)}[size]
    how = replace(RECIPE, epochs=ROUNDS * epochs)
    if kind == "allconv":  # whose logits are an average of the last convolution's, which no free head can follow
        how = replace(how, convex=replace(how.convex, free_head=False))
    if size == "smoke":
        how = replace(how, hidden=(16, 16, 16))
    more: dict[str, Any] = {"full": size == "full"}
    if size == "two-core":
        more |= {"train_samples": 10_000, "validation": 0.05}
    experts = Job("table6", f"{BOOSTED}{kind}", dataset, how, seed, variant="experts", **more)
    over = replace(GATE, epochs=gated)
    return [experts, replace(experts, model=f"{OVER}{kind}", recipe=over, variant="gate", needs=(experts.key,))]


def boosted_mlps(seeds: Sequence[int]) -> list[Job]:
    """The MLPs on the hold-out set, at full length: what two cores can finish."""
    return [job for seed in seeds for job in pair("mlp", "cifar10-holdout", seed)]


def expert_of(kind: str, shape: Sequence[int], classes: int, recipe: Recipe, seed: int) -> nn.Module:
    """A convex network of an architecture, drawn from a seed."""
    if kind != "densenet":
        return build(f"ioc-{kind}", shape, classes, recipe, seed)
    with drawn_from(seed):
        network = densenet40(classes, in_channels=shape[0])
        return converted(network, shape, recipe.convex, recipe.convex.activation)


def gate_of(kind: str, shape: Sequence[int], experts: int, seed: int) -> nn.Module:
    """The shallow ordinary network that weighs experts of an architecture."""
    with drawn_from(seed):
        if kind == "mlp":
            return perceptron(shape, experts, GATE, (800,))
        if kind == "densenet":
            return DenseNet((6, 6), 12, experts, in_channels=shape[0])
        layers: list[nn.Module] = []
        width = shape[0]
        for channels, stride in ((96, 1), (96, 2), (192, 2)):
            layers += [nn.Conv2d(width, channels, 3, stride=stride, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
            width = channels
        return nn.Sequential(*layers, nn.Conv2d(width, experts, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


# --- runs ------------------------------------------------------------------------------------------------------------


def run(job: Job, place: Place, tick: Tick) -> Row:
    """Boost the experts, or train the gate over those of the job that it needs.

    Raises:
        DataError: fewer samples than experts, or a class without samples.
        Diverged: the loss is not a number any more.
        CheckpointError, Stopped: as `convexnet.lab.runs.learning.learn`.
    """
    raw = loaded(job, place)
    if job.model.startswith(BOOSTED):
        return boosting(job, place, tick, raw)
    return gating(job, place, tick, raw)


def boosting(job: Job, place: Place, tick: Tick, raw: DataSet) -> Row:
    """Boost the experts."""
    data, step = normalised(raw, job)
    train, how, kind = in_memory(data.train), job.recipe, job.model.removeprefix(BOOSTED)

    def make() -> nn.Module:
        # The learner lets torch draw from the seed of the round; the registry wants a number.
        return expert_of(kind, data.shape, data.classes, how, int(torch.randint(2**31, ())))

    with failing(job, DataError):
        learner = Boosting(
            make,
            train.images,
            train.labels,
            ROUNDS,
            epochs=how.epochs // ROUNDS,
            batch=how.batch,
            learning_rate=how.learning_rate,
            penalty=how.weight_decay,
            seed=job.seed,
        )
    with failing(job, Diverged):
        driven = drive(learner, keeping(job, place), lambda point: tick(job, point))
    boosted = learner.boosted()
    ended = [point for point in driven.curve if "error" in point]
    row = {
        **common(job, driven),
        **columns(boosted, data, job),
        "weights": [float(alpha) for alpha in learner.alphas],
        "errors": [point["error"] for point in ended],
        "stopped": learner.stopped,
        "remarks": list(learner.remarks),
    }
    if place.network:
        save(complete(boosted, step), place.folder / NETWORK)
    return row


def gating(job: Job, place: Place, tick: Tick, raw: DataSet) -> Row:
    """Train the gate."""
    whole: Any = needed(place, job.needs[0])
    boosted, step, how = whole.network, whole.whiten, job.recipe
    assert isinstance(boosted, Boosted)
    parts = {name: behind(step, getattr(raw, name)) for name in ("train", "validation", "test")}
    data = replace(raw, **parts, extra={})
    train, kind = in_memory(data.train), job.model.removeprefix(OVER)
    gate = gate_of(kind, data.shape, len(boosted.experts), epoch_seed(job.seed, 0, "gate"))
    settings: dict[str, Any] = {"epochs": how.epochs, "batch": how.batch, "learning_rate": how.learning_rate}
    with failing(job, DataError):
        learner = GateTraining(boosted.experts, gate, train.images, train.labels, seed=job.seed, **settings)
    with failing(job, Diverged):
        driven = drive(learner, keeping(job, place), lambda point: tick(job, point))
    mixed = Boosted(boosted.experts, boosted.weights, gate.eval()).eval()
    test = in_memory(data.test)
    chosen = predict(gate, test.images).argmax(1)
    row = {
        **common(job, driven),
        **columns(mixed, data, job),
        **calibration(predict(mixed, test.images), test.labels),
        "shares": [float((chosen == index).double().mean()) for index in range(len(mixed.experts))],
        "remarks": list(learner.remarks),
    }
    if place.network:
        save(complete(mixed, step), place.folder / NETWORK)
    return row


def columns(boosted: Boosted, data: DataSet, job: Job) -> Row:
    """What records of experts and of gates say besides what every record has."""
    train, test = in_memory(data.train), in_memory(data.test)
    example = torch.zeros(2, *data.shape)
    proofs = [verdict(expert, example) for expert in boosted.experts]
    fused = fuse(boosted.experts, weights=boosted.weights, example=example)

    answers = predict(boosted, train.images), predict(boosted, test.images)
    figures = accuracies(answers[0], train.labels, train.clean, answers[1], test.labels, running=0.0)
    return {
        **figures,
        "running_accuracy": None,  # no pass scores its batches as it goes
        "test_accuracy_at_peak": None,  # nothing is chosen by validation
        "tier": None,
        "certified": verdict(boosted, example).certified,
        "epochs": job.recipe.epochs,
        "train_samples": len(train),
        "validation_samples": len(data.validation),
        "test_samples": len(test),
        "note": data.note,
        "data": data.fingerprint,
        "parameters": sum(parameter.numel() for parameter in boosted.parameters()),
        "experts": len(proofs),
        "experts_certified": sum(proof.certified for proof in proofs),
        "experts_tier": sorted({proof.tier or "none" for proof in proofs if proof.certified}),
        "ensemble": boosted.certificates(example).ensemble,
        "expert_train_accuracy": [accuracy(expert, train) for expert in boosted.experts],
        "expert_accuracy": [accuracy(expert, test) for expert in boosted.experts],
        "oracle_accuracy": oracle_accuracy(boosted.experts, test.images, test.labels),
        "oracle_train_accuracy": oracle_accuracy(boosted.experts, train.images, train.labels),
        "fused_accuracy": accuracy(fused, test),
        "fused_certified": verdict(fused, example).certified,
    }


def accuracy(network: nn.Module, part: Split) -> float:
    """The share of a part that a network gets right."""
    right: Tensor = classes_of(predict(network, part.images)) == part.labels
    return float(right.double().mean())


# --- the report ------------------------------------------------------------------------------------------------------


def sections(rows: Sequence[Row]) -> list[Section]:
    """One line for each architecture, data set and length."""
    cells: list[list[str]] = []
    remarks: list[list[str]] = []
    kinds = dict.fromkeys((one["dataset"], one["train_samples"], one["full"]) for one in rows)
    for dataset, samples, full in sorted(kinds, key=lambda kind: (not kind[2], kind[0])):
        for kind, title in KINDS.items():
            key = (dataset, samples, full)
            own = [row for row in rows if (row["dataset"], row["train_samples"], row["full"]) == key]
            experts = [row for row in own if row["model"] == f"{BOOSTED}{kind}"]
            gates = [row for row in own if row["model"] == f"{OVER}{kind}"]
            if not experts:
                continue
            remarks += [[title, str(row["seed"]), text] for row in (*experts, *gates) for text in row["remarks"]]
            cells.append([TITLES[dataset], title, *line(kind, experts, gates)])
    if not cells:
        cells = [["–", title, *paper(kind), *["–"] * 8, "not run"] for kind, title in KINDS.items()]
    theirs = ("paper single", "paper gate", "paper oracle")
    ours = ("single", "vote", "mean", "gate", "gate’s gap", "oracle", "certified", "seeds", "run")
    caption = (
        "Test accuracy in percent. “Single” is the first expert, on samples of equal weight; “vote” is SAMME’s; “mean” "
        "the mean of the logits with SAMME’s weights, the one ensemble here that is convex; the oracle takes an expert "
        "that is right, if there is one. “Certified” counts experts, and the mean, that are proved convex"
    )
    tables = [Table(caption, ("data set", "experts", *theirs, *ours), cells, text=2)]
    if remarks:
        tables.append(Table("What the records name", ("experts", "seed", "remark"), remarks, text=3))
    return [
        Section(
            "Table 6: boosted convex experts, a gate, and the oracle",
            "The paper’s numbers are those of the official test images. A vote and a gated mixture are not convex, "
            "whatever the experts are. The oracle is an upper bound for every gate and no method.",
            tables=tables,
        )
    ]


def paper(kind: str) -> list[str]:
    """The paper's cells."""
    return [f"{value:.2f}" for value in PAPER[kind]]


def line(kind: str, experts: Sequence[Row], gates: Sequence[Row]) -> list[str]:
    """The cells of one architecture."""
    made, proved = sum(row["experts"] for row in experts), sum(row["experts_certified"] for row in experts)
    means = sum(bool(row["fused_certified"]) for row in experts)
    length = f"{experts[0]['recipe']['epochs'] // ROUNDS} epochs each, {experts[0]['train_samples']:,} images"
    return [
        *paper(kind),
        shown([row["expert_accuracy"][0] for row in experts]),
        shown([row["test_accuracy"] for row in experts]),
        shown([row["fused_accuracy"] for row in experts]),
        shown([row["test_accuracy"] for row in gates]),
        shown([row["gap"] for row in gates]),
        shown([row["oracle_accuracy"] for row in experts]),
        f"{proved} of {made}; {means} of {len(experts)}",
        str(len(experts)),
        length if experts[0]["full"] else f"shortened: {length}",
    ]


STUDY = Study(
    name="table6",
    title="Boosted convex experts, a gate, and the oracle",
    source="Sivaprasad et al. 2021, table 6",
    systems=("A8",),
    seeds={"smoke": 1, "two-core": 3, "full": 3},
    plan=plan,
    sections=sections,
    run=run,
)
