"""The affine pieces of an opened program as matrices: from a program to its `EpigraphForm`.

They are read off by running the program on basis vectors. What the other inputs change from sample to sample is mostly
the constants; where they multiply what moves (the gates of a PICNN), the columns of a map are scaled, which is found
out and checked with random vectors rather than assumed.

Long because how the maps of one batch are read, and how those of the next, has to be the same in both.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd import forward_ad

from convexnet.curvature.call import Refusal
from convexnet.curvature.tracing.trace import TRACING, Program
from convexnet.form.atoms import Atom
from convexnet.form.epigraph import EpigraphForm
from convexnet.form.linear_maps import Map
from convexnet.form.program import AtCut, Gate, OpenedProgram, apply_atom, atom_of

LARGEST = 20_000_000
"""Entries of a map that is stored as a matrix."""

EXACT = 1e-9
"""Difference up to which two ways to compute one map count as the same, as a share of what its own entries add up to
in each row. Maps only steer the search: bounds are proved on the program itself."""


class TooLarge(Refusal):
    """A map has too many entries to be stored as a matrix."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A place where a program is cut.

    Attributes:
        atom: what the program has there, or a product with factors that take their values later.
        shape: of the result, for one sample.
        size: the number of arguments of a sample.
        node: the operator.
    """

    atom: Atom | Gate
    shape: torch.Size
    size: int
    node: fx.Node

    @property
    def results(self) -> int:
        """The number of results of a sample."""
        return self.shape.numel()

    @property
    def gate(self) -> bool:
        """Whether it is a product, and no atom."""
        return isinstance(self.atom, Gate)


class CutReached(Exception):
    """Raised to stop a run at the cut that was asked for."""


class Arrivals:
    """The affine pieces of an opened program: what arrives at each cut, and at the output, for given results.

    Args:
        opened: the program.
        inputs: a batch of each.
        rows: how many samples the program needs at least.
    """

    def __init__(self, opened: OpenedProgram, inputs: Sequence[Tensor], rows: int = 1) -> None:
        self.opened = opened
        self.inputs = list(inputs)
        self.device = inputs[0].device
        self.y_shape = inputs[opened.variable].shape[1:]
        self.n = self.y_shape.numel()
        self.cuts: list[Cut] = []
        met: list[fx.Node] = []

        def record(a: Tensor, atom: AtCut = 0.0) -> Tensor:
            atom = atom if isinstance(atom, Gate) else atom_of(a, atom)
            z = apply_atom(a, atom)
            self.cuts.append(Cut(atom, z.shape[1:], a[0].numel(), met[-1]))
            return z

        with torch.no_grad():
            out = opened.results([tensor[:rows] for tensor in inputs], record, meet=met.append)
        self.out = out.shape[1:]

    def __call__(
        self,
        y: Tensor,
        results: Mapping[int, Tensor],
        rows: Tensor,
        until: int | None = None,
        factors: list[Tensor] | None = None,
    ) -> list[Tensor]:
        """What arrives at each cut and, last, the output.

        Args:
            y: (R, n).
            results: of cuts, (R, m) each; those that are missing are zero.
            rows: the samples (R,).
            until: stop at this cut.
            factors: is given those of each gate.
        """
        inputs = [tensor[rows] for tensor in self.inputs]
        inputs[self.opened.variable] = y.reshape(-1, *self.y_shape)
        arrived: list[Tensor] = []

        def replaced(a: Tensor, atom: AtCut = 0.0) -> Tensor:
            k = len(arrived)
            arrived.append(a.flatten(1).expand(len(y), -1))
            if k == until:
                raise CutReached
            if factors is not None and isinstance(atom, Gate):
                factors.append(atom.factor)
            shape = (len(y), *self.cuts[k].shape)
            return results[k].reshape(shape) if k in results else a.new_zeros(shape)

        try:
            out = self.opened.results(inputs, replaced)
        except CutReached:
            return arrived
        return [*arrived, out.reshape(-1, self.out.numel()).expand(len(y), -1)]


Maps = dict[tuple[int, int], Map]
"""By (target, source); source 0 is y and source j + 1 the results of atom j; the last target is the output."""


@dataclass(frozen=True)
class Matrices:
    """What was read off a program. It is never changed, so that threads may share it.

    Attributes:
        maps: the affine maps.
        atoms: those of the program; they know which of their arguments are convex or concave.
        results: the shape of a sample's results of each atom.
        base: what arrives where y and all results are zero, (B, ...), if it is that of the batch.
        kept: room for what solvers compute from the maps.
    """

    maps: Maps
    atoms: tuple[Atom, ...]
    results: tuple[torch.Size, ...]
    base: list[Tensor] | None = None
    kept: dict[str, object] = field(default_factory=dict[str, object])


class Pieces:
    """The affine pieces of an opened program as matrices, read once and kept for other samples.

    Where other inputs multiply what moves, they are read for each batch; the last ones are then only a first guess.
    Several threads may ask for forms: what is kept is never changed, and whichever was stored last serves all.
    """

    def __init__(self, opened: OpenedProgram) -> None:
        self.opened = opened
        self.last: Matrices | None = None
        self.base: list[Tensor] | None = None

    def form(self, inputs: Sequence[Tensor], still: dict[fx.Node, Any] | None = None) -> EpigraphForm:
        """The form for a batch.

        Args:
            inputs: the batch, (B, ...) each; the variable's own values do not matter.
            still: is given what does not move with the variable, where it was computed: see `OpenedProgram.results`.

        Raises:
            Refusal: a map is too large for a matrix, or the program is not made of atoms and affine maps.
        """
        found = self.matrices(inputs, still)
        alone = len(inputs) == 1
        count, device = inputs[0].shape[0], inputs[0].device
        n = inputs[self.opened.variable][0].numel()
        empty = torch.zeros(count, n, dtype=torch.float64, device=device)
        base = self.base if found.base is None else found.base
        if base is None:
            cut = Arrivals(self.opened, inputs)
            with torch.no_grad():
                base = cut(empty, {}, torch.arange(count, device=device))
            if alone and not self.opened.other:
                self.base = [part[:1].clone() for part in base]
        base = [part[:1].expand(count, -1) if alone else part for part in base]
        last, one = len(found.atoms), empty.new_ones(count, 1)
        maps = found.maps
        return EpigraphForm(
            constants=tuple(base[:last]),
            atoms=found.atoms,
            from_y=tuple(maps.get((k, 0)) for k in range(last)),
            between={(k, source - 1): m for (k, source), m in maps.items() if source > 0 and k < last},
            constant=base[last][:, 0],
            linear=maps[last, 0].transposed(one) if (last, 0) in maps else empty,
            weights={k: maps[last, k + 1].transposed(one) for k in range(last) if (last, k + 1) in maps},
            kept=found.kept,
        )

    def matrices(self, inputs: Sequence[Tensor], still: dict[fx.Node, Any] | None = None) -> Matrices:
        """The maps and atoms for a batch: one reading for all of them, or one of its own."""
        if self.opened.gated:
            last = self.last
            found = None if last is None else rescale_maps(self.opened, inputs, last, still)
            self.last = found = self.read(inputs) if found is None else found
            return found
        found = self.last
        if found is None:
            self.last = found = self.read(inputs)
        return found

    def read(self, inputs: Sequence[Tensor]) -> Matrices:
        """Read all maps off the program."""
        cut = Arrivals(self.opened, inputs)
        if not self.opened.gated:  # one sample stands for all
            cut.inputs = [tensor[:1] for tensor in inputs]
        everyone = torch.arange(len(cut.inputs[0]), device=cut.device)
        outputs = [each.results for each in cut.cuts]
        with torch.no_grad():
            base = cut(torch.zeros(len(everyone), cut.n, dtype=torch.float64, device=cut.device), {}, everyone)
        maps: Maps = {}
        for source, size in enumerate([cut.n, *outputs]):
            for target, arrives in enumerate(base):
                if target >= source and size * arrives.shape[1] > LARGEST:
                    raise TooLarge(f"its map of {size} x {arrives.shape[1]} entries is too large for a matrix")
            maps.update(maps_from(CutSource(cut, source, size, base, everyone)))
        atoms = [each.atom for each in cut.cuts if isinstance(each.atom, Atom)]
        shapes = tuple(each.shape for each in cut.cuts)
        return Matrices(maps, atoms_with_signs(atoms, maps), shapes, base if self.opened.gated else None)


def atoms_with_signs(atoms: Sequence[Atom], maps: Maps) -> tuple[Atom, ...]:
    """The atoms, with which of their arguments are convex or concave functions: those that see results of others."""
    found = list(atoms)
    for k, atom in enumerate(atoms):
        inner = [m for (target, source), m in maps.items() if target == k and source > 0]
        if inner:
            up, down = torch.stack([torch.stack(signed_sizes(m)).sum(1) for m in inner]).sum(0)
            found[k] = atom.with_signs(torch.where(down > up / EXACT, -1.0, torch.where(up + down > 0, 1.0, 0.0)))
    return tuple(found)


def signed_sizes(m: Map) -> tuple[Tensor, Tensor]:
    """The sizes (B, h) of what is positive and what is negative in each row of a map; B is 1 where samples share it."""
    if m.matrix.ndim == 3:
        matrix = m.columns(len(m.matrix))
        return matrix.clamp(min=0).sum(2), (-matrix).clamp(min=0).sum(2)
    scale = m.matrix.new_ones(1, m.matrix.shape[1]) if m.scale is None else m.scale
    above, below = m.matrix.clamp(min=0), (-m.matrix).clamp(min=0)
    right, left = scale.clamp(min=0), (-scale).clamp(min=0)
    return right @ above.T + left @ below.T, right @ below.T + left @ above.T


def rescale_maps(
    opened: OpenedProgram, inputs: Sequence[Tensor], known: Matrices, still: dict[fx.Node, Any] | None = None
) -> Matrices | None:
    """The maps for other samples where only the scales of columns have changed; None where more has.

    One run tells: y and all results are leaves of it, and two random combinations of what arrives at a target are
    differentiated. From one follow the scales, and the other confirms them, column by column. In the combinations every
    row has the same size, so that one with small entries counts as any other.
    """
    variable, batch = opened.variable, len(inputs[0])
    like = torch.zeros((), dtype=torch.float64, device=inputs[0].device)
    shapes = [inputs[variable].shape[1:], *known.results]
    leaves = [like.new_zeros(batch, *shape).requires_grad_() for shape in shapes]
    given: list[Tensor] = list(inputs)
    given[variable] = leaves[0]
    atoms: list[Atom] = []
    arrived: list[Tensor] = []

    def replaced(a: Tensor, atom: AtCut = 0.0) -> Tensor:
        atoms.append(atom_of(a, atom))
        arrived.append(a.flatten(1).expand(batch, -1))
        return leaves[len(atoms)]

    with torch.enable_grad():
        out = opened.run(given, replaced, still=still)
        arrived.append(out.expand(batch)[:, None])
    maps: Maps = {}
    for target, part in enumerate(arrived):
        old = [known.maps.get((target, source)) for source in range(target + 1)]
        if any(m is not None and m.matrix.ndim > 2 for m in old):
            return None
        sizes = [m.matrix.abs() for m in old if m is not None]
        row = sum((size.sum(1) for size in sizes), like.new_zeros(part.shape[1]))
        generator = torch.Generator().manual_seed(target)
        across = torch.randn(2, part.shape[1], generator=generator, dtype=torch.float64).to(row)
        across = across / torch.where(row > 0, row, 1.0)
        sums = [derivatives_of_combination(part, leaves[: target + 1], weights) for weights in across]
        for source, m in enumerate(old):
            first, second = sums[0][source], sums[1][source]
            if m is None:
                if bool((first != 0).any()) or bool((second != 0).any()):
                    return None
                continue
            found = confirm_scales(m, across, torch.stack([first, second]))
            if found is None:
                return None
            maps[target, source] = found
    return Matrices(maps, atoms_with_signs(atoms, maps), known.results, [part.detach() for part in arrived])


def derivatives_of_combination(arrived: Tensor, leaves: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
    """The derivatives (B, size) of a combination (h,) of what arrives (B, h), for each leaf."""
    if not arrived.requires_grad:
        return [leaf.new_zeros(len(leaf), leaf[0].numel()) for leaf in leaves]
    found = torch.autograd.grad(
        arrived, leaves, weights.expand_as(arrived), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return [part.reshape(len(part), -1) for part in found]


def confirm_scales(m: Map, across: Tensor, sums: Tensor) -> Map | None:
    """The map with the scales that make two combinations (2, h) of its rows the sums (2, B, d) that are seen.

    None where no scales do.
    """
    top, size = across @ m.matrix, across.abs() @ m.matrix.abs()
    if m.scale is None and bool(((sums - top[:, None]).abs() <= EXACT * size[:, None]).all()):
        return m
    sure = top[0].abs() * size[1] >= top[1].abs() * size[0]
    scale = column_scales(torch.where(sure, sums[0], sums[1]), torch.where(sure, top[0], top[1]))
    off = (sums - scale * top[:, None]).abs()
    return Map(m.matrix, scale) if bool((off <= EXACT * scale.abs() * size[:, None]).all()) else None


def epigraph_form(program: Program, variable: int, inputs: Sequence[Tensor]) -> EpigraphForm:
    """The form of a program that is certified convex in one input.

    Args:
        program: traced with an open batch size.
        variable: the number of the input to minimise over.
        inputs: the batch, (B, ...) each; the variable's own values do not matter.

    Raises:
        Refusal: a map is too large for a matrix, or the program is not made of atoms and affine maps.

    Example:
        >>> from torch import nn
        >>> from convexnet.curvature.tracing.trace import trace
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.LeakyReLU(0.1), nn.Linear(3, 1))
        >>> y = torch.randn(4, 2)
        >>> form = epigraph_form(trace(net, y, any_batch=True), 0, (y,))
        >>> torch.allclose(form.value(y.double()), net.double()(y.double())[:, 0])
        True
    """
    return Pieces(OpenedProgram(program, variable)).form(inputs)


@cache
def prepare_tangents() -> None:
    """Let torch import what it needs for forward derivatives, which warns, and not while other threads look."""
    with TRACING, warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore")
        (forward_ad.make_dual(torch.zeros(1), torch.ones(1)) * 2).exp()


@dataclass
class CutSource:
    """One source of a cut program, y or the results of an atom, and how to look at what depends on it."""

    cut: Arrivals
    number: int  # 0: y
    size: int
    base: list[Tensor]
    everyone: Tensor

    def arrives(self, x: Tensor, rows: Tensor) -> list[Tensor]:
        """What x (R, size) adds at every later atom and at the output, for samples (R,)."""
        if not x.requires_grad:
            try:
                return self.tangents(x, rows)
            except (NotImplementedError, RuntimeError):  # an operator without a forward derivative
                pass
        return [a - b[rows] for a, b in zip(self.cut(*self.placed(x, rows), rows), self.base, strict=True)]

    def placed(self, x: Tensor, rows: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """y and the results of atoms for x."""
        like = x.new_zeros(len(rows), self.cut.n)
        return (x, {}) if self.number == 0 else (like, {self.number - 1: x})

    def tangents(self, x: Tensor, rows: Tensor) -> list[Tensor]:
        """The same as derivatives along x, in which a large constant costs no digits."""
        prepare_tangents()
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(torch.zeros_like(x), x)
            found: list[Tensor] = []
            for part in self.cut(*self.placed(dual, rows), rows):
                plain, along = forward_ad.unpack_dual(part)
                found.append(torch.zeros_like(plain) if along is None else along)
            return found

    def random(self, seed: int, *shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.cut.device)

    def columns(self, rows: Tensor) -> list[Tensor]:
        """What each basis vector adds, for the sample given with it, (size, ...) by target."""
        with torch.no_grad():
            return self.arrives(torch.eye(self.size, dtype=torch.float64, device=self.cut.device), rows)

    def sums(self, targets: Sequence[int]) -> dict[int, Tensor]:
        """For each target the derivatives (B, size) of a random combination of its entries."""
        x = torch.zeros(len(self.everyone), self.size, dtype=torch.float64, device=self.cut.device, requires_grad=True)
        with torch.enable_grad():
            out = self.arrives(x, self.everyone)
            return {t: derivatives_of_combination(out[t], [x], self.random(t, out[t].shape[1]))[0] for t in targets}


def maps_from(source: CutSource) -> Maps:
    """The maps from one source to every later atom and to the output."""
    probe = source.random(source.number, len(source.everyone), source.size)
    with torch.no_grad():
        seen = source.arrives(probe, source.everyone)
    targets = [t for t in range(source.number, len(source.base)) if bool(seen[t].any())]
    if not targets:
        return {}
    found: Maps = {}
    columns = source.columns(torch.zeros(source.size, dtype=torch.int64, device=source.cut.device))
    differing: list[int] = []
    for target in targets:
        shared = Map(columns[target].T.contiguous())
        if sends_probe_to(shared, probe, seen[target]):
            found[target, source.number] = shared
        else:
            differing.append(target)
    sums = source.sums(differing) if differing else {}
    for target in differing:
        found[target, source.number] = scaled_map(source, target, probe, seen[target], sums[target])
    return found


def column_scales(sums: Tensor, top: Tensor) -> Tensor:
    """The scale (B, size) of each column, whose combination is `sums` (B, size) and, unscaled, `top` (size,)."""
    return torch.where(top != 0, sums / torch.where(top == 0, 1.0, top), 0.0)


def scaled_map(source: CutSource, target: int, probe: Tensor, seen: Tensor, sums: Tensor) -> Map:
    """A map whose columns each sample scales; each column is read from the sample in which it is largest."""
    best = sums.abs().argmax(0)
    columns = source.columns(best)[target]
    found = Map(columns.T.contiguous(), column_scales(sums, sums.gather(0, best[None])[0]))
    if sends_probe_to(found, probe, seen):
        return found
    size, everyone = source.size, source.everyone
    if len(everyone) * size * seen.shape[1] > LARGEST:
        raise TooLarge(
            "its maps differ from sample to sample by more than a scale, and are too large to be stored for each"
        )
    with torch.no_grad():
        rows = everyone.repeat_interleave(size)
        basis = torch.eye(size, dtype=torch.float64, device=probe.device).repeat(len(everyone), 1)
        each = source.arrives(basis, rows)[target].unflatten(0, (len(everyone), size)).mT.contiguous()
    found = Map(each)
    if not sends_probe_to(found, probe, seen):
        raise Refusal("it is not made of atoms and affine maps")
    return found


def sends_probe_to(m: Map, probe: Tensor, seen: Tensor) -> bool:
    """Whether a map sends `probe` (B, d) to what is seen (B, h), each row up to rounding of its own entries."""
    scale = None if m.scale is None else m.scale.abs()
    size = Map(m.matrix.abs(), scale)(probe.abs())
    return bool(((m(probe) - seen).abs() <= EXACT * size).all())
