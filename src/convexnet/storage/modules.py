"""The module tree as JSON and back, by reflection: no constructor is called and no architecture has to be known.

For every module: its class, its attributes, which tensors are its parameters and buffers, which modules its children,
its flags and hooks. Modules and tensors have numbers, so that what occurs at two places in the model is one thing again
when it is loaded. Gradients, and hooks that are not functions of an importable module, are not part of a model.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.hooks import RemovableHandle

from convexnet.curvature.arguments import unwrap
from convexnet.storage.tensors import check_storable, pack, unpack
from convexnet.storage.trust import import_trusted, path_of
from convexnet.storage.values import FileContent, Json, decode, encode, name_of, unsavable_error

BASE = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}
"""What every module has; all else in its `__dict__` are its attributes. `Module.compile` is undone, as by pickle."""

DERIVED = {"_flat_weights", "_flat_weight_refs"}
"""Attributes of recurrent layers that list their weights once more; the layer makes them again."""

HOOKS: dict[str, tuple[str, ...]] = {
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    "_backward_pre_hooks": (), "_backward_hooks": (), "_state_dict_pre_hooks": (), "_state_dict_hooks": (),
    "_load_state_dict_pre_hooks": (), "_load_state_dict_post_hooks": (),
}  # fmt: skip
"""The dictionaries of hooks, each with those that flag some of its entries."""


def join_path(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


# --- writing ---------------------------------------------------------------------------------------------------------


@dataclass
class Draft:
    """The modules and tensors met so far; both are kept, so that no identity is given twice."""

    modules: list[dict[str, Json]] = field(default_factory=list[dict[str, Json]])
    tensors: list[Tensor] = field(default_factory=list[Tensor])
    names: list[str] = field(default_factory=list[str])
    flags: list[dict[str, Json]] = field(default_factory=list[dict[str, Json]])
    kept: list[nn.Module] = field(default_factory=list[nn.Module])
    numbers: dict[int, int] = field(default_factory=dict[int, int])
    open: list[int] = field(default_factory=list[int])

    def tensor(self, value: Tensor, where: str) -> int:
        """The number of a tensor."""
        if id(value) not in self.numbers:
            check_storable(value, where)
            self.numbers[id(value)] = len(self.tensors)
            self.tensors.append(value)
            self.names.append(where)
            flags: dict[str, Json] = {"requires_grad": value.requires_grad}
            self.flags.append(flags)
            if isinstance(value, nn.Parameter):
                flags["parameter"] = True
            if vars(value):
                flags["attributes"] = [[k, encode(v, f"{where}.{k}", self)] for k, v in vars(value).items()]
        return self.numbers[id(value)]

    def module(self, value: nn.Module, where: str) -> int:
        """The number of a module, which is described when it is met first."""
        try:
            value = unwrap(value)
        except TypeError as error:
            raise TypeError(f"{where}: {error}" if where else str(error)) from error
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.modules)
            self.kept.append(value)
            entry: dict[str, Json] = {}
            self.modules.append(entry)
            entry.update(self.entry(value, where))
        return self.numbers[id(value)]

    def entry(self, module: nn.Module, path: str) -> dict[str, Json]:
        """What is recorded of one module."""
        kind, state = type(module), vars(module)
        computed: list[str] = []
        if kind.__module__ == parametrize.__name__ and parametrize.is_parametrized(module):
            kind, computed = parametrize.type_before_parametrizations(module), list(module.parametrizations)  # pyright: ignore
        if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():  # pyright: ignore
            raise unsavable_error(
                path or "the model", "a lazy layer of unknown size", "run the model once before saving"
            )
        slots = [slot for each in kind.__mro__ for slot in getattr(each, "__slots__", ()) if hasattr(module, slot)]
        if slots:
            raise unsavable_error(
                join_path(path, slots[0]), "an attribute in __slots__", "keep it in the module's __dict__"
            )
        entry: dict[str, Json] = {"class": name_of(kind, path or "the model"), "path": path, "computed": computed}
        for table in ("_parameters", "_buffers", "_modules"):  # first, so that tensors get their names of state_dict
            count: Callable[[Any, str], int] = self.module if table == "_modules" else self.tensor
            entry[table] = {
                key: None if value is None else count(value, join_path(path, key))
                for key, value in state[table].items()
            }
        entry["transient"] = sorted(state["_non_persistent_buffers_set"])
        left_out = BASE | DERIVED if isinstance(module, nn.RNNBase) else BASE
        entry["attributes"] = [
            [key, encode(value, join_path(path, key), self)] for key, value in state.items() if key not in left_out
        ]
        entry["training"] = module.training
        entry["full_backward_hook"] = state["_is_full_backward_hook"]
        entry["hooks"] = [
            self.hook(module, table, number, hook, path) for table in HOOKS for number, hook in state[table].items()
        ]
        return entry

    def hook(self, module: nn.Module, table: str, key: int, hook: Any, path: str) -> Json:
        """One hook: its dictionary, its function, its flags."""
        with_module = bool(getattr(hook, "with_module", False)) and table == "_load_state_dict_pre_hooks"
        function = getattr(hook, "hook", hook) if table == "_load_state_dict_pre_hooks" else hook
        flags = [flag for flag in HOOKS[table] if key in vars(module)[flag]]
        if old_names(function):
            return [table, {"weight_norm": function.__closure__[0].cell_contents}, flags, with_module]
        if not isinstance(function, types.FunctionType) or path_of(function) is None:
            name = getattr(function, "__qualname__", type(function).__qualname__)
            raise unsavable_error(
                path or "the model",
                f"a module with the hook {name} in {table}",
                "remove the hook before saving and register it again after loading; only functions at the top level of "
                "a module are kept (of torch's own, spectral_norm, weight_norm and pruning by hooks: use "
                "torch.nn.utils.parametrizations, or torch.nn.utils.prune.remove)",
            )
        if table == "_state_dict_hooks" and hasattr(function, "_from_public_api"):
            flags = ["_from_public_api", *flags]
        return [table, {"function": name_of(function, path)}, flags, with_module]


def old_names(hook: Any) -> bool:
    """Whether a hook is the one of torch's `weight_norm`, which renames the tensors of old checkpoints."""
    return (
        isinstance(hook, types.FunctionType)
        and hook.__module__ == parametrizations.__name__
        and hook.__qualname__.startswith("weight_norm.<locals>.")
        and hook.__code__.co_freevars == ("name",)
    )


def describe_model(model: nn.Module) -> tuple[dict[str, Json], dict[str, Tensor]]:
    """The recipe of a model, and its tensors by the names they have in the file.

    Raises:
        TypeError: something in it cannot be saved; the message names its path and the remedy.

    Example:
        >>> recipe, tensors = describe_model(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
        >>> sorted(tensors), recipe["modules"][2]["class"]
        (['0.bias', '0.weight'], 'torch.nn.modules.activation:ReLU')
    """
    draft = Draft()
    draft.module(model, "")
    stored, places = pack(draft.tensors, draft.names)
    tensors = [{**place, **flags} for place, flags in zip(places, draft.flags, strict=True)]
    return {"modules": draft.modules, "tensors": tensors}, stored


# --- reading ---------------------------------------------------------------------------------------------------------


def rebuild_model(
    recipe: dict[str, Json],
    keys: Sequence[str],
    fetch: Callable[[str], Tensor],
    allow: Sequence[str],
    device: torch.device,
) -> nn.Module:
    """The model of a recipe.

    Args:
        recipe: of `describe_model`.
        keys, fetch: the names of the tensors in the file, and what reads one.
        allow: packages that are trusted besides those of `convexnet.storage.trust`.
        device: of the tensors.

    Raises:
        ValueError: the recipe names what is not trusted or does not exist, or is damaged.
    """
    # classes first: what is not trusted is refused before a tensor is read
    source = FileContent(modules=[empty_module(entry, allow) for entry in recipe["modules"]], allow=allow)
    source.tensors = unpack(recipe["tensors"], keys, fetch, device)
    for place, tensor in zip(recipe["tensors"], source.tensors, strict=True):
        for key, value in place.get("attributes", ()):
            vars(tensor)[key] = decode(value, f"{place['in']}.{key}", source)
    entries = list(zip(recipe["modules"], source.modules, strict=True))
    for entry, module in entries:
        fill_module(entry, module, source)
    for entry, module in entries:
        for name in entry["computed"]:
            if not isinstance(module.parametrizations[name], parametrize.ParametrizationList):  # pyright: ignore
                raise ValueError(
                    f"{join_path(entry['path'], name)} has no list of parametrisations: the file is damaged"
                )
        for record in entry["hooks"]:
            add_hook(record, module, entry["path"], source)
        if isinstance(module, nn.RNNBase):
            list_weights(module)
    return source.modules[0]


def empty_module(entry: dict[str, Json], allow: Sequence[str]) -> nn.Module:
    """An empty module of the recorded class; neither its `__new__` nor its `__init__` runs."""
    module: nn.Module = object.__new__(
        import_trusted(entry["class"], "a module class", allow, entry["path"] or "the model")
    )
    vars(module).update(vars(nn.Module()))
    return module


def fill_module(entry: dict[str, Json], module: nn.Module, source: FileContent) -> None:
    """Give a module what was recorded of it.

    Here and below, methods are called on their class: an attribute from the file may hide the one of the module.
    """
    state, path = vars(module), entry["path"]
    state["training"], state["_is_full_backward_hook"] = bool(entry["training"]), entry["full_backward_hook"]
    for key, value in entry["attributes"]:
        if key in BASE:
            raise ValueError(
                f"{join_path(path, key)} is not an attribute but a part of every module: the file is damaged"
            )
        state[key] = decode(value, join_path(path, key), source)
    for name in entry["computed"]:
        # torch makes the class anew around a placeholder, by its public way; the recorded list then takes its place
        nn.Module.register_buffer(module, name, torch.empty(0))
        parametrize.register_parametrization(module, name, nn.Identity(), unsafe=True)
    expected = {"_parameters": nn.Parameter, "_buffers": Tensor, "_modules": nn.Module}
    for table, kind in expected.items():
        parts: Sequence[Any] = source.modules if table == "_modules" else source.tensors
        found = {key: None if number is None else parts[number] for key, number in entry[table].items()}
        wrong = [key for key, part in found.items() if part is not None and not isinstance(part, kind)]
        if wrong:
            raise ValueError(f"{join_path(path, wrong[0])} is not a {kind.__name__}: the file is damaged")
        state[table] = found
    state["_non_persistent_buffers_set"] = set(entry["transient"])


def list_weights(layer: nn.RNNBase) -> None:
    """The list of its weights that a recurrent layer keeps, and on a GPU their block of memory.

    A weight that is computed has no entry yet: its reference is dead, so that the layer makes the list when it runs.
    """
    state = vars(layer)
    state["_flat_weights"] = [state["_parameters"].get(name) for name in state["_flat_weights_names"]]
    state["_flat_weight_refs"] = [weakref.ref(torch.empty(0) if w is None else w) for w in state["_flat_weights"]]
    nn.RNNBase.flatten_parameters(layer)


def add_hook(record: Json, module: nn.Module, path: str, source: FileContent) -> None:
    """Register one hook, under a number that no other hook will get."""
    table, content, flags, with_module = record
    if table not in HOOKS or set(flags) - {"_from_public_api", *HOOKS[table]}:
        raise ValueError(f"{path or 'the model'} has a hook in {table!r}, which save does not write")
    if "weight_norm" in content:
        hook = weight_norm_hook(content["weight_norm"])
    else:
        hook = import_trusted(content["function"], "a function", source.allow, f"{path or 'the model'} (hook)")
    if table == "_load_state_dict_pre_hooks":
        nn.Module._register_load_state_dict_pre_hook(module, hook, with_module)  # pyright: ignore[reportPrivateUsage]
    elif table == "_state_dict_hooks" and "_from_public_api" in flags:
        nn.Module.register_state_dict_post_hook(module, hook)
    else:
        handle = RemovableHandle(vars(module)[table])
        vars(module)[table][handle.id] = hook
        for flag in flags:
            vars(module)[flag][handle.id] = True


def weight_norm_hook(name: str) -> Callable[..., None]:
    """The hook that `weight_norm` registers, taken from a module made for that."""
    sample = nn.Module()
    sample.register_parameter(name, nn.Parameter(torch.ones(1, 1)))
    parametrizations.weight_norm(sample, name)
    (wrapped,) = vars(sample)["_load_state_dict_pre_hooks"].values()
    return wrapped.hook
