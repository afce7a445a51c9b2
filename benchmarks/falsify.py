"""What finding a rare violation costs, beside random chords and gradient ascent alone.

Run: python benchmarks/falsify.py [--repeats 3]

The networks are those of `workload/rare.py`: forty-eight whose violation is known, and the same without it. Both
searches have the default budget of 100,000 samples and the same seed; they take turns, and each time is the minimum of
the processor seconds of its repeats. "Without" is the search as it is where nothing can be opened: chords, then ascent.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn
from workload.rare import SEEDS, example, networks

import convexnet as cx
from convexnet.curvature.adversary import falsify as search


def timed(model: nn.Module, inputs: Tensor, share: float) -> tuple[bool, float]:
    """Whether a violation is found, and processor seconds, with this share of the budget for the guided search."""
    before, search.GUIDED = search.GUIDED, share
    start = time.process_time()
    found = cx.falsify(model, inputs) is not None
    seconds = time.process_time() - start
    search.GUIDED = before
    return found, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of finding a rare violation.")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    share = search.GUIDED
    timed(networks("3 layers", 0)[1], example("3 layers"), share)  # the first call of a process is slow
    head = (
        "networks",
        "found",
        "without",
        "seconds a network",
        "without",
        "ratio",
        "convex: seconds",
        "without",
        "false",
    )
    print(f"torch {torch.__version__}, one thread, minimum of {options.repeats} paired repeats\n")
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    totals = [0.0] * 7
    for name, seeds in SEEDS.items():
        row = [0.0] * 7
        for seed in seeds:
            convex, broken = networks(name, seed)
            kinds = [(net, s) for net in (broken, convex) for s in (share, 0.0)]
            rounds = [[timed(net, example(name), s) for net, s in kinds] for _ in range(options.repeats)]
            found = [hit for hit, _ in rounds[-1]]
            best = [min(seconds for _, seconds in column) for column in zip(*rounds, strict=True)]
            new = [found[0], found[1], *best, found[2] + found[3]]
            row = [a + b for a, b in zip(row, new, strict=True)]
        show(name, row, len(seeds))
        totals = [a + b for a, b in zip(totals, row, strict=True)]
    show("all", totals, sum(map(len, SEEDS.values())))


def show(name: str, row: list[float], n: int) -> None:
    found, without, *seconds, false = row
    a, b, c, d = (s / n for s in seconds)
    counts = f"| {name} | {found:.0f}/{n} | {without:.0f}/{n} "
    print(counts + f"| {a:.3f} | {b:.3f} | {a / b:.2f} | {c:.3f} | {d:.3f} | {false:.0f} |", flush=True)


if __name__ == "__main__":
    main()
