"""What holds a minimiser at which more kinks and bounds meet than are needed for that, put right: see `ties`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from convexnet.form.atoms import Atom
from convexnet.form.grouped import Largest, Norm
from convexnet.form.program import apply_atom
from convexnet.solve.derivatives.active_set import Held, argument_units, slopes_at
from convexnet.solve.derivatives.implicit import vector_jacobian
from convexnet.solve.derivatives.local_program import Array, Local, local_program
from convexnet.solve.derivatives.saved_minimum import SavedMinimum
from convexnet.solve.derivatives.ties import all_hold, determined_weights, forces_on, merge_equal_kinks, one_way_weights
from convexnet.solve.derivatives.unavailable import explain_many_meet
from convexnet.solve.solvers.incumbents import pick_rows

SAME = 1e-8
"""A gradient below this share of what its parts are counts as zero."""

FEW = 40
"""Arguments that meet, up to which each of them is differentiated."""

WAYS = 4
"""Directions in which they are."""


def untie(at: SavedMinimum, held: Held, sample: int, to_x: Tensor) -> None:
    """Put right what holds a minimiser where more kinks and bounds meet than are needed for that.

    Args:
        at: with slopes to the last digits.
        held: of all samples; changed.
        sample: the number of this one.
        to_x: the gradient (n,) of its minimiser.

    Raises:
        RuntimeError: it has no derivative, or none that is sure.
    """
    index = torch.tensor([sample], device=to_x.device)
    form, part = at.form().rows(index), pick_rows(at.found, index)
    assert part.slopes is not None
    y, (lo, hi) = held.y[index], at.around(index)
    slopes = slopes_at(form, part.slopes, form.arguments(y))
    units, _ = argument_units(form, y, lo, hi)
    width = hi - lo
    local = local_program(form, slopes, y, lo, hi, units, torch.where(width > 0, width, 1.0))
    weights: Array | None = None
    if local is not None:
        straight = not any(atom.smooth or isinstance(atom, Norm) for atom in form.atoms)
        wanted = np.zeros(local.rows.shape[1])
        wanted[: len(to_x)] = to_x.cpu().numpy()
        weights = determined_weights(local, wanted, straight)
        if weights is None:
            moved = ArgumentMoves.of(at, sample, local, y, slopes)
            whole, local = local, merge_equal_kinks(local, moved.stays)
            weights = determined_weights(local, wanted, straight)
            if weights is None and all_hold(whole, moved.stays):
                return  # all of them say the same, as they do together
            if weights is None and (way := moved.only_way()) is not None:
                local, weights = whole, one_way_weights(whole, wanted, straight, way)
    if local is None or weights is None:
        opened = at.reading.opened
        assert opened is not None
        names = [] if local is None else [(row.atom, row.index) for row in local.of]
        raise RuntimeError(explain_many_meet(opened, at.inputs, sample, names))
    forces, ends, to_y = forces_on(local, weights)
    for whole in held.forces:
        whole[sample] = 0.0
    for (k, j), force in forces.items():
        held.forces[k][sample, j] = force
    fixed = hi[0] <= lo[0]
    held.to_y[sample] = torch.where(fixed, to_x - torch.from_numpy(to_y[: len(to_x)]).to(to_x), 0.0)
    held.low[sample], held.high[sample], held.along[sample] = fixed, False, 0.0
    for j, (low, high) in ends.items():
        held.to_y[sample, j] = high - low
        held.low[sample, j], held.high[sample, j] = bool(low != 0), bool(high != 0)


@dataclass
class ArgumentMoves:
    """How the arguments that meet move with the tensors that gradients go to, while nothing else does.

    Attributes:
        local: what meets.
        arguments: of all atoms, (1, in_k), as functions of the tensors.
        tensors: leaves in the place of these.
        ends: whether gradients go to the lower bounds (−1) and to the upper ones (1).
    """

    local: Local
    arguments: list[Tensor]
    tensors: list[Tensor]
    ends: dict[float, bool]

    @staticmethod
    def of(at: SavedMinimum, sample: int, local: Local, y: Tensor, slopes: list[Tensor]) -> ArgumentMoves:
        """Run the program for one sample at y, with its slopes, and with what meets as constants."""
        opened = at.reading.opened
        assert opened is not None
        arguments: list[Tensor] = []
        atoms = at.form().atoms

        def gated(a: Tensor, atom: float | Tensor | Atom = 0.0) -> Tensor:
            k = len(arguments)
            arguments.append(a.flatten(1))
            kind, slope = atoms[k], slopes[k]
            if kind.smooth or isinstance(kind, Norm):
                assert isinstance(atom, Atom)
                return apply_atom(a, atom)
            if isinstance(atom, Atom):
                result = atom.push(slope, arguments[k]).reshape(1, *a.shape[1:-1])
            else:
                result = (atom + (1 - atom) * slope.reshape(1, *a.shape[1:])) * a
            met = torch.zeros(result.numel(), dtype=torch.bool, device=a.device)
            for number, index in local.arguments:
                if number == k:
                    met[index // kind.group if isinstance(kind, Largest) else index] = True
            return torch.where(met.view(result.shape), result.detach(), result)

        sources = [*(at.inputs[i] for i in at.others), *at.own]
        leaves = [tensor.detach().clone().requires_grad_() for tensor in sources]
        with torch.enable_grad():
            made, inputs, live = at.aliases(leaves)
            inputs = [tensor[sample : sample + 1] for tensor in inputs]
            inputs[at.variable] = y.view(1, *at.box.shape)
            opened.run(inputs, gated, live)
        return ArgumentMoves(local, arguments, made, {-1.0: at.box.lo.requires_grad, 1.0: at.box.hi.requires_grad})

    def gradients(self, direct: Array) -> list[Tensor]:
        """Those of a sum of the arguments that meet, with weights (T,)."""
        weights = [torch.zeros_like(a) for a in self.arguments]
        for (k, j), number in self.local.arguments.items():
            weights[k][0, j] = float(direct[number])
        return [g.double() for g in vector_jacobian(self.arguments, self.tensors, weights, False)]

    def stays(self, weights: Array) -> bool:
        """Whether a sum of rows, with weights (R,), stays zero whatever the tensors become."""
        for row, weight in zip(self.local.of, weights, strict=True):
            if row.atom < 0 and abs(weight) > SAME and self.ends[row.share]:
                return False
        direct = self.local.direct(weights)
        signs = np.random.default_rng(0).choice([-1.0, 1.0], len(direct))
        return euclidean_length(self.gradients(direct)) <= SAME * euclidean_length(
            self.gradients(np.abs(direct) * signs)
        )

    def only_way(self) -> Array | None:
        """The one way (T,) in which the arguments that meet can move; None where there is more than one."""
        if not 0 < len(self.local.columns) <= FEW or any(
            row.atom < 0 and self.ends[row.share] for row in self.local.of
        ):
            return None
        generator = torch.Generator().manual_seed(0)
        probes = [torch.randn(WAYS, *t.shape, generator=generator, dtype=torch.float64).to(t) for t in self.tensors]
        rows: list[list[float]] = []
        for direct in np.eye(len(self.local.columns)):
            parts = [(p * g).flatten(1).sum(1) for p, g in zip(probes, self.gradients(direct), strict=True)]
            rows.append(torch.stack(parts).sum(0).tolist())
        left, values, _ = np.linalg.svd(np.array(rows), full_matrices=False)
        return left[:, 0] * values[0] if values[1:].max(initial=0.0) <= SAME * values[0] else None


def euclidean_length(tensors: list[Tensor]) -> float:
    """The root of the sum of all squares."""
    return float(sum(float(t.square().sum()) for t in tensors)) ** 0.5
