"""The minimum of a piecewise linear convex function over a box, as a linear program for HiGHS.

    minimise c + u y + sum_k w_k z_k    subject to    z_k >= a_k,  z_k >= s_k a_k,  lo <= y <= hi

(for a largest entry: z >= each of its arguments).
Exact by convexity (Amos & Kolter 2016): at an optimum the z can be lowered to the values of the kinks.
"""

from __future__ import annotations

import math
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convexnet.curvature.call import Refusal
from convexnet.extras import need
from convexnet.form.atoms import Atom, Kinks, Smooth
from convexnet.form.epigraph import EpigraphForm
from convexnet.form.grouped import Largest
from convexnet.solve.functions.problem import Problem
from convexnet.solve.solvers.incumbents import Evidence, Incumbents
from convexnet.solve.solvers.loop import Budget


def curvature_of(atom: Atom) -> str:
    return atom.curve.name if isinstance(atom, Smooth) else type(atom).__name__.lower()


def program_of(form: EpigraphForm, sample: int, lo: Tensor, hi: Tensor) -> Any:
    """The linear program of one sample, as a `highspy.HighsLp`; columns are y, then z_1, z_2, ...

    Raises:
        Refusal: an atom is not piecewise linear.
    """
    highspy, sparse = need("highspy"), need("scipy.sparse")
    wide = [form.constants[k].shape[1] for k in range(len(form.atoms))]
    sizes = [inside // atom.group for inside, atom in zip(wide, form.atoms, strict=True)]
    starts = np.cumsum([form.size, *sizes])
    kinds = [form.size, *sizes]
    blocks: list[list[Any]] = []
    upper: list[Any] = []
    lows = [lo.numpy().astype(float)]
    for k, (atom, inside) in enumerate(zip(form.atoms, wide, strict=True)):
        if not isinstance(atom, (Kinks, Largest)):
            raise Refusal(f"it has a smooth atom ({curvature_of(atom)}), and is not a linear program")
        row: list[Any] = [sparse.csc_matrix((inside, width)) for width in kinds]
        first = form.from_y[k]
        if first is not None:
            row[0] = sparse.csc_matrix(first.of(sample).numpy())
        for j in range(k):
            if (k, j) in form.between:
                row[j + 1] = sparse.csc_matrix(form.between[k, j].of(sample).numpy())
        c = form.constants[k][sample].numpy()
        own = sparse.kron(sparse.eye(sizes[k]), np.ones((atom.group, 1)), format="csr")  # the result of each argument
        blocks.append([*row[: k + 1], -own, *row[k + 2 :]])
        upper.append(-c)
        if isinstance(atom, Largest):
            lows.append(np.full(sizes[k], -np.inf))
            continue
        s = atom.negative_slope.numpy()
        bent = np.flatnonzero(s)
        if len(bent):
            tilt = sparse.diags(s)
            blocks.append([(tilt @ part).tocsr()[bent] for part in row[: k + 1]] + [-own[bent]])
            blocks[-1] += [sparse.csr_matrix((len(bent), width)) for width in kinds[k + 2 :]]
            upper.append(-(s * c)[bent])
        lows.append(np.where(s == 0, 0.0, -np.inf))
    cost = np.zeros(starts[-1])
    cost[: form.size] = form.linear[sample].numpy()
    for k, w in form.weights.items():
        cost[starts[k] : starts[k + 1]] = w[sample].numpy()
    matrix = sparse.bmat(blocks, format="csc") if blocks else sparse.csc_matrix((0, form.size))
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = matrix.shape[1], matrix.shape[0]
    lp.col_cost_, lp.offset_ = cost, float(form.constant[sample])
    lp.col_lower_ = np.concatenate(lows)
    lp.col_upper_ = np.concatenate([hi.numpy().astype(float), np.full(starts[-1] - form.size, np.inf)])
    lp.row_lower_ = np.full(matrix.shape[0], -np.inf)
    lp.row_upper_ = np.concatenate(upper) if upper else np.zeros(0)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = matrix.indptr, matrix.indices
    lp.a_matrix_.value_ = matrix.data
    return lp


def run_highs(form: EpigraphForm, sample: int, lo: Tensor, hi: Tensor, solver: str, seconds: float) -> Any:
    """A `highspy.Highs` that has solved one sample."""
    highspy = need("highspy")
    highs = highspy.Highs()
    options: dict[str, Any] = {"output_flag": False, "threads": 1, "solver": solver}
    if math.isfinite(seconds):
        options["time_limit"] = max(seconds, 0.01)
    for name, value in options.items():
        highs.setOptionValue(name, value)
    highs.passModel(program_of(form, sample, lo, hi))
    highs.run()
    return highs


def solve_lp(form: EpigraphForm, sample: int, lo: Tensor, hi: Tensor, solver: str = "choose") -> tuple[Tensor, float]:
    """The minimiser (n,) and the optimum of one sample over the box [lo, hi], by HiGHS.

    Raises:
        RuntimeError: HiGHS finds no optimum.
    """
    highspy = need("highspy")
    highs = run_highs(form, sample, lo, hi, solver, math.inf)
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise RuntimeError(f"HiGHS ends with {highs.modelStatusToString(highs.getModelStatus())}")
    y = torch.tensor(highs.getSolution().col_value[: form.size], dtype=torch.float64)
    return y, float(highs.getInfo().objective_function_value)


def solve_exactly(problem: Problem, found: Incumbents, budget: Budget) -> None:
    """Solve every open sample as a linear program; its dual variables give the bound, checked in our own arithmetic."""
    form = problem.f
    assert isinstance(form, EpigraphForm)
    if bool(found.scale.isnan().any()):
        found.look(problem)
    for sample in found.open(budget.tol).nonzero()[:, 0].tolist():
        left = budget.deadline - monotonic()
        if left <= 0:
            return
        index = torch.tensor([sample], device=found.y.device)
        few, part = form.rows(index).on("cpu"), problem.rows(index)
        highs = run_highs(few, 0, part.lo[0].cpu(), part.hi[0].cpu(), "choose", left)
        solution = highs.getSolution()
        if not solution.value_valid:
            continue
        y = torch.tensor(solution.col_value[: form.size], dtype=torch.float64)[None]
        y = part.inside(y.to(found.y))
        value = part.f.value(y)
        bound, evidence = torch.full_like(value, -torch.inf), None
        if solution.dual_valid:
            chosen, (g, b) = few.fit(multipliers_of(few, solution.row_dual), few.arguments(y.cpu()))
            bound = part.proved_minimum(g.to(y), b.to(y))
            slopes = [slope.to(y) for slope in few.slopes_from(chosen)]
            evidence = Evidence(touch=y, slopes=slopes)
        found.note(index, y, value, bound, None if evidence is None else lambda _, made=evidence: made)
        found.measure(part, index, budget.tol)


def multipliers_of(form: EpigraphForm, duals: Any) -> dict[int, Tensor]:
    """The multipliers (1, in_k) of the arguments, from the dual variables of the rows of `program_of`."""
    values = -torch.tensor(list(duals), dtype=torch.float64)
    found: dict[int, Tensor] = {}
    at = 0
    for k, atom in enumerate(form.atoms):
        size = form.constants[k].shape[1]
        found[k] = values[at : at + size][None].clone()
        at += size
        if isinstance(atom, Kinks):
            bent = atom.negative_slope.nonzero()[:, 0]
            found[k][0, bent] += atom.negative_slope[bent] * values[at : at + len(bent)]
            at += len(bent)
    return found
