"""Whether a module is still the one that was read: everything its forward may depend on, but for the values of tensors.

That is its submodules, hooks and functions, and the settings they hold, also those inside of objects, lists and
closures, those of their classes and their bases, and the global variables that these functions refer to by name, or
by the name of a module and of something in it. Nothing here keeps a module alive.

Not seen are: what installed packages change in themselves (their functions and classes count as fixed), global
variables that are reached in other ways (`globals()`, `getattr` with a name computed, a module inside of a package),
long containers beyond their length, files, and the environment. After such a change, `copy.deepcopy` the module.
"""

from __future__ import annotations

import functools
import os
import sys
import types
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SIMPLE = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)

PLAIN = frozenset({dict, OrderedDict, set})
"""Containers whose contents are all that they are."""

OPAQUE = ("torch", "lightning", "pytorch_lightning", "logging")
"""Packages whose objects (trainers, loggers, handles of hooks) are known by identity alone: they do not take part."""

FIXED = ("builtins", "collections", "convexnet", "functools", "math", "numpy", "typing", *OPAQUE)
"""Packages whose functions and classes are what they are."""

INSTALLED = ("site-packages", "dist-packages")

LONG = 10_000
"""Entries of a global container up to which they are looked at."""

Seen = dict[int, tuple[Any, int]]
"""The objects that have been looked at, by `id`, each kept so that the `id` stays its own, with a number."""


class Identity:
    """Equal to another one of the same object, while that lives. (Its `id` alone may be that of a later object.)

    Example:
        >>> one, other = torch.ones(2), torch.ones(2)
        >>> Identity(one) == Identity(one), Identity(one) == Identity(other)
        (True, False)
    """

    def __init__(self, value: Any) -> None:
        self.number = id(value)
        try:
            self.get: Any = weakref.ref(value)
        except TypeError:  # of a kind that refers to nothing, as a slice
            self.get = lambda: value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.get() is not None and self.get() is other.get()

    def __hash__(self) -> int:
        return self.number


def fingerprint_of(module: nn.Module) -> Hashable:
    """Everything of a module but the values of its tensors that its forward may depend on in eval mode.

    Example:
        >>> act = nn.LeakyReLU(0.1)
        >>> before = fingerprint_of(act)
        >>> fingerprint_of(act) == before
        True
        >>> act.negative_slope = 0.2
        >>> fingerprint_of(act) == before
        False
    """
    parts = dict(module.named_modules())
    seen: Seen = {id(part): (part, number) for number, part in enumerate(parts.values())}
    return tuple((name, *settings_of(part, seen)) for name, part in parts.items())


def settings_of(part: nn.Module, seen: Seen) -> tuple[Hashable, ...]:
    """Type, settings and hooks of one module."""
    settings = {key: value for key, value in vars(part).items() if key != "training"}
    return type(part), comparable(class_fingerprint(type(part)), seen), comparable(settings, seen)


def class_fingerprint(kind: type) -> dict[Hashable, Any]:
    """The forward of a class, and what all its objects share, also with those of its bases."""
    own = [base for base in kind.__mro__ if is_own(base)]
    shared: dict[Hashable, Any] = {
        (base.__qualname__, key): value
        for base in own
        for key, value in vars(base).items()
        if key not in ("__dict__", "__weakref__", "__doc__", "__slots__", "_abc_impl", "__abstractmethods__")
    }
    return {**shared, "forward": kind.forward} if hasattr(kind, "forward") else shared


def is_own(value: type | types.FunctionType | types.ModuleType) -> bool:
    """Whether a class, function or module is of no installed package."""
    name = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
    if not isinstance(name, str) or name.partition(".")[0] in FIXED:  # pyright: ignore[reportUnnecessaryIsInstance]
        return False
    if isinstance(value, types.FunctionType):
        file = value.__code__.co_filename
    else:
        file = getattr(value if isinstance(value, types.ModuleType) else sys.modules.get(name), "__file__", None) or ""
    return not any(part in file for part in INSTALLED) and not file.startswith(STANDARD)


STANDARD = os.path.dirname(os.__file__) + os.sep
"""Where the standard library is."""


def names_in(code: types.CodeType) -> set[str]:
    """The names of global variables and attributes in a function and in the functions it makes."""
    inner = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return set(code.co_names).union(*map(names_in, inner))


def referenced_globals(function: types.FunctionType) -> dict[str, Any]:
    """The global variables that a function refers to, and those of modules of the user's own."""
    names = sorted(names_in(function.__code__))
    held = function.__globals__
    found: dict[str, Any] = {}
    for name in names:
        value = held.get(name)
        if isinstance(value, types.ModuleType):
            if is_own(value):
                found.update({f"{name}.{other}": vars(value)[other] for other in names if other in vars(value)})
        elif value is not None and not (isinstance(value, (list, dict, set, tuple)) and len(value) > LONG):
            found[name] = value
        elif value is not None:
            found[name] = len(value)
    return found


def comparable(value: Any, seen: Seen) -> Hashable:
    """Something that is equal while what an attribute holds is the same.

    Args:
        value: any object.
        seen: what has been looked at; added to.
    """
    kind = type(value)
    if kind in PLAIN and not value:  # most of the hooks of most modules
        return kind
    if isinstance(value, SIMPLE):
        return kind, value
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, Tensor):
        return Identity(value)
    if id(value) in seen:
        return "seen", seen[id(value)][1]
    seen[id(value)] = value, len(seen)
    if isinstance(value, type):
        return value, comparable(class_fingerprint(value), seen) if is_own(value) else None
    if kind is dict or isinstance(value, Mapping):
        return kind, tuple((comparable(key, seen), comparable(part, seen)) for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), tuple(comparable(part, seen) for part in value), attributes_of(value, seen)
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(comparable(part, seen) for part in value)
    if isinstance(value, nn.Module):  # that is not registered: in a list, or in a closure
        return settings_of(value, seen)
    if isinstance(value, types.FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or () if cell != EMPTY]
        named = referenced_globals(value) if is_own(value) else {}
        return value.__code__, comparable([held, value.__defaults__, value.__kwdefaults__, named, vars(value)], seen)
    if isinstance(value, types.MethodType):
        return comparable([value.__func__, value.__self__], seen)
    if isinstance(value, functools.partial):
        return comparable([value.func, value.args, value.keywords], seen)
    if isinstance(value, (staticmethod, classmethod)):
        return type(value), comparable(value.__func__, seen)
    if isinstance(value, property):
        return type(value), comparable([value.fget], seen)
    if type(value).__module__.partition(".")[0] not in OPAQUE:
        held = attributes_of(value, seen)
        if held is not None:
            return type(value), held, comparable(type(value), seen)
    return Identity(value)


def attributes_of(value: Any, seen: Seen) -> Hashable:
    """What an object holds in attributes and slots; None where it has neither."""
    named = [name for base in type(value).__mro__ for name in getattr(base, "__slots__", ())]
    slots = {name: getattr(value, name) for name in named if hasattr(value, name) and name != "__dict__"}
    held = {**slots, **getattr(value, "__dict__", {})}
    return comparable(held, seen) if held else None


EMPTY = types.CellType()
