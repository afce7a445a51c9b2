"""Lower bounds that hold in floating point: the traced program itself, with what a solver has found.

A solver works on maps, in scaled units, some of it in float32; what it reports is never its own bound. For every
sample, with that sample's own inputs, the program runs once forwards, at the point where the affine function below
it touches, and once backwards, with the slopes that were found, clipped to their ranges. With slopes, for multipliers
λ_k of the arguments a_k, where v_k arrives at the results z_k,

    f(y) >= f(t) + Σ_k (λ_k a_k(t) − v_k z_k(t) + rest_k) + g (y − t)    for all y

holds in real arithmetic. A running error analysis (`rounding_errors`) goes along, forwards for f(t) and the a_k and
backwards for g, and all of it is taken off. Nothing here depends on the values of f outside of t, so that a function
that is huge on the other side of a wide box costs no digits.

Long because a bound, what it is made of and what is taken off it are read together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from convexnet.form.atoms import Atom, Kinks, Smooth
from convexnet.form.perspective import Perspective
from convexnet.form.program import OpenedProgram
from convexnet.form.quadratic import QuadraticAtom
from convexnet.form.sum_of_largest import SumLargest
from convexnet.solve.functions.black_box import WholeProgram
from convexnet.solve.functions.matrix_free import MatrixFree, replace_gradient
from convexnet.solve.functions.problem import Problem
from convexnet.solve.functions.with_entropy import EntropyProblem
from convexnet.solve.rounding_errors import Tracked, analysis_of
from convexnet.solve.solvers.incumbents import Evidence, Incumbents, pick_rows

Guide = Callable[[int, Atom, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(k, atom, a_k (B, in_k), what arrives (B, out_k)) -> multipliers (B, in_k) of the arguments and an intercept (B,)."""


@dataclass
class Plane:
    """For each sample an affine function m + g (y − t) below f, and what its numbers may be off by.

    Attributes:
        at: t (B, n).
        level: m (B,).
        slope: g (B, n).
        error, slack: of m (B,) and of g (B, n).
    """

    at: Tensor
    level: Tensor
    slope: Tensor
    error: Tensor
    slack: Tensor
    bare: bool = False  # as if there were no rounding at all

    def exactly(self) -> Plane:
        """As if nothing had been rounded."""
        return replace(self, error=0 * self.error, slack=0 * self.slack, bare=True)

    def proved_minimum(self, lo: Tensor, hi: Tensor, strong: Tensor | None = None) -> Tensor:
        """What it is at least for lo <= y <= hi, (B,); −inf where nothing is known.

        Args:
            lo, hi: bounds (B, n).
            strong: c (B, n), where f is known to lie ½ Σ c_j (y_j − t_j)² higher still.
        """
        down, up = (lo - self.at).clamp(max=0), (hi - self.at).clamp(min=0)
        ends = torch.minimum(
            parabola_minimum(self.slope + self.slack, down, strong, falls=True),
            parabola_minimum(self.slope - self.slack, up, strong, falls=False),
        )
        part = ends.sum(1)
        rounding = 0.0 if self.bare else 4 * (self.at.shape[1] + 4) * 2.0**-53 * (ends.abs().sum(1) + self.level.abs())
        bound = self.level + part - self.error - rounding
        return torch.where(bound.isnan(), -torch.inf, bound)

    def proved_minimum_with_entropy(self) -> Tensor:
        """What it and Σ y log y + (1 − y) log(1 − y) are together at least, for 0 <= y <= 1, (B,).

        With slopes that are exact, min over y of g (y − t) plus the entropy is −g t − log(1 + exp(−g)); an error s of g
        changes g (y − t) by at most s · max |y − t|.
        """
        shift = -self.slope * self.at
        least = torch.nn.functional.logsigmoid(self.slope)
        parts = shift + least
        bound = self.level + parts.sum(1) - self.error
        if not self.bare:
            far = torch.maximum(self.at.abs(), (1 - self.at).abs())
            size = (shift.abs() + least.abs()).sum(1) + self.level.abs()
            n = self.at.shape[1]
            bound = bound - (self.slack * far).sum(1) * (1 + 1e-6) - 8 * (n + 8) * 2.0**-53 * size - n * 1e-300
        return torch.where(bound.isnan(), -torch.inf, bound)


def parabola_minimum(slope: Tensor, end: Tensor, strong: Tensor | None, falls: bool) -> Tensor:
    """The least of slope · d + ½ c d² for d between 0 and `end`, entry by entry."""
    if strong is None:
        worst = slope * torch.where(slope == 0, 0.0, end)
        return torch.where((slope > 0) == falls, worst, 0.0 * slope)
    steep = strong > 0
    lowest = -slope / torch.where(steep, strong, 1.0)
    lowest = torch.maximum(lowest.clamp(max=0), end) if falls else torch.minimum(lowest.clamp(min=0), end)
    d = torch.where(steep, lowest, torch.where((slope > 0) == falls, end, 0.0))
    return torch.where(d == 0, 0.0 * slope, slope * d + strong * d**2 / 2)


class ErrorBarrier(torch.autograd.Function):
    """Errors of arguments, which end at an atom: nothing of them goes on, and backwards v -> pulled(v)."""

    @staticmethod
    def forward(ctx: Any, error: Tensor, result: Tensor, pulled: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.pulled = pulled
        return torch.zeros_like(result)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        return ctx.pulled(grads[0]), None, None


def affine_minorant(f: MatrixFree, at: Tensor, guide: Guide) -> Plane:
    """The affine function below f for the multipliers that a guide chooses, touching near `at` (B, n)."""
    rounding = analysis_of(f.opened)
    batch = len(at)
    point = at.detach().clone().requires_grad_()
    start = torch.zeros_like(point).requires_grad_()
    rests: list[Tensor] = []
    errors: list[Tensor] = []
    sizes: list[Tensor] = []
    shares: list[Tensor] = []
    lost: list[Tensor] = []
    wrong: list[Tensor] = []
    count = 0

    def bent(a: Any, atom: float | Tensor | Atom = 0.0) -> Any:
        nonlocal count
        k = count
        count += 1
        kind = f.atoms[k]
        if isinstance(kind, QuadraticAtom):
            return as_written(kind, a)
        flat = a.value.flatten(1).expand(batch, -1)
        error = a.error.flatten(1).expand(batch, -1)
        here, off = flat.detach(), error.detach()
        z = kind.value(here)
        rounding.lengths += kind.group - 1
        shares.append(largest_slopes(kind, here))
        lost.append(torch.zeros_like(z))

        def pulled(v: Tensor) -> Tensor:
            lost[k] = (-v).clamp(min=0)
            v = v.clamp(min=0)  # non-negative but for rounding, which is looked up
            chosen, rest = guide(k, kind, here, v)
            spread = spread_multipliers(kind, v)
            outside = kind.outside(here, off)
            if outside is not None:
                wrong.append((outside & (spread > 0)).any(1))
            large = chosen.abs()
            if not isinstance(kind, SumLargest):  # whose shares are off by a share of what arrives, however small
                shares[k] = torch.where(spread > 0, large / spread, shares[k])
            below, above = chosen * here, v * z
            rests.append(rest + below.sum(1) - above.sum(1))
            length = 2.0**-53 * (here.shape[1] + 16)
            touching = row_totals(below) + row_totals(above)
            errors.append((large * off).sum(1) + length * touching + v.sum(1) * program_shortfall(kind))
            return chosen

        def returned(v: Tensor) -> Tensor:
            v = v.abs()
            wrong.append((lost[k] > 4 * rounding.lengths * rounding.unit * v).any(1))
            back = spread_multipliers(kind, v) * shares[k]
            # What arrives is off by its own rounding, and so is what a result that is not touched is worth.
            sizes.append(row_totals(v * z) + row_totals(back * here))
            return back

        shape = a.shape[1:] if kind.group == 1 else a.shape[1:-1]
        value = replace_gradient(flat, z, pulled).reshape(batch, *shape)
        return Tracked(value, ErrorBarrier.apply(error, z, returned).reshape(batch, *shape), a.unit)

    def as_written(kind: QuadraticAtom, a: Any) -> Any:
        """The operators of a quadratic form themselves: with them backwards, its tangent."""
        for each in (shares, lost):
            each.append(torch.zeros_like(at))
        out = kind.run(a[:, 0].reshape(batch, *f.shape), rounding)

        def arrived(v: Tensor) -> Tensor:
            wrong.append((v < 0).flatten(1).any(1) if v.ndim > 1 else v < 0)
            return v.clamp(min=0)

        if out.value.requires_grad:
            out.value.register_hook(arrived)
        return out.flatten(1) if out.ndim > 1 else out.unsqueeze(1)

    inputs: list[Any] = list(f.inputs)
    shape = (batch, *f.shape)
    with torch.enable_grad():
        inputs[f.opened.variable] = Tracked(point.reshape(shape), start.reshape(shape))
        out = f.opened.run(inputs, bent, apply=rounding, still=f.still.setdefault(batch, {}))
    if not isinstance(out, Tracked):  # nothing moves
        value = torch.as_tensor(out).expand(batch).double()
        return Plane(at, value, torch.zeros_like(at), 2.0**-52 * value.abs(), torch.zeros_like(at))
    with torch.enable_grad():
        value, error = out.value.expand(batch), out.error.expand(batch)
        g, slack = pull_back_to(value, point), pull_back_to(error, start).abs()
    level, total = value.detach(), error.detach()
    for rest, more in zip(rests, errors, strict=True):
        level = level + rest
        total = total + more + 2.0**-52 * (rest.abs() + level.abs())
    gamma = rounding.lengths * rounding.unit
    for size in sizes:
        total = total + gamma * size
    for each in wrong:  # an atom is used downwards, and what lies below it proves nothing
        total = torch.where(each, torch.inf, total)
    return Plane(at, level, g, (1 + 4 * gamma) * total + 4 * rounding.unit * level.abs(), gamma * slack)


def spread_multipliers(atom: Atom, v: Tensor) -> Tensor:
    """What arrives (B, out), at each argument (B, in); for a kink whose slope is s, no less."""
    return v if atom.group == 1 else v.repeat_interleave(atom.group, 1)


def row_totals(parts: Tensor) -> Tensor:
    """The sum of the absolute values in each row, (B,)."""
    return parts.abs().sum(1)


def is_supported(f: MatrixFree, lo: Tensor, hi: Tensor, points: int = 3) -> bool:
    """Whether affine functions below the atoms make one that touches f, as far as a few points of [lo, hi] tell.

    The calculus may know an argument's range, and so that an operator is affine or has one sign of curvature there;
    where its atom is used downwards for such a reason, nothing would be proved, or not enough.
    """
    problem = Problem(None, lo, hi)
    middle, reach = problem.centre(), (hi - lo).clamp(max=2.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(points):
        share = torch.rand(lo.shape, generator=generator, dtype=torch.float64).to(lo.device) - 0.5
        at = problem.inside(middle + share * reach)
        plane, value = (
            affine_minorant(f, at, multipliers_by_slopes(None)),
            f.value(at) + (0.0 if f.shift is None else f.shift),
        )
        size = value.abs() + (plane.slope * reach).abs().sum(1)
        if not bool((plane.error.isfinite() & (value - plane.level <= plane.error + TOUCHES * size)).all()):
            return False
    return True


TOUCHES = 1e-7
"""How far below f, as a share of its size, the affine function may lie where it is told to touch."""


def largest_slopes(atom: Atom, a: Tensor) -> Tensor:
    """The largest size of a slope that a minorant near a may have, at each argument."""
    if isinstance(atom, Kinks):
        return atom.negative_slope.abs().clamp(min=1.0).expand_as(a)
    return atom.slopes(a).abs() if atom.smooth else torch.ones_like(a)


def pull_back_to(output: Tensor, start: Tensor) -> Tensor:
    if not output.requires_grad:
        return torch.zeros_like(start)
    ones = torch.ones_like(output)
    (g,) = torch.autograd.grad(output, start, ones, allow_unused=True, materialize_grads=True)
    return g


def program_shortfall(atom: Atom) -> float:
    """By how much the operator's program may fall below its function."""
    return atom.curve.short if isinstance(atom, (Smooth, Perspective)) else 0.0


def multipliers_by_slopes(slopes: Sequence[Tensor] | None) -> Guide:
    """Multipliers by slopes; without them, those of a subgradient. Tangents of smooth atoms touch at the point."""

    def guide(k: int, atom: Atom, a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        slope = atom.slopes(a) if slopes is None or atom.smooth else slopes[k]
        return atom.fit(atom.pull(clip_multipliers(atom, slope), v), a, v)

    return guide


def nearest_multipliers(wanted: Sequence[Tensor], touching: Sequence[Tensor]) -> Guide:
    """The multipliers nearest to those wanted; tangents of smooth atoms touch where they are meant to."""

    def guide(k: int, atom: Atom, a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return atom.fit(wanted[k], touching[k] if atom.smooth else a, v)

    return guide


def clip_multipliers(atom: Atom, slopes: Tensor) -> Tensor:
    return slopes.nan_to_num(nan=0.5).clamp(0, 1) if isinstance(atom, Kinks) else slopes.nan_to_num(nan=0.0)


def tangent_minorant(f: WholeProgram, at: Tensor) -> Plane:
    """The tangent of a function that is not opened, with the errors of its own operators."""
    point = f.touched(at).clone().requires_grad_()
    start = torch.zeros_like(point).requires_grad_()
    rounding = analysis_of(f.opened)

    with torch.enable_grad():
        out = f.run(point, start, rounding)
    if not isinstance(out, Tracked):
        value = torch.as_tensor(out).expand(len(at)).double()
        return Plane(at, value, torch.zeros_like(at), 2.0**-52 * value.abs(), torch.zeros_like(at))
    value, error = out.value, out.error
    with torch.enable_grad():
        g, slack = pull_back_to(value, point), pull_back_to(error, start).abs()
    gamma = rounding.lengths * rounding.unit
    level = value.detach()
    total = (1 + 4 * gamma) * error.detach() + 4 * rounding.unit * level.abs()
    return Plane(point.detach(), level, g, total, gamma * slack)


def average_planes(plane: Plane, owner: Tensor, weights: Tensor, about: Tensor) -> Plane:
    """The averages of planes, as planes about points (B, n).

    Args:
        plane: P planes, side by side.
        owner: the sample (P,) that each belongs to.
        weights: (P,), positive, with any sum.
        about: the points.
    """
    batch = len(about)

    def gathered(parts: Tensor) -> Tensor:
        return parts.new_zeros(batch, *parts.shape[1:]).index_add_(0, owner, parts)

    w = weights / gathered(weights)[owner]
    column = w[:, None]
    moved = about[owner] - plane.at
    parts = plane.slope * moved
    level = gathered(w * (plane.level + parts.sum(1)))
    size = gathered(w * (plane.level.abs() + parts.abs().sum(1)))
    error = gathered(w * (plane.error + (plane.slack * moved.abs()).sum(1)))
    slack = gathered(column * (plane.slack + 2 * 2.0**-52 * plane.slope.abs()))
    small = (int(torch.bincount(owner).max()) + about.shape[1] + 8) * 2.0**-52
    slack = slack + small * gathered(column * plane.slope.abs())
    return Plane(about, level, gathered(column * plane.slope), error + small * size, slack)


# --- the bounds of what was found ------------------------------------------------------------------------------------


def prove_bounds(problem: Problem, found: Incumbents) -> tuple[Tensor, Tensor]:
    """Lower bounds (B,) that hold in floating point, and what rounding took off them, (B,).

    Args:
        problem: with the functions as they are written in `exact`.
        found: with the evidence that solvers left.
    """
    bound = torch.full_like(found.bound, -torch.inf)
    error = torch.zeros_like(bound)
    per_sample = max(1, 48 * count_cells(problem.exact.opened) // 2)
    size = max(1, PART // per_sample)
    everyone = torch.arange(problem.batch, device=found.y.device)
    for kind in (*found.evidence, "none"):
        rows = found.kept[kind].nonzero()[:, 0] if kind != "none" else everyone[bound == -torch.inf]
        for index in rows.split(size):
            if not len(index):
                continue
            some = problem if len(index) == problem.batch else replace(problem, f=problem.exact).rows(index)
            evidence = pick_rows(found.evidence[kind], index) if kind != "none" else Evidence(touch=found.y[index])
            plane, strong = planes_of_evidence(some, evidence, found.y[index])
            new = least_of(some, plane, strong)
            better = new > bound[index]
            bound[index[better]] = new[better]
            lost = least_of(some, plane.exactly(), strong) - new
            error[index[better]] = lost[better]
    return bound, error


def least_of(problem: Problem, plane: Plane, strong: Tensor | None) -> Tensor:
    """What is proved of the minimum by an affine function below f, (B,)."""
    if isinstance(problem, EntropyProblem):
        return plane.proved_minimum_with_entropy()
    return plane.proved_minimum(problem.lo, problem.hi, strong)


PART = 256 * 2**20
"""Bytes that one part of a batch may take."""


def count_cells(opened: OpenedProgram) -> int:
    """How many numbers the program makes of a batch of two."""
    return opened.kinds().cells


def planes_of_evidence(problem: Problem, evidence: Evidence, y: Tensor) -> tuple[Plane, Tensor | None]:
    """The affine functions below f that evidence makes, and the curvatures that may be added to them."""
    f = problem.exact
    if evidence.points is not None and evidence.shares is not None:
        owner, which = (evidence.shares > LEAST).nonzero(as_tuple=True)
        if len(owner):  # else the solver stopped before its model gave any
            points = evidence.points[owner, which]
            function = f.rows(owner)
            plane = (
                tangent_minorant(function, points)
                if isinstance(f, WholeProgram)
                else affine_minorant(function, points, multipliers_by_slopes(None))
            )
            return average_planes(plane, owner, evidence.shares[owner, which], y), None
    at = problem.inside(y if evidence.touch is None else evidence.touch)
    if isinstance(f, WholeProgram):
        return tangent_minorant(f, at), None
    if evidence.multipliers is not None and evidence.touching is not None:
        return affine_minorant(f, at, nearest_multipliers(evidence.multipliers, evidence.touching)), None
    return affine_minorant(f, at, multipliers_by_slopes(evidence.slopes)), problem.strong


LEAST = 1e-13
"""Tangents with a smaller weight are left out."""
