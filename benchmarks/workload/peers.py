"""Other ways to the same minima, ready to be timed: each compiles its model first, and then takes one x after another.

`Warm` is HiGHS with one model whose costs and bounds change, started from the last basis; `Parametrised` is CVXPY with
`to_cvxpy` and x as a parameter (DPP); `layer` is cvxpylayers, the differentiable peer, with the same program by hand.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from workload.icnn import Network, parts, program

import convexnet as cx


class Warm:
    """HiGHS, kept: a new sample changes costs and right-hand sides of one model."""

    def __init__(self, net: Network, x: Tensor) -> None:
        import highspy

        self.net = net
        self.solver = highspy.Highs()
        for name, value in {"output_flag": False, "threads": 1, "solver": "simplex"}.items():
            self.solver.setOptionValue(name, value)
        self.solver.passModel(program(net, x))
        self.solver.run()
        self.rows = np.arange(sum(net.W.shape), dtype=np.int32)
        self.columns = np.arange(net.n, dtype=np.int32)

    def __call__(self, x: Tensor) -> tuple[float, float]:
        """Seconds and the optimum; getting the numbers ready is not counted."""
        b1, b2, slope = parts(self.net, x)
        upper, cost = -torch.cat([b1, b2]).numpy(), slope.numpy()
        lower = np.full(len(upper), -np.inf)
        start = time.process_time()
        self.solver.changeColsCost(len(cost), self.columns, cost)
        self.solver.changeRowsBounds(len(upper), self.rows, lower, upper)
        self.solver.run()
        seconds = time.process_time() - start
        return seconds, self.solver.getInfo().objective_function_value


class Parametrised:
    """CVXPY, compiled once; every x is a new value of its parameter."""

    def __init__(self, net: Network, x: Tensor, solver: str) -> None:
        import cvxpy as cp

        self.solver = solver
        self.y = cp.Variable(net.n)
        self.x = cp.Parameter(len(x), value=x.numpy())
        self.problem = cp.Problem(cp.Minimize(cx.to_cvxpy(net, self.y, given=self.x)), [self.y >= -1, self.y <= 1])
        assert self.problem.is_dpp()
        self.problem.get_problem_data(solver)  # compiles it

    def __call__(self, x: Tensor) -> tuple[float, float]:
        """Seconds and the optimum."""
        start = time.process_time()
        self.x.value = x.numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that ECOS is no longer CVXPY's default, and of inaccurate solutions
            self.problem.solve(solver=self.solver)
        return time.process_time() - start, float(self.problem.value)

    @property
    def point(self) -> Any:
        """The last minimiser."""
        return self.y.value


def cvxpy_solvers() -> list[str]:
    """Of the two that the poster and today's CVXPY use, those that are installed."""
    import cvxpy as cp

    return [name for name in ("ECOS", "CLARABEL") if name in cp.installed_solvers()]


def layer(net: Network) -> Any:
    """A function from x (B, ...) to y (B, n) by cvxpylayers; None where it is not installed."""
    try:
        from cvxpylayers.torch import CvxpyLayer
    except ImportError:
        return None
    import cvxpy as cp

    second, first = net.W.shape
    y, z1, z2 = cp.Variable(net.n), cp.Variable(first, nonneg=True), cp.Variable(second, nonneg=True)
    b1, b2, slope = cp.Parameter(first), cp.Parameter(second), cp.Parameter(net.n)
    rows = [
        z1 >= net.U1.numpy() @ y + b1,
        z2 >= net.W.numpy() @ z1 + net.U2.numpy() @ y + b2,
        y >= -1,
        y <= 1,
    ]
    compiled = CvxpyLayer(
        cp.Problem(cp.Minimize(net.w.numpy() @ z2 + slope @ y), rows), parameters=[b1, b2, slope], variables=[y]
    )

    def minimisers(x: Tensor, **options: Any) -> Tensor:
        each = [torch.stack(part) for part in zip(*(parts(net, row) for row in x), strict=True)]
        return compiled(*each, solver_args=options)[0]

    return minimisers
