"""A wider first stage, for what the constraint takes from the others (Sivaprasad et al. 2021, section 3).

The first layer is the only one whose weights are free. Its new units have fresh weights; the layers that read them get
the columns of the old units again, divided by how many now share them. What lies between (norms, activations, pooling,
concatenation, flattening) is followed in the traced program by the number of the unit that each channel comes from.

With "signs" the layer stays as it is, and the first activation sees both signs of it (`nn.BothSigns`). The channels
that come in are numbered from −1 downwards, and nothing reads them yet: their columns are zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from convexnet.conversion.changes import Change, describe_module
from convexnet.curvature.row import Sum
from convexnet.curvature.rules.arithmetic import dropout, identity
from convexnet.curvature.rules.pointwise import Pointwise
from convexnet.curvature.rules.reductions import Window
from convexnet.curvature.rules.shapes import pad
from convexnet.curvature.table import is_batch_norm, row_of
from convexnet.curvature.tracing.graph import base_name, module_path
from convexnet.curvature.tracing.trace import Program
from convexnet.nn.norms import Affine
from convexnet.nn.signs import BothSigns

SIGNS = "signs"
"""In place of a factor: both signs of the first activation's argument."""

LAYERS = {kind.__name__.lower(): kind for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)}


def widen_first(model: nn.Module, program: Program, factor: float | str) -> list[Change]:
    """Give the first layer `factor` times as many units, in place, and every layer that reads them the columns.

    Args:
        model: the model that was traced.
        program: its program.
        factor: more than 1; the new width is rounded to a whole number. Or "signs".

    Raises:
        ValueError: the factor is not above 1, or something lies between the first layer and the next ones that cannot
            be widened (a grouped convolution, a sum with what is not widened).
    """
    number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if factor != SIGNS and not (number and 1 < factor < float("inf")):  # pyright: ignore
        raise ValueError(
            f"widen_first must be above 1, not {factor!r}: it multiplies the units of the first layer; or "
            f"{SIGNS!r}, for an activation of both signs"
        )
    plan = Plan(model, program, factor)
    for node in program.graph.nodes:
        if node.op == "call_function":
            plan.visit(node)
    if not plan.origins:
        raise ValueError("widen_first found no linear or convolutional layer that sees the input")
    for leaf in (leaf for _, leaf in program.outputs):
        if leaf in plan.origins:
            raise ValueError("widen_first: the first layer is also the last, and the outputs cannot be widened")
    if factor == SIGNS and not plan.turned:
        raise ValueError(f"widen_first={SIGNS!r} found no activation module behind {plan.first} that could be doubled")
    for apply in plan.edits.values():
        apply()
    return plan.changes


class Plan:
    """What to do to each module, found in one pass over the program; nothing is changed before the pass is over."""

    def __init__(self, model: nn.Module, program: Program, factor: float | str) -> None:
        self.model, self.program, self.factor = model, program, factor
        self.turned = False  # whether the activation that sees both signs was met
        self.origins: dict[fx.Node, Tensor] = {}  # for each channel (dimension 1), the old channel it repeats
        self.edits: dict[str, Callable[[], None]] = {}
        self.changes: list[Change] = []
        self.first = ""

    def layer(self, node: fx.Node, place: int = 1) -> tuple[str, nn.Module] | None:
        """The module whose weight an operator uses."""
        weight = node.args[place] if len(node.args) > place else None
        source = self.program.sources.get(str(weight.target)) if isinstance(weight, fx.Node) else None
        if source is None or source.kind != "parameter":
            return None
        path = source.name.rpartition(".")[0]
        return path, self.model.get_submodule(path)

    def visit(self, node: fx.Node) -> None:
        name = base_name(node.target)
        row = row_of(name)
        read = [n for n in node.all_input_nodes if n in self.origins]
        if not read:
            if name in LAYERS and not self.first:
                self.begin(node)
            return
        origin = self.origins[read[0]]
        found = self.layer(node)
        if name in LAYERS and found is not None:
            self.consume(*found, origin)
        elif is_batch_norm(name):
            if found is not None:
                self.edits[found[0]] = lambda: widen_norm(found[1], origin)
            self.origins[node] = origin
        elif name in ("mul", "add") and (affine := self.affine_of(node)) is not None:
            self.edits[affine[0]] = lambda: widen_norm(affine[1], origin)
            self.origins[node] = origin
        elif name == "flatten" and int(node.args[1] if len(node.args) > 1 else 0) == 1:  # pyright: ignore
            inner = torch.Size(read[0].meta["val"].shape[2:]).numel()
            places = unit_numbers(origin)[:, None] * inner + torch.arange(inner)
            self.origins[node] = torch.where((origin < 0)[:, None], -1 - places, places).flatten()
        elif name in ("mean", "amax") and read[0].meta["val"].ndim > 2 and is_over_positions(node):
            self.origins[node] = origin
        elif name == "cat" and int(node.args[1] if len(node.args) > 1 else 0) == 1:  # pyright: ignore
            self.origins[node] = self.joined(node)
        elif isinstance(row.rule, (Pointwise, Sum, Window)) or row.runs(identity, dropout, pad):
            others = [n for n in node.all_input_nodes if n not in self.origins and is_per_channel(n)]
            if others or not all(torch.equal(self.origins[n], origin) for n in read):
                raise self.refusal(node, name)
            self.origins[node] = self.both(node, origin) if self.turns(node, row.rule) else origin
        else:
            raise self.refusal(node, name)

    def turns(self, node: fx.Node, rule: object) -> bool:
        """Whether a node is the activation that shall see both signs."""
        return self.factor == SIGNS and not self.turned and isinstance(rule, Pointwise) and not rule.is_affine

    def both(self, node: fx.Node, origin: Tensor) -> Tensor:
        """Double an activation."""
        path = module_path(node)
        module = self.model.get_submodule(path) if path else self.model
        alike = [n for n in self.program.graph.nodes if n.op == "call_function" and module_path(n) == path]
        if not path or len(alike) != 1 or any(True for _ in module.parameters()):
            raise ValueError(
                f"widen_first={SIGNS!r} exchanges the activation behind {self.first}, which must be a module of its "
                f"own that is used once, not aten.{base_name(node.target)} in {path or 'the forward itself'}"
            )

        def apply() -> None:
            parent, _, child = path.rpartition(".")
            doubled = BothSigns(module).train(module.training)
            self.model.get_submodule(parent).add_module(child, doubled)
            self.changes.append(Change(path, describe_module(module), describe_module(doubled), f"widen_first={SIGNS}"))

        self.edits[path] = apply
        self.turned = True
        return torch.cat([origin, -1 - origin])

    def affine_of(self, node: fx.Node) -> tuple[str, nn.Module] | None:
        """The `Affine` whose scale or shift an operator uses."""
        for other in node.all_input_nodes:
            while other.op == "call_function" and len(other.all_input_nodes) == 1 and other not in self.origins:
                other = other.all_input_nodes[0]
            source = self.program.sources.get(str(other.target)) if other.op == "placeholder" else None
            if source is not None and source.kind == "parameter":
                path = source.name.rpartition(".")[0]
                module = self.model.get_submodule(path)
                return (path, module) if isinstance(module, Affine) else None
        return None

    def refusal(self, node: fx.Node, name: str) -> ValueError:
        return ValueError(
            f"widen_first cannot follow the units of {self.first} through aten.{name}: build the model with a wider "
            "first layer instead"
        )

    def begin(self, node: fx.Node) -> None:
        found = self.layer(node)
        if found is None or not isinstance(found[1], tuple(LAYERS.values())):
            raise ValueError("widen_first needs a plain linear or convolutional layer at the start")
        path, module = found
        groups = getattr(module, "groups", 1)
        if groups != 1:
            raise ValueError(f"widen_first cannot widen {path}, a convolution with {groups} groups")
        old = node.meta["val"].shape[1 if not isinstance(module, nn.Linear) else -1]
        new = old if isinstance(self.factor, str) else round(old * self.factor)
        origin = torch.arange(new) % old
        if isinstance(module, nn.Linear) and node.meta["val"].ndim != 2:
            raise ValueError(f"widen_first follows units in dimension 1; {path} has them in the last of several")
        before = describe_module(module)
        self.first, self.origins[node] = path, origin

        def apply() -> None:
            widen_outputs(module, new)
            self.changes.append(Change(path, before, describe_module(module), f"widen_first={self.factor:g}"))

        if new != old:
            self.edits[path] = apply

    def consume(self, path: str, module: nn.Module, origin: Tensor) -> None:
        if not isinstance(module, tuple(LAYERS.values())) or getattr(module, "groups", 1) != 1:
            raise ValueError(
                f"widen_first cannot widen the input of {path} ({describe_module(module)}): build it wider"
            )
        if path in self.edits:
            raise ValueError(f"widen_first: {path} is used twice")
        self.edits[path] = lambda: widen_inputs(module, origin)

    def joined(self, node: fx.Node) -> Tensor:
        parts: Any = node.args[0]
        offset, columns = 0, list[Tensor]()
        for part in parts:
            size = part.meta["val"].shape[1]
            origin = self.origins.get(part, torch.arange(size))
            columns.append(torch.where(origin < 0, origin - offset, origin + offset))
            offset += size
        return torch.cat(columns)


def unit_numbers(origin: Tensor) -> Tensor:
    """The numbers of the units that channels come from, whichever sign of them they see.

    Example:
        >>> unit_numbers(torch.tensor([0, 1, -1, -2]))
        tensor([0, 1, 0, 1])
    """
    return torch.where(origin < 0, -1 - origin, origin)


def is_over_positions(node: fx.Node) -> bool:
    """Whether a mean runs over positions only."""
    dims: Any = node.args[1] if len(node.args) > 1 else None
    return dims is not None and all(d % node.all_input_nodes[0].meta["val"].ndim >= 2 for d in dims)


def is_per_channel(node: fx.Node) -> bool:
    """Whether a value has one entry for each channel."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.ndim > 0 and value.numel() > 1


def replace_parameters(module: nn.Module, tensors: Mapping[str, Tensor | None]) -> None:
    """New parameters and buffers of other shapes."""
    for name, value in tensors.items():
        old = getattr(module, name, None)
        if value is None or old is None:
            continue
        if isinstance(old, nn.Parameter):
            setattr(module, name, nn.Parameter(value, requires_grad=old.requires_grad))
        else:
            setattr(module, name, value)


@torch.no_grad()
def widen_outputs(module: nn.Module, width: int) -> None:
    """The old units, and new ones with the layer's own initialisation."""
    old: dict[str, Tensor] = {name: p.detach().clone() for name, p in module.named_parameters(recurse=False)}
    count = old["weight"].shape[0]
    replace_parameters(module, {n: v.new_empty(width, *v.shape[1:]) for n, v in old.items()})
    setattr(module, "out_features" if isinstance(module, nn.Linear) else "out_channels", width)
    module.reset_parameters()  # pyright: ignore
    for name, value in old.items():
        getattr(module, name)[:count] = value


@torch.no_grad()
def widen_inputs(module: nn.Module, origin: Tensor) -> None:
    """The columns of the old units, shared among their copies."""
    weight: Tensor = module.weight  # pyright: ignore
    shares = torch.bincount(origin[origin >= 0], minlength=weight.shape[1]).to(weight)
    scaled = weight / shares.view(1, -1, *[1] * (weight.ndim - 2))
    columns = scaled[:, unit_numbers(origin).to(weight.device)].clone()
    columns[:, (origin < 0).to(weight.device)] = 0.0
    replace_parameters(module, {"weight": columns})
    setattr(module, "in_features" if isinstance(module, nn.Linear) else "in_channels", len(origin))


@torch.no_grad()
def widen_norm(module: nn.Module, origin: Tensor) -> None:
    names = ("weight", "bias", "running_mean", "running_var")
    values = {n: getattr(module, n, None) for n in names}
    places = unit_numbers(origin)
    replace_parameters(
        module, {n: None if v is None else v.detach()[places.to(v.device)].clone() for n, v in values.items()}
    )
    if hasattr(module, "num_features"):
        module.num_features = len(origin)  # pyright: ignore
