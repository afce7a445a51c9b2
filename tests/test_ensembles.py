"""Ensembles: a likelihood that never falls, SAMME as its paper has it, gates over frozen experts, convex fusions."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.ensembles import (
    Boosted,
    Boosting,
    ExpectationMaximisation,
    GateTraining,
    MixtureOfExperts,
    boost,
    fuse,
    learners,
    oracle_accuracy,
)
from convexnet.learner import Learner, run
from tests.drawing import some

PLANE = torch.zeros(1, 2)


def points(count: int = 80) -> tuple[Tensor, Tensor]:
    """The letter V: no convex set holds either class alone."""
    x = 2 * torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) - 1
    return x, ((x[:, 1] - 2 * x[:, 0].abs() + 0.8).abs() < 0.5).long()


def ordinary() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))


def cone(method: Any) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ELU(), nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 1))
        cx.constrain(net, PLANE, method=method)
        return net

    return made


def mixture(make: Callable[[], nn.Module], count: int = 3) -> MixtureOfExperts:
    torch.manual_seed(1)
    gate = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, count))
    return MixtureOfExperts([make() for _ in range(count)], gate)


def same(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def log_likelihood(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """By the mixture's own output, which the learner does not use."""
    with torch.no_grad():
        signed = (2 * y - 1) * model.eval()(x)[:, 0].double()
    return float(nn.functional.logsigmoid(signed).mean())


@pytest.mark.parametrize("make", [ordinary, *some(map(cone, ("clip", "exponentiate", "softplus")), 1, "cones")])
def test_the_likelihood_never_falls(make: Callable[[], nn.Module]) -> None:
    """At a rate that is far too high, so that steps are undone; under dropout, BatchNorm and constraints."""
    x, y = points()
    model = mixture(make)
    history = model.fit_em(x, y, iterations=8, batch=32, learning_rate=0.3)
    found = [log_likelihood(mixture(make), x, y), *history.log_likelihood]
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.01
    assert sum(point["undone"] for point in history.points) > 0
    assert found[-1] == pytest.approx(log_likelihood(model, x, y), abs=1e-5)
    if make is not ordinary:
        assert model.certificates(PLANE).require().convex_experts == 3
    assert not cx.certify(model, PLANE).convex


def test_an_undone_step_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every step fails, weights and statistics are those of the beginning, to the bit."""
    x, y = points()
    model = mixture(ordinary)
    before = copy.deepcopy(model)
    learner = ExpectationMaximisation(model, x, y, iterations=2, learning_rate=0.1)
    real = learner.evaluated
    monkeypatch.setattr(learner, "evaluated", lambda: (math.nan, *real()[1:]))
    found = run(learner)
    assert same(model, before)
    assert [point["undone"] for point in found] == [learner.HALVINGS + 1] * 2
    assert found[0]["log_likelihood"] == found[1]["log_likelihood"]


def test_statistics_that_spoil_every_step_do_not_end_it() -> None:
    """They move at any rate; a step that would be undone at all of them is repeated with the statistics held."""
    x, y = points()
    model = mixture(cone("clip"))
    model.fit_em(x, y, iterations=10, batch=80, learning_rate=0.03)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d):
            assert part.running_mean is not None
            assert part.running_var is not None
            # The same function, but not with the statistics of the samples, which the first pass would put there.
            part.momentum = 1.0
            part.running_mean += 3 * part.running_var.sqrt()
            part.bias.data += 3 * part.weight.data
    history = model.fit_em(x, y, iterations=3, batch=80, learning_rate=1e-4)
    found = history.log_likelihood
    assert all(after > before for before, after in itertools.pairwise(found)), found
    assert not any(remark.startswith("stopped") for remark in history.remarks)
    assert {(point["rate"], point["undone"]) for point in history.points} == {(1e-4, 1.0)}


def test_the_penalty_is_part_of_what_never_falls() -> None:
    x, y = points()
    model = mixture(ordinary)
    points_of = model.fit_em(x, y, iterations=6, learning_rate=0.1, penalty=1e-2).points
    found = [point["log_likelihood"] for point in points_of]
    assert found == sorted(found)
    last = points_of[-1]
    assert last["log_likelihood"] + last["penalty"] == pytest.approx(log_likelihood(model, x, y), abs=1e-5)
    squares = sum(float(p.detach().square().sum()) for p in model.parameters() if p.ndim > 1)
    assert last["penalty"] == pytest.approx(1e-2 / 2 * squares, rel=1e-5)


def test_weights_of_samples_are_repetitions() -> None:
    x, y = points(30)
    weights = torch.tensor([3.0, 1.0] * 15)
    twice = torch.arange(30).repeat_interleave(weights.long())
    first = ExpectationMaximisation(mixture(ordinary), x, y, sample_weight=weights)
    second = ExpectationMaximisation(mixture(ordinary), x[twice], y[twice])
    assert first.objective == pytest.approx(second.objective, rel=1e-6)


def test_responsibilities_are_bayes() -> None:
    x, y = points(20)
    model = mixture(ordinary)
    with torch.no_grad():
        likely = torch.cat([expert.eval()(x) for expert in model.experts], 1).sigmoid()
        likely = torch.where(y[:, None] == 1, likely, 1 - likely) * model.gate(x).softmax(1)
    torch.testing.assert_close(model.responsibilities(x, y), likely / likely.sum(1, keepdim=True))


def test_arrays_and_lists_are_samples_too() -> None:
    x, y = points(20)
    found = [
        mixture(ordinary).fit_em(inputs, classes, iterations=1, learning_rate=0.01).log_likelihood
        for inputs, classes in ((x, y), (x.double().numpy(), y.numpy()), (x.tolist(), y[:, None].tolist()), (x, y == 1))
    ]
    assert found[1:] == found[:1] * 3


def test_experts_of_several_classes() -> None:
    torch.manual_seed(0)
    x = torch.randn(90, 2)
    y = torch.arange(90) % 3
    x = x * 0.2 + torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])[y]
    model = MixtureOfExperts([nn.Linear(2, 3), nn.Linear(2, 3)], nn.Linear(2, 2))
    assert model.fit_em(x, y, iterations=10, learning_rate=0.1).log_likelihood[-1] > -0.5
    assert torch.allclose(model(x).exp().sum(1), torch.ones(90), atol=1e-5)


# --- learners --------------------------------------------------------------------------------------------------------


def em() -> tuple[Learner, Callable[[], nn.Module]]:
    x, y = points()
    model = mixture(cone("clip"))
    model.experts.append(ordinary())
    model.gate = nn.Linear(2, 4)
    return ExpectationMaximisation(model, x, y, iterations=3, batch=32, learning_rate=0.3), lambda: model


def samme() -> tuple[Learner, Callable[[], nn.Module]]:
    x, y = points()
    made = Boosting(ordinary, x, y, 3, epochs=2, batch=32, learning_rate=0.01)
    return made, made.boosted


def gating() -> tuple[Learner, Callable[[], nn.Module]]:
    x, y = points()
    torch.manual_seed(2)
    gate = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.2), nn.Linear(4, 2))
    experts = [nn.Linear(2, 1), nn.Linear(2, 1)]
    return GateTraining(experts, gate, x, y, epochs=3, batch=32), lambda: gate


@pytest.mark.parametrize("make", [em, samme, gating])
def test_interrupted_and_resumed_to_the_same_bits(
    make: Callable[[], tuple[Learner, Callable[[], nn.Module]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After every unit of work: within an epoch, within an M-step, and between two tries of one."""
    whole, result = make()
    assert isinstance(whole, Learner)
    expected = run(whole)
    monkeypatch.setattr(learners, "SLICE", 0.0)
    learner, resumed = make()
    found: list[Any] = []
    turn = 0
    while not learner.done:
        point = learner.advance()
        found += [point] if point is not None else []
        turn += 1
        if turn % 3 == 0:
            torch.save(learner.state(), tmp_path / "state.pt")
            torch.manual_seed(turn)  # what is drawn must not depend on it
            learner, resumed = make()
            learner.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert found == expected
    assert turn > 2 * len(found)
    assert same(result(), resumed())


# --- boosting --------------------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """An expert that says what it was told, whatever it learns."""

    said: Tensor

    def __init__(self, classes: Tensor, count: int) -> None:
        super().__init__()
        self.register_buffer("said", nn.functional.one_hot(classes, count).float())
        self.idle = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.said[x[:, 0].long()] + 0 * self.idle


def boosted_of(answers: list[list[int]], y: list[int], count: int) -> Boosted:
    waiting = iter(answers)
    x = torch.arange(float(len(y)))[:, None]
    return boost(lambda: Fixed(torch.tensor(next(waiting)), count), x, torch.tensor(y), len(answers), epochs=1)


def test_the_weights_of_samme() -> None:
    """By hand: e = 1/4 among three classes, then 1/8 of what has become of the weights."""
    y = [0, 1, 2, 0]
    found = boosted_of([[0, 1, 2, 1], [1, 1, 2, 0]], y, 3)
    first = math.log(3) + math.log(2)  # (1 - 1/4) / (1/4) = 3
    error = 1 / (3 + 6)  # the sample that was wrong now counts e^first = 6
    assert found.weights.tolist() == pytest.approx([first, math.log((1 - error) / error) + math.log(2)])
    votes = found(torch.arange(4.0)[:, None])
    assert votes.argmax(1).tolist() == [1, 1, 2, 0]  # the second weighs more
    assert found.oracle_accuracy(torch.arange(4.0)[:, None], torch.tensor(y)) == 1.0


def test_an_expert_without_error_is_the_whole_ensemble() -> None:
    found = boosted_of([[0, 1, 1, 1], [0, 1, 0, 1]], [0, 1, 0, 1], 2)
    assert (len(found.experts), found.weights.tolist()) == (1, [1.0])
    assert found.history is not None
    assert found.history.remarks == ("expert 1 makes no error on the samples: it is the whole ensemble",)


def test_boosting_stops_at_chance() -> None:
    found = boosted_of([[0, 1, 0, 0], [1, 0, 1, 0]], [0, 1, 0, 1], 2)
    assert len(found.experts) == 1
    assert found.history is not None
    assert found.history.remarks[0].endswith("no better than chance: it is dropped")
    with pytest.warns(UserWarning, match="no better than chance: it is kept"):
        assert len(boosted_of([[1, 0, 0, 1]], [0, 1, 0, 1], 2).experts) == 1


def test_the_error_of_chance_is_that_whatever_the_rounding() -> None:
    """6 of 9 in float64 is less than 1 - 1/3; a copy of an expert has the error of chance on the weights it leaves."""
    y = [0, 1, 2] * 3
    with pytest.warns(UserWarning, match="0.6667, no better than chance: it is kept"):
        assert len(boosted_of([[0, 1, 2, 1, 2, 0, 1, 2, 0], [0] * 9], y, 3).experts) == 1
    many = [0, 1] * 500
    for wrong in (1, 7, 333):
        answers = [1 - label if index < wrong else label for index, label in enumerate(many)]
        found = boosted_of([answers, answers], many, 2)
        assert found.history is not None
        assert len(found.experts) == 1
        assert found.history.remarks[0].endswith("it is dropped")


def test_a_gate_over_frozen_experts() -> None:
    x, y = points()
    parts = [boost(cone("clip"), x, y, 1, epochs=4, batch=32, learning_rate=0.03, seed=seed) for seed in (0, 1)]
    boosted = Boosted([part.experts[0] for part in parts], [1.0, 1.0])
    before = copy.deepcopy(boosted.experts)
    history = boosted.fit_gate(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)), x, y, learning_rate=0.03)
    assert same(boosted.experts, before)
    assert boosted.certificates(PLANE).require().convex_experts == 2
    accuracy = float(((boosted(x)[:, 0] > 0).long() == y).double().mean())
    assert accuracy == pytest.approx(history.points[-1]["gate_accuracy"])
    assert accuracy <= boosted.oracle_accuracy(x, y)
    assert history.points[-1]["gate_loss"] < history.points[0]["gate_loss"]


# --- fusions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["mean", "max"])
def test_a_fusion_is_certified_and_is_what_it_says(how: Any) -> None:
    torch.manual_seed(0)
    experts = [cx.nn.FICNN(2, hidden=(6,)), cone("clip")(), nn.Linear(2, 1)]
    fused = fuse(experts, how, example=PLANE)
    assert cx.certify(fused, PLANE).convex
    assert experts[1].training
    x = torch.randn(9, 2)
    stacked = torch.stack([expert.eval()(x) for expert in experts])
    expected = stacked.mean(0) if how == "mean" else stacked.amax(0)
    torch.testing.assert_close(fused.eval()(x), expected)
    assert cx.falsify(fused, PLANE, budget=2000) is None


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [None, [0.1, 0.2, 0.7], [1e308, 1e308, 1e308], [1e-320, 0.0, 3e-320]])
def test_a_mean_is_exact_to_rounding(kind: torch.dtype, weights: list[float] | None) -> None:
    torch.manual_seed(0)
    experts = [nn.Linear(2, 1).to(kind) for _ in range(3)]
    fused = fuse(experts, weights=weights, example=PLANE.to(kind))
    x = torch.randn(50, 2, dtype=kind)
    parts = [Fraction(weight) for weight in weights or [1.0] * 3]
    shares = [float(part / sum(parts)) for part in parts]
    with torch.no_grad():
        pairs = zip(shares, copy.deepcopy(experts), strict=True)
        exact = torch.stack([share * expert.double()(x.double()) for share, expert in pairs]).sum(0)
        found = fused(x).double()
    bound = 8 * torch.finfo(kind).eps * float(x.abs().max() * 2 + 1)
    assert float((found - exact).abs().max()) < bound


def test_a_fusion_that_is_not_convex_is_refused() -> None:
    with pytest.raises(cx.NotCertified, match="expert 1 cannot be fused"):
        fuse([nn.Linear(2, 1), nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))], "mean", example=PLANE)
    with pytest.raises(ValueError, match="not negative"):
        fuse([nn.Linear(2, 1), nn.Linear(2, 1)], "mean", weights=[2.0, -1.0])
    with pytest.raises(ValueError, match="softmax-trained logits are free"):
        fuse([nn.Linear(2, 3), nn.Linear(2, 3)], "max")
    assert cx.certify(fuse([nn.Linear(2, 3), nn.Linear(2, 3)], "max", calibrated=True), PLANE).convex
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        fuse([nn.Linear(2, 1)], "meen")  # type: ignore[arg-type]


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        (torch.zeros(2, 2), [0, 1], "3 experts and 2 samples"),
        (torch.zeros(4, 2), [0, 0, 0, 0], "class 1 has no samples"),
        (torch.zeros(4, 2), [0, 1, 2, 0], "holds the class 2"),
        (torch.zeros(4, 2), [0, 1, -1, 0], "holds the class -1"),
        (torch.zeros(4, 2), [0.0, 0.5, 1.0, 0.0], "not whole"),
        (torch.zeros(4, 2), [0, 1], "one class"),
        (torch.zeros(0, 2), [], "no samples"),
        (torch.full((4, 2), math.nan), [0, 1, 0, 1], "NaN, first in sample 0"),
    ],
)
def test_samples_that_make_no_sense(x: Tensor, y: list[Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        mixture(ordinary).fit_em(x, y)


def test_arguments_that_make_no_sense() -> None:
    x, y = points(12)
    expert = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="same module"):
        MixtureOfExperts([expert, expert], nn.Linear(2, 2))
    with pytest.raises(ValueError, match="the gate has 3 outputs and there are 2 experts"):
        MixtureOfExperts([expert, nn.Linear(2, 1)], nn.Linear(2, 3)).fit_em(x, y)
    with pytest.raises(ValueError, match="1, 2 outputs"):
        MixtureOfExperts([expert, nn.Linear(2, 2)], nn.Linear(2, 2)).fit_em(x, y)
    with pytest.raises(ValueError, match="sample_weight"):
        mixture(ordinary).fit_em(x, y, sample_weight=-torch.ones(12))
    with pytest.raises(ValueError, match="class 1 has no samples"):
        mixture(ordinary).fit_em(x, y, sample_weight=(y == 0).float())
    with pytest.raises(ValueError, match="iterations must be a positive integer"):
        mixture(ordinary).fit_em(x, y, iterations=0)
    with pytest.raises(ValueError, match="every parameter is frozen"):
        mixture(ordinary).requires_grad_(False).fit_em(x, y)
    with pytest.raises(ValueError, match="the same module twice"):
        boost(lambda: expert, x, y, epochs=1)
    with pytest.raises(ValueError, match="13 rounds and 12 samples"):
        boost(lambda: nn.Linear(2, 1), x, y, 13)
    with pytest.raises(TypeError, match="no truth value"):
        bool(mixture(ordinary).certificates(PLANE))


def test_a_gate_that_collapses_and_an_expert_without_data_are_named() -> None:
    x, y = points(40)
    model = mixture(ordinary)
    last = model.gate[-1]  # pyright: ignore
    last.bias.data.copy_(torch.tensor([60.0, 0.0, 0.0]))
    history = model.fit_em(x, y, iterations=1)
    assert [remark.partition(" (")[0] for remark in history.remarks] == [
        "expert 1 receives no data",
        "expert 2 receives no data",
        "the gate collapses: it prefers expert 0 for all samples",
    ]
    assert history.points[0]["experts_used"] == 1


def test_a_gate_that_only_begins_with_one_expert_has_not_collapsed() -> None:
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 40)[:, None]
    model = MixtureOfExperts([nn.Linear(1, 1), nn.Linear(1, 1)], nn.Linear(1, 2))
    model.gate.bias.data.copy_(torch.tensor([2.0, 0.0]))  # pyright: ignore
    assert model.gates(x).argmax(1).unique().tolist() == [0]
    history = model.fit_em(x, (x[:, 0].abs() > 0.5).long(), iterations=30, learning_rate=0.3)
    assert (history.points[-1]["experts_used"], history.remarks) == (2, ())


def test_the_oracle_is_above_every_expert() -> None:
    x, y = points()
    experts = [ordinary() for _ in range(3)]
    single = [oracle_accuracy([expert], x, y) for expert in experts]
    assert max(single) <= oracle_accuracy(experts, x, y) <= min(1.0, sum(single))


@pytest.mark.parametrize("kind", ["mixture", "vote", "gated", "fused"])
def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    x, y = points(40)
    model: nn.Module = mixture(cone("clip"))
    if kind in ("vote", "gated"):
        gate = nn.Linear(2, 2) if kind == "gated" else None
        model = boost(cone("clip"), x, y, 2, epochs=1, gate=gate)
        assert (model.gate is None) == (kind == "vote" or len(model.experts) < 2)
    if kind == "fused":
        model = fuse([cx.nn.FICNN(2), nn.Linear(2, 1)], "max")
    cx.save(model, tmp_path / "ensemble.safetensors")
    again = cx.load(tmp_path / "ensemble.safetensors")
    assert type(again) is type(model)
    torch.testing.assert_close(again.eval()(x), model.eval()(x), rtol=0, atol=0)
    if kind == "mixture":
        assert isinstance(again, MixtureOfExperts)
        again.fit_em(x, y, iterations=1, learning_rate=0.1)
        assert again.certificates(PLANE).convex_experts == 3  # the constraint has been saved too
