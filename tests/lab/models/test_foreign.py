"""Models that are not built in: of timm and of a user, ordinary and convex, from `train` to `predict`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from convexnet.lab.cli.app import app
from convexnet.lab.cli.show_runs import package_of
from convexnet.lab.models.foreign import foreign, taken_by
from convexnet.lab.models.registry import build, model_named
from convexnet.lab.runs.run import run
from convexnet.lab.training.recipes import recipe
from tests.lab import small
from tests.lab.data.test_streamed import draw

OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_chans=3):
        super().__init__()
        self.first = nn.Conv2d(in_chans, 4, 3, 2)
        self.act = nn.SiLU()
        self.head = nn.Linear(4 * 9, num_classes)

    def forward(self, x):
        return self.head(self.act(self.first(x)).flatten(1))

class Gated(Net):
    def forward(self, x):
        h = self.first(x).flatten(1)
        return self.head(h * h.sigmoid())

class Unsavable(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.call = lambda x: x

ready = Net(7)

def plain(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, num_classes))

def broken(num_classes):
    raise RuntimeError("no such config")

def three():
    return 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_models_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("pictures"), 10, vary=True)


def train(pictures: Path, model: str, *words: str) -> Any:
    start = ["train", "--dataset", f"folder:{pictures}", "--image-size", "8", "--epochs", "1", "--batch", "10"]
    return CliRunner().invoke(app, [*start, "--workers", "0", "--model", model, "--out", "run", *words])


@pytest.mark.parametrize("convex", [False, True])
def test_a_model_of_ones_own_from_the_first_command_to_the_last(own: str, convex: bool, pictures: Path) -> None:
    done = train(pictures, f"{own}:Net", *(["--convex", "--method", "exponentiate"] if convex else []))
    assert done.exit_code == 0, done.output
    assert f"--allow {own}" in done.output
    (row,) = [json.loads(line) for line in Path("run/record.jsonl").read_text(encoding="utf-8").splitlines()]
    assert row["model"] == ("ioc-" if convex else "") + f"{own}:Net"
    assert row["recipe"]["name"] == "ours"
    assert row["recipe"]["convex"]["method"] == "exponentiate"
    assert (row["certified"], row["tier"]) == ((True, "T1") if convex else (False, None))
    file = "run/network.safetensors"
    refused = CliRunner().invoke(app, ["certify", file])
    assert refused.exit_code == 2
    proved = CliRunner().invoke(app, ["certify", file, "--allow", own])
    assert proved.exit_code == (0 if convex else 1), proved.output
    shown = CliRunner().invoke(app, ["predict", file, str(pictures / "val"), "--allow", own, "--json"])
    assert shown.exit_code == 2  # it holds folders
    shown = CliRunner().invoke(app, ["predict", file, str(pictures / "val" / "bee"), "--allow", own, "--json"])
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert len(rows) == 4
    assert set(rows[0]["classes"]) == {"ant", "bee", "cow"}


def test_a_network_of_trusted_classes_needs_no_permission(own: str, pictures: Path) -> None:
    done = train(pictures, f"{own}:plain")
    assert done.exit_code == 0, done.output
    assert "network.safetensors" in done.output
    assert "allow" not in done.output


@pytest.mark.parametrize(
    ("model", "words", "told"),
    [
        ("Gated", "--convex", "nn.Sigmoid()"),
        ("Unsavable", "", "the network could not be saved when it is trained: network.call is a lambda"),
        ("ready", "", "gives outputs (7,) for a sample, and these data have 3 classes"),
        ("broken", "", "failed with RuntimeError: no such config"),
        ("three", "", "returned an int, not an nn.Module"),
        ("none", "", "has no 'none'"),
        ("Net", "--image-size 9", "does not take samples of shape (3, 9, 9)"),
        ("Net", "--recipe paper-text", "has no recipe for a model that is not built in; known are ours"),
        ("Net", "--method clip", "--method applies to convex networks"),
    ],
)
def test_refused_before_anything_is_drawn(own: str, model: str, words: str, told: str, pictures: Path) -> None:
    done = train(pictures, f"{own}:{model}", *words.split())
    assert done.exit_code == 2
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.output
    assert "0/1" not in done.output


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("timm:resnet81", r"timm has no model 'resnet81' (did you mean 'resnet"),
        ("no_such_module:build", "there is no module 'no_such_module'"),
        ("mpl", "'mpl' is not one of mlp"),
    ],
)
def test_unknown_models(model: str, told: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = train(pictures, model)
    assert done.exit_code == 2
    assert told in " ".join(done.stderr.split())
    assert not Path("run").exists()


def test_a_model_of_timm_is_trained_and_proved(tmp_path: Path) -> None:
    how = recipe("ours", convex=True, family="other")
    job = small.job("ioc-timm:test_resnet", train_samples=64, augment="none", epochs=1)
    job = type(job)(**{**vars(job), "recipe": type(how)(**{**vars(how), "epochs": 1, "batch": 32})})
    row = run(job, small.place(tmp_path))
    assert row["certified"]
    assert row["tier"] == "T1"


def test_attention_is_refused_by_name() -> None:
    from convexnet.errors import NotCertified

    how = recipe("ours", convex=True, family="other")
    with pytest.raises(NotCertified, match=r"blocks\.0\.attn: aten\.scaled_dot_product_attention"):
        build("ioc-timm:test_vit", (3, 32, 32), 4, how, 0)
    network = build("timm:test_vit", (1, 32, 32), 4, how, 0)
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 4), "a model of one size is made for that of the images"


def test_what_is_built_follows_from_the_seed(own: str) -> None:
    how = recipe("ours", convex=False, family="other")
    torch.manual_seed(1)
    first = build(f"{own}:Net", (3, 8, 8), 3, how, 0)
    torch.manual_seed(2)
    second, other = (build(f"{own}:Net", (3, 8, 8), 3, how, seed) for seed in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    ready = [build(f"{own}:ready", (3, 8, 8), 7, how, 0) for _ in range(2)]
    assert ready[0] is not ready[1], "a module that is named is copied: training it changes no other run"


def test_a_free_head_where_there_can_be_one() -> None:
    assert model_named("timm:test_resnet").convex is False
    assert foreign("ioc-timm:test_resnet").convex is True


def test_what_a_factory_is_told() -> None:
    offered = {"num_classes": 3, "in_chans": 1, "input_shape": (1, 8, 8)}
    assert taken_by(lambda: None, offered) == {}
    assert taken_by(lambda in_chans, *, input_shape: None, offered) == {"in_chans": 1, "input_shape": (1, 8, 8)}
    assert taken_by(lambda **more: None, offered) == {"num_classes": 3}
    assert taken_by(nn.ReLU, offered) == {}
    assert package_of("torchvision.models:resnet18") == ""
