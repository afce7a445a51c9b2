"""`convexnet certify` as a user meets it: exit status and words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from convexnet.lab import cli
from convexnet.lab.cli.app import app
from tests.processes import HANGING

ROOT = Path(__file__).resolve().parents[3]

MODELS = """
import torch
from torch import nn

print("a module that talks while it is imported")

def ordinary():
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))

def convex():
    model = ordinary()
    with torch.no_grad():
        model[2].weight.abs_()
    return model

class Pair(nn.Module):
    def forward(self, x, y):
        return (x.relu() - y.relu()).sum(dim=1)

ready = convex()
text = "hello"
holder = type("Holder", (), {"inner": ready})

def empty(): return None
def broken(): raise RuntimeError("the config\\nis missing")
def leaves(): raise SystemExit("cannot go on")
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of its own in the current directory; its name is new to every test, so that none is cached."""
    name = f"user_models_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MODELS, encoding="utf-8")
    (tmp_path / f"{name}_broken.py").write_text("import a_package_nobody_has\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def certify(*words: str) -> Result:
    return CliRunner().invoke(app, ["certify", *words])


def test_a_convex_model_exits_with_0(models: str) -> None:
    result = certify(f"{models}:convex", "--shape", "3")
    assert result.exit_code == 0, result.output
    assert "convex" in result.stdout


def test_a_model_that_is_not_convex_exits_with_1_and_names_the_layer(models: str) -> None:
    result = certify(f"{models}:ordinary", "--shape", "3")
    assert result.exit_code == 1, result.output
    assert "linear" in result.stdout
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", ["ready", "holder.inner"])
def test_a_module_itself_may_be_named(models: str, name: str) -> None:
    assert certify(f"{models}:{name}", "--shape", "3").exit_code == 0


def test_json_is_alone_on_standard_output(models: str) -> None:
    result = certify(f"{models}:ordinary", "--shape", "3", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["convex"] is False
    assert "talks" in result.stderr


def test_the_weights_decide(models: str, tmp_path: Path) -> None:
    good = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        good[2].weight.abs_()
    torch.save(good.state_dict(), tmp_path / "good.pt")
    assert certify(f"{models}:ordinary", "--shape", "3", "--weights", "good.pt").exit_code == 0
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    result = certify(f"{models}:ordinary", "--shape", "3", "--weights", "other.pt")
    assert result.exit_code == 2
    assert "other.pt does not fit the model" in result.stderr
    # A pickled module could run code when loaded; only plain tensors are read.
    torch.save(good, tmp_path / "module.pt")
    result = certify(f"{models}:ordinary", "--shape", "3", "--weights", "module.pt")
    assert result.exit_code == 2
    assert "state_dict" in result.stderr
    assert "weights_only" not in result.stderr


def test_wrt_chooses_the_input(models: str) -> None:
    pair = (f"{models}:Pair", "--shape", "3", "--shape", "3")
    assert certify(*pair).exit_code == 1
    assert certify(*pair, "--wrt", "0").exit_code == 0
    assert certify(*pair, "--wrt", "1").exit_code == 1


def test_a_box_restricts_the_claim(models: str) -> None:
    pair = (f"{models}:Pair", "--shape", "3", "--shape", "3", "--wrt", "1")
    # Where y is positive its ReLU is the identity, and minus an affine function is convex.
    assert certify(*pair, "--box", "0.5,1").exit_code == 0
    assert certify(*pair, "--box", "-1,1").exit_code == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{m}", "--shape", "3"], "'{m}' is not there, as a file. Write MODULE:FACTORY"),
        ([".", "--shape", "3"], "'.' is a folder. Write MODULE:FACTORY"),
        (["{m}:convx", "--shape", "3"], "has no 'convx' (did you mean 'convex'?)"),
        (["{m}.py:convex", "--shape", "3"], "is a file; name the module as in an import statement: {m}:convex"),
        (["no_such_module_here:f", "--shape", "3"], "there is no module 'no_such_module_here'"),
        (["{m}_broken:f", "--shape", "3"], "No module named 'a_package_nobody_has'"),
        (["{m}:nothing", "--shape", "3"], "has no 'nothing'; modules found there: ready"),
        (["{m}:text", "--shape", "3"], "is a str"),
        (["{m}:empty", "--shape", "3"], "returned a NoneType, not an nn.Module"),
        (["{m}:broken", "--shape", "3"], "RuntimeError: the config is missing ("),
        (["{m}:leaves", "--shape", "3"], "SystemExit: cannot go on"),
        (["{m}:convex", "--shape", "4"], "inputs of shape (2, 4) failed"),
        (["{m}:convex", "--shape", "3x3"], "--shape '3x3' is not a shape"),
        (["{m}:convex", "--shape", "0"], "--shape '0' is not a shape"),
        (["{m}:convex", "--shape", "3", "--wrt", "1"], "--wrt '1' does not fit 1 input(s)"),
        (["{m}:convex", "--shape", "3", "--wrt", "x"], "Count from 0"),
        (["{m}:Pair", "--shape", "3", "--shape", "3", "--box", "0,1"], "choose which with --wrt"),
        (["{m}:convex", "--shape", "3", "--box", "1,0"], "is empty"),
        (["{m}:convex", "--shape", "3", "--box", "1"], "Write two numbers"),
        (["{m}:convex", "--shape", "3", "--weights", "none.pt"], "there is no such file"),
        (["{m}:convex"], "--shape"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_to_do(models: str, words: list[str], told: str) -> None:
    result = certify(*(word.format(m=models) for word in words))
    assert result.exit_code == 2, result.output
    assert told.format(m=models) in result.stderr
    assert "Traceback" not in result.output
    talked = [line for line in result.stderr.splitlines() if "talks" not in line]
    assert len(talked) <= 4


@pytest.mark.parametrize("words", [["--help"], ["demo", "--help"], ["certify", "--help"], ["minimise", "--help"]])
def test_help(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_interrupting_is_one_line(models: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("convexnet.lab.cli.show_demo.run_demo", interrupt)
    result = CliRunner().invoke(app, ["demo", "--out", "somewhere"])
    assert result.exit_code == 130
    assert result.stderr.split() == [
        "Stopped;",
        "no",
        "report",
        "was",
        "written.",
        "With",
        "--out",
        "somewhere",
        "the",
        "same",
        "command",
        "goes",
        "on.",
    ]


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "convexnet.lab.cli.app", raising=False)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert "'typer'" in told
    assert 'pip install "convexnet[lab]"' in told


def test_the_command_in_a_process_of_its_own(models: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from convexnet.lab.cli import main; main()", "certify"]
    done = subprocess.run(
        [*command, f"{models}:ordinary", "--shape", "3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANGING,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "linear" in done.stdout
    # Not a terminal: no colours.
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["certify", "torch.nn:ReLU", "--shape", "3", "--html", "file/proof.html"],
        ["report", "records.jsonl", "-o", "file/report.html"],
    ],
)
def test_a_page_that_cannot_be_written_is_a_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("a file, and no folder")
    Path("records.jsonl").write_text(
        (ROOT / "results" / "fig3.jsonl").read_text(encoding="utf-8").splitlines()[0] + "\n"
    )
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2, done.output
    assert f"{words[-1]} could not be written" in done.stderr
    assert "choose another place, or free some space" in done.stderr
    assert "Traceback" not in done.output
