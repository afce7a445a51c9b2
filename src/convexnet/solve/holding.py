"""What holds a minimiser: kinks, bounds and curvature; and the linear system of the docstring of `derivatives`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexnet.solve.drive import Found
from convexnet.solve.groups import Grouped
from convexnet.solve.kink_form import KinkForm
from convexnet.solve.tangents import rows_of

TINY = 1e-11
"""What is added to the diagonal of systems that may be singular."""

LOOSE = 1e5
"""How much longer than the right-hand side a solution may be, in units of the largest curvature."""


@dataclass
class Held:
    """The solution of the system of `derivatives`, for a gradient of x.

    Attributes:
        low, high: coordinates (B, n) at a bound.
        to_y: the gradient (B, n) of these bounds.
        along: w (B, n), zero at bounds and where nothing is smooth.
        forces: the part of the solution that belongs to each argument (B, in_k).
    """

    low: Tensor
    high: Tensor
    to_y: Tensor
    along: Tensor
    forces: list[Tensor]


def held_by(
    form: KinkForm,
    found: Found,
    gates: list[Tensor],
    arriving: list[Tensor],
    g: Tensor,
    lo: Tensor,
    hi: Tensor,
    to_x: Tensor,
) -> Held:
    """Find the kinks and bounds that hold the minimiser, and solve for the gradient of x."""
    y = found.y
    size = torch.maximum(found.value.abs(), found.centre - found.value).clamp(min=1e-12)[:, None]
    width = (hi - lo).clamp(max=1e12)
    scale = torch.where(width > 0, width, 1.0)
    low = ((y - lo) / scale < g * width / size) | (width == 0)
    high = ((hi - y) / scale < -g * width / size) & ~low
    free = (~(low | high)).to(y)
    arguments = form.arguments(y)
    units = units_around(form, y, lo, hi)
    picked: list[Tensor | None] = []
    masks: list[Tensor | None] = []
    for bend, a, gate, v in zip(form.bends, arguments, gates, arriving, strict=True):
        if bend.smooth:
            picked.append(None)
            masks.append(None)
            continue
        unit = units[len(picked)]
        sure = torch.where(bend.pull(torch.ones_like(gate), v) > 0, bend.active(a, gate, unit), -1.0)
        count = max(1, int((sure > 0).sum(1).max()))
        top = sure.topk(count, 1)
        picked.append(top.indices)
        masks.append((top.values > 0).to(y))
    rows = rows_of(form, gates, picked)
    n = form.size
    hessian = y.new_zeros(len(y), n, n)
    holding: list[Tensor] = []
    for k, (bend, row) in enumerate(zip(form.bends, rows, strict=True)):
        mask = masks[k]
        if mask is None:
            full = row if isinstance(row, Tensor) else row.columns(len(y))
            curved = bend.curved(arguments[k], bend.value(arguments[k]), gates[k], y.new_full((len(y), 1), 1e-12))
            rooted = bend.centred(curved, full) * bend.weighed(arriving[k], curved).clamp(min=0).sqrt()[:, :, None]
            hessian = torch.baddbmm(hessian, rooted.mT, rooted)
        else:
            assert isinstance(row, Tensor)
            if isinstance(bend, Grouped):
                row = row - rows_of_leaders(form, k, gates, picked, bend)
            holding.append(row * mask[:, :, None])
    jacobian = torch.cat(holding, 1) if holding else y.new_zeros(len(y), 0, n)
    smooth = any(bend.smooth for bend in form.bends)
    along, forces = saddle(hessian if smooth else None, jacobian, free, to_x * free)
    pulled = (jacobian.mT @ forces[:, :, None])[..., 0]
    if smooth:
        pulled = pulled + (hessian @ along[:, :, None])[..., 0]
    to_y = (to_x - pulled) * (1 - free)
    return Held(low, high, to_y, along, spread(form, forces, picked, masks, gates))


def units_around(form: KinkForm, y: Tensor, lo: Tensor, hi: Tensor, points: int = 4) -> list[Tensor]:
    """The size (B, in_k) of each argument in the box: the mean of |a| over a few points that are nothing special."""
    low, high = torch.maximum(lo, y - 1 - y.abs()), torch.minimum(hi, y + 1 + y.abs())
    low, high = torch.where(lo.isfinite(), lo, low), torch.where(hi.isfinite(), hi, high)
    generator = torch.Generator().manual_seed(0)
    total = [torch.zeros_like(c) for c in form.constants]
    for _ in range(points):
        share = torch.rand(1, form.size, generator=generator, dtype=torch.float64).to(y)
        for sum_, bend, a in zip(total, form.bends, form.arguments(torch.lerp(low, high, share)), strict=True):
            here = a if bend.group == 1 else a.unflatten(1, (-1, bend.group))
            if bend.group > 1:  # differences within a group are what counts
                here = (here - here.mean(-1, keepdim=True)).abs().mean(-1, keepdim=True).expand_as(here).flatten(1)
            sum_ += here.abs() / points
    return [torch.where(size > 0, size, 1.0) for size in total]


def saddle(hessian: Tensor | None, jacobian: Tensor, free: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Solve [[H_ff, J_f'], [J_f, 0]] [w; nu] = [right; 0].

    Directions that nothing holds, neither rows nor curvature, get no w: there the minimiser is not unique.

    Args:
        hessian: (B, n, n), or None where nothing is smooth.
        jacobian: (B, m, n); rows of zeros get a multiplier of zero.
        free: 1 for free coordinates and 0 for those at bounds, (B, n).
        right: (B, n), zero where not free.
    """
    rows = jacobian * free[:, None, :]
    size = rows.norm(dim=2, keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    rows = rows / size
    along = torch.zeros_like(right)
    if hessian is not None:
        top = hessian * free[:, :, None] * free[:, None, :]
        scale = top.diagonal(dim1=1, dim2=2).amax(1)
        scale = torch.where(scale > 1e-20, scale, 1.0)[:, None]
        right, top = right / scale, top / scale[:, :, None]
        along = along_curves(top, rows, free, right)
        forces = forces_of(rows, right - (top @ along[:, :, None])[..., 0]) * scale
        return along, forces / size[..., 0]
    return along, forces_of(rows, right) / size[..., 0]


def forces_of(rows: Tensor, right: Tensor) -> Tensor:
    """The shortest nu (B, m) with R' nu nearest to `right`, for rows R of length 1 or 0."""
    used = rows.abs().amax(2) > 0
    small = torch.where(used, TINY, 1.0).to(rows)
    factor, _ = torch.linalg.cholesky_ex(rows @ rows.mT + torch.diag_embed(small))
    found = torch.zeros_like(small)
    for _ in range(3):  # takes away what the regularisation adds
        rest = right - (rows.mT @ found[:, :, None])[..., 0]
        found = found + torch.cholesky_solve(rows @ rest[:, :, None], factor)[..., 0]
    return found


def along_curves(top: Tensor, rows: Tensor, free: Tensor, right: Tensor) -> Tensor:
    """The shortest w (B, n), orthogonal to all rows, with H w nearest to `right` but for multiples of the rows."""
    n, m = top.shape[1], rows.shape[1]
    padded = torch.where(rows.abs().amax(2) > 0, TINY, 1.0).to(rows)
    held = torch.cat([top + torch.diag_embed(torch.where(free > 0, TINY, 1.0).to(rows)), rows.mT], 2)
    system = torch.cat([held, torch.cat([rows, -torch.diag_embed(padded)], 2)], 1)
    solution = torch.linalg.solve(system, torch.cat([right, right.new_zeros(len(right), m)], 1)[:, :, None])[:, :n, 0]
    found = solution * free
    loose = (found.norm(dim=1) > LOOSE * right.norm(dim=1)).nonzero()[:, 0]
    if len(loose):
        across = rows[loose]
        flat = torch.eye(n, dtype=top.dtype, device=top.device) - torch.linalg.pinv(across, rtol=1e-9) @ across
        flat = flat * free[loose][:, None, :]
        inverse = torch.linalg.pinv(flat @ top[loose] @ flat.mT, rtol=1e-9, hermitian=True)
        found[loose] = (flat.mT @ inverse @ flat @ right[loose][:, :, None])[..., 0]
    return found


def rows_of_leaders(form: KinkForm, k: int, gates: list[Tensor], picked: list[Tensor | None], bend: Grouped) -> Tensor:
    """For rows picked in groups, the rows of the members they are compared with."""
    index = picked[k]
    assert index is not None
    return rows_of(form, gates, [leaders(gates[k], index, bend) if j == k else p for j, p in enumerate(picked)])[k]  # pyright: ignore[reportReturnType]


def leaders(gates: Tensor, index: Tensor, bend: Grouped) -> Tensor:
    """The member with the largest gate in the group of each picked one, (B, K)."""
    first = gates.unflatten(1, (-1, bend.group)).argmax(-1)
    group = index // bend.group
    return group * bend.group + first.gather(1, group)


def spread(
    form: KinkForm, forces: Tensor, picked: list[Tensor | None], masks: list[Tensor | None], gates: list[Tensor]
) -> list[Tensor]:
    """The forces on each layer's arguments (B, in_k)."""
    found: list[Tensor] = []
    start = 0
    for bend, index, mask, gate in zip(form.bends, picked, masks, gates, strict=True):
        whole = torch.zeros_like(gate)
        if index is not None and mask is not None:
            part = forces[:, start : start + index.shape[1]] * mask
            start += index.shape[1]
            whole.scatter_add_(1, index, part)
            if isinstance(bend, Grouped):
                whole.scatter_add_(1, leaders(gate, index, bend), -part)
        found.append(whole)
    return found
