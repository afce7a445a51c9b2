"""One traced program per model: the graph that every walk of the calculus runs over.

`trace` calls `torch.export` once, at batch 2 and in eval mode, and is the one place that deals with modes, aliasing
and the errors of tracing. The graph keeps whole operators (softplus, batch_norm, max_pool2d), with the module path and
the source line of each. It is not functional, so where an in-place operator touches a tensor that somebody else can
still see, the graph is replaced by its functional decomposition, in which such writes are ordinary operators.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.fx import _lazy_graph_module
from torch.utils import _pytree as pytree

from convexnet.curvature.arguments import as_example, two_rows, unwrap
from convexnet.curvature.rules.opaque_operators import is_transform
from convexnet.curvature.tracing.caught_errors import Caught
from convexnet.curvature.tracing.faithfulness import check_faithful
from convexnet.curvature.tracing.graph import base_name, hidden_write, source_line, without_idle_dropout, writes_through
from convexnet.curvature.tracing.graph_rewrites import simplify
from convexnet.curvature.tracing.open_batches import OpenBatch
from convexnet.curvature.tracing.restored_state import TRACING, Generators, evaluating, silence_torch
from convexnet.curvature.tracing.trace_errors import REGISTER, explain_trace_error
from convexnet.curvature.tracing.traceable_models import CLOSURE, check_model, unregistered_modules
from convexnet.errors import NotTraceable

__all__ = ["TRACING", "Program", "Source", "evaluating", "trace"]

Kind = Literal["input", "parameter", "buffer", "constant"]


@dataclass(frozen=True)
class Source:
    """Where a placeholder of the graph gets its tensor: input number `index`, or a tensor of the model by `name`."""

    kind: Kind
    name: str
    index: int = -1
    tensor: Tensor | None = None


@dataclass(frozen=True)
class Program:
    """A traced model: a graph of whole operators, where its placeholders come from, and its named outputs."""

    graph: fx.Graph
    sources: Mapping[str, Source]
    outputs: tuple[tuple[str, Any], ...]  # (path of the leaf, node or plain value)
    inputs: tuple[Tensor, ...]
    model: str
    module: nn.Module  # what the graph's get_attr nodes refer to
    functional: bool = False
    rewritten: frozenset[str] = frozenset()  # buffers that the forward itself changes
    captured: frozenset[str] = frozenset()  # constants that are weights of modules which the model does not own
    draws: tuple[str, ...] = ()  # the modules whose random numbers the forward uses, outside torch

    @property
    def operators(self) -> int:
        """How many operators the graph holds."""
        return sum(node.op == "call_function" and node.target is not operator.getitem for node in self.graph.nodes)


# --- tracing ---------------------------------------------------------------------------------------------------------


def trace(model: nn.Module, example: Tensor | Sequence[Tensor], any_batch: bool = False) -> Program:
    """Trace a model once, at batch 2 and in eval mode; the model is left as it was.

    Args:
        model: any module that `torch.export` (non-strict) accepts.
        example: a tensor (B, ...) or a tuple of them, one for each positional input; only shapes and types matter.
        any_batch: leave the batch size open, so that the graph can be executed on any batch. The walks of the calculus
            need it fixed; and a forward that reads the size (`len(x)`) can only be traced with it fixed.

    Raises:
        TypeError, ValueError: the arguments are not a module and a batch of tensors.
        NotTraceable: the forward fails on the example, or depends on data in a way no single program can express.

    Example:
        >>> from torch import nn
        >>> trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.zeros(1, 2)).operators
        2
    """
    inner = unwrap(model)
    inputs = tuple(two_rows(tensor) for tensor in as_example(example))
    with TRACING:
        check_model(inner)
        with evaluating(inner), silence_torch():
            before = Generators()
            exported, functional = export(inner, inputs, any_batch)
            moved = before.moved()
            if moved:  # by this forward, or by another thread: then it will not move as far again
                after = Generators()
                before.restore()
                export(inner, inputs, any_batch)
                moved = () if after.moved() else moved
        if not any_batch:
            check_shapes(inner, exported.graph)
        program = program_of(inner, inputs, exported, functional, moved)
        if not any_batch:
            check_faithful(inner, program)
    return program


def for_two_rows(model: nn.Module, program: Program) -> Program | None:
    """A program that was traced with an open batch size, as `trace` makes it of a batch of two; compared with the model
    as there. It saves the second export where both are needed.

    None where that is not the same graph with other sizes: the shape of a result depends on values, a region holds a
    graph of its own, or the model does something else than the program.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> program = for_two_rows(net, trace(net, torch.zeros(1, 2), any_batch=True))
        >>> [tuple(node.meta["val"].shape) for _, node in program.outputs]
        [(2, 3)]
    """
    graph = fx.Graph()
    copies: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        value = node.meta.get("val")
        parts = [at_example(part) for part in (value if isinstance(value, (list, tuple)) else (value,))]
        if any(part is UNKNOWN for part in parts):
            return None
        if node.op == "get_attr" and not isinstance(getattr(program.module, str(node.target), None), Tensor):
            return None
        if isinstance(value, torch.SymInt):  # a number, as in a program for two rows
            copies[node] = parts[0]
            continue
        copies[node] = made = graph.node_copy(node, copies.__getitem__)
        made.meta["val"] = type(value)(parts) if isinstance(value, (list, tuple)) else parts[0]
    outputs = tuple((path, copies[part] if isinstance(part, fx.Node) else part) for path, part in program.outputs)
    fixed = replace(program, graph=graph, outputs=outputs)
    try:
        with TRACING:
            check_faithful(unwrap(model), fixed)
    except NotTraceable:
        return None
    return fixed


UNKNOWN = object()
"""In place of a size that is not known before it is computed."""


def at_example(value: Any) -> Any:
    """What a graph notes of a value, for the batch of the example."""
    if isinstance(value, torch.SymInt):
        size: Any = value.node.hint if value.node.has_hint() else None
        return size if type(size) is int else UNKNOWN
    if not isinstance(value, Tensor):
        return UNKNOWN if isinstance(value, (torch.SymFloat, torch.SymBool)) else value
    shape = [at_example(length) for length in value.shape]
    return UNKNOWN if UNKNOWN in shape else torch.empty(shape, dtype=value.dtype, device="meta")


def program_of(
    inner: nn.Module,
    inputs: tuple[Tensor, ...],
    exported: torch.export.ExportedProgram,
    functional: bool,
    moved: tuple[str, ...],
) -> Program:
    """An exported program as the calculus walks it."""
    return Program(
        graph=simplify(exported.graph),
        sources=sources(exported, inputs),
        outputs=named_outputs(exported),
        inputs=inputs,
        model=type(inner).__name__,
        module=exported.graph_module,
        functional=functional,
        rewritten=frozenset(map(str, exported.graph_signature.buffers_to_mutate.values())),
        draws=moved,
        captured=captured_weights(inner, exported),
    )


def export(model: nn.Module, inputs: tuple[Tensor, ...], any_batch: bool) -> tuple[torch.export.ExportedProgram, bool]:
    """The exported program, and whether it had to be made functional."""
    caught = Caught()
    try:
        with without_code(), caught, OpenBatch() if any_batch else contextlib.nullcontext():
            exported = torch.export.export(model, inputs, dynamic_shapes=open_batch(inputs, any_batch), strict=False)
        caught.check(model)
        without_idle_dropout(exported.graph)
        functional = writes_through(exported.graph, exported.graph_module)
        if functional:
            check_writes(model, exported.graph)
            exported.graph_module.recompile()
            exported = exported.run_decompositions({})
        elif is_of_rows(exported.graph):
            with contextlib.suppress(Exception):  # where it cannot be written out, a finding names the transform
                exported, functional = exported.run_decompositions({}), True
    except NotTraceable:
        raise
    except Exception as error:
        # torch's own frames would bury the message: keep the cause, without its traceback
        raise NotTraceable(explain_trace_error(model, inputs, error)) from error.with_traceback(None)
    return exported, functional


def without_code() -> contextlib.AbstractContextManager[object]:
    """Let torch write the code of a graph when it is called: an export makes six graphs and calls none of them, and
    their code takes a tenth of the time of `certify`. Where a version of torch cannot do that, nothing changes."""
    lazily = getattr(_lazy_graph_module, "_use_lazy_graph_module", None)
    return contextlib.nullcontext() if lazily is None else lazily(True)


def is_of_rows(graph: fx.Graph) -> bool:
    """Whether a graph holds operators of torch.vmap, which its decomposition writes out for whole batches."""
    return any(is_transform(base_name(node.target)) for node in graph.nodes if node.op == "call_function")


def open_batch(inputs: Sequence[Tensor], any_batch: bool) -> Any:
    """Dimension 0 of every input as one that may have any size."""
    if not any_batch:
        return None
    shapes = torch.export.ShapesCollection()
    for tensor in inputs:
        shapes[tensor] = {0: torch.export.Dim.DYNAMIC}
    return shapes


def check_shapes(model: nn.Module, graph: fx.Graph) -> None:
    """Refuse results whose shape depends on values (boolean indexing, nonzero)."""
    for node in graph.nodes:
        value = node.meta.get("val")
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(tensor, Tensor) and any(type(length) is not int for length in tensor.shape):
                raise NotTraceable(
                    f"{type(model).__name__}: the shape of {base_name(node.target)} depends on the values of a tensor "
                    f"({source_line(node) or 'no source line'}); index with a list of numbers instead"
                )


def check_writes(model: nn.Module, graph: fx.Graph) -> None:
    """Refuse writes whose reach the graph does not show."""
    node = hidden_write(graph)
    if node is not None:
        raise NotTraceable(
            f"{type(model).__name__} writes in place to a tensor that may share memory with an argument or result of "
            f"{base_name(node.target)} ({source_line(node) or 'no source line'}), and the program does not show "
            "whether it does; use an out-of-place operator there"
        )


def captured_weights(model: nn.Module, exported: torch.export.ExportedProgram) -> frozenset[str]:
    """The constants of the program that are weights of modules in the closure of a function of the model's.

    Raises:
        NotTraceable: some are weights of modules in plain lists and dictionaries, where no optimiser finds them.
    """
    used = {memory_of(value): name for name, value in exported.constants.items() if isinstance(value, Tensor)}
    found: set[str] = set()
    owned = {memory_of(tensor) for tensor in model.parameters()}
    for path, module in unregistered_modules(model):
        for name, tensor in module.named_parameters(recurse=False):
            if memory_of(tensor) not in used or memory_of(tensor) in owned:
                continue
            if CLOSURE in path:
                found.add(used[memory_of(tensor)])
            else:
                raise NotTraceable(
                    f"{path}.{name} is used, and is not a parameter of {type(model).__name__}: it is held in a plain "
                    f"list or dictionary, which parameters(), eval() and to() do not reach. {REGISTER[0].upper()}"
                    f"{REGISTER[1:]}"
                )
    return frozenset(found)


def memory_of(tensor: Tensor) -> int:
    """Where a tensor's memory starts; a buffer may share it with a parameter."""
    return tensor.untyped_storage().data_ptr() or id(tensor)


def sources(exported: torch.export.ExportedProgram, inputs: Sequence[Tensor]) -> dict[str, Source]:
    """Where each placeholder comes from."""
    spec = torch.export.graph_signature.InputKind
    kinds: dict[Any, Kind] = {spec.PARAMETER: "parameter", spec.BUFFER: "buffer", spec.CONSTANT_TENSOR: "constant"}
    found: dict[str, Source] = {}
    count = 0
    for item in exported.graph_signature.input_specs:
        name = getattr(item.arg, "name", None)
        if item.kind == spec.USER_INPUT:
            if name is not None:
                found[name] = Source("input", f"input {count}", count)
            count += 1
        elif name is not None:
            target = str(item.target)
            tensor = exported.state_dict.get(target, exported.constants.get(target))
            found[name] = Source(kinds.get(item.kind, "constant"), target, tensor=tensor)
    assert count == len(inputs)
    return found


def named_outputs(exported: torch.export.ExportedProgram) -> tuple[tuple[str, Any], ...]:
    """The outputs of the model with the paths a user would write: output, output[0], output['logits']."""
    (node,) = (node for node in exported.graph.nodes if node.op == "output")
    user = torch.export.graph_signature.OutputKind.USER_OUTPUT
    specs = exported.graph_signature.output_specs
    leaves_: Any = node.args[0]
    values = [value for value, spec in zip(leaves_, specs, strict=True) if spec.kind == user]
    tree = pytree.tree_unflatten(list(range(len(values))), exported.call_spec.out_spec)  # pyright: ignore
    named, _ = pytree.tree_flatten_with_path(tree)
    names = {number: "output" + pytree.keystr(path) for path, number in named}
    return tuple((names.get(i, f"output {i}"), value) for i, value in enumerate(values))
