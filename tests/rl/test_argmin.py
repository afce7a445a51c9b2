"""The best action of many states: against dense grids, `minimise`, and what a polyhedron allows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import convexnet as cx
from convexnet.rl import NAF, Actor, Description, Policy, negated_q, power_budget
from convexnet.rl.argmin import bundle_entropy, cutting_planes, on_a_line
from convexnet.rl.networks import function_at
from convexnet.solve.functions.with_entropy import entropy


def network(states: int, actions: int) -> tuple[torch.nn.Module, Tensor]:
    """A negated Q with slopes of both signs, and states."""
    torch.manual_seed(actions)
    net = negated_q(states, actions, (24, 24)).requires_grad_(False)
    for layer in net.layers:
        layer.y.weight.mul_(3.0)  # pyright: ignore
    return net, torch.randn(20, states)


def grid(actions: int, count: int) -> Tensor:
    """Points (count^m, m) of [-1, 1]^m."""
    line = torch.linspace(-1, 1, count)
    return torch.cartesian_prod(*[line] * actions).reshape(-1, actions)


def on_grid(net: torch.nn.Module, states: Tensor, points: Tensor) -> Tensor:
    """f of each state at each point, (B, P)."""
    return torch.stack([net(state.expand(len(points), -1), points)[:, 0] for state in states])


@pytest.mark.parametrize(("actions", "count", "cuts"), [(1, 2001, 12), (2, 101, 15)])
def test_few_tangents_find_the_least_point(actions: int, count: int, cuts: int) -> None:
    net, states = network(4, actions)
    f, start = function_at(net, states), torch.zeros(len(states), actions)
    least = on_grid(net, states, grid(actions, count)).amin(1)
    spread = float(on_grid(net, states, grid(actions, 11)).std())
    nothing = torch.zeros(0, actions).double(), torch.zeros(0).double()
    found = cutting_planes(f, start, nothing, torch.zeros(actions), cuts)
    assert bool((found.values <= least + 1e-2 * spread).all())
    assert bool((found.bounds <= least + 1e-5 * spread).all())
    assert bool((found.values - found.bounds).amax() <= 2e-2 * spread)
    soft = bundle_entropy(f, start, cuts, weight=1e-3 * spread)
    assert bool((soft.values <= least + 1e-2 * spread).all())
    assert bool((soft.actions.abs() <= 1).all())


@pytest.mark.parametrize("actions", [1, 2])
def test_the_entropy_is_minimised_with_f(actions: int) -> None:
    net, states = network(3, actions)
    weight = 0.5
    points = grid(actions, 2001 if actions == 1 else 101)
    values = on_grid(net, states, points).double() + weight * entropy((points.double() + 1) / 2)
    found = bundle_entropy(function_at(net, states), torch.zeros(len(states), actions), 12, weight)
    total = found.values + weight * entropy((found.actions + 1) / 2)
    assert bool((total <= values.amin(1) + 1e-3).all())
    assert bool((found.bounds <= total + 1e-6).all())
    assert bool((found.bounds >= total - 1e-2).all())


@pytest.mark.parametrize("actions", [1, 2])
def test_bounds_hold_at_the_border_and_when_no_tangent_is_new(actions: int) -> None:
    """Also where the model has long been minimised up to rounding, and its systems are nearly singular."""
    generator = torch.Generator().manual_seed(29)
    slopes = torch.randn(10, 4, actions, generator=generator, dtype=torch.float64)
    offsets = torch.randn(10, 4, generator=generator, dtype=torch.float64)
    start = torch.rand(10, actions, generator=generator, dtype=torch.float64) - 0.5

    def f(a: Tensor) -> Tensor:
        return (torch.einsum("bpm,bm->bp", slopes, a) + offsets).amax(1)

    found = bundle_entropy(f, start, 40, 1e-3, torch.float64)
    assert not found.actions.requires_grad
    total = found.values + 1e-3 * entropy((found.actions + 1) / 2)
    assert bool((found.bounds <= total + 1e-13 * (1 + total.abs())).all())
    assert float((total - found.bounds).amax()) <= 1e-6


def test_on_a_line_equals_its_planes() -> None:
    torch.manual_seed(0)
    slopes, offsets = torch.randn(2, 200, 6).double()
    ends = torch.zeros(200, 1).double(), torch.ones(200, 1).double()
    found = on_a_line(lambda y: (slopes * y + offsets).amax(1), 0.5 + ends[0], ends, 8, 0.0, torch.float64)
    line = torch.linspace(0, 1, 4001).double()
    least = (slopes[..., None] * line + offsets[..., None]).amax(1).amin(1)
    assert bool((found.values <= least + 1e-9).all())
    assert bool((found.bounds <= least + 1e-9).all())


def test_over_a_polyhedron() -> None:
    net, states = network(4, 2)
    known = Description("x-v0", 4, 2, torch.tensor([-2.0, -2.0]), torch.tensor([2.0, 2.0]))
    domain = power_budget(known, 1.5)
    assert domain.below is not None
    rows = domain.below.matrix, domain.below.right
    found = cutting_planes(function_at(net, states), torch.ones(len(states), 2), rows, domain.centre, 15)
    assert bool((found.actions.abs().sum(1) <= 0.75 + 1e-12).all())
    states = states[:6]
    exact = cx.minimise(net, domain, states, tol=1e-6)
    spread = float(exact.value.std())
    assert bool((found.values[:6] <= exact.value + 1e-2 * spread).all())
    assert bool((found.bounds[:6] <= exact.upper_bound + 1e-5 * spread).all())


def test_exact_actions_are_proved_and_equal_a_dense_grid() -> None:
    net, states = network(3, 2)
    policy = Policy(net, Description("x-v0", 3, 2, -torch.ones(2), torch.ones(2)))
    actor = Actor(policy)
    actions = actor(states)
    assert (actor.asked, actor.proved) == (len(states), len(states))
    least = on_grid(net, states, grid(2, 101)).amin(1)
    assert bool((net(states, actions)[:, 0] <= least + 1e-3 * float(least.std())).all())
    assert cx.certify(policy, (states, actions), wrt=1).convex


def test_naf_knows_its_best_action_and_is_certified() -> None:
    torch.manual_seed(0)
    net, states = NAF(3, 2, (16,)), torch.randn(6, 3)
    actions, values = net.best(states)
    least = on_grid(net, states, grid(2, 41)).amin(1)
    assert bool((values <= least + 1e-6).all())
    assert torch.equal(net(states, actions)[:, 0], values)
    assert cx.certify(net, (states, actions), wrt=1).convex
