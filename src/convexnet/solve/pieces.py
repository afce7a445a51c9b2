"""The affine pieces of an opened program as matrices: from a program to its `KinkForm`.

They are read off by running the program on basis vectors. What the other inputs change from sample to sample is mostly
the constants; where they multiply what moves (the gates of a PICNN), the columns of a map are scaled, which is found
out and checked with random vectors rather than assumed.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd import forward_ad

from convexnet.curvature.call import Refusal
from convexnet.curvature.trace import Program
from convexnet.solve.bends import Bend
from convexnet.solve.kink_form import KinkForm
from convexnet.solve.maps import Map
from convexnet.solve.opened import Opened, bend_of, value_of

LARGEST = 20_000_000
"""Entries of a map that is stored as a matrix."""

EXACT = 1e-9
"""Difference up to which two ways to compute one map count as the same, as a share of what its own entries add up to
in each row. Maps only steer the search: bounds are proved on the program itself."""


class TooLarge(Refusal):
    """A map has too many entries to be stored as a matrix."""


class Cut:
    """The affine pieces of an opened program: what arrives at each bend, and at the output, for given results."""

    def __init__(self, opened: Opened, inputs: Sequence[Tensor]) -> None:
        self.opened = opened
        self.inputs = list(inputs)
        self.device = inputs[0].device
        self.y_shape = inputs[opened.variable].shape[1:]
        self.n = self.y_shape.numel()
        self.bends: list[Bend] = []
        self.sizes: list[int] = []
        self.results: list[torch.Size] = []

        def record(a: Tensor, bend: float | Tensor | Bend = 0.0) -> Tensor:
            bend = bend_of(a, bend)
            z = value_of(a, bend)
            self.bends.append(bend)
            self.sizes.append(a[0].numel())
            self.results.append(z.shape[1:])
            return z

        with torch.no_grad():
            opened.run([tensor[:1] for tensor in inputs], record)

    def __call__(self, y: Tensor, results: dict[int, Tensor], rows: Tensor) -> list[Tensor]:
        """What arrives at each bend and, last, the output: for y (R, n), results (R, out_k) of bends, samples (R,)."""
        inputs = [tensor[rows] for tensor in self.inputs]
        inputs[self.opened.variable] = y.reshape(-1, *self.y_shape)
        arrived: list[Tensor] = []

        def replaced(a: Tensor, bend: float | Tensor | Bend = 0.0) -> Tensor:
            k = len(arrived)
            arrived.append(a.flatten(1).expand(len(y), -1))
            shape = (len(y), *self.results[k])
            return results[k].reshape(shape) if k in results else a.new_zeros(shape)

        out = self.opened.run(inputs, replaced)
        return [*arrived, out.expand(len(y))[:, None]]


Maps = dict[tuple[int, int], Map]
"""By (target, source); source 0 is y and source j + 1 the results of bend j; the last target is the output."""


@dataclass(frozen=True)
class Matrices:
    """What was read off a program. It is never changed, so that threads may share it.

    Attributes:
        maps: the affine maps.
        bends: those of the program; such that see results of others, only with multipliers that are not negative.
        kept: room for what solvers compute from the maps.
    """

    maps: Maps
    bends: tuple[Bend, ...]
    kept: dict[str, object] = field(default_factory=dict[str, object])


class Pieces:
    """The affine pieces of an opened program as matrices, read once and kept for other samples.

    Where other inputs multiply what moves, they are read for each batch; the last ones are then only a first guess.
    Several threads may ask for forms.
    """

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.last: Matrices | None = None
        self.base: list[Tensor] | None = None
        self.lock = threading.Lock()

    def form(self, inputs: Sequence[Tensor]) -> KinkForm:
        """The form for a batch.

        Args:
            inputs: the batch, (B, ...) each; the variable's own values do not matter.

        Raises:
            Refusal: a map is too large for a matrix, or the program is not made of bends and affine maps.
        """
        found = self.matrices(inputs)
        alone = len(inputs) == 1
        count, device = inputs[0].shape[0], inputs[0].device
        n = inputs[self.opened.variable][0].numel()
        empty = torch.zeros(count, n, dtype=torch.float64, device=device)
        base = self.base
        if base is None:
            cut = Cut(self.opened, inputs)
            with torch.no_grad():
                base = cut(empty, {}, torch.arange(count, device=device))
            if alone and not self.opened.other:
                self.base = [part[:1].clone() for part in base]
        base = [part[:1].expand(count, -1) if alone else part for part in base]
        last, one = len(found.bends), empty.new_ones(count, 1)
        maps = found.maps
        return KinkForm(
            constants=tuple(base[:last]),
            bends=found.bends,
            from_y=tuple(maps.get((k, 0)) for k in range(last)),
            between={(k, source - 1): m for (k, source), m in maps.items() if source > 0 and k < last},
            constant=base[last][:, 0],
            slope=maps[last, 0].transposed(one) if (last, 0) in maps else empty,
            weights={k: maps[last, k + 1].transposed(one) for k in range(last) if (last, k + 1) in maps},
            kept=found.kept,
        )

    def matrices(self, inputs: Sequence[Tensor]) -> Matrices:
        """The maps and bends for a batch: one reading for all of them, or one of its own."""
        if self.opened.gated:
            last = self.last
            self.last = found = self.read(inputs, {} if last is None else last.maps)
            return found
        with self.lock:
            if self.last is None:
                self.last = self.read(inputs, {})
            return self.last

    def read(self, inputs: Sequence[Tensor], known: Maps) -> Matrices:
        """Read all maps off the program; `known` ones of other samples are looked at first."""
        cut = Cut(self.opened, inputs)
        if not self.opened.gated:  # one sample stands for all
            cut.inputs = [tensor[:1] for tensor in inputs]
        everyone = torch.arange(len(cut.inputs[0]), device=cut.device)
        outputs = [torch.Size(shape).numel() for shape in cut.results]
        with torch.no_grad():
            base = cut(torch.zeros(len(everyone), cut.n, dtype=torch.float64, device=cut.device), {}, everyone)
        maps: Maps = {}
        for source, size in enumerate([cut.n, *outputs]):
            for target, arrives in enumerate(base):
                if target >= source and size * arrives.shape[1] > LARGEST:
                    raise TooLarge(f"its map of {size} x {arrives.shape[1]} entries is too large for a matrix")
            maps.update(maps_from(Source(cut, source, size, base, everyone), known))
        inner = {k for k, source in maps if source > 0}
        return Matrices(maps, tuple(bend.rising() if k in inner else bend for k, bend in enumerate(cut.bends)))


def kink_form(program: Program, variable: int, inputs: Sequence[Tensor]) -> KinkForm:
    """The form of a program that is certified convex in one input.

    Args:
        program: traced with an open batch size.
        variable: the number of the input to minimise over.
        inputs: the batch, (B, ...) each; the variable's own values do not matter.

    Raises:
        Refusal: a map is too large for a matrix, or the program is not made of bends and affine maps.

    Example:
        >>> from torch import nn
        >>> from convexnet.curvature.trace import trace
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.LeakyReLU(0.1), nn.Linear(3, 1))
        >>> y = torch.randn(4, 2)
        >>> form = kink_form(trace(net, y, any_batch=True), 0, (y,))
        >>> torch.allclose(form.value(y.double()), net.double()(y.double())[:, 0])
        True
    """
    return Pieces(Opened(program, variable)).form(inputs)


@dataclass
class Source:
    """One source of a cut program, y or the results of a bend, and how to look at what depends on it."""

    cut: Cut
    number: int  # 0: y
    size: int
    base: list[Tensor]
    everyone: Tensor

    def arrives(self, x: Tensor, rows: Tensor) -> list[Tensor]:
        """What x (R, size) adds at every later bend and at the output, for samples (R,)."""
        if not x.requires_grad:
            try:
                return self.tangents(x, rows)
            except (NotImplementedError, RuntimeError):  # an operator without a forward derivative
                pass
        return [a - b[rows] for a, b in zip(self.cut(*self.placed(x, rows), rows), self.base, strict=True)]

    def placed(self, x: Tensor, rows: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """y and the results of bends for x."""
        like = x.new_zeros(len(rows), self.cut.n)
        return (x, {}) if self.number == 0 else (like, {self.number - 1: x})

    def tangents(self, x: Tensor, rows: Tensor) -> list[Tensor]:
        """The same as derivatives along x, in which a large constant costs no digits."""
        with warnings.catch_warnings(), forward_ad.dual_level():
            warnings.simplefilter("ignore")  # of what torch itself imports for it
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

    def sums(self, targets: Sequence[int]) -> dict[int, tuple[Tensor, Tensor]]:
        """For each target a random combination (h,) of its entries, and its derivatives (B, size)."""
        x = torch.zeros(len(self.everyone), self.size, dtype=torch.float64, device=self.cut.device, requires_grad=True)
        found: dict[int, tuple[Tensor, Tensor]] = {}
        with torch.enable_grad():
            out = self.arrives(x, self.everyone)
            for target in targets:
                across = self.random(target, out[target].shape[1])
                weights = across.expand_as(out[target])
                (sums,) = torch.autograd.grad(out[target], x, weights, retain_graph=True)
                found[target] = across, sums
        return found


def maps_from(source: Source, known: Maps) -> Maps:
    """The maps from one source to every later bend and to the output; of those known from other samples only the scales
    are read again."""
    probe = source.random(source.number, len(source.everyone), source.size)
    with torch.no_grad():
        seen = source.arrives(probe, source.everyone)
    targets = [t for t in range(source.number, len(source.base)) if bool(seen[t].any())]
    found: Maps = {}
    missing: list[int] = []
    old = {t: known[t, source.number] for t in targets if (t, source.number) in known}
    scaled = [t for t, m in old.items() if m.scale is not None]
    sums = source.sums(scaled) if scaled else {}
    for target in targets:
        m = old.get(target)
        if m is not None and target in sums:
            m = Map(m.matrix, scales(sums[target][1], sums[target][0] @ m.matrix))
        if m is not None and m.matrix.ndim == 2 and same(m, probe, seen[target]):
            found[target, source.number] = m
        else:
            missing.append(target)
    if missing:
        columns = source.columns(torch.zeros(source.size, dtype=torch.int64, device=source.cut.device))
        differing: list[int] = []
        for target in missing:
            shared = Map(columns[target].T.contiguous())
            if same(shared, probe, seen[target]):
                found[target, source.number] = shared
            else:
                differing.append(target)
        sums = source.sums(differing) if differing else {}
        for target in differing:
            found[target, source.number] = scaled_map(source, target, probe, seen[target], sums[target][1])
    return found


def scales(sums: Tensor, top: Tensor) -> Tensor:
    """The scale (B, size) of each column, whose combination is `sums` (B, size) and, unscaled, `top` (size,)."""
    return torch.where(top != 0, sums / torch.where(top == 0, 1.0, top), 0.0)


def scaled_map(source: Source, target: int, probe: Tensor, seen: Tensor, sums: Tensor) -> Map:
    """A map whose columns each sample scales; each column is read from the sample in which it is largest."""
    best = sums.abs().argmax(0)
    columns = source.columns(best)[target]
    found = Map(columns.T.contiguous(), scales(sums, sums.gather(0, best[None])[0]))
    if same(found, probe, seen):
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
    if not same(found, probe, seen):
        raise Refusal("it is not made of bends and affine maps")
    return found


def same(m: Map, probe: Tensor, seen: Tensor) -> bool:
    """Whether a map sends `probe` (B, d) to what is seen (B, h), each row up to rounding of its own entries."""
    scale = None if m.scale is None else m.scale.abs()
    size = Map(m.matrix.abs(), scale)(probe.abs())
    return bool(((m(probe) - seen).abs() <= EXACT * size).all())
