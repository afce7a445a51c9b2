"""Whether an operator is affine, as its own rule in the table of the calculus says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from convexnet.curvature.call import Call, Refusal
from convexnet.curvature.facts import AFFINE, CONSTANT, constant, known
from convexnet.curvature.fields import uniform
from convexnet.curvature.table import row_of
from convexnet.curvature.tracing.graph import base_name, functional


def fact_of(value: Any, moves: bool, given: bool) -> Any:
    """What is assumed of a value: affine where it moves, any constant where other inputs make it, else as it is."""
    if isinstance(value, (list, tuple)):
        return tuple(fact_of(part, moves, given) for part in value)
    if not isinstance(value, Tensor):
        return value
    integral = not value.dtype.is_floating_point
    if moves:
        return replace(constant(value.shape), varies=uniform(True, value.shape, torch.bool), integral=integral)
    return replace(constant(value.shape), integral=integral) if given else known(value)


def is_affine(node: fx.Node, arguments: tuple[Any, Any], result: Any) -> bool:
    """Whether the rule of an operator gives affine results."""
    name = base_name(node.target)
    if name.startswith(("empty", "new_empty")):  # whatever the memory holds does not depend on anything
        return True
    results = [value for value in (result if isinstance(result, (list, tuple)) else [result]) if value is not None]
    if not results or not all(isinstance(value, Tensor) for value in results):
        return False
    floating = results[0].dtype.is_floating_point
    shapes = tuple(tuple(value.shape) for value in results)
    types = tuple(value.dtype for value in results)
    call = Call(functional(node.target, name), name, arguments[0], dict(arguments[1]), shapes, floating, types)
    return has_affine_rule(replace(call, shape_only=row_of(name).shape_only))


def has_affine_rule(call: Call) -> bool:
    """Whether the rule of an operator says that, of arguments that are affine, it makes affine results."""
    if not call.floating:
        return False
    try:
        facts = row_of(call.name).rule(call)
    except (Refusal, RuntimeError, TypeError, ValueError, IndexError):  # a rule that does not cover the call
        return False
    listed = facts if isinstance(facts, tuple) else (facts,)
    return len(listed) == len(call.shapes) and all(
        fact.curvature in (CONSTANT, AFFINE) and tuple(fact.shape) == tuple(shape)
        for fact, shape, kind in zip(listed, call.shapes, call.dtypes, strict=True)
        if kind is not None and kind.is_floating_point
    )
