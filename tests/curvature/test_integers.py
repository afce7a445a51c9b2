"""Tensors that hold no real numbers: integers and booleans, alone, among real numbers, and as indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from convexnet.constraints.required_signs import derive_intervals
from convexnet.curvature import certify_program, explain, trace
from convexnet.curvature.facts import known, typed, unknown
from convexnet.curvature.premises import placeholder_facts
from convexnet.curvature.value_bounds import bounds_of
from convexnet.curvature.walk import walk
from tests.curvature.oracles import SAMPLES
from tests.curvature.test_table import exchange, specs
from tests.drawing import some

INF = float("inf")
U8, I8, I64 = torch.uint8, torch.int8, torch.int64
T = torch.tensor


class Held(nn.Module):
    """A forward with tensors of its own; those that require a gradient are parameters."""

    def __init__(self, function: Callable[..., Any], **tensors: Tensor | nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, value in tensors.items():
            if isinstance(value, (nn.Module, nn.Parameter)):
                setattr(self, name, value)
            else:
                self.register_buffer(name, value)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def written(m: Any, x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[:] = m.k
    y[:, :1] = x[:, :1]
    return y


def both(x: Tensor) -> Tensor:
    """An affine, a convex and a concave element, (B, 3, 2)."""
    return torch.stack([x, x.abs(), -x.abs()], 1)


AFFINE, CONVEX, CONCAVE, NEITHER = "affine", "convex", "concave", "unknown"

# name: (forward of (module, x), what the calculus must say, tensors). `truly` holds it against numbers, too.
FORWARDS: dict[str, tuple[Callable[..., Any], str, dict[str, Tensor]]] = {
    # --- arithmetic of integers ------------------------------------------------------------------------------------
    "a target of bytes": (lambda m, x: (x.relu() - m.k).square(), NEITHER, {"k": T([1], dtype=U8)}),
    "a target of bytes, all zero": (lambda m, x: (x.relu() - m.k).square(), CONVEX, {"k": T([0, 0], dtype=U8)}),
    "the least byte of a sign": (lambda m, x: x.abs() * m.k.abs(), NEITHER, {"k": T([-128, 3], dtype=I8)}),
    "its negative": (lambda m, x: x.abs() * -m.k, NEITHER, {"k": T([-128, -3], dtype=I8)}),
    "a product that wraps": (lambda m, x: x.abs() * (m.k * m.k), NEITHER, {"k": T([12, 3], dtype=I8)}),
    "a sum that does not": (lambda m, x: x.abs() * m.k.sum(), CONVEX, {"k": T([200, 100], dtype=U8)}),
    "a shift": (lambda m, x: x.abs() * (m.k << 7), CONCAVE, {"k": T([1, 1], dtype=I8)}),
    "floor division": (lambda m, x: x.abs() * (m.k // 2), CONCAVE, {"k": T([-1, -2])}),
    "a remainder": (lambda m, x: x.abs() * (m.k % 3), CONVEX, {"k": T([-1, -5])}),
    "negated bits": (lambda m, x: x.abs() * ~m.k, CONCAVE, {"k": T([0, 1])}),
    "a negated mask": (lambda m, x: x.abs() * ~m.k, CONVEX, {"k": T([True, False])}),
    "beyond what float64 holds": (
        lambda m, x: x.abs() * (m.k.type_as(x) - 2.0**53 + 0.5), CONVEX, {"k": T([2**53 + 1, 2**53])}),
    "integers near the limit": (
        lambda m, x: x.abs() * (m.k - 2**53).type_as(x), NEITHER, {"k": T([2**53 - 1, 2**53 + 1])}),
    # --- integers that become real numbers -------------------------------------------------------------------------
    "type_as": (lambda m, x: x.relu() * (m.k.type_as(x) - 1), CONCAVE, {"k": T([0, 1], dtype=U8)}),
    "one minus a mask": (lambda m, x: x.relu() * (1 - m.k.type_as(x)), CONVEX, {"k": T([True, False])}),
    "twice a mask": (lambda m, x: x.relu() * (1.5 - (m.k.type_as(x) + m.k.type_as(x))), NEITHER,
                     {"k": T([True, False])}),
    "an expanded mask": (lambda m, x: x.relu() * m.k.expand_as(x), CONVEX, {"k": T([True, False])}),
    "to": (lambda m, x: x.abs() * (m.k.to(x) - 1), CONCAVE, {"k": T([0, 1], dtype=U8)}),
    "float": (lambda m, x: x.abs() * (m.k.float() - 1), CONCAVE, {"k": T([0, 1], dtype=torch.int16)}),
    "unsigned": (lambda m, x: x.abs() * (m.k.type_as(x) - 1), CONCAVE, {"k": T([0, 1], dtype=torch.uint16)}),
    "eight bits of a real number": (
        lambda m, x: x.abs() * (m.k.to(x.dtype) - 1), CONCAVE, {"k": T([0.0, 1.0]).to(torch.float8_e4m3fn)}),
    "promoted in a difference": (lambda m, x: (m.k - x.abs()).square(), NEITHER, {"k": T([3, 0], dtype=U8)}),
    "fill_": (lambda m, x: (torch.empty_like(x).fill_(m.k) - 1) * x.abs(), CONCAVE, {"k": T(0, dtype=U8)}),
    "copy_": (lambda m, x: (torch.empty_like(x).copy_(m.k) - 1) * x.abs(), CONCAVE, {"k": T([0, 1], dtype=U8)}),
    "full_like": (lambda m, x: (torch.full_like(x, m.k.item()) - 1) * x.abs(), CONCAVE, {"k": T(0, dtype=U8)}),
    "new_full": (lambda m, x: (x.new_full((2,), m.k.item()) - 1) * x.abs(), CONCAVE, {"k": T(0, dtype=U8)}),
    "y[:] = b": (lambda m, x: written(m, x) ** 3, NEITHER, {"k": T([1, 2], dtype=U8)}),
    "y[:] = b, squared": (lambda m, x: written(m, x) ** 2, CONVEX, {"k": T([1, 2], dtype=U8)}),
    "y[:] = mask": (lambda m, x: -(written(m, x) - 1).abs(), CONCAVE, {"k": T([False, True])}),
    "concatenated": (lambda m, x: (torch.cat([x.abs(), m.k.expand(2, 2)], 1) - 1).square(), NEITHER,
                     {"k": T([0, 1], dtype=U8)}),
    "chosen": (lambda m, x: torch.where(m.k > 0, x.abs(), m.k) - m.k, CONVEX, {"k": T([0, 1], dtype=U8)}),
    "clipped": (lambda m, x: torch.maximum(x, m.k) - m.k, CONVEX, {"k": T([0, 1], dtype=U8)}),
    "a matrix of bytes": (lambda m, x: F.linear(x.abs(), m.k.type_as(x) - 1), CONCAVE, {"k": T([[0, 1]], dtype=U8)}),
    "slopes": (lambda m, x: F.prelu(x.abs(), m.k.type_as(x) - 1), CONVEX, {"k": T([0], dtype=U8)}),
    "a blend": (lambda m, x: torch.lerp(x.abs(), x, m.k.type_as(x)), CONCAVE, {"k": T([2, 1], dtype=U8)}),
    # --- numbers that are read from tensors ------------------------------------------------------------------------
    "an element": (lambda m, x: both(x)[:, m.k.item()], CONVEX, {"k": T(1)}),
    "another": (lambda m, x: both(x)[:, m.k.item()], AFFINE, {"k": T(0)}),
    "the last": (lambda m, x: both(x)[:, m.k.item()], CONCAVE, {"k": T(-1)}),
    "an element, counted": (lambda m, x: both(x)[:, 2 * m.k.item() - 1], CONVEX, {"k": T(1)}),
    "an element of an element": (lambda m, x: both(x)[:, m.k[m.j.item()].item()], CONCAVE,
                                 {"k": T([0, 2]), "j": T(1)}),
    "rolled": (lambda m, x: both(x).roll(m.k.item(), 1)[:, 0], CONCAVE, {"k": T(1)}),
    "a triangle": (lambda m, x: both(x).tril(m.k.item())[:, 2], CONCAVE, {"k": T(-1)}),
    "diagonals": (lambda m, x: both(x).triu(m.k.item())[:, 1:].sum(1), CONVEX, {"k": T(0)}),
    "a tensor of indices": (lambda m, x: both(x)[:, m.k], CONVEX, {"k": T([1, 0, 1])}),
    "picked": (lambda m, x: both(x).index_select(1, m.k % 3), CONCAVE, {"k": T([2, 5])}),
    "gathered": (lambda m, x: both(x).gather(1, m.k.expand(2, 1, 2)), CONVEX, {"k": T(1)}),
    "a factor": (lambda m, x: x.abs() * m.k.item(), CONCAVE, {"k": T(-1)}),
    "a real factor": (lambda m, x: x.abs() * (m.k.item() - 3), CONCAVE, {"k": T(2.5)}),
    "a factor that is true": (lambda m, x: x.abs() * m.k.item(), CONVEX, {"k": T(True)}),
    "a slope": (lambda m, x: F.leaky_relu(x, m.k.item()), CONCAVE, {"k": T(1.5)}),
    "a limit": (lambda m, x: x.clamp(max=m.k.item()), CONCAVE, {"k": T(1)}),
    "an exponent": (lambda m, x: torch.pow(x.abs() + 1, m.k), CONVEX, {"k": T(2)}),
}  # fmt: skip


def truly(model: nn.Module, draws: int = 400) -> str:
    """The curvature of a module of (B, 2) as chords show it, in float64."""
    generator = torch.Generator().manual_seed(0)
    x, y = 3 * torch.randn(2, draws, 2, 2, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        a, b, middle = ([model(row).double() for row in rows] for rows in (x, y, (x + y) / 2))
    gap = torch.stack([m - (p + q) / 2 for p, q, m in zip(a, b, middle, strict=True)])
    above, below = bool((gap > 1e-9).any()), bool((gap < -1e-9).any())
    return {(False, False): AFFINE, (False, True): CONVEX, (True, False): CONCAVE}.get((above, below), NEITHER)


@pytest.mark.parametrize("name", some(FORWARDS, 28, "chords"))
def test_curvature_is_what_chords_show(name: str) -> None:
    function, expected, tensors = FORWARDS[name]
    model = Held(function, **tensors)
    program = trace(model, torch.zeros(2, 2))
    found = walk(program, placeholder_facts(program, (0,), {}, lambda _: True), explain)
    certificate = certify_program(program)
    assert not found.errors
    assert certificate.curvature == expected
    assert certificate.convex == (expected in (AFFINE, CONVEX))
    assert truly(model) == expected


# --- numbers that are not known --------------------------------------------------------------------------------------


def test_an_index_that_is_not_known_is_refused() -> None:
    """Not element 0: the finding names the operator."""
    pick = lambda m, x, k: both(x)[:, k[0].item()]  # noqa: E731
    certificate = cx.certify(Held(pick), (torch.zeros(2, 2), torch.ones(2, dtype=I64)), wrt=0)
    assert not certificate.convex
    assert certificate.findings[-1].operator == "aten.select"
    assert "value is not known" in certificate.findings[-1].reason


def test_a_number_of_a_parameter_holds_at_these_weights_only() -> None:
    slope = Held(lambda m, x: F.leaky_relu(x, m.k.item()), k=nn.Parameter(T(0.5)))
    assert (cx.certify(slope, torch.zeros(2, 2)).curvature, cx.certify(slope, torch.zeros(2, 2)).scope) == (
        CONVEX, "at these weights")  # fmt: skip
    factor = Held(lambda m, x: x.abs() * m.k.item(), k=nn.Parameter(T(-0.5)))
    assert cx.certify(factor, torch.zeros(2, 2)).curvature == CONCAVE


# --- other inputs ----------------------------------------------------------------------------------------------------

# of (module, x, labels): labels are not among the inputs that the certificate is about
LABELS: dict[str, tuple[Callable[..., Any], torch.dtype, bool]] = {
    "a mask": (lambda m, x, k: x.abs() * k, torch.bool, True),
    "a mask, turned": (lambda m, x, k: x.abs() * (1 - k.type_as(x)), torch.bool, True),
    "bytes as factors": (lambda m, x, k: x.abs() * k.type_as(x), U8, True),
    "bytes, less one": (lambda m, x, k: x.abs() * (k.type_as(x) - 1), U8, False),
    "bytes, less one in bytes": (lambda m, x, k: x.abs() * (k - 1), U8, True),
    "an image of bytes": (lambda m, x, k: (x - k).square(), U8, True),
    "an image of bytes, after a ReLU": (lambda m, x, k: (x.relu() - k).square(), U8, False),
    "small integers": (lambda m, x, k: x.abs() * k, I8, False),
    "small integers and a half of their range": (lambda m, x, k: x.abs() * (k.type_as(x) + 128), I8, True),
    "compared": (lambda m, x, k: x.abs() * (k == 1), I64, True),
    "an embedding": (lambda m, x, k: x.abs() + m.table(k[:, 0] % 3), I64, True),
    "rows of others": (lambda m, x, k: x.abs() * k.flip(0), torch.bool, False),
    "a row of another, as a number": (lambda m, x, k: x + k[0, 0].item(), I64, False),
}


@pytest.mark.parametrize("name", LABELS)
def test_inputs_of_integers(name: str) -> None:
    function, dtype, expected = LABELS[name]
    model = Held(function, table=nn.Embedding(3, 2))
    labels = torch.ones(2, 2, dtype=dtype)
    certificate = cx.certify(model, (torch.zeros(2, 2), labels), wrt=0)
    assert certificate.convex == expected, str(certificate)
    if expected:
        for value in (0, 1) if dtype == torch.bool else (0, 1, torch.iinfo(dtype).min, torch.iinfo(dtype).max):
            fixed = labels * 0 + value if dtype != torch.bool else labels & bool(value)
            assert truly(Held(lambda m, x, k=fixed: function(model, x, k))) in (AFFINE, CONVEX)


# --- what stands on the calculus -------------------------------------------------------------------------------------


def network(function: Callable[..., Any], **tensors: Any) -> Held:
    torch.manual_seed(0)
    return Held(function, net=nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)), **tensors)


def least(model: nn.Module) -> float:
    """The minimum over [-1, 1]^2, on a grid of 1/20."""
    line = torch.linspace(-1, 1, 41)
    with torch.no_grad():
        return float(model(torch.cartesian_prod(line, line)).min())


HEADS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "an element by item": (lambda m, x: m.net(x)[:, m.k.item()], {"k": T(1)}),
    "a rolled element": (lambda m, x: m.net(x).roll(m.k.item(), 1)[:, 0], {"k": T(-1)}),
    "a mask": (lambda m, x: (m.net(x) * (1 - m.k.type_as(x))).sum(1), {"k": T([True, False, True])}),
    "a mask that is written": (lambda m, x: (m.net(x) + written(m, m.net(x)) * 0).sum(1), {"k": T([0, 3, 1])}),
    "a byte that wraps": (lambda m, x: (m.net(x) * (m.k - 1).type_as(x)).sum(1) / 255, {"k": T([0, 1, 2], dtype=U8)}),
    "the lesser of bytes": (lambda m, x: -torch.minimum(-m.net(x), m.k).sum(1), {"k": T([0, 0, 1], dtype=U8)}),
    "the larger of bytes": (lambda m, x: torch.maximum(m.net(x), m.k).sum(1), {"k": T([0, 0, 1], dtype=U8)}),
    "chosen bytes": (lambda m, x: torch.where(m.k > 0, m.net(x), m.k).sum(1), {"k": T([0, 3, 1], dtype=U8)}),
    "weights by item": (
        lambda m, x: F.linear(m.net(x), m.w[m.k.item()][None])[:, 0],
        {"k": T(1), "w": nn.Parameter(T([[-1.0, 1.0, 2.0], [1.0, -1.0, 0.5]]))}),
    "weights by index": (
        lambda m, x: F.linear(m.net(x), m.w[m.k])[:, 0],
        {"k": T([1]), "w": nn.Parameter(T([[-1.0, 1.0, 2.0], [1.0, -1.0, 0.5]]))}),
    "masked weights": (
        lambda m, x: F.linear(m.net(x), m.w * (1 - m.k.type_as(x)))[:, 0],
        {"k": T([0, 1, 2], dtype=U8), "w": nn.Parameter(T([[-1.0, 1.0, 2.0]]))}),
    "weights times bytes that wrap": (
        lambda m, x: F.linear(m.net(x), m.w * (m.k - 1))[:, 0] / 255,
        {"k": T([0, 1, 2], dtype=U8), "w": nn.Parameter(T([[-1.0, 1.0, 2.0]]))}),
    "weights times a number": (
        lambda m, x: F.linear(m.net(x), m.w * m.k.item())[:, 0],
        {"k": T(-2), "w": nn.Parameter(T([[-1.0, 1.0, 2.0]]))}),
}  # fmt: skip


@pytest.mark.parametrize("name", some(HEADS, 7, "constrained heads"))
def test_constrain_and_minimise_and_export(name: str) -> None:
    function, tensors = HEADS[name]
    model = network(function, **tensors)
    assert not cx.certify(model, torch.zeros(2, 2)).convex, "there is nothing to constrain"
    cx.constrain(model, torch.zeros(2, 2)).project()
    assert cx.certify(model, torch.zeros(2, 2)).convex
    box = cx.Box(-1.0, 1.0, shape=(2,))
    solution, seen = cx.minimise(model, box), least(model)
    value, bound = solution.value.item(), solution.lower_bound.item()
    assert bound <= seen + 1e-6
    assert abs(value - seen) < 1e-3 * (1 + abs(seen))
    program = cx.to_lp(model, box)
    program.setOptionValue("output_flag", False)
    program.run()
    assert abs(program.getInfo().objective_function_value - value) < 1e-5 * (1 + abs(seen))


def test_constrain_asks_the_elements_that_are_read() -> None:
    """`select` by a number that a buffer holds: the rows of the last layer are asked through it."""
    model = Held(lambda m, x: both(F.linear(x, m.w))[:, m.k.item()], w=nn.Parameter(torch.ones(2, 2)), k=T(2))
    with pytest.raises(cx.NotCertified):
        derive_intervals(model, torch.zeros(2, 2))
    model.register_buffer("k", T(1))
    assert derive_intervals(model, torch.zeros(2, 2)) == {}


@pytest.mark.parametrize("name", some(HEADS, 6, "split heads"))
def test_split(name: str) -> None:
    function, tensors = HEADS[name]
    pair = cx.split(network(function, **tensors), torch.zeros(2, 2))
    assert pair.error < 1e-9


# --- facts themselves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bool, U8, I8, torch.int16, torch.int32, torch.uint16, torch.uint32])
def test_bounds_are_real_and_exact(dtype: torch.dtype) -> None:
    value = T([True, False]) if dtype == torch.bool else T([torch.iinfo(dtype).min, 0, 1], dtype=dtype)
    fact = known(value)
    assert fact.integral
    assert fact.lo.dtype == fact.hi.dtype == torch.float64
    assert fact.lo.tolist() == fact.hi.tolist() == [float(v) for v in value.tolist()]


def test_integers_that_float64_does_not_hold_lie_between_their_bounds() -> None:
    numbers = [2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**62 + 1, 5]
    lo, hi = bounds_of(T(numbers))
    assert all(int(a) <= n <= (2**70 if b == INF else int(b)) for a, n, b in zip(lo, numbers, hi, strict=True))
    assert (float(lo[-1]), float(hi[-1])) == (5.0, 5.0)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_tensors_have_no_bounds(dtype: torch.dtype) -> None:
    lo, hi = bounds_of(torch.zeros(2, dtype=dtype))
    assert lo.tolist() == [-INF] * 2
    assert hi.tolist() == [INF] * 2


def test_a_fact_of_another_type_is_a_fault() -> None:
    with pytest.raises(TypeError, match="known as"):
        typed(known(T([1, 2])), torch.float32)
    with pytest.raises(TypeError, match="bounds of"):
        typed(unknown((2,)).bounded(*T([[0, 0], [1, 1]], dtype=U8)), torch.float32)
    assert typed(unknown((2,)), U8).hi.tolist() == [255.0, 255.0]
    assert not typed(known(T([1.0])), torch.float32).integral


# --- where a function is undefined -----------------------------------------------------------------------------------


def test_operators_that_make_a_number_of_nan_are_listed() -> None:
    from convexnet.curvature.rules.opaque_operators import Opaque
    from convexnet.curvature.rules.pointwise import Pointwise
    from convexnet.curvature.rules.reductions import Reduction, Window
    from convexnet.curvature.table import TABLE

    forgiving: set[str] = set()
    for name, samples in SAMPLES.items():
        rule, packet = TABLE[name].rule, getattr(torch.ops.aten, name)
        elementwise = torch.Tag.pointwise in getattr(packet, packet.overloads()[0]).tags
        chooses = TABLE[name].is_move or name == "pow"  # x^0 is 1 for all x
        kinds = isinstance(rule, (Pointwise, Reduction, Window)) or (elementwise and not chooses)
        if not kinds or isinstance(rule, Opaque):
            continue
        cases = [(sample, spec) for sample in samples for spec in specs((sample.args, tuple(sample.kwargs.values())))]
        for sample, bad in cases:  # one argument is NaN, and the others are 1
            table = {
                id(spec): torch.full(spec.shape, torch.nan if spec is bad else 1.0, dtype=torch.float64)
                for spec in specs((sample.args, tuple(sample.kwargs.values())))
            }
            try:
                out = getattr(torch.ops.aten, name)(
                    *exchange(list(sample.args), table, lambda value: value), **sample.kwargs
                )
            except RuntimeError:
                continue
            first = out[0] if isinstance(out, tuple) else out
            order = sample.args[1] if len(sample.args) > 1 else None
            if not bool(first.isnan().all()) and not (name == "linalg_vector_norm" and order == 0):
                forgiving.add(name)
    some = {"sort", "topk", "msort", "multi_margin_loss"}  # of several elements, and NaN is left out of one at least
    assert forgiving == {name for name, row in TABLE.items() if row.forgives} - some


@pytest.mark.parametrize("source", [
    lambda p: (1 / p) ** 0.25, lambda p: p.sqrt(), lambda p: p.log(), lambda p: p.log1p(), lambda p: p.rsqrt(),
    lambda p: p**1.5, lambda p: p.asin(), lambda p: (p * 0) / (p * 0), lambda p: p.exp() / p.relu(),
    lambda p: torch.var(p, 1, correction=2, keepdim=True), lambda p: p.reciprocal() * 0,
])  # fmt: skip
def test_nothing_rests_on_bounds_where_an_argument_may_be_undefined(source: Callable[[Tensor], Tensor]) -> None:
    """sign(NaN) is 0, whatever the bounds of the argument are where it is a number."""
    model = Held(lambda m, x, p: x.abs() * (torch.sign(source(p).clamp(1.0, 2.0)) - 0.5))
    assert not cx.certify(model, (torch.zeros(2, 2), torch.zeros(2, 2)), wrt=0).convex


def test_bounds_are_used_where_an_argument_is_defined() -> None:
    model = Held(lambda m, x, p: x.abs() * torch.sign(p.exp().sqrt() + 1) / (p.square() + 1) ** 0.25)
    assert cx.certify(model, (torch.zeros(2, 2), torch.zeros(2, 2)), wrt=0).convex


def test_bytes_that_are_added_in_place_wrap_in_the_type_that_they_are_written_to() -> None:
    class Counted(nn.Module):
        def __init__(self, start: int) -> None:
            super().__init__()
            self.register_buffer("more", torch.tensor([start, 1], dtype=torch.uint8))

        def forward(self, x: Tensor) -> Tensor:
            total = torch.zeros(2, dtype=torch.int8)
            total += self.more
            return x.abs() * total

    assert cx.certify(Counted(100), torch.zeros(1, 2)).convex
    assert not cx.certify(Counted(200), torch.zeros(1, 2)).convex  # -56 in 8 bits
