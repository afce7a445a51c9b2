"""What a row of the table says beside its rule, against the operator itself, run in float64 on the oracles' samples.

Each fact is a function that says what of it is false for a row, and each row is asked all of them. Rows that are wrong
on purpose show that they can fail.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from convexnet.curvature.call import Call, Refusal
from convexnet.curvature.facts import Fact, constant, known
from convexnet.curvature.fields import uniform, where_any
from convexnet.curvature.row import Row, Sum
from convexnet.curvature.rules.shapes import Moved
from convexnet.curvature.rules.shapes import Moving as Mover
from convexnet.curvature.table import ALIASES, TABLE, row_of, shape_only
from tests.curvature.oracles import SAMPLES, Fixed, Moving, Sample
from tests.curvature.test_table import exchange


@dataclass
class Drawn:
    """A sample with numbers for its tensors: `held` keeps those drawn, by the identity of what they stand for."""

    name: str
    sample: Sample
    seed: int
    held: dict[int, Tensor] = field(default_factory=dict[int, Tensor])

    def tensor(self, value: Fixed | Moving) -> Tensor:
        if id(value) not in self.held:
            generator = torch.Generator().manual_seed(self.seed + len(self.held))
            tensor = 2 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
            positive = isinstance(value, Fixed) and value.sign != "any"
            self.held[id(value)] = tensor.abs() + 0.1 if positive else tensor
        return self.held[id(value)]

    def argument(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self.argument(item) for item in value]
        if isinstance(value, (Fixed, Moving)):
            return self.tensor(value)
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    def run(self, changed: dict[int, Tensor] | None = None) -> list[Tensor]:
        """The results, with other tensors in the place of some."""
        other = replace(self, held=self.held | (changed or {}))
        out = getattr(torch.ops.aten, self.name)(
            *other.argument(list(self.sample.args)), **{k: other.argument(v) for k, v in self.sample.kwargs.items()}
        )
        return [part for part in (out if isinstance(out, (list, tuple)) else [out]) if isinstance(part, Tensor)]

    def with_noise(self, keys: list[int], scale: float = 1.0, up: bool = False) -> dict[int, Tensor]:
        """Other numbers for some of the tensors."""
        generator = torch.Generator().manual_seed(self.seed + 1_000)
        noise = {key: scale * torch.randn(self.held[key].shape, generator=generator).double() for key in keys}
        return {key: self.held[key] + (change.abs() if up else change) for key, change in noise.items()}


def tensors_in(value: Any) -> Iterator[Fixed | Moving]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (Fixed, Moving)):
        yield value


def moving_in(value: Any) -> list[int]:
    """The tensors that vary, by identity."""
    return list(dict.fromkeys(id(part) for part in tensors_in(value) if isinstance(part, Moving)))


def at(sample: Sample, places: tuple[int, ...]) -> list[int]:
    """The tensors at some places, by identity."""
    return list(dict.fromkeys(id(part) for p in places if p < len(sample.args) for part in tensors_in(sample.args[p])))


def cases(name: str, row: Row, seed: int) -> Iterator[Drawn]:
    """The samples that PyTorch runs in float64 and the rule knows, with numbers, without random ones."""
    for sample in SAMPLES[name]:
        flag = row_of(name).draws
        if flag is not None and drawing(sample, flag):
            continue
        drawn = Drawn(name, sample, seed)
        for part in tensors_in([*sample.args, sample.kwargs]):
            drawn.tensor(part)
        try:
            results = drawn.run()
        except RuntimeError:
            continue
        real = bool(results) and results[0].is_floating_point()
        if real and moving_in([*sample.args, sample.kwargs]) and is_known(drawn, results):
            yield drawn


def is_known(drawn: Drawn, results: list[Tensor]) -> bool:
    """Whether the rule says something of a sample on affine arguments; a row is about such calls."""
    sample, facts = drawn.sample, dict[int, Fact]()
    for part in tensors_in([*sample.args, sample.kwargs]):
        varying = replace(constant(part.shape), varies=uniform(True, part.shape, torch.bool))
        facts[id(part)] = varying if isinstance(part, Moving) else known(drawn.tensor(part))
    call = Call(
        getattr(torch.ops.aten, drawn.name),
        drawn.name,
        tuple(exchange(list(sample.args), facts, known)),
        {key: exchange(value, facts, known) for key, value in sample.kwargs.items()},
        tuple(tuple(part.shape) for part in results),
        shape_only=shape_only(drawn.name),
    )
    if all(fact.value is not None for fact in call.read()):
        return True  # nothing that varies is read, and the operator itself is run
    try:
        found = row_of(drawn.name).rule(call)
    except (Refusal, RuntimeError):
        return False
    return not where_any((found[0] if isinstance(found, tuple) else found).unknown)


def drawing(sample: Sample, flag: int) -> bool:
    return bool(len(sample.args) > flag and sample.args[flag])


def differs(a: Tensor, b: Tensor) -> bool:
    return not torch.allclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True)


def is_twice(key: int, value: Any) -> bool:
    """Whether one tensor stands at two places."""
    return sum(key == id(part) for part in tensors_in(value)) > 1


def varying(row: Row, sample: Sample) -> list[int] | None:
    """The tensors that may vary together; None where two factors do, or a divisor."""
    moving = moving_in([*sample.args, sample.kwargs])
    factors = [key for key in at(sample, row.factors) if key in moving]
    if any(is_twice(key, [sample.args[place] for place in row.factors if place < len(sample.args)]) for key in factors):
        return None
    divided = row.divisor is not None and set(at(sample, (row.divisor,))) & {*moving}
    return None if divided or len(factors) > 1 else moving


# --- the facts -------------------------------------------------------------------------------------------------------


def affine(row: Row, drawn: Drawn) -> str:
    """In all that varies together, or for products in each factor."""
    moving = varying(row, drawn.sample)
    if not row.is_affine or moving is None:
        return ""
    there = drawn.with_noise(moving)
    middle = {key: (drawn.held[key] + there[key]) / 2 for key in moving}
    a, b, c = drawn.run()[0], drawn.run(there)[0], drawn.run(middle)[0]
    return "not affine" if differs(c, (a + b) / 2) else ""


def signs(row: Row, drawn: Drawn) -> str:
    if not row.keeps_signs:
        return ""
    moving = moving_in([*drawn.sample.args, drawn.sample.kwargs])
    a, b = drawn.run()[0], drawn.run(drawn.with_noise(moving, up=True))[0]
    return "a negative coefficient" if bool((b < a - 1e-12).any()) else ""


def moves(row: Row, drawn: Drawn) -> str:
    """Each result is an element or a constant; nothing is left out or used twice where the row says so."""
    if not row.is_move:
        return ""
    moving = moving_in([*drawn.sample.args, drawn.sample.kwargs])
    if any(is_twice(key, list(drawn.sample.args)) for key in moving):
        return ""
    there = drawn.with_noise(moving)
    one, two = (torch.cat([part.flatten() for part in drawn.run(now)]) for now in (None, there))
    values = torch.cat([drawn.held[key].flatten() for key in moving])
    moved = one[one != two]
    if not bool(torch.isin(moved, values).all()):
        return "an element that no argument has"
    rule = row.rule
    assert isinstance(rule, Mover)
    blind = at(drawn.sample, row.shape_only)
    read = torch.cat([*(drawn.held[key].flatten() for key in moving if key not in blind), torch.zeros(0).double()])
    if not rule.drops and not bool(torch.isin(read, one).all()):
        return "an element is left out"
    return "an element is used many times" if not rule.repeats and len(moved) > len(moved.unique()) else ""


def steep(row: Row, drawn: Drawn) -> str:
    if row.steepness == math.inf:
        return ""
    moving = moving_in([*drawn.sample.args, drawn.sample.kwargs])
    for scale in (1e-3, 0.3, 10.0):
        there = drawn.with_noise(moving, scale)
        size = sum(float((there[key] - drawn.held[key]).abs().sum()) for key in moving)
        change = float((drawn.run(there)[0] - drawn.run()[0]).nan_to_num().abs().max())
        if change > row.steepness * size + 1e-9:
            return "steeper"
    return ""


def blind(row: Row, drawn: Drawn) -> str:
    """Of arguments that are taken for their shape only, elements do not count."""
    keys = at(drawn.sample, row.shape_only)
    if not keys:
        return ""
    a, b = drawn.run(), drawn.run(drawn.with_noise(keys))
    return "an element is read" if any(differs(x, y) for x, y in zip(a, b, strict=True)) else ""


def weighted(row: Row, drawn: Drawn) -> str:
    """The result is affine in each weight, and changes with it."""
    for place in row.weights if row.multiplies else ():
        for key in at(drawn.sample, (place,)):
            there = drawn.with_noise([key])
            middle = {key: (drawn.held[key] + there[key]) / 2}
            a, b, c = drawn.run()[0], drawn.run(there)[0], drawn.run(middle)[0]
            if not is_twice(key, list(drawn.sample.args)) and differs(c, (a + b) / 2):
                return "not proportional to a weight"
    return ""


def summed(row: Row, drawn: Drawn) -> str:
    """The signs of two terms."""
    if not isinstance(row.rule, Sum):
        return ""
    for sign, value in zip(row.rule.signs, drawn.sample.args, strict=False):
        for key in moving_in(value):
            twice = is_twice(key, list(drawn.sample.args))
            a, b = drawn.run()[0], drawn.run(drawn.with_noise([key], up=True))[0]
            alpha = float(drawn.sample.kwargs.get("alpha", 1))
            if not twice and alpha > 0 and bool((sign * (b - a) < -1e-12).any()):
                return "the sign of a term"
    return ""


FACTS = (affine, signs, moves, steep, blind, weighted, summed)


def wrong_of(name: str, row: Row, seed: int) -> set[str]:
    return {wrong for drawn in cases(name, row, seed) for fact in FACTS if (wrong := fact(row, drawn))}


# --- the tests -------------------------------------------------------------------------------------------------------

ASKED = [name for name, row in TABLE.items() if row.is_affine or row.steepness < math.inf or row.shape_only]


@pytest.mark.parametrize("name", ASKED)
def test_a_row_is_true(name: str, seed: int) -> None:
    row = TABLE[name]
    assert any(True for _ in cases(name, row, seed)), "no sample is covered"
    assert not wrong_of(name, row, seed)


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_the_operator_that_it_is_said_to_be(alias: str, seed: int) -> None:
    name = ALIASES[alias]
    packet, own = getattr(torch.ops.aten, alias), getattr(torch.ops.aten, name)
    assert name in TABLE
    assert alias not in TABLE
    for overload in {*packet.overloads()} & {*own.overloads()}:
        one, other = ([a.name for a in getattr(p, overload)._schema.arguments] for p in (packet, own))
        assert one == other
    met = 0
    for drawn in (Drawn(name, sample, seed) for sample in SAMPLES[name] if "rounding_mode" not in sample.kwargs):
        for a, b in zip(drawn.run(), replace(drawn, name=alias).run(), strict=True):
            assert torch.equal(a, b)
            met += 1
    assert met


def test_what_draws(seed: int) -> None:
    """With its flag, an operator gives other numbers each time; without, the same."""
    names = {name: row.draws for name, row in TABLE.items() if row.draws is not None}
    torch.manual_seed(seed)
    x = -torch.ones(2, 50, 4)
    for name, flag in names.items():
        settings = (0.5, False) if flag == 2 else (0.1, 0.9, False)
        operator = getattr(torch.ops.aten, name)
        assert torch.equal(operator(x, *settings), operator(x, *settings))
        assert not torch.equal(operator(x, *settings[:-1], True), operator(x, *settings[:-1], True))
    random = {name for name in TABLE if any(is_random(name, o) for o in getattr(torch.ops.aten, name).overloads())}
    assert random - {*names} <= {name for name in TABLE if not TABLE[name].is_affine}


def is_random(name: str, overload: str) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(getattr(torch.ops.aten, name), overload).tags


def test_an_operator_without_a_row_claims_nothing() -> None:
    row = row_of("no_such_operator")
    assert not any((row.is_affine, row.keeps_signs, row.is_move, row.weights))
    assert row.steepness == math.inf
    assert shape_only("sym_size") == shape_only("empty_like") == (0,)
    assert not shape_only("empty")


WRONG: dict[str, tuple[str, Row, str]] = {
    "a ReLU that is affine": ("relu", replace(row_of("add"), takes_numbers=False), "not affine"),
    "a subtraction that keeps signs": ("sub", Row(Moved()), "a negative coefficient"),
    "a sum that moves elements": ("add", Row(Moved()), "an element that no argument has"),
    "a slice that keeps everything": ("slice", Row(Moved(drops=False)), "an element is left out"),
    "an expansion without repeats": ("expand", Row(Moved(repeats=False)), "an element is used many times"),
    "a steep logarithm of softmax": ("log_softmax", replace(row_of("log_softmax"), steepest=0.1), "steeper"),
    "a variance with a slope": ("var", replace(row_of("var"), steepest=1.0), "steeper"),
    "a shape that is read": ("add", replace(row_of("add"), shape_only=(0,)), "an element is read"),
    "a share as a weight": ("prelu", replace(row_of("addcmul"), weights=(0,)), "not proportional to a weight"),
    "a difference as a sum": ("sub", row_of("add"), "the sign of a term"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_row_is_found(what: str, seed: int) -> None:
    name, row, words = WRONG[what]
    assert words in {wrong for turn in range(5) for wrong in wrong_of(name, row, seed + turn)}
