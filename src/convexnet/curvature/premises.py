"""The premises of a certificate: what is known of each placeholder of a program before its facts are computed.

`certify` asks for them, and `constrain` (with every trainable parameter unknown) and `falsify` (for the boxes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from convexnet.curvature.facts import Fact, constant, known
from convexnet.curvature.fields import aligned_rows, compact, uniform
from convexnet.curvature.tracing.trace import Program, Source, memory_of
from convexnet.domains import Box
from convexnet.domains import Domain as Set

Domain = Set | Sequence[Set | None] | None


def is_weight(program: Program, source: Source) -> bool:
    """Whether training may change a tensor: a parameter, or one of a module that a function of the model's reads."""
    return source.kind == "parameter" or source.name in program.captured


def unshared(program: Program, moves: Callable[[Source], bool]) -> Callable[[Source], bool]:
    """Which tensors of a model lie in no memory of one that `moves`; a buffer may share it with a parameter."""
    memory = {memory_of(s.tensor) for s in program.sources.values() if s.tensor is not None and moves(s)}
    return lambda source: source.tensor is None or memory_of(source.tensor) not in memory


def boxes_of(inputs: Sequence[Tensor], variables: Sequence[int], domain: Domain) -> dict[int, Box]:
    """The box of each chosen input that has a domain: its hull, which holds the sets of all samples."""
    if domain is None:
        return {}
    listed = list(domain) if isinstance(domain, (list, tuple)) else [domain]
    if not all(box is None or isinstance(box, Set) for box in listed):
        raise TypeError(
            "a domain is a Box, or another convexnet domain, for each chosen input, as Box(0, 1, shape=(3, 32, 32)), "
            "or None"
        )
    if len(listed) != len(variables):
        raise ValueError(f"{len(listed)} domain(s) for {len(variables)} chosen input(s): give one for each, or None")
    boxes: dict[int, Box] = {}
    for index, box in zip(variables, listed, strict=True):
        if box is None:
            continue
        shape = inputs[index].shape[1:]
        if box.shape != shape:
            raise ValueError(f"the domain of input {index} has shape {tuple(box.shape)}, one sample has {tuple(shape)}")
        hull = box.hull()
        boxes[index] = Box(hull.lo.detach(), hull.hi.detach(), hull.shape)
    return boxes


def placeholder_facts(
    program: Program, variables: Sequence[int], boxes: Mapping[int, Box], known_here: Callable[[Source], bool]
) -> Callable[[str], Fact]:
    """The facts of the placeholders: chosen inputs vary, other inputs are constants of unknown value, and so are the
    tensors of the model that are not `known_here`."""

    def fact(name: str) -> Fact:
        source: Source = program.sources[name]
        if source.kind == "input":
            tensor = program.inputs[source.index]
            base = constant(tensor.shape, aligned_rows(tensor.shape))
            if source.index not in variables:
                return replace(base, integral=not tensor.is_floating_point())
            box = boxes.get(source.index)
            lo, hi = (base.lo, base.hi) if box is None else (compact(b, tensor.shape) for b in (box.lo, box.hi))
            return replace(base, varies=uniform(True, tensor.shape, torch.bool), lo=lo, hi=hi)
        assert source.tensor is not None
        if not known_here(source):
            return constant(source.tensor.shape)
        return known(source.tensor.detach())

    return fact
