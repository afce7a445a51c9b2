"""Values of a network as differences p − q of convex functions, and their arithmetic.

The identity behind every row is max(p₁ − q₁, p₂ − q₂) = max(p₁ + q₂, p₂ + q₁) − (q₁ + q₂): the larger of two
differences is one again, and only addition, maximum and non-negative multiplication are ever applied to p and q.
A linear map with the coefficients W = W⁺ − W⁻ sends (p, q) to (W⁺p + W⁻q, W⁻p + W⁺q), so p + q grows by |W| where p − q
grows by W: in a deep network p and q are far larger than their difference, which rounding errors then reach.

How a difference passes through each operator of a program is in `rules`.
Source: P. Hartman, On functions representable as a difference of convex functions, Pacific J. Math. 9 (1959).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from convexnet.curvature.arguments import as_real

Move = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Difference:
    """A tensor p − q, each element of p and q convex in the inputs. `q` None: zero. `affine`: p is affine, q zero."""

    p: Tensor
    q: Tensor | None = None
    affine: bool = False

    def moved(self, move: Move) -> Difference:
        """The difference after a linear map with non-negative coefficients."""
        return replace(self, p=move(self.p), q=None if self.q is None else move(self.q))


Value = Difference | Tensor | float


def parts_of(value: Value) -> tuple[Any, Tensor | None, bool]:
    """p, q and whether p − q is affine; what does not depend on the inputs is its own p."""
    return (value.p, value.q, value.affine) if isinstance(value, Difference) else (as_real(value), None, True)


def as_difference(value: Any) -> Difference:
    return value if isinstance(value, Difference) else Difference(as_real(value), None, True)


def add_parts(a: Any, b: Any) -> Any:
    """a + b, where None is zero."""
    return b if a is None else (a if b is None else a + b)


def plus(a: Value, b: Value) -> Difference:
    (p1, q1, straight1), (p2, q2, straight2) = parts_of(a), parts_of(b)
    p, q = p1 + p2, add_parts(q1, q2)
    if q is not None and q.shape != p.shape:
        p, q = torch.broadcast_tensors(p, q)
    return Difference(p, q, straight1 and straight2)


def negate(x: Difference) -> Difference:
    if x.affine:
        return replace(x, p=-x.p)
    return Difference(torch.zeros_like(x.p) if x.q is None else x.q, x.p)


def multiply(x: Difference, factor: Tensor | float) -> Difference:
    """A multiple, elementwise with broadcasting."""
    if isinstance(factor, Tensor):
        return bilinear(x, factor, torch.mul)
    if factor == 1:
        return x
    if factor < 0 and not x.affine:
        return multiply(negate(x), -factor)
    return x.moved(lambda part: part * factor)


def bilinear(x: Difference, w: Tensor, run: Callable[[Tensor, Tensor], Tensor]) -> Difference:
    """An operator that is linear in x and in its coefficients w: coefficients of either sign meet p and q apart."""
    w = w.double()
    if x.affine:
        return Difference(run(x.p, w), None, True)
    up, down = w.clamp(min=0), (-w).clamp(min=0)
    p, q = run(x.p, up), run(x.p, down)
    if x.q is not None:
        p, q = p + run(x.q, down), q + run(x.q, up)
    return Difference(p, q)


def larger(a: Value, b: Value) -> Difference:
    """max(a, b), elementwise with broadcasting."""
    (p1, q1, _), (p2, q2, _) = parts_of(a), parts_of(b)
    left, right, q = add_parts(p1, q2), add_parts(p2, q1), add_parts(q1, q2)
    if isinstance(right, Tensor):
        p = torch.maximum(left, right)
    else:  # a number; relu has the gradient of relu at its kink, where the other two share it
        p = torch.relu(left) if right == 0 else left.clamp(min=right)
    if q is not None and q.shape != p.shape:
        p, q = torch.broadcast_tensors(p, q)
    return Difference(p, q)


def smaller(a: Difference, b: Value) -> Difference:
    """min(a, b) = −max(−a, −b)."""
    return negate(larger(negate(a), negate(b) if isinstance(b, Difference) else -as_real(b)))


def between(x: Difference, low: Value | None, high: Value | None) -> Difference:
    """min(max(x, low), high)."""
    x = x if low is None else larger(x, low)
    return x if high is None else smaller(x, high)


def leaky(x: Difference, slope: Tensor | float) -> Difference:
    """x above zero, slope · x below: slope · x + (1 − slope) relu(x), for slopes of any sign and size."""
    return plus(multiply(x, slope), multiply(larger(x, 0.0), 1 - slope))


def largest(x: Difference, dims: Sequence[int], keepdim: bool) -> Difference:
    """The maximum over dimensions, by a knock-out tournament where there is a q."""
    if x.q is None:
        return Difference(x.p.amax(list(dims), keepdim))
    for dim in dims:
        while (size := x.p.shape[dim]) > 1:
            half = size // 2
            first, second, rest = (
                x.moved(lambda part, s=start, n=length, d=dim: part.narrow(d, s, n))
                for start, length in ((0, half), (half, half), (2 * half, size % 2))
            )
            x = larger(first, second)
            if size % 2:
                x = Difference(*(torch.cat([one, other], dim) for one, other in ((x.p, rest.p), (x.q, rest.q))))  # pyright: ignore
    return x if keepdim else x.moved(lambda part: part.squeeze([d % part.ndim for d in dims]))


# --- an operator and its arguments ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """One operator of the program with its arguments; a `Difference` is what depends on the inputs."""

    operator: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)

    @property
    def x(self) -> Difference:
        """The first argument."""
        return as_difference(self.args[0])

    def run(self, exchange: Callable[[Any], Any]) -> Any:
        """Execute the operator with every tensor and difference exchanged."""
        return self.operator(
            *(exchange_differences(arg, exchange) for arg in self.args),
            **{key: exchange_differences(value, exchange) for key, value in self.kwargs.items()},
        )


def exchange_differences(value: Any, exchange: Callable[[Any], Any]) -> Any:
    if isinstance(value, (list, tuple)):
        return [exchange_differences(item, exchange) for item in value]
    return exchange(value) if isinstance(value, (Difference, Tensor)) else value


def items_of(value: Any) -> Iterable[Any]:
    """The items of nested lists."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from items_of(item)
    else:
        yield value
