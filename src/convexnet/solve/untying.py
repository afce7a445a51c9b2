"""What holds a minimiser at which more kinks and bounds meet than are needed for that, put right: see `ties`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from convexnet.form.atoms import Bend, Kinks
from convexnet.form.grouped import Largest, Norm
from convexnet.form.program import value_of
from convexnet.solve.drive import picked
from convexnet.solve.holding import Held, gates_at, units_around
from convexnet.solve.implicit import derived
from convexnet.solve.minimum import Minimum
from convexnet.solve.refusals import many_meet
from convexnet.solve.ties import Array, Local, all_hold, determined, forces_on, local_program, merged

SAME = 1e-8
"""A gradient below this share of what its parts are counts as zero."""


def untie(at: Minimum, held: Held, sample: int, to_x: Tensor) -> None:
    """Put right what holds a minimiser where more kinks and bounds meet than are needed for that.

    Args:
        at: with gates to the last digits.
        held: of all samples; changed.
        sample: the number of this one.
        to_x: the gradient (n,) of its minimiser.

    Raises:
        RuntimeError: it has no derivative, or none that is sure.
    """
    index = torch.tensor([sample], device=to_x.device)
    form, part = at.form().rows(index), picked(at.found, index)
    assert part.gates is not None
    y, lo, hi = held.y[index], at.lo[index], at.hi[index]
    gates = gates_at(form, part.gates, form.arguments(y))
    units, _ = units_around(form, y, form.arguments(y), lo, hi)
    width = (hi - lo).clamp(max=1e12)
    local = local_program(form, gates, y, lo, hi, units, torch.where(width > 0, width, 1.0))
    weights: Array | None = None
    if local is not None:
        straight = not any(bend.smooth or isinstance(bend, Norm) for bend in form.bends)
        wanted = np.zeros(local.rows.shape[1])
        wanted[: len(to_x)] = to_x.cpu().numpy()
        weights = determined(local, wanted, straight)
        if weights is None:
            stays = lasting(at, sample, local, y, gates)
            whole, local = local, merged(local, stays)
            weights = determined(local, wanted, straight)
            if weights is None and all_hold(whole, stays):
                return  # all of them say the same, as they do together
    if local is None or weights is None:
        opened = at.reading.opened
        assert opened is not None
        names = [] if local is None else [(row.bend, row.index) for row in local.of]
        raise RuntimeError(many_meet(opened, at.inputs, sample, names))
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


def lasting(
    at: Minimum, sample: int, local: Local, y: Tensor, gates: list[Tensor]
) -> Callable[[Array], bool]:
    """Tell of a sum of rows, with weights (R,), whether it stays zero whatever the tensors become that gradients go
    to.

    Args:
        at: the minimum.
        sample: the number of the sample.
        local: the rows.
        y, gates: of this sample.
    """
    opened = at.reading.opened
    assert opened is not None
    arguments: list[Tensor] = []

    def gated(a: Tensor, bend: float | Tensor | Bend = 0.0) -> Tensor:
        k = len(arguments)
        arguments.append(a.flatten(1))
        form_bend = bends[k]
        gate = gates[k]
        if form_bend.smooth or isinstance(form_bend, Norm):
            assert isinstance(bend, Bend)
            return value_of(a, bend)
        if isinstance(bend, Bend):
            result = bend.push(gate, arguments[k]).reshape(1, *a.shape[1:-1])
        else:
            result = (bend + (1 - bend) * gate.reshape(1, *a.shape[1:])) * a
        met = torch.zeros(result.numel(), dtype=torch.bool, device=a.device)
        for number, index in local.arguments:
            if number == k:
                met[index // form_bend.group if isinstance(form_bend, Largest) else index] = True
        return torch.where(met.view(result.shape), result.detach(), result)

    bends = at.form().bends
    sources = [*(at.inputs[i] for i in at.others), *at.own]
    leaves = [tensor.detach().clone().requires_grad_() for tensor in sources]
    with torch.enable_grad():
        made, inputs, live = at.aliases(leaves)
        for i, tensor in enumerate(inputs):
            inputs[i] = tensor[sample : sample + 1]
        inputs[at.variable] = y.view(1, *at.box.shape)
        opened.run(inputs, gated, live)
    ends = {-1.0: at.box.lo.requires_grad, 1.0: at.box.hi.requires_grad}
    signs = np.random.default_rng(0).choice([-1.0, 1.0], len(local.columns))

    def size(direct: Array) -> float:
        weights = [torch.zeros_like(a) for a in arguments]
        for (k, j), number in local.arguments.items():
            weights[k][0, j] = float(direct[number])
        return float(sum((g.double().square().sum() for g in derived(arguments, made, weights, False)), y.new_zeros(())).sqrt())

    def stays(weights: Array) -> bool:
        direct = local.direct(weights)
        if any(abs(w) > SAME and ends[row.share] for row, w in zip(local.of, weights, strict=True) if row.bend < 0):
            return False
        return size(direct) <= SAME * size(np.abs(direct) * signs)

    return stays
