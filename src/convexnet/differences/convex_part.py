"""A convex part of a network: the traced program, executed on differences of convex functions.

The program is traced with a free batch size, so that the parts work on batches of any size. Where the forward fixes
the size while it is traced (`len(x)` does, `x.shape[0]` does not), the program is the one for two rows, and runs on two
rows at a time: the same function, for the certificate shows that no row depends on another.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from convexnet.curvature import trace
from convexnet.curvature.adversary.falsify import default_double
from convexnet.curvature.arguments import in_float64
from convexnet.curvature.call import Refusal
from convexnet.curvature.fields import BATCH
from convexnet.curvature.findings import Finding
from convexnet.curvature.rules.opaque_operators import Opaque, explain_not_real, refuse_unruled
from convexnet.curvature.table import TABLE as KNOWN
from convexnet.curvature.table import row_of, shape_only
from convexnet.curvature.tracing.graph import base_name, draws, functional, module_path, results_of, source_line
from convexnet.curvature.tracing.trace import Program
from convexnet.curvature.walk import RANDOM, last_uses
from convexnet.differences.arithmetic import Difference, Operation, items_of, parts_of
from convexnet.differences.rules import TABLE
from convexnet.errors import NotTraceable

Wanted = Literal["p", "q", "shifted"]


def trace_for_rows(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Program, int | None]:
    """The program of a model, and the number of rows it is for: None, any number, where that can be traced.

    Raises:
        NotTraceable: `torch.export` cannot record the forward.
    """
    with default_double():
        try:
            return trace(model, inputs, any_batch=True), None
        except NotTraceable:
            return trace(model, inputs), BATCH


LOST = object()
"""In place of what a refused operator would have returned."""

INDICES = Refusal("it uses the places of maxima, which jump as the input changes", "use the maxima only")

REGION = Refusal("it is a region of the program (no_grad, autocast, cond)", "leave the region out of the forward")


class ConvexPart(nn.Module):
    """A convex part of a network: its program, executed on differences p − q, of which one part is returned.

    Takes what the network takes, at any batch size and in any floating type, and returns float64. The network's
    parameters are here frozen float64 parameters (`requires_grad=False`), its buffers and constants are buffers; the
    parts of one split share them. Gradients flow to the inputs.

    Attributes:
        error: the measured relative error of the split it belongs to.

    Example:
        >>> from convexnet.split import split
        >>> p, q = split(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)))
        >>> type(p).__name__, [tensor.dtype for tensor in p.parameters()] == 4 * [torch.float64]
        ('ConvexPart', True)
    """

    def __init__(self, program: Program, rows: int | None, wanted: Wanted) -> None:
        super().__init__()
        self.wanted = wanted
        self.rows = rows
        self.error = math.nan
        self.tensors = nn.Module()
        self.graph, output = fx.Graph(), only_output(program)
        values: dict[fx.Node, fx.Node] = {}
        self.inputs: dict[str, int] = {}
        for node, done in last_uses(program.graph, output).items():
            if node.op == "output":
                continue
            values[node] = self.graph.node_copy(node, values.__getitem__)
            values[node].meta = {
                "floating": results_of(node)[1][0],
                "unreal": explain_not_real(node.meta.get("val")),
                "tensor": isinstance(node.meta.get("val"), Tensor),
                "listed": isinstance(node.meta.get("val"), (list, tuple)),
                "place": (module_path(node), source_line(node)),
                "done": [values[other].name for other in done],
            }
            self.hold(node, values[node].name, program)
        self.graph.output(values[output.all_input_nodes[0]])
        self.eval()

    def hold(self, node: fx.Node, name: str, program: Program) -> None:
        """Keep the tensor that a placeholder stands for."""
        source = program.sources.get(node.name)
        if source is not None and source.kind == "input":
            self.inputs[name] = source.index
        elif node.op in ("placeholder", "get_attr"):
            held: Any = source.tensor if source is not None else operator.attrgetter(str(node.target))(program.module)
            if isinstance(held, Tensor):
                tensor = held.detach()
                tensor = tensor.double() if tensor.is_floating_point() else tensor
                if source is not None and source.kind == "parameter":
                    self.tensors.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
                else:
                    self.tensors.register_buffer(name, tensor)

    def difference(self, inputs: Sequence[Tensor], refused: list[Finding] | None = None) -> Any:
        """The output as a difference. Refusals are raised, or collected in `refused` where it is given."""
        count = inputs[0].shape[0]
        if self.rows is None or count == self.rows:
            return self.executed(inputs, refused)
        places = torch.arange(-(-count // self.rows) * self.rows).clamp(max=count - 1).split(self.rows)
        found = [parts_of(self.executed([x[at] for x in inputs], refused)) for at in places]
        p = torch.cat([piece[0] for piece in found])[:count]
        below = [piece[1] for piece in found if piece[1] is not None]
        return Difference(p, torch.cat(below)[:count] if below else None)

    def executed(self, inputs: Sequence[Tensor], refused: list[Finding] | None) -> Any:
        """Run the program, once."""
        env: dict[str, Any] = {}
        for node in self.graph.nodes:
            if node.op == "output":
                return env[node.all_input_nodes[0].name]
            if node.name in self.inputs:
                x = inputs[self.inputs[node.name]]
                env[node.name] = Difference(x.double(), None, True) if x.is_floating_point() else x
            elif node.op != "call_function":
                env[node.name] = getattr(self.tensors, node.name, None)  # None: the program of a region
            else:
                try:
                    env[node.name] = execute_node(node, env)
                except Refusal as refusal:
                    if refused is None:
                        raise
                    path, source = node.meta["place"]
                    name = f"aten.{base_name(node.target)}"
                    refused.append(Finding(path, source, name, "", refusal.reason, refusal.remedy))
                    env[node.name] = LOST
            for name in node.meta["done"]:
                del env[name]
        raise AssertionError("the program has no output")

    def other(self, wanted: Wanted) -> ConvexPart:
        """Another part of the same split; it shares the tensors."""
        part = copy.copy(self)
        part.wanted = wanted
        return part

    def forward(self, *inputs: Tensor) -> Tensor:
        p, q, _ = parts_of(self.difference(inputs))
        q = torch.zeros_like(p) if q is None else q
        if self.wanted == "shifted":
            others = 1.0 - torch.eye(q.shape[1], dtype=q.dtype, device=q.device)
            return p + q @ others
        return p if self.wanted == "p" else q


def only_output(program: Program) -> fx.Node:
    """The output node of a program that returns one real tensor, and nothing else from here on."""
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    leaf = program.outputs[0][1] if len(program.outputs) == 1 else None
    if not isinstance(leaf, fx.Node) or not results_of(leaf)[1][0]:
        raise ValueError(
            f"{program.model} returns {len(program.outputs)} outputs, or one that is not a floating-point tensor: a "
            "split is of one real tensor; wrap the model in a module that returns it"
        )
    output.args = (leaf,)
    return output


def execute_node(node: fx.Node, env: dict[str, Any]) -> Any:
    """One operator: executed as it is on constants, by its rule on differences."""
    args: Any = fx.map_arg(node.args, lambda other: env[other.name])
    kwargs: Any = fx.map_arg(node.kwargs, lambda other: env[other.name])
    values = list(items_of((args, tuple(kwargs.values()))))
    if any(value is LOST for value in values):
        return LOST
    unread = shape_only(base_name(node.target))
    read = list(items_of(([arg for i, arg in enumerate(args) if i not in unread], tuple(kwargs.values()))))
    if node.target is operator.getitem:
        if isinstance(args[0], tuple) and args[1] >= len(args[0]):
            raise INDICES
        return args[0][args[1]]
    name = base_name(node.target)
    if not hasattr(node.target, "_schema") and any(isinstance(value, (Difference, Tensor)) for value in values):
        raise REGION
    try:
        if not any(isinstance(value, Difference) for value in read):
            if draws(node):
                raise RANDOM
            return execute_constant(node, tuple(arg.p if isinstance(arg, Difference) else arg for arg in args), kwargs)
        if name not in TABLE:
            raise RANDOM if draws(node) else explain_no_row(name)
        if not node.meta["floating"]:
            raise node.meta["unreal"]
        run = functional(node.target, name)  # writes in place are left only where nobody else can see them
        result = TABLE[name](Operation(run, name, args, kwargs))
    except (RuntimeError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise Refusal(f"its rule does not cover this call ({cause})", "write it with simpler operators") from error
    return (result,) if node.meta["listed"] and isinstance(result, Difference) else result


def execute_constant(node: fx.Node, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """An operator on what does not depend on the inputs, in float64."""
    values = list(items_of((args, tuple(kwargs.values()))))
    tensors = any(isinstance(value, Tensor) for value in values)
    if base_name(node.target) == "item" and node.meta["floating"]:  # a tensor still, for the part is traced itself
        return args[0].double().reshape(())
    schema = getattr(node.target, "_schema", None)
    if schema is not None and not tensors and node.meta["floating"] and node.meta["tensor"]:
        if any(argument.name == "dtype" for argument in schema.arguments):  # torch.full, torch.linspace, ...
            kwargs = {**kwargs, "dtype": torch.float64}
    result = functional(node.target, base_name(node.target))(*args, **kwargs)
    if isinstance(result, (list, tuple)):
        return tuple(map(in_float64, result))
    return in_float64(result)


def explain_no_row(name: str) -> Refusal:
    """Why an operator has no row."""
    row = row_of(name)
    if isinstance(row.rule, Opaque) and row.rule.reason:
        return Refusal(row.rule.reason, row.rule.remedy)
    if name not in KNOWN:
        return refuse_unruled(name)
    if name.startswith("rnn_relu"):
        return Refusal("it is a whole recurrent network in one operator", "write its steps with nn.Linear and nn.ReLU")
    return Refusal(
        "it is neither linear nor a maximum, and only those are written as differences of convex functions here",
        "use a piecewise linear one: ReLU, LeakyReLU, PReLU, abs, Hardtanh, a maximum",
    )
