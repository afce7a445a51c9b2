"""What several operators make together, and no row for one of them says: perspectives, quadratic forms, and choices
by comparison.

The calculus certifies such functions by what they are computed from (`curvature.patterns`). Here the
same node of a program is lowered in their place, and the operators within it are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import fx

from convexnet.curvature.patterns import piecewise as pw
from convexnet.curvature.patterns.comparisons import UNCLEAR, Choice, find_choices, number_equal_nodes
from convexnet.curvature.tracing.graph import is_call_of
from convexnet.curvature.tracing.graph_rewrites import is_square
from convexnet.form.atoms import Smooth
from convexnet.form.means import mean_of
from convexnet.form.perspective import Perspective
from convexnet.form.quadratic import Degrees, QuadraticAtom
from convexnet.form.rows import Atoms, Row, stack_last
from convexnet.form.smooth import Curve, entropy, exponential, huber, minus_log, softplus, square, x_exp


@dataclass(frozen=True)
class Pattern:
    """A row for a node of a program, with the nodes and numbers that it is of."""

    row: Row
    args: tuple[Any, ...]


def find_patterns(
    output: fx.Node,
    nodes: Sequence[fx.Node],
    moving: Collection[fx.Node],
    fact_of: Callable[[fx.Node], Any],
    degrees: Degrees,
) -> tuple[dict[fx.Node, Pattern], set[fx.Node]]:
    """The nodes that are lowered as a whole, the last ones first, and the nodes that are needed then."""
    plans, same = find_choices(list(nodes)), number_equal_nodes(nodes)
    needed, found = {output}, dict[fx.Node, Pattern]()
    for node in reversed(nodes):
        if node not in needed:
            continue
        made = None
        if node in moving and node.op == "call_function":
            atom = degrees.atom(node)
            made = (
                pattern_of(node, moving, plans.get(node), same, fact_of)
                if atom is None
                else Pattern(quadratic_row(atom, degrees.env[node].shape[1:]), (degrees.root,))
            )
        if made is not None:
            found[node] = made
        needed.update(node.all_input_nodes if made is None else (arg for arg in made.args if isinstance(arg, fx.Node)))
    return found, needed


def pattern_of(
    node: fx.Node,
    moving: Collection[fx.Node],
    plan: Any,
    same: Mapping[fx.Node, int],
    fact_of: Callable[[fx.Node], Any],
) -> Pattern | None:
    """The row of a node, if it is one of these."""
    made = next(perspectives(node, same), None)
    if made is not None and any(arg in moving for arg in made.args):
        return made
    return piecewise_row(plan, moving, fact_of) if isinstance(plan, Choice) else None


# --- perspectives ----------------------------------------------------------------------------------------------------


def perspectives(node: fx.Node, same: Mapping[fx.Node, int]) -> Iterator[Pattern]:
    """x log(x), x exp(x), x log(x / t), t exp(x / t), x² / t, sums of squares over t, log(1 + exp(x)), negative powers
    of products, and means."""

    def equal(a: Any, b: Any) -> bool:
        return a is b or (isinstance(a, fx.Node) and isinstance(b, fx.Node) and same[a] == same[b])

    args = positional_arguments(node)
    if is_call_of(node, "mul"):
        for a, b in (args[:2], args[1::-1]):
            inside = (
                positional_arguments(positional_arguments(b)[0])
                if is_call_of(b, "exp") and is_call_of(positional_arguments(b)[0], "div")
                else ()
            )
            if is_call_of(b, "exp") and equal(positional_arguments(b)[0], a):
                yield Pattern(unary_row(x_exp()), (a,))
            if is_call_of(b, "log"):
                own, sign = (positional_arguments(a)[0], -1.0) if is_call_of(a, "neg") else (a, 1.0)
                for x, t in numerator_and_denominator(positional_arguments(b)[0]):
                    if equal(x, own):
                        yield (
                            Pattern(unary_row(entropy(), sign), (x,))
                            if t is None
                            else Pattern(perspective_row(entropy(), sign), (x, t))
                        )
            if len(inside) == 2 and equal(inside[1], a):
                yield Pattern(perspective_row(exponential()), inside)
    if is_call_of(node, "log") or is_call_of(node, "log1p"):
        x = exponent_of(args[0] if args else None, is_call_of(node, "log"))
        if x is not None:
            yield Pattern(unary_row(softplus(1.0)), (x,))
    mean = mean_of(node)
    if mean is not None:
        yield Pattern(mean[0], mean[1:])
    exponent = negative_power(node)
    factors: tuple[Any, ...] = (
        positional_arguments(args[0]) if exponent and args and is_call_of(args[0], "prod") else ()
    )
    if len(factors) in (2, 3):
        yield Pattern(product_of_negative_powers(exponent, *factors[1:]), (factors[0],))
    if is_call_of(node, "div") and len(args) == 2 and isinstance(args[1], fx.Node):
        total, t = args
        dims: Any = None
        summed = positional_arguments(total) if is_call_of(total, "sum") else ()
        if len(summed) == 2 and summed[1]:
            total, dims = summed
            if rank_of(t) != rank_of(total) - len(dims):
                return
        if is_square(total):
            yield Pattern(perspective_row(square(), dims=dims), (positional_arguments(total)[0], t))


def positional_arguments(node: Any) -> tuple[Any, ...]:
    """The arguments of a call, if all of them are positional."""
    return node.args if isinstance(node, fx.Node) and not node.kwargs else ()


def numerator_and_denominator(inner: Any) -> Iterator[tuple[Any, Any]]:
    """x and t, if this is x / t, and itself and None."""
    if is_call_of(inner, "div") and len(positional_arguments(inner)) == 2:
        yield inner.args[0], inner.args[1]
    yield inner, None


def rank_of(node: Any) -> int:
    return node.meta["val"].ndim


def exponent_of(node: Any, beside_one: bool) -> Any:
    """x of exp(x), or of 1 + exp(x)."""
    if beside_one:
        terms = positional_arguments(node) if is_call_of(node, "add") else ()
        node = next((b for a, b in (terms, terms[::-1]) if a == 1), None) if len(terms) == 2 else None
    return positional_arguments(node)[0] if is_call_of(node, "exp") else None


def negative_power(node: fx.Node) -> float:
    """The exponent, if this is a negative power; else 0."""
    if is_call_of(node, "pow") and len(positional_arguments(node)) == 2:
        exponent = node.args[1]
    else:
        exponent = -1 if is_call_of(node, "reciprocal") else 0
    return float(exponent) if isinstance(exponent, (int, float)) and exponent < 0 else 0.0


def product_of_negative_powers(exponent: float, dim: int, keepdim: bool = False) -> Row:
    """x_1^p ... x_n^p for p < 0 and positive numbers: the exponential of a sum of negative logarithms."""

    def lowered(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        logs = z(args[0], Smooth(minus_log())).sum([dim % args[0].ndim], keepdim=keepdim)
        return z(-exponent * logs, Smooth(exponential()))

    return lowered


def unary_row(curve: Curve, sign: float = 1.0) -> Row:
    return lambda z, args, kwargs: sign * z(args[0], Smooth(curve))


def perspective_row(curve: Curve, sign: float = 1.0, dims: Any = None) -> Row:
    """t f(x / t) of each pair, or their sums over dimensions of x that t does not have."""

    def lowered(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        x, t = (torch.as_tensor(arg, dtype=torch.float64) if isinstance(arg, (int, float)) else arg for arg in args)
        listed = sorted(int(dim) % x.ndim for dim in dims or ())
        for dim in listed:
            t = t.unsqueeze(dim)
        out = sign * z(stack_last(x, t), Perspective(curve))
        return out.sum(listed, keepdim=False) if listed else out

    return lowered


def quadratic_row(atom: QuadraticAtom, shape: torch.Size) -> Row:
    """A quadratic form of the variable itself, for each element of a sample's result."""

    def lowered(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        y = args[0].flatten(1) if args[0].ndim > 1 else args[0].unsqueeze(-1)
        a = stack_last(*[y] * shape.numel()).movedim(-1, 1)
        out = z(a if atom.group > 1 else a.squeeze(-1), atom)  # an atom of single arguments takes no dimension away
        return out.unflatten(1, shape) if len(shape) else out.squeeze(1)

    return lowered


# --- choices by comparison -------------------------------------------------------------------------------------------


def piecewise_row(plan: Choice, moving: Collection[fx.Node], fact_of: Callable[[fx.Node], Any]) -> Pattern | None:
    """A function of one number, piece by piece linear or quadratic, continuous and convex everywhere."""
    shape = tuple(fact_of(plan.node).shape)
    for root in plan.roots(fact_of):
        if root not in moving or tuple(fact_of(root).shape) != shape or fact_of(root).integral:
            continue
        try:
            numbers = plan.constants(root, fact_of, shape)
            if numbers is None or len(numbers[1]) != 1:
                continue
            f = plan.function(root, dict(zip(numbers[0], numbers[1][0], strict=True)))
            if pw.shape_of(f, None, None).convex:
                pieces = [pw.polynomial(piece) for piece in f.pieces]
                known = [piece for piece in pieces if piece is not None]
                if len(known) == len(pieces):
                    return Pattern(sum_of_pieces(f.breaks, known), (root,))
        except UNCLEAR:
            continue
    return None


def sum_of_pieces(breaks: Sequence[Fraction], pieces: Sequence[Sequence[Fraction]]) -> Row:
    """c + s u, and what is added to it at each break and between two of them: ReLUs, their squares, Huber functions."""

    def slope(piece: Sequence[Fraction], u: Fraction) -> Fraction:
        return piece[1] + 2 * piece[2] * u

    def lowered(z: Atoms, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        u = args[0]
        if not breaks:
            c, s, q = map(float, pieces[0])
            return s * u + c + (q * z(u, Smooth(square())) if q else 0.0)
        first, last, start = pieces[0], pieces[-1], breaks[0]
        s = slope(first, start)
        out = float(s) * u + float(first[0] + first[1] * start + first[2] * start**2 - s * start)
        if first[2]:
            out = out + float(first[2]) * z(z(float(start) - u), Smooth(square()))
        for place, b in enumerate(breaks):
            before, after = pieces[place], pieces[place + 1]
            jump = slope(after, b) - slope(before, b)
            if jump:
                out = out + float(jump) * z(u - float(b))
            if after[2] and after is not last:
                half, middle = (breaks[place + 1] - b) / 2, (breaks[place + 1] + b) / 2
                ramp = float(half**2) * z((u - float(middle)) * float(1 / half), Smooth(huber()))
                ramp = ramp + float(half) * u + float(half**2 / 2 - half * middle)
                out = out + float(2 * after[2]) * ramp
        if last[2]:
            out = out + float(last[2]) * z(z(u - float(breaks[-1])), Smooth(square()))
        return out

    return lowered
