"""`convexnet minimise` as a user meets it: exit status, words and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

import convexnet as cx
from convexnet.lab.commands import app


@pytest.fixture
def saved(tmp_path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    path = tmp_path / "network.safetensors"
    cx.save(cx.nn.PICNN(2, 3, hidden=(6,), activation="relu"), path)
    return path


def minimise(*words: str) -> Result:
    return CliRunner().invoke(app, ["minimise", *words])


def test_a_batch_and_its_file(saved: Path, tmp_path: Path) -> None:
    x = np.array([[0.5, -1.0], [0.0, 2.0]])
    np.savetxt(tmp_path / "x.csv", x, delimiter=",")
    out = tmp_path / "found.npz"
    done = minimise(str(saved), "--box", "-1,1", "--given", str(tmp_path / "x.csv"), "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "all 2 converged" in done.output
    direct = cx.minimise(cx.load(saved), cx.Box(-1, 1, shape=(3,)), given=torch.tensor(x).float())
    with np.load(out) as found:
        assert set(found.files) == {"x", "value", "lower_bound", "converged"}
        assert np.allclose(found["value"], direct.value.detach().numpy())
        assert np.allclose(found["x"], direct.x.detach().numpy())
    assert not list(tmp_path.glob(".*part"))


def test_what_is_not_proved_is_status_1(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    cx.save(cx.nn.FICNN(3, hidden=(6,), activation="relu"), path)
    done = minimise(str(path), "--box", "-inf,inf")
    assert done.exit_code == 1
    assert "finite bounds" in " ".join(done.output.split())
    torch.manual_seed(0)
    cx.save(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)), path)
    done = minimise(str(path), "--box", "-1,1")
    assert done.exit_code == 1
    assert "aten.linear" in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--box", "1"), "not a box"),
        (("--box", "1,0"), "is empty"),
        (("--box", "0,1"), "--given must hold 1"),
        (("--box", "0,1", "--given", "x.txt"), ".npy"),
        (("--box", "0,1", "--given", "bad.csv"), "cannot be read"),
        (("--box", "0,1", "--given", "x.csv", "--solver", "magic"), "magic"),
        (("--box", "0,1", "--given", "x.csv", "--tol", "-1"), "tol"),
    ],
)
def test_wrong_usage(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("x.txt", "1 2"), ("bad.csv", "a,b"), ("x.csv", "1,2")):
        Path(name).write_text(text, encoding="utf-8")
    done = minimise(str(saved), *words)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_a_file_that_is_no_network(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    path.write_bytes(b"nothing")
    done = minimise(str(path), "--box", "0,1")
    assert done.exit_code == 2
    assert "cannot be loaded" in " ".join(done.output.split())
