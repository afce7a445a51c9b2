"""The arguments of `minimise`, checked."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.arrays import as_tensor, is_real, is_whole, listed_inputs, refuse_transformed
from convexnet.choices import DERIVATIVES, SOLVERS, DerivativeName, SolverName
from convexnet.curvature.arguments import unwrap
from convexnet.curvature.tracing.traceable_models import check_example
from convexnet.domains import Box, Domain, Region
from convexnet.errors import NotTraceable, meant
from convexnet.form.input_types import output_of, with_floats
from convexnet.solve.at_most import AtMost, Constraint, constraint_of
from convexnet.solve.compiled import Readings
from convexnet.solve.solution import Solution, Trail
from convexnet.solve.solvers.loop import Budget, Progress, Watch


@dataclass
class Arguments:
    """The arguments of `minimise`, checked."""

    module: nn.Module
    inputs: list[Tensor]  # B rows each; the variable's own are zero
    variable: int
    domain: Domain
    region: Region  # the domain, as solvers see it
    box: Box  # around it
    lo: Tensor  # (B, n), float64
    hi: Tensor
    start: Tensor | None
    dtype: torch.dtype
    solver: SolverName
    derivative: DerivativeName
    atol: Tensor  # (B,), float64
    budget: Budget
    subject_to: tuple[Constraint, ...] = ()
    owner: nn.Module | None = None  # with whom what is read of the module is kept; itself, where it lasts
    kind: Hashable = None  # what tells the module from others of that owner
    trail: Trail | None = None  # of an earlier search
    readings: Readings | None = None  # to use instead of looking whether the module has changed

    @property
    def batch(self) -> int:
        return self.lo.shape[0]


def validate_arguments(
    f: nn.Module,
    domain: Domain,
    given: Any,
    start: Any,
    wrt: int,
    *,
    tol: float,
    atol: Any,
    solver: SolverName,
    max_steps: int | None,
    time_limit: float | None,
    derivative: DerivativeName,
    callback: Callable[[Progress], object] | None,
    verbose: bool,
    subject_to: Sequence[AtMost] = (),
) -> Arguments:
    """The arguments of `minimise`, or an error that names the wrong one."""
    module = unwrap(f)
    if not isinstance(domain, Domain):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"the domain must be a convexnet domain, as Box(-1, 1, shape=(3,)), not {type(domain).__name__}"
        )
    region = domain.region()
    box = box_around(domain, region)
    if not (is_real(tol) and 0 < float(tol) < math.inf):
        raise ValueError(f"tol is a relative gap and must be a positive number, not {tol!r}")
    check_choice("solver", solver, SOLVERS)
    check_choice("derivative", derivative, DERIVATIVES)
    if max_steps is not None and not (is_whole(max_steps) and int(max_steps) >= 1):
        raise ValueError(f"max_steps must be an integer of at least 1, not {max_steps!r}")
    if time_limit is not None and not (is_real(time_limit) and float(time_limit) >= 0):
        raise ValueError(f"time_limit is in seconds and must not be negative, not {time_limit!r}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of a Progress, not {callback!r}")
    if not is_whole(wrt):
        raise TypeError(f"wrt is the number of an input of f, not {wrt!r}")
    held = [*module.parameters(), *module.buffers()]
    for tensor in held:
        refuse_transformed(tensor, "a parameter of f")
    for name, end in (("lo", box.lo), ("hi", box.hi)):
        refuse_transformed(end, f"{name} of the domain")
    home = next((t for t in held if t.is_floating_point()), None)
    listed = listed_inputs(given)
    others = [as_tensor(item, f"given[{i}]") for i, item in enumerate(listed)]
    for i, tensor in enumerate(others):
        check_given(i, tensor, others[0])
    others = [tensor.clone() if tensor.is_inference() else tensor for tensor in others]
    if home is not None:  # only a tensor comes from a device
        others = [t if isinstance(item, Tensor) else t.to(home.device) for t, item in zip(others, listed, strict=True)]
    wrt = int(wrt)
    if not -len(others) - 1 <= wrt <= len(others):
        raise ValueError(f"wrt={wrt} is not one of the {len(others) + 1} inputs that given and y make up")
    variable = wrt % (len(others) + 1)
    batch = batch_of(domain, others)
    like = next((t for t in others if t.is_floating_point()), home)
    dtype = torch.get_default_dtype() if like is None else like.dtype
    own = dtype if home is None else home.dtype
    device = torch.device("cpu") if like is None else like.device
    size = domain.shape.numel()
    if size == 0:
        raise ValueError(f"the domain has shape {tuple(domain.shape)}: there is nothing to minimise over")
    y = torch.zeros(batch, *domain.shape, dtype=own, device=device)
    inputs = with_floats(module, [*others[:variable], y, *others[variable:]], own)
    lo, hi = (end.detach().to(device).expand(batch, *domain.shape).reshape(batch, size) for end in (box.lo, box.hi))
    most = torch.finfo(dtype).max
    beyond = (lo > most) | (hi < -most)
    if bool(beyond.any()):
        row, place = (int(i) for i in beyond.nonzero()[0])
        kind = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"the bounds of coordinate {place} of sample {row}, {float(lo[row, place]):.3g} to "
            f"{float(hi[row, place]):.3g}, hold no number of {kind}, which x is returned in: give float64 inputs or "
            "weights, or other units"
        )
    begin = starting_points(start, batch, domain, device)
    steps = None if max_steps is None else int(max_steps)
    deadline = math.inf if time_limit is None else monotonic() + float(time_limit)
    budget = Budget(float(tol), steps, deadline, Watch(callback, verbose))
    allowed = absolute_gaps(atol, lo)
    further = tuple(constraint_of(item, i, others, y) for i, item in enumerate(subject_to))
    return Arguments(
        module,
        inputs,
        variable,
        domain,
        region,
        box,
        lo,
        hi,
        begin,
        dtype,
        solver,
        derivative,
        allowed,
        budget,
        further,
        trail=start.trail if isinstance(start, Solution) else None,
    )


def box_around(domain: Domain, region: Region) -> Box:
    """The box of a domain's region, in the shape of its samples; gradients flow to what it was made of."""
    if isinstance(domain, Box) and region.is_box:
        return domain
    lead = (
        ()
        if region.lo.ndim == 1 and region.hi.ndim == 1
        else (max(len(e) for e in (region.lo, region.hi) if e.ndim == 2),)
    )
    lo, hi = (end.expand(*lead, end.shape[-1]).reshape((*lead, *domain.shape)) for end in (region.lo, region.hi))
    return Box(lo, hi, domain.shape, lead[0] if lead else None)


def absolute_gaps(atol: Any, lo: Tensor) -> Tensor:
    """`atol` for each sample, (B,), in the type of the bounds lo (B, n).

    Raises:
        ValueError: it is negative or NaN, or of another shape.
    """
    gaps = as_tensor(atol, "atol").detach().to(lo)
    if gaps.ndim > 1 or (gaps.ndim == 1 and len(gaps) not in (1, len(lo))) or not bool((gaps >= 0).all()):
        raise ValueError(f"atol is a gap in the units of f, a number >= 0 or one for each sample, not {atol!r}")
    return gaps.expand(len(lo))


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Refuse a word that is none of the known ones."""
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}{meant(value, known)}; it is one of {', '.join(known)}")


def check_given(index: int, tensor: Tensor, first: Tensor) -> None:
    check_example(tensor, f"given[{index}]")
    if tensor.ndim == 0 or tensor.shape[0] == 0:
        raise ValueError(f"given[{index}] needs a batch dimension of at least 1; its shape is {tuple(tensor.shape)}")
    if tensor.shape[0] != first.shape[0]:
        raise ValueError(
            f"given[0] has {first.shape[0]} rows and given[{index}] has {tensor.shape[0]}: the batch comes first"
        )
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        row = int((~tensor.isfinite()).flatten(1).any(1).nonzero()[0]) if tensor.ndim > 1 else 0
        raise ValueError(f"given[{index}] holds NaN or infinity, first in row {row}")


# --- what to say when tracing fails ----------------------------------------------------------------------------------


def tracing_error(asked: Arguments, error: NotTraceable) -> Exception:
    """The error to raise where f could not be traced: one that names the wrong argument, if there is one."""
    inputs = asked.inputs
    try:
        inspect.signature(asked.module.forward).bind(*inputs)
    except TypeError as problem:
        count = f"{len(inputs)} input{'s' if len(inputs) > 1 else ''}"
        return NotTraceable(
            f"{error}\n  with y, `given` makes {count} ({problem}): give every input "
            "of the forward but y, in order, as given=(...)"
        )
    return ValueError(wrong) if (wrong := explain_wrong_batch(asked, fails=True)) else error


def explain_wrong_batch(asked: Arguments, fails: bool = False) -> str:
    """A sentence where f runs with the batch understood in another way; otherwise nothing. Where f `fails`, it does not
    run as the batch was meant."""
    inputs, variable, shape = asked.inputs, asked.variable, asked.box.shape
    flat = [i for i, tensor in enumerate(inputs) if tensor.ndim == 1 and i != variable]
    if flat:
        own = inputs[variable].dtype
        rows = with_floats(asked.module, [t[None] if i in flat else t[:1] for i, t in enumerate(inputs)], own)
        if output_of(asked.module, rows, own) is not None:
            place = flat[0] - (flat[0] > variable)
            name = "given" if len(inputs) == 2 else f"given[{place}]"
            size = len(inputs[flat[0]])
            return (
                f"{name} has shape ({size},): its first dimension is the batch, so that it would be {size} samples of "
                f"one number each. f takes (B, {size}): one sample of {size} numbers is {name}[None], of shape "
                f"(1, {size})"
            )
    runs = fails and output_of(asked.module, inputs, inputs[variable].dtype) is not None
    if not runs and asked.box.batch is None and len(shape) > 0 and (asked.batch in (1, shape[0])):
        others = [t.expand(shape[0], *t.shape[1:]) for t in inputs]
        y = inputs[variable].new_zeros(shape)
        out = output_of(asked.module, [*others[:variable], y, *others[variable + 1 :]], y.dtype)
        if isinstance(out, Tensor) and tuple(out.shape) in ((2,), (2, 1)):
            return (
                f"the domain has shape {tuple(shape)}, which is taken for that of one sample of y; for bounds of each "
                f"of {shape[0]} samples' own write Box(lo, hi, batch={shape[0]})"
            )
    return ""


# --- the batch and the starting point --------------------------------------------------------------------------------


def batch_of(domain: Domain, others: Sequence[Tensor]) -> int:
    """B, from `given` and the domain."""
    rows = others[0].shape[0] if others else domain.batch or 1
    if domain.batch not in (None, 1, rows):
        raise ValueError(f"the domain is for {domain.batch} samples and given for {rows}")
    return rows


def starting_points(start: Any, batch: int, domain: Domain, device: torch.device) -> Tensor | None:
    """The starting points, (B, n) in float64."""
    if start is None:
        return None
    points = as_tensor(start.x if isinstance(start, Solution) else start, "start").detach()
    shape = tuple(domain.shape)
    if tuple(points.shape) not in (shape, (1, *shape), (batch, *shape)):
        raise ValueError(f"start has shape {tuple(points.shape)}; it must be {shape} or {(batch, *shape)}")
    if isinstance(start, Solution):  # of a sample that had no point it says nothing
        points = torch.where(points.isfinite(), points, domain.centre.to(points).nan_to_num())
    if not bool(points.isfinite().all()):
        raise ValueError("start holds NaN or infinity")
    return points.to(device, torch.float64).expand(batch, *shape).reshape(batch, -1)
