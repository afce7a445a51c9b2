"""Batches over a simplex, a polyhedron and a ball, next to CVXPY with x as a parameter.

    python benchmarks/domains.py [--batch 256] [--n 10] [--rounds 5] [--few 8] [--smoke]

A ReLU PICNN of two layers of 32 units is minimised over y for a batch of x, certified to 1e-4. CVXPY compiles its
problem once, with x as a parameter (DPP, by `to_cvxpy`), and then takes one x after the other. Its solvers are Clarabel
as it comes, and, at tolerances of 1e-4, all that take the problem: Clarabel, SCS and OSQP; the quickest of these is the
"inexact" one.

A round times `minimise` on the whole batch (which includes all that a caller pays but the first trace, the proof of
the bounds included), and at once every peer on a few samples, other ones in each round; a peer's seconds are
**extrapolated** to the batch. Processor times of one thread, medians of the rounds and of their ratios. Values and
bounds are compared with the optimum that Clarabel finds with its own tolerances.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import convexnet as cx

TOL = 1e-4
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "Clarabel": ("CLARABEL", {}),
    "Clarabel 1e-4": ("CLARABEL", dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), TOL)),
    "SCS 1e-4": ("SCS", {"eps_abs": TOL, "eps_rel": TOL}),
    "OSQP 1e-4": ("OSQP", {"eps_abs": TOL, "eps_rel": TOL}),
}
"""Peers: CVXPY's name of a solver, and its options. The first is exact."""

EXACT, *INEXACT = WAYS


def domains(n: int) -> dict[str, cx.Domain]:
    """The sets, each with its inside near 0 or, for the simplex, at 1 / n."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(2 * n, n, generator=generator, dtype=torch.float64)
    right = 0.5 * torch.linalg.vector_norm(rows, dim=1)
    return {
        "simplex": cx.Simplex(n),
        "polyhedron": cx.Polyhedron(rows, right, within=cx.Box(-1, 1, shape=n)),
        "ball": cx.Ball(n, radius=1.0),
    }


class Parametrised:
    """CVXPY's problem over a domain, compiled once for a solver; every x is a new value of its parameter."""

    def __init__(self, f: nn.Module, domain: cx.Domain, x: Tensor, way: str) -> None:
        import cvxpy as cp

        self.solver, self.options = WAYS[way]
        n = domain.shape[0]
        y, self.x = cp.Variable(n), cp.Parameter(len(x), value=x.numpy())
        if isinstance(domain, cx.Simplex):
            rows = [y >= 0, cp.sum(y) == 1]
        elif isinstance(domain, cx.Polyhedron) and domain.below is not None:
            rows = [domain.below.matrix.numpy() @ y <= domain.below.right.numpy().ravel(), y >= -1, y <= 1]
        else:
            rows = [cp.norm2(y) <= 1]
        self.problem = cp.Problem(cp.Minimize(cx.to_cvxpy(f, y, given=self.x)), rows)
        assert self.problem.is_dpp()
        self(x)  # compiles it

    def __call__(self, x: Tensor) -> float:
        """The optimum."""
        self.x.value = x.numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of inaccurate solutions, which are asked for
            self.problem.solve(solver=self.solver, **self.options)
        return float(self.problem.value)


@dataclass
class Row:
    """Seconds of the batch in each round; a peer's are extrapolated."""

    ours: list[float]
    peers: dict[str, list[float]]
    certified: int
    worst: float

    def median(self, way: str) -> float:
        return statistics.median(self.peers[way])

    def ratio(self, way: str) -> float:
        return statistics.median(theirs / own for theirs, own in zip(self.peers[way], self.ours, strict=True))


def measure(
    name: str, f: nn.Module, domain: cx.Domain, x: Tensor, options: argparse.Namespace, notes: list[str]
) -> Row:
    """All ways to the minima over one domain; `notes` is told of the solvers that do not take it."""
    solve = cx.Minimiser(f, domain, tol=TOL)
    solution = solve(x)
    peers: dict[str, Parametrised] = {}
    for way in WAYS:
        try:
            peers[way] = Parametrised(f, domain, x[0], way)
        except Exception as error:  # a solver that is not installed, or does not take this cone
            notes.append(f"{name}: without {way} ({type(error).__name__})")
    row = Row([], {way: [] for way in peers}, int(solution.converged.sum()), 0.0)
    for turn in range(options.rounds):
        start = time.process_time()
        solve(x)
        row.ours.append(time.process_time() - start)
        some = [(turn * options.few + i) % len(x) for i in range(options.few)]
        for way, peer in peers.items():
            start = time.process_time()
            optima = [peer(x[i]) for i in some]
            row.peers[way].append((time.process_time() - start) * len(x) / len(some))
            if way == EXACT:
                size = 1e-7 * (1 + np.abs(optima))
                above = solution.lower_bound[some].numpy() - optima - size
                below = np.array(optima) - solution.value[some].numpy() - size
                row.worst = max(row.worst, float(above.max()), float(below.max()))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--few", type=int, default=8, help="samples that a peer solves in a round")
    parser.add_argument("--smoke", action="store_true", help="a tiny network and batch: does it run?")
    options = parser.parse_args()
    width = 32
    if options.smoke:
        options.batch, options.n, options.rounds, options.few, width = 4, 3, 1, 2, 6
    torch.set_num_threads(1)
    torch.manual_seed(0)
    f = cx.nn.PICNN(4, options.n, hidden=(width, width), activation="relu").double().requires_grad_(False)
    x = torch.randn(options.batch, 4, dtype=torch.float64)
    print(f"torch {torch.__version__}, 1 thread of {os.cpu_count()}, load {os.getloadavg()[0]:.1f}")
    print(f"PICNN {options.n}-{width}-{width}, batch {options.batch}; processor seconds for the batch\n")
    head = (
        "domain",
        "minimise s",
        "certified",
        "Clarabel s",
        "ratio",
        "quickest inexact",
        "its s",
        "ratio",
        "wrong by",
    )
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    others: list[str] = []
    for name, domain in domains(options.n).items():
        row = measure(name, f, domain, x, options, others)
        quickest = min((way for way in INEXACT if way in row.peers), key=row.median)
        cells = (
            name, f"{statistics.median(row.ours):.3f}", f"{row.certified}/{options.batch}",
            f"{row.median(EXACT):.3g}", f"{row.ratio(EXACT):.1f}", quickest, f"{row.median(quickest):.3g}",
            f"{row.ratio(quickest):.1f}", f"{row.worst:.0e}",
        )  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)
        others.append(f"{name}: " + ", ".join(f"{way} {row.median(way):.3g}" for way in row.peers))
    print("\n" + "\n".join(others))


if __name__ == "__main__":
    main()
