"""What `minimise` knows about a module: its program, its certificate, its pieces; kept while the module stays the same.

Tracing costs far more than minimising. So a reading is kept with its module and used again while nothing has changed:
neither the modules, their settings, hooks and modes, nor, bit for bit, the values of parameters and buffers. When only
values have changed, the program stays and what was computed from them is read again.

A reading is never changed: what is computed with it, also later in a backward pass, is of the values that it was made
for, whatever other threads or steps of training make of the module meanwhile. Modules are read by one thread at a time,
under the lock of tracing, during which they are not what they are otherwise, nor those that share parts with them.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from convexnet.curvature.certificate import ALL, Certificate, certify_program
from convexnet.curvature.tracing.restored_state import tensors_of as module_tensors
from convexnet.curvature.tracing.trace import TRACING, Program, for_two_rows, trace
from convexnet.domains import Box
from convexnet.errors import NotTraceable
from convexnet.form.matrices import Pieces
from convexnet.form.program import OpenedProgram, tensors_of, values_of
from convexnet.solve.fingerprint import fingerprint_of
from convexnet.solve.functions.black_box import PrivateCopy

KEPT: WeakKeyDictionary[nn.Module, dict[Hashable, Reading]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Reading:
    """A module, read for the minimum over one of its inputs.

    Attributes:
        program: with a batch of two, as the calculus walks it.
        structure: of the module when it was traced.
        opened, pieces: the program with an open batch size; None where it cannot be traced that way.
        certificate: over the whole space.
        values: of the module's own tensors that the program reads, by the `id` of each.
        itself: a copy of the module with these values, to be evaluated; None where one is to be made for every call.
        local: certificates over boxes, by the bounds, for functions that are convex there only.
        shown: what has been looked up and needs no second look.
    """

    program: Program
    structure: Hashable
    opened: OpenedProgram | None
    pieces: Pieces | None
    certificate: Certificate
    variable: int
    values: Mapping[int, Tensor]
    itself: PrivateCopy | None = None
    local: dict[bytes, Certificate] = field(default_factory=dict[bytes, Certificate])
    shown: set[str] = field(default_factory=set[str])

    def unchanged(self) -> bool:
        """Whether the module's tensors still have the values they had."""
        return all(
            a.dtype == b.dtype and a.shape == b.shape and a.device == b.device and torch.equal(a, b)
            for a, b in ((tensor, self.values[id(tensor)]) for tensor in tensors_of(self.program))
        )

    def refreshed(self) -> Reading:
        """The reading for the values as they are now."""
        values = values_of(self.program)
        lasting = self.certificate.scope == ALL
        certificate = self.certificate if lasting else certify_program(self.program, self.variable)
        opened = None if self.opened is None else self.opened.valued(values)
        pieces = None if opened is None else Pieces(opened)
        return replace(
            self, opened=opened, pieces=pieces, certificate=certificate, values=values, local={}, shown=set()
        )

    def on(self, box: Box) -> Certificate:
        """The certificate on a box, for a module that is not certified everywhere."""
        key = box.lo.detach().cpu().numpy().tobytes() + box.hi.detach().cpu().numpy().tobytes()
        if key not in self.local:
            boxed = Box(box.lo.detach().cpu(), box.hi.detach().cpu())
            self.local[key] = certify_program(self.program, self.variable, boxed)
        return self.local[key]


class Readings(dict[Hashable, Reading]):
    """Readings of networks as they are now, whatever changes later.

    Args:
        networks: what may be read.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> kept = Readings([net])
        >>> before, _ = net.weight.item(), nn.init.constant_(net.weight, 7.0)
        >>> with kept.as_it_was():
        ...     net.weight.item() == before
        True
        >>> net.weight.item()
        7.0
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        with TRACING:
            self.held = [(t, t.detach().clone()) for network in networks for t in module_tensors(network)]

    @contextmanager
    def as_it_was(self) -> Generator[None]:
        """Give the networks their former values, while they are read."""
        changed = [(tensor, kept, tensor.data) for tensor, kept in self.held if not torch.equal(tensor, kept)]
        for tensor, kept, _ in changed:
            tensor.data = kept
        try:
            yield
        finally:
            for tensor, _, data in changed:
                tensor.data = data


def reading_of(
    module: nn.Module,
    inputs: Sequence[Tensor],
    variable: int,
    owner: nn.Module | None = None,
    kind: Hashable = None,
    readings: Readings | None = None,
) -> Reading:
    """The reading of a module for inputs of these shapes, new or kept.

    Args:
        module: what is read.
        inputs: a batch of each.
        variable: the number of the one that is minimised over.
        owner: with whom the reading is kept; itself, where it lasts.
        kind: what tells the module from others of that owner.
        readings: those that hold whatever has changed since, and to which new ones are added.

    Raises:
        NotTraceable: `torch.export` cannot turn the module into one program.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> first = reading_of(net, [torch.zeros(1, 2)], 0)
        >>> reading_of(net, [torch.ones(3, 2)], 0) is first
        True
    """
    kinds = tuple((tuple(t.shape[1:]), t.dtype, t.device) for t in inputs)
    if readings is not None and (variable, kinds, kind) in readings:
        return readings[variable, kinds, kind]
    with TRACING, nullcontext() if readings is None else readings.as_it_was():
        kept = KEPT.setdefault(owner or module, {})
        name = (variable, kinds, kind)
        structure = fingerprint_of(module)
        reading = kept.get(name)
        if reading is None or reading.structure != structure:
            with as_parameters(module) as originals:
                reading = new_reading(module, inputs, variable, structure, originals)
            if originals:  # which are there for this call only
                kept.pop(name, None)
            else:
                reading = kept[name] = replace(reading, itself=PrivateCopy(module))
        elif not reading.unchanged():
            reading = kept[name] = replace(reading.refreshed(), itself=PrivateCopy(module))
        if readings is not None:
            readings[name] = reading
        return reading


def new_reading(
    module: nn.Module, inputs: Sequence[Tensor], variable: int, structure: Hashable, originals: Mapping[int, Tensor]
) -> Reading:
    """A new reading.

    Args:
        module, inputs, variable: see `reading_of`.
        structure: of the module.
        originals: the tensors that parameters stand for while it is traced, by the `id` of the parameter.
    """

    def owned(program: Program) -> Program:
        sources = {
            name: source
            if source.tensor is None
            else replace(source, tensor=originals.get(id(source.tensor), source.tensor))
            for name, source in program.sources.items()
        }
        return replace(program, sources=sources)

    try:
        whole = trace(module, tuple(inputs), any_batch=True)
    except NotTraceable:
        whole = None  # its forward reads the size of its batch, or cannot be traced at all
    whole = whole if whole is not None and check_one_output(whole) else None
    program = None if whole is None else for_two_rows(module, whole)
    program = None if program is None else owned(program)
    certificate = None if program is None else certify_program(program, variable)
    if program is None or certificate is None or not certificate.convex:  # what is refused is refused as by `certify`
        program = owned(trace(module, tuple(inputs)))
        certificate = certify_program(program, variable)
    values = values_of(program)
    opened = None if whole is None else OpenedProgram(owned(whole), variable).valued(values)
    pieces = None if opened is None else Pieces(opened)
    return Reading(program, structure, opened, pieces, certificate, variable, values)


@contextmanager
def as_parameters(module: nn.Module) -> Generator[dict[int, Tensor]]:
    """Put parameters in the place of tensors that stand for them (`torch.func.functional_call`, a hypernetwork), which
    torch.export refuses; gives the tensors, by the `id` of what took their place."""
    made: dict[int, Tensor] = {}
    changed: list[tuple[dict[str, Any], str, Tensor]] = []
    stands: dict[int, nn.Parameter] = {}
    try:
        for part in module.modules():
            held: dict[str, Any] = part._parameters  # pyright: ignore[reportPrivateUsage]
            for name, tensor in held.items():
                if isinstance(tensor, Tensor) and not isinstance(tensor, nn.Parameter):
                    stand = stands.setdefault(id(tensor), nn.Parameter(tensor.detach(), requires_grad=False))
                    made[id(stand)] = tensor
                    changed.append((held, name, tensor))
                    held[name] = stand
        yield made
    finally:
        for held, name, tensor in changed:
            held[name] = tensor


def check_one_output(program: Program) -> bool:
    return len(program.outputs) == 1
