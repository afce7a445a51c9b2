"""Models whose traced program is another function than they are themselves, and numbers that are none."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

import convexnet as cx
from convexnet.curvature.tracing import faithfulness as faithful
from convexnet.curvature.tracing.bytecode_suspicions import (
    AGAIN,
    BATCHES,
    GRADIENTS,
    SIZES,
    TRACED,
    TYPES,
    find_suspicions,
)
from tests.modules import Function

NAN, INF = math.nan, math.inf
ROWS = torch.zeros(1, 3)
MASK = torch.tensor([True, False, True])


def helper(x: Tensor) -> Tensor:
    return x.abs() if torch.compiler.is_compiling() else -x.abs()


def swallowed(x: Tensor) -> Tensor:
    try:
        if x.sum() > 0:
            return x.abs()
    except Exception:
        return x.abs()
    return -x.abs()


def swallowed_number(x: Tensor) -> Tensor:
    try:
        return x.abs() if x.sum().item() > 0 else -x.abs()
    except Exception:
        return x.abs()


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def forward(self, x: Tensor) -> Tensor:
        self.n += 1
        return x.abs() * (2.5 - self.n)


class Grower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(1)
        return x.abs() * (2.5 - len(self.seen))


def mostly_zero(x: Tensor) -> Tensor:
    y = x.amin(1, keepdim=True).relu()
    return y if torch.compiler.is_exporting() else -y


class Hooked(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 3), nn.ReLU())
        self[1].register_forward_hook(lambda module, inputs, out: out if torch.compiler.is_exporting() else -out)


def either(choice: Callable[[Tensor], bool]) -> Callable[[], nn.Module]:
    return lambda: Function(lambda x: x.abs() if choice(x) else -x.abs())


class Region(nn.Module):
    """A part of its forward has a graph of its own, which may hold nothing; what follows it is another function."""

    def __init__(self, region: Callable[[Tensor], Tensor], choice: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.region, self.choice = region, choice
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.region(self.weight) * x.abs()
        return y if self.choice(x) else -y


def without_gradients(w: Tensor) -> Tensor:
    with torch.no_grad():
        return w.abs()


def of_nothing(w: Tensor) -> Tensor:
    with torch.no_grad():
        len(w)
    return w


def in_a_type(w: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return w.abs()


def in_a_choice(w: Tensor) -> Tensor:
    return torch.cond(w.sum() > 0, lambda v: v.abs(), lambda v: -v, (w,))


def in_rows(w: Tensor) -> Tensor:
    return torch.func.vmap(lambda v: v.abs())(w)


REGIONS = (without_gradients, of_nothing, in_a_type, in_a_choice, in_rows)

UNFAITHFUL: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "a guard that is caught": (lambda: Function(swallowed), "catches an error", TRACED),
    "a number that is caught": (lambda: Function(swallowed_number), "catches an error|when it is traced", TRACED),
    "compiling": (lambda: Function(helper), "when it is traced", TRACED),
    "exporting": (either(lambda x: torch.compiler.is_exporting()), "when it is traced", TRACED),
    "a hook": (Hooked, "when it is traced", TRACED),
    "fake": (either(lambda x: isinstance(x, FakeTensor)), "when it is traced", TRACED),
    "gradients": (either(lambda x: torch.is_grad_enabled()), "when it is traced|gradients", GRADIENTS),
    "a leaf": (either(lambda x: not x.requires_grad), "gradients", GRADIENTS),
    "type": (either(lambda x: x.dtype == torch.float32), "in float64", TYPES),
    "two rows": (either(lambda x: x.shape[0] == 2), "in a batch of 1", BATCHES),
    "at most two rows": (either(lambda x: len(x) < 3), "in a batch of 3", BATCHES),
    "a size as a number": (lambda: Function(lambda x: x.abs() * (2.5 - x.shape[0])), "in a batch of 1", SIZES),
    "a size as a truth value": (either(lambda x: not x.shape[0] % 2), "in a batch of 1", SIZES),
    "gradients of several rows": (
        either(lambda x: not (not torch.is_grad_enabled()) * (len(x) - 1)),
        "when it is traced",
        GRADIENTS,
    ),
    "zero for most rows": (lambda: Function(mostly_zero), "when it is traced", TRACED),
    "a counter": (Counter, "called again", AGAIN),
    "a list": (Grower, "called again", AGAIN),
}


@pytest.mark.parametrize("region", REGIONS)
def test_what_has_a_region_is_compared_as_well(region: Callable[[Tensor], Tensor]) -> None:
    weight, rows = torch.ones(3), torch.zeros(2, 3)
    assert region(weight).abs().sum() == 3
    with pytest.raises(cx.NotTraceable, match="in a batch of 3"):
        cx.certify(Region(region, lambda x: len(x) < 3), rows)
    with pytest.raises(cx.NotTraceable, match="when it is traced"):
        cx.certify(Region(region, lambda x: torch.compiler.is_exporting()), rows)
    assert cx.certify(Region(region, lambda x: True), rows).convex


@pytest.mark.parametrize("name", UNFAITHFUL)
@pytest.mark.parametrize("cheap", [faithful.CHEAP, 0.0], ids=["cheap", "dear"])
def test_a_program_that_is_another_function_is_refused(
    name: str, cheap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, words, reason = UNFAITHFUL[name]
    model = make()
    before = {key: list(value) if isinstance(value, list) else value for key, value in vars(model).items()}
    monkeypatch.setattr(faithful, "CHEAP", cheap)
    assert reason in find_suspicions(model)
    with pytest.raises(cx.NotTraceable, match=words):
        cx.certify(model, ROWS)
    assert {key: before[key] for key in ("n", "seen") if key in before} == {
        key: vars(model)[key] for key in ("n", "seen") if key in before
    }


COUNTS: dict[str, Callable[[Tensor], float]] = {
    "a loop": lambda x: sum(1 for _ in x),
    "unpacked": lambda x: sum([1, *(1 for _ in (lambda *rows: rows)(*x))]),
    "parts": lambda x: sum(1 for _ in x.split(1)),
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_forward_that_counts_its_rows_is_refused_where_forwards_take_long(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faithful, "CHEAP", 0.0)
    count = COUNTS[name]
    model = Function(lambda x: x.abs() * (4.0 - count(x)))
    assert SIZES not in find_suspicions(model)
    with pytest.raises(cx.NotTraceable, match="in a batch of 1"):
        cx.certify(model, ROWS)


class Cached(nn.Module):
    """Everything that gives reason to compare, and makes no difference."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.kept = 0, dict[str, Tensor]()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if "w" not in self.kept:
            self.kept["w"] = torch.ones(3)
        try:
            y = x.view(-1, 3)
        except RuntimeError:
            y = x.reshape(-1, 3)
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or len(x) == 2:
            return self.inner(y).relu()
        assert x.dtype in (torch.float32, torch.float64)
        return torch.maximum(self.inner(y), torch.zeros_like(y))


FAITHFUL: dict[str, Callable[[], nn.Module]] = {
    "equal branches": Cached,
    "terms that cancel": lambda: Function(lambda x: (1e6 * x - 1e6 * x) + 0.0 * x.abs()),
    "memory that is written to": lambda: Function(lambda x: torch.empty_like(x).copy_(x).abs()),
    "one size only": lambda: Function(lambda x: x.reshape(2, 3).abs()),
    "rows that are mixed in what is left out": lambda: Function(lambda x: x.abs()),
    "squeezed": lambda: Function(lambda x: x.abs().sum(1, keepdim=True).squeeze()),
    "a largest number": lambda: Function(lambda x: x.masked_fill(MASK, torch.finfo(x.dtype).min)),
    "overflow": lambda: Function(lambda x: (x * 100).exp()),
    "half": lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU()).half(),
}


@pytest.mark.parametrize("name", FAITHFUL)
@pytest.mark.parametrize("cheap", [faithful.CHEAP, 0.0], ids=["cheap", "dear"])
def test_a_program_that_is_the_module_is_not_refused(name: str, cheap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faithful, "CHEAP", cheap)
    rows = ROWS.half() if name == "half" else ROWS
    assert cx.certify(FAITHFUL[name](), rows).convex


def test_chance_and_mixed_rows_are_findings_and_no_refusals() -> None:
    for function in (
        lambda x: x.abs() + torch.rand_like(x),
        lambda x: x - x.mean(0),
        lambda x: x.relu() * torch.empty(3),
    ):
        assert cx.certify(Function(function), torch.randn(2, 3)).findings


DRAWN: dict[str, Callable[[Tensor], Tensor]] = {
    "times zero": lambda x: x.abs() + 0.0 * torch.rand_like(x),
    "times zero, and nothing else": lambda x: torch.rand_like(x) * 0,
    "in place, times zero": lambda x: x.abs() + 0 * torch.zeros_like(x).uniform_(),
    "concave": lambda x: -x.abs() + 0.0 * torch.randn(3),
    "in a region": lambda x: x.abs() + 0.0 * torch.no_grad()(lambda: torch.randn(3))(),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_draw_that_an_output_is_computed_from_is_a_finding(name: str) -> None:
    certificate = cx.certify(Function(DRAWN[name]), torch.ones(2, 3))
    assert certificate.curvature == "unknown"
    assert [f.reason for f in certificate.findings if "random" in f.reason] == ["it draws random numbers"]


def test_a_draw_that_nothing_is_computed_from_changes_nothing() -> None:
    def idle(x: Tensor) -> Tensor:
        torch.rand(3)
        return x.abs() + torch.zeros_like(torch.rand_like(x))

    def asking(x: Tensor) -> Tensor:
        return idle(x) if torch.compiler.is_exporting() else -idle(x)

    before = torch.get_rng_state()
    assert cx.certify(Function(idle), torch.ones(2, 3)).convex
    with pytest.raises(cx.NotTraceable, match="when it is traced"):
        cx.certify(Function(asking), torch.ones(2, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_the_code_of_a_forward_does_is_seen() -> None:
    class Stack(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            parts = [x]
            parts.append(x.relu())
            with torch.no_grad():
                parts.append(x)
            return torch.cat(parts, 1)

    assert find_suspicions(Stack()) == frozenset()
    assert find_suspicions(nn.Sequential(nn.Linear(2, 2), nn.TransformerEncoderLayer(4, 2))) == frozenset()
    compiling = torch.compiler.is_compiling
    assert TRACED in find_suspicions(Function(lambda x: x if compiling() else -x))


# --- numbers that are none -------------------------------------------------------------------------------------------

NO_NUMBERS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "clamp at NaN": (lambda x: x.clamp(min=NAN), "clamp"),
    "clamp at infinity": (lambda x: x.clamp(min=INF), "clamp"),
    "infinity times": (lambda x: x.relu() * INF, "mul"),
    "entries times": (lambda x: x.relu() * torch.tensor([INF, 1.0, 1.0]), "mul"),
    "by entries": (lambda x: x.relu() / torch.tensor([0.0, 1.0, 2.0]), "div"),
    "by zero": (lambda x: x.relu() / 0, "div"),
    "a reciprocal": (lambda x: x.relu() * torch.tensor([0.0, 1.0, 1.0]).reciprocal(), "mul"),
    "a slope": (lambda x: F.leaky_relu(x, -INF), "leaky_relu"),
    "a root": (lambda x: torch.maximum(x, torch.tensor([-1.0, 1.0, 1.0]).sqrt()), "maximum"),
    "a logarithm": (lambda x: x.relu() + torch.log(torch.tensor(-1.0)), "add"),
    "a term": (lambda x: x + NAN, "add"),
    "a weight": (lambda x: F.linear(x.relu(), torch.tensor([[INF, 1.0, 1.0]])), "linear"),
    "a choice": (lambda x: torch.where(MASK, x, torch.tensor(NAN)), "where"),
    "a filling": (lambda x: x.masked_fill(MASK, NAN), "masked_fill"),
    "a border": (lambda x: F.pad(x, (1, 0), value=NAN), "pad"),
    "a part": (lambda x: torch.cat([x, torch.full_like(x, NAN)], 1), "cat"),
    "a power": (lambda x: x.relu() ** INF, "pow"),
    "a setting": (lambda x: F.softplus(x, beta=NAN), "softplus"),
    "a factor of a term": (lambda x: torch.add(x, torch.ones(3), alpha=INF), "add"),
    "zero by zero": (lambda x: x * (torch.zeros(3) / torch.zeros(3)), "mul"),
    "infinity minus infinity": (lambda x: (x + INF) - INF, "sub"),
    "a filling times zero": (lambda x: x.masked_fill(MASK, -INF) * 0.0, "mul"),
    "a filling minus another": (lambda x: x.masked_fill(MASK, -INF) - torch.tensor([-INF, 0.0, 0.0]), "sub"),
    "a sum of both": (lambda x: torch.cat([x.masked_fill(MASK, -INF), torch.full_like(x, INF)], 1).sum(1), "sum"),
}


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_what_is_no_number_is_a_finding(name: str) -> None:
    function, operator = NO_NUMBERS[name]
    certificate = cx.certify(Function(function), ROWS)
    assert not certificate.convex
    assert any(f.operator == f"aten.{operator}" and "modules.py" in f.source for f in certificate.findings)


INFINITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "a mask before a maximum": lambda x: x.masked_fill(MASK, -INF).amax(1),
    "a mask before a log-sum-exp": lambda x: x.masked_fill(MASK, -INF).logsumexp(1),
    "a scaled one": lambda x: (x.masked_fill(MASK, -INF) * 0.5).logsumexp(1),
    "a term before a maximum": lambda x: (x + torch.tensor([0.0, -INF, 0.0])).amax(1),
    "the term twice": lambda x: (x + torch.tensor([0.0, -INF, 0.0]) + torch.tensor([0.0, -INF, 0.0])).amax(1),
    "no upper bound": lambda x: x.clamp(max=INF),
    "no upper bound of two": lambda x: F.hardtanh(x, 0.0, INF),
    "an order": lambda x: torch.linalg.vector_norm(x, INF, 1),
    "a start": lambda x: torch.maximum(torch.full_like(x, -INF), x),
    "a border of a maximum": lambda x: F.max_pool1d(F.pad(x[:, None], (1, 1), value=-INF), 3)[:, 0],
    "a choice that leaves it out": lambda x: torch.where(MASK, x, torch.tensor([-1.0, 1.0, -1.0]).sqrt().nan_to_num()),
    "a guard": lambda x: torch.where(MASK, x / torch.tensor([1.0, 0.0, 1.0]), x),
    "a guard of a constant": lambda x: torch.where(MASK, torch.tensor([4.0, -1.0, 4.0]).sqrt() * x, x),
    "an index that leaves it out": lambda x: (x * torch.tensor([1.0, 1.0, -1.0]).sqrt())[:, :2],
}


@pytest.mark.parametrize("name", INFINITIES)
def test_an_infinity_that_does_no_harm_is_none(name: str) -> None:
    assert cx.certify(Function(INFINITIES[name]), ROWS).require().convex


# --- casts -----------------------------------------------------------------------------------------------------------


def test_a_cast_of_what_varies_is_a_note_and_no_finding() -> None:
    certificate = cx.certify(Function(lambda x: x.relu().half().float()), ROWS).require()
    (note,) = certificate.notes
    assert "float16" in note
    assert "modules.py" in note
    assert "note: " in str(certificate)
    assert '"notes": ["' in certificate.to_json()
    for function in (lambda x: x.relu().double(), lambda x: x.relu() * torch.ones(3).half().float()):
        assert not cx.certify(Function(function), ROWS).require().notes


@pytest.mark.parametrize("function", [
    lambda y: (y.square().sum(1) + 1.001).bfloat16().float(),
    lambda y: (y.square().sum(1) * 1e-4 + 2049.0).half().float(),
])  # fmt: skip
def test_a_bound_is_below_the_minimum_of_a_forward_that_casts(function: Callable[[Tensor], Tensor]) -> None:
    solution = cx.minimise(Function(function), cx.Box(-1.0, 1.0, shape=(2,)))
    least = float(function(torch.zeros(1, 2, dtype=torch.float64)))
    assert float(solution.lower_bound) <= min(least, float(solution.value))
