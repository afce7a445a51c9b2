"""Sweeps and trains at once, one of them killed: every job once, and the records of a single sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import Forge


@pytest.mark.parametrize("count", [2, *(pytest.param(count, marks=pytest.mark.slow) for count in (4, 8))])
def test_side_by_side(count: int, tmp_path: Path, seed: int, forge: Forge) -> None:
    done = forge.run("tests.lab.runs.side_by_side:main", str(tmp_path), str(count), str(seed), folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_side_by_side_again_and_again(tmp_path: Path, seed: int, forge: Forge) -> None:
    for attempt in range(1, 9):
        (tmp_path / str(attempt)).mkdir()
        words = (str(tmp_path / str(attempt)), "4", str(seed + attempt))
        done = forge.run("tests.lab.runs.side_by_side:main", *words, folder=tmp_path)
        assert done.returncode == 0, f"seed {seed + attempt}: {done.stdout}{done.stderr}"
