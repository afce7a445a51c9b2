"""What a file may name: classes and functions by import path, and only those of packages that are trusted.

A model file comes from anywhere. Pickle runs whatever the file asks for; here a file can only name things, and a name
is followed if it lies on one of the literal lists below or in a package the caller allows. Functions are the delicate
part: a `forward` calls the function it finds in an attribute, with arguments that a `functools.partial` of the same
file may have fixed. So `torch.load`, `torch.hub.load`, `torch.from_file` or `timm.models.load_checkpoint` must be out
of reach, although `torch` and `timm` are trusted packages: functions come from modules that hold functions of tensors
and nothing else, and count only where they are defined, not where they were merely imported.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import types
from collections.abc import Sequence
from typing import Any

from torch import nn

CLASSES = (
    *("torch.nn", "torch.optim.swa_utils", "torch.ao.nn", "torch.ao.quantization.stubs"),
    *("torchvision.models", "torchvision.ops", "torchvision.transforms"),
    *("timm.layers", "timm.models", "convexnet"),
)
"""Packages whose modules, enums, named tuples and dataclasses are rebuilt. None of their constructors is called."""

SCRIPTS = ("convexnet.lab",)
"""Inside them, what runs experiments rather than being part of a network."""

PARTS = tuple(f"convexnet.lab.models.{name}" for name in ("first_step", "faces", "completing"))
"""Inside these again, what is part of a network."""

OBJECTS = ("torchvision.models.detection._utils",)
"""Modules whose classes are bundles of plain attributes, rebuilt as they are though neither modules nor dataclasses."""

PLAIN = {
    *(f"builtins:{kind.__name__}" for kind in (bool, int, float, str, list, tuple, dict, set, frozenset)),
    *("torch:Tensor", "torch:Size", "torch.nn.parameter:Parameter", "collections:OrderedDict"),
}
"""Classes that may be values although they are not modules."""

FUNCTIONS = (
    *("torch.nn.functional", "torch.nn.init", "torch.functional", "torchvision.ops", "timm.layers"),
    *("convexnet.constraints", "convexnet.conversion", "convexnet.nn", "convexnet.zoo"),
    "torchvision.models.optical_flow.raft:_pass_through_h",
)
"""Packages whose Python functions are functions of tensors and numbers, and single functions of others."""

MOVED = {
    "convexnet.lab.whiten": "convexnet.lab.models.first_step",
    "convexnet.constraints.keeping": "convexnet.constraints.constrain",
    "convexnet.curvature.chords": "convexnet.curvature.adversary.chords",
    "convexnet.domains": "convexnet.domains.box",
}
"""Modules that have moved: the path in files of earlier versions, and where its classes and functions are now. It is
looked up before anything is judged, so that an old file meets the same lists as a new one."""

OPERATORS = (
    *("torch.nn.functional", "torch", "torch.special", "torch.linalg", "torch.fft", "math", "operator", "builtins"),
)
"""Modules whose compiled functions are operators, in the order in which a function is looked for."""

BUILTINS = {"abs", "all", "any", "divmod", "len", "max", "min", "pow", "round", "sorted", "sum"}
REFUSED = {"torch:from_file", "operator:call"}

KINDS = {
    "a module class": lambda value: isinstance(value, type) and issubclass(value, nn.Module),
    "a class": lambda value: isinstance(value, type),
    "an object": lambda value: isinstance(value, type) and value.__module__ in OBJECTS,
    "a dataclass": lambda value: isinstance(value, type) and dataclasses.is_dataclass(value),
    "an enum": lambda value: isinstance(value, enum.EnumMeta),
    "a named tuple": lambda value: isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"),
    "a function": lambda value: isinstance(value, (types.FunctionType, types.BuiltinFunctionType)),
}


def is_within(module: str, packages: Sequence[str]) -> bool:
    """Whether a module is one of the packages or lies inside one.

    Example:
        >>> is_within("timm.layers.mlp", ("timm.layers",)), is_within("timm.layersx", ("timm.layers",))
        (True, False)
    """
    return any(module == package or module.startswith(package + ".") for package in packages)


def path_of(value: Any) -> str | None:
    """The import path `module:name` that leads to this very class or function; None if there is none.

    Example:
        >>> path_of(nn.Linear), path_of(nn.functional.gelu), path_of(lambda x: x)
        ('torch.nn.modules.linear:Linear', 'torch.nn.functional:gelu', None)
    """
    if isinstance(value, types.BuiltinFunctionType):
        for module in OPERATORS:
            for name, other in vars(importlib.import_module(module)).items():
                if other is value and not name.startswith("_"):
                    return f"{module}:{name}"
    module = getattr(value, "__module__", None)
    for name in (getattr(value, "__qualname__", ""), getattr(value, "__name__", "")):
        if isinstance(module, str) and name:
            try:
                if look_up(module, name) is value:
                    return f"{module}:{name}"
            except LookupError:
                continue
    return None


def look_up(module: str, name: str) -> Any:
    """What stands in a module under a name, or in a class of it under a dotted one; LookupError if nothing does."""
    try:
        value: Any = importlib.import_module(module)
    except Exception as error:  # whatever the module raises while it is imported
        raise LookupError(f"{module} cannot be imported ({type(error).__name__}: {error})") from error
    inner: type = types.ModuleType
    for part in name.split("."):
        if not isinstance(value, inner):
            raise LookupError(f"{module} has no {name}")
        # not getattr, which would follow a module's own __getattr__ or a class's bases to somewhere else
        value = vars(value).get(part)
        value = value.__func__ if isinstance(value, staticmethod) else value
        inner = type
    if value is None:
        raise LookupError(f"{module} has no {name}")
    return value


def is_trusted(path: str, kind: str) -> bool:
    """Whether a path may be followed without the caller's leave."""
    module, _, name = path.partition(":")
    if "__main__" in module.split(".") or (is_within(module, SCRIPTS) and module not in PARTS) or path in REFUSED:
        return False
    if kind != "a function":
        return is_within(module, CLASSES) or (kind == "a class" and path in PLAIN)
    if is_within(module, FUNCTIONS) or path in FUNCTIONS:
        return True
    if module == "builtins":
        return name in BUILTINS
    return module in OPERATORS and not name.startswith("_")


def import_trusted(path: str, kind: str, allow: Sequence[str], where: str) -> Any:
    """The class or function a file names.

    Args:
        path: `module:name`.
        kind: what it must be, one of `KINDS`.
        allow: packages the caller trusts besides those listed here.
        where: the path in the model, for the error.

    Raises:
        ValueError: it is not trusted, no longer exists, or is not what it must be.

    Example:
        >>> import_trusted("torch.nn.functional:relu", "a function", (), "act")
        <function relu at ...>
        >>> import_trusted("os:system", "a function", (), "act")
        Traceback (most recent call last):
        ValueError: act is os:system, a function that load does not trust: if you do, load(path, allow=('os',))
    """
    module, _, name = path.partition(":")
    module = MOVED.get(module, module)
    path = f"{module}:{name}"
    allowed = is_within(module, allow)
    if not allowed and not is_trusted(path, kind):
        raise ValueError(refusal_error(path, kind, where))
    try:
        value = look_up(module, name)
    except LookupError as error:
        raise ValueError(
            f"{where} is {path}, which does not exist here: {error}; install the version the model was saved with"
        ) from error
    if not KINDS[kind](value):
        raise ValueError(f"{where} names {path}, which is not {kind}: the file was not written by save")
    if not defined_there(value, module, allow if allowed else None):
        raise ValueError(refusal_error(path, kind, where))
    if kind == "a class" and not allowed and not (issubclass(value, nn.Module) or path in PLAIN):
        raise ValueError(refusal_error(path, kind, where))
    return value


def defined_there(value: Any, module: str, allow: Sequence[str] | None) -> bool:
    """Whether a class or function belongs to the module it was found in, and was not merely imported there."""
    home = getattr(value, "__module__", None)
    if allow is not None:
        return is_within(home or module, allow)
    if isinstance(value, type):
        return home == module
    if isinstance(value, types.FunctionType):  # beside its operators `torch` has compile, set_default_dtype, ...
        return home == module and (is_within(module, FUNCTIONS) or f"{module}:{value.__name__}" in FUNCTIONS)
    if module not in OPERATORS or value.__name__.startswith("_"):
        return False
    # the operators of torch are the methods of one class; the other compiled functions are readers and switches
    return module != "torch" or value.__qualname__.startswith("_VariableFunctionsClass.")


def refusal_error(path: str, kind: str, where: str) -> str:
    module = path.partition(":")[0]
    top = module.partition(".")[0]
    ours = top in {package.partition(".")[0] for package in (*CLASSES, *OPERATORS)}
    remedy = f"load(path, allow=({(module if ours else top)!r},))"
    return f"{where} is {path}, {kind} that load does not trust: if you do, {remedy}"
