"""Every pointwise profile against a dense float64 grid: each range that it lists, and each that it leaves out."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from convexnet.curvature.call import Call
from convexnet.curvature.facts import INF, Fact, unknown
from convexnet.curvature.rules.pointwise import Pointwise, Profile, apply_profile
from convexnet.curvature.rules.pointwise_with_settings import power
from convexnet.curvature.table import TABLE
from tests.curvature.oracles import SAMPLES, Fixed, Moving, Range, Sample

REACH = 40.0  # the grid covers [-40, 40]
EPS = torch.finfo(torch.float64).eps
LINE, LEFT, RIGHT = (-INF, INF), (-INF, 0.0), (0.0, INF)
PROPERTIES = ("convex", "concave", "rising", "falling", "nonneg", "nonpos")
POWERS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 0.5, 1 / 3, 1.5, 2.5, -1.0, -2.0, -3.0, -0.5)

# Softplus steps down by log(1 + e^-20)/beta = 2.06e-9/beta where PyTorch replaces it by the identity; see its profile.
STEPS = {"softplus": 2.1e-9}

Function = Callable[[Tensor], Tensor]
Case = tuple[str, Profile, Function, float]


def calls(name: str) -> Iterator[tuple[Sample, Call]]:
    for sample in SAMPLES[name]:
        settings = (*sample.args[1:], *sample.kwargs.values())
        if not any(isinstance(value, (Moving, Fixed)) for value in settings):
            operator = getattr(torch.ops.aten, name)
            yield sample, Call(operator, name, (None, *sample.args[1:]), sample.kwargs, ((1,),))


def cases() -> dict[str, Case]:
    """Each pointwise row under each of its settings, and powers."""
    found: dict[str, Case] = {}
    for name, row in TABLE.items():
        rule = row.rule
        if isinstance(rule, Pointwise):
            for sample, call in calls(name):
                settings = [*map(repr, sample.args[1:]), *(f"{k}={v!r}" for k, v in sample.kwargs.items())]
                found[f"{name}({', '.join(settings)})"] = name, rule.of(call), call.on, step(name, sample)
    for exponent in POWERS:
        found[f"power({exponent:.3g})"] = "pow", power(exponent), lambda x, r=exponent: x**r, 0.0
    return found


def step(name: str, sample: Sample) -> float:
    beta = sample.args[1] if len(sample.args) > 1 else 1.0
    return STEPS[name] / abs(beta) if name in STEPS else 0.0


CASES = cases()


def grids(profile: Profile, within: Range) -> Iterator[Tensor]:
    """Even grids of one range: all of it, and close-ups of its ends, of zero, of the turns and of every other end."""
    if within[0] == within[1] and math.isinf(within[0]):
        return  # no number lies in it
    lo, hi = max(within[0], -REACH), min(within[1], REACH)
    yield torch.linspace(lo, hi, 16_001, dtype=torch.float64)
    listed = itertools.chain.from_iterable(getattr(profile, name) for name in PROPERTIES)
    marks = {0.0, lo, hi, *profile.turns, *(end for ends in listed for end in ends if math.isfinite(end))}
    for mark, radius in itertools.product(sorted(marks), (1.0, 1e-2)):
        left, right = max(lo, mark - radius), min(hi, mark + radius)
        if left < right:
            yield torch.linspace(left, right, 1001, dtype=torch.float64)


def excess(claim: str, function: Function, x: Tensor) -> float:
    """By how much the claim is violated on an even grid, in units of the rounding errors; at most one if it holds."""
    y = function(x)
    if bool(y.isnan().any()):
        return INF
    worst = 0.0
    if claim in ("nonneg", "nonpos"):  # a sign is exact
        return INF if bool(((y if claim == "nonneg" else -y) < 0).any()) else 0.0
    y = y if claim in ("convex", "rising") else -y
    for k in (1, 8, 64, 500):
        if claim in ("rising", "falling"):
            change = y[k:] - y[:-k]
            room = 64 * EPS * (1 + y[k:].abs() + y[:-k].abs())
        else:
            change = y[2 * k :] + y[: -2 * k] - 2 * y[k:-k]
            slope = (y[2 * k :] - y[: -2 * k]).abs() / (x[2 * k :] - x[: -2 * k])
            room = 64 * EPS * (1 + y[2 * k :].abs() + y[: -2 * k].abs() + slope * (1 + x[k:-k].abs()))
        defined = change.isfinite() & room.isfinite()
        if bool(defined.any()):
            worst = max(worst, float((-change / room)[defined].max()))
    return worst


@pytest.mark.parametrize("case", CASES)
def test_every_range_that_is_listed(case: str) -> None:
    _, profile, function, jump = CASES[case]
    wrong: list[str] = []
    for claim in PROPERTIES:
        for within in getattr(profile, claim):
            for x in grids(profile, within):
                amount = excess(claim, function, x)
                if amount > 1 + jump / (64 * EPS):
                    where = f"[{x[0]:.6g}, {x[-1]:.6g}]"
                    wrong.append(f"{claim} on {within}: broken in {where} by {amount:.3g} rounding errors")
                    break
    x = next(grids(profile, LINE))
    y = function(x)
    y = y[y.isfinite()]
    low, high = profile.image
    if bool((y < low).any()) or bool((y > high).any()):
        wrong.append(f"the image is claimed to be [{low}, {high}] and reaches [{y.min()}, {y.max()}]")
    assert not wrong, "\n".join(wrong)


# Cases whose profile leaves out something true, and why that is no loss. An entry that is not needed fails.
POLE = "it is infinite at zero, so it has no curvature on a range that contains zero"
REFUSED = "a setting that no layer has: its profile claims nothing, and says so"
DEGENERATE = "a setting at which it is constant or the identity; the ranges of the general case are kept"
STEPPED = "a jump at the end of a half-line; claiming the closed half-line would gain one point"
UNCLAIMED: dict[str, str] = {
    "elu(1.0, -1.0)": REFUSED,
    "elu(1.0, 1.0, -1.0)": REFUSED,
    "celu(-1.0)": REFUSED,
    "softplus(-1.0)": REFUSED,
    "softplus(1.0, 1.0)": "PyTorch's jump at the threshold is refused as a whole; its remedy is a threshold of 20",
    "softplus(0.5, 3.0)": "PyTorch's jump at the threshold is refused as a whole; its remedy is a threshold of 20",
    "hardtanh(1.0, 1.0)": DEGENERATE,
    "softshrink(0.0)": DEGENERATE,
    "hardshrink(0.0)": DEGENERATE,
    "threshold(0.0, 1.0)": STEPPED,
    "sign()": STEPPED,
    **dict.fromkeys(("log()", "log2()", "log10()", "lgamma()", "special_gammaln()"), POLE),
    **dict.fromkeys(("digamma()", "special_digamma()", "special_psi()"), POLE),
    "special_entr()": "it is minus infinity below zero, where nothing is claimed",
    "power(-1)": POLE,
    "power(-2)": POLE,
    "power(-3)": POLE,
    "power(-0.5)": POLE,
}


@pytest.mark.parametrize("case", CASES)
def test_every_range_that_is_left_out(case: str) -> None:
    """Where a profile is silent about a half-line or the line, the function really lacks the property there."""
    _, profile, function, _ = CASES[case]
    missed: list[tuple[str, Range]] = []
    for claim, within in itertools.product(("convex", "concave", "rising", "falling"), (LINE, LEFT, RIGHT)):
        listed = any(lo <= within[0] and within[1] <= hi for lo, hi in getattr(profile, claim))
        if not listed and all(excess(claim, function, x) <= 1 for x in grids(profile, within)):
            missed.append((claim, within))
    if case in UNCLAIMED:
        assert missed, f"{case} claims all it can: remove it from UNCLAIMED"
    else:
        assert not missed, f"{case} leaves out what is true: {missed}; claim it, or give a reason in UNCLAIMED"


def test_reasons_name_cases() -> None:
    assert set(UNCLAIMED) <= set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_bounds_of_the_image(case: str, seed: int) -> None:
    """The image of an interval, for intervals of every size and place, against a grid inside it."""
    _, profile, function, _ = CASES[case]
    generator = torch.Generator().manual_seed(seed)
    size = 10 ** (4 * torch.rand(300, generator=generator, dtype=torch.float64) - 2)
    special = torch.tensor([0.0, -1.0, 1.0, 3.0, -3.0, *profile.turns], dtype=torch.float64)
    lo = torch.randn(300, generator=generator, dtype=torch.float64) * size.clamp(max=15)
    lo[:60] = special[torch.randint(len(special), (60,), generator=generator)]
    hi = lo + size
    unbounded = torch.rand(2, 300, generator=generator)
    lo, hi = torch.where(unbounded[0] < 0.15, -INF, lo), torch.where(unbounded[1] < 0.15, INF, hi)
    fact = unknown((300,)).bounded(lo, hi)
    inner = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
    start, end = lo.clamp(min=-REACH), hi.clamp(max=REACH)
    x = (start + (end - start) * inner).clamp(start, end)
    y = function(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result: Fact = apply_profile(profile, function, fact)
    outside = ((y < result.lo) | (y > result.hi)) & (start < end)
    wrong = outside.any(0).nonzero().flatten().tolist()
    assert not wrong, "\n".join(
        f"[{lo[i]:.6g}, {hi[i]:.6g}] -> [{result.lo[i]:.6g}, {result.hi[i]:.6g}], but it reaches"
        f" [{y[:, i].nan_to_num(0).min():.6g}, {y[:, i].nan_to_num(0).max():.6g}]"
        for i in wrong[:5]
    )


def test_the_grid_finds_a_wrong_range() -> None:
    """Negative controls: claims that are false by little, or at one point only."""
    gelu: Function = torch.nn.functional.gelu
    wrong: list[tuple[str, Function, Range]] = [
        ("convex", gelu, (-1.415, 1.41)),
        ("rising", gelu, (-0.76, INF)),
        ("convex", lambda x: torch.nn.functional.elu(x, 1.001), LINE),
        ("convex", lambda x: torch.nn.functional.threshold(x, 1.0, 0.99), (-INF, 1.01)),
        ("convex", lambda x: torch.nn.functional.softplus(x, 1.0, 15.0), LINE),
        ("nonneg", lambda x: torch.nn.functional.silu(x), (-1e-3, INF)),
        ("concave", torch.abs, LINE),
        ("falling", torch.square, (-INF, 0.01)),
    ]
    for claim, function, within in wrong:
        profile = Profile(**{claim: (within,)})
        assert any(excess(claim, function, x) > 1 for x in grids(profile, within)), claim
