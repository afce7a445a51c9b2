"""The studies of ensembles: killed and resumed to the same bits, and what their records and tables say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import convexnet as cx
from convexnet.ensembles import MixtureOfExperts, learners
from convexnet.lab.data import DataError, DataSet, Split, load
from convexnet.lab.reports import expert_pictures
from convexnet.lab.runs.serial import RECORD
from convexnet.lab.studies import fig4, fig5, table6
from convexnet.lab.studies.mixtures import Mixed, binary, mix, preferred, settle
from tests.lab import small
from tests.lab.killing import killed_and_resumed


def test_a_mixture_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = (job for job in fig4.plan("smoke", [0]) if job.model == "ioc-mixture-2")
    row = killed_and_resumed(
        fig4.run, replace(job, recipe=replace(job.recipe, hidden=(8, 8))), tmp_path, (monkeypatch, learners), kills=2
    )
    assert (row["certified"], row["experts_certified"], row["experts_tier"], row["falls"]) == (False, 2, ["T3"], 0)
    assert "not convex" in row["ensemble"]
    assert sum(row["shares"]) == pytest.approx(1)
    assert row["oracle_accuracy"] >= max(row["test_accuracy"], *row["expert_accuracy"])
    chosen = expert_pictures.unpacked(row["partition"], (fig4.MAP, fig4.MAP))
    assert len(chosen.unique()) == row["experts_used"]
    (section,) = fig4.sections([row])
    assert "2 of 2" in section.tables[0].rows[1]
    assert "3 iterations, shortened" in section.tables[0].rows[1]


def test_boosting_that_was_killed_and_its_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experts, gate = table6.pair("mlp", "digits", 0, "smoke")
    how = replace(experts.recipe, hidden=(16,), batch=32, learning_rate=0.03)  # better than chance, every one of them
    experts = replace(experts, train_samples=200, recipe=how)
    gate = replace(gate, train_samples=200, needs=(experts.key,))
    row = killed_and_resumed(table6.run, experts, tmp_path, (monkeypatch, learners), kills=2)
    assert (row["experts"], row["experts_certified"], row["certified"], row["fused_certified"]) == (3, 3, False, True)
    assert row["oracle_accuracy"] >= max(row["expert_accuracy"])
    (tmp_path / "killed" / RECORD).write_text("{}", encoding="utf-8")
    place = small.place(tmp_path / "gate", needs={experts.key: tmp_path / "killed"})
    over = table6.run(gate, place, lambda job, point: None)
    assert over["expert_accuracy"] == row["expert_accuracy"], "the experts stay as they are"
    assert over["test_accuracy"] <= row["oracle_accuracy"]
    assert len(over["shares"]) == 3
    (section,) = table6.sections([row, over])
    cells = dict(zip(section.tables[0].columns, section.tables[0].rows[0], strict=True))
    assert (cells["certified"], cells["paper gate"]) == ("3 of 3; 1 of 1", "71.80")
    assert cells["run"].startswith("shortened: 1 epochs each")


@pytest.mark.parametrize("kind", ["mlp", pytest.param("allconv", marks=pytest.mark.slow), "densenet"])
def test_experts_and_gates_of_three_architectures(kind: str) -> None:
    (job, _) = table6.pair(kind, "cifar10", 0)
    gate = table6.gate_of(kind, (3, 12, 12), 3, seed=0)
    assert gate.eval()(torch.zeros(2, 3, 12, 12)).shape == (2, 3)
    if kind == "densenet":
        return  # its certificate is the registry's to test, and takes long
    how = replace(job.recipe, hidden=(8, 8))
    expert = table6.expert_of(kind, (3, 12, 12), 10, how, seed=0)
    assert cx.certify(expert, torch.zeros(2, 3, 12, 12)).convex


def test_mean_images_are_those_of_the_shares() -> None:
    torch.manual_seed(0)
    raw = load("digits")
    gate = nn.Sequential(nn.Flatten(), nn.Linear(64, fig5.MOST))
    mixture = MixtureOfExperts([nn.Sequential(nn.Flatten(), nn.Linear(64, 1)) for _ in range(fig5.MOST)], gate)
    scaled = replace(raw, test=Split(raw.test.images.float() / 255, raw.test.labels))
    row = fig5.seen(Mixed(mixture, nn.Identity(), scaled, {}), raw)
    here = raw.test.labels == fig5.SHOWN
    assert sum(row["mean_counts"]) == int(here.sum())
    means = expert_pictures.unpacked(row["mean_images"], row["mean_shape"])
    chosen = preferred(mixture, scaled.test.images[here])
    index = int(chosen.mode().values)
    expected = raw.test.images[here][chosen == index].double().mean(0).round()
    assert torch.equal(means[index].double(), expected)


def test_two_classes_keep_what_is_wrong_and_what_is_true() -> None:
    part = Split(torch.zeros(4, 2), torch.tensor([0, 3, 7, 9]), torch.tensor([3, 3, 7, 1]))
    none = Split(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    found = binary(DataSet("x", part, none, none, 10, tuple("0123456789")), (3, 9), "y", ("no", "yes"))
    assert (found.train.labels.tolist(), found.train.clean.tolist()) == ([0, 1, 0, 1], [1, 1, 0, 0])
    assert (found.classes, found.name) == (2, "y")


def test_settled_statistics_are_those_of_the_samples() -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(300, 2) + 1
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5))
    settle(net, x, rows=100)
    norm: Any = net[0]
    torch.testing.assert_close(norm.running_mean, x.mean(0))
    assert norm.momentum == 0.1
    assert net[1].training
    before = [value.clone() for value in norm.buffers()]
    settle(net, x, rows=100)
    assert all(map(torch.equal, before, norm.buffers())), "settling twice changes nothing"


def test_samples_that_make_no_sense_end_a_job_and_no_sweep(tmp_path: Path) -> None:
    job = fig4.plan("smoke", [0])[0]
    few = fig4.data_of(0)
    with pytest.raises(DataError, match=r"ioc-mixture-5, vee.* 5 experts and 3 samples"):
        mix(job, small.place(tmp_path), print, replace(few, train=Split(torch.randn(3, 2), torch.tensor([0, 1, 1]))))
    with pytest.raises(DataError, match="class 1 has no samples"):
        mix(job, small.place(tmp_path), print, replace(few, train=Split(torch.randn(9, 2), torch.zeros(9).long())))


def test_remarks_stand_in_the_report() -> None:
    said = "the gate collapses: it prefers expert 0 for all samples (first in iteration 2)"
    row = {
        **dict.fromkeys(("train_accuracy", "test_accuracy", "test_accuracy_at_peak", "oracle_accuracy"), 0.5),
        "model": "ioc-mixture-2",
        "dataset": "digits-odd",
        "train_samples": 9,
        "seed": 0,
        "full": False,
        "gap": 0.0,
        "experts": 2,
        "experts_used": 1,
        "experts_certified": 2,
        "falls": 0,
        "remarks": [said],
        "recipe": {"name": "experts", "epochs": 2, "hidden": [4]},
    }
    (section,) = fig5.sections([row])
    assert section.tables[1].rows == [["2 convex experts", "0", said]]
    assert section.panels[0].caption.endswith("Shortened runs.")


def test_pieces_are_counted() -> None:
    """A ring around a spot, beside a stripe: three pieces of two experts; a speck is none."""
    chosen = torch.zeros(20, 20, dtype=torch.int64)
    chosen[5:15, 5:15] = 1
    chosen[8:12, 8:12] = 0
    chosen[0, 0] = 1
    assert fig4.pieces(chosen) == 3
