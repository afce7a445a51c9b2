"""Keeping a network convex while it trains: which parameters must be non-negative, and how they are kept so.

`constrain` walks the traced program with every trainable parameter of unknown value. Where a weighted linear operator
meets an argument that is not affine, its weight must be non-negative; the walk then goes on under that assumption, and
proves convexity for *all* values the constrained parameters may take. What is constrained is therefore derived by the
same rules that certify: "all but the first layer" is a result here, not a recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.hooks import RemovableHandle

from convexnet.curvature import explain
from convexnet.curvature.arguments import chosen, unwrapped
from convexnet.curvature.call import Call
from convexnet.curvature.certificate import given, proved
from convexnet.curvature.facts import INF, Fact, constant
from convexnet.curvature.fields import core, uniform, where_any
from convexnet.curvature.findings import findings_of
from convexnet.curvature.trace import Source, trace
from convexnet.curvature.walk import walk
from convexnet.errors import NotCertified

WEIGHT_AT = {
    "linear": 1, "conv1d": 1, "conv2d": 1, "conv3d": 1, "conv_transpose1d": 1,
    "conv_transpose2d": 1, "conv_transpose3d": 1, "batch_norm": 1, "_native_batch_norm_legit_no_training": 1,
}  # fmt: skip
"""Operators whose weight may be constrained, and where among their arguments it stands; the first one is the data."""

STATE = "_convexnet_constraint"
"""Where a constrained module remembers its constraint; plain data, so that it survives deepcopy and pickling."""


# --- methods ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exponentiate:
    """w < 0 becomes e^(w - epsilon), after the update (Sivaprasad et al. 2021, section 3 and appendix B).

    An overwrite, not a reparametrisation: it is not continuous at zero (-1e-6 becomes e^-epsilon, 0.0067 for 5).
    """

    epsilon: float = 5.0

    def project(self, weight: Tensor) -> None:
        weight.copy_(torch.where(weight < 0, torch.exp(weight - self.epsilon), weight))


@dataclass(frozen=True)
class Clip:
    """w < 0 becomes 0: the Euclidean projection."""

    def project(self, weight: Tensor) -> None:
        weight.clamp_(min=0)


def method_of(name: str | None, epsilon: float, model: nn.Module) -> Exponentiate | Clip:
    """The method by its name; None: the one recorded on the model."""
    if name is None and STATE in model.__dict__:
        return model.__dict__[STATE][1]
    name = "exponentiate" if name is None else name
    if name == "exponentiate":
        if not epsilon >= 0:
            raise ValueError(f"epsilon must be non-negative, not {epsilon}: e^(w - epsilon) is then at most 1")
        return Exponentiate(epsilon)
    if name == "clip":
        return Clip()
    raise ValueError(f"unknown method {name!r}; the methods are 'exponentiate' and 'clip'")


# --- the cone --------------------------------------------------------------------------------------------------------


class Cone:
    """The parameters of one model that are kept non-negative, and the method that does it.

    Attributes:
        parameters: their names, as in `model.named_parameters()`.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> cone = constrain(net, torch.zeros(1, 2), method="clip")
        >>> cone.parameters, cone.violation()
        (('2.weight',), 0.0)
    """

    def __init__(self, model: nn.Module, parameters: tuple[str, ...], method: Exponentiate | Clip) -> None:
        self.model = model
        self.parameters = parameters
        self.method = method
        self._handles: list[RemovableHandle] = []

    def __repr__(self) -> str:
        count = f"{len(self.parameters)} parameter{'' if len(self.parameters) == 1 else 's'}"
        return f"Cone({count} of {type(self.model).__name__} >= 0, by {self.method})"

    def tensors(self) -> list[nn.Parameter]:
        """The constrained parameters.

        Example:
            >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
            >>> [tuple(p.shape) for p in constrain(net, torch.zeros(1, 2), method="clip").tensors()]
            [(1, 8)]
        """
        return [self.model.get_parameter(name) for name in self.parameters]

    @torch.no_grad()
    def project(self) -> None:
        """Make every constrained parameter non-negative, in place.

        Example:
            >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
            >>> cone = constrain(net, torch.zeros(1, 2), method="clip")
            >>> _ = net[2].weight.data.fill_(-1.0)
            >>> cone.project()
            >>> net[2].weight.min().item()
            0.0
        """
        for tensor in self.tensors():
            self.method.project(tensor)

    @torch.no_grad()
    def violation(self) -> float:
        """The size of the most negative constrained entry; 0 where all are non-negative, NaN if one is NaN.

        Example:
            >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
            >>> cone = constrain(net, torch.zeros(1, 2), method="clip")
            >>> _ = net[2].weight.data.fill_(-1.5)
            >>> cone.violation()
            1.5
        """
        lows = [tensor.detach().min().double().cpu() for tensor in self.tensors() if tensor.numel()]
        return float((-torch.stack(lows).amin()).clamp(min=0.0)) + 0.0 if lows else 0.0

    def attach(self, optimizer: torch.optim.Optimizer) -> Cone:
        """Project after every step of an optimiser (skipped exactly when GradScaler skips the step).

        Raises:
            ValueError: the optimiser does not update every constrained parameter that trains.

        Example:
            >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
            >>> optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
            >>> cone = constrain(net, torch.zeros(1, 2), method="clip").attach(optimizer)
            >>> net(torch.randn(4, 2)).sum().backward()
            >>> optimizer.step()
            >>> cone.violation()
            0.0
        """
        if not isinstance(optimizer, torch.optim.Optimizer):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"attach takes a torch.optim.Optimizer, not {type(optimizer).__name__}")
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        missing = [
            n for n, p in zip(self.parameters, self.tensors(), strict=True) if p.requires_grad and id(p) not in held
        ]
        if missing:
            raise ValueError(
                f"the optimiser does not hold {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}: attach the "
                "cone to the optimiser that updates the constrained parameters (of this model, not of a copy)"
            )

        def after_step(*_: Any) -> None:
            self.project()

        self._handles.append(optimizer.register_step_post_hook(after_step))
        return self

    def detach(self) -> None:
        """Stop projecting after the steps of the optimisers attached so far.

        Example:
            >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
            >>> cone = constrain(net, torch.zeros(1, 2)).attach(torch.optim.SGD(net.parameters(), lr=1.0))
            >>> cone.detach()
        """
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


# --- constrain -------------------------------------------------------------------------------------------------------


def constrain(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    method: str | None = None,
    epsilon: float = 5.0,
    wrt: int | Sequence[int] | None = None,
) -> Cone:
    """Find the parameters that must be non-negative for a model to be convex in its input, and make them so, in place.

    Training without `attach` loses convexity: `constrain(...).attach(optimizer)` projects after every step. The
    constraint stays with the model: `load_state_dict` projects again, and a deep copy is still constrained (attach a
    new optimiser to `constrain(copy, example)`). Constraining twice is constraining once.

    This release derives the constraint for feed-forward models, whose linear, convolution and BatchNorm layers see
    arguments that are affine throughout or nowhere. Where a layer sees both kinds (a concatenation with the input),
    constraining all of its weight would be more than convexity needs, and `constrain` refuses.

    Args:
        model: a module made of layers that are convex for non-negative weights.
        example: a tensor (B, ...) or tuple of positional tensors, as for `certify`.
        method: "exponentiate" (w < 0 becomes e^(w - epsilon)) or "clip" (w < 0 becomes 0). None: the method the model
            was constrained with before, else "exponentiate".
        epsilon: of "exponentiate"; the papers use 5.
        wrt: the inputs to be convex in, as for `certify`.

    Returns:
        The cone of the constrained parameters. The model is convex for all its points, not only at present weights.

    Raises:
        NotCertified: some step cannot be made convex by non-negative weights (a GELU, a LayerNorm); nothing is changed.
        ValueError: unknown method, or a frozen parameter violates the constraint; nothing is changed.

    Source: Sivaprasad et al., The Curious Case of Convex Neural Networks (2021), algorithm 1.

    Example:
        >>> net = nn.Sequential(
        ...     nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ELU(), nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 1)
        ... )
        >>> constrain(net, torch.zeros(1, 2), method="clip").parameters
        ('3.weight', '5.weight')
    """
    unwrapped(model)  # anything but a module is an error before it is touched
    how = method_of(method, epsilon, model)
    names = derive(model, example, wrt)
    for name in names:
        tensor = model.get_parameter(name)
        if not tensor.requires_grad and bool((tensor < 0).any()):
            raise ValueError(
                f"{name} must be non-negative, but it is frozen (requires_grad=False) and its least entry is "
                f"{tensor.detach().min().item():.3g}: unfreeze it, or make it non-negative first"
            )
    before: tuple[str, ...] = model.__dict__[STATE][0] if STATE in model.__dict__ else ()
    names = tuple(dict.fromkeys((*before, *names)))  # convex in other inputs too, if it was constrained for them
    cone = Cone(model, names, how)
    cone.project()
    if STATE not in model.__dict__:
        model.register_load_state_dict_post_hook(_after_load)
    model.__dict__[STATE] = (names, how)
    return cone


def _after_load(module: nn.Module, _: Any) -> None:
    """Loaded weights are projected; the hook finds the constraint on the module, so that copies keep their own."""
    if STATE in module.__dict__:
        Cone(module, *module.__dict__[STATE]).project()


def derive(
    model: nn.Module, example: Tensor | Sequence[Tensor], wrt: int | Sequence[int] | None = None
) -> tuple[str, ...]:
    """The names of the parameters that must be non-negative, by a walk in which trainable parameters are unknown.

    Example:
        >>> derive(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)), torch.zeros(1, 2))
        ('3.weight',)
    """
    program = trace(model, example)
    variables = chosen(program.inputs, wrt)
    names = {id(p): name for name, p in model.named_parameters()}  # one name for a shared parameter
    found: dict[str, None] = {}

    def known_here(source: Source) -> bool:
        return source.kind != "parameter" or (source.tensor is not None and not source.tensor.requires_grad)

    def demand(call: Call, node: fx.Node) -> Call:
        """Non-negative where the argument bends upwards."""
        if call.name in ("batch_norm", "_native_batch_norm_legit_no_training") and isinstance(call.args[3], Fact):
            # training moves the running mean, and nothing may rest on where it is now
            call = replace(call, args=(*call.args[:3], constant(call.args[3].shape), *call.args[4:]))
        place = WEIGHT_AT.get(call.name)
        weight = node.args[place] if place is not None and place < len(node.args) else None
        source = program.sources.get(str(weight.target)) if isinstance(weight, fx.Node) else None
        if place is None or source is None or source.kind != "parameter" or source.tensor is None:
            return call
        x: Fact = call.args[0]
        if not where_any(x.nonconcave) or where_any(x.nonconvex):
            return call  # affine: free. Bends downwards: the walk reports it
        name = names[id(source.tensor)]
        if not bool(core(x.nonconcave).all()):
            raise NotCertified(
                f"{name} sees an argument that is affine in some elements and convex in others, so that only some of "
                "its columns must be non-negative; this release constrains whole weights only"
            )
        found[name] = None
        weight_fact = call.args[place]
        kept = constant(weight_fact.shape).bounded(
            uniform(0.0, weight_fact.shape, torch.float64), uniform(INF, weight_fact.shape, torch.float64)
        )
        return replace(call, args=(*call.args[:place], kept, *call.args[place + 1 :]))

    walked = walk(program, given(program, variables, {}, known_here), explain, before=demand)
    if not proved(walked):
        findings = findings_of(program, walked)
        head = f"{program.model} cannot be made convex by non-negative weights alone:"
        raise NotCertified("\n".join([head, *map(str, findings)]))
    return tuple(found)
