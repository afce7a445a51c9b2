"""`convexnet minimise` as a user meets it: exit status, words and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

import convexnet as cx
from convexnet.lab.cli.app import app
from convexnet.memory import CLASSNAMES, remember_example
from tests.drawing import some


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


def test_one_of_several_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = cx.nn.FICNN(3, hidden=(6,), out_features=2, activation="relu")
    network.__dict__[CLASSNAMES] = ["ant", "bee"]
    path, out = tmp_path / "network.safetensors", tmp_path / "found.npz"
    cx.save(network, path)
    values: dict[str, float] = {}
    for name in ("0", "1", "bee"):
        done = minimise(str(path), "--box", "-1,1", "--output", name, "--out", str(out))
        assert done.exit_code == 0, done.output
        with np.load(out) as found:
            outputs = network(torch.tensor(found["x"]).float()).detach()[0]
            values[name] = float(found["value"][0])
            assert float(outputs[int(name != "0")]) == pytest.approx(values[name], abs=1e-5)
    assert values["1"] == values["bee"] != values["0"]
    corners = torch.cartesian_prod(*3 * [torch.linspace(-1, 1, 5)])
    assert bool((network(corners).amin(0) >= torch.tensor([values["0"], values["1"]]) - 1e-5).all())
    for words, said in (
        ((), "has 2 outputs, which count from 0, or by the names of its classes: ant, bee; choose the one"),
        (("--output", "2"), "--output '2' is not there: the network has 2 outputs"),
        (("--output", "bea"), "--output 'bea' is not there (did you mean 'bee'?)"),
    ):
        done = minimise(str(path), "--box", "-1,1", *words)
        assert done.exit_code == 2
        assert said in " ".join(done.output.split())


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


def flat(done: Result) -> str:
    return " ".join(done.output.split())


FILES = {
    "header.csv": "temperature,load\n0.5,-1\n0,2\n",
    "plain.csv": "0.5,-1\n\n# the second\n0,2\n",
    "three.csv": "1,2,3\n",
    "ragged.csv": "1,2\n3\n",
    "word.csv": "1,2\n3,x\n",
    "hole.csv": "1,2\n3,\n",
    "semicolons.csv": "1;2\n3;4\n",
    "empty.csv": "\n",
    "bounds.csv": "lo,hi\n-1,1\n0,0.5\n-2,-1\n",
    "two.csv": "-1,1\n0,0.5\n",
}


@pytest.fixture
def folder(saved: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the saved network, with files of numbers beside it."""
    monkeypatch.chdir(saved.parent)
    for name, text in FILES.items():
        Path(name).write_text(text, encoding="utf-8")
    rows = np.array([[0.5, -1.0], [0.0, 2.0]])
    np.save("rows.npy", rows)
    np.savez("rows.npz", x=rows)
    np.save("bounds.npy", np.array([[-1.0, 1.0], [0.0, 0.5], [-2.0, -1.0]]))
    np.save("words.npy", np.array(["a", "b"]))
    np.savez("objects.npz", x=np.array([{}, 1], dtype=object))
    whole = Path("rows.npz").read_bytes()
    Path("cut.npz").write_bytes(whole[: len(whole) // 2])
    middle = whole.index(b"NUMPY") + 150
    Path("changed.npz").write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    Path("text.npy").write_text("1,2\n", encoding="utf-8")
    Path("empty.npz").write_bytes(b"")
    with ZipFile("other.npz", "w") as archive:
        archive.writestr("hello.txt", "hello")
    np.save("whole.npy", np.array([[1, -1], [0, 2]]))
    Path("latin.csv").write_bytes(b"\xff\xfe1,2")
    return saved.parent


def values(words: list[str], tmp: str = "found.npz") -> Any:
    done = minimise("network.safetensors", *words, "--out", tmp)
    assert done.exit_code == 0, done.output
    with np.load(tmp) as found:
        return found["value"], found["x"], done


@pytest.mark.parametrize("name", ["header.csv", "plain.csv", "rows.npy", "rows.npz"])
def test_given_from_every_kind_of_file(folder: Path, name: str) -> None:
    found, _, done = values(["--box", "-1,1", "--given", name])
    assert ("header (temperature, load)" in flat(done)) == (name == "header.csv")
    rows = torch.tensor([[0.5, -1.0], [0.0, 2.0]])
    expected = cx.minimise(cx.load("network.safetensors"), cx.Box(-1, 1, shape=3), given=rows).value.detach().numpy()
    assert np.allclose(found, expected)


def test_whole_numbers_are_numbers(folder: Path) -> None:
    found, _, _ = values(["--box", "-1,1", "--given", "whole.npy"])
    rows = torch.tensor([[1.0, -1.0], [0.0, 2.0]])
    assert np.allclose(found, cx.minimise(cx.load("network.safetensors"), cx.Box(-1, 1, shape=3), rows).value.detach())


BOUNDS = [["--box", "-1,1", "--box", "0,0.5", "--box", "-2,-1"], ["--box", "bounds.csv"], ["--box", "bounds.npy"]]


@pytest.mark.parametrize("words", some(BOUNDS, 2, "bounds"), ids=str)
def test_bounds_of_each_coordinate(folder: Path, words: list[str]) -> None:
    found, x, _ = values([*words, "--given", "plain.csv"])
    box = cx.Box([-1.0, 0.0, -2.0], [1.0, 0.5, -1.0])
    rows = torch.tensor([[0.5, -1.0], [0.0, 2.0]])
    expected = cx.minimise(cx.load("network.safetensors"), box, given=rows)
    assert np.allclose(found, expected.value.detach().numpy())
    assert bool(box.contains(x).all())


GIVEN = ["--given", "plain.csv"]
MISTAKES: dict[str, tuple[list[str], str]] = {
    "two bounds for three": (["--box", "0,1", "--box", "0,1", *GIVEN], "--box is given 2 times, and there are 3 coord"),
    "a file of two bounds": (["--box", "two.csv", *GIVEN], "a row LO,HI for each of the 3 coordinates, (3, 2), and it"),
    "no file of bounds": (["--box", "bound.csv", *GIVEN], "--box bound.csv: there is no such file"),
    "three columns": (["--box", "0,1", "--given", "three.csv"], "has 3 numbers in a row, and the network takes 2"),
    "a row too short": (["--box", "0,1", "--given", "ragged.csv"], "line 2 has 1 columns, and line 1 has 2"),
    "a word": (["--box", "0,1", "--given", "word.csv"], "word.csv, line 2, column 2 cannot be read as a number: 'x'"),
    "an empty cell": (["--box", "0,1", "--given", "hole.csv"], "hole.csv, line 2, column 2 is empty"),
    "semicolons": (["--box", "0,1", "--given", "semicolons.csv"], "separated by semicolons: use commas"),
    "nothing": (["--box", "0,1", "--given", "empty.csv"], "holds no rows"),
    "another encoding": (["--box", "0,1", "--given", "latin.csv"], "not a text file in UTF-8"),
    "objects": (["--box", "0,1", "--given", "objects.npz"], "it holds Python objects: convert them"),
    "half a file": (["--box", "0,1", "--given", "cut.npz"], "it is truncated or damaged"),
    "a byte changed": (["--box", "0,1", "--given", "changed.npz"], "it is truncated or damaged"),
    "text": (["--box", "0,1", "--given", "text.npy"], "it is neither a .npy nor an .npz file"),
    "an empty file": (["--box", "0,1", "--given", "empty.npz"], "it is empty"),
    "another archive": (["--box", "0,1", "--given", "other.npz"], "an archive of other files than arrays"),
    "letters in an array": (["--box", "0,1", "--given", "words.npy"], "holds entries of type <U1, not real numbers"),
    "two inputs": (["--box", "0,1", *GIVEN, *GIVEN], "--given must hold 1 of them, not 2"),
    "another input": (["--box", "0,1", *GIVEN, "--wrt", "2"], "--wrt 2 is not one of the network's 2 inputs"),
    "a mistyped solver": (["--box", "0,1", *GIVEN, "--solver", "newtn"], "(did you mean 'newton'?)"),
    "no folder": (["--box", "0,1", *GIVEN, "--out", "nowhere/x.npz"], "there is no folder nowhere"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(folder: Path, name: str) -> None:
    words, said = MISTAKES[name]
    done = minimise("network.safetensors", *words)
    assert done.exit_code == 2
    assert said in flat(done)


# --- fixed coordinates -----------------------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path, seed: int) -> Path:
    """A network of images 1 x 2 x 3."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), cx.nn.FICNN(6, hidden=(5,), activation="softplus"))
    remember_example(network, torch.zeros(1, 1, 2, 3))
    cx.save(network, tmp_path / "image.safetensors")
    return tmp_path / "image.safetensors"


def test_fixed_coordinates_by_number_and_by_index(image: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.npz"
    words = ("--fix", "4=0.5", "--fix", "0,0,2=-0.25", "--out", str(out))
    done = minimise(str(image), "--box", "-1,1", *words)
    assert done.exit_code == 0, done.output
    values = torch.zeros(1, 2, 3)
    values[0, 1, 1], values[0, 0, 2] = 0.5, -0.25
    direct = cx.minimise(cx.load(image), cx.Box(-1, 1, shape=(1, 2, 3)).fix(values, values != 0))
    with np.load(out) as found:
        assert (found["x"][0, 0, 1, 1], found["x"][0, 0, 0, 2]) == (0.5, -0.25)
        assert np.allclose(found["value"], direct.value.detach().numpy(), atol=1e-6)
        assert (found["lower_bound"] <= found["value"]).all()


@pytest.mark.parametrize("ending", ["csv", "npy"])
def test_fixed_coordinates_of_each_sample(ending: str, saved: Path, tmp_path: Path) -> None:
    given, values = np.array([[0.5, -1.0], [0.0, 2.0]]), np.array([[0.5, np.nan, np.nan], [np.nan, np.nan, -1.0]])
    np.save(tmp_path / "x.npy", given)
    file, out = tmp_path / f"fix.{ending}", tmp_path / "found.npz"
    if ending == "csv":
        np.savetxt(file, values, delimiter=",")
    else:
        np.save(file, values)
    words = ("--given", str(tmp_path / "x.npy"), "--fix", str(file), "--out", str(out))
    assert minimise(str(saved), "--box", "-1,1", *words).exit_code == 0
    free = cx.minimise(cx.load(saved), cx.Box(-1, 1, shape=(3,)), given=torch.tensor(given).float())
    with np.load(out) as found:
        assert (found["x"][0, 0], found["x"][1, 2]) == (0.5, -1.0)
        assert (found["value"] >= free.lower_bound.detach().numpy() - 1e-9).all()


def test_all_coordinates_fixed_is_the_value_there(image: Path, tmp_path: Path) -> None:
    np.savetxt(tmp_path / "fix.csv", np.linspace(-1, 1, 6)[None], delimiter=",")
    out = tmp_path / "found.npz"
    done = minimise(str(image), "--box", "-1,1", "--fix", str(tmp_path / "fix.csv"), "--out", str(out))
    assert done.exit_code == 0, done.output
    network = cx.load(image).double()
    with np.load(out) as found:
        x = torch.tensor(found["x"]).double()
        assert np.allclose(found["value"], network(x).detach().numpy().ravel(), atol=1e-6)
        assert found["lower_bound"][0] <= found["value"][0] <= found["lower_bound"][0] + 1e-5


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("6=0", "--fix 6=0: the input has 1 x 2 x 3 coordinates, which count from 0"),
        ("-1=0", "the input has 1 x 2 x 3 coordinates"),
        ("0,2=1", "the input has 1 x 2 x 3 coordinates"),
        ("0,0,3=1", "the input has 1 x 2 x 3 coordinates"),
        ("0=nan", "a finite number"),
        ("0", "write 3=0.5, or name a file"),
        ("a=1", "write 3=0.5, or name a file"),
        ("0=2", "lies outside the box, [-1, 1]"),
        ("1=0 --fix 0,0,1=0", "that coordinate is given twice"),
        ("none.csv", "there is no such file"),
        ("short.csv", "holds numbers (1, 2), and a sample has 6 coordinates"),
        ("words.csv", "cannot be read as a number"),
    ],
)
def test_what_is_no_fixed_coordinate(
    words: str, told: str, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.csv").write_text("1,2\n", encoding="utf-8")
    Path("words.csv").write_text("1,2,3,a,5,6\n", encoding="utf-8")
    done = minimise(str(image), "--box", "-1,1", "--fix", *words.split())
    assert done.exit_code == 2
    assert told in " ".join(done.stderr.split())
