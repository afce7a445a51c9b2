"""The cone: the parameters of one model in their intervals, and the projection after each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from convexnet.constraints.parametrised import is_parametrised, owner, value_of
from convexnet.constraints.sets import Interval, Method, is_computed, project


class Cone:
    """The parameters of one model that are kept in their intervals, and the method that does it.

    Attributes:
        parameters: their names, as in `model.named_parameters()` of the plain model.
        intervals: where the entries of each must lie.
        only: the submodules whose inputs the model is convex in; empty where it is convex in its own.

    Example:
        >>> from convexnet import constrain
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> cone = constrain(net, torch.zeros(1, 2), method="clip")
        >>> cone.parameters, cone.violation()
        (('2.weight',), 0.0)
    """

    def __init__(
        self, model: nn.Module, intervals: Mapping[str, Interval], method: Method, only: tuple[str, ...] = ()
    ) -> None:
        self.model = model
        self.intervals = dict(intervals)
        self.method = method
        self.only = only
        self._handles: list[RemovableHandle] = []
        self._local: dict[tuple[Any, ...], Interval] = {}

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the constrained parameters, in the order of the forward."""
        return tuple(self.intervals)

    def __repr__(self) -> str:
        count = f"{len(self.intervals)} parameter{'' if len(self.intervals) == 1 else 's'}"
        scope = f"; convex in the input of {' and of '.join(self.only)} only" if self.only else ""
        return f"Cone({count} of {type(self.model).__name__}, by {self.method}{scope})"

    def tensors(self) -> list[Tensor]:
        """The constrained parameters; those computed by softplus or exp as they are now.

        Example:
            >>> from convexnet import constrain
            >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
            >>> [tuple(p.shape) for p in constrain(net, torch.zeros(1, 2), method="clip").tensors()]
            [(1, 8)]
        """
        self._check_there()
        return [value_of(self.model, name) for name in self.intervals]

    def _check_there(self) -> None:
        gone = set(self.intervals) - set(still_there(self.model, self.intervals))
        if gone:
            name = min(gone)
            raise ValueError(f"{name} was exchanged or removed after the model was constrained: constrain it again")

    @torch.no_grad()
    def project(self) -> None:
        """Bring every constrained parameter into its interval, in place.

        Example:
            >>> from convexnet import constrain
            >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
            >>> cone = constrain(net, torch.zeros(1, 2), method="clip")
            >>> _ = net[2].weight.data.fill_(-1.0)
            >>> cone.project()
            >>> net[2].weight.min().item()
            0.0
        """
        if is_computed(self.method):
            return
        try:
            for name, interval in self.intervals.items():
                tensor = value_of(self.model, name)
                if is_sharded(tensor):
                    self._check_shards()
                    project(tensor.to_local(), self._shard_of(interval, tensor), self.method)
                else:
                    project(tensor, interval, self.method)
        except (AttributeError, RuntimeError):
            self._check_there()  # which says so, if the model is not what it was; else the error is another
            raise

    @torch.no_grad()
    def violation(self) -> float:
        """How far the entry farthest outside its interval is outside; 0 where all are inside, NaN if one is NaN.

        Example:
            >>> from convexnet import constrain
            >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
            >>> cone = constrain(net, torch.zeros(1, 2), method="clip")
            >>> _ = net[2].weight.data.fill_(-1.5)
            >>> cone.violation()
            1.5
        """
        if is_computed(self.method):
            self._check_shards()
        pairs = zip(self.intervals.values(), self.tensors(), strict=True)
        sizes = [interval.excess(gathered(tensor)) for interval, tensor in pairs]
        return float(torch.stack(sizes).max()) + 0.0 if sizes else 0.0

    def attach(self, optimizer: torch.optim.Optimizer, *others: torch.optim.Optimizer) -> Cone:
        """Project now and after every step of an optimiser (skipped exactly when GradScaler skips the step).

        A parameter that is frozen now need not be in an optimiser; attach the optimiser that moves it when it thaws.

        Args:
            optimizer: the one that moves the constrained parameters.
            others: where several share them, all the others.

        Raises:
            ValueError: the optimisers do not move every constrained parameter that trains, or the parameters are
                sharded (FSDP2) and the method is not elementwise.

        Example:
            >>> from convexnet import constrain
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
        self._check_shards()
        if not is_computed(self.method):
            self.project()
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
            >>> from convexnet import constrain
            >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
            >>> cone = constrain(net, torch.zeros(1, 2)).attach(torch.optim.SGD(net.parameters(), lr=1.0))
            >>> cone.detach()
        """
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    # --- shards (FSDP2) ------------------------------------------------------------------------------------------

    def _check_shards(self) -> None:
        if self.method.elementwise:
            return
        # the parameters behind a computed weight are looked at, for the weight itself cannot be computed from shards
        sharded = (n for n in self.intervals if any(is_sharded(p) for p in owner(self.model, n)[0].parameters()))
        for name in sharded:
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


def gathered(tensor: Any) -> Tensor:
    """The whole of a parameter of which this process may hold a part."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def still_there(model: nn.Module, intervals: Mapping[str, Interval]) -> dict[str, Interval]:
    """The intervals whose parameters still exist and have the shape they had: layers may have been exchanged since."""
    found: dict[str, Interval] = {}
    for name, interval in intervals.items():
        try:
            shape = value_of(model, name).shape
            if torch.broadcast_shapes(shape, interval.lo.shape, interval.hi.shape) == shape:
                found[name] = interval
        except (AttributeError, RuntimeError):
            continue
    return found
