"""What derivatives of a minimum go to, of which values they are, by which solver: right, or an error in words."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.choices import SOLVERS
from tests.drawing import some
from tests.solve.test_derivatives import valley

NAMES = tuple(name for name in SOLVERS if name != "bundle-entropy")  # which is for a cube with entropy

BOX = cx.Box(-1, 1, shape=(2,))
STEP = 1e-6


def bowl(y: Tensor, *tensors: Tensor) -> Tensor:
    """Σ (y − Σ tensors)², whose minimiser within the box is the sum, for tensors (2,)."""
    return (y - sum(tensors)).square().sum(1)


class Holder(nn.Module):
    """Tensors of every kind that are no parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        leaves = [(0.1 * torch.randn(2, dtype=torch.float64)).requires_grad_() for _ in range(5)]
        self.leaves = leaves
        self.register_buffer("buffer", leaves[0])
        self.attribute = leaves[1]
        self.held = {"inner": [leaves[2]]}
        self.computed = 2 * leaves[3]
        self.closed = lambda: leaves[4]
        self.unread = nn.Parameter(torch.ones(1))

    def forward(self, y: Tensor) -> Tensor:
        return bowl(y, self.buffer, self.attribute, self.held["inner"][0], self.computed, self.closed())


def test_tensors_that_are_no_parameters() -> None:
    """The minimiser is their sum, one of them counting twice, and the minimum 0; an unread parameter gets a zero."""
    model = Holder()
    solution = cx.minimise(model, BOX, tol=1e-10)
    weight = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    found = torch.autograd.grad((solution.x * weight).sum(), [*model.leaves, model.unread], retain_graph=True)
    for i, grad in enumerate(found[:-1]):
        assert torch.allclose(grad, (2 if i == 3 else 1) * weight[0], atol=1e-6)
    assert found[-1].tolist() == [0.0]
    assert all(torch.allclose(g, 0 * g, atol=1e-5) for g in torch.autograd.grad(solution.value.sum(), model.leaves))


def test_functional_call_and_a_network_that_makes_weights() -> None:
    """The tensors that take the place of parameters get the gradients, also those that were computed."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.goal = nn.Parameter(torch.zeros(2, dtype=torch.float64))

        def forward(self, y: Tensor) -> Tensor:
            return bowl(y, self.goal)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self) -> Tensor:
            return cx.minimise(self.inner, BOX, tol=1e-10).x.sum()

    outer = Outer()
    root = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    for goal, slope in ((root, [1.0, 1.0]), (root**2, [0.6, -0.4])):
        out = torch.func.functional_call(outer, {"inner.goal": goal}, ())
        (grad,) = torch.autograd.grad(out, root)
        assert grad.tolist() == pytest.approx(slope, abs=1e-6)
    assert outer().item() == pytest.approx(0.0, abs=1e-8)  # its own goal again
    assert isinstance(outer.inner.goal, nn.Parameter)


def written(model: nn.Module) -> None:
    for tensor in model.parameters():
        tensor.data.mul_(3).add_(1)


def replaced(model: nn.Module) -> None:
    for tensor in model.parameters():
        tensor.data = torch.zeros_like(tensor)


def minimised_again(model: nn.Module) -> None:
    written(model)
    with torch.no_grad():
        cx.minimise(model, cx.Box(-3, 3, shape=(3,)), given=torch.ones(1, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("kind", "change", "derivative"),
    [
        *(("slopes", change, "exact") for change in (written, replaced, minimised_again)),
        *((kind, minimised_again, "exact") for kind in ("kinks", "softplus")),
        *(("slopes", minimised_again, derivative) for derivative in ("smoothed", "unrolled")),
    ],
)
def test_data_that_changed_since(kind: str, change: Callable[[nn.Module], None], derivative: str, seed: int) -> None:
    """Gradients are those of what was computed, whatever was written to weights, inputs and bounds since."""
    model, x = valley(kind, seed)
    hi = torch.full((3,), 3.0, dtype=torch.float64)
    leaves = [x.clone().requires_grad_(), hi.clone().requires_grad_()]

    def slopes(net: nn.Module, given: Tensor, hi: Tensor, between: Callable[[], object]) -> list[Tensor]:
        solution = cx.minimise(net, cx.Box(-3.0, hi), given=given, tol=1e-10, derivative=derivative)
        between()
        loss = solution.x.square().sum() + solution.value.sum()
        return list(torch.autograd.grad(loss, [given, hi, *net.parameters()]))

    def write() -> None:
        change(model)
        for leaf in leaves:
            leaf.data.add_(1.0)

    expected = slopes(model, *(leaf.detach().clone().requires_grad_() for leaf in leaves), lambda: None)
    found = slopes(model, *leaves, write)
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-8) for a, b in zip(found, expected, strict=True))
    assert any(bool(part.any()) for part in found)


def test_an_input_that_was_written_over() -> None:
    """It takes no part in autograd, so that torch does not watch it."""

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (y - self.weight * x).square().sum(1)

    model, x = Product(), torch.tensor([[0.3, 0.5]], dtype=torch.float64)
    solution = cx.minimise(model, BOX, given=x, tol=1e-10)
    x.fill_(7.0)
    (grad,) = torch.autograd.grad(solution.x.sum(), model.weight)
    assert grad.item() == pytest.approx(0.8, abs=1e-6)


def test_zeros_are_zeros() -> None:
    """At a vertex nothing moves x; the minimum does not see a part of the module."""
    net = nn.Linear(2, 1).double()
    solution = cx.minimise(net, BOX)
    assert [g.tolist() for g in torch.autograd.grad(solution.x.sum(), list(net.parameters()))] == [[[0.0, 0.0]], [0.0]]
    x = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)

    class Blind(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return y.abs().sum(1)

    for name in ("exact", "smoothed", "unrolled"):
        found = cx.minimise(Blind(), BOX, given=x, derivative=name)
        assert not bool(torch.autograd.grad(found.x.sum() + found.value.sum(), x)[0].any())


@functools.cache
def common_valley(kind: str, seed: int) -> tuple[nn.Module, Tensor]:
    """`valley`, read once for all solvers."""
    return valley(kind, seed)


@pytest.mark.parametrize("solver", some(NAMES, 3, "derivatives"))
def test_every_solver_has_the_derivatives_of_the_minimum(solver: str, seed: int, common_seed: int) -> None:
    """Against differences of exact vertices; with a large tolerance too, where its own slopes say little."""
    for kind in ("kinks",) if solver in ("fista", "adam") else ("kinks", "largest"):
        model, x = common_valley(kind, common_seed)
        x = x.clone()
        torch.manual_seed(seed)  # what is drawn below must not depend on who made the network
        box = cx.Box(-3, torch.tensor([3.0, -0.05, 3.0], dtype=torch.float64))
        to_x, direction = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
        with torch.no_grad():
            ends = [cx.minimise(model, box, given=x + s * STEP * direction, solver="lp") for s in (1, -1)]
        expected = [
            float(((ends[0].x - ends[1].x) * to_x).sum()) / (2 * STEP),
            float((ends[0].value - ends[1].value).sum()) / (2 * STEP),
        ]
        x.requires_grad_()
        for tol in (1e-6,) if solver in ("auto", "newton") else (1e-2, 1e-6):
            found = cx.minimise(model, box, given=x, solver=solver, tol=tol, max_steps=30)
            for loss, goal in zip(((found.x * to_x).sum(), found.value.sum()), expected, strict=True):
                (grad,) = torch.autograd.grad(loss, x, retain_graph=True)
                assert float((grad * direction).sum()) == pytest.approx(goal, rel=1e-4, abs=1e-5), (kind, tol)


class Sized(nn.Module):
    """A forward that reads the size of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.weight * (y - x)).abs().sum(1).reshape(len(y))


def test_what_is_not_available_is_said() -> None:
    """At the call where tensors are given that ask for it; of parameters, which always do, in the backward pass."""
    model, x = Sized(), torch.zeros(2, 2, dtype=torch.float64)
    words = r"derivatives of this minimum of Sized .*(auto|bundle).* reads the size of its batch.*no_grad"
    with pytest.raises(ValueError, match=words):
        cx.minimise(model, BOX, given=x.clone().requires_grad_())
    with pytest.raises(ValueError, match=words):
        cx.minimise(model, cx.Box(torch.full((2,), -1.0, requires_grad=True), 1.0), given=x)
    found = cx.minimise(model, BOX, given=x)
    assert bool(found.converged.all())
    for part in (found.x, found.value):
        with pytest.raises(RuntimeError, match=words):
            part.sum().backward(retain_graph=True)
    with torch.no_grad():
        assert not cx.minimise(model, BOX, given=x.clone().requires_grad_()).x.requires_grad


def transforms() -> Iterable[tuple[str, Callable[[Callable[[Tensor], Tensor], Tensor], object]]]:
    def forward_mode(f: Callable[[Tensor], Tensor], x: Tensor) -> object:
        with torch.autograd.forward_ad.dual_level():
            return f(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))

    yield "grad", lambda f, x: torch.func.grad(lambda x: f(x).sum())(x)
    yield "jacrev", lambda f, x: torch.func.jacrev(f)(x)
    yield "hessian", lambda f, x: torch.func.hessian(lambda x: f(x).sum())(x)
    yield "vmap", lambda f, x: torch.vmap(f)(x[:, None])
    yield "forward", forward_mode
    yield "vectorize", lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize(("name", "transform"), list(transforms()))
def test_transforms_are_refused_by_name(
    name: str, transform: Callable[[Callable[[Tensor], Tensor], Tensor], object]
) -> None:
    model, x = valley("kinks", 0)
    box = cx.Box(-3, 3, shape=(3,))
    with pytest.raises((NotImplementedError, TypeError), match="batch"):
        transform(lambda x: cx.minimise(model, box, given=x).x, x)
    assert bool(cx.minimise(model, box, given=x).converged.all())  # nothing is left behind


def test_a_module_with_a_reading_can_be_copied_and_stored() -> None:
    model, x = valley("slopes", 0)
    box = cx.Box(-3, 3, shape=(3,))
    value = cx.minimise(model, box, given=x).value
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.allclose(cx.minimise(twin, box, given=x).value, value)
        assert torch.allclose(cx.minimise(twin, box, given=x).value, value)


@pytest.mark.parametrize("offset", [1e3, -1e3, 1e6])
def test_an_offset_moves_no_derivative(offset: float) -> None:
    """Of an energy with kinks and one that is smooth."""
    torch.manual_seed(1)
    a = nn.Linear(3, 6).double()

    class Shifted(nn.Module):
        def __init__(self, offset: float, smooth: bool) -> None:
            super().__init__()
            self.a, self.offset, self.smooth = a, offset, smooth

        def forward(self, y: Tensor) -> Tensor:
            z = nn.functional.softplus(self.a(y)) if self.smooth else self.a(y).relu()
            return z.sum(1) + ((y - 0.1).square() if self.smooth else (y - 0.1).abs()).sum(1) + self.offset

    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    for smooth in (False, True):
        grads: list[Tensor] = []
        for shift in (0.0, offset):
            found = cx.minimise(Shifted(shift, smooth), cx.Box(-1, 1, shape=(3,)), tol=1e-12)
            grads.append(torch.autograd.grad((found.x * weight).sum() + found.value.sum(), a.weight)[0])
        assert torch.allclose(grads[0], grads[1], rtol=1e-4, atol=1e-5)
