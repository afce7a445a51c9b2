"""What is kept in the cache folder gives the same bits, and may be missing, damaged or full."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from convexnet.lab.data import cache, load
from convexnet.lab.data import folder as folders
from convexnet.lab.data.folder import fingerprint
from convexnet.lab.runs import normalising
from tests.lab import small


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_whitening_is_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = small.job(normalise="zca")
    data = load("digits", seed=0)
    fresh = normalising.step_for(data, job).state_dict()
    assert not place.exists(), "what is quick is computed"
    monkeypatch.setattr(normalising, "LARGE", 10)
    first = normalising.step_for(data, job).state_dict()
    (file,) = place.iterdir()
    monkeypatch.setattr(normalising, "normaliser", lambda *_: pytest.fail("it is computed again"))
    again = normalising.step_for(data, job).state_dict()
    for name, value in fresh.items():
        assert torch.equal(value, first[name])
        assert torch.equal(value, again[name])
    monkeypatch.undo()
    monkeypatch.setenv(cache.VARIABLE, str(place))
    monkeypatch.setattr(normalising, "LARGE", 10)
    for other in (replace(job, seed=1), small.job(normalise="zca", epsilon=0.2), replace(job, validation=0.2)):
        normalising.step_for(load("digits", seed=other.seed, validation=other.validation), other)
    assert len(list(place.iterdir())) == 4, "what decides it is in its name"
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(normalising.step_for(data, job).state_dict()["matrix"], fresh["matrix"])


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "below"))
    assert isinstance(cache.kept_module("a", nn.Identity), nn.Identity)
    assert cache.kept_text("a", lambda: "text") == "text"


def test_it_does_not_grow_without_end(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST", 6000)
    for number in range(4):
        cache.kept_module(f"m{number}", lambda: nn.Linear(32, 16))
        os.utime(place / f"m{number}.safetensors", (number, number))
    names = sorted(path.name for path in place.iterdir())
    assert names[-1] == "m3.safetensors"
    assert len(names) < 4
    assert "m0.safetensors" not in names


def test_a_fingerprint_is_kept_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.lab.data.test_files import draw_folders

    root = tmp_path / "set"
    draw_folders(root, ("cat", "dog"), 3)
    plain = fingerprint(root)
    monkeypatch.setattr(folders, "LONG", 1)
    assert fingerprint(root) == plain
    assert not (tmp_path / "cache").exists(), "the files have just been written"
    monkeypatch.setattr(folders, "SETTLED", 0)
    assert fingerprint(root) == plain
    with monkeypatch.context() as patch:
        patch.setattr(folders, "sha256", lambda file: pytest.fail("it is read again"))
        assert fingerprint(root) == plain
    file = root / "cat" / "0.png"
    state = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    time.sleep(0.02)
    file.write_bytes(bytes(content))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))  # of the same size, and said to be as old
    assert fingerprint(root) != plain
