"""What the public functions take: a module, an example, the chosen inputs. Wrong arguments are errors that say so."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from convexnet.curvature.fields import BATCH
from convexnet.curvature.tracing.restored_state import TRACING, home_of
from convexnet.curvature.tracing.traceable_models import check_example, check_modules, check_tensors


def as_example(example: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The example as a tuple of tensors of one batch size, checked."""
    if isinstance(example, Tensor):
        tensors: tuple[Any, ...] = (example,)
    elif isinstance(example, Mapping):
        raise TypeError(
            "the example is a mapping of keyword arguments, but inputs are positional here; wrap the model:\n"
            "    class Positional(nn.Module):\n"
            "        def __init__(self, model): super().__init__(); self.model = model\n"
            "        def forward(self, x): return self.model(x=x)"
        )
    elif isinstance(example, (tuple, list)):
        tensors = tuple(example)
    else:
        raise TypeError(
            f"the example must be a tensor or a tuple of tensors, not {type(example).__name__}: use torch.as_tensor"
        )
    if not tensors:
        raise ValueError("the example is empty: give one tensor per positional argument of the model")
    plain: list[Tensor] = []
    for i, given in enumerate(tensors):
        where = f"example[{i}]"
        if not isinstance(given, Tensor):
            raise TypeError(f"{where} must be a tensor, not {type(given).__name__}: use torch.as_tensor")
        tensor = check_example(given, where)
        if tensor.ndim == 0:
            raise ValueError(f"{where} has no batch dimension: its shape is (); use x.unsqueeze(0)")
        if tensor.shape[0] == 0:
            raise ValueError(f"{where} has an empty batch: its shape is {tuple(tensor.shape)}")
        if plain and tensor.shape[0] != plain[0].shape[0]:
            raise ValueError(
                f"the batch comes first in every input, but example[0] has {plain[0].shape[0]} rows and {where} "
                f"has {tensor.shape[0]}"
            )
        plain.append(tensor)
    return tuple(plain)


def chosen_inputs(inputs: Sequence[Tensor], wrt: int | Sequence[int] | None) -> tuple[int, ...]:
    """The numbers of the inputs that convexity is asked in; all floating ones where `wrt` is None."""
    floating = [i for i, tensor in enumerate(inputs) if tensor.is_floating_point()]
    if wrt is None:
        if not floating:
            kinds = ", ".join(str(tensor.dtype).removeprefix("torch.") for tensor in inputs)
            raise TypeError(
                f"no input is floating point (they are {kinds}); convexity needs real inputs: use x.float()"
            )
        return tuple(floating)
    listed: Sequence[Any] = wrt if isinstance(wrt, Sequence) else [wrt]
    indices = [int(index) if isinstance(index, np.integer) else index for index in listed]
    if not indices:
        raise ValueError("wrt is empty: name at least one input, or leave it None for all of them")
    for index in indices:
        if not isinstance(index, int) or isinstance(index, bool):
            raise TypeError(f"wrt must hold input numbers, not {index!r}")
        if not 0 <= index < len(inputs):
            raise ValueError(f"wrt names input {index}, but the example has inputs 0 to {len(inputs) - 1}")
        if index not in floating:
            raise TypeError(
                f"wrt names input {index}, whose type is {inputs[index].dtype}; convexity needs real inputs"
            )
    return tuple(dict.fromkeys(indices))


ONLY = "_convexnet_only"
"""Where a module remembers the paths of those parts that were converted to be convex in their own inputs."""

PART = "_convexnet_part"
"""Where such a part remembers its path, and the class of the module it is a part of."""


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, DistributedDataParallel and Lightning Fabric wrappers; anything but a module
    is an error."""
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        hint = ": pass an instance of the class" if isinstance(model, type) else ""
        raise TypeError(
            f"the model must be a torch.nn.Module, not {getattr(model, '__name__', type(model).__name__)}{hint}"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("the model is compiled by TorchScript, which hides its operators: pass the module it came from")
    while not (model._forward_hooks or model._forward_pre_hooks):  # pyright: ignore[reportPrivateUsage]
        compiled = home_of(type(model)).startswith("torch._dynamo")
        parallel = type(model) in (nn.DataParallel, nn.parallel.DistributedDataParallel)
        fabric = type(model).__name__ == "_FabricModule"
        inner = getattr(model, "_orig_mod" if compiled else "module", None) if compiled or parallel or fabric else None
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return model


def two_rows(tensor: Tensor) -> Tensor:
    """The first two rows, or the only row twice, detached from the caller's graph."""
    rows = tensor.detach()[:BATCH]
    return rows.clone() if rows.shape[0] == BATCH else torch.cat([rows, rows])


def in_float64(value: Any) -> Any:
    """A real tensor in float64; anything else as it is."""
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def as_real(value: Any) -> Any:
    """Integers and booleans of a tensor as real numbers, in float64: as integers they would wrap around."""
    return value.double() if isinstance(value, Tensor) and not value.is_complex() else value


def copy_module(model: nn.Module) -> nn.Module:
    """A deep copy, or an error that names what cannot be copied.

    Raises:
        NotTraceable: it holds tensors or modules that are not torch's plain ones (see `tracing.traceable_models`).
        ValueError: a module holds a weight that was computed with gradients (pruning, the old `weight_norm`).
    """
    try:
        with TRACING:  # another thread may have put it into eval mode for a while
            return copy.deepcopy(model)
    except (RuntimeError, NotImplementedError) as error:
        check_modules(model)
        check_tensors(model)
        for path, module in model.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Tensor) and not value.is_leaf:
                    raise ValueError(
                        f"{path or 'the model'}.{name} is computed from other parameters by a hook, and cannot be "
                        "copied: call torch.nn.utils.prune.remove or remove_weight_norm on the layer, or use "
                        "torch.nn.utils.parametrizations"
                    ) from None
        raise error from None
