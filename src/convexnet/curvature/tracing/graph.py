"""Reading the traced graph: operator names, writes through views, module paths and source lines."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from convexnet.curvature.call import Call
from convexnet.curvature.facts import Fact
from convexnet.curvature.rules.arithmetic import dropout, identity
from convexnet.curvature.rules.layers import einsum
from convexnet.curvature.rules.opaque_operators import is_transform
from convexnet.curvature.rules.shapes import Moved, reshaped
from convexnet.curvature.table import ALIASES, TABLE, row_of, shape_only

# --- in-place operators ----------------------------------------------------------------------------------------------


def base_name(target: Any) -> str:
    """The table's name of an operator: aten.relu_.default -> relu; others keep their namespace."""
    name = str(getattr(target, "_opname", getattr(target, "__name__", target)))
    space = getattr(target, "namespace", "aten")
    if space != "aten":
        return f"{space}::{name}"
    name = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    return ALIASES.get(name, name)


def is_mutable(target: Any) -> bool:
    schema = getattr(target, "_schema", None)
    return schema is not None and schema.is_mutable


def mutated_arguments(node: fx.Node) -> list[fx.Node]:
    """The arguments a node writes to."""
    schema = node.target._schema  # pyright: ignore
    found: list[fx.Node] = []
    for i, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
            found += [v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, fx.Node)]
    return found


def makes_new(node: fx.Node) -> bool:
    """Whether a node's result certainly shares memory with nothing else that has a name."""
    if node.op != "call_function":
        return False
    name = base_name(node.target)
    row, schema = row_of(name), getattr(node.target, "_schema", None)
    if schema is None:
        return False
    if not node.all_input_nodes:
        return True
    if name not in TABLE and not is_mutable(node.target) and is_composite(node.target):
        return False
    if isinstance(row.rule, Moved) or row.runs(identity, dropout, reshaped, einsum):  # of one operand it is a view
        return name in ("clone", "lift_fresh_copy")
    return all(result.alias_info is None or result.alias_info.is_write for result in schema.returns)


def is_composite(target: Any) -> bool:
    """Whether an operator is written in terms of others, so that its schema need not tell what its result shares."""
    return bool(target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd))  # pyright: ignore[reportPrivateUsage]


def hides_alias(node: fx.Node) -> bool:
    """Whether a result may share memory with an argument although the operator's schema does not say so."""
    if node.op != "call_function" or makes_new(node) or node.target is operator.getitem:
        return False
    if is_transform(base_name(node.target)):  # which are run, and not told from their schemas
        return False
    schema = getattr(node.target, "_schema", None)
    return schema is None or not any(result.alias_info is not None for result in schema.returns)


def without_idle_dropout(graph: fx.Graph) -> None:
    """Take out dropout in eval mode, which returns its own argument; a decomposition would take it for a copy."""
    for node in list(graph.nodes):
        if is_call_of(node, "dropout") and not node.args[2] and all(user.op != "output" for user in node.users):
            node.replace_all_uses_with(argument(node))
            graph.erase_node(node)


def writes_through(graph: fx.Graph, module: torch.nn.Module) -> bool:
    """Whether an in-place operator changes a tensor that the program reads again under another name.

    Harmless is only: a fresh result, overwritten once it has no other reader and no views, and read afterwards
    through the in-place operator's own result.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if node.op == "get_attr" and isinstance(inner := getattr(module, str(node.target), None), fx.GraphModule):
            if writes_through(inner.graph, inner):
                return True
        if node.op != "call_function" or not is_mutable(node.target):
            continue
        for written in mutated_arguments(node):
            if not makes_new(written):
                return True
            for user in written.users:
                if user is not node and (order[user] > order[node] or not makes_new(user)):
                    return True
    return False


def hidden_write(graph: fx.Graph) -> fx.Node | None:
    """An operator through which a write may reach another tensor unseen, so that no decomposition can be trusted.

    Tensors that may share memory are collected in classes; a class that is written to must not hold an operator that
    `hides_alias`. Regions (no_grad, autocast) count as such.
    """
    parent: dict[fx.Node, fx.Node] = {}

    def root(node: fx.Node) -> fx.Node:
        while node in parent:
            node = parent[node]
        return node

    written: list[fx.Node] = []
    for node in graph.nodes:
        mutable = node.op == "call_function" and is_mutable(node.target)
        if node.op != "call_function" or (makes_new(node) and not mutable):
            continue
        region = "wrap_with" in str(node.target)
        targets = mutated_arguments(node) if mutable else node.all_input_nodes
        written += targets if mutable or region else []
        for other in targets:
            if root(other) is not root(node):
                parent[root(other)] = root(node)
    classes = {root(node) for node in written}
    return next((node for node in graph.nodes if root(node) in classes and hides_alias(node)), None)


def is_call_of(node: Any, name: str) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and base_name(node.target) == name


def argument(node: Any) -> Any:
    return node.args[0]


def ancestors(node: fx.Node) -> set[fx.Node]:
    """A node and everything it is computed from."""
    found: set[fx.Node] = set()
    pending = [node]
    while pending:
        current = pending.pop()
        if current not in found:
            found.add(current)
            pending.extend(current.all_input_nodes)
    return found


# --- executing a node ------------------------------------------------------------------------------------------------


def parents(node: fx.Node) -> list[fx.Node]:
    """The nodes whose elements an operator reads: of some arguments it takes no more than the shape or the type."""
    places = shape_only(base_name(node.target)) if node.op == "call_function" else ()
    if not places:
        return node.all_input_nodes
    found: dict[fx.Node, None] = {}
    read = [arg for i, arg in enumerate(node.args) if i not in places]
    fx.map_arg((tuple(read), node.kwargs), lambda other: found.setdefault(other))
    return list(found)


def nodes_behind(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Some nodes, and all whose elements they are computed from."""
    found: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += parents(node)
    return found


def is_random(node: fx.Node) -> bool:
    """Whether an operator draws random numbers, at least with some settings."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def draws(node: fx.Node) -> bool:
    """Whether a node draws random numbers with its settings."""
    name = base_name(node.target)
    flag = row_of(name).draws
    if flag is None:
        return is_random(node) and name not in TABLE
    named = node.kwargs.get("train", node.kwargs.get("training", False))
    return bool(node.args[flag] if len(node.args) > flag else named)


def types_of(node: fx.Node) -> tuple[torch.dtype | None, ...]:
    """The types of a node's results: None for an integer or a truth value outside tensors, as `item` makes; real
    numbers there have float64's."""
    value = node.meta.get("val")
    values = [v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, Tensor)]
    if values:
        return tuple(v.dtype for v in values)
    return (torch.float64 if isinstance(value, (float, torch.SymFloat)) else None,)


def results_of(node: fx.Node) -> tuple[tuple[Sequence[int], ...], tuple[bool, ...]]:
    """Shapes of a node's results, and which of them are real."""
    value = node.meta.get("val")
    values = [v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, Tensor)]
    real = tuple(dtype is not None and dtype.is_floating_point for dtype in types_of(node))
    return (tuple(tuple(v.shape) for v in values) or ((),)), real


def is_real(node: Any) -> bool:
    """Whether a node's first result is a real tensor, or a real number."""
    return isinstance(node, fx.Node) and results_of(node)[1][0]


def is_unread(node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a number that says what an operator does (an index, a size, a slope; no factor or term) is not known:
    a fact stands in its place among the arguments."""
    if all(isinstance(other.meta.get("val"), (Tensor, tuple, list)) for other in node.all_input_nodes):
        return False  # the usual case: no number comes from the program
    schema = getattr(node.target, "_schema", None)
    if schema is None or row_of(base_name(node.target)).takes_numbers:
        return False
    for i, argument in enumerate(schema.arguments):
        value = args[i] if i < len(args) else kwargs.get(argument.name)
        if "Tensor" not in str(argument.type):
            values: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
            if any(isinstance(v, Fact) for v in values):
                return True
    return False


def functional(target: Any, name: str) -> Callable[..., Any]:
    """The out-of-place overload of an operator."""
    if not is_mutable(target):
        return target
    packet = getattr(torch.ops.aten, name, None)
    overload = getattr(packet, target._overloadname, None)
    return target if overload is None else overload


def execute_node(node: fx.Node, lookup: Callable[[fx.Node], Any]) -> Any:
    """The result of a node, out of place, with its arguments looked up."""
    args: Any = fx.map_arg(node.args, lookup)
    kwargs: Any = fx.map_arg(node.kwargs, lookup)
    return functional(node.target, base_name(node.target))(*args, **kwargs)


def call_of_node(node: fx.Node, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Call, tuple[bool, ...]]:
    """A node with its arguments looked up, as a rule sees it, and which of its results are real numbers."""
    shapes, floating = results_of(node)
    name = base_name(node.target)
    types = types_of(node)
    unread = is_unread(node, args, kwargs)
    run = functional(node.target, name)
    places = shape_only(name)
    return Call(run, name, tuple(args), dict(kwargs), shapes, floating[0], types, unread, places), floating


# --- where things come from ------------------------------------------------------------------------------------------

TORCH = str(Path(torch.__file__).parent) + os.sep
FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')


def module_path(node: fx.Node) -> str:
    """The path of the innermost module a node was traced in."""
    stack = node.meta.get("nn_module_stack")
    return list(stack.values())[-1][0] if stack else ""


def source_line(node: fx.Node) -> str:
    """file:line of the last frame outside PyTorch that led to a node."""
    frames = FRAME.findall(node.meta.get("stack_trace") or "")
    outside = [frame for frame in frames if not frame[0].startswith(TORCH)]
    if not outside:
        return ""
    file, line, _ = (outside or frames)[-1]
    _, packages, inner = file.rpartition(f"site-packages{os.sep}")
    if packages:
        return f"{inner}:{line}"
    try:
        short = os.path.relpath(file)
    except ValueError:  # another drive
        short = file
    return f"{short if not short.startswith('..') else file}:{line}"
