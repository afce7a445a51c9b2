"""A network that was trained on a folder of images, asked for the class of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import convexnet as cx
from convexnet.lab.cli.app import app
from convexnet.lab.data import load
from convexnet.lab.models.first_step import normaliser
from convexnet.lab.models.saved import fitted, network_of
from convexnet.lab.runs.run import complete, described

SIDE = 6


class Brightest(nn.Module):
    """Three logits: how bright the picture is in its top, middle and bottom rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 20 * x.mean(1).unflatten(1, (3, -1)).mean((2, 3))


def picture(path: Path, band: int, size: int = SIDE, colour: tuple[int, int, int] = (255, 255, 255)) -> Path:
    """A picture with one bright third."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[band * size // 3 : (band + 1) * size // 3] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as `train` saves it, with the data that it saw."""
    root = tmp_path_factory.mktemp("saved")
    for band, name in enumerate(("top", "middle", "bottom")):
        for k in range(4):
            picture(root / "set" / name / f"{k}.png", band, colour=(200 + k, 200, 200))
    data = load(f"folder:{root / 'set'}", validation=0)
    assert data.classnames == ("bottom", "middle", "top")
    network = nn.Sequential(Brightest(), nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.eye(3).flip(0))  # type: ignore[operator]
    made = described(complete(network, normaliser(data.train, "none")), data)
    cx.save(made, root / "network.safetensors")
    return root / "network.safetensors"


def predict(*words: object) -> Any:
    return CliRunner().invoke(app, ["predict", "--allow", __name__, *map(str, words)])


def test_classes_by_name(saved: Path, tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{band}.png", band) for band in range(3)]
    done = predict(saved, *files, "--json")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [next(iter(row["classes"])) for row in rows] == ["top", "middle", "bottom"]
    assert all(sum(row["classes"].values()) == pytest.approx(1.0) for row in rows)
    shown = predict(saved, tmp_path, "--top", "1", "--json")
    assert shown.exit_code == 0
    assert shown.stdout.count(".png") == 3


def test_another_size_is_brought_to_that_of_the_network(saved: Path, tmp_path: Path) -> None:
    done = predict(saved, picture(tmp_path / "large.png", 2, size=30), "--json")
    row = json.loads(done.stdout)
    assert next(iter(row["classes"])) == "bottom"
    assert row["note"] == "resized from 30 x 30"


def test_an_image_without_colours() -> None:
    pixels = torch.tensor([[255], [0], [0]], dtype=torch.uint8)[:, :, None].expand(3, 2, 2)
    grey, note = fitted(pixels, torch.zeros(2, 1, 2, 2))
    assert note == "colours left out"
    torch.testing.assert_close(grey, torch.full((1, 1, 2, 2), 0.299))
    same, note = fitted(torch.full((3, 2, 2), 51, dtype=torch.uint8), torch.zeros(2, 1, 2, 2))
    assert note == ""
    torch.testing.assert_close(same, torch.full((1, 1, 2, 2), 0.2))


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("none.safetensors", "cannot be loaded"),
        ("network", "words.png cannot be read as an image"),
        ("vectors", "takes inputs (4,), and not images"),
        ("network folder", "a folder without images"),
        ("network missing", "there is no image"),
    ],
)
def test_what_cannot_be_predicted_is_a_line(file: str, told: str, saved: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.png"
    words.write_text("no image", encoding="utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    vectors = tmp_path / "vectors.safetensors"
    cx.save(nn.Linear(4, 2), vectors)
    first = {"vectors": vectors, "none.safetensors": tmp_path / file}.get(file, saved)
    done = predict(first, empty if "folder" in file else tmp_path / "none.png" if "missing" in file else words)
    assert done.exit_code == 2
    assert told in done.stderr
    assert "Traceback" not in done.output


def test_a_saved_network_is_certified_with_the_shape_that_it_remembers(saved: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["certify", str(saved), "--allow", __name__])
    assert done.exit_code == 0, done.output
    assert "(B, 3, 6, 6)" in done.stdout
    assert network_of(saved, [__name__]).training is False
    bare = tmp_path / "bare.safetensors"
    cx.save(nn.ReLU(), bare)
    done = CliRunner().invoke(app, ["certify", str(bare)])
    assert done.exit_code == 2
    assert "--shape" in done.stderr
    assert CliRunner().invoke(app, ["certify", str(bare), "--shape", "3"]).exit_code == 0
    done = CliRunner().invoke(app, ["certify", "torch.nn:ReLU"])
    assert done.exit_code == 2
    assert "--shape 3,32,32" in done.stderr
