"""What holds a minimiser: kinks, bounds and curvature; and the linear system of the docstring of `attach`.

Which kinks and bounds hold it is read off where a solver stopped, which is near to the minimiser and not at it. So the
same system, solved for the gradient and the arguments that are left over, says where the minimiser is and what its
slopes are if these hold it; and this is looked up there.

Long because the system, what goes into it and what is looked up are one thought.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from convexnet.form.atoms import Atom, Kinks
from convexnet.form.epigraph import EpigraphForm
from convexnet.form.grouped import Grouped, Norm, split_into_groups
from convexnet.form.linear_maps import Map
from convexnet.solve.functions.hessian import rows_of
from convexnet.solve.solvers.incumbents import Incumbents

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

RUIZ = 5
"""Rounds of equilibration."""

STEADY = 1e-7
"""By how much of itself curvature may change from where the system is solved to where that puts the minimiser."""

ROUNDS = 12
"""How many sets of bounds are tried."""

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
        kinks: by the number of an atom, the samples (B,) that it holds; none for smooth ones.
        y: where they put the minimiser, (B, n); where that is not sure, where it was found.
        tied: samples (B,) at which more kinks and bounds meet than are needed, so that it is for `ties` to say which
            hold them.
        still: by the number of a norm, which of its arguments (B, in_k) it holds at zero; elsewhere it is smooth.
        slope: of the affine function that the slopes of all samples make, (B, n), where it is known already.
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
    slope: Tensor | None = None

    def put(self, index: Tensor, part: Held) -> None:
        """The solution for some samples."""
        names = ("low", "high", "to_y", "along", "sure", "y", "tied")
        mine = [*(getattr(self, name) for name in names), *self.forces, *self.kinks.values()]
        theirs = [*(getattr(part, name) for name in names), *part.forces, *part.kinks.values()]
        for whole, some in zip(mine, theirs, strict=True):
            whole[index] = some
        for k, some in part.still.items():
            self.still.setdefault(k, some.new_zeros(len(self.y), some.shape[1]))[index] = some


def find_held(
    form: EpigraphForm, found: Incumbents, slopes: list[Tensor], lo: Tensor, hi: Tensor, to_x: Tensor
) -> Held:
    """Find the kinks and bounds that hold the minimiser, and solve for the gradient (B, n) of x.

    The bounds that a solver's slopes speak for are tried first. Where these put the minimiser beyond another bound, or
    a slope has the wrong sign there, the others are tried that this speaks for: no unit of the variables enters.

    Source: Hintermueller, Ito & Kunisch (2002), The primal-dual active set strategy as a semismooth Newton method.
    """
    y = found.y
    units, steep = argument_units(form, y, lo, hi)
    arguments = form.arguments(y)
    sets = find_sets(form, y, slopes, lo, hi, steep, arguments)
    held, better = hold_at(form, y, slopes, lo, hi, to_x, sets, units, arguments)
    rows = torch.arange(len(y), device=y.device)
    for _ in range(ROUNDS):
        changed = ((better.low != held.low[rows]) | (better.high != held.high[rows])).any(1) & ~held.sure[rows]
        again = changed | better.bent & held.sure[rows]
        rows, sets, at = rows[again], (better.low[again], better.high[again]), better.y[again]
        at = torch.where(held.sure[rows, None], at, y[rows])
        if not len(rows):
            break
        part, better = hold_at(
            form.rows(rows), at, [slope[rows] for slope in slopes], lo[rows], hi[rows], to_x[rows], sets,
            [unit[rows] for unit in units],
        )  # fmt: skip
        held.put(rows, part)
    else:
        held.sure[rows] = False
    return held


def find_sets(
    form: EpigraphForm,
    y: Tensor,
    slopes: list[Tensor],
    lo: Tensor,
    hi: Tensor,
    steep: Tensor,
    arguments: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """The coordinates (B, n) that seem to be at their lower and at their upper bounds, by a solver's slopes."""
    g = form.gradient(form.pull(slopes_at(form, slopes, arguments))[0])
    width = hi - lo
    scale = torch.where(width > 0, width, 1.0)
    low = ((y - lo) / scale < g / steep) | (width == 0)
    return low, ((hi - y) / scale < -g / steep) & ~low


@dataclass
class Improved:
    """What the solution of the system says of the sets and the point it was made with.

    Attributes:
        low, high: coordinates (B, n) that seem to be at a bound.
        y: where it puts the minimiser, inside of the bounds, (B, n).
        bent: samples (B,) whose curvature is another one there.
        multipliers: of the arguments of each atom, (B, in_k), as the system has them.
    """

    low: Tensor
    high: Tensor
    y: Tensor
    bent: Tensor
    multipliers: dict[int, Tensor]


def hold_at(
    form: EpigraphForm,
    y: Tensor,
    slopes: list[Tensor],
    lo: Tensor,
    hi: Tensor,
    to_x: Tensor,
    sets: tuple[Tensor, Tensor],
    units: list[Tensor],
    arguments: list[Tensor] | None = None,
) -> tuple[Held, Improved]:
    """Solve the system with some coordinates at their lower and at their upper bounds; also, which ones it says are.

    The arguments at y may be known already."""
    low, high = sets
    arguments = form.arguments(y) if arguments is None else arguments
    slopes = slopes_at(form, slopes, arguments)
    chosen, arriving = form.pull(slopes)
    width = hi - lo
    scale = torch.where(width > 0, width, 1.0)
    free = (~(low | high)).to(y)
    picked: list[Tensor | None] = []
    masks: list[Tensor | None] = []
    for atom, a, slope, v in zip(form.atoms, arguments, slopes, arriving, strict=True):
        if atom.smooth:
            picked.append(None)
            masks.append(None)
            continue
        unit = units[len(picked)]
        sure = torch.where(atom.pull(torch.ones_like(slope), v) > 0, atom.active(a, slope, unit), -1.0)
        count = max(1, int((sure > 0).sum(1).max()))
        if isinstance(atom, Norm):  # which is smooth where it holds nothing, so that all its rows are wanted
            count = sure.shape[1]
        top = sure.topk(count, 1)
        picked.append(top.indices)
        masks.append((top.values > 0).to(y))
    slopes = [
        slope if index is None or mask is None else settle_slopes(atom, slope, index, mask, a)
        for atom, slope, index, mask, a in zip(form.atoms, slopes, picked, masks, arguments, strict=True)
    ]
    chosen, arriving = form.pull(slopes)
    g = form.gradient(chosen)
    rows = rows_of(form, slopes, picked)
    n = form.size
    hessian, parts_of_g = y.new_zeros(len(y), n, n), g.abs() + form.linear.abs()
    curvatures: list[Tensor] = []
    holding: list[Tensor] = []
    left: list[Tensor] = []
    for k, (atom, row) in enumerate(zip(form.atoms, rows, strict=True)):
        mask, index = masks[k], picked[k]
        if mask is None or index is None:
            full = row if isinstance(row, Tensor) else row.columns(len(y))
            pushed = atom.pull(slopes[k], arriving[k]).abs()
            parts_of_g = parts_of_g + (pushed[:, None, :] @ full.abs())[:, 0]
            curved = atom.curved(arguments[k], atom.value(arguments[k]), slopes[k], y.new_full((len(y), 1), 1e-12))
            curvatures.append(atom.curvature_times(arriving[k], curved))
            rooted = atom.centred(curved, full) * curvatures[-1].clamp(min=0).sqrt()[:, :, None]
            hessian = torch.baddbmm(hessian, rooted.mT, rooted)
        else:
            assert isinstance(row, Tensor)
            own = arguments[k].gather(1, index)
            if isinstance(atom, Norm):
                order = index.argsort(1)
                full = row.gather(1, order[:, :, None].expand_as(row))
                free_ones = 1 - mask.gather(1, order)
                curved = atom.curved(arguments[k], atom.value(arguments[k]), slopes[k], y.new_zeros(len(y), 1))
                weight = atom.curvature_times(arriving[k], curved).clamp(min=0).nan_to_num(posinf=0.0) * free_ones
                rooted = atom.centred(curved, full) * weight.sqrt()[:, :, None]
                hessian = torch.baddbmm(hessian, rooted.mT, rooted)
            if isinstance(atom, Grouped):
                row = row - rows_of_leaders(form, k, slopes, picked, atom)
                own = own - arguments[k].gather(1, leaders(slopes[k], index, atom))
            holding.append(row * mask[:, :, None])
            left.append(own * mask)
    jacobian = torch.cat(holding, 1) if holding else y.new_zeros(len(y), 0, n)
    ahead = torch.cat(left, 1) if left else y.new_zeros(len(y), 0)
    smooth = any(atom.smooth or isinstance(atom, Norm) for atom in form.atoms)
    at_bounds = torch.where(low, lo - y, torch.where(high, hi - y, 0.0))  # to where these coordinates are
    at_bounds = torch.where(at_bounds.isfinite(), at_bounds, 0.0)
    gradient, ahead = g, ahead + (jacobian @ at_bounds[:, :, None])[..., 0]
    if smooth:
        gradient = gradient + (hessian @ at_bounds[:, :, None])[..., 0]
    right = torch.stack([to_x * free, -gradient * free], 2)
    down = torch.stack([torch.zeros_like(ahead), -ahead], 2)
    along, forces, tied = solve_saddle_point(hessian if smooth else None, jacobian, free, right, down)
    pulled = jacobian.mT @ forces + (hessian @ along if smooth else 0.0)
    to_y = (to_x - pulled[..., 0]) * (1 - free)
    parts = [forces_on_arguments(form, forces[..., i], picked, masks, slopes) for i in (0, 1)]
    there = moved = y + along[..., 1] + at_bounds
    new_arguments = form.arguments(there)
    finite = there.isfinite().all(1)
    sure, meet = confirm_held(form, slopes, chosen, arriving, parts[1], units, new_arguments, picked, masks)
    sure &= finite
    room = TIED * torch.minimum(scale, there.abs() + y.abs())  # of a wide box, no share of its width
    inside = (there >= lo - room) & (there <= hi + room)
    rest = gradient + pulled[..., 1]
    typical = parts_of_g + (jacobian.abs() * forces[..., 1:].abs()).sum(1)
    if smooth:
        typical = typical + (hessian.abs() @ (along[..., 1] + at_bounds).abs()[:, :, None])[..., 0]
    still = torch.where(free > 0, rest.abs() <= CLOSE * typical, True)
    rising = torch.where(low & (width > 0), rest >= -CLOSE * typical, True)
    falling = torch.where(high, rest <= CLOSE * typical, True)
    sure &= (inside & still & rising & falling).all(1)
    beside = torch.minimum(there - lo, hi - there).abs() <= TIED * scale
    loose = (low | high) & (rest.abs() <= CLOSE * typical) if smooth else torch.zeros_like(low)
    loose = (beside & ~low & ~high | loose) & (width > 0)
    if smooth and bool(loose.any()):
        loose &= ~(own_curvature(form, rows, curvatures) * scale > STIFF * typical)
    tied = tied | meet | loose.any(1)
    kinks = {k: (mask > 0).any(1) for k, mask in enumerate(masks) if mask is not None}
    held = ((k, index, mask) for k, (index, mask) in enumerate(zip(picked, masks, strict=True)))
    still = {
        k: torch.zeros_like(slopes[k]).scatter_(1, index, mask) > 0
        for k, index, mask in held
        if isinstance(form.atoms[k], Norm) and index is not None and mask is not None
    }
    near = (there - y).abs().amax(1) <= NEAR * width.amax(1)
    there = torch.where((sure & near)[:, None], torch.minimum(torch.maximum(there, lo), hi), y)
    along = along[..., 0] if smooth else torch.zeros_like(y)
    fixed = width == 0
    is_low = torch.where(low, (rest >= 0) | fixed, (free > 0) & (moved < lo))
    is_high = torch.where(high, rest <= 0, (free > 0) & (moved > hi)) & ~is_low
    inner = torch.minimum(torch.maximum(moved, lo), hi).nan_to_num()
    bent = torch.zeros_like(sure)
    if curvatures:
        bent = curvature_differs(
            form, slopes, curvatures, new_arguments if torch.equal(moved, inner) else form.arguments(inner)
        )
    held = Held(low, high, to_y, along, parts[0], sure, kinks, there, tied, still)
    wanted = {k: multiplier + parts[1][k] for k, multiplier in chosen.items()}
    return held, Improved(is_low, is_high, inner, bent, wanted)


STIFF = 1e8
"""A coordinate that moves by less than 1 / STIFF of its side when the slope of f changes by as much as is typical,
because of what curves in it alone, moves as little with a bound as without: it is not tied. Such is an entropy next to
0 and 1."""


def own_curvature(form: EpigraphForm, rows: list[Tensor | Map], curvatures: list[Tensor]) -> Tensor:
    """The second derivative (B, n) of what depends on one coordinate alone."""
    total = torch.zeros_like(form.linear)
    smooth = [row for atom, row in zip(form.atoms, rows, strict=True) if atom.smooth]
    for row, curvature in zip(smooth, curvatures, strict=True):
        full = row if isinstance(row, Tensor) else row.columns(len(total))
        alone = ((full != 0).sum(2) == 1).to(total) * curvature.clamp(min=0)
        total = total + (alone[:, :, None] * full.square()).sum(1)
    return total


def curvature_differs(
    form: EpigraphForm, slopes: list[Tensor], curvatures: list[Tensor], arguments: list[Tensor]
) -> Tensor:
    """Samples (B,) in which the curvature of some smooth atom is another one at other arguments."""
    own = slopes_at(form, slopes, arguments)
    _, arriving = form.pull(own)
    bent = torch.zeros(len(arguments[0]), dtype=torch.bool, device=arguments[0].device)
    before = iter(curvatures)
    for atom, a, slope, v in zip(form.atoms, arguments, own, arriving, strict=True):
        if atom.smooth:
            now = atom.curvature_times(v, atom.curved(a, atom.value(a), slope, a.new_full((len(a), 1), 1e-12)))
            one, other = next(before).nan_to_num(posinf=0.0), now.nan_to_num(posinf=0.0)
            bent |= ((one - other).abs() > STEADY * torch.maximum(one.abs(), other.abs())).flatten(1).any(1)
    return bent


def slopes_at(form: EpigraphForm, slopes: list[Tensor], arguments: list[Tensor]) -> list[Tensor]:
    """The slopes, those of smooth atoms where the arguments are: a solver's are of its last step."""
    return [
        atom.slopes(a) if atom.smooth else slope for atom, slope, a in zip(form.atoms, slopes, arguments, strict=True)
    ]


def confirm_held(
    form: EpigraphForm,
    slopes: list[Tensor],
    chosen: dict[int, Tensor],
    arriving: list[Tensor],
    forces: list[Tensor],
    units: list[Tensor],
    arguments: list[Tensor],
    picked: list[Tensor | None],
    masks: list[Tensor | None],
) -> tuple[Tensor, Tensor]:
    """Whether, where the kinks that seem to hold the minimiser put it, with these arguments, they have slopes in their
    range and all others are on the side that theirs says, (B,); and whether others are at their kinks there, too, or,
    beside curves, the slopes of some at the end of their range, (B,)."""
    sure = torch.ones(form.batch, dtype=torch.bool, device=form.linear.device)
    meet = torch.zeros_like(sure)
    smooth = any(atom.smooth or isinstance(atom, Norm) for atom in form.atoms)
    for k, (atom, a) in enumerate(zip(form.atoms, arguments, strict=True)):
        index, mask = picked[k], masks[k]
        if index is None or mask is None:
            continue
        v, new = arriving[k], chosen[k] + forces[k]
        counts = atom.pull(torch.ones_like(slopes[k]), v) > CLOSE * v.amax(1, keepdim=True).clamp(min=1e-300)
        holds = torch.zeros_like(slopes[k]).scatter_(1, index, mask) > 0
        if isinstance(atom, Kinks):
            near = a / units[k]
            reach = (v - atom.negative_slope * v).clamp(min=1e-300)
            slope = (new - atom.negative_slope * v) / reach
            at_kink = (near.abs() <= CLOSE) & (slope >= -CLOSE) & (slope <= 1 + CLOSE)
            meets = ~holds & (near.abs() <= TIED) & (atom.negative_slope < 1)
            loose = (slope - 0.5).abs() >= 0.5 - CLOSE
            beside = torch.where(slopes[k] > 0.5, near >= -CLOSE, near <= CLOSE) | (atom.negative_slope >= 1)
        elif isinstance(atom, Norm):
            size = atom.spread(atom.value(new) / torch.where(v > 0, v, 1.0))
            at_kink, beside = (a.abs() <= CLOSE * units[k]) & (size <= 1 + CLOSE), ~torch.zeros_like(holds)
            meets = ~holds & (atom.spread(atom.value(a)) <= TIED * units[k])
            loose = size >= 1 - CLOSE
        else:
            assert isinstance(atom, Grouped)
            share = new / torch.where(v > 0, v, 1.0).repeat_interleave(atom.group, 1)
            at_kink, beside = atom.beside(a / units[k], slopes[k], share, CLOSE)
            largest = split_into_groups(atom.tied(a / units[k], slopes[k], TIED), atom.group)
            meets = ~holds & (largest & (largest.sum(-1, keepdim=True) > 1)).flatten(1)
            meets &= ~atom.leading(slopes[k])
            loose = atom.loose(share, CLOSE)
        sure &= (torch.where(holds, at_kink, beside) | ~counts).all(1)
        meet |= ((meets | holds & loose if smooth else meets) & counts).any(1)
    return sure, meet


def settle_slopes(atom: Atom, slope: Tensor, index: Tensor, mask: Tensor, a: Tensor) -> Tensor:
    """Slopes with those that do not hold the minimiser at the ends of their range, where they are at the minimum."""
    holds = torch.zeros_like(slope).scatter_(1, index, mask) > 0
    if isinstance(atom, Norm):
        return torch.where(holds, slope, atom.slopes(a))
    if not isinstance(atom, Grouped):
        return torch.where(holds, slope, (slope > 0.5).to(slope))
    return atom.settled(slope, holds)


def argument_units(
    form: EpigraphForm, y: Tensor, lo: Tensor, hi: Tensor, points: int = 4
) -> tuple[list[Tensor], Tensor]:
    """The size (B, in_k) of each argument in the box, the mean of |a| over a few points that are nothing special, and
    that of the slopes along each coordinate there, (B, n)."""
    low, high = torch.maximum(lo, y - 1 - y.abs()), torch.minimum(hi, y + 1 + y.abs())
    low, high = torch.where(lo.isfinite(), lo, low), torch.where(hi.isfinite(), hi, high)
    generator = torch.Generator().manual_seed(0)
    total = [torch.zeros_like(c) for c in form.constants]
    steep = torch.zeros_like(y)
    for _ in range(points):
        share = torch.rand(1, form.size, generator=generator, dtype=torch.float64).to(y)
        point = torch.lerp(low, high, share)
        here = form.arguments(point)
        slopes = [atom.slopes(a) for atom, a in zip(form.atoms, here, strict=True)]
        steep = steep + (form.gradient(form.pull(slopes)[0]).abs() / points).nan_to_num(posinf=0.0)
        for sum_, atom, a in zip(total, form.atoms, here, strict=True):
            size = a if atom.group == 1 else a.unflatten(1, (-1, atom.group))
            if atom.group > 1:  # differences within a group are what counts
                size = (size - size.mean(-1, keepdim=True)).abs().mean(-1, keepdim=True).expand_as(size).flatten(1)
            sum_ += size.abs() / points
    return [torch.where(size > 0, size, 1.0) for size in total], torch.where(steep > 0, steep, 1e-300)


def solve_saddle_point(
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
    unit = equilibrating_units(hessian, jacobian, free)
    jacobian, right = jacobian * unit[:, None, :], right * unit[:, :, None]
    hessian = None if hessian is None else hessian * unit[:, :, None] * unit[:, None, :]
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
        return (
            rows.mT @ torch.cholesky_solve(down, factor) * unit[:, :, None],
            least_forces(rows, factor, right) / size,
            same,
        )
    top = hessian * free[:, :, None] * free[:, None, :]
    scale = top.diagonal(dim1=1, dim2=2).amax(1)
    scale = torch.where(scale > 1e-20, scale, 1.0)[:, None, None]
    right, top = right / scale, top / scale
    along = solve_along_curvature(top, rows, free, right, down)
    return along * unit[:, :, None], least_forces(rows, factor, right - top @ along) * scale / size, same


def equilibrating_units(hessian: Tensor | None, jacobian: Tensor, free: Tensor) -> Tensor:
    """Units (B, n) of the coordinates in which the entries of the system are of one size: powers of two.

    Source: Ruiz (2001), A scaling algorithm to equilibrate both rows and columns norms in matrices.
    """
    rows, top = jacobian.abs() * free[:, None, :], None
    if hessian is not None:
        top = hessian.abs() * free[:, :, None] * free[:, None, :]
    unit = torch.ones_like(free)
    for _ in range(RUIZ):
        length = rows.amax(2, keepdim=True)
        rows = rows / torch.where(length > 0, length, 1.0)
        size = rows.amax(1) ** 2 if rows.shape[1] else torch.zeros_like(free)
        if top is not None:
            size = torch.maximum(size, top.amax(2))
        step = torch.where(size > 0, size.clamp(min=1e-300), 1.0).rsqrt()
        unit, rows = unit * step, rows * step[:, None, :]
        top = None if top is None else top * step[:, :, None] * step[:, None, :]
    return torch.exp2(unit.log2().round())


def least_forces(rows: Tensor, factor: Tensor, right: Tensor) -> Tensor:
    """The shortest nu (B, m, c) with R' nu nearest to `right`, for rows R of length 1 or 0."""
    found = torch.zeros(*rows.shape[:2], right.shape[2], dtype=rows.dtype, device=rows.device)
    for _ in range(3):  # takes away what the regularisation adds
        found = found + torch.cholesky_solve(rows @ (right - rows.mT @ found), factor)
    return found


def solve_along_curvature(top: Tensor, rows: Tensor, free: Tensor, right: Tensor, down: Tensor) -> Tensor:
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


def rows_of_leaders(
    form: EpigraphForm, k: int, slopes: list[Tensor], picked: list[Tensor | None], atom: Grouped
) -> Tensor:
    """For rows picked in groups, the rows of the members they are compared with."""
    index = picked[k]
    assert index is not None
    first = [leaders(slopes[k], index, atom) if j == k else p for j, p in enumerate(picked)]
    return rows_of(form, slopes, first)[k]  # pyright: ignore[reportReturnType]


def leaders(slopes: Tensor, index: Tensor, atom: Grouped) -> Tensor:
    """The member that each picked one is compared with, (B, K)."""
    first = atom.leader(slopes)
    group = index // atom.group
    return group * atom.group + first.gather(1, group)


def forces_on_arguments(
    form: EpigraphForm, forces: Tensor, picked: list[Tensor | None], masks: list[Tensor | None], slopes: list[Tensor]
) -> list[Tensor]:
    """The forces on each layer's arguments (B, in_k)."""
    found: list[Tensor] = []
    start = 0
    for atom, index, mask, slope in zip(form.atoms, picked, masks, slopes, strict=True):
        whole = torch.zeros_like(slope)
        if index is not None and mask is not None:
            part = forces[:, start : start + index.shape[1]] * mask
            start += index.shape[1]
            whole.scatter_add_(1, index, part)
            if isinstance(atom, Grouped):
                whole.scatter_add_(1, leaders(slope, index, atom), -part)
        found.append(whole)
    return found
