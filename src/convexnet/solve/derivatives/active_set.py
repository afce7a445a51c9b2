"""What holds a minimiser: kinks, bounds and curvature; and the linear system of the docstring of `attach`.

Which kinks and bounds hold it is read off where a solver stopped, which is near to the minimiser and not at it. So the
same system, solved for the slope and the arguments that are left over, says where the minimiser is and what its gates
are if these hold it; and this is looked up there.

Long because the system, what goes into it and what is looked up are one thought.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from convexnet.form.atoms import Bend, Kinks
from convexnet.form.epigraph import KinkForm
from convexnet.form.grouped import Grouped, Norm, grouped
from convexnet.solve.functions.hessian import rows_of
from convexnet.solve.solvers.found import Found

TINY = 1e-11
"""What is added to the diagonal of systems that may be singular."""

LOOSE = 1e5
"""How much longer than the right-hand side a solution may be, in units of the largest curvature."""

CLOSE = 1e-7
"""How far from its place what is looked up may be, in its unit."""

TIED = 1e-10
"""How far from its place, in its unit, what does not hold the minimiser may be and still be there too."""

APART = 1e-9
"""The square of how far rows of length 1 may be from being dependent and still count as such."""

NEAR = 1e-2
"""How far, as a share of the box, the minimiser may be from where it was found, to be looked for by one step."""


@dataclass
class Held:
    """The solution of the system of `attach`, for a gradient of x.

    Attributes:
        low, high: coordinates (B, n) at a bound.
        to_y: the gradient (B, n) of these bounds.
        along: w (B, n), zero at bounds and where nothing is smooth.
        forces: the part of the solution that belongs to each argument (B, in_k).
        sure: samples (B,) for which it was looked up that these kinks and bounds hold the minimiser, and no others.
        kinks: by the number of a bend, the samples (B,) that it holds; none for smooth ones.
        y: where they put the minimiser, (B, n); where that is not sure, where it was found.
        tied: samples (B,) at which more kinks and bounds meet than are needed, so that it is for `ties` to say which
            hold them.
        still: by the number of a norm, which of its arguments (B, in_k) it holds at zero; elsewhere it is smooth.
    """

    low: Tensor
    high: Tensor
    to_y: Tensor
    along: Tensor
    forces: list[Tensor]
    sure: Tensor
    kinks: dict[int, Tensor]
    y: Tensor
    tied: Tensor
    still: dict[int, Tensor] = field(default_factory=dict[int, Tensor])

    def put(self, index: Tensor, part: Held) -> None:
        """The solution for some samples."""
        names = ("low", "high", "to_y", "along", "sure", "y", "tied")
        mine = [*(getattr(self, name) for name in names), *self.forces, *self.kinks.values()]
        theirs = [*(getattr(part, name) for name in names), *part.forces, *part.kinks.values()]
        for whole, some in zip(mine, theirs, strict=True):
            whole[index] = some
        for k, some in part.still.items():
            self.still.setdefault(k, some.new_zeros(len(self.y), some.shape[1]))[index] = some


def held_by(form: KinkForm, found: Found, gates: list[Tensor], lo: Tensor, hi: Tensor, to_x: Tensor) -> Held:
    """Find the kinks and bounds that hold the minimiser, and solve for the gradient (B, n) of x."""
    y = found.y
    arguments = form.arguments(y)
    gates = gates_at(form, gates, arguments)
    chosen, arriving = form.pulled(gates)
    g = form.gradient(chosen)
    units, size = units_around(form, y, arguments, lo, hi)
    width = (hi - lo).clamp(max=1e12)
    scale = torch.where(width > 0, width, 1.0)
    low = ((y - lo) / scale < g * width / size) | (width == 0)
    high = ((hi - y) / scale < -g * width / size) & ~low
    free = (~(low | high)).to(y)
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
        if isinstance(bend, Norm):  # which is smooth where it holds nothing, so that all its rows are wanted
            count = sure.shape[1]
        top = sure.topk(count, 1)
        picked.append(top.indices)
        masks.append((top.values > 0).to(y))
    gates = [
        gate if index is None or mask is None else settled_gates(bend, gate, index, mask, a)
        for bend, gate, index, mask, a in zip(form.bends, gates, picked, masks, arguments, strict=True)
    ]
    chosen, arriving = form.pulled(gates)
    g = form.gradient(chosen)
    rows = rows_of(form, gates, picked)
    n = form.size
    hessian = y.new_zeros(len(y), n, n)
    holding: list[Tensor] = []
    left: list[Tensor] = []
    for k, (bend, row) in enumerate(zip(form.bends, rows, strict=True)):
        mask, index = masks[k], picked[k]
        if mask is None or index is None:
            full = row if isinstance(row, Tensor) else row.columns(len(y))
            curved = bend.curved(arguments[k], bend.value(arguments[k]), gates[k], y.new_full((len(y), 1), 1e-12))
            rooted = bend.centred(curved, full) * bend.weighed(arriving[k], curved).clamp(min=0).sqrt()[:, :, None]
            hessian = torch.baddbmm(hessian, rooted.mT, rooted)
        else:
            assert isinstance(row, Tensor)
            own = arguments[k].gather(1, index)
            if isinstance(bend, Norm):
                order = index.argsort(1)
                full = row.gather(1, order[:, :, None].expand_as(row))
                free_ones = 1 - mask.gather(1, order)
                curved = bend.curved(arguments[k], bend.value(arguments[k]), gates[k], y.new_zeros(len(y), 1))
                weight = bend.weighed(arriving[k], curved).clamp(min=0).nan_to_num(posinf=0.0) * free_ones
                rooted = bend.centred(curved, full) * weight.sqrt()[:, :, None]
                hessian = torch.baddbmm(hessian, rooted.mT, rooted)
            if isinstance(bend, Grouped):
                row = row - rows_of_leaders(form, k, gates, picked, bend)
                own = own - arguments[k].gather(1, leaders(gates[k], index, bend))
            holding.append(row * mask[:, :, None])
            left.append(own * mask)
    jacobian = torch.cat(holding, 1) if holding else y.new_zeros(len(y), 0, n)
    ahead = torch.cat(left, 1) if left else y.new_zeros(len(y), 0)
    smooth = any(bend.smooth or isinstance(bend, Norm) for bend in form.bends)
    at_bounds = torch.where(low, lo - y, torch.where(high, hi - y, 0.0))  # to where these coordinates are
    at_bounds = torch.where(at_bounds.isfinite(), at_bounds, 0.0)
    slope, ahead = g, ahead + (jacobian @ at_bounds[:, :, None])[..., 0]
    if smooth:
        slope = slope + (hessian @ at_bounds[:, :, None])[..., 0]
    right = torch.stack([to_x * free, -slope * free], 2)
    down = torch.stack([torch.zeros_like(ahead), -ahead], 2)
    along, forces, tied = saddle(hessian if smooth else None, jacobian, free, right, down)
    pulled = jacobian.mT @ forces + (hessian @ along if smooth else 0.0)
    to_y = (to_x - pulled[..., 0]) * (1 - free)
    parts = [spread(form, forces[..., i], picked, masks, gates) for i in (0, 1)]
    there = y + along[..., 1] + at_bounds
    sure, meet = looked_up(form, gates, chosen, arriving, parts[1], units, there, picked, masks)
    inside = (there >= lo - CLOSE * scale) & (there <= hi + CLOSE * scale)
    rest = slope + pulled[..., 1]
    typical = g.abs() + (jacobian.abs() * forces[..., 1:].mT.abs().mT).sum(1) + size / scale
    still = torch.where(free > 0, rest.abs() <= CLOSE * typical, True)
    rising = torch.where(low & (width > 0), rest >= -CLOSE * typical, True)
    falling = torch.where(high, rest <= CLOSE * typical, True)
    sure &= (inside & still & rising & falling).all(1)
    beside = torch.minimum(there - lo, hi - there).abs() <= TIED * scale
    loose = (low | high) & (rest.abs() <= CLOSE * typical) if smooth else torch.zeros_like(low)
    tied = tied | meet | ((beside & ~low & ~high | loose) & (width > 0)).any(1)
    kinks = {k: (mask > 0).any(1) for k, mask in enumerate(masks) if mask is not None}
    held = ((k, index, mask) for k, (index, mask) in enumerate(zip(picked, masks, strict=True)))
    still = {
        k: torch.zeros_like(gates[k]).scatter_(1, index, mask) > 0
        for k, index, mask in held
        if isinstance(form.bends[k], Norm) and index is not None and mask is not None
    }
    near = (there - y).abs().amax(1) <= NEAR * torch.where(width < 1e12, width, 1.0).amax(1)
    there = torch.where((sure & near)[:, None], torch.minimum(torch.maximum(there, lo), hi), y)
    along = along[..., 0] if smooth else torch.zeros_like(y)
    return Held(low, high, to_y, along, parts[0], sure, kinks, there, tied, still)


def gates_at(form: KinkForm, gates: list[Tensor], arguments: list[Tensor]) -> list[Tensor]:
    """The gates, those of smooth bends where the arguments are: a solver's are of its last step."""
    return [bend.gates(a) if bend.smooth else gate for bend, gate, a in zip(form.bends, gates, arguments, strict=True)]


def looked_up(
    form: KinkForm,
    gates: list[Tensor],
    chosen: dict[int, Tensor],
    arriving: list[Tensor],
    forces: list[Tensor],
    units: list[Tensor],
    there: Tensor,
    picked: list[Tensor | None],
    masks: list[Tensor | None],
) -> tuple[Tensor, Tensor]:
    """Whether, where the kinks that seem to hold the minimiser put it, (B, n), they have gates in their range and all
    others are on the side that theirs says, (B,); and whether others are at their kinks there, too, or, beside curves,
    the gates of some at the end of their range, (B,)."""
    sure = there.isfinite().all(1)
    meet = torch.zeros_like(sure)
    smooth = any(bend.smooth or isinstance(bend, Norm) for bend in form.bends)
    for k, (bend, a) in enumerate(zip(form.bends, form.arguments(there), strict=True)):
        index, mask = picked[k], masks[k]
        if index is None or mask is None:
            continue
        v, new = arriving[k], chosen[k] + forces[k]
        counts = bend.pull(torch.ones_like(gates[k]), v) > CLOSE * v.amax(1, keepdim=True).clamp(min=1e-300)
        holds = torch.zeros_like(gates[k]).scatter_(1, index, mask) > 0
        if isinstance(bend, Kinks):
            near = a / units[k]
            reach = (v - bend.slope * v).clamp(min=1e-300)
            gate = (new - bend.slope * v) / reach
            at_kink = (near.abs() <= CLOSE) & (gate >= -CLOSE) & (gate <= 1 + CLOSE)
            meets = ~holds & (near.abs() <= TIED) & (bend.slope < 1)
            loose = (gate - 0.5).abs() >= 0.5 - CLOSE
            beside = torch.where(gates[k] > 0.5, near >= -CLOSE, near <= CLOSE) | (bend.slope >= 1)
        elif isinstance(bend, Norm):
            size = bend.spread(bend.value(new) / torch.where(v > 0, v, 1.0))
            at_kink, beside = (a.abs() <= CLOSE * units[k]) & (size <= 1 + CLOSE), ~torch.zeros_like(holds)
            meets = ~holds & (bend.spread(bend.value(a)) <= TIED * units[k])
            loose = size >= 1 - CLOSE
        else:
            assert isinstance(bend, Grouped)
            share = new / torch.where(v > 0, v, 1.0).repeat_interleave(bend.group, 1)
            at_kink, beside = bend.beside(a / units[k], gates[k], share, CLOSE)
            largest = grouped(bend.tied(a / units[k], gates[k], TIED), bend.group)
            meets = ~holds & (largest & (largest.sum(-1, keepdim=True) > 1)).flatten(1)
            meets &= ~bend.leading(gates[k])
            loose = bend.loose(share, CLOSE)
        sure &= (torch.where(holds, at_kink, beside) | ~counts).all(1)
        meet |= ((meets | holds & loose if smooth else meets) & counts).any(1)
    return sure, meet


def settled_gates(bend: Bend, gate: Tensor, index: Tensor, mask: Tensor, a: Tensor) -> Tensor:
    """Gates with those that do not hold the minimiser at the ends of their range, where they are at the minimum."""
    holds = torch.zeros_like(gate).scatter_(1, index, mask) > 0
    if isinstance(bend, Norm):
        return torch.where(holds, gate, bend.gates(a))
    if not isinstance(bend, Grouped):
        return torch.where(holds, gate, (gate > 0.5).to(gate))
    return bend.settled(gate, holds)


def units_around(
    form: KinkForm, y: Tensor, arguments: list[Tensor], lo: Tensor, hi: Tensor, points: int = 4
) -> tuple[list[Tensor], Tensor]:
    """The size (B, in_k) of each argument in the box, the mean of |a| over a few points that are nothing special, and
    how much higher than at y the function is there, (B, 1)."""
    low, high = torch.maximum(lo, y - 1 - y.abs()), torch.minimum(hi, y + 1 + y.abs())
    low, high = torch.where(lo.isfinite(), lo, low), torch.where(hi.isfinite(), hi, high)
    generator = torch.Generator().manual_seed(0)
    total = [torch.zeros_like(c) for c in form.constants]

    def height(at: Tensor, arguments: list[Tensor]) -> Tensor:
        results = [bend.value(a) for bend, a in zip(form.bends, arguments, strict=True)]
        return form.value_of(at, results) - form.constant

    least = height(y, arguments)
    rise = torch.zeros_like(least)
    for _ in range(points):
        share = torch.rand(1, form.size, generator=generator, dtype=torch.float64).to(y)
        point = torch.lerp(low, high, share)
        here = form.arguments(point)
        rise = torch.fmax(rise, height(point, here) - least)
        for sum_, bend, a in zip(total, form.bends, here, strict=True):
            size = a if bend.group == 1 else a.unflatten(1, (-1, bend.group))
            if bend.group > 1:  # differences within a group are what counts
                size = (size - size.mean(-1, keepdim=True)).abs().mean(-1, keepdim=True).expand_as(size).flatten(1)
            sum_ += size.abs() / points
    return [torch.where(size > 0, size, 1.0) for size in total], torch.where(rise > 0, rise, 1e-300)[:, None]


def saddle(
    hessian: Tensor | None, jacobian: Tensor, free: Tensor, right: Tensor, down: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve [[H_ff, J_f'], [J_f, 0]] [w; nu] = [right; down] for c right-hand sides; also, whether J_f has rows (B,)
    that depend on others.

    Directions that nothing holds, neither rows nor curvature, get no w: there the minimiser is not unique.

    Args:
        hessian: (B, n, n), or None where nothing is smooth.
        jacobian: (B, m, n); rows of zeros get a multiplier of zero.
        free: 1 for free coordinates and 0 for those at bounds, (B, n).
        right: (B, n, c), zero where not free.
        down: (B, m, c).
    """
    rows, whole = jacobian * free[:, None, :], jacobian.abs().amax(2, keepdim=True)
    used = rows.abs().amax(2, keepdim=True) > APART * whole
    size = torch.where(used, rows.norm(dim=2, keepdim=True), 1.0)
    rows, down = torch.where(used, rows, 0.0) / size, down / size
    down = torch.where(used, down, 0.0)
    small = torch.where(used[..., 0], TINY, 1.0).to(rows)
    gram = rows @ rows.mT + torch.diag_embed(small)
    factor, _ = torch.linalg.cholesky_ex(gram)
    same = ((whole > 0) & ~used).flatten(1).any(1) | (used.flatten(1).sum(1) > free.sum(1))
    if gram.shape[1] > 1:
        same |= torch.linalg.eigvalsh(torch.where(gram.isfinite(), gram, 0.0))[:, 0] <= APART
    if hessian is None:
        return rows.mT @ torch.cholesky_solve(down, factor), forces_of(rows, factor, right) / size, same
    top = hessian * free[:, :, None] * free[:, None, :]
    scale = top.diagonal(dim1=1, dim2=2).amax(1)
    scale = torch.where(scale > 1e-20, scale, 1.0)[:, None, None]
    right, top = right / scale, top / scale
    along = along_curves(top, rows, free, right, down)
    return along, forces_of(rows, factor, right - top @ along) * scale / size, same


def forces_of(rows: Tensor, factor: Tensor, right: Tensor) -> Tensor:
    """The shortest nu (B, m, c) with R' nu nearest to `right`, for rows R of length 1 or 0."""
    found = torch.zeros(*rows.shape[:2], right.shape[2], dtype=rows.dtype, device=rows.device)
    for _ in range(3):  # takes away what the regularisation adds
        found = found + torch.cholesky_solve(rows @ (right - rows.mT @ found), factor)
    return found


def along_curves(top: Tensor, rows: Tensor, free: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """The shortest w (B, n, c) with R w = down and H w nearest to `right` but for multiples of the rows R.

    Only the first of the right-hand sides is guaranteed to be short.
    """
    n = top.shape[1]
    padded = torch.where(rows.abs().amax(2) > 0, TINY, 1.0).to(rows)
    held = torch.cat([top + torch.diag_embed(torch.where(free > 0, TINY, 1.0).to(rows)), rows.mT], 2)
    system = torch.cat([held, torch.cat([rows, -torch.diag_embed(padded)], 2)], 1)
    solution = torch.linalg.solve(system, torch.cat([right, down], 1))[:, :n]
    found = solution * free[:, :, None]
    first = right[..., 0]
    loose = (found[..., 0].norm(dim=1) > LOOSE * first.norm(dim=1)).nonzero()[:, 0]
    if len(loose):
        across = rows[loose]
        flat = torch.eye(n, dtype=top.dtype, device=top.device) - torch.linalg.pinv(across, rtol=1e-9) @ across
        flat = flat * free[loose][:, None, :]
        inverse = torch.linalg.pinv(flat @ top[loose] @ flat.mT, rtol=1e-9, hermitian=True)
        found[loose, :, 0] = (flat.mT @ inverse @ flat @ first[loose][:, :, None])[..., 0]
    return found


def rows_of_leaders(form: KinkForm, k: int, gates: list[Tensor], picked: list[Tensor | None], bend: Grouped) -> Tensor:
    """For rows picked in groups, the rows of the members they are compared with."""
    index = picked[k]
    assert index is not None
    return rows_of(form, gates, [leaders(gates[k], index, bend) if j == k else p for j, p in enumerate(picked)])[k]  # pyright: ignore[reportReturnType]


def leaders(gates: Tensor, index: Tensor, bend: Grouped) -> Tensor:
    """The member that each picked one is compared with, (B, K)."""
    first = bend.leader(gates)
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
