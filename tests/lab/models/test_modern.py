"""The newer networks in the laboratory: what keeps them convex while they train, and what their records say of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import convexnet as cx
from convexnet.lab.data import Split
from convexnet.lab.models.architectures import Model
from convexnet.lab.models.convex import Convex
from convexnet.lab.models.modern import MODERN, certified, cnn
from convexnet.lab.models.registry import MODELS, build, model_named
from convexnet.lab.runs.run import run
from convexnet.lab.runs.verdict import part_verdicts, verdict
from convexnet.lab.training.epoch import constraint_by_names
from convexnet.lab.training.recipes import FAMILIES, recipe
from convexnet.zoo import Mixer, mixer, report_constraint
from tests.lab import small

CONVEX = recipe("ours", convex=True, family="other").convex


def test_each_is_in_the_registry_with_a_recipe_of_its_family() -> None:
    for name, kind in MODERN.items():
        assert MODELS[name] is kind
        assert kind.recipe in FAMILIES[kind.family]
        assert kind.convex == name.startswith("ioc-")
        assert kind.constrained == (kind.convex or name == "cnn-head")
    with pytest.raises(ValueError, match="did you mean 'mixer'"):
        model_named("mixr")


def test_a_convex_head_is_recorded_as_convex_in_its_features(tmp_path: Path) -> None:
    """The network is not convex, and its record says so; the head is, and its record says in what."""
    row = run(small.job("cnn-head", epochs=1, train_samples=96, convex=CONVEX), small.place(tmp_path))
    assert (row["certified"], row["tier"]) == (False, None)
    assert row["breaks"][0].startswith("network.features")
    assert row["certified_parts"] == {"head": True}


def test_a_head_whose_constraint_was_left_is_not_certified() -> None:
    how = replace(recipe("ours", convex=True, family="other"), convex=replace(CONVEX, free_head=False))
    network, x = build("cnn-head", (1, 8, 8), 3, how, 0), torch.randn(2, 1, 8, 8)
    assert part_verdicts(network, x)["head"].certified
    assert not verdict(network, x).convex
    with torch.no_grad():
        network.get_parameter("head.linear2.weight")[0, 0] = -1.0
    assert not part_verdicts(network, x)["head"].certified
    assert part_verdicts(build("cnn", (1, 8, 8), 3, how, 0), x) == {}


def test_a_part_in_a_model_is_no_convex_model() -> None:
    model = certified(cnn, "head", only="head")
    assert isinstance(model, Model)
    assert (model.convex, model.constrained, model.only) == (False, True, "head")


def test_the_constraint_of_the_report_is_kept_by_training() -> None:
    """By names, after every step, in a network that stays as far from convex as its norms are."""
    network = mixer(3, "report", image=6, patch=3, width=8, layers=1)
    part = Split(torch.rand(12, 3, 6, 6), torch.arange(12) % 3)
    assert report_constraint(network).violation() > 0
    small.fitted(network, part, convex=False, epochs=2, batch=4, learning_rate=0.1)
    assert report_constraint(network).violation() == 0.0
    assert not cx.certify(network, part.images[:2]).convex
    assert network.get_parameter("patches.weight").min() < 0

    free = Mixer(3, image=6, patch=3, width=8, layers=1)
    assert constraint_by_names(free) is None
    assert constraint_by_names(nn.Linear(2, 1)) is None


@pytest.mark.parametrize("name", ["ioc-mixer", "ioc-cyclemlp-b1", "ioc-efficientnet-b0"])
@pytest.mark.slow
def test_each_trains_and_stays_certified(name: str, tmp_path: Path) -> None:
    how = {"convex": CONVEX if name != "ioc-mixer" else Convex(), "epochs": 1, "train_samples": 64}
    row = run(small.job(name, **how), small.place(tmp_path))
    assert row["certified"]
    assert row["tier"] == ("T2" if name == "ioc-mixer" else "T1")
