"""Complete pictures from their halves: the data, the learner that is chosen and then fitted again, and baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from convexnet.energy import EnergyTraining
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.runs.verdict import verdict
from convexnet.learner import Attributes, Point

Complete = Callable[[Tensor], Tensor]
"""(B, C, H, W) of what is given -> what is missing, of the same shape."""

Columns = Callable[[Complete], Row]


class Halves:
    """Pictures in two halves: x, that is given, and y, that is missing.

    Args:
        pictures: (N, C, H, W) from 0 to 1, in an order in which people do not mix.
        count: those to train on, the first ones; the others are the test part.
        held: the last of those, on which settings are chosen.
        side: the half that is missing, "left" or "bottom".
        mirrored: whether mirrored pictures are pictures, too.

    Example:
        >>> data = Halves(torch.rand(10, 1, 4, 4), 8, 2, "left")
        >>> x, y = data.part(slice(0, 6))
        >>> x.shape, bool((data.whole(x, y) == data.pictures[:6]).all())
        (torch.Size([6, 1, 4, 2]), True)
    """

    def __init__(self, pictures: Tensor, count: int, held: int, side: str, mirrored: bool = True) -> None:
        self.pictures, self.count, self.side, self.mirrored = pictures, count, side, mirrored
        self.chosen_on = slice(count - held, count)
        self.first = slice(0, count - held)
        self.all = slice(0, count)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a half."""
        channels, high, wide = self.pictures.shape[1:]
        return (channels, high, wide // 2) if self.side == "left" else (channels, high // 2, wide)

    def split(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """x and y."""
        first, second = pictures.chunk(2, 3 if self.side == "left" else 2)
        return (second, first) if self.side == "left" else (first, second)

    def part(self, rows: slice) -> tuple[Tensor, Tensor]:
        """x and y of some pictures."""
        return self.split(self.pictures[rows])

    @property
    def test(self) -> tuple[Tensor, Tensor]:
        """x and y of the test part."""
        return self.part(slice(self.count, len(self.pictures)))

    def whole(self, x: Tensor, y: Tensor) -> Tensor:
        """The pictures of two halves."""
        return torch.cat([y, x], 3) if self.side == "left" else torch.cat([x, y], 2)

    def mirror(self, given: list[Tensor], y: Tensor) -> tuple[list[Tensor], Tensor]:
        """A batch of which about half of the pictures are mirrored."""
        (x,) = given
        turned = torch.rand(len(y), 1, 1, 1, device=y.device) < 0.5
        whole = self.whole(x, y)
        x, y = self.split(torch.where(turned, whole.flip(3), whole))
        return [x], y


class Refitted:
    """An energy that is trained twice: without the pictures that its epochs are chosen on, then with them. A learner.

    Args:
        training: (rows to train on, rows to choose on or None, epochs) -> the learner.
        data: the pictures.
        predicted: (energy, x) -> y.
        columns: of the record, of a way to complete pictures.
        epochs: at most, of the first training.
    """

    def __init__(
        self,
        training: Callable[[slice, slice | None, int], EnergyTraining],
        data: Halves,
        predicted: Callable[[nn.Module, Tensor], Tensor],
        columns: Columns,
        epochs: int,
    ) -> None:
        self.make, self.data, self.predicted, self.own = training, data, predicted, columns
        self.chosen: int | None = None
        self.validation: list[float] = []
        self.spent = 0
        self.training = training(data.first, data.chosen_on, epochs)

    @property
    def f(self) -> nn.Module:
        """The energy."""
        return self.training.f

    @property
    def done(self) -> bool:
        """Return whether both trainings are over."""
        return self.chosen is not None and self.training.done

    def state(self) -> dict[str, Any]:
        """Return all that it needs to continue."""
        own = {"chosen": self.chosen, "validation": list(self.validation), "spent": self.spent}
        return {**own, "training": self.training.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state()`."""
        self.chosen, self.validation, self.spent = state["chosen"], list(state["validation"]), state["spent"]
        if self.chosen is not None:
            self.training = self.make(self.data.all, None, self.chosen)
        self.training.restore(state["training"])

    def advance(self) -> Point | None:
        """Work for about two seconds, or to the end of an epoch."""
        if self.training.done and self.chosen is None:
            self.chosen, self.spent = max(1, self.training.best_epoch), self.training.epoch
            self.training = self.make(self.data.all, None, self.chosen)
        point = self.training.advance()
        if point is None:
            return None
        if "validation" in point:
            self.validation.append(point["validation"])
        return {**point, "epoch": point["epoch"] + self.spent}

    def columns(self) -> Row:
        """What the record has besides the common columns."""
        f, training = self.f, self.training
        example = (training.samples.given[0][:2], training.samples.y[:2])
        proof = verdict(f, example, wrt=1)
        return {
            "task": "completion",
            "epochs": training.epoch,
            "epochs_in_all": training.epoch + self.spent,
            "train_samples": len(training.samples),
            "validation_mse": min(self.validation, default=float("nan")) * 255**2 if self.validation else None,
            "parameters": sum(parameter.numel() for parameter in f.parameters()),
            "certified": proof.certified,
            "scope": proof.scope,
            "share_in_minimise": round(training.share_in_minimise, 4),
            **self.own(lambda x: self.predicted(f, x)),
        }


PENALTIES = tuple(10.0**k for k in (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5))
"""Of ridge regression on pixels from 0 to 1."""

NEIGHBOURS = (1, 2, 3, 5, 8, 12, 20)
NEAR = tuple((more, reach) for more in (0.0, 2.0, 4.0) for reach in (2.0, 4.0))
"""How much more pixels weigh that are next to what is missing, and over how many pixels that falls by a factor e; for
pictures of 64 pixels on a side."""


def flat(part: Tensor) -> Any:
    """Pictures as rows of numbers."""
    return part.flatten(1).double().numpy()


def weights_near(data: Halves, more: float, reach: float) -> Any:
    """How much each pixel of x counts: 1 far from what is missing, 1 + more next to it, (n,)."""
    channels, high, wide = data.shape
    if data.side == "left":
        away = torch.arange(wide).expand(channels, high, wide)
    else:
        away = torch.arange(high - 1, -1, -1)[:, None].expand(channels, high, wide)
    scale = reach * data.pictures.shape[-1] / 64
    return (1 + more * torch.exp(-away.double() / scale)).flatten().numpy()


def ridge(x: Any, y: Any, penalty: float, weights: Any) -> tuple[Any, Any]:
    """A and b of ridge regression of y on weighted x, by its dual."""
    scaled = x * weights
    middle, target = scaled.mean(0), y.mean(0)
    centred = scaled - middle
    dual = np.linalg.solve(centred @ centred.T + penalty * np.eye(len(x)), y - target)
    matrix = (dual.T @ centred) * weights
    return matrix, target - matrix @ (middle / weights)


def doubled(data: Halves, rows: slice | Tensor) -> tuple[Any, Any]:
    """x and y of some pictures of the training part, and of their mirrored ones."""
    pictures = data.pictures[: data.count][rows]
    x, y = data.split(torch.cat([pictures, pictures.flip(3)]) if data.mirrored else pictures)
    return flat(x), flat(y)


def chosen_ridge(data: Halves, near: bool) -> tuple[float, float, float]:
    """Penalty, weight and reach with the least error on people that are left out in turn, of those to train on.

    Five people are left out at a time; one decomposition of the matrix of inner products serves all penalties.
    """
    scores: dict[tuple[float, float, float], float] = {}
    size = data.chosen_on.stop - data.chosen_on.start
    for more, reach in NEAR if near else ((0.0, 1.0),):
        weights = weights_near(data, more, reach)
        for start in range(0, data.count, size):
            out = slice(start, min(start + size, data.count))
            kept = torch.ones(data.count, dtype=torch.bool)
            kept[out] = False
            x, y = (
                doubled(data, kept) if near else (flat(part) for part in data.split(data.pictures[: data.count][kept]))
            )
            held, truth = (flat(part) for part in data.part(out))
            middle, target = (x * weights).mean(0), y.mean(0)
            centred, seen = x * weights - middle, held * weights - middle
            values, vectors = np.linalg.eigh(centred @ centred.T)
            inner, outer = seen @ centred.T @ vectors, vectors.T @ (y - target)
            for penalty in PENALTIES:
                found = (inner / (values.clip(min=0) + penalty) @ outer + target).clip(0, 1)
                key = (penalty, more, reach)
                scores[key] = scores.get(key, 0.0) + float(((found - truth) ** 2).sum())
    return min(scores, key=lambda settings: scores[settings])


def ridge_map(data: Halves, rows: slice, penalty: float | None) -> tuple[Tensor, Tensor]:
    """A (n, n) and b (n,) of ridge regression on some pictures, as an energy begins at, with the settings of
    `chosen_ridge`; `penalty` sets that one."""
    found, more, reach = chosen_ridge(data, near=True)
    x, y = doubled(data, rows)
    matrix, bias = ridge(x, y, penalty or found, weights_near(data, more, reach))
    return torch.from_numpy(matrix).float(), torch.from_numpy(bias).float()


class Fitted(Attributes):
    """A baseline, chosen on the held pictures and fitted to all in one go. A learner."""

    kept = ("finished", "answers", "settings")

    def __init__(self, name: str, data: Halves, columns: Callable[[Job, Halves], Columns], job: Job) -> None:
        self.name, self.data, self.seed = name, data, job.seed
        self.own = columns(job, data)
        self.finished, self.settings = False, ""
        self.answers: Tensor | None = None

    @property
    def done(self) -> bool:
        """Return whether it is fitted."""
        return self.finished

    def advance(self) -> Point | None:
        """Choose, and fit."""
        complete, self.settings = self.fitted()
        x, _ = self.data.test
        self.answers = torch.from_numpy(complete(flat(x))).float().reshape(x.shape)
        self.finished = True
        return {"epoch": 1.0}

    def fitted(self) -> tuple[Callable[[Any], Any], str]:
        """The way to complete rows of pixels, and its settings in words."""
        data = self.data
        if self.name.startswith("ridge"):
            near = self.name == "ridge-near"
            penalty, more, reach = chosen_ridge(data, near)
            x, y = doubled(data, data.all) if near else (flat(part) for part in data.part(data.all))
            matrix, bias = ridge(x, y, penalty, weights_near(data, more, reach))
            said = f"penalty {penalty:g}" + (f", near pixels {1 + more:g} over {reach:g}" if near else "")
            return lambda given: given @ matrix.T + bias, said
        x, y = (flat(part) for part in data.part(data.all))
        if self.name == "extra-trees":
            from sklearn.ensemble import ExtraTreesRegressor

            trees: Any = ExtraTreesRegressor(100, max_features=32, random_state=self.seed).fit(x, y)
            return trees.predict, "100 trees, 32 pixels at a split, as in scikit-learn's example"
        from sklearn.neighbors import KNeighborsRegressor

        first, answers = (flat(part) for part in data.part(data.first))
        held, truth = (flat(part) for part in data.part(data.chosen_on))

        def error(k: int) -> float:
            near: Any = KNeighborsRegressor(k).fit(first, answers)
            return float(((near.predict(held) - truth) ** 2).mean())

        best = min(NEIGHBOURS, key=error)
        model: Any = KNeighborsRegressor(best).fit(x, y)
        return model.predict, f"{best} neighbours"

    def columns(self) -> Row:
        """What the record has besides the common columns."""
        answers = self.answers
        assert answers is not None
        return {
            "task": "completion",
            "epochs": 1,
            "train_samples": self.data.count,
            "certified": False,
            "settings": self.settings,
            **self.own(lambda x: answers),
        }
