"""The queue of long runs: which studies are run at full length, in which order, and about how long that takes.

`convexnet study queue` goes through it on one core: what has a record is left out, what another process is at work on
is left to it, and what was stopped goes on from its checkpoint. A row counts as full only at its study's stated length.

Long because it is one list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from convexnet.lab.runs.dependencies import Work, recorded
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.lock import in_use
from convexnet.lab.runs.records import Row
from convexnet.lab.studies import (
    appendix_c,
    bibtex,
    constraint_ablation,
    control,
    exemplars,
    fig1,
    fig4,
    fig5,
    fig6,
    human_noise,
    imputation,
    mnist_icnn,
    noise,
    olivetti,
    parity,
    polyhedral,
    recurrent,
    report_head,
    report_imagenet,
    report_mlp,
    report_table1,
    study_named,
    synthetic_icnn,
    table1,
    table3,
    table4,
    table5,
    table6,
)
from convexnet.lab.studies.mixtures import experts_of, is_mixture
from convexnet.lab.training.checkpoints import NAME
from convexnet.lab.training.driver import LOG
from convexnet.lab.training.recipes import Recipe

SEEDS = range(3)


@dataclass(frozen=True)
class Entry:
    """A line of the queue.

    Attributes:
        rank: 1 is first; several lines may share one.
        study: its name.
        what: it is, in words; the length is stated here where it is not the source's.
        jobs: made when the queue is read.
    """

    rank: int
    study: str
    what: str
    jobs: Callable[[], list[Job]]


def text(plan: Callable[[str, Sequence[int]], list[Job]], seeds: Sequence[int] = SEEDS) -> list[Job]:
    """The jobs of a table in the recipe of the paper's text, on the sets that are here."""
    return [job for job in plan("full", seeds) if job.recipe.name == "paper-text" and job.dataset in table1.HERE]


def five_seeds() -> list[Job]:
    """The hold-out's part of appendix C."""
    return [job for job in text(appendix_c.plan, range(5)) if job.dataset == "cifar10-holdout"]


def holdout_of_the_report() -> list[Job]:
    """The hold-out's part of the report's MLP."""
    return [job for job in report_mlp.plan("full", SEEDS) if job.dataset == "cifar10-holdout"]


def heads_on_the_holdout() -> list[Job]:
    """The hold-out's part of the heads."""
    return [job for job in report_head.plan("full", SEEDS) if job.dataset == "cifar10-holdout"]


QUEUE: tuple[Entry, ...] = (
    Entry(1, "parity", "six networks on two sets, 60 epochs, 3 seeds", lambda: parity.plan("full", SEEDS)),
    Entry(1, "recurrent", "MNIST row by row, 20 epochs, 3 seeds", lambda: recurrent.plan("full", SEEDS)),
    Entry(1, "polyhedral", "toys in the plane, 3 seeds", lambda: polyhedral.plan("full", SEEDS)),
    Entry(1, "fig4", "mixtures in the plane, 3 seeds", lambda: fig4.plan("full", SEEDS)),
    Entry(1, "synthetic-icnn", "energies in the plane, 3 seeds", lambda: synthetic_icnn.plan("full", SEEDS)),
    Entry(
        1, "bibtex", "three ways, a feed-forward network, averages of 5 seeds", lambda: bibtex.plan("full", range(5))
    ),
    Entry(
        1,
        "report-head",
        f"convexity in the head of a CNN, the hold-out, {report_head.EPOCHS} epochs, 3 seeds",
        heads_on_the_holdout,
    ),
    Entry(
        1,
        "report-imagenet",
        f"eleven networks on Tiny-ImageNet-20, {report_imagenet.SHORT} epochs, 1 seed",
        lambda: report_imagenet.tiny(range(1)),
    ),
    Entry(
        1,
        "control",
        "Pendulum-v1 by a Q convex in the action, 20,000 steps, 5 seeds",
        lambda: control.jobs_of(("pendulum",), ("icnn-q",), range(5)),
    ),
    Entry(2, "mnist-icnn", "all images, early stopping, 3 seeds", lambda: mnist_icnn.plan("full", SEEDS)),
    Entry(
        2,
        "control",
        "Pendulum-v1 with a budget of power, 20,000 steps, and InvertedPendulum-v5, 30,000 steps, 3 seeds",
        lambda: control.jobs_of(("pendulum-limited", "inverted"), ("icnn-q",), SEEDS),
    ),
    Entry(
        2,
        "control",
        "the same three by NAF, DDPG, TD3 and SAC",
        lambda: control.jobs_of(("pendulum", "pendulum-limited", "inverted"), control.BASELINES, range(5)),
    ),
    Entry(
        2,
        "noise",
        "40, 80 and 0 % of labels drawn anew, matched training accuracy, starts; 20 epochs, 3 seeds",
        lambda: noise.plan("full", SEEDS),
    ),
    Entry(
        2,
        "fig5",
        f"1 to 10 experts of 3 x 128 on the hold-out set, {fig5.NARROW.epochs} iterations, 3 seeds",
        lambda: fig5.narrow(SEEDS),
    ),
    Entry(
        2,
        "report-table1",
        f"MLP-Mixer on the hold-out, {report_table1.LENGTH} epochs, two recipes, 1 seed",
        lambda: report_table1.longer(range(1)),
    ),
    Entry(
        2,
        "olivetti",
        "faces of 64 x 64 pixels, nine models, two protocols, left and bottom half, 1 seed",
        lambda: olivetti.plan("full", range(1)),
    ),
    Entry(
        2,
        "imputation",
        "digits, 10,000 images of MNIST and Olivetti, two energies and three imputers, 1 seed",
        lambda: imputation.plan("full", range(1)),
    ),
    Entry(
        2, "exemplars", "MNIST and Fashion-MNIST, three γ, 20 epochs, 1 seed", lambda: exemplars.plan("full", range(1))
    ),
    Entry(3, "noise", "20, 60 and 100 % of labels drawn anew, 20 epochs, 3 seeds", lambda: noise.longer(SEEDS)),
    Entry(
        3,
        "table6",
        f"three boosted MLPs of {table6.EPOCHS} epochs and their gate, hold-out set, 3 seeds",
        lambda: table6.boosted_mlps(SEEDS),
    ),
    Entry(
        3,
        "report-imagenet",
        f"what a convex DenseNet-121 starts from, {report_imagenet.LENGTH} epochs, 1 seed",
        lambda: report_imagenet.tiny_starts(range(1)),
    ),
    Entry(
        3,
        "control",
        "InvertedDoublePendulum-v5, 60,000 steps, and Reacher-v5 with and without a budget, 50,000 steps, 2 seeds",
        lambda: control.jobs_of(("double", "reacher", "reacher-limited"), ("icnn-q",), range(2)),
    ),
    Entry(
        3,
        "control",
        "the same three by NAF, DDPG, TD3 and SAC",
        lambda: control.jobs_of(("double", "reacher", "reacher-limited"), control.BASELINES, range(2)),
    ),
    Entry(4, "human-noise", "CIFAR-10N with the MLPs, 20 epochs, 3 seeds", lambda: human_noise.mlps(SEEDS)),
    Entry(
        5,
        "fig1",
        f"a quarter of AllConv at 0 and 50 %, at most {fig1.LENGTH} epochs, and the MLPs at 100 %, 1 seed",
        lambda: fig1.longer(range(1)),
    ),
    Entry(5, "fig6", "three architectures on the hold-out, 1 seed", lambda: fig6.longer(range(1))),
    Entry(5, "table5", "four MLPs on the hold-out, 60 epochs, 3 seeds", lambda: table5.longer(SEEDS)),
    Entry(6, "report-mlp", "the hold-out, 30 epochs, 3 seeds", holdout_of_the_report),
    Entry(
        6,
        "table3",
        f"the MLPs on the hold-out at 20 to 100 %, at most {table3.MLP_EPOCHS} epochs, 3 seeds",
        lambda: table3.longer(SEEDS),
    ),
    Entry(
        7,
        "constraint-ablation",
        "one change at a time, 100 epochs, 3 seeds",
        lambda: constraint_ablation.plan("full", SEEDS),
    ),
    Entry(8, "table1", "paper-text with its early stopping, three sets, 3 seeds", lambda: text(table1.plan)),
    Entry(9, "table4", "paper-text with its early stopping, three sets, 3 seeds", lambda: text(table4.plan)),
    Entry(10, "appendix-c", "paper-text, the hold-out set, 5 seeds", five_seeds),
    Entry(11, "table1", f"paper-code, {table1.FLAT} epochs, three sets, 3 seeds", lambda: table1.flattened(SEEDS)),
    Entry(12, "table4", f"paper-code, {table1.FLAT} epochs, three sets, 3 seeds", lambda: table4.flattened(SEEDS)),
)
"""In the order in which it is run. A new long run is one line here."""


def work_of(rank: int | None = None, only: str = "") -> list[tuple[Entry, list[Work]]]:
    """The jobs of each line, without those that an earlier line has.

    Args:
        rank: of the lines that are wanted; None: all.
        only: leave out the jobs that do not have this in their name.

    Raises:
        ValueError: there is no such rank, or no such job.
    """
    found: list[tuple[Entry, list[Work]]] = []
    seen: set[str] = set()
    for entry in QUEUE:
        study = study_named(entry.study)
        own = {job.key: job for job in entry.jobs() if job.key not in seen}
        seen |= set(own)
        if rank in (None, entry.rank):
            found.append((entry, [(study, job) for job in own.values() if only in job.name]))
    if not found:
        ranks = ", ".join(map(str, sorted({entry.rank for entry in QUEUE})))
        raise ValueError(f"there is no rank {rank}; there are {ranks}")
    if not any(work for _, work in found):
        raise ValueError(f"no run of the queue has {only!r} in its name; `convexnet study queue --list` names some")
    return found


# --- how far it is ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobState:
    """Where a job is: "done", "running" in some process, "begun" and stopped, or "waiting".

    `hours` are those that it took if it is done, and an estimate otherwise, of which `basis` says where it is from.
    """

    job: Job
    state: str
    hours: float
    basis: str = "recorded"
    epoch: int = 0


def states(work: Sequence[Work], runs: Path, results: Path) -> list[JobState]:
    """Where the jobs are.

    Args:
        work: the jobs.
        runs: the folder of all runs.
        results: the folder of the records.

    Raises:
        RecordError: a record cannot be read.
    """
    known = recorded(results)
    pace = Pace(list(known.values()))
    return [state_of(job, runs / job.key, known, pace) for _, job in work]


def state_of(job: Job, folder: Path, known: Mapping[str, Row], pace: Pace) -> JobState:
    """Where one job is."""
    if job.key in known:
        return JobState(job, "done", core_seconds(known[job.key]) / 3600)
    hours, basis = pace.hours(job)
    if in_use(folder):
        return JobState(job, "running", hours, basis, epochs_in(folder))
    return JobState(job, "begun" if (folder / NAME).exists() else "waiting", hours, basis, epochs_in(folder))


def epochs_in(folder: Path) -> int:
    """How many points are in a run's log."""
    try:
        return max(0, (folder / LOG).read_text(encoding="utf-8").count("\n") - 1)
    except OSError:
        return 0


def core_seconds(row: Row) -> float:
    """How long a run kept a core busy; of an early record that does not say it, how long it took."""
    return float(row.get("core_seconds") or row["seconds"])


def same_recipe(row: Row, recipe: Recipe) -> bool:
    """Whether a record is of this recipe; what an early one does not name stood at its default."""
    default, wanted = (json.loads(json.dumps(asdict(one))) for one in (Recipe("", epochs=0), recipe))  # as records are
    found = {**default, **row["recipe"]}
    return {**found, "convex": {**default["convex"], **(found["convex"] or {})}} == wanted


IMAGES: Mapping[str, int] = {
    "mnist": 54_000,
    "fashion-mnist": 54_000,
    "cifar10-holdout": 36_000,
    "cifar10-holdout-animals": 36_000,
    "vee": 1_000,
    "tiny-imagenet-20": 9_000,
    "linear": 400,
    "moons": 400,
    "circles": 400,
    "bibtex": 4_392,
}
"""To train on, without the validation part."""

STEPS: Mapping[tuple[str, str], float] = {
    ("cnn", "cifar10-holdout"): 0.9e-3,
    ("mixer", "cifar10-holdout"): 2.0e-3,
    ("mixer", "tiny-imagenet-20"): 2.0e-3,
    ("cyclemlp-b1", "tiny-imagenet-20"): 21e-3,
    ("efficientnet-b0", "tiny-imagenet-20"): 15e-3,
    ("densenet-121", "tiny-imagenet-20"): 33e-3,
    ("resnet-50", "tiny-imagenet-20"): 39e-3,
}
"""Seconds of one core that a training step takes for one image, as measured, by network and data set.

Of a network that has no record yet and is nothing like those that have. A counterpart takes as long as its network.
"""

FORWARD = 1 / 3
"""Of a step, what a forward pass takes."""

STOPS = 150
"""Epochs that a run with early stopping is expected to take, of those that it may."""

GUESS = 4.0
"""Seconds for 10,000 images on one core, where there is no record to tell: a 3x800 MLP on 784 pixels."""


def networks_in(model: str) -> int:
    """How many networks see every image: the experts of a mixture, or 1.

    Example:
        >>> networks_in("ioc-mixture-5"), networks_in("mlp")
        (5, 1)
    """
    return experts_of(model)[1] if is_mixture(model) else 1


def step_seconds(job: Job) -> float | None:
    """Seconds of one core that a step of a job's network takes for one image; None where it was not measured."""
    own = [seconds for (name, dataset), seconds in STEPS.items() if dataset == job.dataset and name in job.model]
    return own[0] if own else None


class Pace:
    """How long a job takes on one core, from the records that are nearest to it."""

    def __init__(self, rows: Sequence[Row]) -> None:
        seen = [row for row in rows if row.get("train_samples") and row.get("epochs")]
        self.rows = [{**row, "train_samples": row["train_samples"] * networks_in(row["model"])} for row in seen]

    def hours(self, job: Job) -> tuple[float, str]:
        """The hours, and what they are estimated from.

        Example:
            >>> Pace([]).hours(parity.plan("full", range(1))[0])
            (0.36, 'a guess')
        """
        if (stated := getattr(job.recipe, "hours", None)) is not None:  # of a learner that counts no images
            return round(stated, 2), "a guess"
        images = (job.train_samples or IMAGES.get(job.dataset, 50_000)) * networks_in(job.model)
        own = [row for row in self.rows if (row["model"], row["dataset"]) == (job.model, job.dataset)]
        if same := [row for row in own if same_recipe(row, job.recipe)]:
            taken = median(core_seconds(row) * images / row["train_samples"] for row in same)
            return round(taken / 3600, 2), f"other seeds: {len(same)}"
        epochs = min(job.recipe.epochs, STOPS) if job.recipe.patience else job.recipe.epochs
        seen = epochs * images
        nearness: list[tuple[str, Callable[[Row], bool]]] = [
            ("network, recipe and data", lambda row: row["recipe"]["name"] == job.recipe.name),
            ("network and data", lambda row: True),
        ]
        for words, like in nearness:
            if found := [row for row in own if like(row)]:
                return self.scaled(found, seen), f"records of the same {words}: {len(found)}"
        if (seconds := step_seconds(job)) is not None:
            measured = 1.2 / job.measure_every + 0.2  # passes over the training, test and validation part, an epoch
            return round(seconds * seen * (1 + FORWARD * measured) / 3600, 2), "a measured step"
        if found := [row for row in self.rows if row["dataset"] == job.dataset]:
            return self.scaled(found, seen), f"records of other networks: {len(found)}"
        return round(GUESS * seen / 1e4 / 3600, 2), "a guess"

    @staticmethod
    def scaled(rows: Sequence[Row], seen: int) -> float:
        """The hours in which so many images pass, epoch by epoch, as fast as in these records."""
        pace = median(core_seconds(row) / (row["epochs"] * row["train_samples"]) for row in rows)
        return round(pace * seen / 3600, 2)
