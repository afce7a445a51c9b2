"""Two processes that share every batch train the network that one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import convexnet as cx
from convexnet.lab.models import architectures
from convexnet.lab.runs.run import run
from tests.lab import small
from tests.lab.runs.parallel import in_shards, settings
from tests.processes import HANGING, Forge

ROOT = Path(__file__).resolve().parents[3]


def under_torchrun(folder: Path) -> subprocess.CompletedProcess[str]:
    """The command itself, with an agent and two processes that import everything."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    command += ["--master-port=0", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        [*command, str(ROOT / "tests" / "lab" / "runs" / "parallel.py"), str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANGING,
        check=False,
    )


def check_in_shards(row: dict[str, Any], folder: Path) -> None:
    """In shards, told to end in the midst and resumed, it learns what one process alone learns."""
    alone = run(in_shards(), small.place(folder / "alone without average", network=True))
    assert (row["processes"], row["certified"], len(row["resumed_after"])) == (2, True, 1)
    for mine, theirs in zip(alone["curve"], row["curve"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-2)
    one, other = (network(folder / place).state_dict() for place in ("alone without average", "both/shards"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-4)
    # A checkpoint of shards is one of the whole network: one process goes on from it, and finds nothing to do.
    (folder / "both" / "shards" / "network.safetensors").unlink()
    again = run(in_shards(), small.place(folder / "both" / "shards", network=True))
    assert again["test_accuracy"] == row["test_accuracy"]


def network(folder: Path) -> nn.Module:
    return cx.load(folder / "network.safetensors", allow=("convexnet.lab.models.first_step",))


@pytest.mark.slow
def test_of_two_processes_one_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forge: Forge) -> None:
    monkeypatch.setattr(architectures, "HIDDEN", small.HIDDEN)
    words = (str(tmp_path / "both"), "killed")
    first = forge.run("tests.distributed:laboratory", *words, folder=tmp_path)
    assert first.returncode != 0
    assert (tmp_path / "both" / "killed").exists()
    again = forge.run("tests.distributed:laboratory", *words, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    row = json.loads((tmp_path / "both" / "row0.json").read_text(encoding="utf-8"))
    alone = run(settings(), small.place(tmp_path / "alone"))
    assert row["resumed_after"] == [1]
    for mine, theirs in zip(alone["curve"], row["curve"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-2)


@pytest.mark.parametrize("how", ["in its surroundings", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_two_processes_are_as_one(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forge: Forge) -> None:
    """Started by torchrun itself, or forked with the variables that torchrun sets, which is quick."""
    monkeypatch.setattr(architectures, "HIDDEN", small.HIDDEN)
    alone = run(settings(), small.place(tmp_path / "alone", network=True))
    if how == "torchrun":
        done = under_torchrun(tmp_path / "both")
    else:
        done = forge.run("tests.distributed:laboratory", str(tmp_path / "both"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads((tmp_path / "both" / f"row{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    assert rows[0] == rows[1]
    assert (alone["processes"], rows[0]["processes"]) == (1, 2)
    assert rows[0]["certified"]

    one, both = (network(tmp_path / name).state_dict() for name in ("alone", "both"))
    for name, value in one.items():
        torch.testing.assert_close(both[name], value, rtol=1e-3, atol=1e-4)
    for mine, theirs in zip(alone["curve"], rows[0]["curve"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-2)
    assert rows[0]["curve"][-1]["running_loss"] == pytest.approx(alone["curve"][-1]["running_loss"], rel=1e-4)
    shards = [json.loads((tmp_path / "both" / f"shards{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    assert shards[0] == shards[1]
    check_in_shards(shards[0], tmp_path)
    # Negative control: one epoch less is another network.
    assert alone["curve"][-1]["running_loss"] != pytest.approx(alone["curve"][-2]["running_loss"], rel=1e-2)
