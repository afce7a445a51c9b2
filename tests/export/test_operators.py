"""Every operator of the exporters' tables computes what PyTorch's does, and every bend is what is said of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convexnet.curvature.call import Refusal
from convexnet.curvature.fields import BATCH
from convexnet.curvature.table import TABLE
from convexnet.curvature.trace import trace
from convexnet.export.bends import BENDS
from convexnet.export.form import form_of
from convexnet.export.operators import AFFINE, BENT, FACTORS, build
from convexnet.export.reading import Reading
from convexnet.export.rules import Use
from convexnet.export.sender import Sender
from tests.curvature.oracles import SAMPLES, Fixed, Moving, Sample
from tests.export.forms import evaluated


def drawn(value: Any, generator: torch.Generator, held: dict[int, Tensor]) -> Any:
    """An argument of a sample, as numbers; the same object is the same tensor."""
    if isinstance(value, (list, tuple)):
        return [drawn(item, generator, held) for item in value]
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.double()
    if not isinstance(value, (Fixed, Moving)):
        return value
    if id(value) not in held:
        tensor = 2 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        positive = isinstance(value, Fixed) and value.sign != "any"
        held[id(value)] = tensor.abs() + 0.1 if positive else tensor
    return held[id(value)]


def called(sample: Sample, generator: torch.Generator, held: dict[int, Tensor]) -> tuple[list[Any], dict[str, Any]]:
    args = [drawn(value, generator, held) for value in sample.args]
    return args, {key: drawn(value, generator, held) for key, value in sample.kwargs.items()}


def first(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out[0]


def at_its_value(bend: str, a: Tensor, setting: float | Tensor = 0.0, group: bool = False) -> Tensor:
    return BENDS[bend].value(a if group else a[..., None], setting)


def moving_in(sample: Sample) -> list[Moving]:
    def inside(value: Any) -> list[Moving]:
        if isinstance(value, (list, tuple)):
            return [found for item in value for found in inside(item)]
        return [value] if isinstance(value, Moving) else []

    return inside([*sample.args, *sample.kwargs.values()])


@pytest.mark.parametrize("name", sorted(BENT))
def test_bent_operators_are_what_they_are_in_pytorch(name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    operator, done, refused = getattr(torch.ops.aten, name), 0, list[str]()
    for sample in SAMPLES[name]:
        args, kwargs = called(sample, generator, {})
        if isinstance(args[0], Tensor) and args[0].ndim == 0:
            continue  # there is no batch
        try:
            found = first(BENT[name](at_its_value, Use(operator, args, kwargs)))
        except Refusal as refusal:
            refused.append(refusal.remedy)
            continue
        expected = first(operator(*args, **kwargs))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-8, msg=lambda text, s=sample: f"{s}: {text}")
        done += 1
    assert done, f"no sample of {name} has a form: {refused}"
    assert all(refused), "a refusal without a remedy"


@pytest.mark.parametrize("name", sorted(AFFINE - {"getitem"}))
def test_affine_operators_are_affine(name: str, seed: int) -> None:
    """In all their tensors together, or for products in each factor."""
    generator = torch.Generator().manual_seed(seed)
    operator, done = getattr(torch.ops.aten, name), 0
    for sample in SAMPLES[name]:
        moving = moving_in(sample)
        factors = [sample.args[place] for place in FACTORS.get(name, ()) if place < len(sample.args)]
        if len([m for m in moving if any(m is f or (isinstance(f, list) and m in f) for f in factors)]) > 1:
            continue  # a product of two that move is refused
        held: dict[int, Tensor] = {}
        try:
            a = first(operator(*(call := called(sample, generator, held))[0], **call[1]))
            other = {key: tensor for key, tensor in held.items() if key not in {id(m) for m in moving}}
            fixed = dict(other)
            b = first(operator(*(call := called(sample, generator, other))[0], **call[1]))
            middle = {key: (held[key] + other[key]) / 2 for key in held} | fixed
            c = first(operator(*(call := called(sample, generator, middle))[0], **call[1]))
        except RuntimeError:  # a sample that PyTorch itself does not run in float64
            continue
        if not a.is_floating_point() or not moving or (name in NOT_ALL and not NOT_ALL[name](sample)):
            continue
        torch.testing.assert_close(
            c, (a + b) / 2, rtol=1e-9, atol=1e-9, equal_nan=True, msg=lambda t, s=sample: f"{s}: {t}"
        )
        done += 1
    assert done


NOT_ALL: dict[str, Any] = {
    "div": lambda sample: isinstance(sample.args[0], Moving) and "rounding_mode" not in sample.kwargs,
    "batch_norm": lambda sample: not any(isinstance(v, Moving) for v in sample.args[1:]) and not sample.args[5],
    "dropout": lambda sample: not sample.args[2],
    "view": lambda sample: not isinstance(sample.args[1], torch.dtype),
}
"""Samples that are affine; the calculus refuses or names the others."""

TRACED = ["relu", "max", "max_pool2d", "logsumexp", "linear", "conv2d", "cat", "slice", "index_select", "pow"]


class Called(nn.Module):
    """One operator on affine functions of y."""

    def __init__(self, name: str, sample: Sample, generator: torch.Generator) -> None:
        super().__init__()
        self.name, self.sample, self.generator = name, sample, generator
        self.held: dict[int, Tensor] = {}
        called(sample, generator, self.held)
        moving = moving_in(sample)
        self.maps = {
            id(m): torch.randn(torch.Size(m.shape[1:]).numel(), 4, generator=generator).double() for m in moving
        }

    def forward(self, y: Tensor) -> Tensor:
        shapes = {id(m): m.shape[1:] for m in moving_in(self.sample)}
        now = self.held | {key: (y @ w.T + 0.1).reshape(-1, *shapes[key]) for key, w in self.maps.items()}
        args, kwargs = called(self.sample, self.generator, now)
        return first(getattr(torch.ops.aten, self.name)(*args, **kwargs)).reshape(y.shape[0], -1)


@pytest.mark.parametrize("closed", [False, True], ids=["any batch", "one batch size"])
@pytest.mark.parametrize("name", TRACED)
def test_forms_compute_the_program(name: str, closed: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    samples = [s for s in SAMPLES[name] if {m.shape[:1] for m in moving_in(s)} == {(BATCH,)} and len(moving_in(s)) == 1]
    skipped = {"max": 1, "pow": 2, "cat": 2}.get(name, 0)
    model = Called(name, samples[skipped], generator)
    y = torch.randn(1, 4, generator=generator, dtype=torch.float64).expand(BATCH, 4)
    program = trace(model, y, any_batch=not closed)
    form = form_of(Sender(Reading(program, 0, (), list(BENDS)), (y[:1],), BATCH if closed else None))
    for _ in range(5):
        y = 2 * torch.randn(1, 4, generator=generator, dtype=torch.float64).expand(BATCH, 4)
        np.testing.assert_allclose(evaluated(form, y[0].numpy()), model(y)[0].numpy(), rtol=1e-9, atol=1e-9)


def test_the_tables_know_what_the_calculus_knows() -> None:
    """A name that the calculus lacks could never be certified, and one in both tables would be ambiguous."""
    known = {*TABLE, "getitem"}
    assert {*BENT} <= known
    assert known >= AFFINE
    assert {*FACTORS} <= AFFINE
    assert {*BENT} & AFFINE == {"mul"}, "mul is a square, or affine"
    shaped = {name for name, row in TABLE.items() if 0 in row.shape_only}
    assert shaped & ({*BENT} | AFFINE) == {"copy"}, "the others do not see the variable"
    with pytest.raises(ValueError, match="twice"):
        build([("relu", BENT["relu"]), ("relu", BENT["relu"])])


SETTINGS: dict[str, list[Any]] = {
    "kink": [0.0, 0.3, 1.0, -1.0, -0.2, torch.tensor([0.5, -0.5, 0.0, 1.0]).double()],
    "elu": [0.1, 0.5, 1.0],
}


@pytest.mark.parametrize("name", BENDS)
def test_bends_are_what_is_said_of_them(name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bend = BENDS[name]
    group = 3 if name in ("largest", "logsumexp", "norm") else 1
    for setting in SETTINGS.get(name, [0.0]):
        a, b = (3 * torch.randn(500, 4, group, generator=generator, dtype=torch.float64) for _ in range(2))
        middle = bend.value((a + b) / 2, setting)
        above = (bend.value(a, setting) + bend.value(b, setting)) / 2
        assert float((middle - above).max()) <= 1e-9 * float(above.abs().max()), "not convex"

        step = torch.rand(a.shape, generator=generator, dtype=torch.float64)
        rising = torch.as_tensor(bend.rising(setting)).expand(4)
        change = bend.value(a + step, setting) - bend.value(a, setting)
        assert float(change[:, rising].min() if rising.any() else torch.tensor(0.0)) >= -1e-12
        assert bool((change[:, ~rising] < -1e-6).any(0).all()), "rising everywhere, which is not said"
        positive = bend.value(a.abs() + step, setting) - bend.value(a.abs(), setting)
        assert float(positive.min()) >= -1e-12, "where its argument is not negative it rises"

        nonneg = torch.as_tensor(bend.nonneg(setting)).expand(4)
        assert bool((bend.value(a, setting)[:, nonneg] >= 0).all())
        assert bool((bend.value(a, setting)[:, ~nonneg] < 0).any(0).all()), "never negative, which is not said"


@pytest.mark.parametrize("name", BENDS)
def test_bends_have_a_conic_form(name: str) -> None:
    from convexnet.export.atom import CONES

    assert {*CONES} == {*BENDS}
    assert BENDS[name].piecewise_linear == (name in ("kink", "largest"))
