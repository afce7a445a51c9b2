"""What the exporters take: a model, the variable's shape, and one value of each other input."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from convexnet.arrays import as_tensor, is_whole
from convexnet.curvature.arguments import two_rows
from convexnet.curvature.call import Refusal
from convexnet.curvature.certificate import Certificate, certify_program
from convexnet.curvature.fields import BATCH
from convexnet.curvature.tracing.restored_state import calling
from convexnet.curvature.tracing.trace import Program, for_two_rows, trace
from convexnet.curvature.tracing.trace_errors import in_short
from convexnet.domains import Box
from convexnet.errors import NotTraceable
from convexnet.form.input_types import with_floats
from convexnet.form.program import Gate, OpenedProgram, values_of
from convexnet.form.refusals import raise_refusals
from convexnet.form.rows import SIMPLER
from convexnet.form.smooth import NO_CONE
from convexnet.form.sparse import Sample, SparseForm, sparse_form
from convexnet.memory import EXAMPLE, recall


def one_value(value: Any, place: int) -> Tensor:
    """One value of an input: a tensor, an array or a list of numbers, checked.

    Raises:
        TypeError: it does not hold real numbers.
        ValueError: it holds NaN or infinite entries.
    """
    tensor = as_tensor(value, f"given[{place}]").detach()
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise ValueError(f"given[{place}] holds NaN or infinite entries")
    return tensor


def variable_of(wrt: Any, others: int) -> int:
    """The number of the input that varies, for this many other inputs.

    Example:
        >>> variable_of(-1, 2), variable_of(0, 2)
        (2, 0)
    """
    if not is_whole(wrt):
        raise TypeError(f"wrt is the number of an input of the model, not {wrt!r}")
    if not -others - 1 <= int(wrt) <= others:
        raise ValueError(f"wrt={wrt} is not one of the {others + 1} inputs that given and the variable make up")
    return int(wrt) % (others + 1)


def sample_inputs(model: nn.Module, given: Sequence[Tensor], shape: Sequence[int], variable: int) -> tuple[Tensor, ...]:
    """The inputs of one sample, (1, ...) each, the variable as zeros.

    `given` may come with a batch dimension of 1 or without one, and a flat variable may stand for one of the shape that
    the model remembers: what makes the model return one number is right, else what it accepts at all.

    Raises:
        ValueError: `given` is a batch of several samples.
    """
    held = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0, dtype=torch.float64))
    given = [t.to(held.device, held.dtype if t.is_floating_point() else t.dtype) for t in given]
    shapes = [tuple(shape)] if len(shape) else [(1,), ()]  # a scalar variable is a vector of one, if either
    recorded = recall(model, EXAMPLE)
    if recorded is not None and len(recorded) == len(given) + 1:
        own = torch.Size(recorded[variable][0])
        shapes += [tuple(own)] if own.numel() == torch.Size(shape).numel() else []

    def inputs_of(rows: Sequence[Tensor], s: tuple[int, ...]) -> tuple[Tensor, ...]:
        y = torch.zeros(1, *s, dtype=held.dtype, device=held.device)
        return tuple(with_floats(model, [*rows[:variable], y, *rows[variable:]], held.dtype))

    batches = [[t[None] for t in given]]
    if given and all(t.ndim > 0 and t.shape[0] == 1 for t in given):
        batches.append(given)
    tried = [inputs_of(rows, s) for rows in batches for s in shapes]
    best = min(tried, key=lambda inputs: count_outputs(model, inputs))
    many = [i for i, t in enumerate(given) if t.ndim > 0 and t.shape[0] > 1]
    for batched in (many, [i for i in many if given[i].ndim > 1]):
        first = [t[:1] if i in batched else t[None] for i, t in enumerate(given)]
        alone = min(count_outputs(model, inputs_of(first, s)) for s in shapes)
        if batched and alone < count_outputs(model, best):
            own = given[batched[0]].shape
            name = "given" if len(given) == 1 else f"given[{batched[0]}]"
            raise ValueError(
                f"{name} has shape {tuple(own)}, a batch of {own[0]} samples, and an export is for one sample at a "
                f"time: give one of them, as {name}[0], and export each on its own (cx.minimise takes whole batches)"
            )
    return best


def count_outputs(model: nn.Module, inputs: Sequence[Tensor]) -> float:
    """How many numbers a sample's output has; infinitely many where the model fails."""
    try:
        with calling(model):
            out = model(*map(two_rows, inputs))
    except Exception:  # whatever a forward raises: tracing says it in words
        return np.inf
    right = isinstance(out, Tensor) and out.ndim > 0 and out.shape[0] == BATCH
    return out[0].numel() if right else np.inf


def read_form(
    model: nn.Module,
    inputs: Sequence[Tensor],
    parameters: Collection[int],
    linear: bool = False,
    variable: int = -1,
    domain: Box | None = None,
) -> tuple[SparseForm, Sample]:
    """Certify a model in one of its inputs, the last if none is named, and read its form.

    Args:
        model: the model.
        inputs: one sample of each input, (1, ...).
        parameters: the numbers of inputs whose value changes later.
        linear: let every atom be piecewise linear.
        variable: the number of the input that varies.
        domain: bounds of that input for one sample, if it has any: a model that is convex there is enough.

    Raises:
        NotCertified: it is not proved convex, or it holds an operator that cannot be exported.
        NotTraceable: `torch.export` cannot record the forward.
        ValueError: it does not return one tensor (B, ...).
    """
    variable %= len(inputs)
    try:
        inspect.signature(model.forward).bind(*inputs)
    except TypeError as error:
        count = f"{len(inputs)} input{'s' if len(inputs) > 1 else ''}"
        raise NotTraceable(
            f"{type(model).__name__} cannot be called: with the variable, `given` makes {count} ({error}): give every "
            "input of the forward but the variable, in order, as given=(...)"
        ) from None
    try:
        program = trace(model, inputs, any_batch=True)
    except NotTraceable:  # its forward reads the size of its batch, or cannot be traced at all
        program = None
    fixed = None if program is None else for_two_rows(model, program)
    if (
        fixed is None or not certify_for_export(fixed, variable, domain).convex
    ):  # what is refused is refused as by `certify`
        fixed = trace(model, inputs)
        check_output(fixed)
        certify_for_export(fixed, variable, domain).require()
    check_output(fixed)
    rows = None
    if program is None:  # it runs at the size it was traced with
        program, rows = fixed, BATCH
    try:
        opened = OpenedProgram(program, variable, parameters, paired=True).valued(values_of(program))
        sample = Sample(opened, inputs, rows)
        atoms = [(cut.node, cut.atom) for cut in sample.cuts if not isinstance(cut.atom, Gate)]
        bent = [node for node, atom in atoms if linear and not (atom.piecewise_linear or atom.polyhedral)]
        raise_refusals(program.model, [(node, Refusal(NOT_LINEAR, LINEAR_REMEDY)) for node in bent])
        formless = [node for node, atom in atoms if atom.cones == NO_CONE]
        raise_refusals(
            program.model, [(node, Refusal("no cone that solvers know describes it", SIMPLER)) for node in formless]
        )
        return sparse_form(sample), sample
    except RuntimeError as error:
        raise NotTraceable(
            f"{program.model} cannot be evaluated in float64, one sample at a time: {in_short(error)}\n"
            "  write its forward for batches of any size, and in the type of its input (x.dtype)"
        ) from error.with_traceback(None)


def certify_for_export(program: Program, variable: int, domain: Box | None) -> Certificate:
    """The certificate of a program everywhere, else on the domain, else inside of it.

    The last is for what has a pole at an end, as -log(y) for y >= 0. An exporter writes down atoms, which are convex up
    to the ends of their domains, and `check_tight` proves that what they make is convex: so nothing is lost there.
    """
    certificate = certify_program(program, variable)
    if certificate.convex or domain is None:
        return certificate
    certificate = certify_program(program, variable, domain)
    if not certificate.convex:
        lo, hi = domain.lo.double(), domain.hi.double()
        apart = lo < hi
        low, high = (torch.where(apart & end.isfinite(), 8 * EPS * end.abs() + TINY, 0.0) for end in (lo, hi))
        inside = Box(lo + low, hi - high)
        opened = certify_program(program, variable, inside)
        certificate = opened if opened.convex else certificate
    return certificate


EPS, TINY = 2.0**-53, 1e-300
NOT_LINEAR = "it is not piecewise linear, and a linear program can express nothing else"
LINEAR_REMEDY = "use ReLU, LeakyReLU, absolute values and maxima; or to_cvxpy, or minimise"


def check_output(program: Program) -> None:
    """One real tensor with the batch first."""
    leaf = program.outputs[0][1] if len(program.outputs) == 1 else None
    value = leaf.meta.get("val") if isinstance(leaf, fx.Node) else None
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(
            f"{program.model} returns {len(program.outputs)} outputs, or one that is not a floating-point tensor: an "
            "export is of one real tensor; wrap the model in a module that returns it"
        )
