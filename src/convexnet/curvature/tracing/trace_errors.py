"""Words for a forward that `torch.export` cannot turn into one program: what it does, where, and what to do instead."""

from __future__ import annotations

import linecache
import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from convexnet.curvature.tracing.graph import FRAME, TORCH
from convexnet.curvature.tracing.restored_state import calling, silence_thread
from convexnet.curvature.tracing.traceable_models import unregistered_modules
from convexnet.errors import ConvexNetError, NotTraceable

OURS = str(Path(__file__).parent) + os.sep

NUMBERS = (
    "its forward branches on the values of a tensor there, or turns them into Python numbers (if, float(), .item(), "
    ".tolist(), a format string): write a choice as a maximum or torch.where, take messages out of the forward, and "
    "compute what depends on constants alone in __init__"
)
NUMPY = "its forward calls NumPy there, and a traced program contains operators of torch only: write it in torch"
GENERATOR = "its forward draws random numbers from a generator: draw them in __init__, or take them as an input"
DERIVATIVE = (
    "its forward computes derivatives of its own (torch.autograd.grad, torch.func), which export cannot record: write "
    "the derivative as a formula"
)
HELD = (
    "its forward reads a tensor that export does not see, as one kept from an earlier call: keep tensors as buffers, "
    "and pass the others as inputs"
)
UNSEEN = "its forward runs, but torch.export cannot record it: see the cause above this error"


def explain_trace_error(model: nn.Module, inputs: Sequence[Tensor], error: Exception) -> str:
    """What went wrong while tracing, in our words: the error, its place in the caller's code, and a remedy."""
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
    head = f"{type(model).__name__} could not be traced on inputs of shape {shapes}: {in_short(error)}"
    failure, output, seen = try_forward(model, inputs)
    if failure is not None:
        own = "" if in_short(failure) == in_short(error) else f", with {in_short(failure)}"
        remedy = (
            f"its forward also fails when simply called on two rows of the example{own}: mend that, or give an example "
            "that fits"
        )
        return f"{head}{place_of(failure)}\n  {remedy}"
    place, remedy = place_of(error), remedy_for(model, error, output, seen)
    if seen is not None and remedy in (seen.derivative(), seen.rewrite(model)):
        place = seen.place
    return f"{head}{place}\n  {remedy}"


def remedy_for(model: nn.Module, error: Exception, output: Any, seen: ForwardRecorder | None) -> str:
    """Why a forward that runs cannot be recorded, and what to do."""
    text, kind = str(error), type(error).__name__
    if "data-dependent" in text.lower() or "GuardOnDataDependent" in kind or "torch.cond" in text:
        return NUMBERS
    if "format string" in text:
        return NUMBERS
    if ".numpy()" in text or "__array__" in text:
        return NUMPY
    if "torch._C.Generator" in text:
        return GENERATOR
    if seen is not None and (remedy := seen.derivative() or seen.rewrite(model)):
        return remedy
    foreign = unknown_leaf(output)
    if foreign is not None and ("not a known type" in text or "unsupported" in f"{kind} {text}".lower()):
        return (
            f"it returns an object of class {foreign}, which torch.export does not know: return tensors, tuples, lists "
            "or dictionaries"
        )
    held = next(iter(unregistered_modules(model)), None)
    if held is not None:
        return f"{held[0]} is held in a plain list, dictionary or closure, which eval() does not reach: {REGISTER}"
    if "fake tensor in the exported program" in text or "FakeTensor" in text:
        return HELD
    return UNSEEN


REGISTER = "hold layers in nn.ModuleList or nn.ModuleDict, and tensors in nn.Parameter or register_buffer"


def in_short(error: BaseException) -> str:
    """The type of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def try_forward(model: nn.Module, inputs: Sequence[Tensor]) -> tuple[Exception | None, Any, ForwardRecorder | None]:
    """What the forward does when simply called: how it fails, what it returns, and what it did that export misses."""
    seen = ForwardRecorder()
    try:
        with calling(model), torch.enable_grad(), silence_thread(), seen:
            return None, model(*inputs), seen
    except Exception as failure:
        return failure, None, None


def evaluate_in_float64(model: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """What a float64 copy of a model returns.

    Raises:
        NotTraceable: its forward fails there, with its place.
    """
    try:
        return model(*inputs)
    except ConvexNetError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        held = next(iter(unregistered_modules(model)), None)
        remedy = (
            "its tensors must all follow .double(): make new ones with x.dtype, and cast integers to it"
            if held is None
            else f"{held[0]} is held in a plain list, dictionary or closure, which double() does not reach: {REGISTER}"
        )
        where = f"{in_short(error)}{place_of(error)}"
        raise NotTraceable(
            f"{type(model).__name__} fails in float64, on inputs of shape {shapes}: {where}\n  {remedy}"
        ) from error.with_traceback(None)


def unknown_leaf(output: Any) -> str | None:
    """The class of the first thing in an output that is neither a tensor nor a plain value."""
    for leaf in pytree.tree_leaves(output):
        if leaf is not None and not isinstance(leaf, (Tensor, int, float, str, bool, complex)):
            return type(leaf).__name__
    return None


class ForwardRecorder(TorchFunctionMode):
    """What a forward does beside operators: the tensor it takes `.data` of, and whether it computes derivatives."""

    def __init__(self) -> None:
        super().__init__()
        self.written: Tensor | None = None
        self.differentiates = False
        self.place = ""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        reads = func in (Tensor.data.__get__, Tensor.data.__set__)  # pyright: ignore
        if reads and self.written is None and not self.differentiates:
            self.written, self.place = args[0], innermost_user_frame(traceback.extract_stack())
        elif func in (torch.autograd.grad, torch.autograd.backward, Tensor.backward) and not self.differentiates:
            self.differentiates, self.place = True, innermost_user_frame(traceback.extract_stack())
        return func(*args, **(kwargs or {}))

    def derivative(self) -> str | None:
        return DERIVATIVE if self.differentiates else None

    def rewrite(self, model: nn.Module) -> str | None:
        """Words for a forward that changes its own weights."""
        if self.written is None:
            return None
        owned = [*model.named_parameters(), *model.named_buffers()]
        name = next((name for name, tensor in owned if tensor is self.written), "a tensor")
        return (
            f"its forward reads or changes {name} through .data, which a traced program does not show: bring weights "
            "into their range after the optimiser's step (constrain(model, example).attach(optimizer) does), or "
            "compute the weight in the forward, as F.linear(x, weight.clamp(min=0))"
        )


# --- places ----------------------------------------------------------------------------------------------------------


def place_of(error: BaseException) -> str:
    """The line of the caller's code that an error comes from; where its frames do not say, what its text says."""
    found = innermost_user_frame(traceback.extract_tb(error.__traceback__))
    if found:
        return found
    named = [frame for frame in FRAME.findall(str(error)) if not frame[0].startswith(TORCH)]
    return shown(*named[-1]) if named else ""


def innermost_user_frame(frames: traceback.StackSummary) -> str:
    """The innermost of some frames that is neither torch's nor the calculus's."""
    outside = [f for f in frames if not f.filename.startswith((TORCH, OURS, "<"))]
    return shown(outside[-1].filename, outside[-1].lineno or 0, outside[-1].name) if outside else ""


def shown(file: str, line: int | str, function: str) -> str:
    code = linecache.getline(file, int(line)).strip()
    return f"\n  at {file}:{line} in {function}" + (f": {code[:100]}" if code else "")
