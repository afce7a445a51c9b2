"""What can be traced: modules whose forward is Python, and tensors that are torch's own, with values.

Anything else is refused here by name, before torch fails on it with a message of its own, or takes it for a plain
tensor. `check_example` is for what a caller passes, `check_model` for what a model holds.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from convexnet.curvature.tracing.restored_state import TRACING, home_of, is_foreign
from convexnet.errors import NotTraceable

# --- tensors ---------------------------------------------------------------------------------------------------------

HARMLESS = frozenset(
    {
        *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__slots__", "__annotations__"),
        *("__new__", "__init__", "__init_subclass__", "__class_getitem__", "__orig_bases__", "__parameters__"),
        *("__repr__", "__str__", "__format__", "__dir__", "__hash__", "__firstlineno__", "__static_attributes__"),
        *("__deepcopy__", "__copy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__"),
    }
)
"""What a subclass of Tensor may define without changing what an operator computes."""


def has_plain_dispatch(tensor: Tensor) -> bool:
    """Whether the operators on a tensor are those of its class (wrappers, shards, fake and masked tensors)."""
    own: Any = type(tensor)
    plain: Any = Tensor
    return own.__torch_dispatch__ is not plain.__torch_dispatch__


def overridden_methods(tensor: Tensor) -> list[str]:
    """What the class of a tensor changes of Tensor: its `__torch_function__`, or methods."""
    kind = type(tensor)
    if kind in (Tensor, nn.Parameter):
        return []
    names: set[str] = set()
    for base in kind.__mro__:
        if base is Tensor:
            break
        if not home_of(base).startswith("torch.nn"):
            names |= {name for name in vars(base) if name not in HARMLESS and hasattr(Tensor, name)}
    if kind.__torch_function__ is torch._C._disabled_torch_function_impl:  # pyright: ignore[reportPrivateUsage]
        names.discard("__torch_function__")
    return sorted(names)


def is_in_transform(tensor: Tensor) -> bool:
    """Whether a tensor belongs to a torch.vmap or torch.func.grad that is running."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))  # pyright: ignore


def explain_odd_tensor(tensor: Tensor) -> tuple[str, str] | None:
    """What is odd about a tensor, and what to use instead; None for a dense tensor with values.

    Example:
        >>> explain_odd_tensor(torch.eye(2).to_sparse())
        ('is sparse (torch.sparse_coo)', 'use .to_dense()')
    """
    if is_in_transform(tensor):
        return "belongs to a torch.vmap or torch.func transform that is running", "call this outside of it"
    name = type(tensor).__name__
    sharded = name == "DTensor" or (not has_plain_dispatch(tensor) and type(tensor.data).__name__ == "DTensor")
    if sharded:
        return (
            "is sharded over processes (FSDP2, tensor parallel), and a shard cannot be traced",
            "constrain, convert and certify the model before sharding it, and certify a copy with its full weights "
            "afterwards",
        )
    if tensor.is_nested:
        return "is a nested tensor", "pad it to a dense one"
    if tensor.is_mkldnn:
        return "is stored in a layout of MKL-DNN's own", "use .to_dense()"
    if tensor.layout != torch.strided:
        return f"is sparse ({tensor.layout})", "use .to_dense()"
    if tensor.is_quantized:
        return "is quantised", "use .dequantize(), or the model from before its quantisation"
    if has_plain_dispatch(tensor):
        return f"is a {name}, whose operators are its own (__torch_dispatch__)", "use the plain tensor it stands for"
    if tensor.is_meta:
        return "is on the meta device and has no values", "materialise the model with to_empty first, and load it"
    return None


def check_example(tensor: Tensor, where: str) -> Tensor:
    """A plain tensor with the values of one that a caller passes; of a subclass, what it is without its class.

    Raises:
        TypeError: its values are not those of a dense tensor.
    """
    found = explain_odd_tensor(tensor)
    if found is not None:
        what, remedy = ("is on the meta device and has no values", "use torch.zeros") if tensor.is_meta else found
        raise TypeError(f"{where} {what}: {remedy}")
    if tensor.is_complex():
        raise TypeError(f"{where} is complex; convexity is defined for real inputs: pass real and imaginary parts")
    return tensor if type(tensor) in (Tensor, nn.Parameter) else tensor.as_subclass(Tensor)


# --- models ----------------------------------------------------------------------------------------------------------

QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")
FLOATING = ("FloatFunctional", "FXFloatFunctional")
"""What stands among the quantised modules, and is made of ordinary operators."""


def check_model(model: nn.Module) -> None:
    """Refuse, by name, what a program cannot be of.

    Raises:
        NotTraceable: with the path of the module or tensor, and what to do.

    Example:
        >>> check_model(nn.Linear(2, 2, device="meta"))
        Traceback (most recent call last):
        ...
        convexnet.errors.NotTraceable: weight is on the meta device and has no values: materialise the model with ...
    """
    with TRACING:  # another thread may have put it into eval mode for a while
        check_modules(model)
        check_modes(model)
        check_tensors(model)


def check_modes(model: nn.Module) -> None:
    """A `train` or `eval` of the model's own may do anything, and is not ours to call."""
    for name, module in model.named_modules():
        if not module.training:
            continue
        mode = getattr(type(module), "training", None)
        if isinstance(mode, property) and not home_of(mode.fget).startswith("torch."):
            raise NotTraceable(
                f"{path_in_words(name, module)} computes `training`, so that it cannot be put into eval mode"
            )
        for method in ("train", "eval"):
            if overrides(module, method):
                raise NotTraceable(
                    f"{path_in_words(name, module)} is in training mode and overrides {method}(), which may change "
                    "more than a flag: call model.eval() before certifying"
                )


def overrides(module: nn.Module, method: str) -> bool:
    """Whether a module has a method of its own, by its class or as an attribute (which a graph of torch's may be)."""
    own = vars(module).get(method)
    if own is not None:
        return not home_of(own).startswith("torch.")
    return getattr(type(module), method) is not getattr(nn.Module, method)


def check_modules(model: nn.Module) -> None:
    """Modules that are not Python, and those without shapes."""
    for name, module in [*model.named_modules(), *unregistered_modules(model)]:
        kind = type(module)
        if isinstance(module, torch.jit.ScriptModule):
            raise NotTraceable(
                f"{path_in_words(name, module)} is compiled by TorchScript, which hides its operators: build the model "
                "with the module it came from"
            )
        if home_of(kind).startswith(QUANTISED) and kind.__name__ not in FLOATING:
            raise NotTraceable(
                f"{path_in_words(name, module)} is quantised ({kind.__module__}.{kind.__name__}), and its operators "
                "round: use the model from before its quantisation"
            )
        if isinstance(module, LazyModuleMixin) and is_waiting(module):
            raise NotTraceable(
                f"{name or 'the model'} is a lazy module without shapes yet: run one batch through it first"
            )


def is_waiting(module: Any) -> bool:
    """Whether a lazy module has not seen a batch yet."""
    return bool(module.has_uninitialized_params())


def check_tensors(model: nn.Module) -> None:
    """Tensors that a program would take for plain ones, or fail on."""
    for name, tensor in tensors(model):
        found = explain_odd_tensor(tensor)
        if found is None and (changed := overridden_methods(tensor)):
            found = (
                f"is a {type(tensor).__name__}, a class of tensors that changes what operators do "
                f"({', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''}), and a traced program contains "
                "plain ones only",
                "use .as_subclass(torch.Tensor)",
            )
        if found is not None:
            raise NotTraceable(f"{name} {found[0]}: {found[1]}")


def path_in_words(name: str, module: nn.Module) -> str:
    """The path of a module, or its class where it is the model itself."""
    return name or type(module).__name__


# --- what a model holds ----------------------------------------------------------------------------------------------


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers, and the tensors that modules hold as attributes, also in lists and dictionaries."""
    yield from model.named_parameters()
    yield from model.named_buffers()
    for name, value in unregistered_attributes(model):
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, nn.Module):
            for inner, tensor in [*value.named_parameters(), *value.named_buffers()]:
                yield f"{name}.{inner}", tensor


def unregistered_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules in plain lists and dictionaries, which `parameters`, `eval` and `to` do not reach, by path."""
    for name, value in unregistered_attributes(model):
        if isinstance(value, nn.Module):
            for inner, module in value.named_modules():
                yield f"{name}.{inner}".rstrip("."), module


def unregistered_attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Tensors and modules in the attributes of a model's modules, at any depth, that are not registered; by path."""
    seen = {id(module) for module in model.modules()}
    pending: list[tuple[str, Any]] = []
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        pending += [(prefix + name, value) for name, value in vars(module).items() if is_worth(name, value)]
        if is_foreign(type(module)):
            pending.append((f"{prefix}forward", type(module).forward))
    pending.reverse()
    while pending:
        name, value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (Tensor, nn.Module)):
            yield name, value
        elif isinstance(value, FUNCTIONS):
            pending += reversed(
                [(f"{name}{CLOSURE}{key}", item) for key, item in referents_of_function(value) if is_worth("", item)]
            )
        elif isinstance(value, (list, tuple, set, dict)):
            items: Any = value.items() if isinstance(value, dict) else enumerate(value)
            pending += reversed([(f"{name}[{key!r}]", item) for key, item in items if is_worth("", item)])


CLOSURE = ": "
"""Between the name of a function and that of a variable it reads."""
FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)


def is_worth(name: str, value: Any) -> bool:
    """Whether an attribute may hold tensors or modules."""
    return name not in TORCHS and isinstance(value, (Tensor, nn.Module, list, tuple, set, dict, *FUNCTIONS))


def referents_of_function(function: Any) -> Iterator[tuple[str, Any]]:
    """What a function finds in its closure, its defaults, and among the globals that it names."""
    if isinstance(function, functools.partial):
        yield from enumerate((function.func, *function.args, *function.keywords.values()))  # pyright: ignore
    elif isinstance(function, types.MethodType):
        yield "self", function.__self__
        yield from referents_of_function(function.__func__)
    elif not home_of(function).startswith("torch."):
        code = function.__code__
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # a variable that has no value yet
                yield name, cell.cell_contents
        loads = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
        named = {name: function.__globals__.get(name) for name in code.co_names if name in loads}
        yield from ((name, value) for name, value in named.items() if isinstance(value, (Tensor, nn.Module)))


TORCHS = frozenset(vars(nn.Module()))
"""Attributes that every module has: its parameters, buffers, children and hooks."""
