"""The derivatives of a smoothed network's arguments, and the second derivative they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convexnet.form.atoms import Atom, Kinks
from convexnet.form.epigraph import EpigraphForm
from convexnet.form.linear_maps import Map

NARROW = 32
"""Variables up to which scaling the map below for each sample is cheaper than scaling the rows above."""

GATHER = 45
"""What gathering and scaling a row costs, in columns of the product that follows."""


@dataclass
class Layer:
    """Rows of da_k/dy that count in the second derivative.

    Attributes:
        rows: (B, K, n), or the map that all samples share.
        index: the numbers (B, K) of the rows; None: all of them.
        curved: (B, in_k), zero for rows that are left out.
        weight: (B, K) of each row in the second derivative.
    """

    atom: Atom
    rows: Tensor | Map
    index: Tensor | None
    curved: Tensor
    weight: Tensor

    def on(self, step: Tensor) -> Tensor:
        """The change (B, K) of the rows' arguments."""
        if isinstance(self.rows, Map):
            return self.rows(step)
        return (self.rows @ step[:, :, None])[..., 0]

    def picked(self, x: Tensor) -> Tensor:
        return x if self.index is None else x.gather(1, self.index)

    def spread(self, x: Tensor) -> Tensor:
        return x if self.index is None else torch.zeros_like(self.curved).scatter_(1, self.index, x)


@dataclass
class Tangents:
    """All layers of a network."""

    layers: list[Layer]
    like: Tensor  # (B, n)

    def hessian(self) -> Tensor:
        """(B, n, n): the sum of the atoms' second derivatives."""
        batch, n = self.like.shape
        total = self.like.new_zeros(batch, n, n)
        for layer in self.layers:
            rows = layer.rows.columns(batch) if isinstance(layer.rows, Map) else layer.rows
            if layer.atom.group > 1:
                rows = layer.atom.centred(layer.curved, rows)
            rooted = rows * layer.weight.sqrt()[:, :, None]
            total = torch.baddbmm(total, rooted.mT, rooted)
        return total

    def applied(self, step: Tensor) -> Tensor:
        """The same matrix times a step, (B, n), without rounding it to a matrix first."""
        total = torch.zeros_like(step)
        for layer in self.layers:
            moved = layer.on(step)
            if layer.atom.group > 1:
                force = layer.weight * (moved - layer.atom.mean(layer.curved, moved))
            else:
                force = layer.weight * moved
            if isinstance(layer.rows, Map):
                total = total + layer.rows.transposed(force)
            else:
                total = total + (layer.rows.mT @ force[:, :, None])[..., 0]
        return total

    def changes(self, step: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """The changes (B, in_k) of all slopes, and for smooth atoms those of their arguments."""
        changes: list[Tensor] = []
        moved: list[Tensor | None] = []
        for layer in self.layers:
            da = layer.on(step)
            if layer.index is None:
                changes.append(layer.atom.change_of_slopes(layer.curved, da))
            else:
                changes.append(layer.spread(layer.picked(layer.curved) * da))
            moved.append(da if layer.atom.smooth else None)
        return changes, moved


def tangents(
    form: EpigraphForm, slopes: list[Tensor], curved: list[Tensor], arriving: list[Tensor], drop: float
) -> Tangents:
    """The rows that count for slopes and curvatures of an iterate.

    Args:
        form: the functions.
        slopes: the iterates.
        curved: how much each slope changes with its argument.
        arriving: multipliers of the atoms' results.
        drop: leave out rows of kinks that weigh less than this share of the n-th heaviest; 0: none.
    """
    weights = [atom.curvature_times(v, d) for atom, v, d in zip(form.atoms, arriving, curved, strict=True)]
    kept = select_rows(form, weights, drop)
    layers: list[Layer] = []
    for atom, rows, index, d, w in zip(form.atoms, rows_of(form, slopes, kept), kept, curved, weights, strict=True):
        layer = Layer(atom, rows, index, d, w)
        if index is not None:
            layer.curved = layer.spread(d.gather(1, index))
            layer.weight = w.gather(1, index)
        layers.append(layer)
    return Tangents(layers, form.linear)


def rows_of(form: EpigraphForm, slopes: Sequence[Tensor], kept: Sequence[Tensor | None]) -> list[Tensor | Map]:
    """The rows of da_k/dy through the slopes with the numbers kept (B, K): (B, K, n); None: all of them."""
    found: list[Tensor | Map] = []
    whole: list[Tensor | Map] = []  # da_k/dy in full, for the layers above
    for k in range(len(form.atoms)):
        above = any((later, k) in form.between for later in range(k + 1, len(form.atoms)))
        index, first = kept[k], form.from_y[k]
        if first is not None and all((k, j) not in form.between for j in range(k)):
            whole.append(first)
            found.append(first if index is None else first.rows_of(index))
            continue
        rows = jacobian(form, k, slopes, whole, None if above else index)
        whole.append(rows)
        found.append(
            rows.gather(1, index[:, :, None].expand(-1, -1, form.size)) if above and index is not None else rows
        )
    return found


def jacobian(
    form: EpigraphForm, k: int, slopes: Sequence[Tensor], whole: list[Tensor | Map], index: Tensor | None
) -> Tensor:
    """da_k/dy (B, K, n) through the slopes that are iterates."""
    batch, n = form.batch, form.size
    first = form.from_y[k]
    total: Tensor | None = None
    if first is not None:
        total = first.columns(batch) if index is None else first.rows_of(index)
    for j in range(k):
        if (k, j) not in form.between:
            continue
        between, atom, below = form.between[k, j], form.atoms[j], whole[j]
        if index is None:
            part = between.on_columns(push_jacobian(atom, slopes[j], below, batch))
        else:
            part = through_rows(between.rows_of(index), atom, slopes[j], below)
        total = part if total is None else part.add_(total)
    if total is None:
        rows = form.constants[k].shape[1] if index is None else index.shape[1]
        total = form.linear.new_zeros(batch, rows, n)
    return total


def through_rows(picked: Tensor, atom: Atom, slopes: Tensor, below: Tensor | Map) -> Tensor:
    """Rows (B, K, out_j) of a map, times dz_j/dy (B, out_j, n). They are overwritten: memory traffic is the cost."""
    shared = isinstance(below, Map) and below.matrix.ndim == 2
    if atom.group > 1:
        picked = atom.pull(slopes[:, None, :], picked)
    else:
        share = atom.push(slopes, torch.ones_like(slopes))
        if isinstance(below, Map) and shared and below.matrix.shape[1] <= NARROW:
            part = picked @ (below.matrix * share[:, :, None])
            return part if below.scale is None else part.mul_(below.scale[:, None, :])
        picked.mul_(share[:, None, :])
    if not isinstance(below, Map):
        return picked @ below
    if not shared:
        return picked @ below.matrix
    part = (picked.flatten(0, 1) @ below.matrix).view(*picked.shape[:2], -1)
    return part if below.scale is None else part.mul_(below.scale[:, None, :])


def push_jacobian(atom: Atom, slopes: Tensor, below: Tensor | Map, batch: int) -> Tensor:
    """dz_j/dy (B, out_j, n) for da_j/dy; laid out as `Map.on_columns` likes it, with the samples inside."""
    rows = below.columns(batch) if isinstance(below, Map) else below
    if atom.group > 1:
        return atom.push(slopes[:, None, :], rows.mT).mT
    share = atom.push(slopes, torch.ones_like(slopes))
    return (rows.transpose(0, 1) * share.T[:, :, None]).transpose(0, 1)


def select_rows(form: EpigraphForm, weights: list[Tensor], drop: float) -> list[Tensor | None]:
    """The rows of each layer that weigh, (B, K) numbers, or None for all."""
    none: list[Tensor | None] = [None] * len(weights)
    simple = [isinstance(atom, Kinks) for atom in form.atoms]
    if not drop or not any(simple):
        return none
    every = torch.cat([w for w, kink in zip(weights, simple, strict=True) if kink], 1)
    rank = min(max(form.size, 8), every.shape[1])
    if rank * (form.size + GATHER) >= every.shape[1] * form.size:
        return none
    threshold = drop * every.topk(rank, 1, sorted=False).values.amin(1, keepdim=True)
    for k, w in enumerate(weights):
        if simple[k]:
            count = max(16, -16 * (-int((w > threshold).sum(1).max()) // 16))
            if count * (form.size + GATHER) < w.shape[1] * form.size:
                none[k] = w.topk(count, 1, sorted=False).indices
    return none
