"""The mirror: the same code gives the same dump, and what differs is named by kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import mirror


def test_the_same_code_gives_the_same_dump(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    for path in (first, second):
        assert mirror.main(["write", str(path), "--parts", "fuzz,modules", "--seeds", "3"]) == 0
    rows = [json.loads(line) for line in first.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 9
    assert {row["curvature"] for row in rows if row["key"].startswith("convex")} <= {"affine", "convex", "constant"}
    capsys.readouterr()
    assert mirror.main(["compare", str(first), str(second)]) == 0
    assert capsys.readouterr().out == "0 of 9 programs differ\n"


def test_differences_are_named_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {"curvature": "unknown", "digest": "a", "reason": "x", "value": [1.0, 2.0], "lower_bound": [0.5, 1.0]}
    after = {
        "same": before | {"value": [1.0 + 1e-9, 2.0]},
        "proved": before | {"curvature": "convex"},
        "redrawn": before | {"digest": "b", "curvature": "affine"},
        "lower": before | {"lower_bound": [0.4, 0.9]},
        "reworded": before | {"reason": "y"},
        "new": before,
    }
    for name, rows in (("before", {key: before for key in after if key != "new"}), ("after", after)):
        lines = [json.dumps({"part": "fuzz", "key": key} | row) for key, row in rows.items()]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert mirror.main(["compare", str(tmp_path / "before"), str(tmp_path / "after")]) == 1
    said = capsys.readouterr().out
    for words in (
        "curvature: unknown -> convex", "the program itself is another", "lower_bound fell", "reason is another",
        "only in the second dump", "5 of 6 programs differ",
    ):  # fmt: skip
        assert words in said
    assert "value" not in said
