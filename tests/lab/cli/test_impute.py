"""`convexnet impute` as a user meets it: exit status, words and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from torch import nn
from typer.testing import CliRunner

import convexnet as cx
from convexnet.lab.cli.app import app
from convexnet.memory import remember_example

NAN = float("nan")
ROWS = [[0.5, NAN, NAN], [NAN, NAN, NAN], [0.1, 0.2, -0.3]]


def impute(*words: object) -> Result:
    return CliRunner().invoke(app, ["impute", *map(str, words)])


@pytest.fixture(scope="module")
def energy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("energy") / "energy.safetensors"
    net = cx.nn.FICNN(3, hidden=(6,), quadratic=1)
    remember_example(net, torch.zeros(2, 3))
    cx.save(net, path)
    return path


def test_gaps_are_filled_with_what_the_energy_likes_best(energy: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b,c\n0.5,,\nnan,nan,nan\n0.1,0.2,-0.3\n")
    np.save(tmp_path / "x.npy", np.array(ROWS))
    direct = cx.impute(cx.load(energy), torch.tensor(ROWS, dtype=torch.float64), domain=cx.Box(-1, 1, shape=3)).x
    for name, out in (("x.csv", "filled.csv"), ("x.npy", "filled.npy"), ("x.npy", "filled.npz")):
        done = impute(energy, tmp_path / name, "--out", tmp_path / out, "--box", "-1,1")
        assert done.exit_code == 0, done.output
        assert "0 to 3 numbers missing in each: all 3 converged" in done.output
        found = np.genfromtxt(tmp_path / out, delimiter=",") if out.endswith("csv") else np.load(tmp_path / out)
        found = found["x"] if out.endswith("npz") else found
        assert np.abs(found - direct.detach().numpy()).max() <= 1e-4
        assert found[0, 0] == 0.5
        assert found[2].tolist() == ROWS[2]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_mask_says_what_is_missing_where_numbers_stand(energy: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[0.5, 9.0, 9.0], [0.25, 9.0, 9.0]]))
    (tmp_path / "mask.csv").write_text("1,0,0\n")
    done = impute(energy, tmp_path / "x.npy", "--out", tmp_path / "y.npy", "--mask", tmp_path / "mask.csv")
    assert done.exit_code == 0, done.output
    direct = cx.impute(cx.load(energy), torch.tensor([[0.5, NAN, NAN], [0.25, NAN, NAN]], dtype=torch.float64)).x
    assert np.abs(np.load(tmp_path / "y.npy") - direct.detach().numpy()).max() <= 1e-4


@pytest.mark.parametrize(
    ("x", "mask", "words", "said"),
    [
        ([[0.5, NAN]], None, ("--box", "-1,1"), "a sample of the network has 3: one sample is one row"),
        ([[0.5, 0.1, 2.0], [0.5, NAN, 2.0]], None, ("--box", "-1,1"), "2 to fix element (0, 2) to lies outside"),
        ([[0.5, NAN, 0.0]], [[1, 1, 1]], ("--box", "-1,1"), "a number is given which is nan in row 0"),
        ([[0.5, NAN, 0.0]], [[1, 0.5, 1]], ("--box", "-1,1"), "must hold 1 where a number is given, and 0"),
        ([[0.5, NAN, 0.0]], [[1, 0, 1], [1, 0, 1]], ("--box", "-1,1"), "has 2 rows, and"),
        ([[0.5, NAN, 0.0]], [[1, 0]], ("--box", "-1,1"), "--mask"),
        ([[0.5, NAN, 0.0]], None, ("--box", "1,-1"), "--box"),
        ([[0.5, NAN, 0.0]], None, ("--output", "7"), "--output '7' is not there"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(
    energy: Path,
    tmp_path: Path,
    x: list[list[float]],
    mask: list[list[float]] | None,
    words: tuple[str, ...],
    said: str,
) -> None:
    np.save(tmp_path / "x.npy", np.array(x))
    if mask is not None:
        np.save(tmp_path / "mask.npy", np.array(mask))
        words = ("--mask", str(tmp_path / "mask.npy"), *words)
    done = impute(energy, tmp_path / "x.npy", "--out", tmp_path / "y.npy", *words)
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.output.split())
    assert not (tmp_path / "y.npy").exists()


def test_places_and_networks_that_will_not_do_are_named(energy: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array(ROWS))
    for out, said in (("y.txt", ".npy, .npz or .csv"), ("none/y.npy", "there is no folder")):
        done = impute(energy, tmp_path / "x.npy", "--out", tmp_path / out)
        assert done.exit_code == 2
        assert said in " ".join(done.output.split())
    wavy = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    remember_example(wavy, torch.zeros(2, 3))
    cx.save(wavy, tmp_path / "wavy.safetensors")
    done = impute(tmp_path / "wavy.safetensors", tmp_path / "x.npy", "--out", tmp_path / "y.npy", "--box", "-1,1")
    assert done.exit_code == 1
    assert "tanh" in done.output
    pair = cx.nn.PICNN(2, 3, hidden=(4,))
    remember_example(pair, (torch.zeros(2, 2), torch.zeros(2, 3)))
    cx.save(pair, tmp_path / "pair.safetensors")
    done = impute(tmp_path / "pair.safetensors", tmp_path / "x.npy", "--out", tmp_path / "y.npy")
    assert done.exit_code == 2
    assert "takes 2 inputs" in " ".join(done.output.split())
