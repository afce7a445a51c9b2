"""Constrained training: every method with every optimiser, in every way people train; and what cannot be trained.

After each step nothing is outside its interval, and all weights are finite; at the start, on the way and at the end the
model is certified; the same seed gives the same weights, bit for bit. `Every` (in `distributed.py`) has one parameter
of each kind: a weight with free columns, slopes, a gain with a bound that is not zero, a weight that is subtracted.
"""

from __future__ import annotations

import copy
import io
import math
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import convexnet as cx
from convexnet.constraints import Cone
from convexnet.constraints.sets import METHODS
from tests import distributed as workers
from tests.distributed import INTERVALS, ROW, Every, batch, loss_of
from tests.drawing import some
from tests.processes import Forge

PROJECTED = ("exponentiate", "clip", "absolute", "shift")
COMPUTED = ("softplus", "exp")
STEPS = 6

OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "SGD fused": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "Adam fused": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, amsgrad=True, foreach=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.05, momentum=0.5),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.2, fused=True),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "LBFGS": lambda p: torch.optim.LBFGS(p, max_iter=4, line_search_fn="strong_wolfe"),
}


# --- ways to take a step ---------------------------------------------------------------------------------------------

Step = Callable[[int], None]


def closure(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], Tensor]:
    x, y = batch()

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = loss_of(model(x), y)
        value.backward()
        return value

    return loss


def plain(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    loss = closure(model, optimizer)
    return lambda _: optimizer.step(loss) and None


def autocast(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    """Forward and loss in bfloat16 where torch thinks it safe."""
    x, y = batch()

    def loss() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(x)
            assert out.dtype == torch.bfloat16
        value = loss_of(out.float(), y)
        value.backward()
        return value

    return lambda _: optimizer.step(loss) and None


def accumulate(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    """Gradients of two halves of the batch before one step."""
    x, y = batch()

    def loss() -> Tensor:
        optimizer.zero_grad()
        values = [loss_of(model(part), labels) / 2 for part, labels in zip(x.chunk(2), y.chunk(2), strict=True)]
        for value in values:
            value.backward()
        return torch.stack(values).sum()

    return lambda _: optimizer.step(loss) and None


def scaled(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    """A loss that GradScaler multiplies; the third one overflows, and its step is skipped."""
    x, y = batch()
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)

    def step(number: int) -> None:
        optimizer.zero_grad()
        scaler.scale(loss_of(model(x), y) * (math.inf if number == 2 else 1.0)).backward()
        before = [p.detach().clone() for p in model.parameters()]
        scaler.step(optimizer)
        scaler.update()
        assert (number == 2) == all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))

    return step


def one_cycle(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    loss = closure(model, optimizer)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=STEPS, cycle_momentum=False)

    def step(_: int) -> None:
        optimizer.step(loss)
        schedule.step()

    return step


def cosine(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    loss = closure(model, optimizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)

    def step(_: int) -> None:
        optimizer.step(loss)
        schedule.step()

    return step


def averaged(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    """With an exponential moving average and a plain one, both convex in the end."""
    loss = closure(model, optimizer)
    copies = [AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7)), AveragedModel(model)]

    def step(number: int) -> None:
        optimizer.step(loss)
        for twin in copies:
            twin.update_parameters(model)
            if number == STEPS - 1:
                assert cx.certify(twin, ROW).convex

    return step


def clipped(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    """Gradients cut to a norm that they exceed at first."""
    x, y = batch()
    norms: list[float] = []

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = loss_of(model(x), y)
        value.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.05)))
        return value

    def step(_: int) -> None:
        optimizer.step(loss)
        assert norms[0] > 0.05

    return step


MODES = {
    "plain": plain, "autocast": autocast, "scaler": scaled, "accumulation": accumulate, "one cycle": one_cycle,
    "cosine": cosine, "averages": averaged, "clipped gradients": clipped,
}  # fmt: skip


# LBFGS evaluates its loss again and again inside one step, which GradScaler does not allow, and its line search relies
# on gradients that are those of the loss, which clipped ones are not.
IMPOSSIBLE = {("LBFGS", "scaler"), ("LBFGS", "clipped gradients")}


def design() -> list[tuple[str, str, str]]:
    """Every optimiser in every mode, with the methods in turn: so that every two of the three meet."""
    rows = [
        (list(METHODS)[(i + j + j // 6) % 6], optimiser, mode)
        for (i, optimiser), (j, mode) in product(enumerate(OPTIMISERS), enumerate(MODES))
        if (optimiser, mode) not in IMPOSSIBLE
    ]
    rows.append(("exp", "LBFGS", "averages"))  # the two impossible ones were its turns with exp
    return sorted(rows, key=lambda row: list(METHODS).index(row[0]))


def finite(model: nn.Module) -> bool:
    return all(bool(value.isfinite().all()) for value in model.state_dict().values())


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def constrained() -> Callable[[str], cx.Cone]:
    """A cone by its method, constrained once: that takes longer than all the steps of a test."""

    @cache
    def make(method: str) -> cx.Cone:
        torch.manual_seed(zlib.crc32(method.encode()))
        return cx.constrain(Every().train(), ROW, method=method)

    return make


def begin(cone: cx.Cone, optimiser: str) -> tuple[nn.Module, torch.optim.Optimizer, cx.Cone]:
    """A copy of a constrained model, with an optimiser and a cone of its own."""
    model = copy.deepcopy(cone.model)
    optimizer = OPTIMISERS[optimiser](model.parameters())
    return model, optimizer, Cone(model, cone.intervals, cone.method).attach(optimizer)


def test_the_design_is_complete() -> None:
    rows = design()
    assert {(m, o) for m, o, _ in rows} == set(product(METHODS, OPTIMISERS))
    assert {(m, w) for m, _, w in rows} == set(product(METHODS, MODES))
    assert {(o, w) for _, o, w in rows} == set(product(OPTIMISERS, MODES)) - IMPOSSIBLE


@pytest.mark.parametrize("method", METHODS)
def test_convex_from_the_start(method: str, constrained: Callable[[str], cx.Cone]) -> None:
    cone = constrained(method)
    assert {name: (i.lo.tolist(), i.hi.tolist()) for name, i in cone.intervals.items()} == INTERVALS
    assert cone.violation() == 0.0
    assert cx.certify(cone.model, ROW).convex


@pytest.mark.parametrize(
    ("method", "optimiser", "mode"),
    [case for name in OPTIMISERS for case in some([row for row in design() if row[1] == name], 2, f"steps, {name}")],
)
def test_convex_after_every_step(method: str, optimiser: str, mode: str, constrained: Callable[[str], cx.Cone]) -> None:
    ends: list[nn.Module] = []
    for repeat in range(2):
        model, optimizer, cone = begin(constrained(method), optimiser)
        step = MODES[mode](model, optimizer)
        for number in range(STEPS):
            before = [weight.detach().clone() for weight in cone.tensors()]
            step(number)
            assert cone.violation() == 0.0
            assert finite(model)
            moved = not all(torch.equal(a, b) for a, b in zip(before, cone.tensors(), strict=True))
            assert moved or (mode, number) == ("scaler", 2)
            if repeat == 0 and (number == STEPS - 1 or (mode, number) == ("plain", 2)):
                assert cx.certify(model, ROW).convex
        ends.append(model)
    assert same(*ends)


@pytest.mark.parametrize("method", PROJECTED)
def test_the_same_training_without_attach_is_not_convex(method: str, constrained: Callable[[str], cx.Cone]) -> None:
    model, optimizer, cone = begin(constrained(method), "Adam")
    cone.detach()
    step = plain(model, optimizer)
    for number in range(STEPS):
        step(number)
    assert cone.violation() > 0.05
    assert not cx.certify(model, ROW).convex
    assert cx.falsify(model, ROW) is not None


@pytest.mark.parametrize("method", some(METHODS, 3, "learn"))
def test_constrained_networks_learn(method: str, constrained: Callable[[str], cx.Cone]) -> None:
    model, _, cone = begin(constrained(method), "SGD")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    Cone(model, cone.intervals, cone.method).attach(optimizer)
    loss = closure(model, optimizer)
    losses = [float(value.detach()) for value in (optimizer.step(loss) for _ in range(100))]  # type: ignore[union-attr]
    assert losses[-1] < 0.5 * losses[0]
    assert cx.certify(model, ROW).convex


# --- stopping, copying, constraining again ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_is_the_uninterrupted_one(method: str, constrained: Callable[[str], cx.Cone]) -> None:
    model, optimizer, _ = begin(constrained(method), "Adam")
    step = plain(model, optimizer)
    file = io.BytesIO()
    for number in range(STEPS):
        if number == 3:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        step(number)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    torch.manual_seed(0)
    later = Every().train()
    cone = cx.constrain(later, ROW, method=method)
    resumed = OPTIMISERS["Adam"](later.parameters())  # after it: computed weights change the order of parameters
    cone.attach(resumed)
    later.load_state_dict(saved["model"])
    assert all(torch.equal(value, saved["model"][name]) for name, value in later.state_dict().items())
    resumed.load_state_dict(saved["optimizer"])
    step = plain(later, resumed)
    for number in range(3, STEPS):
        step(number)
        assert cone.violation() == 0.0
    assert same(model, later)


AGAIN = [
    *((method, None) for method in METHODS),
    *(("clip", "softplus"), ("shift", "exp"), ("absolute", "clip"), ("softplus", "clip"), ("exp", "softplus")),
]


@pytest.mark.parametrize(("first", "then"), some(AGAIN, 5, "copies"))
def test_a_copy_is_constrained_again_and_trains_on(
    first: str, then: str | None, constrained: Callable[[str], cx.Cone]
) -> None:
    """By the method it had (None) or another; weights stay where they are, and the optimiser keeps its parameters."""
    model = copy.deepcopy(constrained(first).model)
    optimizer = OPTIMISERS["Adam"](model.parameters())
    weights = {name: weight.detach().clone() for name, weight in zip(INTERVALS, values(model), strict=True)}
    cone = cx.constrain(model, ROW, method=then).attach(optimizer)
    assert str(cone.method) == str(constrained(first if then is None else then).method)
    for name, weight in zip(INTERVALS, values(model), strict=True):
        torch.testing.assert_close(weight.detach(), weights[name], rtol=1e-5, atol=3e-6)
    step = plain(model, optimizer)
    for number in range(STEPS):
        step(number)
        assert cone.violation() == 0.0
    assert all(
        not torch.equal(value.detach(), weights[name]) for name, value in zip(INTERVALS, values(model), strict=True)
    )
    assert cx.certify(model, ROW).convex


def values(model: nn.Module) -> list[Tensor]:
    return [getattr(model.get_submodule(path), leaf) for path, _, leaf in (name.rpartition(".") for name in INTERVALS)]


@pytest.mark.parametrize("method", METHODS)
def test_averages_with_buffers(method: str, constrained: Callable[[str], cx.Cone]) -> None:
    model, optimizer, _ = begin(constrained(method), "Adam")
    average = AveragedModel(model, use_buffers=True)
    step = plain(model, optimizer)
    for number in range(3):
        step(number)
        average.update_parameters(model)
    assert cx.certify(average, ROW).convex
    if method in PROJECTED:
        assert Cone(average.module, constrained(method).intervals, constrained(method).method).violation() == 0.0


# --- several optimisers, and optimisers without the parameters -------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_two_optimisers_share_the_parameters(method: str, constrained: Callable[[str], cx.Cone]) -> None:
    model, whole, cone = begin(constrained(method), "Adam")
    cone.detach()
    parameters = list(model.parameters())
    first = torch.optim.SGD(parameters[::2], lr=0.3)
    second = torch.optim.Adam(parameters[1::2], lr=0.1)
    with pytest.raises(ValueError, match=r"does not hold .*attach\(first, second\)"):
        cone.attach(first)
    with pytest.raises(TypeError, match=r"not \w*Linear"):
        cone.attach(first, model.head)  # type: ignore[arg-type]
    before = copy.deepcopy(model.state_dict())
    loss = closure(model, whole)
    if method in PROJECTED:  # what was refused is not attached in part
        loss()
        torch.optim.SGD.step(torch.optim.SGD(parameters, lr=3.0))
        first.step()
        assert cone.violation() > 0.0
        model.load_state_dict(before)
    cone.attach(first, second)
    for number in range(STEPS):
        loss()
        (first, second)[number % 2].step()
        assert cone.violation() == 0.0
    assert cx.certify(model, ROW).convex


# --- Fabric, torch.compile -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "precision", "constrain_first", "attach_to_wrapped"),
    [
        ("exponentiate", "32-true", True, True),
        ("clip", "32-true", False, False),
        ("absolute", "bf16-mixed", True, False),
        ("shift", "bf16-mixed", False, True),
        ("softplus", "bf16-true", True, True),
        ("clip", "bf16-true", False, True),
    ],
)
def test_fabric(method: str, precision: Any, constrain_first: bool, attach_to_wrapped: bool) -> None:
    from lightning import Fabric

    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    example = ROW.bfloat16() if precision == "bf16-true" else ROW
    model = Every()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.2)
    cone = cx.constrain(model, ROW, method=method) if constrain_first else None
    wrapped, stepper = fabric.setup(model, optimizer)
    if cone is None:
        cone = cx.constrain(wrapped, example, method=method)
    cone.attach(stepper if attach_to_wrapped else optimizer)
    x, y = batch()
    before = [weight.detach().clone() for weight in cone.tensors()]
    for _ in range(STEPS):
        stepper.zero_grad()
        fabric.backward(loss_of(wrapped(x).float(), y))
        stepper.step()
        assert cone.violation() == 0.0
        assert finite(model)
    assert all(not torch.equal(a, b) for a, b in zip(before, cone.tensors(), strict=True))
    assert cone.parameters == tuple(INTERVALS)
    assert cx.certify(wrapped, example).convex


def compiled_training(method: str, compile_first: bool, backend: str, compile_step: bool = False) -> None:
    torch.compiler.reset()
    model = Every(norm=False)
    compiled = torch.compile(model, backend=backend)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.2)
    cone = cx.constrain(compiled if compile_first else model, ROW, method=method).attach(optimizer)
    loss = closure(compiled, optimizer)
    step = torch.compile(optimizer.step, backend=backend) if compile_step else optimizer.step
    for _ in range(STEPS):
        loss()
        step()
        assert cone.violation() == 0.0
    assert cx.certify(compiled, ROW).convex
    x, _ = batch()
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize(("method", "compile_first"), [("clip", True), ("softplus", False)])
def test_compiled(method: str, compile_first: bool) -> None:
    compiled_training(method, compile_first, "aot_eager")


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own
def test_a_compiled_step() -> None:
    compiled_training("exponentiate", False, "eager", compile_step=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
@pytest.mark.parametrize("method", ["clip", "softplus"])
def test_compiled_to_machine_code(method: str) -> None:
    compiled_training(method, True, "inductor")


# --- several processes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, forge: Forge) -> tuple[dict[str, Any], dict[str, Any]]:
    """What two processes found."""
    folder = tmp_path_factory.mktemp("pair")
    done = forge.run("tests.distributed:library", str(folder), folder=folder)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    return first, second


def test_data_parallel(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    first, second = (found["data parallel"] for found in pair)
    assert len(first) == 5
    for name, run in first.items():
        for other in (run, second[name]):
            assert other["violations"] == [0.0] * workers.STEPS, name
            assert other["convex"], name
        parameters = [key for key in run["weights"] if "running" not in key]
        assert all(torch.equal(run["weights"][key], second[name]["weights"][key]) for key in parameters), name
        if name in METHODS:
            expected = workers.alone(name)
            torch.testing.assert_close(dict(run["weights"]), dict(expected), rtol=0, atol=1e-12)


def test_fully_sharded(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    first, second = (found["fully sharded"] for found in pair)
    for method in ("clip", "absolute", "exponentiate"):
        run = first[method]
        assert run["violations"] == second[method]["violations"] == [0.0] * workers.STEPS
        assert (run["rows"], second[method]["rows"]) == ([2, 2, 2, 2, 1], [1, 1, 1, 1, 0])
        torch.testing.assert_close(dict(run["weights"]), dict(workers.alone(method)), rtol=0, atol=1e-12)
        model = Every(norm=False).double()
        model.load_state_dict(run["weights"])
        assert cx.certify(model, ROW.double()).convex
    assert "beside.weight is sharded" in first["shift"]
    assert "'clip'" in first["shift"]
    loaded = first["loaded"]
    assert loaded["violation"] == 0.0
    assert torch.equal(loaded["weights"]["first.weight"], loaded["given"]["first.weight"])
    assert torch.equal(loaded["weights"]["head.weight"], loaded["given"]["head.weight"].clamp(min=0))
    assert torch.equal(loaded["weights"]["less.weight"], loaded["given"]["less.weight"].clamp(max=0))
    free = loaded["given"]["beside.weight"].clone()
    free[:, :4].clamp_(min=0)
    assert torch.equal(loaded["weights"]["beside.weight"], free)


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("method", COMPUTED)
@pytest.mark.parametrize("build", [lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), Every])
@pytest.mark.usefixtures("group_of_one")
def test_sharded_parameters_behind_computed_weights(method: str, build: Callable[[], nn.Module]) -> None:
    """They are refused by name; the forward itself works, for it sees whole tensors."""
    from torch.distributed.fsdp import fully_shard

    model = build()
    cone = cx.constrain(model, ROW, method=method)
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    step = plain(model, optimizer)
    step(0)
    for refused in (cone.violation, lambda: cone.attach(optimizer)):
        with pytest.raises(ValueError, match="FSDP2"):
            refused()


@pytest.mark.usefixtures("group_of_one")
def test_computed_weights_inside_data_parallel() -> None:
    """Constrained after wrapping: an error at once (to constrain first), or a run like any other."""
    wrapped = nn.parallel.DistributedDataParallel(Every(norm=False))
    try:
        cx.constrain(wrapped, ROW, method="softplus")
    except ValueError:
        return
    step = plain(wrapped, torch.optim.SGD(wrapped.parameters(), lr=0.3))
    for number in range(3):
        step(number)


@pytest.mark.usefixtures("group_of_one")
def test_a_sharded_model_is_refused_with_advice() -> None:
    from torch.distributed.fsdp import fully_shard

    model = Every()
    fully_shard(model)
    with pytest.raises((ValueError, cx.NotTraceable), match="shard"):
        cx.constrain(model, ROW)


# --- bad input: an error that says what to do, and nothing changed ---------------------------------------------------


def traces(model: nn.Module) -> dict[str, Any]:
    """Everything that a refused `constrain` might leave behind: weights, classes, attributes, hooks, flags."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        found[f"{path}:class"] = type(module), module.training
        for name, value in vars(module).items():
            # registered hooks, parameters, buffers and modules are in dictionaries; a torch.fx graph is rebuilt
            found[f"{path}:{name}"] = sorted(map(str, value)) if isinstance(value, (dict, set)) else type(value)
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers()):
        found[name] = id(tensor), tensor._version, tensor.requires_grad
    return found


class Doubled(nn.Module):
    """One weight in two layers, or in one layer that is used twice: the second time what comes out is subtracted."""

    def __init__(self, one_layer: bool = False) -> None:
        super().__init__()
        self.first, self.up = nn.Linear(3, 3), nn.Linear(3, 3)
        self.down = self.up if one_layer else nn.Linear(3, 3)
        self.down.weight = self.up.weight

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        return torch.relu(self.up(z.relu())) - self.down(z.exp())


class Shared(nn.Module):
    """One weight in two layers that both want it non-negative."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(3, 3) for _ in range(3))
        self.third.weight = self.second.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x).relu()).relu())


class Sine(nn.Module):
    """A weight that cannot be pushed back to its parameter, after one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.free = nn.Parameter(torch.randn(1, 3))

    def forward(self, x: Tensor) -> Tensor:
        z = self.second(self.first(x).relu()).relu()
        return nn.functional.linear(z, self.free.sin())


def deep() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ELU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def frozen() -> nn.Module:
    model = deep()
    model[4].weight.requires_grad_(False)[0, 0] = -0.5
    return model


def frozen_slope() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 1))
    model[1].weight.requires_grad_(False).fill_(1.5)
    return model


def with_weight(change: Callable[[Tensor], Tensor]) -> nn.Module:
    """The last weight in another layout."""
    model = deep()
    model[4].weight = nn.Parameter(change(model[4].weight.detach()), requires_grad=False)
    return model


def not_a_number() -> nn.Module:
    model = deep()
    model[2].weight.data[1, 2] = math.nan
    return model


def quantised(weight: Tensor) -> Tensor:
    return torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)


BAD: dict[str, tuple[Callable[[], nn.Module], type[Exception], tuple[str, ...], tuple[str, ...]]] = {
    "frozen": (frozen, ValueError, ("4.weight", "frozen", "non-negative", "unfreeze"), tuple(METHODS)),
    "frozen slope": (frozen_slope, ValueError, ("1.weight", "frozen", "inside its interval"), ("clip", "softplus")),
    "opposite signs, two layers": (
        Doubled,
        cx.NotCertified,
        ("up.weight", "up and down", "opposite signs"),
        ("clip", "exp"),
    ),
    "opposite signs, one layer": (
        lambda: Doubled(one_layer=True),
        cx.NotCertified,
        ("up.weight", "opposite signs"),
        ("clip", "exp"),
    ),
    "shared, computed": (Shared, ValueError, ("second.weight and third.weight", "'clip'"), COMPUTED),
    "sine": (Sine, cx.NotCertified, ("aten.linear", "aten.sin", "softplus"), ("clip", "softplus")),
    "sparse": (lambda: with_weight(Tensor.to_sparse), ValueError, ("4.weight", "sparse", "to_dense"), ("clip", "exp")),
    "quantised": (lambda: with_weight(quantised), ValueError, ("4.weight", "quantised", "dequantize"), ("clip",)),
    "NaN": (not_a_number, cx.NotCertified, ("2.weight", "1 of 16", "NaN"), ("absolute", "softplus")),
    "GELU at the end": (
        lambda: nn.Sequential(*deep(), nn.GELU()),
        cx.NotCertified,
        ("gelu",),
        tuple(METHODS),
    ),
}


@pytest.mark.parametrize(("name", "method"), [(name, method) for name in BAD for method in BAD[name][3]])
def test_bad_input_is_named_and_nothing_changes(name: str, method: str) -> None:
    build, error, words, _ = BAD[name]
    with torch.no_grad():
        model = build()
    before = traces(model)
    with pytest.raises(error) as raised:
        cx.constrain(model, ROW, method=method)
    for word in words:
        assert word in str(raised.value)
    assert traces(model) == before


def test_what_is_refused_may_have_been_constrained_before() -> None:
    """A failure on a constrained model leaves the constraint that it had."""
    model = deep()
    cone = cx.constrain(model, ROW, method="clip")
    before = traces(model)
    model[2].weight.requires_grad_(False)
    with torch.no_grad():
        model[2].weight[0, 0] = -1.0
    for method in ("softplus", "shift"):
        with pytest.raises(ValueError, match=r"2\.weight"):
            cx.constrain(model, ROW, method=method)
    model[2].weight.requires_grad_()
    after = traces(model)
    assert {key for key in before if before[key] != after[key]} == {"2.weight"}  # the write above
    model.load_state_dict(model.state_dict())
    assert cone.violation() == 0.0


def test_traces_show_every_change() -> None:
    model = deep()
    before = traces(model)
    for method in ("clip", "softplus"):
        changed = copy.deepcopy(model)
        cx.constrain(changed, ROW, method=method)
        after = traces(changed)
        assert [key for key in before if key.endswith("hooks") and before[key] != after[key]]
        assert after.keys() - before.keys()
    with torch.no_grad():
        model[2].weight.mul_(1.0)
    assert traces(model) != before


# --- what is wrong today ---------------------------------------------------------------------------------------------


class Partial(nn.Module):
    """Convex in x for a weight >= 0, and in y for the same weight <= 0."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.y, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.last(self.x(x).relu()) - self.last(self.y(y).exp())


def test_constraints_one_after_the_other_that_contradict() -> None:
    model = Partial()
    cx.constrain(model, (ROW, ROW), method="clip", wrt=0)
    with pytest.raises(cx.NotCertified, match=r"last\.weight"):
        cx.constrain(model, (ROW, ROW), wrt=1)


@pytest.mark.parametrize("change", ["removed", "wider", "removed, then loaded"])
def test_layers_replaced_after_a_constraint(change: str) -> None:
    model = Every()
    cx.constrain(model, ROW, method="clip")
    if change == "wider":
        model.first, model.norm, model.beside = nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Linear(9, 3)
        model.less = nn.Linear(6, 3)
    else:
        model.head = nn.Identity()
    if change == "removed, then loaded":
        model.load_state_dict(model.state_dict())
    else:
        assert cx.constrain(model, ROW).violation() == 0.0
        assert cx.certify(model, ROW).convex


def test_computed_weights_in_a_recurrent_network_are_refused() -> None:
    """It keeps a flat list of its weights, in which computed ones would be no leaves: copies of it fail."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = nn.RNN(3, 3, nonlinearity="relu", batch_first=True), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.rnn(torch.stack([x, 2 * x], 1))[0][:, -1])

    model = Recurrent()
    before = traces(model)
    with pytest.raises(ValueError, match=r"rnn\.weight_hh_l0 .*exponentiate"):
        cx.constrain(model, ROW, method="softplus")
    assert traces(model) == before
    assert cx.constrain(model, ROW, method="clip").violation() == 0.0


def test_frozen_parameters_stay_where_they_are() -> None:
    model = deep()
    with torch.no_grad():
        model[4].weight.requires_grad_(False).copy_(torch.tensor([[0.0, 0.0, 1.0, 2.0]] * 2))
    weight = model[4].weight.clone()
    cx.constrain(model, ROW, method="softplus")
    assert torch.equal(model[4].weight, weight)


def test_a_buffer_in_the_memory_of_a_parameter() -> None:
    class Alias(nn.Module):
        """The matrix of the first layer once more, where it must be non-negative."""

        weight: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.register_buffer("weight", self.first.weight.detach().abs_())

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.first(x).relu(), self.weight)

    model = Alias()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    try:
        cx.constrain(model, ROW, method="clip").attach(optimizer)
    except cx.NotCertified:
        return
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    assert cx.certify(model, ROW).convex


def test_a_constant_factor_in_the_memory_of_a_parameter() -> None:
    """Its sign today says nothing of its sign after training, so no demand may be divided by it."""

    class Factor(nn.Module):
        weight: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.first, self.gain = nn.Linear(3, 3), nn.Parameter(torch.ones(3, 3))
            self.register_buffer("weight", self.first.weight.detach().abs_())

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.first(x).relu(), self.gain * self.weight)

    model = Factor()
    with pytest.raises(cx.NotCertified, match="a buffer in the memory of a parameter"):
        cx.constrain(model, ROW, method="clip")
    model.weight = model.weight.clone()
    assert cx.constrain(model, ROW, method="clip").parameters == ("gain",)
