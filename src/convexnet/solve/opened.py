"""A traced program, cut open at its bends: it is executed with other functions in their place."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from convexnet.curvature.arguments import in_float64
from convexnet.curvature.graph import base_name, functional, parents
from convexnet.curvature.trace import Program
from convexnet.solve.bends import Bend, Kinks
from convexnet.solve.kinks import KINKS

ADDITIVE = ("add", "sub", "rsub", "cat", "stack", "maximum", "max", "minimum", "clamp", "clamp_min")
"""Operators that add other inputs to what moves, and do not multiply the two."""


class Opened:
    """A traced program whose bends can be exchanged.

    Attributes:
        gated: other inputs may multiply what moves with the variable.
    """

    def __init__(self, program: Program, variable: int) -> None:
        self.program = program
        self.variable = variable
        ((_, self.output),) = program.outputs
        self.moving: set[fx.Node] = set()
        self.other: set[fx.Node] = set()
        self.gated = False
        for node in program.graph.nodes:
            source = program.sources.get(str(node.target)) if node.op == "placeholder" else None
            given = source is not None and source.kind == "input"
            chosen = source is not None and given and source.index == variable
            read = parents(node)
            if chosen or self.moving.intersection(read):
                self.moving.add(node)
                mixed = self.other.intersection(read)
                self.gated |= bool(mixed) and base_name(node.target) not in ADDITIVE
            elif (
                given or self.other.intersection(node.all_input_nodes) or self.moving.intersection(node.all_input_nodes)
            ):
                self.other.add(node)
        self.fixed: dict[fx.Node, Any] = {}

    def forget(self) -> None:
        """The model's tensors have changed."""
        self.fixed.clear()

    def run(self, inputs: Sequence[Tensor], bend: Callable[..., Tensor], live: bool = False) -> Tensor:
        """Execute the program in float64 with `bend(a, slope or Bend)` for every bend that sees the variable.

        Args:
            inputs: a batch of each.
            bend: what to compute instead.
            live: let gradients flow to the model's parameters.

        Returns:
            The output, (B,).
        """
        env: dict[fx.Node, Any] = {} if live else dict(self.fixed)
        for node in self.program.graph.nodes:
            if node not in env and node.op != "output":
                env[node] = self.computed(node, env, inputs, bend, live)
                if not live and node not in self.moving and node not in self.other:
                    self.fixed[node] = env[node]
        return env[self.output].reshape(-1)

    def computed(
        self,
        node: fx.Node,
        env: dict[fx.Node, Any],
        inputs: Sequence[Tensor],
        bend: Callable[..., Tensor],
        live: bool,
    ) -> Any:
        if node.op == "placeholder":
            source = self.program.sources[str(node.target)]
            if source.kind == "input":
                return in_float64(inputs[source.index])
            return usable(source.tensor if live or source.tensor is None else source.tensor.detach())
        if node.op == "get_attr":
            return usable(operator.attrgetter(str(node.target))(self.program.module))
        args: Any = fx.map_arg(node.args, env.__getitem__)
        kwargs: Any = fx.map_arg(node.kwargs, env.__getitem__)
        name = base_name(node.target)
        if node.target is operator.getitem:
            return args[0][args[1]]
        if name in KINKS and node in self.moving:
            return KINKS[name](with_columns(bend), tuple(map(real, args)), {k: real(v) for k, v in kwargs.items()})
        return functional(node.target, name)(*map(exact, args), **{key: exact(value) for key, value in kwargs.items()})


def usable(tensor: Any) -> Any:
    """A tensor of the model in float64, and not one of inference mode, which automatic differentiation refuses."""
    made = in_float64(tensor)
    return made.clone() if isinstance(made, Tensor) and made.is_inference() else made


def real(value: Any) -> Any:
    """An argument of a bend: its rule computes with it, and integers of a tensor would wrap around."""
    return value.double() if isinstance(value, Tensor) and not value.is_complex() else value


def exact(setting: Any) -> Any:
    """An argument of an operator, where a type that is asked for (`y.float()`) becomes float64, as everything here."""
    return torch.float64 if isinstance(setting, torch.dtype) and setting.is_floating_point else setting


def with_columns(bend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The bend for (B,) too, as one column."""

    def bent(a: Tensor, *rest: Any) -> Tensor:
        return bend(a[:, None], *rest)[:, 0] if a.ndim == 1 else bend(a, *rest)

    return bent


def bend_of(a: Tensor, bend: float | Tensor | Bend) -> Bend:
    """The bend of an argument (B, ...): a slope is that of a kink, for each entry of a sample."""
    if isinstance(bend, Bend):
        return bend
    return Kinks(torch.as_tensor(bend, dtype=a.dtype, device=a.device).expand(a[:1].shape)[0].flatten().clone())


def value_of(a: Tensor, bend: float | Tensor | Bend) -> Tensor:
    """The bend itself, as an argument of `Opened.run`."""
    if isinstance(bend, Bend):
        flat = a.flatten(1)
        return bend.value(flat).reshape(a.shape if bend.group == 1 else a.shape[:-1])
    return torch.maximum(bend * a, a)
