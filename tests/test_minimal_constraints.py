"""The intervals that `constrain` derives are enough, and none of them can be dropped.

**Enough**: at random points of the cone, of several sizes and with many zeros, a random network is certified, and no
chord lies below it. **Minimal**: where one entry of one parameter is pushed out of its interval, some choice of the
others, inside theirs, makes the network non-convex. Random chords in float64 look for that choice, and `falsify` has to
find a violation there too. Neither search knows anything of the calculus.

`Rows` draws networks on 2 to 4 inputs: linear layers, matrix products, BatchNorm, PReLU (one slope or one for each
channel), layer scales (g z, (1 + g) z, g h z), ReLU, ELU and softplus; skips to any earlier result, concatenations with
it or with the input, sums and maxima of branches, branches that are subtracted, features that are cut off or masked,
and a layer that is used twice. `Pictures` draws convolutional ones on 2 x 2 pixels: groups, strides, BatchNorm, channel
scales, residual sums, pooling, channels that are cut off.

They leave out what no derivation from curvature and signs alone can see, though less would do: every scaling has a free
shift behind it (relu(w z) is zero for all w < 0 where z >= 0, and so convex), and PReLU is not followed by a ReLU or a
maximum (which may hide what its slope does). What readers leave unread is told apart one by one at the end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import convexnet as cx
from convexnet.constraints import Interval, derive_intervals
from tests.drawing import some

SIZES = (1.0, 0.3, 3.0, 10.0)
OUTSIDE = 10.0
TRIES = 400

Intervals = Mapping[str, Interval]


# --- random networks -------------------------------------------------------------------------------------------------


class Step(nn.Module):
    """One operation on one earlier result z, and for some on another one, b."""

    marks: Tensor
    places: Tensor

    def __init__(self, kind: str, width: int, other: int, rng: random.Random) -> None:
        super().__init__()
        self.kind, self.width = kind, {"cat": width + other}.get(kind, width)
        if kind in ("linear", "prelu", "matmul"):
            self.width = rng.randint(2, 3)
        if kind in ("linear", "prelu"):
            self.layer = nn.Linear(width, self.width)
        if kind == "prelu":
            self.slope = nn.PReLU(rng.choice((1, self.width)))
        if kind == "matmul":
            self.weight = nn.Parameter(torch.zeros(width, self.width))
        if kind == "norm":
            self.layer = nn.BatchNorm1d(width)
        if kind == "minus":
            self.layer = nn.Linear(other, width)
        if kind == "cut":
            self.how = rng.choice(("slice", "list", "index_select", "mask", "chunk"))
            self.picked = sorted(rng.sample(range(width), rng.randint(1, max(1, width - 1))))
            if self.how == "slice":
                self.picked = list(range(self.picked[0], width))
            if self.how == "chunk":
                self.picked = list(range(-(-width // 2)))
            self.width = width if self.how == "mask" else len(self.picked)
            marks = torch.tensor([float(place in self.picked) for place in range(width)])
            self.register_buffer("marks", marks)
            self.register_buffer("places", torch.tensor(self.picked))
        if kind in ("scale", "one plus", "product", "matmul"):
            self.gain, self.other_gain, self.shift = (nn.Parameter(torch.zeros(self.width)) for _ in range(3))

    def forward(self, z: Tensor, b: Tensor) -> Tensor:
        match self.kind:
            case "linear" | "norm":
                return self.layer(z)
            case "prelu":
                return self.slope(self.layer(z))
            case "matmul":
                return z @ self.weight + self.shift
            case "scale":
                return torch.addcmul(self.shift, self.gain, z)
            case "one plus":
                return (1 + self.gain) * z + self.shift
            case "product":
                return self.gain * self.other_gain * z + self.shift
            case "minus":
                return F.relu(z - self.layer(b))
            case "cat":
                return torch.cat([z, b], 1)
            case "cut":
                return self.cut(z)
            case "sum":
                return z + b
            case "max":
                return torch.maximum(z, b)
            case _:
                return getattr(F, self.kind)(z)

    def cut(self, z: Tensor) -> Tensor:
        """Some of the features, by every way to name them, or all of them with zeros in place of the others."""
        match self.how:
            case "slice":
                return z[:, self.picked[0] :]
            case "list":
                return z[:, self.picked]
            case "index_select":
                return z.index_select(1, self.places)
            case "chunk":
                return z.chunk(2, 1)[0]
            case _:
                return z * self.marks


class Rows(nn.Module):
    """A random network of rows; `plan` says for each step what it does, and to which results."""

    KINDS = (
        "linear", "linear", "relu", "elu", "softplus", "norm", "prelu", "scale", "one plus", "product", "matmul",
        "minus", "cat", "cut", "cut", "again",
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(f"rows {seed}")
        self.seed, self.shape = seed, (rng.randint(2, 4),)
        self.steps, self.plan = nn.ModuleList(), list[tuple[str, int, int]]()
        self.widths, hidden = [self.shape[0]], set[int]()
        self.add(Step("linear", self.widths[0], 0, rng), 0)
        self.add(Step(rng.choice(("relu", "elu", "softplus")), self.widths[1], 0, rng), 1)
        for _ in range(rng.randint(2, 6)):
            count = len(self.widths)
            at = count - 1 if rng.random() < 0.7 else rng.randrange(1, count)
            alike = [i for i in range(count) if i != at and self.widths[i] == self.widths[at] and i not in hidden]
            kind = rng.choice(self.KINDS + ("sum", "max") * 2 if alike and at not in hidden else self.KINDS)
            other = rng.choice(alike) if kind in ("sum", "max") else rng.randrange(count)
            if kind == "cat":
                other = 0 if rng.random() < 0.6 else other
                kind = "cat" if self.widths[at] + self.widths[other] <= 7 else "relu"
            if kind == "again":
                layers = [step for step in self.steps if step.kind == "linear"]
                fitting = [step for step in layers if step.layer.in_features == self.widths[at]]
                if fitting:
                    self.add(rng.choice(fitting), at)
                continue
            if kind == "relu" and at in hidden:
                kind = "elu"
            if kind == "prelu" or (kind in ("elu", "cat", "cut") and hidden & {at, other if kind == "cat" else at}):
                hidden.add(count)
            self.add(Step(kind, self.widths[at], self.widths[other], rng), at, other)
        self.add(Step("linear", self.widths[-1], 0, rng), len(self.widths) - 1)
        self.double().eval()

    def add(self, step: Step, at: int, other: int = 0) -> None:
        self.steps.append(step)
        self.plan.append((step.kind, at, other))
        self.widths.append(step.width)

    def forward(self, x: Tensor) -> Tensor:
        results = [x]
        for step, (_, at, other) in zip(self.steps, self.plan, strict=True):
            results.append(step(results[at], results[other]))
        return results[-1]


class Pictures(nn.Module):
    """A random convolutional network on one channel of 2 x 2 pixels."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(f"pictures {seed}")
        self.seed, self.shape = seed, (1, 2, 2)
        self.stem = nn.Conv2d(1, 2, 3, padding=1)
        self.plan = [rng.choice(("norm", "none")), rng.choice(("relu", "elu", "softplus"))]
        self.norms = nn.ModuleList(nn.BatchNorm2d(2) for _ in range(3))
        self.convs = nn.ModuleList()
        for _ in range(rng.randint(1, 2)):
            groups, kernel = rng.choice((1, 2)), rng.choice((1, 3))
            self.convs.append(nn.Conv2d(2, 2, kernel, padding=kernel // 2, groups=groups))
            self.plan += [rng.choice(("norm", "none", "scale")), rng.choice(("residual", "plain", "maximum"))]
        self.gain, self.shift = nn.Parameter(torch.zeros(2, 1, 1)), nn.Parameter(torch.zeros(2, 1, 1))
        self.plan.append(rng.choice(("max_pool2d", "avg_pool2d", "stride")))
        self.plan.insert(-1, rng.choice(("first channel", "both channels")))
        width = 1 if self.plan[-2] == "first channel" else 2
        self.last = nn.Conv2d(width, 2, 2) if self.plan[-1] == "stride" else nn.Linear(width, 2)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        z = self.stem(x)
        z = self.norms[0](z) if self.plan[0] == "norm" else z
        z = getattr(F, self.plan[1])(z)
        for i, conv in enumerate(self.convs):
            after, join = self.plan[2 + 2 * i : 4 + 2 * i]
            y = conv(z)
            y = self.norms[1 + i](y) if after == "norm" else self.gain * y + self.shift if after == "scale" else y
            y = y + z if join == "residual" else torch.maximum(y, self.stem(x)) if join == "maximum" else y
            z = F.elu(y)
        if self.plan[-1] == "stride":
            return self.last(z[:, : self.last.in_channels]).flatten(1)
        return self.last(getattr(F, self.plan[-1])(z, 2)[:, : self.last.in_features].flatten(1))


# --- points of the cone, and the search ------------------------------------------------------------------------------


@torch.no_grad()
def fill(model: nn.Module, intervals: Intervals, generator: torch.Generator, size: float, zeros: float) -> None:
    """A random point of the cone: entries lie at distances of a size from their bounds, some of them on these."""

    def normal(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    for name, parameter in model.named_parameters():
        free = size * normal(parameter.shape)
        interval = intervals.get(name)
        if interval is None:  # biases of several sizes, so that nonlinearities are met where they bend and elsewhere
            free *= (0.3, 1.0, 5.0)[int(torch.randint(3, (), generator=generator))] if parameter.ndim == 1 else 1.0
            parameter.copy_(free)
            continue
        lo, hi = (bound.expand(parameter.shape) for bound in (interval.lo, interval.hi))
        inside = free.abs() * (torch.rand(parameter.shape, generator=generator) >= zeros)
        between = lo + (hi - lo) * inside.clamp(max=1.0)
        value = torch.where(lo.isfinite(), lo + inside, torch.where(hi.isfinite(), hi - inside, free))
        parameter.copy_(torch.where(lo.isfinite() & hi.isfinite(), between, value))
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(normal(module.running_mean.shape))
            module.running_var.copy_(normal(module.running_var.shape).square() + 0.1)


@torch.no_grad()
def below(model: Any, generator: torch.Generator) -> Tensor | None:
    """The middle of a chord that lies below the network there, among random ones; None if none of them does."""
    n = 128
    size = SIZES[int(torch.randint(len(SIZES), (), generator=generator))]
    middle = size * torch.randn(n, *model.shape, generator=generator, dtype=torch.float64)
    length = size * torch.rand(n, *[1] * len(model.shape), generator=generator, dtype=torch.float64)
    way = length * torch.randn(n, *model.shape, generator=generator, dtype=torch.float64)
    left, right, value = model(torch.cat([middle - way, middle + way, middle])).chunk(3)
    gap = (value - (left + right) / 2).amax(1)
    best = int(gap.argmax())
    room = 1e-8 * (1 + float(torch.stack([left, right, value]).abs().max()))
    return middle[best : best + 1] if float(gap[best]) > room else None


def bounds(model: nn.Module, intervals: Intervals) -> Iterator[tuple[str, tuple[int, ...], float, int]]:
    """Each finite bound of each entry: parameter, index, bound, and the direction that leads outside."""
    for name, interval in intervals.items():
        shape = model.get_parameter(name).shape
        for bound, sign in ((interval.lo.expand(shape), -1), (interval.hi.expand(shape), 1)):
            for index in bound.isfinite().nonzero().tolist():
                yield name, tuple(index), float(bound[tuple(index)]), sign


def broken(
    model: Any, intervals: Intervals, name: str, index: tuple[int, ...], value: float, seed: int, tries: int = TRIES
) -> Tensor | None:
    """A point where the network is not convex if one entry has a value and the others are somewhere in the cone."""
    generator = torch.Generator().manual_seed(seed)
    for attempt in range(tries):
        fill(model, intervals, generator, (1.0, 0.5, 2.0)[attempt % 3], (0.3, 0.7, 0.0)[attempt // 3 % 3])
        with torch.no_grad():
            model.get_parameter(name)[index] = value
        for _ in range(2):
            found = below(model, generator)
            if found is not None:
                return found
    return None


def example_of(model: Any) -> Tensor:
    return torch.zeros(2, *model.shape, dtype=torch.float64)


BLOCKS = [
    *some([(Rows, block, 6) for block in range(4)], 1, "rows"),
    *some([(Pictures, block, 4) for block in range(2)], 1, "pictures"),
]


@pytest.mark.parametrize(("kind", "block", "count"), BLOCKS)
def test_the_bounds_are_enough_and_none_can_be_dropped(kind: type[Any], block: int, count: int, seed: int) -> None:
    rng = random.Random(seed)
    checked = 0
    for number in range(count):
        model = kind(rng.getrandbits(32))
        intervals = derive_intervals(model, example_of(model))
        place = f"{kind.__name__}({model.seed}), {model.plan}"
        convex_inside(model, intervals, place, SIZES[number % 3], rng.getrandbits(32))
        by_parameter: dict[tuple[str, int], list[tuple[tuple[int, ...], float]]] = {}
        for name, index, bound, sign in bounds(model, intervals):
            by_parameter.setdefault((name, sign), []).append((index, bound))
        for (name, sign), entries in by_parameter.items():
            for index, bound in rng.sample(entries, min(2, len(entries))):
                beyond = f"{place}: {name}{list(index)} beyond {bound}"
                not_convex_outside(model, intervals, beyond, name, index, bound + sign * OUTSIDE, rng)
                checked += 1
    print(f"block {block}: {checked} bounds")
    assert checked >= 2 * count


def convex_inside(model: Any, intervals: Intervals, place: str, size: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for scale in SIZES:
        for zeros in (0.0, 0.5):
            fill(model, intervals, generator, scale, zeros)
            for _ in range(2):
                assert below(model, generator) is None, f"{place} is not convex inside, at size {scale}"
    for zeros in (1.0, 0.2):  # the former: all on their bounds
        fill(model, intervals, generator, size, zeros)
        assert cx.certify(model, example_of(model)).convex, place
    assert cx.falsify(model, example_of(model), budget=2_000) is None, place


def not_convex_outside(
    model: Any, intervals: Intervals, place: str, name: str, index: tuple[int, ...], value: float, rng: random.Random
) -> None:
    for _ in range(4):  # falsify may miss a violation that is small where random chords met it
        found = broken(model, intervals, name, index, value, rng.getrandbits(32))
        assert found is not None, f"no violation found for {place}"
        if cx.falsify(model, found, budget=10_000) is not None:
            return
    pytest.fail(f"falsify finds no violation for {place}")


def test_what_is_derived_names_no_free_parameter() -> None:
    """The search under test: where an entry is free, it finds nothing."""
    model = Rows(3)
    intervals = derive_intervals(model, example_of(model))
    assert "steps.0.layer.weight" not in intervals
    for value in (-OUTSIDE, OUTSIDE):
        assert broken(model, intervals, "steps.0.layer.weight", (0, 0), value, seed=1, tries=30) is None


def test_the_generator_draws_all_it_says() -> None:
    kinds = {kind for seed in range(60) for kind, _, _ in Rows(seed).plan}
    assert kinds == {*Rows.KINDS, "sum", "max"} - {"again"}
    assert any(len(set(map(id, model.steps))) < len(model.steps) for model in map(Rows, range(60)))  # used twice
    pictures = {word for seed in range(30) for word in Pictures(seed).plan}
    assert pictures >= {"norm", "scale", "residual", "maximum", "max_pool2d", "avg_pool2d", "stride"}


# --- more than is needed, or nothing found where there is something --------------------------------------------------


class With(nn.Module):
    """Modules and parameters, and a forward that is given both them and the input."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, part if isinstance(part, nn.Module) else nn.Parameter(part))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def masked(layer: nn.Linear, *columns: int) -> nn.Linear:
    """A layer that is pruned: some columns of its weight are multiplied by zero."""
    mask = torch.ones_like(layer.weight)
    mask[:, list(columns)] = 0.0
    return prune.custom_from_mask(layer, "weight", mask)


def zeroed(layer: nn.Linear, *columns: int) -> nn.Linear:
    """A frozen layer of non-negative weights, zero in some columns."""
    with torch.no_grad():
        layer.weight.abs_()[:, list(columns)] = 0.0
    return layer.requires_grad_(False)


def overwritten(y: Tensor) -> Tensor:
    y = y.clone()
    y[:, 1] = 0.0
    return y


ALL, NONE = [True] * 3, [False] * 3
BEHIND: dict[str, tuple[Callable[[Any, Tensor, Tensor], Any], dict[str, Any]]] = {
    # of the module, y = b(relu(a(x))) and x: and which entries of b.weight and of others are asked for something
    "a slice": (lambda m, y, x: y[:, :2], {"b": [ALL, ALL, NONE]}),
    "one column": (lambda m, y, x: y[:, 1], {"b": [NONE, ALL, NONE]}),
    "the last": (lambda m, y, x: y[..., -1:], {"b": [NONE, NONE, ALL]}),
    "a list": (lambda m, y, x: y[:, [2, 0]], {"b": [ALL, NONE, ALL]}),
    "index_select": (lambda m, y, x: y.index_select(1, m.index), {"b": [ALL, NONE, ALL]}),
    "narrow": (lambda m, y, x: y.narrow(1, 1, 1), {"b": [NONE, ALL, NONE]}),
    "chunk": (lambda m, y, x: y.chunk(3, 1)[0], {"b": [ALL, NONE, NONE]}),
    "split": (lambda m, y, x: y.split([1, 2], 1)[1], {"b": [NONE, ALL, ALL]}),
    "unbind": (lambda m, y, x: y.unbind(1)[2], {"b": [NONE, NONE, ALL]}),
    "two outputs": (lambda m, y, x: (y[:, 0], y[:, :2].relu()), {"b": [ALL, ALL, NONE]}),
    "all of chunk": (lambda m, y, x: y.chunk(3, 1), {"b": [ALL, ALL, ALL]}),
    "roll": (lambda m, y, x: y.roll(1, 1)[:, :1], {"b": [NONE, NONE, ALL]}),
    "a crop": (lambda m, y, x: F.pad(y, (0, -2)), {"b": [ALL, NONE, NONE]}),
    "an activation": (lambda m, y, x: F.elu(y)[:, :1], {"b": [ALL, NONE, NONE]}),
    "a skip": (lambda m, y, x: (y + x)[:, :1], {"b": [ALL, NONE, NONE]}),
    "a concatenation": (lambda m, y, x: torch.cat([y, x], 1)[:, 2:], {"b": [NONE, NONE, ALL]}),
    "BatchNorm": (lambda m, y, x: m.norm(y)[:, :2], {"b": [ALL, ALL, NONE], "norm": [True, True, False]}),
    "a gain": (lambda m, y, x: (m.gain * y)[:, 1:], {"b": [NONE, ALL, ALL], "gain": [False, True, True]}),
    "slopes": (lambda m, y, x: m.slopes(y)[:, 1:], {"b": [NONE, ALL, ALL], "slopes": [False, True, True]}),
    "a second layer": (lambda m, y, x: m.c(y.relu())[:, :1], {"b": [ALL, ALL, ALL], "c": [ALL, NONE, NONE]}),
    "before a layer": (lambda m, y, x: m.d(y.relu()[:, :2]), {"b": [ALL, ALL, NONE], "d": [True, True]}),
    "a sum": (lambda m, y, x: y[:, 1:].sum(1), {"b": [NONE, ALL, ALL]}),
    "the largest of pairs": (lambda m, y, x: torch.stack([y, x], 2).amax(2)[:, :1], {"b": [ALL, NONE, NONE]}),
    "max": (lambda m, y, x: torch.stack([y, x], 2).max(2)[0][:, :1], {"b": [ALL, NONE, NONE]}),
    "a maximum": (lambda m, y, x: torch.maximum(y, x)[:, :1], {"b": [ALL, NONE, NONE]}),
    "a mask": (lambda m, y, x: y * m.mask, {"b": [ALL, NONE, ALL]}),
    "where": (lambda m, y, x: torch.where(m.mask > 0, y, x), {"b": [ALL, NONE, ALL]}),
    "masked_fill": (lambda m, y, x: y.masked_fill(m.mask == 0, 1.0), {"b": [ALL, NONE, ALL]}),
    "an overwritten column": (lambda m, y, x: overwritten(y), {"b": [ALL, NONE, ALL]}),
    "a frozen zero": (lambda m, y, x: m.zeros(y.relu()), {"b": [ALL, NONE, ALL]}),
    "a pruned column": (
        lambda m, y, x: m.pruned(y.relu()), {"b": [ALL, NONE, ALL], "pruned": [[True, False, True]] * 3},
    ),
    "a pruned column in the shape of another": (
        lambda m, y, x: F.linear(y.relu(), (m.pruned.weight_orig * m.pruned.weight_mask).reshape_as(m.c.weight)),
        {"b": [ALL, NONE, ALL], "pruned": [[True, False, True]] * 3},
    ),
    "one more reader": (lambda m, y, x: y[:, :1] + y[:, 1:2], {"b": [ALL, ALL, NONE]}),
}  # fmt: skip


def reader(name: str) -> With:
    function = BEHIND[name][0]
    a, b, c, d = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(2, 1)
    model = With(
        lambda m, x: function(m, m.b(m.a(x).relu()), x), a=a, b=b, c=c, d=d, norm=nn.BatchNorm1d(3),
        slopes=nn.PReLU(3), gain=torch.rand(3), zeros=zeroed(nn.Linear(3, 2), 1), pruned=masked(nn.Linear(3, 3), 1),
    )  # fmt: skip
    model.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0]))
    model.register_buffer("index", torch.tensor([0, 2]))
    return model


@pytest.mark.parametrize("name", some(BEHIND, 18, "unread"))
def test_nothing_is_asked_of_what_nobody_reads(name: str) -> None:
    """And with any values there, the network is certified and no chord lies below it."""
    asked = {
        {"gain": "gain", "pruned": "pruned.weight_orig"}.get(k, f"{k}.weight"): v for k, v in BEHIND[name][1].items()
    }
    model = reader(name)
    intervals = derive_intervals(model, torch.zeros(2, 3))
    assert intervals.keys() == asked.keys()
    for parameter, interval in intervals.items():
        shape = model.get_parameter(parameter).shape
        assert torch.equal(interval.where.expand(shape), torch.tensor(asked[parameter]).expand(shape)), parameter
    model.double()
    generator = torch.Generator().manual_seed(0)
    for p, free in (
        (model.get_parameter(n), ~i.where.expand(model.get_parameter(n).shape)) for n, i in intervals.items()
    ):
        with torch.no_grad():
            p.copy_(torch.where(free, -10.0, torch.rand(p.shape, generator=generator, dtype=torch.float64)))
    assert cx.certify(model, torch.zeros(2, 3).double()).convex
    left, right = (torch.randn(200, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    for a, b, middle in zip(*(leaves(model.eval()(x)) for x in (left, right, (left + right) / 2)), strict=True):
        assert bool((middle <= (a + b) / 2 + 1e-9).all())


def leaves(output: Any) -> tuple[Tensor, ...]:
    return (output,) if isinstance(output, Tensor) else tuple(output)


@pytest.mark.parametrize(
    ("name", "build", "asked"),
    [
        pytest.param(
            "slopes of what is never negative",
            lambda: nn.Sequential(nn.Linear(3, 2), nn.Softplus(), nn.PReLU(2)),
            {},
        ),
        pytest.param(
            "slopes of what may be negative",
            lambda: nn.Sequential(nn.Linear(3, 2), nn.ELU(), nn.PReLU(2)),
            {"2.weight": [True]},
        ),
    ],
)
def test_what_is_asked_of_weights_that_hardly_matter(
    name: str, build: Callable[[], nn.Module], asked: dict[str, Any]
) -> None:
    model = build()
    intervals = derive_intervals(model, torch.zeros(2, 3))
    assert intervals.keys() == asked.keys(), name
    for parameter, interval in intervals.items():
        shape = model.get_parameter(parameter).shape
        assert torch.equal(interval.where.expand(shape), torch.tensor(asked[parameter]).expand(shape)), name


def convex_somewhere() -> dict[str, tuple[Callable[[], nn.Module], str]]:
    """Networks that some signs of their parameters make convex, and why these are not found."""
    a, b, v, w = (lambda: nn.Linear(3, 3) for _ in range(4))
    after_minus = "what reads a difference has weights of open sign, and then the difference is not asked to be convex"
    return {
        "lerp": (
            lambda: With(lambda m, x: torch.lerp(m.a(x).relu(), m.b(x).exp(), m.g), a=a(), b=b(), g=torch.rand(3)),
            "1 - w for w in [0, 1] is widened below zero",
        ),
        "a difference, then a linear layer": (
            lambda: With(lambda m, x: m.v(m.a(x).relu() - m.w(m.b(x).exp())), a=a(), b=b(), v=v(), w=w()),
            after_minus,
        ),
        "a difference, then a gain": (
            lambda: With(lambda m, x: m.g * (m.a(x).relu() - m.w(m.b(x).exp())), a=a(), b=b(), w=w(), g=torch.rand(3)),
            after_minus,
        ),
        "a difference, then BatchNorm": (
            lambda: With(lambda m, x: m.n(m.a(x).relu() - m.w(m.b(x).exp())), a=a(), b=b(), w=w(), n=nn.BatchNorm1d(3)),
            after_minus,
        ),
        "a difference, then PReLU": (
            lambda: With(lambda m, x: m.p(m.a(x).relu() - m.w(m.b(x).exp())), a=a(), b=b(), w=w(), p=nn.PReLU(3)),
            after_minus,
        ),
        "one minus a gate": (
            lambda: With(lambda m, x: (1 - m.g) * m.a(x).relu(), a=a(), g=torch.rand(3)),
            "aten.rsub is not pushed back",
        ),
        "a factor made in the forward": (
            lambda: With(lambda m, x: m.a(x).relu() * (m.g * torch.tensor(-2.0)), a=a(), g=torch.rand(3)),
            "a constant that the forward makes is not known to be one",
        ),
        "a mask made in the forward": (
            lambda: With(lambda m, x: m.a(x).relu() @ (m.g * torch.ones(3, 3).triu()), a=a(), g=torch.rand(3, 3)),
            "a constant that the forward makes is not known to be one",
        ),
    }


@pytest.mark.parametrize("name", convex_somewhere())
def test_signs_that_exist_are_found(name: str) -> None:
    model = convex_somewhere()[name][0]()
    assert cx.constrain(model, torch.zeros(2, 3), method="clip").violation() == 0.0
    assert cx.certify(model, torch.zeros(2, 3)).convex


FORMS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "a + g": lambda g, a, b: a + g,
    "g - a": lambda g, a, b: g - a,
    "-g + a": lambda g, a, b: -g + a,
    "2 (g + a)": lambda g, a, b: 2 * (g + a),
    "(g + a) / b": lambda g, a, b: (g + a) / b,
    "a + b g": lambda g, a, b: a + b * g,
    "(g + a) - b": lambda g, a, b: (g + a) - b,
}


@pytest.mark.parametrize("form", some(FORMS, 4, "no round numbers"))
def test_bounds_that_are_no_round_numbers(form: str) -> None:
    """Where `violation()` is zero the certificate holds, also on the bound itself; else the form is refused."""
    rng = random.Random(0)
    types = (torch.float32, torch.float64, torch.bfloat16)
    for number in range(60 if form == "(g + a) - b" else 6):
        a, b = rng.uniform(0.1, 3.0), rng.uniform(0.1, 3.0) * rng.choice((1, -1))
        start = 50.0 if form == "-g + a" or (form == "(g + a) / b" and b < 0) else -50.0
        model = With(lambda m, x, a=a, b=b: FORMS[form](m.g, a, b) * F.relu(x), g=torch.full((2,), start))
        model.to(types[number % 3])
        example = torch.zeros(2, 2, dtype=types[number % 3])
        try:
            cone = cx.constrain(model, example, method="clip")
        except cx.NotCertified:
            assert form in ("a + b g", "(g + a) - b")  # two roundings, one after the other
            return
        assert cone.violation() == 0.0
        assert bool((model.get_parameter("g") != start).all())
        assert cx.certify(model, example).convex, (a, b)
