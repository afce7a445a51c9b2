"""One problem after the other, as in a control loop: a network, a box, and a `given` that drifts.

    python benchmarks/one_after_another.py [--smoke] [--steps N]

Processor times of one thread, medians over the steps: `minimise` as a function, a `Minimiser`, which has read the
network before, and the same with the last solution as its start; and a simplex of HiGHS that is kept and goes on from
its last basis. Every solution is certified to 1e-6, and compared with HiGHS's.

For networks whose `given` multiplies layers, the linear program gets its numbers from `to_lp(...).update`, which is not
counted; the run is.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from workload.icnn import problem
from workload.peers import Warm

import convexnet as cx

TOL = 1e-6
DRIFTS = (1e-5, 1e-3)
"""How far `given` moves in a step: kinks that hold the minimiser mostly stay, or many change."""


def updated(f: nn.Module, box: cx.Box, x: Tensor) -> Callable[[Tensor], tuple[float, float]]:
    """HiGHS, kept, for a network whose layers `given` multiplies."""
    lp: Any = cx.to_lp(f, box, x)
    for name, value in {"threads": 1, "solver": "simplex"}.items():
        lp.setOptionValue(name, value)
    lp.run()

    def run(x: Tensor) -> tuple[float, float]:
        lp.update(x)
        start = time.process_time()
        lp.run()
        return time.process_time() - start, lp.getInfo().objective_function_value

    return run


def compare(
    name: str, f: nn.Module, box: cx.Box, path: list[Tensor], peer: Callable[[Tensor], tuple[float, float]]
) -> None:
    """One row of the table."""
    solver = cx.Minimiser(f, box, tol=TOL)
    latest = solver(path[0][None])
    quick = certified = 0
    times: dict[str, list[float]] = {"minimise": [], "Minimiser": [], "warm": [], "HiGHS warm": []}
    worst = 0.0

    def timed(way: str, call: Callable[[], cx.Solution]) -> cx.Solution:
        start = time.process_time()
        found = call()
        times[way].append(time.process_time() - start)
        return found

    for x in path[1:]:
        before = latest
        latest = timed("warm", lambda x=x, before=before: solver(x[None], start=before))
        cold = timed("Minimiser", lambda x=x: solver(x[None]))
        timed("minimise", lambda x=x: cx.minimise(f, box, x[None], tol=TOL))
        seconds, optimum = peer(x)
        times["HiGHS warm"].append(seconds)
        quick += latest.solver == "active set"
        certified += bool(latest.converged & cold.converged)
        worst = max(worst, float(latest.lower_bound) - optimum, optimum - float(latest.value) - 1e-6 * abs(optimum))
    middle = [1e3 * statistics.median(times[way]) for way in times]
    cells = [f"{number:.3g}" for number in (*middle, middle[2] / middle[3])]
    steps = len(path) - 1
    print(f"| {name} | {' | '.join(cells)} | {quick}/{steps} | {certified}/{steps} | {worst:.0e} |", flush=True)


def drifting(x: Tensor, steps: int, drift: float) -> list[Tensor]:
    """A path of samples from x (d,)."""
    generator = torch.Generator().manual_seed(5)
    ways = torch.randn(steps, len(x), generator=generator).to(x)
    return [x, *(x + drift * ways.cumsum(0))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--smoke", action="store_true", help="tiny networks: does it run?")
    options = parser.parse_args()
    steps = 3 if options.smoke else options.steps
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, 1 thread of {os.cpu_count()}, load {os.getloadavg()[0]:.1f}; milliseconds a step"
    )
    names = ("network, drift", "minimise", "Minimiser", "with start", "HiGHS warm", "with start / HiGHS", "one system")
    names = (*names, "certified", "worst")
    print("\n| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for drift in DRIFTS:
        for n, hidden in ((2, (8, 8)),) if options.smoke else ((5, (32, 32)), (20, (200, 600))):
            torch.manual_seed(0)
            f = cx.nn.PICNN(4, n, hidden=hidden, activation="relu").double()
            box, path = cx.Box(-1, 1, shape=n), drifting(torch.randn(4).double(), steps, drift)
            name = f"PICNN {n}-{'-'.join(map(str, hidden))}, {drift:.0e}"
            with torch.no_grad():
                compare(name, f, box, path, updated(f, box, path[0]))
        for n, width in ((2, 8),) if options.smoke else ((5, 32), (20, 200), (20, 600)):
            net, x, box = problem("tilt", n, 1, width)
            path = drifting(x[0], steps, drift)
            with torch.no_grad():
                compare(f"tilt {n}-{width}-{width}, {drift:.0e}", net, box, path, Warm(net, path[0]))


if __name__ == "__main__":
    main()
