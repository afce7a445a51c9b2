"""The committed records: each can be read, belongs to a study, and the committed tables are made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from convexnet.lab.reports import pictures
from convexnet.lab.reports.report import write_report
from convexnet.lab.runs.records import read_records
from convexnet.lab.studies import STUDIES
from convexnet.lab.training.recipes import RECIPES

RESULTS = Path(__file__).resolve().parents[3] / "results"
FILES = sorted(RESULTS.glob("*.jsonl"))
NAMES = {study.name for study in STUDIES}
"""Records of other makers in that folder are theirs to test."""


@pytest.mark.parametrize("file", [file for file in FILES if file.stem in NAMES], ids=lambda file: file.stem)
def test_records(file: Path) -> None:
    rows = read_records(file)
    assert rows
    assert len({row["key"] for row in rows}) == len(rows)
    known = {row["key"] for study in STUDIES for row in study.rows(rows)}
    for row in rows:
        assert row["key"] in known, f"{row['study']}, {row['model']}: no study asks for this run any more"
        assert row["commit"], "a result names the commit that made it"
        assert not row["commit"].endswith("+changes"), "made by sources that are in no commit"
        short = row["recipe"]["epochs"] < max((how.epochs for how in RECIPES.get(row["recipe"]["name"], ())), default=0)
        assert not (row["full"] and short)
        if row["model"] == "mlp" or row["recipe"]["convex"]["free_gamma"]:
            assert not row["certified"]


@pytest.mark.skipif(not (RESULTS / "report.md").exists(), reason="no tables are committed")
def test_the_committed_tables_are_those_of_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_render", lambda *_: "data:,")  # the pictures are not compared
    write_report(
        [RESULTS / f"{name}.jsonl" for name in sorted(NAMES) if (RESULTS / f"{name}.jsonl").exists()],
        tmp_path / "report.html",
        STUDIES,
    )
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == (RESULTS / "report.md").read_text(encoding="utf-8")
