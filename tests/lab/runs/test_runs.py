"""One run: what its record says is what its network does; stopping, averaging, diverging, precision."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

import convexnet as cx
from convexnet.lab.data import Split, load, scaled
from convexnet.lab.models import architectures
from convexnet.lab.models.convex import Convex
from convexnet.lab.models.modern import MODERN
from convexnet.lab.models.registry import MODELS, build
from convexnet.lab.runs import measuring
from convexnet.lab.runs.learning import POINTS, thinned
from convexnet.lab.runs.measuring import EVALUATED, evaluated_together, outputs
from convexnet.lab.runs.records import FIELDS
from convexnet.lab.runs.run import run
from convexnet.lab.runs.tasks import classification
from convexnet.lab.training.checkpoints import NAME, read_checkpoint
from convexnet.lab.training.epoch import Diverged
from convexnet.lab.training.experiment import Course, Training, prepared, update
from convexnet.lab.training.recipes import FAMILIES, recipe
from tests.lab import small


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "HIDDEN", small.HIDDEN)


def test_a_record_says_what_the_network_does(tmp_path: Path) -> None:
    job = small.job(noise=40.0, normalise="zca", epochs=20)
    row = run(job, small.place(tmp_path, network=True))
    assert set(row) >= FIELDS

    # Measured again, without any code of the laboratory but its data.
    data = load("digits", seed=0, noise=40.0, train_samples=192)
    network = cx.load(tmp_path / "network.safetensors", allow=("convexnet.lab.models.first_step",))

    def share(images: Tensor, labels: Tensor) -> float:
        with torch.no_grad():
            return float((network(scaled(images)).argmax(1) == labels).double().mean())

    assert row["train_accuracy"] == pytest.approx(share(data.train.images, data.train.labels), abs=1e-9)
    assert row["clean_train_accuracy"] == pytest.approx(share(data.train.images, data.train.clean), abs=1e-9)
    assert row["test_accuracy"] == pytest.approx(share(data.test.images, data.test.labels), abs=1e-9)
    assert row["train_accuracy"] != row["clean_train_accuracy"]
    assert row["gap"] == pytest.approx(row["train_accuracy"] - row["test_accuracy"])
    assert row["true_fraction"] == pytest.approx(float((data.train.labels == data.train.clean).double().mean()))
    with torch.no_grad():
        loss = functional.cross_entropy(network(scaled(data.test.images)), data.test.labels)
    assert row["test_loss"] == pytest.approx(float(loss), rel=1e-5)
    assert (row["certified"], row["tier"]) == (True, "T2")
    assert cx.certify(network, torch.zeros(2, 1, 8, 8)).convex
    assert (row["train_samples"], row["validation_samples"], row["test_samples"]) == (192, 135, 450)
    assert row["full"] is False


def test_the_peak_is_chosen_on_validation(tmp_path: Path) -> None:
    row = run(small.job("mlp", epochs=8), small.place(tmp_path))
    accuracies = [point["validation_accuracy"] for point in row["curve"]]
    assert row["peak_epoch"] == 1 + accuracies.index(max(accuracies))
    peak = row["curve"][row["peak_epoch"] - 1]
    assert row["test_accuracy_at_peak"] == pytest.approx(peak["test_accuracy"], abs=1e-5)


@pytest.mark.parametrize(
    ("how", "tier", "certified"),
    [
        (Convex(), "T2", True),
        (Convex(free_head=True), "T1", True),
        (Convex(method="exp"), "T2", True),
        (Convex(activation="softplus", init="lognormal", widen_first=2.0), "T2", True),
        (Convex(free_gamma=True), None, False),
    ],
    ids=["default", "free head", "computed", "softplus, lognormal, wider", "free γ"],
)
def test_tiers(how: Convex, tier: str | None, certified: bool, tmp_path: Path) -> None:
    row = run(small.job(convex=how, learning_rate=1e-2), small.place(tmp_path))
    assert (row["tier"], row["certified"]) == (tier, certified)


def test_an_ordinary_network_is_not_certified(tmp_path: Path) -> None:
    row = run(small.job("mlp"), small.place(tmp_path))
    assert (row["tier"], row["certified"], row["convex_at_these_weights"]) == (None, False, False)
    assert "linear" in row["breaks"][1]


def test_patience(tmp_path: Path) -> None:
    # At this rate nothing changes, so that no epoch is better than the first.
    row = run(small.job("ficnn", learning_rate=0.0, patience=2, epochs=50), small.place(tmp_path))
    assert (row["epochs"], row["peak_epoch"]) == (3, 1)


def test_the_first_bad_loss_stops_it(tmp_path: Path) -> None:
    # The rate is 1e-3 in the first epoch and 1e33 in the second.
    job = small.job("mlp", epochs=2, decay=1e72)
    with pytest.raises(Diverged, match=r"step \d of epoch 2.*the last good checkpoint is .*checkpoint\.pt") as told:
        run(job, small.place(tmp_path))
    assert "rows" in str(told.value)
    state = read_checkpoint(tmp_path / NAME, job.settings)
    assert state["learner"]["epoch"] == 1
    assert all(bool(value.isfinite().all()) for value in state["learner"]["model"].values())


def test_weights_that_break_after_the_last_step_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Training.ended

    def breaking(training: Training, number: int, seen: Any) -> Any:
        if number == 2:
            next(training.model.parameters()).data.fill_(math.nan)
        return original(training, number, seen)

    monkeypatch.setattr(Training, "ended", breaking)
    job = small.job("mlp")
    with pytest.raises(Diverged, match="undefined outputs after epoch 2"):
        run(job, small.place(tmp_path))
    assert read_checkpoint(tmp_path / NAME, job.settings)["learner"]["epoch"] == 1


def test_averaged_weights(seed: int) -> None:
    torch.manual_seed(seed)
    model, mean = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()
    mean.load_state_dict(model.state_dict())
    expected = model.weight.detach().clone()
    for _ in range(10):
        with torch.no_grad():
            model.weight.add_(torch.randn_like(model.weight))
        update(mean, model, 0.7)
        expected = 0.7 * expected + 0.3 * model.weight.detach()
    torch.testing.assert_close(mean.weight.detach(), expected)


def test_an_average_is_what_counts(tmp_path: Path) -> None:
    plain = run(small.job(epochs=3), small.place(tmp_path / "plain"))
    averaged = run(small.job(epochs=3, average=0.99), small.place(tmp_path / "averaged"))
    assert averaged["certified"]
    assert averaged["curve"][0]["running_loss"] == plain["curve"][0]["running_loss"]
    assert averaged["test_loss"] != plain["test_loss"]


def test_half_precision_keeps_a_proof(tmp_path: Path) -> None:
    row = run(small.job(precision="bf16-mixed", epochs=6), small.place(tmp_path))
    exact = run(small.job(epochs=6), small.place(tmp_path / "exact"))
    assert row["certified"]
    assert row["curve"][0]["running_loss"] != exact["curve"][0]["running_loss"]
    assert row["test_loss"] == pytest.approx(exact["test_loss"], rel=0.2)
    with pytest.raises(ValueError, match="bf16-mixed or 32-true"):
        run(small.job(precision="bf16-true"), small.place(tmp_path / "other"))


def test_logs(tmp_path: Path) -> None:
    row = run(small.job(measure_every=2, epochs=3), small.place(tmp_path, board=True))
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert len(lines) == 4
    assert "test_accuracy" in lines[0]
    assert [("test_accuracy" in point) for point in row["curve"]] == [False, True, True]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    seen = [(event.step, event.value) for event in events.Scalars("accuracy/validation")]
    wanted = [(point["epoch"], pytest.approx(point["validation_accuracy"], abs=1e-5)) for point in row["curve"]]
    assert seen == wanted


def test_parts_of_a_batch_make_the_whole(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    data = Split(torch.randn(11, 2, generator=generator), torch.arange(11))
    how = replace(small.RECIPE, batch=11)

    def share(process: int, processes: int) -> list[Any]:
        fabric: Any = SimpleNamespace(global_rank=process, world_size=processes)
        return list(Course(data, how, fabric, None, 0, lambda network, number: {}, classification()).given(1, 0))

    for processes in (1, 2, 3, 5):
        shares = [batch for process in range(processes) for batch in share(process, processes)]
        means = [batch.inputs.mean() * batch.share for batch in shares]
        torch.testing.assert_close(torch.stack(means).mean(), data.images.mean())
        assert sorted(torch.cat([batch.labels for batch in shares]).tolist()) == list(range(11))
    assert share(0, 6) == []  # a process would have a single row, of which BatchNorm makes nothing


def test_decay_acts_on_free_weights_alone() -> None:
    how = recipe("ours", convex=True)
    model = build("ioc-mlp", (1, 8, 8), 10, how, 0)
    course = Course(
        Split(torch.zeros(2, 64), torch.zeros(2).long()),
        how,
        Fabric(),
        None,
        0,
        lambda network, number: {},
        classification(),
    )
    training = prepared(model, torch.zeros(2, 1, 8, 8), course, convex=True)
    decayed, rest = training.optimiser.param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (1.0, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {"layers.linear1.weight", "layers.head.weight"}
    assert len(decayed["params"]) + len(rest["params"]) == len(names)


def test_evaluation_takes_as_many_samples_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(288, 10))
    one = torch.zeros(1, 1, 8, 8)
    assert evaluated_together(network, one) == EVALUATED
    monkeypatch.setattr(measuring, "ACTIVATIONS", 10 * 8 * 36 * 4 + 5)
    assert evaluated_together(network, one) == 10
    monkeypatch.setattr(measuring, "ACTIVATIONS", 1)
    assert evaluated_together(network, one) == 1
    assert not any(module._forward_hooks for module in network.modules())
    part = Split(torch.randn(7, 1, 8, 8), torch.zeros(7, dtype=torch.int64))
    with torch.no_grad():
        torch.testing.assert_close(outputs(network, part), network(part.images))


def test_a_long_curve_is_thinned() -> None:
    curve = [{"epoch": float(epoch)} for epoch in range(1, 1301)]
    kept = thinned(curve)
    assert len(kept) <= POINTS
    assert kept[-1]["epoch"] == 1300


LARGEST = ("ioc-allconv", "densenet", "ioc-densenet", *(name for name in MODERN if "cnn" not in name))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGEST)) for name in MODELS])
def test_models_are_built_from_the_seed_alone(name: str) -> None:
    family = MODELS[name].family
    for number, kind in enumerate(FAMILIES[family]):
        how = replace(recipe(kind, convex=MODELS[name].convex, family=family), epochs=1)
        shape = (1, 8, 8) if family == "mlp" else (3, 16, 16)
        one = build(name, shape, 10, how, 0)
        if number == 0:
            same, other = (build(name, shape, 10, how, seed) for seed in (0, 1))
            assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
            assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
        assert cx.certify(one, torch.zeros(2, *shape)).convex == MODELS[name].convex


def test_unknown_names_and_double_whitening_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no model 'mpl' \(did you mean 'mlp'\?\); there are mlp"):
        run(small.job("mpl"), small.place(tmp_path))
    with pytest.raises(ValueError, match="the recipe's"):
        run(small.job(convex=Convex(whiten="zca")), small.place(tmp_path))
    with pytest.raises(ValueError, match="normalisation must be one of"):
        run(small.job(normalise="zac"), small.place(tmp_path))


def test_training_without_an_epoch_has_no_best() -> None:
    model = nn.Linear(1, 1)
    how = replace(recipe("ours", convex=False), patience=1)
    course = Course(
        Split(torch.zeros(2, 1), torch.zeros(2).long()),
        how,
        Fabric(),
        None,
        0,
        lambda network, number: {},
        classification(),
    )
    training = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), course)
    assert not training.spent
    assert not training.done


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # the compiler calls it itself
def test_compiled_is_the_same_network(tmp_path: Path) -> None:
    plain = run(small.job(epochs=4), small.place(tmp_path / "plain"))
    compiled = run(small.job(epochs=4, compiled=True), small.place(tmp_path / "compiled"))
    assert compiled["certified"]
    assert compiled["test_loss"] == pytest.approx(plain["test_loss"], rel=1e-2)
    assert compiled["curve"][0]["running_loss"] == pytest.approx(plain["curve"][0]["running_loss"], rel=1e-3)
