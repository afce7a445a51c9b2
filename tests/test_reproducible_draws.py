"""What the tests draw is the same on every run: alone or with others, before and after an edit elsewhere."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def drawn() -> list[tuple[int, float, str]]:
    found: list[tuple[int, float, str]] = []

    @settings(max_examples=200)
    @given(st.integers(), st.floats(), st.text(max_size=8))
    def collect(number: int, real: float, text: str) -> None:
        found.append((number, real, text))

    collect()
    return found


def test_hypothesis_draws_the_same_whatever_else_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis likes the constants of modules that happen to be imported: conftest.py takes them away."""
    first = drawn()
    source = tmp_path / "full_of_constants.py"
    source.write_text("\n".join(f"A{i} = {i + 1}99887\nB{i} = {i}.125\nC{i} = 'met{i}'" for i in range(200)))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module(source.stem)
    try:
        assert repr(drawn()) == repr(first)
    finally:
        del sys.modules[source.stem]
