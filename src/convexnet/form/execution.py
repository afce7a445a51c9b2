"""The operators of a traced program, executed in float64."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx

from convexnet.curvature.arguments import in_float64
from convexnet.curvature.table import shape_only
from convexnet.curvature.tracing.graph import base_name, functional

REGIONS = {"wrap_with_set_grad_enabled": 2, "wrap_with_autocast": 5}
"""Operators that hold a graph of their own, and the number of their first operand."""

Applied = Callable[[str, Callable[..., Any], Sequence[Any], dict[str, Any]], Any]


@lru_cache(maxsize=4096)
def way_of(target: Any) -> tuple[str, Callable[..., Any], int]:
    """An operator's name, its out-of-place form, and where the operands of its own graph begin (0: it has none)."""
    name = base_name(target)
    if name == "copy":  # which has no derivative
        return name, overwrite, 0
    if name == "hardsigmoid":  # whose derivative PyTorch computes with a sixth in float32
        return name, sixth_of_relu6, 0
    return name, functional(target, name), next((n for region, n in REGIONS.items() if region in str(target)), 0)


def sixth_of_relu6(x: Tensor) -> Tensor:
    """hardsigmoid, with a derivative that is its own."""
    return (x + 3).clamp(0, 6) / 6


def overwrite(there: Tensor, source: Tensor, *_: Any) -> Tensor:
    """What `copy` leaves: the source in the shape and type of what it is copied into."""
    return source.to(there.dtype).expand(there.shape)


def execute(node: fx.Node, args: Any, kwargs: Any, apply: Applied | None) -> Any:
    """An operator on its arguments, out of place, in float64, and with what it computes open to differentiation."""
    name, function, first = way_of(node.target)
    unread = shape_only(name)
    args = tuple(without_values(arg) if i in unread else arg for i, arg in enumerate(args))
    if name == "detach":  # the identity; and what does not hold for autograd must not hold for a tangent
        return args[0]
    if first:
        return run_region(args[first - 1], args[first:], apply)
    if apply is not None:
        return apply(name, function, args, kwargs)
    out = function(*map(without_casts, args), **{key: without_casts(value) for key, value in kwargs.items()})
    return tuple(map(in_float64, out)) if isinstance(out, (tuple, list)) else in_float64(out)


def run_region(inner: Any, operands: Sequence[Any], apply: Applied | None) -> Any:
    """The results of a region with a graph of its own."""
    env: dict[fx.Node, Any] = {}
    given = iter(operands)
    for node in inner.graph.nodes:
        if node.op == "placeholder":
            env[node] = next(given)
        elif node.op == "get_attr":
            env[node] = own_tensor(operator.attrgetter(str(node.target))(inner))
        elif node.op == "output":
            return tuple(fx.map_arg(node.args[0], env.__getitem__))
        else:
            args: Any = fx.map_arg(node.args, env.__getitem__)
            kwargs: Any = fx.map_arg(node.kwargs, env.__getitem__)
            if node.target is operator.getitem:
                env[node] = args[0][args[1]]
            else:
                env[node] = execute(node, args, kwargs, apply)
    return ()


def without_values(value: Any) -> Any:
    """An argument of which an operator takes no more than the shape or the type; what stands for a tensor holds it."""
    return getattr(value, "value", value)


def own_tensor(tensor: Any) -> Any:
    """A tensor of the model in float64, and not one of inference mode, which automatic differentiation refuses."""
    made = in_float64(tensor)
    return made.clone() if isinstance(made, Tensor) and made.is_inference() else made


def without_casts(setting: Any) -> Any:
    """An argument of an operator, where a type that is asked for (`y.float()`) becomes float64, as everything here."""
    return torch.float64 if isinstance(setting, torch.dtype) and setting.is_floating_point else setting
