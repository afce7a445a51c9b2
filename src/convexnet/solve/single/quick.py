"""What `Minimiser` does with one sample: a vertex where there was one before, path following elsewhere, all in numpy.

What is returned is what `minimise` would: the value is that of the module's own forward, the bound is proved on the
traced program with all of its rounding taken off, and a sample counts as converged by the same rule. Whatever is not of
this kind, or does not end here, is left to `minimise`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from convexnet.arrays import listed_inputs, refuse_transformed
from convexnet.curvature.arguments import in_float64
from convexnet.solve.active_start import NAME
from convexnet.solve.arguments import Arguments
from convexnet.solve.assemble_solution import MUCH, round_inside
from convexnet.solve.compiled import Reading
from convexnet.solve.derivatives.attach import sources_of
from convexnet.solve.single.path import START, follow_path, on_cube, typical_arguments
from convexnet.solve.single.sample import Array, Sample
from convexnet.solve.single.tape import Tape, Unfit
from convexnet.solve.single.vertex import EXCHANGES, Basis, basis_near, exchanged, solve_vertex
from convexnet.solve.solution import Multipliers, Solution, Trail
from convexnet.solve.solver_functions import check_certified, read_module
from convexnet.solve.solvers.incumbents import sign_patterns

LARGE = 200
"""Variables up to which a step's own overhead counts for more than its arithmetic."""

NEARBY = 0.02
"""The first mu of a path from an earlier solution."""

SAFE = 0.7
"""The share of the allowed gap that is searched for, since what is proved is a little less."""


@dataclass
class Found:
    """A point, what proves it, its value by the program, and a rise from there (0: not known)."""

    y: Array
    value: float
    scale: float
    slopes: list[Array]
    bound: float
    lost: float
    steps: int
    basis: Basis | None = None


class Quick:
    """One network on one box, for one sample at a time.

    Args:
        reading: the network.
        arguments: those of a call with one sample, checked.

    Raises:
        Unfit: it is for `minimise`.
    """

    def __init__(self, reading: Reading, arguments: Arguments) -> None:
        self.reading, self.arguments = reading, arguments
        if reading.opened is None or reading.itself is None or not check_certified(reading, arguments):
            raise Unfit
        self.lo, self.hi = (end[0].numpy().copy() for end in (arguments.lo, arguments.hi))
        if not (np.isfinite(self.lo).all() and np.isfinite(self.hi).all() and (self.lo < self.hi).all()):
            raise Unfit
        self.variable = arguments.variable
        self.kinds = [(t.shape, t.dtype) for i, t in enumerate(arguments.inputs) if i != self.variable]
        self.tape = Tape(reading.opened)
        self.own = sources_of(reading, arguments.module)
        self.middle, self.radius = (self.lo + self.hi) / 2, (self.hi - self.lo) / 2
        self.ways = sign_patterns(len(self.lo), arguments.lo).numpy()
        self.way = 0
        self.tol, self.atol = arguments.budget.tol, float(arguments.atol[0])
        self.units: list[Array] | None = None

    def inputs_of(self, given: object) -> list[Tensor] | None:
        """The inputs of the program; None: they need to be looked at by `minimise`."""
        listed = listed_inputs(given)
        if len(listed) != len(self.kinds):
            return None
        grads = torch.is_grad_enabled()
        if grads and any(t.requires_grad for t in self.own):
            return None
        for item, (shape, dtype) in zip(listed, self.kinds, strict=True):
            if type(item) is not Tensor or item.shape != shape or item.dtype != dtype or item.device.type != "cpu":
                return None
            refuse_transformed(item, "given")
            if (grads and item.requires_grad) or item.is_inference():
                return None
        inputs = [in_float64(item.detach()) for item in listed]
        if any(t.is_floating_point() and not bool(t.isfinite().all()) for t in inputs):
            return None
        inputs.insert(self.variable, in_float64(self.arguments.inputs[self.variable]))
        return inputs

    def __call__(self, given: object, start: object, later: Callable[[], Solution]) -> Solution | None:
        """The solution; None: it is for `minimise`.

        Args:
            given, start: as for `Minimiser`.
            later: the same by `minimise`, for what is rarely asked for.
        """
        if not (start is None or isinstance(start, Solution)) or self.reading.itself is None:
            return None
        inputs = self.inputs_of(given)
        if inputs is None:
            return None
        try:
            sample = self.tape.sample(inputs)
        except Unfit:
            return None
        trail = start.trail if isinstance(start, Solution) else None
        if trail is not None and not self.fits(trail, sample):
            trail = None
        with np.errstate(all="ignore"):
            found = None if trail is None else self.vertex(sample, trail)
            solution = None if found is None else self.solution(sample, inputs, found, NAME, later)
            if solution is None:
                found = self.path(sample, trail)
                solution = None if found is None else self.solution(sample, inputs, found, "newton", later)
        return solution

    def fits(self, trail: Trail, sample: Sample) -> bool:
        """Whether a trail is of functions like this."""
        sizes = [slope.shape for slope in trail.slopes]
        return tuple(trail.y.shape) == (1, sample.size) and sizes == [(1, len(s)) for s in sample.slopes]

    # --- ways to a solution ------------------------------------------------------------------------------------------

    def vertex(self, sample: Sample, trail: Trail) -> Found | None:
        """The vertex that what held the last minimiser holds, or one a few exchanges away, if it is a minimiser."""
        basis = trail.basis
        if not isinstance(basis, Basis):
            before = [slope[0].double().numpy() for slope in trail.slopes]
            y = np.clip(trail.y[0].double().numpy(), self.lo, self.hi)
            scale = self.rise(sample, y, float(sample.arguments(y)[1]), True)
            basis = basis_near(sample, y, before, self.lo, self.hi, scale)
        for count in range(1, EXCHANGES + 2):
            corner = None if basis is None else solve_vertex(sample, basis, self.lo, self.hi)
            if corner is None:
                return None
            y = np.clip(corner.y, self.lo, self.hi)
            bound, lost, _, _ = sample.prove([np.clip(s, 0, 1) for s in corner.slopes], self.lo, self.hi)
            value = float(sample.arguments(y)[1])
            scale = self.scale_that_tells(sample, y, value, bound, lost)
            if scale is not None:
                return Found(y, value, scale, corner.slopes, bound, lost, count, basis)
            assert basis is not None
            basis = exchanged(sample, basis, corner)
        return None

    def path(self, sample: Sample, trail: Trail | None) -> Found | None:
        """Path following, from an earlier solution or the middle."""
        cube = on_cube(sample, self.middle, self.radius)
        if self.units is None:
            self.units = typical_arguments(cube)
        y, mu = np.zeros(sample.size), START
        if trail is not None:
            y, mu = np.clip((trail.y[0].double().numpy() - self.middle) / self.radius, -0.99, 0.99), NEARBY
        scale: list[float] = []

        def enough(best: Array, value: float, bound: float) -> bool:
            if not value - bound < np.inf:
                return False
            if not scale or value - bound <= 2 * (self.atol + self.tol * scale[0]):
                scale[:] = [self.rise(sample, self.middle + self.radius * best, value, True)]
            return value - bound <= SAFE * (self.atol + self.tol * scale[0])

        found = follow_path(cube, self.units, y, mu, enough)
        if found is None:
            return None
        bound, lost, _, _ = sample.prove([np.clip(s, 0, 1) for s in found.slopes], self.lo, self.hi)
        y = np.clip(self.middle + self.radius * found.y, self.lo, self.hi)
        slopes = [np.clip(s, 0, 1) for s in found.slopes]
        return Found(y, float(sample.arguments(y)[1]), 0.0, slopes, bound, lost, found.steps)

    # --- what counts as solved ---------------------------------------------------------------------------------------

    def rise(self, sample: Sample, y: Array, value: float, every: bool) -> float:
        """S at y, see `incumbents.rises`; or a rise that is no larger, along the pattern that was largest before."""
        length = np.maximum(np.abs(y), 1.0)
        far = float(length.max())
        ways = (self.ways if every else self.ways[self.way : self.way + 1]).T
        reach = np.minimum(self.hi - self.lo, length)[:, None]
        moved = np.clip(y[:, None] + ways * reach, self.lo[:, None], self.hi[:, None]) - y[:, None]
        points = np.clip(y[:, None] + moved / far, self.lo[:, None], self.hi[:, None])
        found = far * (sample.arguments(points if points.shape[1] > 1 else points[:, 0])[1] - value)
        found = np.atleast_1d(np.where(np.isfinite(found), found, 0.0))
        if every:
            self.way = int(np.argmax(found))
        return max(float(found.max()), 0.0)

    def allowed(self, scale: float, value: float, lost: float) -> float:
        """The gap at which a sample has converged."""
        much = MUCH * (abs(value) + scale)
        return self.atol + self.tol * scale + 2 * min(lost, much) + 2.0**-50 * abs(value) + 1e-280

    def scale_that_tells(self, sample: Sample, y: Array, value: float, bound: float, lost: float) -> float | None:
        """A rise at y that is enough to tell that a gap is small; None: it is not small."""
        gap = value - bound
        if not gap < np.inf:
            return None
        for every in (False, True):
            scale = self.rise(sample, y, value, every)
            if gap <= self.allowed(scale, value, lost):
                return scale
        return None

    def solution(
        self, sample: Sample, inputs: list[Tensor], found: Found, name: str, later: Callable[[], Solution]
    ) -> Solution | None:
        """The solution, if it has converged by the module's own forward."""
        arguments, itself = self.arguments, self.reading.itself
        if itself is None or itself.worn:
            return None
        y = torch.from_numpy(found.y)[None]
        x = y if arguments.dtype == torch.float64 else round_inside(y, arguments.lo, arguments.hi, arguments.dtype)
        at = y if x is y else x.double()
        inputs = list(inputs)
        inputs[self.variable] = at.reshape(arguments.inputs[self.variable].shape)
        result = itself.value(inputs)
        if result is None:
            return None
        value, bound = float(result), found.bound
        point = at[0].numpy()
        here = found.value if at is y else float(sample.arguments(point)[1])
        gap = max(value - bound, 0.0)
        scale = max(found.scale, 0.0) if at is y else self.rise(sample, point, here, False)
        if not (np.isfinite(value) and np.isfinite(bound)):
            return None
        if bound > value + 2 * found.lost + MUCH * (abs(value) + scale):  # the module is not what was traced
            return None
        if gap > self.allowed(scale, value, found.lost):
            scale = self.rise(sample, point, here, True)
            if gap > self.allowed(scale, value, found.lost):
                return None
        bound = min(bound, value)
        slopes = tuple(torch.from_numpy(s)[None] for s in found.slopes)
        values = torch.tensor([value], dtype=torch.float64)
        bounds = torch.tensor([bound], dtype=torch.float64)
        return Solution(
            x.clone().view(1, *arguments.box.shape), values, bounds, values, values - bounds,
            torch.ones(1, dtype=torch.bool), ("converged",), torch.tensor([found.steps]), name, f"converged ({name})",
            Multipliers(lambda: later().multipliers), Trail(y, slopes, found.basis),
        )  # fmt: skip


def is_plain(arguments: Arguments) -> bool:
    """Whether a call asks for nothing that path following in numpy does not do."""
    budget = arguments.budget
    watched = budget.watch is not None and (budget.watch.callback is not None or budget.watch.verbose)
    floats = all(t.device.type == "cpu" and not t.is_complex() for t in arguments.inputs)
    return (
        arguments.batch == 1
        and arguments.lo.shape[1] <= LARGE
        and arguments.solver == "auto"
        and arguments.derivative == "exact"
        and not arguments.subject_to
        and arguments.region.is_box
        and not (arguments.box.lo.requires_grad or arguments.box.hi.requires_grad)
        and budget.max_steps is None
        and budget.deadline == float("inf")
        and not watched
        and floats
        and arguments.dtype in (torch.float32, torch.float64)
    )


def quick_for(arguments: Arguments) -> Quick | None:
    """`Quick` for the network and the box of a call that has been made; None: it is for `minimise`."""
    if not is_plain(arguments):
        return None
    try:
        return Quick(read_module(arguments), arguments)
    except Unfit:
        return None
