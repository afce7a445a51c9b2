"""Exemplars: the x that a network likes best for each class, and training towards chosen ones (Amos & Kolter 2016).

    convexnet study run exemplars --data-dir DATA           # two cores: 5,000 images, a few epochs
    convexnet study run exemplars --full --data-dir DATA    # hours on one core for each network

A FICNN over image and label, convex in both, learns classes by max-margin. Its exemplar of class k is the image x in
[0, 1]^n with the least f(x, e_k). Exemplar-regularised training adds, to the loss of 128 images, how far the means of
the ten classes are from being exemplars of f + γ/2 ‖x‖²; the poster found that this costs accuracy. Beside each
exemplar are the mean image of its class and the nearest training image, which says whether it is one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.choices import SolverName
from convexnet.energy import EnergyTraining, Joint, exemplar_loss, exemplars
from convexnet.lab.data import DataSet, load
from convexnet.lab.models.convex import drawn_from
from convexnet.lab.reports.comparison import NOT_RUN, extent, shown
from convexnet.lab.reports.expert_pictures import unpacked
from convexnet.lab.reports.face_pictures import grid_of, packed_faces
from convexnet.lab.reports.page import Panel, Section, Table
from convexnet.lab.reports.papers import TITLES
from convexnet.lab.reports.pictures import picture
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.normalising import in_memory
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.energies import EnergyRecipe, MeasuredEnergy, learn_energy
from convexnet.lab.studies.study import Study


@dataclass(frozen=True)
class ExemplarRecipe(EnergyRecipe):
    """How a network over image and label is trained.

    Attributes:
        gamma: γ of the exemplars' loss; None: training without it.
        weight: of the mean of their losses, beside the mean loss of the images.
        exemplar_tol: of their minimisation.
        solver: of theirs.
    """

    gamma: float | None = None
    weight: float = 0.1
    exemplar_tol: float = 1e-2
    solver: SolverName = "fista"


RECIPE = ExemplarRecipe(
    "exemplars", epochs=20, batch=128, learning_rate=1e-3, schedule="cosine", how="max-margin", hidden=(200, 200),
    patience=6,
)  # fmt: skip

GAMMAS: Mapping[str, float | None] = MappingProxyType(
    {"ficnn": None, "ficnn-exemplars-0.01": 0.01, "ficnn-exemplars-0.1": 0.1}
)
"""By the name in records: γ."""


def titled(name: str) -> str:
    """What a table calls a network."""
    gamma = GAMMAS[name]
    return "max-margin" if gamma is None else f"max-margin and exemplars, γ = {gamma:g}"


@dataclass(frozen=True)
class Images:
    """Images (N, 1, H, W) from 0 to 1 and labels (N,) of the parts of a set, and the mean image of each class."""

    parts: Mapping[str, tuple[Tensor, Tensor]]
    means: Tensor
    classes: int
    note: str


def images_of(job: Job, place: Place) -> Images:
    """The images of a job."""
    raw: DataSet = load(
        job.dataset, place.data_dir, seed=job.seed, validation=job.validation, train_samples=job.train_samples,
        download=place.download,
    )  # fmt: skip
    parts: dict[str, tuple[Tensor, Tensor]] = {}
    for name, part in (("train", raw.train), ("validation", raw.validation), ("test", raw.test)):
        found = in_memory(part)
        parts[name] = found.images.float() / 255, found.labels
    x, y = parts["train"]
    means = torch.stack([x[y == k].mean(0) for k in range(raw.classes)])
    return Images(parts, means, raw.classes, raw.note)


def learner_of(job: Job, place: Place) -> MeasuredEnergy:
    """The learner of a network."""
    data, how = images_of(job, place), job.recipe
    assert isinstance(how, ExemplarRecipe)
    train, validation = data.parts["train"], data.parts["validation"]
    shape = tuple(train[0].shape[1:])
    square, simplex = cx.Box(0, 1, shape=shape), cx.Simplex(data.classes)
    with drawn_from(job.seed):
        f = Joint(cx.nn.FICNN(torch.Size(shape).numel() + data.classes, hidden=how.hidden))
    labels = torch.eye(data.classes)

    def penalty() -> Tensor:
        assert how.gamma is not None
        losses = exemplar_loss(f, data.means, labels, square, how.gamma, tol=how.exemplar_tol, solver=how.solver)
        return how.weight * losses.mean()

    training = EnergyTraining(
        f, *train, simplex, seed=job.seed, validation=validation, measure=wrong,
        penalty=None if how.gamma is None else penalty, **how.training,
    )  # fmt: skip

    def columns(f: nn.Module) -> Row:
        return {**accuracies(f, data, how), **found_exemplars(f, data, square, how, job.seed == 0)}

    return MeasuredEnergy(training, columns, about={"task": "exemplars", "gamma": how.gamma, "note": data.note})


def wrong(predicted: Tensor, y: Tensor) -> float:
    """The share of samples whose class is not the predicted one."""
    return float((predicted.argmax(1) != y.argmax(1)).double().mean())


def accuracies(f: nn.Module, data: Images, how: ExemplarRecipe) -> Row:
    """Shares of images whose class has the least energy, among the classes."""
    found: Row = {}
    labels = torch.eye(data.classes)
    for name in ("train", "test"):
        x, y = data.parts[name]
        right = 0
        with torch.no_grad():
            for part, truth in zip(x[:10_000].split(500), y[:10_000].split(500), strict=True):
                energies = f(part.repeat_interleave(data.classes, 0), labels.repeat(len(part), 1)).view(len(part), -1)
                right += int((energies.argmin(1) == truth).sum())
        found[f"{name}_accuracy"] = right / min(len(x), 10_000)
    return found


def found_exemplars(f: nn.Module, data: Images, square: cx.Box, how: ExemplarRecipe, first: bool) -> Row:
    """The exemplars, what they are near to, and how well they are proved; pictures, of the first seed.

    With γ, exemplars are of f + γ/2 ‖x‖², as they are trained.
    """
    energy = f if how.gamma is None else Ridged(f, how.gamma)
    with torch.no_grad():
        solution = exemplars(energy, data.classes, square, tol=how.exemplar_tol, solver=how.solver)
        best = solution.x.to(data.means)
        x, y = data.parts["train"]
        nearest = torch.cdist(best.flatten(1), x.flatten(1)).argmin(1)
        labels = torch.eye(data.classes)
        energies = torch.stack([f(best, labels[k].expand(data.classes, -1)).flatten() for k in range(data.classes)], 1)
    row: Row = {
        "exemplars_converged": int(solution.converged.sum()),
        "exemplar_gap": float(solution.gap.max()),
        "exemplar_to_mean": float((best - data.means).square().mean()),
        "exemplar_to_nearest": float((best - x[nearest]).square().mean()),
        "exemplars_recognised": int((energies.argmin(1) == torch.arange(data.classes)).sum()),
        "nearest_of_class": int((y[nearest] == torch.arange(data.classes)).sum()),
    }
    if first:
        row["exemplars"] = packed_faces(torch.cat([best, data.means, x[nearest]]))
        row["picture"] = [3, data.classes, *data.means.shape[-2:]]
    return row


class Ridged(nn.Module):
    """f(x, y) + γ/2 ‖x‖²."""

    def __init__(self, f: nn.Module, gamma: float) -> None:
        super().__init__()
        self.f, self.gamma = f, gamma

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B,)."""
        return self.f(x, y).flatten() + self.gamma / 2 * x.flatten(1).square().sum(1)


def run(job: Job, place: Place, tick: Tick) -> Row:
    """Train one network, and find its exemplars."""
    return learn_energy(lambda job: learner_of(job, place), job, place, tick)


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """Every γ on every set."""
    jobs: list[Job] = []
    for seed in seeds:
        for dataset in ("digits",) if size == "smoke" else ("mnist", "fashion-mnist"):
            for name, gamma in GAMMAS.items():
                how: Any = replace(RECIPE, gamma=gamma)
                settings: dict[str, Any] = {"validation": 0.05}
                if size == "smoke":
                    how = replace(how, epochs=1, hidden=(16,))
                    settings |= {"train_samples": 256}
                elif size == "two-core":
                    how = replace(how, epochs=4)
                    settings |= {"train_samples": 5_000}
                jobs.append(
                    Job("exemplars", name, dataset, how, seed, full=size == "full", variant=titled(name), **settings)
                )
    return jobs


def sections(rows: Sequence[Row]) -> list[Section]:
    """Accuracy with and without exemplars, and the exemplars of the first seed."""
    cells: list[list[str]] = []
    panels: list[Panel] = []
    for dataset in ("mnist", "fashion-mnist", "digits"):
        for full in (True, False):
            for name in GAMMAS:
                own = [r for r in rows if (r["dataset"], r["full"], r["model"]) == (dataset, full, name)]
                if not own:
                    if full and dataset != "digits":
                        cells.append([TITLES[dataset], titled(name), *["–"] * 7, NOT_RUN])
                    continue
                cells.append(
                    [
                        TITLES.get(dataset, dataset),
                        titled(name),
                        *(shown([r[key] for r in own]) for key in ("train_accuracy", "test_accuracy")),
                        *(
                            shown([r[key] for r in own], scale=1.0, digits=4)
                            for key in ("exemplar_to_mean", "exemplar_to_nearest")
                        ),
                        ", ".join(str(r["exemplars_recognised"]) for r in own),
                        f"{sum(bool(r['certified']) for r in own)} of {len(own)}",
                        str(len(own)),
                        extent(own),
                    ]
                )
                first = next((r for r in own if "exemplars" in r), None)
                if first is not None and dataset != "digits":
                    panels.append(drawn(first, f"{TITLES[dataset]}, {titled(name)}{'' if full else ', shortened'}"))
    columns = (
        *("set", "training", "train", "test", "to class mean", "to nearest image", "recognised", "certified", "seeds"),
        "run",
    )
    caption = (
        "Accuracy in percent; mean squared distance of the exemplars from the mean image of their class and from the "
        "nearest training image, grey values 0 to 1; of ten exemplars, those that the network gives to their class"
    )
    return [
        Section(
            "Exemplars",
            "The image that a network over image and label likes best for each class, which convexity makes one "
            "problem with one answer; without exemplars, and with the class means as exemplars while training.",
            tables=[Table(caption, columns, cells, text=2)],
            panels=panels,
        )
    ]


def drawn(row: Row, title: str) -> Panel:
    """Exemplars, class means and nearest training images, class by class."""
    made = unpacked(row["exemplars"], row["picture"]).to(torch.uint8)
    lines = list(zip(("exemplar", "class mean", "nearest training image"), made, strict=True))
    alt = f"{title}: three rows of ten images: exemplars, means of the classes, nearest training images."
    said = f"{title}: {100 * row['test_accuracy']:.1f} % of test images are right."
    return Panel(picture(title, alt, grid_of(lines), (4.6, 2.0)), said)


STUDY = Study(
    name="exemplars",
    title="The input that a network likes best for each class, and training towards it",
    source="Amos & Kolter 2016",
    systems=("C4",),
    seeds={"smoke": 1, "two-core": 1, "full": 3},
    plan=plan,
    sections=sections,
    run=run,
)
