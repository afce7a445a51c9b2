"""The commands of docs/cluster.md: with two processes of this machine, and a SLURM of two lines."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from convexnet.lab.cli.app import app
from convexnet.lab.runs.jobs import Job
from convexnet.lab.studies import report_imagenet
from tests.processes import HANGING, Forge

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
STARTED = "-m convexnet.lab.cli "


def block(*has: str) -> str:
    """The one block that has all of this."""
    (found,) = (one for one in BLOCKS if all(word in one for word in has))
    return found


def words(text: str) -> list[str]:
    """What the laboratory's command is given in a block."""
    return shlex.split(text.replace("\\\n", " ").partition(STARTED)[2])


@pytest.mark.slow  # test_parallel.py has two processes in every run of the tests
def test_two_processes(tmp_path: Path, forge: Forge) -> None:
    """The first command, in the surroundings that torchrun makes; and again, upon which there is nothing to do."""
    given = words(block("runs/two"))
    (tmp_path / "words.json").write_text(json.dumps(given), encoding="utf-8")
    for said in ("Certified convex", "nothing to do"):
        done = forge.run("tests.distributed:laboratory", str(tmp_path), "command", folder=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count(said) == 1, "one process prints"
    record = json.loads((tmp_path / "runs" / "two" / "record.jsonl").read_text(encoding="utf-8"))
    assert (record["processes"], record["epochs"], record["certified"]) == (2, 2, True)


def test_every_command_names_options_that_there_are() -> None:
    """Those of the larger machines, which are not run here."""
    from typer.main import get_command

    command = get_command(app)
    known = dict(command.commands)  # type: ignore[attr-defined]
    seen = 0
    for text in BLOCKS:
        line = text.replace("\\\n", " ")
        given = words(text) if STARTED in text else shlex.split(line.partition("convexnet ")[2])
        sub = known[given[0]] if given[0] == "train" else known["study"].commands["run"]
        options = {option for parameter in sub.params for option in (*parameter.opts, *parameter.secondary_opts)}
        missing = {word for word in given if word.startswith("--")} - options
        assert not missing, f"there is no {missing}"
        seen += 1
    assert seen == len(BLOCKS) == 5


def test_the_command_for_imagenet_is_a_run_of_the_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from convexnet.lab.cli import show_runs

    made: list[Job] = []
    monkeypatch.setattr(show_runs, "train_one", lambda job, place: made.append(job))
    given = words(block("--nproc-per-node 8", "--workers 8"))
    given = [word for word in given if word not in ("--precision", "bf16-mixed")]  # a setting of its own
    app(given, standalone_mode=False)
    asked = [job for job in report_imagenet.plan("full", range(1)) if job.model == "ioc-densenet-121"]
    assert made[0].key == asked[0].key
    assert made[0].full


@pytest.mark.slow
def test_the_script_for_slurm(tmp_path: Path) -> None:
    """As it is, with a cluster of one node whose two GPUs are this processor, and small data."""
    script = block("#SBATCH").replace("--accelerator cuda", "--accelerator cpu")
    script = script.replace("--dataset imagenet --data-dir DATA --model densenet-121", "--dataset digits --model mlp")
    script = script.replace("SHARED/densenet", "run --epochs 1 --train-samples 100").replace(":29500", ":0")
    (tmp_path / "job.sh").write_text(script, encoding="utf-8")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name, text in (("srun", 'exec "$@"'), ("scontrol", "echo 127.0.0.1")):
        (bin_ / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (bin_ / name).chmod(0o755)
    path = os.pathsep.join([str(bin_), str(Path(sys.executable).parent), os.environ["PATH"]])
    surroundings = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "SLURM_JOB_NODELIST": "node0",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_JOB_ID": "1",
    }
    done = subprocess.run(
        ["bash", "job.sh"],
        cwd=tmp_path,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=HANGING,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "run" / "record.jsonl").read_text(encoding="utf-8"))
    assert (record["processes"], record["certified"]) == (2, True)
