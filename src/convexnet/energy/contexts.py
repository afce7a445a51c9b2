"""An energy in two steps: what depends on x alone is computed once, and then f for one y after another.

A descent, or a search, evaluates f(x, y) many times for one x. A network that has the methods `context` and
`with_context` (a PICNN, a `Joint` of a FICNN) computes what does not depend on y once; any other is called as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from convexnet.curvature.arguments import in_float64
from convexnet.solve.at_most import one_number


@runtime_checkable
class InTwoSteps(Protocol):
    """A network f(x, y) that is computed in two steps: f(x, y) = with_context(context(x), y)."""

    def context(self, *given: Tensor) -> list[Tensor]:
        """What depends on x alone: tensors of B rows."""
        ...

    def with_context(self, context: Sequence[Tensor], y: Tensor) -> Tensor:
        """f at y, (B,) or (B, 1)."""
        ...


def in_two_steps(f: nn.Module) -> bool:
    """Whether the two steps of a network are those of its forward: no subclass and no hook has another one.

    Example:
        >>> import convexnet as cx
        >>> class Scaled(cx.nn.PICNN):
        ...     def forward(self, x, y):
        ...         return 2 * super().forward(x, y)
        >>> in_two_steps(cx.nn.PICNN(1, 1)), in_two_steps(Scaled(1, 1)), in_two_steps(nn.Bilinear(1, 1, 1))
        (True, False, False)
    """
    if not isinstance(f, InTwoSteps):
        return False
    names = ("forward", "with_context")
    homes = [next((kind for kind in type(f).__mro__ if name in vars(kind)), None) for name in names]
    hooks: list[dict[int, Any]] = [vars(f)["_forward_hooks"], vars(f)["_forward_pre_hooks"]]
    return homes[0] is homes[1] is not None and not any(hooks)


def context_of(f: nn.Module, given: Sequence[Tensor]) -> list[Tensor]:
    """Return what depends on x alone; of a network that is called as it is, x itself.

    Example:
        >>> import convexnet as cx
        >>> f = cx.nn.PICNN(2, 3, hidden=(4,))
        >>> x, y = torch.randn(5, 2), torch.rand(5, 3)
        >>> torch.allclose(value_with(f, context_of(f, [x]), y), f(x, y)[:, 0].double(), atol=1e-6)
        True
    """
    two = cast("InTwoSteps", f)
    return two.context(*given) if given and in_two_steps(f) else list(given)


def value_with(f: nn.Module, context: Sequence[Tensor], y: Tensor) -> Tensor:
    """Return f(x, y) of the context of x, (B,)."""
    if context and in_two_steps(f):
        return one_number(cast("InTwoSteps", f).with_context(context, y))
    return one_number(f(*context, y))


class Steps(nn.Module):
    """The two steps as a forward, so that `functional_call` can exchange the parameters."""

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f

    def forward(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """step(f, *arguments)."""
        return step(self.f, *arguments)


class Doubled:
    """An energy with its parameters and buffers in float64, as they are now.

    Args:
        f: any energy; one that does not run in float64 raises where it is evaluated.

    Example:
        >>> import convexnet as cx
        >>> doubled = Doubled(cx.nn.PICNN(2, 3, hidden=(4,)))
        >>> doubled.value(doubled.context([torch.zeros(1, 2)]), torch.zeros(1, 3)).dtype
        torch.float64
    """

    def __init__(self, f: nn.Module) -> None:
        self.steps = Steps(f)
        self.state = {
            name: in_float64(tensor.detach())
            for name, tensor in [*self.steps.named_parameters(), *self.steps.named_buffers()]
        }

    def context(self, given: Sequence[Tensor]) -> list[Tensor]:
        """What depends on x alone."""
        return functional_call(self.steps, self.state, (context_of, [in_float64(part) for part in given]))

    def value(self, context: Sequence[Tensor], y: Tensor) -> Tensor:
        """f(x, y), (B,)."""
        return functional_call(self.steps, self.state, (value_with, context, y))

    def value_and_slope(self, context: Sequence[Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
        """f(x, y), (B,), and a subgradient in y, (B, n)."""
        point = y.detach().requires_grad_()
        with torch.enable_grad():
            value = self.value(context, point)
            (slope,) = torch.autograd.grad(value.sum(), point, allow_unused=True, materialize_grads=True)
        return value.detach(), slope
