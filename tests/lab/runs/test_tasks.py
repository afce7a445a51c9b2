"""What is learnt is a task: a regression, and weights of samples, by the loop that trains classifiers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from convexnet.lab.data import DataSet, Split
from convexnet.lab.models.registry import build
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.metrics import accuracies
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import COMMON, Row, read_records
from convexnet.lab.runs.run import record, train_model
from convexnet.lab.runs.sweep import sweep
from convexnet.lab.runs.tasks import REGRESSION, classification, cross_entropy, squared_errors
from convexnet.lab.studies import fig2
from convexnet.lab.training.recipes import Recipe
from convexnet.learner import Point
from tests.lab import small

HOW = Recipe("regression", epochs=4, batch=32, learning_rate=1e-2, normalise="none", hidden=(16, 16))


def parts(seed: int) -> DataSet:
    """Two numbers for each point in the plane, both convex in it; of the training targets one is an outlier."""
    draws = torch.Generator().manual_seed(seed)

    def part(count: int) -> Split:
        points = torch.randn(count, 2, generator=draws)
        return Split(points, torch.stack([points.square().sum(1), points.abs().sum(1)], 1))

    train = part(128)
    used = train.labels.clone()
    used[0] = 100.0
    return DataSet("bowls", train.relabelled(used), part(32), part(64), classes=2, classnames=("square", "size"))


def regress(job: Job, place: Place, tick: Tick, weights: Tensor | None = None) -> Row:
    """A study's `run`: the network has as many outputs as a target has numbers."""
    data = parts(job.seed)
    model = build("ioc-mlp", data.shape, 2, job.recipe, job.seed)
    return record(train_model(job, place, tick, model, data, convex=True, task=REGRESSION, weights=weights))


JOB = Job("bowls", "ioc-mlp", "bowls", HOW, 0)


def test_a_regression_has_the_same_loop_and_a_record_of_its_own(tmp_path: Path) -> None:
    class Halted(Exception):
        pass

    def halt(job: Job, point: Point) -> None:
        if point["epoch"] == 2:
            raise Halted

    study = replace(fig2.STUDY, name="bowls", run=regress)
    whole = sweep(study, [JOB], small.place(tmp_path / "whole"), tmp_path / "results").rows[0]
    (row,) = read_records(tmp_path / "results" / "bowls.jsonl")
    assert set(row) > COMMON
    assert (row["task"], row["certified"], row["tier"]) == ("regression", True, "T2")
    assert not {"test_accuracy", "ece", "train_accuracy"} & set(row)
    last = row["curve"][-1]
    assert last["test_squared_error"] == last["test_loss"] == pytest.approx(row["test_rmse"] ** 2, rel=1e-4)
    assert row["train_rmse"] > 5 > row["clean_train_rmse"], "the outlier is in the targets that were used"
    # The epoch with the least error on the validation part is the best.
    errors = [point["validation_squared_error"] for point in row["curve"]]
    assert row["peak_epoch"] == 1 + errors.index(min(errors))
    with pytest.raises(Halted):
        regress(JOB, small.place(tmp_path / "parts"), halt)
    assert small.same(regress(JOB, small.place(tmp_path / "parts"), lambda job, point: None)) == small.same(whole)


def test_a_sample_without_weight_teaches_nothing(tmp_path: Path) -> None:
    weights = torch.ones(128)
    weights[0] = 0.0
    fair = regress(JOB, small.place(tmp_path / "plain"), lambda job, point: None)
    weighted = regress(JOB, small.place(tmp_path / "weighted"), lambda job, point: None, weights)
    assert weighted["clean_train_rmse"] < fair["clean_train_rmse"]

    def ignoring(target: float) -> Row:
        """The weighted run where the sample without weight has another target."""
        data = parts(0)
        used = data.train.labels.clone()
        used[0] = target
        model = build("ioc-mlp", (2,), 2, HOW, 0)
        changed = replace(data, train=data.train.relabelled(used))
        place = small.place(tmp_path / str(target))
        found = train_model(
            JOB, place, lambda job, point: None, model, changed, convex=True, task=REGRESSION, weights=weights
        )
        return record(found)

    one, other = ignoring(-7.0), ignoring(1e4)
    assert one["test_rmse"] == other["test_rmse"] == weighted["test_rmse"]


def test_weights_are_those_of_the_rows_of_a_batch() -> None:
    """Twice the weight is as good as the sample twice, in full batches of plain gradient descent."""
    draws = torch.Generator().manual_seed(1)
    points, labels = torch.randn(6, 3, generator=draws), torch.tensor([0, 1, 1, 0, 1, 0])
    weights = torch.tensor([2.0, 1, 1, 1, 1, 0])

    def trained(part: Split, weights: Tensor | None) -> Tensor:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        how = {"epochs": 3, "batch": 8, "optimiser": "sgd", "learning_rate": 0.1}
        small.fitted(model, part, convex=False, weights=weights, **how)
        return model.weight.detach()

    doubled = torch.tensor([0, 0, 1, 2, 3, 4])
    twice = trained(Split(points[doubled], labels[doubled]), None)
    torch.testing.assert_close(trained(Split(points, labels), weights), twice)
    assert (trained(Split(points, labels), None) - twice).abs().max() > 1e-3


def test_losses_are_those_of_torch() -> None:
    draws = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(7, 3, generator=draws), torch.randint(3, (7,), generator=draws)
    for smoothing in (0.0, 0.2):
        expected = functional.cross_entropy(outputs, labels, label_smoothing=smoothing)
        assert torch.equal(classification(smoothing).loss(outputs, labels), expected)
        torch.testing.assert_close(classification(smoothing).loss(outputs, labels, torch.ones(7)), expected)
    # One output is the difference of two logits.
    one, two = outputs[:, :1], torch.cat([torch.zeros(7, 1), outputs[:, :1]], 1)
    for smoothing in (0.0, 0.2):
        left, right = (cross_entropy(out, labels % 2, smoothing=smoothing) for out in (one, two))
        torch.testing.assert_close(left, right)
    assert classification(0.5).measure(outputs, labels)["loss"] == pytest.approx(
        float(functional.cross_entropy(outputs, labels))
    )


def test_targets_must_fit() -> None:
    assert squared_errors(torch.ones(3), torch.zeros(3, 1)).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="as many outputs as a target"):
        squared_errors(torch.zeros(3, 1), torch.zeros(3, 2))
    for wrong in (torch.zeros(2, dtype=torch.int32), torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="labels"):
            Split(torch.zeros(2, 2), wrong)


def test_without_a_test_part_there_is_no_test_accuracy() -> None:
    outputs, labels = torch.eye(2), torch.tensor([0, 1])
    found = accuracies(outputs, labels, labels, None, labels[:0], running=1.0)
    assert (found["train_accuracy"], found["test_accuracy"], found["gap"]) == (1.0, None, None)
