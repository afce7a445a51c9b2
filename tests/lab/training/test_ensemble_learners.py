"""The laboratory's driver trains ensembles: killed after some checkpoint, they end at the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import convexnet as cx
from convexnet.ensembles import ExpectationMaximisation, MixtureOfExperts, learners
from convexnet.lab.training.checkpoints import CheckpointError
from convexnet.lab.training.driver import LOG, Keeping, drive
from convexnet.learner import Point

SETTINGS = {"experts": 2}


def learner() -> ExpectationMaximisation:
    torch.manual_seed(3)
    mixture = MixtureOfExperts([cx.nn.FICNN(2, (4,), constraint="clip") for _ in range(2)], nn.Linear(2, 2))
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(4))
    return ExpectationMaximisation(mixture, x, (x.prod(1) > 0).long(), iterations=4, batch=16, learning_rate=0.1)


def test_a_mixture_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learners, "SLICE", 0.0)
    whole = learner()
    expected = drive(whole, Keeping(tmp_path / "whole", SETTINGS)).curve

    def kill(point: Point) -> None:
        if point["iteration"] == 2:
            raise KeyboardInterrupt

    killed = Keeping(tmp_path / "killed", SETTINGS, seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        drive(learner(), killed, kill)
    resumed = learner()
    found = drive(resumed, killed)
    assert found.resumed == [2]
    assert found.curve == expected
    again, mixture = resumed.mixture.state_dict(), whole.mixture.state_dict()
    assert all(torch.equal(mixture[name], again[name]) for name in mixture)
    assert (killed.folder / LOG).read_text().startswith("iteration,log_likelihood,penalty")
    with pytest.raises(CheckpointError):
        drive(learner(), Keeping(killed.folder, {"experts": 3}))
