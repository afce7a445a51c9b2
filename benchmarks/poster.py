"""The poster's picture, "Inference in a 600L-600L ICNN", measured: time against certified accuracy, for every solver.

Run: python benchmarks/poster.py [--n 2 20 100 500] [--batch 1 16 256] [--limits 3 6 15] [--samples 3]
     [--solvers newton bundle ...] [--record benchmarks/minimise.jsonl] [--smoke]

The network of `workload/icnn.py`, family tilt, for every number of variables and batch. Each of our solvers is asked
for 1e-2, 1e-3, 1e-4 and 1e-6 in turn, until it does not get there in its time limit (in seconds, one for each batch);
what it had certified by then is its last point. HiGHS and CVXPY take samples one by one, so that their seconds hold
for every batch; CVXPY takes only one of more than 100 variables, which lasts half a minute. The gaps of HiGHS are what
its duals certify; CVXPY's, which come without, are distances from the bound of HiGHS. Processor times of one thread,
warm. The bundle is left out beyond 20 variables, and a batch of 256 beyond 100, which is solved in parts smaller than
16 anyway.

With `--record` the rows are written to a file, one JSON object a line; `docs/pictures/minimise.py` draws it.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from workload.icnn import EXACT, INEXACT, OVER_BOXES, Network, highs, problem, relative, timed
from workload.peers import Parametrised, cvxpy_solvers

import convexnet as cx
from convexnet.lab.runs.records import commit, hardware, versions, write_records

OURS = tuple(name for name in OVER_BOXES if name not in ("auto", "lp"))
LADDER = (1e-2, 1e-3, 1e-4, 1e-6)
FEW, MANY = 20, 100
"""Beyond these, no bundle, and no batch of more than 16."""

Row = dict[str, Any]


def looser(options: dict[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
    """The same variant of HiGHS at other tolerances."""
    name = next(key for key in options if "tolerance" in key)
    for tol in (1e-2, *LADDER[2:]):
        yield tol, {**options, name: tol}


def by_others(net: Network, x: Tensor, samples: int) -> list[Row]:
    """HiGHS and CVXPY, one sample after the other: medians of seconds and gaps."""
    rows: list[Row] = []
    few = x[:samples]
    sizes = [net(one[None], torch.zeros(1, net.n).double()).item() for one in few]
    variants = [(name, None, options) for name, options in EXACT.items()]
    variants += [(name.replace(" 1e-4", ""), tol, o) for name, given in INEXACT.items() for tol, o in looser(given)]
    bounds = [-float("inf")] * len(few)
    for name, tol, options in variants:
        found = [highs(net, one, options) for one in few]
        bounds = [max(old, one.bound) for old, one in zip(bounds, found, strict=True)]
        gaps = [one.gap(size) for one, size in zip(found, sizes, strict=True)]
        finished = sum(one.finished for one in found) / len(found)
        seconds = statistics.median(one.seconds for one in found)
        rows.append({**row(f"HiGHS {name}", tol, seconds, gaps, finished), "samples": len(few)})
    for solver in cvxpy_solvers():
        peer, spent, gaps = Parametrised(net, few[0], solver), [], []
        tried = few if net.n <= MANY else few[:1]
        for one, size, bound in zip(tried, sizes, bounds, strict=False):
            spent.append(peer(one)[0])
            value = net(one[None], torch.as_tensor(peer.point).double().clamp(-1, 1)[None]).item()
            gaps.append((value - bound) / max(abs(value), size - value))
        rows.append({**row(f"CVXPY {solver}", None, statistics.median(spent), gaps, 1.0), "samples": len(tried)})
    return rows


def by_us(net: Network, x: Tensor, box: cx.Box, limit: float, names: Iterable[str]) -> Iterator[Row]:
    """Our solvers, up the ladder as far as the limit allows."""
    for name in names:
        if name == "bundle" and net.n > FEW:
            continue
        for tol in LADDER:
            seconds, solution = timed(net, x, box, tol, solver=name, time_limit=limit, max_steps=10**6)
            gaps = relative(net, x, solution).tolist()
            converged = float(solution.converged.double().mean())
            yield row(f"minimise {name}", tol, seconds / len(x), gaps, converged)
            if converged < 1:
                break


def row(solver: str, tol: float | None, seconds: float, gaps: list[float], share: float) -> Row:
    """One point of the picture; what is the same for many is added later."""
    median, largest = statistics.median(gaps), max(gaps)
    kept = {"gap_median": finite(median), "gap_largest": finite(largest)}
    return {"solver": solver, "tol": tol, "seconds_per_sample": seconds, "share": share, **kept}


def finite(number: float) -> float | None:
    """JSON knows no infinity."""
    return number if abs(number) < float("inf") else None


def show(rows: Iterable[Row]) -> None:
    for one in rows:
        tol = "" if one["tol"] is None else f"{one['tol']:.0e}"
        gaps = [f"{one[key]:.1e}" if one[key] is not None else "none" for key in ("gap_median", "gap_largest")]
        cells = [one["n"], one["batch"], one["solver"], tol, f"{1e3 * one['seconds_per_sample']:.3g}", *gaps]
        print("| " + " | ".join(map(str, cells)) + f" | {one['share']:.0%} |", flush=True)


def measure(options: argparse.Namespace) -> list[Row]:
    """All rows, and the table of them."""
    head = ("n", "batch", "solver", "tol", "ms a sample", "median gap", "largest gap", "done")
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    width = 30 if options.smoke else 600
    rows: list[Row] = []
    for n in options.n:
        net, x, box = problem("tilt", n, max(options.batch), width)
        timed(net, x[:2], box, 1e-4)
        shared = {"benchmark": "minimise", "family": "tilt", "n": n, "width": width}
        others = by_others(net, x, options.samples) if options.samples else []
        for batch, limit in zip(options.batch, options.limits, strict=True):
            if n > MANY and batch > 16:
                continue
            own = [*by_us(net, x[:batch], box, limit, options.solvers)]
            cell = [{**shared, "batch": batch, "samples": batch, "limit": limit, **one} for one in own]
            cell += [{**shared, "batch": batch, "limit": None, **one} for one in others]
            show(cell)
            rows += cell
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[2, 20, 100, 500])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--limits", type=float, nargs="+", default=[3, 6, 15], help="seconds, one for each batch")
    parser.add_argument("--samples", type=int, default=3, help="that HiGHS and CVXPY solve; 0: leave them out")
    parser.add_argument("--solvers", nargs="+", choices=OURS, default=OURS, help="of ours")
    parser.add_argument("--record", type=Path, help="where to write the rows")
    parser.add_argument("--smoke", action="store_true", help="tiny networks: does it run?")
    options = parser.parse_args()
    if options.smoke:
        options.n, options.batch, options.limits, options.samples = [2, 5], [1, 4], [1, 1], 2
    torch.set_num_threads(1)
    named = {name: metadata.version(name) for name in ("highspy", "cvxpy")}
    same = {"seed": 0, "hardware": hardware(), "versions": {**versions(), **named}, "commit": commit()}
    same |= {"load": round(os.getloadavg()[0], 2), "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
    print(f"torch {torch.__version__}, highspy {named['highspy']}, one thread, load {same['load']}; processor times\n")
    rows = [{**one, **same} for one in measure(options)]
    if options.record is not None:
        write_records(options.record, rows)


if __name__ == "__main__":
    main()
