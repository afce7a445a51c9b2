"""Running a program with chosen results in place of its cuts, on whatever batch size it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from convexnet.export.bends import BENDS
from convexnet.export.reading import GATE, Reading

Vector = Any
"""A numpy array."""


class Reached(Exception):
    """Raised to stop a run at the cut that was asked for."""


class Sender:
    """A program with the inputs of one sample.

    Args:
        reading: the program.
        inputs: (1, ...) each; the variable's own values do not matter.
        rows: the batch size of the program, if it has only one; None: any.

    Attributes:
        rows: the batch size of runs on one sample.
        closed: whether it is the only one.
        cuts: in the order in which they are met.
        shape, size: of the variable.
        shape_out: of one sample of the output.
    """

    def __init__(self, reading: Reading, inputs: Sequence[Tensor], rows: int | None = None) -> None:
        self.reading, self.inputs = reading, list(inputs)
        self.rows, self.closed = rows or 1, rows is not None
        self.shape = inputs[reading.variable].shape[1:]
        self.size = self.shape.numel()
        with torch.no_grad():
            self.cuts, out = reading.record(repeated(inputs, self.rows))
        self.shape_out = out.shape[1:]

    def send(
        self, y: Tensor, results: Mapping[int, Tensor], gates: list[Vector] | None = None, until: int = -1
    ) -> list[Tensor]:
        """What arrives at each cut and at the output, (R, size) each, for y (R, n) and results of cuts (R, m).

        Args:
            y, results: cuts without a result return zeros.
            gates: is given the factors of each gate, (m,).
            until: stop at this cut.
        """
        count = len(y)
        inputs = repeated(self.inputs, count)
        own = inputs[self.reading.variable]
        inputs[self.reading.variable] = y.to(own.device, torch.float64).reshape(own.shape)
        arrived: list[Tensor] = []

        def replaced(node: object, bend: str, a: Tensor, setting: Tensor) -> Tensor:
            k = len(arrived)
            arrived.append(a.reshape(count, -1).cpu())
            if k == until:
                raise Reached
            if gates is not None and bend == GATE:
                gates.append(setting[0].flatten().cpu().numpy())
            shape = a.shape[:-1]
            return results[k].to(a).reshape(shape) if k in results else a.new_zeros(shape)

        try:
            out = self.reading.run(inputs, replaced)
        except Reached:
            return arrived
        return [*arrived, out.reshape(count, -1).cpu()]

    def rows_of(self, target: int, start: int, stop: int) -> list[Tensor]:
        """Rows of the maps from every source to one target, (stop - start, n) each: the gradients of what arrives.

        Gradients of an affine function do not see its constants, and so not what rounding makes of them either.
        """
        count = self.rows if self.closed else stop - start
        sizes = [self.size, *(cut.size for cut in self.cuts)]
        leaves = [torch.zeros(count, size, dtype=torch.float64, requires_grad=True) for size in sizes]
        with torch.enable_grad():
            arrived = self.send(leaves[0], dict(enumerate(leaves[1:])), until=target)[target]
            chosen = arrived[torch.arange(stop - start), torch.arange(start, stop)].sum()
        if not chosen.requires_grad:
            return [leaf.detach()[: stop - start] for leaf in leaves]
        found = torch.autograd.grad(chosen, leaves, allow_unused=True, materialize_grads=True)
        return [gradient[: stop - start] for gradient in found]

    def value(self, given: Sequence[Tensor], y: Tensor) -> Tensor:
        """The program's own value for one sample, y (n,), with gradients."""
        inputs = repeated(given, self.rows)
        own = inputs[self.reading.variable]
        inputs[self.reading.variable] = y.to(own.device).reshape(1, *self.shape).expand(own.shape)

        def bent(node: object, bend: str, a: Tensor, setting: float | Tensor) -> Tensor:
            return a[..., 0] * setting if bend == GATE else BENDS[bend].value(a, setting)

        return self.reading.run(inputs, bent)[0]

    @torch.no_grad()
    def at(self, given: Sequence[Tensor], fixed: Sequence[tuple[Vector, Vector]]) -> tuple[list[Vector], list[Vector]]:
        """The constants c_k and the factors of the gates for another value of the other inputs, (1, ...) each."""
        other = Sender.__new__(Sender)
        other.__dict__.update(self.__dict__, inputs=list(given))
        gates: list[Vector] = []
        held = {k: torch.as_tensor(values).expand(self.rows, -1) for k, (_, values) in enumerate(fixed)}
        zero = torch.zeros(self.rows, self.size, dtype=torch.float64)
        return [a[0].numpy() for a in other.send(zero, held, gates)], gates


def repeated(inputs: Sequence[Tensor], count: int) -> list[Tensor]:
    """As many equal rows as a run has."""
    return [tensor.expand(count, *tensor.shape[1:]) for tensor in inputs]
