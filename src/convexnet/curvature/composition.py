"""The composition theorem: the fact of a result from the facts of the arguments, for every operator at once.

A rule says how each argument moves the result (`Influence`) and where the operator itself is not convex or not concave;
`compose` makes the result's curvature, dependence and rows of it. Called by the rules of `rules/` and by `patterns/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from convexnet.curvature.facts import INF, Fact
from convexnet.curvature.fields import (
    Shape,
    aligned_rows,
    core,
    either,
    elementwise,
    is_aligned,
    join_rows,
    level,
    uniform,
    where_any,
    widened,
)

Reach = Callable[[Tensor], Tensor]
"""A mask of the argument's elements to the mask of the result's elements that they move."""


@dataclass(frozen=True, slots=True)
class Influence:
    """How one argument moves a result.

    `up(mask)` marks the elements of the result that some marked element of the argument can move *in its own
    direction* (the result may rise when that element rises), `down(mask)` those it can move *against* it. None: never.
    `by_row` says that dimension 0 is the batch before and after, and that the operator acts on each row alone.
    """

    fact: Fact
    up: Reach | None = None
    down: Reach | None = None
    by_row: bool = False

    def touches(self, mask: Tensor, shape: Shape) -> Tensor:
        """Elements of the result that depend on a marked element at all."""
        return self.reach(mask, mask, shape)

    def reach(self, rising: Tensor, falling: Tensor, shape: Shape) -> Tensor:
        """Elements moved upwards by a `rising` element, or against a `falling` one."""
        found = uniform(False, shape, torch.bool)
        for move, mask in ((self.up, rising), (self.down, falling)):
            if move is not None and where_any(mask):
                found = either(found, widened(move(mask), shape))
        return found


def compose(
    influences: Iterable[Influence], shape: Shape, not_concave: Tensor | None = None, not_convex: Tensor | None = None
) -> Fact:
    """The composition theorem (Boyd & Vandenberghe, Convex Optimization, 3.2.4), for every operator at once.

    h(g_1, g_2, ...) is convex if h is convex and each argument g_i is convex where h may rise with it and concave
    where h may fall with it; so it is affine where h may do both, and anything at all where h ignores it. With the
    inequality signs of h turned, the same for concave.

    Args:
        influences: each argument, and how it moves the result.
        shape: the result's shape.
        not_concave: mask of the elements where h itself may fail to be *concave*; None: nowhere.
        not_convex: mask of the elements where h itself may fail to be *convex*.

    Returns:
        The result's fact; its bounds are the whole line, for the caller to narrow.
    """
    nothing = uniform(False, shape, torch.bool)
    nonconvex, nonconcave, varies = nothing, nothing, nothing
    rows = uniform(0, shape, torch.uint8)
    for influence in influences:
        g = influence.fact
        nonconvex = either(nonconvex, influence.reach(g.nonconvex, g.nonconcave, shape))
        nonconcave = either(nonconcave, influence.reach(g.nonconcave, g.nonconvex, shape))
        varies = either(varies, influence.touches(g.varies, shape))
        rows = join_rows(rows, rows_of(influence, shape), shape)
    if not_convex is not None:  # a constant argument gives a constant result, however h bends
        nonconvex = either(nonconvex, elementwise(torch.logical_and, shape, not_convex, varies))
    if not_concave is not None:
        nonconcave = either(nonconcave, elementwise(torch.logical_and, shape, not_concave, varies))
    line = uniform(-INF, shape, torch.float64), uniform(INF, shape, torch.float64)
    return Fact(nonconvex, nonconcave, varies, rows, *line)


def rows_of(influence: Influence, shape: Shape) -> Tensor:
    """The rows of the batch that reach a result through one argument."""
    rows = influence.fact.rows
    if level(rows) == 0:
        return uniform(0, shape, torch.uint8)
    if influence.by_row and is_aligned(rows):
        return aligned_rows(shape)
    return spread_rows(rows, lambda mask: influence.touches(mask, shape))


def spread_rows(rows: Tensor, reach: Reach) -> Tensor:
    """Send the two row bits through a reach."""
    inner = core(rows)
    parts: list[Tensor] = []
    for bit in (1, 2):
        reached = reach(((inner & bit) > 0).expand(rows.shape))
        parts.append(elementwise(lambda mask, b=bit: mask.to(torch.uint8) * b, reached.shape, reached))
    return join_rows(parts[0], parts[1], parts[0].shape)
