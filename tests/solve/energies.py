"""Energies made of single operators, drawn by a seed, and what `minimise` must keep for each of them.

An energy puts affine (or convex) functions of y where an operator's oracle has moving tensors, adds up what comes out,
with a sign, and adds a term that has a minimum. It is scaled and shifted, by a constant or for each sample, and
minimised over boxes of several sizes, in float32 and float64. What must hold whatever happens:

- the value is the module's own forward at x, in float64;
- no point of the box lies below the bound, and what was proved is not above the value at x;
- where it has converged, no point lies lower than what the tolerance allows;
- a batch gives what its samples give alone.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import convexnet as cx
from convexnet.curvature import Program, certify_program
from convexnet.curvature.rules.opaque_operators import Opaque
from convexnet.curvature.table import TABLE
from convexnet.curvature.tracing.trace import Source
from convexnet.errors import NotTraceable
from convexnet.solve import lower_bounds
from convexnet.solve.compiled import reading_of
from tests.curvature.oracles import SAMPLES, Fixed, Moving, Sample

BATCH = 2
"""Samples of a batch: that of the oracles, some of which name it in their settings."""

SCALES = (1.0, 1.0, 1e-10, 1e-5, 1e5, 1e10)
OFFSETS = (0.0, 0.0, 1e3, -1e3)
TOLERANCE = 1e-6
NAMES = tuple(sorted(name for name, row in TABLE.items() if not isinstance(row.rule, Opaque)))


class Wrong(AssertionError):
    """A promise that is not kept."""


@dataclass(frozen=True)
class Drawn:
    """An energy and what it is minimised with."""

    name: str
    sample: Sample
    model: nn.Module
    given: tuple[Tensor, ...]
    box: cx.Box
    about: str


class Energy(nn.Module):
    """scale · (sign · Σ w op(…) + term(y)) + offset."""

    def __init__(self, name: str, sample: Sample, draws: torch.Generator, n: int) -> None:
        super().__init__()

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=draws, dtype=torch.float64)

        def pick(options: Any) -> Any:
            return options[int(torch.randint(len(options), (), generator=draws))]

        self.operator = getattr(torch.ops.aten, name)
        self.sample = sample
        self.moving = [spec for spec in dict.fromkeys(specs(sample)) if isinstance(spec, Moving) and batched(spec)]
        self.ranges: list[tuple[float, float]] = []
        self.inner = pick(("affine", "affine", "affine", "relu", "square"))
        for i, spec in enumerate(self.moving):
            low, high = pick(spec.within)
            if i == 0 and self.inner != "affine" and math.isfinite(low + high):
                self.inner = "affine"
            low, high = finite(low, high)
            size = math.prod(spec.shape[1:])
            weights = uniform(n, size) * 2 - 1
            if float(uniform()) < 0.5:  # each entry sees one coordinate
                weights = weights * torch.nn.functional.one_hot(torch.randint(n, (size,), generator=draws), n).T
            weights = weights / weights.abs().sum(0).clamp(min=1e-9)
            self.register_buffer(f"weight{i}", weights * (high - low) / 2)
            self.register_buffer(f"bias{i}", torch.full((size,), (low + high) / 2, dtype=torch.float64))
        for j, spec in enumerate(spec for spec in dict.fromkeys(specs(sample)) if spec not in self.moving):
            value = uniform(*spec.shape) * 2 - 1
            if isinstance(spec, Fixed) and spec.sign != "any":
                value = value.abs() + (0.1 if spec.sign == "positive" else 0.0)
            self.register_buffer(f"fixed{j}", value)
        others = [spec for spec in dict.fromkeys(specs(sample)) if spec not in self.moving]
        places = {id(spec): f"moving {i}" for i, spec in enumerate(self.moving)}
        places |= {id(spec): f"fixed {j}" for j, spec in enumerate(others)}
        self.arguments = exchanged([list(sample.args), sample.kwargs], lambda spec: places.get(id(spec), spec))
        self.register_buffer("tilt", uniform(n) * 2 - 1)
        self.register_buffer("middle", uniform(n) * 2 - 1)
        self.register_buffer("share", uniform(64) + 0.1)
        self.term = pick(("absolute", "square", "tilt"))
        self.sign = 1.0
        self.scale, self.offset = pick(SCALES), pick(OFFSETS)
        self.gated = bool(uniform() < 0.4)

    def placed(self, y: Tensor) -> Any:
        """The arguments of the operator."""
        made: dict[str, Tensor] = {}
        for i, spec in enumerate(self.moving):
            part = y @ getattr(self, f"weight{i}") + getattr(self, f"bias{i}")
            if self.inner == "relu":
                part = part.relu()
            if self.inner == "square":
                part = part.square()
            made[f"moving {i}"] = part.unflatten(1, spec.shape[1:]) if len(spec.shape) > 1 else part[:, 0]
        for name, value in self.named_buffers():
            if name.startswith("fixed"):
                made[f"fixed {name.removeprefix('fixed')}"] = value
        return exchanged(self.arguments, lambda part: made.get(part, part) if isinstance(part, str) else part)

    def forward(self, *inputs: Tensor) -> Tensor:
        y = inputs[-1]
        args, kwargs = self.placed(y)
        out = self.operator(*args, **kwargs)
        total = (y * self.tilt).sum(1)
        for part in out if isinstance(out, (tuple, list)) else [out]:
            if part.is_floating_point() and part.ndim and part.shape[0] == y.shape[0]:
                flat = part.reshape(part.shape[0], -1)
                repeats, share = 1 + flat.shape[1] // 64, self.share
                share = share if repeats == 1 else share.repeat(repeats)  # pyright: ignore
                part = (flat * share[: flat.shape[1]]).sum(1)  # pyright: ignore
                total = total + (part if self.sign == 1.0 else self.sign * part)
        if self.term == "absolute":
            total = total + 2 * (y - self.middle).abs().sum(1)
        if self.term == "square":
            total = total + (y - self.middle).square().sum(1)
        if self.gated:
            return inputs[0][:, 0].exp() * self.scale * total + self.offset + inputs[0][:, 1]
        # every operator in here is traced twice for each energy, which is what these tests take their time for
        total = total if self.scale == 1.0 else self.scale * total
        return total if self.offset == 0.0 else total + self.offset


def batched(spec: Moving) -> bool:
    return len(spec.shape) >= 1 and spec.shape[0] == BATCH


def suits(sample: Sample) -> bool:
    """Whether an oracle has a moving tensor with a batch."""
    return any(isinstance(spec, Moving) and batched(spec) for spec in specs(sample))


def finite(low: float, high: float) -> tuple[float, float]:
    """A range inside another one."""
    if math.isinf(low) and math.isinf(high):
        return -2.0, 2.0
    if math.isinf(low):
        return high - 3.0, high
    return (low, low + 3.0) if math.isinf(high) else (low, high)


def specs(value: Any) -> Iterator[Moving | Fixed]:
    """The tensors that an oracle leaves open."""
    if isinstance(value, Sample):
        yield from specs((*value.args, *value.kwargs.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from specs(part)
    elif isinstance(value, (Moving, Fixed)):
        yield value


def exchanged(value: Any, change: Callable[[Any], Any]) -> Any:
    """Arguments with every one changed, within lists too."""
    if isinstance(value, (list, tuple)):
        return [exchanged(part, change) for part in value]
    if isinstance(value, dict):
        return {key: exchanged(part, change) for key, part in value.items()}
    return change(value)


def drawn(seed: int, name: str | None = None, sign: float | None = None) -> Drawn | None:
    """The energy of a seed; None where the operator's sample does not make one.

    Args:
        sign: the one with which it is convex, where that is known; None: both are tried.
    """
    draws = torch.Generator().manual_seed(seed)

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=draws))

    name = NAMES[below(len(NAMES))] if name is None else name
    samples = [sample for sample in SAMPLES[name] if suits(sample)]
    if not samples:
        return None
    sample = samples[below(len(samples))]
    n = 1 + below(4)
    model = Energy(name, sample, draws, n).eval()
    single = below(2) == 0
    model = model.float() if single else model.double()
    kind = torch.float32 if single else torch.float64
    given = (torch.randn(BATCH, 2, generator=draws, dtype=kind) * 2,) if model.gated else ()
    size = (1.0, 1.0, 0.05, 1e3)[below(4)]
    lo, hi = torch.full((n,), -1.0), torch.full((n,), 1.0)
    unbounded = all(math.isinf(spec.within[0][0]) for spec in model.moving)
    if size > 1 and not (unbounded and model.inner == "affine"):
        size = 1.0
    lo, hi = lo * size, hi * size
    for tried in (1.0, -1.0) if sign is None else (sign,):
        model.sign = tried
        y = torch.zeros(BATCH, n, dtype=kind)
        try:
            with torch.no_grad():
                model(*given, y)
            if not symmetric(model, given, y):
                return None
            if sign is None and not promises(model, [*given, y], cx.Box(lo, hi)):
                continue
            reading = reading_of(model, [*given, y], len(given))  # which minimise finds again
            if reading.certificate.convex or reading.on(cx.Box(lo, hi)).convex:
                break
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError, NotTraceable):
            return None
    else:
        return None
    about = (
        f"drawn({seed}, {name!r}): {sample}, n={n}, {kind}, sign {model.sign:g}, inner {model.inner}, "
        f"term {model.term}, "
        f"scale {model.scale:g}, offset {model.offset:g}, gated {model.gated}, box {size:g}"
    )
    return Drawn(name, sample, model, given, cx.Box(lo, hi), about)


def promises(model: nn.Module, inputs: list[Tensor], box: cx.Box) -> bool:
    """Whether the calculus finds the recorded operators convex in the last input on a box.

    A look ahead: most energies that are drawn are not convex with one of the signs, or with both, and each would be
    exported three times before it is refused. Recording without export takes a tenth of that; what passes is read as
    `minimise` reads it.
    """
    with torch.no_grad():
        recorded = make_fx(model, pre_dispatch=True)(*inputs)
    names = [str(node.target) for node in recorded.graph.nodes if node.op == "placeholder"]
    sources = {name: Source("input", f"input {i}", i) for i, name in enumerate(names)}
    (output,) = (node for node in recorded.graph.nodes if node.op == "output")
    outputs = (("output", output.args[0]),)
    program = Program(recorded.graph, sources, outputs, tuple(inputs), type(model).__name__, recorded)
    return certify_program(program, len(inputs) - 1, box).convex


def symmetric(model: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> bool:
    """Whether the rows of a batch are treated alike; an oracle's constant may have a row for each."""
    y = y + torch.linspace(0.1, 0.9, y.numel()).view(y.shape).to(y)
    model = bare(model)
    there = values(model, given, y)
    back = values(model, tuple(part.flip(0) for part in given), y.flip(0)).flip(0)
    return torch.allclose(there, back, rtol=1e-9, equal_nan=True)


def bare(model: nn.Module) -> nn.Module:
    """The energy in units of its own, without an offset that would hide what is small."""
    made = copy.copy(model)
    made.scale, made.offset = 1.0, 0.0
    return made


def values(model: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> Tensor:
    """The module's own forward in float64."""
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        return exact(*in_float64(given), y.double()).reshape(-1)


def in_float64(given: tuple[Tensor, ...]) -> list[Tensor]:
    """Real numbers in float64; labels and masks stay what they are."""
    return [part.double() if part.is_floating_point() else part for part in given]


def alike(model: nn.Module, given: tuple[Tensor, ...], box: cx.Box) -> bool:
    """Whether the operator, with its oracle's settings, does to one sample what it does to it in a batch."""
    y = ((box.lo + box.hi) / 2 + 0.1 * (box.hi - box.lo)).expand(BATCH, *box.shape)
    model = bare(model)
    try:
        one, both = values(model, tuple(part[:1] for part in given), y[:1]), values(model, given, y)
    except (RuntimeError, IndexError, ValueError):
        return False
    return len(one) == 1 and torch.allclose(one, both[:1], rtol=1e-9, atol=0.0)


def checked(energy: Drawn, apart: bool = True) -> cx.Solution | None:
    """Minimise, and see that every promise is kept; with `apart`, that a batch gives what its first sample gives alone.

    None where the operator, with its oracle's settings, does not treat samples alike.

    Raises:
        Wrong: one is not.
    """
    model, given, box = energy.model, energy.given, energy.box
    proofs: list[Tensor] = []
    home: Any = sys.modules["convexnet.solve.assemble_solution"]
    original = lower_bounds.prove_bounds

    def proved(*arguments: Any) -> tuple[Tensor, Tensor]:
        found = original(*arguments)
        proofs.append(found[0])
        return found

    wide = box
    if not given:
        wide = box.fix(torch.zeros(BATCH, *box.shape), torch.zeros(BATCH, *box.shape, dtype=torch.bool))
    home.prove_bounds = proved
    try:
        with torch.no_grad():
            solution = cx.minimise(model, wide, given=given or None, tol=TOLERANCE)
            single = tuple(part[:1] for part in given)
            alone = (
                cx.minimise(model, box, given=single or None, tol=TOLERANCE)
                if apart and alike(model, given, box)
                else None
            )
    except ValueError as error:
        if "alike" in str(error):
            return None
        raise
    finally:
        home.prove_bounds = original

    def require(holds: Tensor | bool, what: str, *shown: Any) -> None:
        if not bool(torch.as_tensor(holds).all()):
            raise Wrong(f"{what}: {shown}\n{energy.about}\n{solution.message}\n{solution}")

    x = solution.x.double()
    value = values(model, given, x)
    size = value.abs() + 1e-300
    require(box.contains(solution.x), "x lies outside the box", x)
    require(
        (solution.value == value) | ((solution.value - value).abs() <= 1e-13 * size),
        "the value is not the module's own",
        solution.value,
        value,
    )
    require(solution.lower_bound <= solution.upper_bound, "the bounds cross")
    require(solution.gap >= 0, "the gap is negative")
    rise = torch.zeros_like(value)
    exact = copy.deepcopy(model).double()
    lo, hi = box.lo.double(), box.hi.double()
    draws = torch.Generator().manual_seed(0)
    best, where = value.clone(), x.clone()
    unit = torch.minimum(hi - lo, x.abs().clamp(min=1.0))
    with torch.no_grad():
        for trial in range(64):
            if trial < 16:
                y = torch.lerp(lo, hi, torch.rand(x.shape, generator=draws, dtype=torch.float64))
                y = torch.where(y > (lo + hi) / 2, hi, lo) if trial % 3 == 0 else y
            else:
                way = torch.randn(x.shape, generator=draws, dtype=torch.float64) * unit
                y = (where + way * 10.0 ** -(trial % 8)).clamp(lo, hi)
            here = exact(*in_float64(given), y).reshape(-1)
            near = ((y - x).abs() <= unit).all(1) & here.isfinite()
            rise = torch.where(near, torch.maximum(rise, here - value), rise)
            lower = here < best
            best, where = torch.where(lower, here, best), torch.where(lower[:, None], y, where)
    room = 4e-15 * size
    require(~(best < solution.lower_bound - room), "a point lies below the bound", best, solution.lower_bound, where)
    require(~(proofs[0] > value + room), "what was proved lies above the value", proofs[0], value)
    slack = 1e-6 * (size - 1e-300) * (TOLERANCE / 1e-6)
    far = x.abs().clamp(min=1.0).amax(1)
    allowed = 10 * TOLERANCE * far * rise + slack
    require(~(solution.converged & (best < value - allowed)), "converged, and far from the minimum", best, value, rise)
    if alone is None:
        return solution
    if alone.converged.tolist() != solution.converged[:1].tolist():
        raise Wrong(f"a batch differs from its singles: {alone}\n{energy.about}\n{solution.message}\n{alone.message}")
    if bool(alone.converged.all()):
        distance = (alone.value - solution.value[:1]).abs()
        require(distance <= allowed[:1] + 1e-30, "a batch has another value than its singles", distance, allowed)
    return solution
