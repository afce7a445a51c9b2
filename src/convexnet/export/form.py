"""A network as affine maps between bends, for one sample: what the exporters write down.

    a_k = c_k + sum_{s <= k} A_ks v_s,    v_k = bend_k(a_k),    f = c + sum_s A_s v_s,    v_0 = y flattened

with sparse A, which do not depend on `given`. A solver is told v_k >= bend_k(a_k); why that is the network is in
`tightness`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from convexnet.curvature.call import Refusal
from convexnet.export.bends import BENDS
from convexnet.export.reading import GATE, Cut, finding, refuse
from convexnet.export.sender import Sender, Vector
from convexnet.extras import need

ROWS = 256
"""Basis vectors that are sent through a program at once."""

EXACT = 1e-9
"""Relative difference up to which a map counts as affine."""

Sparse = Any
"""A scipy.sparse matrix in CSR form."""


@dataclass(frozen=True)
class Form:
    """See the module's docstring.

    Attributes:
        cuts: the bends and gates.
        maps: A by (target, source); source 0 is y, source k + 1 the result of cut k, and the last target is f.
        constants: c_k, and last c, at the `given` that the form was read with.
        changes: which of the constants depend on parameters.
        fixed: for each cut, which results are constant, and their values (0 elsewhere).
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


def form_of(sender: Sender) -> Form:
    """Read the maps off a program.

    Raises:
        NotCertified: something between two cuts is not affine.
    """
    reading, cuts = sender.reading, sender.cuts
    sparse = need("scipy.sparse")
    with torch.no_grad():
        base = sender.send(torch.zeros(sender.rows, sender.size), {})
    maps: dict[tuple[int, int], Sparse] = {}
    step = sender.rows if sender.closed else ROWS
    for target, a in enumerate(base):
        spans = [(start, min(start + step, a.shape[1])) for start in range(0, a.shape[1], step)]
        blocks = [[sparse.csr_matrix(part.numpy()) for part in sender.rows_of(target, *span)] for span in spans]
        for source, parts in enumerate(zip(*blocks, strict=True)):
            if any(part.nnz for part in parts):
                maps[target, source] = sparse.vstack(parts).tocsr()
    out_changes = reading.output in reading.touched
    form = Form(
        cuts=tuple(cuts),
        maps=maps,
        constants=tuple(a[0].numpy() for a in base),
        changes=(*(any(n in reading.touched for n in c.node.all_input_nodes) for c in cuts), out_changes),
        fixed=(),
        shape=() if sender.shape_out.numel() == 1 and len(sender.shape_out) < 2 else tuple(sender.shape_out),
        size=sender.size,
    )
    check_affine(form, sender)
    return folded(form)


def check_affine(form: Form, sender: Sender) -> None:
    """Compare the maps with the program at random values of every source, for nothing is taken on trust."""
    generator = torch.Generator().manual_seed(0)
    sizes = [form.size, *(cut.size for cut in form.cuts)]
    values = [torch.randn(1, size, generator=generator, dtype=torch.float64) for size in sizes]
    wide = [value.expand(sender.rows, -1) for value in values]
    with torch.no_grad():
        seen = sender.send(wide[0], dict(enumerate(wide[1:])))
    for target, a in enumerate(seen):
        expected = form.constants[target] + sum(m @ values[s][0].numpy() for s, m in form.incoming(target))
        if np.abs(a[0].numpy() - expected).max() > EXACT * (1 + np.abs(expected).max()):
            node = form.cuts[target].node if target < len(form.cuts) else sender.reading.output
            reason = "what arrives here is not affine in what comes before it"
            refuse(sender.reading.program.model, [finding(node, Refusal(reason, "write it with simpler operators"))])


def folded(form: Form) -> Form:
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
        mask = (count.reshape(cut.size, cut.group) == 0).all(1) & (cut.bend != GATE) & (not form.changes[k])
        values = np.where(mask, valued(cut, constants[k]), 0.0)
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


def valued(cut: Cut, a: Vector) -> Vector:
    """The results of a bend, (m,), for its argument (m * group,)."""
    if cut.bend == GATE:
        return np.zeros(cut.size)
    return BENDS[cut.bend].value(torch.as_tensor(a).reshape(cut.size, cut.group), cut.setting).numpy()
