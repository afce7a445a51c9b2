"""The bundle entropy method on networks of BibTeX's shape, next to a loop over the samples in numpy.

Run: python benchmarks/bundle_entropy.py [--batch 128] [--steps 10] [--rounds 3] [--smoke]

A ReLU PICNN of 1836 features and 159 labels, hidden layers of 600 and 159 units (the ICNN paper's shape), random
weights, its output scaled so that the slopes in y have a given standard deviation. Both sides take the same number of
cutting planes from the middle of the cube. The peer works on one sample after the other, in numpy: what depends on x
alone is computed once for each sample, and each model is minimised by the same primal-dual Newton method on the
simplex. `minimise` includes everything that a caller pays: reading the module's numbers, its own values at the points
found, and the proof of the bounds. The gap is value − bound; the peer's bound is its best dual value, which is not
proved in floating point. Processor times, one thread, medians over rounds in which both take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import convexnet as cx

FEATURES, LABELS, HIDDEN = 1836, 159, (600, 159)


class Scaled(nn.Module):
    """A PICNN times a number."""

    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.factor * self.net(x, y)


def network(features: int, labels: int, hidden: tuple[int, ...], batch: int, spread: float) -> tuple[Scaled, Tensor]:
    """A network whose slopes in y have this standard deviation, and inputs of it that are mostly 0, as words are."""
    torch.manual_seed(0)
    net = cx.nn.PICNN(features, labels, hidden=hidden, activation="relu").double().requires_grad_(False)
    x = (torch.rand(batch, features, dtype=torch.float64) < 0.04).double()
    y = torch.rand(batch, labels, dtype=torch.float64).requires_grad_()
    (g,) = torch.autograd.grad(net(x, y).sum(), y)
    return Scaled(net, spread / float(g.std())), x


# --- the peer --------------------------------------------------------------------------------------------------------


@dataclass
class Arrays:
    """What numpy reads of a network: for each layer, the weights of y and of z, and for each x what else enters."""

    layers: list[dict[str, Any]]
    paths: list[tuple[np.ndarray, np.ndarray]]
    factor: float


def arrays(f: Scaled) -> Arrays:
    def pair(layer: Any) -> tuple[np.ndarray, np.ndarray]:
        return layer.weight.detach().numpy(), layer.bias.detach().numpy()

    net: Any = f.net
    layers = []
    for step in net.layers:
        z = None if step.z is None else step.z.weight.detach().numpy()
        gate = None if step.z is None else pair(step.z_gate)
        layers.append({"z": z, "z gate": gate, "y": step.y.weight.numpy(), "y gate": pair(step.y_gate), "u": step.u})
        layers[-1]["bias"] = 0.0 if step.z is None or step.z.bias is None else step.z.bias.detach().numpy()
        layers[-1]["u"] = pair(step.u)
    return Arrays(layers, [pair(path[0]) for path in net.x_layers], f.factor)


def along_x(held: Arrays, x: np.ndarray) -> list[dict[str, Any]]:
    """What the layers are for one x."""
    u, made = x, []
    for i, layer in enumerate(held.layers):
        one = {"y": layer["y"], "z": layer["z"], "gate": layer["y gate"][0] @ u + layer["y gate"][1]}
        one["constant"] = layer["u"][0] @ u + layer["u"][1] + layer["bias"]
        if layer["z"] is not None:
            one["z gate"] = np.maximum(layer["z gate"][0] @ u + layer["z gate"][1], 0)
        made.append(one)
        if i < len(held.paths):
            weight, bias = held.paths[i]
            u = np.maximum(weight @ u + bias, 0)
    return made


def tangent(layers: list[dict[str, Any]], factor: float, y: np.ndarray) -> tuple[float, np.ndarray]:
    """f(y) and a subgradient."""
    z, arguments = None, []
    for layer in layers:
        a = layer["y"] @ (y * layer["gate"]) + layer["constant"]
        if z is not None:
            a = a + layer["z"] @ (z * layer["z gate"])
        arguments.append(a)
        z = np.maximum(a, 0)
    v, g = np.full(1, factor), np.zeros_like(y)
    for i in reversed(range(len(layers))):
        layer = layers[i]
        g += layer["gate"] * (v @ layer["y"])
        if i:
            v = (v @ layer["z"]) * layer["z gate"] * (arguments[i - 1] > 0)
    return factor * float(arguments[-1][0]), g


def entropy(y: np.ndarray) -> float:
    return sum(float((p * np.log(np.where(p > 0, p, 1.0))).sum()) for p in (y, 1 - y))


def dual(G: np.ndarray, h: np.ndarray, shares: np.ndarray, allowed: float) -> np.ndarray:
    """The multipliers on the simplex that give the largest lower bound."""
    m = len(h)
    shares = 0.9 * shares / shares.sum() + 0.1 / m
    slack, mu = None, np.inf
    for _ in range(60):
        steep = shares @ G
        y = 0.5 * (1 - np.tanh(0.5 * steep))
        heights = G @ y + h
        top = heights.max()
        left = top - shares @ heights
        if left <= max(allowed, 1e-15 * np.abs(heights).max()):
            break
        mu = min(mu, 0.03 * left / m)
        slack = np.maximum(top - heights, mu / shares) if slack is None else slack
        slack = np.clip(slack, 1e-4 * mu / shares, 1e4 * mu / shares)
        system = (G * (y * (1 - y))) @ G.T
        system[np.diag_indices(m)] += slack / shares
        both = np.linalg.solve(system, np.stack([heights - top + mu / shares, np.ones(m)], 1))
        step = both[:, 0] - both[:, 1] * (both[:, 0].sum() / both[:, 1].sum())
        change = mu / shares - slack - slack / shares * step
        length = min(1.0, 0.99 / max((-step / shares).max(), 0.99))
        turn, before = step @ G, -np.logaddexp(0, -steep).sum() + mu * np.log(shares).sum()
        for _ in range(30):
            after = length * (step @ h) - np.logaddexp(0, -(steep + length * turn)).sum()
            if after + mu * np.log(shares + length * step).sum() >= before - 1e-14 * abs(before):
                break
            length *= 0.5
        slack = slack + min(1.0, 0.99 / max((-change / slack).max(), 0.99)) * change
        shares = shares + length * step
    return shares


def sample_after_sample(held: Arrays, x: np.ndarray, steps: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and bounds of all samples."""
    values, bounds = [], []
    for row in x:
        layers, y = along_x(held, row), np.full(labels, 0.5)
        plain, g = tangent(layers, held.factor, y)
        G, h, shares = g[None], np.array([plain - g @ y]), np.ones(1)
        value, bound = plain + entropy(y), -np.inf
        for _ in range(steps):
            shares = dual(G, h, shares, 0.2 * (value - bound) if np.isfinite(bound) else np.inf)
            steep = shares @ G
            bound = max(bound, shares @ h - np.logaddexp(0, -steep).sum())
            y = 0.5 * (1 - np.tanh(0.5 * steep))
            plain, g = tangent(layers, held.factor, y)
            value = min(value, plain + entropy(y))
            G, h, shares = np.vstack([G, g]), np.append(h, plain - g @ y), np.append(shares, 0.0)
        values.append(value)
        bounds.append(bound)
    return np.array(values), np.array(bounds)


# --- the table -------------------------------------------------------------------------------------------------------


def measure(shape: tuple[int, int, tuple[int, int]], batch: int, spread: float, options: argparse.Namespace) -> str:
    """A row of the table."""
    f, x = network(*shape, batch, spread)
    cube, held = cx.Cube(shape[1], entropy=True), arrays(f)
    here = np.full(shape[1], 0.3)
    with torch.no_grad():
        own = float(f(x[:1], torch.from_numpy(here)[None]))
    assert abs(tangent(along_x(held, x[0].numpy()), held.factor, here)[0] - own) <= 1e-9 * (1 + abs(own))
    ways = {
        "numpy": lambda: sample_after_sample(held, x.numpy(), options.steps, shape[1]),
        "bundle": lambda: cx.minimise(f, cube, x, 1e-15, "bundle-entropy", max_steps=options.steps),
        "auto": lambda: cx.minimise(f, cube, x, 1e-4),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Any] = {}
    for name in ("bundle", "auto"):
        ways[name]()  # traced once
    for _ in range(options.rounds):
        for name, way in ways.items():
            start = time.process_time()
            found[name] = way()
            times[name].append(time.process_time() - start)
    seconds = {name: statistics.median(each) for name, each in times.items()}
    gaps = {"numpy": found["numpy"][0] - found["numpy"][1]}
    gaps |= {name: found[name].gap.numpy() for name in ("bundle", "auto")}
    shown = {name: f"{np.median(gap):.1e}, {gap.max():.1e}" for name, gap in gaps.items()}
    done = int(found["auto"].converged.sum())
    cells = (
        f"{spread:g}", f"{seconds['numpy']:.3f}", shown["numpy"], f"{seconds['bundle']:.3f}", shown["bundle"],
        f"{seconds['numpy'] / seconds['bundle']:.1f}", f"{seconds['auto']:.3f}", shown["auto"], f"{done}/{batch}",
        f"{seconds['numpy'] / seconds['auto']:.1f}",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spreads", type=float, nargs="+", default=(1.0, 10.0, 80.0))
    parser.add_argument("--smoke", action="store_true", help="a tiny network: does it run?")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape = (20, 12, (16, 12)) if options.smoke else (FEATURES, LABELS, HIDDEN)
    batch = 4 if options.smoke else options.batch
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, numpy {np.__version__}, 1 thread of {os.cpu_count()}, load {load:.1f}")
    print(f"{shape[1]} labels, batch {batch}, {options.steps} planes; processor seconds for the batch\n")
    head = ("slopes", "numpy s", "its gaps: median, largest", "bundle entropy s", "gaps", "ratio")
    head = (*head, "auto to 1e-4 s", "gaps", "certified", "numpy / auto")
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for spread in options.spreads:
        print(measure(shape, batch, spread, options), flush=True)


if __name__ == "__main__":
    main()
