"""What the exporters take: a model, the variable's shape, and one value of each other input."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from convexnet.curvature.arguments import two_rows
from convexnet.curvature.certificate import certify_program
from convexnet.curvature.failures import in_short
from convexnet.curvature.fields import BATCH
from convexnet.curvature.trace import Program, trace
from convexnet.curvature.undisturbed import calling
from convexnet.errors import NotTraceable
from convexnet.export.form import Form, form_of
from convexnet.export.reading import Reading
from convexnet.export.sender import Sender
from convexnet.memory import EXAMPLE, recall


def as_listed(given: Any) -> list[Any]:
    """`given` as a list with one item for each input before the variable."""
    if given is None:
        return []
    return list(given) if isinstance(given, (tuple, list)) else [given]


def as_tensor(value: Any, place: int) -> Tensor:
    """One value of an input: a tensor or an array, checked."""
    try:
        tensor = value.detach() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"given[{place}] is a {type(value).__name__}: give an array or a tensor for each input before the variable"
        ) from error
    if tensor.is_complex():
        raise TypeError(f"given[{place}] is complex, and inputs are real")
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise ValueError(f"given[{place}] holds NaN or infinite entries")
    return tensor


def arranged(model: nn.Module, given: Sequence[Tensor], shape: Sequence[int]) -> tuple[Tensor, ...]:
    """The inputs of one sample, (1, ...) each, the variable (zeros) last.

    `given` may come with a batch dimension of 1 or without one, and a flat variable may stand for one of the shape that
    the model remembers: what makes the model return one number is right, else what it accepts at all.
    """
    held = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0, dtype=torch.float64))
    given = [t.to(held.device, held.dtype if t.is_floating_point() else t.dtype) for t in given]
    shapes = [tuple(shape)]
    recorded = recall(model, EXAMPLE)
    if recorded is not None and torch.Size(recorded[-1][0]).numel() == torch.Size(shape).numel():
        shapes.append(tuple(recorded[-1][0]))
    batches = [[t[None] for t in given]]
    if given and all(t.ndim > 1 and t.shape[0] == 1 for t in given):
        batches.append(given)
    tried = [(*rows, torch.zeros(1, *s, dtype=held.dtype, device=held.device)) for rows in batches for s in shapes]
    return min(tried, key=lambda inputs: numbers(model, inputs))


def numbers(model: nn.Module, inputs: Sequence[Tensor]) -> float:
    """How many numbers a sample's output has; infinitely many where the model fails."""
    try:
        with calling(model):
            out = model(*map(two_rows, inputs))
    except Exception:  # whatever a forward raises: tracing says it in words
        return np.inf
    right = isinstance(out, Tensor) and out.ndim > 0 and out.shape[0] == BATCH
    return out[0].numel() if right else np.inf


def read(
    model: nn.Module, inputs: Sequence[Tensor], parameters: Collection[int], allowed: Collection[str]
) -> tuple[Form, Sender]:
    """Certify a model in its last input, and read its form.

    Raises:
        NotCertified: it is not proved convex, or it holds an operator that cannot be exported.
        NotTraceable: `torch.export` cannot record the forward.
        ValueError: it does not return one tensor (B, ...).
    """
    variable = len(inputs) - 1
    fixed = trace(model, inputs)
    check_output(fixed)
    certify_program(fixed, variable).require()
    rows = None
    try:
        program = trace(model, inputs, any_batch=True)
    except NotTraceable:  # a forward that reads the size of its batch runs at the one it was traced with
        program, rows = fixed, BATCH
    try:
        sender = Sender(Reading(program, variable, parameters, allowed), inputs, rows)
        return form_of(sender), sender
    except RuntimeError as error:
        raise NotTraceable(
            f"{program.model} cannot be evaluated in float64, one sample at a time: {in_short(error)}\n"
            "  write its forward for batches of any size, and in the type of its input (x.dtype)"
        ) from error.with_traceback(None)


def check_output(program: Program) -> None:
    """One real tensor with the batch first."""
    leaf = program.outputs[0][1] if len(program.outputs) == 1 else None
    value = leaf.meta.get("val") if isinstance(leaf, fx.Node) else None
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(
            f"{program.model} returns {len(program.outputs)} outputs, or one that is no floating-point tensor: an "
            "export is of one real tensor; wrap the model in a module that returns it"
        )
