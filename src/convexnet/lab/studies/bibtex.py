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
from convexnet.ensembles.training import batches, derived_seed, drawing
from convexnet.lab.data.labels import ManyLabels, bibtex, many_labels_of_chance
from convexnet.lab.models.convex import drawn_from
from convexnet.lab.reports.comparison import shown
from convexnet.lab.reports.page import Panel, Section, Table
from convexnet.lab.reports.pictures import Draw, picture, plain_axes
from convexnet.lab.reports.theme import Theme
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.learning import NETWORK, learn, needed
from convexnet.lab.runs.many_labels import expected_f1_choice, f1_scores, tuned_threshold
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.runs.run import save
from convexnet.lab.studies.energies import EnergyRecipe, MeasuredEnergy, learn_energy
from convexnet.lab.studies.study import Study
from convexnet.learner import Attributes, Point

PICNN = EnergyRecipe(
    "argmin", epochs=15, batch=128, learning_rate=3e-3, schedule="cosine", weight_decay=0.1, patience=8,
    normalise="tf-idf", hidden=(600, 159), constraint="clip", tol=1e-4, solver="planes", drop_x=0.6,
)  # fmt: skip
RECIPES: Mapping[str, EnergyRecipe] = MappingProxyType(
    {
        "mlp": replace(PICNN, name="feed-forward", epochs=30, dropout=0.5, drop_x=0.2),
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


def features(data: ManyLabels, how: EnergyRecipe) -> list[Tensor]:
    """The inputs of the three parts: as they are, or weighted by log(N / documents with the word), rows of length √d/6.

    Rows of that length have about the size that the words of an average bookmark have.
    """
    parts = [data.train[0], data.validation[0], data.test[0]]
    if how.normalise == "none":
        return parts
    rarity = torch.log(len(parts[0]) / parts[0].gt(0).sum(0).clamp(min=1))
    return [F.normalize(part * rarity, dim=1) * part.shape[1] ** 0.5 / 6 for part in parts]


def run(job: Job, place: Place, tick: Tick) -> Row:
    """Train one network, or average those that the job needs.

    Raises:
        DataError: the files of the data are not there.
        CheckpointError, Stopped: as `convexnet.lab.runs.learning.learn`.
    """
    data = data_of(job.dataset, place.data_dir)
    if job.model.startswith(ENSEMBLE):
        made = Averages(job, place, data)
        return learn(lambda job: made, job, place, tick)
    if job.model == "mlp":
        forward = Forward(job, data)
        row = learn(lambda job: forward, job, place, tick)
        if place.network:
            save(forward.net, place.folder / NETWORK)
        return row
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


def recipe_of(job: Job) -> EnergyRecipe:
    """The recipe of a job of this study."""
    assert isinstance(job.recipe, EnergyRecipe)
    return job.recipe


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


def scored(held: Tensor, test: Tensor, data: ManyLabels) -> Row:
    """What is measured of scores: the threshold that is best on validation, and F1 in percent on test."""
    threshold, validation = tuned_threshold(held, data.validation[1])
    example, macro = f1_scores(test > threshold, data.test[1])
    chosen, by_label = f1_scores(expected_f1_choice(test), data.test[1])
    plain = f1_scores(test > 0.5, data.test[1])[0]
    return {
        "threshold": threshold,
        "validation_f1": 100 * validation,
        "validation_f1_chosen": 100 * f1_scores(expected_f1_choice(held), data.validation[1])[0],
        "test_f1": 100 * example,
        "test_macro_f1": 100 * macro,
        "test_f1_at_half": 100 * plain,
        "test_f1_chosen": 100 * chosen,
        "test_macro_f1_chosen": 100 * by_label,
    }


def about(data: ManyLabels) -> Row:
    """What a record says of the data."""
    return {"task": "labels", "data": data.fingerprint, "test_samples": len(data.test[0])}


# --- the feed-forward network, and averages --------------------------------------------------------------------------


class Forward(Attributes):
    """The feed-forward network with the widths of the path of x, by cross-entropy, with early stopping. A learner."""

    kept = ("net", "optimiser", "epoch", "position", "total", "best", "best_epoch", "best_weights", "end_weights")

    def __init__(self, job: Job, data: ManyLabels) -> None:
        self.how, self.seed, self.data = recipe_of(job), job.seed, data
        self.train, self.held, self.test = features(data, self.how)
        width = self.how.hidden[0]
        with drawn_from(job.seed):
            self.net = nn.Sequential(
                nn.Linear(self.train.shape[1], width), nn.ReLU(), nn.BatchNorm1d(width), nn.Dropout(self.how.dropout),
                nn.Linear(width, len(data.labels)),
            )  # fmt: skip
        self.optimiser = self.how.optimiser_of(self.net.parameters())
        self.epoch = self.position = self.best_epoch = 0
        self.total, self.best = 0.0, -1.0
        self.best_weights: dict[str, Tensor] | None = None
        self.end_weights: dict[str, Tensor] | None = None

    @property
    def done(self) -> bool:
        """Return whether the epochs are over, or too many in a row were no better."""
        stale = self.how.patience is not None and self.epoch - self.best_epoch >= self.how.patience
        return self.epoch >= self.how.epochs or stale

    def advance(self) -> Point:
        """Work through an epoch."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.how.rate(self.epoch + 1)
        total = 0.0
        self.net.train()
        for number, rows in enumerate(batches(len(self.train), self.how.batch, derived_seed(self.seed, self.epoch))):
            with drawing(derived_seed(self.seed, self.epoch, number), torch.device("cpu")):
                x = F.dropout(self.train[rows], self.how.drop_x)
                loss = F.binary_cross_entropy_with_logits(self.net(x), self.data.train[1][rows], reduction="none")
                whole = loss.sum(1).mean()
                self.optimiser.zero_grad()
                whole.backward()
                self.optimiser.step()
            total += float(whole.detach()) * len(rows)
        self.net.eval()
        self.epoch += 1
        found = tuned_threshold(self.scores(self.held), self.data.validation[1])[1]
        if found > self.best:
            self.best, self.best_epoch, self.best_weights = found, self.epoch, self.weights()
        if self.done and self.best_weights is not None:
            self.end_weights = self.weights()
            self.net.load_state_dict(self.best_weights)
        return {"epoch": float(self.epoch), "loss": total / len(self.train), "validation": -found}

    def weights(self) -> dict[str, Tensor]:
        """Copies of all tensors of the network."""
        return {name: value.clone() for name, value in self.net.state_dict().items()}

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """A probability for each label, (N, L)."""
        return self.net.eval()(x).sigmoid()

    def columns(self) -> Row:
        """What the record has."""
        row: Row = {
            **about(self.data),
            "epochs": self.epoch,
            "train_samples": len(self.train),
            "validation_samples": len(self.held),
            "parameters": sum(parameter.numel() for parameter in self.net.parameters()),
            "certified": False,
            "peak_epoch": self.best_epoch,
            **scored(self.scores(self.held), self.scores(self.test), self.data),
        }
        best = self.weights()
        self.net.load_state_dict(self.end_weights or best)
        found = scored(self.scores(self.held), self.scores(self.test), self.data)
        self.net.load_state_dict(best)
        return {**row, **{f"{name}_at_end": found[name] for name in ("test_f1", "test_macro_f1")}}


class Averages(Attributes):
    """The mean of the scores of networks that other jobs have trained. A learner that advances once for each."""

    kept = ("number", "held", "test")

    def __init__(self, job: Job, place: Place, data: ManyLabels) -> None:
        self.job, self.place, self.data, self.how = job, place, data, recipe_of(job)
        _, self.x_held, self.x_test = features(data, self.how)
        self.number = 0
        self.held, self.test = torch.zeros_like(data.validation[1]), torch.zeros_like(data.test[1])

    @property
    def done(self) -> bool:
        """Return whether all networks have been asked."""
        return self.number == len(self.job.needs)

    def advance(self) -> Point:
        """Add the scores of one network."""
        net: Any = needed(self.place, self.job.needs[self.number])
        with torch.no_grad():
            if self.job.model.endswith("mlp"):
                parts = [net(x).sigmoid() for x in (self.x_held, self.x_test)]
            else:
                parts = [scores_of(net, x, self.how) for x in (self.x_held, self.x_test)]
        self.held, self.test = self.held + parts[0], self.test + parts[1]
        self.number += 1
        return {"step": float(self.number)}

    def columns(self) -> Row:
        """What the record has."""
        count = len(self.job.needs)
        return {
            **about(self.data),
            "epochs": self.how.epochs,
            "members": count,
            "certified": False,
            **scored(self.held / count, self.test / count, self.data),
        }


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
