"""Vertices: where a piecewise linear function over a box has its minimum, by pivots from where a solver stopped.

As many kinks and bounds as there are variables hold a vertex. Where these lie on their kinks, a linear system says
where it is, and its transpose what the gates are. Where a gate leaves its range, its kink does not hold, and where
another kink has been crossed, that one may: they change places, as in the simplex method, until all is as it should be.
A solver that stopped early has most of them right, so that few pivots are enough.

Pivots see the kinks near the point alone (`nearby`). What they find is looked up in the function itself, and counts
only where it is beyond doubt; degenerate vertices are left to `holding`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from convexnet.solve.bends import Kinks
from convexnet.solve.drive import Evidence, Found, Problem
from convexnet.solve.holding import Held
from convexnet.solve.kink_form import KinkForm
from convexnet.solve.maps import Map
from convexnet.solve.nearby import reduced, turning

MANY = 2
"""Kinks that may turn, for each variable."""

TOGETHER = 32
"""Samples whose kinks are read off the functions at once."""

PIVOTS = 24
"""Pivots of one sample."""

LARGE = 150
"""Variables up to which pivots are worth their systems."""

EDGE = 1e-9
"""Gates, slopes and arguments nearer than this to the ends of their ranges, as a share, are in doubt."""


TINY = 1e-12
"""How far a kink may be on the wrong side, as a share of the box, to be on it."""


PIVOT = 1e-9
"""Entries of a row that are smaller than this share of its largest make no pivot."""


@dataclass
class Tableau:
    """The kinks near points (B, n), then the bounds: M + n rows r with r·t + c = 0 where they hold.

    Attributes:
        form: the kinks alone, as functions of t.
        sides: of each bend, (B, m_k): 1 where a kink is on its right, 0 on its left.
        active: which rows hold the vertex, (B, M + n).
        index: their numbers, (B, n).
        ends: the bounds of t, (B, n) each.
        upper: at which bound a coordinate would be held, (B, n).
    """

    form: KinkForm
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
        gates: of all kinks, (B, M); those that are not active have the sides they are on.
        force: the multipliers of the bounds, (B, n); zero where not active.
        arriving: what arrives at each kink, (B, M).
    """

    rows: Tensor
    at: Tensor
    inverse: Tensor
    t: Tensor
    gates: Tensor
    force: Tensor
    arriving: Tensor


def parts(form: KinkForm, whole: Tensor) -> list[Tensor]:
    """What belongs to all kinks, (B, M), by bend."""
    return list(whole.split([c.shape[1] for c in form.constants], 1))


def slopes(form: KinkForm) -> Tensor:
    """The smaller slope of every kink, (M,)."""
    return torch.cat([bend.slope for bend in form.bends if isinstance(bend, Kinks)])


def pushed(form: KinkForm, shares: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives (B, M, n) and the constants (B, M) of all arguments, with lines of slopes `shares` for kinks."""
    rows: list[Tensor] = []
    constants: list[Tensor] = []
    share = parts(form, shares)
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


def pulled(form: KinkForm, shares: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """What arrives at all kinks, (B, M), and their multipliers: share times what arrives, and what is given."""
    share, more = parts(form, shares), parts(form, given)
    chosen: dict[int, Tensor] = {}
    arriving: list[Tensor] = []
    for k in reversed(range(len(form.bends))):
        total = form.weights[k]
        for later, multiplier in chosen.items():
            if (later, k) in form.between:
                total = total + form.between[later, k].transposed(multiplier)
        arriving.insert(0, total)
        chosen[k] = share[k] * total + more[k]
    return torch.cat(arriving, 1), torch.cat([chosen[k] for k in range(len(form.bends))], 1)


def vertex_of(table: Tableau) -> Vertex:
    """The vertex that the active rows make, with lines for all kinks that are not active."""
    form, n = table.form, table.form.size
    count = table.sides.shape[1]
    least = slopes(form)
    free = table.active[:, :count]
    shares = torch.where(free, 0.0, least + (1 - least) * table.sides)
    rows, constants = pushed(form, shares)
    identity = torch.eye(n, dtype=rows.dtype, device=rows.device).expand(len(rows), n, n)
    rows = torch.cat([rows, identity], 1)
    constants = torch.cat([constants, -torch.where(table.upper, table.ends[1], table.ends[0])], 1)
    index = table.index
    inverse, _ = torch.linalg.inv_ex(rows.gather(1, index[:, :, None].expand(-1, -1, n)))
    t = -(inverse @ constants.gather(1, index)[:, :, None])[..., 0]
    _, lines = pulled(form, shares, torch.zeros_like(shares))
    slope = form.gradient(dict(enumerate(parts(form, lines))))
    force = -(slope[:, None, :] @ inverse)[:, 0]
    force = torch.zeros_like(constants).scatter_(1, index, force)
    arriving, _ = pulled(form, shares, torch.where(free, force[:, :count], 0.0))
    gates = (force[:, :count] / torch.where(arriving > 0, arriving, 1.0) - least) / (1 - least).clamp(min=1e-12)
    gates = torch.where(free, gates, table.sides)
    at = (rows @ t[:, :, None])[..., 0] + constants
    return Vertex(rows, at, inverse, t, gates, force[:, count:], arriving)


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
    gates = torch.maximum(-vertex.gates, vertex.gates - 1)
    wrong = torch.where(table.upper, -vertex.force, vertex.force)
    size = vertex.force.abs().amax(1, keepdim=True)
    wrong = wrong / torch.where(size > 0, size, 1.0)
    return apart, torch.where(active, torch.cat([gates, wrong], 1), -1.0)


def pivot(table: Tableau, vertex: Vertex, apart: Tensor, off: Tensor) -> None:
    """Exchange one active row for another in every sample.

    Where rows are on the wrong side, the worst takes hold, and where forces are out of range, the worst lets go. Where
    there is only one of the two, the other row is the first that is met.
    """
    count, everyone = table.sides.shape[1], torch.arange(len(apart), device=apart.device)
    worst, entering = apart.max(1)
    least, leaving = off.max(1)
    beside, within = worst <= TINY, least <= EDGE
    rising = vertex.gates.gather(1, leaving.clamp(max=count - 1)[:, None])[:, 0] > 0.5
    above = vertex.t > table.ends[1]
    if bool(beside.any()):
        met, upwards = first_met(table, vertex, leaving, rising)
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
        place, risen = first_out(table, vertex, torch.where(grows[:, None], -row, row), large)
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


def first_met(table: Tableau, vertex: Vertex, leaving: Tensor, rising: Tensor) -> tuple[Tensor, Tensor]:
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


def first_out(table: Tableau, vertex: Vertex, change: Tensor, large: Tensor) -> tuple[Tensor, Tensor]:
    """The place (B,) of the active row whose force is first at the end of its range where these forces change (B, n),
    of those whose change is large enough; and whether that is the upper end."""
    count, everyone = table.sides.shape[1], torch.arange(len(change), device=change.device)
    slots = table.index.clamp(max=count - 1)
    gates, arriving = vertex.gates.gather(1, slots), vertex.arriving.gather(1, slots)
    reach = (1 - slopes(table.form)[slots]).clamp(min=1e-12) * arriving
    up = change > 0
    room = torch.where(up, 1 - gates, -gates) * reach
    slots = (table.index - count).clamp(min=0)
    bound = torch.where(table.upper.gather(1, slots) != up, -vertex.force.gather(1, slots), torch.inf * (2.0 * up - 1))
    room = torch.where(table.index < count, room, bound) / torch.where(change == 0, 1.0, change)
    place = torch.where(large, room, torch.inf).argmin(1)
    return place, up[everyone, place]


def begun(form: KinkForm, gates: Tensor, far: Tensor, found: Found, lo: Tensor, hi: Tensor) -> Tableau:
    """The rows that seem to hold the minimisers.

    Args:
        form: the kinks that may turn, as functions of t = y − found.y.
        gates: of these, (B, M).
        far: how far they seem to be from holding, (B, M); negative where they do.
        found: the points, and the scale of f.
        lo, hi: the bounds of y, (B, n).
    """
    least, y, width = slopes(form), found.y, hi - lo
    scale = torch.where(width > 0, width, 1.0)
    _, lines = pulled(form, least + (1 - least) * gates, torch.zeros_like(gates))
    rise = form.gradient(dict(enumerate(parts(form, lines)))) * width / found.scale.clamp(min=1e-300)[:, None]
    low, high = rise - (y - lo) / scale, -rise - (hi - y) / scale
    bounds = torch.maximum(low, high)
    bounds = torch.where(width == 0, torch.inf, torch.where(bounds > 0, 1 + bounds, bounds))
    sure = torch.cat([torch.where(least < 1, -far, -torch.inf), bounds], 1)
    first = sure.topk(form.size, 1, sorted=False).indices
    active = torch.zeros_like(sure, dtype=torch.bool).scatter_(1, first, True)
    return Tableau(form, (gates > 0.5).to(y), active, first, (lo - y, hi - y), high > low)


def settle(table: Tableau, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pivot until nothing is out of range: t (B, n), gates (B, M), and for which samples that has come true, (B,).

    `table` then has the rows that hold these vertices.
    """
    size = torch.where(width > 0, width, 1.0).amax(1)
    t, gates = torch.zeros_like(width), torch.zeros_like(table.sides)
    done = torch.zeros(len(t), dtype=torch.bool, device=t.device)
    rows, part = torch.arange(len(t), device=t.device), table
    for _ in range(PIVOTS):
        vertex = vertex_of(part)
        apart, off = violations(part, vertex)
        apart = apart / size[rows, None]
        right = (apart.amax(1) <= TINY) & (off.amax(1) <= EDGE)
        known = vertex.t.isfinite().all(1) & vertex.gates.isfinite().all(1)
        ended = rows[right & known]
        t[ended], gates[ended], done[ended] = vertex.t[right & known], vertex.gates[right & known], True
        for mine, theirs in ((table.active, part.active), (table.index, part.index), (table.upper, part.upper)):
            mine[ended] = theirs[right & known]
        going = (~right & known).nonzero()[:, 0]
        if not len(going):
            break
        if len(going) < len(rows):
            rows, part, apart, off = rows[going], part.rows(going), apart[going], off[going]
            vertex = Vertex(*(getattr(vertex, each.name)[going] for each in fields(vertex)))
        elif part is table:
            part = table.rows(going)
        pivot(part, vertex, apart, off)
    return t, gates, done


def held_at_vertices(form: KinkForm, found: Found, lo: Tensor, hi: Tensor, to_x: Tensor) -> Held:
    """The vertices that are minimisers, put into `found` with their gates, and their derivatives for a gradient (B, n)
    of x; `sure` says for which samples."""
    gates, batch = found.gates, len(lo)
    nothing = torch.zeros_like(lo)
    nowhere = torch.zeros(batch, dtype=torch.bool, device=lo.device)
    none = [torch.zeros_like(c) for c in form.constants]
    kinks = {k: nowhere.clone() for k, bend in enumerate(form.bends) if not bend.smooth}
    flags = torch.zeros_like(lo, dtype=torch.bool)
    held = Held(flags, flags.clone(), nothing, nothing.clone(), none, nowhere, kinks, found.y.clone())
    if gates is None or not usable(form, lo, hi):
        return held
    arguments, width = form.arguments(found.y), hi - lo
    chosen = turning(arguments, gates, MANY * form.size)
    small = in_parts(form, arguments, found.y, chosen)
    near = torch.cat([gate.gather(1, index) for gate, index in zip(gates, chosen, strict=True)], 1)
    sizes = [a.abs().mean(1, keepdim=True) for a in arguments]
    away = [a.gather(1, i).abs() / size.clamp(min=1e-300) for a, i, size in zip(arguments, chosen, sizes, strict=True)]
    far = torch.cat(away, 1) - torch.minimum(near, 1 - near)
    table = begun(small, near.clamp(0, 1), far, found, lo, hi)
    t, there, done = settle(table, width)
    rows = done.nonzero()[:, 0]
    if not len(rows):
        return held
    form, small, table = form.rows(rows), small.rows(rows), table.rows(rows)
    there, chosen, width = there[rows], [index[rows] for index in chosen], width[rows]
    count = there.shape[1]
    free, bound = table.active[:, :count], table.active[:, count:]
    low, high = bound & ~table.upper, bound & table.upper
    y = torch.where(low, lo[rows], torch.where(high, hi[rows], found.y[rows] + t[rows]))
    whole = [
        (a[rows] > 0).to(y).scatter(1, index, gate)
        for a, index, gate in zip(arguments, chosen, parts(small, there), strict=True)
    ]
    holds = [
        torch.zeros_like(gate).scatter(1, index, some.to(y)) > 0
        for gate, index, some in zip(whole, chosen, parts(small, free), strict=True)
    ]
    slope = found.scale[rows, None] / torch.where(width > 0, width, 1.0)
    sure = minimal(form, y, whole, holds, slope, low, high)
    inside = (y > lo[rows] + EDGE * width) & (y < hi[rows] - EDGE * width)
    sure &= (bound | inside).all(1)
    least = slopes(small)
    lines, _ = pushed(small, least + (1 - least) * there)
    identity = torch.eye(form.size, dtype=y.dtype, device=y.device).expand(len(y), -1, -1)
    system = torch.cat([lines, identity], 1).gather(1, table.index[:, :, None].expand(-1, -1, form.size))
    solution, failed = torch.linalg.solve_ex(system.mT, to_x[rows])
    sure &= (failed == 0) & solution.isfinite().all(1)
    forces = torch.zeros_like(table.active, dtype=y.dtype).scatter_(1, table.index, solution)
    held.put(
        rows,
        Held(
            low, high, forces[:, count:], torch.zeros_like(y),
            [
                torch.zeros_like(gate).scatter(1, i, force)
                for gate, i, force in zip(whole, chosen, parts(small, forces[:, :count]), strict=True)
            ],
            sure, {k: some.any(1) for k, some in enumerate(holds)}, y,
        ),
    )  # fmt: skip
    right = sure.nonzero()[:, 0]
    if len(right):
        found.y[rows[right]] = y[right]
        found.looked[rows[right]] = False
        found.keep(rows[right], Evidence(gates=[gate[right] for gate in whole]))
    return held


def in_parts(form: KinkForm, arguments: list[Tensor], y: Tensor, chosen: list[Tensor]) -> KinkForm:
    """`reduced`, of as many samples at once as caches hold."""
    if len(y) <= TOGETHER:
        return reduced(form, arguments, y, chosen)
    made = [
        reduced(form.rows(part), [a[part] for a in arguments], y[part], [index[part] for index in chosen])
        for part in torch.arange(len(y), device=y.device).split(TOGETHER)
    ]
    first = made[0]

    def whole(maps: list[Map | None]) -> Map | None:
        return None if None in maps else Map(torch.cat([m.matrix for m in maps if m is not None]))

    between = {key: whole([form.between[key] for form in made]) for key in first.between}
    return KinkForm(
        tuple(torch.cat(parts) for parts in zip(*(form.constants for form in made), strict=True)),
        first.bends,
        tuple(whole(list(parts)) for parts in zip(*(form.from_y for form in made), strict=True)),
        {key: m for key, m in between.items() if m is not None},
        torch.cat([form.constant for form in made]),
        torch.cat([form.slope for form in made]),
        {k: torch.cat([form.weights[k] for form in made]) for k in first.weights},
    )


def usable(form: KinkForm, lo: Tensor, hi: Tensor) -> bool:
    """Whether all bends are kinks, the same ones for every sample, in a box of few variables."""
    bends = [bend for bend in form.bends if isinstance(bend, Kinks)]
    if not bends or len(bends) < len(form.bends) or form.size > LARGE or not Problem(form, lo, hi).compact:
        return False
    return not any(bool((part != part[:1]).any()) for bend in bends for part in (bend.slope, bend.least))


def minimal(
    form: KinkForm, y: Tensor, gates: list[Tensor], holds: list[Tensor], slope: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """Whether points (B, n) are certainly minimisers, and no others are, by the functions themselves, (B,).

    Args:
        form: the functions, with kinks only.
        y: the points.
        gates: of all kinks.
        holds: which of them hold the points.
        slope: a typical one of f, (B, n).
        low, high: which coordinates are held by a bound.
    """
    chosen, arriving = form.pulled(gates)
    g = form.gradient(chosen) / slope
    sure = y.isfinite().all(1)
    sure &= torch.where(low | high, torch.where(low, g, -g) > EDGE, g.abs() <= EDGE).all(1)
    for bend, a, gate, v, some in zip(form.bends, form.arguments(y), gates, arriving, holds, strict=True):
        assert isinstance(bend, Kinks)
        near = a / a.abs().mean(1, keepdim=True).clamp(min=1e-300)
        at_kink = (near.abs() <= EDGE) & (gate > EDGE) & (gate < 1 - EDGE) & (v > 0)
        beside = torch.where(gate > 0.5, near > EDGE, near < -EDGE) | (v == 0) | (bend.slope >= 1)
        sure &= torch.where(some, at_kink, beside).all(1)
    return sure
