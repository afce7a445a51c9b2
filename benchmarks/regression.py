"""Convex regression beside a network in plain torch whose weights are clipped after every step.

Run: python benchmarks/regression.py [--seeds 3] [--smoke] [--only 5 50]

Two problems. Five inputs: 2,000 samples of log Σ exp(A x) + ½‖x‖² with noise of .05, widths 32-32, measured by R² on
5,000 clean points. Fifty inputs: 5,000 samples of ‖x‖² with noise of 1, widths 64-64, by the mean squared error on
5,000 clean points. Inputs are standard normal. Seconds are of the processor, of the fit alone, with one thread.

The network in torch is what one writes without a library: a fully input-convex network with softplus on standardised
data, Adam on batches of 128, W^(z) clipped at 0 after every step, a learning rate that falls to 0 along a cosine. It
takes about the time that ours take.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convexnet.estimators import ConvexRegressor

Array = np.ndarray[Any, Any]
Predict = Callable[[Array], Array]


class Clipped(nn.Module):
    """z_1 = g(W_1 x + b_1), z_2 = g(U_2 z_1 + W_2 x + b_2), U_3 z_2 + W_3 x + b_3; the U are clipped by who trains."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.x = nn.ModuleList([nn.Linear(inputs, width), nn.Linear(inputs, width), nn.Linear(inputs, 1)])
        self.z = nn.ModuleList([nn.Linear(width, width, bias=False), nn.Linear(width, 1, bias=False)])

    def forward(self, x: Tensor) -> Tensor:
        z = F.softplus(self.x[0](x))
        z = F.softplus(self.z[0](z) + self.x[1](x))
        return (self.z[1](z) + self.x[2](x))[:, 0]


def clipped(x: Array, y: Array, width: int, seed: int, epochs: int) -> Predict:
    torch.manual_seed(seed)
    centre, scale, level, size = x.mean(0), x.std(0), y.mean(), y.std()
    inputs = torch.tensor((x - centre) / scale, dtype=torch.float32)
    targets = torch.tensor((y - level) / size, dtype=torch.float32)
    net = Clipped(x.shape[1], width)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            F.mse_loss(net(inputs[rows]), targets[rows]).backward()
            optimizer.step()
            with torch.no_grad():
                for layer in net.z:
                    layer.weight.clamp_(min=0)
        schedule.step()

    def predict(points: Array) -> Array:
        with torch.no_grad():
            return net(torch.tensor((points - centre) / scale, dtype=torch.float32)).double().numpy() * size + level

    return predict


def ours(x: Array, y: Array, width: int, seed: int, **options: Any) -> Predict:
    return ConvexRegressor(hidden=(width, width), random_state=seed, **options).fit(x, y).predict


def five(seed: int) -> tuple[Callable[[Array], Array], Array, Array, Array]:
    """A function, inputs, targets and points to measure at."""
    rng = np.random.default_rng(seed)
    matrix, x = rng.normal(size=(8, 5)), rng.normal(size=(2000, 5))

    def function(points: Array) -> Array:
        return np.logaddexp.reduce(points @ matrix.T, axis=1) + (points**2).sum(1) / 2

    return function, x, function(x) + 0.05 * rng.normal(size=2000), rng.normal(size=(5000, 5))


def fifty(seed: int) -> tuple[Callable[[Array], Array], Array, Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(5000, 50))

    def function(points: Array) -> Array:
        return (points**2).sum(1)

    return function, x, function(x) + rng.normal(size=5000), rng.normal(size=(5000, 50))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=["5", "50"], default=["5", "50"])
    parser.add_argument("--smoke", action="store_true", help="few samples and iterations, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    few = {"max_iter": 5} if options.smoke else {}
    methods: dict[str, Callable[[Array, Array, int, int], Predict]] = {
        "ConvexRegressor": lambda *a: ours(*a, **few),
        "ConvexRegressor, quadratic=0": lambda *a: ours(*a, quadratic=0, **few),
        "ConvexRegressor, quadratic=0, early stopping": lambda *a: ours(*a, quadratic=0, early_stopping=True, **few),
        "torch, clipped": lambda *a: clipped(*a, epochs=1 if options.smoke else 120),
    }
    print("| inputs | method | R² | mean squared error | seconds |\n|---|---|---|---|---|")
    for name, problem, width in (("5", five, 32), ("50", fifty, 64)):
        if name not in options.only:
            continue
        for method, fit in methods.items():
            found: list[tuple[float, float, float]] = []
            for seed in range(options.seeds):
                function, x, y, points = problem(seed)
                count = 200 if options.smoke else len(x)
                start = time.process_time()
                predict = fit(x[:count], y[:count], width, seed)
                seconds = time.process_time() - start
                truth = function(points)
                error = float(((predict(points) - truth) ** 2).mean())
                found.append((1 - error / truth.var(), error, seconds))
            score, error, seconds = (statistics.median(column) for column in zip(*found, strict=True))
            print(f"| {name} | {method} | {score:.5f} | {error:.4g} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
