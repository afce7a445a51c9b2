"""One traced program per model: the graph that every walk of the calculus runs over.

`trace` calls `torch.export` once, at batch 2 and in eval mode, and is the one place that deals with modes, aliasing
and the errors of tracing. The graph keeps whole operators (softplus, batch_norm, max_pool2d), with the module path and
the source line of each. It is not functional, so where an in-place operator touches a tensor that somebody else can
still see, the graph is replaced by its functional decomposition, in which such writes are ordinary operators.
"""

from __future__ import annotations

import io
import logging
import operator
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.utils import _pytree as pytree

from convexnet.curvature.arguments import as_example, two_rows, unwrapped
from convexnet.curvature.graph import (
    FRAME,
    TORCH,
    base_name,
    hidden_write,
    simplified,
    source_line,
    without_idle_dropout,
    writes_through,
)
from convexnet.curvature.undisturbed import TRACING, calling, evaluating
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
    inner = unwrapped(model)
    check_modes(inner)
    inputs = tuple(two_rows(tensor) for tensor in as_example(example))
    with evaluating(inner), warnings.catch_warnings(), quiet_logs():
        warnings.simplefilter("ignore")
        check_lazy(inner)
        try:
            exported = torch.export.export(inner, inputs, dynamic_shapes=open_batch(inputs, any_batch), strict=False)
            without_idle_dropout(exported.graph)
            functional = writes_through(exported.graph, exported.graph_module)
            if functional:
                check_writes(inner, exported.graph)
                exported.graph_module.recompile()
                exported = exported.run_decompositions({})
        except NotTraceable:
            raise
        except Exception as error:
            # torch's own frames would bury the message: keep the cause, without its traceback
            raise NotTraceable(explain(inner, inputs, error)) from error.with_traceback(None)
    if not any_batch:
        check_shapes(inner, exported.graph)
    return Program(
        graph=simplified(exported.graph),
        sources=sources(exported, inputs),
        outputs=leaves(exported),
        inputs=inputs,
        model=type(inner).__name__,
        module=exported.graph_module,
        functional=functional,
        rewritten=frozenset(map(str, exported.graph_signature.buffers_to_mutate.values())),
    )


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


@contextmanager
def quiet_logs() -> Generator[None]:
    """torch.export logs, and prints to stderr, what it had of a graph it could not finish; we report that ourselves."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def is_waiting(module: Any) -> bool:
    """Whether a lazy module has not seen a batch yet."""
    return bool(module.has_uninitialized_params())


def check_modes(model: nn.Module) -> None:
    """A `train` of the model's own may do anything, and is not ours to call."""
    for name, module in model.named_modules():
        if module.training and type(module).train is not nn.Module.train:
            raise NotTraceable(
                f"{name or type(module).__name__} is in training mode and overrides train(), which may change more "
                "than a flag: call model.eval() before certifying"
            )


def check_lazy(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise NotTraceable(
                f"{name} is on the meta device and has no values: materialise the model with to_empty first"
            )
        if type(parameter).__name__ == "DTensor" or type(parameter.data).__name__ == "DTensor":
            raise NotTraceable(
                f"{name} is sharded over processes (FSDP2, tensor parallel), and a shard cannot be traced: constrain, "
                "convert and certify the model before sharding it, and certify a copy with its full weights afterwards"
            )
    for name, module in model.named_modules():
        if isinstance(module, LazyModuleMixin) and is_waiting(module):
            raise NotTraceable(
                f"{name or 'the model'} is a lazy module without shapes yet: run one batch through it first"
            )


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


def leaves(exported: torch.export.ExportedProgram) -> tuple[tuple[str, Any], ...]:
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


def explain(model: nn.Module, inputs: Sequence[Tensor], error: Exception) -> str:
    """What went wrong while tracing, in our words first."""
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    text = str(error)
    head = (
        f"{type(model).__name__} could not be traced on inputs of shape {shapes}: {type(error).__name__}: {first[:300]}"
    )
    if "data-dependent" in text.lower() or "GuardOnDataDependent" in type(error).__name__ or "torch.cond" in text:
        remedy = "its forward branches on the values of a tensor; write the choice as a maximum or torch.where"
    elif "Unsupported" in type(error).__name__ or "unsupported" in text.lower():
        remedy = "an input or output has a type that torch.export does not know; return tensors, tuples or dictionaries"
    else:
        try:
            with calling(model):
                model(*inputs)
        except Exception:
            remedy = "its forward also fails when simply called on two rows of the example: check shapes and types"
        else:
            remedy = "its forward runs, but torch.export cannot record it: see the cause above this error"
    place = [f for f in FRAME.findall(text) if not f[0].startswith(TORCH)]
    where = f"\n  at {place[-1][0]}:{place[-1][1]} in {place[-1][2]}" if place else ""
    return f"{head}{where}\n  {remedy}"
