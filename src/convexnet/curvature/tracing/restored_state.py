"""The caller's model, and the settings of Python and torch, as they were.

Certifying a model runs its forward, which may do anything. Whatever it assigns, appends or draws, and whatever torch
leaves behind when an export fails, is put back here, also after an exception or Ctrl-C. `torch.export` and the flags
of a module are shared by all threads, so one lock is held meanwhile.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

TRACING = threading.RLock()
"""Held by whoever traces a model, or has changed its flags or torch's settings for a while. Take it last: whoever holds
it must not wait for another lock."""

CONTAINERS = frozenset((list, dict, set, OrderedDict, defaultdict, Counter, deque))
"""What a forward may append to; parameters, buffers and submodules are held in dictionaries too."""

MISSING = object()


# --- a model ---------------------------------------------------------------------------------------------------------


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Eval mode for every submodule of the caller's model; afterwards it and its surroundings are what they were.

    Values of tensors that a forward overwrites are not looked after; see `calling`.

    Example:
        >>> net = nn.Dropout()
        >>> with evaluating(net):
        ...     net.training
        False
        >>> net.training
        True
    """
    with TRACING, restored_settings(), in_eval_mode(model):
        yield


@contextmanager
def calling(model: nn.Module) -> Generator[None]:
    """`evaluating` without gradients, after which parameters and buffers have the values that they had, too."""
    with evaluating(model):
        held = [(tensor, tensor.data, tensor.data.clone()) for tensor in tensors_of(model) if is_plain(tensor)]
        try:
            with torch.no_grad():
                yield
        finally:
            for tensor, data, values in held:
                if tensor.data.data_ptr() != data.data_ptr() or tensor.shape != data.shape:
                    tensor.data = data
                if not torch.equal(data, values):
                    data.copy_(values)


@contextmanager
def in_eval_mode(model: nn.Module) -> Generator[None]:
    """Eval mode for every submodule of a model that no other thread knows; attributes and flags are put back."""
    modules = list(model.modules())
    modes = [module.training for module in modules]
    kept = [SavedContainer(vars(module)) for module in modules]
    classes = {kind: dict(vars(kind)) for module in modules for kind in type(module).__mro__ if is_foreign(kind)}
    kept += inner_containers([*(vars(module) for module in modules), *classes.values()])
    flags = [(tensor, tensor.requires_grad, tensor.grad if tensor.is_leaf else None) for tensor in tensors_of(model)]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for item in kept:
            item.restore()
        for kind, attributes in classes.items():
            restore_class(kind, attributes)
        for module, mode in zip(modules, modes, strict=True):
            if module.training != mode:  # of TorchScript, which does not keep it among its attributes
                module.training = mode
        for tensor, requires, grad in flags:
            if tensor.requires_grad != requires:
                tensor.requires_grad_(requires)
            if tensor.is_leaf and tensor.grad is not grad:
                tensor.grad = grad


class SavedContainer:
    """What a container holds now, to be put back. Nothing is written where nothing has changed: another thread may be
    reading it."""

    __slots__ = ("container", "content")

    def __init__(self, container: Any) -> None:
        self.container = container
        self.content: Any = container.copy()

    def restore(self) -> None:
        """Put the elements back, in their order."""
        now, before = self.container, self.content
        if not now and not before:
            return
        if isinstance(now, set):
            if len(now) != len(before) or now != before:
                now.clear()
                now.update(before)
        elif isinstance(now, dict):
            restore_dictionary(now, before)
        elif len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
            now.clear()
            now.extend(before)


def restore_dictionary(now: dict[Any, Any], before: dict[Any, Any]) -> None:
    if is_same(now, before):
        return
    for key in [key for key in now if key not in before]:
        del now[key]
    for key, value in before.items():
        if now.get(key, MISSING) is not value:
            now[key] = value
    if list(now) != list(before):  # one was taken out and put in again
        now.clear()
        now.update(before)


def is_same(now: Mapping[Any, Any], before: Mapping[Any, Any]) -> bool:
    """Whether two mappings have the same keys in the same order, and under each the same object: most often they do."""
    return len(now) == len(before) and all(map(is_, now.values(), before.values())) and all(map(is_, now, before))


def restore_class(kind: type, attributes: dict[str, Any]) -> None:
    """The attributes of a class as they were (a forward may count its calls there)."""
    if is_same(vars(kind), attributes):
        return
    for name in [name for name in vars(kind) if name not in attributes and not is_special(name)]:
        delattr(kind, name)
    for name, value in attributes.items():
        if not is_special(name) and vars(kind).get(name, MISSING) is not value:
            setattr(kind, name, value)


def is_special(name: str) -> bool:
    return name.startswith("__") or name == "_abc_impl"


def is_foreign(kind: type) -> bool:
    """Whether a class is neither Python's nor torch's own."""
    return kind is not object and home_of(kind).partition(".")[0] not in ("torch", "builtins", "typing", "abc")


def home_of(item: Any) -> str:
    """The module that a class or a function says it is from; what is made by hand may say nothing."""
    found = getattr(item, "__module__", None)
    return found if isinstance(found, str) else ""


def inner_containers(values: list[Any]) -> list[SavedContainer]:
    """What the containers inside some containers hold, at any depth."""
    found: dict[int, SavedContainer] = {}
    pending = list(values)
    while pending:
        value = pending.pop()
        for item in value.values() if isinstance(value, dict) else value:
            kind = type(item)
            if kind in CONTAINERS and id(item) not in found:
                found[id(item)] = SavedContainer(item)
                if item:
                    pending.append(item)
            elif kind is tuple:
                pending.append(item)
    return list(found.values())


def tensors_of(model: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and tensors that are plain attributes of modules, each once."""
    seen: set[int] = set()
    for module in model.modules():
        for values in (vars(module), module._parameters, module._buffers):  # pyright: ignore[reportPrivateUsage]
            for tensor in values.values():
                if isinstance(tensor, Tensor) and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield tensor


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's values can be copied and compared."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    return plain and not (tensor.is_meta or tensor.is_quantized or tensor.is_inference())


# --- what surrounds it -----------------------------------------------------------------------------------------------

HOOKS = (
    "_global_buffer_registration_hooks", "_global_module_registration_hooks", "_global_parameter_registration_hooks",
    "_global_backward_pre_hooks", "_global_backward_hooks", "_global_forward_pre_hooks", "_global_forward_hooks",
    "_global_forward_hooks_always_called", "_global_forward_hooks_with_kwargs",
)  # fmt: skip
"""torch's hooks on all modules; an export that fails leaves one of its own among them."""

SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (lambda: torch.is_autocast_enabled("cpu"), lambda value: torch.set_autocast_enabled("cpu", value)),
    (lambda: torch.backends.cudnn.benchmark, lambda value: setattr(torch.backends.cudnn, "benchmark", value)),
    (lambda: torch.backends.cudnn.deterministic, lambda value: setattr(torch.backends.cudnn, "deterministic", value)),
)
"""Settings of torch that hold for the process or the thread: how to read one, and how to set it."""


@contextmanager
def restored_settings() -> Generator[None]:
    """Settings of torch, hooks on all modules, levels of loggers and random numbers, put back afterwards."""
    with TRACING:
        hooks = [SavedContainer(getattr(torch_module, name)) for name in HOOKS if hasattr(torch_module, name)]
        settings = [read() for read, _ in SETTINGS]
        levels = {logger: logger.level for logger in loggers()}
        draws = Generators()
        try:
            yield
        finally:
            for kept in hooks:
                kept.restore()
            for (read, write), value in zip(SETTINGS, settings, strict=True):
                if read() != value:
                    write(value)
            for logger, level in levels.items():
                if logger.level != level:
                    logger.setLevel(level)
            draws.restore()


@contextmanager
def silence_torch() -> Generator[None]:
    """Without torch's warnings, logs and prints about a graph that it could not finish; we report that ourselves."""
    logger = logging.getLogger("torch")
    level = logger.level
    with warnings.catch_warnings(), silence_thread("stderr"):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def silence_thread(*names: str) -> Generator[None]:
    """Without what this thread prints, to stdout and stderr or to one of them; other threads still print."""
    before = {name: getattr(sys, name) for name in names or ("stdout", "stderr")}
    try:
        for name, stream in before.items():
            setattr(sys, name, Muted(stream, threading.get_ident()))
        yield
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)


class Muted:
    """A stream as all threads see it, but one."""

    def __init__(self, stream: Any, thread: int) -> None:
        self._stream = stream
        self._thread = thread

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def loggers() -> list[logging.Logger]:
    named = [logger for logger in logging.root.manager.loggerDict.copy().values() if isinstance(logger, logging.Logger)]
    return [logging.root, *named]


class Generators:
    """The global random numbers of Python, NumPy and torch, where they are now."""

    def __init__(self) -> None:
        self.python = random.getstate()
        self.numpy: Any = np.random.get_state()  # noqa: NPY002 (the global one is what a forward may draw from)
        self.torch = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def moved(self) -> tuple[str, ...]:
        """Which of Python's and NumPy's have been drawn from since."""
        now: Any = np.random.get_state()  # noqa: NPY002
        same = now[2:] == self.numpy[2:] and np.array_equal(now[1], self.numpy[1])
        return ("random",) * (random.getstate() != self.python) + ("numpy.random",) * (not same)

    def restore(self) -> None:
        """Put back those that have moved."""
        moved = self.moved()
        if "random" in moved:
            random.setstate(self.python)
        if "numpy.random" in moved:
            np.random.set_state(self.numpy)  # noqa: NPY002
        if not torch.equal(torch.get_rng_state(), self.torch):
            torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
