"""Which elements of every result the outputs read: nothing is required of a weight all of whose products are discarded.

A walk from the outputs backwards. An operator that is linear in an argument says itself which of its elements matter:
the gradient of the result's elements that are read, with zeros for the coefficients that are known to be zero and ones
for the others, is not zero exactly there. So slices, picks by known indices, masks and columns of known zeros are one
rule. What is not linear reads elementwise, or along the dimensions that it reduces; any other operator is taken to read
everything.

Nothing rests on this but how much is asked: the walk that derives the intervals proves convexity with what was asked.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from convexnet.constraints.coefficient_signs import unbroadcast
from convexnet.curvature.rules.arithmetic import dropout, identity
from convexnet.curvature.rules.pointwise import Pointwise
from convexnet.curvature.rules.reductions import Reduction, Window
from convexnet.curvature.rules.shapes import Moved, Moving, fresh, reshaped
from convexnet.curvature.table import is_batch_norm, row_of
from convexnet.curvature.tracing.graph import base_name, execute_node
from convexnet.curvature.tracing.trace import Program

Known = Callable[[fx.Node], Tensor | None]
"""The value of a tensor that training does not change; None of another."""

Reads = dict[fx.Node, dict[int, Tensor]]
"""For each node, and each of its results that somebody reads: a boolean mask of its shape, True where it is read."""


def find_elements_read(program: Program, known: Known) -> Reads:
    """What the outputs read of every result of a program.

    Example:
        >>> from convexnet.curvature.tracing.trace import trace
        >>> class First(torch.nn.Linear):
        ...     def forward(self, x):
        ...         return super().forward(x)[:, :1]
        >>> found = find_elements_read(trace(First(2, 3), torch.zeros(1, 2)), lambda node: None)
        >>> [mask[0].tolist() for node in found for mask in found[node].values()]
        [[True], [True, False, False]]
    """
    nodes: list[fx.Node] = list(program.graph.nodes)
    found: Reads = {}
    for _, leaf in program.outputs:
        if isinstance(leaf, fx.Node):
            read_whole(found, leaf)
    for node in reversed(nodes):
        if node.op != "call_function" or node not in found:
            continue
        if node.target is operator.getitem:
            source, index = node.args
            assert isinstance(source, fx.Node)
            assert isinstance(index, int)
            join_reads(found, source, index, found[node].get(0))
            continue
        for argument in dict.fromkeys(node.all_input_nodes):
            value = argument.meta.get("val")
            if not isinstance(value, Tensor):
                read_whole(found, argument)
            elif argument.op == "call_function":
                join_reads(found, argument, 0, read_of_argument(node, argument, found[node], known))
    return found


def masks_of_partial_reads(found: Reads) -> dict[fx.Node, Tensor]:
    """The masks of those first results that are read in part."""
    return {node: read[0] for node, read in found.items() if 0 in read and not is_whole(read[0])}


def shapes_of(node: fx.Node) -> list[torch.Size]:
    """The shapes of a node's results; a number has none."""
    value: Any = node.meta.get("val")
    results: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    return [result.shape if isinstance(result, Tensor) else torch.Size() for result in results]


def read_whole(found: Reads, node: fx.Node) -> None:
    """Everything of a node is read."""
    for index, shape in enumerate(shapes_of(node)):
        found.setdefault(node, {})[index] = torch.ones(()).bool().expand(shape)


def join_reads(found: Reads, node: fx.Node, index: int, mask: Tensor | None) -> None:
    """Join what one reader reads of a result to what the others do; None is all of it."""
    shapes = shapes_of(node)
    whole = torch.ones(()).bool().expand(shapes[index] if index < len(shapes) else ())
    before = found.setdefault(node, {}).get(index)
    if mask is None or bool(mask.all()):
        found[node][index] = whole
    elif before is None:
        found[node][index] = mask
    elif not is_whole(before):
        joined = before | mask
        found[node][index] = whole if bool(joined.all()) else joined


def is_whole(mask: Tensor) -> bool:
    """Whether a mask is the one of what is read as a whole."""
    return not any(mask.stride()) and (mask.numel() == 0 or bool(mask.flatten()[0]))


def read_of_argument(node: fx.Node, argument: fx.Node, read: dict[int, Tensor], known: Known) -> Tensor | None:
    """What of an argument is needed for the elements of a result that are read; None: all of it."""
    name = base_name(node.target)
    row = row_of(name)
    rule = row.rule
    whole = len(read) == len(shapes_of(node)) and all(map(is_whole, read.values()))
    copies = row.runs(identity, dropout)
    straight = row.is_affine and isinstance(rule, (Moving, Reduction, Window)) and not copies
    try:
        if is_batch_norm(name):
            return read_through_norm(node, argument, read, known)
        if row.runs(fresh) and node.args[0] is argument:
            return torch.zeros(argument.meta["val"].shape, dtype=torch.bool)
        if straight or row.multiplies:
            leaves_out = isinstance(rule, Moving) and rule.drops
            drops = leaves_out or any(bool((nonzero_factors(n, known) == 0).any()) for n in factors_of(node, argument))
            return read_by_gradient(node, argument, read, known) if drops or not whole else None
        if whole or set(read) != {0}:
            return None
        shape = argument.meta["val"].shape
        slopes = row.requires == "slope" and argument is node.args[0]
        if isinstance(rule, Pointwise) or copies or slopes or torch.Tag.pointwise in node.target.tags:  # pyright: ignore
            return unbroadcast(read[0], shape)
        if name in ("max", "min"):
            single = len(node.all_input_nodes) == 1
            return read_along_dims(node, 1, read[0], shape) if single else unbroadcast(read[0], shape)
        if isinstance(rule, Reduction):
            return read_along_dims(node, rule.position, read[0], shape)
        if isinstance(rule, Window):
            lead = len(shape) - next(int(c) for c in name if c in "123")
            return read[0].flatten(lead).any(lead).reshape(*shape[:lead], *[1] * (len(shape) - lead)).expand(shape)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError):
        pass  # then it reads everything
    return None


def read_through_norm(node: fx.Node, argument: fx.Node, read: dict[int, Tensor], known: Known) -> Tensor | None:
    """What a BatchNorm in eval mode reads: element by element, except in channels whose scale is known to be zero."""
    gamma = node.args[1]
    if argument is not node.args[0] or set(read) != {0}:
        return None
    if not isinstance(gamma, fx.Node):
        return read[0]
    scale = nonzero_factors(gamma, known) != 0
    return read[0] & scale.reshape(-1, *[1] * (read[0].ndim - 2))


def factors_of(node: fx.Node, argument: fx.Node) -> list[fx.Node]:
    """What multiplies an argument in an operator with coefficients."""
    listed = [node.args[place] for place in row_of(base_name(node.target)).weights if place < len(node.args)]
    flat = [part for found in listed for part in (found if isinstance(found, (list, tuple)) else [found])]
    return [part for part in flat if isinstance(part, fx.Node) and part is not argument]


def nonzero_factors(node: fx.Node, known: Known) -> Tensor:
    """1 where a factor may be other than zero, 0 where it is zero for all parameters: known zeros, and their products.

    Example:
        >>> from convexnet.curvature.tracing.trace import trace
        >>> from torch.nn.utils import prune
        >>> layer = prune.random_unstructured(torch.nn.Linear(2, 3), "weight", amount=2)
        >>> program = trace(layer, torch.zeros(1, 2))
        >>> mask = next(n for n in program.graph.nodes if "mask" in n.name)
        >>> product = next(n for n in program.graph.nodes if n.name == "mul")
        >>> known = lambda node: layer.weight_mask if node is mask else None
        >>> int(nonzero_factors(product, known).sum())
        4
    """
    value, shape = known(node), shapes_of(node)[0]
    if value is not None:
        return (value != 0).double().expand(shape)
    name = base_name(node.target) if node.op == "call_function" else ""
    if name == "mul":
        parts = [nonzero_factors(n, known) for n in node.args if isinstance(n, fx.Node)]
        return torch.stack([part.expand(shape) for part in parts]).prod(0)
    row = row_of(name)
    shapes = [node.args[place] for place in row.shape_only if place < len(node.args)]
    sources = [other for other in node.all_input_nodes if other not in shapes]
    if len(sources) == 1 and (row.runs(identity, reshaped) or isinstance(row.rule, Moved)):
        (source,) = sources

        def exchange(other: fx.Node) -> Tensor:
            return nonzero_factors(source, known) if other is source else torch.empty(shapes_of(other)[0])

        moved = execute_node(node, exchange)
        if isinstance(moved, Tensor):
            return moved.double()
    return torch.ones(()).double().expand(shape)


def read_by_gradient(node: fx.Node, argument: fx.Node, read: dict[int, Tensor], known: Known) -> Tensor | None:
    """Of an operator that is linear in an argument: the elements whose coefficient in what is read is not zero."""
    variable = torch.zeros(argument.meta["val"].shape, dtype=torch.float64, requires_grad=True)
    multiplying = factors_of(node, argument)

    def exchange(other: Any) -> Any:
        if other is argument:
            return variable
        value = other.meta.get("val")
        if not isinstance(value, Tensor):
            raise TypeError(f"{other} is not a tensor")
        if not value.is_floating_point():
            fixed = known(other)
            if fixed is None:
                raise ValueError(f"{other} is not known")
            return fixed.to(value.dtype)
        return nonzero_factors(other, known) if other in multiplying else torch.ones(value.shape, dtype=torch.float64)

    with torch.enable_grad():
        out = execute_node(node, exchange)
        parts: Sequence[Tensor] = out if isinstance(out, (list, tuple)) else (out,)
        total = torch.stack([(part * read[i].double()).sum() for i, part in enumerate(parts) if i in read]).sum()
        if not total.requires_grad:
            return torch.zeros(variable.shape, dtype=torch.bool)
        (gradient,) = torch.autograd.grad(total, variable, allow_unused=True, materialize_grads=True)
    return gradient != 0


def read_along_dims(node: fx.Node, position: int, mask: Tensor, shape: Sequence[int]) -> Tensor:
    """What a reduction over dimensions reads: all along these, for each element of its result that is read."""
    given: Any = node.args[position] if len(node.args) > position else node.kwargs.get("dim")
    listed: Iterable[int] = [given] if isinstance(given, int) else given or range(len(shape))
    dims = {int(dim) % len(shape) for dim in listed}
    kept = [1 if dim in dims else length for dim, length in enumerate(shape)]
    return mask.reshape(kept).expand(tuple(shape))
