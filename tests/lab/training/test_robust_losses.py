"""Losses that resist wrong labels: the equations of their papers, written out, and what a run makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convexnet.lab.models import architectures
from convexnet.lab.runs.run import run
from convexnet.lab.runs.tasks import classification
from convexnet.lab.training.experiment import Course, prepared
from convexnet.lab.training.recipes import Recipe
from convexnet.lab.training.robust_losses import LOSSES, EarlyLearning, loss_named, settings_of
from tests.lab import small


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "HIDDEN", small.HIDDEN)


def drawn(seed: int, classes: int = 5, count: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (count,), generator=generator)


def gce(p: list[float], label: int, q: float) -> float:
    return (1 - p[label] ** q) / q


def sce(p: list[float], label: int, alpha: float, beta: float) -> float:
    zero = -4.0
    forward = -math.log(p[label])
    backward = -sum(p[k] * (math.log(1.0) if k == label else zero) for k in range(len(p)))
    return alpha * forward + beta * backward


@pytest.mark.parametrize("numbers", ["", ":0.3", ":1"])
def test_generalised_cross_entropy(numbers: str, seed: int) -> None:
    logits, labels = drawn(seed)
    q = loss_named(f"gce{numbers}")[1][0]
    wanted = [gce(p, int(k), q) for p, k in zip(logits.softmax(1).tolist(), labels, strict=True)]
    found = classification(loss=f"gce{numbers}").loss(logits, labels)
    assert float(found) == pytest.approx(sum(wanted) / len(wanted), rel=1e-9)
    # Towards q = 0 it is cross-entropy.
    near = classification(loss="gce:1e-9").loss(logits, labels)
    torch.testing.assert_close(near, classification().loss(logits, labels), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("numbers", ["", ":6,0.1", ":0,1"])
def test_symmetric_cross_entropy(numbers: str, seed: int) -> None:
    logits, labels = drawn(seed)
    alpha, beta = loss_named(f"sce{numbers}")[1]
    wanted = [sce(p, int(k), alpha, beta) for p, k in zip(logits.softmax(1).tolist(), labels, strict=True)]
    found = classification(loss=f"sce{numbers}").loss(logits, labels)
    assert float(found) == pytest.approx(sum(wanted) / len(wanted), rel=1e-9)


def test_early_learning_regularisation(seed: int) -> None:
    """Three visits of some samples, by hand: the target moves first, and no gradient goes through it."""
    strength, kept, classes = 2.0, 0.6, 4
    loss = EarlyLearning(5, strength, kept)
    targets = torch.zeros(5, classes)
    for visit, rows in enumerate(([0, 3], [3, 4], [3, 0])):
        logits, labels = drawn(seed + visit, classes, 2)
        logits = logits.float().requires_grad_()
        found = loss(logits, labels, torch.tensor(rows))
        p = logits.softmax(1).clamp(1e-4, 1 - 1e-4)
        for place, row in enumerate(rows):
            now = p[place].detach() / p[place].detach().sum()
            targets[row] = kept * targets[row] + (1 - kept) * now
        ce = -logits.log_softmax(1)[torch.arange(2), labels]
        wanted = (ce + strength * torch.log(1 - (p * targets[rows]).sum(1))).mean()
        torch.testing.assert_close(found, wanted)
        (mine,), (theirs,) = (torch.autograd.grad(value, logits, retain_graph=True) for value in (found, wanted))
        torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(loss.targets, targets)
    assert not bool(loss.targets[1].any()), "a sample that was not seen has no target"


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the classes."""
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


FORMULAS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "cross-entropy": lambda p, y: -(y * np.log(p)).sum(1),
    "label-smoothing": lambda p, y: -((0.9 * y + 0.1 / p.shape[1]) * np.log(p)).sum(1),
    "label-smoothing:0.3": lambda p, y: -((0.7 * y + 0.3 / p.shape[1]) * np.log(p)).sum(1),
    "gce": lambda p, y: (1 - (p * y).sum(1) ** 0.7) / 0.7,
    "gce:0.2": lambda p, y: (1 - (p * y).sum(1) ** 0.2) / 0.2,
    "sce": lambda p, y: -0.1 * (y * np.log(p)).sum(1) - (p * np.where(y == 1, 0.0, -4.0)).sum(1),
    # As in the authors' code, which clips the labels at 1e-4.
    "sce:0.1,2.302585093": lambda p, y: -0.1 * (y * np.log(p)).sum(1) - (p * np.log(np.clip(y, 1e-4, 1))).sum(1),
    "elr": lambda p, y: -(y * np.log(p)).sum(1) + 3 * np.log(1 - (p * (0.3 * p)).sum(1)),  # first seen: t = 0.3 p
    "elr:1,0.9": lambda p, y: -(y * np.log(p)).sum(1) + np.log(1 - (p * (0.1 * p)).sum(1)),
}
"""Losses (N,) of probabilities and one-hot labels (N, K), of samples that were not seen before."""


@pytest.mark.parametrize("text", FORMULAS)
def test_every_loss_is_its_formula(text: str, seed: int) -> None:
    logits, labels = drawn(seed, count=9)
    logits = logits / 3  # no probability is clipped
    p, y = probabilities(logits.numpy()), np.eye(5)[labels.numpy()]
    assert p.min() > 1e-4
    settings = settings_of(text)
    task = classification(settings.get("smoothing", 0.0), settings.get("loss", "cross-entropy"))
    if task.memory is None:
        found = task.loss(logits, labels)
    else:
        found = task.memory(9)(logits, labels, torch.arange(9))
    # The memory of a loss is in single precision.
    exact = 1e-6 if task.memory else 1e-9
    assert float(found) == pytest.approx(float(FORMULAS[text](p, y).mean()), rel=exact)


def test_every_loss_has_a_formula() -> None:
    assert {text.partition(":")[0] for text in FORMULAS} == {*LOSSES, "label-smoothing"}


@pytest.mark.parametrize("name", LOSSES)
def test_one_output_is_two_classes(name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs, labels = torch.randn(6, 1, generator=generator), torch.tensor([0, 1, 1, 0, 1, 0])
    two = torch.cat([torch.zeros_like(outputs), outputs], 1)
    task = classification(loss=name)
    if task.memory is None:
        torch.testing.assert_close(task.loss(outputs, labels), task.loss(two, labels))
    else:
        rows = torch.arange(6)
        torch.testing.assert_close(task.memory(6)(outputs, labels, rows), task.memory(6)(two, labels, rows))


@pytest.mark.parametrize("name", LOSSES)
def test_equal_weights_change_nothing(name: str, seed: int) -> None:
    outputs, labels = drawn(seed)
    outputs = outputs.float()
    task, ones = classification(loss=name), torch.ones(7)
    if task.memory is None:
        torch.testing.assert_close(task.loss(outputs, labels, ones), task.loss(outputs, labels))
    else:
        rows = torch.arange(7)
        mine, theirs = task.memory(7), task.memory(7)
        torch.testing.assert_close(mine(outputs, labels, rows, ones), theirs(outputs, labels, rows))


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_outputs_keep_a_finite_loss(name: str) -> None:
    outputs, labels = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True), torch.tensor([1, 1])
    task = classification(loss=name)
    loss = task.loss if task.memory is None else lambda x, y: task.memory(2)(x, y, torch.arange(2))  # type: ignore[misc]
    value = loss(outputs, labels)
    value.backward()
    assert bool(value.isfinite())
    assert outputs.grad is not None
    assert bool(outputs.grad.isfinite().all())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gec", r"there is no loss 'gec' \(did you mean 'gce'\?\)"),
        ("gce:0", "above 0"),
        ("gce:nan", "above 0"),
        ("gce:2", "at most 1"),
        ("gce:0.1,0.2", "takes 1 number after its colon"),
        ("sce:1", "takes 2 numbers"),
        ("sce:0,0", "not both 0"),
        ("sce:-1,1", "at least 0"),
        ("elr:1,1", "the share of its memory"),
        ("elr:x,y", "takes 2 numbers"),
        ("cross-entropy:1", "takes no number"),
        ("label-smoothing:1", r"a share in \[0, 1\)"),
        ("label-smoothing:a", r"a share in \[0, 1\)"),
    ],
)
def test_a_wrong_loss_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        settings_of(text)


def test_smoothing_is_of_cross_entropy() -> None:
    with pytest.raises(ValueError, match="smoothed for cross-entropy, not for gce"):
        classification(0.1, "gce")


def test_memory_asks_for_one_process() -> None:
    def measure(network: nn.Module, number: int) -> dict[str, float]:
        del network, number
        return {}

    part = cast("Any", [0, 1, 2])
    several = cast("Any", SimpleNamespace(world_size=2, strategy=None))
    course = Course(part, Recipe("r", epochs=1, loss="elr"), several, None, 0, measure, classification(loss="elr"))
    with pytest.raises(ValueError, match="train on one device"):
        prepared(nn.Linear(2, 2), torch.zeros(2, 2), course, convex=False)


def test_the_loss_that_is_recorded_is_plain(tmp_path: Path) -> None:
    """Whatever is trained with: so that losses of networks can be compared."""
    row = run(small.job("mlp", loss="gce", epochs=1), small.place(tmp_path))
    assert row["recipe"]["loss"] == "gce"
    assert row["train_loss"] == pytest.approx(row["curve"][-1]["train_loss"], rel=1e-5)
    assert row["curve"][-1]["running_loss"] < 1 / 0.7, "no GCE is larger"


def test_converged(tmp_path: Path) -> None:
    row = run(small.job("mlp", converged=2.0, epochs=9), small.place(tmp_path / "a"))
    assert row["converged"]
    assert row["epochs"] < 9
    assert row["curve"][-1]["running_loss"] < 2.0 <= row["curve"][-2]["running_loss"]
    row = run(small.job("mlp", converged=1e-9, epochs=2), small.place(tmp_path / "b"))
    assert (row["converged"], row["epochs"]) == (False, 2)
    assert "converged" not in run(small.job("mlp", epochs=1), small.place(tmp_path / "c"))
