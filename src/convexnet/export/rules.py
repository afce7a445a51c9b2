"""Rules of `operators`: how operators that bend are written with the functions of `bends`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from convexnet.curvature.call import Refusal
from convexnet.form.operators import argument, pool_settings, windows


class Cut(Protocol):
    """(name of a bend, argument) -> result. The last dimension of the argument is the group, where there is one."""

    def __call__(self, bend: str, a: Tensor, setting: float | Tensor = 0.0, group: bool = False) -> Tensor: ...


@dataclass(frozen=True)
class Use:
    """One operator with its arguments, tensors that see the variable and others alike."""

    operator: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]

    @property
    def x(self) -> Tensor:
        """The first argument."""
        return self.args[0]

    def arg(self, place: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name."""
        return argument(self.args, self.kwargs, place, name, default)


Rule = Callable[[Cut, Use], Any]

# --- pointwise -------------------------------------------------------------------------------------------------------


def kink(cut: Cut, a: Tensor, slope: float | Tensor) -> Tensor:
    if bool((torch.as_tensor(slope) > 1).any()):
        raise Refusal("its negative slope is above 1, so that it is not convex", "use a slope of at most 1")
    return cut("kink", a, slope)


def prelu(cut: Cut, use: Use) -> Tensor:
    x, slope = use.args[0], use.args[1]
    return kink(cut, x, slope if slope.ndim == x.ndim or slope.numel() == 1 else slope.view(-1, *[1] * (x.ndim - 2)))


def rrelu(cut: Cut, use: Use) -> Tensor:
    return kink(cut, use.x, (use.arg(1, "lower", 1 / 8) + use.arg(2, "upper", 1 / 3)) / 2)


def clamp(cut: Cut, use: Use) -> Tensor:
    low, high = use.arg(1, "min"), use.arg(2, "max")
    x = use.x if low is None else low + cut("kink", use.x - low)
    return x if high is None else high - cut("kink", high - x)


def threshold(cut: Cut, use: Use) -> Tensor:
    low, value = use.args[1:3]
    if value != low:
        raise Refusal("it jumps at its threshold", "use a ReLU")
    return low + cut("kink", use.x - low)


def elu(cut: Cut, use: Use) -> Tensor:
    alpha, scale, inner = use.arg(1, "alpha", 1.0), use.arg(2, "scale", 1.0), use.arg(3, "input_scale", 1.0)
    if not (0 <= alpha * inner <= 1 and inner > 0 and scale > 0):
        raise Refusal(f"with alpha {alpha:g} its slope drops at zero, so that it is not convex", "use alpha <= 1")
    return scale / inner * cut("elu", inner * use.x, alpha * inner)


def celu(cut: Cut, use: Use) -> Tensor:
    alpha = use.arg(1, "alpha", 1.0)
    if alpha <= 0:
        raise Refusal(f"with alpha {alpha:g} it is not convex", "use a positive alpha")
    return alpha * cut("elu", use.x / alpha, 1.0)


def softplus(cut: Cut, use: Use) -> Tensor:
    beta, threshold = use.arg(1, "beta", 1.0), use.arg(2, "threshold", 20.0)
    if beta <= 0 or threshold < 20:
        raise Refusal("it becomes the identity where it is not yet close to it", "use a threshold of at least 20")
    return cut("softplus", beta * use.x) / beta


def power(cut: Cut, use: Use) -> Tensor:
    base, exponent = use.args[:2]
    exponent = exponent.item() if isinstance(exponent, Tensor) and exponent.numel() == 1 else exponent
    if not isinstance(base, Tensor) or isinstance(exponent, Tensor):
        raise Refusal("powers of a number, and different powers, have no form here", "write exp(log(a) * y)")
    if exponent == 1:
        return use.x
    if exponent not in (2, 4, 8):
        raise Refusal(f"the power {exponent} has no form here", "use 1, 2, 4 or 8")
    x = use.x
    for _ in range(int(math.log2(exponent))):
        x = cut("square", x)
    return x


def cosh(cut: Cut, use: Use) -> Tensor:
    return (cut("exp", use.x) + cut("exp", -use.x)) / 2


def product(cut: Cut, use: Use) -> Tensor:
    """Of a tensor with itself, and of one that sees the variable with one that does not."""
    a, b = use.args[:2]
    return cut("square", a) if a is b else use.operator(a, b)


# --- over dimensions and windows -------------------------------------------------------------------------------------


def grouped(x: Tensor, dims: Sequence[int]) -> Tensor:
    """The given dimensions as one group, last."""
    places = sorted(d % x.ndim for d in dims)
    rest = [d for d in range(x.ndim) if d not in places]
    return x.permute(*rest, *places).flatten(len(rest))


def reduced(cut: Cut, bend: str, x: Tensor, dims: Any, keepdim: bool) -> Tensor:
    dims = [dims] if isinstance(dims, int) else list(dims or range(x.ndim))
    out = cut(bend, grouped(x, dims), group=True)
    for d in sorted(d % x.ndim for d in dims) if keepdim else ():
        out = out.unsqueeze(d)
    return out


def pair(cut: Cut, a: Any, b: Any) -> Tensor:
    """max(a, b); where one of them is a number, of each element."""
    a, b = torch.broadcast_tensors(torch.as_tensor(a), torch.as_tensor(b))
    return cut("largest", torch.stack([a, b], -1), group=True)


def amax(cut: Cut, use: Use) -> Tensor:
    return reduced(cut, "largest", use.x, use.arg(1, "dim"), bool(use.arg(2, "keepdim", False)))


def amin(cut: Cut, use: Use) -> Tensor:
    return -reduced(cut, "largest", -use.x, use.arg(1, "dim"), bool(use.arg(2, "keepdim", False)))


def largest(cut: Cut, use: Use) -> Any:
    """torch.max of two, over one dimension, or of all."""
    other = use.arg(1, "other")
    if isinstance(other, Tensor):
        return pair(cut, use.x, other)
    return (amax(cut, use), None) if use.arg(1, "dim") is not None else amax(cut, use)


def smallest(cut: Cut, use: Use) -> Any:
    other = use.arg(1, "other")
    if isinstance(other, Tensor):
        return -pair(cut, -use.x, -other)
    return (amin(cut, use), None) if use.arg(1, "dim") is not None else amin(cut, use)


def logsumexp(cut: Cut, use: Use) -> Tensor:
    return reduced(cut, "logsumexp", use.x, use.arg(1, "dim"), bool(use.arg(2, "keepdim", False)))


def log_softmax(cut: Cut, use: Use) -> Tensor:
    return use.x - reduced(cut, "logsumexp", use.x, use.arg(1, "dim"), keepdim=True)


def norm(cut: Cut, use: Use) -> Tensor:
    order = use.arg(1, "ord", use.kwargs.get("p"))
    order = 2.0 if order is None else float(order)
    dims, keepdim = use.arg(2, "dim"), bool(use.arg(3, "keepdim", False))
    if order == 2:
        return reduced(cut, "norm", use.x, dims, keepdim)
    size = cut("kink", use.x, -1.0)
    if order == 1:
        dims = [dims] if isinstance(dims, int) else list(dims or range(use.x.ndim))
        return size.sum(dims, keepdim=keepdim)
    if order == math.inf:
        return reduced(cut, "largest", size, dims, keepdim)
    raise Refusal(f"the norm of order {order:g} has no form here", "use order 1, 2 or infinity")


def max_pool(dims: int) -> Rule:
    """Over windows of the last dimensions; there may be no dimension of channels."""

    def rule(cut: Cut, use: Use) -> Tensor:
        kernel, stride, padding, dilation, _ = pool_settings(use.args, use.kwargs, dims)
        out = results(use).shape[-dims:]
        return over_windows(cut, use.x, windows(use.x.shape[-dims:], out, kernel, stride, padding, dilation), out)

    return rule


def adaptive_max_pool(dims: int) -> Rule:
    def rule(cut: Cut, use: Use) -> tuple[Tensor, None]:
        sides, out = use.x.shape[-dims:], results(use).shape[-dims:]
        if any(side % count for side, count in zip(sides, out, strict=True)):
            raise Refusal("its windows have different sizes", "choose an output size that divides the input's")
        kernel = [side // count for side, count in zip(sides, out, strict=True)]
        return over_windows(cut, use.x, windows(sides, out, kernel, kernel, [0] * dims, [1] * dims), out), None

    return rule


def first_of_two(rule: Rule) -> Rule:
    """The second result, the places, is no function to export."""
    return lambda cut, use: (rule(cut, use), None)


def over_windows(cut: Cut, x: Tensor, places: Tensor, out: torch.Size) -> Tensor:
    flat = x.flatten(-len(out))
    entries = flat[..., places.flatten().to(x.device)].unflatten(-1, places.shape)
    return cut("largest", entries, group=True).unflatten(-1, out)


def results(use: Use) -> Tensor:
    """What the operator returns for zeros, for its shape."""
    found = use.operator(torch.zeros(use.x.shape), *use.args[1:], **use.kwargs)
    return found if isinstance(found, Tensor) else found[0]
