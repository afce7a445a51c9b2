"""BibTeX: 159 labels of a bookmark from its words (Amos, Xu & Kolter 2017, section 6.2).

    convexnet study run bibtex --data-dir DATA           # two cores: 2 seeds, 8 epochs
    convexnet study run bibtex --full --data-dir DATA    # 5 seeds and their averages

f(x, y) is a PICNN that is convex in the labels y; its path of x has layers of 600 and 159 with BatchNorm, as the
source's. It is learnt in three ways: through the argmin over the cube with entropy (bundle entropy; the loss is the
cross-entropy of the minimiser), unrolled (30 steps, rate 0.1, momentum 0.3), and by max-margin with the number of wrong
labels as its margin (over the cube with entropy too, so that the loss is smooth). Beside them the feed-forward network
of the same path. What is ours and not the source's: words are weighted by their rarity and rows scaled to one length
(tf-idf), words are dropped while training, weights decay, training stops early; and averages of five networks.

The threshold is tuned on validation for every row, by the example-averaged F1, which the source reports (it calls it
macro, and its code averages over examples). A second decision takes, example by example, the labels with the largest
expected F1; it has nothing to tune. Validation is a tenth of the training part, the same for every seed, so that
averages are tuned on what none of their members has learnt from. The test part is used once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from convexnet.energy import EnergyTraining, predict, unrolled
from convexnet.lab.data.labels import ManyLabels, bibtex, many_labels_of_chance
from convexnet.lab.models.convex import drawn_from
from convexnet.lab.reports.comparison import shown
from convexnet.lab.reports.page import Panel, Section, Table
from convexnet.lab.reports.pictures import Draw, picture, plain_axes
from convexnet.lab.reports.theme import Theme
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.learning import learn
from convexnet.lab.runs.many_labels import tuned_threshold
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.energies import EnergyRecipe, MeasuredEnergy, learn_energy
from convexnet.lab.studies.many_labels import Averages, Forward, about, features, probabilities, recipe_of, scored
from convexnet.lab.studies.study import Study

PICNN = EnergyRecipe(
    "argmin", epochs=15, batch=128, learning_rate=2e-3, schedule="cosine", weight_decay=1.0, patience=8,
    normalise="tf-idf", hidden=(600, 159), constraint="clip", tol=1e-4, solver="planes", drop_x=0.6,
)  # fmt: skip
RECIPES: Mapping[str, EnergyRecipe] = MappingProxyType(
    {
        "mlp": replace(
            PICNN, name="feed-forward", epochs=30, learning_rate=3e-3, weight_decay=0.1, dropout=0.5, drop_x=0.2
        ),
        "picnn-argmin": PICNN,
        "picnn-unrolled": replace(
            PICNN, name="unrolled", how="unrolled", descent_rate=0.1, descent_momentum=0.3, solver="auto"
        ),
        "picnn-max-margin": replace(PICNN, name="max-margin", how="max-margin"),
    }
)
TITLES: Mapping[str, str] = MappingProxyType(
    {
        "mlp": "feed-forward",
        "picnn-argmin": "PICNN, bundle entropy",
        "picnn-unrolled": "PICNN, unrolled",
        "picnn-max-margin": "PICNN, max-margin",
    }
)
PUBLISHED: Sequence[tuple[str, str]] = (
    ("feed-forward (Belanger & McCallum 2016)", "38.9"),
    ("feed-forward (Amos, Xu & Kolter 2017)", "39.6"),
    ("ICNN (Amos, Xu & Kolter 2017)", "41.5"),
    ("SPEN (Belanger & McCallum 2016)", "42.2"),
    ("deep value networks (Gygli et al. 2017)", "44.7"),
)
"""Example-averaged F1 in percent, as published."""

ENSEMBLE = "ensemble-"
MEMBERS: Mapping[str, int] = MappingProxyType({"smoke": 1, "two-core": 2, "full": 5})
"""Networks in an average, by the size of the study: those of the first seeds."""


# --- jobs ------------------------------------------------------------------------------------------------------------


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """Every way from every seed, and the averages of the first seeds where these are all there."""
    most = {"smoke": 1, "two-core": 8, "full": 1000}[size]
    dataset = "labels-of-chance" if size == "smoke" else "bibtex"
    jobs: list[Job] = []
    for model, how in RECIPES.items():
        how = replace(how, epochs=min(how.epochs, most), **({"hidden": (16, 8)} if size == "smoke" else {}))
        own = [Job("bibtex", model, dataset, how, seed, full=size == "full") for seed in seeds]
        jobs += own
        if len(own) >= MEMBERS[size]:
            members = own[: MEMBERS[size]]
            keys = tuple(job.key for job in members)
            jobs.append(replace(members[0], model=f"{ENSEMBLE}{model}", variant=f"average of {len(keys)}", needs=keys))
    return jobs


@lru_cache(maxsize=2)
def data_of(dataset: str, data_dir: Path | None) -> ManyLabels:
    """The data of a job; the validation part does not depend on its seed."""
    return many_labels_of_chance() if dataset == "labels-of-chance" else bibtex(data_dir)


def run(job: Job, place: Place, tick: Tick) -> Row:
    """Train one network, or average those that the job needs.

    Raises:
        DataError: the files of the data are not there.
        CheckpointError, Stopped: as `convexnet.lab.runs.learning.learn`.
    """
    data = data_of(job.dataset, place.data_dir)
    if job.model.startswith(ENSEMBLE):
        how = recipe_of(job)
        forward = job.model == f"{ENSEMBLE}mlp"
        made = Averages(job, place, data, probabilities if forward else lambda f, x: scores_of(f, x, how))
        return learn(lambda job: made, job, place, tick)
    if job.model == "mlp":
        return learn(lambda job: Forward(job, data), job, place, tick, keep=lambda learner: learner.net)
    return learn_energy(partial(energy, data), job, place, tick)


# --- energies --------------------------------------------------------------------------------------------------------


def energy(data: ManyLabels, job: Job) -> MeasuredEnergy:
    """The learner of a PICNN."""
    how = recipe_of(job)
    train, held, test = features(data, how)
    size = len(data.labels)
    with drawn_from(job.seed):
        f = cx.nn.PICNN(
            train.shape[1], size, hidden=how.hidden, activation=how.activation, constraint=how.constraint, x_norm=True
        )

    def short(predicted: Tensor, y: Tensor) -> float:
        return -tuned_threshold(predicted, y)[1]

    learner = EnergyTraining(
        f, train, data.train[1], domain_of(how, size), seed=job.seed, margin="labels",
        loss=cross_entropy if how.how == "argmin" else None, validation=(held, data.validation[1]), measure=short,
        **how.training,
    )  # fmt: skip

    def columns(f: nn.Module) -> Row:
        return scored(scores_of(f, held, how), scores_of(f, test, how), data)

    def at_end(f: nn.Module) -> Row:
        found = scored(scores_of(f, held, how), scores_of(f, test, how), data)
        return {f"{name}_at_end": found[name] for name in ("test_f1", "test_macro_f1")}

    return MeasuredEnergy(learner, columns, at_end=at_end, about=about(data))


def domain_of(how: EnergyRecipe, size: int) -> cx.Cube:
    """The cube; with entropy, but for descent."""
    return cx.Cube(size, entropy=how.how != "unrolled")


def cross_entropy(y: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of each sample in nats, summed over its labels, (B,)."""
    inside = y.clamp(1e-6, 1 - 1e-6)
    return F.binary_cross_entropy(inside, targets, reduction="none").sum(1)


def scores_of(f: nn.Module, x: Tensor, how: EnergyRecipe) -> Tensor:
    """A score for each label, (N, L): the minimiser, or where descent ends."""
    assert isinstance(f, cx.nn.PICNN)
    if how.how == "unrolled":
        with torch.no_grad():
            return torch.cat([unrolled(f, part, domain_of(how, f.y_features), **how.descent) for part in x.split(256)])
    return predict(f, x, domain_of(how, f.y_features), batch=256, solver=how.solver, tol=how.tol)


# --- the report ------------------------------------------------------------------------------------------------------


def sections(rows: Sequence[Row]) -> list[Section]:
    """F1 of every way and of the averages, next to what is published."""
    found = [section(dataset, rows) for dataset in ("bibtex", "labels-of-chance")]
    return [one for one in found if one is not None]


def section(dataset: str, rows: Sequence[Row]) -> Section | None:
    """The rows of one set of data."""
    rows = [row for row in rows if row["dataset"] == dataset]
    if not rows:
        return None
    cells: list[list[str]] = []
    for model in (*RECIPES, *(f"{ENSEMBLE}{name}" for name in RECIPES)):
        own = [row for row in rows if row["model"] == model]
        own = [row for row in own if row["full"]] or own
        title = TITLES[model.removeprefix(ENSEMBLE)]
        if not own:
            cells.append([title, *["–"] * 9, "not run"])
            continue
        title = f"{title}, average of {own[0]['members']}" if "members" in own[0] else title
        columns = ("test_f1", "test_macro_f1", "test_f1_chosen", "test_macro_f1_chosen", "test_f1_at_half")
        values = [shown([row[name] for row in own], scale=1.0) for name in (*columns, "validation_f1")]
        share = [row["share_in_minimise"] for row in own if "share_in_minimise" in row]
        length = f"{max(row['epochs'] for row in own)} epochs" + ("" if own[0]["full"] else ", shortened")
        proved = f"{sum(bool(row['certified']) for row in own)} of {len(own)}"
        cells.append([title, *values, shown(share) if share else "–", proved, str(len(own)), length])
    caption = (
        "F1 in percent: example-averaged and label-macro with the threshold tuned on validation; the same with the "
        "labels chosen example by example by their expected F1; example-averaged at the threshold 0.5; on validation. "
        "The share of a step’s time that is spent on minimising, in percent"
    )
    columns = (
        *("network", "F1", "macro F1", "F1, chosen", "macro F1, chosen", "F1 at 0.5", "validation F1"),
        *("time in minimise", "certified", "seeds", "run"),
    )
    tables = [Table(caption, columns, cells)]
    if dataset == "bibtex":
        tables.append(Table("Published", ("network", "F1"), [list(line) for line in PUBLISHED]))
    curves = {
        TITLES[model]: [(point["epoch"], -100 * point["validation"]) for point in row["curve"]]
        for model in RECIPES
        if (row := next((row for row in rows if row["model"] == model and row["seed"] == 0), None))
    }
    said = "; ".join(f"{title}: {max(value for _, value in line):.1f} %" for title, line in curves.items() if line)
    alt = f"Validation F1 by epochs. Best: {said}."
    panels = [Panel(picture("Validation F1 by epochs", alt, drawn(curves), (4.6, 3.2)), "The first seed of each way.")]
    return Section(
        "BibTeX: many labels at once" if dataset == "bibtex" else "Labels of chance: a test of the study",
        "Words of a bookmark, and which of 159 tags it has. The energies are convex in the tags, and proved to be.",
        tables=tables,
        panels=panels if curves else [],
    )


def drawn(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Draw:
    """F1 over epochs, a line for each way."""

    def draw(figure: Any, theme: Theme) -> None:
        axes = plain_axes(figure, "epoch", "validation F1, %")
        styles = zip(("nn", "ioc", "first", "second"), ("dotted", "solid", "dashed", "dashdot"), strict=True)
        for (title, line), (colour, style) in zip(curves.items(), styles, strict=False):
            axes.plot(
                [x for x, _ in line], [y for _, y in line], color=getattr(theme, colour), linestyle=style, label=title
            )
        axes.legend(frameon=False)

    return draw


STUDY = Study(
    name="bibtex",
    title="BibTeX: many labels at once",
    source="Amos, Xu & Kolter 2017, section 6.2",
    systems=("C2", "C8"),
    seeds={"smoke": 1, "two-core": 2, "full": 5},
    plan=plan,
    sections=sections,
    run=run,
)
