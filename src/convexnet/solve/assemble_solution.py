"""From what solvers found to the solution: values by the module itself, bounds that are proved, what has converged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexnet.form.epigraph import EpigraphForm
from convexnet.form.program import OpenedProgram
from convexnet.solve.active_start import trail_of
from convexnet.solve.compiled import Reading
from convexnet.solve.derivatives.attach import attach_derivatives
from convexnet.solve.derivatives.implicit import as_it_was
from convexnet.solve.derivatives.saved_minimum import flat_bound
from convexnet.solve.derivatives.surrogates import unroll_descent
from convexnet.solve.functions.black_box import OwnForward
from convexnet.solve.functions.problem import Problem
from convexnet.solve.lower_bounds import PART, count_cells, prove_bounds
from convexnet.solve.message import Summary
from convexnet.solve.multipliers import box_multipliers
from convexnet.solve.search import Search
from convexnet.solve.solution import Multipliers, Solution
from convexnet.solve.solver_functions import own_forward
from convexnet.solve.solvers.incumbents import Incumbents, pick_rows, rises, sign_patterns

MUCH = 1e-7
"""The share of a value, or of its rise, up to which what is lost to rounding counts as rounding."""


def assemble_solution(done: Search, own: list[Tensor] | None) -> Solution:
    """The solution: points in the caller's type, their values by the module, and bounds that are proved; with gradients
    to the module's `own` tensors and to all others, if they are wanted."""
    reading, arguments, problem, found, used, closed = (
        done.reading, done.arguments, done.problem, done.found, done.used, done.closed
    )  # fmt: skip
    y, descended, derivative, tol = found.y, found.value, arguments.derivative, arguments.budget.tol
    if derivative == "unrolled":
        opened, ends = opened_for_proofs(reading, derivative), (arguments.box.lo, arguments.box.hi)
        lo, hi = (flat_bound(end, arguments.box.shape, arguments.batch).to(y) for end in ends)
        live = {id(t): as_it_was(t, reading.values.get(id(t), t)) for t in own or []}
        y, descended = unroll_descent(opened, arguments.inputs, live, Problem(problem.f, lo, hi), arguments.start)
        if own is None:
            y, descended = y.detach(), descended.detach()
        else:
            y, descended = (with_zero_gradients(part, [*arguments.inputs, *ends, *own]) for part in (y, descended))
        nowhere = torch.zeros_like(found.looked)
        found = replace(found, y=y.detach(), value=descended.detach(), looked=nowhere)
    x = round_inside(y, arguments.lo, arguments.hi, arguments.dtype)
    opened = problem.exact.opened
    itself = own_forward(reading, arguments)
    value = evaluate_in_parts(itself, x.double(), opened)
    x, value = move_where_defined(itself, problem, found, x, value, opened)
    proof, lost = prove_bounds(problem, found)
    made = judge(problem, found, x.double(), value, proof, lost, tol)
    left = (~made.converged & ~made.other).nonzero()[:, 0]
    if len(left):  # where f is flat, nothing but the tangent at x itself is without a slope
        more, off = prove_bounds(problem.rows(left), without_multipliers(pick_rows(found, left), x[left].double()))
        better = more > proof[left]
        if bool(better.any()):
            proof[left[better]], lost[left[better]] = more[better], off[better]
            made = judge(problem, found, x.double(), value, proof, lost, tol)
    converged = made.converged
    name = used[0] if len(used) == 1 else f"{used[0]}, then {', '.join(used[1:])}"
    far = (made.gap / made.scale.clamp(min=1e-300))[~converged]
    moved = (x.double() != found.y).any(1)
    rounded = None if arguments.dtype == torch.float64 else (arguments.dtype, ~found.open(tol) & ~converged & moved)
    sides = (arguments.hi - arguments.lo)[~converged]
    side = float(sides[sides.isfinite()].amax()) if bool(sides.isfinite().any()) else 0.0
    unbounded = ~converged & ~made.other & ~made.proof.isfinite()
    if bool(unbounded.any()):
        unbounded &= is_unbounded(problem, found)
    summary = Summary(
        converged,
        made.bound,
        solver=name,
        gap=float(far.max()) if len(far) else 0.0,
        compact=problem.compact,
        closed=closed,
        rounded=rounded,
        unbounded=unbounded,
        other=made.other,
        side=side,
    )
    status = tuple(
        "converged" if done else "unbounded" if endless else "stopped"
        for done, endless in zip(converged.tolist(), unbounded.tolist(), strict=True)
    )
    x = x.view(arguments.batch, *arguments.box.shape)
    if derivative == "unrolled":
        x, value = with_gradient_of(x, y), with_gradient_of(value, descended)
    elif own is not None:
        if derivative == "smoothed":
            opened_for_proofs(reading, derivative)
        x, value = attach_derivatives(reading, problem, arguments, own, found, used, x, value)
    later = Multipliers(lambda: box_multipliers(replace(done, found=found)))
    return Solution(
        x,
        value,
        made.bound,
        value,
        made.gap,
        converged,
        status,
        found.steps,
        name,
        summary.message,
        later,
        trail_of(found),
    )


@dataclass(frozen=True)
class Judgement:
    """What becomes of values and bounds, (B,) each: see `assemble_solution`."""

    other: Tensor
    proof: Tensor
    bound: Tensor
    gap: Tensor
    converged: Tensor
    scale: Tensor


def judge(
    problem: Problem, found: Incumbents, x: Tensor, value: Tensor, proof: Tensor, lost: Tensor, tol: float
) -> Judgement:
    """Which samples have converged. S is looked at as far as it is needed to tell.

    Args:
        problem: of all samples.
        found: what solvers know of S.
        x: (B, n).
        value, proof: the value at x and the lower bound that was proved, (B,).
        lost: what rounding took off that bound, (B,).
        tol: times S.
    """
    apart = excess_of_rounding(problem, x) + 2.0**-50 * value.abs() + 1e-280

    def verdict(scale: Tensor, flat: Tensor | None = None) -> Judgement:
        much = room = MUCH * (value.abs() + scale)
        if flat is not None:  # nothing but rounding is left of the gap, and f has no size to compare it with
            alone = flat & (value - proof - lost <= 2.0**-50 * value.abs() + 1e-280)
            much = torch.where(alone, torch.inf, much)
        other = proof > value + 2 * lost.nan_to_num(nan=0.0) + room  # then the module is not what was traced
        sure = torch.where(other, -torch.inf, proof)
        bound = torch.fmin(sure, value)  # they may cross by what rounding leaves
        gap = value - bound
        gap = torch.where(gap.isnan(), torch.inf, gap)
        allowed = found.atol + tol * scale + 2 * torch.minimum(lost, much).nan_to_num(nan=0.0) + apart
        return Judgement(other, sure, bound, gap, (gap <= allowed) & gap.isfinite(), scale)

    known = found.looked & (found.y == x).all(1)
    made = verdict(torch.where(known, found.scale, 0.0))
    ways = sign_patterns(problem.size, x)
    for first in (True, False):
        left = ~made.converged | made.other
        rows = (left & ~known if first else left).nonzero()[:, 0]
        if len(rows):
            part = problem if len(rows) == problem.batch else problem.rows(rows)
            some = ways[found.way[rows]][None] if first else ways[:, None]
            scale = made.scale.clone()
            scale[rows] = rises(part, x[rows], part.f.value(x[rows]), some).amax(0)
            made = verdict(scale, None if first else (scale == 0) & left)
    return made


def move_where_defined(
    own: OwnForward, problem: Problem, found: Incumbents, x: Tensor, value: Tensor, opened: OpenedProgram
) -> tuple[Tensor, Tensor]:
    """Points, and the module's values there, a little inside of where it gives no number, as y log(y) at 0: the atoms
    that were searched have the limit there."""
    for share in INWARDS:
        rows = (value.isnan() & found.value.isfinite()).nonzero()[:, 0]
        if not len(rows):
            break
        lo, hi, y = problem.lo[rows], problem.hi[rows], found.y[rows]
        moved = round_inside(torch.lerp(y, problem.interior()[rows], share), lo, hi, x.dtype)
        inner = evaluate_in_parts(own.rows(rows), moved.double(), opened)
        x = x.index_put((rows,), torch.where(inner.isnan()[:, None], x[rows], moved))
        value = value.index_put((rows,), torch.where(inner.isnan(), value[rows], inner))
    return x, value


INWARDS = (1e-15, 1e-12, 1e-9)
"""Shares of the way to the middle of the domain."""


def without_multipliers(found: Incumbents, y: Tensor) -> Incumbents:
    """The same with points alone as evidence."""
    return replace(found, y=y, evidence={}, kept={})


def evaluate_in_parts(own: OwnForward, y: Tensor, opened: OpenedProgram) -> Tensor:
    """The module's values at y (B, n), of as many samples at a time as memory allows."""
    size = max(1, PART // max(1, 8 * count_cells(opened)))
    if len(y) <= size:
        return own.value(y)
    return torch.cat([own.rows(index).value(y[index]) for index in torch.arange(len(y), device=y.device).split(size)])


def is_unbounded(problem: Problem, found: Incumbents) -> Tensor:
    """For which samples (B,) f certainly has no least value: where it is piecewise linear and falls along a direction
    in which the domain has no end, which its recession function says (the function without its constants)."""
    f = problem.f
    nothing = torch.zeros(problem.batch, dtype=torch.bool, device=found.y.device)
    if problem.compact or not isinstance(f, EpigraphForm) or not f.piecewise_linear:
        return nothing
    far = replace(f, constants=tuple(torch.zeros_like(c) for c in f.constants), constant=torch.zeros_like(f.constant))
    down, up = problem.lo.isinf(), problem.hi.isinf()
    endless = nothing
    slope = -f.subgradient(found.y)[1]
    ways = [slope, *sign_patterns(problem.size, slope)[:, None].expand(-1, problem.batch, -1)]
    for way in ways:
        way = torch.where((way < 0) & ~down | (way > 0) & ~up, 0.0, way)
        length = way.abs().amax(1, keepdim=True)
        way = way / torch.where(length > 0, length, 1.0)
        size = sum((m.abs().sum(1) for m in [f.linear, *f.weights.values()]), torch.zeros_like(found.value))
        endless = endless | (far.value(way) < -1e-9 * size)
    return endless


def with_gradient_of(x: Tensor, moving: Tensor) -> Tensor:
    """x with the gradient of `moving`."""
    with torch.enable_grad():
        return x + (moving - moving.detach()).view(x.shape).to(x.dtype)


def with_zero_gradients(y: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """y (or its value), with gradients of zero for the tensors that it does not depend on."""
    with torch.enable_grad():
        nothing = [t.reshape(-1)[:0].sum().to(y) for t in tensors if t.requires_grad]
        return y + sum(nothing) if nothing else y


def opened_for_proofs(reading: Reading, derivative: str) -> OpenedProgram:
    if reading.opened is None:
        raise ValueError(f"derivative={derivative!r} needs a forward that does not read the size of its batch")
    return reading.opened


def round_inside(y: Tensor, lo: Tensor, hi: Tensor, dtype: torch.dtype) -> Tensor:
    """y in another precision, and still within the bounds; where none of its numbers are, the nearest one."""
    if dtype == torch.float64:
        return y.clone()
    x = y.to(dtype)
    infinity = torch.full_like(x, torch.inf)
    down, up = torch.nextafter(x, -infinity), torch.nextafter(x, infinity)
    x = torch.where((x.double() > hi) & (down.double() >= lo), down, x)
    return torch.where((x.double() < lo) & (up.double() <= hi), up, x)


def excess_of_rounding(problem: Problem, x: Tensor) -> Tensor:
    """How much of the value, (B,), is there only because no number of x's type lies between the bounds."""
    inside = problem.inside(x)
    if torch.equal(inside, x):
        return x.new_zeros(len(x))
    return (problem.f.value(x) - problem.f.value(inside)).abs().nan_to_num(nan=0.0, posinf=0.0)
