"""Executing a traced program with its bends cut out: what arrives at each, and what the program makes of their results.

Where `given` is a parameter that takes its value later, the elementwise products with what depends on it (the gates of
a PICNN) are cut out too, so that what lies between two cuts is always affine with coefficients that do not change.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from convexnet.curvature.arguments import in_float64, real
from convexnet.curvature.call import Refusal
from convexnet.curvature.findings import Finding
from convexnet.curvature.graph import ancestors, base_name, functional, module_path, parents, source_line
from convexnet.curvature.trace import Program
from convexnet.errors import NotCertified
from convexnet.export.bends import BENDS
from convexnet.export.operators import AFFINE, BENT, FACTORS, INSTEAD
from convexnet.export.rules import Use

OFFSETS = frozenset(("maximum", "minimum", "max", "min", "clamp", "clamp_min", "clamp_max"))
"""Bent operators that a parameter may enter, as something that is added."""

GATE = "gate"


@dataclass(frozen=True, eq=False)
class Cut:
    """A place where the program is cut.

    Attributes:
        bend: the name of a bend, or "gate": a product with factors that depend on `given`.
        setting: of the bend: a number, or one for each result, (m,).
        shape: of the result, for one sample.
        group: how many elements of the argument make one result.
        node: the operator.
    """

    bend: str
    setting: float | Tensor
    shape: torch.Size
    group: int
    node: fx.Node

    @property
    def size(self) -> int:
        """m, the number of results."""
        return self.shape.numel()


class Reading:
    """A traced program, read as a function of one input.

    Args:
        program: traced with an open batch size, or with one that every run then has.
        variable: the number of the input that varies.
        parameters: the numbers of inputs whose value changes later.
        allowed: names of bends that can be exported.

    Raises:
        NotCertified: operators that cannot be exported, each with its source line and a remedy.
    """

    def __init__(self, program: Program, variable: int, parameters: Collection[int], allowed: Collection[str]) -> None:
        self.program, self.variable = program, variable
        ((_, self.output),) = program.outputs
        kept = ancestors(self.output)
        self.nodes = [node for node in program.graph.nodes if node in kept]
        self.held = {node: own for node in self.nodes if (own := self.tensor_of(node)) is not None}
        self.moving = self.reached({variable})
        self.touched = self.reached(parameters)
        self.allowed = allowed
        refuse(program.model, [f for node in self.nodes if node in self.moving for f in self.against(node)])

    def tensor_of(self, node: fx.Node) -> Any:
        """What the model holds for a node, as it is now: it may be trained on."""
        if node.op == "get_attr":
            return copied(operator.attrgetter(str(node.target))(self.program.module))
        source = self.program.sources.get(str(node.target)) if node.op == "placeholder" else None
        return None if source is None or source.kind == "input" else copied(source.tensor)

    def reached(self, inputs: Collection[int]) -> set[fx.Node]:
        """Every node that is computed from the values of some inputs."""
        found: set[fx.Node] = set()
        for node in self.nodes:
            source = self.program.sources.get(str(node.target)) if node.op == "placeholder" else None
            if source is not None and source.kind == "input" and source.index in inputs:
                found.add(node)
            elif found.intersection(parents(node)):
                found.add(node)
        return found

    def against(self, node: fx.Node) -> list[Finding]:
        """What speaks against an operator that sees the variable, before anything is executed."""
        name = base_name(node.target)
        if node.op != "call_function" or node.target is operator.getitem:
            return []
        if name not in BENT and name not in AFFINE:
            reason = "it is neither affine nor one of the functions that can be exported"
            return [finding(node, Refusal(reason, INSTEAD.get(name, SIMPLER)))]
        moving = [value for value in self.factors(node) if value in self.moving]
        if len(set(moving)) > 1 or (name != "mul" and len(moving) > 1) or (name == "div" and node.args[1] in moving):
            return [finding(node, Refusal("it multiplies two quantities that depend on the variable", SQUARES))]
        changing = [value for value in self.factors(node) if self.changes(value)]
        if changing and name not in ("mul", "div"):
            return [finding(node, Refusal("its weights depend on a parameter", ARRAY))]
        if (
            name in BENT
            and name not in OFFSETS
            and name != "mul"
            and any(self.changes(value) for value in parents(node))
        ):
            return [finding(node, Refusal("what it does depends on a parameter", ARRAY))]
        return []

    def factors(self, node: fx.Node) -> list[fx.Node]:
        """The factors of a product."""
        found: list[fx.Node] = []
        for place in FACTORS.get(base_name(node.target), ()):
            value: Any = node.args[place] if place < len(node.args) else None
            found += [v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, fx.Node)]
        return found

    def changes(self, value: Any) -> bool:
        """Whether a value depends on a parameter and not on the variable."""
        return value in self.touched and value not in self.moving

    def run(self, inputs: Sequence[Tensor], cut: Callable[..., Tensor]) -> Tensor:
        """Execute the program in float64, with `cut(node, bend, a, setting, group)` at each cut; returns (B, ...)."""
        env: dict[fx.Node, Any] = {}
        for node in self.nodes:
            if node in self.held:
                env[node] = self.held[node]
            elif node.op == "placeholder":
                env[node] = in_float64(inputs[self.program.sources[str(node.target)].index])
            else:
                env[node] = self.step(node, env, cut)
        return env[self.output]

    def step(self, node: fx.Node, env: Mapping[fx.Node, Any], cut: Callable[..., Tensor]) -> Any:
        args: Any = widened(fx.map_arg(node.args, env.__getitem__))
        kwargs: Any = widened(fx.map_arg(node.kwargs, env.__getitem__))
        if node.target is operator.getitem:
            return args[0][args[1]]
        name = base_name(node.target)
        if node in self.moving and name in BENT:
            args, kwargs = all_real(args), all_real(kwargs)
        use = Use(functional(node.target, name), args, kwargs)

        def here(bend: str, a: Tensor, setting: float | Tensor = 0.0, group: bool = False) -> Tensor:
            if bend not in self.allowed:
                raise refused(self.program.model, [finding(node, Refusal(NOT_LINEAR, LINEAR_REMEDY))])
            return cut(node, bend, a if group else a[..., None], setting)

        if node in self.moving and name in ("mul", "div") and any(map(self.changes, self.factors(node))):
            first = 0 if node.args[0] in self.moving else 1
            factor = args[1 - first] if name == "mul" else 1 / args[1]
            a, factor = torch.broadcast_tensors(args[first], factor)
            return cut(node, GATE, a[..., None], factor)
        try:
            out = BENT[name](here, use) if node in self.moving and name in BENT else use.operator(*args, **kwargs)
        except Refusal as refusal:
            raise refused(self.program.model, [finding(node, refusal)]) from None
        return tuple(map(in_float64, out)) if isinstance(out, (tuple, list)) else in_float64(out)

    def record(self, inputs: Sequence[Tensor]) -> tuple[list[Cut], Tensor]:
        """The cuts, in the order in which they are met, and the value of the program."""
        found: list[Cut] = []

        def noted(node: fx.Node, bend: str, a: Tensor, setting: float | Tensor) -> Tensor:
            shape = a.shape[1:-1]
            if bend == GATE:
                found.append(Cut(GATE, 0.0, shape, 1, node))
                return a[..., 0] * setting
            if isinstance(setting, Tensor):
                setting = setting.expand(a.shape[:-1])
            own = setting[0].flatten().cpu().clone() if isinstance(setting, Tensor) else float(setting)
            found.append(Cut(bend, own, shape, a.shape[-1], node))
            return BENDS[bend].value(a, setting)

        return found, self.run(inputs, noted)


SIMPLER = "write it with simpler operators, or minimise with cx.minimise"
SQUARES = "the square of one tensor can be exported: write y.square() or y * y"
ARRAY = "give `given` as arrays instead of parameters, and export again for each of their values"
NOT_LINEAR = "it is not piecewise linear, and a linear program holds nothing else"
LINEAR_REMEDY = "use ReLU, LeakyReLU, absolute values and maxima; or to_cvxpy, or minimise"


def copied(value: Any) -> Any:
    """A tensor of the model in float64, in memory of its own; anything else, such as the program of a region, as is."""
    return in_float64(value.detach().clone()) if isinstance(value, Tensor) else value


def widened(value: Any) -> Any:
    """Everything is computed in float64, whatever an operator asks for."""
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return torch.float64
    if isinstance(value, (list, tuple)):
        return type(value)(map(widened, value)) if type(value) in (list, tuple) else value
    return {key: widened(item) for key, item in value.items()} if isinstance(value, dict) else value


def all_real(value: Any) -> Any:
    """Arguments of a function of `bends`, whose form is computed from them: integers of a tensor would wrap around."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(all_real, value)) if type(value) in (list, tuple) else value
    if isinstance(value, dict):
        return {key: all_real(item) for key, item in value.items()}
    return real(value)


def finding(node: fx.Node, refusal: Refusal) -> Finding:
    """A refusal with the place of the operator."""
    name = f"aten.{base_name(node.target)}"
    return Finding(module_path(node), source_line(node), name, "", refusal.reason, refusal.remedy)


def refused(model: str, findings: Sequence[Finding]) -> NotCertified:
    """The error that lists what stands in the way of an export."""
    return NotCertified(f"NOT EXPORTED: {model}\n" + "\n".join(map(str, findings)), tuple(findings))


def refuse(model: str, findings: Sequence[Finding]) -> None:
    """Raise it, if there is anything."""
    if findings:
        raise refused(model, findings)
