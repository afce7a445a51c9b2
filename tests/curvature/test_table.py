"""Every rule of the table against an oracle: the operator itself, run in float64 on quantities of known curvature.

One trial draws a fact for each argument of a sample (uniform, per channel or per element; affine, convex, concave, a
mixture), asks the rule for its claims, and then attacks them. Each element of an argument becomes a random function of
one variable z that has exactly the curvature, bounds and power-convexity degree its fact claims. Along z the operator's
result must then be convex, concave, constant, bounded and of the degree that the rule claims; and it must not change
with a row of the batch that the rule says it does not see. Rules that are wrong on purpose show that the oracle fails.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import convexnet as cx
from convexnet.curvature import table
from convexnet.curvature.call import Call, Refusal, Rule
from convexnet.curvature.facts import Fact, constant, known
from convexnet.curvature.fields import core, uniform
from convexnet.curvature.rules.opaque_operators import Opaque
from convexnet.curvature.rules.pointwise import LINE, Pointwise, Profile
from convexnet.curvature.rules.reductions import Reduction, Window
from convexnet.curvature.rules.shapes import Moved
from convexnet.curvature.table import ROWS, TABLE, build, shape_only
from convexnet.form import operators
from tests.curvature import oracles, test_attacks
from tests.curvature.oracles import INF, SAMPLES, C, Fixed, Moving, Range, Sample, X, s
from tests.modules import Function

PATHS = 3  # random functions of z for each argument, evaluated and judged together
POINTS = 17  # along z; a power of two and one, so that chords of every dyadic length are looked at
STRIDES = (1, 2, 4, 8)
CONSTANT, AFFINE, CONVEX, CONCAVE, LOST, ROOTED = range(6)  # ROOTED: a power of what is concave, no more
GUISES: tuple[tuple[int, ...], ...] = (
    (AFFINE,),
    (CONVEX,),
    (CONCAVE,),
    (CONSTANT, AFFINE, CONVEX, CONCAVE),
    (CONSTANT, CONVEX),
    (AFFINE, CONVEX),
    (CONSTANT, AFFINE, CONVEX, CONCAVE, LOST),
    (AFFINE, CONCAVE),
    (CONSTANT, ROOTED),
    (CONCAVE,),
    (CONVEX,),
)


# --- drawing facts, and functions that have them ---------------------------------------------------------------------


class Draws:
    """Random choices of one trial."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def unit(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def below(self, n: int, *shape: int) -> Tensor:
        return torch.randint(n, shape, generator=self.generator)

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.below(len(options)))]

    def coin(self, probability: float = 0.5) -> bool:
        return float(self.unit()) < probability

    def pattern(self, shape: Sequence[int]) -> list[int]:
        """The stored size of a field: uniform, varying along one dimension, or along all."""
        chance = float(self.unit())
        if chance < 0.35 or not shape:
            return [1] * len(shape)
        if chance < 0.65:
            kept = int(self.below(len(shape)))
            return [n if d == kept else 1 for d, n in enumerate(shape)]
        return list(shape)

    def of(self, options: Sequence[float], shape: Sequence[int]) -> Tensor:
        """One of the options for each element, in a random pattern; uniform dimensions have stride zero."""
        size = self.pattern(shape)
        return torch.tensor(options, dtype=torch.float64)[self.below(len(options), *size)].expand(tuple(shape))

    def rows(self, shape: Sequence[int]) -> Tensor:
        """Which rows of the batch each element depends on."""
        if self.coin() and shape and shape[0] == 2:
            return torch.tensor([1, 2], dtype=torch.uint8).reshape(2, *[1] * (len(shape) - 1)).expand(tuple(shape))
        return self.of((0, 1, 2, 3), shape).to(torch.uint8)


@dataclass(frozen=True)
class Quantity:
    """An argument of a trial: what is claimed of it, and functions of z of which that is exactly true."""

    fact: Fact
    kind: Tensor
    value: Tensor | None = None  # of an argument that does not vary

    def window(self, draws: Draws, *paths: int) -> tuple[Tensor, Tensor]:
        """A finite interval inside the bounds for each path, of a random scale; often it touches a bound."""
        lo, hi = self.fact.lo.double(), self.fact.hi.double()
        scale = min(30.0, 10 ** (3 * float(draws.unit()) - 1.2))
        u = draws.unit(6, *paths, *self.fact.shape)
        start = scale * (4 * u[0] - 2)
        left = torch.where(lo.isfinite(), lo, torch.where(hi.isfinite(), hi - scale, start - scale * u[1]))
        right = torch.where(hi.isfinite(), hi, torch.where(lo.isfinite(), lo + scale, start + scale * u[1]))
        near, far = torch.minimum(u[2], u[3]), torch.maximum(u[2], u[3])
        size = right - left
        return torch.where(u[4] < 0.6, left, left + size * near), torch.where(u[5] < 0.6, right, left + size * far)

    def along(self, draws: Draws) -> Tensor:
        """The argument at the points of z on every path: (PATHS, POINTS, *shape)."""
        shape, d = tuple(self.fact.shape), self.fact.degree
        if self.value is not None:
            return self.value.expand(PATHS, POINTS, *shape)
        left, right = self.window(draws, PATHS, 1)
        z = torch.linspace(-1.0, 1.0, POINTS, dtype=torch.float64).reshape(-1, *[1] * len(shape))
        u = draws.unit(5, PATHS, 1, *shape)
        at, slope = 2 * u[0] - 1, 4 * u[1] - 2
        size = (z - at).abs()
        bends = torch.stack([
            size, size.square(), (z - at).clamp(min=0), (at - z).clamp(min=0), (3 * slope * z).exp(),
            size + u[2] * (z + slope).square() + slope * z,
        ])  # fmt: skip
        which = draws.below(len(bends), PATHS, 1, *shape)
        bend = bends.gather(0, which.expand(1, PATHS, POINTS, *shape))[0]
        low, high = bend.amin(1, keepdim=True), bend.amax(1, keepdim=True)
        bend = (bend - low) / torch.where(high > low, high - low, 1.0)
        line = torch.where(u[3] < 0.5, 1 + z, 1 - z) / 2
        if d == 1:
            up = left + (right - left) * bend
        elif d == INF:
            safe = torch.maximum(left, 1e-4 * right).clamp(min=1e-300).log()
            up = (safe + (right.clamp(min=1e-300).log() - safe) * bend).exp()
        else:
            root = left.clamp(min=0) ** (1 / d)
            up = (root + (right.clamp(min=0) ** (1 / d) - root) * bend) ** d
        down = right - (right - left) * bend
        if not math.isnan(self.fact.concavity):
            down = up = concave_power(left, right, bend, self.fact.concavity)
        elif not math.isnan(self.fact.exponent):
            down = up = concave_power(left.exp(), right.exp(), bend, self.fact.exponent).log()
        level = (left + (right - left) * u[4]).expand(PATHS, POINTS, *shape)
        jumps = left + (right - left) * draws.unit(PATHS, POINTS, *shape)
        options = torch.stack([level, left + (right - left) * line, up, down, jumps, down])
        found = options.gather(0, self.kind.expand(1, PATHS, POINTS, *shape))[0]
        return torch.minimum(torch.maximum(found, self.fact.lo.double()), self.fact.hi.double())


def moving(spec: Moving, guise: Sequence[int], draws: Draws) -> Quantity:
    shape = spec.shape
    kind = draws.of(guise, shape)
    within = [draws.pick(spec.within)] if draws.coin(0.6) else list(spec.within)
    which = draws.of(range(len(within)), shape)
    ends = [torch.tensor(side, dtype=torch.float64) for side in zip(*within, strict=True)]
    lo, hi = (side[core(which).long()].expand(shape) for side in ends)
    degree = 1.0
    if set(guise) <= {CONSTANT, CONVEX} and bool((core(lo) >= 0).all()):
        degree = draws.pick((1.0, 2.0, 3.0, INF, INF))
    marks = [
        one_of(kind, some)
        for some in ((CONCAVE, LOST, ROOTED), (CONVEX, LOST, ROOTED), (AFFINE, CONVEX, CONCAVE, LOST, ROOTED))
    ]
    fact = Fact(*marks, draws.rows(shape), lo, hi, degree)
    finite = bool((core(lo).isfinite() & core(hi).isfinite()).all())
    if set(guise) == {CONSTANT, ROOTED}:
        if bool((core(lo) >= 0).all()):
            fact = replace(fact, concavity=draws.pick((0.5, 1.0, 2.0, 3.0, INF)))
        elif finite:
            fact = replace(fact, exponent=draws.pick((0.5, 1.0, 2.0, -1.0)))
        else:
            return moving(spec, (CONSTANT, LOST), draws)
    elif guise == (CONCAVE,) and bool((core(lo) >= 0).all()):
        fact = replace(fact, concavity=draws.pick((math.nan, 0.5, 1.0)))
    elif guise == (CONVEX,) and bool((core(lo) > 0).all()) and draws.coin():
        fact = replace(fact, concavity=draws.pick((-1.0, -0.5, -2.0)), degree=INF)
    elif guise == (CONCAVE,) and finite and draws.coin():
        fact = replace(fact, exponent=draws.pick((0.5, 1.0, 3.0)))
    return Quantity(fact, kind.long())


def concave_power(left: Tensor, right: Tensor, bend: Tensor, degree: float) -> Tensor:
    """F^degree for a concave F, between two numbers; exp(F) for an infinite one. `bend` is convex, from 0 to 1."""
    if degree == INF:
        low = torch.maximum(left, 1e-4 * right).clamp(min=1e-300).log()
        return (right.clamp(min=1e-300).log() - (right.clamp(min=1e-300).log() - low) * bend).exp()
    low, high = (end.clamp(min=0.0) ** (1 / degree) for end in (left, right))
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    return (high - (high - low) * bend) ** degree


def one_of(kind: Tensor, kinds: Sequence[int]) -> Tensor:
    inner = core(kind)
    return torch.stack([inner == k for k in kinds]).any(0).expand(kind.shape)


def fixed(spec: Fixed, draws: Draws) -> Quantity:
    """A known tensor, or one of which only bounds are known and which may come from other rows of the batch."""
    shape = spec.shape
    value = 1.5 * draws.normal(*shape) * (draws.unit(*shape) < 0.8)
    sign = spec.sign if spec.sign != "any" else draws.pick(("any", "any", "nonneg", "nonpos"))
    if sign != "any":
        value = -value.abs() if sign == "nonpos" else value.abs() + 0.1 * (sign == "positive")
    kind = torch.zeros(shape, dtype=torch.int64)
    if spec.known or draws.coin():
        narrow = value.float() if draws.coin() else value
        return Quantity(known(narrow), kind, narrow.double())
    nothing = constant(shape, draws.rows(shape) if draws.coin() else None)
    how = draws.pick(("line", "sign", "sign", "box", "box"))
    lo, hi = nothing.lo, nothing.hi
    if how == "sign":
        lo, hi = torch.where(value >= 0, 0.0, -INF), torch.where(value <= 0, 0.0, INF)
    if how == "box":
        lo, hi = value - draws.unit(*shape), value + draws.unit(*shape) * draws.below(2, *shape)
    if spec.sign == "positive":
        lo, hi = value / 2, value * 2
    if draws.coin(0.3) and value.numel() > 0:
        lo, hi = lo.amin().expand(shape), hi.amax().expand(shape)
    return Quantity(nothing.bounded(lo.double(), hi.double()), kind, value)


def exchange(value: Any, table: Mapping[int, Any], other: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, (Moving, Fixed)):
        return table[id(value)]
    if isinstance(value, Tensor):
        return other(value)
    if isinstance(value, (list, tuple)):
        return [exchange(item, table, other) for item in value]
    return value


def specs(value: Any) -> Iterator[Moving | Fixed]:
    if isinstance(value, (Moving, Fixed)):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from specs(item)


# --- one trial -------------------------------------------------------------------------------------------------------


@contextmanager
def quiet() -> Generator[None]:
    """Without gradients and warnings: once for the hundreds of evaluations of a trial."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Trial:
    """A sample with facts drawn for its arguments."""

    def __init__(self, name: str, sample: Sample, guise: Sequence[int], seed: int) -> None:
        self.name, self.sample, self.draws = name, sample, Draws(seed)
        self.operator = getattr(torch.ops.aten, name)
        if name in ("view", "_unsafe_view") and isinstance(sample.args[1], list):
            self.operator = torch.ops.aten.reshape  # as the walk does: facts are not contiguous
        self.quantities: dict[int, Quantity] = {}
        for spec in specs((sample.args, tuple(sample.kwargs.values()))):
            if id(spec) not in self.quantities:
                drawn = moving(spec, guise, self.draws) if isinstance(spec, Moving) else fixed(spec, self.draws)
                self.quantities[id(spec)] = drawn

    def evaluate(self, values: Mapping[int, Tensor]) -> list[Tensor]:
        """The operator itself; an in-place side effect stays in copies."""
        table = {key: value.clone() for key, value in values.items()}

        def real(value: Tensor) -> Tensor:
            return value.double() if value.is_floating_point() else value

        out = self.operator(
            *exchange(list(self.sample.args), table, real),
            **{key: exchange(value, table, real) for key, value in self.sample.kwargs.items()},
        )
        outs = list(out) if isinstance(out, (tuple, list)) else [out]
        return [o for o in outs if isinstance(o, Tensor)]

    def everywhere(self, path: Mapping[int, Tensor]) -> list[Tensor]:
        """The results at all points of all paths, (PATHS, POINTS, ...): in one call of most operators."""
        flat = {key: values.flatten(0, 1) for key, values in path.items()}
        try:
            found: list[Tensor] = torch.vmap(self.evaluate)(flat)
        except RuntimeError:  # it draws, or has a form of its own for batches
            points = [self.evaluate({key: values[k] for key, values in flat.items()}) for k in range(PATHS * POINTS)]
            found = [torch.stack(same) for same in zip(*points, strict=True)]
        return [result.unflatten(0, (PATHS, POINTS)) for result in found]

    def path(self) -> dict[int, Tensor]:
        return {key: quantity.along(self.draws) for key, quantity in self.quantities.items()}

    @quiet()
    def call(self, path: Mapping[int, Tensor] | None = None) -> Call:
        outs = self.evaluate({key: values[0, 0] for key, values in (path or self.path()).items()})
        facts = {key: quantity.fact for key, quantity in self.quantities.items()}
        return Call(
            self.operator,
            self.name,
            tuple(exchange(list(self.sample.args), facts, known)),
            {key: exchange(value, facts, known) for key, value in self.sample.kwargs.items()},
            tuple(tuple(out.shape) for out in outs),
            outs[0].is_floating_point(),
            shape_only=shape_only(self.name),
        )

    def describe(self) -> str:
        facts = [quantity.fact for quantity in self.quantities.values() if quantity.fact.shape.numel() > 0]
        told = [f"{f.curvature} in [{f.lo.min():g}, {f.hi.max():g}], degree {f.degree:g}" for f in facts]
        return f"aten.{self.name}{self.sample!r} with {'; '.join(told)}"


@quiet()
def violations(rule: Rule, trial: Trial) -> tuple[list[str], list[Fact]]:
    """What the rule claims and what of it is false; a refusal claims nothing."""
    path = trial.path()
    call = trial.call(path)
    if all(fact.value is not None for fact in call.facts()):
        return [], []  # the walk computes it
    if not call.floating and not isinstance(rule, Opaque):
        return [], []  # the walk refuses it
    try:
        result = rule(call)
    except Refusal as refusal:
        known = refusal.known_of(call)
        if known is None:
            return [], []
        result = known
    except Exception as error:  # whatever a rule raises beside a refusal is a gap in it
        return [f"crashed: {type(error).__name__}: {str(error).strip()[:200]}"], []
    facts = list(result) if isinstance(result, tuple) else [result]
    results = trial.everywhere(path)
    shapes = [tuple(field.shape) for fact in facts for field in fact.fields()]
    if shapes != [tuple(result.shape[2:]) for result in results for _ in range(6)]:
        return [f"fields of shape {shapes}, results of shape {[tuple(r.shape[2:]) for r in results]}"], facts
    found: list[str] = []
    for fact, result in zip(facts, results, strict=True):
        found += false_along(fact, result.double())
    found += [f"row {bit - 1}: {text}" for bit in (1, 2) for text in unseen_row(trial, facts, path, bit)]
    return found, facts


def false_along(fact: Fact, y: Tensor) -> list[str]:
    """The claims about one result that its values along z contradict, (PATHS, POINTS, ...)."""
    found: list[str] = []
    scale = 1 + torch.where(y.isfinite(), y.abs(), 0.0).amax(1, keepdim=True)

    def report(claim: str, wrong: Tensor, amount: Tensor) -> None:
        if bool(wrong.any()):
            worst = int(torch.where(wrong, amount, 0.0).abs().argmax())
            path, flat = worst // wrong[0].numel(), worst % y[0, 0].numel()
            bounds = f"[{fact.lo.flatten()[flat]:g}, {fact.hi.flatten()[flat]:g}]"
            values = [round(v, 6) for v in y[path].reshape(POINTS, -1)[:: (POINTS - 1) // 8, flat].tolist()]
            found.append(
                f"{claim} is false at element {flat} by {amount.abs()[wrong].max():.3g};"
                f" bounds {bounds}, values {values}"
            )

    report("the lower bound", fact.lo > y + 1e-12 * scale, fact.lo - y)
    report("the upper bound", fact.hi < y - 1e-12 * scale, fact.hi - y)
    spread = y.amax(1, keepdim=True) - y.amin(1, keepdim=True)
    report("constant", ~fact.varies & (spread > 1e-12 * scale), spread)
    undefined = fact.varies & y.isnan().any(1, keepdim=True) & ~(fact.nonconvex & fact.nonconcave)
    report("convex or concave, where it is undefined,", undefined, undefined.double())
    for k in STRIDES:
        bend = y[:, 2 * k :] + y[:, : -2 * k] - 2 * y[:, k:-k]
        report("convex", ~fact.nonconvex & (bend < -1e-9 * scale), bend)
        report("concave", ~fact.nonconcave & (bend > 1e-9 * scale), bend)
    degree = fact.power
    if degree > 1 and not fact.constant:
        root = y.clamp(min=0).log() if degree == INF else y.clamp(min=0) ** (1 / degree)
        size = 1 + torch.where(root.isfinite(), root.abs(), 0.0).amax(1, keepdim=True)
        for k in STRIDES:
            bend = root[:, 2 * k :] + root[:, : -2 * k] - 2 * root[:, k:-k]
            positive = (y > 1e-10 * scale).all(1, keepdim=True)
            report(f"degree {degree:g}", positive & (bend < -1e-6 * size), bend)
    for name, claimed, values in (("concavity", fact.root, y), ("exponent", fact.exponent, y.clamp(max=300.0).exp())):
        if math.isnan(claimed) or claimed == 0 or fact.constant or (name == "exponent" and bool((y > 300).any())):
            continue
        root = values.clamp(min=0).log() if claimed == INF else values.clamp(min=0) ** (1 / claimed)
        size = 1 + torch.where(root.isfinite(), root.abs(), 0.0).amax(1, keepdim=True)
        above = (values > 1e-10 * (1 + values.amax(1, keepdim=True))).all(1, keepdim=True)
        above = fact.varies & above & values.isfinite().all(1, keepdim=True)
        for k in STRIDES:
            bend = root[:, 2 * k :] + root[:, : -2 * k] - 2 * root[:, k:-k]
            report(f"{name} {claimed:g}", above & (bend > 1e-6 * size), bend)
    if fact.positive:
        report("positive", y < 0, y)
    return found


def unseen_row(trial: Trial, facts: Sequence[Fact], path: Mapping[int, Tensor], bit: int) -> list[str]:
    """Results that change with a row of the batch although their fact does not have it."""
    here = {key: values[0, 0] for key, values in path.items()}
    there: dict[int, Tensor] = {}
    for key, quantity in trial.quantities.items():
        left, right = quantity.window(trial.draws)
        other = left + (right - left) * trial.draws.unit(*left.shape)
        there[key] = torch.where((quantity.fact.rows & bit) > 0, other, here[key])
    found: list[str] = []
    for fact, before, after in zip(facts, trial.evaluate(here), trial.evaluate(there), strict=True):
        before, after = before.double(), after.double()
        changed = (before - after).abs() > 1e-9 * (1 + before.abs() + after.abs())
        missed = changed & ((fact.rows & bit) == 0)
        if bool(missed.any()):
            found.append(f"claimed not to matter, but changes {int(missed.sum())} of {missed.numel()} elements")
    return found


def attack(name: str, rule: Rule, samples: Sequence[Sample], seed: int, trials: int) -> list[str]:
    """One line for each sample whose rule made a false claim."""
    found: list[str] = []
    for number, sample in enumerate(samples):
        for turn in range(trials):
            guise = GUISES[(turn + number * trials) % len(GUISES)]
            trial = Trial(name, sample, guise, hash((seed, number, turn)) % 2**40)
            try:
                wrong, _ = violations(rule, trial)
            except torch.linalg.LinAlgError:  # a matrix that was drawn has no inverse: there is no result to hold it to
                continue
            if wrong:
                found.append(f"{trial.describe()}\n    {wrong[0]}")
                break
    return found


# --- the tests -------------------------------------------------------------------------------------------------------


def test_every_row_has_an_oracle() -> None:
    missing, extra = sorted(set(TABLE) - set(SAMPLES)), sorted(set(SAMPLES) - set(TABLE))
    assert not missing, f"rows of the rule table without a sample in tests/curvature/oracles.py: {missing}"
    assert not extra, f"samples of operators that the rule table does not have: {extra}"
    assert all(SAMPLES.values()), "an operator's list of samples is empty"


def test_every_row_names_an_operator_of_pytorch() -> None:
    absent = [name for name in TABLE if not hasattr(torch.ops.aten, name)]
    assert not absent


def test_no_operator_is_listed_twice() -> None:
    assert len(ROWS) == len(TABLE)
    with pytest.raises(ValueError, match=r"aten\.relu twice"):
        build([*ROWS, ("relu", TABLE["relu"])])


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_claims_hold(name: str, seed: int) -> None:
    """Each row in every guise, shared out to its samples; each sample in three at least."""
    trials = max(3, -(-len(GUISES) // len(SAMPLES[name])))
    wrong = attack(name, TABLE[name].rule, SAMPLES[name], seed, trials)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_claims_hold_in_many_trials(name: str, seed: int) -> None:
    wrong = attack(name, TABLE[name].rule, SAMPLES[name], seed, trials=3 * len(GUISES))
    assert not wrong, "\n".join(wrong)


def test_a_matrix_without_an_inverse_is_no_wrong_rule() -> None:
    """These draws hold one, at which the operator has no result."""
    assert not attack("linalg_inv", TABLE["linalg_inv"].rule, SAMPLES["linalg_inv"], 42_878_011, trials=6)


def test_the_recipe_of_contributing_works_as_typed(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row, its sample and its negative control, of an operator that is missing."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    typed = next(block for block in text.split("```") if block.startswith('text\n("special_i0"'))
    row, sample, control = typed.removeprefix("text\n").split("\n\n")
    ((name, rule),) = eval(f"({row.strip()})", vars(table))
    (samples,) = eval("{" + sample + "}", vars(oracles)).values()
    assert name not in TABLE
    assert not attack(name, rule, samples, seed, trials=6)
    wrong = replace(rule, profile=replace(rule.profile, convex=(), concave=LINE))
    assert attack(name, wrong, samples, seed, trials=6)
    scope = dict(vars(test_attacks))
    exec(control, scope)
    (run,) = (value for key, value in scope.items() if key.startswith("test_i0"))
    model = Function(lambda x: torch.special.i0(x))
    assert not cx.certify(model, torch.zeros(2, 4)).convex
    monkeypatch.setitem(TABLE, name, build([(name, rule)])[name])
    assert cx.certify(model, torch.zeros(2, 4)).convex
    run()

    def energy() -> Function:  # anew: what was found out about a module is remembered
        return Function(lambda x: torch.special.i0(2 * x - 1).sum(1) - x.sum(1))

    box = cx.Box(-2.0, 2.0, shape=2)
    whole = cx.minimise(energy(), box)
    assert "special_i0" in whole.message
    lowering = next(block for block in text.split("```") if block.startswith("text\ndef i0(")).removeprefix("text\n")
    scope = dict(vars(operators))
    exec(lowering, scope)
    monkeypatch.setitem(operators.LOWERED, name, scope["i0"])
    opened = cx.minimise(energy(), box)
    assert "special_i0" not in opened.message
    grid = energy()(torch.linspace(-2, 2, 4001, dtype=torch.float64)[:, None].expand(-1, 2)).min()
    for found in (whole, opened):
        assert bool(found.converged)
        assert found.lower_bound.item() <= grid.item() <= found.value.item() + 1e-5
    with pytest.raises(cx.NotCertified, match=r"(?s)special_i0.*no cone"):
        cx.to_cvxpy(energy(), pytest.importorskip("cvxpy").Variable(2))


# --- the rules are not all silence -----------------------------------------------------------------------------------

LINE_BOUNDS, FROM_ZERO, INSIDE = (-INF, INF), (0.0, INF), (0.5, 3.0)
MIXED = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 3.0]])
NONNEG = MIXED.abs()
FILTER = torch.tensor([[[1.0, 0.0], [2.0, 0.5]]])  # (1, 2, 2)
IMAGE = X(2, 2, 3, 3)
WEIGHTS = [NONNEG[:, :2], NONNEG[:, 1:], torch.tensor([-1.0, 1.0]), torch.tensor([0.0, -2.0])]

# (operator, sample, curvature of what varies, its bounds, what its rule must find)
FOUND: list[tuple[str, Sample, str, Range, str]] = [
    ("relu", s(X(2, 3)), "convex", LINE_BOUNDS, "convex"),
    ("relu", s(X(2, 3)), "concave", LINE_BOUNDS, "unknown"),
    ("relu", s(X(2, 3)), "concave", FROM_ZERO, "concave"),
    ("relu", s(X(2, 3)), "affine", FROM_ZERO, "affine"),
    ("leaky_relu", s(X(2, 3), 0.1), "convex", LINE_BOUNDS, "convex"),
    ("leaky_relu", s(X(2, 3), -0.1), "affine", LINE_BOUNDS, "convex"),
    ("elu", s(X(2, 3)), "convex", LINE_BOUNDS, "convex"),
    ("celu", s(X(2, 3), 2.0), "convex", LINE_BOUNDS, "convex"),
    ("softplus", s(X(2, 3)), "convex", LINE_BOUNDS, "convex"),
    ("relu6", s(X(2, 3)), "concave", FROM_ZERO, "concave"),
    ("gelu", s(X(2, 3)), "affine", (-1.0, 1.0), "convex"),
    ("gelu", s(X(2, 3)), "affine", LINE_BOUNDS, "unknown"),
    ("sigmoid", s(X(2, 3)), "concave", FROM_ZERO, "concave"),
    ("log_sigmoid", s(X(2, 3)), "concave", LINE_BOUNDS, "concave"),
    ("abs", s(X(2, 3)), "affine", LINE_BOUNDS, "convex"),
    ("abs", s(X(2, 3)), "convex", FROM_ZERO, "convex"),
    ("exp", s(X(2, 3)), "convex", LINE_BOUNDS, "convex"),
    ("clamp", s(X(2, 3), 0.0), "convex", LINE_BOUNDS, "convex"),
    ("clamp", s(X(2, 3), None, 1.0), "concave", LINE_BOUNDS, "concave"),
    ("square", s(X(2, 3)), "affine", LINE_BOUNDS, "convex"),
    ("square", s(X(2, 3)), "convex", FROM_ZERO, "convex"),
    ("pow", s(X(2, 3), 3), "convex", FROM_ZERO, "convex"),
    ("pow", s(X(2, 3), 1.5), "convex", FROM_ZERO, "convex"),
    ("sqrt", s(X(2, 3)), "concave", FROM_ZERO, "concave"),
    ("reciprocal", s(X(2, 3)), "concave", INSIDE, "convex"),
    ("log", s(X(2, 3)), "concave", INSIDE, "concave"),
    ("prelu", s(X(2, 3), torch.tensor([0.0, 0.3, 1.0])), "convex", LINE_BOUNDS, "convex"),
    ("sum", s(X(2, 3), [1]), "convex", LINE_BOUNDS, "convex"),
    ("mean", s(X(2, 3), [1]), "concave", LINE_BOUNDS, "concave"),
    ("amax", s(X(2, 3), [1]), "convex", LINE_BOUNDS, "convex"),
    ("amin", s(X(2, 3), [1]), "concave", LINE_BOUNDS, "concave"),
    ("max", s(X(2, 3), 1), "convex", LINE_BOUNDS, "convex"),
    ("logsumexp", s(X(2, 3), [1]), "convex", LINE_BOUNDS, "convex"),
    ("linalg_vector_norm", s(X(2, 3), 2, [1]), "affine", LINE_BOUNDS, "convex"),
    ("linalg_vector_norm", s(X(2, 3), 1, [1]), "convex", FROM_ZERO, "convex"),
    ("var", s(X(2, 3), [1]), "affine", LINE_BOUNDS, "convex"),
    ("max_pool2d", s(IMAGE, [2, 2]), "convex", LINE_BOUNDS, "convex"),
    ("avg_pool2d", s(IMAGE, [2, 2], [1, 1], [1, 1]), "concave", LINE_BOUNDS, "concave"),
    ("adaptive_avg_pool2d", s(IMAGE, [1, 1]), "convex", LINE_BOUNDS, "convex"),
    ("upsample_bilinear2d", s(IMAGE, [5, 5], False), "convex", LINE_BOUNDS, "convex"),
    ("upsample_bicubic2d", s(IMAGE, [5, 5], False), "affine", LINE_BOUNDS, "affine"),
    ("add", s(X(2, 3), X(2, 3)), "convex", LINE_BOUNDS, "convex"),
    ("rsub", s(X(2, 3), 1.0), "concave", LINE_BOUNDS, "convex"),
    ("neg", s(X(2, 3)), "concave", LINE_BOUNDS, "convex"),
    ("mul", s(X(2, 3), -2.0), "concave", LINE_BOUNDS, "convex"),
    ("div", s(X(2, 3), 4.0), "convex", LINE_BOUNDS, "convex"),
    ("div", s(1.0, X(2, 3)), "concave", INSIDE, "convex"),
    ("lerp", s(X(2, 3), X(2, 3), 0.3), "convex", LINE_BOUNDS, "convex"),
    ("maximum", s(X(2, 3), X(2, 3)), "convex", LINE_BOUNDS, "convex"),
    ("minimum", s(X(2, 3), X(2, 3)), "concave", LINE_BOUNDS, "concave"),
    ("log_softmax", s(X(2, 3), 1), "affine", LINE_BOUNDS, "concave"),
    ("linear", s(X(2, 3), NONNEG, MIXED[:, 0]), "convex", LINE_BOUNDS, "convex"),
    ("linear", s(X(2, 3), -NONNEG), "convex", LINE_BOUNDS, "concave"),
    ("linear", s(X(2, 3), MIXED), "affine", LINE_BOUNDS, "affine"),
    ("linear", s(X(2, 3), MIXED), "convex", LINE_BOUNDS, "unknown"),
    ("linear", s(X(2, 3), C(4, 3, sign="free")), "affine", LINE_BOUNDS, "affine"),
    ("matmul", s(NONNEG, X(3, 2)), "convex", LINE_BOUNDS, "convex"),
    ("einsum", s("bi,oi->bo", [X(2, 3), NONNEG]), "convex", LINE_BOUNDS, "convex"),
    ("conv1d", s(X(2, 2, 4), FILTER, None, [1], [1]), "convex", LINE_BOUNDS, "convex"),
    ("conv_transpose1d", s(X(2, 1, 4), FILTER.reshape(1, 2, 2), None, [2]), "convex", LINE_BOUNDS, "convex"),
    ("batch_norm", s(X(2, 3), NONNEG[0], MIXED[0], MIXED[1], NONNEG[0], False, 0.1, 1e-5, True), "convex", LINE_BOUNDS,
     "convex"),
    ("cdist", s(X(2, 3), MIXED), "affine", LINE_BOUNDS, "convex"),
    ("cat", s([X(2, 3), NONNEG], 1), "convex", LINE_BOUNDS, "convex"),
    ("pad", s(X(2, 3), [1, 1], "constant", -1.0), "convex", LINE_BOUNDS, "convex"),
    ("index", s(X(2, 3), [None, torch.tensor([2, 0])]), "convex", LINE_BOUNDS, "convex"),
    ("where", s(MIXED > 0, X(2, 3), NONNEG), "convex", LINE_BOUNDS, "convex"),
    ("masked_fill", s(X(2, 3), MIXED > 0, -1.0), "convex", LINE_BOUNDS, "convex"),
    ("dropout", s(X(2, 3), 0.5, False), "convex", LINE_BOUNDS, "convex"),
    ("rnn_relu", s(X(2, 3, 2), torch.zeros(1, 2, 2), [WEIGHTS[0], WEIGHTS[1][:, :2], *WEIGHTS[2:]], True, 1, 0.0, False,
                   False, True), "convex", LINE_BOUNDS, "convex"),
    ("softmax", s(X(2, 3), 1), "affine", LINE_BOUNDS, "unknown"),
]  # fmt: skip


def given(shape: Sequence[int], curvature: str, bounds: Range) -> Fact:
    flags = {"affine": (False, False), "convex": (False, True), "concave": (True, False)}[curvature]
    marks = [uniform(flag, shape, torch.bool) for flag in (*flags, True)]
    lo, hi = (uniform(bound, shape, torch.float64) for bound in bounds)
    return Fact(*marks, uniform(1, shape, torch.uint8), lo, hi)


def ruled(name: str, sample: Sample, curvature: str = "affine", bounds: Range = LINE_BOUNDS) -> Fact:
    """What the table says of a sample whose varying arguments all have one curvature; `C` is a free parameter."""
    trial = Trial(name, sample, (AFFINE,), 0)
    for spec in specs((sample.args, tuple(sample.kwargs.values()))):
        fact = given(spec.shape, curvature, bounds) if isinstance(spec, Moving) else constant(spec.shape)
        trial.quantities[id(spec)] = replace(trial.quantities[id(spec)], fact=fact)
    result = TABLE[name].rule(trial.call())
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize(("name", "sample", "curvature", "bounds", "expected"), FOUND)
def test_what_is_convex_is_found(name: str, sample: Sample, curvature: str, bounds: Range, expected: str) -> None:
    assert ruled(name, sample, curvature, bounds).curvature == expected


def chain(x: Fact, *steps: tuple[Any, ...]) -> Fact:
    """Rules applied one after the other: (operator, further arguments ...)."""
    for name, *settings in steps:
        operator = getattr(torch.ops.aten, name)
        with torch.no_grad():
            shape = tuple(operator(torch.ones(x.shape, dtype=torch.float64), *settings).shape)
        result = TABLE[name].rule(Call(operator, name, (x, *settings), {}, (shape,)))
        assert isinstance(result, Fact)
        x = result
    return x


def test_norms_and_log_sum_exp_written_by_hand_are_found() -> None:
    """Through degrees of power-convexity, and only as far as these reach."""
    affine, convex = given((2, 3), "affine", LINE_BOUNDS), given((2, 3), "convex", LINE_BOUNDS)
    size = given((2, 3), "convex", FROM_ZERO)
    total = ("sum", [1])
    assert chain(affine, ("square",), total, ("sqrt",)).curvature == "convex"
    assert chain(affine, ("abs",), ("pow", 3), total, ("pow", 1 / 3)).curvature == "convex"
    assert chain(size, ("pow", 2), ("mean", [1]), ("add", 1e-6), ("sqrt",)).curvature == "convex"
    assert chain(convex, ("exp",), total, ("log",)).curvature == "convex"
    assert chain(convex, ("exp",), ("amax", [1]), ("pow", 0.1)).curvature == "convex"
    assert chain(affine, ("square",), total, ("pow", 0.4)).curvature == "unknown"
    assert chain(affine, ("square",), total, ("log",)).curvature == "unknown"
    assert chain(affine, ("square",), total, ("sub", 1.0), ("clamp_min", 0.0), ("sqrt",)).curvature == "unknown"
    assert chain(affine, ("abs",), total, ("sqrt",)).curvature == "unknown"


# --- the oracle can fail ---------------------------------------------------------------------------------------------


def with_absolute_weights(call: Call) -> Fact:
    """A convolution that takes every coefficient for a non-negative one."""
    weight = call.args[1]
    free = constant(weight.shape).bounded(uniform(0.0, weight.shape, torch.float64), weight.hi.double().clamp(min=0))
    result = TABLE[call.name].rule(replace(call, args=(call.args[0], free, *call.args[2:])))
    assert isinstance(result, Fact)
    return result


def altered(name: str, change: Callable[[Fact], Fact]) -> Rule:
    """The true rule, with one field of its first result changed."""

    def rule(call: Call) -> Fact:
        result = TABLE[name].rule(call)
        return change(result[0] if isinstance(result, tuple) else result)

    return rule


def unmarked(fact: Fact, which: str) -> Fact:
    return replace(fact, **{which: torch.zeros_like(getattr(fact, which))})


def wrong_cat(call: Call) -> Fact:
    """Parts in the reverse order."""
    return TABLE["cat"].rule(replace(call, args=(call.args[0][::-1], *call.args[1:])))  # type: ignore[return-value]


BEND = "convex is false"
WRONG: dict[str, tuple[str, Sample, Rule, str]] = {
    "GELU is called convex": ("gelu", s(X(2, 3)), Pointwise(Profile(convex=LINE, rising=LINE)), BEND),
    "max pooling is called affine": ("max_pool2d", s(X(2, 2, 4, 4), [2, 2]), Window(), "concave is false"),
    "the least is called the largest": ("amin", s(X(2, 3), [1]), Reduction("convex", exact=True), BEND),
    "signs of a filter are ignored": ("conv2d", s(X(2, 2, 3, 4), C(2, 2, 2, 2)), with_absolute_weights, BEND),
    "signs of a matrix are ignored": ("linear", s(X(2, 3), C(4, 3)), with_absolute_weights, BEND),
    "softplus that jumps is called convex": (
        "softplus", s(X(2, 3), 1.0, 1.0), Pointwise(lambda *_: Profile(convex=LINE, rising=LINE)), BEND),
    "a square is called rising": ("square", s(X(2, 3)), Pointwise(Profile(convex=LINE, rising=LINE)), BEND),
    "a norm of order 1/2 is called convex": (
        "linalg_vector_norm", s(X(2, 3), 0.5), Reduction("convex", position=2, moves="by size"), BEND),
    "the variance of convex quantities is called convex": ("var", s(X(2, 3), [1]), Reduction("convex"), BEND),
    "an upper bound is too low": (
        "relu", s(X(2, 3)), altered("relu", lambda f: f.bounded(f.lo, f.hi.double() - 1e-3)), "upper bound"),
    "a lower bound is too high": (
        "linear", s(X(2, 3), C(4, 3)), altered("linear", lambda f: f.bounded(f.lo.clamp(min=0), f.hi)), "lower bound"),
    "what varies is called constant": (
        "tanh", s(X(2, 3)), altered("tanh", lambda f: unmarked(f, "varies")), "constant"),
    "the rows of a sum are lost": ("sum", s(X(2, 3), [0]), altered("sum", lambda f: unmarked(f, "rows")), "row"),
    "a power-convexity degree is invented": (
        "sum", s(X(2, 3), [1]), altered("sum", lambda f: f.with_degree(2.0)), "degree"),
    "log-convexity is invented": ("square", s(X(2, 3)), altered("square", lambda f: f.with_degree(INF)), "degree"),
    "a flip is forgotten": ("flip", s(X(2, 3), [1]), lambda call: call.x, "false"),
    "parts change places": ("cat", s([X(2, 2), X(2, 2)], 1), wrong_cat, "false"),
    "a filling value is forgotten": ("pad", s(X(2, 3), [1, 1], "constant", 3.0), Moved(), "bound is false"),
    "a fact has the wrong shape": ("sum", s(X(2, 3), [1]), lambda call: call.x, "of shape"),
    "a rule crashes": ("relu", s(X(2, 3)), lambda call: call.args[7], "crashed"),
    "the sign of a coefficient is lost": (
        "mul", s(X(2, 3), -2), lambda call: TABLE["mul"].rule(replace(call, args=(call.x, 2))), "false"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_rule_is_caught(case: str, seed: int) -> None:
    name, sample, rule, words = WRONG[case]
    trials = (Trial(name, sample, GUISES[turn % len(GUISES)], seed + turn) for turn in range(160))
    caught = (words in line for trial in trials for line in violations(rule, trial)[0])
    assert any(caught), f"the oracle passed a rule in which {case}"


def test_every_draw_is_what_it_claims(seed: int) -> None:
    """The oracle of the oracle: the functions drawn for a fact satisfy it, so that the identity is never accused."""
    wrong = attack("clone", lambda call: call.x, [s(X(2, 3, 2)), s(X(3)), s(X())], seed, trials=80)
    assert not wrong, "\n".join(wrong)
