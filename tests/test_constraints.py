"""`constrain`: which parameters it finds, and that they stay non-negative whatever the optimiser does."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import convexnet as cx
from convexnet.constraints import derive_intervals
from tests.drawing import some
from tests.modules import Function

ROW = torch.zeros(2, 4)
PICTURE = torch.zeros(2, 1, 8, 8)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ELU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))


def mlp_with_norm() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
    )


class Pictures(nn.Module):
    """Convolutions, norms, a maximum and a sum with a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv1, self.norm1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        z = F.relu(self.norm0(self.stem(x)))
        z = F.elu(z + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(z))))))
        return self.head(self.pool(z).flatten(1))


class Tied(nn.Module):
    """One linear layer used three times, the first time on an affine argument."""

    def __init__(self) -> None:
        super().__init__()
        self.same, self.out = nn.Linear(4, 4), nn.Linear(4, 1)
        self.alias = self.same

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.alias(torch.relu(self.same(x)))))


class Branches(nn.Module):
    """Two branches that are joined by a maximum, then one more layer; one branch stays affine."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.left2, self.right, self.last = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.maximum(self.left2(F.softplus(self.left(x))), self.right(x)))


class Beside(nn.Module):
    """A layer that sees the input beside convex elements."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(7, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([F.relu(self.first(x)), x], 1))


class Matrix(nn.Module):
    """A weight that no layer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) @ self.weight


class Recurrent(nn.Module):
    """Two layers of a ReLU RNN in both directions, read at the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.RNN(4, 3, 2, nonlinearity="relu", batch_first=True, bidirectional=True), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(torch.stack([x, 2 * x], 1))[0][:, -1])


class Scaled(nn.Module):
    """Layer scales as people write them: 1 + g, a product of two, a slice of a larger parameter, addcmul."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shift = nn.Linear(4, 4), nn.Parameter(torch.randn(1, 4))
        self.gain, self.left, self.right, self.all, self.alpha = (nn.Parameter(torch.randn(4)) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        z = F.relu(self.first(x))
        z = (1 + self.gain) * z + (self.left * self.right) * z
        z = z * torch.cat([self.all[2:], self.all[2:].flip(0)])
        return torch.addcmul(self.shift, self.alpha, z)


class Difference(nn.Module):
    """What is subtracted must be concave: a weight that multiplies something convex is then <= 0."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x))) - self.d(F.softplus(self.c(x)))


DERIVED: dict[str, tuple[Callable[[], nn.Module], Tensor, tuple[str, ...]]] = {
    "mlp": (mlp, ROW, ("2.weight", "4.weight")),
    "mlp with batch norm": (mlp_with_norm, ROW, ("3.weight", "4.weight", "6.weight")),
    "convolutional": (
        Pictures,
        PICTURE,
        ("conv1.weight", "norm1.weight", "conv2.weight", "norm2.weight", "head.weight"),
    ),
    "several linear layers first": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 1)),
        ROW,
        ("4.weight",),
    ),
    "tied": (Tied, ROW, ("same.weight", "out.weight")),
    "branches": (Branches, ROW, ("left2.weight", "last.weight")),
    "no nonlinearity": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)), ROW, ()),
    "no parameters": (lambda: nn.Sequential(nn.ReLU(), nn.Softplus()), ROW, ()),
    "nonlinearity first": (lambda: nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), ROW, ("1.weight",)),
    "beside the input": (Beside, ROW, ("last.weight",)),
    "matmul": (Matrix, ROW, ("weight",)),
    "minus": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Function(torch.neg), nn.Linear(4, 1)),
        ROW,
        ("3.weight",),
    ),
    "difference": (Difference, ROW, ("b.weight", "d.weight")),
    "slopes": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 4), nn.PReLU(4)),
        ROW,
        ("1.weight", "2.weight", "3.weight"),
    ),
    "recurrent": (
        Recurrent,
        ROW,
        (
            *(f"rnn.weight_{kind}{way}" for kind in ("hh_l0", "ih_l1", "hh_l1") for way in ("", "_reverse")),
            "out.weight",
        ),
    ),
    "scaled": (Scaled, ROW, ("gain", "left", "right", "all", "alpha")),
    "softplus weights need none": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Positive()),
        ROW,
        (),
    ),
}  # fmt: skip


class Positive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.softplus(self.raw))


@pytest.mark.parametrize(
    ("method", "name"),
    [case for name in DERIVED for case in some(product(["exponentiate", "clip"], [name]), 1, f"derived, {name}")],
)
def test_the_constrained_parameters_are_derived(name: str, method: str) -> None:
    build, example, expected = DERIVED[name]
    model = build()
    free = {n: p.detach().clone() for n, p in model.named_parameters() if n not in expected}
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    flags = [m.training for m in model.modules()]
    cone = cx.constrain(model, example, method=method)
    assert set(cone.parameters) == set(expected)
    assert cone.violation() == 0.0
    assert cx.certify(model, example).convex
    for n, value in free.items():
        assert torch.equal(model.get_parameter(n), value), n
    for n, interval in cone.intervals.items():  # entries that are free, in a column or a slice, are not touched
        kept = ~interval.where.expand(before[n].shape)
        assert torch.equal(model.get_parameter(n)[kept], before[n][kept]), n
    assert [m.training for m in model.modules()] == flags


INTERVALS: dict[str, tuple[Callable[[], nn.Module], str, Any, Any]] = {
    "columns that meet the input are free": (Beside, "last.weight", [[0.0] * 3 + [-math.inf] * 4], [[math.inf] * 7]),
    "what is subtracted": (Difference, "d.weight", [[-math.inf]], [[0.0]]),
    "1 + g": (Scaled, "gain", [-1.0], [math.inf]),
    "a slice": (Scaled, "all", [-math.inf, -math.inf, 0.0, 0.0], [math.inf] * 4),
    "slope on an affine argument": (lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU()), "1.weight", [-math.inf], [1.0]),
    "slope on a convex argument": (
        lambda: nn.Sequential(nn.ReLU(), nn.Linear(4, 4), nn.PReLU()),
        "2.weight",
        [0.0],
        [1.0],
    ),
}


@pytest.mark.parametrize("name", INTERVALS)
def test_the_intervals_are_as_wide_as_they_can_be(name: str) -> None:
    build, parameter, lo, hi = INTERVALS[name]
    model = build()
    interval = derive_intervals(model, ROW)[parameter]
    shape = model.get_parameter(parameter).shape
    expected = (torch.tensor(v, dtype=torch.float64).expand(shape) for v in (lo, hi))
    assert all(torch.equal(a.expand(shape), b) for a, b in zip((interval.lo, interval.hi), expected, strict=True))


def test_taps_of_a_filter_that_only_ever_see_padding_are_free() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(2, 4, 3, padding=1, groups=2))
    asked = derive_intervals(model, torch.zeros(1, 2, 1, 5))["1.weight"].where.expand(4, 1, 3, 3)
    expected = torch.zeros(4, 1, 3, 3, dtype=torch.bool)
    expected[:, :, 1] = True
    assert torch.equal(asked, expected)


def test_partial_convexity_constrains_the_path_of_y_only() -> None:
    class Partial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u1, self.u2, self.uz, self.y1, self.z2 = (nn.Linear(4, 4) for _ in range(5))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            u = torch.tanh(self.u2(torch.tanh(self.u1(x))))
            return self.z2(F.softplus(self.y1(y) + self.uz(u)))

    model = Partial()
    cone = cx.constrain(model, (ROW, ROW), wrt=1)
    assert cone.parameters == ("z2.weight",)
    assert cx.certify(model, (ROW, ROW), wrt=1).convex


# --- the two methods -------------------------------------------------------------------------------------------------


def test_exponentiate_has_the_papers_values() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(6, 1, bias=False)).double()
    values = [-1e-6, -2.0, 0.0, 3.0, -700.0, -0.0]
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([values]))
    cx.constrain(model, torch.zeros(2, 6, dtype=torch.float64), method="exponentiate", epsilon=5.0)
    expected = [math.exp(-1e-6 - 5), math.exp(-7.0), 0.0, 3.0, math.exp(-705.0), 0.0]
    assert model[1].weight.tolist()[0] == pytest.approx(expected, rel=1e-14, abs=0)
    with torch.no_grad():
        model[1].weight.fill_(-1.0)
    cx.constrain(model, torch.zeros(2, 6, dtype=torch.float64), method="exponentiate", epsilon=2.0)
    assert model[1].weight.tolist()[0] == pytest.approx([math.exp(-3.0)] * 6, rel=1e-14)


def test_without_a_method_the_recorded_one_is_used_again() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(3, 1, bias=False))
    cx.constrain(model, torch.zeros(2, 3), method="clip")
    with torch.no_grad():
        model[1].weight.fill_(-1.0)
    cx.constrain(model, torch.zeros(2, 3))
    assert model[1].weight.tolist() == [[0.0, 0.0, 0.0]]


def test_clip_is_the_euclidean_projection() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-1e-45, -3.0, 2.0]]))
    cx.constrain(model, torch.zeros(2, 3), method="clip")
    assert model[1].weight.tolist() == [[0.0, 0.0, 2.0]]


@pytest.mark.parametrize("method", ["exponentiate", "clip"])
def test_twice_is_once(method: str) -> None:
    model = Pictures()
    cx.constrain(model, PICTURE, method=method)
    once = copy.deepcopy(model.state_dict())
    cone = cx.constrain(model, PICTURE, method=method)
    cone.project()
    assert all(torch.equal(a, b) for a, b in zip(once.values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.5, 1e-12, 1e-40])
def test_the_violation_is_the_most_negative_entry(dtype: torch.dtype, size: float) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(3, 2)).to(dtype)
    cone = cx.constrain(model, torch.zeros(2, 3, dtype=dtype), method="clip")
    with torch.no_grad():
        model[1].weight[1, 2] = -size
    assert cone.violation() == pytest.approx(size, rel=1e-4)
    cone.project()
    assert cone.violation() == 0.0


def test_the_violation_of_a_tiny_float64_weight_is_not_zero() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(3, 2)).double()
    example = torch.zeros(2, 3, dtype=torch.float64)
    cone = cx.constrain(model, example, method="clip")
    with torch.no_grad():
        model[1].weight[0, 0] = -1e-60
    assert not cx.certify(model, example).convex
    assert cone.violation() > 0.0


def test_nan_is_a_violation() -> None:
    model = mlp()
    cone = cx.constrain(model, ROW)
    with torch.no_grad():
        model[2].weight[0, 0] = math.nan
    assert math.isnan(cone.violation())


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"method": "square"}, "unknown method"),
        *(({"epsilon": value}, "^epsilon must be a") for value in (-1.0, math.nan, math.inf, "5", None, [5.0], True)),
    ],
)
def test_unknown_methods(keywords: dict[str, Any], words: str) -> None:
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((ValueError, TypeError), match=words):
        cx.constrain(model, ROW, **keywords)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


# --- training --------------------------------------------------------------------------------------------------------

OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "Adam foreach": lambda p: torch.optim.Adam(p, lr=0.1, foreach=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.05),
    # its memory of past gradients is of little use after a projection, and long steps on it diverge on some machines
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=4, history_size=1),
}


@pytest.mark.parametrize(
    ("name", "method"),
    [case for name in OPTIMISERS for case in some(product([name], ["exponentiate", "clip"]), 1, f"steps, {name}")],
)
def test_convex_after_every_step(name: str, method: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = mlp_with_norm().train()
    optimizer = OPTIMISERS[name](model.parameters())
    cone = cx.constrain(model, ROW, method=method).attach(optimizer)
    x, y = torch.randn(32, 4, generator=generator), torch.randint(0, 3, (32,), generator=generator)
    touched = False

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(model(x), y)
        value.backward()
        return value

    for step in range(12):
        before = [p.detach().clone() for p in cone.tensors()]
        optimizer.step(loss)
        touched |= any(not torch.equal(a, b) for a, b in zip(before, cone.tensors(), strict=True))
        assert cone.violation() == 0.0
        assert all(bool(p.isfinite().all()) for p in model.parameters())
        if step % 4 == 3:
            assert cx.certify(model, ROW).convex
    assert touched
    assert float(loss().detach()) < 1.2


def test_without_attach_convexity_is_lost_and_detach_stops() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    cone = cx.constrain(model, ROW, method="clip").attach(optimizer)

    def push() -> None:
        optimizer.zero_grad()
        (model[2].weight.sum() + model[4].weight.sum()).backward()
        optimizer.step()

    push()
    assert cone.violation() == 0.0
    cone.detach()
    push()
    assert cone.violation() > 0.5
    assert not cx.certify(model, ROW).convex
    cone.attach(optimizer)
    cone.attach(optimizer)  # twice does no harm, and one detach ends both
    push()
    assert cone.violation() == 0.0
    cone.detach()
    push()
    assert cone.violation() > 0.0


def test_weights_that_the_optimiser_never_moves_are_left_alone() -> None:
    model = mlp()
    cone = cx.constrain(model, ROW, method="exponentiate").attach(torch.optim.SGD(model.parameters(), lr=1.0))
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        cone.project()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_step_that_the_gradient_scaler_skips_changes_nothing() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cone = cx.constrain(model, ROW, method="clip").attach(optimizer)
    with torch.no_grad():
        model[2].weight[0, 0] = -1.0  # to be seen: a skipped step must not project either
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for grad, skipped in ((math.inf, True), (0.0, False)):
        before = [p.detach().clone() for p in model.parameters()]
        for p in model.parameters():
            p.grad = torch.full_like(p, grad)
        scaler.scale(torch.zeros((), requires_grad=True))
        scaler.step(optimizer)
        scaler.update()
        unchanged = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert unchanged is skipped
    assert cone.violation() == 0.0


def test_an_optimiser_that_does_not_hold_the_parameters_is_refused() -> None:
    model, other = mlp(), mlp()
    cone = cx.constrain(model, ROW)
    with pytest.raises(ValueError, match=r"2\.weight"):
        cone.attach(torch.optim.SGD(other.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"does not hold 4\.weight"):
        cone.attach(torch.optim.SGD([p for n, p in model.named_parameters() if n != "4.weight"], lr=0.1))
    groups = [{"params": [model[0].weight]}, {"params": [model[2].weight, model[4].weight], "lr": 1.0}]
    cone.attach(torch.optim.SGD(groups, lr=0.1))


# --- state, copies, frozen parameters --------------------------------------------------------------------------------


def test_loading_weights_projects_them() -> None:
    model, other = mlp_with_norm(), mlp_with_norm()
    cone = cx.constrain(model, ROW, method="clip")
    model.load_state_dict(other.state_dict())
    assert cone.violation() == 0.0
    assert torch.equal(model[0].weight, other[0].weight)
    assert torch.equal(model[3].weight, other[3].weight.clamp(min=0))
    assert cx.certify(model, ROW).convex
    whole = nn.ModuleDict({"net": model})
    whole.load_state_dict({f"net.{k}": v for k, v in other.state_dict().items()})
    assert cone.violation() == 0.0
    model.load_state_dict(other.state_dict(), assign=True)
    assert cone.violation() == 0.0


def test_a_deep_copy_keeps_a_constraint_of_its_own() -> None:
    model, other = mlp(), mlp()
    cone = cx.constrain(model, ROW, method="clip")
    twin = copy.deepcopy(model)
    original = copy.deepcopy(model.state_dict())
    twin.load_state_dict(other.state_dict())
    assert float(twin[2].weight.detach().min()) == 0.0
    assert all(torch.equal(a, b) for a, b in zip(original.values(), model.state_dict().values(), strict=True))
    with torch.no_grad():
        twin[2].weight.fill_(-1.0)
    cone.project()
    assert float(twin[2].weight.detach().max()) == -1.0
    assert cx.constrain(twin, ROW, method="clip").violation() == 0.0
    with pytest.raises(ValueError, match="copy"):
        cone.attach(torch.optim.SGD(twin.parameters(), lr=0.1))


def test_a_saved_and_loaded_model_is_still_constrained() -> None:
    model = mlp()
    cx.constrain(model, ROW, method="clip")
    memory = io.BytesIO()
    torch.save(model, memory)
    memory.seek(0)
    back = torch.load(memory, weights_only=False)
    back.load_state_dict(mlp().state_dict())
    assert float(back[2].weight.detach().min()) == 0.0


def test_a_second_constraint_replaces_the_first() -> None:
    model, other = mlp(), mlp()
    cx.constrain(model, ROW, method="exponentiate")
    cx.constrain(model, ROW, method="clip")
    model.load_state_dict(other.state_dict())
    assert torch.equal(model[2].weight, other[2].weight.clamp(min=0))


def test_a_frozen_parameter_that_violates_is_an_error_and_nothing_changes() -> None:
    model = mlp()
    model[4].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"4\.weight .*frozen"):
        cx.constrain(model, ROW)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    with torch.no_grad():
        model[4].weight.abs_()
    cone = cx.constrain(model, ROW)
    assert "4.weight" in cone.parameters
    cone.attach(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1))


# --- what cannot be constrained --------------------------------------------------------------------------------------


HOPELESS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "GELU": (lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 1)), "gelu"),
    "LayerNorm": (lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 1)), "layer_norm"),
    "sigmoid gate": (lambda: nn.Sequential(nn.Linear(4, 4), Function(lambda x: x * x.sigmoid()), nn.Linear(4, 1)), ""),
    "where(x > 0)": (lambda: nn.Sequential(nn.Linear(4, 4), Function(lambda x: torch.where(x > 0, x, 2 * x))), ""),
    "where(x > 0), upside down": (
        lambda: nn.Sequential(nn.Linear(4, 4), Function(lambda x: torch.where(x > 0, -x, x))),
        "",
    ),
    "rows": (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Function(lambda x: x - x.mean(0))), ""),
    "dropout": (
        lambda: nn.Sequential(nn.Linear(4, 4), Function(lambda x: F.dropout(x, 0.5, training=True))),
        "dropout",
    ),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_what_non_negative_weights_cannot_mend_is_refused_and_left_alone(name: str) -> None:
    build, words = HOPELESS[name]
    model = build()
    before = copy.deepcopy(model.state_dict())
    attributes = set(model.__dict__)
    with pytest.raises(cx.NotCertified) as raised:
        cx.constrain(model, ROW)
    assert words in str(raised.value)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert set(model.__dict__) == attributes
    other = build()
    model.load_state_dict(other.state_dict())  # no hook was left behind
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), model.state_dict().values(), strict=True))


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="Module"):
        cx.constrain(torch.relu, ROW)  # type: ignore[arg-type]
    with pytest.raises(cx.NotTraceable):
        cx.constrain(mlp(), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="names input 3"):
        cx.constrain(mlp(), ROW, wrt=3)


# --- what a model remembers ------------------------------------------------------------------------------------------


def nested() -> nn.Sequential:
    def part() -> nn.Sequential:
        return nn.Sequential(nn.Linear(4, 5), nn.SiLU(), nn.Linear(5, 4))

    return nn.Sequential(part(), nn.ReLU(), part())


def test_a_cone_of_submodules_says_so() -> None:
    one = cx.convexify(nested(), ROW, only="2", method="clip")
    cone = cx.constrain(one, ROW)
    assert (cone.only, cone.parameters) == (("2",), ("2.2.weight",))
    assert "convex in the input of 2 only" in str(cone)
    assert not cx.certify(one, ROW).convex
    both = cx.constrain(cx.convexify(one, ROW, only="0", method="clip"), ROW)
    assert (both.only, set(both.parameters)) == (("2", "0"), {"0.2.weight", "2.2.weight"})
    mixed = cx.convexify(one, ROW, only="0", method="absolute")
    with pytest.raises(ValueError, match="name one"):
        cx.constrain(mixed, ROW)


def test_converting_the_whole_forgets_the_part() -> None:
    whole = cx.convexify(cx.convexify(nested(), ROW, only="2", method="clip"), ROW, method="clip")
    cone = cx.constrain(whole, ROW)
    assert cone.only == ()
    assert set(cone.parameters) == {"0.2.weight", "2.0.weight", "2.2.weight"}


@pytest.mark.parametrize("method", ["clip", "absolute", "softplus"])
def test_wrapping_a_model_does_not_forget_its_method(method: str) -> None:
    inner = cx.convexify(nested(), ROW, method=method)
    known = cx.constrain(inner, ROW).method
    assert cx.constrain(nn.Sequential(nn.Identity(), inner), ROW).method == known


def test_the_inputs_are_remembered() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x, self.x2, self.y, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.out(F.relu(self.y(y) + self.x2(F.relu(self.x(x)))))

    model = Sum()
    assert cx.constrain(model, (ROW, ROW), wrt=1).parameters == ("out.weight",)
    assert cx.constrain(model, (ROW, ROW)).parameters == ("out.weight",)
    assert set(cx.constrain(model, (ROW, ROW), wrt=(0, 1)).parameters) == {"out.weight", "x2.weight"}


def test_attaching_projects_at_once() -> None:
    model = mlp()
    cone = cx.constrain(model, ROW, method="clip")
    with torch.no_grad():
        model[2].weight.fill_(-1.0)
    cone.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    assert cone.violation() == 0.0


def test_a_normalised_first_layer_stays_free() -> None:
    spectral = parametrizations.spectral_norm(nn.Linear(4, 6))
    model = nn.Sequential(spectral, nn.ReLU(), nn.Linear(6, 2))
    assert cx.constrain(model, ROW, method="clip").parameters == ("2.weight",)
    with pytest.raises(cx.NotCertified, match="quotient of parameters"):
        cx.constrain(nn.Sequential(nn.ReLU(), copy.deepcopy(spectral)), ROW)


def test_what_cannot_be_copied_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    prune.random_unstructured(model[2], "weight", 0.5)
    with pytest.raises(ValueError, match=r"2\.weight .*prune\.remove"):
        cx.convexify(model, ROW)
