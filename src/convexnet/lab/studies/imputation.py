"""Fill in any part of a picture by least energy (Amos & Kolter 2016, "work in progress"; Amos, Xu & Kolter 2017).

    convexnet study run imputation --data-dir DATA           # two cores: fewer pictures and epochs, faces of 32 x 32
    convexnet study run imputation --full --data-dir DATA    # hours on one core for each energy

An energy of whole pictures is trained through `impute` under random masks of 10 to 90 % of the pixels. The same network
then fills in any part: 10, 30, 50, 70 or 90 % of the pixels, and halves, which it has never been trained on. Two
energies: a FICNN with a quadratic term, from scratch; and one that begins at the normal distribution of the training
part, whose own error is recorded too. Beside them the mean, k-NN and iterative imputers of scikit-learn, which see the
same training pictures. Errors are mean squares over missing pixels, of grey values from 0 to 1.

Long because energies and imputers fill in the same masks of the same pictures, and are recorded alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.choices import SolverName
from convexnet.energy import EnergyTraining
from convexnet.lab.data import load
from convexnet.lab.data.faces import EACH, olivetti
from convexnet.lab.data.noise import generator_for
from convexnet.lab.models.completing import AroundGaussian, Flat, Gaussian, principal
from convexnet.lab.models.convex import drawn_from
from convexnet.lab.reports.comparison import NOT_RUN, shown
from convexnet.lab.reports.expert_pictures import unpacked
from convexnet.lab.reports.face_pictures import grid_of, packed_faces
from convexnet.lab.reports.page import Panel, Section, Table
from convexnet.lab.reports.pictures import picture
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.learning import learn
from convexnet.lab.runs.normalising import in_memory
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.energies import EnergyRecipe, MeasuredEnergy, learn_energy
from convexnet.lab.studies.study import Study
from convexnet.learner import Attributes, Point

SHARES = (10, 30, 50, 70, 90)
"""Percent of the pixels that are missing."""

MASKS = (*map(str, SHARES), "left", "bottom")
"""Names of what is missing."""

Fill = Callable[[Tensor, Tensor], Tensor]
"""(pictures (B, C, H, W), True where a pixel is given) -> the pictures, filled in."""


@dataclass(frozen=True)
class ImputationRecipe(EnergyRecipe):
    """How an energy of whole pictures is made and trained.

    Attributes:
        rank: of its quadratic term, or how many directions of the data it begins at.
        noises: variances of what these do not explain, of which the best on the validation part is taken.
        solver: of `minimise`.
        side: pixels on a side; pictures are averaged down to it. 0: as they are.
        tested: test pictures, the first ones.
    """

    rank: int = 64
    noises: tuple[float, ...] = (0.003, 0.01, 0.03)
    solver: SolverName = "fista"
    side: int = 0
    tested: int = 500

    @property
    def options(self) -> dict[str, Any]:
        """What is passed on to the solver."""
        return {**super().options, "solver": self.solver}


ENERGY = ImputationRecipe(
    "imputation", epochs=60, batch=100, learning_rate=3e-3, schedule="cosine", patience=12, hidden=(200,), tol=1e-3
)
DIGITS = replace(ENERGY, name="imputation, digits", epochs=150, patience=30, hidden=(128,), solver="auto")
MNIST = replace(ENERGY, name="imputation, mnist", epochs=30, patience=8, rank=200)
FACES = replace(
    ENERGY, name="imputation, faces", epochs=100, patience=20, batch=50, learning_rate=1e-3, rank=100,
    noises=(0.001, 0.003, 0.01),
)  # fmt: skip
RECIPES: Mapping[str, ImputationRecipe] = MappingProxyType({"digits": DIGITS, "mnist": MNIST, "olivetti": FACES})

ENERGIES: Mapping[str, str] = MappingProxyType(
    {"ficnn": "FICNN from scratch", "around-gaussian": "FICNN around a normal distribution (ours)"}
)
BY_SKLEARN: Mapping[str, str] = MappingProxyType(
    {"mean": "mean", "k-nn": "k nearest neighbours", "iterative": "iterative (ridge regressions in turn)"}
)
TITLES: Mapping[str, str] = MappingProxyType({"digits": "digits", "mnist": "MNIST", "olivetti": "Olivetti"})


@dataclass(frozen=True)
class Pictures:
    """The parts of a data set, pictures (N, 1, H, W) from 0 to 1."""

    train: Tensor
    validation: Tensor
    test: Tensor


def pictures_of(job: Job, place: Place) -> Pictures:
    """The pictures of a job."""
    how = job.recipe
    assert isinstance(how, ImputationRecipe)
    if job.dataset == "olivetti":
        faces = olivetti(place.data_dir, place.download).float() / 255
        if how.side:
            faces = nn.functional.avg_pool2d(faces, faces.shape[-1] // how.side)
        first, last = 350 - 5 * EACH, 350
        train = faces[:first]
        return Pictures(torch.cat([train, train.flip(3)]), faces[first:last], faces[last:])
    raw = load(
        job.dataset, place.data_dir, seed=job.seed, validation=job.validation, train_samples=job.train_samples,
        download=place.download,
    )  # fmt: skip
    parts = [in_memory(part).images.float() / 255 for part in (raw.train, raw.validation, raw.test)]
    return Pictures(parts[0], parts[1][: how.tested], parts[2][: how.tested])


def mask_of(name: str, shape: Sequence[int], count: int) -> Tensor:
    """Which pixels are given (count, *shape), the same for every model and seed.

    Example:
        >>> mask_of("left", (1, 2, 4), 1)[0, 0].tolist()
        [[False, False, True, True], [False, False, True, True]]
    """
    _, high, wide = shape
    if name == "left":
        return (torch.arange(wide) >= wide // 2).expand(count, *shape)
    if name == "bottom":
        return (torch.arange(high) < high // 2)[:, None].expand(count, *shape)
    return torch.rand(count, *shape, generator=generator_for(0, f"missing {name}")) >= int(name) / 100


def errors_of(fill: Fill, test: Tensor, first: bool) -> Row:
    """What a record says of a way to fill in: its errors by mask; and pictures, of the first seed."""
    row: Row = {"test_samples": len(test), "test_mse": {}}
    some = test[:: max(1, len(test) // 8)][:8]
    drawn: list[Tensor] = []
    for name in MASKS:
        given = mask_of(name, test.shape[1:], len(test))
        found = fill(test, given)
        missing = ~given
        row["test_mse"][name] = float((found - test)[missing].square().mean())
        if first and name in ("50", "90", "left"):
            drawn.append(found[:: max(1, len(test) // 8)][:8])
    if first:
        row["filled"] = packed_faces(torch.cat(drawn))
        row["true"] = packed_faces(some)
        row["picture"] = [len(some), *test.shape[-2:]]
    return row


# --- energies --------------------------------------------------------------------------------------------------------


def learner_of(job: Job, place: Place) -> MeasuredEnergy:
    """The learner of an energy."""
    data, how = pictures_of(job, place), job.recipe
    assert isinstance(how, ImputationRecipe)
    shape = data.train.shape[1:]
    domain = cx.Box(0, 1, shape=tuple(shape))
    mean, directions, variances = principal(data.train, how.rank)
    spread = float(data.train.std())

    def training(noise: float) -> EnergyTraining:
        with drawn_from(job.seed):
            f: nn.Module = (
                Flat(shape, mean, how.hidden, how.rank, spread)
                if job.model == "ficnn"
                else AroundGaussian(shape, mean, Gaussian(directions, variances, noise), how.hidden, spread)
            )
        return EnergyTraining(
            f, None, data.train, domain, missing=(0.1, 0.9), validation=(None, data.validation), seed=job.seed,
            **how.training,
        )  # fmt: skip

    tried = {noise: training(noise) for noise in (how.noises if job.model != "ficnn" else how.noises[:1])}
    starts = {noise: made.validate(few(made)) for noise, made in tried.items()}
    best = min(starts, key=lambda noise: starts[noise])
    chosen = tried[best]
    assert chosen.validation is not None

    def fill(f: nn.Module) -> Fill:
        return lambda x, given: imputed(f, x, given, domain, how)

    return MeasuredEnergy(
        chosen,
        lambda f: errors_of(fill(f), data.test, job.seed == 0),
        about={
            "task": "imputation",
            "noise_variance": best if job.model != "ficnn" else None,
            "start_mse": {str(noise): value for noise, value in starts.items()},
        },
    )


def few(training: EnergyTraining) -> Any:
    """Some of the validation samples, on which the beginning is chosen."""
    found = training.validation
    assert found is not None
    return replace(found, y=found.y[:100])


def imputed(f: nn.Module, x: Tensor, given: Tensor, domain: cx.Box, how: ImputationRecipe) -> Tensor:
    """Pictures of which the missing pixels are filled in, in parts."""
    parts = torch.arange(len(x)).split(how.batch)
    with torch.no_grad():
        return torch.cat([cx.impute(f, x[rows], given[rows], domain, **how.options).x.to(x) for rows in parts])


# --- scikit-learn ----------------------------------------------------------------------------------------------------


class Imputer(Attributes):
    """An imputer of scikit-learn, fitted in one go. A learner."""

    kept = ("finished", "row")

    def __init__(self, job: Job, data: Pictures) -> None:
        self.job, self.data = job, data
        self.finished, self.row = False, dict[str, Any]()

    @property
    def done(self) -> bool:
        """Return whether it is fitted and measured."""
        return self.finished

    def advance(self) -> Point | None:
        """Fit, choose and measure."""
        fill, said = self.fitted()
        self.row = {"settings": said, **errors_of(fill, self.data.test, self.job.seed == 0)}
        self.finished = True
        return {"epoch": 1.0}

    def fitted(self) -> tuple[Fill, str]:
        """The way to fill in, and its settings."""
        train = self.data.train.flatten(1)
        if self.job.model == "mean":
            mean = train.mean(0).reshape(self.data.train.shape[1:])
            return lambda x, given: torch.where(given, x, mean), "of each pixel"
        if self.job.model == "k-nn":
            given = mask_of("50", self.data.validation.shape[1:], len(self.data.validation))

            def error(k: int) -> float:
                found = self.by(neighbours(k, train))(self.data.validation, given)
                return float((found - self.data.validation)[~given].square().mean())

            best = min((1, 3, 5, 10, 20), key=error)
            return self.by(neighbours(best, train)), f"{best} neighbours, chosen with half of the pixels missing"
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.experimental import enable_iterative_imputer  # noqa: F401  # pyright: ignore
        from sklearn.impute import IterativeImputer

        some = train[:1000]
        hidden = mask_of("50", (1, *some.shape[1:], 1), len(some)).reshape(some.shape)
        made: Any = IterativeImputer(
            max_iter=ROUNDS, n_nearest_features=min(NEAREST, some.shape[1]), min_value=0.0, max_value=1.0,
            random_state=self.job.seed, sample_posterior=False,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # that the rounds are few is said in the record
            made.fit(with_gaps(some, hidden))
        return self.by(made), f"{ROUNDS} rounds, {NEAREST} pixels for each, {len(some)} training pictures"

    def by(self, made: Any) -> Fill:
        """The way to fill in of a fitted imputer."""

        def fill(x: Tensor, given: Tensor) -> Tensor:
            found = made.transform(with_gaps(x.flatten(1), given.flatten(1)))
            return torch.from_numpy(found).to(x).reshape(x.shape)

        return fill

    def columns(self) -> Row:
        """What the record has besides the common columns."""
        about = {"task": "imputation", "epochs": 1, "train_samples": len(self.data.train), "certified": False}
        return {**about, **self.row}


ROUNDS, NEAREST = 3, 24
"""Of the iterative imputer: with more it takes hours on a picture's pixels."""


def neighbours(k: int, train: Tensor) -> Any:
    """An imputer by k neighbours; two thousand pictures are enough for it to be slow."""
    from sklearn.impute import KNNImputer

    made: Any = KNNImputer(n_neighbors=k, keep_empty_features=True)
    return made.fit(train[:2000].numpy())


def with_gaps(rows: Tensor, given: Tensor) -> Any:
    """Rows of numbers as an array, NaN where they are missing."""
    return torch.where(given, rows, torch.nan).double().numpy()


# --- the study -------------------------------------------------------------------------------------------------------


def run(job: Job, place: Place, tick: Tick) -> Row:
    """Train or fit one model, and measure it on the test part."""
    if job.model in BY_SKLEARN:
        return learn(lambda job: Imputer(job, pictures_of(job, place)), job, place, tick)
    return learn_energy(lambda job: learner_of(job, place), job, place, tick)


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """Every model on every set."""
    jobs: list[Job] = []
    for seed in seeds:
        for dataset, recipe in RECIPES.items():
            how, samples = recipe, None
            if size == "smoke":
                if dataset != "digits":
                    continue
                how = replace(how, epochs=1, hidden=(8,), rank=8, noises=(0.01, 0.03), tested=40)
                samples = 200
            elif size == "two-core":
                how = replace(how, epochs=max(2, how.epochs // 15), tested=200, side=32 if dataset == "olivetti" else 0)
                samples = 1000 if dataset == "mnist" else None
            elif dataset == "mnist":
                samples = 10_000
            for name in (*ENERGIES, *BY_SKLEARN):
                if name in BY_SKLEARN and seed and dataset == "olivetti":
                    continue  # nothing in it is drawn
                jobs.append(
                    Job(
                        "imputation",
                        name,
                        dataset,
                        how,
                        seed,
                        full=size == "full" and samples is None,
                        train_samples=samples,
                    )
                )
    return jobs


def sections(rows: Sequence[Row]) -> list[Section]:
    """A section for each set and length."""
    found: list[Section] = []
    for full in (True, False):
        for dataset, title in TITLES.items():
            own = [row for row in rows if row["full"] is full and row["dataset"] == dataset]
            if own:
                found.append(section(own, f"Filling in {title}" + ("" if full else ", shortened")))
    if found:
        return found
    empty = Table("Mean squared errors of missing pixels", ("model", *MASKS), [["–"] * (1 + len(MASKS))])
    return [Section("Filling in pictures", f"This study is {NOT_RUN}.", tables=[empty])]


def section(rows: Sequence[Row], title: str) -> Section:
    """The runs on one set, of one length."""
    cells: list[list[str]] = []
    panels: list[Panel] = []
    for name, words in {**ENERGIES, **BY_SKLEARN}.items():
        own = [row for row in rows if row["model"] == name]
        if not own:
            cells.append([words, *["–"] * len(MASKS), "–", NOT_RUN])
            continue
        errors = [shown([row["test_mse"][mask] for row in own], scale=1e3, digits=1) for mask in MASKS]
        proved = f"{sum(bool(row['certified']) for row in own)} of {len(own)}" if name in ENERGIES else "–"
        cells.append([words, *errors, proved, str(len(own))])
        first = next((row for row in own if "filled" in row), None)
        if first is not None and name in ("around-gaussian", "k-nn"):
            panels.append(filled(first, words))
    columns = ("model", *(f"{share} %" for share in SHARES), "left half", "bottom half", "certified", "seeds")
    caption = "Mean squared error of the missing pixels, grey values 0 to 1, times 1000, by what is missing"
    return Section(
        title,
        "One network fills in whatever is missing. The energies were trained under random masks; no mask was a half.",
        tables=[Table(caption, columns, cells)],
        panels=panels,
    )


def filled(row: Row, words: str) -> Panel:
    """What a model made of the first test pictures."""
    count, high, wide = row["picture"]
    lines = [("true", unpacked(row["true"], (count, high, wide)).to(torch.uint8))]
    made = unpacked(row["filled"], (3, count, high, wide)).to(torch.uint8)
    lines += list(zip(("half of the pixels were missing", "90 %", "the left half"), made, strict=True))
    alt = f"Four rows of pictures: true, and filled in by {words} where half, 90 % and the left half were missing."
    return Panel(picture(words, alt, grid_of(lines), (4.6, 3.4)), f"{words}.")


STUDY = Study(
    name="imputation",
    title="Missing inputs filled in by a convex energy",
    source="Amos & Kolter 2016; Amos, Xu & Kolter 2017",
    systems=("C5",),
    seeds={"smoke": 1, "two-core": 1, "full": 3},
    plan=plan,
    sections=sections,
    run=run,
)
