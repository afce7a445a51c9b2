"""`minimise` over any region: the objective with penalties, over a box, as often as it takes; then back to the region.

A turn minimises `Penalised` over the box with weights ρ of each sample's own, pulls the minimiser to the region, and
compares the objective there with the best lower bound. Where they are still apart, ρ was smaller than the multipliers,
or the minimum of the penalised function was not exact enough, and the sample takes another turn.

Long because a turn, what decides on the next one, and what becomes of a sample are read together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexnet.domains import Box
from convexnet.errors import NotCertified, NotTraceable
from convexnet.solve.arguments import Arguments
from convexnet.solve.assemble_solution import MUCH, round_inside
from convexnet.solve.compiled import Reading
from convexnet.solve.constrained.feasible import feasible_of
from convexnet.solve.constrained.levels import Levels
from convexnet.solve.constrained.penalised import Layout, Penalised
from convexnet.solve.constrained.receding import recedes
from convexnet.solve.derivatives.attach import attach_derivatives, sources_of, wants_gradients
from convexnet.solve.derivatives.polish import refine_smooth
from convexnet.solve.derivatives.unavailable import check_derivatives, check_transforms
from convexnet.solve.functions.black_box import OwnForward
from convexnet.solve.lower_bounds import prove_bounds
from convexnet.solve.multipliers import slopes_of
from convexnet.solve.search import Search, search
from convexnet.solve.solution import Multipliers, Solution
from convexnet.solve.solver_functions import check_certified, own_forward, problem_of, read_module, whole_program
from convexnet.solve.solvers.incumbents import pick_rows, sign_patterns

TURNS = 10
"""How often a sample is minimised at most, each time with larger weights or to a smaller gap."""

STRONGER = 8.0
"""The factor from one weight to the next."""

FIRST = 2.0
"""The first weight, in slopes of the objective at a few points."""

SHARE = 0.25
"""Of the allowed gap, what the minimum of the penalised function may take."""


@dataclass
class Tableau:
    """The penalised function for a batch.

    Attributes:
        module: `Penalised`.
        arguments: its inputs and its box; they take part in autograd.
        scale: what a weight ρ of 1 stands for at each penalty, (B, p).
        ends: where right sides, radii and levels are among the inputs, by what their multipliers are called; and what
            turns ∂value / ∂(them) into multipliers.
    """

    module: Penalised
    arguments: Arguments
    scale: Tensor
    ends: list[tuple[str, int, slice]]

    def weighted(self, rho: Tensor, rows: Tensor | None = None) -> Arguments:
        """The inputs with weights, of some samples (R,) or all; rho is (R,)."""
        arguments, own = self.arguments, self.module.layout.own
        weights = rho[:, None] * (self.scale if rows is None else self.scale[rows])
        inputs = [*arguments.inputs[:own], weights, *arguments.inputs[own + 1 :]]
        if rows is None:
            return replace(arguments, inputs=inputs)
        inputs = [t if i == own else t[rows] for i, t in enumerate(inputs)]
        lo, hi = arguments.lo[rows], arguments.hi[rows]
        ends = [
            end.expand(arguments.batch, *arguments.box.shape)[rows] for end in (arguments.box.lo, arguments.box.hi)
        ]  # of which gradients go on to what they were made of
        box = Box(ends[0], ends[1], arguments.box.shape, len(rows))
        start = None if arguments.start is None else arguments.start[rows]
        return replace(arguments, inputs=inputs, lo=lo, hi=hi, box=box, start=start, atol=arguments.atol[rows])


def tableau_of(arguments: Arguments) -> Tableau:
    """The penalised function of what was asked for."""
    region, batch, y = arguments.region, arguments.batch, arguments.inputs[arguments.variable]
    device = y.device

    def wide(tensor: Tensor) -> Tensor:
        return tensor.to(device).expand(batch, *tensor.shape[-1:])

    extras: list[Tensor] = []
    scales: list[Tensor] = []
    ends: list[tuple[str, int, slice]] = []
    first = len(arguments.inputs) + 1
    for group in (region.below, region.equal):
        if not group:
            continue
        matrix = torch.cat([rows.matrix for rows in group]).to(device)
        extras += [matrix.expand(batch, *matrix.shape), torch.cat([wide(rows.right) for rows in group], 1)]
        length = torch.linalg.vector_norm(matrix.detach(), dim=1)
        scales.append((1 / torch.where(length > 0, length, 1.0)).expand(batch, len(length)))
        start = 0
        for rows in group:
            stop = start + len(rows.matrix)
            ends.append((rows.kind, first + len(extras) - 1, slice(start, stop)))
            start = stop
    for ball in region.balls:
        radius = ball.radius.to(device).expand(batch)[:, None]
        extras += [wide(ball.centre), radius]
        scales.append(0.5 / radius.detach().clamp(min=1e-150))
        ends.append(("ball", first + len(extras) - 1, slice(0, 1)))
    takes: list[tuple[int, ...] | int] = []
    for constraint in arguments.subject_to:
        extras += [constraint.level, *constraint.given]
        scales.append(torch.ones_like(constraint.level.detach()))
        ends.append(("subject_to", first + len(extras) - 1 - len(constraint.given), slice(0, 1)))
        takes.append(constraint.takes)
    layout = Layout(
        len(arguments.inputs), arguments.variable, bool(region.below), bool(region.equal),
        tuple((ball.start, ball.stop) for ball in region.balls), region.entropy, tuple(takes),
    )  # fmt: skip
    module = Penalised(arguments.module, [constraint.module for constraint in arguments.subject_to], layout)
    scale = torch.cat(scales, 1) if scales else arguments.lo.new_zeros(batch, 0)
    inner = replace(
        arguments, module=module, inputs=[*arguments.inputs, scale, *extras], owner=arguments.owner or arguments.module,
        kind=(arguments.kind, layout, tuple(id(network) for network in module.others)),
    )  # fmt: skip
    return Tableau(module, inner, scale, ends)


def minimise_over_region(arguments: Arguments) -> Solution:
    """`minimise` where the domain is more than a box, or further networks constrain it."""
    if arguments.derivative == "unrolled":
        raise ValueError('derivative="unrolled" is for boxes without further constraints: use "exact" or "smoothed"')
    tableau = tableau_of(arguments)
    reading, everywhere = read(arguments, tableau)
    own = sources_of(reading, tableau.module)
    check_transforms(own)
    keep = wants_gradients(own, tableau.arguments.inputs, arguments.box)
    exact = keep and arguments.derivative == "exact"
    with torch.no_grad():
        work = Work(arguments, tableau, reading, everywhere)
        work.run(check=exact)
        if exact:
            for _, done in work.pieces:
                refine_smooth(done.problem, done.found)
        solution = work.solution()
    if keep:
        x, value = work.attached(own, solution)
        solution = replace(solution, x=x, value=value, upper_bound=value)
    return solution


def turns_of(arguments: Arguments) -> Work:
    """The turns of a problem that is certified, before the first."""
    tableau = tableau_of(arguments)
    return Work(arguments, tableau, *read(arguments, tableau))


def read(arguments: Arguments, tableau: Tableau) -> tuple[Reading, bool]:
    """The penalised function, certified; or the error that says which of its parts is not."""
    inner = tableau.arguments
    try:
        reading = read_module(inner)
        return reading, check_certified(reading, inner)
    except (NotTraceable, NotCertified, ValueError):
        check_part(arguments)
        for i, (constraint, network) in enumerate(zip(arguments.subject_to, tableau.module.others, strict=True)):
            takes = constraint.takes
            y = arguments.inputs[arguments.variable]
            inputs = [*constraint.given, y] if isinstance(takes, int) else [arguments.inputs[j] for j in takes]
            variable = len(inputs) - 1 if isinstance(takes, int) else arguments.variable
            part = replace(
                arguments, module=network, inputs=inputs, variable=variable, owner=None, kind=None, readings=None
            )
            try:
                check_part(part)
            except NotCertified as refused:
                raise NotCertified(f"subject_to[{i}]: {refused}", refused.findings) from None
            except (NotTraceable, ValueError) as refused:
                raise type(refused)(f"subject_to[{i}]: {refused}") from None
        raise


def check_part(arguments: Arguments) -> None:
    """Raise what is wrong with one network of the problem, if anything is."""
    check_certified(read_module(arguments), arguments)


class Work:
    """The turns of a batch, and what is known of each sample.

    Attributes:
        x: the best feasible points (B, n), in the caller's type; value: the objective there, (B,).
        bound, lost: the best lower bounds, (B,), and what rounding took off them.
        pieces: the last turn of each sample: the samples that took it, and the search.
        infeasible: for each sample, what conflicts; empty where nothing does.
        nowhere: of which samples no point of the domain was found, though nothing proves that there is none.
        rounding: what the objective differs by because points are rounded to the caller's type, (B,).
    """

    def __init__(self, arguments: Arguments, tableau: Tableau, reading: Reading, everywhere: bool) -> None:
        self.arguments, self.tableau, self.reading, self.everywhere = arguments, tableau, reading, everywhere
        batch, like = arguments.batch, arguments.lo
        inner = arguments.domain.centre.to(like)
        known = arguments.domain.conflicts()
        self.infeasible = [known[min(i, len(known) - 1)] for i in range(batch)]
        inner = inner.reshape(-1, like.shape[1])
        self.nowhere = inner.isnan().any(1).expand(batch)
        self.feasible = feasible_of(arguments.region, batch, inner)
        self.x = torch.full_like(like, torch.nan).to(arguments.dtype)
        self.value = torch.full_like(like[:, 0], torch.inf)
        self.bound, self.lost = torch.full_like(self.value, -torch.inf), torch.zeros_like(self.value)
        self.scale = torch.zeros_like(self.value)
        self.rounding = torch.zeros_like(self.value)
        self.steps = torch.zeros(batch, dtype=torch.int64, device=like.device)
        self.other = torch.zeros(batch, dtype=torch.bool, device=like.device)
        self.pieces: list[tuple[Tensor, Search]] = []
        self.used: list[str] = []
        self.levels = Levels(arguments, turns_of) if arguments.subject_to else None

    def run(self, check: bool) -> None:
        """Take turns until every sample is solved or cannot be.

        Args:
            check: refuse what has no derivatives.
        """
        arguments, like = self.arguments, self.value
        able = [not names and not lost for names, lost in zip(self.infeasible, self.nowhere.tolist(), strict=True)]
        rows = torch.tensor(able, device=like.device).nonzero()[:, 0]
        if not len(rows):
            return
        own = self.forward()
        middle = self.feasible.inner[rows]
        whole = whole_program(self.reading, self.tableau.weighted(torch.zeros_like(like)), None)
        rho = torch.ones_like(like)
        rho[rows] = FIRST * self.steepness(whole.rows(rows), rows)
        self.scale[rows] = self.rise(own.rows(rows), rows, middle, own.rows(rows).value(middle))
        strict = torch.full_like(like, SHARE)
        stalled = torch.zeros_like(like)
        before = torch.full_like(like, torch.inf)
        start = arguments.start
        for turn in range(TURNS):
            allowed = arguments.atol + arguments.budget.tol * self.scale
            part = replace(
                self.tableau.weighted(rho[rows], rows), atol=(strict * allowed)[rows],
                budget=replace(arguments.budget, tol=1e-15), start=None if start is None else start[rows],
            )  # fmt: skip
            done = search(self.reading, part, self.everywhere)
            if check and not turn:
                check_derivatives(
                    self.reading, done.problem.f, arguments.solver, self.tableau.arguments.inputs, arguments.box
                )
            self.used += [name for name in done.used if name not in self.used]
            self.steps[rows] += done.found.steps
            proof, lost = prove_bounds(done.problem, done.found)
            self.note(own, rows, done, proof, lost)
            self.pieces = [(r[keep], pick(s, keep)) for r, s in self.pieces if len(keep := missing(r, rows))]
            self.pieces.append((rows, done))
            open_ = ~self.converged(rows)
            if not bool(open_.any()) or arguments.budget.is_spent:
                break
            room = (arguments.atol + arguments.budget.tol * self.scale)[rows]
            reached = with_constant(done)
            inside = (reached - proof) > SHARE * room
            outside = (self.value[rows] - reached) > SHARE * room
            gap = (self.value - self.bound)[rows]
            stalled[rows] = torch.where(gap < 0.5 * before[rows], 0.0, stalled[rows] + 1)
            before[rows] = torch.minimum(gap, before[rows])
            strict[rows] = torch.where(inside, strict[rows] / STRONGER, strict[rows]).clamp(min=1e-6)
            rho[rows] = torch.where(outside | ~inside, STRONGER * rho[rows], rho[rows])
            if start is None:
                start = torch.zeros_like(arguments.lo)
            start = start.index_put((rows,), done.found.y)
            rows = rows[open_ & (stalled[rows] < 4)]
            if not len(rows):
                break

    def forward(self) -> OwnForward:
        """The objective itself, by the module's own forward: with weights of zero."""
        plain = self.tableau.weighted(torch.zeros_like(self.value))
        return own_forward(self.reading, plain)

    def steepness(self, whole: object, rows: Tensor) -> Tensor:
        """The size of the objective's slope at a few points, (R,)."""
        middle = self.feasible.inner[rows]
        ways = sign_patterns(middle.shape[1], middle)[:2]
        part = self.feasible.rows(rows)
        points = [middle, *(part.pull(middle + way * middle.abs().clamp(min=1.0)) for way in ways)]
        slopes = [torch.linalg.vector_norm(whole.subgradient(p)[1].nan_to_num(0.0, 0.0, 0.0), dim=1) for p in points]  # pyright: ignore
        return torch.stack(slopes).amax(0).clamp(min=1e-30)

    def rise(self, own: OwnForward, rows: Tensor, x: Tensor, value: Tensor) -> Tensor:
        """S for points x (R, n) of the region: as `incumbents.rises`, along ways that end inside of it, (R,)."""
        part = self.feasible.rows(rows)
        length = x.abs().clamp(min=1.0)
        far = length.amax(1, keepdim=True)
        reach = torch.minimum(part.hi - part.lo, length)
        found: list[Tensor] = [torch.zeros_like(value)]
        for way in [*sign_patterns(x.shape[1], x), None]:
            target = part.inner if way is None else part.pull(x + way * reach)
            there = own.value(x + (target - x) / far)
            found.append((far[:, 0] * (there - value)).nan_to_num(0.0, 0.0, 0.0))
        return torch.stack(found).amax(0)

    def note(self, own: OwnForward, rows: Tensor, done: Search, proof: Tensor, lost: Tensor) -> None:
        """Keep the points and bounds of a turn, where they are better than those before."""
        arguments, part = self.arguments, self.feasible.rows(rows)
        point = part.pull(done.found.y)
        if bool((part.excess(point) > 1e-9 * (1 + point.abs().amax(1))).any()):  # no inside to pull to
            wrong = (part.excess(point) > 1e-12 * (1 + point.abs().amax(1))).nonzero()[:, 0]
            lead = arguments.domain.centre.new_zeros(arguments.batch, *arguments.domain.shape)
            lead[rows[wrong]] = done.found.y[wrong].view(-1, *arguments.domain.shape).to(lead)
            nearest = arguments.domain.project(lead).reshape(arguments.batch, -1).to(point)
            point[wrong] = nearest[rows[wrong]]
        held = torch.ones_like(proof, dtype=torch.bool)
        if self.levels is not None:
            point, held, conflict = self.levels.pull(rows, point)
            for row in rows[conflict].tolist():
                self.infeasible[row] = self.levels.missed(row)
        x, within = self.members(rows, point)
        value = own.rows(rows).value(x.double())
        if bool(value.isnan().any()):  # as y log(y) beside 0, which has a limit
            near, inside = self.members(rows, torch.lerp(point, part.inner, 1e-12))
            again = own.rows(rows).value(near.double())
            move = value.isnan() & ~again.isnan()
            x = torch.where(move[:, None], near, x)
            value, within = torch.where(move, again, value), torch.where(move, inside, within)
        value = torch.where(held & within, value, torch.inf)
        better = (value < self.value[rows]) | ~self.value[rows].isfinite() & value.isfinite()
        self.x[rows[better]], self.value[rows[better]] = x[better], value[better]
        if arguments.dtype != torch.float64 and bool(better.any()):
            exact = own.rows(rows[better]).value(point[better])
            self.rounding[rows[better]] = (value[better] - exact).abs().nan_to_num(0.0, 0.0, 0.0)
        higher = proof > self.bound[rows]
        self.bound[rows[higher]], self.lost[rows[higher]] = proof[higher], lost[higher]
        some = rows[self.value[rows].isfinite()]
        if len(some):
            self.scale[some] = self.rise(own.rows(some), some, self.x[some].double(), self.value[some])

    def members(self, rows: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
        """Points (R, n) in the caller's type, moved towards the inside by as little as makes the domain contain them;
        and whether it does, (R,)."""
        arguments, part = self.arguments, self.feasible.rows(rows)
        domain = arguments.domain
        x = round_inside(point, part.lo, part.hi, arguments.dtype)
        everyone = domain.centre.to(point).reshape(-1, point.shape[1]).expand(arguments.batch, -1).to(x).clone()
        unit = torch.finfo(arguments.dtype).eps

        def contained(points: Tensor) -> Tensor:
            everyone[rows] = points
            return domain.contains(everyone.view(-1, *domain.shape))[rows]

        within = contained(x)
        for share in (4 * unit, 64 * unit, 1024 * unit, 2**14 * unit):
            if bool(within.all()):
                break
            near = round_inside(torch.lerp(part.meet(point), part.inner, share), part.lo, part.hi, arguments.dtype)
            move = ~within & contained(near)
            x, within = torch.where(move[:, None], near, x), within | move
        return x, within

    def converged(self, rows: Tensor) -> Tensor:
        """Which samples are solved, (R,)."""
        value, bound, scale, lost = (t[rows] for t in (self.value, self.bound, self.scale, self.lost))
        size = torch.where(value.isfinite(), value.abs(), 0.0)
        much = MUCH * (size + scale)
        self.other[rows] = bound > value + 2 * lost.nan_to_num(nan=0.0) + much
        rounded = 0.0
        if self.arguments.dtype != torch.float64:  # what x may be off by, times what f rises by
            rounded = torch.finfo(self.arguments.dtype).eps * scale * self.x.shape[1] + 2 * self.rounding[rows]
        allowed = self.arguments.atol[rows] + self.arguments.budget.tol * scale
        allowed = allowed + 2 * torch.minimum(lost, much).nan_to_num(nan=0.0) + 2.0**-50 * size + rounded + 1e-280
        return ((value - torch.minimum(bound, value)) <= allowed) & value.isfinite() & ~self.other[rows]

    def solution(self) -> Solution:
        """What has become of the samples, without gradients."""
        arguments, batch = self.arguments, self.arguments.batch
        everyone = torch.arange(batch, device=self.value.device)
        converged = self.converged(everyone)
        endless = self.unbounded(~converged & ~self.other & (self.bound == -torch.inf))
        empty = torch.tensor([bool(names) for names in self.infeasible], device=self.value.device)
        converged &= ~empty
        bound = torch.where(self.other, -torch.inf, torch.minimum(self.bound, self.value))
        value = torch.where(empty, torch.inf, self.value)
        bound = torch.where(empty, torch.inf, bound)
        x = torch.where(empty[:, None], torch.nan, self.x)
        gap = torch.where(empty, torch.inf, (value - bound).nan_to_num(nan=torch.inf))
        status = tuple(
            "infeasible" if bad else "converged" if done else "unbounded" if falls else "stopped"
            for bad, done, falls in zip(empty.tolist(), converged.tolist(), endless.tolist(), strict=True)
        )
        name = "none" if not self.used else self.used[0]
        name += f", then {', '.join(self.used[1:])}" if len(self.used) > 1 else ""
        message = self.message(converged, empty, endless, gap, name)
        made = x.view(batch, *arguments.domain.shape)
        return Solution(
            made, value, bound, value, gap, converged, status, self.steps, name, message, Multipliers(self.multipliers)
        )

    def unbounded(self, left: Tensor) -> Tensor:
        """Of which samples (B,), some of those that are `left`, it is proved that there is no least value."""
        endless = torch.zeros_like(left)
        rows = (left & self.value.isfinite()).nonzero()[:, 0]
        if not len(rows) or self.arguments.subject_to:
            return endless
        part = self.tableau.weighted(torch.zeros_like(self.value[rows]), rows)
        problem, _ = problem_of(self.reading, part, self.everywhere)
        slope = problem.exact.subgradient(self.x[rows].double())[1]
        endless[rows] = recedes(problem.f, self.arguments.region, part.lo, part.hi, slope)
        return endless

    def message(self, converged: Tensor, empty: Tensor, endless: Tensor, gap: Tensor, name: str) -> str:
        """What happened, in sentences."""
        count, done = len(converged), int(converged.sum())
        if done == count:
            return f"all {count} converged ({name})" if count > 1 else f"converged ({name})"
        text = f"{done} of {count} converged" + (f" ({name})" if self.used else "")
        bad = empty.nonzero()[:, 0].tolist()
        for row in bad[:4]:
            what = " and ".join(self.infeasible[row])
            text += f". Sample {row} is infeasible: no point of the domain meets {what}"
        text += f". {len(bad) - 4} more samples are infeasible" if len(bad) > 4 else ""
        left = ~converged & ~empty
        if bool(endless.any()):
            which = ", ".join(str(i) for i in endless.nonzero()[:8, 0].tolist())
            text += f". f is unbounded below on this domain (sample {which}): give finite bounds"
        elif bool((left & self.nowhere).any()):
            which = ", ".join(str(i) for i in (left & self.nowhere).nonzero()[:8, 0].tolist())
            text += (
                f". No point of the domain was found for sample {which}, and it is not proved that there is none: its "
                "rows conflict up to rounding. Give finite bounds (within=Box(...)), or other rows"
            )
        elif bool(left.any()):
            far = float((gap / self.scale.clamp(min=1e-300))[left].max())
            text += f"; largest gap {far:.2g} of the size of f"
            if bool(torch.isinf(self.bound[left]).any()):
                text += ". On an unbounded domain a bound is proved from strong convexity: give finite bounds"
            elif bool((left & self.other).any()):
                text += ". The module's own forward is lower than the program that was traced can be: nothing is proved"
            elif bool(torch.isinf(self.value[left]).any()):
                text += ". No point was found that meets the constraints"
            else:
                text += ". The points are the best found and the gaps hold: try a larger tol or time_limit"
        return text

    # --- derivatives ---------------------------------------------------------------------------------------------

    def attached(self, own: Sequence[Tensor], solution: Solution) -> tuple[Tensor, Tensor]:
        """x and value with their gradients, as those of the penalised minimum."""
        x, value = solution.x, solution.value
        made: list[tuple[Tensor, Tensor, Tensor]] = []
        for rows, done in self.pieces:
            live = self.live(rows, done, self.tableau.arguments)
            found = done.found.y.view(len(rows), *self.arguments.domain.shape).to(x.dtype)
            with torch.enable_grad():
                moving = attach_derivatives(
                    self.reading, done.problem, live, own, done.found, done.used, found, value[rows]
                )
            made.append((rows, *moving))
        with torch.enable_grad():
            for rows, moving, height in made:
                shifted = moving + (x[rows].detach() - moving.detach())
                x = x.index_put((rows,), shifted)
                value = value.index_put((rows,), height)
        return x, value

    def live(self, rows: Tensor, done: Search, source: Arguments) -> Arguments:
        """The arguments of a piece as they take part in autograd."""
        own = self.tableau.module.layout.own
        with torch.enable_grad():
            inputs = [done.arguments.inputs[i] if i == own else t[rows] for i, t in enumerate(source.inputs)]
            ends = [end.expand(source.batch, *source.box.shape)[rows] for end in (source.box.lo, source.box.hi)]
            return replace(done.arguments, inputs=inputs, box=Box(ends[0], ends[1], source.box.shape, len(rows)))

    def multipliers(self) -> dict[str, Tensor]:
        """The multipliers of bounds, rows, balls and levels: slopes of the value for what they are compared with."""
        arguments, batch, n = self.tableau.arguments, self.arguments.batch, self.arguments.lo.shape[1]
        with torch.enable_grad():
            inputs = [t.detach() for t in arguments.inputs]
            places = {place for _, place, _ in self.tableau.ends}
            inputs = [t.clone().requires_grad_() if i in places else t for i, t in enumerate(inputs)]
            ends = [
                end.detach().expand(batch, *arguments.box.shape).clone().requires_grad_()
                for end in (arguments.box.lo, arguments.box.hi)
            ]
            source = replace(arguments, inputs=inputs, box=Box(ends[0], ends[1], arguments.box.shape, batch))
            leaves = [*(inputs[i] for i in sorted(places)), *ends]
            total = self.value.new_zeros(())
            for rows, done in self.pieces:
                live = self.live(rows, done, source)
                found = done.found.y.view(len(rows), *self.arguments.domain.shape)
                height = attach_derivatives(
                    self.reading, done.problem, live, [], done.found, done.used, found, self.value[rows]
                )[1]
                total = total + height.sum()
            slopes = dict(zip([*sorted(places), "lo", "hi"], slopes_of(total, leaves), strict=True))
        unknown = torch.ones(batch, 1, dtype=torch.bool, device=self.value.device)
        for rows, _ in self.pieces:
            unknown[rows] = False
        made = {"lower": slopes["lo"].reshape(batch, n), "upper": -slopes["hi"].reshape(batch, n)}
        for kind, place, part in self.tableau.ends:
            more = -slopes[place][:, part]
            made[kind] = torch.cat([made[kind], more], 1) if kind in made else more
        for kind in ("lower", "upper", "inequality", "ball", "subject_to"):
            if kind in made:
                made[kind] = made[kind].clamp(min=0)
        return {kind: torch.where(unknown, torch.nan, part) for kind, part in made.items()}


def with_constant(done: Search) -> Tensor:
    """The values that a search found, with what is constant in f, which its solvers do not see, (B,)."""
    shift: Tensor | None = getattr(done.problem.exact, "shift", None)
    return done.found.value if shift is None else done.found.value + shift


def missing(rows: Tensor, others: Tensor) -> Tensor:
    """The places of rows that are not among others."""
    return (~torch.isin(rows, others)).nonzero()[:, 0]


def pick(done: Search, keep: Tensor) -> Search:
    """A search for some of its samples."""
    arguments = done.arguments
    box = Box(arguments.box.lo[keep], arguments.box.hi[keep], arguments.box.shape, len(keep))
    part = replace(
        arguments, inputs=[t[keep] for t in arguments.inputs], lo=arguments.lo[keep], hi=arguments.hi[keep], box=box,
        start=None if arguments.start is None else arguments.start[keep], atol=arguments.atol[keep],
    )  # fmt: skip
    return replace(done, arguments=part, problem=done.problem.rows(keep), found=pick_rows(done.found, keep))
