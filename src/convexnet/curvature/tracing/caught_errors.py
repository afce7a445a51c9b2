"""Errors of being traced without values which a forward catches, so that it goes on as it does only there."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.overrides import TorchFunctionMode

from convexnet.curvature.tracing.trace_errors import NUMBERS, innermost_user_frame
from convexnet.errors import NotTraceable

VALUELESS = (
    GuardOnDataDependentSymNode,
    fake_tensor.DataDependentOutputException,
    fake_tensor.DynamicOutputShapeException,
    fake_tensor.UnsupportedFakeTensorException,
)
"""Errors of operators that need values, while a forward is traced without."""

NUMBER = (
    Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.item, Tensor.tolist, Tensor.numpy,
    Tensor.__array__,
)  # fmt: skip


class Caught(TorchFunctionMode):
    """Notes the place where a forward first asked for values while it was traced, and got an error."""

    def __init__(self) -> None:
        super().__init__()
        self.place = ""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except Exception as error:
            if not self.place and (isinstance(error, VALUELESS) or func in NUMBER):
                self.place = innermost_user_frame(traceback.extract_stack())
            raise

    def check(self, model: nn.Module) -> None:
        """Refuse a forward that went on after such an error.

        Raises:
            NotTraceable: with the place.
        """
        if self.place:
            raise NotTraceable(
                f"{type(model).__name__} catches an error that comes from being traced, and goes on without the values "
                f"that it asked for{self.place}\n  {NUMBERS}"
            )
