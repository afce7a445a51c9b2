"""`minimise`: the least value of a certified network over one of its inputs, with a proof of the gap."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from convexnet.choices import DerivativeName, SolverName
from convexnet.curvature.tracing.trace import TRACING
from convexnet.domains import Domain
from convexnet.solve.arguments import Arguments, validate_arguments
from convexnet.solve.assemble_solution import assemble_solution
from convexnet.solve.at_most import AtMost
from convexnet.solve.constrained.bundle_entropy import is_for_entropy, minimise_with_entropy
from convexnet.solve.constrained.regions import minimise_over_region
from convexnet.solve.derivatives.attach import sources_of, wants_gradients
from convexnet.solve.derivatives.polish import refine_smooth
from convexnet.solve.derivatives.unavailable import check_derivatives, check_transforms
from convexnet.solve.enclosure import enclosed
from convexnet.solve.search import Search, solve
from convexnet.solve.solution import Solution
from convexnet.solve.solver_functions import check_certified, problem_of, read_module
from convexnet.solve.solvers.loop import Progress

Given = ParamSpec("Given")
Result = TypeVar("Result")


def outside_inference_mode(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """A function that leaves inference mode while it runs, whose tensors automatic differentiation refuses, also that
    of our own."""

    @wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return run


@outside_inference_mode
def minimise(
    f: nn.Module,
    domain: Domain,
    given: Tensor | Sequence[Any] | Any = None,
    tol: float = 1e-6,
    solver: SolverName = "auto",
    start: Solution | Tensor | Sequence[Any] | Any = None,
    max_steps: int | None = None,
    time_limit: float | None = None,
    *,
    wrt: int = -1,
    atol: float | Tensor = 0.0,
    subject_to: Sequence[AtMost] = (),
    derivative: DerivativeName = "exact",
    verbose: bool = False,
    callback: Callable[[Progress], object] | None = None,
) -> Solution:
    """Minimise f(y), or f(*given, y), over y in a domain, for a whole batch, with a proof of the gap.

    f is certified convex in y first, and evaluated in eval mode and float64. Samples do not see each other: a batch
    gives what its samples give alone.

    Several threads may call this at once, also with one f: they wait for each other while f is traced, which happens in
    the first call. In that time f holds stand-ins for its tensors, so that no other thread may run f's own forward
    then: make the first call before such threads start, or give each of them a copy of f.

    Args:
        f: returns (B,) or (B, 1); convex in y.
        domain: the set that y ranges over: a `Box` (coordinates are fixed with `Box.fix`), `Orthant`, `Free`, `Cube`
            (with an entropy, if asked for), `Simplex`, `Ball`, `Polyhedron`, or a `Product` of such sets.
        given: the other inputs, a tensor or an array, or a tuple of them; the first dimension of each is B. Whole
            numbers stay what they are where f takes them (labels, indices), and become floating ones elsewhere.
            Without it B is 1, or the domain's.
        tol: a sample has converged when its gap, upper_bound − lower_bound, is at most atol + tol · S, and what
            rounding takes off the bound. S is the largest rise of f from x to x + d over a few fixed patterns of signs,
            |d_j| = min(hi_j − lo_j, max(1, |x_j|)), cut off at the bounds (extrapolated from a step of length 1 where
            |x_j| is larger): it scales with f, does not see what is added to f, and does not grow with a wide box. The
            unit of y is its length: give y in units in which a change of 1 means something.
        solver: "auto", or one by name: "newton" (primal-dual path following), "bundle" (level bundle, for few
            variables), "cutting-planes" (the same without a level, to compare with), "bundle-entropy" (cutting planes
            and the entropy as it is; only over a `Cube` with entropy, where "auto" takes it), "pdhg" and "admm" (on the
            layers; piecewise linear f only), "fista" and "adam" (on a smoothed f, for many variables), "lp" (HiGHS;
            piecewise linear f only; extra `solve`).
        start: where to begin, (B, *shape) or (*shape); it changes the way, not the result. An earlier `Solution` of
            this function (for other `given` or bounds) also says which kinks and bounds held its minimisers: where
            these still do, or others after a few exchanges, one linear system is all that is solved ("active set").
        max_steps: of an iterative solver, for each sample.
        time_limit: in seconds. What has been found by then is returned.
        wrt: the number of the input of f that is minimised over; the others are `given`, in order.
        atol: a gap that is small enough in the units of f: one number, or one for each sample, (B,).
        subject_to: further constraints g(y) <= level, each made by `at_most`, on networks that are certified convex.
        derivative: of x: "exact"; or, only by name, "smoothed" (as if f had no kinks: defined everywhere, and not the
            derivative of what is returned) and "unrolled" (x is where 30 steps of gradient descent come to from `start`
            or the centre, and the gradient goes through them). See `convexnet.solve.derivatives.surrogates`.
        verbose: print a line for every step: which solver, how many samples are open, the largest gap.
        callback: called after every step with a `Progress` (step, open, gap, solver); where it returns True, the search
            ends and what has been found is returned.

    Returns:
        A `Solution`. Where the budget ends first, `converged` is False, x is the best point and the gap is true. The
        value is the module's own forward at x, in eval mode, with parameters, buffers and floating inputs in float64
        (what the forward casts stays cast; a module that does not run in float64 is evaluated as its traced program,
        which does). The lower bound is proved in floating point: lowered by what rounding may have done to it, and by
        what an operator's program differs from its function (torch's softplus beyond its threshold: 2.1e-9 / beta). A
        function that cannot be opened at its nonlinearities is minimised by its tangents alone; the message names the
        operator.
        Gradients flow through `x` and `value` to `given`, the bounds, the parameters of f and every other tensor that
        its forward reads (buffers, attributes, what `torch.func.functional_call` puts in the place of parameters): of x
        by the vertex formula where f is piecewise linear and by the implicit function theorem where it is smooth, of
        the value by the dual slopes. They are those of the minimum, whatever solver was chosen, and of the values that
        all these tensors had in the call, whatever was written to them since; a derivative that is zero is a tensor of
        zeros. Where the minimiser is not unique, only those of the value mean anything. Where more kinks and bounds
        meet than are needed to hold the minimiser, it may move otherwise in other directions: then `backward()` is a
        RuntimeError that names the sample and these kinks, if a gradient of this minimiser arrives; the gradient of
        the value is one of those between its derivatives to both sides, as that of a ReLU at zero is. Where no kink
        holds the minimiser, they can be differentiated again, to any order (`create_graph=True`); where one does, a
        second derivative is a RuntimeError that names the operator and its line. Beyond the number of variables that
        matrices allow, f must have no kinks; first derivatives are then as precise as x is, and there are no second
        ones.

    Raises:
        NotCertified: f is not proved convex in y.
        NotTraceable: `torch.export` cannot turn f into one program.
        ValueError, TypeError: wrong arguments; or derivatives are asked for that are not available, because f could
            not be opened at its kinks or is too large: at the call where `given` or a bound requires grad. That the
            parameters of a module require grad is its ordinary state, and no wish: then the call returns, and the
            error, a RuntimeError, comes from `backward()` if that is called.
        NotImplementedError: the call is inside of a transform of `torch.func` (vmap, grad, jacrev).
        ImportError: a solver needs a package of the extra `solve`.

    Source: Amos & Kolter (2016) and Amos, Xu & Kolter (2017) pose the problem and the linear program; the method of
        "newton" is described in `convexnet.solve.solvers.newton`.

    Example:
        >>> import convexnet as cx
        >>> f = cx.nn.PICNN(3, 2, hidden=(8, 8), activation="relu")
        >>> solution = minimise(f, cx.Box(-1, 1, shape=(2,)), given=torch.randn(5, 3))
        >>> solution.x.shape, bool(solution.converged.all()), bool((solution.gap <= 1e-4).all())
        (torch.Size([5, 2]), True, True)
        >>> f = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.ReLU())
        >>> seen = []
        >>> told = minimise(f, cx.Box(-1, 1, shape=(1,)), callback=lambda progress: seen.append(progress.open))
        >>> len(seen) >= 1, seen[-1]
        (True, 0)
        >>> _ = minimise(f, cx.Box(-1, 1, shape=(1,)), verbose=True)
        step 1: newton, ... of 1 open, largest gap ...
    """
    with TRACING:  # while another thread traces the module, its tensors are others
        arguments = validate_arguments(
            f, domain, given, start, wrt, tol=tol, atol=atol, solver=solver, max_steps=max_steps,
            time_limit=time_limit, derivative=derivative, callback=callback, verbose=verbose, subject_to=subject_to,
        )  # fmt: skip
    return minimise_arguments(arguments)


OPTIONS: dict[str, Any] = {
    name: parameter.default
    for name, parameter in inspect.signature(minimise).parameters.items()
    if name not in ("f", "domain", "given", "wrt")
}
"""The options of `minimise` that functions and classes on top of it take, too, with its defaults."""


def with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of `minimise`, as they are given or by default.

    Raises:
        TypeError: an option that it does not have.

    Example:
        >>> with_defaults({"tol": 1e-4})["solver"]
        'auto'
        >>> with_defaults({"tolerance": 1e-4})
        Traceback (most recent call last):
        TypeError: unknown option 'tolerance'; minimise takes tol, solver, start, ...
    """
    unknown = sorted({*options} - {*OPTIONS})
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; minimise takes {', '.join(OPTIONS)}")
    return {**OPTIONS, **options}


def minimise_arguments(arguments: Arguments) -> Solution:
    """`minimise` with arguments that are checked."""
    asked = arguments.solver == "bundle-entropy"
    if asked or (arguments.solver == "auto" and is_for_entropy(arguments) and arguments.derivative != "unrolled"):
        return minimise_with_entropy(arguments)
    if not arguments.region.is_box or arguments.subject_to:
        return minimise_over_region(arguments)
    return minimise_over_box(arguments)


def minimise_over_box(arguments: Arguments) -> Solution:
    """`minimise` where the domain is a box."""
    reading = read_module(arguments)
    everywhere = check_certified(reading, arguments)
    own = sources_of(reading, arguments.module)
    check_transforms(own)
    keep = wants_gradients(own, arguments.inputs, arguments.box)
    exact = keep and arguments.derivative == "exact"
    with torch.no_grad():
        problem, closed = problem_of(reading, arguments, everywhere)
        if exact:
            check_derivatives(reading, problem.f, arguments.solver, arguments.inputs, arguments.box)
        problem = enclosed(problem, arguments.budget)
        done = Search(arguments, reading, problem, closed, *solve(problem, arguments, closed))
        if exact:
            refine_smooth(problem, done.found)
        return assemble_solution(done, own if keep else None)
