"""The examples run, in small, and what they show is so."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_three_solvers_agree_on_the_cooling_of_a_building(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "plan.png"
    example("building_cooling").main(hours=5, epochs=30, out=picture)
    printed = capsys.readouterr().out
    values = [
        float(line.split(":")[1].split()[0])
        for line in printed.splitlines()
        if line.startswith(("minimise", "CVXPY", "HiGHS"))
    ]
    assert len(values) == 3
    assert max(values) - min(values) <= 2e-4 * max(values)
    assert picture.stat().st_size > 5_000
    assert "y(0)" in picture.with_suffix(".lp").read_text()


def test_a_planned_cart_is_proved_best_at_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    planned, regulated = example("control_loop").main(steps=12, horizon=8, epochs=60, out=None)
    assert "every plan proved best: True" in capsys.readouterr().out
    assert planned < regulated


def test_a_learnt_regulariser_takes_noise_off_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "denoised.png"
    before, after = example("denoising_faces").main(data=None, steps=8, out=picture, filters=4, shown=2)
    printed = capsys.readouterr().out
    assert "CONVEX: Regulariser is convex in its input, for all parameters" in printed
    assert printed.count("all 2 converged (fista)") == 2
    assert after > before + 0.3
    assert picture.stat().st_size > 5_000
