"""What is a minimum of a certified network in another form: `maximise`, `conjugate`, `prox`, `impute`.

Each writes its objective as a module around f, so that the calculus certifies it, the solvers open it, and derivatives
flow as those of `minimise` do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.arrays import as_tensor, is_whole, listed_inputs
from convexnet.curvature.arguments import unwrap
from convexnet.curvature.tracing.trace import TRACING
from convexnet.domains import Box, Domain, Free, Product
from convexnet.errors import NotCertified
from convexnet.solve.arguments import validate_arguments
from convexnet.solve.at_most import one_number
from convexnet.solve.minimise import minimise_arguments, outside_inference_mode, with_defaults
from convexnet.solve.solution import Solution


@outside_inference_mode
def minimise_around(
    made: nn.Module, f: nn.Module, domain: Domain, given: Sequence[Any], wrt: int, options: dict[str, Any]
) -> Solution:
    """The minimum of a module that was made around f for this call.

    Args:
        made: the objective.
        f: who keeps what is read of it.
        domain, given, wrt: see `minimise`.
        options: further arguments of `minimise`.

    Raises:
        TypeError: an option that `minimise` does not have.
    """
    whole = with_defaults(options)
    start = whole.pop("start")
    with TRACING:
        arguments = validate_arguments(made, domain, tuple(given), start, wrt, **whole)
    return minimise_arguments(replace(arguments, owner=unwrap(f), kind=type(made).__name__))


class Negated(nn.Module):
    """−f."""

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f

    def forward(self, *inputs: Tensor) -> Tensor:
        """−f, (B,) or (B, 1)."""
        return -self.f(*inputs)


def maximise(f: nn.Module, domain: Domain, given: Any = None, *, wrt: int = -1, **options: Any) -> Solution:
    """Maximise f(y), or f(*given, y), that is certified concave in y, with a proof of the gap.

    Args:
        f, domain, given, wrt: as for `minimise`.
        options: the other arguments of `minimise`.

    Returns:
        A `Solution` in which `value`, the module's own, is the lower bound of the maximum, and `upper_bound` is proved.

    Raises:
        NotCertified: f is not proved concave in y.

    Example:
        >>> import convexnet as cx
        >>> class Hat(torch.nn.Module):
        ...     def forward(self, y):
        ...         return 3 - (y - 0.25).abs().sum(1)
        >>> solution = maximise(Hat(), cx.Box(-1, 1, shape=2))
        >>> round(float(solution.value), 6), bool(solution.upper_bound >= solution.value)
        (3.0, True)
    """
    module = unwrap(f)
    try:
        return turned(minimise_around(Negated(module), f, domain, listed_inputs(given), wrt, options))
    except NotCertified as error:
        name = type(module).__name__
        raise NotCertified(
            f"cannot maximise: {name} is not proved concave. Its negative: {error}", error.findings
        ) from None


def turned(found: Solution) -> Solution:
    """The maximum of −g from the minimum of g."""
    value = -found.value
    return replace(found, value=value, lower_bound=value, upper_bound=-found.lower_bound)


def rows(y: Tensor) -> Tensor:
    """Samples as rows, (B, n); of numbers (B,), rows of one."""
    return y.flatten(1) if y.ndim > 1 else y[:, None]


class Tilted(nn.Module):
    """f(*given, y) − ⟨slope, y⟩, of the inputs (*given, slope, y)."""

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f

    def forward(self, *inputs: Tensor) -> Tensor:
        """(B,)."""
        *given, slope, y = inputs
        return one_number(self.f(*given, y)) - rows(slope * y).double().sum(1)


def conjugate(
    f: nn.Module, slope: Any, domain: Domain | None = None, given: Any = None, *, wrt: int = -1, **options: Any
) -> Solution:
    """Return the convex conjugate f*(slope) = sup over y of ⟨slope, y⟩ − f(*given, y).

    Args:
        f: certified convex in y, (B,) or (B, 1).
        slope: (B, *shape), of which each row has its own conjugate; (*shape) with a domain of that shape is one row.
        domain: the set that y ranges over; None: all points.
        given: the other inputs of f, B rows each.
        wrt: the number of the input y.
        options: the other arguments of `minimise`.

    Returns:
        A `Solution` with value = ⟨slope, x⟩ − f(x) <= f*(slope) <= upper_bound, and x a subgradient of f* at slope.
        Where the supremum is infinite, the status is "unbounded" and the upper bound inf. Differentiable in the slope
        (the gradient of the value is x), in `given` and in the parameters of f; again where f is smooth.

    Raises:
        NotCertified: f is not proved convex in y.

    Source: Rockafellar (1970), "Convex Analysis", section 12.

    Example:
        >>> import convexnet as cx
        >>> class Half(torch.nn.Module):
        ...     def forward(self, y):
        ...         return y.square().sum(1) / 2
        >>> slope = torch.tensor([[3.0, 4.0]], requires_grad=True)
        >>> found = conjugate(Half(), slope)
        >>> round(found.value.item(), 4), torch.autograd.grad(found.value.sum(), slope)[0].round(decimals=3).tolist()
        (12.5, [[3.0, 4.0]])
    """
    module = unwrap(f)
    tilt, where = sample_of_each(slope, "slope", domain, module)
    others = listed_inputs(given)
    made = Tilted(Reordered.of(module, len(others), wrt))
    return turned(minimise_around(made, f, where, [*others, tilt], -1, options))


def sample_of_each(value: Any, name: str, domain: Domain | None, module: nn.Module) -> tuple[Tensor, Domain]:
    """A slope or a point for each sample, (B, *shape) in a floating type, and the domain: all points, where it is None.

    Raises:
        ValueError: it has another shape than the domain's samples.
    """
    each = as_tensor(value, name)
    if domain is not None and each.shape == domain.shape:
        each = each[None]
    if each.ndim == 0 or (domain is not None and each.shape[1:] != domain.shape):
        wanted = "(B, n)" if domain is None else f"(B, {', '.join(map(str, domain.shape))})"
        raise ValueError(f"{name} has shape {tuple(each.shape)}, and must have {wanted}: one for each sample")
    return floating(each, module), Free(tuple(each.shape[1:])) if domain is None else domain


def floating(tensor: Tensor, module: nn.Module) -> Tensor:
    """A tensor of numbers in a floating type: its own, or the module's."""
    if tensor.is_floating_point():
        return tensor
    kinds = (t.dtype for t in module.parameters() if t.is_floating_point())
    return tensor.to(next(kinds, torch.get_default_dtype()))


class Reordered(nn.Module):
    """f with its input `place` as the last one."""

    def __init__(self, f: nn.Module, place: int) -> None:
        super().__init__()
        self.f, self.place = f, place

    def forward(self, *inputs: Tensor) -> Tensor:
        """What f returns."""
        *given, y = inputs
        return self.f(*given[: self.place], y, *given[self.place :])

    @staticmethod
    def of(f: nn.Module, others: int, wrt: int) -> nn.Module:
        """f itself where y is its last input anyway.

        Raises:
            ValueError: there is no such input.
        """
        if not is_whole(wrt) or not -others - 1 <= int(wrt) <= others:
            raise ValueError(f"wrt={wrt!r} is not one of the {others + 1} inputs that given and y make up")
        place = int(wrt) % (others + 1)
        return f if place == others else Reordered(f, place)


class Proximal(nn.Module):
    """f(*given, y) + ‖y − v‖² · weight, of the inputs (*given, v, weight, y)."""

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f

    def forward(self, *inputs: Tensor) -> Tensor:
        """(B,)."""
        *given, v, weight, y = inputs
        away = rows(y.double() - v.double()).square()
        return one_number(self.f(*given, y)) + (weight.relu()[:, None] * away).sum(1)


def prox(
    f: nn.Module, v: Any, step: Any, domain: Domain | None = None, given: Any = None, *, wrt: int = -1, **options: Any
) -> Solution:
    """Return the proximal point: x = argmin over y of f(*given, y) + ‖y − v‖² / (2 step).

    Args:
        f: certified convex in y, (B,) or (B, 1).
        v: (B, *shape); (*shape) with a domain of that shape is one row.
        step: a positive number, or one for each sample, (B,).
        domain: the set that y ranges over; None: all points.
        given, wrt, options: as for `conjugate`.

    Returns:
        A `Solution` whose value is the Moreau envelope of f at v; its gradient for v is (v − x) / step.

    Raises:
        NotCertified: f is not proved convex in y.
        ValueError: a step is not positive, or shapes do not fit.

    Source: Moreau (1965); Parikh & Boyd (2014), "Proximal algorithms".

    Example:
        >>> class Size(torch.nn.Module):
        ...     def forward(self, y):
        ...         return y.abs().sum(1)
        >>> prox(Size(), torch.tensor([[3.0, 0.5]]), 1.0).x.round(decimals=4).tolist()
        [[2.0, 0.0]]
    """
    module = unwrap(f)
    about, where = sample_of_each(v, "v", domain, module)
    length = as_tensor(step, "step").double()
    if length.ndim > 1 or (length.ndim == 1 and len(length) not in (1, len(about))) or not bool((length > 0).all()):
        raise ValueError(f"step must be a positive number, or one for each of {len(about)} samples")
    weight = (0.5 / length).expand(len(about))
    others = listed_inputs(given)
    made = Proximal(Reordered.of(module, len(others), wrt))
    return minimise_around(made, f, where, [*others, about, weight], -1, options)


def impute(f: nn.Module, x: Any, mask: Any = None, domain: Domain | None = None, **options: Any) -> Solution:
    """Fill in what is missing of x so that f is least: x with its given elements, and the others minimised over.

    Args:
        f: certified convex in x, (B,) or (B, 1).
        x: (B, *shape), of which any elements are missing, for each sample others.
        mask: True where an element is given; None: wherever x is not NaN.
        domain: a `Box`, or a `Product` of boxes, that the missing elements range over; None: all numbers.
        options: the other arguments of `minimise`.

    Returns:
        A `Solution` whose x is full: as it was where it was given.

    Raises:
        NotCertified: f is not proved convex.
        TypeError: a domain without bounds element by element.
        ValueError: shapes do not fit, or a given element is NaN or outside of the domain.

    Source: Amos, Xu & Kolter (2017), section 3.2, completion.

    Example:
        >>> import convexnet as cx
        >>> class Apart(torch.nn.Module):
        ...     def forward(self, x):
        ...         return (x[:, 0] - x[:, 1]).square()
        >>> nan = float("nan")
        >>> impute(Apart(), torch.tensor([[0.5, nan], [nan, -2.0]]), domain=cx.Box(-1, 1, shape=2).hull()).x.tolist()
        Traceback (most recent call last):
        ValueError: the value -2 to fix element (1, 1) to lies outside the box, [-1, 1]
        >>> filled = impute(Apart(), torch.tensor([[0.5, nan], [nan, -0.25]]), domain=cx.Box(-1, 1, shape=2)).x
        >>> filled.round(decimals=3).tolist()
        [[0.5, 0.5], [-0.25, -0.25]]
    """
    points = as_tensor(x, "x")
    if points.ndim == 0:
        raise ValueError("x must be (B, *shape), and is one number")
    known = ~points.isnan() if mask is None else as_tensor(mask, "mask")
    if isinstance(domain, Product) and all(isinstance(part, Box) for part in domain.parts):
        domain = domain.hull() if domain.batch is None else Box(*ends_of(domain), batch=domain.batch)
    where = Free(tuple(points.shape[1:])) if domain is None else domain
    if not isinstance(where, Box):
        raise TypeError(
            f"impute needs a Box, or a Product of boxes, not {type(where).__name__}: elements are fixed in it"
        )
    if points.shape[1:] != where.shape:
        raise ValueError(f"x has shape {tuple(points.shape)}, and the domain {tuple(where.shape)}: x is (B, *shape)")
    module = unwrap(f)
    fixed = where.fix(floating(points, module), known.expand(points.shape))
    return minimise_around(module, module, fixed, [], -1, options)


def ends_of(domain: Domain) -> tuple[Tensor, Tensor]:
    """The bounds of a region."""
    region = domain.region()
    return region.lo, region.hi
