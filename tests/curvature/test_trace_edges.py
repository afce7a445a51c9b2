"""Models at the edge of what a traced program shows: each must be refused, or certified for what it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from tests.modules import Function

ROW = torch.zeros(1, 3)


def integers_copied(x: Tensor) -> Any:
    y = torch.zeros_like(x)
    y.copy_(x.long())
    return torch.relu(x), y


REFUSED: dict[str, Callable[[Tensor], Any]] = {
    "integers copied into floats": integers_copied,
    "a power of higher rank": lambda x: x.pow(torch.tensor([[[2.0]]])).flip(1).squeeze(0),
    "dropout of a constant": lambda x: F.dropout(torch.ones_like(x), 0.5, True) * x,
    "rrelu of a constant": lambda x: F.rrelu(-torch.ones_like(x), training=True) * x,
    "alpha dropout of a constant": lambda x: F.alpha_dropout(torch.ones_like(x), 0.1, training=True) * x.relu(),
    "memory as it is": lambda x: torch.relu(x) * torch.empty(3),
    "not a number": lambda x: torch.log(torch.tensor([-1.0])) * torch.relu(x),
    "a softplus with a wide step": lambda x: F.softplus(x, beta=1e-8),
    "rounding to float32 of a constant": lambda x: x.double().abs() * (torch.full_like(x.double(), 1 - 1e-9) - 1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    certificate = cx.certify(Function(REFUSED[name]), ROW)
    assert not certificate.convex, str(certificate)
    assert certificate.findings


@pytest.mark.parametrize(
    "scale",
    [
        lambda k: (k * k).float(),
        lambda k: k.abs().float(),
        lambda k: k.clamp(min=0).to(torch.int8).float(),
        lambda k: -k.clamp(max=0).bool().float(),
    ],
)
def test_integers_wrap(scale: Callable[[Tensor], Tensor]) -> None:
    model = Function(lambda x, k: torch.relu(x) * scale(k)[:, None])
    assert not cx.certify(model, (ROW, torch.zeros(1, dtype=torch.int64)), wrt=0).convex


def test_complex_parameters_have_no_sign() -> None:
    class Rotated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.full((3,), 1j))

        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(self.w * self.w)[:, 0] * torch.relu(x)

    assert not cx.certify(Rotated(), ROW).convex


def test_an_operator_of_another_library_is_not_taken_for_its_namesake() -> None:
    @torch.library.custom_op("convexnet_tests::relu", mutates_args=())
    def imposter(x: Tensor) -> Tensor:
        return -x * x

    @imposter.register_fake
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    certificate = cx.certify(Function(lambda x: torch.ops.convexnet_tests.relu(x)), ROW)
    assert not certificate.convex
    assert "convexnet_tests::relu" in certificate.findings[0].operator
    assert cx.certify(Function(lambda x: -torch.relu(torch.relu(x))), ROW).curvature == "concave"


def test_a_buffer_the_forward_changes() -> None:
    class Flipping(nn.Module):
        b: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("b", torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(x) * self.b
            self.b.neg_()
            return y

    model = Flipping()
    certificate = cx.certify(model, ROW)
    assert not certificate.convex
    assert any("b" in finding.reason for finding in certificate.findings)
    assert model.b.tolist() == [1.0, 1.0, 1.0]


def test_a_counter_the_outputs_do_not_use() -> None:
    class Counting(nn.Module):
        n: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.zeros(()))
            self.seen: list[Any] = []

        def forward(self, x: Tensor) -> Tensor:
            self.n += 1
            self.seen.append(x)
            return torch.relu(x)

    model = Counting()
    assert cx.certify(model, ROW).convex
    assert float(model.n) == 0
    assert model.seen == []


def test_a_wrapper_that_changes_the_result() -> None:
    class Negated(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self._orig_mod = inner

        def forward(self, x: Tensor) -> Tensor:
            return -self._orig_mod(x)

    assert not cx.certify(Negated(nn.ReLU()), ROW).convex
    assert cx.falsify(Negated(nn.ReLU()), ROW) is not None
    compiled = torch.compile(nn.ReLU(), backend="eager")
    assert cx.certify(compiled, ROW).convex


def test_a_train_of_the_models_own() -> None:
    class Switching(nn.Module):
        sign = 1

        def train(self, mode: bool = True) -> Switching:
            self.sign = 1 if mode else -1
            return super().train(mode)

        def forward(self, x: Tensor) -> Tensor:
            return self.sign * torch.relu(x)

    with pytest.raises(cx.NotTraceable, match=r"overrides train"):
        cx.certify(Switching(), ROW)
    assert not cx.certify(Switching().eval(), ROW).convex


def test_a_buffer_that_shares_memory_with_a_parameter() -> None:
    class Shared(nn.Module):
        b: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))
            self.register_buffer("b", self.w.data)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x) * self.b + self.w * x

    certificate = cx.certify(Shared(), ROW)
    assert (certificate.convex, certificate.scope) == (True, "at these weights")


def test_bounds_survive_underflow_and_overflow() -> None:
    for function, box in (
        (lambda x: -torch.relu(x * 1e-200 * 1e-200), cx.Box(-1, 1, shape=(3,))),
        (lambda x: -torch.relu(torch.linalg.vector_norm(x, 400, -1, keepdim=True)), cx.Box(-0.1, 0.1, shape=(3,))),
        (lambda x: (torch.exp(x).sqrt() - 1e200).abs(), cx.Box(710, 711, shape=(3,))),
    ):
        assert not cx.certify(Function(function), ROW.double(), domain=box).convex


def test_the_running_mean_is_not_part_of_the_proof_of_a_cone() -> None:
    net = nn.Sequential(
        nn.Linear(2, 4), nn.ReLU(), nn.BatchNorm1d(4, affine=False), Function(torch.square), nn.Linear(4, 1)
    )
    with pytest.raises(cx.NotCertified):
        cx.constrain(net, torch.zeros(1, 2), method="clip")


def test_constraining_for_another_input_keeps_the_first_constraint() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(2, 2) for _ in range(4))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x))) + self.d(torch.relu(self.c(y)))

    model, rows = Two(), (torch.zeros(1, 2), torch.zeros(1, 2))
    assert cx.constrain(model, rows, method="clip", wrt=0).parameters == ("b.weight",)
    assert cx.constrain(model, rows, method="clip", wrt=1).parameters == ("b.weight", "d.weight")
    state = copy.deepcopy(model.state_dict())
    state["b.weight"].fill_(-1.0)
    model.load_state_dict(state)
    assert float(model.b.weight.detach().min()) == 0.0


def test_wrong_kinds_of_model() -> None:
    with pytest.raises(TypeError, match="instance of the class"):
        cx.certify(nn.ReLU, ROW)  # type: ignore[arg-type]
    mask = torch.tensor([True, False, True])
    with pytest.raises(cx.NotTraceable, match="depends on the values"):
        cx.certify(Function(lambda x: x[:, (x[0] > 0) & mask]), ROW)


EMPTY: dict[str, Callable[[Tensor], Tensor]] = {
    "a logarithm": lambda y: y[:, :0].log(),
    "a logarithm of what is curved": lambda y: torch.maximum(y[:, :, None], y[:, None])[:, 0, :0].log(),
    "a sine of what is curved": lambda y: y.exp()[:, :0].sin(),
    "a softmax": lambda y: y[:, :0].softmax(1),
    "a product": lambda y: y[:, :0] * y[:, 1:1],
    "a choice": lambda y: torch.where(y[:, :0] > 0, y[:, :0], y[:, :0].sin()),
    "a product of matrices": lambda y: (y[:, :, None][:, :, :0] @ y[:, None, :][:, :0].cos()).flatten(1),
    "a layer norm": lambda y: torch.nn.functional.layer_norm(y[:, :0], (0,)),
}


@pytest.mark.parametrize("name", EMPTY)
def test_what_has_no_elements_breaks_nothing(name: str) -> None:
    """Functions that are neither convex nor concave, of no number at all."""
    model = Function(lambda y: torch.cat([EMPTY[name](y), y], 1).abs().sum(1))
    assert cx.certify(model, torch.zeros(2, 2)).curvature == "convex"
