"""Operators about which nothing is claimed: softmax, normalisation by statistics of the sample, attention, gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexnet.curvature.call import Call, Refusal, Result
from convexnet.curvature.composition import spread_rows
from convexnet.curvature.facts import Fact, constant, unknown
from convexnet.curvature.fields import core, join_rows, uniform, where_any
from convexnet.curvature.row import Kind

UNRULED = "replace it by an operator the calculus knows, or add a rule for it"
DISCRETE = Refusal("its result is an integer or a boolean that depends on the input", "write it as a maximum")
COMPLEX = Refusal(
    "its result is complex and depends on the input, and curvature is a property of real numbers",
    "work on the real and the imaginary part, as real tensors; a Fourier transform is a matrix product in each",
)
VMAP = Refusal(
    "it belongs to torch.vmap, whose operators work on one element of a batch: the calculus follows whole batches",
    "write the function for the batch, with its first dimension kept",
)


def refuse_unruled(name: str) -> Refusal:
    """Why an operator without a rule says nothing."""
    if is_transform(name):
        return VMAP
    if name in ("complex", "polar", "view_as_complex") or name.startswith("fft_"):
        return COMPLEX
    return Refusal(f"aten.{name} has no rule, and what is unknown is not assumed to be fine", UNRULED)


def is_transform(name: str) -> bool:
    """Whether an operator opens or closes a torch.vmap, and cannot be called by itself."""
    return name.startswith("_vmap") or "batch_dim" in name


def explain_not_real(value: object) -> Refusal:
    """Why a result that is not of real numbers, and depends on the input, says nothing."""
    values: Sequence[object] = value if isinstance(value, (list, tuple)) else [value]
    return COMPLEX if any(isinstance(v, Tensor) and v.is_complex() for v in values) else DISCRETE


@dataclass(frozen=True)
class Opaque(Kind):
    """Nothing is claimed about what varies. `over(call)` lists the dimensions it mixes; None: possibly all."""

    reason: str
    remedy: str = ""
    over: Callable[[Call], Sequence[int]] | None = None
    within: tuple[float, float] | None = None  # bounds of the result; if the lower one is 0, it is never reached
    elementwise: bool = False  # mixes none

    def __call__(self, call: Call) -> Result:
        facts = call.read()
        results: list[Fact] = []
        for shape in call.shapes:
            varies = uniform(any(not fact.constant for fact in facts), shape, torch.bool)
            rows = self.rows(call, shape)
            result = constant(shape, rows) if not where_any(varies) else unknown(shape, rows)
            if self.within is not None:
                lo, hi = (uniform(end, shape, torch.float64) for end in self.within)
                result = replace(result.bounded(lo, hi), positive=self.within[0] == 0)
            results.append(result)
        return results[0] if len(results) == 1 else tuple(results)

    def rows(self, call: Call, shape: Sequence[int]) -> Tensor:
        """Rows spread over the mixed dimensions only, if the result has the first argument's shape; an elementwise
        operator mixes none."""
        facts = call.read()
        if not call.floating and any(fact.undefined and not fact.constant for fact in facts):
            return uniform(3, shape, torch.uint8)  # a comparison with NaN has an outcome, which no fact speaks of
        x = facts[0] if facts else None
        if (self.elementwise or elementwise_operator(call)) and all(len(fact.shape) <= len(shape) for fact in facts):
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
    return torch.Tag.pointwise in getattr(call.operator, "tags", ())
