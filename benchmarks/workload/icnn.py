"""What `minimise.py` and `poster.py` minimise: a fully input-convex network of two layers; and what HiGHS makes of it.

    f(x, y) = w z2 + (u + A3 c + t) y,    z2 = relu(W z1 + U2 y + b2 + A2 c),    z1 = relu(U1 y + b1 + A1 c)

over y in [-1, 1]^n, with W, w >= 0 and x = (c, t): every sample has constants and a slope of its own. This is the
poster's network of 600 and 600 units with pass-through, seen through an input. The linear programs and the bounds from
their duals are written out here, from the weights: they share nothing with the library that they are compared with.

The clock is the processor time of this process, which has one thread: it leaves out the turns of other processes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.choices import SOLVERS

OVER_BOXES = tuple(name for name in SOLVERS if name != "bundle-entropy")
"""The solvers that this workload can ask for by name: without the one for functions with an entropy."""

CONTEXT = 8
"""Length of c."""

FAMILIES = ("tilt", "random", "trained")


class Network(nn.Module):
    """f(x, y) as above, in float64; x is (B, CONTEXT + n), y (B, n), the result (B,)."""

    def __init__(self, n: int, hidden: tuple[int, int] = (600, 600), seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        first, second = hidden

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=g, dtype=torch.float64))

        self.n = n
        self.U1, self.U2, self.u = normal(first, n), normal(second, n), normal(n)
        self.W, self.w = normal(second, first), normal(second)
        self.b1, self.b2 = normal(first), normal(second)
        self.A1, self.A2, self.A3 = normal(first, CONTEXT), normal(second, CONTEXT), normal(n, CONTEXT)
        with torch.no_grad():  # activations, slopes and what x changes are all of order 1
            for tensor, scale in ((self.U1, 1), (self.U2, 1), (self.u, 0.3)):
                tensor.mul_(scale * n**-0.5)
            self.W.abs_().div_(first)
            self.w.abs_().div_(second)
            self.b1.mul_(0.5)
            self.b2.mul_(0.5).sub_(0.4)
            for tensor, scale in ((self.A1, 0.5), (self.A2, 0.5), (self.A3, 0.5 * n**-0.5)):
                tensor.mul_(scale * CONTEXT**-0.5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        c, t = x[:, :CONTEXT], x[:, CONTEXT:]
        z = (y @ self.U1.T + c @ self.A1.T + self.b1).relu()
        z = (z @ self.W.T + y @ self.U2.T + c @ self.A2.T + self.b2).relu()
        return z @ self.w + (y * (self.u + c @ self.A3.T + t)).sum(1)


def problem(family: str, n: int, batch: int, width: int = 600, seed: int = 0) -> tuple[Network, Tensor, cx.Box]:
    """A network, x for a batch, and the box.

    Args:
        family: "random": as drawn; more than half of the coordinates end at bounds. "tilt": t takes away the mean slope
            around a random point, so that the minimiser lies between kinks inside of the box: the hard case. (Taking
            away a single subgradient instead makes the point a minimiser, in a cell that is flat and easy for
            first-order methods.)
            "trained": fitted to distances from a point that depends on c.
        n: the number of variables.
        batch: the number of samples.
        width: units in each of the two layers.
        seed: of everything.
    """
    net = Network(n, (width, width), seed)
    g = torch.Generator().manual_seed(seed + 1)
    x = torch.cat([torch.randn(batch, CONTEXT, generator=g), torch.zeros(batch, n)], 1).double()
    if family == "trained":
        train(net, g)
    elif family == "tilt":
        middle = 1.8 * torch.rand(batch, n, generator=g).double() - 0.9
        slope = torch.zeros_like(middle)
        for _ in range(32):
            y = (middle + 0.3 * torch.randn(batch, n, generator=g).double()).requires_grad_()
            slope += torch.autograd.grad(net(x, y).sum(), y)[0] / 32
        x[:, CONTEXT:] = -slope
    net.requires_grad_(False)
    return net.eval(), x, cx.Box(-1, 1, shape=(n,))


def train(net: Network, g: torch.Generator, steps: int = 300) -> None:
    """Fit the network to |S (y - m(c))|_1, whose minimiser m moves with c, by Adam with clipped weights."""
    n = net.n
    across, moved = torch.randn(2 * n, n, generator=g) / n, torch.randn(CONTEXT, n, generator=g) / CONTEXT**0.5
    net.float()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    example = (torch.zeros(2, CONTEXT + n), torch.zeros(2, n))
    cx.constrain(net, example, method="clip", wrt=1).attach(optimizer)
    for _ in range(steps):
        c, y = torch.randn(256, CONTEXT, generator=g), 2 * torch.rand(256, n, generator=g) - 1
        target = ((y - 0.8 * (c @ moved).tanh()) @ across.T).abs().sum(1)
        optimizer.zero_grad()
        nn.functional.mse_loss(net(torch.cat([c, torch.zeros(256, n)], 1), y), target).backward()
        optimizer.step()
    net.double()


# --- HiGHS -----------------------------------------------------------------------------------------------------------

EXACT: dict[str, dict[str, Any]] = {"simplex": {"solver": "simplex"}, "ipm + crossover": {"solver": "ipm"}}
INEXACT: dict[str, dict[str, Any]] = {
    "ipm 1e-4, no crossover": {"solver": "ipm", "run_crossover": "off", "ipm_optimality_tolerance": 1e-4},
    "hipdlp 1e-4": {"solver": "hipdlp", "pdlp_optimality_tolerance": 1e-4},
}


@dataclass
class Solved:
    """What HiGHS finds for one sample: seconds of `run` alone, the point, f there, and the bound its duals give.

    `finished` says that it ended before its time limit; of an inexact variant HiGHS itself calls the result unknown.
    """

    seconds: float
    y: Tensor  # (n,)
    value: float
    bound: float
    finished: bool

    def gap(self, centre: float) -> float:
        """Certified, relative to the size that `minimise` uses."""
        return (self.value - self.bound) / max(abs(self.value), centre - self.value, 1e-12)


def parts(net: Network, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Constants of both layers and the slope, for one x."""
    c, t = x[:CONTEXT], x[CONTEXT:]
    return net.b1 + net.A1 @ c, net.b2 + net.A2 @ c, net.u + net.A3 @ c + t


def program(net: Network, x: Tensor) -> Any:
    """The linear program of one sample as a `highspy.HighsLp`: columns y, z1, z2; rows a1 - z1 <= 0, a2 - z2 <= 0."""
    import highspy
    import scipy.sparse as sparse

    n, (second, first) = net.n, net.W.shape
    b1, b2, slope = parts(net, x)
    matrix = sparse.bmat(
        [[net.U1.numpy(), -sparse.eye(first), None], [net.U2.numpy(), net.W.numpy(), -sparse.eye(second)]], format="csc"
    )
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = matrix.shape
    lp.col_cost_ = np.concatenate([slope.numpy(), np.zeros(first), net.w.numpy()])
    lp.col_lower_ = np.concatenate([np.full(n, -1.0), np.zeros(first + second)])
    lp.col_upper_ = np.concatenate([np.full(n, 1.0), np.full(first + second, np.inf)])
    lp.row_lower_ = np.full(first + second, -np.inf)
    lp.row_upper_ = -torch.cat([b1, b2]).numpy()
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
    return lp


def highs(net: Network, x: Tensor, options: dict[str, Any], limit: float = 120.0) -> Solved:
    """Solve one sample; the model is ready before the clock starts."""
    import highspy

    solver = highspy.Highs()
    for name, value in {"output_flag": False, "threads": 1, "time_limit": limit, **options}.items():
        assert solver.setOptionValue(name, value) == highspy.HighsStatus.kOk, name
    solver.passModel(program(net, x))
    start = time.process_time()
    solver.run()
    seconds = time.process_time() - start
    solution = solver.getSolution()
    finished = solver.getModelStatus() != highspy.HighsModelStatus.kTimeLimit
    y = torch.tensor(solution.col_value[: net.n]).double().clamp(-1, 1)
    if len(y) < net.n:  # out of time, without a point
        return Solved(seconds, torch.zeros(net.n).double(), float("inf"), float("-inf"), False)
    return Solved(seconds, y, net(x[None], y[None]).item(), bound(net, x, solution.row_dual), finished)


def bound(net: Network, x: Tensor, duals: Any) -> float:
    """A lower bound of the minimum from any multipliers of the rows, clipped to those that give one."""
    b1, b2, slope = parts(net, x)
    second, first = net.W.shape
    values = -torch.tensor(list(duals)).double()
    if len(values) < first + second:
        return float("-inf")
    m2 = torch.minimum(values[first:].clamp(min=0), net.w)
    m1 = torch.minimum(values[:first].clamp(min=0), net.W.T @ m2)
    g = slope + net.U2.T @ m2 + net.U1.T @ m1
    return float(m2 @ b2 + m1 @ b1 - g.abs().sum())


# --- ours ------------------------------------------------------------------------------------------------------------


def timed(net: nn.Module, x: Tensor, box: cx.Box, tol: float, **options: Any) -> tuple[float, cx.Solution]:
    """One call of `minimise`, up to a gap of tol in this benchmark's own size of f, which a call before it tells."""
    with torch.no_grad():
        size = size_of(net, x, cx.minimise(net, box, given=x, tol=tol))
    start = time.process_time()
    solution = cx.minimise(net, box, given=x, tol=1e-15, atol=tol * size, **options)
    return time.process_time() - start, solution


def size_of(net: nn.Module, x: Tensor, solution: cx.Solution) -> Tensor:
    """What gaps are compared with here: the larger of |f| and of what f falls by from the centre, (B,)."""
    centre = net(x, torch.zeros_like(solution.x)).detach()
    value = solution.value.detach()
    return torch.maximum(value.abs(), centre - value).clamp(min=1e-12)


def relative(net: nn.Module, x: Tensor, solution: cx.Solution) -> Tensor:
    """Certified gaps of a solution, relative to the size of f, (B,)."""
    return solution.gap.detach() / size_of(net, x, solution)
