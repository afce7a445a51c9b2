"""k-means as a learner of the laboratory, whole: a recipe, an iteration, and what its record has."""

from dataclasses import dataclass
from functools import partial

import torch

from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.learning import learn
from convexnet.learner import Attributes


@dataclass(frozen=True)
class Recipe:
    name: str = "k-means"
    clusters: int = 4
    epochs: int = 6


class KMeans(Attributes):
    kept = ("iteration", "centres")
    done = property(lambda self: self.iteration >= self.recipe.epochs)

    def __init__(self, job: Job) -> None:
        self.recipe, self.iteration = job.recipe, 0
        draws = torch.Generator().manual_seed(job.seed)
        self.points = torch.randn(200, 2, generator=draws, dtype=torch.float64)
        self.centres = self.points[: self.recipe.clusters].clone()

    def advance(self) -> dict[str, float]:
        nearest = torch.cdist(self.points, self.centres).argmin(1)
        self.centres = torch.stack([self.points[nearest == k].mean(0) for k in range(len(self.centres))])
        self.iteration += 1
        distances = torch.cdist(self.points, self.centres).amin(1)
        return {"iteration": self.iteration, "inertia": float(distances.square().sum())}

    def columns(self) -> dict[str, object]:
        return {"task": "clustering", "certified": False, "centres": self.centres.tolist()}


cluster = partial(learn, KMeans)  # the `run` of a study
