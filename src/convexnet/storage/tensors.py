"""Tensors in a file: contiguous and under the name they have in the model, except where several share memory.

Of two tensors that overlap in memory, training one moves the other; of one whose elements overlap (`expand`), some are
one number. Both come back so: what they share is stored once, as bytes, and each is a view of it. All others
are stored as safetensors stores tensors, so that other tools can read them; their strides are kept beside, because the
order in which a kernel sums depends on them, and the loaded model must give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.storage.values import Json, unsavable_error

NATIVE = {
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
}
"""The types that every version of safetensors knows; others are stored as bytes."""

ALIGNMENT = 16
"""Bytes; every element size divides it, so that bytes cut out of a storage can be read as any type."""

RESERVED = "__metadata__"
"""A key of the safetensors header that no tensor may have."""


# --- writing ---------------------------------------------------------------------------------------------------------


def check_storable(tensor: Tensor, where: str) -> None:
    """Refuse what is more than a block of numbers.

    Example:
        >>> check_storable(torch.ones(2, requires_grad=True) * 2, "scale")
        Traceback (most recent call last):
        TypeError: scale is a tensor with a graph behind it; ...: detach it, or make it a parameter
    """
    if type(tensor) not in (Tensor, nn.Parameter):
        raise unsavable_error(where, f"a tensor of class {type(tensor).__name__}", "store a plain tensor")
    if tensor.is_meta:
        raise unsavable_error(where, "a tensor without data, on the meta device", "materialise the model first")
    if (
        tensor.layout is not torch.strided
        or tensor.is_nested
        or tensor.is_quantized
        or tensor.is_conj()
        or tensor.is_neg()
    ):
        raise unsavable_error(where, "a sparse, quantised or lazily conjugated tensor", "store its dense values")
    if tensor.grad_fn is not None:
        raise unsavable_error(where, "a tensor with a graph behind it", "detach it, or make it a parameter")
    if getattr(tensor, "_backward_hooks", None) or getattr(tensor, "_post_accumulate_grad_hooks", None):
        raise unsavable_error(
            where, "a tensor with a gradient hook", "remove the hook, and register it again after loading"
        )


def span(shape: Sequence[int], stride: Sequence[int]) -> int:
    """How many elements lie between the first and the last one of a strided tensor, with both; 0 of an empty one.

    Example:
        >>> span((2, 3), (3, 1)), span((2, 3), (1, 4)), span((5, 2), (0, 1)), span((0, 7), (7, 1))
        (6, 10, 2, 0)
    """
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def is_disjoint(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether no two elements of a strided tensor share a place (sufficient: as for all views that slicing makes).

    Example:
        >>> is_disjoint((2, 3), (1, 2)), is_disjoint((2, 3), (0, 1))
        (True, False)
    """
    reach = 0
    for step, size in sorted((step, size) for size, step in zip(shape, stride, strict=True) if size > 1):
        if step <= reach:
            return False
        reach += step * (size - 1)
    return True


def pack(tensors: Sequence[Tensor], names: Sequence[str]) -> tuple[dict[str, Tensor], list[dict[str, Json]]]:
    """What goes into the file, and for each tensor where it lies there.

    Args:
        tensors: all different objects, checked.
        names: what to call them; a name that occurs twice gets a number.

    Example:
        >>> whole = torch.arange(6.0)
        >>> stored, places = pack([whole[:4], whole[2:], torch.zeros(2)], ["a", "b", "c"])
        >>> {name: tensor.dtype for name, tensor in stored.items()}
        {'a': torch.uint8, 'c': torch.float32}
        >>> [(place["in"], place.get("offset")) for place in places]
        [('a', 0), ('a', 2), ('c', None)]
    """
    stored: dict[str, Tensor] = {}
    places: list[dict[str, Json]] = [{} for _ in tensors]

    def key(name: str) -> str:
        chosen, number = name, 2
        while chosen in stored or chosen in ("", RESERVED):
            chosen, number = f"{name}~{number}", number + 1
        return chosen

    for members in overlapping_tensors(tensors):
        first = tensors[members[0]]
        here = key(names[members[0]])
        alone = len(members) == 1 and is_disjoint(first.shape, first.stride()) and first.dtype in NATIVE
        if not alone:
            stored[here], start = memory(tensors, members)
        else:
            stored[here], start = first.detach().cpu().contiguous(), 0
        for index in members:
            tensor = tensors[index]
            place = places[index]
            place.update({"in": here, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)})
            if not alone:
                place["stride"] = list(tensor.stride())
                place["offset"] = (offset(tensor) - start) // tensor.element_size()
            elif not tensor.is_contiguous() and span(tensor.shape, tensor.stride()) <= 2 * tensor.numel():
                place["stride"] = list(tensor.stride())  # with larger gaps, a column would bring back its whole matrix
    return stored, places


def overlapping_tensors(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Numbers of tensors, those in one list whose ranges in memory overlap."""
    ranges: dict[tuple[torch.device, int], list[tuple[int, int, int]]] = {}
    groups: list[list[int]] = []
    for index, tensor in enumerate(tensors):
        if tensor.numel():
            storage = (tensor.device, tensor.untyped_storage().data_ptr())
            ranges.setdefault(storage, []).append((offset(tensor), end(tensor), index))
        else:
            groups.append([index])
    for members in ranges.values():
        reach = -1
        for start, stop, index in sorted(members):
            if start < reach:
                groups[-1].append(index)
            else:
                groups.append([index])
            reach = max(reach, stop)
    return sorted(sorted(group) for group in groups)


def offset(tensor: Tensor) -> int:
    """Where a tensor starts in its storage, in bytes."""
    return int(tensor.storage_offset()) * tensor.element_size()


def end(tensor: Tensor) -> int:
    """Where it ends there."""
    return offset(tensor) + span(tensor.shape, tensor.stride()) * tensor.element_size()


def memory(tensors: Sequence[Tensor], members: Sequence[int]) -> tuple[Tensor, int]:
    """The bytes that some tensors lie in, and where they start in their storage."""
    start = min(offset(tensors[i]) for i in members) // ALIGNMENT * ALIGNMENT
    stop = max(end(tensors[i]) for i in members)
    storage = tensors[members[0]].untyped_storage()
    whole = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage, 0, (storage.nbytes(),), (1,))
    return whole[start:stop].cpu().clone(), start


# --- reading ---------------------------------------------------------------------------------------------------------


def unpack(
    places: Sequence[dict[str, Json]], keys: Sequence[str], fetch: Callable[[str], Tensor], device: torch.device
) -> list[Tensor]:
    """The tensors again, each with its strides, and sharing what was shared.

    Args:
        places: of `pack`, each with "parameter" and "requires_grad".
        keys: the names of the tensors in the file.
        fetch: reads one of them.
        device: where they shall lie.

    Raises:
        ValueError: the places and the file do not belong together.
    """
    named = [place["in"] for place in places]
    if set(named) != set(keys):
        odd = sorted(set(named) ^ set(keys))[0]
        where = "file and not in its recipe" if odd in keys else "recipe and not in the file"
        raise ValueError(f"the tensor {odd!r} is in the {where}: the file is damaged")
    # cloned: what safetensors returns is the file itself, mapped into memory
    stored = {key: fetch(key).to(device, copy=True) for key in dict.fromkeys(named)}
    return [restore_tensor(place, stored[place["in"]]) for place in places]


def restore_tensor(place: dict[str, Json], stored: Tensor) -> Tensor:
    """One tensor, from what is stored for it."""
    kind: Any = vars(torch).get(place["dtype"])
    shape: tuple[int, ...] = tuple(place["shape"])
    stride: tuple[int, ...] | None = tuple(place["stride"]) if "stride" in place else None
    if not isinstance(kind, torch.dtype) or min((*shape, *(stride or ())), default=0) < 0:
        raise damage_error(place, stored)
    if "offset" in place:
        start: int = place["offset"]
        fits = 0 <= start <= start + span(shape, stride or ()) <= stored.numel() // kind.itemsize
        if stored.dtype != torch.uint8 or stride is None or not fits:
            raise damage_error(place, stored)
        tensor = torch.empty(0, dtype=kind, device=stored.device).set_(stored.untyped_storage(), start, shape, stride)
    elif stored.dtype != kind or stored.shape != shape:
        raise damage_error(place, stored)
    elif stride is None:
        tensor = stored
    elif span(shape, stride) > 2 * stored.numel() or not is_disjoint(shape, stride):
        raise damage_error(place, stored)
    else:
        tensor = torch.empty_strided(shape, stride, dtype=kind, device=stored.device).copy_(stored)
    if place.get("parameter"):
        return nn.Parameter(tensor, requires_grad=place["requires_grad"])
    return tensor.requires_grad_() if place["requires_grad"] else tensor


def damage_error(place: dict[str, Json], stored: Tensor) -> ValueError:
    asked = f"{place['dtype']} {place['shape']} with stride {place.get('stride')} at {place.get('offset')}"
    there = f"{stored.dtype} {tuple(stored.shape)}"
    return ValueError(f"the tensor {place['in']!r} is {there}, but the recipe says {asked}: the file is damaged")
