"""A graph in which what has a name is called by it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from convexnet.curvature.tracing.graph import argument, is_call_of


def simplify(graph: fx.Graph) -> fx.Graph:
    """A graph in which what has a name is called by it: sqrt(Σ x²) is a norm, and log Σ exp(x) a log-sum-exp.

    And sign(z) |z| is z: PyTorch writes LP pooling that way, and its result is a norm.
    """
    for node in list(graph.nodes):
        named = named_operator(node)
        if named is not None:
            target, args = named
            with graph.inserting_after(node):
                made = graph.call_function(target, args)
            made.meta = dict(node.meta)
            node.replace_all_uses_with(made)
            continue
        if not is_call_of(node, "mul") or len(node.args) < 2:
            continue
        for sign, size in (node.args[:2], node.args[1::-1]):
            while is_call_of(size, "relu"):
                size = argument(size)
            if is_call_of(sign, "sign") and is_call_of(size, "abs") and argument(sign) is argument(size):
                node.replace_all_uses_with(argument(sign))
                break
    return graph


def named_operator(node: fx.Node) -> tuple[Any, tuple[Any, ...]] | None:
    """The operator, with its arguments, that a root of a sum of squares or a logarithm of a sum of exponentials is."""
    root = is_call_of(node, "sqrt") or (is_call_of(node, "pow") and bool(node.args[1] == 0.5))
    if not root and not is_call_of(node, "log"):
        return None
    total = argument(node)
    if root and is_square(total):
        return torch.ops.aten.abs.default, (argument(total),)
    if not is_call_of(total, "sum") or len(total.args) < 2 or not total.args[1] or total.kwargs:
        return None
    inner, rest = argument(total), total.args[1:]
    if root and is_square(inner):
        return torch.ops.aten.linalg_vector_norm.default, (argument(inner), 2, *rest)
    return (
        (torch.ops.aten.logsumexp.default, (argument(inner), *rest)) if not root and is_call_of(inner, "exp") else None
    )


def is_square(node: Any) -> bool:
    """Whether a node is the square of a real tensor."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    if is_call_of(node, "mul"):
        return node.args[0] is node.args[1]
    return is_call_of(node, "square") or (is_call_of(node, "pow") and bool(node.args[1] == 2))
