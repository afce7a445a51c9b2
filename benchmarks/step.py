"""What a constrained training step costs, beside the same step without a constraint.

Run: python benchmarks/step.py [--only mlp allconv] [--rounds 60] [--warmup 12] [--batch-allconv 16] [--threads 1]
     [--clock wall]

Real steps on a pool of random batches with random labels, so that as many entries are outside after a step as training
brings there. Every round runs every row once on the same batch, in an order that rotates; a ratio is that of one row to
the unconstrained one in the same round, and medians and quartiles are over rounds. The unconstrained row is run twice:
what its second copy is off 1 is noise. All rows constrain the same parameters, the ones that `constrain` derives.

The clock on one thread is the processor time of this process, which leaves out the turns of other processes; with
several threads, whose processor times add up, it is the wall's. After the rounds a few more steps are taken with the
projection left to us: how many entries are then outside, and what bringing them back costs alone. The last is less
noisy than a difference between steps. At the end each model is certified.

All-CNN-C is the variant with BatchNorm, without which the activations of non-negative weights grow from layer to layer.
Its projection costs the same whatever the batch: a small one, which is the default, is the harder case.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import convexnet as cx
from convexnet.zoo import MLP, AllConv

AFTER_THE_STEP = ("exponentiate", "clip", "absolute", "shift")
COMPUTED = ("softplus", "exp")
GOAL = 1.03
POOL = 16
"""Batches of random data that are repeated."""
PROBES = 8
"""Steps after the timed rounds whose projection is timed alone."""


@dataclass
class Row:
    """One way to train: a model, its optimiser, and what is done after the step where nothing is attached."""

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    cone: cx.Cone | None = None
    project: Callable[[], None] | None = None
    """What brings weights back, for a row that has such a thing."""
    by_hand: bool = False
    """Whether the step calls `project` itself, instead of a hook of the optimiser."""
    seconds: list[float] = field(default_factory=list[float])
    projections: list[float] = field(default_factory=list[float])
    outside: list[float] = field(default_factory=list[float])

    def step(self, images: Tensor, labels: Tensor) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(images), labels).backward()
        self.optimizer.step()
        if self.by_hand and self.project is not None:
            self.project()


class Positive(nn.Module):
    """The parametrisation as one writes it by hand."""

    def forward(self, v: Tensor) -> Tensor:
        return F.softplus(v)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.clamp(min=1e-6).expm1().log()


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def clamp_loop(parameters: list[nn.Parameter]) -> Callable[[], None]:
    def project() -> None:
        for p in parameters:
            p.data.clamp_(min=0)

    return project


def rows_for(model: nn.Module, example: Tensor) -> tuple[list[Row], dict[str, Tensor]]:
    """Every way to train a model, the unconstrained one first, and the lower bounds of the constrained parameters."""
    found = cx.constrain(copy.deepcopy(model), example, method="clip")
    rows: list[Row] = []
    for name in ("unconstrained", "unconstrained, again"):
        own = copy.deepcopy(model)
        rows.append(Row(name, own, adam(own)))
    for method in (*AFTER_THE_STEP, *COMPUTED):
        own = copy.deepcopy(model)
        cone = cx.constrain(own, example, method=method)
        optimizer = adam(own)
        cone.attach(optimizer)
        rows.append(Row(method, own, optimizer, cone, None if method in COMPUTED else cone.project))
    clamped = copy.deepcopy(model)
    project = clamp_loop([p for name, p in clamped.named_parameters() if name in found.parameters])
    project()
    rows.append(Row("by hand: clamp loop", clamped, adam(clamped), project=project, by_hand=True))
    computed = copy.deepcopy(model)
    for name in found.parameters:
        path, _, leaf = name.rpartition(".")
        parametrize.register_parametrization(computed.get_submodule(path), leaf, Positive())
    rows.append(Row("by hand: softplus", computed, adam(computed)))
    return rows, {name: interval.lo for name, interval in found.intervals.items()}


def share_outside(model: nn.Module, bounds: dict[str, Tensor]) -> float:
    """The share of the constrained entries that lie below their bound."""
    tensors = {name: p for name, p in model.named_parameters() if name in bounds}
    count = sum(int((tensor < bounds[name]).sum()) for name, tensor in tensors.items())
    return count / sum(tensor.numel() for tensor in tensors.values())


def train(rows: list[Row], batches: list[tuple[Tensor, Tensor]], rounds: int, clock: Callable[[], float]) -> None:
    """Every row once in every round, in rotating order, on the same batch and with the same dropout."""
    for round_ in range(rounds):
        shift = round_ % len(rows)
        images, labels = batches[round_ % len(batches)]
        for row in rows[shift:] + rows[:shift]:
            torch.manual_seed(round_)
            start = clock()
            row.step(images, labels)
            row.seconds.append(clock() - start)


def probe(
    rows: list[Row], batches: list[tuple[Tensor, Tensor]], bounds: dict[str, Tensor], clock: Callable[[], float]
) -> None:
    """More steps with the projection left to us, to count what is outside and to time the projection alone."""
    for row in rows:
        if row.project is None:
            continue
        row.by_hand = False
        if row.cone is not None:
            row.cone.detach()
        for images, labels in batches[:PROBES]:
            row.step(images, labels)
            row.outside.append(share_outside(row.model, bounds))
            start = clock()
            row.project()
            row.projections.append(clock() - start)


def print_table(rows: list[Row], example: Tensor, warmup: int) -> None:
    base = rows[0].seconds[warmup:]
    step = statistics.median(base)
    head = ("row", "step ms", "ratio", "quartiles", "outside %", "project ms", "project/step", "convex after")
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        ratios = [own / other for own, other in zip(row.seconds[warmup:], base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        cells = [row.name, f"{1e3 * statistics.median(row.seconds[warmup:]):.1f}", f"{middle:.3f}"]
        cells.append(f"{low:.3f}-{high:.3f}")
        if row.projections:
            alone = statistics.median(row.projections)
            cells += [f"{100 * statistics.mean(row.outside):.2g}", f"{1e3 * alone:.2f}", f"{100 * alone / step:.1f} %"]
        else:
            cells += ["", "", ""]
        cells.append("yes" if cx.certify(row.model, example).convex else "no")
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=("mlp", "allconv"), default=("mlp", "allconv"))
    parser.add_argument("--rounds", type=int, default=60, help="timed rounds (a third of them for All-CNN-C)")
    parser.add_argument("--warmup", type=int, default=12, help="rounds before them (a third of them for All-CNN-C)")
    parser.add_argument("--batch-allconv", type=int, default=16, help="images in a batch of All-CNN-C")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("process", "wall"), help="default: process on one thread, else wall")
    options = parser.parse_args()
    if options.rounds < 6:
        parser.error("quartiles need at least 6 rounds")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    named = options.clock or ("process" if options.threads == 1 else "wall")
    clock = time.process_time if named == "process" else time.perf_counter

    print(f"torch {torch.__version__}, {options.threads} threads, {named} clock, Adam; medians over paired rounds")
    print(f"goal: ratio <= {GOAL} for what is done after the step: {', '.join(AFTER_THE_STEP)}")
    cases: dict[str, tuple[str, Callable[[], nn.Module], tuple[int, ...], int]] = {
        "mlp": ("MLP 3072-800-800-800-10", lambda: MLP(3072, 10), (128, 3072), 1),
        "allconv": ("All-CNN-C", lambda: AllConv(norm=True), (options.batch_allconv, 3, 32, 32), 3),
    }
    for key in options.only:
        title, build, shape, fewer = cases[key]
        rounds, warmup = max(options.rounds // fewer, 6), max(options.warmup // fewer, 2)
        torch.manual_seed(0)
        batches = [(torch.randn(shape), torch.randint(10, shape[:1])) for _ in range(POOL)]
        model, example = build(), batches[0][0][:2]
        rows, bounds = rows_for(model, example)
        held = sum(p.numel() for name, p in model.named_parameters() if name in bounds)
        total = sum(p.numel() for p in model.parameters())
        print(
            f"\n{title} with BatchNorm, batch {shape[0]}, {rounds} rounds after {warmup}; "
            f"{held:,} of {total:,} parameters are constrained\n"
        )
        train(rows, batches, warmup + rounds, clock)
        probe(rows, batches, bounds, clock)
        print_table(rows, example, warmup)


if __name__ == "__main__":
    main()
