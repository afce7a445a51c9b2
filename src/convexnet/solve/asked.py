"""The arguments of `minimise`, checked."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convexnet.curvature.accepted import check_example
from convexnet.curvature.arguments import unwrapped
from convexnet.domains import Box
from convexnet.solve.choose import NAMES
from convexnet.solve.variants import DERIVATIVES


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


def checked(
    f: nn.Module,
    domain: Box,
    given: Tensor | Sequence[Tensor] | None,
    start: Tensor | None,
    wrt: int,
    tol: float,
    solver: str,
    max_steps: int | None,
    time_limit: float | None,
    derivative: str,
) -> Asked:
    """The arguments of `minimise`, or an error that names the wrong one."""
    module = unwrapped(f)
    if not isinstance(domain, Box):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the domain must be a convexnet Box, as Box(-1, 1, shape=(3,)), not {type(domain).__name__}")
    if not (is_number(tol) and 0 < tol < math.inf):
        raise ValueError(f"tol is a relative gap and must be a positive number, not {tol!r}")
    if solver not in NAMES:
        raise ValueError(f"unknown solver {solver!r}; it is one of {', '.join(NAMES)}")
    if derivative not in DERIVATIVES:
        raise ValueError(f"unknown derivative {derivative!r}; it is one of {', '.join(DERIVATIVES)}")
    if max_steps is not None and not (is_number(max_steps, int) and max_steps >= 1):
        raise ValueError(f"max_steps must be a whole number of at least 1, not {max_steps!r}")
    if time_limit is not None and not (is_number(time_limit) and time_limit >= 0):
        raise ValueError(f"time_limit is in seconds and must not be negative, not {time_limit!r}")
    if not is_number(wrt, int):
        raise TypeError(f"wrt is the number of an input of f, not {wrt!r}")
    others = [] if given is None else [given] if isinstance(given, Tensor) else list(given)
    for i, tensor in enumerate(others):
        check_given(i, tensor, others[0])
    others = [tensor.clone() if tensor.is_inference() else tensor for tensor in others]
    if not -len(others) - 1 <= wrt <= len(others):
        raise ValueError(f"wrt={wrt} is none of the {len(others) + 1} inputs that given and y make")
    variable = wrt % (len(others) + 1)
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


def misfit(asked: Asked) -> str:
    """What is wrong with the number of inputs, if anything is."""
    try:
        inspect.signature(asked.module.forward).bind(*asked.inputs)
    except TypeError as error:
        count = len(asked.inputs)
        return (
            f"\n  with y, `given` makes {count} input{'s' if count > 1 else ''} ({error}): give every input of the "
            "forward but y, in order, as given=(...)"
        )
    return ""


def check_given(index: int, tensor: Tensor, first: Tensor) -> None:
    if not isinstance(tensor, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"given[{index}] must be a tensor, not {type(tensor).__name__}: use torch.as_tensor")
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
