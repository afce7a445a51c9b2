"""`to_lp`: a piecewise linear convex network over a box, as a linear program for HiGHS."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from convexnet.arrays import listed_inputs
from convexnet.curvature.arguments import unwrap
from convexnet.domains import Box
from convexnet.export.arguments import one_value, read_form, sample_inputs, variable_of
from convexnet.export.updatable import updatable_class
from convexnet.extras import need
from convexnet.form.atoms import Kinks
from convexnet.form.sparse import Sample, SparseForm, sparse_form
from convexnet.form.sum_of_largest import SumLargest
from convexnet.form.tightness import check_tight

Rows = tuple[Any, Any]
"""A sparse matrix over all columns, and the lower bounds of its rows."""


def to_lp(model: nn.Module, domain: Box, given: Tensor | Sequence[Any] | Any = None, *, wrt: int = -1) -> Any:
    """Return a network that is piecewise linear and convex in one of its inputs as a linear program.

        minimise f(given, y) over y in the domain,   with z >= a and z >= s a in place of z = max(s a, a)

    Exact by convexity: at an optimum no z is above the value of its unit, or it does not matter. Nothing is solved
    here: `lp.run()` does, and before it other columns, rows and costs may be added.

    Args:
        model: a module with one number for each sample, (B,) or (B, 1), proved convex in that input; of affine
            layers, ReLU, LeakyReLU, PReLU, absolute values, maxima and max-pooling. Evaluated in eval mode.
        domain: bounds of that input, for one sample; `inf` leaves an element free, equal bounds fix it.
        given: one value for each other input, in order: a tensor, an array or a list of numbers, with a batch dimension
            of 1 or without one; for several inputs a tuple of them.
        wrt: the number of the input that is minimised over; -1 is the last.

    Returns:
        A `highspy.Highs` that holds the problem, silent, not yet run. Columns are named `y(i)`, by the place in the
        domain, and `z1(i)`, `z2(i)`, ... for the units of the first, second, ... nonlinearity; rows `a1(i)` say z >= a
        and rows `s1(i)` z >= s a. `writeModel("net.lp")` and `writeModel("net.mps")` write files that others read.
        Its `update(given)` puts in the numbers for another `given` in place: what was added stays, and the next
        `run()` goes on from the basis that it has.

    Raises:
        NotCertified: not proved convex, or an operator is not piecewise linear: named, with source line and remedy.
        NotTraceable: `torch.export` cannot record the forward.
        ValueError, TypeError: wrong arguments, or more than one number for each sample.
        ImportError: highspy or scipy is missing; the error names the extra.

    Source: Amos & Kolter, Input-Convex Deep Networks (2016): inference as a linear program.

    Example:
        >>> import torch
        >>> import convexnet as cx
        >>> net = cx.nn.FICNN(2, hidden=(8, 8), activation="relu")
        >>> lp = to_lp(net, cx.Box(-1, 1, shape=(2,)))
        >>> _ = lp.run()
        >>> best = torch.tensor(lp.getSolution().col_value[:2])
        >>> abs(net(best).item() - lp.getInfo().objective_function_value) < 1e-4
        True
        >>> lp.getLp().col_names_[:3]
        ['y(0)', 'y(1)', 'z1(0)']
        >>> partial = cx.nn.PICNN(1, 2, hidden=(8,), activation="relu")
        >>> lp = to_lp(partial, cx.Box(-1, 1, shape=(2,)), given=[0.0])
        >>> _ = lp.run()
        >>> lp.update([1.0])
        >>> _ = lp.run()
        >>> best = torch.tensor(lp.getSolution().col_value[:2])
        >>> abs(partial(torch.ones(1, 1), best[None]).item() - lp.getInfo().objective_function_value) < 1e-4
        True
    """
    need("highspy")
    need("scipy.sparse")
    inner = unwrap(model)
    if not isinstance(domain, Box):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"the domain is a Box with the shape of one sample, not {type(domain).__name__}: use its hull(), or "
            "Box(-inf, inf, shape=...), and add rows of your own to the result"
        )
    if not domain.region().is_box:
        raise TypeError(
            f"{domain!r} adds an entropy to the objective, which is not piecewise linear: use Cube(n) for the set alone"
        )
    if domain.batch is not None:
        if domain.batch > 1:
            raise ValueError(
                f"the domain holds bounds for {domain.batch} samples, and a linear program is for one sample at a "
                "time: give Box(box.lo[i], box.hi[i]) for each (cx.minimise takes whole batches)"
            )
        domain = Box(domain.lo[0], domain.hi[0], domain.shape)
    tensors = [one_value(value, place) for place, value in enumerate(listed_inputs(given))]
    number = variable_of(wrt, len(tensors))
    inputs = sample_inputs(inner, tensors, domain.shape, number)
    bounds = Box(domain.lo.reshape(inputs[number].shape[1:]), domain.hi.reshape(inputs[number].shape[1:]))
    form, sample = read_form(inner, inputs, (), linear=True, variable=number, domain=bounds)
    if form.shape:
        raise ValueError(
            f"{type(inner).__name__} returns {tuple(form.shape)} numbers for each sample, and a linear program "
            f"minimises one: wrap the model in a module that returns the one you mean, as (B,). One sample of the "
            f"input has the domain's shape, {tuple(domain.shape)}"
        )
    check_tight(form, type(inner).__name__, domain)

    def read(given: Any) -> Any:
        """The program for another `given`, of the network as it was traced."""
        others = [one_value(value, place) for place, value in enumerate(listed_inputs(given))]
        if len(others) != len(tensors):
            raise ValueError(f"given must be {len(tensors)} inputs, as for to_lp, not {len(others)}")
        again = sample_inputs(inner, others, domain.shape, number)
        for place, (tensor, first) in enumerate(zip(again, inputs, strict=True)):
            if tensor.shape != first.shape or tensor.dtype != first.dtype:
                raise ValueError(
                    f"input {place} is {tuple(tensor.shape)} of {tensor.dtype}, and was {tuple(first.shape)} of "
                    f"{first.dtype} when the program was made"
                )
        found = sparse_form(Sample(sample.opened, again, sample.rows if sample.closed else None))
        check_tight(found, type(inner).__name__, domain)
        return program_of(found, domain)

    highs = updatable_class()()
    highs.setOptionValue("output_flag", False)
    highs.hold(program_of(form, domain), read)
    return highs


def program_of(form: SparseForm, domain: Box) -> Any:
    """The program as a `highspy.HighsLp`."""
    highspy, sparse = need("highspy"), need("scipy.sparse")
    starts = list(itertools.accumulate((cut.results for cut in form.cuts), initial=form.size))
    width = starts[-1]
    lower = np.full(width, -np.inf)
    upper = np.full(width, np.inf)
    lower[: form.size], upper[: form.size] = (end.detach().cpu().flatten().numpy() for end in (domain.lo, domain.hi))
    names = element_names("y", domain.shape)
    rows: list[str] = []
    blocks: list[Rows] = []
    own: list[tuple[int, Any]] = []  # of each block, where its thresholds begin among all of them, and its part there
    thresholds: list[str] = []
    for k, cut in enumerate(form.cuts):
        names += element_names(f"z{k + 1}", cut.shape)
        mask, values = form.fixed[k]
        columns = slice(starts[k], starts[k + 1])
        lower[columns][mask] = upper[columns][mask] = values[mask]
        slope = cut.atom.negative_slope.cpu().numpy() if isinstance(cut.atom, Kinks) else None
        if slope is not None:
            lower[columns][~mask & (slope == 0)] = 0.0
        a, c = affine_argument(form, k, starts)
        group = cut.atom.group
        result = np.repeat(np.arange(cut.results), group)
        z = sparse.csr_matrix((np.ones(cut.results), (np.arange(cut.results), starts[k] + np.arange(cut.results))),
                              (cut.results, width))  # fmt: skip
        free = ~mask[result]
        of_arguments = names_marked(element_names(f"a{k + 1}", (*cut.shape, *([group] if slope is None else []))), free)
        rows += of_arguments
        if isinstance(cut.atom, SumLargest):
            count = int((~mask).sum())
            each = sparse.kron(sparse.eye(count), np.ones((group, 1)))
            blocks += [(-a[free], c[free]), (z[~mask], np.zeros(count))]
            start = len(thresholds)
            own.append((start, sparse.hstack([each, sparse.eye(count * group)])))
            own.append((start, sparse.hstack([-cut.atom.count * sparse.eye(count), -each.T])))
            rows += names_marked(element_names(f"s{k + 1}", cut.shape), ~mask)
            thresholds += names_marked(element_names(f"t{k + 1}", cut.shape), ~mask)
            thresholds += [f"p{name[1:]}" for name in of_arguments]
            continue
        blocks.append(((z[result] - a)[free], c[free]))
        if slope is not None:
            bent = free & (slope != 0)
            blocks.append(((z - sparse.diags(slope) @ a).tocsr()[bent], (slope * c)[bent]))
            rows += names_marked(element_names(f"s{k + 1}", cut.shape), bent)
        own += [(0, None)] * (len(blocks) - len(own))
    cost, offset = affine_argument(form, len(form.cuts), starts)
    matrix = sparse.vstack([block for block, _ in blocks] or [sparse.csr_matrix((0, width))], format="csc")
    if thresholds:
        parts = [
            sparse.csr_matrix((block.shape[0], len(thresholds)))
            if part is None
            else sparse.hstack(
                [
                    sparse.csr_matrix((part.shape[0], start)),
                    part,
                    sparse.csr_matrix((part.shape[0], len(thresholds) - start - part.shape[1])),
                ]
            )
            for (block, _), (start, part) in zip(blocks, own, strict=True)
        ]
        matrix = sparse.hstack([matrix, sparse.vstack(parts)], format="csc")
        names += thresholds
        lower = np.concatenate([lower, [0.0 if name[0] == "p" else -np.inf for name in thresholds]])
        upper = np.concatenate([upper, np.full(len(thresholds), np.inf)])
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = matrix.shape
    costs = np.zeros(lp.num_col_)
    costs[:width] = np.asarray(cost.todense()).ravel()
    lp.col_cost_, lp.offset_ = costs, float(offset[0])
    lp.col_lower_, lp.col_upper_, lp.col_names_ = lower, upper, names
    lp.row_lower_ = np.concatenate([c for _, c in blocks]) if blocks else np.zeros(0)
    lp.row_names_ = rows
    lp.row_upper_ = np.full(matrix.shape[0], np.inf)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = matrix.indptr, matrix.indices
    lp.a_matrix_.value_ = matrix.data
    return lp


def affine_argument(form: SparseForm, target: int, starts: Sequence[int]) -> tuple[Any, Any]:
    """What arrives at a cut or at the output: a sparse matrix over all columns, and constants."""
    sparse = need("scipy.sparse")
    count = len(form.constants[target])
    edges = [0, *starts]
    total = sparse.csr_matrix((count, starts[-1]))
    for source, matrix in form.incoming(target):
        before = sparse.csr_matrix((count, edges[source]))
        after = sparse.csr_matrix((count, starts[-1] - edges[source + 1]))
        total = total + sparse.hstack([before, matrix, after], format="csr")
    return total, form.constants[target]


def names_marked(names: Sequence[str], mask: Any) -> list[str]:
    """The names that are marked."""
    return [name for name, is_marked in zip(names, mask, strict=True) if is_marked]


def element_names(letter: str, shape: Sequence[int]) -> list[str]:
    """Names of a tensor's elements; parentheses, for brackets mean squares in .lp files.

    Example:
        >>> element_names("y", (1, 2))
        ['y(0,0)', 'y(0,1)']
    """
    places = itertools.product(*map(range, shape))
    return [f"{letter}({','.join(map(str, place))})" for place in places]
