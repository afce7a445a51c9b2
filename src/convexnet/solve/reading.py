"""What `minimise` knows about a module: its program, its certificate, its pieces; kept while the module stays the same.

Tracing costs far more than minimising. So a reading is kept with its module and used again while nothing has changed:
neither the modules, their settings, hooks and modes, nor, bit for bit, the values of parameters and buffers. When only
values have changed, the program stays and what was computed from them is read again.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from convexnet.curvature.certificate import ALL, Certificate, certify_program
from convexnet.curvature.trace import Program, trace
from convexnet.domains import Box
from convexnet.errors import NotTraceable
from convexnet.solve.opened import Opened
from convexnet.solve.pieces import Pieces
from convexnet.solve.structure import structure_of

KEPT: WeakKeyDictionary[nn.Module, dict[Hashable, Reading]] = WeakKeyDictionary()


@dataclass
class Reading:
    """A module, read for the minimum over one of its inputs.

    Attributes:
        program: with a batch of two, as the calculus walks it.
        structure: of the module when it was traced.
        opened, pieces: the program with an open batch size; None where it cannot be traced that way.
        certificate: over the whole space.
        local: certificates over boxes, by the bounds, for functions that are convex there only.
    """

    program: Program
    structure: Hashable
    opened: Opened | None
    pieces: Pieces | None
    certificate: Certificate
    variable: int
    values: list[Tensor] = field(default_factory=list[Tensor])
    local: dict[bytes, Certificate] = field(default_factory=dict[bytes, Certificate])

    def tensors(self) -> list[Tensor]:
        """The module's own tensors that the program reads."""
        return [source.tensor for source in self.program.sources.values() if source.tensor is not None]

    def unchanged(self) -> bool:
        """Whether they still have the values they had."""
        now = self.tensors()
        return len(now) == len(self.values) and all(
            a.dtype == b.dtype and a.shape == b.shape and a.device == b.device and torch.equal(a, b)
            for a, b in zip(now, self.values, strict=True)
        )

    def refresh(self) -> None:
        """Take the values as they are now."""
        self.values = [tensor.detach().clone() for tensor in self.tensors()]
        if self.certificate.scope != ALL:
            self.certificate = certify_program(self.program, self.variable)
        self.local.clear()
        if self.opened is not None:
            self.opened.forget()
        self.pieces = None if self.opened is None else Pieces(self.opened)

    def on(self, box: Box) -> Certificate:
        """The certificate on a box, for a module that is not certified everywhere."""
        key = box.lo.detach().cpu().numpy().tobytes() + box.hi.detach().cpu().numpy().tobytes()
        if key not in self.local:
            boxed = Box(box.lo.detach().cpu(), box.hi.detach().cpu())
            self.local[key] = certify_program(self.program, self.variable, boxed)
        return self.local[key]


def read(module: nn.Module, inputs: Sequence[Tensor], variable: int) -> Reading:
    """The reading of a module for inputs of these shapes, new or kept.

    Raises:
        NotTraceable: `torch.export` cannot turn the module into one program.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> first = read(net, [torch.zeros(1, 2)], 0)
        >>> read(net, [torch.ones(3, 2)], 0) is first
        True
    """
    kinds = tuple((tuple(t.shape[1:]), t.dtype, t.device) for t in inputs)
    kept = KEPT.setdefault(module, {})
    structure = structure_of(module)
    reading = kept.get((variable, kinds))
    if reading is None or reading.structure != structure:
        reading = kept[variable, kinds] = fresh(module, inputs, variable, structure)
    elif not reading.unchanged():
        reading.refresh()
    return reading


def fresh(module: nn.Module, inputs: Sequence[Tensor], variable: int, structure: Hashable) -> Reading:
    program = trace(module, tuple(inputs))
    try:
        opened = Opened(trace(module, tuple(inputs), any_batch=True), variable) if one_output(program) else None
    except NotTraceable:
        opened = None  # its forward reads the size of its batch
    pieces = None if opened is None else Pieces(opened)
    reading = Reading(program, structure, opened, pieces, certify_program(program, variable), variable)
    reading.values = [tensor.detach().clone() for tensor in reading.tensors()]
    return reading


def one_output(program: Program) -> bool:
    return len(program.outputs) == 1
