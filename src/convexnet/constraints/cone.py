"""The cone: the parameters of one model in their intervals, and the projection after each step."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from convexnet.constraints.optimizer_parameters import Holding, tensors_held
from convexnet.constraints.parametrised import current_parameter, is_parametrised, owner_of
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
        self._attached: weakref.WeakKeyDictionary[torch.optim.Optimizer, RemovableHandle]
        self._attached = weakref.WeakKeyDictionary()
        self._holdings: list[Holding] = []
        self._unheld: list[nn.Parameter] = []
        self._local: dict[tuple[Any, ...], Interval] = {}

    def __getstate__(self) -> dict[str, Any]:
        """A copy is attached to nothing, as a copied model is."""
        return {**self.__dict__, "_attached": None, "_holdings": [], "_unheld": [], "_local": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _attached=weakref.WeakKeyDictionary())

    @property
    def parameters(self) -> tuple[str, ...]:
        """Return the names of the constrained parameters, in the order of the forward."""
        return tuple(self.intervals)

    def __repr__(self) -> str:
        count = f"{len(self.intervals)} parameter{'' if len(self.intervals) == 1 else 's'}"
        scope = f"; convex in the input of {' and of '.join(self.only)} only" if self.only else ""
        return f"Cone({count} of {type(self.model).__name__}, by {self.method}{scope})"

    def tensors(self) -> list[Tensor]:
        """Return the constrained parameters; those computed by softplus or exp at their present values.

        Example:
            >>> from convexnet import constrain
            >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
            >>> [tuple(p.shape) for p in constrain(net, torch.zeros(1, 2), method="clip").tensors()]
            [(1, 8)]
        """
        self._check_there()
        return [current_parameter(self.model, name) for name in self.intervals]

    def _check_there(self) -> None:
        gone = set(self.intervals) - set(existing_intervals(self.model, self.intervals))
        if gone:
            name = min(gone)
            raise ValueError(f"{name} was replaced or removed after the model was constrained: constrain it again")

    @torch.no_grad()
    def project(self) -> None:
        """Project every constrained parameter into its interval, in place; write nothing where none is outside.

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
                self._bring_inside(current_parameter(self.model, name), interval)
        except (AttributeError, RuntimeError):
            self._check_there()  # which says so, if the model is not what it was; else the error is another
            raise

    def _bring_inside(self, tensor: Any, interval: Interval, look: bool = True) -> None:
        if is_sharded(tensor):
            self._check_shards()
            tensor, interval = tensor.to_local(), self._shard_of(interval, tensor)
        project(tensor, interval, self.method, look)

    @torch.no_grad()
    def violation(self) -> float:
        """Return the largest distance of an entry to its interval; 0 if all are inside, NaN if one is NaN.

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
        sizes = [interval.excess(gather_shards(tensor)) for interval, tensor in pairs]
        return float(torch.stack(sizes).max()) + 0.0 if sizes else 0.0

    def attach(self, optimizer: torch.optim.Optimizer, *others: torch.optim.Optimizer) -> Cone:
        """Project now, and after every step of an optimiser the parameters it holds.

        **Without it ordinary training loses convexity.** A step that GradScaler skips is skipped here too. A step
        touches the parameters of its own optimiser only, those of groups that were added later included, and writes
        nothing where nothing is outside: several optimisers may take their steps between two backward passes, and one
        optimiser for each parameter may take them inside of a backward.

        A parameter that is frozen now need not be in an optimiser; attach the optimiser that moves it when it thaws.

        Args:
            optimizer: the one that moves the constrained parameters.
            others: where several share them, all the others, now or in a later call.

        Raises:
            ValueError: the optimisers, with those attached before, do not move every constrained parameter that trains,
                or these move none; or the parameters are sharded (FSDP2) and the method is not elementwise.

        Warns:
            UserWarning: at a step, if a parameter that was frozen trains now and no attached optimiser holds it.

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
        self._check_held(optimizers)
        self._check_shards()
        if is_computed(self.method):
            return self
        self.project()
        for each in optimizers:
            if each not in self._attached:
                holding = Holding()
                self._holdings.append(holding)
                self._attached[each] = each.register_step_post_hook(partial(self._after_step, holding))
        held = {id(p) for p in tensors_held(self._attached)}
        self._unheld = [p for name in self.intervals for p in self._behind(name) if id(p) not in held]
        return self

    def _check_held(self, optimizers: Collection[torch.optim.Optimizer]) -> None:
        """Every constrained parameter that trains is held by these optimisers or by those attached before."""
        own, every = ({id(p) for p in tensors_held(group)} for group in (optimizers, [*optimizers, *self._attached]))
        training = {name: {id(p) for p in self._behind(name) if p.requires_grad} for name in self.intervals}
        missing = [name for name, behind in training.items() if behind - every]
        if not any(id(p) in own for name in self.intervals for p in self._behind(name)):
            missing = [name for name, behind in training.items() if behind]
        if missing:
            raise ValueError(
                f"the optimiser does not hold {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}: attach the "
                "cone to the optimiser that updates the constrained parameters (of this model, not of a copy); where "
                "several optimisers share them, attach(first, second)"
            )

    def _behind(self, name: str) -> list[nn.Parameter]:
        """The parameters that a constrained weight is, or is computed from."""
        module, leaf = owner_of(self.model, name)
        if is_parametrised(self.model, name):
            computed: nn.Module = module.parametrizations[leaf]  # pyright: ignore
            return list(computed.parameters())
        return [module.get_parameter(leaf)]

    @torch.no_grad()
    def _after_step(self, holding: Holding, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Project what an optimiser holds."""
        if not holding.is_current(optimizer):
            if holding.is_exchanged:
                for each in self._holdings:  # what the model has instead may be in another optimiser
                    each.seen = []
            try:
                holding.update(optimizer, self.intervals, partial(owner_of, self.model))
            except AttributeError:
                self._check_there()
                raise
        for each in holding.constrained:
            # Without a look nothing waits for an accelerator. Where autograd has seen no write since the last
            # projection, it sees none here: what was inside is only written again as it is.
            look, unseen = each.tensor.device.type == "cpu", each.tensor._version == each.version
            self._bring_inside(each.tensor if look or not unseen else each.tensor.data, each.interval, look)
            each.version = each.tensor._version
        self._warn_of_unheld()

    def _warn_of_unheld(self) -> None:
        """Say once that a parameter which was frozen trains now, and that nothing projects it."""
        if not any(p.requires_grad for p in self._unheld):
            return
        held = {id(p) for p in tensors_held(self._attached)}
        thawed = {id(p) for p in self._unheld if p.requires_grad}
        self._unheld = [p for p in self._unheld if id(p) not in thawed]
        names = [n for n in self.intervals if any(id(p) in thawed and id(p) not in held for p in self._behind(n))]
        if names:
            warnings.warn(
                f"{', '.join(names)} trains now (requires_grad=True), but no attached optimiser holds it, so nothing "
                "keeps it in its interval: attach the optimiser that moves it, cone.attach(optimizer)",
                UserWarning,
                stacklevel=2,
            )

    def detach(self) -> None:
        """Stop projecting after the steps of the optimisers attached so far.

        Example:
            >>> from convexnet import constrain
            >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
            >>> cone = constrain(net, torch.zeros(1, 2)).attach(torch.optim.SGD(net.parameters(), lr=1.0))
            >>> cone.detach()
        """
        for handle in self._attached.values():
            handle.remove()
        self._attached.clear()
        self._holdings.clear()
        self._unheld.clear()

    # --- shards (FSDP2) ------------------------------------------------------------------------------------------

    def _check_shards(self) -> None:
        if self.method.elementwise:
            return
        # the parameters behind a computed weight are looked at, for the weight itself cannot be computed from shards
        sharded = (n for n in self.intervals if any(is_sharded(p) for p in owner_of(self.model, n)[0].parameters()))
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


def gather_shards(tensor: Any) -> Tensor:
    """The whole of a parameter of which this process may hold a part."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def existing_intervals(model: nn.Module, intervals: Mapping[str, Interval]) -> dict[str, Interval]:
    """The intervals whose parameters still exist and have the shape they had: layers may have been exchanged since."""
    found: dict[str, Interval] = {}
    for name, interval in intervals.items():
        try:
            shape = current_parameter(model, name).shape
            if torch.broadcast_shapes(shape, interval.lo.shape, interval.hi.shape) == shape:
                found[name] = interval
        except (AttributeError, RuntimeError):
            continue
    return found
