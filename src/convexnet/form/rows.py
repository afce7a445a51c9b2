"""What the rows of the lowering table are written with: atoms, their arguments, and atoms along dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from convexnet.form.atoms import Atom
from convexnet.form.grouped import Largest, Norm

Slope = float | Tensor | Atom


class Atoms:
    """What a row is written with.

    Args:
        apply: (a, slope) -> max(slope * a, a), for a slope that is at most 1, and a number or as large as a sample;
            (a, atom) -> another atom: elementwise, or, of a group, along the last dimension, which it takes away.
        paired: whether the larger of two tensors is an atom of both. As b + max(a - b, 0) it is cheaper; but told as
            inequalities, b would then be used downwards.
        moving: which of the operator's positional arguments depend on the variable.
    """

    def __init__(self, apply: Callable[..., Any], paired: bool = False, moving: Sequence[bool] = ()) -> None:
        self.apply, self.paired, self.moving = apply, paired, moving

    def moves(self, place: int) -> bool:
        """Whether an argument depends on the variable."""
        return place < len(self.moving) and self.moving[place]

    def __call__(self, a: Any, atom: Any = 0.0) -> Any:
        if a.ndim > 1:
            return self.apply(a, atom)
        return self.apply(a[None], atom)[0] if getattr(atom, "group", 1) > 1 else self.apply(a[:, None], atom)[:, 0]


SIMPLER = "write it with simpler operators, or minimise with cx.minimise"

Row = Callable[[Atoms, Sequence[Any], dict[str, Any]], Any]


def is_array(value: Any) -> bool:
    """A tensor, or what stands for one."""
    return hasattr(value, "movedim")


def argument(args: Sequence[Any], kwargs: dict[str, Any], place: int, name: str, default: Any = None) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def stack_last(*parts: Any) -> Any:
    """Tensors, or what stands for them, along a new last dimension."""
    holder = next((each for each in parts if hasattr(each, "beside")), None)
    return torch.stack(torch.broadcast_tensors(*parts), -1) if holder is None else holder.beside(*parts)


def larger(z: Atoms, a: Any, b: Any) -> Tensor:
    if z.paired and is_array(b):
        return z(stack_last(a, b), Largest(2))
    return b + z(a - b)  # the difference has the shape of both together


def smaller(z: Atoms, a: Any, b: Any) -> Tensor:
    return -larger(z, -a, -b) if z.paired and is_array(b) else b - z(b - a)


def dims_of(x: Any, dim: Any) -> list[int]:
    """The dimensions that an argument `dim` means; none are all."""
    dims = [dim] if isinstance(dim, int) else list(dim or range(x.ndim))
    return sorted(d % x.ndim for d in dims)


def atom_over_dims(z: Atoms, atom: Callable[[int], Atom], x: Any, dims: Sequence[int], keepdim: bool) -> Any:
    """An atom of all entries along some dimensions."""
    rank = x.ndim - len(dims)
    out = along_last(z, atom, x.movedim(tuple(dims), tuple(range(rank, x.ndim))).flatten(rank))
    for dim in dims if keepdim else ():
        out = out.unsqueeze(dim)
    return out


def along_last(z: Atoms, atom: Callable[[int], Atom], x: Any) -> Any:
    """An atom of all entries along the last dimension, or what is simpler for one or two of them."""
    size = x.shape[-1]
    if size == 1:
        return z(x.squeeze(-1), -1.0) if atom is Norm else x.squeeze(-1)
    if size == 2 and atom is Largest and not z.paired:
        return larger(z, x.narrow(-1, 0, 1), x.narrow(-1, 1, 1)).squeeze(-1)
    return z(x, atom(size))
