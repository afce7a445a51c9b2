"""`minimise`: the least value of a certified network over one of its inputs, with a proof of the gap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

import torch
from torch import Tensor, fx, nn

from convexnet.curvature.arguments import unwrapped
from convexnet.curvature.call import Refusal
from convexnet.domains import Box
from convexnet.errors import NotCertified
from convexnet.solve.choose import MANY, MATRICES, NAMES, chosen_solver, rescue, run
from convexnet.solve.derivatives import attached, wants_gradients
from convexnet.solve.drive import Found, Function, Problem, nothing_yet, picked
from convexnet.solve.kink_form import KinkForm
from convexnet.solve.layers import Layers
from convexnet.solve.pieces import TooLarge
from convexnet.solve.plain import Plain
from convexnet.solve.reading import Reading, read
from convexnet.solve.solution import Solution, said


@dataclass
class Asked:
    """The arguments of `minimise`, checked."""

    module: nn.Module
    inputs: list[Tensor]  # B rows each; the variable's own are zero
    variable: int
    box: Box
    lo: Tensor  # (B, n), float64
    hi: Tensor
    start: Tensor | None
    dtype: torch.dtype

    @property
    def batch(self) -> int:
        return self.lo.shape[0]


def minimise(
    f: nn.Module,
    domain: Box,
    given: Tensor | Sequence[Tensor] | None = None,
    tol: float = 1e-6,
    solver: str = "auto",
    start: Tensor | None = None,
    max_steps: int | None = None,
    time_limit: float | None = None,
    argument: int = -1,
) -> Solution:
    """Minimise f(y), or f(*given, y), over y in a domain, for a whole batch, with a proof of the gap.

    f is certified convex in y first, and evaluated in eval mode and float64. Samples do not see each other: a batch
    gives what its samples give alone.

    Args:
        f: returns (B,) or (B, 1); convex in y.
        domain: a `Box` of one sample of y; coordinates are fixed with `Box.fix`.
        given: the other inputs, a tensor or a tuple; its first dimension is B. Without it B is 1, or the domain's.
        tol: a sample has converged when its gap, value − lower_bound, is at most
            tol · max(|value|, f(centre) − value, 1e-12). The centre is the middle of the box (of a side without an end,
            the point nearest to 0).
        solver: "auto", or one by name: "newton" (primal-dual path following), "bundle" (level bundle, for few
            variables), "pdhg", "admm", "fista", "adam", "lp" (HiGHS; piecewise linear f only; extra `solve`).
        start: where to begin, (B, *shape) or (*shape); it changes the way, not the result.
        max_steps: of an iterative solver, for each sample.
        time_limit: in seconds. What has been found by then is returned.
        argument: which argument of f is minimised over; the others are `given`, in order.

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
            return minimise(f, domain, given, tol, solver, start, max_steps, time_limit, argument)
    asked = checked(f, domain, given, start, argument, tol, solver, max_steps, time_limit)
    deadline = math.inf if time_limit is None else monotonic() + time_limit
    reading = read(asked.module, asked.inputs, asked.variable)
    everywhere = certified(reading, asked)
    keep = wants_gradients(asked.module, asked.inputs, domain)
    with torch.no_grad():
        function = function_of(reading, asked, everywhere, solver)
        strong = function.strong() if isinstance(function, KinkForm) and not function.piecewise_linear else None
        problem = Problem(function, asked.lo, asked.hi, strong)
        name, size = chosen_solver(solver, problem)
        found, why = solve(problem, name, size, asked, tol, max_steps, deadline, keep, solver == "auto")
        return answer(reading, asked, problem, found, tol, why, keep)


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
    reading: Reading, asked: Asked, problem: Problem, found: Found, tol: float, used: list[str], keep: bool
) -> Solution:
    """The solution: points in the caller's type, and their values in float64."""
    y = found.y
    x = rounded_inside(y, asked.lo, asked.hi, asked.dtype)
    value = found.value
    if asked.dtype != torch.float64:
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
    if keep:
        x, value = attached(reading, asked.module, asked.inputs, asked.variable, asked.box, found, x, value)
    return Solution(x, value, bound, gap, converged, found.steps, name, message)


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
            "minimised: wrap it in a module that picks or adds up what you mean"
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
    return Plain(asked.module, inputs, asked.variable)


# --- arguments -------------------------------------------------------------------------------------------------------


def checked(
    f: nn.Module,
    domain: Box,
    given: Tensor | Sequence[Tensor] | None,
    start: Tensor | None,
    argument: int,
    tol: float,
    solver: str,
    max_steps: int | None,
    time_limit: float | None,
) -> Asked:
    """The arguments of `minimise`, or an error that names the wrong one."""
    module = unwrapped(f)
    if not isinstance(domain, Box):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the domain must be a convexnet Box, as Box(-1, 1, shape=(3,)), not {type(domain).__name__}")
    if not (is_number(tol) and 0 < tol < math.inf):
        raise ValueError(f"tol is a relative gap and must be a positive number, not {tol!r}")
    if solver not in NAMES:
        raise ValueError(f"unknown solver {solver!r}; it is one of {', '.join(NAMES)}")
    if max_steps is not None and not (is_number(max_steps, int) and max_steps >= 1):
        raise ValueError(f"max_steps must be a whole number of at least 1, not {max_steps!r}")
    if time_limit is not None and not (is_number(time_limit) and time_limit >= 0):
        raise ValueError(f"time_limit is in seconds and must not be negative, not {time_limit!r}")
    if not is_number(argument, int):
        raise TypeError(f"argument is the number of an input of f, not {argument!r}")
    others = [] if given is None else [given] if isinstance(given, Tensor) else list(given)
    for i, tensor in enumerate(others):
        check_given(i, tensor, others[0])
    others = [tensor.clone() if tensor.is_inference() else tensor for tensor in others]
    if not -len(others) - 1 <= argument <= len(others):
        raise ValueError(f"argument {argument} is none of the {len(others) + 1} inputs that given and y make")
    variable = argument % (len(others) + 1)
    batch = batch_of(domain, others)
    home = next((t for t in [*module.parameters(), *module.buffers()] if t.is_floating_point()), None)
    like = next((t for t in others if t.is_floating_point()), home)
    dtype = torch.get_default_dtype() if like is None else like.dtype
    own = dtype if home is None else home.dtype
    device = torch.device("cpu") if like is None else like.device
    y = torch.zeros(batch, *domain.shape, dtype=own, device=device)
    inputs = [*others[:variable], y, *others[variable:]]
    size = domain.shape.numel()
    if size == 0:
        raise ValueError(f"the domain has shape {tuple(domain.shape)}: there is nothing to minimise over")
    lo, hi = (
        end.detach().to(device).expand(batch, *domain.shape).reshape(batch, size) for end in (domain.lo, domain.hi)
    )
    return Asked(module, inputs, variable, domain, lo, hi, begun(start, batch, domain, device), dtype)


def is_number(value: object, kind: type | tuple[type, ...] = (int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def check_given(index: int, tensor: Tensor, first: Tensor) -> None:
    if not isinstance(tensor, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"given[{index}] must be a tensor, not {type(tensor).__name__}: use torch.as_tensor")
    if tensor.ndim == 0 or tensor.shape[0] == 0:
        raise ValueError(f"given[{index}] needs a batch dimension of at least 1; its shape is {tuple(tensor.shape)}")
    if tensor.shape[0] != first.shape[0]:
        raise ValueError(
            f"given[0] has {first.shape[0]} rows and given[{index}] has {tensor.shape[0]}: the batch comes first"
        )
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        row = int((~tensor.isfinite()).flatten(1).any(1).nonzero()[0]) if tensor.ndim > 1 else 0
        raise ValueError(f"given[{index}] holds NaN or infinity, first in row {row}")


def batch_of(domain: Box, others: Sequence[Tensor]) -> int:
    """B, from `given` and the domain."""
    rows = others[0].shape[0] if others else domain.batch or 1
    if domain.batch not in (None, 1, rows):
        raise ValueError(f"the domain is for {domain.batch} samples and given for {rows}")
    return rows


def begun(start: Tensor | None, batch: int, domain: Box, device: torch.device) -> Tensor | None:
    if start is None:
        return None
    if not isinstance(start, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"start must be a tensor, not {type(start).__name__}: use torch.as_tensor")
    shape = tuple(domain.shape)
    if tuple(start.shape) not in (shape, (batch, *shape)):
        raise ValueError(f"start has shape {tuple(start.shape)}; it must be {shape} or {(batch, *shape)}")
    if not bool(start.isfinite().all()):
        raise ValueError("start holds NaN or infinity")
    return start.detach().to(device, torch.float64).expand(batch, *shape).reshape(batch, -1)
