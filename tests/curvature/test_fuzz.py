"""Random programs against the calculus (see `fuzz`), and wrong rules against the fuzzer."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from convexnet.curvature.facts import INF, Fact, constant
from convexnet.curvature.pointwise import LINE, Pointwise, Profile
from convexnet.curvature.table import TABLE


def neighbour(name: str) -> Any:
    """A module beside this file, which pytest's import mode does not put on the path."""
    spec = importlib.util.spec_from_file_location(f"convexnet_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fuzz = neighbour("fuzz")

SEEDS = st.integers(min_value=0, max_value=2**31 - 1)
# A program does not get simpler with its seed: nothing to shrink.
RUN = {
    "deadline": None,
    "phases": (Phase.explicit, Phase.reuse, Phase.generate),
    "suppress_health_check": [HealthCheck.too_slow],
}


def run(kind: str, seed: int) -> str:
    note(f"fuzz.run_one({kind!r}, {seed})")
    return fuzz.run_one(kind, seed, thorough=seed % 20 == 0)


@settings(max_examples=1_500, **RUN)
@given(seed=SEEDS)
def test_whatever_is_certified_survives(seed: int) -> None:
    run("anything", seed)


@settings(max_examples=600, **RUN)
@given(seed=SEEDS)
def test_convex_by_construction_is_certified(seed: int) -> None:
    assert run("convex", seed) == "certified"


@settings(max_examples=50, **RUN)
@given(seed=SEEDS)
def test_modules_that_write_in_place(seed: int) -> None:
    run("modules", seed)


def test_the_fuzzer_meets_certified_and_refused_programs_and_most_of_the_table() -> None:
    verdicts: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    for seed in range(150):
        built = fuzz.anything(seed)
        operators.update(str(node.target).split(".")[1] for node in built.nodes if str(node.target).startswith("aten"))
        try:
            verdicts[fuzz.check(built)] += 1
        except fuzz.Violation:  # reported by the tests above
            verdicts["violated"] += 1
    print(verdicts, len(operators))
    assert verdicts["certified"] >= 30
    assert verdicts["refused"] >= 30
    assert len(operators) >= 60
    assert set(operators) <= {*TABLE, "cumsum"}  # cumsum has no rule: unknown operators are met too


def test_a_program_is_determined_by_its_seed() -> None:
    for kind in ("anything", "convex"):
        assert fuzz.GENERATORS[kind](11).describe() == fuzz.GENERATORS[kind](11).describe()


# --- the fuzzer under test: each of these rules is wrong -------------------------------------------------------------


def without_signs(rule: Any) -> Callable[[Any], Any]:
    """The rule of a weighted operator that takes every coefficient for non-negative."""

    def wrong(call: Any) -> Any:
        weight: Fact = call.args[1]
        zero, endless = (torch.tensor(v, dtype=torch.float64).expand(weight.shape) for v in (0.0, INF))
        return rule(replace(call, args=(call.args[0], constant(weight.shape).bounded(zero, endless), *call.args[2:])))

    return wrong


def sideways(rule: Any) -> Callable[[Any], Any]:
    """A rule that forgets that other elements are moved in: the facts stay where they were."""

    def wrong(call: Any) -> Any:
        return call.x if tuple(call.x.shape) == tuple(call.shape) else rule(call)

    return wrong


SQUARE = Profile(convex=LINE, rising=LINE, nonneg=LINE, turns=(0.0,), image=(0.0, INF))
STRAIGHT = Profile(convex=LINE, concave=LINE, rising=LINE)
WRONG: dict[str, tuple[tuple[str, ...], Callable[[Any], Any], str]] = {
    "GELU as ELU": (("gelu",), lambda _: Pointwise(Profile(convex=LINE, rising=LINE, image=(-1.0, INF))), "anything"),
    "convolutions without signs": (("conv1d", "conv2d"), without_signs, "anything"),
    "linear without signs": (("linear",), without_signs, "anything"),
    "square rises": (("square",), lambda _: Pointwise(SQUARE), "anything"),
    "minimum as maximum": (("amin",), lambda _: TABLE["amax"], "anything"),
    "roll without moving": (("roll", "flip"), sideways, "anything"),
    "tanh as its linear part": (("tanh",), lambda _: Pointwise(STRAIGHT), "anything"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_the_fuzzer_finds_a_wrong_rule(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operators, make, kind = WRONG[name]
    right = {operator: TABLE[operator] for operator in operators}
    wrong = {operator: make(TABLE[operator]) for operator in operators}
    for seed in range(1_500):
        built = fuzz.GENERATORS[kind](seed)
        if not any(str(node.target).startswith(f"aten.{operator}.") for node in built.nodes for operator in operators):
            continue
        for operator in operators:
            monkeypatch.setitem(TABLE, operator, wrong[operator])
        try:
            fuzz.check(built)
        except fuzz.Violation:
            for operator in operators:
                monkeypatch.setitem(TABLE, operator, right[operator])
            try:
                fuzz.check(fuzz.GENERATORS[kind](seed))
            except fuzz.Violation:
                continue  # not this rule's doing
            print(f"found after {seed + 1} programs")
            return
    pytest.fail(f"1500 programs passed with a wrong rule: {name}")
