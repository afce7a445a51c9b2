"""Operators about which nothing is claimed: softmax, normalisation by statistics of the sample, attention, gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convexnet.curvature.call import Call, Result
from convexnet.curvature.facts import Fact, constant, spread_rows, unknown
from convexnet.curvature.fields import core, join_rows, uniform, where_any


@dataclass(frozen=True)
class Opaque:
    """Nothing is claimed about what varies. `over(call)` lists the dimensions it mixes; None: possibly all."""

    reason: str
    remedy: str = ""
    over: Callable[[Call], Sequence[int]] | None = None

    def __call__(self, call: Call) -> Result:
        facts = call.read()
        results: list[Fact] = []
        for shape in call.shapes:
            varies = uniform(any(not fact.constant for fact in facts), shape, torch.bool)
            rows = self.rows(call, shape)
            results.append(constant(shape, rows) if not where_any(varies) else unknown(shape, rows))
        return results[0] if len(results) == 1 else tuple(results)

    def rows(self, call: Call, shape: Sequence[int]) -> Tensor:
        """Rows spread over the mixed dimensions only, if the result has the first argument's shape; an elementwise
        operator mixes none."""
        facts = call.read()
        x = facts[0] if facts else None
        if elementwise_operator(call) and all(len(fact.shape) <= len(shape) for fact in facts):
            rows = uniform(0, shape, torch.uint8)
            for fact in facts:
                rows = join_rows(rows, fact.rows, shape)
            return rows
        alone = not any(where_any(fact.rows) for fact in facts[1:])
        if x is not None and alone and self.over is not None and tuple(x.shape) == tuple(shape):
            dims = [d % len(shape) for d in self.over(call)]
            return spread_rows(x.rows, lambda m: core(m).any(dim=tuple(dims), keepdim=True).expand(tuple(shape)))
        touched = any(where_any(fact.rows) for fact in facts)
        return uniform(3 if touched else 0, shape, torch.uint8)


def elementwise_operator(call: Call) -> bool:
    """Whether each element of the result comes from the elements at its place."""
    return torch.Tag.pointwise in getattr(call.operator, "tags", ()) or call.name in ("to", "_to_copy", "type_as")
