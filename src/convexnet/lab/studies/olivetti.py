"""Face completion on Olivetti: one half from the other by least energy (Amos, Xu & Kolter 2017, section 6.3).

    convexnet study run olivetti --data-dir DATA           # two cores: 32 x 32 pixels, a few epochs
    convexnet study run olivetti --full --data-dir DATA    # 64 x 64 pixels, hours on one core for each energy

Two protocols: the ICNN paper's (the first 350 pictures to train on, the last 50 to test on), and that of scikit-learn's
example (people 1 to 30 to train on, 31 to 40 to test on). In both the people of the test part are new. The left half is
missing, as in the paper, or the bottom half. Errors are mean squares over pixels of grey values from 0 to 255.

Rows: the paper's convolutional PICNN by bundle entropy (five planes a step) and by unrolled gradient descent; its twin
with weights of any sign; an ordinary network with the same convolutions; ridge regression, alone and as the answer that
an energy of ours begins at; and, for comparison, k-NN and extremely randomised trees. Everything is chosen on the last
five people to train on (penalties, epochs); then all people to train on are learnt from, with what was chosen.

Long because the table's nine rows, their recipes and what is recorded of them are looked at together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.choices import SolverName
from convexnet.energy import EnergyTraining
from convexnet.energy.unrolled import descend
from convexnet.lab.data.faces import EACH, digest, olivetti
from convexnet.lab.models.convex import drawn_from
from convexnet.lab.models.faces import AroundAnswer, Squared, encoder_decoder, free_twin
from convexnet.lab.reports.comparison import NOT_RUN, shown
from convexnet.lab.reports.face_pictures import completed, packed_faces
from convexnet.lab.reports.page import Panel, Section, Table
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.learning import learn
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.completion import Fitted, Halves, Refitted, ridge_map
from convexnet.lab.studies.energies import EnergyRecipe, learn_energy
from convexnet.lab.studies.study import Study

PUBLISHED = ((32, 8, (4, 2)), (64, 4, 2), (64, 3))
"""The convolutions of the paper's PICNN, (channels, kernel, stride)."""


@dataclass(frozen=True)
class FaceRecipe(EnergyRecipe):
    """How the energy of a face is made and trained.

    Attributes:
        side: pixels on a side of the whole picture.
        convolutions: of the network.
        dense: width of its dense layer.
        solver, planes: of `minimise`, and its steps.
        mirrored: whether half of the pictures of a batch are mirrored.
        penalty: of the ridge regression that an energy begins at.
    """

    side: int = 64
    convolutions: tuple[tuple[Any, ...], ...] = PUBLISHED
    dense: int = 512
    solver: SolverName = "auto"
    planes: int | None = None
    mirrored: bool = True
    penalty: float = 0.0

    @property
    def options(self) -> dict[str, Any]:
        """What the way of learning passes on to the solver, or to the descent."""
        found: dict[str, Any] = dict(super().options)
        return found if self.how == "unrolled" else {**found, "solver": self.solver, "max_steps": self.planes}


BUNDLE = FaceRecipe(
    "bundle entropy", epochs=150, batch=70, learning_rate=1e-3, schedule="cosine", patience=30,
    solver="bundle-entropy", planes=5, weight_decay=1e-2,
)  # fmt: skip
GRADIENT = replace(
    BUNDLE, name="gradient", how="unrolled", solver="auto", planes=None, descent_steps=10, descent_rate=0.1,
    descent_momentum=0.3,
)  # fmt: skip
DIRECT = replace(
    GRADIENT, name="regression", epochs=400, patience=60, descent_steps=1, descent_rate=1.0, descent_momentum=0.0
)
OURS = replace(
    GRADIENT, name="around ridge", epochs=60, patience=15, learning_rate=3e-3, descent_steps=8, descent_rate=0.7,
    descent_momentum=0.0, convolutions=((16, 8, (4, 2)), (32, 4, 2), (32, 3)), dense=128,
)  # fmt: skip
SKLEARN = FaceRecipe("scikit-learn", epochs=1)


@dataclass(frozen=True)
class Model:
    """A row of the table: what it is called, its recipe, whether it is kept convex in y, and the paper's error."""

    title: str
    recipe: FaceRecipe
    convex: bool
    published: float | None = None


MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "picnn-bundle": Model("convolutional PICNN, bundle entropy", BUNDLE, True, 833.0),
        "picnn-gradient": Model("convolutional PICNN, gradient descent", GRADIENT, True, 872.0),
        "twin-gradient": Model("the same with weights of any sign", GRADIENT, False),
        "cnn": Model("convolutional network, no energy", DIRECT, False, 795.4),
        "around-ridge": Model("PICNN around ridge regression (ours)", OURS, True),
        "ridge": Model("ridge regression", SKLEARN, False),
        "ridge-near": Model("ridge regression, near pixels weigh more, mirrored (ours)", SKLEARN, False),
        "k-nn": Model("k nearest neighbours", SKLEARN, False),
        "extra-trees": Model("extremely randomised trees", SKLEARN, False),
    }
)
ENERGIES = ("picnn-bundle", "picnn-gradient", "twin-gradient", "cnn", "around-ridge")
BY_SKLEARN = ("ridge", "ridge-near", "k-nn", "extra-trees")

SETS: Mapping[str, tuple[str, int, str]] = MappingProxyType(
    {
        "olivetti-left": ("left half, first 350 / last 50", 350, "left"),
        "olivetti-bottom": ("bottom half, first 350 / last 50", 350, "bottom"),
        "olivetti-people-left": ("left half, people 1–30 / 31–40", 300, "left"),
        "olivetti-people-bottom": ("bottom half, people 1–30 / 31–40", 300, "bottom"),
        "digits-bottom": ("bottom half of scikit-learn's digits", 200, "bottom"),
    }
)
"""By the name in records: what it is, how many pictures there are to train on, and the half that is missing."""

SMOKE = "digits-bottom"
"""The set of the smoke test, which shows no faces."""

HELD = 5 * EACH
"""Pictures of the last people to train on that everything is chosen on."""

SHOWN = 6
"""Test pictures in a record of the first seed."""


def halves(job: Job, place: Place) -> Halves:
    """The pictures of a job in their two halves, from 0 to 1."""
    _, count, side = SETS[job.dataset]
    how = job.recipe
    assert isinstance(how, FaceRecipe)
    if job.dataset.startswith("digits"):
        from convexnet.lab.data.small import pixels

        grey, _ = pixels()
        pictures = torch.from_numpy(grey).float().reshape(-1, 1, 8, 8)[:300] / 16
    else:
        pictures = olivetti(place.data_dir, place.download).float() / 255
        if how.side < pictures.shape[-1]:
            pictures = nn.functional.avg_pool2d(pictures, pictures.shape[-1] // how.side)
    return Halves(pictures, count, HELD, side, mirrored=how.mirrored)


def energy_of(job: Job, data: Halves, rows: slice) -> nn.Module:
    """The energy of a job at its beginning; `rows` are those of the training part that it may see."""
    how = job.recipe
    assert isinstance(how, FaceRecipe)
    shape = data.shape
    convolutions = how.convolutions
    with drawn_from(job.seed):
        if job.model == "cnn":
            return Squared(encoder_decoder(shape, convolutions, how.dense))
        if job.model == "twin-gradient":
            return free_twin(shape, convolutions, (how.dense,))
        if job.model == "around-ridge":
            f = AroundAnswer(shape, convolutions, (how.dense,), flip=-1 if data.side == "left" else None)
            f.answer.weight, f.answer.bias = ridge_map(data, rows, how.penalty or None)
            return f
        return cx.nn.ConvPICNN(shape, shape, convolutions, hidden=(how.dense,), x_norm=True)


def learner_of(job: Job, place: Place) -> Refitted:
    """The learner of an energy: chosen on the held people first, then trained on all."""
    data = halves(job, place)
    how = job.recipe
    assert isinstance(how, FaceRecipe)
    domain = cx.Cube(data.shape, entropy=True) if how.how == "argmin" else cx.Box(0, 1, shape=data.shape)

    def training(rows: slice, validation: slice | None, epochs: int) -> EnergyTraining:
        x, y = data.part(rows)
        settings: dict[str, Any] = {**how.training, "epochs": epochs, "augment": data.mirror if how.mirrored else None}
        if validation is None:
            settings["patience"] = None
        held = None if validation is None else data.part(validation)
        convex = MODELS[job.model].convex
        return EnergyTraining(
            energy_of(job, data, rows), x, y, domain, seed=job.seed, convex=convex, validation=held, **settings
        )

    def predicted(f: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            if how.how == "unrolled":
                assert isinstance(domain, cx.Box)
                return torch.cat([descend(f, [part], domain, None, **how.options) for part in x.split(how.batch)])
            options = {**how.options, "max_steps": None}
            return cx.energy.predict(f, x, domain, batch=how.batch, **options)

    return Refitted(training, data, predicted, columns_of(job, data), epochs=how.epochs)


def columns_of(job: Job, data: Halves) -> Callable[[Callable[[Tensor], Tensor]], Row]:
    """What a record says of a way to complete pictures."""

    def columns(complete: Callable[[Tensor], Tensor]) -> Row:
        x, y = data.test
        found = complete(x).clamp(0, 1)
        errors = (found - y).flatten(1).square().mean(1) * 255**2
        row: Row = {
            "test_mse": float(errors.mean()),
            "test_mse_by_person": [round(float(part.mean()), 2) for part in errors.split(EACH)],
            "test_samples": len(y),
            "missing": data.side,
            "data": digest((data.pictures * 255).round().byte()),
        }
        if job.seed == 0:
            some = torch.arange(len(y))[:: max(1, len(y) // SHOWN)][:SHOWN]
            row["completions"] = packed_faces(data.whole(x[some], found[some]))
            row["faces"] = packed_faces(data.whole(x[some], y[some]))
            row["picture"] = [len(some), *data.whole(x[:1], y[:1]).shape[-2:]]
        return row

    return columns


def run(job: Job, place: Place, tick: Tick) -> Row:
    """Train or fit one model, and measure it on the test part."""
    if job.model in BY_SKLEARN:
        return learn(lambda job: Fitted(job.model, halves(job, place), columns_of, job), job, place, tick)
    return learn_energy(lambda job: learner_of(job, place), job, place, tick)


def small(recipe: FaceRecipe, epochs: int) -> FaceRecipe:
    """The recipe for 32 × 32 pixels and a quarter of the channels, which two cores train in minutes."""
    thin = tuple((channels // 4, *rest) for channels, *rest in recipe.convolutions)
    return replace(recipe, name=f"{recipe.name}, small", epochs=epochs, side=32, convolutions=thin, dense=64)


TINY = ((4, 3, 2), (4, 3))


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """Every model on every half and protocol."""
    jobs: list[Job] = []
    for seed in seeds:
        for dataset in (SMOKE,) if size == "smoke" else tuple(SETS)[:-1]:
            for name, model in MODELS.items():
                how = model.recipe
                if size == "smoke" and name in ENERGIES:
                    how = replace(how, epochs=1, convolutions=TINY, dense=8, side=8)
                elif size == "two-core" and name in ENERGIES:
                    how = small(how, 10)
                elif size == "two-core":
                    how = replace(how, side=32)
                if name in BY_SKLEARN and seed and name != "extra-trees":
                    continue  # nothing in it is drawn
                jobs.append(Job("olivetti", name, dataset, how, seed, full=size == "full"))
    return jobs


def sections(rows: Sequence[Row]) -> list[Section]:
    """A table for each size of picture, and what was completed."""
    found: list[Section] = []
    for full in (True, False):
        own = [row for row in rows if row["full"] is full and row["dataset"] != SMOKE]
        if not own and not (full and not rows):
            continue
        found.append(section(own, full))
    tried = [row for row in rows if row["dataset"] == SMOKE]
    if tried:
        table = Table(
            f"Mean squared error of the missing pixels, of grey values 0 to 255; {SETS[SMOKE][0]}",
            *cells_of(tried, (SMOKE,)),
        )
        text = "That everything runs, in seconds: no faces, and no result."
        found.append(Section("Face completion on Olivetti, smoke test", text, tables=[table]))
    return found


def section(rows: Sequence[Row], full: bool) -> Section:
    """The runs of one length."""
    caption = (
        "Mean squared error of the missing pixels, of grey values 0 to 255, on people that no model has seen; the "
        "paper’s figures are for the left half in the first protocol"
        + ("" if full else ". Shortened: 32 × 32 pixels, few epochs, a quarter of the channels")
    )
    return Section(
        "Face completion on Olivetti" + ("" if full else ", shortened"),
        "One half of a face from the other. Everything is chosen on the last five people of the training part, and "
        "then learnt from all of it. Other published figures for the left half: a sum-product network 942, a "
        "hinge-loss Markov field 927; for the bottom half 918 and 1226.",
        tables=[Table(caption, *cells_of(rows, tuple(SETS)[:-1]))],
        panels=panels(rows, full),
    )


def cells_of(rows: Sequence[Row], names: Sequence[str]) -> tuple[Sequence[str], list[list[str]]]:
    """Columns and cells of a table: the models, and their errors on sets of these names."""
    cells: list[list[str]] = []
    for name, model in MODELS.items():
        own = [row for row in rows if row["model"] == name]
        errors = [
            shown([row["test_mse"] for row in own if row["dataset"] == dataset], scale=1.0, digits=0)
            for dataset in names
        ]
        paper = "–" if model.published is None or SMOKE in names else f"{model.published:.0f}"
        proved = f"{sum(bool(row.get('certified')) for row in own)} of {len(own)}" if model.convex and own else "–"
        seeds = len({row["seed"] for row in own})
        cells.append([model.title, paper, *errors, proved, str(seeds) if own else NOT_RUN])
    columns = ("model", "paper", *(SETS[name][0] for name in names), "certified", "seeds")
    return columns, cells


def panels(rows: Sequence[Row], full: bool) -> list[Panel]:
    """The completions of the first seed: a row of faces for each model, the true ones on top."""
    found: list[Panel] = []
    for dataset, (title, _, side) in list(SETS.items())[:-1]:
        own = [row for row in rows if row["dataset"] == dataset and "completions" in row]
        own = [row for name in MODELS for row in own if row["model"] == name]
        if own:
            lines = [(MODELS[row["model"]].title, row) for row in own]
            found.append(completed(f"{title}{'' if full else ', shortened'}", side, lines))
    return found


STUDY = Study(
    name="olivetti",
    title="Face completion on Olivetti by least energy",
    source="Amos, Xu & Kolter 2017, section 6.3",
    systems=("C8",),
    seeds={"smoke": 1, "two-core": 1, "full": 3},
    plan=plan,
    sections=sections,
    run=run,
)
