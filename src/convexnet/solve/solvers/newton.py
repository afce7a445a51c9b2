"""Primal-dual path following for the minimum of a convex function in kink form over a box.

Kinks and largest entries are smoothed by an amount mu, the box has a logarithmic barrier, and mu goes to zero. The
results of the atoms are eliminated, so that the Newton system has the size n of y alone. What makes it converge in few
steps is that the slopes are iterates of their own: the linearised equations keep them independent of a, and the
multipliers they predict make the gradient exactly zero, so that the affine function below f is lost to clipping only.

Rows of the Jacobians that hardly weigh are left out of the Hessian; their slopes then count as constant, in the
multipliers too, so that these stay exact. Every sample has its own mu, which follows its gap.

Long because a step and what it is made of are read together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convexnet.form.epigraph import EpigraphForm
from convexnet.solve.functions.hessian import tangents
from convexnet.solve.functions.problem import Problem
from convexnet.solve.functions.unit_cube import scales_of
from convexnet.solve.solvers.incumbents import Evidence, Incumbents, pick_rows
from convexnet.solve.solvers.loop import Offer
from convexnet.solve.solvers.newton_state import (
    ASTRAY,
    BACK,
    LONG,
    MULTIPLIER_MARGIN,
    NEAR,
    PATIENCE,
    START,
    Ahead,
    NewtonState,
    Smoothed,
    float32_is_spent,
    is_near,
    least_distance,
    next_mu,
    noise,
    smoothing_weight,
    step_inside,
    to_float64,
)


class Newton:
    """One batch on a box.

    Args:
        rough: begin in float32, in which what is offered are estimates that certify themselves in float64 when asked,
            and go on in float64 when most gaps are small, or after some steps.
        drop: leave out rows of the Hessian that weigh less than this share of the n-th heaviest.
    """

    name = "newton"

    def __init__(self, rough: bool = True, drop: float = 0.3) -> None:
        self.rough = rough
        self.drop = drop

    # --- the start ---------------------------------------------------------------------------------------------------

    def begin(self, problem: Problem, found: Incumbents) -> NewtonState:
        finite = problem.lo.isfinite() & problem.hi.isfinite()
        middle = problem.interior()
        radius = torch.where(finite, (problem.hi - problem.lo) / 2, 1.0)
        below, above = (
            torch.where(radius > 0, (end - middle) / torch.where(radius > 0, radius, 1.0), sign)
            for end, sign in ((problem.lo, -1.0), (problem.hi, 1.0))
        )
        scales = scales_of(problem.f, middle, radius, below, above)
        exact = scales.applied(problem.f, middle)
        size = smoothing_weight(exact)[:, 0]
        exact = exact.times(1 / size)
        form = scales.rough(exact) if self.rough else exact
        dtype = form.linear.dtype
        y = (found.y - middle) / torch.where(radius > 0, radius, 1.0)
        y = step_inside(torch.zeros_like(y), y, below, above).to(dtype)
        weight = smoothing_weight(form)
        none = torch.full_like(found.value, torch.inf, dtype=dtype)
        return NewtonState(
            exact=exact,
            form=form,
            middle=middle,
            radius=radius,
            strong=None if problem.strong is None else (problem.strong * radius**2 / size[:, None]).to(dtype),
            weight=weight,
            below=below.to(dtype),
            above=above.to(dtype),
            size=size,
            centre=(found.centre / size).to(dtype),
            y=y,
            mu=torch.full_like(weight, START),
            slopes=[],
            upper=torch.zeros_like(y),
            lower=torch.zeros_like(y),
            point=y,
            value=none,
            bound=-none,
            best=none,
            waited=torch.zeros_like(found.steps),
            lost=torch.zeros_like(found.steps),
        )

    # --- one step ----------------------------------------------------------------------------------------------------

    def step(self, problem: Problem, state: NewtonState) -> Offer:
        if state.ahead is not None:
            self.advance(state, state.ahead)
        size = state.size
        rough = state.y.dtype == torch.float32
        if rough and float32_is_spent(state):
            to_float64(state)
            rough = False
        form = state.form
        at = smoothed_at(form, state)
        right, left = 1 / (state.above - state.y), 1 / (state.y - state.below)
        barrier = state.mu * state.weight
        if not state.slopes:
            state.slopes = [slope.clone() for slope in at.slopes]
            state.upper, state.lower = barrier * right, barrier * left
        state.upper = is_near(state.upper, barrier * right)
        state.lower = is_near(state.lower, barrier * left)
        gradient = at.gradient + barrier * (right - left)
        drop = 0.0 if state.steps >= LONG else self.drop if rough else FINAL_DROP
        curves = tangents(form, state.slopes, at.curved, at.arriving, drop)
        hessian = curves.hessian()
        spring = state.upper * right + state.lower * left
        hessian.diagonal(dim1=-2, dim2=-1).add_(spring).mul_(1 + (2e-6 if rough else 1e-12))
        factor = factor_definite(hessian)
        step = -solve_factored(factor, gradient)
        if rough:
            step = step - solve_factored(factor, gradient + curves.applied(step) + spring * step)
        changes, moved = curves.changes(step)
        chosen, arguments, g, b = predict_multipliers(form, state.slopes, at, changes, moved)
        goal = state.y + step
        y = torch.minimum(torch.maximum(goal, state.below), state.above)
        smooth = any(atom.smooth for atom in form.atoms)
        if (smooth and not torch.equal(y, goal)) or (not rough and curves_are_nested(form)):
            # The proof has its tangents there, and not beyond the box, where f may be undefined, nor at the arguments
            # that the step predicts.
            goal, arguments = y, form.arguments(y)
            chosen, (g, b) = form.fit(chosen, arguments)
        offer = self.make_offer(problem, state, y, goal, g, b)
        proved = (torch.arange(len(y), device=y.device), form, chosen)
        if rough:
            cube = Problem(state.exact, state.below, state.above, state.strong)

            def certify(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                nonlocal proved
                few, point, touch = cube.rows(rows).converted(torch.float64), y[rows].double(), goal[rows].double()
                wanted = {k: m[rows].double() for k, m in chosen.items()}
                where = few.f.arguments(touch) if smooth else [a[rows].double() for a in arguments]
                fitted, (g, b) = few.f.fit(wanted, where)
                proved = (rows, few.f, fitted)
                bound = few.proved_minimum(g, b, touch)
                value, bound = size[rows] * few.f.value(point), size[rows] * bound
                return problem.inside_rows(rows, state.middle[rows] + state.radius[rows] * point), value, bound

            offer.certify = certify

        def evidence(rows: Tensor) -> Evidence:
            all_rows, function, multipliers = proved
            some = torch.searchsorted(all_rows, rows)
            slopes = function.rows(some).slopes_from(pick_rows(multipliers, some))
            touch = problem.inside_rows(rows, state.middle[rows] + state.radius[rows] * goal[rows].double())
            return Evidence(touch=touch, slopes=[slope.double() for slope in slopes])

        offer.evidence = evidence
        decrement = -(gradient * step).sum(1) / barrier[:, 0]
        state.ahead = Ahead(at, step, changes, gradient, decrement, ((offer.value - offer.bound) / size).to(y.dtype))
        return offer

    def make_offer(self, problem: Problem, state: NewtonState, y: Tensor, goal: Tensor, g: Tensor, b: Tensor) -> Offer:
        """The point as one of the problem, and the bound from the affine function g y + b on the cube, which touches
        the curves of f at `goal`."""
        value = state.form.value(y)
        bound = Problem(state.form, state.below, state.above, state.strong).proved_minimum(g, b, goal)
        state.point = torch.where((value < state.value)[:, None], y, state.point)
        state.value, state.bound = torch.fmin(state.value, value), torch.fmax(state.bound, bound)
        point = problem.inside(state.middle + state.radius * y)
        return Offer(point, state.size * value.double(), state.size * bound.double())

    # --- going on ----------------------------------------------------------------------------------------------------

    def advance(self, state: NewtonState, ahead: Ahead) -> None:
        """Take the step, change mu, and take samples that are lost back to the path."""
        length = self.line_search(state, ahead)
        share = length[:, None]
        barrier = state.mu * state.weight
        right, left = 1 / (state.above - state.y), 1 / (state.y - state.below)
        for k, atom in enumerate(state.form.atoms):
            new = torch.lerp(state.slopes[k], ahead.at.slopes[k] + ahead.changes[k], share.expand_as(state.slopes[k]))
            state.slopes[k] = atom.keep_inside(state.slopes[k], new, least_distance(state.y))
        up, low, step = state.upper, state.lower, ahead.step
        state.upper = torch.maximum(up + share * (barrier * right + up * right * step - up), MULTIPLIER_MARGIN * up)
        state.lower = torch.maximum(low + share * (barrier * left - low * left * step - low), MULTIPLIER_MARGIN * low)
        state.y = step_inside(state.y, share * step, state.below, state.above)
        state.steps += 1
        gap = state.value - state.bound
        now = torch.maximum(ahead.gap, gap)  # the path is where the iterate is, not where the best point was
        part = (now / state.weight[:, 0])[:, None] / max(state.form.size, 8)
        state.mu = next_mu(state.mu, part, ahead.decrement[:, None], share, state.lost[:, None], state.form.size)
        better = ahead.gap < 0.9 * state.best
        state.best = torch.where(better, ahead.gap, state.best)
        state.waited = torch.where(better, 0, state.waited + 1)
        astray = (ahead.gap > ASTRAY * state.best) & (state.waited >= 2)
        self.recentre(state, part * (gap / now)[:, None], astray | (state.waited >= PATIENCE))

    def recentre(self, state: NewtonState, part: Tensor, lost: Tensor) -> None:
        """Back to the best point, for samples whose gap has not moved: with mu as large as the gap allows, and larger
        each time, and with slopes and multipliers as they are on the path."""
        if not bool(lost.any()):
            return
        state.lost = state.lost + lost
        state.waited = torch.where(lost, 0, state.waited)
        state.best = torch.where(lost, torch.inf, state.best)
        larger = 0.3 * part * BACK ** state.lost[:, None].to(part)
        lost = lost[:, None]
        state.mu = torch.where(lost, torch.maximum(3 * state.mu, larger).clamp(max=START), state.mu)
        near_best = torch.minimum(torch.maximum(state.point, state.below + state.mu), state.above - state.mu)
        state.y = torch.where(lost, near_best, state.y)
        fresh = smoothed_at(state.form, state).slopes
        state.slopes = [torch.where(lost, new, old) for new, old in zip(fresh, state.slopes, strict=True)]
        barrier = state.mu * state.weight
        state.upper = torch.where(lost, barrier / (state.above - state.y), state.upper)
        state.lower = torch.where(lost, barrier / (state.y - state.below), state.lower)

    def line_search(self, state: NewtonState, ahead: Ahead) -> Tensor:
        """How much of the step to take: all of it near the path, else until the smoothed function falls enough."""
        length = torch.ones_like(ahead.decrement)
        todo = (ahead.decrement > NEAR).nonzero()[:, 0]
        if not len(todo):
            return length
        before = ahead.at.value + barrier_of(state, state.y)
        for _ in range(6):
            every = len(todo) == len(length)
            part = state.form if every else state.form.rows(todo)
            mu = state.mu[todo]
            below, above, weight = state.below[todo], state.above[todo], state.weight[todo]
            old, step = state.y[todo], ahead.step[todo]
            y = step_inside(old, length[todo, None] * step, below, above)
            value = line_search_value(part, y, mu) + barrier_at(y, below, above, mu * weight)
            slope = (ahead.gradient[todo] * (y - old)).sum(1).clamp(max=0)
            todo = todo[~(value <= before[todo] + 1e-4 * slope + noise(before[todo]))]
            if not len(todo):
                break
            length[todo] *= 0.5
        return length


def curves_are_nested(form: EpigraphForm) -> bool:
    """Whether the argument of a smooth atom moves with other atoms."""
    return any(form.atoms[k].smooth for k, _ in form.between)


# --- the smoothed function -------------------------------------------------------------------------------------------


def smoothed_at(form: EpigraphForm, state: NewtonState) -> Smoothed:
    """Values and derivatives of the smoothed atoms, forwards, and the multipliers, backwards."""
    results: list[Tensor] = []
    arguments: list[Tensor] = []
    slopes: list[Tensor] = []
    curved: list[Tensor] = []
    for k, atom in enumerate(form.atoms):
        a = form.argument(k, state.y, results)
        z, slope = atom.smoothed(a, state.mu)
        arguments.append(a)
        slopes.append(slope)
        curved.append(atom.curved(a, z, state.slopes[k] if state.slopes else slope, state.mu))
        results.append(z)
    chosen: dict[int, Tensor] = {}
    arriving: list[Tensor] = []
    for k in reversed(range(len(form.atoms))):
        arriving.insert(0, form.arriving(k, chosen))
        chosen[k] = form.atoms[k].pull(slopes[k], arriving[0])
    return Smoothed(form.value_of(state.y, results), arguments, slopes, curved, arriving, chosen, form.gradient(chosen))


def line_search_value(form: EpigraphForm, y: Tensor, mu: Tensor) -> Tensor:
    """The smoothed function, (B,)."""
    results: list[Tensor] = []
    for k, atom in enumerate(form.atoms):
        results.append(atom.smoothed(form.argument(k, y, results), mu)[0])
    return form.value_of(y, results)


def predict_multipliers(
    form: EpigraphForm, slopes: list[Tensor], at: Smoothed, changes: list[Tensor], moved: list[Tensor | None]
) -> tuple[dict[int, Tensor], list[Tensor], Tensor, Tensor]:
    """The multipliers after a step, clipped where no slope gives them, where the arguments are expected then, and the
    affine function below f that they give."""
    chosen: dict[int, Tensor] = {}
    intercept = form.constant
    arguments = [a if da is None else a + da for a, da in zip(at.arguments, moved, strict=True)]
    for k in reversed(range(len(form.atoms))):
        atom, before = form.atoms[k], at.arriving[k]
        arriving = form.arriving(k, chosen)
        wanted = at.multipliers[k] + atom.curvature_times(before, changes[k])
        if chosen:
            wanted = wanted + atom.pull(slopes[k], arriving - before)
        chosen[k], rest = atom.fit(wanted, arguments[k], arriving)
        if atom.smooth:
            intercept = intercept + rest
    return chosen, arguments, *form.affine(chosen, intercept)


def barrier_of(state: NewtonState, y: Tensor) -> Tensor:
    return barrier_at(y, state.below, state.above, state.mu * state.weight)


def barrier_at(y: Tensor, below: Tensor, above: Tensor, size: Tensor) -> Tensor:
    """−size · sum of the logarithms of the distances to finite bounds, (B,)."""
    up, down = above - y, y - below
    logs = torch.where(up.isfinite(), up, 1.0).log() + torch.where(down.isfinite(), down, 1.0).log()
    return -size[:, 0] * logs.sum(1)


def factor_definite(matrix: Tensor) -> Tensor:
    """Cholesky factors of positive definite matrices; where rounding left one indefinite, its diagonal is raised."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    raise_by = 1e-10 if matrix.dtype == torch.float64 else 1e-6
    while bool((info > 0).any()) and raise_by < 1e3:
        diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        diagonal.add_((info > 0)[:, None] * raise_by * diagonal.abs().mean(-1, keepdim=True).clamp(min=1e-30))
        factor, info = torch.linalg.cholesky_ex(matrix)
        raise_by *= 100
    return factor


def solve_factored(factor: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right.unsqueeze(-1), factor)[..., 0]


FINAL_DROP = 0.001
