"""Functions that are not opened: a traced program as a whole, differentiated as it is; and a module's own values."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.curvature.arguments import copy_module, in_float64
from convexnet.curvature.tracing.restored_state import Generators, in_eval_mode, tensors_of
from convexnet.curvature.tracing.traceable_models import unregistered_attributes
from convexnet.form.execution import Applied
from convexnet.form.program import OpenedProgram
from convexnet.solve.rounding_errors import Tracked, analysis_of

INSIDE = 1e-9
"""How far towards the centre, as a share of the way, a function that is convex on a box only is differentiated."""


class WholeProgram:
    """f(y) for each sample of a batch: a program, executed as it is.

    What automatic differentiation returns at a kink is a subgradient, because the program is composed as the calculus
    asks. It is the traced program that is differentiated, not the module: a module may cut its gradients off, or have
    its own idea of them. A function that is convex on a box only may have a concave kink on its border,
    where the slope of the other side may be chosen. So it is differentiated a little inside, and the tangent there is
    what `subgradient` describes.

    Args:
        opened: the program.
        inputs: a batch of each.
        pairs: the program is for a batch of two, and takes more of them two by two.
        centre: of the box (B, n), where f is convex on a box only.

    Example:
        >>> from convexnet.curvature.tracing.trace import trace
        >>> y = torch.zeros(2, 1)
        >>> f = WholeProgram(OpenedProgram(trace(nn.ReLU(), y, any_batch=True), 0), [y])
        >>> [part.tolist() for part in f.subgradient(torch.tensor([[1.0], [-1.0]]).double())]
        [[1.0, 0.0], [[1.0], [0.0]]]
    """

    def __init__(
        self, opened: OpenedProgram, inputs: Sequence[Tensor], pairs: bool = False, centre: Tensor | None = None
    ) -> None:
        self.opened = opened
        self.inputs = [in_float64(tensor.detach()) for tensor in inputs]
        self.shape = inputs[opened.variable].shape[1:]
        self.pairs = pairs
        self.centre = centre

    @property
    def batch(self) -> int:
        """B."""
        return self.inputs[0].shape[0]

    @property
    def size(self) -> int:
        """n."""
        return self.shape.numel()

    def run(self, y: Tensor, error: Tensor | None = None, apply: Applied | None = None) -> Any:
        """The program at y (B, n), with errors (B, n) if they are given; (B,)."""
        parts: list[Any] = []
        step = 2 if self.pairs else max(1, len(y))
        for first in range(0, len(y), step):
            rows = torch.arange(first, first + step, device=y.device).clamp(max=len(y) - 1)
            count = min(step, len(y) - first)
            inputs: list[Any] = [
                tensor if step >= len(y) and not self.pairs else tensor[rows] for tensor in self.inputs
            ]
            shape = (len(rows), *self.shape)
            here: Any = y[rows].reshape(shape)
            if error is not None:
                here = Tracked(here, error[rows].reshape(shape))
            inputs[self.opened.variable] = here
            out = self.opened.run(inputs, None, apply=apply)
            if isinstance(out, Tracked):
                parts.append(
                    Tracked(out.value.expand(len(rows))[:count], out.error.expand(len(rows))[:count], out.unit)
                )
            else:
                parts.append(out.to(y).expand(len(rows))[:count])
        if isinstance(parts[0], Tracked):
            return Tracked(
                torch.cat([p.value for p in parts]), torch.cat([p.error for p in parts]), max(p.unit for p in parts)
            )
        return torch.cat(parts)

    def value(self, y: Tensor) -> Tensor:
        """f(y), (B,)."""
        with torch.no_grad():
            return self.run(y)

    def symmetric(self, y: Tensor) -> bool:
        """Whether a sample has the same value in both places of a pair, near y (B, n), as exactly as rounding tells."""
        first = torch.zeros(1, dtype=torch.int64, device=y.device)
        with torch.no_grad():
            for shift in (0.0, 0.37, -0.73):
                here = self.rows(torch.cat([first, first + self.batch - 1]))
                pair = y[[0, -1]] + shift * torch.linspace(0.2, 1.0, y.shape[1], device=y.device).to(y)
                turned = here.rows(torch.tensor([1, 0], device=y.device))
                there, back = here.judged(pair), turned.judged(pair.flip(0)).moved(lambda t: t.flip(0))
                # An offset of f must not hide a difference: what is allowed is the error of these two numbers alone.
                room = torch.fmin(there.error + back.error, 1e-9 * there.value.abs() + 1e-300)
                apart = (there.value - back.value).abs() > room
                if bool((apart | (there.value.isnan() != back.value.isnan())).any()):
                    return False
        return True

    def judged(self, y: Tensor) -> Tracked:
        """f(y) with a bound of its rounding errors, (B,)."""
        found = self.run(y, torch.zeros_like(y), analysis_of(self.opened))
        return found if isinstance(found, Tracked) else Tracked(found, 2.0**-52 * found.abs())

    def touched(self, y: Tensor) -> Tensor:
        """Where it is differentiated for y."""
        return y.detach() if self.centre is None else torch.lerp(y.detach(), self.centre, INSIDE)

    def subgradient(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The value (B,) at y and the slope (B, n) of an affine function below f that touches it at y, or beside it."""
        with torch.enable_grad():
            point = self.touched(y).clone().requires_grad_()
            value = self.run(point)
            if not value.requires_grad:
                return value, torch.zeros_like(point)
            (g,) = torch.autograd.grad(value, point, torch.ones_like(value), allow_unused=True, materialize_grads=True)
        return value.detach() + (g * (y - point.detach())).sum(1), g

    def rows(self, index: Tensor) -> WholeProgram:
        """The functions of some samples."""
        centre = None if self.centre is None else self.centre[index]
        return WholeProgram(self.opened, [tensor[index] for tensor in self.inputs], self.pairs, centre)


class PrivateCopy:
    """A copy of a module in float64 and in eval mode, for its values; several threads may ask for them.

    What a forward assigns is put back. Where it writes into tensors, the copy is `worn`: not for another call.

    Args:
        module: copied, and left as it is.
    """

    def __init__(self, module: nn.Module) -> None:
        self.lock = threading.Lock()
        self.worn = False
        self.pure = False
        try:
            self.module: nn.Module | None = copy_module(module).double().requires_grad_(False)
            if any(isinstance(held, nn.Module) for _, held in unregistered_attributes(self.module)):
                self.module = None  # a copy would run modules of the caller's
            self.pure = self.module is not None and all(map(is_pure, self.module.modules()))
            if self.module is not None and self.pure:
                self.module.eval()
        except Exception:  # whatever a module's own ways of being copied and converted raise
            self.module = None

    def value(self, inputs: Sequence[Tensor]) -> Tensor | None:
        """The output, in one dimension; None where the module does not run in float64."""
        with self.lock:
            if self.module is None:
                return None
            held = [] if self.pure else [(tensor, version_of(tensor)) for tensor in tensors_of(self.module)]
            draws = None if self.pure else Generators()
            try:
                with torch.no_grad(), nullcontext() if self.pure else in_eval_mode(self.module):
                    return leaf_of(self.module(*inputs)).reshape(len(inputs[0])).double()
            except (RuntimeError, TypeError, ValueError):  # types that do not fit together
                self.module = None
                return None
            finally:
                if draws is not None:
                    draws.restore()
                self.worn = self.worn or any(version_of(tensor) != version for tensor, version in held)


OWN = ("torch.nn.modules.", "convexnet.nn.", "convexnet.solve.")
"""Where modules are from whose forward, in eval mode, changes nothing of theirs and draws nothing."""

DRAWING = (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
"""But for these, which draw in eval mode too."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def is_pure(module: nn.Module) -> bool:
    """Whether a module's forward is known to assign nothing: its class is torch's or ours, and nothing is put into it
    that could run something else."""
    held = vars(module)
    return (
        type(module).__module__.startswith(OWN)
        and not isinstance(module, DRAWING)
        and "forward" not in held
        and not any(held.get(name) for name in HOOKS)
        and all(name[0] == "_" or is_inert(value) for name, value in held.items())
    )


def is_inert(value: object) -> bool:
    """Whether a setting of a module cannot run anything, nor be changed: a number, a text, or a record of such."""
    if isinstance(value, tuple):
        return all(map(is_inert, value))
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__module__.startswith(OWN) and all(map(is_inert, vars(value).values()))
    return isinstance(value, (bool, int, float, str, type(None)))


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written into; a tensor of inference mode does not count that, and makes a copy worn."""
    return -time.perf_counter_ns() if tensor.is_inference() else tensor._version


class OwnForward:
    """The values of a module: its own forward in eval mode, with parameters, buffers and inputs in float64.

    What the forward itself casts stays cast. Where a module does not run in float64 (a tensor that it holds in a list
    stays in float32, and meets others in a product), or cannot be copied whole (its forward is a function that holds
    modules), its traced program is run instead.

    Args:
        module: the copy that is evaluated.
        inputs: a batch of each.
        variable: the number of the input that y stands for.
        program: what to run where the module does not.
    """

    def __init__(self, module: PrivateCopy, inputs: Sequence[Tensor], variable: int, program: WholeProgram) -> None:
        self.inputs = [in_float64(tensor.detach()) for tensor in inputs]
        self.variable = variable
        self.program = program
        self.module = module

    def rows(self, index: Tensor) -> OwnForward:
        """The values of some samples."""
        made = copy.copy(self)
        made.inputs = [tensor[index] for tensor in self.inputs]
        made.program = self.program.rows(index)
        return made

    def value(self, y: Tensor) -> Tensor:
        """f(y), (B,), at y (B, n)."""
        inputs = list(self.inputs)
        inputs[self.variable] = y.reshape(inputs[self.variable].shape)
        found = self.module.value(inputs)
        return self.program.value(y) if found is None else found


def leaf_of(output: Any) -> Tensor:
    """The one tensor of an output."""
    while not isinstance(output, Tensor):
        parts = list(output.values()) if isinstance(output, dict) else list(output)
        output = next(part for part in parts if part is not None)
    return output
