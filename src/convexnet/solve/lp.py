"""The minimum of a piecewise linear convex function over a box, as a linear program for HiGHS.

    minimise c + u y + sum_k w_k z_k    subject to    z_k >= a_k,  z_k >= s_k a_k,  lo <= y <= hi

Exact by convexity (Amos & Kolter 2016): at an optimum the z can be lowered to the values of the kinks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from convexnet.solve.kink_form import KinkForm


def need(name: str) -> Any:
    """An optional package, or an error that says how to get it."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this needs {name}: pip install 'convexnet[solve]'") from error


def program_of(form: KinkForm, sample: int, lo: Tensor, hi: Tensor) -> Any:
    """The linear program of one sample, as a `highspy.HighsLp`; columns are y, then z_1, z_2, ..."""
    highspy, sparse = need("highspy"), need("scipy.sparse")
    sizes = [len(slope) for slope in form.slopes]
    starts = np.cumsum([form.size, *sizes])
    kinds = [form.size, *sizes]
    blocks: list[list[Any]] = []
    upper: list[Any] = []
    lows = [lo.numpy().astype(float)]
    for k, size in enumerate(sizes):
        row: list[Any] = [sparse.csc_matrix((size, width)) for width in kinds]
        first = form.from_y[k]
        if first is not None:
            row[0] = sparse.csc_matrix(first.of(sample).numpy())
        for j in range(k):
            if (k, j) in form.between:
                row[j + 1] = sparse.csc_matrix(form.between[k, j].of(sample).numpy())
        c, s = form.constants[k][sample].numpy(), form.slopes[k].numpy()
        blocks.append([*row[: k + 1], -sparse.eye(size), *row[k + 2 :]])
        upper.append(-c)
        bent = np.flatnonzero(s)
        if len(bent):
            tilt = sparse.diags(s)
            own = -sparse.eye(size, format="csr")
            blocks.append([(tilt @ part).tocsr()[bent] for part in row[: k + 1]] + [own[bent]])
            blocks[-1] += [sparse.csr_matrix((len(bent), width)) for width in kinds[k + 2 :]]
            upper.append(-(s * c)[bent])
        lows.append(np.where(s == 0, 0.0, -np.inf))
    cost = np.zeros(starts[-1])
    cost[: form.size] = form.slope[sample].numpy()
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


def solve_lp(form: KinkForm, sample: int, lo: Tensor, hi: Tensor, solver: str = "choose") -> tuple[Tensor, float]:
    """The minimiser (n,) and the optimum of one sample over the box [lo, hi], by HiGHS.

    Raises:
        RuntimeError: HiGHS finds no optimum.
    """
    highspy = need("highspy")
    highs = highspy.Highs()
    for name, value in (("output_flag", False), ("threads", 1), ("solver", solver)):
        highs.setOptionValue(name, value)
    highs.passModel(program_of(form, sample, lo, hi))
    highs.run()
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise RuntimeError(f"HiGHS ends with {highs.modelStatusToString(highs.getModelStatus())}")
    y = torch.tensor(highs.getSolution().col_value[: form.size], dtype=torch.float64)
    return y, float(highs.getInfo().objective_function_value)
