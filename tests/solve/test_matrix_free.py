"""Layers are the same functions as the matrices of a kink form, with the same minorants."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from convexnet.curvature.tracing.trace import trace
from convexnet.form.program import OpenedProgram
from convexnet.solve.functions.matrix_free import MatrixFree
from convexnet.solve.functions.smoothing import smooth_function
from tests.drawing import some
from tests.solve.networks import NETWORKS
from tests.solve.problems import BATCH, at, both, forms_of


class Curved(nn.Module):
    """Smooth atoms, a square of what is convex, a soft maximum, and kinks above them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(3, 4), nn.Linear(5, 1)

    def forward(self, y: Tensor) -> Tensor:
        z = F.softplus(self.a(y)).square()
        z = F.elu(self.b(z)).relu() + F.celu(self.c(y), 0.5).logsumexp(1, keepdim=True)
        return self.out(z)


def curved(seed: int) -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(seed)
    model = Curved().double().eval()
    inputs = [torch.randn(BATCH, 3, dtype=torch.float64)]
    cx.constrain(model, inputs[0], method="absolute")
    return model, inputs


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [*NETWORKS, "curved"])
def test_layers_are_the_epigraph_form(name: str, seed: int, common_seed: int) -> None:
    if name == "curved":
        model, inputs = curved(seed)
        form, layers = forms_of(model, inputs)
    else:
        form, layers, model, inputs = both(name, common_seed)
    for scale in (0.1, 1.0, 5.0):
        y = scale * torch.randn(BATCH, form.size, dtype=torch.float64)
        assert close(layers.value(y), at(model, inputs, y))
        for mine, other in zip(layers.subgradient(y), form.subgradient(y), strict=True):
            assert close(mine, other)
        arguments = layers.arguments(y)
        assert all(close(mine, other) for mine, other in zip(arguments, form.arguments(y), strict=True))
        slopes = [torch.rand_like(a) * 3 - 1 for a in arguments]  # clipped where they are none
        for mine, other in zip(layers.minorant(slopes, arguments), form.minorant(slopes, arguments), strict=True):
            assert close(mine, other)
        wanted = {k: torch.randn_like(a) for k, a in enumerate(arguments)}
        chosen, (g, b) = layers.fit(wanted, arguments)
        same, affine = form.fit(wanted, arguments)
        assert all(close(chosen[k], same[k]) for k in wanted)
        assert close(g, affine[0])
        assert close(b, affine[1])
        few = torch.tensor([2, 0])
        assert close(layers.rows(few).value(y[few]), layers.value(y)[few])


@pytest.mark.parametrize("name", ["pictures", "maxima", "gated", "leaky"])
def test_minorants_of_layers_lie_below(name: str, seed: int, common_seed: int) -> None:
    _, layers, model, inputs = both(name, common_seed)
    generator = torch.Generator().manual_seed(seed)
    for trial in range(20):
        y = torch.randn(BATCH, layers.size, generator=generator, dtype=torch.float64)
        arguments = layers.arguments(y)
        slopes = [torch.rand(a.shape, generator=generator, dtype=torch.float64) * 3 - 1 for a in arguments]
        sweep = smooth_function(
            layers, y, [torch.full((BATCH, 1), 0.1 * trial, dtype=torch.float64) + 1e-9] * len(slopes)
        )
        for g, b in (layers.minorant(slopes, arguments), (sweep.g, sweep.b)):
            far = (1 + trial) * torch.randn(BATCH, layers.size, generator=generator, dtype=torch.float64)
            above = at(model, inputs, far) - ((g * far).sum(1) + b)
            assert float(above.min()) >= -1e-10 * (1 + float(b.abs().max()))


@pytest.mark.parametrize("name", ["maxima", "gated"])
def test_the_smoothed_gradient_is_a_derivative(name: str, common_seed: int) -> None:
    form, layers, _, _ = both(name, common_seed)
    y = torch.randn(BATCH, layers.size, dtype=torch.float64)
    mu = [torch.full((BATCH, 1), 0.3, dtype=torch.float64)] * len(layers.atoms)
    sweep = smooth_function(layers, y, mu)
    exact = layers.value(y)
    assert bool((sweep.value >= exact - 1e-12 * (1 + exact.abs())).all())  # equal, but for rounding, away from kinks
    same = smooth_function(form, y, mu)
    assert close(sweep.value, same.value)
    assert close(sweep.g, same.g)
    assert close(sweep.b, same.b)
    for i in range(layers.size):
        step = torch.zeros_like(y)
        step[:, i] = 1e-5
        difference = (smooth_function(layers, y + step, mu).value - smooth_function(layers, y - step, mu).value) / 2e-5
        assert torch.allclose(difference, sweep.g[:, i], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["pictures", "maxima", "gated"])
def test_products_and_their_transposes(name: str, common_seed: int) -> None:
    """<a(x) - a(0), λ> + out(x) - out(0) = <x, slopes>."""
    _, layers, _, _ = both(name, common_seed)
    arguments = layers.arguments(torch.zeros(BATCH, layers.size, dtype=torch.float64))
    sizes = [a.shape[1] // atom.group for a, atom in zip(arguments, layers.atoms, strict=True)]
    x = [torch.randn(BATCH, n, dtype=torch.float64) for n in (layers.size, *sizes)]
    zero = [torch.zeros_like(part) for part in x]
    arrived, transposed = layers.products(x[0], x[1:])
    origin, _ = layers.products(zero[0], zero[1:])
    multipliers = [torch.randn_like(a) for a in arrived]
    nothing = transposed([torch.zeros_like(a) for a in arrived])
    slopes = transposed(multipliers)
    left = sum(((a - b) * m).sum(1) for a, b, m in zip(arrived, origin, multipliers, strict=True))
    right = sum((p * (s - s0)).sum(1) for p, s, s0 in zip(x, slopes, nothing, strict=True))
    assert isinstance(left, Tensor)
    assert isinstance(right, Tensor)
    assert torch.allclose(left, right, rtol=1e-10, atol=1e-10)


class Large(nn.Module):
    """Too large for matrices: 3 × 64 × 64 numbers, 8 × 64 × 64 units."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, stride=2), nn.Linear(4, 1)

    def forward(self, y: Tensor) -> Tensor:
        return self.out(F.max_pool2d(F.relu(self.b(F.relu(self.a(y)))), 2).flatten(2).mean(2))


def test_an_input_too_large_for_matrices(seed: int) -> None:
    torch.manual_seed(seed)
    model = Large().double().eval()
    inputs = [torch.randn(2, 3, 64, 64, dtype=torch.float64)]
    cx.constrain(model, inputs[0], method="absolute")
    layers = MatrixFree(OpenedProgram(trace(model, tuple(inputs), any_batch=True), 0), inputs)
    y, far = torch.randn(2, 2, layers.size, dtype=torch.float64)
    value, g = layers.subgradient(y)
    assert close(value, at(model, inputs, y))
    assert bool((at(model, inputs, far) >= value + (g * (far - y)).sum(1) - 1e-10).all())


def test_a_constant_function() -> None:
    class Constant(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            return 0 * y.relu().sum(1) + 3.0

    y = torch.randn(2, 3, dtype=torch.float64)
    layers = MatrixFree(OpenedProgram(trace(Constant(), (y,), any_batch=True), 0), (y,))
    assert layers.value(y).tolist() == [3.0, 3.0]
    assert layers.subgradient(y)[1].unique().tolist() == [0.0]


class Turned(nn.Module):
    """An operator on tensors whose samples are not in the first dimension; its minimum at c is known."""

    def __init__(self, turned: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.turned = turned

    def forward(self, c: Tensor, y: Tensor) -> Tensor:
        return self.turned(y - c) + 0.3 * y.sum(1)


TURNED: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "transposed": (lambda a: a.t().abs().t().sum(1), 1),
    "transposed squares": (lambda a: a.t().square().t().sum(1), 1),
    "transposed curves": (lambda a: (F.softplus(3 * a.t()) + F.softplus(-3 * a.t())).sum(0), 2),
    "a dimension before": (lambda a: a[None].abs().sum((0, 2)), 2),
    "stacked before": (lambda a: torch.stack([a, -2 * a]).relu().sum((0, 2)), 2),
    "time first": (lambda a: a.view(-1, 2, 2).transpose(0, 1).abs().sum((0, 2)), 4),
    "all in one": (lambda a: a.reshape(-1).abs().reshape(-1, 2).sum(1), 2),
    "twice as many": (lambda a: torch.cat([a, -2 * a]).abs()[: a.shape[0]].sum(1), 2),
    "windows": (lambda a: F.max_pool1d(torch.cat([a, -a], 1)[None], 2)[0].sum(1), 2),
}


@pytest.mark.parametrize("name", some(TURNED, 5, "turned"))
def test_samples_that_are_not_first_are_not_taken_for_others(name: str, common_seed: int) -> None:
    turned, size = TURNED[name]
    f, box = Turned(turned), cx.Box(-2, 2, shape=(size,))
    points = 4 * torch.rand(2_000, size, dtype=torch.float64) - 2
    for batch in (4, 1):
        c = torch.randn(batch, size).clamp(-1.5, 1.5).double()
        solution = cx.minimise(f, box, given=c)
        assert solution.converged.all()
        for row, x, bound in zip(c, solution.x, solution.lower_bound, strict=True):
            near = torch.cat([points, x + 1e-3 * points, x[None]]).clamp(-2, 2)
            assert f(row.expand_as(near), near).min() >= bound


def test_an_atom_over_the_first_dimension_is_opened() -> None:
    solution = cx.minimise(Turned(lambda a: a.t().logsumexp(0)), cx.Box(-2, 2, shape=(2,)), given=torch.zeros(3, 2))
    assert solution.solver == "newton"
