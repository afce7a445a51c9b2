"""`minimise`: the least value of a certified network over one of its inputs, with a proof of the gap.

Long because the public docstring is, and the steps from arguments to answer belong to one story.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import torch
from torch import Tensor, fx, nn

from convexnet.arrays import as_tensor
from convexnet.choices import DerivativeName, SolverName
from convexnet.curvature.call import Refusal
from convexnet.curvature.trace import TRACING
from convexnet.domains import Box
from convexnet.errors import NotCertified, NotTraceable
from convexnet.form.epigraph import KinkForm
from convexnet.form.matrices import Pieces, TooLarge
from convexnet.form.program import Opened
from convexnet.solve.arguments import Asked, checked, misread, wrong_batch
from convexnet.solve.compiled import Reading, read
from convexnet.solve.derivatives.attach import attached, sources_of, wants_gradients
from convexnet.solve.derivatives.implicit import standing
from convexnet.solve.derivatives.minimum import over
from convexnet.solve.derivatives.polish import refined
from convexnet.solve.derivatives.refusals import check_derivatives, check_transforms
from convexnet.solve.derivatives.surrogates import unrolled
from convexnet.solve.functions.black_box import Own, Private, Whole
from convexnet.solve.functions.matrix_free import Layers
from convexnet.solve.functions.strong_convexity import strength
from convexnet.solve.lower_bounds import PART, cells_of, proved, supported
from convexnet.solve.solution import Solution, said
from convexnet.solve.solvers.choose import MANY, MATRICES, chosen_solver, rescue, run
from convexnet.solve.solvers.loop import Found, Problem, Progress, Watch, nothing_yet, picked, rises, signs

MUCH = 1e-7
"""The share of a value, or of its rise, up to which what is lost to rounding counts as rounding."""


FEW = 4
"""Samples of which it is looked up, once, that the atoms of a network prove something."""


def minimise(
    f: nn.Module,
    domain: Box,
    given: Tensor | Sequence[Any] | Any = None,
    tol: float = 1e-6,
    solver: SolverName = "auto",
    start: Solution | Tensor | Sequence[Any] | Any = None,
    max_steps: int | None = None,
    time_limit: float | None = None,
    *,
    wrt: int = -1,
    atol: float | Tensor = 0.0,
    derivative: DerivativeName = "exact",
    verbose: bool = False,
    callback: Callable[[Progress], object] | None = None,
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
        tol: a sample has converged when its gap, upper_bound − lower_bound, is at most atol + tol · S, and what
            rounding takes off the bound. S is the largest rise of f from x to x + d over a few fixed patterns of signs,
            |d_j| = min(hi_j − lo_j, max(1, |x_j|)), cut off at the bounds (extrapolated from a step of length 1 where
            |x_j| is larger): it scales with f, does not see what is added to f, and does not grow with a wide box. The
            unit of y is its length: give y in units in which a change of 1 means something.
        solver: "auto", or one by name: "newton" (primal-dual path following), "bundle" (level bundle, for few
            variables), "pdhg" and "admm" (on the layers; piecewise linear f only), "fista" and "adam" (on a smoothed f,
            for many variables), "lp" (HiGHS; piecewise linear f only; extra `solve`).
        start: where to begin, (B, *shape) or (*shape), or an earlier `Solution`; it changes the way, not the result.
        max_steps: of an iterative solver, for each sample.
        time_limit: in seconds. What has been found by then is returned.
        wrt: the number of the input of f that is minimised over; the others are `given`, in order.
        atol: a gap that is small enough in the units of f: one number, or one for each sample, (B,).
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
        the value by the dual gates. They are those of the minimum, whatever solver was chosen, and of the values that
        all these tensors had in the call, whatever was written to them since; a derivative that is zero is a tensor of
        zeros. Where the minimiser is not unique, only those of the value mean anything. Where more kinks and bounds
        meet than are needed to hold the minimiser, it may move otherwise in other directions: then `backward()` is a
        RuntimeError that names the sample and these kinks, if a gradient of this minimiser arrives; the gradient of
        the value is one of those between its derivatives to both sides, as that of a ReLU at zero is. Where no kink
        holds the minimiser, they can be differentiated again, to any order (`create_graph=True`); where one does, a
        second derivative is a RuntimeError that names the operator and its line.

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
    if torch.is_inference_mode_enabled():  # whose tensors automatic differentiation refuses, also that of our own
        with torch.inference_mode(False), torch.no_grad():
            return minimise(
                f, domain, given, tol, solver, start, max_steps, time_limit,
                wrt=wrt, atol=atol, derivative=derivative, verbose=verbose, callback=callback,
            )  # fmt: skip
    with TRACING:  # while another thread traces the module, its tensors are others
        asked = checked(f, domain, given, start, wrt, tol, solver, max_steps, time_limit, derivative)
    tol, max_steps, time_limit = asked.tol, asked.max_steps, asked.time_limit
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of a Progress, not {callback!r}")
    deadline = math.inf if time_limit is None else monotonic() + time_limit
    try:
        reading = read(asked.module, asked.inputs, asked.variable)
    except NotTraceable as error:
        raise misread(asked, error) from error.__cause__
    everywhere = certified(reading, asked)
    own = sources_of(reading, asked.module)
    check_transforms(own)
    keep = wants_gradients(own, asked.inputs, domain)
    watch = Watch(callback, verbose)
    with torch.no_grad():
        problem, closed = problem_of(reading, asked, everywhere, solver)
        if keep and derivative == "exact":
            check_derivatives(reading, problem.f, solver, asked.inputs, domain)
        allowed = allowance(atol, problem)
        name, size = chosen_solver(solver, problem, closed)
        found, used = solve(problem, name, size, asked, tol, allowed, max_steps, deadline, watch, solver == "auto")
        if keep and derivative == "exact":
            refined(problem, found)
        return answer(reading, asked, problem, found, tol, used, own if keep else None, derivative, closed)


def allowance(atol: float | Tensor, problem: Problem) -> Tensor:
    """`atol` for each sample, (B,).

    Raises:
        ValueError: it is negative or NaN, or of another shape.
    """
    given = as_tensor(atol, "atol").detach().to(problem.lo)
    if given.ndim > 1 or (given.ndim == 1 and len(given) not in (1, problem.batch)) or not bool((given >= 0).all()):
        raise ValueError(f"atol is a gap in the units of f, a number >= 0 or one for each sample, not {atol!r}")
    return given.expand(problem.batch)


def solve(
    problem: Problem,
    name: str,
    size: int,
    asked: Asked,
    tol: float,
    atol: Tensor,
    most: int | None,
    deadline: float,
    watch: Watch,
    automatic: bool,
) -> tuple[Found, list[str]]:
    """Solve the batch in parts that fit into memory; returns what was found, and which solvers did it."""
    found = nothing_yet(problem, atol)
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
        run(name, part, piece, tol, most, deadline, watch)
        if automatic:
            used += [more for more in rescue(part, piece, tol, most, deadline, watch) if more not in used]
        if not whole:
            found.put(rows, piece)
        if watch.stopped:
            break
    return found, used


def answer(
    reading: Reading,
    asked: Asked,
    problem: Problem,
    found: Found,
    tol: float,
    used: list[str],
    own: list[Tensor] | None,
    derivative: str,
    closed: str,
) -> Solution:
    """The solution: points in the caller's type, their values by the module, and bounds that are proved; with gradients
    to the module's `own` tensors and to all others, if they are wanted."""
    y, descended = found.y, found.value
    if derivative == "unrolled":
        opened, ends = opened_of(reading, derivative), (asked.box.lo, asked.box.hi)
        lo, hi = (over(end, asked.box.shape, asked.batch).to(y) for end in ends)
        live = {id(t): standing(t, reading.values.get(id(t), t)) for t in own or []}
        y, descended = unrolled(opened, asked.inputs, live, Problem(problem.f, lo, hi), asked.start)
        if own is None:
            y, descended = y.detach(), descended.detach()
        else:
            y, descended = (taking_part(part, [*asked.inputs, *ends, *own]) for part in (y, descended))
        nowhere = torch.zeros_like(found.looked)
        found = replace(found, y=y.detach(), value=descended.detach(), looked=nowhere)
    x = rounded_inside(y, asked.lo, asked.hi, asked.dtype)
    opened = problem.exact.opened
    copy = reading.itself
    if copy is None or copy.worn:
        with TRACING:
            copy = Private(asked.module)
    itself = Own(copy, asked.inputs, asked.variable, whole_of(reading, asked, None))
    value = in_parts(itself, x.double(), opened)
    made = judged(problem, found, x.double(), value, *proved(problem, found), tol)
    converged = made.converged
    name = used[0] if len(used) == 1 else f"{used[0]}, then {', '.join(used[1:])}"
    far = (made.gap / made.scale.clamp(min=1e-300))[~converged]
    why = f"largest gap {float(far.max()) if len(far) else 0.0:.2g} of the size of f"
    rounded = None if asked.dtype == torch.float64 else (asked.dtype, ~found.open(tol) & ~converged)
    unbounded = ~converged & ~made.other & ~made.proof.isfinite()
    if bool(unbounded.any()):
        unbounded &= falls_without_end(problem, found)
    message = said(converged, made.bound, name, why, problem.compact, rounded, unbounded, closed, made.other)
    status = tuple(
        "converged" if done else "unbounded" if endless else "stopped"
        for done, endless in zip(converged.tolist(), unbounded.tolist(), strict=True)
    )
    x = x.view(asked.batch, *asked.box.shape)
    if derivative == "unrolled":
        x, value = following(x, y), following(value, descended)
    elif own is not None:
        if derivative == "smoothed":
            opened_of(reading, derivative)
        rest = asked.inputs, own, asked.variable, asked.box, (asked.lo, asked.hi), found, used, x, value
        x, value = attached(reading, problem.f, *rest, derivative == "smoothed")
    return Solution(x, value, made.bound, value, made.gap, converged, status, found.steps, name, message)


@dataclass(frozen=True)
class Verdict:
    """What becomes of values and bounds, (B,) each: see `answer`."""

    other: Tensor
    proof: Tensor
    bound: Tensor
    gap: Tensor
    converged: Tensor
    scale: Tensor


def judged(
    problem: Problem, found: Found, x: Tensor, value: Tensor, proof: Tensor, lost: Tensor, tol: float
) -> Verdict:
    """Which samples have converged. S is looked at as far as it is needed to tell.

    Args:
        problem: of all samples.
        found: what solvers know of S.
        x: (B, n).
        value, proof: the value at x and the lower bound that was proved, (B,).
        lost: what rounding took off that bound, (B,).
        tol: times S.
    """
    apart = forced(problem, x) + 2.0**-50 * value.abs() + 1e-280

    def verdict(scale: Tensor) -> Verdict:
        much = MUCH * (value.abs() + scale)
        other = proof > value + 2 * lost.nan_to_num(nan=0.0) + much  # then the module is not what was traced
        sure = torch.where(other, -torch.inf, proof)
        bound = torch.minimum(sure, value)  # they may cross by what rounding leaves
        gap = value - bound
        gap = torch.where(gap.isnan(), torch.inf, gap)
        allowed = found.atol + tol * scale + 2 * torch.minimum(lost, much).nan_to_num(nan=0.0) + apart
        return Verdict(other, sure, bound, gap, (gap <= allowed) & gap.isfinite(), scale)

    known = found.looked & (found.y == x).all(1)
    made = verdict(torch.where(known, found.scale, 0.0))
    ways = signs(problem.size, x)
    for first in (True, False):
        left = ~made.converged | made.other
        rows = (left & ~known if first else left).nonzero()[:, 0]
        if len(rows):
            part = problem if len(rows) == problem.batch else problem.rows(rows)
            some = ways[found.way[rows]][None] if first else ways[:, None]
            scale = made.scale.clone()
            scale[rows] = rises(part, x[rows], part.f.value(x[rows]), some).amax(0)
            made = verdict(scale)
    return made


def in_parts(own: Own, y: Tensor, opened: Opened) -> Tensor:
    """The module's values at y (B, n), of as many samples at a time as memory allows."""
    size = max(1, PART // max(1, 8 * cells_of(opened)))
    if len(y) <= size:
        return own.value(y)
    return torch.cat([own.rows(index).value(y[index]) for index in torch.arange(len(y), device=y.device).split(size)])


def falls_without_end(problem: Problem, found: Found) -> Tensor:
    """For which samples (B,) f certainly has no least value: where it is piecewise linear and falls along a direction
    in which the domain has no end, which its recession function says (the function without its constants)."""
    f = problem.f
    nothing = torch.zeros(problem.batch, dtype=torch.bool, device=found.y.device)
    if problem.compact or not isinstance(f, KinkForm) or not f.piecewise_linear:
        return nothing
    far = replace(f, constants=tuple(torch.zeros_like(c) for c in f.constants), constant=torch.zeros_like(f.constant))
    down, up = problem.lo.isinf(), problem.hi.isinf()
    endless = nothing
    slope = -f.subgradient(found.y)[1]
    ways = [slope, *signs(problem.size, slope)[:, None].expand(-1, problem.batch, -1)]
    for way in ways:
        way = torch.where((way < 0) & ~down | (way > 0) & ~up, 0.0, way)
        length = way.abs().amax(1, keepdim=True)
        way = way / torch.where(length > 0, length, 1.0)
        size = sum((m.abs().sum(1) for m in [f.slope, *f.weights.values()]), torch.zeros_like(found.value))
        endless = endless | (far.value(way) < -1e-9 * size)
    return endless


def following(x: Tensor, moving: Tensor) -> Tensor:
    """x with the gradient of `moving`."""
    with torch.enable_grad():
        return x + (moving - moving.detach()).view(x.shape).to(x.dtype)


def taking_part(y: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """y (or its value), with gradients of zero for the tensors that it does not depend on."""
    with torch.enable_grad():
        nothing = [t.reshape(-1)[:0].sum().to(y) for t in tensors if t.requires_grad]
        return y + sum(nothing) if nothing else y


def opened_of(reading: Reading, derivative: str) -> Opened:
    if reading.opened is None:
        raise ValueError(f"derivative={derivative!r} needs a forward that does not read the size of its batch")
    return reading.opened


def rounded_inside(y: Tensor, lo: Tensor, hi: Tensor, dtype: torch.dtype) -> Tensor:
    """y in another precision, and still within the bounds; where none of its numbers are, the nearest one."""
    if dtype == torch.float64:
        return y.clone()
    x = y.to(dtype)
    infinity = torch.full_like(x, torch.inf)
    down, up = torch.nextafter(x, -infinity), torch.nextafter(x, infinity)
    x = torch.where((x.double() > hi) & (down.double() >= lo), down, x)
    return torch.where((x.double() < lo) & (up.double() <= hi), up, x)


def forced(problem: Problem, x: Tensor) -> Tensor:
    """How much of the value, (B,), is there only because no number of x's type lies between the bounds."""
    inside = problem.inside(x)
    if torch.equal(inside, x):
        return x.new_zeros(len(x))
    return (problem.f.value(x) - problem.f.value(inside)).abs().nan_to_num(nan=0.0, posinf=0.0)


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


def problem_of(reading: Reading, asked: Asked, everywhere: bool, solver: str) -> tuple[Problem, str]:
    """The batch of functions, in the best description that the module allows, and why there is no better one."""
    inputs = [tensor.detach() for tensor in asked.inputs]
    lo, hi = asked.lo, asked.hi
    single = False
    if reading.pieces is None or reading.opened is None:
        closed = "its forward reads the size of its batch"
    else:
        try:
            f, layers, closed = opened_up(reading.opened, reading.pieces, inputs, lo.shape[1], solver)
            whole = everywhere and not any(bend.partial for bend in f.bends)
            if not (whole and "supported" in reading.shown):
                few = torch.arange(min(len(lo), FEW if whole else len(lo)), device=lo.device)
                if not supported(layers.rows(few), lo[few], hi[few], 1 if whole else 3):
                    raise Refusal("it is convex for a reason that its atoms do not show")
                reading.shown.add("supported" if whole else "")
        except Refusal as refusal:
            closed = refusal.reason
        except (RuntimeError, IndexError) as error:
            if runs(reading.opened, inputs) and runs(reading.opened, [tensor[:1] for tensor in inputs]):
                raise error
            closed, single = "an operator has settings for one size of the batch", True
        else:
            strong = None
            if isinstance(f, KinkForm) and not f.piecewise_linear:
                strong = strength(reading.opened, inputs, f)
            return Problem(f, lo, hi, strong, layers), closed
    centre = None if everywhere else Problem(None, lo, hi).centre()
    whole = whole_of(reading, asked, centre, single)
    if whole.pairs and not whole.symmetric(Problem(None, lo, hi).centre()):
        raise ValueError(
            "f does not treat the samples of a batch alike: it reads the size of its batch, or holds a tensor with a "
            "row for each sample of one. Give such a tensor as an input, in given"
        )
    return Problem(whole, lo, hi, None, whole), closed


def opened_up(
    opened: Opened, pieces: Pieces, inputs: list[Tensor], size: int, solver: str
) -> tuple[KinkForm | Layers, Layers, str]:
    """The functions of `size` variables as matrices, or without where these are too large; the functions as they are
    written; and what was too large for a solver that asks for matrices. All of them without what is constant.

    Raises:
        Refusal: an operator has no row among those that can be opened.
        RuntimeError, IndexError: an operator does not take a batch of this size.
    """
    closed = ""
    if size <= MANY or solver in MATRICES:
        try:
            form = pieces.form(inputs)
        except TooLarge as large:
            closed = large.reason if solver in MATRICES else ""
        else:
            constant = torch.where(form.constant.isfinite(), form.constant, 0.0)
            whole = opened.gated  # the form was read with the batch itself
            layers = Layers(opened, inputs, form.bends, constant if whole else None)
            return replace(form, constant=0 * constant), layers if whole else layers.centred(), ""
    layers = Layers(opened, inputs).centred()
    return layers, layers, closed


def runs(opened: Opened, inputs: Sequence[Tensor]) -> bool:
    """Whether no operator has settings that fit to a batch of two only."""
    try:
        Layers(opened, inputs).centred()
    except (RuntimeError, IndexError):
        return False
    return True


def whole_of(reading: Reading, asked: Asked, centre: Tensor | None, single: bool = False) -> Whole:
    """The traced program as one function; `single` takes the one for a batch of two."""
    opened = reading.opened
    if opened is not None and not single:
        return Whole(opened, asked.inputs, centre=centre)
    pairs = Opened(reading.program, asked.variable).valued(reading.values)
    return Whole(pairs, asked.inputs, pairs=True, centre=centre)
