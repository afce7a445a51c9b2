"""Stopped at random moments, every kind of learner ends with the same record."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.training.random_kills import KINDS
from tests.processes import Forge

OFTEN = ("classifier", "streamed")
"""One learner in memory and one that streams; all of them, more often, in the slow test below."""


@pytest.mark.parametrize("kind", OFTEN)
def test_stopped_at_random(kind: str, tmp_path: Path, seed: int, forge: Forge) -> None:
    stop(kind, tmp_path, seed, 2, forge)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_stopped_at_random_again_and_again(kind: str, tmp_path: Path, seed: int, forge: Forge) -> None:
    stop(kind, tmp_path, seed + 1, 30, forge)


def stop(kind: str, folder: Path, seed: int, count: int, forge: Forge) -> None:
    done = forge.run("tests.lab.training.random_kills:main", str(folder), kind, str(seed), str(count), folder=folder)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == count
