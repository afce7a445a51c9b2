"""The kink form is the network; what lies below it lies below it; and path following finds the LP's optimum."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

import convexnet as cx
from convexnet.curvature.tracing.trace import trace
from convexnet.form.epigraph import EpigraphForm
from convexnet.form.linear_maps import Map
from convexnet.form.matrices import epigraph_form
from convexnet.solve.functions.problem import Problem
from convexnet.solve.solvers.highs import solve_lp
from convexnet.solve.solvers.incumbents import Incumbents, initial_incumbents
from convexnet.solve.solvers.loop import Budget, run_loop
from convexnet.solve.solvers.newton import Newton
from tests.drawing import some
from tests.solve.networks import NETWORKS, shared

BATCH = 5


def newton(form: EpigraphForm, lo: Tensor, hi: Tensor, tol: float, rough: bool = True) -> Incumbents:
    """What path following alone finds on a box."""
    problem = Problem(form, lo.expand(form.batch, form.size), hi.expand(form.batch, form.size))
    found = initial_incumbents(problem)
    run_loop(Newton(rough), problem, found, Budget(tol))
    return found


def ones(n: int) -> Tensor:
    return torch.ones(n, dtype=torch.float64)


@functools.cache
def form_of(name: str, seed: int) -> tuple[nn.Module, tuple[Tensor, ...], EpigraphForm]:
    model, shapes = shared(name, seed)
    generator = torch.Generator().manual_seed(seed)
    inputs = tuple(torch.randn(BATCH, *shape, generator=generator, dtype=torch.float64) for shape in shapes)
    program = trace(model, inputs, any_batch=True)
    return model, inputs, epigraph_form(program, len(shapes) - 1, inputs)


def at(model: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(*inputs[:-1], y.reshape(inputs[-1].shape)).reshape(-1)


@pytest.mark.parametrize("name", some(NETWORKS, 5, "newton"))
def test_the_form_computes_the_network(name: str, common_seed: int) -> None:
    model, inputs, form = form_of(name, common_seed)
    for scale in (0.1, 1.0, 30.0):
        y = scale * torch.randn(BATCH, form.size, dtype=torch.float64)
        expected = at(model, inputs, y)
        assert torch.allclose(form.value(y), expected, rtol=1e-11, atol=1e-11)
    units = [
        0.1 + torch.rand(len(c[0]) // b.group, dtype=torch.float64)
        for c, b in zip(form.constants, form.atoms, strict=True)
    ]
    units = [unit.repeat_interleave(atom.group) for unit, atom in zip(units, form.atoms, strict=True)]
    lo, hi = -torch.rand(form.size).double(), torch.rand(form.size).double()
    y = torch.rand(BATCH, form.size, dtype=torch.float64) * 2 - 1
    other = form.in_units(units).change_variable((lo + hi) / 2, (hi - lo) / 2).value(y)
    assert torch.allclose(other, form.value((lo + hi) / 2 + (hi - lo) / 2 * y), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_choice_of_gates_gives_a_function_below(name: str, common_seed: int) -> None:
    model, inputs, form = form_of(name, common_seed)
    for trial in range(20):
        slopes = [torch.rand_like(c) * 3 - 1 for c in form.constants]  # clipped where they are none
        g, b = form.minorant(slopes, list(form.constants))
        y = (1 + trial) * torch.randn(BATCH, form.size, dtype=torch.float64)
        above = at(model, inputs, y) - ((g * y).sum(1) + b)
        assert float(above.min()) >= -1e-10 * (1 + float(b.abs().max()))


def test_a_multiplier_that_no_gate_gives_is_caught(common_seed: int) -> None:
    """The negative control: without clipping, the affine function cuts through f."""
    model, inputs, form = form_of("depth 2", common_seed)
    wrong = {k: form.arriving(k, {}) + 5.0 for k in range(len(form.constants))}
    g, b = form.affine(wrong, form.constant)
    y = 5 * torch.randn(BATCH, form.size, dtype=torch.float64)
    assert float((at(model, inputs, y) - ((g * y).sum(1) + b)).min()) < 0
    _, (g, b) = form.fit(wrong, list(form.constants))
    assert float((at(model, inputs, y) - ((g * y).sum(1) + b)).min()) >= -1e-10


@pytest.mark.parametrize("name", some(NETWORKS, 5, "newton"))
def test_the_minimum_is_that_of_the_linear_program(name: str, seed: int, common_seed: int) -> None:
    pytest.importorskip("highspy")
    model, inputs, form = form_of(name, common_seed)
    generator = torch.Generator().manual_seed(seed)
    lo = -2 * torch.rand(form.size, generator=generator, dtype=torch.float64)
    hi = torch.rand(form.size, generator=generator, dtype=torch.float64)
    for rough in (True, False):
        found = newton(form, lo, hi, 1e-7, rough)
        assert torch.allclose(at(model, inputs, found.y), found.value, rtol=1e-10, atol=1e-10)
        size = found.allowed(1.0)
        for sample in range(BATCH):
            _, optimum = solve_lp(form, sample, lo, hi)
            room = 1e-7 * float(size[sample])  # of the LP's own tolerances
            assert float(found.value[sample]) >= optimum - room
            assert float(found.bound[sample]) <= optimum + room
        # Overlapping windows share their largest entries: so degenerate that path following alone may stop short.
        assert float((found.gap / size).max()) <= (1e-4 if name == "pictures" else 1e-7)


def planes(slopes: list[list[float]], offsets: list[float]) -> nn.Module:
    """max_i (a_i y + b_i)."""

    class Planes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("a", torch.tensor(slopes, dtype=torch.float64))
            self.register_buffer("b", torch.tensor(offsets, dtype=torch.float64))

        def forward(self, y: Tensor) -> Tensor:
            return (y @ self.a.T + self.b).amax(1)

    return Planes()


KNOWN = {
    "a kink beside the centre": (planes([[5.0], [-5.0]], [-1.5, 1.5]), [0.3], 0.0),  # 5 |y - 0.3|
    "three planes": (planes([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], [0.0, 0.0, 0.0]), [0.0, 0.0], 0.0),
    "flat": (planes([[0.0], [1.0]], [2.0, -1.0]), None, 2.0),
    "a corner": (planes([[1.0, 2.0]], [0.5]), [-1.0, -1.0], -2.5),
    "duplicate planes": (planes([[1.0], [1.0], [-2.0], [-2.0]], [0.0, 0.0, 0.0, 0.0]), [0.0], 0.0),
    "large": (planes([[5e6], [-5e6]], [-1.5e6, 1.5e6]), [0.3], 0.0),
    "small": (planes([[5e-6], [-5e-6]], [-1.5e-6, 1.5e-6]), [0.3], 0.0),
    "constant": (planes([[0.0]], [3.0]), None, 3.0),
}


@pytest.mark.parametrize("name", KNOWN)
def test_degenerate_functions(name: str) -> None:
    model, best, least = KNOWN[name]
    n = model.a.shape[1]  # pyright: ignore
    y = torch.zeros(1, n, dtype=torch.float64)
    form = epigraph_form(trace(model, y, any_batch=True), 0, (y,))
    centre = float(form.value(y))
    found = newton(form, -ones(n), ones(n), 1e-8)
    size = max(abs(least), centre - least, 1e-12)
    assert float(found.value) == pytest.approx(least, abs=2e-8 * size)
    assert float(found.bound) <= least + 1e-12 * max(1.0, size)
    assert float(found.value - found.bound) <= 2e-8 * size + 1e-12
    if best is not None:
        assert found.y[0].tolist() == pytest.approx(best, abs=1e-6)


def test_a_batch_equals_its_singles(common_seed: int) -> None:
    _, _, form = form_of("gated", common_seed)
    one = ones(form.size)
    whole = newton(form, -one, one, 1e-6)
    for sample in range(BATCH):
        alone = newton(form.rows(torch.tensor([sample])), -one, one, 1e-6)
        size = max(abs(float(alone.value)), 1e-3)
        assert float(alone.value) == pytest.approx(float(whole.value[sample]), abs=2e-6 * size)


def test_maps_know_their_transposes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for scale in (None, torch.rand(4, 3, generator=generator).double()):
        for shape in ((5, 3), (4, 5, 3)):
            m = Map(torch.randn(shape, generator=generator).double(), scale)
            x, v = torch.randn(4, 3, generator=generator).double(), torch.randn(4, 5, generator=generator).double()
            assert torch.allclose((m(x) * v).sum(1), (x * m.transposed(v)).sum(1))
            assert torch.allclose(m.on_columns(x[:, :, None])[..., 0], m(x))
            assert torch.allclose(m.of(2) @ x[2], m(x)[2])


class Tilted(nn.Module):
    """An energy plus a linear term for each sample."""

    def __init__(self, energy: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, slope: Tensor, y: Tensor) -> Tensor:
        return self.energy(y) + (slope * y).sum(1)


def divergence(y: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of the first half from the second: defined for positive numbers only."""
    p, q = y[:, :3], y[:, 3:]
    return (p * (p / q).log() - p + q).sum(1)


@pytest.mark.parametrize("tol", [1e-3, 1e-5])
@pytest.mark.parametrize("name", ["divergence", "curve of kinks"])
def test_a_bound_that_ends_the_search_is_one_that_is_proved(name: str, tol: float) -> None:
    """Tangents beyond the box, or at arguments that a step only predicts, give bounds that no proof has."""
    torch.manual_seed(1)
    kinks = cx.nn.FICNN(6, (16, 16), activation="relu").double()
    energies = {"divergence": divergence, "curve of kinks": lambda y: softplus(5 * kinks(y)).flatten()}
    energy, box = energies[name], cx.Box(0.11, 2.0, shape=6)
    at = (0.11 + 1.89 * torch.rand(128, 6, dtype=torch.float64)).requires_grad_()
    (slope,) = torch.autograd.grad(energy(at).sum(), at)
    found = cx.minimise(Tilted(energy), box, given=-0.9 * slope, tol=tol)
    assert bool(found.converged.all()), found.message
