"""What a certified minimum costs, beside exact solves of the same linear programs, and beside other ways to it.

Run: python benchmarks/minimise.py [--only goals derivatives others small] [--families tilt random trained]
     [--rounds 3] [--limit 20] [--smoke]

The unit is one exact solve of one sample by HiGHS, whose model is ready before the clock starts: the faster, in the
median, of simplex and interior point with crossover. Every round runs each variant of HiGHS on another sample, and then
our whole batch, certified, whatever was tried first included; medians are over rounds. Tracing is warm: the network has
been minimised once before. Large problems have fewer rounds. All is on one thread, and timed by the processor time of
the process, which leaves out the turns of other processes.

In the same run, values and bounds of the samples that HiGHS solved are compared with its optimum; a bound above it,
or a value farther from it than the tolerance, ends the run with an error. The workload is in `workload/icnn.py`.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata

import torch
from torch import Tensor
from workload.icnn import EXACT, FAMILIES, INEXACT, OVER_BOXES, Network, Solved, highs, problem, relative, timed
from workload.peers import Parametrised, Warm, cvxpy_solvers, layer

import convexnet as cx


@dataclass(frozen=True)
class Goal:
    """A batch, and in how many exact solves of one sample it should be certified."""

    batch: int
    tol: float
    solves: float


@dataclass(frozen=True)
class Group:
    """Goals that share a network, and so the solves that they are compared with."""

    n: int
    width: int
    goals: tuple[Goal, ...]
    everywhere: bool = False  # for all families, not only the hard one

    @property
    def large(self) -> bool:
        return self.n > 100 or self.width > 600


GROUPS = (
    Group(2, 600, (Goal(256, 1e-6, 1),)),
    Group(20, 600, (Goal(1, 1e-4, 0.02), Goal(256, 1e-4, 2), Goal(256, 1e-6, 3)), everywhere=True),
    Group(100, 600, (Goal(256, 1e-4, 2.5),), everywhere=True),
    Group(500, 600, (Goal(16, 1e-4, 1),)),
    Group(20, 2400, (Goal(256, 1e-4, 0.75),)),
)
SMOKE = (Group(2, 30, (Goal(4, 1e-6, 1),)), Group(5, 30, (Goal(1, 1e-4, 0.02), Goal(8, 1e-4, 2)), everywhere=True))
BACKWARD = 0.1
"""The goal for backward/forward."""


def head(*names: str) -> None:
    print("\n| " + " | ".join(names) + " |\n|" + "---|" * len(names))


def row(*cells: object) -> None:
    print(
        "| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |", flush=True
    )


def share(count: Tensor) -> str:
    return f"{int(count.sum())}/{len(count)}"


# --- the goals -------------------------------------------------------------------------------------------------------


def goals(groups: Iterable[Group], families: Sequence[str], rounds: int) -> None:
    """Our batches in units of exact solves."""
    head(
        "family", "n", "width", "batch", "tol", "seconds", "exact solve", "in solves", "goal", "met",
        "speed / exact", "speed / fastest inexact", "certified", "without falling back", "(value - LP)/size",
    )  # fmt: skip
    references = [
        one_group(group, family, max(1, rounds // 3) if group.large else rounds)
        for group in groups
        for family in families
        if family == "tilt" or group.everywhere
    ]
    print("\nHiGHS, seconds of one sample (and what the inexact ones certify: the largest relative gap of their duals)")
    head("family", "n", "width", "samples", *EXACT, *INEXACT)
    for cells in references:
        row(*cells)


def one_group(group: Group, family: str, rounds: int) -> tuple[object, ...]:
    """The rows of one network; returns the row of HiGHS."""
    net, x, box = problem(family, group.n, max(goal.batch for goal in group.goals), group.width)
    timed(net, x[:2], box, 1e-4)
    solved: dict[str, list[Solved]] = {name: [] for name in (*EXACT, *INEXACT)}
    ours: dict[Goal, list[float]] = {goal: [] for goal in group.goals}
    last: dict[Goal, cx.Solution] = {}
    errors = dict.fromkeys(group.goals, -float("inf"))
    for round_ in range(rounds):
        for name, options in (*EXACT.items(), *INEXACT.items()):
            solved[name].append(highs(net, x[round_], options))
        for goal in group.goals:
            rows = slice(round_, round_ + 1) if goal.batch == 1 else slice(0, goal.batch)
            seconds, last[goal] = timed(net, x[rows], box, goal.tol)
            ours[goal].append(seconds)
            place = 0 if goal.batch == 1 else round_
            best = min((solved[name][-1] for name in EXACT), key=lambda found: found.value)
            errors[goal] = max(errors[goal], checked(net, x[round_], last[goal], place, best, goal.tol))
    times = {name: statistics.median(one.seconds for one in each) for name, each in solved.items()}
    exact, inexact = min(times[name] for name in EXACT), min(times[name] for name in INEXACT)
    for goal, seconds in ours.items():
        spent = statistics.median(seconds)
        alone = last[goal].converged
        if ", then " in last[goal].solver:
            alone = timed(net, x[: goal.batch], box, goal.tol, solver="newton")[1].converged
        met = "yes" if spent <= goal.solves * exact else "no"
        row(
            family, group.n, group.width, goal.batch, f"{goal.tol:.0e}", spent, exact, spent / exact, goal.solves, met,
            goal.batch * exact / spent, goal.batch * inexact / spent, share(last[goal].converged), share(alone),
            f"{errors[goal]:.0e}",
        )  # fmt: skip
    cells = [f"{times[name]:.3g}" for name in EXACT]
    for name in INEXACT:
        gaps = [one.gap(centre_of(net, x[i])) for i, one in enumerate(solved[name])]
        cells.append(f"{times[name]:.3g} ({max(gaps):.0e})")
    return family, group.n, group.width, rounds, *cells


def centre_of(net: Network, x: Tensor) -> float:
    return net(x[None], torch.zeros(1, net.n).double()).item()


def checked(net: Network, x: Tensor, solution: cx.Solution, place: int, best: Solved, tol: float) -> float:
    """How far the value is above the optimum of HiGHS, relative to the size of f.

    Raises:
        SystemExit: farther than the tolerance, or a bound is not one.
    """
    value, bound = float(solution.value[place]), float(solution.lower_bound[place])
    size = max(abs(value), centre_of(net, x) - value, 1e-12)
    exactness = (best.value - best.bound) / size + 1e-9
    if bound > best.value + 1e-9 * size or value < best.bound - 1e-9 * size:
        raise SystemExit(f"wrong: bound {bound!r} or value {value!r} against {best.bound!r} to {best.value!r}")
    if bool(solution.converged[place]) and value > best.value + (tol + exactness) * size:
        raise SystemExit(f"wrong: value {value!r} is farther from the optimum {best.value!r} than {tol}")
    return (value - best.value) / size


# --- derivatives -----------------------------------------------------------------------------------------------------


def derivatives(n: int, batch: int, width: int, rounds: int) -> None:
    """Forward, and backward through the minimisers and the values to x and to all weights."""
    net, x, box = problem("tilt", n, batch, width)
    timed(net, x[:2], box, 1e-4)
    net.requires_grad_(True)
    spent: dict[str, list[float]] = {name: [] for name in ("without", "forward", "value", "both")}
    for _ in range(rounds):
        with torch.no_grad():
            spent["without"].append(timed(net, x, box, 1e-4)[0])
        for name in ("value", "both"):
            wanted = x.clone().requires_grad_()
            seconds, solution = timed(net, wanted, box, 1e-4)
            spent["forward"].append(seconds)
            loss = solution.value.sum() + (solution.x.sum() if name == "both" else 0)
            start = time.process_time()
            loss.backward()
            spent[name].append(time.process_time() - start)
            net.zero_grad()
    median = {name: statistics.median(each) for name, each in spent.items()}
    print(f"\nBackward to x and all weights: tilt, n = {n}, batch {batch}, 1e-4; goal: at most {BACKWARD:.0%}")
    head("forward, no gradients s", "forward s", "of value s", "of value and x s", "value/forward", "both/forward")
    row(
        median["without"], median["forward"], median["value"], median["both"],
        f"{100 * median['value'] / median['forward']:.1f} %", f"{100 * median['both'] / median['forward']:.1f} %",
    )  # fmt: skip


# --- other ways ------------------------------------------------------------------------------------------------------


def others(sizes: Iterable[int], batch: int, width: int, limit: float, samples: int) -> None:
    """Our own solvers by name, and other packages on a few samples, extrapolated to the batch."""
    for n in sizes:
        net, x, box = problem("tilt", n, batch, width)
        timed(net, x[:2], box, 1e-4)
        exact = min(statistics.median(highs(net, row, o).seconds for row in x[:samples]) for o in EXACT.values())
        print(
            f"\nOther ways: tilt, n = {n}, width {width}, batch {batch}, tol 1e-4; solvers by name have {limit:g} s; "
            f"other packages solve {samples} samples, times {batch}: extrapolated"
        )
        head("way", "seconds for the batch", "in exact solves", "certified", "median gap", "largest gap")
        for name in OVER_BOXES:
            if name not in ("auto", "lp") and not (name == "bundle" and n > 20):
                seconds, found = timed(net, x, box, 1e-4, solver=name, time_limit=limit, max_steps=10**6)
                gaps = relative(net, x, found)
                certain, middle, worst = share(found.converged), f"{gaps.median():.0e}", f"{gaps.max():.0e}"
                row(f"minimise, {name}", seconds, seconds / exact, certain, middle, worst)
        for solver in cvxpy_solvers():
            peer = Parametrised(net, x[0], solver)
            seconds = batch * statistics.median(peer(one)[0] for one in x[:samples])
            row(f"CVXPY with a parameter, {solver}", seconds, seconds / exact, "", "", "")
        forth, back = layered(net, x[:samples])
        if forth is not None and back is not None:
            forth, back = forth * batch, back * batch
            row("cvxpylayers", forth, forth / exact, "", "", "")
            row("cvxpylayers, backward", back, back / exact, "", "", "")


def layered(net: Network, x: Tensor) -> tuple[float | None, float | None]:
    """Seconds a sample of cvxpylayers, forward and backward; None, and a line that says so, where it is missing."""
    compiled = layer(net)
    if compiled is None:
        print("cvxpylayers is not installed and is left out: pip install cvxpylayers")
        return None, None
    wanted = x.clone().requires_grad_()
    compiled(wanted[:1])
    start = time.process_time()
    y = compiled(wanted)
    between = time.process_time()
    y.sum().backward()
    return (between - start) / len(x), (time.process_time() - between) / len(x)


def small(batch: int, samples: int, rounds: int) -> None:
    """10-64-64-1, where a warm simplex is strong."""
    net, x, box = problem("random", 10, batch, 64)
    timed(net, x[:2], box, 1e-4)
    print(
        f"\nSmall network 10-64-64-1, random, batch {batch}; milliseconds a sample. HiGHS warm: one model, other costs "
        f"and right-hand sides, started from the last basis. Single solves: medians of {samples} samples"
    )
    head("way", "ms a sample", "speed / HiGHS warm", "certified", "largest (value - LP)/size")
    peer = Warm(net, x[-1])
    runs = [peer(one) for one in x[:samples]]
    warm = statistics.median(seconds for seconds, _ in runs)
    optimum = torch.tensor([value for _, value in runs])
    size = torch.maximum(optimum.abs(), net(x, torch.zeros(len(x), 10).double())[:samples] - optimum)

    def show(way: str, seconds: float, values: Tensor | None, certain: str = "") -> None:
        worst = "" if values is None else f"{((values[:samples] - optimum) / size).abs().max():.0e}"
        row(way, 1e3 * seconds, warm / seconds, certain, worst)

    show("HiGHS warm", warm, None)
    for tol in (1e-4, 1e-6):
        times, found = zip(*(timed(net, x, box, tol) for _ in range(rounds)), strict=True)
        show(f"minimise {tol:.0e}", statistics.median(times) / batch, found[0].value, share(found[0].converged))
    cold = [highs(net, one, {"solver": "simplex"}) for one in x[:samples]]
    show("HiGHS cold", statistics.median(one.seconds for one in cold), torch.tensor([one.value for one in cold]))
    for solver in cvxpy_solvers():
        other = Parametrised(net, x[0], solver)
        runs = [other(one) for one in x[:samples]]
        show(f"CVXPY, {solver}", statistics.median(s for s, _ in runs), torch.tensor([value for _, value in runs]))
    forth, back = layered(net, x)
    if forth is not None and back is not None:
        show("cvxpylayers", forth, None)
        show("cvxpylayers, backward", back, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = ("goals", "derivatives", "others", "small")
    parser.add_argument("--only", nargs="+", choices=every, default=every)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--rounds", type=int, default=3, help="a third of them for n > 100 and width > 600")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds for each solver by name")
    parser.add_argument("--smoke", action="store_true", help="tiny networks: does it run?")
    options = parser.parse_args()
    torch.set_num_threads(1)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "highspy", "cvxpy"))
    load = os.getloadavg()[0]
    print(f"{versions}, {platform.machine()}, 1 thread of {os.cpu_count()}, load {load:.1f}; processor times")
    smoke = options.smoke
    sections: dict[str, Callable[[], None]] = {
        "goals": lambda: goals(SMOKE if smoke else GROUPS, options.families, options.rounds),
        "derivatives": lambda: derivatives(*((5, 8, 30) if smoke else (20, 256, 600)), options.rounds),
        "others": lambda: others(*(((2,), 4, 30) if smoke else ((2, 20), 256, 600)), options.limit, 2 if smoke else 3),
        "small": lambda: small(*((20, 5) if smoke else (1000, 200)), options.rounds),
    }
    for name in options.only:
        sections[name]()
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
