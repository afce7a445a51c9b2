"""What a constrained step touches: what its optimiser holds and what is outside, and nothing else.

A program that trains an unconstrained model must train a constrained one as well. So every program below is run on
both: with two optimisers that step between two backward passes, with one optimiser for each parameter that steps inside
of a backward, with graphs that are kept.
"""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from convexnet.constraints.sets import INF, METHODS, Interval, is_outside, method_of, project
from tests.distributed import ROW, Every, batch, loss_of
from tests.drawing import some

PROJECTED = ("exponentiate", "clip", "absolute", "shift")
Program = Callable[["TwoHeads", Callable[..., None]], list[Tensor]]


class TwoHeads(nn.Module):
    """A trunk and two heads, all behind a nonlinearity; the first layer is free."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.trunk = nn.Linear(3, 8), nn.Linear(8, 8)
        self.left, self.right = nn.Linear(8, 1), nn.Linear(8, 1)

    def features(self, x: Tensor) -> Tensor:
        return F.elu(self.trunk(F.elu(self.first(x))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.features(x)
        return self.left(z), self.right(z)


# --- programs, each as one would write it without a constraint -------------------------------------------------------


def sgd(*modules: nn.Module, rate: float = 0.5) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for module in modules for p in module.parameters()], lr=rate)


def two_losses_of_one_graph(model: TwoHeads, attach: Callable[..., None]) -> list[Tensor]:
    """The first optimiser moves its head while the graph of the second loss is still to be walked back."""
    one, other = sgd(model.left), sgd(model.first, model.trunk, model.right)
    attach(one, other)
    x, y = batch()
    losses: list[Tensor] = []
    for _ in range(4):
        left, right = model(x)
        one.zero_grad()
        other.zero_grad()
        loss_of(left, y).backward(retain_graph=True)
        one.step()
        loss = loss_of(right, -y)
        loss.backward()
        other.step()
        losses.append(loss.detach())
    return losses


def one_graph_walked_twice(model: TwoHeads, attach: Callable[..., None]) -> list[Tensor]:
    """Only biases are moved between the two walks, which autograd does not need."""
    biases = torch.optim.SGD([model.left.bias, model.right.bias, model.trunk.bias], lr=0.1)
    weights = torch.optim.SGD([p for p in model.parameters() if p.ndim == 2] + [model.first.bias], lr=0.5)
    attach(biases, weights)
    x, y = batch()
    losses: list[Tensor] = []
    for _ in range(4):
        loss = sum((loss_of(out, y) for out in model(x)), torch.zeros(()))
        biases.zero_grad()
        weights.zero_grad()
        loss.backward(retain_graph=True)
        biases.step()
        loss.backward()
        weights.step()
        losses.append(loss.detach())
    return losses


def steps_inside_of_a_backward(model: TwoHeads, attach: Callable[..., None]) -> list[Tensor]:
    """PyTorch's recipe: an optimiser for each parameter, that steps as soon as the gradient is there."""
    own = {p: torch.optim.Adam([p], lr=0.1, foreach=False) for p in model.parameters()}
    attach(*own.values())

    def step(parameter: Tensor) -> None:
        own[parameter].step()  # type: ignore[index]
        own[parameter].zero_grad()  # type: ignore[index]

    for parameter in own:
        parameter.register_post_accumulate_grad_hook(step)
    x, y = batch()
    losses: list[Tensor] = []
    for _ in range(4):
        left, right = model(x)
        loss = loss_of(left, y) + loss_of(right, -y)
        loss.backward()
        losses.append(loss.detach())
    return losses


def adversaries(model: TwoHeads, attach: Callable[..., None]) -> list[Tensor]:
    """The right head judges what the trunk makes; both play in turn, and the generator's graph is kept."""
    maker, judge = sgd(model.first, model.trunk, model.left), sgd(model.right)
    attach(maker)  # one after the other: the judge does not train yet
    model.right.weight.requires_grad_(True)
    attach(judge)
    x, y = batch()
    losses: list[Tensor] = []
    for _ in range(4):
        z = model.features(x)
        judge.zero_grad()
        loss_of(model.right(z.detach()), y).backward()
        judge.step()
        maker.zero_grad()
        loss = loss_of(model.right(z), -y)
        loss.backward()
        maker.step()
        losses.append(loss.detach())
    return losses


def checkpointed(model: TwoHeads, attach: Callable[..., None]) -> list[Tensor]:
    """Half the forward is made again in the backward, behind a step of the head alone."""
    head, rest = sgd(model.left, model.right), sgd(model.first, model.trunk)
    attach(head, rest)
    x, y = batch()
    losses: list[Tensor] = []
    for _ in range(3):
        z = torch.utils.checkpoint.checkpoint(model.features, x, use_reentrant=False)
        loss = loss_of(model.left(z), y) + loss_of(model.right(z), -y)
        head.zero_grad()
        rest.zero_grad()
        (by_z,) = torch.autograd.grad(loss, z, retain_graph=True)
        z.backward(by_z)
        rest.step()
        loss_of(model.left(z.detach()), y).backward()
        head.step()
        losses.append(loss.detach())
    return losses


PROGRAMS: list[Program] = [
    two_losses_of_one_graph, one_graph_walked_twice, steps_inside_of_a_backward, adversaries, checkpointed,
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "program"),
    [case for program in PROGRAMS for case in some(product(PROJECTED, [program]), 2, program.__name__)],
    ids=lambda value: value if type(value) is str else value.__name__,
)
def test_what_trains_without_a_constraint_trains_with_one(method: str, program: Program) -> None:
    torch.manual_seed(3)
    model = TwoHeads()
    cone = cx.constrain(model, ROW, method=method)
    if program is adversaries:
        model.right.weight.requires_grad_(False)
    plain = copy.deepcopy(model)
    program(plain, lambda *_: None)
    losses = program(model, cone.attach)
    assert cone.violation() == 0.0
    assert all(bool(loss.isfinite()) for loss in losses)
    assert cx.certify(model, ROW).convex
    names = dict(plain.named_parameters())
    outside = [n for n, i in cone.intervals.items() if not i.contains(names[n])]
    assert outside, "the unconstrained model leaves the cone, or nothing was tested"


# --- what is written -------------------------------------------------------------------------------------------------


def versions(model: nn.Module) -> dict[str, int]:
    return {name: p._version for name, p in model.named_parameters()}


@pytest.mark.parametrize("method", PROJECTED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_where_nothing_is_outside_nothing_is_written(method: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Every().to(dtype)
    cone = cx.constrain(model, ROW.to(dtype), method=method)
    with torch.no_grad():  # well inside
        for tensor, interval in zip(cone.tensors(), cone.intervals.values(), strict=True):
            lo, hi = interval.lo.expand(tensor.shape), interval.hi.expand(tensor.shape)
            inside = torch.where(lo.isfinite(), lo + 0.5, torch.where(hi.isfinite(), hi - 0.5, -0.5))
            tensor.copy_(inside)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    cone.attach(optimizer)
    before = versions(model)
    cone.project()
    assert versions(model) == before
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    after = versions(model)
    twin = copy.deepcopy(model)
    at = versions(twin)
    for p in twin.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.SGD(twin.parameters(), lr=1e-3).step()
    bumped = {name: number - at[name] for name, number in versions(twin).items()}
    assert {name: number - before[name] for name, number in after.items()} == bumped
    with torch.no_grad():
        cone.tensors()[-1].fill_(-1.0)
    before = versions(model)
    cone.project()
    assert {name for name, number in versions(model).items() if number != before[name]} == {cone.parameters[-1]}
    assert cone.violation() == 0.0


def columns(*marks: bool) -> Interval:
    return Interval.above(0.0, torch.tensor([list(marks)]))


SETS: dict[str, Interval] = {
    "non-negative": columns(True, True, True),
    "columns": columns(True, False, True),
    "non-positive": Interval(-columns(True, True, True).hi, torch.zeros(1, 1).double()),
    "unit": Interval(torch.zeros(1, 1).double(), torch.ones(1, 1).double()),
    "nothing": columns(False, False, False),
    "from a third": Interval(torch.full((1, 1), 1 / 3).double(), torch.full((1, 1), INF).double()),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", SETS)
def test_outside_is_what_the_interval_says(name: str, dtype: torch.dtype) -> None:
    """Entry by entry, with infinities, zeros of both signs, and in tensors that are not contiguous."""
    interval = SETS[name]
    for value in (-INF, -1.0, -1e-45, -0.0, 0.0, 1 / 3, 0.5, 1.0, 1.0 + 1e-3, INF):
        for place in range(3):
            weight = torch.full((2, 3), 0.5, dtype=dtype)
            weight[:, place] = value
            if name == "non-positive":
                weight = -weight
            for layout in (weight, weight.t().contiguous().t()):
                expected = not interval.contains(layout)
                if not bool(layout.isinf().any()):  # inf - inf is no distance
                    assert is_outside(layout, interval) == expected
                for method in PROJECTED:
                    moved, version = layout.clone(), 0
                    version = moved._version
                    project(moved, interval, method_of(method, 5.0))
                    assert (moved._version != version) == is_outside(layout, interval)
                    assert not is_outside(moved, interval) or bool(moved.isinf().any())


@pytest.mark.parametrize("method", ["exponentiate", "clip", "absolute"])
def test_a_nan_hides_nothing(method: str) -> None:
    for interval in (SETS["non-negative"], SETS["columns"]):
        weight = torch.tensor([[torch.nan, 1.0, -1.0]])
        project(weight, interval, method_of(method, 5.0))
        assert bool(weight[0, 2] >= 0)
        assert weight[0, 1] == 1.0


@pytest.mark.parametrize("method", PROJECTED)
def test_without_a_look_the_same_comes_out(method: str) -> None:
    """As on an accelerator: written unseen where autograd saw no step, and with a new version where it did."""
    generator = torch.Generator().manual_seed(1)
    for interval in SETS.values():
        weight = torch.randn(4, 3, generator=generator)
        for start in (weight, weight.abs(), -weight.abs()):
            looked, blind = start.clone(), start.clone()
            project(looked, interval, method_of(method, 5.0))
            project(blind, interval, method_of(method, 5.0), look=False)
            assert torch.equal(looked, blind)


# --- whose parameters ------------------------------------------------------------------------------------------------


def push(*parameters: Tensor) -> None:
    """A gradient that drives parameters out of the cone with the next step."""
    for p in parameters:
        p.grad = torch.full_like(p, 10.0)


def test_a_step_projects_what_its_optimiser_holds() -> None:
    model = TwoHeads()
    cone = cx.constrain(model, ROW, method="clip")
    one, other = sgd(model.left), sgd(model.first, model.trunk, model.right)
    cone.attach(one, other)
    with torch.no_grad():
        model.right.weight.fill_(-1.0)
    push(model.left.weight)
    one.step()
    assert bool((model.left.weight >= 0).all())
    assert bool((model.right.weight == -1).all())
    other.step()  # without a gradient: held is held
    assert cone.violation() == 0.0


def test_groups_that_are_added_later() -> None:
    model = TwoHeads()
    model.right.requires_grad_(False)
    with torch.no_grad():
        model.right.weight.abs_()
    cone = cx.constrain(model, ROW, method="clip")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    cone.attach(optimizer)
    optimizer.step()
    model.right.requires_grad_(True)
    optimizer.add_param_group({"params": model.right.parameters()})
    push(model.right.weight, model.left.weight)
    optimizer.step()  # and no warning, for it holds the head now
    assert cone.violation() == 0.0
    optimizer.param_groups.pop()
    optimizer.param_groups[0]["params"].append(model.right.weight)  # moved by hand to another group
    push(model.right.weight)
    optimizer.step()
    assert cone.violation() == 0.0


def test_what_thaws_without_an_optimiser_is_named_once() -> None:
    model = TwoHeads()
    with torch.no_grad():
        model.right.requires_grad_(False).weight.abs_()
    cone = cx.constrain(model, ROW, method="clip")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    cone.attach(optimizer)
    optimizer.step()
    model.right.requires_grad_(True)
    with pytest.warns(UserWarning, match=r"right\.weight trains now .* no attached optimiser holds it") as caught:
        optimizer.step()
    optimizer.step()
    assert len(caught) == 1
    late = sgd(model.right)
    cone.attach(late)
    push(model.right.weight, model.trunk.weight)
    late.step()
    optimizer.step()
    assert cone.violation() == 0.0


def test_an_optimiser_of_other_parameters_is_refused_even_behind_a_right_one() -> None:
    model = TwoHeads()
    cone = cx.constrain(model, ROW, method="clip").attach(sgd(model))
    with pytest.raises(ValueError, match=r"does not hold trunk\.weight, left\.weight, right\.weight"):
        cone.attach(sgd(copy.deepcopy(model)))


@pytest.mark.parametrize("how", ["tied", "assigned", "replaced"])
def test_parameters_that_the_model_exchanges(how: str) -> None:
    """The step finds what the model has now, and keeps what the optimiser still holds where it was."""
    model = TwoHeads()
    cone = cx.constrain(model, ROW, method="clip")
    one, other = sgd(model.left, model.trunk), sgd(model.first, model.right)
    cone.attach(one, other)
    one.step()
    other.step()
    old = model.left.weight
    if how == "tied":
        model.left.weight = model.right.weight
    elif how == "assigned":
        model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    else:
        model.left.weight = nn.Parameter(torch.ones(1, 8))
        one.add_param_group({"params": [model.left.weight]})
    if how == "assigned":
        cone.attach(sgd(model))
    push(old, model.left.weight, model.right.weight, model.trunk.weight)
    one.step()
    other.step()
    assert bool((old >= 0).all())
    if how != "assigned":
        assert cone.violation() == 0.0


def test_attached_twice_is_attached_once_and_detach_ends_it() -> None:
    model = TwoHeads()
    optimizer = sgd(model)
    cone = cx.constrain(model, ROW, method="clip").attach(optimizer)
    cone.attach(optimizer, optimizer)
    assert len(optimizer._optimizer_step_post_hooks) == 1
    cone.detach()
    assert not optimizer._optimizer_step_post_hooks
    push(model.left.weight)
    optimizer.step()
    assert cone.violation() > 0.0
    cone.attach(optimizer)
    assert cone.violation() == 0.0


def test_a_cone_is_copied_and_pickled_without_its_optimisers() -> None:
    model = TwoHeads()
    optimizer = sgd(model)
    cone = cx.constrain(model, ROW, method="clip").attach(optimizer)
    for twin in (copy.deepcopy(cone), pickle.loads(pickle.dumps(cone))):
        assert twin.parameters == cone.parameters
        own = sgd(twin.model)
        push(*twin.model.parameters())
        own.step()
        assert twin.violation() > 0.0
        twin.attach(own)
        assert twin.violation() == 0.0
        assert cone.violation() == 0.0


def test_an_optimiser_that_is_given_up_is_not_kept_alive() -> None:
    model = TwoHeads()
    cone = cx.constrain(model, ROW, method="clip").attach(sgd(model))
    gc.collect()
    assert not len(cone._attached)
    optimizer = sgd(model)
    cone.attach(optimizer)
    push(model.left.weight)
    optimizer.step()
    assert cone.violation() == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_a_fresh_model_attaches_without_a_warning(method: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Every()
        cone = cx.constrain(model, ROW, method=method)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        cone.attach(optimizer)
        x, y = batch()
        loss_of(model(x), y).backward()
        optimizer.step()
    assert cone.violation() == 0.0
