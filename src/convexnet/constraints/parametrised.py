"""Weights that cannot leave their interval: computed from a free parameter by softplus or exp.

Registered with `torch.nn.utils.parametrize`, so that the optimiser moves the free parameter, `state_dict` holds it, and
`remove_parametrizations` makes the weight plain again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from convexnet.constraints.sets import INF, Interval, Method, Softplus, is_computed, project

FLOOR = 1e-6
"""The least distance from the bound that a weight starts with: at the bound itself its gradient would be zero."""


class Parametrised(nn.Module):
    """The weight for a free parameter: lo + g(v) or hi - g(v), lo + (hi - lo) sigmoid(v) between two bounds, or v.

    Args:
        interval: of the weight.
        method: `Softplus()` or `Exp()`, which g is.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[0.5, 2.0]]))
        >>> kept = Parametrised(Interval.above(0.0, torch.tensor([[True]])), Softplus())
        >>> _ = parametrize.register_parametrization(layer, "weight", kept)
        >>> layer.weight.detach()
        tensor([[0.5000, 2.0000]])
        >>> layer.weight = -torch.ones(1, 2)
        Traceback (most recent call last):
        ValueError: the weight must lie in its interval, and an entry lies outside by 1: clamp it first
    """

    low: Tensor
    high: Tensor
    below: Tensor
    above: Tensor

    def __init__(self, interval: Interval, method: Method) -> None:
        super().__init__()
        if not is_computed(method):
            raise TypeError(f"{method} changes weights after a step; only softplus and exp compute them")
        below, above = interval.lo > -INF, interval.hi < INF
        tensors = {
            "below": below.float(),  # as numbers, for averages of models average their buffers
            "above": above.float(),
            "low": interval.lo.float().masked_fill(~below, 0.0),
            "high": interval.hi.float().masked_fill(~above, 0.0),
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)
        self.method = method
        # which of the cases occur: decided once, so that the traced program has no branch
        self.plain = bool((interval.lo == 0).all() and not above.any())
        self.only_below, self.only_above = bool((below & ~above).any()), bool((~below & above).any())
        self.between = bool((below & above).any())

    def extra_repr(self) -> str:
        return type(self.method).__name__.lower()

    def positive(self, v: Tensor) -> Tensor:
        return F.softplus(v) if isinstance(self.method, Softplus) else torch.exp(v)

    def forward(self, v: Tensor) -> Tensor:
        if self.plain:
            return self.positive(v)
        low, high, below, above = self.low.to(v.dtype), self.high.to(v.dtype), self.below > 0.5, self.above > 0.5
        weight = v
        # the outer maxima and minima change nothing but rounding, and make the bounds exact
        if self.only_below:
            weight = torch.where(below & ~above, torch.maximum(low + self.positive(v), low), weight)
        if self.only_above:
            weight = torch.where(above & ~below, torch.minimum(high - self.positive(v), high), weight)
        if self.between:
            inner = low + (high - low) * torch.sigmoid(v)
            weight = torch.where(below & above, torch.minimum(torch.maximum(inner, low), high), weight)
        return weight

    def interval(self) -> Interval:
        """Where the weight lies."""
        lo = self.low.double().masked_fill(self.below < 0.5, -INF)
        return Interval(lo, self.high.double().masked_fill(self.above < 0.5, INF))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The free parameter that gives a weight (one that lies on a bound is moved inside by 1e-6)."""
        excess = float(self.interval().excess(weight))
        if not excess == 0:
            raise ValueError(
                f"the weight must lie in its interval, and an entry lies outside by {excess:.3g}: clamp it first"
            )
        low, high, below, above = (b.to(weight.dtype) for b in (self.low, self.high, self.below, self.above))
        below, above = below > 0.5, above > 0.5
        value = torch.where(below & ~above, self.free_value(weight - low), weight)
        value = torch.where(above & ~below, self.free_value(high - weight), value)
        share = ((weight - low) / (high - low).clamp(min=FLOOR)).clamp(FLOOR, 1 - FLOOR)
        return torch.where(below & above, torch.logit(share), value)

    def free_value(self, distance: Tensor) -> Tensor:
        """The v whose softplus (or exp) is a distance from the bound."""
        size = distance.clamp(min=FLOOR)
        return size + torch.log(-torch.expm1(-size)) if isinstance(self.method, Softplus) else size.log()


def owner_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a parameter, and the parameter's name in it."""
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def current_parameter(model: nn.Module, name: str) -> Any:
    """A parameter by its name, as it is now if it is a computed one."""
    return getattr(*owner_of(model, name))


def is_parametrised(model: nn.Module, name: str) -> bool:
    """Whether a parameter is computed by a `Parametrised`."""
    module, leaf = owner_of(model, name)
    if not parametrize.is_parametrized(module, leaf):
        return False
    return any(isinstance(part, Parametrised) for part in module.parametrizations[leaf])  # pyright: ignore


def check_computable(model: nn.Module, names: Mapping[str, Interval]) -> None:
    """A parameter that two modules share would come apart, and one behind a parametrization cannot have two."""
    behind = [name for name in names if ".parametrizations." in f".{name}"]
    if behind:
        raise ValueError(
            f"{behind[0]} is behind a parametrization of the model's own; softplus and exp cannot compute it: use a "
            "method that projects after the step ('exponentiate', 'clip', 'absolute', 'shift')"
        )
    for name in names:
        if isinstance(owner_of(model, name)[0], nn.RNNBase):
            raise ValueError(
                f"{name} is in a flat list that its RNN keeps, which softplus and exp cannot enter: use a method that "
                "projects after the step ('exponentiate', 'clip', 'absolute', 'shift')"
            )
    paths: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        paths.setdefault(id(parameter), []).append(name)
    modules = {id(module): path for path, module in model.named_modules(remove_duplicate=True)}
    for shared in paths.values():
        owners = {modules[id(owner_of(model, name)[0])] for name in shared}
        if len(owners) > 1 and set(shared) & set(names):
            raise ValueError(
                f"{' and '.join(shared)} are one parameter, which softplus and exp cannot keep shared: use a method "
                "that projects after the step ('exponentiate', 'clip', 'absolute', 'shift')"
            )


def parametrise(model: nn.Module, intervals: Mapping[str, Interval], method: Method) -> None:
    """Make the parameters that train computed ones, and bring them inside first."""
    for name, interval in intervals.items():
        if not is_parametrised(model, name):
            module, leaf = owner_of(model, name)
            parameter = module.get_parameter(leaf)
            if not parameter.requires_grad:
                continue  # it stays where it is
            with torch.no_grad():
                project(parameter, interval, method)
            computed = Parametrised(interval, method).to(parameter.device)
            parametrize.register_parametrization(module, leaf, computed)


def unparametrise(model: nn.Module, names: Mapping[str, Interval]) -> None:
    """Make them plain parameters again, with the values they have; optimisers keep holding them."""
    for module in {owner_of(model, name)[0] for name in names if is_parametrised(model, name)}:
        plain_again(module)


@torch.no_grad()
def plain_again(module: nn.Module) -> None:
    """Write every computed parameter of a module out, in place.

    `torch.nn.utils.parametrize.remove_parametrizations` deletes the parameter's property from the module's class, which
    deep copies of the module share, and so breaks them; here only the module itself changes.

    Example:
        >>> import copy
        >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 1))
        >>> other, value = copy.deepcopy(layer), layer.weight.detach().clone()
        >>> plain_again(layer)
        >>> type(layer).__name__, torch.equal(layer.weight, value), torch.equal(other.weight, value)
        ('Linear', True, True)
    """
    if not parametrize.is_parametrized(module):
        return
    lists: nn.ModuleDict = module.parametrizations  # pyright: ignore
    values: dict[str, Tensor] = {name: getattr(module, name).detach().clone() for name in lists}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module._modules["parametrizations"]  # pyright: ignore[reportPrivateUsage]
    for name, value in values.items():
        held = list(lists[name].parameters(recurse=False))
        if len(held) == 1 and held[0].shape == value.shape:
            held[0].copy_(value)
            module.register_parameter(name, held[0])
        elif held:
            module.register_parameter(name, nn.Parameter(value, any(p.requires_grad for p in held)))
        else:
            module.register_buffer(name, value)
