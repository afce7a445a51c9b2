"""Two processes that share every batch train the network that one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import convexnet as cx
from convexnet.lab.models import architectures
from convexnet.lab.runs.run import run
from tests.lab import small
from tests.lab.runs.parallel import settings
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

    one, both = (
        cx.load(tmp_path / name / "network.safetensors", allow=("convexnet.lab.models.first_step",)).state_dict()
        for name in ("alone", "both")
    )
    for name, value in one.items():
        torch.testing.assert_close(both[name], value, rtol=1e-3, atol=1e-4)
    for mine, theirs in zip(alone["curve"], rows[0]["curve"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-2)
    assert rows[0]["curve"][-1]["running_loss"] == pytest.approx(alone["curve"][-1]["running_loss"], rel=1e-4)
    # Negative control: one epoch less is another network.
    assert alone["curve"][-1]["running_loss"] != pytest.approx(alone["curve"][-2]["running_loss"], rel=1e-2)
