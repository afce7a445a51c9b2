"""What it costs to keep each of the larger networks convex, and to prove it: steps, and certificates.

Run: python benchmarks/networks.py [--only ioc-mixer ...] [--rounds 8] [--batch 16] [--side 64] [--threads 1] [--smoke]

Each row is a convex network of the laboratory in our recipe, as `convexnet train` makes it. A step is AdamW's, on
random images and labels: with the constraint attached to the optimiser, without it (same network, same start), and of
the ordinary network from which it was made. A round has one step of each on the same batch, in an order that rotates;
ratios are those of one round, with medians and quartiles over rounds after one. The clock on one thread is the
processor time of this process. `certify` beside a warm `torch.export` is the minimum of two paired repeats at batch 2.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from convexnet.lab.models.registry import MODELS, build
from convexnet.lab.training.recipes import recipe

NETWORKS = (
    *("ioc-mixer", "ioc-cyclemlp-b1", "ioc-efficientnet-b0", "ioc-densenet-121", "ioc-resnet-50"),
    "ioc-cnn",
)
STEP, PROOF = 1.05, 3.0
"""The goals: a constrained step over an unconstrained one, and a certificate over an export, at most."""


def network(name: str, side: int) -> nn.Module:
    kind = MODELS[name]
    return build(name, (3, side, side), 10, recipe("ours", convex=kind.constrained, family=kind.family), seed=0)


def stepper(model: nn.Module, constrained: bool, example: Tensor) -> Callable[[Tensor, Tensor], float]:
    """What takes a step, and says how long it took."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    if constrained:
        cx.constrain(model, example).attach(optimizer)
    model.train()

    def step(images: Tensor, labels: Tensor) -> float:
        start = time.process_time()
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return time.process_time() - start

    return step


def ratios(own: list[float], other: list[float]) -> str:
    """Median and quartiles of the ratios in rounds, without the first, which warms up."""
    found = [a / b for a, b in zip(own[1:], other[1:], strict=True)]
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
    return f"{middle:.3f} | {low:.3f}-{high:.3f}"


def proof(model: nn.Module, example: Tensor, repeats: int = 2) -> tuple[float, float]:
    """Seconds of a certificate and of an export."""
    model.eval()
    times: list[tuple[float, float]] = []
    for _ in range(repeats + 1):
        start = time.process_time()
        torch.export.export(model, (example,), strict=False)
        between = time.process_time()
        cx.certify(model, example)
        times.append((time.process_time() - between, between - start))
    return min(one for one, _ in times[1:]), min(other for _, other in times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="one small network, few rounds: whether it runs")
    options = parser.parse_args()
    if options.smoke:
        options.only, options.rounds, options.batch, options.side = ("ioc-cnn",), 3, 4, 16
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {options.threads} threads, batch {options.batch}, images of {options.side} pixels"
    )
    print(f"goals: step <= {STEP} x the unconstrained one, certify <= {PROOF:g} x export\n")
    head = (
        *("network", "step ms", "step / unconstrained", "quartiles", "step / ordinary", "quartiles"),
        *("export s", "certify s", "certify/export", "convex"),
    )
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name in options.only:
        example = torch.zeros(2, 3, options.side, options.side)
        model = network(name, options.side)
        steps = [
            stepper(copy.deepcopy(model), True, example),
            stepper(copy.deepcopy(model), False, example),
            stepper(network(name.removeprefix("ioc-"), options.side), False, example),
        ]
        seconds: list[list[float]] = [[] for _ in steps]
        for round_ in range(options.rounds + 1):
            torch.manual_seed(round_)
            images = torch.randn(options.batch, 3, options.side, options.side)
            labels = torch.randint(10, (options.batch,))
            for k in range(len(steps)):
                place = (k + round_) % len(steps)
                torch.manual_seed(round_)  # the same dropout
                seconds[place].append(steps[place](images, labels))
        certify, export = proof(model, example)
        cells = [name, f"{1e3 * statistics.median(seconds[0][1:]):.0f}", ratios(seconds[0], seconds[1])]
        cells += [ratios(seconds[0], seconds[2]), f"{export:.2f}", f"{certify:.2f}", f"{certify / export:.2f}"]
        cells.append("yes" if cx.certify(model, example).convex else "no")
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
