"""Transport maps between two clouds beside a minimax pair of convex networks in plain torch.

Run: python benchmarks/transport.py [--dimensions 2 8 16] [--points 1000] [--seeds 1] [--smoke]

The source is a mixture of three normal distributions, the target other samples of it, pushed by the gradient of a fixed
convex network: that gradient is the optimal map, by Brenier's theorem. L2-UVP is the mean squared distance between the
images of 4,000 fresh points and where they belong, in percent of the variance of the target. Both methods see the same
points, as they are. Seconds are of the processor, of the fit alone, with one thread.

"linear" is `BrenierMap` after one iteration, nearly the optimal map between normal distributions, which it starts from.
The peer is the minimax problem of Makkuva et al. (2020): f and the network g whose gradient follows its conjugate's
maximiser are trained in turns by Adam, ten steps of g for one of f, the weights clipped or penalised as there. It gets
whitened clouds, each by its own mean and standard deviations.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from convexnet.estimators import BrenierMap

Array = np.ndarray[Any, Any]
Map = Callable[[Array], Array]
WIDTH = 32


class Convex(nn.Module):
    """½‖x‖² and a fully input-convex network whose U are clipped by who trains."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.x = nn.ModuleList([nn.Linear(inputs, WIDTH), nn.Linear(inputs, WIDTH), nn.Linear(inputs, 1)])
        self.z = nn.ModuleList([nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, 1, bias=False)])
        with torch.no_grad():
            for layer in self.z:
                layer.weight.abs_().mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        z = F.softplus(self.x[0](x))
        z = F.softplus(self.z[0](z) + self.x[1](x))
        return (self.z[1](z) + self.x[2](x))[:, 0] + x.square().sum(1) / 2


def gradient(net: nn.Module, x: Tensor) -> Tensor:
    if not x.requires_grad:
        x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    return slope


def minimax(source: Array, target: Array, seed: int, steps: int) -> Map:
    torch.manual_seed(seed)
    p, s, q, t = source.mean(0), source.std(0).mean(), target.mean(0), target.std(0).mean()
    x = torch.tensor((source - p) / s, dtype=torch.float32)
    y = torch.tensor((target - q) / t, dtype=torch.float32)
    f, g = Convex(x.shape[1]), Convex(x.shape[1])
    of_f = torch.optim.Adam(f.parameters(), lr=1e-3, betas=(0.5, 0.9))
    of_g = torch.optim.Adam(g.parameters(), lr=1e-3, betas=(0.5, 0.9))

    def batch(points: Tensor) -> Tensor:
        return points[torch.randint(len(points), (256,))]

    for _ in range(steps):
        for _ in range(10):
            goals = batch(y)
            of_g.zero_grad()
            moved = gradient(g, goals)
            penalty = sum(layer.weight.clamp(max=0).square().sum() for layer in g.z)
            (f(moved) - (moved * goals).sum(1)).mean().add(penalty).backward()
            of_g.step()
        goals = batch(y)
        of_f.zero_grad()
        (f(batch(x)).mean() - f(gradient(g, goals).detach()).mean()).backward()
        of_f.step()
        with torch.no_grad():
            for layer in f.z:
                layer.weight.clamp_(min=0)

    def move(points: Array) -> Array:
        images = gradient(f, torch.tensor((points - p) / s, dtype=torch.float32)).detach()
        return images.double().numpy() * t + q

    return move


def problem(dimensions: int, count: int, seed: int) -> tuple[Array, Array, Array, Array]:
    """Source, target, fresh points and their images."""
    rng = np.random.default_rng(seed)
    means = 2 * rng.normal(size=(3, dimensions))
    torch.manual_seed(seed)
    truth = cx.nn.FICNN(dimensions, hidden=(WIDTH, WIDTH), activation="softplus").double()

    def draw(number: int) -> Array:
        return means[rng.integers(3, size=number)] + 0.7 * rng.normal(size=(number, dimensions))

    def pushed(points: Array) -> Array:
        x = torch.tensor(points, requires_grad=True)
        value = truth(3 * x)[:, 0] / 3 + x.square().sum(1) / 20
        return torch.autograd.grad(value.sum(), x)[0].numpy()

    source, target, fresh = draw(count), pushed(draw(count)), draw(4000)
    return source, target, fresh, pushed(fresh)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 8, 16])
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="few points and steps, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)

    def ours(source: Array, target: Array, seed: int, **settings: Any) -> Map:
        few = {"max_iter": 2} if options.smoke else {}
        return BrenierMap(random_state=seed, **{**settings, **few}).fit(source, target).transform

    methods: dict[str, Callable[[Array, Array, int], Map]] = {
        "linear": lambda *a: ours(*a, max_iter=1),
        "BrenierMap": ours,
        "BrenierMap, early stopping": lambda *a: ours(*a, early_stopping=True),
        "torch, minimax": lambda *a: minimax(*a, steps=5 if options.smoke else 1000),
    }
    print("| dimensions | method | L2-UVP % | seconds |\n|---|---|---|---|")
    for dimensions in options.dimensions:
        for name, fit in methods.items():
            found: list[tuple[float, float]] = []
            for seed in range(options.seeds):
                source, target, fresh, images = problem(dimensions, 100 if options.smoke else options.points, seed)
                start = time.process_time()
                move = fit(source, target, seed)
                seconds = time.process_time() - start
                error = ((move(fresh) - images) ** 2).sum(1).mean() / images.var(0).sum()
                found.append((100 * float(error), seconds))
            error, seconds = (statistics.median(column) for column in zip(*found, strict=True))
            print(f"| {dimensions} | {name} | {error:.2f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
