"""Strong convexity that squares of single coordinates give, from each sample's own numbers.

The maps of a form are approximations, and a square of r y_j + e y_i, with whatever small e, is not strongly convex in
y_j. So what looks like the square of one coordinate is differentiated again in the program itself, for every sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convexnet.form.atoms import Atom, Smooth
from convexnet.form.epigraph import EpigraphForm
from convexnet.form.program import OpenedProgram, apply_atom, atom_of

SHARE = 1e-6
"""What is taken off, for the rounding of the derivatives."""

MANY = 2000
"""Rows up to which they are differentiated one by one."""


def strong_convexity(opened: OpenedProgram, inputs: Sequence[Tensor], form: EpigraphForm) -> Tensor | None:
    """c (B, n) with f(y) − ½ Σ c_j y_j² convex, from squares of single coordinates; None where there are none.

    Args:
        opened: the program.
        inputs: the batch, (B, ...) each; the variable's own values do not matter.
        form: the same functions, which says where to look.
    """
    found: list[tuple[int, Tensor]] = []
    for k in form.weights:
        atom, first = form.atoms[k], form.from_y[k]
        alone = all((k, j) not in form.between for j in range(k))
        if isinstance(atom, Smooth) and atom.curve.name == "squared" and first is not None and alone:
            rows = first.columns(form.batch)
            single = ((rows != 0).sum(2) == 1).any(0).nonzero()[:, 0]
            if 0 < len(single) <= MANY:
                found.append((k, single))
    if not found:
        return None
    some = list(inputs) if opened.gated else [tensor[:1] for tensor in inputs]  # one sample stands for all
    variable, batch = opened.variable, len(some[0])
    y = torch.zeros(batch, *some[variable].shape[1:], dtype=torch.float64, device=form.linear.device)
    some[variable] = y.requires_grad_()
    arguments: list[Tensor] = []
    results: list[Tensor] = []

    def replaced(a: Tensor, atom: float | Tensor | Atom = 0.0) -> Tensor:
        z = apply_atom(a.detach(), atom_of(a, atom))
        arguments.append(a.flatten(1).expand(batch, -1))
        results.append(torch.zeros_like(z).expand(batch, *z.shape[1:]).clone().requires_grad_())
        return results[-1]

    total = torch.zeros(batch, form.size, dtype=torch.float64, device=y.device)
    with torch.enable_grad():
        out = opened.run(some, replaced).expand(batch)
        for k, single in found:
            (w,) = torch.autograd.grad(out.sum(), results[k], retain_graph=True, materialize_grads=True)
            atom = form.atoms[k]
            assert isinstance(atom, Smooth)
            unit = torch.ones_like(arguments[k][0]) if atom.unit is None else atom.unit.expand_as(arguments[k][0])
            for h in single.tolist():
                (row,) = torch.autograd.grad(arguments[k][:, h].sum(), y, retain_graph=True, materialize_grads=True)
                row = row.reshape(batch, -1)
                own = ((row != 0).sum(1, keepdim=True) == 1) * row.square()
                total = total + 2 * w.flatten(1)[:, h, None].clamp(min=0) * unit[h] ** 2 * own
    return ((1 - SHARE) * total).expand(form.batch, form.size)
