"""What the code of a forward may do that a traced program does not show, as its bytecode shows.

Names and instructions are looked at, never values: what is found here is reason to compare, and says nothing more.
Followed are the forwards of all modules that are not torch's own, their hooks, and the functions, methods and classes
that these name; what cannot be resolved is not followed.
"""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from torch import nn

from convexnet.curvature.tracing.restored_state import CONTAINERS, is_foreign

TRACED = "asks whether it is traced, or catches errors"
AGAIN = "changes what it keeps from call to call"
GRADIENTS = "asks whether gradients are computed"
TYPES = "compares types of numbers"
BATCHES = "compares sizes"
SIZES = "reads sizes"

NAMES: dict[str, tuple[str, ...]] = {
    TRACED: (
        "is_compiling", "is_dynamo_compiling", "is_exporting", "is_tracing", "is_fx_tracing",
        "is_torchdynamo_compiling", "is_symbolic_trace", "is_onnx_export", "is_in_onnx_export", "get_tracing_state",
        "_get_tracing_state", "is_fake", "fake_mode", "FakeTensor", "FakeTensorMode", "_subclasses", "SymInt",
        "SymFloat", "SymBool", "has_torch_function", "has_torch_function_unary", "has_torch_function_variadic",
        "overrides", "_is_torch_function_mode_enabled", "suppress", "eval", "exec", "globals", "locals", "getframe",
        "_getframe",
        "inspect", "traceback", "gc", "environ", "getenv", "__class__",
    ),
    AGAIN: (
        "setattr", "delattr", "__setattr__", "__dict__", "vars", "next", "__next__", "time", "monotonic",
        "perf_counter",
    ),
    GRADIENTS: (
        "is_grad_enabled", "is_inference_mode_enabled", "is_inference", "requires_grad", "grad_fn", "is_leaf", "grad",
    ),
}  # fmt: skip
"""Names that give reason to compare, wherever they stand."""

COMPARED: dict[str, tuple[str, ...]] = {
    TYPES: (
        "dtype",
        "is_floating_point",
        "element_size",
        "itemsize",
        "finfo",
        "type",
    ),
    BATCHES: ("shape", "size", "len", "numel", "nelement", "stride", "__len__", "nbytes"),
}
"""Names that do so in code that compares something."""

STORES = ("STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "DELETE_GLOBAL")
CHANGES = (
    "append", "extend", "appendleft", "insert", "pop", "popleft", "popitem", "setdefault", "update", "clear", "add",
    "remove", "discard",
)  # fmt: skip
"""Methods that change what they are called on: reason to compare where that may last longer than the call."""
COMPARES = ("COMPARE_OP", "IS_OP", "CONTAINS_OP", "MATCH_")


def find_suspicions(model: nn.Module) -> frozenset[str]:
    """Reasons to doubt that a program of the model is the model.

    Example:
        >>> find_suspicions(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
        frozenset()
    """
    found: set[str] = set()
    for code, meant in codes_of_call(model):
        found |= suspicions_of_code(code)
        found |= {reason for reason, listed in NAMES.items() if meant.intersection(listed)}
    return frozenset(found)


@functools.lru_cache(maxsize=4096)
def suspicions_of_code(code: types.CodeType) -> frozenset[str]:
    """What one piece of code gives reason for."""
    names = set(code.co_names)
    found = {reason for reason, listed in NAMES.items() if names.intersection(listed)}
    if names.intersection(COMPARED[BATCHES]):  # what is computed from a size needs no comparison
        found.add(SIZES)
    instructions = list(dis.get_instructions(code))
    operations = [instruction.opname for instruction in instructions]
    if operations.count("PUSH_EXC_INFO") > operations.count("WITH_EXCEPT_START"):
        found.add(TRACED)
    if any(operation in STORES for operation in operations) or may_change_state(code, instructions):
        found.add(AGAIN)
    if any(operation.startswith(COMPARES) for operation in operations):
        found |= {reason for reason, listed in COMPARED.items() if names.intersection(listed)}
    return frozenset(found)


def may_change_state(code: types.CodeType, instructions: list[dis.Instruction]) -> bool:
    """Whether something that the code did not make itself may be changed: variables of an outer function, elements of
    containers, and what `CHANGES` are called on."""
    made: dict[str, bool] = {}
    for before, at in pairwise(instructions):
        if at.opname == "STORE_FAST":
            made[at.argval] = made.get(at.argval, True) and before.opname.startswith("BUILD_")
    for before, at in pairwise(instructions):
        if at.opname == "STORE_DEREF" and at.argval in code.co_freevars:
            return True
        if at.opname in ("LOAD_METHOD", "LOAD_ATTR") and at.argval in CHANGES:
            if not (before.opname == "LOAD_FAST" and made.get(before.argval)) and before.argval != "torch":
                return True
        if at.opname == "STORE_SUBSCR" and before.opname == "LOAD_CONST" and isinstance(before.argval, str):
            return True
    return False


def codes_of_call(model: nn.Module) -> Iterator[tuple[types.CodeType, set[str]]]:
    """The code that a call of the model runs, as far as it is Python and not torch's, with the names of the functions
    that its variables stand for."""
    pending: list[Any] = []
    for module in model.modules():
        kind = type(module)
        if is_foreign(kind):
            pending += [getattr(kind, name) for name in ("forward", "__call__", "__getattr__")]
        pending += callables(vars(module))
        for hooks in ("_forward_pre_hooks", "_forward_hooks"):
            pending += vars(module).get(hooks, {}).values()
    kinds = {type(module) for module in model.modules() if is_foreign(type(module))}
    seen: set[int] = set()
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, functools.partial):
            pending += [item.func, *item.args, *item.keywords.values()]
        elif isinstance(item, types.MethodType):
            pending.append(item.__func__)
        elif isinstance(item, (staticmethod, classmethod)):
            pending.append(item.__func__)
        elif isinstance(item, property):
            pending.append(item.fget)
        elif isinstance(item, functools.cached_property):
            pending.append(item.func)
        elif isinstance(item, types.FunctionType):
            held = list(cells(item))
            pending += held
            if not is_torchs(item.__module__):
                for code in nested_codes(item.__code__):
                    values = [*held, *(item.__globals__.get(name) for name in code.co_names)]
                    yield code, {str(getattr(value, "__name__", "")) for value in values}
                    pending += referents_of_names(code, item.__globals__, kinds)
        elif isinstance(item, type) and is_foreign(item) and item.__module__ != __name__:
            pending += [
                inspect.getattr_static(item, name, None) for name in ("__init__", "__new__", "__call__", "forward")
            ]
        elif hasattr(item, "__wrapped__"):
            pending.append(item.__wrapped__)
        elif not isinstance(item, (nn.Module, types.ModuleType, type)) and callable(item) and is_foreign(type(item)):
            pending.append(inspect.getattr_static(type(item), "__call__", None))


def is_torchs(module: str | None) -> bool:
    return (module or "").partition(".")[0] in ("torch", "numpy", "builtins", "math", "typing", "functools")


def callables(values: dict[str, Any]) -> Iterator[Any]:
    """The functions among the attributes of a module, also in its own lists and dictionaries."""
    for value in values.values():
        if type(value) in (*CONTAINERS, tuple):
            yield from (v for v in (value.values() if isinstance(value, dict) else value) if is_function(v))
        elif is_function(value):
            yield value


def is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, (nn.Module, type))


def cells(function: types.FunctionType) -> Iterator[Any]:
    """The functions in the closure of a function, and the one that it wraps."""
    for cell in function.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:  # a variable that has no value yet
            continue
        if is_function(value):
            yield value
    yield getattr(function, "__wrapped__", None)


def nested_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A piece of code and those that it makes functions of."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from nested_codes(constant)


def referents_of_names(code: types.CodeType, variables: dict[str, Any], kinds: set[type]) -> Iterator[Any]:
    """What the names in a piece of code may stand for: globals, what modules among these hold, methods of modules."""
    spaces = [variables.get(name) for name in code.co_names]
    spaces = [space for space in spaces if isinstance(space, types.ModuleType) and not is_torchs(space.__name__)]
    for name in code.co_names:
        for value in (variables.get(name), *(vars(space).get(name) for space in spaces)):
            if callable(value):
                yield value
        for kind in kinds:
            value = inspect.getattr_static(kind, name, None)
            if value is not None and any(name in vars(base) for base in kind.__mro__ if is_foreign(base)):
                yield value
