"""Every row of the lowering table computes what PyTorch does, and every atom is what is said of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convexnet.curvature.call import Call, Refusal
from convexnet.curvature.fields import BATCH
from convexnet.curvature.table import TABLE
from convexnet.curvature.tracing.trace import trace
from convexnet.form.affinity import fact_of, has_affine_rule
from convexnet.form.atoms import Atom, Kinks, Smooth
from convexnet.form.grouped import Largest, LogSumExp, Norm
from convexnet.form.operators import LOWERED, OFFSETS, build
from convexnet.form.perspective import Perspective
from convexnet.form.program import OpenedProgram, apply_atom
from convexnet.form.rows import Atoms
from convexnet.form.smooth import (
    NO_CONE,
    elu,
    entropy,
    exponential,
    huber,
    inverse,
    log_gamma,
    minus_log,
    minus_log_normal,
    minus_power_sum,
    minus_root,
    power,
    softplus,
    square,
    x_exp,
)
from convexnet.form.sparse import Sample as OneSample
from convexnet.form.sparse import sparse_form
from convexnet.form.sum_of_largest import SumLargest
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


def moving_in(sample: Sample) -> list[Moving]:
    def inside(value: Any) -> list[Moving]:
        if isinstance(value, (list, tuple)):
            return [found for item in value for found in inside(item)]
        return [value] if isinstance(value, Moving) else []

    return inside([*sample.args, *sample.kwargs.values()])


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("name", sorted(LOWERED))
def test_lowered_operators_are_what_they_are_in_pytorch(name: str, paired: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    operator, done, refused = getattr(torch.ops.aten, name), 0, list[str]()
    for sample in SAMPLES[name]:
        args, kwargs = called(sample, generator, {})
        if isinstance(args[0], Tensor) and args[0].ndim == 0:
            continue  # there is no batch
        try:
            moving = [isinstance(value, Moving) for value in sample.args]
            found = first(LOWERED[name](Atoms(apply_atom, paired, moving), args, kwargs))
        except Refusal as refusal:
            refused.append(refusal.remedy)
            continue
        expected = first(operator(*args, **kwargs))
        assert bool(found[expected.isnan()].isnan().all()) or name in ("sqrt", "pow"), "roots go on with 0"
        found, expected = found[~expected.isnan()], expected[~expected.isnan()]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-8, msg=lambda text, s=sample: f"{s}: {text}")
        done += 1
    assert done, f"no sample of {name} has a form: {refused}"
    assert all(refused), "a refusal without a remedy"


def facts(value: Any, held: dict[int, Any], numbers: dict[int, Tensor]) -> Any:
    """An argument of a sample as facts, where what moves is affine."""
    if isinstance(value, (list, tuple)):
        return [facts(item, held, numbers) for item in value]
    if not isinstance(value, (Fixed, Moving, Tensor)):
        return value
    if id(value) not in held:
        own = numbers[id(value)] if isinstance(value, (Fixed, Moving)) else value
        held[id(value)] = fact_of(own, isinstance(value, Moving), False)
    return held[id(value)]


def said_affine(name: str, sample: Sample, numbers: dict[int, Tensor], out: Any) -> bool:
    held: dict[int, Any] = {}
    args = tuple(facts(value, held, numbers) for value in sample.args)
    kwargs = {key: facts(value, held, numbers) for key, value in sample.kwargs.items()}
    results = [part for part in (out if isinstance(out, (tuple, list)) else [out]) if part is not None]
    shapes, types = tuple(part.shape for part in results), tuple(part.dtype for part in results)
    floating, unread = results[0].is_floating_point(), TABLE[name].shape_only
    return has_affine_rule(
        Call(getattr(torch.ops.aten, name), name, args, kwargs, shapes, floating, types, shape_only=unread)
    )


def test_what_rules_call_affine_is_affine(seed: int) -> None:
    """What is executed as it is between two cuts is what the rules of the calculus call affine, and is affine in all
    that moves together: values at midpoints. Most operators of the table are, in some sample."""
    generator = torch.Generator().manual_seed(seed)
    found: set[str] = set()
    for name in TABLE:
        operator = getattr(torch.ops.aten, name)
        for sample in SAMPLES.get(name, []):
            moving = moving_in(sample)
            held: dict[int, Tensor] = {}
            try:
                out = operator(*(call := called(sample, generator, held))[0], **call[1])
                if not moving or not said_affine(name, sample, held, out):
                    continue
                a = first(out)
                other = {key: tensor for key, tensor in held.items() if key not in {id(m) for m in moving}}
                fixed = dict(other)
                b = first(operator(*(call := called(sample, generator, other))[0], **call[1]))
                middle = {key: (held[key] + other[key]) / 2 for key in held} | fixed
                c = first(operator(*(call := called(sample, generator, middle))[0], **call[1]))
            except (RuntimeError, AttributeError):  # a sample that PyTorch itself does not run in float64
                continue
            torch.testing.assert_close(
                c, (a + b) / 2, rtol=1e-9, atol=1e-9, equal_nan=True, msg=lambda t, s=sample: f"{s}: {t}"
            )
            found.add(name)
    assert len(found) >= 100
    assert {"linear", "conv2d", "matmul", "einsum", "cat", "where", "batch_norm", "div", "mean", "avg_pool2d"} <= found
    assert not found & {"relu", "exp", "square", "maximum", "linalg_vector_norm", "logsumexp", "sqrt", "log"}


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
    form = sparse_form(OneSample(OpenedProgram(program, 0, (), paired=True), (y[:1],), BATCH if closed else None))
    for _ in range(5):
        y = 2 * torch.randn(1, 4, generator=generator, dtype=torch.float64).expand(BATCH, 4)
        np.testing.assert_allclose(evaluated(form, y[0].numpy()), model(y)[0].numpy(), rtol=1e-9, atol=1e-9)


def test_the_table_knows_what_the_calculus_knows() -> None:
    """A name that the calculus lacks could never be certified."""
    assert {*LOWERED} <= {*TABLE}
    assert {*OFFSETS} <= {*LOWERED}
    assert not {name for name, row in TABLE.items() if 0 in row.shape_only} & {*LOWERED}, "they see no variable"
    with pytest.raises(ValueError, match="twice"):
        build([("relu", LOWERED["relu"]), ("relu", LOWERED["relu"])])


ATOMS: dict[str, Atom] = {
    **{f"kink {s}": Kinks(torch.full((4,), s).double()) for s in (0.0, 0.3, 1.0, -1.0, -0.2)},
    "kinks": Kinks(torch.tensor([0.5, -0.5, 0.0, 1.0]).double()),
    **{f"elu {s}": Smooth(elu(s)) for s in (1.0, 2.5)},
    **{f"softplus {s}": Smooth(softplus(s)) for s in (1.0, 3.0)},
    "exp": Smooth(exponential()),
    "square": Smooth(square()),
    **{f"power {p}": Smooth(power(p)) for p in (1.5, 3.0, 6.0)},
    **{f"inverse {p}": Smooth(inverse(p)) for p in (-1.0, -0.5)},
    "root": Smooth(minus_root(0.3)),
    "log": Smooth(minus_log()),
    "entropy": Smooth(entropy()),
    "huber": Smooth(huber()),
    "log gamma": Smooth(log_gamma()),
    "log normal": Smooth(minus_log_normal()),
    "largest": Largest(3),
    "sum of the largest": SumLargest(5, 2),
    "logsumexp": LogSumExp(3),
    "norm": Norm(3),
    "x exp x": Smooth(x_exp()),
    **{f"perspective of {c.name}": Perspective(c) for c in (square(), entropy(), exponential())},
    **{f"mean of pairs {p}": Perspective(minus_root(p)) for p in (0.5, 0.25)},
    **{f"power sum of pairs {p}": Perspective(minus_power_sum(p)) for p in (0.5, -1.0, -3.0)},
}


@pytest.mark.parametrize("name", ATOMS)
def test_atoms_are_what_is_said_of_them(name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    atom = ATOMS[name]
    a, b = (3 * torch.randn(500, 4 * atom.group, generator=generator, dtype=torch.float64) for _ in range(2))
    if atom.partial:
        a, b = a.abs() + 0.01, b.abs() + 0.01
    middle = atom.value((a + b) / 2)
    above = (atom.value(a) + atom.value(b)) / 2
    assert float((middle - above).max()) <= 1e-9 * float(above.abs().max()), "not convex"

    step = torch.rand(a.shape, generator=generator, dtype=torch.float64)
    rising = torch.as_tensor(atom.rises | (atom.partial and atom.lifts)).expand(4) & (not atom.falls)
    change = atom.value(a + step) - atom.value(a)
    assert float(change[:, rising].min() if rising.any() else torch.tensor(0.0)) >= -1e-12
    assert bool((change[:, ~rising] < -1e-6).any(0).all()), "rising everywhere, which is not said"
    positive = atom.value(a.abs() + step) - atom.value(a.abs())
    if atom.falls:
        assert float(positive.max()) <= 1e-12
    else:
        assert (float(positive.min()) >= -1e-12) == atom.lifts, "where its argument is not negative it rises"

    nonneg = atom.nonneg(torch.zeros(4 * atom.group, dtype=torch.bool))
    assert bool((atom.value(a)[:, nonneg] >= 0).all())
    assert bool((atom.value(a)[:, ~nonneg] < 0).any(0).all()) or atom.partial, "never negative, which is not said"
    for member in range(atom.group):
        some = a.clone()
        some[:, member :: atom.group].abs_()
        known = torch.zeros(4, atom.group, dtype=torch.bool)
        known[:, member] = True
        assert bool((atom.value(some)[:, atom.nonneg(known.flatten())] >= 0).all())

    slopes = atom.pull(atom.slopes(a), torch.ones_like(middle))
    ahead = atom.value(a) + atom.push(atom.slopes(a), b - a)
    assert float((ahead - atom.value(b)).max()) <= 1e-9 * float(ahead.abs().max()), "no subgradient"
    near = atom.value(a + 1e-7 * step) - atom.value(a)
    torch.testing.assert_close((slopes * 1e-7 * step).view(500, 4, -1).sum(-1), near, rtol=1e-3, atol=1e-11)


@pytest.mark.parametrize("name", ATOMS)
def test_atoms_have_a_conic_form(name: str) -> None:
    from convexnet.export.cvxpy_atom import cone_of

    if ATOMS[name].cones == NO_CONE:
        return
    assert callable(cone_of(ATOMS[name]))
    linear = ATOMS[name].piecewise_linear or ATOMS[name].polyhedral
    assert linear == (name.startswith(("kink", "largest", "sum"))) == (not ATOMS[name].cones)
