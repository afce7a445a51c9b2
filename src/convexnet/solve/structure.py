"""Whether a module is still the one that was read: everything its forward may depend on, but for the values of tensors.

That is its submodules, hooks and functions, and the settings they hold, also those inside of objects, lists and
closures. Nothing here keeps a module alive. What a forward reads from global variables is not seen.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SIMPLE = (bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device)

OPAQUE = ("torch", "lightning", "pytorch_lightning", "logging")
"""Packages whose objects (trainers, loggers, handles of hooks) are known by identity alone: they do not take part."""


Seen = dict[int, tuple[Any, int]]
"""The objects that have been looked at, by `id`, each kept so that the `id` stays its own, with a number."""


class Same:
    """Equal to another one of the same object, while that lives. (Its `id` alone may be that of a later object.)

    Example:
        >>> one, other = torch.ones(2), torch.ones(2)
        >>> Same(one) == Same(one), Same(one) == Same(other)
        (True, False)
    """

    def __init__(self, value: Any) -> None:
        self.number = id(value)
        try:
            self.get: Any = weakref.ref(value)
        except TypeError:  # of a kind that refers to nothing, as a slice
            self.get = lambda: value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.get() is not None and self.get() is other.get()

    def __hash__(self) -> int:
        return self.number


def structure_of(module: nn.Module) -> Hashable:
    """Everything of a module but the values of its tensors that its forward may depend on in eval mode.

    Example:
        >>> act = nn.LeakyReLU(0.1)
        >>> before = structure_of(act)
        >>> structure_of(act) == before
        True
        >>> act.negative_slope = 0.2
        >>> structure_of(act) == before
        False
    """
    parts = dict(module.named_modules())
    seen: Seen = {id(part): (part, number) for number, part in enumerate(parts.values())}
    return tuple((name, *inside(part, seen)) for name, part in parts.items())


def inside(part: nn.Module, seen: Seen) -> tuple[Hashable, ...]:
    """Type, settings and hooks of one module."""
    settings = {key: value for key, value in vars(part).items() if key != "training"}
    return type(part), settled(of_class(type(part)), seen), settled(settings, seen)


def of_class(kind: type) -> dict[str, Any]:
    """The forward of a class, and settings that all its objects share."""
    own = [base for base in kind.__mro__ if not base.__module__.startswith("torch") and base is not object]
    shared = {key: value for base in own for key, value in vars(base).items() if isinstance(value, SIMPLE)}
    return {**shared, "forward": kind.forward} if hasattr(kind, "forward") else shared


def settled(value: Any, seen: Seen) -> Hashable:
    """Something that is equal while what an attribute holds is the same.

    Args:
        value: any object.
        seen: what has been looked at; added to.
    """
    if isinstance(value, SIMPLE):
        return type(value), value
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, Tensor):
        return Same(value)
    if id(value) in seen:
        return "seen", seen[id(value)][1]
    seen[id(value)] = value, len(seen)
    if isinstance(value, Mapping):
        return type(value), tuple((settled(key, seen), settled(part, seen)) for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), tuple(settled(part, seen) for part in value)
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(settled(part, seen) for part in value)
    if isinstance(value, nn.Module):  # that is not registered: in a list, or in a closure
        return inside(value, seen)
    if isinstance(value, types.FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or () if cell != EMPTY]
        return value.__code__, settled([held, value.__defaults__, value.__kwdefaults__], seen)
    if isinstance(value, types.MethodType):
        return settled([value.__func__, value.__self__], seen)
    if isinstance(value, functools.partial):
        return settled([value.func, value.args, value.keywords], seen)
    if type(value).__module__.partition(".")[0] not in OPAQUE:
        named = [name for base in type(value).__mro__ for name in getattr(base, "__slots__", ())]
        slots = {name: getattr(value, name) for name in named if hasattr(value, name) and name != "__dict__"}
        if slots or getattr(value, "__dict__", None):
            return type(value), settled({**slots, **getattr(value, "__dict__", {})}, seen)
    return Same(value)


EMPTY = types.CellType()
