"""`minimise`: the least value of a certified network over one of its inputs, with a proof of the gap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

import torch
from torch import Tensor, fx, nn

from convexnet.curvature.call import Refusal
from convexnet.domains import Box
from convexnet.errors import NotCertified, NotTraceable
from convexnet.solve.asked import Asked, checked, misread, wrong_batch
from convexnet.solve.choose import MANY, MATRICES, chosen_solver, rescue, run
from convexnet.solve.derivatives import attached, wants_gradients
from convexnet.solve.drive import Found, Function, Problem, nothing_yet, picked
from convexnet.solve.kink_form import KinkForm
from convexnet.solve.layers import Layers
from convexnet.solve.opened import Opened
from convexnet.solve.pieces import TooLarge
from convexnet.solve.plain import Plain
from convexnet.solve.reading import Reading, read
from convexnet.solve.softened import units
from convexnet.solve.solution import Solution, said
from convexnet.solve.variants import smoothed, unrolled


def minimise(
    f: nn.Module,
    domain: Box,
    given: Tensor | Sequence[Any] | Any = None,
    tol: float = 1e-6,
    solver: str = "auto",
    start: Solution | Tensor | Sequence[Any] | Any = None,
    max_steps: int | None = None,
    time_limit: float | None = None,
    *,
    wrt: int = -1,
    derivative: str = "exact",
) -> Solution:
    """Minimise f(y), or f(*given, y), over y in a domain, for a whole batch, with a proof of the gap.

    f is certified convex in y first, and evaluated in eval mode and float64. Samples do not see each other: a batch
    gives what its samples give alone.

    Args:
        f: returns (B,) or (B, 1); convex in y.
        domain: a `Box` of one sample of y; coordinates are fixed with `Box.fix`.
        given: the other inputs, a tensor or an array, or a tuple of them; the first dimension of each is B. Whole
            numbers stay what they are where f takes them (labels, indices), and become floating ones elsewhere.
            Without it B is 1, or the domain's.
        tol: a sample has converged when its gap, value − lower_bound, is at most
            tol · max(|value|, f(centre) − value, 1e-12). The centre is the middle of the box (of a side without an end,
            the point nearest to 0).
        solver: "auto", or one by name: "newton" (primal-dual path following), "bundle" (level bundle, for few
            variables), "pdhg" and "admm" (on the layers; piecewise linear f only), "fista" and "adam" (on a smoothed f,
            for many variables), "lp" (HiGHS; piecewise linear f only; extra `solve`).
        start: where to begin, (B, *shape) or (*shape), or an earlier `Solution`; it changes the way, not the result.
        max_steps: of an iterative solver, for each sample.
        time_limit: in seconds. What has been found by then is returned.
        wrt: the number of the input of f that is minimised over; the others are `given`, in order.
        derivative: of x: "exact"; or, only by name, "smoothed" (as if f had no kinks: defined everywhere, and not the
            derivative of what is returned) and "unrolled" (x is where 30 steps of gradient descent come to from `start`
            or the centre, and the gradient goes through them). See `convexnet.solve.variants`.

    Returns:
        A `Solution`. Where the budget ends first, `converged` is False, x is the best point and the gap is true.
        Gradients flow through `x` and `value` to `given`, the parameters of f and the bounds: of x by the vertex
        formula where f is piecewise linear and by the implicit function theorem where it is smooth, of the value by
        the dual gates. Where the minimiser is not unique, only those of the value mean anything.

    Raises:
        NotCertified: f is not proved convex in y.
        NotTraceable: `torch.export` cannot turn f into one program.
        ValueError, TypeError: wrong arguments.
        ImportError: a solver needs a package of the extra `solve`.

    Source: Amos & Kolter (2016) and Amos, Xu & Kolter (2017) pose the problem and the linear program; the method of
        "newton" is described in `convexnet.solve.newton`.

    Example:
        >>> import convexnet as cx
        >>> f = cx.nn.PICNN(3, 2, hidden=(8, 8), activation="relu")
        >>> solution = minimise(f, cx.Box(-1, 1, shape=(2,)), given=torch.randn(5, 3))
        >>> solution.x.shape, bool(solution.converged.all()), bool((solution.gap <= 1e-4).all())
        (torch.Size([5, 2]), True, True)
    """
    if torch.is_inference_mode_enabled():  # whose tensors automatic differentiation refuses, also that of our own
        with torch.inference_mode(False), torch.no_grad():
            rest = (max_steps, time_limit)
            return minimise(f, domain, given, tol, solver, start, *rest, wrt=wrt, derivative=derivative)
    asked = checked(f, domain, given, start, wrt, tol, solver, max_steps, time_limit, derivative)
    tol, max_steps, time_limit = asked.tol, asked.max_steps, asked.time_limit
    deadline = math.inf if time_limit is None else monotonic() + time_limit
    try:
        reading = read(asked.module, asked.inputs, asked.variable)
    except NotTraceable as error:
        raise misread(asked, error) from error.__cause__
    everywhere = certified(reading, asked)
    keep = wants_gradients(asked.module, asked.inputs, domain)
    with torch.no_grad():
        function = function_of(reading, asked, everywhere, solver)
        strong = function.strong() if isinstance(function, KinkForm) and not function.piecewise_linear else None
        problem = Problem(function, asked.lo, asked.hi, strong)
        name, size = chosen_solver(solver, problem)
        found, why = solve(problem, name, size, asked, tol, max_steps, deadline, keep, solver == "auto")
        return answer(reading, asked, problem, found, tol, why, keep, derivative)


def solve(
    problem: Problem,
    name: str,
    size: int,
    asked: Asked,
    tol: float,
    most: int | None,
    deadline: float,
    keep: bool,
    automatic: bool,
) -> tuple[Found, list[str]]:
    """Solve the batch in parts that fit into memory; returns what was found, and which solvers did it."""
    found = nothing_yet(problem)
    if asked.start is not None:
        y = problem.inside(asked.start)
        value = problem.f.value(y)
        everyone = torch.arange(problem.batch, device=y.device)
        found.note(everyone, y, value, torch.full_like(value, -torch.inf))
    used = [name]
    for first in range(0, problem.batch, size):
        rows = torch.arange(first, min(problem.batch, first + size), device=found.y.device)
        whole = len(rows) == problem.batch
        part = problem if whole else problem.rows(rows)
        piece = found if whole else picked(found, rows)
        run(name, part, piece, tol, most, deadline, keep)
        if automatic:
            used += [more for more in rescue(part, piece, tol, most, deadline, keep) if more not in used]
        if not whole:
            found.put(rows, piece)
    return found, used


def answer(
    reading: Reading,
    asked: Asked,
    problem: Problem,
    found: Found,
    tol: float,
    used: list[str],
    keep: bool,
    derivative: str,
) -> Solution:
    """The solution: points in the caller's type, and their values in float64."""
    y, descended = found.y, found.value
    if derivative == "unrolled":
        y, descended = unrolled(opened_of(reading, derivative), asked.inputs, problem, begun_at(asked, problem))
        found = replace(found, y=y.detach(), value=descended.detach())
    x = rounded_inside(y, asked.lo, asked.hi, asked.dtype)
    value = found.value
    if asked.dtype != torch.float64 or isinstance(problem.f, Plain):
        value = problem.f.value(x.double())
    bound = torch.minimum(found.bound, value)  # they may cross by what rounding leaves
    gap = value - bound
    size = torch.maximum(value.abs(), found.centre - value).clamp(min=1e-12)
    converged = gap <= tol * size
    name = used[0] if len(used) == 1 else f"{used[0]}, then {', '.join(used[1:])}"
    why = f"largest gap {float((gap / size).max()):.2g} of the size of f"
    rounded = None if asked.dtype == torch.float64 else (asked.dtype, ~found.open(tol) & ~converged)
    message = said(converged, bound, name, why, problem.compact, rounded)
    x = x.view(asked.batch, *asked.box.shape)
    if derivative == "unrolled":
        x, value = following(x, y), following(value, descended)
    elif keep:
        exact, value = attached(reading, asked.module, asked.inputs, asked.variable, asked.box, found, x, value)
        if derivative == "smoothed":
            opened = opened_of(reading, derivative)
            exact = following(x, smoothed(opened, asked.inputs, problem, y, units(problem.f, problem.lo, problem.hi)))
        x = exact
    return Solution(x, value, bound, gap, converged, found.steps, name, message)


def following(x: Tensor, moving: Tensor) -> Tensor:
    """x with the gradient of `moving`."""
    with torch.enable_grad():
        return x + (moving - moving.detach()).view(x.shape).to(x.dtype)


def opened_of(reading: Reading, derivative: str) -> Opened:
    if reading.opened is None:
        raise ValueError(f"derivative={derivative!r} needs a forward that does not read the size of its batch")
    return reading.opened


def begun_at(asked: Asked, problem: Problem) -> Tensor:
    return problem.centre() if asked.start is None else problem.inside(asked.start)


def rounded_inside(y: Tensor, lo: Tensor, hi: Tensor, dtype: torch.dtype) -> Tensor:
    """y in another precision, and still within the bounds; where none of its numbers are, the nearest one."""
    if dtype == torch.float64:
        return y.clone()
    x = y.to(dtype)
    infinity = torch.full_like(x, torch.inf)
    x = torch.where(x.double() > hi, torch.nextafter(x, -infinity), x)
    up = torch.nextafter(x, infinity)
    return torch.where((x.double() < lo) & (up.double() <= hi), up, x)


def certified(reading: Reading, asked: Asked) -> bool:
    """Whether f is convex in y everywhere; if only on the domain, False.

    Raises:
        NotCertified: neither.
        ValueError: it does not return one number for each sample.
    """
    certificate = reading.certificate
    program = reading.program
    outputs = [node.meta.get("val") if isinstance(node, fx.Node) else node for _, node in program.outputs]
    shape = tuple(outputs[0].shape) if len(outputs) == 1 and isinstance(outputs[0], Tensor) else None
    if shape not in ((2,), (2, 1)):
        one = f"a {type(outputs[0]).__name__}" if shape is None else f"an output of shape {shown(shape)}"
        what = f"{len(outputs)} outputs" if len(outputs) != 1 else one
        raise ValueError(
            f"{certificate.model} returns {what}, and only one number for each sample, (B,) or (B, 1), can be "
            f"minimised: {wrong_batch(asked) or 'wrap it in a module that picks or adds up what you mean'}"
        )
    if certificate.convex:
        return True
    local = reading.on(asked.box.hull())
    if local.convex:
        return False
    raise NotCertified(
        f"cannot minimise over input {asked.variable}: {local.headline()}\n" + "\n".join(map(str, local.findings)),
        local.findings,
    )


def shown(shape: tuple[int, ...]) -> str:
    """The shape for two samples as one for B of them."""
    return str(shape).replace("(2", "(B", 1) if shape[:1] == (2,) else f"{shape}, without a batch"


def function_of(reading: Reading, asked: Asked, everywhere: bool, solver: str) -> Function:
    """The best description of the batch of functions that the module allows."""
    inputs = [tensor.detach() for tensor in asked.inputs]
    if everywhere and reading.pieces is not None and reading.opened is not None:
        if asked.lo.shape[1] > MANY and solver not in MATRICES:
            return Layers(reading.opened, inputs)
        try:
            return reading.pieces.form(inputs)
        except TooLarge:
            return Layers(reading.opened, inputs)
        except Refusal:
            pass  # it has operators that are no bends
    return Plain(
        asked.module, inputs, asked.variable, None if everywhere else Problem(None, asked.lo, asked.hi).centre()
    )
