"""Operators on what does not vary: computed where everything is known, and what is said of the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from convexnet.curvature.call import Call, Result
from convexnet.curvature.facts import Fact, constant, known
from convexnet.curvature.rules.arithmetic import identity
from convexnet.curvature.rules.opaque_operators import Opaque
from convexnet.curvature.rules.shapes import Moved, cat, reshaped, stack
from convexnet.curvature.table import row_of
from convexnet.curvature.tracing.graph import is_mutable
from convexnet.curvature.value_bounds import is_finite


def fact_of_attribute(module: torch.nn.Module, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    if not isinstance(value, Tensor):
        return value
    return tensor_fact(value)


def tensor_fact(value: Tensor) -> Fact:
    """The fact of a known tensor. Where its entries are NaN it is marked as unknown (see `nonfinite`)."""
    if is_finite(value):
        return known(value)
    nothing = value.isnan()
    if not bool(nothing.any()):
        return replace(known(value), undefined=True)
    return replace(constant(value.shape), value=value, undefined=True, nonconvex=nothing, nonconcave=nothing)


def fold(call: Call) -> Any:
    """The result of an operator all of whose arguments are known: facts, or a Python number."""
    mutable = is_mutable(call.operator)

    def value(fact: Fact) -> Tensor:
        found = call.blank(fact) if fact.value is None else fact.value
        return found.clone() if mutable else found

    def result(tensor: Tensor, dtype: torch.dtype | None) -> Fact:
        # written in place, it may lie in a tensor of another type
        return tensor_fact(tensor if dtype is None or tensor.dtype == dtype else tensor.to(dtype))

    out = call.run(value)
    if isinstance(out, Tensor):
        return result(out, call.dtypes[0])
    if not isinstance(out, (tuple, list)):
        return out
    return tuple(result(part, dtype) for part, dtype in zip(out, call.dtypes, strict=True))


def fact_without_rule(call: Call) -> Result:
    """The result of an operator on what does not vary, of which no rule speaks: constant, and perhaps undefined."""
    within = (0.0, 1.0) if call.name == "one_hot" else None
    result = Opaque("", within=within, elementwise=row_of(call.name).runs(identity))(call)
    if call.name == "one_hot" and isinstance(result, Fact):
        rows = call.x.rows.unsqueeze(-1).expand(tuple(result.shape))
        result = replace(result, positive=False, rows=rows)
    if isinstance(result, tuple):
        return tuple(replace(part, undefined=True) for part in result)
    return replace(result, undefined=True)


def is_in_real_arithmetic(call: Call, node: fx.Node) -> bool:
    """Whether the rules, which are about real numbers, speak of this call of constants: integers wrap and casts of
    them cut, and complex numbers have no sign. Moving elements is always exact."""
    row = row_of(call.name)
    if isinstance(row.rule, Moved) or row.runs(reshaped, cat, stack):
        return True
    values = [n.meta.get("val") for n in (node, *node.all_input_nodes)]
    if any(isinstance(value, Tensor) and value.is_complex() for value in values):
        return False
    return call.floating
