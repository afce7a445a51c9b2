"""Attribute values as JSON and back: a literal table with one tag for each kind of value, and an error for the rest.

None, booleans, strings, finite floats, integers and lists are JSON as they stand. Everything else is an object with one
key, its tag. Reading calls nothing but the constructors in this file: enums and dataclasses are looked up and filled,
functions are looked up and kept.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from convexnet.storage.trust import OBJECTS, import_trusted, is_within, path_of

Json = Any


class Sink(Protocol):
    """What takes the tensors and modules that values refer to, and gives each a number."""

    open: list[int]

    def tensor(self, value: Tensor, where: str) -> int: ...

    def module(self, value: nn.Module, where: str) -> int: ...


@dataclass
class FileContent:
    """The tensors and modules by number, and the packages the caller allows."""

    tensors: list[Tensor] = field(default_factory=list[Tensor])
    modules: list[nn.Module] = field(default_factory=list[nn.Module])
    allow: Sequence[str] = ()


def unsavable_error(where: str, what: str, remedy: str) -> TypeError:
    return TypeError(f"{where} is {what}; a file without code cannot hold that: {remedy}")


# --- writing ---------------------------------------------------------------------------------------------------------


def encode(value: Any, where: str, sink: Sink) -> Json:
    """A value as JSON.

    Args:
        value: any of the kinds of `TAGS`.
        where: its path in the model, for the error.
        sink: takes tensors and modules.

    Raises:
        TypeError: it is of another kind, or has no import path.
    """
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if abs(value) < 2**63 else {"int": hex(value)}  # JSON readers and Python limit decimal integers
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Tensor):
        return {"tensor": sink.tensor(value, where)}
    if isinstance(value, nn.Module):
        return {"module": sink.module(value, where)}
    if id(value) in sink.open:
        raise unsavable_error(where, f"a {kind.__name__} that contains itself", "break the cycle")
    sink.open.append(id(value))
    try:
        return encode_contents(value, where, sink)
    finally:
        sink.open.pop()


def encode_contents(value: Any, where: str, sink: Sink) -> Json:
    """Return what is inside a value that is not a scalar, tagged."""
    kind: type[Any] = type(value)

    def items(of: Iterable[Any]) -> list[Json]:
        return [encode(item, f"{where}[{i}]", sink) for i, item in enumerate(of)]

    if kind is list:
        return items(value)
    if kind in (tuple, torch.Size):
        return {kind.__name__: items(value)}
    if kind in (set, frozenset):
        return {kind.__name__: sorted(items(value), key=json.dumps)}  # no order of its own: the same file every time
    if kind in (dict, OrderedDict):
        return {kind.__name__: [[encode(k, where, sink), encode(v, f"{where}[{k!r}]", sink)] for k, v in value.items()]}
    if kind is slice:
        return {"slice": items((value.start, value.stop, value.step))}
    if kind is range:
        return {"range": [value.start, value.stop, value.step]}
    if kind in (torch.dtype, torch.memory_format, torch.layout):
        return {"torch": str(value).removeprefix("torch.")}
    if kind is torch.device:
        return {"device": str(value)}
    if isinstance(value, enum.Enum):
        if value.name not in kind.__members__:
            raise unsavable_error(where, f"{value!r}, not a single member of its enum", "keep its value instead")
        return {"enum": [name_of(kind, where), value.name]}
    if kind is functools.partial:
        return {"partial": [encode(part, where, sink) for part in (value.func, value.args, value.keywords)]}
    if isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
        if getattr(type(value.__self__), value.__name__, None) is not value.__func__:
            raise unsavable_error(
                where, f"the method {value.__name__}, not one of its class", "make it a method of the class"
            )
        return {"method": [sink.module(value.__self__, where), value.__name__]}
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType)):
        return {"function": name_of(value, where)}
    if isinstance(value, type):
        return {"class": name_of(value, where)}
    if dataclasses.is_dataclass(value):
        return {
            "dataclass": [name_of(kind, where), [[k, encode(v, f"{where}.{k}", sink)] for k, v in fields(value, where)]]
        }
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return {"namedtuple": [name_of(kind, where), items(value)]}
    if isinstance(value, np.ndarray) and type(value) is np.ndarray and is_numeric(value.dtype):
        return {"array": sink.tensor(torch.from_numpy(np.array(value, order="C")), where)}
    if isinstance(value, np.generic) and is_numeric(value.dtype):
        return {"number": [value.dtype.name, encode(value.item(), where, sink)]}
    if kind.__module__ in OBJECTS:
        return {
            "object": [name_of(kind, where), [[k, encode(v, f"{where}.{k}", sink)] for k, v in vars(value).items()]]
        }
    raise unsavable_error(
        where, f"an object of class {kind.__module__}.{kind.__qualname__}", "keep plain data, a dataclass or a module"
    )


def is_numeric(kind: np.dtype[Any]) -> bool:
    """Whether a numpy type holds booleans or numbers that torch has too."""
    return kind.kind in "biuf" and kind.itemsize <= 8 and kind.isnative


def fields(value: Any, where: str) -> list[tuple[str, Any]]:
    """The fields of a dataclass instance with their values; anything next to them that is not a cache is an error."""
    names = [each.name for each in dataclasses.fields(value)]
    members = {name: member for kind in type(value).__mro__ for name, member in vars(kind).items()}
    cached = {name for name, member in members.items() if isinstance(member, functools.cached_property)}
    beside = set(getattr(value, "__dict__", ())) - set(names) - cached
    if beside:
        raise unsavable_error(
            where, f"a {type(value).__name__} with {min(beside)!r} beside its fields", "make it a field"
        )
    return [(name, getattr(value, name)) for name in names]


def name_of(value: Any, where: str) -> str:
    """The import path of a class or function, or the error that says why there is none."""
    path = path_of(value)
    if path is None:
        name = str(getattr(value, "__qualname__", value))
        what = "a lambda" if "<lambda>" in name else f"{value.__module__}.{name}, which no import finds"
        raise unsavable_error(where, what, "define it with def or class at the top level of a module, and use its name")
    return path


# --- reading ---------------------------------------------------------------------------------------------------------


def decode(data: Json, where: str, source: FileContent) -> Any:
    """The value of what `encode` wrote.

    Raises:
        ValueError: a name is not trusted or leads nowhere; the data was not written by `encode`.

    Example:
        >>> decode({"tuple": [1, {"float": "inf"}, {"function": "torch:tanh"}]}, "limits", FileContent())
        (1, inf, <built-in method tanh of type object at ...>)
    """
    if isinstance(data, list):
        return [decode(item, f"{where}[{i}]", source) for i, item in enumerate(data)]
    if not isinstance(data, dict):
        return data
    if len(data) != 1:
        raise ValueError(f"{where} has {len(data)} tags instead of one: the file was not written by save")
    ((tag, content),) = data.items()
    if tag not in TAGS:
        raise ValueError(
            f"{where} has the unknown tag {tag!r}: the file was written by a newer convexnet, or not by it"
        )
    return TAGS[tag](content, where, source)


def sequence(kind: Callable[[Iterable[Any]], Any]) -> Callable[[Json, str, FileContent], Any]:
    """How a container of one kind is read."""
    return lambda data, where, source: kind(decode(data, where, source))


def mapping(kind: Callable[[Iterable[tuple[Any, Any]]], Any]) -> Callable[[Json, str, FileContent], Any]:
    """How a dictionary of one kind is read."""

    def read(data: Json, where: str, source: FileContent) -> Any:
        keys = [decode(key, where, source) for key, _ in data]
        values = [decode(value, f"{where}[{k!r}]", source) for k, (_, value) in zip(keys, data, strict=True)]
        return kind(zip(keys, values, strict=True))

    return read


def read_constant(data: Json, where: str, source: FileContent) -> Any:
    value = vars(torch).get(data)
    if not isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
        raise ValueError(f"{where} names torch.{data}, which is not a dtype, layout or memory format")
    return value


def read_number(data: Json, where: str, source: FileContent) -> Any:
    kind = np.dtype(data[0])
    if not is_numeric(kind):
        raise ValueError(f"{where} is a number of type {data[0]}, which save does not write")
    return kind.type(decode(data[1], where, source))


def read_enum(data: Json, where: str, source: FileContent) -> Any:
    return import_trusted(data[0], "an enum", source.allow, where).__members__[data[1]]


def read_partial(data: Json, where: str, source: FileContent) -> Any:
    function, arguments, keywords = (decode(part, where, source) for part in data)
    return functools.partial(function, *arguments, **keywords)


def read_method(data: Json, where: str, source: FileContent) -> Any:
    owner, name = source.modules[data[0]], data[1]
    kind = type(owner)
    method = getattr(kind, name)
    # a method is a function with a chosen first argument; of the trusted packages only `forward` has been looked at
    if not (name == "forward" or is_within(kind.__module__, source.allow)) or not isinstance(
        method, types.FunctionType
    ):
        raise ValueError(
            f"{where} is the method {name} of {kind.__module__}.{kind.__qualname__}, which load does not trust: if you "
            f"do, load(path, allow=({kind.__module__!r},))"
        )
    return types.MethodType(method, owner)


def read_dataclass(data: Json, where: str, source: FileContent) -> Any:
    kind = import_trusted(data[0], "a dataclass", source.allow, where)
    recorded, present = [name for name, _ in data[1]], [each.name for each in dataclasses.fields(kind)]
    if recorded != present:
        raise ValueError(
            f"{where} is a {kind.__name__} with the fields {recorded}, which has {present} here: install the version "
            "the model was saved with"
        )
    value = object.__new__(kind)
    for name, content in data[1]:
        object.__setattr__(value, name, decode(content, f"{where}.{name}", source))
    return value


def read_object(data: Json, where: str, source: FileContent) -> Any:
    value = object.__new__(import_trusted(data[0], "an object", source.allow, where))
    vars(value).update((name, decode(content, f"{where}.{name}", source)) for name, content in data[1])
    return value


def read_namedtuple(data: Json, where: str, source: FileContent) -> Any:
    kind = import_trusted(data[0], "a named tuple", source.allow, where)
    values = decode(data[1], where, source)
    if len(values) != len(kind._fields):
        raise ValueError(f"{where} is a {kind.__name__} of {len(values)} values; here it has {len(kind._fields)}")
    return tuple.__new__(kind, values)


TAGS: dict[str, Callable[[Json, str, FileContent], Any]] = {
    "int": lambda data, where, source: int(data, 16),
    "float": lambda data, where, source: float(data),
    "tuple": sequence(tuple),
    "set": sequence(set),
    "frozenset": sequence(frozenset),
    "Size": sequence(torch.Size),
    "dict": mapping(dict),
    "OrderedDict": mapping(OrderedDict),
    "slice": lambda data, where, source: slice(*decode(data, where, source)),
    "range": lambda data, where, source: range(*data),
    "torch": read_constant,
    "device": lambda data, where, source: torch.device(data),
    "tensor": lambda data, where, source: source.tensors[data],
    "module": lambda data, where, source: source.modules[data],
    "array": lambda data, where, source: source.tensors[data].detach().cpu().numpy(),
    "number": read_number,
    "enum": read_enum,
    "partial": read_partial,
    "method": read_method,
    "function": lambda data, where, source: import_trusted(data, "a function", source.allow, where),
    "class": lambda data, where, source: import_trusted(data, "a class", source.allow, where),
    "dataclass": read_dataclass,
    "object": read_object,
    "namedtuple": read_namedtuple,
}
"""How each tag is read."""
