"""What `minimise` promises, for energies of every operator of the table, and minimal inputs with known minima."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.curvature.rules.pointwise import Pointwise
from convexnet.curvature.rules.reductions import Window
from convexnet.curvature.rules.shapes import Moving as MovingRule
from convexnet.curvature.table import row_of
from convexnet.form.execution import way_of
from convexnet.form.operators import LOWERED
from tests.curvature.oracles import SAMPLES, Fixed, Moving, Sample
from tests.drawing import some
from tests.solve.energies import NAMES, checked, drawn, exchanged, finite, specs
from tests.solve.known_energies import WITHOUT, energy_of, search
from tests.solve.odd_arguments import drawn_oddly

slow = pytest.mark.slow

PARTS = 6
"""Tests that the operators are shared out to."""

ALIKE = [name for name in NAMES if isinstance(row_of(name).rule, (MovingRule, Window))]
"""Operators that move elements, or look at windows of them: by their kind the solvers do the same with all of them, and
that each is of its kind is tested with the table. Every third is met here, all of them in `make fuzz`."""

MET = [name for name in NAMES if name not in ALIKE[1::3] + ALIKE[2::3]]

NEITHER = ("ceil", "cos", "erf", "floor", "gelu", "round", "sign", "sin")
"""Operators of which every energy below is refused, after six traces; that they are refused is tested with one."""


NUMBERED = [(number, name) for number, name in enumerate(MET) if name not in NEITHER]
OFTEN = [(number, name) for number, name in NUMBERED if name in LOWERED or number % 6 == 0]
"""Operators with a way of their own through the solvers, all of them; of those that are affine by their rule, or taken
as a whole by their values and tangents, which a solver treats alike, every sixth. The others are met in `make slow`."""

SHARES = [
    *(pytest.param(OFTEN[part::PARTS], id=f"{part}") for part in range(PARTS)),
    *(
        pytest.param([each for each in NUMBERED if each not in OFTEN][part::PARTS], id=f"{part}, alike", marks=slow)
        for part in range(PARTS)
    ),
]


@pytest.mark.parametrize("share", SHARES)
def test_every_operator_keeps_every_promise(share: list[tuple[int, str]]) -> None:
    """An operator whose oracles make no energy (it is not convex, or has no batch) is not met; most are."""
    met = closed = 0
    for number, name in share:
        energy = energy_of(number, name)
        if energy is None:
            continue
        solution = checked(energy, apart=number % 3 == 0)
        met += solution is not None
        closed += solution is not None and not bool(solution.converged.all())
    assert met >= 10
    assert closed <= 2


@slow
def test_operators_without_an_energy_have_none() -> None:
    """Where one is found by now, it belongs among those that are met in every run."""
    assert not {name for number, name in OFTEN if name in WITHOUT and search(number, name) is not None}


def test_a_batch_next_to_the_tolerance_is_its_singles() -> None:
    """A gap that was just below the tolerance, and just above it where x was rounded to float32."""
    energy = drawn(70_000_916, "channel_shuffle")
    assert energy is not None
    solution = checked(energy)
    assert solution is not None
    assert solution.converged.all(), solution.message


class Function(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


@pytest.mark.parametrize("name", NEITHER)
def test_what_is_left_out_is_refused(name: str) -> None:
    operator = getattr(torch.ops.aten, name)
    assert cx.certify(Function(lambda y: operator(y).sum(1)), torch.zeros(1, 2)).curvature == "unknown"


@pytest.mark.parametrize("name", [n for n in NAMES if isinstance(row_of(n).rule, Pointwise) and n not in NEITHER])
def test_a_tangent_has_the_slope_of_the_function(name: str) -> None:
    """Bounds rest on derivatives, which a library may compute in a lower precision than the function: compared with
    differences of fourth order, at points beside which there is no kink."""
    _, function, _ = way_of(getattr(torch.ops.aten, name).default)
    compared = 0
    for sample in SAMPLES[name]:
        moving = list(dict.fromkeys(spec for spec in specs(sample) if isinstance(spec, Moving)))
        if len(moving) != 1 or any(isinstance(spec, Fixed) for spec in specs(sample)):
            continue
        for low, high in moving[0].within:
            low, high = finite(low, high)
            x = (torch.linspace(low, high, 43, dtype=torch.float64)[1:-2] + (high - low) / 97).requires_grad_()

            def at(point: Tensor, sample: Sample = sample, spec: Moving = moving[0]) -> Tensor:
                args, kwargs = exchanged(
                    [list(sample.args), sample.kwargs], lambda part: point if part == spec else part
                )
                return function(*args, **kwargs)

            y = at(x)
            if not y.requires_grad:
                continue
            (slope,) = torch.autograd.grad(y, x, torch.ones_like(y))
            with torch.no_grad():
                quotients = [
                    (8 * (at(x + h) - at(x - h)) - at(x + 2 * h) + at(x - 2 * h)) / (12 * h) for h in (1e-3, 5e-4)
                ]
            smooth = (quotients[0] - quotients[1]).abs() <= 1e-9 * (1 + quotients[0].abs())
            compared += int(smooth.sum())
            wrong = (quotients[1] - slope).abs() > 1e-9 * (1 + slope.abs())
            assert not bool((smooth & wrong).any()), f"{name} at {x[smooth & wrong].tolist()[:3]}"
    assert compared, "no point was compared"


def box(lo: float, hi: float, n: int) -> cx.Box:
    return cx.Box(torch.full((n,), lo).double(), torch.full((n,), hi).double())


F = nn.functional
LINE = torch.zeros(1, 1, dtype=torch.float64)
MINIMA: dict[str, tuple[Callable[[Tensor], Tensor], cx.Box, float, list[float] | None]] = {
    "a ReLU by a mask": (
        lambda y: ((y - 0.3) * (y > 0.3) - 0.25 * y).sum(1), box(-1, 1, 2), -0.15, [0.3, 0.3],
    ),
    "a mask of constants": (
        lambda y: (y.abs() * torch.tensor([True, False]) + (y - 0.1) ** 2).sum(1), box(-1, 1, 2), 0.01, [0.0, 0.1],
    ),
    "a norm off its centre": (lambda y: torch.linalg.vector_norm(y + 100, dim=1), box(-1e3, 1e3, 2), 0.0, [-100.0] * 2),
    "an exponential": (lambda y: (y.exp() - 50 * y).sum(1), box(0, 100, 1), 50 - 50 * 3.912023005428146, [3.912023]),
    "a wide box": (lambda y: (y - 0.3).abs().sum(1), box(0, 1e6, 2), 0.0, [0.3, 0.3]),
    "threshold": (lambda y: F.threshold(y, 0.5, 0.5).sum(1) - 0.2 * y.sum(1), box(-9, 9, 2), 0.8, [0.5, 0.5]),
    "minus the smallest": (lambda y: (y - 3).abs().sum(1) - 2 * y.amin(1), box(-9, 9, 1), -12.0, [9.0]),
    "minus clamp": (lambda y: -y.clamp(max=2.0).sum(1) + 0.1 * y.sum(1), box(-50, 50, 1), -1.8, [2.0]),
    "minus log softmax": (
        lambda y: -F.log_softmax(y + torch.tensor([30.0, -30.0, 0.0]).to(y), 1)[:, 1] + 0.5 * y[:, 1],
        box(-1, 1, 3), float(torch.tensor([29.0, -29.0, -1.0]).double().logsumexp(0)) + 29.5, None,
    ),
    "minus log sigmoid": (lambda y: -F.logsigmoid(y - 30).sum(1) + y.sum(1), box(-50, 50, 1), 30.0, None),
    "adaptive pooling": (
        lambda y: F.adaptive_max_pool1d(y[:, None] - 7, 2).flatten(1).sum(1) + 2 * y.abs().sum(1), box(-9, 9, 5), -14.0,
        [0.0] * 5,
    ),
    "an elu that is a line": (
        lambda y: F.elu(y.square() + 0.5, alpha=3.0).sum(1) - 0.5 * y.sum(1), box(-2, 2, 2), 0.875, [0.25, 0.25],
    ),
    "a clamp that never cuts": (lambda y: (y.clamp(max=7).square() - y).sum(1), box(-2, 2, 2), -0.5, [0.5, 0.5]),
    "minus a logarithm": (lambda y: (y - y.log()).sum(1), box(0.1, 5, 2), 2.0, [1.0, 1.0]),
    "reciprocals": (lambda y: (1 / y + 4 * y).sum(1), box(0.1, 5, 2), 8.0, [0.5, 0.5]),
    "minus a root": (lambda y: (3 * y - y.sqrt()).sum(1), box(0, 5, 2), -1 / 6, [1 / 36, 1 / 36]),
    "a power of what is not negative": (
        lambda y: (y.relu() ** 3 - 3 * y).sum(1), box(-2, 2, 2), -4.0, [1.0, 1.0],
    ),
    "a norm of concave functions": (
        lambda y: (-(y - 0.2).relu()).norm(dim=1) - 0.5 * y.sum(1), box(-1, 1, 1), -0.1, [0.2],
    ),
    "a root of squares": (lambda y: (y - 0.3).square().sum(1).sqrt(), box(-1, 1, 2), 0.0, [0.3, 0.3]),
    "a constant": (lambda y: 3 + 0 * y.sum(1), box(-9, 9, 2), 3.0, None),
    "far off": (lambda y: 1e8 + (y - 0.3).abs().sum(1), box(-1, 1, 2), 1e8, [0.3, 0.3]),
}  # fmt: skip


@pytest.mark.parametrize("name", MINIMA)
def test_minima_that_are_known(name: str) -> None:
    function, domain, least, best = MINIMA[name]
    start = domain.lo.clone()  # in float64, and so is x
    solution = cx.minimise(Function(function).double(), domain.fix(start[None], [[False] * len(start)]), given=None)
    assert solution.status == ("converged",), solution.message
    rounding = 1e-12 * (1 + abs(least))
    assert float(solution.lower_bound) <= least + rounding
    assert abs(float(solution.value) - least) <= 3e-4 * max(1.0, float((solution.x**2).sum()) ** 0.5)
    assert torch.equal(solution.value, solution.upper_bound)
    if best is not None:
        assert solution.x[0].tolist() == pytest.approx(best, abs=1e-3)


def test_a_bundle_without_a_model_leaves_a_bound() -> None:
    free = cx.Box(torch.zeros(2).double(), torch.full((2,), torch.inf).double())
    solution = cx.minimise(Function(lambda y: -torch.special.entr(y).sum(1)), free)
    least = -2 * math.exp(-1)
    assert float(solution.lower_bound) <= least <= float(solution.value)
    assert bool(solution.gap.isfinite().all())


def test_a_sample_has_its_own_gates_however_small_it_is() -> None:
    x = torch.tensor([[-3.0], [0.0]], dtype=torch.float64)
    f = Function(lambda x, y: 1e-10 * (x.exp() * (y - 0.3).abs() - y).sum(1))
    solution = cx.minimise(f, box(-1, 1, 1), given=x)
    assert solution.converged.tolist() == [True, True]
    exact = torch.tensor([1e-10 * (torch.e**-3 * 0.7 - 1), -0.3e-10], dtype=torch.float64)
    assert bool((solution.lower_bound <= exact + 1e-24).all())
    assert torch.allclose(solution.value, exact, rtol=1e-5, atol=0.0)


@pytest.fixture(scope="module")
def gated() -> tuple[nn.Module, Tensor, cx.Solution]:
    """A network, what is given to it, and its minima: once for all units."""
    torch.manual_seed(0)
    net = cx.nn.PICNN(2, 3, hidden=(6, 6), activation="relu").double()
    x = torch.randn(3, 2, dtype=torch.float64)
    return net, x, cx.minimise(net, box(-1, 1, 3), given=x)


@pytest.mark.parametrize(
    ("offset", "scale"),
    [
        case
        for offset in (0.0, 1e3, -1e3, 1e8)
        for case in some(product([offset], [1e-10, 1e10]), 1, f"offset {offset:g}")
    ],
)
def test_units_and_offsets_change_nothing(
    scale: float, offset: float, gated: tuple[nn.Module, Tensor, cx.Solution]
) -> None:
    net, x, plain = gated
    scaled = cx.minimise(Function(lambda x, y: scale * net(x, y) + scale * offset).double(), box(-1, 1, 3), given=x)
    assert scaled.converged.tolist() == plain.converged.tolist() == [True] * 3
    assert torch.allclose(scaled.value / scale - offset, plain.value, atol=1e-5 + 1e-15 * offset)
    assert bool((scaled.gap / scale <= plain.gap + 1e-5 + 1e-13 * abs(offset)).all())


def test_a_bad_sample_spoils_no_other() -> None:
    x = torch.tensor([[0.0], [2e4], [1.0]], dtype=torch.float64)
    f = Function(lambda x, y: (x * (y - 2)).square().exp().sum(1) + (y - 0.5).abs().sum(1))
    solution = cx.minimise(f, box(-1, 1, 2), given=x)
    assert solution.converged.tolist()[::2] == [True, True]
    assert float(solution.value[0]) == pytest.approx(2.0, abs=1e-5)


def test_what_falls_without_end_says_so() -> None:
    line = cx.Box([-torch.inf], [torch.inf])
    solution = cx.minimise(nn.Linear(1, 1), line, max_steps=5)
    assert solution.status == ("unbounded",)
    assert float(solution.lower_bound) == -torch.inf
    assert cx.minimise(Function(lambda y: y.exp().sum(1)), line, max_steps=5).status == ("stopped",)


def test_the_message_names_what_cannot_be_opened() -> None:
    solution = cx.minimise(Function(lambda y: torch.linalg.vector_norm(y - 0.2, 3, dim=1)), box(-1, 1, 2))
    assert "linalg_vector_norm" in solution.message
    assert "test_conformance.py" in solution.message
    with pytest.raises(ValueError, match="linalg_vector_norm"):
        cx.minimise(Function(lambda y: torch.linalg.vector_norm(y - 0.2, 3, dim=1)), box(-1, 1, 2), solver="newton")


class Straight(torch.autograd.Function):
    """The absolute value, with a gradient of its own."""

    @staticmethod
    def forward(ctx: object, a: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return a.abs()

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0]


@pytest.mark.parametrize(
    "function",
    [
        lambda y: torch.linalg.vector_norm(y.detach() - 0.2, dim=1) - 0.1 * y.sum(1),
        lambda y: (y.detach() - 0.2).abs().sum(1) - 0.1 * y.sum(1),
        lambda y: Straight.apply(y - 0.2).sum(1) + torch.linalg.vector_norm(y, dim=1),  # pyright: ignore
    ],
)
def test_gradients_that_a_module_cuts_off_or_invents_make_no_bound(function: Callable[[Tensor], Tensor]) -> None:
    solution = cx.minimise(Function(function), box(-1, 1, 2))
    grid = torch.cartesian_prod(*2 * [torch.linspace(-1, 1, 101, dtype=torch.float64)])
    assert float(solution.lower_bound) <= float(function(grid).min()) + 1e-12


def test_steps_are_told_and_may_end_it(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    net = cx.nn.FICNN(3, hidden=(8, 8), activation="relu")
    seen: list[int] = []
    cx.minimise(net, box(-1, 1, 3), callback=lambda progress: seen.append(progress.step), verbose=True)
    assert seen == list(range(1, len(seen) + 1))
    assert len(capsys.readouterr().out.splitlines()) == len(seen) > 2
    stopped = cx.minimise(net, box(-1, 1, 3), callback=lambda progress: progress.step == 2)
    assert int(stopped.steps) == 2
    loose = cx.minimise(net, box(-1, 1, 3), atol=1e9)
    assert int(loose.steps) < len(seen)
    assert bool(loose.converged)


def test_layers_with_unusual_settings_and_other_inputs_of_every_type() -> None:
    energies = [energy for seed in range(12) if (energy := drawn_oddly(seed)) is not None]
    for energy in energies:
        checked(energy, apart=False)
    assert len(energies) >= 6
