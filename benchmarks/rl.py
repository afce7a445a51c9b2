"""Choosing actions by a Q that is convex in them: beside a CVXPY solve for each state; and steps a second of learning.

Run: python benchmarks/rl.py [--states 256] [--peer 16] [--rounds 3] [--updates 100] [--smoke]

A negated Q of the ICNN paper's shape (200-200, leaky ReLU), random weights, states of 3 and 11 numbers with 1 and 2
actions, as Pendulum and Reacher have them. "exact" is `Minimiser` to a gap of 1e-4 of the rise of f, proved, with all
that a caller pays; the tangents are what targets of learning get, without a proof. The peer is one CVXPY solve a
state, by Clarabel, with the network as `to_cvxpy` writes it at that state, timed on some states and counted for all;
what the solver alone takes stands beside it. "One state" is acting: from a start near by, and from nothing. Learning
is Pendulum with one update of 256 transitions a step. Processor times, one thread, medians over rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import convexnet as cx
from convexnet.rl import QLearning, Settings, make, negated_q
from convexnet.rl.argmin import bundle_entropy, cutting_planes
from convexnet.rl.networks import function_at

SIZES = ((3, 1), (11, 2))


def median(way: Callable[[], object], rounds: int) -> float:
    """Processor seconds."""
    taken: list[float] = []
    for _ in range(rounds):
        start = time.process_time()
        way()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def solve_each(net: torch.nn.Module, states: Tensor, actions: int) -> list[tuple[float, float]]:
    """The least value of each state by CVXPY, one after the other, and the seconds of its solver alone."""
    import cvxpy as cp

    found: list[tuple[float, float]] = []
    for state in states:
        a = cp.Variable(actions)
        problem = cp.Problem(cp.Minimize(cx.to_cvxpy(net, a, (state,))), [a >= -1, a <= 1])
        data, chain, inverse = problem.get_problem_data(cp.CLARABEL, solver_opts={})
        start = time.process_time()
        answer = chain.solve_via_data(problem, data, solver_opts={})
        took = time.process_time() - start
        problem.unpack_results(answer, chain, inverse)
        found.append((float(problem.value), took))
    return found


def choosing(states: int, actions: int, options: argparse.Namespace, hidden: tuple[int, ...]) -> str:
    """A row of the first table."""
    torch.manual_seed(0)
    net = negated_q(states, actions, hidden).requires_grad_(False)
    s, start = torch.randn(options.states, states), torch.zeros(options.states, actions)
    solver = cx.Minimiser(net, cx.Box(-1.0, 1.0, shape=actions), tol=1e-4)
    exact = solver(s)
    one, near = solver(s[:1]), s[:1] + 0.01
    f = function_at(net, s)
    nothing = torch.zeros(0, actions).double(), torch.zeros(0).double()
    few = bundle_entropy(f, start, 5, 0.05)
    seconds = {
        "exact": median(lambda: solver(s), options.rounds),
        "entropy": median(lambda: bundle_entropy(f, start, 5, 0.05), options.rounds),
        "planes": median(lambda: cutting_planes(f, start, nothing, torch.zeros(actions), 5), options.rounds),
        "cold": median(lambda: solver(s[:1]), 5 * options.rounds),
        "warm": median(lambda: solver(near, start=one), 5 * options.rounds),
    }
    peers: list[tuple[float, float]] = []
    seconds["peer"] = median(lambda: peers.extend(solve_each(net, s[: options.peer], actions)), 1)
    seconds["peer"] *= options.states / options.peer
    alone = sum(took for _, took in peers) * options.states / options.peer
    least = torch.tensor([value for value, _ in peers], dtype=torch.float64)
    off = float((exact.value[: options.peer] - least).abs().max())
    assert off <= 1e-4 * (1 + float(exact.value.abs().max())), "both find the same least values"
    excess = float((few.values - exact.lower_bound).mean() / (exact.value.std() + 1e-12))
    cells = (
        f"{states}, {actions}", f"{seconds['peer']:.2f}", f"{alone:.2f}", f"{seconds['exact']:.3f}",
        f"{int(exact.converged.sum())}/{options.states}", f"{seconds['peer'] / seconds['exact']:.0f}",
        f"{alone / seconds['exact']:.0f}", f"{1e3 * seconds['entropy']:.1f}", f"{1e3 * seconds['planes']:.1f}",
        f"{excess:.1e}",
        f"{1e3 * seconds['cold']:.1f}", f"{1e3 * seconds['warm']:.1f}",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def learning(options: argparse.Namespace, given: dict[str, Any]) -> str:
    """Steps a second, and where the time goes."""
    warmup = max(300, given.get("batch", 256))
    settings = Settings(warmup=warmup, every=20_000, **given)
    learner = QLearning(lambda: make("Pendulum-v1"), settings)
    for _ in range(warmup):
        learner.one_step()
    learner.seconds = dict.fromkeys(learner.seconds, 0.0)
    start = time.process_time()
    for _ in range(options.updates):
        learner.one_step()
    taken = time.process_time() - start
    shares = ", ".join(f"{name} {100 * value / taken:.0f} %" for name, value in learner.seconds.items() if value)
    return f"{options.updates / taken:.1f} steps a second with one update a step ({shares})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--states", type=int, default=256)
    parser.add_argument("--peer", type=int, default=16, help="states that CVXPY solves")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--smoke", action="store_true", help="a tiny network: does it run?")
    options = parser.parse_args()
    if options.smoke:
        options.states, options.peer, options.rounds, options.updates = 4, 2, 1, 3
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="cvxpy")
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, 1 thread of {os.cpu_count()}, load {load:.1f}; {options.states} states\n")
    head = (
        "state, actions",
        "CVXPY s",
        "its solver s",
        "exact s",
        "certified",
        "ratio",
        "to the solver",
        "entropy, 5 tangents, ms",
    )
    head = (*head, "planes, 5 tangents, ms", "excess of the former, of the spread", "one state, cold, ms", "warm, ms")
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    hidden = (16, 16) if options.smoke else (200, 200)
    for states, actions in SIZES:
        print(choosing(states, actions, options, hidden), flush=True)
    small = {"batch": 8, "hidden": hidden} if options.smoke else {}
    print()
    for acting in ("cutting-planes", "exact"):
        print(f"acting {acting}: {learning(options, {**small, 'acting': acting})}", flush=True)


if __name__ == "__main__":
    main()
