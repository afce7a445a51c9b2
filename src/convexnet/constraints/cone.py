"""`constrain`: find the parameters that must keep a sign, bring them there, and keep them there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from convexnet.constraints.derive import derive
from convexnet.constraints.parametrised import check_single, is_parametrised, owner, parametrise, unparametrise
from convexnet.constraints.sets import Exp, Interval, Method, Softplus, method_of, project
from convexnet.curvature.arguments import as_example, unwrapped
from convexnet.memory import CONSTRAINT, ONLY, part_of, recall, remember_example


@dataclass(frozen=True)
class Kept:
    """What a constrained module remembers: the interval of each constrained parameter, and the method."""

    intervals: Mapping[str, Interval]
    method: Method


class Cone:
    """The parameters of one model that are kept in their intervals, and the method that does it.

    Attributes:
        parameters: their names, as in `model.named_parameters()` of the plain model.
        intervals: where the entries of each must lie.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> cone = constrain(net, torch.zeros(1, 2), method="clip")
        >>> cone.parameters, cone.violation()
        (('2.weight',), 0.0)
    """

    def __init__(self, model: nn.Module, intervals: Mapping[str, Interval], method: Method) -> None:
        self.model = model
        self.intervals = dict(intervals)
        self.method = method
        self._handles: list[RemovableHandle] = []
        self._local: dict[tuple[Any, ...], Interval] = {}

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the constrained parameters, in the order of the forward."""
        return tuple(self.intervals)

    def __repr__(self) -> str:
        count = f"{len(self.intervals)} parameter{'' if len(self.intervals) == 1 else 's'}"
        return f"Cone({count} of {type(self.model).__name__}, by {self.method})"

    def tensors(self) -> list[Tensor]:
        """The constrained parameters; those computed by softplus or exp as they are now.

        Example:
            >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
            >>> [tuple(p.shape) for p in constrain(net, torch.zeros(1, 2), method="clip").tensors()]
            [(1, 8)]
        """
        return self._values()

    def _values(self) -> list[Any]:
        return [getattr(*owner(self.model, name)) for name in self.intervals]

    @torch.no_grad()
    def project(self) -> None:
        """Bring every constrained parameter into its interval, in place.

        Example:
            >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
            >>> cone = constrain(net, torch.zeros(1, 2), method="clip")
            >>> _ = net[2].weight.data.fill_(-1.0)
            >>> cone.project()
            >>> net[2].weight.min().item()
            0.0
        """
        if is_computed(self.method):
            return
        for name, interval in self.intervals.items():
            tensor = getattr(*owner(self.model, name))
            if is_sharded(tensor):
                self._check_shards(name)
                project(tensor.to_local(), self._shard_of(interval, tensor), self.method)
            else:
                project(tensor, interval, self.method)

    @torch.no_grad()
    def violation(self) -> float:
        """How far the entry farthest outside its interval is outside; 0 where all are inside, NaN if one is NaN.

        Example:
            >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
            >>> cone = constrain(net, torch.zeros(1, 2), method="clip")
            >>> _ = net[2].weight.data.fill_(-1.5)
            >>> cone.violation()
            1.5
        """
        whole: list[Any] = [tensor.full_tensor() if is_sharded(tensor) else tensor for tensor in self._values()]
        sizes = [interval.excess(tensor) for interval, tensor in zip(self.intervals.values(), whole, strict=True)]
        return float(torch.stack(sizes).max()) + 0.0 if sizes else 0.0

    def attach(self, optimizer: torch.optim.Optimizer, *others: torch.optim.Optimizer) -> Cone:
        """Project after every step of an optimiser (skipped exactly when GradScaler skips the step).

        Args:
            optimizer: the one that moves the constrained parameters.
            others: where several share them, all the others.

        Raises:
            ValueError: the optimisers do not move every constrained parameter that trains, or the parameters are
                sharded (FSDP2) and the method is not elementwise.

        Example:
            >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
            >>> optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
            >>> cone = constrain(net, torch.zeros(1, 2), method="clip").attach(optimizer)
            >>> net(torch.randn(4, 2)).sum().backward()
            >>> optimizer.step()
            >>> cone.violation()
            0.0
        """
        optimizers = (optimizer, *others)
        for each in optimizers:
            if not isinstance(each, torch.optim.Optimizer):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"attach takes a torch.optim.Optimizer, not {type(each).__name__}")
        held = {id(p) for each in optimizers for group in each.param_groups for p in group["params"]}
        missing = [name for name in self.intervals if self.trains(name) - held]
        if missing:
            raise ValueError(
                f"the optimiser does not hold {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}: attach the "
                "cone to the optimiser that updates the constrained parameters (of this model, not of a copy); where "
                "several optimisers share them, attach(first, second)"
            )
        for name in self.intervals:
            if is_sharded(getattr(*owner(self.model, name))):
                self._check_shards(name)
        if not is_computed(self.method):
            self._handles += [each.register_step_post_hook(self._after_step) for each in optimizers]
        return self

    def trains(self, name: str) -> set[int]:
        """The identities of the trainable tensors behind a constrained parameter."""
        module, leaf = owner(self.model, name)
        if is_parametrised(self.model, name):
            computed: nn.Module = module.parametrizations[leaf]  # pyright: ignore
            return {id(p) for p in computed.parameters() if p.requires_grad}
        parameter = module.get_parameter(leaf)
        return {id(parameter)} if parameter.requires_grad else set()

    def _after_step(self, *_: Any) -> None:
        self.project()

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

    # --- shards (FSDP2) ------------------------------------------------------------------------------------------

    def _check_shards(self, name: str) -> None:
        if not self.method.elementwise:
            what = "computes weights from free parameters" if is_computed(self.method) else "looks at a whole tensor"
            raise ValueError(
                f"{name} is sharded over processes, and {type(self.method).__name__.lower()} {what}: with FSDP2 use "
                "'exponentiate', 'clip' or 'absolute'"
            )

    def _shard_of(self, interval: Interval, tensor: Any) -> Interval:
        """The part of an interval that belongs to this process's part of a parameter."""
        if interval.lo.numel() == 1 and interval.hi.numel() == 1:
            return Interval(interval.lo.reshape([1] * tensor.ndim), interval.hi.reshape([1] * tensor.ndim))
        key = id(interval), tensor.device_mesh, tensor.placements
        if key not in self._local:
            from torch.distributed.tensor import distribute_tensor

            parts = [
                distribute_tensor(bound.expand(tensor.shape).to(tensor.device), tensor.device_mesh, tensor.placements)
                for bound in (interval.lo, interval.hi)
            ]
            self._local[key] = Interval(*(part.to_local() for part in parts))
        return self._local[key]


def is_sharded(tensor: Tensor) -> bool:
    """Whether a parameter is a DTensor, of which every process holds a part."""
    return type(tensor).__name__ == "DTensor" or type(getattr(tensor, "data", None)).__name__ == "DTensor"


def is_computed(method: Method) -> bool:
    """Whether weights are computed from free parameters, so that nothing needs to be projected."""
    return isinstance(method, (Softplus, Exp))


# --- constrain -------------------------------------------------------------------------------------------------------


def constrain(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    method: str | None = None,
    epsilon: float = 5.0,
    wrt: int | Sequence[int] | None = None,
) -> Cone:
    """Find the parameters that must keep a sign for a model to be convex in its input, and make them so, in place.

    **Ordinary training without `attach` loses convexity**: `constrain(...).attach(optimizer)` projects after every
    step. The constraint stays with the model: `load_state_dict` projects again, and a deep copy is still constrained
    (attach a new optimiser to `constrain(copy, example)`). Constraining twice is constraining once.

    What is constrained is derived from the traced program: a weight must be non-negative where it meets something
    that is not affine in the input (columns of a weight behind a concatenation are told apart), non-positive where the
    result is subtracted, the slopes of a PReLU must lie in [0, 1]. Nothing else is touched.

    Args:
        model: a module made of layers that are convex for weights of the right sign.
        example: a tensor (B, ...) or tuple of positional tensors, as for `certify`.
        method: what happens to an entry w < 0 after a step: "exponentiate" (e^(w - epsilon)), "clip" (0), "absolute"
            (-w), "shift" (the tensor is lifted by its least entry). Or "softplus", "exp": the weight is computed from a
            free parameter and cannot leave, so that `attach` does nothing. None: the method the model was constrained
            or converted with before, else "exponentiate".
        epsilon: of "exponentiate"; the papers use 5.
        wrt: the inputs to be convex in, as for `certify`.

    Returns:
        The cone of the constrained parameters. The model is convex for all its points, not only at present weights.

    Raises:
        NotCertified: some step cannot be made convex by the signs of parameters (a GELU, a LayerNorm), or one
            parameter would need both signs; nothing is changed.
        ValueError: unknown method, a frozen parameter violates the constraint, a parameter is sparse or quantised;
            nothing is changed.

    Source: Sivaprasad et al., The Curious Case of Convex Neural Networks (2021), algorithm 1 and appendix B.

    Example:
        >>> net = nn.Sequential(
        ...     nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ELU(), nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 1)
        ... )
        >>> constrain(net, torch.zeros(1, 2), method="clip").parameters
        ('3.weight', '5.weight')
    """
    inner = unwrapped(model)
    kept: Kept | None = recall(inner, CONSTRAINT)
    how = method_of(method, epsilon, kept.method if kept else None)
    check_dense(inner)
    only: str | None = recall(inner, ONLY)
    if only is not None:  # converted to be convex in the input of one submodule
        part = constrain(*part_of(inner, only, as_example(example)), method, epsilon, wrt)
        return Cone(inner, {f"{only}.{name}": interval for name, interval in part.intervals.items()}, part.method)
    found = derive(inner, example, wrt)
    return keep(inner, found, how, example)


def keep(model: nn.Module, found: Mapping[str, Interval], method: Method, example: Tensor | Sequence[Tensor]) -> Cone:
    """Bring parameters into their intervals and make the model remember them; they join those it keeps already.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> keep(
        ...     net, {"weight": Interval.above(0.0, torch.tensor([[True]]))}, method_of("clip", 5.0), torch.zeros(1, 2)
        ... )
        Cone(1 parameter of Linear, by Clip())
        >>> bool((net.weight >= 0).all())
        True
    """
    kept: Kept | None = recall(model, CONSTRAINT)
    intervals = dict(kept.intervals) if kept else {}
    for name, interval in found.items():
        intervals[name] = interval.meet(intervals[name]) if name in intervals else interval
    if is_computed(method):
        check_single(model, intervals)
    if kept and kept.method != method:
        unparametrise(model, intervals)
    cone = Cone(model, intervals, method)
    if is_computed(method):
        for name, interval in intervals.items():
            if not is_parametrised(model, name):
                with torch.no_grad():
                    project(getattr(*owner(model, name)), interval, method)
        parametrise(model, intervals, method)
    cone.project()
    if kept is None:
        model.register_load_state_dict_post_hook(_after_load)
    model.__dict__[CONSTRAINT] = Kept(intervals, method)
    remember_example(model, example)
    return cone


def _after_load(module: nn.Module, _: Any) -> None:
    """Loaded weights are projected; the hook finds the constraint on the module, so that copies keep their own."""
    kept: Kept | None = recall(module, CONSTRAINT)
    if kept is not None:
        Cone(module, kept.intervals, kept.method).project()


def check_dense(model: nn.Module) -> None:
    """Projections are written for dense parameters."""
    for name, parameter in model.named_parameters():
        if parameter.layout != torch.strided or parameter.is_quantized:
            kind = "quantised" if parameter.is_quantized else f"sparse ({parameter.layout})"
            raise ValueError(f"{name} is {kind}; constrain works on dense parameters: use .to_dense() or .dequantize()")
