"""A forward that is watched: the units that its nonlinearities consist of, and their slopes.

While a forward runs under `Recorder`, each call of an operator that the table of kinks lists leaves one `Site` or more:
the distance of every element from a kink, still connected to the inputs, and a handle on the derivative of the outputs
with respect to the result. Nothing is exported, so that a forward with branches, or one that the calculus cannot read,
is opened as well. Slopes can be exchanged, which changes derivatives and leaves values: softened or random ones tell
how the derivative of the outputs with respect to one unit depends on the state of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from convexnet.curvature.adversary.kink_table import ELEMENTWISE, OPENINGS, SMOOTH, Applied, Opening, Unit, base


@dataclass(frozen=True)
class Site:
    """The elements of one operator, by row of the batch: distances and signs are (n, m)."""

    distance: Tensor
    sign: Tensor  # 1 convex, -1 concave, 0 not known
    kink: bool  # it has to be reached
    result: GradientEdge | None  # None: the derivative with respect to it says nothing
    batch: int  # the dimension of the result that is the batch

    def adjoint(self, gradient: Tensor | None) -> Tensor | None:
        """The derivative with respect to the result, (n, m); None if there is none."""
        if gradient is None or gradient.numel() != self.distance.numel():
            return None
        return gradient.movedim(self.batch, 0).reshape(self.distance.shape)


Slopes = Callable[[Tensor, Sequence[Unit], Applied], Tensor]
"""Gives a result other derivatives, and leaves its values."""


class Recorder(TorchFunctionMode):
    """Collects the sites of a forward on n rows, in the order of its calls; `slopes` may exchange their derivatives."""

    def __init__(self, n: int, slopes: Slopes | None = None) -> None:
        super().__init__()
        self.n = n
        self.slopes = slopes
        self.sites: list[Site] = []

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = base(func)
        replay = RECURRENT.get(name)
        if replay is not None and torch.is_grad_enabled():
            with self:  # its steps are recorded
                found = replay(*args, **kwargs)
            if found is not None:
                return found
        opening = OPENINGS.get(name)
        if opening is None or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        call = Applied(func, self.kept(func, args, kwargs), without_place(kwargs))
        units = self.units(opening, call)
        if not units:
            return func(*args, **kwargs)
        if self.slopes is None:
            result = func(*args, **kwargs)
        elif call.args is args:
            result = with_derivatives(self.slopes, func(*args, **kwargs), units, call)
        else:  # in place: a result that was changed after it was saved could not be differentiated
            result = args[0].copy_(with_derivatives(self.slopes, call.on(call.x.clone()), units, call))
        self.note(units, result)
        return result

    def kept(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        """The arguments, the first as it is now where the call may overwrite it."""
        name: str = getattr(function, "__name__", "")
        in_place = (name.partition(".")[0].endswith("_") and not name.endswith("__")) or kwargs.get("inplace", False)
        in_place = in_place or (len(args) > 1 and args[-1] is True)
        if in_place and args and isinstance(args[0], Tensor):
            return (args[0].clone(), *(a for a in args[1:] if a is not True))
        return args

    def units(self, opening: Opening, call: Applied) -> list[Unit]:
        x = call.get(0, "input")
        tensors = [t for t in (x, *call.args[1:], *call.kwargs.values()) if isinstance(t, Tensor)]
        if not isinstance(x, Tensor) or not any(t.requires_grad for t in tensors):
            return []
        try:
            return list(opening(call))
        except Exception:  # settings that the row does not know: the search goes on without this call
            return []

    def note(self, units: list[Unit], result: Any) -> None:
        value = result[0] if isinstance(result, (tuple, list)) else result
        for distance, sign, kink in units:
            if not distance.requires_grad or not distance.numel():
                continue
            batch = self.batch(distance)
            if batch is None:
                continue
            flat = distance.movedim(batch, 0).reshape(self.n, -1)
            signs = torch.as_tensor(sign, dtype=torch.float64, device=distance.device).expand(distance.shape)
            signs = signs.movedim(batch, 0).reshape(self.n, -1)
            matched = isinstance(value, Tensor) and value.requires_grad and value.numel() == distance.numel()
            self.sites.append(Site(flat, signs, kink, get_gradient_edge(value) if matched else None, batch))

    def batch(self, distance: Tensor) -> int | None:
        """The dimension of the batch: the first that has n rows, or n times as many; else whichever has n."""
        if distance.ndim and distance.shape[0] % self.n == 0:
            return 0
        return next((d for d in range(1, distance.ndim) if distance.shape[d] == self.n), None)


def with_derivatives(slopes: Slopes, result: Any, units: Sequence[Unit], call: Applied) -> Any:
    """The result with other derivatives; of several results (values and indices), the first."""
    if isinstance(result, Tensor):
        return slopes(result, units, call) if result.requires_grad else result
    if isinstance(result, tuple) and hasattr(result, "values") and hasattr(result, "indices"):
        return type(result)([slopes(result[0], units, call), *result[1:]])  # torch.return_types
    return result


@dataclass(frozen=True)
class Slope:
    """The slopes of one elementwise operator, opened for differentiation.

    `factor` is 1 and multiplies them, `change` is 0 and is added to them. `distance` is what moves them, in the
    direction of `sign`, over a width.
    """

    factor: Tensor
    change: Tensor
    distance: Tensor
    sign: Tensor
    width: float


class SoftenedSlopes:
    """Slopes that pass from one side of a kink to the other gradually, over a share of the usual distance from it. The
    gates of a forward say how a derivative of the outputs depends on each slope."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.gates: list[Slope] = []

    def __call__(self, result: Tensor, units: Sequence[Unit], call: Applied) -> Tensor:
        first: tuple[Tensor, Tensor | float, Tensor] | None = None
        for distance, jump, kink in units:
            if not kink or distance.shape != result.shape:
                continue
            near = torch.where(distance.isfinite(), distance, 0.0)
            width = self.share * near.detach().abs().mean().clamp(min=1e-30)
            if base(call.function) not in SMOOTH:
                rise = width * torch.nn.functional.softplus(near / width) - near.clamp(min=0.0)
                result = result + jump * (rise - rise.detach())
            first = first or (near, jump, width)
        if first is None or base(call.function) not in ELEMENTWISE:
            return result
        near, jump, width = first
        factor, change = (torch.full_like(result.detach(), v, requires_grad=True) for v in (1.0, 0.0))
        sign = torch.as_tensor(jump, device=near.device).sign().expand(near.shape)
        self.gates.append(Slope(factor, change, near, sign, float(width)))
        x = call.x - call.x.detach()
        return result.detach() + factor * (result - result.detach()) + change * x


def at_random(generator: torch.Generator, share: Tensor) -> Slopes:
    """Slopes as they are far to the right of the kinks or far to the left, at random: in row r a share[r] of them is on
    the right."""

    def right(like: Tensor) -> Tensor:
        drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like.device)
        batch = next((d for d in range(like.ndim) if like.shape[d] == len(share)), None)
        limit = 0.3 if batch is None else share.to(like.device).reshape(-1, *[1] * (like.ndim - 1 - batch))
        return drawn < limit

    def slopes(result: Tensor, units: Sequence[Unit], call: Applied) -> Tensor:
        if base(call.function) in ELEMENTWISE:
            x = call.x
            far = 10.0 + 3.0 * float(x.detach().abs().nan_to_num(0.0, 0.0, 0.0).max())
            with torch.no_grad():
                ends = [call.on(torch.full_like(x, sign * far + side)) for sign in (-1, 1) for side in (0.0, 1.0)]
                left, high = ends[1] - ends[0], ends[3] - ends[2]
            slope = torch.where(right(x), high, left)
            if not bool((slope.abs() <= 10).all()):  # it grows without bound, as exp does
                return result
            return result.detach() + slope * (x - x.detach())
        for distance, jump, kink in units:
            if kink and distance.shape == result.shape:
                near = torch.where(distance.isfinite(), distance, 0.0)
                change = jump * (right(near).double() - (near.detach() > 0).double()) * near
                used = distance.isfinite() & (near.detach() != 0)  # of equal entries, any may be the one that is taken
                result = result + torch.where(used, change - change.detach(), 0.0)
        return result

    return slopes


def without_place(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in ("inplace", "out")}


def recurrent(activation: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """nn.RNN, one step after the other."""

    def replay(
        x: Tensor, state: Any, parameters: Any, biases: bool, layers: int, dropout: float, train: bool,
        both: bool, batch_first: bool,
    ) -> Any:  # fmt: skip
        if (train and dropout) or not isinstance(parameters, (list, tuple)):  # packed sequences have other arguments
            return None
        steps = list(x.unbind(1 if batch_first else 0))
        per, last = (4 if biases else 2), []
        for layer in range(layers):
            found: list[list[Tensor]] = []
            for way in range(2 if both else 1):
                k = layer * (2 if both else 1) + way
                wi, wh, *b = parameters[k * per : (k + 1) * per]
                h, outputs = state[k], []
                for item in reversed(steps) if way else steps:
                    a = torch.nn.functional.linear(item, wi, b[0] if b else None)
                    h = activation(a + torch.nn.functional.linear(h, wh, b[1] if b else None))
                    outputs.append(h)
                last.append(h)
                found.append(outputs[::-1] if way else outputs)
            steps = [torch.cat(parts, -1) for parts in zip(*found, strict=True)]
        return torch.stack(steps, 1 if batch_first else 0), torch.stack(last)

    return replay


def cell(activation: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """nn.RNNCell."""

    def replay(x: Tensor, h: Tensor, wi: Tensor, wh: Tensor, bi: Tensor | None = None, bh: Tensor | None = None) -> Any:
        return activation(torch.nn.functional.linear(x, wi, bi) + torch.nn.functional.linear(h, wh, bh))

    return replay


RECURRENT: dict[str, Callable[..., Any]] = {
    f"rnn_{activation.__name__}{end}": make(activation)
    for activation in (torch.relu, torch.tanh)
    for end, make in (("", recurrent), ("_cell", cell))
}
