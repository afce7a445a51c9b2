"""A network as affine maps between atoms, for one sample: what the exporters write down.

    a_k = c_k + sum_{s <= k} A_ks v_s,    v_k = φ_k(a_k),    f = c + sum_s A_s v_s,    v_0 = y flattened

with sparse A, which do not depend on `given`: products with what depends on it are cut out too. A solver is given
v_k >= φ_k(a_k); why that is the network is in `tightness`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from convexnet.curvature.call import Refusal
from convexnet.extras import need
from convexnet.form.matrices import Arrivals, Cut
from convexnet.form.program import Gate, OpenedProgram, apply_atom
from convexnet.form.refusals import raise_refusals

ROWS = 256
"""Basis vectors that are sent through a program at once."""

EXACT = 1e-9
"""Relative difference up to which a map counts as affine."""

Sparse = Any
"""A scipy.sparse matrix in CSR form."""

Vector = Any
"""A numpy array."""


class Sample:
    """One sample of an opened program, repeated as often as a run has rows.

    Args:
        opened: the program.
        inputs: (1, ...) each; the variable's own values do not matter.
        rows: the batch size of the program, if it has only one; None: any.

    Attributes:
        rows: the batch size of runs on one sample.
        closed: whether it is the only one.
        cuts: in the order in which they are met.
        size: of the variable.
        shape_out: of one sample of the output.

    Raises:
        NotCertified: operators without a form, each with its source line and a remedy.
    """

    def __init__(self, opened: OpenedProgram, inputs: Sequence[Tensor], rows: int | None = None) -> None:
        self.opened, self.inputs = opened, list(inputs)
        self.rows, self.closed = rows or 1, rows is not None
        raise_refusals(opened.program.model, opened.kinds().closed)
        self.arrivals = Arrivals(opened, repeat_rows(inputs, self.rows), self.rows)
        self.cuts, self.size, self.shape_out = self.arrivals.cuts, self.arrivals.n, self.arrivals.out

    def send(
        self, y: Tensor, results: Mapping[int, Tensor], factors: list[Tensor] | None = None, until: int | None = None
    ) -> list[Tensor]:
        """What arrives at each cut and at the output, (R, size) each, for y (R, n): see `Arrivals`."""
        here = self.arrivals.device
        sample = torch.zeros(len(y), dtype=torch.int64, device=here)
        moved = {k: part.to(here) for k, part in results.items()}
        return [part.cpu() for part in self.arrivals(y.to(here), moved, sample, until, factors)]

    def rows_of(self, target: int, start: int, stop: int) -> list[Tensor]:
        """Rows of the maps from every source to one target, (stop - start, n) each: the gradients of what arrives.

        Gradients of an affine function do not see its constants, and so not what rounding makes of them either.
        """
        count = self.rows if self.closed else stop - start
        sizes = [self.size, *(cut.results for cut in self.cuts)]
        leaves = [torch.zeros(count, size, dtype=torch.float64, requires_grad=True) for size in sizes]
        with torch.enable_grad():
            arrived = self.send(leaves[0], dict(enumerate(leaves[1:])), until=target)[target]
            chosen = arrived[torch.arange(stop - start), torch.arange(start, stop)].sum()
        if not chosen.requires_grad:
            return [leaf.detach()[: stop - start] for leaf in leaves]
        found = torch.autograd.grad(chosen, leaves, allow_unused=True, materialize_grads=True)
        return [gradient[: stop - start] for gradient in found]

    def value(self, given: Sequence[Tensor], y: Tensor) -> Tensor:
        """The program's own value for one sample, y (n,), with gradients."""
        inputs = repeat_rows(given, self.rows)
        own = inputs[self.opened.variable]
        inputs[self.opened.variable] = y.to(own.device).reshape(1, *own.shape[1:]).expand(own.shape)
        return self.opened.results(inputs, apply_atom)[0]

    @torch.no_grad()
    def at(self, given: Sequence[Tensor], fixed: Sequence[tuple[Vector, Vector]]) -> tuple[list[Vector], list[Vector]]:
        """The constants c_k and the factors of the gates for another value of the other inputs, (1, ...) each."""
        other = copy.copy(self)
        other.arrivals = copy.copy(self.arrivals)
        other.arrivals.inputs = repeat_rows(given, self.rows)
        factors: list[Tensor] = []
        held = {k: torch.as_tensor(values).expand(self.rows, -1) for k, (_, values) in enumerate(fixed)}
        found = other.send(torch.zeros(self.rows, self.size, dtype=torch.float64), held, factors)
        return [a[0].numpy() for a in found], [factor[0].flatten().cpu().numpy() for factor in factors]


def repeat_rows(inputs: Sequence[Tensor], count: int) -> list[Tensor]:
    """As many equal rows as a run has."""
    return [tensor.expand(count, *tensor.shape[1:]) for tensor in inputs]


@dataclass(frozen=True)
class SparseForm:
    """See the module's docstring.

    Attributes:
        cuts: the atoms and gates.
        maps: A by (target, source); source 0 is y, source k + 1 the result of cut k, and the last target is f.
        constants: c_k, and last c, at the `given` that the form was read with.
        changes: which of the constants depend on parameters.
        fixed: for each cut, which results are constant, and their values (0 elsewhere); those that nothing reads are
            taken for 0.
        shape: of one sample of the output; () for (B,) and (B, 1).
        size: of y.
    """

    cuts: tuple[Cut, ...]
    maps: dict[tuple[int, int], Sparse]
    constants: tuple[Vector, ...]
    changes: tuple[bool, ...]
    fixed: tuple[tuple[Vector, Vector], ...]
    shape: tuple[int, ...]
    size: int

    def incoming(self, target: int) -> list[tuple[int, Sparse]]:
        """The maps to a target, with their sources."""
        return [(source, self.maps[key, source]) for key, source in sorted(self.maps) if key == target]


def sparse_form(sample: Sample) -> SparseForm:
    """Read the maps off a program.

    Raises:
        NotCertified: something between two cuts is not affine.
    """
    opened, cuts = sample.opened, sample.cuts
    sparse = need("scipy.sparse")
    with torch.no_grad():
        base = sample.send(torch.zeros(sample.rows, sample.size, dtype=torch.float64), {})
    maps: dict[tuple[int, int], Sparse] = {}
    step = sample.rows if sample.closed else ROWS
    for target, a in enumerate(base):
        spans = [(start, min(start + step, a.shape[1])) for start in range(0, a.shape[1], step)]
        blocks = [[sparse.csr_matrix(part.numpy()) for part in sample.rows_of(target, *span)] for span in spans]
        for source, parts in enumerate(zip(*blocks, strict=True)):
            if any(part.nnz for part in parts):
                maps[target, source] = sparse.vstack(parts).tocsr()
    read = [*(cut.node.all_input_nodes for cut in cuts), [opened.output]]  # by each cut, and as the output
    form = SparseForm(
        cuts=tuple(cuts),
        maps=maps,
        constants=tuple(a[0].numpy() for a in base),
        changes=tuple(bool(opened.touched.intersection(nodes)) for nodes in read),
        fixed=(),
        shape=() if sample.shape_out.numel() == 1 and len(sample.shape_out) < 2 else tuple(sample.shape_out),
        size=sample.size,
    )
    check_affine(form, sample)
    return drop_unread(fold_constants(form))


def check_affine(form: SparseForm, sample: Sample) -> None:
    """Compare the maps with the program at random values of every source, for nothing is taken on trust."""
    generator = torch.Generator().manual_seed(0)
    sizes = [form.size, *(cut.results for cut in form.cuts)]
    values = [torch.randn(1, size, generator=generator, dtype=torch.float64) for size in sizes]
    wide = [value.expand(sample.rows, -1) for value in values]
    with torch.no_grad():
        seen = sample.send(wide[0], dict(enumerate(wide[1:])))
    for target, a in enumerate(seen):
        expected = form.constants[target] + sum(m @ values[s][0].numpy() for s, m in form.incoming(target))
        if np.abs(a[0].numpy() - expected).max() > EXACT * (1 + np.abs(expected).max()):
            node = form.cuts[target].node if target < len(form.cuts) else sample.opened.output
            reason = "its argument is not affine in the inputs of this part"
            assert isinstance(node, fx.Node)
            raise_refusals(sample.opened.program.model, [(node, Refusal(reason, "write it with simpler operators"))])


def fold_constants(form: SparseForm) -> SparseForm:
    """The form with results that are constant as constants: units whose weights are all zero need no inequality, and
    may be used where only an exact value may."""
    maps = dict(form.maps)
    constants = [c.copy() for c in form.constants]
    fixed: list[tuple[Vector, Vector]] = []
    for k, cut in enumerate(form.cuts):
        count = np.zeros(len(constants[k]), dtype=np.int64)
        for (target, _), matrix in maps.items():
            if target == k:
                count += matrix.getnnz(axis=1)
        mask = (count.reshape(cut.results, -1) == 0).all(1) & (not cut.gate) & (not form.changes[k])
        values = np.where(mask, atom_results(cut, constants[k]), 0.0)
        fixed.append((mask, values))
        if mask.any():
            keep = need("scipy.sparse").diags((~mask).astype(float))
            for target, source in list(maps):
                if source == k + 1:
                    constants[target] += maps[target, source] @ values
                    maps[target, source] = (maps[target, source] @ keep).tocsr()
                    maps[target, source].eliminate_zeros()
    maps = {key: matrix for key, matrix in maps.items() if matrix.nnz}
    return replace(form, maps=maps, constants=tuple(constants), fixed=tuple(fixed))


def drop_unread(form: SparseForm) -> SparseForm:
    """The form without what no output reads: an inequality z >= φ(a) also says that a is where φ is defined, and the
    network does not say so where its result is not used."""
    maps = dict(form.maps)
    fixed = list(form.fixed)
    read = [np.zeros(cut.results, dtype=bool) for cut in form.cuts]
    for target in reversed(range(len(form.constants))):
        size = len(form.constants[target])
        rows = np.ones(size, dtype=bool)
        if target < len(form.cuts):
            rows = np.repeat(read[target], size // max(len(read[target]), 1))
            mask, values = fixed[target]
            if not form.cuts[target].gate:
                fixed[target] = (mask | ~read[target], np.where(read[target], values, 0.0))
        keep = need("scipy.sparse").diags(rows.astype(float))
        for source in [source for (key, source) in form.maps if key == target]:
            kept = (keep @ maps[target, source]).tocsr()
            kept.eliminate_zeros()
            maps[target, source] = kept
            if source:
                read[source - 1] |= kept.getnnz(axis=0) > 0
    return replace(form, maps={key: matrix for key, matrix in maps.items() if matrix.nnz}, fixed=tuple(fixed))


def atom_results(cut: Cut, a: Vector) -> Vector:
    """The results of an atom, (m,), for its argument (m * group,)."""
    if isinstance(cut.atom, Gate):
        return np.zeros(cut.results)
    return cut.atom.value(torch.as_tensor(a)).numpy()
