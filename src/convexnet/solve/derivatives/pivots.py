"""Pivots: exchanging the kinks and bounds that hold a vertex of a piecewise linear function, until it is a minimiser.

As many kinks and bounds as there are variables hold a vertex. A linear system says where it lies, and its transpose
what the slopes are. Where a slope leaves its range, its kink does not hold, and where another kink has been crossed,
that one may: they change places, as in the simplex method, until all is as it should be.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from convexnet.form.atoms import Kinks
from convexnet.form.epigraph import EpigraphForm

PIVOTS = 24
"""Pivots of one sample."""

EDGE = 1e-9
"""Slopes and arguments nearer than this to the ends of their ranges, as a share, are in doubt."""

TINY = 1e-12
"""How far a kink may be on the wrong side, as a share of the box, to be on it."""

PIVOT = 1e-9
"""Entries of a row that are smaller than this share of its largest make no pivot."""


@dataclass
class Tableau:
    """The kinks near points (B, n), then the bounds: M + n rows r with r·t + c = 0 where they hold.

    Attributes:
        form: the kinks alone, as functions of t.
        sides: of each atom, (B, m_k): 1 where a kink is on its right, 0 on its left.
        active: which rows hold the vertex, (B, M + n).
        index: their numbers, (B, n).
        ends: the bounds of t, (B, n) each.
        upper: at which bound a coordinate would be held, (B, n).
    """

    form: EpigraphForm
    sides: Tensor
    active: Tensor
    index: Tensor
    ends: tuple[Tensor, Tensor]
    upper: Tensor

    def rows(self, index: Tensor) -> Tableau:
        """The tableaux of some samples."""
        low, high = (end[index] for end in self.ends)
        own = self.sides[index], self.active[index], self.index[index]
        return Tableau(self.form.rows(index), *own, (low, high), self.upper[index])


@dataclass
class Vertex:
    """What the active rows of a tableau determine.

    Attributes:
        rows, at: of all kinks and bounds, (B, M + n, n), and their values r·t + c, (B, M + n).
        inverse: of the matrix of the active rows, (B, n, n).
        t: the vertex, (B, n).
        slopes: of all kinks, (B, M); those that are not active have the sides they are on.
        force: the multipliers of the bounds, (B, n); zero where not active.
        arriving: what arrives at each kink, (B, M).
    """

    rows: Tensor
    at: Tensor
    inverse: Tensor
    t: Tensor
    slopes: Tensor
    force: Tensor
    arriving: Tensor


def split_by_atom(form: EpigraphForm, whole: Tensor) -> list[Tensor]:
    """What belongs to all kinks, (B, M), by atom."""
    return list(whole.split([c.shape[1] for c in form.constants], 1))


def smaller_slopes(form: EpigraphForm) -> Tensor:
    """The smaller slope of every kink, (M,)."""
    return torch.cat([atom.negative_slope for atom in form.atoms if isinstance(atom, Kinks)])


def push_derivatives(form: EpigraphForm, shares: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives (B, M, n) and the constants (B, M) of all arguments, with lines of slopes `shares` for kinks."""
    rows: list[Tensor] = []
    constants: list[Tensor] = []
    share = split_by_atom(form, shares)
    for k, c in enumerate(form.constants):
        first = form.from_y[k]
        row = c.new_zeros(*c.shape, form.size) if first is None else first.matrix
        for j in range(k):
            if (k, j) in form.between:
                between = form.between[k, j].matrix * share[j][:, None, :]
                row = row + between @ rows[j]
                c = c + (between @ constants[j][:, :, None])[..., 0]
        rows.append(row)
        constants.append(c)
    return torch.cat(rows, 1), torch.cat(constants, 1)


def pull_multipliers(form: EpigraphForm, shares: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """What arrives at all kinks, (B, M), and their multipliers: share times what arrives, and what is given."""
    share, more = split_by_atom(form, shares), split_by_atom(form, given)
    chosen: dict[int, Tensor] = {}
    arriving: list[Tensor] = []
    for k in reversed(range(len(form.atoms))):
        total = form.weights[k]
        for later, multiplier in chosen.items():
            if (later, k) in form.between:
                total = total + form.between[later, k].transposed(multiplier)
        arriving.insert(0, total)
        chosen[k] = share[k] * total + more[k]
    return torch.cat(arriving, 1), torch.cat([chosen[k] for k in range(len(form.atoms))], 1)


def vertex_of(table: Tableau) -> Vertex:
    """The vertex that the active rows make, with lines for all kinks that are not active."""
    form, n = table.form, table.form.size
    count = table.sides.shape[1]
    least = smaller_slopes(form)
    free = table.active[:, :count]
    shares = torch.where(free, 0.0, least + (1 - least) * table.sides)
    rows, constants = push_derivatives(form, shares)
    identity = torch.eye(n, dtype=rows.dtype, device=rows.device).expand(len(rows), n, n)
    rows = torch.cat([rows, identity], 1)
    constants = torch.cat([constants, -torch.where(table.upper, table.ends[1], table.ends[0])], 1)
    index = table.index
    inverse, _ = torch.linalg.inv_ex(rows.gather(1, index[:, :, None].expand(-1, -1, n)))
    t = -(inverse @ constants.gather(1, index)[:, :, None])[..., 0]
    _, lines = pull_multipliers(form, shares, torch.zeros_like(shares))
    slope = form.gradient(dict(enumerate(split_by_atom(form, lines))))
    force = -(slope[:, None, :] @ inverse)[:, 0]
    force = torch.zeros_like(constants).scatter_(1, index, force)
    arriving, _ = pull_multipliers(form, shares, torch.where(free, force[:, :count], 0.0))
    slopes = (force[:, :count] / torch.where(arriving > 0, arriving, 1.0) - least) / (1 - least).clamp(min=1e-12)
    slopes = torch.where(free, slopes, table.sides)
    at = (rows @ t[:, :, None])[..., 0] + constants
    return Vertex(rows, at, inverse, t, slopes, force[:, count:], arriving)


def violations(table: Tableau, vertex: Vertex) -> tuple[Tensor, Tensor]:
    """How far rows that are not active are on the wrong side, and how far the forces of active ones are out of range,
    (B, M + n) each; positive where they are."""
    count, active = table.sides.shape[1], table.active
    at, (low, high) = vertex.at[:, :count], table.ends
    crossed = torch.where(table.sides > 0, -at, at) * (vertex.arriving > 0)
    length = vertex.rows[:, :count].abs().sum(2)
    crossed = crossed / torch.where(length > 0, length, 1.0)
    outside = torch.maximum(low - vertex.t, vertex.t - high)
    apart = torch.where(active, -1.0, torch.cat([crossed, outside], 1))
    slopes = torch.maximum(-vertex.slopes, vertex.slopes - 1)
    wrong = torch.where(table.upper, -vertex.force, vertex.force)
    size = vertex.force.abs().amax(1, keepdim=True)
    wrong = wrong / torch.where(size > 0, size, 1.0)
    return apart, torch.where(active, torch.cat([slopes, wrong], 1), -1.0)


def pivot(table: Tableau, vertex: Vertex, apart: Tensor, off: Tensor) -> None:
    """Exchange one active row for another in every sample.

    Where rows are on the wrong side, the worst takes hold, and where forces are out of range, the worst lets go. Where
    there is only one of the two, the other row is the first that is met.
    """
    count, everyone = table.sides.shape[1], torch.arange(len(apart), device=apart.device)
    worst, entering = apart.max(1)
    least, leaving = off.max(1)
    beside, within = worst <= TINY, least <= EDGE
    rising = vertex.slopes.gather(1, leaving.clamp(max=count - 1)[:, None])[:, 0] > 0.5
    above = vertex.t > table.ends[1]
    if bool(beside.any()):
        met, upwards = first_row_met(table, vertex, leaving, rising)
        entering, above = torch.where(beside, met, entering), torch.where(beside[:, None], upwards, above)
    column = (entering - count).clamp(min=0)
    above = above[everyone, column]
    row = (vertex.rows[everyone, entering][:, None, :] @ vertex.inverse)[:, 0]  # in terms of the active ones
    large = row.abs() > PIVOT * row.abs().amax(1, keepdim=True)
    place = (table.index == leaving[:, None]).to(torch.int8).argmax(1)
    within |= ~large[everyone, place]
    if bool(within.any()):
        side = table.sides[everyone, entering.clamp(max=count - 1)]
        grows = torch.where(entering < count, side < 0.5, above)
        place, risen = first_row_leaving(table, vertex, torch.where(grows[:, None], -row, row), large)
        leaving = torch.where(within, table.index[everyone, place], leaving)
        rising = torch.where(within, risen, rising)
    place = (table.index == leaving[:, None]).to(torch.int8).argmax(1)
    table.index[everyone, place] = entering
    table.active[everyone, leaving] = False
    table.active[everyone, entering] = True
    some = (leaving < count).nonzero()[:, 0]
    table.sides[some, leaving[some]] = rising[some].to(table.sides)
    some = (entering >= count).nonzero()[:, 0]
    table.upper[some, column[some]] = above[some]


def first_row_met(table: Tableau, vertex: Vertex, leaving: Tensor, rising: Tensor) -> tuple[Tensor, Tensor]:
    """The first row (B,) that is met where an active one (B,) lets go, to the side to which its force pushes it; and
    which coordinates (B, n) grow then."""
    count, everyone = table.sides.shape[1], torch.arange(len(leaving), device=leaving.device)
    up = torch.where(leaving < count, rising, ~table.upper[everyone, (leaving - count).clamp(min=0)])
    place = (table.index == leaving[:, None]).to(torch.int8).argmax(1)
    way = vertex.inverse[everyone, :, place] * (2.0 * up[:, None] - 1.0)
    rates, at = (vertex.rows @ way[:, :, None])[..., 0], vertex.at
    moving, (low, high) = rates[:, count:], table.ends
    far = torch.cat([-at[:, :count], torch.where(moving > 0, high - vertex.t, low - vertex.t)], 1)
    until = far / torch.where(rates == 0, 1.0, rates)
    return torch.where(table.active | (until < 0) | (rates == 0), torch.inf, until).argmin(1), moving > 0


def first_row_leaving(table: Tableau, vertex: Vertex, change: Tensor, large: Tensor) -> tuple[Tensor, Tensor]:
    """The place (B,) of the active row whose force is first at the end of its range where these forces change (B, n),
    of those whose change is large enough; and whether that is the upper end."""
    count, everyone = table.sides.shape[1], torch.arange(len(change), device=change.device)
    slots = table.index.clamp(max=count - 1)
    slopes, arriving = vertex.slopes.gather(1, slots), vertex.arriving.gather(1, slots)
    reach = (1 - smaller_slopes(table.form)[slots]).clamp(min=1e-12) * arriving
    up = change > 0
    room = torch.where(up, 1 - slopes, -slopes) * reach
    slots = (table.index - count).clamp(min=0)
    bound = torch.where(table.upper.gather(1, slots) != up, -vertex.force.gather(1, slots), torch.inf * (2.0 * up - 1))
    room = torch.where(table.index < count, room, bound) / torch.where(change == 0, 1.0, change)
    place = torch.where(large, room, torch.inf).argmin(1)
    return place, up[everyone, place]


def pivot_to_minimum(table: Tableau, width: Tensor, most: int = PIVOTS) -> tuple[Tensor, Tensor, Tensor]:
    """Pivot until nothing is out of range: t (B, n), slopes (B, M), and for which samples that has come true, (B,).

    `table` then has the rows that hold these vertices. With fewer pivots than usual, samples of which as many rows are
    out of range at first are given up at once: each pivot mends one, and may put others out.
    """
    size = torch.where(width > 0, width, 1.0).amax(1)
    t, slopes = torch.zeros_like(width), torch.zeros_like(table.sides)
    done = torch.zeros(len(t), dtype=torch.bool, device=t.device)
    rows, part = torch.arange(len(t), device=t.device), table
    for count in range(most):
        vertex = vertex_of(part)
        apart, off = violations(part, vertex)
        apart = apart / size[rows, None]
        right = (apart.amax(1) <= TINY) & (off.amax(1) <= EDGE)
        known = vertex.t.isfinite().all(1) & vertex.slopes.isfinite().all(1)
        ended = rows[right & known]
        t[ended], slopes[ended], done[ended] = vertex.t[right & known], vertex.slopes[right & known], True
        for mine, theirs in ((table.active, part.active), (table.index, part.index), (table.upper, part.upper)):
            mine[ended] = theirs[right & known]
        going = ~right & known
        if most < PIVOTS and count == 0:
            going &= ((apart > TINY) | (off > EDGE)).sum(1) <= most
        going = going.nonzero()[:, 0]
        if not len(going):
            break
        if len(going) < len(rows):
            rows, part, apart, off = rows[going], part.rows(going), apart[going], off[going]
            vertex = Vertex(*(getattr(vertex, each.name)[going] for each in fields(vertex)))
        elif part is table:
            part = table.rows(going)
        pivot(part, vertex, apart, off)
    return t, slopes, done
