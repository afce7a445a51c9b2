"""The study of control and its commands: killed and resumed to the same bits, reported, played; faults in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import convexnet as cx
from convexnet.lab.cli.app import app
from convexnet.lab.reports.control import bootstrap, quartile_mean
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import COMMON
from convexnet.lab.runs.sweep import sweep
from convexnet.lab.studies import control
from tests.lab import small
from tests.lab.killing import killed_and_resumed


def job_of(model: str, budget: bool = False) -> Job:
    """The job of the smoke plan."""
    jobs = [job for job in control.plan("smoke", [0]) if job.model == model and bool(job.variant) == budget]
    return jobs[0]


def test_a_run_that_was_killed_has_the_same_curve_and_policy(tmp_path: Path) -> None:
    job = job_of("icnn-q")
    found = killed_and_resumed(control.run, job, tmp_path, counter="step", varying=("shares",))
    assert set(found) >= COMMON
    assert (found["certified"], found["full"], found["environment"]) == (True, False, "Pendulum-v1")
    assert found["actions_outside"] == 0
    assert set(found["simulators"]) >= {"gymnasium", "mujoco"}


def test_a_fault_ends_a_job_and_no_sweep(tmp_path: Path) -> None:
    good, bad = job_of("naf"), replace(job_of("naf"), dataset="Pendulum-v9")
    outcome = sweep(control.STUDY, [bad, good], small.place(tmp_path / "runs"), tmp_path / "results")
    assert [job.dataset for job, _ in outcome.failed] == ["Pendulum-v9"]
    assert "no environment 'Pendulum-v9'" in outcome.failed[0][1]
    assert [row["model"] for row in outcome.rows] == ["naf"]


def made_up(**changes: Any) -> dict[str, Any]:
    """A record."""
    given = {"model": "icnn-q", "dataset": "Pendulum-v1", "recipe": {"budget": 0.0}, "return": -150.0, "seed": 0}
    given |= {"best_on_the_way": -140.0, "certified": True, "proved_actions": 1.0, "actions_outside": 0.0}
    given |= {"steps": 100, "full": False, "simulators": {"gymnasium": "1"}, "task": "control"}
    curve = [{"step": 50.0, "return": -900.0}, {"step": 100.0, "return": -150.0}]
    return {**given, "curve": curve, **changes}


def test_the_report_keeps_limits_methods_and_lengths_apart() -> None:
    rows = [made_up(), made_up(seed=1, **{"return": -170.0}), made_up(model="td3", proved_actions=0.0)]
    rows += [made_up(recipe={"budget": 1.0}), made_up(steps=200, full=True)]
    (section,) = control.sections(rows)
    lines = {(line[0], line[1], line[-2]): line for line in section.tables[0].rows}
    assert len(lines) == 4
    two = lines["Pendulum-v1", "Q convex in the action (ours)", "100, shortened"]
    assert two[2] == "−160.0 [−170.0, −150.0]"
    assert lines["Pendulum-v1", "Q convex in the action (ours)", "200"][2] == "−150.0"
    assert ("Pendulum-v1, Σ|a| ≤ 1", "Q convex in the action (ours)", "100, shortened") in lines
    assert [panel.picture.title for panel in section.panels] == ["Pendulum-v1", "Pendulum-v1, Σ|a| ≤ 1"]
    assert control.sections([])[0].text.endswith("Not run.")


def test_quartile_mean_equals_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = torch.randn(11, generator=torch.Generator().manual_seed(0)).tolist()
    assert quartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))
    low, high = bootstrap(values) or (0.0, 0.0)
    assert low < quartile_mean(values) < high


LEARN = ["--steps", "24", "--warmup", "12", "--every", "12", "--episodes", "1", "--batch", "8", "--hidden", "8,8"]


def test_the_commands(tmp_path: Path) -> None:
    run = CliRunner().invoke
    out = tmp_path / "runs"
    command = ["rl", "--env", "InvertedPendulum-v5", "--method", "naf", *LEARN, "--seeds", "2", "--out", str(out)]
    first = run(app, command)
    assert first.exit_code == 0, first.output
    again = run(app, command)
    assert again.exit_code == 0, again.output
    rows = [json.loads((out / seed / "record.jsonl").read_text()) for seed in "01"]
    assert [row["environment"] for row in rows] == ["InvertedPendulum-v5"] * 2
    other = run(app, [*command, "--noise", "0.4"])
    assert other.exit_code == 2
    assert "other settings" in other.stderr
    played = run(app, ["rl", "play", str(out / "0" / "network.safetensors"), "--episodes", "1", "--length", "5"])
    assert played.exit_code == 0, played.output
    assert "episode 0: return" in played.output
    proof = run(app, ["certify", str(out / "0" / "network.safetensors"), "--wrt", "1"])
    assert proof.exit_code == 0, proof.output
    page = run(app, ["report", str(out), "-o", str(tmp_path / "report.html")])
    assert page.exit_code == 0, page.output
    assert "control" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--env", "CartPole-v1"], "needs a Box"),
        ([], "which environment?"),
        (["--env", "Pendulum-v1", "--hidden", "big"], "list of widths"),
        (["--env", "Pendulum-v1", "--copies", "7"], "multiple of the 7 copies"),
        (["--env", "Pendulum-v1", "--budget", "-1"], "must be a positive number"),
        (["--env", "Pendulum-v1", "--budget", "0"], "must be a positive number"),
        (["--env", "Pendulum-v1", "--bound", "nan"], "must be a positive number"),
        (["--env", "Pendulum-v1", "--steps", "500"], "nothing is learnt in 500"),
    ],
)
def test_wrong_usage_is_a_sentence(given: list[str], words: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["rl", *given, *(["--out", str(tmp_path / "runs")] if given else [])])
    assert found.exit_code == 2, found.output
    assert words in found.stderr


def test_play_refuses_what_is_no_policy(tmp_path: Path) -> None:
    cx.save(torch.nn.Linear(2, 1), tmp_path / "linear.safetensors")
    found = CliRunner().invoke(app, ["rl", "play", str(tmp_path / "linear.safetensors")])
    assert found.exit_code == 2
    assert "holds a Linear, not the policy" in found.stderr


def test_a_moving_picture(tmp_path: Path) -> None:
    policy = tmp_path / "policy.safetensors"
    place = small.place(tmp_path / "run", network=True)
    control.run(job_of("naf"), place, lambda job, point: None)
    (tmp_path / "run" / "network.safetensors").rename(policy)
    gif = tmp_path / "play.gif"
    found = CliRunner().invoke(app, ["rl", "play", str(policy), "--episodes", "1", "--length", "4", "--gif", str(gif)])
    assert found.exit_code == 0, found.output
    assert gif.read_bytes()[:3] == b"GIF"


@pytest.mark.slow
@pytest.mark.parametrize("model", control.PEERS)
def test_baselines_learn_and_are_moved_into_the_polyhedron(model: str, tmp_path: Path) -> None:
    pytest.importorskip(
        "stable_baselines3", reason="the baselines need stable-baselines3: pip install convexnet[peers]"
    )
    limited = job_of("icnn-q", budget=True)
    job = replace(limited, model=model)
    row = control.run(job, small.place(tmp_path), lambda job, point: None)
    assert (row["certified"], row["steps"]) == (False, 60)
    assert 0 < row["actions_outside"] <= 1
    assert "stable-baselines3" in row["simulators"]
