"""Many threads, one module: first calls, forward and backward, give what one thread gives."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from tests.modules import Function

BOX = cx.Box(-1, 1, shape=(2,))


class Blind(nn.Module):
    """A forward that reads the size of its batch, so that it is minimised as a whole."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.inner(x, y).reshape(len(y))


def together(count: int, job: Callable[[int], Any]) -> list[Any]:
    """What a job returns in each of so many threads that begin at once."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count
    failed: list[BaseException] = []

    def run(i: int) -> None:
        try:
            barrier.wait()
            results[i] = job(i)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return results


def network() -> nn.Module:
    """With slopes, which the other input makes, and a part in training mode."""
    torch.manual_seed(0)
    net = cx.nn.PICNN(3, 2, hidden=(6, 5), activation="relu").double()
    net.eval()
    net.layers[0].train()
    return net


def state_of(net: nn.Module) -> list[Any]:
    flags = [(name, part.training, len(part._forward_hooks)) for name, part in net.named_modules()]  # pyright: ignore
    return [*flags, *((name, id(tensor), tensor.tolist()) for name, tensor in net.state_dict(keep_vars=True).items())]


def attack(count: int, blind: bool) -> None:
    """Every thread has inputs of its own, of its own size: they scale the slopes, and nobody's are another's."""
    inner = network()
    net = Blind(inner) if blind else inner
    twin = copy.deepcopy(net)
    before = state_of(net)
    inputs = [torch.randn(2 + i % 3, 3, dtype=torch.float64) * 10 ** (i % 4 - 2) for i in range(count)]

    def job(module: nn.Module, i: int) -> tuple[Tensor, ...]:
        x = inputs[i].clone().requires_grad_(not blind)
        found = cx.minimise(module, BOX, given=x, tol=1e-8)
        slopes = () if blind else torch.autograd.grad(found.value.sum() + found.x.sum(), x)
        return found.value.detach(), found.lower_bound, *slopes

    several = together(count, lambda i: job(net, i))
    assert state_of(net) == before
    for i, (value, bound, *slopes) in enumerate(several):
        alone, _, *expected = job(twin, i)
        size = 1 + alone.abs()
        assert bool(((value - alone).abs() <= 1e-6 * size).all())
        assert bool((bound <= alone + 1e-12 * size).all())
        for mine, single in zip(slopes, expected, strict=True):
            assert torch.allclose(mine, single, rtol=1e-4, atol=1e-6 * float(single.abs().max()))


@pytest.mark.parametrize("blind", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_sixteen_threads(blind: bool) -> None:
    attack(16, blind)


@pytest.mark.slow
def test_sixty_four_threads() -> None:
    for _ in range(3):
        attack(64, blind=False)


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "kinks": lambda y: (y @ MIXED).abs().sum(1) + 0.3 * y.sum(1),
    "sorted": lambda y: (y @ MIXED).topk(2, 1).values.sum(1) + y.abs().sum(1),
    "a norm": lambda y: (y @ MIXED - 0.5).norm(dim=1) + y[:, 0],
    "exponentials": lambda y: (y @ MIXED).logsumexp(1) - 0.2 * y.sum(1),
    "a form": lambda y: ((y @ (MIXED @ MIXED.T)) * y).sum(1) + y[:, 1],
    "a mean": lambda y: 2 * y.square().sum(1) - (y + 2).prod(1).sqrt(),
    "a choice": lambda y: torch.where(y.abs() < 0.5, y.square(), y.abs() - 0.25).sum(1) + 0.6 * y[:, 0],
    "a perspective": lambda y: (y[:, 0] - 0.2) ** 2 / (y[:, 1] + 2) + 0.1 * y[:, 1],
}
MIXED = torch.tensor([[1.0, -0.5, 0.25], [0.3, 1.0, -1.0]], dtype=torch.float64)
LINEAR = ("kinks", "sorted")


def asked(kind: str, module: nn.Module, how: int, variable: Any) -> Any:
    """One of the calls that read a module: its answer, or what is solved for it."""
    if how == 0:
        return str(cx.certify(module, torch.zeros(2, 2, dtype=torch.float64), domain=BOX))
    if how == 1:
        found = cx.minimise(module, BOX, given=None, tol=1e-8)
        return float(found.value), float(found.lower_bound)
    if how == 3 and kind in LINEAR:
        return cx.to_lp(module, BOX)
    return cx.to_cvxpy(module, variable)


def settled(answer: Any) -> Any:
    """An answer as numbers or text; what is to be solved is solved by one thread."""
    if isinstance(answer, (str, tuple)):
        return answer
    if hasattr(answer, "getInfo"):
        answer.setOptionValue("output_flag", False)
        answer.run()
        return (float(answer.getInfo().objective_function_value),) * 2
    import cvxpy

    problem = cvxpy.Problem(cvxpy.Minimize(answer))
    problem.solve(solver="CLARABEL")
    return (float(problem.solution.opt_val),) * 2


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["the same modules", "modules of their own"])
def test_sixty_four_threads_certify_minimise_and_export(shared: bool) -> None:
    """Of eight modules, first calls included: what one thread finds."""
    cvxpy = pytest.importorskip("cvxpy")
    pytest.importorskip("highspy")
    names = list(KINDS)
    modules = {name: Function(lambda y, f=KINDS[name]: f(y.double())) for name in names}
    own = [modules[names[i % 8]] if shared else copy.deepcopy(modules[names[i % 8]]) for i in range(64)]
    variables = [cvxpy.Variable(2, bounds=[-1, 1]) for _ in range(64)]
    several = together(64, lambda i: asked(names[i % 8], own[i], i // 8 % 4, variables[i]))
    for i, answer in enumerate(several):
        name, how = names[i % 8], i // 8 % 4
        mine, alone = settled(answer), settled(asked(name, copy.deepcopy(modules[name]), how, variables[i]))
        if isinstance(alone, str):
            assert mine == alone
            continue
        least = settled(asked(name, copy.deepcopy(modules[name]), 1, None))
        room = 2e-6 * (1 + abs(least[0]))
        assert mine == pytest.approx(alone, abs=room)
        assert least[1] - room <= mine[0] <= least[0] + room


def test_modules_that_share_parts() -> None:
    """Some minimise the inner module and some the outer one, while others trace it for a certificate."""
    inner = network()
    outer = nn.Module()
    outer.inner = inner
    outer.forward = lambda x, y: 2 * inner(x, y)
    x = torch.randn(2, 3, dtype=torch.float64)

    def job(i: int) -> Tensor:
        if i % 3 == 0:
            assert cx.certify(outer, (x, torch.zeros(2, 2, dtype=torch.float64)), wrt=1).convex
        return cx.minimise(outer if i % 2 else inner, BOX, given=x, tol=1e-8).value.detach() / (2 if i % 2 else 1)

    values = together(8, job)
    assert all(torch.allclose(value, values[0], rtol=1e-6, atol=1e-8) for value in values)


def test_weights_that_change_while_another_thread_minimises() -> None:
    """Each minimum is one of the weights before or after, and its gradient is that of the same weights: w·y² + y on
    [−1, 1] has −1/(4w) with the derivative 1/(4w²)."""

    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, y: Tensor) -> Tensor:
            return (self.weight * y**2 + y).sum(1)

    net = Weighted()
    box = cx.Box(-1, 1, shape=(1,))
    cx.minimise(net, box)

    def job(i: int) -> None:
        for k in range(10):
            if i == 0:
                net.weight.data.fill_(1.0 + k % 2)
                continue
            value = cx.minimise(net, box, tol=1e-10).value
            (slope,) = torch.autograd.grad(value.sum(), net.weight)
            weight = -1 / (4 * value.item())
            assert min(abs(weight - 1), abs(weight - 2)) < 1e-6
            assert slope.item() == pytest.approx(1 / (4 * weight**2), rel=1e-5)

    together(4, job)
